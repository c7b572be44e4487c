"""Engines in a child process: the same outcomes, and limits that hold on models that die, lie, or never end."""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, require
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_vllm import SECRET, SECRETS, conversations, family, processes, require_vllm, wait_until

from eco_eval.engines import LocalModel, child, open_engine, open_local, supervise
from eco_eval.engines.channel import LONGEST, REPLIES, Channel
from eco_eval.engines.child import (
    ERRORS,
    ChildEngine,
    checked_completion,
    checked_scores,
    memory_limit,
    private_files,
)
from eco_eval.errors import EngineError, InputError
from eco_eval.machine import group_limits, room
from eco_eval.settings import Settings
from eco_eval.types import Completion, Decoding, Failure, LabelScores, ModelRef
from eco_eval.ui.texts import Texts, catalogue

GREEDY = Decoding(max_tokens=12)
LABELS = ("buena", "regular", "mala")
PROMPTS = conversations(*(f"¿Qué puedo hacer por {what}?" for what in ("el río", "el mar", "los peces", "la sierra")))
ROOMY = supervise.Limits(memory=8 * 10**9, seconds=600.0)


def local(folder: Path, **more: Any) -> LocalModel:
    return LocalModel(**{"kind": "transformers", "path": folder, "name": "tiny", "context": 256, **more})


def isolated(folder: Path, limits: supervise.Limits = ROOMY, **more: Any) -> ChildEngine:
    return ChildEngine(local(folder), environ={**os.environ, **SECRETS}, limits=limits, **more)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[ChildEngine]:
    with isolated(tiny_model) as engine:
        yield engine


@pytest.fixture(scope="module")
def soon(tiny_model: Path) -> supervise.Limits:
    """Time enough to open the model here and now, and for little more."""
    started = time.monotonic()
    isolated(tiny_model).close()
    return supervise.Limits(10**10, round(2 * (time.monotonic() - started) + 2))


def members(engine: ChildEngine) -> set[int]:
    return family(engine._process.pid)


def host(engine: ChildEngine) -> int:
    """The process that holds the model: the only child of the supervisor."""
    found = [pid for pid, (parent, _) in processes().items() if parent == engine._process.pid]
    assert len(found) == 1
    return found[0]


# --- the same outcomes


def test_the_outcomes_are_those_of_the_engine_in_this_process(engine: ChildEngine, tiny_model: Path) -> None:
    same = open_local(local(tiny_model), os.environ)
    too_long = [*PROMPTS, *conversations("río " * 300)]
    assert engine.info == same.info
    assert list(engine.complete(too_long, GREEDY)) == list(same.complete(too_long, GREEDY))
    assert list(engine.score_labels(too_long, LABELS)) == list(same.score_labels(too_long, LABELS))
    assert [i for i, _ in engine.complete(PROMPTS, GREEDY, {0, 2})] == [
        i for i, _ in same.complete(PROMPTS, GREEDY, {0, 2})
    ]
    assert list(engine.complete([], GREEDY)) == []
    assert list(engine.score_labels(PROMPTS, LABELS, range(4))) == []
    same.close()


def test_open_engine_isolates_on_request(tiny_model: Path, tmp_path: Path) -> None:
    ref = ModelRef(name="tiny", source="local", revision="0" * 40, path=str(tiny_model))
    settings = Settings(data_dir=tmp_path / "data", private_dir=tmp_path / "private", environ=dict(os.environ))
    with open_engine("transformers", ref, settings, context=256, batch_size=2, isolated=True) as engine:
        assert isinstance(engine, ChildEngine)
        running = members(engine)
        assert {i for i, _ in engine.complete(PROMPTS, GREEDY)} == {0, 1, 2, 3}
    assert not running & processes().keys()


def test_outcomes_arrive_as_they_end_and_a_call_can_be_left(tiny_model: Path) -> None:
    with ChildEngine(local(tiny_model, batch_size=1), environ=os.environ, limits=ROOMY) as engine:
        expected = dict(engine.score_labels(PROMPTS, LABELS))
        long = Decoding(max_tokens=200)
        started = time.monotonic()
        first = next(outcomes := engine.complete(PROMPTS * 20, long))
        assert isinstance(first[1], Completion)
        one = time.monotonic() - started
        assert dict(engine.score_labels(PROMPTS, LABELS)) == expected
        assert time.monotonic() - started < 20 * one
        with pytest.raises(RuntimeError):
            next(outcomes)


