"""What the command lines share: how a run ends, which engine and model are meant, progress, where things are kept."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from eco_eval.errors import EcoEvalError, InputError
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    from eco_eval.types import ModelRef, Progress

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

EXTRA = {
    **dict.fromkeys(("ftfy", "plotly", "py3langid", "sklearn", "sentence_transformers"), "data"),
    **dict.fromkeys(("dbos", "peft", "prometheus_client", "psycopg", "pythonjsonlogger", "sqlalchemy"), "service"),
}
"""Libraries that not every command needs, and the extra each comes with."""


def run_app(build: Callable[[Settings, Texts], typer.Typer], arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    texts = Texts("es")
    try:
        settings = Settings.from_env()
        texts = Texts(settings.lang)
        code = int(build(settings, texts)(arguments, standalone_mode=False) or 0)
        if code == INTERRUPTED:  # Typer turns Ctrl-C into this code without a word
            print(texts("cli.interrupted"), file=sys.stderr)
        return code
    except EcoEvalError as error:
        print(texts.error(error), file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        print(
            texts.error(InputError("data.extra_missing", library=error.name, extra=EXTRA[error.name])), file=sys.stderr
        )
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print(texts("cli.interrupted"), file=sys.stderr)
        return INTERRUPTED
    except typer.TyperException as error:
        show = getattr(error, "show", None)
        show() if show else print(error, file=sys.stderr)
        return int(getattr(error, "exit_code", 2))


def candidate_of(model: str, engine: str, url: str | None, dtype: str | None) -> "ModelRef":
    """The exact model a person named, for one of the engines.

    Raises:
        InputError: it cannot be found or used.
    """
    from eco_eval.candidates import resolve
    from eco_eval.types import ModelRef, digest

    kind = engine_name(engine)
    if kind == "endpoint":
        if not url:
            raise InputError("endpoint.no_url", option="--url")
        return ModelRef(name=model, source="endpoint", revision=digest(["endpoint", url.rstrip("/"), model])[:40])
    return with_dtype(resolve(model), dtype)


def with_dtype(ref: "ModelRef", dtype: str | None) -> "ModelRef":
    """A model run in other numbers than its own, if any are named.

    Raises:
        InputError: there are none of that name.
    """
    if dtype is None:
        return ref
    if dtype not in ("float32", "bfloat16", "float16"):
        raise InputError("cli.bad_dtype", value=dtype)
    return ref.model_copy(update={"dtype": dtype})


def system_prompt_of(file: Path | None) -> str | None:
    """The system prompt in a file; None where there is no file.

    Raises:
        InputError: it cannot be read, or is empty.
    """
    if file is None:
        return None
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cli.bad_system_prompt", file=file) from error
    if not text:
        raise InputError("cli.bad_system_prompt", file=file)
    return text


def engine_name(name: str) -> Any:
    """An engine's name, checked.

    Raises:
        InputError: there is none of that name.
    """
    from typing import get_args

    from eco_eval.engines import EngineName

    if name not in get_args(EngineName):
        raise InputError("engine.unknown", name=name, known=", ".join(get_args(EngineName)))
    return name


@contextmanager
def bars() -> Iterator[Any]:
    """Rich progress bars on standard error, each with a note (`note=`) and the time left; silent where nobody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        yield shown


@contextmanager
def stage_bars(t: Texts, model: str) -> "Iterator[Progress]":
    """A bar a stage, with its rate."""
    with bars() as shown:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                label = f"{t(f'cli.stage.{stage}')} · {model}"
                tasks[stage] = shown.add_task(label, total=total, completed=done, note="")
                return
            shown.update(tasks[stage], completed=done, total=total)
            speed = shown._tasks[tasks[stage]].speed
            shown.update(tasks[stage], note=t("cli.rate", rate=t.number(speed)) if speed else "")

        yield report


def local_store(settings: Settings) -> Any:
    """The store of answers, verdicts and results."""
    from eco_eval.store import LocalStore

    return LocalStore(settings.data_dir)


def private_store(settings: Settings) -> Any:
    """Where answers to hidden prompts are kept."""
    from eco_eval.store import LocalStore

    return LocalStore(settings.private_dir)


def local_cache(settings: Settings) -> Any:
    """Where what can be made again is kept."""
    from eco_eval.store import LocalStore

    return LocalStore(settings.cache_dir)


def print_json(value: object) -> None:
    """A value as JSON for people and pipes."""
    import json

    print(json.dumps(value, ensure_ascii=False, indent=1))
