"""One step on from a prefix: what searches over steps are made of, for any policy that can resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.pipeline import Policy
from payoff.trajectories import StopReason, Trajectories

Value = Callable[[Trajectories, Tensor], Tensor]  # (trajectories, at [N]) -> what each prefix [:at] is worth [N]


class Steps(NamedTuple):
    """Prefixes traj[i, :at[i]], each one step longer than it was; over: the rollout ends there and cannot be continued."""

    traj: Trajectories
    at: Int[Tensor, " N"]
    over: Bool[Tensor, " N"]


def step_on(
    policy: Policy,
    traj: Trajectories,
    at: Int[Tensor, " N"],
    n: int,
    rng: torch.Generator,
    *,
    horizon: int | None = None,
) -> Steps:
    """n ways to go one step on from every prefix traj[i, :at[i]], one after another.

    A step ends where the rollout's step numbers change. The policy cannot be told to stop there: it writes `horizon` actions and
    one more, or to the end (None), and what lies behind the step is not used. Give a horizon that no step exceeds; one that is cut
    by it counts as a step.

    >>> from payoff.pipeline import Start
    >>> from payoff.policies.tabular import Tabular
    >>> policy, rng = Tabular(2, 4, step_length=2), torch.Generator().manual_seed(0)
    >>> traj = policy.rollout([Start("a", {})], 1, rng)
    >>> found = step_on(policy, traj, torch.tensor([0]), 3, rng)
    >>> found.at.tolist(), found.over.tolist(), step_on(policy, found.traj, found.at, 1, rng).over.tolist()
    ([2, 2, 2], [False, False, False], [True, True, True])
    """
    rows = torch.arange(len(traj), device=traj.device)
    longer = policy.resume(traj, rows, at, n, rng, horizon=None if horizon is None else horizon + 1)
    begin = at.to(longer.device).repeat_interleave(n)
    number = longer.step.gather(1, begin[:, None])
    position = torch.arange(longer.width, device=longer.device)
    later = longer.exists & (position >= begin[:, None]) & (longer.step != number)
    end = torch.where(later, position, longer.length[:, None]).amin(1)
    if horizon is not None:
        end = torch.minimum(end, begin + horizon)
    return Steps(longer, end, end >= longer.length)


def prefixes(traj: Trajectories, at: Int[Tensor, " N"]) -> Trajectories:
    """The first at[i] >= 1 actions of every row as trajectories of their own, cut short; with the texts of whole steps.

    items: "response" and "steps" are those of the steps that have begun, "tokens" those of the actions. What ends where its row
    does stays as it is.

    >>> from payoff.policies.tabular import Tabular
    >>> cut = prefixes(Tabular(2, 2).sequences(), torch.tensor([1, 1, 1, 2]))
    >>> [item["response"] for item in cut.items], cut.stop.tolist(), cut.width
    (['a', 'a', 'b', 'bb'], [1, 1, 1, 0], 2)
    """
    at = at.to(traj.device)
    short = at < traj.length
    last = traj.step.gather(1, (at - 1).clamp(min=0)[:, None])[:, 0].tolist()
    items = [
        _cut_item(item, end, step) if cut else item for item, end, step, cut in zip(traj.items, at.tolist(), last, short.tolist())
    ]
    inside = torch.arange(traj.width, device=traj.device) < at[:, None]
    made = traj.replace(
        mask=traj.mask & inside,
        length=torch.minimum(at, traj.length),
        step=torch.where(inside, traj.step, -1),
        stop=torch.where(short, int(StopReason.truncated), traj.stop),
        items=items,
        **({} if traj.fork is None else {"fork": torch.minimum(traj.fork, at - 1)}),
    )
    return made.select(torch.arange(len(made), device=made.device))


def scored_by(model: Any) -> Value:
    """The value of a prefix by a process reward model: what `model.score` says of the prefix's last step; 0 for the empty one.

    >>> from payoff.policies.tabular import Tabular
    >>> class Half:
    ...     def score(self, traj): return torch.full((len(traj), 2), 0.5), torch.ones(len(traj), 2, dtype=torch.bool)
    >>> scored_by(Half())(Tabular(2, 2).sequences(), torch.tensor([0, 1, 2, 2])).tolist()
    [0.0, 0.5, 0.5, 0.5]
    """

    def value(traj: Trajectories, at: Tensor) -> Tensor:
        cut = prefixes(traj, at.clamp(min=1))
        score = model.score(cut)[0]
        last = cut.step.gather(1, (cut.length - 1)[:, None]).long().to(score.device)
        return torch.where(at.to(score.device) > 0, score.gather(1, last)[:, 0], 0)

    return value


def _cut_item(item: Any, end: int, step: int) -> dict[str, Any]:
    steps = list(item.get("steps", ()))[: step + 1]
    cut = {"steps": steps, "response": "".join(steps)} if "steps" in item else {}
    return {**item, **cut, **({"tokens": list(item["tokens"])[:end]} if "tokens" in item else {})}


def as_float(x: Float[Tensor, " N"]) -> list[float]:
    """Numbers as a list of Python's own.

    >>> as_float(torch.tensor([0.5]))
    [0.5]
    """
    return [float(v) for v in x.detach().double().tolist()]
