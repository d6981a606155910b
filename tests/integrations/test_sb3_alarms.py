"""Alarms in Stable-Baselines3: rows are made of whole episodes, once each, and a gamed reward raises the finding."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

pytest.importorskip("stable_baselines3")

from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from payoff.integrations.sb3 import CreditBuffer, RewardVecEnv
from payoff.integrations.sb3_alarms import AlarmCallback, means
from payoff.pipeline import join
from payoff.signals.environment import environment_reward
from payoff.trajectories import Channel


class Levers(gymnasium.Env):
    """Eight pulls of one of two levers. The reward pays the second one; `good` is the lever that was wanted, told in the info."""

    observation_space, action_space = spaces.Box(0, 8, (1,)), spaces.Discrete(2)

    def __init__(self, good: int, pulls: int = 8) -> None:
        self.good, self.pulls = good, pulls

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        self.time += 1
        info = {"truth": float(action == self.good), "spoiled": np.nan}
        return np.full(1, self.time, dtype=np.float32), float(action), self.time == self.pulls, False, info


def levers(good=0, count=2, pulls=8):
    return DummyVecEnv([lambda: Levers(good, pulls)] * count)


def learner(good):
    return PPO("MlpPolicy", levers(good), n_steps=32, batch_size=64, n_epochs=2, learning_rate=4e-4, seed=0, device="cpu")


@pytest.mark.slow
def test_a_gamed_reward_raises_the_finding_is_logged_and_ends_training_if_asked_to():
    written: dict[str, float] = {}

    class Keep(KVWriter):
        def write(self, values, excluded, step=0):
            written.update(values)

        def close(self):
            pass

    told = []
    callback = AlarmCallback(stop_on=["reward-truth-part"], tell=told.append)
    model = learner(good=0)
    model.set_logger(Logger(None, [Keep()]))
    model.learn(64 * 80, callback=callback)
    (found,) = (alarm for alarm in callback.alarms.raised if alarm.name == "reward-truth-part")
    assert found in told
    assert found.kind == "finding"
    assert written["alarm/reward-truth-part"] == found.severity
    assert model.num_timesteps == found.update + 2  # one step of two lanes after it
    assert found.says.startswith("Over time steps ")


@pytest.mark.slow
def test_a_reward_that_is_the_truth_raises_no_finding():
    callback = AlarmCallback()
    learner(good=1).learn(64 * 64, callback=callback)
    assert not [alarm for alarm in callback.alarms.raised if alarm.kind == "finding"]
    assert callback.alarms.rows[-1]["truth"] > callback.alarms.rows[0]["truth"] + 2


def test_every_episode_is_in_one_row_and_rows_hold_their_means():
    callback = AlarmCallback(episodes=4)
    model = A2C("MlpPolicy", levers(pulls=5), n_steps=4, seed=0, device="cpu")
    model.learn(160, callback=callback)
    rows = callback.alarms.rows
    # Two lanes of 5 pulls: two episodes end every 5 steps; rollouts end every 4 steps. Of 80 steps each row takes 4 episodes,
    # at the first rollout's end from 10 steps of each lane on: 12, 20, 32, 40, 52, 60, 72, 80.
    assert [row["update"] for row in rows] == [2 * steps for steps in (12, 20, 32, 40, 52, 60, 72, 80)]
    assert all(row["length"] == 5 and row["invalid"] == 0 for row in rows)
    assert all(row["truth"] == pytest.approx(5 - row["reward"]) for row in rows)
    # A2C has trained twice before its third rollout ends, so there is an entropy.
    assert rows[0]["entropy"] == pytest.approx(np.log(2), abs=0.05)


def test_an_episode_that_is_under_way_goes_on_with_the_next_call_and_starts_anew_with_a_reset():
    callback = AlarmCallback(episodes=1)
    model = A2C("MlpPolicy", levers(count=1, pulls=6), n_steps=4, seed=0, device="cpu")
    model.learn(4, callback=callback)
    model.learn(4, callback=callback, reset_num_timesteps=False)
    assert [row["length"] for row in callback.alarms.rows] == [6]
    model.learn(8, callback=callback)
    assert [(row["update"], row["length"]) for row in callback.alarms.rows] == [(8, 6)]


def test_off_policy_algorithms_are_watched_as_well_and_what_is_nan_is_left_out():
    callback = AlarmCallback(checker="spoiled", episodes=2)
    model = DQN("MlpPolicy", levers(count=1), learning_starts=8, train_freq=4, seed=0, device="cpu")
    model.learn(96, callback=callback)
    assert [row["update"] for row in callback.alarms.rows] == [16, 32, 48, 64, 80, 96]
    lacks = callback.alarms.unwatched()
    assert {"checker-part", "groups-flat", "kl-runaway"} <= set(lacks)
    assert "reward-truth-part" not in lacks


def second(traj):
    """Another channel: the time, which is unknown in the middle of an episode."""
    return {"time": Channel(traj.extras["observations"][:, 1:, 0].float(), traj.extras["observations"][:, 1:, 0] != 4)}


@pytest.mark.parametrize("pay", ["step", "rollout"])
def test_the_channels_of_our_environment_are_read_with_its_weights(pay):
    env = RewardVecEnv(
        levers(), join({"environment": environment_reward, "time": second}), weights={"environment": 1.0, "time": 0.5}, pay=pay
    )
    callback = AlarmCallback(truth="environment_reward")
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu", rollout_buffer_class=CreditBuffer)
    model.learn(256, callback=callback)
    row = callback.alarms.rows[0]
    assert callback.alarms.weights == {"environment": 1.0, "time": 0.5}
    assert row["reward"] == pytest.approx(row["reward/environment"] + 0.5 * row["reward/time"])
    time = sum(range(1, 9)) - 4
    assert row["reward/time"] == pytest.approx(time if pay == "step" else time / 8)
    if pay == "step":
        assert row["invalid"] == 1
        assert row["truth"] == pytest.approx(row["reward/environment"])


def test_means_are_over_the_episodes_that_have_a_number():
    assert means([{"a": 1.0}, {"a": 3.0, "b": np.nan}, {"b": 4.0, "c": np.inf}]) == {"a": 2.0, "b": 4.0}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"episodes": 0}, "episodes must be at least 1, got 0"),
        ({"stop_on": ["part"]}, "'part' is no alarm; there are reward-truth-part"),
    ],
)
def test_options_out_of_range_are_one_line(options, says):
    with pytest.raises(ValueError) as caught:
        AlarmCallback(**options)
    assert says in str(caught.value)
