"""The endpoint engine against a real local server that answers what each test tells it to."""

from __future__ import annotations

import json
import logging
import math
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from eco_eval.engines.endpoint import EndpointEngine
from eco_eval.errors import EcoEvalError, EngineError, InputError
from eco_eval.types import Completion, Conversation, Decoding, EngineInfo, Failure, LabelScores, Message

KEY = "sk-very-secret-0123456789"
LABELS = ("buena", "regular", "mala")
GREEDY = Decoding(max_tokens=8)


@dataclass
class Reply:
    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


@dataclass
class Server:
    """What the server answers (from a list whose last item repeats, or by a function) and was asked."""

    url: str = ""
    answer: list[Reply] | Callable[[dict[str, Any]], Reply] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self.lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            if callable(self.answer):
                return self.answer(body)
            return self.answer.pop(0) if len(self.answer) > 1 else self.answer[0]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = state.reply(body, {name.lower(): value for name, value in self.headers.items()})
            with state.lock:
                state.running += 1
                state.most_running = max(state.most_running, state.running)
            time.sleep(reply.delay)
            with state.lock:
                state.running -= 1
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(data)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError):  # The client did not wait.
                super().handle()

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}/v1"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def engine(server: Server | str, **options: Any) -> EndpointEngine:
    url = server if isinstance(server, str) else server.url
    return EndpointEngine(**{"model": "m", "base_url": url, "max_retries": 0, "timeout": 5.0, **options})


def conversations(*texts: str) -> list[Conversation]:
    return [(Message(role="user", content=text),) for text in texts]


def says(text: Any, finish: str = "stop", logprobs: Any = None, delay: float = 0.0, **message: Any) -> Reply:
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    body = {"choices": [{**choice, "logprobs": logprobs}], "usage": {"completion_tokens": 3}}
    return Reply(body=body, delay=delay)


def logprobs_of(*steps: dict[str, float]) -> dict[str, Any]:
    content = []
    for step in steps:
        pairs = [{"token": token, "logprob": math.log(p)} for token, p in step.items()]
        content.append({**pairs[0], "top_logprobs": pairs})
    return {"content": content}


def complete(engine: EndpointEngine, *texts: str, decoding: Decoding = GREEDY) -> dict[int, Completion | Failure]:
    return dict(engine.complete(conversations(*(texts or ("hola",))), decoding))


def score(engine: EndpointEngine, *texts: str) -> dict[int, LabelScores | Failure]:
    return dict(engine.score_labels(conversations(*(texts or ("hola",))), LABELS))


# --- completions


def test_the_decoding_is_sent_and_the_message_read(server: Server) -> None:
    server.answer = [says("Riega de noche.")]
    schema = {"type": "object", "properties": {}}
    decoding = Decoding(max_tokens=50, temperature=0.7, seed=3, json_schema=schema)
    with engine(server, extra_body={"top_k": 5, "seed": None}) as opened:
        assert complete(opened, decoding=decoding) == {0: Completion(text="Riega de noche.", tokens=3)}
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hola"}],
            "temperature": 0.7,
            "max_tokens": 50,
            "top_k": 5,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema, "strict": True},
            },
        }
    ]


@pytest.mark.parametrize(
    "reply",
    [
        says("Sí.", reasoning_content="Pienso."),
        says("Sí.", reasoning="Pienso."),
        says("<think>Pienso.</think>Sí."),
        says([{"type": "text", "text": "<think>Pienso.</think>"}, {"type": "text", "text": "Sí."}]),
    ],
)
def test_reasoning_is_kept_apart_wherever_the_server_puts_it(server: Server, reply: Reply) -> None:
    server.answer = [reply]
    with engine(server) as opened:
        assert complete(opened)[0] == Completion(text="Sí.", reasoning="Pienso.", tokens=3)


def test_a_reply_cut_by_the_limit_is_truncated(server: Server) -> None:
    server.answer = [says("Sí, per", finish="length")]
    with engine(server) as opened:
        assert complete(opened)[0] == Completion(text="Sí, per", truncated=True, tokens=3)


def test_a_refusal_is_what_the_model_said_and_a_filtered_reply_is_a_failure(server: Server) -> None:
    server.answer = [says(None, refusal="No puedo."), says("Sí, pe", finish="content_filter")]
    with engine(server) as opened:
        assert complete(opened)[0] == Completion(text="No puedo.", tokens=3)
        assert complete(opened)[0] == Failure(cause="rejected", detail="content_filter")


