"""The page about the judges: what it says of each card, and of those there are none of."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import visit
from test_card import HOSTILE, card_of, prompt
from test_card import whole as whole
from test_page import scripted, serve

from eco_eval.attacks import ATTACKS
from eco_eval.instrument import GateSpec, Instrument
from eco_eval.judge_card import JudgeCard
from eco_eval.pipeline import evaluate, submit
from eco_eval.settings import LANGS, Lang
from eco_eval.store import LocalStore
from eco_eval.types import ModelRef
from eco_eval.ui.pages.judge import card_html, page, read_cards
from eco_eval.ui.texts import Texts

EN = Texts("en")
LENIENT = GateSpec(min_order=0, min_kappa=-1, max_false_good=100)


class Reader(HTMLParser):
    """Tags and words of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data + " "


def rows(html: str, caption: str) -> dict[str, list[str]]:
    """The cells of a table by the name of their row, without tags."""
    found = re.search(rf"<caption>{re.escape(caption)}</caption>(.*?)</table>", html, re.DOTALL)
    assert found, caption
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", found[1])]
    plain = [[unescape(re.sub(r"<[^>]+>", " ", cell)).strip() for cell in row] for row in cells]
    return {row[0]: row[1:] for row in plain[1:]}


def keep(store: LocalStore, card: JudgeCard, name: str = "a") -> None:
    store.write(f"audits/judges/{name}.json", card.model_dump_json().encode())


@pytest.fixture
def good(demo: Instrument) -> JudgeCard:
    """A judge that errs in nothing, at a gate that asks for little."""
    battery = {attack.name: "b" * 30 for attack in ATTACKS}
    real = demo.model_copy(update={"judge": demo.judge.model_copy(update={"stand_in": False})})
    return card_of(real, [prompt(i) for i in range(30)], ["grb"] * 30, battery, LENIENT)


def test_a_stand_in_is_said_to_be_one(demo: Instrument, good: JudgeCard) -> None:
    stand_in = card_of(demo, [prompt(i) for i in range(4)], ["grb"] * 4)
    assert "STAND-IN" in card_html(stand_in, EN)
    assert "STAND-IN" not in card_html(good, EN)


def test_what_fools_a_judge_is_named_beside_the_true_worst(whole: JudgeCard) -> None:
    html = card_html(whole, EN)
    fooled = {key for key in whole.attacks if whole.is_fooled_by(key)}
    assert fooled
    assert fooled < set(whole.attacks)
    battery = rows(html, EN("card.attacks"))
    worst = battery.pop(EN("page.judge.true_worst"))
    assert worst[2].startswith(EN.number(whole.worst.value))
    assert {name for name, cells in battery.items() if "✗" in cells[0]} == {
        EN(f"card.attack_name.{key}") for key in fooled
    }
    for key, score in whole.scores.items():
        cells = battery[EN(f"card.attack_name.{key}")]
        assert cells[2].startswith("—" if score is None else EN.number(score.value))
    assert EN("page.judge.not_fooled") not in html


def test_a_judge_that_nothing_fools_is_said_to_stand(good: JudgeCard) -> None:
    html = card_html(good, EN)
    assert EN("page.judge.not_fooled") in html
    assert EN("page.judge.verdict_passed") in html
    battery = rows(html, EN("card.attacks"))
    del battery[EN("page.judge.true_worst")]
    assert {cells[0] for cells in battery.values()} == {"✓"}


def test_each_demand_says_whether_it_is_met_and_why(demo: Instrument) -> None:
    strict = GateSpec(min_order=100, min_kappa=-1, max_false_good=100)
    card = card_of(demo, [prompt(i) for i in range(30)], ["grb"] * 25 + ["brg"] * 5, None, strict)
    html = card_html(card, EN)
    assert EN("page.judge.verdict_failed") in html
    demands = rows(html, EN("card.gate"))
    assert demands[EN("card.gate_order")][0].startswith("✗")
    assert demands[EN("card.gate_order")][2] == "≥ 100.00"
    assert demands[EN("card.gate_kappa")][0].startswith("✓")
    order = next(check for check in card.gate if check.name == "order")
    assert order.value is not None
    assert demands[EN("card.gate_order")][1] == EN.number(order.value, 2)


