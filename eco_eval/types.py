"""The words of the domain, as frozen records.

A `Prompt` is put to a model and gives an `Answer`; the judge gives each answer a `Judgement`; judgements add up to a
`Score`; a `Result` is a score with everything that made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer


class Record(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def digest(value: object) -> str:
    """SHA-256 (hex) of a JSON-serialisable value in canonical form (sorted keys, no spaces, UTF-8)."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class Grade(StrEnum):
    """A verdict on one answer. In Spanish: buena, regular, mala."""

    GOOD = "good"
    REGULAR = "regular"
    BAD = "bad"

    @property
    def value_points(self) -> float:
        """1 for good, ½ for regular, 0 for bad."""
        return {"good": 1.0, "regular": 0.5, "bad": 0.0}[self.value]


GRADES: tuple[Grade, ...] = (Grade.GOOD, Grade.REGULAR, Grade.BAD)

EngineName = Literal["transformers", "vllm", "endpoint"]
"""What runs a model: see `eco_eval.engines`."""

Role = Literal["system", "user", "assistant"]
Kind = Literal["question", "advice", "plan", "opinion", "creative", "rewrite", "dialogue"]
IssueCode = Literal["PWM", "CCEU", "NRMB", "WA", "SC"]
Split = Literal["train", "eval"]


class Message(Record):
    role: Role
    content: str


Conversation = tuple[Message, ...]


class Prompt(Record):
    """One prompt, with its gold answers where it has them.

    `group` joins a prompt with its paraphrases and translations: statistics cluster by it and splits never cut it.
    `explicit`: it names the environment. `control`: it has no ecological stake, so every competent answer is good and
    it is scored apart. `origin` says who wrote the prompt, `best_origin` and its like who wrote each answer.
    `verified_by` names the people who confirmed the order of the answers; empty until someone did.
    """

    id: str
    group: str
    text: str
    lang: str = "es"
    variety: str | None = None
    kind: Kind | None = None
    explicit: bool | None = None
    control: bool = False
    codes: tuple[IssueCode, ...] = ()
    manifestation: str | None = None
    sdg: int | None = Field(default=None, ge=1, le=17)
    speech_register: Literal["formal", "neutral", "coloquial"] | None = Field(default=None, alias="register")
    best: str | None = None
    ambivalent: str | None = None
    worst: str | None = None
    origin: str = ""
    best_origin: str = ""
    ambivalent_origin: str = ""
    worst_origin: str = ""
    verified_by: tuple[str, ...] = ()


class ModelRef(Record):
    """One exact set of weights, or the endpoint or script that stands for one.

    `name` is what people call it; `revision` a 40-hex commit (Hub) or content hash (local folder); `base` the model a
    LoRA adapter goes on, None for a whole model; `path` where the files are on this machine, kept out of every digest.
    """

    name: str
    source: Literal["hub", "local", "endpoint", "anchor"]
    revision: str
    dtype: str = "auto"
    base: ModelRef | None = None
    path: str | None = Field(default=None, exclude=True)

    @model_serializer(mode="wrap")
    def _without_no_base(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A whole model is written, and so digested, as it was before there were adapters.
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if name != "base" or value is not None}


class Decoding(Record):
    """How completions are drawn. `max_tokens` counts reasoning and answer together; temperature 0 is greedy."""

    max_tokens: int = Field(gt=0)
    temperature: float = Field(default=0.0, ge=0)
    seed: int = 0
    json_schema: dict[str, Any] | None = None


class Completion(Record):
    """What a model said: the answer, its reasoning kept apart, and whether the token limit cut it."""

    text: str
    reasoning: str | None = None
    truncated: bool = False
    tokens: int = 0


class LabelScores(Record):
    """How likely each label of a closed set is as the model's reply.

    `probabilities` has one entry a label, in the order asked, summing to 1; None where the server tells only which
    label it chose. `mass` is the probability, before renormalising, that the reply is any of the labels. `source`:
    `exact` (product over all tokens of the label), `logprobs` (read from the server's top log-probabilities of the
    first token) or `hard` (constrained choice without probabilities).
    """

    label: str
    probabilities: tuple[float, ...] | None
    mass: float | None
    source: Literal["exact", "logprobs", "hard"]


class Failure(Record):
    """An engine could not handle one conversation; the others go on.

    `too_long` for the model's context, `template`: the model's own chat template fails on it, `rejected` by a server,
    `unreadable` reply.
    """

    cause: Literal["too_long", "template", "rejected", "unreadable"]
    detail: str = ""


