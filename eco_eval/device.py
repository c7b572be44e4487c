"""One device, several runs: who may use it now, and which model stays on it for the next.

A judge is costly to load. So the runs a worker has in hand answer first, one candidate after another, and then go
before the judge one after another while it stays loaded. Only one model is on the device at a time.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field

from eco_eval.engines.base import Engine, OpenEngine
from eco_eval.errors import EcoEvalError, EngineError

PATIENCE = 120.0
"""Seconds the device stays idle for a run in hand that may want the same judge but has not answered yet."""

Holding = Callable[[], AbstractContextManager[object]]


@dataclass(eq=False)
class Run:
    """A run in hand. `answering`: it has not come to a judge yet."""

    answering: bool = True


@dataclass(eq=False)
class _Ticket:
    run: Run
    judge: str | None
    number: int
    since: float = field(default_factory=time.monotonic)


@dataclass
class _Loaded:
    judge: str
    engine: Engine
    closing: AbstractContextManager[Engine]


class Device:
    """Lends the device to one run at a time.

    Args:
        patience: see `PATIENCE`.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._turn = threading.Condition()
        self._runs: set[Run] = set()
        self._waiting: list[_Ticket] = []
        self._numbers = itertools.count()
        self._held = False
        self._loaded: _Loaded | None = None

    @contextmanager
    def run(self) -> Iterator[Run]:
        """A run that will want the device. When the last one ends, nothing stays on it."""
        run = Run()
        with self._turn:
            self._runs.add(run)
        try:
            yield run
        finally:
            with self._turn:
                self._runs.remove(run)
                if not self._runs:
                    # Whoever a judge stayed for may have been stopped before its turn.
                    self._unload()
                self._turn.notify_all()

    def candidate(
        self, run: Run, opener: OpenEngine, waiting: Callable[[], None], holding: Holding = nullcontext
    ) -> OpenEngine:
        """A candidate's engine, opened when it is its turn and ended after.

        Args:
            waiting: called about once a second until then; what it raises ends the wait.
            holding: entered while the device is this run's.
        """

        @contextmanager
        def opened() -> Iterator[Engine]:
            with self._turn_of(_Ticket(run, None, next(self._numbers)), waiting), holding():
                self._unload()
                with opener() as engine:
                    yield engine

        return opened

    def judge(
        self,
        run: Run,
        name: str,
        opener: OpenEngine,
        waiting: Callable[[], None],
        holding: Holding = nullcontext,
    ) -> OpenEngine:
        """A judge's engine, shared with the other runs in hand that name the same.

        What breaks in one that served others before may be tried again.

        Args:
            name: what tells it from any other judge: weights and how they are run.
            waiting, holding: as for `candidate`.
        """

        @contextmanager
        def opened() -> Iterator[Engine]:
            run.answering = False
            with self._turn_of(_Ticket(run, name, next(self._numbers)), waiting), holding():
                used = self._loaded is not None and self._loaded.judge == name
                try:
                    yield self._load(name, opener)
                except BaseException as error:
                    # It may be the engine that broke: whoever is next gets a fresh one.
                    with suppress(EcoEvalError, OSError):
                        self._unload()
                    if used and isinstance(error, EngineError):
                        # It broke, or its time was up, after it had served others: with a fresh one it may not.
                        error.retryable = True
                    raise
                with self._turn:
                    wanted = any(ticket.judge == name for ticket in self._waiting)
                if not wanted:
                    self._unload()

        return opened

    def _load(self, name: str, opener: OpenEngine) -> Engine:
        if self._loaded is not None and self._loaded.judge == name:
            return self._loaded.engine
        self._unload()
        closing = opener()
        self._loaded = _Loaded(name, closing.__enter__(), closing)
        return self._loaded.engine

    def _unload(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.closing.__exit__(None, None, None)

    @contextmanager
    def _turn_of(self, ticket: _Ticket, waiting: Callable[[], None]) -> Iterator[None]:
        with self._turn:
            self._waiting.append(ticket)
            self._turn.notify_all()
        try:
            while not self._take(ticket):
                waiting()
        except BaseException:
            with self._turn:
                self._waiting.remove(ticket)
                self._turn.notify_all()
            raise
        try:
            yield
        finally:
            with self._turn:
                self._held = False
                self._turn.notify_all()

    def _take(self, ticket: _Ticket, within: float = 1.0) -> bool:
        """Whether its turn comes within so many seconds; if so, the device is its own."""
        end = time.monotonic() + within
        with self._turn:
            while self._held or self._next() is not ticket:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                # Also woken by nobody: patience ends by itself.
                self._turn.wait(min(left, 0.2))
            self._held = True
            self._waiting.remove(ticket)
            return True

    def _next(self) -> _Ticket | None:
        """Whose turn it is: whoever wants the judge that is loaded, then candidates, then judges, each in order."""
        loaded = self._loaded.judge if self._loaded is not None else None
        for ticket in self._waiting:
            if loaded is not None and ticket.judge == loaded:
                return ticket
        for ticket in self._waiting:
            if ticket.judge is None:
                return ticket
        first = self._waiting[0]
        others = any(run.answering for run in self._runs)
        return first if not others or time.monotonic() - first.since > self._patience else None
