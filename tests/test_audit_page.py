"""People grade answers blind: what a batch is, what is published of it, and the page, by keyboard in a browser."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import visit
from serving import SPACE
from test_duels import filled
from test_people import letters, scored

from eco_eval.errors import InputError, StoreError
from eco_eval.grading import BATCH, Batch, Grading, pseudonym, secret_key
from eco_eval.instrument import load_instrument
from eco_eval.people import FOLDER, Subject, answer_id, load_audits, points_of, skipped
from eco_eval.people_report import report
from eco_eval.results import details, load_results
from eco_eval.settings import Settings
from eco_eval.store import LocalStore
from eco_eval.types import GRADES, Grade, Graded, Result
from eco_eval.ui.pages.audit import Booth, agreement_html, render
from eco_eval.ui.texts import Texts
from eco_eval.ui.visitor import Visitor

GOOD, REGULAR, BAD = GRADES
ANA, LUZ, SOL = "hub:ana", "hub:luz", "hub:sol"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return filled(tmp_path_factory.mktemp("made"))


@pytest.fixture
def settings(made: Settings, tmp_path: Path) -> Settings:
    """A copy of the store, of this test's own."""
    import shutil

    shutil.copytree(made.data_dir, tmp_path / "data")
    return made.model_copy(update={"data_dir": tmp_path / "data"})


@pytest.fixture
def store(settings: Settings) -> LocalStore:
    return LocalStore(settings.data_dir)


@pytest.fixture
def grading(settings: Settings, store: LocalStore) -> Grading:
    return Grading(store, settings)


def whole(grading: Grading, user: str, grades: Sequence[Grade | None] = GRADES) -> Batch:
    """A batch graded to its end."""
    batch = grading.begin(user)
    while not batch.is_whole:
        batch = grading.grade(user, batch.ticket, grades[batch.place % len(grades)])
    return batch


def published(grading: Grading, user: str, grades: Sequence[Grade | None] = GRADES) -> Batch:
    batch = whole(grading, user, grades)
    grading.publish(user, batch.ticket)
    return batch


# --- batches


def test_what_is_published_is_an_audit_like_those_of_the_command_line(grading: Grading, store: LocalStore) -> None:
    batch = published(grading, ANA)
    (audit,) = load_audits(store)
    assert audit.sample == batch.sample
    (grades,) = audit.graders
    assert grades.grader == grading.name(ANA)
    assert {key: given.grade for key, given in grades.grades.items()} == {
        shown.id: GRADES[place % 3] for place, shown in enumerate(batch.shown)
    }
    assert skipped(audit.sample, grades.grades) == 0
    results = [result for result in load_results(store)[0] if not result.is_anchor]
    told = [points_of(store, one.submission, [answer for answer, _ in details(store, one)]) for one in results]
    assert sum(map(len, told)) == sum(len(item.of) for item in batch.sample.items)


def test_nothing_of_a_batch_is_in_the_store_before_it_is_published(grading: Grading, store: LocalStore) -> None:
    batch = whole(grading, ANA)
    assert store.list(FOLDER) == []
    kept = grading.publish(ANA, batch.ticket)
    assert kept is not None
    assert (kept.new, kept.graded) == (len(batch.shown), len(batch.shown))
    assert len(store.list(FOLDER)) == 2


def test_a_batch_shows_every_model_and_never_a_control_or_an_answer_without_a_verdict(
    grading: Grading, store: LocalStore
) -> None:
    batch = grading.begin(ANA)
    assert len(batch.shown) <= BATCH
    assert len({place.model for item in batch.sample.items for place in item.of}) == 3
    prompts = {prompt.id: prompt for prompt in load_instrument("eco-es-demo").asked}
    assert not any(prompts[place.prompt_id].control for item in batch.sample.items for place in item.of)
    assert [shown.id for shown in batch.shown] == [item.id for item in batch.sample.items]
    assert all(answer_id(shown.prompt, shown.answer) == shown.id for shown in batch.shown)


def test_a_second_person_has_the_same_batch_and_a_third_another(grading: Grading, store: LocalStore) -> None:
    first = published(grading, ANA)
    second, third = published(grading, LUZ, [GOOD]), grading.begin(SOL)
    assert second.shown == first.shown
    assert second.token != first.token
    assert third.sample.id != first.sample.id
    results = [result for result in load_results(store)[0] if not result.is_anchor]
    (sample,) = report(load_audits(store), [Subject(one, details(store, one)) for one in results]).samples
    assert [pair.n for pair in sample.pairs] == [len(first.shown)]


