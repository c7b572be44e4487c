"""A one-layer model that weighs words: how it starts, and its verdict some twenty times cheaper.

Its attention is even and only its embeddings learn. That is little, and all that a hundred triples can teach. Free to
attend where it likes, the same model learns whole answers by heart (`benchmarks/embedded_judge.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.verdicts import Example

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


def linear_logprobs(model: Any, rows: Sequence[Example], shared: int, pad: int) -> Any:
    """As `verdicts.label_logprobs`, for a model with one layer and labels of one token."""
    logp = verdict_logits(model, [row.ids for row in rows], shared, pad).log_softmax(-1)
    return logp[:, [path[0] for path in rows[0].paths]]


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


def shared_length(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    low, high = min(rows, key=tuple), max(rows, key=tuple)
    return next(i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
