"""Rewards for reaching what was hardly ever met: counts, distances to what was met, and the error of a network that learns it.

Each looks at the state an action led to, one row of extras[of] [N, T+1, D] (observations, or any features of a state), and is paid
at that action. What a batch meets counts from the next batch on (`learn`), so the pay of a batch does not depend on its order. The
pay fades as training goes on: it is no fixed objective, and the truth never contains it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.trajectories import Channel, Rewards, Trajectories

_ENTRIES = 1 << 24  # of a table of distances computed at a time


@method("count-novelty", kind="signal")
class CountNovelty(nn.Module):
    """Pay a state by how rarely it was met: n^-power, as the channel "novelty" (power 1/2: MBIE-EB).

    scope:      "lifetime": n = 1 + visits in earlier batches that were learned from; "episode": n = visits in this trajectory so
                far, this one included, so that one state pays at most 1 + 2^-power + 3^-power + ... in an episode and cannot be
                farmed when power > 1
    resolution: states that agree when divided by it and rounded are one state
    of:         which of traj.extras holds the states, [N, T+1, D]

    States are told apart by a 64-bit hash. Everything met is kept. Raises ValueError for a power below 0, a resolution not above 0,
    another scope, and without such states.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"observations": torch.tensor([0.0, 1.0, 1.0, 2.0]).repeat(4, 1)[..., None]})
    >>> counts = CountNovelty(scope="episode", power=1.0)
    >>> counts(traj)["novelty"].value[0]
    tensor([1.0000, 0.5000, 1.0000])
    """

    def __init__(
        self,
        *,
        power: float = 0.5,
        scope: Literal["lifetime", "episode"] = "lifetime",
        resolution: float = 1.0,
        of: str = "observations",
    ) -> None:
        super().__init__()
        if power < 0 or not resolution > 0:
            raise ValueError(f"count-novelty: power must be >= 0 and resolution > 0, got {power} and {resolution}")
        if scope not in ("lifetime", "episode"):
            raise ValueError(f'count-novelty: scope must be "lifetime" or "episode", got {scope!r}')
        self.power, self.scope, self.resolution, self.of = power, scope, resolution, of
        self.keys, self.counts = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        self._table: tuple[Tensor, np.ndarray, np.ndarray, np.float32] | None = None  # made when keys are others

    def forward(self, traj: Trajectories) -> Rewards:
        key = self._keys(traj)
        count = self._visits_so_far(key, traj) if self.scope == "episode" else 1 + self.visits(key)
        value = count.double().pow(-self.power).to(traj.extras[self.of].dtype)
        return _paid(value, traj)

    def visits(self, key: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """How often each was met in what was learned from."""
        if not len(self.keys):
            return torch.zeros_like(key)
        keys, counts = self.keys.to(key.device), self.counts.to(key.device)
        place = torch.searchsorted(keys, key.contiguous()).clamp(max=len(keys) - 1)
        return torch.where(keys[place] == key, counts[place], 0)

    def of_transitions(self) -> Callable[[Any], dict[str, np.ndarray]] | None:
        """The same of one transition in every lane, in plain arrays, for wrappers of environments."""
        if self.of != "observations" or self.scope != "lifetime":
            return None
        return lambda now: {"novelty": self._worth_of(now.after)}

    def _worth_of(self, states: np.ndarray) -> np.ndarray:
        """Of states [n, D], one for each, in as few operations as it takes."""
        if self._table is None or self._table[0] is not self.keys:
            # One more key, so that there always is one not below what is searched; the price of a state met never and so often.
            worth = (1 + torch.cat([torch.zeros(1, dtype=torch.int64), self.counts])).double().pow(-self.power).float().numpy()
            keys = np.append(self.keys.numpy(), np.iinfo(np.int64).max)
            self._table = (self.keys, keys, np.append(worth[1:], worth[0]), worth[0])
        _, keys, worth, new = self._table
        cells = states.astype(np.float64)
        cells /= self.resolution
        key = np.rint(cells, out=cells).astype(np.int64) @ _power_array(states.shape[1])
        place = keys.searchsorted(key)
        price = worth.take(place)
        np.putmask(price, keys.take(place) != key, new)
        return price

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float]:
        """Count what this batch met; metrics: how many states are known."""
        met, times = self._keys(traj)[traj.exists].cpu().unique(return_counts=True)
        place = torch.searchsorted(self.keys, met)
        known, inside = torch.zeros_like(met, dtype=torch.bool), place < len(self.keys)
        known[inside] = self.keys[place[inside]] == met[inside]
        counts = self.counts.index_add(0, place[known], times[known])
        # Both are in order, so what is new goes in between, and nothing is sorted. New tensors even if no key is new: see `_table`.
        between = lambda old, new: torch.from_numpy(np.insert(old.numpy(), place[~known].numpy(), new[~known].numpy()))
        self.keys, self.counts = between(self.keys, met), between(counts, times)
        return {"novelty/states": float(len(self.keys))}

    def get_extra_state(self) -> dict[str, Tensor]:
        """What was met and how often: for checkpoints."""
        return {"keys": self.keys, "counts": self.counts}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Continue from `get_extra_state`."""
        self.keys, self.counts = state["keys"], state["counts"]

    def _keys(self, traj: Trajectories) -> Int[Tensor, "N T"]:
        met = _reached(traj, self.of)
        if traj.width > 1:  # a transition exists
            met = torch.where(traj.exists[..., None], met, 0)
        cells = met.double().div(self.resolution).round().long()
        # A polynomial in an odd number, modulo 2^64 as integers wrap: two of a billion states collide once in forty such runs.
        return (cells * _powers(cells.shape[2]).to(cells.device)).sum(2)

    @staticmethod
    def _visits_so_far(key: Int[Tensor, "N T"], traj: Trajectories) -> Int[Tensor, "N T"]:
        order = torch.where(traj.exists, key, torch.iinfo(torch.int64).max).sort(dim=1, stable=True)
        position = torch.arange(key.shape[1], device=key.device).expand_as(key)
        new = torch.ones_like(key, dtype=torch.bool)
        new[:, 1:] = order.values[:, 1:] != order.values[:, :-1]
        first = torch.where(new, position, 0).cummax(1).values
        return torch.zeros_like(key).scatter(1, order.indices, position - first + 1)


