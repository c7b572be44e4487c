"""`eco-train`: make the models this project trains itself."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eco_eval.commands import bars, run_app
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
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
    ) -> None:
        from training.judge import train_judge
        from training.recipes import JudgeRecipe, load_recipe

        loaded = load_recipe(recipe, JudgeRecipe)
        folder = out or settings.models_dir / loaded.name
        with _progress(t, loaded.name) as report:
            trained = train_judge(loaded, folder, report)
        print(t("train.done" if trained else "train.cached", folder=folder))

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


@contextmanager
def _progress(t: Texts, name: str) -> "Iterator[Report]":
    """A bar with the loss."""
    with bars() as shown:
        task = shown.add_task(t("train.stage", name=name), total=None, note="")

        def report(step: int, steps: int, loss: float) -> None:
            shown.update(task, completed=step, total=steps, note=t("train.loss", loss=t.number(loss, 2)))

        yield report
