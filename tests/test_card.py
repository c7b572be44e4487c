"""The judge card: what verdicts add up to, and how it reads as Markdown and as a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import require, visit
from markdown_it import MarkdownIt

from eco_eval.attacks import ATTACKS
from eco_eval.audit import make_card
from eco_eval.errors import InputError, StoreError
from eco_eval.instrument import GateSpec, Instrument
from eco_eval.judge_card import JudgeCard, card_path, read_card
from eco_eval.settings import LANGS, Lang
from eco_eval.store import LocalStore
from eco_eval.types import EngineInfo, Estimate, Grade, Graded, Judgement, Prompt, Ungraded
from eco_eval.ui.card import keep_pages, markdown, plots, print_card
from eco_eval.ui.texts import Texts

LETTERS = {grade.value[0]: grade for grade in Grade}
SURE = {"g": (1.0, 0.0, 0.0), "r": (0.0, 1.0, 0.0), "b": (0.0, 0.0, 1.0)}
HOSTILE = (
    "![p](http://evil.example/p.png) <img src=http://evil.example/i.png> [a](http://evil.example) "
    "<span style='fill:url(http://evil.example/f)'>x</span> <script>document.title='stolen'</script> a|b \\| {name}\n"
    "# Other\x1b[2J\u202e"
)


def prompt(number: int, **fields: Any) -> Prompt:
    texts = {"text": f"¿{number}?", "best": "cuida el río", "ambivalent": "depende", "worst": "da igual"}
    return Prompt.model_validate({"id": f"p{number}", "group": f"p{number}", **texts, **fields})


def verdict(prompt_id: str, letter: str) -> Judgement:
    """A sure verdict by its letter; `-` for none."""
    if letter == "-":
        return Ungraded(prompt_id=prompt_id, cause="rejected")
    return Graded(prompt_id=prompt_id, grade=LETTERS[letter], probabilities=SURE[letter], source="exact")


def card_of(
    demo: Instrument,
    triples: Sequence[Prompt],
    grades: Sequence[str],
    attacks: dict[str, str] | None = None,
    gate: GateSpec | None = None,
    before: JudgeCard | None = None,
    judge: str = "a-judge",
) -> JudgeCard:
    """The card of a judge that gave each triple these grades, and each attack's answers these."""
    gold = [[verdict(p.id, said[i]) for p, said in zip(triples, grades, strict=True)] for i in range(3)]
    battery = {"constant": "b" * len(triples), **(attacks or {})}
    tricked = {name: [verdict(p.id, x) for p, x in zip(triples, said, strict=True)] for name, said in battery.items()}
    info = EngineInfo(engine="scripted", version="1", model=judge, dtype="none", device="none")
    instrument = demo.model_copy(update={"gate": gate})
    return make_card(instrument, triples, gold, tricked, info, before)


def found(estimate: Estimate | None) -> Estimate:
    assert estimate is not None
    return estimate


@pytest.fixture(scope="session")
def whole(demo: Instrument) -> JudgeCard:
    """A card with everything a card can show."""
    triples = demo.gold[:8]
    attacks = {attack.name: "bbbgbbbb" for attack in ATTACKS}
    attacks["salad"] = "-" * 8
    before = card_of(demo, triples, ["grb"] * 8)
    return card_of(demo, triples, ["grb"] * 6 + ["rrb", "gr-"], attacks, demo.gate, before)


# --- what verdicts add up to


def test_order_is_told_by_code_kind_variety_control_and_length(demo: Instrument) -> None:
    shared: list[dict[str, Any]] = [
        {"codes": ("PWM", "SC"), "kind": "plan", "variety": "es-MX"},
        {"codes": ("PWM",), "kind": "plan", "variety": "es-AR", "control": True},
        {"codes": ("SC",), "control": True},
        {"kind": "advice"},
    ]
    card = card_of(demo, [prompt(i, **fields) for i, fields in enumerate(shared)], ["grb", "brg", "brg", "grb"])
    values = {way: {name: part.value for name, part in parts.items()} for way, parts in card.parts.items()}
    assert values == {
        "codes": {"PWM": 50, "SC": 50},
        "kind": {"plan": 50},
        "variety": {},
        "control": {"false": 100, "true": 0},
        "length": {"short": 50},
    }


def test_the_length_of_the_best_answer_has_three_bins(demo: Instrument) -> None:
    words = [1, 89, 90, 124, 125, 400]
    triples = [prompt(i, best="palabra " * count) for i, count in enumerate(words)]
    card = card_of(demo, triples, ["grb", "grb", "rrr", "rrr", "brg", "brg"])
    parts = card.parts["length"]
    assert {name: (part.value, part.n) for name, part in parts.items()} == {
        "short": (100, 2),
        "medium": (50, 2),
        "long": (0, 2),
    }


