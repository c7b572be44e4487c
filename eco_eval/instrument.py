"""The instrument: what a number means. Prompt set, rubric, judge, decoding, statistics, as data with digests."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from eco_eval.errors import InstrumentError
from eco_eval.prompts import prompts_digest, read_prompts, select
from eco_eval.rubric import Lang, Rubric, file_digest, load_rubric, rubric_files
from eco_eval.sets import FoundSet, find_set
from eco_eval.types import Decoding, Prompt, Record, digest

DATA = Path(__file__).parent / "data"

PINS = DATA / "pins.json"
"""SHA-256 of every published data file. A published file never changes: a new version is a new file."""


class PromptSource(Record):
    """Which prompts are asked. `hidden` names a set that is never published: see `Instrument.hidden`."""

    set: str
    split: Literal["train", "eval", "all"]
    hidden: str | None = None


class AnswerSpec(Record):
    """How candidates answer. `context` is the longest prompt plus answer, in tokens."""

    max_tokens: int = Field(gt=0)
    context: int = Field(gt=0)
    temperature: float = Field(ge=0)
    seed: int

    @property
    def decoding(self) -> Decoding:
        return Decoding(max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed)


class JudgeSpec(Record):
    """The judge. `source` says where its weights are: the Hub, an endpoint, a local folder, or trained here."""

    model: str
    source: Literal["hub", "endpoint", "local", "trained"]
    revision: str = ""
    engine: Literal["transformers", "vllm", "endpoint"]
    dtype: Literal["float32", "bfloat16", "float16"]
    rubric: str
    mode: Literal["direct", "reasoned"]
    context: int = Field(gt=0)
    max_tokens: int = Field(default=1, gt=0)
    max_answer_chars: int = Field(gt=0)
    min_label_mass: float = Field(ge=0, lt=1)
    stand_in: bool


class PanelSpec(Record):
    """One more judge, with the rubric, mode and limits of the first. None of an engine or dtype: that of the first."""

    model: str
    source: Literal["hub", "endpoint", "local", "trained"]
    revision: str = ""
    engine: Literal["transformers", "vllm", "endpoint"] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    stand_in: bool


class ScoreSpec(Record):
    max_ungraded: float = Field(ge=0, lt=1)


class GateSpec(Record):
    """What a judge must reach, with the worse end of each 95 % interval, before its results may be published.

    min_order: P(best > worst) on gold triples, 0 to 100. min_kappa: quadratic-weighted κ with the grades their roles
    suggest. max_false_good: largest share of any attack's answers called good, 0 to 100.
    """

    min_order: float = Field(ge=0, le=100)
    min_kappa: float = Field(ge=-1, le=1)
    max_false_good: float = Field(ge=0, le=100)


class InstrumentFile(Record):
    """What the TOML file of an instrument says."""

    name: str
    lang: Lang
    source: PromptSource = Field(alias="prompts")
    answer: AnswerSpec
    judge: JudgeSpec
    panel: tuple[PanelSpec, ...] = ()
    score: ScoreSpec
    gate: GateSpec | None = None


class Instrument(InstrumentFile):
    """A loaded, checked instrument.

    asked: the prompts put to candidates. gold: the prompts whose written answers measure the judge.
    hidden: prompts nobody has published, where this machine has them: what a model does worse on them than on the
        asked ones speaks for its having seen those. They are no part of the score or of any digest.
    origins: the sets and data sets the prompts come from.
    judge_revision, panel_revisions: the exact weights of the judges, once they are resolved.
    attribution: whom to credit beside this project, wherever its prompts are shown.
    pinned: every file it is made of is published with this package, unchanged.
    altered: what a command line changed against the file, if anything.
    """

    rubric: Rubric
    asked: tuple[Prompt, ...]
    gold: tuple[Prompt, ...]
    hidden: tuple[Prompt, ...] = ()
    origins: tuple[str, ...] = ()
    judge_revision: str = ""
    panel_revisions: tuple[str, ...] = ()
    pinned: bool = False
    attribution: str = ""
    altered: tuple[str, ...] = ()

    @property
    def asked_digest(self) -> str:
        """What is asked: prompts and decoding."""
        return digest({"prompts": prompts_digest(self.asked), "answer": self.answer.model_dump(mode="json")})

    @property
    def judging_digest(self) -> str:
        """What a verdict of the first judge depends on: rubric and judge. The engine is where it runs: left out."""
        judge = self.judge.model_dump(mode="json", exclude={"engine"})
        judge["revision"] = self.judge_revision or self.judge.revision
        return digest({"rubric": self.rubric.digest, "judge": judge, "lang": self.lang})

    @property
    def measured_digest(self) -> str:
        """How it is measured: judging, scoring, how prompts are grouped, and the gold the judge is measured on."""
        groups = [[p.group, p.kind, list(p.codes), p.control] for p in self.asked]
        gold = [[p.id, p.group, p.text, p.best, p.ambivalent, p.worst] for p in self.gold]
        score = self.score.model_dump(mode="json")
        more = {"panel": [seat.judging_digest for seat in self.seats[1:]]} if self.panel else {}
        return digest({"judging": self.judging_digest, "score": score, "groups": groups, "gold": gold, **more})

    @property
    def seats(self) -> tuple[Instrument, ...]:
        """The same instrument with each of its judges alone, in order."""
        alone = self.model_copy(update={"panel": (), "panel_revisions": ()})
        revisions = self.panel_revisions or ("",) * len(self.panel)
        others = []
        for spec, revision in zip(self.panel, revisions, strict=True):
            fields = {name: value for name, value in spec.model_dump().items() if value is not None}
            judge = self.judge.model_copy(update=fields)
            others.append(alone.model_copy(update={"judge": judge, "judge_revision": revision}))
        return (alone, *others)

    @property
    def is_served(self) -> bool:
        """Whether any of its judges is at an endpoint."""
        return any(seat.judge.source == "endpoint" for seat in self.seats)

    @property
    def publishable(self) -> bool:
        """Whether results may be published: pinned files, real judges at locked revisions, nothing altered."""
        judges = [seat.judge for seat in self.seats]
        locked = all(re.fullmatch(r"[0-9a-f]{40}", judge.revision) for judge in judges)
        return self.pinned and locked and not any(judge.stand_in for judge in judges) and not self.altered

    @property
    def asking_hidden(self) -> Instrument:
        """The same instrument asking its hidden prompts and nothing else."""
        return self.model_copy(update={"asked": self.hidden, "gold": (), "hidden": ()})

    @property
    def base(self) -> Instrument:
        """The same instrument asking its gold prompts."""
        return self.model_copy(update={"asked": self.gold})

    def asking(self, prompts: tuple[Prompt, ...], how: str) -> Instrument:
        """The same instrument over other prompts; its results are not comparable and say so."""
        return self.model_copy(update={"asked": prompts, "hidden": (), "altered": (*self.altered, how)})

    def limited(self, count: int) -> Instrument:
        """The same instrument over its first prompts only, judge's gold prompts included."""
        short = self.asking(self.asked[:count], f"limit={count}")
        return short.model_copy(update={"gold": self.gold[:count]})

    def with_gold(self, gold: tuple[Prompt, ...], how: str) -> Instrument:
        """The same instrument, its judge measured on other gold triples."""
        return self.model_copy(update={"gold": gold, "altered": (*self.altered, how)})

    def judged_by(self, how: str, **fields: object) -> Instrument:
        """The same instrument with fields of its judge changed, and without the others of a panel."""
        judge = JudgeSpec.model_validate({**self.judge.model_dump(), **fields})
        return self.model_copy(update={"judge": judge, "panel": (), "altered": (*self.altered, how)})

    def with_judges_at(self, found: Sequence[tuple[str, bool]]) -> Instrument:
        """The same instrument with its judges resolved: for each the exact weights, and whether it is a stand-in.

        Raises:
            InstrumentError: one judge sits there twice, and would agree with itself.
        """
        (first, marked), *others = found
        panel = (s.model_copy(update={"stand_in": m}) for s, (_, m) in zip(self.panel, others, strict=True))
        resolved = self.model_copy(
            update={
                "judge_revision": first,
                "judge": self.judge.model_copy(update={"stand_in": marked}),
                "panel_revisions": tuple(revision for revision, _ in others),
                "panel": tuple(panel),
            }
        )
        digests = [seat.judging_digest for seat in resolved.seats]
        for seat in resolved.seats:
            if digests.count(seat.judging_digest) > 1:
                raise InstrumentError("instrument.judge_twice", instrument=self.name, judge=seat.judge.model)
        return resolved

    def with_judge_at(self, revision: str) -> Instrument:
        """The same instrument, of one judge, at exact weights."""
        return self.with_judges_at([(revision, self.judge.stand_in)])


