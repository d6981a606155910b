"""Balance losses on graphs small enough to list: zero at the exact flow, their web of equivalences, and what they descend."""

import functools
import math

import pytest
import torch

from payoff.credit.increments import forward_looking
from payoff.losses.gflownet import (
    backward_likelihood,
    detailed_balance,
    flow_matching,
    log_partition_variance,
    sub_trajectory_balance,
    trajectory_balance,
    trajectory_mean,
)
from payoff.losses.order import order_preserving
from payoff.losses.relative_balance import prefix_reward_balance, relative_trajectory_balance
from payoff.pipeline import everywhere
from payoff.policies.gflownet import Gflownet
from payoff.signals.construction import log_reward
from payoff.tasks.bits import Bits
from payoff.tasks.hypergrid import Hypergrid
from payoff.trajectories import StopReason

TASKS = {
    "grid": Hypergrid(dimensions=2, side=4),
    "cube": Hypergrid(dimensions=3, side=2, reward="cosine"),
    "tree": Bits(length=3, exponent=0.7, modes=1),
    "any order": Bits(length=3, order="any", exponent=0.7, modes=2),
}
TERMINAL = [
    trajectory_balance,
    log_partition_variance,
    detailed_balance,
    functools.partial(sub_trajectory_balance, decay=0.9),
    flow_matching,
]
everything = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def exact(task, *, learned=False, energies=False, spread=0.0):
    """A table policy that is the exact flow of the task's reward, plus normal noise of size `spread` on everything."""
    policy = Gflownet(
        task, network="table", critic=True, dtype="float64", backward="learned" if learned else "uniform", log_z_rate=2.0
    )
    graph, k = policy.graph, task.actions
    logits = graph.log_policy()
    with torch.no_grad():
        policy.net.rows[:, :k] = torch.where(logits > -torch.inf, logits, 0)
        flow = graph.log_flows()
        if energies:  # flows relative to what the unfinished objects are worth
            flow = flow - graph.log_rewards
        policy.net.rows[:, -1] = torch.where(flow > -torch.inf, flow, 0)
        policy.log_z.fill_(graph.log_z / policy.log_z_rate)
        rng = torch.Generator().manual_seed(1)
        for parameter in policy.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    return policy


def all_ways(policy, want=frozenset({"values", "inflow", "log_z", "log_backward"})):
    traj = policy.record(*policy.graph.trajectories())
    return traj, policy.evaluate(traj, want & policy.offers)


@everything
@pytest.mark.parametrize("loss", TERMINAL, ids=lambda f: getattr(f, "__name__", "sub_trajectory_balance"))
@pytest.mark.parametrize("learned", [False, True])
def test_every_balance_loss_and_its_gradient_vanish_at_the_exact_flow_and_nowhere_near_it(task, loss, learned):
    for spread, at_balance in ((0.0, True), (0.3, False)):
        policy = exact(task, learned=learned, spread=spread)
        traj, evaluation = all_ways(policy)
        terms = loss(evaluation, traj, log_reward(traj)["log_reward"]).terms
        gradient = torch.autograd.grad(terms.sum(), list(policy.parameters()), allow_unused=True)
        size = max(float(g.abs().max()) for g in gradient if g is not None)
        if at_balance:
            assert float(terms.abs().max()) < 1e-12
            assert size < 1e-9
        else:
            assert float(terms.mean()) > 1e-2
            assert size > 1e-2


@everything
def test_forward_looking_flows_in_balance_are_flows_over_energies(task):
    policy = exact(task, energies=True)
    traj, evaluation = all_ways(policy)
    gains = forward_looking(log_reward(traj)["log_reward"], traj)
    for loss in (detailed_balance, sub_trajectory_balance):
        assert float(loss(evaluation, traj, gains).terms.abs().max().detach()) < 1e-12
        assert float(loss(evaluation, traj, log_reward(traj)["log_reward"]).terms.abs().max().detach()) > 1e-3


