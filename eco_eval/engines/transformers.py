"""The embedded engine: a causal language model in this process, on CPU or GPU."""

from __future__ import annotations

import copy
import gc
import importlib.util
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eco_eval.engines.causes import first_line, is_out_of_memory
from eco_eval.engines.chat import encode, load_tokenizer, loading, opens_reasoning, read_completion, render_or_failure
from eco_eval.engines.labels import TokenPath, label_paths, label_scores
from eco_eval.errors import EngineError, InputError
from eco_eval.types import Completion, Conversation, Decoding, EngineInfo, Failure, LabelScores, Message

MIN_SHARED = 32
"""Shortest shared prefix, in tokens, worth keeping a key-value cache for."""

BATCH_SIZE = 16


@dataclass(frozen=True)
class _Row:
    """One conversation as tokens."""

    index: int
    ids: list[int]
    opened: bool = False
    paths: tuple[TokenPath, ...] = ()


class TransformersEngine:
    """A local model folder served by `transformers`.

    Conversations are batched by length. The messages all of them begin with, such as a judge's rubric, are computed
    once and their key-value cache reused, also by later calls; a batch then holds
    `[shared prefix][padding][rest]`, with positions that skip the
    padding. That is exact where every layer attends to everything before it; models with sliding windows or
    recurrent layers get whole rows padded on the left instead.

    Args:
        path: folder with `config.json`, a tokenizer and safetensors weights.
        name: what provenance calls the model.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for the checkpoint's own.
        context: longest prompt plus completion in tokens; the model's own limit if that is shorter.
        batch_size: conversations a forward pass; 16 if None.
        adapter: folder of a LoRA adapter to put on the model, checked like it (`eco_eval.candidates`); its matrices
            stay beside the model's, in the same type of numbers.

    Raises:
        InputError: there is an adapter, and the library for it is missing.
        EngineError: the model cannot be loaded or a run breaks; `engine.out_of_memory` where memory is too little.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        dtype: str = "auto",
        context: int = 4096,
        batch_size: int | None = None,
        adapter: Path | None = None,
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._batch_size = batch_size or BATCH_SIZE
        safe = {"trust_remote_code": False, "local_files_only": True}
        with loading(name):
            self._tokenizer: Any = load_tokenizer(path, adapter)
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True, **safe)
            if adapter is not None:
                _put_on(model, adapter, name)
            self._model: Any = model.to(self._device).eval()
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        self._context = min(context, limit or context)
        self._take_decoding_away()
        self._prefix: tuple[list[int], Any] | None = None
        self._shareable = _attends_to_everything(self._model.config.get_text_config(), self._context)
        self.info = EngineInfo(
            engine="transformers",
            version=_version("transformers"),
            model=name,
            dtype=str(self._model.dtype).removeprefix("torch."),
            device=self._device,
        )

    def complete(
        self, conversations: Sequence[Conversation], decoding: Decoding, skip: Collection[int] = ()
    ) -> Iterator[tuple[int, Completion | Failure]]:
        """Generate, batch by batch. A JSON schema is asked for in the prompt only: this engine does not constrain."""
        import torch

        def row_of(index: int, text: str) -> _Row:
            return _Row(index, encode(self._tokenizer, text), opened=opens_reasoning(text))

        rows, failures = self._rows(conversations, row_of)
        yield from ((index, failure) for index, failure in failures if index not in skip)
        prefix = self._shared_prefix(conversations, rows)
        cache = self._prefix_cache(prefix)
        # A row with too little room for a whole completion goes alone, or it would cut its neighbours short.
        roomy = [row for row in rows if len(row.ids) + decoding.max_tokens <= self._context]
        batches = [*plan_batches(roomy, self._batch_size), *([row] for row in rows if row not in roomy)]
        for number, batch in enumerate(batches):
            if all(row.index in skip for row in batch):
                continue
            torch.manual_seed(decoding.seed + number)
            with _translated(self.info.model):
                outcomes = self._generate(batch, decoding, len(prefix), cache)
            yield from ((row.index, out) for row, out in zip(batch, outcomes, strict=True) if row.index not in skip)

    def score_labels(
        self, conversations: Sequence[Conversation], labels: Sequence[str], skip: Collection[int] = ()
    ) -> Iterator[tuple[int, LabelScores | Failure]]:
        """One forward pass over each conversation; labels of several tokens go on from its key-value cache."""

        def row_of(index: int, text: str) -> _Row:
            try:
                ids, paths = label_paths(lambda part: encode(self._tokenizer, part), text, labels)
            except ValueError as error:
                raise EngineError("engine.bad_labels", model=self.info.model, reason=error) from error
            return _Row(index, ids, paths=tuple(paths))

        rows, failures = self._rows(conversations, row_of)
        yield from ((index, failure) for index, failure in failures if index not in skip)
        prefix = self._shared_prefix(conversations, rows)
        cache = self._prefix_cache(prefix)
        for batch in plan_batches(rows, self._batch_size, max_padding=0.1, shared=len(prefix)):
            if all(row.index in skip for row in batch):
                continue
            with _translated(self.info.model):
                logprobs = self._label_logprobs(batch, len(prefix), cache)
                scores = [label_scores(labels, values) for values in logprobs]
            yield from ((row.index, out) for row, out in zip(batch, scores, strict=True) if row.index not in skip)

    def close(self) -> None:
        """Free the device."""
        import torch

        self._model = self._prefix = None
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _take_decoding_away(self) -> None:
        """Leave of the model's own generation settings only where its turns end: decoding is the instrument's."""
        from transformers import GenerationConfig

        own = self._model.generation_config.eos_token_id
        ends = set(own) if isinstance(own, list) else {own}
        self._ends = sorted(end for end in ends | {self._tokenizer.eos_token_id} if end is not None)
        self._model.generation_config = GenerationConfig(eos_token_id=self._ends)

    def _rows(
        self, conversations: Sequence[Conversation], row_of: Callable[[int, str], _Row]
    ) -> tuple[list[_Row], list[tuple[int, Failure]]]:
        """Conversations as tokens, and those that the model's template or context cannot take."""
        rows, failures = [], []
        for index, conversation in enumerate(conversations):
            text = render_or_failure(self._tokenizer, conversation)
            if isinstance(text, Failure):
                failures.append((index, text))
                continue
            row = row_of(index, text)
            if len(row.ids) < self._context:
                rows.append(row)
            else:
                detail = f"{len(row.ids)} >= {self._context}"
                failures.append((index, Failure(cause="too_long", detail=detail)))
        return rows, failures

    def _shared_prefix(self, conversations: Sequence[Conversation], rows: Sequence[_Row]) -> list[int]:
        """Tokens of the messages that all conversations begin with.

        They are cut where a probe conversation leaves them, so that the cut, and with it every batch, depends on
        those messages alone and not on what the rest happens to have in common.
        """
        if not rows or not self._shareable:
            return []
        common = _common_messages(conversations)
        if not common:
            return []
        rendered = render_or_failure(self._tokenizer, (*common, Message(role="user", content="¶")))
        if isinstance(rendered, Failure):
            return []
        probe = encode(self._tokenizer, rendered)
        # One token of every row stays out, because its logits are what the row is run for.
        limit = min(len(row.ids) for row in rows) - 1
        shared = min(limit, *(_agreement(probe, row.ids) for row in rows))
        return probe[:shared] if shared >= MIN_SHARED else []

    def _prefix_cache(self, prefix: list[int]) -> Any:
        import torch
        from transformers import DynamicCache

        if not prefix:
            return None
        if self._prefix is None or self._prefix[0] != prefix:
            cache = DynamicCache()
            with torch.inference_mode(), _translated(self.info.model):
                ids = torch.tensor([prefix], device=self._device)
                self._model(input_ids=ids, past_key_values=cache, use_cache=True, **self._last_logit())
            self._prefix = (prefix, cache)
        return self._prefix[1]

    def _tensors(self, batch: Sequence[_Row], shared: int) -> tuple[Any, Any]:
        """Ids and attention mask, both `[rows, shared + longest rest]`, padded between prefix and rest."""
        import torch

        width = max(len(row.ids) for row in batch)
        pad = self._tokenizer.pad_token_id or 0
        ids, mask = [], []
        for row in batch:
            gap = width - len(row.ids)
            ids.append(row.ids[:shared] + [pad] * gap + row.ids[shared:])
            mask.append([1] * shared + [0] * gap + [1] * (len(row.ids) - shared))
        return torch.tensor(ids, device=self._device), torch.tensor(mask, device=self._device)

    def _generate(self, batch: Sequence[_Row], decoding: Decoding, shared: int, cache: Any) -> list[Completion]:
        import torch

        ids, mask = self._tensors(batch, shared)
        room = self._context - max(len(row.ids) for row in batch)
        config = self._generation_config(decoding, min(decoding.max_tokens, room))
        extra = {"past_key_values": _expanded(cache, len(batch))} if cache is not None else {}
        with torch.inference_mode():
            out = self._model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **extra)
        new = out[:, ids.shape[1] :].tolist()
        return [self._read(row, tokens, config) for row, tokens in zip(batch, new, strict=True)]

    def _generation_config(self, decoding: Decoding, max_new: int) -> Any:
        from transformers import GenerationConfig

        sampling = decoding.temperature > 0
        # Neutral values are written out: anything left open, generate() fills from the model's own configuration.
        return GenerationConfig(
            max_new_tokens=max_new,
            do_sample=sampling,
            temperature=decoding.temperature if sampling else 1.0,
            top_k=0 if sampling else 50,
            top_p=1.0,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=self._ends,
            pad_token_id=self._tokenizer.pad_token_id or 0,
        )

    def _read(self, row: _Row, tokens: list[int], config: Any) -> Completion:
        end = next((i for i, token in enumerate(tokens) if token in config.eos_token_id), None)
        kept = tokens if end is None else tokens[:end]
        return read_completion(
            self._tokenizer.decode(kept, skip_special_tokens=False),
            opened=row.opened,
            truncated=end is None,
            tokens=len(kept),
            special=self._tokenizer.all_special_tokens,
        )

    def _label_logprobs(self, batch: Sequence[_Row], shared: int, cache: Any) -> list[list[float]]:
        """Log-probability of each whole label for each row."""
        import torch

        ids, mask = self._tensors(batch, shared)
        past = _expanded(cache, len(batch))
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        needs_more = any(len(path) > 1 for row in batch for path in row.paths)
        with torch.inference_mode():
            out = self._model(
                input_ids=ids[:, shared:],
                attention_mask=mask,
                position_ids=positions[:, shared:],
                past_key_values=past,
                use_cache=needs_more or past is not None,
                **self._last_logit(),
            )
            first = out.logits[:, -1].double().log_softmax(-1)
            scores = [[float(first[i, path[0]]) for path in row.paths] for i, row in enumerate(batch)]
            if needs_more:
                self._add_later_tokens(batch, out.past_key_values, mask, scores)
        return scores

    def _add_later_tokens(self, batch: Sequence[_Row], cache: Any, mask: Any, scores: list[list[float]]) -> None:
        """Add the log-probabilities of each label's second and later tokens, from the conversations' cache."""
        import torch

        wanted: dict[TokenPath, list[tuple[int, int]]] = {}
        for i, row in enumerate(batch):
            for label, path in enumerate(row.paths):
                if len(path) > 1:
                    wanted.setdefault(path, []).append((i, label))
        for path, places in wanted.items():
            rows = torch.tensor([i for i, _ in places], device=self._device)
            branch = copy.deepcopy(cache)
            branch.batch_select_indices(rows)
            seen = mask[rows]
            ids = torch.tensor([path[:-1]] * len(places), device=self._device)
            steps = torch.arange(ids.shape[1], device=self._device)
            out = self._model(
                input_ids=ids,
                attention_mask=torch.cat([seen, torch.ones_like(ids)], dim=1),
                position_ids=seen.sum(-1, keepdim=True) + steps,
                past_key_values=branch,
                use_cache=True,
            )
            later = out.logits.double().log_softmax(-1)
            for k, (i, label) in enumerate(places):
                scores[i][label] += sum(float(later[k, step, token]) for step, token in enumerate(path[1:]))

    def _last_logit(self) -> dict[str, int]:
        import inspect

        takes = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        return {"logits_to_keep": 1} if takes else {}


