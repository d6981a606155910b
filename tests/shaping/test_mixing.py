import pytest
import torch

from payoff.examples import four_answers
from payoff.shaping.mixing import mix
from payoff.trajectories import Channel, outcome, place_outcome

TRAJ = four_answers()


def rewards() -> dict[str, Channel]:
    return {
        "correct": place_outcome(torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([True, True, False, True]), TRAJ, {2: "no"}),
        "style": place_outcome(torch.tensor([0.5, 0.5, 0.5, -1.0]), torch.ones(4, dtype=torch.bool), TRAJ),
    }


def test_the_sum_is_weighted_and_the_summands_stay():
    given = rewards()
    result = mix(given, TRAJ, weights={"correct": 2.0, "style": -1.0}, into="sum")
    assert outcome(result["sum"], TRAJ)[0].tolist() == [1.5, -0.5, 0, 1]  # the third is unknown
    assert result["correct"] is given["correct"]
    assert list(result) == ["correct", "style", "sum"]


def test_an_unknown_summand_makes_the_sum_unknown_or_is_left_out_of_it():
    dropped = mix(rewards(), TRAJ, weights={"correct": 1.0, "style": 1.0})["mixed"]
    assert outcome(dropped, TRAJ)[1].tolist() == [True, True, False, True]
    assert dropped.reasons == {2: "no"}
    skipped = mix(rewards(), TRAJ, weights={"correct": 1.0, "style": 1.0}, missing="skip")["mixed"]
    assert outcome(skipped, TRAJ)[1].all()
    assert outcome(skipped, TRAJ)[0].tolist() == [1.5, 0.5, 0.5, -1.0]


def test_a_channel_without_a_weight_is_not_in_the_sum():
    assert outcome(mix(rewards(), TRAJ, weights={"style": 1.0})["mixed"], TRAJ)[0].tolist() == [0.5, 0.5, 0.5, -1.0]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no weights"):
        mix(rewards(), TRAJ, weights={})
    with pytest.raises(ValueError, match="already is a reward channel 'style'"):
        mix(rewards(), TRAJ, weights={"correct": 1.0}, into="style")
    with pytest.raises(KeyError, match="no reward channel 'manners'"):
        mix(rewards(), TRAJ, weights={"manners": 1.0})