def test_two_at_once_share_a_batch_that_is_not_published_yet(grading: Grading) -> None:
    assert grading.begin(ANA).shown == grading.begin(LUZ).shown
    assert grading.begin(SOL).sample.id != grading.begin(ANA).sample.id


def test_batches_of_one_person_hold_no_answer_twice_while_there_are_others(grading: Grading) -> None:
    ids = [shown.id for _ in range(4) for shown in published(grading, ANA).shown]
    assert len(set(ids)) == len(ids) > 60
    for _ in range(8):
        published(grading, ANA)  # and then they begin again


def test_the_models_with_the_fewest_grades_come_first(tmp_path: Path) -> None:
    settings = filled(tmp_path, models=6, prompts=30)
    grading, store = Grading(LocalStore(settings.data_dir), settings), LocalStore(settings.data_dir)
    seen: Counter[str] = Counter()
    for _ in range(3):
        seen.update({place.model for item in published(grading, ANA).sample.items for place in item.of})
    assert len(seen) == len([one for one in load_results(store)[0] if not one.is_anchor]) == 6
    assert set(seen.values()) == {2}


def test_what_is_drawn_of_a_model_over_several_batches_is_uniform(settings: Settings, store: LocalStore) -> None:
    """After two batches, each answer of a model was drawn as often as any other, whatever was graded how."""
    results = [result for result in load_results(store)[0] if not result.is_anchor]
    model = results[0].submission.answers_digest
    grading, counts, runs = Grading(store, settings), Counter[str](), 150
    models = {one.submission.answers_digest: [one] for one in results}
    prompts = {prompt.id: prompt for prompt in load_instrument("eco-es-demo").asked}
    for _ in range(runs):
        first, _ = grading._new(models, [], [], prompts)
        second, _ = grading._new(models, [], [first], prompts)
        drawn = [place.prompt_id for item in (*first.items, *second.items) for place in item.of if place.model == model]
        assert len(drawn) == len(set(drawn)) == 2 * (BATCH // 3)
        counts.update(drawn)
    pool = [
        answer.prompt_id
        for answer, verdicts in details(store, results[0])
        if not prompts[answer.prompt_id].control and isinstance(verdicts[0], Graded)
    ]
    share = 2 * (BATCH // 3) / len(pool)
    spread = sum((counts[key] - runs * share) ** 2 for key in pool) / (runs * share * (1 - share))
    assert set(counts) <= set(pool)
    assert abs(spread - len(pool)) < 4 * np.sqrt(2 * len(pool))


# --- tickets


def test_an_answer_is_graded_once_however_often_a_key_is_pressed(grading: Grading) -> None:
    batch = grading.begin(ANA)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda grade: grading.grade(ANA, batch.ticket, grade), [*GRADES] * 8))
    after = grading.open(ANA)
    assert after is not None
    assert after.place == 1


@pytest.mark.parametrize("ticket", ["", None, 3, "x-0", ["a"], "\0", "x" * 1_000_000, {"a": 1}])
def test_a_ticket_that_is_none_is_refused(grading: Grading, ticket: object) -> None:
    grading.begin(ANA)
    for act in (lambda: grading.grade(ANA, ticket, GOOD), lambda: grading.undo(ANA, ticket)):
        with pytest.raises(InputError) as refused:
            act()
        assert refused.value.key == "grading.lost"


def test_nobody_grades_what_was_drawn_for_another(grading: Grading, store: LocalStore) -> None:
    mine, theirs = whole(grading, ANA), grading.begin(SOL)
    for ticket in (mine.ticket, mine.ticket.replace(mine.token, "")):
        with pytest.raises(InputError):
            grading.grade(SOL, ticket, BAD)
        with pytest.raises(InputError):
            grading.publish(SOL, ticket)
    with pytest.raises(InputError):
        grading.grade(LUZ, theirs.ticket, BAD)
    assert grading.open(SOL) == theirs
    assert store.list(FOLDER) == []


def test_a_batch_is_not_published_before_it_is_whole(grading: Grading, store: LocalStore) -> None:
    batch = grading.begin(ANA)
    batch = grading.grade(ANA, batch.ticket, GOOD)
    with pytest.raises(InputError) as refused:
        grading.publish(ANA, batch.ticket)
    assert refused.value.values["left"] == len(batch.shown) - 1
    assert store.list(FOLDER) == []


