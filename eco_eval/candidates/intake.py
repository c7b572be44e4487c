"""From a name to one exact set of weights: everything that can be known and refused before anything is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from eco_eval.candidates import hub
from eco_eval.candidates.adapters import check_adapter, check_adapter_weights
from eco_eval.candidates.card import declared, licence
from eco_eval.candidates.config import architecture_of, check_size, dtype_of, quantisation_of
from eco_eval.candidates.files import (
    ADAPTER,
    ADAPTER_CONFIG,
    INDEX,
    SINGLE,
    check_file_names,
    check_files,
    check_name,
    check_no_auto_map,
    check_no_code,
    check_weights_are_there,
    local_files,
    read_json,
    small_files,
)
from eco_eval.candidates.records import File, Intake, Kind, Limits
from eco_eval.candidates.templates import check_template, has_template
from eco_eval.candidates.weights import Read, Tensor, local_reader, read_tensors
from eco_eval.errors import EngineError, SubmissionRejected
from eco_eval.types import ModelRef, Record, Weights

_READERS = 4
_MOST_TENSORS = 500_000


class _Found(Record):
    """What the files of a model say, before its name and revision are known."""

    kind: Kind
    weights: tuple[str, ...]
    small: tuple[str, ...]
    config: dict[str, Any]
    parameters: int
    bytes: int
    base: str | None


def inspect(name: str, limits: Limits | None = None, *, base_revision: str | None = None) -> Intake:
    """What a model is, checked without its weights: of the Hub's only the headers are read.

    Args:
        name: a local folder, or a Hub id (`owner/name` or `owner/name@revision`).
        limits: what this machine takes.
        base_revision: the commit or content of the base that an adapter is asked for with; None for what the adapter
            says, or else what the base is now.

    Raises:
        SubmissionRejected: it does not exist, or is not safe, not complete or too large; `model.other_base` where the
            base is not at `base_revision`. It says why.
        EngineError: the Hub cannot be reached, or the folder cannot be read.
    """
    intake = _inspect(name, limits or Limits(), base_revision, may_be_local=True)
    found = intake.base.revision if intake.base is not None else "∅"
    if base_revision is not None and found != base_revision:
        raise SubmissionRejected("model.other_base", model=name, found=found, pinned=base_revision)
    return intake


def fetch(intake: Intake, cache: Path | None = None) -> ModelRef:
    """Download what `inspect` found, exactly that, and check what arrived. A local folder is there already.

    An adapter is fetched with its base.

    Args:
        cache: the folder to download to; None for the Hub client's own.

    Raises:
        SubmissionRejected, EngineError: as `inspect`; `hub.bad_answer` where other files arrive than were announced.
    """
    base = fetch(intake.base, cache) if intake.base is not None else None
    own = intake if intake.source == "local" else intake.model_copy(update={"path": str(_fetched(intake, cache))})
    return own.ref.model_copy(update={"base": base})


def _fetched(intake: Intake, cache: Path | None) -> Path:
    """The folder with the files of a Hub repository, without those of a base."""
    sizes = {file.name: file.size for file in intake.files}
    name = f"{intake.name}@{intake.revision}"
    listing = hub.Listing(
        repo=intake.name,
        revision=intake.revision,
        sizes=sizes,
        gated=intake.gated,
        private=intake.private,
        scanned=False,
    )
    folder = hub.download(name, listing, sizes, cache)
    arrived = {file: (folder / file).stat().st_size for file in sizes if (folder / file).is_file()}
    if arrived != sizes:
        raise EngineError("hub.bad_answer", model=name, retryable=True)
    again = _examine(intake.name, folder, sizes, lambda file: local_reader(folder / file))
    if (again.parameters, again.kind) != (intake.parameters, _without_template(intake.kind)):
        raise EngineError("hub.bad_answer", model=name, retryable=True)
    return folder


def resolve(name: str, limits: Limits | None = None, *, base_revision: str | None = None) -> ModelRef:
    """A local folder or a Hub id (`owner/name` or `owner/name@revision`) as an exact reference, checked.

    A Hub model's files are downloaded, safetensors and tokenizer only, at the commit its revision points to now; those
    of an adapter's base too, which is at `base_revision` where that is given.

    Raises:
        SubmissionRejected: it does not exist, or is not safe or not complete; says why.
        EngineError: the Hub cannot be reached.
    """
    return fetch(inspect(name, limits, base_revision=base_revision))


def weights_of(ref: ModelRef) -> Weights | None:
    """What a model weighs, from the headers of its files on this machine; None where it has none here.

    Cheap: nothing is hashed, and no template is tried.

    Raises:
        SubmissionRejected, EngineError: the files are not there any more, or not what was checked.
    """
    if ref.path is None or (ref.base is not None and ref.base.path is None):
        return None
    under = weights_of(ref.base) if ref.base is not None else None
    folder = Path(ref.path)
    try:
        sizes = local_files(ref.name, folder)
        found = _examine(ref.name, folder, sizes, lambda file: local_reader(folder / file))
        if under is not None:
            return under.model_copy(
                update={
                    "kind": "adapter",
                    "parameters": under.parameters + found.parameters,
                    "bytes": under.bytes + found.bytes,
                    "licence": licence(folder),
                }
            )
        return Weights(
            kind="chat" if has_template(folder, ref.name) else "base",
            architecture=architecture_of(ref.name, found.config),
            parameters=found.parameters,
            bytes=found.bytes,
            dtype=dtype_of(ref.name, found.config),
            quantisation=quantisation_of(ref.name, found.config),
            licence=licence(folder),
        )
    except OSError as error:
        raise EngineError("engine.load_failed", model=ref.name, reason=error.strerror or error) from error


def _inspect(
    name: str, limits: Limits, base_revision: str | None, *, may_be_local: bool, is_base: bool = False
) -> Intake:
    folder = _on_disk(name) if may_be_local and not limits.strangers else None
    if folder is None:
        check_name(name)
        intake, base = _inspect_hub(name, limits)
    elif folder.is_dir():
        intake, base = _inspect_local(name, folder)
    else:
        raise SubmissionRejected("model.not_a_folder", model=name)
    if base is None:
        _check_limits(name, intake, limits)
        return intake
    if is_base:
        raise SubmissionRejected("model.adapter_of_adapter", model=name)
    # What a stranger's file calls the base must not be a path of this machine.
    may_be_local = intake.source == "local"
    pinned = _at(base, base_revision, may_be_local=may_be_local and not limits.strangers)
    under = _inspect(pinned, limits, None, may_be_local=may_be_local, is_base=True)
    same = {field: getattr(under, field) for field in ("dtype", "architecture", "quantisation")}
    whole = intake.model_copy(update={"base": under, **same})
    _check_limits(name, whole, limits)
    return whole


def _at(base: str, revision: str | None, *, may_be_local: bool) -> str:
    """The name of a base at a revision. A folder is only what it is."""
    if revision is None or (may_be_local and _on_disk(base) is not None):
        return base
    return f"{base.partition('@')[0]}@{revision}"


def _on_disk(name: str) -> Path | None:
    """What is at that path on this machine, if anything."""
    try:
        path = Path(name).expanduser()
        return path if name.strip() and path.exists() else None
    # Too long for a path, in the home of a user there is not, or of a user no user can be called.
    except (OSError, RuntimeError, ValueError):
        return None


def _inspect_local(name: str, folder: Path) -> tuple[Intake, str | None]:
    try:
        sizes = local_files(name, folder)
        found = _examine(name, folder, sizes, lambda file: local_reader(folder / file))
        # The folder's own name, not its path: the same weights elsewhere are the same submission.
        whereabouts = folder.resolve()
        revision = _content(folder, sizes)
        ref = ModelRef(name=whereabouts.name, source="local", revision=revision, path=str(whereabouts))
        return _intake(name, folder, sizes, found, ref), found.base
    except OSError as error:
        raise EngineError("engine.load_failed", model=name, reason=error.strerror or error) from error


def _inspect_hub(name: str, limits: Limits) -> tuple[Intake, str | None]:
    listing = hub.look_up(name)
    if limits.strangers and listing.private:
        raise SubmissionRejected("model.not_on_hub", model=name)
    check_file_names(name, listing.sizes)
    if "config.json" not in listing.sizes and not _is_adapter(listing.sizes):
        raise SubmissionRejected("model.no_config", model=name)
    check_no_code(name, listing.sizes)
    check_weights_are_there(name, tuple(listing.sizes))
    folder = hub.download(name, listing, small_files(name, listing.sizes))
    found = _examine(name, folder, listing.sizes, partial(hub.reader, name, listing))
    ref = ModelRef(name=listing.repo, source="hub", revision=listing.revision)
    intake = _intake(name, folder, listing.sizes, found, ref)
    says = {"gated": listing.gated, "private": listing.private, "scanned": listing.scanned}
    return intake.model_copy(update=says), found.base


def _intake(name: str, folder: Path, sizes: Mapping[str, int], found: _Found, ref: ModelRef) -> Intake:
    has_template = check_template(folder, name)
    kind: Kind = "adapter" if found.kind == "adapter" else "chat" if has_template else "base"
    of_base = found.kind == "adapter"
    return Intake(
        name=ref.name,
        source="local" if ref.source == "local" else "hub",
        revision=ref.revision,
        kind=kind,
        dtype="auto" if of_base else dtype_of(name, found.config),
        architecture="" if of_base else architecture_of(name, found.config),
        quantisation="" if of_base else quantisation_of(name, found.config),
        files=tuple(File(name=file, size=sizes[file]) for file in sorted({*found.small, *found.weights})),
        parameters=found.parameters,
        bytes=found.bytes,
        licence=licence(folder),
        declared=declared(ref.model_copy(update={"path": str(folder)})),
        path=ref.path,
    )


def _examine(name: str, folder: Path, sizes: Mapping[str, int], reader: Callable[[str], Read]) -> _Found:
    """Every check of a model's files that needs neither its weights nor its template.

    Args:
        folder: where its small files are.
        sizes: of all its files, in bytes.
        reader: gives for a file of weights what reads parts of it.
    """
    is_adapter = _is_adapter(sizes)
    weights: tuple[str, ...]
    small = small_files(name, sizes)
    if is_adapter:
        check_no_code(name, tuple(sizes))
        check_weights_are_there(name, tuple(sizes))
        weights, config = (ADAPTER,), read_json(name, folder, ADAPTER_CONFIG)
        base = check_adapter(name, config)
    else:
        if "config.json" not in sizes:
            raise SubmissionRejected("model.no_config", model=name)
        config, base = read_json(name, folder, "config.json"), None
        check_files(name, tuple(sizes), config)
        # With both, one engine would load the adapter's base and another the weights beside it.
        if ADAPTER_CONFIG in sizes:
            raise SubmissionRejected("model.two_models", model=name)
        weights = _weights(name, folder, sizes)
    for file in small:
        if file.endswith("config.json"):
            check_no_auto_map(name, file, read_json(name, folder, file))
    missing = next((file for file in weights if file not in sizes), None)
    if missing is not None:
        raise SubmissionRejected("model.missing_file", model=name, file=missing)
    tensors = _tensors(name, sizes, weights, reader)
    if is_adapter:
        check_adapter_weights(name, ADAPTER, tensors[ADAPTER])
    else:
        _check_index(name, folder, tensors)
    parameters = sum(tensor.numbers for held in tensors.values() for tensor in held.values())
    size = sum(sizes[file] for file in weights)
    if not is_adapter:
        check_size(name, config, parameters, size)
    return _Found(
        kind="adapter" if is_adapter else "base",
        weights=weights,
        small=small,
        config=config,
        parameters=parameters,
        bytes=size,
        base=base,
    )


def _is_adapter(sizes: Mapping[str, int]) -> bool:
    whole = any("/" not in file and file.endswith(".safetensors") and file != ADAPTER for file in sizes)
    return ADAPTER_CONFIG in sizes and not whole


def _without_template(kind: Kind) -> Kind:
    return "base" if kind == "chat" else kind


def _weights(name: str, folder: Path, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The files of weights that engines load: those of the index, or the single one, or all there are.

    Raises:
        SubmissionRejected: `model.bad_json` for the index; `model.two_models` where index and single file differ:
            engines do not agree on which comes first; `model.no_weights`.
    """
    if INDEX in sizes:
        listed = read_json(name, folder, INDEX).get("weight_map")
        if not isinstance(listed, dict) or not all(_is_weights(file) for file in listed.values()):
            raise SubmissionRejected("model.bad_json", model=name, file=INDEX)
        shards = tuple(sorted(set(listed.values())))
        if SINGLE in sizes and shards != (SINGLE,):
            raise SubmissionRejected("model.two_models", model=name)
        return shards
    top = tuple(sorted(file for file in sizes if _is_weights(file)))
    if not top:
        raise SubmissionRejected("model.no_weights", model=name)
    return (SINGLE,) if SINGLE in top else top


