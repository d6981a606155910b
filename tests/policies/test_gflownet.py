"""The constructor as a policy: what it records is what it evaluates, exploration stays apart, branches, exact distributions."""

import dataclasses

import pytest
import torch

from payoff.pipeline import Policy, Start, Task
from payoff.policies.building import draw, explored
from payoff.policies.gflownet import Gflownet
from payoff.tasks.bits import Bits
from payoff.tasks.hypergrid import Hypergrid
from payoff.trajectories import StopReason, concatenate

GRID = Hypergrid(2, 5)
TASKS = {"grid": GRID, "tree": Bits(6), "any order": Bits(6, 2, "any"), "long": Bits(64)}
every = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@every
@pytest.mark.parametrize("options", [{}, {"critic": True, "backward": "learned", "exploration": 0.3}], ids=["plain", "all"])
def test_what_was_recorded_while_acting_is_what_is_evaluated(task, options):
    policy = Gflownet(task, hidden=16, **options)
    assert isinstance(policy, Policy)
    assert isinstance(task, Task)
    traj = policy.rollout(task.starts(3, rng()), 5, rng()).check()
    assert traj.group.unique().numel() == 3
    assert (traj.stop == StopReason.finished).all()
    evaluation = policy.evaluate(traj, policy.offers - {"inflow"})
    assert torch.allclose(evaluation.logp, traj.logp.get("policy", traj.logp["old"]), atol=1e-5)
    assert torch.allclose(evaluation.more["log_backward"], traj.extras["log_backward"], atol=1e-5)
    assert all(item["object"] == state for item, state in zip(traj.items, last_states(traj), strict=True))
    assert [len(item["tokens"]) for item in traj.items] == traj.length.tolist()


def last_states(traj):
    return traj.extras["states"][torch.arange(len(traj)), traj.length].tolist()


def test_asking_the_network_once_about_every_state_gives_the_same_rollouts():
    policy = Gflownet(GRID, hidden=16, exploration=0.2)
    listed = policy.rollout(GRID.starts(1, rng()), 64, rng(3))  # 25 states, 64 rollouts: listed
    policy.listed = False
    direct = policy.rollout(GRID.starts(1, rng()), 64, rng(3))
    assert torch.equal(listed.actions, direct.actions)
    visited = torch.arange(listed.width + 1) <= listed.length[:, None]
    assert torch.equal(listed.extras["states"][visited], direct.extras["states"][visited])
    for name in ("old", "policy"):
        assert torch.allclose(listed.logp[name], direct.logp[name], atol=1e-6)
    want = policy.offers
    one = policy.evaluate(listed, want)
    policy.listed = True
    other = policy.evaluate(listed, want)
    assert torch.allclose(one.logp, other.logp, atol=1e-6)
    assert all(torch.allclose(one.more[name], other.more[name], atol=1e-6) for name in want)


@every
def test_padding_is_not_read(task):
    policy = Gflownet(task, hidden=16, critic=True, backward="learned")
    traj = policy.rollout(task.starts(2, rng()), 6, rng())
    beyond = torch.arange(traj.width + 1) > traj.length[:, None]
    odd = traj.replace(
        actions=torch.where(beyond[:, 1:], 99, traj.actions),
        logp={"old": torch.where(beyond[:, 1:], torch.nan, traj.logp["old"])},
        extras={"states": torch.where(beyond[..., None], 77, traj.extras["states"])},
    )
    want = policy.offers - ({"inflow"} if task.state_count > 10**9 else set())
    one, other = policy.evaluate(traj, want), policy.evaluate(odd, want)
    assert torch.equal(one.logp, other.logp)
    assert all(torch.equal(one.more[name], other.more[name]) for name in want)


def test_exploration_is_in_old_and_not_in_the_policy_and_held_out_starts_have_none():
    policy = Gflownet(GRID, network="table", dtype="float64", exploration=0.5)
    with torch.no_grad():
        policy.net.rows.copy_(torch.randn(25, 3, generator=rng(), dtype=torch.float64) * 2)
    traj = policy.rollout([*GRID.starts(1, rng()), *GRID.held_out_starts(1)], 200, rng())
    exploring, held_out = traj.select(torch.arange(200)), traj.select(torch.arange(200, 400))
    assert torch.equal(held_out.logp["old"], held_out.logp["policy"])
    legal = GRID.legal(exploring.extras["states"][:, :-1]).sum(-1)
    mixture = (0.5 * exploring.logp["policy"].exp() + 0.5 / legal).log()
    assert torch.allclose(exploring.logp["old"][exploring.exists], mixture[exploring.exists])
    # an importance-weighted mean over explored rollouts is the policy's own
    weight = (exploring.logp["policy"] - exploring.logp["old"]).sum(1).exp()
    assert float(weight.mean()) == pytest.approx(1.0, abs=0.2)


