"""What people's grades say: how far people agree, what the judges are worth beside them, what is still to grade."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from eco_eval.people import Audit, Subject, answer_id, graded_draws, skipped
from eco_eval.readings import POINTS, percent
from eco_eval.results import display_name
from eco_eval.stats import confusion, gwet_ac2, kappa_estimate, mean_of_classes, mean_of_shares, ordinal_alpha
from eco_eval.stats.correction import MIN_AUDITS
from eco_eval.types import GRADES, Estimate, Grade, Graded, Record

Counts = tuple[tuple[int, int, int], ...]
Couple = tuple[Grade, Grade, str]
"""What one side said of an answer, what the other said, and the group of its prompt."""


class GraderCount(Record):
    """How far one person came; `skipped` as in `Kept`."""

    grader: str
    graded: int
    skipped: int


class PairAgreement(Record):
    """Two sides on the same answers; rows of `confusion` are the first's grades, columns the second's.

    `exact` on 0 to 100; None is undefined: fewer than two groups of prompts, or one and the same grade everywhere.
    """

    first: str
    second: str
    n: int
    groups: int
    confusion: Counts
    exact: Estimate | None
    kappa: Estimate | None
    ac2: Estimate | None


class Means(Record):
    """One model's mean by people and by a judge, on 0 to 100, over the same n answers of two groups or more."""

    model: str
    n: int
    people: Estimate
    judge: Estimate


class Order(Record):
    """Of how many pairs of models people and the judge say the same: which mean is higher, or that they are equal."""

    same: int
    pairs: int


class JudgeAgreement(Record):
    """A judge beside people, on answers that it read: those graded by rule say nothing of it.

    `agreement` has one observation a grade a person gave. `order` is None for fewer than two models with means.
    """

    judge: str
    measured: str
    agreement: PairAgreement
    means: tuple[Means, ...]
    order: Order | None


class SampleReport(Record):
    """What people said of one sample. `alpha` is of all graders, None where undefined."""

    id: str
    made_at: str
    instrument: str
    seed: int
    answers: int
    graders: tuple[GraderCount, ...]
    pairs: tuple[PairAgreement, ...]
    alpha: Estimate | None
    judges: tuple[JudgeAgreement, ...]


class ModelCount(Record):
    """How many answers drawn for a model were graded, over all samples, and in how many groups of prompts."""

    model: str
    instrument: str
    graded: int
    groups: int
    needed: int = MIN_AUDITS


class Report(Record):
    samples: tuple[SampleReport, ...]
    models: tuple[ModelCount, ...]


def report(audits: Sequence[Audit], subjects: Sequence[Subject]) -> Report:
    """How people agree with each other and with the judges, and for which models there are grades enough.

    Args:
        subjects: results whose verdicts are set beside people's; those of other models are left out.
    """
    counts = []
    drawn = {model.digest: (model, audit.sample) for audit in audits for model in audit.sample.models}
    for key, (model, sample) in sorted(drawn.items(), key=lambda entry: (entry[1][1].instrument, entry[1][0].name)):
        graded = graded_draws(audits, key)
        groups = len(set(graded.values()))
        counts.append(ModelCount(model=model.name, instrument=sample.instrument, graded=len(graded), groups=groups))
    return Report(samples=tuple(_sample_report(audit, subjects) for audit in audits), models=tuple(counts))


def _sample_report(audit: Audit, subjects: Sequence[Subject]) -> SampleReport:
    sample, graders = audit
    group = {item.id: item.group for item in sample.items}
    pairs = []
    for one, other in itertools.combinations(graders, 2):
        both = [key for key in group if key in one.grades and key in other.grades]
        couples = [(one.grades[key].grade, other.grades[key].grade, group[key]) for key in both]
        pairs.append(_agreement(one.grader, other.grader, couples))
    ratings = [[GRADES.index(g.grades[key].grade) if key in g.grades else np.nan for g in graders] for key in group]
    counts = (GraderCount(grader=g.grader, graded=len(g.grades), skipped=skipped(sample, g.grades)) for g in graders)
    return SampleReport(
        id=sample.id,
        made_at=sample.made_at,
        instrument=sample.instrument,
        seed=sample.seed,
        answers=len(sample.items),
        graders=tuple(counts),
        pairs=tuple(pairs),
        alpha=_or_none(lambda: ordinal_alpha(np.array(ratings, dtype=float), [*group.values()])) if graders else None,
        judges=_judges(audit, subjects),
    )


