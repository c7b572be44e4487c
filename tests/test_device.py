"""One model on the device at a time, a judge loaded once for all runs in hand, nobody kept waiting for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_eval.device import Device
from eco_eval.engines.base import Engine, OpenEngine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.errors import EngineError


class Machine:
    """Counts what is loaded, and never lets two models be."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.now = 0
        self._lock = threading.Lock()

    def opener(self, name: str, breaks: bool = False) -> OpenEngine:
        @contextmanager
        def opened() -> Iterator[Engine]:
            with self._lock:
                self.now += 1
                assert self.now == 1, "two models at once"
                self.loaded.append(name)
            try:
                if breaks:
                    raise EngineError("engine.load_failed", model=name, reason="x")
                yield ScriptedEngine(lambda _: "")
            finally:
                with self._lock:
                    self.now -= 1

        return opened


def no_wait() -> None:
    """Nothing to look after while waiting."""


def go(device: Device, machine: Machine, number: int, judges: tuple[str, ...], before: float = 0.0) -> None:
    with device.run() as run:
        time.sleep(before)
        with device.candidate(run, machine.opener(f"candidate-{number}"), no_wait)():
            time.sleep(0.01)
        for judge in judges:
            with device.judge(run, judge, machine.opener(judge), no_wait)():
                time.sleep(0.01)


def test_a_judge_is_loaded_once_for_all_runs_in_hand() -> None:
    device, machine = Device(), Machine()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: go(device, machine, n, ("judge",), before=0.05 * n), range(4)))
    assert sorted(machine.loaded[:4]) == [f"candidate-{n}" for n in range(4)]
    assert machine.loaded[4:] == ["judge"]
    assert machine.now == 0


def test_each_judge_of_a_panel_is_loaded_once() -> None:
    device, machine = Device(), Machine()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: go(device, machine, n, ("one", "two")), range(3)))
    assert machine.loaded[3:] == ["one", "two"]
    assert machine.now == 0


def test_a_run_that_takes_long_before_its_answers_is_not_waited_for_for_ever() -> None:
    device, machine = Device(patience=0.3), Machine()
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(go, device, machine, 1, ("judge",), 1.5)
        time.sleep(0.05)
        go(device, machine, 2, ("judge",))
        assert not slow.done()
        assert machine.loaded == ["candidate-2", "judge"]
        assert machine.now == 0
        slow.result()
    assert machine.loaded == ["candidate-2", "judge", "candidate-1", "judge"]


def test_a_judge_that_broke_is_opened_anew_for_the_next() -> None:
    device, machine = Device(), Machine()

    def breaking() -> None:
        with device.run() as run, device.judge(run, "judge", machine.opener("judge"), no_wait)():
            time.sleep(0.2)
            raise EngineError("vllm.died", model="judge")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(breaking)
        time.sleep(0.05)
        second = pool.submit(go, device, machine, 2, ("judge",))
        second.result()
        with pytest.raises(EngineError):
            first.result()
    assert machine.loaded.count("judge") == 2
    assert machine.now == 0


def test_a_judge_that_broke_after_serving_others_may_be_tried_again() -> None:
    device, machine = Device(), Machine()
    # The judge stays loaded for whoever waits, so the second finds one that has served.
    broken: list[EngineError] = []

    def breaking(number: int) -> None:
        with device.run() as run:
            try:
                with device.judge(run, "judge", machine.opener("judge"), no_wait)():
                    time.sleep(0.2)
                    if number:
                        raise EngineError("engine.time_limit", model="judge", limit=1)
            except EngineError as error:
                broken.append(error)

    with ThreadPoolExecutor(3) as pool:
        for number in range(2):
            pool.submit(breaking, number)
            time.sleep(0.05)
    assert machine.loaded == ["judge"]
    assert [error.retryable for error in broken] == [True]
    breaking(1)
    assert [error.retryable for error in broken] == [True, False]


def test_a_judge_that_stayed_for_a_run_that_was_stopped_does_not_stay_for_ever() -> None:
    device, machine = Device(), Machine()
    asked = threading.Event()

    @contextmanager
    def stopped() -> Iterator[None]:
        raise Stopped
        yield

    class Stopped(BaseException):
        pass

    def second() -> None:
        with (
            suppress(Stopped),
            device.run() as run,
            device.judge(run, "judge", machine.opener("judge"), asked.set, stopped)(),
        ):
            pass

    with ThreadPoolExecutor(1) as pool, device.run() as first:
        with device.judge(first, "judge", machine.opener("judge"), no_wait)():
            other = pool.submit(second)
            assert asked.wait(5), "it waits for the judge"
        other.result()
    assert machine.loaded == ["judge"]
    assert machine.now == 0


def test_who_is_stopped_while_waiting_gives_its_place_up() -> None:
    device, machine = Device(), Machine()

    class Stop(BaseException):
        pass

    def stop() -> None:
        raise Stop

    with device.run() as first, device.candidate(first, machine.opener("one"), no_wait)(), device.run() as second:
        asked = device.candidate(second, machine.opener("two"), stop)
        with pytest.raises(Stop), asked():
            pass
    go(device, machine, 3, ("judge",))
    assert machine.loaded == ["one", "candidate-3", "judge"]


def test_a_model_that_cannot_be_loaded_leaves_the_device_free() -> None:
    device, machine = Device(), Machine()
    with device.run() as run:
        for opener in (
            device.candidate(run, machine.opener("one", breaks=True), no_wait),
            device.judge(run, "judge", machine.opener("judge", breaks=True), no_wait),
        ):
            with pytest.raises(EngineError), opener():
                pass
    go(device, machine, 2, ("judge",))
    assert machine.now == 0


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from("abc"), max_size=3, unique=True), st.floats(0, 0.05)),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_is_asked_everybody_comes_to_an_end(runs: list[Any]) -> None:
    device, machine = Device(patience=0.5), Machine()
    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(lambda n: go(device, machine, n, tuple(runs[n][0]), runs[n][1]), range(len(runs))))
    assert machine.now == 0
    assert sum(name.startswith("candidate") for name in machine.loaded) == len(runs)
