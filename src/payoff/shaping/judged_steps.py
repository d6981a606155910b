"""Judgements of single steps set against the outcome: votes of several judges, and scores centred together with what came out."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import pad

from payoff.catalogue import method
from payoff.pipeline import merge_reasons
from payoff.trajectories import Rewards, Trajectories, outcome, per_step, place_steps


@method("capo", kind="shaping", paper="arXiv:2508.02298")
def vote(
    rewards: Rewards,
    traj: Trajectories,
    *,
    by: str = "critique",
    voting: Literal["intersection", "majority", "average"] = "intersection",
    into: str = "flaws",
) -> Rewards:
    """Make one verdict on every step of several judges', and pay -1 for a step that is held to be wrong (CAPO).

    The M critiques are the channel `by` and those named "by/...": each pays 1 in a step it calls wrong and 0 in others. A step is
    wrong if all say so ("intersection"), if more than half do ("majority"), or by the share that does ("average"); the channel
    `into` pays -wrong at the step's end, the others pass unchanged. Independent judges who blame a right step with probability q
    all do with q^M. M = 1: the three agree.

    The paper's weight of a token is 2 outcome - wrong(its step): paths `outcome: [total]` and `flaws: [immediate]` mixed 2 to 1,
    and then the advantage `capo`. While the outcome weighs more than a flaw, a flawed step in a right answer is still encouraged;
    where it does not, short and empty answers are. `immediate` charges a step for nothing but itself, which climbs no one
    objective; with `return-to-go` it is E[2 outcome - number of wrong steps].

    A judge who has no verdict on a step does not vote on it; a step nobody judged is unknown. Raises KeyError where there is no
    critique, ValueError for one that is neither 0 nor 1.

    >>> import torch
    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import Channel
    >>> says = lambda *row: Channel(torch.tensor([row]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> critiques = {"critique/1": says(0.0, 1.0, 1.0), "critique/2": says(0.0, 0.0, 1.0)}
    >>> vote(critiques, four_answers(), voting="average")["flaws"].value[0]
    tensor([ 0.0000, -0.5000, -1.0000])
    """
    critiques = [channel for name, channel in rewards.items() if name == by or name.startswith(f"{by}/")]
    if not critiques:
        raise KeyError(f"vote: no reward channel {by!r} or {by + '/...'!r}; there are {sorted(rewards)}")
    wrong, known = (torch.stack(x) for x in zip(*((c[0], c[2]) for c in (per_step(c, traj) for c in critiques)), strict=True))
    if (odd := known & (wrong != 0) & (wrong != 1)).any():
        raise ValueError(f"vote: a critique pays 1 for a wrong step and 0 for another, got {float(wrong[odd][0])}")
    votes, blame = known.sum(0), wrong.sum(0)
    if voting == "average":
        held = blame / votes.clamp(min=1)
    else:
        held = (blame == votes if voting == "intersection" else 2 * blame > votes).to(wrong.dtype)
    paid = place_steps(torch.where(votes > 0, 0 - held, 0), votes > 0, traj, merge_reasons(critiques))
    return {**rewards, into: paid}


@method("ppr-renorm", kind="shaping", paper="arXiv:2509.25598")
def centred_together(
    rewards: Rewards, traj: Trajectories, *, process: str = "process", by: str = "correct", into: str = "renorm"
) -> Rewards:
    """Pay every turn but the last its score and the outcome, each less one half, and the last one the outcome (ReNorm).

    r_k = (p_k - 1/2) + (o - 1/2) = p_k + o - 1 for k < K, r_K = o, paid at the end of turn k in the channel `into`; p_k is what the
    channel `process` pays in step k and o the outcome of `by`, both in [0, 1]. A good turn in a failure and a bad one in a success
    get about 0, agreement +-1. A failed trajectory earns nothing by further turns (r_k <= 0), and K turns never earn more than K.

    The half that is taken off counts once per turn: it matters where the number of turns is a choice, and cancels against others of
    the same number. And since o comes after turn k, what is paid before an action may depend on it: a return-to-go leaves that out
    and is not the gradient of all that is paid (`total` is).

    The other channels pass unchanged. One turn: the outcome alone. A turn without a score is unknown, a trajectory without an
    outcome is unknown throughout. Raises KeyError for a channel that is not there, ValueError for a number outside [0, 1].

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import Channel, place_outcome
    >>> traj, known = four_answers(), torch.ones(4, dtype=torch.bool)
    >>> scores = Channel(torch.tensor([[1.0, 0.25, 1.0]]).repeat(4, 1), known[:, None])
    >>> correct = place_outcome(torch.tensor([1.0, 0.0, 0.0, 1.0]), known, traj)
    >>> centred_together({"process": scores, "correct": correct}, traj)["renorm"].value
    tensor([[ 1.0000,  0.2500,  1.0000],
            [ 0.0000,  0.0000,  0.0000],
            [ 0.0000, -0.7500,  0.0000],
            [ 1.0000,  0.0000,  0.0000]])
    """
    if lost := [name for name in (process, by) if name not in rewards]:
        raise KeyError(f"centred_together: no reward channel {lost[0]!r}; there are {sorted(rewards)}")
    score, here, known = per_step(rewards[process], traj)
    result, settled = outcome(rewards[by], traj)
    last = here & ~pad(here[:, 1:], (0, 1))
    for name, number, counts in ((process, score, known & ~last), (by, result, settled)):
        if (odd := counts & ((number < 0) | (number > 1 + 1e-6))).any():
            raise ValueError(f"centred_together: {name!r} must lie in 0..1, got {float(number[odd][0])}")
    paid = torch.where(last, result[:, None], score + result[:, None] - 1)
    valid = settled[:, None] & (known | last)
    reasons = merge_reasons([rewards[process], rewards[by]])
    return {**rewards, into: place_steps(paid, valid, traj, reasons)}
