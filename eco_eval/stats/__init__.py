"""Numbers in, numbers out: the statistics behind every interval, comparison, agreement and correction.

Values are on 0 to 1 here; scoring multiplies by 100.
"""

from eco_eval.stats.agreement import weighted_kappa
from eco_eval.stats.intervals import (
    FEW_GROUPS,
    LEVEL,
    clustered_mean,
    dirichlet_mean,
    mean_of_classes,
    mean_of_shares,
)

__all__ = [
    "FEW_GROUPS",
    "LEVEL",
    "clustered_mean",
    "dirichlet_mean",
    "mean_of_classes",
    "mean_of_shares",
    "weighted_kappa",
]
