"""The command line as people meet it: one clear line for bad input, exit codes, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import H4RMONY, REPO
from tiny import make_tiny_model

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, tiny_judge: Path) -> Run:
    """Runs `eco-eval` in a process of its own with a store of its own."""

    def call(*arguments: object, lang: str = "es", **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "eco_eval.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment(home, lang=lang, **environ),
            timeout=120,
        )

    return call


def environment(home: Path, lang: str = "es", **extra: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(REPO),
        "ECO_EVAL_LANG": lang,
        "ECO_EVAL_DATA_DIR": str(home / "data"),
        "ECO_EVAL_CACHE_DIR": str(home / "cache"),
        "COLUMNS": "200",
        **extra,
    }


@pytest.fixture
def own(tmp_path: Path, tiny_judge: Path) -> Path:
    """An instrument of one's own whose judge is the tiny model."""
    source = (REPO / "eco_eval/data/instruments/eco-es-demo.toml").read_text()
    file = tmp_path / "mine.toml"
    text = source.replace('"demo-judge"', f'"{tiny_judge}"').replace('"trained"', '"local"')
    text = text.replace("context = 4096\nmax_answer", "context = 8192\nmax_answer")
    text = text.replace("min_label_mass = 0.01", "min_label_mass = 0.0").replace("max_tokens = 256", "max_tokens = 16")
    file.write_text(text)
    return file


