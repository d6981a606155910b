"""A controller with heads that foretell: it acts as one without them, and its features learn from them."""

import pytest
import torch
from gymnasium import spaces

from payoff.losses.predictions import reward_sign_loss, reward_sign_mean, state_reconstruction_loss
from payoff.pipeline import Evaluation
from payoff.policies.control import ActorCritic
from payoff.policies.predicting import PredictingActorCritic
from payoff.trajectories import Channel, Trajectories

SPACES = (spaces.Box(-1.0, 1.0, (2,)), spaces.Box(-1.0, 1.0, (1,)))


def batch(n=16, t=5):
    rng = torch.Generator().manual_seed(0)
    length = torch.randint(1, t + 1, (n,), generator=rng)
    here = torch.arange(t) < length[:, None]
    states = torch.rand(n, t + 1, 2, generator=rng) * 2 - 1
    states[~torch.cat([torch.ones(n, 1, dtype=torch.bool), here], 1)] = torch.nan
    traj = Trajectories(
        mask=here,
        length=length,
        group=torch.arange(n),
        step=torch.where(here, torch.arange(t), -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, 1),
        extras={"observations": states},
    )
    # paid where the first coordinate is high, punished where it is low
    return traj, Channel((2 * states[:, :-1, 0]).round() / 2, torch.ones(n, 1, dtype=torch.bool))


def test_with_the_same_seed_it_acts_and_values_as_one_without_heads():
    torch.manual_seed(3)
    plain = ActorCritic(spaces=SPACES, hidden=(8,))
    torch.manual_seed(3)
    telling = PredictingActorCritic(spaces=SPACES, hidden=(8,))
    traj, _ = batch()
    one, other = plain.evaluate(traj, plain.offers), telling.evaluate(traj, telling.offers)
    assert torch.equal(one.logp, other.logp)
    assert all(torch.equal(one.more[name], other.more[name]) for name in plain.offers)
    assert telling.evaluate(traj).more == {}


def test_what_it_tells_is_of_what_exists_and_is_in_the_units_it_saw():
    policy = PredictingActorCritic(spaces=SPACES, hidden=(8,))
    traj, _ = batch()
    more = policy.evaluate(traj, frozenset({"seen", "reconstruction", "reward_sign"})).more
    assert torch.equal(more["seen"][traj.exists], traj.extras["observations"][:, :-1][traj.exists])
    assert more["reward_sign"].shape == (16, 5, 3)
    assert all(number[~traj.exists].eq(0).all() for number in more.values())


def test_the_actors_features_learn_to_foretell_and_the_critic_is_left_alone():
    torch.manual_seed(0)
    policy = PredictingActorCritic(spaces=SPACES, hidden=(16,))
    traj, reward = batch()
    weight = reward_sign_mean(reward, traj)
    want = frozenset({"seen", "reconstruction", "reward_sign"})
    optimiser = torch.optim.Adam([p for name, p in policy.named_parameters() if not name.startswith("critic")], lr=0.05)
    for _ in range(60):
        found = policy.evaluate(traj, want)
        sign, state = reward_sign_loss(found, traj, reward), state_reconstruction_loss(found, traj, reward)
        optimiser.zero_grad()
        ((sign.terms * weight).sum() + state.terms.sum()).backward()
        optimiser.step()
    assert sign.metrics["accuracy"] > 0.9
    assert float(state.terms.detach()[traj.exists].mean()) < 0.01
    assert policy.actor[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in policy.critic.parameters())


def test_what_it_cannot_tell_is_refused():
    policy = PredictingActorCritic(spaces=SPACES, hidden=(8,))
    with pytest.raises(ValueError, match=r"cannot give \['hidden'\]"):
        policy.evaluate(batch()[0], frozenset({"hidden"}))
    with pytest.raises(ValueError, match="needs a hidden layer"):
        PredictingActorCritic(spaces=SPACES, hidden=())
    assert isinstance(policy.evaluate(batch()[0]), Evaluation)
