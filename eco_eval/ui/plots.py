"""Plots of a board as inline SVG and HTML: every number they draw is also in a table below them.

Points are drawn with their 95 % interval. Who lacks the number of an axis is named, never left out in silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import NamedTuple, get_args

from eco_eval.board import Row
from eco_eval.types import Estimate, IssueCode, Result, Withheld
from eco_eval.ui.board_table import day_text, kwh_text, size_text
from eco_eval.ui.filters import Selection, View, kwh, score_of
from eco_eval.ui.terminal import interval, model_name, plain
from eco_eval.ui.texts import Texts

MOST_ROWS = 40
"""Models that have a line of their own in the forest and in the heat map."""

MOST_NAMES = 20
"""Names in a sentence."""

_LABELLED = 18
"""Up to how many points have their names beside them."""

_WIDTH, _HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 28, 48
_LINE = 24
_NARROW = 600
"""Width of the forest, which has names to the left and is read on phones too."""

_DENSE = 120
"""From how many points on marks are small and intervals thin."""


class Point(NamedTuple):
    """A model on a plot: its name, what it stands at, what that is called, its score, and the form of its mark."""

    name: str
    x: float
    at: str
    score: Estimate
    form: str


def draw(selection: Selection, view: View, t: Texts) -> str:
    """The plot a view asks for, of the models it shows."""
    draws: dict[str, Callable[[Selection, View, Texts], str]] = {
        "forest": forest,
        "size": against_size,
        "energy": against_energy,
        "codes": heat_map,
        "time": over_time,
    }
    if not selection.rows:
        return f"<div class='eco'><p class='eco-note'>{escape(t('page.board.none_fit'))}</p></div>"
    return f"<div class='eco'>{draws[view.plot](selection, view, t)}</div>"


def forest(selection: Selection, view: View, t: Texts) -> str:
    """Scores with intervals, a line a model, the anchors as upright lines and tiers apart."""
    scored, missing = _scored(selection.rows, view, t)
    shown = scored[:MOST_ROWS]
    if not shown:
        return _nothing(missing, t)
    left, right = 190, _NARROW - 50
    bottom = _TOP + _LINE * len(shown)
    height = bottom + _BOTTOM
    x = _scale(0, 100, left, right)
    parts = [_grid_x([(value, f"{value}") for value in range(0, 101, 20)], x, _TOP - 6, bottom)]
    anchors, _ = _scored(selection.section.anchors, view, t)
    for row, score in anchors:
        at, title = x(score.value), f"{model_name(row, t)}: {t.number(score.value)}"
        ends = f"x1='{at:.1f}' x2='{at:.1f}' y1='{_TOP - 16}' y2='{bottom}'"
        parts.append(f"<line class='anchor' {ends}><title>{escape(title)}</title></line>")
    tier = shown[0][0].tier
    for number, (row, score) in enumerate(shown):
        y = _TOP + _LINE * number + _LINE / 2
        if row.tier != tier:
            tier = row.tier
            parts.append(f"<line class='tier' x1='8' x2='{right}' y1='{y - _LINE / 2}' y2='{y - _LINE / 2}'/>")
        parts.append(
            f"<text class='name' x='{left - 12}' y='{y + 4}' text-anchor='end'>{escape(_short(model_name(row, t), 25))}"
            f"</text>{_interval_x(score, x, y)}"
            f"<text class='value' x='{right + 8}' y='{y + 4}'>{t.number(score.value)}</text>"
        )
    parts.append(_axis_title(_score_title(view, t), (left + right) / 2, height - 10))
    title = t("page.board.plot_title.forest", count=len(shown))
    notes = [t("page.board.first_rows", count=len(shown), total=len(scored))] if len(scored) > len(shown) else []
    if view.score == "corrected":
        notes.append(t("page.board.corrected_note"))
    if anchors:
        named = ", ".join(f"{model_name(row, t)} {t.number(score.value)}" for row, score in anchors)
        notes.append(t("page.board.anchor_lines", anchors=named))
    notes += _missing(missing, "no_corrected_names", t)
    heads = [t("page.board.tier_head"), t("page.board.column.model"), *_score_heads(view, t)]
    rows = [[str(row.tier or ""), model_name(row, t), *_score_cells(score, t)] for row, score in shown]
    return _figure(title, _svg(_NARROW, height, title, parts, "narrow"), notes, _table(heads, rows, t))


def against_size(selection: Selection, view: View, t: Texts) -> str:
    """Score against the number of parameters, on a logarithmic axis."""

    def place(result: Result) -> tuple[float, str] | None:
        if result.weights is None or result.weights.parameters <= 0:
            return None
        return result.weights.parameters, size_text(result.weights.parameters, t)

    return _scatter(selection, view, t, "size", place)


def against_energy(selection: Selection, view: View, t: Texts) -> str:
    """Score against the energy of the whole evaluation, on a logarithmic axis."""

    def place(result: Result) -> tuple[float, str] | None:
        found = kwh(result)
        return (found, f"{kwh_text(found, t)} kWh") if found is not None and 0 < found < math.inf else None

    return _scatter(selection, view, t, "energy", place)


def over_time(selection: Selection, view: View, t: Texts) -> str:
    """Score against the moment each evaluation ended."""

    def place(result: Result) -> tuple[float, str] | None:
        moment = _moment(result)
        return (moment, day_text(result.provenance.finished_at, t)) if moment is not None else None

    return _scatter(selection, view, t, "time", place)


def heat_map(selection: Selection, view: View, t: Texts) -> str:
    """Scores by issue code, a row a model: a table whose cells are coloured, with the interval in each."""
    rows = selection.rows[:MOST_ROWS]
    codes = [code for code in get_args(IssueCode) if any(code in row.result.score.by_code for row in rows)]
    if not codes:
        return f"<p class='eco-note'>{escape(t('page.board.no_codes'))}</p>"
    heads = "".join(f"<th scope='col'>{escape(head)}</th>" for head in ("", *(t(f"code.{code}") for code in codes)))
    body = ""
    for row in rows:
        cells = "".join(_heat(row.result.score.by_code.get(code), t) for code in codes)
        body += f"<tr><th scope='row'>{escape(model_name(row, t))}</th>{cells}</tr>"
    title = t("page.board.plot_title.codes", count=len(rows))
    notes = [t("page.board.heat_note")]
    if view.score == "corrected":
        notes.append(t("page.board.heat_raw"))
    if len(selection.rows) > len(rows):
        notes.append(t("page.board.first_rows", count=len(rows), total=len(selection.rows)))
    table = (
        f"<div class='eco-scroll' tabindex='0' role='region' aria-label='{escape(title)}'><table class='eco-heat'>"
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    return _figure(title, table, notes, "")


def _scatter(
    selection: Selection, view: View, t: Texts, name: str, place: Callable[[Result], tuple[float, str] | None]
) -> str:
    scored, unscored = _scored(selection.rows, view, t)
    points, unplaced = [], []
    for row, score in scored:
        found = place(row.result)
        if found is None:
            unplaced.append(model_name(row, t))
        else:
            points.append(Point(model_name(row, t), *found, score, _form(row.result, name)))
    notes = [t(f"page.board.plot_note.{name}")]
    notes += [*_missing(unplaced, f"without_{name}", t), *_missing(unscored, "no_corrected_names", t)]
    if not points:
        return "".join(f"<p class='eco-note'>{escape(note)}</p>" for note in notes[1:])
    x, ticks = _x_axis(points, name, t)
    y = _scale(0, 100, _HEIGHT - _BOTTOM, _TOP)
    score_title = f"<text class='axis' x='8' y='14'>{escape(_score_title(view, t))}</text>"
    parts = [_grid_x(ticks, x, _TOP, _HEIGHT - _BOTTOM), _grid_y(y), score_title]
    is_dense = len(points) >= _DENSE
    parts += [_interval_y(point, x(point.x), y, t, 0.6 if is_dense else 1.0) for point in points]
    if len(points) <= _LABELLED:
        parts += _labels(points, x, y)
    parts.append(_axis_title(t(f"page.board.axis_{name}"), (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8))
    top, last = max(points, key=lambda p: p.score.value), min(points, key=lambda p: p.score.value)
    by_x = sorted(points, key=lambda p: p.x)
    title = t(
        f"page.board.plot_title.{name}",
        count=len(points),
        first=by_x[0].at,
        last=by_x[-1].at,
        best=f"{top.name} ({t.number(top.score.value)})",
        worst=f"{last.name} ({t.number(last.score.value)})",
    )
    heads = [t("page.board.column.model"), t(f"page.board.axis_{name}"), *_score_heads(view, t)]
    rows = [[p.name, p.at, *_score_cells(p.score, t)] for p in by_x]
    legend = _legend(points, name, t)
    return _figure(
        title, _svg(_WIDTH, _HEIGHT, title, parts, "dense" if is_dense else "") + legend, notes, _table(heads, rows, t)
    )


def _scored(rows: Sequence[Row], view: View, t: Texts) -> tuple[list[tuple[Row, Estimate]], list[str]]:
    """Rows with the score that is shown, and the names of those without."""
    scored, missing = [], []
    for row in rows:
        score = score_of(row.result, view)
        if isinstance(score, Withheld) or not all(map(math.isfinite, (score.value, score.low, score.high))):
            missing.append(model_name(row, t))
        else:
            scored.append((row, score))
    return scored, missing


def _form(result: Result, name: str) -> str:
    """What a mark looks like: by kind of model, on the energy plot by whether it was measured."""
    if name == "energy":
        return "measured" if all(stage.measured for stage in result.provenance.energy.values()) else "reckoned"
    return result.weights.kind if result.weights is not None else "none"


def _moment(result: Result) -> float | None:
    try:
        found = datetime.fromisoformat(result.provenance.finished_at)
    except ValueError:
        return None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


Scale = Callable[[float], float]


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _x_axis(points: Sequence[Point], name: str, t: Texts) -> tuple[Scale, list[tuple[float, str]]]:
    """Where a number is on the horizontal axis, and its marks with their words."""
    low, high = min(p.x for p in points), max(p.x for p in points)
    start, end = _LEFT + 14, _WIDTH - _RIGHT - 14
    if name == "time":
        low, high = (low, high) if high - low > 86_400 else (low - 43_200, high + 43_200)
        days = [low + step * (high - low) / 4 for step in range(5)]
        marks = [(day, day_text(datetime.fromtimestamp(day, UTC).isoformat(), t)) for day in days]
        return _scale(low, high, start, end), marks
    low, high = low / 1.15, high * 1.15
    linear = _scale(math.log(low), math.log(high), start, end)
    words: Callable[[float], str] = (
        (lambda v: size_text(round(v), t)) if name == "size" else (lambda v: _plain_kwh(v, t))
    )
    return (lambda value: linear(math.log(value))), [(value, words(value)) for value in _log_ticks(low, high)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten inside a range; of a wide one powers of ten alone, of a narrow one its ends."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) <= 8:
            break
    return found if len(found) > 1 else [low, high]


def _plain_kwh(value: float, t: Texts) -> str:
    """A mark of the energy axis, without noughts at its end."""
    digits = max(0, 1 - math.floor(math.log10(value)))
    text = t.number(value, digits)
    return text.rstrip("0").rstrip(",.") if digits else text


def _grid_x(ticks: Sequence[tuple[float, str]], x: Scale, top: float, bottom: float) -> str:
    return "".join(
        f"<line class='grid' x1='{x(value):.1f}' x2='{x(value):.1f}' y1='{top}' y2='{bottom}'/>"
        f"<text class='tick' x='{x(value):.1f}' y='{bottom + 17}' text-anchor='middle'>{escape(text)}</text>"
        for value, text in ticks
    )


def _grid_y(y: Scale) -> str:
    return "".join(
        f"<line class='grid' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y(value):.1f}' y2='{y(value):.1f}'/>"
        f"<text class='tick' x='{_LEFT - 8}' y='{y(value) + 4:.1f}' text-anchor='end'>{value}</text>"
        for value in range(0, 101, 20)
    )


def _interval_x(score: Estimate, x: Scale, y: float) -> str:
    return (
        f"<line class='ci' x1='{x(score.low):.1f}' x2='{x(score.high):.1f}' y1='{y}' y2='{y}'/>"
        f"<circle class='mark' cx='{x(score.value):.1f}' cy='{y}' r='4.5'/>"
    )


def _interval_y(point: Point, x: float, y: Scale, t: Texts, size: float) -> str:
    score = point.score
    said = f"{point.name}: {point.at}; {t.number(score.value)} ({interval(score, t)})"
    return (
        f"<g><title>{escape(said)}</title>"
        f"<line class='ci' x1='{x:.1f}' x2='{x:.1f}' y1='{y(score.low):.1f}' y2='{y(score.high):.1f}'/>"
        f"{_mark(point.form, x, y(score.value), size)}</g>"
    )


def _mark(form: str, x: float, y: float, size: float = 1.0) -> str:
    """A mark by its form; of size 1 it is about nine pixels wide."""
    if form == "base":
        half = 4 * size
        at = f"x='{x - half:.1f}' y='{y - half:.1f}' width='{2 * half:.1f}' height='{2 * half:.1f}'"
        return f"<rect class='mark' {at}/>"
    if form == "adapter":
        half = 6 * size
        corners = f"{x:.1f},{y - half:.1f} {x + half:.1f},{y:.1f} {x:.1f},{y + half:.1f} {x - half:.1f},{y:.1f}"
        return f"<polygon class='mark' points='{corners}'/>"
    css = "mark hollow" if form in ("reckoned", "none") else "mark"
    return f"<circle class='{css}' cx='{x:.1f}' cy='{y:.1f}' r='{4.5 * size:.1f}'/>"


def _labels(points: Sequence[Point], x: Scale, y: Scale) -> list[str]:
    """Names beside points where there is room for them; the others are in the table."""
    taken = [(x(p.x) - 7, y(p.score.value) - 7, x(p.x) + 7, y(p.score.value) + 7) for p in points]
    taken += [(x(p.x) - 2, y(p.score.high), x(p.x) + 2, y(p.score.low)) for p in points]
    parts = []
    for point in sorted(points, key=lambda p: -p.score.value):
        at, height, text = x(point.x), y(point.score.value), _short(point.name, 26)
        wide = 6.2 * len(text)
        for left, anchor in ((at + 9, "start"), (at - 9 - wide, "end")):
            box = (left, height - 8, left + wide, height + 6)
            if box[0] >= _LEFT and box[2] <= _WIDTH - 4 and not any(_touch(box, other) for other in taken):
                taken.append(box)
                edge, base = (left if anchor == "start" else left + wide), height + 4
                words = escape(text)
                parts.append(f"<text class='name' x='{edge:.1f}' y='{base:.1f}' text-anchor='{anchor}'>{words}</text>")
                break
    return parts


Box = tuple[float, float, float, float]


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _legend(points: Sequence[Point], name: str, t: Texts) -> str:
    forms = ("measured", "reckoned") if name == "energy" else ("chat", "base", "adapter", "none")
    there = [form for form in forms if any(point.form == form for point in points)]
    items = "".join(
        f"<span><svg viewBox='0 0 14 14' aria-hidden='true'>{_mark(form, 7, 7)}</svg>"
        f"{escape(t(f'page.board.form.{form}'))}</span>"
        for form in there
    )
    return f"<p class='eco-legend'>{items}</p>"


def _heat(score: Estimate | None, t: Texts) -> str:
    if score is None or not math.isfinite(score.value):
        return "<td class='num'>–</td>"
    step = min(9, max(0, int(score.value // 10)))
    return f"<td class='num eco-heat-{step}'>{t.number(score.value, 0)}<small>{_whole(score, t)}</small></td>"


def _whole(score: Estimate, t: Texts) -> str:
    return f"{t.number(score.low, 0)}–{t.number(score.high, 0)}"


def _axis_title(text: str, x: float, y: float) -> str:
    return f"<text class='axis' x='{x:.0f}' y='{y:.0f}' text-anchor='middle'>{escape(text)}</text>"


def _svg(width: float, height: float, title: str, parts: Sequence[str], css: str) -> str:
    return (
        "<div class='eco-scroll' tabindex='0' role='group'>"
        f"<svg class='eco-plot {css}' viewBox='0 0 {width} {height:.0f}' role='img' aria-label='{escape(title)}'>"
        f"{''.join(parts)}</svg></div>"
    )


def _figure(title: str, drawing: str, notes: Sequence[str], table: str) -> str:
    said = "".join(f"<p class='eco-note'>{escape(note)}</p>" for note in notes)
    return f"<figure class='eco-figure'><figcaption>{escape(title)}</figcaption>{drawing}{said}{table}</figure>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], t: Texts) -> str:
    """The numbers of a plot, folded."""
    head = "".join(f"<th scope='col'>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<details><summary>{escape(t('page.board.numbers'))}</summary><div class='eco-scroll' tabindex='0'><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _score_title(view: View, t: Texts) -> str:
    return t("page.board.axis_corrected" if view.score == "corrected" else "page.board.axis_score")


def _score_heads(view: View, t: Texts) -> list[str]:
    return [_score_title(view, t), t("page.column_interval")]


def _score_cells(score: Estimate, t: Texts) -> list[str]:
    return [t.number(score.value), interval(score, t)]


def _missing(names: Sequence[str], key: str, t: Texts) -> list[str]:
    """A sentence that names who is not on the plot, if anybody."""
    if not names:
        return []
    said = ", ".join(plain(name) for name in names[:MOST_NAMES])
    if len(names) > MOST_NAMES:
        said += " " + t("page.board.and_more", count=len(names) - MOST_NAMES)
    return [t(f"page.board.{key}", count=len(names), names=said)]


def _nothing(missing: Sequence[str], t: Texts) -> str:
    return "".join(f"<p class='eco-note'>{escape(note)}</p>" for note in _missing(missing, "no_corrected_names", t))


def _short(name: str, most: int) -> str:
    """A name that fits; its end tells models of a family apart, so its middle goes."""
    if len(name) <= most:
        return name
    half = (most - 1) // 2
    return f"{name[: most - 1 - half]}…{name[-half:]}"
