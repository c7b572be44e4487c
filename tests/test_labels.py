"""Label probabilities from next-token log-probabilities."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_eval.engines.labels import (
    TokenChoice,
    first_token_scores,
    inner_nodes,
    label_paths,
    label_scores,
    path_logprob,
)

_PIECES = ["Answer:", " ", "b", "g", "r", " b", " g", "ue", "na", "eno", "a", "e", "o", "n", "u", "go", "od"]


def encode(text: str) -> list[int]:
    """Longest piece first, as a tokenizer with merges does it."""
    ids = []
    while text:
        piece = max((piece for piece in _PIECES if text.startswith(piece)), key=len)
        ids.append(_PIECES.index(piece))
        text = text[len(piece) :]
    return ids


def pieces(ids: tuple[int, ...] | list[int]) -> list[str]:
    return [_PIECES[token] for token in ids]


def test_context_ends_where_the_labels_begin() -> None:
    context, paths = label_paths(encode, "Answer:", ["buena", "go"])
    assert pieces(context) == ["Answer:"]
    assert [pieces(path) for path in paths] == [["b", "ue", "na"], ["go"]]


def test_a_token_merged_across_the_boundary_is_asked_for_whole() -> None:
    context, paths = label_paths(encode, "Answer: ", ["buena", "go", "ren"])
    assert pieces(context) == ["Answer:"]
    assert [pieces(path) for path in paths] == [[" b", "ue", "na"], [" g", "o"], [" ", "r", "e", "n"]]


def test_a_token_all_labels_share_still_counts() -> None:
    context, paths = label_paths(encode, "Answer:", ["buena", "bueno"])
    assert pieces(context) == ["Answer:"]
    assert [pieces(path) for path in paths] == [["b", "ue", "na"], ["b", "ue", "n", "o"]]


@pytest.mark.parametrize("labels", [["go", "good"], ["good", "go"], ["a", "a"], ["", "a"]])
def test_a_label_that_begins_another_is_refused(labels: list[str]) -> None:
    with pytest.raises(ValueError, match="begin"):
        label_paths(encode, "Answer:", labels)


def test_labels_need_something_before_them() -> None:
    with pytest.raises(ValueError, match="No token"):
        label_paths(encode, "", ["a", "b"])


def test_inner_nodes_are_the_questions_to_ask() -> None:
    assert inner_nodes([(1, 2), (1, 3, 4), (5,)]) == {(): (1, 5), (1,): (2, 3), (1, 3): (4,)}
    assert list(inner_nodes([(1, 2, 3)])) == [(), (1,), (1, 2)]


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=2, max_size=5, unique=True),
    st.integers(0, 10**6),
)
def test_tree_gives_what_multiplying_along_each_label_gives(paths: list[tuple[int, ...]], seed: int) -> None:
    paths = [p for p in paths if not any(q != p and q[: len(p)] == p for q in paths)]
    model: dict[tuple[int, ...], list[float]] = {}

    def probability(prefix: tuple[int, ...], token: int) -> float:
        if prefix not in model:
            weights = [random.Random(f"{seed}{prefix}{i}").random() + 1e-9 for i in range(5)]
            model[prefix] = [weight / sum(weights) for weight in weights]
        return model[prefix][token]

    by_hand = [math.prod(probability(path[:i], path[i]) for i in range(len(path))) for path in paths]
    table = {
        prefix: {token: math.log(probability(prefix, token)) for token in tokens}
        for prefix, tokens in inner_nodes(paths).items()
    }
    scores = label_scores([str(path) for path in paths], [path_logprob(path, table) for path in paths])
    assert scores.probabilities == pytest.approx([p / sum(by_hand) for p in by_hand])
    assert scores.mass == pytest.approx(sum(by_hand))
    assert scores.mass is not None
    assert 0 < scores.mass <= 1
    assert scores.label == str(paths[by_hand.index(max(by_hand))])


def test_unlikely_labels_are_normalised_without_underflow() -> None:
    scores = label_scores(["a", "b"], [-2000.0, -2000.0 + math.log(3)])
    assert scores.probabilities == pytest.approx((0.25, 0.75))
    assert scores.label == "b"
    assert scores.mass == 0.0
    assert scores.source == "exact"


@pytest.mark.parametrize("logprobs", [[math.nan, -1.0], [-math.inf, -math.inf], [math.inf, 0.0], [-1.0, math.nan]])
def test_numbers_that_are_no_probabilities_are_refused(logprobs: list[float]) -> None:
    with pytest.raises(ValueError, match="Log-probabilities"):
        label_scores(["a", "b"], logprobs)


def choice(token: str, **alternatives: float) -> TokenChoice:
    pairs = tuple((text.replace("_", " "), math.log(p)) for text, p in alternatives.items())
    return TokenChoice(token, dict(pairs)[token], pairs)


def test_first_tokens_count_for_the_label_they_begin() -> None:
    scores = first_token_scores(["good", "regular", "bad"], [choice(" Good", _Good=0.5, reg=0.2, b=0.1, ok=0.1)])
    assert scores is not None
    assert scores.probabilities == pytest.approx((0.625, 0.25, 0.125))
    assert scores.mass == pytest.approx(0.8)
    assert (scores.label, scores.source) == ("good", "logprobs")


def test_a_token_that_begins_two_labels_counts_for_none() -> None:
    scores = first_token_scores(["buena", "bueno", "mala"], [choice("bue", bue=0.6, buena=0.1, m=0.2)])
    assert scores is not None
    assert scores.probabilities == pytest.approx((1 / 3, 0.0, 2 / 3))
    assert scores.mass == pytest.approx(0.3)


def test_a_longer_word_is_not_the_label() -> None:
    assert first_token_scores(["bad", "good"], [choice("badly", badly=0.9)]) is None
    scores = first_token_scores(["bad", "good"], [TokenChoice('bad"', -0.1, (('bad"', -0.1),))])
    assert scores is not None
    assert scores.label == "bad"


def test_a_quotation_mark_first_is_read_past() -> None:
    quote = TokenChoice(' "', math.log(0.5), ((' "', math.log(0.5)), ("bad", math.log(0.3))))
    scores = first_token_scores(["good", "bad"], [quote, choice("good", good=0.8, bad=0.2)])
    assert scores is not None
    assert scores.probabilities == pytest.approx((0.5, 0.5))
    assert scores.mass == pytest.approx(0.8)


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
def test_no_label_among_the_first_tokens_is_no_score(logprob: float) -> None:
    assert first_token_scores(["good", "bad"], [TokenChoice("good", logprob, (("good", logprob),))]) is None
    assert first_token_scores(["good", "bad"], [choice("hm", hm=1.0)]) is None
    assert first_token_scores(["good", "bad"], []) is None
