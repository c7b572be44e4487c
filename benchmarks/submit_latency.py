"""How long it takes from asking for a model on the page to knowing its place, with a long queue.

    python benchmarks/submit_latency.py [URL] [--waiting 10000] [--count 200] [--clicks 20]

URL: `sqlite:///path` or `postgresql://…`, an empty database; a SQLite file of its own by default. A page in a process
of its own, over real HTTP, with the stand-in Hub of the tests on the same machine, so without the network between.
Prints median, 95th percentile and maximum, in milliseconds, of

    check    «Comprobar»: looked up on the Hub, its small files fetched, the heads of its weights read
    submit   the endpoint `submit`, of models that were checked before
    click    in Chromium, from the click on «Enviar» to the place being there (where Chromium is installed)
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from hub import LocalHub
from queue_load import WIDE, request
from safetensors.numpy import save
from serving import call, press, serving

from eco_eval.queue import Queue

JUDGE = "Qwen/Qwen3-30B-A3B-Instruct-2507"
HOW = ("eco-es-v1", "vllm", "auto", "")
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "dtype": "bfloat16",
    "vocab_size": 10,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "intermediate_size": 8,
}
MODEL = {
    "config.json": json.dumps(CONFIG).encode(),
    "model.safetensors": save({"model.embed_tokens.weight": np.ones((30, 4), np.float32)}),
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{% for m in messages %}{{ m.content }}{% endfor %}",
    "README.md": b"---\nlicense: apache-2.0\n---\n",
}
CLICK = """async (name) => {
    const began = performance.now();
    document.querySelector('#submit-send').click();
    while (!document.querySelector('#submit-status').innerText.includes(name)) await new Promise(requestAnimationFrame);
    return performance.now() - began;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?")
    parser.add_argument("--waiting", type=int, default=10_000)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--clicks", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, LocalHub() as hub:
        url = arguments.url or f"sqlite:///{folder}/queue.sqlite"
        fill(url, arguments.waiting)
        hub.add(JUDGE, "model", MODEL)
        names = [f"asked-{number}/model" for number in range(arguments.count + arguments.clicks)]
        for name in names:
            hub.add(name, "model", MODEL)
        quotas = {"ECO_EVAL_PER_USER": "1000000", "ECO_EVAL_QUEUE_LIMIT": "1000000"}
        with serving(Path(folder), hub, ECO_EVAL_QUEUE_URL=url, **quotas) as page:
            # Once before it counts: what is loaded at the first call stays.
            call(page, "submit", names[0], *HOW[:3], "Una vez antes.")
            tell("check", [timed(lambda name=name: press(page, "submit-check", name, *HOW)) for name in names])
            tell("submit", [timed(lambda name=name: asked(page, name)) for name in names[: arguments.count]])
            if arguments.clicks and shutil.which("chromium"):
                tell("click", clicked(page, names[arguments.count :]))


def fill(url: str, waiting: int) -> None:
    queue = Queue(url)
    with ThreadPoolExecutor(4) as clients:
        list(clients.map(lambda number: queue.submit(request(number, "waiting"), WIDE), range(waiting)))
    queue.close()


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - began)


def asked(page: str, name: str) -> None:
    found = call(page, "submit", name, *HOW)
    assert found["is_new"], found
    assert found["request"]["position"] > 0, found


def clicked(page: str, names: list[str]) -> list[float]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.goto(page)
        tab.get_by_role("tab", name="Enviar").click()
        found = []
        for name in names:
            tab.get_by_label("Modelo en el Hub").fill(name)
            tab.wait_for_timeout(500)
            found.append(float(tab.evaluate(CLICK, name)))
        browser.close()
    return found


def tell(what: str, times: list[float]) -> None:
    median, high = np.percentile(times, [50, 95])
    print(
        f"{what:8} n={len(times):4}  median {median:6.0f} ms  95 % {high:6.0f} ms  max {max(times):6.0f} ms", flush=True
    )


if __name__ == "__main__":
    main()
