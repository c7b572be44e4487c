"""Put questions to an engine once: what it said is kept, and a run that was cut goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from eco_eval.engines.base import Engine, OpenEngine
from eco_eval.rubric import fill
from eco_eval.store import Store, Table, slug
from eco_eval.types import (
    AboutPrompt,
    Answer,
    Completion,
    Conversation,
    Decoding,
    Failure,
    LabelScores,
    Message,
    Progress,
    digest,
)

TEXTS = Path(__file__).parent.parent / "data" / "generate"

RecordT = TypeVar("RecordT", bound=AboutPrompt)


class Labelled(AboutPrompt):
    """Which label a model chose, with the probability of each where it tells; or why there is none."""

    label: str = ""
    probabilities: tuple[float, ...] | None = None
    failure: Failure | None = None


def instruction(name: str, lang: str, **values: str) -> str:
    """An instruction of `data/generate`, filled in; in English where there is none in the language."""
    return fill(_template(name, lang if (TEXTS / f"{name}.{lang}.md").is_file() else "en"), **values)


@cache
def _template(name: str, lang: str) -> str:
    return (TEXTS / f"{name}.{lang}.md").read_text(encoding="utf-8")


def fenced(text: str) -> dict[str, str]:
    """The values of a template that holds a stranger's text between marks it cannot forge."""
    return {"text": text, "fence": digest(text)[:8]}


def to_user(content: str, system: str | None = None) -> Conversation:
    """One turn to a model, after an instruction if there is one."""
    head = (Message(role="system", content=system),) if system else ()
    return (*head, Message(role="user", content=content))


def complete(
    conversations: Sequence[Conversation],
    decoding: Decoding,
    engine: OpenEngine,
    store: Store,
    task: str,
    maker: str,
    progress: Progress,
) -> list[Answer]:
    """What the model says to each conversation, in order. Each distinct one is put once, ever.

    Args:
        task: what it is for, and `maker` which model: together they name the file in `generated/`.

    Raises:
        EngineError: the engine cannot start or go on; what was said is kept.
    """

    def said(opened: Engine, asked: Sequence[Conversation]) -> Iterator[tuple[int, Completion | Failure]]:
        return opened.complete(asked, decoding)

    def kept(key: str, outcome: Completion | Failure) -> Answer:
        if isinstance(outcome, Failure):
            return Answer(prompt_id=key, text="", failure=outcome)
        return Answer(prompt_id=key, text=outcome.text.strip(), truncated=outcome.truncated, tokens=outcome.tokens)

    where = f"generated/{slug(maker)}/{task}-{digest(decoding.model_dump(mode='json'))[:8]}.parquet"
    return _ask(conversations, said, kept, engine, Table(store, where, Answer), progress)


def choose(
    conversations: Sequence[Conversation],
    labels: Sequence[str],
    engine: OpenEngine,
    store: Store,
    task: str,
    maker: str,
    progress: Progress,
) -> list[Labelled]:
    """Which of the labels the model gives to each conversation, in order; see `complete`.

    Raises:
        EngineError: the engine cannot start or go on; what was said is kept.
    """

    def said(opened: Engine, asked: Sequence[Conversation]) -> Iterator[tuple[int, LabelScores | Failure]]:
        return opened.score_labels(asked, labels)

    def kept(key: str, outcome: LabelScores | Failure) -> Labelled:
        if isinstance(outcome, Failure):
            return Labelled(prompt_id=key, failure=outcome)
        return Labelled(prompt_id=key, label=outcome.label, probabilities=outcome.probabilities)

    where = f"generated/{slug(maker)}/{task}-{digest(list(labels))[:8]}.parquet"
    return _ask(conversations, said, kept, engine, Table(store, where, Labelled), progress)


def _ask(
    conversations: Sequence[Conversation],
    say: Callable[[Engine, Sequence[Conversation]], Iterator[tuple[int, Any]]],
    keep: Callable[[str, Any], RecordT],
    engine: OpenEngine,
    table: Table[RecordT],
    progress: Progress,
) -> list[RecordT]:
    keys = [digest([message.model_dump() for message in conversation])[:24] for conversation in conversations]
    # A server that refused once may not again.
    table.drop(_refused)
    new = {key: conversation for key, conversation in zip(keys, conversations, strict=True) if key not in table.records}
    total = len(set(keys))
    progress("generate", total - len(new), total)
    if new:
        with engine() as opened:
            try:
                for done, (index, outcome) in enumerate(say(opened, list(new.values())), total - len(new) + 1):
                    table.add(keep(list(new)[index], outcome))
                    progress("generate", done, total)
            finally:
                table.flush()
        table.finish(sorted(table.records))
    return [table.records[key] for key in keys]


def _refused(record: AboutPrompt) -> bool:
    failure = getattr(record, "failure", None)
    return isinstance(failure, Failure) and failure.cause == "rejected"
