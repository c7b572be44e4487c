"""How often something simple puts a triple's answers in order: what a judge has to beat, and a data set to avoid."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eco_eval.errors import InputError
from eco_eval.triples.records import PAIRS, RANKS, Rank, Triple, pair_name

Floats = npt.NDArray[np.float64]

Encode = Callable[[Sequence[str]], Floats]
"""Texts to vectors of length 1, shape (texts, dimensions)."""

ECO_STEMS = re.compile(
    r"\b(eco(l|s?\b|-)|ambient|environment|sosten|sustent|sustain|natur|planet|verde|verdi\b|green|clim|conserv|recicl|recycl|renov"
    r"|renew|rinnov|biodivers|carbon|huella|footprint|impronta)",
    re.IGNORECASE,
)
"""Beginnings of the words that ecological talk is recognised by, in Spanish, English and Italian."""


def eco_words(text: str) -> int:
    """How many words of a text begin with an eco stem."""
    return len(ECO_STEMS.findall(text))


def in_order(scores: Sequence[Sequence[float]] | Floats) -> dict[str, float]:
    """Share of triples in which the better answer of each pair scores higher, ties counting ½.

    Args:
        scores: shape (n, 3): of the best, ambivalent and worst answer.

    Returns:
        By `pair_name`, in the order of PAIRS.
    """
    points = np.asarray(scores, dtype=float)
    column = {rank: i for i, rank in enumerate(RANKS)}

    def share(better: Rank, lower: Rank) -> float:
        gap = points[:, column[better]] - points[:, column[lower]]
        return float(np.mean((gap > 0) + 0.5 * (gap == 0)))

    return {pair_name(*pair): share(*pair) for pair in PAIRS}


def counted(triples: Sequence[Triple], count: Callable[[str], float]) -> Floats:
    """A count of each answer, shape (n, 3)."""
    return np.array([[count(triple.answer(rank)) for rank in RANKS] for triple in triples], dtype=float)


def bag_of_words(
    triples: Sequence[Triple], better: Rank, lower: Rank, *, pieces: bool = False, folds: int = 10
) -> float:
    """Share of pairs put in order by words alone: TF-IDF and logistic regression, cross-validated over groups.

    No group is in both halves. Needs as many groups as folds; with fewer, one fold a group.

    Args:
        pieces: take every 2 to 5 characters inside words for words: endings and stems tell more than whole words.

    Raises:
        ValueError: fewer than two groups.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline

    kind: dict[str, Any] = {"analyzer": "char_wb", "ngram_range": (2, 5)} if pieces else {}
    groups = [triple.group for triple in triples]
    texts = [[triple.answer(better), triple.answer(lower)] for triple in triples]
    hits: list[float] = []
    for train, test in GroupKFold(min(folds, len(set(groups)))).split(texts, groups=groups):
        model = make_pipeline(TfidfVectorizer(sublinear_tf=True, **kind), LogisticRegression(C=10, max_iter=3000))
        try:
            model.fit([text for i in train for text in texts[i]], [1, 0] * len(train))
        except ValueError:  # not one word in these texts
            hits += [0.5] * len(test)
            continue
        for i in test:
            first, second = model.predict_proba(texts[i])[:, 1]
            hits.append(float(first > second) + 0.5 * float(first == second))
    return float(np.mean(hits))


def similarity_to_best(triples: Sequence[Triple], encode: Encode) -> Floats:
    """Cosine of each answer with the best answer of its prompt, shape (n, 3); 1 for the best by definition."""
    vectors = encode([triple.answer(rank) for triple in triples for rank in RANKS])
    by_rank = vectors.reshape(len(triples), len(RANKS), -1)
    return np.asarray(np.einsum("nrd,nd->nr", by_rank, by_rank[:, 0]), dtype=float)


def similarity_to_prompt(triples: Sequence[Triple], encode: Encode) -> Floats:
    """Cosine of each answer with its prompt, shape (n, 3): similarity that needs no reference answer."""
    answers = encode([triple.answer(rank) for triple in triples for rank in RANKS])
    prompts = encode([triple.text for triple in triples])
    by_rank = answers.reshape(len(triples), len(RANKS), -1)
    return np.asarray(np.einsum("nrd,nd->nr", by_rank, prompts), dtype=float)


def sentence_encoder(model: str) -> Encode:
    """A sentence-transformers model, from the Hub or a folder.

    Raises:
        InputError: it cannot be loaded.
    """
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer

    safe = {"use_safetensors": True}
    try:
        loaded: Any = SentenceTransformer(model, device="cpu", trust_remote_code=False, model_kwargs=safe)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError("data.no_encoder", model=model, reason=str(error).partition("\n")[0]) from error

    def encode(texts: Sequence[str]) -> Floats:
        found = loaded.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, dtype=float)

    return encode


def word_encoder(texts: Sequence[str]) -> Encode:
    """Vectors by the words themselves (TF-IDF with these texts' weights): similarity without meaning, as a floor."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        vectorizer = TfidfVectorizer(sublinear_tf=True).fit(list(texts))
    except ValueError:  # not one word in these texts
        return lambda some: np.zeros((len(some), 1))

    def encode(some: Sequence[str]) -> Floats:
        return np.asarray(vectorizer.transform(list(some)).toarray(), dtype=float)

    return encode


def table(triples: Sequence[Triple], encoder: str | None = None) -> dict[str, dict[str, float | None]]:
    """How often each baseline puts a pair in order, ties ½; None where it cannot tell.

    Args:
        encoder: a sentence-transformers model for semantic similarity; without one, words stand for meaning.

    Returns:
        By baseline, a share for each `pair_name`.
    """
    everything = [text for triple in triples for text in (triple.text, *(triple.answer(rank) for rank in RANKS))]
    encode = sentence_encoder(encoder) if encoder else word_encoder(everything)
    best = in_order(similarity_to_best(triples, encode))
    # The best answer is nearest to itself: only the other two are told anything.
    to_best: dict[str, float | None] = {
        name: share if name == pair_name(*PAIRS[2]) else None for name, share in best.items()
    }
    return {
        "length": {**in_order(counted(triples, len))},
        "eco_words": {**in_order(counted(triples, eco_words))},
        "bag_of_words": {pair_name(*pair): bag_of_words(triples, *pair) for pair in PAIRS},
        "word_pieces": {pair_name(*pair): bag_of_words(triples, *pair, pieces=True) for pair in PAIRS},
        "similarity_to_best": to_best,
        "similarity_to_prompt": {**in_order(similarity_to_prompt(triples, encode))},
    }
