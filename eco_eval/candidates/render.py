"""Render chat templates within limits of time and memory: the child process of `templates`, run by its path.

Reads from standard input one JSON object: `templates` (texts), `conversations` (lists of messages), `tokens` (special
tokens by name), `memory` (bytes), `seconds` (of processor time), `longest` (characters a rendered text may have).
Prints a JSON list with one entry a template: a list of rendered texts, None where the template refuses a conversation.
Exits with 3 where a text is too long, 4 where memory ran out, 1 where a template cannot be read; the kernel kills it
where time runs out.

Only the standard library and Jinja, because it knows nothing else of where it runs.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.sandbox import ImmutableSandboxedEnvironment

TOO_LONG, NO_MEMORY = 3, 4


class TooLong(Exception):
    """A rendered text has more characters than it may."""


class _Generation(Extension):
    """`{% generation %}` marks what the model says; for a prompt it changes nothing."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Any) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller: Any) -> str:
        return str(caller())


def environment() -> ImmutableSandboxedEnvironment:
    """What `transformers` renders chat templates in (`utils/chat_template_utils.py`)."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: object, ensure_ascii: bool = False, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **more)

    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def main() -> int:
    asked = json.load(sys.stdin)
    for what, limit in {
        resource.RLIMIT_AS: asked["memory"],
        resource.RLIMIT_CPU: asked["seconds"],
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }.items():
        resource.setrlimit(what, (limit, limit))
    try:
        made = environment()
        templates = [made.from_string(text) for text in asked["templates"]]
        rendered = [
            [_render(template, messages, asked) for messages in asked["conversations"]] for template in templates
        ]
    except TooLong:
        return TOO_LONG
    except MemoryError:
        return NO_MEMORY
    sys.stdout.write(json.dumps(rendered))
    return 0


def _render(template: jinja2.Template, messages: list[dict[str, str]], asked: dict[str, Any]) -> str | None:
    pieces, length = [], 0
    given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True, **asked["tokens"]}
    try:
        for piece in template.generate(**given):
            pieces.append(piece)
            length += len(piece)
            if length > asked["longest"]:
                raise TooLong
    except (MemoryError, TooLong):
        raise
    except Exception:
        # A stranger's program. The sandbox limits what it can reach, not what it raises.
        return None
    return "".join(pieces)


if __name__ == "__main__":
    sys.exit(main())
