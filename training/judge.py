"""Train a small judge: put probability on the right grade, given the very conversation a judge is put to.

The judge has one layer whose attention is even, and only its embeddings learn: it weighs words. That is little, and
all that a hundred triples can teach. Free to attend where it likes, the same model learns whole answers by heart and
orders unseen triples worse than a bag of words does (`benchmarks/embedded_judge.py`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eco_eval.engines.chat import encode, render
from eco_eval.engines.labels import label_paths
from eco_eval.errors import InputError
from eco_eval.instrument import Instrument, load_instrument
from eco_eval.judging import direct_conversation
from eco_eval.prompts import read_prompts, select
from eco_eval.sets import find_set
from eco_eval.types import Answer, Prompt, digest
from training.recipes import JudgeRecipe, code_digest
from training.small import Report, made_by, make_model, make_tokenizer, optimise, save

ROLES = ("best", "ambivalent", "worst")


@dataclass(frozen=True)
class Example:
    """One answer as the judge sees it: the ids before its verdict, and which label is right (0 good … 2 bad)."""

    ids: tuple[int, ...]
    label: int


def train_triples(instrument: Instrument) -> tuple[Prompt, ...]:
    """The complete triples of the train split of the instrument's prompt set.

    Raises:
        InputError: there are none.
    """
    from eco_eval.instrument import DATA

    prompts = select(read_prompts(find_set(instrument.source.set, DATA, None).prompts, strict=True), "train")
    whole = tuple(p for p in prompts if p.best and p.ambivalent and p.worst)
    if not whole:
        raise InputError("train.no_triples", set=instrument.source.set)
    return whole


def train_judge(recipe: JudgeRecipe, folder: Path, report: Report) -> bool:
    """Train a judge into `folder`, unless the same recipe, data and code already did.

    Returns:
        Whether anything was trained.

    Raises:
        InputError: the recipe asks for more than one layer, or there is nothing to learn from.
    """
    if recipe.shape.layers != 1:
        raise InputError("train.one_layer", layers=recipe.shape.layers)
    instrument = load_instrument(recipe.instrument)
    triples = train_triples(instrument)
    made = digest(
        {
            "recipe": recipe.model_dump(mode="json"),
            "data": [p.model_dump(mode="json") for p in triples],
            "rubric": instrument.rubric.digest,
            "code": code_digest(),
        }
    )
    if made_by(folder) == made:
        return False
    model, tokenizer = fit(recipe, instrument, triples, report)
    run = {"made_by": made, "stand_in": True, "recipe": recipe.model_dump(mode="json"), "triples": len(triples)}
    save(folder, model, tokenizer, run)
    return True


def fit(recipe: JudgeRecipe, instrument: Instrument, triples: Sequence[Prompt], report: Report) -> Any:
    """The trained model and its tokenizer."""
    texts = [t for p in triples for t in (p.text, p.best or "", p.ambivalent or "", p.worst or "")]
    # A label opens the judge's turn; seen often there, it becomes one token.
    labels = ["\n".join(instrument.rubric.labels[instrument.lang])] * len(texts)
    texts += [instrument.rubric.system(instrument.lang), *labels]
    tokenizer = make_tokenizer(texts, recipe.shape.vocabulary)
    model = make_model(recipe.shape, recipe.schedule, tokenizer, tied=False)
    targets = label_tokens(instrument, tokenizer)
    make_linear(model, targets)
    encoded = [examples(p, instrument, tokenizer) for p in triples]
    shared = shared_length([example.ids for group in encoded for example in group])
    per_batch = max(1, recipe.schedule.batch // len(ROLES))

    def epochs(epoch: int) -> Iterator[list[list[Example]]]:
        chance = random.Random(recipe.schedule.seed * 1000 + epoch)
        order = list(encoded)
        chance.shuffle(order)
        for start in range(0, len(order), per_batch):
            yield order[start : start + per_batch]

    steps = -(-len(triples) // per_batch)

    def loss_of(batch: list[list[Example]]) -> Any:
        return judge_loss(model, batch, shared, targets, tokenizer.pad_token_id, recipe.order_weight)

    optimise(model, recipe.schedule, epochs, steps, loss_of, report)
    return model, tokenizer


MIX = 10.0
"""How strongly the mean of what is read moves the verdict, beside the last token's own state."""

LABEL_SCALE = 8.0
"""Weight of a label's own axis in the head; it sets how sharp probabilities can be."""


def make_linear(model: Any, targets: Sequence[int]) -> None:
    """Make a one-layer model start, and stay, a linear reader of words.

    Queries and keys are zero, so attention is an even mean; values pass through; the feed-forward part adds nothing.
    Each label has an axis of its own on which every token starts at zero: what a token says for a label is the one
    thing there is to learn, and no chance likeness of random vectors speaks for it. On one more axis all tokens stand
    alike and the head is against everything that is not a label, so that whatever is read, a label is said.
    """
    import torch

    layer = model.model.layers[0]
    axes = list(range(len(targets)))
    with torch.no_grad():
        words, head = model.model.embed_tokens.weight, model.lm_head.weight
        words.normal_(0.0, 1.0)
        words[:, axes] = 0.0
        words[:, len(axes)] = 1.0
        head.zero_()
        head[:, len(axes)] = -10 * LABEL_SCALE
        head[list(targets)] = 0.0
        head[list(targets), axes] = LABEL_SCALE
        for matrix in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.mlp.down_proj):
            matrix.weight.zero_()
        torch.nn.init.eye_(layer.self_attn.v_proj.weight)
        torch.nn.init.eye_(layer.self_attn.o_proj.weight).mul_(MIX)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embed_tokens" in name)


