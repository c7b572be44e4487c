"""Recipes: one TOML file a run, unknown keys refused."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from eco_eval.errors import InputError
from eco_eval.types import Record, digest

RECIPES = Path(__file__).parent / "recipes"

Role = Literal["best", "ambivalent", "worst"]


class Shape(Record):
    """A small Llama-like model, trained from nothing. `vocabulary` in tokens, the rest as in `LlamaConfig`."""

    vocabulary: int = Field(gt=256)
    hidden: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    intermediate: int = Field(gt=0)
    context: int = Field(gt=0)


class Schedule(Record):
    """AdamW with linear warm-up over a tenth of the steps, then cosine to zero. `batch` in sequences.

    dropout: of the attention of a model from nothing; adapters have their own.
    """

    epochs: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    seed: int = 0


class ToyRecipe(Record):
    """A small chat model that imitates written answers.

    roles: which answers of each triple it learns from.
    init: name of another toy it starts from; nothing to start from random weights.
    """

    name: str
    instrument: str
    roles: tuple[Role, ...]
    init: str | None = None
    shape: Shape
    schedule: Schedule


class Lora(Record):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685) of all linear layers but the output head.

    r: rank. alpha: the update is scaled by alpha / r.
    """

    r: int = Field(gt=0)
    alpha: int = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class JudgeRecipe(Record):
    """A judge trained on the triples of an instrument's train split, from nothing (`shape`) or from `base`.

    order_weight: weight of the pairwise term, which asks for best > ambivalent > worst inside a triple.
    validation: share of the train split's groups that is not learnt from and draws the learning curve.
    accumulate: batches a step; `schedule.batch` says how many sequences fit in memory at once.
    base: the language model to fine-tune, a folder or `owner/name@revision`; whole, or with `lora` by adapters.
    """

    name: str
    instrument: str
    order_weight: float = Field(ge=0)
    validation: float = Field(default=0.15, ge=0, le=0.5)
    accumulate: int = Field(default=1, gt=0)
    shape: Shape | None = None
    base: str | None = None
    lora: Lora | None = None
    schedule: Schedule

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.shape is None) == (self.base is None):
            raise InputError("train.one_start", name=self.name)
        if self.lora is not None and self.base is None:
            raise InputError("train.lora_alone", name=self.name)
        return self


RecipeT = TypeVar("RecipeT", ToyRecipe, JudgeRecipe)


def load_recipe(name: str, kind: type[RecipeT]) -> RecipeT:
    """A bundled recipe by name, or one from a `.toml` file.

    Raises:
        InputError: no such recipe, or a key or value is wrong; names the file and the key.
    """
    file = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        return kind.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        known = ", ".join(sorted(f.stem for f in RECIPES.glob("*.toml")))
        raise InputError("recipe.unknown", name=name, known=known) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError("recipe.bad_toml", file=file, reason=error) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError("recipe.bad_key", file=file, field=field, reason=first["msg"]) from error


def code_digest() -> str:
    """Digest of this package's code: a model made by other code is another model."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return digest({f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files})
