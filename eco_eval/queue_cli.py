"""`eco-eval submit`, `queue` and `worker`: thin. They ask, show and run what waits in the durable queue.

Annotations are evaluated here, not postponed: Typer reads them inside the functions, where the help texts are known.
"""

import getpass
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eco_eval.commands import engine_name, print_json, system_prompt_of, with_dtype
from eco_eval.errors import InputError
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    from eco_eval.queue import Entry, Failed, Queue, WorkerAbout
    from eco_eval.types import Weights

ENGINES = ("transformers", "vllm")
"""Engines a worker can run a request in: what an endpoint serves nobody can pin."""

DRAIN = 60.0
"""Seconds a worker that is asked to end gives the run in hand, before others take it over."""


def add_service(app: typer.Typer, settings: Settings, t: Texts) -> None:
    """Add `submit`, `worker` and the group `queue`."""
    json_option = typer.Option("--json", help=t("cli.opt.json"))

    @app.command(help=t("queue.submit"))
    def submit(
        model: Annotated[str, typer.Argument(help=t("queue.model"))],
        instrument: Annotated[str, typer.Option(help=t("cli.opt.instrument"))] = "eco-es-demo",
        engine: Annotated[str, typer.Option(help=t("queue.engine"))] = "transformers",
        dtype: Annotated[str | None, typer.Option(help=t("cli.opt.dtype"))] = None,
        system_prompt: Annotated[Path | None, typer.Option(help=t("cli.opt.system_prompt"))] = None,
        priority: Annotated[int, typer.Option(min=1, max=100, help=t("queue.priority"))] = 50,
        as_json: Annotated[bool, json_option] = False,
    ) -> None:
        from eco_eval.candidates import Limits, inspect
        from eco_eval.instrument import instrument_names, load_instrument
        from eco_eval.queue import Quotas, Request
        from eco_eval.submitting import resolve_judges
        from eco_eval.submitting import submit as submission_of

        if engine not in ENGINES:
            raise InputError("engine.unknown", name=engine, known=", ".join(ENGINES))
        if instrument not in instrument_names():
            raise InputError("queue.own_instrument", instrument=instrument, known=", ".join(instrument_names()))
        named = load_instrument(instrument, built=settings.prompts_dir)
        if named.is_served:
            raise InputError("queue.served_judge", instrument=instrument)
        guide = system_prompt_of(system_prompt)
        # Models that only this machine's token can see are not for a queue, whose answers are published.
        intake = inspect(model, Limits(strangers=not Path(model).expanduser().exists()))
        candidate = with_dtype(intake.ref, dtype)
        measure, _ = resolve_judges(named, settings, download=False)
        request = Request(
            submission=submission_of(candidate, measure, guide),
            user=_user(),
            engine=engine_name(engine),
            priority=priority,
            folder=candidate.path if candidate.source == "local" else None,
            weights=intake.weights,
        )
        with _queue(settings) as queue:
            _show(queue.submit(request, Quotas.of(settings)), t, as_json)

    @app.command(help=t("queue.worker"))
    def worker() -> None:
        from eco_eval.ledger import mirrored
        from eco_eval.logs import set_up_logs
        from eco_eval.running import Runner
        from eco_eval.worker import Worker

        set_up_logs(settings.log)
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        with _queue(settings) as queue, mirrored(queue, settings):
            running = Worker(queue, Runner(settings), at_once=settings.in_hand, about=_about(settings))
            running.start()
            print(t("queue.working", worker=running.name, url=queue.place), file=sys.stderr)
            ended.wait()
            print(t("queue.draining", seconds=int(DRAIN)), file=sys.stderr)
            running.stop(patience=DRAIN)

    group = typer.Typer(help=t("queue.help"), no_args_is_help=True)
    app.add_typer(group, name="queue")

    @group.command(name="list", help=t("queue.list"))
    def list_(
        limit: Annotated[int, typer.Option(min=1, help=t("queue.limit"))] = 50,
        as_json: Annotated[bool, json_option] = False,
    ) -> None:
        with _queue(settings) as queue:
            entries = queue.entries(limit=limit)
        if as_json:
            print_json([entry.model_dump(mode="json") for entry in entries])
            return
        for entry in entries:
            print(_line(entry, t))
        if not entries:
            print(t("queue.none"))

    @group.command(help=t("queue.show"))
    def show(
        request: Annotated[str, typer.Argument(help=t("queue.request"))], as_json: Annotated[bool, json_option] = False
    ) -> None:
        with _queue(settings) as queue:
            entry, events = queue.get(request), queue.events(request)
        if as_json:
            print_json({"entry": entry.model_dump(mode="json"), "events": [e.model_dump() for e in events]})
            return
        from eco_eval.ui.terminal import plain

        _show(entry, t, as_json=False)
        if entry.request.weights is not None:
            print(f"  {plain(_weights(entry.request.weights, t))}")
        for event in events:
            print(f"  {t.time(event.at)}  {t(f'queue.event.{event.what}')}  {plain(event.detail)}")

    def acting(name: str) -> None:
        @group.command(name=name, help=t(f"queue.{name}"))
        def act(
            request: Annotated[str, typer.Argument(help=t("queue.request"))],
            as_json: Annotated[bool, json_option] = False,
        ) -> None:
            with _queue(settings) as queue:
                runs = queue.get(request).state.state == "running"
                entry = getattr(queue, name)(request, _user(), operator=True)
            if name == "withdraw":
                _take_off_board(entry.request.id, settings, runs)
            _show(entry, t, as_json)

    for name in ("cancel", "withdraw", "retry"):
        acting(name)


