"""What is this model? Resolve a name to one exact set of weights, or refuse with a reason."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eco_eval.errors import EngineError, SubmissionRejected
from eco_eval.types import MAX_NAME, MAX_NAMES, Declared, ModelRef

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9._/-]+)?")

WANTED = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "README.md")
"""The only files of a Hub repository that are downloaded."""

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

_MAX_CARD = 250_000
_FRONT_MATTER = re.compile(r"\s*---\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_LOCAL_PATH = re.compile(r"[~./]|file:|[A-Za-z]:[/\\]|.*\\", re.IGNORECASE)


def resolve(name: str) -> ModelRef:
    """A local folder or a Hub id (`owner/name` or `owner/name@revision`) as an exact reference, checked.

    A Hub model's files are downloaded, safetensors and tokenizer only, at the commit its revision points to now.

    Raises:
        SubmissionRejected: it does not exist, or is not safe or not complete; says why.
        EngineError: the Hub cannot be reached.
    """
    folder = _on_disk(name)
    if folder is not None and not folder.is_dir():
        raise SubmissionRejected("model.not_a_folder", model=name)
    if folder is not None:
        return _local(name, folder)
    if not HUB_ID.fullmatch(name) or ".." in name:
        raise SubmissionRejected("model.not_found", model=name)
    return _hub(name)


def _on_disk(name: str) -> Path | None:
    """What is at that path on this machine, if anything."""
    try:
        path = Path(name).expanduser()
        return path if name.strip() and path.exists() else None
    # Too long for a path, in the home of a user there is not, or of a user no user can be called.
    except (OSError, RuntimeError, ValueError):
        return None


def check_files(name: str, files: Sequence[str], config: dict[str, Any]) -> None:
    """Refuse what must never be loaded, from the list of files and the configuration alone.

    Raises:
        SubmissionRejected: Python files, `auto_map`, no safetensors, no tokenizer, not a language model.
    """
    code = next((f for f in files if f.endswith((".py", ".so", ".dll"))), None)
    if code:
        raise SubmissionRejected("model.has_code", model=name, file=code)
    if "auto_map" in config:
        raise SubmissionRejected("model.auto_map", model=name)
    if not any(f.endswith(".safetensors") for f in files):
        pickled = next((f for f in files if f.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))), None)
        if pickled:
            raise SubmissionRejected("model.pickle", model=name, file=pickled)
        raise SubmissionRejected("model.no_weights", model=name)
    if not any(f in _TOKENIZERS for f in files):
        raise SubmissionRejected("model.no_tokenizer", model=name)
    if not config.get("architectures"):
        raise SubmissionRejected("model.no_architecture", model=name)


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


def _local(name: str, folder: Path) -> ModelRef:
    if not (folder / "config.json").is_file():
        raise SubmissionRejected("model.no_config", model=name)
    try:
        paths = [f.relative_to(folder) for f in sorted(folder.rglob("*")) if f.is_file()]
        # Hidden files are what git and the Hub's client note for themselves; nothing loads them.
        files = [p.as_posix() for p in paths if not any(part.startswith(".") for part in p.parts)]
        config = _config(name, folder / "config.json")
        check_files(name, files, config)
        content = hashlib.sha256()
        for file in files:
            with (folder / file).open("rb") as handle:
                content.update(f"{file}\0{hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    except OSError as error:
        raise EngineError("engine.load_failed", model=name, reason=error.strerror or error) from error
    # The folder's own name, not its path: the same weights elsewhere are the same submission.
    return ModelRef(
        name=folder.resolve().name,
        source="local",
        revision=content.hexdigest()[:40],
        dtype=_dtype(config),
        path=str(folder.resolve()),
    )


def _hub(name: str) -> ModelRef:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download

    repo, _, revision = name.partition("@")
    try:
        info = HfApi().model_info(repo, revision=revision or None)
        files = [sibling.rfilename for sibling in info.siblings or []]
        if "config.json" not in files:
            raise SubmissionRejected("model.no_config", model=name)
        sha = str(info.sha)
        config = _config(name, Path(hf_hub_download(repo, "config.json", revision=sha)))
        check_files(name, files, config)
        path = snapshot_download(repo, revision=sha, allow_patterns=list(WANTED))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise SubmissionRejected("model.not_on_hub", model=name) from error
    except errors.HFValidationError as error:
        raise SubmissionRejected("model.not_found", model=name) from error
    # The client lets its HTTP library's own error through when nobody answers.
    except (HTTPError, OSError) as error:
        raise EngineError("hub.unreachable", model=name, retryable=True, reason=type(error).__name__) from error
    return ModelRef(name=repo, source="hub", revision=sha, dtype=_dtype(config), path=path)


def _config(name: str, file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SubmissionRejected("model.bad_config", model=name) from error
    if not isinstance(config, dict):
        raise SubmissionRejected("model.bad_config", model=name)
    return config


def _dtype(config: dict[str, Any]) -> str:
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


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
        value = json.loads(file.read_bytes())
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
