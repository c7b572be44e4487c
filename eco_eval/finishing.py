"""A run's answers and verdicts become a result, with everything that made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from eco_eval import __version__, scoring
from eco_eval.answering import answers_path
from eco_eval.candidates import declared
from eco_eval.contamination import declared_training, hidden_gap, overlaps
from eco_eval.corrections import ROLES, GoldVerdicts
from eco_eval.instrument import Instrument
from eco_eval.judging import Sheet, letter
from eco_eval.lineage import same_family
from eco_eval.readings import Marked, marked
from eco_eval.types import (
    Agreement,
    Contamination,
    Declared,
    Energy,
    EngineInfo,
    Estimate,
    Judgement,
    ModelRef,
    Prompt,
    Provenance,
    Result,
    Seat,
    Submission,
    Weights,
    digest,
)

LIBRARIES = ("numpy", "scipy", "torch", "transformers")
"""Whose versions are recorded: they make the numbers that run in this process."""


@dataclass(frozen=True)
class Spent:
    """Seconds and energy of a run by stage."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    energy: Mapping[str, Energy] = field(default_factory=dict)

    def or_before(self, kept: Provenance | None) -> Spent:
        """Of a stage whose work was kept, what it took when it was done."""
        if kept is None:
            return self
        longer = {stage for stage, spent in kept.seconds.items() if spent > self.seconds.get(stage, 0.0)}
        energy = {stage: drawn for stage, drawn in self.energy.items() if stage not in longer}
        return Spent(
            {**self.seconds, **{stage: kept.seconds[stage] for stage in longer}},
            {**energy, **{stage: kept.energy[stage] for stage in longer if stage in kept.energy}},
        )


def provenance(candidate: EngineInfo | None, spent: Spent, audits: Mapping[str, float]) -> Provenance:
    """What makes a score here and now.

    Args:
        audits: people's points, 0 to 1, by prompt id.
    """
    return Provenance(
        eco_eval=__version__,
        candidate=candidate,
        seconds=dict(spent.seconds),
        energy=dict(spent.energy),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        libraries=dict(_installed()),
        audited=len(audits),
        audits=digest(dict(audits)) if audits else "",
    )


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    found = []
    for name in LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)


@dataclass(frozen=True)
class Judged:
    """One judge's verdicts on every sheet of a run, and the places they are kept at."""

    instrument: Instrument
    verdicts: list[list[Judgement]]
    places: list[str]
    engine: EngineInfo | None
    agreement: Agreement | None


@dataclass(frozen=True)
class About:
    """What is known of a candidate beside its answers and their verdicts.

    What it declares of its origin, what it weighs, its answers to hidden prompts with their verdicts, people's points,
    0 to 1, of its answers by prompt id, and the gap to hidden prompts that was found before, for when they are not
    asked.
    """

    declared: Declared = field(default_factory=Declared)
    weights: Weights | None = None
    hidden: tuple[Marked, ...] = ()
    audits: Mapping[str, float] = field(default_factory=dict)
    hidden_gap: Estimate | None = None


@dataclass(frozen=True)
class RunContext:
    """What all results of one run share. `seats` have the verdicts on all its sheets."""

    instrument: Instrument
    seats: Sequence[Judged]
    judges: Sequence[ModelRef]
    cleared: bool
    spent: Spent

    @property
    def gold(self) -> GoldVerdicts | None:
        """The verdicts on gold triples, where the instrument has any."""
        if len(self.seats[0].verdicts) < len(ROLES) + 2:
            return None
        triples = [p for p in self.instrument.gold if p.best and p.ambivalent and p.worst]
        return GoldVerdicts(triples, [[seat.verdicts[role] for seat in self.seats] for role in range(len(ROLES))])

    def result(
        self, subject: Submission, sheet: Sheet, number: int, candidate: EngineInfo | None, about: About
    ) -> Result:
        """The result of one sheet, the `number`-th of each seat's verdicts."""
        verdicts = [seat.verdicts[number] for seat in self.seats]
        is_anchor = subject.model.source == "anchor"
        limit = self.instrument.score.max_ungraded
        score = scoring.score(sheet.prompts, sheet.answers, verdicts, limit, self.gold, about.audits)
        alone = scoring.scores_by_judge(sheet.prompts, sheet.answers, verdicts)
        return Result(
            id=subject.id,
            submission=subject,
            score=score,
            seats=tuple(
                self._seat(seat, number, alone[place], None if is_anchor else self._kinship(place, subject, about))
                for place, seat in enumerate(self.seats)
            ),
            consensus=scoring.consensus(sheet.prompts, verdicts),
            groups=_group_numbers(sheet.prompts),
            words=tuple(len(answer.text.split()) for answer in sheet.answers),
            weights=about.weights,
            declared=about.declared,
            contamination=Contamination() if is_anchor else self._contamination(sheet, verdicts, about),
            # Only weights on the Hub can be fetched and checked by others.
            publishable=self.cleared and self.instrument.publishable and subject.model.source == "hub",
            is_anchor=is_anchor,
            attribution=self.instrument.attribution,
            answers_path=answers_path(subject),
            provenance=provenance(candidate, self.spent, about.audits),
        )

    def _kinship(self, place: int, subject: Submission, about: About) -> str | None:
        """The evidence that the candidate and a judge are of one family."""
        ref = self.judges[place] if self.judges else None
        name = ref.name if ref else self.seats[place].instrument.judge.model
        return same_family(subject.model.name, about.declared, name, declared(ref) if ref else Declared())

    def _contamination(self, sheet: Sheet, verdicts: Sequence[Sequence[Judgement]], about: About) -> Contamination:
        seen = marked(sheet.prompts, sheet.answers, verdicts)
        return Contamination(
            overlap=overlaps(sheet.prompts, sheet.answers),
            declared=declared_training(about.declared.datasets, self.instrument.origins),
            hidden_gap=hidden_gap(seen, about.hidden) or about.hidden_gap,
        )

    def _seat(self, seat: Judged, number: int, eco: Estimate, same_family: str | None) -> Seat:
        judge = seat.instrument.judge
        return Seat(
            name=judge.model,
            revision=seat.instrument.judge_revision,
            stand_in=judge.stand_in,
            engine=seat.engine,
            eco=eco,
            agreement=seat.agreement,
            same_family=same_family,
            grades="".join(letter(verdict) for verdict in seat.verdicts[number]),
            judgements_path=seat.places[number],
        )


def _group_numbers(prompts: Sequence[Prompt]) -> tuple[int, ...]:
    numbers: dict[str, int] = {}
    return tuple(-1 if p.control else numbers.setdefault(p.group, len(numbers)) for p in prompts)
