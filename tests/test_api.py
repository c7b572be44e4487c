"""Health, metrics and the read-only API, over real HTTP; and that nothing anybody sends is ever an HTTP 500."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from conftest import REPO, require
from database import BIN, Postgres, postgres
from hub import LocalHub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from schemathesis import GenerationMode
from serving import call, serving
from test_page import scripted

from eco_eval.errors import TooManyUngraded
from eco_eval.instrument import load_instrument
from eco_eval.pipeline import evaluate, submit
from eco_eval.queue import Queue, Quotas, Request, WorkerAbout
from eco_eval.store import LocalStore
from eco_eval.types import ModelRef, Result, Submission

API = {"/health", "/metrics", "/v1/requests", "/v1/requests/{request_id}", "/v1/results", "/v1/results/{result_id}"}
HOSTILE = "<script>alert(1)</script>"


def request(number: int, user: str = "hub:ana") -> Request:
    model = ModelRef(name=f"vecina/rio-{number}", source="hub", revision="a" * 40)
    submission = Submission(
        model=model, system_prompt="Un secreto.", instrument="i", asked_digest="a", measured_digest="m"
    )
    return Request(submission=submission, user=user, engine="transformers")


def filled(queue: Queue) -> None:
    """Four requests: one waits, one runs, one failed and one finished."""
    ids = [queue.submit(request(number), Quotas(per_user=9)).request.id for number in range(4)]
    worker = "maquina-secreta-1"
    queue.beat(worker, WorkerAbout(device="cpu", max_bytes=None, engines=("transformers",), version="0"))
    numbers = [queue.take(request_id, 1, worker)[1] for request_id in ids[1:]]
    queue.progress(ids[1], numbers[0], worker, "judge", 3, 10)
    for request_id, number in zip(ids[2:], numbers[1:], strict=True):
        queue.stage(request_id, number, "answer", 20.0)
        queue.stage(request_id, number, "judge", 10.0)
    error = TooManyUngraded("score.too_many_ungraded", ungraded=3, asked=4, allowed=HOSTILE, causes="off_label")
    queue.fail(ids[2], numbers[1], "judge", error)
    queue.finish(ids[3], numbers[2], ids[3])


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    require(BIN is not None, "PostgreSQL (apt install postgresql)")
    with postgres() as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page with a result and a queue with requests in every state that a worker makes."""
    root = tmp_path_factory.mktemp("api")
    measure = load_instrument("eco-es-demo").limited(4).with_judge_at("0" * 40)
    model = ModelRef(name="vecina/rio-7b", source="hub", revision="a" * 40)
    evaluate(submit(model, measure), measure, scripted("Hola."), LocalStore(root / "data"))
    (root / "data" / "results" / "rota.json").write_text("{")
    url = f"sqlite:///{root / 'data' / '.queue.sqlite'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("server").create(f"q{uuid.uuid4().hex}")
    queue = Queue(url)
    filled(queue)
    queue.close()
    with serving(root, ECO_EVAL_QUEUE_URL=url) as address:
        yield address


# --- what there is


def test_health_says_how_the_service_is(page: str) -> None:
    answer = httpx.get(f"{page}/health")
    found = answer.json()
    assert answer.status_code == 200
    assert {key: found[key] for key in ("status", "database", "store", "pending")} == {
        "status": "ok",
        "database": "ok",
        "store": "ok",
        "pending": 1,
    }
    assert found["oldest_pending_seconds"] > 0


def test_metrics_are_what_the_queue_holds_and_name_nobody(page: str) -> None:
    answer = httpx.get(f"{page}/metrics")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    for state in ("pending", "running", "failed", "finished"):
        assert found["eco_eval_requests", state] == 1
    assert found["eco_eval_requests", "cancelled"] == 0
    assert found["eco_eval_stage_seconds_count", "answer"] == 2
    assert found["eco_eval_stage_seconds_sum", "answer"] == 40
    assert found["eco_eval_stage_seconds_sum", "judge"] == 20
    assert found["eco_eval_failures_total", "score.too_many_ungraded"] == 1
    assert found["eco_eval_oldest_pending_seconds",] > 0
    assert found["eco_eval_database_up",] == 1
    assert ("eco_eval_workers",) in found
    for secret in ("vecina", "rio", "ana", "maquina", "Un secreto"):
        assert secret not in answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_requests_are_read_without_who_asked_and_where_they_run(page: str) -> None:
    answer = httpx.get(f"{page}/v1/requests")
    found = {one["state"]: one for one in answer.json()["requests"]}
    assert set(found) == {"pending", "running", "failed", "finished"}
    assert found["pending"]["position"] == 1
    assert (found["running"]["stage"], found["running"]["done"], found["running"]["total"]) == ("judge", 3, 10)
    assert found["failed"]["cause"] == "score.too_many_ungraded"
    assert HOSTILE in found["failed"]["reason"]
    assert answer.headers["content-type"] == "application/json"
    for secret in ("ana", "maquina", "Un secreto"):
        assert secret not in answer.text
    one = httpx.get(f"{page}/v1/requests/{found['failed']['id']}").json()
    assert one == found["failed"]
    assert [r["state"] for r in httpx.get(f"{page}/v1/requests?state=failed").json()["requests"]] == ["failed"]
    assert len(httpx.get(f"{page}/v1/requests?limit=2&offset=1").json()["requests"]) == 2
    assert call(page, "queue", "", 50, 0) == answer.json()


