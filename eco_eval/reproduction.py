"""A result beside its repetitions: what is the same, how far apart the scores are, and whether that is chance.

Pure: records in, a `Reproduction` out. `reproduce.py` fetches and runs; `ui/reproduction.py` prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from eco_eval.readings import marked
from eco_eval.results import Reading
from eco_eval.stats.intervals import LEVEL
from eco_eval.stats.repeat import RepeatTest, repeat_test
from eco_eval.types import Answer, Graded, Judgement, Prompt, Provenance, Record, Result, Score

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
    "people",
    "libraries",
    "server",
    "arithmetic",
    "edited",
]

_STATISTICS = ("numpy", "scipy")
_ENGINES = ("torch", "transformers")
"""Libraries whose versions may move statistics, and those that may move what a model says."""

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


class NumberDifference(Record):
    """The first number of a score that differs, by its place (`corrected.low`); None where a run has none there."""

    path: str
    original: float | int | str | None
    repeat: float | int | str | None


class Cause(Record):
    """The likeliest cause, and what either run recorded of it.

    `people`: how many answers had grades of people; they may be as many, and other grades. `libraries`: those whose
    versions differ. `server`, `arithmetic` and `edited` are what is left when nothing recorded differs.
    """

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
    number: where the score differs, if no answer and no grade does.
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
    number: NumberDifference | None = None
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
    number, cause = None, None
    if any(differ):
        outcome = "within_noise" if test is not None and test.p > 1 - LEVEL else "different"
        cause = _cause(original, repeats, answers_differ=differ[0])
    else:
        number, cause = _other_number(original.result, [run.result for run in repeats])
        outcome = "different" if number else "reproduced"
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
        number=number,
        cause=cause,
        caveats=_caveats(original.result, [run.result for run in repeats], mode),
        kept=kept,
    )


def judge_rescoring(original: Result, score: Score, made: Provenance) -> Reproduction:
    """The verdict on statistics made again from kept verdicts: the same in every number of the score, or different.

    Args:
        made: what made them again.
    """
    numbers = list(_numbers(original.score, score))
    return Reproduction(
        result=original.id,
        model=original.submission.model.name,
        mode="rescore",
        outcome="different" if numbers else "reproduced",
        answers=None,
        seats=(),
        original=original.score.eco.value,
        repeats=(score.eco.value,),
        difference=original.score.eco.value - score.eco.value,
        tolerance=None,
        p=None,
        first=None,
        number=numbers[0] if numbers else None,
        cause=_cause_of_numbers(original.provenance, made, numbers) if numbers else None,
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


def _other_number(original: Result, repeats: Sequence[Result]) -> tuple[NumberDifference | None, Cause | None]:
    """Where the score or its interval differs although no verdict does, and why."""
    for repeat in repeats:
        # The corrections also rest on verdicts on gold and on people's grades, which are not compared here.
        numbers = list(_numbers(original.score, repeat.score, only={"eco"}))
        if numbers:
            return numbers[0], _cause_of_numbers(original.provenance, repeat.provenance, numbers)
    return None, None


def _numbers(a: Score, b: Score, only: set[str] | None = None) -> Iterator[NumberDifference]:
    """Where two scores differ, in the order of their fields."""
    yield from _apart("", *(json.loads(score.model_dump_json(include=only)) for score in (a, b)))


def _apart(path: str, a: Any, b: Any) -> Iterator[NumberDifference]:
    if isinstance(a, list):
        a = dict(enumerate(a))
    if isinstance(b, list):
        b = dict(enumerate(b))
    if not isinstance(a, dict) and not isinstance(b, dict):
        if a != b:
            yield NumberDifference(path=path, original=a, repeat=b)
        return
    # One of them may have nothing here, or another kind of thing.
    one, other = (found if isinstance(found, dict) else {} for found in (a, b))
    for name in one | other:
        yield from _apart(f"{path}.{name}" if path else str(name), one.get(name), other.get(name))


def _cause(original: Run, repeats: Sequence[Run], answers_differ: bool) -> Cause:
    """The first that differs of what was recorded, in the order in which it is likely to matter."""
    for run in repeats:
        for kind, before, now in _recorded(original.result, run.result, answers_differ):
            if before != now:
                return Cause(kind=kind, original=before, repeat=now)
    result = original.result
    ran = [result.provenance.candidate] if answers_differ else [seat.engine for seat in result.seats]
    served = any(engine is not None and engine.engine in ("endpoint", "vllm") for engine in ran)
    return Cause(kind="server" if served else "arithmetic")


def _cause_of_numbers(before: Provenance, now: Provenance, numbers: Sequence[NumberDifference]) -> Cause:
    """What made other numbers of the same verdicts."""
    if before.eco_eval != now.eco_eval:
        return Cause(kind="eco_eval", original=before.eco_eval, repeat=now.eco_eval)
    # People's grades are in the corrected score and in no other number.
    if before.audits != now.audits and all(number.path.startswith("corrected.") for number in numbers):
        return Cause(kind="people", original=str(before.audited), repeat=str(now.audited))
    versions = _versions(before, now, _STATISTICS)
    if versions[0] != versions[1]:
        return Cause(kind="libraries", original=versions[0], repeat=versions[1])
    return Cause(kind="edited")


def _versions(a: Provenance, b: Provenance, among: Sequence[str]) -> tuple[str, str]:
    """The versions of those libraries that both recorded and in which they differ."""
    known = [name for name in among if name in a.libraries and name in b.libraries]
    differ = [name for name in known if a.libraries[name] != b.libraries[name]]
    one, other = (", ".join(f"{name} {of.libraries[name]}" for name in differ) for of in (a, b))
    return one, other


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
    ran = [one] if answers_differ else [seat.engine for seat in a.seats]
    if any(engine is not None and engine.engine != "endpoint" for engine in ran):
        yield "libraries", *_versions(a.provenance, b.provenance, _ENGINES)


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