@everything
def test_forward_looking_with_all_paid_at_the_end_is_detailed_balance(task):
    policy = exact(task, spread=0.5)
    traj, evaluation = all_ways(policy)
    flat = traj.replace(extras={"log_reward": torch.zeros_like(traj.extras["log_reward"])})
    reward = log_reward(traj)["log_reward"]
    gains = forward_looking(reward, flat)
    assert torch.equal(detailed_balance(evaluation, traj, gains).terms, detailed_balance(evaluation, traj, reward).terms)


@everything
def test_moving_energy_into_the_flow_leaves_every_forward_looking_residual_as_it_is(task):
    policy = exact(task, spread=0.5)
    traj, evaluation = all_ways(policy)
    reward = log_reward(traj)["log_reward"]
    added = torch.sin(7.0 * policy.space.index(traj.extras["states"]).double())  # g(s), any function of the state
    inner = (torch.arange(traj.width + 1) > 0) & (torch.arange(traj.width + 1) < traj.length[:, None])
    # energies E = -log_reward: E -> E + g on states on the way, so log_reward -> log_reward - g, and flows -> flows + g
    moved = traj.replace(extras={"log_reward": traj.extras["log_reward"] - torch.where(inner, added, 0)})
    more = {**evaluation.more, "values": evaluation.more["values"] + torch.where(inner, added, 0)}
    before = detailed_balance(evaluation, traj, forward_looking(reward, traj)).terms
    after = detailed_balance(evaluation._replace(more=more), moved, forward_looking(reward, moved)).terms
    assert torch.allclose(before, after, atol=1e-12)


def test_without_the_pinned_end_a_policy_that_ignores_the_reward_would_be_in_balance():
    # flows that follow the uniform policy: F~ = E + sum log(P_F / P_B) balances every forward-looking edge, but for the pinned end
    task = Bits(length=3, order="any", exponent=1.0, modes=1)
    policy = Gflownet(task, network="table", critic=True, dtype="float64", log_z_rate=1.0)
    graph = policy.graph
    with torch.no_grad():
        depth = task.depth(graph.states).double()
        # every legal action of the uniform policy has probability 1 / (2 (3 - d)), every parent 1 / (d + 1)
        path = torch.tensor([sum(math.log((d + 1) / (2 * (3 - d))) for d in range(int(x))) for x in depth], dtype=torch.float64)
        policy.net.rows[:, -1] = path - graph.log_rewards
    traj, evaluation = all_ways(policy)
    gains = forward_looking(log_reward(traj)["log_reward"], traj)
    terms = detailed_balance(evaluation, traj, gains).terms
    assert float(terms[:, :-1].max().detach()) < 1e-12
    assert float(terms[:, -1].mean().detach()) > 0.5


@everything
def test_sub_trajectory_balance_goes_from_detailed_to_trajectory_balance(task):
    policy = exact(task, spread=0.4)
    traj, evaluation = all_ways(policy)
    reward = log_reward(traj)["log_reward"]
    single = detailed_balance(evaluation, traj, reward).terms.sum(1, keepdim=True) / traj.length[:, None]
    whole = trajectory_balance(evaluation, traj, reward).terms
    sub = lambda decay: sub_trajectory_balance(evaluation, traj, reward, decay=decay).terms
    assert torch.allclose(sub(0.0), single, atol=1e-12)
    assert torch.allclose(sub(1e-9), single, atol=1e-6)
    assert torch.allclose(sub(math.inf), whole, atol=1e-12)
    assert torch.allclose(sub(1e9), whole, atol=1e-6)
    assert not torch.allclose(sub(0.9), whole, atol=1e-2)


@everything
def test_the_summed_forward_looking_residual_is_trajectory_balance(task):
    policy = exact(task, spread=0.4)
    traj, evaluation = all_ways(policy)
    reward = log_reward(traj)["log_reward"]
    sub = sub_trajectory_balance(evaluation, traj, forward_looking(reward, traj), decay=math.inf)
    assert torch.allclose(sub.terms, trajectory_balance(evaluation, traj, reward).terms, atol=1e-12)


