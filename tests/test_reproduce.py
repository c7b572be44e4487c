"""A result obtained again: with real models in real stores, from a Hub, cut short, and with something changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
from conftest import REPO
from hub import LocalHub, clients
from tiny import make_tiny_model

from eco_eval.candidates import resolve
from eco_eval.commands import run_app
from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.errors import EcoEvalError, EngineError, InputError
from eco_eval.instrument import Instrument, load_instrument
from eco_eval.people import Filled, Subject, draw, keep_grades, keep_sample
from eco_eval.pipeline import Engines, evaluate, open_engines, resolve_judges, submit
from eco_eval.reproduce import Choices, reproduce
from eco_eval.reproduce_cli import add_reproduce
from eco_eval.reproduction import Cause, NumberDifference, Run, judge_repeats, judge_rescoring
from eco_eval.results import details, load_results
from eco_eval.settings import Settings
from eco_eval.sources import find_source
from eco_eval.stats import paired_difference
from eco_eval.stats.repeat import repeat_test
from eco_eval.store import LocalStore, Table
from eco_eval.types import GRADES, EngineInfo, Estimate, Failure, Judgement, ModelRef, Result, Score, Withheld
from eco_eval.ui.reproduction import print_reproduction
from eco_eval.ui.texts import Texts

THINGS = """
    el agua, la luz, el pan, los peces, el río, la sierra, el mar, las aves, el trigo, la sal, el sol, la lana, el aire,
    la miel, el bosque
"""
LIMIT = 8


def write_instrument(file: Path, judge: object, panel: object = None) -> Path:
    """The demo instrument with a tiny judge, or two, a rubric of one criterion, and short prompts and answers."""
    rows = [
        {
            "id": f"p{i}",
            "group": f"g{i}",
            "text": f"¿Qué hago con {what.strip()}?",
            "best": f"Cuida {what}.",
            "ambivalent": f"Usa {what}.",
            "worst": f"Gasta {what}.",
        }
        for i, what in enumerate(THINGS.split(","))
    ]
    file.with_name("things.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    short = Path(shutil.copytree(REPO / "eco_eval/data/rubrics/eco-v1", file.with_name("short"), dirs_exist_ok=True))
    head, first, *_ = (short / "rubric.toml").read_text().split("[[criteria]]")
    (short / "rubric.toml").write_text(f"{head}[[criteria]]{first}")
    (short / "system.es.md").write_text("Juzga la respuesta.\n\n{{criteria}}\n")
    text = (REPO / "eco_eval/data/instruments/eco-es-demo.toml").read_text()
    text = text.replace('name = "eco-es-demo"', 'name = "mine"')
    text = text.replace('"eco-es-v1"', '"things"').replace('split = "eval"', 'split = "all"')
    text = text.replace('"eco-v1"', '"short"').replace('"demo-judge"', f'"{judge}"').replace('"trained"', '"local"')
    text = text.replace("context = 4096\nmax_answer", "context = 8192\nmax_answer")
    text = text.replace("min_label_mass = 0.01", "min_label_mass = 0.0").replace("max_tokens = 256", "max_tokens = 12")
    if panel is not None:
        text += f'\n[[panel]]\nmodel = "{panel}"\nsource = "local"\nstand_in = true\n'
    file.write_text(text)
    return file


@pytest.fixture(scope="session")
def tiny_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random judge whose verdicts differ from answer to answer."""
    return make_tiny_model(tmp_path_factory.mktemp("judges") / "judge", seed=10, context=8192)


