"""The queue in one database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from eco_eval.errors import EcoEvalError, InputError, Superseded
from eco_eval.queue.book import absorb, lines_of, unwritten
from eco_eval.queue.database import Database, parts, translated
from eco_eval.queue.fold import Line, Standing, fold, new_uid, travels
from eco_eval.queue.records import (
    OPEN_STATES,
    STATES,
    Cancelled,
    Entry,
    Event,
    Failed,
    Finished,
    Pending,
    Quotas,
    Request,
    Running,
    State,
    Withdrawn,
    WorkerAbout,
    WorkerSeen,
    check_request,
    clean,
    failed,
    is_id,
    is_text,
)

QUEUE = "submissions"
"""The queue's name in DBOS."""

WORKFLOW = "eco-eval-submission"
"""The workflow's name in DBOS, called with (request id, attempt)."""

VERSION = "1"
"""What DBOS calls the application's version: workers of another one leave each other's runs alone."""

MOST = 2**31 - 1
"""A larger number no database takes."""

_STATE: TypeAdapter[State] = TypeAdapter(State)


class Queue:
    """The queue in one database.

    Args:
        url: `sqlite:///path` or `postgresql://…`.

    Raises:
        InputError: that is no such address.
        StoreError: the database cannot be reached or prepared.
    """

    def __init__(self, url: str) -> None:
        from dbos import DBOSClient

        self.url = url
        self._database = Database(url)
        self._tables = self._database.tables
        self._transaction, self._reading = self._database.transaction, self._database.reading
        with translated():
            self._client = DBOSClient(system_database_url=url)

    @property
    def place(self) -> str:
        """The address without its password."""
        return str(self._database.engine.url.render_as_string(hide_password=True))

    def close(self) -> None:
        """Give the connections back."""
        self._client.destroy()
        self._database.engine.dispose()

    # --- whoever submits

    def submit(self, request: Request, quotas: Quotas | None = None) -> Entry:
        """Ask for a submission. Asked before and not failed or stopped since, nothing happens: what there is is told.

        Raises:
            InputError: a quota is used up, or a field cannot be kept; nothing was asked.
        """
        return self.enter(request, quotas)[0]

    def enter(self, request: Request, quotas: Quotas | None = None) -> tuple[Entry, bool]:
        """As `submit`, and whether it was this call that entered it.

        Raises:
            InputError: as `submit`.
        """
        check_request(request)
        with self._transaction("submit") as c:
            found = self._row(c, request.id)
            is_new = found is None or found.state in ("failed", "cancelled", "withdrawn")
            if is_new:
                self._check(c, request, quotas or Quotas())
                self._ask(c, request, 1 if found is None else found.attempt + 1)
            return self._entry(c, self._row(c, request.id)), is_new

    def retry(self, request_id: str, by: str, quotas: Quotas | None = None, *, operator: bool = False) -> Entry:
        """Run it again from what is kept, whatever became of it; one that is open is left as it is.

        Args:
            quotas: what whoever asked may have in the queue; operators may have anything.

        Raises:
            InputError: there is no such request, it is somebody else's, or a quota is used up.
        """
        with self._transaction("submit") as c:
            row = self._known(c, request_id)
            _check_whose(row, by, operator)
            if row.state not in OPEN_STATES:
                request = Request.model_validate_json(row.payload)
                if not operator:
                    self._check(c, request, quotas or Quotas())
                self._log(c, request_id, "retried", by)
                self._ask(c, request, row.attempt + 1)
            return self._entry(c, self._row(c, request_id))

    def cancel(self, request_id: str, by: str, *, operator: bool = False) -> Entry:
        """Stop it if it is open. A worker notices at its next report of progress.

        Raises:
            InputError: there is no such request, or it is somebody else's.
        """
        return self._stop(request_id, Cancelled(by=clean(by)), OPEN_STATES, operator)

    def withdraw(self, request_id: str, by: str, *, operator: bool = False) -> Entry:
        """Take it back, whatever its state.

        Raises:
            InputError: there is no such request, or it is somebody else's.
        """
        return self._stop(
            request_id, Withdrawn(by=clean(by)), (*OPEN_STATES, "finished", "failed", "cancelled"), operator
        )

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
            query = query.where(t.c.state.in_([state for state in states if state in STATES]))
        if user is not None:
            if not is_text(user):
                return []
            query = query.where(t.c.user == user)
        with self._reading() as c:
            return [self._entry(c, row) for row in c.execute(query.limit(_within(limit)).offset(_within(offset)))]

    def counts(self) -> dict[str, int]:
        """How many requests are in each state."""
        sa, t = self._tables.sa, self._tables.requests
        with self._reading() as c:
            rows = c.execute(sa.select(t.c.state, sa.func.count()).group_by(t.c.state))
            return {state: int(count) for state, count in rows}

    def oldest_wait(self) -> float | None:
        """Seconds for which the oldest pending request has waited; None where none waits."""
        sa, t = self._tables.sa, self._tables.requests
        with self._reading() as c:
            oldest = c.execute(sa.select(sa.func.min(t.c.made_at)).where(t.c.state == "pending")).scalar_one()
        return None if oldest is None else max(0.0, time.time() - oldest)

    def failures(self) -> dict[str, int]:
        """How often each failure happened, by its message's key, since the log began."""
        sa, t = self._tables.sa, self._tables.events
        query = sa.select(t.c.key, sa.func.count()).where(t.c.what == "failed", t.c.key.is_not(None)).group_by(t.c.key)
        with self._reading() as c:
            return {key: int(count) for key, count in c.execute(query)}

    def events(self, request_id: str) -> list[Event]:
        """Everything that happened to a request, in order.

        Raises:
            InputError: that is no request's id.
        """
        _check_id(request_id)
        t = self._tables.events
        query = self._tables.sa.select(t).where(t.c.request == request_id).order_by(t.c.at, t.c.number)
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
        state = Running(worker=worker, stage=stage, done=done, total=total)
        with self._transaction(request_id) as c:
            self._report(c, request_id, generation, state)

    def again(self, request_id: str, generation: int, stage: str, error: EcoEvalError) -> None:
        """A stage broke for a passing cause and is tried again.

        Raises:
            Superseded: somebody else has it now, or it was stopped.
        """
        t = self._tables.requests
        mine = (t.c.id == request_id, t.c.generation == generation, t.c.state == "running")
        with self._transaction(request_id) as c:
            if c.execute(self._tables.sa.select(t.c.id).where(*mine)).one_or_none() is None:
                raise Superseded("queue.superseded", request=request_id)
            self._log(c, request_id, "again", f"{stage}: {error}")

    def finish(self, request_id: str, generation: int, result: str, *, published: bool | None = None) -> None:
        """It has a result.

        Args:
            published: whether it is on the Hub's board; None where there is none to be on.

        Raises:
            Superseded: somebody else has it now, or it was stopped.
        """
        self._end(request_id, generation, Finished(result=result, published=published), result)

    def fail(self, request_id: str, generation: int, stage: str, error: EcoEvalError) -> None:
        """It is given up, with the reason.

        Raises:
            Superseded: somebody else has it now, or it was stopped.
        """
        self._end(request_id, generation, failed(stage, error), f"{stage}: {error}")

    def stage(self, request_id: str, generation: int, stage: str, seconds: float) -> None:
        """A stage took so many seconds."""
        values = {"request": request_id, "generation": generation, "stage": stage, "seconds": seconds}
        with self._transaction(request_id) as c:
            c.execute(self._tables.stages.insert().values(**values))

    def stage_seconds(self) -> dict[str, tuple[int, float]]:
        """How often each stage was run in this database, and how many seconds that took in all."""
        sa, t = self._tables.sa, self._tables.stages
        query = sa.select(t.c.stage, sa.func.count(), sa.func.sum(t.c.seconds)).group_by(t.c.stage)
        with self._reading() as c:
            return {stage: (int(count), float(total)) for stage, count, total in c.execute(query)}

    def beat(self, worker: str, about: WorkerAbout | None = None) -> None:
        """A worker lives.

        Args:
            about: what it runs on; None leaves what it said before.
        """
        t = self._tables.workers
        values: dict[str, object] = {} if about is None else {"about": about.model_dump_json()}
        with self._transaction(worker) as c:
            values["beat_at"] = self._database.now(c)
            if not c.execute(t.update().where(t.c.id == worker).values(**values)).rowcount:
                c.execute(t.insert().values(id=worker, **values))

    def workers(self, silent: float) -> list[WorkerSeen]:
        """Workers of this database that were heard of in the last so many seconds, by name."""
        t = self._tables.workers
        query = self._tables.sa.select(t).order_by(t.c.id)
        with self._reading() as c:
            rows = c.execute(query.where(t.c.beat_at > self._database.now(c) - silent)).all()
        return [
            WorkerSeen(
                name=row.id,
                beat_at=row.beat_at,
                about=None if row.about is None else WorkerAbout.model_validate_json(row.about),
            )
            for row in rows
        ]

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
            heard = w.c.beat_at > self._database.now(c) - silent
            alive = set(c.execute(self._tables.sa.select(w.c.id).where(heard)).scalars())
        # By DBOS's own account: a worker can die after it was handed a run and before it took it.
        with translated():
            handed = self._client.list_workflows(status="PENDING", name=WORKFLOW, load_input=False, load_output=False)
        lost = [workflow for workflow in handed if workflow.executor_id not in alive]
        for workflow in lost:
            with translated():
                # In its own queue: elsewhere it would not count against the queue's limits.
                self._client.resume_workflow(workflow.workflow_id, queue_name=QUEUE)
            request_id = workflow.workflow_id.rpartition("-")[0]
            mine = (t.c.id == request_id, t.c.state == "running", t.c.worker == workflow.executor_id)
            with self._transaction(request_id) as c:
                if c.execute(t.update().where(*mine).values(worker="")).rowcount:
                    self._log(c, request_id, "lost", workflow.executor_id or "")
        return [workflow.workflow_id.rpartition("-")[0] for workflow in lost]

    # --- the ledger

    def unwritten(self, limit: int) -> list[Line]:
        """What happened here and is not in the ledger yet, oldest first, at most so much of it."""
        with self._reading() as c:
            return unwritten(c, self._tables, limit)

    def written(self, uids: Sequence[str]) -> None:
        """These lines are in the ledger."""
        t = self._tables.events
        for some in parts(uids):
            with self._transaction("written") as c:
                c.execute(t.update().where(t.c.uid.in_(some)).values(written=1))

    def absorb(self, lines: Sequence[Line]) -> int:
        """Take over what happened elsewhere. What is open afterwards and was not asked here is put in the queue.

        Lines are taken for what `check_line` lets through; one that is known is skipped. What a worker of this
        database has in hand it keeps, unless somebody stopped it or asked anew.

        Returns:
            How many lines were new.
        """
        new, closed = absorb(self._database, lines, self._enter)
        self._drop(closed)
        return new

    def open_elsewhere(self) -> dict[str, tuple[int, float]]:
        """Requests that are open with no worker of this database at them: id → (attempt, when it was asked)."""
        sa, t = self._tables.sa, self._tables.requests
        query = sa.select(t.c.id, t.c.attempt, t.c.made_at).where(t.c.state.in_(OPEN_STATES), t.c.worker == "")
        with self._reading() as c:
            return {row.id: (row.attempt, row.made_at) for row in c.execute(query)}

    def withdrawn(self, seconds: float) -> dict[str, tuple[int, str]]:
        """Requests that were taken back in the last so many seconds: id → (attempt, by whom)."""
        t = self._tables.requests
        lately = (t.c.state == "withdrawn", t.c.updated_at > time.time() - seconds)
        query = self._tables.sa.select(t.c.id, t.c.attempt, t.c.detail).where(*lately)
        with self._reading() as c:
            rows = c.execute(query).all()
        return {row.id: (row.attempt, Withdrawn.model_validate_json(row.detail).by) for row in rows}

    def found_finished(self, request_id: str, attempt: int, *, published: bool | None = None) -> bool:
        """An open request's result is there already: nobody need work on it. Returns whether that was news."""
        t = self._tables.requests
        state = Finished(result=request_id, published=published)
        mine = (t.c.id == request_id, t.c.attempt == attempt, t.c.state.in_(OPEN_STATES), t.c.worker == "")
        with self._transaction(request_id) as c:
            news = bool(c.execute(t.update().where(*mine).values(**_stated(state))).rowcount)
            if news:
                self._log(c, request_id, "finished", request_id, state)
        if news:
            self._drop([(request_id, attempt)])
        return news

    # ---

    def _ask(self, c: Any, request: Request, attempt: int) -> None:
        now = time.time()
        standing = Standing(request=request, attempt=attempt, state=Pending(position=0), made_at=now, updated_at=now)
        self._enter(c, standing, is_new=True)
        self._log(c, request.id, "asked", request.user, payload=request, at=now)

    def _enter(self, c: Any, standing: Standing, *, is_new: bool) -> None:
        """Write down where a request stands; an attempt that is new here and open is also put in DBOS's queue."""
        t, request = self._tables.requests, standing.request
        fields = {
            "user": request.user,
            "owner": request.owner,
            "attempt": standing.attempt,
            "priority": request.priority,
            "made_at": standing.made_at,
            "payload": request.model_dump_json(),
            "travels": int(travels(request)),
            "worker": "",
            **_stated(standing.state, standing.updated_at),
        }
        if not c.execute(t.update().where(t.c.id == request.id).values(**fields)).rowcount:
            c.execute(t.insert().values(id=request.id, generation=0, **fields))
        if not is_new or standing.state.state not in OPEN_STATES:
            return
        self._client.enqueue_in_transaction(
            c,
            {
                "workflow_name": WORKFLOW,
                "queue_name": QUEUE,
                "workflow_id": _workflow_id(request.id, standing.attempt),
                "app_version": VERSION,
                "priority": request.priority,
                "authenticated_user": request.user,
            },
            request.id,
            standing.attempt,
        )

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

    def _stop(self, request_id: str, state: Cancelled | Withdrawn, allowed: Sequence[str], operator: bool) -> Entry:
        t = self._tables.requests
        _check_id(request_id)
        with self._transaction(request_id) as c:
            row = self._known(c, request_id)
            _check_whose(row, state.by, operator)
            if row.state in allowed:
                c.execute(t.update().where(t.c.id == request_id).values(**_stated(state)))
                self._log(c, request_id, state.state, state.by)
            entry = self._entry(c, self._row(c, request_id))
        self._drop([(request_id, row.attempt)])
        return entry

    def _drop(self, attempts: Sequence[tuple[str, int]]) -> None:
        """Take attempts out of DBOS's queue. One that is left there all the same is refused when it is taken."""
        with translated():
            for request_id, attempt in attempts:
                self._client.cancel_workflow(_workflow_id(request_id, attempt))

    def _end(self, request_id: str, generation: int, state: Finished | Failed, told: str) -> None:
        """A run's last report. Somebody elsewhere may have said something weightier of the same attempt meanwhile."""
        t = self._tables.requests
        with self._transaction(request_id) as c:
            self._report(c, request_id, generation, state)
            self._log(c, request_id, state.state, told, state)
            standing = fold(lines_of(c, self._tables, [request_id]).get(request_id, ()))
            if standing is not None and standing.state != state:
                c.execute(t.update().where(t.c.id == request_id).values(**_stated(standing.state)))

    def _report(self, c: Any, request_id: str, generation: int, state: State) -> None:
        t = self._tables.requests
        where = (t.c.id == request_id, t.c.generation == generation, t.c.state == "running")
        if not c.execute(t.update().where(*where).values(**_stated(state))).rowcount:
            raise Superseded("queue.superseded", request=request_id)

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
        _check_id(request_id)
        row = self._row(c, request_id)
        if row is None:
            raise InputError("queue.unknown", request=request_id)
        return row

    def _log(
        self,
        c: Any,
        request_id: str,
        what: str,
        detail: str,
        state: Finished | Failed | None = None,
        payload: Request | None = None,
        at: float | None = None,
    ) -> None:
        """Add a line to the log, of the attempt that the request is at."""
        sa, t = self._tables.sa, self._tables.requests
        row = t.c.id == request_id
        values = {
            "uid": new_uid(),
            "request": request_id,
            "attempt": sa.select(t.c.attempt).where(row).scalar_subquery(),
            "at": time.time() if at is None else at,
            "what": what,
            "detail": clean(detail),
            "payload": payload.model_dump_json() if payload is not None else None,
            "state": state.model_dump_json() if state is not None else None,
            "key": state.key if isinstance(state, Failed) else None,
            "written": sa.select(1 - t.c.travels).where(row).scalar_subquery(),
        }
        c.execute(self._tables.events.insert().values(**values))


def _check_whose(row: Any, by: str, operator: bool) -> None:
    if not operator and row.user != by:
        raise InputError("queue.not_yours", request=row.id)


def _check_id(text: str) -> None:
    if not is_id(text):
        raise InputError("queue.unknown", request=clean(text[:40]))


def _within(number: int) -> int:
    return max(0, min(number, MOST))


def _workflow_id(request_id: str, attempt: int) -> str:
    return f"{request_id}-{attempt}"


def _stated(state: State, at: float | None = None) -> dict[str, object]:
    return {
        "state": state.state,
        "detail": state.model_dump_json(),
        "updated_at": time.time() if at is None else at,
    }
