"""What of a stranger's HTTP Gradio gets to see.

Gradio answers a body that its endpoints cannot take with 500, after running into an error of its own. Here such a body
is answered 4xx before, what Gradio gets is written anew from what was checked, and of its many POST routes only those
that the page uses are there: nothing can be uploaded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = "/gradio_api/"

LARGEST = 2 * 1024 * 1024
"""Bytes of a body."""

_SESSION = re.compile(r"[A-Za-z0-9_-]{1,100}")


class Refusal(Exception):
    """Why a body is not passed on."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Guard:
    """ASGI middleware before Gradio's own routes.

    Args:
        blocks: the page, whose endpoints say how many values they take.
    """

    def __init__(self, app: ASGIApp, blocks: Any) -> None:
        self._app = app
        self._blocks = blocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            body = self._checked(scope, await _read(receive))
        except Refusal as refusal:
            await JSONResponse({"detail": refusal.detail}, refusal.status)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    def _checked(self, scope: Scope, body: bytes) -> bytes:
        path = str(scope["path"]).rstrip("/")
        if not path.startswith(PREFIX):
            return body
        sent = _json(scope, body)
        match path.removeprefix(PREFIX).split("/"):
            case ["queue", "join"]:
                return _written(self._envelope(sent, None))
            case ["run" | "api" | "call", name]:
                return _written(self._envelope(sent, name))
            case ["call", "v2", name]:
                return _written(self._arguments(sent, name))
            case ["cancel" | "reset"]:
                return _written({key: _word(sent.get(key), key) for key in _KEYS & set(sent)})
        raise Refusal(404, "There is no such endpoint.")

    def _envelope(self, sent: Mapping[str, Any], name: str | None) -> dict[str, Any]:
        """`data` with as many values as the endpoint takes, and what says whose session and which event it is."""
        index = sent.get("fn_index")
        # What only runs in the browser has no function here, and calling it would be an error of Gradio's own.
        there = [fn for fn in self._blocks.fns.values() if fn.fn is not None]
        found = [fn for fn in there if (fn.api_name == name if index is None else fn._id == index)]
        if isinstance(index, bool) or not found:
            raise Refusal(404, "There is no such endpoint.")
        fn, data = found[0], sent.get("data")
        takes = {len(fn.inputs), sum(not block.skip_api for block in fn.inputs)}
        if not isinstance(data, list) or len(data) not in takes:
            raise Refusal(422, f"data: a list of {max(takes)} values is wanted.")
        if not all(_is_plain(value) for value in data):
            raise Refusal(422, "data: values are texts, numbers, true, false, null, or lists of these.")
        passed: dict[str, Any] = {"data": data}
        if sent.get("session_hash") is not None:
            passed["session_hash"] = _word(sent["session_hash"], "session_hash")
        if index is not None:
            trigger = sent.get("trigger_id")
            known = isinstance(trigger, int) and trigger in self._blocks.blocks
            passed |= {"fn_index": fn._id, "trigger_id": trigger if known else None}
        return passed

    def _arguments(self, sent: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Values by the names of the endpoint's parameters."""
        public = self._blocks.get_api_info()["named_endpoints"].get(f"/{name}")
        if public is None:
            raise Refusal(404, "There is no such endpoint.")
        takes = {one["parameter_name"]: one["parameter_has_default"] for one in public["parameters"]}
        missing = [key for key, has_default in takes.items() if not has_default and key not in sent]
        if missing or not set(sent) <= set(takes):
            raise Refusal(422, f"The parameters are: {', '.join(takes)}.")
        if not all(_is_plain(value) for value in sent.values()):
            raise Refusal(422, "Values are texts, numbers, true, false, null, or lists of these.")
        return dict(sent)


_KEYS = {"session_hash", "fn_index", "event_id"}


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LARGEST:
            raise Refusal(413, f"At most {LARGEST} bytes.")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _json(scope: Scope, body: bytes) -> dict[str, Any]:
    kinds = [value for key, value in scope["headers"] if key.lower() == b"content-type"]
    # A form or plain text is what another site's page can make a browser send without being asked whether it may.
    if not kinds or kinds[0].split(b";")[0].strip().lower() != b"application/json":
        raise Refusal(415, "application/json is wanted.")
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(422, "This is not JSON.") from error
    if not isinstance(sent, dict):
        raise Refusal(422, "A JSON object is wanted.")
    return sent


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_plain(one) and not isinstance(one, list) for one in value)
    if isinstance(value, int):
        return abs(value) < 2**53
    return value is None or isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))


def _word(value: object, field: str) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return value
    if isinstance(value, str) and _SESSION.fullmatch(value):
        return value
    raise Refusal(422, f"{field}: letters, digits, - and _ are wanted.")


def _written(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()
