"""Results on a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from eco_eval.board import Board, Places, Row, Section
from eco_eval.results import Reading, display_name
from eco_eval.types import GRADES, Agreement, Estimate, Graded, IssueCode, Judgement, Result, Seat, Withheld
from eco_eval.ui.texts import Texts

_COLOURS = {"good": "green", "regular": "yellow", "bad": "red"}
_WIDTH = 21
_WIDE = 110
"""Columns a terminal needs for the drawn interval to fit beside the rest."""


def print_board(board: Board, t: Texts, where: Path) -> None:
    """A table an instrument, anchors apart, and what the judge is worth below."""
    console = Console()
    if not board.sections:
        console.print(t("cli.board.empty", where=where), markup=False)
    for section in board.sections:
        console.print(_table(section, t, drawn=console.width >= _WIDE))
        for line in judge_lines(section.judges, t):
            console.print(Text(line, style="dim"))
        if any(row.places for row in section.models):
            console.print(Text(t("cli.board.places_note"), style="dim"))
        for line in row_flags(section, t):
            console.print(Text(line, style="yellow"))


def print_score(result: Result, t: Texts) -> None:
    """One result in a few lines."""
    console = Console(highlight=False)
    eco, counts = result.score.eco, result.score.counts
    line = t(
        "score.line",
        name=plain(display_name(result)),
        value=t.number(eco.value),
        low=t.number(eco.low),
        high=t.number(eco.high),
        n=eco.n,
        groups=eco.groups,
    )
    console.print(Text(line, style="bold"))
    for adjusted in adjusted_lines(result, t):
        console.print(Text(adjusted))
    if result.score.controls is not None:
        console.print(Text(controls_line(result.score.controls, t)))
    console.print(Text(t("score.counts", **counts.model_dump(exclude={"graded"}))))
    for line in judge_lines(result.seats, t):
        console.print(Text(line, style="dim"))
    for line in (*panel_lines(result, t), *contamination_lines(result, t)):
        console.print(Text(line))
    for line in flag_lines(result, t):
        console.print(Text(line, style="yellow"))
    if not result.publishable:
        reason = t(f"score.reason_{'stand_in' if result.has_stand_in else 'unlocked'}")
        console.print(Text(t("score.not_publishable", reason=reason), style="yellow"))
    console.print(Text(t("score.id", id=result.id), style="dim"))


def print_result(result: Result, readings: Sequence[Reading], t: Texts) -> None:
    """Every answer with its verdicts, then the score."""
    console = Console(highlight=False)
    for answer, verdicts in readings:
        body = Text()
        if answer.prompt:
            body.append(f"{t('cli.show.prompt')}: ", "dim").append(plain(answer.prompt) + "\n\n")
        body.append(plain(answer.text))
        if answer.truncated:
            body.append(f" {t('cli.show.truncated')}", "yellow")
        if answer.reasoning:
            words = len(answer.reasoning.split())
            body.append("\n" + t("cli.show.reasoning", words=words), "dim")
        title = Text(plain(answer.prompt_id))
        for judgement in verdicts:
            title.append(" · ").append_text(_verdict(judgement, t))
            if isinstance(judgement, Graded) and judgement.analysis:
                body.append(f"\n\n{t('cli.show.analysis')}: {plain(judgement.analysis)}", "dim")
        console.print(Panel(body, title=title, title_align="left"))
    if not readings:
        console.print(t("cli.show.none"), markup=False)
    if result.attribution:
        console.print(Text(t("score.attribution", who=plain(result.attribution)), style="dim"))
    print_score(result, t)


def judge_lines(seats: Sequence[Seat], t: Texts) -> list[str]:
    """Who judged, and the measured agreement of each: these stand beside every score."""
    return [_judge_line(seat, t) for seat in seats]


def _judge_line(seat: Seat, t: Texts) -> str:
    who = t("judge.stand_in" if seat.stand_in else "judge.real", judge=plain(seat.name))
    agreement = seat.agreement
    if agreement is None:
        return f"{who} {t('judge.unknown')}"
    measured = t(
        "judge.agreement",
        triples=agreement.triples,
        order=t.number(agreement.order.value, 0),
        low=t.number(agreement.order.low, 0),
        high=t.number(agreement.order.high, 0),
        exact=t.number(agreement.exact.value, 0),
        kappa=_kappa(agreement, t),
    )
    return f"{who} {measured}"


def _kappa(agreement: Agreement, t: Texts) -> str:
    kappa = agreement.kappa
    if kappa is None:
        return "—"
    return f"{t.number(kappa.value, 2)} ({t.number(kappa.low, 2)} … {t.number(kappa.high, 2)})"


def withheld(found: Withheld, t: Texts) -> str:
    """Why a number is not given, with its figures in the language's form."""
    code, _, rest = found.detail.partition(": ")
    detail = f"{t(f'code.{code}')}: {rest}" if code in get_args(IssueCode) else found.detail
    return t(f"withheld.{found.reason}", detail=t.figures(detail))


