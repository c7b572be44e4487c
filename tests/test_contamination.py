"""Signs that a model has seen the answers it is measured against."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_eval.contamination import COPIED, WORDS, declared_training, overlap, overlaps
from eco_eval.instrument import load_instrument
from eco_eval.types import Answer, Prompt

GOLD = "El río vuelve a tener nutrias desde que el pueblo cerró la fábrica y plantó sauces en la orilla"
PROMPT = "¿Qué hacemos con la orilla del río?"
OTHER = "Conviene hormigonar el cauce entero cuanto antes para que las crecidas no lleguen nunca al polígono"


def prompt(name: str, best: str | None = GOLD, group: str | None = None, control: bool = False) -> Prompt:
    return Prompt(id=name, group=group or name, text=PROMPT, best=best, control=control)


def answer(name: str, text: str) -> Answer:
    return Answer(prompt_id=name, text=text)


class TestOverlap:
    def test_the_gold_answer_itself_is_all_of_it_and_another_text_nothing(self) -> None:
        assert overlap(GOLD, GOLD, PROMPT) == 1
        assert overlap(OTHER, GOLD, PROMPT) == 0

    def test_the_share_is_counted_by_hand(self) -> None:
        """Four words of seven make two of the four trigrams."""
        assert overlap("uno dos tres cuatro x y", "uno dos tres cuatro", "", n=3) == 2 / 4
        assert overlap("a b c d e f", "b c d e f g", "", n=5) == 1 / 2
        assert overlap("a b c d e x a b c d e", "a b c d e", "", n=5) == 1 / 6

    def test_case_accents_punctuation_and_marks_of_form_do_not_count(self) -> None:
        assert overlap("**EL RÍO**, vuelve—a «tener» nu\u0301trias", "el rio vuelve a tener nutrias", "", n=6) == 1
        assert overlap("el año 2024 llovió", "EL ANO 2024 LLOVIO", "", n=4) == 1

    def test_digits_count(self) -> None:
        assert overlap("en 2024 llovió mucho aquí", "en 2023 llovió mucho aquí", "") == 0

    def test_what_the_prompt_says_may_be_quoted(self) -> None:
        quoted = "que el pueblo cerró la fábrica y plantó"
        assert overlap(f"{quoted} árboles", GOLD, "") == 4 / 5
        assert overlap(f"{quoted} árboles", GOLD, f"Dicen {quoted} sauces") == 0
        assert overlap(quoted, GOLD, f"Dicen {quoted} sauces") is None

    @pytest.mark.parametrize("text", ["", "…", "uno dos tres cuatro", "¡Sí! 🌱"])
    def test_an_answer_of_fewer_words_than_an_n_gram_tells_nothing(self, text: str) -> None:
        assert overlap(text, GOLD, PROMPT) is None

    def test_n_is_what_the_measurements_say(self) -> None:
        """The figures of the docstring: unrelated gold answers never look copied, retouched ones mostly do."""
        gold = [p for p in load_instrument("eco-es-v1").gold if not p.control]
        unrelated = [overlap(q.best or "", p.best or "", p.text) for p in gold for q in gold if p is not q]
        variants = [overlap(t or "", p.best or "", p.text) for p in gold for t in (p.ambivalent, p.worst)]
        assert WORDS == 5
        assert max(share or 0 for share in unrelated) < 0.01
        assert sum(bool(share) for share in unrelated) / len(unrelated) < 0.001
        assert max(share or 0 for share in variants) < 0.15 < COPIED

    @given(st.text(), st.text(), st.text(), st.integers(1, 6))
    def test_any_texts_have_a_share_or_none(self, text: str, gold: str, asked: str, n: int) -> None:
        share = overlap(text, gold, asked, n)
        assert share is None or 0 <= share <= 1
        assert overlap(text, text, asked, n) in (None, 1)


class TestOverlaps:
    def test_copies_are_counted(self) -> None:
        prompts = [prompt(f"p{i}") for i in range(4)]
        half = " ".join([*GOLD.split()[:12], "x", "y", "z"])
        texts = [GOLD, half, OTHER, OTHER]
        found = overlaps(prompts, [answer(f"p{i}", text) for i, text in enumerate(texts)])
        assert found is not None
        share = overlap(half, GOLD, PROMPT)
        assert share == 8 / 11
        assert (found.copied, found.n, found.highest) == (2, 4, 100)
        assert found.mean.value == pytest.approx(100 * (1 + share) / 4)

    @pytest.mark.parametrize("count", [2, 10, 103, 400])
    def test_an_interval_has_width_when_nothing_is_copied_and_stays_in_range(self, count: int) -> None:
        prompts = [prompt(f"p{i}") for i in range(count)]
        for text, value in ((OTHER, 0.0), (GOLD, 100.0)):
            found = overlaps(prompts, [answer(p.id, text) for p in prompts])
            assert found is not None
            assert found.mean.value == pytest.approx(value)
            assert 0 <= found.mean.low <= found.mean.value <= found.mean.high <= 100
            assert 0 < found.mean.high - found.mean.low < 80

    def test_one_copy_among_many_leaves_the_mean_low_and_is_told(self) -> None:
        prompts = [prompt(f"p{i}") for i in range(200)]
        found = overlaps(prompts, [answer(p.id, OTHER if i else GOLD) for i, p in enumerate(prompts)])
        assert found is not None
        assert (found.copied, found.highest) == (1, 100)
        assert found.mean.value == pytest.approx(0.5)
        assert 0 <= found.mean.low < 0.5 < found.mean.high < 5

    def test_what_cannot_be_compared_is_left_out(self) -> None:
        prompts = [prompt("a"), prompt("b"), prompt("none", best=None), prompt("control", control=True), prompt("c")]
        said = ["a", "b", "none", "control", "unknown"]
        found = overlaps(prompts, [answer("c", "Sí."), *(answer(name, GOLD) for name in said)])
        assert found is not None
        assert (found.n, found.copied) == (2, 2)

    def test_fewer_than_two_groups_tell_nothing(self) -> None:
        pair = [prompt("a", group="g"), prompt("b", group="g")]
        both = [answer("a", GOLD), answer("b", GOLD)]
        assert overlaps(pair, both) is None
        assert overlaps([prompt("a"), prompt("b")], both[:1]) is None
        assert overlaps([], []) is None
        assert overlaps([prompt("a"), prompt("b")], both) is not None

    def test_prompts_of_one_group_count_once(self) -> None:
        lone = [prompt(f"p{i}") for i in range(40)]
        joined = [prompt(f"p{i}", group=f"g{i // 4}") for i in range(40)]
        answers = [answer(f"p{i}", GOLD if i < 4 else OTHER) for i in range(40)]
        alone, together = overlaps(lone, answers), overlaps(joined, answers)
        assert alone is not None
        assert together is not None
        assert alone.mean.value == together.mean.value
        assert together.mean.groups == 10
        assert together.mean.high - together.mean.low > alone.mean.high - alone.mean.low

    def test_gold_answers_put_as_answers_are_all_copied_and_the_worst_ones_are_not(self) -> None:
        prompts = load_instrument("eco-es-v1").gold
        best = overlaps(prompts, [answer(p.id, p.best or "") for p in prompts])
        worst = overlaps(prompts, [answer(p.id, p.worst or "") for p in prompts])
        assert best is not None
        assert worst is not None
        assert best.copied == best.n == worst.n == sum(not p.control for p in prompts)
        assert worst.copied == 0
        assert worst.mean.high < 5


OWN = ("eco-es-v1", "combined-es-v1", "NickyNicky/neovalle_H4rmony_dpo_translated_English_to_Spanish")


class TestDeclaredTraining:
    @pytest.mark.parametrize(
        "name",
        [
            "neovalle/H4rmony",
            "neovalle/H4rmony_dpo",
            "neovalle/h4rmony_dpo_multilingual",
            "someone/my-H4RMONY-copy",
            "NickyNicky/neovalle_H4rmony_dpo_translated_English_to_Spanish",
            "nickynicky/neovalle-h4rmony-dpo-translated-english-to-spanish",
            "owner/eco-es-v1",
            "eco-es-v1",
            "owner/Eco_ES_v1",
            "owner/eco-en-v2-dpo",
            "owner/mix-eco-it",
            "owner/combined_es_v1",
            "https://huggingface.co/datasets/owner/eco-es-v1/",
        ],
    )
    def test_the_instrument_s_own_data_are_found(self, name: str) -> None:
        assert declared_training(["HuggingFaceH4/ultrachat_200k", name], OWN) == (name,)

    @pytest.mark.parametrize(
        "name",
        [
            "HuggingFaceH4/ultrachat_200k",
            "h4rmony-lab/piano",
            "eco-es/news",
            "owner/eco-escuelas",
            "owner/deco-es",
            "owner/eco",
            "owner/combined-es-v10",
            "",
            "/",
        ],
    )
    def test_others_are_not(self, name: str) -> None:
        assert declared_training([name], OWN) == ()
        assert declared_training([name], [*OWN, "", "/"]) == ()

    def test_without_own_names_only_the_known_ones_count(self) -> None:
        assert declared_training(["a/combined-es-v1", "a/h4rmony"], []) == ("a/h4rmony",)
        assert declared_training([], OWN) == ()

    @given(st.lists(st.text(max_size=20), max_size=4), st.lists(st.text(max_size=20), max_size=4))
    def test_what_is_found_was_declared(self, datasets: list[str], own: list[str]) -> None:
        found = declared_training(datasets, own)
        assert set(found) <= set(datasets)
        assert declared_training(own, own) == tuple(name for name in own if name.strip().strip("/"))
