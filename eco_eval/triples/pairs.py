"""Pairs to triples and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from eco_eval.triples.records import PAIRS, RANKS, Pair, Problem, Rank, Triple, pair_name, without_answers
from eco_eval.types import Prompt

_SHARED = ("group", "variety", "kind", "explicit", "control", "manifestation", "sdg", "speech_register", "origin")


class Imploded(NamedTuple):
    """Complete triples, prompts that lack an answer, and what is to know about either."""

    triples: tuple[Triple, ...]
    incomplete: tuple[Prompt, ...]
    problems: tuple[Problem, ...]


def explode(triples: Iterable[Triple]) -> list[Pair]:
    """Three pairs a triple, in the order of PAIRS, with all its metadata. Linear time."""
    pairs = []
    for triple in triples:
        prompt = without_answers(triple)
        for chosen, rejected in PAIRS:
            pairs.append(
                Pair(
                    prompt=prompt,
                    chosen=triple.answer(chosen),
                    rejected=triple.answer(rejected),
                    chosen_rank=chosen,
                    rejected_rank=rejected,
                    chosen_origin=getattr(triple, f"{chosen}_origin"),
                    rejected_origin=getattr(triple, f"{rejected}_origin"),
                    meta={**triple.meta, **triple.pair_meta.get(pair_name(chosen, rejected), {})},
                )
            )
    return pairs


def implode(pairs: Iterable[Pair]) -> Imploded:
    """One triple a prompt id and language, in order of first appearance. Linear time.

    Ranks that the source does not say are inferred where its pairs leave only one order (three answers, each pair or
    a chain of them); nothing is guessed. `explode` gives complete, consistent pairs back. A prompt is left out when a
    rank has two different answers, its text differs from pair to pair, or an answer is missing; each is reported.
    """
    members: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        members.setdefault((pair.prompt.id, pair.prompt.lang), []).append(pair)
    triples: list[Triple] = []
    incomplete: list[Prompt] = []
    problems: list[Problem] = []
    for (identifier, _), group in members.items():
        fault, ranked = _ranked(group)
        if len({pair.prompt.text for pair in group}) > 1:
            fault = Problem(cause="text_differs", field="text")
        if fault is not None:
            if fault.cause == "incomplete":
                incomplete.append(group[0].prompt)
            problems.append(fault.model_copy(update={"id": identifier}))
            continue
        answers = _answers(ranked)
        missing = [rank for rank in RANKS if rank not in answers]
        if missing:
            incomplete.append(group[0].prompt.model_copy(update={str(rank): text for rank, text in answers.items()}))
            problems.append(Problem(cause="incomplete", id=identifier, detail=", ".join(missing)))
            continue
        triple, notes = _triple(ranked, answers)
        triples.append(triple)
        problems += [note.model_copy(update={"id": identifier, "used": True}) for note in notes]
    return Imploded(tuple(triples), tuple(incomplete), tuple(problems))


def _ranked(group: Sequence[Pair]) -> tuple[Problem | None, list[Pair]]:
    """The pairs of one prompt with a rank on each answer, or what stands against it."""
    if any(pair.chosen_rank is None or pair.rejected_rank is None for pair in group):
        order = _order(group)
        if isinstance(order, Problem):
            return order, []
        ranks = dict(zip(order, RANKS, strict=True))
        inferred = [{"chosen_rank": ranks[pair.chosen], "rejected_rank": ranks[pair.rejected]} for pair in group]
        if any(getattr(p, k) not in (None, v) for p, new in zip(group, inferred, strict=True) for k, v in new.items()):
            return Problem(cause="conflict", detail="ranks"), []
        group = [pair.model_copy(update=new) for pair, new in zip(group, inferred, strict=True)]
    said: dict[Rank, str] = {}
    for pair in group:
        if (pair.chosen_rank, pair.rejected_rank) not in PAIRS:
            return Problem(cause="bad_rank", detail=f"{pair.chosen_rank} > {pair.rejected_rank}"), []
        for rank, text in ((pair.chosen_rank, pair.chosen), (pair.rejected_rank, pair.rejected)):
            if rank is not None and said.setdefault(rank, text) != text:
                return Problem(cause="conflict", field=rank), []
    if len(set(said.values())) < len(said):
        return Problem(cause="same_answer"), []
    return None, list(group)


def _order(group: Sequence[Pair]) -> list[str] | Problem:
    """The three answers from best to worst, if the pairs leave one order only."""
    better: dict[str, set[str]] = {}
    for pair in group:
        better.setdefault(pair.chosen, set())
        better.setdefault(pair.rejected, set()).add(pair.chosen)
    if len(better) > len(RANKS):
        return Problem(cause="conflict", detail=f"{len(better)} answers")
    order: list[str] = []
    while len(order) < len(better):
        free = [text for text, above in better.items() if text not in order and above <= set(order)]
        if len(free) != 1:
            return Problem(cause="incomplete" if free else "cycle", detail="order unknown")
        order += free
    return order if len(order) == len(RANKS) else Problem(cause="incomplete", detail=f"{len(order)} answers")


def _answers(group: Sequence[Pair]) -> dict[Rank, str]:
    answers: dict[Rank, str] = {}
    for pair in group:
        for rank, text in ((pair.chosen_rank, pair.chosen), (pair.rejected_rank, pair.rejected)):
            if rank is not None:
                answers[rank] = text
    return answers


def _triple(group: Sequence[Pair], answers: dict[Rank, str]) -> tuple[Triple, list[Problem]]:
    notes: list[Problem] = []
    metas: dict[str, dict[str, str]] = {}
    origins: dict[str, str] = {}
    for pair in group:
        if pair.chosen_rank is None or pair.rejected_rank is None:
            continue
        name = pair_name(pair.chosen_rank, pair.rejected_rank)
        if name in metas:
            notes.append(Problem(cause="repeated", detail=name))
        metas.setdefault(name, pair.meta)
        for rank, origin in ((pair.chosen_rank, pair.chosen_origin), (pair.rejected_rank, pair.rejected_origin)):
            if origins.setdefault(f"{rank}_origin", origin) != origin:
                notes.append(Problem(cause="field_differs", field=f"{rank}_origin"))
    absent = [pair_name(*names) for names in PAIRS if pair_name(*names) not in metas]
    if absent:
        notes.append(Problem(cause="pair_missing", detail=", ".join(absent)))
    shared = set.intersection(*(set(meta.items()) for meta in metas.values()))
    # Set membership forgets the order of the columns: keep that of the first pair.
    common = {key: value for key, value in group[0].meta.items() if (key, value) in shared}
    rest = {name: {k: v for k, v in meta.items() if k not in common} for name, meta in metas.items()}
    first = group[0].prompt
    notes += [
        Problem(cause="field_differs", field=field)
        for field in (*_SHARED, "codes")
        if any(getattr(pair.prompt, field) != getattr(first, field) for pair in group[1:])
    ]
    fields = {name: getattr(first, name) for name in Prompt.model_fields if name not in RANKS}
    varied = {name: meta for name, meta in rest.items() if meta}
    answered: dict[str, object] = {"codes": _majority(group), **origins, "meta": common, "pair_meta": varied}
    named = {str(rank): text for rank, text in answers.items()}
    triple = Triple.model_validate({**fields, **answered, **named})
    return triple, notes


def _majority(group: Sequence[Pair]) -> tuple[str, ...]:
    """The codes that more than half of the pairs carry, in the order in which they are first named."""
    votes = Counter(code for pair in group for code in pair.prompt.codes)
    return tuple(code for code, count in votes.items() if 2 * count > len(group))
