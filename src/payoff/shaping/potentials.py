"""From scores of prefixes to rewards of actions: one operation, discount * score after - score before, under several names.

A score of states is a potential, a score of how far one has come is progress, a share that is done is completion. Added up over a
trajectory, such rewards telescope: what they pay in all depends on where it begins and ends alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method
from payoff.trajectories import Channel, Rewards, StopReason, Trajectories, per_step, place_steps, prefix_gains

AtEnd = Literal["zero", "keep"]


def prefix_reward(
    score: Float[Tensor, "N T1"], traj: Trajectories, *, discount: float = 1.0, at_end: AtEnd = "zero"
) -> Float[Tensor, "N T"]:
    """F_t = discount * score[t + 1] - score[t]: what each position adds to the score of the prefix [N, T+1].

    at_end: the score of a state in which the trajectory ended for good (finished, illegal, error). "zero": it is 0, as a potential
            must be there; "keep": it is what it says, as progress must. A truncated trajectory keeps its last score either way.

    sum_t discount^t F_t = discount^length score[length] - score[0], with the last score as `at_end` says. 0 beyond the end.
    Raises ValueError for a discount outside 0..1, a score of another shape and another word for at_end.

    >>> from payoff.examples import four_answers
    >>> score = torch.tensor([[1.0, 2.0, 4.0, 8.0]]).repeat(4, 1)
    >>> prefix_reward(score, four_answers(), at_end="keep")
    tensor([[1., 2., 4.],
            [1., 2., 0.],
            [1., 2., 4.],
            [1., 0., 0.]])
    """
    _check("prefix_reward", discount, at_end)
    if at_end == "zero" and traj.width == 1 and score.shape == (len(traj), 2):
        # Transitions, which exist: wrappers ask at every step, where every operation tells.
        after = torch.where((traj.stop == StopReason.truncated)[:, None], score[:, 1:], 0)
        return discount * after - score[:, :1]
    if at_end == "zero" and score.shape == (len(traj), traj.width + 1):
        final = torch.arange(traj.width + 1, device=traj.device) == traj.length[:, None]
        score = torch.where(final & (traj.stop != StopReason.truncated)[:, None], 0, score)
    return prefix_gains(score, traj, discount=discount)


@method("potential-shaping", kind="shaping")
def potential_shaping(
    rewards: Rewards,
    traj: Trajectories,
    *,
    potential: str | Callable[[Trajectories], Tensor] = "potential",
    discount: float = 1.0,
    weight: float = 1.0,
    into: str | None = None,
) -> Rewards:
    """Pay every action weight * (discount * potential(next state) - potential(state)) (Ng, Harada and Russell 1999).

    With the discount that the credit uses too, and 0 as the potential of states where it ends for good, every policy's return
    changes by the same constant, -weight * potential(first state): no policy gains or loses against another, and advantages stay
    what they were. A truncated trajectory needs values that know of the potential (V - weight * potential), as a critic learns.
    With another discount, with potentials kept at the end, or as immediate credit it changes what is optimal.

    potential: the name of one of traj.extras, [N, T+1], or a function of the trajectories that gives such a tensor (detached here)
    into:      the channel it is added to; None: a channel of its own, "potential", which a term must then mix with the other
               before its credit or give the same credit

    Positions where the policy did not act count as time here: leave the discount at 1 where there are some.
    Raises ValueError as `prefix_reward` does and for a potential that is not there, KeyError for a channel that is not.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"potential": torch.tensor([[1.0, 2.0, 4.0, 8.0]]).repeat(4, 1)})
    >>> potential_shaping({}, traj)["potential"].value
    tensor([[ 1.,  2., -4.],
            [ 1., -2.,  0.],
            [ 1.,  2., -4.],
            [-1.,  0.,  0.]])
    """
    if callable(potential):
        score = potential(traj).detach()
    elif potential in traj.extras:
        score = traj.extras[potential]
    else:
        raise ValueError(f"potential_shaping: there is no traj.extras[{potential!r}]; there are {sorted(traj.extras)}")
    gain = prefix_reward(score, traj, discount=discount)
    gain = gain if weight == 1 else weight * gain
    if into is None:
        return {**rewards, "potential": Channel(gain, torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device))}
    if into not in rewards:
        raise KeyError(f"potential_shaping: no reward channel {into!r}; there are {sorted(rewards)}")
    old = rewards[into]
    if old.value.shape[1] == 1 < traj.width:
        raise ValueError(
            f"potential_shaping: {into!r} is one column, the same number at every action, and no payment; place it first, "
            "or leave `into` out"
        )
    value = torch.where(old.valid, old.value, 0) + torch.where(old.valid, gain.to(old.value.dtype), 0)
    return {**rewards, into: Channel(value, old.valid, old.reasons)}


@method("progress", kind="shaping")
def progress(
    channel: Channel, traj: Trajectories, *, initial: float = 0.0, discount: float = 1.0, at_end: AtEnd = "keep"
) -> Channel:
    """Turn a score given after every step into what the step added to it: F_k = discount * s_k - s_(k-1), s_(-1) = initial.

    The channel says how good what stands is after each step, at the step's last position (a process model's value, the share that
    is completed); the reward is paid there. at_end as in `prefix_reward`. With discount 1 all that is paid is s_last - initial.

    Paid as reward, progress of a fixed score changes no advantage once it is credited to the end; paid as immediate credit it does.
    A step without a score costs that step and the next one theirs. Raises ValueError for a discount outside 0..1.

    >>> from payoff.examples import four_answers
    >>> score = Channel(torch.tensor([[0.25, 0.75, 0.5]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> progress(score, four_answers()).value
    tensor([[ 0.2500,  0.5000, -0.2500],
            [ 0.2500,  0.5000,  0.0000],
            [ 0.2500,  0.5000, -0.2500],
            [ 0.2500,  0.0000,  0.0000]])
    """
    _check("progress", discount, at_end)
    score, here, known = per_step(channel, traj, "last")
    # Only the last position of a step carries its score; what stands on the others has no say, known or not.
    before = torch.cat([torch.full_like(score[:, :1], initial), score[:, :-1]], 1)
    known_before = torch.cat([torch.ones_like(known[:, :1]), known[:, :-1]], 1)
    if at_end == "zero":
        last = here & ~torch.cat([here[:, 1:], torch.zeros_like(here[:, :1])], 1)
        over = last & (traj.stop != StopReason.truncated)[:, None]
        score, known = torch.where(over, 0, score), known | over
    return place_steps(discount * score - before, known & known_before, traj, channel.reasons)


class StatePotential:
    """A potential of states alone, written for rows of an array: `score` takes states [n, D] and gives their numbers [n].

    For `potential_shaping(potential=StatePotential(...))`, which it serves as any function of trajectories does. Wrappers of
    environments ask it about new states only, and keep what it said of the last ones: the cheapest way to shape every step.

    of: which of traj.extras holds the states, [N, T+1, D]. Raises ValueError without them, or for another shape than [n].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"observations": torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat(4, 1)[..., None]})
    >>> StatePotential(lambda states: states[:, 0] - 2)(traj)[0]
    tensor([-1.,  0.,  1.,  2.])
    """

    def __init__(self, score: Callable[[np.ndarray], np.ndarray], *, of: str = "observations") -> None:
        self.score, self.of = score, of

    def __call__(self, traj: Trajectories) -> Float[Tensor, "N T1"]:
        """The potential of every state, [N, T+1]."""
        states = traj.extras.get(self.of)
        if states is None or states.ndim != 3 or states.shape[1] != traj.width + 1:
            found = "none" if states is None else list(states.shape)
            raise ValueError(f"StatePotential: needs traj.extras[{self.of!r}] [N, T+1, D], found {found}")
        rows = self.of_rows(states.detach().cpu().numpy().reshape(-1, states.shape[2]))
        return torch.from_numpy(rows).reshape(states.shape[:2]).to(states.device)

    def of_rows(self, states: np.ndarray) -> np.ndarray:
        """What `score` says of these states, looked at."""
        found = np.asarray(self.score(states))
        if found.shape != (len(states),) or found.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"StatePotential: must give one float32 or float64 for each of {len(states)} states, "
                f"gave {found.dtype} {list(found.shape)}"
            )
        return found


def _check(where: str, discount: float, at_end: str) -> None:
    if not 0 <= discount <= 1:
        raise ValueError(f"{where}: discount must lie in 0..1, got {discount}")
    if at_end not in ("zero", "keep"):
        raise ValueError(f'{where}: at_end must be "zero" or "keep", got {at_end!r}')
