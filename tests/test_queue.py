"""The durable queue on SQLite and on PostgreSQL: nothing lost, nothing twice, whoever is killed."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import require
from database import BIN, Postgres, postgres

from eco_eval.cli import build_app
from eco_eval.errors import EngineError, InputError, StoreError, Superseded, TooManyUngraded
from eco_eval.instrument import Instrument
from eco_eval.queue import (
    QUEUE,
    VERSION,
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
    WorkerAbout,
    fold,
)
from eco_eval.settings import Settings
from eco_eval.types import ModelRef, Submission, Weights
from eco_eval.ui.texts import Texts

WIDE = Quotas(per_user=10_000, per_owner=10_000)


def request(number: int, user: str = "ana", owner: str = "owner", priority: int = 50) -> Request:
    model = ModelRef(name=f"{owner}/model-{number}", source="hub", revision="a" * 40)
    submission = Submission(model=model, instrument="i", asked_digest="a", measured_digest="m")
    return Request(submission=submission, user=user, engine="transformers", priority=priority)


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    require(BIN is not None, "PostgreSQL (apt install postgresql)")
    with postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/queue.sqlite"
    server: Postgres = request.getfixturevalue("server")
    return server.create(f"q{uuid.uuid4().hex}")


@pytest.fixture
def queue(url: str) -> Iterator[Queue]:
    opened = Queue(url)
    yield opened
    opened.close()


# --- asking


def test_asking_twice_is_asking_once(queue: Queue) -> None:
    first = queue.submit(request(1))
    assert isinstance(first.state, Pending)
    assert first.state.position == 1
    assert queue.submit(request(1, user="luz")) == first
    assert queue.counts() == {"pending": 1}
    assert [event.what for event in queue.events(first.request.id)] == ["asked"]


def test_many_at_once_lose_nothing_and_enter_nothing_twice(queue: Queue) -> None:
    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(lambda i: queue.submit(request(i % 20, user=f"u{i % 20}"), WIDE), range(160)))
    assert {entry.request.id for entry in entries} == {request(i).id for i in range(20)}
    assert queue.counts() == {"pending": 20}
    assert all(len(queue.events(request(i).id)) == 1 for i in range(20))
    positions = [entry.state.position for entry in queue.entries() if isinstance(entry.state, Pending)]
    assert positions == list(range(1, 21))


def test_quotas_hold_when_everybody_asks_at_once(queue: Queue) -> None:
    def ask(number: int) -> str | None:
        try:
            return queue.submit(request(number), Quotas(per_user=3)).request.id
        except InputError as error:
            return error.key

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(ask, range(16)))
    assert said.count("queue.user_quota") == 13
    assert queue.counts() == {"pending": 3}


@pytest.mark.parametrize(
    ("quotas", "key"),
    [
        (Quotas(per_user=1), "queue.user_quota"),
        (Quotas(per_owner=1), "queue.owner_quota"),
        (Quotas(total=1), "queue.full"),
    ],
)
def test_a_quota_used_up_says_which_and_keeps_nothing(queue: Queue, quotas: Quotas, key: str) -> None:
    queue.submit(request(1), quotas)
    with pytest.raises(InputError) as caught:
        queue.submit(request(2), quotas)
    assert caught.value.key == key
    assert queue.submit(request(1), quotas).attempt == 1
    assert queue.counts() == {"pending": 1}
    other = request(2, user="luz", owner="other")
    if key != "queue.full":
        assert isinstance(queue.submit(other, quotas).state, Pending)


def test_priority_goes_before_age(queue: Queue) -> None:
    for number, priority in ((1, 50), (2, 10), (3, 50), (4, 10)):
        queue.submit(request(number, priority=priority))
    assert [entry.request.submission.model.name[-1] for entry in queue.entries()] == ["2", "4", "1", "3"]


def test_what_was_stopped_or_failed_may_be_asked_again(queue: Queue) -> None:
    one = request(1)
    queue.submit(one)
    assert queue.cancel(one.id, "ana").state.state == "cancelled"
    assert queue.submit(one).attempt == 2
    _, generation = queue.take(one.id, 2, "w")
    queue.fail(one.id, generation, "answer", TooManyUngraded("score.too_many_ungraded", ungraded=1))
    failed = queue.get(one.id).state
    assert isinstance(failed, Failed)
    assert (failed.stage, failed.key, failed.values) == ("answer", "score.too_many_ungraded", {"ungraded": "1"})
    assert queue.submit(one).attempt == 3
    whats = [event.what for event in queue.events(one.id)]
    assert whats == ["asked", "cancelled", "asked", "taken", "failed", "asked"]


def test_withdrawing_and_running_again(queue: Queue) -> None:
    one = request(1)
    queue.submit(one)
    _, generation = queue.take(one.id, 1, "w")
    queue.finish(one.id, generation, one.id)
    assert queue.submit(one).state == Finished(result=one.id)
    assert queue.cancel(one.id, "ana").state == Finished(result=one.id)
    assert queue.retry(one.id, "ana").attempt == 2
    assert queue.withdraw(one.id, "ana").state.state == "withdrawn"
    with pytest.raises(Superseded):
        queue.take(one.id, 2, "w")


def test_an_unknown_request_is_said(queue: Queue) -> None:
    for act in (queue.get, lambda i: queue.cancel(i, "ana"), lambda i: queue.retry(i, "ana")):
        with pytest.raises(InputError) as caught:
            act("0" * 16)
        assert caught.value.key == "queue.unknown"


def test_who_was_superseded_is_refused(queue: Queue) -> None:
    one = request(1)
    queue.submit(one)
    _, first = queue.take(one.id, 1, "slow")
    _, second = queue.take(one.id, 1, "quick")
    for late in (
        lambda: queue.progress(one.id, first, "slow", "answer", 1, 2),
        lambda: queue.finish(one.id, first, "x"),
        lambda: queue.fail(one.id, first, "answer", InputError("queue.unknown", request="x")),
    ):
        with pytest.raises(Superseded):
            late()
    queue.progress(one.id, second, "quick", "judge", 1, 2)
    assert queue.get(one.id).state == Running(worker="quick", stage="judge", done=1, total=2)


# --- whose it is


def test_only_who_asked_or_an_operator_may_change_a_request(queue: Queue) -> None:
    one = request(1)
    queue.submit(one)
    for act in (queue.cancel, queue.withdraw, queue.retry):
        with pytest.raises(InputError) as caught:
            act(one.id, "luz")
        assert caught.value.key == "queue.not_yours"
    assert isinstance(queue.get(one.id).state, Pending)
    assert queue.cancel(one.id, "root", operator=True).state == Cancelled(by="root")
    assert queue.retry(one.id, "root", operator=True).attempt == 2
    assert queue.get(one.id).request.user == "ana"
    assert queue.withdraw(one.id, "ana").state == Withdrawn(by="ana")


def test_running_again_counts_as_a_new_request_unless_an_operator_does_it(queue: Queue) -> None:
    one, two = request(1), request(2)
    quotas = Quotas(per_user=1)
    queue.submit(one, quotas)
    queue.cancel(one.id, "ana")
    queue.submit(two, quotas)
    with pytest.raises(InputError) as caught:
        queue.retry(one.id, "ana", quotas)
    assert caught.value.key == "queue.user_quota"
    assert queue.get(one.id).attempt == 1
    assert [event.what for event in queue.events(one.id)] == ["asked", "cancelled"]
    assert queue.retry(one.id, "root", quotas, operator=True).attempt == 2


ODD = [
    "",
    "0" * 15,
    "0" * 17,
    "A" * 16,
    "\0" * 16,
    "\ud800" * 16,
    "x" * 1_000_000,
    "٣" * 16,
    "' OR 1=1 --",
    "0" * 16 + "\n",
]


@pytest.mark.parametrize("text", ODD)
def test_what_is_no_id_or_no_user_is_unknown_and_never_reaches_the_database(queue: Queue, text: str) -> None:
    queue.submit(request(1))
    for act in (
        queue.get,
        queue.events,
        lambda i: queue.cancel(i, "ana"),
        lambda i: queue.withdraw(i, "ana"),
        lambda i: queue.retry(i, "ana", operator=True),
    ):
        with pytest.raises(InputError) as caught:
            act(text)
        assert caught.value.key == "queue.unknown"
        assert len(Texts("es").error(caught.value).encode()) < 1000
    assert queue.entries(user=text) == []
    for act in (queue.cancel, queue.withdraw, queue.retry):
        with pytest.raises(InputError) as caught:
            act(request(1).id, text)
        assert caught.value.key == "queue.not_yours"
    assert queue.cancel(request(1).id, text, operator=True).state.state == "cancelled"


def test_odd_windows_and_states_are_no_error(queue: Queue) -> None:
    queue.submit(request(1))
    assert len(queue.entries(limit=10**30)) == 1
    assert queue.entries(limit=-1) == queue.entries(offset=10**30) == queue.entries(states=("\0",)) == []
    assert len(queue.entries(states=("pending", "\ud800"), offset=-5)) == 1


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("name", {"model": {"name": "owner/\0"}}),
        ("name", {"model": {"name": "owner/\x1b[2J"}}),
        ("name", {"model": {"name": "owner/" + "m" * 1000}}),
        ("system_prompt", {"system_prompt": "\ud800"}),
        ("system_prompt", {"system_prompt": "x" * 1_000_000}),
        ("instrument", {"instrument": "a\nb"}),
        ("user", {"user": "ana\0"}),
        ("folder", {"folder": "/models/\0"}),
    ],
)
def test_a_request_that_cannot_be_kept_names_its_field(queue: Queue, field: str, change: dict[str, Any]) -> None:
    one = request(1)
    submission = one.submission
    if "model" in change:
        change = {
            "submission": submission.model_copy(update={"model": submission.model.model_copy(update=change["model"])})
        }
    elif field in Submission.model_fields:
        change = {"submission": submission.model_copy(update=change)}
    with pytest.raises(InputError) as caught:
        queue.submit(one.model_copy(update=change))
    assert (caught.value.key, caught.value.values["field"]) == ("queue.unusable", field)
    assert queue.counts() == {}


def test_a_system_prompt_is_kept_to_the_letter_and_makes_another_request(queue: Queue) -> None:
    bare = request(1)
    guide = "Habla claro.\r\n\tSí:\u00a0«así» 👩‍🌾\f"
    one = bare.model_copy(update={"submission": bare.submission.model_copy(update={"system_prompt": guide})})
    weights = Weights(kind="chat", architecture="Qwen2", parameters=10, bytes=20, dtype="bfloat16", licence="mit")
    one = one.model_copy(update={"weights": weights})
    assert one.id != bare.id
    queue.submit(bare)
    queue.submit(one)
    assert queue.get(one.id).request == one


def test_a_failure_is_kept_whatever_its_words(queue: Queue) -> None:
    one = request(1)
    queue.submit(one)
    _, generation = queue.take(one.id, 1, "w")
    error = EngineError("vllm.died", model="m", reason="\ud800\0" + "x" * 10**6, log="\0")
    queue.again(one.id, generation, "answer", error)
    queue.fail(one.id, generation, "answer", error)
    state = queue.get(one.id).state
    assert isinstance(state, Failed)
    assert (state.values["model"], len(state.values["reason"])) == ("m", 4000)
    assert [len(event.detail) for event in queue.events(one.id)] == [3, 1, 4000, 4000]


def test_a_run_ends_whatever_its_result_is_called(queue: Queue) -> None:
    one = request(1)
    queue.submit(one)
    _, generation = queue.take(one.id, 1, "w")
    queue.finish(one.id, generation, "no id")
    assert queue.get(one.id).state == Finished(result="no id")


# --- what is measured


def test_workers_that_live_say_what_they_run_on(queue: Queue) -> None:
    about = WorkerAbout(device="1 × H200", max_bytes=10**11, engines=("vllm",), version="0.1.0")
    queue.beat("b", about)
    queue.beat("b")
    queue.beat("a")
    seen = queue.workers(silent=60)
    assert [(worker.name, worker.about) for worker in seen] == [("a", None), ("b", about)]
    assert all(abs(worker.beat_at - time.time()) < 60 for worker in seen)
    assert queue.workers(silent=0) == []
    queue.leave("b")
    assert [worker.name for worker in queue.workers(silent=60)] == ["a"]


def test_a_machine_whose_clock_is_wrong_takes_nobody_for_dead(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Queue(server.create(f"q{uuid.uuid4().hex}"))) as queue:
        right = time.time
        for name, off in (("early", -3600), ("late", 3600), ("right", 0)):
            monkeypatch.setattr(time, "time", lambda off=off: right() + off)
            queue.beat(name)
        for off in (-3600, 3600):
            monkeypatch.setattr(time, "time", lambda off=off: right() + off)
            assert [worker.name for worker in queue.workers(60.0)] == ["early", "late", "right"]


def test_stages_failures_and_the_oldest_wait_are_counted(queue: Queue) -> None:
    assert (queue.stage_seconds(), queue.failures(), queue.oldest_wait()) == ({}, {}, None)
    for number in (1, 2):
        queue.submit(request(number))
        _, generation = queue.take(request(number).id, 1, "w")
        queue.stage(request(number).id, generation, "answer", 1.5)
        queue.stage(request(number).id, generation, "judge", 0.25 * number)
        queue.fail(request(number).id, generation, "judge", EngineError("engine.out_of_memory", model="m"))
        assert queue.retry(request(number).id, "ana").attempt == 2
    assert queue.stage_seconds() == {"answer": (2, 3.0), "judge": (2, 0.75)}
    assert queue.failures() == {"engine.out_of_memory": 2}
    first = queue.get(request(1).id).made_at
    time.sleep(0.01)
    waited = queue.oldest_wait()
    assert waited is not None
    assert abs(time.time() - waited - first) < 0.5


def test_a_stage_that_is_tried_again_is_told_by_its_worker_alone(queue: Queue) -> None:
    one = request(1)
    queue.submit(one)
    _, first = queue.take(one.id, 1, "slow")
    queue.again(one.id, first, "answer", EngineError("vllm.died", model="m", reason="r", log=""))
    _, second = queue.take(one.id, 1, "quick")
    with pytest.raises(Superseded):
        queue.again(one.id, first, "answer", EngineError("vllm.died", model="m", reason="r", log=""))
    queue.finish(one.id, second, one.id, published=True)
    assert queue.get(one.id).state == Finished(result=one.id, published=True)
    told = [event.detail for event in queue.events(one.id) if event.what == "again"]
    assert told == ["answer: vllm.died(model='m', reason='r', log='')"]


# --- what happened elsewhere


def line(asked: Request, what: str, at: float) -> Line:
    state = Finished(result=asked.id) if what == "finished" else None
    payload = asked if what == "asked" else None
    fields = {"uid": uuid.uuid4().hex, "at": at, "request": asked.id, "attempt": 1, "what": what, "detail": "elsewhere"}
    return Line(**fields, payload=payload, state=state)


def test_lines_are_absorbed_while_others_absorb_submit_and_take(queue: Queue, url: str) -> None:
    whats = ("asked", "taken", "finished")
    lines = [line(request(n), what, float(at)) for n in range(300) for at, what in enumerate(whats) if n % 50 or at < 2]
    again = Queue(url)

    def disturb(number: int) -> None:
        queue.submit(request(number), WIDE)
        with suppress(Superseded):
            queue.take(request(number).id, 1, "mine")

    with ThreadPoolExecutor(6) as pool:
        absorbing = [pool.submit(opened.absorb, lines) for opened in (queue, again) for _ in range(2)]
        list(pool.map(disturb, range(250, 350)))
        assert sum(done.result() for done in absorbing) == len(lines)
    again.close()
    counts = queue.counts()
    assert sum(counts.values()) == 350
    # A run in hand is kept, and whoever had not begun by then has nothing to do.
    assert counts["finished"] + counts["running"] == 350
    assert {queue.get(request(n).id).state.state for n in range(0, 300, 50)} == {"running"}
    assert all(isinstance(queue.get(request(n).id).state, Finished) for n in range(1, 250) if n % 50)
    mine = {one.uid for one in queue.unwritten(10_000)}
    assert mine.isdisjoint({one.uid for one in lines})
    queue.written(sorted(mine))
    assert queue.unwritten(1) == []


# --- a database of an earlier version

OLD = """
CREATE TABLE eco_requests (id VARCHAR NOT NULL PRIMARY KEY, "user" VARCHAR NOT NULL, owner VARCHAR NOT NULL,
  state VARCHAR NOT NULL, detail VARCHAR NOT NULL, attempt INTEGER NOT NULL, generation INTEGER NOT NULL,
  worker VARCHAR NOT NULL, priority INTEGER NOT NULL, made_at FLOAT NOT NULL, updated_at FLOAT NOT NULL,
  payload VARCHAR NOT NULL);
