"""Whether a configuration describes a model of the size of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from eco_eval.errors import SubmissionRejected

_NAMES = {
    "vocabulary": ("vocab_size",),
    "width": ("hidden_size", "n_embd", "d_model", "dim"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "inner": ("intermediate_size", "n_inner", "ffn_dim", "d_ff"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts", "num_routed_experts"),
}
_MOST = {"vocabulary": 2**24, "width": 2**20, "layers": 2_000, "inner": 2**24, "heads": 2**14, "experts": 2**14}
_SLACK = 3
_FEWEST_BITS = 2


def architecture_of(model: str, config: Mapping[str, Any]) -> str:
    """The first architecture a configuration names.

    Raises:
        SubmissionRejected: `model.no_architecture`.
    """
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    if not isinstance(first, str) or not re.fullmatch(r"[A-Za-z_]\w{0,99}", first, re.ASCII):
        raise SubmissionRejected("model.no_architecture", model=model)
    return first


def dtype_of(model: str, config: Mapping[str, Any]) -> str:
    """The type of numbers a configuration asks for, `float32` where it says none.

    Raises:
        SubmissionRejected: `model.bad_config_field`.
    """
    said = config.get("dtype") or config.get("torch_dtype") or "float32"
    if not isinstance(said, str) or not re.fullmatch(r"[a-z][a-z0-9_.]{1,30}", said):
        raise SubmissionRejected("model.bad_config_field", model=model, field="dtype")
    return said


def quantisation_of(model: str, config: Mapping[str, Any]) -> str:
    """The method that a configuration says its weights are quantised by, empty where it says none.

    Raises:
        SubmissionRejected: `model.bad_config_field`.
    """
    said = config.get("quantization_config") or {}
    method = said.get("quant_method") or "" if isinstance(said, dict) else None
    if not isinstance(method, str) or not re.fullmatch(r"([a-z0-9][a-z0-9_.-]{0,29})?", method, re.ASCII):
        raise SubmissionRejected("model.bad_config_field", model=model, field="quantization_config")
    return method


def check_size(model: str, config: Mapping[str, Any], parameters: int, weights: int) -> None:
    """Refuse a configuration of a much larger model than its weights: what is missing would be made up in memory.

    The weights are believed. Of the configuration only the least it asks for is counted, in numbers:
    `vocabulary × width + layers × (width² + 2 × width × inner)`. That may be up to three times what the weights have,
    because some families share layers or leave parts out; quantised weights are counted at 2 bits a number.

    Args:
        parameters: how many numbers the weights have.
        weights: their bytes.

    Raises:
        SubmissionRejected: `model.bad_config_field` for one number that no model has, `model.other_size`.
    """
    texts = config.get("text_config")
    text = texts if isinstance(texts, dict) else config
    sizes = {}
    for what, names in _NAMES.items():
        name = next((name for name in names if type(text.get(name)) is int), None)
        sizes[what] = text[name] if name is not None else 0
        if name is not None and not 0 <= sizes[what] <= _MOST[what]:
            raise SubmissionRejected("model.bad_config_field", model=model, field=name)
    width, inner = sizes["width"], sizes["inner"]
    implied = sizes["vocabulary"] * width + sizes["layers"] * (width**2 + 2 * width * inner)
    most = weights * 8 // _FEWEST_BITS if config.get("quantization_config") else _SLACK * parameters
    if implied > most:
        raise SubmissionRejected(
            "model.other_size", model=model, implied=_millions(implied), found=_millions(parameters)
        )


def _millions(number: int) -> int:
    return -(-number // 1_000_000)
