"""A result beside its repetitions: what is the same, how far apart the scores are, and whether that is chance.

Pure: records in, a `Reproduction` out. `reproduce.py` fetches and runs; `ui/reproduction.py` prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from eco_eval.readings import marked
from eco_eval.results import Reading
from eco_eval.stats.intervals import LEVEL
from eco_eval.stats.repeat import RepeatTest, repeat_test
from eco_eval.types import Answer, Graded, Judgement, Prompt, Record, Result, Score

Mode = Literal["whole", "rejudge", "rescore"]
"""What is done again: everything, the verdicts on kept answers, or the statistics of kept verdicts."""

Outcome = Literal["reproduced", "within_noise", "different"]

Caveat = Literal["candidate_endpoint", "judge_endpoint", "other_judge"]
"""What limits an outcome: nobody can pin which weights a server serves, and another judge was asked for."""

CauseKind = Literal[
    "eco_eval",
    "engine",
    "engine_version",
    "device",
    "dtype",
    "judge_revision",
    "judge_engine",
    "judge_engine_version",
    "judge_device",
    "judge_dtype",
    "server",
    "arithmetic",
    "edited",
]

_AROUND = 30
"""Characters shown on either side of the place where two answers part."""


class Run(NamedTuple):
    """A result with the answers and verdicts behind it, in the order asked."""

    result: Result
    readings: Sequence[Reading]


class Same(Record):
    """How many of `n` are the same, over all repetitions."""

    same: int
    n: int


class SeatRepeat(Record):
    """One judge's part: grades that are the same, and how far any probability of a grade moved (0 to 1).

    `largest_shift` is None where either run has hard verdicts only.
    """

    name: str
    grades: Same
    largest_shift: float | None


class FirstDifference(Record):
    """The first prompt whose answer, or else whose verdict, differs. `position` counts characters of the answer."""

    prompt_id: str
    what: Literal["answer", "verdict"]
    position: int | None
    original: str
    repeat: str


class Cause(Record):
    """The likeliest cause, and what either run recorded of it. `server`, `arithmetic` and `edited` are what is left
    when nothing recorded differs."""

    kind: CauseKind
    original: str = ""
    repeat: str = ""


class Reproduction(Record):
    """Whether a result was obtained again.

    outcome: `reproduced`: every answer is the same to the last byte, every grade too, and so is the score (with
        `rescore`, every number of it). `within_noise`: some differ, and the scores by no more than chance. `different`.
    answers: None where no answer was made again.
    original, repeats: eco scores, 0 to 100.
    difference: original less the mean of the repetitions, in points of 100, over prompts with all verdicts in all runs.
    tolerance, p: of `repeat_test`; the difference is within noise iff |difference| ≤ tolerance, that is p > 0.05. None
        where there is nothing to test.
    kept: how many of the repetitions an earlier command had already finished.
    """

    result: str
    model: str
    mode: Mode
    outcome: Outcome
    answers: Same | None
    seats: tuple[SeatRepeat, ...]
    original: float
    repeats: tuple[float, ...]
    difference: float
    tolerance: float | None
    p: float | None
    first: FirstDifference | None
    cause: Cause | None
    caveats: tuple[Caveat, ...] = ()
    kept: int = 0


def judge_repeats(
    original: Run, repeats: Sequence[Run], prompts: Sequence[Prompt], mode: Mode, kept: int = 0
) -> Reproduction:
    """The verdict on one or more repetitions of a result.

    Args:
        prompts: what was asked, in the order of every run's readings.
        kept: see `Reproduction`.
    """
    answers = _count(_same_answer(a.answer, b.answer) for run in repeats for a, b in _pairs(original, run))
    seats = tuple(_seat(original, repeats, place) for place in range(len(original.result.seats)))
    differ = answers.same < answers.n, any(seat.grades.same < seat.grades.n for seat in seats)
    test = _test(original, repeats, prompts)
    outcome: Outcome
    if any(differ):
        outcome = "within_noise" if test is not None and test.p > 1 - LEVEL else "different"
    else:
        same_score = all(run.result.score.eco == original.result.score.eco for run in repeats)
        outcome = "reproduced" if same_score else "different"
    scores = tuple(run.result.score.eco.value for run in repeats)
    value = original.result.score.eco.value
    return Reproduction(
        result=original.result.id,
        model=original.result.submission.model.name,
        mode=mode,
        outcome=outcome,
        answers=answers if mode == "whole" else None,
        seats=seats,
        original=value,
        repeats=scores,
        difference=100 * test.difference if test else value - sum(scores) / len(scores),
        tolerance=100 * test.tolerance if test else None,
        p=test.p if test else None,
        first=next((found for run in repeats if (found := _first(original, run))), None),
        cause=None if outcome == "reproduced" else _cause(original, repeats, *differ),
        caveats=_caveats(original.result, [run.result for run in repeats], mode),
        kept=kept,
    )


def judge_rescoring(original: Result, score: Score, version: str) -> Reproduction:
    """The verdict on statistics made again from kept verdicts: the same to the last byte of the score, or different.

    Args:
        version: of the package that made them again.
    """
    is_same = score.model_dump_json() == original.score.model_dump_json()
    before = original.provenance.eco_eval
    cause = Cause(kind="edited") if before == version else Cause(kind="eco_eval", original=before, repeat=version)
    return Reproduction(
        result=original.id,
        model=original.submission.model.name,
        mode="rescore",
        outcome="reproduced" if is_same else "different",
        answers=None,
        seats=(),
        original=original.score.eco.value,
        repeats=(score.eco.value,),
        difference=original.score.eco.value - score.eco.value,
        tolerance=None,
        p=None,
        first=None,
        cause=None if is_same else cause,
    )


def _pairs(a: Run, b: Run) -> Iterator[tuple[Reading, Reading]]:
    return zip(a.readings, b.readings, strict=True)


def _count(same: Iterator[bool]) -> Same:
    found = list(same)
    return Same(same=sum(found), n=len(found))


def _same_answer(a: Answer, b: Answer) -> bool:
    """Whether the judge would read the same. Words about a failure are the server's and may differ."""
    return _content(a) == _content(b)


