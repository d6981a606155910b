"""Transitions asked about in plain arrays are paid, to the last bit, what trajectories of one action are paid."""

from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces

from payoff.grading import signal
from payoff.integrations.gymnasium import OnlineReward
from payoff.integrations.transitions import Transitions, asked_by_transition
from payoff.pipeline import NonFiniteError, chain, join, on
from payoff.shaping.potentials import StatePotential, potential_shaping
from payoff.signals.environment import environment_reward
from payoff.signals.novelty import CountNovelty, NearestNeighbourNovelty, RandomNetworkDistillation
from payoff.trajectories import Channel, Rewards, Trajectories

LANES, SIZE = 3, 2
SPACES = spaces.Box(-9, 9, (SIZE,)), spaces.Discrete(2)


def height(traj: Trajectories) -> torch.Tensor:
    return -traj.extras["observations"].square().sum(2)


def doubled(channel: Channel, traj: Trajectories) -> Channel:
    return Channel(2 * channel.value, channel.valid)


def unsure(traj: Trajectories) -> Rewards:
    return {"mine": Channel(traj.extras["observations"][:, 1, :1], traj.actions > 0)}


potential = partial(potential_shaping, potential=height, discount=0.9)
by_state = partial(potential_shaping, potential=StatePotential(lambda x: np.sin(x).sum(1, dtype=np.float64)), discount=0.9)


def bonuses() -> dict:
    torch.manual_seed(0)
    return {
        "counts": CountNovelty(resolution=0.7),
        "near": NearestNeighbourNovelty(k=2),
        "rnd": RandomNetworkDistillation(size=SIZE, hidden=8, outputs=4),
        "episode": CountNovelty(scope="episode", power=2.0),
    }


SIGNALS = {
    "own": lambda: environment_reward,
    "scaled": lambda: partial(environment_reward, scale=0.3),
    "potential": lambda: chain(environment_reward, potential),
    "into": lambda: chain(partial(environment_reward, scale=0.3), partial(by_state, into="environment", weight=0.7), potential),
    "bonuses": lambda: chain(join({"own": environment_reward, **bonuses()}), by_state),
    "into unknown": lambda: chain(unsure, partial(potential, into="mine"), on("mine", doubled)),
    "mixed": lambda: chain(join({"a": chain(join({"b": environment_reward}), by_state), "c": unsure}), potential),
}


def steps(count: int = 12, nan: bool = False):
    """Actions, observations, rewards, and ends of both kinds; lanes end at different times and begin again."""
    rng = np.random.default_rng(0)
    for t in range(count):
        over = rng.random((2, LANES)) < 0.2
        reward = rng.normal(size=LANES).astype(np.float32)
        if nan and t == count - 1:
            reward[1] = np.nan
        seen = rng.normal(size=(LANES, SIZE)).round(1).astype(np.float32)
        yield rng.integers(0, 2, LANES), seen, reward, over[0], over[1] & ~over[0]


def online(reward, **options) -> OnlineReward:
    made = OnlineReward(reward, *SPACES, LANES, **options)
    made.begin(slice(None), np.ones((LANES, SIZE)))
    return made


@pytest.mark.parametrize("name", list(SIGNALS))
def test_arrays_are_paid_to_the_bit_what_trajectories_are_paid(name):
    quick, plain = online(SIGNALS[name](), learn_every=4), online(SIGNALS[name](), learn_every=4)
    plain._ask = lambda now: plain.signal(now.traj)
    for t, step in enumerate(steps()):
        torch.manual_seed(t)  # what learns shuffles
        ours = quick.step(*step)
        torch.manual_seed(t)
        theirs = plain.step(*step)
        assert list(ours.channels) == list(theirs.channels)
        assert list(ours.unknown) == list(theirs.unknown)
        for channel in ours.channels:
            np.testing.assert_array_equal(ours.channels[channel], theirs.channels[channel])
        np.testing.assert_array_equal(ours.total, theirs.total)
        assert ours.total.dtype == theirs.total.dtype == np.float32
        assert not any(np.shares_memory(ours.total, told) for told in [*ours.channels.values(), step[2]])
        for made in (quick, plain):
            if (ended := np.flatnonzero(step[3] | step[4])).size:
                made.begin(ended.tolist(), np.full((len(ended), SIZE), 0.5))


@pytest.mark.parametrize("name", ["own", "potential", "into", "bonuses", "mixed"])
def test_what_is_not_a_number_is_refused_in_the_same_words_or_paid_alike(name):
    told = []
    for plainly in (False, True):
        made = online(SIGNALS[name]())
        if plainly:
            made._ask = lambda now, made=made: made.signal(now.traj)
        try:
            told.append([made.step(*step).total.tolist() for step in steps(nan=True)][-1][1])
        except NonFiniteError as error:
            told.append((error.part, str(error).partition("trajectory")[0]))
    assert str(told[0]) == str(told[1])
    assert isinstance(told[0], float) == (name == "own")  # a signal alone is looked at by nobody


def test_numbers_whose_sum_is_beyond_every_float_are_no_fault():
    made = online(chain(environment_reward, potential))
    step = next(iter(steps()))
    with np.errstate(over="ignore"):
        paid = made.step(step[0], step[1], np.full(LANES, 3e38, dtype=np.float32), *step[3:])
    assert paid.channels["environment"].tolist() == pytest.approx([3e38] * LANES)


def test_a_part_that_says_how_is_asked_in_arrays_and_any_other_in_trajectories():
    class Speed:
        def __call__(self, traj: Trajectories) -> Rewards:
            raise AssertionError("asked in trajectories")

        def of_transitions(self):
            return lambda now: {"speed": np.abs(now.after - now.before).sum(1)}

    def moved(observations):
        return float(abs(observations[1] - observations[0]).sum())

    made = online(chain(join({"speed": Speed(), "moved": signal(moved)}), by_state))
    for t, step in enumerate(steps(4)):
        paid = made.step(*step).channels
        assert paid["speed"] == pytest.approx(paid["moved"], rel=1e-6), t


def test_errors_of_shapes_names_and_options_are_those_of_the_signal():
    two = join({"a": environment_reward, "b": chain(environment_reward, partial(potential, into="lost"))})
    flat = chain(environment_reward, partial(potential_shaping, potential=lambda traj: height(traj)[:, :1]))
    late = chain(environment_reward, partial(potential, discount=1.5))
    short = chain(environment_reward, partial(by_state, potential=StatePotential(lambda x: x)))
    for bad, told in (
        (two, "no reward channel 'lost'"),
        (flat, r"\[N, T\+1\]"),
        (late, "discount must lie"),
        (short, "for each of"),
    ):
        with pytest.raises((ValueError, KeyError), match=told):
            online(bad).step(*next(iter(steps())))


def test_a_state_potential_is_asked_about_new_states_only():
    asked = []

    def score(states):
        asked.append(len(states))
        return states[:, 0].astype(np.float64)

    ask = asked_by_transition(chain(environment_reward, partial(potential_shaping, potential=StatePotential(score), discount=0.5)))
    now, state = Transitions(LANES, SIZE, np.asarray(0)), np.zeros((LANES, SIZE), dtype=np.float32)
    for t in range(1, 4):
        state, before = np.full((LANES, SIZE), t, dtype=np.float32), state
        none = np.zeros(LANES, dtype=bool)
        paid = ask(now.happen(before, state, np.zeros(LANES, dtype=np.int64), none.astype(np.float32), none))
        assert paid["potential"].tolist() == [0.5 * t - (t - 1)] * LANES
    assert asked == [LANES] * 4  # the first states too
