"""The pages about the method and about reproducing: what they say is what is, in both languages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPO, visit
from test_page import HOSTILE, scripted, serve

from eco_eval.board import Board, build
from eco_eval.instrument import load_instrument
from eco_eval.pipeline import evaluate, submit
from eco_eval.settings import LANGS, Lang
from eco_eval.stats.correction import corrected_points
from eco_eval.store import LocalStore
from eco_eval.store.index import load_results_indexed
from eco_eval.types import GRADES, ModelRef, Result
from eco_eval.ui import texts
from eco_eval.ui.pages import method, reproduce
from eco_eval.ui.texts import Texts

EN = Texts("en")
INSTRUMENT = load_instrument(method.INSTRUMENT)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two models, one of them hostile in its name."""
    root = tmp_path_factory.mktemp("method") / "data"
    measure = load_instrument("eco-es-demo").limited(12).with_judge_at("0" * 40)
    for name, said in (("vecina/rio-7b", "Primero, hablar con quienes riegan abajo."), (f"malo/{HOSTILE}", "Nada.")):
        model = ModelRef(name=name, source="hub", revision="a" * 40)
        evaluate(submit(model, measure), measure, scripted(said), LocalStore(root))
    return root


@pytest.fixture(scope="module")
def results(root: Path) -> list[Result]:
    return [result for result in load_results_indexed(LocalStore(root))[0] if not result.is_anchor]


@pytest.fixture(scope="module")
def board(root: Path) -> Board:
    return build(load_results_indexed(LocalStore(root))[0])


@pytest.fixture(scope="module")
def page(root: Path) -> Iterator[str]:
    site, url = serve(root)
    yield url
    site.close()


# --- the method


@pytest.mark.parametrize("lang", LANGS)
def test_the_rubric_is_the_one_the_judge_reads(lang: Lang) -> None:
    t, rubric = Texts(lang), INSTRUMENT.rubric
    html = method.rubric_html(rubric, t)
    for criterion in rubric.criteria:
        text = getattr(criterion, lang)
        for said in (text.name, *(getattr(text, grade) for grade in GRADES)):
            assert said in html
    first = rubric.criteria[0].model_copy(
        update={lang: getattr(rubric.criteria[0], lang).model_copy(update={"good": "cambiado"})}
    )
    changed = rubric.model_copy(update={"criteria": (first, *rubric.criteria[1:])})
    assert "cambiado" not in html
    assert method.rubric_html(changed, t).count("cambiado") == 2, "in the table and in the judge's instruction"


def test_the_worked_example_adds_up_to_the_score_on_the_board(board: Board) -> None:
    row = board.sections[0].models[0]
    found = method.example(row, EN)
    points = found.grades.count("g") + found.grades.count("r") / 2
    assert 100 * points / len(found.grades) == pytest.approx(row.eco.value)
    html = method.render(board, INSTRUMENT, EN)
    assert f"times 100, {row.eco.value:.2f}." in html
    assert f"{row.eco.low:.1f}–{row.eco.high:.1f}, from {row.eco.groups} groups" in html
    assert EN("page.method.no_places") not in html


def test_a_store_without_results_has_an_example_reckoned_now() -> None:
    html = method.render(build([]), INSTRUMENT, EN)
    found = method.invented(EN)
    good, regular = method.INVENTED.count("g"), method.INVENTED.count("r")
    assert found.eco.value == pytest.approx(100 * (good + regular / 2) / len(method.INVENTED))
    assert found.eco.low < found.eco.value < found.eco.high
    assert f"times 100, {found.eco.value:.2f}." in html
    assert EN("page.method.no_places") in html


def test_undoing_the_confusion_of_an_invented_judge_gives_back_the_truth() -> None:
    truth = (0.5, 0.3, 0.2)
    said = [sum(method.CONFUSED[a][k] * truth[k] for k in range(3)) for a in range(3)]
    worth = corrected_points(np.array(method.CONFUSED), method.POINTS)
    assert sum(s * w for s, w in zip(said, worth, strict=True)) == pytest.approx(0.5 + 0.15)


def test_the_prompts_are_counted_from_the_set() -> None:
    html = method.prompts_html(INSTRUMENT, EN)
    controls = sum(prompt.control for prompt in INSTRUMENT.asked)
    assert f"asks {len(INSTRUMENT.asked)} prompts" in html
    assert f"{controls} are controls" in html
    assert EN("page.method.unverified") in html
    verified = tuple(prompt.model_copy(update={"verified_by": ("ana",)}) for prompt in INSTRUMENT.asked[:3])
    some = INSTRUMENT.model_copy(update={"asked": (*verified, *INSTRUMENT.asked[3:])})
    assert EN("page.method.verified", count=3, n=len(INSTRUMENT.asked)) in method.prompts_html(some, EN)


