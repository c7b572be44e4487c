"""The queue's database: its tables, its transactions, and what the last version of them lacked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from eco_eval.errors import InputError, StoreError
from eco_eval.queue.fold import new_uid, travels
from eco_eval.queue.records import MAX_VALUES, Failed, Finished, Request, clean

T = TypeVar("T")

_ENDED: TypeAdapter[Finished | Failed] = TypeAdapter(Finished | Failed)

AT_ONCE = 200
"""Values in one `IN (…)`, and requests that one transaction locks."""


class Tables:
    """What people read. DBOS keeps its own tables beside these.

    `eco_requests.worker` names a worker of this database that has the run, and nobody else; `travels` is 0 for what no
    other machine may hear of. `eco_events.written` is 1 for what is in the ledger, or has no business there.
    """

    def __init__(self, sa: Any) -> None:
        self.sa = sa
        self.metadata = sa.MetaData()
        text, number = sa.String, sa.Float
        self.requests = sa.Table(
            "eco_requests",
            self.metadata,
            sa.Column("id", text, primary_key=True),
            sa.Column("user", text, nullable=False),
            sa.Column("owner", text, nullable=False),
            sa.Column("state", text, nullable=False),
            sa.Column("detail", text, nullable=False),
            sa.Column("attempt", sa.Integer, nullable=False),
            sa.Column("generation", sa.Integer, nullable=False),
            sa.Column("worker", text, nullable=False),
            sa.Column("priority", sa.Integer, nullable=False),
            sa.Column("made_at", number, nullable=False),
            sa.Column("updated_at", number, nullable=False),
            sa.Column("payload", text, nullable=False),
            sa.Column("travels", sa.Integer, nullable=False, server_default="1"),
            sa.Index("eco_requests_order", "state", "priority", "made_at"),
            sa.Index("eco_requests_user", "user", "state"),
            sa.Index("eco_requests_owner", "owner", "state"),
        )
        self.events = sa.Table(
            "eco_events",
            self.metadata,
            sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
            sa.Column("request", text, nullable=False, index=True),
            sa.Column("at", number, nullable=False),
            sa.Column("what", text, nullable=False),
            sa.Column("detail", text, nullable=False),
            sa.Column("uid", text),
            sa.Column("attempt", sa.Integer),
            sa.Column("payload", text),
            sa.Column("state", text),
            sa.Column("key", text),
            sa.Column("written", sa.Integer, nullable=False, server_default="0"),
            sa.Index("eco_events_uid", "uid", unique=True),
            sa.Index("eco_events_written", "written", "number"),
        )
        self.workers = sa.Table(
            "eco_workers",
            self.metadata,
            sa.Column("id", text, primary_key=True),
            sa.Column("beat_at", number, nullable=False),
            sa.Column("about", text),
        )
        self.stages = sa.Table(
            "eco_stages",
            self.metadata,
            sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
            sa.Column("request", text, nullable=False),
            sa.Column("generation", sa.Integer, nullable=False),
            sa.Column("stage", text, nullable=False),
            sa.Column("seconds", number, nullable=False),
        )


class Database:
    """One database, SQLite or PostgreSQL, with tables of the present form.

    Args:
        url: `sqlite:///path` or `postgresql://…`.

    Raises:
        InputError: that is no such address.
        StoreError: the database cannot be reached or prepared.
    """

    def __init__(self, url: str) -> None:
        import sqlalchemy as sa
        from dbos import DBOS

        _check_url(url)
        with translated():
            if url.startswith("sqlite:///"):
                Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            DBOS.migrate(url)
            self.engine = _engine(url)
            self.tables = Tables(sa)
        with self.transaction("migrate") as c:
            _migrate(c, self.tables)

    @contextmanager
    def transaction(self, *names: str) -> Iterator[Any]:
        """Writes that happen together. Two that share a name wait for each other, so that what was read stays true."""
        sa = self.tables.sa
        with translated(), self.engine.begin() as c:
            if self.engine.dialect.name == "postgresql":
                for name in names:
                    c.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0))))
            else:
                # The driver itself begins at the first write, after what was read before may have changed.
                c.execute(sa.text("BEGIN IMMEDIATE"))
            yield c

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """Reads."""
        with translated(), self.engine.connect() as c:
            yield c

    def now(self, c: Any) -> float:
        """Seconds since 1970 by one clock for everybody: machines whose own differ would take each other for dead."""
        if self.engine.dialect.name != "postgresql":
            return time.time()
        return float(c.execute(self.tables.sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Values in pieces that a statement takes."""
    for start in range(0, len(values), AT_ONCE):
        yield values[start : start + AT_ONCE]


