"""Votes on pairs of answers: kept without loss, one a person and pair, and win rates whose intervals hold."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub import LocalHub
from serving import SPACE
from test_people import letters, scored

from eco_eval.duels import (
    FOLDER,
    MIN_PROMPTS,
    MIN_VOTERS,
    MIN_VOTES,
    Choice,
    Duels,
    Rate,
    Vote,
    add_votes,
    rates,
    read_votes,
)
from eco_eval.errors import InputError, StoreError
from eco_eval.grading import Grading
from eco_eval.instrument import load_instrument
from eco_eval.results import details, load_results
from eco_eval.settings import Settings
from eco_eval.store import HubStore, LocalStore
from eco_eval.types import Grade, Graded

HOSTILE = "<script>document.title='tomada'</script><img src=x onerror=\"document.title='tomada'\"> #b"
ANA, LUZ = "hub:ana", "hub:luz"
CHOICES: tuple[Choice, ...] = ("first", "tie", "second")
REPEATS = 400
NOMINAL = (0.92, 0.985)
_names = itertools.count()


def filled(root: Path, models: int = 3, prompts: int = 60) -> Settings:
    """A store with the answers of some models; the last one's are hostile."""
    store, measure = LocalStore(root / "data"), load_instrument("eco-es-demo").limited(prompts).with_judge_at("0" * 40)
    for number in range(models - 1):
        scored(measure, store, f"vecina/rio-{number}b", letters(f"vecina/rio-{number}b", ("ggrb", "gbrb")[number % 2]))
    scored(measure, store, f"malo/{HOSTILE}", lambda i: f"{i} {HOSTILE}")
    return Settings(data_dir=root / "data", cache_dir=root / "cache", environ=dict(SPACE))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return filled(tmp_path_factory.mktemp("duels"))


@pytest.fixture
def settings(made: Settings, tmp_path: Path) -> Settings:
    shutil.copytree(made.data_dir, tmp_path / "data")
    return made.model_copy(update={"data_dir": tmp_path / "data"})


@pytest.fixture
def store(settings: Settings) -> LocalStore:
    return LocalStore(settings.data_dir)


@pytest.fixture
def duels(settings: Settings, store: LocalStore) -> Duels:
    return Duels(store, Grading(store, settings))


def vote(number: int = 0, choice: Choice = "first", voter: str = "persona-1", **more: Any) -> Vote:
    """A vote on two answers of this number, for models a and b."""
    values = {
        "voter": voter,
        "at": "2026-01-01T00:00:00+00:00",
        "asked_digest": "v",
        "prompt_id": f"p{number}",
        "group": str(number),
        "models": ("a", "b"),
        "results": ("ra", "rb"),
        "answers": (f"a{number}", f"b{number}"),
        "judge": (1.0, 0.0),
        "choice": choice,
    }
    return Vote.model_validate(values | more)


def play(duels: Duels, user: str | None, count: int, side: Any = "left", session: str = "s") -> list[Any]:
    done = []
    for _ in range(count):
        duel = duels.show(user, session)
        if duel.choice is not None:
            duel = duels.next(user, session, duel.token)
        done.append(duels.choose(user, session, duel.token, side))
    return done


# --- keeping


def test_votes_are_added_and_read_back_by_day(store: LocalStore) -> None:
    first, second = vote(1), vote(2, "tie", at="2026-01-02T00:00:00+00:00")
    add_votes(store, [second, first])
    add_votes(store, [vote(3)])
    assert store.list(FOLDER) == ["votes/2026-01-01.jsonl", "votes/2026-01-02.jsonl"]
    assert read_votes(store) == [first, vote(3), second]


def test_votes_written_at_once_are_all_kept(store: LocalStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add_votes(store, [vote(number)]), range(40)))
    assert {one.prompt_id for one in read_votes(store)} == {f"p{number}" for number in range(40)}


def test_the_same_votes_sent_again_are_there_once(store: LocalStore) -> None:
    add_votes(store, [vote(1), vote(2)])
    add_votes(store, [vote(2), vote(3)])
    lines = (store.root / "votes" / "2026-01-01.jsonl").read_text().splitlines()
    assert len(lines) == 3