def test_results_come_as_they_end_and_skip_is_honoured(server: Server) -> None:
    server.answer = lambda body: says("ok", delay=0.5 if "slow" in body["messages"][0]["content"] else 0.0)
    with engine(server) as opened:
        found = [index for index, _ in opened.complete(conversations("slow", "x", "b", "c"), GREEDY, skip={1})]
    assert found[-1] == 0
    assert sorted(found) == [0, 2, 3]
    assert len(server.bodies) == 3


def test_concurrency_is_bounded(server: Server) -> None:
    server.answer = [says("ok", delay=0.05)]
    with engine(server, concurrency=3) as opened:
        assert len(complete(opened, *"abcdefghijkl")) == 12
    assert server.most_running == 3


def test_closing_the_iterator_cancels_what_has_not_begun(server: Server) -> None:
    server.answer = [says("ok", delay=0.05)]
    with engine(server, concurrency=1) as opened:
        results = opened.complete(conversations(*"abcdefghijkl"), GREEDY)
        next(results)
        results.close()
        time.sleep(0.3)
    assert len(server.bodies) <= 3


def test_an_error_cancels_what_has_not_begun(server: Server) -> None:
    server.answer = [Reply({"error": {"message": "no"}}, status=401, delay=0.05)]
    with engine(server, concurrency=1) as opened, pytest.raises(InputError):
        complete(opened, *"abcdefghijkl")
    assert len(server.bodies) <= 3


def test_closing_the_engine_cuts_requests_under_way(server: Server) -> None:
    server.answer = [says("ok", delay=3.0)]
    opened = engine(server)
    closing = threading.Timer(0.3, opened.close)
    closing.start()
    started = time.monotonic()
    with pytest.raises(EngineError):
        complete(opened, "a", "b")
    assert time.monotonic() - started < 2


def test_nothing_is_sent_before_the_first_result_is_asked_for(server: Server) -> None:
    with engine(server) as opened:
        opened.complete(conversations("a"), GREEDY)
    assert server.bodies == []


# --- label probabilities


def test_label_probabilities_are_read_from_the_first_token(server: Server) -> None:
    server.answer = [says("buena", logprobs=logprobs_of({"bu": 0.5, " Mala": 0.2, "reg": 0.1, "pues": 0.1}))]
    with engine(server) as opened:
        scores = score(opened)[0]
    assert isinstance(scores, LabelScores)
    assert scores.probabilities == pytest.approx((0.625, 0.125, 0.25))
    assert scores.mass == pytest.approx(0.8)
    assert (scores.label, scores.source) == ("buena", "logprobs")
    assert server.bodies[0]["logprobs"] is True
    assert server.bodies[0]["top_logprobs"] == 20
    assert server.bodies[0]["temperature"] == 0.0


@pytest.mark.parametrize(
    "first",
    [
        says("buena"),
        says("buena", logprobs={"content": None}),
        says("buena", logprobs={"content": [{"token": "buena", "logprob": -0.1, "top_logprobs": []}]}),
        Reply({"error": {"message": "logprobs is not supported by this model"}}, status=400),
        Reply({"detail": [{"loc": ["body", "top_logprobs"], "msg": "Extra inputs"}]}, status=422),
    ],
)
def test_a_server_without_logprobs_chooses_and_is_not_asked_for_them_again(server: Server, first: Reply) -> None:
    server.answer = [first, says('{"label": "regular"}'), says('{"label":"mala"}')]
    with engine(server) as opened:
        assert score(opened)[0] == LabelScores(label="regular", probabilities=None, mass=None, source="hard")
        assert score(opened)[0] == LabelScores(label="mala", probabilities=None, mass=None, source="hard")
    assert ["logprobs" in body for body in server.bodies] == [True, False, False]
    choice = server.bodies[1]["response_format"]["json_schema"]["schema"]
    assert choice["properties"]["label"]["enum"] == list(LABELS)


@pytest.mark.parametrize("text", ["buena", '{"label": "óptima"}', '{"label": ["buena"]}', "[" * 9000, "null", ""])
def test_a_choice_that_cannot_be_read_is_a_failure(server: Server, text: str) -> None:
    server.answer = [says("x"), says(text)]
    with engine(server) as opened:
        assert score(opened)[0] == Failure(cause="unreadable", detail=text[:300])


@pytest.mark.parametrize("logprob", [-0.1, -9999.0])
def test_a_first_token_that_begins_no_label_is_a_failure(server: Server, logprob: float) -> None:
    text = "buena" if logprob < -1000 else "pues"
    token = {"token": text, "logprob": logprob}
    server.answer = [says("hm", logprobs={"content": [{**token, "top_logprobs": [token]}]})]
    with engine(server) as opened:
        assert score(opened)[0] == Failure(cause="unreadable", detail=text)
    assert len(server.bodies) == 1


