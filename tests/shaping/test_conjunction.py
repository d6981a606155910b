"""Rewards that must be good together."""

import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.shaping.conjunction import distance_reward, kinesthetic_combination, team_spirit
from payoff.trajectories import Channel

SURE = torch.ones(4, 1, dtype=torch.bool)


def combined(*parts: torch.Tensor) -> torch.Tensor:
    names = [f"part{i}" for i in range(len(parts))]
    rewards = {name: Channel(part, SURE) for name, part in zip(names, parts)}
    return kinesthetic_combination(rewards, four_answers(), channels=names)["krc"].value


def test_golden_numbers():
    # cube root of 0.5 * 0.25 * 1 = 0.5; two negatives stay bad: -(0.5 * 0.5)^(1/2); one zero is zero
    a = torch.tensor([[0.5, 0.25, 1.0]] * 4)
    assert combined(*(torch.full((4, 1), x) for x in (0.5, 0.25, 1.0)))[0].tolist() == pytest.approx([0.5])
    assert combined(torch.full((4, 1), -0.5), torch.full((4, 1), -0.5))[0].tolist() == [-0.5]
    assert combined(a, torch.zeros(4, 3)).abs().max() == 0
    assert combined(a, torch.zeros(4, 1) - 0.25)[0].tolist() == pytest.approx([-math.sqrt(0.125), -0.25, -0.5])


def test_it_is_bounded_knows_no_order_and_gives_back_equal_parts():
    parts = [torch.rand(4, 3, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(3)]
    one = combined(*parts)
    torch.testing.assert_close(one, combined(parts[2], parts[0], parts[1]))
    assert one.abs().max() <= 1
    exists = four_answers().exists
    same = combined(parts[0].abs(), parts[0].abs(), parts[0].abs())
    torch.testing.assert_close(same, torch.where(exists, parts[0].abs(), 0))
    assert torch.equal(combined(parts[0]), torch.where(exists, parts[0], 0))


def test_padding_is_not_read_and_an_unknown_part_makes_the_whole_unknown():
    traj = four_answers()
    part = torch.where(traj.exists, 0.5, torch.nan)
    valid = torch.tensor([[True, False, True]] * 4)
    rewards = {"a": Channel(part, SURE), "b": Channel(torch.where(valid, 0.5, 7.0), valid, {2: "lost"})}
    found = kinesthetic_combination(rewards, traj, channels=["a", "b"])
    assert found["krc"].valid.tolist() == valid.tolist()
    assert found["krc"].value[0].tolist() == [0.5, 0, 0.5]
    assert found["krc"].reasons == {2: "lost"}
    assert set(found) == {"a", "b", "krc"}


def test_bad_parts_are_refused():
    with pytest.raises(ValueError, match="'part1' reaches 1"):
        combined(torch.ones(4, 1), torch.full((4, 1), 1.5))
    with pytest.raises(ValueError, match="nothing to combine"):
        kinesthetic_combination({}, four_answers(), channels=[])
    with pytest.raises(KeyError, match="no reward channel 'x'"):
        kinesthetic_combination({}, four_answers(), channels=["x"])
    with pytest.raises(ValueError, match="already is a reward channel"):
        kinesthetic_combination({"krc": Channel(torch.ones(4, 1), SURE)}, four_answers(), channels=["krc"])


def test_distances():
    d = torch.tensor([0.0, 2 * math.log(2), 1e9])
    assert distance_reward(d, scale=1.0).tolist() == pytest.approx([1, 0.5, 0])
    assert distance_reward(d, scale=1.0, density=2.0).tolist() == pytest.approx([1, 0.5**0.5, 0])
    assert distance_reward(2 * d, scale=1.0, dispersion=2.0).tolist() == pytest.approx([1, 0.5, 0])
    assert distance_reward(d, scale=1.0, signed=True).tolist() == pytest.approx([1, 0, -1], abs=1e-6)
    # 2 exp(-log 4) - 1 = -1/2, and its square root keeps the sign
    assert float(distance_reward(torch.tensor(4 * math.log(2)), scale=1.0, density=2.0, signed=True)) == pytest.approx(-(0.5**0.5))
    with pytest.raises(ValueError, match="must be positive"):
        distance_reward(d, scale=0.0)


def teams(episode, team):
    return four_answers().replace(extras={"episode": torch.tensor(episode), "team": torch.tensor(team)})


@pytest.mark.parametrize("spirit", [0.0, 0.3, 1.0])
def test_two_equal_teams_play_for_nothing_in_all(spirit):
    traj = teams([7, 7, 7, 7], [0, 1, 0, 1]).replace(length=torch.full((4,), 3), step=torch.arange(3).repeat(4, 1).int())
    reward = Channel(torch.randn(4, 3, dtype=torch.float64), SURE)
    shared = team_spirit(reward, traj, spirit=spirit).value
    torch.testing.assert_close(shared.sum(0), torch.zeros(3, dtype=torch.float64))
    if spirit == 1:
        torch.testing.assert_close(shared[0], shared[2])


def test_without_opponents_a_team_of_one_keeps_its_reward():
    traj, reward = teams([0, 1, 2, 3], [0, 0, 0, 0]), torch.randn(4, 3)
    torch.testing.assert_close(team_spirit(Channel(reward, SURE), traj).value, torch.where(traj.exists, reward, 0))


def test_one_unknown_reward_leaves_its_moment_of_its_episode_unknown():
    traj = teams([0, 0, 1, 1], [0, 1, 0, 1])
    valid = torch.tensor([[True, True, True], [True, False, True], [True] * 3, [True] * 3])
    found = team_spirit(Channel(torch.ones(4, 3), valid), traj)
    assert (found.valid & traj.exists).tolist() == [
        [True, False, True],
        [True, False, False],
        [True, True, True],
        [True, False, False],
    ]
    assert not found.value[:2, 1].any()
    with pytest.raises(ValueError, match="says who plays with whom"):
        team_spirit(Channel(torch.ones(4, 3), valid), four_answers())
    with pytest.raises(ValueError, match="spirit must lie"):
        team_spirit(Channel(torch.ones(4, 3), valid), traj, spirit=2.0)
