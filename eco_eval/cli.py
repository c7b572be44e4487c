"""The command line: thin. Reads options, calls the pipeline, prints.

Annotations are evaluated here, not postponed: Typer reads them inside `build_app`, where the help texts are known.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eco_eval import __version__
from eco_eval.audits_cli import build_audits_app
from eco_eval.commands import (
    candidate_of,
    engine_name,
    local_store,
    print_json,
    private_store,
    run_app,
    stage_bars,
    system_prompt_of,
)
from eco_eval.data_cli import build_data_app
from eco_eval.deploy_cli import add_deploy
from eco_eval.errors import InputError
from eco_eval.publish_cli import add_publish
from eco_eval.queue_cli import add_service
from eco_eval.reproduce_cli import add_reproduce
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    from eco_eval.instrument import Instrument
    from eco_eval.pipeline import Engines, Stage
    from eco_eval.types import Declared, ModelRef, Result, Submission

DEFAULT_INSTRUMENT = "eco-es-demo"


def main() -> None:
    """Entry point. Exit codes: 0 done, 2 something to fix in the input, 1 a stage broke, 130 interrupted."""
    raise SystemExit(run_app(build_app, sys.argv[1:]))


def build_app(settings: Settings, t: Texts) -> typer.Typer:
    """The command line in one language."""
    app = typer.Typer(help=t("cli.help"), no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    _add_evaluate(app, settings, t)
    _add_again(app, settings, t)
    _add_audit(app, settings, t)
    _add_compare(app, settings, t)
    add_reproduce(app, settings, t)
    add_service(app, settings, t)
    add_publish(app, settings, t)
    add_deploy(app, settings, t)
    _add_reading(app, settings, t)
    _add_rest(app, settings, t)
    app.add_typer(build_data_app(settings, t), name="data")
    app.add_typer(build_audits_app(settings, t), name="audits")
    return app


def _add_evaluate(app: typer.Typer, settings: Settings, t: Texts) -> None:
    @app.command(help=t("cli.evaluate.help"))
    def evaluate(
        model: Annotated[str, typer.Argument(help=t("cli.evaluate.model"))],
        instrument: Annotated[str, typer.Option(help=t("cli.opt.instrument"))] = DEFAULT_INSTRUMENT,
        engine: Annotated[str, typer.Option(help=t("cli.opt.engine"))] = "transformers",
        url: Annotated[str | None, typer.Option(help=t("cli.opt.url"))] = None,
        dtype: Annotated[str | None, typer.Option(help=t("cli.opt.dtype"))] = None,
        judge_model: Annotated[str | None, typer.Option(help=t("cli.opt.judge_model"))] = None,
        judge_engine: Annotated[str | None, typer.Option(help=t("cli.opt.judge_engine"))] = None,
        judge_url: Annotated[str | None, typer.Option(help=t("cli.opt.judge_url"))] = None,
        system_prompt: Annotated[Path | None, typer.Option(help=t("cli.opt.system_prompt"))] = None,
        limit: Annotated[int | None, typer.Option(min=1, help=t("cli.opt.limit"))] = None,
        prompts: Annotated[Path | None, typer.Option(help=t("cli.opt.prompts"))] = None,
        as_json: Annotated[bool, typer.Option("--json", help=t("cli.opt.json"))] = False,
    ) -> None:
        from eco_eval.pipeline import open_engines, submit

        # What is quick to refuse comes before a judge that may have to be downloaded.
        guide = system_prompt_of(system_prompt)
        candidate = candidate_of(model, engine, url, dtype)
        measure, judge_refs = _instrument(
            settings,
            instrument,
            judge_model=judge_model,
            judge_engine=judge_engine,
            judge_url=judge_url,
            limit=limit,
            prompts=prompts,
        )
        submission = submit(candidate, measure, guide)
        engines = open_engines(
            submission,
            measure,
            judge_refs,
            settings,
            engine=engine_name(engine),
            url=url,
            judge_url=judge_url,
        )
        _finish(submission, measure, engines, settings, t, as_json)


def _add_again(app: typer.Typer, settings: Settings, t: Texts) -> None:
    """`judge` and `score`: the later stages again, from what is kept."""

    def again(
        stage: "Stage", target: str, as_json: bool, judge_url: str | None, instrument: str | None, **options: Any
    ) -> None:
        from eco_eval.pipeline import Engines, open_engines

        kept = _one_result(target, settings)
        if kept.is_anchor:
            raise InputError("judge.is_anchor", result=kept.id)
        name = instrument or kept.submission.instrument.partition(" ")[0]
        measure, judge_refs = _instrument(settings, name, judge_url=judge_url, **options)
        submission = _under(kept.submission, measure)
        if submission.asked_digest != kept.submission.asked_digest:
            raise InputError("judge.asks_other", result=kept.id, instrument=submission.instrument)
        opened = open_engines(submission, measure, judge_refs, settings, judge_url=judge_url)
        no_answers = InputError("judge.no_answers", model=kept.submission.model.name, instrument=measure.name)
        no_verdicts = InputError("judge.no_verdicts", result=kept.id)
        refused = Engines(
            candidate=_refusing(no_answers),
            judge=_refusing(no_verdicts),
            panel=(_refusing(no_verdicts),) * len(opened.panel),
            judges=opened.judges,
        )
        engines = refused if stage == "score" else replace(opened, candidate=refused.candidate)
        _finish(submission, measure, engines, settings, t, as_json, again=stage, origin=kept.declared)

    def command(stage: "Stage") -> None:
        @app.command(name=stage, help=t(f"cli.{stage}.help"))
        def run(
            result: Annotated[str, typer.Argument(help=t("cli.opt.result"))],
            instrument: Annotated[str | None, typer.Option(help=t("cli.opt.instrument"))] = None,
            judge_model: Annotated[str | None, typer.Option(help=t("cli.opt.judge_model"))] = None,
            judge_engine: Annotated[str | None, typer.Option(help=t("cli.opt.judge_engine"))] = None,
            judge_url: Annotated[str | None, typer.Option(help=t("cli.opt.judge_url"))] = None,
            limit: Annotated[int | None, typer.Option(min=1, help=t("cli.opt.limit"))] = None,
            prompts: Annotated[Path | None, typer.Option(help=t("cli.opt.prompts"))] = None,
            as_json: Annotated[bool, typer.Option("--json", help=t("cli.opt.json"))] = False,
        ) -> None:
            again(
                stage,
                result,
                as_json,
                judge_url,
                instrument,
                judge_model=judge_model,
                judge_engine=judge_engine,
                limit=limit,
                prompts=prompts,
            )

    command("judge")
    command("score")


def _add_compare(app: typer.Typer, settings: Settings, t: Texts) -> None:
    @app.command(help=t("cli.compare.help"))
    def compare(
        a: Annotated[str, typer.Argument(help=t("cli.opt.result"))],
        b: Annotated[str, typer.Argument(help=t("cli.opt.result"))],
        plot: Annotated[Path | None, typer.Option(help=t("cli.compare.plot"))] = None,
        as_json: Annotated[bool, typer.Option("--json", help=t("cli.opt.json"))] = False,
    ) -> None:
        from eco_eval.compare import compare as compared
        from eco_eval.compare import find_twins
        from eco_eval.results import load_results
        from eco_eval.ui.versus import asked, forest, in_other_languages, print_comparison

        if plot is not None and plot.exists():
            raise InputError("cli.exists", file=plot)
        first, second = _one_result(a, settings), _one_result(b, settings)
        store = local_store(settings)
        prompts = asked(first, settings.prompts_dir)
        others = find_twins(load_results(store)[0], first, second)
        found = compared(store, first, second, prompts, in_other_languages(others, prompts, settings.prompts_dir))
        if as_json:
            print(found.model_dump_json(indent=1))
        else:
            print_comparison(found, t)
        if plot is not None:
            plot.write_text(forest(found, t), encoding="utf-8")
            print(t("data.plotted", file=plot), file=sys.stderr)


def _add_audit(app: typer.Typer, settings: Settings, t: Texts) -> None:
    @app.command(help=t("cli.audit.help"))
    def audit(
        judge: Annotated[str | None, typer.Argument(help=t("cli.audit.judge"))] = None,
        instrument: Annotated[str, typer.Option(help=t("cli.opt.instrument"))] = DEFAULT_INSTRUMENT,
        judge_engine: Annotated[str | None, typer.Option(help=t("cli.opt.judge_engine"))] = None,
        judge_url: Annotated[str | None, typer.Option(help=t("cli.opt.judge_url"))] = None,
        gold: Annotated[str | None, typer.Option(help=t("cli.audit.gold"))] = None,
        again: Annotated[bool, typer.Option("--again", help=t("cli.audit.again"))] = False,
        limit: Annotated[int | None, typer.Option(min=1, help=t("cli.opt.limit"))] = None,
        as_json: Annotated[bool, typer.Option("--json", help=t("cli.opt.json"))] = False,
    ) -> None:
        from importlib import import_module

        from eco_eval.audit import audit as audited
        from eco_eval.pipeline import open_engines, submit
        from eco_eval.ui.card import keep_pages, print_card

        import_module("plotly")  # if it is missing, that is said before the work and not after
        measure, judge_refs = _instrument(
            settings, instrument, judge_model=judge, judge_engine=judge_engine, judge_url=judge_url, limit=limit
        )
        if gold is not None:
            from eco_eval.data_desk import Desk

            triples = Desk(settings, t).triples(gold)
            measure = measure.with_gold(triples[:limit], f"gold={Path(gold).name}")
        cards = []
        for seat, ref in zip(measure.seats, judge_refs, strict=True):
            # An audit needs no candidate: the judge stands for one that is never asked.
            engines = open_engines(submit(ref, seat), seat, [ref], settings, judge_url=judge_url)
            with stage_bars(t, ref.name) as progress:
                card = audited(seat, engines.judge, local_store(settings), progress, again=again)
            pages = keep_pages(card, seat, local_store(settings), t)
            cards.append(card.model_dump(mode="json"))
            if not as_json:
                print_card(card, t)
                for path in pages:
                    print(t("cli.audit.kept", path=settings.data_dir / path))
        if as_json:
            print_json(cards if measure.panel else cards[0])


def _refusing(error: InputError) -> Any:
    """Stands for an engine that must not be opened: what it would make should be kept already."""

    def refuse() -> Any:
        raise error

    return refuse


def _add_reading(app: typer.Typer, settings: Settings, t: Texts) -> None:
    @app.command(help=t("cli.board.help"))
    def board(as_json: Annotated[bool, typer.Option("--json", help=t("cli.opt.json"))] = False) -> None:
        from eco_eval.board import build
        from eco_eval.results import load_results

        results, broken = load_results(local_store(settings))
        for path in broken:
            print(t("cli.broken_result", path=path), file=sys.stderr)
        if as_json:
            print(build(results).model_dump_json(indent=1))
        else:
            _print_board(results, settings, t)

    @app.command(help=t("cli.show.help"))
    def show(
        result: Annotated[str, typer.Argument(help=t("cli.opt.result"))],
        grade: Annotated[str | None, typer.Option(help=t("cli.opt.grade"))] = None,
        as_json: Annotated[bool, typer.Option("--json", help=t("cli.opt.json"))] = False,
    ) -> None:
        from eco_eval.results import details
        from eco_eval.ui.terminal import print_result

        found = _one_result(result, settings)
        readings = details(local_store(settings), found)
        wanted = _grade_filter(grade, t)
        kept = [r for r in readings if wanted is None or any(getattr(j, "grade", None) == wanted for j in r.verdicts)]
        if as_json:
            rows = [
                {"answer": r.answer.model_dump(), "judgements": [j.model_dump(mode="json") for j in r.verdicts]}
                for r in kept
            ]
            print_json({"result": found.model_dump(mode="json"), "answers": rows})
        else:
            print_result(found, kept, t)


def _add_rest(app: typer.Typer, settings: Settings, t: Texts) -> None:
    @app.command(name="app", help=t("cli.app.help"))
    def serve(port: Annotated[int, typer.Option(help=t("cli.opt.port"))] = 7860) -> None:
        from eco_eval.ui.site import launch

        launch(settings, port=port)

    @app.command(help=t("cli.demo.help"))
    def demo(as_json: Annotated[bool, typer.Option("--json", help=t("cli.opt.json"))] = False) -> None:
        _demo(settings, t, as_json)

    @app.command(help=t("cli.pin.help"), hidden=True)
    def pin() -> None:
        from eco_eval.instrument import pin as pin_files

        for name in pin_files():
            print(name)

    @app.command(help=t("cli.version.help"))
    def version() -> None:
        print(f"eco-eval {__version__}")


DEMO_MODELS = ("toy-base", "toy-best")


def _demo(settings: Settings, t: Texts, as_json: bool) -> None:
    from eco_eval.pipeline import open_engines, submit

    measure, judge_refs = _instrument(settings, DEFAULT_INSTRUMENT)
    results = []
    for name in DEMO_MODELS:
        folder = settings.models_dir / name
        if not folder.is_dir():
            raise InputError("demo.no_model", model=name, folder=folder)
        submission = submit(candidate_of(str(folder), "transformers", None, None), measure)
        engines = open_engines(submission, measure, judge_refs, settings)
        results.append(_evaluated(submission, measure, engines, settings, t))
    if as_json:
        print_json([result.model_dump(mode="json") for result in results])
        return
    from eco_eval.results import load_results

    _print_board(load_results(local_store(settings))[0], settings, t)
    print(t("cli.demo.next", result=results[-1].id))


def _instrument(
    settings: Settings,
    name: str,
    *,
    judge_model: str | None = None,
    judge_engine: str | None = None,
    judge_url: str | None = None,
    limit: int | None = None,
    prompts: Path | None = None,
) -> "tuple[Instrument, tuple[ModelRef, ...]]":
    """The instrument as the options alter it, its judges resolved to exact weights."""
    from eco_eval.instrument import load_instrument
    from eco_eval.pipeline import resolve_judges
    from eco_eval.prompts import read_prompts

    measure = load_instrument(name, built=settings.prompts_dir)
    if prompts is not None:
        measure = measure.asking(read_prompts(prompts), f"prompts={prompts.name}")
    if limit is not None:
        measure = measure.limited(limit)
    if judge_url and (judge_model or not measure.is_served):
        served = judge_model or measure.judge.model
        measure = measure.judged_by(
            f"judge-url={served}", model=served, source="endpoint", engine="endpoint", revision="", stand_in=False
        )
    elif judge_model:
        source = "local" if Path(judge_model).is_dir() else "hub"
        changed = {"model": judge_model, "source": source, "revision": "", "stand_in": False}
        measure = measure.judged_by(f"judge={Path(judge_model).name}", **changed)
    if judge_engine:
        kind = engine_name(judge_engine)
        if kind == "endpoint" and not judge_url:
            raise InputError("endpoint.no_url", option="--judge-url")
        judge = measure.judge.model_copy(update={"engine": kind})
        measure = measure.model_copy(update={"judge": judge})
    return resolve_judges(measure, settings, judge_url)


def _under(submission: "Submission", measure: "Instrument") -> "Submission":
    """The same model and system prompt under another instrument."""
    from eco_eval.pipeline import submit

    return submit(submission.model, measure, submission.system_prompt)


def _finish(
    submission: "Submission",
    measure: "Instrument",
    engines: "Engines",
    settings: Settings,
    t: Texts,
    as_json: bool,
    again: "Stage | None" = None,
    origin: "Declared | None" = None,
) -> None:
    result = _evaluated(submission, measure, engines, settings, t, again, origin)
    if as_json:
        print(result.model_dump_json(indent=1))
        return
    from eco_eval.ui.terminal import print_score

    print_score(result, t)


def _evaluated(
    submission: "Submission",
    measure: "Instrument",
    engines: "Engines",
    settings: Settings,
    t: Texts,
    again: "Stage | None" = None,
    origin: "Declared | None" = None,
) -> "Result":
    from eco_eval.energy import meter_of
    from eco_eval.pipeline import evaluate

    meter = meter_of(settings)
    with stage_bars(t, submission.model.name) as progress:
        return evaluate(
            submission,
            measure,
            engines.counted(meter),
            local_store(settings),
            progress,
            again=again,
            private=private_store(settings),
            origin=origin,
            meter=meter,
        )


def _one_result(target: str, settings: Settings) -> "Result":
    """The result of an id, the start of an id, or a model's name (the newest).

    Raises:
        InputError: none or several fit.
    """
    from eco_eval.results import find_result

    name = Path(target).resolve().name if Path(target).is_dir() else target
    return find_result(local_store(settings), target, settings.data_dir, name=name)


def _grade_filter(grade: str | None, t: Texts) -> Any:
    from eco_eval.types import Grade

    if grade is None:
        return None
    for known in Grade:
        if grade.lower() in (known.value, t(f"grade.{known.value}").lower()):
            return known
    raise InputError("cli.bad_grade", value=grade)


def _print_board(results: "list[Result]", settings: Settings, t: Texts) -> None:
    from eco_eval.board import build
    from eco_eval.ui.terminal import print_board

    print_board(build(results), t, settings.data_dir)


if __name__ == "__main__":
    main()