def test_how_to_cite_is_what_the_citation_file_says() -> None:
    said = method.bibtex(method.citation())
    assert said.startswith("@software{eco-eval,")
    assert "doi = {10.57967/hf/1148}" in said
    assert "author = {Stibbe, Arran}" in said
    assert "author = {{Neovalle}}" in said
    assert (
        method.bibtex({"title": "eco-eval", "version": 1})
        == "@software{eco-eval,\n  title = {eco-eval},\n  version = {1},\n}"
    )


@pytest.mark.parametrize("name", ["method", "reproduce"])
def test_the_long_texts_have_the_same_parts_in_both_languages(name: str) -> None:
    found = [Path(texts.__file__).with_name(f"{name}.{lang}.md").read_text(encoding="utf-8") for lang in LANGS]
    shapes = [
        (re.findall(r"\{\{\w+\}\}", text), [re.match(r"#+|-|`|", line)[0] for line in text.splitlines()])
        for text in found
    ]
    assert shapes[0] == shapes[1]
    assert not [text for text in found if "<" in text], "tags belong in the code that fills the places"
    assert "  " not in found[0].replace("\n", "")


def test_what_is_put_into_a_long_text_is_not_read_as_markdown() -> None:
    html = EN.prose("reproduce", commands="<i>**x**</i>", level="95", repeatability="", setting="")
    assert "<i>**x**</i>" in html
    assert "{{" not in html
    with pytest.raises(KeyError):
        EN.prose("reproduce", commands="")


def test_a_strangers_name_stays_text(board: Board, results: list[Result]) -> None:
    hostile = next(result for result in results if "script" in result.submission.model.name)
    alone = build([hostile])
    for html in (method.render(alone, INSTRUMENT, EN), reproduce.render(hostile, None, EN)):
        assert "&lt;script&gt;" in html
        assert "<script" not in html
        assert "<img" not in html


# --- reproducing


def test_the_commands_are_those_of_the_chosen_result(results: list[Result]) -> None:
    html = reproduce.render(results[0], None, EN)
    assert re.findall(r"<code>(eco-eval reproduce [^<]*)</code>", html) == [
        f"eco-eval reproduce {results[0].id}{flag}" for flag in ("", " --rejudge-only", " --rescore-only")
    ]
    hub = reproduce.render(results[0], "eco/tablero", EN)
    assert f"eco-eval reproduce hf://datasets/eco/tablero/results/{results[0].id}.json" in hub
    assert results[0].id not in reproduce.render(None, None, EN)


@pytest.mark.parametrize("result_id", ["no-existe", "../../etc/passwd", "a/b", "\x00", ".", "x" * 5000, "<script>"])
def test_a_result_that_is_not_there_is_said_in_words(root: Path, result_id: str) -> None:
    html = reproduce.page(LocalStore(root), result_id, EN)
    assert "eco-warn" in html
    assert "<script" not in html


def test_what_engines_repeat_is_what_the_documentation_says() -> None:
    lines = (REPO / "docs" / "reproducing.md").read_text(encoding="utf-8").splitlines()
    told = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.search(r"\| \d+/\d+ \|", line)
    ]
    shown = [
        [
            row["en"],
            f"{row['answers']}/{row['n']}",
            f"{row['grades']}/{row['n']}",
            row["move"],
            f"{row['before']} → {row['after']}",
            row["outcome"].replace("_", " ") + (f" (tolerance {row['tolerance']})" if row["tolerance"] else ""),
        ]
        for row in reproduce.measured()
    ]
    assert shown == told
    assert len(told) > 15


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["method", "reproduce"])
def test_a_person_reads_it_in_both_languages(browser: Any, page: str, lang: Lang, width: int, name: str) -> None:
    t, path = Texts(lang), {"es": "", "en": "en"}[lang]
    ready = {"method": t("page.method.instruction"), "reproduce": t("page.reproduce.candidate_caption")}[name]
    with visit(browser, f"{page}{path}?tab={name}", ready, width) as tab:
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1


def test_another_result_changes_the_command_and_the_address(browser: Any, page: str, results: list[Result]) -> None:
    one, other = results
    with visit(browser, f"{page}?tab=reproduce&result={one.id}", f"eco-eval reproduce {one.id}") as tab:
        tab.locator("#reproduce-result input").click()
        name = other.submission.model.name.split("/")[0]
        tab.locator("[role=option]", has_text=name).click()
        tab.wait_for_selector(f"code >> text=eco-eval reproduce {other.id} --rescore-only")
        tab.wait_for_function(f"location.search.includes('result={other.id}')")
        assert "tab=reproduce" in tab.url
