"""A board on the Hub, deployed with the real client against the local stand-in: what it makes, says and refuses."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from hub import LocalHub
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from test_hosting import REPO, alive, app, page, wait_for

from eco_eval.commands import run_app
from eco_eval.deploy_cli import add_deploy
from eco_eval.deploying import MANIFEST, Order, There, card, check_order, pinned, plan, space_files
from eco_eval.errors import InputError
from eco_eval.settings import Settings
from eco_eval.store.hub import Content, git_oid

Client = Callable[..., Any]
TOKEN = "hf_local"
_names = itertools.count()


@pytest.fixture
def space(hub: LocalHub) -> Iterator[str]:
    """A name that nobody has, on a Hub that answers and takes everything."""
    yield f"owner/board-{next(_names)}"
    hub.down, hub.role, hub.owners, hub.unpaid = False, "write", None, set()


def deploy(*arguments: str, **environ: str) -> tuple[int, str]:
    """`eco-eval deploy` where the clients use the hub: the exit code and everything printed."""

    def build(settings: Settings, t: Any) -> typer.Typer:
        made = typer.Typer()
        add_deploy(made, settings, t)
        return made

    given = {"ECO_EVAL_HUB_TOKEN": TOKEN} | environ
    before = dict(os.environ)
    said = io.StringIO()
    os.environ.update(given)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = run_app(build, list(arguments))
    finally:
        os.environ.clear()
        os.environ.update(before)
    return code, said.getvalue()


def download(repo: str, folder: Path) -> None:
    """A Space's files, through the real client."""
    from huggingface_hub import snapshot_download

    snapshot_download(repo, repo_type="space", local_dir=folder, token=TOKEN)


def front(readme: bytes) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", readme.decode(), re.DOTALL)
    assert found is not None
    loaded: dict[str, Any] = yaml.safe_load(found[1])
    return loaded


def ordered(**more: Any) -> Order:
    return Order(**{"space": "owner/board", "dataset": "owner/board"} | more)


# --- what a Space gets


def test_the_files_are_the_package_and_what_starts_it() -> None:
    files = space_files(ordered())
    assert {"app.py", "requirements.txt", "README.md", MANIFEST} <= set(files)
    assert files["app.py"] == (REPO / "app.py").read_bytes()
    assert files["requirements.txt"] == (REPO / "requirements.txt").read_bytes()
    assert "Dockerfile" not in files
    for path in ("ui/texts/es.toml", "ui/site.css", "data/pins.json", "data/prompts/eco-es-v1.jsonl", "cli.py"):
        assert files[f"eco_eval/{path}"] == (REPO / "eco_eval" / path).read_bytes()
    others = [path for path in files if not path.startswith("eco_eval/")]
    assert sorted(others) == [MANIFEST, "README.md", "app.py", "requirements.txt"]
    assert not [path for path in files if "__pycache__" in path or path.endswith(".pyc")]


def test_what_is_no_part_of_the_package_stays_on_the_machine(tmp_path: Path) -> None:
    left = [REPO / "eco_eval" / name for name in (".env", "deploy-test-key.pem", ".cache-test/token.json")]
    try:
        for path in left:
            path.parent.mkdir(exist_ok=True)
            path.write_text("hf_secret")
        assert not [path for path, data in space_files(ordered()).items() if data == b"hf_secret"]
    finally:
        for path in left:
            path.unlink()
        left[-1].parent.rmdir()


def test_every_module_the_package_imports_is_in_the_space() -> None:
    files = space_files(ordered())
    for path, data in files.items():
        for node in ast.walk(ast.parse(data)) if path.endswith(".py") else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("eco_eval"):
                stem = (node.module or "").replace(".", "/")
                assert f"{stem}.py" in files or f"{stem}/__init__.py" in files, (path, node.module)


def test_the_card_of_a_page_is_one_the_hub_takes() -> None:
    found = front(space_files(ordered(dataset="other/results"))["README.md"])
    pins = (REPO / "requirements.txt").read_text()
    assert found["sdk"] == "gradio"
    assert found["sdk_version"] == pinned("gradio", pins) == SpecifierSet(f"=={found['sdk_version']}").__str__()[2:]
    assert (found["python_version"], found["app_file"]) == ("3.11", "app.py")
    assert (found["hf_oauth"], found["hf_oauth_expiration_minutes"]) == (True, 480)
    assert found["datasets"] == ["other/results"]
    assert found["pinned"] is False
    assert len(found["short_description"]) <= 60
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {found["colorFrom"], found["colorTo"]} <= colours
    assert "suggested_hardware" not in found