CREATE INDEX eco_requests_order ON eco_requests (state, priority, made_at);
CREATE INDEX eco_requests_user ON eco_requests ("user", state);
CREATE INDEX eco_requests_owner ON eco_requests (owner, state);
CREATE TABLE eco_events (number SERIAL PRIMARY KEY, request VARCHAR NOT NULL, at FLOAT NOT NULL,
  what VARCHAR NOT NULL, detail VARCHAR NOT NULL);
CREATE INDEX ix_eco_events_request ON eco_events (request);
CREATE TABLE eco_workers (id VARCHAR NOT NULL PRIMARY KEY, beat_at FLOAT NOT NULL)
"""


def old_database(url: str) -> None:
    """Tables as the first version made them: one request that failed and waits again, one finished, one failed."""
    from dbos import DBOS, DBOSClient

    DBOS.migrate(url)
    is_sqlite = url.startswith("sqlite")
    engine = sa.create_engine(url if is_sqlite else url.replace("postgresql:", "postgresql+psycopg:"))
    details = {
        1: '{"state": "pending", "position": 0}',
        2: Finished(result=request(2).id).model_dump_json(exclude={"published"}),
        3: Failed(stage="judge", key="engine.out_of_memory", values={"model": "m"}).model_dump_json(),
    }
    happened = [
        (1, "asked", "ana"),
        (1, "taken", "w"),
        (1, "failed", "answer: vllm.died(model='m')"),
        (1, "asked", "ana"),
    ]
    happened += [(n, what, "ana") for n in (2, 3) for what in ("asked", "taken")]
    happened += [(2, "finished", request(2).id), (3, "failed", "judge: engine.out_of_memory(model='m')")]
    with engine.begin() as c:
        for statement in OLD.replace("SERIAL", "INTEGER" if is_sqlite else "SERIAL").split(";"):
            c.execute(sa.text(statement))
        for number, detail in details.items():
            made = request(number)
            values = {
                **{"id": made.id, "user": made.user, "owner": made.owner, "state": detail.split('"')[3]},
                **{"detail": detail, "attempt": 2 if number == 1 else 1, "generation": 1, "worker": "w"},
                **{
                    "priority": 50,
                    "made_at": 5.0,
                    "updated_at": 6.0,
                    "payload": made.model_dump_json(exclude={"weights"}),
                },
            }
            places = ", ".join(f":{name}" for name in values)
            c.execute(sa.text(f"INSERT INTO eco_requests VALUES ({places})"), values)
        for at, (number, what, detail) in enumerate(happened):
            values = {"request": request(number).id, "at": float(at), "what": what, "detail": detail}
            c.execute(
                sa.text("INSERT INTO eco_events (request, at, what, detail) VALUES (:request, :at, :what, :detail)"),
                values,
            )
        c.execute(sa.text("INSERT INTO eco_workers VALUES ('w', 1.0)"))
    engine.dispose()
    client = DBOSClient(system_database_url=url)
    options = {
        "workflow_name": WORKFLOW,
        "queue_name": QUEUE,
        "workflow_id": f"{request(1).id}-2",
        "app_version": VERSION,
    }
    client.enqueue({**options, "priority": 50}, request(1).id, 2)
    client.destroy()


def test_a_database_of_an_earlier_version_opens_with_all_it_knows(url: str, tmp_path: Path) -> None:
    old_database(url)
    with ThreadPoolExecutor(4) as pool:
        queues = list(pool.map(lambda _: Queue(url), range(4)))
    queue = queues[0]
    assert queue.counts() == {"pending": 1, "finished": 1, "failed": 1}
    assert queue.get(request(2).id).state == Finished(result=request(2).id)
    assert [event.what for event in queue.events(request(1).id)] == ["asked", "taken", "failed", "asked"]
    assert queue.failures() == {"vllm.died": 1, "engine.out_of_memory": 1}
    lines = queue.unwritten(100)
    assert [(line.attempt, line.what) for line in lines[:4]] == [
        (1, "asked"),
        (1, "taken"),
        (1, "failed"),
        (2, "asked"),
    ]
    for number in (1, 2, 3):
        standing = fold(line for line in lines if line.request == request(number).id)
        assert standing is not None
        entry = queue.get(request(number).id)
        kept = Pending(position=0) if isinstance(entry.state, Pending) else entry.state
        assert (standing.request, standing.attempt, standing.state) == (entry.request, entry.attempt, kept)
    with workers(url, tmp_path / "out"):
        wait_for(lambda: isinstance(queue.get(request(1).id).state, Finished))
    for opened in queues:
        opened.close()


def test_opening_a_database_twice_changes_nothing(queue: Queue, url: str) -> None:
    queue.submit(request(1))
    told = queue.unwritten(10)
    again = Queue(url)
    assert again.unwritten(10) == told
    again.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://eco:se@cret@127.0.0.1:1/eco",
        "postgresql://eco:secret@127.0.0.1:port/eco",
        "mysql://eco:secret@127.0.0.1:1/eco",
        "eco:secret@127.0.0.1",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_an_address_of_no_queue_is_one_line_that_keeps_the_password(
    url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"settings\.bad_value") as caught:
        Queue(url)
    told = Texts("es").error(caught.value) + "".join(capfd.readouterr())
    assert "ECO_EVAL_QUEUE_URL" in told
    assert "cret" not in told


@pytest.mark.parametrize("url", ["sqlite:///{file}/q.sqlite", "postgresql://eco@127.0.0.1:1/eco"])
def test_a_database_that_is_away_is_one_clear_error(tmp_path: Path, url: str) -> None:
    file = tmp_path / "a-file"
    file.touch()
    with pytest.raises(StoreError) as caught:
        Queue(url.format(file=file))
    assert caught.value.key == "queue.unreachable"
    assert caught.value.values["reason"]


# --- workers, killed


@contextmanager
def workers(url: str, folder: Path, count: int = 1, seconds: float = 0.03) -> Iterator[Callable[[], Any]]:
    """Worker processes; the function it gives starts one more, which is returned."""
    running: list[subprocess.Popen[str]] = []
    folder.mkdir(exist_ok=True)

    def start() -> Any:
        command = [sys.executable, str(Path(__file__).with_name("queue_worker.py")), url, str(folder), str(seconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().strip()
        running.append(process)
        return process

    for _ in range(count):
        start()
    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.wait()


def wait_for(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(StoreError):
            if holds():
                return
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def is_over(queue: Queue) -> bool:
    counts = queue.counts()
    return not counts.get("pending") and not counts.get("running")


def check_ends(queue: Queue, folder: Path, count: int) -> None:
    """Everything asked came to one end, with its result kept once or its cause told."""
    for number in range(count):
        entry = queue.get(request(number).id)
        ends = [event.what for event in queue.events(entry.request.id) if event.what in ("finished", "failed")]
        assert len(ends) == 1, entry
        if number % 10 == 3:
            assert isinstance(entry.state, Failed)
            assert entry.state.key == "score.too_many_ungraded"
        elif number % 10 == 5:
            assert isinstance(entry.state, Failed)
            assert (entry.state.key, entry.state.values["reason"]) == ("queue.internal", "ZeroDivisionError: a bug")
        else:
            assert entry.state == Finished(result=entry.request.id)
            assert (folder / entry.request.id).exists()


def test_workers_that_are_killed_lose_nothing_and_finish_nothing_twice(queue: Queue, url: str, tmp_path: Path) -> None:
    chance, folder = random.Random(3), tmp_path / "out"
    for number in range(40):
        queue.submit(request(number, user=f"u{number}"), WIDE)
    kills = 0
    with workers(url, folder) as start:
        process = start()
        while not is_over(queue):
            time.sleep(chance.uniform(0.3, 0.9))
            if kills < 4:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                process = start()
    assert kills
    check_ends(queue, folder, 40)


def test_a_lost_run_is_taken_over_by_another_worker(queue: Queue, url: str, tmp_path: Path) -> None:
    one = request(1)
    queue.submit(one)
    with workers(url, tmp_path / "slow", seconds=60):
        wait_for(lambda: isinstance(queue.get(one.id).state, Running))
    with workers(url, tmp_path / "quick"):
        wait_for(lambda: isinstance(queue.get(one.id).state, Finished))
    whats = [event.what for event in queue.events(one.id)]
    assert whats == ["asked", "taken", "lost", "taken", "finished"]


def test_a_worker_that_is_asked_to_end_leaves_its_run_to_others_at_once(queue: Queue, url: str, tmp_path: Path) -> None:
    one = request(1)
    queue.submit(one)
    with workers(url, tmp_path / "out", count=0, seconds=0.5) as start:
        first = start()
        wait_for(lambda: isinstance(queue.get(one.id).state, Running))
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=30) == 0
    assert isinstance(queue.get(one.id).state, Finished)


def test_a_run_too_long_to_wait_for_goes_on_with_another_worker(queue: Queue, url: str, tmp_path: Path) -> None:
    one = request(1)
    queue.submit(one)
    with workers(url, tmp_path / "slow", count=0, seconds=15) as start:
        first = start()
        wait_for(lambda: isinstance(queue.get(one.id).state, Running))
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=30) == 0
    assert isinstance(queue.get(one.id).state, Running)
    with workers(url, tmp_path / "quick"):
        wait_for(lambda: isinstance(queue.get(one.id).state, Finished))
    assert [event.what for event in queue.events(one.id)] == ["asked", "taken", "lost", "taken", "finished"]
    assert not (tmp_path / "slow" / one.id).exists()


def test_a_run_that_is_cancelled_stops(queue: Queue, url: str, tmp_path: Path) -> None:
    one, two = request(1), request(2)
    queue.submit(one)
    with workers(url, tmp_path / "out", seconds=3):
        wait_for(lambda: isinstance(queue.get(one.id).state, Running))
        queue.cancel(one.id, "ana")
        queue.submit(two)
        wait_for(lambda: isinstance(queue.get(two.id).state, Finished))
    assert queue.get(one.id).state.state == "cancelled"
    assert not (tmp_path / "out" / one.id).exists()


def test_a_database_that_restarts_in_the_middle_loses_nothing(server: Postgres, tmp_path: Path) -> None:
    url = server.create("restart")
    queue = Queue(url)
    for number in range(30):
        queue.submit(request(number, user=f"u{number}"), WIDE)
    with workers(url, tmp_path / "out", count=2):
        wait_for(lambda: queue.counts().get("finished", 0) > 3)
        server.stop()
        time.sleep(1)
        server.start()
        wait_for(lambda: is_over(queue), 90)
    check_ends(queue, tmp_path / "out", 30)
    queue.close()


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["--engine", "endpoint"], "engine.unknown"),
        (["--instrument", "mine.toml"], "queue.own_instrument"),
    ],
)
def test_what_no_worker_could_run_is_refused_when_it_is_asked_for(
    tmp_path: Path, tiny_model: Path, arguments: list[str], key: str
) -> None:
    app = build_app(Settings(data_dir=tmp_path, cache_dir=tmp_path / "cache"), Texts("es"))
    with pytest.raises(InputError) as caught:
        app(["submit", str(tiny_model), *arguments], standalone_mode=False)
    assert caught.value.key == key
    assert not (tmp_path / ".queue.sqlite").exists()


def test_the_command_line_asks_shows_and_stops_as_an_operator(
    tmp_path: Path, tiny_model: Path, tiny_judge: Path, demo: Instrument, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    shutil.copytree(tiny_judge, settings.models_dir / demo.judge.model)
    app, t = build_app(settings, Texts("es")), Texts("es")
    guide = tmp_path / "guide.txt"
    guide.write_text("Piensa en el río.")

    def run(*arguments: str) -> str:
        app(list(arguments), standalone_mode=False)
        return capsys.readouterr().out

    asked = ["submit", str(tiny_model), "--dtype", "float32"]
    bare, guided = json.loads(run(*asked, "--json")), json.loads(run(*asked, "--system-prompt", str(guide), "--json"))
    assert bare["request"]["submission"]["model"]["dtype"] == "float32"
    assert guided["request"]["submission"]["system_prompt"] == "Piensa en el río."
    assert bare["request"]["weights"]["parameters"] > 0
    queue = Queue(settings.queue)
    waiting = queue.entries()
    assert len(waiting) == 2
    other = request(1, user="ana")
    queue.submit(other)
    _, generation = queue.take(other.id, 1, "w")
    queue.again(other.id, generation, "answer", EngineError("vllm.died", model="m", reason="r", log=""))
    queue.finish(other.id, generation, other.id, published=False)
    shown = run("queue", "show", waiting[1].request.id)
    assert "+system" in shown
    weights = waiting[1].request.weights
    assert weights is not None
    assert f"{t.number(weights.parameters / 1e6)} M de parámetros" in shown
    assert f"resultado {other.id}, sin publicar" in run("queue", "list")
    assert "reintentada" in run("queue", "show", other.id)
    assert "retirada por local:" in run("queue", "withdraw", other.id)
    assert queue.get(other.id).state.state == "withdrawn"
    queue.close()


def test_a_state_of_another_version_is_shown_in_its_own_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_dir=tmp_path)
    queue = Queue(settings.queue)
    for number, stage, error in (
        (1, "dance", EngineError("engine.of_tomorrow", x="1")),
        (2, "judge", EngineError("vllm.died", model="m")),
    ):
        queue.submit(request(number))
        _, generation = queue.take(request(number).id, 1, "w\x1b[2J")
        queue.fail(request(number).id, generation, stage, error)
    queue.close()
    build_app(settings, Texts("es"))(["queue", "list"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "falló en «dance»: engine.of_tomorrow(x='1')" in shown
    assert "falló en «veredictos»: vllm.died(model='m')" in shown
    build_app(settings, Texts("es"))(["queue", "show", request(1).id], standalone_mode=False)
    assert "\x1b" not in capsys.readouterr().out
