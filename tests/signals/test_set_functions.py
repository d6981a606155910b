"""Set functions: what they pay adds up to F, comes to less for more, and nothing for the same again."""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch

from payoff.examples import four_answers
from payoff.signals.set_functions import coverage, demand_coverage, information_gain
from payoff.trajectories import Trajectories, outcome

ITEMS = 5
COVERS = torch.rand(ITEMS, 7, generator=torch.Generator().manual_seed(0)).round()
ROOT = torch.randn(ITEMS, ITEMS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FUNCTIONS = {
    "coverage": partial(coverage, covers=COVERS, weights=[1.0, 2.0, 0.5, 0.0, 1.0, 3.0, 1.0]),
    "demand-coverage": partial(demand_coverage, kinds=[0, 0, 1, 1, 1], demands=[1.0, 2.0]),
    "information-gain": partial(information_gain, kernel=(ROOT @ ROOT.T).float(), noise=0.7),
}


def visits(rows: list[list[int]]) -> Trajectories:
    n, t = len(rows), max(map(len, rows))
    length = torch.tensor([len(row) for row in rows])
    at = torch.arange(t).repeat(n, 1)
    here = at < length[:, None]
    return Trajectories(
        mask=here,
        length=length,
        group=torch.arange(n),
        step=torch.where(here, at, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.tensor([row + [99] * (t - len(row)) for row in rows]),  # what lies beyond the end is no item
    )


def worth(name: str, rows: list[list[int]]) -> list[float]:
    traj = visits(rows)
    return outcome(FUNCTIONS[name](traj)[name], traj)[0].tolist()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_paid_in_all_is_a_function_of_the_set(name):
    rows = [[0, 1, 2], [2, 0, 1], [1, 1, 2, 0, 0], [0, 2, 1, 2]]
    assert worth(name, rows) == pytest.approx([worth(name, [[0, 1, 2]])[0]] * 4, abs=1e-5)
    traj = visits([[3, 3, 3]])
    again = FUNCTIONS[name](traj)[name].value[0]
    assert again[1:].abs().max() < 1e-6


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_monotone_and_submodular(name):
    sets = [list(s) for k in range(1, ITEMS + 1) for s in itertools.combinations(range(ITEMS), k)]
    of = {frozenset(s): value for s, value in zip(sets, worth(name, sets))} | {frozenset(): 0.0}
    for small, large in itertools.product(of, of):
        if small <= large:
            for item in set(range(ITEMS)) - large:
                first, later = of[small | {item}] - of[small], of[large | {item}] - of[large]
                assert first >= later - 1e-4
                assert later >= -1e-4


def test_golden_numbers():
    assert worth("coverage", [[4]])[0] == pytest.approx(float((COVERS[4] * torch.tensor([1, 2, 0.5, 0, 1, 3, 1])).sum()))
    paid = FUNCTIONS["demand-coverage"](visits([[0, 1, 2, 3, 4]]))["demand-coverage"].value[0].tolist()
    assert paid == [1, 0, 1, 1, 0]
    kernel = (ROOT @ ROOT.T)[:3, :3] / 0.7**2
    assert worth("information-gain", [[0, 1, 2]])[0] == pytest.approx(float(0.5 * torch.logdet(torch.eye(3) + kernel)), rel=1e-4)


def test_greedy_choice_reaches_its_share_of_the_best():
    sets = [list(s) for s in itertools.combinations(range(ITEMS), 2)]
    best, chosen = max(worth("coverage", sets)), list[int]()
    for _ in range(2):
        options = [[*chosen, item] for item in range(ITEMS)]
        chosen = max(options, key=lambda row: worth("coverage", [row])[0])
    assert worth("coverage", [chosen])[0] >= (1 - 1 / 2.718281828) * best


def test_items_may_come_from_the_extras_and_what_is_no_item_is_refused():
    traj = visits([[0, 1], [2, 2]])
    other = replace(traj, actions=torch.zeros(2, 2), extras={"cell": traj.actions})
    assert torch.equal(coverage(other, covers=COVERS, of="cell")["coverage"].value, coverage(traj, covers=COVERS)["coverage"].value)
    with pytest.raises(ValueError, match="whole numbers"):
        coverage(other, covers=COVERS)
    with pytest.raises(ValueError, match=r"items must lie in 0\.\.1"):
        coverage(traj, covers=COVERS[:2])
    with pytest.raises(ValueError, match="7 numbers of at least 0"):
        coverage(traj, covers=COVERS, weights=[-1.0] * 7)
    with pytest.raises(ValueError, match="demands must be"):
        demand_coverage(traj, kinds=[0, 1, 2], demands=[1.0])
    with pytest.raises(ValueError, match="positive noise"):
        information_gain(four_answers(), kernel=torch.eye(3), noise=0.0)
