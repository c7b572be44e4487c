"""The whole flow with real engines, killed and resumed, and again with nothing left to do."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO

from eco_eval.candidates import resolve
from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.engines.transformers import TransformersEngine
from eco_eval.errors import EngineError, StoreError, TooManyUngraded
from eco_eval.instrument import Instrument, load_instrument
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.results import details, load_results, read_result
from eco_eval.store import LocalStore
from eco_eval.types import Failure, Grade, Graded, ModelRef, Result, Submission

MODEL = ModelRef(name="owner/model", source="hub", revision="a" * 40)


def scripted(answer: Any = lambda c: "El río es de todos.", label: Any = lambda c, labels: [3, 2, 1]) -> Engines:
    @contextmanager
    def candidate() -> Iterator[Engine]:
        yield ScriptedEngine(answer=answer)

    @contextmanager
    def judge() -> Iterator[Engine]:
        yield ScriptedEngine(label=label)

    return Engines(candidate=candidate, judge=judge)


def unopened() -> Any:
    raise AssertionError("an engine was opened with nothing to do")


def length_judge(conversation: Any, labels: Any) -> list[float]:
    """Some verdict that depends on the answer and is the same each time."""
    return [len(conversation[-1].content) % 7 + 1, 2, 3]


@pytest.fixture
def short(demo: Instrument) -> Instrument:
    return demo.limited(6)


def test_one_submission_gives_a_result_with_anchors_and_provenance(short: Instrument, store: LocalStore) -> None:
    result = evaluate(submit(MODEL, short), short, scripted(), store)
    assert result.score.eco.value == 100
    assert result.score.eco.low < 100
    assert result.score.counts.graded == 6
    assert result.seats[0].agreement is not None
    assert result.seats[0].agreement.triples == 6
    assert result.provenance.candidate is not None
    paths = store.list("results/")
    kept = [Result.model_validate_json((store.read(p) or (b"", ""))[0]) for p in paths]
    names = {r.submission.model.name for r in kept if r.is_anchor}
    assert names == {"anchor-best", "anchor-ambivalent", "anchor-worst", "anchor-constant"}


def test_the_same_submission_twice_does_no_work(short: Instrument, store: LocalStore) -> None:
    first = evaluate(submit(MODEL, short), short, scripted(), store)
    before = {p: (store.root / p).stat().st_mtime_ns for p in store.list("")}
    again = evaluate(submit(MODEL, short), short, Engines(unopened, unopened), store)
    assert again == first
    assert {p: (store.root / p).stat().st_mtime_ns for p in store.list("")} == before


def test_another_judge_judges_the_kept_answers(short: Instrument, store: LocalStore) -> None:
    first = evaluate(submit(MODEL, short), short, scripted(), store)
    other = short.with_judge_at("b" * 40)
    engines = Engines(unopened, scripted(label=lambda c, labels: [1, 2, 9]).judge)
    second = evaluate(submit(MODEL, other), other, engines, store)
    assert second.id != first.id
    assert second.answers_path == first.answers_path
    assert (first.score.eco.value, second.score.eco.value) == (100, 0)


def test_a_system_prompt_is_another_submission_with_other_answers(short: Instrument, store: LocalStore) -> None:
    plain = submit(MODEL, short)
    guided = submit(MODEL, short, "Cuida el río.")
    assert plain.id != guided.id
    assert plain.answers_digest != guided.answers_digest
    seen: list[Any] = []
    evaluate(guided, short, scripted(answer=lambda c: seen.append(c) or "Sí."), store)
    assert [m.role for m in seen[0]] == ["system", "user"]


def test_the_place_of_a_model_is_not_part_of_its_submission(short: Instrument) -> None:
    here = submit(MODEL.model_copy(update={"path": "/here"}), short)
    there = submit(MODEL.model_copy(update={"path": "/there"}), short)
    assert here.id == there.id


def test_too_many_missing_verdicts_give_no_score_and_keep_the_work(short: Instrument, store: LocalStore) -> None:
    def often(conversation: Any, labels: Any) -> Any:
        return Failure(cause="unreadable") if "río es de todos" in conversation[-1].content else [3, 2, 1]

    submission = submit(MODEL, short)
    with pytest.raises(TooManyUngraded):
        evaluate(submission, short, scripted(label=often), store)
    assert read_result(store, submission.id) is None
    assert len(store.list("judgements/")) == 5


def test_a_candidate_that_breaks_half_way_goes_on_where_it_stopped(short: Instrument, store: LocalStore) -> None:
    asked: list[str] = []

    def breaks(conversation: Any) -> str:
        if len(asked) == 3:
            raise EngineError("vllm.died", retryable=True, model="m", log="")
        asked.append(conversation[-1].content)
        return "Vale, al río."

    submission = submit(MODEL, short)
    with pytest.raises(EngineError):
        evaluate(submission, short, scripted(answer=breaks), store)
    resumed: list[str] = []
    evaluate(submission, short, scripted(answer=lambda c: resumed.append(c[-1].content) or "Vale, al río."), store)
    assert sorted(asked + resumed) == sorted(p.text for p in short.asked)


def test_judging_again_keeps_answers_and_replaces_the_result(short: Instrument, store: LocalStore) -> None:
    submission = submit(MODEL, short)
    first = evaluate(submission, short, scripted(), store)
    engines = Engines(unopened, scripted(label=lambda c, labels: [0, 1, 0]).judge)
    second = evaluate(submission, short, engines, store, again="judge")
    assert (first.score.eco.value, second.score.eco.value) == (100, 50)
    assert read_result(store, submission.id) == second
    assert not [path for path in store.list("") if "shards" in path]
    third = evaluate(submission, short, Engines(unopened, scripted().judge), store, again="judge")
    assert third.score == first.score
    assert len(store.list("judgements/owner--model/")) == 1
    assert evaluate(submission, short, Engines(unopened, unopened), store, again="score").score == third.score


def test_judging_again_leaves_the_verdicts_of_other_results_alone(short: Instrument, store: LocalStore) -> None:
    """Two instruments that measure alike but score otherwise share a judge's verdicts."""
    other = short.model_copy(update={"score": short.score.model_copy(update={"max_ungraded": 0.5})})
    mine, theirs = submit(MODEL, short), submit(MODEL, other)
    first = evaluate(mine, short, scripted(), store)
    second = evaluate(theirs, other, Engines(unopened, unopened), store)
    assert first.seats[0].judgements_path == second.seats[0].judgements_path
    bad = Engines(unopened, scripted(label=lambda c, labels: [0, 0, 1]).judge)
    third = evaluate(mine, short, bad, store, again="judge")
    assert third.score.eco.value == 0
    assert {j.grade for _, (j,) in details(store, second) if isinstance(j, Graded)} == {Grade.GOOD}
    fourth = evaluate(theirs, other, bad, store, again="judge")
    assert {j.grade for _, (j,) in details(store, third) if isinstance(j, Graded)} == {Grade.BAD}
    assert fourth.score.eco.value == 0
    assert len(store.list("judgements/owner--model/")) == 2


