"""A LoRA adapter of a tiny model, trained in appearance only: every number that training would move is random."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def make_tiny_adapter(path: Path, base: Path, *, seed: int = 0, **options: Any) -> Path:
    """Save an adapter that changes what the base says.

    Args:
        path: the folder to make.
        base: the folder of the model it goes on.
        seed: of its numbers.
        options: of `peft.LoraConfig`, over rank 4 on three of the layers' matrices.

    Returns:
        The folder.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], **options}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base, dtype="float32"),
            LoraConfig(task_type="CAUSAL_LM", **settings),
        )
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(path)
    return path
