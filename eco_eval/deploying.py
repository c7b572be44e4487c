"""A board on the Hub: what a Space and its dataset need, what of it is there, and the steps between.

`look` reads the Hub, `plan` compares without touching anything, `carry_out` does the steps. A second deployment changes
what differs: files that an earlier one put there and this one no longer has go, everything else stays.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from eco_eval.errors import InputError, StoreError
from eco_eval.rubric import fill
from eco_eval.store.hub import Content, content_of, git_oid
from eco_eval.types import Record

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MANIFEST: Final = ".eco-eval.json"
"""In the Space: which files a deployment put there, each with git's SHA-1 of its content and its SHA-256."""

FREE: Final = "cpu-basic"
GPU: Final = "l4x1"
"""Hardware of a GPU Space where none is named: 24 GB of GPU memory."""

DISK: Final = "/data"
"""Where the bucket is mounted."""

SCRATCH_QUEUE: Final = "sqlite:////tmp/eco-eval-queue.sqlite"
"""A queue on the container's own disk: a mounted bucket locks no files, and SQLite without locks breaks."""

Mode = Literal["page", "gpu"]
Cost = Literal["none", "hardware", "storage", "subscription"]
StepKind = Literal["dataset", "space", "hardware", "bucket", "volume", "variable", "unset", "secret", "files"]

_TEMPLATES = Path(__file__).parent / "data" / "space"
_SHIPPED = {".css", ".csv", ".html", ".js", ".json", ".jsonl", ".md", ".py", ".toml", ".txt", ".typed", ".yaml"}
_OF_THE_HUB = {".gitattributes", "README.md"}
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class Order(Record):
    """What is asked for.

    space, dataset: `owner/name`.
    hardware: the Hub's name of it; None leaves a Space there is on what it runs on.
    storage: a bucket of the Hub, mounted at `/data`, so that answers outlive a restart.
    secrets: names of the secrets to set; their values go to `carry_out` alone.
    """

    space: str
    dataset: str
    mode: Mode = "page"
    hardware: str | None = None
    private: bool = False
    storage: bool = False
    secrets: tuple[str, ...] = ()

    @property
    def bucket(self) -> str:
        return f"{self.space}-data"

    @property
    def variables(self) -> dict[str, str]:
        """The Space's public environment."""
        found = {"ECO_EVAL_MODE": self.mode, "ECO_EVAL_HUB_REPO": self.dataset, "ECO_EVAL_LOG": "json"}
        if self.storage:
            folders = {"DATA": "leaderboard_data", "PRIVATE": "private"}
            found |= {f"ECO_EVAL_{name}_DIR": f"{DISK}/{folder}" for name, folder in folders.items()}
            if "ECO_EVAL_QUEUE_URL" not in self.secrets:
                found["ECO_EVAL_QUEUE_URL"] = SCRATCH_QUEUE
        return found


class There(Record):
    """What the Hub has.

    space, dataset, bucket: None where there is none, otherwise whether it is private.
    revision: of the Space's files.
    manifest: what an earlier deployment put there; None where none did.
    volumes: of the Space, as the Hub describes them.
    """

    space: bool | None = None
    dataset: bool | None = None
    bucket: bool | None = None
    revision: str | None = None
    files: dict[str, Content] = Field(default_factory=dict)
    manifest: dict[str, Content] | None = None
    variables: dict[str, str] = Field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    hardware: str | None = None
    volumes: tuple[dict[str, Any], ...] = ()


class Step(Record):
    """One thing to do. `target` is what it is done to, `detail` the value where people may see it."""

    kind: StepKind
    target: str
    detail: str = ""
    cost: Cost = "none"


class Plan(Record):
    """What will be done, in order.

    upload, remove: paths of the Space that the one commit writes and deletes.
    overwritten: those among `upload` that somebody else changed since the last deployment.
    """

    order: Order
    steps: tuple[Step, ...]
    upload: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    overwritten: tuple[str, ...] = ()
    revision: str | None = None
    volumes: tuple[dict[str, Any], ...] = ()

    @property
    def paid(self) -> bool:
        return any(step.cost in ("hardware", "storage") for step in self.steps)


