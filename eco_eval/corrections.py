"""The score without the judge's errors, and without its taste for length. Where data do not allow it, why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from eco_eval.readings import POINTS, Marked, marked, percent
from eco_eval.stats.correction import (
    MIN_AUDITS,
    MIN_GOLD,
    Gold,
    confusion_matrix,
    corrected_points,
    ppi_mean,
    rogan_gladen,
    transport_test,
)
from eco_eval.stats.intervals import Floats, members
from eco_eval.stats.length import length_controlled as controlled_mean
from eco_eval.stats.length import length_slope
from eco_eval.types import GRADES, Answer, Estimate, Judgement, Prompt, Withheld

ROLES = ("best", "ambivalent", "worst")

Audits = Mapping[str, float]
"""People's points of one model's answers, 0 to 1, by prompt id."""

MAX_STRETCH = 3.0
"""How many times longer than long gold answers, or shorter than short ones, a model's typical answer may be: the slope
is measured between them and taken to go on straight in log length. Long and short by SPAN."""

SPAN = (0.05, 0.95)
"""Quantiles of the lengths of gold answers: one odd answer does not widen what the slope is known for."""

MAX_DOUBT = 0.15
"""Largest half-width, on 0 to 1, of what is taken off or added for length; above, nothing is learnt. Gold whose answers
to a prompt are nearly of one length tells little of what length adds. It is reckoned from lengths alone, with points
that spread by USUAL_SPREAD: to let through what happens to look precise would spoil the intervals (88 % in simulation).
"""

USUAL_SPREAD = 0.25
"""Standard deviation of a judge's points, 0 to 1, about what prompt and role explain."""


class GoldVerdicts(NamedTuple):
    """What the judges said of gold answers: by role (best, ambivalent, worst), one sequence a judge, each parallel to
    the triples."""

    triples: Sequence[Prompt]
    verdicts: Sequence[Sequence[Sequence[Judgement]]]

    def marked(self, control: bool = False) -> list[tuple[int, Marked]]:
        """Gold answers with all verdicts, with the place of their role: 0 best, 1 ambivalent, 2 worst.

        Args:
            control: those of control prompts instead of the others.
        """
        found = []
        for place, (role, given) in enumerate(zip(ROLES, self.verdicts, strict=True)):
            answers = [Answer(prompt_id=p.id, text=getattr(p, role) or "") for p in self.triples]
            found += [(place, m) for m in marked(self.triples, answers, given)]
        return [(place, m) for place, m in found if m.prompt.control == control]


def corrected(graded: Sequence[Marked], gold: GoldVerdicts | None, audits: Audits) -> Estimate | Withheld:
    """The mean on 0 to 100 without the judges' errors.

    With people's audits of MIN_AUDITS groups and more, PPI++ (`ppi_mean`, on the judges' expected points). Else
    Rogan–Gladen (`rogan_gladen`) with the confusion on gold, of each judge alone; with several, the mean of their
    corrected means. Answers graded by rule are known to be bad: they count, and take no correction.

    It assumes that gold answers deserve what their role says, and that a judge errs on a model's answers as it does on
    gold. Audits of fewer groups test the second (`transport_test`: the model, issue, length); where it fails there is
    no number.

    Args:
        graded: prompts with every judge's verdict, all controls or none of them.
        gold: the same judges' verdicts on gold; controls are used for controls only.
        audits: people's points by prompt id, of answers drawn at random.
    """
    groups = [m.prompt.group for m in graded]
    if len(set(groups)) < 2:
        return Withheld(reason="few_answers", detail=f"{len(set(groups))} < 2")
    audited = [m for m in graded if m.prompt.id in audits]
    if len({m.prompt.group for m in audited}) >= MIN_AUDITS:
        return _by_people(audited, [m for m in graded if m.prompt.id not in audits], audits)
    if gold is None:
        return Withheld(reason="no_gold")
    if withheld := _unread(graded):
        return withheld
    known = gold.marked(graded[0].prompt.control)
    seats = range(len(graded[0].verdicts))
    golds = [
        Gold(
            truth=[place for place, _ in known],
            said=[_grade(m, seat) for _, m in known],
            groups=[m.prompt.group for _, m in known],
        )
        for seat in seats
    ]
    saids = [[len(GRADES) if m.by_rule else _grade(m, seat) for m in graded] for seat in seats]
    found = rogan_gladen(golds, saids, groups, POINTS)
    if isinstance(found, Withheld):
        return found
    points = [np.append(corrected_points(confusion_matrix(one, len(GRADES)), POINTS), POINTS[-1]) for one in golds]
    worth = np.mean([each[said] for each, said in zip(points, saids, strict=True)], axis=0)
    drawn = [i for i, m in enumerate(graded) if m.prompt.id in audits]
    return _not_transported(audited, audits, worth[drawn]) or percent(found)


