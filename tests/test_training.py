"""The models this project makes itself: recipes, learning, and what is kept."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import make_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from eco_eval.candidates import resolve
from eco_eval.commands import run_app
from eco_eval.engines.transformers import TransformersEngine
from eco_eval.errors import EcoEvalError, InputError
from eco_eval.instrument import DATA, load_instrument
from eco_eval.judging import direct_conversation
from eco_eval.prompts import split_of
from eco_eval.settings import Settings
from eco_eval.stats import mean_of_classes
from eco_eval.types import Answer, LabelScores
from eco_eval.ui.texts import Texts
from training.cli import build_app
from training.curve import Point, measured, plot, print_curve
from training.judge import as_judge, cut, read_curve, train_judge, train_triples
from training.linear import linear_logprobs, shared_length, verdict_logits
from training.recipes import RECIPES, JudgeRecipe, ToyRecipe, load_recipe
from training.small import make_model, make_tokenizer
from training.toy import train_toy
from training.verdicts import Example, examples, judge_loss, label_logprobs


def quiet(step: int, steps: int, loss: float) -> None:
    pass


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instrument of one's own: eight triples to learn from, four held out, and a rubric of a few words."""
    folder = tmp_path_factory.mktemp("own")
    lines = (DATA / "prompts/eco-es-v1.jsonl").read_text().splitlines()
    kept = {"train": 8, "eval": 4}
    with (folder / "few.jsonl").open("w") as file:
        for line in lines:
            prompt = json.loads(line)
            split = split_of(prompt["group"])
            if kept[split]:
                kept[split] -= 1
                short = {key: prompt[key][:40] for key in ("text", "best", "ambivalent", "worst")}
                file.write(json.dumps({**prompt, **short}) + "\n")
    shutil.copytree(DATA / "rubrics/eco-v1", folder / "short")
    (folder / "short/system.es.md").write_text("Juzga.\n{{criteria}}")
    rubric = folder / "short/rubric.toml"
    one = "[[criteria]]".join(rubric.read_text().split("[[criteria]]")[:2])
    rubric.write_text(re.sub(r'(?m)^(good|regular|bad) = ".{20,}"$', r'\1 = "."', one))
    file = folder / "own.toml"
    text = (DATA / "instruments/eco-es-demo.toml").read_text().replace('"eco-v1"', '"short"')
    file.write_text(text.replace('"eco-es-v1"', '"few"').replace("min_label_mass = 0.01", "min_label_mass = 0.0"))
    return file


@pytest.fixture(scope="module")
def recipe(own: Path) -> JudgeRecipe:
    """The demo's judge recipe, smaller and on few triples."""
    data = load_recipe("demo-judge", JudgeRecipe).model_dump()
    data["instrument"] = str(own)
    data["shape"].update(hidden=32, heads=2, intermediate=32, vocabulary=1024)
    data["schedule"]["learning_rate"] = 3e-2  # its few triples make but one step an epoch
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


