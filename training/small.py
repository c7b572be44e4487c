"""Small models from nothing: tokenizer, model, schedule, and a folder that any engine can serve."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from training.recipes import Schedule, Shape

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Report = Callable[[int, int, float], None]
"""Called as `report(step, steps, loss)`."""


def make_tokenizer(texts: Sequence[str], vocabulary: int, *, phrases: bool = False) -> Any:
    """A byte-level BPE tokenizer trained on the texts, with a ChatML template.

    Args:
        texts: what the model will read.
        vocabulary: size in tokens; smaller when the texts do not have that many pairs.
        phrases: a token may reach across words, so that it can be a turn of phrase.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not phrases)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def make_model(shape: Shape, schedule: Schedule, tokenizer: Any, *, tied: bool = True) -> Any:
    """A Llama of the given shape with random weights, in float32; `tied` shares embeddings with the head."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(schedule.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=shape.context,
        attention_dropout=schedule.dropout,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def optimise(
    model: Any,
    schedule: Schedule,
    epochs: Callable[[int], Iterator[Any]],
    steps_per_epoch: int,
    loss_of: Callable[[Any], Any],
    report: Report,
) -> None:
    """Train in place.

    Args:
        epochs: epoch number to an iterator of batches.
        loss_of: batch to a scalar loss with gradient.
    """
    import torch

    total = schedule.epochs * steps_per_epoch
    warm = max(1, total // 10)
    learning = [p for p in model.parameters() if p.requires_grad]
    decays = [p for p in learning if p.ndim > 1]
    others = [p for p in learning if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decays, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=schedule.learning_rate,
        betas=(0.9, 0.98),
    )

    def rate(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    torch.manual_seed(schedule.seed)
    model.train()
    step = 0
    for epoch in range(schedule.epochs):
        for batch in epochs(epoch):
            loss = loss_of(batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            scheduler.step()
            step += 1
            report(step, total, float(loss.detach()))
    model.eval()


def save(
    folder: Path,
    model: Any,
    tokenizer: Any,
    run: dict[str, object],
    beside: Callable[[Path], None] = lambda _: None,
) -> None:
    """Write the whole folder or nothing: weights as safetensors, tokenizer, and `run.json` that says what made it.

    Args:
        beside: called with the folder while it is not there yet, to write more into it.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    quiet()
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    beside(partial)
    (partial / "run.json").write_text(json.dumps(run, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def quiet() -> None:
    """Keep the library's own progress bars out of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def made_by(folder: Path) -> str | None:
    """The digest of what made a folder, or None when there is no finished folder."""
    try:
        return str(json.loads((folder / "run.json").read_text())["made_by"])
    except (OSError, ValueError, KeyError):
        return None
