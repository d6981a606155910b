"""Training again on what was sampled before: whole groups, with the log-probabilities of the policy that acted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.pipeline import concatenate_rewards
from payoff.trajectories import Channel, Rewards, Trajectories, concatenate

_PLAIN = (str, int, float, bool, type(None), Tensor)


class Stored(NamedTuple):
    """One group as it was trained on, and the number of the update that sampled it."""

    update: int
    traj: Trajectories
    rewards: Rewards


@method("replay", kind="replay", needs=("old",))
class ReplayStore(nn.Module):
    """The fresh rollouts, and groups of earlier updates drawn evenly, without repeats, from a bounded store.

    groups:   stored groups that join every update (fewer while the store has fewer)
    capacity: groups that are kept; the oldest go first
    max_age:  updates after which a group is forgotten, so that no stored policy is further away than that

    Fresh groups are stored after the draw, as they came out of the selections, with their rewards. Groups stay whole, and keep
    their ids, items, and every recorded log-probability: "old" is still that of the policy which acted, so a loss over ratios
    (`ppo-clip` and its kin) is right for them, and `policy-gradient`, which has none, is not. Credit and advantages are computed
    after this, in each stored group as in a fresh one, and rewards are not scored again. What was recorded of the policy itself,
    such as "values", stays what it was then.

    Everything is kept in main memory and goes into checkpoints. Raises ValueError for numbers below 1 (groups: below 0), for
    rollouts without "old", and for an item that a checkpoint cannot hold.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> store, rng = ReplayStore(groups=1), torch.Generator().manual_seed(0)
    >>> paid = {"correct": place_outcome(torch.ones(4), torch.ones(4, dtype=torch.bool), four_answers())}
    >>> len(store(four_answers(), paid, rng)[0])
    4
    >>> traj, rewards = store(four_answers().replace(id=torch.arange(4, 8), group=torch.tensor([2, 2, 3, 3])), paid, rng)
    >>> traj.group.tolist(), rewards["correct"].value.shape
    ([2, 2, 3, 3, 0, 0], torch.Size([6, 3]))
    """

    def __init__(self, *, groups: int = 4, capacity: int = 64, max_age: int = 8) -> None:
        super().__init__()
        if groups < 0 or capacity < 1 or max_age < 1:
            raise ValueError(
                f"replay: groups must be at least 0, capacity and max_age at least 1, got {groups}, {capacity} and {max_age}"
            )
        self.groups, self.capacity, self.max_age = groups, capacity, max_age
        self.update = 0
        self.store: list[Stored] = []

    def forward(self, traj: Trajectories, rewards: Rewards, rng: torch.Generator) -> tuple[Trajectories, Rewards]:
        """The fresh rows first, then the stored ones; the store learns the fresh groups."""
        if "old" not in traj.logp:
            raise ValueError('replay: needs traj.logp["old"], the log-probabilities of the policy that acted')
        self.update += 1
        self.store = [group for group in self.store if self.update - group.update <= self.max_age]
        order = torch.randperm(len(self.store), generator=rng, device=rng.device).tolist()
        drawn = [self.store[i] for i in order[: self.groups]]
        for number in dict.fromkeys(traj.group.tolist()):
            rows = (traj.group == number).nonzero().squeeze(1)
            self.store.append(Stored(self.update, traj.select(rows).to("cpu"), _select(rewards, rows, traj, "cpu")))
        self.store = self.store[-self.capacity :]
        if not drawn:
            return traj, rewards
        rows_of = [traj, *(group.traj.to(traj.device) for group in drawn)]
        paid = [rewards, *(_moved(group.rewards, traj.device) for group in drawn)]
        return concatenate(rows_of), concatenate_rewards(paid, rows_of)

    def get_extra_state(self) -> dict[str, Any]:
        """The store, in tensors, dicts, lists and numbers."""
        groups = [
            {"update": group.update, "traj": _fields(group.traj), "rewards": {n: tuple(c) for n, c in group.rewards.items()}}
            for group in self.store
        ]
        return {"update": self.update, "groups": groups}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.update = state["update"]
        self.store = [
            Stored(group["update"], Trajectories(**group["traj"]), {n: Channel(*c) for n, c in group["rewards"].items()})
            for group in state["groups"]
        ]


def _select(rewards: Rewards, rows: Int[Tensor, " M"], traj: Trajectories, device: str) -> Rewards:
    """The rewards of these rows, as wide as `select` leaves the rows themselves, with the reasons that are theirs."""
    width = int(traj.length[rows].max())
    ids = set(traj.id[rows].tolist())
    return {
        name: Channel(
            channel.value[rows, :width].detach().to(device),
            channel.valid[rows, :width].to(device),
            {id: reason for id, reason in channel.reasons.items() if id in ids},
        )
        for name, channel in rewards.items()
    }


def _moved(rewards: Rewards, device: torch.device) -> Rewards:
    return {name: Channel(c.value.to(device), c.valid.to(device), c.reasons) for name, c in rewards.items()}


def _fields(traj: Trajectories) -> dict[str, Any]:
    """A trajectory's fields as a checkpoint can hold them."""
    fields = {field.name: getattr(traj, field.name) for field in dataclasses.fields(traj)}
    items = [
        {name: _plain(value, f"{name!r} of trajectory {id}") for name, value in item.items()}
        for id, item in zip(traj.id.tolist(), traj.items)
    ]
    return {**fields, "items": items}


def _plain(value: Any, what: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner, what) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, what) for inner in value]
    if not isinstance(value, _PLAIN):
        raise ValueError(f"replay: the item's field {what} is a {type(value).__name__}, which a checkpoint cannot hold")
    return value
