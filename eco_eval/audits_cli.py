"""`eco-eval audits`: draw answers for people to grade, add their grades, and say what follows. Thin, as `cli`.

Annotations are evaluated here, not postponed: Typer reads them inside `build_audits_app`, where the help texts are
known.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eco_eval.commands import local_store
from eco_eval.errors import DataError, InputError, StoreError
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from eco_eval.people import Audit, Subject
    from eco_eval.people_report import Counts, JudgeAgreement, PairAgreement, Report, SampleReport
    from eco_eval.rubric import Rubric
    from eco_eval.store import Store
    from eco_eval.types import Estimate, Result

SHOWN = 10
"""Lines without a grade that are named; the rest are counted."""


def build_audits_app(settings: Settings, t: Texts) -> typer.Typer:
    """The `audits` commands in one language."""
    app = typer.Typer(help=t("audits.help"), no_args_is_help=True)
    _add_sample(app, settings, t)
    _add_add(app, settings, t)
    _add_report(app, settings, t)
    return app


def _add_sample(app: typer.Typer, settings: Settings, t: Texts) -> None:
    @app.command(help=t("audits.sample"))
    def sample(
        out: Annotated[Path, typer.Option(help=t("audits.opt.out"))],
        results: Annotated[list[str] | None, typer.Argument(help=t("audits.opt.results"))] = None,
        count: Annotated[int, typer.Option(min=1, help=t("audits.opt.count"))] = 60,
        seed: Annotated[int | None, typer.Option(min=0, help=t("audits.opt.seed"))] = None,
    ) -> None:
        import secrets

        from eco_eval.instrument import load_instrument
        from eco_eval.people import draw, keep_sample
        from eco_eval.stats.correction import MIN_AUDITS
        from eco_eval.triples.writing import write_rows, write_whole
        from eco_eval.ui.terminal import plain

        if out.suffix.lower() != ".jsonl":
            raise DataError("data.unknown_form", file=out, known=".jsonl")
        guide = out.with_name(f"{out.name}.md")
        store = local_store(settings)
        with _new_files(out, guide):
            chosen = _chosen(results or [], store, settings, t)
            name = chosen[0].submission.instrument.partition(" ")[0]
            instrument = load_instrument(name, built=settings.prompts_dir)
            prompts = {prompt.id: prompt for prompt in instrument.asked}
            drawn, shown = draw(
                _subjects(chosen, store), prompts, count, secrets.randbelow(2**32) if seed is None else seed
            )
            kept = keep_sample(store, drawn)
            write_rows([line.row() for line in shown], out)
            write_whole(_guide(instrument.rubric, t).encode(), guide)
        for model in kept.models:
            groups = [item.group for item in kept.items if any(place.model == model.digest for place in item.of)]
            drawn_from = {"answers": len(groups), "groups": len(set(groups)), "needed": MIN_AUDITS}
            if len(set(groups)) < MIN_AUDITS:
                print(t("audits.few", model=plain(model.name), **drawn_from), file=sys.stderr)
        numbers = {"answers": len(shown), "models": len(kept.models), "seed": drawn.seed}
        print(t("audits.sampled", file=out, guide=guide, **numbers))


def _chosen(targets: Sequence[str], store: "Store", settings: Settings, t: Texts) -> "list[Result]":
    """The results named, or all but anchors."""
    from eco_eval.results import find_result, load_results

    if targets:
        named = (find_result(store, target, settings.data_dir) for target in targets)
        return list({result.id: result for result in named}.values())
    results, broken = load_results(store)
    for path in broken:
        print(t("cli.broken_result", path=path), file=sys.stderr)
    models = [result for result in results if not result.is_anchor]
    if not models:
        raise InputError("audits.no_results", where=settings.data_dir)
    return models


def _subjects(results: "Sequence[Result]", store: "Store") -> "list[Subject]":
    from eco_eval.people import Subject
    from eco_eval.results import details

    return [Subject(result, details(store, result)) for result in results]


@contextmanager
def _new_files(*files: Path) -> Iterator[None]:
    """Take free names, so that nothing of anybody's is written over; on failure they are free again."""
    with ExitStack() as undo:
        for file in files:
            try:
                file.open("x").close()
            except FileExistsError as error:
                raise InputError("cli.exists", file=file) from error
            except FileNotFoundError as error:
                raise InputError("data.no_folder", folder=file.absolute().parent) from error
            except OSError as error:
                raise StoreError("store.unwritable", path=file, reason=error.strerror or error) from error
            undo.callback(file.unlink, missing_ok=True)
        yield
        undo.pop_all()


def _guide(rubric: "Rubric", t: Texts) -> str:
    import re

    # Its headings become those of a part.
    judged = re.sub(r"(?m)^#", "###", rubric.system(t.lang))
    return "\n\n".join((t("audits.guide.head"), judged, t("audits.guide.tail"))) + "\n"


def _add_add(app: typer.Typer, settings: Settings, t: Texts) -> None:
    @app.command(help=t("audits.add"))
    def add(
        file: Annotated[Path, typer.Argument(help=t("audits.opt.file"))],
        grader: Annotated[str, typer.Option(help=t("audits.opt.grader"))],
    ) -> None:
        from eco_eval.people import keep_grades, read_grades, samples
        from eco_eval.ui.terminal import plain

        store = local_store(settings)
        filled = read_grades(file, samples(store))
        kept = keep_grades(store, filled, grader)
        numbers = {"new": kept.new, "changed": kept.changed, "graded": kept.graded}
        print(t("audits.added", grader=plain(kept.grader), answers=len(filled.sample.items), **numbers))
        if filled.open:
            lines = ", ".join(map(str, filled.open[:SHOWN])) + (", …" if len(filled.open) > SHOWN else "")
            print(t("audits.open", count=len(filled.open), lines=lines))
        if kept.skipped:
            print(t("audits.skipped", count=kept.skipped), file=sys.stderr)


