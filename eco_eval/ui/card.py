"""The judge card for people: Markdown, plots, and the terminal."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from eco_eval.instrument import Instrument
from eco_eval.judge_card import JudgeCard, card_path
from eco_eval.store import Store
from eco_eval.types import GRADES, Estimate
from eco_eval.ui.terminal import plain
from eco_eval.ui.texts import Texts


def print_card(card: JudgeCard, t: Texts) -> None:
    """The card on a terminal."""
    Console().print(Markdown(markdown(card, t)))


def keep_pages(card: JudgeCard, instrument: Instrument, store: Store, t: Texts) -> list[str]:
    """Write the card as Markdown and its plots as a page beside its JSON; returns the three paths."""
    path = card_path(instrument)
    pages = {path.replace(".json", ".md"): markdown(card, t), path.replace(".json", ".html"): plots(card, t)}
    for name, text in pages.items():
        store.write(name, text.encode())
    return [path, *pages]


def markdown(card: JudgeCard, t: Texts) -> str:
    """The card as Markdown."""
    name = card.judge.model if card.judge else "—"
    parts = [
        f"# {t('card.title', judge=_said(name))}",
        t("card.stand_in") if card.stand_in else "",
        t(f"card.verdict_{card.verdict}"),
        t("card.about", triples=card.triples, ungraded=card.ungraded, instrument=_said(card.instrument)),
        f"## {t('card.agreement')}",
        _table(
            [t("card.measure"), t("card.value"), t("page.column_interval")],
            [[t(f"card.name.{key}"), *_cells(found, t, key)] for key, found in card.agreement.items()],
        ),
        t("card.agreement_note"),
        f"## {t('card.confusion')}",
        _table(
            [t("card.truth"), *(t(f"grade.{grade}") for grade in GRADES)],
            [[t(f"grade.{g}"), *map(str, row)] for g, row in zip(GRADES, card.confusion, strict=True)],
        ),
        f"## {t('card.baselines')}",
        _table(
            [t("card.way"), t("card.name.order"), t("card.name.exact")],
            [
                [t(f"card.way_{way}"), *(_with_interval(found.get(key), t) for key in ("order", "exact"))]
                for way, found in card.baselines.items()
            ],
        ),
        f"## {t('card.attacks')}",
        t("card.attacks_note", worst=_with_interval(card.worst, t)),
        _table(
            [t("card.attack"), t("card.false_good"), t("page.column_interval"), t("card.score"), t("card.fooled")],
            [
                [
                    t(f"card.attack_name.{key}"),
                    *_cells(found, t, "attack"),
                    _with_interval(card.scores[key], t),
                    "✗" if card.is_fooled_by(key) else "",
                ]
                for key, found in card.attacks.items()
            ],
        ),
    ]
    if card.kept:
        rows = [[t(f"card.attack_name.{key}"), *_cells(found, t, "attack")] for key, found in card.kept.items()]
        parts += [t("card.kept_note"), _table([t("card.change"), t("card.kept"), t("page.column_interval")], rows)]
    if card.drift is not None:
        drift = card.drift
        changed, shift = t.number(drift.changed), t.number(drift.shift)
        parts += [
            f"## {t('card.drift')}",
            t("card.drift_line", since=drift.since, n=drift.n, changed=changed, shift=shift),
        ]
    if card.gate:
        rows = [
            [
                "✓" if check.passed else "✗",
                t(f"card.gate_{check.name}"),
                _number(check.value, t, 2),
                t.number(check.limit, 2),
            ]
            for check in card.gate
        ]
        heads = ["", t("card.measure"), t("card.worse_end"), t("card.limit")]
        parts += [f"## {t('card.gate')}", _table(heads, rows)]
    parts.append(f"## {t('card.parts')}")
    for way, found in card.parts.items():
        if not found:
            continue
        rows = [[_part_name(way, key, t), *_cells(part, t, "order"), str(part.n)] for key, part in found.items()]
        heads = [t(f"card.part_{way}"), t("card.name.order")]
        parts.append(_table([*heads, t("page.column_interval"), "n"], rows))
    if card.calibration_error is not None:
        parts.append(t("card.calibration", error=t.number(card.calibration_error, 2)))
    return "\n\n".join(part for part in parts if part) + "\n"


def plots(card: JudgeCard, t: Texts) -> str:
    """A page with the confusion matrix, the calibration curve and the attacks, that opens with no server."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    titles = [t("card.confusion"), t("card.calibration_title"), t("card.attacks")]
    figure = make_subplots(rows=3, cols=1, subplot_titles=titles, row_heights=[0.28, 0.3, 0.42])
    grades = [t(f"grade.{grade}") for grade in GRADES]
    heat = go.Heatmap(
        z=card.confusion,
        x=grades,
        y=grades,
        text=card.confusion,
        texttemplate="%{text}",
        showscale=False,
        colorscale="Teal",
    )
    figure.add_trace(heat, row=1, col=1)
    figure.update_yaxes(autorange="reversed", row=1, col=1)
    said, deserved = [b.said for b in card.calibration], [b.deserved for b in card.calibration]
    figure.add_trace(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot"}, showlegend=False), row=2, col=1)
    figure.add_trace(go.Scatter(x=said, y=deserved, mode="lines+markers", showlegend=False), row=2, col=1)
    measured = {key: rate for key, rate in card.attacks.items() if rate is not None}
    names = [t(f"card.attack_name.{key}") for key in measured]
    rates = list(measured.values())
    error: dict[str, Any] = {
        "type": "data",
        "symmetric": False,
        "array": [rate.high - rate.value for rate in rates],
        "arrayminus": [rate.value - rate.low for rate in rates],
    }
    bars = go.Bar(y=names, x=[rate.value for rate in rates], orientation="h", error_x=error, showlegend=False)
    figure.add_trace(bars, row=3, col=1)
    # Plotly reads tags in a title, some with an address to fetch.
    name = html.escape(plain(card.judge.model if card.judge else "—"))
    figure.update_layout(title=t("card.title", judge=name), height=1100, template="plotly_white")
    return str(figure.to_html(include_plotlyjs=True, full_html=True))


def _part_name(way: str, key: str, t: Texts) -> str:
    if way == "codes":
        return t(f"code.{key}")
    if way == "kind":
        return t(f"kind.{key}")
    return _said(key) if way == "variety" else t(f"card.{way}_{key}")


def _said(text: str) -> str:
    """Untrusted text as one line of plain words: no link, picture or tag for Markdown to make."""
    return re.sub(r"([\\`*_\[\]<>&])", r"\\\1", " ".join(plain(text).split()))


def _cells(found: Estimate | None, t: Texts, key: str) -> list[str]:
    if found is None:
        return [t("card.undefined"), ""]
    digits = 2 if key in ("kappa", "alpha", "ac2") else 1
    return [t.number(found.value, digits), f"{t.number(found.low, digits)}–{t.number(found.high, digits)}"]


def _with_interval(found: Estimate | None, t: Texts) -> str:
    return "—" if found is None else f"{t.number(found.value)} ({t.number(found.low)}–{t.number(found.high)})"


def _number(value: float | None, t: Texts, digits: int = 1) -> str:
    return "—" if value is None else t.number(value, digits)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join((line(heads), line(["---"] * len(heads)), *map(line, rows)))
