"""What `app.py` starts: the page with its ledger, or on a machine with a GPU a worker beside it, in its own process.

A worker loads strangers' models: it may run out of memory or be killed, and then the page stays and starts another.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from eco_eval.engines import supervise
from eco_eval.errors import EcoEvalError, InputError
from eco_eval.ledger import is_mirrored, mirrored
from eco_eval.logs import set_up_logs
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts

WORKER: Final = (sys.executable, "-m", "eco_eval.cli", "worker")

PORT: Final = 7860

LONGEST_PAUSE: Final = 300.0
"""Seconds before a worker that died is started again, at most; they double from one second."""

STEADY: Final = 600.0
"""Seconds after which a worker counts as well: when it dies then, the pauses begin again at one second."""

AWAY: Final = 60.0
"""Seconds before the page's queue is opened again where its database is away."""

log = logging.getLogger(__name__)


def main() -> int:
    """Serve what the settings ask for until told to end; returns the exit code, as the command line does."""
    texts = Texts("es")
    try:
        settings = Settings.from_env()
        texts = Texts(settings.lang)
        host(settings)
    except EcoEvalError as error:
        print(texts.error(error), file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


def host(settings: Settings) -> None:
    """Serve the page, with a worker in mode `gpu`, until SIGTERM or SIGINT; both have ended when it returns.

    Address and port are Gradio's own variables (`GRADIO_SERVER_NAME`, `GRADIO_SERVER_PORT`), which a Space sets; the
    port is 7860 without, which is where a Space looks.

    Raises:
        InputError: the port is taken, or a worker could not write into `data_dir`.
    """
    from eco_eval.ui.site import launch

    set_up_logs(settings.log)
    if settings.mode == "gpu":
        _check_writable(settings.data_dir)
    ended = threading.Event()
    # The first process of a container gets no signal that it does not ask for.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    blocks, _ = launch(settings, port=int(settings.environ.get("GRADIO_SERVER_PORT") or PORT), wait=False)
    worker = settings.mode == "gpu"
    # A worker writes the ledger itself.
    with supervised(WORKER, settings.environ, Texts(settings.lang)) if worker else ledger_kept(settings, ended):
        try:
            ended.wait()
        finally:
            # First: what is asked until then is in the ledger's last round.
            blocks.close()


@contextmanager
def ledger_kept(settings: Settings, ended: threading.Event) -> Iterator[None]:
    """While it lasts, the page's queue is kept alike with the ledger, if the settings name one.

    In a thread: the board can be seen while the ledger is read, and while the queue's database is away.
    """
    if not is_mirrored(settings):
        yield
        return
    keeper = threading.Thread(target=_keep_ledger, args=(settings, ended), name="ledger-keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()


def _keep_ledger(settings: Settings, ended: threading.Event) -> None:
    from eco_eval.queue import Queue

    while not ended.is_set():
        try:
            with closing(Queue(settings.queue)) as queue, mirrored(queue, settings):
                ended.wait()
        except EcoEvalError as error:
            log.warning("queue away", extra={"cause": error.key})
            ended.wait(AWAY)
        except ModuleNotFoundError:
            return  # without the libraries of a service the page only shows


@contextmanager
def supervised(
    command: Sequence[str], environ: Mapping[str, str], t: Texts, *, pause: float = 1.0
) -> Iterator[threading.Thread]:
    """Keep a command running while the block does: started again when it dies, ended with everything it started.

    It ends too when this process is killed. What it prints goes to this process's standard error.

    Args:
        environ: its whole environment, to which the place of this package is added.
        pause: seconds before it is started again after it died for the first time.
    """
    ending = threading.Event()
    keeper = threading.Thread(
        target=_keep, args=(command, _with_package(environ), t, pause, ending), name="worker", daemon=True
    )
    keeper.start()
    try:
        yield keeper
    finally:
        ending.set()
        keeper.join()


def _keep(command: Sequence[str], environ: Mapping[str, str], t: Texts, pause: float, ending: threading.Event) -> None:
    waits = pauses(pause)
    while not ending.is_set():
        began = time.monotonic()
        # File descriptor 2, not sys.stderr: a child writes to the system's.
        with os.fdopen(os.dup(2), "wb") as log:
            process = supervise.start(command, environ=environ, folder=Path.cwd(), log=log)
        try:
            while process.poll() is None and not ending.wait(0.2):
                pass
            code = process.poll()
        finally:
            supervise.end(process)
        if ending.is_set():
            return
        if time.monotonic() - began > STEADY:
            waits = pauses(pause)
        seconds = next(waits)
        print(t("hosting.again", code=code, seconds=f"{seconds:g}"), file=sys.stderr, flush=True)
        ending.wait(seconds)


def pauses(first: float) -> Iterator[float]:
    """Seconds between starts: doubling, up to `LONGEST_PAUSE`."""
    while True:
        yield min(first, LONGEST_PAUSE)
        first *= 2


def worker_answers(silent: float = 120.0) -> bool:
    """Whether the queue of the settings has heard of a worker of this machine in so many seconds: a health check.

    Raises:
        StoreError: the queue's database cannot be reached.
    """
    from eco_eval.queue import Queue

    queue = Queue(Settings.from_env().queue)
    try:
        return any(worker.name.startswith(f"{socket.gethostname()}-") for worker in queue.workers(silent))
    finally:
        queue.close()


def _with_package(environ: Mapping[str, str]) -> dict[str, str]:
    """On a Space the package lies beside `app.py` and is not installed: its child must find it from anywhere."""
    folder = str(Path(__file__).resolve().parent.parent)
    known = [part for part in environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != folder]
    return {**environ, "PYTHONPATH": os.pathsep.join([folder, *known])}


def _check_writable(folder: Path) -> None:
    """A disk that is mounted without the right to write shows here, not at the end of the first evaluation."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError("app.not_writable", folder=folder, reason=error.strerror or error) from error