@method("knn-novelty", kind="signal")
class NearestNeighbourNovelty(nn.Module):
    """Pay a state by its mean distance to the k nearest of those met before, as the channel "novelty" (novelty search).

    capacity: how many states are remembered, a random choice of all that were learned from (reservoir sampling, by `seed`)
    of:       which of traj.extras holds the states, [N, T+1, D]; distances are Euclidean, so their dimensions must be of one scale

    0 while nothing is remembered; with fewer than k, the mean over those there are.
    Raises ValueError for k or capacity below 1, and without such states.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"observations": torch.tensor([0.0, 1.0, 2.0, 4.0]).repeat(4, 1)[..., None]})
    >>> near = NearestNeighbourNovelty(k=1)
    >>> _ = near.learn(traj.select(torch.tensor([3])), {})
    >>> near(traj)["novelty"].value[0]
    tensor([0., 1., 3.])
    """

    def __init__(self, *, k: int = 10, capacity: int = 5000, of: str = "observations", seed: int = 0) -> None:
        super().__init__()
        if k < 1 or capacity < 1:
            raise ValueError(f"knn-novelty: k and capacity must be at least 1, got {k} and {capacity}")
        self.k, self.capacity, self.of = k, capacity, of
        self.memory, self.met = torch.zeros(0, 0), 0
        self.rng = torch.Generator().manual_seed(seed)

    def forward(self, traj: Trajectories) -> Rewards:
        states = _reached(traj, self.of)
        value = states.new_zeros(traj.mask.shape)
        if len(self.memory):
            value[traj.exists] = nearest_distance(states[traj.exists], self.memory.to(states), k=self.k)
        return _paid(value, traj)

    def of_transitions(self) -> Callable[[Any], dict[str, np.ndarray]] | None:
        """The same of one transition in every lane, in plain arrays, for wrappers of environments."""
        return self._array_distances if self.of == "observations" else None

    def _array_distances(self, now: Any) -> dict[str, np.ndarray]:
        if not len(self.memory):
            return {"novelty": np.zeros(len(now.after), dtype=np.float32)}
        states = torch.from_numpy(now.after)
        return {"novelty": nearest_distance(states, self.memory.to(states), k=self.k).numpy()}

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float]:
        """Remember what this batch met, each state of all that were ever given as likely as any other."""
        states = _reached(traj, self.of)[traj.exists].detach().cpu()
        room = max(self.capacity - len(self.memory), 0)
        self.memory = torch.cat([self.memory.reshape(-1, states.shape[1]).to(states.dtype), states[:room]])
        late = states[room:]
        # The m-th state of all takes a place of the memory with probability capacity / m.
        order = torch.arange(self.met + min(room, len(states)) + 1, self.met + len(states) + 1, dtype=torch.float64)
        place = (torch.rand(len(late), generator=self.rng, dtype=torch.float64) * order).long()
        for i in (place < self.capacity).nonzero().squeeze(1).tolist():  # in order: a later one may take the place of an earlier
            self.memory[place[i]] = late[i]
        self.met += len(states)
        return {"novelty/states": float(len(self.memory))}

    def get_extra_state(self) -> dict[str, Any]:
        """The memory and its generator: for checkpoints."""
        return {"memory": self.memory, "met": self.met, "rng": self.rng.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.memory, self.met = state["memory"], state["met"]
        self.rng.set_state(state["rng"])


@method("rnd", kind="signal", paper="arXiv:1810.12894")
class RandomNetworkDistillation(nn.Module):
    """Pay a state by how badly a network predicts what a fixed random network says of it (RND), as the channel "novelty".

    e_t = mean over `outputs` of (predictor(s_(t+1)) - target(s_(t+1)))^2, divided by the running standard deviation of its
    discounted returns, so that one weight serves all of training. States are standardised by what was met before and cut at 5
    standard deviations. `learn` trains the predictor on the batch, `epochs` passes of minibatches of `minibatch` states.

    size: D of extras[of] [N, T+1, D]. Raises ValueError for other states, and sizes below 1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"observations": torch.randn(4, 4, 2)})
    >>> novelty = RandomNetworkDistillation(size=2)
    >>> before = novelty(traj)["novelty"].value.sum()
    >>> for _ in range(30): metrics = novelty.learn(traj, {})
    >>> bool(novelty.errors(traj).sum() < before)
    True
    """

    scale: Tensor
    spread: Tensor

    def __init__(
        self,
        *,
        size: int,
        hidden: int = 64,
        outputs: int = 32,
        learning_rate: float = 1e-3,
        epochs: int = 1,
        minibatch: int = 256,
        discount: float = 0.99,
        of: str = "observations",
    ) -> None:
        super().__init__()
        sizes = {"size": size, "hidden": hidden, "outputs": outputs, "minibatch": minibatch, "epochs": epochs}
        for name, number in sizes.items():
            if number < 1:
                raise ValueError(f"rnd: {name} must be at least 1, got {number}")
        self.epochs, self.minibatch, self.discount, self.of = epochs, minibatch, discount, of
        network = lambda depth: nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), *depth, nn.Linear(hidden, outputs))
        self.target = network([]).requires_grad_(False)
        self.predictor = network([nn.Linear(hidden, hidden), nn.ReLU()])
        self.optimiser = torch.optim.Adam(self.predictor.parameters(), lr=learning_rate)
        # Count, mean and squared deviations: of states by dimension, and of discounted sums of errors.
        self.register_buffer("scale", torch.zeros(3, size, dtype=torch.float64))
        self.register_buffer("spread", torch.zeros(3, 1, dtype=torch.float64))

    def forward(self, traj: Trajectories) -> Rewards:
        return _paid((self.errors(traj) / self._deviation()).to(traj.extras[self.of].dtype), traj)

    def of_transitions(self) -> Callable[[Any], dict[str, np.ndarray]] | None:
        """The same of one transition in every lane, in plain arrays, for wrappers of environments."""
        return self._array_errors if self.of == "observations" else None

    @torch.no_grad()
    def _array_errors(self, now: Any) -> dict[str, np.ndarray]:
        if now.after.shape[1] != self.scale.shape[1]:
            self._states(now.traj)  # refuses them
        return {"novelty": (self._error(torch.from_numpy(now.after)) / self._deviation()).numpy()}

    @torch.no_grad()
    def errors(self, traj: Trajectories) -> Float[Tensor, "N T"]:
        """e_t before it is divided; 0 beyond the end."""
        states = self._states(traj)
        value = states.new_zeros(traj.mask.shape)
        value[traj.exists] = self._error(states[traj.exists])
        return value

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float]:
        """Train the predictor on what this batch met and let it enter the scales; metrics: the mean error before."""
        errors = self.errors(traj)
        later = torch.zeros_like(errors[:, 0])
        returns = torch.zeros_like(errors)
        for t in reversed(range(traj.width)):
            later = torch.where(traj.exists[:, t], errors[:, t] + self.discount * later, later)
            returns[:, t] = later
        states = self._states(traj)[traj.exists].detach()
        _merge(self.spread, returns[traj.exists][:, None])
        _merge(self.scale, states)
        x = self._standardised(states)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for rows in torch.randperm(len(x), device=x.device).split(self.minibatch):
                    self.optimiser.zero_grad()
                    (self.predictor(x[rows]) - self.target(x[rows])).square().mean().backward()
                    self.optimiser.step()
        return {"novelty/error": float(errors[traj.exists].mean())}

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser: for checkpoints."""
        return self.optimiser.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.optimiser.load_state_dict(state)

    def _states(self, traj: Trajectories) -> Float[Tensor, "N T D"]:
        states, size = _reached(traj, self.of), self.scale.shape[1]
        if states.shape[2] != size:
            raise ValueError(f"rnd: size is {size}, and the states in extras[{self.of!r}] have {states.shape[2]} dimensions")
        return states

    def _error(self, states: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
        x = self._standardised(states)
        return (self.predictor(x) - self.target(x)).square().mean(1)

    def _deviation(self) -> Float[Tensor, ""]:
        count, _, squares = self.spread[:, 0]
        return torch.where((count > 0) & (squares > 0), (squares / count.clamp(min=1)).sqrt(), 1)

    def _standardised(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        count, mean, squares = self.scale
        if not count[0] > 1:
            return x.clamp(-5, 5)
        return ((x - mean) / (squares / count + 1e-8).sqrt()).clamp(-5, 5).to(x.dtype)


@functools.cache
def _powers(count: int) -> Int[Tensor, " D"]:
    """The first powers of an odd number modulo 2^64, as signed integers hold them."""
    powers = [pow(6_364_136_223_846_793_005, k, 1 << 64) for k in range(1, count + 1)]
    return torch.tensor([power - (power >> 63 << 64) for power in powers], dtype=torch.int64)


@functools.cache
def _power_array(count: int) -> np.ndarray:
    return _powers(count).numpy()


def nearest_distance(x: Float[Tensor, "P D"], reference: Float[Tensor, "Q D"], *, k: int) -> Float[Tensor, " P"]:
    """The mean Euclidean distance of each x to its k nearest references (to all of them where there are fewer); 0 with none.

    >>> nearest_distance(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [2.0], [9.0]]), k=2)
    tensor([1.5000, 3.5000])
    """
    if not len(reference):
        return x.new_zeros(len(x))
    k = min(k, len(reference))
    blocks = x.split(max(1, _ENTRIES // len(reference)))
    exact = "donot_use_mm_for_euclid_dist"  # by products, a distance of zero comes out as the root of a rounding error
    near = [torch.cdist(b, reference, compute_mode=exact).topk(k, 1, largest=False).values.mean(1) for b in blocks]
    return torch.cat(near)


def _reached(traj: Trajectories, of: str) -> Float[Tensor, "N T D"]:
    """The state each action led to."""
    states = traj.extras.get(of)
    if states is None or states.ndim != 3 or states.shape[1] != traj.width + 1:
        found = "none" if states is None else f"shape {list(states.shape)}"
        raise ValueError(f"novelty: needs traj.extras[{of!r}] of shape [N, T+1, D] with T = {traj.width}, found {found}")
    return states[:, 1:]


def _paid(value: Float[Tensor, "N T"], traj: Trajectories) -> Rewards:
    known = torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device)
    return {"novelty": Channel(torch.where(traj.exists, value, 0), known)}


def _merge(moments: Float[Tensor, "3 D"], x: Float[Tensor, "n D"]) -> None:
    """Let these rows enter the count, mean and squared deviations, in place."""
    if not len(x):
        return
    x = x.double()
    count, gap = moments[0] + len(x), x.mean(0) - moments[1]
    moments[2] += (x - x.mean(0)).square().sum(0) + gap.square() * moments[0] * len(x) / count
    moments[1] += gap * len(x) / count
    moments[0] = count
