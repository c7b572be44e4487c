"""How to obtain a result again: the commands for one of them, what their outcome means, what engines repeat.

Annotations are evaluated here, not postponed: Gradio reads them inside the function that makes the page, to give
handlers the request.
"""

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eco_eval.board import build
from eco_eval.errors import EcoEvalError, InputError
from eco_eval.results import read_result
from eco_eval.stats.intervals import LEVEL
from eco_eval.store import HubStore, Store
from eco_eval.store.index import load_results_indexed
from eco_eval.types import Result
from eco_eval.ui import texts
from eco_eval.ui.answers import COPY, copy_button, word
from eco_eval.ui.model_card import result_name
from eco_eval.ui.pages.judge import table
from eco_eval.ui.terminal import plain
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    import gradio as gr

MEASURED = Path(texts.__file__).with_name("repeatability.csv")
"""What `benchmarks/repeatability.py` measured, a row a comparison; docs/reproducing.md says how and on what."""

MODES = ("whole", "rejudge", "rescore")
FLAGS = {"whole": "", "rejudge": " --rejudge-only", "rescore": " --rescore-only"}

REMEMBER = "(result) => window.ecoEval?.remember({ result })"


def build_page(site: "gr.Blocks", store: Store, t: Texts) -> None:
    """Lay the page out: a result to choose, which the address may name, and everything about obtaining it again."""
    import gradio as gr

    chosen = gr.Dropdown(choices=[], label=t("page.choose"), elem_id="reproduce-result")
    shown = gr.HTML(js_on_load=COPY)

    def opened(request: gr.Request) -> tuple[Any, str]:
        options = choices(store, t)
        asked = word(request.query_params.get("result")) or (options[0][1] if options else "")
        known = asked if asked in dict(options).values() else None
        return gr.Dropdown(choices=options, value=known), page(store, asked, t)

    site.load(opened, None, [chosen, shown], api_visibility="private")
    # Whatever is sent is compared here: what Gradio itself refuses would be an HTTP 500.
    hidden: dict[str, Any] = {"api_visibility": "private", "preprocess": False}
    chosen.input(lambda result_id: page(store, word(result_id), t), chosen, shown, **hidden)
    chosen.input(None, chosen, None, js=REMEMBER, api_visibility="private")


def choices(store: Store, t: Texts) -> list[tuple[str, str]]:
    """Results that can be made again as (label, id), the best first; none where the store cannot be read."""
    try:
        sections = build(load_results_indexed(store)[0]).sections
    except EcoEvalError:
        return []
    return [
        (f"{plain(row.name)} · {t.number(row.eco.value)} · {plain(section.instrument)}", row.result.id)
        for section in sections
        for row in section.models
    ]


def page(store: Store, result_id: str, t: Texts) -> str:
    """The page about one result as HTML; without one it says how to get one."""
    try:
        result = read_result(store, result_id) if result_id else None
        if result_id and result is None:
            raise InputError("result.unknown", target=result_id, where="results/")
    except EcoEvalError as error:
        return f"<div class='eco'><p class='eco-warn'>{escape(t.error(error))}</p></div>"
    return render(result, store.repo if isinstance(store, HubStore) else None, t)


def render(result: Result | None, hub_repo: str | None, t: Texts) -> str:
    """The page as HTML; everything that comes from outside is escaped."""
    commands = f"<p>{escape(t('page.empty'))}</p>" if result is None else commands_html(result, hub_repo, t)
    rows = measured()
    return (
        "<div class='eco'>"
        + t.prose(
            "reproduce",
            commands=commands,
            level=t.number(100 * LEVEL, 0),
            repeatability=_measured("candidate", rows, t) + _measured("judge", rows, t),
            setting=f"<p class='eco-note'>{escape(t('page.reproduce.setting'))}</p>",
        )
        + "</div>"
    )


def commands_html(result: Result, hub_repo: str | None, t: Texts) -> str:
    """The three ways to obtain a result again, each to copy, and what has to be the same here."""
    target = result.id if hub_repo is None else f"hf://datasets/{hub_repo}/results/{result.id}.json"
    rows = "".join(
        f"<p class='eco-note'>{escape(t(f'page.reproduce.{mode}'))}</p><div class='eco-command'>"
        f"<code>{escape(command)}</code>{copy_button(command, t, t('page.model.copy'))}</div>"
        for mode in MODES
        for command in (f"eco-eval reproduce {target}{FLAGS[mode]}",)
    )
    made = result.provenance
    version = t("page.reproduce.version", name=plain(result_name(result, t)), version=plain(made.eco_eval))
    ran = [(t("page.reproduce.candidate"), made.candidate), *((plain(seat.name), seat.engine) for seat in result.seats)]
    engines = [
        [escape(who), *(escape(plain(part)) for part in (one.engine, one.version, one.dtype, one.device))]
        for who, one in ran
        if one is not None
    ]
    heads = [
        t("page.reproduce.what"),
        t("submit.engine"),
        *(t(f"page.reproduce.{n}") for n in ("at", "dtype", "device")),
    ]
    same = table(t("page.reproduce.same"), heads, engines, css="eco-plain") if engines else ""
    return f"<p>{escape(version)}</p>{rows}{same}"


@cache
def measured() -> tuple[Mapping[str, str], ...]:
    """What was measured of repeating a run, a row a comparison."""
    with MEASURED.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def _measured(part: str, rows: Sequence[Mapping[str, str]], t: Texts) -> str:
    names = ("outcome", "answers", "grades", "scores", "move")
    heads = [t(f"page.reproduce.{part}"), *(t(f"page.reproduce.{name}") for name in names)]
    body = [
        [
            escape(row[t.lang]),
            escape(_outcome(row, t)),
            f"{row['answers']}/{row['n']}",
            f"{row['grades']}/{row['n']}",
            t.figures(f"{row['before']}\u00a0→\u00a0{row['after']}"),
            t.figures(row["move"]),
        ]
        for row in rows
        if row["part"] == part
    ]
    return table(t(f"page.reproduce.{part}_caption"), heads, body, css="eco-plain")


def _outcome(row: Mapping[str, str], t: Texts) -> str:
    said = t(f"page.reproduce.{row['outcome']}")
    return f"{said} ({t('page.reproduce.tolerance', value=t.figures(row['tolerance']))})" if row["tolerance"] else said
