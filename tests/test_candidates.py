"""What is this model? One exact set of weights, or a refusal that says why."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub import LocalHub, clients
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from eco_eval.candidates import WANTED, check_files, declared, resolve
from eco_eval.errors import EcoEvalError, EngineError, SubmissionRejected
from eco_eval.types import MAX_NAME, MAX_NAMES, Declared, ModelRef

CONFIG = {"architectures": ["Qwen2ForCausalLM"], "torch_dtype": "bfloat16"}
FILES = ["config.json", "model.safetensors", "tokenizer.json"]
SHA = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = save({"w": np.zeros((2, 3), np.float32)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a model."""
    made = tmp_path / "my-model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(CONFIG))
    (made / "model.safetensors").write_bytes(WEIGHTS)
    (made / "tokenizer.json").write_text("{}")
    return made


def refusal(name: str | Path) -> str:
    with pytest.raises(SubmissionRejected) as caught:
        resolve(str(name))
    assert caught.value.values["model"] == str(name).replace("\0", r"\x00")
    return caught.value.key


class TestCheckFiles:
    @pytest.mark.parametrize("tokenizer", ["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"])
    def test_weights_configuration_and_tokenizer_are_enough(self, tokenizer: str) -> None:
        check_files("m", ["model-00001-of-00002.safetensors", tokenizer], CONFIG)

    @pytest.mark.parametrize(
        ("files", "config", "key"),
        [
            ([*FILES, "modeling_x.py"], CONFIG, "model.has_code"),
            ([*FILES, "sub/kernel.so"], CONFIG, "model.has_code"),
            (FILES, {**CONFIG, "auto_map": {"AutoModel": "x.Y"}}, "model.auto_map"),
            (["config.json", "pytorch_model.bin", "tokenizer.json"], CONFIG, "model.pickle"),
            (["config.json", "model.ckpt", "tokenizer.json"], CONFIG, "model.pickle"),
            (["config.json", "tokenizer.json"], CONFIG, "model.no_weights"),
            (["config.json", "model.gguf", "tokenizer.json"], CONFIG, "model.no_weights"),
            (["config.json", "model.safetensors"], CONFIG, "model.no_tokenizer"),
            (["config.json", "model.safetensors", "sub/tokenizer.json"], CONFIG, "model.no_tokenizer"),
            (FILES, {}, "model.no_architecture"),
            (FILES, {"architectures": []}, "model.no_architecture"),
        ],
    )
    def test_what_must_not_be_loaded_is_refused(self, files: list[str], config: dict[str, Any], key: str) -> None:
        with pytest.raises(SubmissionRejected) as caught:
            check_files("m", files, config)
        assert caught.value.key == key

    def test_a_file_of_code_or_pickle_is_named(self) -> None:
        for extra, key in (("a/b.py", "model.has_code"), ("w.pt", "model.pickle")):
            with pytest.raises(SubmissionRejected) as caught:
                check_files("m", [extra, "tokenizer.json"], CONFIG)
            assert (caught.value.key, caught.value.values["file"]) == (key, extra)

    def test_pickles_beside_safetensors_are_let_be(self) -> None:
        check_files("m", [*FILES, "pytorch_model.bin"], CONFIG)


