"""Advantages of denoising policies: how rollouts of one start are compared there, and how much each step of one counts.

The steps' noise is read from extras["std"] [N, T], which a denoising policy records.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt64
from torch import Tensor

from payoff.advantages.actions import known_positions, row_counts
from payoff.advantages.arrays import both, clean, positive, weighed
from payoff.advantages.normalise import standardise
from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories

_DRAWS = 4  # of 16 bits in a word
_STEP, _ODD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)  # from one word to the next; to spread the bits of one


@method("flow-grpo", kind="advantage", paper="arXiv:2505.05470", sees="batch")
def flow_grpo(
    channel: Channel, traj: Trajectories, *, scale_over: Literal["batch", "group"] = "batch", bound: float = 5.0
) -> Channel:
    """Compare a rollout with its start's others, in standard deviations of the whole batch (Flow-GRPO, eq. 5, as its code has it).

    A = clamp((C - mean_group C) / (std C + 1e-4), -bound, bound), the standard deviation with divisor n. Equal rewards get 0.
    The rest of the method is the spine's: `total` before it, `ppo-clip` with low = high = 1e-4 after it on log-probabilities that
    are means over dimensions, `kl-k2` as a second term, and `drop-equal-groups` for starts that teach nothing.
    Raises ValueError unless bound > 0.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [3.0], [3.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> flow_grpo(credit, four_answers()).value.T
    tensor([[ 0.3849, -0.3849,  0.0000,  0.0000]])
    """
    return _bounded("flow_grpo", standardise(channel, traj, scale_over=scale_over, eps=1e-4), bound)


@method("dancegrpo", kind="advantage", paper="arXiv:2505.07818", sees="group")
def dancegrpo(channel: Channel, traj: Trajectories, *, fraction: float = 0.6, bound: float = 5.0) -> Channel:
    """Compare a rollout with its start's others, and train on a random share of its steps (DanceGRPO, eq. 8, as its code has it).

    A = clamp((C - mean_group C) / (std_group C + 1e-8), -bound, bound), divisor n - 1, at int(fraction m) of a rollout's m own
    actions (at least one of them); the others are left without a verdict, so that an average over actions divides by the number
    that is trained. Which ones they are follows from the trajectory's id: another share for every rollout, the same for every
    channel, whatever the order of rows. fraction 1: all, and [N, 1] stays [N, 1].

    Several rewards are each sent down a path that ends here, and added after: a reward in large units then counts no more than
    the others. The method's other parts are options of the policy: noise "constant", start_noise "group", last_clean; and
    `ppo-clip` with 1e-4. Raises ValueError for a fraction outside (0, 1], and unless bound > 0.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [0.7], [0.7]]), torch.ones(4, 1, dtype=torch.bool))
    >>> chosen = dancegrpo(credit, four_answers(), fraction=0.5)
    >>> chosen.valid.sum(1), chosen.value.abs().sum(1)
    (tensor([1, 1, 1, 1]), tensor([0.7071, 0.7071, 0.0000, 0.0000]))
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"dancegrpo: fraction must lie in (0, 1], got {fraction}")
    compared = _bounded("dancegrpo", standardise(channel, traj, ddof=1, eps=1e-8), bound)
    if fraction == 1:
        return compared
    valid = _share(traj, fraction)
    if compared.valid.shape[1] > 1 or not bool(compared.valid.all()):
        valid = both(compared.valid, valid)
    value = clean(compared.value.expand(valid.shape), valid)
    return Channel(value, valid, compared.reasons)


@method("tempflow-grpo", kind="advantage", paper="arXiv:2508.04324", needs=("std",))
def noise_weighted(channel: Channel, traj: Trajectories) -> Channel:
    """Let a step count by the noise that was put into it (TempFlow-GRPO, eq. 8).

    A_t w_t, w_t = std_t / mean_t std, the mean over the steps of the schedule that have noise, drawn or not: early steps, which
    decide most, count more than the last ones. Without it the gradient of a step grows as 1 / std; with it, on a rectified path
    with growing noise, as the time that the step takes. A positive factor of the advantage is a weight of the loss's term, clipped
    or not.

    [N, T]. A trajectory without noise gets weights 1. The other half of the method, one sampled step for each rollout, is the
    policy's acts="one": a group then differs in that step alone, and its advantage is that step's credit.
    Raises ValueError without extras["std"].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"std": torch.tensor([[3.0, 2.0, 1.0]]).repeat(4, 1)})
    >>> noise_weighted(Channel(torch.ones(4, 1), torch.ones(4, 1, dtype=torch.bool)), traj).value
    tensor([[1.5000, 1.0000, 0.5000],
            [1.2000, 0.8000, 0.0000],
            [1.5000, 1.0000, 0.5000],
            [1.0000, 0.0000, 0.0000]])
    """
    if "std" not in traj.extras:
        raise ValueError('noise_weighted: needs traj.extras["std"] [N, T], the noise of every step')
    std = traj.extras["std"].to(channel.value.dtype)

    def weight(rows: slice) -> Float[Tensor, "n T"]:
        noise = clean(std[rows], traj.exists[rows]).clamp_(min=0)
        number = row_counts(positive(noise))[:, None]
        mean = noise.double().sum(1, keepdim=True) / number.clamp(min=1)
        noise.div_(torch.where(number > 0, mean, 1).to(noise.dtype))
        return noise if bool(number.all()) else torch.where(number > 0, noise, 1)

    return channel._replace(value=weighed(channel.value, weight, known_positions(channel, traj)))


