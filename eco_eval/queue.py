"""The durable queue: what was asked for, by whom, and what became of it.

Two things stand in one database, SQLite or PostgreSQL, and change in the same transaction: our table of requests,
which people read, and DBOS's workflows, which workers run. A request is a submission, so its id is the submission's:
asking twice is asking once. Every change of state is also a line in a log that is only ever added to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from eco_eval.engines import EngineName
from eco_eval.errors import EcoEvalError, InputError, StoreError, Superseded
from eco_eval.types import Record, Submission

QUEUE = "submissions"
"""The queue's name in DBOS."""

WORKFLOW = "eco-eval-submission"
"""The workflow's name in DBOS, called with (request id, attempt)."""

VERSION = "1"
"""What DBOS calls the application's version: workers of another one leave each other's runs alone."""

OPEN_STATES = ("pending", "running")


class Request(Record):
    """Somebody asks for a model to be evaluated under an instrument.

    user: who the server says asked, never a form field. priority: smaller goes first, 1 to 100. folder: where local
    weights are on the machine that asked.
    """

    submission: Submission
    user: str = Field(min_length=1, max_length=200)
    engine: EngineName = "vllm"
    priority: int = Field(default=50, ge=1, le=100)
    folder: str | None = None

    @property
    def id(self) -> str:
        return self.submission.id

    @property
    def owner(self) -> str:
        """Who published the model: quotas count by owner as well as by user."""
        model = self.submission.model
        return model.name.partition("/")[0] if model.source == "hub" else model.source


class Pending(Record):
    """Waiting. `position` counts from 1 in the order in which requests are taken."""

    state: Literal["pending"] = "pending"
    position: int


class Running(Record):
    """Somebody works on it."""

    state: Literal["running"] = "running"
    worker: str
    stage: str
    done: int
    total: int


class Finished(Record):
    """It has a result, of this id."""

    state: Literal["finished"] = "finished"
    result: str


class Failed(Record):
    """It was given up: the stage, and the message's key and values in the catalogue of texts."""

    state: Literal["failed"] = "failed"
    stage: str
    key: str
    values: dict[str, str]


class Cancelled(Record):
    """Somebody stopped it before it had a result."""

    state: Literal["cancelled"] = "cancelled"
    by: str


class Withdrawn(Record):
    """Whoever asked took it back. A result that is kept stays where it is."""

    state: Literal["withdrawn"] = "withdrawn"
    by: str


State = Annotated[Pending | Running | Finished | Failed | Cancelled | Withdrawn, Field(discriminator="state")]
_STATE: TypeAdapter[State] = TypeAdapter(State)


class Entry(Record):
    """A request as it stands. Times in seconds since 1970."""

    request: Request
    state: State
    attempt: int
    made_at: float
    updated_at: float


class Event(Record):
    """One line of the log."""

    at: float
    what: str
    detail: str


class Quotas(Record):
    """How many requests may be pending or running at once."""

    per_user: int = 5
    per_owner: int = 20
    total: int = 20_000


