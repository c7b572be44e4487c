"""Where a person asks for a model, follows what they asked for, and sees the queue.

Annotations are evaluated here, not postponed: Gradio reads them inside the function that makes the page, to give
handlers the request and whoever is signed in. Handlers take values of any type and answer whatever is wrong with them
in the page: what they raised would be an HTTP 500.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from eco_eval.candidates.files import shown as printable
from eco_eval.errors import EcoEvalError, InputError
from eco_eval.queue import Entry
from eco_eval.reception import DTYPES, ENGINES, LONGEST_PROMPT, Asked, Examined, Kept, Reception, choice
from eco_eval.ui.api import Requests
from eco_eval.ui.identity import can_sign_in, identify, is_hosted
from eco_eval.ui.requests import (
    STATES,
    asked_html,
    examined_html,
    intro_html,
    note_html,
    own_html,
    problem_html,
    queue_html,
    shown,
    state_text,
    you_html,
)
from eco_eval.ui.terminal import plain
from eco_eval.ui.texts import Texts

if TYPE_CHECKING:
    import gradio as gr

EVERY = 5.0
"""Seconds between two looks at the queue while the tab is open."""

USUAL = "eco-es-v1"
"""The instrument that is chosen beforehand."""

ACTIONS = ("cancel", "withdraw", "retry")

LISTED = 30
"""Requests in each list."""

AT_ONCE = 8
"""Handlers of one kind at once; the others wait."""


class Desk:
    """What the page's handlers say, in one language."""

    def __init__(self, reception: Reception, t: Texts) -> None:
        self.reception = reception
        self.t = t
        # Everybody who looks sees the same list: it is read once for all of them.
        self._public: Kept[str] = Kept(seconds=EVERY / 2, most=1)

    def check(self, user: str | None, name: object, *how: object) -> str:
        """What a model is, or why it is refused."""
        try:
            self._require(user)
            examined = self.reception.examine(name, self.reception.wanted(*how))
            return examined_html(examined, self._found(examined), self.t)
        except EcoEvalError as error:
            return problem_html(error, self.t)

    def send(self, user: str | None, name: object, *how: object) -> str:
        """Ask for a model: its place and how long that takes, or why it is refused."""
        try:
            asked = self._ask(user, name, how)
            return asked_html(asked, self.reception.wait(asked.entry), self.t)
        except EcoEvalError as error:
            return problem_html(error, self.t)

    def sent(self, user: str | None, name: object, *how: object) -> dict[str, Any]:
        """The same for programs."""
        try:
            asked = self._ask(user, name, how)
            told = shown(asked.entry, self.t).model_dump(mode="json")
            wait = self.reception.wait(asked.entry)
            return {"accepted": True, "is_new": asked.is_new, "request": told, "wait_seconds": wait}
        except EcoEvalError as error:
            return {"accepted": False, **self._problem(error)}

    def act(self, what: str, user: str | None, request_id: object) -> str:
        """Cancel, withdraw or retry a request of one's own."""
        try:
            owner, queue, known = self._require(user), self.reception.queue(), _id(request_id)
            if what == "retry":
                entry = queue.retry(known, owner, self.reception.quotas)
            elif what == "withdraw":
                entry = self.reception.withdraw(known, owner)
            else:
                entry = queue.cancel(known, owner)
            told = shown(entry, self.t)
            return note_html(self.t("submit.done", model=plain(told.model), state=state_text(told, self.t)))
        except EcoEvalError as error:
            return problem_html(error, self.t)

    def mine(self, user: str | None) -> tuple[str, list[tuple[str, str]]]:
        """One's own requests as HTML, and those one can act on as (label, id)."""
        if user is None:
            return "", []
        try:
            entries = self.reception.queue().entries(user=user, limit=LISTED)
            waits = [self.reception.wait(entry) for entry in entries]
        except EcoEvalError as error:
            return problem_html(error, self.t), []
        told = [(entry.request.id, entry.request.submission) for entry in entries]
        labels = [(plain(f"{one.model.name} · {one.instrument}"), request_id) for request_id, one in told]
        return own_html(entries, waits, self.t), labels

    def everybody(self) -> str:
        """The queue as anybody may see it, as HTML."""
        return self._public.get("", self._everybody)

    def listed(self, state: object, limit: object, offset: object) -> dict[str, Any]:
        """The same for programs."""
        try:
            some = _within("limit", limit, 1, 200), _within("offset", offset, 0, 1_000_000)
            states = () if state in ("", None) else (choice("state", state, STATES),)
            queue = self.reception.queue()
            entries = queue.entries(states=states, limit=some[0], offset=some[1])
            requests = [shown(entry, self.t) for entry in entries]
            return Requests(requests=requests, counts=queue.counts()).model_dump(mode="json")
        except EcoEvalError as error:
            return self._problem(error)

    def one(self, request_id: object) -> dict[str, Any]:
        """One request, for programs."""
        try:
            return shown(self.reception.queue().get(_id(request_id)), self.t).model_dump(mode="json")
        except EcoEvalError as error:
            return self._problem(error)

    def _everybody(self) -> str:
        try:
            queue = self.reception.queue()
            entries = [shown(entry, self.t) for entry in queue.entries(limit=LISTED)]
            return queue_html(entries, queue.counts(), self.t)
        except EcoEvalError as error:
            return problem_html(error, self.t)

    def _ask(self, user: str | None, name: object, how: Sequence[object]) -> Asked:
        asker = self._require(user)
        return self.reception.ask(self.reception.examine(name, self.reception.wanted(*how)), asker)

    def _require(self, user: str | None) -> str:
        if user is not None:
            return user
        hosted = is_hosted(self.reception.settings.environ)
        raise InputError("reception.sign_in" if hosted else "reception.elsewhere")

    def _found(self, examined: Examined) -> Entry | None:
        try:
            return self.reception.found(examined)
        # What the model is can be said without a queue; sending says what is wrong with that.
        except EcoEvalError:
            return None

    def _problem(self, error: EcoEvalError) -> dict[str, Any]:
        return {"error": error.key, "message": self.t.error(error)}


