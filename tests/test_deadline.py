"""Strangers' code ends in time, in any thread, and nobody else is interrupted."""

from __future__ import annotations

import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from eco_eval.engines.deadline import within


def endless() -> None:
    while True:
        sum(range(10))


def test_what_ends_in_time_is_returned_or_raised() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


def test_an_endless_loop_ends_in_any_thread() -> None:
    def timed(_: int) -> float:
        start = time.perf_counter()
        with pytest.raises(TimeoutError):
            within(0.2, endless)
        return time.perf_counter() - start

    assert timed(0) < 2
    with ThreadPoolExecutor(4) as pool:
        assert all(0.2 <= seconds < 5 for seconds in pool.map(timed, range(8)))


def test_code_that_catches_every_exception_is_ended_too() -> None:
    def stubborn() -> None:
        while True:
            try:
                endless()
            except Exception:  # as Jinja does where it looks for an attribute
                continue

    with pytest.raises(TimeoutError):
        within(0.2, stubborn)


def test_an_interrupt_that_comes_as_the_work_ends_meets_nobody_else() -> None:
    """Work of about its time, with threads that take turns often: the interrupt may be sent when the work is done."""
    before, draw, interrupted = sys.getswitchinterval(), random.Random(0), 0
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(1500):
            end = time.perf_counter() + draw.uniform(0.0005, 0.0015)

            def work(end: float = end) -> None:
                while time.perf_counter() < end:
                    pass

            try:
                within(0.0005, work)
            except TimeoutError:
                interrupted += 1
            for _ in range(100):
                pass
    finally:
        sys.setswitchinterval(before)
    assert 0 < interrupted < 1500


def test_no_thread_stays_behind() -> None:
    before = threading.active_count()
    for _ in range(50):
        within(60, lambda: None)
    time.sleep(0.2)
    assert threading.active_count() <= before + 1
