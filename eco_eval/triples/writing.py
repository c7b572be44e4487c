"""Write preference data to a file, whole or not at all, and never over another without being told."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from eco_eval.errors import DataError, InputError, StoreError
from eco_eval.rows import FORMS
from eco_eval.triples.records import RANKS, Pair, Triple
from eco_eval.types import Prompt

_PROMPT_FIELDS = [name for name in Prompt.model_fields if name.split("_")[0] not in RANKS]


def write(records: Iterable[Prompt | Pair], file: Path, *, force: bool = False) -> int:
    """Write triples, prompts or pairs; the suffix says as what (see FORMS). Returns how many.

    A pair is written flat, with `text`, `chosen`, `rejected`, their ranks and the prompt's fields, so that `load`
    reads it back and TRL's trainers read it after renaming `text` to `prompt`.

    Raises:
        InputError: the file exists and `force` is false, or its suffix is of no known form.
        StoreError: it cannot be written.
    """
    listed = list(records)
    check_target(file, force=force)
    write_rows([flat(record) for record in listed], file)
    return len(listed)


def check_target(file: Path, *, force: bool, forms: Sequence[str] = FORMS) -> None:
    """Refuse a file that cannot be written, before the work whose outcome it would hold.

    Raises:
        InputError: it exists and `force` is false, its suffix is of no known form, or its folder is not there.
    """
    if file.suffix.lower() not in forms:
        raise DataError("data.unknown_form", file=file, known=", ".join(forms))
    if file.exists() and not force:
        raise InputError("data.exists", file=file)
    if not file.absolute().parent.is_dir():
        raise InputError("data.no_folder", folder=file.absolute().parent)


def flat(record: Prompt | Pair) -> dict[str, Any]:
    """A record as one flat row."""
    if isinstance(record, Pair):
        prompt = _fields(record.prompt, _PROMPT_FIELDS)
        return {**prompt, **_fields(record, [name for name in Pair.model_fields if name != "prompt"])}
    return _fields(record, list(Triple.model_fields if isinstance(record, Triple) else Prompt.model_fields))


def _fields(record: BaseModel, names: Sequence[str]) -> dict[str, Any]:
    return record.model_dump(mode="json", by_alias=True, include=set(names))


def write_rows(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Write rows as the suffix says, whole or not at all.

    Raises:
        StoreError: the file cannot be written.
    """
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        data = parquet(rows)
    elif suffix in (".csv", ".tsv"):
        data = _csv(rows, "\t" if suffix == ".tsv" else ",")
    else:
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    write_whole(data, file)


def write_whole(data: bytes, file: Path) -> None:
    """Write bytes beside the target first and then rename.

    Raises:
        StoreError: the file cannot be written.
    """
    temporary = Path()
    try:
        handle, name = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        temporary.chmod(0o644)
        temporary.replace(file)
    except OSError as error:
        if temporary.name:
            temporary.unlink(missing_ok=True)
        raise StoreError("store.unwritable", path=file, reason=error.strerror or error) from error


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _csv(rows: Sequence[dict[str, Any]], delimiter: str) -> bytes:
    out = io.StringIO()
    # With this line end a cell that holds either of its characters is quoted.
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    columns = _columns(rows)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in columns])
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """Flat rows as the bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Free-form metadata has other keys in every row: as JSON text it is one column of one type.
    kept = [{k: _cell(v) if isinstance(v, dict) else v for k, v in row.items()} for row in rows]
    columns = {name: [row.get(name) for row in kept] for name in _columns(kept)}
    typed = {
        name: pa.array(cells, type=pa.list_(pa.string()) if any(isinstance(c, list) for c in cells) else None)
        for name, cells in columns.items()
    }
    out = io.BytesIO()
    pq.write_table(pa.table(typed), out)
    return out.getvalue()
