"""Requests run on this machine with real models in child processes: what is kept, shared, refused, published."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hub import LocalHub
from tiny import make_tiny_model

from eco_eval import opening, running
from eco_eval.candidates import Intake, resolve
from eco_eval.engines import Engine, open_engine
from eco_eval.errors import InputError, StageError, SubmissionRejected
from eco_eval.instrument import Instrument, load_instrument
from eco_eval.queue import Request
from eco_eval.results import load_results, read_result, withdraw_result
from eco_eval.running import Runner
from eco_eval.settings import Settings
from eco_eval.store import LocalStore
from eco_eval.store.hub import HubStore
from eco_eval.submitting import resolve_judges, submit
from eco_eval.types import ModelRef, no_progress
from eco_eval.worker import Ran

TOKEN = "hf_local"
Opened = list[tuple[str, int | None, bool]]


def instrument() -> Instrument:
    """The demo's, short, with a judge at random that need not stick to its labels."""
    loaded = load_instrument("eco-es-demo")
    judge = loaded.judge.model_copy(update={"min_label_mass": 0.0})
    brief = loaded.answer.model_copy(update={"max_tokens": 8})
    return loaded.model_copy(update={"judge": judge, "answer": brief}).limited(3)


@pytest.fixture
def settings(tmp_path: Path, tiny_judge: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    shutil.copytree(tiny_judge, tmp_path / "cache" / "models" / "demo-judge")
    monkeypatch.setattr(running, "load_instrument", lambda name, built: instrument())
    return Settings(
        data_dir=tmp_path / "data", cache_dir=tmp_path / "cache", private_dir=tmp_path / "private", hub_token=None
    )


@pytest.fixture
def children() -> None:
    """Asks for child processes where the run does; without it models are opened here, which is quicker."""


@pytest.fixture
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Which models were to be opened, how many conversations at once, and whether in a child process."""
    seen: Opened = []

    @contextmanager
    def noting(kind: Any, model: ModelRef, *rest: Any, **more: Any) -> Iterator[Engine]:
        seen.append((model.name, more["batch_size"], more["isolated"]))
        isolated = more["isolated"] and "children" in request.fixturenames
        with open_engine(kind, model, *rest, **{**more, "isolated": isolated}) as engine:
            yield engine

    monkeypatch.setattr(opening, "open_engine", noting)
    return seen


def asking(folder: Path, settings: Settings, user: str = "local:ana") -> Request:
    measure, _ = resolve_judges(instrument(), settings)
    return Request(
        submission=submit(resolve(str(folder)), measure), user=user, engine="transformers", folder=str(folder)
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = tmp_path_factory.mktemp("candidates")
    return [make_tiny_model(made / f"candidate-{seed}", seed=seed, context=512) for seed in (3, 4)]


def test_runs_in_hand_share_their_judge(
    folders: list[Path], settings: Settings, opened: Opened, children: None
) -> None:
    runner, together, stages = Runner(settings), threading.Barrier(2), []

    def go(folder: Path) -> Ran:
        one = asking(folder, settings)
        together.wait()
        return runner(one, lambda stage, done, total: stages.append((folder.name, stage)), {})

    with ThreadPoolExecutor(2) as pool:
        ran = list(pool.map(go, folders))
    assert sorted(name for name, _, _ in opened[:2]) == [folder.name for folder in folders]
    assert opened[2:] == [("demo-judge", None, True)]
    assert all(isolated for _, _, isolated in opened)
    store = LocalStore(settings.data_dir)
    for folder, (result_id, published) in zip(folders, ran, strict=True):
        result = read_result(store, result_id)
        assert result is not None
        assert published is None
        assert result.submission.model.name == folder.name
        assert set(result.provenance.seconds) == {"answer", "judge"}
        assert result.provenance.seconds["answer"] > 0
        own = list(dict.fromkeys(stage for name, stage in stages if name == folder.name and stage != "wait"))
        assert own == ["check", "answer", "load", "judge"]
        assert any(stage == "wait" for name, stage in stages)


def test_a_model_that_was_out_of_memory_has_smaller_batches(
    folders: list[Path], settings: Settings, opened: Opened
) -> None:
    Runner(settings)(asking(folders[0], settings), no_progress, {folders[0].name: 2})
    assert [batch for _, batch, _ in opened] == [1, None]
    Runner(settings)(asking(folders[1], settings), no_progress, {"demo-judge": 1})
    assert [batch for _, batch, _ in opened[2:]] == [None, 4]


def test_a_folder_with_other_weights_than_asked_for_is_refused(
    folders: list[Path], settings: Settings, tmp_path: Path, opened: Opened
) -> None:
    folder = Path(shutil.copytree(folders[0], tmp_path / "moving"))
    asked = asking(folder, settings)
    shutil.copyfile(folders[1] / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(StageError) as caught:
        Runner(settings)(asked, no_progress, {})
    assert caught.value.key == "queue.other_weights"
    assert opened == []


def test_a_path_is_refused_to_strangers(folders: list[Path], settings: Settings, opened: Opened) -> None:
    with pytest.raises(SubmissionRejected) as caught:
        Runner(settings)(asking(folders[0], settings, user="hub:luz"), no_progress, {})
    assert caught.value.key == "model.not_found"
    assert opened == []


def test_what_does_not_fit_is_refused_before_it_is_loaded(
    folders: list[Path], settings: Settings, monkeypatch: pytest.MonkeyPatch, opened: Opened
) -> None:
    monkeypatch.setattr("eco_eval.machine.SHARE", 1e-9)
    with pytest.raises(SubmissionRejected) as caught:
        Runner(settings)(asking(folders[0], settings), no_progress, {})
    assert caught.value.key == "model.too_large"
    assert opened == []


def test_a_run_waits_for_room_on_the_disk_that_others_hold(
    folders: list[Path], settings: Settings, monkeypatch: pytest.MonkeyPatch, opened: Opened
) -> None:
    """Room for one at a time: the second is not refused."""

    def one_at_a_time(intake: Intake, cache: Path, in_use: Collection[str], promised: int) -> int:
        if in_use:
            raise SubmissionRejected("model.no_disk", model=intake.name, missing=1)
        return 10

    monkeypatch.setattr(running, "make_room", one_at_a_time)
    runner, waited = Runner(settings), threading.Event()

    def first(stage: str, done: int, total: int) -> None:
        assert stage != "answer" or done or waited.wait(30), "nobody waited"

    def second(stage: str, done: int, total: int) -> None:
        if stage == "wait":
            waited.set()

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(runner, asking(folders[0], settings), first, {})
        while not runner._in_use and not one.done():
            time.sleep(0.01)
        two = pool.submit(runner, asking(folders[1], settings), second, {})
        assert one.result().result != two.result().result
    assert not runner._in_use
    assert runner._promised == 0


def test_an_unknown_country_is_said_before_anything_runs(settings: Settings) -> None:
    with pytest.raises(InputError) as caught:
        Runner(settings.model_copy(update={"country": "XQX"}))
    assert caught.value.key == "energy.unknown_country"


def test_asked_again_a_withdrawn_result_is_back_on_the_board(
    folders: list[Path], settings: Settings, opened: Opened
) -> None:
    runner, asked = Runner(settings), asking(folders[0], settings)
    result_id = runner(asked, no_progress, {}).result
    store = LocalStore(settings.data_dir)
    withdraw_result(store, result_id, "local:ana")
    assert result_id not in [one.id for one in load_results(store)[0]]
    assert runner(asked, no_progress, {}).result == result_id
    assert result_id in [one.id for one in load_results(store)[0]]
    assert len(opened) == 2


def _publish(folder: Path, settings: Settings) -> list[Any]:
    """In the process that knows the hub: twice, and once more by a service that has lost its disk."""
    running.load_instrument = lambda name, built: instrument()
    asked, stages = asking(folder, settings), []
    board = HubStore(settings.hub_repo or "", token=TOKEN, cache=settings.cache_dir / "board", ttl=0)
    found: list[Any] = []
    for change in ({"publish": "publishable"}, {}, {"data_dir": settings.data_dir / "lost"}):
        stages.append("-")
        ran = Runner(settings.model_copy(update=change))(asked, lambda stage, *_: stages.append(stage), {})
        found.append((ran.published, [one.id for one in load_results(board)[0] if not one.is_anchor]))
    withdraw_result(board, asked.id, "ana")
    gone = [one.id for one in load_results(board)[0] if not one.is_anchor]
    Runner(settings)(asked, no_progress, {})
    return [asked.id, found, gone, [one.id for one in load_results(board)[0] if not one.is_anchor], stages]


def test_results_go_to_the_hub_as_the_settings_say(
    folders: list[Path], settings: Settings, hub: LocalHub, client: Callable[..., Any]
) -> None:
    hub.add("owner/board", "dataset", {})
    told = settings.model_copy(update={"hub_repo": "owner/board", "hub_token": TOKEN, "publish": "all"})
    result_id, found, gone, back, stages = client(_publish, folders[0], told)
    assert found == [(False, []), (True, [result_id]), (True, [result_id])]
    assert gone == []
    assert back == [result_id]
    assert "load" in stages
    assert "load" not in stages[stages.index("-", 1) :]


def test_a_worker_that_could_never_publish_says_so_before_it_evaluates(settings: Settings) -> None:
    with pytest.raises(InputError) as caught:
        Runner(settings.model_copy(update={"hub_repo": "owner/board"}))
    assert caught.value.key == "publish.no_board"