def test_the_card_of_a_gpu_space_says_docker_because_its_pins_and_gradios_extras_exclude_each_other() -> None:
    files = space_files(ordered(mode="gpu", hardware="l40sx1"))
    found = front(files["README.md"])
    assert (found["sdk"], found["app_port"], found["suggested_hardware"]) == ("docker", 7860, "l40sx1")
    assert "sdk_version" not in found
    assert files["requirements.txt"] == (REPO / "requirements-gpu.txt").read_bytes()
    assert files["Dockerfile"] == (REPO / "docs" / "deploy" / "Dockerfile").read_bytes()
    # The reason, as long as it holds: what the Hub adds to a Gradio Space takes no mcp that vLLM takes.
    mcp = pinned("mcp", files["requirements.txt"].decode())
    assert not extra("mcp")["mcp"].contains(mcp)


def test_the_card_speaks_both_languages() -> None:
    text = card(ordered(dataset="owner/results"), "6.31.0")
    assert "¿Cómo hablan los modelos de lenguaje del mundo vivo?" in text
    assert "How do language models speak of the living world?" in text
    assert text.count("https://huggingface.co/datasets/owner/results") == 2


def extra(*names: str) -> dict[str, SpecifierSet]:
    """What extras of the installed Gradio ask for."""
    from importlib.metadata import requires

    asked = [Requirement(line) for line in requires("gradio") or ()]
    return {one.name: one.specifier for one in asked for name in names if one.marker and name in str(one.marker)}


def test_the_pins_of_a_page_hold_beside_what_the_hub_adds_to_a_gradio_space() -> None:
    # Its builder installs them together with gradio[oauth,mcp], and a conflict is a Space that never starts.
    pins = dict(re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", (REPO / "requirements.txt").read_text()))
    added = extra("oauth", "mcp")
    assert {"pydantic", "authlib", "itsdangerous"} <= set(added)
    for library, versions in added.items():
        assert library not in pins or versions.contains(pins[library]), f"{library}=={pins[library]}: {versions}"


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-gpu.txt"])
def test_the_pins_hold_what_the_page_and_its_queue_need(file: str) -> None:
    pins = dict(re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", (REPO / file).read_text()))
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["service"]]
    asked += project["optional-dependencies"]["vllm"] if "gpu" in file else []
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pins[requirement.name.replace("_", "-")]), requirement
    # Signing in with the Hub's OAuth.
    assert {"authlib", "itsdangerous"} <= set(pins)


# --- the plan


def test_the_plan_of_a_new_page_says_what_is_made_and_set() -> None:
    order = ordered(secrets=("ECO_EVAL_HUB_TOKEN",))
    files = space_files(order)
    found = plan(order, There(), files)
    assert [(step.kind, step.target, step.detail, step.cost) for step in found.steps] == [
        ("dataset", "owner/board", "public", "none"),
        ("space", "owner/board", "public, cpu-basic", "subscription"),
        ("variable", "ECO_EVAL_MODE", "page", "none"),
        ("variable", "ECO_EVAL_HUB_REPO", "owner/board", "none"),
        ("variable", "ECO_EVAL_LOG", "json", "none"),
        ("secret", "ECO_EVAL_HUB_TOKEN", "", "none"),
        ("files", "owner/board", str(len(files)), "none"),
    ]
    assert not found.paid


def test_the_plan_of_a_gpu_space_says_what_is_paid() -> None:
    order = ordered(mode="gpu", storage=True, private=True)
    found = plan(order, There(), {})
    assert found.paid
    assert [(step.kind, step.detail, step.cost) for step in found.steps][:4] == [
        ("dataset", "private", "none"),
        ("space", "private, l4x1", "hardware"),
        ("bucket", "private", "storage"),
        ("volume", "/data", "none"),
    ]
    settings = Settings.from_env(order.variables)
    assert (settings.mode, settings.log, settings.hub_repo) == ("gpu", "json", "owner/board")
    assert settings.data_dir == Path("/data/leaderboard_data")
    # No file locks on a mounted bucket: SQLite would break there.
    assert settings.queue.startswith("sqlite:///")
    assert not settings.queue.startswith("sqlite:////data")


