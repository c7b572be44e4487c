"""A function answers: for anchors, adversarial candidates and tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from eco_eval.types import Completion, Conversation, Decoding, EngineInfo, Failure, LabelScores


class ScriptedEngine:
    """An engine whose model is a function.

    Args:
        answer: conversation to text, for `complete`.
        label: conversation and labels to one probability a label, for `score_labels`.
        name: what provenance calls the model.
    """

    def __init__(
        self,
        answer: Callable[[Conversation], str | Failure] | None = None,
        label: Callable[[Conversation, Sequence[str]], Sequence[float] | Failure] | None = None,
        name: str = "scripted",
    ) -> None:
        self._answer = answer
        self._label = label
        self.info = EngineInfo(engine="scripted", version="1", model=name, dtype="none", device="none")

    def complete(
        self, conversations: Sequence[Conversation], decoding: Decoding, skip: Collection[int] = ()
    ) -> Iterator[tuple[int, Completion | Failure]]:
        if self._answer is None:
            raise TypeError("This scripted engine has no `answer` function.")
        for index, conversation in enumerate(conversations):
            if index not in skip:
                said = self._answer(conversation)
                if isinstance(said, Failure):
                    yield index, said
                    continue
                words = said.split(" ")
                text = " ".join(words[: decoding.max_tokens])
                yield (
                    index,
                    Completion(text=text, truncated=len(words) > decoding.max_tokens, tokens=len(words)),
                )

    def score_labels(
        self, conversations: Sequence[Conversation], labels: Sequence[str], skip: Collection[int] = ()
    ) -> Iterator[tuple[int, LabelScores | Failure]]:
        if self._label is None:
            raise TypeError("This scripted engine has no `label` function.")
        for index, conversation in enumerate(conversations):
            if index not in skip:
                weights = self._label(conversation, labels)
                if isinstance(weights, Failure):
                    yield index, weights
                    continue
                total = sum(weights)
                shares = tuple(weight / total for weight in weights)
                best = labels[max(range(len(labels)), key=shares.__getitem__)]
                yield index, LabelScores(label=best, probabilities=shares, mass=1.0, source="exact")

    def close(self) -> None:
        """Nothing to free."""
