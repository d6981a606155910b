"""ROVER: the log-ratio to the policy that acted as a Q function, fitted to the value of acting at random."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories, log_ratio


@method("rover", kind="loss", paper="arXiv:2509.24981", needs=("old", "mean_logp", "old:mean_logp"))
def random_policy_valuation(evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
    """Squared error of Q = log pi - log old against reward plus what a uniform policy would find next (ROVER).

    term_t = (Q_t - y_t)^2, y_t = target_t + U_(t+1), a constant. U at a state is the mean over the whole vocabulary of
    log pi(. | s) - log old(. | s), the value of a uniform policy under Q; 0 after the last own action. The paper's target is the
    outcome minus the group's mean (credit `total`, `mean_baseline`). No ratio, no clip, no critic.

    On policy Q = U = 0 and the gradient is twice that of `policy_gradient` with the same target. In a large vocabulary U is nearly
    0, and the bootstrap nearly absent. The theory behind it, that acting greedily on the uniform policy's values is optimal, needs
    a deterministic tree and rewards of 0 and 1: its Q > 0 exactly where a right leaf can be reached. With more values than two, or
    with chance in the transitions, it fails.

    Reads evaluation.more["mean_logp"] and traj.extras["mean_logp"] [N, T], the mean of log pi(. | s_t) over the vocabulary now and
    when the batch was made. Metrics: error (mean of the terms), bootstrap (mean size of U).
    Raises ValueError without them or without traj.logp["old"].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"mean_logp": torch.full((4, 3), -2.0)})
    >>> target = Channel(torch.tensor([[0.5], [-0.5], [0.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> flatter = Evaluation(traj.logp["old"], {"mean_logp": torch.full((4, 3), -1.5)})
    >>> random_policy_valuation(flatter, traj, target).terms
    tensor([[1.0000, 1.0000, 0.2500],
            [0.0000, 0.2500, 0.0000],
            [0.2500, 0.2500, 0.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    if "old" not in traj.logp:
        raise ValueError('rover: needs traj.logp["old"], the log-probabilities of the policy that acted')
    if "mean_logp" not in evaluation.more or "mean_logp" not in traj.extras:
        raise ValueError('rover: needs evaluation.more["mean_logp"] and traj.extras["mean_logp"], both [N, T]')
    counts = traj.own & target.valid
    q = log_ratio(evaluation.logp, traj.logp["old"], traj)
    shift = torch.where(traj.own, evaluation.more["mean_logp"], 0) - torch.where(traj.own, traj.extras["mean_logp"], 0)
    position = torch.where(traj.own, torch.arange(traj.width, device=traj.device), traj.width)
    after = torch.cat([position[:, 1:], torch.full_like(position[:, :1], traj.width)], 1)
    following = after.flip(1).cummin(1).values.flip(1)  # the next own action after each position
    ahead = torch.cat([shift, torch.zeros_like(shift[:, :1])], 1).gather(1, following).detach()
    terms = torch.where(counts, (q - torch.where(counts, target.value, 0) - ahead).square(), 0)
    size = counts.sum().clamp(min=1)
    error, bootstrap = (float((torch.where(counts, x.detach(), 0)).double().sum() / size) for x in (terms, ahead.abs()))
    return LossOutput(terms, {"error": error, "bootstrap": bootstrap})
