"""Settings come from the environment and from nowhere else; a bad one is named, a key is never shown."""

from __future__ import annotations

import ast
import traceback
from pathlib import Path

import pytest
from conftest import REPO
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_eval.errors import InputError
from eco_eval.settings import LANGS, Settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()
    assert (
        Settings.from_env({"ECO_EVAL_LANG": "", "ECO_EVAL_DATA_DIR": "  "}).model_copy(update={"environ": {}})
        == Settings()
    )


def test_each_variable_is_read() -> None:
    found = Settings.from_env(
        {
            "ECO_EVAL_LANG": "en",
            "ECO_EVAL_DATA_DIR": "/somewhere/else",
            "ECO_EVAL_CACHE_DIR": "/cache",
            "ECO_EVAL_JUDGE_KEY": "k1",
            "ECO_EVAL_CANDIDATE_KEY": "k2",
            "ECO_EVAL_VLLM_ARGS": "--tensor-parallel-size 2 --name 'two words'",
            "ECO_EVAL_START_TIMEOUT": "10",
            "ECO_EVAL_TIMEOUT": "2.5",
            "ECO_EVAL_CONCURRENCY": "4",
            "ECO_EVAL_ENVIRON": "ignored",
            "PATH": "/bin",
        }
    )
    assert found.lang == "en"
    assert found.data_dir == Path("/somewhere/else")
    assert found.models_dir == Path("/cache/models")
    assert (found.judge_key, found.candidate_key) == ("k1", "k2")
    assert found.vllm_args == ("--tensor-parallel-size", "2", "--name", "two words")
    assert (found.start_timeout, found.timeout, found.concurrency) == (10, 2.5, 4)
    assert found.environ["PATH"] == "/bin"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LANG", "fr"),
        ("LANG", "ES"),
        ("TIMEOUT", "soon"),
        ("TIMEOUT", "0"),
        ("TIMEOUT", "nan"),
        ("START_TIMEOUT", "-1"),
        ("CONCURRENCY", "0"),
        ("CONCURRENCY", "1.5"),
        ("VLLM_ARGS", "--name 'never closed"),
    ],
)
def test_a_value_that_does_not_work_is_named(name: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        Settings.from_env({f"ECO_EVAL_{name}": value, "ECO_EVAL_DATA_DIR": "/fine"})
    assert caught.value.key == "settings.bad_value"
    assert caught.value.values == {"variable": f"ECO_EVAL_{name}", "value": value}


def test_keys_are_never_shown() -> None:
    secrets = {"ECO_EVAL_JUDGE_KEY": "sk-judge", "ECO_EVAL_CANDIDATE_KEY": "sk-candidate"}
    found = Settings.from_env(secrets)
    assert "sk-" not in repr(found) + str(found)
    with pytest.raises(InputError) as caught:
        Settings.from_env({**secrets, "ECO_EVAL_LANG": "fr"})
    assert "sk-" not in str(caught.value)
    assert "sk-" not in "".join(traceback.format_exception(caught.value))


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from([f"ECO_EVAL_{n.upper()}" for n in Settings.model_fields]), st.text(), max_size=4)
)
def test_any_environment_gives_settings_or_names_a_variable(environ: dict[str, str]) -> None:
    try:
        found = Settings.from_env(environ)
    except InputError as error:
        named = str(error.values["variable"])
        assert named in environ
    else:
        assert found.lang in LANGS


def test_only_the_settings_read_the_environment() -> None:
    readers = set()
    for file in (REPO / "eco_eval").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        set_only = {n.value for n in nodes if isinstance(n, ast.Attribute) and n.attr == "setdefault"}
        if any(
            ast.unparse(n) in ("os.environ", "os.getenv")
            for n in nodes
            if isinstance(n, ast.Attribute) and n not in set_only
        ):
            readers.add(file.relative_to(REPO).as_posix())
    assert readers == {"eco_eval/settings.py"}
