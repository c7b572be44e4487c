"""The card of one result as HTML: scores by part, what failed, what it cost, where it comes from, how to repeat it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape

from eco_eval.results import Reading, display_name
from eco_eval.types import Energy, EngineInfo, Estimate, Graded, ModelRef, Result
from eco_eval.ui.answers import copy_button
from eco_eval.ui.pages.board import range_svg
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

Rows = list[tuple[str, str]]
"""Names, and what stands beside them as HTML."""


def card(result: Result, readings: Sequence[Reading], t: Texts, hub_repo: str | None = None) -> str:
    """Everything about a result but its answers; what comes from outside is escaped.

    Args:
        hub_repo: the Hub dataset the result is kept in, if it is in one.
    """
    score = result.score
    name = result_name(result, t)
    css = "eco-warn" if result.has_stand_in else "eco-note"
    lines = [("eco-note", line) for line in (*adjusted_lines(result, t), *panel_lines(result, t))]
    lines += [("eco-note", line) for line in contamination_lines(result, t)]
    lines += [("eco-warn", line) for line in flag_lines(result, t)]
    lines += [(css, line) for line in judge_lines(result.seats, t)]
    if score.controls:
        lines.append(("eco-note", controls_line(score.controls, t)))
    said = "".join(f"<p class='{css}'>{escape(line)}</p>" for css, line in lines)
    credit = t("score.attribution", who=plain(result.attribution)) if result.attribution else ""
    return (
        f"<div class='eco'><h2>{escape(name)}: {t.number(score.eco.value)} ({interval(score.eco, t)})</h2>{said}"
        f"{_failures(result, readings, t)}"
        f"{_parts(t('page.by_code'), 'code', score.by_code, t)}{_parts(t('page.by_kind'), 'kind', score.by_kind, t)}"
        f"{_commands(result, hub_repo, t)}"
        f"<details><summary>{escape(t('page.model.provenance'))}</summary>{_about(provenance(result, t))}</details>"
        f"<details><summary>{escape(t('page.model.cost'))}</summary>{_cost(result, t)}</details>"
        + (f"<p class='eco-note'>{escape(credit)}</p>" if credit else "")
        + "</div>"
    )


def result_name(result: Result, t: Texts) -> str:
    """A model's name; an anchor by what it is."""
    name = result.submission.model.name
    return named("anchor", name, t) if result.is_anchor else plain(display_name(result))


def named(table: str, key: str, t: Texts) -> str:
    """A word of the domain in the reader's language; as it is, where another version of this program wrote it."""
    try:
        return t(f"{table}.{key}")
    except KeyError:
        return plain(key)


def failures(readings: Sequence[Reading], result: Result, t: Texts) -> dict[str, int]:
    """What went wrong with how many answers, in words; nothing that did not happen."""
    found: Counter[str] = Counter()
    for answer, _ in readings:
        if answer.failure is not None:
            found[t(f"page.model.failure_{answer.failure.cause}")] += 1
        elif answer.is_empty:
            found[t("page.model.silent")] += 1
        if answer.truncated:
            found[t("page.model.cut")] += 1
    several = len(result.seats) > 1
    for number, seat in enumerate(result.seats):
        for _, verdicts in readings:
            verdict = verdicts[number]
            if not isinstance(verdict, Graded):
                who = f" ({plain(seat.name)})" if several else ""
                found[f"{t('grade.ungraded')}: {t(f'cause.{verdict.cause}')}{who}"] += 1
    return dict(found.most_common())


def _failures(result: Result, readings: Sequence[Reading], t: Texts) -> str:
    counts = escape(t("score.counts", **result.score.counts.model_dump(exclude={"graded"})))
    found = failures(readings, result, t)
    if not found:
        return f"<p class='eco-note'>{counts}</p>"
    listed = "".join(f"<li>{escape(what)}: <b>{count}</b></li>" for what, count in found.items())
    low, high = (t.number(end) for end in result.score.bounds)
    bounds = escape(t("page.model.bounds", low=low, high=high)) if result.score.counts.ungraded else ""
    return (
        f"<p class='eco-note'>{counts} {bounds}</p>"
        f"<h3>{escape(t('page.model.failures'))}</h3><ul class='eco-failures'>{listed}</ul>"
    )


