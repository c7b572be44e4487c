"""The attack battery is what it says, on every triple, in both languages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_eval.attacks import ATTACKS, Attack, as_list, attacked, first_half, sentences
from eco_eval.instrument import Instrument
from eco_eval.judging import neutralise
from eco_eval.triples.baselines import eco_words

BY_NAME = {attack.name: attack for attack in ATTACKS}


def made(demo: Instrument, name: str, lang: str = "es") -> list[str]:
    return attacked(BY_NAME[name], demo.gold, demo.rubric, "es" if lang == "es" else "en")


@pytest.mark.parametrize("lang", ["es", "en"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_every_attack_answers_every_prompt_and_leaves_no_place_open(
    demo: Instrument, attack: Attack, lang: str
) -> None:
    answers = made(demo, attack.name, lang)
    assert len(answers) == len(demo.gold)
    assert not any("{{" in answer for answer in answers)
    assert all(answer.strip() for answer in answers) or attack.name == "empty"


def test_what_is_made_from_an_answer_holds_it(demo: Instrument) -> None:
    for name in ("injection", "quote", "padding", "hedges", "other_language"):
        for prompt, answer in zip(demo.gold, made(demo, name), strict=True):
            assert prompt.worst is not None
            assert prompt.worst in answer, name
            assert len(answer) > len(prompt.worst) + 40


def test_padding_adds_the_words_that_must_earn_nothing(demo: Instrument) -> None:
    for prompt, answer in zip(demo.gold, made(demo, "padding"), strict=True):
        assert eco_words(answer) >= eco_words(prompt.worst or "") + 5


def test_a_swapped_answer_is_the_best_of_another_prompt_and_each_is_used_once(demo: Instrument) -> None:
    answers = made(demo, "swapped")
    assert sorted(answers) == sorted(prompt.best or "" for prompt in demo.gold)
    assert not any(answer == prompt.best for prompt, answer in zip(demo.gold, answers, strict=True))


def test_a_forged_mark_is_neutralised_before_a_judge_reads_it(demo: Instrument) -> None:
    assert all("<" not in neutralise(answer) for answer in made(demo, "injection"))


def test_other_language_speaks_the_other_one(demo: Instrument) -> None:
    assert all("Verdict: good" in answer for answer in made(demo, "other_language", "es"))
    assert all("Veredicto: buena" in answer for answer in made(demo, "other_language", "en"))


@given(st.lists(st.text(alphabet="abc ñ,", min_size=1).filter(str.strip), min_size=1, max_size=8))
def test_sentences_are_cut_and_numbered_and_none_is_lost(parts: list[str]) -> None:
    text = " ".join(f"{part.strip()}." for part in parts)
    found = sentences(text)
    assert " ".join(found) == text
    assert as_list(text).count("\n") == len(found) - 1
    assert text.startswith(first_half(text))
    assert 1 <= len(sentences(first_half(text))) <= len(found)
