"""Bit sequences written word by word, paid by how near they come to the nearest of some hidden sequences.

In order of writing the states form a tree; filling the positions in any order, a graph in which most objects can be reached in
many ways.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from payoff.catalogue import method
from payoff.pipeline import Start
from payoff.tasks.hypergrid import ended_and_wanted, pair_of_distributions
from payoff.trajectories import Channel, StopReason, Trajectories, place_outcome


@method("bits", kind="task", paper="arXiv:2201.13259")
@dataclass(frozen=True)
class Bits:
    """Sequences of `length` bits in words of `word` bits; log R = -exponent x (bits that differ from the nearest mode).

    order:  "append": the next word each time, so that every sequence is reached in one way and P_B is 1; "any": any empty position
            (K = positions x words), so that every sequence is reached in (positions)! ways
    modes:  how many sequences, drawn by `seed`, have reward 1
    truth_of: "reward": R; "mode": whether at most `near` bits differ from a mode

    An unfinished sequence has the reward of its written bits, those still empty counted as right.
    Raises ValueError for sizes below 1, a length that is no multiple of the word, words over 8 bits, more modes than sequences.

    >>> task = Bits(length=4, word=2, modes=1)
    >>> task.actions, task.longest, task.state_count
    (4, 2, 21)
    >>> float(task.log_reward(task.mode_words)[0]) == 0, task.written(task.state(torch.tensor(7)).tolist())
    (True, '0010')
    """

    length: int = 8
    word: int = 1
    order: Literal["append", "any"] = "append"
    modes: int = 4
    exponent: float = 1.0
    truth_of: Literal["reward", "mode"] = "reward"
    near: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length < 1 or not 1 <= self.word <= 8 or self.length % self.word:
            raise ValueError(f"bits: length must be a multiple of word, and word in 1..8; got {self.length} and {self.word}")
        if self.order not in ("append", "any"):
            raise ValueError(f'bits: order must be "append" or "any", got {self.order!r}')
        if self.truth_of not in ("reward", "mode"):
            raise ValueError(f'bits: truth_of must be "reward" or "mode", got {self.truth_of!r}')
        if not 1 <= self.modes <= 2**self.length:
            raise ValueError(f"bits: modes must lie in 1..2^length, got {self.modes}")
        if self.exponent < 0 or not math.isfinite(self.exponent):
            raise ValueError(f"bits: exponent must be finite and at least 0, got {self.exponent}")

    # --- as a construction

    @property
    def words(self) -> int:
        """Different words."""
        return 2**self.word

    @property
    def width(self) -> int:
        """Positions of a word."""
        return self.length // self.word

    longest = width

    @property
    def actions(self) -> int:
        """The word to append, or the position and the word to fill it with."""
        return self.words * (self.width if self.order == "any" else 1)

    @property
    def feature_count(self) -> int:
        """Each position one-hot, empty included."""
        return self.width * (self.words + 1)

    @property
    def state_count(self) -> int:
        """Sequences written so far."""
        if self.order == "any":
            return int((self.words + 1) ** self.width)
        return sum(self.words**written for written in range(self.width + 1))

    @property
    def stop(self) -> None:
        """None: a sequence ends when it is full."""
        return None

    def initial(self, n: int) -> Int[Tensor, "n D"]:
        """Nothing written: -1 everywhere."""
        return torch.full((n, self.width), -1)

    def legal(self, states: Int[Tensor, "*shape D"]) -> Bool[Tensor, "*shape K"]:
        """Any word, while there is an empty position; in any order, any word at an empty one."""
        empty = states < 0
        if self.order == "any":
            return empty.repeat_interleave(self.words, -1)
        return empty[..., -1:].expand(*states.shape[:-1], self.words)

    def parents(self, states: Int[Tensor, "*shape D"]) -> Bool[Tensor, "*shape K"]:
        """The last word; in any order, every word that is written."""
        if self.order == "any":
            return (one_hot(states.long() + 1, self.words + 1)[..., 1:] > 0).flatten(-2)
        written = self.depth(states)
        last = states.gather(-1, (written - 1).clamp(min=0)[..., None])[..., 0]
        return (one_hot(last.clamp(min=0).long(), self.words) > 0) & (written > 0)[..., None]

    def after(self, states: Int[Tensor, "*shape D"], actions: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape D"]:
        """One word more."""
        if self.order == "any":
            place, value = actions // self.words, actions % self.words
        else:
            place, value = self.depth(states).clamp(max=self.width - 1), actions
        return states.scatter(-1, place[..., None].long(), value[..., None].to(states.dtype))

    def before(self, states: Int[Tensor, "*shape D"], actions: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape D"]:
        """One word less."""
        place = actions // self.words if self.order == "any" else (self.depth(states) - 1).clamp(min=0)
        return states.scatter(-1, place[..., None].long(), -1)

    def complete(self, states: Int[Tensor, "*shape D"]) -> Bool[Tensor, "*shape"]:
        """Every position is written."""
        return (states >= 0).all(-1)

    def depth(self, states: Int[Tensor, "*shape D"]) -> Int[Tensor, "*shape"]:
        """Words written."""
        return (states >= 0).sum(-1)

    def features(self, states: Int[Tensor, "*shape D"]) -> Float[Tensor, "*shape F"]:
        """Each position one-hot, empty included."""
        return one_hot(states.long() + 1, self.words + 1).flatten(-2).to(torch.get_default_dtype())

    def log_reward(self, states: Int[Tensor, "*shape D"]) -> Float[Tensor, "*shape"]:
        """-exponent x the bits that differ from the nearest mode, among those written."""
        return -self.exponent * self.distance(states).double()

    def distance(self, states: Int[Tensor, "*shape D"]) -> Int[Tensor, "*shape"]:
        """Written bits that differ from the mode that differs least."""
        table = self._differ.to(states.device)
        return table[torch.arange(self.width, device=states.device), states.long() + 1].sum(-2).amin(-1)

    def index(self, states: Int[Tensor, "*shape D"]) -> Int[Tensor, "*shape"]:
        """By number of words written and then as numbers in base 2^word; in any order, as numbers in base 2^word + 1."""
        if self.order == "any":
            return ((states.long() + 1) * self._place(self.words + 1, states.device)).sum(-1)
        written = self.depth(states)
        number = torch.zeros_like(written)
        for place in range(self.width):
            number = torch.where(place < written, number * self.words + states[..., place], number)
        return self._first(states.device)[written] + number

    def state(self, index: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape D"]:
        """The sequence of a number."""
        if self.order == "any":
            return index[..., None] // self._place(self.words + 1, index.device) % (self.words + 1) - 1
        first = self._first(index.device)
        written = torch.searchsorted(first, index.contiguous(), right=True) - 1
        number = index - first[written]
        position = torch.arange(self.width, device=index.device)
        missing = (written[..., None] - 1 - position).clamp(min=0)
        digit = number[..., None] // self.words**missing % self.words
        return torch.where(position < written[..., None], digit, -1)

    def written(self, state: list[int]) -> str:
        """The bits; a dot for each that is empty."""
        return "".join("." * self.word if value < 0 else format(value, f"0{self.word}b") for value in state)

    def action_name(self, action: int) -> str:
        """The word; in any order, its position before it."""
        name = format(action % self.words, f"0{self.word}b")
        return f"{action // self.words}:{name}" if self.order == "any" else name

    # --- as a task

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts, all empty."""
        return [Start("bits", {"prompt": ""}) for _ in range(n)]

    def held_out_starts(self, n: int | None = None) -> Sequence[Start]:
        """The same; the policy answers by itself there, without exploring."""
        return [Start("bits", {"prompt": "", "explore": False}) for _ in range(1 if n is None else n)]

    def truth(self, traj: Trajectories) -> Channel:
        """The reward of each sequence (or whether it is a mode); unknown for one that was not finished."""
        last = traj.extras["states"][torch.arange(len(traj)), traj.length]
        worth = self.log_reward(last).exp() if self.truth_of == "reward" else (self.distance(last) <= self.near).double()
        finished = traj.stop == StopReason.finished
        cut = dict.fromkeys(traj.id[~finished].tolist(), "was not finished")
        return place_outcome(worth, finished, traj, cut)

    def measure(self, policy: Any) -> Mapping[str, float]:
        """How far what the policy ends with is from R / Z: {"l1": sum |p - R / Z|, "modes": the mass of p on modes}, exactly.

        Empty for a policy without `object_distribution`, and for more states than can be listed.
        """
        if not hasattr(policy, "object_distribution") or self.state_count * self.actions > 4_000_000:
            return {}
        with torch.no_grad():
            p = policy.object_distribution().double()
        sequences = self.state(torch.arange(self.state_count))
        full = self.complete(sequences)
        wanted = torch.where(full, self.log_reward(sequences), -torch.inf).softmax(0)
        return {"l1": float((p - wanted).abs().sum()), "modes": float(p[full & (self.distance(sequences) <= self.near)].sum())}

    def overview(self, traj: Trajectories, policy: Any) -> dict[str, Any] | None:
        """How likely each sequence is and should be, R / Z, for the report."""
        found = ended_and_wanted(self, traj, policy)
        if found is None:
            return None
        full = self.complete(self.state(torch.arange(self.state_count)))
        return pair_of_distributions(*(p[full] for p in found))

    @cached_property
    def mode_words(self) -> Int[Tensor, "modes D"]:
        """The sequences with reward 1, drawn by the seed, all different."""
        rng = torch.Generator().manual_seed(self.seed)
        found: dict[tuple[int, ...], None] = {}
        while len(found) < self.modes:
            found[tuple(torch.randint(self.words, (self.width,), generator=rng).tolist())] = None
        return torch.tensor(list(found))

    @cached_property
    def _differ(self) -> Int[Tensor, "D W modes"]:
        """Bits that differ, by position, word + 1 (0: empty, nothing differs) and mode."""
        ones = torch.tensor([value.bit_count() for value in range(self.words)])
        words = torch.arange(self.words)[None, :, None]
        differ = ones[words ^ self.mode_words.T[:, None, :]]
        return torch.cat([torch.zeros_like(differ[:, :1]), differ], 1)

    def _place(self, base: int, device: torch.device) -> Tensor:
        return base ** torch.arange(self.width - 1, -1, -1, device=device)

    def _first(self, device: torch.device) -> Tensor:
        """The number of the first state with each number of words."""
        sizes = [self.words**written for written in range(self.width)]
        return torch.tensor([0, *sizes], device=device).cumsum(0)
