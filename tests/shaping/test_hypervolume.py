import itertools
import math

import pytest
import torch

from payoff.advantages.group import grpo
from payoff.advantages.group import leave_one_out as rloo
from payoff.contents import learners
from payoff.credit.returns import total
from payoff.examples import four_answers
from payoff.pipeline import weigh
from payoff.shaping.hypervolume import HypervolumeMixing, hypervolume
from payoff.trajectories import place_outcome

SURE = torch.ones(4, dtype=torch.bool)


def paid(values, known=SURE):
    return place_outcome(torch.tensor(values), known, four_answers())


def by_inclusion_and_exclusion(points, reference):
    """The union of the boxes from the reference to each point, by the volumes of all intersections."""
    excess = (points - reference).clamp(min=0)  # a point below the reference anywhere has a box without volume
    volume = 0.0
    for size in range(1, len(points) + 1):
        for some in itertools.combinations(range(len(points)), size):
            volume -= (-1) ** size * float(excess[list(some)].amin(0).prod())
    return volume


def test_known_volumes():
    zero = torch.zeros(2)
    assert hypervolume(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), zero) == 3.0
    assert hypervolume(torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]]), zero) == 3.0  # one more, dominated
    assert hypervolume(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), zero) == 2.0
    assert hypervolume(torch.tensor([[3.0], [5.0], [-1.0]]), torch.ones(1)) == 4.0
    # Two bars 2 long and 1 thick that cross in a unit cube: 2 + 2 - 1.
    assert hypervolume(torch.tensor([[2.0, 1.0, 1.0], [1.0, 2.0, 1.0]]), torch.zeros(3)) == 3.0
    assert hypervolume(torch.zeros(0, 2), zero) == 0.0


def test_points_that_are_not_above_the_reference_everywhere_count_for_nothing():
    points = torch.tensor([[5.0, -1.0], [5.0, 0.0], [1.0, 1.0]])
    assert hypervolume(points, torch.zeros(2)) == 1.0
    assert hypervolume(points[:2], torch.zeros(2)) == 0.0


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_it_is_the_volume_by_inclusion_and_exclusion(objectives):
    rng = torch.Generator().manual_seed(objectives)
    for size in (1, 2, 5, 7):
        points = torch.randint(-1, 6, (size, objectives), generator=rng).double() / 2  # ties, and points below the reference
        points = points + torch.rand(size, objectives, generator=rng, dtype=torch.float64) * (size == 7)
        reference = torch.full((objectives,), 0.25, dtype=torch.float64)
        assert hypervolume(points, reference) == pytest.approx(by_inclusion_and_exclusion(points, reference))


def test_points_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="must be finite"):
        hypervolume(torch.tensor([[math.inf, 1.0]]), torch.zeros(2))


def test_the_factor_follows_the_ground_that_was_gained():
    mixing = HypervolumeMixing({"a": 1.0, "b": 1.0})
    assert mixing.observe({"a": 1.0, "b": 1.0}) == 1.0  # where the untouched policy stands: the reference
    # (2, 3) dominates 1 x 2 of the plane above (1, 1)
    assert mixing.observe({"a": 2.0, "b": 3.0}) == pytest.approx(0.5 + 1.5 * math.tanh(2.0))
    assert mixing.observe({"a": 2.0, "b": 2.0}) == 0.5  # dominated
    # (3, 2) dominates 2 x 1, of which 1 x 1 is new
    assert mixing.observe({"a": 3.0, "b": 2.0}) == pytest.approx(0.5 + 1.5 * math.tanh(1.0))
    assert mixing.volume == 3.0
    assert mixing.observe({"a": 9.0, "b": 0.9}) == 0.5  # below the reference in one
    assert mixing.observe({"a": 99.0, "b": 99.0}) <= 2.0
    assert len(mixing.front) == 1  # which dominates all before it


def test_a_reward_with_a_negative_weight_is_one_to_lower():
    mixing = HypervolumeMixing({"right": 1.0, "length": -0.1}, reference={"right": 0.0, "length": 10.0})
    assert mixing.observe({"right": 1.0, "length": 12.0}) == 0.5
    assert mixing.observe({"right": 1.0, "length": 9.0}) == pytest.approx(0.5 + 1.5 * math.tanh(1.0))


