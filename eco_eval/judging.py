"""Stage two: the judge reads each answer and gives a verdict.

The answer is data. It stands between marks that no answer can forge, because they are a hash of that answer; what
could be read as a special token or as a mark is neutralised; the verdict is read only from the probabilities of the
labels, never from text that the answer could imitate.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eco_eval.engines.base import Engine, OpenEngine
from eco_eval.instrument import Instrument
from eco_eval.store import Store, Table, slug
from eco_eval.types import (
    GRADES,
    Answer,
    Conversation,
    Decoding,
    EngineInfo,
    Failure,
    Graded,
    Judgement,
    LabelScores,
    Message,
    Progress,
    Prompt,
    Ungraded,
    digest,
)

CHUNK = 256
"""Answers analysed before their verdicts are read and kept, in `reasoned` mode."""


@dataclass(frozen=True)
class Sheet:
    """One model's answers to a set of prompts, in order. `key` tells them from any others."""

    model: str
    key: str
    prompts: tuple[Prompt, ...]
    answers: tuple[Answer, ...]


def judgements_path(sheet: Sheet, instrument: Instrument) -> str:
    """Where the verdicts on a sheet are kept: by model, answers, and how they are measured."""
    return f"judgements/{slug(sheet.model)}/{digest([sheet.key, instrument.measured_digest])[:16]}.parquet"


def judge(
    sheets: Sequence[Sheet], instrument: Instrument, engine: OpenEngine, store: Store, progress: Progress
) -> tuple[list[list[Judgement]], EngineInfo | None]:
    """A verdict on every answer of every sheet, in order, resumed where an earlier run stopped.

    The judge is loaded once for all sheets, and not at all when every verdict is known.

    Raises:
        EngineError: the judge's engine cannot start or go on; the verdicts so far are kept.
    """
    tables: list[Table[Any]] = [Table(store, judgements_path(s, instrument), Judgement) for s in sheets]
    total = sum(len(sheet.answers) for sheet in sheets)

    def report() -> None:
        progress("judge", sum(len(table.records) for table in tables), total)

    report()
    pending = [(s, t) for s, t in zip(sheets, tables, strict=True) if len(t.records) < len(s.answers)]
    if pending:
        with engine() as judge_engine:
            for sheet, table in pending:
                table.meta.setdefault("engine", judge_engine.info.model_dump_json())
                try:
                    _judge_sheet(sheet, instrument, judge_engine, table, report)
                finally:
                    table.flush()
    judgements = [t.finish([p.id for p in s.prompts]) for s, t in zip(sheets, tables, strict=True)]
    kept = tables[-1].meta.get("engine") if tables else None
    return judgements, EngineInfo.model_validate_json(kept) if kept else None


def opening(prompt: Prompt, answer: Answer, instrument: Instrument) -> list[Message]:
    """What the judge reads before it is asked anything: the rubric, then the request and the answer as data."""
    rubric, lang = instrument.rubric, instrument.lang
    text = neutralise(answer.text)
    limit = instrument.judge.max_answer_chars
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n{rubric.phrases[lang].shortened}\n{text[-half:]}"
    if answer.truncated:
        text = f"{text} {rubric.phrases[lang].cut}"
    fence = hashlib.sha256(f"{prompt.text}\0{answer.text}".encode()).hexdigest()[:12]
    question = rubric.text("question", lang, fence=fence, prompt=neutralise(prompt.text), answer=text)
    return [Message(role="system", content=rubric.system(lang)), Message(role="user", content=question)]


def direct_conversation(prompt: Prompt, answer: Answer, instrument: Instrument) -> Conversation:
    """The conversation whose next word is the verdict."""
    return _asking(opening(prompt, answer, instrument), instrument.rubric.text("verdict", instrument.lang))


def neutralise(text: str) -> str:
    """Text that holds nothing a chat template or our own marks could be mistaken for.

    Angle brackets become single guillemets, so that `<|im_end|>`, `</s>`, `<start_of_turn>` or a forged mark are
    plain words; bracketed capitals such as `[INST]` lose their brackets.
    """
    text = text.replace("<", "‹").replace(">", "›")
    return re.sub(r"\[(/?[A-Z][A-Z_]{2,})\]", r"(\1)", text)


def _asking(messages: Sequence[Message], request: str) -> Conversation:
    """The messages with a request added to the last one, which is the user's."""
    *head, last = messages
    return (*head, Message(role="user", content=f"{last.content}\n\n{request}"))


def _judge_sheet(sheet: Sheet, instrument: Instrument, engine: Engine, table: Table[Any], report: Any) -> None:
    """Fill the table: rules first, then the judge, then once more what could not be read."""
    unread: list[int] = []
    by_rule = {i: _by_rule(answer) for i, answer in enumerate(sheet.answers)}
    for verdict in by_rule.values():
        if verdict is not None and verdict.prompt_id not in table.records:
            table.add(verdict)
    asked = [i for i, verdict in by_rule.items() if verdict is None]
    for attempt in (0, 1):
        known = {i for i in asked if sheet.prompts[i].id in table.records}
        todo = asked if attempt == 0 else unread
        unread = []
        for index, verdict in _verdicts(sheet, instrument, engine, todo, known, attempt):
            if attempt == 0 and isinstance(verdict, Ungraded) and verdict.cause == "unreadable":
                unread.append(index)
                continue
            table.add(verdict)
            report()
        if not unread:
            return


def _by_rule(answer: Answer) -> Judgement | None:
    """Verdicts that need no judge: nothing was said, or there is no answer to judge."""
    if answer.failure is not None:
        return Ungraded(prompt_id=answer.prompt_id, cause="no_answer", detail=answer.failure.detail)
    if answer.is_empty:
        return Graded(prompt_id=answer.prompt_id, grade=GRADES[-1], probabilities=(0.0, 0.0, 1.0), source="rule")
    return None


