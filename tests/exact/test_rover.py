"""The premise of ROVER: acting greedily on the values of random play (card rover), where it holds and where it fails."""

import pytest
import torch

from payoff.policies.tabular import Tabular
from payoff.tasks.mdp import MDP

F64 = torch.float64


def greedy(q: torch.Tensor, policy: Tabular) -> torch.Tensor:
    """The probabilities of the sequences of the policy that takes the best action everywhere, equally good ones as often."""
    best = q >= q.amax(1, keepdim=True) - 1e-12
    return (
        Tabular(
            policy.tree.vocabulary, policy.tree.horizon, stop=policy.tree.stop, logits=torch.where(best, 0.0, -torch.inf).to(F64)
        )
        .probabilities()
        .detach()
    )


def random_values(policy: Tabular, reward: torch.Tensor) -> torch.Tensor:
    return policy.uniform().q_values(reward).detach()


@pytest.mark.parametrize("stop", [None, 0])
@pytest.mark.parametrize("seed", range(5))
def test_greedy_on_random_play_is_always_right_when_rewards_are_zero_and_one(stop, seed):
    policy = Tabular(3, 4, stop=stop)
    n = len(policy.tree)
    reward = torch.zeros(n, dtype=F64)
    reward[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:3]] = 1
    q = random_values(policy, reward)
    assert float(greedy(q, policy) @ reward) == pytest.approx(1, abs=1e-12)
    # and Q > 0 exactly where a right leaf can still be reached
    reachable = policy.tree.through(reward[:, None].expand(policy.tree.actions.shape)) > 0
    assert torch.equal(q > 1e-12, reachable)


def test_q_of_random_play_is_the_share_of_its_mass_that_is_right():
    policy = Tabular(2, 3)
    reward = torch.tensor([1, 0, 0, 0, 1, 1, 0, 1], dtype=F64)
    assert random_values(policy, reward)[0].tolist() == [0.25, 0.75]


def test_sampling_by_these_values_is_right_as_the_temperature_falls_and_keeps_every_right_branch():
    policy = Tabular(3, 3)
    reward = torch.zeros(27, dtype=F64)
    reward[[0, 13, 26]] = 1
    q = random_values(policy, reward)
    at = [Tabular(3, 3, logits=q / t).probabilities().detach() for t in (1.0, 0.1, 0.01, 0.002)]
    values = [float(p @ reward) for p in at]
    assert values == sorted(values)
    assert values[-1] > 1 - 1e-9
    assert at[-1][[0, 13, 26]].min() > 0.33


def test_any_two_values_will_do_and_three_will_not():
    policy = Tabular(2, 2)  # aa, ab, ba, bb
    q = lambda *reward: random_values(policy, torch.tensor(reward, dtype=F64))
    value = lambda *reward: float(greedy(q(*reward), policy) @ torch.tensor(reward, dtype=F64))
    # an affine map of 0 and 1: negative rewards as such do no harm
    assert value(-1, 1, -1, -1) == 1
    assert value(-5, -5, -5, -2) == -2
    # the best leaf beside a bad one loses to two middling ones: .6 where 1 can be had
    assert value(1.0, 0.0, 0.6, 0.6) == pytest.approx(0.6)
    # with three values, one of them negative: (1 - 1) / 2 = 0 against .1
    assert value(1.0, -1.0, 0.0, 0.2) == pytest.approx(0.2)


def test_with_chance_in_the_transitions_greedy_on_random_play_is_not_optimal():
    # action 0 leads to a state where one of four actions is right; action 1 to a lottery that pays with chance .4
    transition = torch.zeros(4, 4, 4, dtype=F64)
    transition[0, 0, 1] = transition[0, 2, 1] = 1
    transition[0, 1, 2] = transition[0, 3, 2] = 1
    transition[1, :, 3] = transition[2, :, 3] = transition[3, :, 3] = 1
    reward = torch.zeros_like(transition)
    reward[1, 0, 3] = 1
    reward[2, :, 3] = 0.4  # in expectation
    mdp = MDP(transition, reward, torch.tensor([1.0, 0, 0, 0], dtype=F64), 0.9)
    q = mdp.values(mdp.uniform()).q
    assert q[0].tolist() == pytest.approx([0.225, 0.36, 0.225, 0.36])
    assert mdp.optimum().q[0].tolist() == pytest.approx([0.9, 0.36, 0.9, 0.36])
