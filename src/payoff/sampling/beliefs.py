"""What is believed of every start's success rate, and how much rollouts of it would teach about that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.pipeline import Start, Task
from payoff.sampling.candidates import best, draw_pool, visits
from payoff.trajectories import Rewards, Trajectories


@method("insight-wmi", kind="curriculum", paper="arXiv:2603.01907")
class WeightedMutualInformation(nn.Module):
    """The starts whose rollouts would teach most about their success rate, weighed towards useful rates (InSight).

    Of `pool` times as many candidates as are wanted, those of the greatest w(m) I are taken. Each start has a belief
    Beta(a, b) about its success rate, mean m = a / (a + b); I = `mutual_information(a, b, rollouts)`; and
    w(m) = m (1 - m) exp(-eta (m - mu)^2). After an update in which K rollouts of a start had a verdict, S of them a success:
    a <- keep a + (1 - keep) a0 + S, b <- keep b + (1 - keep) b0 + K - S.

    by:        the reward channel; an outcome above `threshold` is a success
    pool:      candidates per start that is wanted; 1 chooses nothing
    rollouts:  of a start, as many as the run makes of one
    eta, mu:   how strongly rates near mu are preferred. The paper prints mu = 3, outside of what a rate can be; 0.3 is our reading
    keep:      1: the exact posterior of a rate that stays; less forgets, for a policy that changes
    prior:     (a0, b0), the belief about a start that was never tried

    A start that was solved every time, or never, keeps m inside (0, 1) by the prior, so it may come back as evidence is forgotten
    or others run out. Starts that belong together are chosen one by one. Rollouts without a verdict are no evidence.
    Metrics: insight/pass_rate, of the starts that were tried; insight/error, the mean squared difference between it and what was
    believed before the update; insight/starts, how many starts have ever been tried.

    Raises ValueError for numbers out of range, KeyError for a channel nobody gives.

    >>> from payoff.tasks.tree import Tree
    >>> curriculum = WeightedMutualInformation(pool=4)
    >>> curriculum.beliefs = {"tree-0": (30.0, 1.0), "tree-1": (2.0, 3.0), "tree-2": (1.0, 30.0)}
    >>> [start.id for start in curriculum(Tree(prompts=3), 2, torch.Generator().manual_seed(0))]
    ['tree-1', 'tree-2']
    """

    def __init__(
        self,
        *,
        by: str = "correct",
        threshold: float = 0.5,
        pool: int = 16,
        rollouts: int = 8,
        eta: float = 3.0,
        mu: float = 0.3,
        keep: float = 1.0,
        prior: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        if pool < 1 or rollouts < 1 or eta < 0 or not 0 <= keep <= 1 or not min(prior) > 0:
            raise ValueError(
                "insight-wmi: pool and rollouts must be at least 1, eta at least 0, keep in [0, 1] and prior above 0, "
                f"got {pool}, {rollouts}, {eta}, {keep} and {prior}"
            )
        self.by, self.threshold, self.pool, self.rollouts = by, threshold, pool, rollouts
        self.eta, self.mu, self.keep, self.prior = eta, mu, keep, prior
        self.beliefs: dict[str, tuple[float, float]] = {}

    def forward(self, task: Task, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts, the most instructive first; all candidates alike where only as many were drawn."""
        starts = draw_pool(task, n, self.pool, rng)
        if self.pool == 1:
            return starts
        a, b = self._belief([start.id for start in starts]).T
        return best(starts, self.worth(a, b), n)

    def worth(self, a: Float[Tensor, " M"], b: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        """w(m) I of these beliefs."""
        mean = a / (a + b)
        weight = mean * (1 - mean) * (-self.eta * (mean - self.mu).square()).exp()
        return weight * mutual_information(a, b, self.rollouts)

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """Update the beliefs about the starts of these rollouts."""
        found = visits("insight-wmi", traj, rewards, self.by, threshold=self.threshold)
        before = self._belief(found.ids)
        after = self.keep * before + (1 - self.keep) * torch.tensor(self.prior, dtype=torch.float64)
        after += torch.stack([found.total, found.known - found.total], 1)
        tried = found.known > 0
        for id, (a, b), some in zip(found.ids, after.tolist(), tried.tolist(), strict=True):
            if some:
                self.beliefs[id] = (a, b)
        if not tried.any():
            return {"insight/pass_rate": None, "insight/error": None, "insight/starts": float(len(self.beliefs))}
        rate = found.total[tried] / found.known[tried]
        expected = (before[:, 0] / before.sum(1))[tried]
        return {
            "insight/pass_rate": float(rate.mean()),
            "insight/error": float((rate - expected).square().mean()),
            "insight/starts": float(len(self.beliefs)),
        }

    def get_extra_state(self) -> dict[str, Any]:
        """All beliefs."""
        return {"ids": list(self.beliefs), "beliefs": self._belief(list(self.beliefs))}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.beliefs = {id: (a, b) for id, (a, b) in zip(state["ids"], state["beliefs"].tolist(), strict=True)}

    def _belief(self, ids: Sequence[str]) -> Float[Tensor, "M 2"]:
        return torch.tensor([self.beliefs.get(id, self.prior) for id in ids], dtype=torch.float64).reshape(-1, 2)


def mutual_information(a: Float[Tensor, " M"], b: Float[Tensor, " M"], rollouts: int) -> Float[Tensor, " M"]:
    """How much `rollouts` outcomes tell about a success rate believed to be Beta(a, b), in nats (InSight, eq. of I).

    I = H(a, b) - sum_s P(s) H(a + s, b + K - s), with H the differential entropy and P(s) = C(K, s) B(a + s, b + K - s) / B(a, b)
    the chance of s successes in K = `rollouts`. At least 0; the same for (b, a); grows with K; about 1 / (2 (a + b + 1)) for K = 1
    and much evidence. Computed in float64.
    Raises ValueError for negative rollouts, or a or b not above 0.

    >>> mutual_information(torch.tensor([1.0, 10.0, 100.0]), torch.tensor([1.0, 10.0, 100.0]), 1)
    tensor([0.1931, 0.0244, 0.0025])
    """
    if rollouts < 0 or not bool(((a > 0) & (b > 0)).all()):
        raise ValueError(f"mutual_information: rollouts must be at least 0, a and b above 0, got {rollouts}, {a} and {b}")
    x, y = a.double()[:, None], b.double()[:, None]
    won = torch.arange(rollouts + 1, dtype=torch.float64, device=x.device)
    ways = torch.lgamma(won.new_tensor(rollouts + 1.0)) - torch.lgamma(won + 1) - torch.lgamma(rollouts - won + 1)
    chance = (ways + _log_beta(x + won, y + rollouts - won) - _log_beta(x, y)).exp()
    after = (chance * _beta_entropy(x + won, y + rollouts - won)).sum(1)
    return (_beta_entropy(x, y)[:, 0] - after).clamp(min=0).to(a.dtype)


def _beta_entropy(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The differential entropy of Beta(a, b), in nats."""
    psi = torch.special.digamma
    return _log_beta(a, b) - (a - 1) * psi(a) - (b - 1) * psi(b) + (a + b - 2) * psi(a + b)


def _log_beta(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
