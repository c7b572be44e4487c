"""One result: its card, and every answer with its verdict.

Annotations are evaluated here, not postponed: Gradio reads them inside the function that makes the page, to give a
handler the request. Handlers take values of any type: what Gradio itself refuses would be an HTTP 500.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eco_eval.board import Board
from eco_eval.candidates.files import shown as printable
from eco_eval.errors import EcoEvalError, InputError, StoreError
from eco_eval.people import load_audits, mean_points
from eco_eval.results import Reading, details, read_result
from eco_eval.store import HubStore, Store
from eco_eval.store.index import WITHDRAWN
from eco_eval.types import Result
from eco_eval.ui.answer_filter import GRADES, KINDS, Filter, Known, controls, filter_of, fits
from eco_eval.ui.answers import (
    COPY,
    MAX_WORDS,
    PAGE,
    body,
    chips,
    copy_button,
    folded,
    link,
    notes,
    people_chip,
    range_of,
    reasons,
    said_by_people,
    shown_line,
    word,
)
from eco_eval.ui.model_card import card, result_name
from eco_eval.ui.pages.board import AT_ONCE, problem, shelf_of
from eco_eval.ui.terminal import plain
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    import gradio as gr

LISTED: Final = 300
"""Results to choose from; every other one is reached by its name or identifier, or from the board."""


class Shown(NamedTuple):
    """A result's card and a page of its answers, as HTML. `place` is that of the first answer, from 0."""

    card: str
    answers: str
    place: int = 0
    total: int = 0


def build_page(site: "gr.Blocks", store: Store, t: Texts) -> None:
    """Lay one result out, chosen by name, its answers filtered, with the API endpoint `result`.

    The page's address holds `result`, `grade`, `show` and `find`, and names an answer in its fragment.
    """
    import gradio as gr

    chosen = gr.Dropdown(
        choices=[], label=t("page.choose"), info=t("page.model.choose_info"), allow_custom_value=True, filterable=True
    )
    about = gr.HTML(js_on_load=COPY)
    with gr.Row():
        words = {name: "filter_all" if name == "all" else "" for name in GRADES}
        grades = [(t(f"page.{words[name]}" if words[name] else f"grade.{name}"), name) for name in GRADES]
        wanted = gr.Dropdown(choices=grades, value="all", label=t("page.filter"), min_width=140)
        kinds = [(t(f"page.model.show_{name}"), name) for name in KINDS]
        kind = gr.Dropdown(choices=kinds, value="all", label=t("page.model.show"), min_width=140)
        find = gr.Textbox("", label=t("page.model.find"), max_length=200, max_lines=1, scale=2, min_width=200)
    answers = gr.HTML(js_on_load=COPY)
    with gr.Row():
        earlier = gr.Button(t("page.model.earlier"), size="sm", interactive=False)
        later = gr.Button(t("page.model.later"), size="sm", interactive=False)
    place = gr.State(0)
    fragment = gr.Textbox(visible=False)

    filters = [chosen, wanted, kind, find]
    moved = [answers, place, earlier, later]
    private: Any = {"api_visibility": "private", "show_progress": "minimal", "concurrency_limit": AT_ONCE}

    def turned(shown: Shown) -> tuple[Any, ...]:
        more = shown.place + PAGE < shown.total
        return shown.answers, shown.place, gr.Button(interactive=shown.place > 0), gr.Button(interactive=more)

    def opened(prompt_id: object, request: gr.Request) -> tuple[Any, ...]:
        query = dict(request.query_params)
        options, failed = options_of(store, t)
        asked = word(query.get("result")) or (options[0][1] if options else "")
        filtered = filter_of(*(query.get(name) for name in ("grade", "show", "find")))
        shown = page(store, asked, filtered, t, prompt_id=word(prompt_id))
        return (
            gr.Dropdown(choices=options, value=asked or None),
            failed or shown.card,
            filtered.grade,
            filtered.show,
            filtered.find,
            *turned(shown),
        )

    def changed(result_id: object, *values: object) -> tuple[Any, ...]:
        shown = page(store, word(result_id), filter_of(*values), t)
        return shown.card, *turned(shown)

    def turn(step: int, at: int, result_id: object, *values: object) -> tuple[Any, ...]:
        return turned(page(store, word(result_id), filter_of(*values), t, place=at + step))

    def narrowed(result_id: object, *values: object) -> tuple[Any, ...]:
        # A field that the page itself fills says so before it knows of which result.
        return turn(0, 0, result_id, *values) if word(result_id) else (gr.skip(),) * len(moved)

    site.load(
        opened, fragment, [chosen, about, wanted, kind, find, *moved], js=FRAGMENT, preprocess=False, **private
    ).then(None, None, None, js=SCROLL, api_visibility="private")
    # Whatever is sent is compared here: what Gradio itself refuses would be an HTTP 500.
    chosen.input(changed, filters, [about, *moved], preprocess=False, **private)
    # A text field's `input` is only a key that writes: nothing that is pasted or taken out.
    for event in (wanted.input, kind.input, find.change):
        event(narrowed, filters, moved, preprocess=False, trigger_mode="always_last", **private)
    for field in (chosen, wanted, kind):
        field.input(None, filters, None, js=REMEMBER, api_visibility="private")
    find.change(None, find, None, js=REMEMBER_WORDS, api_visibility="private")
    for button, step in ((earlier, -PAGE), (later, PAGE)):
        button.click(partial(turn, step), [place, *filters], moved, preprocess=False, **private)

    def read_result(result_id: str) -> dict[str, Any]:
        """One result with every answer and verdict."""
        try:
            return as_json(store, result_id)
        except EcoEvalError as error:
            return problem(error, t)

    gr.api(read_result, api_name="result", concurrency_limit=AT_ONCE)


