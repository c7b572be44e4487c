"""The whole flow: one submission, once through. Read this file first.

    answer → judge → score → result

Each stage keeps what it made; a stage whose work is kept does nothing. The same function serves the command line,
the worker, the demo and the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from eco_eval import scoring
from eco_eval.anchors import anchor_sheets
from eco_eval.answering import answer, answers_path
from eco_eval.candidates import declared, weights_of
from eco_eval.energy import Meter
from eco_eval.engines import OpenEngine
from eco_eval.errors import StoreError, TooManyUngraded
from eco_eval.finishing import About, Judged, RunContext, Spent
from eco_eval.instrument import Instrument
from eco_eval.judge_card import is_cleared
from eco_eval.judging import Sheet, judge, judgements_path
from eco_eval.opening import Engines, open_engines, shared
from eco_eval.people import points_of
from eco_eval.readings import Marked, marked
from eco_eval.results import load_results, read_result, write_result
from eco_eval.store import Store, Table
from eco_eval.submitting import resolve_judges, submit
from eco_eval.types import (
    Agreement,
    Answer,
    Declared,
    Judgement,
    ModelRef,
    Progress,
    Prompt,
    Result,
    Submission,
    digest,
    no_progress,
)

__all__ = [
    "Engines",
    "Stage",
    "anchor_submission",
    "evaluate",
    "judge_agreement",
    "open_engines",
    "resolve_judges",
    "submit",
]

Stage = Literal["judge", "score"]
"""A stage that can be made again from what is kept."""


def evaluate(
    submission: Submission,
    instrument: Instrument,
    engines: Engines,
    store: Store,
    progress: Progress = no_progress,
    *,
    again: Stage | None = None,
    private: Store | None = None,
    origin: Declared | None = None,
    meter: Meter | None = None,
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
        private: a store of this machine for the answers to the instrument's hidden prompts; without one they are not
            asked.
        origin: what the model declares of itself, where its files are not here to be read.
        meter: counts what these engines take already, such as their energy; without one, seconds are counted here.

    Raises:
        InputError: something a person can fix.
        StageError: an engine or the store broke, or too few verdicts for a score. What was done is kept.
    """
    kept = _kept(store, submission.id)
    whole = kept is not None and _is_whole(kept, store) and not _has_hidden_left(submission, instrument, private)
    if kept is not None and whole and again is None:
        return kept
    if meter is None:
        engines = engines.counted(meter := Meter())
    with shared(engines.candidate) as candidate_engine:
        answers, candidate = answer(submission, instrument, candidate_engine, store, progress)
        hidden = _answer_hidden(submission, instrument, candidate_engine, private, progress, again)
    anchors = anchor_sheets(instrument)
    sheet = _sheet(submission, instrument.asked, answers)
    in_use = _verdicts_in_use(store) if again == "judge" else None
    seats = []
    for place, (seat, engine) in enumerate(zip(instrument.seats, (engines.judge, *engines.panel), strict=True)):
        last = kept.seats[place].judgements_path if kept is not None else ""
        with shared(engine) as judge_engine:
            seats.append(_judge_seat(seat, judge_engine, [*anchors, sheet], last, in_use, store, progress))
            if hidden is not None:
                hidden.judge(seat, judge_engine, progress, afresh=again == "judge")
    known = origin or (kept.declared if kept is not None and submission.model.path is None else None)
    about = About(
        declared=known or declared(submission.model),
        weights=weights_of(submission.model) or (kept.weights if kept is not None else None),
        hidden=hidden.marked() if hidden is not None else (),
        audits=points_of(store, submission, answers),
        # Where they cannot be asked, what was found where they could be still holds, unless the verdicts changed.
        hidden_gap=kept.contamination.hidden_gap if kept is not None and again != "judge" else None,
    )
    spent = Spent(meter.seconds, meter.energy).or_before(kept.provenance if kept is not None else None)
    made = RunContext(instrument, seats, engines.judges, is_cleared(instrument, store), spent)
    for number, anchor in enumerate(anchors):
        _keep_anchor(made, anchor, number, store)
    result = made.result(submission, sheet, len(anchors), candidate, about)
    write_result(result, store)
    for old in kept.seats if kept is not None and again == "judge" else ():
        if old.judgements_path not in _verdicts_in_use(store):
            store.delete(old.judgements_path)
    return result