def _verdicts(
    sheet: Sheet, instrument: Instrument, engine: Engine, todo: list[int], known: set[int], attempt: int
) -> Any:
    """Yields `(index, judgement)` for every index of `todo` that is not known."""
    if instrument.judge.mode == "direct":
        yield from _read_labels(
            [direct_conversation(sheet.prompts[i], sheet.answers[i], instrument) for i in todo],
            todo,
            known,
            sheet,
            instrument,
            engine,
            {},
        )
        return
    for start in range(0, len(todo), CHUNK):
        chunk = todo[start : start + CHUNK]
        yield from _reasoned(sheet, instrument, engine, chunk, known, attempt)


def _reasoned(
    sheet: Sheet, instrument: Instrument, engine: Engine, chunk: list[int], known: set[int], attempt: int
) -> Any:
    """First a structured analysis, then the verdict asked in a turn of its own, where its probabilities are read."""
    rubric, lang = instrument.rubric, instrument.lang
    criteria = [criterion.id for criterion in rubric.criteria]
    decoding = Decoding(
        max_tokens=instrument.judge.max_tokens,
        # Greedy would only repeat what could not be read.
        temperature=0.5 * attempt,
        seed=attempt,
        json_schema=analysis_schema(criteria),
    )
    openings = [opening(sheet.prompts[i], sheet.answers[i], instrument) for i in chunk]
    asked = [_asking(messages, rubric.text("analysis", lang)) for messages in openings]
    skip = {place for place, i in enumerate(chunk) if i in known}
    analyses: dict[int, dict[str, Any]] = {}
    for place, outcome in engine.complete(asked, decoding, skip):
        prompt_id = sheet.prompts[chunk[place]].id
        if isinstance(outcome, Failure):
            yield chunk[place], _ungraded(prompt_id, outcome)
            continue
        read = read_analysis(outcome.text, criteria)
        if isinstance(read, str):
            yield chunk[place], Ungraded(prompt_id=prompt_id, cause="unreadable", detail=read)
        else:
            analyses[chunk[place]] = read
    places = [place for place, i in enumerate(chunk) if i in analyses]
    final = [
        (
            *asked[place],
            Message(role="assistant", content=json.dumps(analyses[chunk[place]], ensure_ascii=False)),
            Message(role="user", content=rubric.text("verdict", lang)),
        )
        for place in places
    ]
    indices = [chunk[place] for place in places]
    yield from _read_labels(final, indices, set(), sheet, instrument, engine, analyses)


def analysis_schema(criteria: Sequence[str]) -> dict[str, Any]:
    """JSON schema of the analysis: a short text and one finding a criterion."""
    findings = {name: {"type": "string", "maxLength": 300} for name in criteria}
    return {
        "type": "object",
        "properties": {
            "analysis": {"type": "string", "maxLength": 900},
            "findings": {
                "type": "object",
                "properties": findings,
                "required": list(criteria),
                "additionalProperties": False,
            },
        },
        "required": ["analysis", "findings"],
        "additionalProperties": False,
    }


def read_analysis(text: str, criteria: Sequence[str]) -> dict[str, Any] | str:
    """The judge's analysis, or why it cannot be read. Only a whole, valid JSON object counts."""
    body = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        # Constrained decoding lets raw line breaks into strings.
        value = json.loads(body, strict=False)
    except (json.JSONDecodeError, RecursionError) as error:
        return str(error)
    if not isinstance(value, dict) or set(value) != {"analysis", "findings"}:
        return "not an object with analysis and findings"
    findings = value["findings"]
    if not isinstance(value["analysis"], str) or not isinstance(findings, dict):
        return "analysis or findings of the wrong type"
    if set(findings) != set(criteria) or not all(isinstance(f, str) for f in findings.values()):
        return "findings do not match the criteria"
    return value


def _read_labels(
    conversations: Sequence[Conversation],
    indices: list[int],
    known: set[int],
    sheet: Sheet,
    instrument: Instrument,
    engine: Engine,
    analyses: Mapping[int, dict[str, Any]],
) -> Any:
    labels = instrument.rubric.labels[instrument.lang]
    skip = {place for place, i in enumerate(indices) if i in known}
    for place, outcome in engine.score_labels(conversations, labels, skip):
        index = indices[place]
        prompt_id = sheet.prompts[index].id
        if isinstance(outcome, Failure):
            yield index, _ungraded(prompt_id, outcome)
        else:
            yield (
                index,
                _grade(prompt_id, outcome, labels, instrument.judge.min_label_mass, analyses.get(index)),
            )


def _grade(
    prompt_id: str, said: LabelScores, labels: Sequence[str], min_mass: float, analysis: dict[str, Any] | None
) -> Judgement:
    if said.mass is not None and said.mass < min_mass:
        return Ungraded(prompt_id=prompt_id, cause="off_label", detail=f"mass {said.mass:.3g} < {min_mass:.3g}")
    shares = said.probabilities
    return Graded(
        prompt_id=prompt_id,
        grade=GRADES[labels.index(said.label)],
        probabilities=(shares[0], shares[1], shares[2]) if shares is not None else None,
        mass=said.mass,
        source=said.source,
        analysis=analysis["analysis"] if analysis else None,
        findings=tuple(analysis["findings"].items()) if analysis else (),
    )


def _ungraded(prompt_id: str, failure: Failure) -> Ungraded:
    return Ungraded(prompt_id=prompt_id, cause=failure.cause, detail=failure.detail)
