"""Which rollouts are compared: by hand, in any order of rows, and where nothing is to be said."""

import itertools
import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.sampling.pairings import adjacent, all_pairs, best_worst, recorded_pairs, self_test_pairs
from payoff.trajectories import Channel, Trajectories, place_outcome


def rollouts(group, items=(), acted=None):
    """Rollouts of one action each."""
    n = len(group)
    return Trajectories(
        mask=torch.ones(n, 1, dtype=torch.bool) if acted is None else torch.tensor(acted)[:, None],
        length=torch.ones(n, dtype=torch.int64),
        group=torch.tensor(group, dtype=torch.int64),
        step=torch.zeros(n, 1, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, 1, dtype=torch.int64),
        id=torch.arange(n),
        items=items,
    )


def scores(*values):
    """A number for every rollout; None is no verdict."""
    value = torch.tensor([0.0 if v is None else float(v) for v in values])
    return Channel(value[:, None], torch.tensor([v is not None for v in values], dtype=torch.bool)[:, None])


def said(pairs):
    return {tuple(pair) for pair in pairs.index.tolist()}


GROUPS = [7, 2, 7, 2, 7, 2, 9]
SCORES = scores(1, 5, 3, 5, None, 4, 0)  # start 7 has 1, 3 and one unknown, start 2 has 5, 5, 4, start 9 one rollout


