"""Every interval against the textbook, a second implementation, and a known truth simulated many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.metrics import cohen_kappa_score

from eco_eval.stats import clustered_mean, dirichlet_mean, intervals, mean_of_classes, mean_of_shares, weighted_kappa
from eco_eval.types import Estimate

POINTS = (1.0, 0.5, 0.0)
REPEATS = 1500
NOMINAL = (0.92, 0.975)

CLASSES = st.lists(st.integers(0, 2), min_size=1, max_size=150)
NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30)


def names(count: int) -> list[str]:
    return [f"g{i}" for i in range(count)]


def some_groups(count: int, seed: int) -> list[str]:
    return [f"g{i}" for i in np.random.default_rng(seed).integers(0, max(2, count // 2), count)]


class TestClusteredMean:
    @settings(deadline=None)
    @given(NUMBERS)
    def test_groups_of_one_give_the_t_interval_of_the_textbook(self, values: list[float]) -> None:
        found = clustered_mean(values, names(len(values)))
        half = scipy_stats.t.ppf(0.975, len(values) - 1) * scipy_stats.sem(values)
        expected = np.mean(values) + np.array([0, -half, half])
        assert (found.value, found.low, found.high) == pytest.approx(expected, abs=1e-9 * max(1, *map(abs, values)))
        assert (found.n, found.groups, found.method) == (len(values), len(values), "clustered-t")

    @pytest.mark.parametrize("seed", range(5))
    def test_larger_groups_give_the_cluster_robust_regression_of_statsmodels(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        member = rng.integers(0, 12, 60)
        values = rng.normal(member / 5, 1)
        groups = [f"g{i}" for i in member]
        fit = sm.OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": member}, use_t=True)
        low, high = fit.conf_int(0.05)[0]
        found = clustered_mean(values, groups)
        assert (found.value, found.low, found.high) == pytest.approx((fit.params[0], low, high), rel=1e-9)

    def test_copies_of_a_prompt_add_nothing(self) -> None:
        values = [0.0, 1.0, 0.5, 1.0, 0.0]
        once = clustered_mean(values, names(5))
        thrice = clustered_mean(values * 3, names(5) * 3)
        assert (thrice.value, thrice.low, thrice.high) == pytest.approx((once.value, once.low, once.high))
        assert (thrice.n, thrice.groups) == (15, 5)

    @settings(deadline=None)
    @given(NUMBERS, st.floats(-100, 100), st.floats(0.1, 100), st.integers(0, 99))
    def test_it_moves_and_scales_with_the_values(
        self, values: list[float], shift: float, factor: float, seed: int
    ) -> None:
        groups = [*some_groups(len(values), seed)[1:], "own"]
        base = clustered_mean(values, groups) if len(set(groups)) > 1 else None
        if base is None:
            return
        moved = clustered_mean([shift + factor * v for v in values], groups)
        size = abs(shift) + factor * max(map(abs, values)) + 1
        for part in ("value", "low", "high"):
            expected = shift + factor * getattr(base, part)
            assert getattr(moved, part) == pytest.approx(expected, abs=1e-6 * size)

    def test_order_does_not_matter(self) -> None:
        values, groups = [0.0, 1.0, 0.5, 0.5], ["a", "b", "a", "c"]
        forth, back = clustered_mean(values, groups), clustered_mean(values[::-1], groups[::-1])
        assert (forth.low, forth.high) == pytest.approx((back.low, back.high))

    @pytest.mark.parametrize("values", [[], [1.0], [0.0, 1.0]])
    def test_one_group_tells_no_spread(self, values: list[float]) -> None:
        with pytest.raises(ValueError, match="two groups"):
            clustered_mean(values, ["a"] * len(values))


class TestClassMeans:
    @settings(deadline=None, max_examples=60)
    @given(CLASSES, st.integers(0, 99), st.booleans())
    def test_an_interval_holds_its_value_and_stays_in_the_range(
        self, classes: list[int], seed: int, alone: bool
    ) -> None:
        groups = names(len(classes)) if alone else some_groups(len(classes), seed)
        shares = np.random.default_rng(seed).dirichlet((1, 1, 1), len(classes))
        for found in (mean_of_classes(classes, groups, POINTS), mean_of_shares(shares, groups, POINTS)):
            assert 0 <= found.low <= found.value <= found.high <= 1
            assert found.low < found.high
            assert (found.n, found.groups) == (len(classes), len(set(groups)))
        assert mean_of_classes(classes, groups, POINTS).value == pytest.approx(np.mean([POINTS[c] for c in classes]))

    @pytest.mark.parametrize("count", [1, 2, 20, 99, 100, 400])
    @pytest.mark.parametrize("grade", [0, 1, 2])
    def test_grades_all_alike_are_not_certainty(self, count: int, grade: int) -> None:
        for found in (
            dirichlet_mean(np.eye(3)[[grade] * count], names(count), POINTS),
            mean_of_classes([grade] * count, names(count), POINTS),
            mean_of_classes([grade] * count * 2, names(count) * 2, POINTS),
        ):
            assert found.value == POINTS[grade]
            assert found.low < found.high
            assert found.high - found.low > 0.4 / count

    def test_more_prompts_narrow_the_interval(self) -> None:
        widths = [
            (found := mean_of_classes([0, 1, 2, 0] * count, names(4 * count), POINTS)).high - found.low
            for count in (5, 20, 80)
        ]
        assert widths[0] > widths[1] > widths[2]

    def test_copies_of_a_prompt_do_not(self) -> None:
        classes = [0, 1, 2, 0] * 10
        once = mean_of_classes(classes, names(40), POINTS)
        twice = mean_of_classes(classes * 2, names(40) * 2, POINTS)
        assert 1 <= (twice.high - twice.low) / (once.high - once.low) < 1.06

    def test_the_interval_is_about_the_mean_it_stands_beside(self) -> None:
        """A large group of bad answers and many small groups of good ones: the mean is over answers."""
        classes, groups = [2] * 30 + [0] * 30, ["large"] * 30 + names(30)
        found = mean_of_classes(classes, groups, POINTS)
        assert found.value == 0.5
        assert found.low < 0.3
        assert found.high > 0.7

    def test_the_same_grades_give_the_same_interval(self) -> None:
        assert mean_of_classes([0, 1, 2], names(3), POINTS) == mean_of_classes([0, 1, 2], names(3), POINTS)

    @pytest.mark.parametrize(
        ("classes", "groups", "method"),
        [
            ([0, 2] * 200, names(400), "dirichlet"),
            ([0, 2] * 200, names(200) * 2, "clustered-t"),
            ([0, 2] * 45, names(45) * 2, "dirichlet"),
            ([0] * 390 + [2] * 10, names(200) * 2, "dirichlet"),
            ([0, 2] * 150, [f"g{i // 2}" for i in range(300)], "dirichlet"),
        ],
        ids=["exact", "groups", "few groups", "rare grades", "no spread between groups"],
    )
    def test_the_method_is_the_one_that_covers(self, classes: list[int], groups: list[str], method: str) -> None:
        assert mean_of_classes(classes, groups, POINTS).method == method

    def test_probabilities_of_many_prompts_use_their_own_spread(self) -> None:
        shares = np.random.default_rng(0).dirichlet((8, 2, 1), 150)
        found = mean_of_shares(shares, names(150), POINTS)
        wide = dirichlet_mean(shares, names(150), POINTS)
        assert found.method == "clustered-t"
        assert found.high - found.low == pytest.approx(wide.high - wide.low, rel=0.1)


GRADES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40)


class TestKappa:
    @settings(deadline=None)
    @given(GRADES)
    def test_it_is_what_scikit_learn_says(self, pairs: list[tuple[int, int]]) -> None:
        truth, said = zip(*pairs, strict=True)
        if len({*truth, *said}) > 1:
            expected = cohen_kappa_score(truth, said, weights="quadratic", labels=[0, 1, 2])
            assert weighted_kappa(truth, said) == pytest.approx(expected, abs=1e-12)

    @settings(deadline=None)
    @given(GRADES)
    def test_agreement_is_one_and_the_sides_are_alike(self, pairs: list[tuple[int, int]]) -> None:
        truth, said = zip(*pairs, strict=True)
        assert weighted_kappa(truth, truth) == 1.0
        assert weighted_kappa(truth, said) == pytest.approx(weighted_kappa(said, truth))
        assert weighted_kappa(truth, said) <= 1.0

    def test_known_judges(self) -> None:
        truth = [0, 1, 2] * 10
        assert weighted_kappa(truth, [2, 1, 0] * 10) == pytest.approx(-1)
        assert weighted_kappa(truth, [1] * 30) == pytest.approx(0)
        assert weighted_kappa([0] * 5, [2] * 5) == 0


def covered(draw: Callable[[np.random.Generator], Estimate], truth: float, repeats: int = REPEATS) -> float:
    rng = np.random.default_rng(20_251_120)
    found = (draw(rng) for _ in range(repeats))
    return sum(f.low <= truth <= f.high for f in found) / repeats


def graded_covered(count: int, shares: Sequence[float], points: Sequence[float] = POINTS) -> float:
    """Coverage over prompts of one grade each; the same counts of grades have the same interval."""
    counts = np.random.default_rng(count).multinomial(count, shares, size=REPEATS)
    truth = float(np.dot(shares, points))
    hits = 0
    for row, times in zip(*np.unique(counts, axis=0, return_counts=True), strict=True):
        found = mean_of_classes(np.repeat(np.arange(len(row)), row), names(count), points)
        hits += times * (found.low <= truth <= found.high)
    return hits / REPEATS


@pytest.fixture
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for the ends of an interval to a hundredth of its width."""
    monkeypatch.setattr(intervals, "_DRAWS", 4000)


