"""The rows of the board as CSV and Parquet: every number as it was made, with the digests that say of what."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from eco_eval.board import Row, Section
from eco_eval.types import GRADES, Estimate, IssueCode, Kind, Withheld
from eco_eval.ui.filters import flags_of, kwh

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet takes for the beginning of a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""


def records(section: Section, rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows with all their columns, the same ones in every row; None where a number was not given.

    Scores are on 0 to 100, energy in kWh, times in seconds. `place_best`, `place_worst` and `tier` are those among all
    models of the instrument, whichever rows these are.
    """
    return [_record(section, row) for row in rows]


def csv_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as CSV (UTF-8, RFC 4180). Text that a spreadsheet would run as a formula has an apostrophe before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(rows[0] if rows else ())
    for row in rows:
        writer.writerow([_cell(value) for value in row.values()])
    return out.getvalue().encode()


def parquet_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as a Parquet file; text as it is, for nothing runs it there. A column has one type, whatever is missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(rows[0]) if rows else []
    types = {"text": pa.string(), "count": pa.int64(), "yes": pa.bool_(), "number": pa.float64()}
    columns = {name: pa.array([row[name] for row in rows], types[_type(name)]) for name in names}
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer)
    data: bytes = buffer.getvalue().to_pybytes()
    return data


_TYPES: dict[str, tuple[str, ...]] = {
    "text": (
        *("result", "model", "revision", "source", "dtype", "adapter_base", "adapter_base_revision", "system_prompt"),
        *("instrument", "asked_digest", "measured_digest", "flags", "judges", "judge_revisions", "judge_orders"),
        *("same_family", "declared_data", "weights_kind", "architecture", "quantisation", "licence", "engine"),
        *("engine_version", "device", "eco_eval", "finished_at", "attribution"),
    ),
    "count": (
        *("models_ranked", "tier", "place_best", "place_worst", "asked", "graded", "ungraded", "truncated", "empty"),
        *("copied_answers", "parameters", "bytes", "audited"),
    ),
    "yes": ("is_anchor", "publishable", "stand_in", "energy_measured"),
}


def _type(name: str) -> str:
    """What a column holds; numbers with decimals where nothing else is said."""
    if name.endswith("_withheld"):
        return "text"
    if name.endswith("_n"):
        return "count"
    return next((kind for kind, names in _TYPES.items() if name in names), "number")


def _record(section: Section, row: Row) -> dict[str, Any]:
    result = row.result
    sub, score, signs, made = result.submission, result.score, result.contamination, result.provenance
    weights, overlap, stages = result.weights, result.contamination.overlap, result.provenance.energy
    return {
        "result": result.id,
        "model": sub.model.name,
        "revision": sub.model.revision,
        "source": sub.model.source,
        "dtype": sub.model.dtype,
        "adapter_base": sub.model.base.name if sub.model.base is not None else None,
        "adapter_base_revision": sub.model.base.revision if sub.model.base is not None else None,
        "system_prompt": sub.system_prompt,
        "instrument": sub.instrument,
        "asked_digest": sub.asked_digest,
        "measured_digest": sub.measured_digest,
        "is_anchor": result.is_anchor,
        "publishable": result.publishable,
        "flags": " ".join(flags_of(result)),
        "models_ranked": len(section.models),
        "tier": row.tier,
        "place_best": row.places.best if row.places is not None else None,
        "place_worst": row.places.worst if row.places is not None else None,
        **_estimate("eco", score.eco),
        **_estimate("corrected", score.corrected),
        **_estimate("length_controlled", score.length_controlled),
        **_estimate("equal_length", row.equal_length),
        **_estimate("soft", score.soft),
        **{k: v for grade in GRADES for k, v in _estimate(f"share_{grade.value}", score.shares.get(grade)).items()},
        **{k: v for code in get_args(IssueCode) for k, v in _estimate(f"code_{code}", score.by_code.get(code)).items()},
        **{k: v for kind in get_args(Kind) for k, v in _estimate(f"kind_{kind}", score.by_kind.get(kind)).items()},
        **_estimate("controls", score.controls),
        **score.counts.model_dump(),
        "bound_low": score.bounds[0],
        "bound_high": score.bounds[1],
        "judges": " ".join(seat.name for seat in result.seats),
        "judge_revisions": " ".join(seat.revision for seat in result.seats),
        "judge_orders": " ".join(repr(s.agreement.order.value) if s.agreement else "none" for s in result.seats),
        "stand_in": result.has_stand_in,
        "same_family": " ".join(seat.same_family for seat in result.seats if seat.same_family) or None,
        **_estimate("consensus", result.consensus),
        "declared_data": " ".join(signs.declared) or None,
        **_estimate("overlap", overlap.mean if overlap is not None else None),
        "copied_answers": overlap.copied if overlap is not None else None,
        **_estimate("hidden_gap", signs.hidden_gap),
        "weights_kind": weights.kind if weights is not None else None,
        "architecture": weights.architecture if weights is not None else None,
        "parameters": weights.parameters if weights is not None else None,
        "bytes": weights.bytes if weights is not None else None,
        "quantisation": weights.quantisation if weights is not None else None,
        "licence": weights.licence if weights is not None else None,
        "energy_kwh": kwh(result),
        "energy_measured": all(stage.measured for stage in stages.values()) if stages else None,
        "answer_kwh": stages["answer"].kwh if "answer" in stages else None,
        "answer_seconds": made.seconds.get("answer"),
        "seconds": sum(made.seconds.values()) if made.seconds else None,
        "engine": made.candidate.engine if made.candidate is not None else None,
        "engine_version": made.candidate.version if made.candidate is not None else None,
        "device": made.candidate.device if made.candidate is not None else None,
        "eco_eval": made.eco_eval,
        "audited": made.audited,
        "finished_at": made.finished_at,
        "attribution": result.attribution,
    }


def _estimate(name: str, found: Estimate | Withheld | None) -> dict[str, Any]:
    """Its value, ends, count and method; and why there is none."""
    kept: dict[str, Any] = dict.fromkeys((name, f"{name}_low", f"{name}_high", f"{name}_n", f"{name}_withheld"))
    if isinstance(found, Withheld):
        return {**kept, f"{name}_withheld": found.reason}
    if found is not None:
        kept |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high, f"{name}_n": found.n}
    return kept


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return f"'{value}"
    return value
