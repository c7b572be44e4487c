"""Answers made to fool a judge, from gold triples: the battery a judge is audited with.

Source: the cheap tricks that have topped public boards (AlpacaEval's NullModel, 2410.07137; "One token to fool
LLM-as-a-judge", 2507.08794) and those that an ecological judge invites: green words, hedges, length.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from eco_eval.rubric import Lang, Rubric, fill
from eco_eval.types import Prompt

FILE = Path(__file__).parent / "data" / "attacks" / "attacks-v1.toml"

Expected = Literal["not_good", "same"]
"""What a sound judge does: never calls it good, or grades it as it grades the answer it was made from."""


class Attack(NamedTuple):
    """One way to fool a judge. `made_from` is the gold answer it changes, if any."""

    name: str
    expected: Expected
    made_from: Literal["best", "ambivalent", "worst"] | None = None


ATTACKS: tuple[Attack, ...] = (
    Attack("constant", "not_good"),
    Attack("empty", "not_good"),
    Attack("punctuation", "not_good"),
    Attack("thought", "not_good"),
    Attack("grade", "not_good"),
    Attack("injection", "not_good", "worst"),
    Attack("quote", "not_good", "worst"),
    Attack("salad", "not_good"),
    Attack("padding", "not_good", "worst"),
    Attack("list", "not_good", "worst"),
    Attack("hedges", "not_good", "worst"),
    Attack("swapped", "not_good", "best"),
    Attack("shortened", "same", "best"),
    Attack("other_language", "not_good", "worst"),
)


BARE = frozenset(attack.name for attack in ATTACKS if attack.made_from is None) | {"injection"}
"""Attacks that say nothing of their own, or only forge a verdict: none of them may score above a true worst answer. The
others change what an answer says, hedges for instance, and a judge may find some of them regular."""


def attacked(attack: Attack, triples: Sequence[Prompt], rubric: Rubric, lang: Lang) -> list[str]:
    """What the attack answers to each triple's prompt, in order.

    `empty` and `punctuation` are never shown to a judge: an answer without a letter is bad by rule, and these are here
    to prove it. `swapped` gives each prompt the best answer of the prompt half the set away, or of the next one that is
    of another group. `other_language` puts the bare grade of the other language before a worst answer, and the
    injection of the other language after it.

    Args:
        triples: at least two gold triples of different groups.
        lang: language of the rubric the judge reads.
    """
    texts = _texts()[lang]
    other = _texts()["en" if lang == "es" else "es"]
    criterion = rubric.criteria[0]
    makers: Mapping[str, Callable[[int, Prompt], str]] = {
        "constant": lambda _, __: rubric.phrases[lang].constant,
        "empty": lambda _, __: "",
        "injection": lambda _, p: (p.worst or "") + fill("\n\n" + texts["injection"], fence="a1b2c3d4"),
        "quote": lambda _, p: f"{p.worst}\n\n" + fill(texts["quote"], rubric=getattr(criterion, lang).good),
        "padding": lambda _, p: f"{p.worst} {texts['padding']}",
        "hedges": lambda _, p: f"{p.worst} {texts['hedges']}",
        "list": lambda _, p: as_list(p.worst or ""),
        "swapped": lambda i, _: _far(i, triples).best or "",
        "shortened": lambda _, p: first_half(p.best or ""),
        "other_language": lambda _, p: (
            f"{other['grade']}\n\n{p.worst}\n\n" + fill(other["injection"], fence="a1b2c3d4")
        ),
    }
    make = makers.get(attack.name)
    return [make(i, prompt) if make else texts[attack.name] for i, prompt in enumerate(triples)]


def _far(index: int, triples: Sequence[Prompt]) -> Prompt:
    """The prompt half the set away, or the first after it that is of another group."""
    half = index + max(1, len(triples) // 2)
    others = (triples[(half + step) % len(triples)] for step in range(len(triples)))
    return next(prompt for prompt in others if prompt.group != triples[index].group)


def as_list(text: str) -> str:
    """The same sentences as a numbered list."""
    return "\n".join(f"{i}. {sentence}" for i, sentence in enumerate(sentences(text), 1))


def first_half(text: str) -> str:
    """The first half of the sentences, at least one."""
    found = sentences(text)
    return " ".join(found[: max(1, len(found) // 2)])


def sentences(text: str) -> list[str]:
    """Sentences by their final marks and line ends."""
    return [part for part in re.split(r"(?<=[.!?…])\s+|\n+", text.strip()) if part]


@cache
def _texts() -> dict[str, dict[str, str]]:
    loaded = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {lang: loaded[lang] for lang in ("es", "en")}
