"""The embedded engine on real tiny models: shared prefixes and labels are exact, batches repeat."""

from __future__ import annotations

import importlib.util
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_model
from tiny_adapter import make_tiny_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer

from eco_eval.engines.chat import encode, render
from eco_eval.engines.transformers import TransformersEngine
from eco_eval.errors import EngineError, InputError
from eco_eval.types import Completion, Conversation, Decoding, Failure, LabelScores, Message

RUBRIC = "Eres jurado. " + "La respuesta es buena, regular o mala según cómo hable de los animales. " * 12
TEXTS = [
    "¿Y el río?",
    "El bosque da sombra, agua y leña; también es la casa de los lobos y de las aves que crían en abril.",
    "La carretera pasa por el humedal.",
    "Si el pueblo vende el agua, ¿quién riega la huerta de los vecinos de abajo cuando llegue el verano?",
    "Plantar más.",
    "No sé.",
    "Cierra el grifo y riega de noche, que la tierra aguanta mejor el calor y los sapos lo agradecen.",
]


def judge_like(texts: list[str] = TEXTS) -> list[Conversation]:
    return [(Message(role="system", content=RUBRIC), Message(role="user", content=text)) for text in texts]


def completions(engine: TransformersEngine, asked: list[Conversation], **options: Any) -> dict[int, Any]:
    return dict(engine.complete(asked, Decoding(max_tokens=24), **options))


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[TransformersEngine]:
    made = TransformersEngine(tiny_model, "tiny", dtype="float32", batch_size=4)
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(tiny_model).eval(), AutoTokenizer.from_pretrained(tiny_model)


def greedy_alone(model: Any, tokenizer: Any, conversation: Conversation, tokens: int = 24) -> str:
    ids = torch.tensor([encode(tokenizer, render(tokenizer, conversation))])
    out = model.generate(ids, max_new_tokens=tokens, do_sample=False, attention_mask=torch.ones_like(ids))
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def label_alone(model: Any, tokenizer: Any, conversation: Conversation, label: str) -> float:
    """Log-probability of a label by one plain forward pass over the whole text."""
    text = render(tokenizer, conversation)
    context, whole = encode(tokenizer, text), encode(tokenizer, text + label)
    assert whole[: len(context)] == context
    with torch.inference_mode():
        logp = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return float(sum(logp[i - 1, whole[i]] for i in range(len(context), len(whole))))


def test_batches_with_a_shared_prefix_answer_as_each_conversation_alone(
    engine: TransformersEngine, reference: tuple[Any, Any]
) -> None:
    found = completions(engine, judge_like())
    assert [found[i].text for i in range(len(TEXTS))] == [greedy_alone(*reference, c) for c in judge_like()]
    assert engine._prefix is not None, "nothing was shared, so this test shows nothing"


def test_batches_without_a_shared_prefix_answer_as_each_conversation_alone(
    engine: TransformersEngine, reference: tuple[Any, Any]
) -> None:
    asked = [(Message(role="user", content=text),) for text in TEXTS]
    found = completions(engine, asked)
    assert [found[i].text for i in range(len(TEXTS))] == [greedy_alone(*reference, c) for c in asked]


@pytest.mark.parametrize(
    "labels",
    [("buena", "regular", "mala"), ("muy buena", "muy mala", "muy regular de verdad"), ("good", "bad")],
    ids=["plain", "shared prefix", "other"],
)
def test_label_probabilities_are_exact(
    engine: TransformersEngine, reference: tuple[Any, Any], labels: tuple[str, ...]
) -> None:
    found = dict(engine.score_labels(judge_like(), labels))
    for i, conversation in enumerate(judge_like()):
        scores = found[i]
        assert isinstance(scores, LabelScores)
        alone = [label_alone(*reference, conversation, label) for label in labels]
        total = sum(math.exp(a) for a in alone)
        assert scores.probabilities == pytest.approx([math.exp(a) / total for a in alone], rel=1e-4)
        assert scores.mass == pytest.approx(total, rel=1e-4)
        assert scores.source == "exact"


