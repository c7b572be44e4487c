"""Two results side by side: numbers that are those of `compare`, answers that make them, and messages for the rest."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import visit
from test_compare import scored
from test_page import HOSTILE

from eco_eval.compare import compare
from eco_eval.instrument import Instrument, load_instrument
from eco_eval.results import details
from eco_eval.store import LocalStore
from eco_eval.types import Result
from eco_eval.ui.answers import PAGE
from eco_eval.ui.pages.compare import Choice, as_json, choice_of, difference, side_by_side
from eco_eval.ui.side_by_side import difference_svg, pairs, summary
from eco_eval.ui.texts import Texts
from eco_eval.ui.versus import asked, in_other_languages

ES, EN = Texts("es"), Texts("en")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("versus") / "data")


@pytest.fixture(scope="module")
def both(demo: Instrument, store: LocalStore) -> tuple[Result, Result]:
    short = demo.limited(30)
    return scored(short, store, "vecina/uno", "ggr"), scored(short, store, f"malo/{HOSTILE}", "grb")


@pytest.fixture(scope="module")
def choice(both: tuple[Result, Result]) -> Choice:
    return choice_of(both[0].id, both[1].id)


def ids(html: str) -> list[str]:
    return re.findall(r"<span class='id'>([^<]*)</span>", html)


@pytest.mark.parametrize("t", [ES, EN])
def test_what_is_shown_is_what_was_reckoned(
    store: LocalStore, both: tuple[Result, Result], choice: Choice, t: Texts
) -> None:
    found = compare(store, *both, asked(both[0], None))
    html = difference(store, choice, None, t)
    estimate = found.difference.estimate
    for number in (estimate.value, estimate.low, estimate.high):
        assert t.number(abs(number)) in html
    assert found.difference.detectable is not None
    assert t.number(found.difference.detectable) in html
    assert html.count("<svg") == 1 + len(found.by_code) + len(found.by_kind)
    for part in (*found.by_code.values(), *found.by_kind.values()):
        assert f"+{t.number(part.difference.estimate.value)}" in html
    assert "<script" not in html
    assert "<img" not in html


def test_turned_round_every_sign_is_the_other(store: LocalStore, both: tuple[Result, Result], choice: Choice) -> None:
    here = difference(store, choice, None, ES)
    there = difference(store, choice_of(choice.b, choice.a), None, ES)
    value = ES.number(compare(store, *both, {}).difference.estimate.value)
    assert f"<b>+{value}</b>" in here
    assert f"<b>−{value}</b>" in there


def test_a_drawing_has_its_numbers_as_words(store: LocalStore, both: tuple[Result, Result]) -> None:
    estimate = compare(store, *both, {}).difference.estimate
    svg = difference_svg(estimate, 100.0, EN)
    assert (
        f"aria-label='+{EN.number(estimate.value)} (+{EN.number(estimate.low)} to +{EN.number(estimate.high)})'" in svg
    )
    at = float(re.findall(r"cx='([\d.]+)'", svg)[0])
    assert at == pytest.approx(90 + 82 * estimate.value / 100, abs=0.06)
    flat = estimate.model_copy(update={"value": 0.0, "low": -3.0, "high": 3.0})
    assert "cx='90.0'" in difference_svg(flat, 5.0, EN)
    assert "aria-label='0.0 (−3.0 to +3.0)'" in difference_svg(flat, 5.0, EN)


def test_the_greatest_difference_is_first(store: LocalStore, both: tuple[Result, Result], choice: Choice) -> None:
    found = pairs(details(store, both[0]), details(store, both[1]))
    gaps = [abs(pair.gap) for pair in found if pair.gap is not None]
    assert len(gaps) == 30
    assert gaps == sorted(gaps, reverse=True)
    assert (gaps[0], gaps[-1]) == (50, 0)
    shown = side_by_side(store, choice, ES)
    assert shown.total == 30
    assert ids(shown.answers) == [pair.a.answer.prompt_id for pair in found][:PAGE]
    assert shown.answers.count("<section>") == 2 * PAGE
    assert shown.answers.count("Mejor vecina/uno, por 50 puntos") == PAGE
    rest = side_by_side(store, choice, ES, place=PAGE)
    assert ids(rest.answers) == [pair.a.answer.prompt_id for pair in found][PAGE:]


def test_only_different_leaves_the_same_verdicts_out(store: LocalStore, choice: Choice) -> None:
    everything, only = side_by_side(store, choice, ES), side_by_side(store, choice._replace(only=True), ES)
    assert (everything.total, only.total) == (30, 20)
    assert "Mismo veredicto" not in only.answers
    assert "Mismo veredicto" in side_by_side(store, choice, ES, place=PAGE).answers


def test_search_is_of_the_prompts(store: LocalStore, both: tuple[Result, Result], choice: Choice) -> None:
    prompt = details(store, both[0])[7].answer
    assert ids(side_by_side(store, choice._replace(find=prompt.prompt_id), ES).answers) == [prompt.prompt_id]
    assert side_by_side(store, choice._replace(find="vecina/uno"), ES).total == 0


def test_answers_and_names_of_strangers_stay_text(store: LocalStore, choice: Choice) -> None:
    html = side_by_side(store, choice, ES).answers
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "<img" not in html


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ("", "", "Elige dos resultados"),
        ("f" * 16, "", "Elige dos resultados"),
        ("f" * 16, "e" * 16, "No hay ningún resultado"),
        ("../../x", HOSTILE, "No hay ningún resultado"),
    ],
)
def test_what_cannot_be_compared_is_said(store: LocalStore, both: Any, a: str, b: str, says: str) -> None:
    choice = choice_of(a, b)
    html = difference(store, choice, None, ES)
    assert says in html
    assert "<script" not in html
    assert side_by_side(store, choice, ES).answers == ""


def test_a_result_is_not_compared_with_itself(store: LocalStore, choice: Choice) -> None:
    same = choice._replace(b=choice.a)
    assert "son el mismo resultado" in difference(store, same, None, ES)
    assert side_by_side(store, same, ES).answers == ""
    assert as_json(store, same, None, EN)["error"] == "compare.same_result"


def test_results_that_share_nothing_say_why(demo: Instrument, store: LocalStore, choice: Choice) -> None:
    short = demo.limited(12)
    foreign = short.asking(tuple(p.model_copy(update={"id": f"x{p.id}"}) for p in short.asked), "otras")
    other = scored(foreign, store, "ajena/otra", "grb")
    html = difference(store, choice._replace(b=other.id), None, ES)
    assert "no tienen veredictos sobre las mismas peticiones" in html
    assert side_by_side(store, choice._replace(b=other.id), ES).answers == ""


def test_other_prompts_under_the_same_ids_are_warned_of(demo: Instrument, store: LocalStore, choice: Choice) -> None:
    short = demo.limited(20)
    english = short.asking(tuple(p.model_copy(update={"text": f"{p.text} In English?"}) for p in short.asked), "en")
    other = scored(english, store, "ajena/inglesa", "bgr")
    html = difference(store, choice._replace(b=other.id), None, ES)
    assert "no se les preguntó lo mismo" in html
    assert "In English?" in side_by_side(store, choice._replace(b=other.id), ES).answers


def test_both_languages_of_two_models_stand_side_by_side(demo: Instrument, store: LocalStore) -> None:
    english = demo.asking(load_instrument("eco-en-v1").asked, "en")
    spanish = [scored(demo, store, name, grades) for name, grades in (("dos/lenguas", "g"), ("dos/otras", "grb"))]
    twins = [scored(english, store, name, grades) for name, grades in (("dos/lenguas", "r"), ("dos/otras", "grb"))]
    named = [
        t.model_copy(update={"submission": t.submission.model_copy(update={"instrument": "eco-en-v1"})}) for t in twins
    ]
    prompts = asked(spanish[0], None)
    found = compare(store, *spanish, prompts, in_other_languages([(named[0], named[1])], prompts, None))
    assert [one.lang for one in found.languages] == ["es", "en"]
    html = summary(found, *spanish, ES)
    assert "Por lengua" in html
    assert "Cambio de una lengua a otra" in html


def test_two_results_of_one_model_have_names_that_tell_them_apart(
    demo: Instrument, store: LocalStore, both: tuple[Result, Result]
) -> None:
    again = scored(demo.limited(29), store, "vecina/uno", "grb")
    assert both[0].id[:8] != again.id[:8]
    html = difference(store, choice_of(both[0].id, again.id), None, ES)
    assert f"vecina/uno ({both[0].id[:8]}) frente a vecina/uno ({again.id[:8]})" in html


def test_whatever_is_sent_is_a_choice() -> None:
    for value in (None, 7, ["x"], {"a": 1}, True, 1.5):
        assert choice_of(value, value, value, value)._replace(only=False) == Choice()
    assert len(choice_of("x" * 10_000).a) <= 200
    assert choice_of(only="1").only
    assert not choice_of(only="yes").only


# --- in a browser


@pytest.fixture(scope="module")
def site(store: LocalStore, both: Any) -> Iterator[str]:
    """The page in its frame's dress."""
    from eco_eval.settings import Settings
    from eco_eval.ui.site import launch

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running, url = launch(Settings(data_dir=Path(store.root)), port=port, wait=False)
    yield url
    running.close()


