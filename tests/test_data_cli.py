"""`eco-eval data` as people meet it: it works, or says in one line which file, line and field; nothing is lost."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import REPO, require

from eco_eval.cli import build_app
from eco_eval.commands import run_app
from eco_eval.triples import Triple, explode, load, write
from eco_eval.triples.verify import append, decide

WORDS = ("El río baja sucio", "¿Qué coche compro?", "Una boda con flores", "Mi jefe pide un lema", "Receta de lentejas")
SOUND = tuple(
    Triple(
        id=f"p{number}",
        group=f"p{number}",
        text=text,
        kind="plan",
        best=f"{text}: cuida la vida de todos",
        ambivalent=f"{text}: según se mire",
        worst=f"{text}: da igual lo demás",
    )
    for number, text in enumerate((*WORDS, "“Comillas” y ñandúes"), 1)
)


class Done(NamedTuple):
    code: int
    out: str
    err: str


Eco = Callable[..., Done]


@pytest.fixture
def eco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Eco:
    """Runs `eco-eval data` here, as `main` does, in English, with a cache of its own."""
    monkeypatch.setenv("ECO_EVAL_LANG", "en")
    monkeypatch.setenv("ECO_EVAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Done:
        code = run_app(build_app, ["data", *map(str, arguments)])
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder for what commands write, and nothing else."""
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


@pytest.fixture
def lax(tmp_path: Path) -> Path:
    """Limits that hold for anything."""
    file = tmp_path / "lax.toml"
    file.write_text("similarity = 1.0\n")
    return file


def rows_of(triples: Sequence[Triple] = SOUND) -> list[dict[str, Any]]:
    names = ("id", "text", "best", "ambivalent", "worst", "kind")
    return [{"lang": "es"} | {name: getattr(triple, name) for name in names} for triple in triples]


