"""Sets built from a Hub and sent to one: pinned, credited, whole, and clear about what stands in the way.

The clients run in a process of their own that knows no other Hub than the local stand-in.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hub import LocalHub

from eco_eval.errors import DataError, EcoEvalError, InputError
from eco_eval.instrument import DATA, Instrument, load_instrument, pin
from eco_eval.prompts import read_prompts, select, split_of
from eco_eval.sets import find_set, read_set_file, set_names
from eco_eval.triples import PAIRS, RANKS, Pair, Triple, explode
from eco_eval.triples.card import dataset_card, json_schema
from eco_eval.triples.records import pair_name
from eco_eval.types import Prompt
from eco_eval.ui.texts import Texts

SOURCE = "NickyNicky/neovalle_H4rmony_dpo_translated_English_to_Spanish"
T = Texts("es")


class Ran(NamedTuple):
    """What a command line left."""

    code: int
    out: str
    err: str


Client = Callable[..., Any]


# --- what runs beside the hub


def build(name: str, data: Path, built: Path) -> Any:
    """A built set's file, prompts and the causes of its problems; of an error, its key and message."""
    from eco_eval.triples.official import build_set

    try:
        made = build_set(name, data, built)
    except EcoEvalError as error:
        return error.key, T.error(error)
    return made.file, made.prompts, [problem.cause for problem in made.problems]


def read(source: str, token: str | None = "keep", **named: Any) -> Any:
    """What `load` finds, or an error's key and message; with another token, or none, where one is named."""
    from eco_eval.triples import load

    kept = os.environ["HF_TOKEN"]
    try:
        if token is None:
            del os.environ["HF_TOKEN"]
        elif token != "keep":
            os.environ["HF_TOKEN"] = token
        return load(source, **named)
    except EcoEvalError as error:
        return error.key, T.error(error)
    finally:
        os.environ["HF_TOKEN"] = kept


def send(triples: list[Triple], name: str, *, pairs: bool = False, private: bool = False, token: str = "") -> Any:
    """The URL of a push's commit, or an error's key and message."""
    from eco_eval.triples.hub import push

    kept = os.environ["HF_TOKEN"]
    records: list[Triple] | list[Pair] = explode(triples) if pairs else triples
    try:
        os.environ["HF_TOKEN"] = token or kept
        return push(records, name, dataset_card(triples, name, "Ana", pairs=pairs), private=private)
    except EcoEvalError as error:
        return error.key, T.error(error)
    finally:
        os.environ["HF_TOKEN"] = kept


def command(home: Path, *arguments: str) -> Ran:
    """The command line, as a person runs it."""
    from eco_eval.cli import build_app
    from eco_eval.commands import run_app

    os.environ |= {"ECO_EVAL_CACHE_DIR": str(home / "cache"), "ECO_EVAL_DATA_DIR": str(home / "data")}
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run_app(build_app, list(arguments))
    return Ran(code, out.getvalue(), err.getvalue())


def as_a_stranger(name: str) -> dict[str, list[dict[str, Any]]]:
    """What somebody without our code reads."""
    from datasets import load_dataset

    return {split: rows.to_list() for split, rows in load_dataset(name).items()}


def is_private(name: str) -> bool:
    from huggingface_hub import HfApi

    return bool(HfApi().dataset_info(name).private)


# --- a dataset in the form of H4rmony's translation


def texts(number: int, lang: str) -> dict[str, str]:
    asked, what = (f"What about river {number}?", "river") if lang == "en" else (f"¿Y el río {number}?", "río")
    verbs = ("Cuidar", "Mirar", "Tapar") if lang == "es" else ("Mind", "Watch", "Cover")
    answers: dict[str, str] = {rank: f"{verb} {what} {number}." for rank, verb in zip(RANKS, verbs, strict=True)}
    return {"prompt": asked, **answers}


def translated(count: int) -> bytes:
    """Rows of pairs in English with their Spanish beside them, as JSON lines."""
    lines = []
    for number in range(count):
        for chosen, rejected in PAIRS:
            row: dict[str, str] = {}
            for lang, end in (("en", ""), ("es", "_es")):
                said = texts(number, lang)
                cells = (said["prompt"], said[chosen], said[rejected])
                row |= {
                    f"{name}{end}": cell for name, cell in zip(("prompt", "chosen", "rejected"), cells, strict=True)
                }
            lines.append(json.dumps(row, ensure_ascii=False))
    return "\n".join(lines).encode()


