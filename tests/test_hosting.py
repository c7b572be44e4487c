"""What `app.py` starts: the page answers, a worker beside it comes back when it dies and never outlives the page."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from hub import LocalHub

from eco_eval.engines.supervise import safe_environment
from eco_eval.hosting import LONGEST_PAUSE, ledger_kept, pauses, supervised
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts

# Not from conftest, which takes the network away from the clients that import this file.
REPO = Path(__file__).parent.parent


def is_healthy(settings: Settings) -> bool:
    """What a container's health check says of its worker."""
    check = "from eco_eval.hosting import worker_answers; raise SystemExit(not worker_answers())"
    given = bare(ECO_EVAL_QUEUE_URL=settings.queue)
    done = subprocess.run([sys.executable, "-c", check], cwd=REPO, env=given, capture_output=True, text=True)
    assert not done.stderr
    return done.returncode == 0


def wait_for(true: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def bare(**more: str) -> dict[str, str]:
    """This process's environment as a machine has it where the project is not known."""
    left_out = ("ECO_EVAL_", "HF_", "PYTHONPATH", "GRADIO_SERVER")
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)} | more


@contextmanager
def app(folder: Path, home: Path, **environ: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The `app.py` of a folder, running, and where it answers."""
    port = free_port()
    home.mkdir(parents=True, exist_ok=True)
    settings = {"ECO_EVAL_DATA_DIR": str(home / "data"), "ECO_EVAL_CACHE_DIR": str(home / "cache")}
    given = bare(HF_HUB_OFFLINE="1", HF_HOME=str(home / "hf")) | settings | {"GRADIO_SERVER_PORT": str(port)} | environ
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env=given, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def page(url: str) -> str | None:
    """What the page says, or None while nobody answers."""
    with suppress(URLError, ConnectionError, TimeoutError), urlopen(url, timeout=10) as answer:
        assert answer.status == 200
        return str(answer.read().decode())
    return None


NOTING = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); time.sleep(float(sys.argv[2]))"


def noting(file: Path, seconds: float) -> list[str]:
    """A command that notes its process and sleeps."""
    return [sys.executable, "-c", NOTING, str(file), str(seconds)]


def noted(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_command_that_dies_is_started_again_and_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with supervised(noting(tmp_path / "pids", 0), bare(), Texts("es"), pause=0.01):
        assert wait_for(lambda: len(noted(tmp_path / "pids")) >= 3)
    found = noted(tmp_path / "pids")
    assert len(set(found)) == len(found)
    assert "El trabajador terminó (código 0). Se vuelve a iniciar en 0.01 s." in capfd.readouterr().err
    count = len(found)
    time.sleep(0.5)
    assert len(noted(tmp_path / "pids")) == count


def test_pauses_double_up_to_five_minutes() -> None:
    assert list(islice(pauses(1.0), 11)) == [1, 2, 4, 8, 16, 32, 64, 128, 256, LONGEST_PAUSE, LONGEST_PAUSE]


def test_a_command_ends_with_whoever_keeps_it(tmp_path: Path) -> None:
    with supervised(noting(tmp_path / "pids", 600), bare(), Texts("es")) as keeper:
        assert wait_for(lambda: bool(noted(tmp_path / "pids")))
        (pid,) = noted(tmp_path / "pids")
        assert alive(pid)
    assert not keeper.is_alive()
    assert not alive(pid)


def test_a_command_ends_when_whoever_keeps_it_is_killed(tmp_path: Path) -> None:
    keeping = (
        "import sys, time; from eco_eval.hosting import supervised; from eco_eval.ui.texts import Texts\n"
        "with supervised(sys.argv[1:], {}, Texts('es')): time.sleep(600)"
    )
    keeper = subprocess.Popen([sys.executable, "-c", keeping, *noting(tmp_path / "pids", 600)], cwd=REPO)
    try:
        assert wait_for(lambda: bool(noted(tmp_path / "pids")))
        (pid,) = noted(tmp_path / "pids")
        assert alive(pid)
    finally:
        keeper.kill()
        keeper.wait()
    assert wait_for(lambda: not alive(pid), 30)


def test_the_worker_has_the_token_it_publishes_with_and_what_loads_a_model_has_not(tmp_path: Path) -> None:
    told = tmp_path / "environ.json"
    telling = "import json, os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(json.dumps(dict(os.environ)))"
    given = bare(ECO_EVAL_HUB_TOKEN="hf_secret", ECO_EVAL_QUEUE_URL="postgresql://u:p@h/d", PYTHONPATH="/elsewhere")
    with supervised([sys.executable, "-c", telling, str(told)], given, Texts("es"), pause=60):
        assert wait_for(lambda: told.exists() and bool(told.read_text()))
    environ = json.loads(told.read_text())
    assert environ["ECO_EVAL_HUB_TOKEN"] == "hf_secret"
    assert environ["PYTHONPATH"] == f"{REPO}{os.pathsep}/elsewhere"
    left = safe_environment(environ)
    assert not [value for value in left.values() if "hf_secret" in value or "u:p@" in value]


@pytest.mark.slow_start
def test_the_page_answers_in_html_and_ends_when_asked(tmp_path: Path) -> None:
    with app(REPO, tmp_path) as (process, url):
        assert wait_for(lambda: page(url) is not None or process.poll() is not None), (tmp_path / "log").read_text()
        process.terminate()
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.slow_start
def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with app(REPO, tmp_path, GRADIO_SERVER_PORT=port) as (process, _):
            assert process.wait(60) == 2
    log = (tmp_path / "log").read_text()
    assert "está ocupado" in log
    assert "Traceback" not in log


@pytest.mark.slow_start
def test_a_disk_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with app(REPO, tmp_path, ECO_EVAL_MODE="gpu", ECO_EVAL_DATA_DIR=str(tmp_path / "file" / "data")) as (process, _):
        assert process.wait(60) == 2
    log = (tmp_path / "log").read_text()
    assert re.search(r"No se puede escribir en «.*/file/data» \(Not a directory\)", log)
    assert "Traceback" not in log


@pytest.mark.slow_start
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_lives_beside_the_page_and_not_longer(tmp_path: Path, how: signal.Signals) -> None:
    from eco_eval.queue import Queue

    settings = Settings(data_dir=tmp_path / "data")
    with app(REPO, tmp_path, ECO_EVAL_MODE="gpu") as (process, url):
        log = tmp_path / "log"
        database = settings.data_dir / ".queue.sqlite"
        assert wait_for(lambda: page(url) is not None and database.exists(), 90), log.read_text()
        queue = Queue(settings.queue)
        try:
            assert wait_for(lambda: len(queue.workers(60.0)) == 1, 90), log.read_text()
            (seen,) = queue.workers(60.0)
        finally:
            queue.close()
        pid = int(seen.name.split("-")[-2])
        assert alive(pid)
        assert is_healthy(settings)
        process.send_signal(how)
        process.wait(60)
        assert wait_for(lambda: not alive(pid), 60)
        assert not is_healthy(settings)
    assert "Traceback" not in log.read_text()


def asked(number: int) -> Any:
    from eco_eval.queue import Request
    from eco_eval.types import ModelRef, Submission

    model = ModelRef(name=f"owner/model-{number}", source="hub", revision="a" * 40)
    submission = Submission(model=model, instrument="i", asked_digest="a", measured_digest="m")
    return Request(submission=submission, user="ana")


@pytest.mark.slow_start
def test_a_page_with_a_database_of_its_own_hears_of_the_ledger_and_writes_it(hub: LocalHub, tmp_path: Path) -> None:
    from eco_eval.ledger import day_path, from_jsonl, to_jsonl
    from eco_eval.queue import Queue

    repo, queue = "owner/board", Queue(f"sqlite:///{tmp_path}/elsewhere.sqlite")
    queue.submit(asked(1))
    path = day_path(time.time())
    hub.add(repo, "dataset", {path: to_jsonl(queue.unwritten(1))})
    queue.close()
    there = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    named = {"ECO_EVAL_HUB_REPO": repo, "ECO_EVAL_HUB_TOKEN": hub.token}
    with app(REPO, tmp_path / "home", **there, **named) as (process, url):
        log = tmp_path / "home" / "log"
        own = Settings(data_dir=tmp_path / "home" / "data").queue
        assert wait_for(lambda: page(url) is not None or process.poll() is not None, 90), log.read_text()
        queue = Queue(own)
        try:
            assert wait_for(lambda: queue.counts() == {"pending": 1}), log.read_text()
            queue.submit(asked(2))
        finally:
            queue.close()
        process.terminate()
        assert process.wait(60) == 0
    assert "Traceback" not in log.read_text()
    assert hub.token not in log.read_text()
    told = [
        one for name, data in hub.files(repo, "dataset").items() if "requests/" in name for one in from_jsonl(data)[0]
    ]
    assert [one.request for one in told if one.what == "asked"] == [asked(1).id, asked(2).id]


def test_a_page_outlives_a_database_that_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()
    settings = Settings(
        queue_url="postgresql://eco@127.0.0.1:1/eco", hub_repo="owner/board", hub_token="hf_x", cache_dir=tmp_path
    )
    with ledger_kept(settings, ended):
        assert wait_for(lambda: bool(caplog.records))
    assert [record.__dict__["cause"] for record in caplog.records if record.msg == "queue away"] == [
        "queue.unreachable"
    ]