def _judge_seat(
    seat: Instrument,
    engine: OpenEngine,
    sheets: Sequence[Sheet],
    before: str,
    in_use: frozenset[str] | None,
    store: Store,
    progress: Progress,
) -> Judged:
    """Every sheet before one judge; the last is the candidate's, the others anchors.

    Args:
        before: where the kept result has its verdicts, if there is one.
        in_use: verdicts that results name, when the judge is to be asked again: the new ones go beside them.
    """
    path = judgements_path(sheets[-1], seat)
    # Made again, or first: but of other answers, they are not these.
    place = before if before.startswith(path.removesuffix("parquet")) else path
    if in_use is not None:
        place = _free_place(path, in_use)
        if Table(store, place, Judgement).finished:  # else it was cut short, and goes on
            store.delete(place)
    places = [*(judgements_path(anchor, seat) for anchor in sheets[:-1]), place]
    verdicts, judged_by = judge(sheets, places, seat, engine, store, progress)
    agreement = judge_agreement(sheets[:-1], verdicts)
    return Judged(seat, verdicts, places, judged_by, agreement)


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


def _has_hidden_left(submission: Submission, instrument: Instrument, private: Store | None) -> bool:
    """Whether hidden prompts came since, and were not answered yet."""
    if private is None or not _may_ask_hidden(submission, instrument):
        return False
    twin = submit(submission.model, instrument.asking_hidden, submission.system_prompt)
    return not private.list(answers_path(twin))


def _as_hidden(progress: Progress, _: str, done: int, total: int) -> None:
    progress("hidden", done, total)


def _may_ask_hidden(submission: Submission, instrument: Instrument) -> bool:
    return bool(instrument.hidden) and submission.model.source != "endpoint" and not instrument.is_served


@dataclass(frozen=True)
class _Hidden:
    """A candidate's answers to the hidden prompts, and their verdicts, a judge at a time."""

    sheet: Sheet
    private: Store
    verdicts: list[list[Judgement]] = field(default_factory=list)

    def judge(self, seat: Instrument, engine: OpenEngine, progress: Progress, *, afresh: bool) -> None:
        """Put the answers before one more judge; `afresh` also where its verdicts are kept."""
        place = judgements_path(self.sheet, seat)
        if afresh:
            self.private.delete(place)
        found, _ = judge([self.sheet], [place], seat, engine, self.private, partial(_as_hidden, progress))
        self.verdicts.append(found[0])

    def marked(self) -> tuple[Marked, ...]:
        return tuple(marked(self.sheet.prompts, self.sheet.answers, self.verdicts))


def _answer_hidden(
    submission: Submission,
    instrument: Instrument,
    engine: OpenEngine,
    private: Store | None,
    progress: Progress,
    again: Stage | None,
) -> _Hidden | None:
    """The candidate's answers to the hidden prompts, where they can be asked.

    Never at an endpoint: whoever operates it would have them.
    """
    if private is None or not _may_ask_hidden(submission, instrument):
        return None
    asks = instrument.asking_hidden
    twin = submit(submission.model, asks, submission.system_prompt)
    if again is not None and not private.list(answers_path(twin)):
        return None  # only later stages are made again, and these were never answered here
    answers, _ = answer(twin, asks, engine, private, partial(_as_hidden, progress))
    return _Hidden(_sheet(twin, asks.asked, answers), private)


def _keep_anchor(made: RunContext, sheet: Sheet, number: int, store: Store) -> None:
    """Write an anchor's result, once. One with too few verdicts is left out: it is not the candidate's fault."""
    subject = anchor_submission(made.instrument, sheet)
    kept = _kept(store, subject.id)
    table: Table[Answer] = Table(store, answers_path(subject), Answer)
    if kept is not None and table.finished:
        return
    try:
        result = made.result(subject, sheet, number, None, About())
    except TooManyUngraded:
        return
    for written in sheet.answers:
        table.add(written)
    table.finish([p.id for p in sheet.prompts])
    write_result(result, store)


def _kept(store: Store, result_id: str) -> Result | None:
    """The kept result; none where another version of this package wrote what this one cannot read."""
    try:
        return read_result(store, result_id)
    except StoreError as error:
        if error.key != "store.corrupt":
            raise
        return None


def _is_whole(result: Result, store: Store) -> bool:
    """Whether what explains a result is there as well."""
    paths = [result.answers_path, *(seat.judgements_path for seat in result.seats)]
    return all(store.list(path) for path in paths)


def _verdicts_in_use(store: Store) -> frozenset[str]:
    """Every table of verdicts that a result names. Results under other instruments can share one."""
    return frozenset(seat.judgements_path for result in load_results(store, withdrawn=True)[0] for seat in result.seats)


def _free_place(path: str, in_use: frozenset[str]) -> str:
    """The first of a judge's places for a sheet that no result names."""
    stem = path.removesuffix(".parquet")
    places = (path, *(f"{stem}.again-{number}.parquet" for number in range(1, len(in_use) + 2)))
    return next(place for place in places if place not in in_use)
