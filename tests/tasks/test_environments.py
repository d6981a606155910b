"""Environments as tasks: starts are seeds, lanes play them."""

import pickle

import gymnasium
import numpy as np
import pytest
import torch

from payoff.pipeline import Environment, Task
from payoff.policies.control import ActorCritic
from payoff.tasks.environments import EnvironmentTask
from payoff.trajectories import StopReason


def test_starts_carry_seeds_and_held_out_ones_are_never_trained_on():
    task = EnvironmentTask("CartPole-v1", seeds=3)
    assert isinstance(task, Task)
    seeds = {start.fields["seed"] for start in task.starts(60, torch.Generator().manual_seed(0))}
    assert seeds == {0, 1, 2}
    held_out = task.held_out_starts(4)
    assert len({start.id for start in held_out}) == 4
    assert min(start.fields["seed"] for start in held_out) >= 2**30
    unlimited = EnvironmentTask("CartPole-v1").starts(100, torch.Generator().manual_seed(0))
    assert len({start.id for start in unlimited}) == 100
    assert max(start.fields["seed"] for start in unlimited) < 2**30


def test_a_start_is_played_turn_by_turn_as_any_interactive_task():
    start = EnvironmentTask("CartPole-v1", max_steps=30).held_out_starts(1)[0]
    assert isinstance(start.environment, Environment)
    env = gymnasium.make("CartPole-v1", max_episode_steps=30)
    env.reset(seed=start.fields["seed"])
    for t in range(30):
        response = start.environment.respond(t % 2)
        observation, reward, terminated, truncated, _ = env.step(t % 2)
        assert np.array_equal(response.observation, observation)
        assert response.reward == reward
        if terminated or truncated:
            break
    assert response.stop == (StopReason.finished if terminated else StopReason.truncated)
    assert start.environment.snapshot() is None


def test_a_start_survives_being_sent_to_another_process():
    start = EnvironmentTask("CartPole-v1").held_out_starts(1)[0]
    start.environment.respond(0)
    start.environment.lanes(2)
    copy = pickle.loads(pickle.dumps(start))
    assert copy.environment.seed == start.environment.seed
    assert copy.environment.respond(0).reward == 1.0


def test_lanes_are_kept_between_rollouts():
    task = EnvironmentTask("CartPole-v1")
    first = task.world.lanes(2).environments
    assert task.world.lanes(3).environments[:2] == first
    task.world.close()
    assert task.world.lanes(1).environments != first[:1]


@pytest.mark.slow
def test_environments_in_processes_play_the_same_episodes():
    torch.manual_seed(0)
    policy = ActorCritic("CartPole-v1", hidden=(8,), lanes=3)
    played = []
    for processes in (False, True):
        task, rng = EnvironmentTask("CartPole-v1", max_steps=15, processes=processes), torch.Generator().manual_seed(1)
        try:
            played.append(policy.rollout(task.starts(4, rng), 2, rng))
        finally:
            task.world.close()
    for name in ("observations", "environment_reward"):
        assert torch.equal(played[0].extras[name], played[1].extras[name])
    for name in ("actions", "length", "stop", "mask"):
        assert torch.equal(getattr(played[0], name), getattr(played[1], name))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="at least 0"):
        EnvironmentTask("CartPole-v1", seeds=-1)
    with pytest.raises(ValueError, match="NoSuchThing"):
        EnvironmentTask("NoSuchThing-v0").world.lanes(1)
    from payoff.examples import four_answers

    with pytest.raises(ValueError, match="environment_reward"):
        EnvironmentTask("CartPole-v1").truth(four_answers())
