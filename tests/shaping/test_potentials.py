"""Prefix scores as rewards: they telescope, and a potential leaves every advantage and every optimum as it was."""

import pytest
import torch

from payoff.credit.returns import lambda_return, return_to_go
from payoff.examples import four_answers
from payoff.policies.tabular import Tabular
from payoff.shaping.potentials import potential_shaping, prefix_reward, progress
from payoff.trajectories import Channel, StopReason, outcome, place_steps

F64 = torch.float64


def known(traj) -> torch.Tensor:
    return torch.ones(len(traj), 1, dtype=torch.bool)


def random_score(traj, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(traj), traj.width + 1, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("at_end", ["zero", "keep"])
def test_the_discounted_sum_telescopes(discount, at_end):
    traj = four_answers().replace(stop=torch.tensor([0, 1, 2, 3]))  # finished, truncated, illegal, error
    score = random_score(traj)
    paid = prefix_reward(score, traj, discount=discount, at_end=at_end)
    for i, length in enumerate(traj.length.tolist()):
        last = score[i, length] if at_end == "keep" or int(traj.stop[i]) == StopReason.truncated else 0.0
        total = sum(discount**t * float(paid[i, t]) for t in range(traj.width))
        assert total == pytest.approx(float(discount**length * last - score[i, 0]), abs=1e-12)
        assert not paid[i, length:].any()


def test_nothing_beyond_the_end_is_read():
    traj, score = four_answers(), random_score(four_answers())
    beyond = torch.arange(4) > traj.length[:, None]
    dirty = score.masked_fill(beyond, torch.nan)
    for at_end in ("zero", "keep"):
        assert torch.equal(prefix_reward(score, traj, at_end=at_end), prefix_reward(dirty, traj, at_end=at_end))


@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_a_potential_shifts_every_return_to_go_by_the_potential_of_the_state_alone(discount):
    # So the advantage of an action against any baseline of the state, and what is optimal, stay as they were, exactly.
    policy = Tabular(3, 3, stop=1, spread=1.0, seed=4)
    traj = policy.sequences()
    potential = torch.randn(policy.tree.prefix_count, dtype=F64, generator=torch.Generator().manual_seed(1))
    score = torch.cat([torch.where(traj.exists, potential[policy.prefixes(traj)], 0), torch.zeros(len(traj), 1, dtype=F64)], 1)
    final = torch.arange(traj.width + 1) == traj.length[:, None]
    score = torch.where(final, 7.0, score)  # whatever it says of a final state must not matter
    paid = torch.where(traj.exists, random_score(traj, 2)[:, :-1], 0)
    shaped = potential_shaping(
        {"r": Channel(paid, known(traj))}, traj.replace(extras={"potential": score}), discount=discount, weight=2.0, into="r"
    )["r"]
    before = return_to_go(Channel(paid, known(traj)), traj, discount=discount).value
    after = return_to_go(shaped, traj, discount=discount).value
    torch.testing.assert_close(after, torch.where(traj.exists, before - 2 * score[:, :-1], 0), rtol=0, atol=1e-12)


def test_a_potential_leaves_the_exact_advantages_and_the_optimum_of_a_tree_unchanged_and_a_kept_one_does_not():
    policy = Tabular(3, 3, stop=1, spread=1.0, seed=4)
    traj, prefixes = policy.sequences(), policy.prefixes(policy.sequences())
    potential = torch.randn(policy.tree.prefix_count, dtype=F64, generator=torch.Generator().manual_seed(1))
    score = torch.cat([torch.where(traj.exists, potential[prefixes], 0), torch.zeros(len(traj), 1, dtype=F64)], 1)
    last = torch.randn(len(traj), 1, dtype=F64, generator=torch.Generator().manual_seed(3))
    score = torch.where(torch.arange(traj.width + 1) == traj.length[:, None], last, score)
    reward = torch.where(traj.exists, random_score(traj, 2)[:, :-1], 0)

    def advantages(paid):
        q = policy.q_values(paid)
        return q - policy.state_values(paid)[:, None], q

    plain, q = advantages(reward)
    shaped, q_shaped = advantages(reward + prefix_reward(score, traj))
    torch.testing.assert_close(shaped, plain, rtol=0, atol=1e-12)
    assert torch.equal(q.argmax(1), q_shaped.argmax(1))
    torch.testing.assert_close(
        policy.optimum(reward, 0.3).probabilities(), policy.optimum(reward + prefix_reward(score, traj), 0.3).probabilities()
    )
    kept, _ = advantages(reward + prefix_reward(score, traj, at_end="keep"))
    assert (kept - plain).abs().max() > 0.1


def test_truncated_rollouts_need_a_critic_that_knows_the_potential():
    traj = four_answers().replace(stop=torch.full((4,), int(StopReason.truncated)))
    values, score = random_score(traj, 5), random_score(traj, 6)
    paid = Channel(random_score(traj, 7)[:, :-1], known(traj))
    shaped = Channel(paid.value + prefix_reward(score, traj, discount=0.9), known(traj))
    gae = lambda channel, v: lambda_return(channel, traj.replace(extras={"values": v}), discount=0.9).value - v[:, :-1]
    same = gae(shaped, values - score)
    torch.testing.assert_close(torch.where(traj.exists, same, 0), torch.where(traj.exists, gae(paid, values), 0))


def test_progress_of_steps_is_paid_at_their_ends_and_adds_up_to_the_last_score():
    traj = four_answers().replace(step=torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]]).int())
    score = place_steps(torch.tensor([[0.25, 1.0], [0.5, 9.0], [0.75, 0.5], [0.125, 9.0]]), torch.ones(4, 2) > 0, traj)
    gain = progress(score, traj, initial=0.125)
    # 0.25 - 0.125 at position 1, 1 - 0.25 at 2 | 0.5 - 0.125 at 1 | 0.75 - 0.125 at 0, 0.5 - 0.75 at 2 | nothing gained
    assert gain.value.tolist() == [[0, 0.125, 0.75], [0, 0.375, 0], [0.625, 0, -0.25], [0, 0, 0]]
    assert outcome(gain, traj)[0].tolist() == [0.875, 0.375, 0.375, 0.0]


