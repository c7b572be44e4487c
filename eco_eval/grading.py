"""Batches of answers that people grade on the page: drawn for one person, kept here until whole, then published.

A batch is a `people.Sample` of a few answers, so its grades count as those of `eco-eval audits` do. Its answers are
drawn from those that no sample has yet, of the models with the fewest graded answers: what is drawn of a model remains
a random sample of it, whatever is graded when. Which answers come next depends on how many grades there are, never on
what they say.

People are published under a pseudonym: see `pseudonym`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from eco_eval.errors import ConflictError, InputError, StoreError
from eco_eval.instrument import load_instrument
from eco_eval.people import (
    FOLDER,
    TRIES,
    Audit,
    Filled,
    Grades,
    Kept,
    Sample,
    Shown,
    Subject,
    answer_id,
    draw,
    keep_grades,
    keep_sample,
    load_audits,
)
from eco_eval.people_report import JudgeAgreement, report
from eco_eval.results import details
from eco_eval.rubric import Rubric
from eco_eval.settings import Settings
from eco_eval.store import HubStore, Store, Version, parse_record
from eco_eval.store.index import load_results_indexed
from eco_eval.types import Grade, Prompt, Record, Result

BATCH = 20
"""Answers of a batch: some ten minutes, and few enough that a batch is finished once it is begun."""

MODELS = 4
"""Models that a batch is of."""

GRADERS = 2
"""People who grade the same batch, so that it can be told how far people agree."""

RECENT = 10
"""A person's latest batches that agreement is told of."""


