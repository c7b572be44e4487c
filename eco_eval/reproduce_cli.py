"""`eco-eval reproduce`: thin. Reads options, reproduces, prints.

Annotations are evaluated here, not postponed: Typer reads them inside `add_reproduce`, where the help texts are known.
"""

from pathlib import Path
from typing import Annotated

import typer

from eco_eval.commands import engine_name, stage_bars
from eco_eval.errors import InputError
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts


def add_reproduce(app: typer.Typer, settings: Settings, t: Texts) -> None:
    """Add the command. Exit code 0 for reproduced and within noise, 1 for different."""

    # Typer reads help texts as Rich markup, where brackets are styles.
    target = t("reproduce.target").replace("[", r"\[")

    @app.command(help=t("reproduce.help"))
    def reproduce(
        result: Annotated[str, typer.Argument(help=target)],
        rejudge_only: Annotated[bool, typer.Option("--rejudge-only", help=t("reproduce.rejudge"))] = False,
        rescore_only: Annotated[bool, typer.Option("--rescore-only", help=t("reproduce.rescore"))] = False,
        runs: Annotated[int, typer.Option(min=1, help=t("reproduce.runs"))] = 1,
        again: Annotated[bool, typer.Option("--again", help=t("reproduce.again"))] = False,
        model: Annotated[str | None, typer.Option(help=t("reproduce.model"))] = None,
        instrument: Annotated[str | None, typer.Option(help=t("reproduce.instrument"))] = None,
        prompts: Annotated[Path | None, typer.Option(help=t("reproduce.prompts"))] = None,
        engine: Annotated[str | None, typer.Option(help=t("reproduce.engine"))] = None,
        url: Annotated[str | None, typer.Option(help=t("cli.opt.url"))] = None,
        judge_model: Annotated[str | None, typer.Option(help=t("reproduce.judge_model"))] = None,
        judge_engine: Annotated[str | None, typer.Option(help=t("reproduce.judge_engine"))] = None,
        judge_url: Annotated[str | None, typer.Option(help=t("cli.opt.judge_url"))] = None,
        as_json: Annotated[bool, typer.Option("--json", help=t("cli.opt.json"))] = False,
    ) -> None:
        from eco_eval.reproduce import Choices
        from eco_eval.reproduce import reproduce as reproduced
        from eco_eval.sources import find_source
        from eco_eval.ui.reproduction import print_reproduction

        if rejudge_only and rescore_only:
            raise InputError("reproduce.two_modes")
        choices = Choices(
            instrument=instrument,
            prompts=prompts,
            model=model,
            engine=engine_name(engine) if engine else None,
            url=url,
            judge_model=judge_model,
            judge_engine=engine_name(judge_engine) if judge_engine else None,
            judge_url=judge_url,
        )
        source = find_source(result, settings)
        with stage_bars(t, source.result.submission.model.name) as progress:
            found = reproduced(
                source,
                settings,
                choices,
                mode="rescore" if rescore_only else "rejudge" if rejudge_only else "whole",
                runs=runs,
                again=again,
                progress=progress,
            )
        if as_json:
            print(found.model_dump_json(indent=1))
        else:
            print_reproduction(found, t)
        if found.outcome == "different":
            raise typer.Exit(1)
