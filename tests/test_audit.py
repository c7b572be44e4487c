"""Auditing a judge: what it orders, what fools it, what is kept and asked again, and what it must reach to publish."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import REPO

from eco_eval.anchors import anchor_sheets
from eco_eval.attacks import ATTACKS, Attack, attacked
from eco_eval.audit import audit
from eco_eval.cli import build_app
from eco_eval.commands import run_app
from eco_eval.engines.base import Engine, OpenEngine
from eco_eval.engines.scripted import ScriptedEngine
from eco_eval.errors import EngineError, InputError, StoreError
from eco_eval.instrument import DATA, GateSpec, Instrument, load_instrument, pin
from eco_eval.judge_card import JudgeCard, card_path, is_cleared, read_card
from eco_eval.judging import neutralise
from eco_eval.pipeline import Engines, evaluate, submit
from eco_eval.prompts import split_of
from eco_eval.store import LocalStore
from eco_eval.types import Conversation, Failure, ModelRef, Prompt, Result

GOOD, REGULAR, BAD = [8.0, 1.0, 1.0], [1.0, 8.0, 1.0], [1.0, 1.0, 8.0]
ENOUGH = 36
"""Triples with which an attack that never works is known to work less often than the gate allows."""

Said = tuple[str, str]
"""A prompt and an answer as the judge reads them."""

Verdict = Sequence[float] | Failure

QUESTION = re.compile(r"<(\w+) petición>\n(.*?)\n</\1 petición>.*<\1 respuesta>\n(.*)\n</\1 respuesta>", re.DOTALL)
NOT_GOOD = [attack for attack in ATTACKS if attack.expected == "not_good"]
SHOWN = [attack for attack in NOT_GOOD if attack.name not in ("empty", "punctuation")]


class Judge:
    """A scripted judge that knows the worth of some answers, calls the rest bad, and tells what it was asked."""

    def __init__(self, knows: dict[Said, Verdict], rest: Verdict = BAD, fail_after: int | None = None) -> None:
        self.knows, self.rest, self.fail_after = knows, rest, fail_after
        self.asked: list[Said] = []

    def __call__(self, conversation: Conversation, labels: Sequence[str]) -> Verdict:
        if self.fail_after is not None and len(self.asked) == self.fail_after:
            raise EngineError("vllm.died", retryable=True, model="judge", reason="", log="")
        said = said_in(conversation)
        self.asked.append(said)
        return self.knows.get(said, self.rest)

    @property
    def opened(self) -> OpenEngine:
        return opens(ScriptedEngine(label=self))


def opens(engine: Engine) -> OpenEngine:
    @contextmanager
    def opened() -> Iterator[Engine]:
        yield engine

    return opened


def said_in(conversation: Conversation) -> Said:
    found = QUESTION.search(conversation[-1].content)
    assert found is not None
    return found[2], found[3]


def unopened() -> Any:
    raise AssertionError("the judge was opened with nothing to do")


def read_as(prompt: Prompt, answer: str | None) -> Said:
    return neutralise(prompt.text), neutralise(answer or "")


def attack_named(name: str) -> Attack:
    return next(attack for attack in ATTACKS if attack.name == name)


def answers_of(instrument: Instrument, name: str) -> list[Said]:
    """What the judge reads of one attack."""
    texts = attacked(attack_named(name), instrument.gold, instrument.rubric, instrument.lang)
    return [read_as(prompt, text) for prompt, text in zip(instrument.gold, texts, strict=True)]


def roles(instrument: Instrument) -> dict[Said, Verdict]:
    """The verdict each gold answer's role suggests; half a best answer is as good as the whole."""
    known: dict[Said, Verdict] = dict.fromkeys(answers_of(instrument, "shortened"), GOOD)
    for p in instrument.gold:
        known |= {read_as(p, p.best): GOOD, read_as(p, p.ambivalent): REGULAR, read_as(p, p.worst): BAD}
    return known


def value(card: JudgeCard, measure: str) -> float:
    found = card.agreement[measure]
    assert found is not None
    return found.value


@pytest.fixture(scope="session")
def enough(demo: Instrument) -> Instrument:
    return demo.limited(ENOUGH)