@pytest.mark.parametrize(
    ("pairing", "wanted"),
    [
        (best_worst, {(2, 0), (1, 5)}),  # of the equal ones the smaller id
        (adjacent, {(2, 0), (3, 5)}),  # 1 and 3 are a tie
        (all_pairs, {(2, 0), (1, 5), (3, 5)}),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_pairs_by_hand_in_any_order_of_rows(pairing, wanted):
    traj = rollouts(GROUPS)
    pairs = pairing(SCORES, traj)
    assert said(pairs) == wanted
    assert pairs.label.tolist() == [1.0] * len(wanted)
    assert pairs.weight.tolist() == [1.0] * len(wanted)
    rows = torch.tensor([6, 3, 0, 5, 2, 4, 1])
    moved = pairing(Channel(SCORES.value[rows], SCORES.valid[rows]), traj.select(rows))
    assert {tuple(rows[list(pair)].tolist()) for pair in moved.index.tolist()} == wanted


@pytest.mark.parametrize("pairing", [best_worst, adjacent, all_pairs])
def test_close_ones_are_no_pair_and_a_margin_may_be_large(pairing):
    traj = rollouts(GROUPS)
    assert said(pairing(SCORES, traj, margin=1.0)) == {(2, 0)}  # 5 and 4 differ by 1, which is not more
    nothing = pairing(SCORES, traj, margin=2.0)
    assert nothing.index.shape == (0, 2)
    assert nothing.label.shape == nothing.weight.shape == (0,)


@pytest.mark.parametrize("pairing", [best_worst, adjacent, all_pairs, recorded_pairs])
def test_what_says_nothing_gives_no_pairs(pairing):
    assert not len(pairing(scores(None, None), rollouts([1, 1])).index)
    assert not len(pairing(scores(1, 2), rollouts([1, 2])).index)
    assert not len(pairing(scores(1, 2), rollouts([1, 1], acted=[True, False])).index)
    assert not len(pairing(scores(2, 2), rollouts([1, 1])).index)
    assert not len(pairing(scores(), rollouts([])).index)


def test_all_pairs_are_all_pairs_of_uneven_groups():
    rng = torch.Generator().manual_seed(0)
    group = torch.randint(5, (23,), generator=rng).tolist()
    value = torch.randn(23, generator=rng).tolist()
    wanted = {(a, b) for a, b in itertools.permutations(range(23), 2) if group[a] == group[b] and value[a] > value[b]}
    assert said(all_pairs(scores(*value), rollouts(group))) == wanted


def test_labels_may_be_probabilities_and_ties_may_stay():
    traj = rollouts([0, 0, 0])
    pairs = all_pairs(scores(1, 3, 3), traj, labels="logistic", temperature=2.0, ties="keep")
    found = dict(zip(map(tuple, pairs.index.tolist()), pairs.label.tolist(), strict=True))
    assert found == pytest.approx({(1, 0): 1 / (1 + math.exp(-1)), (2, 0): 1 / (1 + math.exp(-1)), (1, 2): 0.5})
    hard = all_pairs(scores(1, 3, 3), traj, ties="keep")
    assert sorted(hard.label.tolist()) == [0.5, 1.0, 1.0]


def test_a_reward_at_the_end_is_not_what_pairs_are_made_of():
    traj = four_answers()
    paid = place_outcome(torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.ones(4, dtype=torch.bool), traj)
    for pairing in (best_worst, adjacent, all_pairs, recorded_pairs, self_test_pairs):
        with pytest.raises(ValueError, match="end the channel's path with `total`"):
            pairing(paid, traj)


def test_options_out_of_range_are_refused():
    traj = rollouts([0, 0])
    for pairing in (best_worst, adjacent, all_pairs):
        with pytest.raises(ValueError, match=f"{pairing.__name__}: margin must be >= 0 and temperature > 0"):
            pairing(scores(0, 1), traj, margin=-1.0)
        with pytest.raises(ValueError, match=r"got 0\.0 and 0\.0"):
            pairing(scores(0, 1), traj, temperature=0.0)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        recorded_pairs(scores(0, 1), traj, temperature=0.0)


def test_recorded_pairs_have_the_label_and_weight_of_their_row():
    items = [{"preference": 0.9, "weight": 2.0}] * 2 + [{"margin": 3.0}] * 2 + [{"preference": 0.7, "margin": None}] * 2
    traj, label = rollouts([0, 0, 1, 1, 2, 2], items), scores(1, 0, 0, 1, 1, 0)
    pairs = recorded_pairs(label, traj)
    assert pairs.index.tolist() == [[0, 1], [3, 2], [4, 5]]
    assert pairs.label.tolist() == pytest.approx([0.9, 1.0, 0.7])
    assert pairs.weight.tolist() == [2.0, 1.0, 1.0]
    soft = recorded_pairs(label, traj, temperature=2.0)
    assert soft.label.tolist() == pytest.approx([0.9, 1 / (1 + math.exp(-1.5)), 0.7])
    with pytest.raises(ValueError, match="a preference is a probability"):
        recorded_pairs(scores(1, 0), rollouts([0, 0], [{"preference": 1.2}] * 2))
    with pytest.raises(ValueError, match="weight must be a number, got 'much'"):
        recorded_pairs(scores(1, 0), rollouts([0, 0], [{"weight": "much"}] * 2))


def matrix(passed, start=0):
    """Every program (row) with every test (column) of an execution matrix."""
    items = [{"code": f"c{j}", "test": f"t{k}"} for j in range(len(passed)) for k in range(len(passed[0]))]
    return [start] * len(items), items, [cell for row in passed for cell in row]


def chosen_and_rejected(passed):
    group, items, cells = matrix(passed)
    pairs = self_test_pairs(scores(*cells), rollouts(group, items))
    return [[(items[row]["code"], items[row]["test"]) for row in pair] for pair in pairs.index.tolist()]


def test_a_hard_test_passed_beats_an_easy_test_failed():
    # c0 passes all; t2 is the hardest that it passes. c2 passes least; of t1 and t2, which it fails, t1 is the easier.
    assert chosen_and_rejected([[1, 1, 1], [1, 1, 0], [1, 0, 0]]) == [[("c0", "t2"), ("c2", "t1")]]


def test_an_invalid_run_is_not_counted():
    # Without a verdict on c0 with t2, c0 and c1 pass two each, and the hardest test passed by the first is t1.
    assert chosen_and_rejected([[1, 1, None], [1, 1, 0], [1, 0, 0]]) == [[("c0", "t1"), ("c2", "t1")]]


@pytest.mark.parametrize("cell", [0, 1, None])
def test_matrices_that_say_one_thing_give_no_pair(cell):
    assert chosen_and_rejected([[cell] * 3] * 2) == []


def test_one_program_may_be_on_both_sides():
    assert chosen_and_rejected([[1, 0]]) == [[("c0", "t0"), ("c0", "t1")]]


def test_of_valid_tests_alone_the_chosen_program_is_right_whenever_one_is():
    # All tests are right, so a right program passes all of them, and wrong ones fail at least one.
    for wrong in itertools.product([0, 1], repeat=3):
        if not all(wrong):
            assert chosen_and_rejected([list(wrong), [1, 1, 1]])[0][0][0] == "c1"


def test_starts_are_kept_apart_and_rows_may_come_in_any_order():
    first, second, third = matrix([[1, 1], [1, 0]], 3), matrix([[1, 1], [1, 1]], 4), matrix([[0, 1], [0, 0]], 5)
    group, items, cells = ([*a, *b, *c] for a, b, c in zip(first, second, third, strict=True))
    traj = rollouts(group, items)
    assert self_test_pairs(scores(*cells), traj).index.tolist() == [[1, 3], [9, 11]]
    rows = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    moved = self_test_pairs(scores(*[cells[i] for i in rows.tolist()]), traj.select(rows))
    assert {tuple(rows[pair].tolist()) for pair in moved.index} == {(1, 3), (9, 11)}
    with pytest.raises(ValueError, match="trajectory 0 has no field 'code'"):
        self_test_pairs(scores(1), rollouts([0], [{"test": "t"}]))
