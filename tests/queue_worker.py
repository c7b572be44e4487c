"""A worker process with a scripted run, for tests and benchmarks to kill: `python queue_worker.py URL FOLDER SECONDS`.

Each run reports progress three times, takes about SECONDS, and notes its request in FOLDER. Models whose number ends in
3 fail for good, those ending in 4 once for a passing cause, those ending in 5 run into a bug. With a fourth argument,
a folder or `hub:OWNER/NAME`, the queue is kept alike with the ledger there, five times a second.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from eco_eval.errors import EngineError, TooManyUngraded
from eco_eval.ledger import Mirror
from eco_eval.queue import Queue, Request
from eco_eval.store import HubStore, LocalStore, Store
from eco_eval.types import Progress
from eco_eval.worker import Ran, Worker


def store_at(place: str, cache: Path) -> Store:
    """The store a test names: a folder, or `hub:OWNER/NAME` with the stand-in's token."""
    if place.startswith("hub:"):
        return HubStore(place.removeprefix("hub:"), token="hf_local", cache=cache, ttl=0.1)
    return LocalStore(Path(place))


def main(url: str, folder: Path, seconds: float, ledger: str | None = None) -> None:
    def run(request: Request, progress: Progress, squeezed: Mapping[str, int]) -> Ran:
        number = request.submission.model.name[-1]
        for done in range(3):
            progress("answer", done, 3)
            time.sleep(seconds / 3)
        tried = folder / f"{request.id}.tried"
        if number == "4" and not tried.exists():
            tried.touch()
            raise EngineError("vllm.died", retryable=True, model="m", log="")
        if number == "3":
            raise TooManyUngraded("score.too_many_ungraded", ungraded=3, asked=4, allowed="2 %", causes="off_label")
        if number == "5":
            raise ZeroDivisionError("a bug")
        with (folder / request.id).open("a") as note:
            note.write("x")
        return Ran(request.id, published=True if ledger else None)

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    queue = Queue(url)
    mirror = Mirror(queue, store_at(ledger, folder / ".cache"), every=0.2) if ledger else None
    if mirror is not None:
        mirror.start()
    worker = Worker(queue, run, silent=1.5, polling=0.05, pause=0.05)
    worker.start()
    with suppress(BrokenPipeError):
        print(worker.name, flush=True)
    ended.wait()
    worker.stop(patience=3)
    if mirror is not None:
        mirror.stop()
    queue.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:5])
