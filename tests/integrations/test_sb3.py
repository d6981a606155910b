"""Stable-Baselines3 on payoff's rewards and credits: the same numbers as its own where they should be, and it trains."""

import sys
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("stable_baselines3")

from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecCheckNan

from payoff.advantages.baselines import subtract_values
from payoff.advantages.batch import whiten
from payoff.advantages.group import leave_one_out
from payoff.credit.returns import lambda_return, return_to_go, total
from payoff.integrations.gymnasium import RewardWrapper
from payoff.integrations.sb3 import CreditBuffer, RewardLog, RewardVecEnv, payer
from payoff.pipeline import chain, join
from payoff.policies.control import ActorCritic
from payoff.shaping.potentials import potential_shaping
from payoff.signals.environment import environment_reward
from payoff.signals.novelty import CountNovelty
from payoff.tasks.environments import EnvironmentTask
from payoff.trajectories import Channel, Rewards, StopReason, Trajectories


class Clock(gymnasium.Env):
    """Observes the episode's number and the time in it; episode k finishes at step 3 + k % 4, or is cut by a limit before."""

    observation_space, action_space = spaces.Box(-1, 1000, (2,)), spaces.Discrete(2)
    episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self._seen(), {}

    def step(self, action):
        self.time += 1
        return self._seen(), 1.0 + action, self.time == 3 + self.episode % 4, False, {}

    def _seen(self):
        return np.array([self.episode, self.time], dtype=np.float32)


def clocks(limit: int = 5, count: int = 2) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(gymnasium.wrappers.TimeLimit(Clock(), limit))] * count)


def filled(buffer_class=RolloutBuffer, size: int = 40, lanes: int = 5, seed: int = 0, **options):
    """A buffer of random numbers with episodes that begin anywhere; and what closes it."""
    rng = np.random.default_rng(seed)
    buffer = buffer_class(
        size, spaces.Box(-1, 1, (3,)), spaces.Discrete(4), "cpu", gae_lambda=0.9, gamma=0.97, n_envs=lanes, **options
    )
    starts = rng.random((size + 1, lanes)) < 0.2
    for t in range(size):
        value, logp = torch.tensor(rng.normal(size=lanes)), -torch.tensor(rng.random(lanes))
        seen, action = rng.normal(size=(lanes, 3)), rng.integers(0, 4, lanes)
        buffer.add(seen, action, rng.normal(size=lanes), starts[t].astype(np.float32), value, logp)
    return buffer, torch.tensor(rng.normal(size=lanes)), starts[size]


@pytest.mark.parametrize("seed", range(4))
def test_lambda_return_less_the_values_is_sb3s_generalised_advantage(seed):
    theirs, last, dones = filled(seed=seed)
    ours, *_ = filled(CreditBuffer, seed=seed)
    for buffer in (theirs, ours):
        buffer.compute_returns_and_advantage(last, dones)
    np.testing.assert_allclose(ours.advantages, theirs.advantages, atol=1e-5)
    np.testing.assert_allclose(ours.returns, theirs.returns, atol=1e-5)
    assert next(iter(ours.get(16))).advantages.shape == (16,)


def test_a_time_limit_within_the_buffer_is_bootstrapped_once_and_so_is_the_buffers_end():
    # The same training twice, its own buffer and ours: the limit of 5 cuts episodes whose clocks ring at 6.
    parameters = []
    for buffer_class in (RolloutBuffer, CreditBuffer):
        model = PPO(
            "MlpPolicy", clocks(), n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu", rollout_buffer_class=buffer_class
        )
        model.learn(128)
        parameters.append(torch.cat([p.detach().flatten() for p in model.policy.parameters()]))
    torch.testing.assert_close(parameters[1], parameters[0], rtol=0, atol=1e-5)


