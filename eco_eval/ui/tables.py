"""Tables of the `data` commands on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eco_eval.triples.check import Finding, Leak
from eco_eval.ui.texts import Texts

_SHARES = ("implicit", "spread", "length", "eco_words", "bag_of_words", "word_pieces", "similarity")


def print_counts(counts: Mapping[str, Mapping[str, tuple[int, int]]], t: Texts) -> None:
    """How many prompts of each value stand in train and eval."""
    table = Table()
    table.add_column(t("data.column.field"))
    table.add_column(t("data.column.value"))
    for name in ("train", "eval"):
        table.add_column(t(f"data.name.{name}"), justify="right")
    for field, values in counts.items():
        for number, (value, (train, evaluation)) in enumerate(values.items()):
            name = t(f"data.name.{field}") if number == 0 else ""
            table.add_row(name, Text(value), str(train), str(evaluation))
        table.add_section()
    Console().print(table)


def print_lengths(lengths: Mapping[str, tuple[int, float, int]], t: Texts) -> None:
    """Fewest, mean and most words."""
    table = Table()
    table.add_column(t("data.column.words"))
    for name in ("fewest", "mean", "most"):
        table.add_column(t(f"data.column.{name}"), justify="right")
    for name, (fewest, mean, most) in lengths.items():
        table.add_row(t(f"data.name.{name}"), str(fewest), t.number(mean), str(most))
    Console().print(table)


def print_findings(findings: Sequence[Finding], t: Texts) -> None:
    """Each measure beside its limit."""
    table = Table()
    table.add_column("")
    table.add_column(t("data.column.measure"))
    table.add_column(t("data.column.value"), justify="right")
    table.add_column(t("data.column.limit"), justify="right")
    table.add_column("", overflow="fold")
    for finding in findings:
        digits = 2 if finding.name in _SHARES else 0
        sign = {True: Text("✓", "green"), False: Text("✗", "red"), None: Text("·", "dim")}[finding.ok]
        limit = ""
        if finding.limit is not None:
            limit = f"{'≤' if finding.most else '≥'} {t.number(finding.limit, digits)}"
        name = t(f"data.measure.{finding.name}")
        table.add_row(sign, name, t.number(finding.value, digits), limit, Text(finding.detail, "dim"))
    Console().print(table)


def print_leaks(leaks: Sequence[Leak], t: Texts) -> None:
    """Prompts that stand on both sides."""
    for leak in leaks:
        similarity = t.number(leak.similarity, 2)
        print(
            t(
                "data.leak",
                kind=t(f"data.leak_kind.{leak.kind}"),
                first=leak.first,
                second=leak.second,
                similarity=similarity,
            )
        )
    if not leaks:
        print(t("data.no_leaks"))


def print_orders(rows: Mapping[str, Mapping[str, float | None]], t: Texts) -> None:
    """How often each baseline puts the pairs of a triple in order."""
    table = Table()
    table.add_column(t("data.column.baseline"))
    for name in ("best>worst", "best>ambivalent", "ambivalent>worst"):
        table.add_column(" > ".join(t(f"data.name.{rank}") for rank in name.split(">")), justify="right")
    for baseline, shares in rows.items():
        cells = [shares.get(name) for name in ("best>worst", "best>ambivalent", "ambivalent>worst")]
        table.add_row(t(f"data.baseline.{baseline}"), *("—" if cell is None else t.number(cell, 2) for cell in cells))
    Console().print(table)
    print(t("data.baseline_note"))
