"""Which answers of a result are shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from eco_eval.results import Reading
from eco_eval.types import Grade, Graded, Record, Result
from eco_eval.ui.answers import points, said_by_people, word

GRADES: Final = ("all", *(grade.value for grade in Grade), "ungraded")
KINDS: Final = ("all", "disagree", "truncated", "failed", "control")


class Filter(Record):
    """Which answers are shown. `find`: words of the prompt, without case or accents, or its id."""

    grade: str = "all"
    show: str = "all"
    find: str = ""


class Known(NamedTuple):
    """What a result says of its answers. `people` is people's points by answer id."""

    result: Result
    readings: Sequence[Reading]
    people: Mapping[str, float]


def filter_of(grade: object = "all", show: object = "all", find: object = "") -> Filter:
    """A filter from what a stranger sent; what is none is no filter."""
    return Filter(
        grade=grade if isinstance(grade, str) and grade in GRADES else "all",
        show=show if isinstance(show, str) and show in KINDS else "all",
        find=word(find),
    )


def fits(reading: Reading, wanted: Filter, known: Known) -> bool:
    """Whether an answer is among those wanted."""
    answer, verdicts = reading
    grades = [verdict.grade.value if isinstance(verdict, Graded) else "ungraded" for verdict in verdicts]
    if wanted.grade != "all" and wanted.grade not in grades:
        return False
    match wanted.show:
        case "disagree":
            is_shown = disagrees(reading, known.people)
        case "truncated":
            is_shown = answer.truncated
        case "failed":
            is_shown = answer.failure is not None or answer.is_empty or "ungraded" in grades
        case "control":
            is_shown = answer.prompt_id in controls(known.result, known.readings)
        case _:
            is_shown = True
    return is_shown and has_words(f"{answer.prompt_id} {answer.prompt}", wanted.find)


def disagrees(reading: Reading, people: Mapping[str, float]) -> bool:
    """Whether judges gave different grades, or people's mean is half a point or more from the judges'."""
    grades = {verdict.grade for verdict in reading.verdicts if isinstance(verdict, Graded)}
    said, judged = said_by_people(reading.answer, people), points(reading.verdicts)
    apart = said is not None and judged is not None and abs(said - judged) >= Grade.REGULAR.value_points
    return len(grades) > 1 or apart


def controls(result: Result, readings: Sequence[Reading]) -> set[str]:
    """Ids of the prompts without a stake, as the result's groups tell them."""
    if len(result.groups) != len(readings):
        return set()
    return {r.answer.prompt_id for r, group in zip(readings, result.groups, strict=True) if group < 0}


def has_words(text: str, words: str) -> bool:
    """Whether a text has every one of these words, without case or accents."""
    wanted = _bare(words).split()
    return not wanted or all(one in found for found in [_bare(text)] for one in wanted)


def _bare(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