def test_what_the_engine_raises_comes_back_as_it_is(engine: ChildEngine, tiny_model: Path) -> None:
    with pytest.raises(EngineError) as caught:
        list(engine.score_labels(PROMPTS, ("a", "a")))
    assert (caught.value.key, caught.value.retryable) == ("engine.bad_labels", False)
    assert caught.value.values["model"] == "tiny"
    # The engine goes on.
    assert len(list(engine.complete(PROMPTS, GREEDY))) == 4


def test_a_model_that_cannot_be_loaded_is_said_and_nothing_is_left(tiny_model: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    before = set(processes())
    with pytest.raises(EngineError) as caught:
        isolated(broken)
    assert caught.value.key == "engine.load_failed"
    assert not {pid for pid in set(processes()) - before if processes().get(pid, (0, 0))[0] == os.getpid()}


def test_what_a_person_can_fix_comes_back_as_such(tiny_model: Path) -> None:
    with pytest.raises(InputError) as caught:
        ChildEngine(local(tiny_model, kind="vllm", vllm_args=("--port=1",)), environ=os.environ, limits=ROOMY)
    assert caught.value.key == "vllm.forbidden_option"
    assert caught.value.values["option"] == "--port"


# --- what the child knows and can reach


def environments(pids: set[int]) -> dict[int, str]:
    found = {}
    for pid in pids:
        with suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    return found


def arguments(pids: set[int]) -> str:
    return " ".join(Path(f"/proc/{pid}/cmdline").read_text(errors="replace") for pid in pids)


def test_no_secret_is_in_the_environment_or_the_arguments(engine: ChildEngine) -> None:
    pids = members(engine)
    found = environments(pids)
    assert set(found) == pids
    assert len(pids) == 2
    for environment in found.values():
        assert SECRET not in environment
        assert "HF_HUB_OFFLINE=1" in environment
    assert SECRET not in arguments(pids)


def test_the_kernel_keeps_the_small_limits(engine: ChildEngine) -> None:
    rows = Path(f"/proc/{host(engine)}/limits").read_text().splitlines()
    limits = {row[:25].strip(): row[26:].split()[:2] for row in rows[1:]}
    assert limits["Max open files"] == ["4096", "4096"]
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max file size"] == [str(8 * 10**9)] * 2
    assert Path(f"/proc/{host(engine)}/oom_score_adj").read_text().strip() == "1000"


SPY = """
import json, os, sys
from pathlib import Path
from eco_eval.engines import landlock
from eco_eval.engines.channel import Start
from eco_eval.engines import host
start = Start.model_validate_json(sys.argv[1])
parent, paths = int(sys.argv[2]), sys.argv[3:]
assert host._seal(start)
def tried(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "done"
def reads(path):
    return tried(Path(path).read_bytes)
def grandchild(path):
    import subprocess
    return subprocess.run([sys.executable, "-c", "import sys; open(sys.argv[1], 'rb')", path]).returncode
print(json.dumps({
    "read": {path: reads(path) for path in paths},
    "write": {path: tried(lambda: Path(path).open("ab")) for path in paths},
    "delete": {path: tried(lambda: Path(path).unlink()) for path in paths if "open" not in path},
    "new": {path: tried(lambda: (Path(path).parent / "new").touch()) for path in paths},
    "grandchild": {path: grandchild(path) for path in paths},
    "parent": [reads(f"/proc/{parent}/environ"), tried(lambda: os.kill(parent, 0))],
    "kernel": [
        tried(lambda: os.close(os.open(f"/proc/{name}", os.O_WRONLY)))
        for name in ("sys/kernel/core_pattern", f"{parent}/oom_score_adj", "self/comm")
    ],
    "scratch": tried(lambda: (Path(os.environ["TMPDIR"]) / "x").write_text("x")),
}))
"""


def has_landlock() -> bool:
    asked = "import sys; from eco_eval.engines import landlock as l; sys.exit(l._syscall(444, None, 0, 1) < 1)"
    return subprocess.run([sys.executable, "-c", asked], cwd=REPO).returncode == 0


def test_private_files_and_other_processes_are_out_of_reach(tmp_path: Path, tiny_model: Path) -> None:
    require(has_landlock(), "a kernel with Landlock")
    data, scratch = tmp_path / "data", tmp_path / "scratch"
    for folder in (data / "models" / "m", tmp_path / "open", scratch):
        folder.mkdir(parents=True)
    for name in ("data/results.json", "data/models/m/weights", "open/file", "q.sqlite", "q.sqlite-wal"):
        (tmp_path / name).write_text("x")
    (tmp_path / "open" / "link").symlink_to(data / "results.json")
    settings = Settings(data_dir=data, private_dir=tmp_path / "none", queue_url=f"sqlite:///{tmp_path / 'q.sqlite'}")
    start = {"model": local(data / "models" / "m").model_dump(mode="json")}
    start["forbidden"] = [str(path) for path in private_files(settings)]
    hidden = ["data/results.json", "open/link", "q.sqlite", "q.sqlite-wal"]
    shown = ["data/models/m/weights", "open/file"]
    paths = [str(tmp_path / name) for name in hidden + shown]
    spy = subprocess.run(
        [sys.executable, "-c", SPY, json.dumps(start), str(os.getpid()), *paths],
        capture_output=True,
        check=True,
        cwd=REPO,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    found = json.loads(spy.stdout)
    assert list(found["read"].values()) == ["PermissionError"] * 4 + ["done"] * 2
    assert set(found["write"].values()) == {"PermissionError"}
    assert set(found["delete"].values()) == {"PermissionError"}
    assert set(found["new"].values()) == {"PermissionError"}
    assert list(found["grandchild"].values()) == [1] * 4 + [0] * 2
    assert found["parent"] == ["PermissionError"] * 2
    assert found["kernel"] == ["PermissionError"] * 2 + ["done"]
    assert found["scratch"] == "done"
    assert all((tmp_path / name).exists() for name in hidden + shown)


def test_a_model_inside_a_forbidden_folder_answers(tiny_model: Path, tmp_path: Path) -> None:
    # As the Hub's cache has them: links to contents beside.
    blobs, snapshot = tmp_path / "data" / "blobs", tmp_path / "data" / "snapshots" / "0"
    shutil.copytree(tiny_model, blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    with isolated(snapshot, forbidden=(tmp_path / "data", tmp_path / "none")) as engine:
        assert len(list(engine.complete(PROMPTS, GREEDY))) == 4


def test_private_files_are_the_store_the_hidden_answers_the_queue_and_the_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = (tmp_path / "token", tmp_path / "stored_tokens")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tokens[0]))
    monkeypatch.setattr("huggingface_hub.constants.HF_STORED_TOKENS_PATH", str(tokens[1]))
    settings = Settings(data_dir=Path("a"), private_dir=Path("b"), queue_url=f"sqlite:///{tmp_path}/q")
    files = [tmp_path / name for name in ("q", "q-wal", "q-shm", "q-journal")]
    assert private_files(settings) == (Path("b"), Path("a"), *files, *tokens)
    served = Settings(queue_url="postgresql://host/db", data_dir=Path("a"), private_dir=Path("b"))
    assert private_files(served) == (Path("b"), Path("a"), *tokens)


# --- limits


def supervised(script: str, limits: supervise.Limits, tmp_path: Path) -> tuple[int, float]:
    """Exit code of a Python script under limits, and how long it took."""
    started = time.monotonic()
    with (tmp_path / "log").open("wb") as log:
        process = supervise.start(
            [sys.executable, "-c", script], environ=os.environ, folder=tmp_path, log=log, limits=limits
        )
    try:
        return process.wait(30), time.monotonic() - started
    finally:
        supervise.end(process)


ALLOCATING = "import time; kept = bytearray(b'x') * {size}; print('on', flush=True); time.sleep(20)"
CHILDREN = """
import os, sys, time
kept = bytearray(b"x") * 60_000_000
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        {touch}
        time.sleep(20)
        os._exit(0)
time.sleep({seconds})
"""


def test_more_memory_than_allowed_ends_the_command_at_once(tmp_path: Path) -> None:
    limits = supervise.Limits(memory=100_000_000, seconds=20)
    code, seconds = supervised(ALLOCATING.format(size=200_000_000), limits, tmp_path)
    assert code == supervise.OVER_MEMORY
    assert seconds < 5


def test_memory_counts_over_all_processes_in_any_session(tmp_path: Path) -> None:
    limits = supervise.Limits(memory=150_000_000, seconds=20)
    touch = "kept = bytearray(b'y') * 60_000_000"
    assert supervised(CHILDREN.format(touch=touch, seconds=20), limits, tmp_path)[0] == supervise.OVER_MEMORY


def test_memory_that_processes_share_counts_once(tmp_path: Path) -> None:
    limits = supervise.Limits(memory=150_000_000, seconds=20)
    assert supervised(CHILDREN.format(touch="pass", seconds=3), limits, tmp_path)[0] == 0


def test_a_file_read_through_memory_is_not_memory_taken(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"x" * 200_000_000)
    script = "import mmap; f = open('weights', 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)\n"
    script += "print(sum(m[i] for i in range(0, len(m), 4096))); import time; time.sleep(2.5)"
    assert supervised(script, supervise.Limits(memory=100_000_000, seconds=20), tmp_path)[0] == 0


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(20)"
    code, seconds = supervised(script, supervise.Limits(memory=10**9, seconds=1.0), tmp_path)
    assert code == supervise.OVER_TIME
    assert 1 <= seconds < 8


def test_a_model_over_its_memory_is_said(tiny_model: Path) -> None:
    with pytest.raises(EngineError) as caught, isolated(tiny_model, supervise.Limits(10**8, 100.0)) as engine:
        list(engine.complete(PROMPTS * 1000, GREEDY))
    assert (caught.value.key, caught.value.retryable) == ("engine.memory_limit", False)
    assert caught.value.values == {"model": "tiny", "limit": "0.1"}


def test_a_model_over_its_time_is_said_even_with_its_supervisor_stopped(
    tiny_model: Path, soon: supervise.Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "_GRACE", 0.0)
    with isolated(tiny_model, soon) as engine:
        running, started = members(engine), time.monotonic()
        os.kill(engine._process.pid, signal.SIGSTOP)
        with pytest.raises(EngineError) as caught:
            list(engine.complete(PROMPTS * 5000, Decoding(max_tokens=200)))
        assert (caught.value.key, caught.value.retryable) == ("engine.time_limit", False)
        assert caught.value.values == {"model": "tiny", "limit": str(soon.seconds)}
    assert time.monotonic() - started < soon.seconds + 15
    assert wait_until(lambda: not running & processes().keys(), 5)


def test_a_model_over_its_time_is_ended_by_its_supervisor(tiny_model: Path, soon: supervise.Limits) -> None:
    with isolated(tiny_model, soon) as engine:
        running = members(engine)
        # Nobody reads: the parent is busy elsewhere.
        assert wait_until(lambda: not running - {engine._process.pid} & processes().keys(), soon.seconds + 5)
        with pytest.raises(EngineError) as caught:
            list(engine.complete(PROMPTS, GREEDY))
        assert caught.value.key == "engine.time_limit"


def test_the_default_limit_is_most_of_the_smallest_memory_around(tmp_path: Path) -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_limit(1.5) == 1_500_000_000
    assert 0 < memory_limit(None) <= 0.9 * whole
    membership, root = tmp_path / "cgroup", tmp_path / "fs"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "memory.max").write_text("1000\n")
    (root / "a" / "b" / "memory.max").write_text("max\n")
    (root / "memory" / "c").mkdir(parents=True)
    (root / "memory" / "c" / "memory.limit_in_bytes").write_text("3000\n")
    (root / "memory" / "memory.limit_in_bytes").write_text("2000\n")
    membership.write_text("9:name=systemd:/x\n8:cpu,memory:/c\n7:cpuset:/\n0::/a/b\n")
    assert list(group_limits(membership, root)) == [3000, 2000, 1000]
    assert list(group_limits(tmp_path / "none", root)) == []