def test_our_rollouts_truncated_ends_are_bootstrapped_as_sb3_does_by_adding_to_the_last_reward():
    discount, trace, rng = 0.97, 0.9, torch.Generator().manual_seed(0)
    buffer = RolloutBuffer(6, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu", gae_lambda=trace, gamma=discount, n_envs=1)
    reward, values = torch.randn(6, generator=rng), torch.randn(9, generator=rng)
    # Three episodes of 2 steps: finished, truncated, cut by the buffer; values of 3 states each.
    for t in range(6):
        episode, place = divmod(t, 2)
        own = float(reward[t]) + (discount * float(values[3 + 2]) if t == 3 else 0.0)
        start = np.array([place == 0], dtype=np.float32)
        buffer.add(np.zeros((1, 1)), np.zeros(1), np.array([own]), start, values[3 * episode + place][None], torch.zeros(1))
    buffer.compute_returns_and_advantage(values[8][None], np.array([False]))
    exists = torch.ones(3, 2, dtype=torch.bool)
    traj = Trajectories(
        mask=exists,
        length=torch.tensor([2, 2, 2]),
        group=torch.arange(3),
        step=torch.arange(2).repeat(3, 1).int(),
        stop=torch.tensor([StopReason.finished, StopReason.truncated, StopReason.truncated]),
        actions=torch.zeros(3, 2),
        extras={"values": values.reshape(3, 3)},
    )
    paid = Channel(reward.reshape(3, 2), torch.ones(3, 1, dtype=torch.bool))
    ours = subtract_values(lambda_return(paid, traj, discount=discount, trace=trace), traj)
    np.testing.assert_allclose(ours.value.flatten().numpy(), buffer.advantages[:, 0], atol=1e-5)


def test_the_buffer_is_cut_into_the_episodes_it_holds():
    buffer, last, _ = filled(CreditBuffer, size=6, lanes=2)
    buffer.episode_starts[:] = np.array([[0, 0, 1, 0, 0, 1], [1, 0, 0, 0, 1, 0]]).T
    traj, (row, at) = buffer.trajectories(last, np.array([True, False]))
    traj.check()
    assert traj.length.tolist() == [2, 3, 1, 4, 2]
    assert traj.stop.tolist() == [0, 0, 0, 0, StopReason.truncated]
    assert row.tolist() == [[0, 0, 1, 1, 1, 2], [3, 3, 3, 3, 4, 4]]
    assert at.tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 0, 1]]
    np.testing.assert_array_equal(traj.extras["environment_reward"][row, at].T.numpy(), buffer.rewards)
    assert traj.extras["values"][4, 2] == last[1].float()
    assert traj.extras["values"][2, 1] == 0


@pytest.mark.parametrize(("path", "columns"), [([return_to_go], "to go"), ([total], "all"), ([total, whiten], "whitened")])
def test_any_credit_weighs_the_actions(path, columns):
    buffer, last, _ = filled(CreditBuffer, size=5, lanes=1, credit=path)
    buffer.episode_starts[:] = np.array([[1, 0, 0, 1, 0]]).T
    buffer.rewards[:] = np.array([[1, 2, 4, 8, 16]]).T
    buffer.compute_returns_and_advantage(last, np.array([True]))
    found = buffer.advantages[:, 0]
    if columns == "to go":
        assert found.tolist() == [7, 6, 4, 24, 16]
    elif columns == "all":
        assert found.tolist() == [7, 7, 7, 24, 24]
    else:
        assert abs(found.mean()) < 1e-5
    np.testing.assert_allclose(buffer.returns, buffer.advantages + buffer.values)


def test_the_critics_target_has_a_path_of_its_own_and_groups_are_refused():
    buffer, last, _ = filled(CreditBuffer, size=3, lanes=1, credit=[total], returns=[return_to_go])
    buffer.episode_starts[:] = np.array([[1, 0, 0]]).T
    buffer.rewards[:] = np.array([[1, 2, 4]]).T
    buffer.compute_returns_and_advantage(last, np.array([True]))
    assert buffer.returns[:, 0].tolist() == [7, 6, 4]
    with pytest.raises(ValueError, match="rloo compares rollouts of the same start"):
        filled(CreditBuffer, credit=[total, leave_one_out])


class Recorder:
    """A signal that keeps what it was shown and pays the time in the next state."""

    def __init__(self) -> None:
        self.seen: list[Trajectories] = []

    def __call__(self, traj: Trajectories) -> Rewards:
        kept = traj.replace(
            stop=traj.stop.clone(), extras={k: v.clone() for k, v in traj.extras.items()}, actions=traj.actions.clone()
        )
        self.seen.append(kept)
        return {"time": Channel(kept.extras["observations"][:, 1:, 1], torch.ones(len(traj), 1, dtype=torch.bool))}


@pytest.mark.parametrize("pay", ["step", "episode"])
def test_the_last_observation_is_the_true_one_and_a_time_limit_is_no_end(pay):
    recorder = Recorder()
    env = RewardVecEnv(clocks(limit=5, count=2), recorder, pay=pay)
    env.reset()
    infos = [env.step(np.array([0, 1]))[3] for _ in range(18)]
    ended = [info for step in infos for info in step if "episode_rewards" in info]
    # Episodes 0, 1, 2 last 3, 4, 5 steps and finish; episode 3 would last 6 and is cut at 5. Each in both lanes.
    assert sorted(info["episode_rewards"]["time"] for info in ended) == sorted([6.0, 10.0, 15.0, 15.0] * 2)
    assert {info["episode_rewards"]["environment_reward"] for info in ended[:2]} == {3.0, 6.0}
    for traj in recorder.seen:
        for i in range(len(traj)):
            length = int(traj.length[i])
            states = traj.extras["observations"][i, : length + 1]
            assert len(states[:, 0].unique()) == 1  # never a state of the next episode
            assert (states[1:, 1] - states[:-1, 1] == 1).all()
            number, time = states[-1].tolist()
            over = time == 3 + number % 4
            assert int(traj.stop[i]) == (StopReason.finished if over else StopReason.truncated)
    if pay == "episode":
        assert [len(traj) for traj in recorder.seen] == [2, 2, 2, 2]
        assert (recorder.seen[3].stop == StopReason.truncated).all()