@everything
@pytest.mark.parametrize("log_z", [0.0, 5.0])
def test_on_its_own_samples_trajectory_balance_descends_twice_the_reverse_kl(task, log_z):
    policy = exact(task, spread=0.5)
    with torch.no_grad():
        policy.log_z.fill_(log_z)
    traj, evaluation = all_ways(policy)
    reward = log_reward(traj)["log_reward"]
    probability = evaluation.logp.sum(1).exp()
    assert float(probability.sum().detach()) == pytest.approx(1.0)
    terms = trajectory_balance(evaluation, traj, reward).terms[:, 0]
    expected = torch.autograd.grad((probability.detach() * terms).sum(), policy.net.rows, retain_graph=True)[0]
    target = traj.extras["log_backward"].sum(1) + reward.value.sum(1) - policy.graph.log_z
    divergence = (probability * (evaluation.logp.sum(1) - target)).sum()
    gradient = torch.autograd.grad(divergence, policy.net.rows)[0]
    assert torch.allclose(expected[:, : task.actions], 2 * gradient[:, : task.actions], atol=1e-10)


@everything
def test_the_variance_form_is_trajectory_balance_at_the_best_log_z_with_the_same_gradient(task):
    policy = exact(task, spread=0.5)
    traj, evaluation = all_ways(policy)
    reward = log_reward(traj)["log_reward"]
    spread = log_partition_variance(evaluation, traj, reward)
    best = torch.full_like(evaluation.more["log_z"], spread.metrics["log_z"])
    at_best = trajectory_balance(evaluation._replace(more={**evaluation.more, "log_z": best}), traj, reward)
    assert torch.allclose(spread.terms, at_best.terms, atol=1e-10)
    one, other = (torch.autograd.grad(x.terms.sum(), policy.net.rows, retain_graph=True)[0] for x in (spread, at_best))
    assert torch.allclose(one, other, atol=1e-10)
    more = trajectory_balance(evaluation._replace(more={**evaluation.more, "log_z": best + 0.3}), traj, reward)
    assert float(more.terms.sum().detach()) > float(at_best.terms.sum().detach())


@everything
def test_scaling_the_reward_changes_log_z_and_nothing_the_variance_form_sees(task):
    policy = exact(task, spread=0.5)
    traj, evaluation = all_ways(policy)
    reward = log_reward(traj)["log_reward"]
    ends = torch.arange(traj.width) == traj.length[:, None] - 1
    scaled = reward._replace(value=reward.value + 3.0 * ends)
    assert torch.allclose(
        log_partition_variance(evaluation, traj, reward).terms, log_partition_variance(evaluation, traj, scaled).terms, atol=1e-10
    )


def test_where_every_cell_can_stop_prefix_rewards_need_no_flows():
    policy = exact(TASKS["grid"])
    traj, evaluation = all_ways(policy, frozenset({"stop_logp", "log_backward"}))
    gains = forward_looking(log_reward(traj)["log_reward"], traj)
    for decay in (0.0, 1.0):
        terms = prefix_reward_balance(evaluation, traj, gains, decay=decay).terms
        assert float(terms.abs().max().detach()) < 1e-12
    noisy = exact(TASKS["grid"], spread=0.3)
    traj, evaluation = all_ways(noisy, frozenset({"stop_logp", "log_backward"}))
    terms = prefix_reward_balance(evaluation, traj, gains, decay=0.0).terms
    (gradient,) = torch.autograd.grad(terms.sum(), noisy.net.rows)
    assert float(terms.max().detach()) > 0.05
    assert float(gradient[0].abs().max()) > 1e-2  # the empty object counts as a prefix: its first action is trained too


