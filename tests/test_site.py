"""The frame of the page: two languages, tabs that the address names, colours that everybody can read."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from conftest import visit
from test_page import serve

from eco_eval.settings import LANGS, Settings
from eco_eval.ui.site import CSS, build_site, chosen_tab, heading, palette
from eco_eval.ui.texts import Texts

Shade = Literal["light", "dark"]
SHADES: tuple[Shade, ...] = ("light", "dark")
PATHS = {"es": "", "en": "en"}
TABS = ["board", "model", "compare", "duel", "submit", "audit", "judge", "method", "reproduce"]

TEXT_ON = {
    "paper": ("ink", "muted", "accent"),
    "card": ("ink", "muted", "accent"),
    "code": ("ink", "muted"),
    "accent": ("on-accent",),
    **{f"{name}-ground": (f"{name}-ink",) for name in ("good", "regular", "bad", "none", "info", "warn")},
}
"""Which text stands on which ground."""

MARKS = ("good", "regular", "bad", "anchor", "rule", "focus", "warn-rule")
"""What is drawn, and must be told from the page and from a card."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of an empty store."""
    site, url = serve(tmp_path_factory.mktemp("site") / "data")
    yield url
    site.close()


# --- colours


def channels(colour: str) -> tuple[float, float, float]:
    """Linear light of red, green and blue, 0 to 1 (sRGB, IEC 61966-2-1)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return red, green, blue


def contrast(first: str, second: str) -> float:
    """WCAG 2.2's ratio of relative luminances, 1 to 21."""
    light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in map(channels, (first, second)))
    return (light[1] + 0.05) / (light[0] + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("shade", SHADES)
def test_every_text_can_be_read_on_its_ground(shade: Shade) -> None:
    colours = palette(shade)
    for ground, texts in TEXT_ON.items():
        for text in texts:
            assert contrast(colours[text], colours[ground]) >= 4.5, f"{text} on {ground}"
    for mark in MARKS:
        for ground in ("paper", "card"):
            assert contrast(colours[mark], colours[ground]) >= 3, f"{mark} on {ground}"


@pytest.mark.parametrize("shade", SHADES)
def test_a_rule_that_names_ground_and_text_can_be_read(shade: Shade) -> None:
    colours = palette(shade)
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", CSS.read_text(encoding="utf-8"))
    pairs = 0
    for selector, body in rules:
        ground = re.search(r"background(?:-color)?: var\(--eco-([\w-]+)\)", body)
        text = re.search(r"(?<![\w-])color: var\(--eco-([\w-]+)\)", body)
        # A bar's ground and colour are two parts of a drawing, and no text.
        if ground and text and "progress" not in selector:
            pairs += 1
            assert contrast(colours[text[1]], colours[ground[1]]) >= 4.5, selector.strip()
    assert pairs >= 10


def test_colours_are_named_once_in_both_shades() -> None:
    light, dark = palette("light"), palette("dark")
    assert list(light) == list(dark)
    assert len(light) > 20
    css = CSS.read_text(encoding="utf-8")
    assert set(re.findall(r"var\(--eco-([\w-]+)", css)) <= set(light)
    rest = re.sub(r"^(:root|\.dark) \{.*?^\}", "", css, flags=re.MULTILINE | re.DOTALL)
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", rest):
        if ".eco-heat-" not in selector:
            assert re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\((?!255, 255, 255)", body) == [], selector.strip()


def test_a_scale_of_colours_of_its_own_can_be_read() -> None:
    """The heat map's scale is the same in both shades and says its text's colour with each ground."""
    steps = re.findall(r"\.eco-heat-\d+ \{ background: (#\w{6}); color: (#\w{6})", CSS.read_text(encoding="utf-8"))
    for ground, text in steps:
        assert contrast(text, ground) >= 4.5, ground


DEUTAN = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
PROTAN = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
"""Machado, Oliveira and Fernandes 2009, severity 1."""


def lab(light: tuple[float, ...]) -> tuple[float, float, float]:
    """CIELAB of linear sRGB, white D65."""
    r, g, b = (min(1.0, max(0.0, c)) for c in light)
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("shade", SHADES)
@pytest.mark.parametrize("seen", [DEUTAN, PROTAN], ids=["deutan", "protan"])
def test_grades_differ_for_the_colour_blind(shade: Shade, seen: tuple[tuple[float, ...], ...]) -> None:
    colours = palette(shade)
    said = {
        grade: lab(tuple(sum(m * c for m, c in zip(row, channels(colours[grade]), strict=True)) for row in seen))
        for grade in ("good", "regular", "bad")
    }
    for one, other in combinations(said, 2):
        apart = sum((a - b) ** 2 for a, b in zip(said[one], said[other], strict=True)) ** 0.5
        assert apart > 20, f"{one} and {other}: {apart:.0f}"


# --- two languages


def test_programs_have_each_endpoint_once(tmp_path: Path) -> None:
    site = build_site(Settings(data_dir=tmp_path))
    names = set(site.get_api_info()["named_endpoints"])
    assert {"/board", "/result", "/submit", "/queue", "/request"} <= names
    assert not [name for name in names if re.search(r"_\d+$", name)]


def test_no_handler_of_either_language_is_a_server_error(tmp_path: Path) -> None:
    site, url = serve(tmp_path / "data")
    strange = itertools.cycle([None, "<script>", ["a", None], 2**40, "../../x", True, "\u202e" * 300])
    handlers = dict(site.fns)
    for number, handler in handlers.items():
        body = {"data": [next(strange) for _ in handler.inputs], "fn_index": number, "session_hash": "s"}
        asked = httpx.post(f"{url}gradio_api/run/predict?tab=%3C&result=..&a=%00&q=%F0", json=body, timeout=60)
        # What only runs in the browser is not there for others.
        assert asked.status_code == (200 if handler.fn is not None else 404), (handler.page, handler.api_name, body)
    assert {handler.page for handler in handlers.values()} == {"", "en"}
    site.close()


@pytest.mark.parametrize("lang", LANGS)
def test_the_switch_leads_to_the_other_language(lang: Literal["es", "en"]) -> None:
    other, path = ("en", "./en") if lang == "es" else ("es", "./")
    links = re.findall(r"<a [^>]*>", heading(Texts(lang)))
    assert len(links) == 1
    assert f"href='{path}'" in links[0]
    assert f"lang='{other}'" in links[0]


def test_a_tab_that_is_not_there_is_the_first_one() -> None:
    assert chosen_tab({"tab": "judge"}, TABS) == "judge"
    for query in ({}, {"tab": ""}, {"tab": "<script>"}, {"tab": "x" * 10_000}, {"other": "judge"}):
        assert chosen_tab(query, TABS) == "board"


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("tab_name", TABS)
def test_the_address_names_the_tab_in_both_languages(browser: Any, page: str, lang: str, tab_name: str) -> None:
    t = Texts("es" if lang == "es" else "en")
    label = t(f"page.tab.{tab_name}")
    with visit(browser, f"{page}{PATHS[lang]}?tab={tab_name}", t("page.tab.board")) as tab:
        tab.wait_for_selector(f"#tabs [role=tab][aria-selected=true] >> text={label}")
        assert tab.locator("#tabs > .tab-wrapper [role=tab]").all_inner_texts() == [t(f"page.tab.{n}") for n in TABS]
        assert tab.evaluate("document.documentElement.lang") == lang
        tab.wait_for_function("wanted => document.title === wanted", arg=t("page.title"))
        assert not tab.locator(".nav-holder").is_visible()


@pytest.mark.parametrize("query", ["?tab=nada", "?tab=%3Cscript%3E", "?tab=&x=" + "y" * 2000])
def test_an_address_that_names_no_tab_shows_the_first(browser: Any, page: str, query: str) -> None:
    with visit(browser, page + query, "Todavía no hay resultados") as tab:
        assert tab.locator("#tabs [role=tab][aria-selected=true]").first.inner_text() == "Clasificación"


def test_a_chosen_tab_goes_into_the_address_and_to_the_other_language(browser: Any, page: str) -> None:
    with visit(browser, f"{page}?q=r%C3%ADo&tab=model#p1", "Clasificación") as tab:
        tab.wait_for_selector("#tabs [role=tab][aria-selected=true] >> text=Modelo")
        assert tab.url.endswith("#p1"), "drawing the tabs is no choice"
        tab.get_by_role("tab", name="Metodología").click()
        assert tab.url == f"{page}?q=r%C3%ADo&tab=method"
        # Gradio writes to the console when it is left in the middle of an answer.
        tab.wait_for_timeout(1500)
        tab.get_by_role("link", name="English").click()
        tab.wait_for_selector("#tabs [role=tab][aria-selected=true] >> text=Method")
        assert tab.url == f"{page}en?q=r%C3%ADo&tab=method"
        tab.wait_for_timeout(1500)
        tab.get_by_role("link", name="Español").click()
        tab.wait_for_selector("#tabs [role=tab][aria-selected=true] >> text=Metodología")
        assert tab.url == f"{page}?q=r%C3%ADo&tab=method"
        tab.wait_for_timeout(1500)


@pytest.mark.parametrize("lang", LANGS)
def test_the_queue_is_looked_at_again_only_while_it_is_shown(browser: Any, page: str, lang: str) -> None:
    asked: list[str] = []
    t = Texts("es" if lang == "es" else "en")
    with visit(browser, f"{page}{PATHS[lang]}?tab=submit", t("submit.queue")) as tab:
        tab.wait_for_timeout(1500)
        tab.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
        tab.wait_for_timeout(6000)
        assert asked
        tab.get_by_role("tab", name=t("page.tab.method")).click()
        tab.wait_for_timeout(1000)
        asked.clear()
        tab.wait_for_timeout(6000)
        assert asked == []


# --- the dress


@pytest.mark.parametrize("shade", SHADES)
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_dressed_in_its_own_colours(browser: Any, page: str, shade: Shade, width: int) -> None:
    context = browser.new_context(color_scheme=shade, viewport={"width": width, "height": 800})
    tab = context.new_page()
    tab.goto(f"{page}?tab=submit")
    tab.wait_for_selector("#submit-send")
    drawn = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('.eco p')).color,"
        " getComputedStyle(document.querySelector('#submit-send')).backgroundColor]"
    )
    colours = palette(shade)
    assert drawn == [rgb(colours[name]) for name in ("paper", "ink", "accent")]
    assert tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 1
    for label in tab.locator("#tabs > .tab-wrapper [role=tab]").all():
        assert label.is_visible(), "a tab is hidden on a narrow screen"
    context.close()


def rgb(colour: str) -> str:
    return "rgb({}, {}, {})".format(*(int(colour[i : i + 2], 16) for i in (1, 3, 5)))


def test_whoever_uses_the_keyboard_sees_where_they_are(browser: Any, page: str) -> None:
    with visit(browser, page, "Clasificación") as tab:
        tab.keyboard.press("Tab")
        tab.wait_for_timeout(500)
        outline = tab.evaluate("getComputedStyle(document.activeElement).outline")
        assert tab.evaluate("document.activeElement.textContent").strip() == "English"
        assert rgb(palette("light")["focus"]) in outline
        assert "3px" in outline


def test_nothing_moves_for_who_asked_for_stillness(browser: Any, page: str) -> None:
    context = browser.new_context(reduced_motion="reduce")
    tab = context.new_page()
    tab.goto(page)
    tab.wait_for_selector("#tabs [role=tab]")
    tab.wait_for_timeout(1500)
    slowest = tab.evaluate(
        "Math.max(...[...document.querySelectorAll('*')].map(e => Math.max("
        "...getComputedStyle(e).transitionDuration.split(',').map(parseFloat),"
        "...getComputedStyle(e).animationDuration.split(',').map(parseFloat))))"
    )
    assert slowest <= 0.001
    context.close()