def _add_report(app: typer.Typer, settings: Settings, t: Texts) -> None:
    @app.command(help=t("audits.report"))
    def report(as_json: Annotated[bool, typer.Option("--json", help=t("cli.opt.json"))] = False) -> None:
        from eco_eval.people import load_audits
        from eco_eval.people_report import report as reported
        from eco_eval.results import load_results

        store = local_store(settings)
        audits = load_audits(store)
        results, broken = load_results(store)
        for path in broken:
            print(t("cli.broken_result", path=path), file=sys.stderr)
        found = reported(audits, _subjects([r for r in results if _is_audited(r, audits)], store))
        if as_json:
            print(found.model_dump_json(indent=1))
        else:
            _print_report(found, t)


def _is_audited(result: "Result", audits: "Sequence[Audit]") -> bool:
    drawn = {model.digest for audit in audits for model in audit.sample.models}
    return result.submission.answers_digest in drawn


def _print_report(found: "Report", t: Texts) -> None:
    from rich.console import Console
    from rich.text import Text

    from eco_eval.ui.terminal import plain

    console = Console(highlight=False)
    if not found.samples:
        console.print(Text(t("audits.none")))
        return
    for sample in found.samples:
        values = {"id": sample.id, "made_at": sample.made_at, "answers": sample.answers}
        title = t("audits.sample_title", instrument=plain(sample.instrument), **values)
        console.print(Text(title, style="bold"))
        _print_sample(sample, console, t)
    needed = t("audits.groups_needed", needed=found.models[0].needed)
    rows = [(model.model, model.graded, model.groups) for model in found.models]
    console.print(_table(t("audits.needed"), [t("audits.model"), t("audits.graded"), needed], rows))


def _print_sample(sample: "SampleReport", console: "Console", t: Texts) -> None:
    from rich.text import Text

    if not sample.graders:
        console.print(Text(t("audits.no_grades")))
        return
    people = [(grader.grader, grader.graded, grader.skipped) for grader in sample.graders]
    heads = [t("audits.grader"), t("audits.graded"), t("audits.left_out")]
    console.print(_table(t("audits.graders"), heads, people))
    beside = [(_judge_name(judge, t), judge.agreement) for judge in sample.judges]
    sides = [*((f"{pair.first} · {pair.second}", pair) for pair in sample.pairs), *beside]
    if sides:
        names = ("sides", "n", "groups", "exact", "kappa", "ac2")
        rows = [(name, pair.n, pair.groups, *_measures(pair, t)) for name, pair in sides]
        console.print(_table(t("audits.agreement"), [t(f"audits.{name}") for name in names], rows))
    if len(sample.graders) > 1:
        console.print(Text(t("audits.alpha", value=_shown(sample.alpha, t, 2))))
    if any(pair.kappa is None for _, pair in sides):
        console.print(Text(t("audits.few_groups"), style="dim"))
    for pair in sample.pairs:
        console.print(_confusion(pair.first, pair.second, pair.confusion, t))
    for judge in sample.judges:
        console.print(_confusion(t("audits.people"), judge.judge, judge.agreement.confusion, t))
        if judge.means:
            console.print(_means(judge, t))
        if judge.order is not None:
            console.print(Text(t("audits.order", same=judge.order.same, pairs=judge.order.pairs)))


def _judge_name(judge: "JudgeAgreement", t: Texts) -> str:
    return t("audits.with_judge", judge=judge.judge, measured=judge.measured[:8])


def _measures(pair: "PairAgreement", t: Texts) -> tuple[str, str, str]:
    return _shown(pair.exact, t, 0), _shown(pair.kappa, t, 2), _shown(pair.ac2, t, 2)


def _shown(estimate: "Estimate | None", t: Texts, digits: int) -> str:
    if estimate is None:
        return "—"
    value, low, high = (t.number(number, digits) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} – {high})"


def _confusion(first: str, second: str, counts: "Counts", t: Texts) -> "Table":
    from eco_eval.types import GRADES

    grades = [t(f"grade.{grade}") for grade in GRADES]
    rows = [(grade, *row) for grade, row in zip(grades, counts, strict=True)]
    return _table(t("audits.confusion", first=first, second=second), ["", *grades], rows)


def _means(judge: "JudgeAgreement", t: Texts) -> "Table":
    heads = [t(f"audits.{name}") for name in ("model", "answers", "people", "judge_mean")]
    rows = [(row.model, row.n, _shown(row.people, t, 1), _shown(row.judge, t, 1)) for row in judge.means]
    return _table(t("audits.means", judge=judge.judge), heads, rows)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> "Table":
    """A table whose first column is names and the rest numbers."""
    from rich.table import Table
    from rich.text import Text

    from eco_eval.ui.terminal import plain

    table = Table(title=Text(plain(title)), title_justify="left")
    for place, head in enumerate(heads):
        table.add_column(Text(head), justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(str(cell))) for cell in row))
    return table
