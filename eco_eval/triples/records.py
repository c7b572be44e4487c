"""The words of preference data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import Field

from eco_eval.types import Prompt, Record

Rank = Literal["best", "ambivalent", "worst"]
RANKS: tuple[Rank, ...] = get_args(Rank)

PAIRS: tuple[tuple[Rank, Rank], ...] = (("best", "ambivalent"), ("best", "worst"), ("ambivalent", "worst"))
"""The pairs of a triple, chosen before rejected; H4rmony's R1-R2, R1-R3 and R2-R3."""

Cause = Literal[
    "bad_json",
    "not_object",
    "extra_cells",
    "empty_cell",
    "not_text",
    "oversized",
    "bad_value",
    "bad_rank",
    "same_answer",
    "repeated",
    "encoding",
    "conflict",
    "text_differs",
    "cycle",
    "incomplete",
    "pair_missing",
    "field_differs",
    "duplicate_prompt",
    "duplicate_id",
    "not_translated",
    "wrong_language",
    "bad_length",
    "refusal",
    "placeholder_lost",
    "cut",
    "repetition",
    "no_answer",
    "stale",
    "rejected",
    "other_language",
    "language_assumed",
    "left_out",
]


class Problem(Record):
    """Something about a row or a prompt that a person should know.

    `row` counts records from 1; `line` is the line of a text file where it begins. `used` tells whether the row is
    part of what was returned all the same. `source` is said where problems of several are put together.
    """

    cause: Cause
    used: bool = False
    row: int | None = None
    line: int | None = None
    id: str | None = None
    field: str | None = None
    detail: str = ""
    source: str | None = None


class Triple(Prompt):
    """A prompt with its three ranked answers.

    `meta` holds columns that mean nothing to us and are the same in all pairs; `pair_meta`, by `pair_name`, those that
    differ from pair to pair. Both are kept word for word.
    """

    best: str
    ambivalent: str
    worst: str
    meta: dict[str, str] = Field(default_factory=dict)
    pair_meta: dict[str, dict[str, str]] = Field(default_factory=dict)

    def answer(self, rank: Rank) -> str:
        """The answer of a rank."""
        return {"best": self.best, "ambivalent": self.ambivalent, "worst": self.worst}[rank]


class Pair(Record):
    """One answer preferred to another. Ranks are None where the source does not say them."""

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_rank: Rank | None = None
    rejected_rank: Rank | None = None
    chosen_origin: str = ""
    rejected_origin: str = ""
    meta: dict[str, str] = Field(default_factory=dict)


class Loaded(Record):
    """What a source holds.

    pairs: every usable pair, in order.
    prompts: every distinct prompt with those of its answers that are known, triples among them.
    problems: what could not be used and why, and what was repaired.
    attribution: whom to credit wherever these texts are shown.
    """

    source: str
    rows: int
    pairs: tuple[Pair, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    problems: tuple[Problem, ...] = ()
    attribution: str = ""

    @property
    def triples(self) -> tuple[Triple, ...]:
        """The prompts that have all three answers."""
        return tuple(prompt for prompt in self.prompts if isinstance(prompt, Triple))


def pair_name(chosen: Rank, rejected: Rank) -> str:
    """The key of a pair in `Triple.pair_meta`."""
    return f"{chosen}>{rejected}"


def without_answers(prompt: Prompt) -> Prompt:
    """The prompt alone, as it is asked."""
    fields = {name: getattr(prompt, name) for name in Prompt.model_fields if name.split("_")[0] not in RANKS}
    return Prompt.model_validate(fields)


def as_triple(prompt: Prompt, answers: Mapping[Rank, str], **fields: object) -> Triple:
    """A prompt with three answers."""
    return Triple.model_validate({**prompt.model_dump(), **answers, **fields})
