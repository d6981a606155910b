"""Appeals: the rate by hand, its running mean, and what says nothing of it."""

import math

import pytest
import torch

from payoff.pipeline import Verdict
from payoff.rows import from_rows
from payoff.shaping.appeals import Appeals
from payoff.shaping.noise_correction import backward_correction, forward_correction
from payoff.trajectories import outcome, place_outcome


def batch(verdicts, truths):
    traj = from_rows([{"response": str(truth), "group": 1} for truth in truths])
    return place_outcome(torch.tensor(verdicts), torch.ones(len(verdicts), dtype=torch.bool), traj), traj


def truth(response):
    return float(response)


ROWS = batch([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [1, 1, 1, 1, 0, 0])  # one of four right answers is refused


def test_with_every_refusal_looked_at_the_rate_is_the_share_of_right_answers_that_were_refused():
    appeals = Appeals(verifier=truth, share=1.0)
    assert (
        outcome(appeals(*ROWS), ROWS[1])[0].tolist() == outcome(forward_correction(*ROWS, false_negative=0.25), ROWS[1])[0].tolist()
    )
    assert float(appeals.rate) == 0.25
    back = Appeals(verifier=truth, share=1.0, correction="backward", false_positive=0.1)
    expected = backward_correction(*ROWS, false_positive=0.1, false_negative=0.25)
    assert outcome(back(*ROWS), ROWS[1])[0].tolist() == outcome(expected, ROWS[1])[0].tolist()


def test_the_rate_is_a_running_mean_that_stands_in_evaluation_and_survives_a_checkpoint():
    appeals = Appeals(verifier=truth, share=1.0, decay=0.5)
    appeals(*ROWS)
    appeals(*batch([1.0, 0.0], [1, 0]))  # nothing overturned: 0
    assert float(appeals.rate) == 0.125
    again = Appeals(verifier=truth, share=1.0, decay=0.5)
    again.load_state_dict(appeals.state_dict())
    appeals.eval()(*ROWS)
    assert (float(appeals.rate), float(again.rate), int(again.calls)) == (0.125, 0.125, 2)


def test_a_random_share_finds_the_rate_on_average_and_no_order_of_rows_matters():
    verdicts, traj = batch([1.0] * 6 + [0.0] * 10, [1] * 6 + [1] * 4 + [0] * 6)
    rates = []
    for seed in range(80):
        appeals = Appeals(verifier=truth, share=0.5, seed=seed)
        appeals(verdicts, traj)
        rates.append(float(appeals.rate))
    # n0 k / m has mean 4 over draws of 5 of 10; the rate 4 / (6 + 4) is a concave function of it
    assert sum(x * 6 / (1 - x) for x in rates) / 80 == pytest.approx(4, abs=0.5)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    other = Appeals(verifier=truth, share=0.5, seed=3)
    other(verdicts._replace(value=verdicts.value[order], valid=verdicts.valid[order]), traj.select(order))
    assert float(other.rate) == rates[3]


def test_what_the_better_verifier_cannot_judge_tells_nothing():
    def unsure(response):
        if response == "1":
            raise RuntimeError("down")
        return Verdict(0.0, valid=False)

    appeals = Appeals(verifier=unsure, share=1.0)
    raw = outcome(appeals(*ROWS), ROWS[1])[0]
    assert math.isnan(float(appeals.rate))
    assert raw.tolist() == [0.0, 0.0, 0.0, -1.0, -1.0, -1.0]  # a rate of 0: forward is the verdict minus 1


def test_a_rate_of_one_is_held_below_and_mistakes_are_named():
    verdicts, traj = batch([0.0, 0.0], [1, 1])
    assert outcome(Appeals(verifier="answer-match", share=1.0)(verdicts, traj), traj)[1].all()
    appeals = Appeals(verifier=truth, share=1.0)
    assert outcome(appeals(verdicts, traj), traj)[0].tolist() == pytest.approx([-0.05, -0.05])
    with pytest.raises(ValueError, match="0 < share <= 1"):
        Appeals(verifier=truth, share=0.0)