def check_order(order: Order) -> None:
    """
    Raises:
        InputError: a name that no repository can have.
    """
    for name in (order.space, order.dataset):
        if not _REPO.fullmatch(name) or len(name) > 96 or "--" in name or ".." in name:
            raise InputError("deploy.bad_name", name=name)


def space_files(order: Order) -> dict[str, bytes]:
    """Every file of the Space by path: the package without what only this machine has, its pins, the card.

    A page is a Gradio Space. A GPU Space is a Docker Space, because vLLM and the libraries that the Hub adds to every
    Gradio Space cannot be installed together (mcp 2 against mcp 1).
    """
    package = Path(__file__).parent
    files = {
        f"{package.name}/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if _is_shipped(path, package)
    }
    gpu = order.mode == "gpu"
    files["app.py"] = (_TEMPLATES / "app.py").read_bytes()
    files["requirements.txt"] = (_TEMPLATES / f"requirements{'-gpu' if gpu else ''}.txt").read_bytes()
    if gpu:
        files["Dockerfile"] = (_TEMPLATES / "Dockerfile").read_bytes()
    files["README.md"] = card(order, pinned("gradio", files["requirements.txt"].decode())).encode()
    digests = {path: [git_oid(data), hashlib.sha256(data).hexdigest()] for path, data in sorted(files.items())}
    files[MANIFEST] = json.dumps({"files": digests}, indent=1).encode()
    return files


def _is_shipped(path: Path, package: Path) -> bool:
    parts = path.relative_to(package).parts
    hidden = any(part.startswith((".", "__pycache__")) for part in parts) or parts[:2] == ("data", "space")
    return not hidden and path.is_file() and (path.suffix in _SHIPPED or path.name == "LICENSE")


def pinned(library: str, requirements: str) -> str:
    """The version that a requirements file pins a library to.

    Raises:
        StoreError: it pins none.
    """
    found = re.search(rf"(?m)^{re.escape(library)}==([^\s;]+)", requirements)
    if found is None:
        raise StoreError("deploy.no_pin", library=library)
    return found[1]


def card(order: Order, gradio: str) -> str:
    """The Space's README: what the Hub must know of it, then what people read, in Spanish and English.

    Fields: https://huggingface.co/docs/hub/spaces-config-reference
    """
    import yaml

    gpu = order.mode == "gpu"
    runs: dict[str, Any] = (
        {"sdk": "docker", "app_port": 7860, "suggested_hardware": order.hardware or GPU}
        if gpu
        else {"sdk": "gradio", "sdk_version": gradio, "python_version": "3.11", "app_file": "app.py"}
    )
    front = {
        "title": order.space.rpartition("/")[2],
        "emoji": "🌿",
        "colorFrom": "green",
        "colorTo": "gray",
        **runs,
        "pinned": False,
        "hf_oauth": True,
        "hf_oauth_expiration_minutes": 480,
        "license": "apache-2.0",
        "short_description": "¿Cómo hablan los modelos del mundo vivo?",  # the Hub takes 60 characters
        "datasets": [order.dataset],
    }
    texts = [(_TEMPLATES / f"README.{lang}.md").read_text("utf-8") for lang in ("es", "en")]
    body = "\n\n".join(fill(text, dataset=order.dataset) for text in texts)
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{body}\n"


def plan(order: Order, there: There, files: Mapping[str, bytes]) -> Plan:
    """The steps from what is there to what is asked for.

    Raises:
        InputError: the Space is something else, or is public where a private one is asked for.
    """
    if there.space is not None and there.manifest is None and set(there.files) - _OF_THE_HUB:
        raise InputError("deploy.taken", space=order.space)
    for repo, private in ((order.space, there.space), (order.dataset, there.dataset)):
        if order.private and private is False:
            raise InputError("deploy.is_public", repo=repo)
    upload = tuple(path for path, data in files.items() if path not in there.files or not there.files[path].is_of(data))
    known = there.manifest or {}
    unchanged = {path for path, ours in known.items() if path in there.files and _same(there.files[path], ours)}
    return Plan(
        order=order,
        steps=tuple(_steps(order, there, upload)),
        upload=upload,
        remove=tuple(sorted(path for path in unchanged - set(files) if path not in _OF_THE_HUB)),
        overwritten=tuple(path for path in upload if path in known and path in there.files and path not in unchanged),
        revision=there.revision,
        volumes=there.volumes,
    )


