"""The stand-in Hub against the real clients, in a process of their own that knows no other Hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub import LocalHub

Client = Callable[..., Any]

ROWS = [{"text": "El río", "grade": 1}, {"text": "La sierra", "grade": 2}]
BIG = bytes(range(256)) * 64
UNKNOWN = "0" * 40
HTTP = build_opener(ProxyHandler({}))


def api(method: str, *values: Any, **named: Any) -> Any:
    """What a method of `HfApi` returns; of a refusal, the name of the error and the status."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return getattr(HfApi(), method)(*values, **named)
    except HfHubHTTPError as error:
        return type(error).__name__, error.response.status_code


def download(repo_id: str, filename: str, revision: str) -> bytes:
    return Path(api("hf_hub_download", repo_id, filename, repo_type="dataset", revision=revision)).read_bytes()


def upload(repo_id: str, path: str, data: bytes, **named: Any) -> str:
    arguments = {"path_or_fileobj": data, "path_in_repo": path, "repo_id": repo_id, "repo_type": "dataset"}
    return str(api("upload_file", **(arguments | named)).oid)


def race(repo_id: str, parent: str, writers: int) -> list[int]:
    """The statuses of commits sent at the same time on the same parent."""

    def write(writer: int) -> int:
        sent = api(
            "upload_file",
            path_or_fileobj=b"%d" % writer,
            path_in_repo=f"{writer}.txt",
            repo_id=repo_id,
            repo_type="dataset",
            parent_commit=parent,
        )
        return int(sent[1]) if type(sent) is tuple else 200

    with ThreadPoolExecutor(writers) as pool:
        return list(pool.map(write, range(writers)))


def tree(repo_id: str, **named: Any) -> list[str]:
    return [entry.path for entry in api("list_repo_tree", repo_id, repo_type="dataset", **named)]


def part_of(path: str, start: int, end: int) -> bytes:
    from huggingface_hub import HfFileSystem

    with HfFileSystem().open(path, block_size=64) as file:
        file.seek(start)
        return bytes(file.read(end - start))


def rows(repo_id: str, **named: Any) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return {split: dataset.to_list() for split, dataset in load_dataset(repo_id, **named).items()}
    except DatasetNotFoundError as error:
        return str(error)


def push_splits(repo_id: str, splits: dict[str, list[dict[str, Any]]], **named: Any) -> str:
    from datasets import Dataset, DatasetDict

    datasets = DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()})
    return str(datasets.push_to_hub(repo_id, **named).oid)


def push_card(repo_id: str, content: str) -> str:
    """The licence in the card once it is pushed and read back."""
    from huggingface_hub import DatasetCard

    DatasetCard(content).push_to_hub(repo_id)
    return str(DatasetCard.load(repo_id).data.license)


def as_csv() -> bytes:
    return "".join(["text,grade\n", *(f"{row['text']},{row['grade']}\n" for row in ROWS)]).encode()


def as_jsonl() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def as_parquet() -> bytes:
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), buffer)
    return buffer.getvalue()


