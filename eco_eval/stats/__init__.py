"""Numbers in, numbers out: the statistics behind every interval, comparison, agreement and correction.

Values are on 0 to 1 here; scoring multiplies by 100.
"""

from eco_eval.stats.agreement import (
    best_constant,
    calibration,
    confusion,
    gwet_ac2,
    kappa_estimate,
    ordinal_alpha,
    triple_order,
    weighted_kappa,
)
from eco_eval.stats.comparison import (
    by_part,
    holm,
    outcome_table,
    paired_difference,
    rank_intervals,
    win_rate,
)
from eco_eval.stats.correction import missing_bounds
from eco_eval.stats.gap import public_hidden_gap
from eco_eval.stats.intervals import (
    FEW_GROUPS,
    LEVEL,
    clustered_mean,
    dirichlet_mean,
    mean_of_classes,
    mean_of_shares,
    wilson,
)

__all__ = [
    "FEW_GROUPS",
    "LEVEL",
    "best_constant",
    "by_part",
    "calibration",
    "clustered_mean",
    "confusion",
    "dirichlet_mean",
    "gwet_ac2",
    "holm",
    "kappa_estimate",
    "mean_of_classes",
    "mean_of_shares",
    "missing_bounds",
    "ordinal_alpha",
    "outcome_table",
    "paired_difference",
    "public_hidden_gap",
    "rank_intervals",
    "triple_order",
    "weighted_kappa",
    "wilson",
    "win_rate",
]
