"""Turns compared with turns: which baselines leave the gradient as it is, and by how much the obvious one turns it."""

import functools

import pytest
import torch

from payoff.advantages.group import leave_one_out, mean_baseline
from payoff.advantages.turns import turn_leave_one_out, turn_standardised
from payoff.credit.returns import return_to_go, total
from payoff.exact import bias, compare, credit_gradient, exact_gradient, expected_gradient, gradient_covariance
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, Trajectories, place_steps

F64 = torch.float64
STOPPED = Tabular(3, 3, stop=2, spread=1.0, seed=1)  # 15 sequences of 1 to 3 turns of one action
PAIRED = Tabular(2, 4, stop=1, spread=1.0, seed=2, step_length=2)  # turns of two actions
ENDED = ("carried", "zero", "absent")


def drawn(policy: Tabular) -> torch.Tensor:
    """A payment for every action, that depends on nothing later."""
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(policy.tree.prefix_count * policy.tree.vocabulary, generator=generator, dtype=F64)
    return torch.where(policy.tree.exists, table[policy.tree.edge], 0)


def term(*path) -> Term:
    return Term(weigh({"reward": list(path)}), policy_gradient, sequence_sum)


@pytest.mark.parametrize("ended", ENDED)
@pytest.mark.parametrize(("policy", "size"), [(STOPPED, 1), (STOPPED, 2), (STOPPED, 4), (PAIRED, 3), (PAIRED, (2, 3))])
def test_leaving_oneself_out_by_turn_is_unbiased_however_the_rollouts_stop(policy, size, ended):
    reward = drawn(policy)
    path = functools.partial(turn_leave_one_out, ended=ended)
    found = expected_gradient(policy, [term(return_to_go, path)], {"reward": reward}, group_size=size)
    torch.testing.assert_close(found, exact_gradient(policy, reward), rtol=0, atol=1e-9)


def reached(policy: Tabular) -> torch.Tensor:
    """The chance that a rollout has a turn k."""
    p, turns = policy.probabilities().detach(), policy.sequences().step.amax(1)
    return torch.stack([(p * (turns >= k)).sum() for k in range(int(turns.max()) + 1)])