class Batch(Record):
    """A batch as far as one person came. `given` has a grade, or None for a skipped answer, of the first ones shown."""

    token: str
    sample: Sample
    shown: tuple[Shown, ...]
    given: tuple[Grade | None, ...] = ()

    @property
    def place(self) -> int:
        """How many have been graded or skipped."""
        return len(self.given)

    @property
    def ticket(self) -> str:
        """What a page has to show to act on just what it shows."""
        return f"{self.token}-{self.place}"

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to grade."""
        return self.place >= len(self.shown)


class Agreed(Record):
    """What a person's grades say beside the judges'. answers: graded in the latest batches, of this version."""

    answers: int
    batches: int
    judges: tuple[JudgeAgreement, ...]


class Grading:
    """Everybody's batches. Safe for threads; one process keeps them for a store."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.settings = settings
        self._store = store
        self._audits = Remembered(store, FOLDER)
        self._folder = settings.data_dir / ".grading"
        self._key = b""
        self._lock = threading.Lock()
        self._turns: dict[str, threading.RLock] = {}
        self._batches: dict[str, Batch] = {}

    def name(self, user: str) -> str:
        """Whom a person is published as."""
        with self._lock:
            self._key = self._key or secret_key(self.settings)
        return pseudonym(user, self._key)

    def open(self, user: str) -> Batch | None:
        """The batch a person is in the middle of, also after this process began anew.

        Raises:
            StoreError: what was kept of it cannot be read; it is put aside.
        """
        name = self.name(user)
        with self._turn(name):
            return self._open(name)

    def begin(self, user: str) -> Batch:
        """The batch a person is in the middle of, or a new one.

        Raises:
            InputError: there is nothing to grade.
            StoreError: the store cannot be read.
        """
        name = self.name(user)
        with self._turn(name):
            batch = self._open(name)
            if batch is None:
                sample, shown = self._next(name)
                batch = self._keep(name, Batch(token=secrets.token_hex(8), sample=sample, shown=tuple(shown)))
            return batch

    def grade(self, user: str, ticket: object, grade: Grade | None) -> Batch:
        """Grade the answer that is shown, or skip it. Nothing happens if the ticket is of an answer already graded.

        Raises:
            InputError: the ticket is of no batch of this person.
            StoreError: it cannot be kept.
        """
        name = self.name(user)
        with self._turn(name):
            batch = self._of(name, ticket)
            if ticket != batch.ticket or batch.is_whole:
                return batch
            return self._keep(name, batch.model_copy(update={"given": (*batch.given, grade)}))

    def undo(self, user: str, ticket: object) -> Batch:
        """Go back to the answer before.

        Raises:
            InputError, StoreError: as `grade`.
        """
        name = self.name(user)
        with self._turn(name):
            batch = self._of(name, ticket)
            if ticket != batch.ticket or not batch.given:
                return batch
            return self._keep(name, batch.model_copy(update={"given": batch.given[:-1]}))

    def publish(self, user: str, ticket: object) -> Kept | None:
        """Put a whole batch into the store, as one commit where that is a Hub; None where every answer was skipped.

        Raises:
            InputError: the ticket is of no batch of this person, or something is left to grade.
            StoreError, ConflictError: it could not be written. It stays as it is, to be tried again.
        """
        name = self.name(user)
        with self._turn(name):
            batch = self._of(name, ticket)
            if not batch.is_whole:
                raise InputError("grading.unfinished", left=len(batch.shown) - batch.place)
            graded = zip(batch.shown, batch.given, strict=True)
            given = {shown.id: (grade, "") for shown, grade in graded if grade is not None}
            kept = self._written(Filled(batch.sample, given, ()), name) if given else None
            self._batches.pop(name, None)
            self._file(name).unlink(missing_ok=True)
            return kept

    def agreement(self, user: str) -> Agreed | None:
        """A person's published grades beside the judges', over the latest batches; None for nobody's.

        Raises:
            StoreError: the store cannot be read.
        """
        name = self.name(user)
        mine = [audit for audit in load_audits(self._audits) if any(g.grader == name for g in audit.graders)]
        if not mine:
            return None
        mine = [audit for audit in mine if audit.sample.asked_digest == mine[-1].sample.asked_digest][-RECENT:]
        items = {item.id: item for audit in mine for item in audit.sample.items}
        places = {(item.id, place): place for audit in mine for item in audit.sample.items for place in item.of}
        items = {
            key: item.model_copy(update={"of": tuple(place for (owner, _), place in places.items() if owner == key)})
            for key, item in items.items()
        }
        grades = {k: v for audit in mine for g in audit.graders if g.grader == name for k, v in g.grades.items()}
        whole = mine[-1].sample.model_copy(update={"items": tuple(items.values())})
        alone = Audit(whole, (Grades(grader=name, sample=whole.id, grades=grades),))
        models = {model.digest for audit in mine for model in audit.sample.models}
        results = [one for one in self._results() if one.submission.answers_digest in models]
        judges = report([alone], self._subjects(results)).samples[0].judges
        return Agreed(answers=len(grades), batches=len(mine), judges=judges)

    def rubric(self) -> Rubric:
        """The rubric of what is graded here.

        Raises:
            InputError: there is nothing to grade, or its instrument is not on this machine.
            StoreError: the store cannot be read.
        """
        return load_instrument(_instrument(self._version()), built=self.settings.prompts_dir).rubric

    def _turn(self, name: str) -> threading.RLock:
        with self._lock:
            return self._turns.setdefault(name, threading.RLock())

    def _of(self, name: str, ticket: object) -> Batch:
        batch = self._open(name)
        if batch is None or not isinstance(ticket, str) or ticket.partition("-")[0] != batch.token:
            raise InputError("grading.lost")
        return batch

    def _open(self, name: str) -> Batch | None:
        if name not in self._batches:
            file = self._file(name)
            try:
                data = file.read_bytes()
            except FileNotFoundError:
                return None
            except OSError as error:
                raise StoreError("store.unreadable", path=file.name, reason=error.strerror or error) from error
            try:
                self._batches[name] = parse_record(data, file.name, Batch)
            except StoreError:
                file.replace(file.with_suffix(".broken"))
                raise
        return self._batches[name]

    def _keep(self, name: str, batch: Batch) -> Batch:
        write_private(self._file(name), batch.model_dump_json().encode())
        self._batches[name] = batch
        return batch

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _written(self, filled: Filled, name: str) -> Kept:
        for attempt in range(TRIES):
            try:
                with one_commit(self._store, f"Grades of {filled.sample.id}"):
                    sample = keep_sample(self._store, filled.sample)
                    return keep_grades(self._store, filled._replace(sample=sample), name)
            except ConflictError:
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _results(self) -> list[Result]:
        return [one for one in load_results_indexed(self._store)[0] if not one.is_anchor]

    def _version(self) -> list[Result]:
        """Results of the version that most models were asked."""
        results = self._results()
        if not results:
            raise InputError("grading.no_results")
        asked = {(one.submission.asked_digest, one.submission.answers_digest) for one in results}
        (version, _), *_ = sorted(Counter(version for version, _ in asked).items(), key=lambda one: (-one[1], one[0]))
        return [one for one in results if one.submission.asked_digest == version]

    def _subjects(self, results: Iterable[Result]) -> list[Subject]:
        return [Subject(result, details(self._store, result)) for result in results]

    def _next(self, name: str) -> tuple[Sample, list[Shown]]:
        """A batch that somebody else has too, or a new one."""
        results = self._version()
        version = results[0].submission.asked_digest
        models: dict[str, list[Result]] = {}
        for result in results:
            models.setdefault(result.submission.answers_digest, []).append(result)
        audits = [audit for audit in load_audits(self._audits) if audit.sample.asked_digest == version]
        found = {audit.sample.id: (audit.sample, {g.grader for g in audit.graders}) for audit in audits}
        for other, batch in list(self._batches.items()):
            if batch.sample.asked_digest == version:
                found.setdefault(batch.sample.id, (batch.sample, set()))[1].add(other)
        for sample, graders in sorted(found.values(), key=lambda one: (-len(one[1]), one[0].made_at)):
            open_still = name not in graders and len(graders) < GRADERS and len(sample.items) <= BATCH
            if open_still and all(model.digest in models for model in sample.models):
                same = [one for model in sample.models for one in models[model.digest]]
                shown = shown_again(sample, self._subjects(same))
                if shown:
                    return sample, shown
        prompts = {p.id: p for p in load_instrument(_instrument(results), built=self.settings.prompts_dir).asked}
        return self._new(models, audits, [sample for sample, _ in found.values()], prompts)

    def _new(
        self,
        models: Mapping[str, Sequence[Result]],
        audits: Sequence[Audit],
        drawn: Sequence[Sample],
        prompts: Mapping[str, Prompt],
    ) -> tuple[Sample, list[Shown]]:
        """Answers of the models with the fewest grades, among those that no sample has where such are left."""
        groups: dict[str, set[str]] = {}
        for audit in audits:
            graded = set().union(*(grades.grades for grades in audit.graders))
            for item in audit.sample.items:
                for place in item.of if item.id in graded else ():
                    groups.setdefault(place.model, set()).add(item.group)
        chance = secrets.SystemRandom()
        order = sorted(models, key=lambda model: (len(groups.get(model, ())), chance.random()))[:MODELS]
        known = {(place.model, item.id) for sample in drawn for item in sample.items for place in item.of}
        subjects = self._subjects(result for model in order for result in models[model])
        left = [
            one._replace(
                readings=[
                    reading
                    for reading in one.readings
                    if (one.result.submission.answers_digest, answer_id(reading.answer.prompt, reading.answer.text))
                    not in known
                ]
            )
            for one in subjects
        ]
        count, seed = BATCH // len(order), secrets.randbelow(2**32)
        try:
            return draw(left, prompts, count, seed)
        except InputError as error:
            if error.key != "audits.nothing_to_draw":
                raise
            return draw(subjects, prompts, count, seed)


