"""Every result of a store in one file, so that a board of thousands is one read.

`index.parquet` has a row a result: flat columns for whoever opens it with another tool, and the whole `Result` as JSON.
It is a copy: `results/*.json` stays what counts, and a row that is not of the file that is there is not used.
"""

from __future__ import annotations

import gc
import hashlib
import io
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from eco_eval.errors import ConflictError, StoreError
from eco_eval.store.base import ABSENT, Store
from eco_eval.store.hub import HubStore, git_oid
from eco_eval.store.local import LocalStore
from eco_eval.store.records import parse_record
from eco_eval.types import Estimate, Grade, Result, Withheld

INDEX = "index.parquet"
RESULTS = "results/"
WITHDRAWN = "withdrawn/"

TRIES = 20
"""How often the index is written while others write it."""

CLOCK_STEP = 20_000_000
"""Nanoseconds by which a file's time may lie behind the clock: file systems count in steps of a few milliseconds."""

_COLUMNS = {
    "id": "string",
    "model": "string",
    "revision": "string",
    "source": "string",
    "system_prompt": "string",
    "instrument": "string",
    "asked_digest": "string",
    "measured_digest": "string",
    "publishable": "bool",
    "is_anchor": "bool",
    "stand_in": "bool",
    "eco": "double",
    "eco_low": "double",
    "eco_high": "double",
    "corrected": "double",
    "corrected_low": "double",
    "corrected_high": "double",
    "length_controlled": "double",
    "soft": "double",
    "good": "double",
    "regular": "double",
    "bad": "double",
    "controls": "double",
    "asked": "int64",
    "graded": "int64",
    "ungraded": "int64",
    "truncated": "int64",
    "empty": "int64",
    "judges": "list",
    "judge_revisions": "list",
    "judge_eco": "numbers",
    "grades": "list",
    "answers_path": "string",
    "judgements_paths": "list",
    "attribution": "string",
    "finished_at": "string",
    "result": "string",
    "result_sha256": "string",
    "result_oid": "string",
    "indexed_at": "int64",
}


BATCH = 500
"""Rows read at once: all of them as JSON and as records would be twice the memory."""


class Kept(NamedTuple):
    """What a row says of its file. `indexed_at`: when the file was read, nanoseconds since 1970."""

    sha256: str
    oid: str
    indexed_at: int


def shown_results(store: Store) -> list[str]:
    """Paths of the results of a store, in order, but for those that were withdrawn.

    Raises:
        StoreError: the store cannot be read.
    """
    gone = {path.removeprefix(WITHDRAWN) for path in store.list(WITHDRAWN)}
    return [path for path in store.list(RESULTS) if path.removeprefix(RESULTS) not in gone]


def load_results_indexed(store: Store) -> tuple[list[Result], list[str]]:
    """Every readable result of a store in order of path, and the paths of those that are not; none that was withdrawn.

    The same as reading every file. From the index come those whose file has not changed since: on the Hub by the
    content's digest, which the listing has; in a folder by the file's time; elsewhere by its bytes.

    Raises:
        StoreError: the store cannot be read.
    """
    paths = shown_results(store)
    found = store.read(INDEX)
    rows = _kept(found[0]) if found is not None else {}
    with _no_collection():
        known = _parsed(found[0], _current(store, rows) & set(paths)) if found is not None and rows else {}
        results, broken = [], []
        for path in paths:
            try:
                data = None if path in known else store.read(path)
                if data is not None:
                    results.append(parse_record(data[0], path, Result))
                elif path in known:
                    results.append(known[path])
            except StoreError as error:
                if error.key != "store.corrupt":
                    raise
                broken.append(path)
    return results, broken


def update_index(store: Store, files: Mapping[str, bytes]) -> bool:
    """Put results into the index, or what changed of them; others' rows stay. Files that are no result are left out.

    Args:
        files: bytes of `results/<id>.json` by path.

    Returns:
        Whether anything was to be done.

    Raises:
        ConflictError: others kept writing the index.
        StoreError: the store cannot be read or written.
    """
    now = time.time_ns()
    new = {path: row for path, data in files.items() if (row := _row(path, data, now)) is not None}
    for attempt in range(TRIES):
        found = store.read(INDEX)
        old = _kept(found[0]) if found is not None else {}
        changed = {p: row for p, row in new.items() if p not in old or old[p].sha256 != row["result_sha256"]}
        if not changed:
            return False
        data = _merged(found[0] if found is not None and old else None, changed)
        try:
            store.write(INDEX, data, expected=found[1] if found is not None else ABSENT)
            return True
        except ConflictError:
            if attempt == TRIES - 1:
                raise
    return False


def rebuild_index(store: Store) -> int:
    """Make the index anew from every result there is. Returns how many it holds.

    Raises:
        StoreError: the store cannot be read or written.
    """
    rows = []
    for path in store.list(RESULTS):
        now = time.time_ns()
        found = store.read(path)
        row = None if found is None else _row(path, found[0], now)
        if row is not None:
            rows.append(row)
    store.write(INDEX, _parquet(_table(rows)))
    return len(rows)


