"""The control policy: what it records is what happened, what it evaluates is what it did, and PPO of named parts learns with it."""

import copy
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from payoff.build import build
from payoff.config import load_run
from payoff.pipeline import Policy, Start
from payoff.policies.control import ActorCritic
from payoff.tasks.environments import EnvironmentTask, Simulation, World
from payoff.train import train
from payoff.trajectories import StopReason, outcome


class Walk(gymnasium.Env):
    """A line: the state is the sum of the actions' moves; leaving -3..3 finishes and pays 10; every step pays its own number."""

    def __init__(self, discrete: bool = True) -> None:
        self.observation_space = spaces.Box(-10, 10, (1,))
        self.action_space = spaces.Discrete(2, start=5) if discrete else spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.count = float(self.np_random.integers(-1, 2)), 0
        return np.array([self.at], dtype=np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.at += (2.0 * (action - 5) - 1) if isinstance(self.action_space, spaces.Discrete) else float(action[0])
        self.count += 1
        over = abs(self.at) > 3
        return np.array([self.at], dtype=np.float32), 10.0 if over else float(self.count), over, False, {}


class Drift(Walk):
    """As `Walk`, but moved by a generator that no seed reaches."""

    noise = np.random.default_rng(0)

    def step(self, action):
        self.at += 0.01 * self.noise.standard_normal()
        return super().step(action)


def policy_on(env: gymnasium.Env, **options) -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(spaces=(env.observation_space, env.action_space), hidden=(16,), **options)


def rolled(make=Walk, n: int = 6, starts: int = 3, max_steps: int = 8, **options):
    policy, task = policy_on(make(), **options), EnvironmentTask(make, max_steps=max_steps, seeds=50)
    rng = torch.Generator().manual_seed(0)
    return policy, policy.rollout(task.starts(starts, rng), n, rng).check(), rng


@pytest.mark.parametrize("lanes", [1, 4, 100])
def test_what_is_recorded_is_what_a_fresh_environment_shows_for_the_same_seed_and_actions(lanes):
    _, traj, _ = rolled(lanes=lanes)
    assert len(traj) == 18
    for i in range(len(traj)):
        env = gymnasium.wrappers.TimeLimit(Walk(), 8)
        seen, paid = [env.reset(seed=traj.items[i]["seed"])[0]], []
        for action in traj.actions[i, : traj.length[i]].tolist():
            observation, reward, terminated, truncated, _ = env.step(action + 5)
            seen.append(observation)
            paid.append(reward)
        assert terminated or truncated
        length = len(paid)
        assert traj.extras["observations"][i, : length + 1, 0].tolist() == [float(x[0]) for x in seen]
        assert traj.extras["environment_reward"][i, :length].tolist() == paid
        assert int(traj.stop[i]) == (StopReason.finished if terminated else StopReason.truncated)
        assert traj.items[i]["observations"].shape == (length + 1, 1)
    assert set(traj.stop.tolist()) == {int(StopReason.finished), int(StopReason.truncated)}


def test_rollouts_of_a_start_are_a_group_that_begins_in_one_state():
    _, traj, _ = rolled()
    assert isinstance(policy_on(Walk()), Policy)
    assert traj.group.unique(return_counts=True)[1].tolist() == [6, 6, 6]
    for group in traj.group.unique():
        assert len(traj.extras["observations"][traj.group == group, 0].unique()) == 1


@pytest.mark.parametrize("discrete", [True, False])
def test_evaluate_gives_the_log_probabilities_that_were_recorded(discrete):
    policy, traj, _ = rolled(lambda: Walk(discrete), log_std=-0.5) if not discrete else rolled()
    torch.testing.assert_close(policy.evaluate(traj).logp, traj.logp["old"], rtol=0, atol=1e-5)


def test_a_discrete_policy_is_its_networks_softmax():
    policy, traj, _ = rolled()
    rows = policy.actor(traj.extras["observations"][:, :-1]).softmax(2)
    logp = rows.gather(2, traj.actions[..., None])[..., 0].log()
    found = policy.evaluate(traj, frozenset({"entropy", "mean_logp"}))
    torch.testing.assert_close(found.logp, torch.where(traj.exists, logp, 0))
    entropy = torch.distributions.Categorical(rows).entropy()
    torch.testing.assert_close(found.more["entropy"], torch.where(traj.exists, entropy, 0))
    torch.testing.assert_close(found.more["mean_logp"], torch.where(traj.exists, rows.log().mean(2), 0))


def test_a_real_valued_policy_is_a_normal_distribution_summed_over_dimensions():
    policy, traj, _ = rolled(lambda: Walk(False), log_std=-0.3)
    normal = torch.distributions.Normal(policy.actor(traj.extras["observations"][:, :-1]), policy.log_std.exp())
    found = policy.evaluate(traj, frozenset({"entropy", "mean", "std"}))
    torch.testing.assert_close(found.logp, torch.where(traj.exists, normal.log_prob(traj.actions).sum(2), 0))
    torch.testing.assert_close(found.more["entropy"], torch.where(traj.exists, normal.entropy().sum(2), 0))
    assert found.more["mean"].shape == found.more["std"].shape == traj.actions.shape
    assert traj.actions.abs().max() > 1  # what was sampled, not what the box let through


def test_values_are_the_critics_wherever_the_future_is_open_and_0_where_it_is_not():
    policy, traj, _ = rolled()
    values = policy.evaluate(traj, frozenset({"values"})).more["values"]
    direct = policy.critic(traj.extras["observations"])[..., 0]
    for i in range(len(traj)):
        length, cut = int(traj.length[i]), int(traj.stop[i]) == StopReason.truncated
        torch.testing.assert_close(values[i, :length], direct[i, :length])
        torch.testing.assert_close(values[i, length], direct[i, length] if cut else torch.tensor(0.0))
        assert not values[i, length + 1 :].any()


def test_padding_is_never_read():
    policy, traj, _ = rolled()
    beyond = torch.arange(traj.width + 1) > traj.length[:, None]
    dirty = traj.replace(
        extras={"observations": traj.extras["observations"].masked_fill(beyond[..., None], torch.nan)},
        actions=traj.actions.masked_fill(~traj.exists, -7),
    )
    want = frozenset({"values", "entropy", "mean_logp"})
    clean, same = policy.evaluate(traj, want), policy.evaluate(dirty, want)
    assert torch.equal(clean.logp, same.logp)
    assert all(torch.equal(clean.more[name], same.more[name]) for name in want)
    same.logp.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())


