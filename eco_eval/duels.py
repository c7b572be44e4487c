"""Two models' answers to one prompt, which of them people choose, and how often each model wins.

A vote is a line of `votes/<day>.jsonl` of the store. Lines are only added: each file is read, and written if nobody
wrote it meanwhile. A person has one vote on two answers, whatever sides they stand on.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Literal, NamedTuple

from eco_eval.errors import ConflictError, EcoEvalError, InputError, StoreError
from eco_eval.grading import Grading, Remembered, one_commit, write_private
from eco_eval.people import answer_id
from eco_eval.readings import percent
from eco_eval.reception import Kept
from eco_eval.results import Reading, details, display_name
from eco_eval.stats import mean_of_classes
from eco_eval.store import ABSENT, HubStore, Store, parse_record
from eco_eval.store.index import load_results_indexed
from eco_eval.types import Answer, Estimate, Graded, Record, Result, digest

FOLDER = "votes/"

MIN_VOTES = 30
"""Votes on a model before its win rate is shown."""

MIN_PROMPTS = 20
"""Prompts (with their paraphrases and translations as one) that they are about."""

MIN_VOTERS = 3
"""People who gave them: fewer say what they like, and nothing of people."""

SOON = 60.0
"""Seconds after which votes are published where the store is a Hub: a commit for all of them."""

AT_ONCE = 25
"""Votes that wait no longer."""

PLAYERS = 2000
"""People whose duel is kept; those who were longest away begin with another one."""

TRIES = 20

Choice = Literal["first", "second", "tie"]
Side = Literal["left", "right", "tie"]


class Vote(Record):
    """One person's choice between two answers to a prompt, the models in the order of their digests.

    voter: a pseudonym. models: `Submission.answers_digest` of each. answers: `people.answer_id` of each. judge: mean
    points of the judges for each when it was voted on, 0 to 1. at: UTC, ISO 8601.
    """

    voter: str
    at: str
    asked_digest: str
    prompt_id: str
    group: str
    models: tuple[str, str]
    results: tuple[str, str]
    answers: tuple[str, str]
    judge: tuple[float, float]
    choice: Choice

    @property
    def pair(self) -> str:
        """Digest of the two answers, in whatever order."""
        return digest(sorted(self.answers))[:16]

    @property
    def by_judge(self) -> Choice:
        """What the judges' points choose."""
        first, second = self.judge
        return "tie" if abs(first - second) < 1e-9 else "first" if first > second else "second"


class Rate(Record):
    """How often a model wins against the others, ties counting ½: by people, and by the judges of the same pairs.

    people, judge: on 0 to 100; None with fewer than `MIN_VOTES` votes, `MIN_PROMPTS` prompts or `MIN_VOTERS` people.
    """

    model: str
    digest: str
    votes: int
    prompts: int
    voters: int
    people: Estimate | None
    judge: Estimate | None


class Duel(NamedTuple):
    """Two answers as one person is shown them. `swapped`: the first is on the right. `choice`: None until chosen."""

    token: str
    answers: tuple[Answer, Answer]
    names: tuple[str, str]
    vote: Vote
    swapped: bool
    choice: Choice | None = None
    counted: bool = False


def rates(votes: Iterable[Vote], names: Mapping[str, str]) -> list[Rate]:
    """The win rate of every model that has votes, the best first and those with too few votes last.

    Rate: (wins + ties/2)/n over the votes on the model, against the opponents that were drawn, who differ from model to
    model. Interval: that of `mean_of_classes`, the judge's clustered by group of prompts, people's by group or by
    voter, whichever is the wider. One vote of three people who lean this way or that says less than three of nine: in
    simulation clustering by prompts alone covers 77 % with three voters and 89 % with ten.

    Args:
        names: of the models that are told of, by digest.
    """
    found: dict[str, list[tuple[Vote, int]]] = {}
    for vote in votes:
        for side, model in enumerate(vote.models):
            if model in names:
                found.setdefault(model, []).append((vote, side))
    told = [_rate(model, names[model], own) for model, own in found.items()]
    return sorted(told, key=lambda one: (one.people is None, -(one.people.value if one.people else 0), one.model))


