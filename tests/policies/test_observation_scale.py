"""The running scale of observations."""

import torch

from payoff.policies.observation_scale import ObservationScale


def test_batches_together_give_the_scale_of_all_of_them_at_once():
    x = torch.randn(90, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1]) + 2
    scale = ObservationScale(3)
    for part in x.split([10, 50, 30]):
        scale.remember(part)
        scale.advance()
    torch.testing.assert_close(scale(x), (x - x.mean(0)) / x.std(0, correction=0), rtol=1e-5, atol=1e-5)


def test_what_is_given_counts_only_from_the_next_batch_on():
    scale, x = ObservationScale(1), torch.tensor([[1.0], [3.0]])
    scale.remember(x)
    assert torch.equal(scale(x), x)
    scale.advance()
    assert scale(x).T.tolist() == [[-1.0, 1.0]]
    scale.remember(x + 100)
    assert scale(x).T.tolist() == [[-1.0, 1.0]]
    scale.advance()
    scale.advance()  # counts once
    assert scale.seen[0].tolist() == [4.0]


def test_far_observations_are_cut_and_constant_ones_are_finite():
    scale = ObservationScale(1)
    scale.remember(torch.ones(5, 1))
    scale.advance()
    assert scale(torch.tensor([[1.0], [2.0], [-1e9]])).T.tolist() == [[0.0, 10.0, -10.0]]