def test_a_queue_of_its_own_is_never_said_in_public() -> None:
    order = ordered(mode="gpu", storage=True, secrets=("ECO_EVAL_HUB_TOKEN", "ECO_EVAL_QUEUE_URL"))
    assert "ECO_EVAL_QUEUE_URL" not in order.variables


def test_hardware_that_somebody_chose_stays_unless_other_is_asked_for() -> None:
    there = There(space=False, dataset=False, hardware="a100-large", manifest={}, variables=ordered().variables)
    assert plan(ordered(mode="gpu"), there, {}).steps[0].kind == "variable"
    assert not [step for step in plan(ordered(mode="gpu"), there, {}).steps if step.kind == "hardware"]
    (asked,) = plan(ordered(hardware="t4-small"), there, {}).steps
    assert (asked.kind, asked.detail, asked.cost) == ("hardware", "t4-small", "hardware")
    (free,) = plan(ordered(hardware="cpu-basic"), there, {}).steps
    assert free.cost == "none"
    assert plan(ordered(hardware="a100-large"), there, {}).steps == ()


def test_only_what_an_earlier_deployment_put_there_and_nobody_touched_is_deleted() -> None:
    def content(data: bytes) -> Content:
        return Content(git_oid(data), None)

    ours = {path: content(b"old") for path in ("app.py", "eco_eval/gone.py", "eco_eval/edited.py", "eco_eval/lost.py")}
    there = There(
        space=False,
        dataset=False,
        manifest=ours,
        files={
            "app.py": content(b"theirs"),
            "eco_eval/gone.py": content(b"old"),
            "eco_eval/edited.py": content(b"theirs"),
            "notes.md": content(b"theirs"),
            "eco_eval/same.py": content(b"new"),
        },
    )
    found = plan(ordered(), there, {"app.py": b"new", "eco_eval/same.py": b"new", "eco_eval/more.py": b"new"})
    assert found.upload == ("app.py", "eco_eval/more.py")
    assert found.remove == ("eco_eval/gone.py",)
    assert found.overwritten == ("app.py",)


@pytest.mark.parametrize("name", ["board", "owner/", "/board", "a/b/c", "owner/bo ard", "dueño/tablero", "o/a--b", ""])
def test_a_name_that_no_repository_can_have_is_refused(name: str) -> None:
    for order in (ordered(space=name), ordered(dataset=name)):
        with pytest.raises(InputError) as caught:
            check_order(order)
        assert caught.value.key == "deploy.bad_name"


# --- against the Hub


def test_a_board_is_deployed_in_one_commit_and_again_with_nothing_to_do_but_its_secret(
    hub: LocalHub, client: Client, space: str
) -> None:
    code, said = client(deploy, space, "--yes")
    assert code == 0, said
    assert f"Listo: {hub.url}/spaces/{space}" in said
    assert TOKEN not in said
    made = hub.space(space)
    assert (made.sdk, made.private, made.hardware) == ("gradio", False, "cpu-basic")
    assert made.variables == {"ECO_EVAL_MODE": "page", "ECO_EVAL_HUB_REPO": space, "ECO_EVAL_LOG": "json"}
    assert made.secrets == {"ECO_EVAL_HUB_TOKEN": TOKEN}
    assert hub.commits(space, "space") == ["initial commit", "Deploy eco-eval 0.1.0"]
    order = Order(space=space, dataset=space)
    assert {path: data for path, data in hub.files(space, "space").items() if path != ".gitattributes"} == space_files(
        order
    )
    assert hub.files(space, "dataset")

    before = len(hub.requests)
    code, said = client(deploy, space, "--yes")
    assert code == 0, said
    changing = [line for line in hub.requests[before:] if not line.startswith(("GET", "HEAD"))]
    assert changing == [f"POST /api/spaces/{space}/secrets"]
    assert len(hub.commits(space, "space")) == 2


