"""Segments are paid where they end, in any density; sums are conserved; unknown stays where it is; the scale keeps its mean."""

import math

import pytest
import torch

from payoff.credit.returns import total
from payoff.examples import four_answers
from payoff.rows import from_rows
from payoff.shaping.restored_mean import restored_mean
from payoff.signals.segment_rewards import cut, segment_reward
from payoff.trajectories import Channel, Trajectories, outcome

TEXTS = ["Yes, 3.5 is it. No: no!", "a b", "One. Two"]


def written(texts=TEXTS, width=3) -> Trajectories:
    """Responses whose tokens are `width` characters each, so that segments end inside of tokens; padding is NaN-free but odd."""
    tokens = [[text[i : i + width] for i in range(0, len(text), width)] for text in texts]
    length = torch.tensor([len(row) for row in tokens])
    position = torch.arange(int(length.max()) + 1).repeat(len(texts), 1)
    exists = position < length[:, None]
    return Trajectories(
        mask=exists,
        length=length,
        group=torch.arange(len(texts)),
        step=torch.where(exists, 0, -1).int(),
        stop=torch.zeros_like(length),
        actions=position,
        id=torch.arange(len(texts)) + 10,
        items=[{"response": text, "tokens": row, "level": 2.0} for text, row in zip(texts, tokens, strict=True)],
    )


def test_text_is_cut_where_it_says_and_ends_are_those_of_tokens():
    found = [(p.text, p.position) for p in cut(written(), "sub-sentence") if p.row == 0]
    # "Yes,| 3.5 is it.| No:| no!" in tokens of three: the comma is character 3 (token 1), the stop 14 (4), : 18 (6), ! 22 (7)
    assert found == [("Yes,", 1), ("3.5 is it.", 4), ("No:", 6), ("no!", 7)]
    assert [p.text for p in cut(written(), "sentence") if p.row == 0] == ["Yes, 3.5 is it.", "No: no!"]
    assert [(p.text, p.position) for p in cut(written(), "text")] == [(TEXTS[0], 7), (TEXTS[1], 0), (TEXTS[2], 2)]


def test_all_that_is_paid_is_the_weighted_sum_of_scores_whatever_the_density():
    traj = written()
    for segments, count in (("sub-sentence", [4, 1, 2]), ("sentence", [2, 1, 2]), ("text", [1, 1, 1])):
        paid = segment_reward(traj, score=lambda response, level: len(response) * level, segments=segments, weight=0.5)
        letters = [sum(len(p.text) for p in cut(traj, segments) if p.row == row) for row in range(3)]
        assert outcome(paid["fine-grained"], traj)[0].tolist() == letters
        ones = segment_reward(traj, score=lambda: 1.0, segments=segments, weight=1.0)["fine-grained"]
        assert outcome(ones, traj)[0].tolist() == count
    fine = segment_reward(traj, score=lambda response: "no" not in response, segments="sub-sentence", weight=0.3)["fine-grained"]
    torch.testing.assert_close(fine.value[0], torch.tensor([0.0, 0.3, 0, 0, 0.3, 0, 0.3, -0.3, 0]))


def test_the_whole_text_is_standardised_and_one_segment_is_the_reward_of_standard_rlhf():
    traj = written()
    scored = segment_reward(traj, score="repetition", segments="text", weight=1.0)["fine-grained"]  # a grader by its name
    assert scored.valid.all()
    paid = segment_reward(traj, score=lambda: 3.0, segments="text", weight=0.3, mean=-0.447, std=8.301)["fine-grained"]
    torch.testing.assert_close(total(paid, traj).value[:, 0], torch.full((3,), 0.3 * 3.447 / 8.301))


def test_segments_that_end_in_one_token_add_up_and_stored_rows_are_paid_at_their_end():
    coarse = written(width=30)
    paid = segment_reward(coarse, score=lambda: 1.0, segments="sub-sentence", weight=1.0)["fine-grained"]
    assert paid.value[:, 0].tolist() == [4, 1, 2]
    rows = from_rows([{"response": text} for text in TEXTS])
    again = segment_reward(rows, score=lambda: 1.0, segments="sub-sentence", weight=1.0)["fine-grained"]
    assert outcome(again, rows)[0].tolist() == [4, 1, 2]


def test_a_segment_without_verdict_is_unknown_where_it_ends_and_nowhere_else():
    traj = written()
    paid = segment_reward(traj, score=lambda response: None if response == "No:" else 1.0, segments="sub-sentence")["fine-grained"]
    assert (~paid.valid).nonzero().tolist() == [[0, 6]]
    assert list(paid.reasons) == [10]
    with pytest.raises(ValueError, match="std must be positive"):
        segment_reward(traj, score=lambda: 1.0, std=0.0)
    with pytest.raises(ValueError, match="have none"):
        segment_reward(traj.replace(items=[{}] * 3), score=lambda: 1.0)


def test_the_scale_becomes_one_and_the_mean_is_that_of_before():
    traj = four_answers()
    value = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) * 5 + 2
    nan = torch.where(traj.exists, value, torch.nan)
    paid = Channel(nan, torch.ones(4, 1, dtype=torch.bool))
    here, found = value[traj.exists], restored_mean(paid, traj).value[traj.exists]
    torch.testing.assert_close(found.mean(), here.mean())
    torch.testing.assert_close(found.std(correction=0), torch.tensor(1.0))
    white = restored_mean(paid, traj, keep_mean=False).value
    torch.testing.assert_close(white[traj.exists], found - here.mean())
    assert (white[~traj.exists] == 0).all()
    # The published form divides by the root of the standard deviation: what is left has a deviation of sqrt(std).
    released = restored_mean(paid, traj, keep_mean=False, form="released").value[traj.exists]
    torch.testing.assert_close(released.std(correction=0), torch.tensor(math.sqrt(float(here.std(correction=0)))))
    # Whitened advantages do not change with the scale of what is paid.
    torch.testing.assert_close(restored_mean(Channel(7 * nan, paid.valid), traj, keep_mean=False).value, white)


def test_equal_numbers_are_left_alone_and_unknown_ones_take_no_part():
    traj = four_answers()
    one = Channel(torch.full((4, 1), 0.1), torch.ones(4, 1, dtype=torch.bool))
    assert restored_mean(one, traj, keep_mean=False).value.abs().max() == 0
    some = Channel(torch.tensor([[1.0, 3.0, 9.0]]).repeat(4, 1), torch.tensor([[True, True, False]]).repeat(4, 1))
    # Known positions: 1 four times, 3 three times. mean 13/7, variance 4 * 3 * (2/7)^2 = 48/49
    found = restored_mean(some, traj).value
    assert (found[:, 2] == 0).all()
    torch.testing.assert_close(found[0, 0], torch.tensor((1 - 13 / 7) / math.sqrt(48 / 49) + 13 / 7))
