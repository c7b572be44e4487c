"""What the pipeline costs over a bare `generate` loop on the same batches.

    python benchmarks/overhead.py [--runs 7] [--model FOLDER]

Runs the two in turn, A B A B …, on one model loaded once, and prints the ratio of each pair in processor seconds, which
other programs on the machine disturb less than the clock. The judge is a scripted
function, so that what is left is rendering, batching, saving, scoring and writing the result. The anchors, which are
judged once an instrument and not once a model, are in the store beforehand, as on any board. Without a model folder a
random one of the demo's size is made.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eco_eval.candidates import resolve
from eco_eval.engines.base import Engine
from eco_eval.engines.chat import encode, render
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.engines.transformers import TransformersEngine, _Row, plan_batches
from eco_eval.instrument import Instrument, load_instrument
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.store import LocalStore
from eco_eval.types import Message, ModelRef


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.model or random_model(Path(scratch) / "random")
        measure = load_instrument("eco-es-demo").with_judge_at("0" * 40)
        engine = TransformersEngine(folder, folder.name, dtype="float32")
        batches = bare_batches(engine, measure)
        ratios = []
        bare_loop(engine, batches, measure)
        ours(engine, folder, measure, Path(scratch) / "warm")
        for run in range(arguments.runs):
            store = Path(scratch) / f"run{run}"
            anchors(measure, store)
            bare = timed(lambda: bare_loop(engine, batches, measure))
            full = timed(lambda store=store: ours(engine, folder, measure, store))
            ratios.append(full / bare)
            print(f"bare {bare:6.2f} s   evaluate {full:6.2f} s   ratio {full / bare:.3f}", flush=True)
        print(f"median ratio {statistics.median(ratios):.3f} over {len(ratios)} pairs of {len(measure.asked)} prompts")


def bare_batches(engine: TransformersEngine, measure: Instrument) -> list[tuple[Any, Any]]:
    """The very tensors the engine makes, ready before the clock starts."""
    texts = [render(engine._tokenizer, (Message(role="user", content=p.text),)) for p in measure.asked]
    rows = [_Row(i, encode(engine._tokenizer, text)) for i, text in enumerate(texts)]
    return [engine._tensors(batch, 0) for batch in plan_batches(rows, engine._batch_size)]


def bare_loop(engine: TransformersEngine, batches: list[tuple[Any, Any]], measure: Instrument) -> None:
    import torch

    config = engine._generation_config(measure.answer.decoding, measure.answer.max_tokens)
    for ids, mask in batches:
        with torch.inference_mode():
            engine._model.generate(input_ids=ids, attention_mask=mask, generation_config=config)


def ours(engine: TransformersEngine, folder: Path, measure: Instrument, root: Path) -> None:
    @contextmanager
    def candidate() -> Iterator[Engine]:
        yield engine

    @contextmanager
    def judge() -> Iterator[Engine]:
        yield ScriptedEngine(label=lambda *_: [3, 2, 1])

    evaluate(submit(resolve(str(folder)), measure), measure, Engines(candidate, judge), LocalStore(root))


def anchors(measure: Instrument, root: Path) -> None:
    """Evaluate a model that is a function, which leaves the anchors in the store."""

    @contextmanager
    def candidate() -> Iterator[Engine]:
        yield ScriptedEngine(answer=lambda _: "Al río, con calma.")

    @contextmanager
    def judge() -> Iterator[Engine]:
        yield ScriptedEngine(label=lambda *_: [3, 2, 1])

    other = ModelRef(name="function", source="anchor", revision="0" * 40)
    evaluate(submit(other, measure), measure, Engines(candidate, judge), LocalStore(root))


def timed(call: Any) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def random_model(folder: Path) -> Path:
    from training.recipes import ToyRecipe, load_recipe
    from training.small import make_model, make_tokenizer, save

    recipe = load_recipe("toy-base", ToyRecipe)
    texts = [p.text for p in load_instrument("eco-es-demo").asked]
    tokenizer = make_tokenizer(texts, recipe.shape.vocabulary)
    save(folder, make_model(recipe.shape, recipe.schedule, tokenizer), tokenizer, {})
    return folder


if __name__ == "__main__":
    main()
