"""The page: reads the store, needs no network and no GPU library."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eco_eval.errors import InputError
from eco_eval.settings import Settings
from eco_eval.store import LocalStore
from eco_eval.ui.pages import board, model
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    import gradio as gr

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def build_site(settings: Settings) -> gr.Blocks:
    """The whole page as Gradio blocks, not yet served."""
    import gradio as gr

    t = Texts(settings.lang)
    store = LocalStore(settings.data_dir)
    with gr.Blocks(title=t("page.title"), analytics_enabled=False, fill_width=False) as site:
        gr.HTML(board.heading(t))
        with gr.Tabs():
            with gr.Tab(t("page.board")):
                board.build_page(site, store, t)
            with gr.Tab(t("page.model")):
                model.build_page(site, store, t)
        gr.HTML(f"<p class='eco-note'>{board.escape(t('page.attribution'))}</p>")
    return site


def launch(settings: Settings, *, port: int = 7860, wait: bool = True) -> tuple[gr.Blocks, str]:
    """Serve the page; see `serve`."""
    return serve(lambda: build_site(settings), port=port, wait=wait)


def serve(build: Callable[[], gr.Blocks], *, port: int, wait: bool, head: str | None = None) -> tuple[gr.Blocks, str]:
    """Serve blocks in this project's dress; returns them and the local URL, at once when `wait` is false.

    Args:
        head: HTML for the head of the page.

    Raises:
        InputError: the port is taken.
    """
    # Read by gradio and huggingface_hub when they are imported: no analytics, no version check, no telemetry.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
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
        )
    except OSError as error:
        raise InputError("app.port_busy", port=port) from error
    return blocks, url


def _theme() -> Any:
    import gradio as gr

    return gr.themes.Base(primary_hue="emerald", neutral_hue="stone", font=list(FONTS), font_mono=list(MONO))
