import math

import pytest
import torch

from payoff.advantages.group import leave_one_out as rloo
from payoff.contents import learners
from payoff.credit.returns import total
from payoff.exact import exact_gradient
from payoff.examples import four_answers
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Start, weigh
from payoff.policies.tabular import Tabular
from payoff.shaping.dynamic_weights import GradientMixing, gradient_weights, influence, objective_gradients
from payoff.trajectories import Channel, place_outcome


def rolled_out(policy, n=6, starts=2, seed=0):
    traj = policy.rollout([Start(str(k), {"table": k}) for k in range(starts)], n, torch.Generator().manual_seed(seed))
    rng = torch.Generator().manual_seed(seed + 1)
    rewards = {
        name: place_outcome(torch.randn(len(traj), generator=rng), torch.rand(len(traj), generator=rng) > 0.2, traj)
        for name in ("a", "b")
    }
    return traj, rewards


def test_each_gradient_is_that_of_the_leave_one_out_policy_gradient_of_its_reward_alone():
    policy = Tabular(3, 3, stop=2, starts=2, spread=0.5)
    traj, rewards = rolled_out(policy)
    found = objective_gradients(policy, traj, rewards)
    for k, channel in enumerate(rewards.values()):
        target = rloo(total(channel, traj), traj)
        weight = sequence_sum(target, traj)
        loss = (policy_gradient(policy.evaluate(traj), traj, target).terms * weight).sum()
        assert torch.allclose(found[k], -torch.autograd.grad(loss, policy.logits)[0].flatten(), atol=1e-6)


def test_over_all_pairs_of_rollouts_it_is_the_exact_gradient():
    policy = Tabular(2, 2, spread=0.8, seed=2)
    p, table = policy.probabilities().detach(), torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)
    mean = 0.0
    for i in range(4):
        for j in range(4):
            pair = policy.sequences().select(torch.tensor([i, j]))
            rewards = {"a": place_outcome(table[[i, j]], torch.ones(2, dtype=torch.bool), pair)}
            mean = mean + p[i] * p[j] * objective_gradients(policy, pair, rewards)[0]
    assert torch.allclose(mean, exact_gradient(policy, table), atol=1e-12)


def test_neither_microbatches_nor_order_nor_padding_change_a_gradient():
    policy = Tabular(3, 3, stop=2, starts=2, spread=0.5)
    traj, rewards = rolled_out(policy)
    whole = objective_gradients(policy, traj, rewards)
    assert torch.allclose(objective_gradients(policy, traj, rewards, microbatch=5), whole, atol=1e-12)
    rows = torch.randperm(len(traj), generator=torch.Generator().manual_seed(5))
    shuffled = {name: Channel(c.value[rows], c.valid[rows]) for name, c in rewards.items()}
    assert torch.allclose(objective_gradients(policy, traj.select(rows), shuffled), whole, atol=1e-12)
    dirty = {name: Channel(torch.where(traj.exists, c.value, math.nan), c.valid) for name, c in rewards.items()}
    assert torch.equal(objective_gradients(policy, traj, dirty), whole)


def test_only_named_parameters_are_looked_at():
    policy = Tabular(3, 2, spread=0.5, critic=True)
    traj, rewards = rolled_out(policy, starts=1)
    assert objective_gradients(policy, traj, rewards, parameters="^logits$").shape == (2, policy.logits.numel())
    both = objective_gradients(policy, traj, rewards)
    assert both.shape == (2, policy.logits.numel() + policy.critic.numel())
    assert not both[:, policy.logits.numel() :].any()  # a critic's table does not act
    with pytest.raises(ValueError, match="no trained parameter's name matches 'layers'"):
        objective_gradients(policy, traj, rewards, parameters="layers")


def test_equal_rewards_a_group_of_one_and_no_verdict_have_no_gradient():
    policy = Tabular(3, 2, spread=0.5)
    traj, _ = rolled_out(policy, n=4, starts=1)
    sure = torch.ones(4, dtype=torch.bool)
    rewards = {
        "equal": place_outcome(torch.full((4,), 0.1), sure, traj),
        "unknown": place_outcome(torch.arange(4.0), ~sure, traj),
        "one": place_outcome(torch.arange(4.0), torch.arange(4) == 1, traj),
    }
    assert not objective_gradients(policy, traj, rewards).any()
    alone = traj.select(torch.tensor([0]))
    assert not objective_gradients(policy, alone, {"a": place_outcome(torch.ones(1), sure[:1], alone)}).any()


