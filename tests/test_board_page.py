"""The board's page: what filters show, what is drawn of it, what can be taken away, and how it is walked."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow.parquet as pq
import pytest
from conftest import visit
from hypothesis import given, settings
from hypothesis import strategies as st
from test_page import HOSTILE, serve

from eco_eval.board import Section, build
from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.errors import StoreError
from eco_eval.instrument import Instrument
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.results import write_result
from eco_eval.settings import LANGS, Lang
from eco_eval.store import LocalStore, Store
from eco_eval.types import (
    GRADES,
    Contamination,
    Energy,
    Estimate,
    Grade,
    ModelRef,
    Overlap,
    Result,
    Weights,
    Withheld,
)
from eco_eval.ui.board_files import csv_bytes, parquet_bytes, records
from eco_eval.ui.board_table import kwh_text, range_svg, size_text
from eco_eval.ui.filters import (
    COLUMNS,
    FLAGS,
    NONE,
    PLOTS,
    ROWS,
    SORTINGS,
    View,
    facets,
    read_view,
    section_names,
    select,
    write_view,
)
from eco_eval.ui.pages.board import Desk, Shelf, address, render
from eco_eval.ui.plots import MOST_ROWS, draw
from eco_eval.ui.texts import Texts

KIN = "base_model: Qwen/Qwen2.5"


@pytest.fixture(scope="module")
def sample(demo: Instrument, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A real result, of which the tests make others by name, letters and weights."""

    @contextmanager
    def opened() -> Iterator[Engine]:
        yield ScriptedEngine(answer=lambda c: "El río.", label=lambda c, labels: [3, 2, 1])

    model = ModelRef(name="owner/model", source="hub", revision="a" * 40)
    store = LocalStore(tmp_path_factory.mktemp("board"))
    return evaluate(submit(model, demo), demo, Engines(opened, opened), store)


def about(estimate: Estimate, value: float, half: float = 8.0) -> Estimate:
    return estimate.model_copy(update={"value": value, "low": max(0.0, value - half), "high": min(100.0, value + half)})


def made(
    sample: Result,
    name: str,
    good: int,
    *,
    size: int | None = 7_000_000_000,
    kind: str = "chat",
    licence: str = "apache-2.0",
    kwh: float | None = 0.02,
    measured: bool = True,
    corrected: float | None = None,
    finished: str = "2026-03-01T10:00:00+00:00",
    kin: bool = False,
    declared: Sequence[str] = (),
    copied: int = 0,
    instrument: str = "eco-es-demo",
) -> Result:
    """A result with `good` good answers, the others bad."""
    letters = "g" * good + "b" * (len(sample.groups) - good)
    value = 100 * good / len(letters)
    shares = {Grade.GOOD: value, Grade.REGULAR: 0.0, Grade.BAD: 100 - value}
    score = sample.score.model_copy(
        update={
            "eco": about(sample.score.eco, value),
            "corrected": Withheld(reason="ill_conditioned", detail="det 0.01")
            if corrected is None
            else about(sample.score.eco, corrected),
            "shares": {grade: about(sample.score.shares[grade], shares[grade]) for grade in GRADES},
            "by_code": {code: about(part, value, 20) for code, part in sample.score.by_code.items()},
        }
    )
    model = ModelRef(name=name, source="hub", revision="b" * 40)
    submission = sample.submission.model_copy(update={"model": model, "instrument": instrument})
    seat = sample.seats[0].model_copy(update={"grades": letters, "same_family": KIN if kin else None})
    overlap = Overlap(mean=about(score.eco, 2.0, 1.0), copied=copied, n=len(letters), highest=60.0)
    energy = {"answer": Energy(kwh=kwh, measured=measured)} if kwh is not None else {}
    weights = None
    if size is not None:
        weights = Weights.model_validate(
            {"kind": kind, "architecture": "A", "parameters": size, "bytes": 2 * size, "dtype": "f", "licence": licence}
        )
    changes = {
        "id": submission.id,
        "submission": submission,
        "seats": (seat,),
        "score": score,
        "weights": weights,
        "contamination": Contamination(overlap=overlap, declared=tuple(declared)),
        "provenance": sample.provenance.model_copy(update={"energy": energy, "finished_at": finished}),
    }
    return sample.model_copy(update=changes)


