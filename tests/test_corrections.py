"""Corrected and length-controlled scores of records: a known truth simulated many times, and why there is no number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_eval.corrections import ROLES, GoldVerdicts, corrected, length_controlled
from eco_eval.readings import POINTS, Marked, marked
from eco_eval.scoring import score
from eco_eval.settings import Lang
from eco_eval.stats.correction import MIN_AUDITS, MIN_GOLD, MIN_REST
from eco_eval.types import GRADES, Answer, Estimate, Graded, Judgement, Prompt, Score, Ungraded, Withheld
from eco_eval.ui.texts import Texts, catalogue

LANGS: tuple[Lang, ...] = ("es", "en")
NOMINAL = (0.92, 0.975)
TRIPLES = 90
BY_RULE = 3
NO_VERDICT = -1

Classes = np.ndarray[Any, np.dtype[np.intp]]

USUAL = np.array([[0.85, 0.175, 0.1], [0.075, 0.65, 0.1], [0.075, 0.175, 0.8]])
"""P(judge says the row | truth is the column)."""

SHARES = (0.5, 0.3, 0.2)
WORTH = float(np.dot(SHARES, POINTS))


@cache
def verdict(grade: int) -> Judgement:
    if grade == NO_VERDICT:
        return Ungraded(prompt_id="p", cause="off_label")
    if grade == BY_RULE:
        return Graded(prompt_id="p", grade=GRADES[-1], probabilities=(0.0, 0.0, 1.0), source="rule")
    return Graded(prompt_id="p", grade=GRADES[grade], source="hard")


def words(count: int) -> str:
    return "no " * count


@cache
def prompts(count: int, lengths: tuple[tuple[int, int, int], ...] = (), control: bool = False) -> tuple[Prompt, ...]:
    """Prompts with gold of these lengths in words, best to worst, over and over."""
    found = []
    for i in range(count):
        role = dict(zip(ROLES, map(words, lengths[i % len(lengths)]), strict=True)) if lengths else {}
        found.append(Prompt(id=f"p{i}", group=f"g{i}", text="x", control=control, **role))
    return tuple(found)


LENGTHS = tuple((100 + 7 * (i % 9), 100 + 7 * (i % 7), 100 + 7 * (i % 5)) for i in range(45))
TASTELESS = prompts(TRIPLES, LENGTHS)


def gold_of(*seats: Sequence[Sequence[int]], triples: Sequence[Prompt] = TASTELESS) -> GoldVerdicts:
    """Gold from classes said, one (3, triples) a judge."""
    return GoldVerdicts(triples, [[[verdict(int(c)) for c in seat[role]] for seat in seats] for role in range(3)])


RIGHT = gold_of(np.repeat([[0], [1], [2]], TRIPLES, axis=1))


UNEVEN = gold_of(
    [np.resize(said, TRIPLES) for said in ([0, 1, 1], [1, 0, 1], [2, 2, 1])],
    triples=prompts(TRIPLES, ((200, 100, 100), (100, 200, 100), (100, 100, 200))),
)
"""One answer in three is twice as long, and a grade up for it."""


def graded_of(
    *saids: Sequence[int] | Classes, lengths: Sequence[int] | int = 110, asked: Sequence[Prompt] = ()
) -> list[Marked]:
    """Answers with what each judge said of them."""
    asked = asked or prompts(len(saids[0]))
    long = [lengths] * len(asked) if isinstance(lengths, int) else lengths
    answers = [Answer(prompt_id=p.id, text=words(n)) for p, n in zip(asked, long, strict=True)]
    return marked(asked, answers, [[verdict(int(c)) for c in said] for said in saids])


def said_of(truth: Classes, draws: np.ndarray, matrix: np.ndarray = USUAL) -> Classes:
    return np.asarray((draws[..., None] > np.cumsum(matrix, axis=0).T[truth]).sum(axis=-1))


def estimate(found: Estimate | Withheld) -> Estimate:
    assert isinstance(found, Estimate), found
    assert 0 <= found.low <= found.value <= found.high <= 100
    return found


def coverage(draw: Callable[[np.random.Generator], Estimate | Withheld], truth: float, repeats: int = 400) -> float:
    """How often the intervals hold the truth; hardly any may be withheld."""
    rng = np.random.default_rng(20_251_120)
    found = [draw(rng) for _ in range(repeats)]
    given_out = [f for f in found if isinstance(f, Estimate)]
    assert len(given_out) >= 0.97 * repeats
    return float(np.mean([f.low <= truth <= f.high for f in given_out]))


class TestCorrected:
    @pytest.mark.parametrize(("judges", "agree"), [(1, 0.0), (3, 0.0), (3, 0.7)])
    @pytest.mark.parametrize("by_rule", [0.0, 0.25])
    def test_it_covers(self, judges: int, agree: float, by_rule: float) -> None:
        """Gold and answers are of the same prompts; judges' errors on an answer are independent, or often the same."""
        roles = np.repeat([[0], [1], [2]], TRIPLES, axis=1)

        def draw(rng: np.random.Generator) -> Estimate | Withheld:
            deserved = rng.choice(3, 150, p=SHARES)
            silent = rng.random(150) < by_rule
            golds, saids = [], []
            shared = rng.random(150 + 3 * TRIPLES)
            is_shared = rng.random(150 + 3 * TRIPLES) < agree
            for _ in range(judges):
                draws = np.where(is_shared, shared, rng.random(150 + 3 * TRIPLES))
                golds.append(said_of(roles, draws[150:].reshape(3, TRIPLES)))
                saids.append(np.where(silent, BY_RULE, said_of(deserved, draws[:150])))
            return corrected(graded_of(*saids), gold_of(*golds), {})

        assert NOMINAL[0] <= coverage(draw, 100 * (1 - by_rule) * WORTH) <= NOMINAL[1]

    def test_it_is_right_where_the_raw_score_is_squeezed(self) -> None:
        """75 good and 25 regular answers of 100, as a judge whose errors are known would grade them."""
        said = np.repeat([0, 1, 2], [681, 219, 100])[::10]
        roles = [np.repeat([0, 1, 2], np.rint(90 * USUAL[:, k]).astype(int))[:90] for k in range(3)]
        gold = [np.resize(given, TRIPLES) for given in roles]
        found = scored(said, gold_of(gold))
        assert found.eco.value == pytest.approx(79, abs=1)
        assert estimate(found.corrected).value == pytest.approx(87.5, abs=2)

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.integers(0, 3), min_size=20, max_size=120).filter(lambda said: said.count(3) < len(said) - 5))
    def test_a_judge_that_never_errs_changes_nothing_but_by_the_smoothing(self, said: list[int]) -> None:
        found = scored(said, RIGHT)
        smoothing = 100 * 1.5 / TRIPLES
        assert estimate(found.corrected).value == pytest.approx(found.eco.value, abs=smoothing)
        assert found.corrected.n == len(said)

    def test_an_answer_no_judge_read_is_worth_nothing_and_not_less(self) -> None:
        rng = np.random.default_rng(1)
        gold = gold_of(said_of(np.repeat([[0], [1], [2]], TRIPLES, axis=1), rng.random((3, TRIPLES))))
        said = rng.choice(3, 90, p=SHARES)
        half = corrected(graded_of([*said, *[BY_RULE] * 90]), gold, {})
        assert estimate(half).value == pytest.approx(estimate(corrected(graded_of(said), gold, {})).value / 2)

    @pytest.mark.parametrize("kept", [corrected, length_controlled])
    def test_controls_count_neither_in_gold_nor_in_answers(self, kept: Callable[..., object]) -> None:
        rng = np.random.default_rng(2)
        gold = said_of(np.repeat([[0], [1], [2]], TRIPLES, axis=1), rng.random((3, TRIPLES)))
        said = rng.choice(3, 60)
        controls = [p.model_copy(update={"id": f"c{p.id}", "group": f"c{p.id}", "control": True}) for p in TASTELESS]
        every = gold_of(np.hstack([gold, 2 - gold]), triples=[*TASTELESS, *controls])
        plain = scored(said, gold_of(gold))
        mixed = scored([*said, *[2] * 30], every, asked=[*prompts(60), *controls[:30]])
        assert mixed.controls is not None
        assert (mixed.corrected, mixed.length_controlled) == (plain.corrected, plain.length_controlled)
        assert isinstance(kept(graded_of(said), gold_of(gold), *[{}] * (kept is corrected)), Estimate)

    def test_gold_of_controls_corrects_controls_alone(self) -> None:
        triples = prompts(TRIPLES, LENGTHS, control=True)
        gold = RIGHT._replace(triples=triples)
        said = [0, 1, 2] * 20
        alone = score(prompts(60, control=True), answers_of(60), [[verdict(c) for c in said]], 0, gold)
        assert estimate(alone.corrected).value == pytest.approx(50)
        assert withheld(corrected(graded_of(said), gold, {})) == ("little_gold", f"0 < {MIN_GOLD}")


