"""The table of one instrument as HTML: tiers, scores with their intervals, and what to bear in mind about each row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import NamedTuple
from urllib.parse import quote, urlencode

from eco_eval.board import Row, Section
from eco_eval.types import GRADES, Estimate, Result, Withheld
from eco_eval.ui.filters import (
    NONE,
    ROWS,
    USUAL,
    Column,
    Selection,
    View,
    flags_of,
    kind_of,
    kwh,
    licence_of,
    score_of,
    write_view,
)
from eco_eval.ui.terminal import interval, judge_lines, model_name, places, plain, row_flags, withheld
from eco_eval.ui.texts import Texts

_NUMBERS = ("places", "eco", "equal", "order", "size", "energy", "answers")
_ON_PHONES = ("eco", "interval", "health")
"""What a narrow screen shows of the usual columns; whoever chooses columns sees all of them."""

_LINES = 12
"""Lines below the table that are shown at once; the others unfold."""


class Notes:
    """Footnotes of a table: one number for each text, however many cells refer to it."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, text: str) -> str:
        """A dash with the number of the note that says why."""
        number = self._numbers.setdefault(text, len(self._numbers) + 1)
        return f"–<sup>{number}</sup>"

    def html(self) -> str:
        items = "".join(f"<li>{escape(text)}</li>" for text in self._numbers)
        return f"<ol class='eco-notes'>{items}</ol>" if items else ""


class _Drawing(NamedTuple):
    """What every row of a table needs. others: whom to compare a model with, by its result's id."""

    view: View
    t: Texts
    notes: Notes
    others: Mapping[str, Row]


def table(selection: Selection, view: View, t: Texts) -> str:
    """One part of the models that a view shows, with the anchors below and the notes below them."""
    section = selection.section
    drawing = _Drawing(view, t, Notes(), _others(section))
    start = ROWS * (part_of(selection, view) - 1)
    rows = selection.rows[start : start + ROWS]
    above = selection.rows[start - 1].tier if start else None
    tiers = [above, *(row.tier for row in rows)]
    body = "".join(
        _row(row, drawing, starts_tier=tiers[number] not in (None, row.tier)) for number, row in enumerate(rows)
    )
    heads = ["places", "model", *view.columns]
    if not rows and section.models:
        body = f"<tr class='split'><td colspan='{len(heads)}'>{escape(t('page.board.none_fit'))}</td></tr>"
    if section.anchors:
        body += f"<tr class='split'><td colspan='{len(heads)}'>{escape(t('cli.board.anchors'))}</td></tr>"
        body += "".join(_row(row, drawing) for row in section.anchors)
    cells = "".join(f"<th scope='col' class='{_css(head, view)}'>{_head(head, view, t)}</th>" for head in heads)
    caption = t("page.board.caption", instrument=plain(section.instrument))
    name = escape(caption)
    return (
        f"<div class='eco-scroll' tabindex='0' role='region' aria-label='{name}'><table class='eco-board'>"
        f"<caption class='eco-unseen'>{name}</caption>"
        f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
        f"{drawing.notes.html()}{_flags(section, rows, t)}"
    )


def heading(selection: Selection, view: View, t: Texts) -> str:
    """The instrument, its judges, and what part of its models is shown."""
    section = selection.section
    css = "eco-warn" if section.has_stand_in else "eco-note"
    judges = "".join(f"<p class='{css}'>{escape(line)}</p>" for line in judge_lines(section.judges, t))
    said = [t("page.board.count", count=selection.total)]
    if view.is_filtered:
        said = [t("page.board.filtered", count=len(selection.rows), total=selection.total)]
    if parts_of(selection) > 1:
        part = part_of(selection, view)
        last = min(ROWS * part, len(selection.rows))
        said.append(t("page.board.part", first=ROWS * (part - 1) + 1, last=last, count=len(selection.rows)))
    if view.score == "corrected":
        said.append(t("page.board.corrected_note"))
    query = escape(urlencode({"tab": "board", **{name: value for name, value in write_view(view).items() if value}}))
    return (
        f"<h2>{escape(plain(section.instrument))}</h2>{judges}"
        f"<p class='eco-note' role='status'>{escape(' '.join(said))} "
        f"<a class='eco-link' href='?{query}'>{escape(t('page.board.link'))}</a></p>"
    )


