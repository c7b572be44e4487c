"""What a reader of the board asks to see: read from an address or from controls, and applied to its rows.

Nothing here ranks: places and tiers are those among all models of an instrument, whatever is shown of them.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args
from urllib.parse import quote, unquote

from eco_eval.board import Board, Row, Section
from eco_eval.types import Estimate, Record, Result, Withheld

Flag = Literal["same_family", "declared", "stand_in", "copied", "public_gap", "unlocked"]
FLAGS: tuple[Flag, ...] = get_args(Flag)
"""What to bear in mind about a result: judged by a relative, trained on data it declares, judged by a stand-in, gold
answers copied, better on public prompts, judged by what is not fixed or did not pass."""

NONE = "-"
"""What stands for a licence, a size or a kind that is not known, and for having no flag."""

SIZES: dict[str, float] = {"lt1": 1e9, "1-4": 4e9, "4-10": 1e10, "10-40": 4e10, "gt40": math.inf}
"""Ranges of parameters by name, each with the number it ends below."""

KINDS = ("chat", "base", "adapter", NONE)

Column = Literal[
    "eco",
    "interval",
    "shares",
    "equal",
    "health",
    "energy",
    "order",
    "size",
    "kind",
    "licence",
    "answers",
    "finished",
    "revision",
]
COLUMNS: tuple[Column, ...] = get_args(Column)
USUAL: tuple[Column, ...] = COLUMNS[:6]

Plot = Literal["forest", "size", "energy", "codes", "time"]
PLOTS: tuple[Plot, ...] = get_args(Plot)

Sorting = Literal["name", "corrected", "equal", "good", "incidents", "size", "energy", "finished"]
SORTINGS: tuple[str, ...] = ("", *(sign + name for name in get_args(Sorting) for sign in ("", "-")))
"""Orders within a tier, descending with a minus sign; the empty one is by score."""

LONGEST = 200
"""Characters of a search or of a value."""

MOST = 30
"""Values of one filter."""

ROWS = 100
"""Rows in a part of the table."""


class View(Record):
    """What is to be seen of a board. Of the values of one filter any may hold; of the filters all must.

    instrument: as `section_names` has it, empty for the first one. sort: one of `SORTINGS`. part: of the table, `ROWS`
    rows each, from 1.
    """

    q: str = ""
    instrument: str = ""
    size: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    licence: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    score: Literal["raw", "corrected"] = "raw"
    sort: str = ""
    columns: tuple[Column, ...] = USUAL
    plot: Plot = "forest"
    part: int = 1

    @property
    def is_filtered(self) -> bool:
        return bool(self.q or self.size or self.kind or self.licence or self.flags)


FIELDS = tuple(View.model_fields)
"""Also the parameters of an address; none may be called `page`, which is Gradio's own."""


def read_view(asked: Mapping[str, object]) -> View:
    """What an address or the controls ask for. Whatever is unknown or of the wrong kind counts as not asked.

    Args:
        asked: values by name of field; a list as such, or as text with commas between its values.
    """
    known: dict[str, Sequence[str]] = {"size": (*SIZES, NONE), "kind": KINDS, "flags": (*FLAGS, NONE)}
    found: dict[str, object] = {name: _text(asked.get(name)) for name in ("q", "instrument")}
    for name, values in known.items():
        found[name] = tuple(value for value in _values(asked.get(name)) if value in values)
    found["licence"] = _values(asked.get("licence"))
    chosen = _values(asked.get("columns"))
    is_none = asked.get("columns") == [] or chosen == (NONE,)
    found["columns"] = () if is_none else tuple(c for c in COLUMNS if c in chosen) or USUAL
    offered: dict[str, Sequence[str]] = {"score": ("raw", "corrected"), "sort": SORTINGS, "plot": PLOTS}
    for name, choices in offered.items():
        value = _text(asked.get(name))
        found[name] = value if value in choices else choices[0]
    part = _text(asked.get("part"))
    found["part"] = max(1, int(part)) if part.isascii() and part.isdigit() and len(part) < 7 else 1
    return View.model_validate(found)


def write_view(view: View) -> dict[str, str]:
    """A view as parameters of an address, by name; what is as usual is empty."""
    usual, said = View(), {}
    for name in FIELDS:
        value = getattr(view, name)
        if value == getattr(usual, name):
            said[name] = ""
        elif isinstance(value, tuple):
            said[name] = ",".join(quote(item, safe=" ") for item in value) or NONE
        else:
            said[name] = str(value)
    return said


def section_names(board: Board) -> dict[str, Section]:
    """The sections by a name of their own, those that can be published and have most models first."""
    many = Counter(section.instrument for section in board.sections)
    ordered = sorted(
        board.sections,
        key=lambda s: (-sum(row.result.publishable for row in s.models), -len(s.models), s.instrument, s.digests),
    )
    return {s.instrument if many[s.instrument] == 1 else f"{s.instrument}@{'-'.join(s.digests)}": s for s in ordered}


def choose(board: Board, view: View) -> Section | None:
    """The section a view shows; the first one where it asks for none that there is."""
    sections = section_names(board)
    return sections.get(view.instrument) or next(iter(sections.values()), None)


