"""A store in a local directory."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eco_eval.errors import ConflictError, InputError, StoreError
from eco_eval.store.base import ABSENT, ANY, Version

_TEMPORARY = ".partial-"


class LocalStore:
    """Named bytes as files under `root`. Safe for several processes on one machine."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def read(self, path: str) -> tuple[bytes, Version] | None:
        try:
            data = self._file(path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError("store.unreadable", path=path, reason=error.strerror or error) from error
        return data, hashlib.sha256(data).hexdigest()

    def write(self, path: str, data: bytes, *, expected: Version = ANY) -> Version:
        file = self._file(path)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                if expected != ANY:
                    current = self.read(path)
                    if (current[1] if current else ABSENT) != expected:
                        raise ConflictError("store.conflict", path=path)
                _replace(file, data)
        except OSError as error:
            raise StoreError("store.unwritable", path=path, reason=error.strerror or error) from error
        return hashlib.sha256(data).hexdigest()

    def list(self, prefix: str) -> list[str]:
        found = (p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file())
        return sorted(p for p in found if p.startswith(prefix) and not Path(p).name.startswith("."))

    def delete(self, path: str) -> None:
        try:
            self._file(path).unlink(missing_ok=True)
            with suppress(OSError):
                self._file(path).parent.rmdir()
        except OSError as error:
            raise StoreError("store.unwritable", path=path, reason=error.strerror or error) from error

    def _file(self, path: str) -> Path:
        parts = path.split("/")
        if not path or any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
            raise InputError("store.bad_path", path=path)
        return self.root.joinpath(*parts)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _replace(file: Path, data: bytes) -> None:
    """Write beside the target and rename, so that a crash leaves the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
