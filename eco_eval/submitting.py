"""What a submission names: exact weights, and an instrument with its judges at exact weights. Nothing is loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path

from eco_eval.candidates import inspect, resolve
from eco_eval.errors import InputError
from eco_eval.instrument import Instrument, JudgeSpec
from eco_eval.settings import Settings
from eco_eval.types import ModelRef, Submission, digest


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
    instrument: Instrument, settings: Settings, judge_url: str | None = None, *, download: bool = True
) -> tuple[Instrument, tuple[ModelRef, ...]]:
    """The instrument with its judges at exact weights, and those weights, in the order of its seats.

    Args:
        judge_url: base URL of judges that are served.
        download: whether judges of the Hub are to be here; where nobody loads them, their revision is enough.

    Raises:
        InputError: a judge was not trained here yet, or cannot be used as it is.
        EngineError: the Hub cannot be reached.
    """
    judges = [seat.judge for seat in instrument.seats]
    if instrument.is_served and not judge_url:
        raise InputError("endpoint.no_url", option="--judge-url")
    refs = tuple(_resolve_judge(judge, settings, judge_url, download) for judge in judges)
    found = [(ref.revision, judge.stand_in or _is_stand_in(ref)) for judge, ref in zip(judges, refs, strict=True)]
    return instrument.with_judges_at(found), refs


def _resolve_judge(spec: JudgeSpec, settings: Settings, judge_url: str | None, download: bool) -> ModelRef:
    if spec.source == "endpoint":
        # Nobody but its operator knows what an endpoint serves: its address stands for its weights.
        address = (judge_url or "").rstrip("/")
        return ModelRef(name=spec.model, source="endpoint", revision=digest(["endpoint", address, spec.model])[:40])
    if spec.source == "trained":
        folder = settings.models_dir / spec.model
        if not (folder / "config.json").is_file():
            raise InputError("judge.not_trained", judge=spec.model, folder=folder)
        return resolve(str(folder))
    if not download and spec.source == "hub" and re.fullmatch(r"[0-9a-f]{40}", spec.revision):
        return ModelRef(name=spec.model, source="hub", revision=spec.revision)
    named = f"{spec.model}@{spec.revision}" if spec.revision else spec.model
    return resolve(named) if download else inspect(named).ref


def _is_stand_in(judge: ModelRef) -> bool:
    """Judges trained by this project say so in their folder, wherever it is."""
    if judge.path is None:
        return False
    try:
        return bool(json.loads((Path(judge.path) / "run.json").read_text())["stand_in"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
