"""AEM: what a response's entropy does to its advantage, and when it does nothing."""

import math

import pytest
import torch

from payoff.advantages.entropy_modulated import entropy_modulated
from payoff.trajectories import Channel, Trajectories


def responses(entropy: list[list[float]], groups: list[int] | None = None, per: int = 2) -> Trajectories:
    """Each rollout's responses, of `per` actions with the same entropy."""
    n, width = len(entropy), per * max(map(len, entropy))
    length = torch.tensor([per * len(row) for row in entropy])
    exists = torch.arange(width) < length[:, None]
    dense = torch.tensor([[x for value in row for x in [value] * per] + [math.nan] * (width - per * len(row)) for row in entropy])
    return Trajectories(
        mask=exists,
        length=length,
        group=torch.tensor(groups or [0] * n),
        step=torch.where(exists, torch.arange(width) // per, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, width, dtype=torch.int64),
        extras={"entropy": dense},
    )


def column(*value: float) -> Channel:
    return Channel(torch.tensor(value, dtype=torch.float32)[:, None], torch.ones(len(value), 1, dtype=torch.bool))


def test_golden_numbers_of_responses_of_two_rollouts():
    # entropies 0, 1, 0.5 of responses: h = 0, 1, 1/2; c = 1, e^-1, e^-1/2
    traj = responses([[0.0, 1.0], [0.5]])
    c = [1.0, math.exp(-1), math.exp(-0.5)]
    alpha = [3 * x / sum(c) for x in c]
    found = entropy_modulated(column(1.0, -2.0), traj).value
    assert found[0].tolist() == pytest.approx([alpha[0]] * 2 + [alpha[1]] * 2, rel=1e-6)
    assert found[1].tolist() == pytest.approx([-2 * alpha[2]] * 2 + [0, 0], rel=1e-6)


def test_the_weights_of_a_groups_responses_have_mean_one_and_fall_with_entropy():
    rng = torch.Generator().manual_seed(0)
    entropy = [torch.rand(int(k), generator=rng).tolist() for k in (3, 1, 4, 2)]
    traj = responses(entropy, [0, 1, 0, 1])
    alpha = entropy_modulated(column(1, 1, 1, 1), traj, strength=2.0).value[:, ::2]
    for rows in ([0, 2], [1, 3]):
        weights = torch.cat([alpha[i, : len(entropy[i])] for i in rows])
        order = torch.tensor([x for i in rows for x in entropy[i]]).argsort()
        assert float(weights.mean()) == pytest.approx(1, abs=1e-6)
        assert (weights[order].diff() < 0).all()


def test_strength_zero_and_equal_entropies_change_nothing():
    advantage = column(0.7, -0.3)
    for found in (
        entropy_modulated(advantage, responses([[0.1, 0.9], [0.4]]), strength=0.0),
        entropy_modulated(advantage, responses([[0.3, 0.3], [0.3]])),
    ):
        assert found.value[0].tolist() == [advantage.value[0, 0]] * 4
        assert found.value[1, :2].tolist() == [advantage.value[1, 0]] * 2


def test_over_the_batch_all_responses_are_compared():
    apart = entropy_modulated(column(1.0, 1.0), responses([[0.0], [1.0]], [0, 1])).value[:, 0]
    together = entropy_modulated(column(1.0, 1.0), responses([[0.0], [1.0]], [0, 1]), over="batch").value[:, 0]
    assert apart.tolist() == [1, 1]
    c = [1.0, math.exp(-1)]
    assert together.tolist() == pytest.approx([2 * x / sum(c) for x in c], rel=1e-6)


def test_a_response_without_actions_or_without_a_known_advantage_takes_no_part():
    traj = responses([[0.0, 1.0], [9.0], [-5.0]])
    mask = traj.mask.clone()
    mask[1] = False  # tool text only
    advantage = column(1.0, 1.0, 1.0)
    advantage.valid[2] = False
    found = entropy_modulated(advantage, traj.replace(mask=mask)).value
    c = [1.0, math.exp(-1)]
    assert found[0].tolist() == pytest.approx([2 * c[0] / sum(c)] * 2 + [2 * c[1] / sum(c)] * 2, rel=1e-6)
    assert found[1, :2].tolist() == [1, 1]  # nothing is trained there
    assert found[2].abs().max() == 0


def test_the_entropy_of_a_choice_moves_by_the_surprise_above_the_mean_as_the_method_says():
    # a natural-gradient step on the logits, dz = eta A e_a / pi_a, moves the entropy by eta A (S_a - H)
    z = torch.tensor([0.4, -1.0, 0.2, 1.3], dtype=torch.float64)
    entropy = lambda z: torch.distributions.Categorical(logits=z).entropy()
    p = z.softmax(0)
    for a in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[a] = 1e-6 / p[a]
        moved = (entropy(z + step) - entropy(z - step)) / 2e-6
        assert float(moved) == pytest.approx(float(-p[a].log() - entropy(z)), abs=1e-6)


def test_entropies_that_are_not_there_are_named():
    traj = responses([[0.0, 1.0], [0.5]])
    with pytest.raises(ValueError, match=r"needs extras\['entropy'\] \[N, T\] = \[2, 4\], found shape \[2\]"):
        entropy_modulated(column(1.0, 1.0), traj.replace(extras={"entropy": torch.ones(2)}))
