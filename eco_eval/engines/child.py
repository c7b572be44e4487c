"""A model in a child process with limits: the engine for weights, tokenizers and templates of strangers.

The process that loads them is not the one that judges, keeps and publishes. It gets conversations and the few values
it needs to open the model; its environment has no key, and where the kernel knows Landlock it can neither open what is
private, nor write anywhere but in a folder of its own, nor look into other processes. What it says is data like any
other, checked before use.
"""

from __future__ import annotations

import logging
import math
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from site import getuserbase
from typing import NoReturn, TypeVar

from eco_eval.engines import supervise
from eco_eval.engines.channel import (
    LONGEST,
    REPLIES,
    Broke,
    Call,
    Channel,
    Ended,
    LocalModel,
    Opened,
    Outcome,
    Reply,
    Request,
    Start,
    Stop,
)
from eco_eval.errors import EngineError, InputError
from eco_eval.machine import main_memory
from eco_eval.settings import Settings
from eco_eval.types import Completion, Conversation, Decoding, EngineInfo, Failure, LabelScores

_Kept = TypeVar("_Kept")

# By its path, not `-m`: where the package is not installed the child must find it all the same, and after everything
# else, so that nothing beside it takes the place of a module.
_HOST = """
import sys
sys.path.append(sys.argv[1])
from eco_eval.engines.host import main
sys.exit(main(int(sys.argv[2])))
"""

ERRORS: Mapping[str, frozenset[str]] = {
    key: frozenset(values.split())
    for key, values in {
        "engine.load_failed": "model reason",
        "engine.run_failed": "model reason",
        "engine.out_of_memory": "model",
        "engine.bad_adapter": "model reason",
        "engine.bad_labels": "model reason",
        "data.extra_missing": "library extra",
        "endpoint.down": "url",
        "endpoint.slow": "url seconds",
        "endpoint.failing": "url status",
        "endpoint.not_openai": "url got",
        "endpoint.auth": "url",
        "endpoint.no_model": "url model",
        "vllm.not_installed": "",
        "vllm.forbidden_option": "option allowed",
        "vllm.missing_value": "option",
        "vllm.adapter": "model field",
        "vllm.no_room": "model context",
        "vllm.start_failed": "model seconds reason",
        "vllm.start_slow": "model seconds reason",
        "vllm.died": "model reason",
    }.items()
}
"""The errors a child may report, and the values that their messages need: any other would have no words."""

# Places of caches: whatever a model leaves there, the next must not find.
_CACHES = re.compile(r"XDG_\w+|\w+_CACHE_(DIR|PATH|ROOT)")

_LOG_LINES, _LINE, _SHORT = 20, 1000, 200
_ROUNDING = 1e-6
# Characters: far beyond any real vocabulary, whose longest are runs of a hundred blanks or so.
_LONGEST_TOKEN = 1000
# Seconds a supervisor may take to end whatever a dead child leaves behind.
_PATIENCE = 25.0