def test_a_gpu_board_gets_its_hardware_its_disk_and_a_narrower_token(hub: LocalHub, client: Client, space: str) -> None:
    arguments = (
        "--mode",
        "gpu",
        "--hardware",
        "a10g-large",
        "--storage",
        "--private",
        "--dataset",
        "owner/results-gpu",
    )
    secrets = {"NARROW": "hf_narrow", "QUEUE": "postgresql://eco:clave@db/eco"}
    code, said = client(
        deploy, space, *arguments, "--token-from", "NARROW", "--queue-url-from", "QUEUE", "--yes", **secrets
    )
    assert code == 0, said
    assert "DE PAGO" in said
    assert not [secret for secret in (*secrets.values(), "clave", TOKEN) if secret in said]
    made = hub.space(space)
    assert (made.sdk, made.private, made.hardware) == ("docker", True, "a10g-large")
    assert made.secrets == {"ECO_EVAL_HUB_TOKEN": "hf_narrow", "ECO_EVAL_QUEUE_URL": secrets["QUEUE"]}
    assert made.variables["ECO_EVAL_DATA_DIR"] == "/data/leaderboard_data"
    assert made.volumes == [{"type": "bucket", "source": f"{space}-data", "mountPath": "/data"}]
    assert f"POST /api/buckets/{space}-data" in hub.requests


def test_what_others_put_there_stays(hub: LocalHub, client: Client, space: str) -> None:
    assert client(deploy, space, "--yes")[0] == 0
    made = hub.space(space)
    theirs = {"type": "dataset", "source": "owner/more", "mountPath": "/more"}
    made.variables["OTHER"] = "1"
    made.secrets["THEIRS"] = "s"
    made.volumes.append(theirs)
    manifest = json.loads(hub.files(space, "space")[MANIFEST])
    gone = b"# of an earlier version\n"
    manifest["files"]["eco_eval/gone.py"] = [git_oid(gone), "0"]
    changed = {
        "notes.md": b"mine",
        "app.py": b"mine",
        "eco_eval/gone.py": gone,
        MANIFEST: json.dumps(manifest).encode(),
    }
    hub.add(space, "space", changed)

    code, said = client(deploy, space, "--storage", "--yes")
    assert code == 0, said
    assert "eco_eval/gone.py" in said
    assert re.search(r"Alguien cambió .*: app\.py$", said, re.MULTILINE)
    files = hub.files(space, "space")
    assert files["notes.md"] == b"mine"
    assert files["app.py"] == (REPO / "app.py").read_bytes()
    assert "eco_eval/gone.py" not in files
    assert (made.variables["OTHER"], made.secrets["THEIRS"]) == ("1", "s")
    assert [one["mountPath"] for one in made.volumes] == ["/more", "/data"]
    assert hub.commits(space, "space")[-1] == "Deploy eco-eval 0.1.0"


def test_a_queue_that_becomes_a_secret_is_no_variable_any_more(hub: LocalHub, client: Client, space: str) -> None:
    assert client(deploy, space, "--storage", "--yes")[0] == 0
    assert hub.space(space).variables["ECO_EVAL_QUEUE_URL"] == "sqlite:////tmp/eco-eval-queue.sqlite"
    queue = {"QUEUE": "postgresql://eco@db/eco"}
    code, said = client(deploy, space, "--storage", "--queue-url-from", "QUEUE", "--yes", **queue)
    assert code == 0, said
    assert "ECO_EVAL_QUEUE_URL" not in hub.space(space).variables
    assert hub.space(space).secrets["ECO_EVAL_QUEUE_URL"] == queue["QUEUE"]
    # Without it the secret stays: a variable of that name would collide.
    code, said = client(deploy, space, "--storage", "--yes")
    assert code == 0, said
    assert "ECO_EVAL_QUEUE_URL" not in hub.space(space).variables


def test_a_dry_run_touches_nothing(hub: LocalHub, client: Client, space: str) -> None:
    before = len(hub.requests)
    code, said = client(deploy, space, "--mode", "gpu", "--storage", "--dry-run")
    assert code == 0
    assert "crear el Space" in said
    assert "l4x1" in said
    assert {line.split()[0] for line in hub.requests[before:]} <= {"GET", "HEAD"}


