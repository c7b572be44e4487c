"""The probability of each label of a closed set, from next-token log-probabilities: arithmetic, no model.

A label is a sequence of tokens after the context, so the labels form a tree. The log-probability of a label
is the sum along its path; every inner node of the tree is one question to the model: how likely is each of
these tokens next? Where a server shows only its likeliest tokens, `first_token_scores` reads what it can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from eco_eval.types import LabelScores

TokenPath = tuple[int, ...]

_OPENING = " \t\r\n\u2581\"'«“‘`"
"""What a reply may write before a label: spaces (also SentencePiece's) and quotation marks."""


def label_paths(
    encode: Callable[[str], list[int]], rendered: str, labels: Sequence[str]
) -> tuple[list[int], list[TokenPath]]:
    """Split `rendered + label` into the tokens every label shares with `rendered`, and the rest of each one.

    Each text is tokenised whole, because the end of `rendered` and the start of a label may merge into one
    token: the context then ends before that token. A token that all labels begin with stays in their paths,
    so that its probability counts in the mass.

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


@dataclass(frozen=True)
class TokenChoice:
    """One token a server wrote, and the log-probabilities of its likeliest alternatives, itself included."""

    token: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...]


def first_token_scores(labels: Sequence[str], choices: Sequence[TokenChoice]) -> LabelScores | None:
    """Read label probabilities from the alternatives to the first tokens of a reply.

    An alternative counts for the label it begins. One that begins several labels, or none, counts for
    nothing, so the mass is a lower bound. After a token of only spaces or quotation marks the next one is
    read too, weighted by the probability of having come so far.

    Returns:
        Scores with `source="logprobs"`, or None where no alternative begins a label or a number is NaN.
    """
    masses, reached = [0.0] * len(labels), 1.0
    for choice in choices:
        for token, logprob in choice.alternatives:
            index = _label_begun(token, labels)
            if index is not None:
                masses[index] += reached * math.exp(min(logprob, 0.0))
        if choice.token.strip(_OPENING):
            break
        reached *= math.exp(min(choice.logprob, 0.0))
    total = math.fsum(masses)
    if not math.isfinite(total) or total <= 0:
        return None
    return LabelScores(
        label=labels[masses.index(max(masses))],
        probabilities=tuple(mass / total for mass in masses),
        mass=min(1.0, total),
        source="logprobs",
    )


def _label_begun(token: str, labels: Sequence[str]) -> int | None:
    text = token.lstrip(_OPENING).casefold()
    wanted = [label.lstrip(_OPENING).casefold() for label in labels]
    begun = [index for index, label in enumerate(wanted) if text and _begins(text, label)]
    return begun[0] if len(begun) == 1 else None


def _begins(text: str, label: str) -> bool:
    """Whether a token begins a label, or is the whole label and what follows a word."""
    return label.startswith(text) or (text.startswith(label) and not text[len(label)].isalnum())
