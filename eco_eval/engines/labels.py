"""The probability of each label of a closed set, from next-token log-probabilities: the arithmetic, no model.

A label is a sequence of tokens after the context, so the labels form a tree. The log-probability of a label is
the sum along its path; every inner node of the tree is one question to the model: how likely is each of these
tokens next?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from eco_eval.types import LabelScores

TokenPath = tuple[int, ...]


def label_paths(
    encode: Callable[[str], list[int]], rendered: str, labels: Sequence[str]
) -> tuple[list[int], list[TokenPath]]:
    """Split `rendered + label` into the tokens every label shares with `rendered`, and the rest of each label.

    Each text is tokenised whole, because the end of `rendered` and the start of a label may merge into one
    token: the context then ends before that token. A token that all labels begin with stays in their paths, so
    that its probability counts in the mass.

    Args:
        encode: text to token ids, adding no special tokens.
        rendered: the conversation up to where the label would be said.
        labels: distinct texts, none a prefix of another.

    Returns:
        The context's token ids, and for each label, in the order given, its remaining token ids.

    Raises:
        ValueError: the path of one label is a prefix of another's, or nothing is left as context.
    """
    encoded = [encode(rendered + label) for label in labels]
    context = _common_prefix([encode(rendered), *encoded])
    if not context:
        raise ValueError("No token comes before the labels, so nothing conditions them.")
    paths = [tuple(ids[len(context) :]) for ids in encoded]
    # In sorted order a prefix comes right before one of its extensions, and an empty path before everything.
    for shorter, longer in pairwise([(), *sorted(paths)]):
        if longer[: len(shorter)] == shorter and (shorter or not longer):
            raise ValueError(f"Two labels of {list(labels)} begin with the same tokens and one ends there.")
    return context, paths


def _common_prefix(sequences: Sequence[list[int]]) -> list[int]:
    length = 0
    for column in zip(*sequences, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return sequences[0][:length]


def inner_nodes(paths: Sequence[TokenPath]) -> dict[TokenPath, tuple[int, ...]]:
    """The questions to ask: each proper prefix of a path, with the distinct tokens that may follow it.

    The empty prefix comes first, and every prefix before its extensions.
    """
    children: dict[TokenPath, dict[int, None]] = {}
    for depth in range(max(map(len, paths))):
        for path in paths:
            if depth < len(path):
                children.setdefault(path[:depth], {})[path[depth]] = None
    return {prefix: tuple(tokens) for prefix, tokens in children.items()}


def path_logprob(path: TokenPath, table: Mapping[TokenPath, Mapping[int, float]]) -> float:
    """Sum of the log-probabilities along a path.

    Args:
        path: token ids of one label.
        table: for each inner node, the natural log-probability of each of its children after it.
    """
    return math.fsum(table[path[:depth]][token] for depth, token in enumerate(path))


def label_scores(labels: Sequence[str], logprobs: Sequence[float]) -> LabelScores:
    """Normalise log-probabilities over the labels.

    Args:
        labels: the labels, in the order asked.
        logprobs: natural log-probability of each whole label; however small, none underflows before it is
            normalised.

    Raises:
        ValueError: a log-probability is NaN or +inf, or all are -inf.
    """
    highest = max(logprobs)
    if any(math.isnan(value) for value in logprobs) or not math.isfinite(highest):
        raise ValueError(f"Log-probabilities of labels must be numbers, not {list(logprobs)}.")
    weights = [math.exp(value - highest) for value in logprobs]
    total = math.fsum(weights)
    return LabelScores(
        label=labels[weights.index(max(weights))],
        probabilities=tuple(weight / total for weight in weights),
        # Rounding in the model's float32 softmax may carry the sum just past 1.
        mass=min(1.0, math.exp(highest) * total),
        source="exact",
    )
