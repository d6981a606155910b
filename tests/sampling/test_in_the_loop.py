"""The parts of this room in whole runs, by their names in a run file."""

import pytest

from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.train import train

SHAPE = {"vocabulary": 3, "horizon": 3}
BASE = {
    "task": {"name": "tree", **SHAPE, "prompts": 6, "seed": 1},
    "policy": {"name": "tabular", **SHAPE, "starts": 6, "spread": 0.5},
    "reward": {"correct": "tree-leaf"},
    "terms": {"policy": {"paths": {"correct": ["total", "grpo"]}, "loss": "ppo-clip", "aggregation": "token-mean"}},
    "train": {"updates": 4, "starts": 3, "rollouts": 8, "learning_rate": 0.05, "checkpoint_every": 1},
    "evaluate": {"every": 0, "starts": 0},
}
RUNS = {
    "cure with replay": {
        "sampler": {"name": "cure", "branches": 3, "positions": 2, "shortest": 1},
        "replay": {"name": "replay", "groups": 2, "max_age": 3},
    },
    "insight": {"curriculum": {"name": "insight-wmi", "pool": 4}},
    "pcl on a field": {"curriculum": {"name": "pcl", "features": ["prompt"], "candidates": 2}},
    "history": {"curriculum": {"name": "pass-rate-history", "retest": 2}},
    "pools": {"curriculum": "difficulty-pools"},
    "instance filter": {"curriculum": {"name": "rif-rft", "trials": 4}},
    "hardest of a pool": {"curriculum": {"name": "bleuberi", "scorer": "tree-leaf", "pool": 6, "keep": 3}},
    "revisions traced back": {
        "sampler": {"name": "verirl", "checker": "tree-leaf", "children": 1},
        "shaping": [{"on": "correct", "do": ["trace-back"]}],
    },
    "three roles": {
        "sampler": {"name": "spell", "rule": "answer-match", "verdicts": 1},
        "reward": {"played": "spell"},
        "selection": [{"name": "spell", "by": "played"}],
        "terms": {"policy": {"paths": {"played": ["total", "spell"]}, "loss": "ppo-clip"}},
    },
    "best of a superbatch": {
        "selection": [{"name": "superhf", "by": "correct", "length_penalty": 0.1}],
        "terms": {"imitate": {"loss": "policy-gradient", "aggregation": "token-mean"}},
    },
}


def made(name: str, updates: int = 4):
    file = {**BASE, **RUNS[name], "train": {**BASE["train"], "updates": updates}}
    return build(Loaded(RunFile.model_validate(file), {}, "run.yaml", []), seed=3)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_killed_and_resumed_ends_where_an_unbroken_one_does(name, tmp_path):
    whole, settings = made(name)
    history = train(whole, settings).history
    first, short = made(name, 2)
    train(first, short, checkpoint=tmp_path / "state")
    second, _ = made(name)
    resumed = train(second, settings, checkpoint=tmp_path / "state").history
    assert all((a == b).all() for a, b in zip(whole.policy.parameters(), second.policy.parameters(), strict=True))
    timed = lambda line: {key: value for key, value in line.items() if "seconds" not in key}
    assert [timed(line) for line in resumed] == [timed(line) for line in history]


def test_what_parts_say_of_themselves_is_in_the_metrics():
    history = train(*made("cure with replay")).history
    assert [line["replayed"] for line in history[1:]] == [0, 16, 16, 16]
    assert {"insight/error", "insight/pass_rate", "insight/starts"} <= set(train(*made("insight")).history[-1])
