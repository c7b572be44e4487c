"""Stage two: the judge reads each answer and gives a verdict.

The answer is data. It stands between marks that no answer can forge, because they are a hash of that answer; what
could be read as a special token or as a mark is neutralised; the verdict is read only from the probabilities of the
labels, never from text that the answer could imitate.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eco_eval.engines.base import Engine, OpenEngine
from eco_eval.instrument import Instrument
from eco_eval.store import Store, Table, slug
from eco_eval.types import (
    GRADES,
    Analysis,
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


@dataclass(frozen=True)
class Sheet:
    """One model's answers to a set of prompts, in order. `key` tells them from any others."""

    model: str
    key: str
    prompts: tuple[Prompt, ...]
    answers: tuple[Answer, ...]


def judgements_path(sheet: Sheet, instrument: Instrument) -> str:
    """Where the verdicts on a sheet are kept: by model, answers, and how they are measured."""
    return f"judgements/{slug(sheet.model)}/{digest([sheet.key, instrument.judging_digest])[:16]}.parquet"


def letter(verdict: Judgement) -> str:
    """A verdict as one letter: `g`, `r`, `b`, or `-` for none."""
    return verdict.grade.value[0] if isinstance(verdict, Graded) else "-"


def judge(
    sheets: Sequence[Sheet],
    places: Sequence[str],
    instrument: Instrument,
    engine: OpenEngine,
    store: Store,
    progress: Progress,
) -> tuple[list[list[Judgement]], EngineInfo | None]:
    """A verdict on every answer of every sheet, in order, resumed where an earlier run stopped.

    The judge is loaded once for all sheets, and not at all when every verdict is known. Verdicts that an earlier run
    could not get are asked for again.

    Args:
        places: where the verdicts on each sheet are kept, `judgements_path` as a rule.

    Raises:
        EngineError: the judge's engine cannot start or go on; the verdicts so far are kept.
    """

    def opened() -> list[Table[Any]]:
        found: list[Table[Any]] = [Table(store, place, Judgement) for place in places]
        for table in found:
            table.drop(lambda verdict: isinstance(verdict, Ungraded) and verdict.cause != "no_answer")
        return found

    def pending() -> list[int]:
        return [i for i, sheet in enumerate(sheets) if len(tables[i].records) < len(sheet.answers)]

    def report() -> None:
        progress("judge", sum(len(table.records) for table in tables), sum(len(sheet.answers) for sheet in sheets))

    tables = opened()
    report()
    if pending():
        with engine() as judge_engine:
            # While this run waited for the judge, another may have had the same sheets judged.
            tables = opened()
            for i in pending():
                table = tables[i]
                table.meta.setdefault("engine", judge_engine.info.model_dump_json())
                analyses = f"{places[i].removesuffix('.parquet')}.analyses"
                session = _Session(sheets[i], instrument, judge_engine, store, analyses, progress)
                try:
                    _judge_sheet(session, table, report)
                finally:
                    table.flush()
    judgements = [t.finish([p.id for p in s.prompts]) for s, t in zip(sheets, tables, strict=True)]
    for place in places:
        for leftover in store.list(f"{place.removesuffix('.parquet')}.analyses"):
            store.delete(leftover)
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
    fence = hashlib.sha256(f"{prompt.text}\0{answer.text}".encode("utf-8", "replace")).hexdigest()[:12]
    question = rubric.text("question", lang, fence=fence, prompt=neutralise(prompt.text), answer=text)
    if answer.truncated:
        # Outside the marks, where no answer can write it.
        question = f"{question}\n\n{rubric.phrases[lang].cut}"
    return [Message(role="system", content=rubric.system(lang)), Message(role="user", content=question)]


def direct_conversation(prompt: Prompt, answer: Answer, instrument: Instrument) -> Conversation:
    """The conversation whose next word is the verdict."""
    return _asking(opening(prompt, answer, instrument), instrument.rubric.text("verdict", instrument.lang))


def neutralise(text: str) -> str:
    """Text that holds nothing a chat template or our own marks could be mistaken for.

    Angle brackets become single guillemets, so that `<|im_end|>`, `</s>`, `<start_of_turn>` or a forged mark are
    plain words; bracketed capitals such as `[INST]` or `[gMASK]`, and brackets beside a bar or a tilde, become round;
    `### ` at the start of a line, which opens a turn in the Alpaca format, loses one mark.
    """
    text = text.replace("<", "‹").replace(">", "›")
    text = re.sub(r"\[(/?\w*[A-Z]{2}\w*)\]", r"(\1)", text)
    text = re.sub(r"\[(?=[|~])", "(", text)
    text = re.sub(r"(?<=[|~])\]|\](?=[|~])", ")", text)
    return re.sub(r"(?m)^(\s*)###(?=\s)", r"\1##", text)


def _asking(messages: Sequence[Message], request: str) -> Conversation:
    """The messages with a request added to the last one, which is the user's."""
    *head, last = messages
    return (*head, Message(role="user", content=f"{last.content}\n\n{request}"))


@dataclass(frozen=True)
class _Session:
    """One sheet before an open judge."""

    sheet: Sheet
    instrument: Instrument
    engine: Engine
    store: Store
    analyses: str
    progress: Progress


