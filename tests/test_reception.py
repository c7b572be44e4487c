"""What a stranger sent becomes a request, or a reason why not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hub import LocalHub
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_intake import MODEL

from eco_eval.errors import EcoEvalError, InputError, SubmissionRejected
from eco_eval.queue import Finished, Pending, Queue, WorkerAbout
from eco_eval.reception import (
    DTYPES,
    ENGINES,
    LONGEST_PROMPT,
    Kept,
    Reception,
    choice,
    clean_name,
    clean_prompt,
    expected_wait,
)
from eco_eval.settings import Settings
from eco_eval.store import LocalStore

DEMO = "eco-es-demo"
ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.lists(st.text())


# --- what is sent


@pytest.mark.parametrize("sent", ["a/b", " a/b ", "https://huggingface.co/a/b", "https://huggingface.co/a/b/", "a/b\n"])
def test_a_name_is_cleaned(sent: str) -> None:
    assert clean_name(sent) == "a/b"


def outcome(act: Callable[[], Any]) -> Any:
    """What comes of it, or the error."""
    try:
        return act()
    except EcoEvalError as error:
        return error


@hypothesis_settings(deadline=None)
@given(ANYTHING)
def test_whatever_is_sent_as_a_name_is_one_or_is_refused(sent: object) -> None:
    found = outcome(lambda: clean_name(sent))
    if isinstance(found, SubmissionRejected):
        assert found.key in ("model.not_found", "model.not_ascii")
        assert len(str(found.values["model"])) < 500
    else:
        assert found.isascii()
        assert found.count("/") >= 1
        assert ".." not in found


@hypothesis_settings(deadline=None)
@given(ANYTHING)
def test_whatever_is_sent_as_a_system_prompt_is_text_or_is_refused(sent: object) -> None:
    found = outcome(lambda: clean_prompt(sent))
    if isinstance(found, InputError):
        assert found.key in ("reception.bad_text", "reception.long_prompt")
    elif found is not None:
        assert found == found.strip()
        assert 0 < len(found) <= LONGEST_PROMPT
        assert "\0" not in found
        found.encode()


def test_a_system_prompt_keeps_its_lines() -> None:
    assert clean_prompt(" Eres amable.\r\n\tY breve. ") == "Eres amable.\n\tY breve."
    assert clean_prompt("   ") is None
    assert clean_prompt("ñ" * LONGEST_PROMPT) == "ñ" * LONGEST_PROMPT
    with pytest.raises(InputError, match="long_prompt"):
        clean_prompt("ñ" * (LONGEST_PROMPT + 1))


@given(ANYTHING)
def test_a_choice_is_one_of_those_there_are(sent: object) -> None:
    found = outcome(lambda: choice("engine", sent, ENGINES))
    if isinstance(found, InputError):
        assert found.key == "reception.bad_choice"
        assert sent not in ENGINES
    else:
        assert found in ENGINES


# --- the wait


def test_the_wait_is_reckoned_from_what_was_run_and_is_not_made_up() -> None:
    assert expected_wait(3, {}, 2) is None
    stages = {"answer": (4, 400.0), "judge": (2, 100.0)}
    assert expected_wait(1, stages, 1) == 125.0
    assert expected_wait(4, stages, 1) == 500.0
    assert expected_wait(4, stages, 2) == 250.0
    assert expected_wait(4, stages, 0) == 500.0


# --- what is kept


def test_what_was_found_is_kept_for_a_while_and_not_for_ever() -> None:
    kept: Kept[int] = Kept(seconds=0.05, most=2)
    found: list[str] = []

    def find(name: str) -> int:
        return kept.get(name, lambda: (found.append(name), len(found))[1])

    assert [find(name) for name in "aaba"] == [1, 1, 2, 1]
    assert find("c") == 3  # and `b`, asked for longest ago, is out
    assert [find(name) for name in "ab"] == [1, 4]
    time.sleep(0.06)
    assert find("b") == 5


def test_what_could_not_be_found_is_looked_for_again() -> None:
    kept: Kept[int] = Kept()

    def fail() -> int:
        raise InputError("queue.full", allowed=1)

    with pytest.raises(InputError):
        kept.get("a", fail)
    assert kept.get("a", lambda: 7) == 7


# --- examining and asking, with the real client and a stand-in Hub


@pytest.fixture
def place(tmp_path: Path, tiny_judge: Path) -> Path:
    shutil.copytree(tiny_judge, tmp_path / "cache" / "models" / "demo-judge")
    return tmp_path


def reception_at(place: Path, **more: Any) -> Reception:
    return Reception(Settings(data_dir=place / "data", cache_dir=place / "cache", **more))


def told(act: Callable[[], Any]) -> Any:
    """What comes of it, or the error's key: errors with values do not travel between processes."""
    found = outcome(act)
    return found.key if isinstance(found, EcoEvalError) else found


def examine_twice(place: Path, name: str) -> Any:
    """The same model twice from one reception, and once from another."""
    one = reception_at(place)
    wanted = one.wanted(DEMO, "vllm", "auto", "")
    first, again = (told(lambda: one.examine(name, wanted)) for _ in range(2))
    return first, again, told(lambda: reception_at(place).examine(name, wanted))