class Remembered:
    """Reads of one folder of a store; of a Hub's, whose every read asks it again, a content is fetched once."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._kept: dict[tuple[str, str], tuple[bytes, Version]] = {}

    def read(self, path: str) -> tuple[bytes, Version] | None:
        if not isinstance(self._store, HubStore):
            return self._store.read(path)
        content = self._store.contents(self._folder).get(path)
        if content is None:
            return None
        key = (path, content.oid)
        if key not in self._kept:
            found = self._store.read(path)
            if found is None or not content.is_of(found[0]):
                # Somebody wrote it in between.
                return found
            self._kept[key] = found
        return self._kept[key]

    def list(self, prefix: str) -> list[str]:
        return self._store.list(prefix)

    def write(self, path: str, data: bytes, *, expected: Version = "any") -> Version:
        return self._store.write(path, data, expected=expected)

    def delete(self, path: str) -> None:
        self._store.delete(path)


def pseudonym(user: str, key: bytes) -> str:
    """The name a person is published under: `persona-` and 12 hex digits of HMAC-SHA-256 of who the server says it is.

    The same person has the same one as long as the key is the same; without the key nobody can tell whose it is, nor
    try whose it could be. What is published on a Hub stays in its history: a name could not be taken back.
    """
    return f"persona-{hmac.new(key, user.encode(), hashlib.sha256).hexdigest()[:12]}"


def secret_key(settings: Settings) -> bytes:
    """The key of pseudonyms: from the secret of a Space's sign-in, which outlives its disk; else of a file made once.

    Raises:
        StoreError: the file cannot be read or made.
    """
    shared = settings.environ.get("OAUTH_CLIENT_SECRET", "")
    if shared:
        return hashlib.sha256(b"eco-eval people\0" + shared.encode()).digest()
    file = settings.data_dir / ".people.key"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".people-")
        with os.fdopen(handle, "wb") as out:
            out.write(secrets.token_bytes(32))
        try:
            # Of two processes that make one, the first one's stands.
            os.link(name, file)
        except FileExistsError:
            pass
        finally:
            Path(name).unlink()
        return file.read_bytes()
    except OSError as error:
        raise StoreError("store.unwritable", path=file.name, reason=error.strerror or error) from error


def shown_again(sample: Sample, subjects: Sequence[Subject]) -> list[Shown]:
    """The answers of a sample in its order, as `people.draw` showed them; nothing if one is not there any more."""
    found: dict[str, Shown] = {}
    for _, readings in subjects:
        for answer, _ in readings:
            key = answer_id(answer.prompt, answer.text)
            cut = answer.truncated or (key in found and found[key].cut)
            found[key] = Shown(key, answer.prompt, answer.text, cut)
    return [found[item.id] for item in sample.items] if all(item.id in found for item in sample.items) else []


def one_commit(store: Store, message: str) -> AbstractContextManager[object]:
    """What is written inside is one commit where the store is a Hub."""
    return store.batch(message) if isinstance(store, HubStore) else nullcontext()


def write_private(file: Path, data: bytes) -> None:
    """Write a file of this machine alone, whole or not at all.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".new-")
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        Path(name).replace(file)
    except OSError as error:
        raise StoreError("store.unwritable", path=file.name, reason=error.strerror or error) from error


def _instrument(results: Sequence[Result]) -> str:
    return results[0].submission.instrument.partition(" ")[0]