def test_progress_is_the_prefix_reward_where_every_action_is_a_step():
    traj = four_answers().replace(stop=torch.tensor([0, 1, 2, 3]))
    score = random_score(traj)
    score[:, 0] = 0.5
    channel = Channel(score[:, 1:], known(traj))
    for at_end in ("zero", "keep"):
        made = progress(channel, traj, initial=0.5, discount=0.9, at_end=at_end).value
        torch.testing.assert_close(made, prefix_reward(score, traj, discount=0.9, at_end=at_end))


def test_a_step_without_a_score_costs_two_steps_their_progress():
    traj = four_answers()
    valid = torch.tensor([[True, False, True], [True, True, False], [True, True, True], [True, False, False]])
    channel = Channel(torch.where(valid, 1.0, torch.nan), valid, {0: "no answer"})
    gain = progress(channel, traj)
    assert (gain.valid | ~traj.exists).tolist() == [[True, False, False], [True] * 3, [True] * 3, [True] * 3]
    assert gain.value.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert gain.reasons == {0: "no answer"}


def test_shaping_is_a_channel_of_its_own_or_added_to_one():
    traj = four_answers().replace(extras={"phi": torch.ones(4, 4)})
    own = potential_shaping({"r": Channel(torch.zeros(4, 3), known(traj))}, traj, potential="phi")
    assert sorted(own) == ["potential", "r"]
    by_function = potential_shaping({}, traj, potential=lambda t: t.extras["phi"])
    assert torch.equal(by_function["potential"].value, own["potential"].value)
    unknown = Channel(torch.zeros(4, 3), torch.tensor([[False]] * 4), {0: "failed"})
    into = potential_shaping({"r": unknown}, traj, potential="phi", into="r")["r"]
    assert not into.valid.any()
    assert not into.value.any()


def test_bad_arguments_are_refused():
    traj = four_answers()
    with pytest.raises(ValueError, match="discount must lie in"):
        prefix_reward(torch.zeros(4, 4), traj, discount=1.5)
    with pytest.raises(ValueError, match="discount must lie in"):
        progress(Channel(torch.zeros(4, 3), known(traj)), traj, discount=-0.5)
    with pytest.raises(ValueError, match="there is no"):
        potential_shaping({}, traj)
    with pytest.raises(KeyError, match="no reward channel"):
        potential_shaping({}, traj, potential=lambda t: torch.zeros(4, 4), into="r")
    with pytest.raises(ValueError, match="one column"):
        potential_shaping({"r": Channel(torch.zeros(4, 1), known(traj))}, traj, potential=lambda t: torch.zeros(4, 4), into="r")
    with pytest.raises(ValueError, match="score must be"):
        prefix_reward(torch.zeros(4, 3), traj)
