"""Entropy held near what it was: a bonus, and a band around the mean of past updates, turn by turn.

`turn_entropy` remembers how spread out the policy was at each turn and hands that on as a target; `entropy_smoothing` is the loss
that reads it. Both go into one term:

    entropy: {paths: {correct: [turn-entropy]}, loss: epo, aggregation: token-mean, weight: 0.001}

The channel of such a path is only there to be named: neither its numbers nor what is unknown of it are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.losses.ratios import means
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Rewards, Trajectories

Penalty = Literal["distance", "constant"]
Level = Literal["action", "turn"]


@method("turn-entropy", kind="credit", paper="arXiv:2509.22576", needs=("entropy",), sees="batch")
class TurnEntropy(nn.Module):
    """The mean entropy of the policy at each turn over all updates so far (EPO), as the target of `entropy_smoothing`.

    Hbar_k = mean over past updates of the mean of H(pi(. | s_t)) over the own actions of turn k (`traj.step`), from
    traj.extras["entropy"] [N, T]; updates in which nobody reached turn k do not count for it. Given to every action of turn k; 0,
    which says nothing, where turn k was never reached before. Always valid.

    `learn` adds an update; its metrics are how many there are and the mean entropy of this one. State goes with checkpoints.
    Raises ValueError when it learns from trajectories without extras["entropy"].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> traj = traj.replace(extras={"entropy": torch.tensor([[1.0, 0.4, 0.2]]).repeat(4, 1)})
    >>> reward, memory = Channel(torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.bool)), TurnEntropy()
    >>> memory(reward, traj).value[1].tolist()
    [0.0, 0.0, 0.0]
    >>> memory.learn(traj, {})["turn_entropy/updates"]
    1.0
    >>> memory(reward, traj).value
    tensor([[1.0000, 0.4000, 0.2000],
            [1.0000, 0.4000, 0.0000],
            [1.0000, 0.4000, 0.2000],
            [1.0000, 0.0000, 0.0000]])
    """

    total: Tensor
    times: Tensor
    updates: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "times"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, channel: Channel, traj: Trajectories) -> Channel:
        """What is remembered, at every action; the channel's own numbers are not looked at."""
        known = torch.cat([self.total / self.times.clamp(min=1), self.total.new_zeros(1)])
        turn = torch.where(traj.own & (traj.step < len(self.total)), traj.step.long(), len(self.total))
        value = known[turn].to(channel.value.dtype)
        return Channel(value, torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device))

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """Add the mean entropies of these rollouts, one for each turn that somebody reached."""
        if "entropy" not in traj.extras:
            raise ValueError('turn_entropy: needs traj.extras["entropy"] [N, T]')
        turns = max(int(traj.step.max()) + 1 if traj.step.numel() else 0, len(self.total))
        turn = traj.step[traj.own].long()
        entropy = traj.extras["entropy"][traj.own].double()
        zeros = torch.zeros(turns, dtype=torch.float64, device=traj.device)
        count = zeros.index_add(0, turn, torch.ones_like(entropy))
        mean = zeros.index_add(0, turn, entropy) / count.clamp(min=1)
        longer = lambda old: nn.functional.pad(old, (0, turns - len(old)))
        self.total, self.times = longer(self.total) + mean, longer(self.times) + (count > 0).double()
        self.updates = self.updates + 1
        return {
            "turn_entropy/updates": float(self.updates),
            "turn_entropy/now": float(entropy.mean()) if len(entropy) else None,
        }

    def _load_from_state_dict(self, state_dict, prefix, *others) -> None:
        # The number of turns is only known once they were seen, so what is loaded brings its own size.
        for name in ("total", "times"):
            if prefix + name in state_dict:
                setattr(self, name, torch.zeros_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *others)