@pytest.fixture(scope="session")
def few(demo: Instrument) -> Instrument:
    return demo.limited(5)


# --- what a judge is told of itself


def test_a_judge_that_reads_the_roles_right_passes(enough: Instrument, store: LocalStore) -> None:
    card = audit(enough, Judge(roles(enough)).opened, store)
    assert {name: value(card, name) for name in card.agreement} == pytest.approx(
        {"order": 100, "strict": 100, "exact": 100, "kappa": 1, "alpha": 1, "ac2": 1}
    )
    assert card.confusion == ((ENOUGH, 0, 0), (0, ENOUGH, 0), (0, 0, ENOUGH))
    assert {name: found and found.value for name, found in card.attacks.items()} == {a.name: 0 for a in NOT_GOOD}
    assert {name: found.value for name, found in card.kept.items()} == {"shortened": 100}
    assert set(card.grades.values()) == {"grb"}
    assert (card.triples, card.ungraded, card.drift) == (ENOUGH, 0, None)
    assert [check.passed for check in card.gate] == [True, True, True, True]
    assert card.verdict == "passed"
    assert card.judge is not None
    assert card.judge.model == "scripted"
    assert read_card(enough, store) == card
    assert is_cleared(enough, store)


@pytest.mark.parametrize(("weights", "letter"), [(GOOD, "g"), (REGULAR, "r"), (BAD, "b")])
def test_a_judge_that_always_says_one_grade_fails(
    few: Instrument, store: LocalStore, weights: list[float], letter: str
) -> None:
    card = audit(few, Judge({}, rest=weights).opened, store)
    assert set(card.grades.values()) == {letter * 3}
    assert (value(card, "order"), value(card, "strict")) == (50, 0)
    assert value(card, "exact") == pytest.approx(100 / 3)
    assert value(card, "kappa") == 0
    assert value(card, "alpha") < 0.1
    fooled = {name for name, found in card.attacks.items() if found is not None and found.value == 100}
    assert fooled == ({attack.name for attack in SHOWN} if letter == "g" else set())
    # Against worst answers that it grades no lower, no attack scores higher.
    assert [check.passed for check in card.gate] == [False, False, False, True]
    assert card.verdict == "failed"
    assert not is_cleared(few, store)


@pytest.mark.parametrize("name", [attack.name for attack in SHOWN])
def test_a_judge_that_one_attack_fools_is_told_which(demo: Instrument, store: LocalStore, name: str) -> None:
    some = demo.limited(3)
    fooled: dict[Said, Verdict] = dict.fromkeys(answers_of(some, name), GOOD)
    card = audit(some, Judge(roles(some) | fooled).opened, store)
    rates = {attack: found.value for attack, found in card.attacks.items() if found is not None}
    assert rates == {attack.name: 100.0 * (attack.name == name) for attack in NOT_GOOD}
    assert value(card, "kappa") == pytest.approx(1)
    assert {check.name: check.passed for check in card.gate}["false_good"] is False


def test_one_attack_alone_is_enough_to_fail(enough: Instrument, store: LocalStore) -> None:
    fooled: dict[Said, Verdict] = dict.fromkeys(answers_of(enough, "quote"), GOOD)
    card = audit(enough, Judge(roles(enough) | fooled).opened, store)
    checks = {check.name: check.passed for check in card.gate}
    assert checks == {"order": True, "kappa": True, "false_good": False, "attack_score": True}
    assert card.verdict == "failed"


def test_words_that_say_nothing_may_not_score_above_a_worst_answer(enough: Instrument, store: LocalStore) -> None:
    """Nothing is called good, and yet a salad of eco words is half as good as can be."""
    fooled: dict[Said, Verdict] = dict.fromkeys(answers_of(enough, "salad"), REGULAR)
    card = audit(enough, Judge(roles(enough) | fooled).opened, store)
    checks = {check.name: check.passed for check in card.gate}
    assert checks == {"order": True, "kappa": True, "false_good": True, "attack_score": False}
    assert card.verdict == "failed"
    assert not is_cleared(enough, store)