FRAGMENT: Final = "() => [decodeURIComponent(location.hash.slice(1))]"
REMEMBER: Final = """(result, grade, show, find) => {
  const said = (value) => (value === 'all' ? '' : value);
  // An answer's link belongs to its result: a tab named takes it out.
  const tab = new URLSearchParams(location.search).get('result') === result ? {} : { tab: 'model' };
  window.ecoEval?.remember({ result, grade: said(grade), show: said(show), find, ...tab });
}"""
REMEMBER_WORDS: Final = "(find) => { window.ecoEval?.remember({ find }); }"
SCROLL: Final = """() => {
  const id = decodeURIComponent(location.hash.slice(1));
  let tries = 60;
  const look = () => {
    const found = id && document.getElementById(id);
    if (found && found.offsetParent) found.scrollIntoView();
    else if (id && tries-- > 0) setTimeout(look, 50);
  };
  look();
}"""


def choices(board: Board, t: Texts) -> list[tuple[str, str]]:
    """The first results to choose from as (label, id), in the board's order: models before anchors."""
    rows = (row for section in board.sections for row in (*section.models, *section.anchors))
    return [(label(row.result, t), row.result.id) for row in islice(rows, LISTED)]


def label(result: Result, t: Texts) -> str:
    """A result in a list to choose from."""
    score = t.number(result.score.eco.value)
    return f"{result_name(result, t)[:80]} · {score} · {plain(result.submission.instrument)[:60]} · {result.id[:8]}"


def options_of(store: Store, t: Texts) -> tuple[list[tuple[str, str]], str]:
    """Results to choose from, or why there are none, as HTML."""
    try:
        return choices(shelf_of(store).read().board, t), ""
    except EcoEvalError as error:
        return [], warning(t.error(error))


def warning(text: str) -> str:
    """Something that went wrong, as HTML."""
    return f"<div class='eco'><p class='eco-warn' role='alert'>{escape(text)}</p></div>"


