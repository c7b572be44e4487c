"""What a judge is trained on: the log-probability of each label as an engine will read it, and one loss on them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eco_eval.engines.chat import encode, render
from eco_eval.engines.labels import TokenPath, label_paths
from eco_eval.errors import InputError
from eco_eval.instrument import Instrument
from eco_eval.judging import direct_conversation
from eco_eval.types import Answer, Prompt

ROLES = ("best", "ambivalent", "worst")


@dataclass(frozen=True)
class Example:
    """One answer as the judge sees it: the ids before its verdict, each label's tokens, and which label is right.

    Labels go from good (0) to bad (2).
    """

    ids: tuple[int, ...]
    paths: tuple[TokenPath, ...]
    label: int


Group = tuple[Example, ...]
"""The answers of one triple, in the order of ROLES."""


def examples(prompt: Prompt, instrument: Instrument, tokenizer: Any) -> Group:
    """The three answers of a triple as the judge sees them.

    Raises:
        InputError: the tokenizer cannot tell the labels apart.
    """
    labels = instrument.rubric.labels[instrument.lang]
    found = []
    for label, role in enumerate(ROLES):
        answer = Answer(prompt_id=prompt.id, text=getattr(prompt, role))
        rendered = render(tokenizer, direct_conversation(prompt, answer, instrument))
        try:
            ids, paths = label_paths(lambda text: encode(tokenizer, text), rendered, labels)
        except ValueError as error:
            raise InputError("train.labels_alike", labels=", ".join(labels), reason=error) from error
        found.append(Example(tuple(ids), tuple(paths), label))
    return tuple(found)


def label_logprobs(model: Any, rows: Sequence[Example], pad: int) -> Any:
    """Log-probability of each whole label after each row, shape (rows, labels), with gradient.

    It is the sum over the label's tokens, the same number that `TransformersEngine.score_labels` gives. A row is run
    once for each way its labels go on after a token that must be read first: once where every label is one token.

    Args:
        model: a causal language model; it is called as a whole, so that what wraps it (autocast, adapters) takes part.
        pad: any token; what stands in its place is masked.
    """
    import torch

    device = next(model.parameters()).device
    runs = [(i, stem) for i, row in enumerate(rows) for stem in _stems(row.paths)]
    keep = 1 + max(len(stem) for _, stem in runs)
    ids, mask = _padded([(*rows[i].ids, *stem) for i, stem in runs], pad)
    out = model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(device),
        use_cache=False,
        **_last_logits(model, keep),
    )
    logp = out.logits[:, -keep:].float().log_softmax(-1)
    at: list[int] = []
    token: list[int] = []
    where: list[int] = []
    for i, row in enumerate(rows):
        for label, path in enumerate(row.paths):
            run = next(r for r, (j, stem) in enumerate(runs) if j == i and stem[: len(path) - 1] == path[:-1])
            first = keep - 1 - len(runs[run][1])
            at += [run * keep + first + depth for depth in range(len(path))]
            token += path
            where += [i * len(row.paths) + label] * len(path)
    steps = logp.flatten(0, 1)[torch.tensor(at, device=device), torch.tensor(token, device=device)]
    sums = torch.zeros(len(rows) * len(rows[0].paths), device=device)
    return sums.index_add(0, torch.tensor(where, device=device), steps).view(len(rows), -1)


def judge_loss(logp: Any, groups: Sequence[Group], order_weight: float) -> Any:
    """Cross-entropy of the right label among everything the model may say, plus a pairwise term inside each triple.

    −log p(right label), with the label's absolute probability, so that a verdict is said at all; and −log σ(s_i − s_j)
    for every i better than j, with s = log p(good) − log p(bad) (Bradley and Terry 1952).

    Args:
        logp: log-probability of each label, shape (3 × triples, labels).
        groups: the triples.
    """
    import torch
    from torch.nn.functional import logsigmoid

    right = torch.tensor([example.label for group in groups for example in group], device=logp.device)
    loss = -logp.gather(1, right[:, None]).mean()
    if order_weight:
        s = (logp[:, 0] - logp[:, -1]).view(len(groups), len(ROLES))
        pairs = torch.stack([s[:, 0] - s[:, 1], s[:, 1] - s[:, 2], s[:, 0] - s[:, 2]])
        loss = loss - order_weight * logsigmoid(pairs).mean()
    return loss


def _stems(paths: Sequence[TokenPath]) -> list[TokenPath]:
    """What has to be read before the last token of each label, leaving out what another one begins with."""
    heads = sorted({path[:-1] for path in paths})
    return [head for head in heads if not any(h != head and h[: len(head)] == head for h in heads)]


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Any, Any]:
    """Ids and attention mask, both of shape (rows, longest), padded on the left."""
    import torch

    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _last_logits(model: Any, keep: int) -> dict[str, int]:
    """The head is dear where vocabularies are large: run it on the last positions only, where the model can."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    # The class is asked: mixed precision puts a wrapper without a signature before the model's own `forward`.
    takes = "logits_to_keep" in inspect.signature(type(inner).forward).parameters
    return {"logits_to_keep": keep} if takes else {}
