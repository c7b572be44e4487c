"""One record as one JSON file of a store."""

from __future__ import annotations

from typing import TypeVar

from eco_eval.errors import StoreError
from eco_eval.store.base import Store
from eco_eval.types import Record

RecordT = TypeVar("RecordT", bound=Record)


def read_record(store: Store, path: str, kind: type[RecordT]) -> RecordT | None:
    """A kept record, or None where there is none.

    Raises:
        StoreError: it is there and cannot be read.
    """
    found = store.read(path)
    return None if found is None else parse_record(found[0], path, kind)


def parse_record(data: bytes, path: str, kind: type[RecordT]) -> RecordT:
    """A record from its JSON.

    Raises:
        StoreError: it is none; names `path`.
    """
    try:
        return kind.model_validate_json(data)
    except ValueError as error:
        raise StoreError("store.corrupt", path=path, reason=type(error).__name__) from error
