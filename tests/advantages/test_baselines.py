"""Critic, running mean, and PURE's rates: worked numbers, state, and who may not be compared."""

import pytest
import torch

from payoff.advantages.baselines import RunningMeanBaseline, step_rate_baseline, subtract_values, token_rate_baseline
from payoff.examples import four_answers
from payoff.trajectories import Channel, Trajectories, outcome, place_steps


def column(*numbers: float, known=None) -> Channel:
    return Channel(torch.tensor(numbers)[:, None], torch.tensor(known or [True] * len(numbers))[:, None])


def reasoning(scores: list[list[float]], tokens: list[list[int]], group: list[int], known=None):
    """Rollouts given by their steps' scores, paid at the step's last token, and by their steps' numbers of tokens."""
    n, s = len(scores), max(map(len, scores))
    length = torch.tensor([sum(row) for row in tokens])
    t = int(length.max())
    step = torch.full((n, t), -1, dtype=torch.int32)
    for i, row in enumerate(tokens):
        step[i, : sum(row)] = torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)).int()
    traj = Trajectories(
        mask=step >= 0,
        length=length,
        group=torch.tensor(group),
        step=step,
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, dtype=torch.int64),
        id=torch.arange(n),
    )
    value = torch.tensor([row + [0.0] * (s - len(row)) for row in scores])
    valid = torch.ones(n, s, dtype=torch.bool)
    for i, k in known or []:
        valid[i, k] = False
    return place_steps(value, valid, traj), traj