def test_judging_again_cut_short_before_its_result_leaves_the_old_result_with_its_verdicts(
    short: Instrument, store: LocalStore
) -> None:
    class FullAtTheEnd(LocalStore):
        def write(self, path: str, data: bytes, *, expected: str = "any") -> str:
            if path.startswith("results/"):
                raise StoreError("store.unwritable", path=path, reason="full")
            return super().write(path, data, expected=expected)

    submission = submit(MODEL, short)
    first = evaluate(submission, short, scripted(), store)
    other = Engines(unopened, scripted(label=lambda c, labels: [0, 0, 1]).judge)
    with pytest.raises(StoreError):
        evaluate(submission, short, other, FullAtTheEnd(store.root), again="judge")
    kept = evaluate(submission, short, Engines(unopened, unopened), store)
    assert kept == first
    assert {j.grade for _, (j,) in details(store, kept) if isinstance(j, Graded)} == {Grade.GOOD}
    assert evaluate(submission, short, other, store, again="judge").score.eco.value == 0


def test_judging_again_cut_short_goes_on_where_it_stopped(short: Instrument, store: LocalStore) -> None:
    submission = submit(MODEL, short)
    evaluate(submission, short, scripted(), store)
    judged: list[str] = []

    def label(conversation: Any, labels: Any) -> list[float]:
        if len(judged) == 3:
            judged.append("cut")
            raise EngineError("vllm.died", retryable=True, model="j", reason="", log="")
        judged.append(conversation[-1].content)
        return [0, 0, 1]

    engines = Engines(unopened, scripted(label=label).judge)
    with pytest.raises(EngineError):
        evaluate(submission, short, engines, store, again="judge")
    assert evaluate(submission, short, engines, store, again="judge").score.eco.value == 0
    assert len(judged) == 6 + 1


def test_judging_again_with_a_judge_that_fails_loses_nothing(short: Instrument, store: LocalStore) -> None:
    submission = submit(MODEL, short)
    first = evaluate(submission, short, scripted(), store)
    before = {path: store.read(path) for path in store.list("")}

    def down() -> Any:
        raise EngineError("endpoint.down", url="http://127.0.0.1:1/v1")

    with pytest.raises(EngineError):
        evaluate(submission, short, Engines(unopened, down), store, again="judge")
    assert {path: store.read(path) for path in store.list("")} == before
    assert evaluate(submission, short, Engines(unopened, unopened), store) == first


