"""Credit by time: exact values worked by hand, what is known where, and parity with verl."""

import pytest
import torch

from payoff.credit.returns import immediate, lambda_return, return_to_go, total
from payoff.examples import four_answers
from payoff.trajectories import Channel, StopReason, Trajectories, place_outcome, place_steps


def rollouts(mask, length, step=None, stop=0, values=None) -> Trajectories:
    mask, length = torch.tensor(mask, dtype=torch.bool), torch.tensor(length)
    n, t = mask.shape
    exists = torch.arange(t) < length[:, None]
    step = torch.arange(t).repeat(n, 1) if step is None else torch.tensor(step)
    return Trajectories(
        mask=mask,
        length=length,
        group=torch.zeros(n, dtype=torch.int64),
        step=torch.where(exists, step, -1).int(),
        stop=torch.full((n,), stop),
        actions=torch.zeros(n, t, dtype=torch.int64),
        extras={} if values is None else {"values": torch.as_tensor(values)},
    )


def paid(rows, valid=None) -> Channel:
    value = torch.tensor(rows)
    return Channel(value, torch.ones(len(value), 1, dtype=torch.bool) if valid is None else torch.tensor(valid))


def random_rollouts(seed, n=24, t=11, stop=0):
    """Random lengths, a quarter of the positions written by a tool, random payments and values."""
    rng = torch.Generator().manual_seed(seed)
    length = torch.randint(1, t + 1, (n,), generator=rng)
    exists = torch.arange(t) < length[:, None]
    mask = exists & (torch.rand(n, t, generator=rng) > 0.25)
    traj = Trajectories(
        mask=mask,
        length=length,
        group=torch.arange(n) // 4,
        step=torch.where(exists, torch.arange(t) // 3, -1).int(),
        stop=torch.full((n,), stop),
        actions=torch.zeros(n, t, dtype=torch.int64),
        extras={"values": torch.randn(n, t + 1, generator=rng)},
    )
    return traj, torch.where(exists, torch.randn(n, t, generator=rng), 0)


def test_total_adds_what_is_paid_on_tool_text_and_ignores_padding():
    traj = rollouts([[1, 0, 1, 0], [0, 0, 0, 0]], [3, 1])
    nan = float("nan")
    credit = total(paid([[1.0, 2.0, 4.0, nan], [8.0, nan, nan, nan]]), traj)
    assert credit.value.tolist() == [[7.0], [8.0]]
    assert credit.valid.all()


def test_total_of_one_column_counts_it_at_every_position_that_exists():
    assert total(Channel(torch.full((4, 1), 0.5), torch.ones(4, 1, dtype=torch.bool)), four_answers()).value.tolist() == [
        [1.5],
        [1.0],
        [1.5],
        [0.5],
    ]


def test_total_is_unknown_when_one_payment_is_and_keeps_the_reason():
    channel = Channel(torch.ones(4, 3), torch.tensor([[1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]]).bool(), {0: "judge down"})
    credit = total(channel, four_answers())
    assert credit.valid.squeeze(1).tolist() == [False, True, True, True]  # row 1 fails beyond its end only
    assert credit.value.squeeze(1).tolist() == [0.0, 2.0, 3.0, 1.0]
    assert credit.reasons == {0: "judge down"}


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9, 1.0])
def test_return_to_go_solves_its_recurrence(discount):
    traj, rewards = random_rollouts(0)
    value = return_to_go(Channel(rewards.double(), torch.ones(24, 1, dtype=torch.bool)), traj, discount=discount).value
    later = torch.nn.functional.pad(value[:, 1:], (0, 1))
    torch.testing.assert_close(value - discount * later, rewards.double(), rtol=0, atol=1e-12)


def test_return_to_go_by_hand_with_time_in_positions_actions_and_steps():
    # positions 0..3, tool text at 1, steps 0 0 1 1; paid 1, 2, 4, 8; discount 1/2
    traj = rollouts([[1, 0, 1, 1]], [4], step=[[0, 0, 1, 1]])
    rewards = paid([[1.0, 2.0, 4.0, 8.0]])
    credit = lambda per: return_to_go(rewards, traj, discount=0.5, per=per).value.tolist()
    # every position: 8; 4+8/2=8; 2+8/2=6; 1+6/2=4
    assert credit("position") == [[4.0, 6.0, 8.0, 8.0]]
    # only at actions 2 and 3: 8; 4+8/2=8; 2+8/2=6 (action 2 begins); 1+6=7 (position 1 is no action)
    assert credit("action") == [[7.0, 6.0, 8.0, 8.0]]
    # only where step 1 begins: 8; 4+8=12; 2+12/2=8; 1+8=9
    assert credit("step") == [[9.0, 8.0, 12.0, 8.0]]