def test_a_persons_first_vote_on_a_pair_counts_whatever_side_it_stands_on(store: LocalStore) -> None:
    again = vote(1, "second", answers=("b1", "a1"), models=("b", "a"))
    add_votes(store, [vote(1), again, vote(1, "tie", voter="persona-2")])
    assert [(one.voter, one.choice) for one in read_votes(store)] == [("persona-1", "first"), ("persona-2", "tie")]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"voter": "x"}', "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")]
)
def test_a_damaged_line_is_named(store: LocalStore, line: str) -> None:
    store.write("votes/2026-01-01.jsonl", f"{vote(1).model_dump_json()}\n{line}\n".encode())
    with pytest.raises(StoreError) as found:
        read_votes(store)
    assert found.value.values["path"] == "votes/2026-01-01.jsonl:2"


# --- win rates


def told(votes: Sequence[Vote]) -> dict[str, Rate]:
    return {one.digest: one for one in rates(votes, {"a": "A", "b": "B"})}


def test_a_win_rate_is_the_share_of_wins_with_half_of_the_ties() -> None:
    choices = [CHOICES[place] for place, count in enumerate((20, 10, 10)) for _ in range(count)]
    found = told([vote(n, choice, voter=f"v{n % 7}") for n, choice in enumerate(choices)])
    assert found["a"].people is not None
    assert found["b"].people is not None
    assert found["a"].people.value == pytest.approx(62.5)
    assert found["b"].people.value == pytest.approx(37.5)
    assert (found["a"].votes, found["a"].prompts, found["a"].voters) == (40, 40, 7)
    assert found["a"].judge is not None
    assert found["a"].judge.value == pytest.approx(100)
    assert found["a"].people.low < 62.5 < found["a"].people.high


def test_the_order_of_the_two_models_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    choices = [CHOICES[int(n)] for n in rng.integers(0, 3, 50)]
    other = dict(zip(CHOICES, CHOICES[::-1], strict=True))
    votes = [vote(n, choice) for n, choice in enumerate(choices)]
    turned = [
        vote(n, other[choice], models=("b", "a"), answers=(f"b{n}", f"a{n}"), judge=(0.0, 1.0))
        for n, choice in enumerate(choices)
    ]
    assert told(votes) == told(turned)


@pytest.mark.parametrize(
    ("votes", "prompts"), [(MIN_VOTES - 1, MIN_VOTES - 1), (MIN_VOTES, MIN_PROMPTS - 1), (3 * MIN_VOTES, 2)]
)
def test_with_few_votes_or_prompts_there_is_no_rate(votes: int, prompts: int) -> None:
    found = told([vote(n % prompts, voter=f"v{n}") for n in range(votes)])["a"]
    assert (found.votes, found.prompts) == (votes, prompts)
    assert found.people is None
    assert found.judge is None


def test_with_just_enough_there_is_one() -> None:
    for voters in (MIN_VOTERS - 1, MIN_VOTERS):
        found = told([vote(n % MIN_PROMPTS, voter=f"v{n % voters}") for n in range(MIN_VOTES)])["a"]
        assert found.voters == voters
        assert (found.people is not None) == (voters == MIN_VOTERS)


def test_votes_on_one_prompt_count_less_than_votes_on_several() -> None:
    rng = np.random.default_rng(1)
    choices = [CHOICES[int(n)] for n in rng.integers(0, 3, 120)]
    apart = told([vote(n, choice, voter=f"v{n}") for n, choice in enumerate(choices)])["a"]
    together = told([vote(n % 30, choices[n % 30], voter=f"v{n}") for n in range(120)])["a"]
    assert apart.people is not None
    assert together.people is not None
    width = [one.people.high - one.people.low for one in (apart, together) if one.people]
    assert width[1] > 1.5 * width[0]


def test_models_that_are_not_told_of_are_left_out() -> None:
    assert {one.model for one in rates([vote(1)], {"b": "B"})} == {"B"}


@pytest.mark.parametrize("prompts", [30, 60])
@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shares", [(0.5, 0.2, 0.3), (0.75, 0.15, 0.1)])
def test_the_interval_of_a_win_rate_holds_the_truth_as_often_as_it_says(
    prompts: int, alike: float, shares: tuple[float, float, float]
) -> None:
    """Two or three people a prompt, who agree on it more or less often than by chance."""
    rng, truth, hits = np.random.default_rng(20_251_120), 100 * (shares[0] + shares[1] / 2), 0
    for _ in range(REPEATS):
        member = np.repeat(np.arange(prompts), rng.choice([1, 2, 3], prompts))
        ours, own = rng.choice(3, prompts, p=shares)[member], rng.choice(3, len(member), p=shares)
        given = np.where(rng.random(len(member)) < alike, ours, own)
        votes = [
            vote(1).model_copy(update={"group": str(g), "choice": CHOICES[c], "voter": f"v{n}"})
            for n, (g, c) in enumerate(zip(member, given, strict=True))
        ]
        found = told(votes)["a"].people
        assert found is not None
        hits += found.low <= truth <= found.high
    assert NOMINAL[0] <= hits / REPEATS <= NOMINAL[1]