def test_relative_balance_at_the_tilted_reference_is_zero_and_is_plain_balance_with_the_reference_as_backward():
    task = TASKS["tree"]
    policy, prior = exact(task, spread=0.5), exact(task, spread=1.0)
    traj, evaluation = all_ways(policy)
    traj = traj.replace(logp={"ref": prior.evaluate(traj).logp.detach()})
    reward = log_reward(traj)["log_reward"]
    instead = evaluation._replace(more={**evaluation.more, "log_backward": traj.logp["ref"]})
    relative = relative_trajectory_balance(evaluation, traj, reward).terms
    assert torch.equal(relative, trajectory_balance(instead, traj, reward).terms)
    # the flow policy of the reward prior x R on a tree (where P_B is 1) is the tilted prior
    tilted = prior.graph.log_rewards + prior.object_distribution().detach().clamp(min=1e-300).log()
    with torch.no_grad():
        logits = policy.graph.log_policy(tilted)
        policy.net.rows[:, : task.actions] = torch.where(logits > -torch.inf, logits, 0)
        policy.log_z.fill_(float(tilted[policy.graph.objects].logsumexp(0)) / policy.log_z_rate)
    evaluation = policy.evaluate(traj, frozenset({"log_z"}))
    assert float(relative_trajectory_balance(evaluation, traj, reward).terms.abs().max().detach()) < 1e-12


def test_a_truncated_trajectory_trains_its_transitions_and_has_no_trajectory_balance():
    policy = exact(TASKS["grid"], energies=True)
    traj = policy.rollout(TASKS["grid"].held_out_starts(1), 1, torch.Generator().manual_seed(0))
    zero = torch.zeros(1, dtype=torch.int64)
    cut = policy.resume(traj, zero, zero, 64, torch.Generator().manual_seed(1), horizon=2)
    short = cut.stop == StopReason.truncated
    assert 0 < int(short.sum()) < 64
    evaluation = policy.evaluate(cut, frozenset({"values", "log_z"}))
    reward = log_reward(cut)["log_reward"]
    assert (reward.valid.all(1) == ~short).all()
    assert (trajectory_balance(evaluation, cut, reward).terms[short] == 0).all()
    assert (trajectory_mean(reward, cut)[:, 0] > 0).tolist() == (~short).tolist()
    # with what the unfinished object is worth known, the last transition of a truncated trajectory is in balance too
    known = reward._replace(valid=torch.ones_like(reward.valid))
    terms = detailed_balance(evaluation, cut, forward_looking(known, cut)).terms
    assert float(terms.abs().max().detach()) < 1e-12
    with torch.no_grad():
        policy.net.rows[:, -1] += torch.randn(16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    evaluation = policy.evaluate(cut, frozenset({"values"}))
    assert (detailed_balance(evaluation, cut, forward_looking(known, cut)).terms[short, :2] > 0).all()


def test_backward_likelihood_trains_a_learned_backward_policy_alone():
    policy = exact(TASKS["grid"], learned=True, spread=0.2)
    traj, evaluation = all_ways(policy)
    terms = backward_likelihood(evaluation, traj, everywhere({}, traj)).terms
    (gradient,) = torch.autograd.grad(terms.sum(), policy.net.rows)
    k = TASKS["grid"].actions
    assert gradient[:, :k].abs().max() == 0
    assert gradient[:, k : 2 * k].abs().max() > 0.01


@pytest.mark.parametrize("loss", [trajectory_balance, detailed_balance, sub_trajectory_balance, flow_matching])
def test_a_policy_without_flows_is_told_what_is_missing(loss):
    policy = Gflownet(TASKS["grid"])
    traj = policy.rollout(TASKS["grid"].held_out_starts(1), 4, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r'needs evaluation.more\["(log_z|values)"\]; there is nothing'):
        loss(policy.evaluate(traj), traj, log_reward(traj)["log_reward"])


def test_the_order_of_rows_and_the_names_of_groups_do_not_matter():
    policy = exact(TASKS["grid"], spread=0.3)
    traj = policy.rollout(TASKS["grid"].held_out_starts(3), 4, torch.Generator().manual_seed(0))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    other = traj.select(order).replace(group=1000 - traj.group[order])
    for loss in (log_partition_variance, order_preserving, sub_trajectory_balance):
        terms = [
            loss(policy.evaluate(t, frozenset({"values"})), t, log_reward(t)["log_reward"]).terms.detach() for t in (traj, other)
        ]
        assert torch.allclose(terms[0][order], terms[1], atol=1e-12)
