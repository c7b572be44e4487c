"""Train a toy chat model that imitates written answers: something small and real for the demo to evaluate."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eco_eval.engines.chat import encode, render
from eco_eval.errors import InputError
from eco_eval.instrument import load_instrument
from eco_eval.types import Message, Prompt, digest
from training.judge import train_triples
from training.recipes import ToyRecipe, code_digest
from training.small import Report, made_by, make_model, make_tokenizer, optimise, quiet, save

IGNORED = -100


def train_toy(recipe: ToyRecipe, folder: Path, report: Report) -> bool:
    """Train a toy into `folder`, unless the same recipe, data and code already did.

    Returns:
        Whether anything was trained.

    Raises:
        InputError: it starts from another toy that is not beside `folder`.
    """
    triples = train_triples(load_instrument(recipe.instrument))
    start = folder.parent / recipe.init if recipe.init else None
    if start is not None and made_by(start) is None:
        raise InputError("train.no_init", init=recipe.init, folder=start)
    made = digest(
        {
            "recipe": recipe.model_dump(mode="json"),
            "data": [p.model_dump(mode="json") for p in triples],
            "init": made_by(start) if start else None,
            "code": code_digest(),
        }
    )
    if made_by(folder) == made:
        return False
    model, tokenizer = _start(recipe, start, triples)
    fit(recipe, model, tokenizer, triples, report)
    run = {"made_by": made, "recipe": recipe.model_dump(mode="json"), "triples": len(triples)}
    save(folder, model, tokenizer, run)
    return True


def fit(recipe: ToyRecipe, model: Any, tokenizer: Any, triples: Sequence[Prompt], report: Report) -> None:
    """Next-token training in place on prompts and the wanted answers; the loss counts the answers' tokens alone."""
    rows = [_row(p, getattr(p, role), tokenizer) for p in triples for role in recipe.roles]
    batch = recipe.schedule.batch

    def epochs(epoch: int) -> Iterator[list[tuple[list[int], list[int]]]]:
        order = sorted(rows, key=lambda row: len(row[0]))
        batches = [order[i : i + batch] for i in range(0, len(order), batch)]
        random.Random(recipe.schedule.seed * 1000 + epoch).shuffle(batches)
        yield from batches

    def loss_of(rows: list[tuple[list[int], list[int]]]) -> Any:
        ids, mask, labels = _padded(rows, tokenizer.pad_token_id)
        return model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss

    optimise(model, recipe.schedule, epochs, -(-len(rows) // batch), loss_of, report)


def _start(recipe: ToyRecipe, folder: Path | None, triples: Sequence[Prompt]) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    if folder is not None:
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
        return model, AutoTokenizer.from_pretrained(folder)
    texts = [t for p in triples for t in (p.text, p.best or "", p.ambivalent or "", p.worst or "")]
    tokenizer = make_tokenizer(texts, recipe.shape.vocabulary)
    return make_model(recipe.shape, recipe.schedule, tokenizer), tokenizer


def _row(prompt: Prompt, answer: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of the conversation and the labels, which leave the prompt out."""
    asked = encode(tokenizer, render(tokenizer, (Message(role="user", content=prompt.text),)))
    said = [*encode(tokenizer, answer), tokenizer.eos_token_id]
    return asked + said, [IGNORED] * len(asked) + said


def _padded(rows: Sequence[tuple[list[int], list[int]]], pad: int) -> tuple[Any, Any, Any]:
    """Ids, attention mask and labels, each of shape (rows, longest), padded on the right."""
    import torch

    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in rows])
    return ids, mask, labels
