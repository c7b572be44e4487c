"""`build_page(site: gr.Blocks, grading: Grading, t: Texts) -> None`: where people grade answers blind, by keyboard.

`grading` is one for the process, `Grading(store, settings)`, the same for both languages. What a browser sends is a
button and a ticket: which answer is graded, and whose grade it is, the server knows by itself.
"""

from collections.abc import Callable
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eco_eval.errors import EcoEvalError, InputError
from eco_eval.grading import BATCH, Agreed, Batch, Grading
from eco_eval.people_report import JudgeAgreement
from eco_eval.reception import Kept
from eco_eval.types import GRADES, Grade
from eco_eval.ui.identity import can_sign_in, is_hosted
from eco_eval.ui.keyboard import keys_script, top_script
from eco_eval.ui.pages.judge import table
from eco_eval.ui.pages.method import rubric_html
from eco_eval.ui.terminal import plain
from eco_eval.ui.texts import Texts
from eco_eval.ui.visitor import Visitor, told

if TYPE_CHECKING:
    import gradio as gr

AT_ONCE = 8
"""Handlers of one kind at once; the others wait."""

KEYS: Final = {"1": "good", "2": "regular", "3": "bad", "0": "skip", "u": "undo", "U": "undo", "Enter": "go"}
"""Keys and the buttons they press; letters and digits can be turned off."""


class Screen(NamedTuple):
    """What is to be seen. go: the words of the button that begins or publishes; empty for none."""

    shown: str
    ticket: str = ""
    grading: bool = False
    undo: bool = False
    go: str = ""


class Booth:
    """What the page's handlers say, in one language."""

    def __init__(self, grading: Grading, t: Texts) -> None:
        self.grading = grading
        self.t = t
        self._rubric: Kept[str] = Kept(seconds=60.0, most=1)

    def look(self, visitor: Visitor, note: str = "") -> Screen:
        """Where somebody is: before a batch, in one, or at its end."""
        if visitor.user is None:
            return Screen(note)
        try:
            batch = self.grading.open(visitor.user)
        except EcoEvalError as error:
            return Screen(_warning(self.t.error(error)), go=self.t("page.audit.begin"))
        return self._screen(batch, note) if batch else Screen(note, go=self.t("page.audit.begin"))

    def go(self, visitor: Visitor, ticket: object) -> Screen:
        """Begin a batch, or publish one that is whole."""
        try:
            user = self._require(visitor)
            batch = self.grading.open(user)
            if batch is None and ticket:
                raise InputError("grading.lost")
            if batch is None or not batch.is_whole:
                return self._screen(self.grading.begin(user))
            kept = self.grading.publish(user, ticket)
        except EcoEvalError as error:
            return self.look(visitor, _warning(self.t.error(error)))
        graded = sum(grade is not None for grade in batch.given)
        said = self.t("page.audit.done", graded=graded, name=self.grading.name(user))
        note = said if kept is not None else self.t("page.audit.none_given")
        shown = f"<div class='eco'><p class='eco-ok' role='status'>{escape(note)}</p></div>"
        return Screen(shown + self._agreement(user), go=self.t("page.audit.another"))

    def grade(self, visitor: Visitor, ticket: object, grade: Grade | None) -> Screen:
        """Grade the answer that is shown, or skip it."""
        try:
            return self._screen(self.grading.grade(self._require(visitor), ticket, grade))
        except EcoEvalError as error:
            return self.look(visitor, _warning(self.t.error(error)))

    def undo(self, visitor: Visitor, ticket: object) -> Screen:
        """Go back to the answer before."""
        try:
            return self._screen(self.grading.undo(self._require(visitor), ticket))
        except EcoEvalError as error:
            return self.look(visitor, _warning(self.t.error(error)))

    def you(self, visitor: Visitor) -> str:
        """What is published of whoever is here, or why they cannot grade."""
        if visitor.user is None:
            hosted = is_hosted(self.grading.settings.environ)
            return _note(self.t("page.audit.nobody_hosted" if hosted else "page.audit.nobody"))
        try:
            return _note(self.t("page.audit.published", name=self.grading.name(visitor.user)))
        except EcoEvalError as error:
            return _warning(self.t.error(error))

    def rubric(self) -> str:
        """The rubric that answers are graded by."""
        try:
            return self._rubric.get("", lambda: f"<div class='eco'>{rubric_html(self.grading.rubric(), self.t)}</div>")
        except EcoEvalError as error:
            return _note(self.t.error(error))

    def _require(self, visitor: Visitor) -> str:
        if visitor.user is not None:
            return visitor.user
        hosted = is_hosted(self.grading.settings.environ)
        raise InputError("grading.sign_in" if hosted else "grading.elsewhere")

    def _screen(self, batch: Batch, note: str = "") -> Screen:
        shown, undo = note + render(batch, self.t), batch.place > 0
        if batch.is_whole:
            return Screen(shown, batch.ticket, undo=undo, go=self.t("page.audit.publish"))
        return Screen(shown, batch.ticket, grading=True, undo=undo)

    def _agreement(self, user: str) -> str:
        try:
            found = self.grading.agreement(user)
        except EcoEvalError as error:
            return _warning(self.t.error(error))
        return agreement_html(found, self.t) if found else ""


