"""Room on the disk: what was longest not used goes, what is in use stays, and too little room is said."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from eco_eval.candidates import make_room
from eco_eval.candidates.disk import SPARE
from eco_eval.candidates.records import File, Intake
from eco_eval.errors import SubmissionRejected

SIZE = 1_000
Usage = namedtuple("Usage", "total used free")


def cached(cache: Path, name: str, age: int) -> str:
    """A model as the Hub's client keeps it, last used so many seconds ago; returns its revision."""
    revision = f"{age:040x}"
    folder = cache / f"models--{name.replace('/', '--')}"
    blob = folder / "blobs" / "b"
    snapshot = folder / "snapshots" / revision
    for made in (blob.parent, snapshot, folder / "refs"):
        made.mkdir(parents=True)
    blob.write_bytes(b"\0" * SIZE)
    (folder / "refs" / "main").write_text(revision)
    (snapshot / "model.safetensors").symlink_to(blob)
    os.utime(blob, (1_700_000_000 - age, 1_700_000_000 - age))
    return revision


def wanted(size: int, revision: str = "f" * 40, base: Intake | None = None) -> Intake:
    return Intake(
        name="new/model",
        source="hub",
        revision=revision,
        kind="chat",
        dtype="float32",
        architecture="Qwen2ForCausalLM",
        files=(File(name="model.safetensors", size=size),),
        parameters=1,
        bytes=size,
        base=base,
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three models in a folder on a disk that has room for what is spare and nothing else."""
    folder = tmp_path / "downloads"
    for name, age in (("a/old", 300), ("a/older", 400), ("a/new", 100)):
        cached(folder, name, age)

    def usage(path: Path) -> Usage:
        used = sum(file.stat().st_size for file in folder.rglob("b"))
        return Usage(SPARE + 3 * SIZE, used, SPARE + 3 * SIZE - used)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return folder


def names(cache: Path) -> set[str]:
    return {path.name.removeprefix("models--a--") for path in cache.glob("models--*")}


@pytest.mark.parametrize(
    ("size", "left"),
    [(0, {"old", "older", "new"}), (SIZE, {"old", "new"}), (SIZE + 1, {"new"}), (3 * SIZE, set())],
)
def test_what_was_longest_not_used_goes_and_no_more_than_needed(cache: Path, size: int, left: set[str]) -> None:
    make_room(wanted(size), cache)
    assert names(cache) == left


def test_what_is_in_use_stays(cache: Path) -> None:
    make_room(wanted(SIZE), cache, in_use=[f"{400:040x}"])
    assert names(cache) == {"older", "new"}


def test_what_is_there_needs_no_room_and_stays(cache: Path) -> None:
    make_room(wanted(3 * SIZE, revision=f"{400:040x}"), cache)
    assert names(cache) == {"old", "older", "new"}
    make_room(wanted(SIZE, base=wanted(SIZE, revision=f"{400:040x}")), cache)
    assert names(cache) == {"older", "new"}


def test_room_that_others_were_promised_is_theirs(cache: Path) -> None:
    assert make_room(wanted(SIZE), cache, promised=SIZE) == SIZE
    assert names(cache) == {"new"}


def test_what_is_not_downloaded_needs_no_room_on_a_full_disk(cache: Path) -> None:
    local = wanted(SIZE).model_copy(update={"source": "local"})
    for one in (local, wanted(SIZE, revision=f"{400:040x}")):
        assert make_room(one, cache, promised=10**12) == 0
    assert names(cache) == {"old", "older", "new"}
    assert make_room(local.model_copy(update={"base": wanted(SIZE)}), cache) == SIZE
    assert names(cache) == {"old", "new"}


def test_of_a_download_that_was_cut_short_the_rest_needs_room(cache: Path) -> None:
    one = wanted(SIZE, revision=f"{300:040x}")
    whole = one.model_copy(update={"files": (*one.files, File(name="model-2.safetensors", size=2 * SIZE))})
    assert make_room(whole, cache) == 2 * SIZE
    assert names(cache) == {"old"}


def test_too_little_room_without_any_of_them_is_said(cache: Path) -> None:
    with pytest.raises(SubmissionRejected) as caught:
        make_room(wanted(2_000_000), cache, in_use=[f"{100:040x}"])
    assert caught.value.key == "model.no_disk"
    assert caught.value.values["missing"] == 2
    assert names(cache) == {"new"}