def test_the_next_batch_is_weighed_by_what_this_one_gained():
    mixing = HypervolumeMixing({"a": 1.0, "b": 2.0}, reference={"a": 0.0, "b": 0.0})
    ends = {"a": paid([1.0] * 4), "b": paid([0.0, 1.0, 0.0, 1.0])}
    assert mixing(ends, four_answers()).value.sum(1).tolist() == [1.0, 3.0, 1.0, 3.0]
    metrics = mixing.learn(four_answers(), ends)  # means 1 and 1/2
    m = 0.5 + 1.5 * math.tanh(0.5)
    assert metrics == {"meta_reward": pytest.approx(m), "hypervolume": 0.5}
    assert mixing(ends, four_answers()).value.sum(1).tolist() == pytest.approx([m, 3 * m, m, 3 * m])


def test_an_update_that_knows_nothing_of_a_reward_changes_nothing():
    mixing = HypervolumeMixing({"a": 1.0, "b": 1.0}, reference={"a": 0.0, "b": 0.0})
    metrics = mixing.learn(four_answers(), {"a": paid([1.0] * 4), "b": paid([1.0] * 4, ~SURE)})
    assert metrics == {"meta_reward": 1.0, "hypervolume": 0.0}
    mixing.learn(four_answers(), {"a": paid([1.0, 9.0, 9.0, 9.0], SURE & (torch.arange(4) == 0)), "b": paid([1.0] * 4)})
    assert mixing.front == [[1.0, 1.0]]


def test_a_window_takes_the_mean_of_the_last_updates():
    mixing = HypervolumeMixing({"a": 1.0}, reference={"a": 0.0}, window=2)
    mixing.observe({"a": 4.0})
    mixing.observe({"a": -2.0})  # mean 1, where 4 was already seen
    assert mixing.volume == 4.0
    assert mixing.factor == 0.5
    assert mixing.observe({"a": 12.0}) == pytest.approx(0.5 + 1.5 * math.tanh(1.0))  # mean of -2 and 12


def test_the_factor_vanishes_under_an_advantage_divided_by_its_spread_and_only_there():
    rewards = {"a": paid([1.0, 0.0, 3.0, 0.5]), "b": paid([0.2, 0.1, 0.0, 0.5])}
    mixing = HypervolumeMixing({"a": 1.0, "b": 1.0}, reference={"a": -1.0, "b": -1.0})
    divided = weigh({"a": [total], "b": [total]}, mix=mixing, then=[grpo])
    undivided = weigh({"a": [total], "b": [total]}, mix=mixing, then=[rloo])
    assert learners(divided) == [mixing]
    before = [target(rewards, four_answers()).value for target in (divided, undivided)]
    mixing.learn(four_answers(), rewards)
    m = mixing.factor
    assert m > 1.5
    after = [target(rewards, four_answers()).value for target in (divided, undivided)]
    assert torch.allclose(after[0], before[0], atol=1e-3)
    assert torch.allclose(after[1], m * before[1])


def test_state_comes_back():
    one, two = (HypervolumeMixing({"a": 1.0, "b": 1.0}, window=2) for _ in range(2))
    for a, b in ((0.0, 0.0), (1.0, 2.0), (2.0, 1.0)):
        one.observe({"a": a, "b": b})
    two.load_state_dict(one.state_dict())
    assert (two.factor, two.volume) == (one.factor, one.volume)
    assert two.observe({"a": 3.0, "b": 3.0}) == one.observe({"a": 3.0, "b": 3.0})
    assert two.front == one.front


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no weights"):
        HypervolumeMixing({})
    with pytest.raises(ValueError, match="window must be at least 1"):
        HypervolumeMixing({"a": 1.0}, window=0)
    with pytest.raises(ValueError, match=r"odd: \['b'\]"):
        HypervolumeMixing({"a": 1.0}, reference={"a": 0.0, "b": 0.0})
    with pytest.raises(ValueError, match=r"odd: \['b'\]"):
        HypervolumeMixing({"a": 1.0})({"a": paid([1.0] * 4), "b": paid([1.0] * 4)}, four_answers())
    with pytest.raises(KeyError, match="no reward channel 'a'"):
        HypervolumeMixing({"a": 1.0}).learn(four_answers(), {})
