import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.sampling.filters import drop_equal_groups, keep_all, pass_rate_between, top_k_per_group, valid_only
from payoff.trajectories import Channel, Trajectories, place_outcome

BY_GROUP = (drop_equal_groups, pass_rate_between, top_k_per_group)
ALL = (keep_all, valid_only, *BY_GROUP)


def batch(group: list[int]) -> Trajectories:
    n = len(group)
    mask = torch.ones(n, 2, dtype=torch.bool)
    return Trajectories(
        mask=mask,
        length=torch.full((n,), 2),
        group=torch.tensor(group, dtype=torch.int64),
        step=torch.zeros(n, 2, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, 2),
    )


def run(selection, group: list[int], values: list[float | None], **options) -> list[int]:
    traj = batch(group)
    value, valid = torch.tensor([v or 0.0 for v in values]), torch.tensor([v is not None for v in values], dtype=torch.bool)
    return selection({"correct": place_outcome(value, valid, traj)}, traj, **options).tolist()


def test_groups_of_equal_outcomes_are_dropped_wherever_their_members_lie():
    assert run(drop_equal_groups, [5, 9, 5, 9, 7], [1, 0, 1, 1, 0]) == [1, 3]


@pytest.mark.parametrize("value", [0.1, 0.97, 1 / 3, 1e-8, -7.3])
@pytest.mark.parametrize("size", [2, 3, 12])
def test_equal_means_equal_for_any_value_and_not_only_for_zeros_and_ones(value, size):
    assert run(drop_equal_groups, [0] * size, [value] * size) == []
    assert run(drop_equal_groups, [0] * size, [value] * (size - 1) + [value * (1 + 1e-6)]) == list(range(size))


def test_members_without_a_verdict_decide_nothing_and_stay_with_their_group():
    assert run(drop_equal_groups, [0, 0, 0, 1, 1, 1], [1, None, 1, 1, None, 0]) == [3, 4, 5]
    assert run(pass_rate_between, [0, 0, 0, 1, 1, 1], [1, None, 1, 1, None, 0]) == [3, 4, 5]


def test_a_group_of_one_or_without_verdicts_is_dropped():
    assert run(drop_equal_groups, [0, 1, 1], [1, None, None]) == []
    assert run(pass_rate_between, [1, 1], [None, None], low=0.0, high=1.0) == []


def test_the_bounds_of_the_pass_rate_are_included():
    one_of_five = [1, 0, 0, 0, 0]
    assert run(pass_rate_between, [0] * 5, one_of_five) == [0, 1, 2, 3, 4]
    assert run(pass_rate_between, [0] * 5, [1 - x for x in one_of_five]) == [0, 1, 2, 3, 4]
    assert run(pass_rate_between, [0] * 6, [*one_of_five, 0]) == []
    assert run(pass_rate_between, [0] * 6, [*one_of_five, 0], low=0.0) == [0, 1, 2, 3, 4, 5]


def test_the_filter_looks_at_the_named_channel_and_not_at_a_shaped_one():
    traj = batch([0, 0, 1, 1])
    sure = torch.ones(4, dtype=torch.bool)
    rewards = {
        "correct": place_outcome(torch.tensor([1.0, 1.0, 0.0, 1.0]), sure, traj),
        "style": place_outcome(torch.tensor([0.1, 0.9, 0.5, 0.5]), sure, traj),
    }
    assert drop_equal_groups(rewards, traj).tolist() == [2, 3]
    assert drop_equal_groups(rewards, traj, by="style").tolist() == [0, 1]


def test_the_best_of_each_group_come_in_the_order_of_rows():
    values = [0.1, 0.5, 0.9, 0.2, 0.3, None]
    assert run(top_k_per_group, [0, 1, 0, 1, 0, 1], values) == [1, 2]
    assert run(top_k_per_group, [0, 1, 0, 1, 0, 1], values, k=2) == [1, 2, 3, 4]
    assert run(top_k_per_group, [0, 1, 0, 1, 0, 1], values, k=9) == [0, 1, 2, 3, 4]


def test_valid_only_and_keep_all():
    assert run(valid_only, [0, 0, 1], [1, None, 0]) == [0, 2]
    assert run(keep_all, [0, 0, 1], [1, None, 0]) == [0, 1, 2]


@pytest.mark.parametrize("selection", ALL)
def test_what_is_left_of_nothing_is_nothing(selection):
    assert run(selection, [], []) == []


@pytest.mark.parametrize("selection", ALL)
@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([None, 0.0, 0.25, 1.0])), min_size=1, max_size=10),
    st.randoms(use_true_random=False),
)
def test_the_same_trajectories_are_kept_in_whatever_order_they_lie(selection, members, random):
    group, values = map(list, zip(*members, strict=True))
    traj = batch(group)
    value, valid = torch.tensor([v or 0.0 for v in values]), torch.tensor([v is not None for v in values])
    order = list(range(len(group)))
    random.shuffle(order)
    rows = torch.tensor(order)
    shuffled = traj.select(rows)
    kept = selection({"correct": place_outcome(value, valid, traj)}, traj)
    kept_too = selection({"correct": place_outcome(value[rows], valid[rows], shuffled)}, shuffled)
    assert sorted(traj.id[kept].tolist()) == sorted(shuffled.id[kept_too].tolist())
    assert kept.tolist() == sorted(kept.tolist())
    if selection in (drop_equal_groups, pass_rate_between):  # whole groups
        assert set(traj.group[kept].tolist()).isdisjoint(set(group) - {group[i] for i in kept.tolist()})
        assert len(kept) == sum(g in {group[i] for i in kept.tolist()} for g in group)


def test_mistakes_are_named():
    traj = batch([0])
    rewards: dict[str, Channel] = {"style": place_outcome(torch.ones(1), torch.ones(1, dtype=torch.bool), traj)}
    for selection in (valid_only, *BY_GROUP):
        with pytest.raises(KeyError, match=rf"{selection.__name__}: no reward channel 'correct'; there are \['style'\]"):
            selection(rewards, traj)
    with pytest.raises(ValueError, match="k must be at least 1"):
        top_k_per_group(rewards, traj, by="style", k=0)
    with pytest.raises(ValueError, match="low must be at most high"):
        pass_rate_between(rewards, traj, by="style", low=0.9, high=0.1)
