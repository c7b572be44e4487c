"""The models this project makes itself: recipes, learning, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eco_eval.engines.transformers import TransformersEngine
from eco_eval.errors import InputError
from eco_eval.instrument import load_instrument
from eco_eval.judging import direct_conversation
from eco_eval.prompts import split_of
from eco_eval.types import Answer, LabelScores
from training.judge import (
    examples,
    fit,
    shared_length,
    train_judge,
    train_triples,
    verdict_logits,
)
from training.recipes import RECIPES, JudgeRecipe, ToyRecipe, load_recipe
from training.small import make_model, make_tokenizer
from training.toy import train_toy


def quiet(step: int, steps: int, loss: float) -> None:
    pass


@pytest.fixture(scope="module")
def recipe() -> JudgeRecipe:
    """The demo's judge recipe, shorter and smaller."""
    data = load_recipe("demo-judge", JudgeRecipe).model_dump()
    data["schedule"]["epochs"] = 4
    data["shape"].update(hidden=32, heads=2, intermediate=32)
    return JudgeRecipe.model_validate(data)


@pytest.fixture(scope="module")
def triples() -> Any:
    return train_triples(load_instrument("eco-es-demo"))


def test_judges_and_toys_learn_from_the_train_split_alone(triples: Any) -> None:
    assert len(triples) > 60
    assert {split_of(p.group) for p in triples} == {"train"}


def test_the_cheap_verdict_equals_the_models_own_forward(recipe: JudgeRecipe, triples: Any) -> None:
    instrument = load_instrument("eco-es-demo")
    tokenizer = make_tokenizer([p.text for p in triples], 512)
    model = make_model(recipe.shape, recipe.schedule, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # attention far from even
    rows = [e.ids for p in triples[:2] for e in examples(p, instrument, tokenizer)]
    shared = shared_length(rows)
    with torch.no_grad():
        cheap = verdict_logits(model, rows, shared, tokenizer.pad_token_id)
        whole = torch.stack([model(torch.tensor([row])).logits[0, -1] for row in rows])
        elsewhere = verdict_logits(model, [row[: shared + 9] for row in rows], shared, tokenizer.pad_token_id)
    assert shared > 500
    torch.testing.assert_close(cheap, whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(elsewhere, whole, rtol=1e-2, atol=1e-2)


def one_epoch(recipe: JudgeRecipe) -> Any:
    return recipe.schedule.model_copy(update={"epochs": 1})


def test_a_judge_learns_the_triples_it_sees(recipe: JudgeRecipe, triples: Any) -> None:
    losses: list[float] = []
    longer = recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"epochs": 25})})
    fit(longer, load_instrument("eco-es-demo"), triples[:8], lambda _s, _n, loss: losses.append(loss))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_a_trained_judge_is_served_by_the_engine_and_puts_its_mass_on_the_labels(
    recipe: JudgeRecipe, tmp_path: Path
) -> None:
    folder = tmp_path / "judge"
    assert train_judge(recipe, folder, quiet)
    instrument = load_instrument("eco-es-demo")
    engine = TransformersEngine(folder, "judge", dtype="float32", context=instrument.judge.context)
    prompts = instrument.asked[:6]
    asked = [direct_conversation(p, Answer(prompt_id=p.id, text=p.best or ""), instrument) for p in prompts]
    for _, scores in engine.score_labels(asked, instrument.rubric.labels["es"]):
        assert isinstance(scores, LabelScores)
        assert scores.mass is not None
        assert scores.mass > 0.9
    run = json.loads((folder / "run.json").read_text())
    assert run["triples"] == len(train_triples(instrument))


def test_whatever_is_read_the_judge_says_a_label(recipe: JudgeRecipe, tmp_path: Path) -> None:
    train_judge(recipe, tmp_path / "judge", quiet)
    instrument = load_instrument("eco-es-demo")
    engine = TransformersEngine(tmp_path / "judge", "judge", dtype="float32", context=instrument.judge.context)
    prompt = instrument.asked[0]
    odd = ["agua " * 250, "¡" * 400, "的" * 200, "a", "Mala buena regular. " * 60, "\n\n1.\n2.\n" * 50]
    asked = [direct_conversation(prompt, Answer(prompt_id="x", text=text), instrument) for text in odd]
    for _, scores in engine.score_labels(asked, instrument.rubric.labels["es"]):
        assert isinstance(scores, LabelScores)
        assert scores.mass is not None
        assert scores.mass > 0.9


def test_what_was_trained_is_not_trained_again_until_something_changes(recipe: JudgeRecipe, tmp_path: Path) -> None:
    short = recipe.model_copy(update={"schedule": one_epoch(recipe)})
    folder = tmp_path / "judge"
    assert train_judge(short, folder, quiet)
    assert not train_judge(short, folder, quiet)
    assert train_judge(short.model_copy(update={"order_weight": 0.5}), folder, quiet)


def test_training_repeats_exactly_with_its_seed(recipe: JudgeRecipe, triples: Any) -> None:
    short = recipe.model_copy(update={"schedule": one_epoch(recipe)})
    models = [fit(short, load_instrument("eco-es-demo"), triples[:6], quiet)[0] for _ in range(2)]
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_judge_of_several_layers_is_refused(recipe: JudgeRecipe, tmp_path: Path) -> None:
    deep = recipe.model_copy(update={"shape": recipe.shape.model_copy(update={"layers": 2})})
    with pytest.raises(InputError) as caught:
        train_judge(deep, tmp_path / "judge", quiet)
    assert caught.value.key == "train.one_layer"


def test_a_toy_goes_on_from_another_and_moves_its_weights(tmp_path: Path) -> None:
    base, best = (small_toy(name) for name in ("toy-base", "toy-best"))
    assert train_toy(base, tmp_path / base.name, quiet)
    assert train_toy(best, tmp_path / best.name, quiet)
    before = AutoModelForCausalLM.from_pretrained(tmp_path / base.name)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / best.name)
    assert not torch.equal(before.model.embed_tokens.weight, after.model.embed_tokens.weight)
    names = [AutoTokenizer.from_pretrained(tmp_path / n.name).get_vocab() for n in (base, best)]
    assert names[0] == names[1]


def test_a_toy_without_its_start_says_which(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        train_toy(small_toy("toy-best"), tmp_path / "toy-best", quiet)
    assert caught.value.key == "train.no_init"
    assert not list(tmp_path.iterdir())


def small_toy(name: str) -> ToyRecipe:
    data = load_recipe(name, ToyRecipe).model_dump()
    data["schedule"].update(epochs=1, batch=32)
    data["shape"].update(hidden=16, layers=1, heads=1, intermediate=16, vocabulary=512)
    return ToyRecipe.model_validate(data)


def test_every_bundled_recipe_is_valid() -> None:
    for file in RECIPES.glob("*.toml"):
        kind = JudgeRecipe if "judge" in file.stem else ToyRecipe
        assert load_recipe(file.stem, kind).name == file.stem
        assert file.read_text().startswith("# eco-train ")


def test_a_recipe_with_a_typo_names_the_file_and_the_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text((RECIPES / "demo-judge.toml").read_text().replace("epochs", "epocas"))
    with pytest.raises(InputError) as caught:
        load_recipe(str(file), JudgeRecipe)
    assert caught.value.values["file"] == file
    assert "schedule.epoc" in str(caught.value.values["field"])