@pytest.fixture(scope="module")
def several(sample: Result) -> list[Result]:
    """Models far apart in three groups, so that there are tiers, with every kind of gap and flag."""
    whole = len(sample.groups)
    return [
        made(sample, "sierra/Encina-70B", whole, size=70_000_000_000, kwh=0.5, corrected=99.0),
        made(sample, "sierra/encina-8b", whole - 2, size=8_000_000_000, kin=True, measured=False),
        made(sample, "costa/alga-1b", whole // 2, size=1_000_000_000, kind="base", licence="mit", corrected=40.0),
        made(sample, "costa/Ñandú-3b", whole // 2 - 1, size=3_000_000_000, kind="adapter", declared=["a/b"]),
        made(sample, "valle/sin-pesos", 3, size=None, kwh=None, finished="ayer"),
        made(sample, f"malo/{HOSTILE}", 2, size=500_000_000, licence=f"otra, {HOSTILE}", copied=4),
    ]


@pytest.fixture(scope="module")
def section(several: list[Result], sample: Result) -> Section:
    anchor = made(sample, "anchor-best", 60).model_copy(update={"is_anchor": True})
    (found,) = build([*several, anchor]).sections
    return found


def names(section: Section, **asked: object) -> list[str]:
    return [row.name for row in select(section, read_view(asked)).rows]


# --- what filters show


def test_filters_find_what_they_name(section: Section) -> None:
    everybody = [row.name for row in section.models]
    assert names(section) == everybody
    assert names(section, q="ENCINA") == ["sierra/Encina-70B", "sierra/encina-8b"]
    assert names(section, q="nandu costa") == ["costa/Ñandú-3b"]
    assert names(section, size="1-4") == ["costa/alga-1b", "costa/Ñandú-3b"]
    assert names(section, size=["lt1", NONE]) == everybody[-2:]
    assert names(section, kind="base,adapter") == ["costa/alga-1b", "costa/Ñandú-3b"]
    assert names(section, licence=["mit"]) == ["costa/alga-1b"]
    assert names(section, licence=NONE) == ["valle/sin-pesos"]
    assert names(section, flags=["same_family"]) == ["sierra/encina-8b"]
    assert names(section, flags=["declared", "copied"]) == ["costa/Ñandú-3b", everybody[-1]]
    assert names(section, q="encina", kind="base") == []


def test_filters_change_neither_places_nor_tiers(section: Section) -> None:
    assert len({row.tier for row in section.models}) >= 3
    before = {row.result.id: (row.places, row.tier) for row in section.models}
    for asked in ({"q": "costa"}, {"sort": "size"}, {"flags": "declared"}, {"score": "corrected"}):
        for row in select(section, read_view(asked)).rows:
            assert (row.places, row.tier) == before[row.result.id]
    page = render(board_of(section), [], Texts("es"), read_view({"q": "costa"}))
    assert Texts("es")("page.board.filtered", count=2, total=6) in html.unescape(page)
    assert "3–4" in page


@pytest.mark.parametrize("sort", SORTINGS)
def test_every_order_keeps_tiers_apart_and_loses_nobody(section: Section, sort: str) -> None:
    rows = select(section, View(sort=sort)).rows
    tiers = [row.tier for row in rows]
    assert tiers == sorted(tiers)
    assert {row.name for row in rows} == {row.name for row in section.models}


def test_within_a_tier_another_column_orders_and_gaps_come_last(section: Section) -> None:
    assert names(section, sort="size")[:2] == ["sierra/encina-8b", "sierra/Encina-70B"]
    assert names(section, sort="-size")[:2] == ["sierra/Encina-70B", "sierra/encina-8b"]
    for sort in ("corrected", "-corrected"):
        assert names(section, sort=sort)[:2] == ["sierra/Encina-70B", "sierra/encina-8b"]
    for sort in ("size", "-size", "energy", "-energy"):
        assert names(section, sort=sort)[-1] == "valle/sin-pesos"


def test_facets_count_the_models_of_the_whole_instrument(section: Section) -> None:
    counts = facets(section)
    assert counts["kind"] == {"chat": 3, "base": 1, "adapter": 1, NONE: 1}
    assert sum(counts["size"].values()) == sum(counts["licence"].values()) == 6
    assert next(iter(counts["licence"])) == "apache-2.0"
    assert counts["flags"]["same_family"] == counts["flags"]["copied"] == 1


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*View.model_fields, "otra"]),
        st.one_of(st.text(), st.lists(st.one_of(st.text(), st.none())), st.none(), st.integers(), st.booleans()),
    )
)
def test_whatever_is_asked_there_is_a_view(asked: dict[str, object]) -> None:
    view = read_view(asked)
    assert view.part >= 1
    assert view.sort in SORTINGS
    assert set(view.flags) <= {*FLAGS, NONE}
    assert len(view.q) <= 200


