"""The ledger: what happened to requests, as files of a store that databases are filled from and kept alike by."""

from __future__ import annotations

import itertools
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hub import LocalHub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from queue_worker import store_at

from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.errors import EngineError, StoreError, Superseded
from eco_eval.instrument import Instrument
from eco_eval.ledger import Mirror, Round, day_path, from_jsonl, to_jsonl
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.queue import (
    WORKFLOW,
    Cancelled,
    Failed,
    Finished,
    Line,
    Pending,
    Queue,
    Quotas,
    Request,
    Running,
    Withdrawn,
    fold,
    new_uid,
)
from eco_eval.queue.fold import MOST_ATTEMPTS
from eco_eval.results import restore_result, result_path, withdraw_result, write_result
from eco_eval.store import LocalStore, Store
from eco_eval.store.index import shown_results
from eco_eval.types import ModelRef, Result, Submission

WIDE = Quotas(per_user=10**6, per_owner=10**6, total=10**6)
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()
_names = itertools.count()


def request(number: int, user: str = "ana", kind: str = "model") -> Request:
    model = ModelRef(name=f"owner/{kind}-{number}", source="hub", revision="a" * 40)
    submission = Submission(model=model, instrument="i", asked_digest="a", measured_digest="m")
    return Request(submission=submission, user=user, engine="transformers")


def line(asked: Request, what: str, attempt: int = 1, at: float = NOON, **more: Any) -> Line:
    state = {
        "finished": Finished(result=asked.id, published=True),
        "failed": Failed(stage="answer", key="vllm.died", values={"model": "m", "reason": "r"}),
    }.get(what)
    fields = {"uid": new_uid(), "at": at, "request": asked.id, "attempt": attempt, "what": what, "detail": "w"}
    return Line(**{**fields, "payload": asked if what == "asked" else None, "state": state, **more})


@contextmanager
def queues(folder: Path, count: int = 1) -> Iterator[list[Queue]]:
    folder.mkdir(exist_ok=True)
    opened = [Queue(f"sqlite:///{folder}/queue-{number}.sqlite") for number in range(count)]
    yield opened
    for queue in opened:
        queue.close()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with queues(tmp_path / "q") as (opened,):
        yield opened


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Queue, Queue]]:
    with queues(tmp_path / "q", 2) as (page, worker):
        yield page, worker


def history(queue: Queue, asked: Request) -> list[str]:
    return [event.what for event in queue.events(asked.id)]


def kept(store: Store, path: str) -> bytes:
    found = store.read(path)
    assert found is not None
    return found[0]


def told(store: Store) -> list[Line]:
    """Every line of the ledger."""
    return [one for path in store.list("requests/") for one in from_jsonl(kept(store, path))[0]]


def open_workflows(queue: Queue) -> list[str]:
    """Runs that DBOS has in this database and that are not over."""
    from dbos import DBOSClient

    client = DBOSClient(system_database_url=queue.url)
    found = client.list_workflows(status=["ENQUEUED", "PENDING"], name=WORKFLOW, load_input=False, load_output=False)
    client.destroy()
    return sorted(workflow.workflow_id for workflow in found)


# --- what lines come to

AT = st.floats(NOON, NOON + 3, allow_nan=False)
WHATS = ["asked", "retried", "taken", "lost", "again", "cancelled", "failed", "finished", "withdrawn"]


@st.composite
def lines_about(draw: st.DrawFn, asked: Request) -> list[Line]:
    """Any history at all, also such as no service writes."""
    parts = draw(st.lists(st.tuples(st.sampled_from(WHATS), st.integers(1, 3), AT, st.sampled_from("xyz")), max_size=8))
    made = [line(asked, what, attempt, at, detail=detail) for what, attempt, at, detail in parts]
    return [
        one
        if one.payload is None
        else one.model_copy(update={"payload": asked.model_copy(update={"user": one.detail})})
        for one in made
    ]