def _content(answer: Answer) -> tuple[object, ...]:
    failure = answer.failure.cause if answer.failure else None
    return answer.text, answer.reasoning, answer.truncated, failure


def _grade(verdict: Judgement) -> str:
    return verdict.grade.value if isinstance(verdict, Graded) else verdict.cause


def _seat(original: Run, repeats: Sequence[Run], place: int) -> SeatRepeat:
    pairs = [(a.verdicts[place], b.verdicts[place]) for run in repeats for a, b in _pairs(original, run)]
    shifts = [_shift(a, b) for a, b in pairs if isinstance(a, Graded) and isinstance(b, Graded)]
    known = [shift for shift in shifts if shift is not None]
    return SeatRepeat(
        name=original.result.seats[place].name,
        grades=_count(_grade(a) == _grade(b) for a, b in pairs),
        largest_shift=max(known) if known and len(known) == len(shifts) else None,
    )


def _shift(a: Graded, b: Graded) -> float | None:
    if a.probabilities is None or b.probabilities is None:
        return None
    return max(abs(p - q) for p, q in zip(a.probabilities, b.probabilities, strict=True))


def _test(original: Run, repeats: Sequence[Run], prompts: Sequence[Prompt]) -> RepeatTest | None:
    """The difference of points by prompt, put to the test; None where no prompt has verdicts in all runs."""
    points = [_points(run, prompts) for run in (original, *repeats)]
    shared = [p for p in prompts if all(p.id in of for of in points)]
    staked = [p for p in shared if not p.control] or shared
    if not staked:
        return None
    values = [[of[p.id] for p in staked] for of in points]
    return repeat_test(values[0], values[1:], [p.group for p in staked])


