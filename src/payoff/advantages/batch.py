"""Advantages made comparable over the whole batch: REINFORCE++, whitening, standardising rollouts, root mean square."""

from __future__ import annotations

import dataclasses

from payoff.advantages.normalise import Convention, resolve, standardise
from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories

# Normalisation over the actions of the batch; `single` says what a group of one gets where a group baseline comes first.
CONVENTIONS = {
    "openrlhf": Convention(eps=1e-8, eps_where="floor"),
    "nemo-rl": Convention(eps=1e-8, eps_where="floor"),
    "verl": Convention(ddof=1, eps=1e-8, eps_where="inside", single="raw"),
}


@method("reinforce-plus-plus", kind="advantage", paper="arXiv:2501.03262", sees="batch")
def reinforce_plus_plus(channel: Channel, traj: Trajectories, *, convention: str | Convention = "openrlhf") -> Channel:
    """Standardise every action's credit over all actions of the batch (REINFORCE++): no group is needed.

    A_t = (C_t - mean C) / std C over every known action that was sampled. Long rollouts weigh by their length.
    The paper's C is the return-to-go of reward minus KL penalty.

    convention: "openrlhf" (the authors': divisor n, variance at least 1e-8), "nemo-rl" (the same), "verl" (divisor n - 1,
    variance + 1e-8), or a `Convention`. A batch of equal credits, or of one action, gets exactly 0.
    Raises ValueError for an unknown convention.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [-1.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> reinforce_plus_plus(credit, four_answers()).value.T
    tensor([[ 1.2247,  0.0000, -1.2247,  0.0000]])
    """
    chosen = dataclasses.replace(resolve("reinforce_plus_plus", convention, CONVENTIONS), single="zero")
    return _standardise_actions(channel, traj, chosen)


@method("reinforce-plus-plus-baseline", kind="advantage", paper="arXiv:2501.03262", sees="batch")
def reinforce_plus_plus_baseline(channel: Channel, traj: Trajectories, *, convention: str | Convention = "openrlhf") -> Channel:
    """Take out each group's mean, then standardise over all actions of the batch (REINFORCE++-baseline).

    B_t = C_t - mean_group C, A_t = (B_t - mean B) / std B over every known action that was sampled.
    The mean over actions is not 0 where lengths differ, so a group of equal rewards gets the same small number throughout, not
    0; that is the method. A batch all of whose groups are equal gets exactly 0.

    convention: as for `reinforce_plus_plus`; a group of one has B = 0, but under "verl" its own reward, as there.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.7], [0.7]]), torch.ones(4, 1, dtype=torch.bool))
    >>> reinforce_plus_plus_baseline(credit, four_answers()).value.T
    tensor([[ 1.2060, -1.5076, -0.1508, -0.1508]])
    """
    chosen = resolve("reinforce_plus_plus_baseline", convention, CONVENTIONS)
    centred = standardise(channel, traj, over="group", baseline="mean", scale="none", single=chosen.single)
    return _standardise_actions(centred, traj, dataclasses.replace(chosen, single="zero"))


@method("whiten", kind="advantage", sees="batch")
def whiten(channel: Channel, traj: Trajectories, *, ddof: int = 1, eps: float = 1e-8) -> Channel:
    """Give the actions of the batch mean 0 and variance 1, as PPO trainers do after GAE (verl's masked_whiten).

    A_t = (C_t - mean C) / sqrt(var C + eps) over every known action that was sampled.
    Equal credits, or a single action, get exactly 0.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [-1.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> whiten(credit, four_answers()).value.T
    tensor([[ 1.1547,  0.0000, -1.1547,  0.0000]])
    """
    return _standardise_actions(channel, traj, Convention(ddof=ddof, eps=eps, eps_where="inside"))


@method("batch-standardise", kind="advantage", sees="batch")
def batch_standardise(channel: Channel, traj: Trajectories, *, ddof: int = 1, eps: float = 1e-4) -> Channel:
    """Give the rollouts of the batch mean 0 and standard deviation 1, each counted once whatever its length.

    A = (C - mean C) / (std C + eps), with C the rollout's credit at its first action; after `leave_one_out` this is TRL's RLOO with
    normalize_advantages. Equal numbers, or a batch of one, get exactly 0.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> batch_standardise(credit, four_answers(), ddof=0, eps=0.0).value.T
    tensor([[ 1.,  1., -1., -1.]])
    """
    return standardise(channel, traj, over="batch", baseline="mean", scale="std", ddof=ddof, eps=eps)


@method("lite-ppo", kind="advantage", paper="arXiv:2508.08221", sees="batch")
def group_mean_batch_std(channel: Channel, traj: Trajectories, *, ddof: int = 1, eps: float = 1e-4) -> Channel:
    """Compare a rollout with the mean of its group, in standard deviations of the batch (Lite PPO; TRL's scale_rewards="batch").

    A = (C - mean_group C) / (std_batch C + eps), with C the rollout's credit at its first action: no start gains weight because its
    rollouts differ little. Groups of equal rewards, and of one, get exactly 0.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.5], [0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> group_mean_batch_std(credit, four_answers(), eps=0.0).value.T
    tensor([[ 1.2247, -1.2247,  0.0000,  0.0000]])
    """
    return standardise(channel, traj, over="group", scale_over="batch", ddof=ddof, eps=eps)


@method("rms", kind="advantage", sees="batch")
def rms(channel: Channel, traj: Trajectories) -> Channel:
    """Divide by the root mean square over the actions of the batch, subtracting nothing: signs and zeros stay.

    A_t = C_t / sqrt(mean C^2) over every known action that was sampled. For credits that have their baseline already.
    A batch of zeros stays 0. A batch with hardly any signal is blown up to full size all the same.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[3.0], [-3.0], [3.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> rms(credit, four_answers()).value.T
    tensor([[ 1.0607, -1.0607,  1.0607,  0.0000]])
    """
    return standardise(channel, traj, over="batch", unit="action", baseline="none", scale="rms")


def _standardise_actions(channel: Channel, traj: Trajectories, convention: Convention) -> Channel:
    return standardise(channel, traj, over="batch", unit="action", **dataclasses.asdict(convention))
