"""Where this process runs. The only reader of the environment; nothing here changes a score."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError

from eco_eval.errors import InputError
from eco_eval.types import Record

Lang = Literal["es", "en"]

PREFIX = "ECO_EVAL_"


class Settings(Record):
    """Settings of one process, each from an `ECO_EVAL_…` variable of the same name in capitals.

    lang: language of the command line and of the HTTP API's messages, `es` or `en`; the page is in both.
    data_dir: the store, a local directory.
    cache_dir: trained demo models, built prompt sets, what was generated; safe to delete.
    private_dir: answers to hidden prompts, on this machine and never with what is published.
    queue_url: database of the queue, `sqlite:///path` or `postgresql://…`; a file in `data_dir` where it is not set.
    hub_repo: Hub dataset, `owner/name`, that finished results are published in and the page reads; none is none.
    hub_token: token that may write there; never passed to a child process that loads a model.
    publish: `publishable` results only, or `all`, for a private board or a rehearsal.
    mode: what `app.py` starts: the `page`, or the page and a worker (`gpu`).
    in_hand: requests a worker has in hand at once, so that a judge is loaded once for all of them.
    stage_timeout: seconds a model may take for one stage of one request.
    stage_memory: gigabytes of main memory that a model and what serves it may take; nine tenths of the machine's by
        default.
    per_user, per_owner, queue_limit: requests pending or running at once, of one user, of one model owner, in all.
    country: three letters (ISO 3166-1) of the country whose electricity it is, for CO₂.
    log: `text` for people, `json` for programs: how services tell what they do.
    judge_key, candidate_key: API keys of endpoints; never shown, never passed to a child process.
    vllm_args: extra options for `vllm serve`, for instance `--tensor-parallel-size 2`.
    start_timeout: seconds a model server may take to start.
    timeout: seconds one request to a model server may take.
    retries: times a request to a model server is tried again, with back-off.
    concurrency: requests in flight to an endpoint.
    environ: the process environment, for the allow-list that child processes get.
    """

    lang: Lang = "es"
    data_dir: Path = Path("leaderboard_data")
    cache_dir: Path = Path(".cache/eco-eval")
    private_dir: Path = Path(".private/eco-eval")
    queue_url: str | None = Field(default=None, repr=False)
    hub_repo: str | None = None
    hub_token: str | None = Field(default=None, repr=False)
    publish: Literal["publishable", "all"] = "publishable"
    mode: Literal["page", "gpu"] = "page"
    in_hand: int = Field(default=4, ge=1, le=64)
    stage_timeout: float = Field(default=4 * 3600.0, gt=0)
    stage_memory: float | None = Field(default=None, gt=0)
    per_user: int = Field(default=5, ge=1)
    per_owner: int = Field(default=20, ge=1)
    queue_limit: int = Field(default=20_000, ge=1)
    country: str | None = Field(default=None, pattern=r"^[A-Z]{3}$")
    log: Literal["text", "json"] = "text"
    judge_key: str | None = Field(default=None, repr=False)
    candidate_key: str | None = Field(default=None, repr=False)
    vllm_args: tuple[str, ...] = ()
    start_timeout: float = Field(default=900.0, gt=0)
    timeout: float = Field(default=120.0, gt=0)
    retries: int = Field(default=5, ge=0)
    concurrency: int = Field(default=16, gt=0)
    environ: dict[str, str] = Field(default_factory=dict, repr=False)

    @property
    def models_dir(self) -> Path:
        """Where models trained by this project on this machine are kept."""
        return self.cache_dir / "models"

    @property
    def prompts_dir(self) -> Path:
        """Where prompt sets built on this machine are kept."""
        return self.cache_dir / "prompts"

    @property
    def queue(self) -> str:
        """Address of the queue's database. Stores leave names that begin with a dot alone."""
        return self.queue_url or f"sqlite:///{(self.data_dir / '.queue.sqlite').resolve()}"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings.

        Raises:
            InputError: a variable has a value that cannot be used; names it.
        """
        env = dict(os.environ if environ is None else environ)
        values: dict[str, object] = {"environ": env}
        for name in cls.model_fields:
            raw = env.get(PREFIX + name.upper(), "").strip()
            if not raw or name == "environ":
                continue
            try:
                values[name] = shlex.split(raw) if name == "vllm_args" else raw
            except ValueError as error:
                raise _bad_value(name, raw) from error
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
            raise _bad_value(name, str(values[name])) from error


def _bad_value(name: str, value: str) -> InputError:
    shown = "…" if name.endswith(("_key", "_token")) else value
    return InputError("settings.bad_value", variable=PREFIX + name.upper(), value=shown)


LANGS: tuple[Lang, ...] = get_args(Lang)
