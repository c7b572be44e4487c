"""Corrections against second implementations, reference numbers, and a known truth simulated many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from eco_eval.stats import clustered_mean
from eco_eval.stats.correction import (
    MAX_CONDITION,
    MIN_AUDITS,
    MIN_GOLD,
    MIN_REST,
    MIN_STRATUM,
    Gold,
    Transport,
    confusion_matrix,
    corrected_points,
    missing_bounds,
    ppi_mean,
    project_on_simplex,
    rogan_gladen,
    transport_test,
)
from eco_eval.stats.intervals import wilson
from eco_eval.stats.length import length_controlled, length_slope
from eco_eval.types import Estimate, Withheld

POINTS = (1.0, 0.5, 0.0)
NOMINAL = (0.92, 0.975)

Classes = np.ndarray[Any, np.dtype[np.intp]]


def names(count: int, letter: str = "g") -> list[str]:
    return [f"{letter}{i}" for i in range(count)]


def judge(*right: float) -> np.ndarray:
    """A confusion matrix with these shares right and the errors spread evenly."""
    d = np.asarray(right)
    matrix = np.tile((1 - d) / (len(d) - 1), (len(d), 1))
    np.fill_diagonal(matrix, d)
    return matrix


USUAL = judge(0.85, 0.65, 0.80)


def said_of(truth: Classes, matrix: np.ndarray, draws: np.ndarray) -> Classes:
    """What the judge says of each true class, one uniform draw each."""
    return np.asarray((draws[:, None] > np.cumsum(matrix, axis=0).T[truth]).sum(axis=1))


def gold_of(counts: Sequence[Sequence[int]], letter: str = "k") -> Gold:
    """Gold with counts[said][truth] answers, each in a group of its own."""
    said, truth = np.indices(np.shape(counts)).reshape(2, -1)
    times = np.ravel(counts)
    return Gold(np.repeat(truth, times), np.repeat(said, times), names(int(times.sum()), letter))


def alone(
    gold: Gold, said: Sequence[int] | Classes, groups: Sequence[str], points: Sequence[float] = POINTS
) -> Estimate:
    """The corrected mean of a single judge."""
    return estimate(rogan_gladen([gold], [said], groups, points))


def shares_of(gold: Gold, said: Sequence[int] | Classes, groups: Sequence[str]) -> list[Estimate]:
    """The corrected share of every class: its mean where it alone is worth anything."""
    return [alone(gold, said, groups, points) for points in np.eye(3).tolist()]


def estimate(found: Estimate | Withheld) -> Estimate:
    assert isinstance(found, Estimate), found
    return found


def withheld(found: object) -> str:
    assert isinstance(found, Withheld), found
    assert found.detail
    return found.reason


def coverage(draw: Callable[[np.random.Generator], Estimate], truth: float, repeats: int) -> float:
    rng = np.random.default_rng(20_251_120)
    found = [draw(rng) for _ in range(repeats)]
    return float(np.mean([f.low <= truth <= f.high for f in found]))


class TestWilson:
    @given(st.integers(1, 300), st.data())
    def test_it_is_what_statsmodels_says(self, n: int, data: st.DataObject) -> None:
        successes = data.draw(st.integers(0, n))
        found = wilson(successes, n)
        expected = proportion_confint(successes, n, method="wilson")
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert (found.value, found.n, found.groups, found.method) == (successes / n, n, n, "wilson")

    @pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
    def test_a_share_of_nothing_is_refused(self, successes: int, n: int) -> None:
        with pytest.raises(ValueError, match="share"):
            wilson(successes, n)

    @pytest.mark.parametrize(("n", "share"), [(20, 0.2), (60, 0.05), (200, 0.5)])
    def test_it_covers(self, n: int, share: float) -> None:
        counts = np.arange(n + 1)
        holds = [(f := wilson(int(k), n)).low <= share <= f.high for k in counts]
        exact = float(np.dot(holds, scipy_stats.binom.pmf(counts, n, share)))
        assert NOMINAL[0] <= exact <= NOMINAL[1]


class TestSimplex:
    @given(st.lists(st.floats(-3, 3), min_size=1, max_size=6))
    def test_the_projection_meets_the_conditions_of_optimality(self, values: list[float]) -> None:
        found = project_on_simplex(values)
        assert found.sum() == pytest.approx(1)
        assert (found >= 0).all()
        removed = np.asarray(values) - found
        assert removed[found > 0] == pytest.approx(removed[found > 0].max())
        assert (removed <= removed[found > 0].max() + 1e-9).all()

    def test_worked_examples(self) -> None:
        assert project_on_simplex([0.2, 0.5, 0.3]) == pytest.approx([0.2, 0.5, 0.3])
        assert project_on_simplex([1.2, 0.0, -0.2]) == pytest.approx([1, 0, 0])
        assert project_on_simplex([0.8, 0.4, -0.2]) == pytest.approx([0.7, 0.3, 0])


class TestRoganGladen:
    def test_the_example_of_a_squeezed_score(self) -> None:
        """85, 65 and 80 % right: a model of 75 % good and 25 % regular answers is worth 87.5 and reads 79.1."""
        gold = gold_of(np.rint(USUAL * 8000).astype(int).tolist())
        said = np.repeat([0, 1, 2], [10_900, 3_500, 1_600])
        assert 100 * np.asarray(POINTS)[said].mean() == pytest.approx(79.1, abs=0.05)
        found = alone(gold, said, names(len(said)))
        assert 100 * found.value == pytest.approx(87.5, abs=0.02)
        shares = shares_of(gold, said, names(len(said)))
        assert [share.value for share in shares] == pytest.approx([0.75, 0.25, 0], abs=5e-4)
        assert found.low < 0.875 < found.high
        assert (found.n, found.groups, found.method) == (16_000, 16_000, "rogan-gladen")

    def test_two_classes_give_the_formula_for_sensitivity_and_specificity(self) -> None:
        """The delta-method variance of Lee et al. 2025, with the ½ and the small-sample factor written out."""
        gold, n, yes = gold_of([[70, 12], [10, 68]]), 150, 100
        found = alone(gold, [0] * yes + [1] * (n - yes), names(n), (1.0, 0.0))
        hit, clear = 70.5 / 81, 68.5 / 81
        youden = hit + clear - 1
        value = (yes / n + clear - 1) / youden
        smooth = (yes + 0.5) / (n + 1)
        variance = smooth * (1 - smooth) / (n + 1)
        variance += value**2 * hit * (1 - hit) / 81 + (1 - value) ** 2 * clear * (1 - clear) / 81
        half = scipy_stats.t.ppf(0.975, 149) * np.sqrt(150 / 149 * variance) / youden
        assert found.value == pytest.approx(value)
        assert (found.low, found.high) == pytest.approx((value - half, value + half))

    def test_the_covariance_of_three_classes_is_that_of_the_delta_method(self) -> None:
        """M⁻¹[Cov(P̂) + Σ π_k² Cov(M_k)]M⁻ᵀ with multinomial covariances, groups of one."""
        counts, answers = np.array([[50, 8, 3], [7, 40, 9], [3, 12, 48]]), np.array([60, 50, 40])
        said = np.repeat([0, 1, 2], answers)
        gold = gold_of(counts.tolist())
        found = [alone(gold, said, names(150)), *shares_of(gold, said, names(150))]
        matrix = (counts + 0.5) / (counts + 0.5).sum(axis=0)
        shares = np.linalg.solve(matrix, answers / 150)
        seen = (answers + 0.5) / 151.5
        inner = (np.diag(seen) - np.outer(seen, seen)) / 151.5
        for k in range(3):
            column = matrix[:, k]
            inner += shares[k] ** 2 * (np.diag(column) - np.outer(column, column)) / (counts[:, k].sum() + 1.5)
        full = np.linalg.inv(matrix) @ inner @ np.linalg.inv(matrix).T * 150 / 149
        half = scipy_stats.t.ppf(0.975, 149) * np.sqrt([POINTS @ full @ POINTS, *np.diag(full)])
        for estimated, value, width in zip(found, (POINTS @ shares, *shares), half, strict=True):
            assert estimated.value == pytest.approx(value)
            assert (estimated.low, estimated.high) == pytest.approx((value - width, value + width))

    @settings(deadline=None, max_examples=40)
    @given(st.integers(0, 10_000), st.permutations([0, 1, 2]))
    def test_the_order_of_classes_and_answers_does_not_matter(self, seed: int, order: list[int]) -> None:
        rng = np.random.default_rng(seed)
        gold = Gold(np.arange(90) % 3, said_of(np.arange(90) % 3, USUAL, rng.random(90)), names(90))
        said, groups = rng.choice(3, 80, p=rng.dirichlet((1, 1, 1))), names(40) * 2
        base = rogan_gladen([gold], [said], groups, POINTS)
        code = np.argsort(order)
        shuffled = rng.permutation(80)
        other = Gold(code[np.asarray(gold.truth)], code[np.asarray(gold.said)], gold.groups)
        others, theirs = code[said][shuffled], [groups[i] for i in shuffled]
        moved = rogan_gladen([other], [others], theirs, np.asarray(POINTS)[order].tolist())
        if isinstance(base, Withheld):
            assert withheld(moved) == base.reason
            return
        assert base.model_dump() == pytest.approx(estimate(moved).model_dump())
        shares, back = shares_of(gold, said, groups), shares_of(other, others, theirs)
        for k, found in enumerate(shares):
            assert found.model_dump() == pytest.approx(back[code[k]].model_dump())
        for found in (base, *shares):
            assert 0 <= found.low <= found.value <= found.high <= 1
            assert found.low < found.high
        assert sum(found.value for found in shares) == pytest.approx(1)

    def test_a_judge_never_seen_to_err_changes_little_and_is_not_certain(self) -> None:
        gold = gold_of((np.eye(3, dtype=int) * 100).tolist())
        for said in ([0, 1, 2, 0] * 40, [0] * 160):
            found = alone(gold, said, names(160))
            assert found.value == pytest.approx(np.asarray(POINTS)[said].mean(), abs=0.01)
            assert found.high - found.low > 0.01

    def test_answers_of_one_group_are_not_more_answers(self) -> None:
        gold, said = gold_of(np.rint(USUAL * 3000).astype(int).tolist()), [0, 1, 2, 0] * 50
        once, four, copies = (
            alone(gold, said * times, groups * times)
            for times, groups in ((1, names(200)), (4, names(200)), (1, names(20) * 10))
        )
        assert (four.low, four.high) == pytest.approx((once.low, once.high), abs=0.003)
        assert (four.n, four.groups) == (800, 200)
        assert copies.groups == 20

    def test_a_judge_that_errs_alike_on_gold_and_answers_of_a_prompt_errs_less_in_the_difference(self) -> None:
        """On the prompts of half the groups the judge says good to everything, in gold as in answers."""
        fooled = np.arange(120) % 2 == 0
        truth = np.tile([0, 1, 2], 120)
        said = np.where(np.repeat(fooled, 3), 0, truth)
        answers = np.where(fooled, 0, 2)
        gold = Gold(truth, said, np.repeat(names(120), 3).tolist())
        same = alone(gold, answers, names(120))
        other = alone(gold, answers, names(120, "other"))
        assert same.value == other.value
        assert same.high - same.low < 0.5 * (other.high - other.low)

    @pytest.mark.parametrize(
        ("gold", "said", "reason"),
        [
            (gold_of((np.eye(3, dtype=int) * MIN_GOLD).tolist()), [0, 1, 2] * 40, None),
            (gold_of(np.diag([90, MIN_GOLD - 1, 90]).tolist()), [0, 1, 2] * 40, "little_gold"),
            (gold_of(np.diag([90, 90, 0]).tolist()), [0, 1, 2] * 40, "little_gold"),
            (Gold([0, 1, 2] * 90, [0, 1, 2] * 90, names(10) * 27), [0, 1, 2] * 40, "little_gold"),
            (gold_of([[40, 30, 30], [30, 40, 30], [30, 30, 40]]), [0, 1, 2] * 40, "ill_conditioned"),
            (gold_of([[90, 5, 5], [5, 48, 47], [5, 47, 48]]), [0, 1, 2] * 40, "ill_conditioned"),
            (gold_of([[30, 30, 30], [30, 30, 30], [30, 30, 30]]), [0, 1, 2] * 40, "ill_conditioned"),
            (gold_of([[60, 20, 20], [20, 60, 20], [20, 20, 60]]), [0] * 120, "impossible_shares"),
            (gold_of([[60, 20, 20], [20, 60, 20], [20, 20, 60]]), [0] * 66 + [1, 2] * 27, None),
        ],
        ids=[
            *("just enough", "few of one class", "none of one class", "few groups"),
            *("hardly better than chance", "two classes alike", "singular", "all good", "within the error"),
        ],
    )
    def test_what_cannot_be_corrected_is_withheld(self, gold: Gold, said: list[int], reason: str | None) -> None:
        found = rogan_gladen([gold], [said], names(len(said)), POINTS)
        assert (found.reason if isinstance(found, Withheld) else None) == reason

    def test_one_group_of_answers_is_refused(self) -> None:
        with pytest.raises(ValueError, match="two groups"):
            rogan_gladen([gold_of((np.eye(3, dtype=int) * 30).tolist())], [[0, 1, 2]], ["a"] * 3, POINTS)

    def test_the_limit_on_the_condition_is_the_judge_it_says(self) -> None:
        assert np.linalg.cond(judge(*[0.4 / 3 + 1 / 3] * 3)) == pytest.approx(MAX_CONDITION)

    def test_corrected_points_average_to_the_corrected_mean(self) -> None:
        gold, said = gold_of([[50, 8, 3], [7, 40, 9], [3, 12, 48]]), [0] * 60 + [1] * 50 + [2] * 40
        worth = corrected_points(confusion_matrix(gold, 3), POINTS)
        assert worth[said].mean() == pytest.approx(alone(gold, said, names(150)).value)


class TestRoganGladenCoverage:
    """Gold of triples and answers; the judge's errors are drawn, so is what is true of each answer."""

    @staticmethod
    def covered(
        shares: Sequence[float], gold: int, n: int, matrix: np.ndarray = USUAL, agree: float = 0.0, size: int = 1
    ) -> tuple[float, float]:
        """Coverage of the mean and the share withheld; `agree`: how often a group shares one draw of the judge."""

        rng = np.random.default_rng(20_251_120)
        repeats, asked = 4000, n // size
        truth_of_gold = np.tile([0, 1, 2], gold // 3)
        own = np.repeat(np.arange(gold // 3), 3)
        member = np.repeat(np.arange(asked), size)
        hits: list[bool] = []
        for _ in range(repeats):
            truth = np.where(
                rng.random(len(member)) < agree,
                rng.choice(3, asked, p=shares)[member],
                rng.choice(3, len(member), p=shares),
            )
            shared, alone = rng.random(gold // 3)[own], rng.random(gold)
            draws = np.where(rng.random(gold) < agree, shared, alone)
            found = rogan_gladen(
                [Gold(truth_of_gold, said_of(truth_of_gold, matrix, draws), [f"k{i}" for i in own])],
                [said_of(truth, matrix, rng.random(len(member)))],
                [f"g{i}" for i in member],
                POINTS,
            )
            if isinstance(found, Estimate):
                hits.append(found.low <= np.dot(shares, POINTS) <= found.high)
        return float(np.mean(hits)), 1 - len(hits) / repeats

    @pytest.mark.parametrize(("gold", "n"), [(102, 100), (300, 250)])
    @pytest.mark.parametrize("shares", [(0.5, 0.3, 0.2), (0.2, 0.6, 0.2), (1 / 3, 1 / 3, 1 / 3)])
    def test_shares_away_from_the_ends(self, shares: tuple[float, ...], gold: int, n: int) -> None:
        found, refused = self.covered(shares, gold, n)
        assert NOMINAL[0] <= found <= NOMINAL[1]
        assert refused < 0.02

    @pytest.mark.parametrize("shares", [(0.75, 0.25, 0.0), (0.97, 0.02, 0.01)])
    def test_shares_at_the_ends(self, shares: tuple[float, ...]) -> None:
        found, refused = self.covered(shares, 300, 300)
        assert NOMINAL[0] <= found <= NOMINAL[1]
        assert refused < 0.02

    @pytest.mark.parametrize(("gold", "n"), [(102, 100), (201, 150)])
    @pytest.mark.parametrize("shares", [(0.75, 0.25, 0.0), (0.97, 0.02, 0.01)])
    def test_shares_at_the_ends_with_little_gold_are_wide_rather_than_narrow(
        self, shares: tuple[float, ...], gold: int, n: int
    ) -> None:
        """Above 97.5 %: 97.3 to 98.6 % in 5,000 rounds, for no truth lies beyond the end that cuts an interval."""
        found, refused = self.covered(shares, gold, n)
        assert NOMINAL[0] <= found <= 0.99
        assert refused < 0.02

    @pytest.mark.parametrize("shares", [(0.5, 0.3, 0.2), (0.75, 0.25, 0.0), (0.97, 0.02, 0.01)])
    def test_the_least_gold_there_may_be_is_wide_rather_than_narrow(self, shares: tuple[float, ...]) -> None:
        """Above 97.5 %: 98.6 to 99.2 %."""
        found, refused = self.covered(shares, 3 * MIN_GOLD, 100)
        assert 0.975 <= found <= 0.995
        assert refused < 0.02

    def test_groups_of_answers_and_a_judge_that_errs_alike_on_a_triple(self) -> None:
        found, _ = self.covered((0.5, 0.3, 0.2), 300, 240, agree=0.7, size=3)
        assert NOMINAL[0] <= found <= NOMINAL[1]


Drawn = tuple[list[Gold], list[Classes], list[str]]


def panel(
    rng: np.random.Generator, matrices: Sequence[np.ndarray], agree: float, n: int = 150, by_rule: int = 0
) -> Drawn:
    """80 gold triples and n answers of shares .5, .3, .2, on the same prompts, and the classes several judges give.

    `agree`: how often all judges share one draw on an answer. `by_rule`: answers besides, of the last class.
    """
    truth, own = np.tile([0, 1, 2], 80), np.repeat(names(80), 3).tolist()
    deserved = rng.choice(3, n, p=(0.5, 0.3, 0.2))
    shared, is_shared = rng.random(240 + n), rng.random(240 + n) < agree
    golds, saids = [], []
    for matrix in matrices:
        draws = np.where(is_shared, shared, rng.random(240 + n))
        golds.append(Gold(truth, said_of(truth, matrix, draws[:240]), own))
        saids.append(np.append(said_of(deserved, matrix, draws[240:]), np.full(by_rule, 3)))
    return golds, saids, names(n + by_rule)


PANEL = (USUAL, judge(0.8, 0.7, 0.75), judge(0.9, 0.6, 0.85))


class TestRoganGladenOfSeveralJudges:
    @settings(deadline=None, max_examples=30)
    @given(st.integers(0, 10_000), st.integers(2, 3), st.integers(0, 30))
    def test_the_panel_of_copies_of_one_judge_is_that_judge(self, seed: int, copies: int, by_rule: int) -> None:
        (gold,), (said,), groups = panel(np.random.default_rng(seed), [USUAL], 0.0, by_rule=by_rule)
        found = estimate(rogan_gladen([gold] * copies, [said] * copies, groups, POINTS))
        assert found.model_dump() == pytest.approx(alone(gold, said, groups).model_dump())

    def test_its_value_is_the_mean_of_theirs_and_its_error_depends_on_what_they_share(self) -> None:
        rng = np.random.default_rng(5)
        widths = {}
        for agree in (0.0, 1.0):
            golds, saids, groups = panel(rng, [USUAL] * 4, agree, n=400)
            each = [alone(g, s, groups) for g, s in zip(golds, saids, strict=True)]
            found = estimate(rogan_gladen(golds, saids, groups, POINTS))
            assert found.value == pytest.approx(np.mean([one.value for one in each]))
            assert (found.n, found.groups, found.method) == (400, 400, "rogan-gladen")
            widths[agree] = (found.high - found.low) / np.mean([one.high - one.low for one in each])
        assert widths[1.0] == pytest.approx(1)
        assert widths[0.0] < 0.75

    def test_the_first_judge_that_cannot_be_corrected_withholds_it(self) -> None:
        (gold,), (said,), groups = panel(np.random.default_rng(0), [USUAL], 0.0)
        chance = gold._replace(said=np.random.default_rng(1).choice(3, 240))
        assert withheld(rogan_gladen([gold, chance, gold], [said] * 3, groups, POINTS)) == "ill_conditioned"

    def test_what_is_no_panel_is_refused(self) -> None:
        (gold,), (said,), groups = panel(np.random.default_rng(0), [USUAL], 0.0)
        for golds, saids in (([], []), ([gold, gold._replace(groups=names(240))], [said] * 2)):
            with pytest.raises(ValueError, match="same gold"):
                rogan_gladen(golds, saids, groups, POINTS)
        with pytest.raises(ValueError, match="zip"):
            rogan_gladen([gold], [said, said], groups, POINTS)
        with pytest.raises(ValueError, match="two groups"):
            rogan_gladen([gold], [[0, 3, 3]], names(3), POINTS)

    def test_an_answer_known_without_a_judge_takes_no_correction(self) -> None:
        (gold,), (said,), groups = panel(np.random.default_rng(0), [USUAL], 0.0)
        mixed = alone(gold, [*said, *[3] * 50], names(200))
        assert mixed.value == pytest.approx(0.75 * alone(gold, said, groups).value)
        assert [share.value for share in shares_of(gold, [*said, *[3] * 50], names(200))] == pytest.approx(
            [0.75 * share.value + 0.25 * (k == 2) for k, share in enumerate(shares_of(gold, said, groups))]
        )
        assert (mixed.n, mixed.groups) == (200, 200)

    @pytest.mark.parametrize("agree", [0.0, 0.7])
    @pytest.mark.parametrize("by_rule", [0.0, 0.3])
    def test_it_covers(self, agree: float, by_rule: float) -> None:
        def draw(rng: np.random.Generator) -> Estimate:
            silent = int(rng.binomial(200, by_rule))
            golds, saids, groups = panel(rng, PANEL, agree, 200 - silent, silent)
            return estimate(rogan_gladen(golds, saids, groups, POINTS))

        assert NOMINAL[0] <= coverage(draw, (1 - by_rule) * 0.65, 600) <= NOMINAL[1]


def audited(scale: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Grades and a judge's soft grades of 360 answers, without a generator: fractional parts of multiples.

    `scale` is the judge's step from bad to good: at a third, λ would be above 1.
    """
    i = np.arange(1, 361)
    u, v = (i * 0.6180339887498949) % 1, (i * 0.7548776662466927) % 1
    y = np.where(u < 0.5, 1.0, np.where(u < 0.8, 0.5, 0.0))
    return y, np.clip(0.2 + 0.6 * y + 0.4 * (v - 0.5), 0, 1) if scale == 0.6 else scale * y + 0.1 * v


def ppi_half(n: int, value: float, width: float) -> float:
    """Our half-width where theirs is normal: with t, the small-sample factor and half groups at the ends."""
    error = width / 2 / scipy_stats.norm.ppf(0.975)
    unseen = (value**2 + (1 - value) ** 2) / 2 / n**2
    return float(scipy_stats.t.ppf(0.975, n - 1) * np.sqrt(n / (n - 1) * (error**2 + unseen)))


class TestPpi:
    @pytest.mark.parametrize(
        ("n", "value", "low", "high"),
        [
            (60, 0.6511313257738023, 0.5825076756446279, 0.7197549759029767),
            (180, 0.6520572516997283, 0.6091351169068359, 0.6949793864926207),
        ],
    )
    def test_without_tuning_it_is_what_ppi_py_says(self, n: int, value: float, low: float, high: float) -> None:
        """Made by ppi_mean_pointestimate and ppi_mean_ci(alpha=0.05) of ppi-python 0.2.3, which clipped λ to 1."""
        y, f = audited(1 / 3)
        found = ppi_mean(y[:n], f[:n], f[n:], names(360))
        assert found.value == pytest.approx(value, abs=1e-12)
        half = ppi_half(n, value, high - low)
        assert (found.low, found.high) == pytest.approx((value - half, value + half))
        assert (found.n, found.groups, found.method) == (360, 360, "ppi++")

    @pytest.mark.parametrize(
        ("n", "value", "low", "high"),
        [
            (120, 0.6525320296541943, 0.6051932295116189, 0.6998708297967697),
            (180, 0.6535414753176827, 0.6090715013599663, 0.698011449275399),
        ],
    )
    def test_with_tuning_it_is_close_to_ppi_py(self, n: int, value: float, low: float, high: float) -> None:
        """ppi-python 0.2.3 pools both samples in the variance of λ; ours is the one that is least for these groups."""
        y, f = audited()
        found = ppi_mean(y[:n], f[:n], f[n:], names(360))
        assert found.value == pytest.approx(value, abs=2e-4)
        assert found.high - found.low == pytest.approx(2 * ppi_half(n, value, high - low), rel=1e-3)

    def test_tuning_is_the_formula_for_groups_of_one(self) -> None:
        y, f = audited()
        n, rest = 120, 240
        tuning = np.cov(y[:n], f[:n], ddof=0)[0, 1] / (f[:n].var() + n / rest * f[n:].var())
        assert 0.5 < tuning < 1
        found = ppi_mean(y[:n], f[:n], f[n:], names(360))
        assert found.value == pytest.approx(y[:n].mean() + tuning * (f[n:].mean() - f[:n].mean()))
        for other in (tuning - 0.05, tuning + 0.05):
            assert np.var(y[:n] - other * f[:n]) / n + other**2 * f[n:].var() / rest > (
                np.var(y[:n] - tuning * f[:n]) / n + tuning**2 * f[n:].var() / rest
            )

    @pytest.mark.parametrize("grade", ["constant", "opposite"])
    def test_a_useless_judge_leaves_the_mean_of_the_audits(self, grade: str) -> None:
        y, _ = audited()
        f = np.full(360, 0.7) if grade == "constant" else 1 - y
        found = ppi_mean(y[:90], f[:90], f[90:], names(360))
        value = y[:90].mean()
        half = ppi_half(90, value, 2 * scipy_stats.norm.ppf(0.975) * y[:90].std() / np.sqrt(90))
        assert (found.value, found.low, found.high) == pytest.approx((value, value - half, value + half))

    def test_audits_all_alike_are_not_certainty(self) -> None:
        found = ppi_mean([1.0] * 60, [1.0] * 60, [1.0] * 200, names(260))
        assert found.value == found.high == 1
        assert 0.95 < found.low < 0.99

    @settings(deadline=None, max_examples=40)
    @given(st.integers(0, 10_000), st.floats(-0.2, 0.2))
    def test_a_shift_of_the_judge_changes_nothing_and_the_range_holds(self, seed: int, shift: float) -> None:
        rng = np.random.default_rng(seed)
        y, noise = rng.choice([0, 0.5, 1], 200, p=rng.dirichlet((1, 1, 1))), rng.random(200)
        f, groups = 0.3 + 0.3 * y + 0.2 * noise, [*names(70), *names(130, "r")]
        found = ppi_mean(y[:70], f[:70], f[70:], groups)
        moved = ppi_mean(y[:70], f[:70] + shift, f[70:] + shift, groups)
        assert found.model_dump() == pytest.approx(moved.model_dump())
        assert 0 <= found.low <= found.value <= found.high <= 1

    def test_copies_add_nothing(self) -> None:
        y, f = audited()
        once = ppi_mean(y[:90], f[:90], f[90:], names(360))
        groups = names(360)
        twice = ppi_mean(np.tile(y[:90], 2), np.tile(f[:90], 2), np.tile(f[90:], 2), groups[:90] * 2 + groups[90:] * 2)
        assert (twice.value, twice.low, twice.high) == pytest.approx((once.value, once.low, once.high))
        assert (twice.n, twice.groups) == (720, 360)

    def test_few_audits_are_refused(self) -> None:
        y, f = audited()
        n = MIN_AUDITS - 1
        with pytest.raises(ValueError, match="59 groups"):
            ppi_mean(y[:n], f[:n], f[n:], names(360))
        with pytest.raises(ValueError, match="30 groups"):
            ppi_mean(y[:90], f[:90], f[90:], [*names(30) * 3, *names(270, "r")])
        assert ppi_mean(y[:MIN_AUDITS], f[:MIN_AUDITS], f[MIN_AUDITS:], names(360)).method == "ppi++"

    @pytest.mark.parametrize("rest", [0, 1, MIN_REST - 1])
    def test_few_answers_without_audit_leave_the_mean_of_the_audits(self, rest: int) -> None:
        y, f = audited()
        found = ppi_mean(y[:90], f[:90], f[90 : 90 + rest], names(90 + rest))
        value = y[:90].mean()
        half = ppi_half(90, value, 2 * scipy_stats.norm.ppf(0.975) * y[:90].std() / np.sqrt(90))
        assert (found.value, found.low, found.high) == pytest.approx((value, value - half, value + half))
        assert (found.n, found.groups, found.method) == (90, 90, "people")
        assert ppi_mean(y[:90], f[:90], f[90 : 90 + MIN_REST], names(90 + MIN_REST)).method == "ppi++"

    def test_what_does_not_belong_together_is_refused(self) -> None:
        y, f = audited()
        with pytest.raises(ValueError, match="Each audited"):
            ppi_mean(y[:90], f[:89], f[90:], names(360))
        with pytest.raises(ValueError, match="Each audited"):
            ppi_mean(y[:90], f[:90], f[90:], names(90))

    @pytest.mark.parametrize(("n", "rest", "size"), [(60, 200, 1), (120, 130, 1), (90, MIN_REST, 1), (180, 120, 2)])
    @pytest.mark.parametrize("noise", [0.1, 0.6])
    @pytest.mark.parametrize("shares", [(0.5, 0.3, 0.2), (0.9, 0.07, 0.03)])
    def test_it_covers(self, n: int, rest: int, size: int, noise: float, shares: tuple[float, ...]) -> None:
        """With `size` 2, the answers of a group are alike, and one may be audited and the other not."""

        def draw(rng: np.random.Generator) -> Estimate:
            member = rng.permutation(np.repeat(np.arange((n + rest) // size), size))
            y = np.asarray(POINTS)[rng.choice(3, len(member), p=shares)[member]]
            f = 0.3 + 0.5 * y + noise * rng.normal(size=len(y))
            return ppi_mean(y[:n], f[:n], f[n:], [f"g{i}" for i in member])

        assert NOMINAL[0] <= coverage(draw, float(np.dot(shares, POINTS)), 800) <= NOMINAL[1]


class TestTransport:
    @staticmethod
    def gaps(count: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
        return shift + 0.3 * np.random.default_rng(seed).normal(size=count)

    def test_one_stratum_of_single_prompts_is_the_t_test_of_the_textbook(self) -> None:
        """But for 1/G² more in the variance, which hardly counts among many."""
        gaps = self.gaps(2000, shift=0.02)
        (found,) = transport_test(gaps, np.zeros(2000), {"model": ["m"] * 2000}, names(2000))
        t = gaps.mean() / np.sqrt(gaps.var(ddof=1) / 2000 + 1 / 2000**2)
        assert found.p == found.adjusted == pytest.approx(2 * scipy_stats.t.sf(abs(t), 1999))
        assert found.p == pytest.approx(scipy_stats.ttest_1samp(gaps, 0).pvalue, rel=0.05)
        plain = clustered_mean(gaps, names(2000))
        assert found.gap is not None
        assert found.gap.value == plain.value
        assert (found.gap.low, found.gap.high) == pytest.approx((plain.low, plain.high), abs=1e-4)
        assert (found.kind, found.stratum) == ("model", "m")

    @pytest.mark.parametrize("shift", [0.0, 0.13])
    def test_adjusted_as_statsmodels_does_over_all_kinds(self, shift: float) -> None:
        gaps = self.gaps(240, 1, shift)
        rng = np.random.default_rng(2)
        strata = {kind: rng.choice(list("abcd"), 240).tolist() for kind in ("issue", "length")}
        found = transport_test(gaps, np.zeros(240), strata, names(240))
        expected = multipletests([s.p for s in found], method="holm")
        assert [s.adjusted for s in found] == pytest.approx(expected[1])
        assert [s.outcome == "fails" for s in found] == expected[0].tolist()
        assert any(expected[0]) == (shift > 0)
        assert not all(expected[0])
        assert [(s.kind, s.stratum) for s in found] == [(k, label) for k in ("issue", "length") for label in "abcd"]

    def test_the_stratum_that_is_off_fails_alone(self) -> None:
        labels = ["off"] * 60 + ["fine"] * 60 + ["few"] * (MIN_STRATUM - 1)
        gaps = np.concatenate([self.gaps(60, 3, 0.3), self.gaps(60, 4) - self.gaps(60, 4).mean(), np.ones(9)])
        found = transport_test(gaps, np.zeros(len(gaps)), {"issue": labels}, names(len(gaps)))
        assert {s.stratum: s.outcome for s in found} == {"off": "fails", "fine": "passes", "few": "untested"}
        few = next(s for s in found if s.stratum == "few")
        assert few == Transport(kind="issue", stratum="few", outcome="untested")

    def test_copies_of_a_prompt_are_no_evidence(self) -> None:
        gaps = self.gaps(20, 5, 0.1)
        once, thrice = (
            transport_test(np.tile(gaps, times), np.zeros(20 * times), {"m": ["m"] * 20 * times}, names(20) * times)[0]
            for times in (1, 3)
        )
        assert thrice.p == pytest.approx(once.p)
        assert thrice.gap is not None
        assert (thrice.gap.n, thrice.gap.groups) == (60, 20)

    def test_gaps_all_alike_prove_something_only_when_they_are_large_or_many(self) -> None:
        for gap, count, outcome in ((0.1, 12, "passes"), (0.5, 12, "fails"), (0.1, 60, "fails"), (0.0, 60, "passes")):
            (found,) = transport_test(np.full(count, gap), np.zeros(count), {"m": ["m"] * count}, names(count))
            assert found.outcome == outcome
            assert found.gap is not None
            assert found.gap.low < found.gap.high

    def test_nothing_to_test(self) -> None:
        assert transport_test([], [], {"model": []}, []) == ()

    def test_a_correction_that_holds_fails_in_one_of_twenty_tests_at_most_and_one_that_does_not_is_seen(self) -> None:
        """People's grades against corrected points of a judge whose confusion is known, in eight strata."""
        worth, rng = corrected_points(USUAL, POINTS), np.random.default_rng(8)
        strata = {"issue": [f"i{i % 5}" for i in range(200)], "length": [f"l{i % 3}" for i in range(200)]}
        failed = {"same": 0, "other": 0}
        held = []
        for _ in range(250):
            truth = rng.choice(3, 200, p=(0.5, 0.3, 0.2))
            for judged, matrix in (("same", USUAL), ("other", judge(0.95, 0.3, 0.5))):
                said = said_of(truth, matrix, rng.random(200))
                found = transport_test(np.asarray(POINTS)[truth], worth[said], strata, names(200))
                failed[judged] += any(s.outcome == "fails" for s in found)
                if judged == "same":
                    held += [s.gap is not None and s.gap.low <= 0 <= s.gap.high for s in found]
        assert failed["same"] <= 0.08 * 250
        assert failed["other"] >= 0.5 * 250
        assert NOMINAL[0] <= np.mean(held) <= NOMINAL[1]


class TestLengthSlope:
    @staticmethod
    def answers(seed: int, prompts: int = 40, models: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Points, log lengths, prompts, groups (of two prompts) of the answers of several models."""
        rng = np.random.default_rng(seed)
        prompt = np.repeat(np.arange(prompts), models)
        ease = rng.normal(size=prompts)
        x = 5 + 0.5 * ease[prompt] + 0.4 * rng.normal(size=len(prompt))
        shared = rng.normal(size=prompts)[prompt]
        y = 0.5 - 0.2 * ease[prompt] + 0.1 * x + 0.1 * rng.normal(size=len(x)) + 0.1 * shared * (x - 5)
        return y, x, prompt, prompt // 2

    @pytest.mark.parametrize("seed", range(3))
    def test_within_prompts_it_is_the_fixed_effects_regression_of_statsmodels(self, seed: int) -> None:
        y, x, prompt, group = self.answers(seed)
        found = estimate(length_slope(y, x, prompt.astype(str), group.astype(str)))
        dummies = np.eye(40)[prompt]
        fit = sm.OLS(y, np.column_stack([x, dummies])).fit(
            cov_type="cluster", cov_kwds={"groups": group, "use_correction": False}, use_t=True
        )
        half = scipy_stats.t.ppf(0.975, 19) * fit.bse[0] * np.sqrt(20 / 19)
        expected = (fit.params[0], fit.params[0] - half, fit.params[0] + half)
        assert (found.value, found.low, found.high) == pytest.approx(expected)
        assert (found.n, found.groups, found.method) == (160, 20, "slope-within-prompt")

    @pytest.mark.parametrize("seed", range(3))
    def test_with_models_it_is_the_regression_on_both_effects(self, seed: int) -> None:
        y, x, prompt, group = self.answers(seed)
        kept = np.random.default_rng(seed).random(160) < 0.8
        model = np.arange(160) % 4
        y, x, prompt, group, model = (values[kept] for values in (y + 0.1 * model, x, prompt, group, model))
        found = estimate(length_slope(y, x, prompt.astype(str), group.astype(str), model.astype(str)))
        dummies = np.column_stack([np.eye(40)[prompt], np.eye(4)[model, 1:]])
        design = np.column_stack([x, dummies[:, dummies.any(axis=0)]])
        fit = sm.OLS(y, design).fit(cov_type="cluster", cov_kwds={"groups": group, "use_correction": False}, use_t=True)
        assert found.value == pytest.approx(fit.params[0])
        half = scipy_stats.t.ppf(0.975, found.groups - 1) * fit.bse[0]
        small = found.groups / (found.groups - 1) * (found.n - 1) / (found.n - 4)
        assert found.high - found.value == pytest.approx(half * np.sqrt(small))

    def test_quality_of_a_model_that_writes_longer_is_not_a_taste_for_length(self) -> None:
        rng = np.random.default_rng(1)
        prompt, good = np.repeat(np.arange(60), 2), np.tile([0, 1], 60)
        x, y = good + 0.3 * rng.normal(size=120), 0.3 + 0.4 * good
        groups = prompt.astype(str)
        assert estimate(length_slope(y, x, groups, groups)).value > 0.3
        assert estimate(length_slope(y, x, groups, groups, good.astype(str))).value == pytest.approx(0, abs=1e-9)

    def test_ease_of_the_prompt_is_not_a_taste_for_length(self) -> None:
        """Easy prompts draw longer answers and better grades; within a prompt length does nothing."""
        rng = np.random.default_rng(1)
        prompt = np.repeat(np.arange(60), 3)
        ease = rng.normal(size=60)[prompt]
        x, y = ease + 0.3 * rng.normal(size=180), 0.5 + 0.1 * ease
        within = estimate(length_slope(y, x, prompt.astype(str), prompt.astype(str)))
        across = np.polyfit(x[::3], y[::3], 1)[0]
        assert within.value == pytest.approx(0, abs=1e-9)
        assert across > 0.08

    def test_single_answers_add_nothing_to_a_slope_within_prompts(self) -> None:
        y, x, prompt, group = self.answers(0)
        base = length_slope(y, x, prompt.astype(str), group.astype(str))
        more = length_slope(
            [*y, 0.0, 1.0], [*x, 9.0, 1.0], [*prompt.astype(str), "a", "b"], [*group.astype(str), "a", "b"]
        )
        assert more == base

    @settings(deadline=None, max_examples=40)
    @given(st.integers(0, 1000), st.floats(-5, 5), st.floats(-5, 5))
    def test_units_of_length_and_the_zero_of_the_grade_do_not_matter(self, seed: int, a: float, b: float) -> None:
        y, x, prompt, group = self.answers(seed, 10, 3)
        base = estimate(length_slope(y, x, prompt.astype(str), group.astype(str)))
        moved = estimate(length_slope(y + a, x + b, prompt.astype(str), group.astype(str)))
        assert moved.model_dump() == pytest.approx(base.model_dump())

    def test_answers_of_the_same_length_tell_nothing(self) -> None:
        assert withheld(length_slope([0, 1, 0.5, 1], [5.0] * 4, names(2) * 2, names(2) * 2)) == "same_length"
        assert withheld(length_slope([0, 1, 0.5, 1], [5.0, 6.0] * 2, names(2) * 2, names(2) * 2)) == "same_length"
        one_each = (names(40) * 2, names(40) * 2, ["a"] * 40 + ["b"] * 40)
        assert withheld(length_slope([0, 1] * 40, [5.0] * 40 + [6.0] * 40, *one_each)) == "same_length"

    def test_one_group_is_refused(self) -> None:
        with pytest.raises(ValueError, match="two groups"):
            length_slope([0, 1, 0.5, 1], [5, 6, 7, 8], names(2) * 2, ["a"] * 4)

    def test_one_answer_to_every_prompt_has_nothing_to_compare(self) -> None:
        with pytest.raises(ValueError, match="two groups"):
            length_slope([0, 1, 0.5, 1], [5, 6, 7, 8], names(4), names(4))

    @pytest.mark.parametrize(("prompts", "models"), [(60, 5), (160, 2)])
    def test_it_covers(self, prompts: int, models: int) -> None:
        """Three-level grades, whose chance of rising by a level grows with length by 0.2 per unit: a slope of 0.1."""
        member = np.repeat(np.arange(prompts), models)

        def draw(rng: np.random.Generator) -> Estimate:
            ease = rng.random(prompts)[member]
            x = 5 + ease + rng.uniform(-1, 1, len(member))
            chance = 0.2 + 0.2 * ease + 0.2 * (x - 5)
            y = ((rng.random(len(x)) < chance) + 0.5) / 2 + 0.2 * rng.normal(size=prompts // 2)[member // 2]
            return estimate(length_slope(y, x, member.astype(str), (member // 2).astype(str)))

        assert NOMINAL[0] <= coverage(draw, 0.1, 800) <= NOMINAL[1]


class TestLengthControlled:
    def test_it_is_the_prediction_of_statsmodels_at_the_reference(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.uniform(4, 6, 3000)
        y = 0.1 * x + 0.2 * rng.normal(size=3000)
        fit = sm.OLS(y, sm.add_constant(x)).fit()
        ends = dict(zip(("low", "high"), fit.conf_int(0.05)[1], strict=True))
        slope = Estimate(value=fit.params[1], **ends, n=3000, groups=3000, method="ols")
        for reference in (4.2, 5.0, 6.5):
            found = length_controlled(y, x, names(3000), slope, reference)
            frame = fit.get_prediction([[1, reference]]).summary_frame(0.05)
            assert found.value == pytest.approx(frame["mean"][0])
            assert found.high - found.low == pytest.approx(
                frame["mean_ci_upper"][0] - frame["mean_ci_lower"][0], rel=0.03
            )
        assert (found.n, found.groups, found.method) == (3000, 3000, "length-controlled")

    def test_padding_is_worth_nothing(self) -> None:
        slope = Estimate(value=0.2, low=0.1, high=0.3, n=400, groups=100, method="slope-within-prompt")
        rng = np.random.default_rng(1)
        x = rng.normal(5, 0.3, 80)
        y = np.clip(rng.normal(0.5, 0.1, 80), 0, 1)
        plain = length_controlled(y, x, names(80), slope, 5.0)
        padded = length_controlled(y + 0.2, x + 1, names(80), slope, 5.0)
        assert padded.value == pytest.approx(plain.value)
        assert padded.high - padded.low > plain.high - plain.low

    def test_at_its_own_length_with_no_slope_it_is_the_mean(self) -> None:
        flat = Estimate(value=0.0, low=-0.1, high=0.1, n=400, groups=100, method="slope-within-prompt")
        y, x = np.array([0.5, 1.0, 0.5, 0.0, 0.5] * 8), np.full(40, 5.0)
        found, plain = length_controlled(y, x, names(40), flat, 5.0), clustered_mean(y, names(40))
        assert (found.value, found.low, found.high) == pytest.approx((plain.value, plain.low, plain.high))

    @settings(deadline=None, max_examples=40)
    @given(st.floats(-1, 1), st.floats(0, 10))
    def test_it_stays_in_the_range(self, value: float, reference: float) -> None:
        slope = Estimate(value=value, low=value - 0.1, high=value + 0.1, n=40, groups=40, method="slope-within-prompt")
        found = length_controlled([0.5, 1.0, 0.0] * 10, [5.0, 6.0, 4.5] * 10, names(30), slope, reference)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.low < found.high

    @pytest.mark.parametrize("reference", [5.0, 6.0])
    def test_it_covers_with_a_slope_from_several_models(self, reference: float) -> None:
        """One of six models writes longer; the slope is from all six, itself among them."""
        prompt = np.repeat(np.arange(80), 6)
        model = (np.arange(480) % 6).astype(str)
        ours = model == "0"

        def draw(rng: np.random.Generator) -> Estimate:
            x = 5 + 0.5 * ours + 0.4 * rng.normal(size=480)
            y = 0.5 + 0.1 * (x - 5) + 0.05 * rng.normal(size=80)[prompt] + 0.1 * rng.normal(size=480)
            slope = estimate(length_slope(y, x, prompt.astype(str), prompt.astype(str), model))
            return length_controlled(y[ours], x[ours], names(80), slope, reference)

        assert NOMINAL[0] <= coverage(draw, 0.5 + 0.1 * (reference - 5), 500) <= NOMINAL[1]


class TestMissing:
    @given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=30), st.integers(0, 30), st.data())
    def test_whatever_the_missing_grades_are_the_bounds_hold_the_mean(
        self, points: list[float], missing: int, data: st.DataObject
    ) -> None:
        if not points and not missing:
            return
        worst, best = missing_bounds(points, missing)
        rest = data.draw(st.lists(st.floats(0, 1), min_size=missing, max_size=missing))
        assert worst - 1e-12 <= np.mean([*points, *rest]) <= best + 1e-12
        assert best - worst == pytest.approx(missing / (len(points) + missing))

    def test_worked_example(self) -> None:
        assert missing_bounds([1.0, 0.5, 0.0], 1) == pytest.approx((0.375, 0.625))
        assert missing_bounds([], 3) == (0, 1)

    @pytest.mark.parametrize(("points", "missing"), [([], 0), ([1.0, 1.0], -1)])
    def test_bounds_of_nothing_are_refused(self, points: list[float], missing: int) -> None:
        with pytest.raises(ValueError, match="at least one"):
            missing_bounds(points, missing)