def test_what_was_examined_is_not_looked_up_again_for_a_while(
    hub: LocalHub, client: Callable[..., Any], place: Path
) -> None:
    old = hub.add("vecina/mudable", "model", MODEL)
    before = len(hub.requests)
    first, again, _ = client(examine_twice, place, "vecina/mudable")
    assert first == again
    assert first.submission.model.revision == old
    looked = [path for path in hub.requests[before:] if path == "GET /api/models/vecina/mudable"]
    assert len(looked) == 2  # one for each reception
    new = hub.add("vecina/mudable", "model", {"README.md": b"otra"})
    _, _, fresh = client(examine_twice, place, "vecina/mudable")
    assert fresh.submission.model.revision == new


def examine_with_workers(place: Path, name: str, sizes: tuple[int | None, ...]) -> Any:
    reception = reception_at(place)
    for number, size in enumerate(sizes):
        about = WorkerAbout(device="cuda", max_bytes=size, engines=("vllm",), version="0")
        reception.queue().beat(f"w{number}", about)
    found = told(lambda: reception.examine(name, reception.wanted(DEMO, "vllm", "auto", "")))
    for number in range(len(sizes)):
        reception.queue().leave(f"w{number}")
    reception.close()
    return found if isinstance(found, str) else "fits"


def test_a_model_no_worker_could_take_is_refused_before_it_waits(
    hub: LocalHub, client: Callable[..., Any], place: Path
) -> None:
    hub.add("vecina/rio", "model", MODEL)
    for sizes, expected in (((), "fits"), ((10, 20), "model.too_large"), ((10, 10**9), "fits"), ((10, None), "fits")):
        assert client(examine_with_workers, place, "vecina/rio", sizes) == expected, sizes


def ask_in_parallel(place: Path, names: list[str], user: str) -> list[str]:
    reception = reception_at(place, per_user=2)
    wanted = reception.wanted(DEMO, "vllm", "auto", "")

    def ask(name: str) -> str:
        found = told(lambda: reception.ask(reception.examine(name, wanted), user))
        return found if isinstance(found, str) else "new" if found.is_new else "known"

    with ThreadPoolExecutor(6) as pool:
        return list(pool.map(ask, names))


def test_many_at_once_are_held_to_the_quota_and_one_model_is_one_request(
    hub: LocalHub, client: Callable[..., Any], place: Path
) -> None:
    for name in ("a/uno", "a/dos", "a/tres"):
        hub.add(name, "model", MODEL)
    same = client(
        ask_in_parallel, place, ["a/uno", "a/uno@main", " a/uno", "https://huggingface.co/a/uno"] * 3, "hub:x"
    )
    assert sorted(set(same)) == ["known", "new"]
    assert same.count("new") == 1
    more = client(ask_in_parallel, place, ["a/dos", "a/tres"] * 3, "hub:x")
    assert more.count("new") == 1
    assert "queue.user_quota" in more
    queue = Queue(f"sqlite:///{place / 'data' / '.queue.sqlite'}")
    entries = queue.entries(user="hub:x")
    queue.close()
    assert len(entries) == 2
    assert {type(entry.state) for entry in entries} == {Pending}
    assert all(entry.request.weights is not None and entry.request.weights.parameters > 0 for entry in entries)


def withdraw_finished(place: Path, name: str) -> Any:
    reception = reception_at(place)
    wanted = reception.wanted(DEMO, "vllm", "auto", "")
    entry = reception.ask(reception.examine(name, wanted), "hub:x").entry
    _, number = reception.queue().take(entry.request.id, 1, "w")
    reception.queue().finish(entry.request.id, number, entry.request.id)
    store = LocalStore(place / "data")
    store.write(f"results/{entry.request.id}.json", b"{}")
    assert isinstance(reception.queue().get(entry.request.id).state, Finished)
    other = told(lambda: reception.withdraw(entry.request.id, "hub:y"))
    before = store.list("withdrawn/")
    reception.withdraw(entry.request.id, "hub:x")
    return entry.request.id, other, before, store.list("withdrawn/")


def test_who_asked_takes_a_result_off_the_board_and_nobody_else(
    hub: LocalHub, client: Callable[..., Any], place: Path
) -> None:
    hub.add("a/uno", "model", MODEL)
    request_id, other, before, after = client(withdraw_finished, place, "a/uno")
    assert (other, before) == ("queue.not_yours", [])
    assert after == [f"withdrawn/{request_id}.json"]


def test_only_instruments_that_can_be_asked_for_are_offered(place: Path, tmp_path: Path) -> None:
    assert DEMO in reception_at(place).instruments()
    bare = Reception(Settings(data_dir=tmp_path / "x", cache_dir=tmp_path / "y"))
    assert DEMO not in bare.instruments()  # its judge was not trained here
    assert "eco-es-v1" in bare.instruments()
    assert "h4rmony-es-v1" not in bare.instruments()  # its prompts were not built here
    for name in (DEMO, "../eco-es-v1", "/etc/x.toml"):
        with pytest.raises(InputError, match="bad_choice"):
            bare.wanted(name, ENGINES[0], DTYPES[0], "")
