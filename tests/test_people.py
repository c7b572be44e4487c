"""People's audits: drawn at random, shown blind, added whole or not at all, and set beside the judge."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from eco_eval.audits_cli import build_audits_app
from eco_eval.commands import run_app
from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.errors import DataError, EcoEvalError, InputError, StoreError
from eco_eval.instrument import Instrument
from eco_eval.people import (
    WORDS,
    Filled,
    Place,
    Sample,
    Shown,
    Subject,
    answer_id,
    draw,
    keep_grades,
    keep_sample,
    load_audits,
    mean_points,
    points_of,
    read_grades,
    samples,
    skipped,
)
from eco_eval.people_report import Order, report
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.results import details, load_results
from eco_eval.settings import Lang
from eco_eval.stats import confusion, kappa_estimate, mean_of_classes, mean_of_shares, ordinal_alpha
from eco_eval.store import LocalStore
from eco_eval.types import GRADES, Estimate, Failure, Grade, Graded, ModelRef, Prompt, Result, Ungraded
from eco_eval.ui.texts import Texts

JUDGE = "jurado-secreto"
GOOD, REGULAR, BAD = GRADES


def scored(instrument: Instrument, store: LocalStore, name: str, says: Callable[[int], str | Failure]) -> Result:
    """A result whose answer to prompt i is `says(i)`; the judge goes by the first of g, r, b after a `#`, or fails."""
    places = {prompt.text: i for i, prompt in enumerate(instrument.asked)}

    @contextmanager
    def candidate() -> Iterator[Engine]:
        yield ScriptedEngine(answer=lambda c: says(places[c[-1].content]), name=name)

    @contextmanager
    def judge() -> Iterator[Engine]:
        def label(conversation: Any, _: Any) -> list[float] | Failure:
            said = "".join(message.content for message in conversation).rpartition("#")[2][:1]
            return [8.0 if said == letter else 1.0 for letter in "grb"] if said != "x" else Failure(cause="rejected")

        yield ScriptedEngine(label=label, name=JUDGE)

    model = ModelRef(name=name, source="hub", revision="a" * 40)
    return evaluate(submit(model, instrument), instrument, Engines(candidate, judge), store)


def unopened() -> Any:
    raise AssertionError("an engine was opened with nothing to do")


def letters(name: str, cycle: str) -> Callable[[int], str]:
    return lambda i: f"{name[::-1]} {i} #{cycle[i % len(cycle)]}"


def subjects_of(store: LocalStore, *results: Result) -> list[Subject]:
    return [Subject(result, details(store, result)) for result in results]


@pytest.fixture
def short(demo: Instrument) -> Instrument:
    return demo.limited(30)


@pytest.fixture
def prompts(demo: Instrument) -> dict[str, Prompt]:
    return {prompt.id: prompt for prompt in demo.asked}


@pytest.fixture
def two(short: Instrument, store: LocalStore) -> tuple[Result, Result]:
    return scored(short, store, "modelo-uno", letters("modelo-uno", "ggrb")), scored(
        short, store, "modelo-dos", letters("modelo-dos", "bbrg")
    )


class Done(NamedTuple):
    code: int
    out: str
    err: str


Audits = Callable[..., Done]


@pytest.fixture
def audits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Audits:
    """Runs `eco-eval audits` as `main` does, in English unless told, over this test's store."""
    monkeypatch.setenv("ECO_EVAL_DATA_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("ECO_EVAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object, lang: str = "en") -> Done:
        monkeypatch.setenv("ECO_EVAL_LANG", lang)
        capsys.readouterr()
        code = run_app(build_audits_app, [*map(str, arguments)])
        return Done(code, *capsys.readouterr())

    return call