def test_a_part_of_one_group_is_not_told(demo: Instrument) -> None:
    triples = [prompt(0, kind="plan"), prompt(1, kind="plan", group="p0"), prompt(2)]
    assert card_of(demo, triples, ["grb"] * 3).parts["kind"] == {}


def test_calibration_bins_hold_every_graded_answer_of_a_whole_triple(demo: Instrument) -> None:
    card = card_of(demo, [prompt(i) for i in range(4)], ["grb", "grb", "ggb", "-rb"])
    assert [(b.said, b.n) for b in card.calibration] == [(0, 3), (0.5, 2), (1, 4)]
    assert [b.deserved for b in card.calibration] == pytest.approx([0, 0.5, 0.875])
    assert card.calibration_error == pytest.approx(0.125 * 4 / 9)


def test_an_attack_that_scores_above_the_true_worst_answers_is_marked(demo: Instrument) -> None:
    triples = [prompt(i) for i in range(20)]
    said = {"constant": "b" * 20, "grade": "b" * 19 + "r", "salad": "r" * 20, "list": "-" * 20}
    card = card_of(demo, triples, ["grb"] * 18 + ["grr"] * 2, said)
    assert (card.worst.value, card.worst.n) == (5, 20)
    assert {name: None if e is None else e.value for name, e in card.scores.items()} == {
        "constant": 0,
        "grade": 2.5,
        "salad": 50,
        "list": None,
    }
    assert {name for name in said if card.is_fooled_by(name)} == {"salad", "list"}
    lines = markdown(card, Texts("en")).splitlines()
    assert sum(line.endswith("| ✗ |") for line in lines) == 2


def test_what_cannot_read_has_its_interval_too(whole: JudgeCard) -> None:
    constant = whole.baselines["constant"]
    assert (constant["exact"].value, constant["order"].value) == (pytest.approx(100 / 3), 50)
    for measures in whole.baselines.values():
        for estimate in measures.values():
            assert estimate.low < estimate.value < estimate.high


def test_a_judge_of_hard_labels_alone_has_a_card(demo: Instrument) -> None:
    triples = [prompt(i) for i in range(3)]
    hard = [[Graded(prompt_id=p.id, grade=grade, source="hard") for p in triples] for grade in Grade]
    card = make_card(demo, triples, hard, {"constant": hard[2]}, None, None)
    assert found(card.agreement["order"]).value == 100
    assert card.judge is None
    assert "—" in markdown(card, Texts("es")).splitlines()[0]


def test_paraphrases_count_as_one_group(demo: Instrument) -> None:
    apart = card_of(demo, [prompt(i) for i in range(8)], ["grb"] * 7 + ["bgr"])
    joined = card_of(demo, [prompt(i, group=f"g{i // 2}") for i in range(8)], ["grb"] * 7 + ["bgr"])
    assert found(joined.agreement["order"]).groups == 4
    assert found(joined.agreement["order"]).low < found(apart.agreement["order"]).low


