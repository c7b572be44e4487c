"""Conversations to tokens, and tokens back to an answer with its reasoning apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from eco_eval.errors import EngineError
from eco_eval.types import Completion, Conversation, Failure

_ALPACA_HEADERS = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"}

_REASONING_MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<thinking>", "</thinking>"))


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Whatever breaks while a model folder is read is one `EngineError` that names the model.

    Raises:
        EngineError: with the first line of what was raised inside.
    """
    try:
        yield
    except Exception as error:
        # Not narrower: on a damaged folder tokenizers raises a bare Exception, safetensors a direct child of it, and
        # configuration classes TypeError, KeyError, ZeroDivisionError and more, with no other common base.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EngineError("engine.load_failed", model=model, reason=reason) from error


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
    """As `render`, with what the model's own template raises as that conversation's failure."""
    try:
        return render(tokenizer, conversation)
    except Exception as error:
        # A chat template is a stranger's program. The sandbox it runs in limits what it can reach, not what it raises:
        # besides TemplateError also TypeError, ZeroDivisionError, OverflowError, RecursionError and so on.
        return Failure(cause="template", detail=f"{type(error).__name__}: {error}"[:300])


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
