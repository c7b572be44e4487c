"""One answer as HTML: what was asked, what was said, every verdict with its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final
from urllib.parse import quote

from eco_eval.people import answer_id
from eco_eval.types import Answer, Grade, Graded, Judgement, Seat
from eco_eval.ui.terminal import plain
from eco_eval.ui.texts import Texts

SIGNS: Final = {Grade.GOOD: "✓", Grade.REGULAR: "~", Grade.BAD: "✗"}

LONG: Final = 700
"""Characters of a text that are shown before the rest is folded away."""

PAGE: Final = 20
"""Answers shown at once."""

MAX_WORDS: Final = 200
"""Characters of what a stranger may ask for."""


def word(value: object) -> str:
    """What a stranger sent, as a short text; empty where it is none."""
    return plain(value)[:MAX_WORDS].strip() if isinstance(value, str) else ""


def points(verdicts: Sequence[Judgement]) -> float | None:
    """Mean points over judges, 0 to 1; None where one gave no verdict."""
    given = [verdict.grade.value_points for verdict in verdicts if isinstance(verdict, Graded)]
    return sum(given) / len(given) if given and len(given) == len(verdicts) else None


def said_by_people(answer: Answer, people: Mapping[str, float]) -> float | None:
    """People's mean points of an answer, 0 to 1.

    Args:
        people: by answer id: see `people.mean_points`.
    """
    return people.get(answer_id(answer.prompt, answer.text))


def chip(judgement: Judgement, t: Texts, who: str = "") -> str:
    """A verdict with its sign, probabilities and, among several, its judge."""
    judge = f"<span class='eco-note'>{escape(plain(who))}</span>" if who else ""
    if not isinstance(judgement, Graded):
        text = f"{t('grade.ungraded')}: {t(f'cause.{judgement.cause}')}"
        return f"<span class='eco-verdict'>{judge}<span class='eco-grade eco-ungraded'>? {escape(text)}</span></span>"
    grade = judgement.grade
    found = f"<span class='eco-grade eco-{grade.value}'>{SIGNS[grade]} {escape(t(f'grade.{grade.value}'))}</span>"
    if judgement.probabilities is not None:
        shares = " / ".join(t.number(p, 2) for p in judgement.probabilities)
        label = escape(t("page.column_probabilities"))
        found += f"<span class='eco-note' title='{label}'>{shares}</span>"
    return f"<span class='eco-verdict'>{judge}{found}</span>"


def chips(verdicts: Sequence[Judgement], seats: Sequence[Seat], t: Texts) -> str:
    """Every verdict on an answer, with the judges' names where there are several."""
    names = [seat.name for seat in seats] if len(seats) > 1 else [""] * len(verdicts)
    return "".join(chip(verdict, t, name) for verdict, name in zip(verdicts, names, strict=True))


def people_chip(value: float | None, t: Texts) -> str:
    """What people said of an answer, if any did."""
    if value is None:
        return ""
    exact = [grade for grade in Grade if grade.value_points == value]
    said = t(f"grade.{exact[0].value}") if exact else t.number(value, 2)
    return f"<span class='eco-verdict eco-note'>{escape(t('page.model.people', said=said))}</span>"


def folded(text: str, t: Texts, css: str = "text") -> str:
    """A text as it is, and what goes beyond `LONG` characters behind a click."""
    shown = plain(text)
    if len(shown) <= LONG * 1.2:
        return f"<div class='{css}'>{escape(shown)}</div>"
    cut = max(shown.rfind(" ", 0, LONG), shown.rfind("\n", 0, LONG))
    cut = cut if cut > LONG // 2 else LONG
    more = escape(t("page.model.more", words=len(shown[cut:].split())))
    return (
        f"<div class='{css}'>{escape(shown[:cut])}…</div><details><summary>{more}</summary>"
        f"<div class='{css}'>…{escape(shown[cut:].strip())}</div></details>"
    )


