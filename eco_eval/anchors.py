"""Answers whose worth is known beforehand: what a judge is seen against."""

from __future__ import annotations

from eco_eval.instrument import Instrument
from eco_eval.judging import Sheet
from eco_eval.types import Answer, Prompt, digest


def anchor_sheets(instrument: Instrument) -> list[Sheet]:
    """Answers whose grade is known beforehand, for the judge to be seen against: gold and constant."""
    sheets = []
    triples = tuple(p for p in instrument.gold if p.best and p.ambivalent and p.worst)
    for role in ("best", "ambivalent", "worst"):
        if triples:
            answers = tuple(Answer(prompt_id=p.id, prompt=p.text, text=getattr(p, role)) for p in triples)
            sheets.append(_anchor(role, instrument.base, triples, answers))
    constant = instrument.rubric.phrases[instrument.lang].constant
    same = tuple(Answer(prompt_id=p.id, prompt=p.text, text=constant) for p in instrument.asked)
    sheets.append(_anchor("constant", instrument, instrument.asked, same))
    return sheets


def _anchor(role: str, instrument: Instrument, prompts: tuple[Prompt, ...], answers: tuple[Answer, ...]) -> Sheet:
    key = digest([instrument.asked_digest, [a.text for a in answers]])[:40]
    return Sheet(model=f"anchor-{role}", key=key, prompts=prompts, answers=answers)
