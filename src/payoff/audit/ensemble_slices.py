"""Where several rewards for the same answers part: in which slice of the rows two of them order a pair differently most often."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from payoff.audit.asked import Asked, Family
from payoff.audit.estimators import examples, pair_counts, used
from payoff.audit.intervals_by_cluster import share_of
from payoff.audit.measurement import Measurement
from payoff.intervals import Interval

SLICES = Family(
    "ensembles",
    {
        "slice": Asked(
            "Where do the rewards order answers differently most often?",
            "share of pairs",
            bound=0.3,
            why="a slice may be harder than the whole (bound 0.2), by no more than another pair in ten",
            worst=0.5,
            advice="Look at the answers of this slice on which the rewards part: the data of at least one of them lacks these.",
            remedies=("mix", "pass-rate"),
            needs=10,
        )
    },
)


def disagreement_by(
    scores: Float64[Tensor, "M N"],
    valid: Bool[Tensor, "M N"],
    group: Int64[Tensor, " N"],
    part: Int64[Tensor, " N"],
    *,
    by: str,
    names: Sequence[str] = (),
    rows: Sequence[Mapping[str, Any]] | None = None,
    bounds: Mapping[str, float] | None = None,
    fewest: int = 20,
) -> list[Measurement]:
    """ensemble-disagreement-by-<by>: of two answers to a prompt in one slice, how often two members order them differently.

    part: the slice of each row; names: of slice 0, 1, ... Ties count one half; pairs that a member does not tell apart count only
    for the others. Slices with fewer than `fewest` prompts that hold a pair are listed but cannot be the worst, which is shown
    with an interval of level 1 - 0.05 / S. Series: slice, share, prompts. Rows count that every member gave a verdict.

    >>> s = torch.tensor([[0.1, 0.9, 0.2, 0.8], [0.3, 0.7, 0.9, 0.1]]).double()
    >>> part = torch.tensor([0, 0, 1, 1])
    >>> found = disagreement_by(s, torch.ones(2, 4).bool(), part, part, by="source", names=("web", "book"), fewest=1)
    >>> found[0].estimate.value, found[0].note.split(":")[0]
    (1.0, 'Most often in book')
    """
    name = f"ensemble-disagreement-by-{by}"
    every = (valid & scores.isfinite()).all(0)
    u = used(torch.where(every, scores[0], math.nan), every, group)
    members, label = scores[:, u.row], part[u.row]
    kinds = label.unique().tolist()
    level = 1 - 0.05 / max(1, len(kinds))
    shares: dict[int, Interval] = {}
    apart = torch.zeros(len(u.row), dtype=torch.float64)
    for kind in kinds:
        inside = label == kind
        v = u.only(inside)
        differ, compared = (torch.zeros(len(v.row), dtype=torch.float64) for _ in range(2))
        for first, second in combinations(members[:, inside], 2):
            pairs = pair_counts(first, second, v.prompt)
            differ += pairs.compared - pairs.agree
            compared += pairs.compared
        share = share_of(v.sum(differ), v.sum(compared), level=level)
        if share is not None:
            shares[kind] = share
        apart[inside] = differ
    fit = {kind: share for kind, share in shares.items() if share.n >= fewest}
    if not fit:
        why = f"No slice has {fewest} prompts with two answers that two of the rewards tell apart. {u.note}".strip()
        return [SLICES.missing(name, why, standing="slice")]
    worst = max(fit, key=lambda kind: fit[kind].value)
    called = lambda kind: names[kind] if 0 <= kind < len(names) else str(kind)
    listed = ", ".join(f"{called(kind)} {share.value:.3f}" for kind, share in shares.items())
    series = {"slice": [float(kind) for kind in shares], "share": [share.value for share in shares.values()]}
    series["prompts"] = [float(share.n) for share in shares.values()]
    shown = examples(u, torch.where(label == worst, apart, 0.0), rows, extra={"pairs ordered differently": apart})
    note = f"Most often in {called(worst)}: {listed}. {u.note}".strip()
    return [SLICES.found(name, fit[worst], bounds, standing="slice", series=series, note=note, examples=shown)]
