"""Real parts, made once a session: a tiny model, the bundled instrument, a store."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
sys.path.insert(0, str(Path(__file__).parent))

import pytest
from hub import LocalHub, clients
from tiny import make_tiny_model

from eco_eval.instrument import Instrument, load_instrument
from eco_eval.store import LocalStore

REPO = Path(__file__).parent.parent
H4RMONY = REPO.parent / "shared" / "h4rmony"


def require(there: bool, what: str) -> None:
    """Skip where a part is missing that a bare machine may lack; fail where ECO_EVAL_REQUIRE_ALL=1, as CI sets it."""
    if not there and os.environ.get("ECO_EVAL_REQUIRE_ALL") == "1":
        pytest.fail(f"{what} is missing, and ECO_EVAL_REQUIRE_ALL=1 asks for its tests")
    if not there:
        pytest.skip(f"needs {what}")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 of two layers with a chat template."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another random model, with a context long enough for the rubric."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-judge", seed=1, context=8192)


@pytest.fixture(scope="session")
def demo() -> Instrument:
    """The bundled demo instrument, its judge at some revision."""
    return load_instrument("eco-es-demo").with_judge_at("0" * 40)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    """A Hub of this machine's own, for the real clients to talk to."""
    with LocalHub() as running:
        yield running


@pytest.fixture(scope="module")
def client(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Calls a function of a test file where the clients use the hub."""
    with clients(hub, tmp_path_factory.mktemp("home"), HF_DATASETS_DISABLE_PROGRESS_BARS="1") as call:
        yield call


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium."""
    require(CHROMIUM is not None, "Chromium (apt install chromium)")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@contextmanager
def visit(browser: Any, url: str, ready: str, width: int = 1280) -> Iterator[Any]:
    """A tab, open once it shows `ready`, that must end with no console error and no request leaving the machine."""
    tab = browser.new_page(viewport={"width": width, "height": 900})
    problems: list[str] = []
    outside: list[str] = []
    # Gradio tells so when a page is left in the middle of a request.
    tab.on("console", lambda m: problems.append(m.text) if m.type == "error" and "AbortError" not in m.text else None)
    tab.on("pageerror", lambda e: problems.append(str(e)))
    tab.on("request", lambda r: outside.append(r.url) if "127.0.0.1" not in r.url and r.url[:4] == "http" else None)
    tab.goto(url)
    tab.wait_for_selector(f"text={ready}")
    yield tab
    assert outside == []
    assert problems == []
    tab.close()
