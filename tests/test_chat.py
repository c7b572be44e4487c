"""Conversations to text, and generated text to answer and reasoning."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tiny_model
from transformers import AutoTokenizer

from eco_eval.engines import chat
from eco_eval.engines.chat import (
    load_tokenizer,
    loading,
    opens_reasoning,
    read_completion,
    render,
    render_or_failure,
    tokenizer_folder,
)
from eco_eval.errors import EngineError, InputError
from eco_eval.types import Failure, Message

PLAIN = st.text(alphabet=st.characters(blacklist_characters="<[", blacklist_categories=("Cs",)))


@pytest.fixture(scope="module")
def plain_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("m") / "base", chat=False))


@given(PLAIN, PLAIN)
def test_reasoning_is_kept_apart_from_the_answer(thought: str, answer: str) -> None:
    read = read_completion(f"<think>{thought}</think>{answer}")
    assert read.text == answer.strip()
    assert read.reasoning == (thought.strip() or None)


@given(PLAIN)
def test_text_without_marks_is_all_answer(answer: str) -> None:
    read = read_completion(answer)
    assert (read.text, read.reasoning) == (answer.strip(), None)


def test_reasoning_opened_by_the_template_ends_at_its_mark() -> None:
    read = read_completion("pienso\n</think>\n\nContesto.", opened=True)
    assert (read.text, read.reasoning) == ("Contesto.", "pienso")


def test_reasoning_that_never_ends_leaves_no_answer() -> None:
    for opened, text in ((False, "<think>pienso y pienso"), (True, "pienso y pienso")):
        read = read_completion(text, opened=opened, truncated=True)
        assert (read.text, read.reasoning, read.truncated) == ("", "pienso y pienso", True)


def test_mistral_marks_and_special_tokens_are_removed() -> None:
    read = read_completion("[THINK]uf[/THINK]Hola</s>", special=["</s>"])
    assert (read.text, read.reasoning) == ("Hola", "uf")


def test_a_closing_mark_alone_ends_reasoning_when_nobody_knows_who_opened_it() -> None:
    read = read_completion("pienso</think>Contesto.", opened=None)
    assert (read.text, read.reasoning) == ("Contesto.", "pienso")


def test_a_closing_mark_alone_hides_nothing_when_the_prompt_opened_no_reasoning() -> None:
    assert read_completion("Mata lobos.</think>Cuida el río.").text == "Mata lobos.</think>Cuida el río."


def test_an_open_think_mark_at_the_end_of_the_prompt_is_noticed() -> None:
    assert opens_reasoning("<|im_start|>assistant\n<think>\n")
    assert not opens_reasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_model_without_template_gets_the_alpaca_format(plain_tokenizer: Any) -> None:
    text = render(
        plain_tokenizer,
        (Message(role="system", content="Eres guarda forestal."), Message(role="user", content="¿Y el lobo?")),
    )
    assert text == "Eres guarda forestal.\n\n### Instruction:\n¿Y el lobo?\n\n### Response:\n"


def test_a_template_without_system_role_gets_it_in_the_first_message(plain_tokenizer: Any) -> None:
    plain_tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }}{% endfor %}"
    )
    system, user = Message(role="system", content="Sé breve."), Message(role="user", content="¿Y el lobo?")
    assert render(plain_tokenizer, (system, user)) == "[user] Sé breve.\n\n¿Y el lobo?"
    plain_tokenizer.chat_template = None


SAID = (Message(role="user", content="¿Y el lobo?"),)
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
BRANCHING = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"


@pytest.mark.parametrize("template", [ENDLESS, BRANCHING, "{% for m in messages %}" + ENDLESS + "{% endfor %}"])
def test_a_template_that_never_ends_fails_on_its_conversation_in_any_thread(
    plain_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.setattr(chat, "RENDER_SECONDS", 0.3)
    monkeypatch.setattr(plain_tokenizer, "chat_template", template)
    expected = Failure(cause="template", detail="TimeoutError: not done within 0.3 s")
    assert render_or_failure(plain_tokenizer, SAID) == expected
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda _: render_or_failure(plain_tokenizer, SAID), range(3))) == [expected] * 3
    monkeypatch.setattr(plain_tokenizer, "chat_template", "{{ messages[0].content }}")
    assert render_or_failure(plain_tokenizer, SAID) == "¿Y el lobo?"


def test_a_template_that_writes_without_end_fails_on_its_conversation(
    plain_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "MAX_RENDERED", 1000)
    monkeypatch.setattr(plain_tokenizer, "chat_template", "{{ 'x' * 1001 }}")
    assert render_or_failure(plain_tokenizer, SAID) == Failure(cause="template", detail="1001 > 1000 characters")
    monkeypatch.setattr(plain_tokenizer, "chat_template", "{{ 'x' * 1000 }}")
    assert render_or_failure(plain_tokenizer, SAID) == "x" * 1000


def test_a_template_that_only_fails_on_certain_words_fails_on_those(plain_tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(chat, "RENDER_SECONDS", 0.3)
    sly = "{% if 'lobo' in messages[0].content %}" + ENDLESS + "{% endif %}{{ messages[0].content }}"
    monkeypatch.setattr(plain_tokenizer, "chat_template", sly)
    found = [
        render_or_failure(plain_tokenizer, (Message(role="user", content=text),)) for text in ("el lobo", "el mar")
    ]
    assert found == [Failure(cause="template", detail="TimeoutError: not done within 0.3 s"), "el mar"]


class TestTokenizerOfAnAdapter:
    """Its own where it brings one; a template alone takes the place of the model's."""

    def test_without_one_it_is_the_model_s(self, tiny_model: Path, tmp_path: Path) -> None:
        assert tokenizer_folder(tiny_model, tmp_path) == tokenizer_folder(tiny_model) == tiny_model
        assert render(load_tokenizer(tiny_model, tmp_path), SAID) == render(load_tokenizer(tiny_model), SAID)

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("chat_template.jinja", "<{{ messages[0].content }}>"),
            ("tokenizer_config.json", json.dumps({"chat_template": "<{{ messages[0].content }}>"})),
            (
                "tokenizer_config.json",
                json.dumps({"chat_template": [{"name": "default", "template": "<{{ messages[0].content }}>"}]}),
            ),
        ],
    )
    def test_a_template_alone_wins(self, tiny_model: Path, tmp_path: Path, file: str, content: str) -> None:
        (tmp_path / file).write_text(content)
        assert render(load_tokenizer(tiny_model, tmp_path), SAID) == "<¿Y el lobo?>"

    def test_a_configuration_without_template_leaves_the_model_s(self, tiny_model: Path, tmp_path: Path) -> None:
        (tmp_path / "tokenizer_config.json").write_text('{"padding_side": "left"}')
        assert render(load_tokenizer(tiny_model, tmp_path), SAID) == render(load_tokenizer(tiny_model), SAID)

    def test_its_own_tokenizer_wins_whole(self, tiny_model: Path, tmp_path: Path) -> None:
        own = AutoTokenizer.from_pretrained(tiny_model)
        own.add_special_tokens({"eos_token": "<|fin|>"})
        own.chat_template = "{{ messages[0].content }}{{ eos_token }}"
        own.save_pretrained(tmp_path)
        found = load_tokenizer(tiny_model, tmp_path)
        assert tokenizer_folder(tiny_model, tmp_path) == tmp_path
        assert (render(found, SAID), found.eos_token) == ("¿Y el lobo?<|fin|>", "<|fin|>")


def test_a_folder_that_does_not_load_is_one_error_and_memory_another(tmp_path: Path) -> None:
    for raised, key, retryable in (
        (ValueError("first\nsecond"), "engine.load_failed", False),
        (MemoryError(), "engine.out_of_memory", True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "engine.out_of_memory", True),
    ):
        with pytest.raises(EngineError) as caught, loading("mine"):
            raise raised
        assert (caught.value.key, caught.value.retryable, caught.value.values["model"]) == (key, retryable, "mine")
    with pytest.raises(InputError, match=r"data\.extra_missing"), loading("mine"):
        raise InputError("data.extra_missing", library="peft", extra="service")
