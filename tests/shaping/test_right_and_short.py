"""Length rewards that look at the answer: by hand, against TRL, at their edges."""

import math

import pytest
import torch

from payoff.shaping.right_and_short import cosine_length, efficient_groups, truncate
from payoff.trajectories import Channel, StopReason, Trajectories, outcome, place_outcome

F64 = torch.float64


def of_lengths(lengths: list[int], groups: list[int] | None = None, stop: list[int] | None = None) -> Trajectories:
    length = torch.tensor(lengths)
    mask = torch.arange(max(lengths)) < length[:, None]
    n = len(lengths)
    return Trajectories(
        mask=mask,
        length=length,
        group=torch.tensor(groups or [0] * n),
        step=torch.where(mask, 0, -1).int(),
        stop=torch.tensor(stop or [0] * n),
        actions=torch.zeros(mask.shape),
        id=torch.arange(n),
    )


def answers(traj: Trajectories, *paid: float, known: list[bool] | None = None, reasons=None) -> Channel:
    return place_outcome(torch.tensor(paid, dtype=F64), torch.tensor(known or [True] * len(paid)), traj, reasons)


def paid(shaped: Channel, traj: Trajectories) -> list[float]:
    return outcome(shaped, traj)[0].tolist()


# --- cosine


def test_the_cosine_goes_from_the_first_end_to_the_second():
    traj = of_lengths([1, 2, 3, 4, 9])
    # cos(pi/4) = .70711: (1 + .70711)/2 = .85355; half way 1/2; cos(3 pi/4): .14645; then 0
    shares = [0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4, 0, 0]
    assert paid(cosine_length(answers(traj, *[1] * 5), traj, limit=4, right=(2.0, 1.0)), traj) == pytest.approx(
        [1 + s for s in shares]
    )
    assert paid(cosine_length(answers(traj, *[0] * 5), traj, limit=4, wrong=(-10.0, 0.0)), traj) == pytest.approx(
        [-10 * s for s in shares]
    )


def test_reaching_the_limit_can_cost_extra_right_or_wrong():
    traj = of_lengths([3, 4, 5])
    found = paid(cosine_length(answers(traj, 1, 1, 0), traj, limit=4, at_limit=-10.0), traj)
    assert found[0] > 0
    assert found[1:] == [-10, -10]


@pytest.mark.slow
def test_the_cosine_is_that_of_trl():
    from trl.rewards import get_cosine_scaled_reward

    options = {"min_value_wrong": -0.9, "max_value_wrong": -0.3, "min_value_correct": 0.4, "max_value_correct": 1.1, "max_len": 7}
    lengths, said = [1, 3, 6, 7, 8, 20, 1, 3, 6, 7, 8, 20], ["5"] * 6 + ["6"] * 6
    theirs = get_cosine_scaled_reward(**options)(
        completions=[[{"role": "assistant", "content": f"\\boxed{{{one}}}"}] for one in said],
        solution=["\\boxed{5}"] * 12,
        completion_ids=[[0] * n for n in lengths],
    )
    traj = of_lengths(lengths)
    right = answers(traj, *[float(one == "5") for one in said])
    assert paid(cosine_length(right, traj, limit=7, right=(1.1, 0.4), wrong=(-0.9, -0.3)), traj) == pytest.approx(theirs)


# --- truncation


def test_only_what_is_finished_within_the_limit_counts():
    cut, done = StopReason.truncated, StopReason.finished
    traj = of_lengths([4, 5, 3, 2], stop=[done, done, cut, done])
    assert paid(truncate(answers(traj, 1, 1, 1, 0.5), traj, limit=4), traj) == [1, 0, 0, 0.5]


