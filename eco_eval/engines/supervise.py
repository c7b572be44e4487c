"""Run a command and end it, with everything it started, as soon as the one who asked for it ends.

    python -m eco_eval.engines.supervise [--temporary=FOLDER] [--limits=BYTES,SECONDS] CMD ...

The command gets a session of its own. It is ended when standard input reaches its end (whoever started the
supervisor holds the other end, and lets go even when killed), when that process is gone, or on SIGTERM or
SIGINT: SIGINT to its whole process group, SIGKILL after ten seconds. Exits with the command's code.

With limits, the command and all it starts are killed at once where together they take more memory than that, or after
so many seconds; the exit code then is `OVER_MEMORY` or `OVER_TIME`. A temporary folder is removed at the end.

Only the standard library, because `start` runs this file by its path, in an environment without eco_eval.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

_INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|LD_PRELOAD|VIRTUAL_ENV|XDG_(CACHE|CONFIG)_HOME"
    r"|PYTHONUSERBASE"
    r"|TRITON_CACHE_DIR|TORCHINDUCTOR_CACHE_DIR|PYTORCH_(CUDA_)?ALLOC_CONF"
    r"|(CUDA|NVIDIA|VLLM|OMP|KMP|GOMP|MKL|NCCL|GLOO|UCX|RAY|ROCR|ROCM|HIP|HSA)_\w+"
)
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_FILE|_PATH)?$")
_UNSAFE = {"VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_SERVER_DEV_MODE", "VLLM_USE_MODELSCOPE"}

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_TOKEN_PATH": "/dev/null",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""Variables under which the libraries that load a model ask nothing of the network."""

OVER_MEMORY, OVER_TIME = 201, 202
"""Exit codes of a supervisor whose command went over its limits."""

_GRACE = 10.0
_POLL = 0.1
_MEASURE = 1.0
_MOST_FILES = 4096
# Logs and what compilers keep: nothing that serves a model writes its weights again.
_LARGEST_FILE = 8 * 10**9
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Limits:
    """What a command and everything it starts may take together.

    With limits it also has at most 4,096 open files a process, writes no file above 8 GB and no core dump, and is the
    first that the kernel kills where the machine runs out of memory.

    memory: bytes of main memory; what they share counts once, and files read through memory not at all, because the
        kernel takes those back. Neither do files in memory (tmpfs) that are not mapped, nor a device's own memory.
    seconds: of wall-clock time.
    """

    memory: int
    seconds: float


