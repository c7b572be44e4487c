"""Memory that runs out is told from everything else, by the very words of torch 2.13 and vLLM 0.32."""

from __future__ import annotations

import pytest

from eco_eval.engines.causes import cause_in, first_line, is_out_of_memory, shortage_in

PREFIX = "(EngineCore pid=7) ERROR 11-20 10:00:00 [core.py:1201] "

# As vLLM and torch write them; each file is named with what it says.
NO_MEMORY = {
    "c10/cuda/CUDACachingAllocator.cpp": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9.28 GiB. GPU 0 has a total capacity of 139 GiB "
        "of which 3.12 GiB is free."
    ),
    "c10/cuda/CUDAException.cpp": "torch.AcceleratorError: CUDA error: out of memory",
    "aten/src/ATen/cuda/Exceptions.cpp": (
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
    "c10/core/impl/alloc_cpu.cpp": (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 9964324126720 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "vllm/v1/worker/gpu_model_runner.py": (
        "RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy requests. Please try "
        "lowering `max_num_seqs` or `gpu_memory_utilization` when initializing the engine."
    ),
    "vllm/v1/core/kv_cache_utils.py": (
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
        "initializing the engine (this flag also controls CPU memory reservation on the CPU backend, despite its name)."
    ),
    "vllm/v1/worker/utils.py": (
        "ValueError: Free memory on device cuda:0 (1.2/79.1 GiB) on startup is less than desired GPU memory "
        "utilization (0.92, 72.8 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
    ),
    "vllm/v1/worker/utils.py, weights elsewhere": (
        "ValueError: Free memory on device cuda:0 (1.2/79.1 GiB) on startup is less than the engine's budget after "
        "excluding external process's weights (0.92, 72.8 GiB)."
    ),
    "vllm/v1/worker/cpu_worker.py": (
        "ValueError: Available memory on node 0 (20.1/23.4 GiB) on kv cache allocation is less than requested memory "
        "for kv (100000.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by "
        "other processes."
    ),
    "vllm/v1/engine/utils.py, killed": (
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}"
    ),
    "Python": "MemoryError",
}
KILLED = (
    "ERROR 11-20 10:00:00 [multiproc_executor.py:315] Worker proc VllmWorker-1 died unexpectedly (exit code: -9), shut"
)
# vllm/v1/core/kv_cache_utils.py
NO_ROOM = (
    "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (3.2 GiB). Based on the available memory, the estimated "
    "maximum model length is 26208."
)
# vllm/v1/worker/gpu_worker.py: what it notes when all is well.
NOTE = (
    "(EngineCore pid=7) INFO 11-20 10:00:00 [gpu_worker.py:1013] Free memory on device (70.1/79.1 GiB) on startup. "
    "Desired GPU memory utilization is (0.92, 72.8 GiB)."
)


@pytest.mark.parametrize("message", NO_MEMORY.values(), ids=NO_MEMORY)
@pytest.mark.parametrize("prefix", [PREFIX, ""])
def test_a_server_that_ran_out_of_memory_is_known_by_its_last_words(message: str, prefix: str) -> None:
    log = [
        NOTE,
        prefix + message,
        f"{PREFIX}RuntimeError: Engine core initialization failed. Failed core proc(s): {{}}",
    ]
    assert cause_in(log) == message
    assert shortage_in(log) == "memory"


def test_a_worker_that_the_kernel_killed_is_known() -> None:
    assert shortage_in([NOTE, KILLED, f"{PREFIX}vllm.v1.engine.exceptions.EngineDeadError: See above."]) == "memory"
    assert shortage_in([KILLED.replace("-9", "1")]) is None


def test_a_context_that_does_not_fit_beside_the_model_is_something_else() -> None:
    assert shortage_in([NOTE, PREFIX + NO_ROOM]) == "context"


@pytest.mark.parametrize(
    "log",
    [
        [],
        [NOTE],
        [NOTE, f"{PREFIX}ValueError: expected target modules in {{'q_proj'}} but received ['w']"],
        # The first exception is the cause; what fails after it may complain of memory.
        [f"{PREFIX}KeyError: 'model.w'", f"{PREFIX}{NO_MEMORY['c10/cuda/CUDACachingAllocator.cpp']}"],
        [f"{PREFIX}RuntimeError: Engine core initialization failed. Failed core proc(s): {{'EngineCore': 1}}"],
    ],
)
def test_any_other_end_is_not_for_lack_of_memory(log: list[str]) -> None:
    assert shortage_in(log) is None


def test_an_exception_is_known_by_its_type_its_words_or_what_it_came_of() -> None:
    import torch

    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(RuntimeError(NO_MEMORY["c10/core/impl/alloc_cpu.cpp"]))
    wrapped = RuntimeError("while loading")
    wrapped.__cause__ = OSError(12, "Cannot allocate memory")
    assert is_out_of_memory(wrapped)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(OSError(2, "No such file"))


def test_an_exception_is_told_in_one_line() -> None:
    assert first_line(ValueError("first\nsecond")) == "first"
    assert first_line(ValueError()) == "ValueError"
