"""Advantages within a group: what each trainer's convention gives, worked numbers, and the degenerate groups."""

import math

import pytest
import torch

from payoff.advantages.group import CONVENTIONS, dr_grpo, grpo, leave_one_out, mean_baseline
from payoff.advantages.normalise import Convention
from payoff.credit.returns import return_to_go
from payoff.examples import four_answers
from payoff.trajectories import Channel, Trajectories, place_steps


def bandit(groups: list[list[float]], dtype=torch.float32, valid: list[list[bool]] | None = None):
    """One action per rollout, one list of rewards per group."""
    rewards = torch.tensor([r for group in groups for r in group], dtype=dtype)[:, None]
    n = len(rewards)
    known = torch.ones(n, 1, dtype=torch.bool) if valid is None else torch.tensor([v for g in valid for v in g])[:, None]
    traj = Trajectories(
        mask=torch.ones(n, 1, dtype=torch.bool),
        length=torch.ones(n, dtype=torch.int64),
        group=torch.tensor([k for k, group in enumerate(groups) for _ in group]),
        step=torch.zeros(n, 1, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, 1, dtype=torch.int64),
    )
    return Channel(rewards, known), traj


def advantages(rewards: list[float], convention: str) -> list[float]:
    return grpo(*bandit([rewards]), convention=convention).value.squeeze(1).tolist()


# winner of [1, 0, 0, 0], loser of [0, 1, 1, 1, 1, 1, 1, 1] and a group of one with reward 1, as measured on each trainer's formula
MEASURED = {
    "trl": (1.4997, -2.474, 0.0),
    "trl-async": (1.7321, -2.646, 0.0),
    "verl": (1.5000, -2.475, 1.0),
    "skyrl": (1.5000, -2.475, 1.0),
    "openrlhf": (1.5000, -2.475, 0.0),  # there: NaN for a group of one
    "nemo-rl": (1.0, -1.0, 0.0),
    "rllm": (1.7320, -2.646, 1.0),
    "open-instruct": (1.7321, -2.646, 0.0),
    "prime-rl": (0.75, -0.875, 0.0),
    "paper": (math.sqrt(3), -math.sqrt(7), 0.0),  # p = 1/4: (1 - p) / sqrt(p (1 - p)); p = 7/8: -p / sqrt(p (1 - p))
}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_eight_meanings_of_grpo_advantage(convention):
    winner, loser, single = MEASURED[convention]
    assert advantages([1.0, 0.0, 0.0, 0.0], convention)[0] == pytest.approx(winner, abs=5e-5)
    assert advantages([0.0] + [1.0] * 7, convention)[0] == pytest.approx(loser, abs=5e-4)
    assert advantages([1.0], convention)[0] == pytest.approx(single, abs=2e-6)


