"""A person chooses between two answers, by keyboard, in a browser; names come after."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import visit
from serving import press
from test_audit_page import Page, serving
from test_duels import ANA, HOSTILE, LUZ, filled, play

from eco_eval.duels import Duels, Rate, read_votes
from eco_eval.grading import Grading
from eco_eval.settings import LANGS, Lang, Settings
from eco_eval.store import LocalStore
from eco_eval.ui.pages.duel import Ring, rates_html, render
from eco_eval.ui.texts import Texts
from eco_eval.ui.visitor import Visitor


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return filled(tmp_path_factory.mktemp("page"))


@pytest.fixture
def settings(made: Settings, tmp_path: Path) -> Settings:
    shutil.copytree(made.data_dir, tmp_path / "data")
    return made.model_copy(update={"data_dir": tmp_path / "data"})


@pytest.fixture
def duels(settings: Settings) -> Duels:
    store = LocalStore(settings.data_dir)
    return Duels(store, Grading(store, settings))


@pytest.fixture
def page(settings: Settings) -> Iterator[Page]:
    with serving(settings.model_copy(update={"environ": {}})) as running:
        yield running


@pytest.mark.parametrize("lang", LANGS)
def test_names_and_the_judges_choice_come_after_and_hostile_texts_stay_text(duels: Duels, lang: Lang) -> None:
    t, seen = Texts(lang), set[str]()
    for _ in range(12):
        duel = duels.show(ANA, "")
        duel = duels.next(ANA, "", duel.token) if duel.choice else duel
        before = render(duel, t)
        assert "vecina/" not in before
        assert "malo/" not in before
        assert "duel-outcome" not in before
        assert all(digest not in before for digest in (*duel.vote.models, *duel.vote.results, *duel.vote.answers))
        after = render(duels.choose(ANA, "", duel.token, "right"), t)
        assert "duel-outcome" in after
        assert all(name.partition("/")[0] in after for name in duel.names)
        assert "<script" not in before + after
        assert "<img" not in before + after
        seen.update(duel.names)
    assert any(HOSTILE in name for name in seen)


def test_what_is_wanting_for_a_rate_is_said(duels: Duels) -> None:
    play(duels, ANA, 5)
    html = rates_html(duels.rates(), duels.waiting, Texts("es"))
    assert "de 30 votos" in html
    assert "<b>" not in html
    for user in (ANA, LUZ, "hub:sol"):
        play(duels, user, 30)
    html = rates_html(duels.rates(), 0, Texts("en"))
    assert html.count(" to ") >= 6
    assert "<script" not in html
    assert "Nobody has voted yet" in rates_html([], 0, Texts("en"))
    odd = Rate(model=HOSTILE, digest="d", votes=1, prompts=1, voters=1, people=None, judge=None)
    assert "<script" not in rates_html([odd], 3, Texts("es"))


def test_who_plays_is_told_what_is_published(duels: Duels, settings: Settings) -> None:
    for t, word in ((Texts("es"), "no cuentan"), (Texts("en"), "do not count")):
        assert word in Ring(duels, t).you(Visitor(None, "s"), settings)
        assert duels.name(ANA) in Ring(duels, t).you(Visitor(ANA, "s"), settings)


def test_too_few_models_is_said_on_the_page(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    store = LocalStore(tmp_path)
    screen = Ring(Duels(store, Grading(store, settings)), Texts("es")).look(Visitor(None, "s"))
    assert "eco-eval evaluate" in screen.shown
    assert not screen.open
    assert "Todavía no ha votado nadie" in screen.rates


@pytest.mark.parametrize("ticket", [None, 3, "x", ["a"], "x" * 100_000])
def test_a_vote_on_what_is_not_shown_is_none(page: Page, ticket: object) -> None:
    shown = press(page.url.rstrip("/"), "duel-left", ticket)
    assert "duel-outcome" not in shown[0]
    assert read_votes(LocalStore(page.settings.data_dir)) == []


def test_nobody_votes_in_anothers_name(page: Page) -> None:
    url = page.url.rstrip("/")
    away = {"Sec-Fetch-Site": "cross-site"}
    ticket = press(url, "duel-next", "", **away)[1]
    assert "duel-outcome" in press(url, "duel-left", ticket, **away)[0]
    assert read_votes(LocalStore(page.settings.data_dir)) == []
    ticket = press(url, "duel-next", "")[1]
    assert "duel-outcome" in press(url, "duel-left", ticket)[0]
    assert len(read_votes(LocalStore(page.settings.data_dir))) == 1


@pytest.mark.parametrize(("width", "path"), [(1280, ""), (390, "en")])
def test_a_person_plays_by_keyboard_alone(browser: Any, page: Page, width: int, path: str) -> None:
    t = Texts("en" if path else "es")
    with visit(browser, f"{page.url}{path}", t("page.audit.keys"), width) as tab:
        tab.get_by_role("tab", name=t("page.tab.duel")).click()
        chosen = []
        for key in ("ArrowLeft", "ArrowRight", "ArrowDown"):
            tab.wait_for_selector("#duel-buttons >> visible=true")
            assert tab.locator("#duel-outcome").count() == 0
            assert "vecina/" not in tab.inner_text("#duel-shown")
            tab.keyboard.press("Shift+ArrowLeft")
            tab.keyboard.press(key)
            tab.wait_for_selector("#duel-outcome")
            assert t("page.duel.counted") in tab.inner_text("#duel-outcome")
            chosen.append(tab.locator("#duel-shown .eco-chosen").count())
            if key == "ArrowLeft":
                boxes = [tab.locator(f"#duel-shown .eco-duel article >> nth={n}").bounding_box() for n in (0, 1)]
                picked = tab.locator("#duel-shown .eco-chosen").bounding_box()
                assert picked == boxes[0]
                assert (boxes[0]["y"] == boxes[1]["y"]) == (width > 640)
            wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 1, "the page scrolls sideways"
            tab.wait_for_selector("#duel-next >> visible=true")
            tab.keyboard.press("Enter")
            tab.wait_for_selector("#duel-outcome", state="detached")
        assert chosen == [1, 1, 0]
        assert tab.title() != "tomada"
    votes = read_votes(LocalStore(page.settings.data_dir))
    assert len(votes) == 3
    assert votes[-1].choice == "tie"
    assert "tie" not in {one.choice for one in votes[:2]}