def test_the_horizon_cuts_an_episode_as_a_time_limit_does():
    _, traj, _ = rolled(horizon=2, max_steps=50)
    assert traj.width == 2
    assert (traj.stop == StopReason.truncated).all()


def test_branches_go_on_from_the_very_state_they_left():
    policy, traj, rng = rolled()
    rows = torch.tensor([0, 3, 7])
    at = (traj.length[rows] // 2).clamp(min=1)
    branch = policy.resume(traj, rows, at, 4, rng).check()
    assert branch.parent.tolist() == traj.id[rows].repeat_interleave(4).tolist()
    assert branch.group.tolist() == traj.group[rows].repeat_interleave(4).tolist()
    for i in range(len(branch)):
        origin, k = int(rows[i // 4]), int(at[i // 4])
        for name in ("observations", "environment_reward"):
            assert torch.equal(branch.extras[name][i, :k], traj.extras[name][origin, :k])
        assert torch.equal(branch.actions[i, :k], traj.actions[origin, :k])
        assert torch.equal(branch.logp["old"][i, :k], traj.logp["old"][origin, :k])
        assert torch.equal(branch.extras["observations"][i, k], traj.extras["observations"][origin, k])
    torch.testing.assert_close(policy.evaluate(branch).logp, branch.logp["old"], rtol=0, atol=1e-5)


def test_branches_without_noise_take_the_most_probable_actions_and_do_not_act():
    policy, traj, rng = rolled()
    branch = policy.resume(traj, torch.tensor([0, 0]), torch.tensor([0, 0]), 1, rng, noisy=0)
    assert not branch.mask.any()
    assert torch.equal(branch.actions[0], branch.actions[1])
    best = policy.actor(branch.extras["observations"][0, :-1]).argmax(1)
    assert torch.equal(branch.actions[0], best)
    some = policy.resume(traj, torch.tensor([0]), torch.tensor([1]), 3, rng, noisy=1, horizon=2)
    assert some.mask[:, :3].tolist() == [[True, True, False]] * 3 if some.width > 2 else True
    assert (some.length <= 3).all()


def test_one_more_action_after_each_prefix_has_the_probabilities_of_the_policy():
    policy, traj, rng = rolled()
    branch = policy.resume(traj, torch.tensor([0]), torch.tensor([1]), 2000, rng, horizon=1)
    share = float((branch.actions[:, 1] == 0).float().mean())
    expected = float(policy.actor(traj.extras["observations"][0, 1:2]).softmax(1)[0, 0].detach())
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 2000) ** 0.5


def test_resume_refuses_what_cannot_be_continued_and_what_does_not_come_back():
    policy, traj, rng = rolled()
    done = (traj.stop == StopReason.finished).nonzero()[:1, 0]
    with pytest.raises(ValueError, match="cannot be continued from action"):
        policy.resume(traj, done, traj.length[done], 1, rng)
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        policy.resume(traj, done, torch.tensor([0]), 1, rng, horizon=0)
    drifting, wild, _ = rolled(Drift)
    with pytest.raises(ValueError, match="not determined by its seed"):
        drifting.resume(wild, torch.tensor([0]), torch.tensor([1]), 1, rng)


def test_normalised_observations_change_nothing_between_acting_and_evaluating():
    policy, traj, rng = rolled(normalise=True)
    task = EnvironmentTask(Walk, max_steps=8)
    for _ in range(3):
        traj = policy.rollout(task.starts(3, rng), 2, rng)
        torch.testing.assert_close(policy.evaluate(traj).logp, traj.logp["old"], rtol=0, atol=1e-5)
    assert policy.scale.seen[0, 0] > 1
    before = policy.state_dict()
    kept = copy.deepcopy(before)
    with torch.no_grad():
        policy.rollout(task.starts(3, rng), 2, rng)
    assert all(torch.equal(kept[name], tensor) for name, tensor in policy.state_dict().items())


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="one of the two"):
        ActorCritic()
    with pytest.raises(ValueError, match="lanes must be at least 1"):
        policy_on(Walk(), lanes=0)
    with pytest.raises(ValueError, match="Discrete or a Box of floats"):
        ActorCritic(spaces=(spaces.Box(-1, 1, (1,)), spaces.MultiDiscrete([2, 2])))
    with pytest.raises(ValueError, match="can be read as numbers"):
        ActorCritic(spaces=(spaces.Text(5), spaces.Discrete(2)))
    with pytest.raises(ValueError, match="NoSuchThing"):
        ActorCritic("NoSuchThing-v0")
    policy, traj, rng = rolled()
    with pytest.raises(ValueError, match="carries no environment"):
        policy.rollout([Start("plain", {})], 1, rng)
    with pytest.raises(ValueError, match="cannot give"):
        policy.evaluate(traj, frozenset({"hidden"}))
    two = ActorCritic(spaces=(spaces.Box(-1, 1, (2,)), spaces.Discrete(2)))
    with pytest.raises(ValueError, match="must name the same environment"):
        two.evaluate(traj)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [("CartPole-v1", {}, 4), ("minigrid:MiniGrid-DoorKey-5x5-v0", {}, 151), ("Reacher-v5", {}, 10), ("Hopper-v5", {}, 11)],
)
def test_it_acts_in_the_environments_people_use(name, options, size):
    if name.startswith("mini"):
        pytest.importorskip("minigrid")
    if name in ("Reacher-v5", "Hopper-v5"):
        pytest.importorskip("mujoco")
        pytest.importorskip("imageio")
    policy = ActorCritic(name, options=options, hidden=(8,), horizon=12)
    assert policy.observations.size == size
    rng = torch.Generator().manual_seed(0)
    traj = policy.rollout(EnvironmentTask(name, options=options).starts(2, rng), 2, rng)
    torch.testing.assert_close(policy.evaluate(traj).logp, traj.logp["old"], rtol=0, atol=1e-4)
    branch = policy.resume(traj, torch.tensor([1]), torch.tensor([3]), 2, rng, horizon=2)
    assert branch.length.tolist() == [5, 5]


