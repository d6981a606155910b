"""A reward of transitions against the true one: how far apart the two are, and what optimising the one loses of the other.

Rows have `state`, `action` and `next_state`, and the true reward of each under the gold field, or a scorer of the truth. Where the
states can be counted, the rows make an empirical process in which everything is computed; else the distances are estimated.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from payoff.audit.asked import Asked, Family
from payoff.audit.attempts import number
from payoff.audit.distance import canonicalise, dard, epic, optimal_regret, starc, worst_regret
from payoff.audit.measurement import Measurement
from payoff.audit.scorer import Row, Score
from payoff.audit.transition_samples import Found, sampled_distances
from payoff.intervals import Interval
from payoff.tasks.mdp import MDP

STATES = 100  # above this many, and above as many actions, states are not counted
RESAMPLES = 40
COMBINATIONS = 20_000  # rewards that EPIC may ask for beyond those of the rows
MEASURES = Family(
    "distance",
    {
        "optimal-regret": Asked(
            "How much of the true return is lost by a policy that is best for the reward?",
            "share of the range of true returns",
            bound=0.05,
            why="a twentieth of all there is to win: about what training itself leaves behind",
            worst=0.5,
            advice="Pay what changes no order of policies: shape by potentials, or mend the reward where the examples part most.",
            remedies=("potential-shaping",),
            needs=10,
        ),
        "worst-regret": Asked(
            "How much can be lost by exchanging a policy for one that the reward finds at least as good?",
            "share of the range of true returns",
            needs=10,
        ),
        "distance-starc": Asked(
            "How far apart are the two rewards, shaping and scale taken out (STARC, 0 to 2)?", "STARC", needs=10
        ),
        "distance-epic": Asked("How far apart are they by EPIC (0 to 1), which no process enters?", "EPIC", needs=10),
        "distance-dard": Asked("How far apart are they by DARD (0 to 1), over transitions that can happen?", "DARD", needs=10),
    },
)


def transition_distances(
    score: Score,
    rows: Sequence[Row],
    *,
    gold: str | None = None,
    truth: Score | None = None,
    discount: float = 0.99,
    seed: int = 0,
) -> list[Measurement]:
    """optimal-regret, worst-regret, distance-starc, distance-epic, distance-dard, of the reward from the truth.

    The process is that of the rows: T(s' | s, a) by their counts, episodes beginning where `start` is true, or in every state as
    often as it was left; a state that was only ever entered ends the episode and pays nothing; an action never tried in a state
    does there what the one tried most often does. Intervals are percentiles over rows drawn again (40 times). EPIC needs rewards
    of transitions that never happened: it is there only with a scorer of the truth. With states that cannot be counted (numbers
    that do not recur, more than a hundred) and such a scorer the three distances are estimated (`sampled_distances`), no regret.
    discount: of the returns. Raises ValueError unless 0 <= discount < 1.

    >>> from payoff.audit.scorer import Scorer
    >>> from payoff.grading import signal
    >>> moves = [{"state": s, "action": a, "next_state": max(0, min(3, s + a))} for s in (0, 1, 2) for a in (-1, 1)] * 4
    >>> rows = [{**row, "true": float(row["next_state"] == 3)} for row in moves]
    >>> def leftwards(state, next_state): return float(next_state < state)
    >>> found = transition_distances(Scorer(signal(leftwards)), rows, gold="true", discount=0.9)
    >>> found[0].name, found[0].result, round(found[0].estimate.value, 2)
    ('optimal-regret', 'fails', 1.0)
    """
    if not 0 <= discount < 1:
        raise ValueError(f"transition_distances: discount must lie in 0 <= discount < 1, got {discount}")
    moves = [_plain(row) for row in rows]
    given = score(moves)
    wanted = [number(row.get(gold)) for row in rows] if gold is not None else _of(truth, moves) if truth is not None else []
    if not wanted:
        return MEASURES.all_missing("There is no gold, and no scorer of the truth, to compare with.")
    keep = [k for k, ok in enumerate(given.valid.tolist()) if ok and wanted[k] is not None]
    note = (
        f"{len(rows) - len(keep)} of {len(rows)} transitions without verdict or gold were left out."
        if len(keep) < len(rows)
        else ""
    )
    if not keep:
        return MEASURES.all_missing(f"No transition has both a verdict and gold. {note}".strip())
    moves = [moves[k] for k in keep]
    mine, true = given.value[keep], torch.tensor([wanted[k] or 0.0 for k in keep], dtype=torch.float64)
    table = Table.of(moves, [rows[k] for k in keep])
    if table is None:
        return _uncounted(sampled_distances(score, truth, moves, mine, true, discount=discount, seed=seed), note)
    return _counted(table, mine, true, _epic_of(table, score, truth, discount), discount, seed, note)


class Table(NamedTuple):
    """Transitions as numbers: of states and actions, by the order in which they first came."""

    state: Int64[Tensor, " n"]
    action: Int64[Tensor, " n"]
    after: Int64[Tensor, " n"]
    begins: Float64[Tensor, " n"]
    states: Sequence[Any]
    actions: Sequence[Any]

    @classmethod
    def of(cls, moves: Sequence[Row], rows: Sequence[Row]) -> Table | None:
        """None where states or actions are too many to be counted."""
        states: dict[str, int] = {}
        actions: dict[str, int] = {}
        shown: tuple[list[Any], list[Any]] = ([], [])
        places: list[list[int]] = []
        for move in moves:
            place = []
            for name, seen, kept in (("state", states, 0), ("action", actions, 1), ("next_state", states, 0)):
                key = json.dumps(move[name], sort_keys=True, default=str)
                if key not in seen:
                    seen[key] = len(seen)
                    shown[kept].append(move[name])
                place.append(seen[key])
            places.append(place)
            if len(states) > STATES or len(actions) > STATES:
                return None
        columns = torch.tensor(places, dtype=torch.int64).T
        begins = [bool(row.get("start")) for row in rows]
        weight = torch.tensor(begins if any(begins) else [True] * len(rows), dtype=torch.float64)
        return cls(columns[0], columns[1], columns[2], weight, *shown)

    def process(self, drawn: Int64[Tensor, " n"], discount: float) -> tuple[MDP, Int64[Tensor, "S A"]]:
        """The empirical process of some of the rows, its reward 0; and how often each action was taken in each state."""
        s, a = len(self.states), len(self.actions)
        place = (self.state[drawn] * a + self.action[drawn]) * s + self.after[drawn]
        counts = torch.bincount(place, minlength=s * a * s).view(s, a, s).double()
        tried = counts.sum(2)
        often = counts[torch.arange(s), tried.argmax(1)]
        stays = torch.eye(s, dtype=torch.float64)
        often = torch.where(tried.sum(1, keepdim=True) > 0, often, stays)
        counts = torch.where(tried[:, :, None] > 0, counts, often[:, None, :])
        start = torch.zeros(s, dtype=torch.float64).index_add(0, self.state[drawn], self.begins[drawn])
        start = start / start.sum() if float(start.sum()) > 0 else torch.full((s,), 1 / s, dtype=torch.float64)
        transition = counts / counts.sum(2, keepdim=True)
        return MDP(transition, torch.zeros(s, a, s, dtype=torch.float64), start, discount), tried.long()

    def rewards(
        self, paid: Float64[Tensor, " n"], drawn: Int64[Tensor, " n"], tried: Int64[Tensor, "S A"]
    ) -> Float64[Tensor, "S A S"]:
        """The mean reward of every transition that happened; of an action never tried in a state, that of the one tried most."""
        s, a = len(self.states), len(self.actions)
        place = (self.state[drawn] * a + self.action[drawn]) * s + self.after[drawn]
        total = torch.zeros(s * a * s, dtype=torch.float64).index_add(0, place, paid[drawn])
        count = torch.bincount(place, minlength=s * a * s).double()
        mean = (total / count.clamp(min=1)).view(s, a, s)
        return torch.where((tried > 0)[:, :, None], mean, mean[torch.arange(s), tried.argmax(1)][:, None, :])


def _counted(
    table: Table,
    mine: Float64[Tensor, " n"],
    true: Float64[Tensor, " n"],
    combined: tuple[float | None, str],
    discount: float,
    seed: int,
    note: str,
) -> list[Measurement]:
    n, rng = len(mine), torch.Generator().manual_seed(seed)

    def measured(drawn: Tensor) -> dict[str, float]:
        mdp, tried = table.process(drawn, discount)
        first, second = table.rewards(true, drawn, tried), table.rewards(mine, drawn, tried)
        return {
            "optimal-regret": optimal_regret(first, second, mdp),
            "worst-regret": worst_regret(first, second, mdp),
            "distance-starc": starc(first, second, mdp),
            "distance-dard": dard(first, second, mdp),
        }

    whole = measured(torch.arange(n))
    again = [measured(torch.randint(n, (n,), generator=rng)) for _ in range(RESAMPLES if n >= 3 else 0)]
    unseen = int((table.process(torch.arange(n), discount)[1] == 0).sum())
    size = (
        f"{n} transitions, {len(table.states)} states, {len(table.actions)} actions; {unseen} pairs of state and action never seen."
    )
    shown = _parts_most(table, mine, true, discount)
    found = []
    for name in MEASURES.asked:
        if name == "distance-epic":
            value, why = combined
            if value is None:
                found.append(MEASURES.missing(name, why))
            else:
                found.append(MEASURES.found(name, Interval(value, None, None, n, method="all pairs, even weights"), None, note=why))
            continue
        drawn = sorted(draw[name] for draw in again)
        ends = (drawn[int(0.025 * len(drawn))], drawn[int(0.975 * len(drawn))]) if drawn else (None, None)
        estimate = Interval(whole[name], ends[0], ends[1], n, method="bootstrap over transitions")
        if ends[0] is not None and ends[1] is not None:
            estimate = estimate._replace(low=min(ends[0], whole[name]), high=max(ends[1], whole[name]))
        examples = shown if name == "optimal-regret" else ()
        found.append(MEASURES.found(name, estimate, None, note=f"{size} {note}".strip(), examples=examples))
    return found


def _epic_of(table: Table, score: Score, truth: Score | None, discount: float) -> tuple[float | None, str]:
    """EPIC over all combinations of states and actions with even weights, or why not."""
    s, a = len(table.states), len(table.actions)
    if truth is None:
        return None, "EPIC needs the true reward of transitions that never happened: name a scorer of the truth."
    if s * a * s > COMBINATIONS:
        return None, f"{s} states and {a} actions make more than {COMBINATIONS} combinations."
    every = [
        {"state": x, "action": y, "next_state": z, "response": ""}
        for x, y, z in itertools.product(table.states, table.actions, table.states)
    ]
    values = [_of(one, every) for one in (truth, score)]
    if any(value is None for of in values for value in of):
        return None, "A combination of state, action and next state that never happened has no verdict."
    first, second = (torch.tensor(of, dtype=torch.float64).view(s, a, s) for of in values)
    mdp, _ = table.process(torch.arange(len(table.state)), discount)
    return epic(first, second, mdp), f"Over all {s * a * s} combinations, whether they can happen or not."


def _uncounted(found: Found, note: str) -> list[Measurement]:
    """What can be estimated where states cannot be counted."""
    why = f"There are too many states to be counted. {note}".strip()
    measured = []
    for name in MEASURES.asked:
        estimate, told = found.get(name, (None, why))
        measured.append(MEASURES.found(name, estimate, note=f"{told} {note}".strip()) if estimate else MEASURES.missing(name, told))
    return measured


def _parts_most(table: Table, mine: Tensor, true: Tensor, discount: float) -> tuple[Mapping[str, Any], ...]:
    """The transitions on which the two rewards part most, shaping and scale taken out."""
    every = torch.arange(len(mine))
    mdp, tried = table.process(every, discount)
    forms = []
    for paid in (mine, true):
        form = canonicalise(table.rewards(paid, every, tried), mdp, "value-potential")[table.state, table.action, table.after]
        size = float(form.square().mean().sqrt())
        forms.append(form / size if size > 1e-12 else torch.zeros_like(form))
    gap = forms[0] - forms[1]
    shown: dict[tuple[int, ...], dict[str, Any]] = {}
    for k in gap.abs().argsort(descending=True).tolist():
        place = (int(table.state[k]), int(table.action[k]), int(table.after[k]))
        if place not in shown and abs(float(gap[k])) > 1e-9:
            text = f"{table.states[place[0]]!r} --{table.actions[place[1]]!r}--> {table.states[place[2]]!r}"
            shown[place] = {"row": k, "response": text, "reward": float(mine[k]), "gold": float(true[k]), "gap": float(gap[k])}
        if len(shown) == 10:
            break
    return tuple(shown.values())


def _plain(row: Row) -> dict[str, Any]:
    """A transition as a row that a reward can be asked for: its own fields, and an empty response."""
    return {**row, "response": row.get("response") or ""}


def _of(score: Score, rows: Sequence[Row]) -> list[float | None]:
    found = score(rows)
    return [value if ok else None for value, ok in zip(found.value.tolist(), found.valid.tolist(), strict=True)]