def test_a_judge_that_a_shorter_answer_sways_is_told_so(few: Instrument, store: LocalStore) -> None:
    swayed: dict[Said, Verdict] = dict.fromkeys(answers_of(few, "shortened")[:2], REGULAR)
    card = audit(few, Judge(roles(few) | swayed).opened, store)
    assert card.kept["shortened"].value == pytest.approx(60)
    assert "shortened" not in card.attacks


def test_answers_without_a_letter_never_reach_the_judge(few: Instrument, store: LocalStore) -> None:
    judge = Judge({}, rest=GOOD)
    card = audit(few, judge.opened, store)
    assert all(any(letter.isalnum() for letter in answer) for _, answer in judge.asked)
    assert len(judge.asked) == len(few.gold) * (3 + len(ATTACKS) - 2)
    assert [card.attacks[name] and card.attacks[name].value for name in ("empty", "punctuation")] == [0, 0]


def test_a_swapped_answer_is_never_the_prompt_s_own_in_other_words(demo: Instrument) -> None:
    originals = demo.gold[:3]
    again = tuple(p.model_copy(update={"id": f"{p.id}-b", "text": f"Oye: {p.text}"}) for p in originals)
    triples = (*originals, *again)
    answers = attacked(attack_named("swapped"), triples, demo.rubric, demo.lang)
    assert not any(answer == prompt.best for prompt, answer in zip(triples, answers, strict=True))


# --- verdicts that are missing


def test_missing_verdicts_are_counted_and_their_triples_left_out(few: Instrument, store: LocalStore) -> None:
    first, second = few.gold[:2]
    silent = Failure(cause="rejected")
    blind: dict[Said, Verdict] = {read_as(first, first.best): silent, read_as(first, first.worst): silent}
    blind |= {read_as(second, second.worst): silent}
    card = audit(few, Judge(roles(few) | blind).opened, store)
    assert (card.triples, card.ungraded) == (5, 3)
    assert card.confusion == ((3, 0, 0), (0, 3, 0), (0, 0, 3))
    assert [card.grades[first.id], card.grades[second.id]] == ["-r-", "gr-"]
    assert value(card, "order") == 100


@pytest.mark.parametrize("whole", [0, 1])
def test_a_card_of_fewer_than_two_whole_triples_is_refused(few: Instrument, store: LocalStore, whole: int) -> None:
    blind: dict[Said, Verdict] = {read_as(p, p.worst): Failure(cause="rejected") for p in few.gold[whole:]}
    with pytest.raises(InputError) as caught:
        audit(few, Judge(roles(few) | blind).opened, store)
    assert (caught.value.key, caught.value.values["instrument"]) == ("audit.no_verdicts", few.name)
    assert read_card(few, store) is None
    assert audit(few, Judge(roles(few)).opened, store).ungraded == 0


def test_an_attack_without_a_verdict_is_no_proof_that_it_does_not_work(enough: Instrument, store: LocalStore) -> None:
    blind: dict[Said, Verdict] = {said: Failure(cause="rejected") for said in answers_of(enough, "injection")}
    card = audit(enough, Judge(roles(enough) | blind).opened, store)
    assert card.attacks["injection"] is None
    assert card.gate[-1].value is None
    assert card.verdict == "failed"


@pytest.mark.parametrize("count", [0, 1])
def test_an_instrument_with_too_little_gold_is_refused_before_the_judge_is_opened(
    demo: Instrument, store: LocalStore, count: int
) -> None:
    bare = tuple(p.model_copy(update={"best": None}) for p in demo.gold[count:])
    with pytest.raises(InputError) as caught:
        audit(demo.with_gold((*demo.gold[:count], *bare), "gold=mine"), unopened, store)
    assert caught.value.key == "audit.no_gold"


# --- drift


def test_drift_is_measured_on_the_same_gold(few: Instrument, store: LocalStore) -> None:
    first = audit(few, Judge(roles(few)).opened, store)
    stern: dict[Said, Verdict] = {read_as(p, p.best): REGULAR for p in few.gold}
    second = audit(few, Judge(roles(few) | stern).opened, store, again=True)
    assert second.drift is not None
    assert (second.drift.since, second.drift.n) == (first.made_at, 15)
    assert second.drift.changed == pytest.approx(100 / 3)
    assert second.drift.shift == pytest.approx(-50 / 3)