def test_return_to_go_without_discount_does_not_depend_on_the_clock():
    traj, rewards = random_rollouts(1)
    channel = Channel(rewards, torch.ones(24, 1, dtype=torch.bool))
    first = return_to_go(channel, traj).value
    assert torch.equal(first, return_to_go(channel, traj, per="action").value)
    torch.testing.assert_close(first[:, :1], total(channel, traj).value, rtol=0, atol=1e-5)


def test_a_failed_step_costs_immediate_credit_that_step_and_return_to_go_what_comes_before_it():
    traj = rollouts([[1, 1, 1, 1, 1, 0]], [5], step=[[0, 0, 1, 1, 2, 0]])
    channel = place_steps(torch.tensor([[1.0, 9.0, 4.0]]), torch.tensor([[True, False, True]]), traj, {0: "timeout"})
    there = immediate(channel, traj)
    assert there.valid[0, :5].tolist() == [True, True, False, False, True]
    assert there.value.tolist() == [[1.0, 1.0, 0.0, 0.0, 4.0, 0.0]]
    later = return_to_go(channel, traj)
    assert later.valid[0, :5].tolist() == [False, False, False, False, True]
    assert later.value.tolist() == [[0.0, 0.0, 0.0, 0.0, 4.0, 0.0]]
    assert there.reasons == later.reasons == {0: "timeout"}
    assert not total(channel, traj).valid.any()


def test_with_discount_0_only_the_own_payment_must_be_known():
    traj = rollouts([[1, 1, 1]], [3])
    channel = paid([[1.0, 2.0, 4.0]], [[True, False, True]])
    credit = return_to_go(channel, traj, discount=0.0)
    assert credit.valid.tolist() == [[True, False, True]]
    assert credit.value.tolist() == [[1.0, 0.0, 4.0]]


def test_an_unknown_outcome_makes_every_credit_of_its_trajectory_unknown():
    traj = four_answers()
    outcome = place_outcome(torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([True, False, True, True]), traj)
    for credit in (total, return_to_go):
        channel = credit(outcome, traj)
        known = channel.valid.expand(traj.mask.shape)[traj.mask].tolist()
        assert known == [True] * 3 + [False] * 2 + [True] * 4


def test_immediate_gives_all_actions_of_a_step_its_end_payment_and_passes_one_column_of_validity():
    traj = rollouts([[1, 1, 1, 1], [1, 1, 0, 0]], [4, 2], step=[[0, 0, 0, 1], [0, 1, 0, 0]])
    channel = place_steps(torch.tensor([[3.0, 5.0], [7.0, 2.0]]), torch.ones(2, 2, dtype=torch.bool), traj)
    credit = immediate(channel, traj)
    assert credit.value.tolist() == [[3.0, 3.0, 3.0, 5.0], [7.0, 2.0, 0.0, 0.0]]
    assert credit.valid.shape == (2, 1)


def test_lambda_return_with_trace_1_is_the_discounted_return_with_the_final_value_only_where_truncated():
    values = [[9.0, 9.0, 9.0, 4.0]] * 4  # only the value of the final state matters with trace 1
    for stop, last in ((StopReason.truncated, 4.0), (StopReason.finished, 0.0), (StopReason.illegal, 0.0), (StopReason.error, 0.0)):
        traj = rollouts([[1, 1, 1]], [3], stop=int(stop), values=values[:1])
        value = lambda_return(paid([[1.0, 2.0, 4.0]]), traj, discount=0.5, trace=1.0).value
        # 4 + last/2; 2 + that/2; 1 + that/2
        third = 4 + last / 2
        assert value.tolist() == [[1 + (2 + third / 2) / 2, 2 + third / 2, third]]


def test_lambda_return_with_trace_0_looks_one_action_ahead():
    traj = rollouts([[1, 1, 1, 0]], [3], stop=int(StopReason.truncated), values=[[10.0, 20.0, 40.0, 80.0, float("nan")]])
    value = lambda_return(paid([[1.0, 2.0, 4.0, 0.0]]), traj, discount=0.5, trace=0.0).value
    assert value.tolist() == [[1 + 10.0, 2 + 20.0, 4 + 40.0, 0.0]]


def test_lambda_return_over_tool_text_gives_its_payment_to_the_action_before_and_no_time_passes():
    nan = float("nan")
    # action, tool (paid 8), action, tool (paid 16), truncated; the values at the tool's positions are not read
    traj = rollouts([[1, 0, 1, 0]], [4], stop=int(StopReason.truncated), values=[[2.0, nan, 6.0, nan, 32.0]])
    value = lambda_return(paid([[1.0, 8.0, 4.0, 16.0]]), traj, discount=0.5, trace=0.5).value[0]
    second = 4 + 16 + 0.5 * 32  # R = 4 + 16, then the final value, one action later
    first = 1 + 8 + 0.5 * (0.5 * 6 + 0.5 * second)
    assert value[0] == first
    assert value[2] == second


