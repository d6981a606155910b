import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.shaping.bounding import clamp, clip_above, clip_delta, delta
from payoff.trajectories import Channel, Trajectories, outcome, per_step, place_outcome, place_steps


def stepwise(*steps: list[int]) -> Trajectories:
    """One trajectory per list of step numbers, one number per action."""
    width = max(len(row) for row in steps)
    step = torch.tensor([row + [-1] * (width - len(row)) for row in steps], dtype=torch.int32)
    n = len(steps)
    return Trajectories(
        mask=step >= 0,
        length=(step >= 0).sum(1),
        group=torch.zeros(n, dtype=torch.int64),
        step=step,
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, width),
    )


def scores(traj: Trajectories, *rows: list[float | None]) -> Channel:
    """One score per step; None is a judge that failed."""
    width = max(len(row) for row in rows)
    full = [row + [0.0] * (width - len(row)) for row in rows]
    value = torch.tensor([[x or 0.0 for x in row] for row in full], dtype=torch.float64)
    return place_steps(value, torch.tensor([[x is not None for x in row] for row in full]), traj)


def paid(channel: Channel, traj: Trajectories, row: int = 0) -> list[float]:
    value, exists, _ = per_step(channel, traj)
    return value[row, exists[row]].tolist()


def known(channel: Channel, traj: Trajectories, row: int = 0) -> list[bool]:
    _, exists, valid = per_step(channel, traj)
    return valid[row, exists[row]].tolist()


FOUR = stepwise([0, 1, 2, 3])
EXAMPLE = scores(FOUR, [0.2, 0.5, 0.9, 0.4])


def test_delta_of_the_worked_example():
    # .2-.5, .5-.9, then .9 itself for the last step but one, and nothing for the last
    assert paid(delta(EXAMPLE, FOUR), FOUR) == pytest.approx([-0.3, -0.4, 0.9, 0.0])


def test_clip_of_the_worked_example():
    # .2-.5 = -.3; .5 and .9 do not fall short; .4-.5 = -.1
    assert paid(clip_above(EXAMPLE, FOUR, threshold=0.5), FOUR) == pytest.approx([-0.3, 0.0, 0.0, -0.1])


def test_clip_delta_of_the_worked_example():
    # clipped: -.3 0 0 -.1; differences: -.3-0, 0-0, then 0 itself, then nothing
    assert paid(clip_delta(EXAMPLE, FOUR, threshold=0.5), FOUR) == pytest.approx([-0.3, 0.0, 0.0, 0.0])


def test_delta_needs_the_trajectorys_own_number_of_steps_and_not_the_batchs():
    traj = stepwise([0, 1, 2, 3], [0, 1])
    channel = scores(traj, [0.2, 0.5, 0.9, 0.4], [0.7, 0.6])
    result = delta(channel, traj)
    assert paid(result, traj, 0) == pytest.approx([-0.3, -0.4, 0.9, 0.0])
    assert paid(result, traj, 1) == pytest.approx([0.7, 0.0])


@pytest.mark.parametrize("score", [0.9, -3.0, None])
def test_delta_of_a_single_step_is_a_known_zero(score):
    traj = stepwise([0, 0])
    result = delta(scores(traj, [score]), traj)
    assert paid(result, traj) == [0.0]
    assert known(result, traj) == [True]


@settings(deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=8))
def test_delta_from_a_step_on_adds_up_to_its_score_and_leaves_the_last_step_nothing(p):
    traj = stepwise(list(range(len(p))))
    result = torch.tensor(paid(delta(scores(traj, p), traj), traj), dtype=torch.float64)
    to_go = result.flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(to_go, torch.tensor([*p[:-1], 0.0], dtype=torch.float64))


@settings(deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=6), st.data())
def test_repeating_a_step_leaves_the_sum_of_delta_unchanged(p, data):
    k = data.draw(st.integers(0, len(p) - 2))
    longer = [*p[: k + 1], *p[k:]]
    totals = []
    for row in (p, longer):
        traj = stepwise(list(range(len(row))))
        totals.append(sum(paid(delta(scores(traj, row), traj), traj)))
    assert totals[0] == pytest.approx(totals[1])