@pytest.mark.parametrize(("grades", "is_better"), [(["grb"] * 30, True), (["grb"] * 16 + ["brg"] * 14, False)])
def test_agreement_is_compared_with_what_cannot_read(demo: Instrument, grades: list[str], is_better: bool) -> None:
    same = dict.fromkeys(("best", "ambivalent", "worst"), "ni más larga ni más verde")
    html = card_html(card_of(demo, [prompt(i, **same) for i in range(30)], grades), EN)
    assert ("That is surely more" in html) is is_better
    assert ("That is not surely more" in html) is not is_better


def test_drift_is_told_where_there_is_an_earlier_card(whole: JudgeCard, good: JudgeCard) -> None:
    assert whole.drift is not None
    assert EN.number(whole.drift.changed) in card_html(whole, EN).split(EN("card.drift"))[1]
    assert EN("page.judge.no_drift") in card_html(good, EN)
    assert EN("page.judge.no_drift") not in card_html(whole, EN)


def test_a_panel_has_a_card_each_and_real_judges_come_first(
    store: LocalStore, whole: JudgeCard, good: JudgeCard
) -> None:
    assert whole.stand_in
    keep(store, whole.model_copy(update={"judging_digest": "0" * 64}), "a")
    keep(store, good.model_copy(update={"judging_digest": "1" * 64}), "b")
    keep(store, good.model_copy(update={"judging_digest": "2" * 64}), "c")
    assert [card.stand_in for card in read_cards(store).cards] == [False, False, True]
    assert page(store, EN).count("<article") == 3


def test_of_one_judge_the_newest_card_is_shown(store: LocalStore, good: JudgeCard) -> None:
    for name, day in (("a", "02"), ("b", "03"), ("c", "01")):
        keep(store, good.model_copy(update={"made_at": f"2026-01-{day}T00:00:00+00:00"}), name)
    assert [card.made_at[:10] for card in read_cards(store).cards] == ["2026-01-03"]


def test_a_card_that_cannot_be_read_is_named_and_hides_no_other(store: LocalStore, good: JudgeCard) -> None:
    store.write("audits/judges/rota.json", b"{")
    keep(store, good.model_copy(update={"scores": {}}), "sin-notas")
    keep(store, good, "z")
    html = page(store, EN)
    assert "audits/judges/rota.json" in html
    assert "audits/judges/sin-notas.json" in html
    assert html.count("<article") == 1


def test_a_store_without_cards_says_what_to_do(store: LocalStore) -> None:
    assert "eco-eval audit" in page(store, EN)


def test_a_judge_of_the_board_without_a_card_is_listed(store: LocalStore, demo: Instrument, good: JudgeCard) -> None:
    measure = demo.limited(8)
    model = ModelRef(name="vecina/rio-7b", source="hub", revision="a" * 40)
    evaluate(submit(model, measure), measure, scripted("Hablar con quienes riegan abajo."), store)
    assert [seat.revision for seat in read_cards(store).unaudited] == [measure.judge_revision]
    assert EN("page.judge.unaudited") in page(store, EN)
    keep(store, good.model_copy(update={"revision": measure.judge_revision}))
    assert EN("page.judge.unaudited") not in page(store, EN)


def test_words_of_another_version_and_of_strangers_stay_words(demo: Instrument, good: JudgeCard) -> None:
    card = card_of(demo, [prompt(i) for i in range(4)], ["grb"] * 4, judge=HOSTILE)
    strange = {HOSTILE: card.worst}
    card = card.model_copy(
        update={"instrument": HOSTILE, "attacks": strange, "scores": strange, "kept": strange, "revision": HOSTILE}
        | {"parts": {"variety": strange, "codes": strange}, "baselines": {HOSTILE: {"order": card.worst}}}
    )
    mild = card_html(good, EN)
    shown = Reader(card_html(card, EN))
    assert set(shown.tags) <= set(Reader(mild).tags) | {"details", "summary"}
    assert shown.words.count("<script>") >= 5
    assert not set("\x1b\u202e") & set(shown.words)


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("width", [1280, 390])
def test_a_person_reads_the_card_in_both_languages(
    browser: Any, tmp_path: Path, whole: JudgeCard, lang: Lang, width: int
) -> None:
    keep(LocalStore(tmp_path / "data"), whole)
    site, url = serve(tmp_path / "data")
    t = Texts(lang)
    path = {"es": "", "en": "en"}[lang]
    with visit(browser, f"{url}{path}?tab=judge", t("page.judge.fooled"), width) as tab:
        assert tab.locator("article.eco-card >> visible=true").count() == 1
        tab.get_by_text(t("card.calibration_title")).first.click()
        assert tab.locator("svg.curve").is_visible()
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1
    site.close()