class ChildEngine:
    """A local model behind the `Engine` protocol, opened and served by a child process (`engines.host`).

    One call at a time: a new one ends whatever is left of the last.

    Args:
        environ: the environment to pick the child's from.
        limits: what the child and all it starts may take, from now until it is closed.
        forbidden: files and folders that the child cannot open where the kernel can see to that; the model's own
            folder stays readable.

    Raises:
        InputError: as the engine raises it.
        EngineError: as the engine raises it; `engine.memory_limit`, `engine.time_limit`, `engine.template_limit`,
            `engine.child_died`, or `engine.bad_reply` where the child says what no engine would.
    """

    def __init__(
        self,
        model: LocalModel,
        *,
        environ: Mapping[str, str],
        limits: supervise.Limits,
        forbidden: Sequence[Path] = (),
    ) -> None:
        self._model, self._limits = model, limits
        self._call: Call | None = None
        folder = Path(tempfile.mkdtemp(prefix="eco-eval-engine-"))
        # Not in the folder that the child may write to: what is read here must not be a link it made.
        self._log, scratch = folder / "log", folder / "scratch"
        scratch.mkdir()
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours, time.monotonic() + limits.seconds)
        with theirs, self._log.open("wb") as log:
            self._process = supervise.start(
                [sys.executable, "-P", "-c", _HOST, str(Path(__file__).parents[2]), str(theirs.fileno())],
                environ=_environment(environ, scratch),
                folder=scratch,
                log=log,
                limits=limits,
                pass_fds=(theirs.fileno(),),
                temporary=True,
            )
        self._end = weakref.finalize(self, _end, ours, self._process, folder)
        try:
            self._send(Start(model=model, forbidden=tuple(path.absolute() for path in forbidden)))
            self.info = self._opened()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ChildEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child and everything it started; the engine cannot be used again."""
        self._end()

    def complete(
        self, conversations: Sequence[Conversation], decoding: Decoding, skip: Collection[int] = ()
    ) -> Iterator[tuple[int, Completion | Failure]]:
        """Continue each conversation with one assistant message; see `Engine`."""
        call = Call(conversations=tuple(conversations), decoding=decoding, skip=tuple(sorted(skip)))
        return self._run(call, lambda outcome: checked_completion(outcome, decoding))

    def score_labels(
        self, conversations: Sequence[Conversation], labels: Sequence[str], skip: Collection[int] = ()
    ) -> Iterator[tuple[int, LabelScores | Failure]]:
        """The exact probability of each label; see `Engine`."""
        call = Call(conversations=tuple(conversations), labels=tuple(labels), skip=tuple(sorted(skip)))
        return self._run(call, lambda outcome: checked_scores(outcome, labels))

    def _run(
        self, call: Call, checked: Callable[[Completion | LabelScores | Failure], _Kept]
    ) -> Iterator[tuple[int, _Kept]]:
        self._leave_last_call()
        due = set(range(len(call.conversations))) - set(call.skip)
        self._send(call)
        self._call = call
        while not isinstance(reply := self._receive(), Ended):
            if not isinstance(reply, Outcome) or reply.index not in due:
                self._refuse("Not an answer to what was asked.")
            due.remove(reply.index)
            try:
                outcome = checked(reply.outcome)
            except ValueError as error:
                self._refuse(str(error))
            yield reply.index, outcome
            if self._call is not call:
                raise RuntimeError("Another call was made of this engine while this one was under way.")
        self._call = None
        if due:
            self._refuse(f"{len(due)} conversations without an outcome.")

    def _leave_last_call(self) -> None:
        """Have the child leave a call whose outcomes nobody waited for."""
        if self._call is not None:
            self._send(Stop())
            with suppress(EngineError, InputError):
                while not isinstance(self._receive(), Ended):
                    pass
            self._call = None

    def _opened(self) -> EngineInfo:
        reply = self._receive()
        if not isinstance(reply, Opened):
            self._refuse("Not an engine.")
        info, model = reply.info, self._model
        texts = (info.version, info.dtype, info.device)
        if (info.engine, info.model) != (model.kind, model.name) or not all(map(_is_plain, texts)):
            self._refuse("Not the engine or the model asked for.")
        if not reply.sealed:
            logging.getLogger(__name__).warning("No Landlock: the model of %s can read files.", model.name)
        return info

    def _send(self, request: Request) -> None:
        try:
            self._channel.send(request)
        except TimeoutError:
            self._overdue()
        except OSError:
            # It may have said why before it went.
            self._receive()
            self._died()

    def _receive(self) -> Reply:
        try:
            reply = self._channel.receive(REPLIES, LONGEST)
        except TimeoutError:
            self._overdue()
        except (EOFError, OSError):
            self._died()
        except ValueError as error:
            self._refuse(str(error))
        if isinstance(reply, Broke):
            self._call = None
            self._report(reply)
        return reply

    def _report(self, broke: Broke) -> NoReturn:
        if broke.key not in ERRORS or not ERRORS[broke.key] <= broke.values.keys():
            self._refuse(f"An unknown error: {broke.key}")
        known = ERRORS[broke.key] | {"log"}
        values = {name: _without_controls(value) for name, value in broke.values.items() if name in known}
        if "model" in values:
            # Whose memory ran out decides what is tried again with smaller batches.
            values["model"] = self._model.name
        if broke.fixable:
            raise InputError(broke.key, **values)
        raise EngineError(broke.key, retryable=broke.retryable, **values)

    def _refuse(self, reason: str) -> NoReturn:
        self.close()
        raise EngineError("engine.bad_reply", model=self._model.name, reason=reason[:_SHORT])

    def _overdue(self) -> NoReturn:
        self.close()
        raise EngineError("engine.time_limit", model=self._model.name, limit=f"{self._limits.seconds:.0f}")

    def _died(self) -> NoReturn:
        """Say why the child is gone: its supervisor ends right after it, with a code that tells."""
        name = self._model.name
        code: int | None = None
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_PATIENCE)
        lines: list[str] = []
        with suppress(FileNotFoundError):
            lines = [line[:_LINE] for line in supervise.tail(self._log)[-_LOG_LINES:]]
        self.close()
        if code == supervise.OVER_TIME:
            self._overdue()
        if code == supervise.OVER_MEMORY:
            raise EngineError("engine.memory_limit", model=name, limit=f"{self._limits.memory / 1e9:.3g}")
        if code == 128 + signal.SIGALRM:
            raise EngineError("engine.template_limit", model=name)
        reason = ": ".join([*_signal(code), *lines[-1:]])
        raise EngineError("engine.child_died", retryable=True, model=name, reason=reason, log="\n".join(lines))


def checked_completion(outcome: Completion | LabelScores | Failure, decoding: Decoding) -> Completion | Failure:
    """An outcome, if it can be one of `complete`.

    Raises:
        ValueError: it cannot.
    """
    if isinstance(outcome, LabelScores):
        raise ValueError("Scores of labels where a completion was asked for.")
    if isinstance(outcome, Failure):
        return _checked_failure(outcome)
    length = len(outcome.text) + len(outcome.reasoning or "")
    if not 0 <= outcome.tokens <= decoding.max_tokens or length > decoding.max_tokens * _LONGEST_TOKEN:
        raise ValueError(f"{outcome.tokens} tokens, {length} characters, and {decoding.max_tokens} tokens at most.")
    return outcome


def checked_scores(outcome: Completion | LabelScores | Failure, labels: Sequence[str]) -> LabelScores | Failure:
    """An outcome, if it can be one of `score_labels`: a distribution over the labels, and the likeliest of them.

    Raises:
        ValueError: it cannot.
    """
    if isinstance(outcome, Failure):
        return _checked_failure(outcome)
    if isinstance(outcome, Completion):
        raise ValueError("A completion where scores of labels were asked for.")
    shares, mass = outcome.probabilities, outcome.mass
    if outcome.source != "exact" or shares is None or mass is None or outcome.label not in labels:
        raise ValueError("Not exact scores of these labels.")
    if len(shares) != len(labels) or not all(0 <= share <= 1 for share in (*shares, mass)):
        raise ValueError("Not the probabilities of these labels.")
    if abs(math.fsum(shares) - 1) > _ROUNDING or shares[labels.index(outcome.label)] < max(shares):
        raise ValueError("Probabilities that are no distribution, or a label that is not the likeliest.")
    return outcome


def _checked_failure(failure: Failure) -> Failure:
    if len(failure.detail) > _LINE:
        raise ValueError(f"{len(failure.detail)} characters on one failure.")
    return failure


def _is_plain(text: str) -> bool:
    return len(text) <= _SHORT and text.isprintable()


def _without_controls(text: str) -> str:
    return "".join(c for c in text if c.isprintable() or c == "\n")


def memory_limit(gigabytes: float | None) -> int:
    """Bytes of main memory that a model may take: so many gigabytes, or nine tenths of what this machine gives us."""
    if gigabytes is not None:
        return int(gigabytes * 1e9)
    return main_memory() * 9 // 10


def private_files(settings: Settings) -> tuple[Path, ...]:
    """What no model may read: answers to hidden prompts, the store, the queue's database, the Hub client's tokens."""
    from huggingface_hub import constants

    prefix = "sqlite:///"
    database = [settings.queue.removeprefix(prefix)] if settings.queue.startswith(prefix) else []
    # SQLite keeps what it has just written beside it.
    files = [Path(name + end) for name in database for end in ("", "-wal", "-shm", "-journal")]
    tokens = (Path(constants.HF_TOKEN_PATH), Path(constants.HF_STORED_TOKENS_PATH))
    return (settings.private_dir, settings.data_dir, *files, *tokens)


def _environment(environ: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The child's whole environment: what it keeps, compiled code for instance, it keeps in a folder that goes."""
    safe = supervise.safe_environment(environ)
    rest = {name: value for name, value in safe.items() if not _CACHES.fullmatch(name)}
    # With another home Python would not find the packages that a user installed.
    own = {"HOME": str(scratch), "TMPDIR": str(scratch), "PYTHONUSERBASE": getuserbase()}
    return {**rest, **supervise.OFFLINE, **own}


def _signal(code: int | None) -> list[str]:
    with suppress(ValueError, TypeError):
        return [signal.Signals((code or 0) - 128).name]
    return []


def _end(connection: socket.socket, process: subprocess.Popen[bytes], folder: Path) -> None:
    connection.close()
    supervise.end(process)
    shutil.rmtree(folder, ignore_errors=True)
