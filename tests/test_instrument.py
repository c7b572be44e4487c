"""The instrument and its rubric: what a number means is checked, pinned and digested."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_eval.errors import InputError, InstrumentError
from eco_eval.instrument import DATA, Instrument, check_pins, instrument_names, load_instrument, pin
from eco_eval.rubric import PARTS, Lang, fill, load_rubric
from eco_eval.types import Prompt

NAMES = instrument_names()
LANGS: list[Lang] = ["es", "en"]
RUBRIC = "rubrics/eco-v1"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the data folder without pins, to be edited."""
    return Path(shutil.copytree(DATA, tmp_path / "data", ignore=shutil.ignore_patterns("pins.json")))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def refused(call: Callable[[], object], key: str, **values: object) -> None:
    with pytest.raises(InstrumentError) as caught:
        call()
    assert caught.value.key == key
    assert {name: caught.value.values[name] for name in values} == values


NEED_THE_HUB = {"h4rmony-es-v1", "h4rmony-en-v1", "combined-es-v1", "combined-en-v1"}
"""Their texts are built from the Hub: tests/test_official.py loads them from a local one."""


@pytest.mark.parametrize("name", sorted({*NAMES} - NEED_THE_HUB))
def test_bundled_instruments_load(name: str) -> None:
    instrument = load_instrument(name)
    assert instrument.name == name
    assert instrument.asked == instrument.gold
    assert len(instrument.asked) > 50


