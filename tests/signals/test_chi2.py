"""The chi-squared penalty row by row: size, trimming, batches, refusals. What it bounds and climbs is in tests/exact."""

import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.signals.chi2 import chi2_penalty
from payoff.trajectories import Trajectories, outcome

F64 = torch.float64


def rows(*log_ratio: float) -> Trajectories:
    n = len(log_ratio)
    old = torch.tensor(log_ratio, dtype=F64)[:, None] - 25
    return Trajectories(
        mask=torch.ones(n, 1, dtype=torch.bool),
        length=torch.ones(n, dtype=torch.int64),
        group=torch.zeros(n, dtype=torch.int64),
        step=torch.zeros(n, 1, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, 1, dtype=torch.int64),
        logp={"old": old, "ref": torch.full((n, 1), -25.0, dtype=F64)},
    )


def paid(traj: Trajectories, **options) -> list[float]:
    return outcome(chi2_penalty(traj, **options)["chi2"], traj)[0].tolist()


def test_the_root_form_divides_by_the_root_of_the_mean():
    traj = rows(math.log(3), math.log(1.5), math.log(0.5))  # excess 2, .5, -.5: mean 2/3
    assert paid(traj) == pytest.approx([-2 / (2 / 3) ** 0.5, -0.5 / (2 / 3) ** 0.5, 0.5 / (2 / 3) ** 0.5])


def test_nothing_is_divided_where_the_mean_is_not_positive():
    assert paid(rows(math.log(0.5), math.log(0.5))) == pytest.approx([0.5, 0.5])
    assert paid(rows(0.0, 0.0)) == [0, 0]


def test_small_batches_lose_nothing_and_large_ones_their_ends():
    log_ratios = [0.1] * 97 + [15.0, -15.0, 0.1]
    with_ends = torch.expm1(torch.tensor(log_ratios, dtype=F64)).mean()
    small, large = rows(*log_ratios[50:]), rows(*log_ratios)
    excess = math.expm1(0.1)
    assert paid(large)[0] == pytest.approx(-excess / excess**0.5)
    assert paid(large, trim=0.0)[0] == pytest.approx(-excess / float(with_ends) ** 0.5)
    assert abs(paid(small)[0]) < 0.01  # 50 rows: int(.5) = 0 are cut, and the one far out decides


def test_each_batch_has_a_mean_of_its_own():
    traj = rows(math.log(2), math.log(2), math.log(5), math.log(5)).replace(extras={"batch": torch.tensor([0, 0, 1, 1])})
    assert paid(traj) == pytest.approx([-1, -1, -2, -2])


def test_padding_and_what_others_wrote_are_not_read_and_far_ratios_are_cut():
    base = four_answers()
    old = torch.where(base.exists, -1.0, torch.nan)
    traj = base.replace(logp={"old": old, "ref": torch.where(base.exists, -1.5, torch.nan)})
    traj = traj.replace(mask=torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]]).bool())
    # two own actions, two, none, one
    expected = [-math.expm1(1.0), -math.expm1(1.0), 0, -math.expm1(0.5)]
    assert paid(traj, form="chi2") == pytest.approx(expected, rel=1e-5)
    assert paid(rows(24.0), form="chi2") == pytest.approx([-math.expm1(20)])


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="trim must lie in"):
        chi2_penalty(four_answers(), trim=0.5)
    with pytest.raises(ValueError, match="needs traj"):
        chi2_penalty(Trajectories(**{k: getattr(rows(0.0), k) for k in ("mask", "length", "group", "step", "stop", "actions")}))
