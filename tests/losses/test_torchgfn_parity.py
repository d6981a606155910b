"""The same numbers and gradients as torchgfn on the same trajectories, tables and rewards.

torchgfn needs NumPy 1, so it runs in an environment of its own: PAYOFF_TORCHGFN_PYTHON names that interpreter.
"""

import functools
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from payoff.credit.increments import forward_looking
from payoff.losses.gflownet import (
    detailed_balance,
    flow_matching,
    log_partition_variance,
    sub_trajectory_balance,
    trajectory_balance,
)
from payoff.losses.relative_balance import (
    prefix_reward_balance,
    relative_log_partition_variance,
    relative_trajectory_balance,
)
from payoff.policies.gflownet import Gflownet
from payoff.signals.construction import log_reward
from payoff.tasks.hypergrid import Hypergrid

PYTHON = os.environ.get("PAYOFF_TORCHGFN_PYTHON", "")
needs_torchgfn = pytest.mark.skipif(not PYTHON, reason="PAYOFF_TORCHGFN_PYTHON names no interpreter that has torchgfn")
TASK = Hypergrid(2, 6)
K = TASK.actions
TB, SUB = trajectory_balance, functools.partial(sub_trajectory_balance, decay=0.8)
# name -> loss, whether rewards are increments, and whether its mean is over actions (all others: over trajectories)
CASES = {
    "tb": (TB, False, False),
    "tb-linex": (functools.partial(TB, regression="linex", shape=0.5), False, False),
    "tb-cosh": (functools.partial(TB, regression="cosh"), False, False),
    "variance": (log_partition_variance, False, False),
    "db": (detailed_balance, False, True),
    "db-half": (functools.partial(detailed_balance, regression="half-squared"), False, True),
    "fl": (detailed_balance, True, True),
    "subtb": (SUB, False, False),
    "subtb-fl": (SUB, True, False),
    "subtb-db": (functools.partial(sub_trajectory_balance, decay=0.0), False, False),
    "prefix": (functools.partial(prefix_reward_balance, decay=0.0), True, False),
    "relative": (functools.partial(relative_trajectory_balance, regression="half-squared"), False, False),
    "relative-variance": (functools.partial(relative_log_partition_variance, regression="half-squared"), False, False),
}


class Parity:
    """One random table, sixty trajectories of one length (so that means over actions and over trajectories are one), both sides."""

    def __init__(self, folder: Path):
        rng = torch.Generator().manual_seed(0)
        normal = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)
        options = {"network": "table", "critic": True, "backward": "learned", "dtype": "float64", "log_z_rate": 1.0}
        self.policy = Gflownet(TASK, log_z="flow", **options)
        prior = Gflownet(TASK, log_z="flow", **options)
        with torch.no_grad():
            self.policy.net.rows.copy_(normal(36, 2 * K + 1))
            prior.net.rows.copy_(normal(36, 2 * K + 1))
        actions, length = self.policy.graph.trajectories()
        some = (length == 5).nonzero().flatten()
        some = some[torch.randperm(len(some), generator=rng)[:60]]
        self.traj = self.policy.record(actions[some, :5], length[some])
        self.traj = self.traj.replace(logp={"ref": prior.evaluate(self.traj).logp.detach()})
        self.log_z = float(self.policy.net.rows[0, -1].detach())
        edges = (self.policy.log_flows()[:, None] + self.policy.log_policy()).detach()
        table = self.policy.net.rows.detach()
        columns = [*range(K), *range(K, 2 * K - 1), 2 * K]  # torchgfn's backward logits have no entry for the stop
        case = {
            "side": TASK.side,
            "dimensions": TASK.dimensions,
            "reward": {"R0": TASK.base, "R1": TASK.plateau, "R2": TASK.peak},
            "table": table[:, columns].tolist(),
            "prior": prior.net.rows.detach().tolist(),
            "edges": edges.clamp(min=-1e9).tolist(),
            "log_z": self.log_z,
            "actions": self.traj.actions.tolist(),
            "length": self.traj.length.tolist(),
            "cells": self.policy.graph.states.tolist(),
        }
        path = folder / "case.json"
        path.write_text(json.dumps(case))
        script = Path(__file__).with_name("torchgfn_reference.py")
        answer = subprocess.run([PYTHON, "-W", "ignore", str(script), str(path)], capture_output=True, text=True, timeout=300)
        assert answer.returncode == 0, answer.stderr[-3000:]
        self.theirs = json.loads(answer.stdout.splitlines()[-1])
        self.columns = columns

    def ours(self, loss, increments, over_actions):
        evaluation = self.policy.evaluate(self.traj, self.policy.offers)
        reward = log_reward(self.traj)["log_reward"]
        if increments:
            reward = forward_looking(reward, self.traj)
            # torchgfn counts the energy of the empty object, here it is 0: its flow there is relative to that reward
            start = self.traj.extras["log_reward"][:, :1]
            values = torch.cat([evaluation.more["values"][:, :1] + start, evaluation.more["values"][:, 1:]], 1)
            evaluation = evaluation._replace(more={**evaluation.more, "values": values})
        terms = loss(evaluation, self.traj, reward).terms
        value = terms[self.traj.exists].mean() if over_actions else terms.mean()
        (gradient,) = torch.autograd.grad(value, self.policy.net.rows)
        return float(value.detach()), gradient[:, self.columns].flatten()


@pytest.fixture(scope="module")
def parity(tmp_path_factory):
    return Parity(tmp_path_factory.mktemp("torchgfn"))


@needs_torchgfn
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_torchgfns(parity, name):
    value, gradient = parity.ours(*CASES[name])
    theirs = parity.theirs[name]
    wanted = torch.tensor(theirs["gradient"], dtype=torch.float64).view(36, -1)
    gradient = gradient.view(36, -1)
    if name.startswith(("tb", "relative")) and "variance" not in name:
        # here log Z is the critic's flow of the empty object, there a number apart
        gradient, wanted = gradient[:, :-1], wanted[:, :-1]
    assert value == pytest.approx(theirs["loss"], rel=1e-9)
    assert wanted.abs().max() > 1e-3
    assert torch.allclose(gradient, wanted, atol=1e-9)


@needs_torchgfn
@pytest.mark.slow
def test_flow_matching_is_torchgfns_inside_and_at_the_ends(parity):
    evaluation = parity.policy.evaluate(parity.traj, parity.policy.offers)
    terms = flow_matching(evaluation, parity.traj, log_reward(parity.traj)["log_reward"]).terms.detach()
    assert float(terms[:, :-1].mean()) == pytest.approx(parity.theirs["fm"]["loss"], rel=1e-9)
    assert float(terms[:, -1].mean()) == pytest.approx(parity.theirs["fm"]["ends"], rel=1e-9)


@needs_torchgfn
@pytest.mark.slow
def test_the_grid_pays_what_torchgfns_pays(parity):
    assert parity.policy.graph.log_rewards.tolist() == pytest.approx(parity.theirs["log_reward"], abs=1e-12)
