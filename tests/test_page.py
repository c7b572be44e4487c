"""The page, started for real and read by Gradio's client and by Chromium."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import visit

from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.instrument import load_instrument
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.settings import Settings
from eco_eval.store import LocalStore
from eco_eval.types import ModelRef

HOSTILE = "<script>document.title='tomada'</script><img src=x onerror=\"document.title='tomada'\"> {{prompt}}"


def serve(root: Path, lang: str = "es") -> tuple[Any, str]:
    from eco_eval.ui.site import launch

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return launch(Settings(data_dir=root, lang=lang), port=port, wait=False)


def scripted(said: str) -> Engines:
    @contextmanager
    def candidate() -> Iterator[Engine]:
        yield ScriptedEngine(answer=lambda c: said)

    @contextmanager
    def judge() -> Iterator[Engine]:
        yield ScriptedEngine(label=lambda c, labels: [len(c[-1].content) % 5 + 1, 2, 3], name="demo-judge")

    return Engines(candidate=candidate, judge=judge)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two models, one of them hostile in its name and its answers."""
    root = tmp_path_factory.mktemp("page") / "data"
    measure = load_instrument("eco-es-demo").limited(8).with_judge_at("0" * 40)
    for name, said in (("vecina/rio-7b", "Primero, hablar con quienes riegan abajo."), (f"malo/{HOSTILE}", HOSTILE)):
        model = ModelRef(name=name, source="hub", revision="a" * 40)
        evaluate(submit(model, measure), measure, scripted(said), LocalStore(root))
    (root / "results" / "rota.json").write_text("{")
    return root


@pytest.fixture(scope="module")
def page(results: Path) -> Iterator[str]:
    site, url = serve(results)
    yield url
    site.close()


@pytest.fixture(scope="module")
def client(page: str) -> Any:
    from gradio_client import Client

    return Client(page, verbose=False)


def test_the_board_is_read_through_the_api(client: Any) -> None:
    board = client.predict(api_name="/board")
    section = board["sections"][0]
    assert {row["name"] for row in section["models"]} == {"vecina/rio-7b", f"malo/{HOSTILE}"}
    assert len(section["anchors"]) == 4
    for row in section["models"]:
        assert row["eco"]["low"] < row["eco"]["high"]
        assert row["eco"]["low"] <= row["eco"]["value"] <= row["eco"]["high"]


def test_a_result_with_its_answers_and_verdicts_is_read_through_the_api(client: Any) -> None:
    row = client.predict(api_name="/board")["sections"][0]["models"][0]
    found = client.predict(row["result"]["id"], api_name="/result")
    assert found["result"]["id"] == row["result"]["id"]
    assert len(found["answers"]) == 8
    assert found["answers"][0]["answer"]["prompt"]


def test_an_unknown_result_is_an_error_and_not_a_crash(client: Any, page: str) -> None:
    assert client.predict("no-existe", api_name="/result")["error"] == "result.unknown"
    assert client.predict(api_name="/board")["sections"]


def test_the_page_process_needs_no_gpu_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom eco_eval.settings import Settings\nfrom eco_eval.ui.site import build_site\n"
        "build_site(Settings())\nprint('HEAVY', sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "HEAVY []" in done.stdout, done.stderr


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    from eco_eval.board import build
    from eco_eval.ui.pages.board import render
    from eco_eval.ui.texts import Texts

    assert "eco-eval evaluate" in render(build([]), [], Texts("es"))


# --- in a browser


@pytest.mark.parametrize("width", [1280, 390])
def test_a_person_reads_the_board_and_one_model(browser: Any, page: str, width: int) -> None:
    with visit(browser, page, "Clasificación", width) as tab:
        tab.wait_for_selector("td.name >> text=vecina/rio-7b")
        assert tab.locator("svg.range").count() >= 6
        assert "SUSTITUTO" in tab.inner_text("body")
        tab.get_by_role("tab", name="Modelo").click()
        tab.wait_for_selector("article.eco-card >> visible=true")
        assert tab.locator("article.eco-card").count() == 8
        assert "quienes riegan abajo" in tab.inner_text("body") or "onerror" in tab.inner_text("body")
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1, "the page scrolls sideways"


def test_a_verdict_filter_shows_only_that_verdict(browser: Any, page: str) -> None:
    with visit(browser, page, "Clasificación") as tab:
        tab.get_by_role("tab", name="Modelo").click()
        tab.wait_for_selector("article.eco-card >> visible=true")
        tab.get_by_label("Veredicto").click()
        tab.get_by_role("option", name="mala").click()
        tab.wait_for_function("document.querySelectorAll('article.eco-card').length < 8")
        grades = tab.locator("article.eco-card .eco-grade").all_inner_texts()
        assert all("mala" in grade for grade in grades)


def test_hostile_names_and_answers_stay_text(browser: Any, page: str) -> None:
    with visit(browser, page, "Clasificación") as tab:
        tab.wait_for_selector("td.name >> text=malo/")
        tab.get_by_role("tab", name="Modelo").click()
        tab.get_by_label("Resultado").click()
        tab.locator("[role=option]", has_text="malo/").click()
        tab.wait_for_selector("article.eco-card >> text=onerror")
        assert tab.title() != "tomada"
        assert "<script>" in tab.inner_text("article.eco-card >> nth=0")


def test_an_unreadable_result_is_named_on_the_page(browser: Any, page: str) -> None:
    with visit(browser, page, "Clasificación") as tab:
        tab.wait_for_selector("text=results/rota.json")