class Selection(NamedTuple):
    """Models of a section that a view shows, by tier and within a tier as it sorts; and how many there are of all."""

    section: Section
    rows: tuple[Row, ...]
    total: int


def select(section: Section, view: View) -> Selection:
    """The models of a section that pass a view's filters, tiers in order."""
    words = fold(view.q).split()
    rows = [row for row in section.models if _passes(row, view, words)]
    return Selection(section, tuple(_sorted(rows, view.sort)), len(section.models))


def facets(section: Section) -> dict[str, dict[str, int]]:
    """How many models of a section have each value of each filter; what none has is left out."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("size", "kind", "licence", "flags")}
    for row in section.models:
        counts["size"][size_of(row.result)] += 1
        counts["kind"][kind_of(row.result)] += 1
        counts["licence"][licence_of(row.result)] += 1
        counts["flags"].update(flags_of(row.result) or (NONE,))
    order: dict[str, Sequence[str]] = {
        "size": (*SIZES, NONE),
        "kind": KINDS,
        "licence": sorted(counts["licence"], key=lambda name: (name == NONE, -counts["licence"][name], name)),
        "flags": (NONE, *FLAGS),
    }
    return {
        name: {value: counts[name][value] for value in values if counts[name][value]} for name, values in order.items()
    }


def size_of(result: Result) -> str:
    """The range its parameters are in."""
    if result.weights is None:
        return NONE
    count = result.weights.parameters
    return next(name for name, below in SIZES.items() if count < below)


def kind_of(result: Result) -> str:
    return result.weights.kind if result.weights is not None else NONE


def licence_of(result: Result) -> str:
    return (result.weights.licence if result.weights is not None else "") or NONE


def flags_of(result: Result) -> tuple[Flag, ...]:
    """What to bear in mind about a result."""
    signs = result.contamination
    there: dict[Flag, bool] = {
        "same_family": any(seat.same_family for seat in result.seats),
        "declared": bool(signs.declared),
        "stand_in": result.has_stand_in,
        "copied": signs.overlap is not None and signs.overlap.copied > 0,
        "public_gap": signs.hidden_gap is not None and signs.hidden_gap.low > 0,
        "unlocked": not result.publishable and not result.has_stand_in,
    }
    return tuple(flag for flag in FLAGS if there[flag])


def kwh(result: Result) -> float | None:
    """Energy of all stages that were counted; None where none was."""
    stages = result.provenance.energy.values()
    return sum(stage.kwh for stage in stages) if stages else None


def score_of(result: Result, view: View) -> Estimate | Withheld:
    """The score that a view shows."""
    return result.score.corrected if view.score == "corrected" else result.score.eco


@lru_cache(maxsize=65_536)
def fold(text: str) -> str:
    """Text as it is searched: without case and accents."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in apart if not unicodedata.combining(character))


def _passes(row: Row, view: View, words: Sequence[str]) -> bool:
    result = row.result
    if words:
        said = fold(f"{row.name}\n{result.submission.model.revision}\n{result.id}")
        if not all(word in said for word in words):
            return False
    own = ((view.size, size_of), (view.kind, kind_of), (view.licence, licence_of))
    if any(wanted and of(result) not in wanted for wanted, of in own):
        return False
    return not view.flags or any(flag in view.flags for flag in flags_of(result) or (NONE,))


def _sorted(rows: Sequence[Row], sort: str) -> list[Row]:
    """Rows by tier; within one by the key, those without it last, and then as they were."""
    if not sort:
        return list(rows)
    key, sign = _KEYS[sort.removeprefix("-")], -1 if sort.startswith("-") else 1
    found = [(key(row), row) for row in rows]
    known = [(value, row) for value, row in found if value is not None]
    known.sort(key=lambda pair: pair[0], reverse=sign < 0)
    ordered = [row for _, row in known] + [row for value, row in found if value is None]
    return sorted(ordered, key=lambda row: row.tier or 0)


def _value(found: Estimate | Withheld) -> float | None:
    return None if isinstance(found, Withheld) or math.isnan(found.value) else found.value


def _incidents(row: Row) -> float:
    counts = row.result.score.counts
    return counts.ungraded + counts.truncated + counts.empty


_KEYS: dict[str, Callable[[Row], float | str | None]] = {
    "name": lambda row: fold(row.name),
    "corrected": lambda row: _value(row.result.score.corrected),
    "equal": lambda row: _value(row.equal_length),
    "good": lambda row: next((share for grade, share in row.shares.items() if grade == "good"), None),
    "incidents": _incidents,
    "size": lambda row: row.result.weights.parameters if row.result.weights is not None else None,
    "energy": lambda row: kwh(row.result),
    "finished": lambda row: row.result.provenance.finished_at,
}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return ""
    return str(value).strip()[:LONGEST] if isinstance(value, str | int) else ""


def _values(value: object) -> tuple[str, ...]:
    """Distinct values of a list or of text with commas between them."""
    if isinstance(value, str):
        items = [unquote(item) for item in value[: MOST * LONGEST].split(",")]
    elif isinstance(value, list | tuple):
        items = [item[:LONGEST] for item in value[:MOST] if isinstance(item, str)]
    else:
        items = []
    return tuple(dict.fromkeys(item for item in items[:MOST] if item))
