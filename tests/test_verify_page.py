"""A person verifies triples in a browser, by keyboard, at desktop and phone width."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import visit

from eco_eval.instrument import DATA
from eco_eval.triples import load
from eco_eval.triples.verify import apply_decisions, read_decisions
from eco_eval.ui.texts import Texts

TRIPLES = load(DATA / "prompts" / "eco-es-v1.jsonl").triples[:4]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    from eco_eval.ui.pages.verify import launch

    log = tmp_path / "decisions.jsonl"
    hostile = TRIPLES[3].model_copy(update={"worst": "<img src=x onerror=\"document.title='tomada'\"> mala"})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    site, url = launch((*TRIPLES[:3], hostile), log, Texts("es"), port=port, wait=False)
    yield url, log
    site.close()


def status(tab: Any, text: str) -> None:
    tab.wait_for_function("text => document.querySelector('#verify-status')?.innerText.includes(text)", arg=text)


def say_who(tab: Any, name: str) -> None:
    tab.get_by_label("Tu nombre").fill(name)
    tab.keyboard.press("Enter")
    tab.wait_for_timeout(300)
    tab.keyboard.press("Escape")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_person_decides_by_keyboard_alone(browser: Any, page: tuple[str, Path], width: int) -> None:
    url, log = page
    with visit(browser, url, "Verificar tríos", width) as tab:
        status(tab, "Trío 1 de 4")
        say_who(tab, "Ana")
        tab.keyboard.press("Enter")
        status(tab, "Trío 2 de 4 · decididos por ti: 1")
        tab.keyboard.type("213")
        tab.keyboard.press("Enter")
        status(tab, "Trío 3 de 4 · decididos por ti: 2")
        tab.keyboard.press("x")
        tab.keyboard.type("No se entiende.")
        tab.keyboard.press("Enter")
        status(tab, "Trío 4 de 4 · decididos por ti: 3")
        tab.keyboard.press("ArrowLeft")
        status(tab, "Trío 3 de 4 · decididos por ti: 3 · lo rechazaste")
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1, "the page scrolls sideways"
    decisions = read_decisions(log)
    assert [decision.action for decision in decisions] == ["confirm", "reorder", "reject"]
    assert {decision.by for decision in decisions} == {"Ana"}
    kept, problems = apply_decisions(TRIPLES, decisions)
    assert [triple.verified_by for triple in kept] == [("Ana",), ("Ana",), ()]
    assert (kept[1].best, kept[1].ambivalent) == (TRIPLES[1].ambivalent, TRIPLES[1].best)
    assert [problem.cause for problem in problems] == ["rejected"]


def test_an_edit_is_kept_and_comes_back(browser: Any, page: tuple[str, Path]) -> None:
    url, log = page
    with visit(browser, url, "Verificar tríos") as tab:
        status(tab, "Trío 1 de 4")
        say_who(tab, "Luis")
        tab.keyboard.press("e")
        tab.locator("#verify-best textarea").fill("Otra respuesta, mejor escrita.")
        tab.get_by_role("button", name="Guardar (Intro)").click()
        status(tab, "Trío 2 de 4")
        tab.get_by_role("button", name="Anterior").click()
        status(tab, "Trío 1 de 4 · decididos por ti: 1 · lo confirmaste")
        tab.wait_for_function(
            "document.querySelector('#verify-best textarea').value === 'Otra respuesta, mejor escrita.'"
        )
    (decision,) = read_decisions(log)
    assert decision.edits == {"best": "Otra respuesta, mejor escrita."}


def test_without_a_name_nothing_is_kept(browser: Any, page: tuple[str, Path]) -> None:
    url, log = page
    with visit(browser, url, "Verificar tríos") as tab:
        status(tab, "Trío 1 de 4")
        tab.get_by_role("button", name="Guardar (Intro)").click()
        tab.wait_for_selector("[role=alert] >> text=Escribe tu nombre")
    assert not log.exists()


def test_hostile_texts_stay_text(browser: Any, page: tuple[str, Path]) -> None:
    url, _ = page
    with visit(browser, url, "Verificar tríos") as tab:
        status(tab, "Trío 1 de 4")
        tab.keyboard.press("ArrowLeft")
        status(tab, "Trío 4 de 4")
        tab.wait_for_selector("article.eco-card >> text=onerror")
        assert tab.title() == "Verificar tríos"
