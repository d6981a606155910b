"""How parts compose, that validity flows through, and that errors name the part."""

import functools

import pytest
import torch
from torch import nn

from payoff.catalogue import method
from payoff.contents import inside, learners, needs, part_name, sees
from payoff.examples import four_answers
from payoff.pipeline import NonFiniteError, chain, everywhere, join, on, weigh, weighted_sum
from payoff.trajectories import Channel, Rewards, Trajectories, constant, place_outcome


def pay(*values: float | None):
    """A signal that pays these outcomes; None is no verdict."""

    def signal(traj: Trajectories) -> Rewards:
        valid = torch.tensor([v is not None for v in values])
        reasons = {int(i): "no idea" for i in traj.id[~valid].tolist()}
        return {"paid": place_outcome(torch.tensor([float(v or 0) for v in values]), valid, traj, reasons)}

    return signal


@method("test-double", kind="credit", needs=("values",), sees="group")
def double(channel: Channel, traj: Trajectories, *, by: float = 2.0) -> Channel:
    return channel._replace(value=by * channel.value)


class Learner(nn.Module):
    needs = frozenset({"ref"})

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, traj: Trajectories) -> Rewards:
        return {"learnt": constant(self.weight.detach().expand(len(traj)), torch.ones(len(traj), dtype=torch.bool))}

    def learn(self, traj: Trajectories, rewards: Rewards) -> dict:
        return {}


def test_chain_shapes_in_turn_and_on_leaves_other_channels_alone():
    traj = four_answers()
    signal = chain(
        join({"a": pay(1, 2, 3, 4), "b": pay(1, 1, 1, 1)}), on("a", double, functools.partial(double, by=10.0)), on("b", double)
    )
    rewards = signal(traj)
    assert rewards["a"].value.sum(1).tolist() == [20, 40, 60, 80]
    assert rewards["b"].value.sum(1).tolist() == [2, 2, 2, 2]


def test_join_prefixes_the_channels_of_a_signal_with_several():
    two = lambda traj: {**pay(1, 1, 1, 1)(traj), "more": constant(torch.ones(4), torch.ones(4, dtype=torch.bool))}
    assert set(join({"x": two, "y": pay(0, 0, 0, 0)})(four_answers())) == {"x/paid", "x/more", "y"}


def test_a_weighted_sum_drops_what_any_channel_does_not_know_or_skips_it():
    traj = four_answers()
    a = pay(1, None, 3, None)(traj)["paid"]
    b = pay(10, 20, None, None)(traj)["paid"]
    dropped = weighted_sum({"a": a, "b": b}, {"a": 2.0, "b": 1.0})
    skipped = weighted_sum({"a": a, "b": b}, {"a": 2.0, "b": 1.0}, missing="skip")
    end = (traj.length - 1)[:, None]
    assert dropped.valid.gather(1, end)[:, 0].tolist() == [True, False, False, False]
    assert skipped.valid.gather(1, end)[:, 0].tolist() == [True, True, True, False]
    assert skipped.value.gather(1, end)[:, 0].tolist() == [12, 20, 6, 0]
    assert dropped.reasons == {1: "no idea", 2: "no idea", 3: "no idea"}


def test_weigh_runs_each_channel_down_its_own_path_then_the_common_one():
    traj = four_answers()
    rewards = {
        "a": constant(torch.ones(4), torch.ones(4, dtype=torch.bool)),
        "b": constant(torch.ones(4), torch.ones(4, dtype=torch.bool)),
    }
    target = weigh({"a": [double], "b": []}, mix={"a": 1.0, "b": -0.5}, then=[functools.partial(double, by=100.0)])
    assert target(rewards, traj).value[:, 0].tolist() == [150] * 4
    mixed = weigh({"a": [], "b": []}, mix=lambda ends, traj: ends["a"])
    assert mixed(rewards, traj).value.tolist() == rewards["a"].value.tolist()


def test_weigh_refuses_at_once_what_can_never_work():
    with pytest.raises(ValueError, match="no paths"):
        weigh({})
    with pytest.raises(ValueError, match=r"\['b'\] are only in one"):
        weigh({"a": []}, mix={"a": 1.0, "b": 1.0})
    with pytest.raises(KeyError, match="no reward channel 'b'; there are"):
        weigh({"b": []})({"a": everywhere({}, four_answers())}, four_answers())


def test_own_reward_is_what_the_path_pays_before_it_becomes_credit():
    traj = four_answers()

    @method("test-halve", kind="shaping")
    def halve(channel, traj):
        return channel._replace(value=channel.value / 2)

    @method("test-pays", kind="credit", pays=True)
    def pays(channel, traj):
        return channel._replace(value=channel.value + (channel.value != 0))

    target = weigh({"paid": [halve, pays, double]})
    own = target.own_reward(pay(2, 4, 6, None)(traj), traj)
    assert own.value[:3, 0].tolist() == [2, 3, 4]
    assert own.valid[:, 0].tolist() == [True, True, True, False]
    assert own.reasons == {3: "no idea"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda traj: {"x": Channel(torch.ones(4, 2), torch.ones(4, 1, dtype=torch.bool))}, r"must be \[N, T\] = \[4, 3\]"),
        (lambda traj: {"x": Channel(torch.ones(4, 3, dtype=torch.int64), torch.ones(4, 1, dtype=torch.bool))}, "floating"),
        (lambda traj: {"x": torch.ones(4, 3)}, "must give a Channel, gave Tensor"),
        (lambda traj: torch.ones(4, 3), "dict of channels"),
    ],
)
def test_what_a_part_gives_is_checked_and_the_error_names_it(bad, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        chain(bad)(four_answers())
    assert "<lambda>" in str(error.value)


def test_nan_is_an_error_only_where_something_exists_and_is_claimed_to_be_known():
    traj = four_answers()
    value = torch.zeros(4, 3)
    value[1, 2] = value[3, 1] = float("nan")  # beyond the end
    value[0, 1] = float("inf")
    valid = torch.ones(4, 3, dtype=torch.bool)
    valid[0, 1] = False
    chain(lambda traj: {"x": Channel(value, valid)})(traj)
    value[2, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="gave nan for trajectory 2, marked as valid") as error:
        chain(lambda traj: {"x": Channel(value, valid)})(traj)
    assert error.value.id == 2


def test_needs_and_sees_and_learners_are_found_through_everything():
    learner = Learner()
    part = chain(functools.partial(join({"x": learner, "y": pay(1, 1, 1, 1)})), on("x", functools.partial(double, by=3.0)))
    assert needs(part) == {"values", "ref"}
    assert sees(part) == "group"
    assert learners([part, [part]]) == [learner]
    assert list(part.parameters()) == [learner.weight]
    assert "_inside.0" in next(iter(part.state_dict()))


def test_everything_inside_comes_once_even_in_a_circle():
    circle: list = [double]
    circle.append(circle)
    assert list(inside(circle)) == [double]


def test_parts_are_called_by_their_registered_names():
    assert part_name(functools.partial(functools.partial(double, by=1.0))) == "test-double"
    assert part_name(Learner()) == "Learner"