COUNT = 24


@pytest.fixture(scope="module")
def revision(hub: LocalHub) -> str:
    """The dataset's commit; there is a later one with less."""
    made = hub.add(SOURCE, "dataset", {"train.jsonl": translated(COUNT)})
    hub.add(SOURCE, "dataset", {"train.jsonl": translated(1)})
    return made


@pytest.fixture
def own(tmp_path: Path, revision: str) -> Path:
    """Our set file in a folder of one's own, its revision that of the local hub."""
    return with_revision(DATA / "sets" / "h4rmony-es-v1.toml", revision, tmp_path / "sets" / "h4rmony-es-v1.toml")


def with_revision(file: Path, revision: str, to: Path) -> Path:
    changed, count = re.subn(r'(?m)^revision = "[0-9a-f]{40}"$', f'revision = "{revision}"', file.read_text("utf-8"))
    assert count == 1
    to.parent.mkdir(exist_ok=True, parents=True)
    to.write_text(changed, encoding="utf-8")
    return to


@pytest.fixture
def data(tmp_path: Path, revision: str) -> Path:
    """The package's data with the revisions of the local hub, pinned as a new publication of it would be."""
    copy = tmp_path / "data"
    shutil.copytree(DATA, copy)
    for name in ("h4rmony-es-v1", "h4rmony-en-v1"):
        with_revision(DATA / "sets" / f"{name}.toml", revision, copy / "sets" / f"{name}.toml")
    for name in ("h4rmony-es-v1", "h4rmony-en-v1", "combined-es-v1"):
        instrument(copy / "instruments" / f"test-{name}.toml", name)
    (copy / "pins.json").unlink()
    pin(copy)
    return copy


def instrument(file: Path, name: str, split: str = "eval") -> Path:
    """An instrument like the demo's, over another set."""
    like = (DATA / "instruments" / "eco-es-demo.toml").read_text("utf-8")
    like = re.sub(r'(?m)^set = ".*"$', f'set = "{name}"', like)
    file.write_text(re.sub(r'(?m)^split = ".*"$', f'split = "{split}"', like), encoding="utf-8")
    return file


@pytest.fixture
def built(tmp_path: Path) -> Path:
    return tmp_path / "built"


def triple(number: int, **fields: Any) -> Triple:
    said = texts(number, "es")
    whole = {"group": f"g{number}", "text": said.pop("prompt"), **said, **fields}
    return Triple.model_validate({**whole, "id": f"t{number}"})


# --- the files of the package


@pytest.mark.parametrize("name", sorted(file.stem for file in (DATA / "sets").glob("*.toml")))
def test_every_part_of_a_shipped_set_is_bundled_or_at_a_commit(name: str) -> None:
    spec = read_set_file(DATA / "sets" / f"{name}.toml")
    assert spec.licence == "CC-BY-4.0"
    for part in spec.parts:
        pinned = re.fullmatch(r"[\w.-]+/[\w.-]+", part.source) and re.fullmatch(r"[0-9a-f]{40}", part.revision)
        assert pinned or part.source in set_names(DATA), part


@pytest.mark.parametrize("name", ["h4rmony-es-v1", "h4rmony-en-v1", "combined-es-v1"])
def test_whoever_wrote_h4rmony_is_credited(name: str) -> None:
    assert "Neovalle, https://doi.org/10.57967/hf/1148" in read_set_file(DATA / "sets" / f"{name}.toml").attribution


def test_the_schema_of_a_prompt_names_every_field_of_one() -> None:
    schema = json_schema()
    names = {field.alias or name for name, field in Prompt.model_fields.items()}
    assert isinstance(schema["required"], list)
    assert set(schema["required"]) == names
    assert isinstance(schema["properties"], dict)
    assert set(schema["properties"]) == names


