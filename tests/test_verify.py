"""What people decide: kept line by line, applied only to what they saw, shown without trusting a character of it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import cohen_kappa_score

from eco_eval.errors import DataError, StoreError
from eco_eval.triples import RANKS, Rank, Triple
from eco_eval.triples.verify import (
    Agreement,
    Decision,
    agreement,
    append,
    apply_decisions,
    decide,
    latest,
    read_decisions,
    seen,
)
from eco_eval.ui.pages.verify import ORDERS, act, first_open, render, view
from eco_eval.ui.texts import Texts

T = Texts("es")
SWAPPED: tuple[Rank, ...] = ("ambivalent", "best", "worst")
HOSTILE = "<script>alert('río')</script> & \"comillas\" \x1b[31mrojo\x07 \u202efin"


def triple(name: str = "río", **fields: Any) -> Triple:
    texts = {"text": f"¿Qué hago con el {name}?", "best": f"Cuidar el {name}.", "ambivalent": f"Mirar el {name}."}
    whole = {"group": name, **texts, "worst": f"Tapar el {name}.", **fields}
    return Triple.model_validate({**whole, "id": name})


TRIPLES = [triple("río"), triple("pinar"), triple("prado")]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "decisions" / "log.jsonl"


def keep(log: Path, *decisions: Decision) -> list[Decision]:
    for decision in decisions:
        append(decision, log)
    return read_decisions(log)


# --- decisions


def test_a_decision_is_what_someone_saw_and_thought_of_it() -> None:
    confirmed = decide(triple(), " Ana ")
    assert (confirmed.by, confirmed.action, confirmed.order, confirmed.edits) == ("Ana", "confirm", RANKS, {})
    assert (confirmed.id, confirmed.of) == ("río", seen(triple()))
    assert confirmed.at.endswith("+00:00")
    assert decide(triple(), "Ana", order=SWAPPED).action == "reorder"
    assert decide(triple(), "Ana", reject=True, reason="Mal escrita.").action == "reject"


def test_an_edit_that_changes_nothing_is_none() -> None:
    spaced = triple(best="Cuidar el río. ")
    edits = {"text": spaced.text, "best": spaced.best, "ambivalent": "  ", "worst": " Tapar el arroyo. "}
    assert decide(spaced, "Ana", edits=edits).edits == {"worst": "Tapar el arroyo."}


@pytest.mark.parametrize(
    "wrong",
    [
        {"by": "  "},
        {"reject": True},
        {"reject": True, "reason": " \n"},
        {"order": ("best", "best", "worst")},
        {"order": ("best", "worst")},
    ],
)
def test_nobody_no_reason_and_no_order_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        decide(triple(), **{"by": "Ana", **wrong})


def test_what_is_seen_is_the_texts_in_their_order_and_nothing_else() -> None:
    same = triple(kind="plan", verified_by=("Ana",), origin="yo")
    assert seen(same) == seen(triple())
    others = [triple(text="¿Y?"), triple(best="Mirar el río.", ambivalent="Cuidar el río."), triple(worst="No.")]
    assert len({seen(triple()), *(seen(other) for other in others)}) == 4


# --- the log


def test_each_decision_is_one_line_and_reads_back_the_same(log: Path) -> None:
    assert read_decisions(log) == []
    made = [
        decide(TRIPLES[0], "Ana"),
        decide(TRIPLES[1], "Ben", order=SWAPPED, edits={"best": "Uno\ndos \u2028 tres."}),
        decide(TRIPLES[2], "Ana", reject=True, reason="Repetida:\n«igual»."),
    ]
    assert keep(log, *made) == made
    lines = log.read_text(encoding="utf-8").split("\n")
    assert len(lines) == 4
    assert [json.loads(line)["by"] for line in lines[:3]] == ["Ana", "Ben", "Ana"]


WRITE = """
import sys
from pathlib import Path
from eco_eval.triples import Triple
from eco_eval.triples.verify import append, decide
log, by, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    seen = Triple(id=f"{by}{number}", group="g", text="t", best="b", ambivalent="a", worst="w")
    append(decide(seen, by, edits={"text": "río " * 5000}), log)
