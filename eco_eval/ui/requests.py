"""A request as people and programs may see it: as a record, and as HTML in which everything from outside is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Literal, get_args

from eco_eval.candidates import Intake
from eco_eval.errors import EcoEvalError, InputError
from eco_eval.queue import Entry, Failed, Finished, Pending, Running
from eco_eval.reception import Asked, Examined
from eco_eval.types import Record
from eco_eval.ui.terminal import plain
from eco_eval.ui.texts import Texts

State = Literal["pending", "running", "finished", "failed", "cancelled", "withdrawn"]
STATES: tuple[State, ...] = get_args(State)


class Shown(Record):
    """A request as anybody may see it: without who asked, and without names of machines and folders.

    position: its place in the queue, from 1. reason: why it failed, in the language of the page; cause: the same as a
    word for programs. Times in seconds since 1970.
    """

    id: str
    model: str
    revision: str
    base: str | None
    instrument: str
    engine: str
    dtype: str
    has_system_prompt: bool
    state: State
    position: int | None = None
    stage: str | None = None
    done: int | None = None
    total: int | None = None
    result: str | None = None
    cause: str | None = None
    reason: str | None = None
    attempt: int
    made_at: float
    updated_at: float


def shown(entry: Entry, t: Texts) -> Shown:
    """A request as anybody may see it."""
    submission, state = entry.request.submission, entry.state
    more: dict[str, Any] = {}
    if isinstance(state, Pending):
        more = {"position": state.position}
    elif isinstance(state, Running):
        more = {"stage": state.stage, "done": state.done, "total": state.total}
    elif isinstance(state, Finished):
        more = {"result": state.result}
    elif isinstance(state, Failed):
        more = {"stage": state.stage, "cause": state.key, "reason": reason(state, t)}
    model = submission.model
    return Shown(
        id=entry.request.id,
        model=model.name,
        revision=model.revision,
        base=f"{model.base.name}@{model.base.revision}" if model.base is not None else None,
        instrument=submission.instrument,
        engine=entry.request.engine,
        dtype=model.dtype,
        has_system_prompt=bool(submission.system_prompt),
        state=state.state,
        attempt=entry.attempt,
        made_at=entry.made_at,
        updated_at=entry.updated_at,
        **more,
    )


def reason(state: Failed, t: Texts) -> str:
    """Why a request failed, in one sentence."""
    # No `StageError`: the tail of a log is for whoever asked.
    error = InputError(state.key)
    error.values.update(state.values)
    try:
        said = t.error(error)
        # Some announce a log's tail, which does not follow here.
        return f"{said.rpartition('. ')[0]}." if said.endswith(":") else said
    # A worker of another version may know messages that are not known here.
    except KeyError:
        return f"{state.key}: {', '.join(state.values.values())}"


def intro_html(t: Texts) -> str:
    """What is checked, what happens then, and what becomes of it."""
    lines = "".join(f"<li>{escape(t(f'submit.intro_{number}'))}</li>" for number in ("checked", "then", "after"))
    return f"<div class='eco'><ul class='eco-steps'>{lines}</ul></div>"


def you_html(user: str | None, t: Texts) -> str:
    """Who asks."""
    return note_html(t("submit.nobody") if user is None else t("submit.you", user=user.partition(":")[2]))


def examined_html(examined: Examined, entry: Entry | None, t: Texts) -> str:
    """What a model is, and whether just this was asked for before."""
    intake = examined.intake
    rows = _about(intake, t)
    if intake.base is not None:
        rows.append((t("submit.about_base"), f"{intake.base.name} @ {intake.base.revision[:12]}"))
    known = f"<p>{escape(t('submit.known', state=state_text(shown(entry, t), t)))}</p>" if entry is not None else ""
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{escape(plain(value))}</dd>" for name, value in rows)
    return (
        f"<div class='eco' role='status'><p class='eco-ok'>{escape(t('submit.fits', model=plain(intake.name)))}</p>"
        f"<dl class='eco-about'>{cells}</dl>{known}</div>"
    )


def asked_html(asked: Asked, wait: float | None, t: Texts) -> str:
    """That it is asked for, its place and the wait."""
    told = shown(asked.entry, t)
    first = t("submit.entered" if asked.is_new else "submit.already", model=plain(told.model))
    parts = [f"<p class='eco-ok'>{escape(first)}</p>", f"<p>{escape(_standing(told, wait, t))}</p>"]
    return (
        f"<div class='eco' role='status'>{''.join(parts)}<p class='eco-note'><code>{escape(told.id)}</code></p></div>"
    )


def problem_html(error: EcoEvalError, t: Texts) -> str:
    """Why nothing came of it."""
    return f"<div class='eco'><p class='eco-warn' role='alert'>{escape(_first(t.error(error)))}</p></div>"


def own_html(entries: Sequence[Entry], waits: Sequence[float | None], t: Texts) -> str:
    """One's own requests, failures with the tail of their log."""
    body = f"<p class='eco-note'>{escape(t('submit.none_mine'))}</p>" if not entries else ""
    for entry, wait in zip(entries, waits, strict=True):
        told, state = shown(entry, t), entry.state
        log = state.values.get("log", "").strip() if isinstance(state, Failed) else ""
        tail = (
            f"<details><summary>{escape(t('submit.log'))}</summary><pre>{escape(plain(log))}</pre></details>"
            if log
            else ""
        )
        body += (
            f"<article class='eco-card'><header><b class='name'>{escape(plain(told.model))}</b>{_chip(told, t)}"
            f"<span class='id'>{escape(_how(told, t))}</span></header>"
            f"<p>{escape(_standing(told, wait, t))}</p>{_bar(told)}{tail}</article>"
        )
    return f"<div class='eco'><h2>{escape(t('submit.mine'))}</h2>{body}</div>"


