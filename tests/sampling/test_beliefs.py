import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.policies.tabular import Tabular
from payoff.sampling.beliefs import WeightedMutualInformation, mutual_information
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, place_outcome

above_zero = st.floats(0.2, 50)


def one(a: float, b: float, rollouts: int) -> float:
    return float(mutual_information(torch.tensor([a]).double(), torch.tensor([b]).double(), rollouts)[0])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("a", "b", "rollouts"), [(1.0, 1.0, 1), (2.5, 7.0, 4), (30.0, 4.0, 8)])
def test_it_is_the_entropy_of_the_outcomes_less_what_is_left_when_the_rate_is_known(a, b, rollouts):
    # I = H(S) - E_rate H(S | rate), integrated on a fine grid: another route than differences of entropies of the rate
    rate = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    density = torch.distributions.Beta(a, b).log_prob(rate.clamp(1e-12, 1 - 1e-12)).exp() / 200_000
    binomial = [math.comb(rollouts, s) * rate**s * (1 - rate) ** (rollouts - s) for s in range(rollouts + 1)]
    mixed = torch.stack([(density * p).sum() for p in binomial])
    left = sum((density * torch.xlogy(p, p)).sum() for p in binomial)
    assert one(a, b, rollouts) == pytest.approx(float(left - torch.xlogy(mixed, mixed).sum()), abs=1e-5)


def test_for_a_flat_belief_and_one_rollout_it_is_log_two_less_a_half():
    assert one(1, 1, 1) == pytest.approx(math.log(2) - 0.5, abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(above_zero, above_zero, st.integers(0, 6))
def test_it_is_symmetric_at_least_zero_and_grows_with_rollouts(a, b, rollouts):
    assert one(a, b, rollouts) == pytest.approx(one(b, a, rollouts), abs=1e-9)
    assert 0 <= one(a, b, rollouts) <= one(a, b, rollouts + 1) + 1e-12
    assert one(a, b, 0) == pytest.approx(0, abs=1e-12)


def test_with_much_evidence_one_rollout_teaches_half_of_one_over_the_evidence():
    assert one(600, 400, 1) == pytest.approx(1 / (2 * 1001), rel=1e-2)


def worth(**options):
    return lambda a, b: float(WeightedMutualInformation(**options).worth(torch.tensor([a]).double(), torch.tensor([b]).double())[0])


def test_solved_and_hopeless_starts_are_worth_nothing_in_the_limit_and_rates_near_mu_more():
    assert worth()(1e7, 1e-6) < 1e-12
    assert worth()(1e-6, 1e7) < 1e-12
    assert worth(mu=0.3)(3, 7) > worth(mu=0.3)(7, 3)
    assert worth(eta=0.0)(3, 7) == pytest.approx(worth(eta=0.0)(7, 3))
    assert worth()(1, 1) > worth()(50, 50)  # the same rate, less known


def outcomes(prompts: list[int], values: list[float | None]):
    policy, task = Tabular(3, 3), Tree(prompts=4)
    starts = [next(s for s in task.held_out_starts() if s.fields["table"] == p) for p in prompts]
    traj = policy.rollout(starts, 1, rng())
    value, valid = torch.tensor([float(v or 0) for v in values]), torch.tensor([v is not None for v in values])
    return traj, {"correct": place_outcome(value, valid, traj)}


def test_beliefs_are_the_exact_posterior_of_the_successes_seen():
    curriculum = WeightedMutualInformation(prior=(2.0, 3.0))
    curriculum.learn(*outcomes([0, 1, 0, 0, 2], [1, 0, 1, 0, None]))
    assert curriculum.beliefs == {"tree-0": (4.0, 4.0), "tree-1": (2.0, 4.0)}  # tree-2 has no verdict, and no belief


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (3.0, 7.0)])
def test_one_outcome_takes_from_the_variance_of_a_rate_what_motivates_the_weight(a, b):
    def variance(belief: tuple[float, float]) -> float:
        return belief[0] * belief[1] / (sum(belief) ** 2 * (sum(belief) + 1))

    mean, left = a / (a + b), 0.0
    for won, chance in ((1, mean), (0, 1 - mean)):
        curriculum = WeightedMutualInformation(prior=(a, b))
        curriculum.learn(*outcomes([0], [won]))
        left += chance * variance(curriculum.beliefs["tree-0"])
    assert variance((a, b)) - left == pytest.approx(mean * (1 - mean) / (a + b + 1) ** 2)


def test_old_evidence_is_forgotten_towards_the_prior():
    curriculum = WeightedMutualInformation(keep=0.5)
    for _ in range(2):
        curriculum.learn(*outcomes([0, 0], [1, 1]))
    assert curriculum.beliefs["tree-0"] == (4.0, 1.0)  # 1 -> 1 + 2 = 3 -> 1.5 + 0.5 + 2 = 4; b stays at the prior


def test_metrics_say_how_wrong_the_beliefs_were():
    found = WeightedMutualInformation().learn(*outcomes([0, 0, 1, 1], [1, 1, 1, 0]))
    assert found == {"insight/pass_rate": 0.75, "insight/error": 0.125, "insight/starts": 2.0}  # (0.5^2 + 0) / 2
    assert WeightedMutualInformation().learn(*outcomes([0], [None]))["insight/error"] is None


def test_a_pool_of_one_is_what_the_task_draws():
    task = Tree(prompts=4)
    assert [s.id for s in WeightedMutualInformation(pool=1)(task, 6, rng())] == [s.id for s in task.starts(6, rng())]


def test_fewer_starts_than_wanted_come_round_again():
    curriculum = WeightedMutualInformation()
    curriculum.beliefs = {"tree-0": (2.0, 3.0), "tree-1": (50.0, 1.0)}
    assert [s.id for s in curriculum(Tree(prompts=2), 3, rng())] == ["tree-0", "tree-1", "tree-0"]


def test_state_survives_a_checkpoint():
    curriculum, other = WeightedMutualInformation(), WeightedMutualInformation()
    curriculum.learn(*outcomes([0, 1], [1, 0]))
    other.load_state_dict(curriculum.state_dict())
    assert other.beliefs == curriculum.beliefs != {}
    assert [s.id for s in other(Tree(prompts=4), 2, rng())] == [s.id for s in curriculum(Tree(prompts=4), 2, rng())]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="keep in"):
        WeightedMutualInformation(keep=1.5)
    traj, _ = outcomes([0], [1])
    with pytest.raises(KeyError, match="no reward channel 'correct'"):
        WeightedMutualInformation().learn(traj, {"style": Channel(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))})
    with pytest.raises(ValueError, match="a and b above 0"):
        mutual_information(torch.tensor([0.0]), torch.tensor([1.0]), 1)
