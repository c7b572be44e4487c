"""Strangers' weights: everything that is refused before anything is loaded, and that what is accepted loads."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub import LocalHub, clients
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from eco_eval.candidates import Intake, Limits, check_template, fetch, inspect, resolve, weights_of
from eco_eval.candidates.weights import Tensor, read_tensors
from eco_eval.errors import EcoEvalError, SubmissionRejected
from eco_eval.types import ModelRef, Weights
from eco_eval.ui.texts import Texts

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "dtype": "bfloat16",
    "vocab_size": 10,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "intermediate_size": 8,
}
TENSORS = {"model.embed_tokens.weight": np.ones((10, 4), np.float32), "model.layers.0.w": np.ones((20, 4), np.float32)}
WEIGHTS = save(TENSORS)
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
LORA: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "owner/fine",
    "auto_mapping": None,
    "revision": None,
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {},
    "megatron_core": "megatron.core",
    "loftq_config": {},
    "layer_replication": None,
    "use_rslora": False,
}
LORA_WEIGHTS = save({"base.q_proj.lora_A.weight": np.ones((2, 4), np.float32)})
MODEL: dict[str, bytes] = {
    "config.json": json.dumps(CONFIG).encode(),
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "chat_template.jinja": TEMPLATE.encode(),
    "README.md": b"---\nlicense: apache-2.0\nbase_model: Qwen/Qwen2.5-7B\ndatasets: [a/b]\n---\n# Fine\n",
}


class Evil:
    """What a pickle of it does when somebody loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model of every part that is looked at."""
    return write(tmp_path / "mine", MODEL)


def refusal(name: str | Path, limits: Limits | None = None) -> SubmissionRejected:
    """Why a model is refused; the reason can be said in both languages."""
    with pytest.raises(SubmissionRejected) as caught:
        inspect(str(name), limits)
    for lang in ("es", "en"):
        assert len(Texts(lang).error(caught.value).splitlines()) == 1
    return caught.value


def changed(model: Path, file: str, **fields: Any) -> Path:
    (model / file).write_text(json.dumps({**json.loads((model / file).read_bytes()), **fields}))
    return model


class TestWhatIsKnown:
    def test_a_model_is_described_by_its_own_headers(self, model: Path) -> None:
        found = inspect(str(model))
        assert (found.name, found.source, found.kind) == ("mine", "local", "chat")
        assert (found.parameters, found.bytes) == (120, len(WEIGHTS))
        assert (found.architecture, found.dtype, found.licence) == ("Qwen2ForCausalLM", "bfloat16", "apache-2.0")
        assert found.declared.base_models == ("Qwen/Qwen2.5-7B",)
        assert found.declared.datasets == ("a/b",)
        assert {file.name: file.size for file in found.files} == {name: len(data) for name, data in MODEL.items()}
        assert found.ref == resolve(str(model))
        assert str(model) not in found.model_dump_json()

    def test_without_a_template_it_is_a_base_model(self, model: Path) -> None:
        (model / "chat_template.jinja").unlink()
        assert inspect(str(model)).kind == "base"
        (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
        assert inspect(str(model)).kind == "chat"

    def test_of_a_sharded_model_the_shards_of_its_index_count(self, model: Path) -> None:
        (model / "model.safetensors").unlink()
        names = {name: f"model-{i}-of-2.safetensors" for i, name in enumerate(TENSORS, start=1)}
        for name, file in names.items():
            (model / file).write_bytes(save({name: TENSORS[name]}))
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        (model / "consolidated.safetensors").write_bytes(WEIGHTS)
        found = inspect(str(model))
        assert found.parameters == 120
        assert "consolidated.safetensors" not in {file.name for file in found.files}
        (model / "model-2-of-2.safetensors").write_bytes(WEIGHTS[:0] + save({"other": np.ones(3, np.float32)}))
        assert refusal(model).key == "model.lying_header"
        (model / "model-2-of-2.safetensors").unlink()
        assert refusal(model).key == "model.missing_file"

    def test_a_real_model_passes_with_its_real_count(self, tiny_model: Path) -> None:
        from transformers import AutoModelForCausalLM

        found = inspect(str(tiny_model))
        loaded = AutoModelForCausalLM.from_pretrained(tiny_model)
        assert found.parameters == sum(p.numel() for p in loaded.parameters())
        assert found.kind == "chat"

    def test_the_method_of_quantisation_is_the_one_its_configuration_names(self, model: Path) -> None:
        assert inspect(str(model)).quantisation == ""
        for said, method in (({"quant_method": "gptq", "bits": 4}, "gptq"), ({"bits": 4}, ""), (None, "")):
            assert inspect(str(changed(model, "config.json", quantization_config=said))).quantisation == method
        for bad in ("x" * 31, "a b", "-x", "\u202egptq", 7, ["gptq"]):
            error = refusal(changed(model, "config.json", quantization_config={"quant_method": bad}))
            assert (error.key, error.values["field"]) == ("model.bad_config_field", "quantization_config")
        assert refusal(changed(model, "config.json", quantization_config="gptq")).key == "model.bad_config_field"

    def test_what_it_weighs_is_known_before_and_after(self, model: Path) -> None:
        changed(model, "config.json", quantization_config={"quant_method": "awq"})
        expected = Weights(
            kind="chat",
            architecture="Qwen2ForCausalLM",
            parameters=120,
            bytes=len(WEIGHTS),
            dtype="bfloat16",
            quantisation="awq",
            licence="apache-2.0",
        )
        found = inspect(str(model))
        assert found.weights == weights_of(fetch(found)) == expected
        (model / "chat_template.jinja").unlink()
        assert weights_of(found.ref) == inspect(str(model)).weights == expected.model_copy(update={"kind": "base"})

    def test_what_has_no_files_here_has_no_weight(self, model: Path) -> None:
        for source in ("anchor", "endpoint"):
            assert weights_of(ModelRef(name="x", source=source, revision="")) is None
        assert weights_of(inspect(str(model)).ref.model_copy(update={"path": None})) is None

    def test_what_it_weighs_is_read_without_hashing_or_rendering(self, model: Path) -> None:
        """A sparse file of 20 GB would take minutes to hash, and this template never ends."""
        size = 5_000_000_000
        head = header(w=of("F32", (size,), (0, 4 * size)))
        (model / "model.safetensors").write_bytes(head)
        with (model / "model.safetensors").open("r+b") as handle:
            handle.truncate(len(head) + 4 * size)
        (model / "chat_template.jinja").write_text(ENDLESS)
        start = time.perf_counter()
        found = weights_of(ModelRef(name="big", source="local", revision="0", path=str(model)))
        assert found is not None
        assert (found.parameters, found.bytes, found.kind) == (size, len(head) + 4 * size, "chat")
        assert time.perf_counter() - start < 1

    def test_what_does_not_fit_here_is_refused_with_both_figures(self, model: Path) -> None:
        assert refusal(model, Limits(max_bytes=100)).key == "model.too_large"
        assert refusal(model, Limits(max_parameters=119)).key == "model.too_many_parameters"
        assert refusal(model, Limits(architectures=frozenset({"LlamaForCausalLM"}))).key == "model.other_architecture"
        fits = Limits(max_bytes=len(WEIGHTS), max_parameters=120, architectures=frozenset({"Qwen2ForCausalLM"}))
        assert inspect(str(model), fits).parameters == 120


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            "../../etc/passwd",
            "owner/../../etc",
            "/etc",
            "owner\\model",
            "owner/model\0",
            "owner/model@../../main",
            "owner/model@/main",
            "owner/model@a//b",
            "owner/model@-x",
            "datasets/owner/model",
            "x" * 1_000_000,
            "owner/" + "x" * 1_000_000,
        ],
    )
    def test_paths_and_what_could_be_one_are_no_names_for_strangers(self, name: str) -> None:
        error = refusal(name, Limits(strangers=True))
        assert error.key == "model.not_found"
        assert len(str(error)) < 1000

    @pytest.mark.parametrize("name", ["meta‑llama/Llama", "mеta-llama/Llama", "owner/mod℮l", "ñ/b", "ｏwner/model"])
    def test_letters_that_pass_for_others_are_named(self, name: str) -> None:
        error = refusal(name, Limits(strangers=True))
        assert error.key == "model.not_ascii"
        assert error.values["code"] == f"U+{ord(next(c for c in name if not c.isascii())):04X}"

    def test_a_stranger_does_not_learn_what_is_on_this_machine(self, model: Path, monkeypatch: Any) -> None:
        stranger = Limits(strangers=True)
        for there in (model, model / "config.json", model / "gone"):
            assert refusal(there, stranger).key == "model.not_found"
        monkeypatch.chdir(model.parent.parent)
        name = f"{model.parent.name}/{model.name}"
        assert inspect(name).source == "local"
        with pytest.raises(EcoEvalError) as caught:
            inspect(name, stranger)
        assert caught.value.key in ("hub.unreachable", "model.not_found")

    @pytest.mark.parametrize("name", ["owner/a\u202eb", "owner/\x1b[31mred", "a\u200b/b"])
    def test_marks_that_rearrange_a_message_are_written_out(self, name: str) -> None:
        assert str(refusal(name, Limits(strangers=True)).values["model"]).isprintable()

    @settings(deadline=None)
    @given(st.text(max_size=40) | st.from_regex(r"[a-zа-я.~/-]{1,8}/[a-z.@\\%-]{1,8}(@[a-z./-]{0,6})?", fullmatch=True))
    def test_any_name_is_refused_or_unreachable(self, name: str) -> None:
        """The tests run with the Hub offline."""
        with pytest.raises(EcoEvalError) as caught:
            inspect(name, Limits(strangers=True))
        assert caught.value.key in ("model.not_found", "model.not_ascii", "hub.unreachable")


class TestFiles:
    @pytest.mark.parametrize("name", ["a/evil.PY", "kernel.so", "x.pyc", "lib.dylib", "W.DLL"])
    def test_code_is_refused_wherever_and_however_written(self, model: Path, name: str) -> None:
        write(model, {name: b""})
        error = refusal(model)
        assert (error.key, error.values["file"]) == ("model.has_code", name)

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("config.json", {**CONFIG, "auto_map": {}}),
            ("config.json", {**CONFIG, "vision_config": {"auto_map": {"AutoConfig": "owner/repo--evil.Evil"}}}),
            ("config.json", {**CONFIG, "parts": [[{"auto_map": 1}]]}),
            ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}),
            ("generation_config.json", {"auto_map": 1}),
        ],
    )
    def test_remote_code_is_refused_at_any_depth(self, model: Path, file: str, content: Any) -> None:
        write(model, {file: json.dumps(content).encode()})
        error = refusal(model)
        assert (error.key, error.values["file"]) == ("model.auto_map", file)

    def test_a_token_called_auto_map_is_a_token(self, model: Path) -> None:
        write(model, {"vocab.json": b'{"auto_map": 1}'})
        assert inspect(str(model)).kind == "chat"

    @pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "/etc", "link"])
    def test_links_out_of_the_folder_are_refused(self, model: Path, target: str) -> None:
        (model.parent / "outside").write_text("secret")
        (model / "link").symlink_to(target)
        error = refusal(model)
        assert (error.key, error.values["file"]) == ("model.link_outside", "link")

    def test_the_configuration_itself_may_not_be_such_a_link(self, model: Path) -> None:
        (model / "config.json").rename(model.parent / "config.json")
        (model / "config.json").symlink_to("../config.json")
        assert refusal(model).key == "model.link_outside"

    def test_links_within_the_folder_and_to_it_are_fine(self, model: Path) -> None:
        (model / "same.txt").symlink_to("README.md")
        (model.parent / "way").symlink_to(model)
        assert inspect(str(model.parent / "way")).name == "mine"

    @pytest.mark.parametrize("name", ["a\\b", "a\nb", "a\u202eb.json", "C:x", "x" * 251 + "é.md"])
    def test_names_that_lead_elsewhere_or_cannot_be_seen_are_refused(self, model: Path, name: str) -> None:
        if len(name.encode()) > 255:
            name = name[2:]
            (model / name[:200]).mkdir()
            name = "/".join([name[:200]] * 6)
        write(model, {name: b""})
        error = refusal(model)
        assert error.key == "model.bad_file_name"
        assert str(error.values["file"]).isascii()

    @pytest.mark.parametrize(
        ("file", "size"),
        [
            ("config.json", 1_000_001),
            ("tokenizer.json", 64_000_001),
            ("tokenizer_config.json", 8_000_001),
            ("chat_template.jinja", 256_001),
            ("additional_chat_templates/x.jinja", 256_001),
        ],
    )
    def test_files_far_larger_than_any_model_s_are_refused_unread(self, model: Path, file: str, size: int) -> None:
        write(model, {file: b""})
        with (model / file).open("r+b") as handle:
            handle.truncate(size)
        error = refusal(model)
        assert (error.key, error.values["file"]) == ("model.file_too_large", file)


class TestConfig:
    @pytest.mark.parametrize(
        "content",
        [
            b'{"architectures": ["X"], "a": 1e400}',
            b'{"architectures": ["X"], "a": ' + b"9" * 41 + b"}",
            b'{"architectures": ["X"], "a": ' + b"[" * 40 + b"]" * 40 + b"}",
            b'{"architectures": ["X"], "a": ' + b'{"a":' * 300_000,
            b"PK\x03\x04",
        ],
    )
    def test_a_bomb_is_refused(self, model: Path, content: bytes) -> None:
        (model / "config.json").write_bytes(content)
        start = time.perf_counter()
        assert refusal(model).key in ("model.bad_config", "model.file_too_large")
        assert time.perf_counter() - start < 2

    def test_what_transformers_writes_is_read(self, model: Path) -> None:
        write(model, {"tokenizer_config.json": b'{"model_max_length": 1000000000000000019884624838656}'})
        text = json.dumps({**CONFIG, "time_step_limit": [0.0, float("inf")]})
        (model / "config.json").write_text(text)
        assert inspect(str(model)).parameters == 120

    @pytest.mark.parametrize("said", [{"hidden_size": 400}, {"vocab_size": 10_000}, {"num_hidden_layers": 100}])
    def test_a_configuration_of_a_larger_model_than_its_weights_is_refused(self, model: Path, said: Any) -> None:
        assert refusal(changed(model, "config.json", **said)).key == "model.other_size"
        nested = {"architectures": ["X"], "text_config": {**CONFIG, **said}}
        (model / "config.json").write_text(json.dumps(nested))
        assert refusal(model).key == "model.other_size"

    @pytest.mark.parametrize(
        ("field", "value"),
        [("num_hidden_layers", 10**9), ("hidden_size", -1), ("vocab_size", 2**40), ("num_experts", 10**7)],
    )
    def test_numbers_no_model_has_are_refused(self, model: Path, field: str, value: int) -> None:
        error = refusal(changed(model, "config.json", **{field: value}))
        assert (error.key, error.values["field"]) == ("model.bad_config_field", field)

    @pytest.mark.parametrize("dtype", ["--evil", {"": "bfloat16"}, "x" * 100, 7])
    def test_a_type_of_numbers_is_a_name(self, model: Path, dtype: Any) -> None:
        assert refusal(changed(model, "config.json", dtype=dtype)).values["field"] == "dtype"

    @pytest.mark.parametrize("named", ["X", [7], [""], [{}], ["a b"], {"a": 1}])
    def test_an_architecture_is_a_name_in_a_list(self, model: Path, named: Any) -> None:
        assert refusal(changed(model, "config.json", architectures=named)).key == "model.no_architecture"


def header(**tensors: Any) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def of(dtype: Any = "F32", shape: Any = (2,), data_offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets, **more}


def raw(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


LYING: dict[str, bytes] = {
    "no bytes for its numbers": header(w=of()) + b"",
    "fewer bytes": header(w=of(data_offsets=(0, 4))) + b"\0" * 4,
    "more bytes at the end": header(w=of()) + b"\0" * 9,
    "beyond the file": header(w=of(data_offsets=(8, 16))) + b"\0" * 8,
    "overlapping": header(a=of(), b=of(data_offsets=(4, 12))) + b"\0" * 12,
    "the same twice": header(a=of(), b=of()) + b"\0" * 8,
    "a hole": header(a=of(), b=of(data_offsets=(12, 20))) + b"\0" * 20,
    "backwards": header(w=of(data_offsets=(8, 0))) + b"\0" * 8,
    "an unknown type": header(w=of(dtype="Q4")) + b"\0" * 8,
    "a product beyond 64 bits": header(w=of(shape=(2**62, 2**62, 0), data_offsets=(0, 0))),
    "a huge shape": header(w=of(shape=(10**12, 10**6))) + b"\0" * 8,
    "nothing but bytes": header() + b"\0" * 8,
}
NO_HEADER: dict[str, bytes] = {
    "empty": b"",
    "short": b"\0" * 7,
    "a length beyond the file": struct.pack("<Q", 1000) + b"{}",
    "a length beyond all files": b"\xff" * 8 + b"{}",
    "no JSON": raw(b"{nothing}"),
    "a list": raw(b"[]"),
    "a blank before": raw(b" {}"),
    "not UTF-8": raw(b'{"\xff": 1}'),
    "too deep": raw(b'{"a":' * 100_000),
    "a tensor twice": raw(b'{"w":%b,"w":%b}' % ((json.dumps(of()).encode(),) * 2)) + b"\0" * 8,
    "a field twice": raw(b'{"w":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}') + b"\0" * 8,
    "a negative": header(w=of(shape=(-2,))) + b"\0" * 8,
    "a fraction": header(w=of(shape=(2.0,))) + b"\0" * 8,
    "true for one": header(w=of(shape=(True, 2))) + b"\0" * 8,
    "a number of 5000 digits": raw(b'{"w":{"dtype":"F32","shape":[%b],"data_offsets":[0,8]}}' % (b"1" * 5000))
    + b"\0" * 8,
    "not a number": raw(b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}') + b"\0" * 8,
    "half a character": raw(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}') + b"\0" * 8,
    "one field more": header(w=of(code="x")) + b"\0" * 8,
    "notes that are no text": raw(b'{"__metadata__":{"a":1}}'),
    "three offsets": header(w=of(data_offsets=(0, 8, 8))) + b"\0" * 8,
}


def tensors_or_key(content: bytes) -> dict[str, Tensor] | str:
    """The tensors of a file of that content, or why it is refused."""
    try:
        return read_tensors("m", "w", len(content), lambda start, length: content[start : start + length])
    except SubmissionRejected as error:
        return error.key


class TestWeights:
    @pytest.mark.parametrize("what", LYING)
    def test_a_lying_header_is_refused(self, model: Path, what: str) -> None:
        (model / "model.safetensors").write_bytes(LYING[what])
        assert refusal(model).key == "model.lying_header"

    @pytest.mark.parametrize("what", NO_HEADER)
    def test_what_is_no_header_is_refused(self, model: Path, what: str) -> None:
        (model / "model.safetensors").write_bytes(NO_HEADER[what])
        assert refusal(model).key == "model.bad_header"

    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_a_pickle_in_disguise_is_called_one(self, model: Path, protocol: int) -> None:
        (model / "model.safetensors").write_bytes(pickle.dumps([Evil(), "x" * 100], protocol=protocol))
        assert refusal(model).key == "model.disguised"

    def test_an_archive_in_disguise_is_called_one(self, model: Path) -> None:
        with zipfile.ZipFile(model / "model.safetensors", "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
        assert refusal(model).key == "model.disguised"

    def test_a_header_longer_than_any_is_refused_unread(self) -> None:
        asked: list[tuple[int, int]] = []

        def read(start: int, length: int) -> bytes:
            asked.append((start, length))
            return (struct.pack("<Q", 100_000_001) + b"{" * length)[:length]

        with pytest.raises(SubmissionRejected) as caught:
            read_tensors("m", "f", 10**12, read)
        assert caught.value.key == "model.bad_header"
        assert asked == [(0, 100_008)]

    def test_a_long_header_is_read_whole(self, tmp_path: Path) -> None:
        many = {f"layer.{i}": np.ones((1, 2), np.float16) for i in range(3000)}
        file = tmp_path / "w.safetensors"
        file.write_bytes(save(many))
        data = file.read_bytes()
        found = read_tensors("m", "w", len(data), lambda start, length: data[start : start + length])
        assert {name: tensor.shape for name, tensor in found.items()} == dict.fromkeys(many, (1, 2))

    @settings(deadline=None, max_examples=300)
    @given(data=st.data())
    def test_a_changed_file_is_refused_or_loads(self, data: st.DataObject, tmp_path_factory: Any) -> None:
        good = bytearray(save({"a": np.ones((2, 3), np.float16), "b": np.ones(3, np.int64), "c": np.ones((0, 2))}))
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(good) - 1))
            what = data.draw(st.sampled_from(["set", "cut", "insert", "digit"]))
            if what == "set":
                good[at] = data.draw(st.integers(0, 255))
            elif what == "digit":
                digits = [i for i, byte in enumerate(good[8:]) if chr(byte).isdigit()] or [0]
                good[8 + data.draw(st.sampled_from(digits))] = ord(data.draw(st.sampled_from("0123456789-e. ")))
            elif what == "cut" and len(good) > 9:
                del good[at : at + data.draw(st.integers(1, 4))]
            else:
                good[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        self._is_refused_or_loads(bytes(good), tmp_path_factory)

    @settings(deadline=None, max_examples=200)
    @given(
        st.dictionaries(
            st.text(max_size=3),
            st.fixed_dictionaries(
                {
                    "dtype": st.sampled_from(["F32", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "U64", "x"]),
                    "shape": st.lists(st.integers(-1, 4) | st.integers(2**60, 2**66), max_size=3),
                    "data_offsets": st.lists(st.integers(-1, 40), min_size=1, max_size=3),
                }
            ),
            max_size=3,
        ),
        st.integers(0, 40),
    )
    def test_a_header_of_any_numbers_is_refused_or_loads(
        self, tmp_path_factory: Any, tensors: dict[str, Any], size: int
    ) -> None:
        self._is_refused_or_loads(header(**tensors) + b"\0" * size, tmp_path_factory)

    def _is_refused_or_loads(self, content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
        file = tmp_path_factory.getbasetemp() / "changed.safetensors"
        file.write_bytes(content)
        found = tensors_or_key(content)
        if isinstance(found, str):
            assert found in ("model.bad_header", "model.lying_header", "model.disguised")
            return
        with safe_open(file, "pt") as opened:
            loaded = {name: tuple(opened.get_tensor(name).shape) for name in found}
            assert set(opened.keys()) == set(found)
        assert loaded == {name: tensor.shape for name, tensor in found.items()}

    def test_an_index_beside_a_single_file_of_other_weights_is_two_models(self, model: Path) -> None:
        index = {"weight_map": {"x": "other.safetensors"}}
        write(model, {"model.safetensors.index.json": json.dumps(index).encode(), "other.safetensors": WEIGHTS})
        assert refusal(model).key == "model.two_models"

    @pytest.mark.parametrize("file", ["../x.safetensors", "/etc/x.safetensors", "x.bin", "", 7, None, ["a"]])
    def test_an_index_names_files_of_the_folder_alone(self, model: Path, file: Any) -> None:
        write(model, {"model.safetensors.index.json": json.dumps({"weight_map": {"x": file}}).encode()})
        assert refusal(model).key == "model.bad_json"


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HUGE = "{{ 'x' * 2000000 }}"
HUNGRY = "{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"


class TestTemplates:
    @pytest.mark.parametrize(
        ("template", "key"),
        [
            (ENDLESS, "template_slow"),
            ("{{ 9 ** (9 ** 9) }}", "template_slow"),
            (HUGE, "template_large"),
            ("{% for a in range(9999) %}{{ 'x' * 999 }}{% endfor %}", "template_large"),
            (HUNGRY, "template_large"),
            ("{{ raise_exception('no') }}", "template_broken"),
            ("{{ messages[0].nothing.at.all }}", "template_broken"),
            ("{% for %}", "template_broken"),
            ("{{ " + "(" * 5000 + " }}", "template_broken"),
            ("{% include '/etc/passwd' %}", "template_broken"),
            ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "template_broken"),
            ("\xff\xfe", "template_broken"),
        ],
    )
    def test_hostile_templates_are_refused_in_time(self, model: Path, template: str, key: str) -> None:
        (model / "chat_template.jinja").write_bytes(template.encode("latin-1"))
        start = time.perf_counter()
        assert refusal(model).key == f"model.{key}"
        # Two seconds of processor time, twenty by the clock where others need the processor too.
        assert time.perf_counter() - start < 25

    def test_an_endless_template_costs_two_seconds_of_processor(self, model: Path) -> None:
        (model / "chat_template.jinja").write_text(ENDLESS)
        before = os.times()
        assert refusal(model).key == "model.template_slow"
        assert os.times().children_user - before.children_user < 4

    def test_it_does_not_matter_where_a_template_stands(self, model: Path) -> None:
        (model / "chat_template.jinja").unlink()
        for said in (HUGE, [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": HUGE}]):
            write(model, {"tokenizer_config.json": json.dumps({"chat_template": said}).encode()})
            assert refusal(model).key == "model.template_large"
        for said in (7, {"a": 1}, [7], [{"name": "default"}]):
            write(model, {"tokenizer_config.json": json.dumps({"chat_template": said}).encode()})
            assert refusal(model).key == "model.bad_json"
        (model / "tokenizer_config.json").unlink()
        write(model, {"additional_chat_templates/rag.jinja": HUGE.encode()})
        assert refusal(model).key == "model.template_large"

    @pytest.mark.parametrize(
        "template",
        [
            TEMPLATE,
            "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}",
            "{{ bos_token + messages[0]['content'] | trim + eos_token }}{{ strftime_now('%Y') }}",
            "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
            "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}",
            "{%- if tools is none and add_generation_prompt %}\n  {{- 'x' }}\n{%- endif %}",
        ],
    )
    def test_the_trial_renders_what_transformers_does(self, model: Path, template: str) -> None:
        from transformers.utils.chat_template_utils import render_jinja_template

        from eco_eval.candidates.templates import render_within_limits
        from eco_eval.types import Message

        (model / "chat_template.jinja").write_text(template)
        assert check_template(model, "m")
        said = Message(role="user", content=" ¿Qué árbol? ")
        tokens = {"bos_token": "<s>", "eos_token": "</s>"}
        (texts,) = render_within_limits("m", [template], [(said,)], tokens)
        theirs, _ = render_jinja_template(
            [[said.model_dump()]], chat_template=template, add_generation_prompt=True, **tokens
        )
        assert texts == theirs

    def test_a_template_gets_what_transformers_gives_and_nothing_else(self) -> None:
        from eco_eval.candidates.render import environment

        jinja = {"range", "dict", "lipsum", "cycler", "joiner", "namespace"}
        assert set(environment().globals) == jinja | {"raise_exception", "strftime_now"}


@pytest.fixture
def adapter(tmp_path: Path, model: Path) -> Path:
    """A LoRA adapter of the model beside it."""
    config = {**LORA, "base_model_name_or_path": str(model)}
    return write(
        tmp_path / "lora",
        {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": LORA_WEIGHTS},
    )


class TestAdapters:
    def test_an_adapter_is_known_with_its_base_pinned(self, adapter: Path, model: Path) -> None:
        found = inspect(str(adapter))
        assert (found.kind, found.parameters, found.name) == ("adapter", 8, "lora")
        assert found.base is not None
        assert found.base == inspect(str(model))
        assert (found.architecture, found.dtype) == (found.base.architecture, found.base.dtype)
        ref = resolve(str(adapter))
        assert ref == fetch(found) == found.ref
        assert (ref.name, ref.revision, ref.path) == ("lora", found.revision, str(adapter))
        assert ref.base == resolve(str(model))
        assert ref.base.path == str(model)

    def test_an_adapter_weighs_what_it_does_with_its_base(self, adapter: Path, model: Path) -> None:
        changed(model, "config.json", quantization_config={"quant_method": "gptq"})
        write(adapter, {"README.md": b"---\nlicense: mit\n---\n"})
        found, base = inspect(str(adapter)), inspect(str(model)).weights
        extra = {"kind": "adapter", "parameters": 128, "bytes": len(WEIGHTS) + len(LORA_WEIGHTS), "licence": "mit"}
        assert found.weights == weights_of(found.ref) == base.model_copy(update=extra)
        assert found.quantisation == "gptq"

    def test_a_local_base_is_the_one_that_was_asked_for_or_it_is_refused(self, adapter: Path, model: Path) -> None:
        pinned = inspect(str(model)).revision
        assert resolve(str(adapter), base_revision=pinned).base == resolve(str(model))
        (model / "README.md").write_text("another")
        with pytest.raises(SubmissionRejected) as caught:
            resolve(str(adapter), base_revision=pinned)
        assert caught.value.key == "model.other_base"
        assert caught.value.values["found"] == inspect(str(model)).revision
        with pytest.raises(SubmissionRejected) as caught:
            inspect(str(model), base_revision=pinned)
        assert caught.value.key == "model.other_base"

    def test_a_real_adapter_passes(self, tmp_path: Path, tiny_model: Path) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        get_peft_model(base, config).save_pretrained(tmp_path / "real")
        found = inspect(str(tmp_path / "real"))
        assert found.base is not None
        assert found.base.ref == resolve(str(tiny_model))

    @pytest.mark.parametrize(
        ("said", "key"),
        [
            ({"peft_type": "IA3"}, "not_lora"),
            ({"peft_type": None}, "not_lora"),
            ({"auto_mapping": {"base_model_class": "X", "parent_library": "evil"}}, "adapter_field"),
            ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "adapter_field"),
            ({"layer_replication": [[0, 2]] * 10_000}, "adapter_field"),
            ({"corda_config": {"covariance_file": "/x.pt"}}, "adapter_field"),
            ({"init_lora_weights": "pissa"}, "adapter_field"),
            ({"use_dora": True}, "adapter_field"),
            ({"target_modules": "(a+)+$"}, "adapter_field"),
            ({"target_modules": ["(a+)+$"]}, "adapter_field"),
            ({"target_modules": [7]}, "adapter_field"),
            ({"exclude_modules": ".*"}, "adapter_field"),
            ({"modules_to_save": ["(a+)+"]}, "adapter_field"),
            ({"rank_pattern": {"(a+)+": 4}}, "adapter_field"),
            ({"task_type": "SEQ_CLS"}, "adapter_field"),
            ({"something_new": {"load": "x"}}, "adapter_field"),
            ({"r": 0}, "adapter_rank"),
            ({"r": 1025}, "adapter_rank"),
            ({"r": True}, "adapter_rank"),
            ({"rank_pattern": {"q_proj": 10**6}}, "adapter_rank"),
            ({"base_model_name_or_path": None}, "no_base"),
            ({"base_model_name_or_path": 7}, "no_base"),
            ({"auto_map": {}}, "auto_map"),
            ({"base_model_name_or_path": "nowhere"}, "not_found"),
        ],
    )
    def test_an_adapter_that_is_more_than_a_lora_is_refused(self, adapter: Path, said: Any, key: str) -> None:
        assert refusal(changed(adapter, "adapter_config.json", **said)).key == f"model.{key}"

    @pytest.mark.parametrize("said", [{"target_modules": "all-linear"}, {"rank_pattern": {"q_proj": 4}}, {"r": 1024}])
    def test_what_a_plain_lora_may_say_passes(self, adapter: Path, said: Any) -> None:
        assert inspect(str(changed(adapter, "adapter_config.json", **said))).kind == "adapter"

    def test_a_base_goes_through_the_same_checks(self, adapter: Path, model: Path) -> None:
        changed(model, "config.json", auto_map={"AutoModel": "evil.Evil"})
        error = refusal(adapter)
        assert (error.key, error.values["model"]) == ("model.auto_map", str(model))

    def test_an_adapter_of_an_adapter_is_refused(self, adapter: Path, tmp_path: Path) -> None:
        second = Path(shutil.copytree(adapter, tmp_path / "second"))
        changed(second, "adapter_config.json", base_model_name_or_path=str(adapter))
        assert refusal(second).key == "model.adapter_of_adapter"
        assert refusal(changed(adapter, "adapter_config.json", base_model_name_or_path=str(adapter))).key == (
            "model.adapter_of_adapter"
        )

    def test_matrices_of_another_rank_and_pickles_are_refused(self, adapter: Path) -> None:
        weights = adapter / "adapter_model.safetensors"
        weights.write_bytes(save({"q.lora_A.weight": np.ones((2000, 1500), np.float16)}))
        assert refusal(adapter).key == "model.adapter_rank"
        weights.write_bytes(save({"q.weight": np.ones((2, 2), np.float16)}))
        assert refusal(adapter).key == "model.no_weights"
        weights.write_bytes(pickle.dumps(Evil()) + b"\xff" * 20)
        assert refusal(adapter).key == "model.disguised"
        weights.rename(adapter / "adapter_model.bin")
        assert refusal(adapter).key == "model.pickle"

    def test_an_adapter_beside_whole_weights_is_two_models(self, model: Path) -> None:
        write(model, {"adapter_config.json": json.dumps(LORA).encode(), "adapter_model.safetensors": LORA_WEIGHTS})
        assert refusal(model).key == "model.two_models"

    def test_its_size_counts_with_its_base_s(self, adapter: Path) -> None:
        assert refusal(adapter, Limits(max_parameters=127)).key == "model.too_many_parameters"
        assert inspect(str(adapter), Limits(max_parameters=128)).kind == "adapter"


def inspected(name: str, limits: dict[str, Any] | None = None, *, then_fetch: bool = False) -> Any:
    """What the Hub's client, in a process of its own, makes of a name: the intake as JSON, or a key and its values."""
    try:
        found = inspect(name, Limits.model_validate(limits or {}))
        return fetch(found).path if then_fetch else found.model_dump(mode="json")
    except EcoEvalError as error:
        return error.key, error.values


