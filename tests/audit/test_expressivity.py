"""Which orders of policies a Markov reward can express (card expressivity-hasse): a reward or a proof, checked both ways."""

import itertools

import pytest
import torch

from payoff.audit.expressivity import Expressibility, markov_expressible, ordering
from payoff.tasks.mdp import MDP, random_mdp

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def proved(found: Expressibility, occupancies: torch.Tensor, strict, ties=()) -> bool:
    """Whether it is expressible, after checking what is given as proof."""
    flat = occupancies.reshape(len(occupancies), -1)
    gaps = lambda pairs: torch.stack([flat[i] - flat[j] for i, j in pairs]) if pairs else flat[:0]
    if found.reward is not None:
        assert float((gaps(strict) @ found.reward.flatten()).min()) >= found.margin - 1e-12 > 0
        if ties:
            assert float((gaps(ties) @ found.reward.flatten()).abs().max()) < 1e-8
        return True
    assert (found.strict >= 0).all()
    assert float(found.strict.sum()) == pytest.approx(1)
    sums = found.strict @ gaps(strict) + (found.ties @ gaps(ties) if ties else 0)
    assert float(sums.abs().max()) < 1e-9
    return False


def unmoved_states() -> tuple[MDP, torch.Tensor]:
    """Two states, two actions, transitions that no action influences; the four deterministic policies 11, 12, 21, 22."""
    transition = torch.full((2, 2, 2), 0.5, dtype=F64)
    mdp = MDP(transition, torch.zeros(2, 2, 2, dtype=F64), torch.tensor([0.5, 0.5], dtype=F64), 0.9)
    return mdp, torch.stack([mdp.occupancy(p) for p in mdp.deterministic_policies()])


def test_the_same_action_everywhere_is_no_markov_reward():
    _, occupancies = unmoved_states()
    # J(11) + J(22) = J(12) + J(21) whatever is paid
    torch.testing.assert_close(occupancies[0] + occupancies[3], occupancies[1] + occupancies[2])
    strict = [(i, j) for i in (0, 3) for j in (1, 2)]
    found = markov_expressible(occupancies, strict)
    assert not proved(found, occupancies, strict)
    # a function of the whole trajectory, or of the policy's returns, expresses it: (J(1 in state 0) - J(1 in state 1))^2, say
    one = (occupancies[:, 0, 0] - occupancies[:, 1, 0]).square()
    assert max(one[0], one[3]) < min(one[1], one[2])


@pytest.mark.parametrize("seed", range(5))
def test_an_order_that_some_reward_makes_is_found_expressible_and_in_the_same_order(seed):
    mdp = random_mdp(3, 2, seed=seed)
    policies = list(mdp.deterministic_policies())
    occupancies = torch.stack([mdp.occupancy(p) for p in policies])
    strict, ties = ordering(torch.stack([mdp.worth(p) for p in policies]))
    found = markov_expressible(occupancies, strict, ties=ties)
    assert proved(found, occupancies, strict, ties)
    worth = torch.stack([mdp.worth(p, found.reward) for p in policies])
    assert ordering(worth)[0] == strict


def test_rewards_that_read_the_next_state_order_nothing_more():
    mdp = random_mdp(3, 2, seed=1)
    policy = normal(3, 2, seed=4).softmax(1)
    reward = normal(3, 2, 3, seed=5)
    torch.testing.assert_close(mdp.worth(policy, reward), mdp.worth(policy, mdp.expected_reward(reward)))


def test_orders_are_rarely_expressible_once_there_are_more_policies_than_numbers_in_a_reward():
    mdp = random_mdp(2, 2, seed=3)  # occupancies have 2 (2 - 1) = 2 free dimensions
    shares = []
    for count in (3, 5, 7):
        answers = []
        for seed in range(12):
            policies = normal(count, 2, 2, seed=100 * count + seed).softmax(2)
            occupancies = torch.stack([mdp.occupancy(p) for p in policies])
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
            strict = list(itertools.pairwise(order))
            answers.append(proved(markov_expressible(occupancies, strict), occupancies, strict))
        shares.append(sum(answers) / len(answers))
    assert shares[0] == 1 or shares[0] > 0.9  # three policies in two dimensions: independent but for luck
    assert shares[0] >= shares[1] >= shares[2]
    assert shares[2] < 0.3


def test_cycles_and_ties_that_contradict_are_proved_impossible():
    _, occupancies = unmoved_states()
    strict = [(0, 1), (1, 2), (2, 0)]
    found = markov_expressible(occupancies, strict)
    assert not proved(found, occupancies, strict)
    assert found.strict.tolist() == pytest.approx([1 / 3] * 3)
    strict, ties = [(0, 1)], [(0, 2), (2, 1)]
    assert not proved(markov_expressible(occupancies, strict, ties=ties), occupancies, strict, ties)


def test_ties_alone_beside_a_preference_are_kept():
    _, occupancies = unmoved_states()
    strict, ties = [(0, 3)], [(1, 2)]
    assert proved(markov_expressible(occupancies, strict, ties=ties), occupancies, strict, ties)


def test_what_makes_no_sense_is_refused():
    _, occupancies = unmoved_states()
    with pytest.raises(ValueError, match="no preference"):
        markov_expressible(occupancies, [])
    with pytest.raises(ValueError, match="not among the 4"):
        markov_expressible(occupancies, [(0, 4)])
