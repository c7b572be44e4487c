"""Stage three: judgements become a score, or no score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from eco_eval.corrections import Audits, GoldVerdicts, corrected, length_controlled
from eco_eval.errors import TooManyUngraded
from eco_eval.readings import POINTS, Marked, expected_points, marked, percent
from eco_eval.stats import kappa_estimate, mean_of_classes, mean_of_shares, missing_bounds, ordinal_alpha
from eco_eval.types import GRADES, Agreement, Answer, Counts, Estimate, Graded, Judgement, Prompt, Score


def score(
    prompts: Sequence[Prompt],
    answers: Sequence[Answer],
    verdicts: Sequence[Sequence[Judgement]],
    max_ungraded: float,
    gold: GoldVerdicts | None = None,
    audits: Audits | None = None,
) -> Score:
    """The eco score of one model: 100 × mean of good 1, regular ½, bad 0, with its parts.

    Control prompts are scored apart. A set of nothing but controls is scored as if it had none. With several judges a
    prompt's points are the mean of theirs, and one that any of them could not grade has none.

    Args:
        prompts, answers: parallel.
        verdicts: one sequence a judge, each parallel to `prompts`.
        max_ungraded: largest share of missing verdicts for which a score is given.
        gold: the same judges' verdicts on gold triples, for the corrections.
        audits: people's points, 0 to 1, by prompt id.

    Raises:
        TooManyUngraded: more are missing, or there is no verdict at all.
    """
    every = marked(prompts, answers, verdicts)
    staked = [p for p in prompts if not p.control]
    graded = [m for m in every if not m.prompt.control]
    if not staked:
        staked, graded = list(prompts), every
    missing = len(prompts) - len(every)
    if not graded or missing / len(prompts) > max_ungraded:
        causes = ", ".join(sorted({j.cause for given in verdicts for j in given if not isinstance(j, Graded)}))
        raise TooManyUngraded(
            "score.too_many_ungraded",
            ungraded=missing,
            asked=len(prompts),
            allowed=f"{100 * max_ungraded:g} %",
            causes=causes,
        )
    controls = [m for m in every if m.prompt.control] if len(staked) < len(prompts) else []
    low, high = missing_bounds([m.points for m in graded], len(staked) - len(graded))
    return Score(
        eco=_mean(graded),
        corrected=corrected(graded, gold, audits or {}),
        length_controlled=length_controlled(graded, gold),
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
        bounds=(100 * low, 100 * high),
    )


def scores_by_judge(
    prompts: Sequence[Prompt], answers: Sequence[Answer], verdicts: Sequence[Sequence[Judgement]]
) -> list[Estimate]:
    """The eco score by each judge alone, over the prompts that all of them graded: their mean is that of `score`.

    Raises:
        ValueError: there is no such prompt.
    """
    every = marked(prompts, answers, verdicts)
    graded = [m for m in every if not m.prompt.control] or every
    return [_mean([m._replace(verdicts=(m.verdicts[place],)) for m in graded]) for place in range(len(verdicts))]


def consensus(prompts: Sequence[Prompt], verdicts: Sequence[Sequence[Judgement]]) -> Estimate | None:
    """How far several judges agree on a model's answers: ordinal α, −1 to 1, control prompts left out.

    Args:
        verdicts: one sequence a judge, each parallel to `prompts`; a missing verdict, and one by rule, which no judge
            gave, is a missing rating.

    Returns:
        None for one judge, and where α is undefined (one and the same grade everywhere, one group).
    """
    if len(verdicts) < 2:
        return None
    rows = [
        (prompt.group, [_rating(j) for j in given])
        for prompt, *given in zip(prompts, *verdicts, strict=True)
        if not prompt.control
    ]
    try:
        return ordinal_alpha(np.array([ratings for _, ratings in rows], dtype=float), [group for group, _ in rows])
    except ValueError:
        return None


def _rating(judgement: Judgement) -> float:
    """The class a judge gave, NaN where it gave none."""
    if not isinstance(judgement, Graded) or judgement.source == "rule":
        return float("nan")
    return float(GRADES.index(judgement.grade))


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
    thrice = [name for name in names for _ in range(3)]
    return Agreement(
        order=percent(mean_of_classes(order, names, (1.0, 0.5, 0.0))),
        strict=percent(mean_of_classes([1 - s for s in strict], names, (1.0, 0.0))),
        exact=percent(mean_of_classes(hit, thrice, (1.0, 0.0))),
        kappa=_or_none(lambda: kappa_estimate(truth, said, thrice)),
        triples=len(whole),
    )


def _or_none(coefficient: Callable[[], Estimate]) -> Estimate | None:
    try:
        return coefficient()
    except ValueError:
        return None


def _order(best: float, worst: float) -> int:
    """Class of one pair: 0 in order, 1 tied, 2 reversed."""
    return 0 if best > worst else 1 if best == worst else 2


def _groups(graded: Sequence[Marked]) -> list[str]:
    return [m.prompt.group for m in graded]


def _mean(graded: Sequence[Marked]) -> Estimate:
    return percent(mean_of_shares(np.array([m.shares for m in graded]), _groups(graded), POINTS))


def _soft(graded: Sequence[Marked]) -> Estimate | None:
    given = [[verdict.probabilities for verdict in m.verdicts] for m in graded]
    known = [[p for p in some if p is not None] for some in given]
    if any(len(some) < len(m.verdicts) for some, m in zip(known, graded, strict=True)):
        return None
    return percent(mean_of_shares(np.array([np.mean(some, axis=0) for some in known]), _groups(graded), POINTS))


def _share(graded: Sequence[Marked], grade: int) -> Estimate:
    shares = [(m.shares[grade], 1 - m.shares[grade]) for m in graded]
    return percent(mean_of_shares(shares, _groups(graded), (1.0, 0.0)))


def _by(graded: Sequence[Marked], keys: Callable[[Prompt], Iterable[str]]) -> dict[str, Estimate]:
    parts: dict[str, list[Marked]] = {}
    for m in graded:
        for key in keys(m.prompt):
            parts.setdefault(key, []).append(m)
    return {key: _mean(parts[key]) for key in sorted(parts)}
