"""People's grades of real answers: which ones they are shown, and what they said of them.

Answers are drawn at random and shown without model, judge or verdict. A grade belongs to an answer's words
(`answer_id`), so whoever gives the same answer to the same prompt later has the same grade. An average over answers
that were not drawn at random for a model says nothing of it: for that, see `points_of`.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from eco_eval.errors import ConflictError, DataError, InputError, StoreError
from eco_eval.results import Reading, display_name
from eco_eval.rows import Row, read_rows
from eco_eval.store import ABSENT, Store, parse_record, read_record, slug
from eco_eval.types import GRADES, Answer, Grade, Graded, Prompt, Record, Result, Submission, digest

FOLDER = "audits/people/"

WORDS = {grade.value: grade for grade in GRADES} | {"buena": Grade.GOOD, "mala": Grade.BAD}
"""What a person may write, in any case. An initial does too where it begins one grade only: `b` begins two."""

LONGEST_NAME = 60
TRIES = 20
"""How often a write is tried while somebody else writes the same grader's file."""


class Drawn(Record):
    """A model answers were drawn for. `digest` is `Submission.answers_digest`: however its answers are judged."""

    name: str
    digest: str
    results: tuple[str, ...]


class Place(Record):
    """Where an answer stands: the digest of its model, and its prompt."""

    model: str
    prompt_id: str


class Item(Record):
    """An answer of a sample, with every place it was drawn for."""

    id: str
    group: str
    of: tuple[Place, ...] = Field(min_length=1)


class Sample(Record):
    """Answers drawn at random, in the order they are shown. `made_at`: UTC, ISO 8601."""

    id: str
    made_at: str
    seed: int
    count: int
    instrument: str
    asked_digest: str
    models: tuple[Drawn, ...]
    items: tuple[Item, ...]


class Given(Record):
    """One person's grade of one answer. `at`: UTC, ISO 8601."""

    grade: Grade
    note: str = ""
    at: str


class Grades(Record):
    """One person's grades of a sample, by answer id."""

    grader: str
    sample: str
    grades: dict[str, Given]


class Subject(NamedTuple):
    """A result with its answers and verdicts."""

    result: Result
    readings: Sequence[Reading]


class Shown(NamedTuple):
    """What a person is shown of an answer."""

    id: str
    prompt: str
    answer: str
    cut: bool

    def row(self) -> dict[str, object]:
        """A line of the file that is filled in."""
        cut = {"cut": True} if self.cut else {}
        return {"id": self.id, "prompt": self.prompt, "answer": self.answer, **cut, "grade": "", "note": ""}


class Filled(NamedTuple):
    """A file that came back: grades and notes by answer id, and the lines without a grade."""

    sample: Sample
    given: Mapping[str, tuple[Grade, str]]
    open: Sequence[int]


class Kept(NamedTuple):
    """What adding a file did. `skipped`: answers without a grade before the last one that has one."""

    grader: str
    new: int
    changed: int
    graded: int
    skipped: int


class Audit(NamedTuple):
    """A sample with what everybody said of it."""

    sample: Sample
    graders: tuple[Grades, ...]


def answer_id(prompt: str, answer: str) -> str:
    """SHA-256 (hex) of a prompt's text and an answer's. Half characters count as `?`, as the store keeps them."""
    return digest([text.encode("utf-8", "replace").decode() for text in (prompt, answer)])


