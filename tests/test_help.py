"""Every command's help, in both languages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from eco_eval.cli import build_app
from eco_eval.settings import LANGS, Lang, Settings
from eco_eval.ui.texts import Texts


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, *path, name)


def told(command: Any) -> Iterator[str]:
    """What a command says of itself, of its options and of the commands in it."""
    yield command.help or ""
    for parameter in command.params:
        yield getattr(parameter, "help", "") or ""


def letters(text: str) -> str:
    """Text without spaces and without the lines of boxes."""
    return re.sub(r"[\s\u2500-\u257f]", "", text)


@pytest.mark.parametrize("lang", LANGS)
def test_help_shows_every_word_it_has(
    lang: Lang, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Wide enough for one line a text: the parts of a wrapped one stand among other columns.
    monkeypatch.setenv("COLUMNS", "600")
    app = build_app(Settings(lang=lang), Texts(lang))
    found = 0
    for path, command in commands(typer.main.get_command(app)):
        app([*path, "--help"], standalone_mode=False)
        shown = letters(capsys.readouterr().out)
        for text in told(command):
            assert letters(text.replace("\\[", "[")) in shown, (path, text)
            found += "[" in text
    assert found