@given(st.data())
def test_lines_come_to_the_same_in_any_order_and_however_often(data: st.DataObject) -> None:
    lines = data.draw(lines_about(request(1)))
    shuffled = data.draw(st.permutations(lines + data.draw(st.lists(st.sampled_from(lines)) if lines else st.just([]))))
    standing = fold(lines)
    assert fold(shuffled) == standing
    assert (standing is None) == all(one.payload is None for one in lines)
    if standing is not None:
        said = [one for one in lines if one.what not in ("retried", "lost", "again")]
        assert standing.attempt == max(one.attempt for one in said)


@pytest.mark.parametrize(
    ("whats", "comes_to"),
    [
        (["asked"], "pending"),
        (["asked", "taken"], "running"),
        (["asked", "taken", "lost", "again"], "running"),
        (["asked", "taken", "cancelled"], "cancelled"),
        (["asked", "taken", "finished", "cancelled"], "finished"),
        (["asked", "taken", "cancelled", "finished"], "finished"),
        (["asked", "taken", "failed"], "failed"),
        (["asked", "taken", "finished", "withdrawn"], "withdrawn"),
    ],
)
def test_the_weightiest_word_counts(whats: list[str], comes_to: str) -> None:
    standing = fold([line(request(1), what, at=NOON + number) for number, what in enumerate(whats)])
    assert standing is not None
    assert standing.state.state == comes_to


