"""Where a model comes from, and whether it has seen the answers: what a result says of it, and of hidden prompts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from eco_eval.candidates import resolve
from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.errors import EngineError
from eco_eval.instrument import DATA, Instrument, load_instrument
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.results import details
from eco_eval.store import LocalStore
from eco_eval.types import ModelRef, Prompt
from eco_eval.ui.pages.model import render
from eco_eval.ui.terminal import contamination_lines, flag_lines
from eco_eval.ui.texts import Texts

MODEL = ModelRef(name="owner/model", source="hub", revision="a" * 40)
CARD = """---
base_model: Qwen/Qwen2.5-0.5B
datasets:
- neovalle/H4rmony_dpo
- other/thing
---
# <b>Hola</b>
"""


def opened(**script: Any) -> Any:
    @contextmanager
    def open_it() -> Iterator[Engine]:
        yield ScriptedEngine(**script)

    return open_it


def unopened() -> Any:
    raise AssertionError("an engine was opened with nothing to do")


GOOD_JUDGE = opened(label=lambda c, labels: [3, 2, 1])


@pytest.fixture
def short(demo: Instrument) -> Instrument:
    return demo.limited(12)


# --- what it repeats


def test_a_model_that_recites_the_gold_answers_is_flagged(short: Instrument, store: LocalStore) -> None:
    best = {prompt.text: prompt.best for prompt in short.asked}
    reciting = opened(answer=lambda c: f"Claro. {best[c[-1].content]}")
    result = evaluate(submit(MODEL, short), short, Engines(reciting, GOOD_JUDGE), store)
    overlap = result.contamination.overlap
    assert overlap is not None
    assert overlap.copied == overlap.n == sum(not p.control for p in short.asked)
    assert overlap.mean.value > 90
    for lang in ("es", "en"):
        t = Texts(lang)
        assert any(str(overlap.copied) in line for line in flag_lines(result, t))
        assert "{" not in "".join([*contamination_lines(result, t), *flag_lines(result, t)])


def test_a_model_in_words_of_its_own_is_not(short: Instrument, store: LocalStore) -> None:
    own = opened(answer=lambda c: "Yo hablaría antes con las vecinas que riegan más abajo, y luego ya veríamos.")
    result = evaluate(submit(MODEL, short), short, Engines(own, GOOD_JUDGE), store)
    overlap = result.contamination.overlap
    assert overlap is not None
    assert (overlap.copied, overlap.mean.value) == (0, 0)
    assert overlap.mean.high > 0
    assert flag_lines(result, Texts("es")) == []


# --- what it declares


@pytest.fixture
def related(tiny_model: Path, tmp_path: Path) -> Path:
    """A model whose card names its base and what it was trained on."""
    folder = tmp_path / "mi-modelo"
    shutil.copytree(tiny_model, folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    return folder


def test_kin_of_the_judge_and_declared_training_are_said(related: Path, short: Instrument, store: LocalStore) -> None:
    judge = ModelRef(name="Qwen/Qwen3-8B", source="hub", revision="b" * 40)
    candidate = opened(answer=lambda c: "El río es de todos.")
    submission = submit(resolve(str(related)), short)
    result = evaluate(submission, short, Engines(candidate, GOOD_JUDGE, judges=(judge,)), store)
    assert result.declared.base_models == ("Qwen/Qwen2.5-0.5B",)
    assert result.seats[0].same_family == "base_model: Qwen/Qwen2.5-0.5B"
    assert result.contamination.declared == ("neovalle/H4rmony_dpo",)
    flags = flag_lines(result, Texts("es"))
    assert len(flags) == 2
    assert any("misma familia" in flag for flag in flags)
    page = render(result, details(store, result), "all", Texts("es"))
    assert "neovalle/H4rmony_dpo" in page
    other = Engines(candidate, GOOD_JUDGE, judges=(judge.model_copy(update={"name": "google/gemma-3-27b"}),))
    again = evaluate(submission, short, other, store, again="score")
    assert again.seats[0].same_family is None


def test_what_was_declared_outlives_the_files(related: Path, short: Instrument, store: LocalStore) -> None:
    submission = submit(resolve(str(related)), short)
    first = evaluate(submission, short, Engines(opened(answer=lambda c: "Río."), GOOD_JUDGE), store)
    away = submission.model_copy(update={"model": submission.model.model_copy(update={"path": None})})
    again = evaluate(away, short, Engines(unopened, unopened), store, again="score")
    assert again.declared == first.declared
    other = short.with_judge_at("c" * 40)
    moved = submit(away.model, other)
    judged = evaluate(moved, other, Engines(unopened, GOOD_JUDGE), store, origin=first.declared)
    assert judged.contamination.declared == ("neovalle/H4rmony_dpo",)


def test_anchors_declare_nothing(short: Instrument, store: LocalStore) -> None:
    result = evaluate(submit(MODEL, short), short, Engines(opened(answer=lambda c: "Río."), GOOD_JUDGE), store)
    assert result.seats[0].same_family is None
    assert result.contamination.declared == ()


# --- hidden prompts


def hiding(demo: Instrument) -> Instrument:
    """Twelve public prompts, and twelve hidden paraphrases of some of them."""
    asked = [p for p in demo.asked if not p.control][:20]
    hidden = [
        Prompt(id=f"secreta-{i}", group=p.group, text=f"SECRETO {i}: {p.text}", lang="es")
        for i, p in enumerate(asked[8:20])
    ]
    return demo.asking(tuple(asked[:12]), "x").model_copy(update={"hidden": tuple(hidden)})


def worse_in_secret(conversation: Any, labels: Any) -> list[float]:
    return [0, 1, 0] if "SECRETO" in conversation[-1].content else [1, 0, 0]


def test_the_gap_to_hidden_prompts_is_told_and_nothing_of_them_is_published(
    demo: Instrument, store: LocalStore, tmp_path: Path
) -> None:
    measure, private = hiding(demo), LocalStore(tmp_path / "private")
    engines = Engines(opened(answer=lambda c: f"Digo que {c[-1].content[:20]}"), opened(label=worse_in_secret))
    result = evaluate(submit(MODEL, measure), measure, engines, store, private=private)
    gap = result.contamination.hidden_gap
    assert gap is not None
    assert gap.value == 50
    assert (gap.n, gap.groups) == (24, 20)
    assert result.score.counts.asked == 12
    published = b"".join(file.read_bytes() for file in store.root.rglob("*") if file.is_file())
    assert b"SECRETO" not in published
    assert b"secreta-" not in published
    assert private.list("answers/")
    again = evaluate(submit(MODEL, measure), measure, Engines(unopened, unopened), store, private=private)
    assert again == result
    scored = evaluate(
        submit(MODEL, measure), measure, Engines(unopened, unopened), store, private=private, again="score"
    )
    assert scored.contamination.hidden_gap == gap


def test_hidden_prompts_change_no_score_and_no_id(demo: Instrument, store: LocalStore, tmp_path: Path) -> None:
    measure = hiding(demo)
    without = measure.model_copy(update={"hidden": ()})
    assert submit(MODEL, measure).id == submit(MODEL, without).id
    engines = Engines(opened(answer=lambda c: "Río."), opened(label=worse_in_secret))
    public = evaluate(submit(MODEL, without), without, engines, store)
    both = evaluate(submit(MODEL, measure), measure, engines, LocalStore(tmp_path / "b"), private=LocalStore(tmp_path))
    assert both.score == public.score
    assert public.contamination.hidden_gap is None
    unasked = evaluate(submit(MODEL, measure), measure, engines, LocalStore(tmp_path / "c"))
    assert unasked.contamination.hidden_gap is None


def test_a_run_cut_among_hidden_prompts_goes_on_there(demo: Instrument, store: LocalStore, tmp_path: Path) -> None:
    measure, private = hiding(demo), LocalStore(tmp_path / "private")
    asked: list[str] = []

    def breaks(conversation: Any) -> str:
        asked.append(conversation[-1].content)
        if len(asked) == 17:
            raise EngineError("vllm.died", retryable=True, model="m", log="")
        return "Río."

    engines = Engines(opened(answer=breaks), opened(label=worse_in_secret))
    with pytest.raises(EngineError):
        evaluate(submit(MODEL, measure), measure, engines, store, private=private)
    assert not [path for path in store.list("results/") if submit(MODEL, measure).id in path]
    result = evaluate(submit(MODEL, measure), measure, engines, store, private=private)
    assert result.contamination.hidden_gap is not None
    assert len(asked) == 12 + 12 + 1


def test_the_gap_follows_the_judge_and_outlives_the_hidden_answers(
    demo: Instrument, store: LocalStore, tmp_path: Path
) -> None:
    measure, private = hiding(demo), LocalStore(tmp_path / "private")
    engines = Engines(opened(answer=lambda c: f"Digo que {c[-1].content[:20]}"), opened(label=worse_in_secret))
    first = evaluate(submit(MODEL, measure), measure, engines, store, private=private)
    elsewhere = evaluate(
        submit(MODEL, measure),
        measure,
        Engines(unopened, unopened),
        store,
        private=LocalStore(tmp_path / "empty"),
        again="score",
    )
    assert elsewhere.contamination.hidden_gap == first.contamination.hidden_gap
    strict = Engines(unopened, opened(label=lambda c, labels: [0, 0, 1]))
    judged = evaluate(submit(MODEL, measure), measure, strict, store, private=private, again="judge")
    assert judged.contamination.hidden_gap is not None
    assert judged.contamination.hidden_gap.value == 0
    without = evaluate(submit(MODEL, measure), measure, strict, store, again="judge")
    assert without.contamination.hidden_gap is None


def test_a_hidden_split_that_comes_later_is_asked(demo: Instrument, store: LocalStore, tmp_path: Path) -> None:
    measure = hiding(demo)
    engines = Engines(opened(answer=lambda c: f"Digo {c[-1].content[:20]}"), opened(label=worse_in_secret))
    early = evaluate(submit(MODEL, measure), measure.model_copy(update={"hidden": ()}), engines, store)
    assert early.contamination.hidden_gap is None
    later = evaluate(submit(MODEL, measure), measure, engines, store, private=LocalStore(tmp_path / "private"))
    assert later.contamination.hidden_gap is not None
    assert later.score == early.score


@pytest.mark.parametrize("served", ["candidate", "judge"])
def test_hidden_prompts_are_never_put_to_an_endpoint(
    demo: Instrument, store: LocalStore, tmp_path: Path, served: str
) -> None:
    measure = hiding(demo)
    model = MODEL.model_copy(update={"source": "endpoint"}) if served == "candidate" else MODEL
    if served == "judge":
        measure = measure.model_copy(update={"judge": measure.judge.model_copy(update={"source": "endpoint"})})
    asked: list[str] = []
    engines = Engines(opened(answer=lambda c: asked.append(c[-1].content) or "Río."), GOOD_JUDGE)
    result = evaluate(submit(model, measure), measure, engines, store, private=LocalStore(tmp_path / "private"))
    assert result.contamination.hidden_gap is None
    assert not [text for text in asked if "SECRETO" in text]


def test_an_instrument_names_its_hidden_set(tmp_path: Path) -> None:
    text = (DATA / "instruments" / "eco-es-demo.toml").read_text(encoding="utf-8")
    file = tmp_path / "own.toml"
    file.write_text(text.replace('split = "eval"', 'split = "eval"\nhidden = "mine"'), encoding="utf-8")
    plain, absent = load_instrument("eco-es-demo"), load_instrument(str(file))
    assert absent.hidden == ()
    line = plain.asked[0].model_copy(update={"id": "oculta", "text": "¿Y en secreto?"})
    (tmp_path / "mine.jsonl").write_text(line.model_dump_json(by_alias=True) + "\n", encoding="utf-8")
    there = load_instrument(str(file))
    assert [prompt.id for prompt in there.hidden] == ["oculta"]
    assert there.measured_digest == absent.measured_digest == plain.measured_digest
    assert there.asked_digest == plain.asked_digest
    assert there.limited(3).hidden == ()
