"""Claim, evaluate, publish, repeat.

DBOS hands out runs and remembers them; the store remembers answers and verdicts. So a run that is begun again, by the
same worker or another, goes on where the last one stopped, and there is nothing here to undo.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

from eco_eval.errors import EcoEvalError, StageError, StoreError, Superseded
from eco_eval.queue import QUEUE, VERSION, WORKFLOW, Queue, Request, WorkerAbout
from eco_eval.types import Progress

T = TypeVar("T")

log = logging.getLogger(__name__)


class Ran(NamedTuple):
    """A run that came to its result, and whether that was published; None where there is nowhere to publish."""

    result: str
    published: bool | None = None


Evaluate = Callable[[Request, Progress, Mapping[str, int]], Ran]
"""`run(request, progress, squeezed)` evaluates a request and keeps its result. `progress` may raise `Superseded` or
something that ends this worker: then it drops what it does. `squeezed` counts by model's name how often one ran out of
memory before: the candidate, or a judge."""

OUT_OF_MEMORY = ("engine.out_of_memory", "engine.memory_limit")

MOST_SQUEEZED = 2
"""How often a run is tried again with smaller batches after one of its models ran out of memory."""

RETRIES = 4
"""How often a stage that broke for a passing cause is tried again."""

LONGEST_PAUSE = 300.0
"""Seconds between two tries at most; they double from one second."""


class _Stopping(BaseException):
    """This worker ends. No `Exception`: DBOS would write the run down as ended, and nobody would take it over."""


class Worker:
    """One process that runs requests of a queue.

    Args:
        at_once: requests in hand at a time.
        about: what this machine is and takes, for whoever submits.
        silent: seconds after which a worker that is not heard of counts as dead. Heartbeats come five times as often.
        polling: seconds between two looks for work.
        pause: seconds before the first new try of a stage that broke for a passing cause.
    """

    def __init__(
        self,
        queue: Queue,
        run: Evaluate,
        *,
        at_once: int = 1,
        about: WorkerAbout | None = None,
        silent: float = 60.0,
        polling: float = 1.0,
        pause: float = 1.0,
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._queue = queue
        self._run = run
        self._at_once = at_once
        self._about = about
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

        self._queue.beat(self.name, self._about)
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
        DBOS.register_queue(QUEUE, worker_concurrency=self._at_once, polling_interval_sec=self._polling)
        self._heart.start()

    def stop(self, patience: float = 0.0) -> None:
        """Take no more work, and wait for the runs in hand for so many seconds.

        Then they end at their next report of progress, and others take them over at once.
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
        log.info("taken", extra={"request": request.id, "model": request.submission.model.name, "worker": self.name})
        try:
            ran = self._tried(request, generation, report)
        except Superseded:
            log.info("dropped", extra={"request": request.id, "stage": report.stage})
            raise
        except EcoEvalError as error:
            self._fail(request, generation, report, error)
        # A bug in a run must not leave a request running for ever: nobody would look.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self._fail(request, generation, report, StageError("queue.internal", reason=reason))
            raise
        else:
            report.end()
            self._lasting(lambda: self._queue.finish(request.id, generation, ran.result, published=ran.published))
            log.info("finished", extra={"request": request.id, "published": ran.published})

    def _fail(self, request: Request, generation: int, report: _Report, error: EcoEvalError) -> None:
        report.end()
        self._lasting(lambda: self._queue.fail(request.id, generation, report.stage, error))
        log.warning("failed", extra={"request": request.id, "stage": report.stage, "cause": error.key})

    def _tried(self, request: Request, generation: int, report: _Report) -> Ran:
        """What it comes to, after as many tries as its causes deserve."""
        tries, squeezed = 0, Counter[str]()
        while True:
            try:
                return self._run(request, report, squeezed)
            except StageError as caught:
                error = caught
            model = str(error.values.get("model"))
            if error.key in OUT_OF_MEMORY and squeezed[model] < MOST_SQUEEZED:
                squeezed[model] += 1
            elif error.key not in OUT_OF_MEMORY and error.retryable and tries < RETRIES:
                tries += 1
            else:
                raise error
            self._lasting(partial(self._queue.again, request.id, generation, report.stage, error))
            log.warning("again", extra={"request": request.id, "stage": report.stage, "cause": error.key})
            if error.key not in OUT_OF_MEMORY:
                report("wait", tries, RETRIES)
                self._stopped.wait(min(LONGEST_PAUSE, self._pause * 2 ** (tries - 1)))

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
                self._queue.beat(self.name, self._about)
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

    def took(self, request_id: str, generation: int, stage: str, seconds: float) -> None:
        """Note how long a stage of a run took."""
        self._lasting(lambda: self._queue.stage(request_id, generation, stage, seconds))


class _Report:
    """Progress of one run, told at most once a second and at every change of stage, and how long each stage took."""

    def __init__(self, worker: Worker, request_id: str, generation: int) -> None:
        self.stage = "check"
        self._worker = worker
        self._request_id = request_id
        self._generation = generation
        self._told = self._began = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage == self.stage and done < total and now - self._told < 1:
            return
        if stage != self.stage:
            self.end()
        self.stage, self._told = stage, now
        self._worker.progress(self._request_id, self._generation, stage, done, total)

    def end(self) -> None:
        """The stage has ended."""
        now = time.monotonic()
        self._worker.took(self._request_id, self._generation, self.stage, now - self._began)
        self._began = now
