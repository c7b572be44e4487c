"""What is shown to the world: finished results into a Hub dataset, and a score onto a model's page.

One commit a result, with everything that explains it: answers, verdicts, the cards of its judges, people's grades, the
index and the dataset card.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from eco_eval.answering import answers_path
from eco_eval.errors import ConflictError, InputError, StoreError
from eco_eval.judge_card import JudgeCard
from eco_eval.people import FOLDER as PEOPLE
from eco_eval.people import samples
from eco_eval.results import result_path
from eco_eval.rubric import fill
from eco_eval.store import Store, parse_record, slug
from eco_eval.store.hub import HubStore, content_of, translated
from eco_eval.store.index import load_results_indexed, update_index
from eco_eval.types import Result

JUDGES = "audits/judges/"
CARD = "README.md"

TRIES: Final = 12
"""How often a result is published while others publish theirs: all of them write the index."""

_TEMPLATES = Path(__file__).parent / "data" / "store"
_CREDITS = re.compile(r"(?s)(<!-- credits -->\n).*?(\n<!-- /credits -->)")
_OWN_CREDIT = "eco-eval (CC-BY-4.0), H4rmony (Neovalle, <https://doi.org/10.57967/hf/1148>)"


def publish(
    result_id: str, local: Store, remote: HubStore, *, unpublishable: bool = False, languages: Sequence[str] = ("es",)
) -> str | None:
    """Put a finished result and what explains it into a Hub dataset, in one commit of what is not there yet.

    With it go the anchors of its instrument, the cards of its judges and people's grades of its model's answers, with
    the names they gave. Answers to hidden prompts are in another store and never among them.

    Args:
        unpublishable: also a result that may not be published, for a private dataset.
        languages: of the prompts, for the dataset card.

    Returns:
        The commit's revision, None if everything was there.

    Raises:
        InputError: there is no such result, or it may not be published.
        StoreError: something is missing here, or the Hub cannot be reached or refuses.
        ConflictError: others kept publishing.
    """
    found = local.read(result_path(result_id))
    if found is None:
        raise InputError("result.unknown", target=result_id, where=getattr(local, "root", "store"))
    result = parse_record(found[0], result_path(result_id), Result)
    if not (result.publishable or unpublishable):
        raise InputError("store.unpublishable", result=result.id, model=result.submission.model.name)
    whole = [result, *_anchors_of(result, local)]
    results = {result_path(one.id): _needed(local, result_path(one.id)) for one in whole}
    files = dict(results)
    for one in whole:
        files |= {path: uniform(_needed(local, path), path) for path in _tables(one)}
    files |= {path: _needed(local, path) for path in [*_judge_cards(whole, local), *_people(result, local)]}
    owed = {one.attribution for one in whole if one.attribution}
    message = f"Add result {result.id} of {slug(result.submission.model.name)}"
    for attempt in range(TRIES):
        try:
            with remote.batch(message) as batch:
                for path, data in files.items():
                    remote.write(path, data)
                update_index(remote, results)
                _keep_card(remote, owed, languages)
        except ConflictError:
            # Somebody else's result went into the index first: add ours to that one.
            if attempt == TRIES - 1:
                raise
            continue
        return batch.commit
    return None


def eval_results_pr(result: Result, *, benchmark: str, task: str, token: str, source: str | None = None) -> str | None:
    """Open a pull request that puts a score into its model's repository, in the Hub's `.eval_results/*.yaml` format.

    The Hub shows it on the model's page as the community's, and on the benchmark's leaderboard. That is a work in
    progress of theirs; the form is what https://huggingface.co/docs/hub/eval-results and their client said in 2026.

    Args:
        benchmark: the Hub dataset that holds the leaderboard, `owner/name`; must be registered as a benchmark there.
        task: the task's id in that dataset's `eval.yaml`.
        token: of whoever asks for it.
        source: where the answers and verdicts can be read.

    Returns:
        The pull request's URL, also where the same one is open already; None if the model's repository says the same.

    Raises:
        InputError: the result may not be published, or its model is not on the Hub.
        StoreError: the Hub cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    model = result.submission.model
    if model.source != "hub":
        raise InputError("store.not_on_hub", model=model.name)
    if not result.publishable:
        raise InputError("store.unpublishable", result=result.id, model=model.name)
    path, data = eval_results_file(result, benchmark=benchmark, task=task, source=source)
    api = HfApi(token=token)
    with translated(model.name):
        there = api.get_paths_info(model.name, [path], repo_type="model")
        if any(content is not None and content.is_of(data) for content in map(content_of, there)):
            return None
        title = f"Add eco score: {task} of {benchmark} (result {result.id})"
        opened = api.get_repo_discussions(model.name, discussion_type="pull_request", discussion_status="open")
        for one in opened:
            if one.title == title:
                return str(one.url)
        made = api.create_commit(
            model.name,
            [CommitOperationAdd(path, data)],
            commit_message=title,
            commit_description=f"Measured at revision {model.revision}.",
            repo_type="model",
            create_pr=True,
        )
    return made.pr_url


