"""Conversations to tokens, and tokens back to an answer with its reasoning apart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eco_eval.engines.causes import first_line, is_out_of_memory
from eco_eval.engines.deadline import within
from eco_eval.errors import EcoEvalError, EngineError
from eco_eval.types import Completion, Conversation, Failure

RENDER_SECONDS = 5.0
"""Time that the chat template of a model has for one conversation; rendering takes milliseconds."""

MAX_RENDERED = 2_000_000
"""Characters that a rendered conversation may have: far beyond any model's context."""

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

_ALPACA_HEADERS = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"}

_REASONING_MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<thinking>", "</thinking>"))


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Whatever breaks while a model folder is read is one `EngineError` that names the model.

    Raises:
        EngineError: `engine.out_of_memory`, or `engine.load_failed` with the first line of what was raised inside.
            Errors of this project pass.
    """
    try:
        yield
    except EcoEvalError:
        raise
    except Exception as error:
        # Not narrower: on a damaged folder tokenizers raises a bare Exception, safetensors a direct child of it, and
        # configuration classes TypeError, KeyError, ZeroDivisionError and more, with no other common base.
        if is_out_of_memory(error):
            raise EngineError("engine.out_of_memory", model=model, retryable=True) from error
        raise EngineError("engine.load_failed", model=model, reason=first_line(error)) from error


def tokenizer_folder(path: Path, adapter: Path | None = None) -> Path:
    """Whose tokenizer counts: the adapter's own where it brings one, else the model's."""
    brings = adapter is not None and any((adapter / file).is_file() for file in _TOKENIZERS)
    return adapter if adapter is not None and brings else path


def load_tokenizer(path: Path, adapter: Path | None = None) -> Any:
    """The tokenizer of a model, or of the adapter on it, with the chat template that counts.

    A tokenizer comes with its own template, if it has one; a template in the folder of an adapter that brings no
    tokenizer takes the place of the model's.
    """
    from transformers import AutoConfig, AutoTokenizer

    safe = {"trust_remote_code": False, "local_files_only": True}
    folder = tokenizer_folder(path, adapter)
    # An adapter's folder has no config.json, which some tokenizers need.
    config = {} if folder == path else {"config": AutoConfig.from_pretrained(path, **safe)}
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, **safe, **config)
    own = _template(adapter) if adapter is not None and folder == path else None
    if own is not None:
        tokenizer.chat_template = own
    return tokenizer


def _template(folder: Path) -> str | None:
    """The chat template that a folder without a tokenizer holds, as `transformers` would look for it."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    said = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    named = {one["name"]: one["template"] for one in said} if isinstance(said, list) else {"default": said}
    return named.get("default")


def render(tokenizer: Any, conversation: Conversation) -> str:
    """The text a model continues, ready for tokenising without further special tokens.

    Uses the tokenizer's own chat template, with thinking left on its default. A model without a template gets the
    Alpaca format: the system text as preamble, `### Instruction:` for the person, `### Response:` for the model.
    """
    from jinja2 import TemplateError

    messages = [message.model_dump() for message in conversation]
    if tokenizer.chat_template:
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except TemplateError:
            # Templates such as Gemma 2's refuse the system role: say it at the head of the first user message.
            if messages[0]["role"] != "system":
                raise
            head, first, *rest = messages
            merged = {"role": "user", "content": f"{head['content']}\n\n{first['content']}"}
            return str(tokenizer.apply_chat_template([merged, *rest], tokenize=False, add_generation_prompt=True))
    bos = tokenizer.bos_token or ""
    parts = [f"{_ALPACA_HEADERS[m['role']]}{m['content'].strip()}\n\n" for m in messages]
    return bos + "".join(parts) + "### Response:\n"


def render_or_failure(tokenizer: Any, conversation: Conversation) -> str | Failure:
    """As `render`, with what the model's own template does wrong as that conversation's failure.

    It has `RENDER_SECONDS` to write at most `MAX_RENDERED` characters. `deadline.within` says what that does not catch.
    """
    try:
        text = within(RENDER_SECONDS, lambda: render(tokenizer, conversation))
    except Exception as error:
        # A chat template is a stranger's program. The sandbox it runs in limits what it can reach, not what it raises:
        # besides TemplateError also TypeError, ZeroDivisionError, OverflowError, RecursionError and so on.
        return Failure(cause="template", detail=f"{type(error).__name__}: {error}"[:300])
    if len(text) > MAX_RENDERED:
        return Failure(cause="template", detail=f"{len(text)} > {MAX_RENDERED} characters")
    return text


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a rendered text; the template has already written the special tokens it wants."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def opens_reasoning(rendered: str) -> bool:
    """Whether the template already opened the reasoning, so that the completion starts inside it."""
    tail = rendered.rstrip()
    return any(tail.endswith(start) for start, _ in _REASONING_MARKS)


def read_completion(
    text: str, *, opened: bool | None = False, truncated: bool = False, tokens: int = 0, special: Sequence[str] = ()
) -> Completion:
    """Split raw generated text into reasoning and answer.

    Args:
        text: what the model wrote, special tokens included.
        opened: the prompt already opened the reasoning; None when nobody knows, as with a server that renders its
            own template: a closing mark without an opening one then ends the reasoning. Otherwise such a mark is
            text like any other, or a model could hide what it said before it.
        truncated: the token limit cut it.
        special: the tokenizer's special tokens, removed from the answer.
    """
    reasoning: list[str] = []
    for start, end in _REASONING_MARKS:
        if opened and start not in text and end not in text:
            continue
        block = re.compile(rf"\s*{re.escape(start)}(.*?)(?:{re.escape(end)}|\Z)", re.DOTALL)
        closes_first = end in text and (start not in text or text.index(end) < text.index(start))
        if closes_first and opened is not False:
            head, _, text = text.partition(end)
            reasoning.append(head)
            opened = False
        reasoning += block.findall(text)
        text = block.sub("", text)
    if opened and not reasoning:
        reasoning, text = [text], ""
    for token in special:
        text = text.replace(token, "")
        reasoning = [part.replace(token, "") for part in reasoning]
    thought = "\n\n".join(part.strip() for part in reasoning if part.strip())
    return Completion(text=text.strip(), reasoning=thought or None, truncated=truncated, tokens=tokens)
