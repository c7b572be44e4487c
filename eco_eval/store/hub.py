"""A store in a Hub dataset repository, through its own client."""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eco_eval.errors import ConflictError, InputError, StoreError
from eco_eval.store.base import ABSENT, ANY, Version

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TRIES: Final = 12
"""How often a commit is tried while others commit to the same repository."""

LONGEST_WAIT = 4.0
"""Seconds between two tries, at most."""

KEPT_REVISIONS: Final = 8
"""How many revisions the cache holds files of; a service that runs for months reads a new one every few minutes."""

PATHS_AT_ONCE: Final = 500


class Content(NamedTuple):
    """What the Hub says of a file's content: git's SHA-1 of the blob, and SHA-256 where LFS or Xet keeps it."""

    oid: str
    sha256: str | None

    def is_of(self, data: bytes) -> bool:
        """Whether these bytes are that content."""
        if self.sha256 is not None:
            return self.sha256 == hashlib.sha256(data).hexdigest()
        return self.oid == git_oid(data)


class Batch:
    """Writes and deletes that become one commit. `commit` is its revision once made, None if nothing changed."""

    def __init__(self) -> None:
        self.commit: str | None = None
        self.changes: dict[str, bytes | None] = {}
        self.conditions: dict[str, Version] = {}


class HubStore:
    """Named bytes as files of a dataset repository, one commit a write or one a `batch`.

    What is read is one revision of the repository, asked for again when `ttl` seconds old: what somebody else wrote is
    seen by then, what was written here at once. Safe for threads; a batch belongs to the thread that opened it.
    """

    def __init__(
        self, repo: str, *, token: str | None = None, cache: Path, revision: str = "main", ttl: float = 5.0
    ) -> None:
        """
        Args:
            repo: `owner/name` of the dataset.
            token: needed for writing and for private datasets. No other token of this machine is used.
            cache: a folder for files of the Hub; safe to delete.
            revision: the branch to read and write.
            ttl: seconds for which the branch's newest revision is taken as known.
        """
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII):
            raise InputError("store.bad_repo", repo=repo)
        self.repo = repo
        self.revision = revision
        self._token = token
        self._cache = Path(cache)
        self._ttl = ttl
        self._lock = threading.RLock()
        self._committing = threading.RLock()
        self._local = threading.local()
        self._head = ""
        self._asked = float("-inf")
        self._trees: dict[str, dict[str, Content]] = {}
        self._absent: set[str] = set()

    def create(self, *, private: bool) -> None:
        """Make the repository if there is none.

        Raises:
            InputError: asked for a private one, and there is a public one.
            StoreError: the Hub cannot be reached or refuses.
        """
        self._writable()
        with translated(self.repo):
            self._api.create_repo(self.repo, repo_type="dataset", private=private, exist_ok=True)
            if private and not self._api.dataset_info(self.repo, expand=["private"]).private:
                raise InputError("store.is_public", repo=self.repo)

    def read(self, path: str) -> tuple[bytes, Version] | None:
        check_path(path)
        batch = self._batch
        if batch is not None and path in batch.changes:
            data = batch.changes[path]
        else:
            data = self._read_at(self._newest(), path)
        return None if data is None else (data, hashlib.sha256(data).hexdigest())

    def write(self, path: str, data: bytes, *, expected: Version = ANY) -> Version:
        check_path(path)
        self._writable()
        batch = self._batch
        if batch is None:
            conditions = {} if expected == ANY else {path: expected}
            self._commit({path: data}, conditions, f"Write {path}")
        else:
            if expected != ANY:
                self._expect(batch, path, expected)
            batch.changes[path] = data
        return hashlib.sha256(data).hexdigest()

    def list(self, prefix: str) -> list[str]:
        folder = prefix.rpartition("/")[0]
        if folder:
            check_path(folder)
        found = set(self._tree(folder))
        batch = self._batch
        for path, data in (batch.changes if batch is not None else {}).items():
            found = found - {path} if data is None else found | {path}
        return sorted(path for path in found if path.startswith(prefix))

    def delete(self, path: str) -> None:
        check_path(path)
        self._writable()
        batch = self._batch
        if batch is None:
            self._commit({path: None}, {}, f"Delete {path}")
        else:
            batch.changes[path] = None

    def contents(self, prefix: str) -> dict[str, Content]:
        """What the Hub says of the content of every file that begins with `prefix`, without fetching any.

        Raises:
            StoreError: the Hub cannot be reached or refuses.
        """
        folder = prefix.rpartition("/")[0]
        if folder:
            check_path(folder)
        return {path: content for path, content in self._tree(folder).items() if path.startswith(prefix)}

    @contextmanager
    def batch(self, message: str) -> Iterator[Batch]:
        """Gather this thread's writes and deletes and make them one commit at the end; an exception drops them all.

        Reads inside see them. A batch inside a batch is part of it.

        Raises:
            ConflictError: at the end, when a file that a write expected to be as it was has changed meanwhile.
            StoreError: at the end, when the commit cannot be made.
        """
        outer = self._batch
        if outer is not None:
            yield outer
            return
        self._local.batch = batch = Batch()
        try:
            yield batch
        finally:
            self._local.batch = None
        if batch.changes:
            batch.commit = self._commit(batch.changes, batch.conditions, message)

    @property
    def _batch(self) -> Batch | None:
        found: Batch | None = getattr(self._local, "batch", None)
        return found

    @property
    def _api(self) -> HfApi:
        from huggingface_hub import HfApi

        # False: none at all; None would be whatever token the machine has.
        return HfApi(token=self._token or False)

    def _writable(self) -> None:
        if not self._token:
            raise StoreError("store.read_only", repo=self.repo)

    def _newest(self, *, fresh: bool = False) -> str:
        """The branch's newest revision, as known for at most `ttl` seconds."""
        with self._lock:
            known = time.monotonic() - self._asked < self._ttl
            if self._head and known and not fresh:
                return self._head
        try:
            with translated(self.repo, self.revision):
                info = self._api.dataset_info(self.repo, revision=self.revision, expand=["sha"])
        except StoreError as error:
            # A board an hour old is better than none while the Hub is down; writing is another matter.
            if fresh or not self._head or not error.retryable:
                raise
            self._asked = time.monotonic()
            return self._head
        self._moved(str(info.sha))
        return str(info.sha)

    def _moved(self, head: str) -> None:
        with self._lock:
            if head != self._head:
                self._head = head
                self._trees = {}
                self._absent = set()
                _drop_old(self._cache)
            self._asked = time.monotonic()

    def _read_at(self, revision: str, path: str) -> bytes | None:
        """A file of a revision, fetched once."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        if self._is_absent(revision, path):
            return None
        try:
            with translated(self.repo, revision):
                for left in (1, 0):
                    fetched = hf_hub_download(
                        self.repo,
                        path,
                        repo_type="dataset",
                        revision=revision,
                        cache_dir=self._cache,
                        token=self._token or False,
                    )
                    try:
                        return Path(fetched).read_bytes()
                    except FileNotFoundError:
                        # Another process dropped that revision from the cache in between.
                        if not left:
                            raise
        except RemoteEntryNotFoundError:
            with self._lock:
                if revision == self._head:
                    self._absent.add(path)
        return None

    def _is_absent(self, revision: str, path: str) -> bool:
        """Whether a revision is known to lack a file: visitors may ask for any name, and the Hub only so often."""
        with self._lock:
            if revision != self._head:
                return False
            listed = (tree for folder, tree in self._trees.items() if path.startswith(f"{folder}/" if folder else ""))
            return path in self._absent or any(path not in tree for tree in listed)

    def _tree(self, folder: str) -> dict[str, Content]:
        """Every file below a folder of the newest revision: one listing a revision, of it or of a folder above it."""
        from huggingface_hub.errors import RemoteEntryNotFoundError

        head = self._newest()
        parts = folder.split("/") if folder else []
        above = ["/".join(parts[:end]) for end in range(len(parts), -1, -1)]
        with self._lock:
            for known in above if head == self._head else ():
                if known in self._trees:
                    return self._trees[known]
        try:
            with translated(self.repo, head):
                entries = self._api.list_repo_tree(
                    self.repo, folder or None, recursive=True, revision=head, repo_type="dataset"
                )
                found = {entry.path: content for entry in entries if (content := content_of(entry)) is not None}
        except RemoteEntryNotFoundError:
            found = {}
        found = {path: content for path, content in found.items() if not _is_hidden(path)}
        with self._lock:
            if head == self._head:
                self._trees[folder] = found
        return found

    def _expect(self, batch: Batch, path: str, expected: Version) -> None:
        """Refuse a write whose condition does not hold; note it, so that it is looked at again with the commit."""
        found = self.read(path)
        if (found[1] if found else ABSENT) != expected and path not in batch.changes:
            self._newest(fresh=True)
            found = self.read(path)
        if (found[1] if found else ABSENT) != expected:
            raise ConflictError("store.conflict", path=path)
        if path not in batch.changes:
            batch.conditions[path] = expected

    def _commit(
        self, changes: Mapping[str, bytes | None], conditions: Mapping[str, Version], message: str
    ) -> str | None:
        """One commit of what differs from the newest revision. Returns its revision, None where nothing differs."""
        from huggingface_hub.errors import HfHubHTTPError

        self._writable()
        with self._committing:
            for attempt in range(TRIES):
                head = self._newest(fresh=attempt > 0 or bool(conditions))
                there = self._contents_at(head, sorted({*changes, *conditions}))
                self._check(head, there, conditions)
                operations = _operations(changes, there)
                if not operations:
                    return None
                try:
                    with translated(self.repo, self.revision):
                        done = self._api.create_commit(
                            self.repo,
                            operations,
                            commit_message=message,
                            repo_type="dataset",
                            revision=self.revision,
                            parent_commit=head,
                        )
                except StoreError as error:
                    cause = error.__cause__
                    # The branch has another head than the commit's parent: somebody else was first.
                    if not isinstance(cause, HfHubHTTPError) or cause.response.status_code not in (409, 412):
                        raise
                    time.sleep(min(LONGEST_WAIT, 0.1 * 2**attempt) * random.uniform(0.5, 1.0))
                    continue
                if not _is_made(operations):
                    continue
                self._moved(done.oid)
                return str(done.oid)
        raise StoreError("store.hub_busy", retryable=True, repo=self.repo, tries=TRIES)

    def _contents_at(self, revision: str, paths: Sequence[str]) -> dict[str, Content]:
        found: dict[str, Content] = {}
        for start in range(0, len(paths), PATHS_AT_ONCE):
            part = list(paths[start : start + PATHS_AT_ONCE])
            with translated(self.repo, revision):
                entries = self._api.get_paths_info(self.repo, part, revision=revision, repo_type="dataset")
            for entry in entries:
                content = content_of(entry)
                if content is not None:
                    found[entry.path] = content
        return found

    def _check(self, revision: str, there: Mapping[str, Content], conditions: Mapping[str, Version]) -> None:
        for path, expected in conditions.items():
            content = there.get(path)
            if content is None:
                current = ABSENT
            elif content.sha256 is not None:
                current = content.sha256
            else:
                current = hashlib.sha256(self._read_at(revision, path) or b"").hexdigest()
            if current != expected:
                raise ConflictError("store.conflict", path=path)


def check_path(path: str) -> None:
    """Refuse what is no path of a store.

    Raises:
        InputError: absolute, climbing, empty, or a name that begins with a dot, which is the Hub's own.
    """
    parts = path.split("/")
    if any(not part or part.startswith(".") or "\\" in part or not part.isprintable() for part in parts):
        raise InputError("store.bad_path", path=path)


def git_oid(data: bytes) -> str:
    """What git calls these bytes: SHA-1 (hex) of the blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def content_of(entry: Any) -> Content | None:
    """What a listing says of a file; None for a folder."""
    from huggingface_hub import RepoFile

    if not isinstance(entry, RepoFile):
        return None
    return Content(entry.blob_id, entry.lfs.sha256 if entry.lfs is not None else None)


