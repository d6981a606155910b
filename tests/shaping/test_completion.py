"""The simple reward of CaRL: it telescopes, its factors scale, and a mistake ends it."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.shaping.completion import linger, simple_reward
from payoff.trajectories import Channel, Trajectories, outcome

SURE = torch.ones(4, 1, dtype=torch.bool)
ROUTE = torch.tensor([[20.0, 50.0, 100.0], [5.0, 30.0, 30.0], [0.0, 0.0, 0.0], [40.0, 40.0, 40.0]])


def paid(traj: Trajectories | None = None, **parts) -> Channel:
    soft = {k: v for k, v in parts.items() if k in ("lane", "speed")}
    hard = {k: v for k, v in parts.items() if k in ("crash", "off_road")}
    rewards = {k: v if isinstance(v, Channel) else Channel(v, SURE) for k, v in parts.items()}
    rewards.setdefault("completion", Channel(ROUTE, SURE))
    costs = {name: {"crash": 1.0, "off_road": 0.0}[name] for name in hard}
    return simple_reward(rewards, traj or four_answers(), soft=list(soft), hard=costs)["simple"]


def flags(*places: tuple[int, int]) -> torch.Tensor:
    flag = torch.zeros(4, 3)
    for place in places:
        flag[place] = 1
    return flag


def test_undisturbed_it_adds_up_to_what_is_completed():
    total, known = outcome(paid(), four_answers())
    assert known.all()
    assert total.tolist() == [100, 30, 0, 40]  # standing still earns nothing; lengths 3, 2, 3, 1


def test_soft_factors_scale_what_a_step_completes_and_never_its_sign():
    lane, speed = torch.full((4, 3), 0.5), torch.tensor([[1.0, 0.5, 0.0]] * 4)
    value = paid(lane=lane, speed=speed).value
    assert value.tolist() == [[10, 7.5, 0], [2.5, 6.25, 0], [0, 0, 0], [20, 0, 0]]


def test_a_hard_infraction_takes_what_was_left_and_costs_its_penalty():
    # the crash of row 0 happens in its second step, at completion 20: nothing more is completed and 1 is paid for it
    assert paid(crash=flags((0, 1))).value[0].tolist() == [20, -1, 0]
    assert paid(off_road=flags((0, 1))).value[0].tolist() == [20, 0, 0]
    assert paid(off_road=flags((0, 1)), crash=flags((0, 2))).value[0].tolist() == [20, 0, 0]  # it had already ended
    assert paid(off_road=flags((0, 1)), crash=flags((0, 1))).value[0].tolist() == [20, -1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_no_trajectory_gets_more_than_it_completes(seed):
    rng = torch.Generator().manual_seed(seed)
    route = torch.rand(4, 3, generator=rng).cumsum(1)
    soft, hard = torch.rand(4, 3, generator=rng), (torch.rand(4, 3, generator=rng) < 0.3).float()
    total, _ = outcome(paid(completion=route, lane=soft, crash=hard), four_answers())
    last = route.gather(1, four_answers().length[:, None] - 1)[:, 0]
    assert (total <= last + 1e-6).all()


def test_a_step_of_several_positions_is_judged_once():
    traj = four_answers().replace(step=torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]]).int())
    value = paid(traj, lane=torch.tensor([[0.0, 1.0, 1.0]] * 4), crash=flags((2, 1))).value
    # row 0: completion 50 at the end of its first step, 100 at the end; row 2 crashes early in its second step
    assert value.tolist() == [[0, 50, 50], [0, 30, 0], [0, 0, -1], [0, 0, 0]]


def test_what_is_unknown_before_the_end_is_unknown_and_after_it_worth_nothing():
    valid = torch.tensor([[True, False, True]] * 4)
    broken = Channel(torch.where(valid, 1.0, torch.nan), valid, {0: "sensor"})
    value, known, reasons = paid(lane=broken)
    assert (known | ~four_answers().exists)[:2].tolist() == [[True, False, True], [True, False, True]]
    assert value.isfinite().all()
    assert reasons == {0: "sensor"}
    ended = paid(lane=broken, crash=flags((0, 0)))
    assert ended.valid[0].all()
    assert ended.value[0].tolist() == [-1, 0, 0]


def test_nothing_beyond_the_end_is_read():
    beyond = ~four_answers().exists
    dirty = {name: torch.ones(4, 3).masked_fill(beyond, torch.nan) for name in ("lane", "crash")}
    route = ROUTE.masked_fill(beyond, torch.nan)
    clean = paid(lane=torch.ones(4, 3), crash=torch.ones(4, 3)).value
    assert torch.equal(paid(completion=route, **dirty).value, clean)


def test_bad_parts_are_refused():
    with pytest.raises(ValueError, match="decreases in trajectory 0"):
        paid(completion=torch.tensor([[3.0, 2.0, 1.0]] * 4))
    with pytest.raises(ValueError, match="must lie in"):
        paid(lane=torch.full((4, 3), 1.5))
    with pytest.raises(KeyError, match="no reward channel 'completion'"):
        simple_reward({}, four_answers())


def test_a_low_factor_lingers():
    factor = Channel(torch.tensor([[0.5, 1.0, 1.0], [1.0, 0.25, 1.0], [1.0, 0.25, 1.0], [0.5, 1.0, 1.0]]), SURE)
    two = linger(factor, four_answers(), steps=2)
    assert two.value.tolist() == [[0.5, 0.5, 1], [1, 0.25, 0], [1, 0.25, 0.25], [0.5, 0, 0]]
    assert torch.equal(linger(factor, four_answers(), steps=1).value, torch.where(four_answers().exists, factor.value, 0))
    assert linger(factor, four_answers(), steps=500).value[0].tolist() == [0.5, 0.5, 0.5]
    valid = torch.tensor([[False, True, True]] * 4)
    assert linger(Channel(factor.value, valid), four_answers(), steps=2).valid[0].tolist() == [False, False, True]
    with pytest.raises(ValueError, match="steps must be at least 1"):
        linger(factor, four_answers(), steps=0)
