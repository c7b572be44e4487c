"""Models behind one protocol. An engine is opened for as long as a `with` block lasts and frees its device after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from eco_eval.engines.base import Engine, OpenEngine
from eco_eval.settings import Settings
from eco_eval.types import ModelRef

EngineName = Literal["transformers", "vllm", "endpoint"]

__all__ = ["Engine", "EngineName", "OpenEngine", "open_engine"]


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
        isolated: in a child process with limits of time, memory and open files, and without secrets.

    Raises:
        InputError: the engine is not installed or an option is wrong.
        EngineError: it cannot start.
    """
    engine = _build(kind, model, settings, context=context, dtype=dtype, url=url, key=key, batch_size=batch_size)
    try:
        yield engine
    finally:
        engine.close()


def _build(
    kind: EngineName,
    model: ModelRef,
    settings: Settings,
    *,
    context: int,
    dtype: str,
    url: str | None,
    key: str | None,
    batch_size: int | None,
) -> Engine:
    path = Path(model.path or model.name)
    if kind == "transformers":
        from eco_eval.engines.transformers import TransformersEngine

        return TransformersEngine(path, model.name, dtype=dtype, context=context)
    if kind == "vllm":
        from eco_eval.engines.vllm import VllmEngine

        return VllmEngine(
            path=path,
            name=model.name,
            dtype=dtype,
            context=context,
            args=settings.vllm_args,
            start_timeout=settings.start_timeout,
            environ=settings.environ,
        )
    from eco_eval.engines.endpoint import EndpointEngine

    return EndpointEngine(
        model=model.name,
        base_url=url or "",
        api_key=key,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        max_retries=settings.retries,
    )
