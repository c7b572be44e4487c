"""How many words a sequence must have to tell a repeated gold answer from a related one.

    python benchmarks/overlap.py [--instrument eco-es-v1]

For sequences of 3 to 8 words, shares of `eco_eval.contamination.overlap` in %, on the instrument's gold triples:

- other prompts: best answers against those of all other prompts, controls too: what two answers share by chance.
- related: ambivalent and worst answers against the best one, of which they were written as variants.
- repeated: best answers each of whose words was replaced, with a chance of one in ten, by any word of any best answer,
  20 times each; the share of them that would be called copied (half of their sequences or more).

Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Sequence

import numpy as np

from eco_eval.contamination import COPIED, overlap
from eco_eval.instrument import load_instrument
from eco_eval.types import Prompt

REPLACED = 0.1
COPIES = 20
HEADS = (
    *("words", "other prompts: pairs that share any", "largest share"),
    *("related: mean share", "99th percentile", "largest", "largest on controls", "repeated: called copied"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instrument", default="eco-es-v1")
    triples = [p for p in load_instrument(parser.parse_args().instrument).gold if p.best]
    others = [(str(a.best), str(b.best), a.text) for a, b in itertools.permutations(triples, 2)]
    related = {control: [pair for p in triples if p.control == control for pair in variants(p)] for control in (0, 1)}
    repeated = copies(triples)
    print(f"{len(triples)} triples, {len(related[1]) // 2} of them controls; {len(others)} pairs of prompts\n")
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    for n in range(3, 9):
        chance, plain, controls, copied = (shares(pairs, n) for pairs in (others, related[0], related[1], repeated))
        cells = [
            *(f"{np.mean(chance > 0):.2%}", f"{chance.max():.1%}"),
            *(f"{plain.mean():.1%}", f"{np.quantile(plain, 0.99):.0%}", f"{plain.max():.0%}"),
            *(f"{controls.max():.0%}" if len(controls) else "", f"{np.mean(copied >= COPIED):.0%}"),
        ]
        print(f"| {n} | {' | '.join(cells)} |", flush=True)


def variants(triple: Prompt) -> list[tuple[str, str, str]]:
    return [(str(text), str(triple.best), triple.text) for text in (triple.ambivalent, triple.worst)]


def copies(triples: Sequence[Prompt]) -> list[tuple[str, str, str]]:
    """Best answers with words replaced, beside the best answers themselves."""
    rng = random.Random(0)
    vocabulary = sorted({word for p in triples for word in str(p.best).split()})
    found = []
    for p in triples:
        words = str(p.best).split()
        for _ in range(COPIES):
            text = " ".join(rng.choice(vocabulary) if rng.random() < REPLACED else word for word in words)
            found.append((text, str(p.best), p.text))
    return found


def shares(pairs: Sequence[tuple[str, str, str]], n: int) -> np.ndarray:
    """The overlap of each answer with the other; answers too short to say are left out."""
    found = (overlap(answer, gold, prompt, n) for answer, gold, prompt in pairs)
    return np.array([share for share in found if share is not None])


if __name__ == "__main__":
    main()