class TestLocal:
    def test_the_folder_s_own_name_is_all_that_is_kept_of_its_place(self, folder: Path) -> None:
        found = resolve(str(folder))
        assert (found.name, found.source, found.dtype) == ("my-model", "local", "bfloat16")
        assert found.path == str(folder)
        assert str(folder) not in found.model_dump_json()
        assert len(found.revision) == 40

    def test_a_relative_path_and_a_link_lead_to_the_same(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "link").symlink_to(folder)
        monkeypatch.chdir(folder)
        assert resolve(".") == resolve("../link") == resolve(str(folder))

    def test_the_same_content_elsewhere_is_the_same_revision(self, folder: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "other-name"))
        (copy / ".git").mkdir()
        (copy / ".git" / "HEAD").write_text("ref")
        (copy / ".cache" / "huggingface").mkdir(parents=True)
        (copy / ".cache" / "huggingface" / "when.metadata").write_text("1763633040.1")
        found = resolve(str(copy))
        assert found.revision == resolve(str(folder)).revision
        assert found.name == "other-name"

    @pytest.mark.parametrize("name", FILES)
    def test_one_changed_byte_is_another_revision(self, folder: Path, name: str) -> None:
        before = resolve(str(folder)).revision
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + b"\1" if name.endswith(".safetensors") else data + b" ")
        assert resolve(str(folder)).revision != before
        (folder / name).write_bytes(data)
        assert resolve(str(folder)).revision == before

    def test_a_renamed_file_is_another_revision(self, folder: Path) -> None:
        before = resolve(str(folder)).revision
        (folder / "model.safetensors").rename(folder / "weights.safetensors")
        assert resolve(str(folder)).revision != before

    def test_the_type_of_numbers_is_the_configuration_s(self, folder: Path) -> None:
        for said, dtype in (({"dtype": "float16"}, "float16"), ({}, "float32")):
            (folder / "config.json").write_text(json.dumps({"architectures": ["X"], **said}))
            assert resolve(str(folder)).dtype == dtype

    @pytest.mark.parametrize(
        ("content", "key"),
        [
            (b"{", "model.bad_config"),
            (b"[]", "model.bad_config"),
            (b"\xff", "model.bad_config"),
            (b"[" * 100_000, "model.bad_config"),
            (b'{"vocab_size": ' + b"1" * 5000 + b"}", "model.bad_config"),
            (b"{}", "model.no_architecture"),
        ],
    )
    def test_a_bad_configuration_is_refused(self, folder: Path, content: bytes, key: str) -> None:
        (folder / "config.json").write_bytes(content)
        assert refusal(folder) == key

    def test_a_configuration_with_a_bom_is_read(self, folder: Path) -> None:
        (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(CONFIG).encode())
        assert resolve(str(folder)).dtype == "bfloat16"

    def test_code_deep_in_the_folder_is_found(self, folder: Path) -> None:
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "b" / "evil.py").write_text("")
        assert refusal(folder) == "model.has_code"

    def test_what_is_not_a_model_folder_is_refused(self, folder: Path) -> None:
        assert refusal(folder / "config.json") == "model.not_a_folder"
        (folder / "config.json").unlink()
        assert refusal(folder) == "model.no_config"

    def test_a_real_tiny_model_passes(self, tiny_model: Path) -> None:
        found = resolve(str(tiny_model))
        assert (found.name, found.dtype) == ("tiny", "float32")


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["", " ", "model", "./nowhere", "/nowhere/at/all", "~nobody-of-that-name/x", "a/b/c", "a/b@", "a/../b", "-a/b"],
    )
    def test_what_is_no_name_is_not_found(self, name: str) -> None:
        assert refusal(name) == "model.not_found"

    @pytest.mark.parametrize("name", ["a/b\0", "~\0", "a" * 1000, "https://huggingface.co/a/b"])
    def test_what_could_be_no_path_is_not_found(self, name: str) -> None:
        assert refusal(name) == "model.not_found"

    @pytest.mark.parametrize("name", ["a--b/c", "a/b.git", "a/" + "b" * 120, "a/b-", "a..b/c"])
    def test_what_the_hub_calls_no_name_is_not_found(self, name: str) -> None:
        assert refusal(name) == "model.not_found"

    @settings(deadline=None)
    @given(st.text(max_size=20) | st.from_regex(r"[a-z.~/-]{1,8}/[a-z.@-]{1,8}", fullmatch=True))
    def test_any_name_is_refused_or_unreachable(self, name: str) -> None:
        """The tests run with the Hub offline."""
        with suppress(EcoEvalError):
            assert Path(resolve(name).path or "").is_dir()


def test_offline_the_hub_is_unreachable() -> None:
    with pytest.raises(EngineError) as caught:
        resolve("owner/model")
    assert (caught.value.key, caught.value.retryable) == ("hub.unreachable", True)


CARD = """\
---
license: apache-2.0
language:
- es
base_model:
- Qwen/Qwen2.5-7B-Instruct
- "mistralai/Mistral-7B-v0.3"  # merged
base_model_relation: merge
datasets: [neovalle/H4rmony_dpo, 'someone/corpus']
model-index:
- name: my-model
  results: broken
---
# My model

---
base_model: not/this
---
"""


def unchecked(folder: Path) -> ModelRef:
    """A reference to a folder nobody checked."""
    return ModelRef(name="owner/mine", source="hub", revision=SHA, path=str(folder))


def says(folder: Path, card: str | bytes = "", **config: object) -> Declared:
    """What a folder with that card and that configuration declares."""
    (folder / "README.md").write_bytes(card if isinstance(card, bytes) else card.encode())
    (folder / "config.json").write_text(json.dumps(config))
    return declared(unchecked(folder))


