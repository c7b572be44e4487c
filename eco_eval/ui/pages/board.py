"""The board: tiers with scores and their intervals, filters that never rank anew, plots, files to take away.

Annotations are evaluated here, not postponed: Gradio reads them inside the function that makes the page, to give a
handler the request. Handlers take values of any type: what Gradio itself refuses would be an HTTP 500.
"""

import base64
import json
import threading
import time
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from eco_eval.board import Board, build
from eco_eval.errors import EcoEvalError, InputError
from eco_eval.store import Store
from eco_eval.store.index import load_results_indexed
from eco_eval.ui.board_files import csv_bytes, parquet_bytes, records
from eco_eval.ui.board_table import heading as section_heading
from eco_eval.ui.board_table import part_of, parts_of, range_svg, table, value_text
from eco_eval.ui.filters import (
    COLUMNS,
    FIELDS,
    LONGEST,
    PLOTS,
    ROWS,
    SORTINGS,
    USUAL,
    View,
    choose,
    facets,
    read_view,
    section_names,
    select,
    write_view,
)
from eco_eval.ui.plots import draw
from eco_eval.ui.terminal import plain
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    import gradio as gr

__all__ = ["Shelf", "build_page", "escape", "heading", "problem", "range_svg", "render", "shelf_of"]

FRESH = 2.0
"""Seconds for which what was read of the store is taken to hold."""

STORES = 8
"""Stores whose boards are kept."""

AT_ONCE = 8
"""Handlers of one kind at once; the others wait."""

FACETS = ("size", "kind", "licence", "flags")

BROKEN = 20
"""Unreadable results that are named."""

FILES = {"csv": "text/csv;charset=utf-8", "parquet": "application/vnd.apache.parquet"}

_REMEMBER = "(said) => { window.ecoEval?.remember(JSON.parse(said)); }"

_SAVE = """(file) => {
  if (!file) return "";
  const { name, type, data } = JSON.parse(file);
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  return "";
}"""


class Read(NamedTuple):
    """A board, and the paths of results that cannot be read."""

    board: Board
    broken: list[str]


class Shelf:
    """The board of a store, read once for everybody who looks at about the same time."""

    def __init__(self, store: Store, seconds: float = FRESH) -> None:
        self._store = store
        self._seconds = seconds
        self._reading = threading.Lock()
        self._kept: tuple[float, Read] | None = None

    def read(self) -> Read:
        """The board as it is, or was a moment ago. While somebody reads it anew, others get what there was before.

        Raises:
            StoreError: the store cannot be read.
        """
        kept = self._kept
        if kept is not None and (time.monotonic() - kept[0] < self._seconds or self._reading.locked()):
            return kept[1]
        with self._reading:
            if self._kept is not None and self._kept is not kept:
                return self._kept[1]
            results, broken = load_results_indexed(self._store)
            found = Read(build(results), broken)
            self._kept = (time.monotonic(), found)
            return found


_SHELVES: dict[int, Shelf] = {}
"""By identity of the store, which its shelf keeps alive."""


def shelf_of(store: Store) -> Shelf:
    """The one shelf of a store: pages in two languages keep the same board once."""
    found = _SHELVES.get(id(store))
    if found is None:
        found = _SHELVES[id(store)] = Shelf(store)
        for other in list(_SHELVES)[:-STORES]:
            _SHELVES.pop(other, None)
    return found


class Screen(NamedTuple):
    """What is to be seen: the view as it could be met, its table and plot, and what there is to choose from.

    choices: of the instrument, of each filter and of the parts, as (label, value).
    """

    view: View
    table: str
    plot: str
    choices: dict[str, list[tuple[str, str]]]


