"""The child process of `ChildEngine`: opens one model and serves it over a channel, far from everything else."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from eco_eval.engines import Engine, landlock, open_local
from eco_eval.engines.channel import REQUESTS, Broke, Call, Channel, Ended, Opened, Outcome, Request, Start
from eco_eval.errors import EngineError, InputError
from eco_eval.settings import Settings
from eco_eval.types import Completion, Failure, LabelScores

STUCK_SECONDS = 60.0
"""Time that one step of Python may take while a model is served."""


def main(descriptor: int) -> int:
    """Serve the model asked for over an open socket until its other end closes; returns the exit code."""
    os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=descriptor))
    # Whoever holds the other end may go at any time.
    with suppress(EOFError, BrokenPipeError):
        start = channel.receive(REQUESTS)
        if isinstance(start, Start):
            _serve_model(channel, start)
    return 0


def _serve_model(channel: Channel, start: Start) -> None:
    # First of all: the kernel restrains a thread and what it starts, and libraries start threads when imported.
    sealed = _seal(start)
    try:
        engine = open_local(start.model, Settings.from_env().environ)
    except (InputError, EngineError) as error:
        channel.send(_broke(error))
        return
    try:
        threading.Thread(target=_stay_alive, daemon=True).start()
        channel.send(Opened(info=engine.info, sealed=sealed))
        while True:
            _serve(channel, engine, channel.receive(REQUESTS))
    finally:
        engine.close()


def _seal(start: Start) -> bool:
    """Take the forbidden files out of reach; what Python and the model need stays readable wherever it is."""
    folders = [folder for folder in (start.model.path, start.model.adapter) if folder is not None]
    # The Hub's cache keeps the files of a model as links to where it keeps their contents. Other links are not
    # followed: where they lead is up to whoever made the model.
    contents = [folder.parents[1] / "blobs" for folder in folders if folder.parent.name == "snapshots"]
    python = [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[1]]
    try:
        return landlock.restrain(
            forbidden=start.forbidden,
            readable=[*folders, *contents, *python],
            # Of /proc its own: root, whatever powers it laid down, may write the kernel's settings there.
            writable=[Path(tempfile.gettempdir()), Path("/dev"), Path("/proc/self")],
        )
    except OSError:
        logging.getLogger(__name__).exception("Landlock")
        return False


def _serve(channel: Channel, engine: Engine, request: Request) -> None:
    if not isinstance(request, Call):
        # Stop, for a call that had ended by itself.
        return
    try:
        # An engine yields what the call asks for: its parent checks that it does.
        for index, outcome in _outcomes(engine, request):
            channel.send(Outcome(index=index, outcome=outcome))
            if channel.has_more():
                break
    except (InputError, EngineError) as error:
        channel.send(_broke(error))
    else:
        channel.send(Ended())


def _outcomes(engine: Engine, call: Call) -> Iterator[tuple[int, Completion | LabelScores | Failure]]:
    if call.decoding is None:
        return engine.score_labels(call.conversations, call.labels, call.skip)
    return engine.complete(call.conversations, call.decoding, call.skip)


def _broke(error: InputError | EngineError) -> Broke:
    return Broke(
        key=error.key,
        values={name: str(value) for name, value in error.values.items()},
        fixable=isinstance(error, InputError),
        retryable=isinstance(error, EngineError) and error.retryable,
    )


def _stay_alive() -> None:
    """Put an alarm off again and again, which ends this process when one step of Python holds up every thread."""
    # A template can ask for a number of a billion digits: one step, during which nothing of Python can interrupt it.
    # The alarm has no handler, so the kernel ends the process.
    pause = threading.Event()
    while True:
        signal.setitimer(signal.ITIMER_REAL, STUCK_SECONDS)
        pause.wait(STUCK_SECONDS / 10)