def test_without_anybody_to_ask_nothing_is_done(hub: LocalHub, client: Client, space: str) -> None:
    before = len(hub.requests)
    code, said = client(deploy, space)
    assert code == 2
    assert "--yes" in said
    assert {line.split()[0] for line in hub.requests[before:]} <= {"GET", "HEAD"}


def test_another_dataset_in_english(client: Client, space: str) -> None:
    code, said = client(deploy, space, "--dry-run", ECO_EVAL_LANG="en", ECO_EVAL_HUB_REPO="owner/set-in-settings")
    assert code == 0
    assert "create the dataset owner/set-in-settings" in said


def refused(answer: tuple[int, str], code: int, *words: str) -> None:
    """It ended with this code and one clear line as its last."""
    found, said = answer
    assert found == code, said
    last = said.strip().splitlines()[-1]
    assert all(word in last for word in words), last
    assert "Traceback" not in said


def test_without_a_token_of_ours_nothing_is_asked(hub: LocalHub, client: Client, space: str) -> None:
    before = len(hub.requests)
    refused(client(deploy, space, ECO_EVAL_HUB_TOKEN=""), 2, "ECO_EVAL_HUB_TOKEN")
    assert len(hub.requests) == before


def test_a_token_that_is_not_valid_or_only_reads_is_said_at_once(hub: LocalHub, client: Client, space: str) -> None:
    refused(client(deploy, space, ECO_EVAL_HUB_TOKEN="hf_wrong"), 2, "no reconoce el token")
    hub.role = "read"
    refused(client(deploy, space), 2, "solo puede leer")


def test_a_name_that_is_something_else_is_not_touched(hub: LocalHub, client: Client, space: str) -> None:
    hub.add(space, "space", {"app.py": b"theirs"})
    refused(client(deploy, space, "--yes"), 2, space, "es otra cosa")
    assert hub.files(space, "space") == {"app.py": b"theirs"}


def test_a_model_of_the_same_name_is_in_nobodys_way(hub: LocalHub, client: Client, space: str) -> None:
    hub.add(space, "model", {"config.json": b"{}"})
    assert client(deploy, space, "--yes")[0] == 0


@pytest.mark.parametrize("kind", ["space", "dataset"])
def test_what_is_public_is_not_taken_for_private(hub: LocalHub, client: Client, space: str, kind: str) -> None:
    hub.add(space, kind, {"README.md": b""})
    refused(client(deploy, space, "--private", "--yes"), 2, space, "es público")


def test_no_rights_over_an_owner_is_one_line(hub: LocalHub, client: Client, space: str) -> None:
    hub.owners = {"somebody"}
    refused(client(deploy, space, "--yes"), 1, space, "no tiene permiso")


def test_hardware_that_must_be_paid_first_is_said_and_the_rest_goes_on_later(
    hub: LocalHub, client: Client, space: str
) -> None:
    hub.unpaid = {"a100-large"}
    arguments = (space, "--mode", "gpu", "--hardware", "a100-large", "--yes")
    refused(client(deploy, *arguments), 2, "a100-large", "Payment required", "billing")
    assert "Hecho: crear el conjunto de datos" in client(deploy, "owner/other-" + space[6:], *arguments[1:])[1]
    hub.unpaid = set()
    code, said = client(deploy, *arguments)
    assert code == 0, said
    assert "crear el conjunto de datos" not in said
    hub.unpaid = {"h200x8"}
    refused(client(deploy, space, "--mode", "gpu", "--hardware", "h200x8", "--yes"), 2, "h200x8")


def test_a_hub_that_is_away_is_one_line(hub: LocalHub, client: Client, space: str) -> None:
    hub.down = True
    refused(client(deploy, space, "--yes"), 1, "No se llega al Hub")


def test_somebody_who_commits_meanwhile_is_not_overwritten(hub: LocalHub, client: Client, space: str) -> None:
    assert client(deploy, space, "--yes")[0] == 0
    hub.add(space, "space", {"app.py": b"mine"})
    hub.moving = True
    try:
        refused(client(deploy, space, "--yes"), 1, "mientras se desplegaba")
    finally:
        hub.moving = False
    assert hub.files(space, "space")["app.py"] == b"mine"


