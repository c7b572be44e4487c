"""Comparisons against scipy, statsmodels, brute force, and a known truth simulated many times."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from eco_eval.stats import comparison
from eco_eval.stats.comparison import (
    RankIntervals,
    by_part,
    holm,
    outcome_table,
    paired_difference,
    rank_intervals,
    win_rate,
)

POINTS = np.array([1.0, 0.5, 0.0])
NOMINAL = (0.92, 0.975)
NAN = float("nan")

GRADES = st.sampled_from([1.0, 0.5, 0.0])
PAIRS = st.lists(st.tuples(GRADES, GRADES), min_size=2, max_size=30)


def names(count: int) -> list[str]:
    return [f"g{i:03}" for i in range(count)]


def two_models(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Grades of two models on the same prompts, the first one better, alike on some prompts."""
    a, b = POINTS[rng.choice(3, count, p=(0.6, 0.2, 0.2))], POINTS[rng.choice(3, count, p=(0.4, 0.3, 0.3))]
    return a, np.where(rng.random(count) < 0.4, a, b)


@pytest.fixture
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_DRAWS", 499)
    monkeypatch.setattr(comparison, "_RANK_DRAWS", 499)


class TestPairedDifference:
    @pytest.mark.parametrize("seed", range(4))
    def test_the_interval_is_the_cluster_robust_regression_of_statsmodels(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        a, b = two_models(rng, 80)
        member = rng.integers(0, 25, 80)
        fit = sm.OLS(a - b, np.ones(80)).fit(cov_type="cluster", cov_kwds={"groups": member}, use_t=True)
        found = paired_difference(a, b, [f"g{m}" for m in member])
        expected = (fit.params[0], *fit.conf_int(0.05)[0])
        assert (found.estimate.value, found.estimate.low, found.estimate.high) == pytest.approx(expected, rel=1e-9)
        z = scipy_stats.norm.ppf(0.975) + scipy_stats.norm.ppf(0.8)
        assert found.detectable == pytest.approx(z * fit.bse[0], rel=1e-9)

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("groups", [2, 5, 11])
    def test_p_of_few_groups_is_the_exact_one_of_scipy(self, seed: int, groups: int) -> None:
        rng = np.random.default_rng(seed)
        a, b = two_models(rng, 24)
        member = np.resize(np.arange(groups), 24)
        sums = np.bincount(member, weights=a - b)
        exact = scipy_stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
        found = paired_difference(a, b, member.astype(str))
        assert found.test == "sign-flip-exact"
        assert found.p == pytest.approx(exact.pvalue, abs=1e-12)

    def test_p_of_many_groups_is_drawn_and_near_the_one_of_scipy(self) -> None:
        a, b = two_models(np.random.default_rng(5), 60)
        expected = scipy_stats.permutation_test(
            (a - b,), np.sum, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
        )
        found = paired_difference(a, b, names(60))
        assert found.test == "sign-flip-drawn"
        assert 0.01 < found.p < 0.5
        assert found.p == pytest.approx(expected.pvalue, abs=0.015)

    def test_a_drawn_p_is_never_zero(self) -> None:
        found = paired_difference([1.0] * 40, [0.0] * 39 + [0.5], names(40))
        assert found.p == 1 / 10_000

    def test_the_worked_example_of_miller(self) -> None:
        """2411.00640, §5: with ω² = 1/9, 969 questions find a difference of 3 points."""
        d = np.resize([-1.0, 1.0], 969)
        d = (d - d.mean()) / d.std(ddof=1) / 3
        found = paired_difference(d, np.zeros(969), names(969))
        assert found.detectable == pytest.approx(0.03, rel=1e-3)

    def test_models_that_never_differ_tell_nothing(self) -> None:
        found = paired_difference([1.0, 0.5, 0.0], [1.0, 0.5, 0.0], names(3))
        assert (found.estimate.value, found.p, found.detectable) == (0.0, 1.0, None)

    @settings(deadline=None, max_examples=50)
    @given(PAIRS, st.integers(0, 99))
    def test_the_models_swapped_change_only_the_sign(self, pairs: list[tuple[float, float]], seed: int) -> None:
        a, b = zip(*pairs, strict=True)
        groups = [f"g{i}" for i in np.random.default_rng(seed).integers(0, 12, len(a))]
        assume(len(set(groups)) > 1)
        forth, back = paired_difference(a, b, groups), paired_difference(b, a, groups)
        assert forth.p == back.p
        assert -1 <= forth.estimate.value <= 1
        assert forth.estimate.low == pytest.approx(-back.estimate.high)
        assert forth.detectable == pytest.approx(back.detectable)

    def test_order_does_not_matter_and_copies_add_nothing(self) -> None:
        a, b = two_models(np.random.default_rng(0), 20)
        once = paired_difference(a, b, names(20))
        back = paired_difference(a[::-1], b[::-1], names(20)[::-1])
        twice = paired_difference(np.tile(a, 2), np.tile(b, 2), names(20) * 2)
        for other in (back, twice):
            assert other.p == once.p
            assert other.estimate.low == pytest.approx(once.estimate.low)
            assert other.detectable == pytest.approx(once.detectable)
        assert (twice.estimate.n, twice.estimate.groups) == (40, 20)

    def test_prompts_with_one_verdict_are_left_out(self) -> None:
        a, b = [1.0, NAN, 0.5, 0.0, 1.0], [0.5, 1.0, NAN, 0.0, 0.0]
        assert paired_difference(a, b, names(5)) == paired_difference(
            [1.0, 0.0, 1.0], [0.5, 0.0, 0.0], ["g000", "g003", "g004"]
        )

    def test_the_record_cannot_change(self) -> None:
        with pytest.raises(ValidationError):
            paired_difference([1.0, 0.0], [0.0, 0.0], names(2)).__setattr__("p", 0.0)

    def test_wrong_input(self) -> None:
        with pytest.raises(ValueError, match="one length"):
            paired_difference([1.0], [1.0, 0.0], names(2))
        with pytest.raises(ValueError, match="two groups"):
            paired_difference([1.0, NAN], [1.0, 0.0], names(2))


class TestOutcomes:
    def test_a_known_table(self) -> None:
        found = outcome_table([0, 0, 1, 2, 2], [0, 1, 1, 0, 0])
        assert found.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 0]]

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2))))
    def test_its_margins_are_the_grades_of_each_model(self, pairs: list[tuple[int, int]]) -> None:
        a, b = [p[0] for p in pairs], [p[1] for p in pairs]
        found = outcome_table(a, b)
        assert found.sum(axis=1).tolist() == [a.count(c) for c in range(3)]
        assert found.sum(axis=0).tolist() == [b.count(c) for c in range(3)]
        assert (found == outcome_table(b, a).T).all()

    @pytest.mark.parametrize(("a", "b"), [([0], [0, 1]), ([3], [0]), ([0], [-1])])
    def test_wrong_input(self, a: list[int], b: list[int]) -> None:
        with pytest.raises(ValueError, match="class"):
            outcome_table(a, b)

    @settings(deadline=None, max_examples=40)
    @given(PAIRS)
    def test_wins_are_those_of_the_table_and_of_the_other_side(self, pairs: list[tuple[float, float]]) -> None:
        a, b = zip(*pairs, strict=True)
        classes = [[int(2 - 2 * value) for value in side] for side in (a, b)]
        table = outcome_table(*classes)
        found, back = win_rate(a, b, names(len(a))), win_rate(b, a, names(len(a)))
        assert (found.wins, found.ties, found.losses) == (
            np.triu(table, 1).sum(),
            np.trace(table),
            table.sum() - found.wins - np.trace(table),
        )
        assert (found.wins, found.losses) == (back.losses, back.wins)
        assert found.rate.value == pytest.approx((found.wins + found.ties / 2) / len(a))
        assert found.rate.value == pytest.approx(1 - back.rate.value)
        assert 0 <= found.rate.low <= found.rate.value <= found.rate.high <= 1

    def test_the_win_rate_is_the_share_of_mann_whitney_within_each_prompt(self) -> None:
        a, b = two_models(np.random.default_rng(2), 50)
        within = [scipy_stats.mannwhitneyu([x], [y]).statistic for x, y in zip(a, b, strict=True)]
        assert win_rate(a, b, names(50)).rate.value == pytest.approx(np.mean(within))

    def test_missing_verdicts_are_left_out_and_something_must_be_left(self) -> None:
        assert win_rate([1.0, NAN, 0.0], [0.0, 0.0, 0.5], names(3)).rate.n == 2
        with pytest.raises(ValueError, match="both verdicts"):
            win_rate([NAN], [1.0], names(1))