def answers_of(count: int, length: int = 110) -> list[Answer]:
    return [Answer(prompt_id=f"p{i}", text=words(length)) for i in range(count)]


def scored(
    said: Sequence[int] | Classes,
    gold: GoldVerdicts | None,
    audits: dict[str, float] | None = None,
    asked: Sequence[Prompt] = (),
    length: int = 110,
) -> Score:
    asked = asked or prompts(len(said))
    answers = [Answer(prompt_id=p.id, text=words(length)) for p in asked]
    return score(asked, answers, [[verdict(int(c)) for c in said]], 0.5, gold, audits)


class TestAudits:
    @pytest.mark.parametrize(("answers", "audited"), [(100, 60), (100, 100), (90, 75), (300, 80)])
    @pytest.mark.parametrize("shares", [SHARES, (0.2, 0.3, 0.5)])
    def test_it_covers_whatever_the_judge_is_like(
        self, answers: int, audited: int, shares: tuple[float, float, float]
    ) -> None:
        """A judge that is lenient with answers as it is not with gold."""
        lenient = np.array([[0.95, 0.5, 0.3], [0.05, 0.45, 0.2], [0.0, 0.05, 0.5]])

        def draw(rng: np.random.Generator) -> Estimate | Withheld:
            deserved = rng.choice(3, answers, p=shares)
            said = said_of(deserved, rng.random(answers), lenient)
            read = rng.permutation(answers)[:audited]
            return corrected(graded_of(said), RIGHT, {f"p{i}": POINTS[deserved[i]] for i in read})

        assert NOMINAL[0] <= coverage(draw, 100 * float(np.dot(shares, POINTS)), 500) <= NOMINAL[1]

    @pytest.mark.parametrize(
        ("answers", "audited", "method"),
        [
            (100, MIN_AUDITS - 1, "rogan-gladen"),
            (100, MIN_AUDITS, "ppi++"),
            (100, 101 - MIN_REST, "people"),
            (100, 100, "people"),
        ],
    )
    def test_people_take_over_from_sixty_groups(self, answers: int, audited: int, method: str) -> None:
        said = np.resize([0, 1, 2], answers)
        audits = {f"p{i}": POINTS[said[i]] for i in range(audited)}
        found = scored(said, RIGHT, audits)
        assert estimate(found.corrected).method == method
        assert found.corrected.n == (audited if method == "people" else answers)
        assert all("method." + method in catalogue(lang) for lang in LANGS)

    def test_audits_of_other_prompts_and_of_controls_do_not_count(self) -> None:
        said = np.resize([0, 1, 2], 90)
        controls = [Prompt(id=f"c{i}", group=f"c{i}", text="x", control=True) for i in range(60)]
        audits = {f"c{i}": 1.0 for i in range(60)} | {f"x{i}": 1.0 for i in range(60)}
        found = scored([*said, *[0] * 60], RIGHT, audits, [*prompts(90), *controls])
        assert found.corrected == scored(said, RIGHT).corrected

    def test_all_alike_is_not_certain(self) -> None:
        found = estimate(scored([0] * 80, None, {f"p{i}": 1.0 for i in range(80)}).corrected)
        assert found.high == 100
        assert 90 < found.low < 99

    def test_an_audited_answer_that_no_judge_read_agrees_with_people(self) -> None:
        """Half the answers are empty. To correct their verdict would contradict people, who call them bad."""
        rng = np.random.default_rng(3)
        gold = said_of(np.repeat([[0], [1], [2]], TRIPLES, axis=1), rng.random((3, TRIPLES)), 0.75 * USUAL + 0.25 / 3)
        deserved = rng.choice(3, 100, p=SHARES)
        said = np.where(np.arange(100) % 2 == 0, BY_RULE, said_of(deserved, rng.random(100), 0.75 * USUAL + 0.25 / 3))
        audits = {f"p{i}": 0.0 for i in range(0, 100, 2)}
        assert isinstance(corrected(graded_of(said), gold_of(gold), audits), Estimate)