@pytest.mark.parametrize(
    ("content", "key", "words"),
    [
        ("lang = 'es'", "data.bad_key", ["own.toml", "licence"]),
        ("lang = 'es'\nlicence = 'x'\nattribution = 'x'\nparts = []", "data.bad_key", ["own.toml", "parts"]),
        ("lang = 'es'\nlicence = 'x'\nattribution = 'x'\n[[parts]]\nsuorce = 'x'", "data.bad_key", ["parts.0.source"]),
        ("lang", "data.bad_toml", ["own.toml", "TOML"]),
        (None, "sets.unknown", ["own.toml", "h4rmony-es-v1"]),
    ],
)
def test_a_wrong_set_file_says_what_is_wrong(
    tmp_path: Path, built: Path, client: Client, content: str | None, key: str, words: list[str]
) -> None:
    if content is not None:
        (tmp_path / "own.toml").write_text(content)
    found, message = client(build, str(tmp_path / "own.toml"), DATA, built)
    assert found == key
    assert [word for word in words if word not in message] == []


# --- building


def test_a_set_is_built_from_its_revision_with_every_triple_and_its_credit(
    own: Path, built: Path, client: Client
) -> None:
    file, prompts, causes = client(build, str(own), DATA, built)
    assert (file, causes) == (built / "h4rmony-es-v1.jsonl", [])
    assert len(prompts) == COUNT
    assert [(p.text, p.best, p.ambivalent, p.worst) for p in prompts] == [
        tuple(texts(number, "es").values()) for number in range(COUNT)
    ]
    kept = read_prompts(file, strict=True)
    assert [p.model_dump() for p in kept] == [{k: getattr(p, k) for k in Prompt.model_fields} for p in prompts]
    assert {(p.lang, p.origin) for p in kept} == {("es", read_set_file(own).attribution)}
    assert not [p for p in built.iterdir() if p.name.startswith(".")]


def test_an_instrument_asks_the_eval_groups_of_a_built_set_and_measures_its_judge_on_them(
    own: Path, built: Path, client: Client, tmp_path: Path
) -> None:
    _, prompts, _ = client(build, str(own), DATA, built)
    measure = load_instrument(str(instrument(tmp_path / "mine.toml", "h4rmony-es-v1")), built=built)
    assert [p.id for p in measure.asked] == [p.id for p in prompts if split_of(p.group) == "eval"]
    assert 0 < len(measure.asked) < COUNT
    assert measure.gold == measure.asked
    assert all(p.best and p.ambivalent and p.worst for p in measure.gold)
    assert "NickyNicky" in measure.attribution
    assert (measure.pinned, measure.publishable) == (False, False)


def test_only_the_pinned_revision_of_a_set_is_pinned(data: Path, built: Path, client: Client) -> None:
    def measure() -> Instrument:
        return load_instrument("test-h4rmony-es-v1", data=data, built=built)

    client(build, "h4rmony-es-v1", data, built)
    assert measure().pinned
    assert "NickyNicky" in measure().attribution
    file = data / "sets" / "h4rmony-es-v1.toml"
    with_revision(file, "0" * 40, file)
    assert not measure().pinned


def test_the_two_languages_of_a_prompt_share_group_and_split(data: Path, built: Path, client: Client) -> None:
    spanish, english = (client(build, name, data, built)[1] for name in ("h4rmony-es-v1", "h4rmony-en-v1"))
    assert [p.group for p in spanish] == [p.group for p in english]
    assert [p.text for p in english] == [texts(number, "en")["prompt"] for number in range(COUNT)]
    assert ({p.lang for p in spanish}, {p.lang for p in english}) == ({"es"}, {"en"})
    assert not {p.group for p in select(spanish, "train")} & {p.group for p in select(english, "eval")}


def test_a_combined_set_holds_ours_and_theirs_and_credits_both(data: Path, built: Path, client: Client) -> None:
    _, prompts, causes = client(build, "combined-es-v1", data, built)
    ours = read_prompts(data / "prompts" / "eco-es-v1.jsonl", strict=True)
    assert causes == []
    assert prompts[: len(ours)] == ours
    assert [p.text for p in prompts[len(ours) :]] == [texts(number, "es")["prompt"] for number in range(COUNT)]
    measure = load_instrument("test-combined-es-v1", data=data, built=built)
    assert {p.id for p in measure.asked} == {p.id for p in select(prompts, "eval")}
    assert measure.pinned
    assert "eco-eval" in measure.attribution
    assert "Neovalle" in measure.attribution


def test_building_again_gives_the_same_bytes(own: Path, built: Path, client: Client) -> None:
    client(build, str(own), DATA, built)
    first = {file.name: file.read_bytes() for file in built.iterdir()}
    client(build, str(own), DATA, built)
    assert {file.name: file.read_bytes() for file in built.iterdir()} == first
    record = json.loads(first["h4rmony-es-v1.json"])
    assert record["sha256"] == hashlib.sha256(first["h4rmony-es-v1.jsonl"]).hexdigest()


