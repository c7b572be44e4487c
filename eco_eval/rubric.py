"""The rubric: what makes an answer good, regular or bad, and how a judge is asked."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from eco_eval.errors import InstrumentError
from eco_eval.types import Grade, Record, digest

Lang = Literal["es", "en"]

PARTS = ("system", "question", "verdict", "analysis")
"""The Markdown files of a rubric, each as `<part>.<lang>.md`."""


class CriterionText(Record):
    name: str
    good: str
    regular: str
    bad: str


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
    headings: dict[Lang, dict[Grade, str]]
    criteria: tuple[Criterion, ...]
    phrases: dict[Lang, Phrases]
    texts: dict[str, str]
    digest: str

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
            levels = "\n".join(f"- {heads[g]}: {getattr(text, g.value)}" for g in Grade)
            blocks.append(f"{criterion.id}. {text.name}\n{levels}")
        return "\n\n".join(blocks)


def fill(template: str, **values: str) -> str:
    """Put values into `{{name}}` places in one pass: a value that holds such a place is left as it is."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: values[place.group(1)], template).strip()


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
    texts = {f"{part}.{lang}": _text(folder / f"{part}.{lang}.md") for part in PARTS for lang in ("es", "en")}
    # The digest leaves the folder's place out: the same rubric elsewhere is the same rubric.
    files = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in rubric_files(folder)}
    try:
        return Rubric.model_validate({**data, "phrases": phrases, "texts": texts, "digest": digest(files)})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InstrumentError("rubric.bad_field", file=source, field=field, reason=first["msg"]) from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InstrumentError("rubric.missing_file", file=file) from error


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(file))
    except tomllib.TOMLDecodeError as error:
        raise InstrumentError("rubric.bad_toml", file=file, reason=error) from error
