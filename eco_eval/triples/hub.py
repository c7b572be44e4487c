"""Hub datasets in and out."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from eco_eval.errors import InputError
from eco_eval.prompts import split_of
from eco_eval.rows import FORMS, Defect, Row, read_rows_and_defects
from eco_eval.triples.records import Pair
from eco_eval.triples.writing import flat, parquet
from eco_eval.types import Prompt

ResultT = TypeVar("ResultT")


def hub_rows(name: str, revision: str | None) -> Iterator[Row | Defect]:
    """The records of a Hub dataset, all its splits, through `datasets`.

    Raises:
        InputError: there is no such dataset, or the Hub cannot be reached; names the bundled set.
    """
    import datasets

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError("data.no_source", source=name, known=", ".join(FORMS))
    # Its own error would say neither which of the two it was, nor what to do.
    revision = commit_of(name, revision)
    try:
        splits = _at_hub(name, lambda: datasets.load_dataset(name, revision=revision))
    except (datasets.exceptions.DatasetsError, FileNotFoundError, RuntimeError, ValueError):
        # It takes clean UTF-8 only, one configuration, no script: read the files themselves.
        yield from _raw_hub_rows(name, revision)
        return
    number = 0
    for split in splits.values():
        for row in split:
            number += 1
            yield Row(number, None, dict(row))


def _raw_hub_rows(name: str, revision: str) -> Iterator[Row | Defect]:
    from huggingface_hub import HfApi, hf_hub_download

    paths = _at_hub(name, lambda: HfApi().list_repo_files(name, repo_type="dataset", revision=revision))
    for path in paths:
        if Path(path).suffix.lower() in FORMS:
            fetch = partial(hf_hub_download, name, path, repo_type="dataset", revision=revision)
            file = _at_hub(name, fetch)
            yield from read_rows_and_defects(Path(file))


def commit_of(name: str, revision: str | None) -> str:
    """The 40-hex commit a branch, tag or commit of a Hub dataset stands for.

    Raises:
        InputError: no such dataset or revision, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    return str(_at_hub(name, lambda: HfApi().dataset_info(name, revision=revision)).sha)


def push(records: Sequence[Prompt | Pair], name: str, card: str, *, private: bool) -> str:
    """Put triples or pairs into a Hub dataset, a Parquet file a split, with its card, in one commit.

    What an earlier push left of a split that is now empty goes.

    Returns:
        The URL of the commit.

    Raises:
        InputError: asked for a private dataset that is public already, no permission, a name that cannot be, or the
            Hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    files = {"README.md": card.encode(), **_split_files(records)}
    add = [CommitOperationAdd(path, io.BytesIO(data)) for path, data in files.items()]
    message = "Update the triples with eco-eval"
    _at_hub(name, lambda: api.create_repo(name, repo_type="dataset", private=private, exist_ok=True))
    if private and not _at_hub(name, lambda: api.dataset_info(name)).private:
        raise InputError("data.is_public", source=name)
    there = _at_hub(name, lambda: api.list_repo_files(name, repo_type="dataset"))
    old = {f"data/{split}.parquet" for split in ("train", "eval")} - files.keys()
    gone = [CommitOperationDelete(path) for path in sorted(old.intersection(there))]
    done = _at_hub(name, lambda: api.create_commit(name, [*add, *gone], commit_message=message, repo_type="dataset"))
    return str(done.commit_url)


def _split_files(records: Sequence[Prompt | Pair]) -> dict[str, bytes]:
    """A Parquet file a split, all of the same column types: a split where a column is empty cannot tell its own."""
    import pyarrow.parquet as pq

    whole = pq.read_table(io.BytesIO(parquet([flat(record) for record in records])))
    files = {}
    for split in ("train", "eval"):
        at = [i for i, record in enumerate(records) if split_of(_prompt_of(record).group) == split]
        if at:
            out = io.BytesIO()
            pq.write_table(whole.take(at), out)
            files[f"data/{split}.parquet"] = out.getvalue()
    return files


def _prompt_of(record: Prompt | Pair) -> Prompt:
    return record.prompt if isinstance(record, Pair) else record


def _at_hub(name: str, call: Callable[[], ResultT]) -> ResultT:
    """What the call returns; the Hub's many errors as ours.

    Raises:
        InputError: no such dataset or revision, no permission, or the Hub cannot be reached.
    """
    from datasets.exceptions import DatasetNotFoundError
    from httpx2 import HTTPError
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return call()
    except (DatasetNotFoundError, RepositoryNotFoundError, GatedRepoError, RevisionNotFoundError) as error:
        raise InputError("data.not_on_hub", source=name) from error
    except HFValidationError as error:
        raise InputError("data.no_source", source=name, known=", ".join(FORMS)) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise InputError("data.not_allowed", source=name) from error
        raise InputError("data.hub_unreachable", source=name, reason=f"HTTP {status}") from error
    except (ConnectionError, TimeoutError, HTTPError, OfflineModeIsEnabled) as error:
        raise InputError("data.hub_unreachable", source=name, reason=type(error).__name__) from error