@pytest.mark.parametrize("voters", [3, 10, 30])
def test_the_interval_reckons_with_people_who_lean_one_way(voters: int) -> None:
    """Each favours or disfavours the model by up to 20 points; clustered by prompts alone it covers 77 % with three."""
    rng, hits, repeats = np.random.default_rng(3), 0, 300
    one = vote(1)
    for _ in range(repeats):
        lean, votes = rng.uniform(-0.2, 0.2, voters), []
        for n in range(120):
            choice = "first" if rng.random() < 0.5 + lean[n % voters] else "second"
            votes.append(one.model_copy(update={"voter": f"v{n % voters}", "group": str(n % 60), "choice": choice}))
        found = told(votes)["a"].people
        assert found is not None
        hits += found.low <= 50 <= found.high
    assert hits / repeats >= NOMINAL[0]


# --- playing


def test_a_vote_is_what_was_seen(duels: Duels, store: LocalStore) -> None:
    results = {one.id: one for one in load_results(store)[0]}
    for side in ("left", "right", "tie") * 6:
        (duel,) = play(duels, ANA, 1, side)
        left = 1 if duel.swapped else 0
        expected = "tie" if side == "tie" else ("first", "second")[left if side == "left" else 1 - left]
        assert duel.choice == expected
        kept = read_votes(store)[-1]
        assert kept == duel.vote
        assert kept.choice == expected
        for result_id, model, points, answer, name in zip(
            kept.results, kept.models, kept.judge, duel.answers, duel.names, strict=True
        ):
            result = results[result_id]
            said = {a.prompt_id: (a, verdicts) for a, verdicts in details(store, result)}
            there, (verdict,) = said[kept.prompt_id]
            assert there == answer
            assert isinstance(verdict, Graded)
            assert verdict.grade.value_points == points
            assert (result.submission.answers_digest, result.submission.model.name) == (model, name)
    assert len(read_votes(store)) == 18
    assert {one.voter for one in read_votes(store)} == {duels.name(ANA)}


def test_sides_are_drawn_and_so_are_models(duels: Duels) -> None:
    done = play(duels, ANA, 60)
    assert 15 <= sum(duel.swapped for duel in done) <= 45
    models = Counter(model for duel in done for model in duel.vote.models)
    assert len(models) == 3
    assert min(models.values()) >= 30


def test_nobody_votes_twice_on_a_pair_and_in_the_end_all_are_seen(settings: Settings, store: LocalStore) -> None:
    small = filled(settings.data_dir.parent / "small", models=2, prompts=8)
    where = LocalStore(small.data_dir)
    duels = Duels(where, Grading(where, small))
    done = [duels.choose(ANA, "s", duels.show(ANA, "s").token, "left")]
    with suppress(InputError):
        while len(done) < 9:
            done += play(duels, ANA, 1)
    with pytest.raises(InputError) as end:
        play(duels, ANA, 1)
    assert end.value.key == "duels.all_seen"
    assert 0 < len(done) <= 8
    assert len({one.pair for one in read_votes(where)}) == len(read_votes(where)) == len(done)
    assert play(Duels(where, Grading(where, small)), LUZ, 1)[0].counted
    with pytest.raises(InputError):
        Duels(where, Grading(where, small)).show(ANA, "s")


def test_a_ticket_counts_once(duels: Duels, store: LocalStore) -> None:
    duel = duels.show(ANA, "s")
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda side: duels.choose(ANA, "s", duel.token, side), ["left", "right", "tie"] * 5))
    assert len({one.choice for one in done}) == 1
    assert len(read_votes(store)) == 1
    for ticket in ("", None, 3, "x" * 1_000_000, ["a"], duels.show(LUZ, "s").token):
        assert duels.next(ANA, "s", ticket) == done[0]
    fresh = duels.next(ANA, "s", duel.token)
    for ticket in ("", None, duel.token, duels.show(LUZ, "s").token):
        assert duels.choose(ANA, "s", ticket, "left").choice is None
    assert duels.show(ANA, "s") == fresh
    assert len(read_votes(store)) == 1


