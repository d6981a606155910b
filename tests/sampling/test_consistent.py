"""PROF: the counts, who is kept of each side, and that the choice moves what is climbed though no process score is ever paid."""

import pytest
import torch

from payoff.advantages.group import mean_baseline
from payoff.credit.returns import total
from payoff.enumeration import batches, paid
from payoff.exact import compare, exact_gradient
from payoff.policies.tabular import Tabular
from payoff.sampling.consistent import consistent_and_balanced
from payoff.trajectories import Channel, Trajectories, place_outcome, place_steps

F64 = torch.float64


def rollouts(right: list[int], scores: list[list[float]] | None = None) -> tuple[dict[str, Channel], Trajectories]:
    """One group; a step per score, by default one of 0.5."""
    scores = scores or [[0.5]] * len(right)
    n, width = len(right), max(map(len, scores))
    length = torch.tensor([len(row) for row in scores])
    exists = torch.arange(width) < length[:, None]
    traj = Trajectories(
        mask=exists,
        length=length,
        group=torch.zeros(n, dtype=torch.int64),
        step=torch.where(exists, torch.arange(width), -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, width, dtype=torch.int64),
        id=torch.arange(n) + 50,
    )
    known = torch.ones(n, dtype=torch.bool)
    value = torch.tensor([row + [float("nan")] * (width - len(row)) for row in scores])
    process = Channel(value, ~value.isnan() | ~exists)
    return {"correct": place_outcome(torch.tensor(right).float(), known, traj), "process": process}, traj


@pytest.mark.parametrize(
    ("right", "wrong", "keep", "wanted"),
    [
        (6, 2, 4, (2, 2)),
        (7, 1, 4, (3, 1)),
        (8, 0, 4, (4, 0)),
        (0, 8, 4, (0, 4)),
        (5, 3, 3, (2, 1)),
        (1, 7, 5, (1, 4)),
        (2, 1, 8, (2, 1)),
    ],
)
def test_right_and_wrong_are_kept_in_balance_as_far_as_there_are_both(right, wrong, keep, wanted):
    rewards, traj = rollouts([1] * right + [0] * wrong)
    rows = consistent_and_balanced(rewards, traj, keep=keep)
    assert (int((rows < right).sum()), int((rows >= right).sum())) == wanted


def test_the_best_looking_right_and_the_worst_looking_wrong_ones_are_kept():
    # means: right 0.5, 0.9, 0.7; wrong 0.8, 0.2, 0.4
    rewards, traj = rollouts([1, 1, 1, 0, 0, 0], [[0.5], [0.8, 1.0], [0.7, 0.7, 0.7], [0.8], [0.4, 0.0], [0.4]])
    assert consistent_and_balanced(rewards, traj, keep=4).tolist() == [1, 2, 4, 5]
    assert consistent_and_balanced(rewards, traj, keep=2).tolist() == [1, 4]
    assert consistent_and_balanced(rewards, traj, keep=2, rank_wrong="random").tolist() == [1, 3]
    assert consistent_and_balanced(rewards, traj, keep=6).tolist() == [0, 1, 2, 3, 4, 5]


def test_one_step_and_too_many_steps_cost_the_penalty():
    rewards, traj = rollouts([1, 1, 1], [[0.9], [0.7, 0.7], [0.8, 0.8, 0.8]])
    assert consistent_and_balanced(rewards, traj, keep=1).tolist() == [0]
    assert consistent_and_balanced(rewards, traj, keep=1, penalty=0.3).tolist() == [2]
    assert consistent_and_balanced(rewards, traj, keep=1, penalty=0.3, longest=3).tolist() == [1]


def test_scores_enter_only_by_the_order_of_their_means():
    rewards, traj = rollouts([1, 1, 1, 0, 0, 0], [[0.5], [0.9], [0.7], [0.8], [0.2], [0.4]])
    bent = {**rewards, "process": rewards["process"]._replace(value=(rewards["process"].value * 5).exp())}
    assert torch.equal(consistent_and_balanced(rewards, traj, keep=4), consistent_and_balanced(bent, traj, keep=4))