@pytest.mark.parametrize(
    ("option", "environ", "word"),
    [
        ("--token-from", {}, "SECRET"),
        ("--queue-url-from", {}, "SECRET"),
        ("--queue-url-from", {"SECRET": "sqlite:///here.sqlite"}, "SECRET"),
    ],
)
def test_a_secret_that_cannot_be_used_is_named_and_not_shown(
    client: Client, space: str, option: str, environ: dict[str, str], word: str
) -> None:
    answer = client(deploy, space, option, "SECRET", "--yes", **environ)
    refused(answer, 2, word)
    assert "here.sqlite" not in answer[1]


# --- a deployed Space runs


def on_space(hub: LocalHub, space: str) -> dict[str, str]:
    """What a Space's app finds in its environment, where the Hub is the stand-in."""
    there = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    return hub.space(space).variables | hub.space(space).secrets | there


@pytest.mark.slow_start
def test_a_deployed_page_starts_from_its_files_alone(hub: LocalHub, client: Client, space: str, tmp_path: Path) -> None:
    assert client(deploy, space, "--yes")[0] == 0
    folder = tmp_path / "space"
    client(download, space, folder)
    texts = folder / "eco_eval" / "ui" / "texts" / "es.toml"
    # Only these files have it, so only they can show it.
    title = re.search(r'(?m)^\[page\]\n(?:.*\n)*?title = "(.*)"$', texts.read_text("utf-8"))
    assert title is not None
    texts.write_text(texts.read_text("utf-8").replace(title[1], "Desde el Space"), "utf-8")
    with app(folder, tmp_path / "home", **on_space(hub, space)) as (process, url):
        assert wait_for(lambda: page(url) is not None or process.poll() is not None, 90)
        log = (tmp_path / "home" / "log").read_text()
        said = page(url)
        assert said is not None, log
        assert "Desde el Space" in said
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.slow_start
def test_a_deployed_gpu_space_has_a_worker_that_ends_with_its_page(
    hub: LocalHub, client: Client, space: str, tmp_path: Path
) -> None:
    from eco_eval.queue import Queue

    assert client(deploy, space, "--mode", "gpu", "--yes")[0] == 0
    folder = tmp_path / "space"
    client(download, space, folder)
    home = tmp_path / "home"
    with app(folder, home, **on_space(hub, space)) as (process, url):
        log = home / "log"
        queue = Settings(data_dir=home / "data").queue
        assert wait_for(lambda: page(url) is not None and (home / "data" / ".queue.sqlite").exists(), 90)
        opened = Queue(queue)
        try:
            assert wait_for(lambda: bool(opened.workers(60.0)), 90), log.read_text()
            (seen,) = opened.workers(60.0)
        finally:
            opened.close()
        worker = int(seen.name.split("-")[-2])
        assert Path(f"/proc/{worker}/environ").read_bytes().find(f"PYTHONPATH={folder}".encode()) >= 0
        process.kill()
        process.wait()
        assert wait_for(lambda: not alive(worker), 60)


def test_the_wheel_carries_what_a_deployment_needs(tmp_path: Path) -> None:
    names = [line for line in _wheel(tmp_path) if line.startswith("eco_eval/data/space/")]
    assert {Path(name).name for name in names} >= {
        "Dockerfile",
        "README.en.md",
        "README.es.md",
        "app.py",
        "requirements-gpu.txt",
        "requirements.txt",
    }