def _rate(model: str, name: str, own: Sequence[tuple[Vote, int]]) -> Rate:
    groups = [vote.group for vote, _ in own]
    prompts = len(set(groups))
    people = judge = None
    voters = [vote.voter for vote, _ in own]
    count = len(set(voters))
    if len(own) >= MIN_VOTES and prompts >= MIN_PROMPTS and count >= MIN_VOTERS:
        chosen = [_outcome(vote.choice, side) for vote, side in own]
        people = max((_estimate(chosen, by) for by in (groups, voters)), key=lambda found: found.high - found.low)
        judge = _estimate([_outcome(vote.by_judge, side) for vote, side in own], groups)
    return Rate(model=name, digest=model, votes=len(own), prompts=prompts, voters=count, people=people, judge=judge)


def _estimate(outcomes: Sequence[int], groups: Sequence[str]) -> Estimate:
    return percent(mean_of_classes(outcomes, groups, (1.0, 0.5, 0.0)))


def _outcome(choice: Choice, side: int) -> int:
    """0 where the side wins, 1 for a tie, 2 where it loses."""
    return 1 if choice == "tie" else 0 if (choice == "first") == (side == 0) else 2


def read_votes(store: Store) -> list[Vote]:
    """Every vote of a store in the order of days and lines; of a person's votes on one pair the first counts.

    Raises:
        StoreError: a line cannot be read; names its path and number.
    """
    found: dict[tuple[str, str], Vote] = {}
    for path in _paths(store):
        data = store.read(path)
        for number, line in enumerate(data[0].splitlines() if data else (), 1):
            if line.strip():
                vote = parse_record(line, f"{path}:{number}", Vote)
                found.setdefault((vote.voter, vote.pair), vote)
    return list(found.values())


def add_votes(store: Store, votes: Sequence[Vote]) -> None:
    """Append votes to the files of their days, all at once where the store is a Hub.

    Raises:
        StoreError: the store cannot be read or written.
        ConflictError: others kept writing the same file.
    """
    days: dict[str, list[Vote]] = {}
    for vote in votes:
        days.setdefault(vote.at[:10], []).append(vote)
    for attempt in range(TRIES):
        try:
            with one_commit(store, f"{len(votes)} votes"):
                for day, own in sorted(days.items()):
                    _append(store, f"{FOLDER}{day}.jsonl", own)
            return
        except ConflictError:
            if attempt == TRIES - 1:
                raise


def _append(store: Store, path: str, votes: Sequence[Vote]) -> None:
    found = store.read(path)
    there = set(found[0].splitlines()) if found else set()
    lines = [vote.model_dump_json().encode() for vote in votes]
    # What an attempt before this one wrote is not written again.
    new = b"".join(line + b"\n" for line in lines if line not in there)
    if new:
        store.write(path, (found[0] if found else b"") + new, expected=found[1] if found else ABSENT)


def _paths(store: Store) -> list[str]:
    return [path for path in store.list(FOLDER) if path.endswith(".jsonl") and path.count("/") == 1]


