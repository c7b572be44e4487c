"""How good is the judge? Gold triples, what cannot read beside it, and the attack battery."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from eco_eval.anchors import anchor_sheets
from eco_eval.attacks import ATTACKS, BARE, Attack, attacked
from eco_eval.engines.base import OpenEngine
from eco_eval.errors import InputError
from eco_eval.instrument import Instrument
from eco_eval.judge_card import Bin, Check, Drift, JudgeCard, card_path, gold_digest, read_card
from eco_eval.judging import Sheet, judge, judgements_path, letter
from eco_eval.prompts import prompts_digest
from eco_eval.readings import POINTS, expected_points, percent
from eco_eval.stats import (
    best_constant,
    calibration,
    confusion,
    gwet_ac2,
    kappa_estimate,
    mean_of_classes,
    ordinal_alpha,
    triple_order,
    wilson,
)
from eco_eval.store import Store
from eco_eval.triples.baselines import eco_words
from eco_eval.types import (
    GRADES,
    Answer,
    EngineInfo,
    Estimate,
    Graded,
    Judgement,
    Progress,
    Prompt,
    digest,
    no_progress,
)

Verdicts = Sequence[Judgement]
LENGTHS = ((90, "short"), (125, "medium"), (10**9, "long"))
"""Bins of the best answer's length: words they end before, and their names."""


def audit(
    instrument: Instrument,
    engine: OpenEngine,
    store: Store,
    progress: Progress = no_progress,
    *,
    again: bool = False,
) -> JudgeCard:
    """Have the instrument's judge grade its gold triples and the attack battery, and keep what that says of it.

    Verdicts are kept: an audit that was cut goes on where it stopped, and those on gold answers are the anchors' own.
    The card replaces the earlier one of the same judge and gold. Its drift is what changed since that one: nothing,
    unless the judge is asked again.

    Args:
        again: ask the judge anew for every verdict. These are kept apart from those that scores were made from, and
            are what later audits go by; one that was cut goes on where it stopped.

    Raises:
        InputError: the instrument has too few gold triples.
        EngineError: the judge's engine cannot start or go on.
        StoreError: what is kept, an earlier card among it, cannot be read.
    """
    before = read_card(instrument, store)
    triples = tuple(p for p in instrument.gold if p.best and p.ambivalent and p.worst)
    if len({prompt.group for prompt in triples}) < 2:
        raise InputError("audit.no_gold", instrument=instrument.name)
    gold = anchor_sheets(instrument)[:3]
    battery = [_sheet(attack, triples, instrument) for attack in ATTACKS]
    sheets = [*gold, *battery]
    places = _places(sheets, instrument, store, again)
    verdicts, judged_by = judge(sheets, places, instrument, engine, store, progress)
    attacks = {attack.name: found for attack, found in zip(ATTACKS, verdicts[3:], strict=True)}
    card = make_card(instrument, triples, verdicts[:3], attacks, judged_by, before)
    store.write(card_path(instrument), card.model_dump_json(indent=1).encode())
    return card


def _places(sheets: Sequence[Sheet], instrument: Instrument, store: Store, again: bool) -> list[str]:
    """Where the audit's verdicts are kept: with those of scores, until the judge is asked anew."""
    shared = [judgements_path(sheet, instrument) for sheet in sheets]
    own = [path.replace(".parquet", ".audit.parquet") for path in shared]
    for path in own if again else ():
        store.delete(path)
    begun = again or any(store.list(path.removesuffix(".parquet")) for path in own)
    return own if begun else shared


def _sheet(attack: Attack, triples: Sequence[Prompt], instrument: Instrument) -> Sheet:
    said = attacked(attack, triples, instrument.rubric, instrument.lang)
    answers = tuple(Answer(prompt_id=p.id, prompt=p.text, text=text) for p, text in zip(triples, said, strict=True))
    # Many attacks say the same to every prompt: the prompts tell their verdicts from those of other gold.
    key = digest([attack.name, prompts_digest(triples), said])
    return Sheet(model=f"attack-{attack.name}", key=key, prompts=tuple(triples), answers=answers)


