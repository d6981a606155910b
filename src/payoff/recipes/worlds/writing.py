"""A policy that writes texts choice after choice, as a table over everything that can be written.

A language has places, each with so many choices; a recipe says what text a row of choices stands for. So the real graders judge
real programs, queries and calls, while the policy can still be looked at exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Start
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, Trajectories, outcome

Choices = tuple[int, ...]


def writer(
    places: Sequence[int],
    prompts: int,
    *,
    seed: int,
    spread: float = 0.5,
    lean: Callable[[int, Choices], Sequence[float]] | None = None,
) -> Tabular:
    """A policy with a table for each prompt, whose logits are normal with standard deviation `spread`; one turn is all places.

    lean: added to the logits of the choices that may follow (prompt, choices so far): what the policy knows before training

    >>> policy = writer((2, 3), 1, seed=0, spread=0.0)
    >>> [round(p, 3) for p in policy.probabilities().tolist()]  # no third choice at the first place
    [0.167, 0.167, 0.167, 0.167, 0.167, 0.167, 0.0, 0.0, 0.0]
    """
    most = max(places)
    before = [row for depth in range(len(places)) for row in product(range(most), repeat=depth)]
    logits = spread * torch.randn(prompts, len(before), most, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for row, choices in enumerate(before):
        logits[:, row, places[len(choices)] :] = -torch.inf
        if lean is not None and all(choice < count for choice, count in zip(choices, places)):
            for prompt in range(prompts):
                added = torch.tensor(lean(prompt, choices), dtype=torch.float64)
                logits[prompt, row, : len(added)] += added
    return Tabular(most, len(places), starts=prompts, logits=logits, step_length=len(places))


def write(policy: Tabular, rollouts: int, rng: torch.Generator, say: Callable[[int, Choices], Mapping[str, Any]]) -> Trajectories:
    """So many texts for every prompt, one group each; `say(prompt, choices)` gives the fields of an item, its response first.

    >>> policy = writer((2, 3), 2, seed=0)
    >>> texts = write(policy, 4, torch.Generator().manual_seed(0), lambda prompt, choices: {"response": f"{prompt}: {choices}"})
    >>> len(texts), texts.items[7]["response"][:3]
    (8, '1: ')
    """
    starts = [Start(str(prompt), {"table": prompt}) for prompt in range(len(policy.logits))]
    traj = policy.rollout(starts, rollouts, rng)
    rows = zip(traj.items, traj.actions.tolist(), strict=True)
    return traj.replace(items=[{**item, **say(item["table"], tuple(choices))} for item, choices in rows])


def climb(policy: Tabular, optimiser: torch.optim.Optimizer, texts: Trajectories, advantage: Channel) -> None:
    """One step of the policy gradient on texts that this very policy wrote."""
    optimiser.zero_grad()
    policy_gradient(policy.evaluate(texts), texts, advantage).terms.sum(1).mean().backward()
    optimiser.step()


def judged(channel: Channel, texts: Trajectories) -> Tensor:
    """The outcomes [N] as float64, all of them known; RuntimeError with the reason where a grader could not judge."""
    value, sure = outcome(channel, texts)
    if not bool(sure.all()):
        raise RuntimeError(next(iter(channel.reasons.values()), "no verdict"))
    return value.double()


@lru_cache(maxsize=16)
def writable(places: Choices) -> tuple[list[Choices], Tensor]:
    """Every row of choices, and its number among the policy's sequences.

    >>> writable((2, 3))[0][:2], writable((2, 3))[1].tolist()
    ([(0, 0), (0, 1)], [0, 1, 2, 3, 4, 5])
    """
    rows = list(product(*map(range, places)))
    weight = torch.tensor([max(places) ** k for k in reversed(range(len(places)))])
    return rows, (torch.tensor(rows) * weight).sum(1)


def mean_worth(policy: Tabular, places: Choices, worth: Callable[[int, Choices], float]) -> list[float]:
    """The exact mean of `worth(prompt, choices)` under the policy, for each prompt.

    >>> policy = writer((2, 2), 1, seed=0, spread=0.0)
    >>> mean_worth(policy, (2, 2), lambda prompt, choices: float(choices == (1, 1)))
    [0.25]
    """
    rows, number = writable(places)
    return [
        float(policy.probabilities(prompt).detach()[number] @ torch.tensor([worth(prompt, row) for row in rows]).double())
        for prompt in range(len(policy.logits))
    ]