def build_page(site: "gr.Blocks", grading: Grading, t: Texts) -> None:
    """Lay the tab out."""
    import gradio as gr

    booth, environ = Booth(grading, t), grading.settings.environ
    gr.HTML(
        f"<div class='eco'><p>{escape(t('page.audit.intro'))}</p>"
        f"<p class='eco-note'>{escape(t('page.audit.how', count=BATCH))}</p></div>"
    )
    if can_sign_in(environ):
        gr.LoginButton(t("submit.sign_in"), logout_value=f"{t('submit.sign_out')} ({{}})", size="md")
    you = gr.HTML()
    with gr.Accordion(t("page.audit.rubric"), open=False, elem_id="audit-rubric"):
        rubric = gr.HTML()
    shown = gr.HTML(elem_id="audit-shown")
    ticket = gr.Textbox(visible=False)
    with gr.Row(visible=False, elem_id="audit-buttons") as buttons:
        graded = {
            name: gr.Button(t(f"page.audit.{name}"), elem_id=f"audit-{name}", min_width=90)
            for name in (*GRADES, "skip")
        }
    with gr.Row():
        undo = gr.Button(t("page.audit.undo"), visible=False, elem_id="audit-undo", size="md", min_width=90)
        go = gr.Button(t("page.audit.begin"), visible=False, variant="primary", elem_id="audit-go", scale=3)
    label = escape(t("page.audit.keys"))
    gr.HTML(f"<div class='eco'><label><input type='checkbox' id='audit-keys' checked> {label}</label></div>")

    def drawn(screen: Screen) -> tuple[Any, ...]:
        return (
            screen.shown,
            screen.ticket,
            gr.Row(visible=screen.grading),
            gr.Button(visible=screen.undo),
            gr.Button(screen.go or t("page.audit.begin"), visible=bool(screen.go)),
        )

    def showing(handle: Callable[..., Screen]) -> Callable[..., Any]:
        return told(lambda visitor, *values: drawn(handle(visitor, *values)), environ)

    outputs = [shown, ticket, buttons, undo, go]
    private: dict[str, Any] = {"api_visibility": "private", "preprocess": False, "concurrency_limit": AT_ONCE}
    site.load(None, js=keys_script("audit", KEYS, "audit-keys"))
    site.load(told(lambda visitor: (booth.you(visitor), booth.rubric()), environ), None, [you, rubric], **private)
    site.load(showing(booth.look), None, outputs, show_progress="hidden", **private)
    acts: list[tuple[Any, Callable[..., Screen]]] = [(undo, booth.undo), (go, booth.go)]
    for name, button in graded.items():
        acts.append((button, partial(booth.grade, grade=Grade(name) if name != "skip" else None)))
    for button, handle in acts:
        # A key pressed while the last one is on its way is not lost: a ticket counts once, so twice does no harm.
        mode = "once" if button is go else "multiple"
        event = button.click(showing(handle), ticket, outputs, trigger_mode=mode, show_progress="minimal", **private)
        event.then(None, js=top_script("audit"), api_visibility="private")


def render(batch: Batch, t: Texts) -> str:
    """The answer that is to be graded, or that nothing is left; what comes from outside is escaped."""
    total = len(batch.shown)
    bar = f"<progress max='{total}' value='{batch.place}' aria-label='{escape(t('page.tab.audit'))}'></progress>"
    if batch.is_whole:
        graded = sum(grade is not None for grade in batch.given)
        said = t("page.audit.whole", graded=graded, skipped=total - graded)
        return _live(f"<article class='eco-card'>{bar}<p><b>{escape(said)}</b></p></article>")
    shown = batch.shown[batch.place]
    cut = f"<p class='eco-note'>{escape(t('page.audit.cut'))}</p>" if shown.cut else ""
    progress = escape(t("page.audit.progress", place=batch.place + 1, total=total))
    return _live(
        f"<article class='eco-card'><header><b id='audit-progress'>{progress}</b></header>{bar}"
        f"<h3>{escape(t('page.audit.asked'))}</h3><div class='text asked'>{escape(plain(shown.prompt))}</div>"
        f"<h3>{escape(t('page.audit.answer'))}</h3><div class='text'>{escape(plain(shown.answer))}</div>{cut}</article>"
    )


def agreement_html(found: Agreed, t: Texts) -> str:
    """A person's grades beside each judge's; where there is no κ, why."""
    over = t("page.audit.over", answers=found.answers, batches=found.batches)
    judges = "".join(_beside(judge, t) for judge in found.judges)
    judges = judges or f"<p>{escape(t('page.audit.no_judge'))}</p>"
    heading = f"<h2>{escape(t('page.audit.agreement'))}</h2><p class='eco-note'>{escape(over)}</p>"
    return f"<div class='eco' id='audit-agreement'>{heading}{judges}</div>"


def _beside(judge: JudgeAgreement, t: Texts) -> str:
    pair, name = judge.agreement, plain(judge.judge)
    lines = []
    if pair.kappa is not None:
        ends = {end: t.number(getattr(pair.kappa, end), 2) for end in ("value", "low", "high")}
        lines.append(t("page.audit.kappa", judge=name, n=pair.n, groups=pair.groups, **ends))
    elif pair.groups < 2:
        lines.append(t("page.audit.few_groups", judge=name, groups=pair.groups))
    else:
        lines.append(t("page.audit.one_grade", judge=name, n=pair.n))
    if pair.exact is not None:
        ends = {end: t.number(getattr(pair.exact, end), 0) for end in ("value", "low", "high")}
        lines.append(t("page.audit.exact", **ends))
    grades = [t(f"grade.{grade}") for grade in GRADES]
    rows = [[escape(grade), *map(str, row)] for grade, row in zip(grades, pair.confusion, strict=True)]
    said = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return said + table(t("page.audit.confusion", judge=name), ["", *grades], rows)


def _live(html: str) -> str:
    return f"<div class='eco' aria-live='polite'>{html}</div>"


def _note(text: str) -> str:
    return f"<div class='eco'><p class='eco-note'>{escape(text)}</p></div>"


def _warning(text: str) -> str:
    return f"<div class='eco'><p class='eco-warn' role='alert'>{escape(text)}</p></div>"