def load_instrument(name: str, data: Path = DATA, pins: Path | None = None, built: Path | None = None) -> Instrument:
    """Load an instrument by name (bundled) or from a `.toml` file of your own.

    A file may name prompt sets and rubrics that are bundled, sets built on this machine (in the folder `built`), or
    paths beside itself.

    Raises:
        InstrumentError: unknown name, unknown or wrong key, a pinned file that was edited; names the file.
        InputError: its prompt set is not known, or not built yet.
    """
    file = Path(name) if name.endswith(".toml") else data / "instruments" / f"{name}.toml"
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in (data / "instruments").glob("*.toml")))
        raise InstrumentError("instrument.unknown", name=name, known=known)
    spec = _spec(file)
    own = _beside(file, f"{spec.source.set}.jsonl")
    found = FoundSet(own, own, "", sound=True) if own else find_set(spec.source.set, data, built)
    folder = _beside(file, spec.judge.rubric) or data / "rubrics" / spec.judge.rubric
    pinned = check_pins([file, found.source, *(rubric_files(folder) if folder.is_dir() else [])], data, pins)
    asked = select(read_prompts(found.prompts, strict=True), spec.source.split)
    if not asked:
        raise InstrumentError("instrument.bad_key", file=file, field="prompts.split", reason="no prompt in this split")
    return Instrument(
        **dict(spec),
        rubric=load_rubric(folder),
        asked=asked,
        gold=asked,
        hidden=_hidden(spec.source.hidden, file, built),
        origins=(spec.source.set, *found.origins),
        pinned=pinned and found.sound,
        attribution=found.attribution,
    )


