"""The page: reads the store and enters requests in the queue; needs no GPU library.

One program serves it in Spanish at `/` and in English at `/en`, each with the same tabs. The address says what is
shown: `?tab=` and what each tab adds. It is a stranger's text, and a tab that is not there is the first one.

Annotations are evaluated here, not postponed: Gradio reads them inside the function that makes the page, to give
handlers the request.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eco_eval.duels import Duels
from eco_eval.errors import InputError
from eco_eval.grading import Grading
from eco_eval.reception import Reception
from eco_eval.settings import Settings
from eco_eval.store import Store, board_store
from eco_eval.ui import api
from eco_eval.ui.pages import audit, board, compare, duel, judge, method, model, reproduce, submit
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    import gradio as gr
    from starlette.routing import BaseRoute

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = Path(__file__).with_name("site.css")
SCRIPT = Path(__file__).parent / "pages" / "frame.js"

ENGLISH = "en"
"""Where the page is in English, below the root; in Spanish it is the root itself."""


def build_site(settings: Settings, reception: Reception | None = None) -> "gr.Blocks":
    """The whole page in both languages as Gradio blocks, not yet served."""
    import gradio as gr

    store, reception = board_store(settings), reception or Reception(settings)
    grading = Grading(store, reception.settings)
    duels = Duels(store, grading)
    spanish, english = Texts("es"), Texts("en")
    with gr.Blocks(title=spanish("page.title"), analytics_enabled=False, fill_width=False) as site:
        _lay_out(site, store, reception, grading, duels, spanish)
    # Gradio looks for these again at the end of each route, and would load the first one's fields on the second.
    for block in site.blocks.values():
        if isinstance(block, gr.components.Component):
            block.load_event_to_attach = None
    with site.route(english("page.title"), ENGLISH, show_in_navbar=False):
        _lay_out(site, store, reception, grading, duels, english)
        # Programs have each endpoint once, under its own name.
        for handler in site.fns.values():
            if handler.page == ENGLISH:
                handler.api_visibility = "private"
    return site


def heading(t: Texts) -> str:
    """Title, what the page is, and the switch of language, as HTML."""
    links = "".join(
        f"<span aria-current='true'>{name}</span>"
        if lang == t.lang
        else f"<a class='eco-lang' href='{path}' hreflang='{lang}' lang='{lang}' target='_self'>{name}</a>"
        for lang, name, path in (("es", "Español", "./"), ("en", "English", f"./{ENGLISH}"))
    )
    return (
        f"<div class='eco eco-top'><div><h1>{escape(t('page.title'))}</h1><p>{escape(t('page.intro'))}</p></div>"
        f"<nav aria-label='{escape(t('page.language'))}'>{links}</nav></div>"
    )


def chosen_tab(query: Mapping[str, str], tabs: Sequence[str]) -> str:
    """The tab an address asks for; the first where it asks for none that is there."""
    asked = query.get("tab", "")
    return asked if asked in tabs else tabs[0]


def _lay_out(site: "gr.Blocks", store: Store, reception: Reception, grading: Grading, duels: Duels, t: Texts) -> None:
    """One language's heading, tabs and foot."""
    import gradio as gr

    pages: dict[str, Callable[[], Any]] = {
        "board": partial(board.build_page, site, store, t),
        "model": partial(model.build_page, site, store, t),
        "compare": partial(compare.build_page, site, store, t, built=reception.settings.prompts_dir),
        "duel": partial(duel.build_page, site, duels, t),
        "submit": partial(submit.build_page, site, reception, t),
        "audit": partial(audit.build_page, site, grading, t),
        "judge": partial(judge.build_page, site, store, t),
        "method": partial(method.build_page, site, store, t),
        "reproduce": partial(reproduce.build_page, site, store, t),
    }
    names = list(pages)
    gr.HTML(heading(t))
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    tabs, built = {}, {}
    # On a phone every tab is to be seen, none behind three dots.
    with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as bar:
        for name, build_page in pages.items():
            with gr.Tab(t(f"page.tab.{name}"), id=name, elem_id=f"tab-{name}") as tabs[name]:
                built[name] = build_page()
    gr.HTML(f"<p class='eco-note'>{escape(t('page.attribution'))}</p>")

    def select(request: gr.Request) -> Any:
        # Where none is asked for, whoever was quick to choose one keeps it.
        asked = "tab" in request.query_params
        return gr.Tabs(selected=chosen_tab(request.query_params, names)) if asked else gr.skip()

    site.load(None, js=f"() => {{ document.title = {dumps(t('page.title'))}; }}")
    site.load(select, None, bar, **quiet)
    # What refreshes the list of requests works while that is looked at.
    for name, tab in tabs.items():
        tab.select(partial(gr.Timer, active=name == "submit"), None, built["submit"], **quiet)