@pytest.mark.parametrize("revision_line", ["", 'revision = "main"'])
def test_a_source_without_a_commit_is_refused_with_the_present_one(
    hub: LocalHub, tmp_path: Path, built: Path, client: Client, revision_line: str
) -> None:
    commit = hub.add("owner/moving", "dataset", {"rows.jsonl": translated(2)})
    file = tmp_path / "moving.toml"
    head = 'lang = "es"\nlicence = "x"\nattribution = "x"\n[[parts]]\nsource = "owner/moving"\n'
    file.write_text(f"{head}{revision_line}\n")
    key, message = client(build, str(file), DATA, built)
    assert key == "sets.not_pinned"
    assert commit in message
    assert not built.exists()


def test_a_hidden_set_is_built_from_a_private_dataset_and_a_file(
    hub: LocalHub, tmp_path: Path, built: Path, client: Client
) -> None:
    rows = "".join(json.dumps(triple(i).model_dump(mode="json", by_alias=True)) + "\n" for i in range(20))
    commit = hub.add("owner/hidden", "dataset", {"rows.jsonl": rows.encode()}, private=True)
    (tmp_path / "more.csv").write_text("id,text,best,ambivalent,worst\nx,¿Y el mar?,a,b,c\nt0,¿Otra?,a,b,c\n", "utf-8")
    file = tmp_path / "hidden.toml"
    parts = f'[[parts]]\nsource = "owner/hidden"\nrevision = "{commit}"\n[[parts]]\nsource = "more.csv"\n'
    file.write_text(f'lang = "es"\nlicence = "CC-BY-4.0"\nattribution = "Ana"\n{parts}')
    _, prompts, causes = client(build, str(file), DATA, built)
    assert [p.id for p in prompts] == [*(f"t{i}" for i in range(20)), "x"]
    assert "duplicate_id" in causes
    measure = load_instrument(str(instrument(tmp_path / "mine.toml", "hidden", "all")), built=built)
    assert (len(measure.asked), measure.attribution, measure.pinned) == (21, "Ana", False)


def test_a_part_without_a_prompt_in_the_language_builds_nothing(
    own: Path, built: Path, client: Client, hub: LocalHub
) -> None:
    own.write_text(own.read_text("utf-8").replace('lang = "es"', 'lang = "it"'), encoding="utf-8")
    key, message = client(build, str(own), DATA, built)
    assert key == "data.empty"
    assert "h4rmony-es-v1.toml" in message
    assert not built.exists()


# --- what was built, damaged or not there


def damage(built: Path, how: str) -> None:
    file, record = built / "h4rmony-es-v1.jsonl", built / "h4rmony-es-v1.json"
    if how == "edited":
        file.write_text(file.read_text("utf-8").replace("Cuidar", "Talar"), encoding="utf-8")
    elif how == "no record":
        record.unlink()
    elif how == "empty record":
        record.write_text("")
    else:
        record.write_text("[]")


@pytest.mark.parametrize("how", ["edited", "no record", "empty record", "other record"])
def test_a_built_set_that_is_not_as_it_was_built_is_not_used(
    own: Path, built: Path, client: Client, tmp_path: Path, how: str
) -> None:
    client(build, str(own), DATA, built)
    damage(built, how)
    with pytest.raises(DataError) as caught:
        load_instrument(str(instrument(tmp_path / "mine.toml", "h4rmony-es-v1")), built=built)
    assert caught.value.key == "sets.damaged"
    assert "eco-eval data build h4rmony-es-v1" in T.error(caught.value)
    client(build, str(own), DATA, built)
    assert find_set("h4rmony-es-v1", DATA, built).prompts.is_file()


@pytest.mark.parametrize("folder", [None, Path("/nonexistent")])
def test_a_set_that_is_not_built_yet_says_how_and_what_works_without(folder: Path | None) -> None:
    with pytest.raises(InputError) as caught:
        find_set("h4rmony-es-v1", DATA, folder)
    message = T.error(caught.value)
    assert "eco-eval data build h4rmony-es-v1" in message
    assert "eco-es-v1" in message.replace("h4rmony-es-v1", "")


