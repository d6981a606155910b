"""Mixing outcome-conditioned flows is exactly the flow policy of the reward."""

import pytest
import torch

from payoff.credit.returns import total
from payoff.losses.gflownet import detailed_balance
from payoff.pipeline import Start
from payoff.policies.construction import StateGraph
from payoff.policies.gflownet import Gflownet
from payoff.search.outcome_conditioned import convert_outcomes
from payoff.tasks.bits import Bits
from payoff.tasks.hypergrid import Hypergrid
from payoff.trajectories import place_outcome

TASKS = [Hypergrid(2, 4), Bits(3, 1, "any")]
every = pytest.mark.parametrize("task", TASKS, ids=lambda t: type(t).__name__)


def conditioned(graph):
    """Exact flows and policies for every outcome: the reward is 1 there and 0 elsewhere."""
    outcomes = graph.objects.nonzero().flatten()
    wanted = torch.full((len(outcomes), graph.space.state_count), -torch.inf, dtype=torch.float64)
    wanted[torch.arange(len(outcomes)), outcomes] = 0
    flows = torch.stack([graph.log_flows(row) for row in wanted])
    policies = torch.stack([graph.log_policy(row) for row in wanted])
    return outcomes, flows, policies


@every
def test_the_mixture_is_the_exact_flow_policy_of_any_reward(task):
    graph = StateGraph(task)
    outcomes, flows, policies = conditioned(graph)
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        log_reward = torch.randn(len(outcomes), generator=rng, dtype=torch.float64)
        whole = torch.full((task.state_count,), -torch.inf, dtype=torch.float64)
        whole[outcomes] = log_reward
        mixed = convert_outcomes(flows, policies, log_reward)
        passed = graph.log_flows(whole) > -torch.inf
        assert torch.allclose(mixed[passed].exp(), graph.log_policy(whole)[passed].exp(), atol=1e-12)
        p = graph.object_distribution(mixed)
        assert float((p[outcomes] - log_reward.softmax(0)).abs().sum()) < 1e-12
        assert torch.allclose(convert_outcomes(flows, policies, log_reward + 7.0).exp(), mixed.exp(), atol=1e-12)


@every
def test_a_reward_for_one_outcome_gives_the_policy_of_that_outcome(task):
    graph = StateGraph(task)
    outcomes, flows, policies = conditioned(graph)
    one = torch.full((len(outcomes),), -torch.inf, dtype=torch.float64)
    one[2] = 0
    mixed = convert_outcomes(flows, policies, one)
    assert torch.equal(mixed.exp(), policies[2].exp())
    assert float(graph.object_distribution(mixed)[outcomes[2]]) == pytest.approx(1.0)


def test_paying_the_outcome_at_every_action_is_teleportation_and_plain_balance_where_the_goal_was_reached():
    task = Hypergrid(2, 3)
    policy = Gflownet(task, network="table", critic=True, log_z="flow", conditioned=True, dtype="float64")
    outcomes, flows, policies = conditioned(policy.graph)
    with torch.no_grad():
        table = policy.net.rows.view(9, 9, 4)
        table[..., :3] = torch.where(policies > -torch.inf, policies, -60.0)
        table[..., 3] = torch.where(flows > -torch.inf, flows, 0)
    traj = policy.rollout([Start(str(y), {"goal": task.state(y).tolist()}) for y in outcomes], 8, torch.Generator().manual_seed(0))
    reached = task.index(torch.tensor([item["object"] for item in traj.items])) == traj.extras["goal"]
    assert reached.all()
    reward = place_outcome(torch.where(reached, 0.0, -9.0).double(), torch.ones(len(traj), dtype=torch.bool), traj)
    evaluation = policy.evaluate(traj, frozenset({"values"}))
    assert float(detailed_balance(evaluation, traj, total(reward, traj)).terms.abs().max().detach()) < 1e-12
    failed = place_outcome(torch.full((len(traj),), -9.0, dtype=torch.float64), torch.ones(len(traj), dtype=torch.bool), traj)
    terms = detailed_balance(evaluation, traj, total(failed, traj)).terms
    assert terms[traj.exists].detach().tolist() == pytest.approx([81.0] * int(traj.exists.sum()))
