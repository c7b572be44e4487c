"""`eco-eval submit`, `queue` and `worker`: thin. They ask, show and run what waits in the durable queue.

Annotations are evaluated here, not postponed: Typer reads them inside the functions, where the help texts are known.
"""

import getpass
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from eco_eval.commands import candidate_of, engine_name, print_json
from eco_eval.errors import InputError
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    from eco_eval.queue import Entry, Queue

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
        priority: Annotated[int, typer.Option(min=1, max=100, help=t("queue.priority"))] = 50,
        as_json: Annotated[bool, json_option] = False,
    ) -> None:
        from eco_eval.instrument import instrument_names, load_instrument
        from eco_eval.pipeline import resolve_judges
        from eco_eval.pipeline import submit as submission_of
        from eco_eval.queue import Request

        if engine not in ENGINES:
            raise InputError("engine.unknown", name=engine, known=", ".join(ENGINES))
        if instrument not in instrument_names():
            raise InputError("queue.own_instrument", instrument=instrument, known=", ".join(instrument_names()))
        if load_instrument(instrument, built=settings.prompts_dir).is_served:
            raise InputError("queue.served_judge", instrument=instrument)
        candidate = candidate_of(model, engine, None, None)
        measure, _ = resolve_judges(load_instrument(instrument, built=settings.prompts_dir), settings)
        request = Request(
            submission=submission_of(candidate, measure),
            user=_user(),
            engine=engine_name(engine),
            priority=priority,
            folder=candidate.path if candidate.source == "local" else None,
        )
        with _queue(settings) as queue:
            _show(queue.submit(request), t, as_json)

    @app.command(help=t("queue.worker"))
    def worker() -> None:
        from eco_eval.worker import Worker, runner

        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        with _queue(settings) as queue:
            running = Worker(queue, runner(settings))
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
        _show(entry, t, as_json=False)
        for event in events:
            print(f"  {t.time(event.at)}  {t(f'queue.event.{event.what}')}  {event.detail}")

    def acting(name: str) -> None:
        @group.command(name=name, help=t(f"queue.{name}"))
        def act(
            request: Annotated[str, typer.Argument(help=t("queue.request"))],
            as_json: Annotated[bool, json_option] = False,
        ) -> None:
            with _queue(settings) as queue:
                _show(getattr(queue, name)(request, _user()), t, as_json)

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


def _user() -> str:
    """Who the operating system says it is: here nobody else can say."""
    return f"local:{getpass.getuser()}"


def _show(entry: "Entry", t: Texts, as_json: bool) -> None:
    if as_json:
        print_json(entry.model_dump(mode="json"))
    else:
        print(_line(entry, t))


def _line(entry: "Entry", t: Texts) -> str:
    """One request on one line, a failure with its reason."""
    from eco_eval.errors import StageError
    from eco_eval.queue import Failed, Running

    state = entry.state
    known = state.model_dump(exclude={"state", "values", "key"})
    if isinstance(state, Failed | Running):
        known["stage"] = t(f"queue.stage.{state.stage}")
    if isinstance(state, Failed):
        error = StageError(state.key)
        error.values.update(state.values)
        known["reason"] = t.error(error)
    submission = entry.request.submission
    told = t(f"queue.state.{state.state}", **known)
    return f"{entry.request.id}  {submission.model.name}  {submission.instrument}  {told}"