def _current(store: Store, rows: Mapping[str, Kept]) -> set[str]:
    """Paths whose row is of the file that is there."""
    if not rows:
        return set()
    if isinstance(store, HubStore):
        there = store.contents(RESULTS)
        return {
            path
            for path, row in rows.items()
            if path in there and (there[path].sha256 == row.sha256 or there[path].oid == row.oid)
        }
    if isinstance(store, LocalStore):
        return {path for path, row in rows.items() if _changed_at(store.root / path) < row.indexed_at - CLOCK_STEP}
    return {path for path, row in rows.items() if (found := store.read(path)) is not None and found[1] == row.sha256}


def _changed_at(file: Path) -> float:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return float("inf")


def _kept(data: bytes) -> dict[str, Kept]:
    """Rows by path; none of what is no index, for it is only a copy."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["id", "result_sha256", "result_oid", "indexed_at"]
    try:
        table = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True).read(columns)
        cells = [table.column(name).to_pylist() for name in columns]
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return {}
    return {f"{RESULTS}{row[0]}.json": Kept(*row[1:]) for row in zip(*cells, strict=True)}


def _parsed(data: bytes, wanted: Collection[str]) -> dict[str, Result]:
    """Results of the wanted rows by path, as far as they can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    results: dict[str, Result] = {}
    file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    with suppress(pa.ArrowException, OSError):  # a damaged page: the files themselves are still there
        for batch in file.iter_batches(BATCH, columns=["id", "result"]):
            texts = batch.column("result").cast(pa.binary()).to_pylist()
            for name, text in zip(batch.column("id").to_pylist(), texts, strict=True):
                path = f"{RESULTS}{name}.json"
                if path in wanted:
                    with suppress(StoreError):
                        results[path] = parse_record(text, INDEX, Result)
    return results


@contextmanager
def _no_collection() -> Iterator[None]:
    """No search for garbage meanwhile: among thousands of new records it takes longer than reading them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _merged(data: bytes | None, changed: Mapping[str, dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    new = _table(list(changed.values()))
    if data is None:
        return _parquet(new)
    old = pq.ParquetFile(io.BytesIO(data)).read()
    if old.schema != new.schema:
        # An index of another version of this program: what it lacks is empty until it is made anew.
        known = {name: old.column(name) if name in old.column_names else pa.nulls(len(old)) for name in _COLUMNS}
        old = pa.table(known).cast(new.schema)
    stays = pc.invert(pc.is_in(old.column("id"), value_set=pa.array([row["id"] for row in changed.values()])))
    return _parquet(pa.concat_tables([old.filter(stays), new]))


def _row(path: str, data: bytes, now: int) -> dict[str, Any] | None:
    """A result as a row of the index; None for what is none, or not where its id belongs."""
    try:
        result = parse_record(data, path, Result)
    except StoreError:
        return None
    if path != f"{RESULTS}{result.id}.json":
        return None
    sub, score, counts = result.submission, result.score, result.score.counts
    shares = {grade.value: score.shares[grade].value if grade in score.shares else None for grade in Grade}
    corrected = score.corrected if isinstance(score.corrected, Estimate) else None
    return {
        **{"id": result.id, "model": sub.model.name, "revision": sub.model.revision, "source": sub.model.source},
        **{"system_prompt": sub.system_prompt, "instrument": sub.instrument},
        **{"asked_digest": sub.asked_digest, "measured_digest": sub.measured_digest},
        **{"publishable": result.publishable, "is_anchor": result.is_anchor, "stand_in": result.has_stand_in},
        **{"eco": score.eco.value, "eco_low": score.eco.low, "eco_high": score.eco.high},
        "corrected": _value(score.corrected),
        "corrected_low": corrected.low if corrected is not None else None,
        "corrected_high": corrected.high if corrected is not None else None,
        **{"length_controlled": _value(score.length_controlled), "soft": _value(score.soft)},
        **{**shares, "controls": _value(score.controls)},
        **counts.model_dump(),
        "judges": [seat.name for seat in result.seats],
        "judge_revisions": [seat.revision for seat in result.seats],
        "judge_eco": [seat.eco.value for seat in result.seats],
        "grades": [seat.grades for seat in result.seats],
        "answers_path": result.answers_path,
        "judgements_paths": [seat.judgements_path for seat in result.seats],
        **{"attribution": result.attribution, "finished_at": result.provenance.finished_at},
        "result": result.model_dump_json(),
        "result_sha256": hashlib.sha256(data).hexdigest(),
        "result_oid": git_oid(data),
        "indexed_at": now,
    }


def _value(number: Estimate | Withheld | None) -> float | None:
    return number.value if isinstance(number, Estimate) else None


def _table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "bool": pa.bool_(),
        "double": pa.float64(),
        "int64": pa.int64(),
        "list": pa.list_(pa.string()),
        "numbers": pa.list_(pa.float64()),
    }
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, types[kind]) for name, kind in _COLUMNS.items()]))


def _parquet(table: Any) -> bytes:
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table.combine_chunks(), out, compression="zstd", write_page_checksum=True)
    return out.getvalue()