class TestByPart:
    @settings(deadline=None, max_examples=15)
    @given(st.lists(st.floats(0, 1), max_size=12))
    def test_holm_is_that_of_statsmodels(self, p_values: list[float]) -> None:
        expected = multipletests(p_values, method="holm")[1] if p_values else []
        assert holm(p_values) == pytest.approx(list(expected), abs=1e-12)

    def test_each_part_is_compared_alone_and_adjusted_together(self) -> None:
        a, b = two_models(np.random.default_rng(3), 40)
        codes = [(("WA", "SC") if i % 2 else ("SC",)) if i % 5 else () for i in range(40)]
        found = by_part(a, b, names(40), codes)
        assert list(found) == ["SC", "WA"]
        rows = [i for i in range(40) if "WA" in codes[i]]
        assert found["WA"].difference == paired_difference(a[rows], b[rows], [names(40)[i] for i in rows])
        p_values = [part.difference.p for part in found.values()]
        assert [part.adjusted_p for part in found.values()] == pytest.approx(multipletests(p_values, method="holm")[1])

    def test_one_part_a_prompt_may_be_its_bare_name(self) -> None:
        a, b = two_models(np.random.default_rng(4), 20)
        kinds = ["advice", "plan"] * 10
        assert by_part(a, b, names(20), kinds) == by_part(a, b, names(20), [(kind,) for kind in kinds])

    def test_parts_too_small_are_left_out_and_not_counted(self) -> None:
        found = by_part([1, 1, 0, NAN], [0, 0, 0, 0], names(4), ["plan", "plan", "advice", "advice"])
        assert list(found) == ["plan"]
        assert found["plan"].adjusted_p == found["plan"].difference.p
        assert by_part([1], [0], names(1), ["plan"]) == {}

    def test_wrong_input(self) -> None:
        with pytest.raises(ValueError, match="one length"):
            by_part([1, 1], [0, 0], names(2), ["plan"])


