"""Verdicts become a score, or none: nothing missing is a grade, nothing given is lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_eval.errors import TooManyUngraded
from eco_eval.readings import expected_points
from eco_eval.scoring import agreement, consensus, score
from eco_eval.types import (
    GRADES,
    Answer,
    Failure,
    Grade,
    Graded,
    IssueCode,
    Judgement,
    Prompt,
    Score,
    Ungraded,
)

GOOD, REGULAR, BAD = GRADES
LETTERS = {"g": GOOD, "r": REGULAR, "b": BAD}

VERDICTS = st.text(alphabet="grb.", min_size=1, max_size=40)
"""One letter a verdict; a dot is none."""


def verdict(number: int, letter: str) -> Judgement:
    if letter == ".":
        return Ungraded(prompt_id=f"p{number}", cause="off_label")
    return Graded(prompt_id=f"p{number}", grade=LETTERS[letter], source="hard")


def scored(letters: str, allowed: float = 0.99, answers: Sequence[Answer] | None = None) -> Score:
    prompts = [Prompt(id=f"p{i}", group=f"p{i}", text="x") for i in range(len(letters))]
    written = answers or [Answer(prompt_id=p.id, text="Hola") for p in prompts]
    return score(prompts, written, [[verdict(i, letter) for i, letter in enumerate(letters)]], allowed)


class TestScore:
    def test_good_is_one_regular_a_half_and_bad_nothing(self) -> None:
        found = scored("ggrb")
        assert found.eco.value == 62.5
        assert {grade: share.value for grade, share in found.shares.items()} == {GOOD: 50, REGULAR: 25, BAD: 25}
        assert found.bounds == (62.5, 62.5)

    def test_controls_are_scored_apart(self) -> None:
        prompts = [Prompt(id=f"p{i}", group=f"p{i}", text="x", control=i > 2, codes=("PWM",)) for i in range(6)]
        answers = [Answer(prompt_id=p.id, text="Hola") for p in prompts]
        found = score(prompts, answers, [[verdict(i, letter) for i, letter in enumerate("gr.gbb")]], 0.5)
        assert found.eco.value == 75
        assert found.controls is not None
        assert found.controls.value == pytest.approx(100 / 3)
        assert found.by_code["PWM"].n == 2
        assert (found.counts.asked, found.counts.graded) == (6, 5)
        assert found.bounds == (50, pytest.approx(250 / 3))

    def test_judge_failure_is_not_a_zero(self) -> None:
        found = scored("gg..")
        assert found.eco.value == 100
        assert found.eco.n == 2
        assert (found.counts.asked, found.counts.graded, found.counts.ungraded) == (4, 2, 2)
        assert found.bounds == (50, 100)

    @settings(deadline=None, max_examples=60)
    @given(VERDICTS)
    def test_every_part_keeps_to_its_range_and_the_bounds_hold_the_score(self, letters: str) -> None:
        if set(letters) == {"."}:
            return
        found = scored(letters)
        for part in (found.eco, *found.shares.values()):
            assert 0 <= part.low <= part.value <= part.high <= 100
        assert sum(share.value for share in found.shares.values()) == pytest.approx(100)
        assert found.bounds[0] - 1e-9 <= found.eco.value <= found.bounds[1] + 1e-9
        assert found.bounds[0] == pytest.approx(scored(letters.replace(".", "b")).eco.value)
        assert found.bounds[1] == pytest.approx(scored(letters.replace(".", "g")).eco.value)
        assert found.counts.graded + found.counts.ungraded == found.counts.asked == len(letters)

    @settings(deadline=None)
    @given(st.integers(1, 200), st.data())
    def test_exactly_as_many_as_allowed_may_be_missing(self, asked: int, data: st.DataObject) -> None:
        missing = data.draw(st.integers(0, asked - 1))
        letters = "." * missing + "g" * (asked - missing)
        assert scored(letters, missing / asked).counts.ungraded == missing
        if missing:
            with pytest.raises(TooManyUngraded):
                scored(letters, (missing - 1) / asked)

    def test_too_many_missing_verdicts_are_refused_with_their_causes(self) -> None:
        prompts = [Prompt(id=f"p{i}", group=f"p{i}", text="x") for i in range(4)]
        verdicts: list[Judgement] = [
            Ungraded(prompt_id="p0", cause="too_long"),
            Ungraded(prompt_id="p1", cause="off_label"),
            Ungraded(prompt_id="p2", cause="too_long"),
            verdict(3, "g"),
        ]
        with pytest.raises(TooManyUngraded) as caught:
            score(prompts, [Answer(prompt_id=p.id, text="x") for p in prompts], [verdicts], 0.5)
        assert caught.value.values["ungraded"] == 3
        assert caught.value.values["asked"] == 4
        assert caught.value.values["causes"] == "off_label, too_long"

    @pytest.mark.parametrize("letters", ["", "."])
    def test_no_verdict_is_no_score(self, letters: str) -> None:
        with pytest.raises(TooManyUngraded):
            scored(letters)

    def test_answers_cut_and_empty_are_counted(self) -> None:
        answers = [
            Answer(prompt_id="p0", text="Hola", truncated=True),
            Answer(prompt_id="p1", text=" …!\n"),
            Answer(prompt_id="p2", text="", failure=Failure(cause="too_long")),
            Answer(prompt_id="p3", text="", truncated=True),
        ]
        counts = scored("gb.b", answers=answers).counts
        assert (counts.truncated, counts.empty, counts.ungraded) == (2, 2, 1)

    def test_a_prompt_counts_for_each_of_its_codes_and_kinds(self) -> None:
        codes: list[tuple[IssueCode, ...]] = [("WA", "SC"), ("SC",), (), ("WA",)]
        prompts = [
            Prompt(id=f"p{i}", group=f"p{i}", text="x", codes=c, kind=k)
            for i, (c, k) in enumerate(zip(codes, ("plan", "advice", None, "plan"), strict=True))
        ]
        verdicts = [verdict(i, letter) for i, letter in enumerate("gbg.")]
        found = score(prompts, [Answer(prompt_id=p.id, text="x") for p in prompts], [verdicts], 0.5)
        assert {code: (part.value, part.n) for code, part in found.by_code.items()} == {"SC": (50, 2), "WA": (100, 1)}
        assert list(found.by_code) == ["SC", "WA"]
        assert {kind: part.value for kind, part in found.by_kind.items()} == {"advice": 0, "plan": 100}
        assert found.eco.value == pytest.approx(200 / 3)

    def test_paraphrases_of_a_prompt_are_one_group(self) -> None:
        prompts = [Prompt(id=f"p{i}", group=f"g{i // 3}", text="x") for i in range(30)]
        verdicts = [verdict(i, "gb"[i // 3 % 2]) for i in range(30)]
        found = score(prompts, [Answer(prompt_id=p.id, text="x") for p in prompts], [verdicts], 0)
        alone = scored("gb" * 5)
        assert (found.eco.n, found.eco.groups) == (30, 10)
        assert 1 <= (found.eco.high - found.eco.low) / (alone.eco.high - alone.eco.low) < 1.3

    def test_lists_of_different_lengths_are_a_bug(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            score([Prompt(id="a", group="a", text="x")], [], [[]], 0.5)


class TestConsensus:
    def test_verdicts_by_rule_are_no_agreement(self) -> None:
        prompts = [Prompt(id=f"p{i}", group=f"p{i}", text="x") for i in range(60)]
        first, second = ([verdict(i, letters[i % 6]) for i in range(40)] for letters in ("grbgrb", "rbgbgr"))
        empty = [Graded(prompt_id=f"p{i}", grade=BAD, source="rule") for i in range(40, 60)]
        read = consensus(prompts[:40], [first, second])
        every = consensus(prompts, [[*first, *empty], [*second, *empty]])
        assert read is not None
        assert every is not None
        assert every.value == pytest.approx(read.value)
        assert consensus(prompts, [[*first, *empty]]) is None


class TestSoftScore:
    prompts = tuple(Prompt(id=f"p{i}", group=f"p{i}", text="x") for i in range(2))
    answers = tuple(Answer(prompt_id=p.id, text="x") for p in prompts)
    soft = Graded(prompt_id="p0", grade=GOOD, probabilities=(0.6, 0.4, 0.0), source="exact")

    def test_it_is_the_expected_value(self) -> None:
        other = self.soft.model_copy(update={"probabilities": (0.0, 0.5, 0.5), "grade": BAD})
        found = score(self.prompts, self.answers, [[self.soft, other]], 0)
        assert found.soft is not None
        assert found.soft.value == pytest.approx(100 * (0.8 + 0.25) / 2)
        assert found.eco.value == 50

    def test_one_hard_label_leaves_none(self) -> None:
        assert score(self.prompts, self.answers, [[self.soft, verdict(1, "g")]], 0).soft is None

    def test_a_missing_verdict_leaves_the_others(self) -> None:
        found = score(self.prompts, self.answers, [[self.soft, verdict(1, ".")]], 0.5)
        assert found.soft is not None
        assert (found.soft.value, found.soft.n) == (pytest.approx(80), 1)

    def test_expected_points_of_a_hard_label_are_the_grade_s(self) -> None:
        assert [expected_points(Graded(prompt_id="a", grade=g, source="hard")) for g in Grade] == [1, 0.5, 0]
        assert expected_points(self.soft) == pytest.approx(0.8)


def triples(*letters: str) -> list[tuple[Judgement, Judgement, Judgement]]:
    """A judge's verdicts on best, ambivalent and worst, three letters a prompt."""
    return [(verdict(i, a), verdict(i, b), verdict(i, c)) for i, (a, b, c) in enumerate(letters)]