class TestRepositories:
    def test_the_token_says_who_calls(self, hub: LocalHub, client: Client) -> None:
        assert client(api, "whoami")["name"] == hub.user
        assert client(api, "whoami", token="hf_other") == ("HfHubHTTPError", 401)

    def test_a_repository_is_created_once_and_deleted(self, client: Client) -> None:
        assert client(api, "create_repo", "owner/short").repo_id == "owner/short"
        assert client(api, "create_repo", "owner/short") == ("HfHubHTTPError", 409)
        assert client(api, "create_repo", "owner/short", exist_ok=True).repo_id == "owner/short"
        assert client(api, "list_repo_files", "owner/short") == [".gitattributes"]
        client(api, "delete_repo", "owner/short")
        assert client(api, "model_info", "owner/short") == ("RepositoryNotFoundError", 404)
        assert client(api, "delete_repo", "owner/short") == ("RepositoryNotFoundError", 404)

    def test_what_is_missing_is_told_apart(self, hub: LocalHub, client: Client) -> None:
        hub.add("owner/there", "dataset", {"a.txt": b"a"})
        unknown = {"repo_type": "dataset", "repo_id": "owner/unknown", "filename": "a.txt"}
        assert client(api, "hf_hub_download", **unknown) == ("RepositoryNotFoundError", 404)
        there = unknown | {"repo_id": "owner/there"}
        assert client(api, "hf_hub_download", **there, revision=UNKNOWN) == ("RevisionNotFoundError", 404)
        assert client(api, "hf_hub_download", **there | {"filename": "b"}) == ("RemoteEntryNotFoundError", 404)
        assert client(api, "dataset_info", "owner/there", revision=UNKNOWN) == ("RevisionNotFoundError", 404)
        assert client(api, "model_info", "owner/there") == ("RepositoryNotFoundError", 404)

    def test_a_private_repository_is_hidden_without_the_token(self, hub: LocalHub, client: Client) -> None:
        hub.add("owner/secret", "dataset", {"a.txt": b"a"}, private=True)
        file = {"repo_id": "owner/secret", "repo_type": "dataset", "filename": "a.txt"}
        assert client(api, "dataset_info", "owner/secret").private
        assert client(api, "dataset_info", "owner/secret", token=False) == ("RepositoryNotFoundError", 401)
        assert client(api, "hf_hub_download", **file, token=False) == ("RepositoryNotFoundError", 401)
        assert client(api, "hf_hub_download", **file, token="hf_other") == ("HfHubHTTPError", 401)
        assert Path(client(api, "hf_hub_download", **file)).read_bytes() == b"a"

    def test_a_private_repository_is_created_private_and_a_public_one_is_not_written_without_the_token(
        self, hub: LocalHub, client: Client
    ) -> None:
        client(api, "create_repo", "owner/hidden", repo_type="dataset", private=True)
        assert client(api, "dataset_info", "owner/hidden", token=False) == ("RepositoryNotFoundError", 401)
        hub.add("owner/public", "dataset", {"a.txt": b"a"})
        named = {"path_or_fileobj": b"b", "path_in_repo": "a.txt", "repo_id": "owner/public", "repo_type": "dataset"}
        assert client(api, "upload_file", **named, token=False) == ("HfHubHTTPError", 401)
        assert hub.files("owner/public", "dataset") == {"a.txt": b"a"}

    def test_when_it_is_down_everything_fails_until_it_is_up(self, hub: LocalHub, client: Client) -> None:
        hub.add("owner/steady", "model", {"a.txt": b"a"})
        hub.down = True
        try:
            assert client(api, "model_info", "owner/steady") == ("HfHubHTTPError", 503)
        finally:
            hub.down = False
        assert client(api, "model_info", "owner/steady").id == "owner/steady"

    def test_it_comes_back_at_the_same_address_with_what_it_had(self) -> None:
        with LocalHub() as hub:
            url, revision = hub.url, hub.add("owner/kept", "model", {"a.txt": b"a"})
            hub.stop()
            with pytest.raises(URLError):
                HTTP.open(url)
            hub.start()
            assert hub.url == url
            with HTTP.open(f"{url}/owner/kept/resolve/main/a.txt") as answer:
                assert (answer.read(), answer.headers["X-Repo-Commit"]) == (b"a", revision)