def _judges(audit: Audit, subjects: Sequence[Subject]) -> tuple[JudgeAgreement, ...]:
    """Every judge that graded the sample's answers, beside everybody who did."""
    places = {(place.model, place.prompt_id): item for item in audit.sample.items for place in item.of}
    names: dict[tuple[str, int], str] = {}
    said: dict[tuple[str, int], dict[str, dict[str, Grade]]] = {}
    shown: dict[str, str] = {}
    for result, readings in subjects:
        model = result.submission.answers_digest
        shown[model] = display_name(result)
        for answer, verdicts in readings:
            item = places.get((model, answer.prompt_id))
            # The same model may have been asked again and have said something else.
            if item is None or item.id != answer_id(answer.prompt, answer.text):
                continue
            for seat, verdict in enumerate(verdicts):
                if isinstance(verdict, Graded) and verdict.source != "rule":
                    key = (result.submission.measured_digest, seat)
                    names[key] = result.seats[seat].name
                    said.setdefault(key, {}).setdefault(model, {})[item.id] = verdict.grade
    found = (_judge(names[key], key[0], models, shown, audit) for key, models in sorted(said.items()))
    return tuple(judge for judge in found if judge.agreement.n)


def _judge(
    name: str, measured: str, models: Mapping[str, Mapping[str, Grade]], shown: Mapping[str, str], audit: Audit
) -> JudgeAgreement:
    group = {item.id: item.group for item in audit.sample.items}
    by_people = _shares(audit)
    # Where two models gave one answer, its verdict counts once.
    verdicts = {key: grade for given in models.values() for key, grade in given.items()}
    couples = [
        (given.grade, verdicts[key], group[key])
        for grades in audit.graders
        for key, given in grades.grades.items()
        if key in verdicts
    ]
    means = []
    for model, given in models.items():
        both = [key for key in given if key in by_people]
        groups = [group[key] for key in both]
        if len(set(groups)) > 1:
            people = percent(mean_of_shares([by_people[key] for key in both], groups, POINTS))
            judge = percent(mean_of_classes([GRADES.index(given[key]) for key in both], groups, POINTS))
            means.append(Means(model=shown[model], n=len(both), people=people, judge=judge))
    means.sort(key=lambda row: (-row.people.value, row.model))
    return JudgeAgreement(
        judge=name,
        measured=measured,
        agreement=_agreement("", name, couples),
        means=tuple(means),
        order=_same_order(means),
    )


def _shares(audit: Audit) -> dict[str, list[float]]:
    """Share of the people who graded an answer that gave it each grade, by answer id."""
    given: dict[str, list[Grade]] = {}
    for grades in audit.graders:
        for key, one in grades.grades.items():
            given.setdefault(key, []).append(one.grade)
    counts = {key: Counter(grades) for key, grades in given.items()}
    return {key: [count[grade] / count.total() for grade in GRADES] for key, count in counts.items()}


def _same_order(means: Sequence[Means]) -> Order | None:
    # Rounded, so that equal means that were added up in another order are equal.
    apart = [
        [np.sign(round(a.value - b.value, 9)) for a, b in ((one.people, other.people), (one.judge, other.judge))]
        for one, other in itertools.combinations(means, 2)
    ]
    return Order(same=sum(people == judge for people, judge in apart), pairs=len(apart)) if apart else None


def _agreement(first: str, second: str, couples: Sequence[Couple]) -> PairAgreement:
    one, other = ([GRADES.index(couple[side]) for couple in couples] for side in (0, 1))
    groups = [group for _, _, group in couples]
    enough = len(set(groups)) > 1
    missed = [int(a != b) for a, b in zip(one, other, strict=True)]
    ratings = np.array([one, other], dtype=float).T
    return PairAgreement(
        first=first,
        second=second,
        n=len(couples),
        groups=len(set(groups)),
        confusion=tuple((int(g), int(r), int(b)) for g, r, b in confusion(one, other)),
        exact=percent(mean_of_classes(missed, groups, (1.0, 0.0))) if enough else None,
        kappa=_or_none(lambda: kappa_estimate(one, other, groups)) if enough else None,
        ac2=_or_none(lambda: gwet_ac2(ratings, groups)) if enough else None,
    )


def _or_none(coefficient: Callable[[], Estimate]) -> Estimate | None:
    """A coefficient, or None where it is 0/0 or has too few groups."""
    try:
        return coefficient()
    except ValueError:
        return None
