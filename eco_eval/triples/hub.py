"""Hub datasets in and out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from eco_eval.errors import InputError
from eco_eval.rows import FORMS, Defect, Row, read_rows_and_defects


def hub_rows(name: str, revision: str | None) -> Iterator[Row | Defect]:
    """The records of a Hub dataset, all its splits, through `datasets`.

    Raises:
        InputError: there is no such dataset, or the Hub cannot be reached; names the bundled set.
    """
    import datasets
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError("data.no_source", source=name, known=", ".join(FORMS))
    try:
        splits = datasets.load_dataset(name, revision=revision)
    except (datasets.exceptions.DatasetNotFoundError, HFValidationError) as error:
        raise InputError("data.not_on_hub", source=name) from error
    except datasets.exceptions.DatasetGenerationError:
        # Its CSV reader takes clean UTF-8 only: read the files themselves.
        yield from _raw_hub_rows(name, revision)
        return
    except (OSError, HTTPError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        raise InputError("data.hub_unreachable", source=name, reason=type(error).__name__) from error
    number = 0
    for split in splits.values():
        for row in split:
            number += 1
            yield Row(number, None, dict(row))


def _raw_hub_rows(name: str, revision: str | None) -> Iterator[Row | Defect]:
    from huggingface_hub import HfApi, hf_hub_download

    for path in HfApi().list_repo_files(name, repo_type="dataset", revision=revision):
        if Path(path).suffix.lower() in FORMS:
            yield from read_rows_and_defects(Path(hf_hub_download(name, path, repo_type="dataset", revision=revision)))