@method("epo", kind="loss", paper="arXiv:2509.22576", needs=("entropy",))
def entropy_smoothing(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    lower: float = 0.8,
    upper: float = 1.2,
    penalty: Penalty = "distance",
    size: float = 0.1,
    coefficient: float = 1.0,
    level: Level = "action",
    first_turn: int = 0,
) -> LossOutput:
    """An entropy bonus and a band around past entropies (EPO): term_t = -H_t + coefficient p_t.

    H_t is the entropy at action t, in nats. p_t is 0 inside the band, lower Hbar_t < H_t < upper Hbar_t, and outside it
      "distance": lower Hbar_t - H_t below, H_t - upper Hbar_t above. With coefficient 1 the bonus is doubled below the band and
                  ends above it; with more, entropy above the band is pushed down.
      "constant": `size`, as in the authors' program. A constant that a comparison selects has no gradient: that loss has the value
                  of a band and the gradient of `entropy_bonus`. "distance" is what the band is there for, in our form.
    level:      "turn": p_t of the mean entropy over the own actions of the turn, the same for all of them (the paper's sequence
                form, whose program has a row for each turn and counts padding in its mean)
    first_turn: p_t = 0 at earlier turns (`traj.step`). The authors' program starts at half of the greatest number of turns, for all
                rows of a batch in which any has come so far

    The target is Hbar, from `turn_entropy`; 0 where there is no history yet, and then p_t = 0. So the first update is
    `entropy_bonus`, and so is all of it under the target `everywhere` with lower = 0 and upper = inf.
    The weight of the term is the paper's lambda (0.001). Aggregate by `token-mean`, which averages over all turns alike.
    Metrics: entropy (mean of H), smoothing (mean of p), below and above (shares of the terms outside the band).
    Raises ValueError without evaluation.more["entropy"], for bounds that are not 0 <= lower <= 1 <= upper, a negative coefficient,
    size or first_turn, an unknown penalty and an unknown level.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> evaluation = Evaluation(traj.logp["old"], {"entropy": torch.tensor([[1.0, 0.4, 0.2]]).repeat(4, 1)})
    >>> past = Channel(torch.full((4, 1), 0.5), torch.ones(4, 1, dtype=torch.bool))
    >>> entropy_smoothing(evaluation, traj, past).terms[0]
    tensor([-0.6000, -0.4000,  0.0000])
    """
    if not 0 <= lower <= 1 <= upper:
        raise ValueError(f"epo: needs 0 <= lower <= 1 <= upper, got lower {lower} and upper {upper}")
    if coefficient < 0 or size < 0 or first_turn < 0:
        raise ValueError(f"epo: coefficient, size and first_turn must be at least 0, got {coefficient}, {size} and {first_turn}")
    if penalty not in ("distance", "constant") or level not in ("action", "turn"):
        raise ValueError(
            f'epo: penalty must be "distance" or "constant" and level "action" or "turn", got {penalty!r} and {level!r}'
        )
    if "entropy" not in evaluation.more:
        raise ValueError('epo: needs evaluation.more["entropy"] [N, T]')
    counts = traj.own & target.valid
    entropy = torch.where(counts, evaluation.more["entropy"], 0)
    past = torch.where(counts & (traj.step >= first_turn), target.value, 0).to(entropy.dtype)
    compared = entropy if level == "action" else _of_turns(entropy, counts, traj)
    some = past > 0
    least, most = lower * past, torch.where(some, upper * torch.where(some, past, 1), math.inf)
    below, above = some & (compared <= least), compared >= most
    outside = _distance(compared, least, most) if penalty == "distance" else torch.full_like(entropy, size)
    smoothing = torch.where(below | above, outside, 0)
    terms = torch.where(counts, coefficient * smoothing - entropy, 0)
    return LossOutput(terms, means(counts, {"entropy": entropy, "smoothing": smoothing, "below": below, "above": above}))


@method("epo-scheduled", kind="loss", paper="arXiv:2509.22576", needs=("entropy",))
class ScheduledEntropySmoothing(nn.Module):
    """The same with a penalty that fades over a run (EPO's schedule): term_t = -H_t + coefficient w(k) p_t after k updates.

    With h = floor(over / 2): w = 1 - 0.2 (1 - exp(-2 k / h)) up to k = h, then 0.8 exp(-3 (k - h) / (over - h)): 0.83 at h, and
    0.04 at `over` and after. The bonus -H_t does not fade.

    over: updates of the whole run, 150 in the authors' program; the others are those of `epo`
    `learn` counts an update; metric: epo/factor, the w of the next one. The count goes with checkpoints. Raises ValueError as
    there, and for over < 1.

    >>> loss = ScheduledEntropySmoothing(over=4)
    >>> [round(loss.learn(None, {})["epo/factor"], 3) for _ in range(5)]
    [0.874, 0.827, 0.179, 0.04, 0.04]
    """

    updates: Tensor

    def __init__(
        self,
        *,
        over: int = 150,
        lower: float = 0.8,
        upper: float = 1.2,
        penalty: Penalty = "distance",
        size: float = 0.1,
        coefficient: float = 1.0,
        level: Level = "action",
        first_turn: int = 0,
    ) -> None:
        super().__init__()
        if over < 1:
            raise ValueError(f"epo-scheduled: over must be at least 1, got {over}")
        self.over, self.coefficient, self.lower, self.upper = over, coefficient, lower, upper
        self.penalty, self.size, self.level, self.first_turn = penalty, size, level, first_turn
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def factor(self) -> float:
        """w of the next update."""
        done, half = min(int(self.updates), self.over), self.over // 2
        if done > half:
            return 0.8 * math.exp(-3 * (done - half) / (self.over - half))
        return 1 - 0.2 * (1 - math.exp(-2 * done / half)) if half else 1.0

    def forward(self, evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
        """The terms, and the metrics of `epo`."""
        return entropy_smoothing(
            evaluation,
            traj,
            target,
            lower=self.lower,
            upper=self.upper,
            penalty=self.penalty,
            size=self.size,
            coefficient=self.coefficient * self.factor,
            level=self.level,
            first_turn=self.first_turn,
        )

    def learn(self, traj: Trajectories | None, rewards: Rewards) -> dict[str, float]:
        """Count an update."""
        self.updates += 1
        return {"epo/factor": self.factor}


def _of_turns(entropy: Float[Tensor, "N T"], counts: Bool[Tensor, "N T"], traj: Trajectories) -> Float[Tensor, "N T"]:
    """At every action that counts the mean over those of its turn; 0 elsewhere."""
    turns = int(traj.step.max()) + 1 if traj.step.numel() else 1
    rows = torch.arange(len(traj), device=traj.device)[:, None]
    turn = (rows * max(turns, 1) + traj.step.clamp(min=0).long())[counts]
    zeros = entropy.new_zeros(len(traj) * max(turns, 1))
    size = zeros.index_add(0, turn, torch.ones_like(entropy[counts]))
    mean = zeros.index_add(0, turn, entropy[counts]) / size.clamp(min=1)
    return torch.zeros_like(entropy).masked_scatter(counts, mean[turn])


def _distance(entropy: Float[Tensor, "N T"], least: Float[Tensor, "N T"], most: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """How far an entropy is outside its band; 0 inside."""
    return (least - entropy).clamp(min=0) + (entropy - most).clamp(min=0)