def body(answer: Answer, t: Texts) -> str:
    """What the model said, or why it said nothing, and its reasoning apart."""
    if answer.failure is not None:
        why = escape(t(f"page.model.failure_{answer.failure.cause}"))
        detail = escape(plain(answer.failure.detail)[:400])
        text = f"<p class='eco-note'>{why}{': ' if detail else ''}{detail}</p>"
    elif answer.is_empty:
        text = f"<p class='eco-note'>{escape(t('page.model.silent'))}</p>" + folded(answer.text, t)
    else:
        text = folded(answer.text, t)
    if answer.reasoning:
        heading = escape(t("page.model.reasoning", words=len(answer.reasoning.split())))
        inside = escape(plain(answer.reasoning))
        text += f"<details><summary>{heading}</summary><div class='text'>{inside}</div></details>"
    return text


def reasons(verdicts: Sequence[Judgement], seats: Sequence[Seat], t: Texts) -> str:
    """The judges' analyses and findings, folded away."""
    several = len(seats) > 1
    found = []
    for judgement, seat in zip(verdicts, seats, strict=True):
        if not isinstance(judgement, Graded) or not (judgement.analysis or judgement.findings):
            continue
        rows = "".join(f"<li><b>{escape(plain(k))}</b> {escape(plain(v))}</li>" for k, v in judgement.findings)
        name = f" · {plain(seat.name)}" if several else ""
        text = f"<div class='text'>{escape(plain(judgement.analysis))}</div>" if judgement.analysis else ""
        listed = f"<ul>{rows}</ul>" if rows else ""
        heading = escape(t("cli.show.analysis") + name)
        found.append(f"<details><summary>{heading}</summary>{text}{listed}</details>")
    return "".join(found)


def notes(answer: Answer, control: bool, t: Texts) -> str:
    """What to know of an answer beside its verdict."""
    there = {
        "truncated": answer.truncated,
        "empty": answer.is_empty,
        "reasoning": bool(answer.reasoning),
        "control": control,
    }
    said = ", ".join(t(f"page.note_{name}") for name, is_so in there.items() if is_so)
    return f"<span class='eco-note'>{escape(said)}</span>" if said else ""


def link(result_id: str, prompt_id: str) -> str:
    """The address of one answer, from wherever on the site."""
    return f"?tab=model&result={quote(result_id, safe='')}#{quote(prompt_id, safe='')}"


def copy_button(text: str, t: Texts, label: str) -> str:
    """A button that copies a text; one that begins with `?` as a whole address."""
    done = escape(t("page.model.copied"))
    return (
        f"<button type='button' class='eco-copy' data-copy='{escape(text)}' data-done='{done}'>{escape(label)}</button>"
    )


COPY: Final = """
element.addEventListener('click', async (event) => {
  const button = event.target.closest('[data-copy]');
  if (!button || button.disabled) return;
  const said = button.dataset.copy;
  const text = said.startsWith('?') ? new URL(said, location.href).href : said;
  try { await navigator.clipboard.writeText(text); }
  catch {
    // No clipboard without HTTPS: the old way.
    const area = Object.assign(document.createElement('textarea'), { value: text });
    document.body.append(area); area.select(); document.execCommand('copy'); area.remove();
  }
  const label = button.textContent;
  button.textContent = button.dataset.done; button.disabled = true;
  setTimeout(() => { button.textContent = label; button.disabled = false; }, 1500);
});
"""
"""JavaScript of whatever holds a `copy_button`: `element` is that holder."""


def range_of(place: int, count: int) -> tuple[int, int]:
    """First and last answer of the page that a place is on, from 0, the last one excluded."""
    first = max(0, min(place, count - 1)) // PAGE * PAGE if count else 0
    return first, min(first + PAGE, count)


def shown_line(first: int, last: int, count: int, total: int, t: Texts) -> str:
    """How many of how many are shown."""
    key = "page.model.shown" if count == total else "page.model.shown_of"
    return (
        f"<p class='eco-note' role='status'>{escape(t(key, first=first + 1, last=last, count=count, total=total))}</p>"
    )
