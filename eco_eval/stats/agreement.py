"""How two judges of the same answers agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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