def test_a_nan_among_the_masses_is_a_failure(server: Server) -> None:
    logprobs = logprobs_of({"buena": 0.5, "mala": 0.5})
    logprobs["content"][0]["top_logprobs"][1]["logprob"] = math.nan
    server.answer = [says("buena", logprobs=logprobs)]
    with engine(server) as opened:
        assert score(opened)[0] == Failure(cause="unreadable", detail="buena")


# --- failures of one conversation


@pytest.mark.parametrize(
    ("status", "message", "cause"),
    [
        (400, "This model's maximum context length is 512 tokens. However, you requested 600.", "too_long"),
        (400, "the request exceeds the available context size", "too_long"),
        (413, "Payload Too Large", "too_long"),
        (400, "content was flagged " * 30, "rejected"),
        (422, "Input should be a valid string", "rejected"),
    ],
)
def test_a_refused_conversation_is_a_failure_and_the_others_go_on(
    server: Server, status: int, message: str, cause: str
) -> None:
    bad = Reply({"error": {"message": message, "code": status}}, status=status)
    server.answer = lambda body: bad if body["messages"][0]["content"] == "bad" else says("ok")
    with engine(server) as opened:
        assert complete(opened, "bad", "good") == {
            0: Failure(cause=cause, detail=message[:300]),
            1: Completion(text="ok", tokens=3),
        }


# --- failures of the server


def raised(opened: EndpointEngine) -> EcoEvalError:
    with opened, pytest.raises(EcoEvalError) as caught:
        complete(opened)
    return caught.value


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply({"error": {"message": "no"}}, status=401), InputError("endpoint.auth", url="URL")),
        (Reply({"error": {"message": "no"}}, status=403), InputError("endpoint.auth", url="URL")),
        (
            Reply({"error": {"message": "no"}}, status=404),
            InputError("endpoint.no_model", url="URL", model="m"),
        ),
        (
            Reply(b"<html>" + b"x" * 200),
            EngineError("endpoint.not_openai", url="URL", got="<html>" + "x" * 74),
        ),
        (Reply({"models": []}), EngineError("endpoint.not_openai", url="URL", got='{"models": []}')),
        (
            Reply({"choices": [{"message": None}]}),
            EngineError("endpoint.not_openai", url="URL", got='{"choices": [{"message": null}]}'),
        ),
        (Reply({"choices": []}), EngineError("endpoint.not_openai", url="URL", got='{"choices": []}')),
        (Reply([1]), EngineError("endpoint.not_openai", url="URL", got="[1]")),
        (
            Reply({"choices": [{"text": "hi"}]}),
            EngineError("endpoint.not_openai", url="URL", got='{"choices": [{"text": "hi"}]}'),
        ),
        (
            Reply(b"", status=302, headers={"Location": "http://elsewhere/"}),
            EngineError("endpoint.not_openai", url="URL", got="HTTP 302 http://elsewhere/"),
        ),
        (Reply({}, status=402), EngineError("endpoint.failing", url="URL", status=402)),
        (Reply({}, status=500), EngineError("endpoint.failing", retryable=True, url="URL", status=500)),
        (Reply({}, status=429), EngineError("endpoint.failing", retryable=True, url="URL", status=429)),
    ],
)
def test_each_failure_of_the_server_has_its_name(server: Server, reply: Reply, expected: EcoEvalError) -> None:
    server.answer = [reply]
    error = raised(engine(server))
    values = {**expected.values, "url": server.url}
    assert (type(error), error.key, error.values) == (type(expected), expected.key, values)
    assert getattr(error, "retryable", None) == getattr(expected, "retryable", None)
    assert error.__cause__ is not None


def test_a_refused_connection_is_a_server_that_is_down() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        error = raised(engine(url))
    assert isinstance(error, EngineError)
    assert (error.key, error.values, error.retryable) == ("endpoint.down", {"url": url}, True)


def test_a_reply_that_does_not_come_is_a_slow_server(server: Server) -> None:
    server.answer = [says("ok", delay=1.0)]
    error = raised(engine(server, timeout=0.2))
    assert isinstance(error, EngineError)
    assert error.retryable
    assert (error.key, error.values) == ("endpoint.slow", {"url": server.url, "seconds": 0.2})


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "",
        "ftp://host/v1",
        "http://u:pw@host/v1",
        "http://u:pw@ho st:x/v1",
        "http://h/v1?key=pw",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError) as caught:
        engine(url)
    assert caught.value.key == "endpoint.bad_url"
    assert "pw" not in str(caught.value)


