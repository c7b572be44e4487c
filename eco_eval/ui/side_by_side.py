"""Two models side by side as HTML: the difference and its parts with intervals, and the answers that make it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape
from typing import NamedTuple

from eco_eval.compare import Comparison
from eco_eval.readings import expected_points
from eco_eval.results import Reading
from eco_eval.stats.comparison import PartDifference
from eco_eval.types import GRADES, Estimate, Graded, Judgement, Result
from eco_eval.ui.answers import body, chips, folded, link, notes, points, reasons
from eco_eval.ui.model_card import named, result_name
from eco_eval.ui.terminal import plain
from eco_eval.ui.texts import Texts
from eco_eval.ui.versus import difference_line

LEFT, RIGHT, MIDDLE = 8.0, 172.0, 90.0


class Pair(NamedTuple):
    """What two models said to one prompt.

    gap: mean points of the first less those of the second, −100 to 100; None where a judge gave one no verdict.
    expected: the same of the points expected under the judges' probabilities.
    """

    a: Reading
    b: Reading
    gap: float | None
    expected: float


def pairs(a: Sequence[Reading], b: Sequence[Reading]) -> list[Pair]:
    """The prompts of both, those with the greatest difference first and those without a verdict last."""
    others = {reading.answer.prompt_id: reading for reading in b}
    found = [_pair(reading, others[reading.answer.prompt_id]) for reading in a if reading.answer.prompt_id in others]
    return sorted(found, key=lambda pair: (pair.gap is None, -abs(pair.gap or 0.0), -abs(pair.expected)))


def _pair(a: Reading, b: Reading) -> Pair:
    x, y = points(a.verdicts), points(b.verdicts)
    if x is None or y is None:
        return Pair(a, b, None, 0.0)
    return Pair(a, b, 100 * (x - y), 100 * (_expected(a.verdicts) - _expected(b.verdicts)))


def _expected(verdicts: Sequence[Judgement]) -> float:
    known = [expected_points(verdict) for verdict in verdicts if isinstance(verdict, Graded)]
    return sum(known) / len(known)


def names(a: Result, b: Result, t: Texts) -> tuple[str, str]:
    """What to call two results; with the start of their ids where one model has both."""
    first, second = result_name(a, t), result_name(b, t)
    return (first, second) if first != second else (f"{first} ({a.id[:8]})", f"{second} ({b.id[:8]})")


def summary(found: Comparison, a: Result, b: Result, t: Texts) -> str:
    """The difference in words, drawn, and in numbers; what comes from outside is escaped."""
    first, second = names(a, b, t)
    found = found.model_copy(update={"a": first, "b": second})
    rate = found.wins.rate
    numbers = {"rate": t.number(rate.value), "low": t.number(rate.low), "high": t.number(rate.high)}
    counts = {"wins": found.wins.wins, "ties": found.wins.ties, "losses": found.wins.losses}
    lines = [("eco-difference", difference_line(found, t))]
    if found.difference.detectable is not None:
        lines.append(("", t("versus.detectable", detectable=t.number(found.difference.detectable))))
    lines.append(("", t("versus.wins", a=found.a, **counts, **numbers)))
    for is_other, key in ((not found.same_prompts, "other_prompts"), (not found.same_judging, "other_judging")):
        if is_other:
            lines.append(("eco-warn", t(f"versus.{key}")))
    said = "".join(f"<p class='{css}'>{escape(line)}</p>" for css, line in lines)
    title = t("versus.title", a=found.a, b=found.b, prompts=found.prompts)
    return f"<div class='eco'><h2>{escape(title)}</h2>{said}{forest_table(found, t)}{_outcomes(found, t)}</div>"


def forest_table(found: Comparison, t: Texts) -> str:
    """The difference, whole and by part, drawn with its interval beside its numbers."""
    languages = {named("lang", one.lang, t): one.difference for one in found.languages}
    changes = {named("lang", one.lang, t): one.change for one in found.languages if one.change is not None}
    sections: dict[str, dict[str, PartDifference]] = {
        t("versus.by_code"): {named("code", key, t): part for key, part in found.by_code.items()},
        t("versus.by_kind"): {named("kind", key, t): part for key, part in found.by_kind.items()},
        t("versus.by_language"): languages,
        t("page.compare.change"): changes,
    }
    estimates = [found.difference.estimate]
    estimates += [part.difference.estimate for parts in sections.values() for part in parts.values()]
    reach = max(5.0, *(abs(end) for one in estimates for end in (one.low, one.high)))
    whole = _row(t("page.compare.whole"), found.difference.estimate, found.difference.p, reach, t, css="whole")
    rows = [whole]
    for title, parts in sections.items():
        if parts:
            rows.append(f"<tr class='split'><th scope='rowgroup' colspan='5'>{escape(title)}</th></tr>")
            rows += [_row(name, p.difference.estimate, p.adjusted_p, reach, t) for name, p in parts.items()]
    heads = "".join(
        f"<th scope='col' class='{css}'>{escape(text)}</th>"
        for text, css in (
            (t("versus.part"), ""),
            (t("versus.gap"), "num"),
            (t("page.compare.drawn"), ""),
            (t("page.compare.p"), "num"),
            ("n", "num wide"),
        )
    )
    sides = t("page.compare.sides", a=plain(found.a), b=plain(found.b), reach=t.number(reach, 0))
    note = f"<p class='eco-note'>{escape(sides)}</p>"
    if changes:
        note += (
            f"<p class='eco-note'>{escape(t('versus.change_note', lang=named('lang', found.languages[0].lang, t)))}</p>"
        )
    table = f"<table class='eco-forest'><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"{note}<div class='eco-scroll' tabindex='0' role='region' aria-label='{escape(sides)}'>{table}</div>"


def _row(name: str, estimate: Estimate, p: float, reach: float, t: Texts, css: str = "") -> str:
    between = t("page.compare.between", low=_signed(estimate.low, t), high=_signed(estimate.high, t))
    return (
        f"<tr class='{css}'><th scope='row'>{escape(name)}</th>"
        f"<td class='num'><b>{_signed(estimate.value, t)}</b><small>{escape(between)}</small></td>"
        f"<td>{difference_svg(estimate, reach, t)}</td><td class='num'>{_chance(p, t)}</td>"
        f"<td class='num wide'>{estimate.n}</td></tr>"
    )


def difference_svg(estimate: Estimate, reach: float, t: Texts) -> str:
    """A difference and its interval drawn from −reach to reach, with the numbers as its text alternative."""
    low, value, high = (_at(end, reach) for end in (estimate.low, estimate.value, estimate.high))
    between = t("page.compare.between", low=_signed(estimate.low, t), high=_signed(estimate.high, t))
    label = escape(f"{_signed(estimate.value, t)} ({between})")
    return (
        f"<svg class='range' viewBox='0 0 180 22' role='img' aria-label='{label}'>"
        f"<line class='base' x1='{LEFT:.0f}' x2='{RIGHT:.0f}' y1='11' y2='11'/>"
        f"<line class='zero' x1='{MIDDLE:.0f}' x2='{MIDDLE:.0f}' y1='1' y2='21'/>"
        f"<line class='ci' x1='{low:.1f}' x2='{high:.1f}' y1='11' y2='11'/>"
        f"<circle class='dot' cx='{value:.1f}' cy='11' r='5'/></svg>"
    )


def _at(value: float, reach: float) -> float:
    return MIDDLE + max(-1.0, min(1.0, value / reach)) * (RIGHT - MIDDLE)


def _signed(value: float, t: Texts) -> str:
    text = t.number(abs(value))
    return text if not any(c in "123456789" for c in text) else f"{'−' if value < 0 else '+'}{text}"


def _chance(p: float, t: Texts) -> str:
    return f"&lt; {t.number(0.001, 3)}" if p < 0.001 else t.number(p, 3)


def _outcomes(found: Comparison, t: Texts) -> str:
    """How often each pair of grades was given."""
    caption = escape(t("versus.table", a=plain(found.a), b=plain(found.b)))
    heads = "".join(f"<th scope='col' class='num'>{escape(t(f'grade.{grade}'))}</th>" for grade in GRADES)
    rows = "".join(
        f"<tr><th scope='row'>{escape(t(f'grade.{grade}'))}</th>"
        + "".join(f"<td class='num{' same' if i == j else ''}'>{count}</td>" for j, count in enumerate(counts))
        + "</tr>"
        for i, (grade, counts) in enumerate(zip(GRADES, found.table, strict=True))
    )
    return (
        f"<details><summary>{caption}</summary><div class='eco-scroll' tabindex='0'><table class='eco-outcomes'>"
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def pair_card(pair: Pair, a: Result, b: Result, is_control: bool, t: Texts) -> str:
    """One prompt, with what each model said and how it was graded."""
    asked, other = pair.a.answer.prompt, pair.b.answer.prompt
    question = folded(asked, t, "text asked") if asked else ""
    first, second = names(a, b, t)
    sides = _side(pair.a, a, first, "", t) + _side(pair.b, b, second, other if other != asked else "", t)
    control = f"<span class='eco-note'>{escape(t('page.note_control'))}</span>" if is_control else ""
    return (
        f"<article class='eco-card'><header><b>{escape(_gap_line(pair, a, b, t))}</b>{control}"
        f"<span class='id'>{escape(plain(pair.a.answer.prompt_id))}</span></header>"
        f"{question}<div class='eco-sides'>{sides}</div></article>"
    )


def _gap_line(pair: Pair, a: Result, b: Result, t: Texts) -> str:
    if pair.gap is None:
        return t("page.compare.no_gap")
    if pair.gap == 0:
        return t("page.compare.same")
    better = names(a, b, t)[0 if pair.gap > 0 else 1]
    return t("page.compare.better", who=better, gap=t.number(abs(pair.gap), 0))


def _side(reading: Reading, result: Result, name: str, asked: str, t: Texts) -> str:
    answer, verdicts = reading
    href = escape(link(result.id, answer.prompt_id))
    heading = f"<h3><a href='{href}' target='_self'>{escape(name)}</a></h3>"
    question = folded(asked, t, "text asked") if asked else ""
    return (
        f"<section>{heading}<div class='eco-verdicts'>{chips(verdicts, result.seats, t)}{notes(answer, False, t)}</div>"
        f"{question}{body(answer, t)}{reasons(verdicts, result.seats, t)}</section>"
    )


def pair_list(shown: Sequence[Pair], a: Result, b: Result, controls: Collection[str], t: Texts) -> str:
    """Prompts with what both models said."""
    return "".join(pair_card(pair, a, b, pair.a.answer.prompt_id in controls, t) for pair in shown)
