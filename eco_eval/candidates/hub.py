"""The Hub, through its own client: what a repository says, its small files, the heads of its weights, and then all."""

from __future__ import annotations

import errno
import glob
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eco_eval.candidates.files import HUB_ID, shown
from eco_eval.candidates.weights import Read
from eco_eval.errors import EcoEvalError, EngineError, SubmissionRejected
from eco_eval.types import Record


class Listing(Record):
    """A repository at one commit. `scanned`: the Hub has looked at every file for malware."""

    repo: str
    revision: str
    sizes: dict[str, int]
    gated: bool
    private: bool
    scanned: bool


@contextmanager
def translated(name: str) -> Iterator[None]:
    """What the client raises, once, as this project's errors.

    Raises:
        SubmissionRejected: there is no such model, or it is gated or disabled.
        EngineError: `hub.unreachable`; may be tried again.
    """
    from httpx2 import HTTPError
    from huggingface_hub import errors

    try:
        yield
    except EcoEvalError:
        raise
    except errors.GatedRepoError as error:
        raise SubmissionRejected("model.gated", model=name) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.DisabledRepoError) as error:
        raise SubmissionRejected("model.not_on_hub", model=name) from error
    except errors.HFValidationError as error:
        raise SubmissionRejected("model.not_found", model=name) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EngineError("hub.disk_full", model=name) from error
        raise EngineError("hub.unreachable", model=name, retryable=True, reason=type(error).__name__) from error
    # The client lets its HTTP library's own error through when nobody answers.
    except HTTPError as error:
        raise EngineError("hub.unreachable", model=name, retryable=True, reason=type(error).__name__) from error


def look_up(name: str) -> Listing:
    """A repository and what the Hub says of it, at the commit its revision points to now. Nothing is downloaded.

    Raises:
        SubmissionRejected: `model.unsafe` for a file the Hub's scanners call so; see `translated`.
        EngineError: `hub.unreachable`, or `hub.bad_answer` where it leaves out what it always says.
    """
    from huggingface_hub import HfApi

    repo, _, revision = name.partition("@")
    with translated(name):
        info = HfApi().model_info(repo, revision=revision or None, files_metadata=True, securityStatus=True)
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or []}
    sha = str(info.sha)
    known = re.fullmatch(r"[0-9a-f]{40}", sha) and all(type(size) is int and size >= 0 for size in sizes.values())
    if not known or not HUB_ID.fullmatch(info.id):
        raise EngineError("hub.bad_answer", model=name, retryable=True)
    # The Hub answers to old and to differently written names; one repository is one name.
    return Listing(
        repo=info.id,
        revision=sha,
        sizes={file: size for file, size in sizes.items() if size is not None},
        gated=bool(info.gated),
        private=bool(info.private),
        scanned=_scanned(name, info.security_repo_status),
    )


def _scanned(name: str, status: dict[str, Any] | None) -> bool:
    """Whether all scans are done, if none of them found anything unsafe.

    `{"scansDone": false, "filesWithIssues": []}` is what a new repository has: nobody looked yet.
    """
    found = status if isinstance(status, dict) else {}
    issues = [issue for issue in found.get("filesWithIssues") or [] if isinstance(issue, dict)]
    unsafe = next((issue for issue in issues if issue.get("level") == "unsafe"), None)
    if unsafe is not None:
        raise SubmissionRejected("model.unsafe", model=name, file=shown(str(unsafe.get("path"))))
    return found.get("scansDone") is True


def download(name: str, listing: Listing, files: Iterable[str], cache: Path | None = None) -> Path:
    """The folder of a cache, the client's own where none is named, with these files at the listing's commit.

    Raises:
        SubmissionRejected, EngineError: see `translated`.
    """
    from huggingface_hub import snapshot_download

    exactly = [glob.escape(file) for file in files]
    with translated(name):
        return Path(snapshot_download(listing.repo, revision=listing.revision, allow_patterns=exactly, cache_dir=cache))


def reader(name: str, listing: Listing, file: str) -> Read:
    """Reads parts of a file over the network.

    Raises (when it reads):
        SubmissionRejected, EngineError: see `translated`; `hub.bad_answer` for more or other bytes than asked for.
    """
    from huggingface_hub import constants, get_session, get_token, hf_hub_url, hf_raise_for_status

    url = hf_hub_url(listing.repo, file, revision=listing.revision)

    def read(start: int, length: int) -> bytes:
        if length <= 0:
            return b""
        token = get_token()
        headers = {"Range": f"bytes={start}-{start + length - 1}"}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with translated(name), get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.status_code >= 400:
                response.read()
            hf_raise_for_status(response)
            data = b""
            # A server that knows no ranges would send the whole file.
            for part in response.iter_bytes() if response.status_code == 206 else ():
                data += part
                if len(data) >= length:
                    break
        if len(data) != length:
            raise EngineError("hub.bad_answer", model=name, retryable=True)
        return data

    return read