class Queue:
    """The queue in one database.

    Args:
        url: `sqlite:///path` or `postgresql://…`.

    Raises:
        StoreError: the database cannot be reached or prepared.
    """

    def __init__(self, url: str) -> None:
        import sqlalchemy as sa
        from dbos import DBOS, DBOSClient

        self.url = url
        with _translated():
            if url.startswith("sqlite:///"):
                Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            DBOS.migrate(url)
            self._engine = _engine(url)
            self._tables = _Tables(sa)
            self._tables.metadata.create_all(self._engine)
            self._client = DBOSClient(system_database_url=url)

    @property
    def place(self) -> str:
        """The address without its password."""
        return str(self._engine.url.render_as_string(hide_password=True))

    def close(self) -> None:
        """Give the connections back."""
        self._client.destroy()
        self._engine.dispose()

    # --- whoever submits

    def submit(self, request: Request, quotas: Quotas | None = None) -> Entry:
        """Ask for a submission. Asked before and not failed or stopped since, nothing happens: what there is is told.

        Raises:
            InputError: a quota is used up; nothing was asked.
        """
        with self._transaction("submit") as c:
            found = self._row(c, request.id)
            if found is None or found.state in ("failed", "cancelled", "withdrawn"):
                self._check(c, request, quotas or Quotas())
                self._enqueue(c, request, 1 if found is None else found.attempt + 1)
            return self._entry(c, self._row(c, request.id))

    def retry(self, request_id: str, by: str) -> Entry:
        """Run it again from what is kept, whatever became of it; one that is open is left as it is.

        Raises:
            InputError: there is no such request.
        """
        with self._transaction("submit") as c:
            row = self._known(c, request_id)
            if row.state not in OPEN_STATES:
                self._log(c, request_id, "retried", by)
                self._enqueue(c, Request.model_validate_json(row.payload), row.attempt + 1)
            return self._entry(c, self._row(c, request_id))

    def cancel(self, request_id: str, by: str) -> Entry:
        """Stop it if it is open. A worker notices at its next report of progress.

        Raises:
            InputError: there is no such request.
        """
        return self._stop(request_id, Cancelled(by=by), OPEN_STATES)

    def withdraw(self, request_id: str, by: str) -> Entry:
        """Take it back, whatever its state.

        Raises:
            InputError: there is no such request.
        """
        return self._stop(request_id, Withdrawn(by=by), (*OPEN_STATES, "finished", "failed", "cancelled"))

    def get(self, request_id: str) -> Entry:
        """A request as it stands.

        Raises:
            InputError: there is no such request.
        """
        with self._reading() as c:
            return self._entry(c, self._known(c, request_id))

    def entries(
        self, *, states: Sequence[str] = (), user: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[Entry]:
        """Requests, those that are open first in the order in which they are taken, then the latest."""
        sa, t = self._tables.sa, self._tables.requests
        query = sa.select(t).order_by(
            sa.case((t.c.state == "running", 0), (t.c.state == "pending", 1), else_=2),
            sa.case((t.c.state == "pending", t.c.priority), else_=0),
            sa.case((t.c.state == "pending", t.c.made_at), else_=-t.c.updated_at),
        )
        if states:
            query = query.where(t.c.state.in_(list(states)))
        if user is not None:
            query = query.where(t.c.user == user)
        with self._reading() as c:
            return [self._entry(c, row) for row in c.execute(query.limit(limit).offset(offset))]

    def counts(self) -> dict[str, int]:
        """How many requests are in each state."""
        sa, t = self._tables.sa, self._tables.requests
        with self._reading() as c:
            rows = c.execute(sa.select(t.c.state, sa.func.count()).group_by(t.c.state))
            return {state: int(count) for state, count in rows}

    def events(self, request_id: str) -> list[Event]:
        """Everything that happened to a request, in order."""
        t = self._tables.events
        query = self._tables.sa.select(t).where(t.c.request == request_id).order_by(t.c.number)
        with self._reading() as c:
            return [Event(at=row.at, what=row.what, detail=row.detail) for row in c.execute(query)]

    # --- workers

    def take(self, request_id: str, attempt: int, worker: str) -> tuple[Request, int]:
        """Begin, or go on with, an attempt. From now on whoever had it before is refused.

        Returns:
            The request, and the number that this worker shows with everything it reports.

        Raises:
            Superseded: it was stopped, or a later attempt is there.
        """
        t = self._tables.requests
        with self._transaction(request_id) as c:
            row = self._row(c, request_id)
            if row is None or row.state not in OPEN_STATES or row.attempt != attempt:
                raise Superseded("queue.superseded", request=request_id)
            generation = row.generation + 1
            state = Running(worker=worker, stage="check", done=0, total=0)
            values = {"generation": generation, "worker": worker, **_stated(state)}
            c.execute(t.update().where(t.c.id == request_id).values(**values))
            self._log(c, request_id, "taken", worker)
            return Request.model_validate_json(row.payload), generation

    def progress(self, request_id: str, generation: int, worker: str, stage: str, done: int, total: int) -> None:
        """Report progress.

        Raises:
            Superseded: somebody else has it now, or it was stopped.
        """
        self._report(request_id, generation, Running(worker=worker, stage=stage, done=done, total=total))

    def finish(self, request_id: str, generation: int, result: str) -> None:
        """It has a result.

        Raises:
            Superseded: somebody else has it now, or it was stopped.
        """
        self._report(request_id, generation, Finished(result=result), log=result)

    def fail(self, request_id: str, generation: int, stage: str, error: EcoEvalError) -> None:
        """It is given up, with the reason.

        Raises:
            Superseded: somebody else has it now, or it was stopped.
        """
        values = {name: str(value) for name, value in error.values.items()}
        state = Failed(stage=stage, key=error.key, values=values)
        self._report(request_id, generation, state, log=f"{stage}: {error}")

    def beat(self, worker: str) -> None:
        """A worker lives."""
        t, now = self._tables.workers, time.time()
        with self._transaction(worker) as c:
            if not c.execute(t.update().where(t.c.id == worker).values(beat_at=now)).rowcount:
                c.execute(t.insert().values(id=worker, beat_at=now))

    def leave(self, worker: str) -> None:
        """A worker ends in good order."""
        t = self._tables.workers
        with self._transaction(worker) as c:
            c.execute(t.delete().where(t.c.id == worker))

    def take_over(self, silent: float) -> list[str]:
        """Put the runs of workers that have not been heard of for that many seconds back in the queue.

        Returns:
            The ids of the requests.
        """
        t, w = self._tables.requests, self._tables.workers
        with self._reading() as c:
            alive = set(c.execute(self._tables.sa.select(w.c.id).where(w.c.beat_at > time.time() - silent)).scalars())
        # By DBOS's own account: a worker can die after it was handed a run and before it took it.
        with _translated():
            handed = self._client.list_workflows(status="PENDING", name=WORKFLOW, load_input=False, load_output=False)
        lost = [workflow for workflow in handed if workflow.executor_id not in alive]
        for workflow in lost:
            with _translated():
                # In its own queue: elsewhere it would not count against the queue's limits.
                self._client.resume_workflow(workflow.workflow_id, queue_name=QUEUE)
            request_id = workflow.workflow_id.rpartition("-")[0]
            mine = (t.c.id == request_id, t.c.state == "running", t.c.worker == workflow.executor_id)
            with self._transaction(request_id) as c:
                if c.execute(t.update().where(*mine).values(worker="")).rowcount:
                    self._log(c, request_id, "lost", workflow.executor_id or "")
        return [workflow.workflow_id.rpartition("-")[0] for workflow in lost]

    # ---

    def _enqueue(self, c: Any, request: Request, attempt: int) -> None:
        t, now = self._tables.requests, time.time()
        fields = {
            "user": request.user,
            "owner": request.owner,
            "attempt": attempt,
            "priority": request.priority,
            "made_at": now,
            "payload": request.model_dump_json(),
            "worker": "",
            **_stated(Pending(position=0)),
        }
        if not c.execute(t.update().where(t.c.id == request.id).values(**fields)).rowcount:
            c.execute(t.insert().values(id=request.id, generation=0, **fields))
        self._client.enqueue_in_transaction(
            c,
            {
                "workflow_name": WORKFLOW,
                "queue_name": QUEUE,
                "workflow_id": _workflow_id(request.id, attempt),
                "app_version": VERSION,
                "priority": request.priority,
                "authenticated_user": request.user,
            },
            request.id,
            attempt,
        )
        self._log(c, request.id, "asked", request.user)

    def _check(self, c: Any, request: Request, quotas: Quotas) -> None:
        sa, t = self._tables.sa, self._tables.requests

        def waiting(*where: Any) -> int:
            return int(c.execute(sa.select(sa.func.count()).where(t.c.state.in_(OPEN_STATES), *where)).scalar_one())

        if waiting(t.c.user == request.user) >= quotas.per_user:
            raise InputError("queue.user_quota", user=request.user, allowed=quotas.per_user)
        if waiting(t.c.owner == request.owner) >= quotas.per_owner:
            raise InputError("queue.owner_quota", owner=request.owner, allowed=quotas.per_owner)
        if waiting() >= quotas.total:
            raise InputError("queue.full", allowed=quotas.total)

    def _stop(self, request_id: str, state: Cancelled | Withdrawn, allowed: Sequence[str]) -> Entry:
        t = self._tables.requests
        with self._transaction(request_id) as c:
            row = self._known(c, request_id)
            if row.state in allowed:
                c.execute(t.update().where(t.c.id == request_id).values(**_stated(state)))
                self._log(c, request_id, state.state, state.by)
            entry = self._entry(c, self._row(c, request_id))
        with _translated():
            self._client.cancel_workflow(_workflow_id(request_id, row.attempt))
        return entry

    def _report(self, request_id: str, generation: int, state: State, log: str | None = None) -> None:
        t = self._tables.requests
        where = (t.c.id == request_id, t.c.generation == generation, t.c.state == "running")
        with self._transaction(request_id) as c:
            if not c.execute(t.update().where(*where).values(**_stated(state))).rowcount:
                raise Superseded("queue.superseded", request=request_id)
            if log is not None:
                self._log(c, request_id, state.state, log)

    def _entry(self, c: Any, row: Any) -> Entry:
        state = _STATE.validate_json(row.detail)
        if isinstance(state, Pending):
            state = Pending(position=self._position(c, row))
        return Entry(
            request=Request.model_validate_json(row.payload),
            state=state,
            attempt=row.attempt,
            made_at=row.made_at,
            updated_at=row.updated_at,
        )

    def _position(self, c: Any, row: Any) -> int:
        sa, t = self._tables.sa, self._tables.requests
        earlier = sa.or_(t.c.priority < row.priority, sa.and_(t.c.priority == row.priority, t.c.made_at < row.made_at))
        query = sa.select(sa.func.count()).where(t.c.state == "pending", earlier)
        return 1 + int(c.execute(query).scalar_one())

    def _row(self, c: Any, request_id: str) -> Any:
        t = self._tables.requests
        return c.execute(self._tables.sa.select(t).where(t.c.id == request_id)).one_or_none()

    def _known(self, c: Any, request_id: str) -> Any:
        row = self._row(c, request_id)
        if row is None:
            raise InputError("queue.unknown", request=request_id)
        return row

    def _log(self, c: Any, request_id: str, what: str, detail: str) -> None:
        c.execute(self._tables.events.insert().values(request=request_id, at=time.time(), what=what, detail=detail))

    @contextmanager
    def _transaction(self, name: str) -> Iterator[Any]:
        """Writes that happen together. Two of one name wait for each other, so that what was counted stays true."""
        with _translated(), self._engine.begin() as c:
            sa = self._tables.sa
            if self._engine.dialect.name == "postgresql":
                c.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0))))
            else:
                # The driver itself begins at the first write, after what was read before may have changed.
                c.execute(sa.text("BEGIN IMMEDIATE"))
            yield c

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        with _translated(), self._engine.connect() as c:
            yield c


def _workflow_id(request_id: str, attempt: int) -> str:
    return f"{request_id}-{attempt}"


def _stated(state: State) -> dict[str, object]:
    return {"state": state.state, "detail": state.model_dump_json(), "updated_at": time.time()}


class _Tables:
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
        )
        self.workers = sa.Table(
            "eco_workers",
            self.metadata,
            sa.Column("id", text, primary_key=True),
            sa.Column("beat_at", number, nullable=False),
        )


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


@contextmanager
def _translated() -> Iterator[None]:
    """What the database raises as one of our errors; it may well be there again in a moment."""
    from dbos import error as dbos_errors
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, dbos_errors.DBOSException, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
        raise StoreError("queue.unreachable", retryable=True, reason=reason) from error
