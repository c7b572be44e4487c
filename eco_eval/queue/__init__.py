"""The durable queue: what was asked for, by whom, and what became of it.

Two things stand in one database, SQLite or PostgreSQL, and change in the same transaction: our table of requests,
which people read, and DBOS's workflows, which workers run. A request is a submission, so its id is the submission's:
asking twice is asking once. Every change of state is also a line in a log that is only ever added to; what the lines
of a request come to is told by `fold`, here and in every other database that has heard of them.
"""

from eco_eval.queue.durable import QUEUE, VERSION, WORKFLOW, Queue
from eco_eval.queue.fold import Line, Standing, check_line, fold, new_uid, travels
from eco_eval.queue.records import (
    OPEN_STATES,
    Cancelled,
    Entry,
    Event,
    Failed,
    Finished,
    Pending,
    Quotas,
    Request,
    Running,
    State,
    Withdrawn,
    WorkerAbout,
    WorkerSeen,
)

__all__ = [
    "OPEN_STATES",
    "QUEUE",
    "VERSION",
    "WORKFLOW",
    "Cancelled",
    "Entry",
    "Event",
    "Failed",
    "Finished",
    "Line",
    "Pending",
    "Queue",
    "Quotas",
    "Request",
    "Running",
    "Standing",
    "State",
    "Withdrawn",
    "WorkerAbout",
    "WorkerSeen",
    "check_line",
    "fold",
    "new_uid",
    "travels",
]