def rows_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def jsonl(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows: Sequence[dict[str, Any]], delimiter: str = ";") -> bytes:
    """As spreadsheets write it: BOM, CRLF, semicolons."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return b"\xef\xbb\xbf" + out.getvalue().encode()


def sample_of(ids: Sequence[str], model: str = "m", when: str = "2026-01-01T00:00:00+00:00") -> Sample:
    """A sample of these answers, each to a prompt and of a group of its own."""
    items = [{"id": key, "group": f"g{key}", "of": [{"model": model, "prompt_id": f"p{key}"}]} for key in ids]
    values = {"id": answer_id(model, "".join(ids))[:16], "made_at": when, "seed": 1, "count": len(ids)}
    models = [{"name": model, "digest": model, "results": ["r"]}]
    made = {**values, "instrument": "i", "asked_digest": "a", "models": models, "items": items}
    return Sample.model_validate(made)


def say(store: LocalStore, sample: Sample, who: str, grades: dict[str, Grade]) -> Any:
    return keep_grades(store, Filled(sample, {key: (grade, "") for key, grade in grades.items()}, ()), who)


# Drawing


def test_every_model_has_its_count_of_answers_with_a_verdict_to_prompts_with_a_stake(
    demo: Instrument, store: LocalStore, prompts: dict[str, Prompt]
) -> None:
    def says(i: int) -> str | Failure:
        return "" if i % 5 == 0 else f"y {i} #x" if i % 60 == 1 else f"y {i} #g"

    a, b = scored(demo, store, "uno", letters("uno", "grb")), scored(demo, store, "dos", says)
    found, shown = draw(subjects_of(store, a, b), prompts, 60, 3)
    for result in (a, b):
        mine = [place for item in found.items for place in item.of if place.model == result.submission.answers_digest]
        assert len(mine) == len({place.prompt_id for place in mine}) == 60
        assert not any(prompts[place.prompt_id].control for place in mine)
    everything, _ = draw(subjects_of(store, b), prompts, 10**6, 3)
    pool = {place.prompt_id: item for item in everything.items for place in item.of}
    graded = {a.prompt_id: j for a, (j,) in details(store, b) if not prompts[a.prompt_id].control}
    assert set(pool) == {key for key, verdict in graded.items() if isinstance(verdict, Graded)}
    assert any(isinstance(verdict, Ungraded) for verdict in graded.values())
    assert any(isinstance(graded[key], Graded) and graded[key].source == "rule" for key in pool)
    assert [line.id for line in shown] == [item.id for item in found.items]
    assert all(answer_id(line.prompt, line.answer) == line.id for line in shown)


def test_a_draw_repeats_under_its_seed_and_no_other(
    store: LocalStore, prompts: dict[str, Prompt], two: tuple[Result, Result]
) -> None:
    one, other = subjects_of(store, *two)
    first, shown = draw([one, other], prompts, 8, 5)
    again, same = draw([other, one], prompts, 8, 5)
    assert (first.items, first.id, shown) == (again.items, again.id, same)
    assert first.items != draw([one, other], prompts, 8, 6)[0].items
    alone = {item.id for item in draw([one], prompts, 8, 5)[0].items}
    assert alone < {item.id for item in first.items}
    assert alone < {item.id for item in draw([one], prompts, 12, 5)[0].items}


def test_any_beginning_of_the_order_is_a_uniform_sample(
    store: LocalStore, prompts: dict[str, Prompt], two: tuple[Result, Result]
) -> None:
    subjects = subjects_of(store, *two)
    everything = [item.id for item in draw(subjects, prompts, 10**6, 0)[0].items]
    mine = {item.id for item in draw(subjects[:1], prompts, 10**6, 0)[0].items}
    seeds, size = 600, 9
    drawn: Counter[str] = Counter()
    first: Counter[str] = Counter()
    for seed in range(seeds):
        order = [item.id for item in draw(subjects, prompts, 12, seed)[0].items]
        assert len(order) == 24
        assert len(mine & set(order)) == 12
        drawn.update(order)
        first.update(order[:size])
    assert set(first) == set(everything)
    n = len(everything)
    for counts, share in ((drawn, 24 / n), (first, size / n)):
        expected = seeds * share
        # Without replacement the counts vary less than independent ones would.
        statistic = sum((counts[key] - expected) ** 2 for key in everything) / (expected * (1 - share)) * (n - 1) / n
        assert 0.001 < chi2.sf(statistic, n - 1) < 0.999


def test_a_model_with_few_answers_is_not_left_for_the_end(
    store: LocalStore, prompts: dict[str, Prompt], two: tuple[Result, Result]
) -> None:
    many, few = subjects_of(store, *two)
    few = few._replace(readings=few.readings[:8])
    found = [draw([many, few], prompts, 8, seed)[0] for seed in range(200)]
    model = few.result.submission.answers_digest
    early = [sum(item.of[0].model == model for item in sample.items[:8]) for sample in found]
    expected = np.mean([8 * sum(i.of[0].model == model for i in sample.items) / len(sample.items) for sample in found])
    assert np.mean(early) == pytest.approx(expected, abs=0.3)


def test_the_same_answer_of_two_models_is_shown_once_and_drawn_for_both(
    short: Instrument, store: LocalStore, prompts: dict[str, Prompt]
) -> None:
    both = [scored(short, store, name, lambda i: f"igual {i} #g") for name in ("uno", "dos")]
    found, shown = draw(subjects_of(store, *both), prompts, 10, 1)
    assert len(shown) == 10
    digests = {result.submission.answers_digest for result in both}
    assert all({place.model for place in item.of} == digests for item in found.items)
    grades = {item.id: GOOD for item in found.items[:4]}
    say(store, keep_sample(store, found), "Ana", grades)
    for result in both:
        answers = [answer for answer, _ in details(store, result)]
        assert len(points_of(store, result.submission, answers)) == 4


def test_results_judged_again_are_one_model(short: Instrument, store: LocalStore, prompts: dict[str, Prompt]) -> None:
    other = short.with_judge_at("1" * 40)
    both = [scored(measure, store, "uno", letters("uno", "grb")) for measure in (short, other)]
    found, shown = draw(subjects_of(store, *both), prompts, 10, 1)
    assert both[0].id != both[1].id
    assert len(shown) == 10
    assert found.models[0].results == tuple(sorted(result.id for result in both))


def test_what_a_grader_gets_says_nothing_of_model_judge_or_verdict(
    audits: Audits, store: LocalStore, two: tuple[Result, Result], tmp_path: Path
) -> None:
    out = tmp_path / "lote.jsonl"
    assert audits("sample", "--count", 6, "--seed", 4, "--out", out).code == 0
    rows = rows_in(out)
    assert len(rows) == 12
    assert all(list(row) == ["id", "prompt", "answer", "grade", "note"] for row in rows)
    assert all((row["grade"], row["note"]) == ("", "") for row in rows)
    text = out.read_text(encoding="utf-8") + Path(f"{out}.md").read_text(encoding="utf-8")
    for result in two:
        hidden = (result.submission.model.name, result.id, result.submission.answers_digest, JUDGE, "0" * 40)
        assert not any(word in text for word in hidden)
    (kept,) = samples(store)
    assert kept.id not in text
    # Answers of both models are mixed, not one after the other.
    assert len(list(itertools.groupby(item.of[0].model for item in kept.items))) > 2


def test_long_hostile_and_cut_answers_are_shown_whole(
    audits: Audits, short: Instrument, store: LocalStore, prompts: dict[str, Prompt], tmp_path: Path
) -> None:
    limit = short.answer.max_tokens
    nasty = [
        "<script>alert(1)</script>\u2028línea",
        "nul\x00y medio",
        "a" * 300_000,
        '"; =1+1\r\n',
        "p " * (limit + 5),
    ]
    scored(short, store, "uno", lambda i: nasty[i % len(nasty)] + (" #g" if i % len(nasty) < 4 else ""))
    out = tmp_path / "lote.jsonl"
    assert audits("sample", "--out", out).code == 0
    rows = rows_in(out)
    assert {row["answer"] for row in rows} >= {f"{'a' * 300_000} #g", f"{nasty[0]} #g", "nul\x00y medio #g"}
    assert {row.get("cut", False) for row in rows if row["answer"].startswith("p p")} == {True}
    assert not any("cut" in row for row in rows if not row["answer"].startswith("p p"))
    for row in rows:
        row["grade"] = "mala"
    out.write_bytes(jsonl(rows))
    assert audits("add", out, "--grader", "Ana").code == 0
    assert set(mean_points(load_audits(store))) == {row["id"] for row in rows}


def test_nothing_is_written_over_and_a_failure_leaves_nothing(
    audits: Audits, store: LocalStore, two: tuple[Result, Result], tmp_path: Path
) -> None:
    out = tmp_path / "lote.jsonl"
    guide = Path(f"{out}.md")
    guide.write_text("mío")
    refused = audits("sample", "--out", out)
    assert (refused.code, guide.read_text(), out.exists(), samples(store)) == (2, "mío", False, [])
    assert guide.name in refused.err
    guide.unlink()
    assert audits("sample", "nadie", "--out", out).code == 2
    assert not out.exists()
    assert not guide.exists()
    out.write_text("mío")
    assert audits("sample", "--out", out).code == 2
    assert out.read_text() == "mío"
    assert not guide.exists()
    assert audits("sample", "--out", tmp_path / "lote.csv").code == 2
    assert audits("sample", "--out", tmp_path / "no" / "lote.jsonl").code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lote.jsonl", "store"]


def test_results_of_two_instruments_anchors_and_empty_stores_are_clear_errors(
    audits: Audits, demo: Instrument, store: LocalStore, tmp_path: Path
) -> None:
    out = tmp_path / "lote.jsonl"
    assert "eco-eval evaluate" in audits("sample", "--out", out).err
    a = scored(demo.limited(20), store, "uno", letters("uno", "g"))
    scored(demo.limited(30), store, "dos", letters("dos", "g"))
    mixed = audits("sample", "--out", out)
    assert mixed.code == 2
    assert "limit=20" in mixed.err
    assert "limit=30" in mixed.err
    anchor = next(result for result in load_results(store)[0] if result.is_anchor)
    assert anchor.id in audits("sample", anchor.id, "--out", out).err
    assert not out.exists()
    assert audits("sample", "uno", a.id[:6], "--out", out).code == 0
    assert len(samples(store)[0].models) == 1
    controls = {p.id: p.model_copy(update={"control": True}) for p in demo.asked}
    with pytest.raises(InputError) as caught:
        draw(subjects_of(store, a), controls, 5, 1)
    assert caught.value.key == "audits.nothing_to_draw"


def test_the_same_draw_again_is_the_same_sample(
    audits: Audits, store: LocalStore, two: tuple[Result, Result], tmp_path: Path
) -> None:
    files = [tmp_path / "uno.jsonl", tmp_path / "dos.jsonl"]
    for file in files:
        assert audits("sample", "--seed", 9, "--count", 5, "--out", file).code == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(samples(store)) == 1


# Grades


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SPELLED = {grade: [word for word, meant in WORDS.items() if meant == grade] for grade in GRADES}


@st.composite
def filled_files(draws: st.DrawFn) -> tuple[list[Shown], dict[str, tuple[Grade, str]], list[dict[str, Any]]]:
    texts = draws(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=8, unique=True))
    shown = [Shown(answer_id(*pair), *pair, cut=draws(st.booleans())) for pair in texts]
    chosen = draws(st.sets(st.sampled_from([line.id for line in shown]), min_size=1))
    meant: dict[str, tuple[Grade, str]] = {}
    rows = []
    for line in shown:
        row: dict[str, Any] = line.row()
        if line.id in chosen:
            grade, note = draws(st.sampled_from(GRADES)), draws(ANY_TEXT)
            word = draws(st.sampled_from(SPELLED[grade]))
            row["grade"] = draws(st.sampled_from([word, word.upper(), word.title(), f" {word} "]))
            row["note"] = note
            meant[line.id] = (grade, note)
        rows.append(row)
    return shown, meant, rows


@settings(deadline=None, max_examples=150)
@given(filled_files(), st.sampled_from(["jsonl", "bom", "crlf", "json", ",", ";", "\t"]))
def test_what_a_person_wrote_comes_back_in_any_form(
    tmp_path_factory: pytest.TempPathFactory, made: Any, form: str
) -> None:
    shown, meant, rows = made
    folder = tmp_path_factory.mktemp("vuelta")
    forms = {
        "jsonl": (".jsonl", jsonl(rows)),
        "bom": (".jsonl", b"\xef\xbb\xbf" + jsonl(rows)),
        "crlf": (".jsonl", jsonl(rows).replace(b"\n", b"\r\n")),
        "json": (".json", json.dumps(rows).encode()),
    }
    suffix, data = forms.get(form) or (".tsv" if form == "\t" else ".csv", table(rows, form))
    file = folder / f"lote{suffix}"
    file.write_bytes(data)
    store, sample = LocalStore(folder / "store"), sample_of([line.id for line in shown])
    keep_sample(store, sample)
    filled = read_grades(file, samples(store))
    assert filled.sample == sample
    assert {key: grade for key, (grade, _) in filled.given.items()} == {key: grade for key, (grade, _) in meant.items()}
    if form in ("jsonl", "bom", "crlf", "json"):
        assert {key: note for key, (_, note) in filled.given.items()} == {
            k: note.strip() for k, (_, note) in meant.items()
        }
    assert len(filled.open) == len(shown) - len(meant)
    keep_grades(store, filled, "Ana")
    assert mean_points(load_audits(store)) == {key: grade.value_points for key, (grade, _) in sorted(meant.items())}


IDS = [answer_id("p", str(number)) for number in range(5)]
ROWS = [{"id": key, "prompt": "p", "answer": str(n), "grade": "good", "note": ""} for n, key in enumerate(IDS)]


def with_row(place: int, **cells: Any) -> list[dict[str, Any]]:
    return [{**row, **cells} if n == place else row for n, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("rows", "key", "line", "field"),
    [
        (with_row(2, id="f" * 64), "audits.unknown_id", 3, "id"),
        (with_row(2, id="../../results/x\x00<b>"), "audits.unknown_id", 3, "id"),
        (with_row(2, id=7), "audits.unknown_id", 3, "id"),
        (with_row(2, id=""), "audits.no_id", 3, "id"),
        (with_row(2, grade="b"), "audits.bad_grade", 3, "grade"),
        (with_row(2, grade="excelente" * 10_000), "audits.bad_grade", 3, "grade"),
        (with_row(2, grade=True), "audits.bad_grade", 3, "grade"),
        (with_row(2, grade=["good"]), "audits.bad_grade", 3, "grade"),
        (with_row(2, grade=json.loads("[" * 500 + "]" * 500)), "audits.bad_grade", 3, "grade"),
        (with_row(2, answer="3"), "audits.moved", 3, "answer"),
        ([*ROWS, {"id": IDS[1], "grade": "bad"}], "audits.two_grades", 6, "grade"),
        ([{**row, "grade": ""} for row in ROWS], "audits.no_grades", None, None),
        ([], "audits.no_grades", None, None),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_kept(
    audits: Audits, store: LocalStore, tmp_path: Path, rows: Any, key: str, line: int | None, field: str | None
) -> None:
    keep_sample(store, sample_of(IDS))
    file = tmp_path / "lote.jsonl"
    file.write_bytes(jsonl(rows))
    with pytest.raises(DataError) as caught:
        read_grades(file, samples(store))
    assert caught.value.key == key
    assert (caught.value.values.get("line"), caught.value.values.get("field")) == (line, field)
    for lang in ("es", "en"):
        done = audits("add", file, "--grader", "Ana", lang=lang)
        assert done.code == 2
        (said,) = done.err.strip().splitlines()
        assert file.name in said
        assert len(said) < 600
    assert mean_points(load_audits(store)) == {}
    assert len(store.list("audits/")) == 1


def test_half_characters_and_binary_files_are_refused(store: LocalStore, tmp_path: Path) -> None:
    keep_sample(store, sample_of(IDS))
    for name, data in {
        "a.jsonl": jsonl(ROWS) + b'{"id": "' + IDS[0].encode() + b'", "grade": "good", "note": "\\ud800"}\n',
        "b.jsonl": b"\xff\xfe\x00g",
        "c.csv": b'id;grade\n"abierta',
        "d.jsonl": b"[1, 2]\n",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError):
            read_grades(tmp_path / name, samples(store))


def test_initials_count_where_they_begin_one_grade(tmp_path: Path) -> None:
    file = tmp_path / "lote.jsonl"
    file.write_bytes(jsonl([{**row, "grade": said} for row, said in zip(ROWS, "gGrm ", strict=True)]))
    filled = read_grades(file, [sample_of(IDS)])
    assert [grade for grade, _ in filled.given.values()] == [GOOD, GOOD, REGULAR, BAD]
    assert list(filled.open) == [5]


def test_a_file_finds_the_sample_it_is_of(tmp_path: Path) -> None:
    whole, part, turned = sample_of(IDS), sample_of(IDS[:3]), sample_of(IDS[::-1])
    file = tmp_path / "lote.jsonl"

    def found(rows: Sequence[dict[str, Any]], *among: Sample) -> Sample:
        file.write_bytes(jsonl(rows))
        return read_grades(file, among).sample

    assert found(ROWS, part, turned, whole) == whole
    assert found(ROWS[::-1], part, turned, whole) == turned
    assert found(ROWS[:3], part, turned, whole) == part
    assert found([ROWS[1], ROWS[0], ROWS[2]], part, whole) == part
    assert found(ROWS[3:], part, whole) == whole
    with pytest.raises(DataError) as caught:
        found(ROWS[3:], whole, turned)
    assert caught.value.key == "audits.which_sample"
    with pytest.raises(DataError) as caught:
        found(ROWS)
    assert caught.value.key == "audits.unknown_id"


def test_adding_again_replaces_grade_by_grade(store: LocalStore) -> None:
    sample = keep_sample(store, sample_of(IDS))
    first = say(store, sample, "Ana", dict.fromkeys(IDS[:3], GOOD))
    assert first == ("Ana", 3, 0, 3, 0)
    again = say(store, sample, " ana ", {IDS[2]: BAD, IDS[1]: GOOD, IDS[4]: REGULAR})
    assert again == ("Ana", 1, 1, 4, 1)
    assert mean_points(load_audits(store)) == {IDS[0]: 1.0, IDS[1]: 1.0, IDS[2]: 0.0, IDS[4]: 0.5}
    say(store, sample, "Luz", {IDS[2]: GOOD})
    assert mean_points(load_audits(store))[IDS[2]] == 0.5


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_skipped_counts_the_holes_before_the_last_grade(graded: list[bool]) -> None:
    ids = [answer_id("p", str(number)) for number in range(len(graded))]
    known = [key for key, there in zip(ids, graded, strict=True) if there]
    holes = "".join("x" if there else "." for there in graded).rstrip(".").count(".")
    assert skipped(sample_of(ids), known) == holes


def test_people_whose_names_look_alike_are_kept_apart(store: LocalStore) -> None:
    sample = keep_sample(store, sample_of(IDS))
    names = ("José", "Josá", "李", "王", "sample", "sample.json", "../..", "a/b", "a--b", "..", "x" * 60, "ﬃ" * 60)
    for name in names:
        say(store, sample, name, {IDS[0]: GOOD})
    (audit,) = load_audits(store)
    assert {grades.grader for grades in audit.graders} == set(names)
    assert samples(store) == [sample]


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "dos\nlíneas", "\x1b[31m", "\u202eana", "\udcff"])
def test_a_name_that_cannot_be_shown_is_refused(store: LocalStore, name: str) -> None:
    sample = keep_sample(store, sample_of(IDS))
    with pytest.raises(InputError) as caught:
        say(store, sample, name, {IDS[0]: GOOD})
    assert caught.value.key == "audits.bad_name"


def test_grades_added_at_once_are_all_kept(store: LocalStore) -> None:
    ids = [answer_id("p", str(number)) for number in range(40)]
    sample = keep_sample(store, sample_of(ids))
    work = [(who, key) for key in ids for who in ("Ana", "Luz")]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda job: say(store, sample, job[0], {job[1]: REGULAR}), work))
    (audit,) = load_audits(store)
    assert {grades.grader: set(grades.grades) for grades in audit.graders} == {"Ana": set(ids), "Luz": set(ids)}


def test_a_person_counts_once_with_the_last_word(store: LocalStore) -> None:
    one, other = (keep_sample(store, sample_of(IDS, model)) for model in ("m", "n"))

    def age(sample: Sample, century: bytes) -> None:
        path = next(path for path in store.list(f"audits/people/{sample.id}/") if "ana" in path)
        found = store.read(path)
        assert found is not None
        store.write(path, found[0].replace(b'"at": "20', b'"at": "' + century))

    say(store, one, "Ana", {IDS[0]: GOOD})
    age(one, b"19")
    say(store, other, "ANA", {IDS[0]: BAD})
    say(store, other, "Luz", {IDS[0]: GOOD})
    assert mean_points(load_audits(store)) == {IDS[0]: 0.5}
    age(other, b"18")
    assert mean_points(load_audits(store)) == {IDS[0]: 1.0}


@pytest.mark.parametrize("data", [b"", b"{", b"\x00\xff", b"{}", b'{"id": "x"}', b"null", b'{"grader": "\\ud800"}'])
@pytest.mark.parametrize("which", ["sample.json", "ana"])
def test_a_broken_file_is_named(store: LocalStore, data: bytes, which: str) -> None:
    say(store, keep_sample(store, sample_of(IDS)), "Ana", {IDS[0]: GOOD})
    path = next(path for path in store.list("audits/") if which in path)
    store.write(path, data)
    with pytest.raises(StoreError) as caught:
        mean_points(load_audits(store))
    assert caught.value.values["path"] == path


def test_grades_of_something_else_are_named(store: LocalStore) -> None:
    say(store, keep_sample(store, sample_of(IDS)), "Ana", {IDS[0]: GOOD})
    path = next(path for path in store.list("audits/") if "ana" in path)
    found = store.read(path)
    assert found is not None
    store.write(path, found[0].replace(IDS[0].encode(), b"f" * 64))
    with pytest.raises(StoreError) as caught:
        mean_points(load_audits(store))
    assert caught.value.values["path"] == path
    store.write(path, found[0])
    store.delete(next(path for path in store.list("audits/") if "sample.json" in path))
    with pytest.raises(StoreError) as caught:
        mean_points(load_audits(store))
    assert (caught.value.key, caught.value.values["path"]) == ("audits.no_sample", path)


FEW = st.text(st.sampled_from("a\x00?\ud800\udfff"), max_size=3)


@given(st.tuples(FEW, FEW), st.tuples(FEW, FEW))
def test_an_id_is_of_one_prompt_and_answer(one: tuple[str, str], other: tuple[str, str]) -> None:
    def kept(pair: tuple[str, str]) -> list[str]:
        return [text.encode("utf-8", "replace").decode() for text in pair]

    assert (answer_id(*one) == answer_id(*other)) == (kept(one) == kept(other))


def test_grades_of_shared_answers_are_no_sample_of_another_model(
    short: Instrument, store: LocalStore, prompts: dict[str, Prompt]
) -> None:
    first = scored(short, store, "uno", lambda i: f"igual {i} #g")
    found, _ = draw(subjects_of(store, first), prompts, 12, 1)
    say(store, keep_sample(store, found), "Ana", {item.id: BAD for item in found.items})
    later = scored(short, store, "dos", lambda i: f"igual {i} #g" if i % 2 else f"otra {i} #g")
    answers = {result.id: [answer for answer, _ in details(store, result)] for result in (first, later)}
    shared = {answer_id(a.prompt, a.text) for a in answers[later.id]} & set(mean_points(load_audits(store)))
    assert shared
    assert points_of(store, later.submission, answers[later.id]) == {}
    mine = points_of(store, first.submission, answers[first.id])
    assert set(mine) == {place.prompt_id for item in found.items for place in item.of}
    assert set(mine.values()) == {0.0}
    changed = [answer.model_copy(update={"text": "ahora digo otra cosa"}) for answer in answers[first.id]]
    assert points_of(store, first.submission, changed) == {}


# The report


def test_the_report_is_what_the_grades_say(
    store: LocalStore, prompts: dict[str, Prompt], two: tuple[Result, Result]
) -> None:
    subjects = subjects_of(store, *two)
    found, _ = draw(subjects, prompts, 10, 2)
    sample = keep_sample(store, found)
    chance = random.Random(0)
    ids = [item.id for item in sample.items]
    given_by = {
        "Ana": {key: chance.choice(GRADES) for key in ids},
        "Luz": {key: chance.choice(GRADES) for key in ids[:9]},
    }
    for who, grades in given_by.items():
        say(store, sample, who, grades)
    made = report(load_audits(store), subjects)
    (mine,) = made.samples
    group = {item.id: item.group for item in sample.items}
    assert {(g.grader, g.graded, g.skipped) for g in mine.graders} == {("Ana", 20, 0), ("Luz", 9, 0)}
    (pair,) = mine.pairs
    ana, luz = ([GRADES.index(given_by[who][key]) for key in ids[:9]] for who in ("Ana", "Luz"))
    assert (pair.first, pair.second, pair.n) == ("Ana", "Luz", 9)
    assert pair.kappa == kappa_estimate(ana, luz, [group[key] for key in ids[:9]])
    assert pair.exact is not None
    assert pair.exact.value == pytest.approx(100 * np.mean(np.equal(ana, luz)))
    assert np.array_equal(pair.confusion, confusion(ana, luz))
    ratings = np.full((20, 2), np.nan)
    ratings[:, 0] = [GRADES.index(given_by["Ana"][key]) for key in ids]
    ratings[:9, 1] = luz
    assert mine.alpha == ordinal_alpha(ratings, [group[key] for key in ids])
    (judge,) = mine.judges
    verdict = {
        answer_id(answer.prompt, answer.text): judgement.grade
        for subject in subjects
        for answer, (judgement,) in subject.readings
        if isinstance(judgement, Graded)
    }
    couples = [(g, verdict[key], group[key]) for grades in given_by.values() for key, g in grades.items()]
    by_people, by_judge = ([GRADES.index(couple[side]) for couple in couples] for side in (0, 1))
    expected = kappa_estimate(by_people, by_judge, [name for _, _, name in couples])
    assert judge.judge == two[0].seats[0].name
    assert judge.agreement.n == 29
    assert np.array_equal(judge.agreement.confusion, confusion(by_people, by_judge))
    assert judge.agreement.kappa is not None
    assert judge.agreement.kappa.value == pytest.approx(expected.value)
    means = {row.model: row for row in judge.means}
    for result in two:
        mine_ids = [item.id for item in sample.items if item.of[0].model == result.submission.answers_digest]
        points = mean_points(load_audits(store))
        row = means[result.submission.model.name]
        assert row.n == 10
        groups = [group[key] for key in mine_ids]
        given = [[by[key] for by in given_by.values() if key in by] for key in mine_ids]
        people = mean_of_shares([[said.count(g) / len(said) for g in GRADES] for said in given], groups, (100, 50, 0))
        assert row.people.model_dump() == pytest.approx(people.model_dump())
        assert row.people.value == pytest.approx(100 * np.mean([points[key] for key in mine_ids]))
        by_judge = [GRADES.index(verdict[key]) for key in mine_ids]
        assert row.judge.model_dump() == pytest.approx(mean_of_classes(by_judge, groups, (100, 50, 0)).model_dump())
        assert row.people.low < row.people.value < row.people.high
    a, b = judge.means
    same = (a.people.value > b.people.value) == (a.judge.value > b.judge.value)
    assert judge.order == Order(same=int(same), pairs=1)
    assert [(row.model, row.graded, row.needed) for row in made.models] == [
        ("modelo-dos", 10, 60),
        ("modelo-uno", 10, 60),
    ]
    assert made.models[0].groups == len(
        {i.group for i in sample.items if i.of[0].model == two[1].submission.answers_digest}
    )


def test_the_order_counts_pairs_and_a_tie_of_one_side_is_another_order(
    short: Instrument, store: LocalStore, prompts: dict[str, Prompt]
) -> None:
    """People put them a > b > c = d, the judge b > a = c = d: the same are b and c, b and d, c and d."""
    judged = {"a": "r", "b": "g", "c": "r", "d": "r"}
    results = {name: scored(short, store, name, letters(name, letter)) for name, letter in judged.items()}
    subjects = subjects_of(store, *results.values())
    found, _ = draw(subjects, prompts, 6, 2)
    by_model = {results[name].submission.answers_digest: name for name in results}
    says = {"a": GOOD, "b": REGULAR, "c": BAD, "d": BAD}
    sample = keep_sample(store, found)
    say(store, sample, "Ana", {item.id: says[by_model[item.of[0].model]] for item in sample.items})
    (mine,) = report(load_audits(store), subjects).samples
    assert mine.judges[0].order == Order(same=3, pairs=6)


def test_answers_graded_by_rule_say_nothing_of_the_judge(
    short: Instrument, store: LocalStore, prompts: dict[str, Prompt]
) -> None:
    """Every other answer is empty and everybody calls it bad; of the others judge and people say the contrary."""
    result = scored(short, store, "uno", lambda i: "" if i % 2 else f"y {i} #g")
    subjects = subjects_of(store, result)
    found, shown = draw(subjects, prompts, 20, 1)
    read = [line.id for line in shown if line.answer]
    assert 0 < len(read) < len(shown)
    say(store, keep_sample(store, found), "Ana", dict.fromkeys([line.id for line in shown], BAD))
    (judge,) = report(load_audits(store), subjects).samples[0].judges
    assert judge.agreement.n == judge.means[0].n == len(read)
    assert judge.agreement.exact is not None
    assert judge.agreement.exact.value == 0
    assert (judge.means[0].people.value, judge.means[0].judge.value) == (0, 100)
    empty = scored(short, store, "dos", lambda i: "")
    mute, _ = draw(subjects_of(store, empty), prompts, 5, 1)
    say(store, keep_sample(store, mute), "Ana", {item.id: BAD for item in mute.items})
    assert report(load_audits(store), subjects_of(store, empty)).samples[-1].judges == ()


def test_every_judge_of_a_panel_and_of_later_results_is_set_beside_people(
    store: LocalStore, prompts: dict[str, Prompt], two: tuple[Result, Result]
) -> None:
    ((result, readings), _) = subjects_of(store, *two)
    seat = result.seats[0]
    panel = result.model_copy(update={"seats": (seat, seat.model_copy(update={"name": "segundo"}))})
    bad = [
        r._replace(verdicts=(*r.verdicts, Graded(prompt_id=r.answer.prompt_id, grade=BAD, source="hard")))
        for r in readings
    ]
    found, _ = draw([Subject(result, readings)], prompts, 8, 2)
    say(store, keep_sample(store, found), "Ana", dict.fromkeys([item.id for item in found.items], BAD))
    later = result.submission.model_copy(update={"measured_digest": "f" * 64})
    again = panel.model_copy(update={"submission": later})
    (mine,) = report(load_audits(store), [Subject(result, readings), Subject(again, bad)]).samples
    assert [judge.judge for judge in mine.judges].count("segundo") == 1
    assert len(mine.judges) == 3
    second = next(judge for judge in mine.judges if judge.judge == "segundo")
    assert second.agreement.kappa is None
    assert second.agreement.exact is not None
    assert second.agreement.exact.value == 100
    assert second.order is None
    changed = [r._replace(answer=r.answer.model_copy(update={"text": "ahora otra cosa"})) for r in readings]
    assert report(load_audits(store), [Subject(result, changed)]).samples[0].judges == ()


@pytest.mark.parametrize("lang", ["es", "en"])
def test_one_grade_one_group_and_nobody_are_said_and_not_crashes(
    audits: Audits, store: LocalStore, two: tuple[Result, Result], tmp_path: Path, lang: str
) -> None:
    t = Texts("es" if lang == "es" else "en")
    assert t("audits.none") in audits("report", lang=lang).out
    out = tmp_path / "lote.jsonl"
    assert audits("sample", "--out", out, "--count", 5, lang=lang).code == 0
    assert t("audits.no_grades") in audits("report", lang=lang).out
    rows = rows_in(out)
    rows[2]["grade"] = "Mala"
    out.write_bytes(jsonl(rows))
    for who in ("Ana [red]", "Luz"):
        added = audits("add", out, "--grader", who, lang=lang)
        assert added.code == 0
        assert t("audits.open", count=9, lines="1, 2, 4, 5, 6, 7, 8, 9, 10") in added.out
        assert t("audits.skipped", count=2) in added.err
    shown = audits("report", lang=lang)
    assert shown.code == 0
    assert "—" in shown.out
    assert t("audits.few_groups") in shown.out
    assert shown.out.count("Ana [red]") == 3  # her row, her pair, their table
    (sample,) = json.loads(audits("report", "--json").out)["samples"]
    for pair in (*sample["pairs"], sample["judges"][0]["agreement"]):
        assert (pair["groups"], pair["exact"], pair["kappa"], pair["ac2"]) == (1, None, None, None)
    assert sample["alpha"] is None
    assert "{" not in shown.out


def test_a_whole_audit_on_the_command_line(audits: Audits, demo: Instrument, store: LocalStore, tmp_path: Path) -> None:
    one, _ = (scored(demo, store, name, letters(name, cycle)) for name, cycle in (("uno", "ggrb"), ("dos", "bbrg")))
    assert not isinstance(one.score.corrected, Estimate) or one.score.corrected.method == "rogan-gladen"
    out = tmp_path / "lote.jsonl"
    assert audits("sample", "--out", out, lang="es").code == 0
    guide = Path(f"{out}.md").read_text(encoding="utf-8")
    assert demo.rubric.criteria[0].es.name in guide
    assert not any(line.startswith("# ") for line in guide.splitlines()[1:])
    rows = rows_in(out)
    for row in rows:
        row["grade"] = {"g": "buena", "r": "Regular", "b": "mala"}[row["answer"].rpartition("#")[2]]
    back = tmp_path / "de vuelta.csv"
    back.write_bytes(table(rows))
    assert audits("add", back, "--grader", "Ana").code == 0
    assert "120" in audits("add", back, "--grader", "Luz").out
    found = json.loads(audits("report", "--json").out)
    (sample,) = found["samples"]
    assert sample["judges"][0]["agreement"]["kappa"]["value"] == 1
    assert sample["judges"][0]["order"] == {"same": 1, "pairs": 1}
    assert sample["alpha"]["value"] == 1
    assert [(row["model"], row["graded"]) for row in found["models"]] == [("dos", 60), ("uno", 60)]
    langs: tuple[Lang, ...] = ("es", "en")
    for lang in langs:
        shown = audits("report", lang=lang).out
        assert "Ana · Luz" in shown
        assert "60" in shown
        assert Texts(lang)("audits.order", same=1, pairs=1) in shown
        for row in sample["judges"][0]["means"]:
            for side in ("people", "judge"):
                value, low, high = (Texts(lang).number(row[side][end], 1) for end in ("value", "low", "high"))
                assert f"{value} ({low} – {high})" in shown
    again = evaluate(one.submission, demo, Engines(unopened, unopened), store, again="score")
    assert isinstance(again.score.corrected, Estimate)
    assert again.score.corrected.method == "ppi++"
    assert again.score.corrected.low < again.score.eco.value < again.score.corrected.high


def test_files_of_other_kinds_beside_samples_are_left_alone(store: LocalStore) -> None:
    sample = keep_sample(store, sample_of(IDS))
    store.write("audits/people/LEEME.md", b"hola")
    store.write(f"audits/people/{sample.id}/viejo/ana.json", b"{")
    store.write("audits/judges/x/card.json", b"{")
    assert mean_points(load_audits(store)) == {}
    assert issubclass(StoreError, EcoEvalError)
    assert Place.model_validate(sample.items[0].of[0].model_dump()) == sample.items[0].of[0]
