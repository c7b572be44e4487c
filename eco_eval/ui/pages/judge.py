"""What is known of each judge: what it gets right, what fools it, how it drifts, and whether it may be published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from eco_eval.board import build
from eco_eval.errors import EcoEvalError, StoreError
from eco_eval.judge_card import Bin, Check, JudgeCard
from eco_eval.store import Store, read_record
from eco_eval.store.index import load_results_indexed
from eco_eval.types import GRADES, Estimate, Seat
from eco_eval.ui.board_table import range_svg
from eco_eval.ui.model_card import moment, named
from eco_eval.ui.terminal import interval, judge_lines, plain
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    import gradio as gr

CARDS = "audits/judges/"

SHARES = ("order", "strict", "exact")
"""Measures of agreement on 0 to 100; the others are coefficients on −1 to 1."""


class Known(NamedTuple):
    """Cards, the newest of each judge as it is; paths of those that cannot be read; judges on the board without one."""

    cards: Sequence[JudgeCard]
    broken: Sequence[str]
    unaudited: Sequence[Seat]


def build_page(site: gr.Blocks, store: Store, t: Texts) -> None:
    """Lay the cards out, read anew each time the page is opened."""
    import gradio as gr

    shown = gr.HTML()
    site.load(lambda: page(store, t), None, shown, api_visibility="private")


def page(store: Store, t: Texts) -> str:
    """Every judge's card as HTML, or the reason there is none."""
    try:
        return render(read_cards(store), t)
    except EcoEvalError as error:
        return f"<div class='eco'><p class='eco-warn'>{escape(t.error(error))}</p></div>"


def read_cards(store: Store) -> Known:
    """The judges that were audited and those that were not.

    Raises:
        StoreError: the store cannot be read.
    """
    newest: dict[tuple[str, str], JudgeCard] = {}
    broken = []
    for path in store.list(CARDS):
        if not path.endswith(".json"):
            continue
        try:
            card = read_record(store, path, JudgeCard)
        except StoreError as error:
            if error.key != "store.corrupt":
                raise
            broken.append(path)
            continue
        # Withdrawn meanwhile, or attacks without the scores that go with them.
        if card is None or set(card.attacks) != set(card.scores):
            broken += [path] if card is not None else []
            continue
        key = (card.instrument, card.judging_digest)
        if key not in newest or newest[key].made_at < card.made_at:
            newest[key] = card
    cards = sorted(newest.values(), key=lambda card: (card.stand_in, card.instrument, card.judging_digest))
    return Known(cards, broken, _unaudited(store, cards))


def _unaudited(store: Store, cards: Iterable[JudgeCard]) -> list[Seat]:
    audited = {card.revision for card in cards}
    sections = build(load_results_indexed(store)[0]).sections
    seats = {seat.revision: seat for section in sections for seat in section.judges}
    return [seat for revision, seat in seats.items() if revision not in audited]


def render(known: Known, t: Texts) -> str:
    """Cards as HTML; everything that comes from outside is escaped."""
    parts = [f"<p>{escape(t('page.judge.intro'))}</p>"]
    if not known.cards:
        parts.append(f"<p class='eco-warn'>{escape(t('page.judge.none'))}</p>")
    parts += [card_html(card, t) for card in known.cards]
    if known.unaudited:
        lines = "".join(f"<li>{escape(line)}</li>" for line in judge_lines(known.unaudited, t))
        parts.append(f"<h2>{escape(t('page.judge.unaudited'))}</h2><ul>{lines}</ul>")
    if known.broken:
        parts.append(f"<p class='eco-warn'>{escape(t('page.judge.broken', paths=', '.join(known.broken)))}</p>")
    return f"<div class='eco'>{''.join(parts)}</div>"


def card_html(card: JudgeCard, t: Texts) -> str:
    """One judge's card as HTML."""
    name = plain(card.judge.model if card.judge else "—")
    stand_in = f"<p class='eco-warn'>{escape(t('page.judge.stand_in'))}</p>" if card.stand_in else ""
    return (
        f"<article class='eco-card'><h2>{escape(name)}</h2>{stand_in}{_gate(card, t)}{_about(card, t)}"
        f"<h3>{escape(t('page.judge.right'))}</h3>{_right(card, t)}{_confusion(card, t)}"
        f"<h3>{escape(t('page.judge.fooled'))}</h3>{_attacks(card, t)}"
        f"<h3>{escape(t('card.drift'))}</h3>{_drift(card, t)}{_parts(card, t)}{_calibration(card, t)}</article>"
    )


def _about(card: JudgeCard, t: Texts) -> str:
    engine = card.judge
    ran = plain(f"{engine.engine} {engine.version}, {engine.dtype}, {engine.device}") if engine else "—"
    rows = {
        t("submit.instrument"): escape(plain(card.instrument)),
        t("page.judge.revision"): f"<code>{escape(plain(card.revision))}</code>",
        t("submit.engine"): escape(ran),
        t("page.judge.made"): escape(moment(card.made_at, t)),
    }
    listed = "".join(f"<dt>{escape(term)}</dt><dd>{value}</dd>" for term, value in rows.items())
    triples = t("card.about", triples=card.triples, ungraded=card.ungraded, instrument=plain(card.instrument))
    return f"<dl class='eco-about'>{listed}</dl><p class='eco-note'>{escape(triples)}</p>"


