"""The card of a data set: what a stranger must know before using it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from eco_eval.prompts import select
from eco_eval.rubric import fill
from eco_eval.triples.records import Triple
from eco_eval.types import Prompt

_TEMPLATE = Path(__file__).parent.parent / "data" / "generate" / "card.md"


def dataset_card(triples: Sequence[Triple], name: str, attribution: str, *, pairs: bool = False) -> str:
    """A Hub dataset card (YAML front matter and Markdown) for triples, or for the pairs they give.

    Its figures are counted from the data; whether people verified it is said from `verified_by`.
    """
    from huggingface_hub import DatasetCardData

    train, evaluation = select(triples, "train"), select(triples, "eval")
    rows = {"train": len(train) * (3 if pairs else 1), "eval": len(evaluation) * (3 if pairs else 1)}
    data = DatasetCardData(
        license="cc-by-4.0",
        language=sorted({triple.lang for triple in triples}),
        task_categories=["text-generation"],
        tags=["ecolinguistics", "preference", "dpo" if pairs else "triples"],
        pretty_name=name.rpartition("/")[2],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}.parquet"} for split, n in rows.items() if n],
            }
        ],
    )
    verified = sum(bool(triple.verified_by) for triple in triples)
    values = {
        "name": name,
        "triples": str(len(triples)),
        "controls": str(sum(triple.control for triple in triples)),
        "train": str(len(train)),
        "eval": str(len(evaluation)),
        "verified": "none" if not verified else f"{verified} of {len(triples)}",
        "form": "pairs: `text`, `chosen`, `rejected` and their ranks"
        if pairs
        else "triples: `text`, `best`, `ambivalent`, `worst`",
        "varieties": _counted([triple.variety for triple in triples if triple.variety]),
        "kinds": _counted([triple.kind for triple in triples if triple.kind]),
        "origins": _counted([triple.origin for triple in triples if triple.origin]),
        "attribution": attribution
        or "eco-eval (CC-BY-4.0), in the design of H4rmony (Neovalle, https://doi.org/10.57967/hf/1148)",
    }
    return f"---\n{data.to_yaml()}\n---\n\n{fill(_TEMPLATE.read_text(encoding='utf-8'), **values)}\n"


def _counted(values: Sequence[str]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in Counter(values).most_common(20)) or "—"


def json_schema() -> dict[str, object]:
    """JSON Schema of one line of a prompt set of ours."""
    schema = Prompt.model_json_schema(by_alias=True)
    always = ["id", "group", "text", "lang", "variety", "kind", "explicit", "control", "codes", "manifestation", "sdg"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Prompt of an eco-eval set",
        "required": [
            *always,
            "register",
            "best",
            "ambivalent",
            "worst",
            "origin",
            "best_origin",
            "ambivalent_origin",
            "worst_origin",
            "verified_by",
        ],
    }