@settings(deadline=None)
@given(
    st.text(max_size=50),
    st.lists(st.text(min_size=1, max_size=20), max_size=5, unique=True),
    st.sets(st.sampled_from(COLUMNS)),
    st.sampled_from(SORTINGS),
)
def test_an_address_brings_back_its_view(q: str, licences: list[str], columns: set[str], sort: str) -> None:
    view = View(
        q=q.strip(),
        licence=tuple(licences),
        columns=tuple(c for c in COLUMNS if c in columns),
        sort=sort,
        part=3,
        score="corrected",
    )
    assert read_view(write_view(view)) == view


def test_a_usual_view_adds_nothing_to_the_address() -> None:
    assert set(write_view(View()).values()) == {""}


def test_instruments_stay_apart_and_the_published_one_comes_first(sample: Result) -> None:
    published = made(sample, "a/one", 50, instrument="eco-en-v1").model_copy(update={"publishable": True})
    board = build([made(sample, "a/one", 50), made(sample, "a/two", 40), published])
    assert list(section_names(board)) == ["eco-en-v1", "eco-es-demo"]
    t = Texts("es")
    assert "a/two" not in render(board, [], t)
    assert "a/two" in render(board, [], t, View(instrument="eco-es-demo"))
    assert "a/one" in render(board, [], t, View(instrument="no-such"))


def test_two_versions_of_an_instrument_have_names_of_their_own(sample: Result) -> None:
    other = made(sample, "a/two", 40)
    changed = other.submission.model_copy(update={"measured_digest": "f" * 64})
    board = build([made(sample, "a/one", 50), other.model_copy(update={"submission": changed})])
    assert len(section_names(board)) == 2
    for name, section in section_names(board).items():
        assert section.models[0].name in render(board, [], Texts("en"), View(instrument=name))


# --- what is drawn


def board_of(section: Section) -> Any:
    from eco_eval.board import Board

    return Board(sections=(section,))


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("score", ["raw", "corrected"])
def test_strangers_text_is_escaped_wherever_it_is_drawn(section: Section, lang: Lang, plot: Any, score: Any) -> None:
    t, view = Texts(lang), View(plot=plot, score=score, columns=COLUMNS)
    page = render(board_of(section), [f"results/{HOSTILE}.json"], t, view) + draw(select(section, view), view, t)
    assert "<script" not in page
    assert "<img" not in page
    assert "{{prompt}}" in page
    assert not re.search(r"\snan\b|'nan'", page)


def test_a_withheld_correction_says_why_and_no_other_number_stands_there(section: Section) -> None:
    t = Texts("es")
    page = html.unescape(render(board_of(section), [], t, View(score="corrected", columns=("eco",))))
    assert t("withheld.ill_conditioned", detail="det 0,01") in page
    assert t("page.board.corrected_note") in page
    row = page[page.index(">sierra/encina-8b<") :].split("</tr>")[0]
    assert "–<sup>1</sup>" in row
    assert not re.search(r"<b>\d", row)
    top = page[page.index(">sierra/Encina-70B<") :].split("</tr>")[0]
    assert "<b>99,0</b>" in top


def test_a_row_leads_to_its_model_and_to_a_comparison(section: Section) -> None:
    page = html.unescape(render(board_of(section), [], Texts("en")))
    first, second, third = (row.result.id for row in section.models[:3])
    assert f"?tab=model&result={first}" in page
    assert f"?tab=compare&a={first}&b={second}" in page
    assert f"?tab=compare&a={third}&b={second}" in page


def test_energy_says_whether_it_was_measured(section: Section) -> None:
    t = Texts("en")
    page = render(board_of(section), [], t)
    rows = {row.name: page[page.index(f">{row.name}<") :].split("</tr>")[0] for row in section.models[:5]}
    assert "0.50<small>measured" in rows["sierra/Encina-70B"]
    assert "0.020<small>estimated" in rows["sierra/encina-8b"]
    assert "kWh" in page
    assert "<td class='num wide'>–</td>" in rows["valle/sin-pesos"]