def jsonl(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows: Sequence[dict[str, Any]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def with_row(row: dict[str, Any]) -> bytes:
    return jsonl([*rows_of(), row])


def one_line(done: Done, *words: str) -> None:
    """Refused, with one line that names these things."""
    assert done.code == 2, done
    (line,) = done.err.strip().splitlines()
    for word in words:
        assert word in line
    assert len(line) < 1_000


COMMANDS = {
    "load": ["--out", "OUT/a.jsonl"],
    "implode": ["--out", "OUT/a.csv"],
    "explode": ["--out", "OUT/a.parquet"],
    "merge": ["--out", "OUT/a.json"],
    "balance": ["--out", "OUT/a.tsv", "--by", "lang"],
    "split": ["--train", "OUT/train.jsonl", "--eval", "OUT/eval.jsonl"],
    "stats": [],
    "check": ["--limits", "LAX"],
    "baselines": [],
    "verify": ["--log", "LOG", "--out", "OUT/a.jsonl"],
    "classify": ["--out", "OUT/a.jsonl", "--model", "no-existe"],
    "extend": ["--out", "OUT/a.jsonl", "--model", "no-existe"],
    "translate": ["--out", "OUT/a.jsonl", "--model", "no-existe"],
}
"""Every command that reads a source, with what else it needs."""

NEED_MODEL = {"classify", "extend", "translate"}
NEED_TWO = {"check", "baselines"}
WRITERS = [name for name, options in COMMANDS.items() if any("OUT" in option for option in options)]


@pytest.fixture
def run(eco: Eco, results: Path, lax: Path, tmp_path: Path) -> Eco:
    """Runs a command of COMMANDS on a source."""
    places = {"OUT": str(results), "LAX": str(lax), "LOG": str(tmp_path / "log.jsonl")}

    def call(command: str, source: object, *more: object) -> Done:
        options = COMMANDS[command]
        for name, place in places.items():
            options = [option.replace(name, place) for option in options]
        return eco(command, source, *options, *more)

    return call


def written(results: Path) -> dict[str, int]:
    """How many prompts stand in each file a command wrote; pairs count by their prompts. No file is half a file."""
    return {file.name: len(load(file).prompts) if file.stat().st_size else 0 for file in results.iterdir()}


def count_expected(command: str, prompts: int) -> int:
    return 0 if command in NEED_MODEL or command in ("stats", "check", "baselines") else prompts


@pytest.mark.parametrize("command", COMMANDS)
class TestWhatComesIn:
    def works(self, command: str, done: Done, results: Path, prompts: int = len(SOUND)) -> None:
        """Done, and as many prompts written; or it got as far as the model, which is none."""
        if command in NEED_MODEL:
            assert done.code == 2, done
            assert "There is no model 'no-existe'" in done.err.splitlines()[-1]
        else:
            assert done.code == 0, done
        assert sum(written(results).values()) == count_expected(command, prompts)

    @pytest.mark.parametrize("name", ["set.jsonl", "set.json", "set.csv", "set.parquet"])
    def test_an_empty_file_is_said_to_be_empty(
        self, run: Eco, tmp_path: Path, results: Path, command: str, name: str
    ) -> None:
        (tmp_path / name).touch()
        one_line(run(command, tmp_path / name), name, "holds no prompt")
        assert not written(results)

    def test_one_row_is_enough_or_said_to_be_too_little(
        self, run: Eco, tmp_path: Path, results: Path, command: str
    ) -> None:
        file = tmp_path / "set.jsonl"
        file.write_bytes(jsonl(rows_of()[:1]))
        done = run(command, file)
        if command in NEED_TWO:
            one_line(done, "set.jsonl", "one group only")
        else:
            self.works(command, done, results, 1)

    @pytest.mark.parametrize(
        "dress",
        [
            lambda plain: b"\xef\xbb\xbf" + plain,
            lambda plain: plain.replace(b"\n", b"\r\n"),
            lambda plain: plain.replace("“Comillas”".encode(), "“Comillas”".encode("cp1252")),
        ],
        ids=["bom", "crlf", "curly"],
    )
    def test_bom_crlf_and_curly_quotes_change_nothing(
        self, run: Eco, tmp_path: Path, results: Path, command: str, dress: Callable[[bytes], bytes]
    ) -> None:
        plain, dressed = tmp_path / "plain.csv", tmp_path / "dressed.csv"
        content = table(rows_of()).replace(b"\r\n", b"\n")
        plain.write_bytes(content)
        dressed.write_bytes(dress(content))
        self.works(command, run(command, plain), results)
        before = {file.name: file.read_bytes() for file in results.iterdir()}
        done = run(command, dressed, *(["--force"] if before else []))
        self.works(command, done, results)
        assert {file.name: file.read_bytes() for file in results.iterdir()} == before
        assert ("broken encoding, repaired (used)\n    line 7" in done.err) is (b"\x93" in dressed.read_bytes())

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            ({"text": "palabra " * 1_250_000}, "oversized text: looks like a file that lost its line breaks"),
            ({"id": "x" * 10_000_000}, "oversized text: looks like a file that lost its line breaks"),
            ({"id": "p1"}, "repeated id"),
            ({"text": 5}, "not a text"),
            ({"best": {"a": 1}}, "not a text"),
            ({"id": ["p"]}, "not a text"),
            ({"kind": 5}, "value that cannot be used"),
            ({"meta": {"a": [1], "b": {}}}, "value that cannot be used"),
            ({"worst": "Otra: sí"}, "two equal answers"),
        ],
        ids=["10MB", "10MB-id", "duplicate", "number", "object", "list", "kind", "meta", "same"],
    )
    def test_a_bad_row_is_named_and_the_others_used(
        self, run: Eco, tmp_path: Path, results: Path, command: str, row: dict[str, Any], words: str
    ) -> None:
        file = tmp_path / "set.jsonl"
        base = {"id": "otra", "lang": "es", "text": "Otra", "best": "Otra: sí", "ambivalent": "ya", "worst": "Otra: no"}
        file.write_bytes(with_row(base | row))
        done = run(command, file)
        self.works(command, done, results)
        head, where, *rest = done.err.splitlines()
        assert words in head
        assert "set.jsonl" in head
        assert "line 7" in where
        assert len(rest) == (command in NEED_MODEL)
        assert len(where) < 400

    def test_a_set_of_bad_rows_is_refused(self, run: Eco, tmp_path: Path, results: Path, command: str) -> None:
        file = tmp_path / "set.jsonl"
        file.write_bytes(jsonl([row | {"text": 5} for row in rows_of()]))
        done = run(command, file)
        assert done.code == 2
        assert "6 · not a text" in done.err
        assert "set.jsonl" in done.err.splitlines()[-1]
        assert not written(results)

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("set.jsonl", b'{"body": "hola"}\n', ["body"]),
            ("set.csv", b"a;b\n1;2\n", ["a, b"]),
            ("set.csv", b"x" * 10_000_000 + b"\n1", ["xxx"]),
            ("set.csv", b'text,best\n"uno\n\ndos', ["line 2", "malformed CSV"]),
            ("set.csv", b"text,Text\nuno,dos\n", ["line 1", "text"]),
            ("set.jsonl", b'{"text"\n', ["line 1", "malformed JSON"]),
            ("set.jsonl", b"[1]\n", ["line 1", "JSON object"]),
            ("set.json", b'[{"text": "uno"},\n{]', ["line 2", "malformed JSON"]),
            ("set.parquet", b"text,best", ["not a Parquet file"]),
            ("set.xlsx", b"PK\x03\x04", ["line 1"]),
        ],
    )
    def test_a_file_that_is_none_is_refused_in_one_line(
        self, run: Eco, tmp_path: Path, results: Path, command: str, name: str, content: bytes, words: list[str]
    ) -> None:
        (tmp_path / name).write_bytes(content)
        one_line(run(command, tmp_path / name), name, *words)
        assert not written(results)

    def test_a_source_that_is_not_there_is_named(self, run: Eco, tmp_path: Path, results: Path, command: str) -> None:
        one_line(run(command, tmp_path / "no.csv"), "no.csv")
        one_line(run(command, "ni fichero ni nada"), "ni fichero ni nada", ".jsonl", "owner/name")
        one_line(run(command, "h4rmony-es-v1"), "eco-eval data build h4rmony-es-v1")
        assert not written(results)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    file = tmp_path / "sound.jsonl"
    write(SOUND, file)
    return file


