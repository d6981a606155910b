"""A scale that moves with the updates: along a line, in a step, across a checkpoint."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.shaping.schedules import ScaleSchedule
from payoff.trajectories import Channel


def factors(shape: ScaleSchedule, updates: int) -> list[float]:
    return [shape.factor] + [shape.learn(four_answers(), {})["scale-schedule/factor"] for _ in range(updates)]


def test_a_line_and_then_its_end():
    assert factors(ScaleSchedule(start=2.0, end=1.0, over=4), 6) == [2, 1.75, 1.5, 1.25, 1, 1, 1]


def test_a_step():
    assert factors(ScaleSchedule(start=1.0, end=3.0, over=2, shape="step"), 3) == [1, 1, 3, 3]


def test_a_checkpoint_goes_on_where_it_was():
    first, second = ScaleSchedule(start=0.0, end=1.0, over=10), ScaleSchedule(start=0.0, end=1.0, over=10)
    factors(first, 3)
    second.load_state_dict(first.state_dict())
    assert second.factor == pytest.approx(0.3)


def test_every_paid_number_is_scaled_and_the_unknown_stays_unknown():
    channel = Channel(torch.tensor([[1.0, 2.0, 3.0]] * 4), torch.tensor([[True, True, True], [True, False, True]] * 2), {1: "hung"})
    scaled = ScaleSchedule(start=0.5, end=1.0)(channel, four_answers())
    assert scaled.value[:2].tolist() == [[0.5, 1.0, 1.5], [0.5, 0.0, 1.5]]
    assert torch.equal(scaled.valid, channel.valid)
    assert scaled.reasons == {1: "hung"}


@pytest.mark.parametrize("options", [{"over": 0}, {"start": float("inf")}, {"end": float("nan")}])
def test_nonsense_is_refused(options):
    with pytest.raises(ValueError, match="scale-schedule"):
        ScaleSchedule(**{"start": 1.0, "end": 2.0} | options)
