"""A store in a Hub dataset: the same as a folder, few commits, no lost write; publishing, the index, and pull requests.

The clients run in a process of their own that knows no other Hub than the local stand-in.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub import LocalHub

from eco_eval import board
from eco_eval.audit import audit
from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.errors import ConflictError, EcoEvalError, InputError, StoreError
from eco_eval.instrument import Instrument, load_instrument
from eco_eval.people import FOLDER, Subject, draw, keep_grades, keep_sample, read_grades
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.publishing import dataset_card, eval_results_file, publish, uniform
from eco_eval.results import details, load_results, read_result, result_path, write_result
from eco_eval.store import ABSENT, ANY, LocalStore, Store, Table
from eco_eval.store.hub import HubStore, git_oid
from eco_eval.store.index import INDEX, load_results_indexed, rebuild_index, update_index
from eco_eval.store.table import from_parquet, to_parquet
from eco_eval.types import Failure, Grade, Graded, Judgement, ModelRef, Prompt, Result, Ungraded
from eco_eval.ui.texts import Texts

TOKEN = "hf_local"
Client = Callable[..., Any]
_names = itertools.count()


@pytest.fixture
def repo(hub: LocalHub) -> str:
    """A dataset with nothing but the Hub's own file."""
    name = f"owner/board-{next(_names)}"
    hub.add(name, "dataset", {".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"})
    return name


# --- what runs beside the hub

Step = tuple[Any, ...]


def opened(repo: str, cache: Path, token: str | None = TOKEN, ttl: float = 60.0) -> HubStore:
    return HubStore(repo, token=token, cache=cache, ttl=ttl)


def do(store: Store, *steps: Step) -> list[Any]:
    """What each call gives, the keywords last if there are any; of an error, its key."""
    found: list[Any] = []
    for name, *values in steps:
        named = values.pop() if values and isinstance(values[-1], dict) else {}
        try:
            found.append(getattr(store, name)(*values, **named))
        except EcoEvalError as error:
            found.append(error.key)
    return found


def on_hub(repo: str, cache: Path, *steps: Step, token: str | None = TOKEN, ttl: float = 60.0) -> list[Any]:
    return do(opened(repo, cache, token, ttl), *steps)


def failing(repo: str, cache: Path, *step: Any, token: str | None = TOKEN) -> tuple[str, str, bool]:
    """Key, message and whether to try again, of a call that must fail."""
    store = opened(repo, cache, token)
    with pytest.raises(EcoEvalError) as caught:
        getattr(store, step[0])(*step[1:])
    return caught.value.key, Texts("es").error(caught.value), getattr(caught.value, "retryable", False)


def beside_another_token(repo: str, cache: Path, *steps: Step) -> list[Any]:
    """Without a token, on a machine that has one the Hub does not know."""
    kept = os.environ["HF_TOKEN"]
    os.environ["HF_TOKEN"] = "hf_other"
    try:
        return on_hub(repo, cache, *steps, token=None)
    finally:
        os.environ["HF_TOKEN"] = kept


def two_writers(repo: str, caches: Path) -> list[Any]:
    """One knows only a revision that the other has moved on from."""
    first, second = opened(repo, caches / "1"), opened(repo, caches / "2")
    first.write("a", b"1")
    found = do(second, ("read", "a"))
    first.write("b", b"1")
    known = first.read("a")
    assert known is not None
    first.write("a", b"2", expected=known[1])
    return [
        *found,
        *do(second, ("read", "a"), ("write", "c", b"2"), ("list", "")),
        *do(first, ("list", ""), ("write", "a", b"3", {"expected": ABSENT})),
    ]


