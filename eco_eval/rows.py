"""Records from JSONL, JSON, CSV, TSV and Parquet files, with the line where each begins, and from TOML."""

from __future__ import annotations

import csv
import io
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import ValidationError

from eco_eval.errors import DataError
from eco_eval.types import Record

RecordT = TypeVar("RecordT", bound=Record)

FORMS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Suffixes of the files that can be read."""


class Row(NamedTuple):
    """One record: its number from 1, the line where it begins (None in Parquet), its cells by column."""

    number: int
    line: int | None
    cells: dict[str, Any]


class Defect(NamedTuple):
    """A record that cannot be read, or (`encoding`) a line that was read by another encoding than UTF-8."""

    cause: Literal["bad_json", "not_object", "extra_cells", "encoding"]
    number: int | None
    line: int | None
    detail: str = ""

    def error(self, file: Path | str) -> DataError:
        """What to tell a person who needs this record."""
        where = {"file": file, "line": self.line or self.number}
        if self.cause == "encoding":
            return DataError("data.not_utf8", **where)
        if self.cause == "bad_json":
            return DataError("data.bad_json", **where, reason=self.detail)
        return DataError(f"data.{self.cause}", **where)


def read_rows(file: Path) -> Iterator[Row]:
    """The records of a file of which every line must be sound. BOM and CRLF are fine.

    Raises:
        DataError: names the file, and the line where there is one.
    """
    for row in read_rows_and_defects(file):
        if isinstance(row, Defect):
            raise row.error(file)
        yield row


def read_rows_and_defects(file: Path) -> Iterator[Row | Defect]:
    """The records of a file, and what is wrong with those that cannot be used.

    A line that is not UTF-8 is read as Windows-1252, as old spreadsheets write it, and its defect comes first.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    suffix = file.suffix.lower()
    data = _bytes(file)
    if suffix == ".parquet":
        return _parquet_rows(file, data)
    text, defects = _decoded(data)
    if suffix in (".csv", ".tsv"):
        return _after(defects, _csv_rows(file, text))
    if suffix == ".json" and text.lstrip().startswith("["):
        return _after(defects, _listed_rows(file, text))
    return _after(defects, _json_rows(text))


def read_toml(file: Path, kind: type[RecordT]) -> RecordT:
    """A TOML file as a record.

    Raises:
        DataError: it cannot be read, or has an unknown or wrong key; names the key.
    """
    try:
        return kind.model_validate(tomllib.loads(file.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError("data.bad_key", file=file, field=field, reason=first["msg"]) from error
    except FileNotFoundError as error:
        raise DataError("data.no_file", file=file) from error
    except (OSError, ValueError) as error:
        raise DataError("data.bad_toml", file=file, reason=error) from error


def _after(defects: Iterable[Defect], rows: Iterator[Row | Defect]) -> Iterator[Row | Defect]:
    yield from defects
    yield from rows


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise DataError("data.no_file", file=file) from error
    except OSError as error:
        raise DataError("data.unreadable", file=file, reason=error.strerror or error) from error


def _decoded(data: bytes) -> tuple[str, list[Defect]]:
    data = data.removeprefix(b"\xef\xbb\xbf")
    defects: list[Defect] = []
    try:
        text = data.decode()
    except UnicodeDecodeError:
        lines = []
        for number, line in enumerate(data.split(b"\n"), 1):
            lines.append(line.decode("utf-8", "surrogateescape"))
            if any("\udc80" <= character <= "\udcff" for character in lines[-1]):
                defects.append(Defect("encoding", None, number))
        # UTF-8 and Windows-1252 can stand side by side in one line.
        text = re.sub("[\udc80-\udcff]+", _windows_1252, "\n".join(lines))
    return re.sub("\r\n?", "\n", text), defects


def _windows_1252(bad: re.Match[str]) -> str:
    return bad.group().encode("utf-8", "surrogateescape").decode("cp1252", "replace")


def _json_rows(text: str) -> Iterator[Row | Defect]:
    number = 0
    # Only "\n" ends a line: str.splitlines would also cut at U+2028 inside a text.
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        number += 1
        try:
            record = _parsed(content)
        except (ValueError, RecursionError) as error:
            yield Defect("bad_json", number, line, str(error))
            continue
        yield _record(record, number, line)


def _listed_rows(file: Path, text: str) -> Iterator[Row | Defect]:
    try:
        records = _parsed(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise DataError("data.bad_json", file=file, line=line, reason=error) from error
    for number, record in enumerate(records, 1):
        yield _record(record, number, None)


def _parsed(text: str) -> Any:
    record = json.loads(text)
    # JSON can escape half a character, which no file, tokenizer or digest can hold.
    json.dumps(record, ensure_ascii=False).encode()
    return record


def _record(record: object, number: int, line: int | None) -> Row | Defect:
    return Row(number, line, record) if isinstance(record, dict) else Defect("not_object", number, line)


def _csv_rows(file: Path, text: str) -> Iterator[Row | Defect]:
    header = text.lstrip("\n").partition("\n")[0]
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max("\t;,", key=header.count), strict=True)
    columns: list[str] = []
    # Where the record begins: the reader counts to where it ends, for an open quote the end of the file.
    line, number = 1, 0
    try:
        for cells in reader:
            begin, line = line, reader.line_num + 1
            if not any(cells):
                continue
            if not columns:
                columns = [name.strip() for name in cells]
                names = Counter(name.lower() for name in columns if name)
                if twice := [name for name, count in names.items() if count > 1]:
                    reason = f"{twice[0][:40]}: two columns of this name"
                    raise DataError("data.bad_csv", file=file, line=begin, reason=reason)
                continue
            number += 1
            if len(cells) > len(columns):
                yield Defect("extra_cells", number, begin)
                continue
            yield Row(number, begin, {name: cell for name, cell in zip(columns, cells, strict=False) if name and cell})
    except csv.Error as error:
        raise DataError("data.bad_csv", file=file, line=line, reason=error) from error


def _parquet_rows(file: Path, data: bytes) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not data:
        return
    try:
        records = pq.read_table(io.BytesIO(data)).to_pylist()
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DataError("data.bad_parquet", file=file, reason=str(error).partition("\n")[0]) from error
    for number, record in enumerate(records, 1):
        yield Row(number, None, record)