def test_without_a_graphics_card_a_model_has_the_main_memory_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eco_eval.machine._cards", lambda environ: [])
    monkeypatch.setattr("eco_eval.machine.group_limits", lambda *places: [10 * 10**9])
    assert room("transformers", Settings()).max_bytes == 8 * 10**9
    assert room("transformers", Settings(stage_memory=5)).max_bytes == 4 * 10**9
    assert room("transformers", Settings(stage_memory=50)).max_bytes == 8 * 10**9
    assert memory_limit(None) == 9 * 10**9
    monkeypatch.setattr("eco_eval.machine.group_limits", lambda *places: iter([]))
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_limit(None) == whole * 9 // 10


# --- a child that dies


def test_a_killed_child_is_said_and_may_be_tried_again(tiny_model: Path) -> None:
    with isolated(tiny_model) as engine:
        running, outcomes = members(engine), engine.complete(PROMPTS * 50, Decoding(max_tokens=100))
        next(outcomes)
        os.kill(host(engine), signal.SIGSEGV)
        with pytest.raises(EngineError) as caught:
            list(outcomes)
        assert (caught.value.key, caught.value.retryable) == ("engine.child_died", True)
        assert str(caught.value.values["reason"]).startswith("SIGSEGV")
        assert wait_until(lambda: not running & processes().keys(), 5)
        # And again, of an engine that is gone.
        with pytest.raises(EngineError):
            list(engine.complete(PROMPTS, GREEDY))


