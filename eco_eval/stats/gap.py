"""The gap between two sets of prompts, some of which are paraphrases of each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eco_eval.stats.intervals import LEVEL, Floats, members, t_quantile
from eco_eval.types import Estimate


def public_hidden_gap(
    public: Sequence[float] | Floats,
    public_groups: Sequence[str],
    hidden: Sequence[float] | Floats,
    hidden_groups: Sequence[str],
) -> Estimate:
    """Mean on the public prompts less mean on the hidden ones, with a cluster-robust t interval.

    Each public value weighs (x − x̄)/n, each hidden one −(y − ȳ)/m. With I_g the sum of the weights in group g over
    both sets, and G groups in all, SE = √(G/(G − 1) · Σ_g I_g²); t with min(G_public, G_hidden) − 1 degrees of freedom.
    A hidden paraphrase and its public prompt are one group: what they have in common cancels, as in a paired
    difference. Without common groups it is nearly Welch's interval, on fewer degrees of freedom.
    Source: Liang and Zeger 1986 on the regression of the values on their set; the degrees of freedom are those of the
    set with fewer groups, as in the conservative choice for Welch's test.

    Like every t interval it has no width when no value differs from the mean of its set.

    Args:
        public, hidden: shapes (n,) and (m,), any scale.
        public_groups, hidden_groups: n and m group names; the same name in both is the same group.

    Returns:
        `n` counts the values of both sets, `groups` the groups of both.

    Raises:
        ValueError: values and groups are not of one length, or a set has fewer than two groups.
    """
    x, y = np.asarray(public, dtype=float), np.asarray(hidden, dtype=float)
    if len(x) != len(public_groups) or len(y) != len(hidden_groups):
        raise ValueError("Values and groups are not of one length.")
    fewer = min(len(set(public_groups)), len(set(hidden_groups)))
    if fewer < 2:
        raise ValueError("A clustered interval needs at least two groups in each set.")
    member, count = members([*public_groups, *hidden_groups])
    weights = np.concatenate([(x - x.mean()) / len(x), -(y - y.mean()) / len(y)])
    sums = np.bincount(member, weights=weights)
    half = t_quantile(0.5 + LEVEL / 2, fewer - 1) * float(np.sqrt(count / (count - 1) * (sums @ sums)))
    gap = float(x.mean() - y.mean())
    return Estimate(value=gap, low=gap - half, high=gap + half, n=len(weights), groups=count, method="clustered-t-gap")
