"""What the `data` commands share: reading a source with its report, running an engine, writing an outcome."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eco_eval.commands import candidate_of, engine_name, local_cache, stage_bars
from eco_eval.errors import InputError
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    from eco_eval.triples.generate import Generated
    from eco_eval.triples.records import Loaded, Pair, Problem, Triple
    from eco_eval.types import Prompt

SHOWN = 5
"""Problems of one cause that are printed; the rest are counted, and all are in `--report`."""


class Desk:
    """One command's work: what it read, and what it had to say about it."""

    def __init__(self, settings: Settings, t: Texts) -> None:
        self.settings = settings
        self.t = t
        self.told: list[Problem] = []

    def load(self, source: str, *, revision: str | None = None, lang: str | None = None) -> Loaded:
        """A source by name of a set, file, or Hub dataset, with what could not be used on standard error."""
        from eco_eval.instrument import DATA
        from eco_eval.sets import find_set, set_names
        from eco_eval.triples import load

        built = self.settings.prompts_dir
        known = source in set_names(DATA) or (source == Path(source).name and (built / f"{source}.jsonl").is_file())
        if known and not Path(source).exists():
            named = find_set(source, DATA, built)
            found = load(named.prompts, lang=lang)
            found = found.model_copy(update={"attribution": named.attribution or found.attribution})
        else:
            found = load(source, revision=revision, lang=lang)
        if found.attribution:
            print(self.t("score.attribution", who=found.attribution), file=sys.stderr)
        problems = tuple(problem.model_copy(update={"source": source}) for problem in found.problems)
        return found.model_copy(update={"problems": problems})

    def triples(self, source: str, **options: Any) -> tuple[Triple, ...]:
        """The triples of a source, its problems reported.

        Raises:
            InputError: it has none.
        """
        found = self.load(source, **options)
        self.tell(found.problems, None)
        if not found.triples:
            raise InputError("data.no_triples", source=source)
        return found.triples

    def prompts(self, source: str, **options: Any) -> tuple[Prompt, ...]:
        """The prompts of a source, its problems reported.

        Raises:
            InputError: it has none.
        """
        found = self.load(source, **options)
        self.tell([problem for problem in found.problems if problem.cause != "incomplete"], None)
        if not found.prompts:
            raise InputError("data.empty", file=source)
        return found.prompts

    def check(self, force: bool, *targets: Path | None, kept: Path | None = None) -> None:
        """Refuse to overwrite before any work is done: what is there, one target by another, or what is `kept`."""
        from eco_eval.triples.writing import check_target

        taken = {kept.absolute()} if kept else set()
        for target in targets:
            if target is None:
                continue
            check_target(target, force=force)
            if target.absolute() in taken:
                raise InputError("data.same_file", file=target)
            taken.add(target.absolute())

    def write(self, records: Sequence[Prompt | Pair], out: Path | None, force: bool) -> None:
        """Write records and say so."""
        from eco_eval.triples import write

        if out is not None:
            print(self.t("data.written", count=write(records, out, force=force), file=out))

    def keep(
        self,
        made: Sequence[Prompt],
        problems: Sequence[Problem],
        source: str,
        out: Path,
        report: Path | None,
        force: bool,
    ) -> None:
        """Report and write what was made or chosen.

        Raises:
            InputError: there is nothing of it; nothing is written but the report.
        """
        self.tell(problems, report)
        if not made:
            raise InputError("data.nothing_made", source=source)
        self.write(made, out, force)

    def tell(self, problems: Sequence[Problem], report: Path | None) -> None:
        """Print problems by cause, the first of each, and write all that were told so far if asked."""
        from eco_eval.triples.writing import write_rows

        for (source, cause, is_used), count in Counter((p.source, p.cause, p.used) for p in problems).most_common():
            some = [p for p in problems if (p.source, p.cause, p.used) == (source, cause, is_used)]
            used = self.t("data.used" if is_used else "data.unused")
            head = f"{source}: " if source else ""
            print(f"{head}{count} · {self.t(f'data.problem.{cause}')} ({used})", file=sys.stderr)
            for problem in some[:SHOWN]:
                print(f"    {self._where(problem)}", file=sys.stderr)
        self.told += problems
        if report is not None:
            write_rows([problem.model_dump(mode="json", exclude_none=True) for problem in self.told], report)

    def _where(self, problem: Problem) -> str:
        parts = [
            self.t("data.line", line=problem.line) if problem.line else "",
            self.t("data.row", row=problem.row) if problem.row and not problem.line else "",
            problem.id or "",
            self.t("data.field", field=problem.field) if problem.field else "",
            problem.detail,
        ]
        return " · ".join(" ".join(part[:80].split()) for part in parts if part) or "…"

    def make(
        self,
        model: str,
        engine: str,
        url: str | None,
        work: Callable[..., Generated],
        *arguments: Any,
        **options: Any,
    ) -> Generated:
        """Run a generating function with an engine, its progress shown."""
        from eco_eval.engines import open_engine

        ref = candidate_of(model, engine, url, None)
        kind = engine_name(engine)
        key = self.settings.candidate_key

        def opened() -> Any:
            return open_engine(kind, ref, self.settings, context=4096, dtype=ref.dtype, url=url, key=key)

        with stage_bars(self.t, ref.name) as progress:
            maker = f"{ref.name}@{ref.revision[:12]}"
            return work(*arguments, opened, local_cache(self.settings), maker=maker, progress=progress, **options)