def graded(seed: int, models: int, prompts: int, missing: float = 0.0) -> np.ndarray:
    """Grades of models of different worth, every model with a verdict on the first prompt."""
    rng = np.random.default_rng(seed)
    worth = rng.dirichlet((1, 1, 1), models)
    scores = np.array([POINTS[rng.choice(3, prompts, p=p)] for p in worth])
    scores[:, 1:][rng.random((models, prompts - 1)) < missing] = NAN
    return scores


BOARDS = st.builds(graded, st.integers(0, 9999), st.integers(1, 7), st.sampled_from([8, 20]), st.sampled_from([0, 0.2]))


def brute_force_better(scores: np.ndarray) -> np.ndarray:
    """Surely better by adjusted p: the share of all sign patterns whose largest statistic reaches that of the pair."""
    pairs = list(combinations(range(len(scores)), 2))
    gaps = np.array([np.nan_to_num(scores[i] - scores[j]) for i, j in pairs])
    gaps /= np.sqrt((gaps**2).sum(axis=1, keepdims=True)).clip(1e-12)
    largest = np.array([np.abs(gaps @ s).max() for s in product([-1.0, 1.0], repeat=scores.shape[1])])
    better = np.zeros((len(scores),) * 2, dtype=bool)
    for (i, j), observed in zip(pairs, gaps.sum(axis=1), strict=True):
        if np.mean(largest >= abs(observed) - 1e-9) <= 0.05:
            better[(i, j) if observed > 0 else (j, i)] = True
    return better


