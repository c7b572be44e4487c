"""What is known of a judge: its measured agreement, what fools it, and whether that is enough to publish."""

from __future__ import annotations

from typing import Literal

from eco_eval import attacks
from eco_eval.errors import StoreError
from eco_eval.instrument import Instrument
from eco_eval.store import Store, read_record
from eco_eval.types import EngineInfo, Estimate, Record, digest


class Bin(Record):
    """One bin of the calibration curve: mean soft grade, mean points deserved, and how many answers."""

    said: float
    deserved: float
    n: int


class Drift(Record):
    """How verdicts on the same gold answers changed since another card.

    changed: share of answers with another grade. shift: mean change in points, 0 to 100.
    """

    since: str
    n: int
    changed: float
    shift: float


class Check(Record):
    """One demand of the instrument's gate, and whether the judge meets it with the worse end of its interval."""

    name: str
    limit: float
    value: float | None
    passed: bool


class JudgeCard(Record):
    """An audit of a judge. Shares are on 0 to 100, coefficients on −1 to 1.

    confusion: counts, rows the grade an answer's role suggests (good, regular, bad), columns the grade given.
    agreement: `order` (P(best > worst), ties ½), `strict` (whole triples in order), `exact`, `kappa` (quadratic
        weights), `alpha` (ordinal Krippendorff), `ac2` (Gwet); None where a coefficient is undefined.
    baselines: by way (`constant`, `length`, `eco_words`), the same `exact` and `order` for something that cannot read.
    worst: the eco score of the true worst answers: no attack should score above its interval.
    parts: `order` by code, kind, variety and length of the best answer.
    attacks: share of answers called good, by attack, with Wilson's interval; every one of them should be 0, and None
        where no answer has a verdict.
    scores: eco score of each attack's answers, likewise None without verdicts.
    kept: share of answers whose grade stayed, for attacks that should change nothing.
    grades: by triple, the letters of the grades given to best, ambivalent and worst (`g`, `r`, `b`; `-` for none).
    """

    instrument: str
    judge: EngineInfo | None
    revision: str
    stand_in: bool
    judging_digest: str
    gold_digest: str
    made_at: str
    triples: int
    ungraded: int
    confusion: tuple[tuple[int, int, int], ...]
    agreement: dict[str, Estimate | None]
    baselines: dict[str, dict[str, Estimate]]
    parts: dict[str, dict[str, Estimate]]
    calibration: tuple[Bin, ...]
    calibration_error: float | None
    worst: Estimate
    attacks: dict[str, Estimate | None]
    scores: dict[str, Estimate | None]
    kept: dict[str, Estimate]
    grades: dict[str, str]
    drift: Drift | None
    gate: tuple[Check, ...]
    verdict: Literal["passed", "failed", "no_gate"]

    def is_fooled_by(self, attack: str) -> bool:
        """Whether an attack scores above the interval of the true worst answers, or has no score to show otherwise."""
        score = self.scores[attack]
        return score is None or score.value > self.worst.high


def gold_digest(instrument: Instrument) -> str:
    """What a judge is audited with: the gold triples and the attack battery."""
    gold = [[p.id, p.text, p.best, p.ambivalent, p.worst] for p in instrument.gold]
    return digest([gold, attacks.FILE.read_text(encoding="utf-8"), [attack.name for attack in attacks.ATTACKS]])


def card_path(instrument: Instrument) -> str:
    """Where the card of an instrument's judge is kept: by what a verdict depends on, and what it was audited with."""
    return f"audits/judges/{instrument.judging_digest[:16]}-{gold_digest(instrument)[:8]}.json"


def read_card(instrument: Instrument, store: Store) -> JudgeCard | None:
    """The card of the instrument's judge at exactly these weights, rubric and gold, if it was audited.

    Raises:
        StoreError: it is there and cannot be read.
    """
    return read_record(store, card_path(instrument), JudgeCard)


def is_cleared(instrument: Instrument, store: Store) -> bool:
    """Whether every judge was audited as it is and met this instrument's gate: another may demand less."""
    return all(_is_seat_cleared(seat, store) for seat in instrument.seats)


def _is_seat_cleared(instrument: Instrument, store: Store) -> bool:
    try:
        card, gate = read_card(instrument, store), instrument.gate
    except StoreError:  # one that cannot be read clears nobody, and stops no evaluation either
        return False
    if card is None or gate is None:
        return False
    limits = {"order": gate.min_order, "kappa": gate.min_kappa, "false_good": gate.max_false_good}
    checks = {check.name: check.limit for check in card.gate}
    return (
        card.verdict == "passed" and {name: checks.get(name) for name in limits} == limits and "attack_score" in checks
    )