def launch(settings: Settings, *, port: int = 7860, wait: bool = True) -> "tuple[gr.Blocks, str]":
    """Serve the page with its HTTP API beside it; see `serve`."""
    reception, t = Reception(settings), Texts(settings.lang)
    routes = api.routes(reception, board_store(settings), t)
    head = f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>"
    return serve(lambda: build_site(settings, reception), port=port, wait=wait, head=head, routes=routes)


def serve(
    build: "Callable[[], gr.Blocks]",
    *,
    port: int,
    wait: bool,
    head: str | None = None,
    routes: "Sequence[BaseRoute]" = (),
) -> "tuple[gr.Blocks, str]":
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
            css=CSS.read_text(encoding="utf-8"),
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


def palette(shade: Literal["light", "dark"]) -> dict[str, str]:
    """The colours of `site.css` by name, as `#rrggbb`: what the theme and drawn figures take them from."""
    selector = {"light": ":root", "dark": ".dark"}[shade]
    css = CSS.read_text(encoding="utf-8")
    block = re.search(rf"^{re.escape(selector)} \{{(.*?)^\}}", css, re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"--eco-([\w-]+): (#[0-9a-f]{6});", block[1])) if block else {}


def _theme() -> Any:
    import gradio as gr

    shades = {"": palette("light"), "_dark": palette("dark")}
    values = {f"{name}{end}": colours[colour] for end, colours in shades.items() for name, colour in _DRESS.items()}
    base = gr.themes.Base(primary_hue="emerald", neutral_hue="stone", font=list(FONTS), font_mono=list(MONO))
    # Fields and buttons have a line around them: a ground alone tells too little where they are.
    return base.set(**values, input_border_width="1px", button_border_width="1px")


_DRESS = {
    "body_background_fill": "paper",
    "body_text_color": "ink",
    "body_text_color_subdued": "muted",
    "background_fill_primary": "paper",
    "background_fill_secondary": "code",
    "border_color_primary": "line",
    "border_color_accent": "accent",
    "color_accent_soft": "code",
    "link_text_color": "accent",
    "link_text_color_hover": "accent",
    "link_text_color_active": "accent",
    "link_text_color_visited": "accent",
    "block_background_fill": "paper",
    "block_border_color": "line",
    "block_label_background_fill": "paper",
    "block_label_text_color": "muted",
    "block_title_text_color": "muted",
    "block_info_text_color": "muted",
    "panel_background_fill": "paper",
    "panel_border_color": "line",
    "input_background_fill": "card",
    "input_border_color": "rule",
    "input_border_color_focus": "accent",
    "input_border_color_hover": "accent",
    "input_placeholder_color": "muted",
    "checkbox_background_color": "card",
    "checkbox_background_color_selected": "accent",
    "checkbox_border_color": "rule",
    "checkbox_border_color_selected": "accent",
    "checkbox_label_background_fill": "card",
    "checkbox_label_background_fill_hover": "code",
    "checkbox_label_background_fill_selected": "code",
    "checkbox_label_text_color": "ink",
    "checkbox_label_text_color_selected": "ink",
    "button_primary_background_fill": "accent",
    "button_primary_background_fill_hover": "accent",
    "button_primary_border_color": "accent",
    "button_primary_text_color": "on-accent",
    "button_primary_text_color_hover": "on-accent",
    "button_secondary_background_fill": "card",
    "button_secondary_background_fill_hover": "code",
    "button_secondary_border_color": "rule",
    "button_secondary_text_color": "ink",
    "button_secondary_text_color_hover": "ink",
    "table_border_color": "line",
    "table_even_background_fill": "paper",
    "table_odd_background_fill": "paper",
    "table_text_color": "ink",
}
"""Gradio's names for what is drawn, and the colour of ours that each has."""
