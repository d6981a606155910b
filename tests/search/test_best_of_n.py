"""The best of each group: the distribution it draws from, ties, verdicts that are missing."""

import math

import pytest
import torch

from payoff.enumeration import batches, paid
from payoff.pipeline import Start
from payoff.policies.tabular import Tabular, kl_divergence
from payoff.search.best_of_n import best_of_n, leaders
from payoff.trajectories import Channel, Trajectories, place_outcome

POLICY = Tabular(2, 2, stop=1, spread=1.0, seed=3)
LEAVES = len(POLICY.probabilities())


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


@pytest.mark.parametrize("reward", [[0.3, 0.1, 0.9], [1.0, 0.0, 1.0], [2.0, 2.0, 2.0]], ids=["distinct", "tied", "constant"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_over_all_groups_the_choice_has_exactly_the_distribution_of_best_of_n(reward, n):
    table = torch.tensor(reward, dtype=torch.float64)
    assert len(table) == LEAVES
    found = batches(POLICY, group_size=n, ordered=True)  # ties go to the first, so the order matters
    chosen = best_of_n(paid({"r": table})(found.traj)["r"], found.traj)
    drawn = torch.zeros(LEAVES, dtype=torch.float64).index_add(0, found.traj.extras["leaf"][chosen.row], found.probability)
    torch.testing.assert_close(drawn, POLICY.best_of_n(table, n).detach())
    assert float(kl_divergence(drawn, POLICY.probabilities().detach())) <= math.log(n) - (n - 1) / n + 1e-12


def test_a_perfect_scorer_makes_it_right_unless_all_are_wrong_and_a_constant_one_changes_nothing():
    right = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    p = float(POLICY.probabilities().detach() @ right)
    found = batches(POLICY, group_size=4, ordered=True)
    truth = right[found.traj.extras["leaf"]]
    for reward, expected in ((right, 1 - (1 - p) ** 4), (torch.zeros_like(right), p)):
        chosen = best_of_n(paid({"r": reward})(found.traj)["r"], found.traj)
        assert float(truth[chosen.row] @ found.probability) == pytest.approx(expected, abs=1e-12)


def test_the_best_wins_a_tie_goes_to_the_least_id_and_groups_come_in_order_of_appearance():
    traj = rows([7, 3, 7, 3, 7]).replace(id=torch.tensor([14, 13, 12, 11, 10]))
    chosen = best_of_n(scored([2.0, 1.0, 2.0, 1.0, 0.0], traj), traj)
    assert chosen.row.tolist() == [2, 3]  # group 7 (ids 14, 12, 10) and then group 3 (ids 13, 11)
    assert chosen.score.tolist() == [2.0, 1.0]
    assert traj.group[chosen.row].tolist() == [7, 3]


def test_an_unknown_verdict_never_wins_and_a_group_without_any_says_so():
    traj = rows([0, 0, 1, 1, 2]).replace(id=torch.arange(5))
    chosen = best_of_n(scored([float("nan"), -5.0, float("nan"), float("nan"), float("-3")], traj), traj)
    assert chosen.row.tolist() == [1, 2, 4]
    assert chosen.known.tolist() == [True, False, True]
    assert chosen.score.tolist() == [-5.0, 0.0, -3.0]


def test_the_least_number_there_is_still_beats_no_verdict():
    traj = rows([0, 0]).replace(id=torch.arange(2))
    found = leaders(torch.tensor([float("inf"), float("-inf")]), torch.tensor([False, True]), traj)
    assert found.row.tolist() == [1]
    assert found.known.tolist() == [True]


def test_permuting_rows_and_renaming_groups_choose_the_same_rollouts():
    rng = torch.Generator().manual_seed(0)
    traj = rows(torch.randint(4, (20,), generator=rng).tolist()).replace(id=torch.arange(20))
    value = torch.randint(3, (20,), generator=rng).double()
    order = torch.randperm(20, generator=rng)
    one = leaders(value, value > 0, traj)
    moved = traj.select(order).replace(group=100 - traj.group[order] * 7)
    two = leaders(value[order], value[order] > 0, moved)
    assert sorted(traj.id[one.row].tolist()) == sorted(moved.id[two.row].tolist())


def test_padding_is_not_read_and_all_that_is_paid_counts():
    traj = rows([0, 0], [1, 3])
    value = torch.tensor([[1.0, float("nan"), float("nan")], [0.5, 0.4, 0.3]])
    chosen = best_of_n(Channel(value, torch.ones(2, 1, dtype=torch.bool)), traj)
    assert chosen.row.tolist() == [1]
    assert chosen.score.tolist() == pytest.approx([1.2])


def test_no_rollouts_give_no_choice():
    traj = rows([0, 1]).select(torch.zeros(0, dtype=torch.int64))
    assert best_of_n(Channel(torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.bool)), traj).row.tolist() == []


def test_the_choice_selects_one_answer_to_every_start():
    rng = torch.Generator().manual_seed(0)
    traj = POLICY.rollout([Start("a", {}), Start("b", {}), Start("c", {})], 5, rng)
    chosen = best_of_n(scored(torch.rand(15, generator=rng).tolist(), traj), traj)
    assert [item["start"] for item in traj.select(chosen.row).items] == ["a", "b", "c"]
