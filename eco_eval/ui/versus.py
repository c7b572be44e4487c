"""Two models side by side, on a terminal and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eco_eval.compare import Comparison, Twin
from eco_eval.errors import InputError
from eco_eval.instrument import instrument_names, load_instrument
from eco_eval.stats.comparison import PartDifference
from eco_eval.types import GRADES, Prompt, Result
from eco_eval.ui.terminal import plain
from eco_eval.ui.texts import Texts

_SURE = 0.05


def asked(result: Result, built: Path | None) -> dict[str, Prompt]:
    """The prompts of the instrument a result is of, by id; none where it is one's own, or its prompts were.

    Args:
        built: the folder of prompt sets built on this machine.

    Raises:
        InputError: they are built on each machine, and not on this one.
    """
    name, _, changes = result.submission.instrument.partition(" ")
    if name not in instrument_names() or "[prompts=" in changes:
        return {}
    return {prompt.id: prompt for prompt in load_instrument(name, built=built).asked}


def in_other_languages(
    pairs: Sequence[tuple[Result, Result]], prompts: Mapping[str, Prompt], built: Path | None
) -> list[Twin]:
    """Those pairs of results whose prompts are these in another language."""
    spoken = {prompt.lang for prompt in prompts.values()}
    found = []
    for a, b in pairs:
        try:
            theirs = asked(a, built)
        except InputError:  # its instrument is not here any more: no reason to refuse a comparison that needs none
            continue
        same = [prompt for key, prompt in theirs.items() if key in prompts and prompt.lang not in spoken]
        if same:
            found.append(Twin(a, b, theirs))
            spoken |= {prompt.lang for prompt in same}
    return found


def print_comparison(found: Comparison, t: Texts) -> None:
    """The difference in words, the table of grades, the parts, and the prompts farthest apart."""
    console = Console(highlight=False)
    a, b = plain(found.a), plain(found.b)
    console.print(Text(t("versus.title", a=a, b=b, prompts=found.prompts), style="bold"))
    for warned, key in ((not found.same_prompts, "other_prompts"), (not found.same_judging, "other_judging")):
        if warned:
            console.print(Text(t(f"versus.{key}"), style="yellow"))
    console.print(Text(difference_line(found, t)))
    if found.difference.detectable is not None:
        console.print(Text(t("versus.detectable", detectable=t.number(found.difference.detectable))))
    wins, rate = found.wins, found.wins.rate
    numbers = {"rate": t.number(rate.value), "low": t.number(rate.low), "high": t.number(rate.high)}
    console.print(Text(t("versus.wins", a=a, wins=wins.wins, ties=wins.ties, losses=wins.losses, **numbers)))
    table = Table(title=Text(t("versus.table", a=a, b=b)), title_justify="left")
    table.add_column("")
    for grade in GRADES:
        table.add_column(t(f"grade.{grade}"), justify="right")
    for grade, row in zip(GRADES, found.table, strict=True):
        table.add_row(t(f"grade.{grade}"), *map(str, row))
    console.print(table)
    for title, names, parts in (("by_code", "code", found.by_code), ("by_kind", "kind", found.by_kind)):
        if parts:
            console.print(_parts(t(f"versus.{title}"), names, parts, t))
    if found.languages:
        console.print(_language_table(found, t))
        console.print(Text(t("versus.change_note", lang=t(f"lang.{found.languages[0].lang}")), style="dim"))
    if found.farthest:
        console.print(Text(t("versus.farthest"), style="bold"))
    for apart in found.farthest:
        points = f"{t.number(apart.a, 0):>4} / {t.number(apart.b, 0):<4}"
        line = f"{points} {plain(apart.prompt_id)}: {plain(apart.prompt)[:90]}"
        console.print(Text(line), no_wrap=True, overflow="ellipsis")


def difference_line(found: Comparison, t: Texts) -> str:
    """The difference as a sentence that claims no more than its p allows."""
    estimate, p = found.difference.estimate, found.difference.p
    numbers = {name: t.number(getattr(estimate, name)) for name in ("value", "low", "high")}
    if p > _SURE:
        return t("versus.alike", p=t.number(p, 3), **numbers)
    who = plain(found.a if estimate.value > 0 else found.b)
    return t("versus.difference", p=t.number(p, 4), who=who, **numbers)


def forest(found: Comparison, t: Texts) -> str:
    """The difference with its interval, whole and by part, as a page that opens with no server."""
    import plotly.graph_objects as go

    parts = {
        **{t(f"code.{k}"): p for k, p in found.by_code.items()},
        **{t(f"kind.{k}"): p for k, p in found.by_kind.items()},
        **{t(f"lang.{one.lang}"): one.difference for one in found.languages},
    }
    rows = [(f"<b>{t('versus.gap')}</b>", found.difference), *((name, part.difference) for name, part in parts.items())]
    estimates = [difference.estimate for _, difference in rows]
    error = {
        "type": "data",
        "symmetric": False,
        "array": [e.high - e.value for e in estimates],
        "arrayminus": [e.value - e.low for e in estimates],
    }
    points = go.Scatter(x=[e.value for e in estimates], y=[name for name, _ in rows], error_x=error, mode="markers")
    figure = go.Figure(points)
    figure.add_vline(x=0, line_dash="dot")
    figure.update_yaxes(autorange="reversed")
    title = t("versus.title", a=plain(found.a), b=plain(found.b), prompts=found.prompts)
    figure.update_layout(title=title, template="plotly_white", height=140 + 32 * len(rows))
    return str(figure.to_html(include_plotlyjs=True, full_html=True))


def _language_table(found: Comparison, t: Texts) -> Table:
    table = Table(title=t("versus.by_language"), title_justify="left")
    table.add_column(t("versus.language"))
    for head in (t("versus.gap"), t("page.column_interval"), t("versus.p"), "n"):
        table.add_column(head, justify="right")
    for head in (t("versus.change"), t("page.column_interval"), t("versus.p"), "n"):
        table.add_column(head, justify="right")
    for one in found.languages:
        change = _numbers(one.change, t) if one.change else ["", "", "", ""]
        table.add_row(t(f"lang.{one.lang}"), *_numbers(one.difference, t), *change)
    return table


def _numbers(part: PartDifference, t: Texts) -> list[str]:
    """Difference, interval, adjusted p and count."""
    estimate = part.difference.estimate
    between = f"{t.number(estimate.low)} / {t.number(estimate.high)}"
    return [t.number(estimate.value), between, t.number(part.adjusted_p, 3), str(estimate.n)]


def _parts(title: str, names: str, parts: Mapping[str, PartDifference], t: Texts) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(t("versus.part"))
    for head in (t("versus.gap"), t("page.column_interval"), t("versus.p"), "n"):
        table.add_column(head, justify="right")
    for key, part in parts.items():
        table.add_row(t(f"{names}.{key}"), *_numbers(part, t))
    return table