def _same(content: Content, ours: Content) -> bool:
    # Where LFS or Xet keeps a file, git's digest is that of a pointer to it.
    return content.oid == ours.oid if content.sha256 is None else content.sha256 == ours.sha256


def _steps(order: Order, there: There, upload: Sequence[str]) -> Iterator[Step]:
    wanted = order.hardware or (GPU if order.mode == "gpu" and there.space is None else None)
    if there.dataset is None:
        yield Step(kind="dataset", target=order.dataset, detail=_visibility(order))
    if there.space is None:
        hardware = wanted or FREE
        cost: Cost = "subscription" if hardware == FREE else "hardware"
        yield Step(kind="space", target=order.space, detail=f"{_visibility(order)}, {hardware}", cost=cost)
    elif wanted and wanted != there.hardware:
        yield Step(kind="hardware", target=order.space, detail=wanted, cost="none" if wanted == FREE else "hardware")
    if order.storage and there.bucket is None:
        yield Step(kind="bucket", target=order.bucket, detail="private", cost="storage")
    if order.storage and not any(one.get("mountPath") == DISK for one in there.volumes):
        yield Step(kind="volume", target=order.bucket, detail=DISK)
    for name, value in order.variables.items():
        # The Hub takes no variable that has a secret's name.
        if there.variables.get(name) != value and name not in there.secrets:
            yield Step(kind="variable", target=name, detail=value)
    for name in order.secrets:
        if name in there.variables:
            yield Step(kind="unset", target=name)
    # Nobody can read a secret back, so nobody can tell whether it differs.
    for name in order.secrets:
        yield Step(kind="secret", target=name)
    if upload:
        yield Step(kind="files", target=order.space, detail=str(len(upload)))


def _visibility(order: Order) -> str:
    return "private" if order.private else "public"


def client(token: str | None) -> HfApi:
    """A client of the Hub with this token and no other of this machine.

    Raises:
        InputError: there is none.
    """
    from huggingface_hub import HfApi

    if not token:
        raise InputError("deploy.no_token")
    return HfApi(token=token)


def look(order: Order, api: HfApi) -> There:
    """What the Hub has of what is asked for.

    Raises:
        InputError: the token is not valid or may not write.
        StoreError: the Hub cannot be reached or refuses.
    """
    with told(order.space):
        access = api.whoami().get("auth", {}).get("accessToken", {})
    if access.get("role") == "read":
        raise InputError("deploy.reads_only")
    found: dict[str, Any] = {"dataset": _private(api, order.dataset, "dataset")}
    if order.storage:
        found["bucket"] = _private(api, order.bucket, "bucket")
    found["space"] = _private(api, order.space, "space")
    if found["space"] is None:
        return There(**found)
    with told(order.space):
        revision = api.space_info(order.space, expand=["sha"]).sha
        tree = api.list_repo_tree(order.space, repo_type="space", recursive=True, revision=revision)
        contents = {one.path: content for one in tree if (content := content_of(one)) is not None}
        runtime = api.get_space_runtime(order.space)
        return There(
            **found,
            revision=revision,
            files=contents,
            manifest=_manifest(api, order.space, revision) if MANIFEST in contents else None,
            variables={name: one.value or "" for name, one in api.get_space_variables(order.space).items()},
            secrets=tuple(api.get_space_secrets(order.space)),
            hardware=runtime.requested_hardware or runtime.hardware,
            volumes=tuple(volume.to_dict() for volume in runtime.volumes or ()),
        )


def _private(api: HfApi, repo: str, kind: Literal["dataset", "space", "bucket"]) -> bool | None:
    from huggingface_hub.errors import BucketNotFoundError, RepositoryNotFoundError

    with told(repo):
        try:
            if kind == "bucket":
                return bool(api.bucket_info(repo).private)
            info = api.dataset_info if kind == "dataset" else api.space_info
            return bool(info(repo, expand=["private"]).private)
        except (BucketNotFoundError, RepositoryNotFoundError):
            return None


