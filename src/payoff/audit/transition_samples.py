"""Rewards of transitions whose states cannot be counted: EPIC, DARD and STARC from the rows, and from their neighbours.

EPIC needs rewards alone. DARD and STARC also need successors of states and actions that were never tried together: there the
successor of one of the nearest rows stands for them, near by the numbers that a state is made of, each over its deviation.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from payoff.audit.attempts import number
from payoff.audit.distance_samples import Transitions, fit_values, sampled_dard, sampled_epic, sampled_starc
from payoff.audit.scorer import Row, Score
from payoff.intervals import Interval

WIDE, OVER = 500, 40  # transitions that EPIC is of, and those that its means are over
FEW = 200  # transitions that DARD and STARC are of
DRAWS, ACTIONS, NEIGHBOURS = 8, 8, 5
BASE = 2000  # rows among which the nearest are looked for
_APART = 1e3  # distance of two actions that can be counted: further than any two states
Found = Mapping[str, tuple[Interval | None, str]]


def sampled_distances(
    score: Score,
    truth: Score | None,
    moves: Sequence[Row],
    mine: Float64[Tensor, " n"],
    true: Float64[Tensor, " n"],
    *,
    discount: float,
    seed: int = 0,
) -> Found:
    """distance-epic, distance-dard and distance-starc of two rewards, each with its interval or with None, and a note.

    mine, true: what the two pay the rows. STARC takes the values of the policy that acted, fitted to squares and products of the
    numbers that a state is made of: shaping by such a potential makes no difference, shaping by another looks like one.
    """
    names = ("distance-epic", "distance-dard", "distance-starc")
    if truth is None:
        why = "There are too many states to be counted, and no scorer of the truth, which is asked for transitions never seen."
        return dict.fromkeys(names, (None, why))
    n, rng = len(moves), torch.Generator().manual_seed(seed)
    places = [row["state"] for row in moves] + [row["next_state"] for row in moves]  # place n + k: where row k leads

    def of(one: Score) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def reward(state: Tensor, action: Tensor, after: Tensor) -> Tensor:
            asked = [
                {"state": places[i], "action": moves[j]["action"], "next_state": places[k], "response": ""}
                for i, j, k in zip(state.tolist(), action.tolist(), after.tolist(), strict=True)
            ]
            found = one(asked)
            return torch.where(found.valid, found.value, 0.0)

        return reward

    first, second = of(truth), of(score)
    order = torch.randperm(n, generator=rng)
    wide, over, few = order[:WIDE], order[:OVER], order[:FEW]
    coverage = Transitions(over, over, n + over)
    epic = sampled_epic(first, second, Transitions(wide, wide, n + wide), discount=discount, coverage=coverage, seed=seed)
    found: dict[str, tuple[Interval | None, str]] = {"distance-epic": (epic, f"From {len(wide)} transitions.")}
    state, action = _coordinates(places), _actions(moves)
    if state is None or action is None:
        why = "A state or an action is not made of the same numbers in every row, so that none has neighbours."
        return found | dict.fromkeys(names[1:], (None, why))
    base = order[:BASE]
    known = torch.cat([state[base], action[base]], 1)

    def draw(of_state: Tensor, of_action: Tensor) -> Tensor:
        asked = torch.cat([state[of_state], action[of_action]], 1)
        near = torch.cdist(asked, known).topk(min(NEIGHBOURS, len(base)), largest=False).indices
        one = torch.randint(near.shape[1], (len(near), 1), generator=rng)
        return n + base[near.gather(1, one)[:, 0]]

    tried = {json.dumps(moves[k]["action"], default=str): k for k in reversed(order.tolist())}
    actions = torch.tensor(list(tried.values())[:ACTIONS], dtype=torch.int64)
    features = _squares(state)
    values = []
    for paid in (true, mine):
        weight = fit_values(features[:n], features[n:], paid, discount)
        values.append(lambda at, weight=weight: features[at] @ weight)
    dard = sampled_dard(first, second, Transitions(few, few, n + few), draw, actions=actions, discount=discount, seed=seed)
    starc = sampled_starc(first, second, few, few, draw, (values[0], values[1]), discount=discount, draws=DRAWS, seed=seed)
    note = f"From {len(few)} transitions; the successor of one of the {NEIGHBOURS} nearest rows stands for what was never tried."
    return found | {"distance-dard": (dard, note), "distance-starc": (starc, note)}


def _coordinates(states: Sequence[Any]) -> Float64[Tensor, "P D"] | None:
    """The numbers that states are made of, each with mean 0 and deviation 1; None where they are not numbers, or not as many."""
    flat = [_numbers(state) for state in states]
    if any(x is None or len(x) != len(flat[0] or ()) or not x for x in flat):
        return None
    x = torch.tensor(flat, dtype=torch.float64)
    spread = x.std(0, correction=0)
    return (x - x.mean(0)) / torch.where(spread > 0, spread, 1.0)


def _actions(moves: Sequence[Row]) -> Float64[Tensor, "n D"] | None:
    """Actions as places far from one another where they can be counted, else as the numbers they are made of."""
    names = [json.dumps(row["action"], sort_keys=True, default=str) for row in moves]
    kinds = {name: k for k, name in enumerate(dict.fromkeys(names))}
    if len(kinds) > 2 * ACTIONS:
        return _coordinates([row["action"] for row in moves])
    return _APART * torch.eye(len(kinds), dtype=torch.float64)[[kinds[name] for name in names]]


def _numbers(value: Any) -> list[float] | None:
    """A number, or the numbers in a list or a mapping, in their order; None for anything else."""
    if isinstance(value, Mapping):
        value = [value[name] for name in sorted(value)]
    if isinstance(value, list | tuple):
        parts = [_numbers(part) for part in value]
        return None if any(part is None for part in parts) else list(itertools.chain.from_iterable(filter(None, parts)))
    found = None if isinstance(value, str) else number(value)
    return None if found is None else [found]


def _squares(x: Float64[Tensor, "P D"]) -> Float64[Tensor, "P K"]:
    """One, the numbers, and their products of two; of many numbers the squares alone."""
    d = x.shape[1]
    first, second = torch.triu_indices(d, d) if d <= 8 else torch.arange(d).expand(2, d)
    return torch.cat([torch.ones(len(x), 1, dtype=x.dtype), x, x[:, first] * x[:, second]], 1)