class Desk:
    """What the page's handlers say, in one language, whatever values they are sent."""

    def __init__(self, shelf: Shelf, t: Texts) -> None:
        self.shelf = shelf
        self.t = t

    def screen(self, view: View) -> Screen:
        """The board as a view has it, or the reason there is none."""
        try:
            read = self.shelf.read()
        except EcoEvalError as error:
            said = f"<div class='eco'><p class='eco-warn' role='alert'>{escape(self.t.error(error))}</p></div>"
            return Screen(view, said, "", {name: [] for name in ("instrument", "part", *FACETS)})
        choices = self._choices(read.board, view)
        section = choose(read.board, view)
        if section is None:
            return Screen(view, render(read.board, read.broken, self.t, view), "", choices)
        selection = select(section, view)
        name = next(name for name, one in section_names(read.board).items() if one is section)
        view = view.model_copy(update={"instrument": name, "part": part_of(selection, view)})
        return Screen(view, render(read.board, read.broken, self.t, view), draw(selection, view, self.t), choices)

    def file(self, form: str, view: View) -> str:
        """A file of what a view shows, with its anchors, as JSON of name, type and base64; empty where unread."""
        try:
            section = choose(self.shelf.read().board, view)
        except EcoEvalError:
            return ""
        if section is None:
            return ""
        rows = records(section, (*select(section, view).rows, *section.anchors))
        data = parquet_bytes(rows) if form == "parquet" else csv_bytes(rows)
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in section.instrument)[:60]
        said = {"name": f"{name}.{form}", "type": FILES[form], "data": base64.b64encode(data).decode()}
        return json.dumps(said)

    def board(self, instrument: object) -> dict[str, Any]:
        """The board for programs, or one instrument of it."""
        try:
            board = self.shelf.read().board
            if instrument in ("", None):
                return board.model_dump(mode="json")
            sections = section_names(board)
            if not isinstance(instrument, str) or instrument not in sections:
                value, known = plain(str(instrument)[:80]), ", ".join(sections) or "–"
                raise InputError("reception.bad_choice", field="instrument", value=value, known=known)
            return Board(sections=(sections[instrument],)).model_dump(mode="json")
        except EcoEvalError as error:
            return problem(error, self.t)

    def _choices(self, board: Board, view: View) -> dict[str, list[tuple[str, str]]]:
        section, sections = choose(board, view), section_names(board)
        found = {"instrument": [(f"{plain(name)} ({len(one.models)})", name) for name, one in sections.items()]}
        counts = facets(section) if section is not None else {}
        for name in FACETS:
            of = counts.get(name, {})
            found[name] = [(f"{value_text(name, value, self.t)} ({count})", value) for value, count in of.items()]
        parts = parts_of(select(section, view)) if section is not None else 1
        found["part"] = [(f"{ROWS * part + 1}–{ROWS * (part + 1)}", str(part + 1)) for part in range(parts)]
        return found


def address(screen: Screen) -> str:
    """A view as JSON of the parameters of an address, where the first instrument needs no name."""
    said = write_view(screen.view)
    if screen.choices["instrument"] and screen.choices["instrument"][0][1] == screen.view.instrument:
        said["instrument"] = ""
    return json.dumps({**said, "tab": "board"})


def searched(said: object) -> str:
    """The search in an address as `address` gives it; empty where it is none."""
    try:
        return str(json.loads(str(said))["q"])
    except (ValueError, TypeError, KeyError):
        return ""


