"""The board: scores with their intervals, anchors apart, and what the judge is worth."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from eco_eval.board import Board, Row, Section, build
from eco_eval.errors import EcoEvalError
from eco_eval.store import Store
from eco_eval.store.index import load_results_indexed
from eco_eval.types import GRADES, Estimate, Withheld
from eco_eval.ui.terminal import interval, judge_lines, model_name, places, plain, row_flags, withheld
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    import gradio as gr

__all__ = ["build_page", "escape", "heading", "problem", "render"]


def build_page(site: gr.Blocks, store: Store, t: Texts) -> None:
    """Lay the board out, read anew each time the page is opened, and offer it as the API endpoint `board`."""
    import gradio as gr

    shown = gr.HTML()
    site.load(lambda: page(store, t), None, shown, api_visibility="private")

    def read_board() -> dict[str, Any]:
        """The whole board: sections an instrument, models and anchors with score and interval."""
        try:
            return _read(store)[0].model_dump(mode="json")
        except EcoEvalError as error:
            return problem(error, t)

    gr.api(read_board, api_name="board")


def heading(t: Texts) -> str:
    return f"<div class='eco'><h1>{escape(t('page.title'))}</h1><p>{escape(t('page.intro'))}</p></div>"


def page(store: Store, t: Texts) -> str:
    """The board as HTML, or the reason there is none."""
    try:
        return render(*_read(store), t)
    except EcoEvalError as error:
        return f"<div class='eco'><p class='eco-warn'>{escape(t.error(error))}</p></div>"


def problem(error: EcoEvalError, t: Texts) -> dict[str, Any]:
    """An error for programs: what an endpoint raised would be an HTTP 500."""
    return {"error": error.key, "message": t.error(error)}


def render(board: Board, broken: list[str], t: Texts) -> str:
    """The board as HTML; everything that comes from outside is escaped."""
    if not board.sections:
        return f"<div class='eco'><p>{escape(t('page.empty'))}</p></div>"
    parts = [_section(section, t) for section in board.sections]
    parts.append(f"<p class='eco-note'>{escape(t('page.places_note'))}</p>")
    if broken:
        parts.append(f"<p class='eco-warn'>{escape(t('page.broken', paths=', '.join(broken)))}</p>")
    return f"<div class='eco'>{''.join(parts)}</div>"


def range_svg(estimate: Estimate, t: Texts) -> str:
    """The interval drawn from 0 to 100, with the numbers as its text alternative."""
    x = [8 + 1.64 * value for value in (estimate.low, estimate.value, estimate.high)]
    label = escape(f"{t.number(estimate.value)} ({interval(estimate, t)})")
    return (
        f"<svg class='range' viewBox='0 0 180 22' role='img' aria-label='{label}'>"
        "<line class='base' x1='8' x2='172' y1='11' y2='11'/>"
        "<line class='base' x1='90' x2='90' y1='6' y2='16'/>"
        f"<line class='ci' x1='{x[0]:.1f}' x2='{x[2]:.1f}' y1='11' y2='11'/>"
        f"<circle class='dot' cx='{x[1]:.1f}' cy='11' r='5'/></svg>"
    )


def _read(store: Store) -> tuple[Board, list[str]]:
    results, broken = load_results_indexed(store)
    return build(results), broken


def _section(section: Section, t: Texts) -> str:
    heads = ("places", "model", "eco", "interval", "equal", "shares", "n", "notes")
    cells = "".join(f"<th scope='col' class='{_CSS[head]}'>{escape(t(f'page.column_{head}'))}</th>" for head in heads)
    tiers = [None, *(row.tier for row in section.models)]
    starts = [number > 0 and row.tier != tiers[number] for number, row in enumerate(section.models)]
    rows = "".join(_row(row, t, starts_tier=new) for row, new in zip(section.models, starts, strict=True))
    if section.anchors:
        rows += f"<tr class='split'><td colspan='{len(heads)}'>{escape(t('cli.board.anchors'))}</td></tr>"
        rows += "".join(_row(row, t) for row in section.anchors)
    flags = "".join(f"<p class='eco-warn'>{escape(line)}</p>" for line in row_flags(section, t))
    css = "eco-warn" if section.has_stand_in else "eco-note"
    judges = "".join(f"<p class='{css}'>{escape(line)}</p>" for line in judge_lines(section.judges, t))
    return (
        f"<h2>{escape(plain(section.instrument))}</h2>{judges}"
        f"<div class='eco-scroll' tabindex='0'><table><thead><tr>{cells}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{flags}"
    )


# `wide` columns are left out on a phone.
_CSS = {
    "places": "num",
    "model": "name",
    "eco": "num",
    "interval": "",
    "equal": "num wide",
    "shares": "num wide",
    "n": "num wide",
    "notes": "wide",
}


def _row(row: Row, t: Texts, *, starts_tier: bool = False) -> str:
    counts = row.result.score.counts
    incidents = [
        t(f"page.incident_{name}", count=count)
        for name, count in (("ungraded", counts.ungraded), ("truncated", counts.truncated), ("empty", counts.empty))
        if count
    ]
    cells = {
        "places": places(row.places),
        "model": escape(model_name(row, t)),
        "eco": f"<b>{t.number(row.eco.value)}</b><small>{escape(interval(row.eco, t))}</small>",
        "interval": range_svg(row.eco, t),
        "equal": _equal(row, t),
        "shares": " / ".join(t.number(row.shares[grade], 0) for grade in GRADES),
        "n": str(counts.graded),
        "notes": escape(", ".join(incidents)) or "–",
    }
    body = "".join(f"<td class='{_CSS[name]}'>{cell}</td>" for name, cell in cells.items())
    css = "anchor" if row.result.is_anchor else "tier" if starts_tier else ""
    return f"<tr class='{css}'>{body}</tr>"


def _equal(row: Row, t: Texts) -> str:
    """The score at equal length, or a dash that says why there is none."""
    found = row.equal_length
    if isinstance(found, Withheld):
        reason = escape(withheld(found, t))
        return f"<abbr title='{reason}'>–</abbr>" if not row.result.is_anchor else ""
    return f"{t.number(found.value)}<small>{escape(interval(found, t))}</small>"
