"""Baselines that are not a statistic of the same numbers: a critic, a running mean, rates per action and per step."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from payoff.advantages.actions import known_positions
from payoff.advantages.arrays import centred, clean
from payoff.advantages.stretches import Stretches, stretches
from payoff.catalogue import method
from payoff.sets import sets, statistics
from payoff.trajectories import Channel, Trajectories, at_start, outcome


@method("subtract-values", kind="advantage", paper="arXiv:1506.02438", needs=("values",))
def subtract_values(channel: Channel, traj: Trajectories) -> Channel:
    """Subtract what a critic expected in the state the action was chosen in; after `lambda_return` this is GAE (eq. 16).

    A_t = C_t - V_t with V = extras["values"] [N, T+1], read where the trajectory exists.

    [N, T]; unknown credit stays unknown. Raises ValueError without such values.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"values": torch.full((4, 4), 0.25)})
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.5], [0.25]]), torch.ones(4, 1, dtype=torch.bool))
    >>> subtract_values(credit, traj).value
    tensor([[ 0.7500,  0.7500,  0.7500],
            [-0.2500, -0.2500,  0.0000],
            [ 0.2500,  0.2500,  0.2500],
            [ 0.0000,  0.0000,  0.0000]])
    """
    values = traj.extras.get("values")
    if values is None or values.shape != (len(traj), traj.width + 1):
        found = "none" if values is None else f"shape {list(values.shape)}"
        raise ValueError(
            f"subtract_values: needs extras['values'] of shape [N, T+1] = [{len(traj)}, {traj.width + 1}], found {found}; "
            "a policy with a critic gives them"
        )
    advantage = centred(channel.value, values[:, :-1].to(channel.value.dtype), known_positions(channel, traj))
    return Channel(advantage, channel.valid, channel.reasons)


@method("running-mean", kind="advantage", paper="doi:10.1007/BF00992696", sees="batch")
class RunningMeanBaseline(nn.Module):
    """Subtract an exponential moving average of the rollouts' credits in earlier batches (REINFORCE with a baseline).

    A_t = C_t - m / w, where after every batch in training mode m <- decay m + (1 - decay) mean C, w <- decay w + (1 - decay);
    C counts each rollout by its credit at its first action, and m / w weighs the batches seen so far to a sum of one. The
    baseline is fixed before the batch is sampled, so the gradient is unbiased, for groups of one too.

    The first batch has the baseline `initial`. A batch of which nothing is known changes nothing. In evaluation mode the average
    stands still. m and w are buffers: checkpoints carry them. Raises ValueError for a decay outside 0 <= decay < 1.

    >>> from payoff.examples import four_answers
    >>> baseline = RunningMeanBaseline()
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.5], [0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> baseline(credit, four_answers()).value.T
    tensor([[1.0000, 0.0000, 0.5000, 0.5000]])
    >>> baseline(credit, four_answers()).value.T
    tensor([[ 0.5000, -0.5000,  0.0000,  0.0000]])
    """

    mean: Tensor
    weight: Tensor

    def __init__(self, *, decay: float = 0.95, initial: float = 0.0) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"RunningMeanBaseline: decay must lie in 0 <= decay < 1, got {decay}")
        self.decay = decay
        self.initial = initial
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))

    def forward(self, channel: Channel, traj: Trajectories) -> Channel:
        baseline = torch.where(self.weight > 0, self.mean / self.weight.clamp(min=1e-300), self.initial)
        if self.training:
            self._update(*at_start(channel, traj))
        value = channel.value - baseline.to(channel.value.dtype)
        here = channel.valid if value.shape[1] == 1 else channel.valid & traj.exists
        return Channel(torch.where(here, value, 0), channel.valid, channel.reasons)

    @torch.no_grad()
    def _update(self, number: Float[Tensor, " N"], known: Tensor) -> None:
        if known.any():
            self.mean.lerp_(number[known].double().mean(), 1 - self.decay)
            self.weight.lerp_(torch.ones_like(self.weight), 1 - self.decay)


@method("token-rate-baseline", kind="advantage", paper="arXiv:2504.15275", sees="group")
def token_rate_baseline(channel: Channel, traj: Trajectories) -> Channel:
    """Charge every step for its actions at the rate the other rollouts of the group are paid per action (PURE, "token").

    b_i = sum_{others} (all that is paid) / sum_{others} (actions); b_i times the actions of a step is subtracted at its end.
    A transform of payments: put it before `return_to_go`.

    With varying lengths this also changes the objective, to E[payments - b length]: extra actions are refunded while the rate is
    negative. Other rollouts count when all that is paid in them is known. A rollout with no such other gets 0 throughout.

    >>> from payoff.examples import four_answers
    >>> paid = Channel(torch.tensor([[0.0, 1.0, 2.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> token_rate_baseline(paid, four_answers()).value
    tensor([[-0.5000,  0.5000,  1.5000],
            [-1.0000,  0.0000,  0.0000],
            [ 0.0000,  1.0000,  2.0000],
            [-1.0000,  0.0000,  0.0000]])
    """
    parts = stretches(traj)
    actions = parts.by_step(parts.size.to(channel.value.dtype), parts.own)
    paid, known = outcome(channel, traj)
    earned, compared = _mean_of_others(paid, known, traj)
    spent, _ = _mean_of_others(actions.sum(1), known, traj)
    rate = torch.where(spent > 0, earned / spent.clamp(min=1e-300), 0)
    return _charged(channel, traj, parts, rate[:, None] * actions, compared)


@method("step-rate-baseline", kind="advantage", paper="arXiv:2504.15275", sees="group")
def step_rate_baseline(channel: Channel, traj: Trajectories) -> Channel:
    """Charge every step what the other rollouts of the group are paid per step, on average over rollouts (PURE, "step").

    b_i = mean_{others} (all that is paid / number of steps), subtracted at the end of every step that the policy acts in, which
    are also the steps that are counted. A transform of payments: put it before `return_to_go`.

    With varying numbers of steps this changes the objective as `token_rate_baseline` does. Other rollouts count when all that is
    paid in them is known and they have a step. A rollout with no such other gets 0 throughout.

    >>> from payoff.examples import four_answers
    >>> paid = Channel(torch.tensor([[0.0, 1.0, 2.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> step_rate_baseline(paid, four_answers()).value
    tensor([[-0.5000,  0.5000,  1.5000],
            [-1.0000,  0.0000,  0.0000],
            [ 0.0000,  1.0000,  2.0000],
            [-1.0000,  0.0000,  0.0000]])
    """
    parts = stretches(traj)
    acted = (parts.by_step(parts.size, parts.own) > 0).to(channel.value.dtype)
    paid, known = outcome(channel, traj)
    steps = acted.sum(1)
    rate, compared = _mean_of_others(paid / steps.clamp(min=1), known & (steps > 0), traj)
    return _charged(channel, traj, parts, rate[:, None] * acted, compared)


def _mean_of_others(x: Float[Tensor, " N"], known: Tensor, traj: Trajectories) -> tuple[Float[Tensor, " N"], Tensor]:
    """The mean over the other known rollouts of the group, float64, and whether there are any."""
    found = statistics(x, sets(traj, "group")[:, 0], known)
    return found.others_mean, found.count - known.double() > 0


def _charged(
    channel: Channel, traj: Trajectories, parts: Stretches, charge: Float[Tensor, "N S"], compared: Bool[Tensor, " N"]
) -> Channel:
    """What is paid, less each step's charge at its last position; 0 where there was nothing to compare with."""
    here = known_positions(channel, traj)
    if not compared.all():
        here = here & compared[:, None]
    last = parts.last_positions().clamp(min=0)
    due = torch.where(here.gather(1, last), charge, 0).to(channel.value.dtype)
    paid = clean(channel.value.expand(here.shape), here)
    return Channel(paid.scatter_add_(1, last, -due), channel.valid, channel.reasons)
