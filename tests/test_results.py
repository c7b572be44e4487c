"""A result that is taken back leaves the board and nothing else."""

from __future__ import annotations

from test_pipeline import MODEL, scripted

from eco_eval.board import build
from eco_eval.instrument import Instrument
from eco_eval.pipeline import evaluate, submit
from eco_eval.results import details, load_results, read_result, restore_result, withdraw_result
from eco_eval.store import LocalStore
from eco_eval.store.index import load_results_indexed, rebuild_index
from eco_eval.types import Grade, Graded


def test_a_withdrawn_result_leaves_the_board_and_can_come_back(demo: Instrument, store: LocalStore) -> None:
    short = demo.limited(4)
    result = evaluate(submit(MODEL, short), short, scripted(), store)
    everything = load_results(store)[0]
    withdraw_result(store, result.id, "local:ana")
    rebuild_index(store)
    for load in (load_results, load_results_indexed):
        left = load(store)[0]
        assert [one.id for one in everything if one not in left] == [result.id]
        assert [row.name for section in build(left).sections for row in section.models] == []
    assert load_results(store, withdrawn=True)[0] == everything
    assert read_result(store, result.id) == result
    restore_result(store, result.id)
    restore_result(store, result.id)
    assert load_results(store)[0] == everything


def test_the_verdicts_of_a_withdrawn_result_are_not_taken_for_unused(demo: Instrument, store: LocalStore) -> None:
    short = demo.limited(4)
    other = short.model_copy(update={"score": short.score.model_copy(update={"max_ungraded": 0.5})})
    evaluate(submit(MODEL, short), short, scripted(), store)
    second = evaluate(submit(MODEL, other), other, scripted(), store)
    withdraw_result(store, second.id, "local:ana")
    bad = scripted(label=lambda c, labels: [0, 0, 1])
    evaluate(submit(MODEL, short), short, bad, store, again="judge")
    assert {j.grade for _, (j,) in details(store, second) if isinstance(j, Graded)} == {Grade.GOOD}