def test_a_group_of_one_under_verl_and_rllm_is_divided_by_one_plus_epsilon_as_there():
    for convention in ("verl", "skyrl", "rllm"):
        assert advantages([3.0], convention)[0] == pytest.approx(3 / (1 + 1e-6), rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_equal_rewards_give_exactly_zero_whatever_the_value_and_the_size(convention, dtype):
    groups = [[k / 100] * size for k in range(1, 100) for size in (2, 3, 4, 7, 8, 12, 16, 64)]
    groups += [[x] * 12 for x in (1e-30, -1e-6, 1e6 / 3, -1e30 / 7, 0.97)]
    assert grpo(*bandit(groups, dtype), convention=convention).value.abs().max() == 0
    for advantage in (dr_grpo, mean_baseline, leave_one_out):
        assert advantage(*bandit(groups, dtype)).value.abs().max() == 0


def test_nemo_rl_divides_by_the_others_spread_and_not_at_all_where_they_are_equal():
    # a loser of [1, 0, 0, 0]: others 1, 0, 0: mean 1/3, std sqrt((4/9 + 1/9 + 1/9) / 2) = sqrt(1/3)
    assert advantages([1.0, 0.0, 0.0, 0.0], "nemo-rl")[1] == pytest.approx(-(1 / 3) / (math.sqrt(1 / 3) + 1e-6), rel=1e-6)
    # eleven times 1 and one 0.05, where the trainer itself reaches 5.6e4
    assert advantages([1.0] * 11 + [0.05], "nemo-rl")[-1] == pytest.approx(-0.95, rel=1e-6)
    # two rollouts: the other alone has no spread
    assert advantages([0.2, 0.7], "nemo-rl") == pytest.approx([-0.5, 0.5], rel=1e-6)
    # three: others of 4 are 1, 2 with std sqrt(1/2); of 2: 1, 4, std sqrt(9/2); of 1: 2, 4, std sqrt(2)
    expected = [-2 / math.sqrt(2), -0.5 / math.sqrt(4.5), 2.5 / math.sqrt(0.5)]
    assert advantages([1.0, 2.0, 4.0], "nemo-rl") == pytest.approx(expected, rel=5e-6)


def test_a_convention_of_ones_own_and_the_error_for_an_unknown_one():
    channel, traj = bandit([[1.0, 0.0]])
    assert grpo(channel, traj, convention=Convention(ddof=0, eps=0.5)).value.tolist() == [[0.5], [-0.5]]
    with pytest.raises(ValueError, match="grpo: unknown convention 'ppo'; there are paper, trl, trl-async, verl"):
        grpo(channel, traj, convention="ppo")


def test_grpo_on_policy_is_the_nft_weight_of_a_success_rate():
    # sqrt((1 - p) / p) for a success at rate p: the equivalence that fixes the paper's divisor as n
    for wins, n in ((1, 4), (3, 8), (15, 16)):
        assert advantages([1.0] * wins + [0.0] * (n - wins), "paper")[0] == pytest.approx(math.sqrt((n - wins) / wins), rel=1e-6)


def test_leave_one_out_subtracts_the_mean_of_the_others_in_groups_of_any_size():
    value = leave_one_out(*bandit([[1.0, 0.0, 0.0], [3.0, 5.0], [7.0]])).value.squeeze(1)
    torch.testing.assert_close(value, torch.tensor([1.0, -0.5, -0.5, -2.0, 2.0, 0.0]))


def test_an_unknown_member_is_out_of_the_baseline_and_gets_nothing():
    channel, traj = bandit([[1.0, float("nan"), 0.0], [5.0, 9.0]], valid=[[True, False, True], [True, False]])
    for advantage in (leave_one_out, mean_baseline):
        result = advantage(channel, traj)
        scale = 1.0 if advantage is leave_one_out else 0.5
        # the second group's known member has nobody to be compared with
        assert result.value.squeeze(1).tolist() == [scale, 0.0, -scale, 0.0, 0.0]
        assert result.valid.squeeze(1).tolist() == [True, False, True, True, False]
    alone = grpo(channel, traj, convention="verl").value.squeeze(1)
    assert alone[3] == pytest.approx(5.0, rel=2e-6)


def test_all_unknown_is_all_zero_and_all_unknown():
    channel, traj = bandit([[1.0, 2.0]], valid=[[False, False]])
    for convention in CONVENTIONS:
        result = grpo(channel, traj, convention=convention)
        assert result.value.abs().sum() == 0
        assert not result.valid.any()


def test_one_column_stays_one_column_and_dense_credit_stays_dense():
    traj = four_answers()
    column = Channel(torch.tensor([[1.0], [0.0], [2.0], [5.0]]), torch.ones(4, 1, dtype=torch.bool))
    dense = Channel(column.value.expand(4, 3).clone(), torch.ones(4, 3, dtype=torch.bool))
    for convention in CONVENTIONS:
        flat, wide = grpo(column, traj, convention=convention), grpo(dense, traj, convention=convention)
        assert flat.value.shape == (4, 1)
        torch.testing.assert_close(wide.value[traj.mask], flat.value.expand(4, 3)[traj.mask], rtol=1e-6, atol=1e-6)


def test_dense_credit_is_measured_against_the_rollouts_first_actions():
    # first actions (3, 1): mean 2, std (n) 1; so every action minus 2
    traj = four_answers().select(torch.tensor([0, 1]))
    credit = Channel(torch.tensor([[3.0, 5.0, 1.0], [1.0, 0.0, float("nan")]]), torch.ones(2, 1, dtype=torch.bool))
    assert grpo(credit, traj).value.tolist() == [[1.0, 3.0, -1.0], [-1.0, -2.0, 0.0]]


def test_the_first_action_of_a_branch_is_its_own_and_tool_text_is_no_action():
    traj = Trajectories(
        mask=torch.tensor([[False, True, True], [True, True, True]]),
        length=torch.tensor([3, 3]),
        group=torch.tensor([0, 0]),
        step=torch.tensor([[0, 1, 2], [0, 1, 2]], dtype=torch.int32),
        stop=torch.zeros(2, dtype=torch.int64),
        actions=torch.zeros(2, 3, dtype=torch.int64),
        parent=torch.tensor([-1, 7]),
        fork=torch.tensor([0, 2]),
    )
    credit = Channel(torch.tensor([[100.0, 1.0, 1.0], [100.0, 100.0, 3.0]]), torch.ones(2, 1, dtype=torch.bool))
    # others' numbers are 3 (action 2 of the branch) and 1 (action 1 of the first)
    assert leave_one_out(credit, traj).value[traj.own].tolist() == [-2.0, -2.0, 2.0]


def stepwise():
    """One group: rollouts of 3, 1 and 2 steps of two actions each, return-to-go credits from step payments."""
    length = torch.tensor([6, 2, 4])
    exists = torch.arange(6) < length[:, None]
    traj = Trajectories(
        mask=exists,
        length=length,
        group=torch.full((3,), 4),
        step=torch.where(exists, torch.arange(6) // 2, -1).int(),
        stop=torch.zeros(3, dtype=torch.int64),
        actions=torch.zeros(3, 6, dtype=torch.int64),
    )
    rewards = place_steps(torch.tensor([[1.0, 2.0, 4.0], [5.0, 0.0, 0.0], [0.0, 8.0, 0.0]]), torch.ones(3, 3).bool(), traj)
    return return_to_go(rewards, traj), traj


def per_step(channel, traj):
    return [channel.value[i, : int(traj.length[i]) : 2].tolist() for i in range(len(traj))]


def test_leave_one_out_by_step_counts_rollouts_that_ended_as_zero():
    # returns by step: (7, 6, 4), (5), (8, 8). Step 0: others (5+8)/2, (7+8)/2, (7+5)/2; step 1: (0+8)/2, (6+0)/2; step 2: 0
    advantage = leave_one_out(*stepwise(), over="step")
    assert per_step(advantage, stepwise()[1]) == [[0.5, 2.0, 4.0], [-2.5], [2.0, 5.0]]


def test_leave_one_out_by_step_without_the_ended_compares_only_those_that_are_there():
    # step 1: others are 8 and 6 alone; step 2: nobody, so 0
    advantage = leave_one_out(*stepwise(), over="step", ended="absent")
    assert per_step(advantage, stepwise()[1]) == [[0.5, -2.0, 0.0], [-2.5], [2.0, 2.0]]


def test_mean_baseline_by_step_takes_the_own_number_in():
    # step 0: mean 20/3; step 1: (6 + 0 + 8) / 3; step 2: 4/3
    advantage = mean_baseline(*stepwise(), over="step")
    expected = [[7 - 20 / 3, 6 - 14 / 3, 4 - 4 / 3], [5 - 20 / 3], [8 - 20 / 3, 8 - 14 / 3]]
    for ours, theirs in zip(per_step(advantage, stepwise()[1]), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_an_ended_rollout_counts_as_zero_only_when_its_last_step_is_known():
    credit, traj = stepwise()
    valid = torch.ones(3, 6, dtype=torch.bool)
    valid[1] = False  # the rollout of one step has no verdict: nobody knows what it would have earned
    advantage = leave_one_out(Channel(credit.value, valid), traj, over="step")
    assert per_step(advantage, traj)[0] == [-1.0, -2.0, 4.0]  # step 1: 8 alone; step 2: the rollout of two steps counts 0
    valid[1], valid[2, :2] = True, False  # return-to-go unknown at the first step of the third, known at its second
    advantage = leave_one_out(Channel(credit.value, valid), traj, over="step")
    assert per_step(advantage, traj)[0] == [2.0, 2.0, 4.0]
    assert advantage.value[2].tolist() == [0.0, 0.0, 5.0, 5.0, 0.0, 0.0]


def test_a_step_without_actions_takes_no_part_in_the_comparison_by_step():
    credit, traj = stepwise()
    mask = traj.mask.clone()
    mask[2, 2:4] = False  # the third rollout's second step is tool text
    advantage = leave_one_out(credit, traj.replace(mask=mask), over="step")
    assert per_step(advantage, traj)[0] == [0.5, 6.0, 4.0]  # step 1: only the ended rollout, which counts 0


def test_equal_returns_by_step_give_exactly_zero():
    credit, traj = stepwise()
    same = traj.select(torch.tensor([0, 0, 0]))
    rows = Channel(credit.value[[0, 0, 0]] * 0.1, credit.valid[[0, 0, 0]])
    for advantage in (leave_one_out, mean_baseline):
        assert advantage(rows, same, over="step").value.abs().max() == 0


def test_group_numbers_may_be_anything():
    channel, traj = bandit([[1.0, 0.0], [5.0, 2.0]])
    far = traj.replace(group=torch.tensor([2**62, 2**62, -(2**62), -(2**62)]))
    assert torch.equal(leave_one_out(channel, far).value, leave_one_out(channel, traj).value)
    assert torch.equal(leave_one_out(channel, far, over="step").value, leave_one_out(channel, traj, over="step").value)
