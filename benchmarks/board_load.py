"""What it takes to load a board: every result from the index, against every result from its own file.

    python benchmarks/board_load.py [--results 10000] [--runs 5] [--judges 3] [--hub]

Makes results like those of a real run (one, repeated with other names, grades, lengths and scores), and loads them in a
fresh process each time, in turn: index, files, index, files, … Prints the median and range of the seconds and of the
process's peak memory, less that of one that loads nothing, and the ratio of each pair. With `--hub` the same from a Hub
dataset on this machine (the one of the tests, so without the network between) with an empty cache.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.instrument import load_instrument
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.results import load_results, result_path
from eco_eval.store import LocalStore, Store
from eco_eval.store.hub import HubStore
from eco_eval.store.index import INDEX, load_results_indexed, rebuild_index
from eco_eval.types import ModelRef, Result, Submission

REPO = "owner/board"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--judges", type=int, default=3)
    parser.add_argument("--hub", action="store_true")
    parser.add_argument("--load", nargs=2, metavar=("WAY", "PLACE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(load(*arguments.load)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "board"
        make(root, arguments.results, arguments.judges)
        # A row is trusted when its file is older: by more than a file system's clock step.
        time.sleep(0.1)
        started = time.perf_counter()
        rebuild_index(LocalStore(root))
        built = time.perf_counter() - started
        files = [file.stat().st_size for file in (root / "results").iterdir()]
        size = (root / INDEX).stat().st_size
        print(f"{len(files)} results, {sum(files) / 1e6:.1f} MB; index {size / 1e6:.1f} MB, made in {built:.1f} s")
        if arguments.hub:
            on_hub(root, Path(scratch), arguments.runs)
        else:
            compare(lambda way: measured(way, str(root)), arguments.runs)


def make(root: Path, count: int, judges: int) -> None:
    """Results as files, of one instrument, a board of models that differ in everything but the prompts."""
    like = real_result(root.parent / "real")
    chance = random.Random(0)
    (root / "results").mkdir(parents=True)
    for number in range(count):
        model = ModelRef(name=f"owner-{number % 997}/model-{number}", source="hub", revision=f"{number:040x}")
        sub: Submission = like.submission.model_copy(update={"model": model})
        value = chance.uniform(5, 95)
        eco = like.score.eco.model_copy(update={"value": value, "low": value - 4, "high": value + 4})
        seats = tuple(
            like.seats[0].model_copy(
                update={
                    "name": f"judge-{place}",
                    "eco": eco,
                    "grades": "".join(chance.choices("grb-", (value, 50, 100 - value, 1), k=len(like.words))),
                    "judgements_path": f"judgements/model-{number}/{chance.getrandbits(64):016x}.parquet",
                }
            )
            for place in range(judges)
        )
        made = like.model_copy(
            update={
                "id": sub.id,
                "submission": sub,
                "score": like.score.model_copy(update={"eco": eco}),
                "seats": seats,
                "words": tuple(chance.randint(20, 400) for _ in like.words),
                "answers_path": f"answers/model-{number}/{sub.answers_digest}.parquet",
            }
        )
        (root / result_path(made.id)).write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")


def real_result(root: Path) -> Result:
    """A run of the bundled demo instrument with scripted engines."""

    @contextmanager
    def candidate() -> Iterator[Engine]:
        yield ScriptedEngine(answer=lambda conversation: f"Cuidar {conversation[-1].content[:40]}")

    @contextmanager
    def judge() -> Iterator[Engine]:
        yield ScriptedEngine(label=lambda said, labels: [len(said[-1].content) % 5 + 1, 2, len(labels)])

    measure = load_instrument("eco-es-demo").with_judge_at("0" * 40)
    model = ModelRef(name="owner/model", source="hub", revision="a" * 40)
    return evaluate(submit(model, measure), measure, Engines(candidate, judge), LocalStore(root))


def load(way: str, place: str) -> dict[str, Any]:
    """Seconds, peak memory (MB) and number of results of one load; `nothing` loads none."""
    store: Store
    results: list[Result]
    if place.startswith("hub:"):
        store = HubStore(REPO, cache=Path(place.removeprefix("hub:")))
    else:
        store = LocalStore(Path(place))
    importlib.import_module("pyarrow.parquet")  # every process that reads tables has it

    started = time.perf_counter()
    if way == "nothing":
        results, broken = [], []
    else:
        results, broken = load_results_indexed(store) if way == "index" else load_results(store)
    seconds = time.perf_counter() - started
    assert not broken
    return {
        "seconds": seconds,
        "memory": peak_memory(),
        "results": len(results),
    }


def peak_memory() -> float:
    """Of this program alone (MB); `getrusage` would count what its parent had before it started this one."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measured(way: str, place: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--load", way, place]
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    found: dict[str, Any] = json.loads(out)
    return found


def compare(measure: Any, runs: int) -> None:
    base = measure("nothing")["memory"]
    pairs = []
    for _ in range(runs):
        pairs.append((measure("index"), measure("files")))
        index, files = pairs[-1]
        assert index["results"] == files["results"]
        print(f"index {index['seconds']:6.2f} s   files {files['seconds']:6.2f} s", flush=True)
    for name, place in (("index", 0), ("files", 1)):
        seconds = [pair[place]["seconds"] for pair in pairs]
        memory = [pair[place]["memory"] - base for pair in pairs]
        print(f"{name}: {spread(seconds, 's')}; memory {spread(memory, 'MB')}")
    print(f"files / index: {spread([pair[1]['seconds'] / pair[0]['seconds'] for pair in pairs], 'times')}")


def spread(values: list[float], unit: str) -> str:
    return f"{np.median(values):.2f} {unit} ({min(values):.2f} to {max(values):.2f})"


def on_hub(root: Path, scratch: Path, runs: int) -> None:
    """The same through HTTP and the Hub's own client, from a cache that is empty each time."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from hub import LocalHub

    with LocalHub() as hub:
        store = LocalStore(root)
        found = {path: (store.root / path).read_bytes() for path in [INDEX, *store.list("results/")]}
        hub.add(REPO, "dataset", found)
        environment = hub.environment(scratch / "home")

        def measure(way: str) -> dict[str, Any]:
            cache = scratch / "cache"
            shutil.rmtree(cache, ignore_errors=True)
            before = len(hub.requests)
            made = measured(way, f"hub:{cache}", environment)
            print(f"{way}: {len(hub.requests) - before} requests")
            return made

        compare(measure, runs)


if __name__ == "__main__":
    main()
