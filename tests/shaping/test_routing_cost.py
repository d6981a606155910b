"""Form before outcome before cost, on the scale of recent costs."""

import pytest
import torch

from payoff.shaping.routing_cost import RoutingCost
from payoff.trajectories import Rewards, Trajectories, outcome, place_outcome


def rows(n: int) -> Trajectories:
    zeros = torch.zeros(n, dtype=torch.int64)
    ones = torch.ones(n, 1, dtype=torch.bool)
    return Trajectories(ones, zeros + 1, zeros, zeros[:, None].int(), zeros, zeros[:, None], id=torch.arange(n))


def channels(traj: Trajectories, **parts: list) -> Rewards:
    known = lambda x: torch.tensor([one is not None for one in x])
    values = lambda x: torch.tensor([one or 0.0 for one in x], dtype=torch.float64)
    return {name: place_outcome(values(x), known(x), traj) for name, x in parts.items()}


def paid(shape: RoutingCost, form: list, score: list, cost: list) -> list:
    traj = rows(len(form))
    value, valid = outcome(shape(channels(traj, form=form, outcome=score, cost=cost), traj)["router-r1"], traj)
    return [v if k else None for v, k in zip(value.tolist(), valid.tolist(), strict=True)]


def test_without_alpha_it_is_the_outcome_of_what_is_well_formed():
    assert paid(RoutingCost(), [0, 0, -1, 0], [1, 0, 1, 0.5], [1, 2, 3, 4]) == [1, 0, -1, 0.5]


def test_cheapness_by_hand_and_only_for_the_right():
    # roots 0..20 in steps of 1: percentiles 1 and 19; root 10 is half way
    costs = [float(k * k) for k in range(21)]
    found = paid(RoutingCost(alpha=0.5), [0] * 21, [1] * 20 + [0], costs)
    assert found[0] == found[1] == 1
    assert found[10] == pytest.approx(0.75)
    assert found[19] == pytest.approx(0.5)
    assert found[20] == 0


def test_prices_may_be_multiplied():
    costs, right = [1.0, 5.0, 2.0, 9.0], [1, 1, 1, 1]
    a, b = (paid(RoutingCost(alpha=0.3), [0] * 4, right, [c * f for c in costs]) for f in (1, 1e6))
    assert a == pytest.approx(b)


def test_equal_costs_are_half_cheap():
    assert paid(RoutingCost(alpha=1.0), [0, 0], [1, 1], [3, 3]) == [0.5, 0.5]


def test_the_order_of_rows_in_a_batch_does_not_matter():
    a = paid(RoutingCost(alpha=0.5), [0] * 4, [1] * 4, [1, 4, 9, 25])
    assert paid(RoutingCost(alpha=0.5), [0] * 4, [1] * 4, [25, 9, 4, 1]) == pytest.approx(a[::-1])


def test_evaluation_remembers_nothing_and_a_checkpoint_all():
    shape = RoutingCost(alpha=1.0, window=4).eval()
    assert paid(shape, [0], [1], [7]) == [0.5]
    assert int(shape.count) == 0
    shape.train()
    paid(shape, [0] * 6, [1] * 6, [100, 100, 0, 1, 4, 9])  # only the last four fit
    assert shape.recent.tolist() == [0, 1, 2, 3]
    other = RoutingCost(alpha=1.0, window=4).eval()
    other.load_state_dict(shape.state_dict())
    assert paid(other, [0], [1], [1.5**2]) == [pytest.approx(0.5)]


def test_what_has_to_be_known():
    form, score, cost = [None, 0, 0, 0, -1, None], [1, None, 1, 0, None, 0], [1, 1, None, None, None, 1]
    assert paid(RoutingCost(alpha=0.5), form, score, cost) == [None, None, None, 0, -1, None]
    assert paid(RoutingCost(), form, score, cost)[2] == 1


def test_mistakes_are_named():
    traj = rows(1)
    good = channels(traj, form=[0], outcome=[1], cost=[1])
    with pytest.raises(KeyError, match="no reward channel 'cost'"):
        RoutingCost()({k: v for k, v in good.items() if k != "cost"}, traj)
    with pytest.raises(ValueError, match="already is"):
        RoutingCost(into="cost")(good, traj)
    with pytest.raises(ValueError, match="'cost' must be at least 0"):
        RoutingCost()(channels(traj, form=[0], outcome=[1], cost=[-1]), traj)
    with pytest.raises(ValueError, match="alpha must lie"):
        RoutingCost(alpha=2.0)
