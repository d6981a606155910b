"""Regression of a step's log-ratio on its advantage, and the aggregation in which every step counts alike."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method
from payoff.losses.preference_links import check_positive
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories, log_ratio


@method("direct-advantage-po", kind="loss", paper="arXiv:2412.18279", needs=("ref",))
def direct_advantage(evaluation: Evaluation, traj: Trajectories, target: Channel, *, beta: float = 0.02) -> LossOutput:
    """Fit the log-ratio of every step to its advantage, offline (Direct Advantage Policy Optimization).

    term = (A / beta - log(pi / pi_ref)(step))^2 / 2, the log-ratio being the sum over the step's own actions, and A the target, the
    advantage of the step: what it adds to the reference's value (model of the same name, credit `immediate`). The term stands at
    every own action of the step: aggregate by `step-mean`, which counts each step once.

    At pi = ref the gradient is -(1 / beta) A grad log pi, a step of the policy gradient. For steps drawn from pi itself it is
    -(1 / beta) times that of E_pi A - beta KL(pi, ref) at the state, but any rollouts that take every step now and then will do: no
    ratio to who acted comes in. Left alone, a step would go to ref exp(A / beta), which adds up to more than 1 over the steps of a
    state: so the loss of a policy stays above 0 unless A is 0, and a constant added to A at a state changes the minimum.

    Metric error: root of the mean over steps of (beta log-ratio - A)^2, in units of A.
    Raises ValueError unless beta > 0, or without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[0.5, 0.0, -0.5]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> direct_advantage(Evaluation(traj.logp["ref"], {}), traj, advantage, beta=1.0).terms[0]
    tensor([0.1250, 0.0000, 0.1250])
    """
    check_positive("direct_advantage", beta=beta)
    if "ref" not in traj.logp:
        raise ValueError('direct_advantage: needs traj.logp["ref"]')
    counts = traj.own & target.valid
    ratio = log_ratio(evaluation.logp, traj.logp["ref"], traj, level="step")
    away = torch.where(counts, torch.where(counts, target.value, 0) / beta - ratio, 0)
    weight = step_mean(target, traj)
    error = (weight.double() * away.detach().double().square()).sum().sqrt() * beta
    return LossOutput(away.square() / 2, {"error": float(error)})


@method("step-mean", kind="aggregation", sees="batch")
def step_mean(target: Channel, traj: Trajectories) -> Float[Tensor, "N T"]:
    """Every step of the batch weighs the same, and its terms share that: 1 / (terms of the step * steps that have any).

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(step=torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]]).int())
    >>> step_mean(Channel(torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.bool)), traj)
    tensor([[0.0833, 0.0833, 0.1667],
            [0.0833, 0.0833, 0.0000],
            [0.1667, 0.0833, 0.0833],
            [0.1667, 0.0000, 0.0000]])
    """
    counts = traj.own & target.valid
    steps = int(traj.step.max()) + 1 if traj.step.numel() else 1
    at = traj.step.clamp(min=0).long()
    terms = torch.zeros(len(traj), steps, dtype=torch.int64, device=traj.device).scatter_add_(1, at, counts.long())
    size = terms.gather(1, at) * (terms > 0).sum()
    return torch.where(counts, 1 / size.clamp(min=1).to(target.value.dtype), 0)
