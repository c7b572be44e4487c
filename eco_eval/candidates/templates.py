"""Chat templates: programs by strangers. Tried in a child process before anything else renders them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eco_eval.candidates import render
from eco_eval.candidates.files import TEMPLATES_FOLDER, read_json
from eco_eval.errors import SubmissionRejected
from eco_eval.types import Conversation, Message

SECONDS = 2
"""Processor time that a trial may take, the start of its process included (0.1 s)."""

MEMORY = 512_000_000
"""Address space of the child process, in bytes."""

MAX_TEMPLATE = 256_000
MAX_RENDERED = 1_000_000
"""Characters that a template, and a trial conversation of a line or two, may have."""

_MOST = 16
_WALL = 20
_CONFIG = "tokenizer_config.json"
_SAID = Message(role="user", content="¿Qué árbol es este?")
_TRIALS: tuple[Conversation, ...] = (
    (_SAID,),
    (Message(role="system", content="Responde en español."), _SAID),
    (_SAID, Message(role="assistant", content="Una encina."), _SAID),
)


def check_template(folder: Path, model: str) -> bool:
    """Try every chat template of a model's folder on short conversations, within limits of time and memory.

    This finds templates that are broken, endless or huge for everybody. One that turns so on certain words only is
    caught by the limits of whatever renders it later.

    Returns:
        Whether there is any template: a model without is a base model.

    Raises:
        SubmissionRejected: `model.template_slow`, `model.template_large`, `model.template_broken`, or `model.bad_json`
            for the file that holds it.
    """
    templates = _templates(folder, model)
    if not templates:
        return False
    if len(templates) > _MOST or any(len(text) > MAX_TEMPLATE for text in templates):
        raise SubmissionRejected("model.template_large", model=model)
    rendered = render_within_limits(model, templates, _TRIALS, _tokens(folder, model))
    if any(trials[0] is None for trials in rendered):
        raise SubmissionRejected("model.template_broken", model=model)
    return True


def has_template(folder: Path, model: str) -> bool:
    """Whether a model's folder holds any chat template; none is tried.

    Raises:
        SubmissionRejected: `model.template_broken` or `model.bad_json`, where they cannot be read.
    """
    return bool(_templates(folder, model))


def render_within_limits(
    model: str, templates: Sequence[str], conversations: Sequence[Conversation], tokens: Mapping[str, str]
) -> list[list[str | None]]:
    """Every conversation by every template, in a child process with limits; None where a template refuses one.

    Args:
        tokens: the tokenizer's special tokens by name, `bos_token` and so on.

    Raises:
        SubmissionRejected: as `check_template`.
    """
    asked = {
        "templates": templates,
        "conversations": [[message.model_dump() for message in messages] for messages in conversations],
        "tokens": tokens,
        "memory": MEMORY,
        "seconds": SECONDS,
        "longest": MAX_RENDERED,
    }
    try:
        # -I and no environment: nothing of this process is within its reach but what it reads.
        done = subprocess.run(
            [sys.executable, "-I", str(Path(render.__file__).resolve())],
            input=json.dumps(asked).encode(),
            capture_output=True,
            env={},
            timeout=_WALL,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SubmissionRejected("model.template_slow", model=model, seconds=SECONDS) from error
    if done.returncode < 0:
        raise SubmissionRejected("model.template_slow", model=model, seconds=SECONDS)
    if done.returncode in (render.TOO_LONG, render.NO_MEMORY):
        raise SubmissionRejected("model.template_large", model=model)
    if done.returncode:
        raise SubmissionRejected("model.template_broken", model=model)
    rendered: list[list[str | None]] = json.loads(done.stdout)
    return rendered


def _templates(folder: Path, model: str) -> list[str]:
    files = [folder / "chat_template.jinja", *sorted((folder / TEMPLATES_FOLDER).glob("*.jinja"))]
    try:
        texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    except ValueError as error:
        raise SubmissionRejected("model.template_broken", model=model) from error
    for file in (_CONFIG, "chat_template.json"):
        texts += _named(model, file, read_json(model, folder, file).get("chat_template"))
    return texts


def _named(model: str, file: str, said: Any) -> list[str]:
    """The templates that one file holds: one, or a list of them with names."""
    values = (
        [one.get("template") if isinstance(one, dict) else one for one in said] if isinstance(said, list) else [said]
    )
    texts = [value for value in values if isinstance(value, str)]
    if said is not None and len(texts) != len(values):
        raise SubmissionRejected("model.bad_json", model=model, file=file)
    return texts


def _tokens(folder: Path, model: str) -> dict[str, str]:
    # What a folder does not say, the class of its tokenizer says.
    found = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    for file in ("special_tokens_map.json", _CONFIG):
        for name, token in read_json(model, folder, file).items():
            text = token.get("content") if isinstance(token, dict) else token
            if name.endswith("_token") and isinstance(text, str):
                found[name] = text
    return found
