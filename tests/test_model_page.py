"""The page of one result: its card, its filters, its answers and the links to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import visit
from test_page import HOSTILE, serve

from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.errors import InputError
from eco_eval.instrument import DATA, load_instrument
from eco_eval.people import Filled, Subject, draw, keep_grades, keep_sample
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.results import details, withdraw_result, write_result
from eco_eval.store import HubStore, LocalStore
from eco_eval.types import Conversation, Declared, Energy, Failure, Grade, ModelRef, Result, Weights
from eco_eval.ui.answer_filter import GRADES, KINDS, filter_of
from eco_eval.ui.answers import LONG, PAGE, folded, link, range_of, word
from eco_eval.ui.model_card import commands, duration, failures, figures, moment
from eco_eval.ui.pages.model import LISTED, find, page, render
from eco_eval.ui.texts import Texts

ES, EN = Texts("es"), Texts("en")
COUNT = 30
SAID = {
    0: "",
    1: Failure(cause="too_long", detail="9 tokens <b>más</b>"),
    2: "largo " * 5000,
    3: HOSTILE + " ${document.title='tomada'}",
}
SECOND = '[[panel]]\nmodel = "owner/second"\nsource = "hub"\nrevision = "{}"\nstand_in = false\n'.format("b" * 40)


def engine(answer: Any = None, label: Any = None) -> Any:
    @contextmanager
    def opened() -> Iterator[Engine]:
        yield ScriptedEngine(answer=answer, label=label)

    return opened


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("model") / "data")


@pytest.fixture(scope="module")
def result(store: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A result of two judges who differ on one prompt in three, with an answer of every sad sort."""
    text = (DATA / "instruments" / "eco-es-demo.toml").read_text(encoding="utf-8")
    before, score, after = text.replace("max_ungraded = 0.02", "max_ungraded = 0.2").partition("[score]")
    file = tmp_path_factory.mktemp("panel") / "panel.toml"
    file.write_text(f"{before}{SECOND}\n{score}{after}", encoding="utf-8")
    loaded = load_instrument(str(file))
    asked = (*loaded.asked[: COUNT - 3], *loaded.asked[-3:])
    short = loaded.asking(asked, "some").with_gold(asked, "some")
    measure = short.with_judges_at([("1" * 40, False), ("b" * 40, False)])
    order = {prompt.text: number for number, prompt in enumerate(measure.asked)}

    def said(conversation: Conversation) -> str | Failure:
        number = order[conversation[-1].content]
        return SAID.get(number, f"Respuesta número {number}: conviene hablar con quienes viven río abajo.")

    def grading(shift: int) -> Any:
        def label(conversation: Conversation, labels: Any) -> list[float] | Failure:
            read = "\n".join(message.content for message in conversation)
            found = re.search(r"Respuesta número (\d+)", read)
            number = int(found[1]) if found else 0
            if shift and number == 4:
                return Failure(cause="unreadable")
            grade = (number + (shift if number % 3 == 0 else 0)) % 3
            return [8.0 if k == grade else 1.0 for k in range(3)]

        return label

    engines = Engines(engine(said), engine(label=grading(0)), (engine(label=grading(1)),))
    model = ModelRef(name=f"malo/{HOSTILE}", source="hub", revision="a" * 40)
    found = evaluate(submit(model, measure), measure, engines, store)
    made = found.provenance.model_copy(
        update={
            "seconds": {"answer": 75.0, "judge": 12.34, "other <b>stage": 1.0},
            "energy": {"answer": Energy(kwh=0.0123, measured=False, grams=3.5)},
        }
    )
    weights = Weights(
        kind="chat", architecture=HOSTILE, parameters=494_000_000, bytes=988_000_000, dtype="bfloat16", licence=HOSTILE
    )
    declared = Declared(base_models=("Qwen/Qwen2.5-0.5B",), datasets=(HOSTILE[:200],))
    whole = found.model_copy(update={"provenance": made, "weights": weights, "declared": declared})
    write_result(whole, store)
    return whole


def ids(html: str) -> list[str]:
    return re.findall(r"<article class='eco-card' id='([^']*)'", html)