@contextmanager
def translated() -> Iterator[None]:
    """What the database raises as one of our errors; it may well be there again in a moment."""
    from dbos import error as dbos_errors
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, dbos_errors.DBOSException, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
        raise StoreError("queue.unreachable", retryable=True, reason=reason) from error


def _check_url(url: str) -> None:
    """Refuse what is no address, without a word of it: a password may be in it, or in what was taken for its host."""
    import sqlalchemy as sa

    try:
        parsed = sa.make_url(url)
        backend, host = parsed.get_backend_name(), parsed.host or ""
        known = backend in ("postgres", "postgresql") and "@" not in host
        known = known or (backend == "sqlite" and parsed.database not in (None, "", ":memory:"))
    except (ValueError, sa.exc.SQLAlchemyError):
        known = False
    if not known:
        # Not as the cause: it, too, may quote the address.
        raise InputError("settings.bad_value", variable="ECO_EVAL_QUEUE_URL", value="…")


def _engine(url: str) -> Any:
    import sqlalchemy as sa

    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    engine = sa.create_engine(parsed)

    def set_up(connection: Any, _: object) -> None:
        # As DBOS does in the same file: writers wait for each other instead of failing.
        connection.isolation_level = "IMMEDIATE"
        connection.execute("PRAGMA busy_timeout=30000")

    sa.event.listen(engine, "connect", set_up)
    return engine


def _migrate(c: Any, tables: Tables) -> None:
    """Make what is missing: tables, then columns of tables that are older than they, then indexes of those."""
    sa = tables.sa
    tables.metadata.create_all(c, checkfirst=True)
    seen = sa.inspect(c)
    older = False
    for table in tables.metadata.sorted_tables:
        there = {column["name"] for column in seen.get_columns(table.name)}
        for column in (column for column in table.columns if column.name not in there):
            made = sa.schema.CreateColumn(column).compile(dialect=c.dialect)
            c.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {made}"))
            older = older or table is tables.events
        known = {index["name"] for index in seen.get_indexes(table.name)}
        for index in (index for index in table.indexes if index.name not in known):
            index.create(c)
    if older:
        _tell_again(c, tables)


def _tell_again(c: Any, tables: Tables) -> None:
    """Give the lines of an older log what a ledger needs.

    Which attempt a line is of follows from their order. The older log did not keep how an attempt failed, which the
    request itself still says of the last one; earlier ones change nothing any more.
    """
    sa, events, requests = tables.sa, tables.events, tables.requests
    now = {row.id: row for row in c.execute(sa.select(requests))}
    for row in now.values():
        shared = int(travels(Request.model_validate_json(row.payload)))
        c.execute(requests.update().where(requests.c.id == row.id).values(travels=shared))
    attempts: dict[str, int] = {}
    for row in c.execute(sa.select(events).order_by(events.c.number)).all():
        request, asked = now[row.request], row.what == "asked"
        attempts[row.request] = attempt = attempts.get(row.request, 0) + asked
        is_last = request.attempt == attempt and request.state == row.what
        told = {
            "uid": new_uid(),
            "attempt": attempt,
            "payload": request.payload if asked else None,
            "state": _tame(request.detail) if is_last and row.what in ("finished", "failed") else None,
            "key": row.detail.partition(": ")[2].partition("(")[0] if row.what == "failed" else None,
            "written": sa.select(1 - requests.c.travels).where(requests.c.id == row.request).scalar_subquery(),
        }
        c.execute(events.update().where(events.c.number == row.number).values(**told))


def _tame(state: str) -> str:
    """How an attempt ended, in JSON, a failure as long as it may be today."""
    found = _ENDED.validate_json(state)
    if isinstance(found, Failed):
        values = {name: clean(value) for name, value in list(found.values.items())[:MAX_VALUES]}
        found = found.model_copy(update={"values": values})
    return found.model_dump_json()
