"""The rubric: what makes an answer good, regular or bad, and how a judge is asked."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError, field_validator

from eco_eval.errors import InstrumentError
from eco_eval.types import GRADES, Record, digest

Lang = Literal["es", "en"]

LANGS: tuple[Lang, ...] = get_args(Lang)

PARTS = {"system": {"criteria"}, "question": {"fence", "prompt", "answer"}, "verdict": set(), "analysis": set()}
"""The Markdown files of a rubric, each as `<part>.<lang>.md`, and the places each must have."""

_PLACE = re.compile(r"\{\{(\w+)\}\}")


class Levels(Record):
    """One text a grade."""

    good: str
    regular: str
    bad: str


class CriterionText(Levels):
    name: str


class Criterion(Record):
    id: str
    es: CriterionText
    en: CriterionText


class Phrases(Record):
    """`cut` and `shortened` stand for what an answer lost; `constant` is the anchor that never varies."""

    cut: str
    shortened: str
    constant: str


class Rubric(Record):
    """A rubric as data: criteria, labels, and the texts a judge reads, in each language."""

    name: str
    licence: str
    sources: tuple[str, ...]
    labels: dict[Lang, tuple[str, str, str]]
    headings: dict[Lang, Levels]
    criteria: tuple[Criterion, ...]
    phrases: dict[Lang, Phrases]
    texts: dict[str, str]
    digest: str

    @field_validator("labels", "headings", "phrases")
    @classmethod
    def _in_every_language(cls, value: dict[Lang, Any]) -> dict[Lang, Any]:
        for lang in LANGS:
            if lang not in value:
                raise ValueError(f"{lang} is missing")
        return value

    def system(self, lang: Lang) -> str:
        """The judge's instruction: the same for every answer."""
        return fill(self.texts[f"system.{lang}"], criteria=self._criteria(lang))

    def text(self, part: str, lang: Lang, **values: str) -> str:
        """One of the texts put to the judge, filled in."""
        return fill(self.texts[f"{part}.{lang}"], **values)

    def _criteria(self, lang: Lang) -> str:
        heads = self.headings[lang]
        blocks = []
        for criterion in self.criteria:
            text: CriterionText = getattr(criterion, lang)
            levels = "\n".join(f"- {getattr(heads, g)}: {getattr(text, g)}" for g in GRADES)
            blocks.append(f"{criterion.id}. {text.name}\n{levels}")
        return "\n\n".join(blocks)


def fill(template: str, **values: str) -> str:
    """Put values into `{{name}}` places in one pass: a value that holds such a place is left as it is."""
    return _PLACE.sub(lambda place: values[place.group(1)], template).strip()


def file_digest(file: Path) -> str:
    """SHA-256 of a text file with line ends as `\\n`, so that a checkout with CRLF is still the same file."""
    return hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def rubric_files(folder: Path) -> list[Path]:
    """Every file that decides what a rubric means, sorted."""
    return sorted(f for f in folder.iterdir() if f.suffix in (".toml", ".md"))


def load_rubric(folder: Path) -> Rubric:
    """Read and check a rubric folder.

    Raises:
        InstrumentError: a file is missing or wrong; names it and the field.
    """
    source = folder / "rubric.toml"
    data = _toml(source)
    phrases = _toml(folder / "phrases.toml")
    texts = {f"{part}.{lang}": _template(folder, part, lang) for part in PARTS for lang in LANGS}
    # The digest leaves the folder's place out: the same rubric elsewhere is the same rubric.
    files = {f.name: file_digest(f) for f in rubric_files(folder)}
    try:
        return Rubric.model_validate({**data, "phrases": phrases, "texts": texts, "digest": digest(files)})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        file = folder / "phrases.toml" if first["loc"][:1] == ("phrases",) else source
        raise InstrumentError("rubric.bad_field", file=file, field=field, reason=first["msg"]) from error


def _template(folder: Path, part: str, lang: Lang) -> str:
    file = folder / f"{part}.{lang}.md"
    text = _text(file)
    for place in sorted(PARTS[part] ^ set(_PLACE.findall(text))):
        reason = "missing" if place in PARTS[part] else "unknown"
        raise InstrumentError("rubric.bad_field", file=file, field=f"{{{{{place}}}}}", reason=reason)
    return text


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InstrumentError("rubric.missing_file", file=file) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InstrumentError("data.not_utf8", file=file, line=line) from error


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(file))
    except tomllib.TOMLDecodeError as error:
        raise InstrumentError("rubric.bad_toml", file=file, reason=error) from error