def _wheel(folder: Path) -> list[str]:
    """Names in the wheel that setuptools builds of a copy of this checkout."""
    import shutil
    import zipfile

    source = folder / "source"
    for name in ("eco_eval", "training", "docs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPO / name, source / name, symlinks=True, ignore=ignore)
    for name in ("app.py", "pyproject.toml", "README.md", "LICENSE", "requirements.txt", "requirements-gpu.txt"):
        shutil.copy(REPO / name, source / name)
    build = "import setuptools.build_meta as m, sys; print(m.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=source, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        for name in ("app.py", "requirements.txt"):
            assert wheel.read(f"eco_eval/data/space/{name}") == (REPO / name).read_bytes()
        return wheel.namelist()


# --- one's own machine: what the files beside docs/deploying.md name is there

DEPLOY = REPO / "docs" / "deploy"
WRITTEN = [*sorted(path for path in DEPLOY.iterdir() if path.is_file()), REPO / "docs" / "deploying.md"]


def commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Every command of the command line, as people type it."""
    yield path
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, *path, name)


def test_every_variable_named_is_a_setting() -> None:
    known = {f"ECO_EVAL_{name.upper()}" for name in Settings.model_fields}
    named = {(path.name, name) for path in WRITTEN for name in re.findall(r"ECO_EVAL_[A-Z_]*[A-Z]", path.read_text())}
    assert len({name for _, name in named}) > 10
    assert not {(file, name) for file, name in named if name not in known}


def test_the_example_of_settings_is_one_that_can_be_read() -> None:
    lines = [line.removeprefix("#") for line in (DEPLOY / "eco-eval.env.example").read_text().splitlines()]
    given = dict(line.split("=", 1) for line in lines if line.startswith("ECO_EVAL_"))
    assert Settings.from_env(given).queue_url == "postgresql://eco:PASSWORD@127.0.0.1:5432/eco"


def test_every_command_named_exists() -> None:
    from eco_eval.cli import build_app
    from eco_eval.ui.texts import Texts

    known = set(commands(typer.main.get_command(build_app(Settings(), Texts("es")))))
    named: set[tuple[str, ...]] = set()
    for path in WRITTEN:
        text = path.read_text()
        named |= {
            tuple(found.split()) for found in re.findall(r"(?:bin/|^|`)eco-eval((?: [a-z]+)+)", text, re.MULTILINE)
        }
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert services["worker"]["command"][:3] == ["python", "-m", "eco_eval.cli"]
    named.add(tuple(services["worker"]["command"][3:]))
    assert {("worker",), ("deploy",)} <= named
    for words in named:
        # What follows a command are its arguments.
        assert any(words[:length] in known for length in range(len(words), 0, -1)), words


def test_a_worker_is_given_longer_to_end_than_it_gives_what_it_has_in_hand() -> None:
    from eco_eval.queue_cli import DRAIN

    unit = (DEPLOY / "eco-eval-worker.service").read_text()
    stopping = re.search(r"(?m)^TimeoutStopSec=(\d+)$", unit)
    assert stopping is not None
    assert int(stopping[1]) > DRAIN
    worker = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["worker"]
    assert int(worker["stop_grace_period"].removesuffix("s")) > DRAIN


def test_what_compose_builds_and_mounts_is_there() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for service in (compose["services"][name] for name in ("page", "worker")):
        context = (DEPLOY / service["build"]["context"]).resolve()
        assert context == REPO
        docker = (context / service["build"]["dockerfile"]).read_text()
        copied = re.findall(r"(?m)^COPY (?:--chown=\S+ )?(\S+) ", docker)
        assert copied == ["${REQUIREMENTS}", "app.py", "eco_eval"]
        assert all((context / path).exists() for path in copied[1:])
        for file in (service["build"].get("args", {}).get("REQUIREMENTS", "requirements.txt"),):
            assert (context / file).exists()
        assert {volume.split(":")[0] for volume in service["volumes"]} <= set(compose["volumes"])
        for folder in (volume.split(":")[1] for volume in service["volumes"]):
            assert folder in docker  # made there for its user: a new volume takes its owner from the image
    private = Settings.from_env(compose["services"]["worker"]["environment"]).private_dir
    page_sees = [volume.split(":")[1] for volume in compose["services"]["page"]["volumes"]]
    assert not any(private.is_relative_to(folder) for folder in page_sees)


def test_a_units_paths_are_those_the_guide_installs_at() -> None:
    for name in ("worker", "page"):
        unit = (DEPLOY / f"eco-eval-{name}.service").read_text()
        started = re.search(r"(?m)^ExecStart=/opt/eco-eval/\.venv/bin/(\S+) (\S+)$", unit)
        assert started is not None
        assert started.groups() in {("eco-eval", "worker"), ("python", "/opt/eco-eval/app.py")}
        for line in (
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "PrivateTmp=yes",
            "ProtectHome=yes",
            "KillMode=mixed",
        ):
            assert f"\n{line}\n" in unit
    guide = (REPO / "docs" / "deploying.md").read_text()
    assert "/opt/eco-eval" in guide
    assert "/etc/eco-eval/eco-eval.env" in guide
