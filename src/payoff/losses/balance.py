"""The one residual from which every balance loss follows, how it is regressed to 0, and sums of it over parts of a trajectory.

A policy with log-probabilities log pi, flows log F (a critic's values), backward log-probabilities log P_B and a reward is in
balance where, for every action,

    delta_t = log F(s_t) + log pi(a_t) - log F(s_(t+1)) - log P_B(s_t | s_(t+1)) - r_t = 0,   log F(a finished object) = 0.

This is path consistency of entropy-regularised reinforcement learning: log F is the soft value, and log R and log P_B are what is
paid. With log P_B = 0 the states form a tree, as the prefixes of a text do. The losses are in `gflownet`, `relative_balance` and
`order`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, StopReason, Trajectories

Regression = Literal["squared", "half-squared", "huber", "cosh", "linex"]
_FARTHEST = 80.0  # nats; exp of more is infinite in single precision


class Residual(NamedTuple):
    """delta: [N, T] the residual of every position, 0 beyond the end; known: False where the payment has no verdict."""

    delta: Float[Tensor, "N T"]
    known: Bool[Tensor, "N T"]


def balance_residual(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    flow: Float[Tensor, "N T1"],
    *,
    backward: Float[Tensor, "N T"] | None = None,
) -> Residual:
    """delta_t = flow_t + log pi(a_t) - flow_(t+1) - log P_B,t - r_t at every position that exists (path consistency).

    target:   the reward r, in logarithms, paid where it is paid: at the end it gives detailed balance, as increments of the
              reward of unfinished objects the forward-looking form
    flow:     [N, T+1] log F of every state; that of the final state counts only where the trajectory was truncated, and is 0
              otherwise: the end is pinned whatever a network says there
    backward: log P_B of every action; None: what the evaluation or else the batch has as "log_backward", or else 0 (a tree)

    Where the policy did not act (text of a tool) both log-probabilities are 0: the world moved with probability 1. What a branch
    shares with its parent has value and no gradient here. Padding is not read.
    Raises ValueError unless flow is [N, T+1].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> reward = Channel(torch.tensor([[0.0, 0.0, 2.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> flow = torch.tensor([[3.0, 2.0, 1.0, 9.0]]).repeat(4, 1)
    >>> balance_residual(Evaluation(traj.logp["old"], {}), traj, reward, flow).delta
    tensor([[ 0.,  0., -2.],
            [ 0.,  1.,  0.],
            [ 0.,  0., -2.],
            [ 2.,  0.,  0.]])
    """
    if flow.shape != (len(traj), traj.width + 1):
        raise ValueError(f"balance_residual: flow must be [N, T+1] = [{len(traj)}, {traj.width + 1}], got {list(flow.shape)}")
    exists, acted = traj.exists, traj.mask & traj.exists
    flow = torch.where(_inside(traj), flow, 0)
    forward = torch.where(acted, torch.where(traj.own, evaluation.logp, evaluation.logp.detach()), 0)
    if backward is None:
        backward = log_backward(evaluation, traj)
    forward = forward if backward is None else forward - torch.where(acted, backward, 0)
    known = target.valid | ~exists
    paid = torch.where(exists & target.valid, target.value, 0)
    return Residual(torch.where(exists, flow[:, :-1] + forward - flow[:, 1:] - paid, 0), known)


def log_backward(evaluation: Evaluation, traj: Trajectories) -> Float[Tensor, "N T"] | None:
    """log P_B of every action: as evaluated (a learned one, with its gradient), or as the batch carries it; None: there is none."""
    return evaluation.more.get("log_backward", traj.extras.get("log_backward"))


def log_score(evaluation: Evaluation, traj: Trajectories) -> Float[Tensor, " N"]:
    """sum_t log pi(a_t) - log P_B,t of every trajectory: the log-reward it would have to be paid, up to log Z, for balance.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> log_score(Evaluation(traj.logp["old"], {}), traj)
    tensor([-3., -2., -3., -1.])
    """
    nothing = Channel(evaluation.logp.new_zeros(len(traj), 1), torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device))
    return balance_residual(evaluation, traj, nothing, start_flow(0.0, evaluation, traj)).delta.sum(1)


def start_flow(log_z: Float[Tensor, " N"] | float, evaluation: Evaluation, traj: Trajectories) -> Float[Tensor, "N T1"]:
    """Flows of which only the start's is known; the others cancel in a sum over the whole trajectory, so they may be 0."""
    first = torch.as_tensor(log_z, dtype=evaluation.logp.dtype, device=traj.device).expand(len(traj))
    return pad(first[:, None], (0, traj.width))


def regress(residual: Float[Tensor, "*shape"], regression: Regression = "squared", shape: float = 1.0) -> Float[Tensor, "*shape"]:
    """How far a residual d is from 0 (arXiv:2410.02596): a different divergence between flows for each.

    squared: d^2; half-squared: d^2 / 2: the reverse KL, which leaves modes out sooner than it invents some
    huber:   d^2 where |d| <= shape, and its tangent beyond: one bad trajectory cannot drown the batch
    cosh:    e^d + e^-d - 2: zero-forcing and zero-avoiding at once
    linex:   (e^(shape d) - shape d - 1) / shape^2: shape 1 the forward KL, 0.5 between the two, negative zero-forcing
    Exponents are cut at 80, with no gradient beyond. Raises ValueError for another name, or a shape that does not fit.

    >>> d = torch.tensor([-2.0, 0.0, 2.0])
    >>> regress(d), regress(d, "huber"), regress(d, "linex")
    (tensor([4., 0., 4.]), tensor([3., 0., 3.]), tensor([1.1353, 0.0000, 4.3891]))
    """
    if regression == "squared":
        return residual.square()
    if regression == "half-squared":
        return residual.square() / 2
    if regression == "huber":
        if not shape > 0:
            raise ValueError(f"regress: shape of huber must be > 0, got {shape}")
        size = residual.abs()
        return torch.where(size <= shape, residual.square(), shape * (2 * size - shape))
    if regression == "cosh":
        far = residual.clamp(-_FARTHEST, _FARTHEST)
        return far.exp() + (-far).exp() - 2
    if regression == "linex":
        if shape == 0:
            raise ValueError("regress: shape of linex must not be 0; half-squared is its limit")
        far = shape * residual
        return (far.clamp(-_FARTHEST, _FARTHEST).exp() - far - 1) / shape**2
    raise ValueError(f'regress: regression must be "squared", "half-squared", "huber", "cosh" or "linex", got {regression!r}')


def whole(residual: Residual, traj: Trajectories) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """The sum over each trajectory, and where it says anything: it ended, the policy acted, and every payment is known."""
    finished = traj.stop != StopReason.truncated
    return residual.delta.sum(1), finished & traj.own.any(1) & residual.known.all(1)


def per_action(residual: Residual, traj: Trajectories) -> Residual:
    """The residual of each own action and of all that passes until the next one, at that action; known where all of that is.

    Positions before the first own action belong to no action. Where the policy acted everywhere nothing changes.
    """
    if bool((traj.own | ~traj.exists).all()):
        return Residual(residual.delta, residual.known & traj.own)
    position = torch.arange(traj.width, device=traj.device).expand(traj.mask.shape)
    at = torch.where(traj.own, position, -1).cummax(1).values
    here, at = (at >= 0) & traj.exists, at.clamp(min=0)
    delta = torch.zeros_like(residual.delta).scatter_add(1, at, torch.where(here, residual.delta, 0))
    lost = torch.zeros_like(at).scatter_add(1, at, (here & ~residual.known).long())
    return Residual(torch.where(traj.own, delta, 0), traj.own & (lost == 0))


class Pieces(NamedTuple):
    """All pieces of each trajectory between two of its marked states: residual, how many marks apart, and which say anything."""

    residual: Float[Tensor, "N P"]
    gap: Int[Tensor, " P"]
    known: Bool[Tensor, "N P"]


def pieces(residual: Residual, marks: Bool[Tensor, "N T1"]) -> Pieces:
    """The residual of every piece from one marked state to a later one: the sum of delta over the positions between.

    marks: [N, T+1] states at which flows are known. M of them make M (M - 1) / 2 pieces, all held at once.
    """
    level = pad(residual.delta.cumsum(1), (1, 0))
    lost = pad((~residual.known).cumsum(1), (1, 0))
    count = max(int(marks.sum(1).max()), 1) if len(marks) else 1
    order = (~marks).int().argsort(dim=1, stable=True)[:, :count]
    here, level, lost = marks.gather(1, order), level.gather(1, order), lost.gather(1, order)
    first, last = torch.triu_indices(count, count, 1, device=marks.device)
    known = here[:, last] & (lost[:, last] == lost[:, first])
    return Pieces(torch.where(known, level[:, last] - level[:, first], 0), last - first, known)


def _inside(traj: Trajectories) -> Bool[Tensor, "N T1"]:
    """The states that are no ends: before the last action, and after it where the trajectory was cut short there."""
    position = torch.arange(traj.width + 1, device=traj.device)
    truncated = (traj.stop == StopReason.truncated)[:, None]
    return (position < traj.length[:, None]) | (truncated & (position == traj.length[:, None]))


def states_between(traj: Trajectories, *, steps: bool = False) -> Bool[Tensor, "N T1"]:
    """The states that own actions are taken in (with `steps`, only where a step begins), and the last one."""
    own = traj.own
    if steps:
        own = own & (traj.step != pad(traj.step[:, :-1], (1, 0), value=-1))
    return pad(own, (0, 1)).scatter(1, traj.length[:, None].long(), own.any(1, keepdim=True))