def test_asking_anew_leaves_the_verdicts_of_scores_alone_and_is_gone_by_later(
    few: Instrument, store: LocalStore
) -> None:
    audit(few, Judge(roles(few)).opened, store)
    before = {path: store.read(path) for path in store.list("judgements/")}
    stern: dict[Said, Verdict] = {read_as(p, p.best): REGULAR for p in few.gold}
    anew = audit(few, Judge(roles(few) | stern).opened, store, again=True)
    assert {path: store.read(path) for path in before} == before
    later = audit(few, unopened, store)
    assert later.confusion == anew.confusion
    assert later.drift is not None
    assert later.drift.changed == 0


def test_drift_leaves_out_what_one_of_the_two_did_not_grade(few: Instrument, store: LocalStore) -> None:
    silent: dict[Said, Verdict] = {read_as(few.gold[0], few.gold[0].best): Failure(cause="rejected")}
    audit(few, Judge(roles(few) | silent).opened, store)
    again = audit(few, Judge(roles(few)).opened, store)
    assert again.drift is not None
    assert (again.drift.n, again.drift.changed, again.drift.shift) == (14, 0, 0)


def test_other_gold_shows_no_drift_and_takes_no_verdict_of_the_first(demo: Instrument, store: LocalStore) -> None:
    here, there = demo.with_gold(demo.gold[:4], "gold=a"), demo.with_gold(demo.gold[4:8], "gold=b")
    audit(here, Judge(roles(here)).opened, store)
    card = audit(there, Judge(roles(there)).opened, store)
    assert card.drift is None
    assert sorted(card.grades) == sorted(p.id for p in there.gold)


def test_gold_with_the_same_answers_to_other_prompts_is_other_gold(few: Instrument, store: LocalStore) -> None:
    audit(few, Judge(roles(few)).opened, store)
    reworded = few.with_gold(tuple(p.model_copy(update={"text": f"Oye: {p.text}"}) for p in few.gold), "gold=x")
    judge = Judge(roles(reworded))
    assert audit(reworded, judge.opened, store).drift is None
    assert set(answers_of(reworded, "salad")) <= set(judge.asked)


# --- what is kept


def test_an_audit_again_opens_no_judge(few: Instrument, store: LocalStore) -> None:
    first = audit(few, Judge(roles(few)).opened, store)
    again = audit(few, unopened, store)
    assert again.drift is not None
    assert again.drift.changed == 0
    same = {"drift", "made_at"}
    assert again.model_dump(exclude=same) == first.model_dump(exclude=same)


def test_an_audit_cut_half_way_goes_on_where_it_stopped(few: Instrument, store: LocalStore) -> None:
    cut, rest = Judge(roles(few), fail_after=23), Judge(roles(few))
    with pytest.raises(EngineError):
        audit(few, cut.opened, store)
    assert read_card(few, store) is None
    card = audit(few, rest.opened, store)
    assert len(cut.asked) == 23
    assert not set(cut.asked) & set(rest.asked)
    assert len(cut.asked) + len(rest.asked) == len(few.gold) * (3 + len(ATTACKS) - 2)
    whole = audit(few, Judge(roles(few)).opened, LocalStore(store.root.parent / "unbroken"))
    assert card.model_dump(exclude={"made_at"}) == whole.model_dump(exclude={"made_at"})


def test_gold_verdicts_are_shared_with_evaluate(few: Instrument, store: LocalStore) -> None:
    gold = {read_as(p, a.text) for s in anchor_sheets(few)[:3] for p, a in zip(s.prompts, s.answers, strict=True)}
    scored, audited = Judge(roles(few)), Judge(roles(few))
    scores(few, store, scored.opened)
    audit(few, audited.opened, store)
    assert gold <= set(scored.asked)
    assert not gold & set(audited.asked)


def test_an_audit_first_spares_evaluate_the_gold(few: Instrument, store: LocalStore) -> None:
    audit(few, Judge(roles(few)).opened, store)
    judge = Judge(roles(few))
    result = scores(few, store, judge.opened)
    assert not set(roles(few)) & set(judge.asked)
    assert result.seats[0].agreement is not None
    assert result.seats[0].agreement.order.value == 100