def eval_results_file(result: Result, *, benchmark: str, task: str, source: str | None = None) -> tuple[str, bytes]:
    """Path and YAML of a score in a model's repository: the eco score, 0 to 100, with its interval in the notes."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    eco, sub = result.score.eco, result.submission
    prompted = ", with a system prompt" if sub.system_prompt else ""
    entry = EvalResultEntry(
        dataset_id=benchmark,
        task_id=task,
        value=round(eco.value, 2),
        date=result.provenance.finished_at,
        source_url=source,
        source_name="eco-eval" if source else None,
        notes=f"{sub.instrument}{prompted}; 95% CI {eco.low:.1f} to {eco.high:.1f}; model at {sub.model.revision[:12]}",
    )
    text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
    # One file a variant: two scores of one benchmark in one file would be taken for one.
    variant = "-system" if sub.system_prompt else ""
    return f".eval_results/{slug(benchmark)}-{slug(task)}{variant}.yaml", text.encode()


def uniform(data: bytes, path: str) -> bytes:
    """A table of answers or verdicts with the same column types whatever it holds.

    Where every cell of a column is empty, its file cannot tell the type, and a reader of many files at once stumbles
    over the first that differs.

    Raises:
        StoreError: it is no table; names `path`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "truncated": pa.bool_(),
        "tokens": pa.int64(),
        "mass": pa.float64(),
        "probabilities": pa.list_(pa.float64()),
    }
    as_json = ("failure", "findings")
    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
        metadata = dict(table.schema.metadata or {})
        known = set(json.loads(metadata.get(b"json_columns", b"[]")))
        columns: dict[str, Any] = {}
        for name in table.column_names:
            column = table.column(name)
            if name in as_json and not pa.types.is_string(column.type):
                cells = [None if cell is None else json.dumps(cell, ensure_ascii=False) for cell in column.to_pylist()]
                column = pa.array(cells, type=pa.string())
            wanted = types.get(name, column.type)
            columns[name] = pa.nulls(len(table), wanted) if column.null_count == len(table) else column.cast(wanted)
        known |= {name for name in as_json if name in columns}
    except (pa.ArrowException, ValueError, OSError) as error:
        raise StoreError("store.corrupt", path=path, reason=str(error).partition("\n")[0]) from error
    out = io.BytesIO()
    made = pa.table(columns).replace_schema_metadata(metadata | {b"json_columns": json.dumps(sorted(known)).encode()})
    pq.write_table(made, out, write_page_checksum=True)
    return out.getvalue()


def dataset_card(repo: str, owed: Iterable[str], languages: Sequence[str] = ("es",)) -> str:
    """The card of a board's dataset, in Spanish and English, with what `datasets.load_dataset` must know.

    Args:
        owed: whom the results' prompts are owed to.
        languages: of the prompts.
    """
    from huggingface_hub import DatasetCardData

    files = {
        "results": "index.parquet",
        "answers": "answers/**/*.parquet",
        "judgements": "judgements/**/*.parquet",
        "requests": "requests/*.jsonl",
    }
    data = DatasetCardData(
        license="cc-by-4.0",
        language=list(languages),
        tags=["ecolinguistics", "leaderboard", "evaluation", "llm-as-a-judge"],
        pretty_name=repo.rpartition("/")[2],
        configs=[
            {
                "config_name": name,
                "data_files": [{"split": "train", "path": path}],
                **({"default": True} if name == "results" else {}),
            }
            for name, path in files.items()
        ],
    )
    values = {"repo": repo, "name": repo.rpartition("/")[2]}
    texts = [fill((_TEMPLATES / f"card.{lang}.md").read_text("utf-8"), **values) for lang in ("es", "en")]
    listed = f"## Créditos / Credits\n\n<!-- credits -->\n{_credits(owed)}\n<!-- /credits -->"
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join([*texts, listed]) + "\n"


