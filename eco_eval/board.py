"""Results become a board: a pure function."""

from __future__ import annotations

from collections.abc import Iterable

from eco_eval.errors import StoreError
from eco_eval.store import Store, Table
from eco_eval.types import Agreement, Answer, Estimate, Grade, Judgement, Record, Result


class Row(Record):
    """One result as it stands on the board."""

    result: Result
    name: str
    eco: Estimate
    shares: dict[Grade, float]


class Section(Record):
    """Results of one instrument, which alone can be compared: models by score, anchors apart."""

    instrument: str
    digests: tuple[str, str]
    stand_in_judge: bool
    judge: str
    agreement: Agreement | None
    models: tuple[Row, ...]
    anchors: tuple[Row, ...]


class Board(Record):
    sections: tuple[Section, ...]


def build(results: Iterable[Result]) -> Board:
    """The board: a section an instrument, in order of name; rows by score, then name.

    Rows carry no rank: a place is an interval of places, and needs paired differences.
    """
    grouped: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        sub = result.submission
        grouped.setdefault((sub.instrument, sub.asked_digest, sub.measured_digest), []).append(result)
    sections = [_section(key, found) for key, found in sorted(grouped.items())]
    return Board(sections=tuple(section for section in sections if section.models or section.anchors))


def load_results(store: Store) -> tuple[list[Result], list[str]]:
    """Every readable result of a store, and the paths of those that are not, so that none vanishes silently."""
    results, broken = [], []
    for path in store.list("results/"):
        found = store.read(path)
        if found is None:
            continue
        try:
            results.append(Result.model_validate_json(found[0]))
        except ValueError:
            broken.append(path)
    return results, broken


def details(store: Store, result: Result) -> list[tuple[Answer, Judgement]]:
    """The answers and verdicts behind a result, in order.

    Raises:
        StoreError: they are not there or cannot be read.
    """
    answers: Table[Answer] = Table(store, result.answers_path, Answer)
    judgements: Table[Judgement] = Table(store, result.judgements_path, Judgement)
    for table, path in ((answers, result.answers_path), (judgements, result.judgements_path)):
        if not table.finished:
            raise StoreError("store.missing", path=path)
    return [(answer, judgements.records[key]) for key, answer in answers.records.items()]


def display_name(result: Result) -> str:
    """A model's name, with a mark when a system prompt makes it a variant of its own."""
    name = result.submission.model.name
    return f"{name} +system" if result.submission.system_prompt else name


def _section(key: tuple[str, str, str], results: list[Result]) -> Section:
    rows = sorted((_row(result) for result in results), key=lambda row: (-row.eco.value, row.name, row.result.id))
    first = results[0]
    judge = first.provenance.judge
    return Section(
        instrument=key[0],
        digests=(key[1][:12], key[2][:12]),
        stand_in_judge=first.stand_in_judge,
        judge=judge.model if judge else "—",
        agreement=first.agreement,
        models=tuple(row for row in rows if not row.result.is_anchor),
        anchors=tuple(row for row in rows if row.result.is_anchor),
    )


def _row(result: Result) -> Row:
    return Row(
        result=result,
        name=display_name(result),
        eco=result.score.eco,
        shares={grade: share.value for grade, share in result.score.shares.items()},
    )
