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
from functools import partial
from pathlib import Path
from typing import Literal

from eco_eval import __version__, scoring
from eco_eval.anchors import anchor_sheets
from eco_eval.answering import answer, answers_path
from eco_eval.candidates import resolve
from eco_eval.corrections import ROLES, GoldVerdicts
from eco_eval.engines import EngineName, OpenEngine, open_engine
from eco_eval.errors import InputError, TooManyUngraded
from eco_eval.instrument import Instrument, JudgeSpec
from eco_eval.judge_card import is_cleared
from eco_eval.judging import Sheet, judge, judgements_path, letter
from eco_eval.results import read_result, result_path, write_result
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
    Seat,
    Submission,
    digest,
    no_progress,
)

Stage = Literal["judge", "score"]
"""A stage that can be made again from what is kept."""


@dataclass(frozen=True)
class Engines:
    """How to open the candidate's engine and the judges'. None is opened unless it has work.

    `panel` opens the judges of the instrument's panel, in its order.
    """

    candidate: OpenEngine
    judge: OpenEngine
    panel: tuple[OpenEngine, ...] = ()


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
        instrument: what the number means, its judges resolved.
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
    seats = []
    for place, (seat, engine) in enumerate(zip(instrument.seats, (engines.judge, *engines.panel), strict=True)):
        before = kept.seats[place].judgements_path if kept is not None else ""
        seats.append(_judge_seat(seat, engine, [*anchors, sheet], before, again, store, progress))
    clock.lap("judge")
    made = _Made(instrument, seats, is_cleared(instrument, store), clock)
    for number, anchor in enumerate(anchors):
        _keep_anchor(made, anchor, number, store)
    result = made.result(submission, sheet, len(anchors), candidate)
    write_result(result, store)
    for path in {path for seat in seats for path in seat.replaced}:
        store.delete(path)
    return result


@dataclass(frozen=True)
class _Seated:
    """One judge's verdicts on every sheet of a run, the places they are kept at, and places they replace."""

    instrument: Instrument
    verdicts: list[list[Judgement]]
    places: list[str]
    engine: EngineInfo | None
    agreement: Agreement | None
    replaced: tuple[str, ...]


def _judge_seat(
    seat: Instrument,
    engine: OpenEngine,
    sheets: Sequence[Sheet],
    before: str,
    again: Stage | None,
    store: Store,
    progress: Progress,
) -> _Seated:
    """Every sheet before one judge; the last is the candidate's, the others anchors.

    Args:
        before: where the kept result has its verdicts, if there is one.
    """
    old, place = _verdict_places(before, judgements_path(sheets[-1], seat), again)
    if old != place:
        store.delete(place)
    places = [*(judgements_path(anchor, seat) for anchor in sheets[:-1]), place]
    verdicts, judged_by = judge(sheets, places, seat, engine, store, progress)
    agreement = judge_agreement(sheets[:-1], verdicts)
    return _Seated(seat, verdicts, places, judged_by, agreement, (old,) if old != place else ())


def submit(model: ModelRef, instrument: Instrument, system_prompt: str | None = None) -> Submission:
    """The submission of a model to an instrument."""
    return Submission(
        model=model,
        system_prompt=system_prompt,
        instrument=instrument.name + "".join(f" [{change}]" for change in instrument.altered),
        asked_digest=instrument.asked_digest,
        measured_digest=instrument.measured_digest,
    )


def resolve_judges(
    instrument: Instrument, settings: Settings, judge_url: str | None = None
) -> tuple[Instrument, tuple[ModelRef, ...]]:
    """The instrument with its judges at exact weights, and those weights, in the order of its seats.

    Raises:
        InputError: a judge was not trained here yet, or cannot be used as it is.
        EngineError: the Hub cannot be reached.
    """
    judges = [seat.judge for seat in instrument.seats]
    refs = tuple(_resolve_judge(judge, settings, judge_url) for judge in judges)
    found = [(ref.revision, judge.stand_in or _is_stand_in(ref)) for judge, ref in zip(judges, refs, strict=True)]
    return instrument.with_judges_at(found), refs


