"""Which engines a submission needs, and how to open them on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from eco_eval.candidates import resolve
from eco_eval.engines import EngineName, OpenEngine, open_engine
from eco_eval.errors import InputError
from eco_eval.instrument import Instrument, JudgeSpec
from eco_eval.settings import Settings
from eco_eval.types import ModelRef, Submission, digest


@dataclass(frozen=True)
class Engines:
    """How to open the candidate's engine and the judges'. None is opened unless it has work.

    `panel` opens the judges of the instrument's panel, in its order. `judges` are the weights of all of them, for what
    they declare of their origin; empty where that is not known.
    """

    candidate: OpenEngine
    judge: OpenEngine
    panel: tuple[OpenEngine, ...] = ()
    judges: tuple[ModelRef, ...] = ()


def resolve_judges(
    instrument: Instrument, settings: Settings, judge_url: str | None = None
) -> tuple[Instrument, tuple[ModelRef, ...]]:
    """The instrument with its judges at exact weights, and those weights, in the order of its seats.

    Raises:
        InputError: a judge was not trained here yet, or cannot be used as it is.
        EngineError: the Hub cannot be reached.
    """
    judges = [seat.judge for seat in instrument.seats]
    if instrument.is_served and not judge_url:
        raise InputError("endpoint.no_url", option="--judge-url")
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
        judges=tuple(judge_refs),
    )
