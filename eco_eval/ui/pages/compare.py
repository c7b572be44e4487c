"""Two results side by side: the paired difference and its parts, and the answers that make it.

Annotations are evaluated here, not postponed: Gradio reads them inside the function that makes the page, to give a
handler the request. Handlers take values of any type: what Gradio itself refuses would be an HTTP 500.
"""

from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eco_eval.compare import Comparison, Twin, find_twins
from eco_eval.compare import compare as compared
from eco_eval.errors import EcoEvalError, InputError
from eco_eval.results import details
from eco_eval.store import Store
from eco_eval.types import Result
from eco_eval.ui.answer_filter import controls, has_words
from eco_eval.ui.answers import COPY, PAGE, copy_button, range_of, shown_line, word
from eco_eval.ui.pages.board import AT_ONCE, problem, shelf_of
from eco_eval.ui.pages.model import find, options_of, warning
from eco_eval.ui.side_by_side import Pair, pair_list, pairs, summary
from eco_eval.ui.texts import Texts
from eco_eval.ui.versus import asked, in_other_languages

if TYPE_CHECKING:
    import gradio as gr


class Choice(NamedTuple):
    """Two results by id, name or the start of an id; whether only answers with another grade are shown; words."""

    a: str = ""
    b: str = ""
    only: bool = False
    find: str = ""


class Shown(NamedTuple):
    """A page of pairs of answers as HTML. `place` is that of the first, from 0."""

    answers: str
    place: int = 0
    total: int = 0


def build_page(site: "gr.Blocks", store: Store, t: Texts, *, built: Path | None = None) -> None:
    """Lay two results out side by side, with the API endpoint `compare`.

    The page's address holds `a`, `b`, `only` and `words`.

    Args:
        built: the folder of prompt sets built on this machine.
    """
    import gradio as gr

    with gr.Row(equal_height=True):
        sides = [
            gr.Dropdown([], label=t(f"page.compare.{side}"), allow_custom_value=True, scale=4, min_width=240)
            for side in ("a", "b")
        ]
        swap = gr.Button(t("page.compare.swap"), size="sm", scale=1, min_width=120)
    about = gr.HTML(js_on_load=COPY)
    with gr.Row():
        only = gr.Checkbox(label=t("page.compare.only"), min_width=220)
        words = gr.Textbox("", label=t("page.model.find"), max_length=200, max_lines=1, scale=2, min_width=200)
    answers = gr.HTML()
    with gr.Row():
        earlier = gr.Button(t("page.model.earlier"), size="sm", interactive=False)
        later = gr.Button(t("page.model.later"), size="sm", interactive=False)
    place = gr.State(0)

    fields = [*sides, only, words]
    moved = [answers, place, earlier, later]
    private: dict[str, Any] = {"api_visibility": "private", "preprocess": False, "concurrency_limit": AT_ONCE}

    def turned(shown: Shown) -> tuple[Any, ...]:
        more = shown.place + PAGE < shown.total
        return shown.answers, shown.place, gr.Button(interactive=shown.place > 0), gr.Button(interactive=more)

    def whole(choice: Choice) -> tuple[Any, ...]:
        return difference(store, choice, built, t), *turned(side_by_side(store, choice, t))

    def opened(request: gr.Request) -> tuple[Any, ...]:
        query = request.query_params
        choice = choice_of(query.get("a"), query.get("b"), query.get("only"), query.get("words"))
        options = options_of(store, t)[0]
        chosen = [gr.Dropdown(choices=options, value=said or None) for said in (choice.a, choice.b)]
        return *chosen, choice.only, choice.find, *whole(choice)

    def changed(*values: object) -> tuple[Any, ...]:
        return whole(choice_of(*values))

    def turn(step: int, at: int, *values: object) -> tuple[Any, ...]:
        return turned(side_by_side(store, choice_of(*values), t, place=at + step))

    def narrowed(a: object, b: object, *values: object) -> tuple[Any, ...]:
        # A field that the page itself fills says so before it knows of which results.
        return turn(0, 0, a, b, *values) if word(a) and word(b) else (gr.skip(),) * len(moved)

    def swapped(*values: object) -> tuple[Any, ...]:
        choice = choice_of(*values)
        choice = choice._replace(a=choice.b, b=choice.a)
        return choice.a or None, choice.b or None, *whole(choice)

    site.load(opened, None, [*fields, about, *moved], show_progress="hidden", **private)
    for side in sides:
        side.input(changed, fields, [about, *moved], show_progress="minimal", **private)
        side.input(None, fields, None, js=REMEMBER, api_visibility="private")
    swap.click(swapped, fields, [*sides, about, *moved], show_progress="minimal", **private).then(
        None, fields, None, js=REMEMBER, api_visibility="private"
    )
    # A text field's `input` is only a key that writes: nothing that is pasted or taken out.
    for event in (only.input, words.change):
        event(narrowed, fields, moved, trigger_mode="always_last", show_progress="hidden", **private)
    only.input(None, fields, None, js=REMEMBER, api_visibility="private")
    words.change(None, words, None, js=REMEMBER_WORDS, api_visibility="private")
    for button, step in ((earlier, -PAGE), (later, PAGE)):
        button.click(partial(turn, step), [place, *fields], moved, show_progress="minimal", **private)

    def read_comparison(a: str, b: str) -> dict[str, Any]:
        """Two results compared prompt by prompt: the paired difference a − b with its interval and p, and its parts.

        Args:
            a: a result's id, the start of one, or a model's name.
            b: another.
        """
        return as_json(store, choice_of(a, b), built, t)

    gr.api(read_comparison, api_name="compare", concurrency_limit=AT_ONCE)


