"""Prompt sets by name: bundled with the package, or built on this machine from pinned sources."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from eco_eval.errors import DataError, InputError
from eco_eval.rows import read_toml
from eco_eval.types import Record


class Part(Record):
    """Where some of a set's prompts come from: a bundled or built set, a file, or a Hub dataset at a commit."""

    source: str
    revision: str = ""


class SetFile(Record):
    """What the TOML file of a built set says. `attribution` is shown wherever its texts are."""

    lang: str
    licence: str
    attribution: str
    parts: tuple[Part, ...] = Field(min_length=1)


class BuiltFrom(Record):
    """What a built set was made from, kept beside it. `sha256` is that of the prompts file."""

    parts: tuple[Part, ...]
    attribution: str
    sha256: str


class FoundSet(NamedTuple):
    """A set's prompts file, the package's file that stands for it, whom to credit, whether it is as pinned, and the
    sets and data sets its prompts come from."""

    prompts: Path
    source: Path
    attribution: str
    sound: bool
    origins: tuple[str, ...] = ()


def read_set_file(file: Path) -> SetFile:
    """A set's TOML file.

    Raises:
        DataError: it cannot be read, or has an unknown or wrong key.
    """
    return read_toml(file, SetFile)


def set_names(data: Path) -> list[str]:
    """Every set the package knows, bundled or to be built."""
    return sorted(
        {*(f.stem for f in (data / "prompts").glob("*.jsonl")), *(f.stem for f in (data / "sets").glob("*.toml"))}
    )


def find_set(name: str, data: Path, built: Path | None) -> FoundSet:
    """The prompts of a set.

    Args:
        built: the folder of sets built on this machine.

    Raises:
        InputError: no such set, or it is not built yet; says how, and names the set that needs no network.
        DataError: what was built is damaged.
    """
    bundled = data / "prompts" / f"{name}.jsonl"
    if bundled.is_file():
        return FoundSet(bundled, bundled, "", sound=True)
    official = data / "sets" / f"{name}.toml"
    prompts = built / f"{name}.jsonl" if built else None
    if prompts is None or not prompts.is_file():
        if official.is_file():
            raise InputError("prompts.not_built", name=name)
        raise InputError("prompts.unknown", name=name, known=", ".join(set_names(data)))
    made = _built_from(prompts)
    pinned = official.is_file() and made.parts == read_set_file(official).parts
    origins = tuple(part.source for part in made.parts)
    return FoundSet(prompts, official if pinned else prompts, made.attribution, sound=pinned, origins=origins)


def _built_from(prompts: Path) -> BuiltFrom:
    """What a built file was made from.

    Raises:
        DataError: there is no record of it, or the file changed since.
    """
    record = prompts.with_suffix(".json")
    try:
        made = BuiltFrom.model_validate(json.loads(record.read_text(encoding="utf-8")))
        same = made.sha256 == hashlib.sha256(prompts.read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        raise DataError("sets.damaged", file=prompts, name=prompts.stem) from error
    if not same:
        raise DataError("sets.damaged", file=prompts, name=prompts.stem)
    return made
