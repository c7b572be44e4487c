"""Which engines a submission needs, and how to open them on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from eco_eval.energy import Meter
from eco_eval.engines import Engine, EngineName, OpenEngine, open_engine
from eco_eval.instrument import Instrument
from eco_eval.settings import Settings
from eco_eval.types import ModelRef, Submission


@dataclass(frozen=True)
class Engines:
    """How to open the candidate's engine and the judges'. None is opened unless it has work.

    `panel` opens the judges of the instrument's panel, in its order. `judges` are the weights of all of them, for what
    they declare of their origin; empty where that is not known.
    """

    candidate: OpenEngine
    judge: OpenEngine
    panel: tuple[OpenEngine, ...] = ()
    judges: tuple[ModelRef, ...] = ()

    def counted(self, meter: Meter) -> Engines:
        """The same, what they take counted by a meter."""
        judge, *panel = (meter.around("judge", opener) for opener in (self.judge, *self.panel))
        return replace(self, candidate=meter.around("answer", self.candidate), judge=judge, panel=tuple(panel))


def open_engines(
    submission: Submission,
    instrument: Instrument,
    judge_refs: Sequence[ModelRef],
    settings: Settings,
    *,
    engine: EngineName = "transformers",
    url: str | None = None,
    judge_url: str | None = None,
    batch_sizes: Mapping[str, int | None] = MappingProxyType({}),
    isolated: bool = False,
) -> Engines:
    """How to open the engines of a submission on this machine; nothing starts yet.

    Args:
        engine: the candidate's; `url` its base URL where that is an endpoint.
        judge_url: base URL of judges that are served.
        batch_sizes: conversations at once by model's name; None, as for others, is the engine's own choice.
        isolated: each in a child process with limits, as for strangers' weights.
    """
    first, *others = [
        partial(
            open_engine,
            seat.judge.engine,
            ref,
            settings,
            context=seat.judge.context,
            dtype=seat.judge.dtype,
            url=judge_url,
            key=settings.judge_key,
            batch_size=batch_sizes.get(ref.name),
            isolated=isolated,
        )
        for seat, ref in zip(instrument.seats, judge_refs, strict=True)
    ]
    return Engines(
        candidate=partial(
            open_engine,
            engine,
            submission.model,
            settings,
            context=instrument.answer.context,
            dtype=submission.model.dtype,
            url=url,
            key=settings.candidate_key,
            batch_size=batch_sizes.get(submission.model.name),
            isolated=isolated,
        ),
        judge=first,
        panel=tuple(others),
        judges=tuple(judge_refs),
    )


@contextmanager
def shared(opener: OpenEngine) -> Iterator[OpenEngine]:
    """An engine that is opened at its first use inside, once for all of them, and ends with the block."""
    with ExitStack() as stack:
        opened: list[Engine] = []

        @contextmanager
        def use() -> Iterator[Engine]:
            if not opened:
                opened.append(stack.enter_context(opener()))
            yield opened[0]

        yield use
