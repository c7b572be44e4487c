"""The tab where models are asked for: over real HTTP, in a page process of its own, with a stand-in Hub, and seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import visit
from hub import LocalHub
from serving import SPACE, call, cookie, press, serving
from test_intake import LORA, LORA_WEIGHTS, MODEL

from eco_eval.candidates import Intake
from eco_eval.errors import EngineError
from eco_eval.queue import Queue
from eco_eval.reception import Examined
from eco_eval.settings import LANGS
from eco_eval.types import Submission
from eco_eval.ui.identity import can_sign_in, identify, is_hosted, operator
from eco_eval.ui.requests import examined_html
from eco_eval.ui.texts import Texts

DEMO = "eco-es-demo"
HOW = (DEMO, "vllm", "auto", "")
HOSTILE = "<script>document.title='tomada'</script><img src=x onerror=\"document.title='tomada'\">"


@pytest.fixture(scope="module")
def models(hub: LocalHub) -> LocalHub:
    """A Hub with models that can be evaluated, and some that cannot."""
    for number in range(12):
        hub.add(f"vecina/rio-{number}", "model", MODEL)
    hub.add("owner/fine", "model", MODEL)
    hub.add("otra/lora", "model", {
        "adapter_config.json": json.dumps(LORA).encode(), "adapter_model.safetensors": LORA_WEIGHTS, "README.md": b"",
    })  # fmt: skip
    hub.add("malo/codigo", "model", {**MODEL, "modeling_x.py": b"print(1)"})
    hub.add("privada/oculto", "model", MODEL, private=True)
    licence = f"---\nlicense: {json.dumps(HOSTILE)}\n---\n"
    hub.add("Qwen/Qwen3-30B-A3B-Instruct-2507", "model", MODEL)  # the judge of the usual instrument
    hub.add("malo/html", "model", {**MODEL, "README.md": licence.encode()})
    return hub


def prepared(root: Path, judge: Path) -> Path:
    """A place for a page that has the demo's judge."""
    shutil.copytree(judge, root / "cache" / "models" / "demo-judge")
    return root


def queue_of(root: Path) -> Queue:
    return Queue(f"sqlite:///{root / 'data' / '.queue.sqlite'}")


