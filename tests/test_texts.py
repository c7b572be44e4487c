"""What people read: the same in both languages, and never a key without a text or a place without a value."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import pytest
from conftest import REPO
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_eval import errors
from eco_eval.errors import DataError, EcoEvalError, EngineError, InputError
from eco_eval.settings import LANGS, Lang
from eco_eval.types import Grade, IssueCode, Kind, Ungraded
from eco_eval.ui.texts import Texts, catalogue

COMPUTED = r"[\w-]+"
ES, EN = catalogue("es"), catalogue("en")
ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, EcoEvalError)}


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@dataclass(frozen=True)
class Use:
    """A call with a message key: `key` is a pattern where part of it is computed, `given` None where values are."""

    where: str
    key: str
    given: frozenset[str] | None

    def check(self) -> set[str]:
        """The texts it may show; of a computed key only one is sure to get its values."""
        found = [key for key in ES if re.fullmatch(self.key, key)]
        assert found, f"{self.where}: no text for {self.key}"
        filled = [key for key in found if self.given is None or places(ES[key]) <= self.given]
        assert filled == found or (COMPUTED in self.key and filled), f"{self.where}: {self.key} with {self.given}"
        return set(found)


def uses(functions: set[str], prefix: str, *folders: str) -> Iterator[Use]:
    """Every call of one of these functions whose first argument is a literal or an f-string."""
    for folder in folders:
        for file in sorted((REPO / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not node.args:
                    continue
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                key = _pattern(node.args[0])
                if name in functions and key is not None:
                    given = frozenset(k.arg for k in node.keywords if k.arg is not None)
                    open_ended = any(k.arg is None for k in node.keywords)
                    where = f"{file.relative_to(REPO)}:{node.lineno}"
                    yield Use(where, re.escape(prefix) + key, None if open_ended else given)


def _pattern(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_pattern(part) or COMPUTED for part in node.values)
    if isinstance(node, ast.IfExp):
        return f"(?:{_pattern(node.body)}|{_pattern(node.orelse)})"
    return None


RAISED = list(uses(ERRORS, "errors.", "eco_eval", "training"))
SHOWN = list(uses({"t", "texts"}, "", "eco_eval", "training"))


def test_both_languages_have_the_same_keys_and_places() -> None:
    assert list(ES) == list(EN)
    for key, text in ES.items():
        assert places(text) == places(EN[key]), key
        assert text.strip(), key
        assert EN[key].strip(), key


def test_every_error_raised_has_a_text_for_its_values() -> None:
    assert len(RAISED) > 50
    for use in RAISED:
        use.check()


def test_every_error_text_is_raised_somewhere() -> None:
    said = {key for use in RAISED for key in use.check()}
    assert {key for key in ES if key.startswith("errors.")} == said


def test_every_text_shown_exists_and_gets_its_values() -> None:
    assert len(SHOWN) > 80
    for use in SHOWN:
        use.check()


def test_every_word_of_the_domain_has_a_text() -> None:
    causes = get_args(Ungraded.model_fields["cause"].annotation)
    for table, words in {
        "grade": [*Grade, "ungraded"],
        "cause": causes,
        "code": get_args(IssueCode),
        "kind": get_args(Kind),
    }.items():
        assert {f"{table}.{word}" for word in words} == {key for key in ES if key.startswith(f"{table}.")}


def test_spanish_opens_its_questions_and_quotes() -> None:
    for key, text in ES.items():
        for opening, closing in ("¿?", "¡!", "«»"):
            assert text.count(opening) == text.count(closing), f"{key}: {text}"


@pytest.mark.parametrize("lang", LANGS)
def test_texts_are_normal_and_quote_as_their_language_does(lang: Lang) -> None:
    for key, text in catalogue(lang).items():
        assert not re.search(r"[ \t]$|\s[,;:?!](\s|$)", text), f"{key}: {text}"
        assert ("'" if lang == "es" else "«") not in text, f"{key}: {text}"


def test_numbers_have_a_decimal_comma_in_spanish() -> None:
    es, en = Texts("es"), Texts("en")
    assert (es.number(62.5), en.number(62.5)) == ("62,5", "62.5")
    assert (es.number(0.126, 2), es.number(7, 0), es.number(-0.5)) == ("0,13", "7", "-0,5")
    for key, text in ES.items():
        assert not re.search(r"\d\.\d", text.replace("CC-BY-4.0", "").replace("127.0.0.1", "")), key


@settings(deadline=None)
@given(st.text())
def test_a_value_is_one_line_and_never_expanded(value: str) -> None:
    found = Texts("es")("errors.data.empty", file=value)
    assert found == f"«{' '.join(value.split())}» no tiene ninguna petición."
    assert len(found.splitlines()) == 1


def test_an_error_is_one_sentence_in_either_language() -> None:
    error = DataError("data.bad_json", file="a.jsonl", line=3, reason="x\ny")
    assert Texts("es").error(error) == "«a.jsonl», línea 3: JSON mal formado (x y). Corrige esa línea."
    assert Texts("en").error(error) == "'a.jsonl', line 3: malformed JSON (x y). Correct that line."


def test_the_log_of_a_broken_stage_is_below_its_sentence_and_of_no_other() -> None:
    log = "first\nlast\n"
    values = dict.fromkeys(places(ES["errors.vllm.died"]), "x")
    broken = EngineError("vllm.died", retryable=True, **values, log=log)
    head, *tail = Texts("es").error(broken).splitlines()
    assert head.startswith("vLLM se cerró")
    assert tail == ["first", "last"]
    assert "\n" not in Texts("es").error(InputError("data.empty", file="f", log=log))


def test_an_unknown_language_or_key_is_a_bug() -> None:
    with pytest.raises(FileNotFoundError):
        catalogue("fr")
    with pytest.raises(KeyError):
        Texts("es")("no.such.key")
