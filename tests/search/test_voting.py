"""Votes: by how many, by weight, by rank; who wins a tie, and who has no vote."""

import itertools
import math
from collections import Counter

import pytest
import torch

from payoff.audit.tries import majority_distribution
from payoff.enumeration import batches
from payoff.policies.tabular import Tabular
from payoff.search.best_of_n import best_of_n
from payoff.search.voting import answer_keys, borda, majority, weighted_majority
from payoff.trajectories import Channel, Trajectories, place_outcome

NAN = float("nan")


def rows(group, lengths=None, items=()) -> Trajectories:
    group = torch.tensor(group)
    length = torch.tensor(lengths or [1] * len(group))
    exists = torch.arange(int(length.max()) if len(group) else 1) < length[:, None]
    return Trajectories(
        mask=exists,
        length=length,
        group=group,
        step=torch.where(exists, 0, -1).int(),
        stop=torch.zeros_like(length),
        actions=torch.zeros(exists.shape, dtype=torch.int64),
        items=list(items),
    )


def scored(values, traj) -> Channel:
    value = torch.tensor(values)
    known = ~value.isnan()
    return place_outcome(torch.where(known, value, 0), known, traj)


def said(answers, group=None):
    return rows(group or [0] * len(answers), items=[{"answer": a} for a in answers]).replace(id=torch.arange(len(answers)))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_over_all_groups_the_majority_has_the_distribution_of_the_vote_of_k_draws(k):
    policy = Tabular(3, 1, spread=1.0, seed=1)
    found = batches(policy, group_size=k, ordered=True)
    chosen = majority(found.traj, answer=lambda item: None if item["response"] == "c" else item["response"])
    leaf = found.traj.extras["leaf"][chosen.row]
    won = torch.zeros(3, dtype=torch.float64).index_add(0, leaf[chosen.known], found.probability[chosen.known])
    expected = majority_distribution(policy.probabilities()[:2], k)
    torch.testing.assert_close(won[:2], expected)
    assert float(won[2]) == 0


def test_the_majority_is_the_most_frequent_answer_of_each_group_by_its_first_row():
    traj = said(["x", "y", "y", "z", "z", "z"], [0, 0, 0, 1, 1, 1])
    found = majority(traj)
    assert found.row.tolist() == [1, 3]
    assert found.score.tolist() == pytest.approx([2 / 3, 1.0])


def test_equally_many_votes_go_to_the_answer_that_was_sampled_first():
    traj = said(["a", "b", "b", "a"]).replace(id=torch.tensor([9, 3, 8, 4]))
    assert majority(traj).row.tolist() == [1]


def test_the_same_answer_in_two_groups_is_not_counted_together():
    traj = said(["a", "b", "b", "a", "a"], [0, 0, 0, 1, 1])
    assert majority(traj).score.tolist() == pytest.approx([2 / 3, 1.0])
    assert answer_keys(traj, "answer")[0].tolist() == [0, 1, 1, 2, 2]


def test_rows_without_an_answer_have_no_vote_and_a_group_of_them_is_unknown():
    traj = said([None, None, "a", NAN, None, None], [0, 0, 0, 0, 1, 1])
    found = majority(traj)
    assert found.row.tolist() == [2, 4]
    assert found.known.tolist() == [True, False]
    assert found.score.tolist() == [1.0, 0.0]


def test_an_answer_may_be_anything_that_can_be_hashed_and_nothing_else():
    assert majority(said([(1, 2), (1, 2), (2, 1)])).row.tolist() == [0]
    with pytest.raises(TypeError, match="unhashable"):
        majority(said([[1], [1]]))


def test_trajectories_without_items_or_without_the_field_are_refused():
    with pytest.raises(ValueError, match="no items"):
        majority(rows([0, 0]))
    with pytest.raises(ValueError, match="no item has a field 'digit'; the first has"):
        majority(said(["a", "b"]), answer="digit")


def test_weights_add_up_by_answer_and_the_heaviest_row_stands_for_it():
    traj = said(["a", "b", "b", "c"])
    found = weighted_majority(scored([0.6, 0.3, 0.4, 0.1], traj), traj)
    assert found.row.tolist() == [2]  # b: 0.7 of 1.4, against 0.6
    assert found.score.tolist() == pytest.approx([0.5])


def test_equal_weights_are_majority_voting_and_one_overwhelming_weight_is_best_of_n():
    rng = torch.Generator().manual_seed(0)
    answers = [("a", "b", "c")[i] for i in torch.randint(3, (60,), generator=rng).tolist()]
    traj = said(answers, torch.arange(10).repeat(6).tolist())
    same = scored([0.5] * 60, traj)
    assert weighted_majority(same, traj).row.tolist() == majority(traj).row.tolist()
    confidence = torch.randperm(60, generator=rng).double()
    steep = scored((10 ** (confidence - 60)).tolist(), traj)
    assert weighted_majority(steep, traj).row.tolist() == best_of_n(steep, traj).row.tolist()


