"""Signs that a model has seen the answers it is measured against.

What it says that the gold answers say word for word, and what its card says it was trained on. Neither proves anything
alone: a gold answer can be repeated in other words, and a card says only what its author wrote.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from eco_eval.readings import Marked
from eco_eval.stats import mean_of_shares, public_hidden_gap
from eco_eval.types import Answer, Estimate, Overlap, Prompt

WORDS = 5
"""Words of one n-gram; `overlap` says why."""

COPIED = 0.5
"""An answer that shares this part of its n-grams with the gold answer, or more, is called copied."""

_OWN_SETS = re.compile(r"h4rmony|(?<![a-z0-9])eco-(es|en|it)(?![a-z0-9])")


def overlap(answer: str, gold: str, prompt: str, n: int = WORDS) -> float | None:
    """Share of the answer's distinct word n-grams that stand in the gold answer, 0 to 1.

    Words are compared without case, accents and punctuation. N-grams of the prompt are left out: an answer may quote
    it.

    n-gram overlap is how Brown et al. 2020 (2005.14165, appendix C: 8 to 13 words, without case and punctuation) and
    Touvron et al. 2023 (2307.09288, appendix A.6: more than 10 tokens) look for test data in training data. Those
    search a whole corpus for a match; here one answer is compared with one other, so shorter n-grams serve.

    Why 5, measured on the 103 gold triples of eco-es-v1. Best answers of two prompts, 10,506 pairs: 4.5 % share a
    3-gram, 0.29 % a 4-gram, 0.02 % a 5-gram (a share of 0.007 at most), none a 6-gram. Ambivalent and worst answers,
    which were written as variants of the best one: with 5-grams a mean share of 0.010, 99th percentile 0.13, at most
    0.15 on the 94 prompts that are not controls; up to 0.70 on the 9 controls, whose tasks dictate wording. Gold
    answers with each word replaced with a chance of one in ten: 83 % of them still share half of their 5-grams, 27 % of
    their 8-grams. `benchmarks/overlap.py` repeats it.

    Misses what was reworded or translated, and a copy inside a much longer answer.

    Returns:
        None when the answer has no n-gram that is not in the prompt.
    """
    own = _ngrams(answer, n) - _ngrams(prompt, n)
    return len(own & _ngrams(gold, n)) / len(own) if own else None


def overlaps(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Overlap | None:
    """The overlap of every answer with the best gold answer of its prompt.

    Control prompts are left out: a formal letter or a proof has much the same words whoever writes it. The interval of
    the mean is that of `mean_of_shares`: it has width when nearly all shares are 0.

    Returns:
        None when fewer than two groups of prompts have a gold answer and an answer to compare with it.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    shares, groups = [], []
    for answer in answers:
        prompt = by_id.get(answer.prompt_id)
        if prompt is None or prompt.best is None or prompt.control:
            continue
        share = overlap(answer.text, prompt.best, prompt.text)
        if share is not None:
            shares.append(share)
            groups.append(prompt.group)
    if len(set(groups)) < 2:
        return None
    return Overlap(
        mean=mean_of_shares([(share, 1 - share) for share in shares], groups, (100.0, 0.0)),
        copied=sum(share >= COPIED for share in shares),
        n=len(shares),
        highest=100 * max(shares),
    )


def hidden_gap(public: Sequence[Marked], hidden: Sequence[Marked]) -> Estimate | None:
    """Score on the public prompts less score on the hidden ones, in points of 100, control prompts left out.

    Above 0, the model does better on what it may have seen. See `public_hidden_gap`.

    Returns:
        None where either has verdicts on fewer than two groups.
    """
    own, other = ([m for m in some if not m.prompt.control] for some in (public, hidden))
    groups, others = [m.prompt.group for m in own], [m.prompt.group for m in other]
    if min(len(set(groups)), len(set(others))) < 2:
        return None
    return public_hidden_gap([100 * m.points for m in own], groups, [100 * m.points for m in other], others)


def declared_training(datasets: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """The data sets a model says it was trained on that are the instrument's own, or were made from them.

    Names are compared without case and with `-` for `_`, whole or by the part after the owner, so that a copy under
    another owner counts. So does every one named after H4rmony or after this project's sets (`eco-es` and its like).

    Args:
        datasets: as the card of the model declares them.
        own: names of the instrument's set and of its sources.
    """
    wanted = {name for each in own for name in (_repository(each), _last(each)) if name}
    return tuple(d for d in datasets if {_repository(d), _last(d)} & wanted or _OWN_SETS.search(_last(d)))


def _ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    words = re.findall(r"[^\W_]+", plain.casefold())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def _repository(name: str) -> str:
    return name.strip().strip("/").casefold().replace("_", "-")


def _last(name: str) -> str:
    return _repository(name).rpartition("/")[2]
