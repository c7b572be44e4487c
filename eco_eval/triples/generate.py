"""New preference data with any engine: translate triples, answer prompts in three roles, invent prompts, label them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, get_args

from eco_eval.engines.base import OpenEngine
from eco_eval.store import Store
from eco_eval.triples.asking import TEXTS, complete, fenced, instruction, to_user
from eco_eval.triples.check import NEAR, leaks, near_duplicates
from eco_eval.triples.layouts import normalised
from eco_eval.triples.records import RANKS, Cause, Problem, Rank, Triple
from eco_eval.types import Answer, Decoding, Kind, Progress, Prompt, digest, no_progress

ROLES: Mapping[Rank, str] = {"best": "aware", "ambivalent": "ambivalent", "worst": "unaware"}
"""Who answers for each rank: the instruction of that name in `data/generate`."""

LANGUAGES = {
    "es": {"es": "español", "en": "inglés", "it": "italiano"},
    "en": {"es": "Spanish", "en": "English", "it": "Italian"},
}

MAX_TOKENS = 1_024

_DETECTABLE = ("de", "en", "es", "fr", "it", "pt")
_REFUSAL = re.compile(
    r"^\W*(lo siento,? (pero )?no pu|no puedo (ayudar|traducir|responder|cumplir)|como (una? )?(modelo|ia|inteligencia)"
    r"|i(['’]m| am) sorry,? (but )?i (can|am un|['’]m un)|i can(no|['’])t (help|translate|assist|comply)|as an ai\b"
    r"|mi dispiace,? (ma )?non posso)",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"\{\{?\w+\}?\}|%[sd]|</?[a-z][^>\s]*>|https?://[^\s)»”]*[\w/]|[\w.]+@[\w.]+\w")


class Generated(NamedTuple):
    """What passed every check, and each text that did not, with the reason."""

    prompts: tuple[Prompt, ...]
    problems: tuple[Problem, ...]


def translate(
    triples: Sequence[Triple],
    engine: OpenEngine,
    store: Store,
    *,
    maker: str,
    to: str = "es",
    progress: Progress = no_progress,
) -> Generated:
    """Triples in another language, with the same ids and groups. Each distinct text is translated once.

    Every text is checked: language, length ratio, left untranslated, refusal, placeholders kept, cut short. A triple
    passes when its four texts do; the others are listed. Nobody has verified a translation: `verified_by` is emptied.

    Raises:
        EngineError: the engine cannot start or go on; what was translated is kept.
    """
    fields = ("text", *RANKS)
    texts = list(dict.fromkeys(getattr(triple, field) for triple in triples for field in fields))
    source = {getattr(triple, field): triple.lang for triple in triples for field in fields}
    guide = "es" if to == "es" else "en"
    conversations = [
        to_user(instruction("translate", guide, language=LANGUAGES[guide].get(to, to), **fenced(text)))
        for text in texts
    ]
    decoding = Decoding(max_tokens=MAX_TOKENS)
    said = dict(
        zip(texts, complete(conversations, decoding, engine, store, f"translate-{to}", maker, progress), strict=True)
    )
    passed: list[Prompt] = []
    problems: list[Problem] = []
    for triple in triples:
        new = {field: said[getattr(triple, field)] for field in fields}
        faults = [
            Problem(cause=cause, id=triple.id, field=field, detail=answer.text[:120])
            for field, answer in new.items()
            if (cause := translation_fault(getattr(triple, field), answer, source[getattr(triple, field)], to))
        ]
        if faults:
            problems += faults
            continue
        words = {field: answer.text for field, answer in new.items()}
        origins = {
            name: "; ".join(filter(None, (getattr(triple, name), f"translated from {triple.lang} by {maker}")))
            for name in ("origin", *(f"{rank}_origin" for rank in RANKS))
        }
        passed.append(triple.model_copy(update={**words, **origins, "lang": to, "variety": None, "verified_by": ()}))
    return Generated(tuple(passed), tuple(problems))


def translation_fault(source: str, answer: Answer, lang: str, to: str) -> Cause | None:
    """What is wrong with a translation, or None."""
    fault = answer_fault(answer, to, refused_before=bool(_REFUSAL.search(source)))
    if fault in ("no_answer", "cut", "refusal"):
        return fault
    if lang != to and normalised(source) == normalised(answer.text) and len(normalised(source).split()) > 3:
        return "not_translated"
    if fault is not None:
        return fault
    if Counter(_PLACEHOLDER.findall(source)) - Counter(_PLACEHOLDER.findall(answer.text)):
        return "placeholder_lost"
    # Languages of Europe differ by about a quarter in length; short texts by much more.
    low, high = (0.6, 1.8) if len(source) >= 60 else (0.3, 3.5)
    return None if low <= len(answer.text) / len(source) <= high else "bad_length"


def answer_fault(answer: Answer, lang: str, *, refused_before: bool = False) -> Cause | None:
    """What keeps an answer from being used as text in a language, or None."""
    if answer.failure is not None or answer.is_empty:
        return "no_answer"
    if answer.truncated:
        return "cut"
    if _REFUSAL.search(answer.text) and not refused_before:
        return "refusal"
    words = normalised(answer.text).split()
    # In the bundled answers at least 0.49 of the words are distinct; in those of a model that is stuck, hardly any.
    if len(words) >= 40 and len(set(words)) < len(words) / 4:
        return "repetition"
    found = detect_language(answer.text)
    return "wrong_language" if found not in (None, lang) and lang in _DETECTABLE else None


def detect_language(text: str) -> str | None:
    """The language of a text as two letters; None where it is too short to tell."""
    if sum(character.isalpha() for character in text) < 30:
        return None
    return str(_identifier().classify(text)[0])


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(_DETECTABLE))
    return identifier


def extend(
    prompts: Sequence[Prompt],
    engine: OpenEngine,
    store: Store,
    *,
    maker: str,
    progress: Progress = no_progress,
) -> Generated:
    """Triples by role-play: an aware, an ambivalent and an unaware model answer each prompt.

    Answers a prompt already has are kept. The order is what the roles intend; people verify it (`verify`).

    Raises:
        EngineError: the engine cannot start or go on; what was answered is kept.
    """
    wanted = [(prompt, rank) for prompt in prompts for rank in RANKS if getattr(prompt, rank) is None]
    conversations = [to_user(prompt.text, instruction(ROLES[rank], prompt.lang)) for prompt, rank in wanted]
    decoding = Decoding(max_tokens=MAX_TOKENS)
    answers = complete(conversations, decoding, engine, store, "extend", maker, progress)
    said = {(key_of(prompt), rank): answer for (prompt, rank), answer in zip(wanted, answers, strict=True)}
    passed: list[Prompt] = []
    problems: list[Problem] = []
    for prompt in prompts:
        new = {rank: said[key_of(prompt), rank] for rank in RANKS if (key_of(prompt), rank) in said}
        faults = [
            Problem(cause=cause, id=prompt.id, field=rank, detail=answer.text[:120])
            for rank, answer in new.items()
            if (cause := answer_fault(answer, prompt.lang))
        ]
        texts = {rank: new[rank].text if rank in new else getattr(prompt, rank) for rank in RANKS}
        if not faults and len(set(texts.values())) < len(RANKS):
            faults = [Problem(cause="same_answer", id=prompt.id)]
        if faults:
            problems += faults
            continue
        origins = {f"{rank}_origin": f"role-play: {ROLES[rank]}, {maker}" for rank in new}
        fields = {**prompt.model_dump(), **{str(rank): text for rank, text in texts.items()}, **origins}
        # What people verified is verified still where nothing was added.
        passed.append(Triple.model_validate({**fields, **({"verified_by": ()} if new else {})}))
    return Generated(tuple(passed), tuple(problems))


def invent(
    count: int,
    known: Sequence[Prompt],
    engine: OpenEngine,
    store: Store,
    *,
    maker: str,
    lang: str = "es",
    progress: Progress = no_progress,
) -> Generated:
    """New prompts for the manifestations and kinds of which `known` has fewest, for `extend` to answer.

    Prompts near to a known one, or to another new one, are left out and reported.

    Raises:
        EngineError: the engine cannot start or go on; what was written is kept.
    """
    taxonomy = read_taxonomy()
    by_manifestation = Counter(prompt.manifestation for prompt in known)
    by_kind = Counter(prompt.kind for prompt in known)
    varieties = sorted({p.variety for p in known if p.variety and p.variety.startswith(lang)}) or [lang]
    cells: list[tuple[str, Kind, str]] = []
    for number in range(count):
        manifestation = min(taxonomy, key=lambda name: (by_manifestation[name], name))
        kind = min(get_args(Kind), key=lambda name: (by_kind[name], name))
        by_manifestation[manifestation] += 1
        by_kind[kind] += 1
        cells.append((manifestation, kind, varieties[number % len(varieties)]))
    conversations = [
        to_user(
            instruction(
                "invent", lang, variety=variety, kind=kind, manifestation=taxonomy[name]["name"], number=str(number)
            )
        )
        for number, (name, kind, variety) in enumerate(cells, len(known) + 1)
    ]
    decoding = Decoding(max_tokens=300, temperature=0.9)
    answers = complete(conversations, decoding, engine, store, "invent", maker, progress)
    fresh: list[Prompt] = []
    problems: list[Problem] = []
    for answer, (name, kind, variety) in zip(answers, cells, strict=True):
        identifier = f"new-{digest(answer.text)[:10]}"
        fault = answer_fault(answer, lang)
        if fault is None and identifier in {prompt.id for prompt in fresh}:
            fault = "duplicate_prompt"
        if fault is not None:
            problems.append(Problem(cause=fault, id=identifier, field="text", detail=answer.text[:120]))
            continue
        code = taxonomy[name]["code"]
        fields = {"lang": lang, "variety": variety, "kind": kind, "manifestation": name, "codes": (code,)}
        made = f"role-play: person, {maker}"
        fresh.append(
            Prompt.model_validate(
                {"id": identifier, "group": identifier, "text": answer.text, "origin": made, **fields}
            )
        )
    near = _near(fresh, known)
    problems += [Problem(cause="duplicate_prompt", id=first, detail=second) for first, second in near.items()]
    return Generated(tuple(prompt for prompt in fresh if prompt.id not in near), tuple(problems))


def _near(fresh: Sequence[Prompt], known: Sequence[Prompt]) -> dict[str, str]:
    """The new prompts to leave out so that none of the rest is near to a known one or another new one; near which."""
    near = {leak.first: leak.second for leak in leaks(fresh, known, NEAR)}
    while couples := near_duplicates([prompt for prompt in fresh if prompt.id not in near], NEAR):
        near |= {leak.first: leak.second for leak in couples}
    return near


def key_of(prompt: Prompt) -> tuple[str, str]:
    """What tells a prompt from its twins in other languages, which have the same id."""
    return prompt.id, prompt.lang


@cache
def read_taxonomy() -> dict[str, dict[str, str]]:
    """H4rmony's ecological issues: by manifestation, its `code`, `name`, `issue`, `sdg` and `sdg_name`."""
    file = TEXTS.parent / "prompts" / "taxonomy.csv"
    with file.open(encoding="utf-8", newline="") as rows:
        return {row["manifestation"]: row for row in csv.DictReader(rows)}