@pytest.mark.parametrize("name", sorted(NEED_THE_HUB))
def test_an_instrument_whose_texts_are_not_here_says_how_to_get_them(name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_instrument(name)
    assert (caught.value.key, caught.value.values["name"]) == ("prompts.not_built", name)


def test_official_instruments_differ_in_their_prompts_alone() -> None:
    files = [DATA / "instruments" / f"{name}.toml" for name in NAMES if name != "eco-es-demo"]
    lines = [
        {line for line in file.read_text().splitlines() if not line.startswith(("#", "name =", "set ="))}
        for file in files
    ]
    assert all(one == lines[0] for one in lines)


def test_the_embedded_default_is_never_published() -> None:
    assert load_instrument("eco-es-demo").judge.stand_in
    assert not load_instrument("eco-es-demo").with_judge_at("a" * 40).publishable


@pytest.mark.parametrize("name", ["eco-es-v0", "nowhere/mine.toml", ""])
def test_an_unknown_instrument_names_those_there_are(name: str) -> None:
    refused(lambda: load_instrument(name), "instrument.unknown", name=name, known=", ".join(NAMES))


@pytest.mark.parametrize(
    ("old", "new", "key", "field"),
    [
        ("seed = 0", 'seed = "zero"', "bad_key", "answer.seed"),
        ("max_tokens = 256", "max_tokens = 0", "bad_key", "answer.max_tokens"),
        ("seed = 0", "seed = 0\ntop_p = 0.9", "unknown_key", "answer.top_p"),
        ("stand_in = true", "stand_in = true\nprompt = 'x'", "unknown_key", "judge.prompt"),
        ('split = "eval"', 'split = "test"', "bad_key", "prompts.split"),
        ('set = "eco-es-v1"', "set = 3", "bad_key", "prompts.set"),
        ('rubric = "eco-v1"', "rubric = 3", "bad_key", "judge.rubric"),
        ('rubric = "eco-v1"', "", "bad_key", "judge.rubric"),
        ("[score]", "[scores]", "bad_key", "score"),
        ("[prompts]", "[source]", "bad_key", "prompts"),
        ("[judge]", "[judge.inner]", "bad_key", "judge.model"),
        ('lang = "es"', 'lang = "fr"', "bad_key", "lang"),
        ('lang = "es"', 'lang = "es"\nextra = 1', "unknown_key", "extra"),
        ('lang = "es"', 'lang = "es"\njudge_revision = "x"', "unknown_key", "judge_revision"),
        ('lang = "es"', 'lang = "es"\nasked = []', "unknown_key", "asked"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(data: Path, old: str, new: str, key: str, field: str) -> None:
    file = data / "instruments" / "eco-es-demo.toml"
    edit(file, old, new)
    refused(lambda: load_instrument("eco-es-demo", data), f"instrument.{key}", file=file, field=field)


@pytest.mark.parametrize("content", [b"name = ", b"name = 'a'\nname = 'b'", b"\xff"])
def test_bad_toml_names_its_file(data: Path, content: bytes) -> None:
    file = data / "instruments" / "eco-es-demo.toml"
    file.write_bytes(content)
    refused(lambda: load_instrument("eco-es-demo", data), "instrument.bad_toml", file=file)


def test_an_instrument_that_asks_nothing_is_refused(data: Path) -> None:
    file = data / "prompts" / "eco-es-v1.jsonl"
    file.write_text(json.dumps({"id": "a", "group": "grupo-1", "text": "x"}))
    instrument = data / "instruments" / "eco-es-demo.toml"
    refused(lambda: load_instrument("eco-es-demo", data), "instrument.bad_key", file=instrument, field="prompts.split")


def test_an_unknown_prompt_set_is_named(data: Path) -> None:
    edit(data / "instruments" / "eco-es-demo.toml", 'set = "eco-es-v1"', 'set = "nothing"')
    with pytest.raises(InputError) as caught:
        load_instrument("eco-es-demo", data)
    assert caught.value.key == "prompts.unknown"


def test_an_instrument_of_your_own_uses_what_is_beside_it(data: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(data / RUBRIC, mine / "my-rubric")
    shutil.copy(data / "instruments" / "eco-es-demo.toml", mine / "mine.toml")
    (mine / "my-set.jsonl").write_text(json.dumps({"id": "a", "group": "grupo-1", "text": "Hola"}))
    for old, new in (("eco-es-demo", "mine"), ("eco-es-v1", "my-set"), ("eval", "all"), ("eco-v1", "my-rubric")):
        edit(mine / "mine.toml", f'"{old}"', f'"{new}"')
    edit(mine / "my-rubric" / "system.es.md", "Eres jurado", "Eres mi jurado")
    found = load_instrument(str(mine / "mine.toml"), data)
    assert [p.text for p in found.asked] == ["Hola"]
    assert "Eres mi jurado" in found.rubric.system("es")


class TestRubric:
    @pytest.mark.parametrize("lang", LANGS)
    def test_the_judge_reads_every_criterion_and_no_unfilled_place(self, demo: Instrument, lang: Lang) -> None:
        text = demo.rubric.system(lang)
        assert "{{" not in text
        for criterion in demo.rubric.criteria:
            words = getattr(criterion, lang)
            for part in (criterion.id, words.name, words.good, words.regular, words.bad):
                assert part in text
        for label in demo.rubric.labels[lang]:
            assert label in text.lower()
            assert label in demo.rubric.text("verdict", lang)

    @pytest.mark.parametrize("lang", LANGS)
    def test_no_label_begins_another(self, demo: Instrument, lang: Lang) -> None:
        labels = demo.rubric.labels[lang]
        assert not any(a != b and b.startswith(a) for a in labels for b in labels)

    @pytest.mark.parametrize("file", ["phrases.toml", "rubric.toml", *(f"{part}.en.md" for part in PARTS)])
    def test_a_missing_file_is_named(self, data: Path, file: str) -> None:
        (data / RUBRIC / file).unlink()
        refused(lambda: load_instrument("eco-es-demo", data), "rubric.missing_file", file=data / RUBRIC / file)

    def test_a_missing_folder_is_named(self, data: Path) -> None:
        refused(lambda: load_rubric(data / "none"), "rubric.missing_file", file=data / "none" / "rubric.toml")

    @pytest.mark.parametrize(
        ("file", "old", "new", "field"),
        [
            ("rubric.toml", "[labels]", "[label]", "labels"),
            ("rubric.toml", 'en = ["good", "regular", "bad"]', "", "labels"),
            ("rubric.toml", '"buena", "regular", "mala"', '"buena", "mala"', "labels.es.2"),
            ("rubric.toml", "[headings.en]", "[headings.fr]", "headings.fr.[key]"),
            ("rubric.toml", 'regular = "Regular"', "", "headings.es.regular"),
            ("rubric.toml", 'id = "C1"', "id = 1", "criteria.0.id"),
            ("rubric.toml", "[criteria.en]", "[criteria.fr]", "criteria.0.en"),
            ("rubric.toml", "name =", "author = 'x'\nname =", "author"),
            ("phrases.toml", "[en]", "[fr]", "phrases.fr.[key]"),
            ("phrases.toml", "cut =", "cuts =", "phrases.es.cut"),
            ("system.es.md", "{{criteria}}", "", "{{criteria}}"),
            ("question.en.md", "{{answer}}", "{{answers}}", "{{answer}}"),
            ("verdict.en.md", "Say", "Say {{this}}", "{{this}}"),
        ],
    )
    def test_a_wrong_field_is_named_with_its_file(self, data: Path, file: str, old: str, new: str, field: str) -> None:
        edit(data / RUBRIC / file, old, new)
        refused(lambda: load_rubric(data / RUBRIC), "rubric.bad_field", file=data / RUBRIC / file, field=field)

    def test_bad_toml_names_its_file(self, data: Path) -> None:
        file = data / RUBRIC / "phrases.toml"
        file.write_text("[es")
        refused(lambda: load_rubric(data / RUBRIC), "rubric.bad_toml", file=file)

    def test_a_text_that_is_not_utf8_names_its_line(self, data: Path) -> None:
        file = data / RUBRIC / "verdict.es.md"
        file.write_bytes("uno\naño".encode("latin-1"))
        refused(lambda: load_rubric(data / RUBRIC), "data.not_utf8", file=file, line=2)


PIECES = st.lists(st.sampled_from(["{{a}}", "{{b}}", "{{x}}", "{", "}", "a", r"\1", "ñ"]), max_size=6).map("".join)


@settings(deadline=None)
@given(PIECES | st.text(), PIECES | st.text())
def test_a_value_is_never_expanded(a: str, b: str) -> None:
    assert fill("<{{a}}|{{b}}|{{a}}>", a=a, b=b) == f"<{a}|{b}|{a}>"


@settings(deadline=None)
@given(PIECES | st.text(), PIECES | st.text())
def test_the_question_holds_prompt_and_answer_as_they_are(demo: Instrument, prompt: str, answer: str) -> None:
    text = demo.rubric.text("question", "es", fence="f", prompt=prompt, answer=answer)
    assert f"<f petición>\n{prompt}\n</f petición>" in text
    assert text.endswith(f"<f respuesta>\n{answer}\n</f respuesta>")


class TestPins:
    def test_a_new_file_is_pinned_once(self, data: Path) -> None:
        fresh = pin(data)
        assert "prompts/eco-es-v1.jsonl" in fresh
        assert f"{RUBRIC}/system.es.md" in fresh
        assert pin(data) == []
        (data / "prompts" / "eco-es-v2.jsonl").write_text("{}")
        (data / "prompts" / "folder.v1").mkdir()
        assert pin(data) == ["prompts/eco-es-v2.jsonl"]
        assert len(json.loads((data / "pins.json").read_text())) == len(fresh) + 1

    def test_any_changed_byte_of_a_pinned_file_is_refused_by_name(self, data: Path) -> None:
        names = pin(data)
        load_instrument("eco-es-demo", data)
        for name in names:
            file = data / name
            before = file.read_bytes()
            file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
            refused(lambda file=file: check_pins([file], data), "instrument.pin_mismatch", file=file)
            refused(lambda: pin(data), "instrument.pin_mismatch", file=file)
            file.write_bytes(before)

    @pytest.mark.parametrize(
        ("name", "old"),
        [
            ("instruments/eco-es-demo.toml", "# The embedded"),
            ("prompts/eco-es-v1.jsonl", "eco-eval: written"),
            (f"{RUBRIC}/verdict.en.md", "Say only"),
        ],
    )
    def test_an_instrument_with_an_edited_file_does_not_load(self, data: Path, name: str, old: str) -> None:
        pin(data)
        edit(data / name, old, old.upper())
        refused(lambda: load_instrument("eco-es-demo", data), "instrument.pin_mismatch", file=data / name)

    def test_pinning_refuses_an_edited_file_and_pins_nothing(self, data: Path) -> None:
        pin(data)
        before = (data / "pins.json").read_bytes()
        edit(data / RUBRIC / "system.es.md", "Eres jurado", "Eres juez")
        (data / "prompts" / "new.jsonl").write_text("{}")
        refused(lambda: pin(data), "instrument.pin_mismatch", file=data / RUBRIC / "system.es.md")
        assert (data / "pins.json").read_bytes() == before

    def test_a_checkout_with_crlf_is_the_same_instrument(self, data: Path) -> None:
        pin(data)
        before = load_instrument("eco-es-demo", data)
        for file in data.rglob("*.*"):
            if file.is_file():
                file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
        after = load_instrument("eco-es-demo", data)
        assert pin(data) == []
        assert after.rubric == before.rubric
        assert after.asked_digest == before.asked_digest
        assert after.measured_digest == before.measured_digest

    def test_published_files_are_as_they_were_pinned(self) -> None:
        files = [file for folder in ("instruments", "prompts", "rubrics") for file in (DATA / folder).rglob("*.*")]
        check_pins([file for file in files if file.is_file()])

    def test_files_elsewhere_carry_no_pin(self, data: Path, tmp_path: Path) -> None:
        pin(data)
        check_pins([tmp_path / "elsewhere.jsonl"], data)


class TestDigests:
    def test_prompts_change_what_is_asked_alone(self, demo: Instrument) -> None:
        first = demo.asked[0]
        other = demo.model_copy(update={"asked": (first.model_copy(update={"text": "¿Y?"}), *demo.asked[1:])})
        assert other.asked_digest != demo.asked_digest
        assert other.measured_digest == demo.measured_digest

    @pytest.mark.parametrize("change", [{"max_tokens": 257}, {"context": 4097}, {"temperature": 0.1}, {"seed": 1}])
    def test_decoding_changes_what_is_asked_alone(self, demo: Instrument, change: dict[str, object]) -> None:
        other = demo.model_copy(update={"answer": demo.answer.model_copy(update=change)})
        assert other.asked_digest != demo.asked_digest
        assert other.measured_digest == demo.measured_digest

    @pytest.mark.parametrize(
        "change",
        [
            {"model": "other"},
            {"dtype": "bfloat16"},
            {"mode": "reasoned"},
            {"context": 1},
            {"max_tokens": 2},
            {"max_answer_chars": 1},
            {"min_label_mass": 0.5},
            {"source": "local"},
        ],
    )
    def test_the_judge_changes_how_it_is_measured_alone(self, demo: Instrument, change: dict[str, object]) -> None:
        other = demo.judged_by("test", **change)
        assert other.measured_digest != demo.measured_digest
        assert other.asked_digest == demo.asked_digest

    def test_the_engine_changes_nothing(self, demo: Instrument) -> None:
        other = demo.judged_by("engine", engine="vllm")
        assert (other.asked_digest, other.measured_digest) == (demo.asked_digest, demo.measured_digest)

    def test_the_judge_s_exact_weights_change_how_it_is_measured(self, demo: Instrument) -> None:
        found = [demo.with_judge_at(revision * 40).measured_digest for revision in "abb"]
        assert found[0] != found[1] == found[2]

    def test_scoring_and_language_change_how_it_is_measured_alone(self, demo: Instrument) -> None:
        looser = demo.model_copy(update={"score": demo.score.model_copy(update={"max_ungraded": 0.5})})
        english = demo.model_copy(update={"lang": "en"})
        assert len({i.measured_digest for i in (demo, looser, english)}) == 3
        assert len({i.asked_digest for i in (demo, looser, english)}) == 1

    @pytest.mark.parametrize("name", ["system.es.md", "question.en.md", "rubric.toml", "phrases.toml"])
    def test_any_file_of_the_rubric_changes_how_it_is_measured_alone(self, data: Path, name: str) -> None:
        before = load_instrument("eco-es-demo", data)
        file = data / RUBRIC / name
        file.write_text(file.read_text() + "\n# x\n")
        after = load_instrument("eco-es-demo", data)
        assert after.measured_digest != before.measured_digest
        assert after.asked_digest == before.asked_digest

    def test_the_place_of_the_data_changes_nothing(self, data: Path, demo: Instrument) -> None:
        other = load_instrument("eco-es-demo", data).with_judge_at(demo.judge_revision)
        assert (other.asked_digest, other.measured_digest) == (demo.asked_digest, demo.measured_digest)


class TestPublishable:
    @pytest.fixture
    def locked(self) -> Instrument:
        instrument = load_instrument("eco-es-v1")
        return instrument.model_copy(update={"judge": instrument.judge.model_copy(update={"revision": "a" * 40})})

    def test_a_real_judge_at_a_locked_revision_is(self, locked: Instrument) -> None:
        assert locked.publishable
        assert locked.with_judge_at("a" * 40).publishable

    def test_nothing_altered_is(self, locked: Instrument) -> None:
        prompt = Prompt(id="a", group="a", text="x")
        for altered in (
            locked.limited(3),
            locked.asking((prompt,), "prompts=mine"),
            locked.judged_by("judge", model="other"),
            locked.judged_by("stand-in", stand_in=True),
        ):
            assert altered.altered
            assert not altered.publishable

    @pytest.mark.parametrize("revision", ["", "main", "A" * 40, "a" * 39, "a" * 40 + "\n"])
    def test_a_moving_revision_is_not(self, locked: Instrument, revision: str) -> None:
        judge = locked.judge.model_copy(update={"revision": revision})
        assert not locked.model_copy(update={"judge": judge}).publishable

    def test_a_stand_in_is_not(self, locked: Instrument) -> None:
        judge = locked.judge.model_copy(update={"stand_in": True})
        assert not locked.model_copy(update={"judge": judge}).publishable

    def test_a_short_instrument_says_so_and_asks_its_first_prompts(self, demo: Instrument) -> None:
        short = demo.limited(3)
        assert short.asked == short.gold == demo.asked[:3]
        assert short.altered == ("limit=3",)
        assert short.asked_digest != demo.asked_digest


def test_no_toml_breaks_the_loader(data: Path) -> None:
    """Every line of a good file left out in turn: it loads, or is refused by name."""
    file = data / "instruments" / "eco-es-demo.toml"
    lines = file.read_text().splitlines(keepends=True)
    for i in range(len(lines)):
        file.write_text("".join(lines[:i] + lines[i + 1 :]))
        with suppress(InputError):
            load_instrument("eco-es-demo", data)