def parts_of(selection: Selection) -> int:
    return max(1, -(-len(selection.rows) // ROWS))


def part_of(selection: Selection, view: View) -> int:
    """The part that is shown: the last one where there are fewer than asked for."""
    return min(view.part, parts_of(selection))


def range_svg(estimate: Estimate, t: Texts) -> str:
    """The interval drawn from 0 to 100, with the numbers as its text alternative; empty for what is no number."""
    ends = (estimate.low, estimate.value, estimate.high)
    if not all(map(math.isfinite, ends)):
        return ""
    x = [8 + 1.64 * min(100.0, max(0.0, value)) for value in ends]
    label = escape(f"{t.number(estimate.value)} ({interval(estimate, t)})")
    return (
        f"<svg class='range' viewBox='0 0 180 22' role='img' aria-label='{label}'>"
        "<line class='base' x1='8' x2='172' y1='11' y2='11'/>"
        "<line class='base' x1='90' x2='90' y1='6' y2='16'/>"
        f"<line class='ci' x1='{x[0]:.1f}' x2='{x[2]:.1f}' y1='11' y2='11'/>"
        f"<circle class='dot' cx='{x[1]:.1f}' cy='11' r='5'/></svg>"
    )


def size_text(parameters: int, t: Texts) -> str:
    """Parameters in short: M millions, B thousands of millions, as the names of models have it."""
    for unit, least in (("B", 999_500_000), ("M", 0)):
        if parameters >= least:
            count = parameters / {"B": 1e9, "M": 1e6}[unit]
            return f"{t.number(count, 1 if count < 99.95 else 0).removesuffix(',0').removesuffix('.0')} {unit}"
    return ""


def kwh_text(found: float, t: Texts) -> str:
    """Energy with three figures that count."""
    digits = 3 if found < 0.1 else 2 if found < 10 else 0
    return t.number(found, digits) if found >= 0.0005 or found == 0 else f"< {t.number(0.001, 3)}"


def day_text(moment: str, t: Texts) -> str:
    """The day of an ISO moment in the language's form; what is no moment as it is."""
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        return plain(moment)
    return found.strftime("%d/%m/%Y" if t.lang == "es" else "%Y-%m-%d")


def value_text(field: str, value: str, t: Texts) -> str:
    """What a value of a filter is called."""
    if field == "licence" and value != NONE:
        return plain(value)
    names = {NONE: "none", "1-4": "from1", "4-10": "from4", "10-40": "from10"}
    return t(f"page.board.value.{field}_{names.get(value, value)}")


def _row(row: Row, drawing: _Drawing, *, starts_tier: bool = False) -> str:
    view, t = drawing.view, drawing.t
    place = places(row.places)
    if row.tier is not None:
        place += f"<small>{escape(t('page.board.tier', tier=row.tier))}</small>"
    cells = [("places", place), ("model", _name(row, drawing))]
    cells += [(name, _cell(name, row, drawing)) for name in view.columns]
    body = "".join(f"<td class='{_css(name, view)}'>{cell}</td>" for name, cell in cells)
    css = "anchor" if row.result.is_anchor else "tier" if starts_tier else ""
    return f"<tr class='{css}'>{body}</tr>"


def _name(row: Row, drawing: _Drawing) -> str:
    """The model's name, which leads to its answers, what it is, what to bear in mind, and the way to compare it."""
    result, columns, t = row.result, drawing.view.columns, drawing.t
    link = f"<a href='?tab=model&amp;result={quote(result.id)}'>{escape(model_name(row, t))}</a>"
    if result.is_anchor:
        return link
    facts = []
    if "kind" not in columns and kind_of(result) != NONE:
        facts.append(value_text("kind", kind_of(result), t))
    if result.weights is not None and "size" not in columns:
        facts.append(size_text(result.weights.parameters, t))
    if "licence" not in columns and licence_of(result) != NONE:
        facts.append(plain(licence_of(result))[:40])
    said = [escape(fact) for fact in facts]
    other = drawing.others.get(result.id)
    if other is not None:
        title = escape(t("page.board.compare_with", model=model_name(other, t)))
        href = f"?tab=compare&amp;a={quote(result.id)}&amp;b={quote(other.result.id)}"
        said.append(f"<a href='{href}' title='{title}' aria-label='{title}'>{escape(t('page.board.compare'))}</a>")
    # That a judge stands in is said of the whole table, above it.
    flags = [flag for flag in flags_of(result) if flag != "stand_in"]
    chips = "".join(f"<span class='eco-flag'>{escape(t(f'page.board.value.flags_{flag}'))}</span>" for flag in flags)
    return f"{link}<small>{' · '.join(said)}</small>{chips}"


def _others(section: Section) -> dict[str, Row]:
    """By result, the model just above on the whole board, or below the first: what it is likely weighed against."""
    models = section.models
    if len(models) < 2:
        return {}
    return {row.result.id: models[number - 1 if number else 1] for number, row in enumerate(models)}


def _cell(name: Column, row: Row, drawing: _Drawing) -> str:
    result, t, notes = row.result, drawing.t, drawing.notes
    score = score_of(result, drawing.view)
    if name in ("eco", "interval"):
        if isinstance(score, Withheld):
            return notes.mark(t("page.board.no_corrected", reason=withheld(score, t))) if name == "eco" else ""
        return _number(score, t, strong=True) if name == "eco" else range_svg(score, t)
    if name == "equal":
        if result.is_anchor:
            return ""
        equal = row.equal_length
        if isinstance(equal, Withheld):
            return notes.mark(t("page.board.no_equal", reason=withheld(equal, t)))
        return _number(equal, t)
    if name == "shares":
        return _shares(row, t)
    if name == "health":
        return _health(result, t)
    if name == "energy":
        return _energy(result, t)
    if name == "order":
        found = [seat.agreement.order for seat in result.seats if seat.agreement is not None]
        return "".join(_number(order, t) for order in found) or "–"
    if result.is_anchor and name in ("size", "kind", "licence"):
        return ""
    weights = result.weights
    texts = {
        "size": size_text(weights.parameters, t) if weights is not None else "–",
        "kind": value_text("kind", kind_of(result), t),
        "licence": value_text("licence", licence_of(result), t),
        "answers": str(result.score.counts.graded),
        "finished": day_text(result.provenance.finished_at, t),
        "revision": plain(result.submission.model.revision)[:12],
    }
    return escape(texts[name])


def _number(estimate: Estimate, t: Texts, *, strong: bool = False) -> str:
    value = t.number(estimate.value)
    return f"{f'<b>{value}</b>' if strong else value}<small>{escape(interval(estimate, t))}</small>"


def _shares(row: Row, t: Texts) -> str:
    """Shares of the grades as a bar, and the numbers below it."""
    numbers = " / ".join(t.number(row.shares[grade], 0) for grade in GRADES)
    parts = "".join(
        f"<i class='eco-share-{grade.value}' style='width:{max(0.0, min(100.0, row.shares[grade])):.1f}%'></i>"
        for grade in GRADES
    )
    return f"<span class='eco-shares' aria-hidden='true'>{parts}</span><small>{numbers}</small>"


def _health(result: Result, t: Texts) -> str:
    """What went wrong with its answers and verdicts, and how far missing verdicts could move the score."""
    counts = result.score.counts
    found = [
        t(f"page.incident_{name}", count=count)
        for name, count in (("ungraded", counts.ungraded), ("truncated", counts.truncated), ("empty", counts.empty))
        if count
    ]
    if not found:
        return f"<span class='eco-fine'>✓ {escape(t('page.board.no_incident'))}</span>"
    said = "".join(f"<span class='eco-incident'>{escape(text)}</span>" for text in found)
    if counts.ungraded:
        low, high = (t.number(end) for end in result.score.bounds)
        said += f"<small>{escape(t('page.board.bounds', low=low, high=high))}</small>"
    return said


def _energy(result: Result, t: Texts) -> str:
    """Energy in kWh and whether it was measured or reckoned."""
    found, stages = kwh(result), result.provenance.energy.values()
    if found is None:
        return "–"
    said = [t("page.board.measured" if all(stage.measured for stage in stages) else "page.board.reckoned")]
    grams = [stage.grams for stage in stages]
    if None not in grams:
        said.append(t("page.board.grams", grams=t.number(sum(gram for gram in grams if gram is not None), 0)))
    return f"{kwh_text(found, t)}<small>{escape(', '.join(said))}</small>"


def _head(name: str, view: View, t: Texts) -> str:
    if name == "eco" and view.score == "corrected":
        return escape(t("page.board.column.corrected"))
    return escape(t(f"page.board.column.{name}"))


def _css(name: str, view: View) -> str:
    if name == "model":
        return "name"
    is_chosen = view.columns != USUAL
    wide = "" if is_chosen or name in ("places", *_ON_PHONES) else "wide"
    return f"{'num' if name in _NUMBERS else ''} {wide}".strip()


def _flags(section: Section, rows: Sequence[Row], t: Texts) -> str:
    """What to bear in mind about the rows of this part, each in a sentence."""
    lines = row_flags(section.model_copy(update={"models": tuple(rows)}), t)
    if not lines:
        return ""
    items = [f"<li>{escape(line)}</li>" for line in lines]
    shown = f"<ul>{''.join(items[:_LINES])}</ul>"
    if len(items) > _LINES:
        more = escape(t("page.board.more", count=len(items) - _LINES))
        shown += f"<details><summary>{more}</summary><ul>{''.join(items[_LINES:])}</ul></details>"
    return f"<div class='eco-warn eco-flags'>{shown}</div>"
