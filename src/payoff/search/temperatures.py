"""Sampling at several temperatures: what one temperature never finds another may, and where all agree no more need be sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Policy, Start
from payoff.search.best_of_n import Chosen
from payoff.search.voting import Answer, answer_keys, elect
from payoff.trajectories import Trajectories, concatenate

GRID = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)  # the paper's, without 0.1 to 0.3, which add nothing to 0


@method("temperature-scaling-tts", kind="sampler", paper="arXiv:2510.02611")
def at_temperatures(
    policy: Policy, starts: Sequence[Start], n: int, rng: torch.Generator, *, temperatures: Sequence[float] = GRID
) -> Trajectories:
    """n rollouts of every start, shared out over several temperatures, in one group; extras["temperature"] says whose each is.

    Temperature 0 always writes the same and gets one rollout; the others share the rest evenly, the first ones of the list getting
    what does not divide. Compare with one temperature at the same n: the union of equal parts is no smaller than any of its parts,
    and may well be smaller than n rollouts at the best temperature.

    The policy must have a number `temperature`, as language models do; it is set for each part and put back. logp["old"] is what
    the policy says at the temperature it acted at (of a language model at 0: at temperature 1), so a loss that corrects for who
    acted corrects for this too, and clips more.
    Raises ValueError for a policy without temperature, no temperatures, one twice or below 0, and fewer rollouts than temperatures.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1, max_tokens=3)
    >>> starts = [Start("a", {"prompt": "1+2="}), Start("b", {"prompt": "3-4="})]
    >>> traj = at_temperatures(policy, starts, 4, torch.Generator().manual_seed(0), temperatures=[0.0, 0.5, 1.0])
    >>> traj.extras["temperature"].tolist(), policy.temperature
    ([0.0, 0.5, 0.5, 1.0, 0.0, 0.5, 0.5, 1.0], 1.0)
    """
    parts, group = [], None
    for temperature, count in zip(temperatures, shares(n, temperatures), strict=True):
        part = _rolled(policy, starts, temperature, count, rng)
        group = part.group[::count] if group is None else group
        parts.append(part.replace(group=group.repeat_interleave(count)))
    start = [torch.arange(len(part), device=part.device) // (len(part) // max(len(starts), 1)) for part in parts]
    return concatenate(parts).select(torch.cat(start).argsort(stable=True))


class Agreed(NamedTuple):
    """What was answered, and what it took.

    chosen: one row of `traj` for every start, in their order; score is its answer's share of the votes
    traj:   everything that was sampled; a start's rollouts are a group; extras["temperature"]
    used:   [starts] rollouts that each start took
    early:  [starts] whether the temperatures agreed before n were spent
    """

    chosen: Chosen
    traj: Trajectories
    used: Int[Tensor, " B"]
    early: Bool[Tensor, " B"]


@method("temperature-vote", kind="search", paper="arXiv:2510.02611")
def vote_until_agreed(
    policy: Policy,
    starts: Sequence[Start],
    n: int,
    rng: torch.Generator,
    *,
    answer: Answer = "answer",
    temperatures: Sequence[float] = GRID,
    every: int = 4,
    within: float = 0.75,
    across: float = 0.75,
) -> Agreed:
    """Vote over several temperatures in rounds, and stop early on starts that all temperatures answer alike.

    Each round draws up to `every` rollouts of the open starts at every temperature, until a start has its n as in
    `at_temperatures`. A temperature takes an answer that more than a share `within` of its rollouts give; a start is closed when
    more than a share `across` of all temperatures take the same one, which is then its answer. What is still open in the end is
    put to the vote of all its rollouts (`majority`; ties go to what was sampled first).

    Rollouts without an answer count among those of their temperature. The two stages are the paper's; round and thresholds were
    not to be had and are ours. Votes verify nothing: a start that all temperatures get wrong in the same way is closed early too.
    Raises ValueError for every < 1, thresholds outside [0.5, 1), and as `at_temperatures` and `majority` do.

    >>> from payoff.policies.embedded import transformer
    >>> policy, says = transformer(width=8, layers=1, heads=1, max_tokens=3), lambda item: len(item["prompt"])
    >>> found = vote_until_agreed(policy, [Start("a", {"prompt": "1+2="})], 40, torch.Generator().manual_seed(0), answer=says)
    >>> found.used.tolist(), found.early.tolist(), found.chosen.score.tolist()
    ([37], [True], [1.0])
    """
    if every < 1 or not 0.5 <= within < 1 or not 0.5 <= across < 1:
        raise ValueError(
            f"vote_until_agreed: every must be at least 1, within and across in [0.5, 1), got {every}, {within} and {across}"
        )
    left = shares(n, temperatures)
    open_ = list(range(len(starts)))
    parts: list[Trajectories] = []
    owners: list[Tensor] = []
    while True:
        for i, temperature in enumerate(temperatures):
            count = min(every, left[i])
            left[i] -= count
            if count:
                parts.append(_rolled(policy, [starts[k] for k in open_], temperature, count, rng))
                owners.append(torch.tensor(open_, device=parts[-1].device).repeat_interleave(count))
        start = torch.cat(owners)
        traj = concatenate(parts)
        traj = traj.replace(group=traj.group[: len(owners[0])][:: len(owners[0]) // len(starts)][start])
        key, has = answer_keys(traj, answer)
        settled = _taken(key, has, start, traj.extras["temperature"], temperatures, within, across)
        closed = torch.zeros(len(starts), dtype=torch.bool, device=traj.device)
        closed[start[settled]] = True
        open_ = (~closed).nonzero()[:, 0].tolist()
        if not any(left) or not open_:
            break
    used = torch.bincount(start, minlength=len(starts))
    one = torch.ones(len(traj), dtype=torch.float64, device=traj.device)
    return Agreed(elect(one, has, key, traj, among=settled | ~closed[start]), traj, used, used < n)


def shares(n: int, temperatures: Sequence[float]) -> list[int]:
    """How many of n rollouts each temperature gets: one at 0 (all where there is no other), the rest evenly among the others.

    >>> shares(8, [0.0, 0.5, 1.0]), shares(3, [0.0])
    ([1, 4, 3], [3])
    """
    if not temperatures or len(set(temperatures)) < len(temperatures) or not all(0 <= t < float("inf") for t in temperatures):
        raise ValueError(f"temperatures: need different finite numbers of at least 0, got {list(temperatures)}")
    if n < len(temperatures):
        raise ValueError(f"temperatures: {n} rollouts are too few for {len(temperatures)} temperatures")
    if set(temperatures) == {0}:
        return [n]
    warm = [t for t in temperatures if t]
    each, more = divmod(n - (len(temperatures) - len(warm)), len(warm))
    return [each + (warm.index(t) < more) if t else 1 for t in temperatures]


def _rolled(policy: Policy, starts: Sequence[Start], temperature: float, n: int, rng: torch.Generator) -> Trajectories:
    """n rollouts of every start at a temperature, rows in the order of the starts."""
    with _heated(policy, temperature):
        part = policy.rollout(starts, n, rng)
    if len(part) != n * len(starts) or not (part.group.reshape(-1, n) == part.group[::n, None]).all():
        raise ValueError("temperatures: the policy must give the rollouts of a start together, in the order of the starts")
    return part.replace(extras={"temperature": torch.full((len(part),), float(temperature), device=part.device)})


@contextmanager
def _heated(policy: Policy, temperature: float) -> Iterator[None]:
    """The policy at this temperature, and afterwards as it was."""
    if not hasattr(policy, "temperature"):
        raise ValueError("temperatures: this policy has no `temperature` that could be set")
    held = cast(Any, policy)
    before, held.temperature = held.temperature, temperature
    try:
        yield
    finally:
        held.temperature = before


def _taken(
    key: Int[Tensor, " N"],
    has: Bool[Tensor, " N"],
    start: Int[Tensor, " N"],
    temperature: Float[Tensor, " N"],
    temperatures: Sequence[float],
    within: float,
    across: float,
) -> Bool[Tensor, " N"]:
    """The rows whose answer enough temperatures take. A start has at most one such, as both thresholds are at least a half."""
    grid = torch.tensor(list(temperatures), dtype=temperature.dtype, device=key.device)
    column = (temperature[:, None] == grid).int().argmax(1)
    width, answers, starts = len(grid), int(key.max()) + 1, int(start.max()) + 1
    given = torch.bincount((key * width + column)[has], minlength=answers * width).view(answers, width)
    drawn = torch.bincount(start * width + column, minlength=starts * width).view(starts, width)
    whose = torch.zeros(answers, dtype=torch.int64, device=key.device).scatter(0, key, start)
    takes = given > within * drawn[whose]
    return has & (takes.sum(1) > across * width)[key]
