"""Return decomposition: the correction is exact over all draws; linear rewards are recovered; padding is not read."""

import itertools

import pytest
import torch

from payoff.examples import four_answers
from payoff.models.return_decomposition import ReturnDecomposition, decomposition_loss, drawn_steps, raw_factors
from payoff.trajectories import Channel, Trajectories, outcome, place_outcome

F64 = torch.float64


def test_over_all_draws_the_corrected_loss_is_the_loss_of_all_steps():
    said = torch.tensor([0.3, -1.2, 2.0, 0.7, 0.1], dtype=F64)
    target = torch.tensor([0.25], dtype=F64)
    whole = (said.mean() - target) ** 2
    for k in (2, 3, 5):
        subsets = torch.stack([said[list(some)] for some in itertools.combinations(range(5), k)])
        count, every = len(subsets), torch.ones(subsets.shape, dtype=torch.bool)
        loss = decomposition_loss(subsets, target.repeat(count), torch.full((count,), 5), every)
        torch.testing.assert_close(loss.mean(), whole[0])
    pairs = torch.stack([said[list(some)] for some in itertools.product(range(5), repeat=2)])  # with replacement
    every, replaced = torch.ones(pairs.shape, dtype=torch.bool), torch.ones(25, dtype=torch.bool)
    loss = decomposition_loss(pairs, target.repeat(25), torch.full((25,), 5), every, replaced=replaced)
    torch.testing.assert_close(loss.mean(), whole[0])
    plain = decomposition_loss(pairs, target.repeat(25), torch.full((25,), 5), every, unbiased=False, replaced=replaced)
    assert plain.mean() > whole[0] + 0.1


def test_draws_lie_before_the_end_and_repeat_only_where_they_must():
    place, replaced = drawn_steps(torch.tensor([6, 2, 4]).repeat(50), 4, torch.Generator().manual_seed(0))
    assert (place < torch.tensor([6, 2, 4]).repeat(50)[:, None]).all()
    assert replaced.tolist() == [False, True, False] * 50
    assert all(len(set(row)) == 4 for row in place[~replaced].tolist())
    assert len({tuple(sorted(row)) for row in place[::3].tolist()}) == 15  # every subset of 4 of 6


def episodes(n=60, t=6) -> tuple[Trajectories, dict[str, Channel], torch.Tensor]:
    """Two numbers a state, a step's worth being 2 x - y of the state before it; whatever lies beyond the end is NaN."""
    rng = torch.Generator().manual_seed(1)
    length = torch.randint(3, t + 1, (n,), generator=rng)
    position = torch.arange(t).repeat(n, 1)
    exists = position < length[:, None]
    states = torch.randn(n, t + 1, 2, generator=rng)
    worth = torch.where(exists, 2 * states[:, :-1, 0] - states[:, :-1, 1], 0)
    states[torch.arange(t + 1) > length[:, None]] = torch.nan
    actions = torch.where(exists, position.float(), torch.nan)
    step = torch.where(exists, position, -1).int()
    stop, sure = torch.zeros_like(length), torch.ones(n, dtype=torch.bool)
    traj = Trajectories(exists, length, torch.arange(n), step, stop, actions, extras={"observations": states})
    return traj, {"correct": place_outcome(worth.sum(1), sure, traj)}, worth


@pytest.fixture(scope="module")
def learned():
    torch.manual_seed(0)
    traj, rewards, worth = episodes()
    encoder = lambda traj: traj.extras["observations"][:, :-1]
    model = ReturnDecomposition(size=2, encoder=encoder, hidden=32, steps=3, learning_rate=1e-2, updates=150)
    return model, model.learn(traj, rewards), traj, rewards, worth


def test_a_worth_that_is_linear_in_the_factors_is_found_from_returns_alone(learned):
    model, metrics, traj, rewards, worth = learned
    said = model(traj)["latent"]
    assert metrics["decomposition/explained"] > 0.95
    assert torch.corrcoef(torch.stack([said.value[traj.exists], worth[traj.exists]]))[0, 1] > 0.95
    assert (said.value[~traj.exists] == 0).all()
    assert (outcome(said, traj)[0] - outcome(rewards["correct"], traj)[0]).abs().mean() < 1.0


def test_checkpoints_go_on_where_they_were(learned):
    model, _, traj, rewards, _ = learned
    other = ReturnDecomposition(size=2, encoder=model.encoder, hidden=32, steps=3, learning_rate=5e-3, updates=3, seed=9)
    other.load_state_dict(model.state_dict())
    model.updates = 3
    assert other.learn(traj, rewards) == model.learn(traj, rewards)
    torch.testing.assert_close(other(traj)["latent"].value, model(traj)["latent"].value)


def test_without_factors_states_and_actions_are_read_and_unknown_returns_teach_nothing():
    traj, rewards, _ = episodes(4)
    assert torch.equal(raw_factors(traj)[0, 0], torch.cat([traj.extras["observations"][0, 0], torch.zeros(1)]))
    model = ReturnDecomposition(size=3, hidden=4)
    unknown = {"correct": Channel(rewards["correct"].value, torch.zeros(4, 1, dtype=torch.bool))}
    assert model.learn(traj, unknown) == {"decomposition/loss": None, "decomposition/explained": None}
    with pytest.raises(KeyError, match="'correct' to decompose"):
        model.learn(traj, {})
    with pytest.raises(ValueError, match="factors must be"):
        ReturnDecomposition(size=2)(traj)
    with pytest.raises(ValueError, match="needs traj"):
        model(four_answers())
    with pytest.raises(ValueError, match="hidden must be at least 1"):
        ReturnDecomposition(size=2, hidden=0)


def test_agents_paid_together_are_each_paid_for_their_own_steps():
    traj, alone, worth = episodes(80)
    team = torch.arange(80) % 40  # rows k and k + 40 play together
    both = outcome(alone["correct"], traj)[0].view(2, 40).sum(0).repeat(2)
    together = traj.replace(extras={**traj.extras, "episode": team})
    paid = {"correct": place_outcome(both, torch.ones(80, dtype=torch.bool), together)}
    make = lambda **more: ReturnDecomposition(
        size=2, encoder=lambda t: t.extras["observations"][:, :-1], hidden=32, steps=6, learning_rate=1e-2, **more
    )
    torch.manual_seed(0)
    model = make(updates=150, together="episode")
    metrics = model.learn(together, paid)
    assert metrics["decomposition/explained"] > 0.9
    said = model(together)["latent"].value
    assert torch.corrcoef(torch.stack([said[traj.exists], worth[traj.exists]]))[0, 1] > 0.9
    assert [len(factors) for factors, _ in model.kept] == (traj.length[:40] + traj.length[40:]).tolist()
    torch.testing.assert_close(torch.tensor([total for _, total in model.kept]), both[:40])


def test_an_agent_alone_is_an_episode_and_one_return_is_not_two():
    traj, rewards, _ = episodes(6)
    found = []
    for together in (None, "episode"):
        torch.manual_seed(0)
        model = ReturnDecomposition(size=3, hidden=4, updates=2, together=together)
        found.append(model.learn(traj.replace(extras={**traj.extras, "episode": torch.arange(6)}), rewards))
    assert found[0] == found[1]
    with pytest.raises(ValueError, match="the agents of episode 0 were paid unlike returns"):
        model.learn(traj.replace(extras={**traj.extras, "episode": torch.arange(6) // 2}), rewards)
    with pytest.raises(ValueError, match="says who plays together"):
        model.learn(traj, rewards)