def test_half_a_character_from_a_server_spoils_nothing(short: Instrument, store: LocalStore) -> None:
    result = evaluate(submit(MODEL, short), short, scripted(answer=lambda c: "El \ud83d río."), store)
    assert {answer.text for answer, _ in details(store, result)} == {"El ? río."}
    again = evaluate(submit(MODEL, short), short, Engines(unopened, unopened), store, again="score")
    assert again.score == result.score


def test_a_result_another_version_wrote_is_written_anew(short: Instrument, store: LocalStore) -> None:
    first = evaluate(submit(MODEL, short), short, scripted(), store)
    paths = store.list("results/")
    assert len(paths) == 5
    for path in paths:
        store.write(path, b'{"id": "from another time"}')
    again = evaluate(submit(MODEL, short), short, Engines(unopened, unopened), store)
    assert again.score == first.score
    assert load_results(store)[1] == []
    assert len(load_results(store)[0]) == 5


def test_scoring_again_opens_no_engine(short: Instrument, store: LocalStore) -> None:
    submission = submit(MODEL, short)
    first = evaluate(submission, short, scripted(), store)
    again = evaluate(submission, short, Engines(unopened, unopened), store, again="score")
    assert again.score == first.score


def test_verdicts_on_other_answers_are_never_taken_for_these(short: Instrument, store: LocalStore) -> None:
    submission = submit(MODEL, short)
    first = evaluate(submission, short, scripted(), store)
    store.delete(first.answers_path)

    def judge_of_words(conversation: Any, labels: Any) -> list[float]:
        return [0, 0, 1] if "Otra cosa" in conversation[-1].content else [3, 2, 1]

    second = evaluate(submission, short, scripted(answer=lambda c: "Otra cosa.", label=judge_of_words), store)
    assert (first.score.eco.value, second.score.eco.value) == (100, 0)


def test_an_anchor_without_verdicts_does_not_refuse_the_candidate(short: Instrument, store: LocalStore) -> None:
    worst = {p.worst for p in short.gold}

    def blind(conversation: Any, labels: Any) -> Any:
        text = conversation[-1].content
        return Failure(cause="unreadable") if any(w and w[:60] in text for w in worst) else [3, 2, 1]

    result = evaluate(submit(MODEL, short), short, scripted(label=blind), store)
    assert result.score.eco.value == 100
    assert result.seats[0].agreement is None


def test_the_same_command_works_again_once_the_judge_does(short: Instrument, store: LocalStore) -> None:
    submission = submit(MODEL, short)
    with pytest.raises(TooManyUngraded):
        evaluate(submission, short, scripted(label=lambda c, labels: Failure(cause="rejected")), store)
    result = evaluate(submission, short, Engines(unopened, scripted().judge), store)
    assert result.score.counts.ungraded == 0
    assert result.seats[0].agreement is not None


def test_other_groups_are_another_measurement(demo: Instrument) -> None:
    prompts = demo.asked[:4]
    merged = tuple(p.model_copy(update={"group": "one"}) for p in prompts)
    ours, theirs = demo.asking(prompts, "x"), demo.asking(merged, "x")
    assert ours.asked_digest == theirs.asked_digest
    assert submit(MODEL, ours).id != submit(MODEL, theirs).id


def test_a_reasoned_judgement_killed_half_way_asks_for_no_analysis_twice(short: Instrument, store: LocalStore) -> None:
    reasoned = short.judged_by("mode=reasoned", mode="reasoned", max_tokens=400)
    said = json.dumps({"analysis": "Ve el río.", "findings": {f"C{i}": "no aplica" for i in range(1, 7)}})
    analysed: list[str] = []
    labelled: list[str] = []

    def engines(stop: int | None) -> Engines:
        def answer(conversation: Any) -> str:
            analysed.append(conversation[-1].content)
            return said

        def label(conversation: Any, labels: Any) -> Any:
            if stop is not None and len(labelled) == stop:
                raise EngineError("vllm.died", retryable=True, model="j", reason="", log="")
            labelled.append(conversation[1].content)
            return [3, 2, 1]

        @contextmanager
        def judge() -> Iterator[Engine]:
            yield ScriptedEngine(answer=answer, label=label)

        return Engines(candidate=scripted().candidate, judge=judge)

    submission = submit(MODEL, reasoned)
    with pytest.raises(EngineError):
        evaluate(submission, reasoned, engines(stop=9), store)
    result = evaluate(submission, reasoned, engines(stop=None), store)
    assert result.score.counts.graded == 6
    assert len(analysed) == len(set(analysed)) == 5 * 6
    assert len(labelled) == len(set(labelled)) == 5 * 6
    assert not [path for path in store.list("") if "analyses" in path]