def test_a_damaged_card_is_said_before_the_judge_is_opened(few: Instrument, store: LocalStore) -> None:
    store.write(card_path(few), b'{"verdict": "passed"}')
    assert not is_cleared(few, store)
    for call in (lambda: read_card(few, store), lambda: audit(few, unopened, store)):
        with pytest.raises(StoreError) as caught:
            call()
        assert (caught.value.key, caught.value.values["path"]) == ("store.corrupt", card_path(few))


# --- what may be published


MODEL = ModelRef(name="owner/model", source="hub", revision="a" * 40)
LOCKED = "b" * 40


def scores(instrument: Instrument, store: LocalStore, judge: OpenEngine, model: ModelRef = MODEL) -> Result:
    candidate = opens(ScriptedEngine(answer=lambda c: "El río es de todos."))
    return evaluate(submit(model, instrument), instrument, Engines(candidate, judge), store)


def official(folder: Path, *, revision: str = LOCKED, stand_in: bool = False, pinned: bool = True) -> Instrument:
    """An instrument with a data folder of its own, over fewer prompts, its judge resolved."""
    data = Path(shutil.copytree(DATA, folder / "data", ignore=shutil.ignore_patterns("pins.json")))
    prompts = data / "prompts" / "eco-es-v1.jsonl"
    lines = prompts.read_text(encoding="utf-8").splitlines(keepends=True)
    held_out = [line for line in lines if split_of(json.loads(line)["group"]) == "eval"]
    prompts.write_text("".join(held_out[:ENOUGH]), encoding="utf-8")
    file = data / "instruments" / "eco-es-v1.toml"
    text = file.read_text(encoding="utf-8").replace('source = "hub"', f'source = "hub"\nrevision = "{revision}"')
    text = text.replace('mode = "reasoned"', 'mode = "direct"')
    file.write_text(text.replace("stand_in = false", f"stand_in = {str(stand_in).lower()}"), encoding="utf-8")
    if pinned:
        pin(data)
    return load_instrument("eco-es-v1", data).with_judge_at(LOCKED)


@pytest.fixture
def ready(tmp_path: Path) -> Instrument:
    return official(tmp_path)


def test_a_hub_model_s_result_is_publishable_once_its_judge_passed(ready: Instrument, store: LocalStore) -> None:
    assert audit(ready, Judge(roles(ready)).opened, store).verdict == "passed"
    assert scores(ready, store, Judge(roles(ready)).opened).publishable
    kept = [Result.model_validate_json((store.read(path) or (b"", ""))[0]) for path in store.list("results/")]
    assert [result.is_anchor for result in kept if result.publishable] == [False]


def test_a_model_that_nobody_else_can_fetch_is_not_published(ready: Instrument, store: LocalStore) -> None:
    audit(ready, Judge(roles(ready)).opened, store)
    local = MODEL.model_copy(update={"source": "local"})
    assert not scores(ready, store, Judge(roles(ready)).opened, local).publishable


@pytest.mark.parametrize("lacking", [{"pinned": False}, {"revision": "main"}, {"stand_in": True}])
def test_a_passed_card_does_not_make_up_for_the_rest(tmp_path: Path, store: LocalStore, lacking: Any) -> None:
    instrument = official(tmp_path, **lacking)
    assert audit(instrument, Judge(roles(instrument)).opened, store).verdict == "passed"
    assert not scores(instrument, store, Judge(roles(instrument)).opened).publishable


def test_nothing_is_published_before_an_audit_or_after_a_failed_one(ready: Instrument, store: LocalStore) -> None:
    assert not scores(ready, store, Judge(roles(ready)).opened).publishable
    elsewhere = LocalStore(store.root.parent / "failed")
    assert audit(ready, Judge({}, rest=GOOD).opened, elsewhere).verdict == "failed"
    assert not scores(ready, elsewhere, Judge({}, rest=GOOD).opened).publishable


def test_the_audit_of_other_weights_clears_nothing(ready: Instrument, store: LocalStore) -> None:
    audit(ready.with_judge_at("c" * 40), Judge(roles(ready)).opened, store)
    assert not scores(ready, store, Judge(roles(ready)).opened).publishable


