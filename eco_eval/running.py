"""A request of the queue, run on this machine: everything a stranger's weights need around the pipeline.

The weights are resolved anew from what the request pins, so that a request cannot name other weights, or a path, than
those it was checked with. Every model runs in a child process with limits and without secrets.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from eco_eval.candidates import Intake, Limits, fetch, inspect, make_room
from eco_eval.device import Device, Run
from eco_eval.energy import Meter, meter_of
from eco_eval.engines.architectures import architectures
from eco_eval.errors import ConflictError, InputError, StageError, StoreError, SubmissionRejected
from eco_eval.instrument import Instrument, load_instrument
from eco_eval.machine import room
from eco_eval.opening import Engines, open_engines
from eco_eval.pipeline import evaluate
from eco_eval.publishing import publish
from eco_eval.queue import Request
from eco_eval.results import restore_result, result_path
from eco_eval.settings import Settings
from eco_eval.store import HubStore, LocalStore, board_store
from eco_eval.submitting import resolve_judges
from eco_eval.types import ModelRef, Progress, Result, digest
from eco_eval.worker import Ran

BATCH_SIZES = (None, 4, 1)
"""Conversations at once: the engine's own choice, then fewer each time a model is out of memory."""


class Runner:
    """Runs requests with this machine's settings, several at a time; see `worker.Evaluate`.

    What is kept goes to the data folder, and from there to the Hub dataset where the settings name one.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._device = Device()
        self._local = LocalStore(settings.data_dir)
        self._private = LocalStore(settings.private_dir)
        self._downloads = settings.cache_dir / "candidates"
        self._disk = threading.Lock()
        self._in_use: Counter[str] = Counter()
        self._promised = 0
        board = board_store(settings)
        self._board = board if isinstance(board, HubStore) else None
        # What would fail every run is said at the start.
        if self._board is not None and not settings.hub_token:
            raise InputError("publish.no_board")
        meter_of(settings)

    def __call__(self, request: Request, progress: Progress, squeezed: Mapping[str, int]) -> Ran:
        progress("check", 0, 1)
        for store in (self._local, self._board):
            if store is not None:
                restore_result(store, request.id)
        if self._board is not None and self._board.list(result_path(request.id)):
            return Ran(request.id, published=True)  # by a service that has lost its disk since
        with self._device.run() as run, self._files(request, progress, run) as model:
            result, measure = self._evaluated(request, model, progress, squeezed, run)
        return Ran(result.id, self._published(result, measure, progress))

    def _evaluated(
        self, request: Request, model: ModelRef, progress: Progress, squeezed: Mapping[str, int], run: Run
    ) -> tuple[Result, Instrument]:
        settings, submission = self._settings, request.submission
        measure, judges = resolve_judges(
            load_instrument(submission.instrument, built=settings.prompts_dir), settings, None
        )
        if (measure.asked_digest, measure.measured_digest) != (submission.asked_digest, submission.measured_digest):
            raise StageError("queue.other_instrument", instrument=submission.instrument)
        same = submission.model_copy(update={"model": model})
        # A judge's time is counted from when it is loaded, and the runs in hand share it.
        patient = settings.model_copy(update={"stage_timeout": settings.stage_timeout * settings.in_hand})
        batches = {ref.name: BATCH_SIZES[squeezed.get(ref.name, 0)] for ref in (model, *judges)}
        own, shared = (
            open_engines(same, measure, judges, limits, engine=request.engine, batch_sizes=batches, isolated=True)
            for limits in (settings, patient)
        )
        engines = replace(shared, candidate=own.candidate)
        meter = meter_of(settings)
        names = [
            digest([ref.name, ref.revision, seat.judge.engine, seat.judge.dtype, seat.judge.context, batches[ref.name]])
            for ref, seat in zip(judges, measure.seats, strict=True)
        ]
        lent = self._lent(engines, names, run, meter, progress)
        return evaluate(same, measure, lent, self._local, progress, private=self._private, meter=meter), measure

    @contextmanager
    def _files(self, request: Request, progress: Progress, run: Run) -> Iterator[ModelRef]:
        """The request's model with its files on this machine, checked again; they stay for as long as this lasts.

        Raises:
            SubmissionRejected: it is not what it was, or does not fit this machine.
            StageError: the folder holds other weights than when it was asked for.
        """
        pinned = request.submission.model
        on_hub = pinned.source == "hub"
        limits = Limits(
            max_bytes=room(request.engine, self._settings).max_bytes,
            architectures=architectures(request.engine),
            # What only this machine's token can see is for nobody's queue.
            strangers=on_hub or not request.user.startswith("local:"),
        )
        found = inspect(
            f"{pinned.name}@{pinned.revision}" if on_hub else request.folder or pinned.name,
            limits,
            base_revision=pinned.base.revision if pinned.base is not None else None,
        )
        if found.revision != pinned.revision or (found.base is None) != (pinned.base is None):
            raise StageError("queue.other_weights", model=pinned.name, found=found.revision, pinned=pinned.revision)
        revisions = [found.revision, *([found.base.revision] if found.base is not None else [])]
        coming = self._room_for(found, revisions, progress, run)
        try:
            try:
                ref = fetch(found, self._downloads)
            finally:
                with self._disk:
                    self._promised -= coming
            yield pinned.model_copy(update={"path": ref.path, "base": ref.base})
        finally:
            with self._disk:
                self._in_use.subtract(revisions)
                self._in_use += Counter()

    def _room_for(self, found: Intake, revisions: list[str], progress: Progress, run: Run) -> int:
        """Wait until there is room on the disk for a model, and claim it; returns the bytes that are to come."""
        while True:
            with self._disk:
                try:
                    coming = make_room(found, self._downloads, self._in_use, self._promised)
                except SubmissionRejected:
                    # What the other runs in hand hold is free when they end.
                    if not self._in_use:
                        raise
                else:
                    self._in_use.update(revisions)
                    self._promised += coming
                    run.answering = True
                    return coming
            # Those it waits for need not wait for its answers.
            run.answering = False
            progress("wait", 0, 1)
            time.sleep(1)

    def _lent(self, engines: Engines, names: list[str], run: Run, meter: Meter, progress: Progress) -> Engines:
        """The engines, each opened when it is this run's turn on the device."""

        def waiting() -> None:
            progress("wait", 0, 1)

        @contextmanager
        def counted(stage: str) -> Iterator[None]:
            progress("load", 0, 1)
            with meter.stage(stage):
                yield

        judge, *panel = (
            self._device.judge(run, name, opener, waiting, lambda: counted("judge"))
            for name, opener in zip(names, (engines.judge, *engines.panel), strict=True)
        )
        candidate = self._device.candidate(run, engines.candidate, waiting, lambda: counted("answer"))
        return replace(engines, candidate=candidate, judge=judge, panel=tuple(panel))

    def _published(self, result: Result, measure: Instrument, progress: Progress) -> bool | None:
        if self._board is None:
            return None
        everything = self._settings.publish == "all"
        if not (result.publishable or everything):
            return False
        progress("publish", 0, 1)
        try:
            publish(result.id, self._local, self._board, unpublishable=everything, languages=[measure.lang])
        except ConflictError as error:
            raise StoreError(error.key, retryable=True, **error.values) from error
        return True
