"""A result, obtained again: fetch exactly what it pins, run that in a store of its own, compare.

`sources.py` finds the result; `reproduction.py` says what the runs amount to.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from eco_eval import __version__, scoring
from eco_eval.anchors import anchor_sheets
from eco_eval.candidates import resolve
from eco_eval.corrections import ROLES, GoldVerdicts
from eco_eval.engines import Engine, EngineName, OpenEngine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.errors import InputError
from eco_eval.finishing import Spent, provenance
from eco_eval.instrument import Instrument, JudgeSpec, PanelSpec, load_instrument
from eco_eval.judging import Sheet, judgements_path
from eco_eval.people import FOLDER, points_of
from eco_eval.pipeline import Engines, anchor_submission, evaluate, open_engines, resolve_judges, submit
from eco_eval.prompts import read_prompts
from eco_eval.reproduction import Mode, Reproduction, Run, judge_repeats, judge_rescoring
from eco_eval.results import details, read_result
from eco_eval.settings import Settings
from eco_eval.sources import Source, place_of, read_run
from eco_eval.store import LocalStore, Store, Table
from eco_eval.types import (
    Answer,
    Conversation,
    EngineInfo,
    Failure,
    Judgement,
    ModelRef,
    Progress,
    Provenance,
    Record,
    Result,
    Score,
    Seat,
    Submission,
    digest,
    no_progress,
)

_CHANGE = re.compile(r" \[([^\]]*)\]")


class Choices(Record):
    """What the command line chose of how to run again. None: as the result has it.

    instrument: a `.toml` file, for an instrument of one's own; prompts: the file a result's `[prompts=…]` names.
    model: the candidate's folder, for local weights, or the name a server has for it.
    judge_model: where a local judge is now; another judge on purpose, if its weights are not the result's.
    """

    instrument: str | None = None
    prompts: Path | None = None
    model: str | None = None
    engine: EngineName | None = None
    url: str | None = None
    judge_model: str | None = None
    judge_engine: EngineName | None = None
    judge_url: str | None = None


def reproduce(
    source: Source,
    settings: Settings,
    choices: Choices | None = None,
    *,
    mode: Mode = "whole",
    runs: int = 1,
    again: bool = False,
    progress: Progress = no_progress,
) -> Reproduction:
    """Obtain a result again and say whether it is the same.

    Everything runs in `cache_dir/reproductions/<result>/`, never in the result's own store, and goes on there if it is
    cut short; a finished repetition is kept until `again`. An anchor's answers are written ones: it is judged again.

    Args:
        runs: repetitions, each with answers of its own.

    Raises:
        InputError: a piece is missing, or what is here is not what the result pins; says which.
        StageError: as `pipeline.evaluate`.
    """
    chosen = choices or Choices()
    kept = source.result
    measure, sheet = same_instrument(kept, settings, chosen)
    if mode == "rescore":
        return judge_rescoring(kept, *_score_again(source, measure, sheet))
    mode = "rejudge" if kept.is_anchor else mode
    asks = measure.model_copy(update={"asked": sheet.prompts}) if sheet else measure
    original = read_run(source, asks.asked)
    candidate = _candidate(kept, settings, chosen) if mode == "whole" else kept.submission.model
    asks, judges = _judges(kept, asks, settings, chosen)
    submission = kept.submission.model_copy(update={"model": candidate})
    opened = _opened(kept, submission, asks, judges, settings, chosen)
    folder = settings.cache_dir / "reproductions" / kept.id / _key(kept, mode, asks, chosen)
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    repeats, finished = [], 0
    for number in range(1, runs + 1):
        store = LocalStore(folder / str(number))
        finished += read_result(store, submission.id) is not None
        engines = opened
        if mode == "rejudge":
            _copy_answers(original, store)
            engines = Engines(_as_kept(original), opened.judge, opened.panel)
        result = evaluate(submission, asks, engines, store, progress)
        repeats.append(Run(result, details(store, result)))
    return judge_repeats(original, repeats, asks.asked, mode, finished)


# --- what it pins


def same_instrument(result: Result, settings: Settings, choices: Choices) -> tuple[Instrument, Sheet | None]:
    """The instrument of a result as it is here, its judges at the result's revisions; of an anchor its sheet too.

    Checked before anything is downloaded: the digests of what is asked and of how it is measured are the result's.

    Raises:
        InputError: they are not, or the result names changes that must be given again.
    """
    named = result.submission.instrument
    found = [load_instrument(choices.instrument or named.partition(" [")[0], built=settings.prompts_dir)]
    for change in _CHANGE.findall(named):
        found = [changed for measure in found for changed in _changed(measure, change, result, choices)]
    for measure in found:
        if len(measure.seats) != len(result.seats):
            continue
        pinned = measure.with_judges_at([(seat.revision, seat.stand_in) for seat in result.seats])
        for sheet in anchor_sheets(pinned) if result.is_anchor else [None]:
            if _stands_for(result, pinned, sheet):
                return pinned, sheet
    raise InputError(
        "reproduce.other_instrument",
        instrument=named,
        result=result.id,
        made_with=result.provenance.eco_eval,
        version=__version__,
    )


def _changed(measure: Instrument, change: str, result: Result, choices: Choices) -> list[Instrument]:
    """The instrument with a change its result's name tells; several where the name leaves open which."""
    kind, _, value = change.partition("=")
    if kind == "limit" and value.isdigit():
        return [measure.limited(int(value))]
    if kind == "prompts":
        if choices.prompts is None:
            raise InputError("reproduce.needs_prompts", result=result.id, file=value)
        return [measure.asking(read_prompts(choices.prompts), change)]
    if kind == "judge":
        fields = {"model": result.seats[0].name, "revision": "", "stand_in": False}
        return [measure.judged_by(change, source=source, **fields) for source in ("hub", "local")]
    if kind == "judge-url":
        fields = {"model": result.seats[0].name, "source": "endpoint", "engine": "endpoint", "revision": ""}
        return [measure.judged_by(change, stand_in=False, **fields)]
    raise InputError("reproduce.unknown_change", result=result.id, change=change)