def _parts(title: str, names: str, parts: Mapping[str, Estimate], t: Texts) -> str:
    rows = "".join(
        f"<tr><td class='name'>{escape(named(names, key, t))}</td>"
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
    table = f"<table class='eco-parts'><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<div class='eco-scroll' tabindex='0' role='region' aria-label='{escape(title)}'>{table}</div>"


def commands(result: Result, hub_repo: str | None) -> list[tuple[str, str]]:
    """The commands that make a result again: which kind each is, and the command."""
    here = ("here", f"eco-eval reproduce {result.id}")
    if hub_repo is None:
        return [here]
    return [("hub", f"eco-eval reproduce hf://datasets/{hub_repo}/results/{result.id}.json"), here]


def _commands(result: Result, hub_repo: str | None, t: Texts) -> str:
    if result.is_anchor:
        return ""
    rows = "".join(
        f"<p class='eco-note'>{escape(t(f'page.model.command_{kind}'))}</p>"
        f"<div class='eco-command'><code>{escape(command)}</code>{copy_button(command, t, t('page.model.copy'))}</div>"
        for kind, command in commands(result, hub_repo)
    )
    return f"<h3>{escape(t('page.model.reproduce'))}</h3>{rows}"


def provenance(result: Result, t: Texts) -> Rows:
    """What made a result, with the digests that pin it."""
    sub, made = result.submission, result.provenance
    rows: Rows = [(t("page.model.name"), _model(sub.model))]
    if sub.system_prompt:
        rows.append((t("page.model.system_prompt"), f"<span class='text'>{escape(plain(sub.system_prompt))}</span>"))
    rows += _weights(result, t)
    if made.candidate is not None:
        rows.append((t("page.model.engine"), escape(_engine(made.candidate))))
    for seat in result.seats:
        engine = f" · {_engine(seat.engine)}" if seat.engine else ""
        judge = f"{escape(plain(seat.name))} <code>{escape(plain(seat.revision))}</code>{escape(engine)}"
        rows.append((t("page.model.judge"), judge))
    rows += [
        (t("page.model.instrument"), escape(plain(sub.instrument))),
        (t("page.model.result"), _code(result.id)),
        (t("page.model.asked"), _code(sub.asked_digest)),
        (t("page.model.measured"), _code(sub.measured_digest)),
        (t("page.model.answers"), _code(result.answers_path)),
        (t("page.model.judgements"), " ".join(_code(seat.judgements_path) for seat in result.seats)),
        (t("page.model.finished"), escape(moment(made.finished_at, t))),
        ("eco-eval", escape(plain(made.eco_eval))),
    ]
    if made.libraries:
        rows.append(
            (t("page.model.libraries"), escape(plain(", ".join(f"{k} {v}" for k, v in made.libraries.items()))))
        )
    if made.audited:
        rows.append((t("page.model.audited"), f"{made.audited} {_code(made.audits)}"))
    return rows


def _model(ref: ModelRef) -> str:
    text = f"{escape(plain(ref.name))} ({escape(ref.source)}, {escape(plain(ref.dtype))}) {_code(ref.revision)}"
    return text if ref.base is None else f"{text}<br>← {_model(ref.base)}"


def _weights(result: Result, t: Texts) -> Rows:
    found: Rows = []
    weights, declared = result.weights, result.declared
    if weights is not None:
        size = t("page.model.size", parameters=count(weights.parameters, t), gigabytes=t.number(weights.bytes / 1e9, 2))
        words = [t(f"page.model.kind_{weights.kind}"), weights.architecture, size, weights.dtype, weights.quantisation]
        found.append((t("page.model.weights"), escape(plain(" · ".join(part for part in words if part)))))
        found.append((t("page.model.licence"), escape(plain(weights.licence or t("page.model.unsaid")))))
    for key, values in (("base_models", declared.base_models), ("datasets", declared.datasets)):
        if values:
            found.append((t(f"page.model.{key}"), escape(plain(", ".join(values)))))
    return found


def count(parameters: int, t: Texts) -> str:
    """A number of parameters as people say it."""
    if parameters >= 999_500_000:
        return t("page.model.billions", count=t.number(parameters / 1e9, 1))
    return t("page.model.millions", count=t.number(parameters / 1e6, 0 if parameters >= 9_500_000 else 1))


def _engine(info: EngineInfo) -> str:
    return plain(f"{info.engine} {info.version}, {info.dtype}, {info.device}")


def _code(text: str) -> str:
    return f"<code>{escape(plain(text))}</code>"


def moment(said: str, t: Texts) -> str:
    """An ISO 8601 moment in the language's form, with its zone; as it is where it is none."""
    try:
        when = datetime.fromisoformat(said)
    except ValueError:
        return plain(said)[:40]
    return when.strftime("%d/%m/%Y %H:%M %Z" if t.lang == "es" else "%Y-%m-%d %H:%M %Z").strip()


def _about(rows: Rows) -> str:
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in rows)
    return f"<dl class='eco-about'>{listed}</dl>"


