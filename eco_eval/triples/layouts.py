"""What the columns of preference data mean: one reader a layout, each a row to a pair or a prompt."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from eco_eval.errors import DataError
from eco_eval.rows import Row
from eco_eval.triples.records import RANKS, Pair, Problem, Rank, Triple
from eco_eval.types import IssueCode, Prompt

MAX_CELL = 100_000
"""Characters of a text; a longer one is a file that lost its line breaks, not an answer."""

_RANK_OF_CODE: Mapping[str, Rank] = {"R1": "best", "R2": "ambivalent", "R3": "worst"}
_LANGS = {"eng": "en", "spa": "es", "ita": "it", "english": "en", "spanish": "es", "italian": "it"}
_PROMPT_COLUMNS = ("text", "prompt", "pregunta", "question", "instruction")


class Layout(NamedTuple):
    """A form of data: the columns that tell it, and how a row of it is read in a language.

    `read` raises `Unusable` for a row that cannot be used.
    """

    name: str
    needs: frozenset[str]
    read: Callable[[Row, str | None], Pair | Prompt]


class Unusable(Exception):
    """A row that cannot be used, and why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.cause)
        self.problem = problem


def layout_of(name: str, rows: Sequence[Row]) -> Layout:
    """Which layout rows have, by their columns.

    Raises:
        DataError: none that is known; names the columns.
    """
    columns = {key.strip().lower() for row in rows[:1000] for key in row.cells}
    for layout in LAYOUTS:
        if layout.needs <= columns and (layout.name == "dpo" or columns & {*_PROMPT_COLUMNS, "prompt_es"}):
            return layout
    raise DataError("data.unknown_columns", file=name, columns=", ".join(sorted(columns)))


def _h4rmony(row: Row, lang: str | None) -> Pair:
    cells = _lower(row)
    text = _text(cells, "prompt")
    ranks = str(cells.get("comparedranks") or "").strip().upper().split("-")
    if len(ranks) != 2 or any(rank not in _RANK_OF_CODE for rank in ranks) or ranks[0] >= ranks[1]:
        raise Unusable(Problem(cause="bad_rank", field="ComparedRanks", detail="-".join(ranks)[:40]))
    codes = tuple(code for code in get_args(IssueCode) if str(cells.get(code.lower(), "")).strip() in ("1", "1.0"))
    identifier = _plain(cells.get("promptid")) or _group(text)
    prompt = _prompt(
        id=f"h4rmony-{identifier}" if identifier.isdigit() else identifier,
        group=_group(text),
        text=text,
        lang=_lang(cells, lang or "en"),
        codes=codes,
        origin=_plain(cells.get("promptoriginator")),
    )
    known = {"promptid", "prompt", "bettercompletion", "worsecompletion", "comparedranks", "language"}
    origins = {"promptoriginator", "bettercompletionorigin", "worsecompletionorigin"}
    return _pair(
        prompt,
        _text(cells, "bettercompletion"),
        _text(cells, "worsecompletion"),
        chosen_rank=_RANK_OF_CODE[ranks[0]],
        rejected_rank=_RANK_OF_CODE[ranks[1]],
        chosen_origin=_plain(cells.get("bettercompletionorigin")),
        rejected_origin=_plain(cells.get("worsecompletionorigin")),
        meta=_meta(row, known | origins),
    )


def _dpo(row: Row, lang: str | None) -> Pair:
    cells = _lower(row)
    spanish = "prompt_es" in cells and lang in (None, "es")
    end = "_es" if spanish else ""
    text = _text(cells, f"prompt{end}")
    # The English text, where there is one, names the group: both languages of a prompt stay on one side of the split.
    group = _group(_text(cells, "prompt")) if "prompt" in cells else _group(text)
    prompt = _prompt(id=group, group=group, text=text, lang="es" if spanish else _lang(cells, lang or "en"))
    known = {f"{name}{end}" for name in ("prompt", "chosen", "rejected")} | {"lang"}
    columns = {"prompt", "chosen", "rejected", "prompt_es", "chosen_es", "rejected_es"}
    chosen, rejected = _text(cells, f"chosen{end}"), _text(cells, f"rejected{end}")
    return _pair(prompt, chosen, rejected, meta=_meta(row, known | columns))


def _own_pair(row: Row, lang: str | None) -> Pair:
    cells = _lower(row)
    ranks: dict[str, Rank] = {}
    for side in ("chosen_rank", "rejected_rank"):
        found = next((rank for rank in RANKS if rank == cells.get(side)), None)
        if found is None:
            raise Unusable(Problem(cause="bad_rank", field=side, detail=_plain(cells.get(side))[:40]))
        ranks[side] = found
    return _pair(
        _own_prompt(row, lang),
        _text(cells, "chosen"),
        _text(cells, "rejected"),
        **ranks,
        chosen_origin=_plain(cells.get("chosen_origin")),
        rejected_origin=_plain(cells.get("rejected_origin")),
        meta=_object(cells, "meta"),
    )


def _ranked(row: Row, lang: str | None) -> Prompt:
    """A row with a prompt and some of its three answers, in one language or two."""
    cells = _lower(row)
    end = "_es" if lang in (None, "es") and "prompt_es" in cells else ""
    if not end:
        known = {"promptid", "prompt_id", "meta", "pair_meta", *_PROMPT_COLUMNS, *_OWN, *_OWN.values()}
        meta = {**_object(cells, "meta"), **_meta(row, known)}
        return _whole(_own_prompt(row, lang), meta, _object(cells, "pair_meta"))
    text = _text(cells, "prompt_es")
    group = _group(_text(cells, "prompt"))
    answers = {rank: _text(cells, f"{rank}_es") for rank in RANKS if cells.get(f"{rank}_es") not in (None, "")}
    prompt = _prompt(id=_identifier(cells) or group, group=group, text=text, lang="es", **answers)
    return _whole(prompt, {}, {})