class TestLengthControlled:
    LONG = 260
    """Words: twice the gold, within what may be extrapolated."""

    @staticmethod
    def drawn(rng: np.random.Generator, mean: np.ndarray) -> Classes:
        """Grades whose expected points are the mean: two levels, each risen with that chance."""
        return np.asarray(2 - (rng.random((2, *mean.shape)) < mean).sum(axis=0))

    @pytest.mark.parametrize(("taste", "judges"), [(0.15, 1), (0.0, 1), (0.15, 3), (-0.1, 1)])
    def test_it_covers(self, taste: float, judges: int) -> None:
        """Points rise straight with log words; roles have levels and prompts their own ease, in gold and answers."""
        sizes = tuple(
            tuple(int(n) for n in row)
            for row in np.exp(np.random.default_rng(0).normal(np.log(120), 0.35, (TRIPLES, 3))).round()
        )
        triples = prompts(TRIPLES, sizes)
        log_gold = np.log(sizes).T
        reference = log_gold[0].mean()
        levels = np.array([[0.7], [0.5], [0.35]])

        def draw(rng: np.random.Generator) -> Estimate | Withheld:
            ease = rng.uniform(-0.12, 0.12, 120)
            lengths = np.exp(rng.normal(np.log(self.LONG), 0.3, 120)).round().astype(int)
            gold = levels + taste * (log_gold - reference) + ease[:TRIPLES]
            own = 0.5 + taste * (np.log(lengths) - reference) + ease
            return length_controlled(
                graded_of(*(self.drawn(rng, own) for _ in range(judges)), lengths=lengths.tolist()),
                gold_of(*(self.drawn(rng, gold) for _ in range(judges)), triples=triples),
            )

        assert NOMINAL[0] <= coverage(draw, 50) <= NOMINAL[1]

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.integers(0, 3), min_size=20, max_size=100).filter(lambda said: said.count(3) < len(said) - 5))
    def test_without_a_taste_for_length_it_is_the_raw_score(self, said: list[int]) -> None:
        found = scored(said, RIGHT, length=180)
        assert estimate(found.length_controlled).value == pytest.approx(found.eco.value)

    def test_what_is_taken_off_is_the_slope_times_the_log_of_how_much_longer(self) -> None:
        reference = np.exp((np.log(200) + 2 * np.log(100)) / 3)
        said = np.resize([0, 1, 2], 90)
        for length in (100, 150, 200):
            found = estimate(length_controlled(graded_of(said, lengths=length), UNEVEN))
            assert found.value == pytest.approx(50 - 50 * np.log2(length / reference))

    def test_answers_no_judge_read_are_left_as_they_are(self) -> None:
        said = np.resize([0, 1, 2], 90)
        read = length_controlled(graded_of(said, lengths=200), UNEVEN)
        half = length_controlled(graded_of([*said, *[BY_RULE] * 90], lengths=[*[200] * 90, *[0] * 90]), UNEVEN)
        assert estimate(half).value == pytest.approx(estimate(read).value / 2)

    def test_one_odd_gold_answer_does_not_widen_what_is_known(self) -> None:
        odd = TASTELESS[0].model_copy(update={"worst": words(5000)})
        gold = RIGHT._replace(triples=[odd, *TASTELESS[1:]])
        graded = graded_of([0, 1, 2] * 20, lengths=2000)
        for known in (RIGHT, gold):
            assert withheld(length_controlled(graded, known))[0] == "other_lengths"

    def test_empty_answers_do_not_hide_that_the_others_are_too_long(self) -> None:
        graded = graded_of([*[0, 1, 2] * 10, *[BY_RULE] * 90], lengths=[*[2000] * 30, *[0] * 90])
        assert withheld(length_controlled(graded, RIGHT))[0] == "other_lengths"