@settings(deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=1, max_size=8), st.floats(-1, 1))
def test_no_number_of_steps_earns_anything_under_clip_or_clip_delta(p, threshold):
    traj = stepwise(list(range(len(p))))
    for shaping in (clip_above, clip_delta):
        result = torch.tensor(paid(shaping(scores(traj, p), traj, threshold=threshold), traj), dtype=torch.float64)
        assert (result.flip(0).cumsum(0) <= 1e-12).all()  # from whichever step on


def test_steps_are_paid_at_their_last_position_whoever_wrote_it():
    # Step 0 has three positions, the last of which is tool text; step 1 has two.
    traj = stepwise([0, 0, 0, 1, 1], [0, 1])
    traj = traj.replace(mask=torch.tensor([[True, True, False, True, True], [True, True, False, False, False]]))
    result = clip_above(scores(traj, [0.2, 0.1], [1.0, 0.0]), traj, threshold=0.5)
    expected = torch.tensor([[0, 0, -0.3, 0, -0.4], [0.0, -0.5, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(result.value, expected)


def test_what_is_paid_anywhere_in_a_step_counts_for_the_step():
    traj = stepwise([0, 0, 1])
    dense = Channel(torch.tensor([[0.25, 0.5, 1.0]]), torch.ones(1, 1, dtype=torch.bool))
    assert clip_above(dense, traj, threshold=1.0).value.tolist() == [[0.0, -0.25, 0.0]]


def test_an_unknown_step_costs_clip_only_itself_and_delta_also_the_one_before():
    channel = scores(FOUR, [0.2, None, 0.9, 0.4])
    assert known(clip_above(channel, FOUR), FOUR) == [True, False, True, True]
    assert known(delta(channel, FOUR), FOUR) == [False, False, True, True]
    assert known(clip_delta(channel, FOUR), FOUR) == [False, False, True, True]
    assert paid(delta(channel, FOUR), FOUR) == pytest.approx([0.0, 0.0, 0.9, 0.0])


def test_the_last_score_need_not_be_known_to_delta():
    assert known(delta(scores(FOUR, [0.2, 0.5, 0.9, None]), FOUR), FOUR) == [True] * 4


def test_delta_takes_the_next_step_that_exists_where_a_number_is_skipped():
    traj = stepwise([0, 2, 5])
    result = delta(scores(traj, [0.2, 0.0, 0.5, 0.0, 0.0, 0.4]), traj)
    assert paid(result, traj) == pytest.approx([-0.3, 0.5, 0.0])


def test_reasons_survive():
    channel = scores(FOUR, [0.2, None, 0.9, 0.4])._replace(reasons={int(FOUR.id[0]): "the judge hung"})
    for shaping in (clip_above, delta, clip_delta):
        assert shaping(channel, FOUR).reasons == {int(FOUR.id[0]): "the judge hung"}


def test_clamp_by_step_bounds_each_payment_and_by_outcome_their_sum():
    channel = scores(FOUR, [-2.0, 0.5, 2.0, 2.0])
    assert paid(clamp(channel, FOUR, low=-1.0, high=1.0), FOUR) == [-1.0, 0.5, 1.0, 1.0]
    once = clamp(channel, FOUR, high=1.5, unit="outcome")  # -2 + .5 + 2 + 2 = 2.5, cut at 1.5
    assert paid(once, FOUR) == [0.0, 0.0, 0.0, 1.5]


def test_clamp_with_one_bound_leaves_the_other_side_alone():
    channel = scores(FOUR, [-2.0, 0.5, 2.0, 7.0])
    assert paid(clamp(channel, FOUR, low=0.0), FOUR) == [0.0, 0.5, 2.0, 7.0]
    assert paid(clamp(channel, FOUR, high=0.0), FOUR) == [-2.0, 0.0, 0.0, 0.0]


def test_clamp_leaves_the_unknown_unknown():
    channel = scores(FOUR, [-2.0, None, 2.0, 7.0])
    assert known(clamp(channel, FOUR, low=1.0), FOUR) == [True, False, True, True]
    assert not outcome(clamp(channel, FOUR, low=1.0, unit="outcome"), FOUR)[1].any()


def test_clamp_refuses_bounds_that_make_no_sense():
    channel = place_outcome(torch.zeros(1), torch.ones(1, dtype=torch.bool), FOUR)
    with pytest.raises(ValueError, match="low, high or both"):
        clamp(channel, FOUR)
    with pytest.raises(ValueError, match=r"got 2\.0 > 1\.0"):
        clamp(channel, FOUR, low=2.0, high=1.0)