@contextmanager
def _queue(settings: Settings) -> "Iterator[Queue]":
    from eco_eval.queue import Queue

    opened = Queue(settings.queue)
    try:
        yield opened
    finally:
        opened.close()


def _about(settings: Settings) -> "WorkerAbout":
    """What this machine takes: the most that any of its engines does."""
    from importlib.util import find_spec

    from eco_eval import __version__
    from eco_eval.machine import room
    from eco_eval.queue import WorkerAbout

    engines = tuple(engine for engine in ENGINES if find_spec(engine))
    rooms = [room(engine, settings) for engine in engines]
    device, most = max(rooms, key=lambda found: found.max_bytes)
    return WorkerAbout(device=device, max_bytes=most, engines=engines, version=__version__)


def _take_off_board(request_id: str, settings: Settings, runs: bool) -> None:
    from eco_eval.results import result_path, withdraw_result
    from eco_eval.store import LocalStore, board_store

    for store in (LocalStore(settings.data_dir), board_store(settings)):
        # One that runs may be publishing its result at this moment.
        if runs or store.list(result_path(request_id)):
            withdraw_result(store, request_id, _user())


def _user() -> str:
    """Who the operating system says it is: here nobody else can say."""
    name = "".join(character for character in getpass.getuser() if character.isprintable())
    return f"local:{name[:100]}"


def _show(entry: "Entry", t: Texts, as_json: bool) -> None:
    if as_json:
        print_json(entry.model_dump(mode="json"))
    else:
        print(_line(entry, t))


def _line(entry: "Entry", t: Texts) -> str:
    """One request on one line, a failure with its reason."""
    from eco_eval.queue import Failed, Finished, Running
    from eco_eval.ui.terminal import plain

    state = entry.state
    known = state.model_dump(exclude={"state", "values", "key", "published"})
    if isinstance(state, Failed | Running):
        known["stage"] = _stage(state.stage, t)
    if isinstance(state, Failed):
        known["reason"] = _reason(state, t)
    submission = entry.request.submission
    name = f"{submission.model.name} +system" if submission.system_prompt else submission.model.name
    told = t(f"queue.state.{state.state}", **known)
    if isinstance(state, Finished) and state.published is not None:
        told = f"{told}, {t('queue.published' if state.published else 'queue.unpublished')}"
    return plain(f"{entry.request.id}  {name}  {submission.instrument}  {told}")


def _stage(stage: str, t: Texts) -> str:
    """A stage's name; a worker of another version may have stages of its own."""
    try:
        return t(f"queue.stage.{stage}")
    except KeyError:
        return stage


def _reason(state: "Failed", t: Texts) -> str:
    """Why a request failed, in the reader's language where this version knows the words."""
    from eco_eval.errors import StageError

    error = StageError(state.key)
    error.values.update(state.values)
    try:
        return t.error(error)
    except (KeyError, ValueError):
        return str(error)


def _weights(weights: "Weights", t: Texts) -> str:
    return t(
        "queue.weights",
        architecture=weights.architecture,
        parameters=t.number(weights.parameters / 1e6),
        size=t.number(weights.bytes / 1e9, 2),
        dtype=f"{weights.dtype} {weights.quantisation}".strip(),
        licence=weights.licence or t("queue.no_licence"),
    )
