"""Two models on the same prompts: what differs, by how much, and whether it is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eco_eval.board import details, display_name
from eco_eval.errors import InputError
from eco_eval.scoring import expected_points
from eco_eval.stats import by_part, outcome_table, paired_difference, win_rate
from eco_eval.stats.comparison import Difference, PartDifference, WinRate
from eco_eval.store import Store
from eco_eval.types import GRADES, Estimate, Graded, Prompt, Record, Result

FARTHEST = 10
"""How many of the prompts with the greatest difference are named."""


class Apart(Record):
    """A prompt on which two models differ: the soft points of each, 0 to 100, and its text."""

    prompt_id: str
    prompt: str
    a: float
    b: float


class Comparison(Record):
    """Model A beside model B, over the prompts with a stake on which both have a verdict; a − b, on 0 to 100.

    table: counts, rows A's grade, columns B's, in the order good, regular, bad.
    same_prompts: they were asked the same texts. False for twins in two languages, which share ids: then the
        difference is between languages as much as between models.
    same_judging: the same judge and rubric graded both. When false, the difference is not the models' alone.
    """

    a: str
    b: str
    prompts: int
    same_prompts: bool
    same_judging: bool
    difference: Difference
    wins: WinRate
    table: tuple[tuple[int, int, int], ...]
    by_code: dict[str, PartDifference]
    by_kind: dict[str, PartDifference]
    farthest: tuple[Apart, ...]


def compare(store: Store, a: Result, b: Result, prompts: Mapping[str, Prompt]) -> Comparison:
    """Compare two results from their kept verdicts.

    Differences are of hard grades (good 1, regular ½, bad 0); which prompts are farthest apart is told by soft ones.

    Args:
        prompts: by id, for groups, codes, kinds and controls; a prompt that is not among them is a group of its own.

    Raises:
        InputError: they share verdicts on fewer than two groups of prompts.
        StoreError: answers or verdicts are not there.
    """
    left, right = ({answer.prompt_id: (answer, j) for answer, j in details(store, result)} for result in (a, b))
    pairs = []
    for key, (answer, first) in left.items():
        second = right[key][1] if key in right else None
        prompt = prompts.get(key) or Prompt(id=key, group=key, text=answer.prompt)
        if isinstance(first, Graded) and isinstance(second, Graded) and not prompt.control:
            pairs.append((prompt, first, second))
    groups = [prompt.group for prompt, _, _ in pairs]
    if len(set(groups)) < 2:
        raise InputError("compare.nothing_shared", a=display_name(a), b=display_name(b))
    x = [first.grade.value_points for _, first, _ in pairs]
    y = [second.grade.value_points for _, _, second in pairs]
    table = outcome_table([GRADES.index(j.grade) for _, j, _ in pairs], [GRADES.index(j.grade) for _, _, j in pairs])
    wins = win_rate(x, y, groups)
    parts: list[Sequence[str]] = [prompt.codes for prompt, _, _ in pairs]
    kinds: list[Sequence[str]] = [(prompt.kind,) if prompt.kind else () for prompt, _, _ in pairs]
    apart = sorted(pairs, key=lambda pair: -abs(expected_points(pair[1]) - expected_points(pair[2])))
    return Comparison(
        a=display_name(a),
        b=display_name(b),
        prompts=len(pairs),
        same_prompts=a.submission.asked_digest == b.submission.asked_digest,
        same_judging=a.submission.measured_digest == b.submission.measured_digest,
        difference=_percent(paired_difference(x, y, groups)),
        wins=wins.model_copy(update={"rate": _scaled(wins.rate)}),
        table=tuple((int(p), int(q), int(r)) for p, q, r in table),
        by_code=_parts(by_part(x, y, groups, parts)),
        by_kind=_parts(by_part(x, y, groups, kinds)),
        farthest=tuple(
            Apart(prompt_id=p.id, prompt=p.text, a=100 * expected_points(i), b=100 * expected_points(j))
            for p, i, j in apart[:FARTHEST]
            if expected_points(i) != expected_points(j)
        ),
    )


def _parts(found: Mapping[str, PartDifference]) -> dict[str, PartDifference]:
    return {name: part.model_copy(update={"difference": _percent(part.difference)}) for name, part in found.items()}


def _percent(difference: Difference) -> Difference:
    detectable = None if difference.detectable is None else 100 * difference.detectable
    return difference.model_copy(update={"estimate": _scaled(difference.estimate), "detectable": detectable})


def _scaled(estimate: Estimate) -> Estimate:
    scaled = {name: 100 * getattr(estimate, name) for name in ("value", "low", "high")}
    return estimate.model_copy(update=scaled)
