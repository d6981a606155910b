"""Weights of rewards that follow their gradients: what helps the others too gets more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.pipeline import weighted_sum
from payoff.sets import sets, statistics
from payoff.trajectories import Channel, Rewards, Trajectories, outcome


def influence(gradients: Float[Tensor, "K D"]) -> Float[Tensor, " K"]:
    """I_k = sum_j <g_k, g_j>: how much one step along the gradient of k raises all objectives together, to first order.

    k's own square is among the summands, so of two objectives that do not touch each other the one with the larger gradient leads.
    Gradients that cancel out have none. In float64, whatever comes in.

    >>> influence(torch.tensor([[1.0, 0.0], [1.0, 1.0]])).tolist()
    [2.0, 3.0]
    """
    g = gradients.double()
    return g @ g.sum(0)


def gradient_weights(
    weights: Float[Tensor, " K"], influences: Float[Tensor, " K"], *, rate: float, floor: float = 0.0
) -> Float[Tensor, " K"]:
    """w_k exp(rate I_k) / sum_j w_j exp(rate I_j): multiplicative weights on the simplex (gradient-based weight optimisation).

    rate:  the policy's learning rate over the regularisation mu, in 1 / units of I
    floor: no weight below it: floor + (1 - K floor) times the above. Without one a weight that falls steadily is gone for good

    Equal influences change nothing. Raises ValueError for weights that are not positive, and a floor outside [0, 1/K].

    >>> [round(x, 6) for x in gradient_weights(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0]), rate=1.0).tolist()]
    [0.268941, 0.731059]
    """
    if not bool((weights > 0).all()):
        raise ValueError(f"gradient_weights: weights must be > 0, got {weights.tolist()}")
    if not 0 <= floor * len(weights) <= 1:
        raise ValueError(f"gradient_weights: floor must lie in 0..1/{len(weights)}, got {floor}")
    new = (weights.double().log() + rate * influences.double()).softmax(0)
    return (floor + (1 - len(weights) * floor) * new).to(weights.dtype)


def objective_gradients(
    policy: Any, traj: Trajectories, rewards: Rewards, *, parameters: str = "", microbatch: int = 0
) -> Float[Tensor, "K D"]:
    """The policy gradient of each reward alone, at the policy as it is: g_k = 1/N_k sum_i A_ki sum_t grad log pi(a_it).

    A_ki is the outcome of reward k less the mean of the other members of its group (leave-one-out: unbiased; undivided, so that the
    length of g_k says how much there is to learn), N_k how many outcomes are known; rollouts without one take no part in g_k.

    policy:     any `Policy`; it must be the one that acted, or the gradient is that of other rollouts
    parameters: a regular expression found in the names of the parameters to look at, "layers[.](8|9)[.]"; "": all that are trained
    microbatch: rollouts in one forward pass (0: all); gradients are added up, so that only memory depends on it

    Memory: K times the parameters. Groups of one give 0. Raises ValueError where no trained parameter matches.

    >>> from payoff.examples import four_answers
    >>> from payoff.catalogue import find
    >>> from payoff.trajectories import place_outcome
    >>> traj, known = four_answers(), torch.ones(4, dtype=torch.bool)
    >>> rewards = {"right": place_outcome(torch.tensor([1.0, 0.0, 1.0, 1.0]), known, traj)}
    >>> objective_gradients(find("tabular")(3, 3), traj, rewards).norm() > 0
    tensor(True)
    """
    trained = [p for name, p in policy.named_parameters() if p.requires_grad and re.search(parameters, name)]
    if not trained:
        raise ValueError(f"objective_gradients: no trained parameter's name matches {parameters!r}")
    advantages = []
    for channel in rewards.values():
        total, known = outcome(channel, traj)
        others = statistics(total, sets(traj, "group")[:, 0], known).others_mean
        advantages.append(torch.where(known, total.double() - others, 0) / known.sum().clamp(min=1))
    advantage = torch.stack(advantages)  # [K, N]
    gradients = [torch.zeros(p.numel(), dtype=torch.float64, device=p.device) for _ in rewards for p in trained]
    for rows in torch.arange(len(traj), device=traj.device).split(microbatch or max(len(traj), 1)):
        part = traj.select(rows)
        with torch.enable_grad():
            logp = torch.where(part.own, policy.evaluate(part).logp, 0).sum(1)
            for k, weight in enumerate(advantage[:, rows]):
                last = k + 1 == len(rewards)
                found = torch.autograd.grad(logp @ weight.to(logp.dtype), trained, retain_graph=not last, allow_unused=True)
                for p, g in enumerate(found):
                    if g is not None:
                        gradients[k * len(trained) + p] += g.flatten().double()
    return torch.stack([torch.cat(gradients[k * len(trained) : (k + 1) * len(trained)]) for k in range(len(rewards))])


@method("dynamic-reward-weighting", kind="mixing", paper="arXiv:2509.11452", sees="group")
class GradientMixing(nn.Module):
    """Mix rewards by weights on the simplex that grow with what each reward's gradient does for all (gradient-based weights).

    mixed = sum_k w_k R_k, and with g_k the policy gradient of reward k alone (`objective_gradients`), I_k = sum_j <g_k, g_j>
    averaged over `every` updates: w <- softmax(log w + rate I). Rewards are mixed before any advantage: let paths pay ([total]),
    and put the advantage into `then`.

    trained:    the policy that is being trained, itself and no copy of it: the gradient is needed where the policy is
    weights:    reward -> its weight at the start, > 0; scaled to add up to 1
    rate:       the policy's learning rate over the paper's mu. every: the paper's M. floor: no weight falls below it (paper: 0)
    parameters, microbatch: of `objective_gradients`; the paper takes the middle third of the layers
    missing:    as of `weigh`

    `learn` runs before the update's own rewards are mixed, as in the paper's code, so the weights have seen the batch they weigh:
    with `every` = 1 and few rollouts a reward that was lucky weighs more. The squares <g_k, g_k> carry the noise of small batches
    too: their mean is |g_k|^2 plus the variance, so a noisy reward gains weight it did not earn. Larger gradients win either way:
    put rewards on one scale first.

    Raises ValueError for no weights or weights not above 0, rate < 0, every < 1, a floor outside [0, 1/K], and ends of other
    rewards; KeyError in `learn` for a reward that no signal gives.

    >>> from payoff.examples import four_answers
    >>> from payoff.catalogue import find
    >>> mixing = GradientMixing(find("tabular")(3, 3), {"right": 3.0, "short": 1.0}, rate=0.1)
    >>> mixing.weights
    {'right': 0.75, 'short': 0.25}
    """

    learns_first = True
    weight: Tensor
    gathered: Tensor
    updates: Int[Tensor, ""]

    def __init__(
        self,
        trained: Any,
        weights: Mapping[str, float],
        *,
        rate: float = 1.0,
        every: int = 1,
        floor: float = 0.0,
        parameters: str = "",
        microbatch: int = 0,
        missing: Literal["drop", "skip"] = "drop",
    ) -> None:
        super().__init__()
        if not weights or min(weights.values()) <= 0:
            raise ValueError(f"dynamic-reward-weighting: weights must name rewards and be > 0, got {dict(weights)}")
        if not rate >= 0 or every < 1:
            raise ValueError(f"dynamic-reward-weighting: needs rate >= 0 and every >= 1, got {rate} and {every}")
        if not 0 <= floor * len(weights) <= 1:
            raise ValueError(f"dynamic-reward-weighting: floor must lie in 0..1/{len(weights)}, got {floor}")
        self._trained = (trained,)  # in a tuple: the policy is no part of this module, and is saved and moved by its owner
        self.names, self.rate, self.every, self.floor = list(weights), rate, every, floor
        self.parameters_matching, self.microbatch, self.missing = parameters, microbatch, missing
        first = torch.tensor(list(weights.values()), dtype=torch.float64)
        self.register_buffer("weight", first / first.sum())
        self.register_buffer("gathered", torch.zeros_like(first))
        self.register_buffer("updates", torch.tensor(0))

    @property
    def weights(self) -> dict[str, float]:
        """The weights as they are now; they add up to 1."""
        return dict(zip(self.names, self.weight.tolist(), strict=True))

    def forward(self, ends: Rewards, traj: Trajectories) -> Channel:
        """The weighted sum of the ends of all paths."""
        if set(ends) != set(self.names):
            odd = sorted(set(ends) ^ set(self.names))
            raise ValueError(f"dynamic-reward-weighting: weights and paths must name the same channels; odd: {odd}")
        return weighted_sum(ends, self.weights, missing=self.missing)

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """Gather the influences of this batch, and move the weights where `every` batches have come together."""
        if lost := [name for name in self.names if name not in rewards]:
            raise KeyError(f"dynamic-reward-weighting: no reward channel {lost[0]!r}; there are {sorted(rewards)}")
        own = {name: rewards[name] for name in self.names}
        gradients = objective_gradients(
            self._trained[0], traj, own, parameters=self.parameters_matching, microbatch=self.microbatch
        )
        found = influence(gradients).to(self.weight.device)
        self.gathered += found
        self.updates += 1
        if int(self.updates) % self.every == 0:
            self.weight.copy_(gradient_weights(self.weight, self.gathered / self.every, rate=self.rate, floor=self.floor))
            self.gathered.zero_()
        metrics: dict[str, float | None] = {f"weight/{name}": w for name, w in self.weights.items()}
        return {**metrics, **{f"influence/{name}": x for name, x in zip(self.names, found.tolist(), strict=True)}}