def build_page(site: "gr.Blocks", reception: Reception, t: Texts) -> "gr.Timer":
    """Lay the tab out, with the API endpoints `submit`, `queue` and `request`.

    Returns:
        What refreshes it, to be active while the tab is open.
    """
    import gradio as gr

    desk = Desk(reception, t)
    instruments = reception.instruments()
    usual = USUAL if USUAL in instruments else next(iter(instruments), "")
    gr.HTML(intro_html(t))
    if can_sign_in(reception.settings.environ):
        gr.LoginButton(t("submit.sign_in"), logout_value=f"{t('submit.sign_out')} ({{}})", size="md")
    you = gr.HTML()
    with gr.Row(equal_height=True):
        model = gr.Textbox(
            label=t("submit.model"), placeholder=t("submit.example"), max_lines=1, scale=3, min_width=300
        )
        instrument = gr.Dropdown(
            list(instruments), value=usual or None, label=t("submit.instrument"), scale=2, min_width=200
        )
    with gr.Accordion(t("submit.more"), open=False):
        with gr.Row():
            engine = gr.Dropdown(list(ENGINES), value=ENGINES[0], label=t("submit.engine"))
            dtype = gr.Dropdown(list(DTYPES), value=DTYPES[0], label=t("submit.dtype"))
        prompt = gr.Textbox(label=t("submit.system_prompt"), lines=3, max_length=LONGEST_PROMPT)
    with gr.Row():
        check = gr.Button(t("submit.check"), elem_id="submit-check")
        send = gr.Button(t("submit.send"), variant="primary", elem_id="submit-send")
    status = gr.HTML(elem_id="submit-status")
    mine = gr.HTML(elem_id="submit-mine")
    with gr.Row(visible=False, elem_id="submit-actions") as actions:
        chosen = gr.Dropdown([], label=t("submit.choose"), scale=3, min_width=300)
        buttons = {
            what: gr.Button(t(f"submit.{what}"), size="md", min_width=90, elem_id=f"submit-{what}") for what in ACTIONS
        }
    done = gr.HTML(elem_id="submit-done")
    everybody = gr.HTML(elem_id="submit-queue")
    timer = gr.Timer(EVERY, active=False)

    def who(request: gr.Request, profile: gr.OAuthProfile | None) -> str | None:
        headers = {key.lower(): value for key, value in request.headers.items()}
        client = request.client.host if request.client else None
        return identify(headers, client, profile.username if profile else None, reception.settings.environ)

    def asking(handle: Callable[..., Any]) -> Callable[..., Any]:
        """The handler, told first who asks."""

        def handler(request: gr.Request, profile: gr.OAuthProfile | None, *values: Any) -> Any:
            return handle(who(request, profile), *values)

        return handler

    def look(user: str | None) -> list[Any]:
        own, choices = desk.mine(user)
        return [you_html(user, t), own, gr.Row(visible=bool(choices)), desk.everybody()]

    def choose(user: str | None, current: object) -> Any:
        choices = desk.mine(user)[1]
        ids = [request_id for _, request_id in choices]
        return gr.Dropdown(choices, value=current if current in ids else next(iter(ids), None))

    # Values are checked here: what Gradio itself refuses would be an HTTP 500.
    hidden: dict[str, Any] = {"api_visibility": "private", "preprocess": False}
    busy: dict[str, Any] = {**hidden, "concurrency_limit": AT_ONCE}
    quiet: dict[str, Any] = {**hidden, "queue": False, "show_progress": "hidden"}
    fields = [model, instrument, engine, dtype, prompt]
    for event in (check.click, model.submit):
        event(asking(desk.check), fields, status, **busy)
    events = [send.click(asking(desk.send), fields, status, **busy)]
    for what, button in buttons.items():
        events.append(button.click(asking(partial(desk.act, what)), chosen, done, **busy))
    for after in (site.load, *(event.then for event in events)):
        after(asking(look), None, [you, mine, actions, everybody], **quiet)
        after(asking(choose), chosen, chosen, **quiet)
    timer.tick(asking(look), None, [you, mine, actions, everybody], **quiet)

    def submit(
        request: gr.Request,
        profile: gr.OAuthProfile | None,
        model: str,
        instrument: str = usual,
        engine: str = ENGINES[0],
        dtype: str = DTYPES[0],
        system_prompt: str = "",
    ) -> dict[str, Any]:
        """Ask for a model on the Hub (`owner/name`, with `@revision` if it is to be another than the newest).

        Returns:
            `accepted`; then `is_new`, the `request` as it stands, and `wait_seconds` or null where nothing is known;
            or else `error`, a word for programs, and `message`.
        """
        return desk.sent(who(request, profile), model, instrument, engine, dtype, system_prompt)

    def read_queue(state: str = "", limit: int = 50, offset: int = 0) -> dict[str, Any]:
        """Requests of a state or of any: those that run, those that wait in their order, then the latest."""
        return desk.listed(state, limit, offset)

    def read_request(request_id: str) -> dict[str, Any]:
        """One request as it stands."""
        return desk.one(request_id)

    gr.api(submit, api_name="submit", concurrency_limit=AT_ONCE)
    gr.api(read_queue, api_name="queue", concurrency_limit=AT_ONCE)
    gr.api(read_request, api_name="request", concurrency_limit=AT_ONCE)
    return timer


def _id(value: object) -> str:
    if not isinstance(value, str):
        raise InputError("queue.unknown", request=printable(str(value)[:80]))
    return value[:100]


def _within(field: str, value: object, low: int, high: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise InputError("reception.bad_choice", field=field, value=printable(str(value)[:80]), known=f"{low}–{high}")