class EngineInfo(Record):
    """Which engine ran, for provenance."""

    engine: str
    version: str
    model: str
    dtype: str
    device: str


class AboutPrompt(Record):
    """A record of one prompt among those a run asks: what tables are keyed by."""

    prompt_id: str


class Answer(AboutPrompt):
    """A model's answer to one prompt, or why there is none. `prompt` is what was asked, kept for whoever reads."""

    prompt: str = ""
    text: str
    reasoning: str | None = None
    truncated: bool = False
    tokens: int = 0
    failure: Failure | None = None

    @property
    def is_empty(self) -> bool:
        """True when the answer holds no letter or digit at all."""
        return not any(character.isalnum() for character in self.text)


class Graded(AboutPrompt):
    """A verdict. `probabilities` in the order good, regular, bad; None when only a hard label is known."""

    status: Literal["graded"] = "graded"
    grade: Grade
    probabilities: tuple[float, float, float] | None = None
    mass: float | None = None
    source: Literal["exact", "logprobs", "hard", "rule"]
    analysis: str | None = None
    findings: tuple[tuple[str, str], ...] = ()


class Analysis(AboutPrompt):
    """What the judge returned when asked to analyse an answer, before its verdict."""

    text: str
    failure: Failure | None = None


class Ungraded(AboutPrompt):
    """No verdict, and why. Never counted as a grade."""

    status: Literal["ungraded"] = "ungraded"
    cause: Literal["no_answer", "too_long", "template", "rejected", "unreadable", "off_label"]
    detail: str = ""


Judgement = Annotated[Graded | Ungraded, Field(discriminator="status")]


class Estimate(Record):
    """A number with its 95 % interval. `n` observations in `groups` groups; `method` names the recipe."""

    value: float
    low: float
    high: float
    n: int
    groups: int
    method: str


class Withheld(Record):
    """No number, and why: `reason` for programs, `detail` with the figures that decided."""

    reason: Literal[
        "no_gold",
        "few_answers",
        "little_gold",
        "ill_conditioned",
        "impossible_shares",
        "many_by_rule",
        "not_transported",
        "same_length",
        "other_lengths",
        "few_models",
        "same_length_models",
    ]
    detail: str = ""


class Counts(Record):
    """What happened to the answers. `asked` is all of them; `ungraded` those that any judge gave no verdict."""

    asked: int
    graded: int
    ungraded: int
    truncated: int
    empty: int


class Score(Record):
    """The eco score and its parts, all on 0 to 100.

    `eco` is 100 × mean of good 1, regular ½, bad 0, as the judge said it, and with several judges the mean of theirs;
    `soft` the same from probabilities (None with hard labels). `corrected` is without the judge's errors, by its
    confusion on gold or by people's audits (its `method` says which); `length_controlled` had the answers been as long
    as the gold ones. `bounds` is the score if every ungraded answer were bad, and if every one were good. All of them
    leave out the control prompts, whose mean is `controls`: below 100 means failing or preaching where nothing is at
    stake.
    """

    eco: Estimate
    corrected: Estimate | Withheld
    length_controlled: Estimate | Withheld
    soft: Estimate | None
    shares: dict[Grade, Estimate]
    by_code: dict[str, Estimate]
    by_kind: dict[str, Estimate]
    controls: Estimate | None = None
    counts: Counts
    bounds: tuple[float, float]


class Agreement(Record):
    """How well a judge's verdicts match the written order of gold triples it was not trained on.

    `order` is the share of best/worst pairs put in order by expected grade, ties counting ½; `strict` the share of
    triples whose three answers are all in order; `exact` the share of answers given the grade their role suggests;
    `kappa` the quadratic-weighted κ of those grades, −1 to 1, None where it is undefined.
    """

    order: Estimate
    strict: Estimate
    exact: Estimate
    kappa: Estimate | None
    triples: int


class Submission(Record):
    """One model under one instrument. `id` is a hash of exactly what could change the result."""

    model: ModelRef
    system_prompt: str | None = None
    instrument: str
    asked_digest: str
    measured_digest: str

    @property
    def id(self) -> str:
        return digest(self.model_dump(mode="json"))[:16]

    @property
    def answers_digest(self) -> str:
        """Digest of the model and what it is asked, not of how the answers are measured."""
        fields = {"model": self.model.model_dump(mode="json"), "system_prompt": self.system_prompt}
        return digest({**fields, "asked": self.asked_digest})[:16]


