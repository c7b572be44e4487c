"""The log of one database beside those of others: what to tell them, and what they tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import TypeAdapter

from eco_eval.queue.database import Database, Tables, parts
from eco_eval.queue.fold import Line, Standing, fold
from eco_eval.queue.records import OPEN_STATES, Failed, Finished, Request, clean

Enter = Callable[..., None]
"""Called as `enter(connection, standing, is_new=…)`: writes down where a request stands."""

_ENDED: TypeAdapter[Finished | Failed] = TypeAdapter(Finished | Failed)


def unwritten(c: Any, tables: Tables, limit: int) -> list[Line]:
    """The oldest lines that are not in the ledger."""
    t = tables.events
    rows = c.execute(tables.sa.select(t).where(t.c.written == 0).order_by(t.c.number).limit(limit))
    return [_line(row) for row in rows]


def lines_of(c: Any, tables: Tables, ids: Sequence[str]) -> dict[str, list[Line]]:
    """Every line of some requests."""
    t = tables.events
    found: dict[str, list[Line]] = {}
    for some in parts(ids):
        for row in c.execute(tables.sa.select(t).where(t.c.request.in_(some))):
            found.setdefault(row.request, []).append(_line(row))
    return found


def absorb(database: Database, lines: Iterable[Line], enter: Enter) -> tuple[int, list[tuple[str, int]]]:
    """Add lines to the log, and enter what they change.

    Returns:
        How many were new, and the attempts that are not open any more.
    """
    told: dict[str, dict[str, Line]] = {}
    for line in lines:
        told.setdefault(line.request, {})[line.uid] = line
    new, closed = 0, list[tuple[str, int]]()
    for ids in parts(sorted(told)):
        # Sorted and after `submit`, so that two who absorb wait for each other and never in a circle.
        with database.transaction("submit", *ids) as c:
            fresh = _fresh(c, database.tables, [line for request in ids for line in told[request].values()])
            if fresh:
                _keep(c, database.tables, fresh)
                closed += _enter_all(c, database.tables, fresh, enter)
                new += len(fresh)
    return new, closed


def _fresh(c: Any, tables: Tables, lines: Sequence[Line]) -> list[Line]:
    t, known = tables.events, set[str]()
    for some in parts([line.uid for line in lines]):
        known.update(c.execute(tables.sa.select(t.c.uid).where(t.c.uid.in_(some))).scalars())
    # Two requests may claim one number: the first line that is read has it.
    return list({line.uid: line for line in reversed(lines) if line.uid not in known}.values())[::-1]


def _keep(c: Any, tables: Tables, lines: Sequence[Line]) -> None:
    values = [
        {
            **line.model_dump(include={"uid", "request", "attempt", "at", "what", "detail"}),
            "payload": line.payload.model_dump_json() if line.payload is not None else None,
            "state": line.state.model_dump_json() if line.state is not None else None,
            "key": line.state.key if isinstance(line.state, Failed) else None,
            "written": 1,
        }
        for line in lines
    ]
    c.execute(tables.events.insert(), values)


def _enter_all(c: Any, tables: Tables, fresh: Sequence[Line], enter: Enter) -> list[tuple[str, int]]:
    """Enter where requests stand now that there are these lines. Returns the attempts that are not open any more."""
    uids = {line.uid for line in fresh}
    ids = sorted({line.request for line in fresh})
    t = tables.requests
    rows = {row.id: row for some in parts(ids) for row in c.execute(tables.sa.select(t).where(t.c.id.in_(some)))}
    closed = []
    for request_id, lines in lines_of(c, tables, ids).items():
        standing, row = fold(lines), rows.get(request_id)
        if standing is None or standing == fold(line for line in lines if line.uid not in uids):
            continue
        is_new = row is None or row.attempt < standing.attempt
        if row is not None and not is_new and _is_ours(row, standing):
            continue
        enter(c, standing, is_new=is_new)
        if row is not None and row.state in OPEN_STATES and (is_new or standing.state.state not in OPEN_STATES):
            closed.append((request_id, row.attempt))
    return closed


def _is_ours(row: Any, standing: Standing) -> bool:
    """Whether a worker of this database has the run in hand, and nobody stopped it."""
    stopped = standing.state.state in ("cancelled", "withdrawn")
    return row.state == "running" and row.worker != "" and not stopped


def _line(row: Any) -> Line:
    return Line(
        uid=row.uid,
        at=row.at,
        request=row.request,
        attempt=row.attempt,
        what=row.what,
        detail=clean(row.detail),
        payload=Request.model_validate_json(row.payload) if row.payload is not None else None,
        state=_ENDED.validate_json(row.state) if row.state is not None else None,
    )
