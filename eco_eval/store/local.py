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
            with self._locked():
                file.parent.mkdir(parents=True, exist_ok=True)
                if expected != ANY:
                    current = self.read(path)
                    if (current[1] if current else ABSENT) != expected:
                        raise ConflictError("store.conflict", path=path)
                _replace(file, data)
        except OSError as error:
            raise StoreError("store.unwritable", path=path, reason=error.strerror or error) from error
        return hashlib.sha256(data).hexdigest()

    def list(self, prefix: str) -> list[str]:
        folder = prefix.rpartition("/")[0]
        top = self._file(folder) if folder else self.root

        def unreadable(error: OSError) -> None:
            # A folder that is not there, or went while we read, holds nothing.
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise StoreError("store.unreadable", path=prefix, reason=error.strerror or error) from error

        found: list[str] = []
        for where, folders, names in os.walk(top, onerror=unreadable):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = Path(where).relative_to(self.root)
            found += [(inside / name).as_posix() for name in names if not name.startswith(".")]
        return sorted(path for path in found if path.startswith(prefix))

    def delete(self, path: str) -> None:
        file = self._file(path)
        try:
            if not file.exists():
                return
            with self._locked():
                file.unlink(missing_ok=True)
                with suppress(OSError):
                    file.parent.rmdir()
        except OSError as error:
            raise StoreError("store.unwritable", path=path, reason=error.strerror or error) from error

    def _file(self, path: str) -> Path:
        parts = path.split("/")
        # Names that begin with a dot are the store's own, and "." and "..".
        if any(not part or part.startswith(".") or "\\" in part or not part.isprintable() for part in parts):
            raise InputError("store.bad_path", path=path)
        return self.root.joinpath(*parts)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
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
