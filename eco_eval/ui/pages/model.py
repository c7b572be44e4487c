"""One result: its scores by part, and every answer with its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from eco_eval.board import build
from eco_eval.candidates.files import shown as printable
from eco_eval.errors import EcoEvalError, InputError
from eco_eval.results import Reading, details, display_name
from eco_eval.store import Store
from eco_eval.store.index import load_results_indexed
from eco_eval.types import Estimate, Grade, Graded, Judgement, Result
from eco_eval.ui.pages.board import problem, range_svg
from eco_eval.ui.terminal import (
    adjusted_lines,
    contamination_lines,
    controls_line,
    flag_lines,
    interval,
    judge_lines,
    panel_lines,
    plain,
)
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    import gradio as gr

SIGNS = {Grade.GOOD: "✓", Grade.REGULAR: "~", Grade.BAD: "✗"}


def build_page(site: gr.Blocks, store: Store, t: Texts) -> None:
    """Lay one result out, chosen by name and filtered by verdict; also the API endpoint `result`."""
    import gradio as gr

    with gr.Row():
        chosen = gr.Dropdown(choices=[], label=t("page.choose"), scale=3)
        grades = [(t("page.filter_all"), "all"), *((t(f"grade.{g.value}"), g.value) for g in Grade)]
        wanted = gr.Dropdown(choices=grades, value="all", label=t("page.filter"), scale=1)
    shown = gr.HTML()

    def refresh() -> Any:
        try:
            options = choices(store, t)
        # The tab beside says what is wrong with the store.
        except EcoEvalError:
            options = []
        return gr.Dropdown(choices=options, value=options[0][1] if options else None)

    def show(result_id: str | None, grade: str) -> str:
        return page(store, result_id, grade, t)

    site.load(refresh, None, chosen, api_visibility="private")
    for field in (chosen, wanted):
        # Whatever is sent is compared here: what Gradio itself refuses would be an HTTP 500.
        field.change(show, [chosen, wanted], shown, api_visibility="private", preprocess=False)

    def read_result(result_id: str) -> dict[str, Any]:
        """One result with every answer and verdict."""
        try:
            return as_json(store, result_id)
        except EcoEvalError as error:
            return problem(error, t)

    gr.api(read_result, api_name="result")


def choices(store: Store, t: Texts) -> list[tuple[str, str]]:
    """Results to choose from as (label, id): models first, in the board's order."""
    options = []
    for section in build(load_results_indexed(store)[0]).sections:
        for row in (*section.models, *section.anchors):
            name = t(f"anchor.{row.name}") if row.result.is_anchor else plain(row.name)
            label = f"{name} · {t.number(row.eco.value)} · {plain(section.instrument)}"
            options.append((label, row.result.id))
    return options


def page(store: Store, result_id: str | None, grade: str, t: Texts) -> str:
    """One result as HTML, or the reason there is nothing to show."""
    try:
        result = _find(store, result_id) if result_id else None
        if result is None:
            return f"<div class='eco'><p>{escape(t('page.empty'))}</p></div>"
        return render(result, details(store, result), grade, t)
    except EcoEvalError as error:
        return f"<div class='eco'><p class='eco-warn'>{escape(t.error(error))}</p></div>"


def render(
    result: Result,
    readings: Sequence[Reading],
    grade: str,
    t: Texts,
) -> str:
    """One result as HTML; everything that comes from outside is escaped."""
    score = result.score
    name = t(f"anchor.{result.submission.model.name}") if result.is_anchor else display_name(result)
    css = "eco-warn" if result.has_stand_in else "eco-note"
    judges = "".join(f"<p class='{css}'>{escape(line)}</p>" for line in judge_lines(result.seats, t))
    notes = [*adjusted_lines(result, t), *panel_lines(result, t), *contamination_lines(result, t)]
    adjusted = "".join(f"<p class='eco-note'>{escape(line)}</p>" for line in notes)
    flags = "".join(f"<p class='eco-warn'>{escape(line)}</p>" for line in flag_lines(result, t))
    controls = f"<p class='eco-note'>{escape(controls_line(score.controls, t))}</p>" if score.controls else ""
    who = t("score.attribution", who=plain(result.attribution))
    credit = f"<p class='eco-note'>{escape(who)}</p>" if result.attribution else ""
    counts = t("score.counts", **score.counts.model_dump(exclude={"graded"}))
    kept = [
        reading
        for reading in readings
        if grade == "all" or any(isinstance(j, Graded) and j.grade.value == grade for j in reading.verdicts)
    ]
    cards = "".join(_card(reading, t) for reading in kept)
    return (
        f"<div class='eco'><h2>{escape(plain(name))}: {t.number(score.eco.value)} ({interval(score.eco, t)})</h2>"
        f"{adjusted}{flags}{judges}{controls}<p class='eco-note'>{escape(counts)}</p>"
        f"{_parts(t('page.by_code'), 'code', score.by_code, t)}{_parts(t('page.by_kind'), 'kind', score.by_kind, t)}"
        f"{cards or escape(t('cli.show.none'))}{credit}</div>"
    )