class TestWhatGoesOut:
    @pytest.mark.parametrize("command", WRITERS)
    def test_nothing_is_overwritten_unasked(self, run: Eco, sound: Path, results: Path, command: str) -> None:
        targets = [results / Path(option).name for option in COMMANDS[command] if "OUT" in option]
        targets[-1].write_text("mío")
        one_line(run(command, sound), targets[-1].name, "exists", "--force")
        assert [(file.name, file.read_text()) for file in results.iterdir()] == [(targets[-1].name, "mío")]
        done = run(command, sound, "--force")
        if command in NEED_MODEL:
            assert targets[-1].read_text() == "mío"
        else:
            assert done.code == 0
            assert sum(written(results).values()) == len(SOUND)

    @pytest.mark.parametrize("command", [name for name in WRITERS if name not in ("explode", "split")])
    def test_neither_is_a_report(self, run: Eco, sound: Path, results: Path, tmp_path: Path, command: str) -> None:
        report = tmp_path / "report.csv"
        report.write_text("mío")
        one_line(run(command, sound, "--report", report), "report.csv", "exists")
        assert report.read_text() == "mío"
        assert not written(results)

    def test_one_file_cannot_be_two(self, eco: Eco, sound: Path, results: Path, tmp_path: Path) -> None:
        same, log = results / "a.jsonl", tmp_path / "log.jsonl"
        one_line(eco("split", sound, "--train", same, "--eval", same), "a.jsonl")
        one_line(eco("load", sound, "--out", same, "--report", same), "a.jsonl")
        append(decide(SOUND[0], "Ana"), log)
        kept = log.read_bytes()
        one_line(eco("verify", sound, "--log", log, "--out", log, "--force"), "log.jsonl")
        assert log.read_bytes() == kept
        assert not written(results)

    def test_a_target_that_cannot_be_is_refused_before_reading(self, eco: Eco, results: Path) -> None:
        one_line(eco("implode", "nada.csv", "--out", results / "a.txt"), "a.txt", ".jsonl")
        one_line(eco("implode", "nada.csv", "--out", results / "no" / "a.csv"), str(results / "no"))
        one_line(eco("load", "nada.csv", "--report", results / "a"), "suffix")
        one_line(eco("stats", "nada.csv", "--plot", results / "no" / "a.html"), str(results / "no"))
        one_line(eco("stats", "nada.csv", "--plot", results / "a.png"), "a.png", ".html")

    def test_a_disk_that_fails_leaves_what_was_there(
        self, eco: Eco, sound: Path, results: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        target = results / "a.jsonl"
        target.write_text("mío")
        monkeypatch.setattr(Path, "replace", full)
        done = eco("load", sound, "--out", target, "--force")
        assert done.code == 1
        assert "No space left" in done.err.splitlines()[-1]
        assert [(file.name, file.read_text()) for file in results.iterdir()] == [("a.jsonl", "mío")]

    def test_a_source_can_be_its_own_target(self, eco: Eco, sound: Path) -> None:
        assert eco("load", sound, "--out", sound, "--force").code == 0
        assert load(sound).triples == SOUND


class TestTurning:
    def test_explode_and_implode_are_inverse_from_file_to_file(self, eco: Eco, sound: Path, results: Path) -> None:
        done = eco("explode", sound, "--out", results / "pairs.csv")
        assert done == (0, f"18 records in {results / 'pairs.csv'}\n", "")
        assert load(results / "pairs.csv").pairs == tuple(explode(SOUND))
        assert eco("implode", results / "pairs.csv", "--out", results / "triples.parquet").code == 0
        assert load(results / "triples.parquet").triples == SOUND

    def test_load_counts_and_reports(self, eco: Eco, results: Path, tmp_path: Path) -> None:
        file = tmp_path / "h4rmony.csv"
        names = ("PromptID", "Prompt", "BetterCompletion", "WorseCompletion", "ComparedRanks")
        pairs = [("a", "b", "R1-R2"), ("a", "c", "R1-R3"), ("b", "c", "R2-R3")]
        rows = [dict(zip(names, (n, f"Fish {n}?", *pair), strict=True)) for n in range(1, 9) for pair in pairs]
        for row in rows[3::3]:
            row["BetterCompletion"] = "other"
        file.write_bytes(table(rows))
        done = eco("load", file, "--report", results / "report.jsonl")
        assert done.code == 0
        assert "24 rows, 24 pairs, 1 prompts, 1 complete triples" in done.out
        assert "Neovalle" in done.err
        assert "7 · two versions that do not agree (not used)" in done.err
        assert "line 5 · h4rmony-2 · field best" in done.err
        # Five are shown, and all are in the report.
        assert done.err.count("field best") == 5
        told = [json.loads(line) for line in (results / "report.jsonl").read_text().splitlines()]
        assert sum(problem["cause"] == "conflict" for problem in told) == 7
        assert told[0] == {
            "cause": "language_assumed",
            "used": True,
            "detail": "en",
            "source": str(file),
        }

    def test_a_language_can_be_asked_for(self, eco: Eco, sound: Path) -> None:
        done = eco("implode", sound, "--out", sound.with_name("a.csv"), "--lang", "en")
        assert done.code == 2
        assert "6" in done.err.splitlines()[1]
        assert "no complete triple" in done.err.splitlines()[-1]

    def test_prompts_without_answers_are_no_triples(self, eco: Eco, tmp_path: Path) -> None:
        file = tmp_path / "prompts.csv"
        file.write_text("text,lang\n¿Qué?,es\n")
        one_line(eco("explode", file, "--out", tmp_path / "a.csv"), "prompts.csv", "no complete triple")


class TestCurating:
    def test_merge_keeps_the_first_and_says_from_which_file_the_rest_was(
        self, eco: Eco, sound: Path, results: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other.csv"
        rows = [rows_of()[0] | {"text": "Cambiado"}, rows_of()[1] | {"id": "nuevo"}, rows_of()[2] | {"kind": "x"}]
        other.write_bytes(table([*rows, rows_of()[3] | {"id": "bueno", "text": "Nuevo"}]))
        out, report = results / "all.jsonl", results / "report.csv"
        done = eco("merge", sound, other, "--out", out, "--report", report)
        assert done.code == 0
        assert [p.id for p in load(out).prompts] == ["p1", "p2", "p3", "p4", "p5", "p6", "bueno"]
        with report.open(newline="") as lines:
            told = [(row["cause"], row["source"], row["line"], row["id"]) for row in csv.DictReader(lines)]
        assert told == [
            ("bad_value", str(other), "4", "p3"),
            ("duplicate_id", "", "", "p1"),
            ("duplicate_prompt", "", "", "nuevo"),
        ]
        assert "other.csv: 1 · value that cannot be used" in done.err

    def test_balance_names_the_fields_there_are(self, eco: Eco, sound: Path, results: Path) -> None:
        out = results / "a.csv"
        one_line(eco("balance", sound, "--out", out, "--by", "color"), "color", "variety", "kind")
        done = eco("balance", sound, "--out", out, "--per", 2)
        assert done.code == 0
        assert len(load(out).prompts) == 2
        assert "4 · left out to balance" in done.err

    def test_splits_never_cut_a_group(self, eco: Eco, results: Path, tmp_path: Path) -> None:
        file = tmp_path / "set.jsonl"
        file.write_bytes(jsonl([{"id": str(i), "group": f"g{i // 3}", "text": f"uno {i}"} for i in range(60)]))
        train, held = results / "train.csv", results / "eval.csv"
        assert eco("split", file, "--train", train, "--eval", held).code == 0
        groups = [{p.group for p in load(side).prompts} for side in (train, held)]
        assert not groups[0] & groups[1]
        assert len(groups[0] | groups[1]) == 20
        assert sum(written(results).values()) == 60


class TestMeasuring:
    def test_stats_of_a_bundled_set(self, eco: Eco) -> None:
        done = eco("stats", "eco-es-v1", "--json")
        assert done.code == 0
        assert not done.err
        found = json.loads(done.out)
        assert set(found["words"]) == {"text", "best", "ambivalent", "worst"}
        shown = eco("stats", "eco-es-v1")
        assert "register" in shown.out

    def test_marks_of_a_terminal_stay_text(self, eco: Eco, tmp_path: Path) -> None:
        file = tmp_path / "set.jsonl"
        file.write_bytes(jsonl([rows_of()[0] | {"manifestation": "[/red] [bold]x"}]))
        assert "[/red] [bold]x" in eco("stats", file).out

    def test_a_plot_is_a_page_and_never_overwrites(self, eco: Eco, tmp_path: Path, results: Path) -> None:
        require(find_spec("plotly") is not None, "plotly (extra data)")
        file, page = tmp_path / "set.jsonl", results / "a.html"
        file.write_bytes(jsonl([{"text": "uno"}]))
        assert eco("stats", file, "--plot", page).code == 0
        assert b"</html>" in page.read_bytes()
        one_line(eco("stats", file, "--plot", page), "a.html", "exists")
        page.unlink()
        page.mkdir()
        done = eco("stats", file, "--plot", page, "--force")
        assert done.code == 1
        assert "a.html" in done.err.splitlines()[-1]
        assert [file.name for file in results.iterdir()] == ["a.html"]

    def test_check_fails_by_name_and_in_json_too(self, eco: Eco, sound: Path, tmp_path: Path) -> None:
        require(find_spec("sklearn") is not None, "sklearn (extra data)")
        limits = tmp_path / "limits.toml"
        limits.write_text("prompts = 100\n")
        done = eco("check", sound, "--limits", limits, "--json")
        assert done.code == 2
        assert "Prompts" in done.err
        found = {finding["name"]: finding for finding in json.loads(done.out)["findings"]}
        assert (found["prompts"]["value"], found["prompts"]["ok"]) == (6, False)
        leaking = eco("check", sound, "--against", sound)
        assert "leaks: 6" in leaking.err
        for text, words in (("promps = 1", "promps"), ("prompts = ", "TOML"), ('prompts = "x"', "prompts")):
            limits.write_text(text)
            one_line(eco("check", sound, "--limits", limits), "limits.toml", words)
        one_line(eco("check", sound, "--limits", tmp_path / "no.toml"), "no.toml")

    def test_texts_without_a_word_are_measured_as_chance(self, eco: Eco, tmp_path: Path, lax: Path) -> None:
        require(find_spec("sklearn") is not None, "sklearn (extra data)")
        file = tmp_path / "set.jsonl"
        signs = ["🌍", "🌱", "🌊"]
        file.write_bytes(
            jsonl([{"text": s, "best": "!", "ambivalent": "¿", "worst": "?", "lang": "es"} for s in signs])
        )
        assert eco("check", file, "--limits", lax).code == 0
        done = eco("baselines", file, "--json")
        assert done.code == 0
        assert json.loads(done.out)["bag_of_words"] == {
            "best>ambivalent": 0.5,
            "best>worst": 0.5,
            "ambivalent>worst": 0.5,
        }


class TestVerifying:
    def test_what_was_decided_is_applied_and_told(self, eco: Eco, sound: Path, results: Path, tmp_path: Path) -> None:
        log = tmp_path / "log.jsonl"
        for decision in (
            decide(SOUND[0], "Ana"),
            decide(SOUND[0], "Juan"),
            decide(SOUND[1], "Ana", order=("worst", "ambivalent", "best")),
            decide(SOUND[2], "Ana", reject=True, reason="no se entiende"),
            decide(SOUND[3].model_copy(update={"text": "otra"}), "Ana"),
        ):
            append(decision, log)
        out, report = results / "a.jsonl", results / "report.jsonl"
        done = eco("verify", sound, "--log", log, "--out", out, "--report", report)
        assert done.code == 0
        kept = load(out).triples
        assert [t.id for t in kept] == ["p1", "p2", "p4", "p5", "p6"]
        assert kept[0].verified_by == ("Ana", "Juan")
        assert kept[1].best == SOUND[1].worst
        assert [json.loads(line)["cause"] for line in report.read_text().splitlines()] == ["rejected", "stale"]
        assert "Ana and Juan: 1 triples in common, the same order in 100 %" in done.out

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("{", ["line 2", "malformed JSON"]),
            ("[]", ["line 2"]),
            ('{"id": "p1"}', ["line 2", "'of'"]),
            ('{"id": "p1", "of": "x", "by": "", "at": "y", "action": "confirm"}', ["line 2", "'by'"]),
            ('{"id": "p1", "of": "x", "by": "A", "at": "y", "action": "burn"}', ["line 2", "'action'"]),
        ],
    )
    def test_a_log_that_is_wrong_names_its_line(
        self, eco: Eco, sound: Path, results: Path, tmp_path: Path, line: str, words: list[str]
    ) -> None:
        log = tmp_path / "log.jsonl"
        append(decide(SOUND[0], "Ana"), log)
        with log.open("a") as more:
            more.write(line + "\n")
        one_line(eco("verify", sound, "--log", log, "--out", results / "a.jsonl"), "log.jsonl", *words)
        assert not written(results)


