"""A draft is worth the mean of what it was made into."""

import torch

from payoff.examples import four_answers
from payoff.rows import from_rows
from payoff.sampling.graded_pairs import graded_pairs
from payoff.shaping.trace_back import trace_back
from payoff.trajectories import Channel, place_outcome


def scored(parents, scores, known=None, groups=None):
    rows = [
        {"prompt": "p" if groups is None else groups[k], "response": "r", "draft": k, "revises": p} for k, p in enumerate(parents)
    ]
    traj = from_rows(rows)
    sure = torch.ones(len(rows), dtype=torch.bool) if known is None else torch.tensor(known)
    return trace_back(place_outcome(torch.tensor(scores), sure, traj), traj), traj


def totals(channel):
    return channel.value.sum(1).tolist()


def test_without_revisions_nothing_changes():
    channel, _ = scored([None] * 3, [0.0, 0.25, 1.0])
    assert totals(channel) == [0.0, 0.25, 1.0]


def test_two_levels_have_the_mean_of_means():
    # 0 -> {1, 2}, 1 -> {3, 4}, 2 -> {5}: 1 is (0 + 1)/2, 2 is 1/4, 0 is (1/2 + 1/4)/2 = 3/8
    channel, _ = scored([None, 0, 0, 1, 1, 2], [0.0, 0.125, 0.125, 0.0, 1.0, 0.25])
    assert totals(channel) == [0.375, 0.5, 0.25, 0.0, 1.0, 0.25]


def test_rows_lie_in_any_order():
    # the same tree, its leaves first: row k has the id k, so that 5 is the root
    channel, _ = scored([3, 3, 4, 5, 5, None], [0.0, 1.0, 0.25, 0.125, 0.125, 0.0])
    assert totals(channel) == [0.0, 1.0, 0.25, 0.5, 0.25, 0.375]


def test_a_revision_without_verdict_does_not_count():
    channel, _ = scored([None, 0, 0, None, 3], [0.5, 1.0, 0.0, 0.25, 1.0], known=[True, True, False, True, False])
    assert totals(channel) == [1.0, 1.0, 0.0, 0.25, 0.0]
    assert channel.valid.all(1).tolist() == [True, True, False, True, False]


def test_a_draft_without_verdict_gets_that_of_its_revisions():
    channel, _ = scored([None, 0], [0.0, 0.75], known=[False, True])
    assert totals(channel) == [0.75, 0.75]
    assert channel.valid.all()


def test_what_names_no_parent_of_its_group_has_no_verdict():
    channel, _ = scored([None, 7, 0, "x"], [0.5, 1.0, 1.0, 1.0], groups=["a", "a", "b", "a"])
    assert totals(channel) == [0.5, 0.0, 0.0, 0.0]
    assert len(channel.reasons) == 3


def test_rings_and_what_hangs_from_them_have_no_verdict():
    channel, _ = scored([1, 0, 1, None], [1.0, 1.0, 1.0, 1.0])
    assert channel.valid.all(1).tolist() == [False, False, False, True]
    assert set(channel.reasons.values()) == {"its drafts and revisions go round in a ring"}


def test_a_name_that_several_have_names_nobody():
    traj = from_rows([{"prompt": "p", "response": "r", "draft": "a"}] * 2 + [{"prompt": "p", "response": "r", "revises": "a"}])
    found = trace_back(place_outcome(torch.ones(3), torch.ones(3, dtype=torch.bool), traj), traj)
    assert found.valid.all(1).tolist() == [True, True, False]
    assert "2 rollouts of its group are called 'a'" in next(iter(found.reasons.values()))


def test_padding_is_never_read():
    traj = four_answers().replace(items=[{"draft": 0}, {"revises": 0}, {"draft": 2}, {"revises": 2}])
    value = torch.where(traj.exists, torch.tensor([[0.0], [0.5], [0.25], [1.0]]).expand(4, 3), torch.nan)
    ends = torch.arange(3) == (traj.length - 1)[:, None]
    value = torch.where(traj.exists & ~ends, 0.0, value)
    found = trace_back(Channel(value, torch.ones(4, 3, dtype=torch.bool)), traj)
    assert totals(found) == [0.5, 0.5, 1.0, 1.0]


def test_pairs_are_of_one_start_and_keep_the_three_bounds():
    scores = torch.tensor([[0.95], [0.5], [0.6], [0.0], [0.9], [0.1], [0.7], [0.2]])
    traj = from_rows([{"prompt": p, "response": "r"} for p in "aaaabbcc"])
    found = graded_pairs(Channel(scores, torch.ones(8, 1, dtype=torch.bool)), traj)
    # a: 0.95 beats 0.5, not 0.6 (too near), not 0 (hopeless); b: 0.9 beats 0.1; c: nobody is above 0.8
    assert sorted(map(tuple, found.index.tolist())) == [(0, 1), (4, 5)]
    assert found.label.tolist() == [1.0, 1.0]


def test_scores_traced_back_make_pairs_that_pass_rates_do_not():
    # raw: the draft passes nothing and is in no pair; its only revision is right, so that it is worth 1
    channel, traj = scored([None, 0, None], [0.0, 1.0, 0.5])
    raw = place_outcome(torch.tensor([0.0, 1.0, 0.5]), torch.ones(3, dtype=torch.bool), traj)
    at = lambda c: graded_pairs(Channel(c.value.sum(1, keepdim=True), torch.ones(3, 1, dtype=torch.bool)), traj).index.tolist()
    assert at(raw) == [[1, 2]]
    assert sorted(at(channel)) == [[0, 2], [1, 2]]
