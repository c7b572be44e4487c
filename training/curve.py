"""The learning curve of a judge: how it does, after each epoch, on what it learns from and on what it does not."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from eco_eval.stats import mean_of_classes
from eco_eval.types import GRADES, Estimate, Record

if TYPE_CHECKING:
    from eco_eval.ui.texts import Texts

Part = Literal["train", "validation"]

METRICS = ("loss", "order", "exact")


class Point(Record):
    """One epoch's measure.

    part: a sample of what is learnt from, or the groups held back from the train split.
    n: triples measured.
    loss: mean of the training loss, with dropout off. order: share of triples whose best answer gets more points than
    the worst, ties ½. exact: share of answers whose likeliest label is the right one. Both on 0 to 1, with the answers
    of a triple as one group and every triple as another: paraphrases among them make an interval too narrow.
    """

    epoch: int
    part: Part
    n: int
    loss: float
    order: Estimate
    exact: Estimate


def measured(epoch: int, part: Part, loss: float, shares: Sequence[Sequence[float]]) -> Point:
    """A point from the probabilities of the labels.

    Args:
        shares: of good, regular and bad for the best, ambivalent and worst answer of each triple, in turn.
    """
    points = [sum(p * grade.value_points for p, grade in zip(row, GRADES, strict=True)) for row in shares]
    pairs = list(zip(points[::3], points[2::3], strict=True))
    triples = [str(i // len(GRADES)) for i in range(len(shares))]
    ordered = [0 if best > worst else 1 if best == worst else 2 for best, worst in pairs]
    wrong = [int(max(range(len(GRADES)), key=row.__getitem__) != i % len(GRADES)) for i, row in enumerate(shares)]
    return Point(
        epoch=epoch,
        part=part,
        n=len(pairs),
        loss=loss,
        order=mean_of_classes(ordered, triples[:: len(GRADES)], (1.0, 0.5, 0.0)),
        exact=mean_of_classes(wrong, triples, (1.0, 0.0)),
    )


def to_json(curve: Sequence[Point]) -> str:
    """What is kept beside the weights."""
    return json.dumps([point.model_dump() for point in curve], indent=1) + "\n"


def print_curve(curve: Sequence[Point], t: Texts) -> None:
    """A row an epoch and part on a terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(t("train.epoch"), t("train.part"), "n", *(t(f"train.metric_{name}") for name in METRICS))
    for point in curve:
        shares = [_shown(estimate, t) for estimate in (point.order, point.exact)]
        table.add_row(str(point.epoch), t(f"train.part_{point.part}"), str(point.n), t.number(point.loss, 3), *shares)
    Console().print(table)


def _shown(estimate: Estimate, t: Texts) -> str:
    value, low, high = (t.number(number, 2) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} – {high})"


def plot(curve: Sequence[Point], name: str, t: Texts) -> str:
    """A page with a plot a metric, that opens with no server; whiskers are 95 % intervals."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=len(METRICS), cols=1, subplot_titles=[t(f"train.metric_{metric}") for metric in METRICS]
    )
    for part, colour in (("train", "#888888"), ("validation", "#00796b")):
        points = [point for point in curve if point.part == part]
        for row, metric in enumerate(METRICS, 1):
            measures = [getattr(point, metric) for point in points]
            known = [(m.value, m.high - m.value, m.value - m.low) for m in measures if isinstance(m, Estimate)]
            values, above, below = zip(*known, strict=True) if known else (measures, None, None)
            line = go.Scatter(
                x=[point.epoch for point in points],
                y=values,
                error_y={"array": above, "arrayminus": below},
                name=t(f"train.part_{part}"),
                mode="lines+markers",
                line={"color": colour},
                showlegend=bool(points) and row == 1,
            )
            figure.add_trace(line, row=row, col=1)
    # Plotly reads tags in a title, some with an address to fetch.
    figure.update_layout(title=t("train.curve", name=html.escape(name)), height=900, template="plotly_white")
    figure.update_xaxes(title_text=t("train.epoch"), row=len(METRICS), col=1)
    return str(figure.to_html(include_plotlyjs=True, full_html=True))
