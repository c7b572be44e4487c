"""What it costs that a model runs in a child process with limits.

    python benchmarks/isolation.py [--runs 9] [--model FOLDER] [--engine transformers|vllm]

Opens the engine in this process and in a child, three times each, the libraries being imported here already, which a
child has to do every time. Then both answer and score the same 200 short conversations in turn, A B B A …, and the
ratio of each pair is printed, in processor seconds of all processes, which other programs on the machine disturb less
than the clock: a child adds a message a conversation, and a supervisor that looks once a second at the memory taken.
Without a model folder a random one of the demo's size is made.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from overhead import random_model

from eco_eval.engines import Engine, LocalModel, open_local
from eco_eval.engines.child import ChildEngine, memory_limit
from eco_eval.engines.supervise import Limits
from eco_eval.instrument import load_instrument
from eco_eval.types import Conversation, Decoding, Message

CONVERSATIONS = 200
LABELS = ("buena", "regular", "mala")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.model or random_model(Path(scratch) / "random")).absolute()
        model = LocalModel(kind=arguments.engine, path=folder, name=folder.name, dtype="float32", context=1024)
        open_local(model, os.environ).close()
        opened = {"here": [], "child": []}
        for _ in range(3):
            for where in opened:
                began = time.perf_counter()
                engine = open_in(where, model)
                opened[where].append(time.perf_counter() - began)
                engine.close()
        for where, seconds in opened.items():
            print(f"opened {where:5}  median {statistics.median(seconds):.2f} s  {[round(s, 2) for s in seconds]}")
        here, child = open_in("here", model), open_in("child", model)
        try:
            for what in ("complete", "score"):
                compare(what, here, child, arguments.runs)
        finally:
            here.close()
            child.close()


def open_in(where: str, model: LocalModel) -> Engine:
    if where == "here":
        return open_local(model, os.environ)
    return ChildEngine(model, environ=os.environ, limits=Limits(memory_limit(None), 3600.0))


def compare(what: str, here: Engine, child: Engine, runs: int) -> None:
    asked = conversations()
    ratios, plain = [], []
    for engine in (here, child):
        run(what, engine, asked)
    for turn in range(runs):
        pair = (here, child) if turn % 2 == 0 else (child, here)
        seconds = {id(engine): run(what, engine, asked) for engine in pair}
        ratios.append(seconds[id(child)] / seconds[id(here)])
        plain.append(seconds[id(here)])
    low, *_, high = sorted(ratios)
    print(
        f"{what:8}  {statistics.median(plain):5.2f} s of processor here   "
        f"ratio median {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f}), {runs} pairs"
    )


def run(what: str, engine: Engine, asked: list[Conversation]) -> float:
    """Processor seconds that it takes."""
    began = processor_seconds()
    decoding = Decoding(max_tokens=32)
    outcomes = engine.complete(asked, decoding) if what == "complete" else engine.score_labels(asked, LABELS)
    assert len(list(outcomes)) == len(asked)
    return processor_seconds() - began


def processor_seconds() -> float:
    """Of this process and of all below it, which the system counts in hundredths."""
    stats = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = file.read_text(errors="replace").rpartition(")")[2].split()
            stats[int(file.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    ticks, last = 0, {os.getpid()}
    while last:
        last = {pid for pid, (parent, _) in stats.items() if parent in last}
        ticks += sum(stats[pid][1] for pid in last)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def conversations() -> list[Conversation]:
    texts = [prompt.text for prompt in load_instrument("eco-es-demo").asked]
    return [(Message(role="user", content=f"{i}. {texts[i % len(texts)]}"),) for i in range(CONVERSATIONS)]


if __name__ == "__main__":
    main()
