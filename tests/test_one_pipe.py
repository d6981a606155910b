"""One reward design, written once, trains every kind of policy: the same text in five run files, through the same loop."""

from statistics import fmean

import pytest
import torch

from payoff.build import build
from payoff.config import load_run
from payoff.train import train

KINDS = {  # of each kind: its run file but for the design, and the truth that counts as learnt
    "transformer": (
        """
        task: {name: tree, vocabulary: 20, horizon: 2, density: 0.2}
        policy: {name: transformer, alphabet: "abcdefghijklmnopqrst 0.;", max_tokens: 2, width: 32, layers: 1, critic: CRITIC}
        reward: {pay: tree-leaf}
        train: {updates: 60, starts: 4, rollouts: 16, learning_rate: 5e-3}
        """,
        0.8,
    ),
    "flow": (
        """
        task: {name: mixture, modes: 4}
        policy: {name: flow, data: mixture, data_options: {modes: 4}, pretrain_steps: 200, critic: CRITIC}
        reward: {pay: mixture-distance}
        train: {updates: 40, starts: 4, rollouts: 16, learning_rate: 3e-3}
        """,
        0.8,
    ),
    "control": (
        """
        task: {name: environment, environment: CartPole-v1, max_steps: 100}
        policy: {name: actor-critic, environment: CartPole-v1, hidden: [32]}
        reward: {pay: environment-reward}
        train: {updates: 25, starts: 4, rollouts: 8, learning_rate: 2e-2}
        """,
        60,
    ),
    "gflownet": (
        """
        task: {name: hypergrid, side: 8, plateau: 0.0, truth_of: mode}
        policy: {name: gflownet, task: {name: hypergrid, side: 8, plateau: 0.0}, hidden: 32, critic: CRITIC}
        reward: {pay: log-reward}
        train: {updates: 40, starts: 4, rollouts: 16, learning_rate: 1e-2}
        """,
        0.8,
    ),
    "tabular": (
        """
        task: {name: tree}
        policy: {name: tabular, critic: CRITIC}
        reward: {pay: tree-leaf}
        train: {updates: 40, starts: 4, rollouts: 8, learning_rate: 0.1}
        """,
        0.8,
    ),
}
LEAVE_ONE_OUT = """
shaping:
  - {on: pay, do: [par-mean-std]}
terms:
  policy:
    paths: {pay: [total, rloo]}
    then: [rms]
    loss: ppo-clip
    aggregation: token-mean
"""
WITH_A_CRITIC = """
shaping:
  - {on: pay, do: [par-mean-std]}
terms:
  policy:
    paths: {pay: [lambda-return, subtract-values]}
    then: [rms]
    loss: ppo-clip
    aggregation: token-mean
  critic:
    paths: {pay: [lambda-return]}
    loss: value
    aggregation: token-mean
    weight: 0.5
"""


def run_file(folder, kind, design):
    """The run file of a kind: its own head, and the design as it stands."""
    own = "\n".join(line.removeprefix(" " * 8) for line in KINDS[kind][0].splitlines())
    critic = "true" if design is WITH_A_CRITIC else "false"
    path = folder / f"{kind}.yaml"
    path.write_text(own.replace("CRITIC", critic) + design + "evaluate: {every: 0, starts: 0}\n")
    return load_run(path)


def truths(folder, kind, design):
    """The truth of the rollouts that each update learnt from."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parts, settings = build(run_file(folder, kind, design), seed=0)
        return [metrics["truth_train"] for metrics in train(parts, settings).history[1:]]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shaped_total_against_the_other_rollouts_trains_every_kind_of_policy(tmp_path, kind):
    found = truths(tmp_path, kind, LEAVE_ONE_OUT)
    begin, end = fmean(found[:3]), fmean(found[-3:])
    assert begin < KINDS[kind][1] / 2
    assert end > KINDS[kind][1]


@pytest.mark.parametrize("kind", KINDS)
def test_lambda_returns_against_a_critic_train_every_kind_of_policy(tmp_path, kind):
    found = truths(tmp_path, kind, WITH_A_CRITIC)
    begin, end = fmean(found[:3]), fmean(found[-3:])
    assert begin < KINDS[kind][1] / 2
    assert end > KINDS[kind][1]


@pytest.mark.parametrize("design", [LEAVE_ONE_OUT, WITH_A_CRITIC])
def test_every_run_file_resolves_to_the_very_same_functions(tmp_path, design):
    made = {}
    for kind in ("control", "gflownet", "tabular"):
        parts, _ = build(run_file(tmp_path, kind, design))
        made[kind] = {
            name: ([*term.target.paths["pay"], *term.target.then], term.loss, term.aggregation)
            for name, term in parts.terms.items()
        }
    assert made["control"] == made["gflownet"] == made["tabular"]


def test_where_no_values_are_offered_a_critic_is_asked_for_before_anything_is_spent(tmp_path):
    text = run_file(tmp_path, "tabular", WITH_A_CRITIC)
    path = tmp_path / "without.yaml"
    path.write_text("\n".join(text.lines).replace("critic: true", "critic: false"))
    with pytest.raises(ValueError, match=r"values.*add critic: true"):
        build(load_run(path))
