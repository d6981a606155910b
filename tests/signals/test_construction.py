"""Rewards of built objects, and the dictionary between balance and soft reinforcement learning."""

import pytest
import torch

from payoff.advantages.baselines import subtract_values
from payoff.credit.returns import lambda_return, return_to_go, total
from payoff.examples import four_answers
from payoff.losses.gflownet import trajectory_balance
from payoff.pipeline import weighted_sum
from payoff.policies.gflownet import Gflownet
from payoff.signals.construction import log_reward, soft_reward
from payoff.tasks.hypergrid import Hypergrid
from payoff.trajectories import StopReason


def exact_policy(task):
    policy = Gflownet(task, network="table", critic=True, dtype="float64", log_z_rate=1.0)
    graph = policy.graph
    with torch.no_grad():
        logits = graph.log_policy()
        policy.net.rows[:, : task.actions] = torch.where(logits > -torch.inf, logits, 0)
        policy.net.rows[:, -1] = graph.log_flows()
        policy.log_z.fill_(graph.log_z)
    return policy


def soft_rl(policy, traj):
    """log R at the end plus log P_B - log pi at every action."""
    return weighted_sum({**log_reward(traj), **soft_reward(traj)}, {"log_reward": 1.0, "soft": 1.0})


def test_the_soft_return_is_log_z_minus_the_residual_of_trajectory_balance():
    policy = Gflownet(Hypergrid(2, 4), hidden=8, critic=True, dtype="float64")
    traj = policy.rollout(policy.space.starts(1, torch.Generator()), 16, torch.Generator().manual_seed(0))
    collected = total(soft_rl(policy, traj), traj).value[:, 0]
    residual = trajectory_balance(policy.evaluate(traj, frozenset({"log_z"})), traj, log_reward(traj)["log_reward"])
    assert torch.allclose(residual.terms[:, 0].detach(), (collected - residual.metrics["log_z"]).square(), atol=1e-10)


def test_at_the_exact_flow_every_soft_return_to_go_is_the_log_flow_of_its_state():
    task = Hypergrid(2, 4)
    policy = exact_policy(task)
    traj = policy.record(*policy.graph.trajectories())
    to_go = return_to_go(soft_rl(policy, traj), traj).value
    flows = policy.evaluate(traj, frozenset({"values"})).more["values"].detach()
    assert torch.allclose(to_go[traj.exists], flows[:, :-1][traj.exists], atol=1e-12)


@pytest.mark.parametrize("trace", [0.0, 0.7, 1.0])
def test_at_the_exact_flow_the_generalised_advantage_of_every_action_is_zero(trace):
    policy = exact_policy(Hypergrid(2, 4))
    traj = policy.record(*policy.graph.trajectories())
    traj = traj.replace(extras={"values": policy.evaluate(traj, frozenset({"values"})).more["values"].detach()})
    credit = lambda_return(soft_rl(policy, traj), traj, trace=trace)
    assert float(subtract_values(credit, traj).value.abs().max()) < 1e-12


def test_the_soft_reward_reads_the_policy_and_not_the_explorer():
    policy = Gflownet(Hypergrid(2, 4), hidden=8, exploration=0.5, dtype="float64")
    traj = policy.rollout(policy.space.starts(1, torch.Generator()), 16, torch.Generator().manual_seed(0))
    wanted = torch.where(traj.exists, traj.extras["log_backward"] - policy.evaluate(traj).logp.detach(), 0)
    assert torch.allclose(soft_reward(traj)["soft"].value, wanted, atol=1e-12)


def test_an_unfinished_object_has_no_reward_and_says_so():
    traj = four_answers().replace(
        stop=torch.tensor([0, int(StopReason.truncated), int(StopReason.illegal), 0]),
        extras={"log_reward": torch.tensor([[0.0, -torch.inf, 2.0, 3.0]]).repeat(4, 1)},
    )
    channel = log_reward(traj)["log_reward"]
    assert channel.valid.all(1).tolist() == [True, False, False, False]
    assert channel.reasons == {1: "no finished object", 2: "no finished object", 3: "log R is not finite"}
    assert channel.value.isfinite().all()


def test_padding_and_positions_without_actions_pay_nothing():
    traj = four_answers()
    logp = torch.where(traj.exists, traj.logp["old"], torch.nan)
    mask = traj.mask.clone()
    mask[0, 1] = False
    soft = soft_reward(traj.replace(mask=mask, logp={"old": logp}))["soft"].value
    assert soft.isfinite().all()
    assert soft[0].tolist() == [1.0, 0.0, 1.0]


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="which policies that build objects record"):
        log_reward(four_answers())
    bare = four_answers()
    bare.logp.clear()
    with pytest.raises(ValueError, match=r'needs traj.logp\["old"\]'):
        soft_reward(bare)
