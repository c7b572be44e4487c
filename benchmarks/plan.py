"""What a thousand submissions take and cost, from a queue's own stage times or from assumptions you give.

    python benchmarks/plan.py --queue postgresql://… --price 1.80        what yours took so far
    python benchmarks/plan.py --answer-rate 3000 --judge-rate 4000 …      a plan, before there is anything to measure

Seconds of one submission on one device, nothing at the same time:

    download + load + asked × answer tokens / answer rate + judge's load / in hand + asked × verdict tokens / judge rate

A verdict's tokens are those of its analysis and, at a rate `PREFILL` times the other, those read anew: the answer and
the question. The rubric is read once (prefix cache). Rates are tokens a second of the whole batch, prices an hour's.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

COUNT = 1_000
PREFILL = 10
"""How many times as fast a model reads as it writes, in a full batch: an assumption."""


@dataclass(frozen=True)
class Assumed:
    """One device and one kind of candidate. Gigabytes, gigabits a second, seconds, tokens, tokens a second."""

    weights: float
    network: float
    load: float
    answer_tokens: float
    answer_rate: float
    judge_load: float
    analysis_tokens: float
    read_tokens: float
    judge_rate: float
    asked: int
    in_hand: int

    def stages(self) -> dict[str, float]:
        """Seconds of one submission by stage."""
        verdict = self.analysis_tokens + self.read_tokens / PREFILL
        return {
            "check": 8 * self.weights / self.network,
            "load": self.load + self.judge_load / self.in_hand,
            "answer": self.asked * self.answer_tokens / self.answer_rate,
            "judge": self.asked * verdict / self.judge_rate,
        }


def measured(url: str) -> dict[str, float]:
    """Mean seconds by stage of everything a queue has run; waiting is left out, it is nobody's work."""
    from eco_eval.queue import Queue

    queue = Queue(url)
    found = {stage: seconds / count for stage, (count, seconds) in queue.stage_seconds().items() if stage != "wait"}
    queue.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", help="database of a queue that has run something")
    parser.add_argument("--price", type=float, default=1.0, help="of a device, an hour")
    for name, value in {
        "weights": 16.0,
        "network": 1.0,
        "load": 60.0,
        "answer-tokens": 350.0,
        "answer-rate": 2_000.0,
        "judge-load": 120.0,
        "analysis-tokens": 250.0,
        "read-tokens": 400.0,
        "judge-rate": 2_000.0,
    }.items():
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--asked", type=int, default=103)
    parser.add_argument("--in-hand", type=int, default=4)
    given = vars(parser.parse_args())
    url, price = given.pop("queue"), given.pop("price")
    stages = measured(url) if url else Assumed(**given).stages()
    total = sum(stages.values())
    print("measured" if url else "assumed, not measured")
    for stage, seconds in stages.items():
        print(f"{stage:>8}  {seconds:8.1f} s a submission  {seconds / total:5.0%}")
    hours = COUNT * total / 3600
    print(f"{COUNT} submissions: {hours:.0f} device hours, {hours * price:.0f} at {price} an hour")
    for devices in (1, 2, 4, 8):
        print(f"  {devices} devices: {hours / devices / 24:.1f} days, {86_400 * devices / total:.0f} submissions a day")


if __name__ == "__main__":
    main()
