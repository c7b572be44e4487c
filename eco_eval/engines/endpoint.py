"""Any OpenAI-compatible server, local or hosted, as an engine."""

from __future__ import annotations

import json
import re
import socket
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from eco_eval.engines import chat
from eco_eval.engines.labels import TokenChoice, first_token_scores
from eco_eval.errors import EcoEvalError, EngineError, InputError
from eco_eval.types import Completion, Conversation, Decoding, EngineInfo, Failure, LabelScores

if TYPE_CHECKING:
    import httpx2
    import openai

_Outcome = TypeVar("_Outcome")

_TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window)|max_model_len|too long|(number of|input|prompt) tokens", re.IGNORECASE
)
# What a request may carry besides the key. The SDK adds headers of its own and, worse, those it finds in
# OPENAI_CUSTOM_HEADERS, OPENAI_ORG_ID and OPENAI_PROJECT_ID.
_HEADERS = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length"}
_TRANSIENT = {408, 409, 425, 429}
_DETAIL, _GOT = 300, 80

# Room for a quotation mark or a space before the label.
_LABEL_TOKENS = 4
# Room for hidden reasoning; a constrained reply ends by itself long before.
_CHOICE_TOKENS = 1024


def run_concurrently(
    work: Callable[[int], _Outcome], indices: Sequence[int], concurrency: int
) -> Iterator[tuple[int, _Outcome]]:
    """Yield `(index, work(index))` as each ends, at most `concurrency` at a time.

    An error in `work`, or closing the iterator, cancels what has not begun; what has begun is not waited for.
    """
    executor = ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="engine")
    try:
        futures = {executor.submit(work, index): index for index in indices}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def remaining(conversations: Sequence[Conversation], skip: Collection[int]) -> list[int]:
    """The indices to work on."""
    known = set(skip)
    return [index for index in range(len(conversations)) if index not in known]


