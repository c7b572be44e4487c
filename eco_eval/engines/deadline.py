"""A limit of time for Python code that is not ours, in any thread."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


class _Overdue(BaseException):
    """Raised within the work; not an `Exception`, which Jinja's own code would catch."""


def within(seconds: float, work: Callable[[], _T]) -> _T:
    """What `work()` returns, if it returns in time.

    The work is ended between two steps of Python (`PyThreadState_SetAsyncExc`), so that loops and recursion end
    wherever they run, where an alarm signal would need the main thread. It does not end what is one step to Python,
    such as a number of a billion digits, and limits no memory: the limits of the process do.

    Raises:
        TimeoutError: it did not return in time. What the work raises is raised.
    """
    thread = ctypes.c_ulong(threading.get_ident())
    turn, ended = threading.Lock(), threading.Event()

    def interrupt() -> None:
        with turn:
            if not ended.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_Overdue))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    try:
        try:
            timer.start()
            return work()
        finally:
            with turn:
                ended.set()
            # The interrupt may have been sent just before: nobody else must meet it.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)
    except _Overdue:
        raise TimeoutError(f"not done within {seconds:g} s") from None
    finally:
        timer.cancel()
