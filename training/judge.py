"""Train a judge: put probability on the right grade, given the very conversation a judge is put to.

From nothing, or by fine-tuning any causal language model; both on one loss and one loop (`verdicts.py`, `loop.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eco_eval.candidates import resolve
from eco_eval.engines.chat import encode, loading
from eco_eval.engines.labels import label_paths
from eco_eval.errors import InputError
from eco_eval.instrument import DATA, Instrument, load_instrument
from eco_eval.prompts import read_prompts, select
from eco_eval.sets import find_set
from eco_eval.settings import Settings
from eco_eval.types import ModelRef, Prompt, digest
from training import curve as curves
from training.curve import Point
from training.linear import linear_logprobs, make_linear, shared_length
from training.loop import Logprobs, learn, require
from training.recipes import JudgeRecipe, Lora, code_digest
from training.small import Report, made_by, make_model, make_tokenizer, quiet, save
from training.verdicts import Group, examples, label_logprobs


@dataclass(frozen=True)
class Trained:
    """A trained model, its tokenizer and its learning curve. With adapters, `model` still has them beside it."""

    model: Any
    tokenizer: Any
    curve: list[Point]


def train_triples(instrument: Instrument, prompts: Path | None = None) -> tuple[Prompt, ...]:
    """The complete triples of the train split of the instrument's prompt set.

    Args:
        prompts: the set's file, where it is not a bundled one.

    Raises:
        InputError: there are none.
    """
    file = prompts or find_set(instrument.source.set, DATA, None).prompts
    whole = tuple(p for p in select(read_prompts(file, strict=True), "train") if p.best and p.ambivalent and p.worst)
    if not whole:
        raise InputError("train.no_triples", set=instrument.source.set)
    return whole


def train_judge(recipe: JudgeRecipe, folder: Path, report: Report, built: Path | None = None) -> bool:
    """Train a judge into `folder`, unless the same recipe, data, base and code already did.

    A run that was cut goes on from its last epoch, kept beside `folder` until the run is done.

    Args:
        built: the folder of prompt sets built on this machine.

    Returns:
        Whether anything was trained.

    Raises:
        InputError: there is nothing to learn from, the base cannot be used, or a library is missing.
        EngineError: the base cannot be fetched or loaded.
    """
    require("accelerate", *(["peft"] if recipe.lora else []))
    instrument = load_instrument(recipe.instrument, built=built)
    triples = train_triples(instrument, _prompts(recipe, instrument, built))
    base = resolve(recipe.base) if recipe.base else None
    made = digest(
        {
            "recipe": recipe.model_dump(mode="json"),
            "data": [p.model_dump(mode="json") for p in triples],
            "rubric": instrument.rubric.digest,
            "base": base.revision if base else None,
            "code": code_digest(),
        }
    )
    if made_by(folder) == made:
        return False
    checkpoints = folder.with_name(f".{folder.name}.{made[:12]}.checkpoints")
    trained = fit(recipe, instrument, triples, report, checkpoints, base)
    run = {
        "made_by": made,
        "stand_in": base is None,
        "recipe": recipe.model_dump(mode="json"),
        "base": {"name": base.name, "revision": base.revision} if base else None,
        "triples": len(triples),
    }
    _keep(trained, folder, run, checkpoints, base)
    for kept in folder.parent.glob(f".{folder.name}.*.checkpoints"):
        shutil.rmtree(kept)
    return True


def fit(
    recipe: JudgeRecipe,
    instrument: Instrument,
    triples: Sequence[Prompt],
    report: Report,
    checkpoints: Path,
    base: ModelRef | None = None,
) -> Trained:
    """The trained model, its tokenizer and its learning curve.

    Raises:
        InputError: a triple does not fit in the context that judges have.
    """
    train, held = cut(triples, recipe.validation, recipe.schedule.seed)
    if base is not None:
        model, tokenizer = _tuned(base, recipe.lora, recipe.schedule.seed)
    else:
        model, tokenizer = _from_nothing(recipe, instrument, train)
    learnt, measured = ([examples(p, instrument, tokenizer) for p in part] for part in (train, held))
    _check_length([*learnt, *measured], instrument, model)
    pad = tokenizer.pad_token_id or 0
    curve = learn(model, learnt, measured, recipe, _reader(recipe, [*learnt, *measured], pad), checkpoints, report)
    return Trained(model, tokenizer, curve)


def as_judge(recipe: JudgeRecipe, folder: Path, settings: Settings) -> tuple[Instrument, ModelRef]:
    """The recipe's instrument with what was trained in `folder` as its judge, asked as it was trained: directly.

    Where the instrument names this very judge, it is unaltered.
    """
    instrument = load_instrument(recipe.instrument, built=settings.prompts_dir)
    ref = resolve(str(folder))
    spec = instrument.judge
    if spec.source != "trained" or (settings.models_dir / spec.model).resolve() != folder.resolve():
        instrument = instrument.judged_by(
            f"judge={folder.name}",
            model=str(folder),
            source="local",
            revision="",
            engine="transformers",
            mode="direct",
            stand_in=recipe.base is None,
        )
    return instrument.with_judge_at(ref.revision), ref


def read_curve(folder: Path) -> list[Point]:
    """The learning curve of a trained judge."""
    return [Point.model_validate(entry) for entry in json.loads((folder / "curve.json").read_text())]


def cut(triples: Sequence[Prompt], share: float, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """What is learnt from, and the part held back: a share of the groups, none of which is in both."""
    order = sorted({p.group for p in triples}, key=lambda group: digest([seed, group]))
    held = set(order[: round(share * len(order))])
    return [p for p in triples if p.group not in held], [p for p in triples if p.group in held]


def label_tokens(instrument: Instrument, tokenizer: Any) -> list[int]:
    """The one token of each label.

    Raises:
        InputError: a label takes several tokens, so that a model that weighs words could not say it.
    """
    labels = instrument.rubric.labels[instrument.lang]
    _, paths = label_paths(lambda text: encode(tokenizer, text), "<|im_start|>assistant\n", labels)
    if any(len(path) > 1 for path in paths):
        raise InputError("train.labels_split", labels=", ".join(labels))
    return [path[0] for path in paths]


def _prompts(recipe: JudgeRecipe, instrument: Instrument, built: Path | None) -> Path:
    """The file of the instrument's set: beside an instrument of one's own, bundled, or built."""
    own = Path(recipe.instrument).parent / f"{instrument.source.set}.jsonl"
    if recipe.instrument.endswith(".toml") and own.is_file():
        return own
    return find_set(instrument.source.set, DATA, built).prompts


def _from_nothing(recipe: JudgeRecipe, instrument: Instrument, triples: Sequence[Prompt]) -> tuple[Any, Any]:
    assert recipe.shape is not None  # a recipe has a shape or a base
    texts = [t for p in triples for t in (p.text, p.best or "", p.ambivalent or "", p.worst or "")]
    # A label opens the judge's turn; seen often there, it becomes one token.
    labels = [*instrument.rubric.labels[instrument.lang]] * len(texts)
    seen = [*texts, instrument.rubric.system(instrument.lang), *labels]
    tokenizer = make_tokenizer(seen, recipe.shape.vocabulary, phrases=True)
    model = make_model(recipe.shape, recipe.schedule, tokenizer, tied=False)
    if recipe.shape.layers == 1:
        make_linear(model, label_tokens(instrument, tokenizer))
    return model, tokenizer


def _tuned(base: ModelRef, lora: Lora | None, seed: int) -> tuple[Any, Any]:
    """The base, with adapters to learn or to learn as a whole.

    Whole, its weights are float32 while they learn: steps are too small for bfloat16. Under adapters they stand still
    and keep their own numbers on a GPU.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    still = lora is not None and torch.cuda.is_available()
    safe = {"trust_remote_code": False, "local_files_only": True}
    with loading(base.name):
        tokenizer = AutoTokenizer.from_pretrained(base.path, **safe)
        model = AutoModelForCausalLM.from_pretrained(
            base.path, dtype=base.dtype if still else "float32", use_safetensors=True, **safe
        )
    if lora is None:
        return model, tokenizer
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
    )
    return get_peft_model(model, config), tokenizer


