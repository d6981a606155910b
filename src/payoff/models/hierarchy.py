"""A reward learned from what matters in its order of importance: comparisons down a hierarchy, and a network that agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import softplus

from payoff.catalogue import method
from payoff.trajectories import Channel, Rewards, Trajectories, outcome


@method("heron", kind="model", paper="arXiv:2309.02632")
class HierarchicalPreference(nn.Module):
    """Pay what a network learned from comparing factors in their order of importance (HERON), as the channel "heron".

    factors: reward channels, the most important first. They are scored beside this one and need not be trained on
    signs:   +1 where more of the factor is better, -1 where less is; all +1 by default
    margins: by how many standard deviations of a batch a factor must differ to decide; 0 for the first and 1/2 for the others
    size:    D of extras[of] [N, T+1, D], the states that are scored, each by the state its action led to
    per:     what is compared: "step": two positions of the batch, by the factors paid there; "trajectory": two rollouts, by all
             that is paid in them, and a rollout's score is the sum of its positions'
    pairs:   comparisons drawn for one step of the optimiser (all of them where there are no more), of which `steps` are taken
    standardise: pay (r - mean) / std of the scores of what was learned from so far

    Two are compared as in `decide`; undecided pairs are left out. The network, two layers of `hidden` ReLU units, maximises
    log sigmoid(r_winner - r_loser) by Adam, on every batch before it is scored. A batch with nothing to decide teaches nothing.
    Only the order of importance is asked for, no weights: rescaling a factor changes nothing.
    With margins above 0 the comparisons can go in circles, so no score agrees with all of them.

    Raises ValueError for numbers that make no sense, states of another size, and a factor of which there is no channel.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"observations": torch.arange(16.0).reshape(4, 4, 1)})
    >>> model = HierarchicalPreference(factors=["height"], size=1)
    >>> height = Channel(traj.extras["observations"][:, 1:, 0], torch.ones(4, 1, dtype=torch.bool))
    >>> for _ in range(5): metrics = model.learn(traj, {"height": height})
    >>> metrics["heron/accuracy"] > 0.9
    True
    """

    learns_first = True
    scale: Tensor

    def __init__(
        self,
        *,
        factors: Sequence[str],
        size: int,
        signs: Sequence[float] | None = None,
        margins: Sequence[float] | None = None,
        per: Literal["step", "trajectory"] = "step",
        hidden: int = 256,
        learning_rate: float = 1e-3,
        pairs: int = 1024,
        steps: int = 10,
        standardise: bool = True,
        of: str = "observations",
    ) -> None:
        super().__init__()
        count = len(factors)
        signs = [1.0] * count if signs is None else list(signs)
        margins = [0.0, *[0.5] * (count - 1)] if margins is None else list(margins)
        if not count or len(signs) != count or len(margins) != count or set(map(abs, signs)) != {1} or min(margins) < 0:
            raise ValueError(
                f"heron: needs at least one factor and for each a sign of 1 or -1 and a margin of at least 0, got {list(factors)}, "
                f"{signs} and {margins}"
            )
        for name, number in (("size", size), ("hidden", hidden), ("pairs", pairs), ("steps", steps)):
            if number < 1:
                raise ValueError(f"heron: {name} must be at least 1, got {number}")
        self.factors, self.per, self.pairs, self.steps, self.of = list(factors), per, pairs, steps, of
        self.signs, self.margins, self.standardise = torch.tensor(signs), torch.tensor(margins), standardise
        self.network = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self.register_buffer("scale", torch.zeros(3, dtype=torch.float64))  # count, mean, squared deviations

    def forward(self, traj: Trajectories) -> Rewards:
        score = self.score(traj).detach()
        count, mean, squares = self.scale
        if self.standardise and count > 1 and squares > 0:
            score = torch.where(traj.exists, ((score - mean) / (squares / count).sqrt()).to(score.dtype), 0)
        return {"heron": Channel(score, torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device))}

    def score(self, traj: Trajectories) -> Float[Tensor, "N T"]:
        """The network's number for the state each action led to, as it is; 0 beyond the end."""
        states, size = traj.extras.get(self.of), self.network[0].in_features
        if states is None or states.shape != (len(traj), traj.width + 1, size):
            found = "none" if states is None else f"{list(states.shape)}"
            raise ValueError(
                f"heron: needs traj.extras[{self.of!r}] [N, T+1, D] = [{len(traj)}, {traj.width + 1}, {size}], found {found}"
            )
        at = traj.exists.flatten().nonzero().squeeze(1)
        value = self.network(states[:, 1:].flatten(0, 1)[at])[:, 0]
        return value.new_zeros(traj.mask.numel()).index_copy(0, at, value).reshape(traj.mask.shape)

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float]:
        """Take `steps` steps on pairs of this batch; metrics: accuracy on the last pairs, and the share that was decided."""
        if lost := [name for name in self.factors if name not in rewards]:
            raise ValueError(f"heron: there is no reward channel {lost[0]!r} to compare by; there are {sorted(rewards)}")
        factors, known, entry = self._compared(traj, rewards)
        rows = known.nonzero().squeeze(1)
        if len(rows) < 2:
            return {"heron/decided": 0.0}
        deviation = factors[rows].std(0)
        metrics = {"heron/decided": 0.0}
        with torch.enable_grad():
            for _ in range(self.steps):
                a, b = (part.to(rows.device) for part in self._drawn(len(rows)))
                label = decide(factors[rows[a]], factors[rows[b]], self.signs, self.margins * deviation)
                decided = label != 0
                if not decided.any():
                    continue
                score = entry()[rows]
                gap = label[decided] * (score[a] - score[b])[decided]
                self.optimiser.zero_grad()
                softplus(-gap).mean().backward()
                self.optimiser.step()
                metrics = {"heron/accuracy": float((gap > 0).double().mean()), "heron/decided": float(decided.double().mean())}
        with torch.no_grad():
            _merge(self.scale, self.score(traj)[traj.exists])
        return metrics

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser: for checkpoints."""
        return self.optimiser.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.optimiser.load_state_dict(state)

    def _compared(self, traj: Trajectories, rewards: Rewards):
        """(factors [C, M], which are known, a function that gives the scores [C]) of everything that can be compared."""
        channels = [rewards[name] for name in self.factors]
        if self.per == "trajectory":
            paid = [outcome(channel, traj) for channel in channels]
            whole, sure = torch.stack([value for value, _ in paid], 1), torch.stack([known for _, known in paid], 1)
            return whole, sure.all(1), lambda: self.score(traj).sum(1)
        shape = traj.mask.shape
        value = torch.stack([torch.where(traj.exists & c.valid, c.value, 0).expand(shape) for c in channels], 2)
        known = torch.stack([c.valid.expand(shape) for c in channels]).all(0) & traj.exists
        return value.flatten(0, 1), known.flatten(), lambda: self.score(traj).flatten()

    def _drawn(self, count: int) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"]]:
        """Pairs of different entries: all of them once, or so many at random."""
        if count * (count - 1) // 2 <= self.pairs:
            index = torch.triu_indices(count, count, 1)
            return index[0], index[1]
        a = torch.randint(count, (self.pairs,))
        return a, (a + torch.randint(1, count, (self.pairs,))) % count


def decide(
    a: Float[Tensor, "P M"], b: Float[Tensor, "P M"], signs: Float[Tensor, " M"], margins: Float[Tensor, " M"]
) -> Int[Tensor, " P"]:
    """Who wins at the first factor that differs enough: 1 for a, -1 for b, 0 where none does (HERON).

    Factor m decides for a where signs_m a_m > signs_m b_m + margins_m, for b the other way round, and else leaves it to the next.
    Antisymmetric. With margins of 0 the lexicographic order, which no increasing transform of a factor changes; with others not
    transitive.

    >>> safe_fast = lambda safe, fast: torch.tensor([[safe, fast]])
    >>> decide(safe_fast(1.0, 0.0), safe_fast(0.0, 9.0), torch.ones(2), torch.zeros(2)).tolist()
    [1]
    """
    ahead = signs * (a - b)
    verdict = (ahead > margins).int() - (ahead < -margins).int()
    first = (verdict != 0).int().argmax(1, keepdim=True)
    return verdict.gather(1, first)[:, 0]


def _merge(moments: Float[Tensor, " three"], x: Float[Tensor, " n"]) -> None:
    """Let these numbers enter the count, mean and squared deviations, in place."""
    x = x.double()
    count, gap = moments[0] + len(x), x.mean() - moments[1]
    moments[2] += (x - x.mean()).square().sum() + gap.square() * moments[0] * len(x) / count
    moments[1] += gap * len(x) / count
    moments[0] = count