def test_prompts_of_ones_own_are_scored_with_the_judge_measured_on_gold(demo: Instrument, store: LocalStore) -> None:
    from eco_eval.types import Prompt

    own = demo.asking((Prompt(id="a", group="a", text="¿Qué ceno?"), Prompt(id="b", group="b", text="¿Y mañana?")), "x")
    result = evaluate(submit(MODEL, own), own, scripted(label=length_judge), store)
    assert result.score.counts.asked == 2
    assert result.seats[0].agreement is not None
    assert result.seats[0].agreement.triples == len(demo.gold)
    assert not result.publishable


# --- killed at any point


RUN = """
import sys, time
from pathlib import Path
from eco_eval import pipeline
from eco_eval.candidates import resolve
from eco_eval.instrument import load_instrument
from eco_eval.store import LocalStore, Table
model, judge, root, start = sys.argv[1:5]
measure = load_instrument("eco-es-demo").limited(12).judged_by(
    "tiny", model=judge, source="local", context=8192, min_label_mass=0.0)
from eco_eval.settings import Settings
measure, refs = pipeline.resolve_judges(measure, Settings())
submission = pipeline.submit(resolve(model), measure)
from eco_eval.engines.transformers import TransformersEngine
small = TransformersEngine.__init__
def batches_of_three(self, *args, **kwargs):
    small(self, *args, **{**kwargs, "batch_size": 3})
TransformersEngine.__init__ = batches_of_three
engines = pipeline.open_engines(submission, measure, refs, Settings())
print("ready", flush=True)
result = pipeline.evaluate(submission, measure, engines, LocalStore(Path(root)))
print(result.model_dump_json())
"""


def run(model: Path, judge: Path, root: Path, kill_after: float | None) -> bytes | None:
    """Evaluate in a process of its own; with `kill_after`, SIGKILL it that many seconds after it is ready."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(model), str(judge), str(root), ""], stdout=subprocess.PIPE, env=environ
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    if kill_after is not None:
        time.sleep(kill_after)
        process.send_signal(signal.SIGKILL)
    out = process.stdout.read()
    process.wait()
    return out if process.returncode == 0 else None


def contents(root: Path) -> dict[str, bytes]:
    """Judgements, answers and scores, byte for byte; a result's provenance holds times and is left out."""
    found = {}
    for file in sorted(root.rglob("*")):
        if file.is_file() and file.name != ".lock":
            data = file.read_bytes()
            if file.suffix == ".json":
                whole = json.loads(data)
                whole.pop("provenance")
                data = json.dumps(whole).encode()
            found[file.relative_to(root).as_posix()] = data
    return found


def test_killed_at_any_point_the_same_command_ends_with_the_same_bytes(
    tiny_model: Path, tiny_judge: Path, tmp_path: Path
) -> None:
    unbroken = tmp_path / "unbroken"
    began = time.monotonic()
    assert run(tiny_model, tiny_judge, unbroken, None) is not None
    whole = time.monotonic() - began
    chance = random.Random(7)
    killed = tmp_path / "killed"
    survived = 0
    for _ in range(4):
        survived += run(tiny_model, tiny_judge, killed, chance.uniform(0.0, 0.6 * whole)) is not None
    assert run(tiny_model, tiny_judge, killed, None) is not None
    assert contents(killed) == contents(unbroken)
    assert survived < 4, "no run was killed, so this test shows nothing"


def test_real_engines_repeat_their_score(tiny_model: Path, tiny_judge: Path, tmp_path: Path) -> None:
    measure = load_instrument("eco-es-demo").limited(4).with_judge_at(resolve(str(tiny_judge)).revision)
    loose = measure.judged_by("tiny", min_label_mass=0.0)

    @contextmanager
    def candidate() -> Iterator[Engine]:
        yield TransformersEngine(tiny_model, "tiny", dtype="float32")

    @contextmanager
    def judge() -> Iterator[Engine]:
        yield TransformersEngine(tiny_judge, "judge", dtype="float32", context=8192)

    submission: Submission = submit(resolve(str(tiny_model)), loose)
    results = [
        evaluate(submission, loose, Engines(candidate, judge), LocalStore(tmp_path / name)) for name in ("a", "b")
    ]
    assert results[0].score == results[1].score
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
