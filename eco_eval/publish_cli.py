"""`eco-eval publish`: a kept result into the Hub dataset, and onto its model's page where that is asked for.

Annotations are evaluated here, not postponed: Typer reads them inside the function, where the help texts are known.
"""

from typing import Annotated

import typer

from eco_eval.commands import local_store
from eco_eval.errors import InputError
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts


def add_publish(app: typer.Typer, settings: Settings, t: Texts) -> None:
    """Add `publish`."""

    @app.command(help=t("publish.help"))
    def publish(
        result: Annotated[str, typer.Argument(help=t("cli.opt.result"))],
        pull_request: Annotated[str | None, typer.Option(help=t("publish.pull_request"))] = None,
    ) -> None:
        from eco_eval.instrument import instrument_names, load_instrument
        from eco_eval.publishing import eval_results_pr
        from eco_eval.publishing import publish as published
        from eco_eval.results import find_result
        from eco_eval.store import HubStore, board_store

        board = board_store(settings)
        if not isinstance(board, HubStore) or not settings.hub_token:
            raise InputError("publish.no_board")
        found = find_result(local_store(settings), result, settings.data_dir)
        name = found.submission.instrument.partition(" ")[0]
        lang = load_instrument(name, built=settings.prompts_dir).lang if name in instrument_names() else "es"
        everything = settings.publish == "all"
        commit = published(found.id, local_store(settings), board, unpublishable=everything, languages=[lang])
        print(t("publish.done" if commit else "publish.there", result=found.id, repo=board.repo))
        if pull_request is not None:
            url = eval_results_pr(
                found,
                benchmark=board.repo,
                task=pull_request,
                token=settings.hub_token,
                source=f"https://huggingface.co/datasets/{board.repo}",
            )
            print(t("publish.opened", url=url) if url else t("publish.same"))
