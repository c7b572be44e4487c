"""The whole flow: one submission, once through. Read this file first.

    answer → judge → score → result

Each stage keeps what it made; a stage whose work is kept does nothing. The same function serves the command line,
the worker, the demo and the tests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from eco_eval import __version__, scoring
from eco_eval.anchors import anchor_sheets
from eco_eval.answering import answer, answers_path
from eco_eval.candidates import resolve
from eco_eval.engines import EngineName, OpenEngine, open_engine
from eco_eval.errors import InputError, StoreError, TooManyUngraded
from eco_eval.instrument import Instrument
from eco_eval.judge_card import is_cleared
from eco_eval.judging import Sheet, judge, judgements_path
from eco_eval.settings import Settings
from eco_eval.store import Store, Table
from eco_eval.types import (
    Agreement,
    Answer,
    EngineInfo,
    Judgement,
    ModelRef,
    Progress,
    Prompt,
    Provenance,
    Result,
    Submission,
    digest,
    no_progress,
)

Stage = Literal["judge", "score"]
"""A stage that can be made again from what is kept."""


@dataclass(frozen=True)
class Engines:
    """How to open the candidate's engine and the judge's. Neither is opened unless it has work."""

    candidate: OpenEngine
    judge: OpenEngine


def evaluate(
    submission: Submission,
    instrument: Instrument,
    engines: Engines,
    store: Store,
    progress: Progress = no_progress,
    *,
    again: Stage | None = None,
) -> Result:
    """Score one model, resuming whatever an earlier run left; with nothing left to do, no model is loaded.

    Args:
        submission: the model and what it is asked; must belong to `instrument`.
        instrument: what the number means, its judge resolved.
        engines: called when a stage has work.
        store: where everything is kept.
        progress: told `(stage, done, total)` as answers and verdicts come.
        again: make this stage again although it is kept, and those after it. The new verdicts are kept beside the old
            until the new result, which names them, is written.

    Raises:
        InputError: something a person can fix.
        StageError: an engine or the store broke, or too few verdicts for a score. What was done is kept.
    """
    kept = read_result(store, submission.id)
    if kept is not None and again is None and _is_whole(kept, store):
        return kept
    clock = _Clock()
    answers, candidate = answer(submission, instrument, engines.candidate, store, progress)
    clock.lap("answer")
    anchors = anchor_sheets(instrument)
    sheet = _sheet(submission, instrument.asked, answers)
    old, place = _verdict_places(kept, judgements_path(sheet, instrument), again)
    if old != place:
        store.delete(place)
    sheets, places = [*anchors, sheet], [*(judgements_path(anchor, instrument) for anchor in anchors), place]
    judgements, judged_by = judge(sheets, places, instrument, engines.judge, store, progress)
    clock.lap("judge")
    agreement = judge_agreement(anchors, judgements)
    made = _Made(instrument, agreement, judged_by, is_cleared(instrument, store), clock)
    for anchor, verdicts in zip(anchors, judgements, strict=False):
        _keep_anchor(made, anchor, verdicts, store)
    result = made.result(submission, sheet, judgements[-1], candidate, place)
    _write(result, store)
    if old != place:
        store.delete(old)
    return result


def submit(model: ModelRef, instrument: Instrument, system_prompt: str | None = None) -> Submission:
    """The submission of a model to an instrument."""
    return Submission(
        model=model,
        system_prompt=system_prompt,
        instrument=instrument.name + "".join(f" [{change}]" for change in instrument.altered),
        asked_digest=instrument.asked_digest,
        measured_digest=instrument.measured_digest,
    )


def resolve_judge(
    instrument: Instrument, settings: Settings, judge_url: str | None = None
) -> tuple[Instrument, ModelRef]:
    """The instrument with its judge at exact weights, and those weights.

    Raises:
        InputError: the judge was not trained here yet, or cannot be used as it is.
        EngineError: the Hub cannot be reached.
    """
    spec = instrument.judge
    if spec.source == "endpoint":
        # Nobody but its operator knows what an endpoint serves: its address stands for its weights.
        address = (judge_url or "").rstrip("/")
        ref = ModelRef(name=spec.model, source="endpoint", revision=digest(["endpoint", address, spec.model])[:40])
    elif spec.source == "trained":
        folder = settings.models_dir / spec.model
        if not (folder / "config.json").is_file():
            raise InputError("judge.not_trained", judge=spec.model, folder=folder)
        ref = resolve(str(folder))
    else:
        ref = resolve(f"{spec.model}@{spec.revision}" if spec.revision else spec.model)
    return instrument.with_judge_at(ref.revision, stand_in=spec.stand_in or _is_stand_in(ref)), ref


def _is_stand_in(judge: ModelRef) -> bool:
    """Judges trained by this project say so in their folder, wherever it is."""
    if judge.path is None:
        return False
    try:
        return bool(json.loads((Path(judge.path) / "run.json").read_text())["stand_in"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def open_engines(
    submission: Submission,
    instrument: Instrument,
    judge_ref: ModelRef,
    settings: Settings,
    *,
    engine: EngineName = "transformers",
    url: str | None = None,
    judge_url: str | None = None,
) -> Engines:
    """How to open the two engines of a submission on this machine; nothing starts yet."""
    return Engines(
        candidate=lambda: open_engine(
            engine,
            submission.model,
            settings,
            context=instrument.answer.context,
            dtype=submission.model.dtype,
            url=url,
            key=settings.candidate_key,
        ),
        judge=lambda: open_engine(
            instrument.judge.engine,
            judge_ref,
            settings,
            context=instrument.judge.context,
            dtype=instrument.judge.dtype,
            url=judge_url,
            key=settings.judge_key,
        ),
    )


def read_result(store: Store, result_id: str) -> Result | None:
    """A kept result.

    Raises:
        StoreError: it is there and cannot be read.
    """
    path = f"results/{result_id}.json"
    found = store.read(path)
    if found is None:
        return None
    try:
        return Result.model_validate_json(found[0])
    except ValueError as error:
        raise StoreError("store.corrupt", path=path, reason=type(error).__name__) from error


def anchor_submission(instrument: Instrument, sheet: Sheet) -> Submission:
    """The submission an anchor's sheet stands for."""
    asks = instrument if sheet.prompts == instrument.asked else instrument.base
    return submit(ModelRef(name=sheet.model, source="anchor", revision=sheet.key), asks)


