"""The score without the judge's errors, and without its taste for length. Where data do not allow it, why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from eco_eval.readings import POINTS, Marked, marked, percent
from eco_eval.stats import clustered_mean
from eco_eval.stats.correction import (
    MIN_AUDITS,
    Gold,
    confusion_matrix,
    corrected_points,
    ppi_mean,
    rogan_gladen,
    transport_test,
)
from eco_eval.stats.intervals import Floats
from eco_eval.stats.length import length_controlled as controlled_mean
from eco_eval.stats.length import length_slope
from eco_eval.types import GRADES, Answer, Estimate, Judgement, Prompt, Withheld

ROLES = ("best", "ambivalent", "worst")

Audits = Mapping[str, float]
"""People's points of one model's answers, 0 to 1, by prompt id."""

MAX_BY_RULE = 0.1
"""Largest share of answers graded by rule. The judge's errors on gold say nothing of answers it never reads."""

MAX_STRETCH = 3.0
"""How many times longer than the longest gold answer, or shorter than the shortest, a model's typical answer may be:
the slope is measured between them and taken to go on straight in log length."""


class GoldVerdicts(NamedTuple):
    """What the judges said of gold answers: by role (best, ambivalent, worst), one sequence a judge, each parallel to
    the triples."""

    triples: Sequence[Prompt]
    verdicts: Sequence[Sequence[Sequence[Judgement]]]

    def marked(self) -> list[tuple[int, Marked]]:
        """Gold answers with all verdicts, with the place of their role: 0 best, 1 ambivalent, 2 worst."""
        found = []
        for place, (role, given) in enumerate(zip(ROLES, self.verdicts, strict=True)):
            answers = [Answer(prompt_id=p.id, text=getattr(p, role) or "") for p in self.triples]
            found += [(place, m) for m in marked(self.triples, answers, given)]
        staked = [(place, m) for place, m in found if not m.prompt.control]
        return staked or found


def corrected(graded: Sequence[Marked], gold: GoldVerdicts | None, audits: Audits) -> Estimate | Withheld:
    """The mean on 0 to 100 without the judges' errors.

    With people's audits of MIN_AUDITS groups and more, PPI++ (`ppi_mean`, on the judges' expected points). Else
    Rogan–Gladen (`rogan_gladen`) with the confusion on gold, of each judge alone; with several, the mean of their
    corrected means with the mean of their half-widths, which is wide enough however their errors hang together.

    It assumes that gold answers deserve what their role says, and that a judge errs on a model's answers as it does on
    gold. Audits of fewer groups test the second (`transport_test`: the model, issue, length); where it fails there is
    no number.

    Args:
        graded: prompts with every judge's verdict.
        gold: the same judges' verdicts on gold.
        audits: people's points by prompt id, of answers drawn at random.
    """
    groups = [m.prompt.group for m in graded]
    if len(set(groups)) < 2:
        return Withheld(reason="few_answers")
    audited = [m for m in graded if m.prompt.id in audits]
    rest = [m for m in graded if m.prompt.id not in audits]
    if len({m.prompt.group for m in audited}) >= MIN_AUDITS:
        return _by_people(audited, rest, audits)
    if gold is None:
        return Withheld(reason="no_gold")
    by_rule = sum(m.by_rule for m in graded) / len(graded)
    if by_rule > MAX_BY_RULE:
        return Withheld(reason="many_by_rule", detail=f"{100 * by_rule:.0f} %")
    known = gold.marked()
    found: list[Estimate] = []
    worth = np.zeros(len(audited))
    for seat in range(len(graded[0].verdicts)):
        table = Gold(
            truth=[place for place, _ in known],
            said=[_grade(m, seat) for _, m in known],
            groups=[m.prompt.group for _, m in known],
        )
        one = rogan_gladen(table, [_grade(m, seat) for m in graded], groups, POINTS)
        if isinstance(one, Withheld):
            return one
        found.append(one.mean)
        points = corrected_points(confusion_matrix(table, len(GRADES)), POINTS)
        worth += [points[_grade(m, seat)] for m in audited]
    if failed := _not_transported(audited, audits, worth / len(found)):
        return failed
    return percent(_mean_of(found))


