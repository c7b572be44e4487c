"""What the columns of preference data mean: one reader a layout, each a row to a pair or a prompt."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from eco_eval.errors import DataError
from eco_eval.rows import Row
from eco_eval.triples.records import PAIRS, RANKS, Pair, Problem, Rank, as_triple
from eco_eval.types import IssueCode, Prompt

MAX_CELL = 100_000
"""Characters of a text; a longer one is a file that lost its line breaks, not an answer."""

_RANK_OF_CODE: Mapping[str, Rank] = {"R1": "best", "R2": "ambivalent", "R3": "worst"}
_LANGS = {"eng": "en", "spa": "es", "ita": "it", "english": "en", "spanish": "es", "italian": "it"}
LANG_COLUMNS = ("lang", "language")
"""Columns in which a row says its language."""

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
    shown = ", ".join(column[:40] for column in sorted(columns))
    raise DataError("data.unknown_columns", file=name, columns=shown[:400])


def _h4rmony(row: Row, lang: str | None) -> Pair:
    cells = _lower(row)
    text = _text(cells, "prompt")
    ranks = str(cells.get("comparedranks") or "").strip().upper().split("-")
    if len(ranks) != 2 or any(rank not in _RANK_OF_CODE for rank in ranks) or ranks[0] >= ranks[1]:
        raise Unusable(Problem(cause="bad_rank", field="ComparedRanks", detail="-".join(ranks)[:40]))
    codes = tuple(code for code in get_args(IssueCode) if _flag(cells, code))
    identifier = _name(cells, "promptid") or _group(text)
    prompt = _prompt(
        id=f"h4rmony-{identifier}" if identifier.isdigit() else identifier,
        group=_group(text),
        text=text,
        lang=_lang(cells, lang or "en"),
        codes=codes,
        origin=_plain(cells.get("promptoriginator")),
    )
    known = {"promptid", "prompt", "bettercompletion", "worsecompletion", "comparedranks", *LANG_COLUMNS}
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
    text = _text(cells, "prompt")
    prompt = _prompt(id=_group(text), group=_group(text), text=text, lang=_lang(cells, lang or "en"))
    return _pair(prompt, _text(cells, "chosen"), _text(cells, "rejected"), meta=_meta(row, _DPO))


def _translated_dpo(row: Row, lang: str | None) -> Pair:
    if lang not in (None, "es"):
        return _dpo(row, "en")
    cells = _lower(row)
    text = _text(cells, "prompt_es")
    group = _group_of_translation(cells, text)
    prompt = _prompt(id=group, group=group, text=text, lang="es")
    return _pair(prompt, _text(cells, "chosen_es"), _text(cells, "rejected_es"), meta=_meta(row, _DPO))


_DPO = {"prompt", "chosen", "rejected", "prompt_es", "chosen_es", "rejected_es", *LANG_COLUMNS}


def _own_pair(row: Row, lang: str | None) -> Pair:
    cells = _lower(row)
    sides = ("chosen_rank", "rejected_rank")
    said = tuple(_plain(cells.get(side)) for side in sides)
    if any(said) and said not in PAIRS:
        bad = next((side for side, rank in zip(sides, said, strict=True) if rank not in RANKS), "rejected_rank")
        raise Unusable(Problem(cause="bad_rank", field=bad, detail=" > ".join(rank[:40] for rank in said)))
    return _pair(
        _own_prompt(row, lang),
        _text(cells, "chosen"),
        _text(cells, "rejected"),
        chosen_rank=said[0] or None,
        rejected_rank=said[1] or None,
        chosen_origin=_plain(cells.get("chosen_origin")),
        rejected_origin=_plain(cells.get("rejected_origin")),
        meta={**_object(cells, "meta"), **_meta(row, {*_COLUMNS, *Pair.model_fields})},
    )


def _ranked(row: Row, lang: str | None) -> Prompt:
    """A row with a prompt and some of its three answers."""
    cells = _lower(row)
    meta = {**_object(cells, "meta"), **_meta(row, {*_COLUMNS, "meta", "pair_meta"})}
    return _whole(_own_prompt(row, lang), meta, _object(cells, "pair_meta"))


def _translated_ranked(row: Row, lang: str | None) -> Prompt:
    """A row with English columns and, in some rows, their Spanish beside them."""
    cells = _lower(row)
    spanish = {f"{name}_es" for name in ("prompt", *RANKS)}
    if lang not in (None, "es") or not any(cells.get(name) for name in spanish):
        return _ranked(row._replace(cells={k: v for k, v in cells.items() if k not in spanish}), "en")
    text = _text(cells, "prompt_es")
    group = _group_of_translation(cells, text)
    answers = {rank: _text(cells, f"{rank}_es") for rank in RANKS if cells.get(f"{rank}_es") not in (None, "")}
    prompt = _prompt(id=_identifier(cells) or group, group=group, text=text, lang="es", **answers)
    return _whole(prompt, _meta(row, {*_COLUMNS, *spanish}), {})


_OWN = {name: field.alias or name for name, field in Prompt.model_fields.items()}
_COLUMNS = {"promptid", "prompt_id", *LANG_COLUMNS, *_PROMPT_COLUMNS, *_OWN, *_OWN.values()}


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
    group = _name(cells, "group") or _group(text)
    return _prompt(id=_identifier(cells) or group, group=group, text=text, **values)


def _whole(prompt: Prompt, meta: dict[str, Any], pair_meta: dict[str, Any]) -> Prompt:
    """The prompt as a triple, if it has three different answers."""
    answers = [getattr(prompt, rank) for rank in RANKS]
    if None in answers:
        return prompt
    if len(set(answers)) < len(RANKS):
        raise Unusable(Problem(cause="same_answer", id=prompt.id))
    try:
        return as_triple(prompt, {}, meta=meta, pair_meta=pair_meta)
    except ValidationError as error:
        raise _bad_value(error, prompt.id) from error


LAYOUTS = (
    Layout("h4rmony", frozenset({"prompt", "bettercompletion", "worsecompletion", "comparedranks"}), _h4rmony),
    Layout("pairs", frozenset({"text", "chosen", "rejected", "chosen_rank", "rejected_rank"}), _own_pair),
    Layout("dpo", frozenset({"prompt_es", "chosen_es", "rejected_es"}), _translated_dpo),
    Layout("dpo", frozenset({"prompt", "chosen", "rejected"}), _dpo),
    Layout("pairs", frozenset({"text", "chosen", "rejected"}), _own_pair),
    Layout("triples", frozenset({"prompt_es"}), _translated_ranked),
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


def _name(cells: Mapping[str, Any], column: str) -> str:
    """A cell that names something: text or a number."""
    value = cells.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise Unusable(Problem(cause="not_text", field=column, detail=type(value).__name__))
    return _plain(value)


def _identifier(cells: Mapping[str, Any]) -> str:
    return next((name for key in ("id", "promptid", "prompt_id") if (name := _name(cells, key))), "")


def _flag(cells: Mapping[str, Any], code: str) -> bool:
    """Whether a row carries an issue code: 1 or 0, or empty for no."""
    said = _plain(cells.get(code.lower())).lower()
    if said not in ("", "0", "0.0", "false", "1", "1.0", "true"):
        raise Unusable(Problem(cause="bad_value", field=code, detail=said[:40]))
    return said in ("1", "1.0", "true")


def _lang(cells: Mapping[str, Any], default: str) -> str:
    said = next((name for key in LANG_COLUMNS if (name := _name(cells, key))), "")
    return _LANGS.get(said.lower(), said.lower() or default)


def _value(name: str, value: Any) -> Any:
    """A cell of ours as it was written: CSV holds lists and truth values as text."""
    if not isinstance(value, str):
        return value
    if name in ("codes", "verified_by"):
        with suppress(ValueError, RecursionError):
            if value.startswith("["):
                return json.loads(value)
        # People have names of several words, codes have not.
        return [v.strip() for v in re.split(r"[\s,;|]+" if name == "codes" else r"[,;|]+", value) if v.strip()]
    if name in ("explicit", "control") and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    return value


def _object(cells: Mapping[str, Any], column: str) -> dict[str, Any]:
    value = cells.get(column) or {}
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise Unusable(Problem(cause="bad_value", field=column, detail=str(error))) from error
    if not isinstance(found, dict):
        raise Unusable(Problem(cause="bad_value", field=column, detail=type(found).__name__))
    return {key: item if isinstance(item, str | dict) else _plain(item) for key, item in found.items()}


def _meta(row: Row, known: set[str]) -> dict[str, str]:
    cells = {key: _plain(value) for key, value in row.cells.items() if key.strip().lower() not in known}
    return {key: value for key, value in cells.items() if value}


def _prompt(**fields: Any) -> Prompt:
    long = next((name for name, value in fields.items() if isinstance(value, str) and len(value) > MAX_CELL), None)
    if long is not None:
        raise Unusable(Problem(cause="oversized", field=long, detail=f"{len(fields[long])}"))
    try:
        return Prompt.model_validate(fields)
    except ValidationError as error:
        raise _bad_value(error, fields.get("id")) from error


def _bad_value(error: ValidationError, identifier: str | None) -> Unusable:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return Unusable(Problem(cause="bad_value", id=identifier, field=field, detail=first["msg"]))


def _pair(prompt: Prompt, chosen: str, rejected: str, **fields: Any) -> Pair:
    if chosen == rejected:
        raise Unusable(Problem(cause="same_answer", id=prompt.id))
    try:
        return Pair(prompt=prompt, chosen=chosen, rejected=rejected, **fields)
    except ValidationError as error:
        raise _bad_value(error, prompt.id) from error


def _group(text: str) -> str:
    """The name of the group of a text: a digest of its words, so that the same prompt is one group under any id."""
    return "p" + hashlib.sha256(normalised(text).encode()).hexdigest()[:12]


def _group_of_translation(cells: Mapping[str, Any], text: str) -> str:
    """The English text, where there is one, names the group: both languages of a prompt stay in one split."""
    return _group(_text(cells, "prompt")) if cells.get("prompt") not in (None, "") else _group(text)


def normalised(text: str) -> str:
    """Letters and digits only, without accents or case: what stays of a text when it is retyped. All of it if none."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return " ".join(re.findall(r"\w+", bare)) or text.strip()
