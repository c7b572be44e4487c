"""Room on the disk for the next model: a service that downloads models all day long would fill any."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from eco_eval.candidates.records import Intake
from eco_eval.errors import SubmissionRejected

SPARE = 2_000_000_000
"""Bytes that stay free for everything else."""


def make_room(intake: Intake, cache: Path, in_use: Collection[str] = (), promised: int = 0) -> int:
    """Drop the models that were longest not used from a folder of downloads, until there is room for this one.

    What is on this machine already, whole or in part, needs none.

    Args:
        cache: a folder that nothing else keeps its models in, laid out as the Hub's client does.
        in_use: revisions that stay.
        promised: bytes of room that is others', who are downloading.

    Returns:
        The bytes that are to be downloaded.

    Raises:
        SubmissionRejected: `model.no_disk`: there is too little room without any of them.
    """
    from huggingface_hub import scan_cache_dir

    cache.mkdir(parents=True, exist_ok=True)
    found = scan_cache_dir(cache)
    kept = [revision for repo in found.repos for revision in repo.revisions]
    here = {(revision.commit_hash, file.file_name) for revision in kept for file in revision.files}
    parts = [part for part in (intake, intake.base) if part is not None and part.source == "hub"]
    wanted = [(part.revision, file) for part in parts for file in part.files]
    coming = sum(file.size for revision, file in wanted if (revision, PurePosixPath(file.name).name) not in here)
    if not coming:
        return 0
    stays = {*in_use, *(part.revision for part in parts)}
    left = coming + promised + SPARE - shutil.disk_usage(cache).free
    for repo in sorted(found.repos, key=lambda repo: repo.last_accessed):
        gone = [revision.commit_hash for revision in repo.revisions if revision.commit_hash not in stays]
        if left > 0 and gone:
            strategy = found.delete_revisions(*gone)
            left -= strategy.expected_freed_size
            strategy.execute()
    if left > 0:
        raise SubmissionRejected("model.no_disk", model=intake.name, missing=-(-left // 1_000_000))
    return coming
