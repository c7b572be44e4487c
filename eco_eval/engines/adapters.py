"""Which LoRA adapters vLLM can serve, and how it is told to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eco_eval.engines.chat import loading
from eco_eval.errors import InputError

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The only values of `--max-lora-rank` (`MaxLoRARanks` in `vllm/config/lora.py`, 0.32)."""

_REFUSED = (
    *("modules_to_save", "trainable_token_indices", "lora_bias", "use_dora", "use_qalora", "use_bdlora"),
    *("alora_invocation_tokens", "layer_replication", "target_parameters"),
)
"""Fields of PEFT that vLLM refuses when it is asked first, ignores, or has not been tried with here."""

_MATRIX = re.compile(r"\.(lora_[AB]\.weight|lora_embedding_[AB])$")


def vllm_options(path: Path, adapter: Path, model: str) -> list[str]:
    """The options that let vLLM put an adapter on a model, if all of it can be served.

    vLLM reads of `adapter_config.json` what it knows and passes over the rest, over changed embeddings and over
    matrices for layers that the model has not, so all of them are refused here.

    Args:
        path: the model's folder.
        adapter: the adapter's folder.
        model: what messages call it.

    Raises:
        InputError: `vllm.adapter`, which names the field or the tensor.
        EngineError: `engine.load_failed` where the files cannot be read.
    """
    with loading(model):
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        base = json.loads((path / "config.json").read_text(encoding="utf-8"))
        tensors = _names(adapter / "adapter_model.safetensors")
        rank = max(config["r"], *(config.get("rank_pattern") or {}).values(), 1)
        wrong = _unservable(config, rank) or _misfit(
            tensors, (base.get("text_config") or base).get("num_hidden_layers")
        )
    if wrong is not None:
        raise InputError("vllm.adapter", model=model, field=ascii(wrong[:100])[1:-1])
    most = next(known for known in VLLM_RANKS if known >= rank)
    return ["--enable-lora", "--max-loras=1", f"--max-lora-rank={most}"]


def _unservable(config: dict[str, Any], rank: int) -> str | None:
    """The first field of the configuration that vLLM cannot serve."""
    if config.get("bias", "none") != "none":
        return "bias"
    return next((field for field in _REFUSED if config.get(field)), "r" if rank > VLLM_RANKS[-1] else None)


def _misfit(tensors: Iterable[str], layers: object) -> str | None:
    """The first tensor that is no matrix of a LoRA, or is for a layer the model has not."""
    for name in sorted(tensors):
        layer = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", name)
        if not _MATRIX.search(name) or (layer and isinstance(layers, int) and int(layer[1]) >= layers):
            return name
    return None


def _names(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="np") as opened:
        return list(opened.keys())
