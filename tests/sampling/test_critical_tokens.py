import dataclasses

import pytest
import torch

from payoff.advantages.group import grpo
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.sampling.critical_tokens import critical_positions, critical_resampling, worded
from payoff.trajectories import constant

STARTS = [Start("a", {}), Start("b", {})]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sure_but_once(at: int, horizon: int = 5) -> Tabular:
    """A policy over a binary tree that is nearly sure of action 0 everywhere, and undecided at depth `at`."""
    policy = Tabular(2, horizon)
    first = 2**at - 1
    logits = torch.tensor([9.0, 0.0]).repeat(policy.tree.prefix_count, 1)
    logits[first : first + 2**at] = 0
    return Tabular(2, horizon, logits=logits)


def test_without_branches_it_is_the_policys_own_rollout_to_the_bit():
    policy = Tabular(3, 4, spread=1.0)
    free, same = policy.rollout(STARTS, 4, rng()), critical_resampling(policy, STARTS, 4, rng(), branches=0, shortest=1)
    assert torch.equal(free.actions, same.actions)
    assert same.parent is None


def test_every_start_has_one_group_of_n_of_trunks_and_their_branches():
    traj = critical_resampling(Tabular(3, 4, spread=1.0), STARTS, 8, rng(), branches=3, shortest=1).check()
    assert len(traj) == 16
    for group in traj.group.unique():
        mine = traj.select((traj.group == group).nonzero().squeeze(1))
        trunks = mine.id[mine.parent < 0]
        assert len(mine) == 8
        assert len(trunks) == 2
        assert all((mine.parent == trunk).sum() == 3 for trunk in trunks)
        assert {item["start"] for item in mine.items} in ({"a"}, {"b"})


def test_a_branch_keeps_what_precedes_the_least_sure_position_and_acts_from_it_on():
    policy = sure_but_once(3)
    traj = critical_resampling(policy, STARTS, 40, rng(), branches=3, positions=1, shortest=1)
    branch = traj.select((traj.parent >= 0).nonzero().squeeze(1))
    assert (branch.fork == 3).all()
    trunk = {int(id): row for row, id in enumerate(traj.id)}
    for row in range(len(branch)):
        above = trunk[int(branch.parent[row])]
        assert branch.actions[row, :3].tolist() == traj.actions[above, :3].tolist()
    # the critical action itself is sampled anew: both choices come up
    assert set(branch.actions[:, 3].tolist()) == {0, 1}
    assert torch.equal(branch.own.int().sum(1), torch.full((len(branch),), 2))


def test_the_kept_prefix_of_a_branch_gets_exactly_no_gradient():
    policy = sure_but_once(2)
    traj = critical_resampling(policy, STARTS[:1], 8, rng(), branches=3, positions=1, shortest=1)
    branch = traj.select((traj.parent >= 0).nonzero().squeeze(1))
    target = constant(torch.arange(1.0, 7.0).double(), torch.ones(6, dtype=torch.bool))
    policy_gradient(policy.evaluate(branch), branch, target).terms.sum().backward()
    assert (policy.logits.grad[0, :3] == 0).all()  # prefixes of depth 0 and 1
    assert (policy.logits.grad[0, 3:] != 0).any()


def test_the_advantages_of_trunks_and_branches_are_taken_in_their_common_group():
    traj = critical_resampling(Tabular(2, 4, spread=1.0), STARTS, 8, rng(), branches=1, shortest=1)
    reward = constant(torch.rand(len(traj), generator=rng(1)), torch.ones(len(traj), dtype=torch.bool))
    advantage = grpo(reward, traj).value[:, 0]
    for group in traj.group.unique():
        assert advantage[traj.group == group].sum().abs() < 1e-5
        assert (advantage[traj.group == group] != 0).all()


def test_positions_are_drawn_evenly_from_the_least_sure_ones_and_from_no_other():
    entropy = torch.tensor([9.0, 0.3, 0.9, 0.1, 0.8, 0.2]).repeat(6000, 1)
    allowed = torch.ones(6000, 6, dtype=torch.bool)
    found = critical_positions(entropy, allowed, 3, rng()).bincount(minlength=6) / 6000
    assert found[[0, 3, 5]].sum() == 0  # the first position and the two surest
    assert (found[[1, 2, 4]] - 1 / 3).abs().max() < 0.025  # 4 standard deviations of a share of 6000
    anywhere = critical_positions(entropy, allowed, None, rng()).bincount(minlength=6) / 6000
    assert anywhere[0] == 0
    assert (anywhere[1:] - 0.2).abs().max() < 0.025


def test_ties_go_to_the_earlier_position_and_nothing_eligible_is_the_start():
    flat = torch.zeros(2, 4)
    allowed = torch.tensor([[True, False, True, True], [True, False, False, False]])
    assert critical_positions(flat, allowed, 1, rng()).tolist() == [2, 0]
    assert critical_positions(torch.full((2, 4), torch.nan), torch.zeros(2, 4, dtype=torch.bool), 2, rng()).tolist() == [0, 0]


def test_a_trunk_that_may_be_left_nowhere_is_sampled_anew():
    traj = critical_resampling(Tabular(2, 4), STARTS, 4, rng(), branches=1)  # single letters, and two characters are asked for
    assert (traj.fork == 0).all()
    assert torch.equal(traj.own, traj.mask)


def test_where_a_rollout_may_be_left_can_be_said_by_a_function():
    only = lambda traj: torch.arange(traj.width).expand(traj.mask.shape) == 2
    traj = critical_resampling(Tabular(2, 4, spread=1.0), STARTS, 4, rng(), branches=1, eligible=only)
    assert (traj.fork[traj.parent >= 0] == 2).all()


def test_words_are_told_by_their_length_and_separators_by_name():
    traj = Tabular(2, 3).rollout(STARTS[:1], 2, rng())
    traj = dataclasses.replace(traj, items=[{"tokens": [" the", ",\n", "##"]}, {}])
    assert worded(traj, skip=["##"]).tolist() == [[True, False, False], [True, True, True]]


def test_a_language_model_resamples_its_own_responses():
    policy = transformer(width=16, layers=1, heads=2, max_tokens=12, stop=())
    start = Start("a", {"prompt": "1+2="})
    traj = critical_resampling(policy, [start, start], 4, rng(), branches=3, positions=2, shortest=1).check()
    assert len(traj) == 8
    assert len(traj.group.unique()) == 2
    entropy = policy.evaluate(traj, frozenset({"entropy"})).more["entropy"].detach()
    rows = {int(id): row for row, id in enumerate(traj.id)}
    for row in (traj.parent >= 0).nonzero().squeeze(1).tolist():
        above, fork = rows[int(traj.parent[row])], int(traj.fork[row])
        assert traj.actions[row, :fork].tolist() == traj.actions[above, :fork].tolist()
        least_sure = entropy[above, 1 : int(traj.length[above])].topk(2).indices + 1
        assert fork in least_sure.tolist()


@pytest.mark.parametrize(
    ("n", "options", "said"),
    [
        (6, {}, "n must be a multiple of 4, got 6"),
        (4, {"branches": -1}, "branches must be at least 0"),
        (4, {"positions": 0}, "positions at least 1"),
    ],
)
def test_mistakes_are_named(n, options, said):
    with pytest.raises(ValueError, match=said):
        critical_resampling(Tabular(2, 2), STARTS, n, rng(), **options)
