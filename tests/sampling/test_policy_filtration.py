import math

import numpy as np
import pytest
import torch

from payoff.sampling.policy_filtration import choose_filtration, filtration_weights, policy_filtration
from payoff.trajectories import Trajectories, place_outcome

STRATEGIES = ("all", "best-random", "best-worst", "best", "power")


def batch(group, first=0):
    n = len(group)
    return Trajectories(
        mask=torch.ones(n, 2, dtype=torch.bool),
        length=torch.full((n,), 2),
        group=torch.as_tensor(group),
        step=torch.zeros(n, 2, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, 2),
        id=torch.arange(first, first + n),
    )


def weights(values, strategy, group=None, **options):
    known = torch.tensor([v is not None for v in values], dtype=torch.bool)
    score = torch.tensor([v or 0.0 for v in values])
    group = torch.zeros(len(values), dtype=torch.int64) if group is None else torch.tensor(group)
    return filtration_weights(score, known, group, torch.arange(len(values)), strategy=strategy, **options).tolist()


def chosen(traj, values, **options):
    known = torch.tensor([v is not None for v in values], dtype=torch.bool)
    rewards = {"correct": place_outcome(torch.tensor([v or 0.0 for v in values]), known, traj)}
    return policy_filtration(rewards, traj, **options).tolist()


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("best-random", [0.125, 0.5, 0.125, 0.125, 0.125]),
        ("best-worst", [0.0, 0.5, 0.0, 0.5, 0.0]),
        ("best", [0.0, 1.0, 0.0, 0.0, 0.0]),
        ("all", [0.2] * 5),
        ("power", [4 / 54, 25 / 54, 9 / 54, 0.0, 16 / 54]),  # squares of 2, 5, 3, 0, 4
    ],
)
def test_weights_of_five(strategy, expected):
    assert weights([2.0, 5.0, 3.0, 0.0, 4.0], strategy) == pytest.approx(expected, abs=1e-15)


def test_weights_belong_to_the_group_and_not_to_the_batch():
    values, group = [1.0, 9.0, 3.0, 8.0, 2.0, 7.0], [4, 8, 4, 8, 4, 8]
    assert weights(values, "best-worst", group) == [0.5, 0.5, 0.5, 0.0, 0.0, 0.5]
    assert weights(values, "best-random", group) == [0.25, 0.5, 0.5, 0.25, 0.25, 0.25]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("values", [[0.1] * 5, [0.0] * 4, [-7.3] * 3, [5.0], [1e30, 1e-30, -1e30], [None, 2.0, None], [3.0, 1.0]])
def test_weights_are_a_distribution_whatever_the_rewards(strategy, values):
    found = weights(values, strategy)
    assert sum(found) == pytest.approx(1.0)
    assert min(found) >= 0
    assert all(w == 0 for w, v in zip(found, values, strict=True) if v is None)


def test_equal_scores_are_told_apart_by_their_ids():
    assert weights([0.5] * 4, "best-worst") == [0.5, 0.0, 0.0, 0.5]
    assert weights([0.5] * 4, "best") == [1.0, 0.0, 0.0, 0.0]
    assert weights([None, None], "best-random") == [0.0, 0.0]


