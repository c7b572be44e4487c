"""What people decide about triples: kept one by one, applied when the set is next written."""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from eco_eval.errors import DataError, StoreError
from eco_eval.rows import read_rows
from eco_eval.stats import weighted_kappa
from eco_eval.triples.records import PAIRS, RANKS, Problem, Rank, Triple, pair_name
from eco_eval.types import Record, digest

Action = Literal["confirm", "reorder", "reject"]


class Decision(Record):
    """What one person decided about one triple.

    of: digest of the texts that were seen, so that a decision never counts for other texts.
    order: the answers by the rank they had, from best to worst as this person sees them.
    edits: new texts, by `text` or the rank an answer had.
    at: UTC, ISO 8601.
    """

    id: str
    of: str
    by: str = Field(min_length=1)
    at: str
    action: Action
    order: tuple[Rank, ...] = RANKS
    edits: dict[Literal["text", "best", "ambivalent", "worst"], str] = Field(default_factory=dict)
    reason: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Decision:
        if sorted(self.order) != sorted(RANKS):
            raise ValueError("the order names each rank once")
        if self.action == "reject" and not self.reason.strip():
            raise ValueError("a rejection needs a reason")
        if (self.action == "reorder") == (self.order == RANKS) and self.action != "reject":
            raise ValueError("the order and the action disagree")
        return self


class Agreement(NamedTuple):
    """How two people agree: quadratic-weighted κ of the ranks they give, over the triples that both ordered."""

    first: str
    second: str
    triples: int
    same_order: float
    kappa: float


def seen(triple: Triple) -> str:
    """Digest of what a person sees of a triple."""
    return digest([triple.text, *(triple.answer(rank) for rank in RANKS)])[:16]


def decide(
    triple: Triple,
    by: str,
    *,
    order: Sequence[Rank] = RANKS,
    edits: Mapping[str, str] | None = None,
    reject: bool = False,
    reason: str = "",
) -> Decision:
    """A decision about a triple, now. Edits that change nothing are left out.

    Raises:
        ValidationError: no name, an order that is none, or a rejection without a reason.
    """
    texts = {"text": triple.text, "best": triple.best, "ambivalent": triple.ambivalent, "worst": triple.worst}
    changed = {
        name: text.strip() for name, text in (edits or {}).items() if text.strip() not in ("", texts[name].strip())
    }
    action: Action = "reject" if reject else "reorder" if tuple(order) != RANKS else "confirm"
    values = {"id": triple.id, "of": seen(triple), "by": by.strip(), "action": action, "reason": reason.strip()}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return Decision.model_validate({**values, "at": when, "order": tuple(order), "edits": changed})