@pytest.mark.parametrize("limit", [2, 9])  # truncated, finished
def test_lanes_are_paid_for_the_actors_actions_what_our_loop_pays_for_them(limit):
    class Started(Clock):
        """Its number comes from the seed, so lanes differ and so do lengths: 3 to 6 steps."""

        def reset(self, *, seed=None, options=None):
            info = super().reset(seed=seed)[1]
            self.episode = int(self.np_random.integers(0, 4))
            return self._seen(), info

    make = lambda: gymnasium.wrappers.TimeLimit(Started(), limit)
    reward = chain(
        join({"own": environment_reward, "count": CountNovelty()}),
        partial(potential_shaping, potential=lambda t: t.extras["observations"].prod(2), discount=0.9),
    )
    torch.manual_seed(0)
    policy, rng = ActorCritic(spaces=(Clock.observation_space, Clock.action_space)), torch.Generator().manual_seed(0)
    traj = policy.rollout(EnvironmentTask(make).starts(5, rng), 1, rng)
    whole = reward(traj)
    venv = DummyVecEnv([make] * len(traj))
    venv._seeds = [int(item["seed"]) for item in traj.items]
    env = RewardVecEnv(venv, reward)
    env.reset()
    assert limit == 2 or len(set(traj.length.tolist())) > 1
    for t in range(traj.width):
        _, paid, _, infos = env.step(traj.actions[:, t].numpy())
        for i in (traj.length > t).nonzero().flatten().tolist():  # what ended has begun anew
            told = {name: channel.value[i, t].item() for name, channel in whole.items()}
            assert infos[i]["rewards"] == pytest.approx(told)
            assert paid[i] == pytest.approx(sum(told.values()))