class TestFiles:
    def test_an_uploaded_file_is_a_commit_and_the_old_revision_stays_readable(
        self, hub: LocalHub, client: Client
    ) -> None:
        old = hub.add("owner/history", "dataset", {"a.txt": b"one", "b.txt": b"same"})
        new = client(upload, "owner/history", "a.txt", b"two", commit_message="Say two")
        assert re.fullmatch("[0-9a-f]{40}", new)
        assert new != old
        assert hub.files("owner/history", "dataset") == {"a.txt": b"two", "b.txt": b"same"}
        assert hub.files("owner/history", "dataset", old)["a.txt"] == b"one"
        assert [client(download, "owner/history", "a.txt", at) for at in (old, new, "main")] == [b"one", b"two", b"two"]
        commits = client(api, "list_repo_commits", "owner/history", repo_type="dataset")
        assert [(commit.commit_id, commit.title) for commit in commits] == [(new, "Say two"), (old, "Add files")]
        refs = client(api, "list_repo_refs", "owner/history", repo_type="dataset")
        assert [(branch.name, branch.target_commit) for branch in refs.branches] == [("main", new)]
        assert "POST /api/datasets/owner/history/commit/main" in hub.requests

    def test_a_file_that_has_not_changed_makes_no_commit(self, hub: LocalHub, client: Client) -> None:
        head = hub.add("owner/same", "dataset", {"small.txt": b"a", "big.bin": BIG})
        assert client(upload, "owner/same", "small.txt", b"a") == head
        assert client(upload, "owner/same", "big.bin", BIG) == head

    def test_a_folder_goes_up_in_one_commit_and_comes_down_whole(
        self, hub: LocalHub, client: Client, tmp_path: Path
    ) -> None:
        files = {"README.md": b"# Uno\n", "data/niño 1.txt": b"x", "data/deep/big.bin": BIG, "empty.txt": b""}
        for path, data in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(data)
        first = hub.add("owner/folder", "model", {"old.txt": b"old", "gone/a.txt": b"a"})
        commit = client(api, "upload_folder", repo_id="owner/folder", folder_path=tmp_path, delete_patterns=["gone/*"])
        assert hub.files("owner/folder", "model") == {"old.txt": b"old"} | files
        assert sorted(client(api, "list_repo_files", "owner/folder")) == sorted(["old.txt", *files])
        for revision, there in (
            (commit.oid, {"old.txt": b"old"} | files),
            (first, hub.files("owner/folder", "model", first)),
        ):
            snapshot = Path(client(api, "snapshot_download", "owner/folder", revision=revision))
            assert snapshot.name == revision
            assert {path: (snapshot / path).read_bytes() for path in there} == there
            assert len([path for path in snapshot.rglob("*") if path.is_file()]) == len(there)

    def test_a_large_file_goes_through_lfs_and_once(self, hub: LocalHub, client: Client) -> None:
        hub.add("owner/large", "dataset", {"small.txt": b"a"})
        big = BIG + b"only here"
        client(upload, "owner/large", "big.bin", big)
        assert hub.files("owner/large", "dataset")["big.bin"] == big
        put = [request for request in hub.requests if request == f"PUT /lfs/{hashlib.sha256(big).hexdigest()}"]
        assert len(put) == 1
        client(upload, "owner/large", "again.bin", big)
        assert [request for request in hub.requests if request in put] == put
        about = {"repo_id": "owner/large", "repo_type": "dataset", "paths": ["big.bin", "small.txt", "none"]}
        large, small = client(api, "get_paths_info", **about)
        assert (large.size, large.lfs.sha256, small.lfs) == (len(big), hashlib.sha256(big).hexdigest(), None)
        assert client(download, "owner/large", "again.bin", "main") == big

    def test_the_tree_is_listed_whole_or_one_folder_at_a_time(self, hub: LocalHub, client: Client) -> None:
        hub.add("owner/tree", "dataset", {"a.txt": b"", "b/c.txt": b"", "b/d/e.txt": b""})
        assert client(tree, "owner/tree") == ["a.txt", "b"]
        assert client(tree, "owner/tree", path_in_repo="b") == ["b/c.txt", "b/d"]
        assert client(tree, "owner/tree", recursive=True) == ["a.txt", "b", "b/c.txt", "b/d", "b/d/e.txt"]

    def test_part_of_a_file_is_read_alone(self, hub: LocalHub, client: Client) -> None:
        hub.add("owner/part", "dataset", {"big.bin": BIG})
        assert client(part_of, "datasets/owner/part/big.bin", 300, 310) == BIG[300:310]
        request = Request(f"{hub.url}/datasets/owner/part/resolve/main/big.bin", headers={"Range": "bytes=16380-"})
        with HTTP.open(request) as answer:
            assert (answer.status, answer.headers["Content-Range"]) == (206, "bytes 16380-16383/16384")
            assert answer.read() == BIG[-4:]

    def test_a_commit_on_a_stale_parent_is_refused_and_changes_nothing(self, hub: LocalHub, client: Client) -> None:
        stale = hub.add("owner/race", "dataset", {"a.txt": b"one"})
        head = hub.add("owner/race", "dataset", {"a.txt": b"two"})
        late = {"path_or_fileobj": b"three", "path_in_repo": "a.txt", "repo_id": "owner/race", "repo_type": "dataset"}
        assert client(api, "upload_file", **late, parent_commit=stale) == ("HfHubHTTPError", 412)
        assert hub.files("owner/race", "dataset") == {"a.txt": b"two"}
        client(upload, "owner/race", "a.txt", b"three", parent_commit=head)
        assert hub.files("owner/race", "dataset") == {"a.txt": b"three"}

    def test_of_two_commits_on_one_parent_only_one_is_taken(self, hub: LocalHub, client: Client) -> None:
        head = hub.add("owner/two", "dataset", {"a.txt": b"0"})
        assert sorted(client(race, "owner/two", head, 8)) == [200] + [412] * 7
        assert len(client(api, "list_repo_commits", "owner/two", repo_type="dataset")) == 2

    def test_a_file_is_deleted_and_one_that_is_not_there_is_not(self, hub: LocalHub, client: Client) -> None:
        hub.add("owner/less", "dataset", {"a.txt": b"a", "b.txt": b"b"})
        client(api, "delete_file", "a.txt", "owner/less", repo_type="dataset")
        assert hub.files("owner/less", "dataset") == {"b.txt": b"b"}
        again = client(api, "delete_file", "a.txt", "owner/less", repo_type="dataset")
        assert again == ("RemoteEntryNotFoundError", 404)


