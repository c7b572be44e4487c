"""The durable queue on SQLite and on PostgreSQL: nothing lost, nothing twice, whoever is killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import require
from database import BIN, Postgres, postgres

from eco_eval.cli import build_app
from eco_eval.errors import InputError, StoreError, Superseded, TooManyUngraded
from eco_eval.queue import Failed, Finished, Pending, Queue, Quotas, Request, Running
from eco_eval.settings import Settings
from eco_eval.types import ModelRef, Submission
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