def test_a_card_that_met_a_laxer_gate_clears_nothing(ready: Instrument, store: LocalStore) -> None:
    gate = GateSpec(min_order=0, min_kappa=-1, max_false_good=100)
    lax = ready.model_copy(update={"gate": gate})
    assert audit(lax, Judge({}, rest=GOOD).opened, store).verdict == "passed"
    assert is_cleared(lax, store)
    assert not is_cleared(ready, store)


def test_an_instrument_without_a_gate_clears_no_judge(few: Instrument, store: LocalStore) -> None:
    free = few.model_copy(update={"gate": None})
    card = audit(free, Judge(roles(free)).opened, store)
    assert (card.gate, card.verdict) == ((), "no_gate")
    assert not is_cleared(free, store)


# --- the command


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def home(tmp_path: Path, tiny_judge: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own, and an instrument of one's own whose judge is the tiny model."""
    text = (REPO / "eco_eval/data/instruments/eco-es-demo.toml").read_text(encoding="utf-8")
    text = text.replace('"demo-judge"', f'"{tiny_judge}"').replace('"trained"', '"local"')
    text = text.replace("context = 4096\nmax_answer", "context = 8192\nmax_answer")
    (tmp_path / "mine.toml").write_text(text.replace("min_label_mass = 0.01", "min_label_mass = 0.0"))
    monkeypatch.setenv("ECO_EVAL_DATA_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("ECO_EVAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ECO_EVAL_LANG", "en")
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def eco_audit(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs `eco-eval audit` here, as `main` does, in English."""

    def call(*arguments: object) -> Done:
        code = run_app(build_app, ["audit", "--instrument", str(home / "mine.toml"), *map(str, arguments)])
        return Done(code, *capsys.readouterr())

    return call


def gold_file(home: Path, *prompts: Prompt) -> Path:
    names = ("id", "group", "text", "lang", "best", "ambivalent", "worst")
    rows = [{name: getattr(p, name) for name in names if getattr(p, name) is not None} for p in prompts]
    file = home / "gold.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def test_the_command_prints_the_card_and_says_where_it_is(eco_audit: Callable[..., Done], home: Path) -> None:
    done = eco_audit("--limit", 2)
    assert done.code == 0, done
    assert "Card of the judge" in done.out
    kept = re.findall(r"Card in (\S+)", done.out)
    assert sorted(Path(path).suffix for path in kept) == [".html", ".json", ".md"]
    assert all(home / "kept" in Path(path).parents and Path(path).is_file() for path in kept)
    again = eco_audit("--limit", 2, "--json")
    card = JudgeCard.model_validate_json(again.out)
    assert (card.triples, card.instrument, card.verdict) == (2, "eco-es-demo", "failed")
    assert card.drift is not None
    assert card.drift.changed == 0


def test_the_command_audits_on_gold_of_ones_own(eco_audit: Callable[..., Done], home: Path, demo: Instrument) -> None:
    done = eco_audit("--gold", gold_file(home, *demo.gold[3:5]), "--json")
    assert done.code == 0, done
    assert sorted(JudgeCard.model_validate_json(done.out).grades) == sorted(p.id for p in demo.gold[3:5])


def test_gold_without_triples_is_refused_in_one_line(
    eco_audit: Callable[..., Done], home: Path, demo: Instrument
) -> None:
    bare = [p.model_copy(update={"best": None, "ambivalent": None, "worst": None}) for p in demo.gold[:2]]
    done = eco_audit("--gold", gold_file(home, *bare))
    assert (done.code, done.out) == (2, "")
    *report, line = done.err.strip().splitlines()
    assert "gold.jsonl” has no complete triple" in line
    assert not any("Traceback" in said for said in report)
    assert not (home / "kept").exists()


@pytest.mark.parametrize("arguments", [["--gold", "no-such.jsonl"], ["no-such-judge"], ["--limit", 1]])
def test_bad_input_is_said_in_one_line(eco_audit: Callable[..., Done], arguments: list[object]) -> None:
    done = eco_audit(*arguments)
    assert done.code == 2, done
    assert len(done.err.strip().splitlines()) == 1