def test_lambda_return_is_unknown_before_a_failed_payment_and_only_there():
    traj = rollouts([[1, 0, 1, 1]], [4], values=[[1.0, 1.0, 1.0, 1.0, 1.0]])
    channel = paid([[1.0, float("nan"), 1.0, 1.0]], [[True, False, True, True]])
    assert lambda_return(channel, traj).valid.tolist() == [[False, False, True, True]]
    # with trace 0 an action only needs what is paid until the next one
    late = paid([[1.0, 1.0, 1.0, float("nan")]], [[True, True, True, False]])
    assert lambda_return(late, traj, trace=0.0).valid.tolist() == [[True, True, True, False]]
    assert lambda_return(late, traj, trace=0.5).valid.tolist() == [[False, False, False, False]]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.99, 0.0)])
def test_lambda_return_is_verls_return_and_with_whitening_its_advantage(gamma, lam):
    from verl.trainer.ppo.core_algos import compute_gae_advantage_return

    from payoff.advantages.baselines import subtract_values
    from payoff.advantages.batch import whiten

    traj, rewards = random_rollouts(2)
    rewards = torch.where(traj.mask, rewards, 0)  # verl drops what is paid on tool text
    mask = traj.mask.float()
    theirs, returns = compute_gae_advantage_return(rewards, traj.extras["values"][:, :-1], mask, gamma, lam)
    credit = lambda_return(Channel(rewards, torch.ones(24, 1, dtype=torch.bool)), traj, discount=gamma, trace=lam)
    torch.testing.assert_close(credit.value[traj.mask], returns[traj.mask], rtol=1e-5, atol=1e-5)
    ours = whiten(subtract_values(credit, traj), traj)
    torch.testing.assert_close(ours.value[traj.mask], theirs[traj.mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_return_to_go_per_action_is_verls_reinforce_plus_plus_return(gamma):
    from types import SimpleNamespace

    from verl.trainer.ppo.core_algos import compute_reinforce_plus_plus_outcome_advantage

    traj, rewards = random_rollouts(3)
    rewards = torch.where(traj.mask, rewards, 0)
    config = SimpleNamespace(gamma=gamma)
    _, returns = compute_reinforce_plus_plus_outcome_advantage(rewards, traj.mask.float(), config=config)
    ours = return_to_go(Channel(rewards, torch.ones(24, 1, dtype=torch.bool)), traj, discount=gamma, per="action")
    torch.testing.assert_close(ours.value[traj.mask], returns[traj.mask], rtol=1e-5, atol=1e-5)


def test_long_and_wide_batches_are_summed_in_blocks_without_a_seam():
    n, t = 9, 70_000  # more than one block, and 17 doublings
    traj = Trajectories(
        mask=torch.ones(n, t, dtype=torch.bool),
        length=torch.full((n,), t),
        group=torch.zeros(n, dtype=torch.int64),
        step=torch.zeros(n, t, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, dtype=torch.int8),
    )
    ones = Channel(torch.ones(n, t, dtype=torch.float64), torch.ones(n, 1, dtype=torch.bool))
    assert torch.equal(return_to_go(ones, traj).value[-1], torch.arange(t, 0, -1, dtype=torch.float64))
    # geometric series (1 - 0.999^k) / 0.001 of the k positions that are left
    left = torch.arange(t, 0, -1, dtype=torch.float64)
    expected = (1 - 0.999**left) / 0.001
    torch.testing.assert_close(return_to_go(ones, traj, discount=0.999).value[0], expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(return_to_go(ones, traj, discount=0.999, per="action").value[-1], expected, rtol=1e-9, atol=0)


def test_no_rollouts_give_no_credit():
    traj = four_answers().select(torch.tensor([], dtype=torch.int64)).replace(extras={"values": torch.zeros(0, 2)})
    channel = Channel(torch.zeros(0, 1), torch.ones(0, 1, dtype=torch.bool))
    for credit in (total, return_to_go, immediate, lambda_return):
        assert len(credit(channel, traj).value) == 0


def test_mistakes_are_named():
    traj, channel = four_answers(), paid([[0.0, 0.0, 0.0]] * 4)
    with pytest.raises(ValueError, match=r"return_to_go: discount must lie in 0\.\.1, got 1.5"):
        return_to_go(channel, traj, discount=1.5)
    with pytest.raises(ValueError, match=r"lambda_return: trace must lie in 0\.\.1, got -0.5"):
        lambda_return(channel, traj.replace(extras={"values": torch.zeros(4, 4)}), trace=-0.5)
    with pytest.raises(ValueError, match=r"needs extras\['values'\] of shape \[N, T\+1\] = \[4, 4\], found none"):
        lambda_return(channel, traj)
    with pytest.raises(ValueError, match=r"found shape \[4, 3\]"):
        lambda_return(channel, traj.replace(extras={"values": torch.zeros(4, 3)}))