class Duels:
    """Everybody's duels. Safe for threads; one process keeps them for a store.

    A vote is in a file of this machine before its names are shown, and in the store at once, or within a minute with
    others' where the store is a Hub; whatever was left there is published after this process began anew.

    Args:
        grading: who people are.
    """

    def __init__(self, store: Store, grading: Grading) -> None:
        self.settings = grading.settings
        self._store = store
        self._grading = grading
        self._votes = Remembered(store, FOLDER)
        self._journal = grading.settings.data_dir / ".votes.jsonl"
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._timer: threading.Timer | None = None
        self._players: OrderedDict[str, Duel] = OrderedDict()
        self._known: Kept[list[Vote]] = Kept(seconds=20.0, most=1)
        self._results: Kept[list[Result]] = Kept(seconds=20.0, most=1)
        self._readings: Kept[list[Reading]] = Kept(seconds=600.0, most=24)
        self._pending = self._left()
        if self._pending:
            self._publish_soon(SOON)

    def name(self, user: str) -> str:
        """Whom a person is published as."""
        return self._grading.name(user)

    def show(self, user: str | None, session: str) -> Duel:
        """The duel a person is in, or a new one. Who is not signed in plays by the session and is not counted.

        Raises:
            InputError: there are not two models, or this person has seen all there is.
            StoreError: the store cannot be read.
        """
        player = self._player(user, session)
        with self._lock:
            duel = self._players.get(player)
        return duel or self._put(player, self._drawn(player))

    def choose(self, user: str | None, session: str, ticket: object, side: Side) -> Duel:
        """Choose a side; nothing happens if the ticket is not of the duel this person is in, or it is decided.

        Raises:
            InputError, StoreError: as `show`.
        """
        player = self._player(user, session)
        duel, voted = self.show(user, session), self._voted()
        with self._lock:
            duel = self._players.get(player, duel)
            if ticket != duel.token or duel.choice is not None:
                return duel
            choice: Choice = "tie" if side == "tie" else "first" if (side == "left") != duel.swapped else "second"
            now = datetime.now(UTC).isoformat(timespec="seconds")
            vote = duel.vote.model_copy(update={"choice": choice, "at": now})
            counted = user is not None and (vote.voter, vote.pair) not in voted
            if counted:
                self._record([*self._pending, vote])
            done = duel._replace(vote=vote, choice=choice, counted=counted)
            self._put(player, done)
        if counted:
            self._publish_soon(0.0 if not isinstance(self._store, HubStore) or self.waiting >= AT_ONCE else SOON)
        return done

    def next(self, user: str | None, session: str, ticket: object) -> Duel:
        """Another duel, once the one this person is in is decided.

        Raises:
            InputError, StoreError: as `show`.
        """
        player = self._player(user, session)
        duel = self.show(user, session)
        if duel.choice is None or ticket != duel.token:
            return duel
        return self._put(player, self._drawn(player))

    def rates(self) -> list[Rate]:
        """Win rates over what is published and what is about to be, of the models that are on the board.

        Raises:
            StoreError: the store cannot be read.
        """
        results = self._models()
        with self._lock:
            pending = list(self._pending)
        votes = {(vote.voter, vote.pair): vote for vote in (*pending, *self._published())}
        version = next(iter(results.values())).submission.asked_digest if results else ""
        names = {key: display_name(result) for key, result in results.items()}
        return rates((vote for vote in votes.values() if vote.asked_digest == version), names)

    @property
    def waiting(self) -> int:
        """Votes that are not published yet."""
        with self._lock:
            return len(self._pending)

    def publish(self) -> None:
        """Publish what is waiting.

        Raises:
            StoreError, ConflictError: it could not be written, and waits on.
        """
        with self._writing:
            with self._lock:
                votes = list(self._pending)
            if not votes:
                return
            add_votes(self._store, votes)
            with self._lock:
                self._record([vote for vote in self._pending if vote not in votes])
                self._known = Kept(seconds=20.0, most=1)

    def _player(self, user: str | None, session: str) -> str:
        return self._grading.name(user) if user is not None else f"?{session}"

    def _put(self, player: str, duel: Duel) -> Duel:
        with self._lock:
            self._players[player] = duel
            self._players.move_to_end(player)
            while len(self._players) > PLAYERS:
                self._players.popitem(last=False)
        return duel

    def _published(self) -> list[Vote]:
        return self._known.get("", lambda: read_votes(self._votes))

    def _voted(self) -> set[tuple[str, str]]:
        with self._lock:
            pending = list(self._pending)
        return {(vote.voter, vote.pair) for vote in (*self._published(), *pending)}

    def _models(self) -> dict[str, Result]:
        """The newest result of each model of the version that most models were asked, by `answers_digest`."""
        versions: dict[str, dict[str, Result]] = {}
        for result in self._results.get("", lambda: load_results_indexed(self._store)[0]):
            own = versions.setdefault(result.submission.asked_digest, {})
            key = result.submission.answers_digest
            other = own.get(key)
            is_newer = other is None or other.provenance.finished_at < result.provenance.finished_at
            if not result.is_anchor and is_newer:
                own[key] = result
        return max(versions.items(), key=lambda one: (len(one[1]), one[0]), default=("", {}))[1]

    def _drawn(self, player: str) -> Duel:
        """Two models' answers to a prompt: one of the models with the fewest votes, any other, any prompt of both."""
        models = self._models()
        if len(models) < 2:
            raise InputError("duels.few_models")
        voted, chance = self._voted(), secrets.SystemRandom()
        counts = dict.fromkeys(models, 0)
        for vote in self._published():
            for model in vote.models:
                if model in counts:
                    counts[model] += 1
        for first in sorted(models, key=lambda model: (counts[model], chance.random())):
            for second in chance.sample(sorted(set(models) - {first}), min(5, len(models) - 1)):
                found = self._pairs(player, models[min(first, second)], models[max(first, second)])
                found = [duel for duel in found if (player, duel.vote.pair) not in voted]
                if found:
                    return chance.choice(found)._replace(token=secrets.token_hex(8), swapped=chance.random() < 0.5)
        raise InputError("duels.all_seen")

    def _pairs(self, player: str, a: Result, b: Result) -> list[Duel]:
        """Every pair of answers with verdicts of a judge to a prompt with a stake, but those with the same words."""
        one, other = (self._readings.get(result.id, partial(details, self._store, result)) for result in (a, b))
        ours = {reading.answer.prompt_id: reading for reading in other}
        found = []
        for reading, group in zip(one, a.groups, strict=False):
            twin = ours.get(reading.answer.prompt_id)
            if twin is None or group < 0 or reading.answer.prompt != twin.answer.prompt:
                continue
            points = [_points(said) for said in (reading, twin)]
            answers = (reading.answer, twin.answer)
            keys = tuple(answer_id(answer.prompt, answer.text) for answer in answers)
            if points[0] is None or points[1] is None or keys[0] == keys[1]:
                continue
            vote = Vote(
                voter=player,
                at="",
                asked_digest=a.submission.asked_digest,
                prompt_id=reading.answer.prompt_id,
                group=str(group),
                models=(a.submission.answers_digest, b.submission.answers_digest),
                results=(a.id, b.id),
                answers=(keys[0], keys[1]),
                judge=(points[0], points[1]),
                choice="tie",
            )
            found.append(Duel("", answers, (display_name(a), display_name(b)), vote, swapped=False))
        return found

    def _left(self) -> list[Vote]:
        try:
            lines = self._journal.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError("store.unreadable", path=self._journal.name, reason=error.strerror or error) from error
        return [parse_record(line, self._journal.name, Vote) for line in lines if line.strip()]

    def _record(self, votes: list[Vote]) -> None:
        """What is waiting, on this machine's disk first."""
        write_private(self._journal, b"".join(vote.model_dump_json().encode() + b"\n" for vote in votes))
        self._pending = votes

    def _publish_soon(self, seconds: float) -> None:
        if seconds == 0 and not isinstance(self._store, HubStore):
            self._try_to_publish()
            return
        with self._lock:
            if self._timer is not None and self._timer.is_alive() and seconds:
                return
            self._timer = threading.Timer(seconds, self._try_to_publish)
            self._timer.daemon = True
            self._timer.start()

    def _try_to_publish(self) -> None:
        try:
            self.publish()
        # It waits on, on this machine's disk: the page says how many do.
        except EcoEvalError:
            return


def _points(reading: Reading) -> float | None:
    """Mean points of the judges; None where one gave none, or a rule did and not the judge."""
    given = [verdict for verdict in reading.verdicts if isinstance(verdict, Graded) and verdict.source != "rule"]
    if not given or len(given) < len(reading.verdicts):
        return None
    return sum(verdict.grade.value_points for verdict in given) / len(given)