class TestAgreement:
    @pytest.mark.parametrize(
        ("letters", "order", "strict", "exact", "kappa"),
        [
            ("grb", 100, 100, 100, 1),
            ("brg", 0, 0, pytest.approx(100 / 3), -1),
            ("rrr", 50, 0, pytest.approx(100 / 3), 0),
            ("ggb", 100, 0, pytest.approx(200 / 3), None),
            ("bbb", 50, 0, pytest.approx(100 / 3), 0),
        ],
        ids=["perfect", "reversed", "tied", "coarse", "constant"],
    )
    def test_known_judges(self, letters: str, order: float, strict: float, exact: float, kappa: float | None) -> None:
        found = agreement(triples(*[letters] * 20), [f"p{i}" for i in range(20)])
        assert found is not None
        assert (found.order.value, found.strict.value, found.exact.value) == (order, strict, exact)
        assert found.kappa is not None
        assert kappa is None or found.kappa.value == pytest.approx(kappa)
        assert found.kappa.low <= found.kappa.value <= found.kappa.high
        assert found.triples == 20
        for part in (found.order, found.strict, found.exact):
            assert 0 <= part.low <= part.value <= part.high <= 100
            assert part.low < part.high

    def test_probabilities_break_the_ties_of_labels(self) -> None:
        def said(good: float) -> Graded:
            return Graded(prompt_id="a", grade=GOOD, probabilities=(good, 1 - good, 0), source="exact")

        found = agreement([(said(0.9), said(0.8), said(0.7))] * 2, ["a", "b"])
        assert found is not None
        assert (found.order.value, found.strict.value) == (100, 100)
        assert found.exact.value == pytest.approx(100 / 3)

    def test_triples_without_all_verdicts_are_left_out(self) -> None:
        found = agreement(triples("grb", "g.b", "grb", "..."), list("abcd"))
        assert found is not None
        assert (found.triples, found.order.value) == (2, 100)

    @pytest.mark.parametrize(("letters", "groups"), [([], []), (["grb"], ["a"]), (["grb", "grb"], ["a", "a"])])
    def test_fewer_than_two_groups_say_nothing(self, letters: list[str], groups: list[str]) -> None:
        assert agreement(triples(*letters), groups) is None
