"""Claim, evaluate, publish, repeat.

DBOS hands out runs and remembers them; the store remembers answers and verdicts. So a run that is begun again, by the
same worker or another, goes on where the last one stopped, and there is nothing here to undo.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from eco_eval.errors import EcoEvalError, StageError, StoreError, Superseded
from eco_eval.queue import QUEUE, VERSION, WORKFLOW, Queue, Request
from eco_eval.types import Progress

T = TypeVar("T")

Evaluate = Callable[[Request, Progress], str]
"""Evaluates a request and keeps its result; returns the result's id. Told to report progress, which may raise
`Superseded`: then it drops what it does."""

RETRIES = 4
"""How often a stage that broke for a passing cause is tried again."""

LONGEST_PAUSE = 300.0
"""Seconds between two tries at most; they double from one second."""


class _Stopping(BaseException):
    """This worker ends. No `Exception`: DBOS would write the run down as ended, and nobody would take it over."""


class Worker:
    """One process that runs requests of a queue, one at a time.

    Args:
        silent: seconds after which a worker that is not heard of counts as dead. Heartbeats come five times as often.
        polling: seconds between two looks for work.
        pause: seconds before the first new try of a stage that broke for a passing cause.
    """

    def __init__(
        self, queue: Queue, run: Evaluate, *, silent: float = 60.0, polling: float = 1.0, pause: float = 1.0
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._queue = queue
        self._run = run
        self._silent = silent
        self._polling = polling
        self._pause = pause
        self._stopped = threading.Event()
        self._heart = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to take work.

        Raises:
            StoreError: the database cannot be reached.
        """
        from dbos import DBOS

        self._queue.beat(self.name)
        # A name of its own for every start: what an earlier process left is noticed by its silence, here as elsewhere.
        DBOS(
            config={
                "name": "eco-eval",
                "system_database_url": self._queue.url,
                "executor_id": self.name,
                "application_version": VERSION,
                "log_level": "ERROR",
            }
        )

        def handle(request_id: str, attempt: int) -> None:
            self._handle(request_id, attempt)

        DBOS.workflow(name=WORKFLOW)(handle)
        DBOS.listen_queues([QUEUE])
        DBOS.launch()
        DBOS.register_queue(QUEUE, worker_concurrency=1, polling_interval_sec=self._polling)
        self._heart.start()

    def stop(self, patience: float = 0.0) -> None:
        """Take no more work, and wait for the run in hand for so many seconds.

        Then it ends at its next report of progress, and others take it over at once.
        """
        from dbos import DBOS

        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=int(patience))
        self._stopped.set()
        self._heart.join()
        self._queue.leave(self.name)

    def _handle(self, request_id: str, attempt: int) -> None:
        try:
            request, generation = self._lasting(lambda: self._queue.take(request_id, attempt, self.name))
            self._finish(request, generation)
        except Superseded:
            return

    def _finish(self, request: Request, generation: int) -> None:
        """Run it to an end that is written down: a result, or a failure with its reason."""
        report = _Report(self, request.id, generation)
        try:
            result = self._tried(request, report)
        except Superseded:
            raise
        except EcoEvalError as error:
            self._fail(request, generation, report, error)
        # A bug in a run must not leave a request running for ever: nobody would look.
        except Exception as error:
            self._fail(
                request, generation, report, StageError("queue.internal", reason=f"{type(error).__name__}: {error}")
            )
            raise
        else:
            self._lasting(lambda: self._queue.finish(request.id, generation, result))

    def _fail(self, request: Request, generation: int, report: _Report, error: EcoEvalError) -> None:
        self._lasting(lambda: self._queue.fail(request.id, generation, report.stage, error))

    def _tried(self, request: Request, report: _Report) -> str:
        """The result's id, after as many tries as passing causes deserve."""
        for attempt in range(RETRIES):
            try:
                return self._run(request, report)
            except StageError as error:
                if not error.retryable:
                    raise
                report("wait", attempt + 1, RETRIES)
                self._stopped.wait(min(LONGEST_PAUSE, self._pause * 2**attempt))
        return self._run(request, report)

    def _lasting(self, act: Callable[[], T]) -> T:
        """Do something in the database, however long it is away."""
        pause = 0.2
        while True:
            try:
                return act()
            except StoreError as error:
                if not error.retryable:
                    raise
            if self._stopped.wait(pause):
                raise _Stopping
            pause = min(10.0, 2 * pause)

    def _live(self) -> None:
        while not self._stopped.wait(self._silent / 5):
            try:
                self._queue.beat(self.name)
                self._queue.take_over(self._silent)
            except StoreError:
                continue  # the database is away; the next beat tells

    def progress(self, request_id: str, generation: int, stage: str, done: int, total: int) -> None:
        """Pass a run's progress on.

        Raises:
            Superseded: the run is somebody else's now, or was stopped.
        """
        if self._stopped.is_set():
            raise _Stopping
        self._lasting(lambda: self._queue.progress(request_id, generation, self.name, stage, done, total))


class _Report:
    """Progress of one run, told at most once a second and at every change of stage."""

    def __init__(self, worker: Worker, request_id: str, generation: int) -> None:
        self.stage = "check"
        self._worker = worker
        self._request_id = request_id
        self._generation = generation
        self._told = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage == self.stage and done < total and now - self._told < 1:
            return
        self.stage, self._told = stage, now
        self._worker.progress(self._request_id, self._generation, stage, done, total)


def runner(settings: Any) -> Evaluate:
    """Evaluates requests on this machine, keeping everything in the settings' store.

    The candidate's weights are resolved anew from what the request pins, so a request cannot name other weights, or a
    path, than those it was checked with.
    """
    from eco_eval.candidates import resolve
    from eco_eval.instrument import load_instrument
    from eco_eval.pipeline import evaluate, open_engines, resolve_judges
    from eco_eval.store import LocalStore

    def run(request: Request, progress: Progress) -> str:
        submission = request.submission
        progress("check", 0, 1)
        measure, judges = resolve_judges(
            load_instrument(submission.instrument, built=settings.prompts_dir), settings, None
        )
        pinned = submission.model
        found = resolve(f"{pinned.name}@{pinned.revision}" if pinned.source == "hub" else request.folder or pinned.name)
        if found.revision != pinned.revision:
            raise StageError("queue.other_weights", model=pinned.name, found=found.revision, pinned=pinned.revision)
        same = submission.model_copy(update={"model": pinned.model_copy(update={"path": found.path})})
        if (measure.asked_digest, measure.measured_digest) != (submission.asked_digest, submission.measured_digest):
            raise StageError("queue.other_instrument", instrument=submission.instrument)
        engines = open_engines(same, measure, judges, settings, engine=request.engine)
        store, private = LocalStore(settings.data_dir), LocalStore(settings.private_dir)
        return evaluate(same, measure, engines, store, progress, private=private).id

    return run