def test_results_are_read_in_short_and_whole(page: str) -> None:
    found = httpx.get(f"{page}/v1/results").json()
    assert found["unreadable"] == ["results/rota.json"]
    assert found["total"] == len(found["results"]) == 5
    short = next(one for one in found["results"] if one["model"] == "vecina/rio-7b")
    whole = Result.model_validate_json(httpx.get(f"{page}/v1/results/{short['id']}").content)
    assert whole.score.eco.value == short["eco"]["value"]
    assert httpx.get(f"{page}/v1/results/{'0' * 16}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "requests/../../etc/passwd",
        "requests/%2e%2e%2f%2e%2e",
        "results/..%2f..%2fetc%2fpasswd",
        "results/rota",
        "results/%00",
        "results/%ff",
        "requests/ABCDEF0123456789",
        "requests/０１２３４５６７８９ａｂｃｄｅｆ",
        "requests?limit=0",
        "requests?limit=999999999999999999999",
        "requests?offset=-1",
        "requests?state=nope",
        "requests?state=%00",
        "results?limit=1e3",
        "requests/" + "a" * 9000,
    ],
)
def test_what_is_no_id_and_no_number_is_refused(page: str, path: str) -> None:
    assert httpx.get(f"{page}/v1/{path}").status_code in (404, 422)


@pytest.mark.parametrize("path", ["health", "metrics", "v1/requests", "v1/results"])
def test_nothing_is_written_here(page: str, path: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert httpx.request(method, f"{page}/{path}", json={}).status_code == 405


# --- away


@pytest.fixture
def fragile() -> Iterator[Postgres]:
    """A database server to be stopped."""
    require(BIN is not None, "PostgreSQL (apt install postgresql)")
    with postgres() as running:
        yield running


def test_without_a_database_the_rest_of_the_page_lives(fragile: Postgres, tmp_path: Path) -> None:
    address = fragile.create("q")
    with serving(tmp_path, ECO_EVAL_QUEUE_URL=address) as page:
        assert httpx.get(f"{page}/health").json()["database"] == "ok"
        fragile.stop()
        with serving(tmp_path, ECO_EVAL_QUEUE_URL=address) as late:
            for url in (page, late):
                answer = httpx.get(f"{url}/health")
                found = answer.json()
                assert (answer.status_code, found["status"], found["database"]) == (503, "degraded", "away")
                assert "eco_eval_database_up 0.0" in httpx.get(f"{url}/metrics").text
                assert httpx.get(f"{url}/v1/requests").status_code == 503
                assert httpx.get(f"{url}/v1/results").status_code == 200
                assert call(url, "queue", "", 50, 0)["error"] == "queue.unreachable"
                assert call(url, "board", "")["sections"] == []
                assert httpx.get(url).status_code == 200
            fragile.start()
            for url in (page, late):
                assert httpx.get(f"{url}/health").json()["database"] == "ok"
                assert call(url, "queue", "", 50, 0)["requests"] == []


ABSENT = """
import sys

class Absent:
    def find_spec(self, name, *_):
        if name in ("dbos", "sqlalchemy", "prometheus_client"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_without_the_libraries_of_the_service_the_page_only_shows(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    with serving(tmp_path, PYTHONPATH=f"{tmp_path}:{REPO}") as page:
        answer = httpx.get(f"{page}/health")
        assert (answer.status_code, answer.json()["database"]) == (200, "not_installed")
        assert "eco-eval[service]" in httpx.get(f"{page}/metrics").json()["message"]
        assert httpx.get(f"{page}/v1/requests").status_code == 503
        assert call(page, "queue", "", 50, 0)["error"] == "data.extra_missing"
        assert call(page, "board", "")["sections"] == []


def test_without_the_store_health_says_so_and_the_page_lives(hub: LocalHub, tmp_path: Path) -> None:
    hub.add("owner/board", "dataset", {"README.md": b"x"})
    with serving(tmp_path, hub, ECO_EVAL_HUB_REPO="owner/board", ECO_EVAL_HUB_TOKEN=hub.token) as page:
        assert httpx.get(f"{page}/health").json()["store"] == "ok"
        hub.add("owner/board", "dataset", {"README.md": b"y"})
        hub.stop()
        try:
            with serving(tmp_path, hub, ECO_EVAL_HUB_REPO="owner/board", ECO_EVAL_HUB_TOKEN=hub.token) as late:
                answer = httpx.get(f"{late}/health", timeout=60)
                assert (answer.status_code, answer.json()["store"]) == (503, "away")
                assert "error" in call(late, "board", "")
                assert httpx.get(f"{late}/v1/results", timeout=60).status_code == 503
                assert httpx.get(late).status_code == 200
        finally:
            hub.start()


# --- whatever is sent


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_as_the_api_describes_it(page: str, mode: GenerationMode) -> None:
    """Schemathesis' own checks, on what the description allows and on what it forbids."""
    schema = schemathesis.openapi.from_url(f"{page}/v1/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} == API
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.path in ("/health", "/metrics"):
            continue  # they take nothing that could be wrong

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(generation_mode=mode))
        def hold(case: Any) -> None:
            case.call_and_validate()

        hold()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=30),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["submit", "queue", "request", "board", "result", "nada", "check", "look", "<lambda>", "../x", "%00"]
)
ROUTES = st.sampled_from(["run", "api", "call", "call/v2"])
KEYS = ["data", "fn_index", "session_hash", "event_id", "event_data", "trigger_id", "batched", "simple_format"]
WORDS = st.sampled_from([*KEYS, "oauth_token", "model", "limit"])
ENVELOPES = st.dictionaries(WORDS, JSON | st.integers(-2, 60), max_size=6) | JSON
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def post(page: str, path: str, content: bytes | str, **headers: str) -> httpx.Response:
    kind = {"Content-Type": "application/json"} | headers
    answer = httpx.post(f"{page}/gradio_api/{path}", content=content, headers=kind, timeout=60)
    assert answer.status_code < 500, (path, content, answer.text)
    return answer


