"""The embedded engine on real tiny models: shared prefixes and labels are exact, batches repeat."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from eco_eval.engines.chat import encode, render
from eco_eval.engines.transformers import TransformersEngine
from eco_eval.errors import EngineError
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