def kind_judge(judge: Path, folder: Path) -> Path:
    """The judge made blind to all but the last token before its verdict, after which it always says good."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(judge), AutoModelForCausalLM.from_pretrained(judge)
    good, regular, bad = (tokenizer.encode(label)[0] for label in ("buena", "regular", "mala"))
    with torch.inference_mode():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        last = model.model(**tokenizer("<|im_start|>assistant\n", return_tensors="pt")).last_hidden_state[0, -1]
        weights = model.lm_head.weight
        weights[good], weights[regular], weights[bad] = last, -last, -last
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Made(NamedTuple):
    """A result made by real engines, and what made it."""

    result: Result
    settings: Settings
    choices: Choices
    model: Path
    judge: Path

    def again(self, **options: Any) -> Any:
        choices = options.pop("choices", self.choices)
        return reproduce(find_source(self.result.id, self.settings), self.settings, choices, **options)


def make(home: Path, model: Path, judge: Path, panel: Path | None = None) -> Made:
    """Evaluate a copy of a model with a copy of a judge."""
    here = [Path(shutil.copytree(path, home / "models" / path.name)) for path in (model, judge)]
    settings = Settings(data_dir=home / "data", cache_dir=home)
    file = write_instrument(home / "mine.toml", here[1], panel)
    measure, refs = resolve_judges(load_instrument(str(file)).limited(LIMIT), settings)
    submission = submit(resolve(str(here[0])), measure)
    engines = open_engines(submission, measure, refs, settings)
    result = evaluate(submission, measure, engines, LocalStore(settings.data_dir))
    return Made(result, settings, Choices(instrument=str(file)), *here)


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_judge: Path) -> Made:
    return make(tmp_path_factory.mktemp("first"), tiny_model, tiny_judge)


@pytest.fixture
def made(first: Made, tmp_path: Path) -> Made:
    """The first result with a home of its own, which a test may break. The judge stays where the result has it."""
    home = first.settings.cache_dir
    shutil.copytree(home / "data", tmp_path / "data")
    model = shutil.copytree(first.model, tmp_path / "models" / first.model.name)
    settings = Settings(data_dir=tmp_path / "data", cache_dir=tmp_path)
    return Made(first.result, settings, first.choices, Path(model), first.judge)


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_the_same_models_give_the_same_bytes_and_touch_nothing_that_was_kept(made: Made) -> None:
    before = contents(made.settings.data_dir)
    found = made.again()
    assert found.outcome == "reproduced"
    assert (found.answers.same, found.answers.n) == (LIMIT, LIMIT)
    assert (found.seats[0].grades.same, found.seats[0].largest_shift) == (LIMIT, 0.0)
    assert (found.difference, found.first, found.cause, found.caveats, found.kept) == (0.0, None, None, (), 0)
    assert found.repeats == (made.result.score.eco.value,)
    assert contents(made.settings.data_dir) == before


def test_a_finished_repetition_is_kept_until_it_is_made_again_and_pooled_with_new_ones(made: Made) -> None:
    made.again(mode="rejudge")
    seen: list[str] = []
    kept = made.again(mode="rejudge", progress=lambda stage, done, total: seen.append(stage))
    assert (kept.kept, seen) == (1, [])
    pooled = made.again(mode="rejudge", runs=2)
    assert (pooled.outcome, pooled.kept, pooled.seats[0].grades.n, len(pooled.repeats)) == (
        "reproduced",
        1,
        2 * LIMIT,
        2,
    )
    assert made.again(mode="rejudge", again=True).kept == 0


def test_a_reproduction_cut_short_goes_on_where_it_stopped(made: Made) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "judge" and done >= 2 * LIMIT:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.again(progress=stop)
    seen: list[tuple[str, int]] = []
    found = made.again(progress=lambda stage, done, total: seen.append((stage, done)))
    assert seen[0] == ("answer", LIMIT)
    assert seen[1][0] == "judge"
    assert seen[1][1] >= LIMIT
    assert found.outcome == "reproduced"


# --- what is pinned


def flip_a_byte(model: Path) -> None:
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)


def test_one_other_byte_in_the_weights_is_refused_with_the_hash_found(made: Made) -> None:
    flip_a_byte(made.model)
    with pytest.raises(InputError) as caught:
        made.again()
    assert caught.value.key == "reproduce.other_weights"
    assert caught.value.values["found"] == resolve(str(made.model)).revision
    assert caught.value.values["pinned"] == made.result.submission.model.revision


def test_weights_under_another_name_elsewhere_are_the_same_weights(made: Made, tmp_path: Path) -> None:
    elsewhere = shutil.move(made.model, tmp_path / "renamed")
    with pytest.raises(InputError, match=r"reproduce\.no_folder"):
        made.again()
    found = made.again(choices=made.choices.model_copy(update={"model": str(elsewhere)}))
    assert found.outcome == "reproduced"


def test_a_judge_that_moved_is_found_where_it_is_said_to_be(tmp_path: Path, tiny_model: Path, tiny_judge: Path) -> None:
    made = make(tmp_path, tiny_model, tiny_judge)
    elsewhere = shutil.move(made.judge, tmp_path / "moved")
    with pytest.raises(InputError, match=r"reproduce\.no_judge_folder"):
        made.again(mode="rejudge")
    moved = made.choices.model_copy(update={"judge_model": str(elsewhere)})
    assert made.again(mode="rejudge", choices=moved).outcome == "reproduced"
    shutil.copytree(elsewhere, made.judge)
    flip_a_byte(made.judge)
    with pytest.raises(InputError, match=r"reproduce\.other_judge"):
        made.again(mode="rejudge")


def test_an_instrument_that_measures_something_else_is_refused(made: Made) -> None:
    mine = Path(str(made.choices.instrument))
    file = mine.with_name("other.toml")
    file.write_text(mine.read_text().replace("max_tokens = 12", "max_tokens = 13"))
    with pytest.raises(InputError) as caught:
        made.again(choices=Choices(instrument=str(file)))
    assert caught.value.key == "reproduce.other_instrument"
    assert caught.value.values["made_with"] == made.result.provenance.eco_eval


def renamed(made: Made, change: str) -> None:
    """Write the result as one of an instrument changed otherwise."""
    submission = made.result.submission.model_copy(update={"instrument": f"mine [{change}]"})
    result = made.result.model_copy(update={"submission": submission})
    (made.settings.data_dir / "results" / f"{result.id}.json").write_text(result.model_dump_json())


@pytest.mark.parametrize(
    ("change", "key"), [("prompts=own.jsonl", "needs_prompts"), ("gold=x", "unknown_change"), ("x", "unknown_change")]
)
def test_what_must_be_given_again_is_named(made: Made, change: str, key: str) -> None:
    renamed(made, change)
    with pytest.raises(InputError, match=rf"reproduce\.{key}"):
        made.again()


def test_prompts_of_ones_own_are_given_again(first: Made, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    rows = [
        {"id": f"p{i}", "group": f"g{i}", "text": f"¿Qué hago con {what.strip()}?"}
        for i, what in enumerate(("el agua", "la luz", "el pan"))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from eco_eval.prompts import read_prompts

    settings = Settings(data_dir=tmp_path / "data", cache_dir=tmp_path)
    own = load_instrument(str(first.choices.instrument)).asking(read_prompts(file), "prompts=own.jsonl").limited(2)
    measure, refs = resolve_judges(own, settings)
    submission = submit(resolve(str(first.model)), measure)
    engines = open_engines(submission, measure, refs, settings)
    result = evaluate(submission, measure, engines, LocalStore(settings.data_dir))
    choices = first.choices.model_copy(update={"prompts": file, "model": str(first.model)})
    found = reproduce(find_source(result.id, settings), settings, choices)
    assert (found.outcome, found.answers) == ("reproduced", found.answers.model_copy(update={"same": 2, "n": 2}))


@pytest.mark.parametrize("part", ["answers_path", "judgements_path"])
def test_a_result_without_its_answers_or_verdicts_is_refused(made: Made, part: str) -> None:
    path = getattr(made.result, part, None) or made.result.seats[0].judgements_path
    (made.settings.data_dir / path).unlink()
    with pytest.raises(InputError) as caught:
        made.again()
    assert caught.value.key == "reproduce.missing"
    assert caught.value.values["path"] == path


# --- parts of it


def test_judging_again_loads_no_candidate(made: Made) -> None:
    shutil.rmtree(made.model)
    found = made.again(mode="rejudge")
    assert (found.outcome, found.answers, found.mode) == ("reproduced", None, "rejudge")
    assert found.seats[0].grades.n == LIMIT


def test_scoring_again_gives_the_same_bytes_with_no_model_at_all(tmp_path: Path, tiny_model: Path, first: Made) -> None:
    made = make(tmp_path, tiny_model, first.judge)
    shutil.rmtree(made.model)
    shutil.rmtree(made.judge)
    found = made.again(mode="rescore")
    assert (found.outcome, found.difference, found.tolerance) == ("reproduced", 0.0, None)
    path = made.result.seats[0].judgements_path
    change_a_probability(LocalStore(made.settings.data_dir), path)
    changed = made.again(mode="rescore")
    assert changed.outcome == "different"
    assert changed.cause == Cause(kind="edited")
    assert changed.number.path == "soft.value"
    assert 0 < abs(changed.number.original - changed.number.repeat) < 1e-6
    write(made, libraries={"numpy": "1.0", "scipy": "1.0"})
    told = made.again(mode="rescore")
    assert told.cause.kind == "libraries"
    assert (told.cause.original, told.cause.repeat.split()[::2]) == ("numpy 1.0, scipy 1.0", ["numpy", "scipy"])
    write(made, libraries={}, eco_eval="0")
    assert made.again(mode="rescore").cause.kind == "eco_eval"


def write(made: Made, **provenance: Any) -> None:
    """Write the result as if this had made it."""
    result = made.result.model_copy(update={"provenance": made.result.provenance.model_copy(update=provenance)})
    (made.settings.data_dir / "results" / f"{result.id}.json").write_text(result.model_dump_json())


def test_other_libraries_are_no_reason_to_doubt_the_same_score(made: Made) -> None:
    write(made, libraries={"numpy": "1.0"})
    assert made.again(mode="rescore").outcome == "reproduced"


def test_scoring_again_counts_what_people_graded(
    demo: Instrument, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, store = Settings(data_dir=tmp_path, cache_dir=tmp_path / "cache"), LocalStore(tmp_path)
    engines = scripted(lambda c: f"Cuida {c[-1].content[:20]}", by_word)
    model = ModelRef(name="owner/model", source="hub", revision="a" * 40)
    first = evaluate(submit(model, demo), demo, engines, store)
    sample, shown = draw([Subject(first, details(store, first))], {p.id: p for p in demo.asked}, 60, seed=1)
    grades = {one.id: (GRADES[i % 3], "") for i, one in enumerate(shown)}
    keep_grades(store, Filled(keep_sample(store, sample), grades, ()), "Ana")
    since = reproduce(find_source(first.id, settings), settings, mode="rescore")
    assert (since.outcome, since.difference) == ("different", 0.0)
    assert since.cause == Cause(kind="people", original="0", repeat="60")
    assert since.number is not None
    assert since.number.path.startswith("corrected.")
    for lang, same in (("es", "la nota es la misma"), ("en", "the score is the same")):
        print_reproduction(since, Texts(lang))
        said = capsys.readouterr().out
        assert same in said
        assert since.number.path in said
    scored = evaluate(first.submission, demo, engines, store, again="score")
    assert (scored.provenance.audited, first.provenance.audited) == (60, 0)
    assert scored.score.corrected != first.score.corrected
    again = reproduce(find_source(scored.id, settings), settings, mode="rescore")
    assert again.outcome == "reproduced"
    shutil.rmtree(tmp_path / "audits")
    without = reproduce(find_source(scored.id, settings), settings, mode="rescore")
    assert without.outcome == "different"
    assert without.cause == Cause(kind="people", original="60", repeat="0")


def test_what_people_graded_is_no_cause_of_what_they_have_no_part_in(measure: Instrument, tmp_path: Path) -> None:
    kept = scripted_run(measure, tmp_path, lambda i: "río" if i % 2 else "mar").result
    score = kept.score.model_copy(update={"bounds": (kept.score.bounds[0], 101.0)})
    found = judge_rescoring(kept, score, kept.provenance.model_copy(update={"audited": 3, "audits": "x"}))
    assert found.number == NumberDifference(path="bounds.1", original=kept.score.bounds[1], repeat=101.0)
    assert found.cause == Cause(kind="edited")


def test_a_number_that_came_or_went_is_the_first_difference(measure: Instrument, tmp_path: Path) -> None:
    kept = scripted_run(measure, tmp_path, lambda i: "río").result
    estimate = Estimate(value=1, low=0, high=2, n=3, groups=3, method="people")
    withheld = Withheld(reason="no_gold")

    def number(a: dict[str, Any], b: dict[str, Any]) -> tuple[Any, ...]:
        one, other = (Score.model_validate(kept.score.model_copy(update=each).model_dump()) for each in (a, b))
        found = judge_rescoring(kept.model_copy(update={"score": one}), other, kept.provenance)
        return (found.number.path, found.number.original, found.number.repeat) if found.number else ()

    assert number({"corrected": withheld}, {"corrected": estimate}) == ("corrected.reason", "no_gold", None)
    assert number({"corrected": estimate}, {"corrected": withheld}) == ("corrected.value", 1.0, None)
    assert number({"soft": None}, {"soft": estimate}) == ("soft.value", None, 1.0)
    assert number({"by_kind": {}}, {"by_kind": {"plan": estimate}}) == ("by_kind.plan.value", None, 1.0)
    assert number({"soft": estimate}, {"soft": estimate}) == ()


def change_a_probability(store: LocalStore, path: str) -> None:
    table: Table[Any] = Table(store, path, Judgement)
    order = list(table.records)
    verdict = table.records[order[0]]
    p, q, r = verdict.probabilities
    table.add(verdict.model_copy(update={"probabilities": (p - 1e-9, q, r + 1e-9)}))
    table.finish(order)


def test_verdicts_on_gold_are_part_of_scoring_again(made: Made) -> None:
    for path in LocalStore(made.settings.data_dir).list("judgements/anchor-worst/"):
        (made.settings.data_dir / path).unlink()
    with pytest.raises(InputError, match=r"reproduce\.missing"):
        made.again(mode="rescore")


@pytest.mark.parametrize("name", ["anchor-best", "anchor-constant"])
def test_an_anchor_is_judged_again(made: Made, name: str) -> None:
    anchors, _ = load_results(LocalStore(made.settings.data_dir))
    anchor = next(r for r in anchors if r.submission.model.name == name)
    source = find_source(anchor.id, made.settings)
    found = reproduce(source, made.settings, made.choices)
    assert (found.outcome, found.mode, found.seats[0].grades.same) == ("reproduced", "rejudge", LIMIT)
    assert reproduce(source, made.settings, made.choices, mode="rescore").outcome == "reproduced"


def test_a_panel_is_reproduced_seat_by_seat(tmp_path: Path, tiny_model: Path, tiny_judge: Path) -> None:
    second = make_tiny_model(tmp_path / "second", seed=7, context=8192)
    made = make(tmp_path, tiny_model, tiny_judge, panel=second)
    assert len(made.result.seats) == 2
    found = made.again(mode="rejudge")
    assert found.outcome == "reproduced"
    assert [seat.grades.same for seat in found.seats] == [LIMIT, LIMIT]
    assert made.again(mode="rescore").outcome == "reproduced"


# --- something else


def test_another_judge_is_named_as_the_cause(made: Made, tmp_path: Path) -> None:
    other = kind_judge(made.judge, tmp_path / "other-judge")
    choices = made.choices.model_copy(update={"judge_model": str(other)})
    found = made.again(mode="rejudge", choices=choices)
    assert found.outcome == "different"
    assert found.p <= 0.05
    assert abs(found.difference) > found.tolerance
    assert found.cause.kind == "judge_revision"
    assert found.cause.repeat.startswith(f"{other}@")
    assert found.first.what == "verdict"
    assert found.caveats == ("other_judge",)
    assert made.again(mode="rejudge").outcome == "reproduced"


def scripted(answer: Any, label: Any) -> Engines:
    @contextmanager
    def candidate() -> Iterator[Engine]:
        yield ScriptedEngine(answer=answer)

    @contextmanager
    def judge() -> Iterator[Engine]:
        yield ScriptedEngine(label=label)

    return Engines(candidate=candidate, judge=judge)


def by_word(conversation: Any, labels: Any) -> list[float]:
    """Good where the answer says «río», bad where it says «mar»."""
    text = conversation[-1].content
    return [9, 0.5, 0.5] if "Digo río." in text else [0.5, 0.5, 9]


Script = Callable[[int], str]


def scripted_run(measure: Instrument, root: Path, words: Script, label: Any = by_word) -> Run:
    """A run of a candidate that says this or that on the i-th prompt."""
    places = {prompt.text: i for i, prompt in enumerate(measure.asked)}
    store = LocalStore(root)
    submission = submit(ModelRef(name="owner/model", source="hub", revision="a" * 40), measure)
    engines = scripted(lambda c: f"Digo {words(places[c[-1].content])}.", label)
    result = evaluate(submission, measure, engines, store)
    return Run(result, details(store, result))


@pytest.fixture
def measure(demo: Instrument) -> Instrument:
    """Thirty prompts, a group each."""
    asked = tuple(p.model_copy(update={"group": p.id, "control": False}) for p in demo.asked[:30])
    return demo.asking(asked, "x").model_copy(update={"gold": demo.gold[:2]})


@pytest.mark.parametrize(
    ("changed", "outcome"), [(0, "reproduced"), (1, "within_noise"), (5, "within_noise"), (6, "different")]
)
def test_answers_that_tip_one_way_are_noise_up_to_five_groups(
    measure: Instrument, tmp_path: Path, changed: int, outcome: str
) -> None:
    original = scripted_run(measure, tmp_path / "a", lambda i: "río" if i % 2 else "mar")
    repeat = scripted_run(measure, tmp_path / "b", lambda i: "río" if i % 2 or i < 2 * changed else "mar")
    found = judge_repeats(original, [repeat], measure.asked, "whole")
    assert found.outcome == outcome
    assert found.answers is not None
    assert found.answers.same == found.seats[0].grades.same == 30 - changed
    assert found.difference == pytest.approx(-100 * changed / 30)
    assert (found.p or 0) == pytest.approx(2 / 2**changed if changed else 1)
    if changed:
        assert found.first is not None
        assert (found.first.prompt_id, found.first.position) == (measure.asked[0].id, 5)
        assert (found.first.original, found.first.repeat) == ("Digo mar.", "Digo río.")
        assert found.cause == Cause(kind="arithmetic")


def test_answers_that_tip_both_ways_are_noise_however_many(measure: Instrument, tmp_path: Path) -> None:
    original = scripted_run(measure, tmp_path / "a", lambda i: "río" if i % 2 else "mar")
    repeat = scripted_run(measure, tmp_path / "b", lambda i: "mar" if i % 2 else "río")
    found = judge_repeats(original, [repeat], measure.asked, "whole")
    assert (found.outcome, found.difference, found.seats[0].grades.same) == ("within_noise", 0.0, 0)
    # 30 groups of ±1: the normal approximation of the 95 % point, in points of 100.
    assert found.tolerance == pytest.approx(100 * 1.96 * 30**0.5 / 30, abs=100 * 2 / 30)


def test_only_probabilities_that_moved_are_reproduced_and_said(measure: Instrument, tmp_path: Path) -> None:
    def nearly(conversation: Any, labels: Any) -> list[float]:
        return [8.99 if weight == 9 else weight for weight in by_word(conversation, labels)]

    original = scripted_run(measure, tmp_path / "a", lambda i: "río")
    repeat = scripted_run(measure, tmp_path / "b", lambda i: "río", nearly)
    found = judge_repeats(original, [repeat], measure.asked, "whole")
    assert found.outcome == "reproduced"
    assert found.seats[0].largest_shift == pytest.approx(0.9 - 8.99 / 9.99)


def test_verdicts_that_went_missing_are_told_apart(measure: Instrument, tmp_path: Path) -> None:
    lost = measure.model_copy(update={"score": measure.score.model_copy(update={"max_ungraded": 0.1})})

    def refuses(conversation: Any, labels: Any) -> Any:
        if measure.asked[3].text in conversation[-1].content and "Digo río." in conversation[-1].content:
            return Failure(cause="rejected")
        return by_word(conversation, labels)

    original = scripted_run(lost, tmp_path / "a", lambda i: "río")
    repeat = scripted_run(lost, tmp_path / "b", lambda i: "río", refuses)
    found = judge_repeats(original, [repeat], lost.asked, "whole")
    assert (found.outcome, found.seats[0].grades.same) == ("within_noise", 29)
    assert found.first is not None
    assert (found.first.original, found.first.repeat) == ("good", "rejected")


def test_another_score_from_the_same_verdicts_is_different(measure: Instrument, tmp_path: Path) -> None:
    run = scripted_run(measure, tmp_path / "a", lambda i: "río" if i % 2 else "mar")
    eco = run.result.score.eco.model_copy(update={"low": run.result.score.eco.low + 1})
    score = run.result.score.model_copy(update={"eco": eco})
    found = judge_repeats(
        run, [Run(run.result.model_copy(update={"score": score}), run.readings)], measure.asked, "whole"
    )
    assert (found.outcome, found.cause) == ("different", Cause(kind="edited"))
    assert found.number == NumberDifference(path="eco.low", original=eco.low - 1, repeat=eco.low)
    numpy = recorded(Run(run.result.model_copy(update={"score": score}), run.readings), [], libraries={"numpy": "0"})
    told = judge_repeats(run, [numpy], measure.asked, "whole")
    assert told.cause is not None
    assert (told.cause.kind, told.cause.repeat) == ("libraries", "numpy 0")


INFO = EngineInfo(engine="transformers", version="1", model="m", dtype="float32", device="cpu")
ORDER = (
    ("eco_eval", {"eco_eval": "0"}, {}, {}),
    ("engine", {}, {"engine": "vllm"}, {}),
    ("engine_version", {}, {"version": "2"}, {}),
    ("device", {}, {"device": "cuda"}, {}),
    ("dtype", {}, {"dtype": "bfloat16"}, {}),
    ("judge_revision", {}, {}, {"revision": "b" * 40}),
    ("judge_engine", {}, {}, {"engine": "vllm"}),
    ("judge_engine_version", {}, {}, {"version": "2"}),
    ("judge_device", {}, {}, {"device": "cuda"}),
    ("judge_dtype", {}, {}, {"dtype": "bfloat16"}),
    ("libraries", {"libraries": {"torch": "0", "numpy": "0"}}, {}, {}),
)


def recorded(run: Run, which: Sequence[int], info: EngineInfo = INFO, **told: Any) -> Run:
    """The run as if these of `ORDER` had been recorded otherwise, and this of its provenance."""
    about, candidate, seat = ({k: v for i in which for k, v in ORDER[i][part].items()} for part in (1, 2, 3))
    engine = {name: value for name, value in seat.items() if name != "revision"}
    provenance = run.result.provenance.model_copy(
        update={**about, **told, "candidate": info.model_copy(update=candidate)}
    )
    judge = run.result.seats[0].model_copy(
        update={"engine": info.model_copy(update=engine), **{k: v for k, v in seat.items() if k == "revision"}}
    )
    return Run(run.result.model_copy(update={"provenance": provenance, "seats": (judge,)}), run.readings)


def test_the_likely_cause_is_the_first_of_those_recorded(measure: Instrument, tmp_path: Path) -> None:
    a = scripted_run(measure, tmp_path / "a", lambda i: "río")
    b = scripted_run(measure, tmp_path / "b", lambda i: "río" if i else "mar")
    for place, (kind, *_) in enumerate(ORDER):
        for which in ([place], range(place, len(ORDER))):
            found = judge_repeats(recorded(a, []), [recorded(b, which)], measure.asked, "whole")
            assert found.cause is not None
            assert found.cause.kind == kind
            assert found.cause.original != found.cause.repeat


def test_the_engine_of_equal_answers_is_no_cause(measure: Instrument, tmp_path: Path) -> None:
    a = scripted_run(measure, tmp_path / "a", lambda i: "río")
    b = scripted_run(
        measure, tmp_path / "b", lambda i: "río", lambda c, labels: [1, 0, 0] if "mar" in c[-1].content else [0, 0, 1]
    )
    found = judge_repeats(recorded(a, []), [recorded(b, [1, 2, 6])], measure.asked, "whole")
    assert found.outcome == "different"
    assert found.cause == Cause(kind="judge_engine", original="transformers", repeat="vllm")


@pytest.mark.parametrize(
    ("engine", "kind"), [("transformers", "arithmetic"), ("vllm", "server"), ("endpoint", "server")]
)
def test_what_is_left_depends_on_who_batches(measure: Instrument, tmp_path: Path, engine: str, kind: str) -> None:
    info = INFO.model_copy(update={"engine": engine})
    a = scripted_run(measure, tmp_path / "a", lambda i: "río")
    b = scripted_run(measure, tmp_path / "b", lambda i: "río" if i else "mar")
    found = judge_repeats(recorded(a, [], info), [recorded(b, [], info)], measure.asked, "whole")
    assert found.cause == Cause(kind=kind)
    torch = judge_repeats(
        recorded(a, [], info), [recorded(b, [], info, libraries={"torch": "0"})], measure.asked, "whole"
    )
    assert torch.cause is not None
    # Which libraries are here says nothing of a server elsewhere.
    assert torch.cause.kind == ("server" if engine == "endpoint" else "libraries")
    expected = ("candidate_endpoint", "judge_endpoint") if engine == "endpoint" else ()
    assert found.caveats == expected


def test_an_endpoint_needs_its_address_and_has_no_weights(made: Made) -> None:
    served = made.choices.model_copy(update={"engine": "endpoint"})
    with pytest.raises(InputError, match=r"endpoint\.no_url"):
        made.again(choices=served)
    with pytest.raises(InputError, match=r"endpoint\.no_url"):
        made.again(mode="rejudge", choices=made.choices.model_copy(update={"judge_engine": "endpoint"}))


# --- where a result may be


def test_a_result_file_is_read_with_the_folders_beside_it(made: Made, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(made.settings.data_dir, elsewhere)
    file = elsewhere / "results" / f"{made.result.id}.json"
    found = reproduce(find_source(str(file), made.settings), made.settings, made.choices, mode="rescore")
    assert found.outcome == "reproduced"
    stray = Path(shutil.copy(file, tmp_path))
    for bad in (stray, file.with_name("none.json")):
        with pytest.raises(InputError, match=r"reproduce\.no_file"):
            find_source(str(bad), made.settings)


@pytest.mark.parametrize(
    "target",
    [
        "hf://datasets/owner/results/x.json",
        "hf://owner/name/results/x.json",
        "hf://datasets/owner/name/answers/x.json",
        "hf://datasets/owner/name/results/../x.json",
        "hf://datasets/owner/name/results/x.parquet",
    ],
)
def test_what_is_no_hub_path_of_a_result_is_refused(target: str, made: Made) -> None:
    with pytest.raises(InputError, match=r"reproduce\.bad_hub_path"):
        find_source(target, made.settings)


def evaluate_hub_model(instrument: str, home: str) -> tuple[str, dict[str, bytes]]:
    """A result of a model on the Hub, and every file of its store."""
    settings = Settings(data_dir=Path(home) / "data", cache_dir=Path(home))
    measure, refs = resolve_judges(load_instrument(instrument).limited(LIMIT), settings)
    submission = submit(resolve("owner/tiny"), measure)
    engines = open_engines(submission, measure, refs, settings)
    store = LocalStore(settings.data_dir)
    result = evaluate(submission, measure, engines, store)
    return result.id, {path: (store.read(path) or (b"", ""))[0] for path in store.list("")}


def reproduce_at(target: str, instrument: str, home: str, **options: Any) -> tuple[str, str]:
    """The outcome and the mode; of a refusal, its key and the path it names."""
    settings = Settings(data_dir=Path(home) / "none", cache_dir=Path(home) / "cache")
    try:
        found = reproduce(find_source(target, settings), settings, Choices(instrument=instrument), **options)
    except EcoEvalError as error:
        return error.key, str(error.values.get("target", ""))
    return found.outcome, found.mode


def test_a_result_on_the_hub_is_reproduced_from_there(tmp_path: Path, tiny_model: Path, tiny_judge: Path) -> None:
    instrument = str(write_instrument(tmp_path / "mine.toml", tiny_judge))
    with LocalHub() as hub, clients(hub, tmp_path / "home", HF_HUB_OFFLINE="0") as call:
        hub.add("owner/tiny", "model", {file.name: file.read_bytes() for file in tiny_model.iterdir()})
        result_id, files = call(evaluate_hub_model, instrument, str(tmp_path / "made"))
        old = hub.add("owner/board", "dataset", {**files, "answers/other/0.parquet": b"never fetched"})
        # The model goes on; the result pins what it was.
        hub.add("owner/tiny", "model", {"model.safetensors": b"other weights"})
        hub.requests.clear()
        target = f"hf://datasets/owner/board/results/{result_id}.json"
        assert call(reproduce_at, target, instrument, str(tmp_path / "a")) == ("reproduced", "whole")
        fetched = {line.rpartition("/resolve/")[2] for line in hub.requests if "/board/resolve" in line}
        result = Result.model_validate_json(files[f"results/{result_id}.json"])
        rest = {f"{old}/{path}" for path in (result.answers_path, result.seats[0].judgements_path)}
        assert fetched == {f"main/results/{result_id}.json", *rest}
        assert call(reproduce_at, target, instrument, str(tmp_path / "b"), mode="rescore") == ("reproduced", "rescore")

        damaged = result.model_copy(update={"answers_path": "answers/../x.parquet"})
        moved = {f"results/{result_id}.json": damaged.model_dump_json().encode(), result.answers_path: b"damaged"}
        hub.add("owner/board", "dataset", moved)
        assert call(reproduce_at, target, instrument, str(tmp_path / "c"))[0] == "store.bad_path"
        pinned = target.replace("board/", f"board@{old}/")
        assert call(reproduce_at, pinned, instrument, str(tmp_path / "d"), mode="rescore")[0] == "reproduced"
        for missing in (target.replace(result_id, "0" * 16), target.replace("board/", f"board@{'0' * 40}/")):
            assert call(reproduce_at, missing, instrument, str(tmp_path / "e"))[0] == "reproduce.not_on_hub"


def test_without_a_network_it_says_so(made: Made) -> None:
    # The tests run with HF_HUB_OFFLINE=1.
    with pytest.raises(EngineError, match=r"reproduce\.unreachable"):
        find_source("hf://datasets/owner/board/results/abc.json", made.settings)


# --- the command


@pytest.fixture
def command(made: Made, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `eco-eval reproduce` in this process; returns its exit code."""
    monkeypatch.setenv("ECO_EVAL_DATA_DIR", str(made.settings.data_dir))
    monkeypatch.setenv("ECO_EVAL_CACHE_DIR", str(made.settings.cache_dir))
    monkeypatch.setenv("COLUMNS", "200")

    def build(settings: Settings, t: Any) -> typer.Typer:
        app = typer.Typer(add_completion=False)
        app.callback()(lambda: None)
        add_reproduce(app, settings, t)
        return app

    def call(*arguments: object, lang: str = "en") -> int:
        monkeypatch.setenv("ECO_EVAL_LANG", lang)
        own = ["--instrument", str(made.choices.instrument)]
        return run_app(build, ["reproduce", made.result.id[:6], *own, *map(str, arguments)])

    return call