def test_a_page_holds_some_answers_and_says_of_how_many(store: LocalStore, result: Result) -> None:
    first = page(store, result.id, filter_of(), ES)
    second = page(store, result.id, filter_of(), ES, place=PAGE)
    asked = [reading.answer.prompt_id for reading in details(store, result)]
    assert ids(first.answers) + ids(second.answers) == asked
    assert (first.place, second.place, first.total) == (0, PAGE, COUNT)
    assert f"Respuestas 1 a {PAGE} de {COUNT}." in first.answers
    assert f"Respuestas {PAGE + 1} a {COUNT} de {COUNT}." in second.answers
    assert page(store, result.id, filter_of(), ES, place=10**9).place == PAGE
    assert page(store, result.id, filter_of(), ES, place=-5).place == 0


def test_a_link_to_an_answer_opens_the_page_that_has_it(store: LocalStore, result: Result) -> None:
    last = details(store, result)[-1].answer.prompt_id
    assert last not in ids(page(store, result.id, filter_of(), ES).answers)
    shown = page(store, result.id, filter_of(), ES, prompt_id=last)
    assert last in ids(shown.answers)
    assert f"?tab=model&amp;result={result.id}#{last}" in shown.answers
    assert page(store, result.id, filter_of(), ES, prompt_id="no-existe").place == 0
    assert link("a&b", "x y#<") == "?tab=model&result=a%26b#x%20y%23%3C"


@pytest.mark.parametrize("kind", KINDS)
def test_each_filter_shows_what_it_says_and_nothing_else(store: LocalStore, result: Result, kind: str) -> None:
    readings = details(store, result)
    wanted = {
        "all": lambda n, r: True,
        "disagree": lambda n, r: len({v.grade for v in r.verdicts if v.status == "graded"}) > 1,
        "truncated": lambda n, r: r.answer.truncated,
        "failed": lambda n, r: n in (0, 1, 4),
        "control": lambda n, r: result.groups[n] < 0,
    }[kind]
    expected = [r.answer.prompt_id for n, r in enumerate(readings) if wanted(n, r)]
    assert expected, "the store has no such answer"
    shown = page(store, result.id, filter_of("all", kind), ES)
    assert ids(shown.answers) == expected[:PAGE]
    assert shown.total == len(expected)


@pytest.mark.parametrize("grade", GRADES[1:])
def test_a_grade_is_that_of_any_judge(store: LocalStore, result: Result, grade: str) -> None:
    said = [[v.grade.value if v.status == "graded" else "ungraded" for v in r.verdicts] for r in details(store, result)]
    assert page(store, result.id, filter_of(grade), ES).total == sum(grade in one for one in said) > 0


def test_search_is_of_prompts_without_case_or_accents(store: LocalStore, result: Result) -> None:
    prompt = next(r.answer for r in details(store, result) if re.search("[áéíóú]", r.answer.prompt))
    accented = next(one for one in prompt.prompt.split() if re.search("[áéíóú]", one))
    bare = accented.upper().translate(str.maketrans("ÁÉÍÓÚ", "AEIOU"))
    assert prompt.prompt_id in ids(render_found(store, result, bare))
    assert ids(render_found(store, result, prompt.prompt_id)) == [prompt.prompt_id]
    assert "Ninguna respuesta" in render_found(store, result, "palabrainexistente")
    assert ids(render_found(store, result, "Respuesta número")) == [], "answers are not searched"


def render_found(store: LocalStore, result: Result, words: str) -> str:
    return page(store, result.id, filter_of("all", "all", words), ES).answers


def test_a_person_who_disagrees_with_the_judges_is_a_disagreement(store: LocalStore, result: Result) -> None:
    readings = details(store, result)
    before = ids(page(store, result.id, filter_of("all", "disagree"), ES).answers)
    sample, shown = draw([Subject(result, readings)], {}, COUNT, 0)
    agreed = [
        r
        for r in readings
        if r.verdicts[0].status == "graded"
        and r.verdicts[1].status == "graded"
        and r.verdicts[0].grade == r.verdicts[1].grade == Grade.REGULAR
    ]
    with_person, without = agreed[0], agreed[1]
    given = {
        item.id: (Grade.BAD if reading is with_person else Grade.REGULAR, "")
        for item in shown
        for reading in (with_person, without)
        if item.answer == reading.answer.text
    }
    assert len(given) == 2
    keep_grades(store, Filled(keep_sample(store, sample), given, ()), "Ana")
    after = page(store, result.id, filter_of("all", "disagree"), ES).answers
    assert set(ids(after)) - set(before) == {with_person.answer.prompt_id}
    assert "Personas: mala" in after
    assert "Ana" not in after


