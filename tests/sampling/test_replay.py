import dataclasses

import pytest
import torch

from payoff.advantages.group import grpo
from payoff.losses.policy_gradient import ppo_clip
from payoff.pipeline import Start
from payoff.policies.tabular import Tabular
from payoff.sampling.replay import ReplayStore
from payoff.trajectories import Channel, Rewards, Trajectories, place_outcome


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh(seed: int, policy: Tabular | None = None, starts: int = 2) -> tuple[Trajectories, Rewards]:
    """Two rollouts of each start, of different lengths, the second without a verdict."""
    policy = policy or Tabular(3, 3, stop=0)
    traj = policy.rollout([Start(str(i), {"note": {"tags": ("x", 1)}}) for i in range(starts)], 2, rng(seed))
    known = torch.arange(len(traj)) != 1
    paid = place_outcome(torch.arange(len(traj)).float(), known, traj, {int(traj.id[1]): "judge failed"})
    return traj, {"correct": paid, "style": Channel(torch.ones(len(traj), 1), torch.ones(len(traj), 1, dtype=torch.bool))}


def rows_of(traj: Trajectories, group: int) -> list[int]:
    return (traj.group == group).nonzero().squeeze(1).tolist()


def test_the_first_update_has_nothing_to_replay():
    traj, rewards = fresh(0)
    again, paid = ReplayStore()(traj, rewards, rng())
    assert again is traj
    assert paid is rewards


def test_stored_groups_come_back_whole_with_their_log_probabilities_rewards_and_reasons():
    store = ReplayStore(groups=5)
    first, paid = fresh(0)
    store(first, paid, rng())
    second, paid_too = fresh(1, Tabular(3, 3, stop=0, spread=2.0, seed=5))
    traj, rewards = store(second, paid_too, rng())
    traj.check()
    assert sorted(traj.id.tolist()) == sorted([*second.id.tolist(), *first.id.tolist()])
    assert torch.equal(traj.id[:4], second.id)  # the fresh ones first
    for row in range(4):
        place = traj.id.tolist().index(int(first.id[row]))
        end = int(first.length[row])
        assert traj.items[place] == first.items[row]
        assert torch.equal(traj.logp["old"][place, :end], first.logp["old"][row, :end])
        assert torch.equal(traj.actions[place, :end], first.actions[row, :end])
        assert torch.equal(rewards["correct"].value[place, :end], paid["correct"].value[row, :end])
        known = paid["correct"].valid.expand(first.mask.shape)[row, :end]
        assert torch.equal(rewards["correct"].valid.expand(traj.mask.shape)[place, :end], known)
    assert rewards["style"].value.shape == (8, 1)
    assert set(rewards["correct"].reasons) == {int(first.id[1]), int(second.id[1])}


def test_what_lies_beyond_an_end_does_not_matter():
    results = []
    for padding in (0.0, torch.nan):
        store = ReplayStore(groups=5)
        for seed in (0, 1):
            traj, rewards = fresh(seed)
            old = torch.where(traj.exists, traj.logp["old"], padding)
            value = torch.where(traj.exists, rewards["correct"].value, padding)
            rewards["correct"] = Channel(value, rewards["correct"].valid)
            traj, rewards = store(traj.replace(logp={"old": old}), rewards, rng())
        ratio = ppo_clip(Tabular(3, 3, stop=0, spread=1.0, seed=2).evaluate(traj), traj, grpo(rewards["style"], traj))
        results.append((rewards["correct"].value.nan_to_num()[traj.exists], ratio.terms))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_a_loss_over_ratios_is_unbiased_for_replayed_rows_of_another_policy():
    # all sequences of the policy that acted, weighed by its probabilities, stored and trained on with another policy:
    # E_old[rho R], and its gradient, are those of E_new[R]
    actor, policy = Tabular(2, 2, spread=1.0, seed=1), Tabular(2, 2, spread=1.0, seed=2)
    worth = torch.tensor([0.0, 1.0, 3.0, -2.0]).double()
    traj = actor.sequences()
    rewards = {"correct": place_outcome(worth, torch.ones(4, dtype=torch.bool), traj)}
    store = ReplayStore(groups=1)
    store(traj, rewards, rng())
    nothing = traj.select(torch.zeros(0, dtype=torch.int64))
    none = {"correct": Channel(torch.zeros(0, 1).double(), torch.zeros(0, 1, dtype=torch.bool))}
    again, paid = store(nothing, none, rng())
    target = Channel(paid["correct"].value.sum(1, keepdim=True), torch.ones(4, 1, dtype=torch.bool))
    terms = ppo_clip(policy.evaluate(again), again, target, low=1.0, high=1e9, level="sequence").terms[:, 0]
    order = again.extras["leaf"]
    (-(terms * actor.probabilities()[order].detach()).sum()).backward()
    found = policy.logits.grad.clone()
    policy.logits.grad = None
    (policy.probabilities() @ worth).backward()
    assert torch.allclose(found, policy.logits.grad, atol=1e-12)