def _gate(card: JudgeCard, t: Texts) -> str:
    """Whether it meets what its instrument demands, and each demand with the worse end that decided."""
    css = "eco-ok" if card.verdict == "passed" else "eco-warn"
    verdict = f"<p class='{css}'>{escape(t(f'page.judge.verdict_{card.verdict}'))}</p>"
    if not card.gate:
        return verdict
    heads = [t("card.measure"), t("page.judge.met"), t("card.worse_end"), t("card.limit")]
    rows = [
        [
            escape(named("card", f"gate_{check.name}", t)),
            _mark(check.passed, t),
            "—" if check.value is None else t.number(check.value, 2),
            f"{_sense(check)} {t.number(check.limit, 2)}",
        ]
        for check in card.gate
    ]
    return verdict + table(t("card.gate"), heads, rows)


def _mark(is_good: bool, t: Texts) -> str:
    """A yes or no that is told by sign, word and colour."""
    css, sign, key = ("good", "✓", "yes") if is_good else ("bad", "✗", "no")
    return f"<span class='eco-grade eco-{css}'>{sign} {escape(t(f'page.judge.{key}'))}</span>"


def _sense(check: Check) -> str:
    """Which side of the limit is asked for: errors at most, agreement at least."""
    return "≤" if check.name in ("false_good", "attack_score") else "≥"


def _right(card: JudgeCard, t: Texts) -> str:
    order = card.agreement.get("order")
    rivals = {way: found["order"] for way, found in card.baselines.items() if "order" in found}
    heads = [t("card.way"), t("card.name.order"), t("page.column_interval"), t("card.name.exact")]
    measured = {key: found for key, found in card.agreement.items() if key in SHARES and found is not None}
    rows = [_way(f"<b>{escape(t('page.judge.this'))}</b>", measured, t)]
    rows += [_way(escape(named("card", f"way_{way}", t)), found, t) for way, found in card.baselines.items()]
    names = [t("card.measure"), t("card.value"), t("page.column_interval")]
    whole = [
        [escape(named("card.name", key, t)), *_measured(found, 1 if key in SHARES else 2, t)]
        for key, found in card.agreement.items()
    ]
    return (
        f"{_sentence(order, rivals, t)}{table(t('page.judge.beside'), heads, rows, drawn=2)}"
        f"{table(t('card.agreement'), names, whole)}<p class='eco-note'>{escape(t('card.agreement_note'))}</p>"
    )


def _sentence(order: Estimate | None, rivals: Mapping[str, Estimate], t: Texts) -> str:
    """In words: how often it orders a pair, and whether that is surely more than what cannot read does."""
    if order is None:
        return f"<p class='eco-warn'>{escape(t('page.judge.no_order'))}</p>"
    said = t("page.judge.orders", value=t.number(order.value), interval=interval(order, t))
    if rivals:
        way, best = max(rivals.items(), key=lambda rival: rival[1].value)
        better = "better" if order.low > best.high else "no_better"
        name = named("card", f"way_{way}", t)
        said += " " + t(f"page.judge.{better}", way=name, value=t.number(best.value), interval=interval(best, t))
    return f"<p>{escape(said)}</p>"


def _way(name: str, found: Mapping[str, Estimate], t: Texts) -> list[str]:
    order, exact = found.get("order"), found.get("exact")
    drawn = "—" if order is None else range_svg(order, t)
    return [name, _number(order, t), drawn, _number(exact, t)]


def _confusion(card: JudgeCard, t: Texts) -> str:
    heads = [t("page.judge.role"), *(t(f"grade.{grade}") for grade in GRADES)]
    rows = [
        [
            escape(t(f"grade.{truth}")),
            *(_count(count, sum(given), place == number, t) for place, count in enumerate(given)),
        ]
        for number, (truth, given) in enumerate(zip(GRADES, card.confusion, strict=False))
    ]
    return table(t("card.confusion"), heads, rows)


def _count(count: int, total: int, is_right: bool, t: Texts) -> str:
    share = f"<small>{t.number(100 * count / total, 0)} %</small>" if total else ""
    return f"{'<b>' if is_right else ''}{count}{'</b>' if is_right else ''}{share}"


