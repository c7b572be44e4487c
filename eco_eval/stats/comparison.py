"""Models compared on the same prompts: paired differences, wins, rank intervals and tiers.

Values are on 0 to 1 here; scoring multiplies by 100. A missing verdict is NaN and takes its prompt out of every
comparison of that model. Groups are prompts with their paraphrases and translations: they, not prompts, are what an
interval counts and what a permutation flips.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from eco_eval.stats.intervals import LEVEL, Floats, clustered_mean, mean_of_classes, members
from eco_eval.types import Estimate, Record

Integers = npt.NDArray[np.int64]

POWER = 0.8
"""The chance of finding a difference of the size called detectable."""

_EXACT_GROUPS = 14
_DRAWS = 9_999
_RANK_DRAWS = 1_999
_SEED = 20_240_611
_ROUNDING = 1e-9
_SINGLE = 1e-5


class Difference(Record):
    """The mean difference of two models over the prompts both have a verdict on.

    `p` is two-sided, of the sign-flip permutation named by `test`. `detectable` is the smallest true difference a
    prompt set with this spread finds at 5 % in 80 % of cases; None where all differences are alike, which tell no
    spread.
    """

    estimate: Estimate
    p: float = Field(gt=0, le=1)
    test: Literal["sign-flip-exact", "sign-flip-drawn"]
    detectable: float | None


class PartDifference(Record):
    """The difference on one part of the prompts, and its p adjusted for all parts (Holm)."""

    difference: Difference
    adjusted_p: float


class WinRate(Record):
    """Share of prompts on which the first model is better, ties counting ½, and the counts behind it."""

    rate: Estimate
    wins: int
    ties: int
    losses: int


class RankIntervals(NamedTuple):
    """What can be said of the ranks of K models, all at once at 95 %.

    Attributes:
        best: shape (K,): 1 + models surely better.
        worst: shape (K,): K − models surely worse.
        tier: shape (K,): 1 is the top one.
        better: shape (K, K): is the model of the row surely better than that of the column?
        critical: what the statistic of a pair must exceed.
    """

    best: Integers
    worst: Integers
    tier: Integers
    better: npt.NDArray[np.bool_]
    critical: float


def paired_difference(a: Sequence[float] | Floats, b: Sequence[float] | Floats, groups: Sequence[str]) -> Difference:
    """Mean of the differences a − b by prompt, with a clustered t interval, a permutation p and its power.

    Interval: `clustered_mean` of d_i = a_i − b_i. p: the share of the sign patterns s ∈ {−1, 1}^G with
    |Σ_g s_g D_g| ≥ |Σ_g D_g|, where D_g is the sum of d over group g; all 2^G patterns up to 14 groups, else
    (1 + count)/(1 + 9,999) over draws with a fixed seed. Exact where D_g is symmetric about 0 under the null, and so
    safe where few prompts differ; the t interval covers 92 to 97 % from 10 groups that differ, down to 73 % with 2.
    Detectable: (z_.975 + z_.8)·SE.
    Sources: Miller 2024 (2411.00640), §4.2 and §5; Phipson and Smyth 2010 for the 1 + count.

    Args:
        a, b: shape (n,), scores by prompt, on any scale, NaN where there is no verdict.
        groups: n group names.

    Raises:
        ValueError: the lengths differ, or both have verdicts in fewer than two groups.
    """
    d, names = _differences(a, b, groups)
    estimate = clustered_mean(d, names)
    member, count = members(names)
    return Difference(
        estimate=estimate,
        p=_sign_flip_p(np.bincount(member, weights=d).astype(float), _signs(count, _DRAWS)),
        test="sign-flip-exact" if count <= _EXACT_GROUPS else "sign-flip-drawn",
        detectable=_detectable(estimate),
    )


def outcome_table(a_classes: Sequence[int], b_classes: Sequence[int], classes: int = 3) -> Integers:
    """Counts of prompts by the grade of each model: T[i, j] = prompts where a has class i and b has class j.

    The margins are each model's grades; the diagonal holds the ties.

    Args:
        a_classes, b_classes: shape (n,), class index 0 to `classes` − 1, prompts in the same order.

    Returns:
        Shape (classes, classes), rows a, columns b.

    Raises:
        ValueError: the lengths differ, or a class is out of range.
    """
    a, b = np.asarray(a_classes, dtype=int), np.asarray(b_classes, dtype=int)
    if a.shape != b.shape:
        raise ValueError("Both models need a class for every prompt.")
    if not np.isin(np.concatenate([a, b]), np.arange(classes)).all():
        raise ValueError(f"A class is not between 0 and {classes - 1}.")
    return np.bincount(a * classes + b, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def win_rate(a: Sequence[float] | Floats, b: Sequence[float] | Floats, groups: Sequence[str]) -> WinRate:
    """Share of prompts on which a is better: (wins + ties/2)/n, with the interval of `mean_of_classes`.

    Above ½, a is better more often than worse, whatever by how much. Ties counting ½, it is the probability of
    superiority within a prompt (Vargha and Delaney 2000, the A measure).

    Args:
        a, b: shape (n,), scores by prompt, NaN where there is no verdict.
        groups: n group names.

    Raises:
        ValueError: the lengths differ, or no prompt has both verdicts.
    """
    d, names = _differences(a, b, groups)
    if not len(d):
        raise ValueError("A win rate needs a prompt with both verdicts.")
    outcome = 1 - np.sign(d).astype(int)
    wins, ties, losses = (int(n) for n in np.bincount(outcome, minlength=3))
    return WinRate(rate=mean_of_classes(outcome, names, (1.0, 0.5, 0.0)), wins=wins, ties=ties, losses=losses)


def by_part(
    a: Sequence[float] | Floats,
    b: Sequence[float] | Floats,
    groups: Sequence[str],
    parts: Sequence[str | Collection[str]],
) -> dict[str, PartDifference]:
    """Paired differences on each part of the prompts, with p adjusted for looking at all of them.

    Args:
        a, b: shape (n,), scores by prompt, NaN where there is no verdict.
        groups: n group names.
        parts: the parts each prompt belongs to: one (its kind) or several or none (its issue codes).

    Returns:
        By name of part, in alphabetical order; without the parts where both have verdicts in fewer than two groups.

    Raises:
        ValueError: the lengths differ.
    """
    x, y, names = np.asarray(a, dtype=float), np.asarray(b, dtype=float), np.asarray(groups, dtype=object)
    if not len(x) == len(y) == len(names) == len(parts):
        raise ValueError("Scores, groups and parts are not of one length.")
    of = [{part} if isinstance(part, str) else set(part) for part in parts]
    found = {}
    for name in sorted(set().union(*of)):
        rows = np.array([name in own for own in of]) & ~np.isnan(x - y)
        if len(set(names[rows])) > 1:
            found[name] = paired_difference(x[rows], y[rows], list(names[rows]))
    adjusted = holm([difference.p for difference in found.values()])
    return {
        name: PartDifference(difference=difference, adjusted_p=p)
        for (name, difference), p in zip(found.items(), adjusted, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted for several comparisons: max over the k-th smallest and those below it of (m − k + 1)·p, at most 1.

    Rejecting where it is at most α keeps the chance of any false rejection at α, however the tests depend on each
    other. Source: Holm 1979.

    Args:
        p_values: shape (m,).
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return [float(value) for value in adjusted]


def rank_intervals(scores: Sequence[Sequence[float]] | Floats, groups: Sequence[str]) -> RankIntervals:
    """Best and worst possible rank of each model, and tiers, from all pairs at once.

    The statistic of a pair is r = Σ_g D_g/√(Σ_g D_g²), D_g the sum over the prompts of group g that both have of the
    difference. With G groups of one size it is increasing in the t of `clustered_mean`: t = r·√((G − 1)/(G − r²)).
    It never exceeds √G, so that few shared prompts or few that differ never look certain. Critical value: exceeded by
    max |r| over all pairs in at most 5 % of the sign patterns, the same pattern for all pairs (single-step max-t);
    all patterns up to 14 groups, else 1,999 draws with a fixed seed and the observed one.

    It controls the chance of any false "surely better": exactly for equal models with jointly symmetric differences,
    else with many groups. In simulation it is 0 to 6 % for models alike in law at 14 to 240 prompts, 4 to 9 % for
    models of equal mean and differently shaped grades at 60 and 240; few prompts and heavy skew can err more.

    The interval of a pair is the set of shifts δ of the scores that its r does not reject. Row model surely better
    than column model: that interval is above 0, and the mean of its own verdicts is the higher one too (with missing
    verdicts the two can disagree: then neither is sure).

    Tiers: going down the means, the first model opens tier 1 and is its top. Each next one joins the current tier
    unless the top of that tier is surely better; then it opens the next tier and is its top. Models of equal mean go
    together: they open a tier if any top is surely better than any of them, and are then all its tops. So no model
    is surely worse than a top of its tier; lower down it may be told apart from others of its tier, or not be told
    apart from some of the tier above: `best` and `worst` say which.

    Sources: Westfall and Young 1993, §2.5 (single-step max-t); Romano and Wolf 2005; Mogstad et al. 2024 (Review of
    Economic Studies 91) for ranks from simultaneous differences.

    Args:
        scores: shape (K, n), a row a model, NaN where it has no verdict.
        groups: n group names.

    Raises:
        ValueError: not a matrix with a column a group name, or a model without any verdict.
    """
    x = np.asarray(scores, dtype=float)
    if x.ndim != 2 or x.shape[1] != len(groups) or not len(x):
        raise ValueError("Scores need a row a model and a column a prompt.")
    if np.isnan(x).all(axis=1).any():
        raise ValueError("A model without any verdict has no rank.")
    statistic, critical = _all_pairs(x, groups)
    means = np.nanmean(x, axis=1).round(12)
    better = (statistic > critical * (1 + _SINGLE)) & (means[:, None] > means)
    return RankIntervals(
        best=1 + better.sum(axis=0),
        worst=len(x) - better.sum(axis=1),
        tier=_tiers(means, better),
        better=better,
        critical=critical,
    )


def _differences(
    a: Sequence[float] | Floats, b: Sequence[float] | Floats, groups: Sequence[str]
) -> tuple[Floats, list[str]]:
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if not len(x) == len(y) == len(groups):
        raise ValueError("Scores and groups are not of one length.")
    d = x - y
    shared = ~np.isnan(d)
    return d[shared], [name for name, kept in zip(groups, shared, strict=True) if kept]


def _detectable(estimate: Estimate) -> float | None:
    from scipy import stats as scipy_stats

    quantile = scipy_stats.t.ppf(0.5 + LEVEL / 2, estimate.groups - 1)
    error = float((estimate.high - estimate.low) / 2 / quantile)
    if error < _ROUNDING:
        return None
    return float(scipy_stats.norm.ppf(0.5 + LEVEL / 2) + scipy_stats.norm.ppf(POWER)) * error


def _signs(groups: int, draws: int) -> Floats:
    """Sign patterns, shape (groups, patterns), the unflipped one first; of each and its opposite, only one."""
    if groups <= _EXACT_GROUPS:
        patterns = np.arange(2 ** (groups - 1))
        flips = (patterns >> np.arange(groups)[:, None]) & 1
    else:
        flips = np.random.default_rng(_SEED).integers(0, 2, (groups, draws + 1))
        flips[:, 0] = 0
    return np.where(flips, -1.0, 1.0)


def _sign_flip_p(sums: Floats, signs: Floats) -> float:
    flipped = np.abs(sums @ signs)
    return float(np.mean(flipped >= abs(sums.sum()) - _ROUNDING * np.abs(sums).sum()))


def _all_pairs(x: Floats, groups: Sequence[str]) -> tuple[Floats, float]:
    """The statistic of every pair, shape (K, K), and the critical value; a block a model, to hold little at once.

    For two models without gaps the flipped sum of their differences is the difference of their flipped sums, so that
    patterns are multiplied with models and not with pairs.
    """
    member, count = members(groups)
    order = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[order], np.arange(count))
    signs = _signs(count, _RANK_DRAWS)
    gaps = np.asarray(np.isnan(x).any(axis=1))
    sums = np.add.reduceat(np.nan_to_num(x)[:, order], starts, axis=1)
    flipped_sums = (sums @ signs).astype(np.float32)
    statistic = np.zeros((len(x), len(x)))
    highest = np.zeros(signs.shape[1], dtype=np.float32)
    for i in range(len(x) - 1):
        difference, flipped = sums[i] - sums[i + 1 :], flipped_sums[i] - flipped_sums[i + 1 :]
        partial = np.flatnonzero(np.logical_or(gaps[i + 1 :], gaps[i]))
        if len(partial):
            shared = np.nan_to_num((x[i] - x[i + 1 :][partial])[:, order])
            difference[partial] = np.add.reduceat(shared, starts, axis=1)
            flipped[partial] = difference[partial] @ signs
        size = np.sqrt(np.einsum("jg,jg->j", difference, difference))
        scale = np.divide(1.0, size, out=np.zeros_like(size), where=size > _ROUNDING)
        statistic[i, i + 1 :] = difference.sum(axis=1) * scale
        statistic[i + 1 :, i] = -statistic[i, i + 1 :]
        flipped *= scale.astype(np.float32)[:, None]
        np.maximum(highest, np.maximum(flipped.max(axis=0), -flipped.min(axis=0)), out=highest)
    allowed = int((1 - LEVEL) * len(highest) + _ROUNDING)
    return statistic, float(np.sort(highest)[::-1][allowed])


def _tiers(means: Floats, better: npt.NDArray[np.bool_]) -> Integers:
    tier = np.zeros(len(means), dtype=np.int64)
    tops = np.zeros(0, dtype=np.intp)
    for level in np.unique(means)[::-1]:
        here = np.flatnonzero(means == level)
        opens = not len(tops) or better[np.ix_(tops, here)].any()
        tier[here] = tier.max() + opens
        tops = here if opens else tops
    return tier