def resolved(name: str, base_revision: str | None = None) -> Any:
    """What resolving makes of a name: the reference as JSON with the folders, its weight, or a key."""
    try:
        ref = resolve(name, base_revision=base_revision)
    except EcoEvalError as error:
        return error.key
    weights = weights_of(ref)
    return {
        "ref": ref.model_dump(mode="json"),
        "paths": [ref.path, ref.base.path if ref.base is not None else None],
        "weights": weights.model_dump() if weights is not None else None,
        "inspected": inspect(name, base_revision=base_revision).weights.model_dump(),
    }


def fetched_as(name: str, change: dict[str, Any]) -> str:
    """How fetching ends when the Hub had announced something else."""
    with pytest.raises(EcoEvalError) as caught:
        fetch(Intake.model_validate(inspect(name).model_dump() | change))
    return caught.value.key


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        hub.add("owner/fine", "model", {**MODEL, "training_args.bin": b"x", "deep/w.safetensors": WEIGHTS})
        hub.add("owner/lora", "model", _adapter_of("owner/fine"))
        yield hub


def _adapter_of(base: str, **fields: Any) -> dict[str, bytes]:
    config = json.dumps({**LORA, "base_model_name_or_path": base, **fields}).encode()
    return {"adapter_config.json": config, "adapter_model.safetensors": LORA_WEIGHTS}