# --- retries


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds_is_honoured(server: Server, status: int) -> None:
    server.answer = [Reply({}, status=status, headers={"Retry-After": "1.2"}), says("ok")]
    with engine(server, max_retries=1) as opened:
        assert complete(opened)[0] == Completion(text="ok", tokens=3)
    assert 1.2 <= server.times[1] - server.times[0] < 3


def test_retry_after_as_a_date_is_honoured(server: Server) -> None:
    # Dates have whole seconds: three from now are more than two.
    date = formatdate(time.time() + 3, usegmt=True)
    server.answer = [Reply({}, status=429, headers={"Retry-After": date}), says("ok")]
    with engine(server, max_retries=1) as opened:
        assert complete(opened)[0] == Completion(text="ok", tokens=3)
    assert 1.8 <= server.times[1] - server.times[0] < 5


def test_a_server_that_asks_for_more_than_two_minutes_is_not_retried(server: Server) -> None:
    server.answer = [Reply({}, status=429, headers={"Retry-After": "121"})]
    assert raised(engine(server, max_retries=5)).values["status"] == 429
    assert len(server.bodies) == 1


def test_errors_of_the_server_are_retried_with_back_off_and_then_named(server: Server) -> None:
    server.answer = [Reply({}, status=500)]
    assert raised(engine(server, max_retries=2)).key == "endpoint.failing"
    first, second = (b - a for a, b in zip(server.times, server.times[1:], strict=False))
    assert 0.3 < first < second


def test_a_timeout_is_retried(server: Server) -> None:
    server.answer = [says("late", delay=1.0), says("ok")]
    with engine(server, max_retries=1, timeout=0.3) as opened:
        assert complete(opened)[0] == Completion(text="ok", tokens=3)


# --- secrets and the environment


@pytest.fixture
def busy_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OPENAI_API_KEY": "sk-from-environment",
        "OPENAI_ADMIN_KEY": "sk-from-environment",
        "OPENAI_BASE_URL": "http://from-environment.invalid/v1",
        "OPENAI_ORG_ID": "from-environment",
        "OPENAI_PROJECT_ID": "from-environment",
        "OPENAI_CUSTOM_HEADERS": "X-Extra: from-environment\nAuthorization: Bearer sk-from-environment",
        "HTTP_PROXY": "http://from-environment.invalid:1",
        "ALL_PROXY": "http://from-environment.invalid:1",
    }.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.lower(), value) if "PROXY" in name else None


@pytest.mark.parametrize(("key", "sent"), [(None, None), (KEY, f"Bearer {KEY}")])
@pytest.mark.usefixtures("busy_environment")
def test_nothing_of_the_process_environment_is_sent(server: Server, key: str | None, sent: str | None) -> None:
    server.answer = [says("ok")]
    with engine(server, api_key=key) as opened:
        complete(opened)
    headers = server.headers[0]
    assert headers.get("authorization") == sent
    assert "from-environment" not in str(headers)
    assert set(headers) <= {
        "host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length",
        "authorization",
    }  # fmt: skip


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 418, 422, 429, 500])
def test_the_key_never_appears(server: Server, status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.answer = [
        Reply({"error": {"message": f"Bad key {KEY}"}}, status=status, headers={"Location": f"http://{KEY}/"})
    ]
    opened = engine(server, api_key=KEY)
    shown = [repr(opened), repr(vars(opened)), repr(opened.info)]
    try:
        shown.append(repr(complete(opened)))
    except EcoEvalError as error:
        shown += [str(error), repr(error), *traceback.format_exception(error)]
    assert KEY not in "".join(shown)
    assert f"Bearer {KEY}" not in caplog.text
    opened.close()


@pytest.mark.parametrize("key", ["", "two words", "line\n", "ñandú"])
def test_a_key_no_header_can_carry_is_refused_before_it_is_quoted(key: str) -> None:
    with pytest.raises(InputError) as caught:
        engine("http://127.0.0.1:1/v1", api_key=key)
    assert caught.value.key == "endpoint.bad_key"
    assert not key or key not in str(caught.value)


def test_info_names_the_host_and_no_more() -> None:
    with engine("https://models.example.org:8443/v1", api_key=KEY) as opened:
        info = opened.info
    assert info == EngineInfo(
        engine="endpoint", version=info.version, model="m", dtype="unknown", device="models.example.org"
    )