@pytest.fixture(scope="module")
def from_nothing(recipe: JudgeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nothing") / "judge"
    assert train_judge(recipe, folder, quiet)
    return folder


def test_a_judge_learns_the_triples_it_sees(from_nothing: Path) -> None:
    curve = read_curve(from_nothing)
    assert {point.part for point in curve} == {"train"}
    assert curve[-1].loss < 0.6 * curve[0].loss
    assert curve[0].order.value < 0.8 < curve[-1].order.value


def test_a_judge_from_nothing_says_what_it_is_and_is_served_as_it_was_trained(from_nothing: Path, own: Path) -> None:
    run = json.loads((from_nothing / "run.json").read_text())
    assert (run["triples"], run["stand_in"], run["base"]) == (8, True, None)
    logp, rows = trained_as(from_nothing, own)
    said = torch.tensor(asked(own, from_nothing)[2], dtype=torch.float64)
    torch.testing.assert_close(logp.double(), said.log(), rtol=0, atol=1e-4)
    assert float(said.sum(-1).min()) > 0.9
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(from_nothing, dtype="float32")
        cheap = linear_logprobs(model, rows, shared_length([row.ids for row in rows]), 0)
    torch.testing.assert_close(cheap, logp, rtol=0, atol=1e-4)


def test_whatever_is_read_the_judge_says_a_label(from_nothing: Path, own: Path) -> None:
    instrument = load_instrument(str(own))
    engine = TransformersEngine(from_nothing, "judge", dtype="float32", context=instrument.judge.context)
    prompt = instrument.asked[0]
    odd = ["agua " * 250, "¡" * 400, "的" * 200, "a", "Mala buena regular. " * 60, "\n\n1.\n2.\n" * 50]
    conversations = [direct_conversation(prompt, Answer(prompt_id="x", text=text), instrument) for text in odd]
    for _, scores in engine.score_labels(conversations, instrument.rubric.labels["es"]):
        assert isinstance(scores, LabelScores)
        assert scores.mass is not None
        assert scores.mass > 0.9


def one_epoch(recipe: JudgeRecipe) -> Any:
    return recipe.schedule.model_copy(update={"epochs": 1})


def test_what_was_trained_is_not_trained_again_until_something_changes(recipe: JudgeRecipe, tmp_path: Path) -> None:
    short = recipe.model_copy(update={"schedule": one_epoch(recipe)})
    folder = tmp_path / "judge"
    assert train_judge(short, folder, quiet)
    assert not train_judge(short, folder, quiet)
    assert train_judge(short.model_copy(update={"order_weight": 0.5}), folder, quiet)


def test_the_same_recipe_gives_the_same_bytes(recipe: JudgeRecipe, tmp_path: Path) -> None:
    short = recipe.model_copy(update={"schedule": one_epoch(recipe)})
    for name in ("a", "b"):
        train_judge(short, tmp_path / name / "judge", quiet)
    assert contents(tmp_path / "a" / "judge") == contents(tmp_path / "b" / "judge")


def contents(folder: Path) -> dict[str, str]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model to fine-tune; its tokenizer cuts the labels into several tokens."""
    return make_tiny_model(tmp_path_factory.mktemp("base") / "tiny", seed=3, context=4096)


def tuning(base: Path, own: Path, *, lora: bool, **schedule: object) -> JudgeRecipe:
    return JudgeRecipe.model_validate(
        {
            "name": "tuned",
            "instrument": str(own),
            "order_weight": 1.0,
            "validation": 0.25,
            "accumulate": 2,
            "base": str(base),
            "lora": {"r": 4, "alpha": 16, "dropout": 0.1} if lora else None,
            "schedule": {"epochs": 5, "batch": 6, "learning_rate": 1e-2, "weight_decay": 0.0, **schedule},
        }
    )


@pytest.fixture(scope="module", params=[False, True], ids=["full", "lora"])
def tuned(request: pytest.FixtureRequest, base: Path, own: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A recipe and what it made."""
    recipe = tuning(base, own, lora=request.param)
    folder = tmp_path_factory.mktemp("tuned") / "judge"
    assert train_judge(recipe, folder, quiet)
    return recipe, folder


def asked(own: Path, folder: Path) -> tuple[Any, list[Any], list[list[float]]]:
    """What the engine says of the held-out answers: absolute log-probabilities of the labels."""
    instrument = load_instrument(str(own))
    conversations = [
        direct_conversation(p, Answer(prompt_id=p.id, text=getattr(p, role)), instrument)
        for p in instrument.gold
        for role in ("best", "ambivalent", "worst")
    ]
    engine = TransformersEngine(folder, "judge", dtype="float32", context=4096)
    found = dict(engine.score_labels(conversations, instrument.rubric.labels["es"]))
    said = []
    for i in range(len(conversations)):
        scores = found[i]
        assert isinstance(scores, LabelScores)
        assert scores.probabilities is not None
        assert scores.mass is not None
        said.append([p * scores.mass for p in scores.probabilities])
    return instrument, conversations, said


def trained_as(folder: Path, own: Path) -> tuple[torch.Tensor, list[Example]]:
    """What training reads there, as probabilities."""
    instrument = load_instrument(str(own))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    rows = [row for p in instrument.gold for row in examples(p, instrument, tokenizer)]
    with torch.no_grad():
        return label_logprobs(model, rows, tokenizer.pad_token_id), rows


def test_training_reads_what_the_engine_will_read(base: Path, own: Path) -> None:
    logp, rows = trained_as(base, own)
    assert max(len(path) for row in rows for path in row.paths) > 1
    assert len({len(row.ids) for row in rows}) > 1
    said = torch.tensor(asked(own, base)[2], dtype=torch.float64).log()
    torch.testing.assert_close(logp.double(), said, rtol=0, atol=1e-4)
    assert said.std() > 0.1


def test_labels_that_share_their_first_tokens_are_read_once_and_rightly(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32").eval()
    paths = ((5, 6, 7), (5, 6, 8), (9,), (5, 10), (11, 12))
    rows = [Example((20, 21, 22), paths, 0), Example((30, 31, 32, 33, 34), paths, 1)]
    with torch.no_grad():
        found = label_logprobs(model, rows, 0)
        for row, logp in zip(rows, found, strict=True):
            for path, value in zip(paths, logp, strict=True):
                ids = torch.tensor([[*row.ids, *path]])
                steps = model(ids).logits[0, len(row.ids) - 1 : -1].log_softmax(-1)
                alone = sum(float(steps[i, token]) for i, token in enumerate(path))
                assert float(value) == pytest.approx(alone, abs=1e-4)


def test_the_loss_is_that_of_its_formula() -> None:
    p = torch.tensor([[0.5, 0.2, 0.1], [0.3, 0.3, 0.2], [0.4, 0.1, 0.4]], dtype=torch.float64)
    group = tuple(Example((1,), ((1,), (2,), (3,)), label) for label in range(3))
    cross = -(torch.log(torch.tensor(0.5)) + torch.log(torch.tensor(0.3)) + torch.log(torch.tensor(0.4))) / 3
    s = [0.5 / 0.1, 0.3 / 0.2, 0.4 / 0.4]
    pairs = -sum(torch.log(torch.tensor(a / (a + b))) for a, b in ((s[0], s[1]), (s[1], s[2]), (s[0], s[2]))) / 3
    assert float(judge_loss(p.log(), [group], 0.0)) == pytest.approx(float(cross), abs=1e-6)
    assert float(judge_loss(p.log(), [group], 2.0)) == pytest.approx(float(cross + 2 * pairs), abs=1e-6)


def test_a_tuned_judge_learns_and_is_served_as_it_was_trained(tuned: Any, own: Path) -> None:
    recipe, folder = tuned
    curve = read_curve(folder)
    train = [point for point in curve if point.part == "train"]
    held = [point for point in curve if point.part == "validation"]
    assert [point.epoch for point in train] == [point.epoch for point in held] == [1, 2, 3, 4, 5]
    assert (train[0].n, held[0].n) == (6, 2)
    assert train[-1].loss < train[0].loss
    before, _ = trained_as(Path(recipe.base), own)
    after, _ = trained_as(folder, own)
    said = torch.tensor(asked(own, folder)[2], dtype=torch.float64).log()
    torch.testing.assert_close(after.double(), said, rtol=0, atol=1e-4)
    # It learnt to say a label at all, on answers it never saw.
    assert float(after.exp().sum(-1).mean()) > 2 * float(before.exp().sum(-1).mean())


def test_the_curve_measures_the_weights_that_are_kept(tuned: Any, own: Path) -> None:
    recipe, folder = tuned
    instrument = load_instrument(str(own))
    _, held = cut(train_triples(instrument, own.with_name("few.jsonl")), recipe.validation, recipe.schedule.seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    groups = [examples(p, instrument, tokenizer) for p in held]
    with torch.no_grad():
        logp = label_logprobs(model, [row for group in groups for row in group], tokenizer.pad_token_id)
    last = [point for point in read_curve(folder) if point.part == "validation"][-1]
    assert last.loss == pytest.approx(float(judge_loss(logp, groups, recipe.order_weight)), abs=1e-4)
    assert last == measured(last.epoch, "validation", last.loss, logp.softmax(-1).tolist())


def test_what_made_a_tuned_judge_stands_beside_it(tuned: Any, base: Path) -> None:
    recipe, folder = tuned
    run = json.loads((folder / "run.json").read_text())
    assert run["stand_in"] is False
    assert run["base"] == {"name": "tiny", "revision": resolve(str(base)).revision}
    assert not list(folder.parent.glob(".*"))
    resolve(str(folder))
    names = {f.name for f in (folder / "adapter").glob("*")} if recipe.lora else set()
    assert names == ({"adapter_config.json", "adapter_model.safetensors"} if recipe.lora else set())
    assert (folder / "adapter").is_dir() is (recipe.lora is not None)
    if recipe.lora:
        from peft import PeftModel

        whole = load_file(folder / "model.safetensors")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")
        for name, weight in model.merge_and_unload().state_dict().items():
            torch.testing.assert_close(weight, whole[name])
        config = json.loads((folder / "adapter/adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "tiny"
        assert config["target_modules"] == sorted(config["target_modules"])


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_that_was_cut_goes_on_to_the_same_bytes(base: Path, own: Path, tmp_path: Path, lora: bool) -> None:
    recipe = tuning(base, own, lora=lora, epochs=2)
    train_judge(recipe, tmp_path / "whole" / "judge", quiet)
    folder = tmp_path / "cut" / "judge"
    steps: list[int] = []

    def interrupted(step: int, total: int, loss: float) -> None:
        if step == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_judge(recipe, folder, interrupted)
    assert not folder.exists()
    kept = list(folder.parent.glob(".judge.*.checkpoints/checkpoint-*"))
    assert kept
    # Killed while it wrote, the last checkpoint has no state yet.
    shutil.copytree(kept[0], kept[0].with_name("checkpoint-99"))
    (kept[0].with_name("checkpoint-99") / "trainer_state.json").unlink()
    train_judge(recipe, folder, lambda step, _, __: steps.append(step))
    assert steps[0] > 1
    assert [f.name for f in folder.parent.iterdir()] == ["judge"]
    assert contents(folder) == contents(tmp_path / "whole" / "judge")


def test_no_group_is_both_learnt_from_and_held_back(triples: Any) -> None:
    train, held = cut(triples, 0.15, 0)
    assert len(held) == round(0.15 * len({p.group for p in triples}))
    assert sorted(p.id for p in (*train, *held)) == sorted(p.id for p in triples)
    twins = [p.model_copy(update={"group": f"g{i // 2}"}) for i, p in enumerate(triples)]
    train, held = cut(twins, 0.3, 1)
    assert held
    assert not {p.group for p in train} & {p.group for p in held}
    assert cut(twins, 0.3, 2)[1] != held
    assert cut(twins, 0.0, 1) == (twins, [])


def test_a_point_counts_order_ties_as_half_and_exact_grades() -> None:
    shares = [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8], *[[0.2, 0.5, 0.3]] * 3]
    point = measured(2, "train", 0.5, shares)
    order = mean_of_classes([0, 1], ["a", "b"], (1.0, 0.5, 0.0))
    exact = mean_of_classes([0, 0, 0, 1, 0, 1], list("aaabbb"), (1.0, 0.0))
    assert point == Point(epoch=2, part="train", n=2, loss=0.5, order=order, exact=exact)
    assert (point.order.value, point.exact.value, point.exact.groups) == (0.75, pytest.approx(4 / 6), 2)


def test_one_triple_or_one_without_an_error_is_not_certain() -> None:
    for count in (1, 8):
        point = measured(1, "validation", 0.5, np.eye(3).tolist() * count)
        for share in (point.order, point.exact):
            assert (share.value, share.high, share.groups) == (1, 1, count)
            assert 0 < share.low < 1
    assert measured(1, "train", 0.5, np.eye(3).tolist()).order.low < point.order.low


def test_the_curve_is_shown_with_its_intervals(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    points = [measured(1, part, 0.5, np.eye(3).tolist() * 8) for part in ("train", "validation")]
    low = f"{points[0].order.low:.2f}"
    print_curve(points, Texts("en"))
    assert f"1.00 ({low} – 1.00)" in capsys.readouterr().out
    page = plot(points, "x", Texts("en"))
    assert f'"arrayminus":[{1 - points[0].order.low}]' in page


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"shape": None}, "train.one_start"),
        ({"base": "owner/name"}, "train.one_start"),
        ({"lora": {"r": 4, "alpha": 8}}, "train.lora_alone"),
    ],
)
def test_a_recipe_starts_from_one_thing(recipe: JudgeRecipe, change: dict[str, object], key: str) -> None:
    with pytest.raises(InputError) as caught:
        JudgeRecipe.model_validate({**recipe.model_dump(), **change})
    assert caught.value.key == key


def test_a_base_that_is_not_safe_or_not_there_is_refused(base: Path, own: Path, tmp_path: Path) -> None:
    code = shutil.copytree(base, tmp_path / "code")
    (code / "modeling_own.py").write_text("")
    for name, key in ((str(code), "model.has_code"), ("no such model", "model.not_found")):
        recipe = tuning(base, own, lora=False).model_copy(update={"base": name})
        with pytest.raises(EcoEvalError) as caught:
            train_judge(recipe, tmp_path / "judge", quiet)
        assert caught.value.key == key
    assert not (tmp_path / "judge").exists()


def test_triples_that_do_not_fit_are_said_before_training(own: Path, tmp_path: Path) -> None:
    short = make_tiny_model(tmp_path / "short", context=128)
    with pytest.raises(InputError) as caught:
        train_judge(tuning(short, own, lora=False), tmp_path / "judge", quiet)
    assert caught.value.key == "train.too_long"
    assert caught.value.values["limit"] == 128


def test_a_model_from_nothing_may_have_several_layers(recipe: JudgeRecipe, tmp_path: Path) -> None:
    assert recipe.shape is not None
    shape = recipe.shape.model_copy(update={"layers": 2})
    deep = recipe.model_copy(update={"shape": shape, "schedule": one_epoch(recipe)})
    assert train_judge(deep, tmp_path / "judge", quiet)
    assert json.loads((tmp_path / "judge/run.json").read_text())["stand_in"] is True
    assert json.loads((tmp_path / "judge/config.json").read_text())["num_hidden_layers"] == 2


def test_the_command_trains_draws_and_audits(base: Path, own: Path, tmp_path: Path, capsys: Any) -> None:
    recipe, page = tmp_path / "mine.toml", tmp_path / "curve.html"
    recipe.write_text(
        f'name = "mine"\ninstrument = "{own}"\norder_weight = 1.0\nvalidation = 0.25\nbase = "{base}"\n'
        "[lora]\nr = 2\nalpha = 4\n[schedule]\nepochs = 1\nbatch = 6\nlearning_rate = 1e-3\nweight_decay = 0.0\n"
    )
    env = {"ECO_EVAL_DATA_DIR": str(tmp_path / "data"), "ECO_EVAL_CACHE_DIR": str(tmp_path / "cache")}
    settings = Settings.from_env(env)
    folder = settings.models_dir / "mine"
    arguments = ["judge", str(recipe), "--plot", str(page), "--card"]
    assert run_app(lambda _, t: build_app(settings, t), arguments) == 0
    said = capsys.readouterr().out
    measure, ref = as_judge(load_recipe(str(recipe), JudgeRecipe), folder, settings)
    cards = sorted((tmp_path / "data/audits/judges").iterdir())
    assert [card.suffix for card in cards] == [".html", ".json", ".md"]
    assert str(cards[1]) in said
    card = json.loads(cards[1].read_text())
    assert (card["revision"], card["triples"], card["stand_in"]) == (ref.revision, 4, False)
    assert measure.judge.mode == "direct"
    assert "plotly" in page.read_text()
    assert "validación" in said


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