def test_incidents_are_counted_on_the_row_with_what_they_could_change(sample: Result) -> None:
    result = made(sample, "a/one", 50)
    counts = result.score.counts.model_copy(update={"ungraded": 3, "truncated": 2, "empty": 0})
    score = result.score.model_copy(update={"counts": counts, "bounds": (40.0, 43.5)})
    page = render(build([result.model_copy(update={"score": score})]), [], Texts("en"))
    assert "no verdict: 3" in page
    assert "cut: 2" in page
    assert "empty: 0" not in page
    assert "40.0 to 43.5" in page


def test_a_table_of_hundreds_is_read_in_pages(sample: Result) -> None:
    board = build([made(sample, f"a/m{i:03}", 20 + i % 60) for i in range(ROWS + 20)])
    t = Texts("es")
    first, second = (render(board, [], t, View(part=part)) for part in (1, 2))
    assert first.count("class='name'><a") == ROWS
    assert second.count("class='name'><a") == 20
    assert t("page.board.part", first=ROWS + 1, last=ROWS + 20, count=ROWS + 20) in second
    assert render(board, [], t, View(part=99)).replace("part=99", "part=2") == second


def test_shares_are_a_bar_with_its_numbers(section: Section) -> None:
    page = render(board_of(section), [], Texts("es"))
    widths = re.findall(r"eco-share-good' style='width:([\d.]+)%'", page)
    assert float(widths[0]) == 100
    assert "100 / 0 / 0" in page


@pytest.mark.parametrize("plot", ["size", "energy", "time"])
def test_a_point_stands_where_its_numbers_are(section: Section, plot: Any) -> None:
    view, t = View(plot=plot), Texts("en")
    drawn = draw(select(section, view), view, t)
    marks = re.findall(
        r"<g><title>(.*?)</title><line class='ci' x1='([\d.]+)' x2='\2' y1='([\d.]+)' y2='([\d.]+)'", drawn
    )
    assert len(marks) == len(section.models) - 1, "all but the one without the number"
    scores = {html.escape(row.name): row.eco for row in section.models}
    for title, _, low, high in marks:
        eco = scores[title.split(": ")[0]]
        assert (float(low) - float(high)) == pytest.approx((eco.high - eco.low) / 100 * 324, abs=1.5)
    missing = t(f"page.board.without_{plot}", count=1, names="valle/sin-pesos")
    assert missing in html.unescape(drawn)
    if plot == "size":
        at = {title.split(": ")[0]: float(x) for title, x, _, _ in marks}
        by_size = ["costa/alga-1b", "costa/Ñandú-3b", "sierra/encina-8b", "sierra/Encina-70B"]
        assert [at[name] for name in by_size] == sorted(at[name] for name in by_size)
        # Equal ratios are equal distances.
        per_decade = (at["sierra/encina-8b"] - at["costa/alga-1b"]) / 0.90309
        assert at["sierra/Encina-70B"] - at["costa/alga-1b"] == pytest.approx(1.845098 * per_decade, abs=1)


@pytest.mark.parametrize("plot", PLOTS)
def test_every_number_of_a_plot_is_in_words_as_well(section: Section, plot: Any) -> None:
    t = Texts("es")
    drawn = draw(select(section, View(plot=plot)), View(plot=plot), t)
    words = re.sub(r"<svg.*?</svg>", "", drawn, flags=re.DOTALL)
    digits = 0 if plot == "codes" else 1
    for row in section.models[:4]:
        assert html.escape(row.name) in words
        assert t.number(row.eco.value, digits) in words
        assert t.number(row.eco.low, digits) in words or plot == "codes"
    assert drawn.count("<svg") == 0 or "role='img' aria-label=" in drawn


def test_the_forest_separates_tiers_and_draws_the_anchors(section: Section) -> None:
    drawn = draw(select(section, View()), View(), Texts("es"))
    assert drawn.count("class='tier'") == len({row.tier for row in section.models}) - 1
    assert drawn.count("class='anchor'") == 1
    assert "mejores respuestas escritas" in drawn