def withheld(found: object) -> tuple[str, str]:
    assert isinstance(found, Withheld), found
    for lang in LANGS:
        assert Texts(lang)("withheld." + found.reason, detail=found.detail)
    return found.reason, found.detail


def gold_with(said: Sequence[Sequence[int]] | np.ndarray, count: int = TRIPLES) -> GoldVerdicts:
    return gold_of([np.resize(given, count) for given in said], triples=prompts(count, LENGTHS))


MIXED = [0, 1, 2] * 30
CHANCE = [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
NEARLY_ALIKE = prompts(TRIPLES, ((150, 151, 150), (150, 150, 151), (151, 150, 150)))
NOISY = np.random.default_rng(0).integers(0, 3, (3, TRIPLES))

WITHHELD: dict[str, tuple[Callable[[], Estimate | Withheld], str]] = {
    "no gold": (lambda: corrected(graded_of(MIXED), None, {}), "no_gold"),
    "no gold for length": (lambda: length_controlled(graded_of(MIXED), None), "no_gold"),
    "one group": (lambda: corrected(graded_of([0]), RIGHT, {}), "few_answers 1 < 2"),
    "one group for length": (lambda: length_controlled(graded_of([0]), RIGHT), "few_answers 1 < 2"),
    "all empty": (lambda: corrected(graded_of([BY_RULE] * 50), RIGHT, {}), "many_by_rule 100 %"),
    "one read": (lambda: corrected(graded_of([0, *[BY_RULE] * 49]), RIGHT, {}), "many_by_rule 98 %"),
    "all empty for length": (lambda: length_controlled(graded_of([BY_RULE] * 50), RIGHT), "many_by_rule 100 %"),
    "few triples": (lambda: corrected(graded_of(MIXED), gold_with([[0], [1], [2]], 19), {}), "little_gold 19 < 20"),
    "few of one role": (
        lambda: corrected(graded_of(MIXED), gold_with([[0], [1], [2, *[NO_VERDICT] * 8]]), {}),
        "little_gold 10 < 20",
    ),
    "few triples for length": (
        lambda: length_controlled(graded_of(MIXED), gold_with([[0], [1], [2]], 19)),
        "little_gold 19 < 20",
    ),
    "nothing to compare within prompts": (
        lambda: length_controlled(
            graded_of(MIXED),
            gold_with([[0, NO_VERDICT, NO_VERDICT], [NO_VERDICT, 1, NO_VERDICT], [NO_VERDICT, NO_VERDICT, 2]]),
        ),
        "little_gold 0 < 20",
    ),
    "two answers of one prompt": (
        lambda: length_controlled(graded_of(MIXED), gold_with([[0], [1, *[NO_VERDICT] * 89], [NO_VERDICT]])),
        "little_gold 1 < 20",
    ),
    "a judge by chance": (lambda: corrected(graded_of(MIXED), gold_with(CHANCE), {}), "ill_conditioned"),
    "the second of two judges by chance": (
        lambda: corrected(
            graded_of(MIXED, MIXED),
            gold_of(np.repeat([[0], [1], [2]], TRIPLES, axis=1), [np.resize(given, TRIPLES) for given in CHANCE]),
            {},
        ),
        "ill_conditioned",
    ),
    "more good than its errors allow": (
        lambda: corrected(graded_of([0] * 90), gold_with([[0, 0, 1], [1, 1, 0], [2, 2, 1, 0]]), {}),
        "impossible_shares -",
    ),
    "people say otherwise": (
        lambda: corrected(graded_of(MIXED), RIGHT, {f"p{i}": 0.0 for i in range(0, 90, 3)}),
        "not_transported -10",
    ),
    "gold of one length": (
        lambda: length_controlled(graded_of(MIXED), RIGHT._replace(triples=prompts(TRIPLES, ((150, 150, 150),)))),
        "same_length ± ∞",
    ),
    "gold nearly of one length": (
        lambda: length_controlled(graded_of(MIXED, lengths=400), gold_of(NOISY, triples=NEARLY_ALIKE)),
        "same_length ± ",
    ),
    "answers too long": (lambda: length_controlled(graded_of(MIXED, lengths=2000), RIGHT), "other_lengths 2000 / 10"),
    "answers too short": (lambda: length_controlled(graded_of(MIXED, lengths=3), RIGHT), "other_lengths 3 / 10"),
}


class TestWithheld:
    @pytest.mark.parametrize("case", WITHHELD)
    def test_it_says_why(self, case: str) -> None:
        found, expected = WITHHELD[case]
        assert " ".join(withheld(found())).startswith(expected)

    def test_no_reason_is_left_out(self) -> None:
        reached = {expected.split()[0] for _, expected in WITHHELD.values()}
        every = set(get_args(Withheld.model_fields["reason"].annotation))
        assert reached == every - {"few_models", "same_length_models"}, "the board alone needs several models"
        for lang in LANGS:
            assert {f"withheld.{reason}" for reason in every} == {
                k for k in catalogue(lang) if k.startswith("withheld.")
            }

    def test_gold_nearly_of_one_length_is_enough_for_answers_of_that_length(self) -> None:
        graded = graded_of(MIXED, lengths=150)
        assert isinstance(length_controlled(graded, gold_of(NOISY, triples=NEARLY_ALIKE)), Estimate)

    @pytest.mark.parametrize(("apart", "named"), [("code", "PWM: +40"), ("length", "> 120: +40"), ("model", "+40")])
    def test_the_stratum_that_fails_is_named(self, apart: str, named: str) -> None:
        """All is regular to the judge; to people one half is better, and the other worse unless all of it is better."""
        first = [i % 2 == 0 for i in range(100)]
        asked = [
            p.model_copy(update={"codes": ("PWM" if one or apart != "code" else "WA",)})
            for p, one in zip(prompts(100), first, strict=True)
        ]
        lengths = [144 if one or apart != "length" else 100 for one in first]
        audits = {f"p{i}": 0.9 if first[i] or apart == "model" else 0.1 for i in range(50)}
        reason, detail = withheld(corrected(graded_of([1] * 100, asked=asked, lengths=lengths), RIGHT, audits))
        assert (reason, detail[: len(named)]) == ("not_transported", named)

    @pytest.mark.parametrize(
        ("length", "reason"), [(599, None), (601, "other_lengths"), (34, None), (33, "other_lengths")]
    )
    def test_the_edge_of_what_may_be_extrapolated(self, length: int, reason: str | None) -> None:
        """Three times 200 words, and a third of 100."""
        found = length_controlled(graded_of(MIXED, lengths=length), UNEVEN)
        assert (found.reason if isinstance(found, Withheld) else None) == reason


class TestEverything:
    @settings(deadline=None, max_examples=60)
    @given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 70), st.sampled_from([0, 5, 65]), st.floats(0, 1))
    def test_whatever_is_given_there_is_a_number_in_the_range_or_a_reason(
        self, seed: int, judges: int, count: int, audited: int, skill: float
    ) -> None:
        rng = np.random.default_rng(seed)
        roles = np.repeat([[0], [1], [2]], 30, axis=1)
        sizes = tuple(tuple(int(n) for n in row) for row in rng.integers(1, 200, (30, 3)))
        golds = [np.where(rng.random((3, 30)) < skill, roles, rng.integers(-1, 3, (3, 30))) for _ in range(judges)]
        silent = rng.random(count) < rng.random()
        saids = [
            np.where(silent, BY_RULE, rng.choice(4, count, p=rng.dirichlet((0.5, 0.5, 0.5, 0.1))) - 1)
            for _ in range(judges)
        ]
        answers = [Answer(prompt_id=f"p{i}", text=words(int(n))) for i, n in enumerate(rng.integers(1, 600, count))]
        given = [[verdict(int(c)) for c in said] for said in saids]
        if not marked(prompts(count), answers, given):
            return
        audits = {f"p{i}": float(rng.random()) for i in range(audited)}
        gold = gold_of(*golds, triples=prompts(30, sizes))
        found = score(prompts(count), answers, given, 1.0, gold, audits)
        for part in (found.corrected, found.length_controlled):
            if isinstance(part, Withheld):
                assert withheld(part)
            else:
                assert estimate(part).groups >= 2