def _manifest(api: HfApi, space: str, revision: str | None) -> dict[str, Content]:
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(space, MANIFEST, repo_type="space", revision=revision, local_dir=folder)
        text = Path(path).read_text("utf-8")
    try:
        return {str(path): Content(str(oid), str(sha256)) for path, (oid, sha256) in json.loads(text)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # somebody edited it: nothing is known to be ours, so nothing is deleted


def carry_out(made: Plan, files: Mapping[str, bytes], secrets: Mapping[str, str], api: HfApi) -> Iterator[Step]:
    """Do the steps, and give each once it is done. Files come last, so that the Space builds with everything set.

    Args:
        files: as `plan` was given them.
        secrets: the values of the order's secrets.

    Raises:
        InputError: the Hub does not take the token, or wants to be paid.
        StoreError: the Hub cannot be reached or refuses; what was done stays, and the same command goes on from there.
    """
    for step in made.steps:
        with told(step.target if step.kind in ("dataset", "bucket") else made.order.space, step.detail):
            _do(step, made, files, secrets, api)
        yield step


def _do(step: Step, made: Plan, files: Mapping[str, bytes], secrets: Mapping[str, str], api: HfApi) -> None:
    from huggingface_hub import Volume

    space, private = made.order.space, made.order.private
    match step.kind:
        case "dataset":
            api.create_repo(step.target, repo_type="dataset", private=private, exist_ok=True)
        case "space":
            # With its hardware at once: an account that pays by use may not make one on the free hardware.
            hardware: Any = step.detail.rpartition(" ")[2]
            sdk = "docker" if made.order.mode == "gpu" else "gradio"
            api.create_repo(
                space, repo_type="space", space_sdk=sdk, private=private, space_hardware=hardware, exist_ok=True
            )
        case "hardware":
            flavour: Any = step.detail
            api.request_space_hardware(space, flavour)
        case "bucket":
            api.create_bucket(step.target, private=True, exist_ok=True)
        case "volume":
            ours = Volume(type="bucket", source=step.target, mount_path=DISK)
            # The call replaces the whole list: what others mounted is said again.
            api.set_space_volumes(space, [*(Volume(**one) for one in made.volumes), ours])
        case "variable":
            api.add_space_variable(space, step.target, step.detail)
        case "unset":
            api.delete_space_variable(space, step.target)
        case "secret":
            api.add_space_secret(space, step.target, secrets[step.target])
        case "files":
            _commit(made, files, api)


def _commit(made: Plan, files: Mapping[str, bytes], api: HfApi) -> None:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    from eco_eval import __version__

    changes: list[Any] = [CommitOperationAdd(path, io.BytesIO(files[path])) for path in made.upload]
    changes += [CommitOperationDelete(path) for path in made.remove]
    api.create_commit(
        made.order.space,
        changes,
        commit_message=f"Deploy eco-eval {__version__}",
        repo_type="space",
        parent_commit=made.revision,
    )


@contextmanager
def told(repo: str, detail: str = "") -> Iterator[None]:
    """The client's errors as ours.

    Raises:
        InputError: the token is not valid, or the Hub wants to be paid.
        StoreError: no rights, refused, changed meanwhile, or the Hub cannot be reached (`retryable`).
    """
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except HFValidationError as error:
        raise InputError("deploy.bad_name", name=repo) from error
    except HfHubHTTPError as error:
        status, reason = error.response.status_code, error.server_message or f"HTTP {error.response.status_code}"
        if status == 401:
            raise InputError("deploy.bad_token") from error
        if status == 402:
            raise InputError("deploy.payment", repo=repo, detail=detail, reason=reason) from error
        if status == 403:
            raise StoreError("deploy.forbidden", repo=repo, reason=reason) from error
        if status == 412:
            raise StoreError("deploy.moved", retryable=True, repo=repo) from error
        if status == 429 or status >= 500:
            raise StoreError("deploy.away", retryable=True, reason=reason) from error
        raise StoreError("deploy.refused", repo=repo, detail=detail, reason=reason) from error
    except (ConnectionError, TimeoutError, HTTPError, OfflineModeIsEnabled) as error:
        raise StoreError("deploy.away", retryable=True, reason=type(error).__name__) from error