def _operations(changes: Mapping[str, bytes | None], there: Mapping[str, Content]) -> list[Any]:
    """What the commit must do; nothing for what is there as wanted."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    made: list[Any] = []
    for path, data in sorted(changes.items()):
        content = there.get(path)
        if data is None and content is not None:
            made.append(CommitOperationDelete(path))
        elif data is not None and (content is None or not content.is_of(data)):
            made.append(CommitOperationAdd(path, data))
    return made


def _is_made(operations: Sequence[Any]) -> bool:
    """Whether the client sent the commit.

    It silently does not where the newest revision, by then another than the parent, holds the same bytes: somebody else
    wrote them, and whoever expected the file to be as before must hear of it.
    """
    from huggingface_hub import CommitOperationAdd

    return any(not isinstance(operation, CommitOperationAdd) or operation._is_committed for operation in operations)


def _drop_old(cache: Path) -> None:
    """Drop cached files that belong only to revisions long gone."""
    from huggingface_hub import scan_cache_dir

    folders = sorted(cache.glob("datasets--*/snapshots/*"), key=_age)
    if len(folders) > KEPT_REVISIONS:
        scan_cache_dir(cache).delete_revisions(*(folder.name for folder in folders[:-KEPT_REVISIONS])).execute()


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextmanager
def translated(repo: str, revision: str = "main") -> Iterator[None]:
    """The client's many errors as ours; a file that is not there stays the client's.

    Raises:
        InputError: no name a repository can have.
        StoreError: no such repository or revision, no permission, or the Hub cannot be reached (`retryable`).
    """
    from httpx2 import HTTPError
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except RemoteEntryNotFoundError:
        raise
    except HFValidationError as error:
        raise InputError("store.bad_repo", repo=repo) from error
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise StoreError("store.hub_missing", repo=repo) from error
    except RevisionNotFoundError as error:
        raise StoreError("store.hub_no_revision", repo=repo, revision=revision) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise StoreError("store.hub_forbidden", repo=repo) from error
        again = status in (409, 412, 429) or status >= 500
        raise StoreError("store.hub_unreachable", retryable=again, repo=repo, reason=f"HTTP {status}") from error
    except (ConnectionError, TimeoutError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise StoreError("store.hub_unreachable", retryable=True, repo=repo, reason=type(error).__name__) from error
    except OSError as error:
        raise StoreError("store.unreadable", path=repo, reason=error.strerror or error) from error