def _check_length(groups: Sequence[Group], instrument: Instrument, model: Any) -> None:
    longest = max(len(row.ids) + max(map(len, row.paths)) for group in groups for row in group)
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limit = min(instrument.judge.context, own or instrument.judge.context)
    if longest > limit:
        raise InputError("train.too_long", tokens=longest, limit=limit)


def _reader(recipe: JudgeRecipe, groups: Sequence[Group], pad: int) -> Logprobs:
    """How the probabilities of the labels are read: cheaply where the model has one layer that was made here."""
    if recipe.shape is None or recipe.shape.layers > 1:
        return lambda model, rows: label_logprobs(model, rows, pad)
    shared = shared_length([row.ids for group in groups for row in group])
    return lambda model, rows: linear_logprobs(model, rows, shared, pad)


def _keep(trained: Trained, folder: Path, run: dict[str, object], made_in: Path, base: ModelRef | None) -> None:
    """Weights any engine can serve, in the numbers of the base; the curve; and adapters in a folder of their own."""
    import torch

    model, adapter = trained.model.to("cpu", torch.float32), made_in / "adapter"
    if hasattr(model, "merge_and_unload"):
        _save_adapter(model, adapter, base)
        model = model.merge_and_unload()

    def beside(partial: Path) -> None:
        (partial / "curve.json").write_text(curves.to_json(trained.curve))
        if adapter.is_dir():
            shutil.copytree(adapter, partial / "adapter")

    save(folder, model.to(getattr(torch, base.dtype)) if base else model, trained.tokenizer, run, beside)


def _save_adapter(model: Any, folder: Path, base: ModelRef | None) -> None:
    """The adapters alone, without a card that knows nothing of them and the paths of this machine."""
    # Asked to look for new embeddings, it would look for the base on the Hub.
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()
    file = folder / "adapter_config.json"
    config = {**json.loads(file.read_text()), "base_model_name_or_path": base.name if base else None}
    # They are kept as a set, whose order differs from one process to the next.
    config["target_modules"] = sorted(config["target_modules"])
    file.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
