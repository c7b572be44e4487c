"""What a model's own files say of its origin. Anybody can write them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from eco_eval.candidates.files import HUB_ID
from eco_eval.types import MAX_NAME, MAX_NAMES, Declared, ModelRef

_MAX_CARD = 250_000
_MAX_JSON = 1_000_000
_FRONT_MATTER = re.compile(r"\s*---\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_LOCAL_PATH = re.compile(r"[~./]|file:|[A-Za-z]:[/\\]|.*\\", re.IGNORECASE)


def declared(ref: ModelRef) -> Declared:
    """What a model's own files say of its origin: its card, `config.json`, and the `run.json` of one trained here.

    From the card's front matter `base_model` and `datasets`, each one name or a list
    (https://huggingface.co/docs/hub/model-cards). Anybody can write these files: of a path only the last part is kept,
    and what is no name, too long or too many is left out. What is missing or broken declares nothing, and neither do
    endpoints and anchors, which have no files.
    """
    if ref.path is None:
        return Declared()
    folder = Path(ref.path)
    card, config = _front_matter(folder / "README.md"), _object(folder / "config.json")
    base, loaded = _object(folder / "run.json").get("base"), config.get("_name_or_path")
    elsewhere = isinstance(loaded, str) and HUB_ID.fullmatch(loaded) and loaded.casefold() != ref.name.casefold()
    return Declared(
        base_models=_names(card.get("base_model"), base.get("name") if isinstance(base, dict) else base),
        model_type="".join(_names(config.get("model_type"))[:1]),
        datasets=_names(card.get("datasets")),
        name_or_path="".join(_names(loaded)) if elsewhere else "",
    )


def licence(folder: Path) -> str:
    """The licence that a model's card names; its own name where it is none of the known, empty where there is none."""
    card = _front_matter(folder / "README.md")
    said = _names(card.get("license"))
    return "".join((_names(card.get("license_name")) if said == ("other",) else ())[:1] or said[:1])


def _front_matter(card: Path) -> dict[str, Any]:
    """The YAML at the top of a model card, every scalar as text; empty when there is none or it is broken."""
    import yaml

    try:
        with card.open("rb") as handle:
            text = handle.read(_MAX_CARD).decode("utf-8-sig", errors="replace")
        found = _FRONT_MATTER.match(re.sub(r"\r\n?", "\n", text))
        # Not the safe loader, which huggingface_hub uses: its merge keys let a few lines take hours, and its dates and
        # numbers fail in more ways than can be listed.
        value = yaml.load(found[1], Loader=yaml.BaseLoader) if found else None
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def _object(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as handle:
            value = json.loads(handle.read(_MAX_JSON))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _names(*said: object) -> tuple[str, ...]:
    """The names among what a file says: one, or a list of them."""
    texts = [text for value in said for text in (value if isinstance(value, list) else [value])]
    names = [_name(text) for text in texts if isinstance(text, str)]
    return tuple(dict.fromkeys(name for name in names if name))[:MAX_NAMES]


def _name(text: str) -> str:
    plain = text.strip()
    if _LOCAL_PATH.match(plain):
        plain = re.split(r"[/\\]", plain.rstrip("/\\"))[-1]
    sound = len(plain) <= MAX_NAME and plain.isprintable() and plain.casefold() not in ("null", "~", ".", "..")
    return plain if sound else ""