REMEMBER: Final = """(a, b, only, words) => {
  window.ecoEval?.remember({ tab: 'compare', a, b, only: only ? '1' : '', words });
}"""
REMEMBER_WORDS: Final = "(words) => { window.ecoEval?.remember({ words }); }"


def choice_of(a: object = "", b: object = "", only: object = False, words: object = "") -> Choice:
    """A choice from what a stranger sent."""
    return Choice(word(a), word(b), only is True or only == "1", word(words))


def difference(store: Store, choice: Choice, built: Path | None, t: Texts) -> str:
    """What two models differ by as HTML, or why there is nothing to say."""
    if not (choice.a and choice.b):
        return f"<div class='eco'><p>{escape(t('page.compare.empty'))}</p></div>"
    try:
        a, b = find(store, choice.a), find(store, choice.b)
        found = comparison(store, a, b, built)
    except EcoEvalError as error:
        return warning(t.error(error))
    address = f"?tab=compare&a={a.id}&b={b.id}"
    copy = f"<p>{copy_button(address, t, t('page.compare.copy_link'))}</p>"
    return summary(found, a, b, t) + f"<div class='eco'>{copy}</div>"


def comparison(store: Store, a: Result, b: Result, built: Path | None) -> Comparison:
    """Two results compared, in every language in which both models have one.

    Raises:
        InputError: they are one and the same, or share too little.
        StoreError: answers or verdicts are not there.
    """
    if a.id == b.id:
        raise InputError("compare.same_result")
    prompts = _asked_or_none(a, built)
    results = [row.result for section in shelf_of(store).read().board.sections for row in section.models]
    twins: Sequence[Twin] = in_other_languages(find_twins(results, a, b), prompts, built) if prompts else []
    return compared(store, a, b, prompts, twins)


def _asked_or_none(result: Result, built: Path | None) -> dict[str, Any]:
    try:
        return asked(result, built)
    # Its prompts were built on another machine: the difference needs them only for its parts and their groups.
    except InputError:
        return {}


def side_by_side(store: Store, choice: Choice, t: Texts, *, place: int = 0) -> Shown:
    """A page of answers of both, the greatest difference first; nothing where `difference` says why."""
    if not (choice.a and choice.b):
        return Shown("")
    try:
        a, b = find(store, choice.a), find(store, choice.b)
        first, second = details(store, a), details(store, b)
    except EcoEvalError:
        return Shown("")
    both = pairs(first, second)
    if a.id == b.id or not both:
        return Shown("")
    kept = [pair for pair in both if _fits(pair, choice)]
    start, end = range_of(place, len(kept))
    line = shown_line(start, end, len(kept), len(both), t) if kept else ""
    listed = pair_list(kept[start:end], a, b, controls(a, first), t) or f"<p>{escape(t('cli.show.none'))}</p>"
    heading = f"<h2>{escape(t('page.compare.answers'))}</h2><p class='eco-note'>{escape(t('page.compare.order'))}</p>"
    return Shown(f"<div class='eco'>{heading}{line}{listed}</div>", start, len(kept))


def _fits(pair: Pair, choice: Choice) -> bool:
    if choice.only and not pair.gap:
        return False
    answer = pair.a.answer
    return has_words(f"{answer.prompt_id} {answer.prompt} {pair.b.answer.prompt}", choice.find)


def as_json(store: Store, choice: Choice, built: Path | None, t: Texts) -> dict[str, Any]:
    """A comparison for programs, or the error."""
    try:
        a, b = find(store, choice.a), find(store, choice.b)
        found = comparison(store, a, b, built)
    except EcoEvalError as error:
        return problem(error, t)
    return {"results": [a.id, b.id], **found.model_dump(mode="json")}
