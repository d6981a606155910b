"""Enumerated constructions: every way to build every object, and the exact flow."""

import pytest
import torch

from payoff.policies.construction import StateGraph, uniform_backward
from payoff.tasks.bits import Bits
from payoff.tasks.hypergrid import Hypergrid

TASKS = [Hypergrid(2, 4), Hypergrid(3, 2), Bits(3, 1), Bits(4, 2), Bits(3, 1, "any"), Bits(4, 2, "any")]
every = pytest.mark.parametrize("task", TASKS, ids=lambda t: f"{type(t).__name__}-{t.state_count}-{t.actions}")


@every
def test_numbers_and_states_are_one_to_one_and_the_empty_object_is_the_first(task):
    index = torch.arange(task.state_count)
    assert torch.equal(task.index(task.state(index)), index)
    assert torch.equal(task.state(index[:1]), task.initial(1))
    assert len(task.state(index).unique(dim=0)) == task.state_count


@every
def test_undoing_an_action_comes_back_and_parents_are_exactly_what_leads_here(task):
    graph = StateGraph(task)
    led = torch.zeros_like(graph.legal)
    for row, action in graph.legal.nonzero().tolist():
        state, act = graph.states[row], torch.tensor(action)
        if action == task.stop:
            continue
        reached = task.after(state, act)
        assert torch.equal(task.before(reached, act), state)
        assert int(task.depth(reached)) == int(task.depth(state)) + 1
        led[int(task.index(reached)), action] = True
    reachable = graph.occupancy(torch.where(graph.legal, 0.0, -torch.inf).double().log_softmax(1).nan_to_num(-torch.inf)) > 0
    complete = task.complete(graph.states)
    assert torch.equal(led[reachable | complete], task.parents(graph.states)[reachable | complete])


@every
def test_the_exact_policy_ends_in_proportion_to_the_reward(task):
    graph = StateGraph(task)
    policy = graph.log_policy()
    assert float((graph.object_distribution(policy) - graph.target).abs().sum()) < 1e-14
    assert float(graph.log_flows()[0]) == pytest.approx(graph.log_z, abs=1e-12)
    # by hand, over all ways to build: probability of a way = R / Z x its backward probability
    actions, length = graph.trajectories()
    assert actions.shape[1] == task.longest
    probability = torch.zeros(len(actions), dtype=torch.float64)
    ended = torch.zeros(len(actions), dtype=torch.int64)
    backward = torch.zeros_like(probability)
    for i in range(len(actions)):
        state = 0
        for action in actions[i, : length[i]].tolist():
            probability[i] += policy[state, action]
            backward[i] += graph.log_uniform[state, action]
            state = int(graph.child[state, action])
        ended[i] = state
    assert torch.allclose(probability.exp(), graph.target[ended] * backward.exp(), atol=1e-14)


@every
def test_the_distribution_of_objects_is_differentiable_and_adds_to_one(task):
    graph = StateGraph(task)
    logits = torch.randn(graph.legal.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    nothing = ~graph.legal.any(1, keepdim=True)
    p = graph.object_distribution(torch.where(graph.legal | nothing, logits, -torch.inf).log_softmax(1))
    assert float(p.sum().detach()) == pytest.approx(1.0)
    assert bool((p[~graph.objects] == 0).all())
    (gradient,) = torch.autograd.grad(p @ graph.log_rewards, logits)
    assert gradient.isfinite().all()
    assert float(gradient[0].sum()) == pytest.approx(0.0, abs=1e-12)  # softmax: a shift of all logits changes nothing


def test_the_number_of_ways_is_the_number_of_lattice_paths_or_orders():
    assert len(StateGraph(Hypergrid(2, 3)).trajectories()[1]) == 19  # paths to each cell: 1 1 1 / 1 2 3 / 1 3 6
    assert len(StateGraph(Bits(3, 1, "any")).trajectories()[1]) == 8 * 6
    assert len(StateGraph(Bits(3, 1)).trajectories()[1]) == 8


def test_uniform_backward_goes_to_every_parent_alike_and_a_stop_has_one():
    task = Hypergrid(2, 4)
    states = torch.tensor([[2, 1], [2, 0], [2, 1]])
    assert uniform_backward(task, states, torch.tensor([0, 0, 2])).exp().tolist() == pytest.approx([0.5, 1.0, 1.0])


def test_a_graph_too_large_to_list_is_refused():
    with pytest.raises(ValueError, match="too many to list"):
        StateGraph(Hypergrid(8, 8))
