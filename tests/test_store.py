"""The store and its tables: whole files or none, whatever is killed, full or at the same time."""

from __future__ import annotations

import json
import signal
import string
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from eco_eval.errors import ConflictError, EcoEvalError, InputError, StoreError
from eco_eval.store import ABSENT, LocalStore, Table, slug
from eco_eval.store.table import from_parquet, to_parquet
from eco_eval.types import Answer, Failure, Grade, Graded, Judgement, Ungraded

FILE = "results/a.json"


def files(store: LocalStore) -> list[str]:
    """Every file under the root but the lock, temporary ones included."""
    found = (p.relative_to(store.root).as_posix() for p in store.root.rglob("*") if p.is_file())
    return sorted(path for path in found if path != ".lock")


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


class TestLocalStore:
    def test_what_is_written_is_read_with_its_version(self, store: LocalStore) -> None:
        assert store.read(FILE) is None
        version = store.write(FILE, b"uno")
        assert store.read(FILE) == (b"uno", version)
        assert store.write(FILE, b"dos") != version
        assert store.read(FILE) == (b"dos", store.write("other", b"dos"))

    def test_paths_are_listed_by_prefix_in_order(self, store: LocalStore) -> None:
        for path in ("results/b.json", "results/a.json", "results-old/c", "answers/m/d.parquet"):
            store.write(path, b"x")
        (store.root / "results" / ".partial-1").write_bytes(b"half")
        (store.root / ".git").mkdir()
        (store.root / ".git" / "HEAD").write_bytes(b"x")
        assert store.list("results/") == ["results/a.json", "results/b.json"]
        assert store.list("results") == ["results-old/c", "results/a.json", "results/b.json"]
        assert store.list("answers/m/d") == ["answers/m/d.parquet"]
        assert store.list("") == ["answers/m/d.parquet", "results-old/c", "results/a.json", "results/b.json"]
        assert store.list("nothing/") == store.list("results/a.json/") == []

    def test_an_empty_place_is_an_empty_store(self, tmp_path: Path) -> None:
        store = LocalStore(tmp_path / "not" / "there")
        assert store.list("results/") == []
        store.delete(FILE)
        assert not store.root.exists()

    def test_deleting_leaves_no_empty_folder(self, store: LocalStore) -> None:
        store.write(FILE, b"x")
        store.delete(FILE)
        store.delete(FILE)
        assert store.read(FILE) is None
        assert not (store.root / "results").exists()

    def test_a_stale_writer_is_told(self, store: LocalStore) -> None:
        first = store.write(FILE, b"1", expected=ABSENT)
        second = store.write(FILE, b"2", expected=first)
        for expected in (ABSENT, first):
            with pytest.raises(ConflictError):
                store.write(FILE, b"3", expected=expected)
        store.delete(FILE)
        with pytest.raises(ConflictError):
            store.write(FILE, b"3", expected=second)
        assert store.read(FILE) is None

    def test_compare_and_swap_loses_no_increment(self, store: LocalStore) -> None:
        store.write("count", b"0")

        def increment() -> None:
            own = LocalStore(store.root)
            done = 0
            while done < 10:
                data, version = own.read("count") or (b"", "")
                try:
                    own.write("count", str(int(data) + 1).encode(), expected=version)
                    done += 1
                except ConflictError:
                    pass

        threads = [threading.Thread(target=increment) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.read("count") == (b"60", store.write("other", b"60"))

    def test_only_one_of_many_creates(self, store: LocalStore) -> None:
        created: list[int] = []

        def create(number: int) -> None:
            try:
                store.write(FILE, str(number).encode(), expected=ABSENT)
                created.append(number)
            except ConflictError:
                pass

        threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(created) == 1
        assert store.read(FILE) == (str(created[0]).encode(), store.write("other", str(created[0]).encode()))

    def test_a_reader_never_sees_half_a_file(self, store: LocalStore) -> None:
        versions = [bytes([letter]) * 300_000 for letter in b"ab"]
        store.write(FILE, versions[0])
        stop = threading.Event()
        seen: set[bytes] = set()

        def read() -> None:
            while not stop.is_set():
                found = store.read(FILE)
                seen.add(found[0] if found else b"nothing")

        reader = threading.Thread(target=read)
        reader.start()
        for i in range(60):
            store.write(FILE, versions[i % 2])
        stop.set()
        reader.join()
        assert seen <= set(versions)
        assert files(store) == [FILE]

    def test_writing_and_deleting_beside_each_other_never_fails(self, store: LocalStore) -> None:
        """Deleting the last file of a folder removes the folder, while others write into it and list it."""
        errors: list[EcoEvalError] = []

        def churn(name: str) -> None:
            try:
                for _ in range(30):
                    store.write(f"shards/{name}", b"x")
                    store.list("")
                    store.delete(f"shards/{name}")
            except EcoEvalError as error:
                errors.append(error)

        threads = [threading.Thread(target=churn, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors

    def test_a_full_disk_leaves_what_was_there(self, store: LocalStore) -> None:
        store.write(FILE, b"old")
        code = """
import resource, signal, sys
from pathlib import Path
from eco_eval.errors import StoreError
from eco_eval.store import LocalStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
store = LocalStore(Path(sys.argv[1]))
for path in (sys.argv[2], "results/new.json"):
    try:
        store.write(path, b"x" * 5000)
    except StoreError as error:
        print(error.key, error.values["path"], bool(error.values["reason"]), type(error.__cause__).__name__)
"""
        out, _ = run(code, store.root, FILE).communicate(timeout=30)
        assert out.splitlines() == [f"store.unwritable {path} True OSError" for path in (FILE, "results/new.json")]
        assert files(store) == [FILE]
        assert store.read(FILE) == (b"old", store.write("other", b"old"))

    def test_a_killed_writer_leaves_whole_files(self, store: LocalStore) -> None:
        code = """
import itertools, sys
from pathlib import Path
from eco_eval.store import LocalStore
store = LocalStore(Path(sys.argv[1]))
print("ready", flush=True)
for i in itertools.count():
    store.write(f"results/{i % 3}", bytes([97 + i % 26]) * 400_000)
"""
        for delay in (0.02, 0.05, 0.08):
            writer = run(code, store.root)
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
            for path in store.list("results/"):
                found = store.read(path)
                assert found is not None
                assert len(found[0]) == 400_000
                assert len(set(found[0])) == 1
        store.write(FILE, b"the lock is free")

    @pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "a/./b", "a\\..\\b", "a\0"])
    def test_a_path_out_of_the_store_is_refused(self, store: LocalStore, path: str) -> None:
        for call in (store.read, store.delete, lambda path: store.write(path, b"x")):
            with pytest.raises(InputError):
                call(path)
        assert not store.root.exists()

    @pytest.mark.parametrize("prefix", ["/etc/", "../", "results/../../", "a//"])
    def test_a_prefix_out_of_the_store_is_refused(self, store: LocalStore, prefix: str) -> None:
        with pytest.raises(InputError):
            store.list(prefix)

    def test_the_lock_cannot_be_written_over(self, store: LocalStore) -> None:
        with pytest.raises(InputError):
            store.write(".lock", b"x")

    @settings(deadline=None)
    @given(path=st.text(alphabet="./\\ab\0~ ", max_size=12) | st.text(max_size=12))
    def test_no_path_leaves_the_store(self, tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
        around = tmp_path_factory.getbasetemp() / "traversal"
        store = LocalStore(around / "inner" / "store")
        try:
            store.write(path, b"x")
        except EcoEvalError:
            return
        outside = [p for p in around.rglob("*") if p.is_file() and not p.is_relative_to(store.root)]
        assert outside == []
        assert store.list("") == [path]
        store.delete(path)

    def test_what_cannot_be_read_or_written_is_said(self, store: LocalStore) -> None:
        store.write("a/b", b"x")
        with pytest.raises(StoreError) as caught:
            store.read("a")
        assert caught.value.key == "store.unreadable"
        for path in ("a", "a/b/c"):
            with pytest.raises(StoreError) as caught:
                store.write(path, b"x")
            assert caught.value.key == "store.unwritable"
        assert files(store) == ["a/b"]


@settings(deadline=None)
@given(st.text())
def test_a_slug_is_one_safe_segment(name: str) -> None:
    made = slug(name)
    assert made
    assert set(made) <= set(string.ascii_letters + string.digits + "._-")
    assert not made.startswith(".")
    assert slug(made) == made


ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
JUDGEMENT: TypeAdapter[Any] = TypeAdapter(Judgement)

# What a table could take for something else: JSON, lists, numbers, nothing.
TEXT = st.text() | st.sampled_from(["null", "[]", '{"a": 1}', "[1.0]", "nan", "1", "true", "", '"', "\0", "\u2028🌍"])
SHARES = st.tuples(*[st.floats(0, 1)] * 3)
FAILURES = st.builds(Failure, cause=st.sampled_from(["too_long", "rejected"]), detail=TEXT)
ANSWERS = st.builds(
    Answer,
    prompt_id=TEXT,
    text=TEXT,
    reasoning=st.none() | TEXT,
    truncated=st.booleans(),
    tokens=st.integers(0, 2**40),
    failure=st.none() | FAILURES,
)
GRADED = st.builds(
    Graded,
    prompt_id=TEXT,
    grade=st.sampled_from(Grade),
    probabilities=st.none() | SHARES,
    mass=st.none() | st.floats(0, 1),
    source=st.sampled_from(["exact", "rule"]),
    analysis=st.none() | TEXT,
    findings=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple),
)
UNGRADED = st.builds(Ungraded, prompt_id=TEXT, cause=st.sampled_from(["no_answer", "off_label"]), detail=TEXT)


def fields(*kinds: Any) -> list[str]:
    return list(dict.fromkeys(name for kind in kinds for name in kind.model_fields))


def answer(number: int, text: str = "Hola") -> Answer:
    return Answer(prompt_id=f"p{number}", text=text)


class TestTable:
    @settings(deadline=None)
    @given(st.lists(ANSWERS, max_size=5), st.dictionaries(TEXT, TEXT, max_size=2))
    def test_answers_come_back_as_they_went(self, records: list[Answer], meta: dict[str, str]) -> None:
        data = to_parquet(records, fields(Answer), meta)
        assert from_parquet(data, ANSWER, "t") == (records, meta)
        assert to_parquet([r.model_copy() for r in records], fields(Answer), dict(meta)) == data

    @settings(deadline=None)
    @given(st.lists(GRADED | UNGRADED, max_size=5))
    def test_judgements_come_back_as_they_went(self, records: list[Graded | Ungraded]) -> None:
        data = to_parquet(records, fields(Graded, Ungraded), {})
        assert from_parquet(data, JUDGEMENT, "t") == (records, {})
        assert to_parquet(list(records), fields(Graded, Ungraded), {}) == data

    def test_a_finished_table_is_one_file_in_the_order_asked(self, store: LocalStore) -> None:
        table: Table[Answer] = Table(store, "answers/m/t.parquet", Answer, {"engine": "x"})
        for number in (2, 0, 1):
            table.add(answer(number))
            table.flush()
        assert not table.finished
        assert len(store.list("answers/m/t.shards/")) == 3
        whole = table.finish(["p0", "p1", "p2"])
        assert [a.prompt_id for a in whole] == ["p0", "p1", "p2"]
        assert files(store) == ["answers/m/t.parquet"]
        again: Table[Answer] = Table(store, "answers/m/t.parquet", Answer)
        assert again.finished
        assert list(again.records.values()) == whole
        assert again.meta == {"engine": "x"}

    def test_how_the_shards_were_cut_leaves_no_trace(self, tmp_path: Path) -> None:
        found = []
        for step in (1, 2, 5):
            store = LocalStore(tmp_path / str(step))
            table: Table[Answer] = Table(store, "t.parquet", Answer)
            for number in range(5):
                table.add(answer(number))
                if number % step == 0:
                    table.flush()
            table.finish([f"p{i}" for i in range(5)])
            found.append(store.read("t.parquet"))
        assert found[0] == found[1] == found[2]

    def test_a_table_opened_again_goes_on_where_it_was(self, store: LocalStore) -> None:
        first: Table[Answer] = Table(store, "t.parquet", Answer, {"engine": "x"})
        first.add(answer(0))
        first.flush()
        first.add(answer(1))
        second: Table[Answer] = Table(store, "t.parquet", Answer)
        assert list(second.records) == ["p0"]
        assert second.meta == {"engine": "x"}
        second.add(answer(1))
        assert [a.prompt_id for a in second.finish(["p0", "p1"])] == ["p0", "p1"]

    def test_records_of_a_killed_process_are_known(self, store: LocalStore) -> None:
        code = """
import sys, time
from pathlib import Path
from eco_eval.store import LocalStore, Table
from eco_eval.types import Answer
table = Table(LocalStore(Path(sys.argv[1])), "answers/t.parquet", Answer)
for i in range(1000):
    table.add(Answer(prompt_id=f"p{i}", text="río"))
    if i % 10 == 9:
        table.flush()
        print(i, flush=True)
"""
        writer = run(code, store.root)
        assert writer.stdout is not None
        saved = [int(writer.stdout.readline()) for _ in range(3)][-1]
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        table: Table[Answer] = Table(store, "answers/t.parquet", Answer)
        assert len(table.records) > saved
        assert list(table.records) == [f"p{i}" for i in range(len(table.records))]

    def test_killed_between_writing_and_tidying_nothing_is_lost(self, store: LocalStore) -> None:
        table: Table[Answer] = Table(store, "t.parquet", Answer)
        table.add(answer(0))
        table.flush()
        shard = store.list("t.shards/")[0]
        kept = store.read(shard)
        assert kept is not None
        table.finish(["p0"])
        store.write(shard, kept[0])
        again: Table[Answer] = Table(store, "t.parquet", Answer)
        assert again.finished
        assert again.finish(["p0"]) == [answer(0)]
        assert files(store) == ["t.parquet"]

    def test_what_is_asked_again_wins_even_when_killed_before_it_is_whole(self, store: LocalStore) -> None:
        table: Table[Answer] = Table(store, "t.parquet", Answer)
        table.add(answer(0))
        table.add(answer(1))
        table.finish(["p0", "p1"])
        again: Table[Answer] = Table(store, "t.parquet", Answer)
        newer = answer(1).model_copy(update={"text": "otra"})
        again.drop(lambda record: record.prompt_id == "p1")
        again.add(newer)
        again.flush()
        third: Table[Answer] = Table(store, "t.parquet", Answer)
        assert third.finish(["p0", "p1"]) == [answer(0), newer]
        assert list(Table(store, "t.parquet", Answer).records.values()) == [answer(0), newer]

    def test_records_are_saved_within_a_second_or_so(self, store: LocalStore) -> None:
        table: Table[Answer] = Table(store, "t.parquet", Answer)
        table.add(answer(0))
        assert store.list("t.shards/") == []
        time.sleep(1.01)
        table.add(answer(1))
        assert list(Table(store, "t.parquet", Answer).records) == ["p0", "p1"]

    def test_a_full_disk_keeps_records_for_another_try(self, store: LocalStore) -> None:
        table: Table[Answer] = Table(store, "t.parquet", Answer)
        table.add(answer(0))
        store.write("t.shards", b"a file where the folder should be")
        with pytest.raises(StoreError):
            table.flush()
        store.delete("t.shards")
        table.flush()
        assert list(Table(store, "t.parquet", Answer).records) == ["p0"]

    @pytest.mark.parametrize("place", ["t.parquet", "t.shards/1.parquet"])
    @pytest.mark.parametrize("data", [b"", b"x", b"PAR1" * 20])
    def test_a_damaged_file_is_named(self, store: LocalStore, place: str, data: bytes) -> None:
        store.write(place, data)
        with pytest.raises(StoreError) as caught:
            Table(store, "t.parquet", Answer)
        assert caught.value.key == "store.corrupt"
        assert caught.value.values["path"] == place

    def test_a_cut_file_is_damaged(self) -> None:
        data = to_parquet([answer(i) for i in range(20)], fields(Answer), {})
        for end in range(0, len(data), 97):
            with pytest.raises(StoreError):
                from_parquet(data[:end], ANSWER, "t")

    def test_a_changed_byte_of_a_text_is_noticed(self) -> None:
        data = bytearray(to_parquet([answer(i, f"texto único {i}") for i in range(20)], fields(Answer), {}))
        data[data.index(b"texto") + 2] ^= 1
        with pytest.raises(StoreError):
            from_parquet(bytes(data), ANSWER, "t")

    def test_a_table_of_something_else_is_damaged(self) -> None:
        data = to_parquet([answer(0)], fields(Answer), {})
        with pytest.raises(StoreError) as caught:
            from_parquet(data, JUDGEMENT, "t")
        assert caught.value.key == "store.corrupt"


def test_parquet_files_open_with_the_usual_tools(store: LocalStore) -> None:
    import pandas

    table: Table[Any] = Table(store, "t.parquet", Judgement)
    table.add(Graded(prompt_id="a", grade=Grade.GOOD, probabilities=(0.7, 0.2, 0.1), source="exact"))
    table.add(Ungraded(prompt_id="b", cause="too_long"))
    table.finish(["a", "b"])
    frame = pandas.read_parquet(store.root / "t.parquet")
    assert list(frame["grade"].fillna("none")) == ["good", "none"]
    assert json.dumps(list(frame["probabilities"][0])) == "[0.7, 0.2, 0.1]"
