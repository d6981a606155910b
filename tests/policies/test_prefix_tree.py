"""The numbering of a prefix tree, by hand, and sums through its actions against sums over selected sequences."""

import pytest
import torch

from payoff.policies.prefix_tree import PrefixTree, action_name

F64 = torch.float64


def test_numbers_of_prefixes_are_worked_by_hand():
    # K = 3 with stop action 1: the prefixes are "", "a", "c", "aa", "ac", "ca", "cc"
    tree = PrefixTree(3, 3, stop=1)
    assert tree.prefix_count == 7
    number, alive = tree.states(torch.tensor([[2, 0, 1], [0, 1, 0], [2, 2, 0]]), torch.tensor([3, 2, 3]))
    assert number.tolist() == [[0, 2, 5, 0], [0, 1, 0, 0], [0, 2, 6, 0]]
    assert alive.tolist() == [[True, True, True, False], [True, True, False, False], [True, True, True, False]]


def test_a_prefix_that_was_cut_short_is_still_open():
    tree = PrefixTree(2, 3)
    number, alive = tree.states(torch.tensor([[1, 0, 1]]), torch.tensor([2]))
    assert number.tolist() == [[0, 2, 5, 0]]
    assert alive.tolist() == [[True, True, True, False]]


@pytest.mark.parametrize(
    ("vocabulary", "horizon", "stop", "prefixes", "sequences"),
    [(2, 3, None, 7, 8), (3, 3, None, 13, 27), (3, 3, 2, 7, 15), (2, 5, 0, 5, 6), (1, 3, 0, 1, 1), (1, 3, None, 3, 1)],
)
def test_how_many_prefixes_and_sequences_there_are(vocabulary, horizon, stop, prefixes, sequences):
    # with a stop action and b = K - 1: b^d stops at each depth d < H, and b^H sequences that never stop
    tree = PrefixTree(vocabulary, horizon, stop)
    assert (tree.prefix_count, len(tree)) == (prefixes, sequences)
    edges = tree.edge[tree.exists].unique()
    assert edges.tolist() == list(range(prefixes * vocabulary))  # every action is on some sequence


def test_sequences_are_in_lexicographic_order_and_none_begins_another():
    tree = PrefixTree(3, 3, stop=0)
    listed = [tuple(row[:n]) for row, n in zip(tree.actions.tolist(), tree.length.tolist())]
    assert listed == sorted(listed)
    assert not any(a != b and b[: len(a)] == a for a in listed for b in listed)


def test_sums_through_an_action_are_over_the_sequences_that_take_it():
    tree = PrefixTree(3, 3, stop=1)
    x = torch.randn(len(tree), 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    x[~tree.exists] = torch.nan  # beyond the end nothing is read
    total, log_total = tree.through(x), tree.log_through(x)
    for row, t in tree.exists.nonzero().tolist():
        same = ((tree.actions[:, : t + 1] == tree.actions[row, : t + 1]) & tree.exists[:, : t + 1]).all(1)
        prefix, action = divmod(int(tree.edge[row, t]), 3)
        torch.testing.assert_close(total[prefix, action], x[same, t].sum())
        torch.testing.assert_close(log_total[prefix, action], x[same, t].logsumexp(0))


def test_log_sums_are_finite_for_huge_numbers_and_minus_infinity_for_nothing():
    tree = PrefixTree(2, 1)
    x = torch.tensor([[1000.0], [-torch.inf]], dtype=F64, requires_grad=True)
    found = tree.log_through(x)
    assert found.tolist() == [[1000.0, -torch.inf]]
    found[0, 0].backward()
    assert x.grad.tolist() == [[1.0], [0.0]]


def test_reward_to_go_counts_what_exists_from_each_action_on():
    tree = PrefixTree(2, 2, stop=1)  # "aa", "ab", "b"
    dense = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, torch.nan]])
    assert tree.to_go(dense).tolist() == [[3, 2], [7, 4], [5, 0]]
    assert tree.to_go(torch.tensor([1.0, 2.0, 3.0])).tolist() == [[1, 1], [2, 2], [3, 3]]


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((0, 2, None), "vocabulary must be at least 1, got 0"),
        ((2, 0, None), "horizon must be at least 1, got 0"),
        ((3, 2, 3), "stop must be an action, 0 to 2, got 3"),
        ((3, 2, -1), "stop must be an action, 0 to 2, got -1"),
        ((10, 9, None), "too many to list"),
    ],
)
def test_impossible_trees_are_refused(shape, said):
    with pytest.raises(ValueError, match=said):
        PrefixTree(*shape)


def test_actions_have_names_that_tell_them_apart():
    assert [action_name(a, 26) for a in (0, 25)] == ["a", "z"]
    assert len({action_name(a, 40) for a in range(40)}) == 40
