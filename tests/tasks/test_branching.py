"""Branch and bound with SCIP: the proof is right whoever chooses, and the policy sees the path it came by."""

import copy
import itertools

import pytest
import torch

from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.policies.branching import BranchingPolicy
from payoff.tasks.branching import Branching, Instance
from payoff.train import train
from payoff.trajectories import StopReason, outcome

scip = pytest.importorskip("pyscipopt", reason="needs SCIP: pip install pyscipopt")


@pytest.fixture(scope="module")
def task():
    return Branching(problem="set-cover", variables=10, constraints=12)


@pytest.fixture(scope="module")
def searches(task):
    policy = BranchingPolicy(width=6)
    torch.manual_seed(0)
    torch.nn.init.normal_(policy.read.weight, std=2.0)
    torch.nn.init.normal_(policy.worth.weight)
    return policy, policy.rollout(task.held_out_starts(3), 3, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("problem", ["knapsack", "set-cover"])
def test_whatever_is_chosen_the_optimum_is_that_of_trying_everything(problem):
    task = Branching(problem=problem, variables=8, constraints=5)
    for start in task.held_out_starts(2):
        instance = start.environment
        feasible = []
        for x in itertools.product((0, 1), repeat=8):
            used = instance.rows @ x
            if (used >= instance.bound).all() if instance.covers else (used <= instance.bound).all():
                feasible.append(float(instance.price @ x))
        found = [instance.solve(choose) for choose in (lambda node, c: c[0], lambda node, c: c[-1])]
        assert [search.objective for search in found] == pytest.approx([min(feasible)] * 2)
        assert all(search.proven for search in found)
        for search in found:
            assert len(search.gains) == len(search.steps)
            assert min(search.gains, default=0.0) >= 0


def test_an_error_of_the_chooser_comes_out_and_a_limit_cuts_the_search_short(task):
    instance = Branching(variables=12, constraints=4, limit=9).held_out_starts(1)[0].environment
    assert not instance.solve(lambda node, c: c[0]).proven
    with pytest.raises(ValueError, match="cannot be branched on"):
        instance.solve(lambda node, c: -1)
    with pytest.raises(TypeError, match="the solver asks"):
        instance.respond(0)
    with pytest.raises(ValueError, match="limit at least 1"):
        Branching(limit=0)


def test_what_was_searched_is_evaluated_as_it_was_chosen(task, searches):
    policy, traj = searches
    assert traj.mask.any()
    torch.testing.assert_close(policy.evaluate(traj).logp, traj.logp["old"], atol=1e-5, rtol=1e-4)
    value, known = outcome(task.truth(traj), traj)
    assert known.all()
    nodes = [item["nodes"] for item in traj.items]
    assert value.tolist() == pytest.approx([-float(torch.tensor(k).double().log2()) for k in nodes])
    assert traj.extras["environment_reward"].sum(1).tolist() == [-float(k) for k in nodes]
    assert len(set(nodes)) > 1


def test_the_path_is_rebuilt_from_the_graphs_and_padding_is_not_read(searches):
    policy, traj = searches
    row = int(traj.mask.sum(1).argmax())
    assert int(traj.mask[row].sum()) >= 2
    spoiled = {name: x.clone() for name, x in traj.extras.items()}
    for name in ("variables", "constraints"):
        spoiled[name][~traj.mask] = torch.nan
    want = frozenset({"logits", "values", "entropy"})
    clean, holes = policy.evaluate(traj, want), policy.evaluate(traj.replace(extras=spoiled), want)
    assert torch.equal(clean.logp, holes.logp)
    assert all(torch.equal(clean.more[name], holes.more[name]) for name in want)
    holes.logp.sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in policy.parameters())
    policy.zero_grad()
    other = traj.replace(extras={"variables": traj.extras["variables"].clone()})
    other.extras["variables"][row, 0, :, 0] += 1.0  # the first node looked different
    after = lambda made, batch: made.evaluate(batch, want).more["values"][row, 1:]
    assert (after(policy, other) - after(policy, traj)).abs().max() > 1e-6
    alone = copy.deepcopy(policy)
    alone.memory = False
    assert torch.equal(after(alone, other), after(alone, traj))


def test_a_search_is_taken_up_where_it_was_left(searches):
    policy, traj = searches
    row = int(traj.mask.sum(1).argmax())
    branch = policy.resume(traj, torch.tensor([row]), torch.tensor([1]), 2, torch.Generator().manual_seed(5), noisy=0)
    assert branch.actions[:, 0].tolist() == [int(traj.actions[row, 0])] * 2
    assert branch.parent.tolist() == [int(traj.id[row])] * 2
    assert branch.fork.tolist() == [1, 1]
    assert torch.equal(branch.actions[0], branch.actions[1])  # nothing was left to chance
    assert not branch.mask[:, 1:].any()
    with pytest.raises(ValueError, match="none at"):
        policy.resume(traj, torch.tensor([row]), torch.tensor([500]), 1, torch.Generator())


def test_a_search_that_ends_at_its_root_acts_nothing():
    policy = BranchingPolicy(width=4)
    start = Branching(variables=2, constraints=1).held_out_starts(1)[0]
    start = start._replace(environment=Instance([1.0, 2.0], [[1.0, 1.0]], [1.0], covers=True))
    traj = policy.rollout([start], 2, torch.Generator().manual_seed(0))
    assert traj.length.tolist() == [1, 1]
    assert not traj.mask.any()
    assert traj.stop.tolist() == [StopReason.finished] * 2
    assert torch.equal(policy.evaluate(traj, frozenset({"logits"})).logp, torch.zeros(2, 1))


def test_a_run_file_learns_from_searches_shared_out_by_gains_of_bounds():
    run = {
        "task": {"name": "branching", "variables": 6, "constraints": 2},
        "policy": {"name": "branching", "width": 4},
        "reward": {"nodes": "environment-reward"},
        "terms": {
            "policy": {
                "paths": {"nodes": [{"name": "revibranch", "importance": "bound_gain"}, "return-to-go", "turn-rloo"]},
                "loss": "ppo-clip",
                "aggregation": "token-mean",
            },
            "values": {
                "paths": {"nodes": [{"name": "revibranch", "importance": None}]},
                "loss": {"name": "b-coder", "bootstrap": "policy", "cap": None},
                "aggregation": "token-mean",
            },
        },
        "train": {"updates": 1, "starts": 2, "rollouts": 2},
        "evaluate": {"every": 0, "starts": 0},
    }
    parts, settings = build(Loaded(RunFile.model_validate(run), {}, "test", []), "", 0)
    last = train(parts, settings).history[-1]
    assert last["reward/nodes"] <= -1
    assert last["values/error"] > 0
    assert last["truth_train"] < 0