def test_the_unknown_come_last_and_those_without_an_outcome_not_at_all():
    rewards, traj = rollouts([1, 1, 1, 0, 0], [[0.9, float("nan")], [0.1, 0.1], [0.2, 0.2], [0.5], [0.5]])
    rewards["process"] = rewards["process"]._replace(valid=torch.tensor([[True, False]] + [[True, True]] * 4))
    assert consistent_and_balanced(rewards, traj, keep=4).tolist() == [1, 2, 3, 4]
    known = torch.tensor([True, True, False, True, False])
    rewards["correct"] = place_outcome(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]), known, traj)
    assert consistent_and_balanced(rewards, traj, keep=4).tolist() == [0, 1, 3]


def test_groups_are_found_by_value_and_order_does_not_matter():
    rewards, traj = rollouts([1, 0, 1, 0, 1, 0], [[0.1], [0.2], [0.3], [0.4], [0.5], [0.6]])
    traj = traj.replace(group=torch.tensor([2**61, -5, 2**61, -5, -5, 2**61]))
    kept = consistent_and_balanced(rewards, traj, keep=2)
    # group 2^61: rows 0, 2 right and 5 wrong; group -5: row 4 right, 1 and 3 wrong
    assert kept.tolist() == [1, 2, 4, 5]
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    moved = {name: Channel(c.value[order], c.valid.expand(6, 1)[order]) for name, c in rewards.items()}
    assert sorted(order[consistent_and_balanced(moved, traj.select(order), keep=2)].tolist()) == kept.tolist()


def test_choosing_by_the_process_turns_what_is_climbed_and_choosing_by_nothing_does_not():
    policy = Tabular(2, 2, spread=1.0, seed=1)
    right = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=F64)
    found = batches(policy, group_size=4, ordered=True)

    def climbed(score: list[float], keep: int) -> torch.Tensor:
        rewards = paid({"correct": right})(found.traj)
        leaf = found.leaf.flatten()
        everywhere = torch.ones(len(found.traj), 2, dtype=torch.bool)
        rewards["process"] = place_steps(torch.tensor(score, dtype=F64)[leaf][:, None].expand(-1, 2), everywhere, found.traj)
        rows = consistent_and_balanced(rewards, found.traj, keep=keep)
        some = found.traj.select(rows)
        credit = Channel(right[leaf[rows]][:, None], torch.ones(len(rows), 1, dtype=torch.bool))
        weight = mean_baseline(total(place_outcome(credit.value[:, 0], credit.valid[:, 0], some), some), some).value[:, 0]
        weight = weight * found.probability.repeat_interleave(4)[rows]
        of_leaf = torch.zeros(4, dtype=F64).index_add(0, leaf[rows], weight)
        logp = policy.evaluate(policy.sequences()).logp.sum(1)
        return torch.autograd.grad((of_leaf * logp).sum(), policy.logits)[0].flatten()

    exact = exact_gradient(policy, right)
    assert compare(climbed([0.9, 0.1, 0.2, 0.8], 4), exact).residual < 1e-9  # all are kept
    # whom ids choose on each side is any of that side: the right ones keep their proportions, and so do the wrong ones
    assert compare(climbed([0.5] * 4, 2), exact).residual < 1e-9
    assert compare(climbed([0.9, 0.1, 0.2, 0.8], 2), exact).residual > 0.05


def test_the_number_to_keep_and_the_channels_are_checked():
    rewards, traj = rollouts([1, 0])
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        consistent_and_balanced(rewards, traj, keep=0)
    with pytest.raises(KeyError, match="no reward channel 'steps'"):
        consistent_and_balanced(rewards, traj, keep=1, process="steps")