def test_who_is_not_signed_in_plays_and_is_not_counted(duels: Duels, store: LocalStore, settings: Settings) -> None:
    done = play(duels, None, 5, session="tab")
    assert not any(duel.counted for duel in done)
    assert read_votes(store) == []
    assert not (settings.data_dir / ".votes.jsonl").exists()
    assert duels.show(None, "tab") == done[-1]
    assert duels.show(None, "other").token != done[-1].token


def test_rates_are_of_the_models_on_the_board(duels: Duels, settings: Settings, store: LocalStore) -> None:
    play(duels, ANA, 60, "left")
    found = duels.rates()
    assert {one.model for one in found} == {
        one.submission.model.name for one in load_results(store)[0] if not one.is_anchor
    }
    assert sum(one.votes for one in found) == 120
    add_votes(store, [vote(1)])
    anew = Duels(store, Grading(store, settings)).rates()
    assert anew == found


def test_fewer_than_two_models_is_said(tmp_path: Path) -> None:
    settings = filled(tmp_path, models=1, prompts=4)
    store = LocalStore(settings.data_dir)
    with pytest.raises(InputError) as found:
        Duels(store, Grading(store, settings)).show(ANA, "s")
    assert found.value.key == "duels.few_models"
    assert Duels(store, Grading(store, settings)).rates()[:0] == []


# --- what is not published yet


def test_a_vote_outlives_a_store_that_cannot_be_written(settings: Settings, store: LocalStore) -> None:
    class Full(LocalStore):
        def write(self, path: str, data: bytes, *, expected: str = "any") -> str:
            raise StoreError("store.unwritable", path=path, reason="full")

    full = Full(settings.data_dir)
    duels = Duels(full, Grading(full, settings))
    play(duels, ANA, 3)
    assert duels.waiting == 3
    assert sum(one.votes for one in duels.rates()) == 6
    assert read_votes(store) == []
    anew = Duels(store, Grading(store, settings))
    assert anew.waiting == 3
    anew.publish()
    assert anew.waiting == 0
    assert len(read_votes(store)) == 3
    assert Duels(store, Grading(store, settings)).waiting == 0


def on_hub(repo: str, cache: Path, data: Path, made: Settings) -> dict[str, Any]:
    """What a batch of grades and many votes leave on a Hub; runs beside it."""
    shutil.copytree(made.data_dir, data, dirs_exist_ok=True)
    local, store = LocalStore(data), HubStore(repo, token="hf_local", cache=cache, ttl=60.0)
    with store.batch("Results"):
        for path in local.list(""):
            found = local.read(path)
            store.write(path, found[0] if found else b"")
    settings = made.model_copy(update={"data_dir": data / "page"})
    grading = Grading(store, settings)
    batch = grading.begin(ANA)
    while not batch.is_whole:
        batch = grading.grade(ANA, batch.ticket, Grade.GOOD)
    grading.publish(ANA, batch.ticket)
    duels = Duels(store, grading)
    play(duels, ANA, 12)
    waiting = duels.waiting
    duels.publish()
    files = store.list("audits/people/")
    return {"waiting": waiting, "left": duels.waiting, "votes": len(read_votes(store)), "files": len(files)}


def test_on_a_hub_a_batch_is_one_commit_and_so_are_many_votes(
    hub: LocalHub, client: Callable[..., Any], made: Settings, tmp_path: Path
) -> None:
    repo = f"owner/votes-{next(_names)}"
    hub.add(repo, "dataset", {".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"})
    found = client(on_hub, repo, tmp_path / "cache", tmp_path / "data", made)
    assert found == {"waiting": 12, "left": 0, "votes": 12, "files": 2}
    results, grades, votes = hub.commits(repo, "dataset")[-3:]
    assert (results, grades.partition(" of")[0], votes) == ("Results", "Grades", "12 votes")
    assert len(hub.commits(repo, "dataset")) == 4


def test_what_is_published_is_what_the_docstring_says(duels: Duels, store: LocalStore) -> None:
    play(duels, "hub:margarita", 2)
    (path,) = store.list(FOLDER)
    lines = (store.root / path).read_text().splitlines()
    assert all(set(json.loads(line)) == set(Vote.model_fields) for line in lines)
    assert "margarita" not in "".join(lines)
