"""Which engines a submission needs, and how to open them on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from eco_eval.engines import EngineName, OpenEngine, open_engine
from eco_eval.instrument import Instrument
from eco_eval.settings import Settings
from eco_eval.types import ModelRef, Submission


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