def _stands_for(result: Result, measure: Instrument, sheet: Sheet | None) -> bool:
    told = result.submission
    made = anchor_submission(measure, sheet) if sheet else submit(told.model, measure)
    return (made.model, made.asked_digest, made.measured_digest) == (
        told.model,
        told.asked_digest,
        told.measured_digest,
    )


def _candidate(result: Result, settings: Settings, choices: Choices) -> ModelRef:
    """The candidate's very weights; of an endpoint, its name there."""
    pinned = result.submission.model
    if candidate_engine(result, choices) == "endpoint":
        if not choices.url:
            raise InputError("endpoint.no_url", option="--url")
        return pinned.model_copy(update={"name": choices.model or pinned.name})
    if pinned.source == "endpoint":
        raise InputError("reproduce.served_only", model=pinned.name)
    base = pinned.base.revision if pinned.base is not None else None
    if pinned.source == "hub":
        found = [resolve(choices.model or f"{pinned.name}@{pinned.revision}", base_revision=base)]
    else:
        folders = [settings.models_dir / pinned.name, Path.cwd() / pinned.name]
        folders = [Path(choices.model)] if choices.model else folders
        found = [resolve(str(folder), base_revision=base) for folder in folders if folder.is_dir()]
    for ref in found:
        if ref.revision == pinned.revision:
            return pinned.model_copy(update={"path": ref.path, "base": ref.base})
    if not found:
        raise InputError("reproduce.no_folder", model=pinned.name, revision=pinned.revision)
    raise InputError(
        "reproduce.other_weights",
        model=found[0].path or pinned.name,
        found=found[0].revision,
        pinned=pinned.revision,
        result=result.id,
    )


def candidate_engine(result: Result, choices: Choices) -> EngineName:
    """The engine to run the candidate in: the one chosen, else the one recorded."""
    info = result.provenance.candidate
    return choices.engine or _known_engine(info) or "transformers"


def _known_engine(info: EngineInfo | None) -> EngineName | None:
    return next((name for name in get_args(EngineName) if info is not None and info.engine == name), None)


def _judges(
    result: Result, measure: Instrument, settings: Settings, choices: Choices
) -> tuple[Instrument, tuple[ModelRef, ...]]:
    """The instrument with its judges ready to run, and their weights: those pinned, or another named on purpose."""
    specs: list[JudgeSpec | PanelSpec] = [measure.judge, *measure.panel]
    wanted = [_at(spec, seat, choices) for spec, seat in zip(specs, result.seats, strict=True)]
    named = choices.judge_model is not None or choices.judge_url is not None
    served = any(spec.source == "endpoint" for spec in specs)
    if named and not (served and choices.judge_model is None):
        wanted[0] = _another(wanted[0], choices)
    if any(spec.engine == "endpoint" for spec in wanted) and not choices.judge_url:
        raise InputError("endpoint.no_url", option="--judge-url")
    for spec, seat in zip(wanted, result.seats, strict=True):
        if spec.source == "local" and not Path(spec.model).is_dir():
            raise InputError("reproduce.no_judge_folder", judge=spec.model, revision=seat.revision)
    ready, refs = resolve_judges(_with(measure, wanted), settings, choices.judge_url)
    found: list[JudgeSpec | PanelSpec] = [ready.judge, *ready.panel]
    for place, (ref, seat) in enumerate(zip(refs, result.seats, strict=True)):
        if ref.revision == seat.revision:
            # Its name and place are part of what it is called, wherever the same weights are now.
            told = {name: getattr(specs[place], name) for name in ("model", "source", "revision")}
            found[place] = found[place].model_copy(update=told)
        elif not named or (place and ref.source != "endpoint"):
            raise InputError("reproduce.other_judge", judge=seat.name, found=ref.revision, pinned=seat.revision)
    return _with(ready, found), refs


