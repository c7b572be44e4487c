"""The gap between public and hidden prompts, against scipy, statsmodels and a known truth simulated many times."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from eco_eval.stats import paired_difference
from eco_eval.stats.gap import public_hidden_gap

NOMINAL = (0.92, 0.975)
POINTS = np.array([1.0, 0.5, 0.0])


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


class TestAgainstOthers:
    @pytest.mark.parametrize(("n", "m"), [(100, 100), (100, 40), (30, 200)])
    def test_groups_of_one_are_nearly_the_test_of_welch(self, n: int, m: int) -> None:
        rng = np.random.default_rng(n)
        x, y = rng.normal(0.6, 0.3, n), rng.normal(0.5, 0.4, m)
        found = public_hidden_gap(x, names("p", n), y, names("h", m))
        welch = scipy_stats.ttest_ind(x, y, equal_var=False).confidence_interval()
        assert found.value == pytest.approx(x.mean() - y.mean())
        assert found.high - found.low == pytest.approx(welch.high - welch.low, rel=0.03)
        assert (found.n, found.groups) == (n + m, n + m)

    @pytest.mark.parametrize("seed", range(4))
    def test_the_error_is_the_cluster_robust_one_of_statsmodels(self, seed: int) -> None:
        """Regression on the set, clustered by group, some groups in both sets; its factor (N − 1)/(N − 2) taken out."""
        rng = np.random.default_rng(seed)
        x, y = rng.random(60), rng.random(25)
        g, h = rng.integers(0, 30, 60), rng.integers(20, 40, 25)
        inside = np.repeat([1.0, 0.0], [60, 25])
        fit = sm.OLS(np.concatenate([x, y]), sm.add_constant(inside)).fit(
            cov_type="cluster", cov_kwds={"groups": np.concatenate([g, h])}
        )
        found = public_hidden_gap(x, [str(v) for v in g], y, [str(v) for v in h])
        quantile = scipy_stats.t.ppf(0.975, min(len(set(g)), len(set(h))) - 1)
        assert found.value == pytest.approx(fit.params[1])
        assert (found.high - found.value) / quantile == pytest.approx(fit.bse[1] / np.sqrt(84 / 83))
        assert found.groups == len({*g, *h})

    def test_paraphrases_of_all_prompts_give_the_paired_difference(self) -> None:
        rng = np.random.default_rng(3)
        x = rng.random(50)
        y = x + rng.normal(0, 0.1, 50)
        found = public_hidden_gap(x, names("g", 50), y, names("g", 50))
        paired = paired_difference(x, y, names("g", 50)).estimate
        assert (found.value, found.low, found.high) == pytest.approx((paired.value, paired.low, paired.high))
        apart = public_hidden_gap(x, names("p", 50), y, names("h", 50))
        assert apart.high - apart.low > 2 * (found.high - found.low)


class TestProperties:
    SETS = st.lists(st.tuples(st.floats(-100, 100), st.integers(0, 6)), min_size=2, max_size=20).filter(
        lambda rows: len({group for _, group in rows}) > 1
    )

    @settings(deadline=None)
    @given(SETS, SETS)
    def test_the_sets_swapped_change_only_the_sign_and_order_does_not_matter(
        self, public: list[tuple[float, int]], hidden: list[tuple[float, int]]
    ) -> None:
        def gap(a: list[tuple[float, int]], b: list[tuple[float, int]]) -> tuple[float, float, float]:
            (x, g), (y, h) = zip(*a, strict=True), zip(*b, strict=True)
            found = public_hidden_gap(x, [str(v) for v in g], y, [str(v) for v in h])
            return found.low, found.value, found.high

        low, value, high = gap(public, hidden)
        assert low <= value <= high
        assert gap(hidden, public) == pytest.approx((-high, -value, -low), abs=1e-9)
        assert gap(public[::-1], hidden[::-1]) == pytest.approx((low, value, high), abs=1e-9)

    def test_values_that_never_differ_have_no_width(self) -> None:
        found = public_hidden_gap([1.0, 1.0], ["a", "b"], [0.5, 0.5], ["c", "d"])
        assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)

    def test_wrong_input(self) -> None:
        for sets in (([1.0], ["a", "b"], [1.0, 0.0], ["a", "b"]), ([1.0, 0.0], ["a", "b"], [1.0], ["a", "b"])):
            with pytest.raises(ValueError, match="one length"):
                public_hidden_gap(*sets)
        for groups in ((["a", "a"], ["a", "b"]), (["a", "b"], ["c", "c"])):
            with pytest.raises(ValueError, match="two groups"):
                public_hidden_gap([1.0, 0.0], groups[0], [1.0, 0.0], groups[1])
        with pytest.raises(ValueError, match="two groups"):
            public_hidden_gap([], [], [1.0, 0.0], ["a", "b"])


class TestCoverage:
    """Nominal 95 % on grades of a known distribution; hidden prompts are 0.1 harder in expectation or not at all."""

    DRAWS = 2_000

    def coverage(self, truth: float, draw: object) -> float:
        rng = np.random.default_rng(11)
        assert callable(draw)
        inside = [
            found.low <= truth <= found.high for found in (public_hidden_gap(*draw(rng)) for _ in range(self.DRAWS))
        ]
        return float(np.mean(inside))

    @pytest.mark.parametrize(("n", "m"), [(100, 100), (100, 40), (240, 40), (30, 100)])
    def test_independent_groups(self, n: int, m: int) -> None:
        def draw(rng: np.random.Generator) -> tuple[object, ...]:
            x, y = (POINTS[rng.choice(3, size, p=p)] for size, p in ((n, (0.6, 0.2, 0.2)), (m, (0.5, 0.2, 0.3))))
            return x, names("p", n), y, names("h", m)

        assert NOMINAL[0] < self.coverage(0.1, draw) < NOMINAL[1]

    @pytest.mark.parametrize(("n", "m"), [(60, 60), (100, 40), (40, 100)])
    def test_hidden_paraphrases_of_public_prompts(self, n: int, m: int) -> None:
        """The prompts of the smaller set are paraphrases of prompts of the larger one."""

        def draw(rng: np.random.Generator) -> tuple[object, ...]:
            ease = rng.normal(0, 0.3, max(n, m))
            x, y = ease[:n] + rng.normal(0.6, 0.15, n), ease[:m] + rng.normal(0.5, 0.15, m)
            return x, names("g", n), y, names("g", m)

        assert NOMINAL[0] < self.coverage(0.1, draw) < NOMINAL[1]

    @pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 20)])
    def test_several_paraphrases_of_each_prompt(self, n: int, m: int) -> None:
        """Groups of two in public, of one to three in hidden, half of the hidden groups in both."""

        def draw(rng: np.random.Generator) -> tuple[object, ...]:
            ease = rng.normal(0, 0.3, n + m)
            g = np.repeat(np.arange(n), 2)
            h = np.repeat(np.arange(n - m // 2, n + m - m // 2), rng.integers(1, 4, m))
            x, y = ease[g] + rng.normal(0.5, 0.2, len(g)), ease[h] + rng.normal(0.5, 0.2, len(h))
            return x, [str(v) for v in g], y, [str(v) for v in h]

        assert NOMINAL[0] < self.coverage(0.0, draw) < NOMINAL[1]

    def test_groups_ignored_would_not_cover(self) -> None:
        """What the clustering is for: the same draws, every value a group of its own."""

        def draw(rng: np.random.Generator) -> tuple[object, ...]:
            ease_x, ease_y = rng.normal(0, 0.3, 40), rng.normal(0, 0.3, 40)
            x, y = (np.repeat(ease, 4) + rng.normal(0.5, 0.1, 160) for ease in (ease_x, ease_y))
            return x, names("p", 160), y, names("h", 160)

        assert self.coverage(0.0, draw) < 0.8
