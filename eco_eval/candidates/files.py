"""Which files a model may bring, under which names and of what size; JSON that cannot be used against who reads it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from eco_eval.errors import SubmissionRejected

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9._/-]+)?")

_MB = 1_000_000
_LARGEST = {
    "config.json": _MB,
    "adapter_config.json": _MB,
    "tokenizer.json": 64 * _MB,
    "vocab.json": 32 * _MB,
    "model.safetensors.index.json": 32 * _MB,
    "README.md": 10 * _MB,
    "*.jinja": 256_000,
    "*.json": 8 * _MB,
    "tokenizer.model": 32 * _MB,
    "merges.txt": 32 * _MB,
    "vocab.txt": 32 * _MB,
}
"""Largest size in bytes by name, the first that fits: meant to be well above what published models need."""

WANTED = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "README.md")
"""The only files of a Hub repository that are downloaded, at its top; of folders only `additional_chat_templates`."""

TEMPLATES_FOLDER = "additional_chat_templates"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_CODE = (".py", ".so", ".dll", ".pyc", ".pyd", ".dylib")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_LONGEST_NAME = 1000
_LONGEST_PATH, _LONGEST_PART = 1000, 255
_MOST_FILES = 10_000
_DEEPEST = 32
_LONGEST_NUMBER = 40


def shown(text: str) -> str:
    """A stranger's text as a message may show it: without marks that would rearrange it or move the cursor."""
    return text if text.isprintable() else ascii(text)[1:-1]


def check_name(name: str) -> None:
    """Refuse what the Hub would not call a name (`owner/name` or `owner/name@revision`).

    Raises:
        SubmissionRejected: `model.not_found`, or `model.not_ascii` for a letter that may pass for another one.
    """
    if len(name) > _LONGEST_NAME:
        raise SubmissionRejected("model.not_found", model=f"{shown(name[:80])}…")
    odd = next((character for character in name if not character.isascii()), None)
    if odd is not None and re.fullmatch(r"[^\s/]+/[^\s/]+", name):
        code = f"U+{ord(odd):04X}"
        raise SubmissionRejected("model.not_ascii", model=shown(name), character=shown(odd), code=code)
    revision = name.partition("@")[2]
    broken = revision and not all(re.fullmatch(r"[A-Za-z0-9_][\w.-]*", part) for part in revision.split("/"))
    if not HUB_ID.fullmatch(name) or ".." in name or broken:
        raise SubmissionRejected("model.not_found", model=shown(name))


def check_file_names(model: str, files: Iterable[str]) -> None:
    """Refuse names of files that lead out of the folder, cannot be shown, or are too many.

    Raises:
        SubmissionRejected: `model.bad_file_name` or `model.too_many_files`.
    """
    for number, file in enumerate(files, start=1):
        if number > _MOST_FILES:
            raise SubmissionRejected("model.too_many_files", model=model, limit=_MOST_FILES)
        parts = file.split("/")
        odd = "\\" in file or not file.isprintable() or re.match(r"[A-Za-z]:", file)
        long = len(file) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_PART for part in parts if not odd)
        if odd or long or any(part in ("", ".", "..") for part in parts):
            raise SubmissionRejected("model.bad_file_name", model=model, file=ascii(file[:100])[1:-1])


def check_no_code(model: str, files: Iterable[str]) -> None:
    """Refuse whatever could be run.

    Raises:
        SubmissionRejected: `model.has_code`.
    """
    code = next((file for file in files if file.lower().endswith(_CODE)), None)
    if code is not None:
        raise SubmissionRejected("model.has_code", model=model, file=code)


def check_files(name: str, files: Sequence[str], config: Mapping[str, Any]) -> None:
    """Refuse what must never be loaded, from the list of files and the configuration alone.

    Raises:
        SubmissionRejected: Python files, `auto_map`, no safetensors, no tokenizer, not a language model.
    """
    check_no_code(name, files)
    check_no_auto_map(name, "config.json", config)
    check_weights_are_there(name, files)
    if not any(file in _TOKENIZERS for file in files):
        raise SubmissionRejected("model.no_tokenizer", model=name)
    if not config.get("architectures"):
        raise SubmissionRejected("model.no_architecture", model=name)


def check_weights_are_there(name: str, files: Sequence[str]) -> None:
    """Refuse a model without safetensors.

    Raises:
        SubmissionRejected: `model.pickle` where it has pickles instead, else `model.no_weights`.
    """
    if any(file.endswith(".safetensors") for file in files):
        return
    pickled = next((file for file in files if file.lower().endswith(_PICKLES)), None)
    if pickled is not None:
        raise SubmissionRejected("model.pickle", model=name, file=pickled)
    raise SubmissionRejected("model.no_weights", model=name)