def draw(
    subjects: Sequence[Subject], prompts: Mapping[str, Prompt], count: int, seed: int
) -> tuple[Sample, list[Shown]]:
    """Draw `count` answers of each model, uniformly without replacement, and mix them.

    Only answers with a verdict, to prompts with a stake. Every answer has a number of its own, a hash of seed and id,
    and each model's smallest are drawn (permanent random numbers: Ohlsson 1995, "Coordination of samples using
    permanent random numbers"): so a model's draw depends on no other's, an answer that two models gave is drawn for
    both as a rule, and a larger count with the same seed adds to a smaller. A second hash orders them, so the first n
    are a random sample of any n.

    Args:
        prompts: by id, for groups and controls; a prompt that is not among them is a group of its own.

    Raises:
        InputError: results were asked different things, one is an anchor, or there is nothing to draw.
    """
    _same_version([subject.result for subject in subjects])
    found: dict[str, dict[str, set[str]]] = {}
    shown: dict[str, Shown] = {}
    groups: dict[str, str] = {}
    for result, readings in subjects:
        mine = found.setdefault(result.submission.answers_digest, {})
        for answer, verdicts in readings:
            prompt = prompts.get(answer.prompt_id) or Prompt(id=answer.prompt_id, group=answer.prompt_id, text="")
            if prompt.control or not any(isinstance(verdict, Graded) for verdict in verdicts):
                continue
            key = answer_id(answer.prompt, answer.text)
            cut = answer.truncated or (key in shown and shown[key].cut)
            shown[key] = Shown(key, answer.prompt, answer.text, cut)
            mine.setdefault(key, set()).add(answer.prompt_id)
            # One text may be asked under two ids: the same first one whatever the order of the results.
            groups[key] = min(groups.get(key, prompt.group), prompt.group)
    places: dict[str, list[Place]] = {}
    for model, mine in sorted(found.items()):
        for key in sorted(mine, key=lambda key: digest([seed, "drawn", key]))[:count]:
            places.setdefault(key, []).extend(Place(model=model, prompt_id=name) for name in sorted(mine[key]))
    if not places:
        raise InputError("audits.nothing_to_draw")
    order = sorted(places, key=lambda key: digest([seed, "order", key]))
    items = tuple(Item(id=key, group=groups[key], of=tuple(places[key])) for key in order)
    first = subjects[0].result.submission
    sample = Sample(
        id=digest([first.asked_digest, [item.model_dump() for item in items]])[:16],
        made_at=_now(),
        seed=seed,
        count=count,
        instrument=first.instrument,
        asked_digest=first.asked_digest,
        models=_models([subject.result for subject in subjects]),
        items=items,
    )
    return sample, [shown[key] for key in order]


def _same_version(results: Sequence[Result]) -> None:
    for result in results:
        if result.is_anchor:
            raise InputError("audits.is_anchor", result=result.id)
    if len({result.submission.asked_digest for result in results}) > 1:
        asked = sorted({f"{r.submission.instrument} ({r.submission.asked_digest[:8]})" for r in results})
        raise InputError("audits.mixed", instruments=", ".join(asked))


def _models(results: Sequence[Result]) -> tuple[Drawn, ...]:
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.submission.answers_digest, []).append(result)
    return tuple(
        Drawn(name=display_name(some[0]), digest=key, results=tuple(sorted(r.id for r in some)))
        for key, some in sorted(found.items())
    )


def keep_sample(store: Store, sample: Sample) -> Sample:
    """Keep what a sample is made of. The same one drawn again is the one that is there.

    Raises:
        StoreError: it cannot be written, or what is there cannot be read.
    """
    path = f"{FOLDER}{sample.id}/sample.json"
    try:
        store.write(path, _json(sample), expected=ABSENT)
    except ConflictError:
        return _sample(store, path)
    return sample


def samples(store: Store) -> list[Sample]:
    """Every sample of a store, the oldest first.

    Raises:
        StoreError: one cannot be read; names its path.
    """
    paths = [path for path in _files(store) if path.endswith("/sample.json")]
    return sorted((_sample(store, path) for path in paths), key=lambda sample: (sample.made_at, sample.id))


def read_grades(file: Path, among: Sequence[Sample]) -> Filled:
    """Read a file back that somebody filled in: JSONL, JSON, CSV, TSV or Parquet, columns `id`, `grade`, `note`.

    It belongs to the sample that holds its ids. Where `prompt` and `answer` are there too, a line whose words are
    those of another id is refused: its cells were moved.

    Raises:
        DataError: an id is unknown or has two grades, a grade is none; names file, line and field. Or there is no
            grade at all, or the file fits several samples.
    """
    rows = [
        row._replace(cells={str(name).strip().lower(): cell for name, cell in row.cells.items()})
        for row in read_rows(file)
    ]
    ids = [_id(row, file) for row in rows]
    sample = _sample_of(rows, ids, among, file)
    known = {item.id for item in sample.items}
    given: dict[str, tuple[Grade, str]] = {}
    open_lines: list[int] = []
    for row, key in zip(rows, ids, strict=True):
        words = answer_id(_cell(row, "prompt"), _cell(row, "answer"))
        if words in known and words != key:
            raise DataError("audits.moved", **_where(row, file, "answer"))
        grade = _grade(row, file)
        if grade is None:
            open_lines.append(_line(row))
        elif key in given and given[key][0] != grade:
            raise DataError("audits.two_grades", **_where(row, file, "grade"), id=key[:16])
        else:
            given[key] = (grade, _cell(row, "note").strip() or given.get(key, (grade, ""))[1])
    if not given:
        raise DataError("audits.no_grades", file=file)
    return Filled(sample, given, open_lines)