@pytest.mark.usefixtures("_few_draws")
class TestCoverage:
    """A nominal 95 % interval holds the truth in 92 to 97.5 % of simulated samples."""

    @pytest.mark.parametrize("groups", [100, 150, 300])
    @pytest.mark.parametrize("shared", [0.0, 0.5, 2.0])
    def test_clustered_mean_of_normal_values_in_unequal_groups(self, groups: int, shared: float) -> None:
        def draw(rng: np.random.Generator) -> Estimate:
            member = np.repeat(np.arange(groups), rng.choice([1, 1, 2, 5], groups))
            values = 3 + shared * rng.normal(size=groups)[member] + rng.normal(size=len(member))
            return clustered_mean(values, member.astype(str))

        assert NOMINAL[0] <= covered(draw, 3.0) <= NOMINAL[1]

    @pytest.mark.parametrize("groups", [100, 240])
    @pytest.mark.parametrize("agree", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("shares", [(0.5, 0.3, 0.2), (0.75, 0.15, 0.1)])
    def test_grades_in_unequal_groups(self, groups: int, agree: float, shares: tuple[float, ...]) -> None:
        def grades(rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
            member = np.repeat(np.arange(groups), rng.choice([1, 1, 2, 4], groups))
            ours = rng.choice(3, groups, p=shares)[member]
            own = rng.choice(3, len(member), p=shares)
            return np.where(rng.random(len(member)) < agree, ours, own), member.astype(str)

        def clustered(rng: np.random.Generator) -> Estimate:
            classes, member = grades(rng)
            return clustered_mean(np.asarray(POINTS)[classes], member)

        truth = float(np.dot(shares, POINTS))
        assert NOMINAL[0] <= covered(clustered, truth) <= NOMINAL[1]
        assert NOMINAL[0] <= covered(lambda rng: mean_of_classes(*grades(rng), POINTS), truth, 500) <= NOMINAL[1]

    @pytest.mark.parametrize("count", [20, 60, 100, 240])
    @pytest.mark.parametrize(
        "shares",
        [
            (1 / 3, 1 / 3, 1 / 3),
            (0.5, 0.3, 0.2),
            (0.5, 0.0, 0.5),
            (0.7, 0.2, 0.1),
            (0.2, 0.6, 0.2),
            (0.9, 0.07, 0.03),
            (0.95, 0.03, 0.02),
            (0.03, 0.07, 0.9),
        ],
    )
    def test_grades_of_single_prompts(self, count: int, shares: tuple[float, ...]) -> None:
        assert NOMINAL[0] <= graded_covered(count, shares) <= NOMINAL[1]

    @pytest.mark.parametrize("count", [60, 100, 240])
    def test_rare_grades(self, count: int) -> None:
        """A t interval covers 90 % here, whatever the number of prompts on a board."""
        assert NOMINAL[0] <= graded_covered(count, (0.97, 0.02, 0.01)) <= NOMINAL[1]

    @pytest.mark.parametrize("count", [60, 100, 240])
    @pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
    def test_shares_of_one_grade(self, count: int, share: float) -> None:
        assert NOMINAL[0] <= graded_covered(count, (share, 1 - share), (1.0, 0.0)) <= NOMINAL[1]

    @pytest.mark.parametrize("weights", [(1, 1, 1), (8, 2, 1), (0.3, 0.2, 0.1)])
    def test_probabilities_of_many_prompts(self, weights: tuple[float, ...]) -> None:
        truth = float(np.dot(weights, POINTS)) / sum(weights)

        def draw(rng: np.random.Generator) -> Estimate:
            return mean_of_shares(rng.dirichlet(weights, 150), names(150), POINTS)

        assert NOMINAL[0] <= covered(draw, truth) <= NOMINAL[1]

    @pytest.mark.parametrize("groups", [20, 60])
    @pytest.mark.parametrize("shares", [(0.6, 0.3, 0.1), (6.0, 3.0, 1.0), (0.85, 0.1, 0.05)])
    def test_few_groups_and_few_probabilities(self, groups: int, shares: tuple[float, ...]) -> None:
        def draw(rng: np.random.Generator) -> Estimate:
            member = np.repeat(np.arange(groups), rng.choice([1, 2, 4], groups))
            return mean_of_shares(rng.dirichlet(shares, groups)[member], member.astype(str), POINTS)

        truth = float(np.dot(shares, POINTS)) / sum(shares)
        assert NOMINAL[0] <= covered(draw, truth, 1000) <= NOMINAL[1]

    @pytest.mark.parametrize("count", [30, 94])
    @pytest.mark.parametrize("alike", [0.3, 0.8])
    @pytest.mark.parametrize("shares", [(0.5, 0.3, 0.2), (0.8, 0.15, 0.05)])
    def test_the_mean_of_three_judges(self, count: int, alike: float, shares: tuple[float, ...]) -> None:
        def draw(rng: np.random.Generator) -> Estimate:
            common = rng.choice(3, count, p=shares)
            given = [np.where(rng.random(count) < alike, common, rng.choice(3, count, p=shares)) for _ in range(3)]
            return mean_of_shares(np.eye(3)[given].mean(axis=0), names(count), POINTS)

        assert NOMINAL[0] <= covered(draw, float(np.dot(shares, POINTS)), 1000) <= NOMINAL[1]
