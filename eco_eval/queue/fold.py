"""A request's history as lines, and the one state that any set of them comes to.

Lines are joined, not replayed: of all that is said of an attempt the weightiest counts, and of two attempts the later.
So it matters neither in which order lines arrive nor how often, and two databases that know the same lines agree.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Self

from pydantic import Field, model_validator

from eco_eval.candidates import HUB_ID
from eco_eval.errors import InputError
from eco_eval.queue.records import (
    MAX_DETAIL,
    MAX_VALUES,
    Cancelled,
    Failed,
    Finished,
    Pending,
    Request,
    Running,
    State,
    What,
    Withdrawn,
    check_request,
    is_id,
    is_text,
)
from eco_eval.types import ModelRef, Record

WEIGHT = {"asked": 0, "taken": 1, "cancelled": 2, "failed": 3, "finished": 4, "withdrawn": 5}
"""A run that came to an end was cancelled too late, and whoever asked may take back what is finished. What else is said
changes no state."""

MOST_ATTEMPTS = 10**6
"""A later attempt is taken from nobody: whoever asks next must still find a number that a database takes."""

_WORD = re.compile(r"[a-z0-9_.]{1,100}", re.ASCII)
"""A stage, or the key of a message."""


class Line(Record):
    """One thing that happened to a request, wherever it did.

    uid: no other line has it (UUID, 32 hex). at: in seconds since 1970. request: its id. detail: who did it, or the
    result, or why. payload: the request itself, of `asked` alone. state: how it ended, of `finished` and `failed`.
    """

    uid: str = Field(pattern=r"^[0-9a-f]{32}$")
    at: float = Field(ge=0, lt=1e11)
    request: str = Field(pattern=r"^[0-9a-f]{16}$")
    attempt: int = Field(ge=1, lt=2**31)
    what: What
    detail: str = Field(default="", max_length=MAX_DETAIL)
    payload: Request | None = None
    state: Finished | Failed | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.what == "asked") != (self.payload is not None):
            raise ValueError("what is asked has a payload, and nothing else has")
        if self.state is not None and self.state.state != self.what:
            raise ValueError("the state is not what happened")
        return self


def new_uid() -> str:
    return uuid.uuid4().hex


def travels(request: Request) -> bool:
    """Whether other machines may hear of it: exact weights on the Hub. A folder is one machine's own, name and all."""
    model = request.submission.model
    return request.folder is None and all(_is_pinned(ref) for ref in (model, model.base) if ref is not None)


def _is_pinned(ref: ModelRef) -> bool:
    # A name or revision of another form could lead a worker to a folder of its own.
    named = HUB_ID.fullmatch(ref.name) and "@" not in ref.name and ".." not in ref.name
    return ref.source == "hub" and bool(named) and re.fullmatch(r"[0-9a-f]{40}", ref.revision, re.ASCII) is not None


def check_line(line: Line) -> None:
    """Refuse a line from elsewhere that cannot be kept, or asks for what may not travel or under another's id.

    Raises:
        InputError: which field it is.
    """
    if line.payload is not None:
        check_request(line.payload)
        if line.payload.id != line.request:
            raise InputError("queue.unusable", field="request")
        if not travels(line.payload):
            raise InputError("queue.unusable", field="model")
    fine = is_text(line.detail) and line.attempt <= MOST_ATTEMPTS
    if isinstance(line.state, Finished):
        fine = fine and is_id(line.state.result)
    elif line.state is not None:
        words = all(_WORD.fullmatch(text) for text in (line.state.stage, line.state.key))
        texts = [*line.state.values, *line.state.values.values()]
        short = len(line.state.values) <= MAX_VALUES and all(len(text) <= MAX_DETAIL for text in texts)
        fine = fine and words and short and all(is_text(text) for text in texts)
    if not fine:
        raise InputError("queue.unusable", field="state" if line.state is not None else "detail")


class Standing(Record):
    """What a request's lines come to."""

    request: Request
    attempt: int
    state: State
    made_at: float
    updated_at: float


def fold(lines: Iterable[Line]) -> Standing | None:
    """What the lines of one request come to; None where none of them says what was asked."""
    said = [line for line in lines if line.what in WEIGHT and _state(line) is not None]
    asked = [line for line in said if line.payload is not None]
    if not asked:
        return None
    # Asking twice is asking once: the first to ask is who asked.
    first = min(asked, key=lambda line: (-line.attempt, line.at, line.uid))
    last = max(said, key=lambda line: (line.attempt, WEIGHT[line.what], line.at, line.uid))
    request, state = first.payload, _state(last)
    assert request is not None
    assert state is not None
    return Standing(request=request, attempt=last.attempt, state=state, made_at=first.at, updated_at=last.at)


def _state(line: Line) -> State | None:
    """The state that a line alone leaves a request in."""
    if line.what == "asked":
        return Pending(position=0)
    if line.what == "taken":
        return Running(worker=line.detail, stage="check", done=0, total=0)
    if line.what == "cancelled":
        return Cancelled(by=line.detail)
    if line.what == "withdrawn":
        return Withdrawn(by=line.detail)
    return line.state
