"""Preference data in every form people have it: what can be used is used, what cannot is named, nothing is guessed."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import H4RMONY, require
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eco_eval.errors import DataError, EcoEvalError, InputError, StoreError
from eco_eval.prompts import split_of
from eco_eval.rows import FORMS, Defect, Row, read_rows, read_rows_and_defects
from eco_eval.sets import FoundSet, find_set, read_set_file
from eco_eval.triples import PAIRS, RANKS, Loaded, Pair, Problem, Rank, Triple, explode, implode, load, write
from eco_eval.triples.layouts import MAX_CELL, normalised
from eco_eval.triples.reading import _MOJIBAKE
from eco_eval.triples.records import pair_name
from eco_eval.types import Prompt

Write = Callable[..., Path]

# What tears files apart: ends of lines, delimiters, quotes, separators that only some readers take for line ends.
AWKWARD = ("\n", "\t", '"', "'", ",", ";", "\u2028", "\x85", "🌍", "“", "”", "ñ", "[", "{", "\\", " ")
TEXTS = (
    st.lists(st.sampled_from(AWKWARD) | st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
    .map(lambda parts: unicodedata.normalize("NFC", "".join(parts)).strip())
    .filter(lambda text: bool(text) and not _MOJIBAKE.search(text))
)
MAYBE = st.none() | TEXTS
METAS = st.dictionaries(TEXTS, TEXTS, max_size=3)
PAIR_NAMES = [pair_name(*pair) for pair in PAIRS]


@st.composite
def prompts(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "id": draw(TEXTS),
        "group": draw(TEXTS),
        "text": draw(TEXTS),
        "lang": draw(st.sampled_from(["es", "en"])),
        "variety": draw(MAYBE),
        "kind": draw(st.sampled_from([None, "plan", "dialogue"])),
        "explicit": draw(st.sampled_from([None, True, False])),
        "control": draw(st.booleans()),
        "codes": tuple(draw(st.lists(st.sampled_from(["PWM", "SC", "WA"]), unique=True, max_size=2))),
        "manifestation": draw(MAYBE),
        "sdg": draw(st.none() | st.integers(1, 17)),
        "speech_register": draw(st.sampled_from([None, "formal"])),
        "origin": draw(st.just("") | TEXTS),
        "verified_by": tuple(draw(st.lists(TEXTS, max_size=2))),
    }


@st.composite
def triples(draw: st.DrawFn) -> Triple:
    """A triple whose metadata say once what is the same in all pairs, and apart what is not."""
    answers = draw(st.lists(TEXTS, min_size=3, max_size=3, unique=True))
    varied = draw(st.dictionaries(st.sampled_from(PAIR_NAMES), st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=2)))
    fields: dict[str, Any] = {
        **draw(prompts()),
        **dict(zip(RANKS, answers, strict=True)),
        **{f"{rank}_origin": draw(st.just("") | TEXTS) for rank in RANKS},
        "meta": draw(METAS),
        "pair_meta": {name: {f"{name} {key}": v for key, v in meta.items()} for name, meta in varied.items()},
    }
    return Triple(**fields)


SETS = st.lists(triples(), min_size=1, max_size=4, unique_by=(lambda t: t.id, lambda t: normalised(t.text)))
RELAXED = settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def put(tmp_path: Path) -> Write:
    """Writes a file of the test's own: bytes, text, or records as JSON lines or as a table."""

    def call(content: bytes | str | Sequence[dict[str, Any]], name: str = "set.jsonl", encoding: str = "utf-8") -> Path:
        file = tmp_path / name
        if not isinstance(content, bytes | str):
            content = table(content) if file.suffix == ".csv" else jsonl(content)
        file.write_bytes(content.encode(encoding) if isinstance(content, str) else content)
        return file

    return call


