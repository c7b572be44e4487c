"""How long the statistics of a large board take: 1,000 models × 500 prompts × 3 judges.

    python benchmarks/board_statistics.py [--models 1000] [--prompts 500] [--judges 3]

Seconds of one run of each part on this machine, on grades drawn at random; a time, not a ratio: there is nothing else
to set it beside. `gaps` is the share of models with a missing verdict, which take the slower way through the ranks.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from eco_eval.readings import POINTS
from eco_eval.stats import mean_of_shares, ordinal_alpha, rank_intervals
from eco_eval.stats.length import length_controlled, length_slope
from eco_eval.types import Estimate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("models", 1000), ("prompts", 500), ("judges", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    shape = (options.models, options.prompts, options.judges)
    rng = np.random.default_rng(0)
    quality = rng.uniform(0.2, 0.9, options.models)[:, None, None]
    classes = 2 - (rng.random((2, *shape)) < quality).sum(axis=0)
    groups = [f"g{i}" for i in range(options.prompts)]
    shares = np.eye(3)[classes]
    points = np.asarray(POINTS)[classes]
    imports = rank_intervals(points[:2].mean(axis=2), groups).critical  # scipy is loaded before the clock starts
    assert imports > 0
    print("| part | seconds |\n|---|---|")
    began = time.perf_counter()
    for model in shares:
        mean_of_shares(model.mean(axis=1), groups, POINTS)
        for judge in range(options.judges):
            mean_of_shares(model[:, judge], groups, POINTS)
    print(f"| score of the panel and of each judge, with intervals | {time.perf_counter() - began:.1f} |", flush=True)
    lap = time.perf_counter()
    for model in classes:
        ordinal_alpha(model.astype(float), groups)
    print(f"| agreement of the judges on each model (ordinal α) | {time.perf_counter() - lap:.1f} |", flush=True)
    lap = time.perf_counter()
    rank_intervals(points.mean(axis=2), groups)
    print(f"| rank intervals and tiers | {time.perf_counter() - lap:.1f} |", flush=True)
    lap = time.perf_counter()
    everyone = [str(i) for i in range(options.models) for _ in range(options.prompts)]
    lengths = rng.normal(5, 0.5, points.shape[:2])
    slope = length_slope(
        points.mean(axis=2).ravel(), lengths.ravel(), groups * options.models, groups * options.models, everyone
    )
    for scores, own in zip(points.mean(axis=2), lengths, strict=True):
        if isinstance(slope, Estimate):
            length_controlled(scores, own, groups, slope, 5.0)
    print(f"| scores at equal length | {time.perf_counter() - lap:.1f} |", flush=True)
    print(f"| **together** | **{time.perf_counter() - began:.1f}** |")
    for gaps in (0.01, 0.1):
        holed = points.mean(axis=2)
        holed[: int(gaps * options.models), 0] = np.nan
        lap = time.perf_counter()
        rank_intervals(holed, groups)
        print(f"| rank intervals and tiers, gaps in {100 * gaps:.0f} % of models | {time.perf_counter() - lap:.1f} |")


if __name__ == "__main__":
    main()