def append(decision: Decision, log: Path) -> None:
    """Add a decision to the log, on disk before this returns. Several people may write at once.

    Raises:
        StoreError: the log cannot be written.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab+") as out:
            fcntl.flock(out, fcntl.LOCK_EX)
            # An editor, or a full disk, may have left the last line open.
            if out.seek(0, os.SEEK_END):
                out.seek(-1, os.SEEK_END)
                out.write(b"" if out.read(1) == b"\n" else b"\n")
            out.write(decision.model_dump_json(exclude_defaults=True).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise StoreError("store.unwritable", path=log, reason=error.strerror or error) from error


def read_decisions(log: Path) -> list[Decision]:
    """Every decision of a log, oldest first; none where there is no log yet.

    Raises:
        DataError: names the line and the field; or its suffix is of another form than JSON lines.
    """
    if log.suffix.lower() in (".csv", ".tsv", ".parquet"):
        raise DataError("data.unknown_form", file=log, known=".jsonl")
    if not log.exists():
        return []
    found = []
    for row in read_rows(log):
        try:
            found.append(Decision.model_validate(row.cells))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise DataError("data.bad_field", file=log, line=row.line, field=field, reason=first["msg"]) from error
    return found


def latest(decisions: Iterable[Decision]) -> dict[tuple[str, str], Decision]:
    """The last decision of each person about each text, by person and by what they saw."""
    return {(decision.by, decision.of): decision for decision in decisions}


def apply_decisions(triples: Sequence[Triple], decisions: Sequence[Decision]) -> tuple[list[Triple], list[Problem]]:
    """The triples as people decided: order and texts corrected, `verified_by` filled, rejected ones left out.

    The last word of each person counts. People who do not agree on the order of a triple leave it unverified and as
    it was, and so do edits that differ or make two answers the same; all are reported, as are decisions about texts
    that are not there any more.
    Who edits a text has verified the new one.
    """
    by_text: dict[str, list[Decision]] = {}
    for decision in latest(decisions).values():
        by_text.setdefault(decision.of, []).append(decision)
    problems: list[Problem] = []
    kept: list[Triple] = []
    known = set()
    for triple in triples:
        known.add(seen(triple))
        about = by_text.get(seen(triple), [])
        rejected = [decision for decision in about if decision.action == "reject"]
        orders = {decision.order for decision in about if decision.action != "reject"}
        edits = {tuple(sorted(decision.edits.items())) for decision in about if decision.edits}
        if rejected:
            reasons = "; ".join(f"{decision.by}: {decision.reason}" for decision in rejected)
            problems.append(Problem(cause="rejected", id=triple.id, detail=reasons))
        elif len(orders) > 1 or len(edits) > 1:
            people = ", ".join(sorted(decision.by for decision in about))
            problems.append(Problem(cause="conflict", id=triple.id, used=True, detail=people))
            kept.append(triple)
        else:
            decided = _decided(triple, about) if about else triple
            if about and len({decided.answer(rank) for rank in RANKS}) < len(RANKS):
                problems.append(Problem(cause="same_answer", id=triple.id, used=True))
                decided = triple
            kept.append(decided)
    problems += [
        Problem(cause="stale", id=decision.id, detail=f"{decision.by}, {decision.at}")
        for of, about in by_text.items()
        if of not in known
        for decision in about
    ]
    return kept, problems


def _decided(triple: Triple, about: Sequence[Decision]) -> Triple:
    edits: dict[str, str] = {name: text for decision in about for name, text in decision.edits.items()}
    texts = {rank: edits.get(rank, triple.answer(rank)) for rank in RANKS}
    origins = {rank: getattr(triple, f"{rank}_origin") for rank in RANKS}
    moved = dict(zip(RANKS, about[0].order, strict=True))
    now = {source: rank for rank, source in moved.items()}
    # Who saw the text before an edit has not verified what it became.
    sure = [decision.by for decision in about if not edits or decision.edits]
    return triple.model_copy(
        update={
            "text": edits.get("text", triple.text),
            **{str(rank): texts[source] for rank, source in moved.items()},
            **{f"{rank}_origin": origins[source] for rank, source in moved.items()},
            "pair_meta": {
                pair_name(*sorted((now[one], now[other]), key=RANKS.index)): triple.pair_meta[pair_name(one, other)]
                for one, other in PAIRS
                if pair_name(one, other) in triple.pair_meta
            },
            "verified_by": tuple(dict.fromkeys((*(() if edits else triple.verified_by), *sure))),
        }
    )


def agreement(decisions: Iterable[Decision]) -> list[Agreement]:
    """How each two people agree on the order of what both saw and neither rejected.

    Each triple gives three observations, one an answer: the rank either person gives it (0 best to 2 worst).
    """
    orders: dict[str, dict[str, tuple[Rank, ...]]] = {}
    for decision in latest(decisions).values():
        if decision.action != "reject":
            orders.setdefault(decision.by, {})[decision.of] = decision.order
    found = []
    for first, second in itertools.combinations(sorted(orders), 2):
        shared = sorted(orders[first].keys() & orders[second].keys())
        if not shared:
            continue
        couples = [(orders[first][of], orders[second][of]) for of in shared]
        ranks = [(one.index(rank), other.index(rank)) for one, other in couples for rank in RANKS]
        same = sum(one == other for one, other in couples) / len(couples)
        kappa = weighted_kappa([a for a, _ in ranks], [b for _, b in ranks])
        found.append(Agreement(first, second, len(shared), same, kappa))
    return found