def test_an_unknown_set_names_those_there_are(built: Path, client: Client) -> None:
    with pytest.raises(InputError) as caught:
        find_set("h4rmony", DATA, built)
    assert all(name in T.error(caught.value) for name in set_names(DATA))
    key, message = client(build, "h4rmony", DATA, built)
    assert key == "sets.unknown"
    assert "h4rmony-es-v1" in message


def test_a_bundled_set_needs_nothing() -> None:
    found = find_set("eco-es-v1", DATA, None)
    assert (found.prompts, found.source, found.sound) == (DATA / "prompts" / "eco-es-v1.jsonl", found.prompts, True)


# --- what stands in the way


@pytest.mark.parametrize("how", ["failing", "gone"])
def test_without_the_hub_the_message_names_the_bundled_set_and_the_old_build_stays(
    hub: LocalHub, own: Path, client: Client, tmp_path: Path, how: str
) -> None:
    assert client(command, tmp_path, "data", "build", str(own)).code == 0
    try:
        hub.down = True
        if how == "gone":
            hub.stop()
        ran = client(command, tmp_path, "data", "build", str(own))
    finally:
        if how == "gone":
            hub.start()
        hub.down = False
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert SOURCE in ran.err
    assert "eco-es-v1" in ran.err
    assert find_set("h4rmony-es-v1", DATA, tmp_path / "cache" / "prompts").prompts.is_file()


def test_building_by_command_says_what_there_is(own: Path, client: Client, tmp_path: Path) -> None:
    ran = client(command, tmp_path, "data", "build", str(own))
    assert ran.code == 0
    evaluation = len(select(read_prompts(tmp_path / "cache" / "prompts" / "h4rmony-es-v1.jsonl"), "eval"))
    assert [str(n) in ran.out for n in (COUNT, evaluation, COUNT - evaluation)] == [True] * 3


def test_the_shipped_revision_is_asked_for_and_no_other(revision: str, client: Client, tmp_path: Path) -> None:
    ran = client(command, tmp_path, "data", "build", "h4rmony-es-v1")
    assert ran.code == 2
    assert SOURCE in ran.err
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_dataset_that_is_not_there_is_named(client: Client, tmp_path: Path) -> None:
    ran = client(command, tmp_path, "data", "load", "owner/unknown")
    assert ran.code == 2
    assert "owner/unknown" in ran.err
    assert "hf auth login" in ran.err


def test_a_revision_that_is_not_there_is_no_other_revision(client: Client, revision: str) -> None:
    assert client(read, SOURCE, revision="0" * 40)[0] == "data.not_on_hub"
    assert len(client(read, SOURCE, revision=revision).triples) == COUNT
    assert len(client(read, SOURCE).triples) == 1


@pytest.mark.parametrize("name", ["unknown", "a/b/c", "owner/-x..y", "http://example.org/x", "ñ/ñ", "owner/"])
def test_what_is_no_name_on_the_hub_is_not_looked_for_there(hub: LocalHub, client: Client, name: str) -> None:
    before = len(hub.requests)
    key, message = client(read, name)
    assert key == "data.no_source"
    assert name in message
    assert len(hub.requests) == before


def test_a_private_dataset_needs_the_token(hub: LocalHub, client: Client) -> None:
    hub.add("owner/secret", "dataset", {"rows.jsonl": translated(3)}, private=True)
    key, message = client(read, "owner/secret", token=None)
    assert key == "data.not_on_hub"
    assert "hf auth login" in message
    assert client(read, "owner/secret", token="hf_other")[0] == "data.not_allowed"
    assert len(client(read, "owner/secret").triples) == 3


# --- datasets that are not as `datasets` would like


TWO = b"---\nconfigs:\n- {config_name: a, data_files: a.csv}\n- {config_name: b, data_files: b.csv}\n---\n"
WHOLE = "text,best,ambivalent,worst\n¿Y el niño?,Peñas arriba.,Qué más da.,Año malo.\n"


def test_a_csv_in_windows_1252_is_read_and_its_lines_are_reported(hub: LocalHub, client: Client) -> None:
    hub.add("owner/old", "dataset", {"rows.csv": WHOLE.encode("cp1252"), "notes.md": b"x"})
    found = client(read, "owner/old")
    (one,) = found.triples
    assert (one.text, one.best, one.worst) == ("¿Y el niño?", "Peñas arriba.", "Año malo.")
    assert [(p.cause, p.line, p.used) for p in found.problems if p.cause == "encoding"] == [("encoding", 2, True)]