class TestDeclared:
    def test_bases_and_data_are_read_from_the_card_and_the_architecture_from_the_configuration(
        self, folder: Path
    ) -> None:
        assert says(folder, CARD, model_type="qwen2", _name_or_path="Qwen/Qwen2.5-7B") == Declared(
            base_models=("Qwen/Qwen2.5-7B-Instruct", "mistralai/Mistral-7B-v0.3"),
            model_type="qwen2",
            datasets=("neovalle/H4rmony_dpo", "someone/corpus"),
            name_or_path="Qwen/Qwen2.5-7B",
        )

    @pytest.mark.parametrize(
        ("yaml", "bases"),
        [
            ("base_model: a/b", ("a/b",)),
            ("base_model:\n  - a/b\n  - a/b\n  - c/d", ("a/b", "c/d")),
            ("base_model: [a/b, 7, [c/d], {e: f}, null, '', ~]", ("a/b", "7")),
            ("base_model: null", ()),
            ("base_model:", ()),
            ("base_model: {a: b}", ()),
            ("base_model: >-\n  a/b", ("a/b",)),
            ("base_model: /home/someone/models/Qwen2.5-7B/", ("Qwen2.5-7B",)),
            ("base_model: ../checkpoint-500", ("checkpoint-500",)),
            ("base_model: 'C:\\models\\llama'", ("llama",)),
            ("base_model: https://huggingface.co/a/b", ("https://huggingface.co/a/b",)),
            ("no: 1\n1: 2\nbase_model: a/b\nwhen: 2024-13-45", ("a/b",)),
        ],
    )
    def test_a_base_is_one_name_or_a_list_of_names(self, folder: Path, yaml: str, bases: tuple[str, ...]) -> None:
        assert says(folder, f"---\n{yaml}\n---\n").base_models == bases

    def test_line_ends_a_bom_and_an_end_without_line_break_do_not_matter(self, folder: Path) -> None:
        for card in (b"---\r\nbase_model: a/b\r\n---\r\n", b"\xef\xbb\xbf\n---\nbase_model: a/b\n---"):
            assert says(folder, card).base_models == ("a/b",)

    @pytest.mark.parametrize(
        "card",
        [
            b"",
            b"# A model",
            b"---\nbase_model: a/b\n",
            b"---\nbase_model: [a/b\n---\n",
            b"---\n- base_model\n---\n",
            b"---\nbase_model: a/b\n\tx: y\n---\n",
            b"---\nbase_model: a/b\n? [x]\n: y\n---\n",
            b"---\nbase_model: a/b\nx: *nowhere\n---\n",
            b'---\nbase_model: a/b\nx: "\\UFFFFFFFF"\n---\n',
            b"---\nbase_model: \x00\n---\n",
            b"---\nbase_model: " + b"[" * 5000 + b"\n---\n",
            b"---\n" + b"x: y\n" * 60_000 + b"base_model: a/b\n---\n",
        ],
    )
    def test_a_broken_card_declares_nothing(self, folder: Path, card: bytes) -> None:
        assert says(folder, card) == Declared()

    def test_a_card_of_references_within_references_is_read_at_once(self, folder: Path) -> None:
        """The safe loader of PyYAML takes ten times longer a line, some hours for these."""
        lines = [f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
        start = time.perf_counter()
        found = says(folder, "\n".join(["---", "a0: &a0 {k: v}", *lines, "base_model: a/b", "---"]))
        assert found.base_models == ("a/b",)
        assert time.perf_counter() - start < 5

    def test_names_too_long_too_many_or_not_to_be_shown_are_left_out(self, folder: Path) -> None:
        shown = [f"a/{i}" for i in range(50)]
        hidden = ["x" * (MAX_NAME + 1), '"a\\u202Eb"', '"a\\nb"', '"\\x1b[31m"', '"\\uD800"']
        found = says(folder, "\n".join(["---", "datasets:", *(f"- {name}" for name in hidden + shown), "---"]))
        assert found.datasets == tuple(shown[:MAX_NAMES])
        assert says(folder, model_type="x" * (MAX_NAME + 1)).model_type == ""
        assert says(folder, model_type=["qwen2", "llama"]).model_type == "qwen2"

    @pytest.mark.parametrize("loaded", ["OWNER/mine", "/models/Qwen", "./Qwen", "Qwen", "a/b/c", "", 7, None, ["a/b"]])
    def test_where_a_configuration_was_loaded_from_counts_only_as_another_model_of_the_hub(
        self, folder: Path, loaded: object
    ) -> None:
        assert says(folder, _name_or_path=loaded) == Declared()

    def test_a_broken_configuration_declares_nothing_and_leaves_the_card(self, folder: Path) -> None:
        says(folder, CARD)
        for content in (b"{", b"[]", b"\xff", b"[" * 100_000):
            (folder / "config.json").write_bytes(content)
            found = declared(unchecked(folder))
            assert (found.model_type, len(found.base_models)) == ("", 2)

    def test_a_model_trained_here_names_its_base(self, folder: Path) -> None:
        for base in ("/cache/models/Qwen2.5-0.5B", {"name": "Qwen2.5-0.5B", "revision": SHA}):
            (folder / "run.json").write_text(json.dumps({"made_by": "x", "base": base}))
            assert declared(resolve(str(folder))).base_models == ("Qwen2.5-0.5B",)
        for nothing in (None, {"name": {}}, {}, 7):
            (folder / "run.json").write_text(json.dumps({"base": nothing}))
            assert declared(resolve(str(folder))) == Declared()

    def test_what_has_no_files_declares_nothing(self, tmp_path: Path) -> None:
        assert declared(ModelRef(name="anchor-best", source="anchor", revision="")) == Declared()
        assert declared(ModelRef(name="gpt-x", source="endpoint", revision="")) == Declared()
        assert declared(unchecked(tmp_path / "gone")) == Declared()

    @settings(deadline=None)
    @given(st.binary(max_size=200) | st.text(alphabet="ab&*<>[]{}:-?!|'\"%\\#, \n", max_size=80).map(str.encode))
    def test_no_card_is_an_error(self, tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
        folder = tmp_path_factory.getbasetemp() / "any-card"
        folder.mkdir(exist_ok=True)
        found = says(folder, b"---\nbase_model: " + text + b"\n---\n")
        assert all(name.isprintable() and 0 < len(name) <= MAX_NAME for name in found.base_models)


REPOS: dict[str, dict[str, bytes]] = {
    "owner/fine": {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": WEIGHTS,
        "tokenizer.json": b"{}",
        "README.md": b"---\nbase_model: Qwen/Qwen2.5-7B\n---\n# Fine\n",
        "docs/README.md": b"never downloaded",
        "pytorch_model.bin": b"never downloaded",
    },
    "owner/code": dict.fromkeys([*FILES, "evil.py"], b"{}"),
    "owner/empty": {},
}


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        for name, files in REPOS.items():
            hub.add(name, "model", files)
        yield hub


def resolved(*names: str) -> list[dict[str, Any]]:
    """What `resolve` makes of each name."""
    found: list[dict[str, Any]] = []
    for name in names:
        try:
            ref = resolve(name)
            found.append({**ref.model_dump(), "path": ref.path})
        except EcoEvalError as error:
            found.append({"type": type(error).__name__, "key": error.key, **error.values})
    return found


class TestHub:
    def test_a_model_is_downloaded_at_one_commit_without_what_is_not_wanted(
        self, hub: LocalHub, tmp_path: Path
    ) -> None:
        with clients(hub, tmp_path, HF_HUB_OFFLINE="0") as call:
            (found,) = call(resolved, "owner/fine@main")
        assert (found["name"], found["source"]) == ("owner/fine", "hub")
        assert found["revision"] == Path(found["path"]).name
        assert found["dtype"] == "bfloat16"
        assert sorted(file.name for file in Path(found["path"]).iterdir()) == ["README.md", *FILES]
        assert declared(ModelRef.model_validate(found)).base_models == ("Qwen/Qwen2.5-7B",)
        assert "*.py" not in WANTED

    def test_what_cannot_be_used_is_refused(self, hub: LocalHub, tmp_path: Path) -> None:
        names = ["owner/code", "owner/empty", "owner/missing", "owner/fine@no-such-branch", "owner/fine.git"]
        with clients(hub, tmp_path, HF_HUB_OFFLINE="0") as call:
            found = call(resolved, *names)
        assert {f["type"] for f in found} == {"SubmissionRejected"}
        keys = ["has_code", "no_config", "not_on_hub", "not_on_hub", "not_found"]
        assert [f["key"] for f in found] == [f"model.{key}" for key in keys]
        assert not list(tmp_path.rglob("*.safetensors"))

    def test_nobody_listening_is_unreachable(self, tmp_path: Path) -> None:
        hub = LocalHub()
        hub.start()
        hub.stop()
        with clients(hub, tmp_path, HF_HUB_OFFLINE="0") as call:
            (found,) = call(resolved, "owner/fine")
        assert (found["type"], found["key"], found["model"]) == ("EngineError", "hub.unreachable", "owner/fine")

    def test_a_broken_hub_is_unreachable(self, tmp_path: Path) -> None:
        with LocalHub() as hub, clients(hub, tmp_path, HF_HUB_OFFLINE="0") as call:
            hub.down = True
            (found,) = call(resolved, "owner/fine")
        assert found["key"] == "hub.unreachable"