def panel_lines(result: Result, t: Texts) -> list[str]:
    """What each judge of a panel says alone, and how far they agree; nothing for one judge."""
    if len(result.seats) < 2:
        return []
    lines = [
        t("judge.alone", judge=plain(seat.name), value=t.number(seat.eco.value), interval=interval(seat.eco, t))
        for seat in result.seats
    ]
    if result.consensus is not None:
        value, low, high = (t.number(getattr(result.consensus, end), 2) for end in ("value", "low", "high"))
        lines.append(t("judge.consensus", value=value, low=low, high=high))
    return lines


def adjusted_lines(result: Result, t: Texts) -> list[str]:
    """The score without the judge's errors and without its taste for length, or why there is none."""
    return [
        _adjusted_line(name, found, t)
        for name, found in (("corrected", result.score.corrected), ("length", result.score.length_controlled))
    ]


def _adjusted_line(name: str, found: Estimate | Withheld, t: Texts) -> str:
    if isinstance(found, Withheld):
        return t(f"score.no_{name}", reason=withheld(found, t))
    method = t(f"method.{found.method}")
    return t(f"score.{name}", value=t.number(found.value), interval=interval(found, t), method=method)


def flag_lines(result: Result, t: Texts) -> list[str]:
    """What a reader should bear in mind about this very result."""
    flags = [
        t("judge.same_family", judge=plain(seat.name), evidence=plain(seat.same_family))
        for seat in result.seats
        if seat.same_family
    ]
    signs = result.contamination
    if signs.declared:
        flags.append(t("contamination.declared", datasets=plain(", ".join(signs.declared))))
    if signs.overlap is not None and signs.overlap.copied:
        flags.append(t("contamination.copied", copied=signs.overlap.copied, n=signs.overlap.n))
    if signs.hidden_gap is not None and signs.hidden_gap.low > 0:
        flags.append(t("contamination.better_on_public"))
    return flags


def row_flags(section: Section, t: Texts) -> list[str]:
    """What to bear in mind about rows of the board, each by name; and the places of a judge's kin without it."""
    lines = []
    for row in section.models:
        name = model_name(row, t)
        lines += [f"{name}: {line}" for line in flag_lines(row.result, t)]
        for judge, found in row.without.items():
            lines.append(t("judge.without", model=name, judge=plain(judge), places=places(found)))
    return lines


def contamination_lines(result: Result, t: Texts) -> list[str]:
    """What was measured of a model's having seen the prompts: word for word overlap, and the gap to a hidden split."""
    lines, signs = [], result.contamination
    if signs.overlap is not None:
        mean, highest = signs.overlap.mean, t.number(signs.overlap.highest)
        lines.append(
            t("contamination.overlap", value=t.number(mean.value), interval=interval(mean, t), highest=highest)
        )
    if signs.hidden_gap is not None:
        value, low, high = (t.number(getattr(signs.hidden_gap, end)) for end in ("value", "low", "high"))
        lines.append(t("contamination.gap", value=value, low=low, high=high))
    return lines