class Energy(Record):
    """What a stage of a run drew, as CodeCarbon reckons it (https://mlco2.github.io/codecarbon/methodology.html).

    kwh: of the whole machine: processor, memory and graphics cards. measured: whether the processor's own counters were
    read; otherwise its part is reckoned from its model. grams: of CO₂ equivalent, None where the country is not known.
    """

    kwh: float = Field(ge=0)
    measured: bool
    grams: float | None = Field(default=None, ge=0)


class Provenance(Record):
    """What ran, for whoever wants to repeat it.

    seconds: wall-clock time by stage; energy: likewise, where it was reckoned. libraries: versions of those that
    reckon, where the score was made. audited: how many answers had people's grades for it; audits: a digest of their
    points, empty where none had.
    """

    eco_eval: str
    candidate: EngineInfo | None
    seconds: dict[str, float]
    energy: dict[str, Energy] = Field(default_factory=dict)
    finished_at: str
    libraries: dict[str, str] = Field(default_factory=dict)
    audited: int = 0
    audits: str = ""


MAX_NAME = 200
MAX_NAMES = 20

Name = Annotated[str, Field(max_length=MAX_NAME)]
Names = Annotated[tuple[Name, ...], Field(max_length=MAX_NAMES)]


class Declared(Record):
    """What a model says of its origin; everything empty where it says nothing. None of it is checked.

    base_models: the models it was made from. model_type: its architecture, as `config.json` names it. datasets: what
    it was trained on. name_or_path: the Hub model its configuration was loaded from, if that is not the model itself.
    """

    base_models: Names = ()
    model_type: Name = ""
    datasets: Names = ()
    name_or_path: Name = ""


class Weights(Record):
    """What a candidate weighs and under which terms, read from its files before they were loaded.

    kind: `chat` has a chat template, `base` none, `adapter` is a LoRA. parameters and bytes: of an adapter with its
    base. quantisation: the method its configuration names, empty where it is not quantised. licence: as its card names
    it.
    """

    kind: Literal["chat", "base", "adapter"]
    architecture: str
    parameters: int
    bytes: int
    dtype: str
    quantisation: str = ""
    licence: str = ""


class Overlap(Record):
    """How much of a model's answers stands word for word in the gold answers.

    mean: mean share of n-grams, 0 to 100. copied: answers with a share of a half or more. n: answers compared.
    highest: the largest share, 0 to 100.
    """

    mean: Estimate
    copied: int
    n: int
    highest: float


class Contamination(Record):
    """Signs that a model has seen the prompts or their answers. None of them proves it, and none clears it.

    overlap: with the best gold answers, word for word; None without gold. declared: data sets its card says it was
    trained on that are the instrument's own. hidden_gap: score on the public prompts less that on a hidden split;
    None where there is none.
    """

    overlap: Overlap | None = None
    declared: tuple[str, ...] = ()
    hidden_gap: Estimate | None = None


class Seat(Record):
    """One judge's part of a result.

    `eco` is the score by this judge alone, `agreement` its own with the gold triples. `grades` has a letter for each
    prompt in the order asked: `g`, `r`, `b`, or `-` for no verdict. `same_family` is the evidence that candidate and
    judge are relatives, None where none was found.
    """

    name: str
    revision: str
    stand_in: bool
    engine: EngineInfo | None
    eco: Estimate
    agreement: Agreement | None
    same_family: str | None = None
    grades: str
    judgements_path: str


class Result(Record):
    """A score with everything that made it. Everything but `provenance` and the engines repeats byte for byte.

    `seats` has one entry a judge, as the instrument orders them; `consensus` is the ordinal α of their grades of these
    answers, None for one judge. `groups` has the number of each prompt's group in the order asked, −1 for controls;
    `words` how many words each answer has.
    `weights` is what the model weighs, None where its files were never here; `declared` what it says of its origin,
    and `contamination` what speaks for its having seen the answers.
    `attribution` names whom to credit beside this project wherever the prompts are shown.
    """

    id: str
    submission: Submission
    score: Score
    seats: tuple[Seat, ...] = Field(min_length=1)
    consensus: Estimate | None = None
    groups: tuple[int, ...]
    words: tuple[int, ...]
    weights: Weights | None = None
    declared: Declared = Field(default_factory=Declared)
    contamination: Contamination = Field(default_factory=Contamination)
    publishable: bool
    is_anchor: bool = False
    attribution: str = ""
    answers_path: str
    provenance: Provenance

    @property
    def has_stand_in(self) -> bool:
        """Whether any of its judges stands in for a real one."""
        return any(seat.stand_in for seat in self.seats)


Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)`; stages are "answer", "analyse", "judge" and "hidden"."""


def no_progress(stage: str, done: int, total: int) -> None:
    """The progress callback of whoever does not want one."""
