"""Who asks. The server's own word for it: no field, query or header names a person.

On a Space it is whoever is signed in with Hugging Face, by the session that Gradio's sign-in keeps in a cookie it
signs. Elsewhere it is the person this process runs as, and nobody but who sits at the same machine: outside Spaces
Gradio would give every visitor the machine's own Hugging Face account, so no sign-in is offered there.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Mapping

LOOPBACK = ("127.0.0.1", "::1")

_LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")
_PROXY = re.compile(r"forwarded|x-forwarded-.*|x-real-ip|via|cf-.*|true-client-ip|x-client-ip")
_HUB_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_OAUTH = ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL")


def is_hosted(environ: Mapping[str, str]) -> bool:
    """Whether this is a Space, where the visitor is never who the process runs as."""
    return bool(environ.get("SPACE_ID")) or environ.get("SYSTEM") == "spaces"


def can_sign_in(environ: Mapping[str, str]) -> bool:
    """Whether sign-in is real: where Gradio sees no Space it would be play-acted with this machine's token."""
    is_space = environ.get("SYSTEM") == "spaces" and bool(environ.get("SPACE_ID"))
    return is_space and all(environ.get(name) for name in _OAUTH)


def identify(
    headers: Mapping[str, str], client: str | None, username: str | None, environ: Mapping[str, str]
) -> str | None:
    """Who asks: `hub:<name>` on a Space, `local:<name>` elsewhere, None for nobody who may ask.

    Args:
        headers: of the HTTP request, names in lower case. They can only take a name away.
        client: address of the other end of the connection.
        username: who is signed in, by the session the server signed.
        environ: this process's environment.
    """
    # A browser says when another site's page asks in its visitor's name; a page cannot change what it says.
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return None
    if is_hosted(environ):
        return f"hub:{username}" if username and _HUB_USER.fullmatch(username) else None
    # Another name for this machine is how a page from elsewhere would reach it (DNS rebinding).
    is_near = client in LOOPBACK and _LOCAL_HOST.fullmatch(headers.get("host", "")) is not None
    return operator() if is_near and not any(_PROXY.fullmatch(name) for name in headers) else None


def operator() -> str:
    """The person this process runs as, `local:<name>`, as the command line says it."""
    try:
        return f"local:{getpass.getuser()}"
    # In a container the user may have no name.
    except (KeyError, OSError):
        return f"local:{os.getuid()}"