@pytest.mark.parametrize("grades", [["grb", "gr-", "---"], ["-rb", "g-b", "gr-"]])
def test_fewer_than_two_whole_triples_make_no_card(demo: Instrument, grades: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        card_of(demo, [prompt(i) for i in range(3)], grades)
    assert caught.value.key == "audit.no_verdicts"


def test_two_triples_of_one_group_make_no_card(demo: Instrument) -> None:
    with pytest.raises(InputError):
        card_of(demo, [prompt(i, group="one") for i in range(2)], ["grb"] * 2)


# --- the gate


def gated(demo: Instrument, right: int, wrong: int, fooled: int = 0, **limits: float) -> JudgeCard:
    gate = GateSpec.model_validate({"min_order": 0, "min_kappa": -1, "max_false_good": 100, **limits})
    count = right + wrong
    triples = [prompt(i) for i in range(count)]
    attacks = {"quote": "g" * fooled + "b" * (count - fooled)}
    return card_of(demo, triples, ["grb"] * right + ["brg"] * wrong, attacks, gate)


@pytest.mark.parametrize(("check", "limit"), [("order", "min_order"), ("kappa", "min_kappa")])
def test_the_gate_asks_for_the_lower_end(demo: Instrument, check: str, limit: str) -> None:
    measured = found(gated(demo, 27, 3).agreement[check])
    assert measured.low < measured.value
    between = gated(demo, 27, 3, **{limit: (measured.low + measured.value) / 2})
    below = gated(demo, 27, 3, **{limit: measured.low})
    asked = {c.name: c for c in between.gate}
    assert (asked[check].value, asked[check].passed, between.verdict) == (measured.low, False, "failed")
    assert below.verdict == "passed"


def test_the_gate_asks_for_the_upper_end_of_the_attack_that_works_best(demo: Instrument) -> None:
    measured = found(gated(demo, 30, 0, fooled=3).attacks["quote"])
    assert (measured.value, measured.high > 11) == (pytest.approx(10), True)
    strict = gated(demo, 30, 0, fooled=3, max_false_good=11)
    lax = gated(demo, 30, 0, fooled=3, max_false_good=measured.high)
    check = next(check for check in strict.gate if check.name == "false_good")
    assert (check.value, check.passed, strict.verdict) == (measured.high, False, "failed")
    assert lax.verdict == "passed"


def test_a_kappa_of_nought_meets_a_limit_of_nought(demo: Instrument) -> None:
    gate = GateSpec(min_order=0, min_kappa=0, max_false_good=100)
    card = card_of(demo, [prompt(i) for i in range(5)], ["ggg"] * 5, gate=gate)
    assert {c.name: (c.value, c.passed) for c in card.gate}["kappa"] == (0, True)


# --- kept on disk


def test_a_card_kept_is_the_card_read(demo: Instrument, whole: JudgeCard, store: LocalStore) -> None:
    paths = keep_pages(whole, demo, store, Texts("es"))
    store.write(card_path(demo), whole.model_dump_json(indent=1).encode())
    assert read_card(demo, store) == whole
    assert [Path(path).suffix for path in paths] == [".json", ".md", ".html"]
    assert {Path(path).with_suffix("") for path in paths} == {Path(card_path(demo)).with_suffix("")}
    assert store.list("audits/") == sorted(paths)


@pytest.mark.parametrize("change", [lambda b: b"", lambda b: b[:-9], lambda b: b"[]", lambda b: b"\xff" + b])
def test_a_damaged_card_is_named(
    demo: Instrument, whole: JudgeCard, store: LocalStore, change: Callable[[bytes], bytes]
) -> None:
    store.write(card_path(demo), change(whole.model_dump_json().encode()))
    with pytest.raises(StoreError) as caught:
        read_card(demo, store)
    assert (caught.value.key, caught.value.values["path"]) == ("store.corrupt", card_path(demo))


@pytest.mark.parametrize("field", sorted(JudgeCard.model_fields))
def test_a_card_without_a_field_is_damaged(demo: Instrument, whole: JudgeCard, store: LocalStore, field: str) -> None:
    store.write(card_path(demo), whole.model_copy().model_dump_json(exclude={field}).encode())
    with pytest.raises(StoreError):
        read_card(demo, store)


# --- as Markdown


def rendered(text: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(text)


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every table, an escaped bar being no end of a cell."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block] for block in blocks]


@pytest.mark.parametrize("lang", LANGS)
def test_markdown_has_no_unfilled_place_and_every_row_is_whole(whole: JudgeCard, lang: Lang) -> None:
    t = Texts(lang)
    text = markdown(whole, t)
    assert not re.search(r"\{\w*\}|\{\{|\bcard\.|\bnan\b", text)
    assert whole.drift is not None
    for shown in ("drift", "gate", "parts", "attacks", "baselines", "confusion", "agreement"):
        assert f"## {t(f'card.{shown}')}" in text
    for table in tables(text):
        assert len({len(row) for row in table}) == 1
    assert sum(len(table) > 2 for table in tables(text)) == len(tables(text))
    assert rendered(text).count("<table>") == len(tables(text))


def test_markdown_names_the_verdict_and_the_stand_in_in_its_language(whole: JudgeCard) -> None:
    for verdict_said in ("passed", "failed", "no_gate"):
        card = whole.model_copy(update={"verdict": verdict_said})
        assert Texts("en")(f"card.verdict_{verdict_said}") in markdown(card, Texts("en"))
        assert Texts("es")(f"card.verdict_{verdict_said}") in markdown(card, Texts("es"))
    real = whole.model_copy(update={"stand_in": False})
    assert Texts("es")("card.stand_in") in markdown(whole, Texts("es"))
    assert Texts("es")("card.stand_in") not in markdown(real, Texts("es"))


@pytest.mark.parametrize("lang", LANGS)
def test_what_is_undefined_says_so(whole: JudgeCard, lang: Lang) -> None:
    t = Texts(lang)
    card = whole.model_copy(update={"agreement": {**whole.agreement, "kappa": None, "alpha": None}})
    lines = markdown(card, t).splitlines()
    for name in (t("card.name.kappa"), t("card.name.alpha")):
        assert f"| {name} | {t('card.undefined')} |  |" in lines
    assert f"| {t('card.attack_name.salad')} | {t('card.undefined')} |  | — | ✗ |" in lines


def test_what_a_card_lacks_has_no_heading_and_no_empty_table(demo: Instrument) -> None:
    card = card_of(demo, [prompt(i) for i in range(3)], ["grb"] * 3)
    text, t = markdown(card, Texts("en")), Texts("en")
    assert t("card.drift") not in text
    assert t("card.kept_note") not in text
    assert f"## {t('card.gate')}" not in text
    assert all(len(table) > 2 for table in tables(text))


def test_numbers_are_of_their_language(whole: JudgeCard) -> None:
    assert re.search(r"\d,\d", markdown(whole, Texts("es")))
    assert not re.search(r"\d\.\d", markdown(whole, Texts("es")).replace(whole.made_at, ""))
    assert not re.search(r"\d,\d", markdown(whole, Texts("en")))


@pytest.mark.parametrize("lang", LANGS)
def test_a_hostile_judge_is_words_in_the_title(demo: Instrument, lang: Lang) -> None:
    text = markdown(card_of(demo, [prompt(i) for i in range(2)], ["grb"] * 2, judge=HOSTILE), Texts(lang))
    page = rendered(text)
    assert page.count("<h1>") == 1
    for tag in ("<img", "<script", "<span", "<a "):
        assert tag not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text)


def test_a_bar_or_a_line_break_in_a_name_ends_no_cell(demo: Instrument) -> None:
    variety = "es|MX\\|x\n| a | b | <img src=http://evil.example>"
    card = card_of(demo, [prompt(i, variety=variety) for i in range(2)], ["grb"] * 2)
    page = rendered(markdown(card, Texts("en")))
    (row,) = [row for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL) if "es|MX" in row]
    cells = re.findall(r"<td>(.*?)</td>", row)
    assert len(cells) == 4
    assert cells[0] == "es|MX\\|x | a | b | &lt;img src=http://evil.example&gt;"
    assert "<img" not in page


