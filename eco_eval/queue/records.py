"""The queue's words: a request, what may become of it, and what is told of both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field

from eco_eval.errors import EcoEvalError, InputError
from eco_eval.settings import Settings
from eco_eval.types import EngineName, Record, Submission, Weights

OPEN_STATES = ("pending", "running")

MAX_NAME = 500
"""Characters of a name, a revision or an instrument in a request."""

MAX_REQUEST = 64 * 1024
"""Characters of everything in a request together, its system prompt above all."""

MAX_DETAIL = 4000
"""Characters kept of what a log line or a failure says."""

MAX_VALUES = 20
"""Values kept of what a failure's message needs."""


class Request(Record):
    """Somebody asks for a model to be evaluated under an instrument.

    user: who the server says asked, never a form field. priority: smaller goes first, 1 to 100. folder: where local
    weights are on the machine that asked. weights: what the model weighs, None where nobody looked.
    """

    submission: Submission
    user: str = Field(min_length=1, max_length=200)
    engine: EngineName = "vllm"
    priority: int = Field(default=50, ge=1, le=100)
    folder: str | None = None
    weights: Weights | None = None

    @property
    def id(self) -> str:
        return self.submission.id

    @property
    def owner(self) -> str:
        """Who published the model: quotas count by owner as well as by user."""
        model = self.submission.model
        return model.name.partition("/")[0] if model.source == "hub" else model.source


class Pending(Record):
    """Waiting. `position` counts from 1 in the order in which requests are taken."""

    state: Literal["pending"] = "pending"
    position: int


class Running(Record):
    """Somebody works on it."""

    state: Literal["running"] = "running"
    worker: str
    stage: str
    done: int
    total: int


class Finished(Record):
    """It has a result, of this id. published: whether it is on the Hub's board, None where there is none to be on."""

    state: Literal["finished"] = "finished"
    result: str
    published: bool | None = None


class Failed(Record):
    """It was given up: the stage, and the message's key and values in the catalogue of texts."""

    state: Literal["failed"] = "failed"
    stage: str
    key: str
    values: dict[str, str]


class Cancelled(Record):
    """Somebody stopped it before it had a result."""

    state: Literal["cancelled"] = "cancelled"
    by: str


class Withdrawn(Record):
    """Whoever asked took it back. A result that is kept stays where it is."""

    state: Literal["withdrawn"] = "withdrawn"
    by: str


State = Annotated[Pending | Running | Finished | Failed | Cancelled | Withdrawn, Field(discriminator="state")]
STATES = tuple(kind.model_fields["state"].default for kind in get_args(get_args(State)[0]))


class Entry(Record):
    """A request as it stands. Times in seconds since 1970."""

    request: Request
    state: State
    attempt: int
    made_at: float
    updated_at: float


What = Literal["asked", "retried", "taken", "lost", "again", "cancelled", "failed", "finished", "withdrawn"]
"""What happens to a request. `lost`: its worker fell silent; `again`: a stage is tried again, and why."""


class Event(Record):
    """One line of the log."""

    at: float
    what: str
    detail: str


class Quotas(Record):
    """How many requests may be pending or running at once."""

    per_user: int = 5
    per_owner: int = 20
    total: int = 20_000

    @classmethod
    def of(cls, settings: Settings) -> Quotas:
        """Those of a service."""
        return cls(per_user=settings.per_user, per_owner=settings.per_owner, total=settings.queue_limit)


class WorkerAbout(Record):
    """What a worker runs on. max_bytes: how large a model it takes, None where nobody said."""

    device: str
    max_bytes: int | None
    engines: tuple[str, ...]
    version: str


class WorkerSeen(Record):
    """A worker that lives. beat_at: when it was last heard of, in seconds since 1970."""

    name: str
    beat_at: float
    about: WorkerAbout | None


def is_id(text: str) -> bool:
    """Whether it looks like a request's id: no other text need reach a database."""
    return re.fullmatch(r"[0-9a-f]{16}", text, re.ASCII) is not None


def is_text(text: str) -> bool:
    """Whether any database and any file in UTF-8 takes it: no NUL, no lone surrogate."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def is_name(text: str) -> bool:
    """Whether it is one short line that any terminal takes, too."""
    return len(text) <= MAX_NAME and text.isprintable()


def clean(text: str) -> str:
    """As much of a text as a log keeps, without what databases refuse: NUL and lone surrogates."""
    return text[:MAX_DETAIL].replace("\0", "�").encode("utf-8", "replace").decode()


def failed(stage: str, error: EcoEvalError) -> Failed:
    """An error as the state it leaves a request in."""
    values = {name: clean(str(value)) for name, value in list(error.values.items())[:MAX_VALUES]}
    return Failed(stage=stage, key=error.key, values=values)


def check_request(request: Request) -> None:
    """Refuse a request that cannot be kept as it is.

    Raises:
        InputError: a text is too long, or holds what is no text, or a number is none; names the field.
    """
    left = MAX_REQUEST
    for field, text in _texts(request.model_dump()):
        left -= len(text)
        # A person's own words and paths may have lines and strange characters; names may not.
        allowed = is_text if field in ("system_prompt", "folder") else is_name
        if left < 0 or not allowed(text):
            raise InputError("queue.unusable", field=field)
    weights = request.weights
    if weights is not None and not all(0 <= number < 2**63 for number in (weights.parameters, weights.bytes)):
        raise InputError("queue.unusable", field="weights")


def _texts(value: object, field: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested fields, with the name of its field."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, name)