def places(found: Places | None) -> str:
    """From the best to the worst place."""
    if found is None:
        return ""
    return str(found.best) if found.best == found.worst else f"{found.best}–{found.worst}"


def controls_line(controls: Estimate, t: Texts) -> str:
    """The mean over control prompts, which is no part of the score."""
    low, high = t.number(controls.low), t.number(controls.high)
    return t("score.controls", value=t.number(controls.value), low=low, high=high, n=controls.n)


def model_name(row: Row, t: Texts) -> str:
    """A row's name; anchors by what they are."""
    return t(f"anchor.{row.name}") if row.result.is_anchor else plain(row.name)


def interval(estimate: Estimate, t: Texts) -> str:
    return f"{t.number(estimate.low)}–{t.number(estimate.high)}"


def plain(text: str) -> str:
    """Untrusted text without control characters, which could drive a terminal."""
    return re.sub(r"[^\S\n\t ]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", " ", text)


def _table(section: Section, t: Texts, drawn: bool) -> Table:
    title = Text(t("cli.board.title", instrument=plain(section.instrument)))
    table = Table(title=title, title_justify="left")
    table.add_column(t("cli.board.places"), justify="right", no_wrap=True)
    table.add_column(t("cli.board.model"), overflow="fold", min_width=14)
    table.add_column(t("cli.board.eco"), justify="right", style="bold", no_wrap=True)
    table.add_column(t("cli.board.interval"), justify="right", no_wrap=True)
    if drawn:
        table.add_column(t("cli.board.range"), no_wrap=True, min_width=_WIDTH)
    table.add_column(t("cli.board.shares"), justify="right", min_width=8)
    table.add_column(t("cli.board.missing"), justify="right", min_width=6)
    table.add_column(t("cli.board.result"), style="dim", no_wrap=True)
    for number, row in enumerate(section.models):
        if number and row.tier != section.models[number - 1].tier:
            table.add_section()
        table.add_row(*_cells(row, t, drawn))
    if section.anchors:
        table.caption = f"* {t('cli.board.anchors')}"
        table.caption_justify = "left"
        table.add_section()
        for row in section.anchors:
            table.add_row(*_cells(row, t, drawn), style="dim italic")
    return table


def _cells(row: Row, t: Texts, drawn: bool) -> list[Text]:
    counts = row.result.score.counts
    mark = "* " if row.result.is_anchor else ""
    cells = [places(row.places), mark + model_name(row, t), t.number(row.eco.value), interval(row.eco, t)]
    if drawn:
        cells.append(_drawn(row.eco))
    cells.append("/".join(t.number(row.shares[grade], 0) for grade in GRADES))
    cells.append(f"{counts.ungraded}/{counts.truncated}/{counts.empty}")
    cells.append(row.result.id[:8])
    return [Text(cell) for cell in cells]


def _drawn(estimate: Estimate) -> str:
    """The interval on a line from 0 to 100, the score as a dot."""
    at = [round(value / 100 * (_WIDTH - 1)) for value in (estimate.low, estimate.value, estimate.high)]
    line = ["·"] * _WIDTH
    line[at[0] : at[2] + 1] = ["─"] * (at[2] - at[0] + 1)
    line[at[1]] = "●"
    return "".join(line)


def _verdict(judgement: Judgement, t: Texts) -> Text:
    if not isinstance(judgement, Graded):
        return Text(f"{t('grade.ungraded')}: {t(f'cause.{judgement.cause}')}", "magenta")
    text = Text(t(f"grade.{judgement.grade.value}"), _COLOURS[judgement.grade.value])
    if judgement.probabilities is not None:
        text.append("  " + " / ".join(t.number(p, 2) for p in judgement.probabilities), "dim")
    return text
