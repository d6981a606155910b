"""What a reward may add up to: limits on single payments, and payments whose sum telescopes."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories, outcome, per_step, place_outcome, place_steps


@method("pr-clip", kind="shaping", paper="arXiv:2410.15115")
def clip_above(channel: Channel, traj: Trajectories, *, threshold: float = 0.5) -> Channel:
    """Pay each step only for falling short of a threshold (Clip).

    r_k = min(p_k - threshold, 0), paid at the end of step k; p_k is all that was paid in step k, threshold the paper's eta.
    No step earns anything, so the sum is at most 0 however many steps there are: a superfluous step is never worth writing.
    With p in [0, 1] and threshold 1 every imperfect step costs something; with threshold 0 nothing does. The paper tuned it.

    An unknown step stays unknown, and only that one.

    >>> from payoff.examples import four_answers
    >>> scores = Channel(torch.full((4, 3), 0.25), torch.ones(4, 1, dtype=torch.bool))
    >>> clip_above(scores, four_answers()).value
    tensor([[-0.2500, -0.2500, -0.2500],
            [-0.2500, -0.2500,  0.0000],
            [-0.2500, -0.2500, -0.2500],
            [-0.2500,  0.0000,  0.0000]])
    """
    score, _, known = per_step(channel, traj)
    return place_steps((score - threshold).clamp(max=0), known, traj, channel.reasons)


@method("pr-delta", kind="shaping", paper="arXiv:2410.15115")
def delta(channel: Channel, traj: Trajectories) -> Channel:
    """Pay each step its score minus the next one's, and the last step nothing (Delta).

    r_k = p_k - p_(k+1) for k < K-1, r_(K-1) = p_(K-1), r_K = 0, paid at the end of step k; K is the trajectory's own number of
    steps. The last step, usually the answer, is left to the outcome reward. All payments of a trajectory add up to p_1, and
    those from step k on to p_k, so neither repeating a step nor adding steps raises the sum (without a discount).

    Note the sign: this step minus the *next*. As a return-to-go the credit of step k is p_k itself, which still pays for writing
    one more good-looking step before the answer: bound the scores first (`clip_delta`), or credit the total.

    K = 1 gives 0. The last score is not used and need not be known; step k is unknown where p_k or p_(k+1) is.

    >>> from payoff.examples import four_answers
    >>> scores = Channel(torch.tensor([[0.5, 0.75, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> delta(scores, four_answers()).value
    tensor([[-0.2500,  0.7500,  0.0000],
            [ 0.5000,  0.0000,  0.0000],
            [-0.2500,  0.7500,  0.0000],
            [ 0.0000,  0.0000,  0.0000]])
    """
    score, exists, known = per_step(channel, traj)
    after = _next_step(exists)
    last = exists & (after == score.shape[1])
    # One column more, for what follows the last step: score 0, and known to be.
    score = torch.nn.functional.pad(torch.where(last, 0, score), (0, 1))
    known = torch.nn.functional.pad(known | last, (0, 1), value=True)
    paid = score[:, :-1] - score.gather(1, after)
    return place_steps(paid, known[:, :-1] & known.gather(1, after), traj, channel.reasons)


@method("pr-clip-delta", kind="shaping", paper="arXiv:2410.15115")
def clip_delta(channel: Channel, traj: Trajectories, *, threshold: float = 0.5) -> Channel:
    """Clip the step scores, then pay their differences (Clip-Delta): `clip_above` followed by `delta`.

    c_k = min(p_k - threshold, 0); r_k = c_k - c_(k+1) for k < K-1, r_(K-1) = c_(K-1), r_K = 0.
    Every suffix sum is some c_k and so at most 0: as a return-to-go it never pays to write one more step.

    K = 1 gives 0. The last score is not used and need not be known.

    >>> from payoff.examples import four_answers
    >>> scores = Channel(torch.tensor([[0.25, 1.0, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> clip_delta(scores, four_answers()).value
    tensor([[-0.2500,  0.0000,  0.0000],
            [-0.2500,  0.0000,  0.0000],
            [-0.2500,  0.0000,  0.0000],
            [ 0.0000,  0.0000,  0.0000]])
    """
    return delta(clip_above(channel, traj, threshold=threshold), traj)


@method("clamp", kind="shaping")
def clamp(
    channel: Channel,
    traj: Trajectories,
    *,
    low: float | None = None,
    high: float | None = None,
    unit: Literal["step", "outcome"] = "step",
) -> Channel:
    """Keep every payment between two bounds.

    unit "step":    min(max(p_k, low), high), paid at the end of step k. A step paid 0 is a step like any other, so bounds that
                    exclude 0 pay it too: for a reward that is paid once, at the end, take "outcome".
    unit "outcome": the same of all that is paid in a trajectory, paid at its end (a ceiling or a floor for a reward model).

    An unknown step, or outcome, stays unknown. Raises ValueError for low > high, or when neither is given.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> scores = place_outcome(torch.tensor([3.0, 0.5, -9.0, 0.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(clamp(scores, traj, low=-1.0, high=1.0, unit="outcome"), traj)[0]
    tensor([ 1.0000,  0.5000, -1.0000,  0.0000])
    """
    if low is None and high is None:
        raise ValueError("clamp: give low, high or both")
    if low is not None and high is not None and low > high:
        raise ValueError(f"clamp: low must be at most high, got {low} > {high}")
    if unit == "outcome":
        value, known = outcome(channel, traj)
        return place_outcome(value.clamp(low, high), known, traj, channel.reasons)
    if unit != "step":
        raise ValueError(f'clamp: unit must be "step" or "outcome", got {unit!r}')
    value, _, known = per_step(channel, traj)
    return place_steps(value.clamp(low, high), known, traj, channel.reasons)


def _next_step(exists: Bool[Tensor, "N S"]) -> Int[Tensor, "N S"]:
    """For every step the number of the next one that the trajectory has; S where there is none."""
    steps = exists.shape[1]
    number = torch.where(exists, torch.arange(steps, device=exists.device), steps)
    at_or_after = number.flip(1).cummin(1).values.flip(1)
    return torch.nn.functional.pad(at_or_after[:, 1:], (0, 1), value=steps)