def test_subtract_values_reads_the_state_before_each_action_and_nothing_beyond_the_end():
    nan = float("nan")
    traj = four_answers().replace(
        extras={"values": torch.tensor([[1.0, 2.0, 3.0, nan], [1.0, 2.0, nan, nan], [0.0, 0.0, 0.0, nan], [5.0, nan, nan, nan]])}
    )
    result = subtract_values(column(10.0, 10.0, 10.0, 10.0, known=[True, True, False, True]), traj)
    assert result.value.tolist() == [[9.0, 8.0, 7.0], [9.0, 8.0, 0.0], [0.0] * 3, [5.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match=r"subtract_values: needs extras\['values'\] of shape .* found none"):
        subtract_values(column(1.0, 1.0, 1.0, 1.0), four_answers())


def test_the_running_mean_lags_one_batch_and_weighs_batches_by_their_age():
    baseline, traj = RunningMeanBaseline(decay=0.5), four_answers()
    first = baseline(column(4.0, 4.0, 8.0, 8.0), traj)
    assert first.value.squeeze(1).tolist() == [4.0, 4.0, 8.0, 8.0]  # nothing known before the first batch
    assert baseline(column(6.0, 6.0, 6.0, 6.0), traj).value.squeeze(1).tolist() == [0.0] * 4  # minus mean 6
    # now (6 / 4 + 0 / 2) / (3 / 4) after a batch of zeros ...
    baseline = RunningMeanBaseline(decay=0.5)
    baseline(column(6.0, 6.0, 6.0, 6.0), traj)
    baseline(column(0.0, 0.0, 0.0, 0.0), traj)
    assert baseline(column(2.0, 2.0, 2.0, 2.0), traj).value.squeeze(1).tolist() == [0.0] * 4  # ... is 2


def test_the_running_mean_ignores_what_is_unknown_and_stands_still_in_evaluation():
    baseline, traj = RunningMeanBaseline(decay=0.5, initial=1.0), four_answers()
    unknown = column(9.0, 9.0, 9.0, 9.0, known=[False] * 4)
    assert baseline(unknown, traj).value.abs().sum() == 0
    assert baseline.weight == 0
    assert baseline(column(3.0, 3.0, 3.0, float("nan"), known=[True, True, True, False]), traj).value.squeeze(1).tolist() == [
        2.0,
        2.0,
        2.0,
        0.0,
    ]
    baseline.eval()
    for _ in range(2):
        assert baseline(column(10.0, 10.0, 10.0, 10.0), traj).value[0].item() == 7.0


def test_the_running_mean_survives_a_checkpoint():
    one, two, traj = RunningMeanBaseline(), RunningMeanBaseline(), four_answers()
    for batch in (column(1.0, 2.0, 3.0, 4.0), column(0.1, 0.2, 0.3, 0.4)):
        one(batch, traj)
    two.load_state_dict(one.state_dict())
    later = column(0.5, 0.5, 0.5, 0.5)
    assert torch.equal(one(later, traj).value, two(later, traj).value)
    assert torch.equal(one(later, traj).value, two(later, traj).value)


def test_the_running_mean_of_dense_credit_is_that_of_first_actions():
    baseline, traj = RunningMeanBaseline(decay=0.0), four_answers()
    dense = Channel(torch.tensor([[8.0, 1.0, 1.0]]).repeat(4, 1), torch.ones(4, 3, dtype=torch.bool))
    baseline(dense, traj)
    assert baseline(dense, traj).value.tolist() == [[0.0, -7.0, -7.0], [0.0, -7.0, 0.0], [0.0, -7.0, -7.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_that_never_or_wildly_forgets_is_refused(decay):
    with pytest.raises(ValueError, match="RunningMeanBaseline: decay must lie in 0 <= decay < 1"):
        RunningMeanBaseline(decay=decay)


def test_token_rate_baseline_by_hand():
    # payments (1, -2 | 3 | 2, 2), tokens (2, 3 | 4 | 1, 1); totals -1, 3, 4; tokens 5, 4, 2
    channel, traj = reasoning([[1.0, -2.0], [3.0], [2.0, 2.0]], [[2, 3], [4], [1, 1]], [7, 7, 7])
    paid, _ = token_rate_baseline(channel, traj), None
    # rates of the others: (3 + 4) / (4 + 2) = 7/6; (-1 + 4) / (5 + 2) = 3/7; (-1 + 3) / (5 + 4) = 2/9
    assert paid.value[0].tolist() == pytest.approx([0, 1 - 2 * 7 / 6, 0, 0, -2 - 3 * 7 / 6], rel=1e-6)
    assert paid.value[1].tolist() == pytest.approx([0, 0, 0, 3 - 4 * 3 / 7, 0], rel=1e-6)
    assert paid.value[2].tolist() == pytest.approx([2 - 2 / 9, 2 - 2 / 9, 0, 0, 0], rel=1e-6)


def test_step_rate_baseline_by_hand():
    # totals per step: -1/2, 3, 2
    channel, traj = reasoning([[1.0, -2.0], [3.0], [2.0, 2.0]], [[2, 3], [4], [1, 1]], [7, 7, 7])
    paid = step_rate_baseline(channel, traj)
    assert paid.value[0].tolist() == pytest.approx([0, 1 - 2.5, 0, 0, -2 - 2.5])
    assert paid.value[1].tolist() == pytest.approx([0, 0, 0, 3 - 0.75, 0])
    assert paid.value[2].tolist() == pytest.approx([2 - 1.25, 2 - 1.25, 0, 0, 0])


@pytest.mark.parametrize("baseline", [token_rate_baseline, step_rate_baseline])
def test_rates_of_equal_rollouts_cancel_their_reward(baseline):
    channel, traj = reasoning([[0.1, 0.1]] * 5, [[3, 3]] * 5, [1] * 5)
    assert outcome(baseline(channel, traj), traj)[0].abs().max() <= 1e-8


@pytest.mark.parametrize("baseline", [token_rate_baseline, step_rate_baseline])
def test_a_rollout_with_an_unknown_step_is_no_comparison_and_keeps_its_known_steps(baseline):
    scores, tokens = [[1.0, 5.0], [3.0], [2.0]], [[1, 1], [2], [2]]
    channel, traj = reasoning(scores, tokens, [0, 0, 0], known=[(0, 1)])
    result = baseline(channel, traj)
    rate = 1.0 if baseline is token_rate_baseline else 2.0  # the second compares itself with the third only, and both pay alone
    assert result.value[1].tolist() == pytest.approx([0, 3 - rate * (2 if baseline is token_rate_baseline else 1)])
    assert result.valid[0].tolist() == [True, False]
    assert result.value[0].tolist() == pytest.approx([1 - (5 / 4 if baseline is token_rate_baseline else 2.5), 0])


@pytest.mark.parametrize("baseline", [token_rate_baseline, step_rate_baseline])
def test_a_rollout_alone_gets_nothing(baseline):
    channel, traj = reasoning([[1.0, 5.0], [3.0]], [[1, 1], [2]], [0, 1])
    assert baseline(channel, traj).value.abs().sum() == 0


def test_others_that_never_act_have_no_rate():
    channel, traj = reasoning([[1.0], [3.0]], [[2], [2]], [0, 0])
    idle = traj.replace(mask=torch.tensor([[True, True], [False, False]]))
    assert token_rate_baseline(channel, idle).value.tolist() == [[0.0, 1.0], [0.0, 3.0]]
