"""Whether a result was obtained again, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from eco_eval.reproduction import FirstDifference, Reproduction
from eco_eval.types import Grade
from eco_eval.ui.terminal import plain
from eco_eval.ui.texts import Texts

_COLOURS = {"reproduced": "green", "within_noise": "yellow", "different": "red"}


def print_reproduction(found: Reproduction, t: Texts) -> None:
    """The outcome, the parts it is made of, and what may have caused a difference."""
    console = Console(highlight=False)
    console.print(Text(t(f"reproduce.title_{found.mode}", model=plain(found.model), result=found.result), style="dim"))
    console.print(Text(_outcome(found, t), style=f"bold {_COLOURS[found.outcome]}"))
    for line in (*_parts(found, t), *_why(found, t)):
        console.print(Text(line))
    for caveat in found.caveats:
        console.print(Text(t(f"reproduce.caveat.{caveat}"), style="yellow"))
    if found.kept:
        console.print(Text(t("reproduce.kept", kept=found.kept, runs=len(found.repeats)), style="dim"))


def _outcome(found: Reproduction, t: Texts) -> str:
    """The outcome in a sentence that claims no more than what differs."""
    if found.number is None:
        return t(f"reproduce.{found.outcome}")
    return t("reproduce.other_score" if found.number.path == "eco.value" else "reproduce.other_number")


def _parts(found: Reproduction, t: Texts) -> Iterator[str]:
    if found.answers is not None:
        yield t("reproduce.answers", same=found.answers.same, n=found.answers.n)
    for seat in found.seats:
        line = t("reproduce.grades", judge=plain(seat.name), same=seat.grades.same, n=seat.grades.n)
        if seat.largest_shift is not None:
            moved = _short(seat.largest_shift, t)
            line += " " + (t("reproduce.shift", shift=moved) if seat.largest_shift else t("reproduce.no_shift"))
        yield line
    yield t(
        "reproduce.scores",
        original=t.number(found.original, 2),
        repeats=" · ".join(t.number(value, 2) for value in found.repeats),
        difference=t.number(found.difference, 2),
    )
    if found.tolerance is not None and found.p is not None and found.outcome != "reproduced" and found.number is None:
        yield t("reproduce.tolerance", tolerance=t.number(found.tolerance, 2), p=t.number(found.p, 3))


def _why(found: Reproduction, t: Texts) -> Iterator[str]:
    first = found.first
    if first is not None and first.what == "answer":
        yield t("reproduce.first_answer", prompt=plain(first.prompt_id), position=first.position)
    elif first is not None:
        yield t("reproduce.first_verdict", prompt=plain(first.prompt_id))
    if first is not None:
        yield "  " + t("reproduce.before", words=_words(first, first.original, t))
        yield "  " + t("reproduce.now", words=_words(first, first.repeat, t))
    if found.number is not None:
        before, now = (_exact(value, t) for value in (found.number.original, found.number.repeat))
        yield t("reproduce.first_number", path=found.number.path, before=before, now=now)
    if found.cause is not None:
        told = {"original": plain(found.cause.original), "repeat": plain(found.cause.repeat)}
        yield t(f"reproduce.cause.{found.cause.kind}", **told)


def _words(first: FirstDifference, words: str, t: Texts) -> str:
    if first.what == "answer":
        return f"…{plain(words)}…"
    known = [f"grade.{said}" if said in list(Grade) else f"cause.{said}" for said in words.split(", ")]
    return ", ".join(t(key) for key in known)


def _exact(value: float | int | str | None, t: Texts) -> str:
    """A number with all its figures: two that differ in the last one are not shown alike."""
    if value is None:
        return "—"
    if isinstance(value, str):
        return plain(value)
    return str(value).replace(".", ",") if t.lang == "es" else str(value)


def _short(value: float, t: Texts) -> str:
    """A number between 0 and 1 with two figures, however small."""
    text = f"{value:.2g}"
    return text.replace(".", ",") if t.lang == "es" else text