def make_card(
    instrument: Instrument,
    triples: Sequence[Prompt],
    gold: Sequence[Verdicts],
    attacks: Mapping[str, Verdicts],
    judged_by: EngineInfo | None,
    before: JudgeCard | None,
) -> JudgeCard:
    """The card of what a judge said.

    Args:
        gold: its verdicts on the best, ambivalent and worst answers, each parallel to `triples`.
        attacks: its verdicts on each attack's answers, parallel to `triples`.
        before: an earlier card, for drift.

    Raises:
        InputError: fewer than two groups of triples have all their verdicts.
    """
    whole = [
        (prompt, three)
        for prompt, *three in zip(triples, *gold, strict=True)
        if all(isinstance(judgement, Graded) for judgement in three)
    ]
    graded = [(prompt, [j for j in three if isinstance(j, Graded)]) for prompt, three in whole]
    if len({prompt.group for prompt, _ in graded}) < 2:
        raise InputError("audit.no_verdicts", instrument=instrument.name)
    agreement = _agreement(graded)
    rates = {name: _share(verdicts, lambda j: j.grade == GRADES[0]) for name, verdicts in attacks.items()}
    expected = {attack.name: attack.expected for attack in ATTACKS}
    kept = {
        attack.name: _kept(gold[0], attacks[attack.name])
        for attack in ATTACKS
        if attack.expected == "same" and attack.name in attacks
    }
    false_good = {name: rate for name, rate in rates.items() if expected[name] == "not_good"}
    curve = calibration(
        [expected_points(j) for _, three in graded for j in three],
        [worth for _ in graded for worth in POINTS],
    )
    worst = _mean([prompt for prompt, _ in graded], [three[2] for _, three in graded])
    scores = {name: _score(triples, attacks[name]) for name in false_good}
    checks = _gate(instrument, agreement, false_good, worst, scores)
    grades = {p.id: "".join(map(letter, three)) for p, *three in zip(triples, *gold, strict=True)}
    return JudgeCard(
        instrument=instrument.name,
        judge=judged_by,
        revision=instrument.judge_revision,
        stand_in=instrument.judge.stand_in,
        judging_digest=instrument.judging_digest,
        gold_digest=gold_digest(instrument),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        triples=len(triples),
        ungraded=sum(not isinstance(j, Graded) for verdicts in gold for j in verdicts),
        confusion=_counts(graded),
        agreement=agreement,
        baselines=_baselines([prompt for prompt, _ in graded]),
        worst=worst,
        parts=_parts(graded),
        calibration=tuple(Bin(said=b.probability, deserved=b.correct, n=b.n) for b in curve.curve if b.n),
        calibration_error=curve.error,
        attacks=false_good,
        scores=scores,
        kept={name: share for name, share in kept.items() if share is not None},
        grades=grades,
        drift=_drift(grades, before),
        gate=checks,
        verdict="no_gate" if not checks else "passed" if all(check.passed for check in checks) else "failed",
    )


Triples = Sequence[tuple[Prompt, Sequence[Graded]]]


def _classes(graded: Triples) -> tuple[list[int], list[int], list[str]]:
    """The grade each answer's role suggests, the one given, and its group."""
    said = [GRADES.index(j.grade) for _, three in graded for j in three]
    return [0, 1, 2] * len(graded), said, [prompt.group for prompt, _ in graded for _ in range(3)]


def _counts(graded: Triples) -> tuple[tuple[int, int, int], ...]:
    truth, said, _ = _classes(graded)
    return tuple((int(a), int(b), int(c)) for a, b, c in confusion(truth, said))


def _agreement(graded: Triples) -> dict[str, Estimate | None]:
    truth, said, groups = _classes(graded)
    order = triple_order([[expected_points(j) for j in three] for _, three in graded], [p.group for p, _ in graded])
    ratings = np.array([truth, said], dtype=float).T
    hits = [int(a != b) for a, b in zip(truth, said, strict=True)]
    return {
        "order": percent(order.best_over_worst),
        "strict": percent(order.strict),
        "exact": percent(mean_of_classes(hits, groups, (1.0, 0.0))),
        "kappa": _or_none(lambda: kappa_estimate(truth, said, groups)),
        "alpha": _or_none(lambda: ordinal_alpha(ratings, groups)),
        "ac2": _or_none(lambda: gwet_ac2(ratings, groups)),
    }


def _or_none(coefficient: Callable[[], Estimate]) -> Estimate | None:
    """A coefficient, or None where it is 0/0: one and the same grade everywhere."""
    try:
        return coefficient()
    except ValueError:
        return None


def _baselines(prompts: Sequence[Prompt]) -> dict[str, dict[str, Estimate]]:
    groups = [prompt.group for prompt in prompts]
    truth = [0, 1, 2] * len(prompts)
    said = best_constant(truth, POINTS).said
    hits = mean_of_classes([int(k != said) for k in truth], [g for g in groups for _ in range(3)], (1.0, 0.0))
    ties = triple_order([[0, 0, 0]] * len(prompts), groups).best_over_worst
    found = {"constant": {"exact": percent(hits), "order": percent(ties)}}
    ways: dict[str, Callable[[str], float]] = {"length": len, "eco_words": eco_words}
    for name, count in ways.items():
        scores = [[count(text or "") for text in (p.best, p.ambivalent, p.worst)] for p in prompts]
        found[name] = {"order": percent(triple_order(scores, groups).best_over_worst)}
    return found