def _credits(owed: Iterable[str]) -> str:
    # A line each: a credit that held a line break or a comment's end would end the list.
    lines = {" ".join(credit.replace("<!--", "").replace("-->", "").split()) for credit in owed}
    return "\n".join(f"- {line}" for line in sorted({*lines, _OWN_CREDIT} - {""}))


def _keep_card(remote: HubStore, owed: Iterable[str], languages: Sequence[str]) -> None:
    """Write the card where there is none or only an empty one of the Hub; else only add to the list of credits."""
    found = remote.read(CARD)
    old = found[0].decode("utf-8", "replace") if found is not None else ""
    if "config_name" not in old:
        remote.write(CARD, dataset_card(remote.repo, owed, languages).encode())
        return
    listed = _CREDITS.search(old)
    if listed is None:
        return  # somebody wrote their own
    known = {line.removeprefix("- ") for line in listed[0].splitlines() if line.startswith("- ")}
    new = _CREDITS.sub(lambda place: place[1] + _credits({*known, *owed}) + place[2], old)
    if new != old:
        remote.write(CARD, new.encode(), expected=found[1] if found is not None else "absent")


def _anchors_of(result: Result, local: Store) -> list[Result]:
    """The anchors a board shows beside a result."""
    sub = result.submission
    key = (sub.instrument, sub.asked_digest, sub.measured_digest)
    return [
        one
        for one in load_results_indexed(local)[0]
        if one.is_anchor
        and one.id != result.id
        and (one.submission.instrument, one.submission.asked_digest, one.submission.measured_digest) == key
    ]


def _tables(result: Result) -> list[str]:
    """Where a result's answers and verdicts are, which must be where a public run of its own submission keeps them.

    Raises:
        StoreError: one is somewhere else, for instance answers to hidden prompts.
    """
    own = f"judgements/{slug(result.submission.model.name)}/"
    places = [(result.answers_path, result.answers_path == answers_path(result.submission))]
    for seat in result.seats:
        fits = re.fullmatch(re.escape(own) + r"[\w.-]+\.parquet", seat.judgements_path, re.ASCII)
        places.append((seat.judgements_path, fits is not None))
    for path, is_own in places:
        if not is_own:
            raise StoreError("store.foreign", result=result.id, path=path)
    return [path for path, _ in places]


def _judge_cards(results: Sequence[Result], local: Store) -> list[str]:
    """Cards of the results' judges: those of the same weights, whatever rubric they were audited with."""
    judges = {seat.revision for result in results for seat in result.seats}
    stems = set()
    there = local.list(JUDGES)
    for path in there:
        found = local.read(path) if path.endswith(".json") else None
        if found is None:
            continue
        try:
            card = parse_record(found[0], path, JudgeCard)
        except StoreError:
            continue  # of an earlier version: nothing a reader could use
        if card.revision in judges:
            stems.add(path.removesuffix(".json"))
    return [path for path in there if path.rpartition(".")[0] in stems and path.endswith((".json", ".md", ".html"))]


def _people(result: Result, local: Store) -> list[str]:
    """People's grades of samples that were drawn for a result's model."""
    mine = result.submission.answers_digest
    drawn = {sample.id for sample in samples(local) if any(model.digest == mine for model in sample.models)}
    paths = [path for path in local.list(PEOPLE) if path.count("/") == PEOPLE.count("/") + 1]
    return [path for path in paths if path.split("/")[2] in drawn and path.endswith(".json")]


def _needed(store: Store, path: str) -> bytes:
    found = store.read(path)
    if found is None:
        raise StoreError("store.missing", path=path)
    return found[0]
