"""What a model declares of its origin, and whether two models are of one family.

A judge may favour answers of its own kind (Panickssery et al. 2024, 2404.13076), so a score says when judge and
candidate are related. All of it rests on what their authors wrote: a name or a card that says nothing proves nothing.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from eco_eval.types import Declared

FAMILIES = Path(__file__).parent / "data" / "families.toml"
"""Known families, each with the stems that name it."""


def families(names: Iterable[str], model_type: str = "") -> frozenset[str]:
    """The families of `data/families.toml` that the names say; if they say none, the one the architecture says.

    Only the part of a name after its owner is read: who published a model does not say what it was made from.
    """
    found = frozenset(family for name in names for family in _named(name))
    return found or frozenset(_named(model_type))


def same_family(candidate_name: str, candidate: Declared, judge_name: str, judge: Declared) -> str | None:
    """What says that candidate and judge are related, or None where nothing does.

    They are related when they are one model, one was made from the other, both from one base, or the names of both
    (their own and those of their bases) say one known family. The candidate's architecture counts only where it
    declares no base and no name of it says a family, and then only if the judge's names say that family: many models
    that have nothing in common share the architecture of Llama.

    Returns:
        The evidence as source and name, like `base_model: Qwen/Qwen2.5-7B` or `config: model_type qwen2`.
    """
    own = _origins(candidate_name, candidate)
    judge_ids = {_identity(name) for _, name in _origins(judge_name, judge)}
    judge_families = families(name for _, name in _origins(judge_name, judge))
    related = [f"{source} {name}" for source, name in own if _identity(name) in judge_ids]
    related += [f"{source} {name}" for source, name in own if families([name]) & judge_families]
    if related:
        return related[0]
    silent = not candidate.base_models and not families(name for _, name in own)
    if silent and families((), candidate.model_type) & judge_families:
        return f"config: model_type {candidate.model_type}"
    return None


def _origins(name: str, declared: Declared) -> list[tuple[str, str]]:
    """A model's own name and those it comes from, each with where it stands."""
    found = [
        ("name:", name),
        *(("base_model:", base) for base in declared.base_models),
        ("config: _name_or_path", declared.name_or_path),
    ]
    return [(source, name) for source, name in found if _identity(name)]


def _identity(name: str) -> str:
    """The same for all ways to write one repository: with its address or without, at whatever revision."""
    plain = unicodedata.normalize("NFKC", name).strip().casefold()
    return re.sub(r"^(https?://)?(huggingface\.co|hf\.co)/", "", plain).partition("@")[0].strip("/")


def _named(name: str) -> list[str]:
    text = re.split(r"[/\\]", unicodedata.normalize("NFKC", name).partition("@")[0].strip(" /\\"))[-1]
    # Both as it is and cut before capitals: SmolLM is one word, QwenLong is two.
    both = f"{text} {re.sub(r'(?<=[a-z])(?=[A-Z])', '-', text)}"
    words = re.sub(r"[\s_.]+", "-", both.casefold())
    return [family for family, stem in _stems().items() if stem.search(words)]


@cache
def _stems() -> dict[str, re.Pattern[str]]:
    known = tomllib.loads(FAMILIES.read_text(encoding="utf-8"))
    return {
        family: re.compile(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, stems))})(?![^\W\d_])")
        for family, stems in known.items()
    }
