"""How a score is made: the rubric as the judge reads it, formulas with examples from this store, limits, credit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eco_eval import __version__
from eco_eval.board import WORTH, Board, Row, build
from eco_eval.errors import EcoEvalError
from eco_eval.instrument import Instrument, load_instrument
from eco_eval.readings import POINTS, percent
from eco_eval.rubric import Rubric
from eco_eval.stats import mean_of_classes
from eco_eval.stats.correction import MIN_AUDITS, MIN_GOLD, corrected_points
from eco_eval.stats.intervals import LEVEL
from eco_eval.store import Store
from eco_eval.store.index import load_results_indexed
from eco_eval.types import GRADES, Estimate, Prompt, Result, Withheld
from eco_eval.ui.model_card import named
from eco_eval.ui.pages.judge import table
from eco_eval.ui.terminal import adjusted_lines, interval, judge_lines, model_name, places, plain
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    import gradio as gr

INSTRUMENT = "eco-es-v1"
"""Whose rubric, prompts and gate are shown."""

CITATION = Path(__file__).parents[3] / "CITATION.cff"

INVENTED = "ggrgbrggbg"
"""Grades of an invented model, for the examples of a store without results."""

CONFUSED = ((0.8, 0.2, 0.1), (0.1, 0.6, 0.2), (0.1, 0.2, 0.7))
"""An invented judge: row what it says, column what the answer deserves, good, regular, bad."""

SAID = (0.5, 0.2, 0.3)
"""Shares of good, regular and bad that this judge gives an invented model."""


class Example(NamedTuple):
    """The grades that an example adds up, by letter, whose they are, and the score with its interval, 0 to 100.

    seats: how many judges the result has; the grades are those of the first.
    """

    name: str
    grades: str
    eco: Estimate
    seats: int = 1


def build_page(site: gr.Blocks, store: Store, t: Texts) -> None:
    """Lay the page out; its examples are made anew from the store each time it is opened."""
    import gradio as gr

    shown = gr.HTML()
    site.load(lambda: page(store, t), None, shown, api_visibility="private")


def page(store: Store, t: Texts) -> str:
    """The page as HTML; where the store or the instrument cannot be read, it says so above."""
    problem, board = "", Board(sections=())
    try:
        board = build(load_results_indexed(store)[0])
    except EcoEvalError as error:
        problem = f"<p class='eco-warn'>{escape(t.error(error))}</p>"
    try:
        return f"<div class='eco'>{problem}{render(board, _instrument(), t)}</div>"
    except EcoEvalError as error:
        return f"<div class='eco'><p class='eco-warn'>{escape(t.error(error))}</p></div>"


@cache
def _instrument() -> Instrument:
    return load_instrument(INSTRUMENT)


def render(board: Board, instrument: Instrument, t: Texts) -> str:
    """The page as HTML; everything that comes from outside is escaped."""
    row = next((row for section in board.sections for row in section.models), None)
    found = example(row, t) if row is not None else invented(t)
    return t.prose(
        "method",
        rubric=rubric_html(instrument.rubric, t),
        prompts=prompts_html(instrument, t),
        score=_said(_score(found, t)),
        interval=_said(_interval(found, t)),
        level=t.number(100 * LEVEL, 0),
        places=_said(_places(board, t)),
        min_gold=str(MIN_GOLD),
        min_audits=str(MIN_AUDITS),
        corrected=_said(_corrected(row.result if row else None, t), _undone(t)),
        length=_said(_length(row, t)),
        agreement=_said(*(judge_lines(row.result.seats, t) if row else [t("page.method.no_agreement")])),
        gate=_said(_gate(instrument, t)),
        verified=escape(_verified(instrument.asked, t)),
        sources="<ul>" + "".join(f"<li>{escape(source)}</li>" for source in instrument.rubric.sources) + "</ul>",
        citation=f"<pre tabindex='0'><code>{escape(bibtex(citation()))}</code></pre>",
    )


def rubric_html(rubric: Rubric, t: Texts) -> str:
    """The rubric's criteria as a table, and the whole instruction that the judge reads."""
    heads = rubric.headings[t.lang]
    titles = [t("page.method.criterion"), *(getattr(heads, grade) for grade in GRADES)]
    rows = []
    for criterion in rubric.criteria:
        text = getattr(criterion, t.lang)
        name = f"{escape(criterion.id)}. {escape(text.name)}"
        rows.append([name, *(escape(getattr(text, grade)) for grade in GRADES)])
    labels = ", ".join(rubric.labels[t.lang])
    about = t("page.method.rubric_about", name=rubric.name, licence=rubric.licence, labels=labels)
    instruction = f"<pre class='eco-text' tabindex='0'>{escape(rubric.system(t.lang))}</pre>"
    question = f"<pre class='eco-text' tabindex='0'>{escape(rubric.texts[f'question.{t.lang}'])}</pre>"
    return (
        f"{table(t('page.method.rubric'), titles, rows, css='eco-words')}"
        f"<p class='eco-note'>{escape(about)} <code>{escape(rubric.digest[:16])}</code></p>"
        f"<details><summary>{escape(t('page.method.instruction'))}</summary>{instruction}</details>"
        f"<details><summary>{escape(t('page.method.question'))}</summary>{question}</details>"
    )