def test_the_command_says_what_it_found_in_both_languages(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--rejudge-only") == 0
    assert "Reproduced" in capsys.readouterr().out
    assert command("--rejudge-only", lang="es") == 0
    said = capsys.readouterr().out
    assert "Reproducido" in said
    assert f"{LIMIT} de {LIMIT}" in said
    assert "--again" in said
    assert command("--rejudge-only", "--rescore-only") == 2


def test_the_command_ends_with_one_where_the_score_is_another(
    command: Callable[..., int], made: Made, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = kind_judge(made.judge, tmp_path / "other-judge")
    assert command("--rejudge-only", "--judge-model", other, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["cause"]["kind"], told["kept"]) == ("different", "judge_revision", 0)
    assert command("--rejudge-only", "--judge-model", other, lang="es") == 1
    said = capsys.readouterr().out
    assert "Distinto" in said
    assert "otro jurado" in said
    assert "antes: " in said


# --- the statistics


@pytest.mark.parametrize("groups", [2, 7, 14])
def test_p_is_that_of_the_paired_difference(groups: int) -> None:
    rng = np.random.default_rng(groups)
    names = [str(i % groups) for i in range(40)]
    a, b = rng.choice([0, 0.5, 1], (2, 40))
    found = repeat_test(a, [b], names)
    paired = paired_difference(a, b, names)
    assert found.p == pytest.approx(paired.p)
    assert found.difference == pytest.approx(paired.estimate.value)


def tolerance_of(differences: Any, groups: list[str]) -> float:
    return repeat_test(differences, np.zeros((1, len(differences))), groups).tolerance


def test_tolerance_by_hand() -> None:
    names = [str(i) for i in range(10)]
    ones = np.array([1.0] * 6 + [0.0] * 4)
    # 2 of 64 sign patterns give 6, 3.1 %; 12 more give 4: the smallest value at most 5 % exceed is 4.
    assert tolerance_of(ones, names) == pytest.approx(0.4)
    assert tolerance_of(ones[:5], names[:5]) == pytest.approx(1.0)
    assert tolerance_of(np.zeros(3), ["a", "b", "c"]) == 0
    # Prompts of one group tip together.
    assert tolerance_of(ones, ["g"] * 10) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="a value a prompt"):
        tolerance_of([], [])


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("prompts", [10, 60])
def test_within_tolerance_is_p_above_five_percent(prompts: int, repeats: int) -> None:
    rng = np.random.default_rng(prompts)
    names = [str(i) for i in range(prompts)]
    outcomes = set()
    for shift in np.linspace(0, 1, 40):
        y = rng.choice([0, 0.5, 1], (repeats + 1, prompts))
        y[0] = np.where(rng.random(prompts) < shift, 1, y[0])
        found = repeat_test(y[0], y[1:], names)
        assert (abs(found.difference) <= found.tolerance + 1e-12) == (found.p > 0.05)
        outcomes.add(found.p > 0.05)
    assert outcomes == {True, False}


def flips(base: Any, chance: float, rng: Any, *, down: bool) -> Any:
    other = np.maximum(base - 0.5, 0) if down else rng.choice([0, 0.5, 1], len(base))
    return np.where(rng.random(len(base)) < chance, other, base)


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("kind", ["up and down", "down", "by place"])
def test_exchangeable_runs_are_called_different_in_five_percent_at_most(kind: str, repeats: int) -> None:
    rng = np.random.default_rng(1)
    prompts, rounds = 40, 300
    names = [str(i // 2) for i in range(prompts)]
    wrong = found = 0
    for _ in range(rounds):
        base = np.ones(prompts) if kind == "down" else rng.choice([0, 0.5, 1], prompts)
        y = [flips(base, 0.3, rng, down=kind == "down") for _ in range(repeats + 1)]
        if kind == "by place":
            y[2:] = [y[1]] * (repeats - 1)
        wrong += repeat_test(y[0], y[1:], names).p <= 0.05
        y[0] = np.where(rng.random(prompts) < 0.7, 1.0 - (kind == "down"), y[0])
        found += repeat_test(y[0], y[1:], names).p <= 0.05
    # Three standard errors of a share of 5 % in 300 rounds are 3.8 %.
    assert wrong / rounds <= 0.05 + 0.038
    assert found / rounds >= 0.8


def test_more_repetitions_shrink_the_tolerance_by_the_square_root() -> None:
    rng = np.random.default_rng(2)
    names = [str(i) for i in range(200)]
    y = rng.choice([0.0, 1.0], (40, 17, 200))
    one, sixteen = (np.mean([repeat_test(run[0], run[1 : n + 1], names).tolerance for run in y]) for n in (1, 16))
    assert sixteen / one == pytest.approx(((1 + 1 / 16) / 2) ** 0.5, rel=0.06)