def test_a_later_attempt_counts_and_its_first_asker_is_who_asked() -> None:
    first, again, late = (request(1, user=user) for user in ("ana", "luz", "eva"))
    lines = [line(first, "asked"), line(first, "finished", at=NOON + 5), line(late, "asked", 2, NOON + 9)]
    lines.append(line(again, "asked", 2, NOON + 8))
    standing = fold(lines)
    assert standing is not None
    assert (standing.attempt, standing.state, standing.request.user) == (2, Pending(position=0), "luz")
    assert standing.made_at == NOON + 8


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Queue, Queue]]:
    with queues(tmp_path_factory.mktemp("shared"), 2) as (one, other):
        yield one, other


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_absorbing_in_pieces_twice_or_out_of_order_is_absorbing_once(
    shared: tuple[Queue, Queue], data: st.DataObject
) -> None:
    asked = [request(next(_names), kind="any") for _ in range(2)]
    lines = [one for wanted in asked for one in data.draw(lines_about(wanted))]
    pieces = data.draw(st.permutations(lines))
    cut = data.draw(st.integers(0, len(lines)))
    once, often = shared
    assert once.absorb(lines) == len(lines)
    assert sum(often.absorb(piece) for piece in (pieces[:cut], pieces[:cut], pieces[cut // 2 :], lines)) == len(lines)
    for wanted in asked:
        standing = fold(one for one in lines if one.request == wanted.id)
        if standing is None:
            assert not any(entry.request.id == wanted.id for entry in once.entries(limit=10_000))
            continue
        entries = [queue.get(wanted.id) for queue in (once, often)]
        for entry in entries:
            is_open = standing.state.state == "pending"
            assert (
                entry.model_copy(update={"state": standing.state} if is_open else {}).model_dump()
                == standing.model_dump()
            )
        assert sorted(history(once, wanted)) == sorted(history(often, wanted))
        is_open = standing.state.state in ("pending", "running")
        for queue in shared:
            mine = [name for name in open_workflows(queue) if name.startswith(wanted.id)]
            assert mine == ([f"{wanted.id}-{standing.attempt}"] if is_open else [])


def test_rebuilding_puts_only_what_is_open_in_the_queue(queue: Queue) -> None:
    lines = []
    for number in range(2000):
        asked = request(number)
        lines += [line(asked, "asked", at=NOON + number), line(asked, "taken", at=NOON + number + 1)]
        if number % 500:
            lines.append(line(asked, "finished", at=NOON + number + 2))
    assert queue.absorb(lines) == len(lines)
    assert queue.counts() == {"finished": 1996, "running": 4}
    assert open_workflows(queue) == sorted(f"{request(number).id}-1" for number in range(0, 2000, 500))
    assert queue.unwritten(10) == []
    assert queue.failures() == {}
    taken, _ = queue.take(request(500).id, 1, "w")
    assert taken == request(500)


def test_quotas_are_of_where_it_was_asked(pair: tuple[Queue, Queue]) -> None:
    page, worker = pair
    for number in range(9):
        page.submit(request(number), WIDE)
    worker.absorb(page.unwritten(100))
    assert worker.counts() == {"pending": 9}


def test_a_worker_keeps_what_it_has_in_hand_unless_it_is_stopped(queue: Queue) -> None:
    one, two, three = request(1), request(2), request(3)
    for asked in (one, two, three):
        queue.submit(asked)
    hands = {asked.id: queue.take(asked.id, 1, "mine")[1] for asked in (one, two, three)}
    later = time.time() + 60
    for asked in (one, two):
        queue.absorb([line(asked, what, at=later) for what in ("taken", "failed")])
        assert queue.get(asked.id).state == Running(worker="mine", stage="check", done=0, total=0)
        queue.progress(asked.id, hands[asked.id], "mine", "answer", 1, 2)
    queue.finish(one.id, hands[one.id], one.id)
    assert queue.get(one.id).state == Finished(result=one.id)
    queue.absorb([line(two, "finished", at=later)])
    queue.fail(two.id, hands[two.id], "judge", EngineError("vllm.died", model="m"))
    assert queue.get(two.id).state == Finished(result=two.id, published=True)
    queue.absorb([line(three, "cancelled", detail="ana", at=later)])
    assert queue.get(three.id).state == Cancelled(by="ana")
    with pytest.raises(Superseded):
        queue.progress(three.id, hands[three.id], "mine", "answer", 1, 2)


def test_what_is_stopped_or_over_elsewhere_is_not_run_here(queue: Queue) -> None:
    stopped, over = request(1), request(2)
    for asked in (stopped, over):
        queue.submit(asked)
    queue.absorb([line(stopped, "withdrawn", detail="ana"), line(over, "taken"), line(over, "finished")])
    assert queue.get(stopped.id).state == Withdrawn(by="ana")
    assert queue.get(over.id).state == Finished(result=over.id, published=True)
    assert open_workflows(queue) == []
    for asked in (stopped, over):
        with pytest.raises(Superseded):
            queue.take(asked.id, 1, "w")


# --- the files

GOOD = request(1)
BASE: dict[str, Any] = json.loads(to_jsonl([line(GOOD, "asked")]))


WEIGHTS = {"kind": "chat", "architecture": "A", "parameters": 1, "bytes": 2, "dtype": "bfloat16"}


def changed_payload(change: Callable[[dict[str, Any]], None]) -> str:
    payload = json.loads(BASE["payload"])
    change(payload)
    return json.dumps(payload)


def in_model(**values: object) -> str:
    """A payload whose model says something else, under the id it then has."""
    payload = json.loads(BASE["payload"])
    payload["submission"]["model"].update(values)
    return json.dumps(payload)


def own_id(payload: str) -> dict[str, Any]:
    return {"payload": payload, "request": Request.model_validate_json(payload).id}


@given(st.data())
def test_a_file_gives_back_the_lines_it_was_made_of(data: st.DataObject) -> None:
    asked = request(1, user="José «el río»")
    submission = asked.submission.model_copy(update={"system_prompt": "Uno.\u2028Dos.\x85\r\nTres.\x1f"})
    lines = data.draw(lines_about(asked.model_copy(update={"submission": submission})))
    assert from_jsonl(to_jsonl(lines)) == (lines, [])


@pytest.mark.parametrize(
    "broken",
    [
        b"no json",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"null",
        b"[" * 100_000,
        b'{"uid": ' + b"9" * 5000 + b"}",
        *(
            json.dumps({**BASE, **change}).encode()
            for change in (
                {"uid": "x"},
                {"uid": "A" * 32},
                {"uid": "0" * 33},
                {"at": float("nan")},
                {"at": float("inf")},
                {"at": -1},
                {"at": "soon"},
                {"attempt": 0},
                {"attempt": 2**40},
                {"attempt": 2**31 - 1},
                {"what": "exploded"},
                {"detail": "x" * 5000},
                {"detail": "\0"},
                {"detail": "\ud800"},
                {"more": 1},
                {"request": "0" * 16},
                {"request": "../../etc/passwd"},
                {"payload": ""},
                {"payload": "{}"},
                {"payload": {}},
                {"payload": 7},
                {"payload": "[" * 100_000},
                {"what": "taken"},
                {"what": "finished", "payload": "", "state": '{"state": "failed"}'},
                {"what": "finished", "payload": "", "state": '{"state": "finished", "result": "../x"}'},
                {
                    "what": "failed",
                    "payload": "",
                    "state": '{"state": "failed", "stage": "\\u0000", "key": "k", "values": {}}',
                },
                {"payload": changed_payload(lambda p: p.update(user="\x1b[2J"))},
                {"payload": changed_payload(lambda p: p.update(user="u" * 1000))},
                {
                    "what": "failed",
                    "payload": "",
                    "state": '{"state": "failed", "stage": "answer", "key": "any words", "values": {}}',
                },
                {"payload": changed_payload(lambda p: p.update(folder="/etc"))},
                {"payload": changed_payload(lambda p: p.update(weights={**WEIGHTS, "bytes": 10**4000}))},
                {"payload": changed_payload(lambda p: p.update(weights={**WEIGHTS, "parameters": -1}))},
                {"payload": changed_payload(lambda p: p["submission"].update(instrument="x" * 10**6))},
                {"payload": changed_payload(lambda p: p["submission"].update(instrument="other"))},
                own_id(in_model(source="local")),
                own_id(in_model(name="../../etc")),
                own_id(in_model(name="owner/model@main")),
                own_id(in_model(revision="main")),
                own_id(in_model(base={"name": "/etc", "source": "local", "revision": "b" * 40})),
            )
        ),
    ],
    ids=lambda broken: repr(broken[:30]),
)
def test_a_line_that_cannot_be_used_is_left_where_it_is_and_named(
    queue: Queue, store: LocalStore, caplog: pytest.LogCaptureFixture, broken: bytes
) -> None:
    path, other, third = day_path(time.time()), request(2), request(3)
    before = to_jsonl([line(other, "asked")]) + broken
    store.write(path, before)
    mirror = Mirror(queue, store)
    assert mirror.sync() == Round(written=0, absorbed=1, broken=(f"{path}:2",))
    assert [record.place for record in caplog.records] == [f"{path}:2"]
    assert [entry.request for entry in queue.entries()] == [other]
    queue.submit(third)
    added = to_jsonl(queue.unwritten(1))
    assert mirror.sync() == Round(written=1, absorbed=0, broken=(f"{path}:2",))
    assert kept(store, path) == before + b"\n" + added
    assert mirror.sync() == Round(written=0, absorbed=0, broken=(f"{path}:2",))
    assert len(caplog.records) == 1


def test_a_good_line_is_not_taken_for_a_broken_one() -> None:
    assert from_jsonl(json.dumps({**BASE, **own_id(in_model(name="other/model"))}).encode())[1] == []
    assert from_jsonl(json.dumps(BASE).encode() + b"\n\n \n")[1] == []
    weighed = changed_payload(lambda p: p.update(weights=WEIGHTS))
    assert from_jsonl(json.dumps({**BASE, "payload": weighed}).encode())[1] == []


def test_two_lines_of_one_number_stop_nothing(queue: Queue, store: LocalStore) -> None:
    same = new_uid()
    lines = [line(request(1), "asked", uid=same), line(request(2), "asked", uid=same), line(request(3), "asked")]
    store.write(day_path(NOON), to_jsonl(lines))
    mirror = Mirror(queue, store)
    assert mirror.sync().absorbed == 2
    assert mirror.sync().absorbed == 0
    assert queue.counts() == {"pending": 2}
    assert isinstance(queue.get(request(3).id).state, Pending)


def test_whoever_asks_again_after_many_attempts_elsewhere_is_told_to_others(queue: Queue, store: LocalStore) -> None:
    asked = request(1)
    lines = [line(asked, what, MOST_ATTEMPTS) for what in ("asked", "cancelled")]
    store.write(day_path(NOON), to_jsonl(lines))
    mirror = Mirror(queue, store)
    assert mirror.sync().absorbed == 2
    assert queue.submit(asked).attempt == MOST_ATTEMPTS + 1
    assert mirror.sync().written == 1


def test_lines_go_to_the_file_of_their_day_once(queue: Queue, store: LocalStore) -> None:
    days = [datetime.now(UTC) - timedelta(days=n) for n in (1, 0)]
    queue.submit(request(1))
    queue.cancel(request(1).id, "ana")
    mirror = Mirror(queue, store)
    lines = queue.unwritten(10)
    # As if a round had been lost after it wrote and before it noted so.
    store.write(day_path(lines[0].at), to_jsonl(lines))
    assert mirror.sync().written == 2
    assert told(store) == lines
    assert set(store.list("requests/")) <= {f"requests/{day:%Y-%m-%d}.jsonl" for day in days}
    assert mirror.sync() == Round(written=0, absorbed=0, broken=())


def test_weights_of_this_machine_are_told_to_nobody(queue: Queue, store: LocalStore) -> None:
    model = ModelRef(name="secret-project", source="local", revision="b" * 40)
    one = request(1)
    submission = one.submission.model_copy(update={"model": model})
    queue.submit(one.model_copy(update={"submission": submission, "folder": "/home/ana/secret-project"}))
    _, generation = queue.take(submission.id, 1, "w")
    queue.finish(submission.id, generation, submission.id)
    queue.withdraw(submission.id, "ana")
    queue.submit(request(2))
    assert Mirror(queue, store).sync().written == 1
    assert all(b"secret" not in kept(store, path) for path in store.list(""))


def test_the_library_for_data_sets_reads_the_files_as_they_are(queue: Queue, store: LocalStore, tmp_path: Path) -> None:
    from datasets import load_dataset

    whole = [
        line(request(1), what, at=NOON + 86_400 * day) for day in range(3) for what in ("asked", "failed", "taken")
    ]
    for day in range(3):
        # One file has no payload and no state at all, so its columns could be taken for others.
        some = whole[3 * day : 3 * day + 3] if day else whole[2:3]
        store.write(day_path(NOON + 86_400 * day), to_jsonl(some))
    files = [str(store.root / path) for path in store.list("requests/")]
    assert len(files) == 3
    rows = load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == 7
    assert json.loads(rows["payload"][1])["user"] == "ana"
    assert rows["what"][0] == "taken"


# --- results that are there


@pytest.fixture(scope="module")
def sample(demo: Instrument, tmp_path_factory: pytest.TempPathFactory) -> Result:
    @contextmanager
    def opened() -> Iterator[Engine]:
        yield ScriptedEngine(answer=lambda c: "El río.", label=lambda c, labels: [3, 2, 1])

    model = ModelRef(name="owner/model", source="hub", revision="a" * 40)
    return evaluate(submit(model, demo), demo, Engines(opened, opened), LocalStore(tmp_path_factory.mktemp("s")))


def test_a_request_whose_result_is_there_is_finished(
    pair: tuple[Queue, Queue], store: LocalStore, sample: Result
) -> None:
    page, worker = pair
    asked, damaged = Request(submission=sample.submission, user="ana"), request(2)
    for one in (asked, damaged):
        page.submit(one)
    store.write(result_path(damaged.id), b"{}")
    write_result(sample, store)
    for queue in pair:
        Mirror(queue, store).sync()
    assert page.get(asked.id).state == worker.get(asked.id).state == Finished(result=asked.id)
    assert [isinstance(queue.get(damaged.id).state, Pending) for queue in pair] == [True, True]
    assert open_workflows(worker) == [f"{damaged.id}-1"]


@pytest.mark.parametrize(("hours", "state"), [(-1, "pending"), (1, "finished")])
def test_a_request_that_is_run_again_waits_for_a_newer_result(
    queue: Queue, store: LocalStore, sample: Result, hours: int, state: str
) -> None:
    asked = Request(submission=sample.submission, user="ana")
    queue.submit(asked)
    queue.cancel(asked.id, "ana")
    queue.retry(asked.id, "ana")
    ended = (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds")
    provenance = sample.provenance.model_copy(update={"finished_at": ended})
    write_result(sample.model_copy(update={"provenance": provenance}), store)
    Mirror(queue, store).sync()
    assert queue.get(asked.id).state.state == state


def test_a_run_that_is_lost_after_its_result_was_kept_is_finished(
    queue: Queue, store: LocalStore, sample: Result, tmp_path: Path
) -> None:
    asked = Request(submission=sample.submission, user="ana")
    queue.submit(asked)
    queue.take(asked.id, 1, "mine")
    write_result(sample, store)
    mirror = Mirror(queue, store)
    mirror.sync()
    assert isinstance(queue.get(asked.id).state, Running)
    # As `take_over` leaves it once the worker has been silent for long enough.
    with sqlite3.connect(tmp_path / "q" / "queue-0.sqlite") as database:
        database.execute("UPDATE eco_requests SET worker = ''")
    mirror.sync()
    assert queue.get(asked.id).state == Finished(result=asked.id)


def test_a_result_that_comes_after_its_request_was_withdrawn_is_not_shown(
    pair: tuple[Queue, Queue], store: LocalStore, sample: Result
) -> None:
    page, worker = pair
    first, second = (Mirror(queue, store) for queue in pair)
    asked = Request(submission=sample.submission, user="ana")
    page.submit(asked)
    first.sync()
    second.sync()
    _, generation = worker.take(asked.id, 1, "w")
    page.withdraw(asked.id, "ana")
    write_result(sample, store)
    worker.finish(asked.id, generation, asked.id, published=True)
    second.sync()
    assert shown_results(store) == [result_path(asked.id)]
    first.sync()
    second.sync()
    assert worker.get(asked.id).state == Withdrawn(by="ana")
    assert shown_results(store) == []
    restore_result(store, asked.id)
    for mirror in (first, second):
        mirror.sync()
    assert shown_results(store) == [result_path(asked.id)]


def test_a_withdrawn_result_is_no_result_of_who_asks_again(queue: Queue, store: LocalStore, sample: Result) -> None:
    asked = Request(submission=sample.submission, user="ana")
    write_result(sample, store)
    withdraw_result(store, asked.id, "ana")
    queue.submit(asked)
    Mirror(queue, store).sync()
    assert isinstance(queue.get(asked.id).state, Pending)


# --- two databases and one ledger


def wait_for(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def start_worker(url: str, folder: Path, ledger: str, seconds: float = 0.03) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    script = Path(__file__).with_name("queue_worker.py")
    command = [sys.executable, str(script), url, str(folder), str(seconds), ledger]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip()
    return process


@contextmanager
def mirrored(queue: Queue, store: Store) -> Iterator[Mirror]:
    mirror = Mirror(queue, store, every=0.1)
    mirror.start()
    try:
        yield mirror
    finally:
        mirror.stop()


@contextmanager
def working(url: str, folder: Path, ledger: str, seconds: float = 0.03) -> Iterator[subprocess.Popen[str]]:
    process = start_worker(url, folder, ledger, seconds)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_page_and_a_worker_get_along_by_the_ledger_alone(
    pair: tuple[Queue, Queue], store: LocalStore, tmp_path: Path
) -> None:
    page, worker = pair
    with mirrored(page, store), working(worker.url, tmp_path / "out", str(store.root), 0.1) as process:
        for number in range(1, 7):
            page.submit(request(number), WIDE)
        wait_for(lambda: sum(page.counts().get(state, 0) for state in ("finished", "failed")) == 6)
        assert page.get(request(1).id).state == Finished(result=request(1).id, published=True)
        failure = page.get(request(3).id).state
        assert isinstance(failure, Failed)
        assert failure.values["allowed"] == "2 %"
        assert "again" in history(page, request(4))
        assert page.failures() == {"score.too_many_ungraded": 1, "queue.internal": 1}
        assert page.retry(request(3).id, "ana").attempt == 2
        wait_for(lambda: history(page, request(3)).count("failed") == 2)
        page.withdraw(request(1).id, "ana")
        wait_for(lambda: worker.get(request(1).id).state == Withdrawn(by="ana"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert [history(page, request(n)) == history(worker, request(n)) for n in range(1, 7)] == [True] * 6
    assert open_workflows(page) == []


def test_a_run_elsewhere_stops_when_it_is_cancelled_on_the_page(
    pair: tuple[Queue, Queue], store: LocalStore, tmp_path: Path
) -> None:
    page, worker = pair
    one = request(1)
    with mirrored(page, store), working(worker.url, tmp_path / "out", str(store.root), 9):
        page.submit(one)
        wait_for(lambda: isinstance(page.get(one.id).state, Running))
        page.cancel(one.id, "ana")
        wait_for(lambda: worker.get(one.id).state == Cancelled(by="ana"))
        page.submit(request(2))
        wait_for(lambda: isinstance(page.get(request(2).id).state, Running))
    assert not (tmp_path / "out" / one.id).exists()


def test_databases_that_are_lost_in_the_middle_are_filled_again(store: LocalStore, tmp_path: Path) -> None:
    chance = random.Random(5)
    ledger, folder, count = str(store.root), tmp_path / "out", 24
    page = Queue(f"sqlite:///{tmp_path}/page-0.sqlite")
    mirror = Mirror(page, store, every=0.1)
    mirror.start()
    for number in range(count):
        page.submit(request(number), WIDE)
    process, kills = start_worker(f"sqlite:///{tmp_path}/worker-0.sqlite", folder, ledger), 0

    def over(queue: Queue) -> int:
        return sum(queue.counts().get(state, 0) for state in ("finished", "failed"))

    try:
        while over(page) < count:
            time.sleep(chance.uniform(0.5, 1.0))
            if kills == 3:
                continue
            process.send_signal(signal.SIGKILL)
            process.wait()
            for file in tmp_path.glob(f"worker-{kills}.sqlite*"):
                file.unlink()
            kills += 1
            process = start_worker(f"sqlite:///{tmp_path}/worker-{kills}.sqlite", folder, ledger)
            mirror.stop()
            page.close()
            # The page's disk goes, too, after what it knew was written.
            page = Queue(f"sqlite:///{tmp_path}/page-{kills}.sqlite")
            mirror = Mirror(page, store, every=0.1)
            mirror.start()
    finally:
        process.kill()
        process.wait()
        mirror.stop()
    assert kills == 3
    for number in range(count):
        wanted = request(number)
        state = page.get(wanted.id).state
        if number % 10 in (3, 5):
            assert isinstance(state, Failed)
        else:
            assert state == Finished(result=wanted.id, published=True)
            # What was told of a run is not run again; what had no time to be told may be.
            assert 1 <= len((folder / wanted.id).read_text()) <= kills + 1
    said = told(store)
    assert len({one.uid for one in said}) == len(said)
    with queues(tmp_path / "fresh") as (fresh,):
        assert fresh.absorb(said) == len(said)
        assert fresh.counts() == page.counts()
    page.close()


def test_many_who_write_at_once_lose_nothing_and_write_nothing_twice(store: LocalStore, tmp_path: Path) -> None:
    with queues(tmp_path / "many", 4) as several:
        mirrors = [Mirror(queue, store, every=0.01) for queue in several]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda mirror: mirror.start(), mirrors))
            list(pool.map(lambda n: several[n % 4].submit(request(n), WIDE), range(60)))
            list(pool.map(lambda mirror: mirror.stop(), mirrors))
        for mirror in mirrors:
            mirror.sync()
        for queue in several:
            assert queue.counts() == {"pending": 60}
            assert queue.unwritten(1) == []
        said = told(store)
        assert len(said) == len({one.uid for one in said}) == 60


def test_two_mirrors_of_one_database_write_everything_once(queue: Queue, store: LocalStore) -> None:
    mirrors = [Mirror(queue, store, every=0.01) for _ in range(2)]
    for mirror in mirrors:
        mirror.start()
    for number in range(30):
        queue.submit(request(number), WIDE)
    for mirror in mirrors:
        mirror.stop()
    said = told(store)
    assert len(said) == len({one.uid for one in said}) == 30


def test_a_store_that_is_away_is_waited_for(queue: Queue, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "store"
    place.touch()
    store = LocalStore(place)
    queue.submit(request(1))
    with pytest.raises(StoreError):
        Mirror(queue, store).sync()
    with mirrored(queue, store):
        wait_for(lambda: len(caplog.records) > 3)
        place.unlink()
        wait_for(lambda: queue.unwritten(1) == [])
    assert store.list("requests/")


# --- the Hub


@pytest.fixture
def repo(hub: LocalHub) -> str:
    name = f"owner/ledger-{next(_names)}"
    hub.add(name, "dataset", {".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"})
    return name


def rounds_on_hub(repo: str, folder: Path) -> list[Round]:
    with queues(folder, 2) as (page, worker):
        first, second = (
            Mirror(queue, store_at(f"hub:{repo}", folder / f"c{n}")) for n, queue in enumerate((page, worker))
        )
        done = [first.sync()]
        page.submit(request(1))
        done += [first.sync(), first.sync()]
        time.sleep(0.2)
        done += [second.sync(), second.sync()]
        assert worker.counts() == {"pending": 1}
        _, generation = worker.take(request(1).id, 1, "w")
        worker.finish(request(1).id, generation, request(1).id, published=True)
        done += [second.sync()]
        time.sleep(0.2)
        done += [first.sync(), first.sync()]
        assert page.get(request(1).id).state == Finished(result=request(1).id, published=True)
        return done


def test_a_round_on_the_hub_is_one_commit_and_none_where_nothing_happened(
    hub: LocalHub, client: Callable[..., Any], repo: str, tmp_path: Path
) -> None:
    done = client(rounds_on_hub, repo, tmp_path / "client")
    assert [(one.written, one.absorbed) for one in done] == [
        (0, 0),
        (1, 0),
        (0, 0),
        (0, 1),
        (0, 0),
        (2, 0),
        (0, 2),
        (0, 0),
    ]
    assert len(hub.commits(repo, "dataset")) == 3


def page_and_worker_on_hub(repo: str, folder: Path) -> dict[str, int]:
    folder.mkdir()
    with queues(folder / "q") as (page,), mirrored(page, store_at(f"hub:{repo}", folder / "cache")):
        process = start_worker(f"sqlite:///{folder}/worker.sqlite", folder / "out", f"hub:{repo}")
        try:
            for number in range(6):
                page.submit(request(number), WIDE)
            wait_for(lambda: sum(page.counts().get(state, 0) for state in ("finished", "failed")) == 6, 50)
        finally:
            process.kill()
            process.wait()
        return page.counts()


def test_a_free_page_and_a_worker_elsewhere_need_no_more_than_the_hub(
    hub: LocalHub, client: Callable[..., Any], repo: str, tmp_path: Path
) -> None:
    assert client(page_and_worker_on_hub, repo, tmp_path / "client") == {"finished": 4, "failed": 2}
    lines, broken = [], []
    for path, data in hub.files(repo, "dataset").items():
        if path.startswith("requests/"):
            found = from_jsonl(data)
            lines += found[0]
            broken += found[1]
    assert broken == []
    assert len({one.uid for one in lines}) == len(lines)
    assert sorted(one.request for one in lines if one.what == "asked") == sorted(request(n).id for n in range(6))


def two_days_on_hub(repo: str, folder: Path) -> list[str]:
    with queues(folder) as (queue,):
        for number in (1, 2):
            queue.submit(request(number))
        with sqlite3.connect(folder / "queue-0.sqlite") as database:
            database.execute("UPDATE eco_events SET at = ? WHERE number = 1", [NOON])
        store = store_at(f"hub:{repo}", folder / "cache")
        Mirror(queue, store).sync()
        return store.list("requests/")


def test_lines_of_two_days_are_one_commit(hub: LocalHub, client: Callable[..., Any], repo: str, tmp_path: Path) -> None:
    assert client(two_days_on_hub, repo, tmp_path / "client") == [day_path(NOON), day_path(time.time())]
    assert len(hub.commits(repo, "dataset")) == 2
