"""A prompt with its answer and every judge's verdict on it: what scores and their corrections are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eco_eval.stats.intervals import Floats
from eco_eval.types import GRADES, Answer, Estimate, Graded, Judgement, Prompt

POINTS = tuple(grade.value_points for grade in GRADES)


class Marked(NamedTuple):
    """A prompt, its answer, and the verdict of every judge."""

    prompt: Prompt
    answer: Answer
    verdicts: tuple[Graded, ...]

    @property
    def shares(self) -> Floats:
        """Share of judges that gave each grade, shape (3,) in the order good, regular, bad."""
        given = [GRADES.index(verdict.grade) for verdict in self.verdicts]
        return np.asarray(np.bincount(given, minlength=len(GRADES)) / len(given), dtype=np.float64)

    @property
    def points(self) -> float:
        """Mean points over judges, 0 to 1."""
        return sum(verdict.grade.value_points for verdict in self.verdicts) / len(self.verdicts)

    @property
    def expected(self) -> float:
        """Mean over judges of the points expected under their probabilities, 0 to 1."""
        return sum(expected_points(verdict) for verdict in self.verdicts) / len(self.verdicts)

    @property
    def by_rule(self) -> bool:
        """Whether the verdicts needed no judge: the answer says nothing."""
        return all(verdict.source == "rule" for verdict in self.verdicts)


def marked(
    prompts: Sequence[Prompt], answers: Sequence[Answer], verdicts: Sequence[Sequence[Judgement]]
) -> list[Marked]:
    """The prompts on which every judge has a verdict.

    Args:
        verdicts: one sequence a judge, each parallel to `prompts`.
    """
    found = []
    for prompt, answer, *given in zip(prompts, answers, *verdicts, strict=True):
        graded = tuple(verdict for verdict in given if isinstance(verdict, Graded))
        if len(graded) == len(given):
            found.append(Marked(prompt, answer, graded))
    return found


def expected_points(judgement: Graded) -> float:
    """Points expected under the judge's probabilities; the hard grade's where there are none."""
    if judgement.probabilities is None:
        return judgement.grade.value_points
    return sum(p * worth for p, worth in zip(judgement.probabilities, POINTS, strict=True))


def percent(estimate: Estimate) -> Estimate:
    """An estimate of 0 to 1 on 0 to 100, kept inside."""
    low, high = max(0.0, estimate.low), min(1.0, estimate.high)
    return estimate.model_copy(update={"value": 100 * estimate.value, "low": 100 * low, "high": 100 * high})