def test_undo_goes_back_one_answer_also_at_the_end(grading: Grading) -> None:
    batch = whole(grading, ANA, [GOOD])
    back = grading.undo(ANA, batch.ticket)
    assert back.place == len(batch.shown) - 1
    assert grading.undo(ANA, batch.ticket) == back  # the same key again
    again = grading.grade(ANA, back.ticket, BAD)
    assert again.given[-1] == BAD
    while again.place:
        again = grading.undo(ANA, again.ticket)
    assert grading.undo(ANA, again.ticket).place == 0


# --- what is kept


def test_a_begun_batch_outlives_the_process(grading: Grading, settings: Settings, store: LocalStore) -> None:
    batch = grading.begin(ANA)
    batch = grading.grade(ANA, batch.ticket, BAD)
    anew = Grading(store, settings)
    assert anew.open(ANA) == batch
    assert anew.begin(ANA) == batch


def test_a_lost_batch_is_said_and_not_begun_anew_behind_ones_back(settings: Settings, grading: Grading) -> None:
    booth, ana = Booth(grading, Texts("es")), Visitor(ANA, "s")
    ticket = booth.go(ana, "").ticket
    for file in (settings.data_dir / ".grading").iterdir():
        file.unlink()
    booth = Booth(Grading(LocalStore(settings.data_dir), settings), Texts("es"))
    for screen in (booth.grade(ana, ticket, GOOD), booth.undo(ana, ticket), booth.go(ana, ticket)):
        assert "ya no está en este servidor" in screen.shown
        assert screen.ticket == ""
    assert booth.go(ana, "").grading


def test_a_damaged_batch_is_put_aside_and_said(settings: Settings, store: LocalStore) -> None:
    Grading(store, settings).begin(ANA)
    (file,) = (settings.data_dir / ".grading").iterdir()
    file.write_text("{")
    anew = Grading(store, settings)
    with pytest.raises(StoreError):
        anew.open(ANA)
    assert anew.open(ANA) is None
    assert anew.begin(ANA).place == 0


def test_a_batch_stays_where_the_store_cannot_be_written(settings: Settings, store: LocalStore) -> None:
    class Full(LocalStore):
        full = True

        def write(self, path: str, data: bytes, *, expected: str = "any") -> str:
            if self.full:
                raise StoreError("store.unwritable", path=path, reason="full")
            return super().write(path, data, expected=expected)

    full = Full(settings.data_dir)
    grading = Grading(full, settings)
    booth, batch = Booth(grading, Texts("en")), whole(grading, ANA)
    screen = booth.go(Visitor(ANA, ""), batch.ticket)
    assert "eco-warn" in screen.shown
    assert screen.ticket == batch.ticket
    assert screen.go == Texts("en")("page.audit.publish")
    full.full = False
    assert "eco-ok" in booth.go(Visitor(ANA, ""), batch.ticket).shown
    assert len(load_audits(store)) == 1


def test_a_batch_whose_answers_were_all_skipped_leaves_nothing(grading: Grading, store: LocalStore) -> None:
    batch = whole(grading, ANA, [None])
    screen = Booth(grading, Texts("es")).go(Visitor(ANA, ""), batch.ticket)
    assert "no se ha publicado nada" in screen.shown
    assert store.list(FOLDER) == []
    assert grading.open(ANA) is None


# --- who


def test_a_person_has_one_name_that_says_nothing_of_who_they_are(settings: Settings, store: LocalStore) -> None:
    names = {user: Grading(store, settings).name(user) for user in (ANA, LUZ, "hub:Ana")}
    assert len(set(names.values())) == 3
    assert Grading(store, settings).name(ANA) == names[ANA]
    assert re.fullmatch(r"persona-[0-9a-f]{12}", names[ANA])
    other = settings.model_copy(update={"environ": {**SPACE, "OAUTH_CLIENT_SECRET": "another"}})
    assert Grading(store, other).name(ANA) != names[ANA]


def test_without_sign_in_the_key_is_made_once(settings: Settings) -> None:
    here = settings.model_copy(update={"environ": {}})
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: secret_key(here), range(16)))
    assert len(keys) == 1
    assert len(next(iter(keys))) == 32
    assert pseudonym(ANA, keys.pop()) != pseudonym(ANA, secret_key(settings))
    file = here.data_dir / ".people.key"
    assert file.stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in here.data_dir.glob(".people*")) == [".people.key"]


def test_what_is_published_names_nobody(settings: Settings, grading: Grading, store: LocalStore) -> None:
    published(grading, "hub:margarita")
    texts = [path.read_text() for path in settings.data_dir.rglob("*.json")]
    assert texts
    assert not any("margarita" in text for text in texts)
    assert not any("margarita" in str(path) for path in settings.data_dir.rglob("*"))


