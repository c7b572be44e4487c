"""What a run takes, by stage: seconds always, energy where CodeCarbon is installed, nothing twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import require
from test_pipeline import MODEL, scripted

from eco_eval.energy import Counter, Meter, meter_of
from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.errors import InputError
from eco_eval.finishing import Spent, provenance
from eco_eval.instrument import Instrument
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.settings import Settings
from eco_eval.store import LocalStore
from eco_eval.types import Energy


def busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.fixture(scope="module")
def counter() -> Counter:
    try:
        return Counter("ESP")
    except ModuleNotFoundError as error:
        require(False, str(error))
        raise


def test_work_draws_energy_and_grams_follow_the_country(counter: Counter) -> None:
    meter = Meter(counter)
    with meter.stage("answer"):
        busy(1.2)
    first = meter.energy["answer"]
    assert first.kwh > 0
    assert first.grams is not None
    assert 50 < first.grams / first.kwh < 500, "grams of CO₂ a kilowatt-hour in Spain"
    with meter.stage("answer"):
        busy(1.2)
    assert meter.energy["answer"].kwh > 1.5 * first.kwh
    assert meter.seconds["answer"] == pytest.approx(2.4, rel=0.5)


def test_without_a_country_there_are_no_grams() -> None:
    meter = Meter(Counter())
    with meter.stage("judge"):
        busy(0.2)
    assert meter.energy["judge"].grams is None
    assert meter.energy["judge"].kwh > 0


def test_an_unknown_country_is_said() -> None:
    with pytest.raises(InputError) as caught:
        meter_of(Settings(country="XQX"))
    assert caught.value.key == "energy.unknown_country"


def test_two_runs_at_once_are_not_counted_twice(counter: Counter) -> None:
    one, two = Meter(counter), Meter(counter)
    with one.stage("answer"), two.stage("answer"):
        busy(0.3)
    assert "answer" in one.energy
    assert "answer" not in two.energy
    assert two.seconds["answer"] > 0.2


def test_what_could_not_be_reckoned_is_left_out_and_the_run_goes_on(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter(counter)
    with monkeypatch.context() as broken:
        broken.setattr(counter._tracker, "stop_task", lambda: None)
        with meter.stage("answer"):
            pass
    assert "answer" in meter.seconds
    assert "answer" not in meter.energy
    counter._tracker.stop_task()
    with monkeypatch.context() as broken:
        broken.setattr(counter._tracker, "start_task", lambda name: 1 / 0)
        with pytest.raises(ZeroDivisionError), meter.stage("answer"):
            pass
    with meter.stage("answer"):
        busy(0.2)
    assert "answer" in meter.energy


def test_what_breaks_is_counted_all_the_same(counter: Counter) -> None:
    meter = Meter(counter)
    with pytest.raises(ZeroDivisionError), meter.stage("answer"):
        raise ZeroDivisionError
    with meter.stage("judge"):
        busy(0.1)
    assert set(meter.energy) == {"answer", "judge"}


def test_a_result_has_what_its_stages_took(demo: Instrument, store: LocalStore, counter: Counter) -> None:
    short, meter = demo.limited(4), Meter(counter)

    @contextmanager
    def slow() -> Iterator[Engine]:
        busy(0.3)
        yield ScriptedEngine(lambda _: "El río es de todos.")

    engines = Engines(candidate=slow, judge=scripted().judge)
    result = evaluate(submit(MODEL, short), short, engines.counted(meter), store, meter=meter)
    assert set(result.provenance.energy) == {"answer", "judge"}
    assert result.provenance.seconds["answer"] >= 0.3
    again = evaluate(submit(MODEL, short), short, engines, store, again="score")
    assert again.provenance.energy == result.provenance.energy
    assert again.provenance.seconds == result.provenance.seconds


def test_a_stage_that_did_more_before_keeps_what_it_took_then() -> None:
    drawn = {stage: Energy(kwh=kwh, measured=False) for stage, kwh in (("answer", 1.0), ("judge", 2.0))}
    kept = provenance(None, Spent({"answer": 10.0, "judge": 1.0}, drawn), {})
    new = {"judge": Energy(kwh=3.0, measured=True)}
    spent = Spent({"answer": 0.1, "judge": 5.0}, new).or_before(kept)
    assert spent.seconds == {"answer": 10.0, "judge": 5.0}
    assert spent.energy == {"answer": drawn["answer"], "judge": new["judge"]}
