"""How the embedded judge orders triples it has not seen, beside simpler and freer ways to do it.

    python benchmarks/embedded_judge.py [--folds 5]

Two tables in Markdown: on the held-out split, as every result shows it, and cross-validated inside the train split, as
its settings were chosen. Per way: the share of triples whose best answer is put above the worst, best above
ambivalent, ambivalent above worst (ties ½), and the share of answers given the grade their role suggests.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from eco_eval.instrument import Instrument, load_instrument
from eco_eval.triples.baselines import eco_words
from eco_eval.types import Prompt
from training import judge
from training.linear import linear_logprobs, shared_length
from training.recipes import JudgeRecipe, load_recipe
from training.verdicts import examples

Grades = list[list[float]]
"""Per answer, the weight of good, regular and bad."""

Judge = Callable[[Sequence[Prompt], Sequence[Prompt]], Grades]
"""Trained on the first triples, grades best, ambivalent and worst of each of the second, in that order."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=5)
    folds = parser.parse_args().folds
    instrument = load_instrument("eco-es-demo")
    train, held_out = judge.train_triples(instrument), instrument.gold
    ways: dict[str, Judge] = {
        "always the same grade": lambda _, seen: [[0.0, 1.0, 0.0]] * (3 * len(seen)),
        "length (more is better)": by(len),
        "eco words (more is better)": by(eco_words),
        "bag of words (TF-IDF, logistic regression)": bag_of_words,
        "pieces of words, 2 to 5 characters (likewise)": lambda t, s: bag_of_words(t, s, pieces=True),
        "the same model, attention free": lambda t, s: small_model(instrument, t, s, linear=False),
        "**embedded judge**": lambda t, s: small_model(instrument, t, s, linear=True),
    }
    head = "| way | best > worst | best > ambivalent | ambivalent > worst | exact grade |\n|---|---|---|---|---|"
    print(f"Held out: {len(held_out)} triples, trained on {len(train)}.\n\n{head}")
    for name, way in ways.items():
        print(row(name, way(train, held_out)), flush=True)
    order = list(train)
    random.Random(1).shuffle(order)
    print(f"\nCross-validated in the train split: {len(order)} triples, {folds} folds.\n\n{head}")
    for name, way in ways.items():
        graded: Grades = []
        for fold in range(folds):
            seen = order[fold::folds]
            graded += way([p for p in order if p not in seen], seen)
        print(row(name, graded), flush=True)


def row(name: str, graded: Grades) -> str:
    points = [good + regular / 2 for good, regular, _ in graded]
    triples = [points[i : i + 3] for i in range(0, len(points), 3)]

    def above(a: int, b: int) -> float:
        return sum((t[a] > t[b]) + 0.5 * (t[a] == t[b]) for t in triples) / len(triples)

    exact = sum(max(range(3), key=g.__getitem__) == i % 3 for i, g in enumerate(graded)) / len(graded)
    return f"| {name} | {above(0, 2):.2f} | {above(0, 1):.2f} | {above(1, 2):.2f} | {exact:.2f} |"


def texts(triples: Sequence[Prompt]) -> list[str]:
    return [text or "" for p in triples for text in (p.best, p.ambivalent, p.worst)]


def by(measure: Callable[[str], int]) -> Judge:
    """Orders by a count alone; it has no grades, so its exact column says nothing beyond chance."""

    def way(_: Sequence[Prompt], seen: Sequence[Prompt]) -> Grades:
        counts = [measure(text) for text in texts(seen)]
        top = max(counts) or 1
        return [[c / top, 0.0, 1 - c / top] for c in counts]

    return way


def bag_of_words(train: Sequence[Prompt], seen: Sequence[Prompt], *, pieces: bool = False) -> Grades:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    kind = {"analyzer": "char_wb", "ngram_range": (2, 5)} if pieces else {}
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, **kind), LogisticRegression(C=10, max_iter=3000))
    model.fit(texts(train), [0, 1, 2] * len(train))
    return [list(map(float, graded)) for graded in model.predict_proba(texts(seen))]


def small_model(instrument: Instrument, train: Sequence[Prompt], seen: Sequence[Prompt], *, linear: bool) -> Grades:
    import torch

    recipe = load_recipe("demo-judge", JudgeRecipe)
    assert recipe.shape is not None
    kept = judge.make_linear
    if not linear:
        judge.make_linear = lambda *_: None
        schedule = recipe.schedule.model_copy(update={"learning_rate": 3e-3, "weight_decay": 0.1})
        shape = recipe.shape.model_copy(update={"heads": 4, "intermediate": 256})
        recipe = recipe.model_copy(update={"schedule": schedule, "shape": shape})
    try:
        with tempfile.TemporaryDirectory() as folder:
            trained = judge.fit(recipe, instrument, train, lambda *_: None, Path(folder))
    finally:
        judge.make_linear = kept
    graded: Grades = []
    with torch.inference_mode():
        for prompt in seen:
            rows = examples(prompt, instrument, trained.tokenizer)
            pad = trained.tokenizer.pad_token_id
            logp = linear_logprobs(trained.model, rows, shared_length([row.ids for row in rows]), pad)
            graded += logp.softmax(-1).tolist()
    return graded


if __name__ == "__main__":
    main()