def test_groups_are_drawn_without_repeats_and_the_oldest_leave_first():
    store = ReplayStore(groups=3, capacity=4, max_age=100)
    batches = [fresh(seed) for seed in range(4)]
    for traj, rewards in batches:
        again, _ = store(traj, rewards, rng())
    groups = again.group[4:].unique()
    assert len(groups) == 3
    assert all(len(rows_of(again, int(g))) == 2 for g in groups)
    kept = {int(g) for traj, _ in batches[2:] for g in traj.group}
    assert {int(group.traj.group[0]) for group in store.store} == kept


def test_every_stored_group_is_as_likely_to_be_drawn():
    store = ReplayStore(groups=1, capacity=4, max_age=10**6)
    for seed in range(2):
        store(*fresh(seed), rng())
    ids, generator = [int(g.traj.group[0]) for g in store.store], rng(7)
    held, none = list(store.store), fresh(0)[0].select(torch.zeros(0, dtype=torch.int64))
    nothing = {name: Channel(torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.bool)) for name in ("correct", "style")}
    drawn = torch.tensor([ids.index(int(store(none, nothing, generator)[0].group[0])) for _ in range(160)])
    assert store.store == held
    assert (drawn.bincount(minlength=4) / 160 - 0.25).abs().max() < 0.14  # 4 standard deviations


def test_a_group_is_forgotten_after_its_age():
    store = ReplayStore(groups=9, max_age=2)
    sizes = [len(store(*fresh(seed, starts=1), rng())[0]) for seed in range(5)]
    assert sizes == [2, 4, 6, 6, 6]  # the two updates before, and no more


def test_state_survives_a_checkpoint_and_the_same_rows_come_back(tmp_path):
    store, other = ReplayStore(groups=2), ReplayStore(groups=2)
    for seed in range(3):
        store(*fresh(seed), rng())
    torch.save(store.state_dict(), tmp_path / "store")
    other.load_state_dict(torch.load(tmp_path / "store", weights_only=True))
    batch = fresh(9)
    (traj, rewards), (same, paid) = store(*batch, rng(3)), other(*batch, rng(3))
    assert torch.equal(traj.id, same.id)
    assert torch.equal(traj.logp["old"], same.logp["old"])
    assert torch.equal(rewards["correct"].value, paid["correct"].value)
    assert rewards["correct"].reasons == paid["correct"].reasons
    assert [item["response"] for item in traj.items] == [item["response"] for item in same.items]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="capacity and max_age at least 1"):
        ReplayStore(capacity=0)
    traj, rewards = fresh(0)
    with pytest.raises(ValueError, match=r'needs traj.logp\["old"\]'):
        ReplayStore()(dataclasses.replace(traj, logp={}), rewards, rng())
    store = ReplayStore()
    store(traj.replace(items=[{"table": object()}] * 4), rewards, rng())
    with pytest.raises(ValueError, match=r"'table' of trajectory \d+ is a object, which a checkpoint cannot hold"):
        store.state_dict()