def start(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    folder: Path,
    log: IO[bytes],
    limits: Limits | None = None,
    pass_fds: Sequence[int] = (),
    temporary: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a command under a supervisor, which is the process returned.

    Args:
        environ: the command's whole environment.
        folder: its working directory.
        log: a file that receives what it prints.
        limits: None for none.
        pass_fds: open files the command gets, under the same numbers.
        temporary: whether the folder goes with it, also where this process is killed.
    """
    options = [f"--temporary={folder}"] if temporary else []
    options += [] if limits is None else [f"--limits={limits.memory},{limits.seconds}"]
    # -P: no module is taken from the working directory or from beside this file.
    return subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).resolve()), *options, *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environ),
        cwd=folder,
        # The terminal's Ctrl-C is for the parent, which then ends the command in its own time.
        start_new_session=True,
        pass_fds=pass_fds,
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
    """The lines of the last 64 KiB of a log that are not blank, without what would steer a terminal."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
        lines = file.read().decode(errors="replace").splitlines()
    plain = ("".join(c for c in line.expandtabs() if c.isprintable()) for line in lines)
    return [line for line in plain if line.strip()]


def main(arguments: Sequence[str]) -> int:
    """Run the command until it ends or must end; returns its exit code."""
    temporary, arguments = _option("--temporary=", arguments)
    limited, command = _option("--limits=", arguments)
    if not command:
        sys.stderr.write(
            "usage: python -m eco_eval.engines.supervise [--temporary=FOLDER] [--limits=BYTES,SECONDS] CMD ...\n"
        )
        return 2
    memory, _, seconds = limited.partition(",")
    try:
        return _run(command, Limits(int(memory), float(seconds)) if limited else None)
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _option(name: str, arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The value of an option that may come first, and the other arguments."""
    if arguments and arguments[0].startswith(name):
        return arguments[0].removeprefix(name), arguments[1:]
    return "", arguments


def _run(command: Sequence[str], limits: Limits | None) -> int:
    parent = os.getppid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    child, guard, over = _Child(command, limits), _Guard(limits), None
    while child.code is None and not asked and over is None and os.getppid() == parent and not _input_ended():
        child.reap()
        over = guard.exceeded()
    child.end(at_once=over is not None)
    if over is not None:
        return over
    return child.code if child.code is not None else 1


def _input_ended() -> bool:
    """Wait a moment, and tell whether standard input has ended."""
    try:
        readable, _, _ = select.select([0], [], [], _POLL)
        return bool(readable) and not os.read(0, 4096)
    except OSError:
        return True


class _Guard:
    """Looks now and then whether the command and all it started keep to their limits."""

    def __init__(self, limits: Limits | None) -> None:
        self._limits, self._started, self._next = limits, time.monotonic(), 0.0

    def exceeded(self) -> int | None:
        """`OVER_TIME`, `OVER_MEMORY`, or None."""
        now = time.monotonic()
        if self._limits is None:
            return None
        if now - self._started > self._limits.seconds:
            return OVER_TIME
        if now < self._next:
            return None
        taken = sum(map(_memory, _descendants()))
        # On a machine with thousands of processes measuring takes a while itself.
        self._next = time.monotonic() + max(_MEASURE, 10 * (time.monotonic() - now))
        return OVER_MEMORY if taken > self._limits.memory else None


def _memory(pid: int) -> int:
    """Bytes of main memory that a process takes for itself, or its part of what it shares; see `Limits`."""
    # Not resident size: it counts a shared page once a process, and a file's pages, which are only a cache of it.
    with suppress(OSError):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        parts = dict(re.findall(r"^(Pss_Anon|Pss_Shmem|SwapPss): +(\d+) kB", rollup, re.MULTILINE))
        if "Pss_Anon" in parts:
            return 1024 * sum(map(int, parts.values()))
    # Kernels before 5.4 and some containers do not tell more, nor does a process that forbids being looked at.
    with suppress(OSError):
        _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    return 0


class _Child:
    """The command, as leader of its own session and process group."""

    def __init__(self, command: Sequence[str], limits: Limits | None) -> None:
        self.code: int | None = None
        supervisor = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _become(command, supervisor, limits)

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

    def end(self, *, at_once: bool) -> None:
        """End the group, then whatever left the group but not the supervisor."""
        for number in (signal.SIGKILL,) if at_once else (signal.SIGINT, signal.SIGKILL):
            self._signal_group(number)
            self._wait_for_group()
        deadline = time.monotonic() + _GRACE
        # A killed process hands its own children to the supervisor: kill until there is none.
        while self.reap() and time.monotonic() < deadline:
            for pid in _descendants():
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


def _become(command: Sequence[str], supervisor: int, limits: Limits | None) -> NoReturn:
    """Turn a fresh fork into the command."""
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == supervisor:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if limits is not None:
                _restrain()
            os.execvp(command[0], list(command))
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _restrain() -> None:
    """Limits that the kernel keeps, for this process and whatever it starts."""
    # Not RLIMIT_AS: CUDA reserves hundreds of gigabytes of addresses that it never fills.
    for what, most in (
        (resource.RLIMIT_NOFILE, _MOST_FILES),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        _, allowed = resource.getrlimit(what)
        limit = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        resource.setrlimit(what, (limit, limit))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _prctl(option: int, value: int) -> None:
    """Ask the Linux kernel for something about this process; other systems do without."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _descendants() -> list[int]:
    """Everything below this process: it adopts what its children leave behind, so nothing gets out from under it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        # A process may end between being listed and being read.
        with suppress(OSError):
            _, _, fields = entry.read_text(errors="replace").rpartition(")")
            parents[int(entry.parent.name)] = int(fields.split()[1])
    found: list[int] = []
    last = {os.getpid()}
    while last:
        last = {pid for pid, parent in parents.items() if parent in last}
        found += last
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
