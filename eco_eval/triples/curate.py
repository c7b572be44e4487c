"""Put sets together, even them out, count them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from eco_eval.prompts import split_of
from eco_eval.triples.layouts import normalised
from eco_eval.triples.records import RANKS, Problem
from eco_eval.triples.writing import write_whole
from eco_eval.types import Prompt

Field = Literal["kind", "variety", "manifestation", "codes", "speech_register", "explicit", "lang", "control"]
FIELDS: tuple[Field, ...] = get_args(Field)


class Curated(NamedTuple):
    """What was kept, and what was left out and why."""

    prompts: tuple[Prompt, ...]
    problems: tuple[Problem, ...]


def merge(sets: Iterable[Sequence[Prompt]]) -> Curated:
    """Several sets as one. The first of each id and of each text (by its words, within a language) stays.

    A prompt of the same id in another language is a twin and stays. Two different texts under one id are both worth
    having: the second is left out and reported, to be given another id.
    """
    kept: dict[tuple[str, str], Prompt] = {}
    texts: dict[tuple[str, str], Prompt] = {}
    problems: list[Problem] = []
    for prompt in (prompt for prompts in sets for prompt in prompts):
        key, words = (prompt.id, prompt.lang), (normalised(prompt.text), prompt.lang)
        if key in kept:
            if kept[key] != prompt:
                problems.append(Problem(cause="duplicate_id", id=prompt.id))
        elif words in texts:
            problems.append(Problem(cause="duplicate_prompt", id=prompt.id, detail=texts[words].id))
        else:
            kept[key] = texts[words] = prompt
    return Curated(tuple(kept.values()), tuple(problems))


def balance(prompts: Sequence[Prompt], field: Field, per: int | None = None) -> Curated:
    """At most `per` prompts of each value of a field (of its rarest value, if not said); whole groups only.

    Which stay depends on a hash of the group's name, so that adding prompts changes little. For `codes`, which a
    prompt has several of, the first one counts. Prompts without a value are left out.
    """
    values = {prompt.group: _value(prompt, field) for prompt in reversed(prompts)}
    counts = Counter(value for prompt in prompts if (value := values[prompt.group]) is not None)
    limit = per if per is not None else min(counts.values(), default=0)
    sizes = Counter(prompt.group for prompt in prompts)
    taken: Counter[str] = Counter()
    chosen: set[str] = set()
    for group in sorted(sizes, key=lambda name: hashlib.sha256(f"balance:{name}".encode()).digest()):
        value = values[group]
        if value is not None and taken[value] + sizes[group] <= limit:
            taken[value] += sizes[group]
            chosen.add(group)
    problems = [
        Problem(cause="left_out", id=prompt.id, field=field, detail=values[prompt.group] or "")
        for prompt in prompts
        if prompt.group not in chosen
    ]
    return Curated(tuple(prompt for prompt in prompts if prompt.group in chosen), tuple(problems))


def _value(prompt: Prompt, field: Field) -> str | None:
    if field == "codes":
        return prompt.codes[0] if prompt.codes else None
    value = getattr(prompt, field)
    return None if value is None else str(value)


def counts(prompts: Sequence[Prompt]) -> dict[str, dict[str, tuple[int, int]]]:
    """How many prompts of each value of each field are in train and in eval; a prompt counts for each of its codes."""
    table: dict[str, dict[str, list[int]]] = {}
    for prompt in prompts:
        side = int(split_of(prompt.group) == "eval")
        for field in FIELDS:
            value = getattr(prompt, field)
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None:
                    table.setdefault(field, {}).setdefault(str(one), [0, 0])[side] += 1
    return {
        field: {value: (n[0], n[1]) for value, n in sorted(values.items())} for field, values in sorted(table.items())
    }


def lengths(prompts: Sequence[Prompt]) -> dict[str, tuple[int, float, int]]:
    """Fewest, mean and most words of the prompts and of the answers of each rank."""
    found = {}
    for name in ("text", *RANKS):
        words = [len(text.split()) for prompt in prompts if (text := getattr(prompt, name)) is not None]
        if words:
            found[name] = (min(words), sum(words) / len(words), max(words))
    return found


def plot(prompts: Sequence[Prompt], file: Path, title: str, names: dict[str, str]) -> None:
    """A page with a stacked bar (train, eval) for each value of kind, code, manifestation and variety.

    Args:
        names: what to call fields and splits on the page.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    table = {field: values for field, values in counts(prompts).items() if field not in ("explicit", "control", "lang")}
    table = table or {"lang": counts(prompts)["lang"]}
    figure = make_subplots(
        rows=len(table),
        cols=1,
        row_heights=[len(values) for values in table.values()],
        subplot_titles=[names.get(field, field) for field in table],
    )
    for row, values in enumerate(table.values(), 1):
        for side, (split, colour) in enumerate((("train", "#4477AA"), ("eval", "#EE6677"))):
            bar = go.Bar(
                y=list(values),
                x=[pair[side] for pair in values.values()],
                orientation="h",
                name=names.get(split, split),
                marker_color=colour,
                showlegend=row == 1,
            )
            figure.add_trace(bar, row=row, col=1)
    height = 120 * len(table) + 22 * sum(len(values) for values in table.values())
    figure.update_layout(barmode="stack", title=title, height=height, template="plotly_white")
    write_whole(figure.to_html(include_plotlyjs=True, full_html=True).encode(), file)
