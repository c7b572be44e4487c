"""`build_page(site: gr.Blocks, duels: Duels, t: Texts) -> None`: two models' answers side by side; a person chooses.

`duels` is one for the process, `Duels(store, grading)`, the same for both languages. Names are shown once a choice is
made. Whoever is not signed in may play, and is not counted.
"""

from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eco_eval.duels import MIN_PROMPTS, MIN_VOTERS, MIN_VOTES, Duel, Duels, Rate, Side
from eco_eval.errors import EcoEvalError
from eco_eval.settings import Settings
from eco_eval.types import Estimate
from eco_eval.ui.identity import can_sign_in, is_hosted
from eco_eval.ui.keyboard import keys_script, top_script
from eco_eval.ui.pages.judge import table
from eco_eval.ui.terminal import plain
from eco_eval.ui.texts import Texts
from eco_eval.ui.visitor import Visitor, told

if TYPE_CHECKING:
    import gradio as gr

AT_ONCE = 8
"""Handlers of one kind at once; the others wait."""

SIDES: tuple[Side, ...] = ("left", "tie", "right")

KEYS: Final = {"ArrowLeft": "left", "ArrowDown": "tie", "ArrowRight": "right", "Enter": "next"}
"""Keys and the buttons they press."""


class Screen(NamedTuple):
    """What is to be seen: the duel, its ticket, whether it can be chosen in or is decided, and the win rates."""

    shown: str
    ticket: str = ""
    open: bool = False
    decided: bool = False
    rates: str = ""


class Ring:
    """What the page's handlers say, in one language."""

    def __init__(self, duels: Duels, t: Texts) -> None:
        self.duels = duels
        self.t = t

    def look(self, visitor: Visitor) -> Screen:
        """The duel somebody is in, or a new one."""
        return self._screen(partial(self.duels.show, visitor.user, visitor.session))

    def choose(self, visitor: Visitor, ticket: object, side: Side) -> Screen:
        """Choose a side, and see the names."""
        return self._screen(partial(self.duels.choose, visitor.user, visitor.session, ticket, side))

    def next(self, visitor: Visitor, ticket: object) -> Screen:
        """Another duel."""
        return self._screen(partial(self.duels.next, visitor.user, visitor.session, ticket))

    def you(self, visitor: Visitor, settings: Settings) -> str:
        """What is published of whoever is here, or that nothing is."""
        if visitor.user is None:
            return _note(self.t("page.duel.anonymous_hosted" if is_hosted(settings.environ) else "page.duel.anonymous"))
        try:
            return _note(self.t("page.duel.published", name=self.duels.name(visitor.user)))
        except EcoEvalError as error:
            return _warning(self.t.error(error))

    def _screen(self, find: Callable[[], Duel]) -> Screen:
        try:
            duel = find()
            shown, ticket, decided = render(duel, self.t), duel.token, duel.choice is not None
        except EcoEvalError as error:
            return Screen(_warning(self.t.error(error)), rates=self._rates())
        return Screen(shown, ticket, not decided, decided, self._rates())

    def _rates(self) -> str:
        try:
            return rates_html(self.duels.rates(), self.duels.waiting, self.t)
        except EcoEvalError as error:
            return _warning(self.t.error(error))


def build_page(site: "gr.Blocks", duels: Duels, t: Texts) -> None:
    """Lay the tab out."""
    import gradio as gr

    ring, settings = Ring(duels, t), duels.settings
    gr.HTML(f"<div class='eco'><p>{escape(t('page.duel.intro'))}</p></div>")
    if can_sign_in(settings.environ):
        gr.LoginButton(t("submit.sign_in"), logout_value=f"{t('submit.sign_out')} ({{}})", size="md")
    you = gr.HTML()
    shown = gr.HTML(elem_id="duel-shown")
    ticket = gr.Textbox(visible=False)
    with gr.Row(visible=False, elem_id="duel-buttons") as buttons:
        sides = [gr.Button(t(f"page.duel.choose_{side}"), elem_id=f"duel-{side}", min_width=90) for side in SIDES]
    forth = gr.Button(t("page.duel.next"), visible=False, variant="primary", elem_id="duel-next")
    rates = gr.HTML(elem_id="duel-rates")

    def showing(handle: Callable[..., Screen]) -> Callable[..., Any]:
        def drawn(visitor: Visitor, *values: Any) -> tuple[Any, ...]:
            screen = handle(visitor, *values)
            row, button = gr.Row(visible=screen.open), gr.Button(visible=screen.decided)
            return screen.shown, screen.ticket, row, button, screen.rates

        return told(drawn, settings.environ)

    outputs = [shown, ticket, buttons, forth, rates]
    private: dict[str, Any] = {"api_visibility": "private", "preprocess": False, "concurrency_limit": AT_ONCE}
    site.load(None, js=keys_script("duel", KEYS))
    site.load(told(partial(ring.you, settings=settings), settings.environ), None, you, **private)
    site.load(showing(ring.look), None, outputs, show_progress="hidden", **private)
    acts: list[tuple[Any, Callable[..., Screen]]] = [(forth, ring.next)]
    acts += [(button, partial(ring.choose, side=side)) for button, side in zip(sides, SIDES, strict=True)]
    for button, handle in acts:
        # A key pressed while the last one is on its way is not lost: a ticket counts once, so twice does no harm.
        event = button.click(
            showing(handle), ticket, outputs, trigger_mode="multiple", show_progress="minimal", **private
        )
        event.then(None, js=top_script("duel"), api_visibility="private")


