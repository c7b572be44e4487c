"""How long each stage held a model, and what the machine drew meanwhile.

CodeCarbon does the reckoning, offline (https://github.com/mlco2/codecarbon). It counts the whole machine: on one that
does other things as well, their part is in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

from eco_eval.engines.base import Engine, OpenEngine
from eco_eval.errors import InputError
from eco_eval.settings import Settings
from eco_eval.types import Energy


class Meter:
    """Seconds and energy of one run by stage, counted while a model is on the device.

    Args:
        counter: what reckons energy; None where nothing does.
    """

    def __init__(self, counter: Counter | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.energy: dict[str, Energy] = {}
        self._counter = counter

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What passes inside counts for a stage."""
        started = time.monotonic()
        mark = self._counter.start() if self._counter is not None else None
        try:
            yield
        finally:
            self._add(name, time.monotonic() - started)
            if self._counter is not None and mark is not None:
                drawn = self._counter.stop(mark)
                if drawn is not None:
                    self._draw(name, drawn)

    def around(self, stage: str, opener: OpenEngine) -> OpenEngine:
        """The same engine; while it is open counts for a stage."""

        @contextmanager
        def opened() -> Iterator[Engine]:
            with self.stage(stage), opener() as engine:
                yield engine

        return opened

    def _add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + seconds, 3)

    def _draw(self, stage: str, drawn: Energy) -> None:
        before = self.energy.get(stage)
        if before is not None:
            grams = None if before.grams is None or drawn.grams is None else before.grams + drawn.grams
            drawn = drawn.model_copy(update={"kwh": before.kwh + drawn.kwh, "grams": grams})
        self.energy[stage] = drawn


class Counter:
    """CodeCarbon for this process.

    Args:
        country: three letters (ISO 3166-1), for the CO₂ of its electricity; None for energy alone.

    Raises:
        InputError: a country CodeCarbon does not know.
    """

    def __init__(self, country: str | None = None) -> None:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.external.logger import set_logger_level
        from codecarbon.input import DataSource

        set_logger_level("critical")
        if country is not None and country not in DataSource().get_global_energy_mix_data():
            raise InputError("energy.unknown_country", country=country)
        self._country = country
        self._lock = threading.Lock()
        self._tracker: Any = OfflineEmissionsTracker(
            # It insists on a country; without one of ours the grams are not used.
            country_iso_code=country or "ESP",
            save_to_file=False,
            save_to_logger=False,
            allow_multiple_runs=True,
            log_level="critical",
        )

    def start(self) -> object | None:
        """Begin to count; None while somebody else of this process does: nothing is counted twice."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            self._tracker.start_task("stage")
        except BaseException:
            self._lock.release()
            raise
        return self

    def stop(self, _mark: object) -> Energy | None:
        """What was drawn since `start`; None where it was not reckoned."""
        try:
            found = self._tracker.stop_task()
        finally:
            self._lock.release()
        if found is None:
            return None
        return Energy(
            kwh=found.energy_consumed,
            # It says how it reckons nowhere else.
            measured=any(getattr(part, "_mode", "").startswith("intel_") for part in self._tracker._hardware),
            grams=found.emissions * 1000 if self._country is not None else None,
        )


def meter_of(settings: Settings) -> Meter:
    """A meter for one run; it counts energy where CodeCarbon is installed.

    Raises:
        InputError: as `Counter`.
    """
    return Meter(_counter(settings.country) if find_spec("codecarbon") else None)


@cache
def _counter(country: str | None) -> Counter:
    return Counter(country)