@pytest.mark.usefixtures("_few_draws")
class TestRankIntervals:
    @pytest.mark.parametrize("seed", range(12))
    def test_they_are_those_of_brute_force(self, seed: int) -> None:
        scores = graded(seed, 5, 10)
        assert (rank_intervals(scores, names(10)).better == brute_force_better(scores)).all()

    @pytest.mark.parametrize("seed", range(12))
    def test_two_models_are_told_apart_when_their_permutation_test_says_so(self, seed: int) -> None:
        a, b = two_models(np.random.default_rng(seed), 30)
        groups = [f"g{i % 13}" for i in range(30)]
        assert rank_intervals([a, b], groups).better.any() == (paired_difference(a, b, groups).p <= 0.05)

    @pytest.mark.parametrize("models", [2, 5, 20])
    def test_the_critical_value_of_independent_models_is_the_one_of_tukey(
        self, models: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(comparison, "_RANK_DRAWS", 3999)
        found = rank_intervals(np.random.default_rng(8).normal(size=(models, 300)), names(300))
        assert found.critical == pytest.approx(scipy_stats.studentized_range.ppf(0.95, models, 1e5) / 2**0.5, rel=0.03)

    @settings(deadline=None, max_examples=80)
    @given(BOARDS)
    def test_a_rank_interval_holds_the_order_of_the_means(self, scores: np.ndarray) -> None:
        found = rank_intervals(scores, names(scores.shape[1]))
        means = np.nanmean(scores, axis=1).round(12)
        above, below = (means[:, None] < means).sum(axis=1), (means[:, None] > means).sum(axis=1)
        assert (found.best >= 1).all()
        assert (found.best <= 1 + above).all()
        assert (found.worst >= len(scores) - below).all()
        assert (found.worst <= len(scores)).all()
        assert not (found.better & found.better.T).any()

    @settings(deadline=None, max_examples=80)
    @given(BOARDS)
    def test_tiers_follow_the_means_without_gaps(self, scores: np.ndarray) -> None:
        found = rank_intervals(scores, names(scores.shape[1]))
        means = np.nanmean(scores, axis=1).round(12)
        higher = means[:, None] > means
        assert (found.tier[:, None] <= found.tier)[higher].all()
        assert (found.tier[:, None] == found.tier)[means[:, None] == means].all()
        assert sorted(set(found.tier)) == list(range(1, max(found.tier) + 1))

    @settings(deadline=None, max_examples=80)
    @given(BOARDS)
    def test_no_model_is_surely_worse_than_the_top_of_its_tier_and_the_next_top_is(self, scores: np.ndarray) -> None:
        found = rank_intervals(scores, names(scores.shape[1]))
        means = np.nanmean(scores, axis=1).round(12)
        tops = []
        for tier in range(1, max(found.tier) + 1):
            inside = np.flatnonzero(found.tier == tier)
            tops.append(inside[means[inside] == means[inside].max()])
            assert not found.better[np.ix_(tops[-1], inside)].any()
        for upper, lower in pairwise(tops):
            assert found.better[np.ix_(upper, lower)].any()

    @settings(deadline=None, max_examples=80)
    @given(BOARDS)
    def test_a_clearly_worse_model_moves_the_others_only_through_the_critical_value(self, scores: np.ndarray) -> None:
        groups = names(scores.shape[1])
        before = rank_intervals(scores, groups)
        after = rank_intervals(np.vstack([scores, np.full(scores.shape[1], -1.0)]), groups)
        assert after.critical >= before.critical - 1e-12  # the last bit may differ
        assert not (after.better[:-1, :-1] & ~before.better).any()
        if (after.better[:-1, :-1] == before.better).all():
            assert (after.tier[:-1] == before.tier).all()
            assert (after.best[:-1] == before.best).all()
        assert after.tier[-1] == max(after.tier)

    @settings(deadline=None, max_examples=40)
    @given(BOARDS, st.integers(0, 99))
    def test_the_order_of_models_and_prompts_does_not_matter(self, scores: np.ndarray, seed: int) -> None:
        rng = np.random.default_rng(seed)
        models, prompts = rng.permutation(len(scores)), rng.permutation(scores.shape[1])
        groups = np.array(names(scores.shape[1]))
        found = rank_intervals(scores, list(groups))
        mixed = rank_intervals(scores[np.ix_(models, prompts)], list(groups[prompts]))
        assert mixed.critical == pytest.approx(found.critical)
        for part in ("best", "worst", "tier"):
            assert (getattr(mixed, part) == getattr(found, part)[models]).all()

    def test_tiers_of_known_models(self) -> None:
        scores = np.array([[1.0], [1.0], [0.0], [0.0]]) * np.ones(60)
        scores[0, :3], scores[1, 10:16], scores[2, :18], scores[3, 20:35] = 0, 0, 1, 1
        found = rank_intervals(scores, names(60))
        assert found.tier.tolist() == [1, 1, 2, 2]
        assert (found.best.tolist(), found.worst.tolist()) == ([1, 1, 3, 3], [2, 2, 4, 4])

    def test_equal_means_open_a_tier_together(self) -> None:
        """The second of two equal models is surely worse than the top, the first is not; in either order."""
        means = np.array([0.9, 0.5, 0.5])
        better = np.zeros((3, 3), dtype=bool)
        better[0, 2] = True
        assert comparison._tiers(means, better).tolist() == [1, 2, 2]
        assert comparison._tiers(means, better[:, [0, 2, 1]]).tolist() == [1, 2, 2]

    def test_a_tier_is_told_by_its_top_alone(self) -> None:
        better = np.zeros((4, 4), dtype=bool)
        better[1, 2] = better[0, 3] = True
        assert comparison._tiers(np.array([0.9, 0.8, 0.7, 0.6]), better).tolist() == [1, 1, 1, 2]

    def test_few_shared_prompts_are_never_sure(self) -> None:
        scores = np.full((3, 60), NAN)
        scores[0], scores[1, :5], scores[2, 30:] = 1.0, 0.0, 0.0
        assert rank_intervals(scores, names(60)).better.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]

    @pytest.mark.parametrize(("groups", "tiers"), [(4, [1, 1]), (5, [1, 1]), (6, [1, 2])])
    def test_six_groups_are_the_fewest_that_can_be_sure(self, groups: int, tiers: list[int]) -> None:
        """All in one direction, the permutation p is 2/2^G: 6.3 % of five groups, 3.1 % of six."""
        assert rank_intervals([[1.0] * groups, [0.0] * groups], names(groups)).tier.tolist() == tiers

    def test_translations_are_one_observation(self) -> None:
        scores = np.tile([[1.0] * 4 + [0.5], [0.0] * 4 + [0.5]], 6)
        assert rank_intervals(scores, names(30)).tier.tolist() == [1, 2]
        assert rank_intervals(scores, names(5) * 6).tier.tolist() == [1, 1]

    def test_a_model_better_on_shared_prompts_and_lower_on_its_own_is_not_sure(self) -> None:
        scores = np.full((2, 60), NAN)
        scores[0, :30], scores[1, :30], scores[0, 30:] = 0.3, 0.2, 0.0
        assert not rank_intervals(scores, names(60)).better.any()

    def test_one_model_and_copies(self) -> None:
        alone = rank_intervals([[1.0, 0.5]], names(2))
        assert (alone.best.tolist(), alone.worst.tolist(), alone.tier.tolist()) == ([1], [1], [1])
        copies = rank_intervals(np.tile(graded(1, 1, 20), (4, 1)), names(20))
        assert (copies.best.tolist(), copies.worst.tolist(), copies.tier.tolist()) == ([1] * 4, [4] * 4, [1] * 4)

    @pytest.mark.parametrize("scores", [[1.0, 0.0], [[1.0]], np.zeros((0, 2)), [[1.0, 0.0], [NAN, NAN]]])
    def test_wrong_input(self, scores: Any) -> None:
        with pytest.raises(ValueError, match=r"row a model|without any verdict"):
            rank_intervals(scores, names(2))