def judge_agreement(anchors: Sequence[Sheet], judgements: Sequence[Sequence[Judgement]]) -> Agreement | None:
    """How the judge ordered the gold triples; None when the instrument has none."""
    if len(anchors) < 4:
        return None
    best, middle, worst = judgements[:3]
    prompts = anchors[0].prompts
    return scoring.agreement(list(zip(best, middle, worst, strict=True)), [p.group for p in prompts])


def _sheet(submission: Submission, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Sheet:
    # The answers' own words are in the key: verdicts on other answers are never taken for verdicts on these.
    said = [[a.prompt_id, a.text, a.truncated, a.failure is None] for a in answers]
    key = digest([submission.answers_digest, said])
    return Sheet(model=submission.model.name, key=key, prompts=tuple(prompts), answers=tuple(answers))


@dataclass(frozen=True)
class _Made:
    """What all results of one run share."""

    instrument: Instrument
    agreement: Agreement | None
    judged_by: EngineInfo | None
    cleared: bool
    clock: _Clock

    def result(
        self,
        subject: Submission,
        sheet: Sheet,
        verdicts: Sequence[Judgement],
        candidate: EngineInfo | None,
        verdicts_path: str,
    ) -> Result:
        is_anchor = subject.model.source == "anchor"
        return Result(
            id=subject.id,
            submission=subject,
            score=scoring.score(sheet.prompts, sheet.answers, verdicts, self.instrument.score.max_ungraded),
            agreement=self.agreement,
            stand_in_judge=self.instrument.judge.stand_in,
            # Only weights on the Hub can be fetched and checked by others.
            publishable=self.cleared and self.instrument.publishable and subject.model.source == "hub",
            is_anchor=is_anchor,
            attribution=self.instrument.attribution,
            answers_path=answers_path(subject),
            judgements_path=verdicts_path,
            provenance=_provenance(candidate, self.judged_by, self.clock),
        )


def _keep_anchor(made: _Made, sheet: Sheet, verdicts: Sequence[Judgement], store: Store) -> None:
    """Write an anchor's result, once. One with too few verdicts is left out: it is not the candidate's fault."""
    subject = anchor_submission(made.instrument, sheet)
    kept = store.read(f"results/{subject.id}.json")
    table: Table[Answer] = Table(store, answers_path(subject), Answer)
    if kept is not None and table.finished:
        return
    try:
        result = made.result(subject, sheet, verdicts, None, judgements_path(sheet, made.instrument))
    except TooManyUngraded:
        return
    for written in sheet.answers:
        table.add(written)
    table.finish([p.id for p in sheet.prompts])
    _write(result, store)


def _is_whole(result: Result, store: Store) -> bool:
    """Whether what explains a result is there as well."""
    return bool(store.list(result.answers_path) and store.list(result.judgements_path))


def _verdict_places(kept: Result | None, path: str, again: Stage | None) -> tuple[str, str]:
    """Where a sheet's verdicts are, and where they go: the same place, unless they are made again beside the old."""
    both = (path, path.replace(".parquet", ".again.parquet"))
    now = both[1] if kept is not None and kept.judgements_path == both[1] else both[0]
    return now, both[both.index(now) - 1] if again == "judge" else now


def _write(result: Result, store: Store) -> None:
    store.write(f"results/{result.id}.json", (result.model_dump_json(indent=1) + "\n").encode())


def _provenance(candidate: EngineInfo | None, judge_info: EngineInfo | None, clock: _Clock) -> Provenance:
    return Provenance(
        eco_eval=__version__,
        candidate=candidate,
        judge=judge_info,
        seconds=dict(clock.seconds),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


class _Clock:
    """Wall-clock seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now
