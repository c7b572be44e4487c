"""`eco-train`: make the models this project trains itself."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eco_eval.commands import bars, local_store, run_app, stage_bars
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    from training.recipes import JudgeRecipe
    from training.small import Report


def main() -> None:
    """Entry point, with the same exit codes as `eco-eval`."""
    raise SystemExit(run_app(build_app, sys.argv[1:]))


def build_app(settings: Settings, t: Texts) -> typer.Typer:
    """The command line in one language."""
    app = typer.Typer(help=t("train.help"), no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    out_option = typer.Option(help=t("train.out"))

    @app.command(help=t("train.judge"))
    def judge(
        recipe: Annotated[str, typer.Argument(help=t("train.recipe"))] = "demo-judge",
        out: Annotated[Path | None, out_option] = None,
        plot: Annotated[Path | None, typer.Option(help=t("train.plot"))] = None,
        card: Annotated[bool, typer.Option("--card", help=t("train.card"))] = False,
    ) -> None:
        from training import curve
        from training.judge import read_curve, train_judge
        from training.recipes import JudgeRecipe, load_recipe

        if plot is not None or card:
            import_module("plotly")  # if it is missing, that is said before the work and not after
        loaded = load_recipe(recipe, JudgeRecipe)
        folder = out or settings.models_dir / loaded.name
        with _progress(t, loaded.name) as report:
            trained = train_judge(loaded, folder, report, settings.prompts_dir)
        print(t("train.done" if trained else "train.cached", folder=folder))
        points = read_curve(folder)
        curve.print_curve(points, t)
        if plot is not None:
            plot.write_text(curve.plot(points, loaded.name, t), encoding="utf-8")
            print(t("train.plotted", file=plot))
        if card:
            _audit(loaded, folder, settings, t)

    @app.command(help=t("train.toy"))
    def toy(
        recipes: Annotated[list[str] | None, typer.Argument(help=t("train.recipe"))] = None,
    ) -> None:
        from training.recipes import ToyRecipe, load_recipe
        from training.toy import train_toy

        for name in recipes or ["toy-base", "toy-best"]:
            loaded = load_recipe(name, ToyRecipe)
            folder = settings.models_dir / loaded.name
            with _progress(t, loaded.name) as report:
                trained = train_toy(loaded, folder, report)
            print(t("train.done" if trained else "train.cached", folder=folder))

    return app


def _audit(recipe: "JudgeRecipe", folder: Path, settings: Settings, t: Texts) -> None:
    """The held-out card of what was trained, kept with those of other judges."""
    from eco_eval.audit import audit
    from eco_eval.engines import open_engine
    from eco_eval.ui.card import keep_pages, print_card
    from training.judge import as_judge

    measure, ref = as_judge(recipe, folder, settings)
    spec = measure.judge
    with stage_bars(t, ref.name) as progress:
        made = audit(
            measure,
            lambda: open_engine(spec.engine, ref, settings, context=spec.context, dtype=spec.dtype),
            local_store(settings),
            progress,
        )
    print_card(made, t)
    for path in keep_pages(made, measure, local_store(settings), t):
        print(t("train.kept", path=settings.data_dir / path))


@contextmanager
def _progress(t: Texts, name: str) -> "Iterator[Report]":
    """A bar with the loss."""
    with bars() as shown:
        task = shown.add_task(t("train.stage", name=name), total=None, note="")

        def report(step: int, steps: int, loss: float) -> None:
            shown.update(task, completed=step, total=steps, note=t("train.loss", loss=t.number(loss, 2)))

        yield report