def prompts_html(instrument: Instrument, t: Texts) -> str:
    """The card of the prompts: how many, of what, and who verified them."""
    asked = instrument.asked
    staked = [prompt for prompt in asked if not prompt.control]
    about = t(
        "page.method.prompts_about",
        set=instrument.source.set,
        n=len(asked),
        groups=len({prompt.group for prompt in asked}),
        controls=len(asked) - len(staked),
        implicit=t.number(100 * sum(not prompt.explicit for prompt in staked) / len(staked), 0),
    )
    return (
        f"<p>{escape(about)} {escape(_verified(asked, t))}</p>"
        f"<details><summary>{escape(t('page.method.prompts_parts'))}</summary>"
        f"{_counts('kind', Counter(prompt.kind for prompt in asked if prompt.kind), t)}"
        f"{_counts('code', Counter(code for prompt in asked for code in prompt.codes), t)}"
        f"{_counts('variety', Counter(prompt.variety for prompt in asked if prompt.variety), t)}</details>"
    )


def _counts(name: str, found: Mapping[str, int], t: Texts) -> str:
    titles = [t(f"page.method.by_{name}"), t("page.method.prompts_n")]
    ordered = sorted(found.items(), key=lambda part: (-part[1], part[0]))
    rows = [[escape(plain(key) if name == "variety" else named(name, key, t)), str(n)] for key, n in ordered]
    return table(titles[0], titles, rows)


def _verified(prompts: Sequence[Prompt], t: Texts) -> str:
    count = sum(bool(prompt.verified_by) for prompt in prompts)
    return t("page.method.verified", count=count, n=len(prompts)) if count else t("page.method.unverified")


def example(row: Row, t: Texts) -> Example:
    """The grades that a result's first judge gave where every judge has one, and that judge's score of it."""
    result = row.result
    kept = [number for number, group in enumerate(result.groups) if group >= 0] or range(len(result.groups))
    whole = [number for number in kept if all(seat.grades[number] != "-" for seat in result.seats)]
    grades = "".join(result.seats[0].grades[number] for number in whole)
    return Example(model_name(row, t), grades, result.seats[0].eco, len(result.seats))


def invented(t: Texts) -> Example:
    """An example of an invented model, its score and interval made by what makes those of the others."""
    classes = ["grb".index(letter) for letter in INVENTED]
    eco = percent(mean_of_classes(classes, [str(number) for number in range(len(classes))], POINTS))
    return Example(t("page.method.invented"), INVENTED, eco)


def _score(found: Example, t: Texts) -> str:
    counts = {name: found.grades.count(letter) for letter, name in zip("grb", GRADES, strict=True)}
    points = sum(WORTH[letter] for letter in found.grades)
    said = t(
        "page.method.example_score",
        name=found.name,
        n=len(found.grades),
        value=t.number(100 * points / len(found.grades), 2),
        points=t.number(points),
        **{str(grade): count for grade, count in counts.items()},
    )
    return said if found.seats == 1 else f"{said} {t('page.method.first_of', seats=found.seats)}"


