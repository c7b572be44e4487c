"""LoRA adapters: which of them can be put on a base model without doing anything else.

PEFT reads more from `adapter_config.json` than numbers: names of modules to import, files to load, regular expressions,
layers to repeat. Only what a plain LoRA needs is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from eco_eval.candidates.files import ADAPTER_CONFIG, HUB_ID, check_name, check_no_auto_map
from eco_eval.candidates.weights import Tensor
from eco_eval.errors import SubmissionRejected

MAX_RANK = 1024
_MAX_MODULES = 2000

_INERT = {
    *("peft_type", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    *("r", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora", "lora_bias"),
    *("layers_to_transform", "trainable_token_indices", "megatron_core", "qalora_group_size", "runtime_config"),
    *("ensure_weight_tying", "target_modules", "exclude_modules", "modules_to_save", "layers_pattern"),
    *("target_parameters", "rank_pattern", "alpha_pattern", "init_lora_weights"),
}
_MODULES = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "target_parameters")
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


def check_adapter(model: str, config: Mapping[str, Any]) -> str:
    """Refuse an adapter that is more than a plain LoRA, from its configuration.

    DoRA is one of those: vLLM cannot serve it, and transformers 5.19 leaves half of it out when it loads one.

    Returns:
        Its base model, as a name of the Hub with the revision where it says one, or as it stands there.

    Raises:
        SubmissionRejected: `model.auto_map`, `model.not_lora`, `model.adapter_field`, `model.adapter_rank`,
            `model.no_base`.
    """
    check_no_auto_map(model, ADAPTER_CONFIG, config)
    if config.get("peft_type") != "LORA":
        raise SubmissionRejected("model.not_lora", model=model, kind=str(config.get("peft_type"))[:50])
    sound = {name: _is_names(config.get(name), name) for name in _MODULES}
    sound |= {name: _is_pattern(config.get(name)) for name in ("rank_pattern", "alpha_pattern")}
    sound |= {name: not value for name, value in config.items() if name not in _INERT}
    start = config.get("init_lora_weights")
    sound["init_lora_weights"] = any(start is one for one in (True, False, None)) or start in _HARMLESS_STARTS[3:]
    sound["task_type"] = config.get("task_type") in (None, "CAUSAL_LM")
    wrong = next((name for name, is_sound in sound.items() if not is_sound), None)
    if wrong is not None:
        raise SubmissionRejected("model.adapter_field", model=model, field=ascii(wrong[:50])[1:-1])
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(type(rank) is int and 1 <= rank <= MAX_RANK for rank in ranks):
        raise SubmissionRejected("model.adapter_rank", model=model, limit=MAX_RANK)
    return _base(model, config)


def check_adapter_weights(model: str, file: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse matrices of a rank that no configuration may say.

    Raises:
        SubmissionRejected: `model.adapter_rank`, or `model.no_weights` where there is no LoRA matrix at all.
    """
    matrices = [
        tensor for name, tensor in tensors.items() if re.search(r"\.lora_(A|B|embedding_A|embedding_B)\b", name)
    ]
    if not matrices:
        raise SubmissionRejected("model.no_weights", model=model, file=file)
    if any(len(tensor.shape) < 2 or min(tensor.shape) > MAX_RANK for tensor in matrices):
        raise SubmissionRejected("model.adapter_rank", model=model, limit=MAX_RANK)


def _base(model: str, config: Mapping[str, Any]) -> str:
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base.strip() or not (revision is None or isinstance(revision, str)):
        raise SubmissionRejected("model.no_base", model=model)
    if not revision or not HUB_ID.fullmatch(base):
        return base
    pinned = f"{base}@{revision}"
    check_name(pinned)
    return pinned


def _is_names(value: object, field: str) -> bool:
    if value is None or (value == "all-linear" and field == "target_modules"):
        return True
    return isinstance(value, list) and len(value) <= _MAX_MODULES and all(map(_is_plain, value))


def _is_pattern(value: object) -> bool:
    return value is None or (isinstance(value, dict) and len(value) <= _MAX_MODULES and all(map(_is_plain, value)))


def _is_plain(name: object) -> bool:
    # PEFT uses most of these as regular expressions, which can take for ever.
    return isinstance(name, str) and re.fullmatch(r"[\w.-]{1,200}", name, re.ASCII) is not None