def test_the_exponent_of_power():
    assert weights([1.0, -3.0], "power", exponent=1.0) == [0.25, 0.75]
    assert weights([1.0, -3.0], "power", exponent=0.0) == [0.5, 0.5]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_are_drawn_as_often_as_their_weights_say(strategy):
    groups, values = 3000, [2.0, 5.0, 3.0, 0.0, 4.0]
    traj = batch([g for _ in values for g in range(groups)])  # members of a group lie far apart
    rows = torch.tensor(chosen(traj, [v for v in values for _ in range(groups)], strategy=strategy))
    assert len(rows) == len(traj)
    assert torch.equal(torch.bincount(traj.group[rows]), torch.full((groups,), 5))  # each group keeps its size
    share = torch.bincount(rows // groups, minlength=5) / len(rows)
    expected = torch.tensor(weights(values, strategy))
    # five standard deviations of a share of 15,000 draws
    assert ((share - expected).abs() <= 5 * (expected * (1 - expected) / len(rows)).sqrt() + 1e-9).all()


def test_draws_of_different_rows_of_a_group_are_independent():
    groups = 4000
    rows = chosen(batch([g for g in range(groups) for _ in range(2)]), [1.0, 0.0] * groups, strategy="all")
    distinct = len(set(rows)) / (2 * groups)  # of two draws from two, 3/4 of the rows are met on average
    assert distinct == pytest.approx(0.75, abs=5 * math.sqrt(0.0625 / groups))


def test_draws_follow_from_ids_and_seed_and_not_from_where_rows_lie():
    values, group = [float(i % 7) for i in range(40)], [i % 8 for i in range(40)]
    traj = batch(group)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    for options in ({"how": "resample"}, {"how": "filter"}):
        here = sorted(traj.id[chosen(traj, values, **options)].tolist())
        moved = traj.select(order)
        assert sorted(moved.id[chosen(moved, [values[i] for i in order], **options)].tolist()) == here
        assert chosen(traj, values, **options) == chosen(traj, values, **options)
        assert chosen(traj, values, seed=1, **options) != chosen(traj, values, **options)
        assert chosen(batch(group, first=1000), values, **options) != chosen(traj, values, **options)
        assert chosen(batch([50 - g for g in group]), values, how="filter", strategy="best-worst") == chosen(
            traj, values, how="filter", strategy="best-worst"
        )


def test_filters_keep_each_row_once():
    values, group = [1.0, 9.0, 3.0, 8.0, 2.0, 7.0, None], [4, 8, 4, 8, 4, 8, 4]
    traj = batch(group)
    assert chosen(traj, values, how="filter", strategy="best-worst") == [0, 1, 2, 5]
    assert chosen(traj, values, how="filter", strategy="best") == [1, 2]
    assert chosen(traj, values, how="filter", strategy="all") == [0, 1, 2, 3, 4, 5]
    others = set()
    for seed in range(30):
        kept = chosen(traj, values, how="filter", strategy="best-random", seed=seed)
        assert len(kept) == 4
        assert {1, 2} < set(kept)
        others |= set(kept) - {1, 2}
    assert others == {0, 3, 4, 5}  # each of the others comes at some time


@pytest.mark.parametrize("how", ["resample", "filter"])
def test_a_group_of_one_keeps_its_row_and_one_without_verdicts_none(how):
    for strategy in ("best-random", "best-worst", "best", "all"):
        assert chosen(batch([7, 8, 8]), [0.0, None, None], how=how, strategy=strategy) == [0]
    assert chosen(batch([8, 8]), [None, None], how=how) == []


def test_r_squared_is_that_of_a_line_through_the_rows_drawn_as_often_as_expected():
    rng = np.random.default_rng(0)
    proxy, noise = rng.normal(size=(2, 30))
    truth = proxy + noise
    group = np.repeat(np.arange(6), 5)
    found = choose_filtration(*(torch.tensor(x) for x in (proxy, truth, np.ones(30, dtype=bool), group)))
    times = np.ones(30, dtype=int)
    for g in range(6):  # best-random of five: the best four times for each other one's once
        times[5 * g + proxy[5 * g : 5 * g + 5].argmax()] = 4
    assert found.explained["best-random"] == pytest.approx(np.corrcoef(proxy.repeat(times), truth.repeat(times))[0, 1] ** 2)
    assert found.explained["all"] == pytest.approx(np.corrcoef(proxy, truth)[0, 1] ** 2)
    assert found.best == max(found.explained, key=found.explained.get)


def test_a_proxy_without_noise_explains_everything_under_every_strategy():
    proxy = torch.randn(40, generator=torch.Generator().manual_seed(0))
    found = choose_filtration(proxy, 3 * proxy - 1, torch.ones(40, dtype=torch.bool), torch.arange(40) % 8)
    assert list(found.explained.values()) == pytest.approx([1.0] * 5)
    assert found.best is not None


def test_extremes_are_chosen_where_the_middle_is_noisy_and_verdicts_that_lack_count_for_nothing():
    rng = torch.Generator().manual_seed(0)
    truth = torch.rand(2000, generator=rng) * 2 - 1
    proxy = truth + 0.6 * (1 - truth.abs()) * torch.randn(2000, generator=rng)  # what is drawn as extreme is mostly extreme
    group, known = torch.arange(2000) % 400, torch.ones(2000, dtype=torch.bool)
    found = choose_filtration(proxy, truth, known, group, strategies=["all", "best-random", "best-worst"])
    assert found.best == "best-worst"
    more = [torch.cat([x, torch.full((5,), math.nan)]) for x in (proxy, truth)]
    unknown = torch.zeros(5, dtype=torch.bool)
    again = choose_filtration(*more, torch.cat([known, unknown]), torch.cat([group, torch.zeros(5, dtype=torch.int64)]))
    assert again.explained["best-worst"] == pytest.approx(found.explained["best-worst"])


def test_where_nothing_differs_nothing_is_explained():
    same = torch.ones(4)
    found = choose_filtration(same, torch.arange(4.0), torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.int64))
    assert found.best is None
    assert set(found.explained.values()) == {None}
    assert choose_filtration(same[:0], same[:0], same[:0] > 0, same[:0].long()).best is None


def test_mistakes_are_named():
    traj = batch([0, 0])
    with pytest.raises(ValueError, match='"power" has weights and no filter'):
        chosen(traj, [1.0, 2.0], how="filter", strategy="power")
    with pytest.raises(KeyError, match="no reward channel 'score'"):
        chosen(traj, [1.0, 2.0], by="score")
    with pytest.raises(ValueError, match="exponent must be >= 0"):
        chosen(traj, [1.0, 2.0], strategy="power", exponent=-1.0)