@pytest.mark.parametrize(
    "more",
    [
        {"README.md": TWO},
        {"odd-script.py": b"raise SystemExit"},
        {"c.csv": b"text,best,other\n"},
    ],
    ids=["configurations", "script", "columns"],
)
def test_several_configurations_a_script_or_other_columns_do_not_hide_the_rows(
    hub: LocalHub, client: Client, request: pytest.FixtureRequest, more: dict[str, bytes]
) -> None:
    name = f"owner/odd-{request.node.callspec.id}"
    second = WHOLE.replace("niño", "mar").encode()
    hub.add(name, "dataset", {"a.csv": WHOLE.encode(), "b.csv": second, **more})
    assert sorted(one.text for one in client(read, name).triples) == ["¿Y el mar?", "¿Y el niño?"]


@pytest.mark.parametrize("files", [{"README.md": b"# Nothing\n"}, {"rows.csv": b""}], ids=["card", "empty"])
def test_a_dataset_without_rows_is_called_empty(
    hub: LocalHub, client: Client, request: pytest.FixtureRequest, files: dict[str, bytes]
) -> None:
    name = f"owner/none-{request.node.callspec.id}"
    hub.add(name, "dataset", files)
    key, message = client(read, name)
    assert key == "data.empty"
    assert name in message


def test_a_damaged_file_on_the_hub_is_an_error_with_a_name(hub: LocalHub, client: Client) -> None:
    hub.add("owner/broken", "dataset", {"rows.parquet": b"not at all"})
    key, message = client(read, "owner/broken")
    assert key == "data.bad_parquet"
    assert "rows.parquet" in message


# --- publishing


def published() -> list[Triple]:
    """Triples of both splits with everything a triple can hold, some of it in one split only."""
    made = []
    for number in range(12):
        group = f"g{number}"
        held = split_of(group) == "eval"
        made.append(
            triple(
                number,
                kind="plan" if held else None,
                codes=("WA", "SC") if held else (),
                sdg=6 if held else None,
                explicit=held,
                control=number % 4 == 0,
                variety="es-MX" if held else None,
                origin=f"person {number % 2}",
                verified_by=("Ana", "Ben") if number % 3 == 0 else (),
                meta={f"column {number}": "7", "nota": "¿«sí»?"},
                pair_meta={pair_name("best", "worst"): {"row": str(number)}} if held else {},
                register="formal" if held else None,
            )
        )
    return made


@pytest.mark.parametrize("pairs", [False, True], ids=["triples", "pairs"])
def test_what_is_pushed_loads_the_same_with_our_code(client: Client, pairs: bool) -> None:
    name = f"owner/pushed-{pairs}".lower()
    url = client(send, published(), name, pairs=pairs)
    assert re.search(rf"{name}/commit/[0-9a-f]{{40}}$", url)
    found = client(read, name)
    assert [problem.cause for problem in found.problems] == []
    assert {one.id: one for one in found.triples} == {one.id: one for one in published()}
    assert len(found.pairs) == (36 if pairs else 0)


@pytest.mark.parametrize("pairs", [False, True], ids=["triples", "pairs"])
def test_a_stranger_loads_both_splits_though_columns_are_empty_in_one(client: Client, pairs: bool) -> None:
    name = f"owner/stranger-{pairs}".lower()
    client(send, published(), name, pairs=pairs)
    found = client(as_a_stranger, name)
    times = 3 if pairs else 1
    for split, triples in ((s, [one for one in published() if split_of(one.group) == s]) for s in ("train", "eval")):
        assert [row["id"] for row in found[split]] == [one.id for one in triples for _ in range(times)]
        assert [row["sdg"] for row in found[split]] == [one.sdg for one in triples for _ in range(times)]
        assert {"chosen", "rejected"} <= set(found[split][0]) if pairs else {"best", "worst"} <= set(found[split][0])


def test_a_second_push_replaces_the_first_and_its_history_stays(hub: LocalHub, client: Client) -> None:
    client(send, published(), "owner/twice")
    client(send, published()[:6], "owner/twice")
    assert {one.id for one in client(read, "owner/twice").triples} == {f"t{i}" for i in range(6)}
    train = [one for one in published() if split_of(one.group) == "train"]
    client(send, train, "owner/twice")
    assert list(client(as_a_stranger, "owner/twice")) == ["train"]
    assert "data/eval.parquet" not in hub.files("owner/twice", "dataset")