def test_what_weights_keep_and_what_moves_them():
    half = torch.tensor([0.5, 0.5])
    step = lambda *rows: gradient_weights(half, influence(torch.tensor(rows)), rate=1.0)
    assert torch.allclose(step([1.0, 0.0], [0.0, 1.0]), half)  # as long, and at a right angle
    assert torch.allclose(step([0.3, 0.4], [0.3, 0.4]), half)  # the same
    assert torch.allclose(step([1.0, 2.0], [-1.0, -2.0]), half)  # against each other: no influence at all
    assert influence(torch.tensor([[1.0, 2.0], [-1.0, -2.0]])).tolist() == [0.0, 0.0]
    assert step([1.0, 0.0], [0.0, 3.0])[1] > 0.99  # the longer one leads
    # (1, 0), (1, 1): influences 2 and 3, so the odds are e
    assert (step([1.0, 0.0], [1.0, 1.0])[1] / step([1.0, 0.0], [1.0, 1.0])[0]).item() == pytest.approx(math.e)


def test_one_long_step_is_as_many_short_ones_and_a_floor_holds():
    influences = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    w = start = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    for _ in range(10):
        w = gradient_weights(w, influences, rate=0.1)
    assert torch.allclose(w, gradient_weights(start, influences, rate=1.0))
    floored = gradient_weights(start, influences, rate=1e4, floor=0.1)
    assert floored.tolist() == pytest.approx([0.8, 0.1, 0.1])


def test_weights_follow_the_live_policy_and_move_every_so_many_updates():
    policy = Tabular(3, 2, spread=0.5)
    mixing = GradientMixing(policy, {"a": 1.0, "b": 1.0}, rate=5.0, every=2)
    traj, rewards = rolled_out(policy, starts=1)
    first = mixing.learn(traj, rewards)
    assert mixing.weights == {"a": 0.5, "b": 0.5}
    with torch.no_grad():
        policy.logits[0, 1:, 0] += 3.0  # at the root, advantages that add up to 0 leave no trace of the policy
    second = mixing.learn(traj, rewards)
    assert second["influence/a"] != first["influence/a"]
    mean = torch.tensor([(first[f"influence/{k}"] + second[f"influence/{k}"]) / 2 for k in ("a", "b")], dtype=torch.float64)
    expected = gradient_weights(torch.tensor([0.5, 0.5], dtype=torch.float64), mean, rate=5.0)
    assert list(mixing.weights.values()) == pytest.approx(expected.tolist())
    assert not mixing.gathered.any()


def test_the_policy_is_no_part_of_the_module_and_the_rest_is_saved():
    policy = Tabular(3, 2, spread=0.5)
    one, two = (GradientMixing(policy, {"a": 1.0, "b": 1.0}, rate=1.0, every=2) for _ in range(2))
    assert not list(one.parameters())
    assert set(one.state_dict()) == {"weight", "gathered", "updates"}
    traj, rewards = rolled_out(policy, starts=1)
    one.learn(traj, rewards)
    two.load_state_dict(one.state_dict())
    assert two.learn(traj, rewards) == one.learn(traj, rewards)
    target = weigh({"a": [total], "b": [total]}, mix=one, then=[rloo])
    assert learners(target) == [one]
    assert one.learns_first


def test_rewards_are_mixed_by_the_weights():
    mixing = GradientMixing(Tabular(3, 3), {"a": 3.0, "b": 1.0})
    sure = torch.ones(4, dtype=torch.bool)
    ends = {
        name: place_outcome(torch.tensor(x), sure, four_answers()) for name, x in (("a", [1.0, 0.0, 0.0, 2.0]), ("b", [4.0] * 4))
    }
    assert mixing(ends, four_answers()).value.sum(1).tolist() == [1.75, 1.0, 1.0, 2.5]


def test_mistakes_are_named():
    policy = Tabular(3, 3)
    for options, message in (
        ({"weights": {}}, "must name rewards"),
        ({"weights": {"a": 0.0}}, "must name rewards and be > 0"),
        ({"weights": {"a": 1.0}, "rate": -1.0}, "rate >= 0"),
        ({"weights": {"a": 1.0}, "every": 0}, "every >= 1"),
        ({"weights": {"a": 1.0, "b": 1.0}, "floor": 0.6}, "floor must lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            GradientMixing(policy, **options)
    with pytest.raises(ValueError, match="weights must be > 0"):
        gradient_weights(torch.tensor([0.0, 1.0]), torch.zeros(2), rate=1.0)
    with pytest.raises(ValueError, match="floor must lie in"):
        gradient_weights(torch.tensor([0.5, 0.5]), torch.zeros(2), rate=1.0, floor=0.9)
    mixing = GradientMixing(policy, {"a": 1.0})
    with pytest.raises(ValueError, match=r"odd: \['a'\]"):
        mixing({}, four_answers())
    with pytest.raises(KeyError, match="no reward channel 'a'"):
        mixing.learn(four_answers(), {})
