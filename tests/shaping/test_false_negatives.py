"""Low scores are raised a little by the pattern, high ones by nothing."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.shaping.false_negatives import softened_low_scores
from payoff.trajectories import outcome, place_outcome

SURE = [True] * 4


def paid(scores, patterns, score_known=SURE, pattern_known=SURE, **options):
    traj = four_answers()
    give = lambda x, known: place_outcome(torch.tensor(x, dtype=torch.float64), torch.tensor(known), traj)
    rewards = {"score": give(scores, score_known), "pattern": give(patterns, pattern_known)}
    found = softened_low_scores(rewards, traj, **options)
    assert found["score"] is rewards["score"]
    value, valid = outcome(found["softened"], traj)
    return [round(v, 9) if k else None for v, k in zip(value.tolist(), valid.tolist(), strict=True)]


def test_only_what_is_below_is_raised_and_not_beyond_the_most():
    assert paid([-3.0, 0.45, 0.5, 0.9], [1.0, 1.0, 1.0, 1.0]) == [-2.9, 0.55, 0.5, 0.9]
    assert paid([0.45, 0.0, 0.49, 0.5], [1.0, 0.5, 0.0, 1.0], most=0.5, weight=0.2) == [0.5, 0.1, 0.49, 0.5]
    assert paid([0.1, 0.2, 0.3, 0.9], [1.0] * 4, weight=0.0) == [0.1, 0.2, 0.3, 0.9]


def test_a_pattern_that_is_not_known_matters_for_low_scores_alone():
    unknown = [False, True, False, True]
    assert paid([0.2, 0.2, 0.8, 0.8], [0.0, 1.0, 0.0, 1.0], pattern_known=unknown) == [None, 0.3, 0.8, 0.8]
    assert paid([0.2, 0.2, 0.8, 0.8], [0.0, 1.0, 0.0, 1.0], score_known=unknown) == [None, 0.3, None, 0.8]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="weight must be a number >= 0"):
        paid([0.0] * 4, [0.0] * 4, weight=-0.1)
    with pytest.raises(ValueError, match="most at least below"):
        paid([0.0] * 4, [0.0] * 4, most=0.4)
    with pytest.raises(KeyError, match="no reward channel 'style'"):
        paid([0.0] * 4, [0.0] * 4, pattern="style")
    with pytest.raises(ValueError, match="there already is a reward channel 'score'"):
        paid([0.0] * 4, [0.0] * 4, into="score")