def test_a_private_push_makes_a_private_dataset(client: Client) -> None:
    client(send, published(), "owner/kept-back", private=True)
    assert client(is_private, "owner/kept-back")
    assert client(read, "owner/kept-back", token=None)[0] == "data.not_on_hub"


def test_what_is_public_already_is_not_taken_for_private(hub: LocalHub, client: Client) -> None:
    client(send, published(), "owner/seen-by-all")
    before = hub.files("owner/seen-by-all", "dataset")
    key, message = client(send, [triple(9)], "owner/seen-by-all", private=True)
    assert key == "data.is_public"
    assert "owner/seen-by-all" in message
    assert hub.files("owner/seen-by-all", "dataset") == before


def test_whoever_may_not_push_is_told(hub: LocalHub, client: Client) -> None:
    key, message = client(send, published(), "owner/forbidden", token="hf_other")
    assert key == "data.not_allowed"
    assert "owner/forbidden" in message
    assert client(send, published(), "no name")[0] == "data.no_source"
    hub.down = True
    try:
        assert client(send, published(), "owner/down")[0] == "data.hub_unreachable"
    finally:
        hub.down = False


@pytest.mark.parametrize("pairs", [False, True], ids=["triples", "pairs"])
def test_the_card_that_is_pushed_says_what_the_data_is(hub: LocalHub, client: Client, pairs: bool) -> None:
    name = f"owner/carded-{pairs}".lower()
    client(send, published(), name, pairs=pairs)
    files = hub.files(name, "dataset")
    assert {"README.md", "data/train.parquet", "data/eval.parquet"} <= set(files)
    _, front, text = files["README.md"].decode().split("---\n", 2)
    about = yaml.safe_load(front)
    assert (about["license"], about["language"], about["pretty_name"]) == ("cc-by-4.0", ["es"], name.split("/")[1])
    assert ("dpo" in about["tags"]) == pairs
    assert about["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": split, "path": f"data/{split}.parquet"} for split in ("train", "eval")],
        }
    ]
    train, evaluation = (len([p for p in published() if split_of(p.group) == s]) for s in ("train", "eval"))
    for figure in (
        "12 triples (3 of them controls",
        "**Verified by people:** 4 of 12.",
        f"{train} triples in `train`",
        f"{evaluation} in `eval`",
        "person 0 (6), person 1 (6)",
        f"plan ({evaluation})",
        f"es-MX ({evaluation})",
        "Ana. Licence: CC-BY-4.0.",
        "`chosen`" if pairs else "`ambivalent`",
    ):
        assert figure in text


def test_a_card_without_verification_or_credit_says_so_and_whom_the_design_is_from() -> None:
    card = dataset_card([triple(1), triple(2, lang="en")], "owner/x", "")
    assert "**Verified by people:** none." in card
    assert "10.57967/hf/1148" in card
    assert yaml.safe_load(card.split("---\n")[1])["language"] == ["en", "es"]


def test_what_data_says_of_itself_stays_words_in_the_card() -> None:
    card = dataset_card([triple(1, origin="{{attribution}} {{triples}} {{unknown}}")], "owner/x", "Ana")
    assert "{{attribution}} {{triples}} {{unknown}} (1)" in card


def test_a_set_of_one_split_names_no_file_for_the_other() -> None:
    held = [one for one in published() if split_of(one.group) == "eval"]
    card = yaml.safe_load(dataset_card(held, "owner/x", "Ana").split("---\n")[1])
    assert [file["split"] for file in card["configs"][0]["data_files"]] == ["eval"]


def test_pushing_by_command_prints_where_it_went(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "triples.jsonl"
    file.write_text("".join(one.model_dump_json(by_alias=True) + "\n" for one in published()), encoding="utf-8")
    ran = client(command, tmp_path, "data", "push", str(file), "owner/by-command", "--private")
    assert (ran.code, "owner/by-command/commit/" in ran.out) == (0, True)
    loaded = client(command, tmp_path, "data", "load", "owner/by-command", "--out", str(tmp_path / "back.jsonl"))
    assert loaded.code == 0
    assert sorted((tmp_path / "back.jsonl").read_text("utf-8").splitlines()) == sorted(
        json.dumps(one.model_dump(mode="json", by_alias=True), ensure_ascii=False) for one in published()
    )