def test_every_member_of_a_batch_may_play_in_another_world():
    policy, rng = policy_on(Walk()), torch.Generator().manual_seed(0)
    easy, hard = World(Walk, max_steps=3), World(Walk, max_steps=6)
    starts = [Start(f"{i}", {"seed": i}, Simulation(world, i)) for i, world in enumerate([easy, hard, easy, hard])]
    traj = policy.rollout(starts, 2, rng)
    limits = [3, 3, 6, 6, 3, 3, 6, 6]
    assert all(n <= limit for n, limit in zip(traj.length.tolist(), limits))
    cut = traj.stop == StopReason.truncated
    assert all(n == limit for n, limit, over in zip(traj.length.tolist(), limits, cut.tolist()) if over)


RUN = """
task: {name: environment, environment: CartPole-v1}
policy: {name: actor-critic, environment: CartPole-v1, horizon: 500}
reward: {environment: environment-reward}
terms:
  policy:
    paths: {environment: [{name: lambda-return, discount: 0.98, trace: 0.9}, subtract-values]}
    then: [whiten]
    loss: ppo-clip
  value: {paths: {environment: [{name: lambda-return, discount: 0.98, trace: 0.9}]}, loss: value, weight: 0.5}
train: {updates: 9, starts: 32, rollouts: 1, epochs: 4, minibatches: 8, learning_rate: 1e-3, gradient_clip: 0.5}
evaluate: {every: 0, starts: 16}
"""


