"""What an engine's child process and its parent say to each other, as JSON records over a socket pair.

    parent: Start       child: Opened | Broke
    parent: Call        child: Outcome ... Outcome, then Ended | Broke
    parent: Stop        child: Ended, if a call is under way

The child holds a stranger's model, so its parent believes nothing it says: a `Reply` is read by `Channel.receive`
alone, which knows four kinds of record and a longest message, and `ChildEngine` checks that it answers the call.
"""

from __future__ import annotations

import select
import socket
import time
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter

from eco_eval.types import Completion, Conversation, Decoding, EngineInfo, Failure, LabelScores, Record

LONGEST = 16 << 20
"""Bytes of the longest message taken from a child."""

_HEADER = 4
_PIECE = 1 << 20

_Kind = TypeVar("_Kind")


class LocalModel(Record):
    """A model of this machine and how to open it: all that a process which loads it needs to know.

    path: folder of the weights, of an adapter's base where there is an `adapter`, which is the adapter's own folder.
    name: what provenance calls it. context: longest prompt plus completion in tokens. batch_size: conversations at
    once, None for the engine's choice. vllm_args, start_timeout (seconds): see `Settings`.
    """

    kind: Literal["transformers", "vllm"]
    path: Path
    adapter: Path | None = None
    name: str
    dtype: str = "auto"
    context: int
    batch_size: int | None = None
    vllm_args: tuple[str, ...] = ()
    start_timeout: float = 900.0


class Start(Record):
    """Open a model. Files below `forbidden` are none of its business."""

    what: Literal["start"] = "start"
    model: LocalModel
    forbidden: tuple[Path, ...] = ()


class Call(Record):
    """Complete these conversations as `decoding` says, or score these `labels`: one of the two is given."""

    what: Literal["call"] = "call"
    conversations: tuple[Conversation, ...]
    skip: tuple[int, ...] = ()
    decoding: Decoding | None = None
    labels: tuple[str, ...] = ()


class Stop(Record):
    """Leave the call under way: nobody wants the rest."""

    what: Literal["stop"] = "stop"


class Opened(Record):
    """The model is ready. sealed: whether the kernel keeps the forbidden files from it."""

    what: Literal["opened"] = "opened"
    info: EngineInfo
    sealed: bool


class Outcome(Record):
    """How one conversation of a call ended."""

    what: Literal["outcome"] = "outcome"
    index: int
    outcome: Completion | LabelScores | Failure


class Ended(Record):
    """A call is over."""

    what: Literal["ended"] = "ended"


class Broke(Record):
    """An error ended the opening or a call. fixable: an `InputError`; otherwise an `EngineError`."""

    what: Literal["broke"] = "broke"
    key: Annotated[str, Field(max_length=100)]
    values: Annotated[dict[str, Annotated[str, Field(max_length=200_000)]], Field(max_length=20)]
    fixable: bool
    retryable: bool


Request = Start | Call | Stop
Reply = Opened | Outcome | Ended | Broke

REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="what")])
REPLIES: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="what")])


class Channel:
    """One end of the socket pair.

    Args:
        deadline: when, by `time.monotonic`, sending and receiving give up.
    """

    def __init__(self, connection: socket.socket, deadline: float | None = None) -> None:
        self._connection, self._deadline = connection, deadline

    def send(self, record: Request | Reply) -> None:
        """Send a record.

        Raises:
            TimeoutError: the deadline has passed.
            OSError: the other end is gone.
        """
        data = record.model_dump_json().encode()
        self._patience()
        self._connection.sendall(len(data).to_bytes(_HEADER, "big") + data)

    def receive(self, kind: TypeAdapter[_Kind], longest: int | None = None) -> _Kind:
        """Wait for the next record.

        Args:
            longest: bytes of the longest message taken.

        Raises:
            TimeoutError: the deadline has passed.
            EOFError: the other end is gone.
            ValueError: this is no such record, or too long a message.
        """
        length = int.from_bytes(self._take(_HEADER), "big")
        if longest is not None and length > longest:
            raise ValueError(f"A message of {length} bytes.")
        return kind.validate_json(self._take(length), strict=True)

    def has_more(self) -> bool:
        """Whether something came, or the other end is gone."""
        return bool(select.select([self._connection], [], [], 0)[0])

    def _take(self, length: int) -> bytearray:
        # Piece by piece: no memory is set aside for what was only announced.
        data = bytearray()
        while len(data) < length:
            self._patience()
            try:
                piece = self._connection.recv(min(length - len(data), _PIECE))
            except ConnectionError as error:
                raise EOFError from error
            if not piece:
                raise EOFError
            data += piece
        return data

    def _patience(self) -> None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