"""


def test_several_people_write_at_once_and_no_line_is_lost_or_torn(log: Path) -> None:
    people, count = ["Ana", "Ben", "Cloe"], 30
    environ = {**os.environ, "PYTHONPATH": str(REPO)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, str(log), by, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            text=True,
        )
        for by in people
    ]
    assert [writer.stdout and writer.stdout.readline() for writer in writers] == ["ready\n"] * len(people)
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    assert [writer.communicate(timeout=60) and writer.returncode for writer in writers] == [0] * len(people)
    found = read_decisions(log)
    assert {(one.by, one.id) for one in found} == {(by, f"{by}{i}") for by in people for i in range(count)}
    assert len(found) == len(people) * count
    for by in people:
        assert [one.id for one in found if one.by == by] == [f"{by}{i}" for i in range(count)]


def test_a_log_that_cannot_be_written_says_which(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        append(decide(triple(), "Ana"), tmp_path / "file" / "log.jsonl")
    assert "log.jsonl" in T.error(caught.value)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"by": ""}, "by"), ({"action": "quizá"}, "action"), ({"order": ["best"]}, "order"), ({"more": 1}, "more")],
)
def test_a_damaged_line_is_named_with_its_field(log: Path, change: dict[str, Any], field: str) -> None:
    keep(log, decide(triple(), "Ana"))
    broken = {**json.loads(decide(triple(), "Ben").model_dump_json()), **change}
    with log.open("a", encoding="utf-8") as out:
        out.write(json.dumps(broken) + "\n")
    with pytest.raises(DataError) as caught:
        read_decisions(log)
    assert caught.value.values["line"] == 2
    assert field in (caught.value.values["field"], *str(caught.value.values["reason"]).split())


def test_a_torn_line_is_named(log: Path) -> None:
    keep(log, decide(triple(), "Ana"))
    log.write_text(log.read_text(encoding="utf-8") + '{"id": "r', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_decisions(log)
    assert (caught.value.key, caught.value.values["line"]) == ("data.bad_json", 2)


def test_a_line_left_open_does_not_swallow_the_next(log: Path) -> None:
    first = decide(TRIPLES[0], "Ana")
    keep(log, first)
    log.write_text(log.read_text(encoding="utf-8").rstrip("\n"), encoding="utf-8")
    second = decide(TRIPLES[1], "Ana")
    assert keep(log, second) == [first, second]
    assert log.read_text(encoding="utf-8").count("\n") == 2


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_log_of_another_form_is_refused_before_anything_is_decided(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError) as caught:
        read_decisions(tmp_path / f"log{suffix}")
    assert ".jsonl" in T.error(caught.value)


def test_the_last_word_of_each_person_counts() -> None:
    first, other = decide(triple(), "Ana"), decide(triple(), "Ben")
    last = decide(triple(), "Ana", order=SWAPPED)
    assert latest([first, other, last]) == {("Ana", seen(triple())): last, ("Ben", seen(triple())): other}


# --- applying


def applied(*decisions: Decision, to: Triple | None = None) -> tuple[list[Triple], list[tuple[str, str | None, str]]]:
    kept, problems = apply_decisions([to or triple()], decisions)
    return kept, [(problem.cause, problem.id, problem.detail) for problem in problems]


def test_who_confirms_has_verified() -> None:
    kept, problems = applied(decide(triple(), "Ana"), decide(triple(), "Ben"), to=triple(verified_by=("Cloe", "Ana")))
    assert kept == [triple(verified_by=("Cloe", "Ana", "Ben"))]
    assert problems == []


def test_what_nobody_decided_about_stays_as_it_was() -> None:
    assert apply_decisions(TRIPLES, []) == (TRIPLES, [])


@pytest.mark.parametrize("order", list(itertools.permutations(RANKS)))
def test_another_order_moves_answers_with_their_origins_and_what_is_known_of_each_pair(order: tuple[Rank, ...]) -> None:
    about = {f"{a}>{b}": {"of": f"{a} {b}"} for a, b in itertools.combinations(RANKS, 2)}
    before = triple(best_origin="b", ambivalent_origin="a", worst_origin="w", pair_meta=about, meta={"row": "7"})
    (after,), problems = applied(decide(before, "Ana", order=order), to=before)
    assert problems == []
    assert [after.answer(rank) for rank in RANKS] == [before.answer(rank) for rank in order]
    assert [after.best_origin, after.ambivalent_origin, after.worst_origin] == [rank[0] for rank in order]
    assert (after.verified_by, after.meta) == (("Ana",), {"row": "7"})
    was = dict(zip(RANKS, order, strict=True))
    found = {frozenset(was[r] for r in RANKS if r in name.split(">")): of for name, of in after.pair_meta.items()}
    assert found == {frozenset(name.split(">")): of for name, of in about.items()}
    assert set(after.pair_meta) == set(about)


def test_an_edit_goes_to_the_answer_it_was_made_on_and_only_its_author_has_verified_it() -> None:
    edit = decide(triple(), "Ana", order=SWAPPED, edits={"best": "Limpiar el río.", "text": "¿Y el río?"})
    same_order = decide(triple(), "Ben", order=SWAPPED)
    (after,), problems = applied(edit, same_order, to=triple(verified_by=("Cloe",)))
    assert (after.text, after.best, after.ambivalent) == ("¿Y el río?", "Mirar el río.", "Limpiar el río.")
    assert after.verified_by == ("Ana",)
    assert problems == []


def test_two_people_who_make_the_same_edit_have_both_verified_it() -> None:
    edits = {"worst": "Entubar el río."}
    (after,), _ = applied(decide(triple(), "Ana", edits=edits), decide(triple(), "Ben", edits=edits))
    assert (after.worst, after.verified_by) == ("Entubar el río.", ("Ana", "Ben"))


def test_who_rejects_takes_the_triple_out_and_says_why() -> None:
    reject = decide(triple(), "Ben", reject=True, reason="No es una pregunta.")
    assert applied(decide(triple(), "Ana"), reject) == ([], [("rejected", "río", "Ben: No es una pregunta.")])


def test_who_thinks_again_is_heard() -> None:
    reject = decide(triple(), "Ana", reject=True, reason="Mal.")
    assert applied(reject, decide(triple(), "Ana")) == ([triple(verified_by=("Ana",))], [])


@pytest.mark.parametrize(
    "other", [{"order": SWAPPED}, {"edits": {"best": "Otra cosa."}}, {"order": SWAPPED, "edits": {"best": "Otra."}}]
)
def test_people_who_disagree_leave_a_triple_as_it_was(other: dict[str, Any]) -> None:
    first = decide(triple(), "Ben", edits={"best": "Una cosa."})
    assert applied(first, decide(triple(), "Ana", **other)) == ([triple()], [("conflict", "río", "Ana, Ben")])


def test_edits_that_make_two_answers_the_same_are_not_applied() -> None:
    edit = decide(triple(), "Ana", edits={"ambivalent": "Tapar el río."})
    assert applied(edit) == ([triple()], [("same_answer", "río", "")])


def test_a_decision_about_other_texts_never_counts_and_is_reported() -> None:
    changed = triple(best="Cuidar mucho el río.")
    decision = decide(triple(), "Ana")
    assert applied(decision, to=changed) == ([changed], [("stale", "río", f"Ana, {decision.at}")])


def test_what_was_applied_can_be_decided_again() -> None:
    (after,), _ = applied(decide(triple(), "Ana", order=SWAPPED))
    again, problems = applied(decide(after, "Ben"), to=after)
    assert again == [after.model_copy(update={"verified_by": ("Ana", "Ben")})]
    assert problems == []


# --- agreement


def ranked(by: str, orders: list[str]) -> list[Decision]:
    return [decide(triple(str(i)), by, order=ORDERS[name]) for i, name in enumerate(orders)]


def test_agreement_is_the_kappa_worked_out_by_hand() -> None:
    # Six ranks, two of them one apart: Σ w·O = 2/6. Each rank is given as often by both: Σ w·E = 12/9. κ = 1 − 1/4.
    decisions = ranked("Ana", ["123", "123"]) + ranked("Ben", ["123", "132"])
    (found,) = agreement(decisions)
    assert found == Agreement("Ana", "Ben", triples=2, same_order=0.5, kappa=found.kappa)
    assert found.kappa == pytest.approx(0.75)


def test_opposite_orders_and_equal_ones_are_the_ends_of_the_scale() -> None:
    decisions = ranked("Ana", ["123"] * 3) + ranked("Ben", ["123"] * 3) + ranked("Cloe", ["321"] * 3)
    found = agreement(decisions)
    assert [(one.first, one.second, one.same_order) for one in found] == [
        ("Ana", "Ben", 1.0),
        ("Ana", "Cloe", 0.0),
        ("Ben", "Cloe", 0.0),
    ]
    assert [one.kappa for one in found] == pytest.approx([1, -1, -1])


@given(st.lists(st.tuples(st.sampled_from(list(ORDERS)), st.sampled_from(list(ORDERS))), min_size=1, max_size=30))
def test_kappa_is_that_of_scikit_learn(couples: list[tuple[str, str]]) -> None:
    (found,) = agreement(ranked("Ana", [a for a, _ in couples]) + ranked("Ben", [b for _, b in couples]))
    ranks = [[name.index(digit) for one in couples for name in (one[side],) for digit in "123"] for side in (0, 1)]
    assert found.kappa == pytest.approx(cohen_kappa_score(*ranks, weights="quadratic"))
    assert found.same_order == pytest.approx(sum(a == b for a, b in couples) / len(couples))
    assert found.triples == len(couples)


def test_only_what_both_ordered_is_compared() -> None:
    rejected = decide(triple("0"), "Ben", reject=True, reason="No.")
    decisions = [*ranked("Ana", ["123", "321"]), rejected, decide(triple("1"), "Ben", order=ORDERS["321"])]
    assert [(one.triples, one.same_order) for one in agreement(decisions)] == [(1, 1.0)]
    assert agreement([*ranked("Ana", ["123"]), rejected]) == []
    assert agreement([]) == []


# --- the page


def texts_of(one: Triple) -> list[str]:
    return [one.text, one.best, one.ambivalent, one.worst]


def test_the_page_names_every_order_by_the_numbers_shown() -> None:
    assert len(ORDERS) == 6
    assert (ORDERS["123"], ORDERS["213"], ORDERS["321"]) == (RANKS, SWAPPED, RANKS[::-1])


def test_saving_keeps_the_decision_and_shows_the_next_triple(log: Path) -> None:
    shown = act(TRIPLES, log, 0, "Ana", "123", "", texts_of(TRIPLES[0]), T)
    assert [(one.id, one.by, one.action) for one in read_decisions(log)] == [("río", "Ana", "confirm")]
    assert shown[0] == 1
    assert shown[3:] == ["123", "", *texts_of(TRIPLES[1])]
    assert T("verify.status", place=2, total=3, decided=1) in shown[1]
    assert "Cuidar el pinar." in shown[2]


def test_after_the_last_triple_it_stays_on_it(log: Path) -> None:
    shown = act(TRIPLES, log, 2, "Ana", "321", "", texts_of(TRIPLES[2]), T)
    assert (shown[0], shown[3]) == (2, "321")
    assert T("verify.was_reorder") in shown[1]


def test_a_rejection_keeps_its_reason_and_neither_order_nor_edits(log: Path) -> None:
    act(TRIPLES, log, 0, "Ana", "321", "Repetida.", ["x", "x", "x", "x"], T)
    (kept,) = read_decisions(log)
    assert (kept.action, kept.reason, kept.order, kept.edits) == ("reject", "Repetida.", RANKS, {})
    shown = view(TRIPLES, log, 0, "Ana", T)
    assert shown[4] == "Repetida."
    assert T("verify.was_reject") in shown[1]


@pytest.mark.parametrize(
    ("by", "reason", "note"),
    [
        ("", "", "verify.no_name"),
        ("  ", "Mal.", "verify.no_name"),
        ("Ana", " ", "verify.no_reason"),
        ("Ana", "\n\t", "verify.no_reason"),
    ],
)
def test_without_a_name_or_a_reason_nothing_is_kept_and_nothing_typed_is_lost(
    log: Path, by: str, reason: str, note: str
) -> None:
    typed = ["¿Y el arroyo?", "Cuidarlo.", "Mirarlo.", "Taparlo."]
    shown = act(TRIPLES, log, 1, by, "312", reason, typed, T)
    assert not log.exists()
    assert shown[0] == 1
    assert T(note) in shown[1]
    assert shown[3:] == ["312", reason.strip(), *typed]


def test_edits_are_kept_and_shown_again_to_who_made_them(log: Path) -> None:
    typed = [TRIPLES[0].text, "Limpiar el río.", *texts_of(TRIPLES[0])[2:]]
    act(TRIPLES, log, 0, "Ana", "213", "", typed, T)
    assert read_decisions(log)[0].edits == {"best": "Limpiar el río."}
    assert view(TRIPLES, log, 0, " Ana ", T)[3:] == ["213", "", *typed]
    assert view(TRIPLES, log, 0, "Ben", T)[3:] == ["123", "", *texts_of(TRIPLES[0])]


def test_each_person_begins_at_what_they_have_not_decided(log: Path) -> None:
    assert first_open(TRIPLES, log, "Ana") == 0
    for at in (0, 1):
        act(TRIPLES, log, at, "Ana", "123", "", texts_of(TRIPLES[at]), T)
    assert (first_open(TRIPLES, log, " Ana"), first_open(TRIPLES, log, "Ben")) == (2, 0)
    act(TRIPLES, log, 2, "Ana", "123", "", texts_of(TRIPLES[2]), T)
    assert first_open(TRIPLES, log, "Ana") == 0


def test_a_triple_whose_texts_changed_is_open_again(log: Path) -> None:
    act(TRIPLES, log, 0, "Ana", "123", "", texts_of(TRIPLES[0]), T)
    changed = [triple(best="Otra cosa."), *TRIPLES[1:]]
    assert first_open(changed, log, "Ana") == 0
    assert T("verify.status", place=1, total=3, decided=0) in view(changed, log, 0, "Ana", T)[1]


def controls(html: str) -> list[str]:
    return [c for c in html if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in "\u202e\u2066"]


@pytest.mark.parametrize("field", ["id", "variety", "text", *RANKS])
def test_hostile_texts_are_shown_as_words(field: str) -> None:
    html = render(triple().model_copy(update={field: HOSTILE}), T)
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#x27;río&#x27;)&lt;/script&gt; &amp; &quot;comillas&quot;" in html
    assert controls(html) == []


@given(st.text(), st.text())
def test_no_text_can_add_a_tag_to_the_page(text: str, answer: str) -> None:
    html = render(triple(text=text, worst=answer), T)
    assert html.count("<") == render(triple(), T).count("<")
    assert controls(html) == []


def test_a_hostile_name_or_reason_does_not_reach_the_page_as_markup(log: Path) -> None:
    act(TRIPLES, log, 0, HOSTILE, "123", HOSTILE, texts_of(TRIPLES[0]), T)
    (kept,) = read_decisions(log)
    assert (kept.by, kept.reason) == (HOSTILE, HOSTILE)
    shown = view(TRIPLES, log, 0, HOSTILE, T)
    assert "<script" not in shown[1] + shown[2]
    assert shown[4] == HOSTILE


def test_the_numbers_shown_are_those_an_order_is_typed_with() -> None:
    html = render(triple(kind="plan", variety="es-MX"), T)
    places = [html.index(f">{number}<") for number in (1, 2, 3)]
    answers = [html.index(f"{verb} el río.") for verb in ("Cuidar", "Mirar", "Tapar")]
    assert [*itertools.chain.from_iterable(zip(places, answers, strict=True))] == sorted(places + answers)
    assert T("kind.plan") in html
    assert "es-MX" in html