def jsonl(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def h4rmony(number: object, prompt: str, *answers: str, **extra: object) -> list[dict[str, Any]]:
    """The three rows of a prompt in H4rmony's columns."""
    best, ambivalent, worst = answers or (f"{prompt} best", f"{prompt} middle", f"{prompt} worst")
    names = ("PromptID", "Prompt", "BetterCompletion", "WorseCompletion", "ComparedRanks")
    rows = [(best, ambivalent, "R1-R2"), (best, worst, "R1-R3"), (ambivalent, worst, "R2-R3")]
    return [dict(zip(names, (number, prompt, *row), strict=True)) | extra for row in rows]


def unranked(pairs: Sequence[Pair]) -> list[Pair]:
    return [pair.model_copy(update={"chosen_rank": None, "rejected_rank": None}) for pair in pairs]


def pair_of(chosen: str, rejected: str, *ranks: Rank) -> Pair:
    said: dict[str, Any] = dict(zip(("chosen_rank", "rejected_rank"), ranks, strict=False))
    return Pair(prompt=Prompt(id="p", group="p", text="¿Qué?"), chosen=chosen, rejected=rejected, **said)


def told(loaded: Loaded) -> list[tuple[object, ...]]:
    """What was reported: cause, line, field; without the note that the language was assumed."""
    return [(p.cause, p.line, p.field) for p in loaded.problems if p.cause != "language_assumed"]


def only_problem(loaded: Loaded) -> Problem:
    (found,) = [problem for problem in loaded.problems if problem.cause != "language_assumed"]
    return found


def refused(file: Path, key: str, **values: object) -> DataError:
    with pytest.raises(DataError) as caught:
        load(file)
    assert caught.value.key == key
    assert {name: caught.value.values[name] for name in values} == values
    return caught.value


class TestPairs:
    @RELAXED
    @given(SETS)
    def test_implode_undoes_explode(self, made: list[Triple]) -> None:
        found = implode(explode(made))
        assert found.triples == tuple(made)
        assert not found.incomplete
        assert not found.problems

    @RELAXED
    @given(SETS, st.lists(METAS, min_size=12, max_size=12))
    def test_explode_undoes_implode_whatever_the_metadata(
        self, made: list[Triple], metas: list[dict[str, str]]
    ) -> None:
        pairs = [pair.model_copy(update={"meta": meta}) for pair, meta in zip(explode(made), metas, strict=False)]
        assert explode(implode(pairs).triples) == pairs

    @RELAXED
    @given(SETS, st.randoms())
    def test_pairs_in_any_order_make_the_same_triples(self, made: list[Triple], random: Any) -> None:
        pairs = explode(made)
        random.shuffle(pairs)
        for some in (pairs, unranked(pairs)):
            found = implode(some)
            assert sorted(found.triples, key=lambda t: t.id) == sorted(made, key=lambda t: t.id)
            assert not found.problems

    @RELAXED
    @given(st.lists(st.permutations("abcd").map(lambda letters: letters[:2]), min_size=1, max_size=6))
    def test_unranked_pairs_make_a_triple_only_where_one_order_is_left(self, edges: list[list[str]]) -> None:
        answers = sorted({letter for edge in edges for letter in edge})
        orders = [
            order
            for order in itertools.permutations(answers)
            if all(order.index(chosen) < order.index(rejected) for chosen, rejected in edges)
        ]
        found = implode([pair_of(edge[0], edge[1]) for edge in edges])
        if len(answers) == 3 and len(orders) == 1:
            (made,) = found.triples
            assert tuple(made.answer(rank) for rank in RANKS) == orders[0]
        else:
            assert not found.triples
            assert [problem.used for problem in found.problems] == [False]

    @pytest.mark.parametrize(
        ("edges", "cause"),
        [
            (["ab"], "incomplete"),
            (["ac", "bc"], "incomplete"),
            (["ab", "ac"], "incomplete"),
            (["ab", "ba"], "cycle"),
            (["ab", "bc", "ca"], "cycle"),
            (["ab", "bc", "cd"], "conflict"),
        ],
    )
    def test_what_leaves_no_order_is_named(self, edges: list[str], cause: str) -> None:
        found = implode([pair_of(*edge) for edge in edges])
        assert [(problem.cause, problem.id) for problem in found.problems] == [(cause, "p")]
        assert not found.triples

    def test_a_prompt_of_unknown_order_stays_without_answers(self) -> None:
        found = implode([pair_of("a", "c"), pair_of("b", "c")])
        assert found.incomplete == (pair_of("a", "c").prompt,)

    def test_a_chain_gives_the_order_and_the_missing_pair_is_told(self) -> None:
        found = implode([pair_of("b", "c"), pair_of("a", "b")])
        (made,) = found.triples
        assert (made.best, made.ambivalent, made.worst) == ("a", "b", "c")
        assert [(p.cause, p.used, p.detail) for p in found.problems] == [("pair_missing", True, "best>worst")]

    def test_ranks_that_contradict_the_pairs_are_a_conflict(self) -> None:
        said = pair_of("a", "b", "ambivalent", "worst")
        found = implode([said, pair_of("b", "c")])
        assert not found.triples
        assert [problem.cause for problem in found.problems] == ["conflict"]

    def test_ranks_upside_down_are_refused(self) -> None:
        found = implode([pair_of("a", "b", "worst", "best")])
        assert not found.triples
        assert [problem.cause for problem in found.problems] == ["bad_rank"]

    def test_ranked_pairs_that_lack_an_answer_keep_the_others(self) -> None:
        found = implode([pair_of("a", "b", "best", "ambivalent")])
        (prompt,) = found.incomplete
        assert (prompt.best, prompt.ambivalent, prompt.worst) == ("a", "b", None)
        assert [(p.cause, p.detail) for p in found.problems] == [("incomplete", "worst")]

    def test_one_id_with_two_texts_is_left_out(self) -> None:
        first, second, third = explode([Triple(id="p", group="p", text="uno", best="a", ambivalent="b", worst="c")])
        other = third.model_copy(update={"prompt": third.prompt.model_copy(update={"text": "dos"})})
        for pairs in ([first, second, other], unranked([first, second, other])):
            assert [(p.cause, p.field) for p in implode(pairs).problems] == [("text_differs", "text")]

    def test_one_answer_at_two_ranks_is_left_out(self) -> None:
        best = pair_of("a", "b", "best", "ambivalent")
        worst = pair_of("a", "b", "ambivalent", "worst")
        assert [p.cause for p in implode([best, worst]).problems] == ["conflict"]
        same = worst.model_copy(update={"chosen": "b", "rejected": "a"})
        assert [p.cause for p in implode([best, same]).problems] == ["same_answer"]

    def test_twins_in_two_languages_are_two_triples(self) -> None:
        made = Triple(id="p", group="p", text="uno", best="a", ambivalent="b", worst="c")
        twin = made.model_copy(update={"lang": "en", "text": "one"})
        assert implode(explode([made, twin])).triples == (made, twin)


class TestH4rmony:
    def test_only_five_columns_are_needed(self, put: Write) -> None:
        found = load(put(h4rmony(7, "Fish?", "best", "middle", "worst"), "set.csv"))
        (made,) = found.triples
        assert (made.id, made.text, made.lang) == ("h4rmony-7", "Fish?", "en")
        assert (made.best, made.ambivalent, made.worst) == ("best", "middle", "worst")
        assert not told(found)
        assert [(p.cause, p.detail) for p in found.problems] == [("language_assumed", "en")]
        assert "Neovalle" in found.attribution
        assert (found.rows, len(found.pairs)) == (3, 3)

    @pytest.mark.parametrize("name", ["set.csv", "set.jsonl"])
    def test_optional_columns_are_kept(self, put: Write, name: str) -> None:
        rows = h4rmony(
            7,
            "Fish?",
            Language="English",
            Type="Question",
            PromptOriginator="Jorge",
            BetterCompletionOrigin="GPT4",
            WorseCompletionOrigin="GPT3",
            **{"PWM": 1, "CCEU": 0, "NRMB": 0, "WA": "1", "SC": ""},
        )
        for row, reward in zip(rows, (1.0, 2, 0.5), strict=True):
            row["Reward"] = reward
        found = load(put(rows, name))
        (made,) = found.triples
        assert (made.lang, made.codes, made.origin) == ("en", ("PWM", "WA"), "Jorge")
        assert (made.best_origin, made.worst_origin) == ("GPT4", "GPT3")
        assert made.meta["Type"] == "Question"
        assert {name: meta["Reward"] for name, meta in made.pair_meta.items()} == dict(
            zip(PAIR_NAMES, ("1.0", "2", "0.5") if name == "set.csv" else ("1", "2", "0.5"), strict=True)
        )
        # Who wrote the ambivalent answer is said twice, and not the same.
        assert told(found) == [("field_differs", 2 if name == "set.csv" else 1, "ambivalent_origin")]

    def test_codes_that_disagree_are_put_to_the_vote_and_told(self, put: Write) -> None:
        rows = h4rmony(7, "Fish?")
        for row, (waste, water) in zip(rows, (("1", "0"), ("1", "1"), ("0", "0")), strict=True):
            row |= {"PWM": waste, "CCEU": "0", "NRMB": "0", "WA": water, "SC": "0"}
        found = load(put(rows, "set.csv"))
        (made,) = found.triples
        assert made.codes == ("PWM",)
        assert made.pair_meta["ambivalent>worst"]["PWM"] == "0"
        assert told(found) == [("field_differs", 2, "codes")]

    @pytest.mark.parametrize(("flag", "used"), [(1, True), (True, True), (0.0, True), (None, True), ("x", False)])
    def test_a_flag_that_is_neither_yes_nor_no_is_told(self, put: Write, flag: object, used: bool) -> None:
        found = load(put(h4rmony(7, "Fish?", PWM=flag)))
        assert bool(found.triples) is used
        assert told(found) == ([] if used else [("bad_value", line, "PWM") for line in (1, 2, 3)])

    def test_two_different_best_answers_leave_the_prompt_out(self, put: Write) -> None:
        rows = [*h4rmony(130, "Fly?"), *h4rmony(131, "Fish?")]
        rows[4]["BetterCompletion"] = "Another best"
        found = load(put(rows, "set.csv"))
        assert [t.id for t in found.triples] == ["h4rmony-130"]
        problem = only_problem(found)
        assert (problem.cause, problem.field, problem.id) == ("conflict", "best", "h4rmony-131")
        assert (problem.row, problem.line, problem.used) == (4, 5, False)

    @pytest.mark.parametrize("missing", [0, 1, 2])
    def test_a_missing_pair_loses_no_answer(self, put: Write, missing: int) -> None:
        rows = h4rmony(7, "Fish?")
        del rows[missing]
        found = load(put(rows, "set.csv"))
        assert [(t.best, t.worst) for t in found.triples] == [("Fish? best", "Fish? worst")]
        problem = only_problem(found)
        assert (problem.cause, problem.detail, problem.used) == ("pair_missing", PAIR_NAMES[missing], True)

    def test_two_missing_pairs_leave_a_prompt_without_an_answer(self, put: Write) -> None:
        found = load(put([*h4rmony(7, "Fish?")[:1], *h4rmony(8, "Fly?")], "set.csv"))
        assert [t.id for t in found.triples] == ["h4rmony-8"]
        assert {(p.id, p.best, p.worst) for p in found.prompts} >= {("h4rmony-7", "Fish? best", None)}
        problem = only_problem(found)
        assert (problem.cause, problem.id, problem.line, problem.detail) == ("incomplete", "h4rmony-7", 2, "worst")

    def test_one_prompt_under_two_ids_is_one_group(self, put: Write) -> None:
        found = load(put([*h4rmony(7, "Fish in the sea?"), *h4rmony(8, "fish in THE sea")], "set.csv"))
        assert [t.id for t in found.triples] == ["h4rmony-7", "h4rmony-8"]
        assert len({t.group for t in found.triples}) == 1
        problem = only_problem(found)
        assert (problem.cause, problem.id, problem.detail, problem.line) == (
            "duplicate_prompt",
            "h4rmony-8",
            "h4rmony-7",
            5,
        )

    def test_a_repeated_pair_is_told(self, put: Write) -> None:
        rows = h4rmony(7, "Fish?")
        found = load(put([*rows, rows[0]], "set.csv"))
        assert len(found.triples) == 1
        assert only_problem(found).cause == "repeated"

    @pytest.mark.parametrize("column", ["Prompt", "BetterCompletion", "WorseCompletion"])
    @pytest.mark.parametrize("empty", ["", "   "])
    def test_an_empty_cell_is_named(self, put: Write, column: str, empty: str) -> None:
        rows = h4rmony(7, "Fish?")
        rows[1][column] = empty
        found = load(put(rows, "set.csv"))
        assert ("empty_cell", 3, column.lower()) in told(found)
        assert len(found.pairs) == 2

    @pytest.mark.parametrize("ranks", ["", "R3-R1", "R1-R1", "R1-R4", "best", "R1-R2-R3"])
    def test_an_unknown_rank_is_named(self, put: Write, ranks: str) -> None:
        rows = h4rmony(7, "Fish?")
        rows[0]["ComparedRanks"] = ranks
        assert ("bad_rank", 2, "ComparedRanks") in told(load(put(rows, "set.csv")))

    def test_the_same_answer_twice_is_named(self, put: Write) -> None:
        found = load(put(h4rmony(7, "Fish?", "same", "same", "worst"), "set.csv"))
        assert found.problems[0].cause == "same_answer"
        assert not found.triples

    def test_bom_crlf_and_case_of_columns_change_nothing(self, put: Write) -> None:
        plain = table(h4rmony(7, "¿Peces?")).replace("\r\n", "\n")
        head, _, rest = plain.partition("\n")
        dressed = f"\ufeff{head.upper()}\n{rest}".replace("\n", "\r\n")
        assert load(put(dressed, "dressed.csv")).triples == load(put(plain, "plain.csv")).triples

    def test_ids_are_numbers_in_any_form(self, put: Write) -> None:
        rows = h4rmony(7, "Fish?")
        rows[1]["PromptID"] = "7"
        rows[2]["PromptID"] = 7.0
        assert [t.id for t in load(put(rows)).triples] == ["h4rmony-7"]


class TestEncodings:
    QUOTED = "He said “clean” – it’s a river"

    def test_curly_quotes_in_two_encodings_in_one_file(self, put: Write) -> None:
        lines = table([*h4rmony(1, self.QUOTED, "a", "b", "c"), *h4rmony(2, "Fish?", "“é”", "y", "z")]).split("\r\n")
        raw = b"\r\n".join(line.encode("cp1252" if i in (2, 5) else "utf-8") for i, line in enumerate(lines))
        found = load(put(raw, "set.csv"))
        assert [t.text for t in found.triples] == [self.QUOTED, "Fish?"]
        assert found.triples[1].best == "“é”"
        assert told(found) == [("encoding", 3, None), ("encoding", 6, None)]
        assert all(problem.used for problem in found.problems)

    def test_two_encodings_in_one_line(self, put: Write) -> None:
        raw = table(h4rmony(1, "“uno” — @", "a", "b", "c")).encode().replace(b"@", "“dos” ñ".encode("cp1252"))
        assert [t.text for t in load(put(raw, "set.csv")).triples] == ["“uno” — “dos” ñ"]

    def test_mojibake_is_repaired_and_told_with_line_and_field(self, put: Write) -> None:
        require(find_spec("ftfy") is not None, "ftfy (extra data)")
        spoilt = self.QUOTED.encode().decode("cp1252", "ignore") + " and a “good” canciÃ³n"
        rows = h4rmony(1, "Fish?", "a", spoilt, "c")
        found = load(put(rows, "set.csv"))
        assert ("encoding", 2, "WorseCompletion") in told(found)
        assert ("encoding", 4, "BetterCompletion") in told(found)
        assert "it’s a river and a “good” canción" in found.triples[0].ambivalent

    def test_good_text_is_left_alone(self, put: Write) -> None:
        texts = ["El pingüino “ñandú” — ¿sí?", "L’été à São Paulo: Ångström, âme", "È così", "½ €", "😀 naïve"]
        rows = [row for number, text in enumerate(texts) for row in h4rmony(number, text, "a", "b", "c")]
        found = load(put(rows, "set.csv"))
        assert [t.text for t in found.triples] == texts
        assert not told(found)

    def test_letters_come_out_composed(self, put: Write) -> None:
        rows = h4rmony(1, unicodedata.normalize("NFD", "¿Qué ñandú?"), "a", "b", "c")
        assert load(put(rows)).triples[0].text == "¿Qué ñandú?"


class TestDpo:
    PAIRS = (
        {"prompt": "Fish?", "chosen": "a", "rejected": "b"},
        {"prompt": "Fish?", "chosen": "b", "rejected": "c"},
        {"prompt": "Fish?", "chosen": "a", "rejected": "c"},
    )

    def test_ranks_are_inferred(self, put: Write) -> None:
        found = load(put(self.PAIRS))
        (made,) = found.triples
        assert (made.best, made.ambivalent, made.worst, made.lang) == ("a", "b", "c", "en")
        assert (made.id, made.group) == (made.id, made.id)

    def test_pairs_of_no_known_order_give_prompts_without_answers(self, put: Write) -> None:
        found = load(put(self.PAIRS[:1]))
        assert [(p.text, p.best, p.worst) for p in found.prompts] == [("Fish?", None, None)]
        assert only_problem(found).cause == "incomplete"

    @pytest.mark.parametrize("name", ["set.csv", "set.jsonl"])
    def test_languages_are_told_apart(self, put: Write, name: str) -> None:
        spanish = [{**pair, "prompt": "¿Peces?", "lang": "spa"} for pair in self.PAIRS]
        file = put([*({**pair, "lang": "eng"} for pair in self.PAIRS), *spanish], name)
        assert [(t.text, t.lang) for t in load(file).triples] == [("Fish?", "en"), ("¿Peces?", "es")]
        assert not load(file).problems
        only = load(file, lang="es")
        assert [t.text for t in only.triples] == ["¿Peces?"]
        assert [(p.cause, p.detail) for p in only.problems] == [("other_language", "3")]

    def test_rows_that_do_not_say_their_language_are_told_though_others_do(self, put: Write) -> None:
        found = load(put([{**self.PAIRS[0], "lang": "spa"}, {**self.PAIRS[1], "prompt": "Fly?"}]))
        assert [p.detail for p in found.problems if p.cause == "language_assumed"] == ["en"]

    @pytest.mark.parametrize("name", ["set.csv", "set.jsonl"])
    def test_a_translation_stands_beside_its_source(self, put: Write, name: str) -> None:
        rows = [
            {**pair, **{f"{column}_es": f"{text} (es)" for column, text in pair.items()}, "score": "3"}
            for pair in self.PAIRS
        ]
        file = put(rows, name)
        (spanish,), (english,) = load(file).triples, load(file, lang="en").triples
        assert (spanish.lang, spanish.text, spanish.best) == ("es", "Fish? (es)", "a (es)")
        assert (english.lang, english.text, english.worst) == ("en", "Fish?", "c")
        assert spanish.group == english.group
        assert spanish.meta == english.meta == {"score": "3"}

    @pytest.mark.parametrize("lang", [None, "es"])
    @pytest.mark.parametrize("name", ["set.csv", "set.jsonl"])
    def test_a_row_that_lacks_its_translation_is_not_taken_for_spanish(
        self, put: Write, name: str, lang: str | None
    ) -> None:
        rows = [{**pair, "prompt_es": "¿Peces?", "chosen_es": "x", "rejected_es": "y"} for pair in self.PAIRS]
        rows[1] |= {"prompt_es": "", "chosen_es": "", "rejected_es": ""}
        found = load(put(rows, name), lang=lang)
        assert len(found.pairs) == 2
        assert ("empty_cell", 3 if name == "set.csv" else 2, "prompt_es") in told(found)

    @pytest.mark.parametrize("value", [None, 5, ["a"], {"role": "user"}, True])
    def test_a_cell_that_is_no_text_is_named(self, put: Write, value: object) -> None:
        found = load(put([*self.PAIRS, {"prompt": "Fly?", "chosen": value, "rejected": "b"}]))
        assert told(found) == [("empty_cell" if value is None else "not_text", 4, "chosen")]


class TestOwn:
    ROW: ClassVar = {"id": "río", "text": "¿Qué?", "best": "a", "ambivalent": "b", "worst": "c", "lang": "es"}

    def test_foreign_columns_are_kept_as_metadata(self, put: Write) -> None:
        (made,) = load(put([{**self.ROW, "score": 3, "meta": {"year": 2024}, "nota": None}])).triples
        assert made.meta == {"year": "2024", "score": "3"}
        pairs = load(put([{"text": "¿Qué?", "chosen": "a", "rejected": "b", "score": 3, "lang": "es"}])).pairs
        assert [pair.meta for pair in pairs] == [{"score": "3"}]

    @pytest.mark.parametrize("column", ["text", "prompt", "Pregunta", "question", "instruction"])
    def test_a_prompt_goes_by_several_names(self, put: Write, column: str) -> None:
        (made,) = load(put([{column: "¿Qué?", "best": "a", "ambivalent": "b", "worst": "c"}])).triples
        assert (made.text, made.lang, made.meta) == ("¿Qué?", "es", {})

    @pytest.mark.parametrize(
        ("extra", "cause", "field"),
        [
            ({"text": 5}, "not_text", "text"),
            ({"best": ["a"]}, "not_text", "best"),
            ({"best": "b"}, "same_answer", None),
            ({"id": ["a"]}, "not_text", "id"),
            ({"id": True}, "not_text", "id"),
            ({"group": {"a": 1}}, "not_text", "group"),
            ({"lang": ["es"]}, "not_text", "lang"),
            ({"kind": "poema"}, "bad_value", "kind"),
            ({"sdg": 18}, "bad_value", "sdg"),
            ({"sdg": "mucho"}, "bad_value", "sdg"),
            ({"codes": ["XX"]}, "bad_value", "codes.0"),
            ({"codes": "['PWM']"}, "bad_value", "codes.0"),
            ({"codes": 5}, "bad_value", "codes"),
            ({"explicit": "quizá"}, "bad_value", "explicit"),
            ({"register": "vulgar"}, "bad_value", "register"),
            ({"verified_by": [1]}, "bad_value", "verified_by.0"),
            ({"meta": "no es JSON"}, "bad_value", "meta"),
            ({"meta": [1]}, "bad_value", "meta"),
            ({"meta": "[" * 50_000}, "bad_value", "meta"),
            ({"meta": {"a": {"b": "c"}}}, "bad_value", "meta.a"),
            ({"pair_meta": {"best>worst": "x"}}, "bad_value", "pair_meta.best>worst"),
            ({"text": "x" * (MAX_CELL + 1)}, "oversized", "text"),
            ({"id": "x" * (MAX_CELL + 1)}, "oversized", "id"),
        ],
    )
    def test_a_value_of_the_wrong_type_is_named(
        self, put: Write, extra: dict[str, Any], cause: str, field: str | None
    ) -> None:
        sound = {**self.ROW, "id": "mar", "text": "¿Y?"}
        found = load(put([sound, {**self.ROW, **extra}]))
        assert told(found) == [(cause, 2, field)]
        assert [t.id for t in found.triples] == ["mar"]

    @pytest.mark.parametrize(
        "ranks", [("worst", "best"), ("best", "best"), ("best", ""), ("bueno", "worst"), (1, 2), (["best"], "worst")]
    )
    def test_ranks_that_contradict_the_pair_are_named(self, put: Write, ranks: tuple[object, object]) -> None:
        said = dict(zip(("chosen_rank", "rejected_rank"), ranks, strict=True))
        found = load(put([{"text": "¿Qué?", "chosen": "a", "rejected": "b", "lang": "es", **said}]))
        assert [problem.cause for problem in found.problems] == ["bad_rank"]
        assert (only_problem(found).line, only_problem(found).field) in [(1, "chosen_rank"), (1, "rejected_rank")]

    def test_lists_in_a_spreadsheet(self, put: Write) -> None:
        row = {**self.ROW, "codes": "PWM, WA", "verified_by": "Ana López; Juan", "explicit": "True", "control": "0"}
        (made,) = load(put([row], "set.csv")).triples
        assert (made.codes, made.verified_by) == (("PWM", "WA"), ("Ana López", "Juan"))
        assert (made.explicit, made.control) == (True, False)

    def test_a_repeated_id_is_named_and_the_first_stays(self, put: Write) -> None:
        found = load(put([self.ROW, {**self.ROW, "text": "¿Otra?"}, {**self.ROW, "lang": "en"}]))
        assert [(t.text, t.lang) for t in found.triples] == [("¿Qué?", "es"), ("¿Qué?", "en")]
        assert told(found) == [("duplicate_id", 2, None)]

    def test_an_answer_that_lacks_is_named(self, put: Write) -> None:
        found = load(put([{**self.ROW, "worst": ""}, {"text": "sola", "lang": "es"}]))
        assert [p.text for p in found.prompts] == ["¿Qué?", "sola"]
        assert told(found) == [("incomplete", 1, None)]
        assert found.problems[0].detail == "worst"

    def test_texts_without_a_letter_are_not_all_the_same(self, put: Write) -> None:
        found = load(put([{"text": text, "lang": "es"} for text in ("🌍", "🌱", "¿?")]))
        assert len({p.group for p in found.prompts}) == 3
        assert not found.problems

    def test_a_group_moves_whole(self, put: Write) -> None:
        rows = [("a", "g1", "Río"), ("b", "g2", "¡río!"), ("c", "g2", "Otro"), ("d", "g3", "otro")]
        found = load(put([{"id": i, "group": g, "text": text, "lang": "es"} for i, g, text in rows]))
        assert [(p.id, p.group) for p in found.prompts] == [("a", "g1"), ("b", "g1"), ("c", "g1"), ("d", "g1")]
        assert len({split_of(p.group) for p in found.prompts}) == 1

    def test_ranked_samples_in_two_languages(self, put: Write) -> None:
        row = {"prompt": "Fish?", "best": "a", "ambivalent": "b", "worst": "c"}
        both = {**row, "prompt_es": "¿Peces?", "best_es": "x", "ambivalent_es": "y", "worst_es": "z", "source": "web"}
        file = put([both, {**row, "prompt": "Fly?", "worst": None}])
        found = load(file)
        assert [(p.text, p.lang) for p in found.prompts] == [("¿Peces?", "es"), ("Fly?", "en")]
        assert [t.meta for t in found.triples] == [{"source": "web"}]
        assert [(p.text, p.lang) for p in load(file, lang="en").prompts] == [("Fish?", "en"), ("Fly?", "en")]
        assert [p.text for p in load(file, lang="es").prompts] == ["¿Peces?"]


class TestRealSources:
    @pytest.fixture(autouse=True)
    def there(self) -> None:
        require(H4RMONY.is_dir(), "H4rmony's samples in shared/h4rmony")

    def test_prompts_with_their_best_answer(self) -> None:
        found = load(H4RMONY / "prompts_best_en.jsonl", lang="en")
        assert (found.rows, len(found.triples)) == (400, 0)
        assert all(p.best and p.lang == "en" for p in found.prompts)
        causes = {problem.cause for problem in found.problems}
        assert causes <= {"incomplete", "duplicate_prompt", "duplicate_id"}
        left_out = sum(problem.cause == "duplicate_id" for problem in found.problems)
        assert len(found.prompts) + left_out == 400

    def test_really_ranked_records(self) -> None:
        found = load(H4RMONY / "ranked_sample.jsonl")
        (made,) = found.triples
        assert made.lang == "es"
        assert made.text == "¿Cómo ves el equilibrio entre la industrialización y la conservación ambiental?"
        assert [p.lang for p in found.prompts[1:]] == ["en"] * 5
        assert [p.id for p in found.prompts if p.id == "131"] == ["131"]
        assert [(p.cause, p.line) for p in found.problems if p.cause == "incomplete"] == [
            ("incomplete", line) for line in range(2, 7)
        ]
        assert len(load(H4RMONY / "ranked_sample.jsonl", lang="en").triples) == 1


class TestWholeFiles:
    @pytest.mark.parametrize("suffix", FORMS)
    @pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
    def test_an_empty_file_is_said_to_be_empty(self, put: Write, suffix: str, content: bytes) -> None:
        file = put(content, f"set{suffix}")
        refused(file, "data.bad_parquet" if suffix == ".parquet" and content else "data.empty")

    def test_a_file_that_is_none_is_named(self, put: Write, tmp_path: Path) -> None:
        refused(tmp_path / "no.jsonl", "data.no_file")
        refused(tmp_path, "data.unreadable")
        refused(put(b"PAR1 no", "set.parquet"), "data.bad_parquet")
        refused(put('text,best\n"abierta', "set.csv"), "data.bad_csv", line=2)
        refused(put('[{"text": "a"},\n {]', "set.json"), "data.bad_json", line=2)
        refused(put("[" * 100_000, "set.json"), "data.bad_json", line=1)

    def test_a_source_that_is_neither_file_nor_dataset_is_named(self) -> None:
        with pytest.raises(InputError) as caught:
            load("no existe")
        assert caught.value.key == "data.no_source"

    def test_unknown_columns_are_named_and_not_at_length(self, put: Write) -> None:
        error = refused(
            put([{"body": "hola", "x" * 10_000: 1, **{f"c{i}": i for i in range(500)}}]), "data.unknown_columns"
        )
        assert "body" in str(error.values["columns"])
        assert len(str(error.values["columns"])) < 1_000

    def test_two_columns_of_one_name_are_refused(self, put: Write) -> None:
        refused(put("text,best,Best\nuno,a,b\n", "set.csv"), "data.bad_csv", line=1)
        assert load(put("text,,\nuno,a,b\n", "blank.csv")).prompts[0].text == "uno"

    def test_lines_that_cannot_be_read_are_told_and_the_others_used(self, put: Write) -> None:
        good = json.dumps({"text": "¿Qué?", "lang": "es"}, ensure_ascii=False)
        found = load(put(f'{good}\n\n{{"text": \n[1]\n"x"\n{{"text": "\\ud83c"}}\n'))
        assert [p.text for p in found.prompts] == ["¿Qué?"]
        assert told(found) == [
            ("bad_json", 3, None),
            ("not_object", 4, None),
            ("not_object", 5, None),
            ("bad_json", 6, None),
        ]
        assert found.rows == 5
        found = load(put("lang,text\nes,uno\nes,dos,tres\nes,cuatro\n", "set.csv"))
        assert told(found) == [("extra_cells", 3, None)]
        listed = load(put('[{"text": "uno", "lang": "es"}, 5]', "set.json"))
        assert [(p.cause, p.row, p.line) for p in listed.problems] == [("not_object", 2, None)]

    def test_a_file_of_which_no_line_can_be_read_says_why(self, put: Write) -> None:
        refused(put('{"text": \n{"text"'), "data.bad_json", line=1)
        refused(put("\n5\n"), "data.not_object", line=2)
        refused(put("a,b\n1,2,3\n", "set.csv"), "data.extra_cells", line=2)
        refused(put("[1]", "set.json"), "data.not_object", line=1)

    def test_strict_reading_stops_at_the_first_defect(self, put: Write) -> None:
        with pytest.raises(DataError) as caught:
            list(read_rows(put(b'{"text": "a"}\n{"text": "\xf1"}\n')))
        assert (caught.value.key, caught.value.values["line"]) == ("data.not_utf8", 2)

    def test_a_cell_of_ten_megabytes_is_named(self, put: Write) -> None:
        big = "palabra " * 1_250_000
        rows = [{"text": "uno", "lang": "es"}, {"text": big, "lang": "es"}, {"text": "dos", "lang": "es", "nota": big}]
        for name, line in (("set.jsonl", 2), ("set.csv", 3)):
            found = load(put(rows, name))
            assert told(found) == [("oversized", line, "text")]
            assert [p.text for p in found.prompts] == ["uno", "dos"]

    def test_parquet_of_others_is_read_with_row_numbers(self, tmp_path: Path) -> None:
        file = tmp_path / "set.parquet"
        columns = {"prompt": ["Fish?", None, "Fly?"], "chosen": ["a", "b", "c"], "rejected": ["b", "c", "c"]}
        pq.write_table(pa.table({**columns, "lang": ["eng"] * 3, "raw": [b"\xff", None, b""]}), file)
        found = load(file)
        assert [(p.cause, p.row, p.line) for p in found.problems][:2] == [
            ("empty_cell", 2, None),
            ("same_answer", 3, None),
        ]

    @RELAXED
    @given(st.binary(max_size=200), st.sampled_from(FORMS))
    def test_no_bytes_break_the_reader(self, tmp_path: Path, data: bytes, suffix: str) -> None:
        file = tmp_path / f"fuzz{suffix}"
        file.write_bytes(data)
        with suppress(DataError):
            assert all(isinstance(row, Row | Defect) for row in read_rows_and_defects(file))
        with suppress(DataError):
            load(file)

    @RELAXED
    @given(
        st.lists(
            st.dictionaries(
                st.sampled_from(["text", "id", "group", "best", "ambivalent", "worst", "chosen", "rejected", "lang"])
                | st.sampled_from(["prompt", "prompt_es", "chosen_es", "rejected_es", "codes", "meta", "chosen_rank"]),
                st.none() | st.booleans() | st.floats() | TEXTS | st.lists(TEXTS, max_size=2) | METAS,
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_no_record_breaks_the_loader(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        file = tmp_path / "fuzz.jsonl"
        file.write_text(jsonl(rows), encoding="utf-8")
        try:
            found = load(file)
        except DataError as error:
            if error.key != "data.unknown_columns":
                raise
            return
        unused = {p.row for p in found.problems if not p.used}
        kept = {p.id for p in found.prompts} | {pair.prompt.id for pair in found.pairs}
        assert kept or unused


class TestWriting:
    @pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
    @RELAXED
    @given(made=SETS)
    def test_triples_and_pairs_come_back_as_they_were(self, tmp_path: Path, suffix: str, made: list[Triple]) -> None:
        file = tmp_path / f"set{suffix}"
        assert write(made, file, force=True) == len(made)
        found = load(file)
        assert found.triples == tuple(made)
        assert not found.problems
        pairs = explode(made)
        for some in (pairs, unranked(pairs)):
            write(some, file, force=True)
            found = load(file)
            assert found.pairs == tuple(some)
            assert [t.id for t in found.triples] == [t.id for t in made]

    @pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
    @RELAXED
    @given(
        fields=st.lists(
            prompts(), min_size=1, max_size=3, unique_by=(lambda p: p["id"], lambda p: normalised(p["text"]))
        )
    )
    def test_prompts_without_answers_come_back_too(
        self, tmp_path: Path, suffix: str, fields: list[dict[str, Any]]
    ) -> None:
        made = [Prompt(**values) for values in fields]
        file = tmp_path / f"set{suffix}"
        write(made, file, force=True)
        assert load(file).prompts == tuple(made)

    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
    def test_a_carriage_return_tears_no_record(self, tmp_path: Path, suffix: str) -> None:
        made = Triple(id="p", group="p", text="uno\rdos\r\ntres", best="a\r", ambivalent="\rb", worst="c\rd")
        file = tmp_path / f"set{suffix}"
        write([made], file)
        (found,) = load(file).triples
        assert [text.splitlines() for text in (found.text, found.worst)] == [["uno", "dos", "tres"], ["c", "d"]]

    def test_nothing_is_overwritten_unasked(self, tmp_path: Path) -> None:
        file = tmp_path / "set.jsonl"
        file.write_text("mío")
        made = [Prompt(id="p", group="p", text="uno")]
        with pytest.raises(InputError) as caught:
            write(made, file)
        assert caught.value.key == "data.exists"
        assert file.read_text() == "mío"
        write(made, file, force=True)
        assert load(file).prompts == tuple(made)

    @pytest.mark.parametrize(
        ("name", "key"),
        [("set.txt", "data.unknown_form"), ("set", "data.unknown_form"), ("no/set.csv", "data.no_folder")],
    )
    def test_a_target_that_cannot_be_is_refused_first(self, tmp_path: Path, name: str, key: str) -> None:
        with pytest.raises(InputError) as caught:
            write([], tmp_path / name)
        assert caught.value.key == key
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("suffix", FORMS)
    def test_a_failed_write_leaves_nothing(self, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        file = tmp_path / f"set{suffix}"
        file.write_text("mío")
        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(StoreError, match="No space left"):
            write([Prompt(id="p", group="p", text="uno")], file, force=True)
        assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [(file.name, "mío")]


class TestSets:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        """A package with one bundled set and one to be built."""
        for folder in ("prompts", "sets"):
            (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data/prompts/ours.jsonl").write_text('{"id": "a", "group": "a", "text": "uno"}\n')
        (tmp_path / "data/sets/theirs.toml").write_text(
            'lang = "es"\nlicence = "CC-BY-4.0"\nattribution = "ellos"\n[[parts]]\nsource = "a/b"\nrevision = "1"\n'
        )
        return tmp_path / "data"

    @pytest.fixture
    def built(self, data: Path, tmp_path: Path) -> Path:
        """The folder of built sets, with one that is as pinned."""
        folder = tmp_path / "built"
        folder.mkdir()
        (folder / "theirs.jsonl").write_text('{"id": "b", "group": "b", "text": "dos"}\n')
        self.record(folder / "theirs.jsonl", revision="1")
        return folder

    @staticmethod
    def record(prompts: Path, revision: str) -> None:
        made = {
            "parts": [{"source": "a/b", "revision": revision}],
            "attribution": "ellos",
            "sha256": hashlib.sha256(prompts.read_bytes()).hexdigest(),
        }
        prompts.with_suffix(".json").write_text(json.dumps(made))

    @staticmethod
    def refused(key: str, name: str, data: Path, built: Path | None) -> EcoEvalError:
        with pytest.raises(InputError) as caught:
            find_set(name, data, built)
        assert caught.value.key == key
        return caught.value

    def test_a_bundled_set_needs_no_building(self, data: Path) -> None:
        found = find_set("ours", data, None)
        assert (found.prompts, found.source, found.sound) == (data / "prompts/ours.jsonl",) * 2 + (True,)

    def test_a_set_that_is_not_built_says_how(self, data: Path, tmp_path: Path) -> None:
        for built in (None, tmp_path / "nothing"):
            assert self.refused("prompts.not_built", "theirs", data, built).values["name"] == "theirs"

    def test_an_unknown_set_names_those_there_are(self, data: Path, built: Path) -> None:
        assert self.refused("prompts.unknown", "nadie", data, built).values["known"] == "ours, theirs"

    def test_a_set_as_pinned_is_sound(self, data: Path, built: Path) -> None:
        found = find_set("theirs", data, built)
        assert found == FoundSet(
            built / "theirs.jsonl", data / "sets/theirs.toml", "ellos", sound=True, origins=("a/b",)
        )

    def test_a_set_of_another_revision_stands_for_itself(self, data: Path, built: Path) -> None:
        self.record(built / "theirs.jsonl", revision="2")
        found = find_set("theirs", data, built)
        assert (found.source, found.sound) == (built / "theirs.jsonl", False)

    def test_a_set_of_ones_own_is_found_and_not_pinned(self, data: Path, built: Path) -> None:
        (built / "mine.jsonl").write_bytes((built / "theirs.jsonl").read_bytes())
        self.record(built / "mine.jsonl", revision="1")
        assert not find_set("mine", data, built).sound

    @pytest.mark.parametrize("record", [None, "", "{}", "[]", '{"parts": []}', "\ufeff"])
    def test_a_set_without_a_sound_record_is_damaged(self, data: Path, built: Path, record: str | None) -> None:
        (built / "theirs.json").unlink() if record is None else (built / "theirs.json").write_text(record)
        assert self.refused("sets.damaged", "theirs", data, built).values["file"] == built / "theirs.jsonl"

    def test_a_set_that_changed_since_is_damaged(self, data: Path, built: Path) -> None:
        with (built / "theirs.jsonl").open("a") as out:
            out.write("\n")
        self.refused("sets.damaged", "theirs", data, built)

    @pytest.mark.parametrize(
        ("text", "key", "field"),
        [
            ("lang = ", "data.bad_toml", None),
            ('lang = "es"', "data.bad_key", "licence"),
            ('lang = "es"\nlicence = "x"\nattribution = "y"\nparts = []', "data.bad_key", "parts"),
            ('lang = "es"\nlicence = "x"\nattribution = "y"\n[[parts]]\nsource = 5', "data.bad_key", "parts.0.source"),
            (
                'lang = "es"\nlicence = "x"\nattribution = "y"\nmore = 1\n[[parts]]\nsource = "a"',
                "data.bad_key",
                "more",
            ),
        ],
    )
    def test_a_set_file_that_is_wrong_names_its_key(self, put: Write, text: str, key: str, field: str | None) -> None:
        with pytest.raises(DataError) as caught:
            read_set_file(put(text, "set.toml"))
        assert (caught.value.key, caught.value.values.get("field")) == (key, field)