def test_a_rollout_ends_with_the_exact_distribution():
    policy = Gflownet(Hypergrid(2, 3), network="table", dtype="float64")
    with torch.no_grad():
        policy.net.rows.copy_(torch.randn(9, 3, generator=rng(1), dtype=torch.float64))
    p = policy.object_distribution().detach()
    assert float(p.sum()) == pytest.approx(1.0)
    n = 20_000
    traj = policy.rollout([Start("a", {})], n, rng(2))
    counts = torch.bincount(policy.space.index(torch.tensor(last_states(traj))), minlength=9).double()
    # chi-square with 8 degrees of freedom: 26.1 is exceeded once in a thousand
    assert float(((counts - n * p).square() / (n * p)).sum()) < 26.1
    assert float(GRID.measure(Gflownet(GRID))["l1"]) > 0.1


def test_flows_into_a_state_are_those_of_its_parents():
    policy = Gflownet(Hypergrid(2, 3), network="table", critic=True, dtype="float64")
    with torch.no_grad():
        policy.net.rows.copy_(torch.randn(9, 4, generator=rng(1), dtype=torch.float64))
        policy.log_z.fill_(0.02)
    traj = policy.record(*policy.graph.trajectories())
    inflow = policy.evaluate(traj, frozenset({"inflow"})).more["inflow"].detach()
    flow, logp = policy.log_flows().detach(), policy.log_policy().detach()
    assert float(flow[0]) == pytest.approx(2.0)
    # cell (1, 1) is number 4; its parents are (0, 1) = 1 by action 0 and (1, 0) = 3 by action 1
    wanted = ((flow[1] + logp[1, 0]).exp() + (flow[3] + logp[3, 1]).exp()).log()
    cells = policy.space.index(traj.extras["states"])
    through = (cells[:, 2] == 4) & (traj.length > 2)
    assert through.any()
    assert torch.allclose(inflow[through, 2], wanted)
    stopped = (cells[:, 2] == 4) & (traj.length == 3)
    assert torch.allclose(inflow[stopped, 3], flow[4] + logp[4, 2])
    assert (inflow[:, 0] == 0).all()


@every
def test_branches_keep_their_prefix_and_their_group(task):
    policy = Gflownet(task, hidden=16, exploration=0.1)
    traj = policy.rollout(task.starts(2, rng()), 4, rng())
    rows = torch.tensor([0, 5])
    at = traj.length[rows] // 2
    branch = policy.resume(traj, rows, at, 3, rng(1)).check()
    assert branch.parent.tolist() == traj.id[rows].repeat_interleave(3).tolist()
    assert branch.fork.tolist() == at.repeat_interleave(3).tolist()
    assert branch.group.tolist() == traj.group[rows].repeat_interleave(3).tolist()
    for i, row in enumerate(rows.repeat_interleave(3).tolist()):
        k = int(branch.fork[i])
        assert torch.equal(branch.actions[i, :k], traj.actions[row, :k])
        assert torch.equal(branch.extras["states"][i, : k + 1], traj.extras["states"][row, : k + 1])
        assert torch.equal(branch.logp["old"][i, :k], traj.logp["old"][row, :k])
    assert torch.allclose(policy.evaluate(branch).logp, branch.logp["policy"], atol=1e-5)
    assert len(concatenate([traj, traj.select(torch.tensor([0])), branch])) == 8 + 1 + 6


def test_deterministic_and_short_continuations():
    policy = Gflownet(GRID, hidden=16)
    traj = policy.rollout(GRID.starts(1, rng()), 4, rng())
    rows, at = torch.arange(4), torch.zeros(4, dtype=torch.int64)
    greedy = policy.resume(traj, rows, at, 2, rng(), noisy=1)
    assert (greedy.mask.sum(1) == 1).all()
    one = policy.resume(traj, rows, at, 1, rng(5), horizon=1)
    assert (one.length == 1).all()
    assert ((one.stop == StopReason.finished) == (one.actions[:, 0] == GRID.stop)).all()
    further = one.select((one.stop == StopReason.truncated).nonzero().flatten())
    assert len(further)
    more = policy.resume(further, torch.tensor([0]), torch.tensor([1]), 2, rng())
    assert (more.stop == StopReason.finished).all()


