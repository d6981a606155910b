"""One-shot RLVR's choice: the spread of histories, and a curriculum that keeps what varied most."""

import pytest
import torch

from payoff.sampling.most_variable import MostVariable, accuracy_spread
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class Three:
    """A task that gives its three starts in turn."""

    def starts(self, n, rng):
        found = {start.id: start for start in Tree(prompts=3).starts(64, rng)}
        return [found[f"tree-{k % 3}"] for k in range(n)]

    def truth(self, traj):
        raise AssertionError("no curriculum asks for the truth")


def taught(curriculum, task, right):
    """One update in which the rollouts of each start are right as often as `right` says."""
    from payoff.policies.tabular import Tabular

    starts = curriculum(task, 3, rng(curriculum.update))
    traj = Tabular(2, 2).rollout(starts, 4, rng())
    value = torch.tensor([float(k % 4 < 4 * right[item["start"]]) for k, item in enumerate(traj.items)])[:, None]
    told = curriculum.learn(traj, {"correct": Channel(value, torch.ones(len(traj), 1, dtype=torch.bool))})
    return [start.id for start in starts], told


def test_the_spread_of_binary_histories_is_that_of_their_mean():
    assert accuracy_spread([1.0] * 3 + [0.0]) == pytest.approx((0.75 * 0.25) ** 0.5)
    assert accuracy_spread([]) == accuracy_spread([0.3]) == accuracy_spread([0.3] * 5) == 0.0


def test_after_the_warm_up_only_what_varied_most_is_trained_on():
    task, curriculum = Three(), MostVariable(warmup=4, keep=1)
    for k in range(4):
        ids, told = taught(curriculum, task, {"tree-0": 1.0, "tree-1": (k % 2) * 1.0, "tree-2": 0.25 + 0.25 * (k % 2)})
    assert told["one-shot-rlvr/starts"] == 3.0
    assert curriculum.ranked()[0] == "tree-1"
    ids, told = taught(curriculum, task, dict.fromkeys(("tree-0", "tree-1", "tree-2"), 0.0))
    assert ids == ["tree-1"] * 3
    assert told["one-shot-rlvr/spread"] == 0.5  # what came after the warm-up is not noted
    again = MostVariable(warmup=4)
    again.set_extra_state(curriculum.get_extra_state())
    assert [start.id for start in again(task, 2, rng(9))] == ["tree-1"] * 2


def test_chosen_starts_need_no_warm_up_and_must_exist():
    task = Three()
    assert [start.id for start in MostVariable(chosen=["tree-2", "tree-0"])(task, 3, rng())] == ["tree-2", "tree-0", "tree-2"]
    with pytest.raises(ValueError, match="'tree-7' does not come"):
        MostVariable(chosen=["tree-7"])(task, 1, rng())
    with pytest.raises(ValueError, match="keep at least 1"):
        MostVariable(keep=0)
