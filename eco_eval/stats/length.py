"""What length adds to a grade, and a score without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eco_eval.stats.correction import Numbers, bounded
from eco_eval.stats.intervals import LEVEL, Floats, clustered_mean, members, t_quantile
from eco_eval.types import Estimate, Withheld

_ROUNDS = 10_000


def length_slope(
    points: Numbers,
    log_lengths: Numbers,
    prompts: Sequence[str],
    groups: Sequence[str],
    models: Sequence[str] | None = None,
) -> Estimate | Withheld:
    """How much the grade rises per unit of log length, within a prompt.

    β = Σ x̃ỹ / Σ x̃² with x̃, ỹ the log length and points less their means within the prompt (prompt fixed effects across
    models); prompts with one answer tell nothing. SE² = c·Σ_g (Σ_{i∈g} x̃_i ẽ_i)² / (Σ x̃²)² with
    c = G/(G−1)·(n−1)/(n−k), k the coefficients other than those of prompts; t with G − 1 degrees of freedom.
    With `models` there is a fixed effect of each model too: without, the quality of models that write longer is in the
    slope. Source: Liang and Zeger 1986; the length term beside model terms is of Dubois et al. 2024 (2404.04475), here
    linear in the mean of grades.

    Across prompts nothing is compared: prompts that call for long answers may also be the easier ones, and a slope of
    theirs would take away what was earned.

    Args:
        points: shape (n,), 0 to 1.
        log_lengths: shape (n,): natural logarithm of the length.
        prompts: n prompt names: a fixed effect each.
        groups: n group names: prompts with their paraphrases and translations.
        models: n model names: a fixed effect each; None for none.

    Returns:
        Withheld when length does not vary within prompts (and models).

    Raises:
        ValueError: fewer than two groups with answers to compare.
    """
    level, _ = members(prompts)
    used = np.bincount(level)[level] > 1
    member, together = members(np.asarray(groups, dtype=str)[used].tolist())
    if together < 2:
        raise ValueError("A clustered interval needs at least two groups.")
    model, kinds = members(models if models is not None else [""] * len(points))
    effects = [level[used], model[used]]
    x = _without_effects(np.asarray(log_lengths, dtype=float)[used], effects)
    y = _without_effects(np.asarray(points, dtype=float)[used], effects)
    spread = float(x @ x)
    if spread <= 1e-12 * len(x):
        return Withheld(reason="same_length", detail="no two answers to compare differ in length")
    slope = float(x @ y) / spread
    scores = np.bincount(member, weights=x * (y - slope * x))
    small = together / (together - 1) * (len(x) - 1) / max(len(x) - kinds, 1)
    half = t_quantile(0.5 + LEVEL / 2, together - 1) * float(np.sqrt(small * (scores @ scores))) / spread
    ends = {"low": slope - half, "high": slope + half}
    return Estimate(value=slope, **ends, n=len(x), groups=together, method="slope-within-prompt")


def _without_effects(values: Floats, effects: Sequence[npt.NDArray[Any]]) -> Floats:
    """What fixed effects do not explain: the means of each are taken off in turn until nothing is left of any.

    The residuals of least squares on dummies without the dummies, of which a thousand models would need gigabytes.
    Source: Gaure 2013, "OLS with multiple high dimensional category variables"; once round is enough without gaps.
    """
    left: Floats = values - values.mean()
    counts = [np.maximum(np.bincount(level), 1) for level in effects]
    scale = float(np.abs(left).max(initial=0.0))
    for _ in range(_ROUNDS):
        before = left
        for level, count in zip(effects, counts, strict=True):
            left = left - (np.bincount(level, weights=left, minlength=len(count)) / count)[level]
        if float(np.abs(left - before).max(initial=0.0)) <= 1e-13 * scale:
            break
    return np.asarray(left, dtype=np.float64)


def length_controlled(
    points: Numbers, log_lengths: Numbers, groups: Sequence[str], slope: Estimate, reference: float
) -> Estimate:
    """A model's mean points had its answers been of the reference length.

    mean(y_i − β(x_i − r)), clustered by group, with SE² = SE²(mean at fixed β) + (x̄ − r)²·SE²(β); t with the smaller
    number of groups − 1 degrees of freedom; kept within 0 to 1. The two parts are added as if independent, which they
    are when the slope has model effects and error variances are equal; without model effects, a model that drives the
    slope has an interval that covers less (92 % in simulation for one of six). Source: Dubois et al. 2024 (2404.04475).

    Args:
        points: shape (n,), 0 to 1.
        log_lengths: shape (n,): natural logarithm of the length.
        groups: n group names.
        slope: as `length_slope` returns it.
        reference: log length, the same for all models that are compared.

    Raises:
        ValueError: fewer than two groups.
    """
    x, y = np.asarray(log_lengths, dtype=float), np.asarray(points, dtype=float)
    fixed = clustered_mean(y - slope.value * (x - reference), groups)
    error = (fixed.high - fixed.value) / t_quantile(0.5 + LEVEL / 2, fixed.groups - 1)
    of_slope = (slope.high - slope.value) / t_quantile(0.5 + LEVEL / 2, slope.groups - 1)
    fewer = min(fixed.groups, slope.groups)
    half = t_quantile(0.5 + LEVEL / 2, fewer - 1) * float(np.hypot(error, (x.mean() - reference) * of_slope))
    value = min(max(fixed.value, 0.0), 1.0)
    return bounded(value, fixed.value, half, (0.0, 1.0), groups, "length-controlled")
