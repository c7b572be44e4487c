"""The words people read, in Spanish and English, from one catalogue a language."""

from __future__ import annotations

import re
import tomllib
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from eco_eval.errors import EcoEvalError, StageError
from eco_eval.settings import Lang


class Texts:
    """One language's catalogue: `t("page.title")` is the text, `t("cli.rate", rate="5")` the text filled in."""

    def __init__(self, lang: Lang) -> None:
        self.lang: Lang = lang
        self._texts = catalogue(lang)

    def __call__(self, key: str, **values: object) -> str:
        text = self._texts[key]
        return text.format_map({name: _plain(value) for name, value in values.items()}) if values else text

    def number(self, value: float, digits: int = 1) -> str:
        """A number in the language's form: decimal comma in Spanish."""
        text = f"{value:.{digits}f}"
        return text.replace(".", ",") if self.lang == "es" else text

    def time(self, seconds: float) -> str:
        """A moment, in seconds since 1970, as local date and time."""
        form = "%d/%m/%Y %H:%M:%S" if self.lang == "es" else "%Y-%m-%d %H:%M:%S"
        return datetime.fromtimestamp(seconds).strftime(form)

    def figures(self, text: str) -> str:
        """Text with the numbers in it in the language's form."""
        return re.sub(r"(?<=\d)\.(?=\d)", ",", text) if self.lang == "es" else text

    def prose(self, name: str, **values: str) -> str:
        """A long text of this project, `<name>.<lang>.md`, as HTML.

        Args:
            values: HTML for its `{{name}}` places, already escaped. A place alone in its paragraph may be a block. What
                is put in is not read as Markdown, so that a stranger's words stay words.
        """
        filled = _PLACE.sub(lambda place: values[place[1] or place[2]], _rendered(name, self.lang))
        return filled.replace("<a href=", "<a target='_blank' rel='noopener' href=")

    def error(self, error: EcoEvalError) -> str:
        """An error as one sentence of what, where and what next, and a log's tail below where there is one."""
        message = self(f"errors.{error.key}", **error.values)
        log = str(error.values.get("log") or "").strip()
        return f"{message}\n{log}" if log and isinstance(error, StageError) else message


_PLACE = re.compile(r"<p>\{\{(\w+)\}\}</p>|\{\{(\w+)\}\}")


@cache
def _rendered(name: str, lang: Lang) -> str:
    """A Markdown file as HTML, its places as they are; no HTML of its own passes."""
    from markdown_it import MarkdownIt

    text = Path(__file__).with_name(f"{name}.{lang}.md").read_text(encoding="utf-8")
    html: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    scroll = "<div class='eco-scroll' tabindex='0'><table>"
    return html.replace("<table>", scroll).replace("</table>", "</table></div>")


@cache
def catalogue(lang: Lang) -> dict[str, str]:
    """All texts of a language, keys joined by dots."""
    return _flat(tomllib.loads(Path(__file__).with_name(f"{lang}.toml").read_text(encoding="utf-8")))


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = str(value)
    return flat


def _plain(value: object) -> str:
    """A value as one line of text: messages stay one line whatever they quote."""
    return " ".join(str(value).split())
