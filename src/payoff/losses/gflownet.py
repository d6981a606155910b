"""Balance losses: trajectory, detailed and sub-trajectory balance, log-partition variance, flow matching.

The target is the log-reward, paid where it is paid (a path without transforms, or `fl-gfn`, which pays it as increments). A loss
per trajectory gives its term in one column [N, 1]; with `trajectory-mean` as aggregation the objective is their mean. Terms are 0
where a payment is unknown. Metric residual: the root mean square of the residuals that count.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.catalogue import method
from payoff.losses.balance import (
    Regression,
    Residual,
    balance_residual,
    log_backward,
    per_action,
    pieces,
    regress,
    start_flow,
    states_between,
    whole,
)
from payoff.pipeline import Evaluation, LossOutput
from payoff.sets import Over, sets, statistics
from payoff.trajectories import Channel, StopReason, Trajectories, outcome, place_outcome


@method("trajectory-balance", kind="loss", paper="arXiv:2201.13259", needs=("log_z",))
def trajectory_balance(
    evaluation: Evaluation, traj: Trajectories, target: Channel, *, regression: Regression = "squared", shape: float = 1.0
) -> LossOutput:
    """One residual for the whole trajectory: (log Z + sum_t log pi - log P_B - r_t)^2 (trajectory balance, eq. 14).

    log Z is evaluation.more["log_z"] [N]: a learned number, or the flow of the start. On the policy's own samples the expected
    gradient (squared, by the policy's parameters) is twice that of KL(policy, P_B R / Z), whatever log Z is: log Z is a baseline.

    [N, 1]. No term for a trajectory that was truncated or has an unknown payment. Metrics: residual, log_z (mean).
    Raises ValueError without log Z.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> reward = Channel(torch.tensor([[0.0, 0.0, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> trajectory_balance(Evaluation(traj.logp["old"], {"log_z": torch.full((4,), 4.0)}), traj, reward).terms.T
    tensor([[0., 4., 0., 9.]])
    """
    log_z = _given("trajectory_balance", "log_z", evaluation)
    residual, counts = whole(balance_residual(evaluation, traj, target, start_flow(log_z, evaluation, traj)), traj)
    terms = torch.where(counts, regress(residual, regression, shape), 0)[:, None]
    return LossOutput(terms, {**_size(residual, counts), "log_z": float(log_z.detach().double().mean())})


@method("log-partition-variance", kind="loss", paper="arXiv:2302.05446", sees="group")
def log_partition_variance(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    over: Over = "group",
    regression: Regression = "squared",
    shape: float = 1.0,
) -> LossOutput:
    """Trajectory balance without log Z: the spread of sum_t log pi - log P_B - r_t in the set (VarGrad; Var-TB of GFlowVLM).

    residual_i = score_i - mean score: log Z is replaced by the set's own best estimate, minus that mean, so trajectories of one set
    must have one log Z, as those of one start have. It needs nothing but log-probabilities, so a language model can be trained
    with it (log P_B = 0). Rewards enter up to a constant of the set. The gradient goes through the mean too.

    [N, 1]. A set of one has residual 0. Metrics: residual, log_z (minus the mean score).

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> reward = Channel(torch.tensor([[0.0, 0.0, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> log_partition_variance(Evaluation(traj.logp["old"], {}), traj, reward).terms.T
    tensor([[1.0000, 1.0000, 2.2500, 2.2500]])
    """
    score, counts = whole(balance_residual(evaluation, traj, target, start_flow(0.0, evaluation, traj)), traj)
    return centred(score, counts, traj, over, regression, shape)


@method("detailed-balance", kind="loss", paper="arXiv:2111.09266", needs=("values",))
def detailed_balance(
    evaluation: Evaluation, traj: Trajectories, target: Channel, *, regression: Regression = "squared", shape: float = 1.0
) -> LossOutput:
    """One residual for every action: (log F(s) + log pi - log F(s') - log P_B - r)^2 (GFlowNet foundations, def. 13).

    log F is evaluation.more["values"] [N, T+1]; that of a finished object is 0, so what it is worth must be paid. Paid at the end
    this is detailed balance, paid as increments (`fl-gfn`) it is the forward-looking form, paid at every action (`total`) it is
    outcome teleportation (`oc-gfn`, with a policy conditioned on the outcome).
    A truncated trajectory trains all its transitions but those whose payment is unknown.

    [N, T]. What passes between two actions without the policy belongs to the first. Raises ValueError without values.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> reward = Channel(torch.tensor([[0.0, 0.0, 2.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> flow = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(4, 1)
    >>> detailed_balance(Evaluation(traj.logp["old"], {"values": flow}), traj, reward).terms
    tensor([[0., 0., 4.],
            [0., 1., 0.],
            [0., 0., 4.],
            [4., 0., 0.]])
    """
    flow = _given("detailed_balance", "values", evaluation)
    residual, counts = per_action(balance_residual(evaluation, traj, target, flow), traj)
    return LossOutput(torch.where(counts, regress(residual, regression, shape), 0), _size(residual, counts))


@method("sub-trajectory-balance", kind="loss", paper="arXiv:2209.12782", needs=("values",))
def sub_trajectory_balance(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    decay: float = 0.9,
    regression: Regression = "squared",
    shape: float = 1.0,
) -> LossOutput:
    """Residuals of all pieces of a trajectory, each weighed by decay^actions, the weights adding to 1 (SubTB(lambda), eq. 13).

    decay 0: single actions alone, so the mean of `detailed_balance` over the trajectory; infinity: the longest pieces that are
    known, so `trajectory_balance` with the flow of the start as log Z where all is known. Flows and rewards as there: with
    `fl-gfn` it is forward-looking.

    [N, 1], made of M (M + 1) / 2 pieces for M actions, all in memory at once: not for thousands of actions.
    A piece with an unknown payment has no weight. Raises ValueError for a negative decay or without values.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> reward = Channel(torch.tensor([[0.0, 0.0, 2.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> flow = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(4, 1)
    >>> sub_trajectory_balance(Evaluation(traj.logp["old"], {"values": flow}), traj, reward, decay=0.0).terms.T
    tensor([[1.3333, 0.5000, 1.3333, 4.0000]])
    """
    flow = _given("sub_trajectory_balance", "values", evaluation)
    found = balance_residual(evaluation, traj, target, flow)
    return weighed_pieces("sub_trajectory_balance", found, states_between(traj), decay, regression, shape)


@method("flow-matching", kind="loss", paper="arXiv:2106.04399", needs=("values", "inflow"))
def flow_matching(
    evaluation: Evaluation, traj: Trajectories, target: Channel, *, regression: Regression = "squared", shape: float = 1.0
) -> LossOutput:
    """What flows into each state is what flows out: (log sum_parents F(s) pi(s' | s) - log F(s'))^2 (flow matching, eq. 12).

    Detailed balance with the backward policy that the flows themselves imply, P_B = F(s) pi / inflow(s'), so no other is read.
    evaluation.more["inflow"] [N, T+1]: the log of all flow into each state. A finished object's outflow is its whole reward,
    wherever in the trajectory that was paid: only sums matter here, so there is no forward-looking form.

    [N, T], the term of an action being about the state it leads to; no term for the last state of a truncated trajectory.
    Raises ValueError without values or inflow.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> reward = Channel(torch.tensor([[0.0, 0.0, 2.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> more = {"values": torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(4, 1), "inflow": torch.full((4, 4), 2.0)}
    >>> flow_matching(Evaluation(traj.logp["old"], more), traj, reward).terms
    tensor([[0., 1., 0.],
            [0., 4., 0.],
            [0., 1., 0.],
            [4., 0., 0.]])
    """
    flow, inflow = _given("flow_matching", "values", evaluation), _given("flow_matching", "inflow", evaluation)
    implied = flow[:, :-1] + evaluation.logp - inflow[:, 1:]
    paid, valid = outcome(target, traj)
    found = balance_residual(evaluation, traj, place_outcome(paid, valid, traj), flow, backward=implied)
    residual, counts = per_action(found, traj)
    counts = counts & ~_last_of_truncated(traj)
    return LossOutput(torch.where(counts, regress(residual, regression, shape), 0), _size(residual, counts))


@method("backward-likelihood", kind="loss")
def backward_likelihood(evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
    """Hold a learned backward policy at the trajectories that were taken: term_t = -w_t log P_B(a_t) (trajectory likelihood).

    With `everywhere` as target it is a regulariser: maximising the backward likelihood of own rollouts makes P_B follow P_F.
    Where log P_B is not learned it has no gradient. [N, T]. Metric log_backward: its mean over the actions that count.

    >>> from payoff.examples import four_answers
    >>> from payoff.pipeline import everywhere
    >>> traj = four_answers()
    >>> backward_likelihood(Evaluation(traj.logp["old"], {"log_backward": traj.logp["ref"]}), traj, everywhere({}, traj)).terms
    tensor([[1.5000, 1.5000, 1.5000],
            [1.5000, 1.5000, 0.0000],
            [1.5000, 1.5000, 1.5000],
            [1.5000, 0.0000, 0.0000]])
    """
    backward = log_backward(evaluation, traj)
    backward = torch.zeros_like(evaluation.logp) if backward is None else backward
    counts = traj.own & target.valid
    mean = torch.where(counts, backward.detach(), 0).double().sum() / counts.sum().clamp(min=1)
    terms = torch.where(counts, -torch.where(counts, target.value, 0) * backward, 0)
    return LossOutput(terms, {"log_backward": float(mean)})


@method("trajectory-mean", kind="aggregation", sees="batch")
def trajectory_mean(target: Channel, traj: Trajectories) -> Float[Tensor, "N 1"]:
    """Every trajectory weighs the same: 1 / (trajectories that count), in one column, for losses with one term per trajectory.

    One counts where the policy acted and every payment is known. Terms per action are added up within a trajectory.

    >>> from payoff.examples import four_answers
    >>> trajectory_mean(Channel(torch.zeros(4, 1), torch.tensor([[True], [False], [True], [True]])), four_answers()).T
    tensor([[0.3333, 0.0000, 0.3333, 0.3333]])
    """
    counts = traj.own.any(1) & (target.valid | ~traj.exists).all(1)
    return torch.where(counts, 1 / counts.sum().to(target.value.dtype), 0)[:, None]


def centred(
    score: Float[Tensor, " N"], counts: Bool[Tensor, " N"], traj: Trajectories, over: Over, regression: Regression, shape: float
) -> LossOutput:
    """The residual of each score from the mean of its set, as a loss with one term per trajectory."""
    key = sets(traj, over)
    if key.shape[1] != 1:
        raise ValueError(f'log_partition_variance: over must be a set of whole trajectories, got "{over}"')
    mean = statistics(score, key[:, 0], counts).mean.to(score.dtype)
    residual = torch.where(counts, score - mean, 0)
    log_z = -torch.where(counts, mean.detach(), 0).double().sum() / counts.sum().clamp(min=1)
    terms = torch.where(counts, regress(residual, regression, shape), 0)[:, None]
    return LossOutput(terms, {**_size(residual, counts), "log_z": float(log_z)})


def weighed_pieces(
    name: str, found: Residual, marks: Bool[Tensor, "N T1"], decay: float, regression: Regression, shape: float
) -> LossOutput:
    """The regression of all pieces between marked states, weighed by decay^length within each trajectory."""
    if not decay >= 0:
        raise ValueError(f"{name}: decay must be at least 0, got {decay}")
    part = pieces(found, marks)
    if part.gap.numel() == 0:
        return LossOutput(found.delta.sum(1, keepdim=True), {"residual": 0.0})
    longest = torch.where(part.known, part.gap, 0).amax(1, keepdim=True)
    if decay == 0:
        weight = torch.where(part.gap == 1, 0.0, -torch.inf).expand(part.known.shape)
    elif math.isinf(decay):
        weight = torch.where(part.gap == longest, 0.0, -torch.inf)
    else:
        weight = (part.gap - 1).to(part.residual.dtype).mul(math.log(decay)).expand(part.known.shape)
    weight = torch.where(part.known, weight.to(part.residual.dtype), -torch.inf)
    some = (weight > -torch.inf).any(1, keepdim=True)
    weight = torch.where(some, torch.where(some, weight, 0).softmax(1), 0)
    terms = (weight * regress(part.residual, regression, shape)).sum(1, keepdim=True)
    return LossOutput(terms, _size(part.residual, part.known))


def _last_of_truncated(traj: Trajectories) -> Bool[Tensor, "N T"]:
    """The last position of each trajectory that was cut short."""
    last = torch.arange(traj.width, device=traj.device) == traj.length[:, None] - 1
    return last & (traj.stop == StopReason.truncated)[:, None]


def _given(name: str, what: str, evaluation: Evaluation) -> Tensor:
    found = evaluation.more.get(what)
    if found is None:
        raise ValueError(f'{name}: needs evaluation.more["{what}"]; there is {sorted(evaluation.more) or "nothing"}')
    return found


def _size(residual: Tensor, counts: Tensor) -> dict[str, float]:
    square = torch.where(counts, residual.detach(), 0).double().square().sum() / counts.sum().clamp(min=1)
    return {"residual": float(square.sqrt())}
