"""Read preference data from a file or the Hub, whatever its defects, and report what could not be used."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eco_eval.errors import DataError
from eco_eval.rows import FORMS, Defect, Row, read_rows_and_defects
from eco_eval.triples.hub import hub_rows
from eco_eval.triples.layouts import LANG_COLUMNS, MAX_CELL, Unusable, layout_of, normalised
from eco_eval.triples.pairs import implode
from eco_eval.triples.records import RANKS, Loaded, Pair, Problem
from eco_eval.types import Prompt

H4RMONY = "H4rmony (Neovalle, https://doi.org/10.57967/hf/1148), CC-BY-4.0"

_MOJIBAKE = re.compile("[\u00c2\u00c3\u00e2][\u0080-\u00bf\u0152-\u02dc\u2013-\u2122]")
"""Two characters that in Spanish or English only come of UTF-8 read as Windows-1252."""


def load(source: str | Path, *, revision: str | None = None, lang: str | None = None) -> Loaded:
    """Pairs, prompts and triples of a source in any of H4rmony's forms or our own.

    Forms, told by their columns: H4rmony's (`PromptID, Prompt, BetterCompletion, WorseCompletion, ComparedRanks`),
    DPO's (`prompt, chosen, rejected`, with `lang` or not), translated DPO (`prompt_es, chosen_es, rejected_es` beside
    the English), triples (`prompt` or `text`, `best, ambivalent, worst`), and what `write` made. Other columns are
    kept as metadata.

    A row that cannot be used is left out and reported, never repaired by guessing; text in a broken encoding is
    repaired, and reported. Prompts of the same text are one group, whatever their ids.

    Args:
        source: a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file, or `owner/name` on the Hub.
        revision: commit, tag or branch on the Hub.
        lang: read only this language, as two letters; of rows that hold two, the Spanish if not said. Also the language
            of rows that do not say theirs, Spanish for our own form and English for H4rmony's if not said.

    Raises:
        DataError: there is no such file, it is empty or none of its rows can be read, or its columns are of no known
            form; names them.
        InputError: the Hub cannot be reached or has no such dataset.
    """
    file = Path(source)
    name = f"{source}@{revision}" if revision else str(source)
    local = file.suffix.lower() in FORMS or file.exists()
    read = list(read_rows_and_defects(file) if local else hub_rows(str(source), revision))
    rows = [row for row in read if isinstance(row, Row)]
    defects = [row for row in read if isinstance(row, Defect)]
    if not rows:
        raise next((d.error(name) for d in defects if d.cause != "encoding"), DataError("data.empty", file=name))
    return _assemble(name, rows, [_problem(defect) for defect in defects], lang)


def _problem(defect: Defect) -> Problem:
    used = defect.cause == "encoding"
    return Problem(cause=defect.cause, used=used, row=defect.number, line=defect.line, detail=defect.detail[:200])


def _assemble(name: str, rows: Sequence[Row], broken: Sequence[Problem], lang: str | None) -> Loaded:
    layout = layout_of(name, rows)
    problems = list(broken)
    pairs: list[Pair] = []
    prompts: list[tuple[Row | None, Prompt]] = []
    others = 0
    assumed: set[str] = set()
    first: dict[str, Row] = {}
    for row in rows:
        cells = {key: _repaired(value, key, row, problems) for key, value in row.cells.items()}
        try:
            found = layout.read(row._replace(cells=cells), lang)
        except Unusable as unusable:
            problems.append(unusable.problem.model_copy(update={"row": row.number, "line": row.line}))
            continue
        prompt = found.prompt if isinstance(found, Pair) else found
        first.setdefault(prompt.id, row)
        if lang is None and not any(value for key, value in cells.items() if key.strip().lower() in LANG_COLUMNS):
            assumed.add(prompt.lang)
        if lang is not None and prompt.lang != lang:
            others += 1
        elif isinstance(found, Pair):
            pairs.append(found)
        else:
            prompts.append((row, found))
    if others:
        problems.append(Problem(cause="other_language", detail=str(others)))
    if assumed:
        problems.append(Problem(cause="language_assumed", used=True, detail=", ".join(sorted(assumed))))
    if pairs:
        imploded = implode(pairs)
        prompts = [(None, prompt) for prompt in (*imploded.triples, *imploded.incomplete)]
        problems += imploded.problems
    distinct, notes = _distinct(prompts)
    # Of a prompt that several rows make, a person is shown the first.
    problems = [_placed(problem, first) for problem in (*problems, *notes)]
    return Loaded(
        source=name,
        rows=len(rows) + sum(not problem.used for problem in broken),
        pairs=tuple(pairs),
        prompts=tuple(distinct),
        problems=tuple(problems),
        attribution=H4RMONY if "h4rmony" in f"{name} {layout.name}".lower() else "",
    )


def _placed(problem: Problem, first: dict[str, Row]) -> Problem:
    row = first.get(problem.id or "")
    if row is None or problem.row is not None:
        return problem
    return problem.model_copy(update={"row": row.number, "line": row.line})


def _repaired(value: Any, field: str, row: Row, problems: list[Problem]) -> Any:
    """Text in NFC, without what a wrong decoding left in it; anything else as it is."""
    if not isinstance(value, str):
        return value
    text = unicodedata.normalize("NFC", value)
    if len(text) <= MAX_CELL and _MOJIBAKE.search(text):
        import ftfy

        fixed = unicodedata.normalize("NFC", ftfy.fix_encoding(text))
        if fixed != text:
            problems.append(Problem(cause="encoding", used=True, row=row.number, line=row.line, field=field))
        return fixed
    return text


def _distinct(prompts: Sequence[tuple[Row | None, Prompt]]) -> tuple[list[Prompt], list[Problem]]:
    """Each id once and each text in one group; what was the same, or lacks an answer, is reported."""
    problems: list[Problem] = []
    seen: dict[tuple[str, str], Prompt] = {}
    joined: dict[str, str] = {}

    def joint(group: str) -> str:
        while group in joined:
            group = joined[group]
        return group

    texts: dict[tuple[str, str], Prompt] = {}
    for row, prompt in prompts:
        where = {"row": row.number, "line": row.line, "id": prompt.id} if row else {"id": prompt.id}
        if seen.setdefault((prompt.id, prompt.lang), prompt) is not prompt:
            problems.append(Problem(cause="duplicate_id", **where))
            continue
        first = texts.setdefault((normalised(prompt.text), prompt.lang), prompt)
        if first is not prompt:
            problems.append(Problem(cause="duplicate_prompt", used=True, detail=first.id, **where))
            if joint(prompt.group) != joint(first.group):
                joined[joint(prompt.group)] = joint(first.group)
        missing = [rank for rank in RANKS if getattr(prompt, rank) is None]
        if row and 0 < len(missing) < len(RANKS):
            problems.append(Problem(cause="incomplete", detail=", ".join(missing), **where))
    # All members of a group follow one that moves.
    return [
        prompt.model_copy(update={"group": joint(prompt.group)}) if prompt.group in joined else prompt
        for prompt in seen.values()
    ], problems