def _parts(graded: Triples) -> dict[str, dict[str, Estimate]]:
    ways: dict[str, Callable[[Prompt], Iterable[str]]] = {
        "codes": lambda p: p.codes,
        "kind": lambda p: (p.kind,) if p.kind else (),
        "variety": lambda p: (p.variety,) if p.variety else (),
        "control": lambda p: (str(p.control).lower(),),
        "length": lambda p: (_length(p),),
    }
    found: dict[str, dict[str, Estimate]] = {}
    for way, names in ways.items():
        members: dict[str, list[tuple[Prompt, Sequence[Graded]]]] = {}
        for prompt, three in graded:
            for name in names(prompt):
                members.setdefault(name, []).append((prompt, three))
        found[way] = {
            name: percent(
                triple_order(
                    [[expected_points(j) for j in three] for _, three in some], [p.group for p, _ in some]
                ).best_over_worst
            )
            for name, some in sorted(members.items())
            if len({prompt.group for prompt, _ in some}) > 1
        }
    return found


def _length(prompt: Prompt) -> str:
    words = len((prompt.best or "").split())
    return next(name for end, name in LENGTHS if words < end)


def _share(verdicts: Verdicts, holds: Callable[[Graded], bool]) -> Estimate | None:
    graded = [j for j in verdicts if isinstance(j, Graded)]
    return percent(wilson(sum(holds(j) for j in graded), len(graded))) if graded else None


def _score(prompts: Sequence[Prompt], verdicts: Verdicts) -> Estimate | None:
    both = [(p, j) for p, j in zip(prompts, verdicts, strict=True) if isinstance(j, Graded)]
    return _mean([p for p, _ in both], [j for _, j in both]) if both else None


def _mean(prompts: Sequence[Prompt], graded: Sequence[Graded]) -> Estimate:
    return percent(mean_of_classes([GRADES.index(j.grade) for j in graded], [p.group for p in prompts], POINTS))


def _kept(before: Verdicts, after: Verdicts) -> Estimate | None:
    both = [(a, b) for a, b in zip(before, after, strict=True) if isinstance(a, Graded) and isinstance(b, Graded)]
    return percent(wilson(sum(a.grade == b.grade for a, b in both), len(both))) if both else None


def _drift(grades: Mapping[str, str], before: JudgeCard | None) -> Drift | None:
    """What changed since a card of the same gold answers, which is kept at the same path."""
    if before is None:
        return None
    worth = {"g": POINTS[0], "r": POINTS[1], "b": POINTS[2]}
    couples = [
        (old, new)
        for name, letters in grades.items()
        for old, new in zip(before.grades.get(name, ""), letters, strict=False)
        if old in worth and new in worth
    ]
    if not couples:
        return None
    shift = sum(worth[new] - worth[old] for old, new in couples) / len(couples)
    changed = sum(old != new for old, new in couples) / len(couples)
    return Drift(since=before.made_at, n=len(couples), changed=100 * changed, shift=100 * shift)


def _gate(
    instrument: Instrument,
    agreement: Mapping[str, Estimate | None],
    attacks: Mapping[str, Estimate | None],
    worst_answers: Estimate,
    scores: Mapping[str, Estimate | None],
) -> tuple[Check, ...]:
    gate = instrument.gate
    if gate is None:
        return ()
    highs = [rate.high for rate in attacks.values() if rate is not None]
    # An attack without a verdict may be the one that fools the judge.
    worst = max(highs) if highs and len(highs) == len(attacks) else None
    bare = [score for name, score in scores.items() if name in BARE]
    values = [score.value for score in bare if score is not None]
    highest = max(values) if values and len(values) == len(bare) else None

    def at_least(name: str, limit: float) -> Check:
        found = agreement[name]
        low = None if found is None else found.low
        return Check(name=name, limit=limit, value=low, passed=low is not None and low >= limit)

    return (
        at_least("order", gate.min_order),
        at_least("kappa", gate.min_kappa),
        Check(
            name="false_good",
            limit=gate.max_false_good,
            value=worst,
            passed=worst is not None and worst <= gate.max_false_good,
        ),
        # An attack that is always called regular fools a judge too.
        Check(
            name="attack_score",
            limit=worst_answers.high,
            value=highest,
            passed=highest is not None and highest <= worst_answers.high,
        ),
    )