def _judge_sheet(session: _Session, table: Table[Any], report: Any) -> None:
    """Fill the table: rules first, then the judge, then once more what could not be read."""
    sheet = session.sheet
    by_rule = {i: _by_rule(answer) for i, answer in enumerate(sheet.answers)}
    for verdict in by_rule.values():
        if verdict is not None and verdict.prompt_id not in table.records:
            table.add(verdict)
    asked = [i for i, verdict in by_rule.items() if verdict is None]
    analyses: dict[int, dict[str, Any]] = {}
    if session.instrument.judge.mode == "reasoned":
        analyses, failed = _analyse(session, asked)
        for verdict in failed:
            table.add(verdict)
        asked = [i for i in asked if i in analyses]
    known = {i for i in asked if sheet.prompts[i].id in table.records}
    unread = []
    for index, verdict in _read_labels(session, asked, known, analyses):
        if isinstance(verdict, Ungraded) and verdict.cause == "unreadable":
            unread.append(index)
            continue
        table.add(verdict)
        report()
    for _, verdict in _read_labels(session, sorted(unread), set(), analyses):
        table.add(verdict)
        report()


def _by_rule(answer: Answer) -> Judgement | None:
    """Verdicts that need no judge.

    An answer that says nothing is bad, and so is one that the model itself could not give: its context is too short
    or its chat template fails. One that a server refused is nobody's fault and has no verdict.
    """
    if answer.failure is not None and answer.failure.cause not in ("too_long", "template"):
        return Ungraded(prompt_id=answer.prompt_id, cause="no_answer", detail=answer.failure.detail)
    if answer.failure is not None or answer.is_empty:
        return Graded(prompt_id=answer.prompt_id, grade=GRADES[-1], probabilities=(0.0, 0.0, 1.0), source="rule")
    return None


def _analyse(session: _Session, asked: list[int]) -> tuple[dict[int, dict[str, Any]], list[Ungraded]]:
    """A structured analysis of each answer, asked for at most twice; and the answers that have none.

    Analyses are the costly part of a reasoned verdict, so they are kept as they come, each attempt in a table of its
    own until the sheet is judged.
    """
    sheet, instrument = session.sheet, session.instrument
    criteria = [criterion.id for criterion in instrument.rubric.criteria]
    found: dict[int, dict[str, Any]] = {}
    failed: dict[int, Ungraded] = {}
    todo = asked
    for attempt in (0, 1):
        table: Table[Analysis] = Table(session.store, f"{session.analyses}-{attempt}.parquet", Analysis)
        _fill_analyses(session, todo, attempt, table)
        failed = {}
        for i in todo:
            kept = table.records[sheet.prompts[i].id]
            read = read_analysis(kept.text, criteria) if kept.failure is None else kept.failure
            if isinstance(read, dict):
                found[i] = read
            else:
                failed[i] = _ungraded(sheet.prompts[i].id, read)
        todo = [i for i in todo if i in failed and failed[i].cause == "unreadable"]
        if not todo:
            break
    return found, list(failed.values())


def _fill_analyses(session: _Session, todo: list[int], attempt: int, table: Table[Analysis]) -> None:
    sheet, instrument = session.sheet, session.instrument
    rubric, lang = instrument.rubric, instrument.lang
    decoding = Decoding(
        max_tokens=instrument.judge.max_tokens,
        # Greedy would only repeat what could not be read.
        temperature=0.5 * attempt,
        seed=attempt,
        json_schema=analysis_schema([criterion.id for criterion in rubric.criteria]),
    )
    request = rubric.text("analysis", lang)
    asked = [_asking(opening(sheet.prompts[i], sheet.answers[i], instrument), request) for i in todo]
    skip = {place for place, i in enumerate(todo) if sheet.prompts[i].id in table.records}
    try:
        for place, outcome in session.engine.complete(asked, decoding, skip):
            prompt_id = sheet.prompts[todo[place]].id
            failure = outcome if isinstance(outcome, Failure) else None
            text = "" if isinstance(outcome, Failure) else outcome.text
            table.add(Analysis(prompt_id=prompt_id, text=text, failure=failure))
            session.progress("analyse", len(table.records), len(todo))
    finally:
        table.flush()


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
    session: _Session, indices: list[int], known: set[int], analyses: Mapping[int, dict[str, Any]]
) -> Iterator[tuple[int, Judgement]]:
    """The verdict on each answer from the probabilities of the labels; in `reasoned` mode after the analysis."""
    if not indices:
        return
    sheet, instrument = session.sheet, session.instrument
    labels = instrument.rubric.labels[instrument.lang]
    conversations = [_verdict_conversation(session, i, analyses.get(i)) for i in indices]
    skip = {place for place, i in enumerate(indices) if i in known}
    for place, outcome in session.engine.score_labels(conversations, labels, skip):
        index = indices[place]
        prompt_id = sheet.prompts[index].id
        if isinstance(outcome, Failure):
            yield index, _ungraded(prompt_id, outcome)
        else:
            yield index, _grade(prompt_id, outcome, labels, instrument.judge.min_label_mass, analyses.get(index))


def _verdict_conversation(session: _Session, index: int, analysis: dict[str, Any] | None) -> Conversation:
    """Ends with the request for the verdict. The analysis may quote the answer, so it is neutralised as well."""
    sheet, instrument = session.sheet, session.instrument
    prompt, answer = sheet.prompts[index], sheet.answers[index]
    if analysis is None:
        return direct_conversation(prompt, answer, instrument)
    rubric, lang = instrument.rubric, instrument.lang
    asked = _asking(opening(prompt, answer, instrument), rubric.text("analysis", lang))
    said = neutralise(json.dumps(analysis, ensure_ascii=False))
    return (
        *asked,
        Message(role="assistant", content=said),
        Message(role="user", content=rubric.text("verdict", lang)),
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


def _ungraded(prompt_id: str, failure: Failure | str) -> Ungraded:
    if isinstance(failure, str):
        return Ungraded(prompt_id=prompt_id, cause="unreadable", detail=failure)
    return Ungraded(prompt_id=prompt_id, cause=failure.cause, detail=failure.detail)
