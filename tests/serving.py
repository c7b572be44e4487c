"""The page in a process of its own, as people start it, and a visitor's way in."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import itsdangerous
from hub import LocalHub

SPACE = {
    "SYSTEM": "spaces",
    "SPACE_ID": "owner/board",
    "SPACE_HOST": "owner-board.hf.space",
    "OAUTH_CLIENT_ID": "client",
    "OAUTH_CLIENT_SECRET": "a secret of this test",
    "OAUTH_SCOPES": "openid profile",
    "OPENID_PROVIDER_URL": "http://127.0.0.1:9",
}
"""What a Space with sign-in has in its environment."""

_START = "import sys; from eco_eval.settings import Settings; from eco_eval.ui.site import launch; "
_START += "launch(Settings.from_env(), port=int(sys.argv[1]))"


@contextmanager
def serving(root: Path, hub: LocalHub | None = None, **environ: str) -> Iterator[str]:
    """A page over the store `root / "data"`; yields its address.

    Args:
        hub: the only Hub it knows; None for none.
        environ: more of its environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    inherited = hub.environment(root / "home") if hub else {**os.environ, "HF_HUB_OFFLINE": "1"}
    inherited = {key: value for key, value in inherited.items() if not key.startswith("ECO_EVAL_")}
    if hub:
        inherited.pop("HF_HUB_OFFLINE", None)
    folders = {"ECO_EVAL_DATA_DIR": str(root / "data"), "ECO_EVAL_CACHE_DIR": str(root / "cache")}
    log = (root / f"page-{port}.log").open("w")
    command = [sys.executable, "-c", _START, str(port)]
    process = subprocess.Popen(command, env=inherited | folders | environ, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process, Path(log.name))
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            httpx.get(f"{url}/config", timeout=5)
            return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def cookie(username: str, secret: str = SPACE["OAUTH_CLIENT_SECRET"]) -> dict[str, str]:
    """The header of somebody who signed in on a Space whose secret this is, signed as the server does."""
    info = {"name": "N", "preferred_username": username, "profile": "", "picture": ""}
    session = {"oauth_info": {"access_token": "t", "scope": "", "expires_at": time.time() + 600, "userinfo": info}}
    key = hashlib.sha256(f"{secret}-v4".encode()).hexdigest()
    signed = itsdangerous.TimestampSigner(key).sign(b64encode(json.dumps(session).encode()))
    return {"Cookie": f"session={signed.decode()}"}


def call(url: str, name: str, *values: object, **headers: str) -> Any:
    """What one of the page's named endpoints returns, in the way that Gradio documents for scripts."""
    with httpx.Client(base_url=f"{url}/gradio_api/call/{name}", timeout=60, headers=headers) as client:
        asked = client.post("", content=json.dumps({"data": values}), headers={"Content-Type": "application/json"})
        assert asked.status_code == 200, asked.text
        event, _, data = client.get(f"/{asked.json()['event_id']}").text.partition("\ndata: ")
        assert event == "event: complete", (event, data)
        return json.loads(data)[0]


def press(url: str, elem_id: str, *values: object, **headers: str) -> list[Any]:
    """What the page shows after a button is pressed, in the way that its own code asks for it."""
    body = json.dumps({"data": values, "session_hash": "visitor", **_event(url, elem_id)})
    with httpx.Client(base_url=f"{url}/gradio_api/queue", timeout=60, headers=headers) as client:
        joined = client.post("/join", content=body, headers={"Content-Type": "application/json"})
        assert joined.status_code == 200, joined.text
        with client.stream("GET", "/data", params={"session_hash": "visitor"}) as lines:
            for line in lines.iter_lines():
                told = json.loads(line.removeprefix("data: ") or "{}")
                if told.get("msg") == "process_completed":
                    assert told["success"], told
                    return list(told["output"]["data"])
    raise AssertionError("nothing came back")


@cache
def _event(url: str, elem_id: str) -> dict[str, Any]:
    config = httpx.get(f"{url}/config").json()
    pressed = next(one["id"] for one in config["components"] if one["props"].get("elem_id") == elem_id)
    found = next(one["id"] for one in config["dependencies"] if one["targets"] == [[pressed, "click"]])
    return {"fn_index": found, "trigger_id": pressed}
