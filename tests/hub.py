"""A local stand-in for the Hugging Face Hub, over real HTTP, for its real clients.

Models, datasets and spaces with their history, in memory, for one user with one token. LFS but not Xet, `main` but no
other branch or tag, pull requests that only stay open, and every page of a list at once. Spaces have their hardware,
variables, secrets and volumes but are not built; buckets hold nothing.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Self
from urllib.parse import parse_qs

import uvicorn
import yaml
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

Json = dict[str, Any]

# Kept by LFS whatever their size, as in a new repository of the Hub; `push_to_hub` cannot do without.
LFS_SUFFIXES = (".arrow", ".bin", ".gz", ".parquet", ".safetensors", ".zip")


class Refusal(Exception):
    """An answer that is not a success. The clients tell what is missing by its code."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = (headers or {}) | {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


@dataclass(frozen=True)
class Commit:
    revision: str
    files: dict[str, bytes]
    about: Json


@dataclass
class Repository:
    repo_id: str
    repo_type: str
    private: bool
    commits: list[Commit] = field(default_factory=list)
    pulls: list[Commit] = field(default_factory=list)
    gated: bool = False
    scanned: bool = True
    issues: dict[str, str] = field(default_factory=dict)
    sdk: str | None = None
    hardware: str = "cpu-basic"
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    volumes: list[Json] = field(default_factory=list)

    @property
    def path(self) -> str:
        return self.repo_id if self.repo_type == "model" else f"{self.repo_type}s/{self.repo_id}"

    def until(self, revision: str) -> list[Commit]:
        """The history of a revision or of `main`, oldest first."""
        for index, commit in enumerate(self.commits, start=1):
            if revision == commit.revision or (revision == "main" and index == len(self.commits)):
                return self.commits[:index]
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def at(self, revision: str) -> Commit:
        return self.until(revision)[-1]

    def commit(self, files: dict[str, bytes], title: str, message: str = "") -> str:
        """Put a commit on `main`. Returns its revision."""
        self.commits.append(self._made(files, title, message))
        return self.commits[-1].revision

    def pull(self, files: dict[str, bytes], title: str, message: str = "") -> str:
        """Open a pull request of one commit. Returns its revision."""
        self.pulls.append(self._made(files, title, message))
        return self.pulls[-1].revision

    def _made(self, files: dict[str, bytes], title: str, message: str) -> Commit:
        # A repository made again under an old name has other revisions.
        revision = hashlib.sha1(f"{self.path} {next(_numbers)}".encode()).hexdigest()
        date = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        about = {"id": revision, "title": title, "message": message, "date": date, "authors": [{"user": "local"}]}
        return Commit(revision, files, about)