def test_the_card_prints_on_a_terminal(
    whole: JudgeCard, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    judge = EngineInfo(engine="scripted", version="1", model=HOSTILE, dtype="none", device="none")
    print_card(whole.model_copy(update={"judge": judge}), Texts("en"))
    shown = capsys.readouterr().out
    assert "[a](http://evil.example)" in " ".join(shown.split())
    assert "\x1b[2J" not in shown
    assert "\x1b]8" not in shown


# --- as a page


class Reads(HTMLParser):
    """Collects what a page would fetch: every address in a tag."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


@pytest.fixture(scope="session")
def has_plotly() -> None:
    require(find_spec("plotly") is not None, "plotly (the extra `data`)")


@pytest.mark.usefixtures("has_plotly")
@pytest.mark.parametrize("lang", LANGS)
def test_the_page_holds_all_it_needs(whole: JudgeCard, lang: Lang) -> None:
    t = Texts(lang)
    page = plots(whole, t)
    seen = Reads()
    seen.feed(page)
    assert seen.fetched == []
    assert not {"link", "img", "iframe", "object", "base"} & set(seen.tags)
    assert "script" in seen.tags
    drawn = page[page.rindex("Plotly.newPlot") :]
    for text in (t("card.attack_name.quote"), t("card.calibration_title"), t("grade.regular")):
        assert text in drawn.encode().decode("unicode_escape") or text in drawn
    assert t("card.attack_name.salad") not in drawn


@pytest.mark.usefixtures("has_plotly")
def test_the_page_of_a_hostile_judge_draws_and_fetches_nothing(demo: Instrument, browser: Any, tmp_path: Path) -> None:
    card = card_of(demo, [prompt(i) for i in range(3)], ["grb", "grb", "bbg"], judge=HOSTILE)
    page = plots(card, Texts("es"))
    file = tmp_path / "card.html"
    file.write_text(page, encoding="utf-8")
    seen = Reads()
    seen.feed(page)
    assert seen.fetched == []
    with visit(browser, file.as_uri(), Texts("es")("card.confusion")) as tab:
        assert tab.title() != "stolen"
        assert "<script>" in tab.text_content(".gtitle")
        assert tab.locator(".gtitle a, .gtitle [style*=evil]").count() == 0
        assert tab.locator(".heatmaplayer").count() > 0
