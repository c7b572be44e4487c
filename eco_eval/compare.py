"""Two models on the same prompts: what differs, by how much, and whether it is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from eco_eval.errors import InputError
from eco_eval.readings import Marked, marked
from eco_eval.results import details, display_name
from eco_eval.stats import by_part, holm, outcome_table, paired_difference, win_rate
from eco_eval.stats.comparison import Difference, PartDifference, WinRate
from eco_eval.store import Store
from eco_eval.types import GRADES, Estimate, Prompt, Record, Result, digest

FARTHEST = 10
"""How many of the prompts with the greatest difference are named."""


class Apart(Record):
    """A prompt on which two models differ: the soft points of each, 0 to 100, and its text."""

    prompt_id: str
    prompt: str
    a: float
    b: float


class Language(Record):
    """The difference of two models in one language, and whether it is that of the first language.

    difference: a − b on this language's prompts. change: (a − b here) − (a − b in the first language), by group of
    prompts asked in both: what did not carry over; None for the first language itself and where they share fewer than
    two groups. The p of each are adjusted for all languages (Holm).
    """

    lang: str
    difference: PartDifference
    change: PartDifference | None


class Comparison(Record):
    """Model A beside model B, over the prompts with a stake on which both have a verdict; a − b, on 0 to 100.

    table: counts, rows A's grade, columns B's, in the order good, regular, bad; with several judges the median grade.
    same_prompts: they were asked the same texts. False for twins in two languages, which share ids: then the
        difference is between languages as much as between models.
    languages: by language, where results of both models in several languages were given; empty for one language.
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
    languages: tuple[Language, ...] = ()
    farthest: tuple[Apart, ...]


class Twin(NamedTuple):
    """Results of the same two models on the same prompts in another language, with those prompts by id."""

    a: Result
    b: Result
    prompts: Mapping[str, Prompt]


def compare(
    store: Store, a: Result, b: Result, prompts: Mapping[str, Prompt], twins: Sequence[Twin] = ()
) -> Comparison:
    """Compare two results from their kept verdicts.

    Differences are of hard grades (good 1, regular ½, bad 0), the mean over judges where there are several; which
    prompts are farthest apart is told by soft ones.

    Args:
        prompts: by id, for groups, codes, kinds and controls; a prompt that is not among them is a group of its own.
        twins: the same models in other languages, for what carries over from one language to another.

    Raises:
        InputError: they share verdicts on fewer than two groups of prompts.
        StoreError: answers or verdicts are not there.
    """
    pairs = shared(read_marked(store, a, prompts), read_marked(store, b, prompts))
    groups = [first.prompt.group for first, _ in pairs]
    if len(set(groups)) < 2:
        raise InputError("compare.nothing_shared", a=display_name(a), b=display_name(b))
    x, y = [first.points for first, _ in pairs], [second.points for _, second in pairs]
    table = outcome_table([_class(first) for first, _ in pairs], [_class(second) for _, second in pairs])
    wins = win_rate(x, y, groups)
    parts: list[Sequence[str]] = [first.prompt.codes for first, _ in pairs]
    kinds: list[Sequence[str]] = [(first.prompt.kind,) if first.prompt.kind else () for first, _ in pairs]
    more = [shared(read_marked(store, t.a, t.prompts), read_marked(store, t.b, t.prompts)) for t in twins]
    apart = sorted(pairs, key=lambda pair: -abs(pair[0].expected - pair[1].expected))
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
        languages=_languages([pair for some in (pairs, *more) for pair in some]),
        farthest=tuple(
            Apart(prompt_id=i.prompt.id, prompt=i.prompt.text, a=100 * i.expected, b=100 * j.expected)
            for i, j in apart[:FARTHEST]
            if i.expected != j.expected
        ),
    )


