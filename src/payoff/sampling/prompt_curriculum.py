"""A model of how often the policy succeeds from a start, learned on the way, that picks starts of intermediate difficulty."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.pipeline import Start, Task
from payoff.sampling.candidates import best, draw_pool, visits
from payoff.trajectories import Rewards, Trajectories


@method("pcl", kind="curriculum", paper="arXiv:2510.01135")
class LearnedDifficulty(nn.Module):
    """The starts whose predicted reward is nearest to `target`, predicted by a model that costs no rollouts (PCL).

    Of `candidates` times as many starts as are wanted, those of the smallest |V(x) - target| are taken. After the update V makes
    `steps` steps of Adam on mean_x (V(x) - mean_j R_j(x))^2 over the starts that were taken: it lags the policy by one update.

    by:         the reward channel whose outcome is predicted; another scale than [0, 1] wants another target
    candidates: starts drawn for each that is wanted; 1 chooses nothing
    features:   None: V is a linear head on the hidden state in which the policy would begin its response; a run hands over a copy
                of the policy, which learns along with the head (not where `train_backbone` is False). Or the names of the start's
                fields that V reads, through two layers of `hidden` units: numbers and lists of numbers as they are (about 1 in
                size), text as one of `buckets` classes. "start" is the start's own id
    steps:      of the optimiser after every update, at `learning_rate`

    V begins at 0 everywhere, where nothing is preferred: the first starts are those that were drawn first. It learns only from what
    it chose; pcl/error is of those too. Starts that belong together are chosen one by one.
    Metrics: pcl/error, mean squared difference of V before its steps and the mean reward; pcl/value, V's mean there;
    pcl/pass_rate, the mean reward; pcl/effective, the share of starts whose rollouts were not all paid the same. None where no
    rollout had a verdict.

    Raises ValueError for numbers out of range, for neither features nor a policy with hidden states, and for a field that a start
    lacks; KeyError for a channel nobody gives; ArithmeticError for a gradient that is not finite.

    >>> from payoff.tasks.tree import Tree
    >>> curriculum = LearnedDifficulty(features=["table"], candidates=4)
    >>> [start.id for start in curriculum(Tree(prompts=50), 2, torch.Generator().manual_seed(0))]
    ['tree-44', 'tree-39']
    """

    def __init__(
        self,
        *,
        policy: Any = None,
        features: Sequence[str] | None = None,
        by: str = "correct",
        candidates: int = 4,
        target: float = 0.5,
        learning_rate: float = 1e-3,
        steps: int = 1,
        hidden: int = 32,
        buckets: int = 64,
        train_backbone: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, number in (("candidates", candidates), ("steps", steps), ("hidden", hidden), ("buckets", buckets)):
            if number < 1:
                raise ValueError(f"pcl: {name} must be at least 1, got {number}")
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"pcl: learning_rate must be positive, got {learning_rate}")
        self.by, self.candidates, self.target, self.steps = by, candidates, target, steps
        self.features = None if features is None else list(features)
        self.hidden, self.buckets, self.learning_rate, self.seed = hidden, buckets, learning_rate, seed
        self.backbone: Any = None
        self.head: nn.Module | None = None
        if self.features is None:
            if "hidden" not in getattr(policy, "offers", ()):
                raise ValueError("pcl: needs `features`, names of fields of a start, or a policy that offers hidden states")
            self.backbone = policy.requires_grad_(train_backbone)
            self.head = _zeroed(nn.Linear(policy.width, 1, device=policy.device))
            self._make_optimiser()

    def forward(self, task: Task, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts, the nearest to the target first; those the task draws where there is nothing to choose from."""
        starts = draw_pool(task, n, self.candidates, rng)
        if self.candidates == 1:
            return starts
        return best(starts, -(self.predict(starts) - self.target).abs(), n)

    @torch.no_grad()
    def predict(self, starts: Sequence[Start]) -> Float[Tensor, " M"]:
        """V of every start."""
        return self._value([{**start.fields, "start": start.id} for start in starts])

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """Fit V to the mean reward of every start in these rollouts."""
        found = visits("pcl", traj, rewards, self.by)
        seen = (found.known > 0).nonzero().squeeze(1)
        if not len(seen):
            return dict.fromkeys(("pcl/error", "pcl/value", "pcl/pass_rate", "pcl/effective"), None)
        items = [traj.items[row] for row in found.row[seen].tolist()]
        mean = found.total[seen] / found.known[seen]
        errors, values = [], []
        for _ in range(self.steps):
            value = self._value(items)
            loss = (value - mean.to(value)).square().mean()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self._trained, math.inf)
            if not torch.isfinite(norm):
                raise ArithmeticError(f"pcl: the gradient is {float(norm)}; the weights are untouched")
            self.optimiser.step()
            errors.append(float(loss.detach()))
            values.append(float(value.detach().mean()))
        effective = [not found.equal[i] for i in seen.tolist()]
        return {
            "pcl/error": errors[0],
            "pcl/value": values[0],
            "pcl/pass_rate": float(mean.mean()),
            "pcl/effective": sum(effective) / len(effective),
        }

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser's state, and how many numbers a head on fields reads."""
        if self.head is None:
            return {"size": 0}
        size = 0 if self.features is None else self.head[0].in_features  # type: ignore[index]
        return {"size": size, "optimiser": self.optimiser.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`; a head on fields is made here, and its weights are loaded after."""
        if state["size"]:
            self._make_head(state["size"])
        if "optimiser" in state:
            self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))

    # --- inside

    def _value(self, items: Sequence[Mapping[str, Any]]) -> Float[Tensor, " M"]:
        if self.features is None:
            return self.head(self._first_states(items))[:, 0]  # type: ignore[misc]  # there is one without features
        table = torch.tensor([self._numbers(item) for item in items], dtype=torch.float32)
        if self.head is None:
            self._make_head(table.shape[1])
        return self.head(table)[:, 0]  # type: ignore[misc]

    def _first_states(self, items: Sequence[Mapping[str, Any]]) -> Float[Tensor, "M D"]:
        """The hidden state before the first action; the one action each of these has is made up and read by nobody."""
        nothing = torch.zeros(len(items), 1, dtype=torch.int64)
        traj = Trajectories(
            mask=nothing > 0,
            length=torch.ones(len(items), dtype=torch.int64),
            group=torch.arange(len(items)),
            step=nothing.int(),
            stop=nothing[:, 0],
            actions=nothing,
            id=torch.arange(len(items)),
            items=items,
        )
        return self.backbone.evaluate(traj, frozenset({"hidden"})).more["hidden"][:, 0].to(self.head.weight.dtype)  # type: ignore

    def _numbers(self, item: Mapping[str, Any]) -> list[float]:
        numbers: list[float] = []
        for name in self.features or ():
            if name not in item:
                raise ValueError(f"pcl: start {item.get('start')!r} has no field {name!r}; it has {sorted(item)}")
            field = item[name]
            if isinstance(field, str):
                digest = hashlib.blake2b(field.encode(), digest_size=8).digest()
                numbers += [float(i == int.from_bytes(digest, "big") % self.buckets) for i in range(self.buckets)]
            else:
                numbers += [float(x) for x in (field if isinstance(field, Sequence) else [field])]
        return numbers

    def _make_head(self, size: int) -> None:
        """The network on fields, made when their number is known; the seed decides its weights, not when that happens."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            last = _zeroed(nn.Linear(self.hidden, 1))
            self.head = nn.Sequential(nn.Linear(size, self.hidden), nn.Tanh(), nn.Linear(self.hidden, self.hidden), nn.Tanh(), last)
        self._make_optimiser()

    def _make_optimiser(self) -> None:
        self._trained = [p for p in self.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(self._trained, lr=self.learning_rate)


def worth_in_rollouts(
    predicted: Float[Tensor, " M"], successes: Float[Tensor, " M"], rollouts: Float[Tensor, " M"]
) -> float | None:
    """How many rollouts of a start tell as much of its success rate as a prediction does, on average over M starts (PCL).

    The mean of r outcomes of 0 and 1 errs by p (1 - p) / r, a prediction V by (V - p)^2: r = sum p (1 - p) / sum (V - p)^2. Both
    sums are estimated without bias from S successes in n rollouts, m = S / n: p (1 - p) by m (1 - m) n / (n - 1), and (V - p)^2
    by (V - m)^2 - m (1 - m) / (n - 1).

    Take starts that V was not chosen or trained by: what it chose flatters it. inf where the prediction errs by no more than the
    rollouts it is compared with; None where no start has two rollouts.

    >>> predicted, half = torch.tensor([0.5, 0.5]), torch.tensor([40.0, 60.0])
    >>> round(worth_in_rollouts(predicted, half, torch.tensor([100.0, 100.0])), 1)
    32.0
    """
    enough = rollouts > 1
    v, n = predicted[enough].double(), rollouts[enough].double()
    mean = successes[enough].double() / n
    if not len(n):
        return None
    spread = mean * (1 - mean) / (n - 1)
    error = float(((v - mean).square() - spread).sum())
    return float((spread * n).sum()) / error if error > 0 else math.inf


def _zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer with weights of 0: what it says first is 0 for everyone."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