def test_sb3_trains_on_a_chain_unchanged_and_logs_its_channels():
    reward = chain(
        environment_reward, partial(potential_shaping, potential=lambda t: t.extras["observations"][..., 1], discount=0.99)
    )
    logged: dict[str, list[float]] = {}

    class Keep(KVWriter):
        def write(self, values, excluded, step=0):
            for name, value in values.items():
                logged.setdefault(name, []).append(value)

        def close(self):
            pass

    model = PPO("MlpPolicy", RewardVecEnv(clocks(), reward), n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.set_logger(Logger(None, [Keep()]))
    model.learn(192, callback=RewardLog())
    assert logged["reward/unknown"][-1] == 0
    assert logged["reward/environment"][-1] == pytest.approx(logged["rollout/ep_rew_mean"][-1], rel=0.5)
    # 0.99 * (time at the end or, where it finished, 0) - what was charged on the way: never more than the length of an episode
    assert {"reward/potential", "reward/environment_reward"} <= set(logged)


def ramp(traj: Trajectories) -> torch.Tensor:
    return traj.extras["observations"][..., 1]


RAMP = chain(environment_reward, partial(potential_shaping, potential=ramp, discount=0.99))


def each_wrapped(pay: str = "rollout", vec_env=DummyVecEnv, count: int = 2):
    """Every environment inside a wrapper of its own."""
    return vec_env([lambda: Monitor(RewardWrapper(gymnasium.wrappers.TimeLimit(Clock(), 5), RAMP, pay=pay))] * count)


def a2c(env, **options):
    options = {"rollout_buffer_class": CreditBuffer, **options}
    return A2C("MlpPolicy", env, n_steps=16, seed=0, device="cpu", **options)


def weights_of(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


@pytest.fixture(scope="module")
def paid_by_the_step():
    model = a2c(RewardVecEnv(clocks(), RAMP))
    model.learn(96, callback=RewardLog())
    return weights_of(model)


def trained(env):
    model = a2c(env)
    model.learn(96, callback=RewardLog())
    return model


def each_apart():
    """No two environments share a signal."""
    own = lambda: chain(environment_reward, partial(potential_shaping, potential=ramp, discount=0.99))
    make = lambda: Monitor(RewardWrapper(gymnasium.wrappers.TimeLimit(Clock(), 5), own(), pay="rollout"))
    return DummyVecEnv([make] * 2)


@pytest.mark.parametrize("environments", [lambda: RewardVecEnv(clocks(), RAMP, pay="rollout"), each_wrapped, each_apart])
def test_paying_by_the_rollout_trains_to_the_same_weights(environments, paid_by_the_step):
    model = trained(environments())
    torch.testing.assert_close(weights_of(model), paid_by_the_step, rtol=0, atol=1e-5)
    assert set(model.rollout_buffer.paid) == {"environment", "potential"}
    model.env.step(np.array([0, 0]))
    with pytest.raises(ValueError, match="evaluate on another one"):
        model.learn(32, reset_num_timesteps=False)


@pytest.mark.exhaustive
def test_environments_in_processes_of_their_own_are_asked_there(paid_by_the_step):
    cloudpickle = pytest.importorskip("cloudpickle")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the other processes cannot import tests
    try:
        model = trained(VecCheckNan(each_wrapped(vec_env=SubprocVecEnv)))
        torch.testing.assert_close(weights_of(model), paid_by_the_step, rtol=0, atol=1e-5)
        model.env.close()
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_environments_that_share_a_signal_ask_it_once_and_it_learns_once():
    asked = []

    class Shared:
        def __call__(self, traj):
            asked.append(traj.extras["observations"][:, 1].tolist())
            return {"time": Channel(traj.extras["observations"][:, 1, 1:], traj.exists)}

    shared = Shared()
    env = DummyVecEnv([lambda: RewardWrapper(Clock(), shared, pay="rollout")] * 2)
    model = A2C("MlpPolicy", env, n_steps=2, seed=0, device="cpu", rollout_buffer_class=CreditBuffer)
    model.learn(4, callback=RewardLog())
    assert asked == [[[0, 1], [0, 1], [0, 2], [0, 2]]]  # (episode, time), step by step
    assert model.rollout_buffer.rewards.tolist() == [[1, 1], [2, 2]]
    env.envs[0].step(0)
    with pytest.raises(ValueError, match="some lanes owe 0 steps and some 1"):
        model.rollout_buffer.settle()


def test_a_model_paid_by_the_rollout_is_saved_and_goes_on_elsewhere(tmp_path):
    model = a2c(RewardVecEnv(clocks(), RAMP, pay="rollout"))
    model.learn(32, callback=RewardLog())
    model.save(tmp_path / "model.zip")
    loaded = A2C.load(tmp_path / "model.zip", env=each_wrapped(), device="cpu")
    loaded.learn(32, callback=RewardLog())
    assert loaded.rollout_buffer.paid["environment"] > 0


def test_who_cannot_ask_for_what_is_owed_is_refused():
    for env in (RewardVecEnv(clocks(), RAMP, pay="rollout"), each_wrapped()):
        with pytest.raises(ValueError, match="A2C has no buffer that asks for it"):
            a2c(env, rollout_buffer_class=RolloutBuffer).learn(32, callback=RewardLog())
        with pytest.raises(ValueError, match="nobody is told to ask them"):
            a2c(env).learn(32)
    pendulum = DummyVecEnv([lambda: RewardWrapper(gymnasium.make("Pendulum-v1"), environment_reward, pay="rollout")])
    with pytest.raises(ValueError, match="SAC has no buffer that asks for it: let them pay by the step"):
        SAC("MlpPolicy", pendulum, device="cpu").learn(1, callback=RewardLog())
    mixed = DummyVecEnv([lambda: RewardWrapper(Clock(), RAMP, pay="rollout"), Clock])
    with pytest.raises(ValueError, match="some of the environments pay by the rollout and some do not"):
        payer(mixed)
    assert payer(clocks()) is None
    found = payer(each_wrapped("step"))
    assert found is not None
    assert (found.pay, found.weights) == ("step", None)


def test_a_buffer_asks_no_longer_once_its_environments_pay_at_once():
    model = a2c(each_wrapped())
    model.learn(32, callback=RewardLog())
    model.set_env(each_wrapped("step"))
    model.learn(32, callback=RewardLog())
    assert model.rollout_buffer.settle is None


def test_dict_observations_reach_signals_and_dict_buffers():
    from payoff.integrations.sb3 import DictCreditBuffer

    class Pair(Clock):
        observation_space = spaces.Dict(number=spaces.Box(-1, 1000, (1,)), time=spaces.Box(-1, 1000, (1,)))

        def _seen(self):
            return {"number": np.array([self.episode], dtype=np.float32), "time": np.array([self.time], dtype=np.float32)}

    recorder = Recorder()
    env = RewardVecEnv(DummyVecEnv([Pair, Pair]), recorder)
    model = PPO(
        "MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu", rollout_buffer_class=DictCreditBuffer
    )
    model.learn(16)
    assert recorder.seen[0].extras["observations"].tolist() == [[[0, 0], [0, 1]]] * 2
