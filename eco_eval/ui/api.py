"""What programs read over HTTP: health, metrics, requests and results. Nothing is changed here.

Asking for a model goes through the page's own endpoint `submit`, whose session says who asks. Annotations are evaluated
here, not postponed: FastAPI reads them inside the function that makes the routes.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import BaseModel, StringConstraints

from eco_eval import __version__
from eco_eval.errors import EcoEvalError, InputError
from eco_eval.reception import SILENT, Reception
from eco_eval.results import read_result
from eco_eval.store import Store
from eco_eval.store.index import load_results_indexed
from eco_eval.types import Estimate, Record, Result
from eco_eval.ui.requests import STATES, Shown, State, shown
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    from fastapi import Response
    from prometheus_client import Metric
    from starlette.routing import BaseRoute

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Limit = Annotated[int, Ge(1), Le(200)]
Offset = Annotated[int, Ge(0), Le(1_000_000)]

Here = Literal["ok", "away", "not_installed"]


class Health(Record):
    """How the service is. `degraded` where its database or its store cannot be reached.

    workers: how many live, pending: how many requests wait, oldest_pending_seconds: for how long the first of them has;
    None where the database cannot tell.
    """

    status: Literal["ok", "degraded"]
    database: Here
    store: Here
    workers: int | None
    pending: int | None
    oldest_pending_seconds: float | None
    version: str


class Requests(Record):
    """Some requests, open ones first, and how many there are in each state."""

    requests: list[Shown]
    counts: dict[str, int]


class Scored(Record):
    """A result in short. eco: the score, 0 to 100, with its 95 % interval."""

    id: str
    model: str
    revision: str
    instrument: str
    has_system_prompt: bool
    is_anchor: bool
    publishable: bool
    eco: Estimate
    finished_at: str


class Results(Record):
    """Some results, the latest first. total: how many there are. unreadable: files that are no result."""

    results: list[Scored]
    total: int
    unreadable: list[str]


class Problem(Record):
    """Why there is no answer: a word for programs, and the same in the language of the page."""

    error: str
    message: str


def health(reception: Reception, store: Store) -> Health:
    """How the service is, asked anew."""
    known: dict[str, Any] = {"database": "ok", "workers": None, "pending": None, "oldest_pending_seconds": None}
    try:
        queue = reception.queue()
        known["pending"] = queue.counts().get("pending", 0)
        known["oldest_pending_seconds"] = queue.oldest_wait()
        known["workers"] = len(queue.workers(SILENT))
    except InputError:
        known["database"] = "not_installed"
    except EcoEvalError:
        known["database"] = "away"
    try:
        store.list("results/")
        known["store"] = "ok"
    except EcoEvalError:
        known["store"] = "away"
    degraded = "away" in (known["database"], known["store"])
    return Health(status="degraded" if degraded else "ok", version=__version__, **known)


class Metrics:
    """What Prometheus collects, read from the queue's tables. No name of a model or a person is in it."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    def collect(self) -> "Iterator[Metric]":
        """The metrics as they are now; without a database only that there is none."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

        up = GaugeMetricFamily("eco_eval_database_up", "Whether the queue's database answers.")
        try:
            queue = self._reception.queue()
            counts, oldest, alive = queue.counts(), queue.oldest_wait(), queue.workers(SILENT)
            stages, failures = queue.stage_seconds(), queue.failures()
        except EcoEvalError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        requests = GaugeMetricFamily("eco_eval_requests", "Requests by state.", labels=["state"])
        for state in STATES:
            requests.add_metric([state], counts.get(state, 0))
        yield requests
        waited = GaugeMetricFamily("eco_eval_oldest_pending_seconds", "How long the oldest request has waited.")
        waited.add_metric([], oldest or 0)
        yield waited
        workers = GaugeMetricFamily("eco_eval_workers", "Workers that live.")
        workers.add_metric([], len(alive))
        yield workers
        took = SummaryMetricFamily("eco_eval_stage_seconds", "Seconds that stages took.", labels=["stage"])
        for stage, (count, seconds) in sorted(stages.items()):
            took.add_metric([stage], count_value=count, sum_value=seconds)
        yield took
        failed = CounterMetricFamily("eco_eval_failures", "Requests that failed, by cause.", labels=["cause"])
        for cause, count in sorted(failures.items()):
            failed.add_metric([cause], count)
        yield failed

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(self)
        text: bytes = generate_latest(registry)
        return text


def routes(reception: Reception, store: Store, t: Texts) -> "list[BaseRoute]":
    """The routes, to stand before the page's own. `/v1/openapi.json` describes them."""
    from fastapi import APIRouter, Response
    from fastapi.openapi.utils import get_openapi
    from fastapi.responses import JSONResponse

    router = APIRouter()
    away: dict[int | str, dict[str, Any]] = {503: {"model": Problem, "description": "Database or store is away."}}
    unknown: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "There is none of that id."}}
    plain: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @router.get("/health", response_model=Health, responses={503: {"model": Health, "description": "Degraded."}})
    def read_health() -> Response:
        """How the service is: 503 where its database or its store cannot be reached."""
        found = health(reception, store)
        return _json(found, 200 if found.status == "ok" else 503)

    @router.get("/metrics", response_class=Response, responses=plain | away)
    def read_metrics() -> Response:
        """Figures for Prometheus."""
        try:
            return Response(Metrics(reception).text(), media_type="text/plain; version=0.0.4; charset=utf-8")
        except ModuleNotFoundError as error:
            return _problem(InputError("data.extra_missing", library=error.name, extra="service"), t)

    @router.get("/v1/requests", response_model=Requests, responses=away)
    def read_requests(state: State | None = None, limit: Limit = 50, offset: Offset = 0) -> Response:
        """Requests: those that run, those that wait in the order in which they are taken, then the latest."""

        def read() -> Requests:
            queue = reception.queue()
            entries = queue.entries(states=(state,) if state else (), limit=limit, offset=offset)
            return Requests(requests=[shown(entry, t) for entry in entries], counts=queue.counts())

        return _answer(read, t)

    @router.get("/v1/requests/{request_id}", response_model=Shown, responses=away | unknown)
    def read_request(request_id: Id) -> Response:
        """One request as it stands."""
        return _answer(lambda: shown(reception.queue().get(request_id), t), t)

    @router.get("/v1/results", response_model=Results, responses=away)
    def read_results(limit: Limit = 50, offset: Offset = 0) -> Response:
        """Results in short, the latest first."""
        return _answer(lambda: _results(store, limit, offset), t)

    @router.get("/v1/results/{result_id}", response_model=Result, responses=away | unknown)
    def read_one_result(result_id: Id) -> Response:
        """One result with everything that made it."""
        return _answer(lambda: _result(store, result_id), t)

    described = get_openapi(title="eco-eval", version=__version__, routes=router.routes)

    @router.get("/v1/openapi.json", include_in_schema=False)
    def read_openapi() -> Response:
        return JSONResponse(described)

    return list(router.routes)