class ApiClient:
    """Posts JSON to one OpenAI-compatible server; retries, and translates every failure here and only here.

    The SDK retries 408, 409, 429, 5xx, timeouts and lost connections, waiting 0.5 s doubled up to 8 s, or as
    long as `Retry-After` says (seconds or a date) up to 120 s; a server asking for more is not retried.

    Raises:
        InputError: the address or the key cannot be one.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str,
        api_key: str | None,
        concurrency: int,
        timeout: float,
        max_retries: int,
    ) -> None:
        import httpx2
        import openai

        address = _address(base_url)
        self.url, self.host, self._model, self._timeout = base_url, address.host, model, timeout
        self._key = _checked_key(api_key, base_url)
        self._sdk = openai.OpenAI(
            base_url=base_url,
            api_key=self._key or "none",
            admin_api_key="",
            webhook_secret="",
            timeout=httpx2.Timeout(timeout, connect=min(timeout, 10.0)),
            max_retries=max_retries,
            http_client=httpx2.Client(
                # A proxy of the environment leads out of the machine, never back to it.
                trust_env=not _is_loopback(address.host),
                limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
                event_hooks={"request": [self._prepare]},
            ),
        )
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._noting = threading.Lock()

    def _prepare(self, request: httpx2.Request) -> None:
        for name in set(request.headers) - _HEADERS:
            del request.headers[name]
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        request.extensions = {**request.extensions, "trace": self._note_socket}

    def _note_socket(self, event: str, details: Mapping[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            with self._noting:
                self._sockets.add(details["return_value"].get_extra_info("socket"))

    def close(self) -> None:
        """Cut every connection: requests under way fail, and are not retried."""
        # Closing the SDK alone leaves threads waiting for a reply, and a server waiting for those threads.
        with self._noting:
            for connection in self._sockets:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._sdk.close()

    def post(self, path: str, body: Mapping[str, Any], field: str) -> dict[str, Any] | Failure:
        """Post a request and return the server's reply, whose first choice has the field named.

        Returns:
            The reply, or a `Failure` where the server refused this one request.

        Raises:
            InputError: the key or the model is wrong.
            EngineError: the server cannot be used.
        """
        import httpx2
        import openai

        try:
            response = self._sdk.post(path, cast_to=httpx2.Response, body=dict(body))
        except openai.APIError as error:
            refusal = self._refusal(error)
            if refusal is not None:
                return refusal
            # A server may echo the key in its message, and a cause is printed with its message.
            leaks = self._key is not None and self._key in str(error)
            raise self._error(error) from (None if leaks else error)
        try:
            reply: dict[str, Any] = json.loads(response.content)
            if not isinstance(reply["choices"][0][field], dict | list):
                raise TypeError(field)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            got = self._quote(response.text, _GOT)
            raise EngineError("endpoint.not_openai", url=self.url, got=got) from error
        return reply

    def _refusal(self, error: openai.APIError) -> Failure | None:
        """The failure of one conversation, or None where the server as a whole fails."""
        import openai

        if not isinstance(error, openai.APIStatusError) or error.status_code not in (400, 413, 422):
            return None
        message = error.body.get("message") if isinstance(error.body, dict) else None
        detail = self._quote(message if isinstance(message, str) else error.response.text, _DETAIL)
        is_too_long = error.status_code == 413 or _TOO_LONG.search(detail)
        return Failure(cause="too_long" if is_too_long else "rejected", detail=detail)

    def _error(self, error: openai.APIError) -> EcoEvalError:
        import openai

        if isinstance(error, openai.APITimeoutError):
            return EngineError("endpoint.slow", retryable=True, url=self.url, seconds=self._timeout)
        if not isinstance(error, openai.APIStatusError):
            return EngineError("endpoint.down", retryable=True, url=self.url)
        status = error.status_code
        if status in (401, 403):
            return InputError("endpoint.auth", url=self.url)
        if status == 404:
            return InputError("endpoint.no_model", url=self.url, model=self._model)
        if status < 400:
            # Followed, a redirection would carry conversations to a server nobody named.
            got = self._quote(f"HTTP {status} {error.response.headers.get('location', '')}", _GOT)
            return EngineError("endpoint.not_openai", url=self.url, got=got)
        retryable = status in _TRANSIENT or status >= 500
        return EngineError("endpoint.failing", retryable=retryable, url=self.url, status=status)

    def _quote(self, text: str, length: int) -> str:
        return (text.replace(self._key, "***") if self._key else text)[:length]


def _address(base_url: str) -> httpx2.URL:
    import httpx2

    # What is shown of an address holds neither a password nor a query.
    refusal = InputError("endpoint.bad_url", url=base_url.rpartition("@")[2].partition("?")[0])
    try:
        address = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        raise refusal from None
    if address.scheme not in ("http", "https") or not address.host or address.userinfo or address.query:
        raise refusal
    return address


def _checked_key(api_key: str | None, base_url: str) -> str | None:
    # The HTTP library quotes an illegal header, key and all, in its error.
    if api_key is not None and not re.fullmatch(r"[!-~]+", api_key):
        raise InputError("endpoint.bad_key", url=base_url)
    return api_key


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


class EndpointEngine:
    """An engine over the chat completions of any OpenAI-compatible server.

    Args:
        model: the name the server knows the model by.
        base_url: the address up to and including `/v1`.
        api_key: sent as a bearer token; None sends none. Of the process environment only a proxy and its
            certificates are used, and those not for a server on this machine.
        concurrency: most requests under way at a time.
        timeout: seconds to wait for one reply.
        max_retries: attempts after the first.
        extra_body: fields added to every request; a None removes a field.

    Raises:
        InputError: `endpoint.bad_url` or `endpoint.bad_key`.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout: float = 120.0,
        max_retries: int = 5,
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        self._model, self._concurrency, self._extra = model, concurrency, dict(extra_body or {})
        self._gives_logprobs = True
        self._client = ApiClient(
            model=model,
            base_url=base_url,
            api_key=api_key,
            concurrency=concurrency,
            timeout=timeout,
            max_retries=max_retries,
        )

    def __enter__(self) -> EndpointEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections; the engine cannot be used again."""
        self._client.close()

    @property
    def info(self) -> EngineInfo:
        """Which SDK and which host; what runs behind the host is not known."""
        import openai

        return EngineInfo(
            engine="endpoint",
            version=openai.__version__,
            model=self._model,
            dtype="unknown",
            device=self._client.host,
        )

    def complete(
        self, conversations: Sequence[Conversation], decoding: Decoding, skip: Collection[int] = ()
    ) -> Iterator[tuple[int, Completion | Failure]]:
        """Continue each conversation with one assistant message; see `Engine`."""
        wanted: dict[str, Any] = {
            "temperature": decoding.temperature,
            "seed": decoding.seed,
            "max_tokens": decoding.max_tokens,
        }
        if decoding.json_schema is not None:
            wanted["response_format"] = _response_format("answer", decoding.json_schema)

        def work(index: int) -> Completion | Failure:
            reply = self._ask(conversations[index], wanted)
            return reply if isinstance(reply, Failure) else _read_message(reply)

        return run_concurrently(work, remaining(conversations, skip), self._concurrency)

    def score_labels(
        self, conversations: Sequence[Conversation], labels: Sequence[str], skip: Collection[int] = ()
    ) -> Iterator[tuple[int, LabelScores | Failure]]:
        """The probability of each label, read from the first tokens' alternatives; see `Engine`.

        A server without log-probabilities makes a constrained choice instead, and is asked no more for them.
        """

        def work(index: int) -> LabelScores | Failure:
            scores = self._score(conversations[index], labels) if self._gives_logprobs else None
            if scores is not None:
                return scores
            choice = self._choose(conversations[index], labels)
            if isinstance(choice, LabelScores):
                self._gives_logprobs = False
            return choice

        return run_concurrently(work, remaining(conversations, skip), self._concurrency)

    def _ask(self, conversation: Conversation, wanted: Mapping[str, Any]) -> dict[str, Any] | Failure:
        messages = [message.model_dump() for message in conversation]
        body = {"model": self._model, "messages": messages, **wanted, **self._extra}
        given = {name: value for name, value in body.items() if value is not None}
        return self._client.post("/chat/completions", given, "message")

    def _score(self, conversation: Conversation, labels: Sequence[str]) -> LabelScores | Failure | None:
        """None where the server gives no log-probabilities."""
        reply = self._ask(
            conversation,
            {"temperature": 0.0, "max_tokens": _LABEL_TOKENS, "logprobs": True, "top_logprobs": 20},
        )
        if isinstance(reply, Failure):
            return None if "logprobs" in reply.detail else reply
        choices = _token_choices(reply["choices"][0])
        if choices is None:
            return None
        written = "".join(choice.token for choice in choices)
        return first_token_scores(labels, choices) or Failure(cause="unreadable", detail=written[:_DETAIL])

    def _choose(self, conversation: Conversation, labels: Sequence[str]) -> LabelScores | Failure:
        schema = {
            "type": "object",
            "properties": {"label": {"type": "string", "enum": list(labels)}},
            "required": ["label"],
            "additionalProperties": False,
        }
        wanted = {"max_tokens": _CHOICE_TOKENS, "response_format": _response_format("choice", schema)}
        reply = self._ask(conversation, {"temperature": 0.0, **wanted})
        completion = reply if isinstance(reply, Failure) else _read_message(reply)
        if isinstance(completion, Failure):
            return completion
        try:
            label = json.loads(completion.text)["label"]
        except (ValueError, TypeError, LookupError, RecursionError):
            label = None
        if label not in labels:
            return Failure(cause="unreadable", detail=completion.text[:_DETAIL])
        return LabelScores(label=label, probabilities=None, mass=None, source="hard")


def _response_format(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def _read_message(reply: Mapping[str, Any]) -> Completion | Failure:
    choice = reply["choices"][0]
    message, reason = choice["message"], choice.get("finish_reason")
    if reason == "content_filter":
        return Failure(cause="rejected", detail=reason)
    completion = chat.read_completion(
        _text(message.get("content")) or _text(message.get("refusal")),
        opened=None,
        truncated=reason == "length",
        tokens=(reply.get("usage") or {}).get("completion_tokens") or 0,
    )
    apart = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    thoughts = [thought for thought in (apart.strip(), completion.reasoning) if thought]
    return completion.model_copy(update={"reasoning": "\n\n".join(thoughts) or None})


def _text(content: object) -> str:
    """The text of a message's content, which some servers give as a list of parts."""
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _token_choices(choice: Mapping[str, Any]) -> list[TokenChoice] | None:
    """The tokens of a reply with their alternatives; None where the server gives none in this form."""
    try:
        return [_token_choice(token) for token in choice["logprobs"]["content"]]
    except (KeyError, TypeError, ValueError):
        return None


def _token_choice(token: Mapping[str, Any]) -> TokenChoice:
    alternatives = tuple((str(other["token"]), float(other["logprob"])) for other in token["top_logprobs"])
    if not alternatives:
        raise ValueError("No alternatives.")
    return TokenChoice(str(token["token"]), float(token["logprob"]), alternatives)