def _resolve_judge(spec: JudgeSpec, settings: Settings, judge_url: str | None) -> ModelRef:
    if spec.source == "endpoint":
        # Nobody but its operator knows what an endpoint serves: its address stands for its weights.
        address = (judge_url or "").rstrip("/")
        return ModelRef(name=spec.model, source="endpoint", revision=digest(["endpoint", address, spec.model])[:40])
    if spec.source == "trained":
        folder = settings.models_dir / spec.model
        if not (folder / "config.json").is_file():
            raise InputError("judge.not_trained", judge=spec.model, folder=folder)
        return resolve(str(folder))
    return resolve(f"{spec.model}@{spec.revision}" if spec.revision else spec.model)


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
    judge_refs: Sequence[ModelRef],
    settings: Settings,
    *,
    engine: EngineName = "transformers",
    url: str | None = None,
    judge_url: str | None = None,
) -> Engines:
    """How to open the engines of a submission on this machine; nothing starts yet."""
    first, *others = [
        partial(
            open_engine,
            seat.judge.engine,
            ref,
            settings,
            context=seat.judge.context,
            dtype=seat.judge.dtype,
            url=judge_url,
            key=settings.judge_key,
        )
        for seat, ref in zip(instrument.seats, judge_refs, strict=True)
    ]
    return Engines(
        candidate=partial(
            open_engine,
            engine,
            submission.model,
            settings,
            context=instrument.answer.context,
            dtype=submission.model.dtype,
            url=url,
            key=settings.candidate_key,
        ),
        judge=first,
        panel=tuple(others),
    )


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
    """What all results of one run share. `seats` have the verdicts on all its sheets."""

    instrument: Instrument
    seats: Sequence[_Seated]
    cleared: bool
    clock: _Clock

    @property
    def gold(self) -> GoldVerdicts | None:
        """The verdicts on gold triples, where the instrument has any."""
        if len(self.seats[0].verdicts) < len(ROLES) + 2:
            return None
        triples = [p for p in self.instrument.gold if p.best and p.ambivalent and p.worst]
        return GoldVerdicts(triples, [[seat.verdicts[role] for seat in self.seats] for role in range(len(ROLES))])

    def result(self, subject: Submission, sheet: Sheet, number: int, candidate: EngineInfo | None) -> Result:
        """The result of one sheet, the `number`-th of each seat's verdicts."""
        verdicts = [seat.verdicts[number] for seat in self.seats]
        limit = self.instrument.score.max_ungraded
        return Result(
            id=subject.id,
            submission=subject,
            score=scoring.score(sheet.prompts, sheet.answers, verdicts, limit, self.gold),
            seats=tuple(self._seat(seat, sheet, number) for seat in self.seats),
            consensus=scoring.consensus(sheet.prompts, verdicts),
            groups=_group_numbers(sheet.prompts),
            # Only weights on the Hub can be fetched and checked by others.
            publishable=self.cleared and self.instrument.publishable and subject.model.source == "hub",
            is_anchor=subject.model.source == "anchor",
            attribution=self.instrument.attribution,
            answers_path=answers_path(subject),
            provenance=_provenance(candidate, self.clock),
        )

    def _seat(self, seat: _Seated, sheet: Sheet, number: int) -> Seat:
        judge = seat.instrument.judge
        return Seat(
            name=judge.model,
            revision=seat.instrument.judge_revision,
            stand_in=judge.stand_in,
            engine=seat.engine,
            eco=scoring.score_of_seat(sheet.prompts, sheet.answers, seat.verdicts[number]),
            agreement=seat.agreement,
            grades="".join(letter(verdict) for verdict in seat.verdicts[number]),
            judgements_path=seat.places[number],
        )


def _group_numbers(prompts: Sequence[Prompt]) -> tuple[int, ...]:
    numbers: dict[str, int] = {}
    return tuple(-1 if p.control else numbers.setdefault(p.group, len(numbers)) for p in prompts)


def _keep_anchor(made: _Made, sheet: Sheet, number: int, store: Store) -> None:
    """Write an anchor's result, once. One with too few verdicts is left out: it is not the candidate's fault."""
    subject = anchor_submission(made.instrument, sheet)
    kept = store.read(result_path(subject.id))
    table: Table[Answer] = Table(store, answers_path(subject), Answer)
    if kept is not None and table.finished:
        return
    try:
        result = made.result(subject, sheet, number, None)
    except TooManyUngraded:
        return
    for written in sheet.answers:
        table.add(written)
    table.finish([p.id for p in sheet.prompts])
    write_result(result, store)


def _is_whole(result: Result, store: Store) -> bool:
    """Whether what explains a result is there as well."""
    paths = [result.answers_path, *(seat.judgements_path for seat in result.seats)]
    return all(store.list(path) for path in paths)


def _verdict_places(before: str, path: str, again: Stage | None) -> tuple[str, str]:
    """Where a sheet's verdicts are, and where they go: the same place, unless they are made again beside the old."""
    both = (path, path.replace(".parquet", ".again.parquet"))
    now = both[1] if before == both[1] else both[0]
    return now, both[both.index(now) - 1] if again == "judge" else now


def _provenance(candidate: EngineInfo | None, clock: _Clock) -> Provenance:
    return Provenance(
        eco_eval=__version__,
        candidate=candidate,
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