def test_the_card_says_what_failed_and_why(store: LocalStore, result: Result) -> None:
    found = failures(details(store, result), result, ES)
    assert found["La petición no cabe en el contexto del modelo"] == 1
    assert found["El modelo no dijo nada"] == 1
    assert found["Cortada por el límite de longitud"] == 1
    assert found["sin veredicto: el jurado no dio un veredicto legible (owner/second)"] == 1
    card = page(store, result.id, filter_of(), ES).card
    assert "Qué falló" in card
    low, high = (ES.number(end) for end in result.score.bounds)
    assert f"la nota sería {low} o {high}" in card


def test_the_card_says_where_a_result_comes_from_and_what_it_cost(store: LocalStore, result: Result) -> None:
    card = page(store, result.id, filter_of(), EN).card
    sub = result.submission
    for fact in (sub.asked_digest, sub.measured_digest, sub.model.revision, result.answers_path, result.id):
        assert fact in card
    assert all(seat.judgements_path in card and seat.revision in card for seat in result.seats)
    assert "494 million parameters, 0.99 GB" in card
    assert "Qwen/Qwen2.5-0.5B" in card
    assert "1 min 15 s" in card
    assert "12.3 s" in card
    assert "0.0123" in card
    assert "an estimate" in card
    assert "other &lt;b&gt;stage" in card
    spanish = page(store, result.id, filter_of(), ES).card
    assert "494 millones de parámetros, 0,99 GB" in spanish
    assert "0,0123" in spanish


def test_the_command_is_the_one_that_repeats_it(store: LocalStore, result: Result, tmp_path: Path) -> None:
    assert commands(result, None) == [("here", f"eco-eval reproduce {result.id}")]
    hub = HubStore("alguien/resultados", cache=tmp_path)
    assert commands(result, hub.repo)[0] == (
        "hub",
        f"eco-eval reproduce hf://datasets/alguien/resultados/results/{result.id}.json",
    )
    card = page(store, result.id, filter_of(), ES).card
    assert f"data-copy='eco-eval reproduce {result.id}'" in card
    assert "hf://" not in card
    assert "hf://datasets/alguien/resultados/" in render(result, [], "all", ES, hub_repo=hub.repo)


@pytest.mark.parametrize("t", [ES, EN])
def test_what_strangers_wrote_stays_text(store: LocalStore, result: Result, t: Texts) -> None:
    whole = render(result, details(store, result), "all", t)
    assert len(ids(whole)) == COUNT
    assert "<script" not in whole
    assert "<img" not in whole
    assert "<b>más" not in whole
    assert "&lt;script&gt;" in whole
    assert (
        re.findall(
            r"<(?!/?(?:a|abbr|article|b|br|button|circle|code|dd|details|div|dl|dt|h2|h3|header|li|line|p|"
            r"section|small|span|summary|svg|table|tbody|td|th|thead|tr|ul)\b)[^>]*>",
            whole,
        )
        == []
    )


def test_a_long_answer_is_folded_and_none_of_it_lost() -> None:
    text = " ".join(f"palabra{number}" for number in range(400))
    html = folded(text, ES)
    head, _, rest = html.partition("<details>")
    assert len(re.sub("<[^>]*>", "", head)) <= LONG + 1
    assert "<details" not in folded(text[:LONG], ES)
    assert re.findall(r"palabra\d+", html) == text.split()
    assert re.search(r"palabra399\b", rest)
    assert len(re.findall("x", folded("x" * 5000, ES).replace("text", ""))) == 5000


@pytest.mark.parametrize("target", ["", "no-existe", "../../etc/passwd", "f" * 16, HOSTILE, "\x00", "a" * 5000])
def test_a_result_that_is_not_there_is_a_message(store: LocalStore, result: Result, target: str) -> None:
    shown = page(store, word(target), filter_of(), ES)
    assert shown.answers == ""
    assert "<script" not in shown.card
    assert ("eco-warn" in shown.card) == bool(word(target))


def test_a_result_is_found_by_id_by_its_start_and_by_name(store: LocalStore, result: Result) -> None:
    assert find(store, result.id).id == result.id
    assert find(store, result.id[:12]).id == result.id
    assert find(store, result.submission.model.name[:200]).id == result.id


def test_a_withdrawn_result_says_so(tmp_path: Path, store: LocalStore, result: Result) -> None:
    other = LocalStore(tmp_path)
    write_result(result, other)
    withdraw_result(other, result.id, "ana")
    with pytest.raises(InputError) as caught:
        find(other, result.id)
    assert caught.value.key == "result.withdrawn"