def _interval(found: Example, t: Texts) -> str:
    eco = found.eco
    value = t.number(eco.value)
    return t("page.method.example_interval", name=found.name, value=value, interval=interval(eco, t), groups=eco.groups)


def _places(board: Board, t: Texts) -> str:
    models = next((section.models for section in board.sections if section.models), ())
    placed = [row for row in models if row.places is not None][:3]
    if not placed:
        return t("page.method.no_places")
    return " ".join(
        t("page.method.example_place", name=model_name(row, t), places=places(row.places), tier=row.tier, n=len(models))
        for row in placed
    )


def _corrected(result: Result | None, t: Texts) -> str:
    if result is None:
        return t("page.method.no_corrected")
    eco = result.score.eco
    raw = t("page.method.example_raw", name=plain(result.submission.model.name), value=t.number(eco.value))
    return f"{raw} {adjusted_lines(result, t)[0]}"


def _undone(t: Texts) -> str:
    """What undoing an invented judge's confusion does to an invented model's score."""
    import numpy as np

    before = 100 * float(np.dot(SAID, POINTS))
    after = 100 * float(np.dot(SAID, corrected_points(np.array(CONFUSED), POINTS)))
    kept = [t.number(100 * CONFUSED[place][place], 0) for place in range(len(GRADES))]
    names = dict(zip(GRADES, kept, strict=True))
    return t(
        "page.method.example_undone",
        before=t.number(before),
        after=t.number(after),
        **{str(grade): share for grade, share in names.items()},
    )


def _length(row: Row | None, t: Texts) -> str:
    if row is None:
        return t("page.method.no_length")
    board = row.equal_length
    if isinstance(board, Withheld):
        there = t("page.method.no_equal", reason=t(f"withheld.{board.reason}", detail=plain(board.detail)))
    else:
        there = t("page.method.equal", value=t.number(board.value), interval=interval(board, t))
    return f"{model_name(row, t)}: {adjusted_lines(row.result, t)[1]} {there}"


def _gate(instrument: Instrument, t: Texts) -> str:
    gate = instrument.gate
    if gate is None:
        return t("card.verdict_no_gate")
    return t(
        "page.method.gate",
        instrument=instrument.name,
        order=t.number(gate.min_order, 0),
        kappa=t.number(gate.min_kappa, 1),
        good=t.number(gate.max_false_good, 0),
    )


def _said(*lines: str) -> str:
    """Lines as examples, set apart from the prose."""
    return "".join(f"<p class='eco-example'>{escape(line)}</p>" for line in lines)


@cache
def citation() -> dict[str, Any]:
    """How to cite this project, from its CITATION.cff; from what the package knows of itself where that is not here."""
    import yaml

    try:
        found = yaml.safe_load(CITATION.read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found if isinstance(found, dict) else {"title": "eco-eval", "version": __version__}


def bibtex(cited: Mapping[str, Any]) -> str:
    """A CITATION.cff and its references as BibTeX."""
    entries = [_entry("software", "eco-eval", cited)]
    for reference in cited.get("references", ()):
        kind = "book" if reference.get("type") == "book" else "misc"
        first = reference["authors"][0]
        key = f"{first.get('name') or first['family-names']}{reference.get('year', '')}".lower()
        entries.append(_entry(kind, key, reference))
    return "\n\n".join(entries)


def _entry(kind: str, key: str, fields: Mapping[str, Any]) -> str:
    publisher = fields.get("publisher") or {}
    said = {
        "author": _author(fields),
        "title": fields.get("title", ""),
        "year": fields.get("year", ""),
        "edition": fields.get("edition", ""),
        "publisher": publisher.get("name", ""),
        "version": fields.get("version", ""),
        "doi": fields.get("doi", ""),
    }
    lines = [f"  {name} = {{{value}}}," for name, value in said.items() if value]
    return "\n".join((f"@{kind}{{{key},", *lines, "}"))


def _author(fields: Mapping[str, Any]) -> str:
    """Authors as BibTeX has them; braces keep the name of a project from being read as one of a person."""
    authors = fields.get("authors", ())
    return " and ".join(
        f"{{{one['name']}}}" if "name" in one else f"{one['family-names']}, {one['given-names']}" for one in authors
    )