def test_weights_below_zero_are_refused_and_unknown_ones_do_not_vote():
    traj = said(["a", "a", "b"])
    assert weighted_majority(scored([NAN, NAN, 0.1], traj), traj).row.tolist() == [2]
    assert weighted_majority(scored([NAN] * 3, traj), traj).known.tolist() == [False]
    with pytest.raises(ValueError, match="at least 0, got -1 for row 2"):
        weighted_majority(scored([0.1, 0.1, -1.0], traj), traj)


def test_votes_that_are_all_zero_elect_the_first_answer_with_no_share():
    traj = said(["a", "b"])
    found = weighted_majority(scored([0.0, 0.0], traj), traj)
    assert (found.row.tolist(), found.score.tolist(), found.known.tolist()) == ([0], [0.0], [True])


@pytest.mark.parametrize(
    ("power", "winner", "share"), [(0.0, "b", 3 / 4), (1.0, "b", 6 / 10), (2.0, "a", 16 / 30), (math.inf, "a", 1)]
)
def test_borda_votes_are_powers_of_the_place_from_below(power, winner, share):
    # a alone at place 4 of 4; b at 3, 1 and 2.  power 1: 4 against 6; power 2: 16 against 9 + 1 + 4
    traj = said(["a", "b", "b", "b"])
    found = borda(scored([9.0, 5.0, 1.0, 2.0], traj), traj, power=power)
    assert traj.items[int(found.row)]["answer"] == winner
    assert float(found.score) == pytest.approx(share)


def test_power_0_is_majority_and_power_inf_the_surest_row_with_an_answer_in_every_small_group():
    names = list(itertools.product(["a", "b", None], repeat=4))
    traj = said([name for four in names for name in four], torch.arange(len(names)).repeat_interleave(4).tolist())
    confidence = scored([0.3, 0.9, 0.4, 0.8] * len(names), traj)
    answers = lambda chosen: [traj.items[row]["answer"] for row in chosen.row.tolist()]
    assert answers(borda(confidence, traj, power=0.0)) == answers(majority(traj))
    sure = borda(confidence, traj, power=math.inf)
    top = [next((row for row in (1, 3, 2, 0) if four[row] is not None), None) for four in names]
    assert sure.known.tolist() == [row is not None for row in top]
    assert (sure.row[sure.known] % 4).tolist() == [row for row in top if row is not None]


def test_a_row_without_answer_keeps_its_rank_and_one_without_verdict_has_none():
    # four verdicts: no answer 4, b 3, a 2, a 1; power 1: b 3, a 3, and b came first.  Without the fourth: b 2, a 1 (+0)
    traj = said(["b", "a", "a", None])
    assert borda(scored([3.0, 2.0, 1.0, 4.0], traj), traj, power=1.0).row.tolist() == [0]
    assert borda(scored([3.0, 2.0, 1.0, 4.0], traj), traj, power=1.0).score.tolist() == pytest.approx([0.5])
    assert borda(scored([3.0, 2.0, NAN, NAN], traj), traj, power=1.0).score.tolist() == pytest.approx([2 / 3])


def test_borda_looks_at_the_order_only_and_its_row_is_the_surest_with_that_answer():
    traj = said(["a", "b", "a", "c"])
    first = borda(scored([0.1, 0.4, 0.9, 0.2], traj), traj)
    second = borda(scored([-7.0, 11.0, 1e6, 2.0], traj), traj)
    assert first.row.tolist() == second.row.tolist() == [2]
    assert first.score.tolist() == second.score.tolist()


def test_a_power_below_zero_is_refused():
    traj = said(["a"])
    with pytest.raises(ValueError, match=r"power must be at least 0, got -1\.0"):
        borda(scored([1.0], traj), traj, power=-1.0)


def test_one_rollout_elects_itself_and_order_of_rows_changes_nothing():
    assert majority(said(["a"])).row.tolist() == [0]
    rng = torch.Generator().manual_seed(2)
    answers = [("a", "b", "c", None)[i] for i in torch.randint(4, (40,), generator=rng).tolist()]
    traj = said(answers, torch.randint(5, (40,), generator=rng).tolist())
    value = torch.rand(40, generator=rng)
    order = torch.randperm(40, generator=rng)
    moved = traj.select(order)
    for vote in (lambda t, v: majority(t), lambda t, v: borda(v, t), lambda t, v: weighted_majority(v, t)):
        one, two = vote(traj, scored(value.tolist(), traj)), vote(moved, scored(value[order].tolist(), moved))
        assert sorted(traj.id[one.row].tolist()) == sorted(moved.id[two.row].tolist())
        assert Counter(round(x, 9) for x in one.score.tolist()) == Counter(round(x, 9) for x in two.score.tolist())