def page(store: Store, target: str, wanted: Filter, t: Texts, *, place: int = 0, prompt_id: str = "") -> Shown:
    """One result and a page of its answers, or the reason there is nothing to show.

    Args:
        target: the result's id, the start of it, or its model's name.
        place: of an answer that is to be on the page, among those of the filter, from 0.
        prompt_id: the same by the id of its prompt, where there is such an answer.
    """
    if not target:
        return Shown(f"<div class='eco'><p>{escape(t('page.empty'))}</p></div>", "")
    try:
        known = Known(result := find(store, target), details(store, result), _people(store))
    except EcoEvalError as error:
        return Shown(warning(t.error(error)), "")
    kept = [reading for reading in known.readings if fits(reading, wanted, known)]
    places = [number for number, reading in enumerate(kept) if prompt_id and reading.answer.prompt_id == prompt_id]
    first, last = range_of(places[0] if places else place, len(kept))
    line = shown_line(first, last, len(kept), len(known.readings), t) if kept else ""
    listed = _list(kept[first:last], known, t)
    hub = store.repo if isinstance(store, HubStore) else None
    return Shown(card(result, known.readings, t, hub), f"<div class='eco'>{line}{listed}</div>", first, len(kept))


def render(
    result: Result,
    readings: Sequence[Reading],
    grade: str,
    t: Texts,
    *,
    people: Mapping[str, float] | None = None,
    hub_repo: str | None = None,
) -> str:
    """One result with all its answers as HTML, for a page without a server; what comes from outside is escaped."""
    known = Known(result, readings, people or {})
    kept = [reading for reading in readings if fits(reading, filter_of(grade), known)]
    return f"{card(result, readings, t, hub_repo)}<div class='eco'>{_list(kept, known, t)}</div>"


def as_json(store: Store, result_id: str) -> dict[str, Any]:
    """A result with its answers and verdicts."""
    result = find(store, str(result_id))
    rows = [
        {"answer": r.answer.model_dump(mode="json"), "judgements": [j.model_dump(mode="json") for j in r.verdicts]}
        for r in details(store, result)
    ]
    return {"result": result.model_dump(mode="json"), "answers": rows}


def find(store: Store, target: str) -> Result:
    """The result of an id, the start of one, or a model's name (the newest).

    Raises:
        InputError: none or several fit, or it was withdrawn.
        StoreError: the store cannot be read.
    """
    said = printable(target[:MAX_WORDS])
    if re.fullmatch(r"[0-9a-f]{16}", target):
        if store.list(f"{WITHDRAWN}{target}.json"):
            raise InputError("result.withdrawn", target=said)
        result = read_result(store, target)
        found = [] if result is None else [result]
    else:
        sections = shelf_of(store).read().board.sections
        known = [row.result for section in sections for row in (*section.models, *section.anchors)]
        named = [one for one in known if target and one.submission.model.name == target]
        newest = sorted(named, key=lambda one: one.provenance.finished_at)[-1:]
        found = newest or [one for one in known if target and one.id.startswith(target)]
    if len(found) > 1:
        raise InputError("result.ambiguous", target=said, ids=", ".join(one.id for one in found[:5]))
    if not found:
        raise InputError("result.unknown", target=said, where="results/")
    return found[0]


def _people(store: Store) -> Mapping[str, float]:
    try:
        return mean_points(load_audits(store))
    # What people said is beside the point here: the audit's own page says what is wrong with it.
    except StoreError:
        return {}


def _list(kept: Sequence[Reading], known: Known, t: Texts) -> str:
    apart = controls(known.result, known.readings)
    cards = [_card(reading, known, reading.answer.prompt_id in apart, t) for reading in kept]
    return "".join(cards) or f"<p>{escape(t('cli.show.none'))}</p>"


def _card(reading: Reading, known: Known, is_control: bool, t: Texts) -> str:
    answer, verdicts = reading
    seats = known.result.seats
    question = folded(answer.prompt, t, "text asked") if answer.prompt else ""
    here = link(known.result.id, answer.prompt_id)
    name = escape(plain(answer.prompt_id))
    title = escape(t("page.model.link"))
    header = (
        f"{chips(verdicts, seats, t)}{people_chip(said_by_people(answer, known.people), t)}"
        f"{notes(answer, is_control, t)}"
        f"<span class='eco-link'><a class='id' href='{escape(here)}' title='{title}'>{name}</a>"
        f"{copy_button(here, t, t('page.model.copy_link'))}</span>"
    )
    return (
        f"<article class='eco-card' id='{name}'><header>{header}</header>"
        f"{question}{body(answer, t)}{reasons(verdicts, seats, t)}</article>"
    )