def test_the_rubric_is_computed_once_and_each_answer_once(tiny_judge: Path, demo: Any) -> None:
    """At most 1.1 × the tokens of the rubric once and of each answer once, padding included."""
    from eco_eval.judging import direct_conversation
    from eco_eval.types import Answer

    engine = TransformersEngine(tiny_judge, "tiny", dtype="float32", context=8192)
    computed = 0

    def count(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal computed
        computed += kwargs["input_ids"].numel()

    engine._model.register_forward_pre_hook(count, with_kwargs=True)
    prompts = demo.asked[:40]
    sheets = [
        [direct_conversation(p, Answer(prompt_id=p.id, text=getattr(p, role)), demo) for p in prompts]
        for role in ("best", "worst")
    ]
    for sheet in sheets:
        assert len(list(engine.score_labels(sheet, ("buena", "regular", "mala")))) == len(prompts)
    assert engine._prefix is not None
    rubric = len(engine._prefix[0])
    rows = [encode(engine._tokenizer, render(engine._tokenizer, c)) for sheet in sheets for c in sheet]
    least = rubric + sum(len(row) - rubric for row in rows)
    assert rubric > 1000
    assert computed <= 1.1 * least


def test_skipped_conversations_keep_the_batches_and_the_numbers(engine: TransformersEngine) -> None:
    whole = dict(engine.score_labels(judge_like(), ("buena", "mala")))
    part = dict(engine.score_labels(judge_like(), ("buena", "mala"), skip={0, 3, 6}))
    assert set(part) == {1, 2, 4, 5}
    assert part == {i: whole[i] for i in part}


def test_a_conversation_too_long_fails_alone(engine: TransformersEngine) -> None:
    asked = [*judge_like(), (Message(role="user", content="agua " * 3000),)]
    found = completions(engine, asked)
    assert isinstance(found[len(TEXTS)], Failure)
    assert found[len(TEXTS)].cause == "too_long"
    assert all(isinstance(found[i], Completion) for i in range(len(TEXTS)))


def test_a_long_neighbour_does_not_cut_an_answer_short(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, "tiny", dtype="float32", context=1024)
    short = (Message(role="user", content="¿Y el río?"),)
    long = (Message(role="user", content="agua y río " * 140),)
    alone = dict(engine.complete([short], Decoding(max_tokens=200)))[0]
    beside = dict(engine.complete([short, long], Decoding(max_tokens=200)))[0]
    assert beside == alone


def test_the_models_own_decoding_settings_change_nothing(tmp_path: Path, tiny_model: Path) -> None:
    import json
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "own")
    file = folder / "generation_config.json"
    own = json.loads(file.read_text())
    own |= {"num_beams": 3, "repetition_penalty": 1.7, "do_sample": True, "return_dict_in_generate": True}
    file.write_text(json.dumps(own))
    plain = TransformersEngine(tiny_model, "tiny", dtype="float32")
    wilful = TransformersEngine(folder, "own", dtype="float32")
    assert completions(wilful, judge_like()) == completions(plain, judge_like())


def test_a_template_that_fails_is_a_failure_of_that_model(tmp_path: Path, tiny_model: Path) -> None:
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "template")
    engine = TransformersEngine(folder, "template", dtype="float32")
    engine._tokenizer.chat_template = "{{ raise_exception('no') }}"
    found = completions(engine, judge_like()[:2])
    assert [found[i].cause for i in (0, 1)] == ["template", "template"]


def test_an_answer_cut_by_the_limit_is_marked(engine: TransformersEngine) -> None:
    found = dict(engine.complete(judge_like(), Decoding(max_tokens=2)))
    cut = [found[i].truncated for i in range(len(TEXTS))]
    assert any(cut)
    assert all(found[i].tokens <= 2 for i in range(len(TEXTS)))


