"""The whole flow: one submission, once through. Read this file first.

    answer → judge → score → result

Each stage keeps what it made; a stage whose work is kept does nothing. The same function serves the command line,
the worker, the demo and the tests.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from eco_eval import __version__, scoring
from eco_eval.answering import answer, answers_path
from eco_eval.candidates import resolve
from eco_eval.engines import EngineName, OpenEngine, open_engine
from eco_eval.errors import InputError, StoreError
from eco_eval.instrument import Instrument
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
) -> Result:
    """Score one model, resuming whatever an earlier run left; with nothing left to do, no model is loaded.

    Args:
        submission: the model and what it is asked; must belong to `instrument`.
        instrument: what the number means, its judge resolved.
        engines: called when a stage has work.
        store: where everything is kept.
        progress: told `(stage, done, total)` as answers and verdicts come.

    Raises:
        InputError: something a person can fix.
        StageError: an engine or the store broke, or too few verdicts for a score. What was done is kept.
    """
    kept = read_result(store, submission.id)
    if kept is not None:
        return kept
    clock = _Clock()
    answers, candidate = answer(submission, instrument, engines.candidate, store, progress)
    clock.lap("answer")
    anchors = anchor_sheets(instrument)
    sheets = [*anchors, _sheet(submission, instrument.asked, answers)]
    judgements, judged_by = judge(sheets, instrument, engines.judge, store, progress)
    clock.lap("judge")
    agreement = judge_agreement(anchors, judgements)
    subjects = [*(anchor_submission(instrument, sheet) for sheet in anchors), submission]
    results = []
    for subject, sheet, verdicts in zip(subjects, sheets, judgements, strict=True):
        is_anchor = subject is not submission
        result = Result(
            id=subject.id,
            submission=subject,
            score=scoring.score(sheet.prompts, sheet.answers, verdicts, instrument.score.max_ungraded),
            agreement=agreement,
            stand_in_judge=instrument.judge.stand_in,
            publishable=instrument.publishable and not is_anchor,
            is_anchor=is_anchor,
            answers_path=answers_path(subject),
            judgements_path=judgements_path(sheet, instrument),
            provenance=_provenance(None if is_anchor else candidate, judged_by, clock),
        )
        results.append(result)
    for result, sheet in zip(results, sheets, strict=True):
        _keep(result, sheet, store)
    return results[-1]


def submit(model: ModelRef, instrument: Instrument, system_prompt: str | None = None) -> Submission:
    """The submission of a model to an instrument."""
    return Submission(
        model=model,
        system_prompt=system_prompt,
        instrument=instrument.name + "".join(f" [{change}]" for change in instrument.altered),
        asked_digest=instrument.asked_digest,
        measured_digest=instrument.measured_digest,
    )


def resolve_judge(instrument: Instrument, settings: Settings) -> tuple[Instrument, ModelRef]:
    """The instrument with its judge at exact weights, and those weights.

    Raises:
        InputError: the judge was not trained here yet, or cannot be used as it is.
        EngineError: the Hub cannot be reached.
    """
    spec = instrument.judge
    if spec.source == "endpoint":
        ref = ModelRef(name=spec.model, source="endpoint", revision=digest(["endpoint", spec.model])[:40])
    elif spec.source == "trained":
        folder = settings.models_dir / spec.model
        if not (folder / "config.json").is_file():
            raise InputError("judge.not_trained", judge=spec.model, folder=folder)
        ref = resolve(str(folder))
    else:
        ref = resolve(f"{spec.model}@{spec.revision}" if spec.revision else spec.model)
    return instrument.with_judge_at(ref.revision), ref


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
        raise StoreError("store.corrupt", path=path, reason=str(error).splitlines()[0]) from error


def forget(submission: Submission, instrument: Instrument, store: Store, *, judgements: bool) -> None:
    """Drop a result, and its judgements too if asked, so that `evaluate` makes them again from what is before.

    Raises:
        InputError: the answers are not kept, so there is nothing to start from.
    """
    if store.read(answers_path(submission)) is None:
        raise InputError("judge.no_answers", model=submission.model.name, instrument=submission.instrument)
    store.delete(f"results/{submission.id}.json")
    if judgements:
        sheet = _sheet(submission, (), ())
        store.delete(judgements_path(sheet, instrument))


def anchor_sheets(instrument: Instrument) -> list[Sheet]:
    """Answers whose grade is known beforehand, for the judge to be seen against: gold and constant."""
    sheets = []
    triples = tuple(p for p in instrument.gold if p.best and p.ambivalent and p.worst)
    for role in ("best", "ambivalent", "worst"):
        if triples:
            answers = tuple(Answer(prompt_id=p.id, prompt=p.text, text=getattr(p, role)) for p in triples)
            sheets.append(_anchor(role, instrument.base, triples, answers))
    constant = instrument.rubric.phrases[instrument.lang].constant
    same = tuple(Answer(prompt_id=p.id, prompt=p.text, text=constant) for p in instrument.asked)
    sheets.append(_anchor("constant", instrument, instrument.asked, same))
    return sheets


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
    triples = [(p.id, *three) for p, *three in zip(prompts, best, middle, worst, strict=True)]
    return scoring.agreement(triples, [p.group for p in prompts])  # type: ignore[arg-type]


def _anchor(role: str, instrument: Instrument, prompts: tuple[Prompt, ...], answers: tuple[Answer, ...]) -> Sheet:
    key = digest([instrument.asked_digest, [a.text for a in answers]])[:40]
    return Sheet(model=f"anchor-{role}", key=key, prompts=prompts, answers=answers)


def _sheet(submission: Submission, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Sheet:
    key = submission.answers_digest
    return Sheet(model=submission.model.name, key=key, prompts=tuple(prompts), answers=tuple(answers))


def _keep(result: Result, sheet: Sheet, store: Store) -> None:
    if result.is_anchor:
        if store.read(f"results/{result.id}.json") is not None:
            return
        table: Table[Answer] = Table(store, result.answers_path, Answer)
        for written in sheet.answers:
            table.add(written)
        table.finish([p.id for p in sheet.prompts])
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