def judge_loss(
    model: Any, batch: list[list[Example]], shared: int, targets: Sequence[int], pad: int, order_weight: float
) -> Any:
    """Cross-entropy of the right label over the whole vocabulary, plus a pairwise term inside each triple.

    The pairwise term is −log σ(s_i − s_j) for every i better than j, with s = log p(good) − log p(bad).

    Args:
        batch: triples of examples, in the order best, ambivalent, worst.
        shared: tokens all examples begin with.
        targets: the token of each label.
    """
    import torch
    from torch.nn.functional import cross_entropy, logsigmoid

    examples = [example for group in batch for example in group]
    logits = verdict_logits(model, [example.ids for example in examples], shared, pad)
    right = torch.tensor([targets[example.label] for example in examples])
    loss = cross_entropy(logits, right)
    if order_weight:
        logp = logits.log_softmax(-1)
        s = (logp[:, targets[0]] - logp[:, targets[2]]).view(len(batch), len(ROLES))
        pairs = torch.stack([s[:, 0] - s[:, 1], s[:, 1] - s[:, 2], s[:, 0] - s[:, 2]])
        loss = loss - order_weight * logsigmoid(pairs).mean()
    return loss


def verdict_logits(model: Any, rows: Sequence[Sequence[int]], shared: int, pad: int) -> Any:
    """Next-token logits after each row, shape (rows, vocabulary), of a model with one layer.

    With one layer only the last position has to look back: keys and values of all positions, one query a row.
    This is what the model's own forward pass computes there, some twenty times cheaper, and the keys and values of
    the shared prefix are computed once.
    """
    import torch

    layer, rope = model.model.layers[0], model.model.rotary_emb
    ids, mask = _padded(rows, shared, pad)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)

    def heads(states: Any) -> Any:
        return states.unflatten(-1, (-1, layer.self_attn.head_dim)).transpose(1, 2)

    def keys_values(tokens: Any, at: Any) -> tuple[Any, Any, Any]:
        seen = model.model.embed_tokens(tokens)
        normed = layer.input_layernorm(seen)
        cos, sin = rope(normed, at)
        return seen, _rotated(heads(layer.self_attn.k_proj(normed)), cos, sin), heads(layer.self_attn.v_proj(normed))

    _, k_shared, v_shared = keys_values(ids[:1, :shared], positions[:1, :shared])
    seen, k_own, v_own = keys_values(ids[:, shared:], positions[:, shared:])
    count = len(rows)
    k = torch.cat([k_shared.expand(count, -1, -1, -1), k_own], dim=2)
    v = torch.cat([v_shared.expand(count, -1, -1, -1), v_own], dim=2)
    last = seen[:, -1:]
    cos, sin = rope(last, positions[:, -1:])
    q = _rotated(heads(layer.self_attn.q_proj(layer.input_layernorm(last))), cos, sin)
    bias = torch.zeros(mask.shape).masked_fill(mask == 0, float("-inf"))[:, None, None]
    attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    state = last + layer.self_attn.o_proj(attended.transpose(1, 2).flatten(-2))
    state = state + layer.mlp(layer.post_attention_layernorm(state))
    return model.lm_head(model.model.norm(state))[:, -1]


def _rotated(states: Any, cos: Any, sin: Any) -> Any:
    import torch

    half = states.shape[-1] // 2
    turned = torch.cat([-states[..., half:], states[..., :half]], dim=-1)
    return states * cos.unsqueeze(1) + turned * sin.unsqueeze(1)


def _padded(rows: Sequence[Sequence[int]], shared: int, pad: int) -> tuple[Any, Any]:
    """Ids and attention mask, both of shape (rows, longest), padded between the shared prefix and the rest."""
    import torch

    width = max(len(row) for row in rows)
    ids, mask = [], []
    for row in rows:
        gap = width - len(row)
        ids.append([*row[:shared], *[pad] * gap, *row[shared:]])
        mask.append([1] * shared + [0] * gap + [1] * (len(row) - shared))
    return torch.tensor(ids), torch.tensor(mask)


def examples(prompt: Prompt, instrument: Instrument, tokenizer: Any) -> list[Example]:
    """The three answers of a triple as the judge sees them."""
    found = []
    for label, role in enumerate(ROLES):
        answer = Answer(prompt_id=prompt.id, text=getattr(prompt, role))
        conversation = direct_conversation(prompt, answer, instrument)
        found.append(Example(tuple(encode(tokenizer, render(tokenizer, conversation))), label))
    return found


def label_tokens(instrument: Instrument, tokenizer: Any) -> list[int]:
    """The one token of each label.

    Raises:
        InputError: a label takes several tokens, so that training its first one would not be enough.
    """
    labels = instrument.rubric.labels[instrument.lang]
    _, paths = label_paths(lambda text: encode(tokenizer, text), "<|im_start|>assistant\n", labels)
    if any(len(path) > 1 for path in paths):
        raise InputError("train.labels_split", labels=", ".join(labels))
    return [path[0] for path in paths]


def shared_length(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    low, high = min(rows, key=tuple), max(rows, key=tuple)
    return next(i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