def test_who_is_not_signed_in_may_read_the_rubric_and_no_more(grading: Grading) -> None:
    nobody = Visitor(None, "s")
    for t, said in ((Texts("es"), "entrar con Hugging Face"), (Texts("en"), "sign in with Hugging Face")):
        booth = Booth(grading, t)
        for screen in (booth.go(nobody, ""), booth.grade(nobody, "x-1", GOOD), booth.undo(nobody, "x-1")):
            assert "eco-warn" in screen.shown
            assert not screen.grading
        assert said in booth.you(nobody)
        assert booth.look(nobody).go == ""
        assert "<table" in booth.rubric()


# --- what is shown


def test_a_person_sees_no_model_judge_or_verdict_before_the_grade(grading: Grading, store: LocalStore) -> None:
    batch = grading.begin(ANA)
    results = [result for result in load_results(store)[0] if not result.is_anchor]
    names = {"demo-judge", *(one.submission.model.name for one in results), *(one.id for one in results)}
    digests = {one.submission.answers_digest for one in results} | {shown.id for shown in batch.shown}
    for lang in ("es", "en"):
        booth, at = Booth(grading, Texts(lang)), batch
        while not at.is_whole:
            screen = booth.look(Visitor(ANA, ""))
            words = screen.shown + screen.ticket
            assert not any(word in words for word in names | digests)
            assert "eco-grade" not in words
            assert "κ" not in words
            at = grading.grade(ANA, at.ticket, GOOD)
        while at.place:
            at = grading.undo(ANA, at.ticket)


def test_hostile_answers_stay_text(grading: Grading) -> None:
    batch = grading.begin(ANA)
    shown = [shown for shown in batch.shown if "onerror" in shown.answer]
    assert shown
    for one in shown:
        html = render(batch.model_copy(update={"shown": (one,)}), Texts("es"))
        assert "&lt;script&gt;" in html
        assert "<script" not in html
        assert "<img" not in html


def judged(store: LocalStore, batch: Batch) -> list[Grade]:
    """What the judge said of each answer of a batch."""
    said = {
        answer_id(answer.prompt, answer.text): verdict.grade
        for result in load_results(store)[0]
        for answer, (verdict,) in details(store, result)
        if isinstance(verdict, Graded)
    }
    return [said[shown.id] for shown in batch.shown]


def test_agreement_is_told_after_a_batch_and_is_over_all_of_them(grading: Grading, store: LocalStore) -> None:
    for _ in range(2):
        batch = grading.begin(ANA)
        for grade in judged(store, batch):
            batch = grading.grade(ANA, batch.ticket, grade)
        screen = Booth(grading, Texts("es")).go(Visitor(ANA, ""), batch.ticket)
    found = grading.agreement(ANA)
    assert found is not None
    (judge,) = found.judges
    assert (found.batches, found.answers) == (2, 2 * len(batch.shown))
    assert judge.agreement.n == found.answers
    assert judge.agreement.kappa is not None
    assert judge.agreement.kappa.value == pytest.approx(1)
    assert "κ ponderada 1,00" in screen.shown
    assert grading.agreement(LUZ) is None


def test_agreement_withheld_says_why(grading: Grading, store: LocalStore) -> None:
    batch = grading.begin(ANA)
    for grade in judged(store, batch):
        batch = grading.grade(ANA, batch.ticket, grade if grade == BAD else None)
    grading.publish(ANA, batch.ticket)
    found = grading.agreement(ANA)
    assert found is not None
    assert found.judges[0].agreement.kappa is None
    html = agreement_html(found, Texts("en"))
    assert "κ undefined" in html
    assert "κ todavía" not in agreement_html(found.model_copy(update={"judges": ()}), Texts("es"))
    assert "no hay con qué comparar" in agreement_html(found.model_copy(update={"judges": ()}), Texts("es"))


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, environ=dict(SPACE))
    booth = Booth(Grading(LocalStore(tmp_path), settings), Texts("es"))
    assert "eco-eval evaluate" in booth.go(Visitor(ANA, ""), "").shown
    assert "eco-eval evaluate" in booth.rubric()


# --- in a browser


class Page(NamedTuple):
    url: str
    settings: Settings