def test_a_group_that_is_half_right_within_the_long_limit_gets_the_short_one():
    # group 0: right within 6 are two of four; group 1: one of three, because the rollout of 7 is cut
    traj = of_lengths([2, 5, 3, 4, 5, 7, 4], groups=[0, 0, 0, 0, 1, 1, 1])
    shaped = truncate(answers(traj, 1, 1, 0, 0, 1, 1, 0), traj, limit=6, easy_limit=4)
    assert paid(shaped, traj) == [1, 0, 0, 0, 1, 0, 0]


def test_the_difficulty_is_taken_over_those_who_are_known():
    traj = of_lengths([5, 2, 2], groups=[0, 0, 0])
    shaped = truncate(answers(traj, 1, 0, 0, known=[True, True, False]), traj, limit=6, easy_limit=4)
    assert paid(shaped, traj)[0] == 0  # one of two, not one of three
    assert paid(truncate(answers(traj, 1, 0, 0), traj, limit=6, easy_limit=4), traj)[0] == 1


def test_a_cut_rollout_is_known_to_have_nothing_and_the_unknown_stays_unknown():
    traj = of_lengths([5, 2])
    shaped = truncate(answers(traj, 1, 1, known=[False, False], reasons={0: "hung", 1: "hung too"}), traj, limit=4)
    assert outcome(shaped, traj)[1].tolist() == [True, False]
    assert paid(shaped, traj) == [0, 0]
    assert shaped.reasons == {1: "hung too"}


def test_step_rewards_of_a_cut_rollout_are_cut_too_and_others_stay_where_they_were():
    traj = of_lengths([3, 2])
    steps = Channel(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, torch.nan]]), torch.ones(2, 1, dtype=torch.bool))
    assert truncate(steps, traj, limit=2).value[:, :2].tolist() == [[0, 0], [4, 5]]


def test_an_endless_limit_changes_nothing():
    traj = of_lengths([1, 4, 2])
    reward = answers(traj, 1, 0, 1)
    assert paid(truncate(reward, traj, limit=10**9), traj) == [1, 0, 1]


# --- efficiency only where it is affordable


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_the_best_solved_group_is_charged_by_the_lengths_of_its_right_answers():
    # group 0 all right: lengths 1, 3, mean 2, std 1; group 1: half right
    traj = of_lengths([1, 3, 9, 9], groups=[0, 0, 1, 1])
    found = paid(efficient_groups(answers(traj, 1, 1, 1, 0), traj, share=0.5, strength=0.6), traj)
    assert found == pytest.approx([1 - 0.6 * sigmoid(-1), 1 - 0.6 * sigmoid(1), 1, 0])


def test_wrong_answers_neither_pay_nor_move_the_mean():
    traj = of_lengths([1, 3, 100, 7])
    with_wrong = paid(efficient_groups(answers(traj, 1, 1, 0, 0), traj, share=1.0), traj)
    assert with_wrong == pytest.approx([1 - 0.6 * sigmoid(-1), 1 - 0.6 * sigmoid(1), 0, 0])


def test_no_share_is_the_plain_reward_and_equal_lengths_cost_half():
    traj = of_lengths([2, 2, 5], groups=[0, 0, 1])
    reward = answers(traj, 1, 1, 1)
    assert paid(efficient_groups(reward, traj, share=0.0), traj) == [1, 1, 1]
    assert paid(efficient_groups(reward, traj, share=1.0), traj) == pytest.approx([0.7, 0.7, 0.7])


def test_lengths_may_be_scaled_and_shifted():
    reward = (1, 1, 1, 0)
    first, second = of_lengths([1, 2, 5, 3]), of_lengths([5, 8, 17, 11])  # 3 L + 2
    a = paid(efficient_groups(answers(first, *reward), first, share=1.0), first)
    b = paid(efficient_groups(answers(second, *reward), second, share=1.0), second)
    assert a == pytest.approx(b)


