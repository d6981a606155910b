"""Greedy rollouts beside sampled ones, and the advantage that reads them."""

import pytest
import torch

from payoff.advantages.optimal_baselines import greedy_baseline
from payoff.build import build
from payoff.config import load_run
from payoff.parts import Progress
from payoff.pipeline import Start
from payoff.policies.tabular import Tabular
from payoff.sampling.greedy import greedy_beside
from payoff.trajectories import constant
from payoff.update import update

TREE = """\
task: {name: tree, density: 0.3, prompts: 4}
policy: {name: tabular, starts: 4, spread: 1.0}
reward: {correct: tree-leaf}
"""
CHAIN = """\
task: {name: chain, terms: 2, held_out: 4}
policy:
  {name: transformer, alphabet: "0123456789+-=;#.", context: 40, width: 16, layers: 1, heads: 2, max_tokens: 12, stop: ["."],
   step_separator: ";"}
reward: {correct: length}
"""
REST = """\
sampler: remax
terms: {policy: {paths: {correct: [total, remax]}, loss: policy-gradient}}
train: {updates: 1, starts: 3, rollouts: 2}
evaluate: {every: 0, starts: 0}
"""


def test_the_greedy_rollout_takes_the_likeliest_action_at_every_state():
    policy = Tabular(3, 3, logits=torch.randn(13, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    traj = greedy_beside(policy, [Start("a", {})], 2, torch.Generator().manual_seed(0))
    found = traj.actions[2]
    likely, state = [], 0
    for depth in range(3):
        action = int(policy.logits.reshape(-1, 3)[state].argmax())
        likely.append(action)
        state = sum(3**k for k in range(depth + 1)) + int("".join(map(str, likely)), 3)
    assert found.tolist() == likely


@pytest.mark.parametrize("head", [TREE, CHAIN], ids=["tabular", "transformer"])
def test_remax_trains_from_a_run_file_and_the_greedy_rollouts_get_no_gradient(tmp_path, head):
    (tmp_path / "run.yaml").write_text(head + REST)
    parts, settings = build(load_run(tmp_path / "run.yaml"))
    progress = Progress(optimiser=torch.optim.SGD(parts.policy.parameters(), lr=0.1))
    batch, _ = update(parts, settings, progress)
    greedy = batch.traj.extras["greedy"] > 0
    assert greedy.sum() == 3
    target = batch.targets["policy"]
    assert not target.valid[greedy].any()
    assert target.valid[~greedy].any(1).all()
    assert progress.rollouts == 9


def test_the_baseline_is_the_greedy_rollouts_credit():
    traj = greedy_beside(Tabular(2, 2), [Start("a", {}), Start("b", {})], 2, torch.Generator().manual_seed(0))
    credit = constant(torch.tensor([1.0, 0.0, 1.0, 0.0, 0.25, 1.0]), torch.ones(6, dtype=torch.bool))
    assert greedy_baseline(credit, traj).value[:4, 0].tolist() == [0.75, -0.25, 0.0, -1.0]
