"""Prompt sets: load, check, split, digest."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from eco_eval.errors import DataError
from eco_eval.rows import Row, read_rows
from eco_eval.types import Prompt, Split, digest

EVAL_SHARE = 0.4
"""Share of groups held out for scores; the rest trains judges and models."""

TEXT_COLUMNS = ("text", "prompt", "prompt_es", "pregunta", "instruction", "question")
"""Column names under which a foreign file may hold its prompts, in order of preference."""


def split_of(group: str) -> Split:
    """Which split a group belongs to: a stable hash of its name, so that adding prompts moves none.

    The number in it is the one of 1 to 400 that balances the bundled set over codes, kinds, varieties and controls.
    """
    fraction = int(hashlib.sha256(f"eco-eval split 61:{group}".encode()).hexdigest()[:8], 16) / 2**32
    return "eval" if fraction < EVAL_SHARE else "train"


def select(prompts: Iterable[Prompt], split: Split | Literal["all"]) -> tuple[Prompt, ...]:
    """The prompts of one split, in their order."""
    return tuple(p for p in prompts if split in ("all", split_of(p.group)))


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Digest of what is asked: ids and texts, in order."""
    return digest([[p.id, p.text] for p in prompts])


def read_prompts(file: Path, *, strict: bool = False) -> tuple[Prompt, ...]:
    """Prompts from JSONL (`.jsonl`, `.ndjson`, any other suffix), JSON, CSV, TSV or Parquet.

    BOM, CRLF, and any Unicode normal form are fine.

    Args:
        file: the file.
        strict: every line is a complete `Prompt` record and nothing else, as in our own sets. Otherwise only a text
            column is needed (see TEXT_COLUMNS), columns without meaning to us are left out, and a prompt without id
            is called `row-<n>`.

    Raises:
        DataError: names the file, the line and the field.
    """
    prompts = tuple(_prompt(row, file, strict) for row in read_rows(file))
    if not prompts:
        raise DataError("data.empty", file=file)
    seen: dict[str, int] = {}
    for number, prompt in enumerate(prompts, 1):
        if prompt.id in seen:
            raise DataError("data.duplicate_id", file=file, id=prompt.id, first=seen[prompt.id], again=number)
        seen[prompt.id] = number
    return prompts


def _prompt(row: Row, file: Path, strict: bool) -> Prompt:
    line = row.line or row.number
    cells = row.cells if strict else _adapt(row, file, line)
    try:
        prompt = Prompt.model_validate({key: _nfc(value) for key, value in cells.items()})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError("data.bad_field", file=file, line=line, field=field, reason=first["msg"]) from error
    for field in ("id", "group", "text"):
        if not getattr(prompt, field).strip():
            raise DataError("data.bad_field", file=file, line=line, field=field, reason="empty")
    return prompt


def _adapt(row: Row, file: Path, line: int) -> dict[str, Any]:
    lower = {key.lower(): value for key, value in row.cells.items()}
    column = next((name for name in TEXT_COLUMNS if lower.get(name) not in (None, "")), None)
    if column is None:
        raise DataError("data.no_text", file=file, line=line, columns=", ".join(TEXT_COLUMNS))
    text = lower[column]
    if not isinstance(text, str):
        raise DataError("data.bad_field", file=file, line=line, field=column, reason="not a text")
    identifier = _first(lower, "id", "promptid") or f"row-{row.number}"
    adapted: dict[str, Any] = {"id": identifier, "group": _first(lower, "group") or identifier, "text": text}
    for key in ("lang", "variety", "best", "ambivalent", "worst"):
        if lower.get(key) not in (None, ""):
            adapted[key] = lower[key]
    return adapted


def _first(row: dict[str, Any], *keys: str) -> Any:
    """The first of these cells that is not empty, numbers as text."""
    found = next((row[key] for key in keys if row.get(key) not in (None, "")), None)
    return str(found) if isinstance(found, int | float) else found


def _nfc(value: object) -> object:
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, list):
        return [_nfc(item) for item in value]
    return value
