"""How often does something simpler than a judge put a triple's answers in order? The table of docs/similarity.md.

    python benchmarks/baselines.py [--instrument eco-es-demo] [--encoder MODEL]

Over the instrument's held-out triples: length, eco words, a bag of words, similarity to the best answer and to the
prompt (by words, and by meaning with a sentence-transformers model), and the instrument's judge. Without `--encoder`,
the vectors that ship inside the package `wordllama` (pip install wordllama) stand for meaning: no network is needed.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path

from eco_eval.anchors import anchor_sheets
from eco_eval.instrument import Instrument, load_instrument
from eco_eval.judging import judge, judgements_path
from eco_eval.pipeline import open_engines, resolve_judges, submit
from eco_eval.readings import expected_points
from eco_eval.settings import Settings
from eco_eval.store import LocalStore
from eco_eval.triples.baselines import in_order, table
from eco_eval.triples.records import RANKS, as_triple
from eco_eval.types import Graded, ModelRef, no_progress

COLUMNS = ("best>worst", "best>ambivalent", "ambivalent>worst")
NAMES = {
    "length": "length (more is better)",
    "eco_words": "eco words (more is better)",
    "bag_of_words": "bag of words, cross-validated on these triples",
    "word_pieces": "pieces of words, likewise",
    "similarity_to_best": "similarity to the best answer",
    "similarity_to_prompt": "similarity to the prompt",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instrument", default="eco-es-demo")
    parser.add_argument("--encoder")
    options = parser.parse_args()
    settings = Settings.from_env()
    instrument, (judge_ref, *_) = resolve_judges(
        load_instrument(options.instrument, built=settings.prompts_dir), settings
    )
    triples = [
        as_triple(prompt, {rank: getattr(prompt, rank) for rank in RANKS})
        for prompt in instrument.gold
        if prompt.best and prompt.ambivalent and prompt.worst
    ]
    print(f"{len(triples)} held-out triples of {instrument.source.set}.\n")
    print("| way | best > worst | best > ambivalent | ambivalent > worst |\n|---|---|---|---|")
    by_words = table(triples)
    with tempfile.TemporaryDirectory() as folder:
        encoder = options.encoder or static_vectors(Path(folder) / "wordllama")
        by_meaning = table(triples, encoder)
        for key in ("length", "eco_words", "bag_of_words", "word_pieces"):
            print(row(NAMES[key], by_words[key]))
        for key in ("similarity_to_best", "similarity_to_prompt"):
            print(row(f"{NAMES[key]}, words", by_words[key]))
            print(row(f"{NAMES[key]}, meaning ({Path(encoder).name})", by_meaning[key]))
        judged = judge_orders(instrument, judge_ref, settings, LocalStore(Path(folder) / "store"))
        print(row(f"**judge: {instrument.judge.model}**", judged))


def row(name: str, shares: Mapping[str, float | None]) -> str:
    cells = ["—" if shares[column] is None else f"{shares[column]:.2f}" for column in COLUMNS]
    return f"| {name} | {' | '.join(cells)} |"


def judge_orders(
    instrument: Instrument, judge_ref: ModelRef, settings: Settings, store: LocalStore
) -> dict[str, float | None]:
    sheets = anchor_sheets(instrument)[: len(RANKS)]
    engines = open_engines(submit(judge_ref, instrument), instrument, [judge_ref], settings)
    places = [judgements_path(sheet, instrument) for sheet in sheets]
    verdicts, _ = judge(sheets, places, instrument, engines.judge, store, no_progress)
    whole = [three for three in zip(*verdicts, strict=True) if all(isinstance(j, Graded) for j in three)]
    return {**in_order([[expected_points(j) for j in three if isinstance(j, Graded)] for three in whole])}


def static_vectors(folder: Path) -> str:
    """The token vectors of the package `wordllama` as a sentence-transformers model: a text is their mean."""
    from safetensors.numpy import load_file
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    found = importlib.util.find_spec("wordllama")
    if found is None or found.origin is None:
        raise SystemExit("Install wordllama, or name a model with --encoder.")
    package = Path(found.origin).parent
    (weights,) = load_file(package / "weights" / "l2_supercat_256.safetensors").values()
    tokenizer = Tokenizer.from_file(str(package / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights.astype("float32"))]).save(
        str(folder)
    )
    return str(folder)


if __name__ == "__main__":
    main()