@contextmanager
def serving(settings: Settings) -> Iterator[Page]:
    """Both tabs in both languages, as the site lays them out."""
    import gradio as gr

    from eco_eval.duels import Duels
    from eco_eval.ui.pages import audit, duel
    from eco_eval.ui.site import serve

    store = LocalStore(settings.data_dir)
    grading = Grading(store, settings)
    duels = Duels(store, grading)

    def tabs(site: Any, t: Texts) -> None:
        with gr.Tabs():
            with gr.Tab(t("page.tab.audit")):
                audit.build_page(site, grading, t)
            with gr.Tab(t("page.tab.duel")):
                duel.build_page(site, duels, t)

    def build() -> Any:
        with gr.Blocks(analytics_enabled=False) as site:
            tabs(site, Texts("es"))
        with site.route("en", "en", show_in_navbar=False):
            tabs(site, Texts("en"))
        return site

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    site, url = serve(build, port=port, wait=False)
    yield Page(url, settings)
    site.close()


@pytest.fixture
def page(settings: Settings) -> Iterator[Page]:
    with serving(settings.model_copy(update={"environ": {}})) as running:
        yield running


def progress(tab: Any, text: str) -> None:
    tab.wait_for_function("t => document.querySelector('#audit-progress')?.innerText.includes(t)", arg=text)


@pytest.mark.parametrize(("width", "path"), [(1280, ""), (390, "en")])
def test_a_person_grades_a_batch_by_keyboard_alone(browser: Any, page: Page, width: int, path: str) -> None:
    t = Texts("en" if path else "es")
    total = 3 * (BATCH // 3)

    def at(place: int) -> str:
        return t("page.audit.progress", place=place, total=total)

    with visit(browser, f"{page.url}{path}", t("page.audit.keys"), width) as tab:
        tab.wait_for_selector("#audit-go >> visible=true")
        tab.keyboard.press("Enter")
        progress(tab, at(1))
        tab.keyboard.press("3")
        progress(tab, at(2))
        tab.keyboard.press("u")
        progress(tab, at(1))
        tab.keyboard.press("2")
        progress(tab, at(2))
        tab.keyboard.press("0")
        progress(tab, at(3))
        tab.keyboard.press("Control+1")
        tab.wait_for_timeout(500)
        tab.reload()
        progress(tab, at(3))
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1, "the page scrolls sideways"
        for place in range(3, total + 1):
            progress(tab, at(place))
            tab.keyboard.press("1")
        tab.wait_for_selector(f"text={t('page.audit.whole', graded=total - 1, skipped=1)}")
        assert "κ" not in tab.inner_text("body")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#audit-agreement")
        assert "demo-judge" in tab.inner_text("#audit-agreement")
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1, "the page scrolls sideways"
        assert tab.title() != "tomada"
    (audit,) = load_audits(LocalStore(page.settings.data_dir))
    (grades,) = audit.graders
    given = [grades.grades[item.id].grade if item.id in grades.grades else None for item in audit.sample.items]
    assert given == [REGULAR, None, *[GOOD] * (total - 2)]


def test_letters_are_no_shortcuts_where_they_are_turned_off(browser: Any, page: Page) -> None:
    with visit(browser, page.url, "Atajos de teclado") as tab:
        tab.locator("#audit-go").click()
        progress(tab, "1 de")
        tab.get_by_label("Atajos de teclado").uncheck()
        tab.keyboard.press("3")
        tab.wait_for_timeout(600)
        progress(tab, "Respuesta 1 de")
        tab.locator("#audit-bad").click()
        progress(tab, "Respuesta 2 de")


def test_another_site_cannot_grade_in_ones_name(page: Page) -> None:
    from serving import press

    begun = press(page.url.rstrip("/"), "audit-go", "")
    assert begun[1]
    refused = press(page.url.rstrip("/"), "audit-good", begun[1], **{"Sec-Fetch-Site": "cross-site"})
    assert "eco-warn" in refused[0]
    assert json.dumps(begun[1].rpartition("-")[2]) == '"0"'
    moved = press(page.url.rstrip("/"), "audit-good", begun[1])
    assert moved[1] == begun[1].rpartition("-")[0] + "-1"
    for odd in (None, 3, "x", ["a"], "x" * 100_000):
        assert "eco-warn" in press(page.url.rstrip("/"), "audit-good", odd)[0]


def test_results_of_other_versions_are_never_mixed(tmp_path: Path) -> None:
    settings = filled(tmp_path)
    store = LocalStore(settings.data_dir)
    other = load_instrument("eco-es-demo").limited(20).with_judge_at("0" * 40)
    lone: Result = scored(other, store, "sola/x-1b", letters("sola", "grb"))
    drawn = Grading(store, settings).begin(ANA).sample
    assert lone.submission.asked_digest != drawn.asked_digest
    assert len(drawn.models) == 3