def length_controlled(graded: Sequence[Marked], gold: GoldVerdicts | None) -> Estimate | Withheld:
    """The mean on 0 to 100 had the answers been as long as the best gold answers.

    The judges' slope of points on log words is measured on gold answers within a prompt, with an effect of each role:
    what length adds to answers that deserve the same. It is one number for a judge, so a model's score does not depend
    on which other models are there. Answers graded by rule are left as they are. Source: Dubois et al. 2024
    (2404.04475) for the idea; see `stats.length`.
    """
    groups = [m.prompt.group for m in graded]
    if len(set(groups)) < 2:
        return Withheld(reason="few_answers")
    if gold is None:
        return Withheld(reason="no_gold")
    known = gold.marked()
    if len({m.prompt.group for _, m in known}) < 2:
        return Withheld(reason="little_gold", detail=f"{len(known)}")
    lengths = [_log_words(m) for _, m in known]
    slope = length_slope(
        [m.points for _, m in known],
        lengths,
        [m.prompt.id for _, m in known],
        [m.prompt.group for _, m in known],
        [ROLES[place] for place, _ in known],
    )
    if isinstance(slope, Withheld):
        return slope
    reference = float(np.mean([length for length, (place, _) in zip(lengths, known, strict=True) if place == 0]))
    own = [reference if m.by_rule else _log_words(m) for m in graded]
    typical, stretch = float(np.mean(own)), math.log(MAX_STRETCH)
    if not min(lengths) - stretch <= typical <= max(lengths) + stretch:
        words = [f"{math.exp(length):.0f}" for length in (typical, min(lengths), max(lengths))]
        return Withheld(reason="other_lengths", detail=f"{words[0]} / {words[1]}–{words[2]}")
    return percent(controlled_mean([m.points for m in graded], own, groups, slope, reference))


def _by_people(audited: Sequence[Marked], rest: Sequence[Marked], audits: Audits) -> Estimate | Withheld:
    points, groups = [audits[m.prompt.id] for m in audited], [m.prompt.group for m in audited]
    others = [m.prompt.group for m in rest]
    if len(set(others)) < 2:  # people read (nearly) everything: there is nothing for the judge to add
        return percent(clustered_mean(points, groups).model_copy(update={"method": "people"}))
    found = ppi_mean(points, [m.expected for m in audited], [m.expected for m in rest], [*groups, *others])
    return found if isinstance(found, Withheld) else percent(found)


def _grade(m: Marked, seat: int) -> int:
    return GRADES.index(m.verdicts[seat].grade)


def _mean_of(found: Sequence[Estimate]) -> Estimate:
    if len(found) == 1:
        return found[0]
    value = float(np.mean([e.value for e in found]))
    low, high = (float(np.mean([getattr(e, end) for e in found])) for end in ("low", "high"))
    return found[0].model_copy(update={"value": value, "low": low, "high": high})


def _not_transported(audited: Sequence[Marked], audits: Audits, worth: Floats) -> Withheld | None:
    """The first stratum in which people's grades contradict the correction."""
    if not audited:
        return None
    middle = float(np.median([_log_words(m) for m in audited]))
    strata = {
        "model": ["all"] * len(audited),
        "code": [m.prompt.codes[0] if m.prompt.codes else "-" for m in audited],
        "length": ["long" if _log_words(m) > middle else "short" for m in audited],
    }
    tests = transport_test(
        [audits[m.prompt.id] for m in audited], worth.tolist(), strata, [m.prompt.group for m in audited]
    )
    for test in tests:
        if test.outcome == "fails" and test.gap is not None:
            gap = f"{100 * test.gap.value:+.1f} ({100 * test.gap.low:+.1f} … {100 * test.gap.high:+.1f})"
            return Withheld(reason="not_transported", detail=f"{test.kind} {test.stratum}: {gap}")
    return None


def _log_words(m: Marked) -> float:
    return math.log(max(1, len(m.answer.text.split())))