def count_up(repo: str, caches: Path, writers: int, times: int) -> bytes:
    """Several writers with stores of their own, each adding to one number."""

    def add(number: int) -> None:
        store = opened(repo, caches / str(number), ttl=0)
        done = 0
        while done < times:
            found = store.read("count")
            data, version = found or (b"0", ABSENT)
            try:
                store.write("count", str(int(data) + 1).encode(), expected=version)
                done += 1
            except ConflictError:
                pass

    threads = [threading.Thread(target=add, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = opened(repo, caches / "end").read("count")
    assert found is not None
    return found[0]


def write_all(repo: str, caches: Path, writers: int) -> list[str]:
    """Several writers at once, each of a file of its own. Gives the list at the end."""
    threads = [
        threading.Thread(target=lambda n=n: opened(repo, caches / str(n)).write(f"w/{n}", b"x")) for n in range(writers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return opened(repo, caches / "end").list("")


def in_batches(repo: str, cache: Path) -> dict[str, Any]:
    store = opened(repo, cache)
    store.write("old", b"x")
    seen: dict[str, Any] = {}
    with store.batch("Two at once") as batch:
        store.write("new/a.parquet", b"PAR1" * 5000)
        store.write("new/b", b"b")
        store.delete("old")
        with store.batch("Not a commit of its own"):
            store.write("new/b", b"B")
        seen["inside"] = do(store, ("read", "new/b"), ("read", "old"), ("list", ""))
        thread = threading.Thread(target=lambda: seen.update(other=do(store, ("read", "new/b"), ("list", ""))))
        thread.start()
        thread.join()
    seen["commit"] = batch.commit
    seen["after"] = do(store, ("read", "new/b"), ("list", ""))
    with suppress(KeyError), store.batch("Nothing"):
        store.write("new/b", b"lost")
        raise KeyError
    seen["dropped"] = do(store, ("read", "new/b"))
    with store.batch("The same again") as batch:
        store.write("new/b", b"B")
        store.delete("old")
    seen["nothing"] = batch.commit
    return seen


def batch_with_condition(repo: str, caches: Path) -> tuple[str, list[Any]]:
    """A file that a batch goes by changes before its commit."""
    mine, theirs = opened(repo, caches / "1"), opened(repo, caches / "2")
    version = mine.write("index", b"1")
    try:
        with mine.batch("Both or none"):
            mine.write("index", b"2", expected=version)
            mine.write("row", b"2")
            theirs.write("index", b"other")
        return "", []
    except ConflictError as error:
        return error.key, do(opened(repo, caches / "3"), ("read", "index"), ("read", "row"))


def many_revisions(repo: str, cache: Path, times: int) -> int:
    """How many files the cache holds after reading one file of many revisions."""
    store = opened(repo, cache)
    for number in range(times):
        store.write("index.parquet", str(number).encode() * 2000)
        store.read("index.parquet")
    return sum(file.is_file() for file in cache.glob("datasets--*/blobs/*"))


def busy(repo: str, cache: Path) -> tuple[str, bool]:
    import eco_eval.store.hub

    eco_eval.store.hub.LONGEST_WAIT = 0.01
    key, _, again = failing(repo, cache, "write", "a", b"x")
    return key, again


def reading_while_down(repo: str, cache: Path, switch: Path) -> list[Any]:
    """Reads before and while the hub is down; `switch` is how this process asks for it."""
    store = opened(repo, cache, ttl=0)
    before = do(store, ("read", "a"))
    switch.touch()
    while not switch.with_suffix(".done").exists():
        time.sleep(0.01)
    return before + do(store, ("read", "a"), ("write", "a", b"2"))


def send(root: Path, repo: str, cache: Path, *ids: str, token: str | None = TOKEN, **named: Any) -> list[Any]:
    """What publishing each result gives; of an error, its key and message."""
    found: list[Any] = []
    for result in ids:
        try:
            found.append(publish(result, LocalStore(root), opened(repo, cache, token), **named))
        except EcoEvalError as error:
            found.append((error.key, Texts("es").error(error)))
    return found


def send_at_once(root: Path, repo: str, caches: Path, *ids: str) -> list[Any]:
    found: dict[str, Any] = {}
    threads = [
        threading.Thread(target=lambda one=one: found.update({one: send(root, repo, caches / one, one)[0]}))
        for one in ids
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[one] for one in ids]


def board_of(repo: str, cache: Path, token: str | None = None) -> tuple[list[Result], list[Result], list[Any]]:
    """Results by the index and by files, and the answers and verdicts behind each."""
    store = opened(repo, cache, token)
    by_files, broken = load_results(store)
    assert broken == []
    return load_results_indexed(store)[0], by_files, [details(store, result) for result in by_files]


def index_only(repo: str, cache: Path) -> list[str]:
    return [result.id for result in load_results_indexed(opened(repo, cache, token=None))[0]]


def spoil(repo: str, cache: Path, result: Result) -> tuple[list[float], int]:
    """Scores by the index after a result's file is written past it, and how many a new index holds."""
    store = opened(repo, cache)
    write_result(result, store)
    scores = [one.score.eco.value for one in load_results_indexed(store)[0] if one.id == result.id]
    return scores, rebuild_index(store)


def as_a_stranger(repo: str, name: str | None = None) -> list[dict[str, Any]]:
    """What somebody without our code reads, all of one configuration."""
    from datasets import load_dataset

    rows: list[dict[str, Any]] = load_dataset(repo, name, split="train").to_list()
    return rows


def ask_model(result: Result, token: str = TOKEN) -> Any:
    from eco_eval.publishing import eval_results_pr

    try:
        return eval_results_pr(
            result, benchmark="owner/benchmark", task="es", token=token, source="https://huggingface.co/datasets/o/b"
        )
    except EcoEvalError as error:
        return error.key


# --- the store


NOT_PATHS = ("", "/a", "../x", "a//b", "a/", "a/./b", ".git", "a\\b", "a\0")

STEPS: tuple[Step, ...] = (
    ("list", ""),
    ("read", "results/a.json"),
    ("write", "results/a.json", b"uno"),
    ("write", "results/a.json", b"dos", {"expected": ABSENT}),
    ("read", "results/a.json"),
    ("write", "results/b.json", b"", {"expected": ABSENT}),
    ("write", "results/a.json", b"dos", {"expected": "0" * 64}),
    ("write", "results/a.json", b"dos", {"expected": ANY}),
    ("write", "answers/m/d.parquet", b"PAR1" * 3000),
    ("write", "answers/m/d.parquet", b"PAR1" * 2000, {"expected": "0" * 64}),
    ("read", "answers/m/d.parquet"),
    ("write", "results-old/c", b"x"),
    ("list", "results/"),
    ("list", "results"),
    ("list", "answers/m/d"),
    ("list", "answers/m/d.parquet/"),
    ("list", "nothing/"),
    ("list", ""),
    ("delete", "results/a.json"),
    ("delete", "results/a.json"),
    ("read", "results/a.json"),
    ("write", "results/a.json", b"tres", {"expected": ABSENT}),
    ("list", "results/"),
    *((name, path) for path in NOT_PATHS for name in ("read", "delete")),
    *(("list", prefix) for prefix in ("/etc/", "../", "a//")),
)


def test_a_hub_store_does_what_a_folder_does(repo: str, client: Client, store: LocalStore, tmp_path: Path) -> None:
    assert client(on_hub, repo, tmp_path, *STEPS) == do(store, *STEPS)


def test_what_is_read_or_listed_once_is_not_asked_for_again(
    hub: LocalHub, repo: str, client: Client, tmp_path: Path
) -> None:
    hub.add(repo, "dataset", {"results/a.json": b"{}", "results/deep/b.json": b"{}", "c": b"x"})
    before = len(hub.requests)
    reads = [
        ("read", "results/a.json"),
        ("read", "none"),
        ("list", ""),
        ("list", "results/"),
        ("list", "results/deep/"),
    ]
    once = client(on_hub, repo, tmp_path, *reads, *reads, token=None)
    assert once[:5] == once[5:]
    asked = [request for request in hub.requests[before:] if request.startswith("GET ")]
    assert sum("/resolve/" in request for request in asked) <= 1
    assert sum("/tree/" in request for request in asked) == 1
    assert sum("/revision/" in request for request in asked) == 1
    fetched = len(hub.requests)
    assert client(on_hub, repo, tmp_path, ("read", "results/a.json"), token=None) == once[:1]
    assert [request for request in hub.requests[fetched:] if "/resolve/" in request] == []


def test_a_name_that_no_listing_has_is_not_asked_for(hub: LocalHub, repo: str, client: Client, tmp_path: Path) -> None:
    hub.add(repo, "dataset", {"results/a.json": b"{}", "c": b"x"})
    before = len(hub.requests)
    reads = [("read", f"results/{number}.json") for number in range(20)]
    found = client(on_hub, repo, tmp_path, ("list", "results/"), *reads, ("read", "results/a.json"), ("read", "c"))
    assert found[1:-2] == [None] * 20
    assert [one[0] for one in found[-2:]] == [b"{}", b"x"]
    fetched = {request.rpartition("/")[2] for request in hub.requests[before:] if "/resolve/" in request}
    assert fetched == {"a.json", "c"}


def test_what_others_wrote_is_seen_once_the_known_revision_is_old(
    hub: LocalHub, repo: str, client: Client, tmp_path: Path
) -> None:
    first, second = client(two_writers, repo, tmp_path)[:2]
    assert first[0] == second[0] == b"1"
    assert [found[0] for found in client(on_hub, repo, tmp_path / "2", ("read", "a"))] == [b"2"]


def test_a_writer_behind_the_branch_loses_nothing_of_others(repo: str, client: Client, tmp_path: Path) -> None:
    _, _, _, listed, early, conflict = client(two_writers, repo, tmp_path)
    assert listed == ["a", "b", "c"]
    assert early == ["a", "b"]
    assert conflict == "store.conflict"


def test_writers_of_different_files_all_get_through(hub: LocalHub, repo: str, client: Client, tmp_path: Path) -> None:
    assert client(write_all, repo, tmp_path, 6) == [f"w/{n}" for n in range(6)]
    assert len(hub.commits(repo, "dataset")) == 7


def test_compare_and_swap_loses_no_increment(repo: str, client: Client, tmp_path: Path) -> None:
    assert client(count_up, repo, tmp_path, 4, 4) == b"16"


def test_a_batch_is_one_commit_and_seen_only_inside_until_then(
    hub: LocalHub, repo: str, client: Client, tmp_path: Path
) -> None:
    seen = client(in_batches, repo, tmp_path)
    inside, gone, listed = seen["inside"]
    assert (inside[0], gone, listed) == (b"B", None, ["new/a.parquet", "new/b"])
    assert seen["other"] == [None, ["old"]]
    assert [seen["after"][0][0], seen["after"][1]] == [b"B", listed]
    assert seen["dropped"][0][0] == b"B"
    assert seen["nothing"] is None
    assert hub.commits(repo, "dataset")[1:] == ["Write old", "Two at once"]
    assert set(hub.files(repo, "dataset", seen["commit"])) == {".gitattributes", *listed}


def test_a_batch_whose_condition_no_longer_holds_writes_nothing(repo: str, client: Client, tmp_path: Path) -> None:
    key, (index, row) = client(batch_with_condition, repo, tmp_path)
    assert (key, index[0], row) == ("store.conflict", b"other", None)


def test_what_is_there_already_makes_no_commit(hub: LocalHub, repo: str, client: Client, tmp_path: Path) -> None:
    twice = [("write", "a", b"x"), ("write", "t.parquet", b"y" * 9000), ("delete", "none")]
    client(on_hub, repo, tmp_path, *twice, *twice)
    assert len(hub.commits(repo, "dataset")) == 3


def test_large_and_columnar_files_go_the_clients_own_way(
    hub: LocalHub, repo: str, client: Client, tmp_path: Path
) -> None:
    data = os.urandom(300_000)
    (version,) = client(on_hub, repo, tmp_path, ("write", "answers/m/t.parquet", data))
    assert any(request.startswith("PUT /lfs/") for request in hub.requests)
    assert hub.files(repo, "dataset")["answers/m/t.parquet"] == data
    assert client(on_hub, repo, tmp_path / "other", ("read", "answers/m/t.parquet")) == [(data, version)]


def test_without_a_token_it_reads_and_says_why_it_does_not_write(
    hub: LocalHub, repo: str, client: Client, tmp_path: Path
) -> None:
    hub.add(repo, "dataset", {"a": b"x"})
    assert client(on_hub, repo, tmp_path, ("read", "a"), token=None)[0][0] == b"x"
    assert client(beside_another_token, repo, tmp_path / "2", ("read", "a"), ("list", ""))[0][0] == b"x"
    for step in (("write", "a", b"y"), ("delete", "a")):
        key, message, again = client(failing, repo, tmp_path, *step, token=None)
        assert (key, again) == ("store.read_only", False)
        assert repo in message
    assert hub.files(repo, "dataset")["a"] == b"x"


def test_what_stands_in_the_way_is_said(hub: LocalHub, repo: str, client: Client, tmp_path: Path) -> None:
    hub.add("owner/secret-board", "dataset", {"a": b"x"}, private=True)
    for name, token, expected in (
        ("owner/no-such-board", TOKEN, "store.hub_missing"),
        ("owner/secret-board", None, "store.hub_missing"),
        (repo, "hf_other", "store.hub_forbidden"),
    ):
        key, message, again = client(failing, name, tmp_path, "read", "a", token=token)
        assert (key, again) == (expected, False)
        assert name in message
    assert client(on_hub, "owner/secret-board", tmp_path, ("read", "a"))[0][0] == b"x"
    with pytest.raises(InputError) as caught:
        HubStore("no name", cache=tmp_path)
    assert caught.value.key == "store.bad_repo"


def test_while_the_hub_is_down_what_is_known_is_still_read(
    hub: LocalHub, repo: str, client: Client, tmp_path: Path
) -> None:
    hub.add(repo, "dataset", {"a": b"1"})
    switch = tmp_path / "down"

    def turn() -> None:
        while not switch.exists():
            time.sleep(0.01)
        hub.down = True
        switch.with_suffix(".done").touch()

    turner = threading.Thread(target=turn)
    turner.start()
    try:
        before, during, written = client(reading_while_down, repo, tmp_path / "cache", switch)
    finally:
        turner.join()
        hub.down = False
    assert before == during
    assert written == "store.hub_unreachable"


def test_a_branch_that_never_rests_is_given_up_for_another_time(
    hub: LocalHub, repo: str, client: Client, tmp_path: Path
) -> None:
    hub.moving = True
    try:
        assert client(busy, repo, tmp_path) == ("store.hub_busy", True)
    finally:
        hub.moving = False


def test_the_cache_keeps_few_revisions(repo: str, client: Client, tmp_path: Path) -> None:
    assert client(many_revisions, repo, tmp_path / "cache", 20) <= 9


def test_a_repository_is_made_and_a_public_one_is_not_taken_for_private(client: Client, tmp_path: Path) -> None:
    name = f"owner/made-{next(_names)}"
    made = client(on_hub, name, tmp_path, ("create", {"private": False}), ("write", "a", b"x"), ("list", ""))
    assert made[2] == ["a"]
    again = client(on_hub, name, tmp_path, ("create", {"private": False}), ("create", {"private": True}))
    assert again == [None, "store.is_public"]


def test_digests_are_gits() -> None:
    assert git_oid(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


# --- results on the hub


def engines(said: str, label: Any = None) -> Engines:
    @contextmanager
    def candidate() -> Iterator[Engine]:
        yield ScriptedEngine(answer=lambda c: said)

    @contextmanager
    def judge() -> Iterator[Engine]:
        yield ScriptedEngine(label=label or (lambda c, labels: [len(c[-1].content) % 5 + 1, 2, 3]))

    return Engines(candidate=candidate, judge=judge)


@pytest.fixture(scope="module")
def short() -> Instrument:
    return load_instrument("eco-es-demo").with_judge_at("0" * 40).limited(6)


def evaluated(name: str, said: str, measure: Instrument, store: LocalStore, label: Any = None) -> Result:
    """A result of a model, said to be publishable, as one of a real judge would be."""
    model = ModelRef(name=name, source="hub", revision="a" * 40)
    made = evaluate(submit(model, measure), measure, engines(said, label), store)
    return allowed(made, store)


def allowed(result: Result, store: Store, **more: Any) -> Result:
    new = result.model_copy(update={"publishable": True, "attribution": "Ana, CC-BY-4.0", **more})
    write_result(new, store)
    return new


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, short: Instrument) -> tuple[Path, list[Result]]:
    """A store with two models, one without a verdict on some answers, a judge's card and people's grades."""
    root = tmp_path_factory.mktemp("made") / "data"
    store = LocalStore(root)
    partly = itertools.count()
    lenient = short.model_copy(update={"score": short.score.model_copy(update={"max_ungraded": 1.0})})

    def some(conversation: Any, labels: Any) -> Any:
        return Failure(cause="unreadable") if next(partly) % 3 == 0 else [1, 2, 3]

    results = [
        evaluated("vecina/rio-7b", "Primero, hablar con quienes riegan abajo.", short, store),
        evaluated("otro/monte-2b", "Eso depende.", lenient, store, some),
    ]
    with engines("").judge() as engine:

        @contextmanager
        def judge() -> Iterator[Engine]:
            yield engine

        audit(short, judge, store)
    for path in store.list("audits/judges/"):
        for suffix in (".md", ".html"):
            store.write(path.replace(".json", suffix), b"a card")
    (card,) = (json.loads((store.root / path).read_text()) for path in store.list("audits/judges/") if ".json" in path)
    store.write("audits/judges/other.json", json.dumps(card | {"revision": "1" * 40}).encode())
    store.write("audits/judges/other.md", b"of another judge")
    store.write("audits/judges/other-old.json", b"{}")
    for result, name in zip(results, ("uno", "dos"), strict=True):
        readings = details(store, result)
        sample, shown = draw([Subject(result, readings)], dict[str, Prompt](), 3, 1)
        keep_sample(store, sample)
        file = root.parent / f"{name}.jsonl"
        file.write_text("".join(json.dumps(one.row() | {"grade": "good"}) + "\n" for one in shown))
        keep_grades(store, read_grades(file, [sample]), "Ana")
    answers = store.read(results[0].answers_path)
    assert answers is not None
    store.write(results[0].answers_path.replace(".parquet", ".shards/1.parquet"), answers[0])
    return root, results


@pytest.fixture
def local(made: tuple[Path, list[Result]], tmp_path: Path) -> LocalStore:
    shutil.copytree(made[0], tmp_path / "data")
    return LocalStore(tmp_path / "data")


def anchors(store: LocalStore, result: Result) -> list[Result]:
    key = result.submission.measured_digest
    return [one for one in load_results(store)[0] if one.is_anchor and one.submission.measured_digest == key]


def test_a_result_is_published_with_what_explains_it_in_one_commit(
    hub: LocalHub, repo: str, client: Client, local: LocalStore, made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    result = made[1][0]
    (commit,) = client(send, local.root, repo, tmp_path, result.id)
    assert len(hub.commits(repo, "dataset")) == 2
    files = hub.files(repo, "dataset", commit)
    whole = [result, *anchors(local, result)]
    assert len(whole) == 5
    expected = {".gitattributes", "README.md", INDEX}
    for one in whole:
        expected |= {result_path(one.id), one.answers_path, *(seat.judgements_path for seat in one.seats)}
    cards = {path for path in local.list("audits/judges/") if "other" not in path}
    assert {Path(path).suffix for path in cards} == {".json", ".md", ".html"}
    mine = [
        path for path in local.list(FOLDER) if result.id in (local.root / path).with_name("sample.json").read_text()
    ]
    assert len(mine) == 2
    assert set(files) == expected | cards | set(mine)
    assert files[result_path(result.id)] == (local.root / result_path(result.id)).read_bytes()


def test_publishing_twice_makes_no_second_commit_and_a_change_makes_one(
    hub: LocalHub, repo: str, client: Client, local: LocalStore, made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    first = made[1][0]
    assert client(send, local.root, repo, tmp_path, first.id, first.id)[1] is None
    assert client(send, local.root, repo, tmp_path / "elsewhere", first.id) == [None]
    before = hub.files(repo, "dataset")
    assert len(hub.commits(repo, "dataset")) == 2
    allowed(first, local, words=tuple(9 for _ in first.words))
    client(send, local.root, repo, tmp_path, first.id)
    after = hub.files(repo, "dataset")
    assert {path for path in after if after[path] != before.get(path)} == {INDEX, result_path(first.id)}


def test_the_board_of_the_hub_is_the_board_of_the_folder(
    repo: str, client: Client, local: LocalStore, made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    client(send, local.root, repo, tmp_path / "w", *(result.id for result in made[1]))
    indexed, by_files, behind = client(board_of, repo, tmp_path / "r")
    assert indexed == by_files
    assert board.build(indexed) == board.build(load_results(local)[0])
    assert [[r.answer for r in found] for found in behind] == [
        [r.answer for r in details(local, result)] for result in by_files
    ]
    assert [[r.verdicts for r in found] for found in behind] == [
        [r.verdicts for r in details(local, result)] for result in by_files
    ]


def test_a_board_on_the_hub_is_one_file_and_one_listing(
    hub: LocalHub, repo: str, client: Client, local: LocalStore, made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    client(send, local.root, repo, tmp_path / "w", *(result.id for result in made[1]))
    before = len(hub.requests)
    found = client(index_only, repo, tmp_path / "r")
    assert {result.id for result in made[1]} <= set(found)
    fetched = {request.split("/resolve/")[1][41:] for request in hub.requests[before:] if "/resolve/" in request}
    assert fetched == {INDEX}


def test_a_result_written_past_the_index_is_read_from_its_file(
    hub: LocalHub, repo: str, client: Client, local: LocalStore, made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    first = made[1][0]
    client(send, local.root, repo, tmp_path, first.id)
    eco = first.score.eco.model_copy(update={"value": 12.5})
    changed = first.model_copy(update={"score": first.score.model_copy(update={"eco": eco})})
    scores, count = client(spoil, repo, tmp_path, changed)
    assert scores == [12.5]
    assert count == len(hub.files(repo, "dataset").keys() & {result_path(one.id) for one in load_results(local)[0]})


def test_two_that_publish_at_once_are_both_in_the_index(
    hub: LocalHub, repo: str, client: Client, local: LocalStore, made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    ids = [result.id for result in made[1]]
    assert all(isinstance(one, str) for one in client(send_at_once, local.root, repo, tmp_path, *ids))
    assert set(ids) <= {row["id"] for row in client(as_a_stranger, repo)}
    assert len(hub.commits(repo, "dataset")) == 3


def test_what_may_not_be_published_is_not_unless_told(
    hub: LocalHub, repo: str, client: Client, local: LocalStore, made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    first = made[1][0]
    write_result(first.model_copy(update={"publishable": False}), local)
    ((key, message),) = client(send, local.root, repo, tmp_path, first.id)
    assert key == "store.unpublishable"
    assert first.id in message
    assert client(send, local.root, repo, tmp_path, "0" * 16)[0][0] == "result.unknown"
    assert len(hub.commits(repo, "dataset")) == 1
    assert isinstance(client(send, local.root, repo, tmp_path, first.id, unpublishable=True)[0], str)


@pytest.mark.parametrize("where", ["answers", "judgements"])
def test_a_table_that_is_not_the_results_own_is_never_published(
    hub: LocalHub,
    repo: str,
    client: Client,
    local: LocalStore,
    made: tuple[Path, list[Result]],
    tmp_path: Path,
    where: str,
) -> None:
    """As one of answers to hidden prompts would be."""
    first = made[1][0]
    place = first.answers_path.replace(Path(first.answers_path).stem, "f" * 16)
    if where == "answers":
        local.write(place, (local.root / first.answers_path).read_bytes())
        allowed(first, local, answers_path=place)
    else:
        allowed(first, local, seats=(first.seats[0].model_copy(update={"judgements_path": place}),))
    ((key, message),) = client(send, local.root, repo, tmp_path, first.id)
    assert (key, place in message) == ("store.foreign", True)
    assert len(hub.commits(repo, "dataset")) == 1


def test_a_result_without_its_answers_is_not_published(
    hub: LocalHub, repo: str, client: Client, local: LocalStore, made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    local.delete(made[1][0].answers_path)
    assert client(send, local.root, repo, tmp_path, made[1][0].id)[0][0] == "store.missing"
    assert len(hub.commits(repo, "dataset")) == 1


def test_a_stranger_loads_results_answers_and_verdicts_without_a_script(
    repo: str, client: Client, local: LocalStore, made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    # A judge that gives labels only, and says why: other columns are filled than for the first model.
    told = [
        Graded(prompt_id=reading.answer.prompt_id, grade=Grade.BAD, source="hard", findings=(("who", "the river"),))
        for reading in details(local, made[1][1])
    ]
    local.write(made[1][1].seats[0].judgements_path, to_parquet(told, fields(Graded, Ungraded), {}))
    client(send, local.root, repo, tmp_path, *(result.id for result in made[1]))
    rows = client(as_a_stranger, repo)
    kept, _ = load_results(local)
    assert {row["id"]: (row["eco"], row["eco_low"], row["grades"]) for row in rows} == {
        one.id: (one.score.eco.value, one.score.eco.low, [seat.grades for seat in one.seats]) for one in kept
    }
    assert [Result.model_validate_json(row["result"]) for row in rows] == [
        next(one for one in kept if one.id == row["id"]) for row in rows
    ]
    texts = {row["text"] for row in client(as_a_stranger, repo, "answers")}
    assert {"Eso depende.", "Primero, hablar con quienes riegan abajo."} <= texts
    verdicts = client(as_a_stranger, repo, "judgements")
    assert {(row["source"], row["probabilities"] is None, row["findings"]) for row in verdicts} == {
        ("hard", True, '[["who", "the river"]]'),
        ("exact", False, "[]"),
    }
    # Both instruments have the same judge: its verdicts on the anchors are one table.
    assert len(verdicts) == sum({one.seats[0].judgements_path: len(one.words) for one in kept}.values())


def test_the_card_says_what_is_there_and_credits_every_source(
    hub: LocalHub, repo: str, client: Client, local: LocalStore, made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    client(send, local.root, repo, tmp_path, made[1][0].id)
    card = hub.files(repo, "dataset")["README.md"].decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["license"], front["language"]) == ("cc-by-4.0", ["es"])
    assert [one["config_name"] for one in front["configs"]] == ["results", "answers", "judgements", "requests"]
    assert [one["config_name"] for one in front["configs"] if one.get("default")] == ["results"]
    for word in ("Cómo citar", "How to cite", "- Ana, CC-BY-4.0", "10.57967/hf/1148", repo):
        assert word in card
    assert "{{" not in card
    allowed(made[1][1], local, attribution="Ben --> <!-- /credits -->\n# Mine")
    client(send, local.root, repo, tmp_path, made[1][1].id)
    both = hub.files(repo, "dataset")["README.md"].decode()
    assert "- Ana, CC-BY-4.0\n- Ben /credits # Mine\n" in both.replace("  ", " ").replace("- Ben  ", "- Ben ")
    assert both.count("<!-- /credits -->") == 1


def test_a_card_somebody_wrote_is_left_alone(
    hub: LocalHub, repo: str, client: Client, local: LocalStore, made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    own = b"---\nconfigs:\n- {config_name: mine, data_files: index.parquet}\n---\n# Mine\n"
    hub.add(repo, "dataset", {"README.md": own})
    client(send, local.root, repo, tmp_path, made[1][0].id)
    assert hub.files(repo, "dataset")["README.md"] == own


# --- the index in a folder


def test_by_the_index_and_by_files_is_the_same(local: LocalStore, made: tuple[Path, list[Result]]) -> None:
    local.write("results/rota.json", b"{")
    assert load_results_indexed(local) == load_results(local)
    time.sleep(0.05)
    count = rebuild_index(local)
    assert count == len(load_results(local)[0])
    assert load_results_indexed(local) == load_results(local)
    (local.root / result_path(made[1][0].id)).unlink()
    assert load_results_indexed(local) == load_results(local)
    allowed(made[1][1], local, words=tuple(7 for _ in made[1][1].words))
    assert load_results_indexed(local) == load_results(local)


def test_the_index_is_what_is_read(local: LocalStore, made: tuple[Path, list[Result]]) -> None:
    """A file older than its row is not opened: what it holds now is not seen."""
    time.sleep(0.05)
    rebuild_index(local)
    file = local.root / result_path(made[1][0].id)
    os.utime(file, (1, 1))
    file.write_bytes(b"{")
    os.utime(file, (1, 1))
    assert made[1][0].id in {one.id for one in load_results_indexed(local)[0]}
    os.utime(file)
    assert load_results_indexed(local)[1] == [result_path(made[1][0].id)]


def test_a_row_is_added_or_replaced_and_the_others_stay(local: LocalStore, made: tuple[Path, list[Result]]) -> None:
    first, second = (result_path(one.id) for one in made[1])
    one, other = ((local.root / path).read_bytes() for path in (first, second))
    assert update_index(local, {first: one})
    assert update_index(local, {second: other, "results/x.json": one, "results/rota.json": b"{"})
    assert not update_index(local, {first: one, second: other})
    changed = allowed(made[1][0], local, words=tuple(8 for _ in made[1][0].words))
    assert update_index(local, {first: (local.root / first).read_bytes()})
    rows = rows_of(local)
    assert [row["id"] for row in rows] == [made[1][1].id, made[1][0].id]
    assert Result.model_validate_json(rows[1]["result"]) == changed


def rows_of(store: LocalStore) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(store.root / INDEX).to_pylist()
    return rows


@pytest.mark.parametrize("data", [b"", b"x", b"PAR1" * 50])
def test_a_damaged_index_is_as_none(local: LocalStore, made: tuple[Path, list[Result]], data: bytes) -> None:
    local.write(INDEX, data)
    assert load_results_indexed(local) == load_results(local)
    path = result_path(made[1][0].id)
    assert update_index(local, {path: (local.root / path).read_bytes()})
    assert [row["id"] for row in rows_of(local)] == [made[1][0].id]


def test_wherever_an_index_is_damaged_the_board_is_the_same(local: LocalStore) -> None:
    time.sleep(0.05)
    rebuild_index(local)
    whole = (local.root / INDEX).read_bytes()
    expected = load_results(local)
    for place in range(4, len(whole), len(whole) // 60):
        data = bytearray(whole)
        data[place] ^= 255
        (local.root / INDEX).write_bytes(data)
        assert load_results_indexed(local) == expected
        (local.root / INDEX).write_bytes(whole[:place])
        assert load_results_indexed(local) == expected


def test_an_index_of_another_version_is_added_to(local: LocalStore, made: tuple[Path, list[Result]]) -> None:
    import pyarrow.parquet as pq

    rebuild_index(local)
    table = pq.read_table(local.root / INDEX)
    pq.write_table(table.drop(["eco_low", "soft"]).append_column("more", table.column("id")), local.root / INDEX)
    path = result_path(allowed(made[1][0], local, words=tuple(3 for _ in made[1][0].words)).id)
    assert update_index(local, {path: (local.root / path).read_bytes()})
    assert {row["id"]: row["eco_low"] is None for row in rows_of(local)} == {
        one.id: one.id != made[1][0].id for one in load_results(local)[0]
    }


class Plain:
    """A store of no known kind: what the index holds is checked against the bytes."""

    def __init__(self, inner: LocalStore) -> None:
        self.read, self.write, self.list, self.delete = inner.read, inner.write, inner.list, inner.delete


def test_another_kind_of_store_is_checked_by_its_bytes(local: LocalStore, made: tuple[Path, list[Result]]) -> None:
    store: Store = Plain(local)
    rebuild_index(store)
    changed = allowed(made[1][0], local, words=tuple(5 for _ in made[1][0].words))
    os.utime(local.root / result_path(changed.id), (1, 1))
    assert load_results_indexed(store) == load_results(store)
    assert changed in load_results_indexed(store)[0]


# --- tables that read together


def test_tables_have_the_same_columns_whatever_they_hold(local: LocalStore, made: tuple[Path, list[Result]]) -> None:
    import pyarrow.parquet as pq
    from pydantic import TypeAdapter

    schemas = []
    for result in load_results(local)[0]:
        path = result.seats[0].judgements_path
        data = (local.root / path).read_bytes()
        again = uniform(data, path)
        assert uniform(again, path) == again
        adapter: TypeAdapter[Any] = TypeAdapter(Judgement)
        assert from_parquet(again, adapter, path) == from_parquet(data, adapter, path)
        (local.root / "t.parquet").write_bytes(again)
        schemas.append(pq.read_schema(local.root / "t.parquet").remove_metadata())
    assert all(schema == schemas[0] for schema in schemas)
    with pytest.raises(StoreError) as caught:
        uniform(b"PAR1", "answers/x")
    assert caught.value.values["path"] == "answers/x"


def fields(*kinds: Any) -> list[str]:
    return list(dict.fromkeys(name for kind in kinds for name in kind.model_fields))


def test_findings_and_failures_read_together_with_none(store: LocalStore) -> None:
    told = Graded(prompt_id="a", grade=Grade.GOOD, source="hard", findings=(("who", "the river"),))
    bare = Graded(prompt_id="a", grade=Grade.BAD, source="hard")
    for record in (told, bare, Ungraded(prompt_id="a", cause="too_long")):
        store.delete("t.parquet")
        table: Table[Any] = Table(store, "t.parquet", Judgement)
        table.add(record)
        table.finish(["a"])
        store.write("t.parquet", uniform((store.root / "t.parquet").read_bytes(), "t"))
        assert list(Table(store, "t.parquet", Judgement).records.values()) == [record]


# --- a model's own page


def test_a_score_is_proposed_to_its_model_and_nothing_is_changed_there(
    hub: LocalHub, client: Client, made: tuple[Path, list[Result]]
) -> None:
    result = made[1][0]
    name = result.submission.model.name
    hub.add(name, "model", {"README.md": b"# Mine\n"})
    url = client(ask_model, result)
    assert url == f"{hub.url}/{name}/discussions/1"
    assert set(hub.files(name, "model")) == {"README.md"}
    (pull,) = hub.pulls(name, "model")
    (entry,) = yaml.safe_load(pull[".eval_results/owner--benchmark-es.yaml"])
    assert entry["dataset"] == {"id": "owner/benchmark", "task_id": "es"}
    assert entry["value"] == round(result.score.eco.value, 2)
    assert entry["source"]["url"].startswith("https://")
    assert entry["date"] == result.provenance.finished_at
    assert result.submission.instrument in entry["notes"]
    assert client(ask_model, result) == url
    assert len(hub.pulls(name, "model")) == 1


def test_a_score_the_model_shows_already_is_not_proposed(
    hub: LocalHub, client: Client, made: tuple[Path, list[Result]]
) -> None:
    result = made[1][1]
    source = "https://huggingface.co/datasets/o/b"
    path, data = eval_results_file(result, benchmark="owner/benchmark", task="es", source=source)
    hub.add(result.submission.model.name, "model", {path: data})
    assert client(ask_model, result) is None
    assert hub.pulls(result.submission.model.name, "model") == []


def test_the_form_is_what_the_hubs_client_reads(made: tuple[Path, list[Result]]) -> None:
    from huggingface_hub import parse_eval_result_entries

    _, data = eval_results_file(made[1][0], benchmark="o/b", task="t")
    (entry,) = parse_eval_result_entries(yaml.safe_load(data))
    assert (entry.dataset_id, entry.task_id, entry.source_url) == ("o/b", "t", None)
    prompted = made[1][0].submission.model_copy(update={"system_prompt": "Cuida el río."})
    guided = made[1][0].model_copy(update={"submission": prompted})
    path, data = eval_results_file(guided, benchmark="o/b", task="t")
    assert path == ".eval_results/o--b-t-system.yaml"
    assert b"system prompt" in data


def test_no_score_is_proposed_that_may_not_be_published_or_has_no_page(
    client: Client, made: tuple[Path, list[Result]]
) -> None:
    result = made[1][0]
    assert client(ask_model, result.model_copy(update={"publishable": False})) == "store.unpublishable"
    local = result.submission.model.model_copy(update={"source": "local"})
    here = result.model_copy(update={"submission": result.submission.model_copy(update={"model": local})})
    assert client(ask_model, here) == "store.not_on_hub"
    nowhere = result.submission.model.model_copy(update={"name": "owner/no-such-model"})
    gone = result.model_copy(update={"submission": result.submission.model_copy(update={"model": nowhere})})
    assert client(ask_model, gone) == "store.hub_missing"


def test_a_card_of_two_languages_names_them() -> None:
    front: Mapping[str, Any] = yaml.safe_load(dataset_card("o/b", [], ["es", "en"]).split("---\n")[1])
    assert front["language"] == ["es", "en"]


def test_reading_back_a_published_result_needs_nothing_else(
    repo: str, client: Client, local: LocalStore, made: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    client(send, local.root, repo, tmp_path, made[1][0].id)
    assert client(found_again, repo, tmp_path / "r", made[1][0].id) == made[1][0]


def found_again(repo: str, cache: Path, result: str) -> Result | None:
    return read_result(opened(repo, cache, token=None), result)