class TestMaking:
    @pytest.mark.parametrize("command", sorted(NEED_MODEL))
    def test_an_engine_or_a_server_that_is_none_is_named(
        self, run: Eco, sound: Path, results: Path, command: str
    ) -> None:
        one_line(run(command, sound, "--engine", "magia"), "magia", "transformers")
        one_line(run(command, sound, "--engine", "endpoint"), "--url")
        assert not written(results)

    def test_nothing_can_be_invented_from_an_empty_set(self, run: Eco, tmp_path: Path) -> None:
        file = tmp_path / "set.jsonl"
        file.write_bytes(jsonl([{"text": 5}]))
        done = run("extend", file, "--invent", 3)
        assert done.code == 2
        assert "set.jsonl" in done.err.splitlines()[-1]


class TestSets:
    def built(self, tmp_path: Path, name: str, attribution: str) -> Path:
        folder = tmp_path / "cache" / "prompts"
        folder.mkdir(parents=True)
        file = folder / f"{name}.jsonl"
        write(SOUND, file)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        made = {"parts": [{"source": "a/b", "revision": "1"}], "attribution": attribution, "sha256": sha256}
        file.with_suffix(".json").write_text(json.dumps(made))
        return file

    @pytest.mark.parametrize("name", ["combined-es-v1", "mine"])
    def test_a_built_set_goes_by_its_name_and_credits_its_people(self, eco: Eco, tmp_path: Path, name: str) -> None:
        self.built(tmp_path, name, "H4rmony y quien la tradujo")
        done = eco("load", name)
        assert done.code == 0
        assert "H4rmony y quien la tradujo" in done.err
        assert "6 complete triples" in done.out

    def test_a_set_that_changed_since_is_refused(self, eco: Eco, tmp_path: Path) -> None:
        file = self.built(tmp_path, "mine", "")
        file.write_bytes(jsonl(rows_of()))
        one_line(eco("stats", "mine"), "mine.jsonl", "eco-eval data build mine")