def one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> str:
    """The command failed with this code and one line that names these things, and no traceback."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.strip().splitlines() if "━" not in line]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]
    return lines[0]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom eco_eval.cli import run_app, build_app\ntry:\n run_app(build_app, ['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'gradio', 'pandas', 'numpy', 'pyarrow', 'openai', 'vllm', 'datasets'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "HEAVY []" in done.stdout


def test_evaluate_show_board_judge_and_score_from_a_folder(run: Run, own: Path, tiny_model: Path) -> None:
    first = run("evaluate", tiny_model, "--instrument", own, "--limit", 5, "--json")
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["score"]["counts"]["asked"] == 5
    assert result["publishable"] is False
    again = run("evaluate", tiny_model, "--instrument", own, "--limit", 5, "--json")
    assert again.stdout == first.stdout
    board = run("board")
    assert "tiny" in board.stdout
    assert "SUSTITUTO" in board.stdout
    shown = run("show", result["id"][:6])
    assert shown.returncode == 0
    assert "Petición" in shown.stdout
    as_data = json.loads(run("show", "tiny", "--json").stdout)
    assert len(as_data["answers"]) == 5
    rejudged = run("judge", "tiny", "--instrument", own, "--limit", 5, "--json")
    assert json.loads(rejudged.stdout)["score"] == result["score"]
    rescored = run("score", "tiny", "--instrument", own, "--limit", 5, "--json")
    assert json.loads(rescored.stdout)["score"] == result["score"]


def test_english_messages_are_english(run: Run) -> None:
    assert "There is no model 'nope'" in one_line(run("evaluate", "nope", lang="en"), 2)


@pytest.fixture(autouse=True)
def demo_cache(tiny_judge: Path, tmp_path: Path) -> None:
    """The demo instrument finds the tiny model where its trained judge would be."""
    shutil.copytree(tiny_judge, tmp_path / "home" / "cache" / "models" / "demo-judge")


# --- bad input


def test_no_such_model(run: Run, home: Path) -> None:
    one_line(run("evaluate", "no-existe"), 2, "«no-existe»")
    assert not (home / "data").exists()


def test_a_folder_without_tokenizer(run: Run, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    one_line(run("evaluate", folder), 2, "tokenizador")


def test_pickled_weights(run: Run, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    one_line(run("evaluate", folder), 2, "pytorch_model.bin", "safetensors")


def test_a_folder_with_python_files(run: Run, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m")
    (folder / "modeling_mine.py").write_text("print('ejecutado')")
    done = run("evaluate", folder)
    one_line(done, 2, "modeling_mine.py")
    assert "ejecutado" not in done.stdout


def test_malformed_jsonl_names_the_line(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"text": "¿Qué ceno?"}\n{"text": "¿Y maña\n')
    one_line(run("evaluate", tiny_model, "--prompts", file), 2, "p.jsonl", "línea 2")


def test_duplicate_ids(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"id": "a", "text": "¿Qué ceno?"}\n{"id": "a", "text": "¿Y mañana?"}\n')
    one_line(run("evaluate", tiny_model, "--prompts", file), 2, "«a»", "repetido")


def test_an_instrument_with_an_unknown_key(run: Run, own: Path, tiny_model: Path) -> None:
    own.write_text(own.read_text().replace("[answer]", "[answer]\ntemperatura = 1"))
    one_line(run("evaluate", tiny_model, "--instrument", own), 2, "mine.toml", "answer.temperatura")


def test_an_unknown_instrument_names_those_there_are(run: Run, tiny_model: Path) -> None:
    one_line(run("evaluate", tiny_model, "--instrument", "eco-xx"), 2, "eco-es-demo", "eco-es-v1")


def test_a_judge_that_was_not_trained(run: Run, home: Path, tiny_model: Path) -> None:
    shutil.rmtree(home / "cache")
    one_line(run("evaluate", tiny_model), 2, "demo-judge", "make demo")


def test_an_unknown_result(run: Run) -> None:
    one_line(run("show", "zzz"), 2, "«zzz»", "eco-eval board")


def test_a_setting_that_cannot_be_used(run: Run) -> None:
    one_line(run("board", ECO_EVAL_TIMEOUT="pronto"), 2, "ECO_EVAL_TIMEOUT", "pronto")


def test_an_unknown_engine(run: Run, tiny_model: Path) -> None:
    one_line(run("evaluate", tiny_model, "--engine", "magia"), 2, "magia", "transformers")


def test_a_missing_system_prompt(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    one_line(run("evaluate", tiny_model, "--system-prompt", tmp_path / "nada.md"), 2, "nada.md")


# --- a judge that does not work


class Html(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html><body>hola</body></html>")

    def log_message(self, *_: object) -> None:
        pass


class Slow(Html):
    def do_POST(self) -> None:
        time.sleep(3)


@pytest.fixture
def serve() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    servers = []

    def start(handler: type[BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()


def evaluate_with_judge(run: Run, model: Path, url: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environ.setdefault("ECO_EVAL_RETRIES", "1")
    return run("evaluate", model, "--judge-url", url, "--judge-model", "j", "--limit", 2, **environ)


def kept_answers(home: Path) -> int:
    return len(list((home / "data" / "answers").rglob("*.parquet")))


def test_a_judge_server_that_is_down_keeps_the_answers(run: Run, home: Path, tiny_model: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one_line(evaluate_with_judge(run, tiny_model, f"http://127.0.0.1:{port}/v1"), 1, str(port))
    assert kept_answers(home) == 1
    assert not (home / "data" / "results").exists()


def test_a_judge_server_that_answers_html(run: Run, home: Path, tiny_model: Path, serve: Callable[..., str]) -> None:
    one_line(evaluate_with_judge(run, tiny_model, serve(Html)), 1, "<html>")
    assert kept_answers(home) == 1


def test_a_judge_server_that_is_slow(run: Run, home: Path, tiny_model: Path, serve: Callable[..., str]) -> None:
    one_line(evaluate_with_judge(run, tiny_model, serve(Slow), ECO_EVAL_TIMEOUT="0.2"), 1, "0.2")
    assert kept_answers(home) == 1


# --- interrupted, disk full


def test_ctrl_c_ends_with_one_line_and_the_same_command_goes_on(
    run: Run, home: Path, own: Path, tiny_model: Path, serve: Callable[..., str]
) -> None:
    class Asked(Slow):
        event = threading.Event()

        def do_POST(self) -> None:
            self.event.set()
            super().do_POST()

    asked = ["evaluate", str(tiny_model), "--instrument", str(own), "--limit", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "eco_eval.cli", *asked, "--judge-url", serve(Asked), "--judge-model", "j"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(home),
        # A runner in the background ignores Ctrl-C, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert Asked.event.wait(60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Interrumpido" in err
    (kept,) = (home / "data" / "answers").rglob("*.parquet")
    written = kept.stat().st_mtime_ns
    assert run(*asked).returncode == 0
    assert kept.stat().st_mtime_ns == written


def test_a_full_disk_is_one_clear_line_and_loses_nothing(run: Run, home: Path, own: Path, tiny_model: Path) -> None:
    first = run("evaluate", tiny_model, "--instrument", own, "--limit", 3, "--json")
    kept = {f: f.read_bytes() for f in (home / "data").rglob("*") if f.is_file()}
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        "sys.argv = ['eco-eval', *sys.argv[1:]]\n"
        "from eco_eval.cli import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", str(tiny_model), "--instrument", str(own), "--limit", "4"],
        capture_output=True,
        text=True,
        env=environment(home),
    )
    one_line(done, 1, "answers/")
    assert {f: f.read_bytes() for f in (home / "data").rglob("*") if f.is_file()} == kept
    assert first.returncode == 0


# --- real input this project did not write


@pytest.mark.skipif(not H4RMONY.is_dir(), reason="the H4rmony sample is not beside this checkout")
def test_h4rmony_prompts_run_as_they_are(run: Run, own: Path, tiny_model: Path) -> None:
    prompts = H4RMONY / "prompts_best_en.jsonl"
    done = run("evaluate", tiny_model, "--instrument", own, "--prompts", prompts, "--limit", 40, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["score"]["counts"]["asked"] == 40


def test_a_csv_from_a_spreadsheet_runs(run: Run, own: Path, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "peticiones.csv"
    rows = "Pregunta;Nota\r\n¿Qué ceno hoy?;uno\r\n«¿Y el río?»;dos\r\n"
    file.write_bytes(b"\xef\xbb\xbf" + rows.encode())
    done = run("evaluate", tiny_model, "--instrument", own, "--prompts", file, "--limit", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["score"]["counts"]["asked"] == 2