def _is_weights(file: object) -> bool:
    return isinstance(file, str) and "/" not in file and file.endswith(".safetensors") and not file.startswith(".")


def _tensors(
    name: str, sizes: Mapping[str, int], weights: tuple[str, ...], reader: Callable[[str], Read]
) -> dict[str, dict[str, Tensor]]:
    def read(file: str) -> dict[str, Tensor]:
        return read_tensors(name, file, sizes[file], reader(file))

    tensors: dict[str, dict[str, Tensor]] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for file, held in zip(weights, pool.map(read, weights), strict=True):
            tensors[file] = held
            # Files of nothing but headers would fill the memory.
            if sum(map(len, tensors.values())) > _MOST_TENSORS:
                raise SubmissionRejected("model.bad_header", model=name, file=file)
    return tensors


def _check_index(name: str, folder: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """A tensor that is not where the index says would be made up by the loader."""
    listed = read_json(name, folder, INDEX).get("weight_map") if (folder / INDEX).is_file() else {}
    for tensor, file in (listed or {}).items():
        if tensor not in tensors.get(file, {}):
            raise SubmissionRejected("model.lying_header", model=name, file=INDEX, tensor=ascii(tensor[:100])[1:-1])


def _check_limits(name: str, intake: Intake, limits: Limits) -> None:
    parts = [intake, intake.base] if intake.base is not None else [intake]
    size, parameters = sum(part.bytes for part in parts), sum(part.parameters for part in parts)
    if limits.max_bytes is not None and size > limits.max_bytes:
        raise SubmissionRejected(
            "model.too_large", model=name, size=-(-size // 1_000_000), limit=limits.max_bytes // 1_000_000
        )
    if limits.max_parameters is not None and parameters > limits.max_parameters:
        raise SubmissionRejected(
            "model.too_many_parameters",
            model=name,
            parameters=-(-parameters // 1_000_000),
            limit=limits.max_parameters // 1_000_000,
        )
    if limits.architectures is not None and intake.architecture not in limits.architectures:
        raise SubmissionRejected("model.other_architecture", model=name, architecture=intake.architecture)


def _content(folder: Path, files: Mapping[str, int]) -> str:
    """The first 40 hexadecimal digits of a digest of names and contents."""
    content = hashlib.sha256()
    for file in files:
        with (folder / file).open("rb") as handle:
            content.update(f"{file}\0{hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    return content.hexdigest()[:40]
