"""Does a set of triples measure what it should? Shortcuts, coverage, and leaks between train and eval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from eco_eval.rows import read_toml
from eco_eval.triples.baselines import bag_of_words, counted, eco_words, in_order
from eco_eval.triples.layouts import normalised
from eco_eval.triples.records import Triple, pair_name
from eco_eval.types import Prompt, Record

NEAR = 0.6
"""Cosine of character n-grams from which two prompts are near-duplicates; docs/prompts.md says how it was set."""

_BLOCK = 2_000


class Limits(Record):
    """What a set must hold to. A limit that is not stated is not checked."""

    longest_words: int | None = None
    shortest_words: int | None = None
    spread: float | None = None
    length: float | None = None
    eco_words: float | None = None
    bag_of_words: float | None = None
    similarity: float | None = None
    prompts: int | None = None
    controls: int | None = None
    per_manifestation: int | None = None
    per_kind: int | None = None
    implicit: float | None = None


SHORTCUTS = Limits(length=0.55, eco_words=0.65, bag_of_words=0.9, spread=0.15, similarity=NEAR)
"""Limits for any set of triples that is to train or measure a judge."""


class Finding(NamedTuple):
    """One measure beside its limit, `most` or `least`; `ok` is None where no limit is stated."""

    name: str
    value: float
    limit: float | None
    most: bool
    detail: str = ""

    @property
    def ok(self) -> bool | None:
        if self.limit is None:
            return None
        return self.value <= self.limit if self.most else self.value >= self.limit


class Leak(NamedTuple):
    """A prompt of one split that is, or nearly is, in the other."""

    kind: Literal["group", "exact", "normalised", "near"]
    first: str
    second: str
    similarity: float


def load_limits(file: Path) -> Limits:
    """Limits from a TOML file.

    Raises:
        DataError: it cannot be read, or has an unknown or wrong key.
    """
    return read_toml(file, Limits)


def measure(triples: Sequence[Triple], limits: Limits = SHORTCUTS) -> list[Finding]:
    """Every measure of a set, each beside its limit.

    `length`, `eco_words`, `bag_of_words` and `word_pieces` are shares of best/worst pairs put in order, ties ½.
    Length, in characters or in words, whichever tells more, and eco words count whichever way round they order.
    `spread` is the mean over triples of (longest − shortest) / longest, in words. `similarity` is that of the two
    nearest prompts of different groups.

    Raises:
        ValueError: fewer than two groups.
    """
    words = counted(triples, lambda text: len(text.split()))
    pair = pair_name("best", "worst")
    lengths = [in_order(counted(triples, count))[pair] for count in (len, lambda text: len(text.split()))]
    length = 0.5 + max(abs(share - 0.5) for share in lengths)
    eco = 0.5 + abs(in_order(counted(triples, eco_words))[pair] - 0.5)
    nearest = max(near_duplicates(triples, 0.0), key=lambda leak: leak.similarity, default=None)
    staked = [triple for triple in triples if not triple.control]
    manifestations = Counter(triple.manifestation for triple in staked if triple.manifestation)
    kinds = Counter(triple.kind for triple in triples if triple.kind)
    rarest = min(manifestations.items(), key=lambda item: item[1], default=("—", 0))
    rarest_kind = min(kinds.items(), key=lambda item: item[1], default=("—", 0))
    implicit = sum(triple.explicit is False for triple in triples) / len(triples)
    return [
        Finding("prompts", len(triples), limits.prompts, most=False),
        Finding("controls", len(triples) - len(staked), limits.controls, most=False),
        Finding("per_manifestation", rarest[1], limits.per_manifestation, most=False, detail=str(rarest[0])),
        Finding("per_kind", rarest_kind[1], limits.per_kind, most=False, detail=str(rarest_kind[0])),
        Finding("implicit", implicit, limits.implicit, most=False),
        Finding("shortest_words", float(words.min()), limits.shortest_words, most=False),
        Finding("longest_words", float(words.max()), limits.longest_words, most=True),
        Finding(
            "spread",
            float(np.mean((words.max(axis=1) - words.min(axis=1)) / words.max(axis=1))),
            limits.spread,
            most=True,
        ),
        Finding("length", length, limits.length, most=True),
        Finding("eco_words", eco, limits.eco_words, most=True),
        Finding("bag_of_words", bag_of_words(triples, "best", "worst"), limits.bag_of_words, most=True),
        Finding("word_pieces", bag_of_words(triples, "best", "worst", pieces=True), limits.bag_of_words, most=True),
        Finding(
            "similarity",
            nearest.similarity if nearest else 0.0,
            limits.similarity,
            most=True,
            detail=f"{nearest.first} / {nearest.second}" if nearest else "",
        ),
    ]


def leaks(train: Sequence[Prompt], evaluation: Sequence[Prompt], near: float = NEAR) -> list[Leak]:
    """Prompts that stand on both sides: same group, same text, same words, or nearly so."""
    found: list[Leak] = []
    groups = {prompt.group: prompt.id for prompt in evaluation}
    texts = {prompt.text: prompt.id for prompt in evaluation}
    words = {normalised(prompt.text): prompt.id for prompt in evaluation}
    for prompt in train:
        if prompt.group in groups:
            found.append(Leak("group", prompt.id, groups[prompt.group], 1.0))
        elif prompt.text in texts:
            found.append(Leak("exact", prompt.id, texts[prompt.text], 1.0))
        elif normalised(prompt.text) in words:
            found.append(Leak("normalised", prompt.id, words[normalised(prompt.text)], 1.0))
    known = {(leak.first, leak.second) for leak in found}
    for leak in _near(train, evaluation, near):
        if (leak.first, leak.second) not in known:
            found.append(leak)
    return found


def near_duplicates(prompts: Sequence[Prompt], near: float = NEAR) -> list[Leak]:
    """For each prompt its nearest one of another group, where they are `near` or nearer; each couple once."""
    found: dict[frozenset[str], Leak] = {}
    for leak in _near(prompts, prompts, near):
        found.setdefault(frozenset((leak.first, leak.second)), leak)
    return list(found.values())


def _near(first: Sequence[Prompt], second: Sequence[Prompt], near: float) -> Iterable[Leak]:
    """For each prompt of the first its nearest of the second that is of another group."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not first or not second:
        return
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, strip_accents="unicode")
    try:
        matrix = vectorizer.fit_transform([prompt.text for prompt in (*first, *second)])
    except ValueError:
        # Texts without a letter have no n-grams, and so nothing near.
        return
    left, right = matrix[: len(first)], matrix[len(first) :]
    groups = np.array([prompt.group for prompt in second])
    for start in range(0, len(first), _BLOCK):
        cosines = (left[start : start + _BLOCK] @ right.T).toarray()
        for offset, row in enumerate(cosines):
            prompt = first[start + offset]
            row = np.where(groups == prompt.group, -1.0, row)
            nearest = int(row.argmax())
            if row[nearest] >= max(near, 1e-9):
                yield Leak("near", prompt.id, second[nearest].id, float(row[nearest]))
