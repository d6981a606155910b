"""Return decomposition: a reward for every step that adds up to what a whole episode was paid, learned from episodes alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.trajectories import Channel, Rewards, Trajectories, outcome

Encoder = Callable[[Trajectories], Tensor]


def decomposition_loss(
    predicted: Float[Tensor, "N K"],
    target: Float[Tensor, " N"],
    length: Int[Tensor, " N"],
    drawn: Bool[Tensor, "N K"],
    *,
    unbiased: bool = True,
    replaced: Bool[Tensor, " N"] | None = None,
) -> Float[Tensor, " N"]:
    """(mean of the drawn predictions - target)^2 of every trajectory, less what the draw alone adds on average (RRD).

    With k steps drawn of T without replacement and S2 their sample variance (divisor k - 1), the draw adds (1 - k/T) S2 / k to the
    square of the full mean; `replaced` marks rows drawn with replacement, where it adds S2 / k. Without that, `unbiased` False, the
    loss also pulls predictions together. The corrected loss may be negative: it is a square only on average. k = T corrects
    nothing, and one drawn step cannot be corrected.

    >>> said = torch.tensor([[1.0, 3.0]])
    >>> every = torch.ones(1, 2, dtype=torch.bool)
    >>> decomposition_loss(said, torch.tensor([2.0]), torch.tensor([4]), every)  # 0 - (1 - 2/4) * 2 / 2
    tensor([-0.5000])
    """
    count = drawn.sum(1)
    predicted = torch.where(drawn, predicted, 0)
    mean = predicted.sum(1) / count.clamp(min=1)
    loss = (mean - target).square()
    if unbiased:
        spread = torch.where(drawn, predicted - mean[:, None], 0).square().sum(1) / (count - 1).clamp(min=1)
        left_out = 1 - count / length.clamp(min=1)
        share = left_out if replaced is None else torch.where(replaced, 1.0, left_out)
        loss = loss - share.clamp(min=0) * spread / count.clamp(min=1)
    return loss


@method("return-decomposition", kind="model", paper="arXiv:2111.13485")
class ReturnDecomposition(nn.Module):
    """Pay every step what a network learned it to be worth, from the returns of whole episodes (RRD), channel "latent".

    r_t = f(phi(s_t, a_t)) with phi the factors of a step and f a network of two hidden ReLU layers; so that mean_t r_t = R / T.
    From every episode `steps` steps are drawn and the loss is `decomposition_loss`, by Adam, on episodes drawn from those of the
    last batches. `immediate` or `return-to-go` then makes a credit of it; summed up the payments are R where the fit is perfect.

    size:     how many factors a step has
    encoder:  the factors of every step, [N, T, size]: code that a language model wrote: the signal `lare`. None: observation and
              action side by side, as return decomposition without factors has them
    by:       the channel whose whole payment is decomposed
    steps:    steps drawn of an episode, without replacement; with, where it has fewer
    capacity: episodes kept to learn from; updates: steps of Adam after each batch, on `batch_size` episodes each
    unbiased: take off what the draw alone adds to the loss
    of:       traj.extras[of] [N, T+1, D] are the states
    together: traj.extras[together] [N] says which rows are agents of one episode that were paid one return together: then the
              worths of all their steps add up to it, sum_i sum_t f(phi(s, a_i)) = R, and each agent is paid for its own. A step
              that is drawn is one of one agent; the authors' program draws moments, and adds the agents up

    Factors are standardised by those that were learned from first. Payments before anything was learned are about 0; they carry no
    gradient, and are 0 beyond the end. Where episodes differ in length, R / T is what short ones are fitted to: a step of a short
    success is worth more. Episodes of unknown return teach nothing.
    Raises ValueError for sizes below 1, without such states, factors of another shape, agents of one episode with unlike returns,
    KeyError for a channel that is not there.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers().replace(extras={"observations": torch.tensor([0.0, 1.0, 0.0, 1.0]).repeat(4, 1)[..., None]})
    >>> _ = torch.manual_seed(0)
    >>> model = ReturnDecomposition(size=2, hidden=16, steps=3, updates=300, learning_rate=1e-2)
    >>> found = model.learn(traj, {"correct": place_outcome(torch.tensor([3.0, 1.0, 3.0, 0.0]), torch.ones(4) > 0, traj)})
    >>> [round(x) for x in model(traj)["latent"].value[0].tolist()]  # the three actions, told apart by the shorter rows
    [0, 1, 2]
    """

    def __init__(
        self,
        *,
        size: int,
        encoder: Encoder | None = None,
        by: str = "correct",
        hidden: int = 256,
        steps: int = 64,
        learning_rate: float = 3e-4,
        capacity: int = 1024,
        updates: int = 50,
        batch_size: int = 64,
        unbiased: bool = True,
        of: str = "observations",
        together: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"size": size, "hidden": hidden, "steps": steps, "capacity": capacity, "updates": updates, "batch_size": batch_size}
        for name, number in sizes.items():
            if number < 1:
                raise ValueError(f"return-decomposition: {name} must be at least 1, got {number}")
        self.size, self.encoder, self.by, self.steps, self.of, self.together = size, encoder, by, steps, of, together
        self.capacity, self.updates, self.batch_size, self.unbiased = capacity, updates, batch_size, unbiased
        self.decoder = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.optimiser = torch.optim.Adam(self.decoder.parameters(), lr=learning_rate)
        self.middle: Tensor
        self.spread: Tensor
        self.register_buffer("middle", torch.zeros(size))
        self.register_buffer("spread", torch.zeros(size))
        self.rng = torch.Generator().manual_seed(seed)
        self.kept: list[tuple[Tensor, float]] = []  # factors of the steps of an episode, and its return

    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "latent": the worth of every step [N, T]."""
        with torch.no_grad():
            factors = self.factors(traj)
            value = torch.zeros(traj.mask.shape, device=traj.device)
            value[traj.exists] = self._worth(factors[traj.exists])
        return {"latent": Channel(value, torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device))}

    def factors(self, traj: Trajectories) -> Float[Tensor, "N T D"]:
        """phi of every step; whatever lies beyond the end is not read."""
        found = raw_factors(traj, self.of) if self.encoder is None else self.encoder(traj)
        if found.shape != (*traj.mask.shape, self.size):
            raise ValueError(
                f"return-decomposition: factors must be [N, T, size] = {[*traj.mask.shape, self.size]}, "
                f"the encoder gave {list(found.shape)}"
            )
        return found.detach().to(torch.get_default_dtype())

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """Keep these episodes and take `updates` steps; metrics: the mean loss, and the share of returns explained."""
        if self.by not in rewards:
            raise KeyError(f"return-decomposition: no reward channel {self.by!r} to decompose; there are {sorted(rewards)}")
        total, known = outcome(rewards[self.by], traj)
        rows = known.nonzero()[:, 0].tolist()
        if not rows:
            return {"decomposition/loss": None, "decomposition/explained": None}
        factors = self.factors(traj)
        own = {row: factors[row, : int(traj.length[row])].cpu() for row in rows}
        new = [(torch.cat([own[row] for row in team]), float(total[team[0]])) for team in self._episodes(traj, rows, total)]
        self.kept = (self.kept + new)[-self.capacity :]
        if not self.spread.any():
            seen = torch.cat([f for f, _ in self.kept])
            deviation = seen.std(0, correction=0)
            self.middle.copy_(seen.mean(0))
            self.spread.copy_(torch.where(deviation > 1e-6, deviation, 1))
        losses = [self._step() for _ in range(self.updates)]
        with torch.no_grad():
            said = torch.stack([self._worth(f).sum() for f, _ in new])
        truth = torch.tensor([r for _, r in new])
        varies = float((truth - truth.mean()).square().sum())
        explained = 1 - float((said - truth).square().sum()) / varies if varies > 0 else None
        return {"decomposition/loss": sum(losses) / len(losses), "decomposition/explained": explained}

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser, the episodes kept and the generator: for checkpoints."""
        return {"optimiser": self.optimiser.state_dict(), "kept": list(self.kept), "rng": self.rng.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        self.kept = list(state["kept"])
        self.rng.set_state(state["rng"])

    def _episodes(self, traj: Trajectories, rows: list[int], total: Float[Tensor, " N"]) -> list[list[int]]:
        """The rows that were paid together."""
        if self.together is None:
            return [[row] for row in rows]
        if self.together not in traj.extras:
            raise ValueError(f"return-decomposition: needs traj.extras[{self.together!r}] [N], which says who plays together")
        teams: dict[int, list[int]] = {}
        for row, name in zip(rows, traj.extras[self.together][rows].tolist(), strict=True):
            teams.setdefault(name, []).append(row)
        if odd := [name for name, team in teams.items() if bool((total[team] != total[team[0]]).any())]:
            raise ValueError(f"return-decomposition: the agents of episode {odd[0]} were paid unlike returns")
        return list(teams.values())

    def _worth(self, factors: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
        spread = torch.where(self.spread > 0, self.spread, 1)
        return self.decoder((factors.to(self.middle) - self.middle) / spread)[:, 0]

    def _step(self) -> float:
        """One step of Adam on episodes drawn from those kept."""
        chosen = torch.randint(len(self.kept), (min(self.batch_size, len(self.kept)),), generator=self.rng).tolist()
        some = [self.kept[i] for i in chosen]
        length = torch.tensor([len(f) for f, _ in some])
        padded = nn.utils.rnn.pad_sequence([f for f, _ in some], batch_first=True)
        place, short = drawn_steps(length, self.steps, self.rng)
        picked = padded.gather(1, place[..., None].expand(-1, -1, self.size))
        predicted = self._worth(picked.flatten(0, 1)).view(place.shape)
        target = torch.tensor([r for _, r in some]).to(predicted) / length.to(predicted)
        with torch.enable_grad():
            loss = decomposition_loss(
                predicted,
                target,
                length.to(predicted.device),
                torch.ones_like(predicted, dtype=torch.bool),
                unbiased=self.unbiased,
                replaced=short.to(predicted.device),
            ).mean()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
        return float(loss.detach()) if math.isfinite(float(loss.detach())) else math.nan


def drawn_steps(length: Int[Tensor, " N"], steps: int, rng: torch.Generator) -> tuple[Int[Tensor, "N K"], Bool[Tensor, " N"]]:
    """`steps` positions of every episode, each before its end, and where they had to be drawn with replacement.

    >>> place, replaced = drawn_steps(torch.tensor([4, 2]), 3, torch.Generator().manual_seed(0))
    >>> sorted(place[0].tolist()) in ([0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]), replaced.tolist()
    (True, [False, True])
    """
    width = max(int(length.max()), steps)
    exists = torch.arange(width) < length[:, None]
    order = torch.where(exists, torch.rand(len(length), width, generator=rng), 2.0).argsort(1)[:, :steps]
    again = (torch.rand(len(length), steps, generator=rng) * length[:, None]).long()
    short = length < steps
    return torch.where(short[:, None], again, order), short


def raw_factors(traj: Trajectories, of: str = "observations") -> Float[Tensor, "N T D"]:
    """The state before each action and the action, side by side."""
    states = traj.extras.get(of)
    if states is None or states.ndim != 3 or states.shape[1] != traj.width + 1:
        found = "none" if states is None else f"shape {list(states.shape)}"
        raise ValueError(f"return-decomposition: needs traj.extras[{of!r}] [N, T+1, D] with T = {traj.width}, found {found}")
    actions = traj.actions.to(states.dtype)
    return torch.cat([states[:, :-1], actions[..., None] if actions.ndim == 2 else actions.flatten(2)], 2)
