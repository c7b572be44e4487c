"""Models behind one protocol. An engine is opened for as long as a `with` block lasts and frees its device after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from eco_eval.engines.base import Engine, OpenEngine
from eco_eval.engines.channel import LocalModel
from eco_eval.settings import Settings
from eco_eval.types import ModelRef

EngineName = Literal["transformers", "vllm", "endpoint"]

__all__ = ["Engine", "EngineName", "LocalModel", "OpenEngine", "open_engine", "open_local"]


@contextmanager
def open_engine(
    kind: EngineName,
    model: ModelRef,
    settings: Settings,
    *,
    context: int,
    dtype: str = "auto",
    url: str | None = None,
    key: str | None = None,
    batch_size: int | None = None,
    isolated: bool = False,
) -> Iterator[Engine]:
    """Start an engine, and always end it.

    Args:
        model: what to serve; a local path for `transformers` and `vllm`, a served name for `endpoint`.
        context: longest prompt plus completion, in tokens.
        dtype: numbers the weights are run in; `auto` for the checkpoint's own.
        url, key: base URL and API key of an endpoint.
        batch_size: conversations at once; None is the engine's own choice.
        isolated: in a child process with limits of time, memory and files, and without secrets; see `ChildEngine`. An
            endpoint, which loads nothing, stays in this one.

    Raises:
        InputError: the engine is not installed or an option is wrong.
        EngineError: it cannot start.
    """
    engine: Engine
    if kind == "endpoint":
        engine = _endpoint(model, settings, url=url, key=key)
    else:
        local = LocalModel(
            kind=kind,
            # An adapter goes on its base.
            path=_folder(model.base or model),
            adapter=_folder(model) if model.base is not None else None,
            name=model.name,
            dtype=dtype,
            context=context,
            batch_size=batch_size,
            vllm_args=settings.vllm_args,
            start_timeout=settings.start_timeout,
        )
        engine = _in_child(local, settings) if isolated else open_local(local, settings.environ)
    try:
        yield engine
    finally:
        engine.close()


def open_local(model: LocalModel, environ: Mapping[str, str]) -> Engine:
    """Open a model of this machine in this process.

    Args:
        environ: the environment to pick a server's own from.

    Raises:
        InputError: the engine is not installed or an option is wrong.
        EngineError: it cannot start.
    """
    if model.kind == "transformers":
        from eco_eval.engines.transformers import TransformersEngine

        return TransformersEngine(
            model.path,
            model.name,
            dtype=model.dtype,
            context=model.context,
            batch_size=model.batch_size,
            adapter=model.adapter,
        )
    from eco_eval.engines.vllm import VllmEngine

    return VllmEngine(
        path=model.path,
        name=model.name,
        dtype=model.dtype,
        context=model.context,
        batch_size=model.batch_size,
        adapter=model.adapter,
        args=model.vllm_args,
        start_timeout=model.start_timeout,
        environ=environ,
    )


def _in_child(model: LocalModel, settings: Settings) -> Engine:
    from eco_eval.engines.child import ChildEngine, memory_limit, private_files
    from eco_eval.engines.supervise import Limits

    return ChildEngine(
        model,
        environ=settings.environ,
        limits=Limits(memory=memory_limit(settings.stage_memory), seconds=settings.stage_timeout),
        forbidden=private_files(settings),
    )


def _endpoint(model: ModelRef, settings: Settings, *, url: str | None, key: str | None) -> Engine:
    from eco_eval.engines.endpoint import EndpointEngine

    return EndpointEngine(
        model=model.name,
        base_url=url or "",
        api_key=key,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        max_retries=settings.retries,
    )


def _folder(model: ModelRef) -> Path:
    # A child process has a working directory of its own.
    return Path(model.path or model.name).absolute()
