"""Who is at the page, told to a handler.

Annotations are evaluated here, not postponed: Gradio reads them inside the function that makes a handler, to give it
the request and whoever is signed in.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from eco_eval.ui.identity import identify


class Visitor(NamedTuple):
    """Who asks, None for nobody who may; and the browser tab, which is whatever the tab says it is."""

    user: str | None
    session: str


def told(handle: Callable[..., Any], environ: Mapping[str, str]) -> Callable[..., Any]:
    """A Gradio handler that gives `handle` the visitor before the values.

    Args:
        environ: this process's environment.
    """
    import gradio as gr

    def handler(request: gr.Request, profile: gr.OAuthProfile | None, *values: Any) -> Any:
        headers = {key.lower(): value for key, value in request.headers.items()}
        client = request.client.host if request.client else None
        user = identify(headers, client, profile.username if profile else None, environ)
        return handle(Visitor(user, str(request.session_hash or "")[:100]), *values)

    return handler
