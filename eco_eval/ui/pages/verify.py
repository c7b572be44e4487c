"""Where a person reads a triple and confirms its order, corrects it, edits it or rejects it. Made for the keyboard."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eco_eval.triples.records import RANKS, Rank, Triple
from eco_eval.triples.verify import append, decide, latest, read_decisions, seen
from eco_eval.ui.site import serve
from eco_eval.ui.terminal import plain
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    import gradio as gr

ORDERS: dict[str, tuple[Rank, ...]] = {
    "".join(str(RANKS.index(rank) + 1) for rank in order): order for order in itertools.permutations(RANKS)
}
"""Every order of the three answers, named by the numbers they are shown with."""

_KEYS = Path(__file__).with_name("verify.js")


def build_page(triples: Sequence[Triple], log: Path, t: Texts, by: str = "") -> gr.Blocks:
    """The page as Gradio blocks. Every decision is on disk before the next triple is shown."""
    import gradio as gr

    with gr.Blocks(title=t("verify.title"), analytics_enabled=False) as page:
        gr.HTML(f"<div class='eco'><h1>{escape(t('verify.title'))}</h1><p>{escape(t('verify.intro'))}</p></div>")
        with gr.Row():
            person = gr.Textbox(by, label=t("verify.by"), elem_id="verify-by", max_lines=1)
            place = gr.State(0)
            status = gr.HTML()
        shown = gr.HTML()
        order = gr.Radio([(" · ".join(name), name) for name in ORDERS], label=t("verify.order"), elem_id="verify-order")
        with gr.Row():
            back = gr.Button(f"← {t('verify.back')}", elem_id="verify-back")
            save = gr.Button(t("verify.save"), variant="primary", elem_id="verify-save")
            forth = gr.Button(f"{t('verify.forth')} →", elem_id="verify-forth")
        with gr.Row():
            reason = gr.Textbox(label=t("verify.reason"), elem_id="verify-reason", scale=4)
            reject = gr.Button(t("verify.reject"), variant="stop", elem_id="verify-reject", scale=1)
        with gr.Accordion(t("verify.edit"), open=False, elem_id="verify-edit"):
            texts = [
                gr.Textbox(label=t(f"data.name.{name}"), lines=4, elem_id=f"verify-{name}") for name in ("text", *RANKS)
            ]
        fields = [place, status, shown, order, reason, *texts]

        def turn(step: int) -> Any:
            return lambda at, name: view(triples, log, (at + step) % len(triples), name, t)

        def begin(name: str) -> list[Any]:
            return view(triples, log, first_open(triples, log, name), name, t)

        def keep(at: int, name: str, chosen: str, _: str, *edited: str) -> list[Any]:
            return act(triples, log, at, name, chosen, "", edited, t)

        def refuse(at: int, name: str, chosen: str, why: str, *edited: str) -> list[Any]:
            return act(triples, log, at, name, chosen, why or " ", edited, t)

        page.load(begin, person, fields, api_visibility="private")
        person.submit(begin, person, fields, api_visibility="private")
        given = [place, person, order, reason, *texts]
        turns = [(back.click, turn(-1), [place, person]), (forth.click, turn(1), [place, person])]
        decisions = [(save.click, keep, given), (reject.click, refuse, given), (reason.submit, refuse, given)]
        for event, action, inputs in (*turns, *decisions):
            done = event(action, inputs, fields, api_visibility="private")
            done.then(None, js="() => { document.activeElement.blur(); window.scrollTo(0, 0); }")
    return page


def launch(
    triples: Sequence[Triple], log: Path, t: Texts, *, port: int, by: str = "", wait: bool = True
) -> tuple[Any, str]:
    """Serve the page; see `site.serve`."""
    keys = f"<script>{_KEYS.read_text(encoding='utf-8')}</script>"
    return serve(lambda: build_page(triples, log, t, by), port=port, wait=wait, head=keys)


def first_open(triples: Sequence[Triple], log: Path, by: str) -> int:
    """The first triple this person has not decided about, or the first of all."""
    done = latest(read_decisions(log))
    return next((i for i, triple in enumerate(triples) if (by.strip(), seen(triple)) not in done), 0)


def view(triples: Sequence[Triple], log: Path, at: int, by: str, t: Texts, note: str = "") -> list[Any]:
    """What the fields hold for one triple: place, status, triple, order, reason, and the texts to edit."""
    triple = triples[at]
    done = latest(read_decisions(log))
    before = done.get((by.strip(), seen(triple)))
    decided = sum((by.strip(), seen(one)) in done for one in triples)
    status = t("verify.status", place=at + 1, total=len(triples), decided=decided)
    if before is not None:
        status += f" · {t(f'verify.was_{before.action}')}"
    html = f"<div class='eco'><p class='eco-note' id='verify-status'>{escape(status)}</p>{note}</div>"
    chosen = next(name for name, order in ORDERS.items() if order == (before.order if before else RANKS))
    edits: dict[str, str] = {str(name): text for name, text in before.edits.items()} if before else {}
    texts = [triple.text, *(triple.answer(rank) for rank in RANKS)]
    edited = [edits.get(name, text) for name, text in zip(("text", *RANKS), texts, strict=True)]
    return [at, html, render(triple, t), chosen, before.reason if before else "", *edited]


def act(
    triples: Sequence[Triple],
    log: Path,
    at: int,
    by: str,
    chosen: str,
    reason: str,
    edited: Sequence[str],
    t: Texts,
) -> list[Any]:
    """Keep a decision and show the next triple; or say what is missing, and keep nothing.

    Args:
        reason: why it is rejected; empty for a decision on its order.
    """
    missing = "no_name" if not by.strip() else "no_reason" if reason and not reason.strip() else None
    if missing is not None:
        # What was typed stays in its fields.
        shown = view(triples, log, at, by, t, _warning(t(f"verify.{missing}")))[:3]
        return [*shown, chosen, reason.strip(), *edited]
    edits = {} if reason else dict(zip(("text", *RANKS), edited, strict=True))
    order = RANKS if reason else ORDERS[chosen]
    append(decide(triples[at], by, order=order, edits=edits, reject=bool(reason), reason=reason), log)
    return view(triples, log, min(at + 1, len(triples) - 1), by, t)


def render(triple: Triple, t: Texts) -> str:
    """A triple as HTML, its answers numbered in their present order; everything from outside is escaped."""
    cards = "".join(
        f"<article class='eco-card'><header><span class='eco-grade eco-{css}'>{number}</span> "
        f"{escape(t(f'data.name.{rank}'))}</header>"
        f"<div class='text'>{escape(plain(triple.answer(rank)))}</div></article>"
        for number, (rank, css) in enumerate(zip(RANKS, ("good", "regular", "bad"), strict=True), 1)
    )
    about = " · ".join(filter(None, (triple.id, triple.variety, triple.kind and t(f"kind.{triple.kind}"))))
    return (
        f"<div class='eco'><article class='eco-card'><header><span class='id'>{escape(plain(about))}</span></header>"
        f"<div class='text asked'>{escape(plain(triple.text))}</div></article>{cards}</div>"
    )


def _warning(text: str) -> str:
    return f"<p class='eco-warn' role='alert'>{escape(text)}</p>"