@pytest.mark.parametrize("value", [None, 7, 1.5, True, ["bad"], {"a": 1}, "<b>", "x" * 10_000])
def test_whatever_is_sent_is_no_filter_or_a_short_one(value: object) -> None:
    found = filter_of(value, value, value)
    assert (found.grade, found.show) == ("all", "all")
    assert len(found.find) <= 200


def test_pages_begin_where_one_would_turn_to() -> None:
    assert range_of(0, 0) == (0, 0)
    assert range_of(PAGE, PAGE) == (0, PAGE)
    assert range_of(PAGE, PAGE + 1) == (PAGE, PAGE + 1)


def test_times_and_quantities_are_said_as_people_do() -> None:
    assert duration(59.94, ES) == "59,9 s"
    assert duration(3725, EN) == "1 h 2 min"
    assert figures(0.0123, ES) == "0,0123"
    assert moment("2026-11-20T14:20:21+00:00", ES) == "20/11/2026 14:20 UTC"
    assert moment("<b>never", EN) == "<b>never"


def test_a_list_to_choose_from_stays_short() -> None:
    assert LISTED <= 500


# --- in a browser


@pytest.fixture(scope="module")
def site(store: LocalStore, result: Result) -> Iterator[str]:
    running, url = serve(store.root)
    yield url
    running.close()


@pytest.mark.parametrize(("path", "width"), [("", 1280), ("", 390), ("en", 390)])
def test_a_person_follows_a_link_to_one_answer(
    browser: Any, site: str, store: LocalStore, result: Result, path: str, width: int
) -> None:
    last = details(store, result)[-1].answer.prompt_id
    address = f"{site}{path}{link(result.id, last)}"
    with visit(browser, address, last, width) as tab:
        tab.wait_for_function(
            "id => { const box = document.getElementById(id)?.getBoundingClientRect();"
            " return box && box.height > 0 && box.top > -5 && box.top < innerHeight; }",
            arg=last,
        )
        assert tab.title() != "tomada"
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1, "the page scrolls sideways"


def test_a_person_filters_turns_pages_and_shares_what_is_seen(browser: Any, site: str, result: Result) -> None:
    with visit(browser, f"{site}?tab=model&result={result.id}", "Elígelo de la lista") as tab:
        tab.wait_for_selector("article.eco-card >> visible=true")
        tab.get_by_role("button", name="Siguientes").click()
        tab.wait_for_function(f"document.querySelectorAll('article.eco-card').length === {COUNT - PAGE}")
        assert tab.get_by_role("button", name="Siguientes").is_disabled()
        tab.get_by_label("Mostrar").click()
        tab.get_by_role("option", name="cortadas").click()
        tab.wait_for_function("document.querySelectorAll('article.eco-card').length === 1")
        tab.wait_for_function("location.search.includes('show=truncated')")
        address = tab.url
    with visit(browser, address, "Elígelo de la lista") as tab:
        tab.wait_for_function("document.querySelectorAll('article.eco-card').length === 1")
        assert tab.get_by_label("Mostrar").input_value() == "cortadas"
        tab.get_by_label("Buscar en las peticiones").first.fill("palabrainexistente")
        tab.wait_for_selector("text=Ninguna respuesta")
        tab.wait_for_function("location.search.includes('find=palabrainexistente')")


def test_a_command_and_a_link_are_copied(browser: Any, site: str, result: Result) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    tab = context.new_page()
    tab.goto(f"{site}?tab=model&result={result.id}")
    copied = []
    for button in (".eco-command .eco-copy", "article .eco-copy"):
        tab.locator(button).first.click()
        tab.locator(f"{button}:disabled").first.wait_for()
        copied.append(tab.evaluate("navigator.clipboard.readText()"))
    context.close()
    assert copied[0] == f"eco-eval reproduce {result.id}"
    assert copied[1].startswith(f"{site}?tab=model&result={result.id}#")


def test_the_endpoint_takes_anything_and_never_breaks(site: str, result: Result) -> None:
    from gradio_client import Client

    client = Client(site, verbose=False)
    found = client.predict(result.id, api_name="/result")
    assert found["result"]["id"] == result.id
    assert len(found["answers"]) == COUNT
    for nonsense in ("", "f" * 16, "../x", HOSTILE):
        assert client.predict(nonsense, api_name="/result")["error"] == "result.unknown"