def _with(measure: Instrument, specs: Sequence[JudgeSpec | PanelSpec]) -> Instrument:
    return measure.model_copy(update={"judge": specs[0], "panel": tuple(specs[1:])})


def _at(spec: JudgeSpec | PanelSpec, seat: Seat, choices: Choices) -> JudgeSpec | PanelSpec:
    """A judge at its pinned revision, in the engine chosen or else recorded."""
    engine = choices.judge_engine or _known_engine(seat.engine) or spec.engine
    revision = seat.revision if spec.source == "hub" else spec.revision
    return spec.model_copy(update={"engine": engine, "revision": revision})


def _another(spec: JudgeSpec | PanelSpec, choices: Choices) -> JudgeSpec | PanelSpec:
    if choices.judge_url:
        fields = {"model": choices.judge_model or spec.model, "source": "endpoint", "engine": "endpoint"}
        return spec.model_copy(update={**fields, "revision": ""})
    name = choices.judge_model or spec.model
    source = "local" if Path(name).is_dir() else "hub"
    engine = "transformers" if spec.engine == "endpoint" else spec.engine
    return spec.model_copy(update={"model": name, "source": source, "revision": "", "engine": engine})


# --- running it again


def _opened(
    result: Result,
    submission: Submission,
    measure: Instrument,
    judges: Sequence[ModelRef],
    settings: Settings,
    choices: Choices,
) -> Engines:
    return open_engines(
        submission,
        measure,
        judges,
        settings,
        engine=candidate_engine(result, choices),
        url=choices.url,
        judge_url=choices.judge_url,
    )


def _key(result: Result, mode: Mode, measure: Instrument, choices: Choices) -> str:
    """A name for repetitions of one kind: others are run anew."""
    engines = [candidate_engine(result, choices), *(seat.judge.engine for seat in measure.seats)]
    where = [choices.url, choices.judge_url, choices.model if choices.url else None]
    return digest([mode, engines, where, measure.measured_digest, __version__])[:16]


def _copy_answers(original: Run, store: Store) -> None:
    result = original.result
    table: Table[Answer] = Table(store, result.answers_path, Answer)
    if table.finished:
        return
    if result.provenance.candidate is not None:
        table.meta["engine"] = result.provenance.candidate.model_dump_json()
    for reading in original.readings:
        table.add(reading.answer)
    table.finish([reading.answer.prompt_id for reading in original.readings])


def _as_kept(original: Run) -> OpenEngine:
    """Stands for a candidate that is not asked again: what a server refused it refuses once more."""
    failures = {r.answer.prompt: r.answer.failure for r in original.readings if r.answer.failure is not None}

    def refuse(conversation: Conversation) -> Failure:
        return failures[conversation[-1].content]

    @contextmanager
    def candidate() -> Iterator[Engine]:
        yield ScriptedEngine(answer=refuse)

    return candidate


def _score_again(source: Source, measure: Instrument, sheet: Sheet | None) -> tuple[Score, Provenance]:
    """The score of kept verdicts, the judges' on gold triples included, and what made it. No engine is opened.

    Raises:
        InputError: answers or verdicts are not kept with the result.
        TooManyUngraded: as when it was scored.
    """
    prompts = sheet.prompts if sheet else measure.asked
    run = read_run(source, prompts)
    answers = [reading.answer for reading in run.readings]
    verdicts = [[reading.verdicts[seat] for reading in run.readings] for seat in range(len(measure.seats))]
    audits = points_of(source.store(FOLDER), source.result.submission, answers)
    limit = measure.score.max_ungraded
    score = scoring.score(prompts, answers, verdicts, limit, _gold(source, measure), audits)
    return score, provenance(None, Spent(), audits)


def _gold(source: Source, measure: Instrument) -> GoldVerdicts | None:
    sheets = anchor_sheets(measure)[: len(ROLES)]
    if len(sheets) < len(ROLES):
        return None
    verdicts = [[_verdicts_on(sheet, seat, source) for seat in measure.seats] for sheet in sheets]
    return GoldVerdicts(sheets[0].prompts, verdicts)


def _verdicts_on(sheet: Sheet, seat: Instrument, source: Source) -> list[Judgement]:
    path = judgements_path(sheet, seat)
    table: Table[Judgement] = Table(place_of(source, path), path, Judgement)
    return [table.records[prompt.id] for prompt in sheet.prompts]
