"""One training run on `transformers.Trainer`: it goes on where it was cut, and draws its learning curve."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eco_eval.errors import InputError
from training.curve import Part, Point, measured
from training.recipes import JudgeRecipe
from training.small import Report, quiet
from training.verdicts import ROLES, Example, Group, judge_loss

Logprobs = Callable[[Any, Sequence[Example]], Any]
"""Model and rows to the log-probability of each label, shape (rows, labels), with gradient."""

SAMPLE = 24
"""Triples of what is learnt from that the learning curve is measured on."""


def learn(
    model: Any,
    train: Sequence[Group],
    validation: Sequence[Group],
    recipe: JudgeRecipe,
    logprobs: Logprobs,
    checkpoints: Path,
    report: Report,
) -> list[Point]:
    """Train in place and return the learning curve.

    Args:
        train, validation: triples to learn from, and to measure on after each epoch (may be none).
        checkpoints: folder for a checkpoint an epoch. A run that finds one there goes on from it, and ends with the
            weights it would have had uncut.
    """
    from transformers import PrinterCallback, Trainer

    quiet()
    sample = random.Random(recipe.schedule.seed).sample(list(train), min(SAMPLE, len(train)))
    parts: dict[Part, Sequence[Group]] = {"train": sample, "validation": validation}

    def compute_loss(self: Any, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
        loss = _loss(model, inputs["groups"], recipe, logprobs)[0]
        report(self.state.global_step + 1, self.state.max_steps, float(loss.detach()))
        return loss

    def evaluate(self: Any, *_: Any, **__: Any) -> dict[str, float]:
        for part, groups in parts.items():
            if groups:
                with self.compute_loss_context_manager():
                    point = _measure(self.model, round(self.state.epoch), part, groups, recipe, logprobs)
                self.log({"point": point.model_dump()})
        return {}

    # `Trainer` has no types to inherit from, so its subclass is made by hand. The estimate of operations it would
    # keep knows no batch of ours.
    methods = {"compute_loss": compute_loss, "evaluate": evaluate, "floating_point_ops": lambda *_: 0}
    judge_trainer: Any = type("JudgeTrainer", (Trainer,), methods)
    trainer = judge_trainer(
        model=model,
        args=_arguments(recipe, checkpoints),
        data_collator=lambda groups: {"groups": groups},
        train_dataset=list(train),
        eval_dataset=list(train),
    )
    trainer.loss_is_scaled_for_ga = False  # `judge_loss` is the mean of its batch
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_last_checkpoint(checkpoints))
    model.eval()
    return [Point.model_validate(entry["point"]) for entry in trainer.state.log_history if "point" in entry]


def require(*libraries: str) -> None:
    """Say before the work, and not amid it, what is not installed.

    Raises:
        InputError: a library of the extra `train` is missing.
    """
    for library in libraries:
        if find_spec(library) is None:
            raise InputError("train.extra_missing", library=library)


def _arguments(recipe: JudgeRecipe, checkpoints: Path) -> Any:
    """The Trainer's settings.

    A model from nothing is small and stays on the CPU: the same everywhere. What is fine-tuned goes to the GPU where
    there is one, in bfloat16, and computes activations again in the backward pass, which is what memory is short of.
    """
    import torch
    from transformers import TrainingArguments

    schedule, tuned = recipe.schedule, recipe.base is not None
    gpu = tuned and torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=triples_a_batch(recipe),
        gradient_accumulation_steps=recipe.accumulate,
        num_train_epochs=schedule.epochs,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=schedule.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        seed=schedule.seed,
        bf16=gpu,
        use_cpu=not gpu,
        gradient_checkpointing=tuned,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def triples_a_batch(recipe: JudgeRecipe) -> int:
    """A batch holds whole triples: at least one."""
    return max(1, recipe.schedule.batch // len(ROLES))


def _loss(model: Any, groups: Sequence[Group], recipe: JudgeRecipe, logprobs: Logprobs) -> tuple[Any, Any]:
    """The loss of a batch, and the log-probabilities it comes from."""
    found = logprobs(model, [example for group in groups for example in group])
    return judge_loss(found, groups, recipe.order_weight), found


def _measure(
    model: Any, epoch: int, part: Part, groups: Sequence[Group], recipe: JudgeRecipe, logprobs: Logprobs
) -> Point:
    import torch

    model.eval()
    size, total = triples_a_batch(recipe), 0.0
    shares: list[list[float]] = []
    with torch.no_grad():
        for start in range(0, len(groups), size):
            batch = groups[start : start + size]
            loss, found = _loss(model, batch, recipe, logprobs)
            total += float(loss) * len(batch)
            shares += found.double().softmax(-1).tolist()
    return measured(epoch, part, total / len(groups), shares)


def _last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint: the state is the last thing written into one."""
    whole: dict[int, Path] = {}
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            whole[int(json.loads(state.read_text())["global_step"])] = state.parent
        except ValueError:
            continue
    return str(whole[max(whole)]) if whole else None