def _cell(row: Row, name: str) -> str:
    """A cell's text; of anything else, what kind of thing it is."""
    found = row.cells.get(name)
    return "" if found is None else found if isinstance(found, str) else type(found).__name__


def _line(row: Row) -> int:
    return row.line or row.number


def _where(row: Row, file: Path, field: str) -> dict[str, Any]:
    return {"file": file, "line": _line(row), "field": field}


def _id(row: Row, file: Path) -> str:
    found = _cell(row, "id").strip().lower()
    if not found:
        raise DataError("audits.no_id", **_where(row, file, "id"))
    return found


def _grade(row: Row, file: Path) -> Grade | None:
    word = unicodedata.normalize("NFC", _cell(row, "grade")).strip().lower()
    if not word:
        return None
    if word in WORDS:
        return WORDS[word]
    begun = {grade for known, grade in WORDS.items() if word == known[0]}
    if len(begun) == 1:
        return begun.pop()
    raise DataError("audits.bad_grade", **_where(row, file, "grade"), value=word[:40], known=", ".join(WORDS))


def _sample_of(rows: Sequence[Row], ids: Sequence[str], among: Sequence[Sample], file: Path) -> Sample:
    """The sample a file is of; several may hold its answers: in this order, else just these, else these and more."""
    wanted = list(dict.fromkeys(ids))
    orders = [[item.id for item in sample.items] for sample in among]
    for fits in (
        [sample for sample, order in zip(among, orders, strict=True) if order == wanted],
        [sample for sample, order in zip(among, orders, strict=True) if set(order) == set(wanted)],
        [sample for sample, order in zip(among, orders, strict=True) if set(order) > set(wanted)],
    ):
        if len(fits) > 1:
            raise DataError("audits.which_sample", file=file, samples=", ".join(sample.id for sample in fits))
        if fits and wanted:
            return fits[0]
    closest = max((set(order) for order in orders), key=lambda order: len(order & set(wanted)), default=set())
    for row, key in zip(rows, ids, strict=True):
        if key not in closest:
            raise DataError("audits.unknown_id", **_where(row, file, "id"), id=key[:16])
    raise DataError("audits.no_grades", file=file)


def keep_grades(store: Store, filled: Filled, grader: str) -> Kept:
    """Keep one person's grades: new ones are added and those given before replaced, all at once or not at all.

    Raises:
        InputError: no name, or one that cannot be shown on a line.
        StoreError: what is kept cannot be read or written.
        ConflictError: others kept writing the same grader's file.
    """
    name, sample = unicodedata.normalize("NFC", grader).strip(), filled.sample
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise InputError("audits.bad_name", longest=LONGEST_NAME)
    path = f"{FOLDER}{sample.id}/{_file_name(name)}"
    for attempt in itertools.count(1):
        found = store.read(path)
        before = _grades(found[0], path, sample) if found else Grades(grader=name, sample=sample.id, grades={})
        merged = dict(before.grades)
        for key, (grade, note) in filled.given.items():
            was = merged.get(key)
            if was is None or (was.grade, was.note) != (grade, note):
                merged[key] = Given(grade=grade, note=note, at=_now())
        after = before.model_copy(update={"grades": merged})
        try:
            store.write(path, _json(after), expected=found[1] if found else ABSENT)
            break
        except ConflictError:
            if attempt == TRIES:
                raise
    changed = sum(key in before.grades and before.grades[key].grade != g for key, (g, _) in filled.given.items())
    new = len(merged) - len(before.grades)
    return Kept(before.grader, new, changed, len(merged), skipped(sample, merged))


