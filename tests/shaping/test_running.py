import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.examples import four_answers
from payoff.shaping.running import RunningClip, RunningMeanStd, RunningMinMax
from payoff.trajectories import Channel, outcome, place_outcome

ALL = (RunningMeanStd, RunningMinMax, RunningClip)
TRAJ = four_answers()
four = st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4)


def rewards(values: list[float], valid: list[bool] | None = None) -> Channel:
    return place_outcome(torch.tensor(values, dtype=torch.float64), torch.tensor(valid or [True] * 4), TRAJ)


def shaped(shaper: torch.nn.Module, values: list[float], valid: list[bool] | None = None) -> list[float]:
    return outcome(shaper(rewards(values, valid), TRAJ), TRAJ)[0].tolist()


def test_golden_numbers():
    # of 0, 0, 0, 4: mean 1, population variance (3 * 1 + 9) / 4 = 3
    assert shaped(RunningMeanStd(), [0, 0, 0, 4]) == pytest.approx([-(3**-0.5)] * 3 + [3**0.5])
    assert shaped(RunningClip(), [0, 0, 0, 4]) == pytest.approx([0, 0, 0, 1 + 3**0.5])
    assert shaped(RunningMinMax(), [0, 1, 3, 4]) == [0, 0.25, 0.75, 1]


@settings(deadline=None)
@given(st.lists(four, min_size=1, max_size=5))
def test_the_memory_of_many_batches_is_that_of_all_outcomes_at_once(batches):
    shaper = RunningMeanStd()
    for batch in batches:
        shaper(rewards(batch), TRAJ)
    together = torch.tensor(batches, dtype=torch.float64)
    torch.testing.assert_close(shaper.mean, together.mean(), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(shaper.std, together.std(correction=0), atol=1e-6, rtol=1e-6)
    assert (shaper.low, shaper.high) == (together.min(), together.max())


@pytest.mark.parametrize("value", [0.97, 0.1, 1e6])
@pytest.mark.parametrize(("shaper", "expected"), [(RunningMeanStd, 0.0), (RunningMinMax, 0.5), (RunningClip, None)])
def test_outcomes_that_were_always_equal_give_one_exact_number(shaper, expected, value):
    made = shaper()
    for _ in range(3):
        assert shaped(made, [value] * 4) == pytest.approx([value if expected is None else expected] * 4, abs=1e-15)


@pytest.mark.parametrize("shaper", ALL)
def test_unknown_outcomes_do_not_enter_the_memory(shaper):
    with_unknown, without = shaper(), shaper()
    shaped(with_unknown, [1.0, 999.0, 3.0, 2.0], [True, False, True, True])
    for value in (1.0, 3.0, 2.0):
        shaped(without, [value] * 4, [True, False, False, False])
    for name, tensor in without.state_dict().items():
        torch.testing.assert_close(with_unknown.state_dict()[name], tensor)


@pytest.mark.parametrize("shaper", ALL)
def test_an_unknown_outcome_stays_unknown(shaper):
    result = shaper()(rewards([1.0, 2.0, 3.0, 4.0], [True, False, True, True]), TRAJ)
    assert outcome(result, TRAJ)[1].tolist() == [True, False, True, True]


@pytest.mark.parametrize("shaper", ALL)
def test_evaluation_shapes_but_does_not_remember(shaper):
    made = shaper()
    shaped(made, [0, 1, 2, 3])
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    made.eval()
    first = shaped(made, [9, 9, 0, 0])
    assert first == shaped(made, [9, 9, 0, 0])
    assert before == made.state_dict()
    made.train()
    assert shaped(made, [9, 9, 0, 0]) != first


@pytest.mark.parametrize(("shaper", "expected"), [(RunningMeanStd, 7.0), (RunningMinMax, 0.5), (RunningClip, 7.0)])
def test_before_anything_was_seen(shaper, expected):
    assert shaped(shaper().eval(), [7.0] * 4) == [expected] * 4


@pytest.mark.parametrize("shaper", ALL)
def test_a_batch_without_verdicts_is_no_batch(shaper):
    made = shaper()
    assert shaped(made, [1, 2, 3, 4], [False] * 4) == [0] * 4
    assert made.count == 0


@pytest.mark.parametrize("shaper", ALL)
def test_saved_and_loaded_it_goes_on_bit_for_bit(shaper):
    first, second = shaper(), shaper()
    shaped(first, [0.1, 0.7, -3, 2])
    second.load_state_dict(first.state_dict())
    assert shaped(first, [5, 1, 0.3, 0]) == shaped(second, [5, 1, 0.3, 0])


def test_a_running_scale_is_invisible_after_a_scale_by_group_but_for_the_clipping():
    def standardised(x):
        x = torch.tensor(x)
        return ((x - x.mean()) / x.std()).tolist()

    plain = [1.0, 4.0, 2.0, 9.0]
    assert standardised(shaped(RunningMeanStd(), plain)) == pytest.approx(standardised(plain), abs=1e-6)
    assert standardised(shaped(RunningMinMax(), plain)) == pytest.approx(standardised(plain), abs=1e-6)
    assert standardised(shaped(RunningClip(), plain)) != pytest.approx(standardised(plain), abs=1e-2)
