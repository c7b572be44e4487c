"""A run beside its repetitions: how far apart their scores may be by chance alone.

Values are on any scale here. Groups are prompts with their paraphrases and translations: they, not prompts, are what a
permutation moves, since prompts of one group tip together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eco_eval.stats.intervals import LEVEL, Floats, members

_EXACT_PATTERNS = 2**14
_DRAWS = 9_999
_SEED = 20_240_611
_ROUNDING = 1e-9


class RepeatTest(NamedTuple):
    """Attributes:
    difference: mean of the original's values less those of the repetitions.
    tolerance: what |difference| exceeds by chance in at most 5 % of cases; |difference| ≤ tolerance iff p > 0.05.
    p: two-sided.
    """

    difference: float
    tolerance: float
    p: float


def repeat_test(
    original: Sequence[float] | Floats, repeats: Sequence[Sequence[float]] | Floats, groups: Sequence[str]
) -> RepeatTest:
    """Whether a run differs from N repetitions of it by more than runs differ by chance.

    The difference is d_i = y_i0 − mean_r y_ir, D_g its sum over group g. Two references, both of which must be
    exceeded; for N = 1 they are one and the same:

    - signs: |Σ_g s_g D_g|/n, s_g = ±1. Right where what differs is the place, with repetitions here all alike: a
      group's difference is then as likely to be up as down, however often it is repeated. It is the sign-flip
      permutation of `paired_difference`, read as a tolerance (Phipson and Smyth 2010).
    - exchange: in each group another of the N + 1 runs, k_g, takes the part of the original:
      |Σ_g E_g(k_g)|/n with E_g(k) = Y_gk − mean of the others = (N + 1)/N·(Y_gk − mean of all). Right, and exact,
      where all N + 1 runs are exchangeable; it draws on what the repetitions tell of the variance.

    With σ² the variance of a run's sum, that of the difference is σ²(1 + 1/N), against 2σ² for N = 1: both tolerances
    shrink by √((1 + 1/N)/2), at best to 71 %. With five groups or fewer that differ no sum is improbable (2/2⁵ > 5 %):
    the tolerance is Σ_g |D_g|/n. Of what groups can do, all combinations are counted up to 2¹⁴, else 9,999 drawn with a
    fixed seed and the observed one. Calling a run different only beyond both keeps false alarms at 5 % at
    most under either (an intersection-union test, Berger 1982).

    Args:
        original: shape (n,), values by prompt.
        repeats: shape (N, n), a row a repetition.
        groups: n group names.

    Raises:
        ValueError: shapes that do not fit, or no prompt at all.
    """
    y = np.vstack([np.asarray(original, dtype=float)[None, :], np.atleast_2d(np.asarray(repeats, dtype=float))])
    if not y.shape[1] or y.shape[1] != len(groups):
        raise ValueError("Runs need a value a prompt, and a prompt at least.")
    member, count = members(groups)
    sums = np.array([np.bincount(member, weights=row, minlength=count) for row in y]).T
    apart = len(y) / (len(y) - 1) * (sums - sums.mean(axis=1, keepdims=True))
    # Groups on which all runs agree add nothing to any sum.
    apart = apart[np.abs(apart).max(axis=1) > _ROUNDING * (1 + np.abs(sums).max())]
    difference = float(apart[:, 0].sum())
    references = [np.column_stack([apart[:, 0], -apart[:, 0]]), *([apart] if len(y) > 2 else [])]
    found = [_tail(reference, abs(difference)) for reference in references]
    n = len(groups)
    return RepeatTest(difference / n, max(t for t, _ in found) / n, max(p for _, p in found))


def _tail(options: Floats, observed: float) -> tuple[float, float]:
    """The 95 % point of |Σ_g options[g, k_g]| over independent uniform k, and the share that reaches `observed`.

    Args:
        options: shape (groups, K); the first column is what was observed.
    """
    totals = _totals(options)
    slack = _ROUNDING * (1 + observed)
    allowed = int((1 - LEVEL) * len(totals) + _ROUNDING)
    tolerance = float(np.sort(totals)[::-1][allowed])
    return max(tolerance, 0.0), float(np.mean(totals >= observed - slack))


def _totals(options: Floats) -> Floats:
    groups, choices = options.shape
    if choices**groups <= _EXACT_PATTERNS:
        totals = np.zeros(1)
        for row in options:
            totals = (totals[:, None] + row).ravel()
        return np.abs(totals)
    picked = np.random.default_rng(_SEED).integers(0, choices, (groups, _DRAWS + 1))
    picked[:, 0] = 0
    return np.asarray(np.abs(np.take_along_axis(options, picked, axis=1).sum(axis=0)), dtype=np.float64)
