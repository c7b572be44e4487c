"""The page: reads the store and enters requests in the queue; needs no GPU library."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eco_eval.errors import InputError
from eco_eval.reception import Reception
from eco_eval.settings import Settings
from eco_eval.store import board_store
from eco_eval.ui import api
from eco_eval.ui.pages import board, model, submit
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    import gradio as gr
    from starlette.routing import BaseRoute

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def build_site(settings: Settings, reception: Reception | None = None) -> gr.Blocks:
    """The whole page as Gradio blocks, not yet served."""
    import gradio as gr

    t = Texts(settings.lang)
    store = board_store(settings)
    with gr.Blocks(title=t("page.title"), analytics_enabled=False, fill_width=False) as site:
        gr.HTML(board.heading(t))
        with gr.Tabs():
            with gr.Tab(t("page.board")) as first:
                board.build_page(site, store, t)
            with gr.Tab(t("page.model")) as second:
                model.build_page(site, store, t)
            with gr.Tab(t("page.submit")) as third:
                timer = submit.build_page(site, reception or Reception(settings), t)
        gr.HTML(f"<p class='eco-note'>{board.escape(t('page.attribution'))}</p>")
        for tab in (first, second, third):
            active = tab is third
            tab.select(partial(gr.Timer, active=active), None, timer, queue=False, api_visibility="private")
    return site


def launch(settings: Settings, *, port: int = 7860, wait: bool = True) -> tuple[gr.Blocks, str]:
    """Serve the page with its HTTP API beside it; see `serve`."""
    reception, t = Reception(settings), Texts(settings.lang)
    routes = api.routes(reception, board_store(settings), t)
    return serve(lambda: build_site(settings, reception), port=port, wait=wait, routes=routes)


def serve(
    build: Callable[[], gr.Blocks],
    *,
    port: int,
    wait: bool,
    head: str | None = None,
    routes: Sequence[BaseRoute] = (),
) -> tuple[gr.Blocks, str]:
    """Serve blocks in this project's dress; returns them and the local URL, at once when `wait` is false.

    Args:
        head: HTML for the head of the page.
        routes: what else is served, before the page's own routes.

    Raises:
        InputError: the port is taken.
    """
    # Read by gradio and huggingface_hub when they are imported: no analytics, no version check, no telemetry.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from starlette.middleware import Middleware

    from eco_eval.ui.guard import Guard

    blocks = build()
    try:
        _, url, _ = blocks.launch(
            server_port=port,
            prevent_thread_lock=not wait,
            css=Path(__file__).with_name("site.css").read_text(encoding="utf-8"),
            head=head,
            theme=_theme(),
            footer_links=[],
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            app_kwargs={"routes": list(routes), "middleware": [Middleware(Guard, blocks=blocks)], "openapi_url": None},
        )
    except OSError as error:
        raise InputError("app.port_busy", port=port) from error
    return blocks, url


def _theme() -> Any:
    import gradio as gr

    return gr.themes.Base(primary_hue="emerald", neutral_hue="stone", font=list(FONTS), font_mono=list(MONO))
