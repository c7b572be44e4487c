"""`eco-eval deploy`: says what a board on the Hub needs, asks, and does it. Thin, as `cli`.

Annotations are evaluated here, not postponed: Typer reads them inside `add_deploy`, where the help texts are known.
"""

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eco_eval.errors import InputError
from eco_eval.settings import Settings
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    from eco_eval.deploying import Plan, Step

SHOWN = 8
"""Names shown of a long list of files."""


def add_deploy(app: typer.Typer, settings: Settings, t: Texts) -> None:
    """Add `deploy`."""

    @app.command(help=t("deploy.help"))
    def deploy(
        space: Annotated[str, typer.Argument(help=t("deploy.opt.space"))],
        mode: Annotated[Literal["page", "gpu"], typer.Option(help=t("deploy.opt.mode"))] = "page",
        dataset: Annotated[str | None, typer.Option(help=t("deploy.opt.dataset"))] = None,
        hardware: Annotated[str | None, typer.Option(help=t("deploy.opt.hardware"))] = None,
        private: Annotated[bool, typer.Option("--private", help=t("deploy.opt.private"))] = False,
        storage: Annotated[bool, typer.Option("--storage", help=t("deploy.opt.storage"))] = False,
        token_from: Annotated[str | None, typer.Option(help=t("deploy.opt.token_from"))] = None,
        queue_url_from: Annotated[str | None, typer.Option(help=t("deploy.opt.queue_url_from"))] = None,
        yes: Annotated[bool, typer.Option("--yes", help=t("deploy.opt.yes"))] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help=t("deploy.opt.dry_run"))] = False,
    ) -> None:
        from eco_eval import deploying

        api = deploying.client(settings.hub_token)
        secrets = _secrets(settings, token_from, queue_url_from)
        order = deploying.Order(
            space=space,
            dataset=dataset or settings.hub_repo or space,
            mode=mode,
            hardware=hardware,
            private=private,
            storage=storage,
            secrets=tuple(secrets),
        )
        deploying.check_order(order)
        files = deploying.space_files(order)
        plan = deploying.plan(order, deploying.look(order, api), files)
        _show(plan, t, same_token=token_from is None)
        if dry_run or not plan.steps:
            return
        _agree(yes, t)
        for step in deploying.carry_out(plan, files, secrets, api):
            print(t("deploy.did", step=_said(step, t)), flush=True)
        print(t("deploy.done", url=f"{api.endpoint}/spaces/{space}"))


def _secrets(settings: Settings, token_from: str | None, queue_url_from: str | None) -> dict[str, str]:
    """The Space's secrets by name.

    Raises:
        InputError: a variable that was named is empty, or the queue is no PostgreSQL.
    """
    found = {"ECO_EVAL_HUB_TOKEN": _variable(settings, token_from) if token_from else settings.hub_token or ""}
    if queue_url_from:
        url = _variable(settings, queue_url_from)
        if not url.startswith(("postgresql://", "postgres://")):
            raise InputError("deploy.not_postgres", variable=queue_url_from)
        found["ECO_EVAL_QUEUE_URL"] = url
    return found


def _variable(settings: Settings, name: str) -> str:
    value = settings.environ.get(name, "").strip()
    if not value:
        raise InputError("deploy.no_variable", variable=name)
    return value


def _show(plan: "Plan", t: Texts, *, same_token: bool) -> None:
    """What will be done, what it costs, and what somebody may not expect."""
    if not plan.steps:
        print(t("deploy.nothing", space=plan.order.space))
        return
    print(t("deploy.plan", space=plan.order.space))
    for step in plan.steps:
        cost = f" ({t(f'deploy.cost.{step.cost}')})" if step.cost != "none" else ""
        print(f"  - {_said(step, t)}{cost}")
    for key, names in (("remove", plan.remove), ("overwritten", plan.overwritten)):
        if names:
            more = f" … (+{len(names) - SHOWN})" if len(names) > SHOWN else ""
            print(t(f"deploy.{key}", names=", ".join(names[:SHOWN]) + more))
    if same_token:
        print(t("deploy.same_token"))


def _said(step: "Step", t: Texts) -> str:
    return t(f"deploy.step.{step.kind}", target=step.target, detail=step.detail)


def _agree(yes: bool, t: Texts) -> None:
    """Ask, unless told not to.

    Raises:
        InputError: there is nobody to ask.
        Abort: they said no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError("deploy.ask")
    typer.confirm(t("deploy.sure"), abort=True)
