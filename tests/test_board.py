"""The board from results alone: places, tiers, and scores at equal length."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from eco_eval.board import Board, Row, build
from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.instrument import Instrument
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.store import LocalStore
from eco_eval.types import Estimate, ModelRef, Result, Withheld
from eco_eval.ui.pages.board import render
from eco_eval.ui.terminal import print_board
from eco_eval.ui.texts import Texts


@pytest.fixture(scope="module")
def sample(demo: Instrument, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A real result, whose letters and lengths the tests then set."""

    @contextmanager
    def opened() -> Iterator[Engine]:
        yield ScriptedEngine(answer=lambda c: "El río.", label=lambda c, labels: [3, 2, 1])

    model = ModelRef(name="owner/model", source="hub", revision="a" * 40)
    store = LocalStore(tmp_path_factory.mktemp("board"))
    return evaluate(submit(model, demo), demo, Engines(opened, opened), store)


def result(sample: Result, name: str, grades: str, words: Sequence[int]) -> Result:
    seat = sample.seats[0].model_copy(update={"grades": grades})
    model = sample.submission.model.model_copy(update={"name": name})
    submission = sample.submission.model_copy(update={"model": model})
    worth = {"g": 100.0, "r": 50.0, "b": 0.0}
    value = float(
        np.mean([worth[g] for g, group in zip(grades, sample.groups, strict=True) if group >= 0 and g != "-"])
    )
    score = sample.score.model_copy(update={"eco": sample.score.eco.model_copy(update={"value": value})})
    changes = {"id": submission.id, "submission": submission, "seats": (seat,), "words": tuple(words), "score": score}
    return sample.model_copy(update=changes)


def rows(board: Board) -> dict[str, Row]:
    (section,) = board.sections
    return {row.name: row for row in section.models}


def estimate(found: Estimate | Withheld) -> Estimate:
    assert isinstance(found, Estimate)
    return found


def drawn(rng: np.random.Generator, quality: float, lengths: np.ndarray, taste: float) -> str:
    """Letters whose expected points are the quality plus a taste for log length."""
    good = np.clip(quality + taste * (np.log(lengths) - 5), 0.02, 0.98)
    return "".join("gb"[int(rng.random() > p)] for p in good)


def test_a_model_that_only_writes_more_is_no_better_at_equal_length(sample: Result) -> None:
    rng = np.random.default_rng(3)
    count = len(sample.groups)
    made = []
    for name, length in (("brief", 90), ("usual", 150), ("long", 260), ("longer", 400)):
        words = np.maximum(5, rng.lognormal(np.log(length), 0.5, count)).astype(int)
        made.append(result(sample, name, drawn(rng, 0.5, words, 0.25), words.tolist()))
    found = rows(build(made))
    raw = {name: row.eco.value for name, row in found.items()}
    equal = {name: estimate(row.equal_length) for name, row in found.items()}
    assert raw["longer"] - raw["brief"] > 20
    assert abs(equal["longer"].value - equal["brief"].value) < 0.6 * (raw["longer"] - raw["brief"])
    assert all(e.low < e.value < e.high for e in equal.values())


def test_the_same_lengths_leave_scores_as_they_are(sample: Result) -> None:
    rng = np.random.default_rng(4)
    count = len(sample.groups)
    words = rng.integers(50, 300, count).tolist()
    made = [result(sample, n, drawn(rng, q, np.full(count, 150), 0), words) for n, q in (("a", 0.3), ("b", 0.8))]
    for row in rows(build(made)).values():
        assert isinstance(row.equal_length, Withheld)
        assert row.equal_length.reason == "same_length_models"


def test_one_model_alone_has_no_score_at_equal_length(sample: Result) -> None:
    (row,) = rows(build([sample])).values()
    assert isinstance(row.equal_length, Withheld)
    assert row.equal_length.reason == "few_models"
    for lang in ("es", "en"):
        t = Texts(lang)
        assert t("withheld.few_models") in render(build([sample]), [], t)


def test_empty_answers_and_missing_verdicts_break_nothing(sample: Result) -> None:
    rng = np.random.default_rng(5)
    count = len(sample.groups)
    words = rng.integers(20, 300, count)
    letters = drawn(rng, 0.5, words, 0.2)
    holes = result(sample, "holes", "-" + letters[1:], [0, 0, *words[2:].tolist()])
    empty = result(sample, "empty", "b" * count, [0] * count)
    more = rng.integers(20, 300, count)
    other = result(sample, "other", drawn(rng, 0.5, more, 0.2), more.tolist())
    found = rows(build([holes, other]))
    assert all(isinstance(row.equal_length, Estimate) for row in found.values())
    with_empty = rows(build([holes, other, empty]))
    alone = with_empty["empty"].equal_length
    assert isinstance(alone, Withheld)
    assert alone.reason == "many_by_rule"
    assert all(isinstance(with_empty[name].equal_length, Estimate) for name in ("holes", "other"))
    assert with_empty["empty"].places is not None


def test_a_row_of_the_judge_s_family_says_so_below_the_table(
    sample: Result, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    seat = sample.seats[0].model_copy(update={"same_family": "base_model: Qwen/Qwen2.5"})
    kin = sample.model_copy(update={"seats": (seat, sample.seats[0])})
    board = build([kin])
    for lang in ("es", "en"):
        t = Texts(lang)
        print_board(board, t, tmp_path)
        for shown in (capsys.readouterr().out, html.unescape(render(board, [], t))):
            assert "base_model: Qwen/Qwen2.5" in shown
            assert t("judge.without", model="owner/model", judge=seat.name, places="1") in shown


def test_places_hold_every_model_and_tiers_follow_the_score(sample: Result) -> None:
    rng = np.random.default_rng(6)
    count = len(sample.groups)
    words = np.full(count, 100)
    made = [
        result(sample, f"m{i}", drawn(rng, q, words, 0), words.tolist()) for i, q in enumerate((0.1, 0.5, 0.52, 0.9))
    ]
    (section,) = build(made).sections
    tiers = [row.tier for row in section.models]
    assert tiers == sorted(tiers)
    assert section.models[0].name == "m3"
    assert (section.models[0].places, section.models[-1].places) == (
        section.models[0].places.model_copy(update={"best": 1, "worst": 1}),
        section.models[-1].places.model_copy(update={"best": 4, "worst": 4}),
    )
    page = render(build(made), [], Texts("es"))
    assert page.count("class='tier'") == len(set(tiers)) - 1
    assert "2–3" in page
