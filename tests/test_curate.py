"""Sets are put together, evened out, counted and checked: shortcuts and leaks are found where they were planted."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_eval.errors import DataError, InputError
from eco_eval.prompts import select, split_of
from eco_eval.triples import PAIRS, RANKS, Triple
from eco_eval.triples.baselines import (
    bag_of_words,
    counted,
    eco_words,
    in_order,
    sentence_encoder,
    similarity_to_best,
    similarity_to_prompt,
    table,
    word_encoder,
)
from eco_eval.triples.check import (
    NEAR,
    SHORTCUTS,
    Finding,
    Leak,
    Limits,
    leaks,
    load_limits,
    measure,
    near_duplicates,
)
from eco_eval.triples.curate import FIELDS, balance, counts, lengths, merge, plot
from eco_eval.triples.records import pair_name
from eco_eval.types import Prompt
from eco_eval.ui.texts import Texts

NAMES = [pair_name(*pair) for pair in PAIRS]


def prompt(identifier: str, text: str | None = None, **fields: Any) -> Prompt:
    whole = {"group": identifier, "text": f"¿Qué hago con {identifier}?" if text is None else text, **fields}
    return Prompt.model_validate({**whole, "id": identifier})


GROUPS = st.integers(0, 12).map("g{}".format)
KINDS = st.sampled_from(["question", "advice", "plan", None])


@st.composite
def prompt_sets(draw: st.DrawFn) -> list[Prompt]:
    """Prompts of distinct ids, some of them of one group, of several kinds, codes and languages."""
    fields = st.fixed_dictionaries(
        {
            "group": GROUPS,
            "kind": KINDS,
            "lang": st.sampled_from(["es", "en"]),
            "explicit": st.sampled_from([True, False, None]),
            "control": st.booleans(),
            "codes": st.lists(st.sampled_from(["PWM", "WA", "SC"]), unique=True, max_size=3),
        }
    )
    drawn: list[dict[str, Any]] = draw(st.lists(fields, max_size=25))
    return [prompt(f"p{i}", **values) for i, values in enumerate(drawn)]


# --- merge


def test_the_first_of_each_id_and_each_text_stays() -> None:
    first, second = prompt("a", "¿Y el río?"), prompt("b", "¿Y la sierra?")
    copy, retyped = prompt("c", "¿Y el río?"), prompt("d", "y LA  sierra")
    found = merge([[first, second], [first, copy, retyped]])
    assert found.prompts == (first, second)
    assert [(p.cause, p.id, p.detail) for p in found.problems] == [
        ("duplicate_prompt", "c", "a"),
        ("duplicate_prompt", "d", "b"),
    ]


def test_twins_in_two_languages_stay_together() -> None:
    twins = [prompt("a", "¿No?"), prompt("a", "No?", lang="en")]
    assert merge([twins[:1], twins[1:]]) == (tuple(twins), ())


def test_another_text_under_a_known_id_is_left_out_and_reported() -> None:
    kept, other = prompt("a", "¿Y el río?"), prompt("a", "¿Y el mar?")
    found = merge([[kept], [other]])
    assert found.prompts == (kept,)
    assert [(p.cause, p.id, p.used) for p in found.problems] == [("duplicate_id", "a", False)]


def test_texts_without_a_letter_are_the_same_only_if_they_are() -> None:
    suns = [prompt("a", "☀️"), prompt("b", "🌊"), prompt("c", "☀️")]
    assert [one.id for one in merge([suns]).prompts] == ["a", "b"]
    assert [(leak.kind, leak.second) for leak in leaks(suns[2:], suns[:2])] == [("exact", "a")]


@given(prompt_sets(), prompt_sets())
def test_merging_again_changes_nothing_and_every_prompt_is_kept_reported_or_the_same(
    first: list[Prompt], second: list[Prompt]
) -> None:
    found = merge([first, second])
    assert merge([found.prompts]) == (found.prompts, ())
    assert merge([found.prompts, found.prompts]) == (found.prompts, ())
    same = sum(one in first for one in second)
    assert len(found.prompts) + len(found.problems) + same == len(first) + len(second)


# --- balance


def test_the_rarest_value_says_how_many_of_each_stay() -> None:
    prompts = [prompt(f"{kind}{i}", kind=kind) for kind, n in (("plan", 7), ("advice", 3)) for i in range(n)]
    found = balance(prompts, "kind")
    assert Counter(one.kind for one in found.prompts) == {"plan": 3, "advice": 3}
    assert [p.cause for p in found.problems] == ["left_out"] * 4
    assert {(p.field, p.detail) for p in found.problems} == {("kind", "plan")}


def test_prompts_without_a_value_are_left_out_without_inventing_one() -> None:
    found = balance([prompt("a"), prompt("b", kind="plan")], "kind")
    assert [one.id for one in found.prompts] == ["b"]
    assert [(p.id, p.detail) for p in found.problems] == [("a", "")]


def test_of_several_codes_the_first_counts() -> None:
    found = balance([prompt("a", codes=("WA", "SC")), prompt("b", codes=("SC", "WA")), prompt("c")], "codes")
    assert [one.id for one in found.prompts] == ["a", "b"]


@given(prompt_sets(), st.sampled_from(FIELDS), st.one_of(st.none(), st.integers(1, 6)))
def test_balancing_keeps_whole_groups_in_order_and_accounts_for_every_prompt(
    prompts: list[Prompt], field: Any, per: int | None
) -> None:
    found = balance(prompts, field, per)
    kept = {one.group for one in found.prompts}
    assert list(found.prompts) == [one for one in prompts if one.group in kept]
    assert [p.id for p in found.problems] == [one.id for one in prompts if one.group not in kept]
    if per is not None and field == "kind":
        first = {one.group: one.kind for one in reversed(prompts)}
        assert all(n <= per for n in Counter(first[one.group] for one in found.prompts).values())


@given(st.lists(st.tuples(st.text(max_size=6), KINDS), unique_by=lambda one: one[0]), st.integers(1, 4), KINDS)
def test_an_added_group_puts_at_most_one_other_out(
    named: list[tuple[str, str | None]], per: int, kind: str | None
) -> None:
    prompts = [prompt(f"g{name}", "¿?", kind=kind) for name, kind in named]
    before = {one.id for one in balance(prompts, "kind", per).prompts}
    after = {one.id for one in balance([*prompts, prompt("new", kind=kind)], "kind", per).prompts}
    assert len(before - after) <= 1
    assert after - before <= {"new"}


@given(prompt_sets(), st.randoms())
def test_which_groups_stay_does_not_depend_on_the_order_of_the_file(
    prompts: list[Prompt], chance: random.Random
) -> None:
    alone = [one.model_copy(update={"group": one.id}) for one in prompts]
    shuffled = chance.sample(alone, len(alone))
    assert {p.id for p in balance(alone, "kind").prompts} == {p.id for p in balance(shuffled, "kind").prompts}


# --- counting


@given(prompt_sets())
def test_counts_add_up(prompts: list[Prompt]) -> None:
    found = counts(prompts)
    sides = (select(prompts, "train"), select(prompts, "eval"))
    for field in ("kind", "lang", "explicit", "control"):
        said = tuple(sum(getattr(one, field) is not None for one in side) for side in sides)
        assert tuple(map(sum, zip(*found.get(field, {"": (0, 0)}).values(), strict=True))) == said
    for code in ("PWM", "WA", "SC"):
        assert found.get("codes", {}).get(code, (0, 0)) == tuple(sum(code in one.codes for one in s) for s in sides)


def test_lengths_are_counted_in_words_where_there_are_any() -> None:
    found = lengths([prompt("a", "uno dos", best="uno"), prompt("b", "uno dos tres cinco")])
    assert found == {"text": (2, 3.0, 4), "best": (1, 1.0, 1)}
    assert lengths([]) == {}


@pytest.mark.parametrize("fields", [{"kind": "plan", "codes": ["WA"], "variety": "es-MX"}, {}])
def test_the_plot_is_a_page_that_needs_no_network(tmp_path: Path, fields: dict[str, Any]) -> None:
    prompts = [prompt(f"p{i}", **fields) for i in range(5)]
    plot(prompts, tmp_path / "plot.html", "<script>alert(1)</script>", {"train": "Entrenar"})
    page = (tmp_path / "plot.html").read_text(encoding="utf-8")
    assert "Entrenar" in page
    assert "<script>alert(1)" not in page
    assert 'src="http' not in page


# --- check


WORDS = re.findall(
    r"\w+",
    "barca puerto saco pared mesa tejado horno piedra reloj camisa tambor botella silla manta cuerda espejo lámpara"
    " puerta cuchara ventana martillo sombrero zapato libro papel tinta moneda collar bolsillo carta abrigo tren"
    " calle esquina plaza torre campana escalera balcón patio cocina taza plato mantel cesta hilo aguja botón",
)


def clean(count: int = 60, seed: int = 3) -> list[Triple]:
    """Triples whose answers are the same length and chosen from the same words, so that nothing tells the rank."""
    chance = random.Random(seed)
    made = []
    for i in range(count):
        answers: dict[str, str] = {rank: " ".join(chance.sample(WORDS, 12)) for rank in RANKS}
        text = " ".join(chance.choices(WORDS, k=7)) + f" {chance.randrange(10**9)}"
        fields: dict[str, Any] = {
            "group": f"g{i}",
            "text": text,
            **answers,
            "explicit": i % 2 == 0,
            "control": i % 10 == 0,
        }
        labels = {"manifestation": ("waste", "deforestation")[i % 3 == 0], "kind": ("plan", "advice")[i % 3 == 0]}
        made.append(Triple.model_validate({**fields, **labels, "id": f"t{i}"}))
    return made


def planted(**added: str) -> list[Triple]:
    """The same triples with something added to an answer of every one."""
    return [one.model_copy(update={n: f"{getattr(one, n)} {more}" for n, more in added.items()}) for one in clean()]


def failed(triples: list[Triple], limits: Limits = SHORTCUTS) -> set[str]:
    return {finding.name for finding in measure(triples, limits) if finding.ok is False}


def by_name(triples: list[Triple], limits: Limits = SHORTCUTS) -> dict[str, Finding]:
    return {finding.name: finding for finding in measure(triples, limits)}


def test_nothing_is_found_where_nothing_was_planted() -> None:
    assert failed(clean(), SHORTCUTS.model_copy(update={"length": 0.7, "spread": 0.4})) == set()


def test_a_longer_best_answer_is_caught() -> None:
    assert {"length", "spread"} <= failed(planted(best="y además " * 6))
    assert by_name(planted(best="y además " * 6))["length"].value == 1.0


def test_a_shorter_best_answer_tells_as_much_as_a_longer_one() -> None:
    longer, shorter = by_name(planted(best="más " * 9)), by_name(planted(ambivalent="más " * 9, worst="más " * 9))
    assert longer["length"].value == shorter["length"].value == 1.0


def test_more_words_of_the_same_characters_are_caught() -> None:
    even = {"best": "a a a a a " + "a" * 10, "ambivalent": "a" * 20, "worst": "a" * 20}
    triples = [one.model_copy(update=even) for one in clean(8)]
    assert len({len(triples[0].answer(rank)) for rank in RANKS}) == 1
    assert by_name(triples)["length"].value == 1.0


@pytest.mark.parametrize("rank", ["best", "worst"])
def test_eco_words_on_either_side_are_caught(rank: str) -> None:
    found = by_name(planted(**{rank: "sostenible", "ambivalent": "silla", ("worst", "best")[rank == "worst"]: "barca"}))
    assert found["eco_words"].value == 1.0
    assert found["eco_words"].ok is False


def test_a_tell_tale_word_is_caught() -> None:
    found = by_name(planted(best="quizá", ambivalent="barca", worst="silla"))
    assert found["bag_of_words"].value > 0.95
    assert found["bag_of_words"].ok is False
    assert by_name(clean())["bag_of_words"].value < 0.75


def test_near_prompts_of_two_groups_are_caught_and_named() -> None:
    triples = clean(20)
    copy = triples[3].model_copy(update={"id": "copy", "group": "copy", "text": triples[3].text.upper() + "!"})
    found = by_name([*triples, copy])["similarity"]
    assert (found.ok, found.detail) == (False, "t3 / copy")
    same_group = copy.model_copy(update={"group": "g3"})
    assert by_name([*triples, same_group])["similarity"].ok is True


def test_what_a_set_holds_is_counted_without_its_controls() -> None:
    found = by_name(clean(20), Limits(prompts=21, controls=2, per_manifestation=6, per_kind=7, implicit=0.5))
    values = {name: (finding.value, finding.ok) for name, finding in found.items() if finding.limit is not None}
    assert values == {
        "prompts": (20, False),
        "controls": (2, True),
        "per_manifestation": (6, True),
        "per_kind": (7, True),
        "implicit": (0.5, True),
    }
    assert (found["per_manifestation"].detail, found["per_kind"].detail) == ("deforestation", "advice")
    assert found["length"].ok is None


def test_words_and_spread_are_those_worked_out_by_hand() -> None:
    one, two = clean(2)
    first = one.model_copy(update={"best": "a a a a", "ambivalent": "a a", "worst": "a"})
    second = two.model_copy(update={"best": "a a", "ambivalent": "a a", "worst": "a a"})
    found = by_name([first, second])
    assert (found["shortest_words"].value, found["longest_words"].value) == (1, 4)
    assert found["spread"].value == pytest.approx((3 / 4 + 0) / 2)
    assert found["length"].value == pytest.approx(0.75)


# --- leaks


SEEN = [prompt("s1", "¿Qué hago con el río que pasa por mi pueblo?"), prompt("s2", "Un lema para vender tractores.")]


@pytest.mark.parametrize(
    ("one", "kind", "other"),
    [
        (prompt("new", "Otra cosa distinta del todo, en verso.", group="s1"), "group", "s1"),
        (prompt("new", "¿Qué hago con el río que pasa por mi pueblo?"), "exact", "s1"),
        (prompt("new", "que hago con el RIO que pasa por mi pueblo"), "normalised", "s1"),
        (prompt("new", "¡Un lema, para vender... tractores!"), "normalised", "s2"),
        (prompt("new", "¿Qué hago con el río que pasa por tu pueblo?"), "near", "s1"),
    ],
)
def test_a_leak_is_found_and_said_how_near_it_is(one: Prompt, kind: str, other: str) -> None:
    (found,) = leaks([prompt("x", "Cuéntame un cuento de miedo con un faro."), one], SEEN)
    assert (found.kind, found.first, found.second) == (kind, "new", other)
    assert NEAR <= found.similarity <= 1 + 1e-9


def test_different_prompts_do_not_leak() -> None:
    assert leaks([prompt("x", "Cuéntame un cuento de miedo con un faro.")], SEEN) == []
    assert leaks([], SEEN) == leaks(SEEN, []) == []


@pytest.mark.parametrize("text", ["¿?", "…", "😀 😀", "¡¡¡"])
def test_texts_without_a_letter_are_no_error(text: str) -> None:
    assert leaks([prompt("a", text)], [prompt("b", "¿Y el río?"), prompt("c", "!")]) == []
    assert near_duplicates([prompt("a", text)]) == []


def test_how_near_is_near_can_be_said() -> None:
    loose = prompt("new", "Un lema para vender barcas y tractores en la feria de mi ciudad.")
    assert leaks([loose], SEEN, near=0.95) == []
    assert [leak.second for leak in leaks([loose], SEEN, near=0.1)] == ["s2"]


def test_each_couple_of_near_prompts_is_named_once() -> None:
    prompts = [*SEEN, prompt("copy", SEEN[0].text + "!"), prompt("same", SEEN[1].text, group="s2")]
    (found,) = near_duplicates(prompts)
    assert found == Leak("near", "s1", "copy", found.similarity)


@settings(deadline=None)
@given(prompt_sets())
def test_the_two_splits_of_a_set_share_no_group(prompts: list[Prompt]) -> None:
    train, evaluation = select(prompts, "train"), select(prompts, "eval")
    assert not [leak for leak in leaks(train, evaluation) if leak.kind == "group"]
    assert len(train) + len(evaluation) == len(prompts)
    assert all(split_of(one.group) == "eval" for one in evaluation)


# --- limits


def test_limits_are_read_and_what_is_not_stated_is_not_checked(tmp_path: Path) -> None:
    (tmp_path / "l.toml").write_text("\ufefflength = 0.6\nprompts = 3\n", encoding="utf-8")
    found = load_limits(tmp_path / "l.toml")
    assert found == Limits(length=0.6, prompts=3)
    assert {finding.name for finding in measure(clean(8), found) if finding.ok is not None} == {"length", "prompts"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("lenght = 0.6", ["l.toml", "lenght"]),
        ("length = 'mucho'", ["l.toml", "length"]),
        ("prompts = 1.5", ["l.toml", "prompts"]),
        ("[length]\nmost = 1", ["l.toml", "length"]),
        ("length 0.6", ["l.toml", "TOML"]),
        (b"length = 0.6 # a\xf1o", ["l.toml"]),
    ],
)
def test_a_wrong_limits_file_says_what_is_wrong(tmp_path: Path, content: str | bytes, words: list[str]) -> None:
    (tmp_path / "l.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        load_limits(tmp_path / "l.toml")
    message = Texts("es").error(caught.value)
    assert [word for word in words if word not in message] == []


def test_a_limits_file_that_is_not_there_is_not_called_malformed(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_limits(tmp_path / "none.toml")
    assert caught.value.key == "data.no_file"


# --- baselines


def test_the_share_in_order_counts_ties_as_a_half() -> None:
    assert in_order([[3, 2, 1], [1, 1, 1], [1, 2, 3], [2, 2, 1]]) == dict(zip(NAMES, (0.5, 0.625, 0.625), strict=True))


@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=1))
def test_turning_scores_round_turns_the_share_round(scores: list[tuple[int, int, int]]) -> None:
    found, turned = in_order(scores), in_order([[-x for x in row] for row in scores])
    assert list(found) == NAMES
    assert [found[name] + turned[name] for name in NAMES] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("El medio ambiente y la sostenibilidad, por el planeta.", 3),
        ("ECOLÓGICO, eco-friendly, eco.", 3),
        ("El economista hizo eco de la crónica.", 1),
        ("Greenhouse gases and renewable energy", 2),
        ("desclimatizado, innatural", 0),
    ],
)
def test_eco_words_are_counted_by_how_they_begin(text: str, count: int) -> None:
    assert eco_words(text) == count


def test_a_bag_of_words_learns_from_other_groups_only() -> None:
    marked = [
        one.model_copy(update={"best": f"{one.best} señal{i}", "group": f"g{i}"}) for i, one in enumerate(clean(40))
    ]
    assert bag_of_words(planted(best="quizá", worst="silla"), "best", "worst") > 0.95
    assert bag_of_words(marked, "best", "worst") < 0.8


def test_an_ending_that_tells_is_seen_in_pieces_of_words_and_not_in_whole_ones() -> None:
    def ending(text: str, end: str) -> str:
        return " ".join(f"{word}{i}{end}" for i, word in enumerate(text.split()))

    triples = [
        one.model_copy(
            update={"best": ending(f"{one.id}b {one.id}c", "ito"), "worst": ending(f"{one.id}d {one.id}e", "azo")}
        )
        for one in clean(20)
    ]
    assert bag_of_words(triples, "best", "worst") == 0.5
    assert bag_of_words(triples, "best", "worst", pieces=True) == 1.0


def test_the_best_answer_is_most_like_itself() -> None:
    triples = [*clean(10), clean(1)[0].model_copy(update={"ambivalent": clean(1)[0].best.upper()})]
    texts = [one.answer(rank) for one in triples for rank in RANKS]
    found = similarity_to_best(triples, word_encoder(texts))
    assert found.shape == (11, 3)
    assert found[:, 0] == pytest.approx(np.ones(11))
    assert found[-1, 1] == pytest.approx(1)
    assert (found <= 1 + 1e-9).all()


def test_likeness_to_the_prompt_needs_no_best_answer() -> None:
    triples = [one.model_copy(update={"ambivalent": one.text}) for one in clean(5)]
    everything = [text for one in triples for text in (one.text, *(one.answer(rank) for rank in RANKS))]
    found = similarity_to_prompt(triples, word_encoder(everything))
    assert found[:, 1] == pytest.approx(np.ones(5))
    assert (found[:, 0] < 1).all()


def test_every_answer_is_counted_in_its_place() -> None:
    one = clean(1)[0].model_copy(update={"best": "a", "ambivalent": "aa", "worst": "aaa"})
    assert counted([one], len).tolist() == [[1, 2, 3]]


def test_the_table_of_baselines_says_what_each_can_tell() -> None:
    triples = planted(best="ecológico y más largo", ambivalent="silla", worst="barca")[:20]
    found = table(triples)
    learnt = {"bag_of_words", "word_pieces"}
    assert set(found) == {"length", "eco_words", "similarity_to_best", "similarity_to_prompt", *learnt}
    assert all(list(row) == NAMES for row in found.values())
    assert [found[name]["best>worst"] for name in ("length", "eco_words")] == [1.0, 1.0]
    told = found["similarity_to_best"]
    assert (told["best>ambivalent"], told["best>worst"]) == (None, None)
    assert told["ambivalent>worst"] is not None
    shares = [share for row in found.values() for share in row.values() if share is not None]
    assert len(shares) == 16
    assert all(0 <= share <= 1 for share in shares)


def test_triples_without_a_word_leave_what_goes_by_words_at_chance() -> None:
    triples = [one.model_copy(update={"text": "¿?", **dict(zip(RANKS, "abc", strict=True))}) for one in clean(4)]
    told = {name: row for name, row in table(triples).items() if name != "word_pieces"}
    assert set(itertools.chain(*(row.values() for row in told.values()))) == {0.5, None}
    assert by_name(triples)["bag_of_words"].value == 0.5


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real sentence-transformers model of random word vectors."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("encoder") / "static"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        static = StaticEmbedding(tokenizer, embedding_dim=64)
    SentenceTransformer(modules=[static], device="cpu").save(str(folder))
    return folder


def test_a_sentence_model_gives_vectors_of_length_one(encoder: Path) -> None:
    encode = sentence_encoder(str(encoder))
    found = encode(["barca puerto", "puerto barca", "reloj"])
    assert found.dtype == np.float64
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    assert found[0] == pytest.approx(found[1])
    assert abs(found[0] @ found[2]) < 0.7


def test_with_a_sentence_model_likeness_is_by_meaning(encoder: Path) -> None:
    told = [one.model_copy(update={"ambivalent": " ".join(reversed(one.best.split()))}) for one in clean(12)]
    found = table(told, str(encoder))
    assert found["similarity_to_best"]["ambivalent>worst"] == 1.0
    assert similarity_to_best(told, sentence_encoder(str(encoder)))[:, 0] == pytest.approx(np.ones(12), abs=1e-6)


def test_a_sentence_model_that_cannot_be_loaded_is_named(encoder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in encoder.iterdir():
        if file.is_file():
            (broken / file.name).write_bytes(b"junk" if file.suffix == ".safetensors" else file.read_bytes())
    for model in (str(tmp_path / "none"), str(tmp_path), "owner/none", str(broken)):
        with pytest.raises(InputError) as caught:
            sentence_encoder(model)
        assert caught.value.key == "data.no_encoder"
        assert model in Texts("es").error(caught.value)
        assert "\n" not in Texts("es").error(caught.value)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.text(), min_size=1, max_size=6))
def test_words_as_vectors_have_length_one_or_none(texts: list[str]) -> None:
    norms = np.linalg.norm(word_encoder(texts)(texts), axis=1)
    assert all(norm == pytest.approx(1) or norm == 0 for norm in norms)
