"""Which architectures an engine can load, known without loading the engine."""

from __future__ import annotations

import ast
import importlib.util
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Where each library lists the names a `config.json` may have under `architectures`, and the tables that count.
_LISTS = {
    "transformers": ("transformers", "models/auto/modeling_auto.py", ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",)),
    "vllm": (
        "vllm",
        "model_executor/models/registry.py",
        ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS"),
    ),
}

_ONE = threading.Lock()
"""Python 3.11 raises SystemError where two threads build a syntax tree at once (python/cpython#106905)."""


@cache
def architectures(engine: str) -> frozenset[str] | None:
    """The architectures that an engine of this machine can load; None where that is not known.

    Read from the source of the library, in a hundredth of a second: importing it takes 4.5 s (transformers, with
    torch) or 6.5 s (vLLM). vLLM tries some others through transformers, which are not among them.

    Args:
        engine: `transformers`, `vllm` or `endpoint`; of an endpoint nothing is known.
    """
    if engine not in _LISTS:
        return None
    package, file, tables = _LISTS[engine]
    spec = importlib.util.find_spec(package)
    places = [Path(folder) / file for folder in (spec.submodule_search_locations or [] if spec else [])]
    source = next((place for place in places if place.is_file()), None)
    if source is None:
        return None
    with _ONE:
        module = ast.parse(source.read_bytes())
    found = {name: set(names) for name, names in _tables(module)}
    # Another version may list them another way: then nothing is known, rather than too few.
    if not all(found.get(table) for table in tables):
        return None
    return frozenset().union(*(found[table] for table in tables))


def _tables(module: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Every table of the module that is written out, with its architectures."""
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, list(_architectures(node.value))


def _architectures(table: ast.expr) -> Iterator[str]:
    if isinstance(table, ast.Dict):  # {"Qwen2ForCausalLM": (module, class)}
        yield from (key.value for key in table.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
    if isinstance(table, ast.Call) and table.args and isinstance(table.args[0], ast.List):
        for pair in table.args[0].elts:  # OrderedDict([("qwen2", "Qwen2ForCausalLM")])
            last = pair.elts[-1] if isinstance(pair, ast.Tuple) and pair.elts else pair
            for name in last.elts if isinstance(last, ast.Tuple) else [last]:
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield name.value