@FUZZ
@given(ROUTES, NAMES, ENVELOPES)
def test_no_envelope_is_a_server_error(page: str, route: str, name: str, envelope: Any) -> None:
    post(page, f"{route}/{name}", json.dumps(envelope))


@FUZZ
@given(st.integers(0, 60), st.lists(JSON, max_size=7), st.text("ab-/.", max_size=4), st.none() | st.integers(-5, 90))
def test_no_event_of_the_page_is_a_server_error(
    page: str, index: int, values: list[Any], session: str, trigger: int | None
) -> None:
    body = {"data": values, "fn_index": index, "session_hash": session or "s", "trigger_id": trigger}
    for path in ("queue/join", "run/predict"):
        post(page, path, json.dumps(body))


@FUZZ
@given(st.sampled_from(["submit", "queue", "request", "result"]), st.data())
def test_no_value_in_a_well_formed_envelope_is_a_server_error(page: str, name: str, data: st.DataObject) -> None:
    takes = {"submit": 5, "queue": 3, "request": 1, "result": 1}[name]
    plain = st.none() | st.booleans() | st.integers(-(2**52), 2**52) | st.text(st.characters(), max_size=200)
    values = data.draw(st.lists(plain | st.lists(plain, max_size=3), min_size=takes, max_size=takes))
    event = post(page, f"call/{name}", json.dumps({"data": values})).json()["event_id"]
    told = httpx.get(f"{page}/gradio_api/call/{name}/{event}", timeout=60)
    assert told.status_code == 200
    assert told.text.startswith("event: complete"), (values, told.text)


@FUZZ
@given(st.binary(max_size=200), ROUTES, st.sampled_from(["application/json", "text/plain", "", "a/b; charset=x"]))
def test_no_bytes_are_a_server_error(page: str, content: bytes, route: str, kind: str) -> None:
    post(page, f"{route}/submit", content, **{"Content-Type": kind})


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"data":' * 50_000, "9" * 10_000, '{"data":["\\ud800"]}', '{"data":[1e999]}', "\0"]
)
def test_no_monster_is_a_server_error(page: str, content: str) -> None:
    for route in ("run", "call", "call/v2"):
        post(page, f"{route}/submit", content)


@pytest.mark.parametrize(
    "content", ['{"data":[1e999]}', '{"data":[NaN]}', '{"data":[{}]}', '{"data":[[[]]]}', '{"data":["a","b"]}']
)
def test_a_value_that_no_endpoint_takes_is_refused(page: str, content: str) -> None:
    assert post(page, "call/request", content).status_code == 422


def test_more_than_two_megabytes_are_refused_before_they_are_read(page: str) -> None:
    body = json.dumps({"data": ["x" * 3_000_000]})
    assert post(page, "call/request", body).status_code == 413


@pytest.mark.parametrize(
    "path", ["upload", "stream/x", "component_server", "process_recording", "vibe-edit", "login", "x"]
)
def test_what_the_page_does_not_use_is_not_there(page: str, path: str) -> None:
    assert post(page, path, "{}").status_code == 404
    files = {"files": ("x.txt", b"x")}
    assert httpx.post(f"{page}/gradio_api/{path}", files=files).status_code in (404, 415)


@FUZZ
@given(NAMES, st.text("abc0123-./%", max_size=20))
def test_no_event_id_is_a_server_error(page: str, name: str, event: str) -> None:
    with httpx.stream("GET", f"{page}/gradio_api/call/{name}/{event}x", timeout=20) as answer:
        assert answer.status_code < 500
