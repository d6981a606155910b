"""The critic between steps: what it pays, that it stops learning, and that the loop uses it."""

import copy

import pytest
import torch
from torch import nn

from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.credit.returns import immediate
from payoff.models.step_advantages import StepAdvantages
from payoff.pipeline import weigh
from payoff.policies.embedded import transformer
from payoff.train import train
from payoff.trajectories import place_outcome

RUN = {
    "task": {"name": "chain", "terms": 4},
    "policy": {"name": "transformer", "width": 16, "layers": 1, "heads": 2, "max_tokens": 12},
    "reward": {"correct": "chain-answer", "critic": {"name": "direct-advantage-po", "reward": "chain-answer", "n": 2}},
    "terms": {
        "policy": {
            "paths": {"correct": ["immediate"], "critic": ["immediate"]},
            "loss": "direct-advantage-po",
            "aggregation": "step-mean",
        }
    },
    "train": {"updates": 2, "starts": 2, "rollouts": 2},
    "evaluate": {"every": 0, "starts": 0},
}


@pytest.fixture(scope="module")
def policy():
    made = transformer(width=8, layers=1, heads=1)
    torch.manual_seed(1)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture(scope="module")
def fitted(policy):
    traj = policy.read([{"prompt": "3-7=", "response": text} for text in ("3-7=6;6+1=7;#7.", "3-7=5;#5.")])
    model = StepAdvantages(policy=copy.deepcopy(policy), reward="answer-match", epochs=150, learning_rate=0.1)
    values = torch.tensor([[0.4, 0.8, 0.6, 0.0], [0.4, 0.1, 0.0, 0.0]])
    known = torch.tensor([[True, True, True, False], [True, True, False, False]])
    return model, traj, model.fit(traj, values, known)


def test_steps_and_outcome_add_up_to_the_advantage(fitted):
    model, traj, told = fitted
    assert told["critic/places"] == 5
    assert told["critic/error"] < 0.15
    rewards = {**model(traj), "correct": place_outcome(torch.tensor([1.0, 0.0]), torch.ones(2, dtype=torch.bool), traj)}
    found = weigh({"advantage": [immediate], "correct": [immediate]})(rewards, traj).value
    v = model.values(traj)[0].tolist()  # near 0.4, 0.8, 0.6 and 0.4, 0.1
    wanted = [[v[0][1] - v[0][0], v[0][2] - v[0][1], 1 - v[0][2]], [v[1][1] - v[1][0], 0 - v[1][1]]]  # at the end the outcome
    for row, steps in enumerate(wanted):
        ends = [int((traj.step[row] == k).nonzero().min()) for k in range(len(steps))]
        assert found[row, ends].tolist() == pytest.approx(steps, abs=1e-6)


def test_summed_up_it_is_a_constant(fitted):
    model, traj, _ = fitted
    start = model.values(traj)[0][:, 0]
    torch.testing.assert_close(model(traj)["advantage"].value.sum(1), -start)


def test_before_it_has_learned_nothing_is_known(policy, fitted):
    fresh = StepAdvantages(policy=copy.deepcopy(policy), reward="answer-match")
    channel = fresh(fitted[1])["advantage"]
    assert not channel.valid.any()
    assert len(channel.reasons) == 2


def test_values_that_are_none_are_refused(fitted):
    model, traj, _ = fitted
    none = torch.zeros(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="nothing to fit"):
        model.fit(traj, torch.zeros(2, 4), none)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        model.fit(traj, torch.full((2, 4), 2.0), ~none)


def test_a_run_file_fits_the_critic_once_and_then_keeps_it():
    torch.manual_seed(0)
    parts, settings = build(Loaded(RunFile.model_validate(RUN), {}, "test", []), "", 0)
    history = train(parts, settings).history
    assert history[1]["critic/places"] > 0
    assert "critic/places" not in history[2]
    assert all(torch.isfinite(torch.tensor(line["policy/error"])) for line in history[1:])
