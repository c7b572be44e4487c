"""Results become a board: a pure function."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from pydantic import Field

from eco_eval.readings import percent
from eco_eval.results import display_name
from eco_eval.stats import rank_intervals
from eco_eval.stats.intervals import Floats
from eco_eval.stats.length import length_controlled, length_slope
from eco_eval.types import Estimate, Grade, Record, Result, Seat, Withheld


class Places(Record):
    """From the best to the worst place a model may have among those it is shown with, at 95 % for all of them."""

    best: int
    worst: int


class Row(Record):
    """One result as it stands on the board. `tier` 1 is the top one.

    `equal_length`: its score had its answers been as long as those of the models it is shown with, on average: the
    slope of points on log words within a prompt, with an effect of each model, is theirs (2404.04475).
    `without`: by judge of the row's own family, the places without that judge; empty where it is the only judge.
    """

    result: Result
    name: str
    eco: Estimate
    shares: dict[Grade, float]
    equal_length: Estimate | Withheld = Withheld(reason="few_models")
    places: Places | None = None
    tier: int | None = None
    without: dict[str, Places] = Field(default_factory=dict)


class Section(Record):
    """Results of one instrument, which alone can be compared: models by tier and score, anchors apart."""

    instrument: str
    digests: tuple[str, str]
    has_stand_in: bool
    judges: tuple[Seat, ...]
    models: tuple[Row, ...]
    anchors: tuple[Row, ...]


class Board(Record):
    sections: tuple[Section, ...]


def build(results: Iterable[Result]) -> Board:
    """The board: a section an instrument, in order of name; rows by score, then name, each with its places and tier."""
    grouped: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        sub = result.submission
        grouped.setdefault((sub.instrument, sub.asked_digest, sub.measured_digest), []).append(result)
    sections = [_section(key, found) for key, found in sorted(grouped.items())]
    return Board(sections=tuple(section for section in sections if section.models or section.anchors))


def _section(key: tuple[str, str, str], results: list[Result]) -> Section:
    models = sorted((r for r in results if not r.is_anchor), key=_order)
    anchors = sorted((r for r in results if r.is_anchor), key=_order)
    return Section(
        instrument=key[0],
        digests=(key[1][:12], key[2][:12]),
        has_stand_in=results[0].has_stand_in,
        judges=results[0].seats,
        models=_ranked(models),
        anchors=tuple(_row(result) for result in anchors),
    )


def _order(result: Result) -> tuple[float, str, str]:
    return -result.score.eco.value, display_name(result), result.id


def _row(result: Result) -> Row:
    return Row(
        result=result,
        name=display_name(result),
        eco=result.score.eco,
        shares={grade: share.value for grade, share in result.score.shares.items()},
    )


def _ranked(results: Sequence[Result]) -> tuple[Row, ...]:
    if not results:
        return ()
    groups = results[0].groups
    grades = tuple(tuple(seat.grades for seat in result.seats) for result in results)
    best, worst, tier = _ranks(grades, groups)
    equal = _equal_lengths(grades, groups, tuple(result.words for result in results))
    rows = []
    for number, result in enumerate(results):
        kin = [place for place, seat in enumerate(result.seats) if seat.same_family and len(result.seats) > 1]
        without = {}
        for place in kin:
            others = tuple(tuple(g for i, g in enumerate(given) if i != place) for given in grades)
            low, high, _ = _ranks(others, groups)
            without[result.seats[place].name] = Places(best=low[number], worst=high[number])
        places = Places(best=best[number], worst=worst[number])
        found = {"places": places, "tier": tier[number], "without": without, "equal_length": equal[number]}
        rows.append(_row(result).model_copy(update=found))
    return tuple(rows)


Grades = tuple[tuple[str, ...], ...]
"""By model, the letters of each of its judges."""

Groups = tuple[int, ...]

WORTH = {"g": 1.0, "r": 0.5, "b": 0.0, "-": float("nan")}


def _points(grades: Grades, groups: Groups) -> tuple[Floats, list[int], list[str]]:
    """Mean points over judges, shape (models, prompts with a stake), the places of those prompts, and their groups."""
    kept = [i for i, group in enumerate(groups) if group >= 0] or list(range(len(groups)))
    table = np.array([[[WORTH[given[i]] for i in kept] for given in model] for model in grades])
    return table.mean(axis=1), kept, [str(groups[i]) if groups[i] >= 0 else f"c{i}" for i in kept]


@lru_cache(maxsize=64)
def _equal_lengths(
    grades: Grades, groups: Groups, words: tuple[tuple[int, ...], ...]
) -> tuple[Estimate | Withheld, ...]:
    """Each model's mean on 0 to 100 at the mean log length of all; answers without a word are left as they are."""
    few = (Withheld(reason="few_models"),) * len(grades)
    points, kept, names = _points(grades, groups)
    lengths = np.array(words, dtype=float)[:, kept]
    read = (lengths > 0) & ~np.isnan(points)
    logs = np.log(np.maximum(lengths, 1.0))
    known = [np.flatnonzero(~np.isnan(row)) for row in points]
    own = [[names[j] for j in places] for places in known]
    compared = {names[j] for j in np.flatnonzero(read.sum(axis=0) > 1)}
    if len(compared) < 2:
        return few
    model, prompt = np.nonzero(read)
    labels = [names[j] for j in prompt]
    slope = length_slope(points[read], logs[read], [str(j) for j in prompt], labels, [str(i) for i in model])
    if isinstance(slope, Withheld):
        return (Withheld(reason="same_length_models"),) * len(grades)
    reference = float(logs[read].mean())
    logs[~read] = reference
    found: list[Estimate | Withheld] = []
    for i, places in enumerate(known):
        if not read[i].any():
            found.append(Withheld(reason="many_by_rule", detail="100 %"))
        elif len(set(own[i])) < 2:
            found.append(Withheld(reason="few_answers"))
        else:
            found.append(percent(length_controlled(points[i, places], logs[i, places], own[i], slope, reference)))
    return tuple(found)


@lru_cache(maxsize=64)
def _ranks(grades: Grades, groups: Groups) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Best place, worst place and tier of each model, from the letters of its judges.

    Kept for the next time: a page asks for the same board again and again, and a thousand models take seconds.
    """
    points, _, names = _points(grades, groups)
    found = rank_intervals(points, names)
    return tuple(map(int, found.best)), tuple(map(int, found.worst)), tuple(map(int, found.tier))