def _results(store: Store, limit: int, offset: int) -> Results:
    results, broken = load_results_indexed(store)
    latest = sorted(results, key=lambda r: (r.provenance.finished_at, r.id), reverse=True)
    return Results(results=[_scored(r) for r in latest[offset : offset + limit]], total=len(results), unreadable=broken)


def _scored(result: Result) -> Scored:
    submission = result.submission
    return Scored(
        id=result.id,
        model=submission.model.name,
        revision=submission.model.revision,
        instrument=submission.instrument,
        has_system_prompt=bool(submission.system_prompt),
        is_anchor=result.is_anchor,
        publishable=result.publishable,
        eco=result.score.eco,
        finished_at=result.provenance.finished_at,
    )


def _result(store: Store, result_id: str) -> Result:
    found = read_result(store, result_id)
    if found is None:
        raise InputError("result.unknown", target=result_id, where="results/")
    return found


def _answer(read: Callable[[], BaseModel], t: Texts) -> "Response":
    try:
        return _json(read(), 200)
    except EcoEvalError as error:
        return _problem(error, t)


def _problem(error: EcoEvalError, t: Texts) -> "Response":
    found = error.key in ("queue.unknown", "result.unknown")
    return _json(Problem(error=error.key, message=t.error(error)), 404 if found else 503)


def _json(record: BaseModel, status: int) -> "Response":
    from fastapi import Response

    # Not FastAPI's own: a number that is none (NaN) would be an error there, and is null here.
    return Response(record.model_dump_json(), status, media_type="application/json")