def test_sampling_repeats_with_its_seed_and_differs_with_another(engine: TransformersEngine) -> None:
    def drawn(seed: int) -> dict[int, Any]:
        return dict(engine.complete(judge_like(), Decoding(max_tokens=16, temperature=1.0, seed=seed)))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_model_with_sliding_windows_is_exact_without_sharing(tmp_path: Path) -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    folder = make_tiny_model(tmp_path / "gemma")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, head_dim=32,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=16, max_position_embeddings=1024,
        layer_types=["sliding_attention", "full_attention"], initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    Gemma3ForCausalLM(config).save_pretrained(folder)
    engine = TransformersEngine(folder, "gemma", dtype="float32", batch_size=4)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = dict(engine.score_labels(judge_like(), ("buena", "mala")))
    assert engine._prefix is None
    for i, conversation in enumerate(judge_like()):
        alone = [label_alone(model, tokenizer, conversation, label) for label in ("buena", "mala")]
        total = sum(math.exp(a) for a in alone)
        assert found[i].probabilities == pytest.approx([math.exp(a) / total for a in alone], rel=1e-3)
    assert [found[1].text for found in [completions(engine, judge_like())]] == [
        greedy_alone(model, tokenizer, judge_like()[1])
    ]


def test_a_broken_folder_is_one_clear_error(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(EngineError) as caught:
        TransformersEngine(folder, "broken")
    assert caught.value.key == "engine.load_failed"
    assert "\n" not in str(caught.value.values["reason"])


def test_labels_where_one_begins_another_are_refused(engine: TransformersEngine) -> None:
    with pytest.raises(EngineError) as caught:
        list(engine.score_labels(judge_like(), ("buena", "buena de verdad")))
    assert caught.value.key == "engine.bad_labels"


# --- adapters


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_adapter(tmp_path_factory.mktemp("adapters") / "lora", tiny_model)


def with_peft(base: Path, adapter: Path) -> tuple[Any, Any]:
    """PEFT's own way to put an adapter on a model, merged into it."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    return model.merge_and_unload().eval(), AutoTokenizer.from_pretrained(base)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True},
        {"modules_to_save": ["lm_head"]},
        {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]},
        {"trainable_token_indices": [40, 41]},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
    ids=["plain", "patterns", "modules_to_save", "lora_bias", "tokens", "embeddings"],
)
def test_an_adapter_answers_as_it_does_merged_into_its_base(
    tiny_model: Path, tmp_path: Path, engine: TransformersEngine, options: dict[str, Any]
) -> None:
    folder = make_tiny_adapter(tmp_path / "lora", tiny_model, **options)
    found = TransformersEngine(tiny_model, "lora", dtype="float32", batch_size=4, adapter=folder)
    answers = completions(found, judge_like())
    merged = with_peft(tiny_model, folder)
    assert [answers[i].text for i in range(len(TEXTS))] == [greedy_alone(*merged, c) for c in judge_like()]
    base = completions(engine, judge_like())
    assert all(answers[i] != base[i] for i in base)
    scores = dict(found.score_labels(judge_like(), ("buena", "mala")))
    for i, conversation in enumerate(judge_like()):
        alone = [label_alone(*merged, conversation, label) for label in ("buena", "mala")]
        total = sum(math.exp(a) for a in alone)
        assert scores[i].probabilities == pytest.approx([math.exp(a) / total for a in alone], rel=1e-3)


def test_an_adapter_runs_in_its_base_s_type_of_numbers(tiny_model: Path, adapter: Path) -> None:
    found = TransformersEngine(tiny_model, "lora", dtype="bfloat16", adapter=adapter)
    assert {p.dtype for p in found._model.parameters()} == {torch.bfloat16}
    assert (found.info.model, found.info.dtype) == ("lora", "bfloat16")


def test_the_template_of_an_adapter_is_what_it_is_asked_in(tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "own"))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}|{% endfor %}")
    own = TransformersEngine(tiny_model, "own", dtype="float32", adapter=folder)
    assert render(own._tokenizer, judge_like()[0]) == f"{RUBRIC}|{TEXTS[0]}|"


@pytest.mark.parametrize("wrong", ["dora", "layers", "left out", "other base", "pickle"])
def test_an_adapter_that_would_not_go_on_whole_is_refused(tiny_model: Path, tmp_path: Path, wrong: str) -> None:
    folder = make_tiny_adapter(tmp_path / "lora", tiny_model, use_dora=wrong == "dora")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    if wrong == "layers":
        save_file({name.replace("layers.1", "layers.7"): tensor for name, tensor in tensors.items()}, file)
    if wrong == "left out":
        save_file({name: tensor for name, tensor in tensors.items() if "layers.1" not in name}, file)
    if wrong == "other base":
        save_file({name: torch.zeros(tensor.shape[0], 3) for name, tensor in tensors.items()}, file)
    if wrong == "pickle":
        torch.save(tensors, folder / "adapter_model.bin")
        file.unlink()
    with pytest.raises(EngineError) as caught:
        TransformersEngine(tiny_model, "lora", dtype="float32", adapter=folder)
    expected = "engine.load_failed" if wrong == "other base" else "engine.bad_adapter"
    assert (caught.value.key, caught.value.values["model"]) == (expected, "lora")


def test_without_the_library_for_adapters_it_says_which_to_install(
    tiny_model: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "peft" else there(name, *more))
    with pytest.raises(InputError) as caught:
        TransformersEngine(tiny_model, "lora", adapter=adapter)
    assert (caught.value.key, caught.value.values["library"]) == ("data.extra_missing", "peft")


# --- memory and time

SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from eco_eval.engines.transformers import TransformersEngine
from eco_eval.errors import EngineError
from eco_eval.types import Decoding, Message

def leave(megabytes):
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 1_000_000,) * 2)

where, folder = sys.argv[1], Path(sys.argv[2])
try:
    if where == "loading":
        from transformers import AutoModelForCausalLM, Qwen2ForCausalLM  # before there is too little for the code
        leave(40)
        TransformersEngine(folder, "big", dtype="float32")
    else:
        engine = TransformersEngine(folder, "big", dtype="float32", batch_size=64)
        asked = [(Message(role="user", content="agua " * 900),)] * 64
        leave(40)
        list(engine.score_labels(asked, ("buena", "mala")))
except EngineError as error:
    print(error.key, error.retryable, error.values["model"], error.__cause__)
"""


@pytest.mark.parametrize("where", ["loading", "running"])
def test_memory_that_runs_out_is_said_as_such(tiny_model: Path, tmp_path: Path, where: str) -> None:
    folder = tiny_model
    if where == "loading":
        from transformers import Qwen2Config, Qwen2ForCausalLM

        folder = make_tiny_model(tmp_path / "wide")
        config = Qwen2Config.from_pretrained(folder)
        config.hidden_size, config.intermediate_size = 512, 40_000
        Qwen2ForCausalLM(config).save_pretrained(folder)
    done = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY, where, str(folder)], capture_output=True, text=True)
    assert done.stdout.startswith("engine.out_of_memory True big"), done.stdout + done.stderr


def test_without_a_batch_size_of_its_own_the_engine_takes_sixteen(tiny_model: Path) -> None:
    sizes = []
    engine = TransformersEngine(tiny_model, "tiny", dtype="float32")
    engine._model.register_forward_pre_hook(lambda _m, _a, kw: sizes.append(len(kw["input_ids"])), with_kwargs=True)
    assert len(list(engine.score_labels([(Message(role="user", content="¿Y el río?"),)] * 20, ("a", "e")))) == 20
    assert sizes == [16, 4]


def test_a_template_that_only_refuses_the_probe_costs_the_sharing_and_nothing_else(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, "tiny", dtype="float32")
    plain = completions(engine, judge_like())
    refuse = "{% if messages[-1].content == '¶' %}{{ raise_exception('no') }}{% endif %}"
    engine._tokenizer.chat_template = refuse + engine._tokenizer.chat_template
    engine._prefix = None
    assert completions(engine, judge_like()) == plain
    assert engine._prefix is None
