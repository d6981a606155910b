"""From a run file through the one loop: balance losses and plain policy gradients come to the same distribution, R / Z."""

from pathlib import Path

import pytest
import yaml

from payoff.build import build
from payoff.config import load_run
from payoff.train import train

GRID = {"name": "hypergrid", "dimensions": 2, "side": 5}
REWARD, SOFT, END = "log-reward", "soft-rl", "trajectory-mean"


def balance(loss, *path, aggregation=END):
    return {"balance": {"paths": {"reward": list(path)}, "loss": loss, "aggregation": aggregation}}


def soft(*path, then=("rloo",), **more):
    both = {"reward": list(path), "soft": list(path)}
    policy = {"paths": both, "then": list(then), "loss": "policy-gradient", "aggregation": "sequence-mean-token-sum"}
    critic = {"critic": {"paths": both, "loss": "value", "aggregation": "token-mean"}} if more.get("critic") else {}
    return {"policy": policy, **critic}


ARMS = {
    "trajectory": balance("trajectory-balance"),
    "variance": balance("log-partition-variance"),
    "detailed": balance("detailed-balance", aggregation="token-mean"),
    "sub-trajectory": balance({"name": "sub-trajectory-balance", "regression": "huber"}, "fl-gfn"),
    "matching": balance("flow-matching", aggregation="token-mean"),
    "prefix": balance({"name": "gflowvlm", "decay": 0.0}, "fl-gfn"),
    "rloo": soft("total"),
    "grpo": soft("total", then=("grpo",)),
    "lambda-return": soft("lambda-return", then=("subtract-values",), critic=True),
}


def run(tmp_path: Path, terms: dict, task: dict = GRID, **settings):
    path = tmp_path / "run.yaml"
    spec = {
        "task": task,
        "policy": {"name": "gflownet", "task": task, "network": "table", "critic": True},
        "reward": {"reward": REWARD, "soft": SOFT},
        "terms": terms,
        "train": {"starts": 1, "rollouts": 64, "learning_rate": 0.1, "gradient_clip": 0.0, "updates": 80, **settings},
        "evaluate": {"every": 0, "starts": 32},
    }
    spec["policy"]["log_z_rate"] = 2.0
    path.write_text(yaml.safe_dump(spec))
    parts, chosen = build(load_run(path))
    progress = train(parts, chosen)
    return parts, progress.history


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_every_road_leads_to_the_reward_over_its_sum(tmp_path, arm):
    parts, history = run(tmp_path, ARMS[arm])
    before = parts.task.measure(parts.reference)["l1"]
    after = parts.task.measure(parts.policy)["l1"]
    assert before > 0.9
    assert after < 0.2, after
    assert history[-1]["truth"] > history[0]["truth"]
    assert history[-1]["invalid"] == 0
    if arm == "trajectory":  # and the learned log Z is that of the rewards
        assert history[-1]["balance/log_z"] == pytest.approx(parts.policy.graph.log_z, abs=0.05)
        assert history[-1]["balance/residual"] < 0.5 * history[1]["balance/residual"]


@pytest.mark.slow
def test_paid_as_increments_detailed_balance_learns_much_sooner_where_parts_have_a_worth_of_their_own(tmp_path):
    task = {"name": "bits", "length": 6, "order": "any", "modes": 2, "exponent": 1.5}
    found = {}
    for path in ((), ("fl-gfn",)):
        parts, _ = run(
            tmp_path, balance("detailed-balance", *path, aggregation="token-mean"), task, updates=150, learning_rate=0.05
        )
        found[path] = parts.task.measure(parts.policy)["l1"]
    assert found["fl-gfn",] < 0.4
    assert found[()] > 2 * found["fl-gfn",]


def test_a_loss_that_needs_flows_is_refused_before_the_first_rollout(tmp_path):
    path = tmp_path / "run.yaml"
    spec = {"task": GRID, "policy": {"name": "gflownet", "task": GRID}, "reward": {"reward": REWARD}, "terms": ARMS["detailed"]}
    path.write_text(yaml.safe_dump(spec))
    with pytest.raises(Exception, match=r"term 'balance' needs \['values'\].*critic: true"):
        build(load_run(path))


def test_a_run_that_is_cut_into_minibatches_or_named_in_short_is_the_same_kind_of_run(tmp_path):
    parts, history = run(tmp_path, ARMS["detailed"], updates=2, minibatches=4, epochs=2)
    assert len(history) == 3
    assert history[-1]["loss"] > 0
    path = tmp_path / "short.yaml"
    spec = {"task": "hypergrid", "policy": "gflownet:hypergrid", "reward": {"r": REWARD}, "terms": {"t": {"paths": {"r": []}}}}
    spec["terms"]["t"] |= {"loss": "trajectory-balance", "aggregation": END}
    path.write_text(yaml.safe_dump(spec))
    assert build(load_run(path))[0].policy.space.side == 8
    assert parts.task.side == 5


def test_a_language_model_trains_on_the_variance_of_balance(tmp_path):
    path = tmp_path / "run.yaml"
    paths = {"paths": {"score": []}, "aggregation": END}
    spec = {
        "task": {"name": "tree", "vocabulary": 2, "horizon": 2, "leaf_rewards": {"ab": 2.0, "bb": 1.0}},
        "policy": {"name": "tabular", "vocabulary": 2, "horizon": 2},
        "reward": {"score": "tree-leaf"},
        "terms": {"balance": {**paths, "loss": "relative-log-partition-variance"}},
        "train": {"starts": 1, "rollouts": 64, "learning_rate": 0.05, "gradient_clip": 0.0, "updates": 120},
        "evaluate": {"every": 0},
    }
    path.write_text(yaml.safe_dump(spec))
    parts, settings = build(load_run(path))
    train(parts, settings)
    wanted = parts.reference.optimum(parts.task.leaves(), 1.0).probabilities()
    assert float((parts.policy.probabilities() - wanted).abs().sum().detach()) < 0.1