def as_json(store: Store, result_id: str) -> dict[str, Any]:
    """A result with its answers and verdicts."""
    result = _find(store, result_id)
    rows = [
        {"answer": r.answer.model_dump(mode="json"), "judgements": [j.model_dump(mode="json") for j in r.verdicts]}
        for r in details(store, result)
    ]
    return {"result": result.model_dump(mode="json"), "answers": rows}


def _find(store: Store, result_id: str) -> Result:
    found = [result for result in load_results_indexed(store)[0] if result.id == result_id]
    if not found:
        raise InputError("result.unknown", target=printable(str(result_id)[:80]), where="results/")
    return found[0]


def _parts(title: str, names: str, parts: Mapping[str, Estimate], t: Texts) -> str:
    rows = "".join(
        f"<tr><td class='name'>{escape(t(f'{names}.{key}'))}</td>"
        f"<td class='num'><b>{t.number(part.value)}</b><small>{interval(part, t)}</small></td>"
        f"<td>{range_svg(part, t)}</td><td class='num wide'>{part.n}</td></tr>"
        for key, part in parts.items()
    )
    if not rows:
        return ""
    heads = f"<th scope='col'>{escape(title)}</th>" + "".join(
        f"<th scope='col' class='{css}'>{escape(t(f'page.column_{head}'))}</th>"
        for head, css in (("eco", "num"), ("interval", ""), ("n", "num wide"))
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<div class='eco-scroll' tabindex='0'>{table}</div>"


def _card(reading: Reading, t: Texts) -> str:
    answer = reading.answer
    question = f"<div class='text asked'>{escape(plain(answer.prompt))}</div>" if answer.prompt else ""
    notes = [
        t(f"page.note_{note}")
        for note, there in (
            ("truncated", answer.truncated),
            ("empty", answer.is_empty),
            ("reasoning", bool(answer.reasoning)),
        )
        if there
    ]
    extra = f"<span class='eco-note'>{escape(', '.join(notes))}</span>" if notes else ""
    verdicts = "".join(_verdict(judgement, t) for judgement in reading.verdicts)
    analysis = "".join(_analysis(judgement, t) for judgement in reading.verdicts)
    return (
        f"<article class='eco-card'><header>{verdicts}{extra}"
        f"<span class='id'>{escape(plain(answer.prompt_id))}</span></header>"
        f"{question}<div class='text'>{escape(plain(answer.text))}</div>{analysis}</article>"
    )


def _analysis(judgement: Judgement, t: Texts) -> str:
    if not isinstance(judgement, Graded) or not judgement.analysis:
        return ""
    findings = "".join(f"<li><b>{escape(k)}</b> {escape(plain(v))}</li>" for k, v in judgement.findings)
    return (
        f"<details><summary>{escape(t('cli.show.analysis'))}</summary>"
        f"<div class='text'>{escape(plain(judgement.analysis))}</div><ul>{findings}</ul></details>"
    )


def _verdict(judgement: Judgement, t: Texts) -> str:
    if not isinstance(judgement, Graded):
        text = f"{t('grade.ungraded')}: {t(f'cause.{judgement.cause}')}"
        return f"<span class='eco-grade eco-ungraded'>? {escape(text)}</span>"
    grade = judgement.grade
    chip = f"<span class='eco-grade eco-{grade.value}'>{SIGNS[grade]} {escape(t(f'grade.{grade.value}'))}</span>"
    if judgement.probabilities is None:
        return chip
    shares = " / ".join(t.number(p, 2) for p in judgement.probabilities)
    return f"{chip}<span class='eco-note' title='{escape(t('page.column_probabilities'))}'>{shares}</span>"
