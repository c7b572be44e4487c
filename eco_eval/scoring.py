"""Stage three: judgements become a score, or no score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from eco_eval.errors import TooManyUngraded
from eco_eval.stats import mean_of_classes, mean_of_shares, weighted_kappa
from eco_eval.types import (
    GRADES,
    Agreement,
    Answer,
    Counts,
    Estimate,
    Graded,
    Judgement,
    Prompt,
    Score,
)

POINTS = tuple(grade.value_points for grade in GRADES)

Pair = tuple[Prompt, Graded]


def score(
    prompts: Sequence[Prompt],
    answers: Sequence[Answer],
    judgements: Sequence[Judgement],
    max_ungraded: float,
) -> Score:
    """The eco score of one model: 100 × mean of good 1, regular ½, bad 0, with its parts.

    Control prompts are scored apart. A set of nothing but controls is scored as if it had none.

    Args:
        prompts, answers, judgements: parallel.
        max_ungraded: largest share of missing verdicts for which a score is given.

    Raises:
        TooManyUngraded: more are missing, or there is no verdict at all.
    """
    every: list[Pair] = [(p, j) for p, j in zip(prompts, judgements, strict=True) if isinstance(j, Graded)]
    staked = [p for p in prompts if not p.control]
    graded = [(p, j) for p, j in every if not p.control]
    if not staked:
        staked, graded = list(prompts), every
    missing = len(prompts) - len(every)
    if not graded or missing / len(prompts) > max_ungraded:
        causes = ", ".join(sorted({j.cause for j in judgements if not isinstance(j, Graded)}))
        raise TooManyUngraded(
            "score.too_many_ungraded",
            ungraded=missing,
            asked=len(prompts),
            allowed=f"{100 * max_ungraded:g} %",
            causes=causes,
        )
    points = sum(judgement.grade.value_points for _, judgement in graded)
    unknown = len(staked) - len(graded)
    controls = [(p, j) for p, j in every if p.control] if len(staked) < len(prompts) else []
    return Score(
        eco=_mean(graded),
        soft=_soft(graded),
        shares={grade: _share(graded, i) for i, grade in enumerate(GRADES)},
        by_code=_by(graded, lambda prompt: prompt.codes),
        by_kind=_by(graded, lambda prompt: (prompt.kind,) if prompt.kind else ()),
        controls=_mean(controls) if controls else None,
        counts=Counts(
            asked=len(prompts),
            graded=len(every),
            ungraded=missing,
            truncated=sum(answer.truncated for answer in answers),
            empty=sum(answer.is_empty and answer.failure is None for answer in answers),
        ),
        bounds=(100 * points / len(staked), 100 * (points + unknown) / len(staked)),
    )


def expected_points(judgement: Graded) -> float:
    """Points expected under the judge's probabilities; the hard grade's where there are none."""
    if judgement.probabilities is None:
        return judgement.grade.value_points
    return sum(p * worth for p, worth in zip(judgement.probabilities, POINTS, strict=True))


def agreement(triples: Sequence[tuple[Judgement, Judgement, Judgement]], groups: Sequence[str]) -> Agreement | None:
    """How a judge's verdicts match the written order of gold triples.

    Args:
        triples: the verdicts on a prompt's best, ambivalent and worst answers.
        groups: the prompts' groups, parallel.

    Returns:
        None when the triples with all three verdicts are of fewer than two groups.
    """
    whole = [
        (group, (best, middle, worst))
        for (best, middle, worst), group in zip(triples, groups, strict=True)
        if isinstance(best, Graded) and isinstance(middle, Graded) and isinstance(worst, Graded)
    ]
    names = [group for group, _ in whole]
    if len(set(names)) < 2:
        return None
    soft = [[expected_points(j) for j in three] for _, three in whole]
    order = [_order(best, worst) for best, _, worst in soft]
    strict = [int(best > middle > worst) for best, middle, worst in soft]
    said = [GRADES.index(j.grade) for _, three in whole for j in three]
    truth = [0, 1, 2] * len(whole)
    hit = [int(a != b) for a, b in zip(said, truth, strict=True)]
    return Agreement(
        order=_percent(mean_of_classes(order, names, (1.0, 0.5, 0.0))),
        strict=_percent(mean_of_classes([1 - s for s in strict], names, (1.0, 0.0))),
        exact=_percent(mean_of_classes(hit, [n for n in names for _ in range(3)], (1.0, 0.0))),
        kappa=weighted_kappa(truth, said),
        triples=len(whole),
    )


def _order(best: float, worst: float) -> int:
    """Class of one pair: 0 in order, 1 tied, 2 reversed."""
    return 0 if best > worst else 1 if best == worst else 2


def _mean(graded: Sequence[Pair]) -> Estimate:
    classes = [GRADES.index(judgement.grade) for _, judgement in graded]
    return _percent(mean_of_classes(classes, [prompt.group for prompt, _ in graded], POINTS))


def _soft(graded: Sequence[Pair]) -> Estimate | None:
    shares = [judgement.probabilities for _, judgement in graded]
    known = [s for s in shares if s is not None]
    if len(known) < len(graded):
        return None
    return _percent(mean_of_shares(known, [prompt.group for prompt, _ in graded], POINTS))


def _share(graded: Sequence[Pair], grade: int) -> Estimate:
    classes = [int(GRADES.index(judgement.grade) != grade) for _, judgement in graded]
    return _percent(mean_of_classes(classes, [prompt.group for prompt, _ in graded], (1.0, 0.0)))


def _by(graded: Sequence[Pair], keys: Callable[[Prompt], Iterable[str]]) -> dict[str, Estimate]:
    parts: dict[str, list[Pair]] = {}
    for prompt, judgement in graded:
        for key in keys(prompt):
            parts.setdefault(key, []).append((prompt, judgement))
    return {key: _mean(parts[key]) for key in sorted(parts)}


def _percent(estimate: Estimate) -> Estimate:
    return estimate.model_copy(
        update={
            "value": 100 * estimate.value,
            "low": 100 * max(0.0, estimate.low),
            "high": 100 * min(1.0, estimate.high),
        }
    )
