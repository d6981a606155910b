"""How sure a policy is of its own answer, told by how far its choices are from even odds."""

from __future__ import annotations

import math

import torch

from payoff.catalogue import method
from payoff.trajectories import Rewards, Trajectories, place_outcome


@method("self-certainty", kind="signal", paper="arXiv:2502.18581", needs=("mean_logp",))
def self_certainty(traj: Trajectories, *, vocabulary: int | None = None) -> Rewards:
    """The mean over a response's own actions of KL(uniform || pi(. | s_t)), paid at the end as the channel "self-certainty".

    C = mean_t [- (1/V) sum_j log pi(j | s_t) - log V]; 0 where every choice is even, without bound as choices get sure.
    vocabulary: V; None: log V is not subtracted, which moves all numbers of one policy alike and leaves every order as it is.

    It is no entropy: what it looks at is how improbable the improbable choices are, so it grows with sharper tails even where the
    entropy is the same. It says how sure, not how right; numbers of different vocabularies or temperatures are not comparable.

    Reads traj.extras["mean_logp"] [N, T], the mean of log pi(. | s_t) over the vocabulary, of the policy that acted and before any
    truncation (top-k, top-p), which would make it infinite. Without verdict: a response without own actions, and one at which some
    choice was impossible (log 0). Raises ValueError without that extra, and for a vocabulary below 1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"mean_logp": torch.tensor([[-1.0, -2.0, -3.0], [-2.0, -4.0, 0.0]] * 2)})
    >>> self_certainty(traj)["self-certainty"].value.sum(1)
    tensor([2., 3., 2., 2.])
    """
    if "mean_logp" not in traj.extras:
        raise ValueError('self_certainty: needs traj.extras["mean_logp"] [N, T], the mean log-probability over the vocabulary')
    if vocabulary is not None and vocabulary < 1:
        raise ValueError(f"self_certainty: vocabulary must be at least 1, got {vocabulary}")
    logp, own = traj.extras["mean_logp"], traj.own
    count = own.sum(1)
    mean = torch.where(own, logp, 0).double().sum(1) / count.clamp(min=1)
    certainty = -mean - (math.log(vocabulary) if vocabulary else 0.0)
    known = (count > 0) & certainty.isfinite()
    ids = traj.id.tolist()
    reasons = {
        ids[row]: "an action that was impossible" if count[row] else "no action of its own"
        for row in (~known).nonzero()[:, 0].tolist()
    }
    return {"self-certainty": place_outcome(torch.where(known, certainty, 0).to(logp.dtype), known, traj, reasons)}