def test_a_plot_of_many_says_how_many_it_leaves_out(sample: Result) -> None:
    (section,) = build([made(sample, f"a/m{i:03}", 20 + i) for i in range(MOST_ROWS + 5)]).sections
    for plot in ("forest", "codes"):
        view = read_view({"plot": plot})
        drawn = draw(select(section, view), view, Texts("en"))
        assert Texts("en")("page.board.first_rows", count=MOST_ROWS, total=MOST_ROWS + 5) in drawn


def test_a_filter_that_nobody_passes_says_so_and_is_no_crash(section: Section) -> None:
    t, view = Texts("es"), View(q="nadie-se-llama-así")
    assert t("page.board.none_fit") in render(board_of(section), [], t, view)
    assert t("page.board.none_fit") in draw(select(section, view), view, t)


def test_numbers_are_short_and_in_the_form_of_the_language() -> None:
    es, en = Texts("es"), Texts("en")
    sizes = (135_000, 494_000_000, 999_600_000, 7_600_000_000, 70_000_000_000, 405_000_000_000)
    assert [size_text(size, en) for size in sizes] == ["0.1 M", "494 M", "1 B", "7.6 B", "70 B", "405 B"]
    assert size_text(7_600_000_000, es) == "7,6 B"
    assert [kwh_text(k, es) for k in (0.0, 0.0001, 0.0123, 1.234, 25.2)] == ["0,000", "< 0,001", "0,012", "1,23", "25"]


def test_what_is_no_number_is_not_drawn(sample: Result) -> None:
    broken = sample.score.eco.model_copy(update={"low": float("nan")})
    assert range_svg(broken, Texts("es")) == ""


# --- what can be taken away


def test_files_hold_every_row_with_raw_numbers_and_digests(section: Section) -> None:
    rows = records(section, (*section.models, *section.anchors))
    table = pq.read_table(io.BytesIO(parquet_bytes(rows))).to_pylist()
    assert table == rows
    read = list(csv.DictReader(io.StringIO(csv_bytes(rows).decode(), newline="")))
    assert len(read) == 7
    for line, row in zip(read, (*section.models, *section.anchors), strict=True):
        assert float(line["eco"]) == row.eco.value
        assert line["asked_digest"] == row.result.submission.asked_digest
        assert line["measured_digest"] == row.result.submission.measured_digest
        assert line["tier"] == str(row.tier or "")
    assert read[1]["corrected"] == ""
    assert read[1]["corrected_withheld"] == "ill_conditioned"
    assert read[4]["parameters"] == ""


def test_a_spreadsheet_runs_no_name(sample: Result) -> None:
    formulas = ['=HYPERLINK("http://x")', "+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1", " =1", "＝1"]
    (section,) = build([made(sample, name, 30) for name in formulas]).sections
    rows = records(section, section.models)
    for line in csv.reader(io.StringIO(csv_bytes(rows).decode(), newline="")):
        assert not any(cell.lstrip(" ").startswith(("=", "+", "@", "\t", "\r", "＝")) for cell in line)
        assert not any(cell.startswith("-") and not re.fullmatch(r"-[\d.e-]+", cell) for cell in line)
    kept = pq.read_table(io.BytesIO(parquet_bytes(rows))).column("model").to_pylist()
    assert sorted(kept) == sorted(formulas)


def test_a_column_has_one_type_whatever_is_missing(sample: Result, section: Section) -> None:
    (bare,) = build([made(sample, "a/one", 40, size=None, kwh=None)]).sections
    schemas = [pq.read_schema(io.BytesIO(parquet_bytes(records(s, s.models)))) for s in (bare, section)]
    assert schemas[0] == schemas[1]


# --- the page's handlers, without a browser