def test_the_last_words_of_a_child_are_kept_without_what_steers_a_terminal(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_HOST", "print('one'); print('\\x1b[2Jtwo' + 'x' * 5000); raise SystemExit(3)")
    with pytest.raises(EngineError) as caught:
        isolated(tiny_model)
    values = caught.value.values
    assert caught.value.key == "engine.child_died"
    assert str(values["reason"]).startswith("[2Jtwo")
    assert str(values["log"]).splitlines()[0] == "one"
    assert len(str(values["log"])) < 1100
    assert Texts("es").error(caught.value).count("\n") == 2


def test_closing_in_the_middle_of_a_call_ends_everything_and_leaves_no_file(tiny_model: Path) -> None:
    engine = isolated(tiny_model)
    running, folder = members(engine), engine._log.parent
    next(engine.complete(PROMPTS * 50, Decoding(max_tokens=200)))
    started = time.monotonic()
    engine.close()
    engine.close()
    assert time.monotonic() - started < 5
    assert not running & processes().keys()
    assert not folder.exists()


PARENT = """
import os, sys
from pathlib import Path
from eco_eval.engines.channel import LocalModel
from eco_eval.engines.child import ChildEngine
from eco_eval.engines.supervise import Limits
from eco_eval.types import Decoding, Message
model = LocalModel(kind=sys.argv[2], path=Path(sys.argv[1]), name="tiny", context=256, dtype="float32")
engine = ChildEngine(model, environ=os.environ, limits=Limits(10**10, 600))
asked = [(Message(role="user", content="río"),)] * 2000
outcomes = engine.complete(asked, Decoding(max_tokens=200))
next(outcomes)
print("on", flush=True)
list(outcomes)
"""


@contextmanager
def parent_of(folder: Path, kind: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process in the middle of a call of an engine's child."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), kind], stdout=subprocess.PIPE, start_new_session=True, cwd=REPO
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"on\n"
    yield parent
    parent.stdout.close()
    parent.wait()


def test_a_killed_parent_takes_the_child_and_what_it_wrote_with_it(tiny_model: Path) -> None:
    with parent_of(tiny_model, "transformers") as parent:
        running = family(parent.pid)
        assert len(running) == 3
        written = {Path(f"/proc/{pid}/cwd").readlink() for pid in running - {parent.pid}}
        assert [folder.exists() for folder in written] == [True]
        parent.kill()
        assert wait_until(lambda: not running - {parent.pid} & processes().keys(), 5)
        assert [folder.exists() for folder in written] == [False]


# --- a child that lies


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Bytes as a child may send them: well-formed, nearly so, or anything."""
    index = st.integers(-2, 5)
    outcome = st.one_of(
        st.builds(Completion, text=st.text(max_size=5), tokens=st.integers(-1, 30)),
        st.builds(Failure, cause=st.sampled_from(["too_long", "template"])),
        st.builds(
            LabelScores,
            label=st.sampled_from([*LABELS, "otra"]),
            probabilities=st.none() | st.lists(st.floats(0, 1), min_size=2, max_size=4).map(tuple),
            mass=st.none() | st.floats(0, 2),
            source=st.sampled_from(["exact", "hard"]),
        ),
    )
    sent = {"what": "outcome", "index": draw(index), "outcome": draw(outcome).model_dump(mode="json")}
    broke = {"what": "broke", "key": draw(st.sampled_from([*ERRORS, "page.title", "", "x" * 200]))}
    broke |= {"values": draw(st.dictionaries(st.sampled_from(["model", "reason", "log"]), st.text(max_size=5)))}
    broke |= {"fixable": draw(st.booleans()), "retryable": draw(st.booleans())}
    whole = draw(
        st.sampled_from([sent, broke, {"what": "ended"}, {"what": "stop"}, {**sent, "more": 1}, {"what": "opened"}])
    )
    body = draw(st.just(json.dumps(whole).encode()) | st.binary(max_size=40))
    length = draw(st.just(len(body)) | st.integers(0, 2**32 - 1))
    return length.to_bytes(4, "big") + body


class Scripted(ChildEngine):
    """The parent's side alone, against whatever the other end of its channel says."""

    def __init__(self, connection: socket.socket) -> None:
        self._model, self._limits, self._call = local(Path("m")), ROOMY, None
        self._channel, self._log = Channel(connection, time.monotonic() + 5), Path("/no/log")
        self._process = subprocess.Popen(["true"])
        self._process.wait()
        self._end = connection.close


def heard(data: bytes, labels: tuple[str, ...] = ()) -> list[tuple[int, Any]]:
    """What a call of four conversations, the second skipped, yields when the child says this."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        engine = Scripted(ours)
        call = engine.score_labels(PROMPTS, labels, {1}) if labels else engine.complete(PROMPTS, GREEDY, {1})
        return list(call)


@hypothesis_settings(deadline=None, max_examples=150)
@given(st.lists(messages(), max_size=6).map(b"".join), st.sampled_from([(), LABELS]))
def test_whatever_a_child_says_is_an_answer_or_an_error_with_words(data: bytes, labels: tuple[str, ...]) -> None:
    outcomes: list[tuple[int, Any]] = []
    said_why = ""
    try:
        outcomes = heard(data, labels)
    except (EngineError, InputError) as error:
        said_why = Texts("es").error(error)
    assert said_why or sorted(index for index, _ in outcomes) == [0, 2, 3]
    for _, outcome in outcomes:
        if isinstance(outcome, LabelScores):
            assert outcome.probabilities is not None
            assert len(outcome.probabilities) == len(labels)
            assert math.isclose(sum(outcome.probabilities), 1, abs_tol=1e-5)
        elif isinstance(outcome, Completion):
            assert not labels
            assert 0 <= outcome.tokens <= GREEDY.max_tokens


def said(*records: dict[str, Any]) -> bytes:
    bodies = [json.dumps(record).encode() for record in records]
    return b"".join(len(body).to_bytes(4, "big") + body for body in bodies)


def scores(*shares: float, **more: Any) -> dict[str, Any]:
    fields = {"label": "buena", "probabilities": shares, "mass": 0.5, "source": "exact", **more}
    return {"what": "outcome", "index": 0, "outcome": fields}


ANSWER: dict[str, Any] = {"what": "outcome", "index": 0, "outcome": {"text": "sí", "tokens": 2}}
ENDED = {"what": "ended"}


def test_a_child_that_speaks_properly_is_heard() -> None:
    answers = [{**ANSWER, "index": index} for index in (3, 0, 2)]
    said_so = Completion(text="sí", tokens=2)
    assert heard(said(*answers, ENDED)) == [(3, said_so), (0, said_so), (2, said_so)]
    verdicts = [{**scores(0.5, 0.3, 0.2), "index": index} for index in (0, 2, 3)]
    assert len(heard(said(*verdicts, ENDED), LABELS)) == 3


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (said({**ANSWER, "index": 1}), ()),
        (said({**ANSWER, "index": 4}), ()),
        (said({**ANSWER, "index": -1}), ()),
        (said({**ANSWER, "index": "0"}), ()),
        (said(ANSWER, ANSWER), ()),
        (said(ANSWER, ENDED), ()),
        (said(ENDED), ()),
        (said({**ANSWER, "outcome": {"text": "x", "tokens": 13}}), ()),
        (said({**ANSWER, "outcome": {"text": "x", "tokens": -1}}), ()),
        (said({**ANSWER, "outcome": {"text": "x", "reasoning": "x" * 12_000}}), ()),
        (said({**ANSWER, "outcome": {"cause": "template", "detail": "x" * 1001}}), ()),
        (said({**ANSWER, "outcome": {"text": "x", "prompt_id": "y"}}), ()),
        (said({**ANSWER, "outcome": {"cause": "because"}}), ()),
        (said(scores(0.5, 0.3, 0.2)), ()),
        (said(ANSWER), LABELS),
        (said(scores(0.5, 0.5)), LABELS),
        (said(scores(0.6, 0.3, 0.2)), LABELS),
        (said(scores(1.5, -0.3, -0.2)), LABELS),
        (said(scores(0.3, 0.5, 0.2)), LABELS),
        (said(scores(math.nan, 0.5, 0.5)), LABELS),
        (said(scores(0.5, 0.3, 0.2, mass=1.5)), LABELS),
        (said(scores(0.5, 0.3, 0.2, mass=None)), LABELS),
        (said(scores(0.5, 0.3, 0.2, label="otra")), LABELS),
        (said(scores(0.5, 0.3, 0.2, source="hard")), LABELS),
        (said({"what": "opened", "info": None, "sealed": True}), ()),
        (said({"what": "call", "conversations": []}), ()),
        (said({"what": "broke", "key": "page.title", "values": {}, "fixable": True, "retryable": True}), ()),
        (said({"what": "broke", "key": "engine.run_failed", "values": {}, "fixable": 1, "retryable": True}), ()),
        (said({"what": "broke", "key": "engine.run_failed", "values": {}, "fixable": False, "retryable": True}), ()),
        ((LONGEST + 1).to_bytes(4, "big"), ()),
        (b"\x00\x00\x00\x02[]", ()),
        (b"\x00\x00\x00\x01\xff", ()),
        (len(b"[" * 100_000).to_bytes(4, "big") + b"[" * 100_000, ()),
    ],
)
def test_what_no_engine_says_is_refused(data: bytes, labels: tuple[str, ...]) -> None:
    with pytest.raises(EngineError) as caught:
        heard(data, labels)
    assert (caught.value.key, caught.value.retryable) == ("engine.bad_reply", False)


def test_a_child_speaks_of_no_other_model() -> None:
    broke = {"what": "broke", "key": "engine.out_of_memory", "values": {"model": "judge"}, "fixable": False}
    with pytest.raises(EngineError) as caught:
        heard(said({**broke, "retryable": True}))
    assert (caught.value.key, caught.value.values["model"]) == ("engine.out_of_memory", "tiny")


def test_half_a_message_is_a_child_that_died() -> None:
    with pytest.raises(EngineError) as caught:
        heard(said(ANSWER)[:-3])
    assert caught.value.key == "engine.child_died"


def test_an_error_of_a_child_steers_no_terminal() -> None:
    values = {"model": "m", "reason": "\x1b[2Jbad", "other": "x"}
    broke = {"what": "broke", "key": "engine.run_failed", "values": values, "fixable": False, "retryable": True}
    with pytest.raises(EngineError) as caught:
        heard(said(broke))
    assert (caught.value.key, caught.value.retryable) == ("engine.run_failed", True)
    assert caught.value.values == {"model": "tiny", "reason": "[2Jbad"}


def opened(**info: Any) -> bytes:
    fields = {"engine": "transformers", "version": "1", "model": "tiny", "dtype": "float32", "device": "cpu", **info}
    return said({"what": "opened", "info": fields, "sealed": True})


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (opened(engine="vllm"), "engine.bad_reply"),
        (opened(model="other"), "engine.bad_reply"),
        (opened(device="x" * 201), "engine.bad_reply"),
        (opened(dtype="\x1b[2J"), "engine.bad_reply"),
        (said(ENDED), "engine.bad_reply"),
        (b"", "engine.child_died"),
    ],
)
def test_a_child_that_is_not_the_engine_asked_for_is_refused(data: bytes, key: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(EngineError) as caught:
            Scripted(ours)._opened()
    assert caught.value.key == key


def test_failures_of_single_conversations_pass_both_checks() -> None:
    failure = Failure(cause="too_long", detail="9 >= 8")
    assert checked_completion(failure, GREEDY) is checked_scores(failure, LABELS) is failure


@given(st.lists(st.floats(-50, 0), min_size=3, max_size=3))
def test_what_engines_say_of_labels_passes_and_is_not_changed_on_the_way(logprobs: list[float]) -> None:
    from eco_eval.engines.labels import label_scores

    total = math.log(math.fsum(map(math.exp, logprobs)))
    found = label_scores(LABELS, [value - max(total, 0.0) for value in logprobs])
    sent = json.dumps({"what": "outcome", "index": 0, "outcome": found.model_dump(mode="json")})
    received = REPLIES.validate_json(sent, strict=True)
    assert checked_scores(received.outcome, LABELS) == found


def test_every_error_that_an_engine_raises_can_come_back() -> None:
    raised: set[Any] = set()
    for file in (REPO / "eco_eval" / "engines").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = getattr(getattr(node, "func", None), "id", "")
            if isinstance(node, ast.Call) and name in ("EngineError", "InputError") and file.name != "child.py":
                key = node.args[0]
                raised.add(key.value if isinstance(key, ast.Constant) else ast.dump(key))
    only_of_endpoints = {"endpoint.bad_url", "endpoint.bad_key"}
    assert raised - only_of_endpoints == set(ERRORS)
    for key, values in ERRORS.items():
        assert {
            place for _, place, _, _ in string.Formatter().parse(catalogue("es")[f"errors.{key}"]) if place
        } <= values


# --- templates that never end


def hostile(tiny_model: Path, folder: Path, template: str) -> Path:
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


SLOW = """{% for m in messages %}{% if 'secreto' in m.content %}
{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}
{% endif %}{{ m.content }}{% endfor %}"""


def test_a_template_that_never_ends_fails_for_its_conversation_alone(tiny_model: Path, tmp_path: Path) -> None:
    with isolated(hostile(tiny_model, tmp_path / "slow", SLOW)) as engine:
        outcomes = dict(engine.complete([*PROMPTS, *conversations("El secreto.")], GREEDY))
    assert isinstance(outcomes[4], Failure)
    assert outcomes[4].cause == "template"
    assert all(isinstance(outcomes[index], Completion) for index in range(4))


STUCK = """{% for m in messages %}{% if 'secreto' in m.content %}
{% set n = (m.content | length) ** (10 ** 9) %}{% endif %}{{ m.content }}{% endfor %}"""


def test_a_template_stuck_in_one_step_ends_the_engine(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sooner = "from eco_eval.engines import host; host.STUCK_SECONDS = 8.0; from eco_eval.engines.host import main"
    monkeypatch.setattr(child, "_HOST", child._HOST.replace("from eco_eval.engines.host import main", sooner))
    with isolated(hostile(tiny_model, tmp_path / "stuck", STUCK), supervise.Limits(8 * 10**9, 60.0)) as engine:
        assert len(list(engine.complete(PROMPTS, GREEDY))) == 4
        started = time.monotonic()
        with pytest.raises(EngineError) as caught:
            list(engine.complete([*PROMPTS, *conversations("El secreto.")], GREEDY))
        assert (caught.value.key, caught.value.retryable) == ("engine.template_limit", False)
        assert time.monotonic() - started < 12


# --- vLLM


@pytest.mark.vllm
def test_vllm_answers_from_a_child_within_the_same_limits(tiny_model: Path, tmp_path: Path) -> None:
    require_vllm()
    model = local(tiny_model, kind="vllm", dtype="float32", vllm_args=("--enforce-eager",))
    (tmp_path / "private").mkdir()
    environ = {**os.environ, **SECRETS, "OMP_NUM_THREADS": "1"}
    with ChildEngine(model, environ=environ, limits=ROOMY, forbidden=(tmp_path / "private",)) as engine:
        running = members(engine)
        assert len(running) >= 5
        same = open_local(local(tiny_model, dtype="float32"), os.environ)
        assert dict(engine.complete(PROMPTS, GREEDY)) == dict(same.complete(PROMPTS, GREEDY))
        expected = dict(same.score_labels(PROMPTS, LABELS, {1}))
        for index, found in engine.score_labels(PROMPTS, LABELS, {1}):
            wanted = expected.pop(index)
            assert isinstance(found, LabelScores)
            assert isinstance(wanted, LabelScores)
            assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-4)
        assert expected == {}
        found_environments = environments(running)
        assert set(found_environments) == running
        assert not any(SECRET in environment for environment in found_environments.values())
        for pid in running - {engine._process.pid}:
            assert "4096 " in Path(f"/proc/{pid}/limits").read_text()
        next(engine.complete(PROMPTS * 50, Decoding(max_tokens=200)))
        started = time.monotonic()
    assert time.monotonic() - started < 15
    assert not running & processes().keys()


@pytest.mark.vllm
def test_a_killed_parent_takes_the_server_of_its_child_with_it(tiny_model: Path) -> None:
    require_vllm()
    with parent_of(tiny_model, "vllm") as parent:
        running = family(parent.pid)
        assert len(running) >= 6
        parent.kill()
        assert wait_until(lambda: not running - {parent.pid} & processes().keys(), 20)
