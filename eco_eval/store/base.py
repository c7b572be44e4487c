"""The edge to storage."""

from __future__ import annotations

import re
from typing import Final, Protocol

Version = str
"""Identifies the content read or written: SHA-256 in hex."""

ANY: Final = "any"
"""Write whatever is there now."""

ABSENT: Final = "absent"
"""Write only if nothing is there now."""


def slug(name: str) -> str:
    """A name as one path segment."""
    return re.sub(r"[^A-Za-z0-9._-]+", "--", name).strip(".-") or "unnamed"


class Store(Protocol):
    """Named bytes, written atomically, with compare-and-swap.

    Paths are relative, with `/`, the same in every store: `results/<id>.json`, `answers/<model>/<digest>.parquet`.
    """

    def read(self, path: str) -> tuple[bytes, Version] | None:
        """The bytes and their version, or None when there is nothing.

        Raises:
            StoreError: the store cannot be read.
        """
        ...

    def write(self, path: str, data: bytes, *, expected: Version = ANY) -> Version:
        """Write all of it or nothing. A reader sees the old bytes or the new ones.

        Raises:
            ConflictError: `expected` (a version, or ABSENT) is not what is there.
            StoreError: the store cannot be written, for instance the disk is full.
        """
        ...

    def list(self, prefix: str) -> list[str]:
        """Paths that begin with `prefix`, sorted."""
        ...

    def delete(self, path: str) -> None:
        """Remove it if it is there."""
        ...