class TestLibrariesThatAreMissing:
    def test_an_extra_is_named_and_the_rest_works_without(self, sound: Path, tmp_path: Path) -> None:
        blocked = "ftfy", "plotly", "py3langid", "sklearn", "sentence_transformers"
        code = (
            "import sys\nclass Missing:\n    def find_spec(self, name, *_):\n"
            f"        if name in {blocked!r}:\n            raise ModuleNotFoundError(name, name=name)\n"
            "sys.meta_path.insert(0, Missing())\n"
            "from eco_eval.cli import build_app\nfrom eco_eval.commands import run_app\n"
            "for line in sys.stdin.read().splitlines():\n"
            "    print(run_app(build_app, ['data', *line.split('|')]), flush=True)\n"
        )
        lines = [
            f"load|{sound}",
            f"explode|{sound}|--out|{tmp_path / 'a.csv'}",
            f"check|{sound}",
            f"baselines|{sound}",
            f"stats|{sound}|--plot|{tmp_path / 'a.html'}",
        ]
        done = subprocess.run(
            [sys.executable, "-c", code],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPO), "ECO_EVAL_LANG": "en", "ECO_EVAL_CACHE_DIR": str(tmp_path)},
            timeout=60,
        )
        assert [line for line in done.stdout.splitlines() if line.isdigit()] == ["0", "0", "2", "2", "2"]
        assert done.stderr.splitlines() == [
            f"The library “{name}” is missing. Install it with “pip install eco-eval[data]”."
            for name in ("sklearn", "sklearn", "plotly")
        ]
        assert not (tmp_path / "a.html").exists()

    def test_one_that_only_broken_text_needs(self, eco: Eco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ftfy", None)
        file = tmp_path / "set.csv"
        file.write_text("text,lang\ncanción,es\n")
        assert eco("load", file).code == 0
        file.write_text("text,lang\ncanciÃ³n,es\n")
        one_line(eco("load", file), "ftfy", "eco-eval[data]")