def find_twins(results: Sequence[Result], a: Result, b: Result) -> list[tuple[Result, Result]]:
    """Pairs of results of the same two models under other instruments, the same one for both of a pair.

    Whether an instrument asks the same prompts in another language is for the caller to say. Of several results under
    one name the newest counts.
    """
    newest: dict[tuple[str, str], Result] = {}
    for result in sorted(results, key=lambda r: r.provenance.finished_at):
        if not result.is_anchor:
            newest[_who(result), result.submission.instrument] = result
    found = []
    for name in sorted({instrument for _, instrument in newest} - {a.submission.instrument, b.submission.instrument}):
        first, second = newest.get((_who(a), name)), newest.get((_who(b), name))
        if first and second and first.submission.asked_digest == second.submission.asked_digest:
            found.append((first, second))
    return found


def _who(result: Result) -> str:
    return digest([result.submission.model.model_dump(mode="json"), result.submission.system_prompt])


def read_marked(store: Store, result: Result, prompts: Mapping[str, Prompt]) -> dict[str, Marked]:
    """A result's answers with all their verdicts, by prompt id, control prompts left out.

    Raises:
        StoreError: answers or verdicts are not there.
    """
    readings = details(store, result)
    known = [
        prompts.get(answer.prompt_id) or Prompt(id=answer.prompt_id, group=answer.prompt_id, text=answer.prompt)
        for answer, _ in readings
    ]
    verdicts = [[given[seat] for _, given in readings] for seat in range(len(result.seats))]
    found = marked(known, [answer for answer, _ in readings], verdicts)
    return {m.prompt.id: m for m in found if not m.prompt.control}


def shared(a: Mapping[str, Marked], b: Mapping[str, Marked]) -> list[tuple[Marked, Marked]]:
    """The prompts of both, in the order of the first."""
    return [(first, b[key]) for key, first in a.items() if key in b]


def _class(m: Marked) -> int:
    """The grade of most judges or between most, for the table: the median, the worse one of two."""
    given = sorted(GRADES.index(verdict.grade) for verdict in m.verdicts)
    return given[len(given) // 2]


def _languages(pairs: Sequence[tuple[Marked, Marked]]) -> tuple[Language, ...]:
    by_lang: dict[str, list[tuple[Marked, Marked]]] = {}
    for pair in pairs:
        by_lang.setdefault(pair[0].prompt.lang, []).append(pair)
    whole = {lang: own for lang, own in by_lang.items() if len({first.prompt.group for first, _ in own}) > 1}
    if len(whole) < 2:
        return ()
    differences, changes = {}, {}
    original = next(iter(whole))
    reference = _by_group(whole[original])
    for lang, own in whole.items():
        x, y = [first.points for first, _ in own], [second.points for _, second in own]
        differences[lang] = paired_difference(x, y, [first.prompt.group for first, _ in own])
        here = _by_group(own)
        both = [group for group in here if group in reference]
        if lang != original and len(both) > 1:
            changes[lang] = paired_difference([here[g] for g in both], [reference[g] for g in both], both)
    adjusted, adjusted_changes = _adjusted(differences), _adjusted(changes)
    return tuple(
        Language(lang=lang, difference=adjusted[lang], change=adjusted_changes.get(lang)) for lang in differences
    )


def _by_group(pairs: Sequence[tuple[Marked, Marked]]) -> dict[str, float]:
    """Mean difference of each group of prompts."""
    gaps: dict[str, list[float]] = {}
    for first, second in pairs:
        gaps.setdefault(first.prompt.group, []).append(first.points - second.points)
    return {group: sum(found) / len(found) for group, found in gaps.items()}


def _adjusted(found: Mapping[str, Difference]) -> dict[str, PartDifference]:
    adjusted = holm([difference.p for difference in found.values()])
    return {
        name: PartDifference(difference=_percent(difference), adjusted_p=p)
        for (name, difference), p in zip(found.items(), adjusted, strict=True)
    }


def _parts(found: Mapping[str, PartDifference]) -> dict[str, PartDifference]:
    return {name: part.model_copy(update={"difference": _percent(part.difference)}) for name, part in found.items()}


def _percent(difference: Difference) -> Difference:
    detectable = None if difference.detectable is None else 100 * difference.detectable
    return difference.model_copy(update={"estimate": _scaled(difference.estimate), "detectable": detectable})


def _scaled(estimate: Estimate) -> Estimate:
    scaled = {name: 100 * getattr(estimate, name) for name in ("value", "low", "high")}
    return estimate.model_copy(update=scaled)
