"""Rewards of payoff inside gymnasium: what is paid online is what a whole rollout would be paid."""

from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from payoff.grading import signal
from payoff.integrations.gymnasium import OnlineReward, RewardWrapper
from payoff.pipeline import chain, join
from payoff.policies.control import ActorCritic
from payoff.shaping.potentials import potential_shaping
from payoff.signals.environment import environment_reward
from payoff.signals.novelty import CountNovelty
from payoff.tasks.environments import EnvironmentTask
from payoff.trajectories import Channel, Rewards, StopReason, Trajectories


class Ramp(gymnasium.Env):
    """Counts up by 1 or 2; 10 or more ends it."""

    observation_space, action_space = spaces.Box(0, 20, (1,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = float(self.np_random.integers(0, 3))
        return np.array([self.at], dtype=np.float32), {"first": True}

    def step(self, action):
        self.at += 1 + action
        return np.array([self.at], dtype=np.float32), 0.5, self.at >= 10, False, {"mine": 1}


def limited(steps: int):
    return lambda: gymnasium.wrappers.TimeLimit(Ramp(), steps)


def height(traj: Trajectories) -> torch.Tensor:
    return traj.extras["observations"][..., 0]


shaped = chain(environment_reward, partial(potential_shaping, potential=height, discount=0.9))


def played(env: gymnasium.Env, actions: list[int], seed: int = 1) -> list[tuple[float, bool, bool, dict]]:
    env.reset(seed=seed)
    found = []
    for action in actions:
        _, reward, terminated, truncated, info = env.step(action)
        found.append((reward, terminated, truncated, info))
        if terminated or truncated:
            break
    return found


@pytest.mark.parametrize("steps", [4, 50])  # truncated, finished
def test_transitions_paid_one_by_one_are_paid_what_the_whole_rollout_is(steps):
    torch.manual_seed(0)
    policy, rng = ActorCritic(spaces=(Ramp.observation_space, Ramp.action_space)), torch.Generator().manual_seed(0)
    traj = policy.rollout(EnvironmentTask(limited(steps)).starts(3, rng), 2, rng)
    whole = shaped(traj)
    for i in range(len(traj)):
        length = int(traj.length[i])
        found = played(RewardWrapper(limited(steps)(), shaped), traj.actions[i, :length].tolist(), traj.items[i]["seed"])
        for name in ("environment", "potential"):
            assert [f[3]["rewards"][name] for f in found] == pytest.approx(whole[name].value[i, :length].tolist())
        assert [f[0] for f in found] == pytest.approx((whole["environment"].value + whole["potential"].value)[i, :length].tolist())
        assert (found[-1][1], found[-1][2]) == (steps == 50, steps == 4)


def test_an_episode_is_seen_whole_and_paid_at_its_end():
    seen: list[Trajectories] = []

    def count_and_keep(traj: Trajectories) -> Rewards:
        seen.append(traj)
        known = torch.ones(len(traj), 1, dtype=torch.bool)
        return {"steps": Channel(traj.exists.float(), known), "double": Channel(2 * traj.exists.float(), known)}

    env = RewardWrapper(limited(50)(), count_and_keep, pay="episode", weights={"double": 0.5})
    found = played(env, [1] * 9)
    traj = seen[0].check()
    states = traj.extras["observations"][0, :, 0].tolist()
    assert len(seen) == 1
    assert states == [states[0] + 2.0 * t for t in range(len(states))]
    assert states[-1] >= 10 > states[-2]
    assert int(traj.stop[0]) == StopReason.finished
    assert [f[0] for f in found] == [0.0] * (len(found) - 1) + [float(len(found))]
    assert found[-1][3]["rewards"] == {"steps": len(found), "double": 2.0 * len(found)}
    assert found[-1][3]["episode_rewards"] == {
        "steps": len(found),
        "double": 2 * len(found),
        "environment_reward": 0.5 * len(found),
    }
    assert found[-1][3]["mine"] == 1
    again = played(env, [0] * 20, seed=2)
    assert int(seen[1].length[0]) == len(again)  # nothing is left of the episode before


def test_a_grader_that_is_a_plain_function_gets_the_episode_by_name():
    def climbed(observations, actions, environment_rewards):
        assert len(observations) == len(actions) + 1 == len(environment_rewards) + 1
        return float(observations[-1, 0] - observations[0, 0]) if actions[0] else None

    env = RewardWrapper(limited(3)(), signal(climbed), pay="episode")
    assert [f[0] for f in played(env, [1, 1, 1])] == [0, 0, 6]
    refused = played(env, [0, 1, 1])
    assert [f[0] for f in refused] == [0, 0, 0]
    assert refused[-1][3]["rewards_unknown"] == ["climbed"]
    assert "rewards_unknown" not in refused[0][3]


def test_the_environments_own_reward_is_told_and_not_paid_unless_asked_for():
    def nothing(traj: Trajectories) -> Rewards:
        return {"nothing": Channel(torch.zeros(len(traj), 1), torch.ones(len(traj), 1, dtype=torch.bool))}

    found = played(RewardWrapper(limited(3)(), nothing), [0, 0, 0])
    assert [(f[0], f[3]["environment_reward"]) for f in found] == [(0.0, 0.5)] * 3
    both = join({"own": environment_reward, "nothing": nothing})
    assert played(RewardWrapper(limited(3)(), both, weights={"own": 4.0}), [0])[0][0] == 2.0


@pytest.mark.parametrize("pay", ["step", "episode"])
def test_parts_that_learn_do_so_on_what_was_seen_every_so_many_steps(pay):
    counts = CountNovelty(power=1.0)
    env = RewardWrapper(limited(4)(), counts, pay=pay, learn_every=4)
    first = played(env, [0] * 4)
    assert int(counts.counts.sum()) == 4
    second = played(env, [0] * 4)
    assert int(counts.counts.sum()) == 8
    assert sum(f[0] for f in first) == 4
    assert sum(f[0] for f in second) == 2  # each of the four states was met once before


def test_paying_by_the_rollout_pays_what_paying_by_the_step_does():
    every, late = (OnlineReward(shaped, Ramp.observation_space, Ramp.action_space, 2, pay=pay) for pay in ("step", "rollout"))
    rng, paid = np.random.default_rng(0), []
    for online in (every, late):
        online.begin(slice(None), np.array([[1.0], [2.0]]))
    for t in range(5):
        seen, own, over = rng.random((2, 1)), rng.random(2), np.array([t == 3, False])
        given = (np.array([0, 1]), seen, own, over, np.array([False, t == 2]))
        paid.append(every.step(*given).total)
        assert not late.step(*given).total.any()
    settled = late.settle()
    np.testing.assert_allclose(settled.total, np.concatenate(paid), rtol=1e-6)
    assert set(settled.channels) == {"environment", "potential"}
    with pytest.raises(ValueError, match="nothing to settle"):
        late.settle()


def test_a_wrapper_that_pays_by_the_rollout_owes_until_it_is_asked(monkeypatch):
    def taken(traj: Trajectories) -> Rewards:
        return {"taken": Channel(traj.actions.reshape(-1, 1).float(), traj.exists)}

    both = join({"taken": taken, "shaped": shaped})
    at_once, late = (RewardWrapper(limited(3)(), both, pay=pay) for pay in ("step", "rollout"))
    for env in (at_once, late):
        env.reset(seed=0)
    action, paid = np.zeros((), dtype=int), []
    for move in (0, 1, 1):
        action[...] = move  # one array, written over
        paid.append(at_once.step(action)[1])
        assert late.step(action)[1] == 0
    np.testing.assert_allclose(late.settle().total, paid, rtol=1e-6)
    monkeypatch.setattr("payoff.integrations.gymnasium.MOST_OWED", 2)
    late.reset()
    late.step(action), late.step(action)
    with pytest.raises(RuntimeError, match="2 steps were not settled"):
        late.step(action)


def test_bad_arguments_are_refused():
    env = RewardWrapper(limited(3)(), environment_reward, weights={"own": 1.0})
    with pytest.raises(KeyError, match="weight for 'own'"):
        played(env, [0])
