"""Build a prompt set from its pinned sources: H4rmony's, ours and H4rmony's together, or a hidden one of your own."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

from eco_eval.errors import DataError, InputError
from eco_eval.prompts import read_prompts
from eco_eval.sets import BuiltFrom, Part, SetFile, read_set_file
from eco_eval.triples.curate import merge
from eco_eval.triples.hub import commit_of
from eco_eval.triples.reading import load
from eco_eval.triples.records import Problem
from eco_eval.triples.writing import write_rows
from eco_eval.types import Prompt


class Built(NamedTuple):
    """A built set: its file, its prompts, and what of its sources could not be used."""

    file: Path
    prompts: tuple[Prompt, ...]
    problems: tuple[Problem, ...]


def build_set(name: str, data: Path, built: Path) -> Built:
    """Fetch, convert and keep a set in `built`, replacing an older build of it when the new one is whole.

    Args:
        name: a set the package knows, or a `.toml` file of your own (for instance a hidden split in a private
            dataset), whose set is then called as the file.

    Raises:
        InputError: no such set, a source that cannot be reached or used, a Hub source without a commit, or no prompt.
    """
    file = Path(name) if name.endswith(".toml") else data / "sets" / f"{name}.toml"
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in (data / "sets").glob("*.toml")))
        raise InputError("sets.unknown", name=name, known=known)
    spec = read_set_file(file)
    prompts, problems = _prompts(spec, file.parent, data)
    if not prompts:
        raise DataError("data.empty", file=file)
    built.mkdir(parents=True, exist_ok=True)
    target = built / f"{file.stem}.jsonl"
    fields = set(Prompt.model_fields)
    # The record goes first and comes last: without it, or beside other bytes, the file is not taken for built.
    record = target.with_suffix(".json")
    record.unlink(missing_ok=True)
    write_rows([prompt.model_dump(mode="json", by_alias=True, include=fields) for prompt in prompts], target)
    made = BuiltFrom(
        parts=spec.parts,
        attribution=spec.attribution,
        sha256=hashlib.sha256(target.read_bytes()).hexdigest(),
    )
    record.write_text(json.dumps(made.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return Built(target, tuple(prompts), tuple(problems))


def _prompts(spec: SetFile, folder: Path, data: Path) -> tuple[list[Prompt], list[Problem]]:
    sets: list[tuple[Prompt, ...]] = []
    problems: list[Problem] = []
    for part in spec.parts:
        found, notes = _part(part, spec, folder, data)
        sets.append(found)
        problems += notes
    merged = merge(sets)
    return list(merged.prompts), [*problems, *merged.problems]


def _part(part: Part, spec: SetFile, folder: Path, data: Path) -> tuple[tuple[Prompt, ...], list[Problem]]:
    bundled = data / "prompts" / f"{part.source}.jsonl"
    if bundled.is_file():
        return read_prompts(bundled, strict=True), []
    nested = data / "sets" / f"{part.source}.toml"
    if nested.is_file():
        prompts, problems = _prompts(read_set_file(nested), nested.parent, data)
        return tuple(prompts), problems
    local = folder / part.source
    if local.is_file():
        loaded = load(local, lang=spec.lang)
    else:
        if not re.fullmatch(r"[0-9a-f]{40}", part.revision):
            raise InputError(
                "sets.not_pinned", source=part.source, commit=commit_of(part.source, part.revision or None)
            )
        loaded = load(part.source, revision=part.revision, lang=spec.lang)
    made = [
        prompt if prompt.origin else prompt.model_copy(update={"origin": spec.attribution}) for prompt in loaded.prompts
    ]
    return tuple(made), list(loaded.problems)