def check_no_auto_map(model: str, file: str, value: object) -> None:
    """Refuse `auto_map` at whatever depth: vLLM followed it in a part of a configuration too (CVE-2025-66448).

    Raises:
        SubmissionRejected: `model.auto_map`.
    """
    rest = [value]
    while rest:
        found = rest.pop()
        if isinstance(found, dict):
            if "auto_map" in found:
                raise SubmissionRejected("model.auto_map", model=model, file=file)
            rest.extend(found.values())
        elif isinstance(found, list):
            rest.extend(found)


def is_wanted(file: str) -> bool:
    """Whether a file is one of those that may be downloaded."""
    path = PurePosixPath(file)
    if path.name.startswith("."):
        return False
    if len(path.parts) == 2 and path.parts[0] == TEMPLATES_FOLDER:
        return fnmatch(path.name, "*.jinja")
    return len(path.parts) == 1 and any(fnmatch(file, pattern) for pattern in WANTED)


def small_files(model: str, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The wanted files that are not weights, in order.

    Raises:
        SubmissionRejected: `model.file_too_large`.
    """
    small = sorted(file for file in sizes if is_wanted(file) and not file.endswith(".safetensors"))
    for file in small:
        limit = next(size for pattern, size in _LARGEST.items() if fnmatch(PurePosixPath(file).name, pattern))
        if sizes[file] > limit:
            raise _too_large(model, file, limit)
    return tuple(small)


def local_files(model: str, folder: Path) -> dict[str, int]:
    """Files of a folder and their sizes in bytes, hidden ones left out: git and the Hub's client note things there.

    Raises:
        SubmissionRejected: `model.link_outside`, `model.bad_file_name`, `model.too_many_files`.
        OSError: it cannot be read.
    """
    sizes: dict[str, int] = {}
    inside = [folder.resolve()]
    if inside[0].parent.name == "snapshots":
        # The Hub client's cache: each file is a link to a blob.
        inside.append(inside[0].parent.parent / "blobs")
    for number, path in enumerate(folder.rglob("*"), start=1):
        if number > 10 * _MOST_FILES:
            raise SubmissionRejected("model.too_many_files", model=model, limit=_MOST_FILES)
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if path.is_symlink() and not _leads_into(path, inside):
            raise SubmissionRejected("model.link_outside", model=model, file=shown(name))
        if path.is_file():
            sizes[name] = path.stat().st_size
    check_file_names(model, sizes)
    return dict(sorted(sizes.items(), key=lambda item: PurePosixPath(item[0])))


def _leads_into(path: Path, folders: Sequence[Path]) -> bool:
    try:
        target = path.resolve()
    except (OSError, RuntimeError):  # RuntimeError: links in a circle.
        return False
    return any(target.is_relative_to(folder) for folder in folders)


def read_json(model: str, folder: Path, file: str) -> dict[str, Any]:
    """A JSON object of a model's folder, empty where there is no such file.

    Raises:
        SubmissionRejected: too large, nested too deep, with a number out of range, not an object.
    """
    path = folder / file
    if not path.is_file():
        return {}
    limit = next(size for pattern, size in _LARGEST.items() if fnmatch(file, pattern))
    with path.open("rb") as handle:
        data = handle.read(limit + 1)
    if len(data) > limit:
        raise _too_large(model, file, limit)
    try:
        value = json.loads(data, parse_int=_integer, parse_float=_finite)
        shallow = _is_shallow(value)
    except (ValueError, RecursionError) as error:
        raise _bad_json(model, file) from error
    if not isinstance(value, dict) or not shallow:
        raise _bad_json(model, file)
    return value


def _too_large(model: str, file: str, limit: int) -> SubmissionRejected:
    return SubmissionRejected("model.file_too_large", model=model, file=file, limit=limit // 1000)


def _bad_json(model: str, file: str) -> SubmissionRejected:
    if file == "config.json":
        return SubmissionRejected("model.bad_config", model=model)
    return SubmissionRejected("model.bad_json", model=model, file=file)


def _integer(text: str) -> int:
    # transformers writes 10^30 for a tokenizer without a limit.
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(text[:30])
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    # `Infinity` by that name stands in the configurations of Mamba; 1e400 stands nowhere.
    if not math.isfinite(value):
        raise ValueError(text[:30])
    return value


def _is_shallow(value: object) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent if isinstance(parent, list) else ())
        ]
        if not level:
            return True
    return False
