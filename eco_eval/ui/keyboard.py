"""Keys that press a page's buttons, and the way back to its top: scripts for the browser."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

_KEYS: Final = """() => {
  if (window.ecoKeys?.includes(PAGE)) return;
  (window.ecoKeys ??= []).push(PAGE);
  document.addEventListener("keydown", (event) => {
    const name = KEYS[event.key], on = event.target;
    const seen = document.querySelector(`#${PAGE}-shown`)?.offsetParent;
    const held = event.ctrlKey || event.metaKey || event.altKey || event.repeat
      || (event.shiftKey && event.key.length > 1);
    if (!name || !seen || held) return;
    if (on.closest("textarea, select, input:not([type=checkbox]), [role=listbox]")) return;
    const off = SWITCH && !document.querySelector(`#${SWITCH}`)?.checked;
    if (event.key === "Enter" ? on.closest("a, button, summary, input") : off) return;
    const button = document.querySelector(`#${PAGE}-${name}`);
    const press = button?.matches("button") ? button : button?.querySelector("button");
    if (!press || press.disabled || !press.offsetParent) return;
    event.preventDefault();
    press.click();
  });
}"""

_TOP: Final = """() => {
  document.activeElement?.blur();
  const top = document.querySelector(`#${PAGE}-shown`);
  if (top && top.getBoundingClientRect().top < 0) top.scrollIntoView({ block: "start" });
}"""


def keys_script(page: str, keys: Mapping[str, str], switch: str | None = None) -> str:
    """Keys press buttons while what has the id `<page>-shown` is seen; Enter does what it does on what has the focus.

    Args:
        keys: the key's name in the browser, and the button's: its id is `<page>-<name>`.
        switch: id of a checkbox that turns all but Enter off, as letters need it (WCAG 2.1.4).
    """
    return _filled(_KEYS, {"PAGE": page, "KEYS": dict(keys), "SWITCH": switch})


def top_script(page: str) -> str:
    """Back to the top of what has the id `<page>-shown`, where it was scrolled past."""
    return _filled(_TOP, {"PAGE": page})


def _filled(script: str, given: Mapping[str, object]) -> str:
    names = "".join(f"const {name} = {json.dumps(value)}; " for name, value in given.items())
    head, brace, rest = script.partition("{")
    return f"{head}{brace} {names}{rest}"