def build_page(site: "gr.Blocks", store: Store, t: Texts) -> None:
    """Lay the board out, with the API endpoint `board`.

    What it shows is in the page's address, and is read from there when the page is opened.
    """
    import gradio as gr

    desk = Desk(shelf_of(store), t)
    controls = _search(t)
    with gr.Accordion(t("page.board.more_controls"), open=False) as more:
        controls |= _filters(t)
    loading = f"<div class='eco'><p role='status'>{escape(t('page.board.loading'))}</p></div>"
    shown = gr.HTML(loading, elem_id="board-table")
    with gr.Row(elem_id="board-files"):
        controls["part"] = gr.Dropdown([], label=t("page.board.rows"), visible=False, min_width=160)
        buttons = {form: gr.Button(t(f"page.board.save_{form}"), size="sm", elem_id=f"board-{form}") for form in FILES}
    plots = [(t(f"page.board.plot.{name}"), name) for name in PLOTS]
    controls["plot"] = gr.Radio(plots, value=PLOTS[0], label=t("page.board.plots"), elem_id="board-plots")
    drawn = gr.HTML(elem_id="board-plot")
    said, file = gr.Textbox(visible="hidden", label="address"), gr.Textbox(visible="hidden", label="file")

    inputs = [controls[name] for name in FIELDS]
    offered = [controls[name] for name in ("instrument", *FACETS)]
    rest = [controls[name] for name in ("q", "score", "sort", "columns", "plot")]

    def outcome(screen: Screen) -> list[Any]:
        """What every change of a control changes."""
        parts = screen.choices["part"]
        part = gr.Dropdown(parts, value=str(screen.view.part), visible=len(parts) > 1)
        return [screen.table, screen.plot, address(screen), part]

    def offers(screen: Screen) -> list[Any]:
        """What there is to choose from; a filter that would tell nothing apart is not shown."""
        instruments = screen.choices["instrument"]
        updates: list[Any] = [
            gr.Dropdown(instruments, value=screen.view.instrument or None, visible=len(instruments) > 1)
        ]
        for name in FACETS:
            found = screen.choices[name]
            known = {value for _, value in found}
            component = gr.Dropdown if name == "licence" else gr.CheckboxGroup
            kept = [value for value in getattr(screen.view, name) if value in known]
            updates.append(component(choices=found, value=kept, visible=len(found) > 1 or bool(kept)))
        return updates

    def asked(values: Sequence[object]) -> View:
        return read_view(dict(zip(FIELDS, values, strict=False)))

    def turn(*values: object) -> list[Any]:
        return outcome(desk.screen(asked(values)))

    def change(*values: object) -> list[Any]:
        return outcome(desk.screen(asked(values).model_copy(update={"part": 1})))

    def search(last: object, *values: object) -> list[Any]:
        # Opening the page fills the field as well, which is no search: the part of the table stays.
        view = asked(values)
        return [gr.skip()] * len(results) if searched(last) == view.q else change(*values)

    def change_instrument(*values: object) -> list[Any]:
        # Another instrument has other values to filter by.
        kept = asked(values).model_dump(include={"q", "instrument", "score", "sort", "columns", "plot"})
        screen = desk.screen(View(**kept))
        return [*outcome(screen), *offers(screen)]

    def open_page(request: gr.Request) -> list[Any]:
        screen = desk.screen(read_view(dict(request.query_params)))
        view = screen.view
        is_narrowed = view.is_filtered or bool(view.sort) or view.columns != View().columns
        others = [view.q, view.score, view.sort, list(view.columns), view.plot]
        return [*outcome(screen), *offers(screen), *others, gr.Accordion(open=is_narrowed)]

    # Values are checked here: what Gradio itself refuses would be an HTTP 500.
    quiet: dict[str, Any] = {
        "api_visibility": "private",
        "preprocess": False,
        "show_progress": "hidden",
        "concurrency_limit": AT_ONCE,
    }
    results = [shown, drawn, said, controls["part"]]
    site.load(open_page, None, [*results, *offered, *rest, more], **quiet)
    simple = ("size", "kind", "licence", "flags", "score", "sort", "columns", "plot")
    fields = [said, *inputs]
    events = [
        gr.on(
            [controls["q"].change, controls["q"].submit], search, fields, results, trigger_mode="always_last", **quiet
        ),
        gr.on([controls[name].input for name in simple], change, inputs, results, trigger_mode="always_last", **quiet),
        controls["part"].input(turn, inputs, results, **quiet),
        controls["instrument"].input(change_instrument, inputs, [*results, *offered], **quiet),
    ]
    for event in events:
        event.then(None, said, None, js=_REMEMBER, api_visibility="private", queue=False)
    for form, button in buttons.items():
        saved = button.click(_filing(desk, form, asked), inputs, file, **quiet)
        saved.then(None, file, file, js=_SAVE, api_visibility="private", queue=False)

    def read_board(instrument: str = "") -> dict[str, Any]:
        """The board: sections an instrument, models and anchors with score, interval, places and tier.

        Args:
            instrument: one instrument alone, by its name; empty for all of them.
        """
        return desk.board(instrument)

    gr.api(read_board, api_name="board", concurrency_limit=AT_ONCE)


