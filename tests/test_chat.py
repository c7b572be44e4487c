"""Conversations to text, and generated text to answer and reasoning."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tiny_model
from transformers import AutoTokenizer

from eco_eval.engines.chat import opens_reasoning, read_completion, render
from eco_eval.types import Message

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