@pytest.fixture(scope="module")
def near(models: LocalHub, tiny_judge: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A page on one's own machine."""
    root = prepared(tmp_path_factory.mktemp("near"), tiny_judge)
    with serving(root, models, ECO_EVAL_PER_USER="40", ECO_EVAL_PER_OWNER="40") as url:
        yield url, root


@pytest.fixture(scope="module")
def space(models: LocalHub, tiny_judge: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A page on a Space with sign-in."""
    root = prepared(tmp_path_factory.mktemp("space"), tiny_judge)
    with serving(root, models, **SPACE, ECO_EVAL_PER_USER="3", ECO_EVAL_PER_OWNER="100") as url:
        yield url, root


# --- asking


def test_a_model_is_asked_for_once_however_its_name_is_written(near: tuple[str, Path], models: LocalHub) -> None:
    url, _ = near
    first = call(url, "submit", "vecina/rio-0", *HOW)
    assert first["accepted"], first
    assert first["is_new"]
    assert first["wait_seconds"] is None
    request = first["request"]
    assert (request["model"], request["state"], request["position"]) == ("vecina/rio-0", "pending", 1)
    for spelling in (
        "  vecina/rio-0\n",
        "https://huggingface.co/vecina/rio-0/",
        "vecina/rio-0@main",
        f"vecina/rio-0@{request['revision']}",
    ):
        again = call(url, "submit", spelling, *HOW)
        assert not again["is_new"], spelling
        assert again["request"]["id"] == request["id"]
    variant = call(url, "submit", "vecina/rio-0", DEMO, "vllm", "auto", "Eres amable.")
    assert variant["is_new"]
    assert variant["request"]["id"] != request["id"]
    assert variant["request"]["has_system_prompt"]
    assert "Eres amable" not in json.dumps(variant)


def test_what_is_asked_for_is_read_back(near: tuple[str, Path]) -> None:
    url, _ = near
    asked = call(url, "submit", "vecina/rio-1", *HOW)["request"]
    assert call(url, "request", asked["id"]) == asked
    assert asked["id"] in [one["id"] for one in call(url, "queue", "pending", 50, 0)["requests"]]
    assert call(url, "queue", "failed", 50, 0)["requests"] == []


def test_an_adapter_is_asked_for_with_the_base_it_is_on(near: tuple[str, Path]) -> None:
    found = call(near[0], "submit", "otra/lora", *HOW)
    assert found["accepted"], found
    assert found["request"]["base"].startswith("owner/fine@")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("malo/codigo", "model.has_code"),
        ("nadie/nada", "model.not_on_hub"),
        ("privada/oculto", "model.not_on_hub"),
        ("vеcina/rio-0", "model.not_ascii"),
        ("/etc/passwd", "model.not_found"),
        ("../../etc", "model.not_found"),
        ("a/../../etc/passwd", "model.not_found"),
        ("vecina/rio-0@../../x", "model.not_found"),
        ("file:///etc/passwd", "model.not_found"),
        (".", "model.not_found"),
        ("", "model.not_found"),
        ("a\0b/c", "model.not_found"),
        ("\ud800/x", "model.not_ascii"),
        ("a/" + "b" * 1_000_000, "model.not_found"),
        (" " * 1_000_000, "model.not_found"),
        (HOSTILE, "model.not_found"),
        (None, "model.not_found"),
        (["vecina/rio-0"], "model.not_found"),
        (7, "model.not_found"),
    ],
)
def test_a_name_that_will_not_do_is_refused_with_its_reason(near: tuple[str, Path], name: object, key: str) -> None:
    found = call(near[0], "submit", name, *HOW)
    assert found["accepted"] is False
    assert found["error"] == key
    assert len(found["message"]) < 1000


def test_a_path_of_the_server_is_no_name(near: tuple[str, Path]) -> None:
    url, root = near
    folder = root / "data" / "mio"
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in MODEL.items():
        (folder / file).write_bytes(data)
    for name in (str(folder), "data/mio", "./data/mio", "~/mio"):
        assert call(url, "submit", name, *HOW)["error"] in ("model.not_found", "model.not_on_hub")


@pytest.mark.parametrize(
    ("how", "key"),
    [
        (("/etc/passwd.toml", "vllm", "auto", ""), "reception.bad_choice"),
        (("../x", "vllm", "auto", ""), "reception.bad_choice"),
        ((DEMO, "endpoint", "auto", ""), "reception.bad_choice"),
        ((DEMO, "vllm", "int3", ""), "reception.bad_choice"),
        ((DEMO, "vllm", "auto", "x" * 4001), "reception.long_prompt"),
        ((DEMO, "vllm", "auto", "x" * 1_000_000), "reception.long_prompt"),
        ((DEMO, "vllm", "auto", "a\0b"), "reception.bad_text"),
        ((DEMO, "vllm", "auto", "a\ud800b"), "reception.bad_text"),
        ((DEMO, "vllm", "auto", 3), "reception.bad_text"),
        ((None, None, None, None), "reception.bad_choice"),
        (([], "vllm", "auto", ""), "reception.bad_choice"),
    ],
)
def test_what_cannot_be_chosen_is_refused(near: tuple[str, Path], how: tuple[object, ...], key: str) -> None:
    found = call(near[0], "submit", "vecina/rio-0", *how)
    assert (found["accepted"], found["error"]) == (False, key)


@pytest.mark.parametrize(
    "request_id", ["../../x", "0" * 16 + "/..", "ABCDEF0123456789", "x" * 1_000_000, "", None, 3, "０" * 16]
)
def test_an_id_that_is_none_is_unknown(near: tuple[str, Path], request_id: object) -> None:
    assert call(near[0], "request", request_id)["error"] == "queue.unknown"


@pytest.mark.parametrize(
    "values",
    [("pending", 0, 0), ("", 10**9, 0), ("", 50, -1), ("", "x", 0), ("nope", 5, 0), ("", True, 0), ("", 1.5, 0)],
)
def test_what_the_list_cannot_give_is_refused(near: tuple[str, Path], values: tuple[object, ...]) -> None:
    assert call(near[0], "queue", *values)["error"] == "reception.bad_choice"


# --- who asks


FORGED = {
    "X-Forwarded-User": "root",
    "X-Remote-User": "root",
    "Remote-User": "root",
    "X-HF-User": "root",
    "Authorization": "Bearer hf_x",
    "Cookie": "session=eyJvYXV0aF9pbmZvIjogeyJ1c2VyaW5mbyI6IHsicHJlZmVycmVkX3VzZXJuYW1lIjogInJvb3QifX19; user=root",
}


def test_who_asks_is_who_runs_the_page_and_nothing_that_is_sent(near: tuple[str, Path]) -> None:
    url, root = near
    plain = {key: value for key, value in FORGED.items() if not key.startswith("X-Forwarded")}
    asked = call(url, "submit", "vecina/rio-2", *HOW, **plain)["request"]
    fields = {"model": "vecina/rio-3", "instrument": DEMO, "user": "root", "profile": "root"}
    refused = httpx.post(f"{url}/gradio_api/call/v2/submit", json=fields)
    assert refused.status_code == 422
    queue = queue_of(root)
    assert queue.get(asked["id"]).request.user == operator()
    assert queue.entries(user="root") == []
    queue.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "8.8.8.8"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-User": "root"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Host": "rebound.example"},
        {"Host": "127.0.0.1.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_nobody_asks_from_elsewhere_or_in_anothers_name(near: tuple[str, Path], headers: dict[str, str]) -> None:
    found = call(near[0], "submit", "vecina/rio-4", *HOW, **headers)
    assert found == {"accepted": False, "error": "reception.elsewhere", "message": found["message"]}
    assert "requests" in call(near[0], "queue", "", 200, 0, **headers)  # anybody may read


def test_what_another_sites_page_could_send_is_not_taken(near: tuple[str, Path]) -> None:
    body = json.dumps({"data": ["vecina/rio-4", *HOW]})
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = httpx.post(f"{near[0]}/gradio_api/call/submit", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 415


def test_on_a_space_only_who_is_signed_in_asks(space: tuple[str, Path]) -> None:
    url, root = space
    for headers in ({}, FORGED, cookie("ana", "another secret"), cookie("ana", "")):
        found = call(url, "submit", "vecina/rio-5", *HOW, **headers)
        assert found["error"] == "reception.sign_in", headers
    asked = call(url, "submit", "vecina/rio-5", *HOW, **cookie("ana"), **{"X-Forwarded-User": "luz"})
    assert asked["accepted"], asked
    assert call(url, "submit", "vecina/rio-6", *HOW, **cookie("ana"), **{"Sec-Fetch-Site": "cross-site"})["error"]
    queue = queue_of(root)
    assert queue.get(asked["request"]["id"]).request.user == "hub:ana"
    queue.close()


def test_a_quota_holds_in_parallel_and_whatever_the_name_looks_like(space: tuple[str, Path]) -> None:
    url, root = space

    def ask(number: int) -> str:
        name = f"vecina/rio-{number % 12}" + ("@main" if number % 2 else "")
        found = call(url, "submit", name, *HOW, **cookie("prisa"))
        return found.get("error", "accepted")

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(ask, range(24)))
    queue = queue_of(root)
    mine = queue.entries(user="hub:prisa")
    queue.close()
    assert len(mine) == 3
    assert set(said) == {"accepted", "queue.user_quota"}


def test_nobody_acts_on_another_ones_request(space: tuple[str, Path]) -> None:
    url, _ = space
    asked = call(url, "submit", "vecina/rio-11", *HOW, **cookie("duena"))["request"]
    for what in ("cancel", "withdraw", "retry"):
        for headers in ({}, cookie("luz"), cookie("duena", "another secret")):
            assert "eco-warn" in press(url, f"submit-{what}", asked["id"], **headers)[0]
    assert call(url, "request", asked["id"]) == asked
    for what, state in (("cancel", "cancelled"), ("retry", "pending"), ("withdraw", "withdrawn")):
        assert "eco-warn" not in press(url, f"submit-{what}", asked["id"], **cookie("duena"))[0]
        assert call(url, "request", asked["id"])["state"] == state


@pytest.mark.parametrize("value", ["../../x", None, 3, "x" * 1_000_000, "\0", "\ud800", HOSTILE, ["a"]])
def test_acting_on_what_is_no_request_says_so(near: tuple[str, Path], value: object) -> None:
    for what in ("cancel", "withdraw", "retry"):
        shown = press(near[0], f"submit-{what}", value)[0]
        assert "eco-warn" in shown
        assert "<script" not in shown
        assert len(shown) < 1000


def test_sign_in_is_offered_on_a_space_and_never_play_acted(space: tuple[str, Path], near: tuple[str, Path]) -> None:
    assert httpx.get(f"{near[0]}/login/huggingface").status_code == 404
    for url, offered in ((near[0], False), (space[0], True)):
        values = [one["props"].get("value") for one in httpx.get(f"{url}/config").json()["components"]]
        assert ("Entrar con Hugging Face" in values) == offered


def test_who_asks_is_decided_by_the_connection_alone() -> None:
    here = {"host": "localhost:7860"}
    assert identify(here, "127.0.0.1", None, {}) == operator()
    assert identify({"host": "[::1]:7860"}, "::1", None, {}) == operator()
    assert identify(here, "127.0.0.1", "ana", {}) == operator()
    assert identify(here, "10.0.0.3", None, {}) is None
    assert identify(here, None, None, {}) is None
    assert identify({}, "127.0.0.1", None, {}) is None
    assert identify(here, "127.0.0.1", None, SPACE) is None
    assert identify({"host": "x.hf.space"}, "10.0.0.3", "ana", SPACE) == "hub:ana"
    assert identify({}, None, "a/../b", SPACE) is None
    assert is_hosted({"SPACE_ID": "a/b"})
    assert is_hosted({"SYSTEM": "spaces"})
    # Gradio would play-act the sign-in where it does not see a Space.
    assert not can_sign_in({**SPACE, "SYSTEM": ""})
    assert not can_sign_in({key: value for key, value in SPACE.items() if key != "OAUTH_CLIENT_SECRET"})
    assert can_sign_in(SPACE)


# --- in a browser


@pytest.mark.parametrize("width", [1280, 390])
def test_a_person_checks_a_model_asks_for_it_and_cancels_it(browser: Any, near: tuple[str, Path], width: int) -> None:
    url, _ = near
    name = f"vecina/rio-{7 if width > 400 else 8}"
    with visit(browser, url, "Clasificación", width) as tab:
        tab.get_by_role("tab", name="Enviar").click()
        tab.get_by_label("Modelo en el Hub").fill("malo/codigo")
        tab.get_by_label("Instrumento").click()
        tab.get_by_role("option", name=DEMO).click()
        tab.locator("#submit-check").click()
        tab.wait_for_selector("#submit-status .eco-warn >> text=modeling_x.py")
        tab.get_by_label("Modelo en el Hub").fill(name)
        tab.locator("#submit-check").click()
        tab.wait_for_selector("#submit-status .eco-about >> text=Qwen2ForCausalLM")
        assert "apache-2.0" in tab.inner_text("#submit-status")
        tab.locator("#submit-send").click()
        tab.wait_for_selector("#submit-status >> text=Puesto")
        card = tab.locator("#submit-mine article", has_text=name)
        card.wait_for()
        assert "en espera" in card.inner_text()
        tab.get_by_label("Envío").click()
        tab.get_by_role("option", name=name).click()
        tab.locator("#submit-cancel").click()
        tab.wait_for_selector("#submit-done >> text=cancelado")
        tab.locator("#submit-mine article", has_text=name).locator("text=cancelado").wait_for()
        tab.locator("#submit-queue tr", has_text=name).locator("text=cancelado").wait_for()
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1, "the page scrolls sideways"


def test_what_strangers_wrote_stays_text(browser: Any, near: tuple[str, Path]) -> None:
    url, root = near
    asked = call(url, "submit", "vecina/rio-9", *HOW)["request"]
    queue = queue_of(root)
    _, number = queue.take(asked["id"], 1, f"w{HOSTILE}")
    queue.fail(asked["id"], number, "answer", EngineError("vllm.died", model="m", reason=HOSTILE, log=HOSTILE))
    queue.close()
    with visit(browser, url, "Clasificación") as tab:
        tab.get_by_role("tab", name="Enviar").click()
        tab.get_by_label("Modelo en el Hub").fill("malo/html")
        tab.locator("#submit-check").click()
        tab.wait_for_selector("#submit-status >> text=onerror")
        tab.wait_for_selector("#submit-queue >> text=onerror")
        tab.locator("#submit-mine summary").first.click()
        tab.wait_for_selector("#submit-mine pre >> text=onerror")
        tab.get_by_label("Modelo en el Hub").fill(HOSTILE)
        tab.locator("#submit-send").click()
        tab.wait_for_selector("#submit-status .eco-warn >> text=script")
        assert tab.title() != "tomada"
        assert "w<script" not in tab.inner_text("body")


def test_what_a_model_says_of_itself_stays_text() -> None:
    intake = Intake(
        name=HOSTILE,
        source="hub",
        revision=HOSTILE,
        kind="chat",
        dtype=HOSTILE,
        architecture=HOSTILE,
        files=(),
        parameters=1,
        bytes=1,
        licence=HOSTILE,
    )
    submission = Submission(model=intake.ref, instrument=HOSTILE, asked_digest="a", measured_digest="m")
    examined = Examined(intake=intake, submission=submission, engine="vllm")
    for lang in LANGS:
        html = examined_html(examined, None, Texts(lang))
        assert "<script" not in html
        assert "<img" not in html
        assert html.count("&lt;script") == 5


def test_the_queue_is_read_again_only_while_its_tab_is_open(browser: Any, near: tuple[str, Path]) -> None:
    with visit(browser, near[0], "Clasificación") as tab:
        asked: list[str] = []
        tab.wait_for_timeout(1000)
        tab.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
        tab.wait_for_timeout(6500)
        assert asked == []
        tab.get_by_role("tab", name="Enviar").click()
        tab.wait_for_timeout(6500)
        assert len(asked) >= 2  # that it was opened, and at least one look
        tab.get_by_role("tab", name="Clasificación").click()
        tab.wait_for_timeout(1000)
        asked.clear()
        tab.wait_for_timeout(6500)
        assert asked == []


def test_without_a_queue_the_tab_says_so_and_the_rest_lives(browser: Any, tmp_path: Path) -> None:
    with (
        serving(tmp_path, ECO_EVAL_QUEUE_URL="postgresql://nobody@127.0.0.1:1/none") as url,
        visit(browser, url, "Clasificación") as tab,
    ):
        tab.wait_for_selector("text=Todavía no hay resultados")
        tab.get_by_role("tab", name="Enviar").click()
        tab.wait_for_selector("#submit-queue .eco-warn")
        tab.wait_for_selector("#submit-mine .eco-warn")