def test_a_board_of_200_models_takes_little_time_and_memory() -> None:
    scores = graded(0, 200, 300, 0.02)
    start = time.process_time()
    tracemalloc.start()
    found = rank_intervals(scores, names(300))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - start < 5
    assert peak < 50e6
    assert max(found.tier) > 3


def pair(
    rng: np.random.Generator, groups: int, first: tuple[float, ...], second: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grades of two models in groups of 1 to 4 prompts that often agree; both have the second's grade at times."""
    member = np.repeat(np.arange(groups), rng.choice([1, 1, 2, 4], groups))

    def grades(p: tuple[float, ...]) -> np.ndarray:
        own = rng.choice(3, len(member), p=p)
        return np.where(rng.random(len(member)) < 0.5, rng.choice(3, groups, p=p)[member], own)

    b = grades(second)
    return POINTS[np.where(rng.random(groups)[member] < 0.5, b, grades(first))], POINTS[b], member.astype(str)


BETTER, WORSE = (0.7, 0.2, 0.1), (0.5, 0.3, 0.2)


@pytest.mark.usefixtures("_few_draws")
class TestCoverage:
    """A nominal 95 % interval holds the truth in 92 to 97.5 % of simulated samples; a 5 % test errs in 5 %."""

    @pytest.mark.parametrize("groups", [60, 150])
    @pytest.mark.parametrize("first", [BETTER, WORSE])
    def test_paired_difference(self, groups: int, first: tuple[float, ...]) -> None:
        rng = np.random.default_rng(20_251_120)
        truth = 0.5 * float(np.dot(first, POINTS) - np.dot(WORSE, POINTS))
        found = [paired_difference(*pair(rng, groups, first, WORSE)) for _ in range(600)]
        covered = np.mean([f.estimate.low <= truth <= f.estimate.high for f in found])
        assert NOMINAL[0] <= covered <= NOMINAL[1]
        if first == WORSE:
            assert 0.025 <= np.mean([f.p <= 0.05 for f in found]) <= 0.075

    def test_win_rate(self) -> None:
        rng = np.random.default_rng(7)
        both = np.outer(BETTER, WORSE)
        truth = 0.5 + 0.25 * float(np.triu(both, 1).sum() - np.tril(both, -1).sum())
        hits = 0
        for _ in range(400):
            b = rng.choice(3, 100, p=WORSE)
            a = np.where(rng.random(100) < 0.5, b, rng.choice(3, 100, p=BETTER))
            found = win_rate(POINTS[a], POINTS[b], names(100)).rate
            hits += found.low <= truth <= found.high
        assert NOMINAL[0] <= hits / 400 <= NOMINAL[1]

    def test_a_difference_called_detectable_is_found_in_four_of_five(self) -> None:
        rng = np.random.default_rng(11)
        d = rng.normal(size=(800, 80))
        size = paired_difference(np.resize([1.0, -1.0], 80), np.zeros(80), names(80)).detectable
        assert size is not None
        found = [paired_difference(row + size, np.zeros(80), names(80)).p <= 0.05 for row in d]
        assert np.mean(found) == pytest.approx(0.8, abs=0.045)


Draw = Callable[[np.random.Generator], np.ndarray]


def independent(shares: tuple[float, ...]) -> Draw:
    return lambda rng: POINTS[rng.choice(3, (8, 60), p=shares)]


def of_hard_and_easy_prompts(rng: np.random.Generator) -> np.ndarray:
    ease = 1 + 1.5 * rng.normal(size=60) + rng.logistic(size=(8, 60))
    return np.where(ease > 2, 1.0, np.where(ease > 0, 0.5, 0.0))


def mostly_tied(rng: np.random.Generator) -> np.ndarray:
    """Fine-tunes of one model, two of them the same: nine answers in ten alike."""
    base, own = POINTS[rng.choice(3, 60, p=WORSE)], POINTS[rng.choice(3, (8, 60), p=WORSE)]
    scores = np.where(rng.random((8, 60)) < 0.1, own, base)
    scores[1] = scores[0]
    return scores


def some_missing(rng: np.random.Generator) -> np.ndarray:
    scores = POINTS[rng.choice(3, (8, 60), p=WORSE)]
    scores[rng.random(scores.shape) < 0.1] = NAN
    return scores


@pytest.mark.usefixtures("_few_draws")
class TestFamilyWiseError:
    def false(self, draw: Draw, equal: np.ndarray, repeats: int = 600) -> float:
        rng = np.random.default_rng(20_251_120)
        found = (rank_intervals(draw(rng), names(60)).better for _ in range(repeats))
        return sum(bool((better & equal).any()) for better in found) / repeats

    @pytest.mark.parametrize(
        ("draw", "at_least"),
        [
            (independent(WORSE), 0.02),
            (independent((0.9, 0.07, 0.03)), 0.02),
            (of_hard_and_easy_prompts, 0.02),
            (some_missing, 0.02),
            (mostly_tied, 0.0),
        ],
        ids=["independent", "rare grades", "hard and easy prompts", "missing", "ties"],
    )
    def test_equal_models_are_seldom_told_apart(self, draw: Draw, at_least: float) -> None:
        assert at_least <= self.false(draw, np.ones((8, 8), dtype=bool)) <= 0.075

    def test_equal_models_among_unequal_ones_too(self) -> None:
        def draw(rng: np.random.Generator) -> np.ndarray:
            upper, lower = rng.choice(3, (4, 60), p=(0.8, 0.15, 0.05)), rng.choice(3, (4, 60), p=(0.3, 0.3, 0.4))
            return POINTS[np.vstack([upper, lower])]

        upper = np.arange(8) < 4
        assert self.false(draw, ~(upper[:, None] & ~upper), 400) <= 0.075

    def test_every_rank_interval_holds_the_true_rank_at_once(self) -> None:
        worth = np.array([0.9, 0.85, 0.85, 0.7, 0.6, 0.6, 0.3, 0.1])
        first = 1 + (worth[:, None] < worth).sum(axis=1)
        last = len(worth) - (worth[:, None] > worth).sum(axis=1)
        rng = np.random.default_rng(4)
        repeats, held, widths = 400, 0, []
        for _ in range(repeats):
            found = rank_intervals((rng.random((8, 60)) < worth[:, None]).astype(float), names(60))
            held += bool((found.best <= first).all() and (found.worst >= last).all())
            widths.append(found.worst - found.best)
        assert held / repeats >= 0.94
        assert np.mean(widths) < 4

    def test_power(self) -> None:
        """A model 35 points above seven equal ones stands alone in most samples, 5 points above in few."""

        def alone(found: RankIntervals) -> bool:
            return bool(found.worst[0] == 1)

        def share(worth: float) -> float:
            rng = np.random.default_rng(2)
            levels = np.array([worth] + [0.5] * 7)[:, None]
            found = (rank_intervals((rng.random((8, 120)) < levels).astype(float), names(120)) for _ in range(100))
            return sum(map(alone, found)) / 100

        assert share(0.85) > 0.85
        assert share(0.55) < 0.1