def render(duel: Duel, t: Texts) -> str:
    """A duel, with names once it is decided; what comes from outside is escaped."""
    order = (1, 0) if duel.swapped else (0, 1)
    cards = "".join(
        _card(duel, at, t(f"page.duel.{side}"), t) for at, side in zip(order, ("left", "right"), strict=True)
    )
    asked = escape(plain(duel.answers[0].prompt))
    return (
        f"<div class='eco' aria-live='polite'>{_outcome(duel, t)}<article class='eco-card'>"
        f"<h3>{escape(t('page.duel.asked'))}</h3><div class='text asked'>{asked}</div></article>"
        f"<div class='eco-duel'>{cards}</div></div>"
    )


def _card(duel: Duel, at: int, side: str, t: Texts) -> str:
    answer = duel.answers[at]
    name = f"<b class='name'>{escape(plain(duel.names[at]))}</b>" if duel.choice is not None else ""
    cut = f"<p class='eco-note'>{escape(t('page.duel.cut'))}</p>" if answer.truncated else ""
    chosen = " eco-chosen" if duel.choice == ("first", "second")[at] else ""
    return (
        f"<article class='eco-card{chosen}'><header><h3>{escape(side)}</h3>{name}</header>"
        f"<div class='text'>{escape(plain(answer.text))}</div>{cut}</article>"
    )


def _outcome(duel: Duel, t: Texts) -> str:
    """What was chosen, and what the judge made of the same two; nothing before."""
    if duel.choice is None:
        return ""
    a, b = (plain(name) for name in duel.names)
    said = [
        t("page.duel.tied", a=a, b=b) if duel.choice == "tie" else t("page.duel.chose", model=_of(duel.choice, a, b))
    ]
    by_judge = duel.vote.by_judge
    alike = by_judge == "tie"
    said.append(t("page.duel.judge_tied") if alike else t("page.duel.judge_chose", model=_of(by_judge, a, b)))
    said.append(t("page.duel.counted" if duel.counted else "page.duel.not_counted"))
    return f"<p class='eco-ok' id='duel-outcome'>{escape(' '.join(said))}</p>"


def _of(choice: str, a: str, b: str) -> str:
    return a if choice == "first" else b


def rates_html(found: Sequence[Rate], waiting: int, t: Texts) -> str:
    """Every model's win rate beside the judge's, or what it lacks."""
    least = {"votes": MIN_VOTES, "prompts": MIN_PROMPTS, "voters": MIN_VOTERS}
    about = t("page.duel.rates_about"), t("page.duel.rates_rule", **least)
    notes = "".join(f"<p class='eco-note'>{escape(line)}</p>" for line in about)
    if waiting:
        notes += f"<p class='eco-note' id='duel-waiting'>{escape(t('page.duel.waiting', count=waiting))}</p>"
    heads = [t(f"page.duel.{name}") for name in ("model", "people", "judge", "votes", "prompts", "voters")]
    rows = [
        [escape(plain(one.model)), *_cells(one, t), str(one.votes), str(one.prompts), str(one.voters)] for one in found
    ]
    body = table(t("page.duel.rates_table"), heads, rows) if rows else f"<p>{escape(t('page.duel.no_votes'))}</p>"
    return f"<div class='eco'><h2>{escape(t('page.duel.rates'))}</h2>{notes}{body}</div>"


def _cells(one: Rate, t: Texts) -> tuple[str, str]:
    if one.people is None or one.judge is None:
        has = {"votes": one.votes, "prompts": one.prompts, "voters": one.voters}
        least = {"need_votes": MIN_VOTES, "need_prompts": MIN_PROMPTS, "need_voters": MIN_VOTERS}
        few = t("page.duel.few", **has, **least)
        return f"<small>{escape(few)}</small>", "—"
    return _rate(one.people, t), _rate(one.judge, t)


def _rate(estimate: Estimate, t: Texts) -> str:
    between = t("page.duel.between", low=t.number(estimate.low, 0), high=t.number(estimate.high, 0))
    return f"<b>{t.number(estimate.value, 0)} %</b><small>{escape(between)}</small>"


def _note(text: str) -> str:
    return f"<div class='eco'><p class='eco-note'>{escape(text)}</p></div>"


def _warning(text: str) -> str:
    return f"<div class='eco'><p class='eco-warn' role='alert'>{escape(text)}</p></div>"