def _bounded(name: str, channel: Channel, bound: float) -> Channel:
    if not bound > 0:
        raise ValueError(f"{name}: bound must be > 0, got {bound}")
    return channel._replace(value=channel.value.clamp(-bound, bound))


def _share(traj: Trajectories, fraction: float) -> Bool[Tensor, "N T"]:
    """A share of every trajectory's own actions, drawn by its id."""
    count = row_counts(traj.own)
    wanted = (count.double() * fraction + 1e-9).floor().clamp(min=1).minimum(count).long()
    drawn = _drawn(traj.id.cpu().numpy(), count.cpu().numpy(), wanted.cpu().numpy(), traj.width)
    share = torch.from_numpy(drawn).to(traj.device)
    if bool((count == traj.length).all()):  # every position is an own action
        return share
    return share.gather(1, (traj.own.cumsum(1) - 1).clamp(min=0)).logical_and_(traj.own)


def _drawn(
    id: Int[np.ndarray, " N"], count: Int[np.ndarray, " N"], wanted: Int[np.ndarray, " N"], width: int
) -> Bool[np.ndarray, "N {width}"]:
    """As many as wanted of the first `count` places of each row, every set of that size as likely as another.

    From the last place down: one of k still to come is taken with probability w / k where w are wanted still (selection sampling).
    Draws have 16 bits, so that this probability is off by less than 2^-16; how many are taken is always exact.
    """
    small, words = np.min_scalar_type(width), -(-width // _DRAWS)
    order = np.argsort((width - count).astype(small), kind="stable")  # those that still have k places to come are the first rows
    reach = np.bincount(count, minlength=words * _DRAWS + 1)[::-1].cumsum()[::-1]  # and this many
    seed = id[order].view(np.uint64)
    word, spare = np.empty_like(seed), np.empty_like(seed)
    _spread_(_spread_(np.add(seed, _STEP, out=seed), spare), spare)
    missing, place = wanted[order].astype(small), np.empty(len(seed), small)
    product = np.empty(len(seed), np.int32 if width < 1 << 15 else np.int64)
    packed = np.zeros((-(-width // 8), len(seed)), np.uint8)
    places = np.arange(words * _DRAWS, 0, -1).tolist()
    for k in places:
        draw = (k - 1) % _DRAWS
        if draw == _DRAWS - 1:  # a word of draws for every row that has any of its places
            some = slice(reach[k - draw])
            np.add(seed[some], _STEP * np.array(k, np.uint64), out=word[some])
            draws = _spread_(word[some], spare[some]).view(np.uint16).reshape(-1, _DRAWS)
        some = slice(reach[k])
        np.multiply(draws[some, draw], k, out=product[some], dtype=product.dtype)
        np.copyto(place[some], np.right_shift(product[some], 16, out=product[some]), casting="unsafe")
        taken = place[some] < missing[some]
        missing[some] -= taken
        bits = packed[(k - 1) // 8, some]
        np.bitwise_or(np.add(bits, bits, out=bits), taken, out=bits)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    rows = np.ascontiguousarray(packed.T).take(back, axis=0)
    return np.unpackbits(rows, axis=1, count=width, bitorder="little").view(bool)


def _spread_(x: UInt64[np.ndarray, " n"], spare: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Every bit of a number spread over the whole of it, in place; no two numbers become one."""
    np.bitwise_xor(x, np.right_shift(x, 32, out=spare), out=x)
    np.multiply(x, _ODD, out=x)
    return np.bitwise_xor(x, np.right_shift(x, 32, out=spare), out=x)