def first_name(tab: Any) -> str:
    return str(tab.locator(".eco-sides h3 >> visible=true").first.inner_text())


@pytest.mark.parametrize(
    ("path", "swap", "width"), [("", "Intercambiar", 1280), ("", "Intercambiar", 390), ("en", "Swap", 390)]
)
def test_a_person_compares_swaps_and_shares(
    browser: Any, site: str, choice: Choice, path: str, swap: str, width: int
) -> None:
    with visit(browser, f"{site}{path}?tab=compare&a={choice.a}&b={choice.b}", "vecina/uno", width) as tab:
        tab.wait_for_selector(".eco-forest >> visible=true")
        assert first_name(tab) == "vecina/uno"
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1, "the page scrolls sideways"
        tab.get_by_role("button", name=swap).click()
        tab.wait_for_function(f"location.search.includes('a={choice.b}')")
        tab.wait_for_function("document.querySelector('.eco-sides h3').innerText.includes('malo/')")
        tab.get_by_role("checkbox").last.check()
        tab.wait_for_function("location.search.includes('only=1')")
        address = tab.url
        assert tab.title() != "tomada"
    with visit(browser, address, "vecina/uno", width) as tab:
        tab.wait_for_selector(".eco-sides >> visible=true")
        assert first_name(tab).startswith("malo/")
        assert tab.get_by_role("checkbox").last.is_checked()


def test_two_models_are_compared_through_the_api(site: str, store: LocalStore, both: tuple[Result, Result]) -> None:
    from gradio_client import Client

    client = Client(site, verbose=False)
    found = client.predict(both[0].id, both[1].id, api_name="/compare")
    expected = compare(store, *both, asked(both[0], None))
    assert found["results"] == [both[0].id, both[1].id]
    assert found["difference"]["estimate"]["value"] == pytest.approx(expected.difference.estimate.value)
    assert client.predict("", HOSTILE, api_name="/compare")["error"] == "result.unknown"
