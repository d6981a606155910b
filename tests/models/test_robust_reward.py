"""The reward with several heads: what the mixture is at its ends, and that heads agree on what they learned."""

import copy

import pytest
import torch
from torch import nn

from payoff.models.robust_reward import RobustReward, robust_score
from payoff.policies.embedded import transformer
from payoff.trajectories import Pairs, outcome

MEAN = torch.tensor([[1.0, 5.0, 2.0], [3.0, 4.0, 2.0], [2.0, 0.0, 2.0]])
DEVIATION = torch.tensor([[0.9, 0.1, 1.0], [0.2, 0.5, 1.0], [0.5, 0.9, 1.0]])


@pytest.fixture(scope="module")
def policy():
    made = transformer(width=8, layers=1, heads=1, context=16)
    torch.manual_seed(1)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture(scope="module")
def traj(policy):
    return policy.read([{"prompt": "3-7=", "response": f"#{digit}."} for digit in range(5)])


@pytest.fixture(scope="module")
def fitted(policy, traj):
    made = RobustReward(policy=copy.deepcopy(policy), heads=3, width=8, epochs=60, learning_rate=0.05)
    index = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    return made, made.fit(traj, Pairs(torch.tensor(index), torch.ones(len(index)), torch.ones(len(index))))


def test_the_ends_of_the_share_are_the_nominal_reward_and_the_worst_case():
    assert robust_score(MEAN, DEVIATION, share=1.0).tolist() == [3.0, 5.0, 2.0]  # the surest: the second, the first, any
    assert robust_score(MEAN, DEVIATION, share=0.0).tolist() == [1.0, 0.0, 2.0]
    assert robust_score(MEAN, DEVIATION, share=0.5).tolist() == [2.0, 2.5, 2.0]
    assert robust_score(MEAN, DEVIATION, share=1.0, surest=False).tolist() == [2.0, 3.0, 2.0]
    assert robust_score(MEAN, DEVIATION, share=1.0, first=torch.full((3,), 9.0)).tolist() == [9.0, 9.0, 9.0]


def test_a_constant_goes_through_heads_alike_change_nothing_and_the_mixture_is_concave():
    assert robust_score(MEAN + 7, DEVIATION, share=0.5).tolist() == [9.0, 9.5, 9.0]
    alike = MEAN[:1].expand(4, 3)
    assert robust_score(alike, torch.rand(4, 3), share=0.3).tolist() == pytest.approx(MEAN[0].tolist())
    other = MEAN.flip(0)
    between = robust_score((MEAN + other) / 2, DEVIATION, share=0.0)
    apart = (robust_score(MEAN, DEVIATION, share=0.0) + robust_score(other, DEVIATION, share=0.0)) / 2
    assert (between >= apart - 1e-6).all()
    assert (robust_score(MEAN, DEVIATION, share=0.3) <= robust_score(MEAN, DEVIATION, share=1.0)).all()


def test_heads_learn_the_order_that_the_first_was_given_and_agree_there(fitted, traj):
    model, told = fitted
    assert told["robust/accuracy"] == 1.0
    assert told["robust/pairs"] == 10
    assert told["robust/parting"] < 0.5
    value, valid = outcome(model(traj)["robust"], traj)
    assert valid.all()
    state = model._states(traj)
    mean, deviation = model.heads(state)
    first = (state @ model.first)[:, 0].detach()
    assert first.argsort(descending=True).tolist() == [0, 1, 2, 3, 4]
    assert float(torch.corrcoef(torch.stack([value, first]))[0, 1]) > 0.95
    assert mean.mean(1).tolist() == pytest.approx([float(first.mean())] * 3, abs=1e-4)
    assert (deviation > 0).all()
    same = copy.deepcopy(model)
    same.share, same.nominal = 1.0, "first"
    assert outcome(same(traj)["robust"], traj)[0].tolist() == pytest.approx(first.tolist(), abs=1e-5)


def test_what_is_saved_scores_alike_and_other_options_are_refused(fitted, policy, traj, tmp_path):
    model, _ = fitted
    model.save(tmp_path / "heads.pt")
    again = RobustReward(policy=copy.deepcopy(policy), heads=3, width=8, weights=str(tmp_path / "heads.pt"))
    assert torch.equal(again(traj)["robust"].value, model(traj)["robust"].value)
    with pytest.raises(ValueError, match="brme"):
        RobustReward(policy=copy.deepcopy(policy), heads=2, width=8, weights=str(tmp_path / "heads.pt"))


def test_what_makes_no_sense_is_refused(policy, traj):
    for options in ({"share": 1.5}, {"heads": 0}, {"weights": "a", "labelled": "b"}):
        with pytest.raises(ValueError, match="brme"):
            RobustReward(policy=copy.deepcopy(policy), **options)
    empty = RobustReward(policy=copy.deepcopy(policy), heads=2)
    with pytest.raises(ValueError, match="nothing has been fitted"):
        empty(traj)
    with pytest.raises(ValueError, match="no pairs of any weight"):
        empty.fit(traj, Pairs(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0), torch.zeros(0)))
