"""Where a result is and what was kept with it: in a store of this machine, beside a file, or on the Hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from eco_eval.errors import EngineError, InputError
from eco_eval.people import FOLDER
from eco_eval.reproduction import Run
from eco_eval.results import details, find_result
from eco_eval.settings import Settings
from eco_eval.store import LocalStore, Store, parse_record
from eco_eval.types import Prompt, Result

_HUB = re.compile(r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[^/]+))?/(?P<path>results/[\w-]+\.json)")
_KEPT = re.compile(r"(answers|judgements)/\w[\w.-]*/[\w-]+(\.again-\d+)?\.parquet")


class Source(NamedTuple):
    """A result and what fetches the rest of it: given a path of its store, a store in which that path is read."""

    result: Result
    store: Callable[[str], Store]


def find_source(target: str, settings: Settings) -> Source:
    """The result of an id, the start of one, a model's name, a `results/<id>.json` file, or a Hub path
    `hf://datasets/owner/name[@revision]/results/<id>.json`.

    Raises:
        InputError: there is none, several fit, or the Hub does not let us.
        StoreError: it cannot be read.
    """
    if target.startswith("hf://"):
        return _on_hub(target)
    file = Path(target)
    if file.suffix == ".json":
        if file.resolve().parent.name != "results" or not file.is_file():
            raise InputError("reproduce.no_file", target=target)
        beside = LocalStore(file.resolve().parent.parent)
        return Source(parse_record(file.read_bytes(), target, Result), lambda _: beside)
    store = LocalStore(settings.data_dir)
    name = file.resolve().name if file.is_dir() else target
    return Source(find_result(store, target, settings.data_dir, name=name), lambda _: store)


def _on_hub(target: str) -> Source:
    named = _HUB.fullmatch(target)
    if named is None:
        raise InputError("reproduce.bad_hub_path", target=target)
    repo = named["repo"]
    result_file, revision = _download(repo, named["path"], named["revision"], target)
    # A downloaded snapshot is laid out as the repository is.
    store = LocalStore(result_file.parent.parent)

    def fetch(path: str) -> Store:
        if path == FOLDER:
            _download_audits(repo, revision, target)
            return store
        if not _KEPT.fullmatch(path):
            raise InputError("store.bad_path", path=path)
        # At the commit the result came from, whatever is pushed in between.
        _download(repo, path, revision, f"{target.partition('/results/')[0]}/{path}")
        return store

    return Source(parse_record(result_file.read_bytes(), target, Result), fetch)


def _download(repo: str, path: str, revision: str | None, shown: str) -> tuple[Path, str]:
    """A file of a Hub dataset on this machine, and the commit it is of."""
    from httpx2 import HTTPError
    from huggingface_hub import errors, hf_hub_download

    try:
        file = Path(hf_hub_download(repo, path, repo_type="dataset", revision=revision))
    except errors.LocalEntryNotFoundError as error:
        raise EngineError("reproduce.unreachable", target=shown, retryable=True, reason="offline") from error
    except (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.EntryNotFoundError,
        errors.HFValidationError,
    ) as error:
        raise InputError("reproduce.not_on_hub", target=shown) from error
    except (HTTPError, OSError) as error:
        raise EngineError("reproduce.unreachable", target=shown, retryable=True, reason=type(error).__name__) from error
    return file, file.parents[len(Path(path).parts) - 1].name


def _download_audits(repo: str, revision: str, shown: str) -> None:
    """What people graded, of which there may be none."""
    from httpx2 import HTTPError
    from huggingface_hub import errors, snapshot_download

    try:
        snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=f"{FOLDER}**")
    except (errors.LocalEntryNotFoundError, HTTPError, OSError) as error:
        raise EngineError("reproduce.unreachable", target=shown, retryable=True, reason=type(error).__name__) from error


def read_run(source: Source, prompts: Sequence[Prompt]) -> Run:
    """A kept result with its answers and verdicts, in the order of the prompts.

    Raises:
        InputError: they are not kept with it.
        StoreError: they cannot be read.
    """
    result = source.result
    for path in (result.answers_path, *(seat.judgements_path for seat in result.seats)):
        place_of(source, path)
    readings = {r.answer.prompt_id: r for r in details(source.store(result.answers_path), result)}
    if set(readings) != {prompt.id for prompt in prompts}:
        raise InputError("reproduce.missing", result=result.id, path=result.answers_path)
    return Run(result, [readings[prompt.id] for prompt in prompts])


def place_of(source: Source, path: str) -> Store:
    """The store where a path of a result is read.

    Raises:
        InputError: it is not there.
    """
    store = source.store(path)
    if store.read(path) is None:
        raise InputError("reproduce.missing", result=source.result.id, path=path)
    return store
