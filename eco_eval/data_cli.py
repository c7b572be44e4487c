"""`eco-eval data`: load, turn, make, curate, check, verify and publish preference data. Thin, as `cli`.

Annotations are evaluated here, not postponed: Typer reads them inside `build_data_app`, where the help texts are known.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eco_eval.commands import print_json
from eco_eval.data_desk import Desk
from eco_eval.errors import InputError
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    from eco_eval.triples.records import Pair, Problem, Triple
    from eco_eval.types import Prompt


def build_data_app(settings: Settings, t: Texts) -> typer.Typer:
    """The `data` commands in one language."""
    app = typer.Typer(help=t("data.help"), no_args_is_help=True)
    desk = Desk(settings, t)
    _add_turning(app, desk, t)
    _add_making(app, desk, t)
    _add_curating(app, desk, t)
    _add_checking(app, desk, t)
    _add_publishing(app, desk, t)
    return app


def _options(t: Texts) -> dict[str, Any]:
    """Options that several commands have."""
    return {
        "source": typer.Argument(help=t("data.opt.source")),
        "out": typer.Option(help=t("data.opt.out")),
        "force": typer.Option("--force", help=t("data.opt.force")),
        "report": typer.Option(help=t("data.opt.report")),
        "model": typer.Option(help=t("data.opt.model")),
        "engine": typer.Option(help=t("cli.opt.engine")),
        "url": typer.Option(help=t("cli.opt.url")),
        "json": typer.Option("--json", help=t("cli.opt.json")),
        "lang": typer.Option(help=t("data.opt.lang")),
    }


def _add_turning(app: typer.Typer, desk: Desk, t: Texts) -> None:
    """`load`, `implode`, `explode`."""
    opt = _options(t)

    @app.command(help=t("data.load"))
    def load(
        source: Annotated[str, opt["source"]],
        out: Annotated[Path | None, opt["out"]] = None,
        revision: Annotated[str | None, typer.Option(help=t("data.opt.revision"))] = None,
        lang: Annotated[str | None, opt["lang"]] = None,
        report: Annotated[Path | None, opt["report"]] = None,
        force: Annotated[bool, opt["force"]] = False,
    ) -> None:
        desk.check(force, out, report)
        found = desk.load(source, revision=revision, lang=lang)
        desk.tell(found.problems, report)
        pairs, triples, prompts = len(found.pairs), len(found.triples), len(found.prompts)
        print(t("data.loaded", source=found.source, rows=found.rows, pairs=pairs, triples=triples, prompts=prompts))
        if not prompts:
            raise InputError("data.empty", file=source)
        desk.write(found.prompts, out, force)

    @app.command(help=t("data.implode"))
    def implode(
        source: Annotated[str, opt["source"]],
        out: Annotated[Path, opt["out"]],
        lang: Annotated[str | None, opt["lang"]] = None,
        report: Annotated[Path | None, opt["report"]] = None,
        force: Annotated[bool, opt["force"]] = False,
    ) -> None:
        desk.check(force, out, report)
        found = desk.load(source, lang=lang)
        desk.tell(found.problems, report)
        if not found.triples:
            raise InputError("data.no_triples", source=source)
        desk.write(found.triples, out, force)

    @app.command(help=t("data.explode"))
    def explode(
        source: Annotated[str, opt["source"]],
        out: Annotated[Path, opt["out"]],
        force: Annotated[bool, opt["force"]] = False,
    ) -> None:
        from eco_eval.triples import explode as exploded

        desk.check(force, out)
        desk.write(exploded(desk.triples(source)), out, force)


def _add_making(app: typer.Typer, desk: Desk, t: Texts) -> None:
    """`translate`, `extend`, `classify`: with an engine."""
    opt = _options(t)

    @app.command(help=t("data.translate"))
    def translate(
        source: Annotated[str, opt["source"]],
        out: Annotated[Path, opt["out"]],
        model: Annotated[str, opt["model"]],
        engine: Annotated[str, opt["engine"]] = "transformers",
        url: Annotated[str | None, opt["url"]] = None,
        to: Annotated[str, typer.Option(help=t("data.opt.to"))] = "es",
        lang: Annotated[str | None, opt["lang"]] = None,
        report: Annotated[Path | None, opt["report"]] = None,
        force: Annotated[bool, opt["force"]] = False,
    ) -> None:
        from eco_eval.triples.generate import translate as translated

        desk.check(force, out, report)
        triples = desk.triples(source, lang=lang)
        made = desk.make(model, engine, url, translated, triples, to=to)
        desk.keep(made.prompts, made.problems, source, out, report, force)

    @app.command(help=t("data.extend"))
    def extend(
        source: Annotated[str, opt["source"]],
        out: Annotated[Path, opt["out"]],
        model: Annotated[str, opt["model"]],
        engine: Annotated[str, opt["engine"]] = "transformers",
        url: Annotated[str | None, opt["url"]] = None,
        lang: Annotated[str | None, opt["lang"]] = None,
        new: Annotated[int, typer.Option("--invent", min=0, help=t("data.opt.invent"))] = 0,
        report: Annotated[Path | None, opt["report"]] = None,
        force: Annotated[bool, opt["force"]] = False,
    ) -> None:
        from eco_eval.triples.generate import extend as extended
        from eco_eval.triples.generate import invent

        desk.check(force, out, report)
        prompts = desk.prompts(source, lang=lang)
        problems: list[Problem] = []
        if new:
            invented = desk.make(model, engine, url, invent, new, prompts, lang=prompts[0].lang)
            problems += invented.problems
            prompts = invented.prompts
        made = desk.make(model, engine, url, extended, prompts)
        desk.keep(made.prompts, [*problems, *made.problems], source, out, report, force)

    @app.command(help=t("data.classify"))
    def classify(
        source: Annotated[str, opt["source"]],
        out: Annotated[Path, opt["out"]],
        model: Annotated[str, opt["model"]],
        engine: Annotated[str, opt["engine"]] = "transformers",
        url: Annotated[str | None, opt["url"]] = None,
        lang: Annotated[str | None, opt["lang"]] = None,
        report: Annotated[Path | None, opt["report"]] = None,
        force: Annotated[bool, opt["force"]] = False,
    ) -> None:
        from eco_eval.triples.classify import classify as classified

        desk.check(force, out, report)
        made = desk.make(model, engine, url, classified, desk.prompts(source, lang=lang))
        desk.keep(made.prompts, made.problems, source, out, report, force)


def _add_curating(app: typer.Typer, desk: Desk, t: Texts) -> None:
    """`merge`, `balance`, `split`."""
    opt = _options(t)

    @app.command(help=t("data.merge"))
    def merge(
        sources: Annotated[list[str], opt["source"]],
        out: Annotated[Path, opt["out"]],
        report: Annotated[Path | None, opt["report"]] = None,
        force: Annotated[bool, opt["force"]] = False,
    ) -> None:
        from eco_eval.triples.curate import merge as merged

        desk.check(force, out, report)
        found = merged([desk.prompts(source) for source in sources])
        desk.tell(found.problems, report)
        desk.write(found.prompts, out, force)

    @app.command(help=t("data.balance"))
    def balance(
        source: Annotated[str, opt["source"]],
        out: Annotated[Path, opt["out"]],
        by: Annotated[str, typer.Option(help=t("data.opt.by"))] = "kind",
        per: Annotated[int | None, typer.Option(min=1, help=t("data.opt.per"))] = None,
        report: Annotated[Path | None, opt["report"]] = None,
        force: Annotated[bool, opt["force"]] = False,
    ) -> None:
        from eco_eval.triples.curate import FIELDS
        from eco_eval.triples.curate import balance as balanced

        desk.check(force, out, report)
        field = next((name for name in FIELDS if name == by), None)
        if field is None:
            raise InputError("data.bad_by", value=by, known=", ".join(FIELDS))
        found = balanced(desk.prompts(source), field, per)
        desk.keep(found.prompts, found.problems, source, out, report, force)

    @app.command(help=t("data.split"))
    def split(
        source: Annotated[str, opt["source"]],
        train: Annotated[Path, typer.Option(help=t("data.opt.train"))],
        evaluation: Annotated[Path, typer.Option("--eval", help=t("data.opt.eval"))],
        force: Annotated[bool, opt["force"]] = False,
    ) -> None:
        from eco_eval.prompts import select

        desk.check(force, train, evaluation)
        prompts = desk.prompts(source)
        desk.write(select(prompts, "train"), train, force)
        desk.write(select(prompts, "eval"), evaluation, force)


def _add_checking(app: typer.Typer, desk: Desk, t: Texts) -> None:
    """`stats`, `check`, `baselines`, `verify`."""
    opt = _options(t)

    @app.command(help=t("data.stats"))
    def stats(
        source: Annotated[str, opt["source"]],
        plot: Annotated[Path | None, typer.Option(help=t("data.opt.plot"))] = None,
        force: Annotated[bool, opt["force"]] = False,
        as_json: Annotated[bool, opt["json"]] = False,
    ) -> None:
        from eco_eval.triples.curate import counts, lengths
        from eco_eval.triples.curate import plot as plotted
        from eco_eval.triples.writing import check_target
        from eco_eval.ui.tables import print_counts, print_lengths

        if plot is not None:
            check_target(plot, force=force, forms=(".html", ".htm"))
        prompts = desk.prompts(source)
        if as_json:
            print_json({"counts": counts(prompts), "words": lengths(prompts)})
        else:
            print_counts(counts(prompts), t)
            print_lengths(lengths(prompts), t)
        if plot is not None:
            plotted(
                prompts, plot, source, {name: t(f"data.name.{name}") for name in ("train", "eval", *counts(prompts))}
            )
            print(t("data.plotted", file=plot), file=sys.stderr)

    @app.command(help=t("data.check"))
    def check(
        source: Annotated[str, opt["source"]],
        limits: Annotated[Path | None, typer.Option(help=t("data.opt.limits"))] = None,
        against: Annotated[str | None, typer.Option(help=t("data.opt.against"))] = None,
        as_json: Annotated[bool, opt["json"]] = False,
    ) -> None:
        _check(desk, t, source, limits, against, as_json)

    @app.command(help=t("data.baselines"))
    def baselines(
        source: Annotated[str, opt["source"]],
        encoder: Annotated[str | None, typer.Option(help=t("data.opt.encoder"))] = None,
        as_json: Annotated[bool, opt["json"]] = False,
    ) -> None:
        from eco_eval.triples.baselines import table
        from eco_eval.ui.tables import print_orders

        rows = table(_comparable(desk, source), encoder)
        if as_json:
            print_json(rows)
        else:
            print_orders(rows, t)

    @app.command(help=t("data.verify"))
    def verify(
        source: Annotated[str, opt["source"]],
        log: Annotated[Path, typer.Option(help=t("data.opt.log"))],
        out: Annotated[Path | None, opt["out"]] = None,
        report: Annotated[Path | None, opt["report"]] = None,
        by: Annotated[str, typer.Option(help=t("data.opt.grader"))] = "",
        port: Annotated[int, typer.Option(help=t("cli.opt.port"))] = 7861,
        force: Annotated[bool, opt["force"]] = False,
    ) -> None:
        from eco_eval.triples.verify import agreement, apply_decisions, read_decisions

        desk.check(force, out, report, kept=log)
        triples = desk.triples(source)
        decisions = read_decisions(log)
        if out is None:
            from eco_eval.ui.pages.verify import launch

            launch(triples, log, t, port=port, by=by)
            return
        applied, problems = apply_decisions(triples, decisions)
        desk.tell(problems, report)
        for found in agreement(decisions):
            shown = {"same": t.number(100 * found.same_order, 0), "kappa": t.number(found.kappa, 2)}
            print(t("data.agreement", first=found.first, second=found.second, triples=found.triples, **shown))
        desk.write(applied, out, force)


def _comparable(desk: Desk, source: str) -> "tuple[Triple, ...]":
    triples = desk.triples(source)
    if len({triple.group for triple in triples}) < 2:
        raise InputError("data.too_few", source=source)
    return triples


def _check(desk: Desk, t: Texts, source: str, file: Path | None, against: str | None, as_json: bool) -> None:
    from eco_eval.instrument import DATA
    from eco_eval.prompts import select
    from eco_eval.triples.check import SHORTCUTS, leaks, load_limits, measure
    from eco_eval.ui.tables import print_findings, print_leaks

    own = DATA / "limits" / f"{source}.toml"
    limits = load_limits(file) if file else load_limits(own) if own.is_file() else SHORTCUTS
    triples = _comparable(desk, source)
    findings = measure(triples, limits)
    other = desk.prompts(against) if against else select(triples, "eval")
    leaking = leaks(select(triples, "train") if against is None else triples, other)
    if as_json:
        rows = [{**finding._asdict(), "ok": finding.ok} for finding in findings]
        print_json({"findings": rows, "leaks": [leak._asdict() for leak in leaking]})
    else:
        print_findings(findings, t)
        print_leaks(leaking, t)
    failed = [t(f"data.measure.{finding.name}") for finding in findings if finding.ok is False]
    if failed or leaking:
        raise InputError("data.check_failed", source=source, failed=", ".join(failed) or "—", leaks=len(leaking))


def _add_publishing(app: typer.Typer, desk: Desk, t: Texts) -> None:
    """`build`, `push`."""
    opt = _options(t)

    @app.command(help=t("data.build"))
    def build(
        name: Annotated[str, typer.Argument(help=t("data.opt.set"))],
        report: Annotated[Path | None, opt["report"]] = None,
        force: Annotated[bool, opt["force"]] = False,
    ) -> None:
        from eco_eval.instrument import DATA
        from eco_eval.prompts import select
        from eco_eval.triples.official import build_set

        desk.check(force, report)
        built = build_set(name, DATA, desk.settings.prompts_dir)
        desk.tell(built.problems, report)
        print(
            t(
                "data.built",
                file=built.file,
                prompts=len(built.prompts),
                train=len(select(built.prompts, "train")),
                eval=len(select(built.prompts, "eval")),
            )
        )

    @app.command(help=t("data.describe"), hidden=True)
    def describe(name: Annotated[str, typer.Argument(help=t("data.opt.set"))] = "eco-es-v1") -> None:
        import json

        from eco_eval.instrument import DATA
        from eco_eval.triples.card import dataset_card, json_schema

        folder = DATA / "prompts"
        (folder / "README.md").write_text(dataset_card(desk.triples(name), name, ""), encoding="utf-8")
        schema = json.dumps(json_schema(), ensure_ascii=False, indent=1)
        (folder / "schema.json").write_text(schema + "\n", encoding="utf-8")

    @app.command(help=t("data.push"))
    def push(
        source: Annotated[str, opt["source"]],
        repository: Annotated[str, typer.Argument(help=t("data.opt.repository"))],
        pairs: Annotated[bool, typer.Option("--pairs", help=t("data.opt.pairs"))] = False,
        private: Annotated[bool, typer.Option("--private", help=t("data.opt.private"))] = False,
    ) -> None:
        from eco_eval.triples import explode
        from eco_eval.triples.card import dataset_card
        from eco_eval.triples.hub import push as pushed

        found = desk.load(source)
        desk.tell(found.problems, None)
        if not found.triples:
            raise InputError("data.no_triples", source=source)
        card = dataset_card(found.triples, repository, found.attribution, pairs=pairs)
        records: Sequence[Prompt | Pair] = explode(found.triples) if pairs else found.triples
        print(t("data.pushed", url=pushed(records, repository, card, private=private)))