def test_a_finished_object_cannot_be_continued():
    policy = Gflownet(GRID, hidden=16)
    traj = policy.rollout(GRID.starts(1, rng()), 2, rng())
    with pytest.raises(ValueError, match="cannot be continued from action"):
        policy.resume(traj, torch.tensor([0]), traj.length[:1], 1, rng())
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        policy.resume(traj, torch.tensor([0]), torch.tensor([0]), 1, rng(), horizon=0)


def test_a_conditioned_policy_answers_for_its_goal():
    task = Hypergrid(2, 3)
    for network in ("table", "mlp"):
        policy = Gflownet(task, network=network, hidden=16, critic=True, conditioned=True, dtype="float64")
        with torch.no_grad():
            for p in policy.parameters():
                p += torch.randn(p.shape, generator=rng(1), dtype=torch.float64)
        starts = [Start("a", {"goal": [0, 2]}), Start("b", {"goal": [2, 1]})]
        traj = policy.rollout(starts, 40, rng())
        assert traj.extras["goal"].unique().tolist() == [2, 7]
        table = torch.stack([policy.log_policy(goal) for goal in range(9)])
        at = policy.space.index(traj.extras["states"])[:, :-1]
        wanted = table[traj.extras["goal"][:, None], at, traj.actions]
        assert torch.allclose(policy.evaluate(traj).logp[traj.exists], wanted[traj.exists])
        assert torch.allclose(traj.logp["old"][traj.exists], wanted[traj.exists])
    with pytest.raises(ValueError, match="has no field 'goal'"):
        policy.rollout(task.starts(1, rng()), 1, rng())


def test_log_z_moves_as_many_times_faster_as_it_is_told():
    slow, fast = (Gflownet(GRID, network="table", log_z_rate=rate) for rate in (1.0, 100.0))
    for policy in (slow, fast):
        traj = policy.rollout(GRID.starts(1, rng()), 4, rng())
        optimiser = torch.optim.Adam(policy.parameters(), lr=0.01)
        (policy.evaluate(traj, frozenset({"log_z"})).more["log_z"] - 5).square().sum().backward()
        optimiser.step()
    moved = [float(p.log_flows()[0].detach()) for p in (slow, fast)]
    assert moved == pytest.approx([0.01, 1.0], rel=1e-4)


def test_the_same_seed_gives_the_same_weights_and_rollouts():
    one, other = (Gflownet(GRID, hidden=8, seed=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.equal(
        one.rollout(GRID.starts(1, rng()), 9, rng(2)).actions, other.rollout(GRID.starts(1, rng()), 9, rng(2)).actions
    )


def test_no_action_of_probability_zero_is_ever_drawn():
    rows = torch.tensor([[0.0, 0.3, 0.7, 0.0]]).log().repeat(5, 1)
    chance = torch.tensor([0.0, 0.2999, 0.3001, 0.99, 1 - 2**-24])  # the last is the largest below 1 in single precision
    assert draw(rows, chance).tolist() == [1, 1, 2, 2, 2]
    mixed = explored(rows, torch.tensor([0.0, 0.0, 0.5, 0.5, 0.5])).exp()
    assert torch.allclose(mixed[0], torch.tensor([0.0, 0.3, 0.7, 0.0]))
    assert torch.allclose(mixed[2], torch.tensor([0.0, 0.4, 0.6, 0.0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exploration": 1.0}, r"exploration must lie in \[0, 1\), got 1.0"),
        ({"log_z_rate": 0.0}, "log_z_rate must be > 0, got 0.0"),
        ({"log_z": "flow"}, "needs critic: true"),
        ({"task": Bits(64), "network": "table"}, "need states that can be listed"),
        ({"task": object()}, "object is no task that says how objects are built"),
        ({"task": "tree"}, "Tree is no task that says how objects are built"),
    ],
)
def test_options_that_make_no_sense_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Gflownet(**{"task": GRID, **options})


def test_a_task_can_be_named_with_its_options():
    policy = Gflownet({"name": "bits", "length": 4, "modes": 2})
    assert policy.space == Bits(4, modes=2)
    assert Gflownet("hypergrid").space == Hypergrid()
    assert dataclasses.replace(GRID, side=6).state_count == 36
