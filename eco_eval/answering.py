"""Stage one: put the prompts to the candidate."""

from __future__ import annotations

from eco_eval.engines.base import OpenEngine
from eco_eval.instrument import Instrument
from eco_eval.store import Store, Table, slug
from eco_eval.types import (
    Answer,
    Completion,
    Conversation,
    EngineInfo,
    Failure,
    Message,
    Progress,
    Prompt,
    Submission,
)


def answers_path(submission: Submission) -> str:
    """Where a submission's answers are kept: by model and by what was asked, not by how it is measured."""
    return f"answers/{slug(submission.model.name)}/{submission.answers_digest}.parquet"


def conversations(instrument: Instrument, system_prompt: str | None) -> list[Conversation]:
    """What the candidate reads: each prompt alone, after the submission's system prompt if it has one."""
    head = (Message(role="system", content=system_prompt),) if system_prompt else ()
    return [(*head, Message(role="user", content=prompt.text)) for prompt in instrument.asked]


def answer(
    submission: Submission, instrument: Instrument, engine: OpenEngine, store: Store, progress: Progress
) -> tuple[list[Answer], EngineInfo | None]:
    """The candidate's answers in the order of the prompts, resumed where an earlier run stopped.

    Raises:
        EngineError: the candidate's engine cannot start or go on; what was answered is kept.
    """
    ids = [prompt.id for prompt in instrument.asked]
    table = _table(submission, store)
    progress("answer", len(table.records.keys() & ids), len(ids))
    if not table.records.keys() >= set(ids):
        with engine() as candidate:
            # While this run waited for the device, another may have had the same answers.
            table = _table(submission, store)
            table.meta.setdefault("engine", candidate.info.model_dump_json())
            asked = conversations(instrument, submission.system_prompt)
            done = {index for index, key in enumerate(ids) if key in table.records}
            try:
                for index, outcome in candidate.complete(asked, instrument.answer.decoding, done):
                    table.add(_answer(instrument.asked[index], outcome))
                    progress("answer", len(table.records), len(ids))
            finally:
                table.flush()
    answers = table.finish(ids)
    kept = table.meta.get("engine")
    return answers, EngineInfo.model_validate_json(kept) if kept else None


def _table(submission: Submission, store: Store) -> Table[Answer]:
    table: Table[Answer] = Table(store, answers_path(submission), Answer)
    # A server that refused once may not again; the model's own limits stay as they are.
    table.drop(lambda answer: answer.failure is not None and answer.failure.cause == "rejected")
    return table


def _answer(prompt: Prompt, outcome: Completion | Failure) -> Answer:
    if isinstance(outcome, Failure):
        return Answer(prompt_id=prompt.id, prompt=prompt.text, text="", failure=outcome)
    return Answer(
        prompt_id=prompt.id,
        prompt=prompt.text,
        text=_whole(outcome.text),
        reasoning=None if outcome.reasoning is None else _whole(outcome.reasoning),
        truncated=outcome.truncated,
        tokens=outcome.tokens,
    )


def _whole(text: str) -> str:
    """Text without half characters, which JSON from a server can carry and no file, digest or judge can hold."""
    return text.encode("utf-8", "replace").decode()