def skipped(sample: Sample, graded: Iterable[str]) -> int:
    """How many answers were left out before the last one with a grade. Not 0: the graded ones are no random sample."""
    known = set(graded)
    last = max((place for place, item in enumerate(sample.items, 1) if item.id in known), default=0)
    return last - len(known)


def _person(name: str) -> str:
    """Who a name is: `Ana` and `ana` are one person."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def _file_name(name: str) -> str:
    # Letters beyond ASCII are lost in a slug: the digest tells people apart, and from `sample.json`.
    return f"{slug(_person(name))}-{digest(_person(name))[:8]}.json"


def load_audits(store: Store) -> list[Audit]:
    """Every sample with its grades, the oldest first.

    Raises:
        StoreError: a file cannot be read, or has grades of what is not in its sample; names its path.
    """
    known = {sample.id: sample for sample in samples(store)}
    given: dict[str, list[Grades]] = {name: [] for name in known}
    for path in _files(store):
        folder, _, name = path.removeprefix(FOLDER).partition("/")
        if name == "sample.json":
            continue
        if folder not in known:
            raise StoreError("audits.no_sample", path=path)
        found = store.read(path)
        if found is not None:
            given[folder].append(_grades(found[0], path, known[folder]))
    return [Audit(sample, tuple(given[name])) for name, sample in known.items()]


def points_of(store: Store, submission: Submission, answers: Iterable[Answer]) -> dict[str, float]:
    """Mean points, 0 to 1, by prompt id, of those answers that were drawn at random for this model and graded.

    What `ppi_mean` and the transport test may use. A grade of an answer that was drawn for another model only is left
    out: what a model shares with others is not a random sample of what it says.

    Raises:
        StoreError: what is kept cannot be read.
    """
    audits = load_audits(store)
    points, drawn = mean_points(audits), graded_draws(audits, submission.answers_digest)
    found = {answer.prompt_id: answer_id(answer.prompt, answer.text) for answer in answers}
    return {name: points[key] for name, key in found.items() if (name, key) in drawn}


def mean_points(audits: Iterable[Audit]) -> dict[str, float]:
    """Mean points (good 1, regular ½, bad 0) over graders of every answer with a grade, by `answer_id`.

    A person who graded an answer in several samples counts once, with the last word.
    """
    latest: dict[str, dict[str, Given]] = {}
    for audit in audits:
        for grades in audit.graders:
            for key, given in grades.grades.items():
                said = latest.setdefault(key, {})
                who = _person(grades.grader)
                if who not in said or said[who].at <= given.at:
                    said[who] = given
    return {
        key: sum(given.grade.value_points for given in said.values()) / len(said)
        for key, said in sorted(latest.items())
    }


def graded_draws(audits: Iterable[Audit], model: str) -> dict[tuple[str, str], str]:
    """Graded answers that were drawn for a model (a digest), by prompt id and answer id: the group of each."""
    return {
        (place.prompt_id, item.id): item.group
        for audit in audits
        for item in audit.sample.items
        for place in item.of
        if place.model == model and any(item.id in grades.grades for grades in audit.graders)
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _json(record: Record) -> bytes:
    return (record.model_dump_json(indent=1) + "\n").encode()


def _files(store: Store) -> list[str]:
    """Samples and grades, and nothing that was put deeper or beside them."""
    return [path for path in store.list(FOLDER) if path.count("/") == FOLDER.count("/") + 1 and path.endswith(".json")]


def _sample(store: Store, path: str) -> Sample:
    sample = read_record(store, path, Sample)
    if sample is None:
        raise StoreError("store.corrupt", path=path, reason="gone")
    if path != f"{FOLDER}{sample.id}/sample.json" or len({item.id for item in sample.items}) < len(sample.items):
        raise StoreError("store.corrupt", path=path, reason="id")
    return sample


def _grades(data: bytes, path: str, sample: Sample) -> Grades:
    grades = parse_record(data, path, Grades)
    if grades.sample != sample.id or not grades.grades.keys() <= {item.id for item in sample.items}:
        raise StoreError("store.corrupt", path=path, reason="id")
    return grades