def _hidden(name: str | None, file: Path, built: Path | None) -> tuple[Prompt, ...]:
    """The prompts of the hidden set; none where this machine does not have them, as most do not."""
    if name is None:
        return ()
    own = _beside(file, f"{name}.jsonl") or (built / f"{name}.jsonl" if built else None)
    if own is None or not own.is_file():
        return ()
    return read_prompts(own, strict=True)


def instrument_names(data: Path = DATA) -> list[str]:
    """Names of the bundled instruments."""
    return sorted(f.stem for f in (data / "instruments").glob("*.toml"))


def check_pins(files: list[Path], data: Path = DATA, pins: Path | None = None) -> bool:
    """Refuse a pinned file that changed. Files outside `data` carry no pin.

    Returns:
        Whether every file is pinned.

    Raises:
        InstrumentError: names the file.
    """
    known = _read_pins(pins or data / "pins.json")
    every = True
    for file in files:
        inside = file.resolve().is_relative_to(data.resolve())
        relative = file.resolve().relative_to(data.resolve()).as_posix() if inside else ""
        every = every and relative in known
        if relative in known and known[relative] != file_digest(file):
            raise InstrumentError("instrument.pin_mismatch", file=file)
    return every


def pin(data: Path = DATA) -> list[str]:
    """Pin every data file that has no pin yet; returns their names.

    Raises:
        InstrumentError: a file that is pinned already was edited.
    """
    patterns = ("instruments/*.toml", "prompts/*.jsonl", "prompts/*.csv", "rubrics/*/*", "sets/*.toml")
    files = sorted(f for pattern in patterns for f in data.glob(pattern) if f.is_file())
    check_pins(files, data)
    known = _read_pins(data / "pins.json")
    fresh = {f.relative_to(data).as_posix(): file_digest(f) for f in files}
    (data / "pins.json").write_text(json.dumps({**known, **fresh}, indent=1, sort_keys=True) + "\n")
    return sorted(set(fresh) - set(known))


def _read_pins(file: Path) -> dict[str, str]:
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _spec(file: Path) -> InstrumentFile:
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        return InstrumentFile.model_validate(raw, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        kind = "unknown_key" if first["type"] == "extra_forbidden" else "bad_key"
        raise InstrumentError(f"instrument.{kind}", file=file, field=key, reason=first["msg"]) from error
    except (OSError, ValueError) as error:
        raise InstrumentError("instrument.bad_toml", file=file, reason=error) from error


def _beside(file: Path, name: str) -> Path | None:
    candidate = file.parent / name
    return candidate if candidate.exists() else None
