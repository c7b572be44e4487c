"""Seconds to implode and explode a million pairs: linear time, or not.

    python benchmarks/implode.py [--pairs 1000000]

Copies of the bundled triples under new ids; a tenth of the size beside it shows how time grows.
"""

from __future__ import annotations

import argparse
import time

from eco_eval.instrument import DATA
from eco_eval.triples import Pair, explode, implode, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    size = parser.parse_args().pairs
    for count in (size // 10, size):
        pairs = many(count)
        start = time.perf_counter()
        triples = implode(pairs).triples
        middle = time.perf_counter()
        back = explode(triples)
        end = time.perf_counter()
        same = "the same pairs" if back == pairs else "OTHER PAIRS"
        print(f"{len(pairs):,} pairs: implode {middle - start:.1f} s, explode {end - middle:.1f} s, {same}")


def many(count: int) -> list[Pair]:
    triples = load(DATA / "prompts" / "eco-es-v1.jsonl").triples
    pairs: list[Pair] = []
    for copy in range(count // (3 * len(triples)) + 1):
        for triple in triples:
            pairs += explode([triple.model_copy(update={"id": f"{triple.id}-{copy}"})])
    return pairs[: count // 3 * 3]


if __name__ == "__main__":
    main()
