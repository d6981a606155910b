"""Can one number per response express the reward's preferences? Cycles, and what of the preferences is circular (arXiv:2410.02197).

Responses to one prompt are put before the reward two at a time, as a group of their own, each naming the other under `other`. A
reward that reads neither prefers by its numbers, and cannot be circular; a comparative or group-wise one can.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from payoff.audit.attempts import SLACK, Evidence, altered, cluster_of, text_of, verdicts
from payoff.audit.measurement import Measurement
from payoff.audit.rates import cut, share_by
from payoff.audit.scorer import Row, Score
from payoff.intervals import mean_interval

CERTAIN = 0.99  # probabilities are cut here before their log-odds are taken


class Flow(NamedTuple):
    """Preferences among the responses to one prompt: d[e] > 0 where number edges[e, 0] is preferred to number edges[e, 1]."""

    row: int
    responses: list[str]
    edges: Int64[Tensor, "E 2"]
    d: Float64[Tensor, " E"]


def preferences(
    score: Score, evidence: Evidence, *, most: int = 5, prompts: int = 100, bound: float = 0.05, curl_bound: float = 0.1
) -> list[Measurement]:
    """Three measurements of the preferences among up to `most` responses to each prompt that has at least three.

    consistency-triples:       the share of triples with a strict preference in every pair that go round in a circle
    consistency-scalar-order:  the share of strict preferences that no order of the responses reproduces
    consistency-bradley-terry: how much of the log-odds is circular (see `circular_share`), the mean over prompts; a
                               Bradley-Terry model can express the preferences exactly where that is 0
    """
    flows, compares, probabilities, invalid = _flows(score, evidence, most, prompts)
    names = ("triples", "scalar-order", "bradley-terry")
    if not flows:
        why = "no prompt has three different responses with verdicts" + (f"; {invalid} without verdict" if invalid else "")
        return [_measure(name, None, bound, note=why) for name in names]
    how = (
        "compares responses with one another" if compares else "gives each response a number of its own, whatever it stands next to"
    )
    note = f"{len(flows)} prompts; the reward {how}" + (f"; {invalid} without verdict" if invalid else "")
    triples = [(flow, cyclic) for flow in flows for cyclic in cyclic_triples(flow.edges, flow.d)]
    place = lambda flow: cluster_of(evidence.rows[flow.row], flow.row)
    circles = [_circle(evidence, flow, triple) for flow, (triple, circular) in triples if circular]
    shares = [(flow, *lost_to_order(flow.edges, flow.d, len(flow.responses))) for flow in flows]
    lost = [(k < bad, place(flow)) for flow, bad, total in shares for k in range(total)]
    found = [
        _measure(
            "triples",
            share_by([circular for _, (_, circular) in triples], [place(flow) for flow, _ in triples]),
            bound,
            worst=0.5,
            unit="share of triples",
            examples=tuple(circles[:10]),
            note=note if triples else "no triple with three strict preferences",
        ),
        _measure(
            "scalar-order",
            share_by([hit for hit, _ in lost], [where for _, where in lost]),
            bound,
            worst=0.34,
            unit="share of preferences",
            examples=tuple(circles[:10]),
            note=note if lost else "no strict preference",
        ),
    ]
    if compares and not any(((flow.d.abs() > SLACK) & (flow.d.abs() < 1 - SLACK)).any() for flow in flows) and probabilities:
        why = "all verdicts are certain, so every order fits in the limit of large differences: see consistency-scalar-order"
        return [*found, _measure("bradley-terry", None, curl_bound, note=why)]
    curls = []
    for flow in flows:
        odds = log_odds(flow.d) if compares and probabilities else flow.d
        curls.append(circular_share(flow.edges, odds, len(flow.responses))[0])
    bradley = _measure("bradley-terry", mean_interval(curls), curl_bound, unit="circular share of the log-odds", note=note)
    return [*found, bradley]


def circular_share(edges: Int64[Tensor, "E 2"], flow: Float64[Tensor, " E"], size: int) -> tuple[float, Float64[Tensor, " K"]]:
    """How much of a flow on the edges of a graph no potential explains, |y - B s|^2 / |y|^2, and the potential s.

    s solves least squares of y_ab = s_a - s_b (the Hodge decomposition): on a complete graph s_a is the mean of y_ab over all b
    (y_aa = 0). 0: the log-odds are those of a Bradley-Terry model with strengths s. 1: nothing but circles. No flow at all: 0.

    >>> circle = torch.tensor([[0, 1], [1, 2], [2, 0]])
    >>> circular_share(circle, torch.tensor([1.0, 1, 1]).double(), 3)[0]
    1.0
    >>> share, potential = circular_share(circle, torch.tensor([1.0, 2, -3]).double(), 3)
    >>> round(share, 12), [round(float(s), 6) for s in potential - potential[2]]
    (0.0, [3.0, 2.0, 0.0])
    """
    incidence = torch.zeros(len(edges), size, dtype=torch.float64)
    row = torch.arange(len(edges))
    incidence[row, edges[:, 0]], incidence[row, edges[:, 1]] = 1.0, -1.0
    potential = torch.linalg.lstsq(incidence, flow[:, None], driver="gelsd").solution[:, 0]
    total = float(flow.square().sum())
    left = float((flow - incidence @ potential).square().sum())
    return (0.0 if total == 0 or left <= 1e-18 * total else min(1.0, left / total)), potential


def log_odds(d: Float64[Tensor, " E"]) -> Float64[Tensor, " E"]:
    """log(p / (1 - p)) of p = (1 + d) / 2, d = P(a > b) - P(b > a) asked both ways; p is kept within [0.01, 0.99]."""
    return torch.logit(((1 + d) / 2).clamp(1 - CERTAIN, CERTAIN))


def cyclic_triples(edges: Int64[Tensor, "E 2"], d: Float64[Tensor, " E"]) -> list[tuple[tuple[int, int, int], bool]]:
    """Every triple with a strict preference in all three pairs, and whether these go round; a circle is named in its direction.

    >>> circle = torch.tensor([[0, 1], [1, 2], [2, 0]])
    >>> cyclic_triples(circle, torch.tensor([1.0, 1, 1]).double()), cyclic_triples(circle, torch.tensor([1.0, 1, 0]).double())
    ([((0, 1, 2), True)], [])
    """
    prefers = {}
    for (a, b), x in zip(edges.tolist(), d.tolist(), strict=True):
        if abs(x) > SLACK:
            prefers[a, b], prefers[b, a] = x > 0, x < 0
    found = []
    for a, b, c in itertools.combinations(sorted({a for a, _ in prefers}), 3):
        if (a, b) in prefers and (b, c) in prefers and (a, c) in prefers:
            circular = prefers[a, b] == prefers[b, c] == prefers[c, a]
            found.append(((a, b, c) if prefers[a, b] or not circular else (a, c, b), circular))
    return found


def lost_to_order(edges: Int64[Tensor, "E 2"], d: Float64[Tensor, " E"], size: int) -> tuple[int, int]:
    """How many strict preferences the best order of the responses gets wrong, and how many there are. Tries every order.

    >>> lost_to_order(torch.tensor([[0, 1], [1, 2], [2, 0]]), torch.tensor([1.0, 1, 1]).double(), 3)
    (1, 3)
    """
    strict = [(a, b) if x > 0 else (b, a) for (a, b), x in zip(edges.tolist(), d.tolist(), strict=True) if abs(x) > SLACK]
    wrong = lambda place: sum(place[a] > place[b] for a, b in strict)
    return min(map(wrong, itertools.permutations(range(size)))), len(strict)


def _flows(score: Score, evidence: Evidence, most: int, prompts: int) -> tuple[list[Flow], bool, bool, int]:
    """The preferences of every prompt; whether the reward compares; whether it gives probabilities; how many had no verdict."""
    texts: dict[Hashable, dict[str, None]] = {}
    first: dict[Hashable, int] = {}
    for i, row in enumerate(evidence.rows):
        place = cluster_of(row, i)
        first.setdefault(place, i)
        for name in ("response", "other"):
            if isinstance(row.get(name), str):
                texts.setdefault(place, {})[row[name]] = None
    chosen = [(first[place], list(of)[:most]) for place, of in texts.items() if len(of) >= 3][:prompts]
    asked: list[Row] = []
    for i, of in chosen:
        for pair in itertools.combinations(of, 2):
            group = f"pair {len(asked)}"
            asked += [altered(evidence.rows[i], x, other=y, group=group) for x, y in (pair, pair[::-1])]
    rewards = iter(verdicts(score, asked)[0])
    flows, invalid, seen = [], 0, []
    compares = False
    for i, of in chosen:
        given: dict[str, list[float]] = {}
        edges, d = [], []
        for (a, text), (b, other) in itertools.combinations(enumerate(of), 2):
            one, two = next(rewards), next(rewards)
            for said, reward in ((text, one), (other, two)):
                if reward is not None:
                    given.setdefault(said, []).append(reward)
                    seen.append(reward)
            if one is None or two is None:
                invalid += 1
            else:
                edges.append((a, b))
                d.append(one - two)
        compares = compares or any(max(values) - min(values) > SLACK for values in given.values())
        if len(edges) >= 3:
            flows.append(Flow(i, of, torch.tensor(edges), torch.tensor(d, dtype=torch.float64)))
    probabilities = bool(seen) and min(seen) >= 0 and max(seen) <= 1
    return flows, compares, probabilities, invalid


def _circle(evidence: Evidence, flow: Flow, triple: tuple[int, int, int]) -> Mapping[str, Any]:
    """A circle as an example: every response is preferred to the next, and the last one to the first."""
    row = evidence.rows[flow.row]
    names = [cut(flow.responses[k]) for k in triple]
    return {"row": flow.row, "prompt": cut(text_of(row.get("prompt"))), "response": "  >  ".join([*names, names[0]]), "gap": 1.0}


_QUESTIONS = {
    "triples": "Do preferences among three responses never go round in a circle?",
    "scalar-order": "Can one number per response reproduce the reward's preferences?",
    "bradley-terry": "Can a Bradley-Terry model express how strongly the reward prefers?",
}


def _measure(name: str, estimate: Any, bound: float, *, note: str, **rest: Any) -> Measurement:
    if estimate is not None and not math.isfinite(estimate.value):
        estimate = None
    return Measurement(
        f"consistency-{name}",
        "consistency",
        _QUESTIONS[name],
        estimate,
        bound=bound,
        advice="Do not add it up: use it for pairs only, or fit one number per response to it first.",
        remedies=("par", "clamp"),
        note=note,
        needs=3,
        **rest,
    )
