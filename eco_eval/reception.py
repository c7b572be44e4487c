"""Where a stranger's wish becomes a request: what was sent is cleaned, the model examined, and then it is asked for.

Nothing here trusts what it is given: a value may be of any type and length. Whatever is wrong with one comes out as an
`EcoEvalError` that says so.
"""

from __future__ import annotations

import threading
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, Literal, TypeVar, get_args

from pydantic import Field

from eco_eval.candidates import Intake, Limits, inspect
from eco_eval.candidates.files import check_name, shown
from eco_eval.errors import EcoEvalError, EngineError, InputError, SubmissionRejected
from eco_eval.instrument import Instrument, instrument_names, load_instrument
from eco_eval.queue import Entry, Pending, Queue, Quotas, Request, WorkerSeen
from eco_eval.results import result_path, withdraw_result
from eco_eval.settings import Settings
from eco_eval.store import board_store
from eco_eval.submitting import resolve_judges, submit
from eco_eval.types import Record, Submission

T = TypeVar("T")

Engine = Literal["vllm", "transformers"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

LONGEST_PROMPT = 4000
"""Characters of a system prompt."""

KEPT = 180.0
"""Seconds for which what was found out about a model counts: who looks and then asks gets what they saw."""

SILENT = 60.0
"""Seconds after which a worker that is not heard of counts as gone."""

PACE = 5.0
"""Seconds for which it counts how long requests took and how many workers live."""

LOOKING = 8
"""Models looked up on the Hub at once."""

LONGEST_LOOK = 30.0
"""Seconds that others wait for their turn."""

_HUB_PAGE = "https://huggingface.co/"


class Wanted(Record):
    """How a model is to be evaluated. dtype: `auto` for the checkpoint's own. system_prompt: None for none."""

    instrument: str
    engine: Engine
    dtype: Dtype = "auto"
    system_prompt: str | None = Field(default=None, max_length=LONGEST_PROMPT)


class Examined(Record):
    """A model that may be asked for, and the submission it would be."""

    intake: Intake
    submission: Submission
    engine: Engine


class Asked(Record):
    """A request as it stands after it was asked for. is_new: nobody had asked for just this before."""

    entry: Entry
    is_new: bool


def clean_name(value: object) -> str:
    """A model's name as somebody typed it, or its address on the Hub, as the Hub would call it.

    Raises:
        SubmissionRejected: no name the Hub can have; paths are none.
    """
    if not isinstance(value, str):
        raise SubmissionRejected("model.not_found", model=shown(str(value)[:80]))
    # Cut first: of a megabyte of spaces nothing is to be looked at.
    name = value[:2000].strip().removeprefix(_HUB_PAGE).rstrip("/")
    check_name(name)
    return name


def clean_prompt(value: object) -> str | None:
    """A system prompt as somebody typed it; None for an empty one.

    Raises:
        InputError: it is too long, or no text that a tokenizer and a database take.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise InputError("reception.bad_text", code=type(value).__name__)
    if len(value) > LONGEST_PROMPT:
        raise InputError("reception.long_prompt", length=len(value), limit=LONGEST_PROMPT)
    text = value.replace("\r\n", "\n").strip()
    odd = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), None)
    if odd is not None:
        raise InputError("reception.bad_text", code=f"U+{ord(odd):04X}")
    return text or None


def choice(field: str, value: object, known: Sequence[str]) -> str:
    """One of several words.

    Raises:
        InputError: it is none of them.
    """
    if isinstance(value, str) and value in known:
        return value
    raise InputError("reception.bad_choice", field=field, value=shown(str(value)[:80]), known=", ".join(known))


def expected_wait(position: int, stages: Mapping[str, tuple[int, float]], workers: int) -> float | None:
    """Seconds until a request at this place has been run, if the next ones take as long as those before on average.

    Args:
        position: its place among those that wait, from 1.
        stages: for each stage how often it was run and the seconds of all its runs together.
        workers: how many live now.

    Returns:
        None where nothing was run yet: there is nothing to reckon with.
    """
    runs = max((count for count, _ in stages.values()), default=0)
    if not runs:
        return None
    return position * sum(seconds for _, seconds in stages.values()) / runs / max(1, workers)


class Reception:
    """What the page and its API ask. Safe for threads; the database is opened when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.quotas = Quotas.of(settings)
        self._queue: Queue | None = None
        self._opening = threading.Lock()
        self._models: Kept[Intake] = Kept()
        self._instruments: Kept[Instrument] = Kept()
        self._offered: Kept[tuple[str, ...]] = Kept()
        self._pace: Kept[tuple[dict[str, tuple[int, float]], int]] = Kept(seconds=PACE, most=1)
        self._looking = threading.BoundedSemaphore(LOOKING)

    def queue(self) -> Queue:
        """The queue.

        Raises:
            InputError: the libraries it needs are not installed.
            StoreError: its database cannot be reached.
        """
        with self._opening:
            if self._queue is None:
                try:
                    self._queue = Queue(self.settings.queue)
                except ModuleNotFoundError as error:
                    raise InputError("data.extra_missing", library=error.name, extra="service") from error
            return self._queue

    def close(self) -> None:
        """Give the database's connections back."""
        with self._opening:
            if self._queue is not None:
                self._queue.close()
            self._queue = None

    def workers(self) -> list[WorkerSeen]:
        """Workers that live, as far as this queue's database knows; none where it cannot be asked."""
        try:
            return self.queue().workers(SILENT)
        except EcoEvalError:
            return []

    def instruments(self) -> tuple[str, ...]:
        """Names of the instruments that can be asked for here: their prompts are there, and their judges can be."""
        return self._offered.get("", self._usable)

    def wanted(self, instrument: object, engine: object, dtype: object, system_prompt: object) -> Wanted:
        """What somebody sent, checked.

        Raises:
            InputError: one of them is nothing that can be asked for.
        """
        return Wanted.model_validate(
            {
                "instrument": choice("instrument", instrument, self.instruments()),
                "engine": choice("engine", engine, ENGINES),
                "dtype": choice("dtype", dtype, DTYPES),
                "system_prompt": clean_prompt(system_prompt),
            }
        )

    def examine(self, name: object, wanted: Wanted) -> Examined:
        """What a model on the Hub is, and the submission it would be. Nothing is asked for yet.

        Raises:
            SubmissionRejected: it cannot be evaluated; says why.
            InputError: a judge cannot be used from here.
            EngineError: the Hub cannot be reached, or too many look things up at once.
        """
        hub_name, limits = clean_name(name), self._limits()
        intake = self._models.get((hub_name, limits.max_bytes), lambda: self._inspect(hub_name, limits))
        measure = self._instruments.get(wanted.instrument, lambda: self._measure(wanted.instrument))
        model = intake.ref if wanted.dtype == "auto" else intake.ref.model_copy(update={"dtype": wanted.dtype})
        return Examined(intake=intake, submission=submit(model, measure, wanted.system_prompt), engine=wanted.engine)

    def found(self, examined: Examined) -> Entry | None:
        """The request there is for just this already, if there is one.

        Raises:
            InputError, StoreError: as `queue`.
        """
        try:
            return self.queue().get(examined.submission.id)
        except InputError as error:
            if error.key != "queue.unknown":
                raise
            return None

    def ask(self, examined: Examined, user: str) -> Asked:
        """Ask for what was examined. Where just this is asked for already, that is what comes back.

        Args:
            user: who the server says asks.

        Raises:
            InputError: a quota is used up.
            StoreError: the database cannot be reached.
        """
        request = Request(
            submission=examined.submission, user=user, engine=examined.engine, weights=examined.intake.weights
        )
        entry, is_new = self.queue().enter(request, self.quotas)
        return Asked(entry=entry, is_new=is_new)

    def withdraw(self, request_id: str, user: str) -> Entry:
        """Take one's own request back, and its result off the board if it has one.

        Raises:
            InputError: there is no such request, or it is somebody else's.
            StoreError: the database or the store cannot be reached.
        """
        before = self.queue().get(request_id).state.state
        entry = self.queue().withdraw(request_id, user)
        store = board_store(self.settings)
        # One that runs may be publishing its result at this moment.
        if before == "running" or store.list(result_path(entry.request.id)):
            withdraw_result(store, entry.request.id, user)
        return entry

    def wait(self, entry: Entry) -> float | None:
        """Seconds until it has been run, as far as what was run before tells; None where nothing does.

        Raises:
            StoreError: the database cannot be reached.
        """
        if not isinstance(entry.state, Pending):
            return None
        stages, workers = self._pace.get("", lambda: (self.queue().stage_seconds(), len(self.workers())))
        return expected_wait(entry.state.position, stages, workers)

    def _inspect(self, name: str, limits: Limits) -> Intake:
        # A slow Hub must not take every thread of the page.
        if not self._looking.acquire(timeout=LONGEST_LOOK):
            raise EngineError("reception.busy", retryable=True)
        try:
            return inspect(name, limits)
        finally:
            self._looking.release()

    def _limits(self) -> Limits:
        about = [worker.about for worker in self.workers()]
        sizes = [one.max_bytes for one in about if one is not None and one.max_bytes is not None]
        # A worker that does not say what it takes might take anything.
        known = bool(sizes) and len(sizes) == len(about)
        return Limits(strangers=True, max_bytes=max(sizes) if known else None)

    def _measure(self, name: str) -> Instrument:
        loaded = load_instrument(name, built=self.settings.prompts_dir)
        return resolve_judges(loaded, self.settings, download=False)[0]

    def _usable(self) -> tuple[str, ...]:
        return tuple(name for name in instrument_names() if self._is_usable(name))

    def _is_usable(self, name: str) -> bool:
        try:
            instrument = load_instrument(name, built=self.settings.prompts_dir)
        except InputError:
            return False
        here = self.settings.models_dir
        judges = [seat.judge for seat in instrument.seats]
        trained = all(j.source != "trained" or (here / j.model / "config.json").is_file() for j in judges)
        return trained and not instrument.is_served


class Kept(Generic[T]):
    """What was found out lately, and not found out again for a while. Of many things those asked for last are kept."""

    def __init__(self, seconds: float = KEPT, most: int = 500) -> None:
        self._seconds = seconds
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()

    def get(self, key: Hashable, find: Callable[[], T]) -> T:
        """What is kept under the key, or else what `find` returns. What it raises is not kept."""
        now = time.monotonic()
        with self._lock:
            until, value = self._kept.get(key, (0.0, None))
            if value is not None and now < until:
                self._kept.move_to_end(key)
                return value
        value = find()
        with self._lock:
            self._kept[key] = (now + self._seconds, value)
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return value
