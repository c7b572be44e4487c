"""Prompt sets as people send them: any encoding accident is survived or named by file, line and field."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import H4RMONY
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from eco_eval.errors import DataError, InputError
from eco_eval.instrument import DATA
from eco_eval.prompts import EVAL_SHARE, prompts_digest, read_prompts, select, split_of
from eco_eval.sets import find_set
from eco_eval.triples import load
from eco_eval.triples.card import dataset_card, json_schema
from eco_eval.triples.check import load_limits, measure
from eco_eval.triples.curate import counts
from eco_eval.triples.generate import detect_language
from eco_eval.types import Prompt

Write = Callable[..., Path]

ROLES = ("best", "ambivalent", "worst")
WORDS = st.text(min_size=1, max_size=30).filter(str.strip)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def call(content: str | bytes, name: str = "set.jsonl") -> Path:
        file = tmp_path / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return call


@pytest.fixture(scope="module")
def ours() -> tuple[Prompt, ...]:
    return read_prompts(find_set("eco-es-v1", DATA, None).prompts, strict=True)


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def refused(file: Path, key: str, *, strict: bool = False, **values: object) -> None:
    with pytest.raises(DataError) as caught:
        read_prompts(file, strict=strict)
    assert caught.value.key == key
    assert caught.value.values["file"] == file
    assert {name: caught.value.values[name] for name in values} == values


def test_bom_and_crlf_change_nothing(write: Write) -> None:
    plain = jsonl({"id": "uno", "text": "¿Qué río?"}, {"id": "dos", "text": "El mar"})
    dressed = write(b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode(), "dressed.jsonl")
    assert read_prompts(dressed) == read_prompts(write(plain))


def test_composed_and_decomposed_letters_are_the_same_prompt(write: Write) -> None:
    row = {"id": "camión", "group": "árbol", "text": "¿Qué pájaro?", "best": "Mañana"}
    files = [write(unicodedata.normalize(form, jsonl(row)), f"{form}.jsonl") for form in ("NFC", "NFD")]
    first, second = (read_prompts(file) for file in files)
    assert first == second
    assert prompts_digest(first) == prompts_digest(second)
    assert unicodedata.is_normalized("NFC", second[0].text + second[0].id + second[0].group)


def test_only_a_line_feed_ends_a_record(write: Write) -> None:
    text = "uno\u2028dos\u2029tres\x85cuatro"
    file = write(json.dumps({"text": text}, ensure_ascii=False) + "\n\n" + json.dumps({"text": "b"}))
    assert [p.text for p in read_prompts(file)] == [text, "b"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_spreadsheets_of_any_delimiter_hold_commas_quotes_and_new_lines(write: Write, delimiter: str) -> None:
    texts = ["uno, dos; y\ttres", 'dijo "sí"', "primera línea\nsegunda, línea", "   ¿y?"]
    out = io.StringIO(newline="")
    table = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    table.writerows([["Id", "Pregunta", "notas"], *([f"p{i}", text, "x"] for i, text in enumerate(texts))])
    table.writerow(["", "", ""])
    prompts = read_prompts(write("\ufeff" + out.getvalue(), "set.csv"))
    assert [(p.id, p.text) for p in prompts] == [(f"p{i}", text) for i, text in enumerate(texts)]


def test_a_single_column_needs_no_delimiter(write: Write) -> None:
    assert [p.text for p in read_prompts(write("prompt\nuno, dos\n", "set.csv"))] == ["uno, dos"]
    assert [p.text for p in read_prompts(write("id\ttext\n1\tuno, dos\n", "set.tsv"))] == ["uno, dos"]


def test_malformed_json_names_file_and_line(write: Write) -> None:
    good = jsonl({"text": "a"})
    refused(write(f'{good}\n{{"text": "b"\n{good}'), "data.bad_json", line=3)
    refused(write(f"{good}[1]\n"), "data.not_object", line=2)
    refused(write('{"text": ' + "1" * 5000 + "}"), "data.bad_json", line=1)
    refused(write("[" * 100_000), "data.bad_json", line=1)


def test_half_a_character_is_refused_and_not_met_later(write: Write) -> None:
    refused(write('{"text": "hola \\ud83c"}'), "data.bad_json", line=1)
    assert read_prompts(write('{"text": "hola \\ud83c\\udf0d"}'))[0].text == "hola 🌍"


def test_a_spreadsheet_error_names_the_line_where_the_record_begins(write: Write) -> None:
    head = 'id,text\n1,"dos\nlíneas"\n'
    refused(write(f"{head}2,a,b\n", "set.csv"), "data.extra_cells", line=4)
    refused(write(f'{head}2,"sin cerrar\n3,b\n4,c\n', "set.csv"), "data.bad_csv", line=4)
    refused(write(f"{head}2,\n", "set.csv"), "data.no_text", line=4)


def test_duplicate_ids_name_both_records(write: Write) -> None:
    rows = [{"id": "a", "text": "1"}, {"id": "b", "text": "2"}, {"id": "a", "text": "3"}]
    refused(write(jsonl(*rows)), "data.duplicate_id", id="a", first=1, again=3)


@pytest.mark.parametrize("name", ["set.jsonl", "set.csv", "set.tsv"])
@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_said_to_be_empty(write: Write, name: str, content: str) -> None:
    refused(write(content, name), "data.empty")


def test_a_header_alone_is_empty(write: Write) -> None:
    refused(write("id,text\n", "set.csv"), "data.empty")


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["set.jsonl", "set.csv"])
def test_bytes_that_are_not_utf8_name_their_line(write: Write, name: str, start: bytes) -> None:
    refused(write(start + b"text\r\nhola\r\n\xf1andu\r\n", name), "data.not_utf8", line=3)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "missing.jsonl", "data.no_file")
    refused(tmp_path, "data.unreadable")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"id": "a", "text": 5}, "text"),
        ({"id": ["a"], "text": "b"}, "id"),
        ({"id": "a", "text": "b", "group": ["c"]}, "group"),
        ({"id": "a", "text": "b", "best": 5}, "best"),
        ({"id": "a", "text": "b", "lang": 5}, "lang"),
        ({"id": "a", "text": "  "}, "text"),
    ],
)
def test_a_value_of_the_wrong_type_names_its_field(write: Write, row: dict[str, Any], field: str) -> None:
    refused(write("\n" + jsonl(row)), "data.bad_field", line=2, field=field)


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"sdg": 18}, "sdg"),
        ({"sdg": "mucho"}, "sdg"),
        ({"kind": "poema"}, "kind"),
        ({"codes": ["PWM", "XX"]}, "codes.1"),
        ({"register": "vulgar"}, "register"),
        ({"verified_by": [1]}, "verified_by.0"),
        ({"unknown": 1}, "unknown"),
        ({"id": ""}, "id"),
        ({"group": " "}, "group"),
    ],
)
def test_strict_reading_names_the_field_and_refuses_unknown_ones(
    write: Write, extra: dict[str, Any], field: str
) -> None:
    row = {"id": "a", "group": "a", "text": "b", **extra}
    refused(write(jsonl(row)), "data.bad_field", strict=True, line=1, field=field)


def test_strict_reading_makes_up_nothing(write: Write) -> None:
    refused(write(jsonl({"text": "a"})), "data.bad_field", strict=True, line=1, field="id")
    refused(write(jsonl({"id": "a", "text": "a"})), "data.bad_field", strict=True, line=1, field="group")


def test_foreign_columns_are_left_out_and_ids_made(write: Write) -> None:
    rows = [{"Instruction": "uno", "score": 3, "id": None}, {"Instruction": "dos", "id": "", "group": None}]
    prompts = read_prompts(write(jsonl(*rows)))
    assert prompts == (
        Prompt(id="row-1", group="row-1", text="uno"),
        Prompt(id="row-2", group="row-2", text="dos"),
    )


def test_numbers_can_be_ids(write: Write) -> None:
    prompts = read_prompts(write("PromptID;prompt;group\n0;uno;7\n1;dos;\n", "set.csv"))
    assert [(p.id, p.group) for p in prompts] == [("0", "7"), ("1", "1")]
    assert read_prompts(write(jsonl({"id": 0, "text": "uno", "group": 7})))[0].group == "7"


def test_a_file_without_texts_names_the_columns_it_could_have(write: Write) -> None:
    with pytest.raises(DataError) as caught:
        read_prompts(write(jsonl({"body": "hola"})))
    assert caught.value.key == "data.no_text"
    assert "pregunta" in str(caught.value.values["columns"])


@pytest.mark.skipif(
    not (H4RMONY / "prompts_best_en.jsonl").is_file(), reason="no copy of H4rmony beside the repository"
)
def test_real_foreign_prompts_are_read() -> None:
    prompts = read_prompts(H4RMONY / "prompts_best_en.jsonl")
    assert len(prompts) == 400
    assert prompts[0].id == "row-1"
    assert prompts[0].text == "What should be the primary concern when developing a new urban area?"
    assert all(p.best and not p.worst for p in prompts)


TEXTS = WORDS.map(lambda text: unicodedata.normalize("NFC", text)).filter(str.strip)
MAYBE = st.none() | TEXTS
PROMPTS = st.builds(
    Prompt,
    id=TEXTS,
    group=TEXTS,
    text=TEXTS,
    kind=st.sampled_from([None, "plan", "dialogue"]),
    explicit=st.sampled_from([None, True, False]),
    codes=st.lists(st.sampled_from(["PWM", "SC"]), max_size=2).map(tuple),
    sdg=st.none() | st.integers(1, 17),
    speech_register=st.sampled_from([None, "formal"]),
    best=MAYBE,
    worst=MAYBE,
    verified_by=st.lists(TEXTS, max_size=2).map(tuple),
)


@settings(deadline=None)
@given(st.lists(PROMPTS, min_size=1, max_size=5, unique_by=lambda p: p.id), st.booleans())
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[Prompt], plain: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "round.jsonl"
    rows = [p.model_dump(mode="json", by_alias=True) for p in prompts]
    file.write_bytes("".join(json.dumps(row, ensure_ascii=plain) + "\n" for row in rows).encode())
    assert read_prompts(file, strict=True) == tuple(prompts)
    lax = read_prompts(file)
    assert [(p.id, p.group, p.text, p.best) for p in lax] == [(p.id, p.group, p.text, p.best) for p in prompts]


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".csv", ".tsv"]))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str) -> None:
    file = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    file.write_bytes(data)
    with suppress(DataError):
        assert read_prompts(file)


def test_splits_never_move() -> None:
    assert split_of("aceite-taller-guadalupe-nl") == "eval"
    assert split_of("grupo-1") == "train"
    assert split_of("río") == "eval"


def test_a_group_is_never_cut() -> None:
    prompts = [Prompt(id=f"{group}-{i}", group=f"g{group}", text="x") for group in range(300) for i in range(3)]
    held, rest = select(prompts, "eval"), select(prompts, "train")
    assert not {p.group for p in held} & {p.group for p in rest}
    assert sorted(p.id for p in (*held, *rest)) == sorted(p.id for p in prompts)
    assert select(prompts, "all") == tuple(prompts)
    assert len(held) / len(prompts) == pytest.approx(EVAL_SHARE, abs=0.08)


def test_the_digest_of_what_is_asked_holds_ids_texts_and_order(ours: tuple[Prompt, ...]) -> None:
    first, second, *_ = ours
    base = prompts_digest([first, second])
    assert prompts_digest([first.model_copy(update={"best": None, "kind": None}), second]) == base
    changed = [
        [second, first],
        [first],
        [first.model_copy(update={"text": f"{first.text} "}), second],
        [first.model_copy(update={"id": "x"}), second],
    ]
    assert len({base, *map(prompts_digest, changed)}) == 5


def test_an_unknown_set_names_those_there_are() -> None:
    with pytest.raises(InputError) as caught:
        find_set("eco-es-v0", DATA, None)
    assert caught.value.key == "prompts.unknown"
    assert "eco-es-v1" in str(caught.value.values["known"])


class TestBundledSet:
    def test_every_record_is_a_complete_triple(self, ours: tuple[Prompt, ...]) -> None:
        for prompt in ours:
            answers = [getattr(prompt, role) for role in ROLES]
            assert all(answers), prompt.id
            assert len(set(answers)) == 3, prompt.id
            assert prompt.kind is not None
            assert prompt.speech_register is not None
            assert prompt.explicit is not None
            assert prompt.variety, prompt.id
            assert prompt.origin, prompt.id
            assert prompt.lang == "es"

    def test_labels_agree_with_the_taxonomy(self, ours: tuple[Prompt, ...]) -> None:
        with (DATA / "prompts" / "taxonomy.csv").open(encoding="utf-8", newline="") as handle:
            known = {row["manifestation"]: row for row in csv.DictReader(handle)}
        assert {prompt.manifestation for prompt in ours if not prompt.control} == set(known)
        for prompt in ours:
            if prompt.control:
                assert (prompt.manifestation, prompt.sdg, prompt.codes, prompt.explicit) == (None, None, (), False)
                continue
            assert prompt.manifestation is not None
            row = known[prompt.manifestation]
            assert row["code"] in prompt.codes, prompt.id
            assert prompt.sdg == int(row["sdg"]), prompt.id
            assert len(set(prompt.codes)) == len(prompt.codes), prompt.id

    def test_ids_are_unique_and_texts_normal(self, ours: tuple[Prompt, ...]) -> None:
        raw = find_set("eco-es-v1", DATA, None).prompts.read_bytes()
        assert len({p.id for p in ours}) == len({p.text for p in ours}) == len(ours)
        assert unicodedata.is_normalized("NFC", raw.decode())
        assert not raw.startswith(b"\xef\xbb\xbf")
        assert b"\r" not in raw

    def test_the_splits_are_balanced_over_codes_and_kinds(self, ours: tuple[Prompt, ...]) -> None:
        share = len(select(ours, "eval")) / len(ours)
        assert abs(share - EVAL_SHARE) < 0.03
        for table in (counts(ours)["codes"], counts(ours)["kind"], counts(ours)["control"]):
            for value, (train, held_out) in table.items():
                assert abs(held_out / (train + held_out) - share) < 0.1, value

    def test_nobody_is_said_to_have_verified_it(self, ours: tuple[Prompt, ...]) -> None:
        assert not any(prompt.verified_by for prompt in ours)

    def test_it_holds_to_its_limits(self) -> None:
        limits = load_limits(DATA / "limits" / "eco-es-v1.toml")
        assert all(limit is not None for limit in limits.model_dump().values())
        found = measure(load(find_set("eco-es-v1", DATA, None).prompts).triples, limits)
        assert [finding for finding in found if not finding.ok] == []

    def test_every_line_is_valid_by_its_schema(self) -> None:
        schema = json.loads((DATA / "prompts" / "schema.json").read_text(encoding="utf-8"))
        assert schema == json_schema()
        check = Draft202012Validator(schema)
        for line in find_set("eco-es-v1", DATA, None).prompts.read_text(encoding="utf-8").splitlines():
            assert [error.message for error in check.iter_errors(json.loads(line))] == []

    def test_its_card_is_as_generated(self, ours: tuple[Prompt, ...]) -> None:
        triples = load(find_set("eco-es-v1", DATA, None).prompts).triples
        assert (DATA / "prompts" / "README.md").read_text(encoding="utf-8") == dataset_card(triples, "eco-es-v1", "")

    @pytest.mark.parametrize("lang", ["en", "it"])
    def test_its_twins_ask_the_same_in_another_language(self, ours: tuple[Prompt, ...], lang: str) -> None:
        twins = read_prompts(find_set(f"eco-{lang}-v1", DATA, None).prompts, strict=True)
        same = ("id", "group", "kind", "explicit", "control", "codes", "manifestation", "sdg", "speech_register")
        assert [[getattr(p, f) for f in same] for p in twins] == [[getattr(p, f) for f in same] for p in ours]
        for prompt, twin in zip(ours, twins, strict=True):
            assert (twin.lang, twin.best, twin.verified_by) == (lang, None, ())
            assert 0.6 < len(twin.text) / len(prompt.text) < 1.6, twin.id
        # Texts that quote code are in two languages.
        foreign = [twin.id for twin in twins if detect_language(twin.text) not in (lang, None)]
        assert len(foreign) <= 2, foreign
