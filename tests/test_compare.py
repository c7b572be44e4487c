"""Two models on the same prompts: what differs is said with its interval, and no more than its p allows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from eco_eval.compare import Twin, compare, find_twins
from eco_eval.engines.base import Engine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.errors import InputError
from eco_eval.instrument import Instrument, load_instrument
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.stats import clustered_mean
from eco_eval.store import LocalStore
from eco_eval.types import ModelRef, Prompt, Result
from eco_eval.ui.texts import Texts
from eco_eval.ui.versus import difference_line, forest, print_comparison


def scored(demo: Instrument, store: LocalStore, name: str, grades: str) -> Result:
    """A result whose answer to prompt i got the i-th letter (g, r, b), over and over."""
    letters = {prompt.text: grades[i % len(grades)] for i, prompt in enumerate(demo.asked)}

    @contextmanager
    def candidate() -> Iterator[Engine]:
        yield ScriptedEngine(answer=lambda c: f"{name} dice {letters[c[-1].content]}.")

    @contextmanager
    def judge() -> Iterator[Engine]:
        def label(conversation: Any, _: Any) -> list[float]:
            text = conversation[-2].content if len(conversation) > 2 else conversation[-1].content
            said = next((letter for letter in "grb" if f"dice {letter}." in text), "r")
            return [8.0 if said == letter else 1.0 for letter in "grb"]

        yield ScriptedEngine(label=label)

    model = ModelRef(name=name, source="hub", revision="a" * 40)
    return evaluate(submit(model, demo), demo, Engines(candidate, judge), store)


@pytest.fixture
def short(demo: Instrument) -> Instrument:
    return demo.limited(30)


@pytest.fixture
def prompts(short: Instrument) -> dict[str, Prompt]:
    return {prompt.id: prompt for prompt in short.asked}


def test_the_difference_is_that_of_the_grades_prompt_by_prompt(
    short: Instrument, store: LocalStore, prompts: dict[str, Prompt]
) -> None:
    a, b = scored(short, store, "uno", "ggr"), scored(short, store, "dos", "grb")
    found = compare(store, a, b, prompts)
    expected = clustered_mean([0.0, 0.5, 0.5] * 10, [prompt.group for prompt in short.asked])
    assert found.prompts == 30
    assert found.difference.estimate.value == pytest.approx(100 * expected.value)
    assert found.difference.estimate.low == pytest.approx(100 * expected.low)
    assert found.difference.estimate.value == pytest.approx(a.score.eco.value - b.score.eco.value)
    assert found.table == ((10, 10, 0), (0, 0, 10), (0, 0, 0))
    assert (found.wins.wins, found.wins.ties, found.wins.losses) == (20, 10, 0)
    assert found.difference.p < 0.001
    assert found.same_prompts
    assert found.same_judging
    assert set(found.by_code) == set(a.score.by_code)
    assert set(found.by_kind) == {kind for kind, part in a.score.by_kind.items() if part.n > 1}


def test_turned_round_it_is_the_same_with_the_other_sign(
    short: Instrument, store: LocalStore, prompts: dict[str, Prompt]
) -> None:
    a, b = scored(short, store, "uno", "grb"), scored(short, store, "dos", "bgr")
    one, other = compare(store, a, b, prompts), compare(store, b, a, prompts)
    assert one.difference.estimate.value == pytest.approx(-other.difference.estimate.value)
    assert one.difference.p == other.difference.p
    assert [list(row) for row in zip(*one.table, strict=True)] == [list(row) for row in other.table]


def test_controls_and_unshared_prompts_are_left_out(
    demo: Instrument, store: LocalStore, prompts: dict[str, Prompt]
) -> None:
    everything = {prompt.id: prompt for prompt in demo.asked}
    found = compare(store, scored(demo, store, "uno", "grb"), scored(demo.limited(20), store, "dos", "g"), everything)
    assert found.prompts == 20
    assert not found.same_prompts
    whole = compare(store, scored(demo, store, "tres", "g"), scored(demo, store, "cuatro", "r"), everything)
    assert whole.prompts == sum(not prompt.control for prompt in demo.asked)


def test_nothing_shared_is_one_clear_error(short: Instrument, store: LocalStore, prompts: dict[str, Prompt]) -> None:
    other = short.asking(tuple(p.model_copy(update={"id": f"x{p.id}"}) for p in short.asked), "otras")
    with pytest.raises(InputError) as caught:
        compare(store, scored(short, store, "uno", "g"), scored(other, store, "dos", "g"), prompts)
    assert caught.value.key == "compare.nothing_shared"


@pytest.mark.parametrize("lang", ["es", "en"])
def test_words_claim_no_more_than_the_p_allows(
    short: Instrument, store: LocalStore, prompts: dict[str, Prompt], lang: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    t = Texts(lang)
    far = compare(store, scored(short, store, "uno", "g"), scored(short, store, "dos", "b"), prompts)
    near = compare(store, scored(short, store, "tres", "grb"), scored(short, store, "cuatro", "bgr"), prompts)
    assert "uno" in difference_line(far, t)
    assert "tres" not in difference_line(near, t)
    print_comparison(far, t)
    shown = capsys.readouterr().out
    assert "{" not in shown
    assert "100" in shown
    page = forest(far, t)
    assert "<html" in page
    assert 'src="http' not in page


def test_a_model_is_as_good_as_itself(short: Instrument, store: LocalStore, prompts: dict[str, Prompt]) -> None:
    a = scored(short, store, "uno", "grb")
    found = compare(store, a, a, prompts)
    assert (found.difference.estimate.value, found.difference.p) == (0, 1)
    assert found.farthest == ()
    assert found.wins.rate.value == 50


# --- in several languages


@pytest.fixture(scope="module")
def twins() -> tuple[Instrument, Instrument]:
    """The same thirty prompts in Spanish and in English."""
    spanish, english = (load_instrument(f"eco-{lang}-v1").with_judge_at("0" * 40) for lang in ("es", "en"))
    ids = {prompt.id for prompt in spanish.limited(30).asked}
    return spanish.limited(30), english.asking(tuple(p for p in english.asked if p.id in ids), "half")


def direct(instrument: Instrument) -> Instrument:
    """Judged without a written analysis, which a scripted judge does not write."""
    return instrument.judged_by("direct", mode="direct", max_tokens=1)


def by_id(instrument: Instrument) -> dict[str, Prompt]:
    return {prompt.id: prompt for prompt in instrument.asked}


def test_what_carries_over_from_one_language_to_another(
    twins: tuple[Instrument, Instrument], store: LocalStore
) -> None:
    spanish, english = (direct(instrument) for instrument in twins)
    a, b = scored(spanish, store, "alineado", "g"), scored(spanish, store, "base", "b")
    c, d = scored(english, store, "alineado", "gb"), scored(english, store, "base", "b")
    found = compare(store, a, b, by_id(spanish), [Twin(c, d, by_id(english))])
    first, second = found.languages
    assert (first.lang, first.difference.difference.estimate.value, first.change) == ("es", 100, None)
    assert second.lang == "en"
    kept = [p for p in english.asked if not p.control]
    half = 100 * sum(english.asked.index(p) % 2 == 0 for p in kept) / len(kept)
    assert second.difference.difference.estimate.value == pytest.approx(half)
    assert second.change is not None
    change = second.change.difference.estimate
    assert change.value == pytest.approx(half - 100)
    assert change.n == len(kept)
    assert change.high < 0
    assert second.change.adjusted_p < 0.05


def test_one_language_has_no_table_of_languages(
    twins: tuple[Instrument, Instrument], store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    spanish, english = (direct(instrument) for instrument in twins)
    a, b = scored(spanish, store, "alineado", "g"), scored(spanish, store, "base", "b")
    assert compare(store, a, b, by_id(spanish)).languages == ()
    c, d = scored(english, store, "alineado", "gr"), scored(english, store, "base", "b")
    for lang, title in (("es", "Por lengua"), ("en", "By language")):
        t = Texts(lang)
        print_comparison(compare(store, a, b, by_id(spanish)), t)
        assert title not in capsys.readouterr().out
        print_comparison(compare(store, a, b, by_id(spanish), [Twin(c, d, by_id(english))]), t)
        shown = capsys.readouterr().out
        assert title in shown
        assert t("lang.en") in shown


def test_twins_are_the_same_models_under_one_other_instrument(
    twins: tuple[Instrument, Instrument], store: LocalStore
) -> None:
    spanish, english = (direct(instrument) for instrument in twins)
    a, b = scored(spanish, store, "alineado", "g"), scored(spanish, store, "base", "b")
    c, d = scored(english, store, "alineado", "g"), scored(english, store, "base", "b")
    alone = scored(english, store, "otro", "g")
    every = [a, b, c, d, alone]
    assert find_twins(every, a, b) == [(c, d)]
    assert find_twins(every, b, a) == [(d, c)]
    assert find_twins([a, b, c, alone], a, b) == []
    assert find_twins(every, c, d) == [(a, b)]


def test_the_command_finds_the_other_languages_by_itself(
    twins: tuple[Instrument, Instrument], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from eco_eval.cli import build_app
    from eco_eval.settings import Settings

    store = LocalStore(tmp_path)
    ids = []
    for instrument in map(direct, twins):
        ids += [scored(instrument, store, "alineado", "g").id, scored(instrument, store, "base", "b").id]
    app = build_app(Settings(data_dir=tmp_path), Texts("es"))
    app(["compare", ids[0], ids[1], "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert [one["lang"] for one in found["languages"]] == ["es", "en"]
    app(["compare", ids[2], ids[3], "--json"], standalone_mode=False)
    assert [one["lang"] for one in json.loads(capsys.readouterr().out)["languages"]] == ["en", "es"]
