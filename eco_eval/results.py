"""What is kept of finished submissions, read back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import NamedTuple

from eco_eval.errors import InputError, StoreError
from eco_eval.store import Store, Table, parse_record, read_record
from eco_eval.store.index import RESULTS, WITHDRAWN, shown_results
from eco_eval.types import Answer, Judgement, Result


class Reading(NamedTuple):
    """An answer with its verdicts, one a judge, in the order of the result's seats."""

    answer: Answer
    verdicts: tuple[Judgement, ...]


def result_path(result_id: str) -> str:
    """Where a result is kept."""
    return f"{RESULTS}{result_id}.json"


def read_result(store: Store, result_id: str) -> Result | None:
    """A kept result.

    Raises:
        StoreError: it is there and cannot be read.
    """
    return read_record(store, result_path(result_id), Result)


def write_result(result: Result, store: Store) -> None:
    """Keep a result."""
    store.write(result_path(result.id), (result.model_dump_json(indent=1) + "\n").encode())


def withdraw_result(store: Store, result_id: str, by: str) -> None:
    """Take a result off the board. It stays where it is, for whoever has its id, and can be put back.

    Args:
        by: who took it back.

    Raises:
        StoreError: the store cannot be written.
    """
    said = {"result": result_id, "by": by, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    store.write(f"{WITHDRAWN}{result_id}.json", (json.dumps(said, ensure_ascii=False) + "\n").encode())


def restore_result(store: Store, result_id: str) -> None:
    """Put a withdrawn result back on the board; nothing happens to one that was not withdrawn."""
    path = f"{WITHDRAWN}{result_id}.json"
    if store.list(path):
        store.delete(path)


def load_results(store: Store, *, withdrawn: bool = False) -> tuple[list[Result], list[str]]:
    """Every readable result of a store, and the paths of those that are not, so that none vanishes silently.

    Args:
        withdrawn: also those that were taken off the board.
    """
    results, broken = [], []
    for path in store.list(RESULTS) if withdrawn else shown_results(store):
        found = store.read(path)
        if found is None:
            continue
        try:
            results.append(parse_record(found[0], path, Result))
        except StoreError:
            broken.append(path)
    return results, broken


def find_result(store: Store, target: str, where: object, *, name: str | None = None) -> Result:
    """The result of an id, the start of an id, or a model's name (the newest).

    Args:
        where: what to call the store, should there be none.
        name: a model's name, where `target` is another way to say it.

    Raises:
        InputError: none or several fit.
    """
    results, _ = load_results(store)
    by_id = [r for r in results if target and r.id.startswith(target)]
    by_name = [r for r in results if r.submission.model.name == (name or target)]
    if by_name:
        return max(by_name, key=lambda r: r.provenance.finished_at)
    if len(by_id) == 1:
        return by_id[0]
    if by_id:
        raise InputError("result.ambiguous", target=target, ids=", ".join(r.id for r in by_id))
    raise InputError("result.unknown", target=target, where=where)


def details(store: Store, result: Result) -> list[Reading]:
    """The answers and verdicts behind a result, in order.

    Raises:
        StoreError: they are not there or cannot be read.
    """
    answers: Table[Answer] = Table(store, result.answers_path, Answer)
    tables: list[Table[Judgement]] = [Table(store, seat.judgements_path, Judgement) for seat in result.seats]
    places = [result.answers_path, *(seat.judgements_path for seat in result.seats)]
    whole = [answers.finished, *(table.finished for table in tables)]
    for path, there in zip(places, whole, strict=True):
        if not there:
            raise StoreError("store.missing", path=path)
    return [Reading(answer, tuple(t.records[key] for t in tables)) for key, answer in answers.records.items()]


def display_name(result: Result) -> str:
    """A model's name, with a mark when a system prompt makes it a variant of its own."""
    name = result.submission.model.name
    return f"{name} +system" if result.submission.system_prompt else name