def _points(run: Run, prompts: Sequence[Prompt]) -> dict[str, float]:
    verdicts = [[reading.verdicts[seat] for reading in run.readings] for seat in range(len(run.result.seats))]
    found = marked(prompts, [reading.answer for reading in run.readings], verdicts)
    return {m.prompt.id: m.points for m in found}


def _first(original: Run, repeat: Run) -> FirstDifference | None:
    for a, b in _pairs(original, repeat):
        if not _same_answer(a.answer, b.answer):
            return _first_in_answer(a.answer, b.answer)
    for a, b in _pairs(original, repeat):
        said = [", ".join(_grade(verdict) for verdict in reading.verdicts) for reading in (a, b)]
        if said[0] != said[1]:
            return FirstDifference(
                prompt_id=a.answer.prompt_id, what="verdict", position=None, original=said[0], repeat=said[1]
            )
    return None


def _first_in_answer(a: Answer, b: Answer) -> FirstDifference:
    x, y = (_words(answer) for answer in (a, b))
    if x == y:  # cut in one run and not in the other
        x, y = (f"{text} […]" if answer.truncated else text for text, answer in ((x, a), (y, b)))
    place = next((i for i, (p, q) in enumerate(zip(x, y, strict=False)) if p != q), min(len(x), len(y)))
    around = slice(max(0, place - _AROUND), place + _AROUND)
    return FirstDifference(prompt_id=a.prompt_id, what="answer", position=place, original=x[around], repeat=y[around])


def _words(answer: Answer) -> str:
    return answer.text if answer.failure is None else f"[{answer.failure.cause}]"


def _cause(original: Run, repeats: Sequence[Run], answers_differ: bool, grades_differ: bool) -> Cause:
    """The first that differs of what was recorded, in the order in which it is likely to matter."""
    for run in repeats:
        for kind, before, now in _recorded(original.result, run.result, answers_differ):
            if before != now:
                return Cause(kind=kind, original=before, repeat=now)
    if not answers_differ and not grades_differ:
        return Cause(kind="edited")
    result = original.result
    ran = [result.provenance.candidate] if answers_differ else [seat.engine for seat in result.seats]
    served = any(engine is not None and engine.engine in ("endpoint", "vllm") for engine in ran)
    return Cause(kind="server" if served else "arithmetic")


def _recorded(a: Result, b: Result, answers_differ: bool) -> Iterator[tuple[CauseKind, str, str]]:
    yield "eco_eval", a.provenance.eco_eval, b.provenance.eco_eval
    one, other = a.provenance.candidate, b.provenance.candidate
    if answers_differ and one is not None and other is not None:
        yield "engine", one.engine, other.engine
        yield "engine_version", one.version, other.version
        yield "device", one.device, other.device
        yield "dtype", one.dtype, other.dtype
    for first, second in zip(a.seats, b.seats, strict=True):
        names = [f"{seat.name}@{seat.revision[:12]}" for seat in (first, second)]
        yield "judge_revision", names[0], names[1]
        if first.engine is not None and second.engine is not None:
            yield "judge_engine", first.engine.engine, second.engine.engine
            yield "judge_engine_version", first.engine.version, second.engine.version
            yield "judge_device", first.engine.device, second.engine.device
            yield "judge_dtype", first.engine.dtype, second.engine.dtype


def _caveats(original: Result, repeats: Sequence[Result], mode: Mode) -> tuple[Caveat, ...]:
    every = (original, *repeats)
    candidates = [r.provenance.candidate for r in every if mode == "whole"]
    judges = [seat.engine for r in every for seat in r.seats]
    found: list[Caveat] = []
    if any(engine is not None and engine.engine == "endpoint" for engine in candidates):
        found.append("candidate_endpoint")
    if any(engine is not None and engine.engine == "endpoint" for engine in judges):
        found.append("judge_endpoint")
    if any(a.revision != b.revision for r in repeats for a, b in zip(original.seats, r.seats, strict=True)):
        found.append("other_judge")
    return tuple(found)