@pytest.fixture(scope="module")
def call(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    with clients(hub, tmp_path_factory.mktemp("home"), HF_HUB_OFFLINE="0") as call:
        yield call


class TestHub:
    def test_a_model_is_known_before_its_weights_are_downloaded(self, hub: LocalHub, call: Any) -> None:
        hub.requests.clear()
        found = Intake.model_validate(call(inspected, "owner/fine"))
        (read,) = [line for line in hub.requests if line.endswith("model.safetensors")]
        assert read.startswith("GET")
        assert (found.name, found.source, found.kind) == ("owner/fine", "hub", "chat")
        assert (found.parameters, found.bytes, found.licence) == (120, len(WEIGHTS), "apache-2.0")
        assert (found.gated, found.private, found.scanned) == (False, False, True)
        assert {file.name: file.size for file in found.files} == {name: len(data) for name, data in MODEL.items()}

    def test_what_arrives_is_exactly_that_and_a_snapshot_is_a_folder_like_any(self, call: Any) -> None:
        path = call(inspected, "owner/fine", then_fetch=True)
        assert {p.relative_to(path).as_posix(): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()} == MODEL
        assert any(file.is_symlink() for file in Path(path).iterdir())
        assert inspect(path).parameters == 120

    def test_other_weights_than_were_announced_are_not_taken(self, call: Any) -> None:
        small = [{"name": "config.json", "size": 7}]
        for change in ({"parameters": 121}, {"files": small}, {"kind": "adapter"}):
            assert call(fetched_as, "owner/fine", change) == "hub.bad_answer"

    def test_only_the_header_of_large_weights_crosses_the_network(self, hub: LocalHub, call: Any) -> None:
        large = {**TENSORS, "big": np.ones((1000, 1000), np.float32)}
        hub.add("owner/large", "model", {**MODEL, "model.safetensors": save(large)})
        assert call(inspected, "owner/large")["parameters"] == 1_000_120

    def test_what_the_hub_s_scanners_call_unsafe_is_refused(self, hub: LocalHub, call: Any) -> None:
        hub.add("owner/flagged", "model", {**MODEL, "extra.bin": b"x"})
        hub.mark("owner/flagged", issues={"extra.bin": "unsafe"})
        key, values = call(inspected, "owner/flagged")
        assert (key, values["file"]) == ("model.unsafe", "extra.bin")
        hub.mark("owner/flagged", issues={"extra.bin": "caution"}, scanned=False)
        assert call(inspected, "owner/flagged")["scanned"] is False

    def test_a_gated_model_says_what_to_do(self, hub: LocalHub, call: Any) -> None:
        hub.add("owner/gated", "model", MODEL)
        hub.mark("owner/gated", gated=True)
        assert call(inspected, "owner/gated")[0] == "model.gated"

    def test_a_private_repository_is_not_a_stranger_s(self, hub: LocalHub, call: Any) -> None:
        hub.add("owner/private", "model", MODEL, private=True)
        assert call(inspected, "owner/private")["private"] is True
        assert call(inspected, "owner/private", {"strangers": True})[0] == "model.not_on_hub"

    @pytest.mark.parametrize(
        ("files", "key"),
        [
            ({"evil.py": b""}, "has_code"),
            ({"a/../../evil.json": b"{}"}, "bad_file_name"),
            ({"/etc/evil.json": b"{}"}, "bad_file_name"),
            ({"a\\b.json": b"{}"}, "bad_file_name"),
            ({"config.json": b" " * 1_000_001}, "file_too_large"),
            ({"model.safetensors": pickle.dumps(Evil()) + b"x" * 99}, "disguised"),
            ({"model.safetensors": LYING["a hole"]}, "lying_header"),
            ({"model.safetensors": b""}, "bad_header"),
            ({"chat_template.jinja": ENDLESS.encode()}, "template_slow"),
            ({"tokenizer_config.json": b'{"auto_map": {}}'}, "auto_map"),
        ],
    )
    def test_what_is_refused_on_disk_is_refused_on_the_hub(
        self, hub: LocalHub, call: Any, files: dict[str, bytes], key: str
    ) -> None:
        name = f"owner/{key}-{len(hub.requests)}"
        hub.add(name, "model", {**MODEL, **files})
        hub.requests.clear()
        assert call(inspected, name)[0] == f"model.{key}"
        if key in ("has_code", "bad_file_name", "file_too_large"):
            assert not [line for line in hub.requests if "/resolve/" in line]

    def test_an_adapter_s_base_is_pinned_on_the_hub(self, hub: LocalHub, call: Any) -> None:
        old = hub.add("owner/moving", "model", MODEL)
        hub.add("owner/moving", "model", {"README.md": b"new"})
        hub.add("owner/pinned", "model", _adapter_of("owner/moving", revision=old))
        found = Intake.model_validate(call(inspected, "owner/pinned"))
        assert found.base is not None
        assert (found.kind, found.base.name, found.base.revision) == ("adapter", "owner/moving", old)
        assert call(inspected, "owner/lora", then_fetch=True).endswith(
            str(Intake.model_validate(call(inspected, "owner/lora")).revision)
        )

    def test_an_adapter_is_fetched_with_its_base(self, hub: LocalHub, call: Any) -> None:
        found = call(resolved, "owner/lora")
        base = found["ref"]["base"]
        assert (found["ref"]["name"], base["name"], base["dtype"]) == ("owner/lora", "owner/fine", "bfloat16")
        assert [Path(path).name for path in found["paths"]] == [found["ref"]["revision"], base["revision"]]
        folders = [{file.name for file in Path(path).iterdir()} for path in found["paths"]]
        assert folders == [set(_adapter_of("owner/fine")), set(MODEL)]
        assert found["weights"] == found["inspected"]
        assert (found["weights"]["kind"], found["weights"]["parameters"]) == ("adapter", 128)

    def test_a_run_gets_the_base_that_was_pinned_when_it_was_asked_for(self, hub: LocalHub, call: Any) -> None:
        old = hub.add("owner/base", "model", MODEL)
        adapter = hub.add("owner/on-base", "model", _adapter_of("owner/base"))
        asked = Intake.model_validate(call(inspected, "owner/on-base"))
        assert asked.base is not None
        assert asked.base.revision == old
        larger = {**TENSORS, "model.layers.0.v": np.ones((1000, 4), np.float32)}
        new = hub.add("owner/base", "model", {"model.safetensors": save(larger)})
        moved, pinned = call(resolved, "owner/on-base"), call(resolved, f"owner/on-base@{adapter}", old)
        assert [found["ref"]["base"]["revision"] for found in (moved, pinned)] == [new, old]
        assert [found["weights"]["parameters"] for found in (moved, pinned)] == [4128, 128]
        assert pinned["ref"] == asked.ref.model_dump(mode="json")
        assert call(resolved, "owner/on-base", "f" * 40) == "model.not_on_hub"
        assert call(resolved, "owner/fine", old) == "model.other_base"

    def test_the_base_asked_for_wins_over_the_one_the_adapter_says_now(self, hub: LocalHub, call: Any) -> None:
        old = hub.add("owner/two", "model", MODEL)
        new = hub.add("owner/two", "model", {"README.md": b"new"})
        hub.add("owner/on-two", "model", _adapter_of("owner/two", revision=new))
        assert call(resolved, "owner/on-two")["ref"]["base"]["revision"] == new
        assert call(resolved, "owner/on-two", old)["ref"]["base"]["revision"] == old

    def test_another_architecture_is_refused_before_its_weights_are_downloaded(self, hub: LocalHub, call: Any) -> None:
        hub.add("owner/odd", "model", {**MODEL, "config.json": json.dumps({**CONFIG, "architectures": ["X"]}).encode()})
        hub.requests.clear()
        limits = {"architectures": ["Qwen2ForCausalLM"]}
        key, values = call(inspected, "owner/odd", limits)
        assert (key, values["architecture"]) == ("model.other_architecture", "X")
        # The header, by a range; a download would begin with HEAD.
        assert [line.split()[0] for line in hub.requests if line.endswith("model.safetensors")] == ["GET"]
        assert call(inspected, "owner/lora", limits)["architecture"] == "Qwen2ForCausalLM"
        hub.add("owner/on-odd", "model", _adapter_of("owner/odd"))
        assert call(inspected, "owner/on-odd", limits)[0] == "model.other_architecture"

    def test_a_base_of_remote_code_or_of_this_machine_is_refused(self, hub: LocalHub, call: Any, model: Path) -> None:
        hub.add("owner/remote", "model", {**MODEL, "modeling_evil.py": b""})
        hub.add("owner/on-remote", "model", _adapter_of("owner/remote"))
        key, values = call(inspected, "owner/on-remote")
        assert (key, values["model"]) == ("model.has_code", "owner/remote")
        hub.add("owner/on-local", "model", _adapter_of(str(model)))
        assert call(inspected, "owner/on-local")[0] == "model.not_found"
        hub.add("owner/on-lora", "model", _adapter_of("owner/lora"))
        assert call(inspected, "owner/on-lora")[0] == "model.adapter_of_adapter"