def _filing(desk: Desk, form: str, asked: Callable[[Sequence[object]], View]) -> Callable[..., str]:
    def save(*values: object) -> str:
        return desk.file(form, asked(values))

    return save


def _search(t: Texts) -> dict[str, Any]:
    """What is always in sight: search, instrument, and which score."""
    import gradio as gr

    with gr.Row():
        q = gr.Textbox(label=t("page.board.search"), max_lines=1, max_length=LONGEST, scale=3, min_width=220)
        instrument = gr.Dropdown([], label=t("page.board.instrument"), visible=False, scale=2, min_width=220)
        scores = [(t(f"page.board.score_{name}"), name) for name in ("raw", "corrected")]
        score = gr.Radio(scores, value="raw", label=t("page.board.score"), scale=2, min_width=220)
    return {"q": q, "instrument": instrument, "score": score}


def _filters(t: Texts) -> dict[str, Any]:
    """What unfolds: filters, which show once there is something to choose; order and columns."""
    import gradio as gr

    found: dict[str, Any] = {
        name: gr.CheckboxGroup([], label=t(f"page.board.filter.{name}"), visible=False) for name in ("size", "kind")
    }
    found["licence"] = gr.Dropdown([], label=t("page.board.filter.licence"), multiselect=True, visible=False)
    found["flags"] = gr.CheckboxGroup([], label=t("page.board.filter.flags"), visible=False)
    orders = [(_order_text(name, t), name) for name in SORTINGS]
    found["sort"] = gr.Dropdown(orders, value="", label=t("page.board.sort"), info=t("page.board.sort_note"))
    named = [(t(f"page.board.column.{name}"), name) for name in COLUMNS]
    found["columns"] = gr.CheckboxGroup(named, value=list(USUAL), label=t("page.board.columns"))
    return found


def _order_text(sort: str, t: Texts) -> str:
    if not sort:
        return t("page.board.sorting.score")
    what = t(f"page.board.sorting.{sort.removeprefix('-')}")
    return f"{what} {'↓' if sort.startswith('-') else '↑'}"


def heading(t: Texts) -> str:
    return f"<div class='eco'><h1>{escape(t('page.title'))}</h1><p>{escape(t('page.intro'))}</p></div>"


def problem(error: EcoEvalError, t: Texts) -> dict[str, Any]:
    """An error for programs: what an endpoint raised would be an HTTP 500."""
    return {"error": error.key, "message": t.error(error)}


def render(board: Board, broken: Sequence[str], t: Texts, view: View | None = None) -> str:
    """One instrument of the board as HTML, the first where the view names none; everything from outside is escaped."""
    view = view or View()
    section = choose(board, view)
    parts = [f"<p>{escape(t('page.empty'))}</p>"]
    if section is not None:
        selection = select(section, view)
        parts = [section_heading(selection, view, t), table(selection, view, t)]
        parts.append(f"<p class='eco-note'>{escape(t('page.places_note'))}</p>")
    if broken:
        said = ", ".join(plain(path) for path in broken[:BROKEN])
        said += f" (+{len(broken) - BROKEN})" if len(broken) > BROKEN else ""
        parts.append(f"<p class='eco-warn'>{escape(t('page.broken', paths=said))}</p>")
    return f"<div class='eco'>{''.join(parts)}</div>"