@pytest.fixture
def filled(several: list[Result], tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    for result in several:
        write_result(result, store)
    return store


def test_a_screen_tells_its_choices_and_its_address(filled: LocalStore) -> None:
    screen = Desk(Shelf(filled), Texts("es")).screen(read_view({"kind": "chat", "part": "7", "instrument": "x"}))
    assert screen.view.part == 1
    assert ("de chat (3)", "chat") in screen.choices["kind"]
    said = json.loads(address(screen))
    assert (said["kind"], said["instrument"], said["part"], said["tab"]) == ("chat", "", "", "board")


def test_the_link_of_a_view_shows_the_same_again(filled: LocalStore) -> None:
    desk = Desk(Shelf(filled), Texts("es"))
    asked = {"licence": [f"otra, {HOSTILE}"], "sort": "-size", "columns": ["eco", "licence"], "plot": "size"}
    screen = desk.screen(read_view(asked))
    href = html.unescape(re.findall(r"class='eco-link' href='([^']+)'", screen.table)[0])
    again = {name: values[0] for name, values in parse_qs(urlsplit(href).query).items()}
    assert again.pop("tab") == "board"
    assert desk.screen(read_view(again)).table == screen.table


def test_a_store_that_cannot_be_read_is_a_message(sample: Result) -> None:
    class Away:
        def __getattr__(self, name: str) -> Any:
            raise StoreError("store.missing", path="results/")

    store: Any = Away()
    desk = Desk(Shelf(store), Texts("en"))
    screen = desk.screen(View())
    assert "results/" in screen.table
    assert "role='alert'" in screen.table
    assert desk.file("csv", View()) == ""
    assert desk.board("")["error"] == "store.missing"


def test_programs_read_one_instrument_and_learn_which_there_are(filled: LocalStore) -> None:
    desk = Desk(Shelf(filled), Texts("en"))
    assert len(desk.board("eco-es-demo")["sections"][0]["models"]) == 6
    for wrong in ("no-such", 7, ["eco-es-demo"], {"a": 1}):
        found = desk.board(wrong)
        assert found["error"] == "reception.bad_choice"
        assert "eco-es-demo" in found["message"]


def test_many_at_once_read_the_store_once_and_changes_are_seen(filled: LocalStore, sample: Result) -> None:
    class Counting:
        """The store, counting how often it is listed."""

        def __init__(self, inner: Store) -> None:
            self.inner, self.lists = inner, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def list(self, prefix: str = "") -> list[str]:
            self.lists += prefix == "results/"
            time.sleep(0.02)
            return self.inner.list(prefix)

    store = Counting(filled)
    shelf = Shelf(store, seconds=0.3)
    threads = [threading.Thread(target=shelf.read) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.lists == 1
    write_result(made(sample, "nuevo/modelo", 44), filled)
    time.sleep(0.35)
    assert "nuevo/modelo" in {row.name for row in shelf.read().board.sections[0].models}


# --- in a browser


@pytest.fixture(scope="module")
def site(several: list[Result], sample: Result, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("board-page") / "data"
    for result in (*several, made(sample, "otra/lengua", 50, instrument="eco-en-demo")):
        write_result(result, LocalStore(root))
    running, url = serve(root)
    yield url.rstrip("/")
    running.close()


READY = {"es": "sierra/Encina-70B", "en": "sierra/Encina-70B"}


def shown(tab: Any) -> list[str]:
    found: list[str] = tab.locator("#board-table td.name > a").all_inner_texts()
    return found


def fits(tab: Any) -> bool:
    wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return bool(wide <= 1)


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("width", [1280, 390])
def test_a_person_searches_filters_and_keeps_the_link(browser: Any, site: str, lang: Lang, width: int) -> None:
    t, url = Texts(lang), f"{site}/{'' if lang == 'es' else 'en'}"
    with visit(browser, url, READY[lang], width) as tab:
        assert len(shown(tab)) == 6
        assert fits(tab)
        tab.get_by_label(t("page.board.search")).fill("COSTA")
        tab.wait_for_function("document.querySelectorAll('#board-table td.name > a').length === 2")
        assert t("page.board.filtered", count=2, total=6) in tab.inner_text("#board-table")
        tab.get_by_text(t("page.board.more_controls")).click()
        tab.get_by_label(f"{t('page.board.value.kind_base')} (1)").check()
        tab.wait_for_function("document.querySelectorAll('#board-table td.name > a').length === 1")
        tab.wait_for_function("location.search.includes('kind=base') && location.search.includes('q=COSTA')")
        kept = tab.url
        assert fits(tab)
    with visit(browser, kept, "costa/alga-1b", width) as tab:
        assert shown(tab) == ["costa/alga-1b"]
        assert tab.get_by_label(t("page.board.search")).input_value() == "COSTA"
        assert tab.get_by_label(f"{t('page.board.value.kind_base')} (1)").is_checked()


@pytest.mark.parametrize("width", [1280, 390])
def test_every_plot_is_drawn_on_a_phone_and_on_a_desk(browser: Any, site: str, width: int) -> None:
    t = Texts("es")
    with visit(browser, site, READY["es"], width) as tab:
        for plot in PLOTS:
            tab.locator("#board-plots").get_by_text(t(f"page.board.plot.{plot}"), exact=True).click()
            title = t(f"page.board.plot_title.{plot}", **dict.fromkeys(("first", "last", "best", "worst"), ""), count=0)
            tab.wait_for_selector(f"#board-plot figcaption:has-text('{title.split(' 0 ')[0]}')")
            assert fits(tab)
            assert tab.locator("#board-plot svg.eco-plot, #board-plot table.eco-heat").first.is_visible()
        tab.wait_for_function("location.search.includes('plot=time')")


def test_the_corrected_score_and_other_columns_are_a_click_away(browser: Any, site: str) -> None:
    t = Texts("es")
    with visit(browser, site, READY["es"]) as tab:
        tab.get_by_label(t("page.board.score_corrected")).check()
        tab.wait_for_selector(f"#board-table th:has-text('{t('page.board.column.corrected')}')")
        assert "99,0" in tab.inner_text("#board-table")
        tab.get_by_text(t("page.board.more_controls")).click()
        tab.get_by_label(t("page.board.column.licence"), exact=True).last.check()
        tab.wait_for_selector(f"#board-table th:has-text('{t('page.board.column.licence')}')")
        tab.wait_for_function("location.search.includes('score=corrected') && location.search.includes('licence')")


def test_another_instrument_has_a_board_of_its_own(browser: Any, site: str) -> None:
    t = Texts("en")
    with visit(browser, f"{site}/en", READY["en"]) as tab:
        tab.get_by_label(t("page.board.instrument")).click()
        tab.get_by_role("option", name="eco-en-demo").click()
        tab.wait_for_selector("#board-table td.name >> text=otra/lengua")
        assert shown(tab) == ["otra/lengua"]
        tab.wait_for_function("location.search.includes('instrument=eco-en-demo')")


def test_a_link_to_a_later_part_of_a_search_opens_there(browser: Any, sample: Result, tmp_path: Path) -> None:
    for number in range(ROWS + 20):
        write_result(made(sample, f"a/m{number:03}", 20 + number % 60), LocalStore(tmp_path / "data"))
    running, url = serve(tmp_path / "data")
    t = Texts("es")
    second = t("page.board.part", first=ROWS + 1, last=ROWS + 20, count=ROWS + 20)
    with visit(browser, f"{url}?q=m&part=2", second) as tab:
        assert len(shown(tab)) == 20
        tab.wait_for_timeout(500)
        assert second in tab.inner_text("#board-table")
        tab.get_by_label(t("page.board.search")).fill("a/m")
        tab.wait_for_function(f"document.querySelectorAll('#board-table td.name > a').length === {ROWS}")
    running.close()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_what_is_shown_can_be_taken_away_as_a_file(browser: Any, site: str, form: str, tmp_path: Path) -> None:
    with visit(browser, f"{site}/?q=sierra", READY["es"]) as tab:
        assert len(shown(tab)) == 2
        for _ in range(2):  # a second click is a second file
            with tab.expect_download() as waiting:
                tab.locator(f"#board-{form}").click()
        path = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(path)
        assert path.name == f"eco-es-demo.{form}"
        if form == "csv":
            rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))
        else:
            rows = pq.read_table(path).to_pylist()
        assert [row["model"] for row in rows] == ["sierra/Encina-70B", "sierra/encina-8b"]


def test_a_nonsense_address_shows_the_board(browser: Any, site: str) -> None:
    with visit(
        browser, f"{site}/?tab=board&size=%3Cscript%3E&part=-9&sort=x&columns=%00&instrument=%27", READY["es"]
    ) as tab:
        assert len(shown(tab)) == 6
        assert tab.title() != "tomada"


def test_nonsense_sent_to_a_handler_is_no_error(site: str) -> None:
    import httpx2

    config = httpx2.get(f"{site}/config").json()
    takes = [d for d in config["dependencies"] if len(d["inputs"]) >= len(View.model_fields)]
    assert len(takes) >= 6
    for handler in takes[:6]:
        for value in (None, 7, True, ["x" * 500, None], "x" * 5000, HOSTILE):
            body = {"fn_index": handler["id"], "data": [value] * len(handler["inputs"]), "session_hash": "s"}
            sent = httpx2.post(f"{site}/gradio_api/run/predict", json=body)
            assert sent.status_code in (200, 404), sent.text