def _cost(result: Result, t: Texts) -> str:
    seconds, energy = result.provenance.seconds, result.provenance.energy
    stages = list(dict.fromkeys([*seconds, *energy]))
    if not stages:
        return f"<p class='eco-note'>{escape(t('page.model.no_cost'))}</p>"
    rows = "".join(
        f"<tr><th scope='row'>{escape(named('page.model.stage', stage, t))}</th>"
        f"<td class='num'>{escape(duration(seconds[stage], t)) if stage in seconds else '–'}</td>"
        f"{_drawn(energy.get(stage), t)}</tr>"
        for stage in stages
    )
    heads = "".join(
        f"<th scope='col' class='{'num' if head != 'stage' else ''}'>{escape(t(f'page.model.column_{head}'))}</th>"
        for head in ("stage", "time", "energy", "carbon")
    )
    measured = all(one.measured for one in energy.values())
    key = "no_energy" if not energy else "measured_note" if measured else "reckoned_note"
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}{_total(result, t)}</tbody></table>"
    return f"<div class='eco-scroll' tabindex='0'>{table}</div><p class='eco-note'>{escape(t(f'page.model.{key}'))}</p>"


def _total(result: Result, t: Texts) -> str:
    seconds, energy = result.provenance.seconds, result.provenance.energy
    if len(seconds) < 2:
        return ""
    known = [one.grams for one in energy.values() if one.grams is not None]
    grams = sum(known) if known and len(known) == len(energy) else None
    whole = Energy(kwh=sum(one.kwh for one in energy.values()), measured=False, grams=grams) if energy else None
    time = escape(duration(sum(seconds.values()), t))
    return f"<tr><th scope='row'>{escape(t('page.model.total'))}</th><td class='num'>{time}</td>{_drawn(whole, t)}</tr>"


def _drawn(energy: Energy | None, t: Texts) -> str:
    if energy is None:
        return "<td class='num'>–</td><td class='num'>–</td>"
    grams = "–" if energy.grams is None else figures(energy.grams, t)
    return f"<td class='num'>{figures(energy.kwh, t)}</td><td class='num'>{grams}</td>"


def figures(value: float, t: Texts) -> str:
    """A number with about two figures, however small."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 4 if value >= 0.001 else 6
    return t.number(value, digits)


def duration(seconds: float, t: Texts) -> str:
    """A time as people say it."""
    if seconds < 60:
        return f"{t.number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