@pytest.mark.slow
def test_ppo_of_named_parts_learns_cartpole_by_the_environments_own_return(tmp_path: Path):
    (tmp_path / "run.yaml").write_text(RUN)
    parts, settings = build(load_run(tmp_path / "run.yaml"))
    history = train(parts, settings).history
    assert history[0]["truth"] < 40
    assert history[-1]["truth"] > 120


@pytest.mark.slow
def test_a_real_valued_policy_learns_what_it_is_paid_for(tmp_path: Path):
    # Paid for pushing to the right, whatever the environment says: the mean of the first action's force must grow.
    def push_right(traj):
        from payoff.trajectories import Channel

        known = torch.ones(len(traj), 1, dtype=torch.bool)
        return {"push": Channel(torch.where(traj.exists, traj.actions[..., 0], 0), known)}

    (tmp_path / "run.yaml").write_text(
        RUN.replace("CartPole-v1", "Pendulum-v1").replace("updates: 9", "updates: 6").replace("horizon: 500", "horizon: 20")
    )
    parts, settings = build(load_run(tmp_path / "run.yaml"))
    from dataclasses import replace

    from payoff.pipeline import join

    parts = replace(parts, signal=join({"environment": push_right}))
    history = train(parts, settings).history
    assert history[-1]["reward"] > history[1]["reward"] + 3


def test_the_truth_is_the_return_and_success_is_reaching_it():
    _, traj, _ = rolled()
    task = EnvironmentTask(Walk)
    total, known = outcome(task.truth(traj), traj)
    paid = [sum(item["environment_rewards"].tolist()) for item in traj.items]
    assert known.all()
    assert total.tolist() == pytest.approx(paid)
    bar = sorted(paid)[len(paid) // 2]
    reached, _ = outcome(EnvironmentTask(Walk, success=bar).truth(traj), traj)
    assert reached.tolist() == [float(x >= bar) for x in paid]
    assert 0 < reached.mean() < 1
