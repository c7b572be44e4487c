"""What a score would be without the judge's errors, and without the gaps.

Everything here rests on an assumption that data can contradict. Where they do, or where they are too few to tell, the
answer is a `Withheld` record and not a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from eco_eval.stats.comparison import holm
from eco_eval.stats.intervals import LEVEL, Floats, clustered_mean, members, t_quantile
from eco_eval.types import Estimate, Record, Withheld

Classes = Sequence[int] | npt.NDArray[Any]
Numbers = Sequence[float] | Floats

MAX_CONDITION = 5.0
"""Above this condition number no confusion matrix is inverted: errors of the judge's shares come back up to that many
times larger. Three classes with the errors spread evenly and a share d right have 2/(3d − 1): 5 is d = .47, where
chance is .33. There, 300 gold and 200 answers leave ±.3 on a scale of 0 to 1: nothing is learnt."""

MIN_GOLD = 20
"""Groups needed with gold of every class: with 20, and 100 answers, intervals cover 98.6 to 99.2 % in simulation and
are ±.07 to ±.2 wide on a scale of 0 to 1. Below that there is next to nothing left to say."""

IMPOSSIBLE = 0.01
"""Level of the test that a corrected share is below zero, over all classes together (Bonferroni)."""

MIN_AUDITS = 60
"""Audited groups needed to estimate λ as well as the mean."""

MIN_REST = 20
"""Groups without audit from which the judge may add to people's grades. With 60 or 90 audited, in simulation, the judge
of 20 more leaves the interval as wide, and that of 2 to 10 makes it 1.1 to 6 times as wide; of 5 to 10 answers with
hard grades, 90 % of them the same, it covers 88 to 90 %: they may all be alike."""

MIN_STRATUM = 10
"""Audited groups a stratum needs to be tested."""


class Gold(NamedTuple):
    """Answers whose true class is known, with what the judge said: three arrays of shape (m,)."""

    truth: Classes
    said: Classes
    groups: Sequence[str]


class Transport(Record):
    """One stratum of the transport test: the mean gap audit − corrected, its p-value, raw and adjusted by Holm.

    `outcome`: `passes` means not shown to be off; how far off it may still be is what the interval of `gap` says.
    `untested` strata have fewer than MIN_STRATUM groups.
    """

    kind: str
    stratum: str
    gap: Estimate | None = None
    p: float | None = None
    adjusted: float | None = None
    outcome: Literal["passes", "fails", "untested"]


def confusion_matrix(gold: Gold, classes: int) -> Floats:
    """M[a, k] = P(judge says a | truth k) = (C[a, k] + ½) / (n_k + K/2), shape (K, K), columns summing to 1.

    The ½ is Jeffreys' prior: a kind of error not seen yet is rare, not impossible.
    """
    counts = np.full((classes, classes), 0.5)
    np.add.at(counts, (np.asarray(gold.said, dtype=int), np.asarray(gold.truth, dtype=int)), 1.0)
    return np.asarray(counts / counts.sum(axis=0), dtype=np.float64)


def corrected_points(matrix: Floats, points: Numbers) -> Floats:
    """What each verdict is worth once the judge's errors are undone: w = M⁻ᵀ·points, shape (K,).

    The mean of w over the verdicts is the corrected mean before projection, so w[verdict] is the value of one answer
    that `transport_test` compares with its audit. Single values may lie outside the range of the points.

    Raises:
        numpy.linalg.LinAlgError: the matrix is singular.
    """
    return np.linalg.solve(matrix.T, np.asarray(points, dtype=float))


def project_on_simplex(shares: Numbers) -> Floats:
    """The nearest point (Euclidean) with no negative entry and sum 1: max(v − τ, 0), shape (K,).

    Source: Duchi, Shalev-Shwartz, Singer and Chandra 2008, ICML, figure 1.
    """
    v = np.asarray(shares, dtype=float)
    ordered = np.sort(v)[::-1]
    thresholds = (np.cumsum(ordered) - 1) / np.arange(1, len(v) + 1)
    kept = np.flatnonzero(ordered > thresholds)[-1]
    return np.asarray(np.maximum(v - thresholds[kept], 0.0))


def rogan_gladen(
    golds: Sequence[Gold], saids: Sequence[Classes], groups: Sequence[str], points: Numbers
) -> Estimate | Withheld:
    """Mean points as they would be without the judges' errors, measured on gold; of several judges, the mean of theirs.

    For one judge π̃ = M⁻¹P̂ with P̂ its shares, π̂ its projection on the simplex. Delta method:
    Cov(π̃) = M⁻¹[Cov(P̂) + Σ_jk π̂_j π̂_k Cov(M_j, M_k)]M⁻ᵀ, estimated from the sums over groups of each observation's
    share in P̂ − Mπ̂. So gold of several classes from one prompt, and answers to prompts that also have gold, count as
    dependent; without either it is Cov(P̂) + Σ_k π̂_k² Cov(M_k). The ½ of the smoothing counts as half an observation
    of each class in a group of its own, so a judge never seen to err keeps an interval. t with G − 1 degrees of freedom
    and factor G/(G − 1), G the smaller of the two numbers of groups. Intervals are centred on π̃ moved into the range,
    the values on π̂ (the interval is widened to hold it). They cover 94 to 97.5 % in simulation, but
    97 to 98.6 % of means near an end of the range or with a share of 0, from gold in 34 to 67 groups.

    Several judges jointly: what a group adds to each judge's error is averaged over judges before it is squared. So
    errors that judges share do not shrink with their number, and errors of their own do. The half observations of the
    smoothing count as shared.

    Assumes that a judge errs on these answers as on gold of the same class; `transport_test` checks it.
    Source: Rogan and Gladen 1978, Am. J. Epidemiology 107:71; Lee et al. 2025 (2511.21140) for judges.

    Args:
        golds: one for each judge: classes 0 to K − 1 of the same m gold answers, those it gave them, their groups.
        saids: one of shape (n,) for each judge: its classes of the same answers to correct; K where no judge was needed
            to tell that an answer is of class K − 1: it takes no correction.
        groups: n group names; a name shared with gold is the same group.
        points: shape (K,): what each class is worth; 1 for one class and 0 for the others gives its share.

    Returns:
        Withheld for the first judge for which a class has gold in fewer than MIN_GOLD groups, M is too ill-conditioned
        to invert, or projection would move the estimate far: a share surely below 0 (level IMPOSSIBLE) shows that the
        judge does not err here as on gold.

    Raises:
        ValueError: fewer than two groups of answers that were read, no judge, or gold in other groups for one of them.
    """
    if not golds or any(list(gold.groups) != list(golds[0].groups) for gold in golds):
        raise ValueError("A panel needs a judge, and all its judges the same gold answers.")
    found = []
    for gold, said in zip(golds, saids, strict=True):
        one = _undone(gold, said, groups, points)
        if isinstance(one, Withheld):
            return one
        found.append(one)
    fewer = found[0].fewer
    influences = np.mean([one.influences for one in found], axis=0)
    half = t_quantile(0.5 + LEVEL / 2, fewer - 1) * float(_errors(influences, fewer))
    value, centre = np.mean([(one.value, one.centre) for one in found], axis=0)
    ends = float(np.min(points)), float(np.max(points))
    return bounded(value, centre, half, ends, groups, "rogan-gladen")


class _Undone(NamedTuple):
    """The mean with one judge's errors undone.

    `value` and `centre`: after projection and before. `influences`, shape (R,): what each group, and each half
    observation of the smoothing, adds to the error. `fewer`: the smaller number of groups.
    """

    value: float
    centre: float
    influences: Floats
    fewer: int


def _undone(gold: Gold, said: Classes, groups: Sequence[str], points: Numbers) -> _Undone | Withheld:
    count, verdicts = len(points), np.asarray(said, dtype=int)
    matrix = _usable_confusion(gold, count)
    if isinstance(matrix, Withheld):
        return matrix
    fewer = min(members(np.asarray(groups)[verdicts < count].tolist())[1], members(gold.groups)[1])
    if fewer < 2:
        raise ValueError("A clustered interval needs at least two groups.")
    inverse, wanted = np.linalg.inv(matrix), np.vstack([np.asarray(points, dtype=float), np.eye(count)])
    seen = np.bincount(verdicts, minlength=count + 1)[:count] / len(verdicts)
    read, last = float(seen.sum()), wanted[:, -1]
    loose = inverse @ seen / read
    shares = project_on_simplex(loose)
    worth = np.column_stack([wanted @ inverse, last])
    influences = _influences(gold, verdicts, groups, read * shares, matrix, worth)
    furthest = float((-read * loose / _errors(influences, fewer)[1:]).max())
    if furthest > t_quantile(1 - IMPOSSIBLE / count, fewer - 1):
        return Withheld(reason="impossible_shares", detail=f"{-furthest:.1f} σ")
    value, centre = (read * float(wanted[0] @ given) + (1 - read) * float(last[0]) for given in (shares, loose))
    return _Undone(value, centre, influences[:, 0], fewer)


def _errors(influences: Floats, fewer: int) -> Floats:
    return np.asarray(np.sqrt(fewer / (fewer - 1) * (influences**2).sum(axis=0)), dtype=np.float64)


def _usable_confusion(gold: Gold, count: int) -> Floats | Withheld:
    truth, names = np.asarray(gold.truth, dtype=int), np.asarray(gold.groups, dtype=str)
    fewest = min(len(set(names[truth == k])) for k in range(count))
    if fewest < MIN_GOLD:
        return Withheld(reason="little_gold", detail=f"{fewest} < {MIN_GOLD}")
    matrix = confusion_matrix(gold, count)
    condition = float(np.linalg.cond(matrix))
    if condition > MAX_CONDITION:
        return Withheld(reason="ill_conditioned", detail=f"{condition:.3g} > {MAX_CONDITION:g}")
    return matrix


def _influences(
    gold: Gold, said: npt.NDArray[Any], groups: Sequence[str], shares: Floats, matrix: Floats, worth: Floats
) -> Floats:
    """What each group, and then each half observation, adds to the error of worth·(P̂ − Mπ̂), shape (R, J).

    The answers are handled as column K of the confusion matrix, with weight +1 where column k of gold has −π̂_k. M has
    no row K: what is known without a judge has no error to undo.

    Args:
        shares: shape (K,): π̂, adding up to the share of answers that were read.
        worth: shape (J, K + 1): what each verdict is worth.
    """
    count = len(shares)
    seen = np.concatenate([np.asarray(gold.said, dtype=int), said])
    column = np.concatenate([np.asarray(gold.truth, dtype=int), np.full(len(said), count)])
    member, together = members([*gold.groups, *groups])
    answers = np.bincount(said, minlength=count + 1) + np.append(np.full(count, 0.5), 0.0)
    centres = np.vstack([np.vstack([matrix, np.zeros(count)]).T, answers / answers.sum()])
    weights = np.append(-shares, 1.0) / (np.bincount(column, minlength=count + 1) + count / 2)
    moves = weights[:, None, None] * (np.eye(count + 1) - centres[:, None, :]) @ worth.T
    sums = np.zeros((together, len(worth)))
    np.add.at(sums, member, moves[column, seen])
    return np.vstack([sums, np.sqrt(0.5) * moves[:, :count].reshape(-1, len(worth))])


def ppi_mean(
    labelled: Numbers, predicted_labelled: Numbers, predicted_rest: Numbers, groups: Sequence[str]
) -> Estimate:
    """Mean of people's grades, from a random audit and the judge's grades of all answers (PPI++).

    θ = ȳ_L + λ(f̄_U − f̄_L), λ = Cov(Y, f) / (Var f_L + (n/N)·Var f_U) clipped to [0, 1]: 0 ignores the judge, 1 is
    prediction-powered inference without tuning. With A_g and B_g the sums over group g of (y − ȳ_L)/n and of
    (f − f̄_L)/n − (f − f̄_U)/N: Var θ = G/(G−1)·Σ_g (A_g − λB_g)², least at λ = Σ A_g B_g / Σ B_g², which is the formula
    above for groups of one. t with G − 1 degrees of freedom, G the smaller number of groups of the two samples. To the
    sum is added ½[θ² + (1 − θ)²]/G_L², as if half a group more of the G_L audited had been at each end of the range:
    with 90 or 95 % of one grade the interval covers 91 to 95 % in simulation, and without it 85 to 93 %.
    Source: Angelopoulos, Duchi and Zrnic 2023 (2311.01453); the sums over groups and the half groups are ours.

    With fewer than MIN_REST groups in the rest λ is 0: the mean of the audits, method `people`, their G_L groups.

    Assumes that the audited answers were drawn at random; then it holds whatever the judge is like.

    Args:
        labelled: shape (n,): people's grades, 0 to 1.
        predicted_labelled: shape (n,): the judge's grades of the same answers.
        predicted_rest: shape (N,): the judge's grades of the answers nobody audited.
        groups: n + N group names, those of the audited answers first.

    Raises:
        ValueError: lengths differ, or audits are in fewer than MIN_AUDITS groups.
    """
    y, f, rest = (np.asarray(values, dtype=float) for values in (labelled, predicted_labelled, predicted_rest))
    n = len(y)
    if len(f) != n or len(groups) != n + len(rest):
        raise ValueError("Each audited answer needs a grade of the judge, and each answer a group.")
    audited, others = len(set(groups[:n])), len(set(groups[n:]))
    if audited < MIN_AUDITS:
        raise ValueError(f"Audits in {audited} groups; {MIN_AUDITS} are needed.")
    used = others >= MIN_REST
    if not used:
        f, rest, groups = np.zeros(n), np.zeros(0), groups[:n]
    f_rest = float(rest.mean()) if used else 0.0
    member, _ = members(groups)
    by_people = np.bincount(member, weights=np.concatenate([(y - y.mean()) / n, np.zeros(len(rest))]))
    by_judge = np.bincount(member, weights=np.concatenate([(f - f.mean()) / n, (f_rest - rest) / max(len(rest), 1)]))
    spread = float(by_judge @ by_judge)
    tuning = float(np.clip(by_people @ by_judge / spread, 0, 1)) if spread > 1e-15 else 0.0
    fewer = min(audited, others) if used else audited
    value = float(y.mean() + tuning * (f_rest - f.mean()))
    kept = min(max(value, 0.0), 1.0)
    unseen = 0.5 * (kept**2 + (1 - kept) ** 2) / audited**2
    error = np.sqrt(fewer / (fewer - 1) * (np.sum((by_people - tuning * by_judge) ** 2) + unseen))
    half = t_quantile(0.5 + LEVEL / 2, fewer - 1) * float(error)
    return bounded(kept, value, half, (0.0, 1.0), groups, "ppi++" if used else "people")


def transport_test(
    audits: Numbers, corrected: Numbers, strata: Mapping[str, Sequence[str]], groups: Sequence[str]
) -> tuple[Transport, ...]:
    """Does the correction hold where it is used: is mean(audit − corrected) = 0 in every stratum?

    t test of each stratum clustered by group (`clustered_mean`), Holm's step-down over all strata of all kinds
    together: adjusted p_(i) = max_{j≤i} (m − j + 1)·p_(j). To the squared standard error is added 1/G², as if half a
    group more had a gap of 1 and half one of −1: rare gaps are large, and gaps all alike in a few groups prove nothing.
    In simulation a correction that holds fails somewhere in 2 % of audits with mixed grades, in 10 % with 90 % good
    ones. Where one fails, show the raw score only.
    `corrected` counts as fixed: what is tested is this correction, not another from as much gold, so a correction from
    little gold fails for its own error too. Source: the mean transport test of CJE, Landesberg and Narayan 2025
    (2512.11150); Holm 1979.

    Args:
        audits: shape (n,): people's grades of answers drawn at random, 0 to 1.
        corrected: shape (n,): the corrected value of each, see `corrected_points`.
        strata: kind (model, issue, length bin) to n labels.
        groups: n group names.

    Returns:
        One record a stratum, in the order of kinds and then of names; `fails` below 1 − LEVEL.
    """
    gaps = np.asarray(audits, dtype=float) - np.asarray(corrected, dtype=float)
    names = np.asarray(groups, dtype=str)
    found = []
    for kind, labels in strata.items():
        own = np.asarray(labels, dtype=str)
        found += [_stratum(kind, label, gaps[own == label], names[own == label]) for label in sorted(set(own.tolist()))]
    tested = [s.p for s in found if s.p is not None]
    adjusted = iter(holm(tested))
    return tuple(s if s.p is None else _decided(s, next(adjusted)) for s in found)


def _stratum(kind: str, label: str, gaps: Floats, names: npt.NDArray[np.str_]) -> Transport:
    from scipy.special import stdtr

    count = len(set(names.tolist()))
    if count < MIN_STRATUM:
        return Transport(kind=kind, stratum=label, outcome="untested")
    plain = clustered_mean(gaps, names.tolist())
    quantile = t_quantile(0.5 + LEVEL / 2, count - 1)
    error = float(np.hypot((plain.high - plain.value) / quantile, 1 / count))
    bounds = {"low": plain.value - quantile * error, "high": plain.value + quantile * error}
    p = 2 * float(stdtr(count - 1, -abs(plain.value) / error))
    return Transport(kind=kind, stratum=label, gap=plain.model_copy(update=bounds), p=p, outcome="passes")


def _decided(stratum: Transport, adjusted: float) -> Transport:
    outcome = "fails" if adjusted < 1 - LEVEL else "passes"
    return stratum.model_copy(update={"adjusted": float(adjusted), "outcome": outcome})


def missing_bounds(points: Numbers, missing: int) -> tuple[float, float]:
    """The mean if every missing grade were 0, and if every one were 1: Σy/(n + m) and (Σy + m)/(n + m).

    Source: Horowitz and Manski 2000, JASA 95:77. Bounds, not an interval: no assumption, no sampling error.

    Args:
        points: shape (n,), 0 to 1.
        missing: m, how many more were asked.

    Raises:
        ValueError: `missing` is negative, or there is no answer at all.
    """
    total, count = float(np.sum(points)), len(points) + missing
    if missing < 0 or count == 0:
        raise ValueError("Bounds need at least one answer, and no negative number of missing ones.")
    return total / count, (total + missing) / count


def bounded(
    value: float, centre: float, half: float, ends: tuple[float, float], groups: Sequence[str], method: str
) -> Estimate:
    """An interval about the centre moved into the range, cut at its ends and widened to hold the value."""
    inside = min(max(float(centre), ends[0]), ends[1])
    low, high = max(inside - float(half), ends[0]), min(inside + float(half), ends[1])
    return Estimate(
        value=float(value),
        low=min(low, float(value)),
        high=max(high, float(value)),
        n=len(groups),
        groups=len(set(groups)),
        method=method,
    )
