"""What a worker does with what breaks: again where that may help, given up with the reason where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from test_queue import request

from eco_eval.errors import EcoEvalError, EngineError, InputError, StageError, Superseded
from eco_eval.queue import Failed, Finished, Queue, Request
from eco_eval.types import Progress
from eco_eval.worker import MOST_SQUEEZED, RETRIES, Evaluate, Ran, Worker

OUT_OF_MEMORY = EngineError("engine.out_of_memory", retryable=True, model="m")


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    opened = Queue(f"sqlite:///{tmp_path}/queue.sqlite")
    yield opened
    opened.close()


def run(queue: Queue, evaluate: Evaluate) -> None:
    one = request(1)
    queue.submit(one)
    worker = Worker(queue, evaluate, pause=0.001)
    taken, generation = queue.take(one.id, 1, worker.name)
    worker._finish(taken, generation)


def whats(queue: Queue) -> list[str]:
    return [event.what for event in queue.events(request(1).id)]


def raising(*errors: EcoEvalError | None) -> tuple[Evaluate, list[dict[str, int]]]:
    """A run that raises these in turn, then comes to its end; and how squeezed it was each time."""
    left: list[EcoEvalError | None] = list(errors)
    seen: list[dict[str, int]] = []

    def evaluate(one: Request, progress: Progress, squeezed: Mapping[str, int]) -> Ran:
        seen.append(dict(squeezed))
        progress("answer", 0, 2)
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return Ran(one.id, published=True)

    return evaluate, seen


def test_out_of_memory_is_tried_again_with_smaller_batches(queue: Queue) -> None:
    evaluate, seen = raising(OUT_OF_MEMORY, EngineError("engine.memory_limit", model="m", limit=1))
    run(queue, evaluate)
    assert seen == [{}, {"m": 1}, {"m": 2}]
    assert queue.get(request(1).id).state == Finished(result=request(1).id, published=True)
    assert whats(queue) == ["asked", "taken", "again", "again", "finished"]


def test_only_the_model_that_ran_out_of_memory_is_squeezed(queue: Queue) -> None:
    evaluate, seen = raising(OUT_OF_MEMORY, *[EngineError("engine.out_of_memory", model="judge")] * 2)
    run(queue, evaluate)
    assert seen == [{}, {"m": 1}, {"m": 1, "judge": 1}, {"m": 1, "judge": 2}]
    assert isinstance(queue.get(request(1).id).state, Finished)


def test_out_of_memory_to_the_last_is_given_up_with_that_reason(queue: Queue) -> None:
    evaluate, seen = raising(*[OUT_OF_MEMORY] * 9)
    run(queue, evaluate)
    assert [one.get("m", 0) for one in seen] == list(range(MOST_SQUEEZED + 1))
    state = queue.get(request(1).id).state
    assert isinstance(state, Failed)
    assert (state.stage, state.key) == ("answer", "engine.out_of_memory")
    assert queue.failures() == {"engine.out_of_memory": 1}


def test_a_passing_cause_is_tried_again_and_then_given_up(queue: Queue) -> None:
    away = EngineError("hub.unreachable", retryable=True, model="m", reason="x")
    evaluate, seen = raising(*[away] * 9)
    run(queue, evaluate)
    assert seen == [{}] * (RETRIES + 1)
    state = queue.get(request(1).id).state
    assert isinstance(state, Failed)
    assert state.key == "hub.unreachable"


@pytest.mark.parametrize(
    "error",
    [EngineError("engine.time_limit", model="m", limit=1), InputError("model.pickle", model="m", file="x")],
    ids=["time", "refused"],
)
def test_what_trying_again_cannot_help_is_given_up_at_once(queue: Queue, error: EcoEvalError) -> None:
    evaluate, seen = raising(error)
    run(queue, evaluate)
    assert seen == [{}]
    assert isinstance(queue.get(request(1).id).state, Failed)


def test_how_long_each_stage_took_is_kept(queue: Queue) -> None:
    def evaluate(one: Request, progress: Progress, squeezed: Mapping[str, int]) -> Ran:
        for stage in ("check", "answer", "judge"):
            progress(stage, 0, 1)
        return Ran(one.id)

    run(queue, evaluate)
    assert {stage: count for stage, (count, _) in queue.stage_seconds().items()} == {
        "check": 1,
        "answer": 1,
        "judge": 1,
    }


def test_a_bug_is_a_failure_with_its_type_and_is_raised(queue: Queue) -> None:
    def evaluate(one: Request, progress: Progress, squeezed: Mapping[str, int]) -> Ran:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        run(queue, evaluate)
    state = queue.get(request(1).id).state
    assert isinstance(state, Failed)
    assert (state.key, state.values["reason"]) == ("queue.internal", "ZeroDivisionError: a bug")


@pytest.mark.parametrize("stop", [Queue.cancel, Queue.withdraw])
def test_who_is_stopped_drops_what_it_does(queue: Queue, stop: Callable[..., object]) -> None:
    def evaluate(one: Request, progress: Progress, squeezed: Mapping[str, int]) -> Ran:
        stop(queue, one.id, one.user)
        progress("answer", 0, 1)
        raise AssertionError("it went on")

    with pytest.raises(Superseded):
        run(queue, evaluate)
    assert queue.get(request(1).id).state.state in ("cancelled", "withdrawn")


def test_errors_that_are_tried_again_are_told_as_they_are(queue: Queue) -> None:
    evaluate, _ = raising(StageError("vllm.died", retryable=True, model="m", reason="signal 11", log=""))
    run(queue, evaluate)
    again = next(event for event in queue.events(request(1).id) if event.what == "again")
    assert "vllm.died" in again.detail
    assert "answer" in again.detail
