"""Issue codes and Sustainable Development Goals, from constrained labels of any engine."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import get_args

from eco_eval.engines.base import OpenEngine
from eco_eval.store import Store
from eco_eval.triples.asking import TEXTS, choose, fenced, instruction, to_user
from eco_eval.triples.generate import Generated, key_of, read_taxonomy
from eco_eval.triples.records import Problem
from eco_eval.types import IssueCode, Progress, Prompt, no_progress


def classify(
    prompts: Sequence[Prompt],
    engine: OpenEngine,
    store: Store,
    *,
    maker: str,
    progress: Progress = no_progress,
) -> Generated:
    """Issue codes and Sustainable Development Goal for prompts that have none, from constrained labels.

    A code is given when yes is likelier than no. Prompts with codes and goal are left as they are.

    Raises:
        EngineError: the engine cannot start or go on; what was labelled is kept.
    """
    missing = [prompt for prompt in prompts if not (prompt.codes and prompt.sdg) and not prompt.control]
    codes = get_args(IssueCode)
    given: dict[tuple[str, str], list[str]] = {key_of(prompt): list(prompt.codes) for prompt in missing}
    goal_of: dict[tuple[str, str], int | None] = {key_of(prompt): prompt.sdg for prompt in missing}
    problems: list[Problem] = []
    for lang in dict.fromkeys(prompt.lang for prompt in missing):
        group = [prompt for prompt in missing if prompt.lang == lang]
        yes, no = ("sí", "no") if lang == "es" else ("yes", "no")
        asked = [(prompt, code) for prompt in group for code in codes if not prompt.codes]
        conversations = [to_user(_code_question(prompt, code, lang)) for prompt, code in asked]
        labels = choose(conversations, [yes, no], engine, store, f"code-{lang}", maker, progress)
        aimless = [prompt for prompt in group if prompt.sdg is None]
        goals = choose(
            [to_user(_goal_question(prompt, lang)) for prompt in aimless],
            [f"{number:02d}" for number in range(1, 18)],
            engine,
            store,
            f"sdg-{lang}",
            maker,
            progress,
        )
        for (prompt, code), label in zip(asked, labels, strict=True):
            if label.failure is not None:
                problems.append(Problem(cause="no_answer", id=prompt.id, field=code, used=True))
            elif label.label == yes:
                given[key_of(prompt)].append(code)
        for prompt, goal in zip(aimless, goals, strict=True):
            if goal.failure is not None:
                problems.append(Problem(cause="no_answer", id=prompt.id, field="sdg", used=True))
            else:
                goal_of[key_of(prompt)] = int(goal.label)
    labelled = [
        prompt.model_copy(update={"codes": tuple(given[key_of(prompt)]), "sdg": goal_of[key_of(prompt)]})
        if key_of(prompt) in given
        else prompt
        for prompt in prompts
    ]
    return Generated(tuple(labelled), tuple(problems))


def _code_question(prompt: Prompt, code: str, lang: str) -> str:
    rows = [row for row in read_taxonomy().values() if row["code"] == code]
    manifestations = ", ".join(row["name"] for row in rows)
    return instruction("code", lang, issue=rows[0]["issue"], manifestations=manifestations, **fenced(prompt.text))


def _goal_question(prompt: Prompt, lang: str) -> str:
    names = tomllib.loads((TEXTS / "goals.toml").read_text(encoding="utf-8"))
    listed = names[lang if lang in names else "en"]
    goals = "\n".join(f"{number:02d} {name}" for number, name in enumerate(listed, 1))
    return instruction("sdg", lang, goals=goals, **fenced(prompt.text))