_OWN = {name: field.alias or name for name, field in Prompt.model_fields.items()}


def _own_prompt(row: Row, lang: str | None) -> Prompt:
    cells = _lower(row)
    column = next((name for name in _PROMPT_COLUMNS if cells.get(name) not in (None, "")), "prompt")
    text = _text(cells, column)
    values: dict[str, Any] = {}
    for name, alias in _OWN.items():
        value = cells.get(alias.lower(), cells.get(name))
        if name not in ("id", "group", "text") and value not in (None, "", []):
            values[alias] = _value(name, value)
    values["lang"] = _lang(cells, lang or "es")
    for rank in RANKS:
        if rank in values:
            values[rank] = _text(cells, rank)
    group = _plain(cells.get("group")) or _group(text)
    return _prompt(id=_identifier(cells) or group, group=group, text=text, **values)


def _whole(prompt: Prompt, meta: dict[str, Any], pair_meta: dict[str, Any]) -> Prompt:
    """The prompt as a triple, if it has three different answers."""
    answers = [getattr(prompt, rank) for rank in RANKS]
    if None in answers:
        return prompt
    if len(set(answers)) < len(RANKS):
        raise Unusable(Problem(cause="same_answer", id=prompt.id))
    return Triple.model_validate({**prompt.model_dump(), "meta": meta, "pair_meta": pair_meta})


LAYOUTS = (
    Layout("h4rmony", frozenset({"prompt", "bettercompletion", "worsecompletion", "comparedranks"}), _h4rmony),
    Layout("pairs", frozenset({"text", "chosen", "rejected", "chosen_rank", "rejected_rank"}), _own_pair),
    Layout("dpo", frozenset({"prompt", "chosen", "rejected"}), _dpo),
    Layout("dpo", frozenset({"prompt_es", "chosen_es", "rejected_es"}), _dpo),
    Layout("triples", frozenset({"best"}), _ranked),
    Layout("triples", frozenset({"text"}), _ranked),
    Layout("triples", frozenset({"prompt"}), _ranked),
)


def _lower(row: Row) -> dict[str, Any]:
    return {key.strip().lower(): value for key, value in row.cells.items()}


def _text(cells: Mapping[str, Any], column: str) -> str:
    value = cells.get(column)
    if value is None or value == "":
        raise Unusable(Problem(cause="empty_cell", field=column))
    if not isinstance(value, str):
        raise Unusable(Problem(cause="not_text", field=column, detail=type(value).__name__))
    if len(value) > MAX_CELL:
        raise Unusable(Problem(cause="oversized", field=column, detail=f"{len(value)}"))
    if not value.strip():
        raise Unusable(Problem(cause="empty_cell", field=column))
    return value.strip()


def _plain(value: object) -> str:
    """A cell as text, numbers without a decimal point they did not need."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.strip() if isinstance(value, str) else str(value)


def _identifier(cells: Mapping[str, Any]) -> str:
    return next((_plain(cells[key]) for key in ("id", "promptid", "prompt_id") if cells.get(key) not in (None, "")), "")


def _lang(cells: Mapping[str, Any], default: str) -> str:
    said = _plain(cells.get("lang") or cells.get("language"))
    return _LANGS.get(said.lower(), said.lower() or default)


def _value(name: str, value: Any) -> Any:
    """A cell of ours as it was written: CSV holds lists and truth values as text."""
    if not isinstance(value, str):
        return value
    if name in ("codes", "verified_by"):
        return json.loads(value) if value.startswith("[") else [v for v in re.split(r"[\s,;|]+", value) if v]
    if name in ("explicit", "control") and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    return value


def _object(cells: Mapping[str, Any], column: str) -> dict[str, Any]:
    value = cells.get(column) or {}
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise Unusable(Problem(cause="bad_value", field=column, detail=str(error))) from error
    if not isinstance(found, dict):
        raise Unusable(Problem(cause="bad_value", field=column))
    return found


def _meta(row: Row, known: set[str]) -> dict[str, str]:
    cells = {key: _plain(value) for key, value in row.cells.items() if key.strip().lower() not in known}
    return {key: value for key, value in cells.items() if value}


def _prompt(**fields: Any) -> Prompt:
    try:
        return Prompt.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise Unusable(Problem(cause="bad_value", id=fields.get("id"), field=field, detail=first["msg"])) from error


def _pair(prompt: Prompt, chosen: str, rejected: str, **fields: Any) -> Pair:
    if chosen == rejected:
        raise Unusable(Problem(cause="same_answer", id=prompt.id))
    return Pair(prompt=prompt, chosen=chosen, rejected=rejected, **fields)


def _group(text: str) -> str:
    """The name of the group of a text: a digest of its words, so that the same prompt is one group under any id."""
    return "p" + hashlib.sha256(normalised(text).encode()).hexdigest()[:12]


def normalised(text: str) -> str:
    """Letters and digits only, without accents or case: what stays of a text when it is retyped."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return " ".join(re.findall(r"\w+", bare))