def length_controlled(graded: Sequence[Marked], gold: GoldVerdicts | None) -> Estimate | Withheld:
    """The mean on 0 to 100 had the answers been as long as the best gold answers.

    The judges' slope of points on log words is measured on gold answers within a prompt, with an effect of each role:
    what length adds to answers that deserve the same. It is one number for a judge, so a model's score does not depend
    on which other models are there. Answers graded by rule are left as they are. Source: Dubois et al. 2024
    (2404.04475) for the idea; see `stats.length`.

    Args:
        graded: prompts with every judge's verdict, all controls or none of them.
        gold: the same judges' verdicts on gold; controls are used for controls only.
    """
    groups = [m.prompt.group for m in graded]
    if len(set(groups)) < 2:
        return Withheld(reason="few_answers", detail=f"{len(set(groups))} < 2")
    if gold is None:
        return Withheld(reason="no_gold")
    if withheld := _unread(graded):
        return withheld
    control = graded[0].prompt.control
    marks = gold.marked(control)
    answers = Counter(m.prompt.id for _, m in marks)
    known = [(place, m) for place, m in marks if answers[m.prompt.id] > 1]
    enough = len({m.prompt.group for _, m in known})
    if enough < MIN_GOLD:
        return Withheld(reason="little_gold", detail=f"{enough} < {MIN_GOLD}")
    lengths, names = np.array([_log_words(m.answer.text) for _, m in known]), [m.prompt.id for _, m in known]
    roles = [ROLES[place] for place, _ in known]
    reference = float(np.mean([_log_words(p.best or "") for p in gold.triples if p.control == control]))
    typical = float(np.mean([_log_words(m.answer.text) for m in graded if not m.by_rule]))
    short, long = (float(end) for end in np.quantile(lengths, SPAN))
    if not short - math.log(MAX_STRETCH) <= typical <= long + math.log(MAX_STRETCH):
        words = [f"{math.exp(length):.0f}" for length in (typical, short, long)]
        return Withheld(reason="other_lengths", detail=f"{words[0]} / {words[1]}–{words[2]}")
    own = [reference if m.by_rule else _log_words(m.answer.text) for m in graded]
    slope = length_slope([m.points for _, m in known], lengths, names, [m.prompt.group for _, m in known], roles)
    if isinstance(slope, Withheld):
        return slope.model_copy(update={"detail": "± ∞"})
    doubt = 2 * USUAL_SPREAD * abs(float(np.mean(own)) - reference) / _spread(lengths, names, roles)
    if doubt > MAX_DOUBT:
        return Withheld(reason="same_length", detail=f"± {100 * doubt:.0f}")
    return percent(controlled_mean([m.points for m in graded], own, groups, slope, reference))


def _spread(lengths: Floats, *effects: Sequence[str]) -> float:
    """√Σx̃², x̃ the log lengths less the means by prompt and then by role: what the slope's error is divided by."""
    left = lengths
    for names in effects:
        member, _ = members(names)
        left = left - (np.bincount(member, weights=left) / np.bincount(member))[member]
    return float(np.linalg.norm(left))


def _unread(graded: Sequence[Marked]) -> Withheld | None:
    """Set when judges read answers of fewer than two groups: nothing of theirs can be corrected."""
    if len({m.prompt.group for m in graded if not m.by_rule}) >= 2:
        return None
    by_rule = sum(m.by_rule for m in graded) / len(graded)
    return Withheld(reason="many_by_rule", detail=f"{100 * by_rule:.0f} %")


def _by_people(audited: Sequence[Marked], rest: Sequence[Marked], audits: Audits) -> Estimate:
    points, groups = [audits[m.prompt.id] for m in audited], [m.prompt.group for m in (*audited, *rest)]
    return percent(ppi_mean(points, [m.expected for m in audited], [m.expected for m in rest], groups))


def _grade(m: Marked, seat: int) -> int:
    return GRADES.index(m.verdicts[seat].grade)


def _not_transported(audited: Sequence[Marked], audits: Audits, worth: Floats) -> Withheld | None:
    """The first stratum in which people's grades contradict the correction."""
    if not audited:
        return None
    middle = float(np.median([_log_words(m.answer.text) for m in audited]))
    words = f"{math.exp(middle):.0f}"
    strata = {
        "model": [""] * len(audited),
        "code": [m.prompt.codes[0] if m.prompt.codes else "-" for m in audited],
        "length": [f"> {words}" if _log_words(m.answer.text) > middle else f"≤ {words}" for m in audited],
    }
    tests = transport_test(
        [audits[m.prompt.id] for m in audited], worth.tolist(), strata, [m.prompt.group for m in audited]
    )
    for test in tests:
        if test.outcome == "fails" and test.gap is not None:
            gap = f"{100 * test.gap.value:+.1f} ({100 * test.gap.low:+.1f} … {100 * test.gap.high:+.1f})"
            return Withheld(reason="not_transported", detail=f"{test.stratum}: {gap}" if test.stratum else gap)
    return None


def _log_words(text: str) -> float:
    return math.log(max(1, len(text.split())))
