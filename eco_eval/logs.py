"""What services tell of themselves, a line an event: for people, or as JSON for programs. Never a word of an answer.

Events are told through `logging`, with their values as `extra`: `log.info("taken", extra={"request": …})`.
"""

from __future__ import annotations

import logging
from typing import Literal

_OWN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class _Text(logging.Formatter):
    """Time, level, event, and its values by name."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        values = {name: value for name, value in record.__dict__.items() if name not in _OWN}
        return " ".join([super().formatMessage(record), *(f"{name}={value!r}" for name, value in values.items())])


def set_up_logs(form: Literal["text", "json"]) -> None:
    """From now on this process tells what it does on standard error; of other libraries, warnings only."""
    handler = logging.StreamHandler()
    if form == "json":
        from pythonjsonlogger.json import JsonFormatter

        names = {"levelname": "level", "name": "logger", "message": "event"}
        handler.setFormatter(
            JsonFormatter(
                "%(message)s %(levelname)s %(name)s", timestamp=True, rename_fields=names, json_ensure_ascii=False
            )
        )
    else:
        handler.setFormatter(_Text("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("eco_eval").setLevel(logging.INFO)
