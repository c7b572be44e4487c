"""The edge to models: what every engine does, candidate and judge alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from eco_eval.types import Completion, Conversation, Decoding, EngineInfo, Failure, LabelScores


class Engine(Protocol):
    """Conversations in, completions or label probabilities out.

    Both methods yield `(index, outcome)` as each conversation ends, in any order, once for every index not in
    `skip`. `skip` names conversations whose outcome is already known: they are still part of the list so that an
    engine whose numbers depend on how it batches plans the same batches again.

    Raises:
        EngineError: the engine as a whole cannot go on. A conversation it cannot handle yields a `Failure`.
    """

    @property
    def info(self) -> EngineInfo: ...

    def complete(
        self, conversations: Sequence[Conversation], decoding: Decoding, skip: Collection[int] = ()
    ) -> Iterator[tuple[int, Completion | Failure]]:
        """Continue each conversation with one assistant message."""
        ...

    def score_labels(
        self, conversations: Sequence[Conversation], labels: Sequence[str], skip: Collection[int] = ()
    ) -> Iterator[tuple[int, LabelScores | Failure]]:
        """The probability of each label as the assistant's next words, by forward passes and never by sampling.

        Labels are distinct and none is a prefix of another.
        """
        ...

    def close(self) -> None:
        """Free the device and end what was started. Closing twice is fine."""
        ...


OpenEngine = Callable[[], AbstractContextManager[Engine]]
"""Opens an engine for as long as a `with` block lasts; called only when there is work to do."""
