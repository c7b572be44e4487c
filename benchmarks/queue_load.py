"""The queue under load: submissions by eight clients, workers killed every few seconds, several workers, a long queue.

    python benchmarks/queue_load.py chaos URL [--count 1000] [--every 3]     nothing lost, nothing finished twice?
    python benchmarks/queue_load.py workers URL [--most 4] [--seconds 0.5]   throughput of n workers over that of one
    python benchmarks/queue_load.py submit URL [--waiting 10000]             how long one more submission takes

URL: `sqlite:///path` or `postgresql://…`, an empty database. Runs are scripted (`tests/queue_worker.py`): they sleep,
so `workers` measures the queue and not this machine's cores.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eco_eval.queue import Failed, Finished, Queue, Quotas, Request
from eco_eval.types import ModelRef, Submission

WORKER = Path(__file__).parent.parent / "tests" / "queue_worker.py"
WIDE = Quotas(per_user=10**6, per_owner=10**6, total=10**6)


def request(number: int, kind: str = "model") -> Request:
    model = ModelRef(name=f"owner-{number % 50}/{kind}-{number}", source="hub", revision="a" * 40)
    submission = Submission(model=model, instrument="i", asked_digest="a", measured_digest="m")
    return Request(submission=submission, user=f"user-{number % 97}", engine="transformers")


def start(url: str, folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), url, str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def is_over(queue: Queue) -> bool:
    counts = queue.counts()
    return not counts.get("pending") and not counts.get("running")


def chaos(url: str, count: int, every: float) -> None:
    queue, folder, kills = Queue(url), Path(tempfile.mkdtemp()), 0
    began = time.monotonic()
    process = start(url, folder, 0.02)
    with ThreadPoolExecutor(8) as clients:
        clients.map(lambda n: queue.submit(request(n), WIDE), range(count))
        clients.map(lambda n: queue.submit(request(n), WIDE), range(count))  # everybody asks again
        while not is_over(queue) or sum(queue.counts().values()) < count:
            time.sleep(every)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            process = start(url, folder, 0.02)
    process.kill()
    ends: Counter[str] = Counter()
    lost = twice = silent = 0
    for number in range(count):
        entry = queue.get(request(number).id)
        state = entry.state
        over = sum(event.what in ("finished", "failed") for event in queue.events(entry.request.id))
        lost += over == 0
        twice += over > entry.attempt  # what failed and was asked again ends once more
        silent += isinstance(state, Failed) and not state.key
        ends[state.state if isinstance(state, Finished | Failed) else "open"] += 1
    took = time.monotonic() - began
    print(
        f"{count} submissions, {kills} kills, {took:.0f} s: {dict(ends)}; lost {lost}, twice {twice}, no cause {silent}"
    )


def workers(url: str, most: int, seconds: float) -> None:
    queue, folder, alone = Queue(url), Path(tempfile.mkdtemp()), 0.0
    print("| workers | runs a second | over one worker |\n|---|---|---|")
    for count in range(1, most + 1):
        processes = [start(url, folder, seconds) for _ in range(count)]
        runs = 20 * count
        for number in range(runs):
            # No number that ends in 3, 4 or 5: those fail or are tried again.
            queue.submit(request(10 * number + 1, kind=f"w{count}"), WIDE)
        began = time.monotonic()
        while not is_over(queue):
            time.sleep(0.02)
        rate = runs / (time.monotonic() - began)
        alone = alone or rate
        print(f"| {count} | {rate:.2f} | {rate / alone:.2f} |", flush=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def submit(url: str, waiting: int) -> None:
    queue = Queue(url)
    for number in range(waiting):
        queue.submit(request(number), WIDE)
    times = []
    for number in range(waiting, waiting + 200):
        began = time.perf_counter()
        queue.submit(request(number), WIDE)
        times.append(1000 * (time.perf_counter() - began))
    times.sort()
    print(
        f"{waiting} waiting: median {times[100]:.0f} ms, 95th percentile {times[190]:.0f} ms, most {times[-1]:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["chaos", "workers", "submit"])
    parser.add_argument("url")
    for name, kind, default in (
        ("count", int, 1000),
        ("every", float, 3.0),
        ("most", int, 4),
        ("seconds", float, 0.5),
        ("waiting", int, 10_000),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default)
    options = parser.parse_args()
    if options.what == "chaos":
        chaos(options.url, options.count, options.every)
    elif options.what == "workers":
        workers(options.url, options.most, options.seconds)
    else:
        submit(options.url, options.waiting)


if __name__ == "__main__":
    main()
