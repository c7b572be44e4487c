"""Run a command and end it, with everything it started, as soon as the one who asked for it ends.

    python -m eco_eval.engines.supervise CMD ...

The command gets a session of its own. It is ended when standard input reaches its end (whoever started the
supervisor holds the other end, and lets go even when killed), when that process is gone, or on SIGTERM or
SIGINT: SIGINT to its whole process group, SIGKILL after ten seconds. Exits with the command's code.

Only the standard library, because `start` runs this file by its path, in an environment without eco_eval.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

_INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|LD_PRELOAD|VIRTUAL_ENV|XDG_(CACHE|CONFIG)_HOME"
    r"|TRITON_CACHE_DIR|TORCHINDUCTOR_CACHE_DIR|PYTORCH_(CUDA_)?ALLOC_CONF"
    r"|(CUDA|NVIDIA|VLLM|OMP|KMP|GOMP|MKL|NCCL|GLOO|UCX|RAY|ROCR|ROCM|HIP|HSA)_\w+"
)
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_FILE|_PATH)?$")
_UNSAFE = {"VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_SERVER_DEV_MODE", "VLLM_USE_MODELSCOPE"}

_GRACE = 10.0
_POLL = 0.1
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def start(
    command: Sequence[str], *, environ: Mapping[str, str], folder: Path, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a command under a supervisor, which is the process returned.

    Args:
        environ: the command's whole environment.
        folder: its working directory.
        log: a file that receives what it prints.
    """
    # -P: no module is taken from the working directory or from beside this file.
    return subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).resolve()), *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environ),
        cwd=folder,
        # The terminal's Ctrl-C is for the parent, which then ends the command in its own time.
        start_new_session=True,
    )


def end(supervisor: subprocess.Popen[bytes]) -> None:
    """End a supervised command and everything it started; returns when nothing is left of it."""
    if supervisor.stdin is not None:
        with suppress(OSError):
            supervisor.stdin.close()
    try:
        supervisor.wait(_GRACE + 10)
    except subprocess.TimeoutExpired:
        # The kernel then kills the command, which asked for it when it began.
        supervisor.kill()
        supervisor.wait()


def safe_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What whoever loads a stranger's model may know: nothing named like a key, a token or a password."""
    return {
        name: value
        for name, value in environ.items()
        if _INHERITED.fullmatch(name) and not _SECRET.search(name) and name not in _UNSAFE
    }


def tail(log: Path) -> list[str]:
    """The lines of the last 64 KiB of a log that are not blank."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
        return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def main(command: Sequence[str]) -> int:
    """Run the command until it ends or must end; returns its exit code."""
    if not command:
        sys.stderr.write("usage: python -m eco_eval.engines.supervise CMD ...\n")
        return 2
    parent = os.getppid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    child = _Child(command)
    while child.code is None and not asked and os.getppid() == parent and not _input_ended():
        child.reap()
    child.end()
    return child.code if child.code is not None else 1


def _input_ended() -> bool:
    """Wait a moment, and tell whether standard input has ended."""
    try:
        readable, _, _ = select.select([0], [], [], _POLL)
        return bool(readable) and not os.read(0, 4096)
    except OSError:
        return True


class _Child:
    """The command, as leader of its own session and process group."""

    def __init__(self, command: Sequence[str]) -> None:
        self.code: int | None = None
        supervisor = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _become(command, supervisor)

    def reap(self) -> bool:
        """Collect what has ended, orphans of the command too; returns whether any process is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                code = os.waitstatus_to_exitcode(status)
                self.code = code if code >= 0 else 128 - code

    def end(self) -> None:
        """End the group, then whatever left the group but not the supervisor."""
        for number in (signal.SIGINT, signal.SIGKILL):
            self._signal_group(number)
            self._wait_for_group()
        deadline = time.monotonic() + _GRACE
        # A killed process hands its own children to the supervisor: kill until there is none.
        while self.reap() and time.monotonic() < deadline:
            for pid in _children():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL / 10)

    def _group_lives(self) -> bool:
        self.reap()
        return self._signal_group(0)

    def _signal_group(self, number: int) -> bool:
        with suppress(ProcessLookupError):
            os.killpg(self._pid, number)
            return True
        return False

    def _wait_for_group(self) -> None:
        deadline = time.monotonic() + _GRACE
        while self._group_lives() and time.monotonic() < deadline:
            time.sleep(_POLL / 10)


def _become(command: Sequence[str], supervisor: int) -> NoReturn:
    """Turn a fresh fork into the command."""
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == supervisor:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.execvp(command[0], list(command))
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _prctl(option: int, value: int) -> None:
    """Ask the Linux kernel for something about this process; other systems do without."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _children() -> list[int]:
    children = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        # A process may end between being listed and being read.
        with suppress(OSError):
            _, _, fields = entry.read_text(errors="replace").rpartition(")")
            if int(fields.split()[1]) == os.getpid():
                children.append(int(entry.parent.name))
    return children


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