@pytest.mark.parametrize(("share", "charged"), [(0.1, 3), (0.2, 6), (0.21, 7), (1.0, 30)])
def test_the_number_of_groups_is_the_share_rounded_up_without_rounding_errors(share, charged):
    traj = of_lengths([1] * 30, groups=list(range(30)))
    found = paid(efficient_groups(answers(traj, *[1] * 30), traj, share=share), traj)
    assert sum(x < 1 for x in found) == charged
    assert all(x < 1 for x in found[:charged])  # equally good groups: the least ids first


def test_every_right_answer_stays_above_every_wrong_one():
    traj = of_lengths([1, 2, 50, 1, 1], groups=[0, 0, 0, 0, 1])
    found = paid(efficient_groups(answers(traj, 1, 1, 1, 0, 0), traj, share=1.0, strength=0.9), traj)
    assert min(found[:3]) > 0.1 - 1e-9
    assert found[3:] == [0, 0]


def test_groups_without_a_verdict_are_not_counted_and_unknown_rows_change_nothing():
    traj = of_lengths([1, 3, 2, 2, 8], groups=[0, 0, 1, 2, 0])
    reward = answers(traj, 1, 1, 1, 0, 1, known=[True, True, False, True, False])
    shaped = efficient_groups(reward, traj, share=0.5)
    assert outcome(shaped, traj)[1].tolist() == [True, True, False, True, False]
    assert paid(shaped, traj) == pytest.approx([1 - 0.6 * sigmoid(-1), 1 - 0.6 * sigmoid(1), 0, 0, 0])


def test_batches_that_are_enumerated_side_by_side_choose_their_own_groups():
    one = of_lengths([1, 3, 9, 9], groups=[0, 0, 1, 1])
    alone = paid(efficient_groups(answers(one, 1, 1, 1, 0), one, share=0.5), one)
    both = of_lengths([1, 3, 9, 9] * 2, groups=[0, 0, 1, 1] * 2)
    both = both.replace(extras={"batch": torch.tensor([0] * 4 + [1] * 4)})
    assert paid(efficient_groups(answers(both, *[1, 1, 1, 0] * 2), both, share=0.5), both) == pytest.approx(alone * 2)


def test_the_order_of_rows_does_not_matter():
    traj = of_lengths([1, 3, 9, 4, 2], groups=[5, 5, 2, 2, 9])
    reward = (1.0, 1.0, 1.0, 1.0, 1.0)
    rows = torch.tensor([3, 0, 4, 2, 1])
    mixed = traj.select(rows)
    straight = paid(efficient_groups(answers(traj, *reward), traj, share=0.5), traj)
    assert paid(efficient_groups(answers(mixed, *reward), mixed, share=0.5), mixed) == pytest.approx([straight[i] for i in rows])


@pytest.mark.parametrize(
    "shape", [lambda c, t: cosine_length(c, t, limit=4), truncate, lambda c, t: efficient_groups(c, t, share=1.0)]
)
def test_padding_is_never_read(shape):
    traj = of_lengths([4, 2, 3])
    value = torch.where(traj.exists, torch.rand(3, 4, generator=torch.Generator().manual_seed(1)), torch.nan)
    known = torch.ones(3, 1, dtype=torch.bool)
    dirty, clean = (outcome(shape(Channel(x, known), traj), traj)[0] for x in (value, value.nan_to_num(7)))
    assert torch.equal(dirty, clean)


def test_mistakes_are_named():
    traj = of_lengths([1])
    reward = answers(traj, 1)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        cosine_length(reward, traj, limit=0)
    with pytest.raises(ValueError, match="two numbers each"):
        cosine_length(reward, traj, right=(1.0,))
    with pytest.raises(ValueError, match="1 <= easy_limit <= limit"):
        truncate(reward, traj, limit=3, easy_limit=4)
    with pytest.raises(ValueError, match="easy is a share"):
        truncate(reward, traj, limit=3, easy_limit=2, easy=1.5)
    with pytest.raises(ValueError, match="share and strength"):
        efficient_groups(reward, traj, share=1.1)
