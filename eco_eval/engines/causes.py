"""Why a model could not be loaded or run: read from what was raised, or from the log of a server that ended."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

# One line a message, with the file that says it: of torch 2.13 and vLLM 0.32.
_NO_MEMORY = re.compile(
    r"OutOfMemoryError"  # torch/csrc/Exceptions.h, the type of the next
    # c10/cuda/CUDACachingAllocator.cpp; vllm/v1/worker/gpu_model_runner.py begins its own with the same words
    r"|(CUDA|HIP|XPU|MPS backend) out of memory"
    r"|CUDA error: out of memory"  # c10/cuda/CUDAException.cpp
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"  # aten/src/ATen/cuda/Exceptions.cpp
    r"|DefaultCPUAllocator: can't allocate memory"  # c10/core/impl/alloc_cpu.cpp
    r"|\bMemoryError\b|std::bad_alloc|Cannot allocate memory"  # Python, C++, errno ENOMEM
    r"|No available memory for the cache blocks"  # vllm/v1/core/kv_cache_utils.py
    r"|Free memory on device .* is less than (desired|the engine's)"  # vllm/v1/worker/utils.py
    r"|Externally held weights on device .* exceed"  # vllm/v1/worker/utils.py
    r"|Available memory on node .* is less than"  # vllm/v1/worker/cpu_worker.py
    # The kernel kills whoever asks for the last of the memory, and that process says nothing itself.
    r"|Failed core proc\(s\): \{.*: -9\b"  # vllm/v1/engine/utils.py
)
_KILLED = re.compile(
    r"Worker proc .* died unexpectedly \(exit code: -9\)"  # vllm/v1/executor/multiproc_executor.py
)
_NO_ROOM = re.compile(r"cache is needed, which is larger than the available KV cache")  # vllm/v1/core/kv_cache_utils.py

_EXCEPTION = re.compile(r"(?:\(.* pid=\d+\) ERROR .*?\] )?((?:\w+\.)*\w*(?:Error|Exception)(?:: .*|$))")


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or what it came of, is that memory ran out: the device's or the machine's."""
    return any(
        isinstance(one, MemoryError) or _NO_MEMORY.search(f"{type(one).__name__}: {one}") for one in _line(error)
    )


def _line(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    rest: BaseException | None = error
    while rest is not None and id(rest) not in seen:
        seen.add(id(rest))
        yield rest
        rest = rest.__cause__ or rest.__context__


def cause_in(lines: Sequence[str]) -> str:
    """The line of a server's log that says why it ended; its last one where no exception is there."""
    # vLLM's processes fail one because of the other: the first exception is the cause.
    errors = [match[1] for match in map(_EXCEPTION.match, lines) if match]
    return (errors or list(lines[-1:]) or [""])[0]


def shortage_in(lines: Sequence[str]) -> Literal["memory", "context"] | None:
    """What vLLM had too little of, by its log: memory, or within it room for one conversation as long as the context.

    Only the cause is read: other lines speak of memory too when there is enough. A process that the kernel killed in
    the middle of a run leaves no trace in the log of a server with one process for its model.
    """
    cause = cause_in(lines)
    if _NO_ROOM.search(cause):
        return "context"
    return "memory" if _NO_MEMORY.search(cause) or any(map(_KILLED.search, lines)) else None