class LocalHub:
    """Serves from `start` to `stop`, or in a `with`.

    Attributes:
        url: where, the same after a stop and a start.
        token: the only one accepted, that of `user`.
        requests: every request so far, as `METHOD path`.
        down: when set, everything is answered 503.
        moving: when set, no commit's parent is the newest one any more: as if others never stopped committing.
        lfs_above: files of more bytes are kept by LFS.
        role: what the token may do, in the Hub's word.
        owners: whose repositories the token may make and change; None is everybody's.
        unpaid: hardware that the Hub wants to be paid for first.
    """

    def __init__(self, *, user: str = "owner", token: str = "hf_local", lfs_above: int = 4096) -> None:
        self.url = ""
        self.user = user
        self.token = token
        self.lfs_above = lfs_above
        self.requests: list[str] = []
        self.down = False
        self.moving = False
        self.role = "write"
        self.owners: set[str] | None = None
        self.unpaid: set[str] = set()
        self._port = 0
        self._lock = threading.Lock()
        self._repositories: dict[tuple[str, str], Repository] = {}
        self._blobs: dict[str, bytes] = {}
        self._buckets: dict[str, bool] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        config = uvicorn.Config(self._app(), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def environment(self, home: Path) -> dict[str, str]:
        """This process's environment for a child whose clients use the hub: they read it when they are imported.

        Args:
            home: a folder for what the clients keep.
        """
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        return inherited | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def add(self, repo_id: str, repo_type: str, files: dict[str, bytes], private: bool = False) -> str:
        """Commit files on top of `main`; a new repository, `private` or not, if there is none.

        Returns:
            The new revision.
        """
        with self._lock:
            new = Repository(repo_id, repo_type, private)
            repository = self._repositories.setdefault((repo_type, repo_id), new)
            old = repository.at("main").files if repository.commits else {}
            self._blobs |= {hashlib.sha256(data).hexdigest(): data for data in files.values()}
            return repository.commit(old | files, "Add files")

    def files(self, repo_id: str, repo_type: str, revision: str = "main") -> dict[str, bytes]:
        """Every file at a revision or on `main`."""
        return dict(self._repositories[repo_type, repo_id].at(revision).files)

    def pulls(self, repo_id: str, repo_type: str) -> list[dict[str, bytes]]:
        """Every file as each pull request would have it."""
        return [dict(pull.files) for pull in self._repositories[repo_type, repo_id].pulls]

    def commits(self, repo_id: str, repo_type: str) -> list[str]:
        """The titles of the commits on `main`, oldest first."""
        return [str(commit.about["title"]) for commit in self._repositories[repo_type, repo_id].commits]

    def space(self, repo_id: str) -> Repository:
        """A Space with what it runs on."""
        return self._repositories["space", repo_id]

    def mark(
        self, repo_id: str, *, gated: bool = False, scanned: bool = True, issues: dict[str, str] | None = None
    ) -> None:
        """Say of a model that nobody has accepted its conditions, and what its scans found: a level for each file."""
        model = self._repositories["model", repo_id]
        model.gated, model.scanned, model.issues = gated, scanned, issues or {}

    def _app(self) -> FastAPI:
        app = FastAPI(openapi_url=None)
        app.middleware("http")(self._guard)
        app.add_exception_handler(Refusal, self._refuse)
        api = "/api/{kind}/{owner}/{name}"
        routes: list[tuple[str, str, Callable[..., Awaitable[Any]]]] = [
            ("GET", "/api/whoami-v2", self._whoami),
            ("POST", "/api/validate-yaml", self._validate_yaml),
            ("POST", "/api/repos/create", self._create),
            ("DELETE", "/api/repos/delete", self._delete),
            ("GET", api, self._info),
            ("GET", api + "/revision/{revision:path}", self._info),
            ("GET", api + "/refs", self._refs),
            ("GET", api + "/commits/{revision:path}", self._commits),
            ("GET", api + "/tree/{revision}", self._tree),
            ("GET", api + "/tree/{revision}/{path:path}", self._tree),
            ("POST", api + "/paths-info/{revision:path}", self._paths_info),
            ("POST", api + "/preupload/{revision:path}", self._preupload),
            ("POST", api + "/commit/{revision:path}", self._commit),
            ("GET", api + "/discussions", self._discussions),
            ("POST", api + "/branch/{branch:path}", self._branch),
            ("PUT", "/lfs/{oid}", self._lfs_put),
            ("GET", api + "/runtime", self._runtime),
            ("POST", api + "/hardware", self._hardware),
            ("GET POST DELETE", api + "/variables", self._variables),
            ("GET POST", api + "/secrets", self._secrets),
            ("PUT", api + "/volumes", self._volumes),
            ("GET POST", "/api/buckets/{owner}/{name}", self._bucket),
        ]
        for prefix in ("/{owner}/{name}", "/{kind}/{owner}/{name}"):
            routes.append(("POST", prefix + ".git/info/lfs/objects/batch", self._lfs_batch))
            routes.append(("GET HEAD", prefix + "/resolve/{revision}/{path:path}", self._resolve))
        for methods, path, answer in routes:
            app.add_api_route(path, answer, methods=methods.split(), response_model=None)
        return app

    async def _guard(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        self.requests.append(f"{request.method} {request.url.path}")
        if self.down:
            return await self._refuse(request, Refusal(503, "Service unavailable"))
        if "authorization" in request.headers and not self._known(request):
            return await self._refuse(request, Refusal(401, "Invalid credentials in Authorization header"))
        return await call_next(request)

    async def _refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return JSONResponse({"error": str(error)}, error.status, error.headers)

    def _known(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {self.token}"

    def _require_token(self, request: Request) -> None:
        if not self._known(request):
            raise Refusal(401, "Invalid username or password.")

    def _find(self, request: Request, *, write: bool = False) -> Repository:
        """The repository that a path names, if the caller may see it."""
        names = request.path_params
        repo_type = names.get("kind", "models").removesuffix("s")
        repository = self._repositories.get((repo_type, f"{names['owner']}/{names['name']}"))
        if repository is None or (repository.private and not self._known(request)):
            raise Refusal(404 if self._known(request) else 401, "Repository not found", "RepoNotFound")
        if write:
            self._require_token(request)
            self._require_owner(names["owner"])
        return repository

    def _require_owner(self, owner: str) -> None:
        if self.owners is not None and owner not in self.owners:
            raise Refusal(403, f"You don't have the rights to write under the namespace {owner}")

    def _is_lfs(self, path: str, size: int) -> bool:
        return size > self.lfs_above or (size > 0 and path.endswith(LFS_SUFFIXES))

    def _entry(self, path: str, data: bytes) -> Json:
        entry: Json = {"type": "file", "path": path, "oid": _git_oid(data), "size": len(data)}
        if self._is_lfs(path, len(data)):
            sha256 = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": sha256, "sha256": sha256, "size": len(data), "pointerSize": 134}
        return entry

    def _entries(self, commit: Commit) -> dict[str, Json]:
        """Every file and folder, as the Hub lists them."""
        entries: dict[str, Json] = {}
        for path, data in sorted(commit.files.items()):
            for folder in map(str, PurePosixPath(path).parents[:-1]):
                # Not git's digest of a tree, which no client checks, but one that changes with what is inside.
                oid = _git_oid(f"{entries.get(folder)} {path} {_git_oid(data)}".encode())
                entries[folder] = {"type": "directory", "path": folder, "oid": oid, "size": 0}
            entries[path] = self._entry(path, data)
        return entries

    async def _whoami(self, request: Request) -> Json:
        self._require_token(request)
        token = {"displayName": "local", "role": self.role}
        return {"type": "user", "name": self.user, "orgs": [], "auth": {"type": "access_token", "accessToken": token}}

    async def _validate_yaml(self, asked: Json) -> Response:
        card = _metadata(asked["content"])
        errors = [{"message": "YAML metadata is not valid"}] if card is None else []
        warnings = [{"message": "empty or missing yaml metadata in repo card"}] if card == {} else []
        return JSONResponse({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    def _new(self, asked: Json) -> Repository:
        repo_id = f"{asked.get('organization') or self.user}/{asked['name']}"
        made = Repository(repo_id, asked.get("type") or "model", asked.get("visibility") == "private")
        made.sdk, made.hardware = asked.get("sdk"), asked.get("hardware") or "cpu-basic"
        return made

    async def _create(self, request: Request, asked: Json) -> Response:
        self._require_token(request)
        new = self._new(asked)
        self._require_owner(new.repo_id.partition("/")[0])
        if new.repo_type == "space":
            self._require_payment(new.hardware)
            if new.sdk is None:
                raise Refusal(400, "A Space needs an SDK")
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        card = {"README.md": f"---\ntitle: Space\nsdk: {new.sdk}\n---\n".encode()} if new.repo_type == "space" else {}
        new.commit({".gitattributes": attributes.encode()} | card, "initial commit")
        with self._lock:
            made = self._repositories.setdefault((new.repo_type, new.repo_id), new) is new
        return JSONResponse({"name": new.repo_id, "url": f"{self.url}/{new.path}"}, 200 if made else 409)

    async def _delete(self, request: Request, asked: Json) -> None:
        self._require_token(request)
        old = self._new(asked)
        if self._repositories.pop((old.repo_type, old.repo_id), None) is None:
            raise Refusal(404, "Repository not found", "RepoNotFound")

    async def _info(self, request: Request, revision: str = "main") -> Json:
        repository = self._find(request)
        commit = repository.at(revision)
        entries = [entry for entry in self._entries(commit).values() if entry["type"] == "file"]
        return {
            "id": repository.repo_id,
            "private": repository.private,
            **({"sdk": repository.sdk} if repository.sdk else {}),
            "gated": "manual" if repository.gated else False,
            **({"securityRepoStatus": _status(repository)} if "securityStatus" in request.query_params else {}),
            "sha": commit.revision,
            "lastModified": commit.about["date"],
            "cardData": _metadata(commit.files.get("README.md", b"").decode()),
            "siblings": [entry | {"rfilename": entry["path"], "blobId": entry["oid"]} for entry in entries],
        }

    async def _refs(self, request: Request) -> Json:
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": self._find(request).at("main").revision}
        return {"branches": [main], "tags": [], "converts": [], "pullRequests": []}

    async def _commits(self, request: Request, revision: str) -> list[Json]:
        return [commit.about for commit in reversed(self._find(request).until(revision))]

    async def _tree(self, request: Request, revision: str, path: str = "", recursive: bool = False) -> list[Json]:
        commit = self._find(request).at(revision)
        folder = f"{path}/" if path else ""
        below = {at[len(folder) :]: entry for at, entry in self._entries(commit).items() if at.startswith(folder)}
        if path and not below:
            headers = {"X-Repo-Commit": commit.revision}
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound", headers)
        return [entry for at, entry in below.items() if recursive or "/" not in at]

    async def _paths_info(self, request: Request, revision: str) -> list[Json]:
        asked = parse_qs((await request.body()).decode()).get("paths", [])
        entries = self._entries(self._find(request).at(revision))
        return [entries[path] for path in asked if path in entries]

    async def _resolve(self, request: Request, revision: str, path: str) -> Response:
        repository = self._find(request)
        commit = repository.at(revision)
        if repository.gated:
            raise Refusal(403, f"Access to model {repository.repo_id} is restricted", "GatedRepo")
        headers = {"X-Repo-Commit": commit.revision, "Accept-Ranges": "bytes"}
        data = commit.files.get(path)
        if data is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", headers)
        headers["ETag"] = f'"{_digest(self._entry(path, data))}"'
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if asked is None:
            return Response(data, 200, headers, "application/octet-stream")
        start = int(asked[1])
        part = data[start : int(asked[2]) + 1 if asked[2] else None]
        if not part:
            raise Refusal(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        return Response(part, 206, headers, "application/octet-stream")

    async def _preupload(self, request: Request, revision: str, asked: Json) -> Json:
        files = self._find(request, write=True).at(revision).files
        answer: list[Json] = []
        for path, size in ((file["path"], file["size"]) for file in asked["files"]):
            old = _digest(self._entry(path, files[path])) if path in files else None
            mode = "lfs" if self._is_lfs(path, size) else "regular"
            answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": old})
        return {"files": answer}

    async def _lfs_batch(self, request: Request, asked: Json) -> Json:
        self._find(request, write=True)
        for wanted in asked["objects"]:
            if wanted["oid"] not in self._blobs:
                wanted["actions"] = {"upload": {"href": f"{self.url}/lfs/{wanted['oid']}"}}
        return {"transfer": "basic", "objects": asked["objects"]}

    async def _lfs_put(self, request: Request, oid: str) -> None:
        data = await request.body()
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refusal(400, "The content is not what its digest says")
        self._blobs[oid] = data

    async def _commit(self, request: Request, revision: str) -> Json:
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        with self._lock:
            repository = self._find(request, write=True)
            head = repository.at("main")
            is_pull = "create_pr" in request.query_params
            if revision != "main":
                raise Refusal(400, "Commits go to main")
            parent = header.get("parentCommit", head.revision)
            if parent != head.revision or (self.moving and "parentCommit" in header):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = self._changed(head.files, lines)
            add = repository.pull if is_pull else repository.commit
            new = add(files, header["summary"], header.get("description", ""))
            pull = f"{self.url}/{repository.path}/discussions/{len(repository.pulls)}" if is_pull else None
        url = f"{self.url}/{repository.path}/commit/{new}"
        return {"success": True, "commitOid": new, "commitUrl": url, "hookOutput": "", "pullRequestUrl": pull}

    async def _discussions(self, request: Request) -> Json:
        repository = self._find(request)
        repo = {"name": repository.repo_id, "type": repository.repo_type}
        found = [
            {
                "num": number,
                "title": pull.about["title"],
                "author": {"name": self.user},
                "createdAt": pull.about["date"],
                "status": "open",
                "isPullRequest": True,
                "repo": repo,
            }
            for number, pull in enumerate(repository.pulls, start=1)
        ]
        return {"discussions": found, "count": len(found), "start": 0}

    def _changed(self, files: dict[str, bytes], operations: list[Json]) -> dict[str, bytes]:
        files = dict(files)
        for operation in operations:
            key, value = operation["key"], operation["value"]
            path = value.get("path", "")
            if key == "file":
                files[path] = base64.b64decode(value["content"])
            elif key == "lfsFile" and value["oid"] in self._blobs:
                files[path] = self._blobs[value["oid"]]
            elif key == "deletedFile" and path in files:
                del files[path]
            elif key == "deletedFile":
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            elif key == "deletedFolder":
                files = {at: data for at, data in files.items() if not at.startswith(path.rstrip("/") + "/")}
            elif key != "header":
                raise Refusal(400, f"Cannot commit {key} {path}")
        return files

    async def _branch(self, request: Request, branch: str) -> None:
        self._find(request, write=True)
        raise Refusal(409, "Reference already exists") if branch == "main" else Refusal(400, "There is only main")

    def _require_payment(self, hardware: str) -> None:
        if hardware in self.unpaid:
            raise Refusal(402, f"Payment required for {hardware}")

    async def _runtime(self, request: Request) -> Json:
        space = self._find(request)
        on = {"current": None, "requested": space.hardware}
        return {"stage": "BUILDING", "hardware": on, "gcTimeout": None, "storage": None, "volumes": space.volumes}

    async def _hardware(self, request: Request, asked: Json) -> Json:
        space = self._find(request, write=True)
        self._require_payment(asked["flavor"])
        space.hardware = asked["flavor"]
        return await self._runtime(request)

    async def _variables(self, request: Request) -> Json:
        space = self._find(request, write=request.method != "GET")
        if request.method != "GET":
            asked = await request.json()
            if asked["key"] in space.secrets:
                raise Refusal(400, f"There is a secret named {asked['key']}")
            if request.method == "POST":
                space.variables[asked["key"]] = asked["value"]
            else:
                del space.variables[asked["key"]]
        return {key: {"value": value} for key, value in space.variables.items()}

    async def _secrets(self, request: Request) -> Json:
        self._require_token(request)
        space = self._find(request, write=request.method != "GET")
        if request.method == "POST":
            asked = await request.json()
            if asked["key"] in space.variables:
                raise Refusal(400, f"There is a variable named {asked['key']}")
            space.secrets[asked["key"]] = asked["value"]
        return {key: {"updatedAt": "2026-01-01T00:00:00.000Z"} for key in space.secrets}

    async def _volumes(self, request: Request, asked: Json) -> None:
        self._find(request, write=True).volumes = asked["volumes"]

    async def _bucket(self, request: Request, owner: str, name: str) -> Response:
        self._require_token(request)
        bucket = f"{owner}/{name}"
        if request.method == "POST":
            self._require_owner(owner)
            made = bucket not in self._buckets
            self._buckets.setdefault(bucket, (await request.json()).get("visibility") == "private")
            return JSONResponse({"url": f"{self.url}/buckets/{bucket}"}, 200 if made else 409)
        if bucket not in self._buckets:
            raise Refusal(404, "Bucket not found", "RepoNotFound")
        about = {"id": bucket, "private": self._buckets[bucket], "createdAt": "2026-01-01T00:00:00.000Z"}
        return JSONResponse(about | {"size": 0, "totalFiles": 0})


_numbers = itertools.count()


def _status(repository: Repository) -> Json:
    found = [{"path": path, "level": level} for path, level in repository.issues.items()]
    return {"scansDone": repository.scanned, "filesWithIssues": found}


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _digest(entry: Json) -> str:
    """What the clients compare a file's content with."""
    return str(entry.get("lfs", entry)["oid"])


def _metadata(card: str) -> Json | None:
    """What a card says about its repository, or None if it cannot be read."""
    block = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", card, re.DOTALL)
    try:
        metadata = yaml.safe_load(block[1]) if block else {}
    except yaml.YAMLError:
        return None
    return metadata if isinstance(metadata, dict) else None


@contextmanager
def clients(hub: LocalHub, home: Path, **more: str) -> Iterator[Callable[..., Any]]:
    """Calls functions in a process of their own, where the real clients know no other hub than this one.

    Args:
        more: environment variables beside those of `LocalHub.environment`.
    """
    spawn = multiprocessing.get_context("spawn")
    environment = hub.environment(home) | more
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_become_client, initargs=(environment,)) as pool:
        yield lambda function, *values, **named: pool.submit(function, *values, **named).result(timeout=60)


def _become_client(environment: dict[str, str]) -> None:
    # The clients read their environment when they are imported.
    assert not {"huggingface_hub", "datasets"} & set(sys.modules)
    os.environ.clear()
    os.environ.update(environment)