def _attacks(card: JudgeCard, t: Texts) -> str:
    worst = f"{t.number(card.worst.value)} ({interval(card.worst, t)})"
    fooled = [named("card.attack_name", key, t) for key in card.attacks if card.is_fooled_by(key)]
    said = t("page.judge.fooled_by", attacks="; ".join(fooled)) if fooled else t("page.judge.not_fooled")
    heads = [t("card.attack"), t("card.fooled"), t("card.false_good"), t("card.score"), t("page.column_interval")]
    rows = [[escape(t("page.judge.true_worst")), "", "", _number(card.worst, t), range_svg(card.worst, t)]]
    for key, rate in card.attacks.items():
        score, is_fooled = card.scores[key], card.is_fooled_by(key)
        mark = f"<span class='eco-grade eco-bad'>✗ {escape(t('page.judge.yes'))}</span>" if is_fooled else "✓"
        drawn = "—" if score is None else range_svg(score, t)
        rows.append([escape(named("card.attack_name", key, t)), mark, _number(rate, t), _number(score, t), drawn])
    kept = [[escape(named("card.attack_name", key, t)), _number(rate, t)] for key, rate in card.kept.items()]
    unchanged = ""
    if kept:
        unchanged = f"<p>{escape(t('card.kept_note'))}</p>" + table(
            t("card.change"), [t("card.change"), t("card.kept")], kept
        )
    note = f"<p class='eco-note'>{escape(t('card.attacks_note', worst=worst))}</p>"
    css = "eco-warn" if fooled else "eco-ok"
    return f"<p class='{css}'>{escape(said)}</p>{note}{table(t('card.attacks'), heads, rows, drawn=4)}{unchanged}"


def _drift(card: JudgeCard, t: Texts) -> str:
    drift = card.drift
    if drift is None:
        return f"<p>{escape(t('page.judge.no_drift'))}</p>"
    changed, shift = t.number(drift.changed), t.number(drift.shift)
    line = t("card.drift_line", since=moment(drift.since, t), n=drift.n, changed=changed, shift=shift)
    return f"<p>{escape(line)}</p>"


def _parts(card: JudgeCard, t: Texts) -> str:
    tables = ""
    for way, found in card.parts.items():
        heads = [named("card", f"part_{way}", t), t("card.name.order"), t("page.column_interval"), "n"]
        rows = [
            [escape(_part(way, key, t)), _number(part, t), range_svg(part, t), str(part.n)]
            for key, part in found.items()
        ]
        tables += table(heads[0], heads, rows, drawn=2) if rows else ""
    return f"<details><summary>{escape(t('card.parts'))}</summary>{tables}</details>" if tables else ""


def _part(way: str, key: str, t: Texts) -> str:
    if way == "variety":
        return plain(key)
    tables = {"codes": "code", "kind": "kind"}
    return named(tables[way], key, t) if way in tables else named("card", f"{way}_{key}", t)


def _calibration(card: JudgeCard, t: Texts) -> str:
    if not card.calibration:
        return ""
    error = "" if card.calibration_error is None else t("card.calibration", error=t.number(card.calibration_error, 2))
    heads = [t("page.judge.said"), t("page.judge.deserved"), "n"]
    rows = [[t.number(bin_.said, 2), t.number(bin_.deserved, 2), str(bin_.n)] for bin_ in card.calibration]
    title = t("card.calibration_title")
    return (
        f"<details><summary>{escape(title)}</summary><p>{escape(error)} {escape(t('page.judge.calibration'))}</p>"
        f"{_curve(card.calibration, title)}{table(title, heads, rows)}</details>"
    )


def _curve(bins: Sequence[Bin], title: str) -> str:
    """Points deserved against points said, both 0 to 1, with the diagonal of a judge that means what it says."""
    at = [(20 + 200 * bin_.said, 210 - 200 * bin_.deserved) for bin_ in bins]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    dots = "".join(f"<circle class='dot' cx='{x:.1f}' cy='{y:.1f}' r='4'/>" for x, y in at)
    return (
        f"<svg class='curve' viewBox='0 0 230 230' role='img' aria-label='{escape(title)}'>"
        "<rect class='base' x='20' y='10' width='200' height='200'/>"
        "<line class='base' x1='20' y1='210' x2='220' y2='10'/>"
        f"<polyline points='{line}'/>{dots}</svg>"
    )


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, css: str = "", drawn: int = 0) -> str:
    """A table that scrolls inside itself. Heads are text; cells are HTML already, the first of each row its name.

    Args:
        css: class of a table of another kind than numbers.
        drawn: place of the column that is drawn, and left out on a phone; 0 for none.
    """
    cells = [
        "",
        *("" if css else " class='num wide'" if at == drawn else " class='num'" for at in range(1, len(heads))),
    ]
    top = "".join(f"<th scope='col'{at}>{escape(head)}</th>" for at, head in zip(cells, heads, strict=True))
    body = "".join(
        f"<tr><th scope='row'>{row[0]}</th>"
        + "".join(f"<td{at}>{cell}</td>" for at, cell in zip(cells[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    label = escape(caption)
    return (
        f"<div class='eco-scroll' tabindex='0' role='region' aria-label='{label}'><table class='{css}'>"
        f"<caption>{label}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _measured(found: Estimate | None, digits: int, t: Texts) -> list[str]:
    if found is None:
        return [escape(t("card.undefined")), ""]
    return [t.number(found.value, digits), f"{t.number(found.low, digits)} … {t.number(found.high, digits)}"]


def _number(found: Estimate | None, t: Texts) -> str:
    """A share with its interval below, or a dash."""
    return "—" if found is None else f"<b>{t.number(found.value)}</b><small>{interval(found, t)}</small>"
