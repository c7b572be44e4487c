"""Several judges: each has its seat, the score is their mean, and a relative among them is named."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tiny_model

from eco_eval.board import build
from eco_eval.cli import build_app
from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.errors import InputError, InstrumentError
from eco_eval.instrument import DATA, Instrument, load_instrument
from eco_eval.judge_card import is_cleared
from eco_eval.pipeline import Engines, evaluate, open_engines, resolve_judges, submit
from eco_eval.results import details, load_results
from eco_eval.settings import Settings
from eco_eval.store import LocalStore
from eco_eval.types import Failure, Graded, ModelRef, Result
from eco_eval.ui.pages.model import render
from eco_eval.ui.terminal import panel_lines, print_result
from eco_eval.ui.texts import Texts

PANEL = """
[[panel]]
model = "owner/second"
source = "hub"
revision = "{revision}"
stand_in = false

[[panel]]
model = "third"
source = "endpoint"
engine = "endpoint"
stand_in = false
"""


def instrument_file(folder: Path, panel: str) -> Path:
    """The demo instrument with a panel, in a file of its own."""
    text = (DATA / "instruments" / "eco-es-demo.toml").read_text(encoding="utf-8")
    file = folder / "panel.toml"
    before, score, after = text.partition("[score]")
    file.write_text(f"{before}{panel}\n{score}{after}", encoding="utf-8")
    return file


def always(label: Any) -> Any:
    @contextmanager
    def opened() -> Iterator[Engine]:
        yield ScriptedEngine(answer=lambda c: f"Sobre {c[-1].content[:30]}", label=label)

    return opened


def unopened() -> Any:
    raise AssertionError("an engine was opened with nothing to do")


def sure(grade: int) -> Any:
    return always(lambda c, labels: [8 if k == grade else 1 for k in range(3)])


@pytest.fixture
def three(tmp_path: Path) -> Instrument:
    """Three judges, resolved."""
    loaded = load_instrument(str(instrument_file(tmp_path, PANEL.format(revision="b" * 40)))).limited(8)
    return loaded.with_judges_at([("1" * 40, False), ("b" * 40, False), ("3" * 40, False)])


def run(three: Instrument, store: LocalStore, judges: tuple[Any, ...], name: str = "owner/model") -> Result:
    model = ModelRef(name=name, source="hub", revision="a" * 40)
    engines = Engines(judges[0], judges[0], judges[1:])
    return evaluate(submit(model, three), three, engines, store)


def test_a_panel_is_read_from_the_instrument(three: Instrument) -> None:
    first, second, third = three.seats
    assert [seat.judge.model for seat in three.seats] == [three.judge.model, "owner/second", "third"]
    assert second.judge.engine == first.judge.engine
    assert third.judge.engine == "endpoint"
    assert second.judge.rubric == first.judge.rubric
    assert [seat.judge_revision[0] for seat in three.seats] == ["1", "b", "3"]
    assert all(not seat.panel for seat in three.seats)
    assert len({seat.judging_digest for seat in three.seats}) == 3


def test_a_panel_is_another_measurement_of_the_same_answers(three: Instrument) -> None:
    alone = three.seats[0]
    assert alone.asked_digest == three.asked_digest
    assert alone.measured_digest != three.measured_digest
    assert alone.judging_digest == three.judging_digest
    swapped = three.with_judges_at([("1" * 40, False), ("c" * 40, False), ("3" * 40, False)])
    assert swapped.measured_digest != three.measured_digest


@pytest.mark.parametrize(
    ("panel", "field"),
    [
        ('[[panel]]\nmodel = "x"\nsource = "hub"\nstand_in = false\nrubrc = "y"\n', "panel.0.rubrc"),
        ('[[panel]]\nmodel = "x"\nstand_in = false\n', "panel.0.source"),
    ],
)
def test_a_wrong_panel_is_named(tmp_path: Path, panel: str, field: str) -> None:
    with pytest.raises(InstrumentError) as caught:
        load_instrument(str(instrument_file(tmp_path, panel)))
    assert caught.value.values["field"] == field


def test_the_score_is_the_mean_and_each_judge_has_its_own(three: Instrument, store: LocalStore) -> None:
    result = run(three, store, (sure(0), sure(1), sure(1)))
    assert [seat.eco.value for seat in result.seats] == [100, 50, 50]
    assert result.score.eco.value == pytest.approx(200 / 3)
    assert result.score.eco.low < result.score.eco.value < result.score.eco.high
    assert {grade: share.value for grade, share in result.score.shares.items()} == pytest.approx(
        {"good": 100 / 3, "regular": 200 / 3, "bad": 0}
    )
    assert [seat.grades for seat in result.seats] == ["g" * 8, "r" * 8, "r" * 8]
    assert [seat.name for seat in result.seats] == [seat.judge.model for seat in three.seats]
    assert result.consensus is not None
    assert result.consensus.value < 0.1
    assert all(seat.agreement is not None for seat in result.seats)


def test_one_and_the_same_grade_everywhere_has_no_coefficient(three: Instrument, store: LocalStore) -> None:
    result = run(three, store, (sure(1),) * 3)
    assert result.consensus is None
    assert len(panel_lines(result, Texts("es"))) == 3


def test_a_judge_that_was_asked_alone_is_not_asked_again(three: Instrument, store: LocalStore) -> None:
    model = ModelRef(name="owner/model", source="hub", revision="a" * 40)
    alone = three.seats[0]
    first = evaluate(submit(model, alone), alone, Engines(sure(0), sure(0)), store)
    engines = Engines(unopened, unopened, (sure(2), sure(2)))
    whole = evaluate(submit(model, three), three, engines, store)
    assert whole.id != first.id
    assert whole.seats[0].judgements_path == first.seats[0].judgements_path
    assert whole.score.eco.value == pytest.approx(100 / 3)
    assert evaluate(submit(model, three), three, Engines(unopened, unopened, (unopened,) * 2), store) == whole


def test_what_one_judge_could_not_grade_counts_for_none(three: Instrument, store: LocalStore) -> None:
    silent = three.asked[0].text[:30]

    def label(conversation: Any, labels: Any) -> Any:
        text = conversation[-1].content
        return Failure(cause="unreadable") if f"Sobre {silent}" in text else [0, 0, 1]

    loose = three.model_copy(update={"score": three.score.model_copy(update={"max_ungraded": 0.2})})
    result = run(loose, store, (sure(0), always(label), sure(0)))
    assert result.score.counts.ungraded == 1
    assert result.seats[1].grades == "-bbbbbbb"
    assert result.score.eco.n == 7 - sum(p.control for p in three.asked[1:])
    assert result.score.eco.value == pytest.approx(200 / 3)


def test_judging_again_asks_every_judge_and_leaves_one_set_of_verdicts_each(
    three: Instrument, store: LocalStore
) -> None:
    result = run(three, store, (sure(0),) * 3)
    engines = Engines(unopened, sure(2), (sure(2), sure(2)))
    again = evaluate(result.submission, three, engines, store, again="judge")
    assert (result.score.eco.value, again.score.eco.value) == (100, 0)
    assert len(store.list("judgements/owner--model/")) == 3
    assert all(isinstance(j, Graded) for _, verdicts in details(store, again) for j in verdicts)


def test_all_verdicts_are_shown(
    three: Instrument, store: LocalStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    result = run(three, store, (sure(0), sure(1), sure(2)))
    readings = details(store, result)
    print_result(result, readings, Texts("es"))
    shown = capsys.readouterr().out
    assert re.search(r"buena.*regular.*mala", shown)
    assert "owner/second" in shown
    assert "α ordinal" in shown
    page = render(result, readings, "bad", Texts("en"))
    assert page.count("<article") == 8
    assert page.count("eco-grade eco-good") == 8
    assert "owner/second alone: 50" in page


def test_seats_average_to_the_panel_where_one_had_no_verdict(three: Instrument, store: LocalStore) -> None:
    silent = three.asked[0].text[:30]

    def label(conversation: Any, labels: Any) -> Any:
        return Failure(cause="unreadable") if f"Sobre {silent}" in conversation[-1].content else [0, 0, 1]

    def picky(conversation: Any, labels: Any) -> list[float]:
        return [0, 0, 1] if f"Sobre {silent}" in conversation[-1].content else [1, 0, 0]

    loose = three.model_copy(update={"score": three.score.model_copy(update={"max_ungraded": 0.2})})
    result = run(loose, store, (always(picky), always(label), sure(0)))
    assert sum(seat.eco.value for seat in result.seats) / 3 == pytest.approx(result.score.eco.value)


def test_one_judge_cannot_sit_twice(three: Instrument) -> None:
    same = three.panel[0].model_copy(update={"model": three.judge.model, "source": three.judge.source})
    twice = three.model_copy(update={"panel": (same,), "panel_revisions": ()})
    with pytest.raises(InstrumentError) as caught:
        twice.with_judges_at([("1" * 40, False), ("1" * 40, False)])
    assert caught.value.key == "instrument.judge_twice"


def test_an_endpoint_judge_without_its_address_is_refused_before_anything_runs(tmp_path: Path) -> None:
    loaded = load_instrument(str(instrument_file(tmp_path, PANEL.format(revision="b" * 40))))
    with pytest.raises(InputError) as caught:
        resolve_judges(loaded, Settings())
    assert caught.value.key == "endpoint.no_url"


@pytest.fixture
def panel_on_disk(tmp_path: Path, tiny_judge: Path, tiny_model: Path) -> tuple[Settings, Path, Path]:
    """An instrument of two real judges, and a model to evaluate."""
    other = make_tiny_model(tmp_path / "Qwen3-other", seed=5, context=8192)
    file = instrument_file(tmp_path, f'[[panel]]\nmodel = "{other}"\nsource = "local"\nstand_in = false\n')
    text = file.read_text(encoding="utf-8").replace('"demo-judge"', f'"{tiny_judge}"')
    text = text.replace('source = "trained"', 'source = "local"').replace("min_label_mass = 0.01", "min_label_mass = 0")
    text = re.sub(r'(rubric = "eco-v1"\n(?:.*\n)*?context = )\d+', r"\g<1>8192", text)
    file.write_text(text, encoding="utf-8")
    candidate = tmp_path / "Qwen3-candidate"
    shutil.copytree(tiny_model, candidate)
    return Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache"), file, candidate


def test_a_panel_is_evaluated_scored_and_judged_again_from_the_command_line(
    panel_on_disk: tuple[Settings, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, file, candidate = panel_on_disk
    app = build_app(settings, Texts("es"))

    def call(*arguments: str) -> Result:
        app([*arguments, "--instrument", str(file), "--limit", "3", "--json"], standalone_mode=False)
        return Result.model_validate_json(capsys.readouterr().out)

    first = call("evaluate", str(candidate))
    assert len(first.seats) == 2
    assert first.seats[0].same_family is None
    assert first.seats[1].same_family is not None
    scored = call("score", first.id)
    assert scored.score == first.score
    assert [seat.same_family for seat in scored.seats] == [seat.same_family for seat in first.seats]
    judged = call("judge", first.id)
    assert judged.score == first.score
    assert [seat.same_family for seat in judged.seats] == [seat.same_family for seat in first.seats]


def test_the_places_without_a_relative_are_told(three: Instrument, store: LocalStore) -> None:
    """The second judge alone calls the relative good; without it nobody is above anybody."""

    def fond(conversation: Any, labels: Any) -> list[float]:
        return [1, 0, 0]

    results = []
    many = three.model_copy(update={"asked": load_instrument("eco-es-demo").asked[:60]})
    for name, second in (("owner/kin", always(fond)), ("owner/other", sure(2)), ("owner/third", sure(2))):
        results.append(run(many, store, (sure(1), second, sure(1)), name))
    kin = results[0]
    seats = (kin.seats[0], kin.seats[1].model_copy(update={"same_family": "base_model: owner/second"}), kin.seats[2])
    board = build([kin.model_copy(update={"seats": seats}), *results[1:]])
    rows = {row.name: row for row in board.sections[0].models}
    top, other = rows["owner/kin"], rows["owner/other"]
    assert top.places is not None
    assert (top.places.best, top.places.worst, top.tier) == (1, 1, 1)
    assert other.places is not None
    assert (other.places.best, other.places.worst, other.tier) == (2, 3, 2)
    assert {name: (p.best, p.worst) for name, p in top.without.items()} == {"owner/second": (1, 3)}
    assert other.without == {}


def test_rows_of_the_board_have_places_for_models_alone(three: Instrument, store: LocalStore) -> None:
    run(three, store, (sure(0),) * 3)
    section = build(load_results(store)[0]).sections[0]
    assert [row.tier for row in section.models] == [1]
    assert all(row.places is None and row.tier is None for row in section.anchors)
    assert len(section.judges) == 3


def test_every_judge_has_to_pass_its_audit(three: Instrument, store: LocalStore) -> None:
    from eco_eval.audit import audit

    lenient = three.model_copy(
        update={"gate": three.gate.model_copy(update={"min_order": 0, "min_kappa": -1, "max_false_good": 100})}
        if three.gate
        else {}
    )
    for seat in lenient.seats:
        assert not is_cleared(lenient, store)
        audit(seat, always(lambda c, labels: [len(c[-1].content) % 7, 3, 2]), store)
    assert is_cleared(lenient, store)


def test_judges_are_resolved_to_exact_weights(tmp_path: Path, tiny_judge: Path, tiny_model: Path) -> None:
    panel = f'[[panel]]\nmodel = "{tiny_model}"\nsource = "local"\nstand_in = false\n'
    loaded = load_instrument(str(instrument_file(tmp_path, panel)))
    local = loaded.model_copy(
        update={"judge": loaded.judge.model_copy(update={"model": str(tiny_judge), "source": "local"})}
    )
    measure, refs = resolve_judges(local, Settings())
    assert [ref.path for ref in refs] == [str(tiny_judge), str(tiny_model)]
    assert [seat.judge_revision for seat in measure.seats] == [ref.revision for ref in refs]
    engines = open_engines(submit(refs[0], measure), measure, refs, Settings())
    assert len(engines.panel) == 1
    untrained = local.panel[0].model_copy(update={"source": "trained", "model": "no"})
    missing = local.model_copy(update={"panel": (untrained,)})
    with pytest.raises(InputError):
        resolve_judges(missing, Settings(cache_dir=tmp_path))