def plan_batches(
    rows: Sequence[_Row], batch_size: int, *, max_padding: float = 1.0, shared: int = 0
) -> list[list[_Row]]:
    """Rows in batches of like length, longest first: the same rows always give the same batches.

    Args:
        max_padding: a batch of four rows or more ends before a row that would be padded by more than this share of
            the longest, both without the `shared` prefix.
    """
    batches: list[list[_Row]] = []
    for row in sorted(rows, key=lambda r: (-len(r.ids), r.index)):
        open_batch = batches[-1] if batches else []
        longest = len(open_batch[0].ids) - shared if open_batch else 0
        padded = 1 - (len(row.ids) - shared) / longest if longest else 0.0
        if open_batch and len(open_batch) < batch_size and (len(open_batch) < 4 or padded <= max_padding):
            open_batch.append(row)
        else:
            batches.append([row])
    return batches


def _common_messages(conversations: Sequence[Conversation]) -> Conversation:
    """The messages every conversation begins with, never all of one conversation."""
    first = conversations[0]
    shared = min(len(conversation) for conversation in conversations) - 1
    for conversation in conversations:
        shared = next((i for i in range(shared) if conversation[i] != first[i]), shared)
    return first[:shared]


def _agreement(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _expanded(cache: Any, rows: int) -> Any:
    if cache is None:
        return None
    wide = copy.deepcopy(cache)
    wide.batch_repeat_interleave(rows)
    return wide


def _attends_to_everything(config: Any, context: int) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    window = getattr(config, "sliding_window", None)
    recurrent = any(hasattr(config, name) for name in ("mamba_d_state", "ssm_cfg", "state_size", "conv_L_cache"))
    return not recurrent and (window is None or window >= context)


def _put_on(model: Any, adapter: Path, name: str) -> None:
    """Put a LoRA adapter on a loaded model, in place; all of it, or it is an error.

    Raises:
        InputError: `data.extra_missing`.
        EngineError: `engine.bad_adapter`. Of whatever else is wrong, PEFT's own errors.
    """
    if importlib.util.find_spec("peft") is None:
        raise InputError("data.extra_missing", library="peft", extra="service")
    # Without this file transformers would look for a pickle.
    if not (adapter / "adapter_model.safetensors").is_file():
        raise EngineError("engine.bad_adapter", model=name, reason="adapter_model.safetensors")
    # transformers 5.19 has a parameter `local_files_only`, and fails if it is used.
    found = model.load_adapter(str(adapter), adapter_kwargs={"local_files_only": True})
    # It only logs what it leaves out or makes up: the magnitudes of DoRA, layers that the model has not.
    wrong = sorted({*found.missing_keys, *found.unexpected_keys, *map(str, found.mismatched_keys)})
    if wrong:
        raise EngineError("engine.bad_adapter", model=name, reason=wrong[0])


@contextmanager
def _translated(model: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, IndexError, MemoryError) as error:
        if is_out_of_memory(error):
            raise EngineError("engine.out_of_memory", model=model, retryable=True) from error
        raise EngineError("engine.run_failed", model=model, reason=first_line(error)) from error


def _version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package)