def queue_html(entries: Sequence[Shown], counts: Mapping[str, int], t: Texts) -> str:
    """The queue as anybody may see it."""
    title = f"<h2>{escape(t('submit.queue'))}</h2>"
    if not entries:
        return f"<div class='eco'>{title}<p class='eco-note'>{escape(t('submit.none'))}</p></div>"
    total = ", ".join(f"{t(f'submit.state.{state}')} {counts[state]}" for state in STATES if counts.get(state))
    heads = (("model", "name"), ("state", ""), ("instrument", "wide"), ("since", "wide"))
    head = "".join(f"<th scope='col' class='{css}'>{escape(t(f'submit.column_{name}'))}</th>" for name, css in heads)
    rows = "".join(
        f"<tr><td class='name'>{escape(plain(told.model))}</td>"
        f"<td>{_chip(told, t)}<small>{escape(_standing(told, None, t))}</small></td>"
        f"<td class='wide'>{escape(plain(told.instrument))}</td><td class='wide'>{t.time(told.updated_at)}</td></tr>"
        for told in entries
    )
    return (
        f"<div class='eco'>{title}<p class='eco-note'>{escape(total)}</p><div class='eco-scroll' tabindex='0'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></div>"
    )


def state_text(told: Shown, t: Texts) -> str:
    """A request's state in few words."""
    return t(f"submit.state.{told.state}")


def duration(seconds: float, t: Texts) -> str:
    """About how long, in minutes or hours."""
    minutes = max(1, math.ceil(seconds / 60))
    return t("submit.minutes", count=minutes) if minutes < 90 else t("submit.hours", count=t.number(minutes / 60))


def _about(intake: Intake, t: Texts) -> list[tuple[str, str]]:
    weights = intake.weights
    facts = [
        ("kind", t(f"submit.kind_{intake.kind}")),
        ("architecture", intake.architecture),
        ("parameters", t("submit.millions", count=t.number(weights.parameters / 1e6))),
        ("size", t("submit.megabytes", count=t.number(weights.bytes / 1e6))),
        ("dtype", intake.dtype),
        ("licence", intake.licence or t("submit.no_licence")),
        ("revision", intake.revision),
        ("scanned", t("submit.yes" if intake.scanned else "submit.not_yet")),
    ]
    return [(t(f"submit.about_{name}"), value) for name, value in facts]


def _standing(told: Shown, wait: float | None, t: Texts) -> str:
    """Where a request is, in one sentence."""
    if told.state == "pending":
        place = t("submit.place", position=told.position)
        return f"{place} {t('submit.wait', duration=duration(wait, t))}" if wait is not None else place
    if told.state == "running":
        return t("submit.stage", stage=_stage(told, t), done=told.done, total=told.total)
    if told.state == "failed":
        return t("submit.failed", stage=_stage(told, t), reason=told.reason)
    if told.state == "finished":
        return t("submit.finished", result=told.result)
    return t("submit.stopped", when=t.time(told.updated_at))


def _stage(told: Shown, t: Texts) -> str:
    try:
        return t(f"queue.stage.{told.stage}")
    # A worker of another version may know stages that are not known here.
    except KeyError:
        return str(told.stage)


def _how(told: Shown, t: Texts) -> str:
    system = f" · {t('submit.has_system_prompt')}" if told.has_system_prompt else ""
    return plain(f"{told.instrument} · {told.engine} · {told.dtype}{system} · {told.id}")


def _chip(told: Shown, t: Texts) -> str:
    return f"<span class='eco-state eco-state-{told.state}'>{escape(state_text(told, t))}</span>"


def _bar(told: Shown) -> str:
    if told.state != "running" or not told.total:
        return ""
    return f"<progress max='{told.total}' value='{told.done}'></progress>"


def note_html(text: str) -> str:
    return f"<div class='eco'><p class='eco-note'>{escape(text)}</p></div>"


def _first(text: str) -> str:
    return text.partition("\n")[0]
