"""OREAL's scorer: the mean of its scores learns the outcome, the policy waits for it, and neither reaches into the other."""

import copy

import pytest
import torch

from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.sampling.token_scorer import TokenScorer
from payoff.train import train
from payoff.trajectories import place_outcome

TINY = {"alphabet": "0123456789+-=;#.", "context": 40, "width": 16, "layers": 1, "heads": 2, "max_tokens": 10}
STARTS = [Start("a", {"prompt": "1+2="}), Start("b", {"prompt": "31-4="})]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def policy():
    made = transformer(**TINY)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3, generator=rng())
    return made


def judged(traj, known=None):
    """Right where the first token is one of the first six."""
    right = traj.actions[:, 0] < 6
    return {"correct": place_outcome(right.float(), torch.ones(len(traj)) > 0 if known is None else known, traj)}, right


def test_the_mean_of_the_scores_tells_right_answers_from_wrong_ones(policy):
    sampler = TokenScorer(policy=policy, warm_up=0, learning_rate=0.03)
    before, traj = copy.deepcopy(policy.state_dict()), policy.rollout(STARTS, 16, rng())
    rewards, right = judged(traj)
    losses = [sampler.learn(traj, rewards)["oreal/loss"] for _ in range(25)]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)  # v is 0 at first
    assert losses[-1] < 0.4
    found = sampler(policy, STARTS, 16, rng()).extras["token_scores"]  # the same draw: the same answers
    mean = found.sum(1) / traj.own.sum(1)
    assert float(((mean > 0) == right).double().mean()) > 0.85
    assert not found.requires_grad
    assert (found[~traj.own] == 0).all()
    assert all(torch.equal(before[name], now) for name, now in policy.state_dict().items())
    headed = TokenScorer(policy=policy, learning_rate=0.03, train_backbone=False)
    headed.learn(traj, rewards)
    assert headed.head.weight.abs().max() > 0
    assert all(torch.equal(before[name], now) for name, now in headed.backbone.state_dict().items())


def test_a_score_is_of_the_state_behind_its_token_and_others_tokens_have_none(policy):
    sampler = TokenScorer(policy=policy, warm_up=0)
    with torch.no_grad():
        sampler.head.weight.normal_(generator=rng())
    traj = policy.rollout(STARTS, 3, rng())
    traj = traj.replace(mask=traj.mask & (torch.arange(traj.width) != 1))
    states = policy.evaluate(traj, frozenset({"hidden"})).more["hidden"].detach()
    wanted = torch.where(traj.own, states[:, 1:] @ sampler.head.weight[0], 0)
    torch.testing.assert_close(sampler.scores(traj).detach(), wanted)


def test_what_is_unknown_teaches_nothing_and_checkpoints_go_on(policy):
    one, two = (TokenScorer(policy=policy, learning_rate=0.03) for _ in range(2))
    traj = policy.rollout(STARTS, 4, rng())
    known = torch.arange(8) % 2 == 0
    rows = known.nonzero()[:, 0]
    some = traj.select(rows)
    assert one.learn(traj, judged(traj, known)[0]) == two.learn(some, judged(some)[0])
    assert torch.equal(one.head.weight, two.head.weight)
    weight = one.head.weight.clone()
    assert one.learn(traj, judged(traj, known & False)[0]) == {"oreal/loss": None, "oreal/accuracy": None}
    assert torch.equal(one.head.weight, weight)
    three = TokenScorer(policy=policy, learning_rate=0.03)
    three.load_state_dict(two.state_dict())
    assert two.learn(traj, judged(traj)[0]) == three.learn(traj, judged(traj)[0])
    assert torch.equal(two.head.weight, three.head.weight)
    with pytest.raises(KeyError, match="oreal: no reward channel 'correct'"):
        one.learn(traj, {})
    with pytest.raises(ValueError, match="offers no hidden states"):
        TokenScorer(policy=Tabular(2, 2))
    with pytest.raises(ValueError, match="warm_up must be at least 0"):
        TokenScorer(policy=policy, warm_up=-1)


def test_the_policy_waits_while_the_scorer_warms_up():
    run = {
        "task": {"name": "chain", "terms": 2, "held_out": 4},
        "policy": {"name": "transformer", **TINY, "stop": ["."], "step_separator": ";"},
        "reward": {"correct": "chain-format", "length": "length"},
        "sampler": {"name": "oreal", "by": "length", "warm_up": 2, "learning_rate": 0.03},
        "terms": {
            "right": {"paths": {"length": ["total", "rloo", {"name": "oreal", "side": "positive"}]}, "loss": "policy-gradient"},
            "wrong": {
                "paths": {"length": ["total", "rloo", {"name": "oreal", "side": "negative"}]},
                "loss": "policy-gradient",
                "weight": 0.5,
            },
        },
        "train": {"updates": 3, "starts": 2, "rollouts": 6, "learning_rate": 0.01},
        "evaluate": {"every": 0, "starts": 1},
    }
    parts, settings = build(Loaded(RunFile.model_validate(run), {}, "test", []))
    norms = [line["gradient_norm"] for line in train(parts, settings).history[1:]]
    assert norms[:2] == [0.0, 0.0]
    assert norms[2] > 0
