"""A growing set of records that survives a crash: shards while it grows, one Parquet file when it is whole."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter

from eco_eval.errors import StoreError
from eco_eval.store.base import Store
from eco_eval.types import AboutPrompt

RecordT = TypeVar("RecordT", bound=AboutPrompt)


class Table(Generic[RecordT]):
    """Records with a `prompt_id`, kept at `path` (ending in `.parquet`).

    While the table grows, records are saved in shards beside it: after at most a second, and after at most a
    hundredth of the time spent so far, so that a long run does not drown in small files. `finish` writes the one
    file and removes the shards. Opened again after a crash, it knows every record that was saved.
    """

    def __init__(self, store: Store, path: str, kind: Any, meta: dict[str, str] | None = None) -> None:
        self._store = store
        self._path = path
        self._adapter: TypeAdapter[RecordT] = TypeAdapter(kind)
        self._fields = list(dict.fromkeys(_field_names(kind)))
        self.meta = dict(meta or {})
        self._pending: list[RecordT] = []
        self._started = self._flushed = time.monotonic()
        self.records: dict[str, RecordT] = {}
        self.finished = self._load(path)
        # Shards beside a whole table are newer than it: what was added, or asked again.
        shards = store.list(self._shards)
        for shard in shards:
            self._load(shard)
        self._changed = bool(shards)

    @property
    def _shards(self) -> str:
        return f"{self._path.removesuffix('.parquet')}.shards/"

    def _load(self, path: str) -> bool:
        """Whether there is anything at `path`; if so, its records are known from now on."""
        found = self._store.read(path)
        if found is None:
            return False
        records, meta = from_parquet(found[0], self._adapter, path)
        self.meta.update(meta)
        for record in records:
            self.records[record.prompt_id] = record
        return True

    def add(self, record: RecordT) -> None:
        """Keep one more record; saved within a second or so."""
        self.records[record.prompt_id] = record
        self._changed = True
        self._pending.append(record)
        now = time.monotonic()
        if now - self._flushed > max(1.0, (now - self._started) / 100):
            self.flush()

    def drop(self, unwanted: Callable[[RecordT], bool]) -> None:
        """Forget records that are to be made again; what is saved stays until `finish` replaces it."""
        gone = [key for key, record in self.records.items() if unwanted(record)]
        for key in gone:
            del self.records[key]
        self.finished = self.finished and not gone

    def flush(self) -> None:
        """Save what is pending."""
        if self._pending:
            name = f"{self._shards}{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
            self._store.write(name, to_parquet(self._pending, self._fields, self.meta))
            self._pending = []
        self._flushed = time.monotonic()

    def finish(self, order: Sequence[str]) -> list[RecordT]:
        """Write the whole table in the given order of prompt ids and drop the shards."""
        whole = [self.records[key] for key in order]
        if self._changed or not self.finished:
            self._store.write(self._path, to_parquet(whole, self._fields, self.meta))
            self.finished, self._changed = True, False
        for shard in self._store.list(self._shards):
            self._store.delete(shard)
        self._pending = []
        return whole


def to_parquet(records: Sequence[BaseModel], fields: Sequence[str], meta: dict[str, str]) -> bytes:
    """Records as Parquet bytes: one text, number or JSON column a field; the same records give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [record.model_dump(mode="json") for record in records]
    columns = {name: [row.get(name) for row in rows] for name in fields}
    as_json = [name for name, cells in columns.items() if any(_is_nested(cell) for cell in cells)]
    for name in as_json:
        columns[name] = [None if c is None else json.dumps(c, ensure_ascii=False) for c in columns[name]]
    # Lone surrogates, which JSON from a server can carry, cannot be written as UTF-8.
    columns = {name: [_storable(cell) for cell in cells] for name, cells in columns.items()}
    table = pa.table({name: pa.array(cells, type=_arrow_type(cells)) for name, cells in columns.items()})
    table = table.replace_schema_metadata(
        {"eco_eval": json.dumps(meta, sort_keys=True), "json_columns": json.dumps(as_json)}
    )
    out = io.BytesIO()
    pq.write_table(table, out, write_page_checksum=True)
    return out.getvalue()


def from_parquet(data: bytes, adapter: TypeAdapter[RecordT], path: str) -> tuple[list[RecordT], dict[str, str]]:
    """Records and metadata from what `to_parquet` wrote.

    Raises:
        StoreError: the bytes are not such a table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
        metadata = table.schema.metadata or {}
        meta = json.loads(metadata.get(b"eco_eval", b"{}"))
        as_json = set(json.loads(metadata.get(b"json_columns", b"[]")))
        rows = [
            {k: json.loads(v) if k in as_json else v for k, v in row.items() if v is not None}
            for row in table.to_pylist()
        ]
        return [adapter.validate_python(row) for row in rows], meta
    except (pa.ArrowException, ValueError, TypeError, OSError) as error:
        raise StoreError("store.corrupt", path=path, reason=str(error).partition("\n")[0]) from error


def _field_names(kind: Any) -> list[str]:
    import typing

    members = [kind] if hasattr(kind, "model_fields") else typing.get_args(typing.get_args(kind)[0])
    return [name for member in members for name in member.model_fields]


def _storable(cell: object) -> object:
    return cell.encode("utf-8", "replace").decode() if isinstance(cell, str) else cell


def _is_nested(cell: object) -> bool:
    """Whether a cell goes into JSON text: anything but a scalar or a list of numbers."""
    return isinstance(cell, dict) or (isinstance(cell, list) and not all(isinstance(x, int | float) for x in cell))


def _arrow_type(cells: Sequence[object]) -> Any:
    import pyarrow as pa

    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds <= {bool} and kinds:
        return pa.bool_()
    if kinds <= {int} and kinds:
        return pa.int64()
    if kinds <= {int, float} and kinds:
        return pa.float64()
    return pa.list_(pa.float64()) if kinds == {list} else pa.string()
