"""What happened to requests as files of a store, so that a database may be lost and several need not meet.

`requests/<yyyy-mm-dd>.jsonl` holds the lines of a day (UTC), one JSON object each, only ever added to. `payload` and
`state` are JSON inside their text, so that every line of every file has the same columns of the same types. A `Mirror`
writes there what its database's log has and the files lack, and tells its database what the files have and the log
lacks: a database that is lost is filled again, and two of them, a page's and a worker's, get along by the files alone.

Limits: one worker to a ledger, unless workers share a database: two would take the same request. What one side does
the other sees after a round of each, and of a run only that it began and how it ended. What is done within a round
before a machine is lost is lost with it, but for results that are in the store. Requests for weights in a local folder
stay where they were asked. Whoever can write to the store can ask for, stop and end anything.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime

from eco_eval.errors import ConflictError, EcoEvalError, InputError, StoreError
from eco_eval.queue import Line, Queue, check_line
from eco_eval.results import read_result, result_path, withdraw_result
from eco_eval.settings import Settings
from eco_eval.store import ABSENT, HubStore, Store, board_store
from eco_eval.store.index import RESULTS, shown_results
from eco_eval.types import Record

FOLDER = "requests/"

MAX_LINE = 500_000
"""Bytes of a line; a longer one is broken."""

LINES = 10_000
"""Lines written in one round at most."""

LATE = 24 * 3600.0
"""Seconds for which a result may still come of a request that was withdrawn."""

TRIES = 5
"""How often a round is written again because somebody else wrote the same file first."""

log = logging.getLogger(__name__)


def day_path(at: float) -> str:
    """The file for what happened then (seconds since 1970)."""
    return f"{FOLDER}{datetime.fromtimestamp(at, UTC):%Y-%m-%d}.jsonl"


def to_jsonl(lines: Sequence[Line]) -> bytes:
    """Lines as a file holds them."""
    return b"".join(_dump(line) for line in lines)


def _dump(line: Line) -> bytes:
    row = line.model_dump(exclude={"payload", "state"})
    row["payload"] = line.payload.model_dump_json() if line.payload is not None else ""
    row["state"] = line.state.model_dump_json() if line.state is not None else ""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def from_jsonl(data: bytes) -> tuple[list[Line], list[int]]:
    """The lines of a file, and the numbers, from 1, of those that are broken or ask for what may not travel."""
    lines, broken = [], []
    for number, text in enumerate(data.split(b"\n"), start=1):
        if not text.strip():
            continue
        line = _read(text)
        if line is None:
            broken.append(number)
        else:
            lines.append(line)
    return lines, broken


def _read(text: bytes) -> Line | None:
    if len(text) > MAX_LINE:
        return None
    try:
        row = json.loads(text)
        row = {**row, **{name: json.loads(row[name]) if row[name] else None for name in ("payload", "state")}}
        line = Line.model_validate(row)
        check_line(line)
    # Nesting too deep for the parser is a RecursionError.
    except (ValueError, TypeError, KeyError, RecursionError, InputError):
        return None
    return line


class Round(Record):
    """What one round did. broken: `path:line` of what could not be read and was left where it is."""

    written: int
    absorbed: int
    broken: tuple[str, ...]


class Mirror:
    """Keeps one database and the files of a store alike, in a thread of its own.

    Args:
        every: seconds between two rounds. A round is one commit at most, and none where nothing happened; the Hub
            limits how often a repository may be committed to.
    """

    def __init__(self, queue: Queue, store: Store, *, every: float = 60.0) -> None:
        self._queue = queue
        self._store = store
        self._every = every
        self._seen: dict[str, str] = {}
        self._broken: dict[str, tuple[str, ...]] = {}
        self._checked: set[tuple[str, int]] = set()
        self._taken_off: set[tuple[str, int]] = set()
        self._one = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._live, name="ledger", daemon=True)

    def start(self) -> None:
        """Make a first round, so that whoever goes on knows what is known, then one every so often."""
        self._round()
        self._thread.start()

    def stop(self) -> None:
        """Make a last round and end."""
        self._stopped.set()
        self._thread.join()
        self._round()

    def sync(self) -> Round:
        """Make one round: read, then write.

        Raises:
            StoreError: the store or the database is away; the next round makes up for it.
            ConflictError: others wrote the same file again and again.
        """
        with self._one:
            absorbed = sum(self._queue.absorb(lines) for lines in self._news())
            self._find_finished()
            self._take_off_board()
            written = self._write(self._queue.unwritten(LINES))
            broken = tuple(place for path in sorted(self._broken) for place in self._broken[path])
            return Round(written=written, absorbed=absorbed, broken=broken)

    def _live(self) -> None:
        while not self._stopped.wait(self._every):
            self._round()

    def _round(self) -> None:
        try:
            self.sync()
        except EcoEvalError as error:
            log.warning("ledger away", extra={"cause": error.key})

    def _news(self) -> Iterator[list[Line]]:
        """The lines of every file that is not as it was; it counts as seen once they are absorbed."""
        for path, version in self._versions().items():
            if self._seen.get(path) == version:
                continue
            found = self._store.read(path)
            lines, broken = from_jsonl(found[0]) if found is not None else ([], [])
            places = tuple(f"{path}:{number}" for number in broken)
            for place in sorted(set(places) - set(self._broken.get(path, ()))):
                log.warning("ledger line unusable", extra={"place": place})
            self._broken[path] = places
            yield lines
            self._seen[path] = version

    def _versions(self) -> dict[str, str]:
        """The ledger's files, each with what changes when its content does."""
        store, named = self._store, re.compile(re.escape(FOLDER) + r"\d{4}-\d\d-\d\d\.jsonl", re.ASCII)
        if isinstance(store, HubStore):
            # One listing, instead of a request a file.
            return {path: about.oid for path, about in store.contents(FOLDER).items() if named.fullmatch(path)}
        files = ((path, store.read(path)) for path in store.list(FOLDER) if named.fullmatch(path))
        return {path: found[1] for path, found in files if found is not None}

    def _find_finished(self) -> None:
        """Requests that wait for a result which is there: whoever worked on them was lost before saying so."""
        waiting = {key: at for key, at in self._queue.open_elsewhere().items() if (key, at[0]) not in self._checked}
        # One that was withdrawn has yet to be put back, which is the worker's to do.
        there = set(shown_results(self._store)) if waiting else set()
        for request_id, (attempt, asked_at) in waiting.items():
            if result_path(request_id) in there and self._answers(request_id, attempt, asked_at):
                published = True if isinstance(self._store, HubStore) else None
                self._queue.found_finished(request_id, attempt, published=published)
            self._checked.add((request_id, attempt))

    def _answers(self, request_id: str, attempt: int, asked_at: float) -> bool:
        """Whether the result that is kept is what was asked for: one asked for again has to be newer than that."""
        try:
            result = read_result(self._store, request_id)
        except StoreError as error:
            if error.retryable:
                raise
            return False
        if result is None or result.id != request_id:
            return False
        return attempt == 1 or _seconds(result.provenance.finished_at) > asked_at

    def _take_off_board(self) -> None:
        """Results that came after their request was withdrawn: a worker had not heard of it, or was publishing."""
        lately = self._queue.withdrawn(LATE).items()
        gone = {key: (attempt, by) for key, (attempt, by) in lately if (key, attempt) not in self._taken_off}
        there = set(self._store.list(RESULTS)) if gone else set()
        shown = set(shown_results(self._store)) if gone else set()
        for request_id, (attempt, by) in gone.items():
            if result_path(request_id) in shown:
                withdraw_result(self._store, request_id, by)
            if result_path(request_id) in there:
                # Whoever puts it back from now on means to.
                self._taken_off.add((request_id, attempt))

    def _write(self, lines: Sequence[Line]) -> int:
        if not lines:
            return 0
        by_path: dict[str, list[Line]] = {}
        for line in lines:
            by_path.setdefault(day_path(line.at), []).append(line)
        for left in range(TRIES - 1, -1, -1):
            try:
                with self._together(f"Add {len(lines)} lines to the requests"):
                    for path, some in by_path.items():
                        self._append(path, some)
                break
            except ConflictError:
                if not left:
                    raise
        self._queue.written([line.uid for line in lines])
        return len(lines)

    def _together(self, message: str) -> AbstractContextManager[object]:
        return self._store.batch(message) if isinstance(self._store, HubStore) else nullcontext()

    def _append(self, path: str, lines: Sequence[Line]) -> None:
        """Add lines that are not there: they are where a round was lost after it wrote and before it noted so."""
        data, version = self._store.read(path) or (b"", ABSENT)
        there = set(re.findall(rb'"uid": "([0-9a-f]{32})"', data))
        new = [line for line in lines if line.uid.encode() not in there]
        if new:
            end = b"" if not data or data.endswith(b"\n") else b"\n"
            self._store.write(path, data + end + to_jsonl(new), expected=version)


@contextmanager
def mirrored(queue: Queue, settings: Settings) -> Iterator[None]:
    """While it lasts, the queue is kept alike with the ledger in the Hub dataset that the settings name, if any."""
    if not is_mirrored(settings):
        yield
        return
    mirror = Mirror(queue, board_store(settings))
    mirror.start()
    try:
        yield
    finally:
        mirror.stop()


def is_mirrored(settings: Settings) -> bool:
    """Whether the settings name a ledger, and a token to write it with."""
    return settings.hub_repo is not None and settings.hub_token is not None


def _seconds(moment: str) -> float:
    """A moment in ISO 8601 as seconds since 1970; before everything where it is none."""
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        return 0.0
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