class TestDatasets:
    @pytest.mark.parametrize(
        ("file", "data"),
        [("rows.csv", as_csv()), ("rows.jsonl", as_jsonl()), ("data/train-0.parquet", as_parquet())],
        ids=["CSV", "JSONL", "Parquet"],
    )
    def test_a_repository_of_files_loads_at_its_revision(
        self, hub: LocalHub, client: Client, file: str, data: bytes
    ) -> None:
        repo_id = f"owner/rows-{Path(file).suffix[1:]}"
        revision = hub.add(repo_id, "dataset", {file: data, "README.md": b"# Rows\n"})
        hub.add(repo_id, "dataset", {file: b""})
        assert client(rows, repo_id, revision=revision) == {"train": ROWS}

    def test_large_files_and_a_card_with_splits_load(self, hub: LocalHub, client: Client) -> None:
        card = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: test, path: some/*.jsonl}\n---\n"
        many = ROWS * 200
        lines = "".join(json.dumps(row) + "\n" for row in many).encode()
        revision = hub.add("owner/carded", "dataset", {"README.md": card, "some/a.jsonl": lines, "other.jsonl": b"{}"})
        assert len(lines) > hub.lfs_above
        assert client(rows, "owner/carded", revision=revision) == {"test": many}

    def test_an_unknown_or_private_dataset_is_not_found(self, hub: LocalHub, client: Client) -> None:
        hub.add("owner/closed", "dataset", {"rows.csv": as_csv()}, private=True)
        revision = hub.add("owner/closed", "dataset", {"README.md": b""})
        assert "doesn't exist" in client(rows, "owner/nothing", revision=UNKNOWN)
        assert "doesn't exist" in client(rows, "owner/closed", revision=UNKNOWN)
        assert "cannot be accessed" in client(rows, "owner/closed", revision=revision, token=False)
        assert client(rows, "owner/closed", revision=revision) == {"train": ROWS}

    def test_pushed_splits_load_back_and_a_second_push_replaces_them(self, hub: LocalHub, client: Client) -> None:
        old = client(push_splits, "owner/pushed", {"train": ROWS, "test": ROWS[:1]}, private=True)
        assert client(rows, "owner/pushed", revision=old) == {"train": ROWS, "test": ROWS[:1]}
        new = client(push_splits, "owner/pushed", {"train": ROWS[1:]}, revision="main")
        assert client(rows, "owner/pushed", revision=new) == {"train": ROWS[1:]}
        assert client(rows, "owner/pushed", revision=old) == {"train": ROWS, "test": ROWS[:1]}
        parquet = [path for path in hub.files("owner/pushed", "dataset") if path.endswith(".parquet")]
        assert parquet == ["data/train-00000-of-00001.parquet"]

    def test_a_card_is_pushed_if_its_metadata_is_sound(self, hub: LocalHub, client: Client) -> None:
        hub.add("owner/card", "dataset", {"rows.csv": as_csv()})
        assert client(push_card, "owner/card", "---\nlicense: apache-2.0\n---\n\n# Rows\n") == "apache-2.0"
        assert client(api, "dataset_info", "owner/card").card_data.license == "apache-2.0"
        assert b"# Rows" in hub.files("owner/card", "dataset")["README.md"]
        broken = {"path_or_fileobj": b"---\nlicense: [\n---\n", "path_in_repo": "README.md"}
        with pytest.raises(ValueError, match="Invalid metadata"):
            client(api, "upload_file", **broken, repo_id="owner/card", repo_type="dataset")
