"""Balance against a reference policy, and balance for rewards that every prefix has: what language models are trained with.

Both are the residual of `balance` with something known in place of the backward policy or of the flows.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method
from payoff.losses.balance import Regression, balance_residual, regress, start_flow, states_between, whole
from payoff.losses.gflownet import centred, weighed_pieces
from payoff.pipeline import Evaluation, LossOutput
from payoff.sets import Over
from payoff.trajectories import Channel, StopReason, Trajectories


@method("relative-trajectory-balance", kind="loss", paper="arXiv:2405.20971", needs=("ref", "log_z"))
def relative_trajectory_balance(
    evaluation: Evaluation, traj: Trajectories, target: Channel, *, regression: Regression = "squared", shape: float = 1.0
) -> LossOutput:
    """Match the reference times the reward: (log Z + sum_t log pi - log pi_ref - r_t)^2 (RTB, eq. 8; A-GFN's fine-tuning).

    Trajectory balance with the reference as backward policy: at 0 the policy is pi_ref exp(sum r) / Z over trajectories, the
    optimum of E[r] - KL(pi, pi_ref). It is path consistency of KL-regularised reinforcement learning, the weight of the reward
    1 / beta.

    [N, 1]. No term for a trajectory that was truncated or has an unknown payment.
    Raises ValueError without traj.logp["ref"] or evaluation.more["log_z"].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> reward = Channel(torch.tensor([[0.0, 0.0, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> relative_trajectory_balance(Evaluation(traj.logp["old"], {"log_z": torch.zeros(4)}), traj, reward).terms.T
    tensor([[0.2500, 1.0000, 0.2500, 0.2500]])
    """
    if "log_z" not in evaluation.more:
        raise ValueError('relative_trajectory_balance: needs evaluation.more["log_z"]; without one, use the variance form')
    flow = start_flow(evaluation.more["log_z"], evaluation, traj)
    reference = _reference("relative_trajectory_balance", traj)
    residual, counts = whole(balance_residual(evaluation, traj, target, flow, backward=reference), traj)
    size = torch.where(counts, residual.detach(), 0).double().square().sum() / counts.sum().clamp(min=1)
    terms = torch.where(counts, regress(residual, regression, shape), 0)[:, None]
    log_z = float(evaluation.more["log_z"].detach().double().mean())
    return LossOutput(terms, {"residual": float(size.sqrt()), "log_z": log_z})


@method("relative-log-partition-variance", kind="loss", paper="arXiv:2405.20971", needs=("ref",), sees="group")
def relative_log_partition_variance(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    over: Over = "group",
    regression: Regression = "squared",
    shape: float = 1.0,
) -> LossOutput:
    """Relative trajectory balance with log Z estimated by the set: the spread of sum_t log pi - log pi_ref - r_t (VarGrad form).

    For a policy without log Z, such as a language model: each start has its own log Z, estimated from its rollouts. With two
    rollouts the residuals are +- half of a difference: the squared difference of implicit and given reward.

    [N, 1]. A set of one has residual 0. Raises ValueError without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> reward = Channel(torch.tensor([[0.0, 0.0, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> relative_log_partition_variance(Evaluation(traj.logp["old"], {}), traj, reward).terms.T
    tensor([[0.0625, 0.0625, 0.0000, 0.0000]])
    """
    reference = _reference("relative_log_partition_variance", traj)
    found = balance_residual(evaluation, traj, target, start_flow(0.0, evaluation, traj), backward=reference)
    score, counts = whole(found, traj)
    return centred(score, counts, traj, over, regression, shape)


@method("gflowvlm", kind="loss", paper="arXiv:2503.06514", needs=("stop_logp",))
def prefix_reward_balance(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    decay: float = 1.0,
    regression: Regression = "squared",
    shape: float = 1.0,
) -> LossOutput:
    """Sub-trajectory balance where every prefix has a reward and could stop: no flows are learned (GFlowVLM; modified DB).

    A prefix that stops with probability P(stop | s) and is worth R(s) then has the flow R(s) / P(stop | s). So for every piece from
    s_i to s_j, at the ends of steps: log R_i + sum log pi - log P_B + log P(stop | s_j) - log R_j - log P(stop | s_i) = 0. This is
    the forward-looking residual with -log P(stop | s) as flow, so the target is the increments of log R: what `fl-gfn` or
    `prm-gflownet` pays.

    evaluation.more["stop_logp"] [N, T+1]: log P(stop | s) before every action. The empty prefix counts as one: log R of it is
    extras["log_reward"][:, 0] where the batch has that, else 0. decay 0 is detailed balance between steps; 1 weighs all pieces
    alike. The piece made of the stop action alone is in balance by definition and is left out.

    [N, 1]. Raises ValueError without stop_logp, and for a negative decay.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> gain = Channel(torch.tensor([[0.5, 0.5, -1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> more = {"stop_logp": torch.full((4, 4), -1.0)}
    >>> prefix_reward_balance(Evaluation(traj.logp["old"], more), traj, gain, decay=0.0).terms.T
    tensor([[2.2500, 2.2500, 2.2500, 0.0000]])
    """
    if "stop_logp" not in evaluation.more:
        raise ValueError('prefix_reward_balance: needs evaluation.more["stop_logp"], the log-probability of stopping at each state')
    flow = -evaluation.more["stop_logp"]
    if "log_reward" in traj.extras:
        flow = torch.cat([flow[:, :1] + traj.extras["log_reward"][:, :1], flow[:, 1:]], 1)
    marks = states_between(traj, steps=True)
    finished = (traj.stop != StopReason.truncated)[:, None]
    end = torch.arange(traj.width + 1, device=traj.device) == traj.length[:, None]
    return weighed_pieces(
        "prefix_reward_balance",
        balance_residual(evaluation, traj, target, flow),
        marks & ~(finished & end),
        decay,
        regression,
        shape,
    )


def _reference(name: str, traj: Trajectories) -> Float[Tensor, "N T"]:
    if "ref" not in traj.logp:
        raise ValueError(f'{name}: needs traj.logp["ref"], the log-probabilities of the reference')
    return traj.logp["ref"]
