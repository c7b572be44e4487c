"""What this machine can hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from eco_eval.settings import Settings

SHARE = 0.8
"""Of the memory a model may run in, how much its weights may take: the rest is for what it keeps of a conversation, for
activations and for what serves it. A rule of thumb; what does not fit after all ends as out of memory, and says so."""


class Room(NamedTuple):
    """Where models run here, and how many bytes of weights fit."""

    device: str
    max_bytes: int


def room(engine: str, settings: Settings) -> Room:
    """What fits in the graphics cards an engine uses, or in main memory where there are none.

    A model that the operator's vLLM options split over several cards may be larger.
    """
    cards = _cards(settings.environ)
    if not cards:
        allowed = [] if settings.stage_memory is None else [int(settings.stage_memory * 1e9)]
        return Room("cpu", int(SHARE * min([main_memory(), *allowed])))
    args = settings.vllm_args
    split = _option(args, "--tensor-parallel-size", "-tp") * _option(args, "--pipeline-parallel-size", "-pp")
    used = min(len(cards), split) if engine == "vllm" else 1
    # Every part is of one size, so the smallest card decides. On other nodes nobody can look.
    each = min(memory for _, memory in cards[:used])
    return Room(f"{used} × {cards[0][0]}", int(SHARE * each * max(used, split if engine == "vllm" else 1)))


def main_memory() -> int:
    """Bytes of main memory this process may have.

    That is the machine's memory, or the limit of one of the control groups this process is in (their versions 1 and 2).
    """
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([whole, *group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def group_limits(membership: Path, root: Path) -> Iterator[int]:
    """Limits of memory, in bytes, of the control groups named in a `/proc/PID/cgroup` and of those above them.

    Args:
        root: where control groups are mounted.
    """
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top, file = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
            group = top / place.lstrip("/")
            for folder in (group, *group.parents):
                # A group without a limit says "max", and the highest has no file.
                with suppress(OSError, ValueError):
                    yield int((folder / file).read_text())
                if folder == top:
                    break


def _option(args: Sequence[str], *names: str) -> int:
    """The number after one of these options, 1 where it is not given."""
    pairs = [
        arg.split("=", 1) if "=" in arg else [arg, following]
        for arg, following in zip(args, [*args[1:], ""], strict=True)
    ]
    values = [value for name, value in pairs if name.replace("_", "-") in names and value.isdigit()]
    return max(1, int(values[-1])) if values else 1


def _cards(environ: Mapping[str, str]) -> list[tuple[str, int]]:
    """Name and bytes of memory of each graphics card this process may use."""
    if not find_spec("pynvml"):
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        found = [
            (str(pynvml.nvmlDeviceGetName(one)), int(pynvml.nvmlDeviceGetMemoryInfo(one).total)) for one in handles
        ]
    finally:
        pynvml.nvmlShutdown()
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    return [found[int(i)] for i in visible.split(",") if i.strip().isdigit() and int(i) < len(found)]