def weighted_by_turn(policy: Tabular, reward: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The gradient whose turn k counts weight[k] times."""
    step = policy.sequences().step.clamp(min=0).long()
    return credit_gradient(policy, reward.flip(1).cumsum(1).flip(1) * weight[step])


@pytest.mark.parametrize(("policy", "size"), [(STOPPED, 2), (STOPPED, 4), (PAIRED, 3)])
def test_the_mean_of_those_that_got_as_far_scales_turn_k_by_one_less_the_mean_of_one_over_their_number(policy, size):
    # With the others that reach turn k binomial, E[1 / n_k] = (1 - (1 - q)^G) / (G q).
    reward, q = drawn(policy), reached(policy)
    weight = 1 - (1 - (1 - q) ** size) / (size * q)
    found = expected_gradient(
        policy, [term(return_to_go, functools.partial(turn_standardised, scale="none"))], {"reward": reward}, group_size=size
    )
    torch.testing.assert_close(found, weighted_by_turn(policy, reward, weight), rtol=0, atol=1e-9)
    assert weight[0] == pytest.approx(1 - 1 / size)
    assert (weight.diff() < 0).all()  # late turns are learned more slowly
    assert compare(found, exact_gradient(policy, reward)).residual > 0.02


def test_dropping_a_turn_that_nobody_else_reached_scales_it_by_the_chance_that_somebody_does():
    reward, q = drawn(STOPPED), reached(STOPPED)
    path = functools.partial(leave_one_out, over="step", ended="absent")
    found = expected_gradient(STOPPED, [term(return_to_go, path)], {"reward": reward}, group_size=3)
    torch.testing.assert_close(found, weighted_by_turn(STOPPED, reward, 1 - (1 - q) ** 2), rtol=0, atol=1e-9)


def test_dividing_by_the_spread_of_a_turn_turns_the_gradient_even_where_all_rollouts_have_all_turns():
    policy = Tabular(2, 3, spread=1.0, seed=1)
    reward = drawn(policy)
    divided = bias(policy, [term(return_to_go, turn_standardised)], {"reward": reward}, reward, group_size=3)
    assert divided.residual > 0.05
    plain = bias(
        policy, [term(return_to_go, functools.partial(turn_standardised, scale="none"))], {"reward": reward}, reward, group_size=3
    )
    assert plain.residual < 1e-9


@pytest.mark.parametrize("size", [2, 3])
def test_for_an_outcome_carrying_the_last_turn_on_is_leave_one_out_over_rollouts_in_every_batch(size):
    reward = {"reward": torch.rand(15, generator=torch.Generator().manual_seed(0), dtype=F64)}
    by_turn, by_rollout = term(return_to_go, turn_leave_one_out), term(total, leave_one_out)
    opposite = Term(by_rollout.target, by_rollout.loss, by_rollout.aggregation, -1.0)
    assert gradient_covariance(STOPPED, [by_turn, opposite], reward, group_size=size).abs().max() < 1e-18


def test_carrying_is_least_noisy_for_payments_of_one_sign_and_counting_zero_for_payments_about_zero():
    signed = drawn(STOPPED)
    for reward, best in ((signed.abs(), "carried"), (signed, "zero")):
        noise = {
            ended: float(
                gradient_covariance(
                    STOPPED,
                    [term(return_to_go, functools.partial(turn_leave_one_out, ended=ended))],
                    {"reward": reward},
                    group_size=3,
                ).trace()
            )
            for ended in ENDED
        }
        assert min(noise, key=noise.get) == best


def three_rollouts() -> tuple[Channel, Trajectories]:
    """One group: rollouts of 3, 1 and 2 turns of two actions each, returns-to-go (7, 6, 4), (5), (8, 8)."""
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
    paid = place_steps(torch.tensor([[1.0, 2.0, 4.0], [5.0, 0.0, 0.0], [0.0, 8.0, 0.0]]), torch.ones(3, 3).bool(), traj)
    return return_to_go(paid, traj), traj


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        # turn 0: others (5 + 8) / 2, (7 + 8) / 2, (7 + 5) / 2
        ("carried", [[0.5, -0.5, -2.5], [-2.5], [2.0, 2.5]]),  # turn 1: (5 + 8) / 2, (6 + 5) / 2; turn 2: (5 + 8) / 2
        ("zero", [[0.5, 2.0, 4.0], [-2.5], [2.0, 5.0]]),  # turn 1: (0 + 8) / 2, (6 + 0) / 2; turn 2: 0
        ("absent", [[0.5, -2.0, 4.0], [-2.5], [2.0, 2.0]]),  # turn 1: 8, 6; turn 2: nobody, so the credit stays
    ],
)
def test_golden_numbers(ended, expected):
    credit, traj = three_rollouts()
    found = turn_leave_one_out(credit, traj, ended=ended).value
    assert [found[i, : int(traj.length[i]) : 2].tolist() for i in range(3)] == expected


def test_equal_returns_by_turn_give_exactly_zero_and_a_rollout_alone_keeps_its_credit():
    credit, traj = three_rollouts()
    same = traj.select(torch.tensor([0, 0, 0]))
    rows = Channel(credit.value[[0, 0, 0]] * 0.1, credit.valid[[0, 0, 0]])
    for ended in ENDED:
        assert turn_leave_one_out(rows, same, ended=ended).value.abs().max() == 0
    assert turn_standardised(rows, same).value.abs().max() == 0
    alone = traj.select(torch.tensor([0]))
    one = Channel(credit.value[:1], credit.valid[:1])
    assert turn_leave_one_out(one, alone).value.equal(credit.value[:1])
    assert turn_standardised(one, alone).value.abs().max() == 0


def test_a_rollout_whose_last_turn_is_unknown_is_not_carried_on():
    credit, traj = three_rollouts()
    valid = torch.ones(3, 6, dtype=torch.bool)
    valid[1] = False
    found = turn_leave_one_out(Channel(credit.value, valid), traj).value
    assert found[0, ::2].tolist() == [7 - 8, 6 - 8, 4 - 8]


def test_the_option_reaches_every_advantage_that_compares_by_step():
    credit, traj = three_rollouts()
    found = mean_baseline(credit, traj, over="step", ended="carried").value
    assert found[0, ::2].tolist() == pytest.approx([7 - 20 / 3, 6 - 19 / 3, 4 - 17 / 3], rel=1e-6)
