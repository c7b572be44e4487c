"""Numbers in, numbers out: the statistics behind every interval.

Values are on 0 to 1 here; scoring multiplies by 100. Groups are prompts with their paraphrases and translations:
observations of one group are not independent, so groups, not prompts, are what an interval counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eco_eval.types import Estimate

Floats = npt.NDArray[np.float64]

FEW_GROUPS = 100
"""Below this many groups the central limit is not trusted for a mean of grades (Bowyer et al. 2025, 2503.01747)."""

LEVEL = 0.95
_DRAWS = 20_000
_SEED = 20_240_611


def clustered_mean(values: Sequence[float] | Floats, groups: Sequence[str]) -> Estimate:
    """Mean with a cluster-robust t interval.

    SE = √[G/(G−1) · Σ_g (Σ_{i∈g} (x_i − x̄))²] / n, with G groups and n values; t with G−1 degrees of freedom.
    Source: Miller 2024, "Adding Error Bars to Evals" (2411.00640), eq. 4, with the small-sample factor G/(G−1).

    Args:
        values: shape (n,), any scale.
        groups: n group names.

    Raises:
        ValueError: fewer than two groups: no spread can be told.
    """
    from scipy import stats as scipy_stats

    x = np.asarray(values, dtype=float)
    names, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    if len(names) < 2:
        raise ValueError("A clustered interval needs at least two groups.")
    mean = float(x.mean())
    sums = np.bincount(member, weights=x - mean, minlength=len(names))
    g = len(names)
    error = float(np.sqrt(g / (g - 1) * np.sum(sums**2)) / len(x))
    half = float(scipy_stats.t.ppf(0.5 + LEVEL / 2, g - 1)) * error
    return Estimate(value=mean, low=mean - half, high=mean + half, n=len(x), groups=g, method="clustered-t")


def dirichlet_mean(
    shares_of: Sequence[Sequence[float]] | Floats, groups: Sequence[str], points: Sequence[float]
) -> Estimate:
    """Mean of graded points with a credible interval, for few groups.

    Posterior of the class shares under a Dirichlet(½, …, ½) prior; the interval is that of Σ points·share, by
    20,000 draws with a fixed seed. A group counts as one observation, spread over the classes of its members,
    which is exact for groups of one and conservative for larger ones. Unlike a t interval it has width when all
    grades are alike. Source: Bowyer, Aitchison and Ivanova 2025 (2503.01747), for more than two classes.

    Args:
        shares_of: shape (n, K): each observation's weight on the K classes, rows summing to 1.
        groups: n group names.
        points: shape (K,): what each class is worth.

    Returns:
        The plain mean over observations, with the interval widened to hold it if need be.
    """
    weights = np.asarray(shares_of, dtype=float)
    names, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    sizes = np.bincount(member)
    counts = (weights / sizes[member][:, None]).sum(axis=0)
    draws = np.random.default_rng(_SEED).dirichlet(counts + 0.5, size=_DRAWS) @ np.asarray(points, dtype=float)
    low, high = np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    value = float((weights @ np.asarray(points, dtype=float)).mean())
    return Estimate(
        value=value,
        low=float(min(low, value)),
        high=float(max(high, value)),
        n=len(weights),
        groups=len(names),
        method="dirichlet",
    )


def mean_of_classes(
    classes: Sequence[int] | npt.NDArray[Any], groups: Sequence[str], points: Sequence[float]
) -> Estimate:
    """Mean points of graded observations: clustered t for many groups, Dirichlet for few.

    Args:
        classes: shape (n,): class index of each observation.
        groups: n group names.
        points: what each class is worth; the interval stays between its smallest and its largest.
    """
    index = np.asarray(classes, dtype=int)
    worth = np.asarray(points, dtype=float)
    values = worth[index]
    many = len(set(groups)) >= FEW_GROUPS
    if many and values.std() > 0:
        found = clustered_mean(values, groups)
        low, high = max(found.low, float(worth.min())), min(found.high, float(worth.max()))
        return found.model_copy(update={"low": low, "high": high})
    return dirichlet_mean(np.eye(len(worth))[index], groups, points)


def weighted_kappa(truth: Sequence[int], said: Sequence[int], classes: int = 3) -> float:
    """Cohen's κ with quadratic weights: 1 − Σ w·O / Σ w·E, w = (a − b)².

    Source: Cohen 1968. Returns 0 when one side never varies and there is disagreement (the expected and observed
    disagreement are then equal), 1 when there is none at all.

    Args:
        truth: shape (n,), class index 0 to `classes` − 1.
        said: shape (n,), likewise.
    """
    observed = np.zeros((classes, classes))
    np.add.at(observed, (np.asarray(truth, dtype=int), np.asarray(said, dtype=int)), 1.0)
    observed /= observed.sum()
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0))
    gap = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2
    missed = float((gap * observed).sum())
    by_chance = float((gap * expected).sum())
    return 1.0 - missed / by_chance if by_chance else 1.0
