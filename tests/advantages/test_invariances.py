"""What must hold for every credit and every advantage of the catalogue, on random batches.

A batch here has groups in any order, tool text, branches, one-column and dense channels, unknown numbers, and truncated rollouts.
"""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from payoff import catalogue
from payoff.pipeline import checked
from payoff.trajectories import Channel, Trajectories

REGISTERED = {key: record.sees for key, record in catalogue.index().items() if key[0] in ("credit", "advantage")}
NUMBERS = [0.0, 1.0, -1.0, 0.1, 0.7, 0.97, -2.5]

# Options that take another way through the code than the defaults.
STATES = ("values", "log_reward")  # extras of states, one more than there are actions
# These numbers altogether: they take scores in 0..1, or rows without verdict, and are tried in files of their own.
REFUSES = {("credit", "prm-gflownet"), ("credit", "rest-mcts"), ("credit", "reward-gradient")}
NEEDED = {  # without which a method refuses these numbers
    ("advantage", "bnpo"): {"low": -40.0, "high": 40.0},
    ("advantage", "duration-aware-pg"): {"of": "times"},
    ("advantage", "exact-optimal-token-baseline"): {"squares": "times"},
    ("advantage", "max-rl"): {"low": -40.0},
    ("advantage", "vppo"): {"corrupted": "ref"},
    ("credit", "revibranch"): {"importance": "times"},
}
OPTIONS = {
    ("credit", "return-to-go"): [{"discount": 0.9, "per": per} for per in ("position", "action", "step")] + [{"discount": 0.0}],
    ("credit", "lambda-return"): [{"discount": 0.9, "trace": 0.0}, {"trace": 1.0}],
    ("credit", "pure"): [{"temperature": 1.0}],
    ("advantage", "grpo"): [{"convention": name} for name in ("trl", "verl", "nemo-rl")],
    ("advantage", "rloo"): [{"over": "step"}, {"over": "step", "ended": "absent"}, {"over": "siblings"}],
    ("advantage", "turn-rloo"): [{"ended": "zero"}, {"ended": "absent"}],
    ("advantage", "turn-grpo"): [{"scale": "none"}],
    ("advantage", "canon"): [{"between": 0.3, "asymmetry": 0.7}],
    ("advantage", "adora"): [{"rule": "vision", "grpo_convention": "paper"}],
    ("advantage", "gpg"): [{"convention": "verl"}],
    ("advantage", "psr-nsr"): [{"positive": None}],
    ("advantage", "opo"): [{"own": "left-out"}],
    ("advantage", "optimal-token-baseline"): [{"own": "left-out"}, {"align": "position", "squares": "gain"}],
    ("advantage", "pass-at-k"): [{"k": 2}, {"k": 2, "against": "others"}, {"k": 2, "against": "group"}],
    ("advantage", "grpo-passk"): [{"scale": "none"}],
    ("advantage", "mean-baseline"): [{"over": "step"}],
    ("advantage", "reinforce-plus-plus-baseline"): [{"convention": "verl"}],
    ("advantage", "standardise"): [
        {"over": "step", "unit": "step", "ended": "zero"},
        {"over": "step", "unit": "action", "eps": 1e-6},
        {"over": "group", "unit": "step", "scale": "rms", "baseline": "none"},
        {"over": "group", "unit": "action", "scale_over": "step"},
    ],
}
CASES = [(key, options) for key in sorted(REGISTERED.keys() - REFUSES) for options in [NEEDED.get(key, {}), *OPTIONS.get(key, [])]]


def fresh(case):
    """The method with its options; a module in its first state."""
    (kind, name), options = case
    part = catalogue.find(name, kind)
    return part(**options) if isinstance(part, type) and issubclass(part, nn.Module) else functools.partial(part, **options)


def label(case) -> str:
    return "-".join([*case[0], *(str(option) for option in case[1].values())])


recipes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "n": st.sampled_from([1, 2, 4, 7]),
        "t": st.sampled_from([1, 2, 6]),
        "branches": st.booleans(),
        "dense_value": st.booleans(),
        "dense_valid": st.booleans(),
        "unknown": st.sampled_from([0.0, 0.2, 0.6, 1.0]),
        "alike": st.booleans(),
    }
)


def batch(recipe) -> tuple[Channel, Trajectories, torch.Generator]:
    rng, n, t = torch.Generator().manual_seed(recipe["seed"]), recipe["n"], recipe["t"]
    length = torch.randint(1, t + 1, (n,), generator=rng)
    exists = torch.arange(t) < length[:, None]
    steps = (torch.rand(n, t, generator=rng) > 0.5).cumsum(1)
    branch = (torch.rand(n, generator=rng) > 0.7) & recipe["branches"]
    traj = Trajectories(
        mask=exists & (torch.rand(n, t, generator=rng) > 0.25),
        length=length,
        group=torch.randint(0, 3, (n,), generator=rng),
        step=torch.where(exists, steps - steps[:, :1], -1).int(),
        stop=torch.randint(0, 4, (n,), generator=rng),
        actions=torch.zeros(n, t, dtype=torch.int64),
        logp={name: torch.where(exists, -torch.rand(n, t, generator=rng), 0) for name in ("old", "ref")},
        id=torch.arange(n) + 100,
        parent=torch.where(branch, 1000, -1),
        fork=torch.where(branch, (torch.rand(n, generator=rng) * length).long(), 0),
        extras={
            **{name: torch.randn(n, t + 1, generator=rng) for name in STATES},
            **{name: torch.rand(n, t, generator=rng) + 0.1 for name in ("token_scores", "std", "gain", "times", "entropy")},
            "greedy": torch.rand(n, generator=rng) > 0.5,
        },
    )
    value = torch.tensor(NUMBERS)[torch.randint(0, len(NUMBERS), (n, t if recipe["dense_value"] else 1), generator=rng)]
    if recipe["alike"]:  # rollouts that all earned the same
        value = value[:1].expand_as(value).clone()
    valid = torch.rand(n, t if recipe["dense_valid"] else 1, generator=rng) >= recipe["unknown"]
    return Channel(value, valid), traj, rng


def dense(channel: Channel, traj: Trajectories) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and validity where the trajectory exists."""
    here = traj.exists
    return torch.where(here, channel.value.expand(here.shape), 0), channel.valid.expand(here.shape) | ~here


def per_action(traj: Trajectories) -> dict[str, torch.Tensor]:
    """The extras that have a number for every action or state."""
    return {name: of for name, of in traj.extras.items() if of.ndim > 1}


def assert_same(one: Channel, other: Channel, traj: Trajectories, tolerance: float = 0.0) -> None:
    for a, b in zip(dense(one, traj), dense(other, traj), strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def select(channel: Channel, rows: torch.Tensor, width: int) -> Channel:
    return Channel(channel.value[rows][:, :width], channel.valid[rows][:, :width])


every_method = pytest.mark.parametrize("case", CASES, ids=label)
quick = settings(max_examples=6, deadline=None)


def test_there_are_methods_to_test():
    assert {("credit", "total"), ("credit", "pure"), ("advantage", "grpo"), ("advantage", "running-mean")} <= set(REGISTERED)


@every_method
@quick
@given(recipes)
def test_what_comes_out_is_a_sound_channel_of_the_same_type(case, recipe):
    channel, traj, _ = batch(recipe)
    for dtype in (torch.float32, torch.float64):
        result = checked(label(case), fresh(case)(Channel(channel.value.to(dtype), channel.valid), traj), traj)
        value, valid = dense(result, traj)
        assert result.value.dtype == dtype
        assert value.isfinite().all()
        assert not value[~valid].any(), "an unknown number must be written as 0"


@every_method
@quick
@given(recipes)
def test_padding_and_unknown_numbers_are_never_read(case, recipe):
    channel, traj, _ = batch(recipe)
    beyond, last = ~traj.exists, torch.arange(traj.width + 1) > traj.length[:, None]

    def spoilt(junk: float) -> tuple[torch.Tensor, torch.Tensor]:
        value = torch.where(channel.valid, channel.value, junk)
        value = value if value.shape[1] == 1 else torch.where(beyond, junk, value)
        logp = {name: torch.where(beyond, junk, of) for name, of in traj.logp.items()}
        extras = {name: torch.where(last if name in STATES else beyond, junk, of) for name, of in per_action(traj).items()}
        result = fresh(case)(Channel(value, channel.valid), traj.replace(logp=logp, extras=extras))
        return result.value, result.valid

    clean = spoilt(0.0)
    for junk in (float("nan"), float("inf"), 1e30):
        for a, b in zip(clean, spoilt(junk), strict=True):
            assert torch.equal(a, b)


@every_method
@quick
@given(recipes)
def test_permuting_the_batch_permutes_the_result(case, recipe):
    channel, traj, rng = batch(recipe)
    order = torch.randperm(len(traj), generator=rng)
    shuffled = traj.select(order)
    width = shuffled.width
    expected = select(fresh(case)(channel, traj), order, width)
    assert_same(fresh(case)(select(channel, order, width), shuffled), expected, shuffled, 2e-5)


@every_method
@quick
@given(recipes)
def test_relabelling_the_groups_changes_nothing(case, recipe):
    channel, traj, _ = batch(recipe)
    names = torch.tensor([2**61, -5, 17])
    expected = fresh(case)(channel, traj)
    assert_same(fresh(case)(channel, traj.replace(group=names[traj.group])), expected, traj, 2e-5)


@every_method
@quick
@given(recipes)
def test_a_rollout_without_a_verdict_changes_no_other(case, recipe):
    channel, traj, rng = batch(recipe)
    known = torch.rand(len(traj), generator=rng) > 0.4
    known[0] = True
    result = fresh(case)(Channel(channel.value, channel.valid & known[:, None]), traj)
    rows = known.nonzero().squeeze(1)
    without = traj.select(rows)
    expected = fresh(case)(select(channel, rows, without.width), without)
    assert_same(select(result, rows, without.width), expected, without, 2e-5)
    assert not dense(result, traj)[0][~known].any()


@every_method
@quick
@given(recipes)
def test_a_method_that_sees_items_sees_items_only(case, recipe):
    channel, traj, _ = batch(recipe)
    together = fresh(case)(channel, traj)
    sees = REGISTERED[case[0]]
    if sees == "batch":
        return
    for number in traj.group.unique() if sees == "group" else range(len(traj)):
        rows = (traj.group == number).nonzero().squeeze(1) if sees == "group" else torch.tensor([number])
        part = traj.select(rows)
        apart = fresh(case)(select(channel, rows, part.width), part)
        assert_same(apart, select(together, rows, part.width), part, 2e-5)


@every_method
@quick
@given(recipes)
def test_wider_padding_changes_nothing(case, recipe):
    channel, traj, _ = batch(recipe)
    widen = lambda x, fill: torch.nn.functional.pad(x, (0, 3), value=fill)
    wide = Trajectories(
        **{name: getattr(traj, name) for name in ("length", "group", "stop", "id", "parent", "fork")},
        mask=widen(traj.mask, False),
        step=widen(traj.step, -1),
        actions=widen(traj.actions, 0),
        logp={name: widen(logp, 0.0) for name, logp in traj.logp.items()},
        extras={**traj.extras, **{name: widen(of, 0.0) for name, of in per_action(traj).items()}},
    )
    grow = lambda x, fill: x if x.shape[1] == 1 and traj.width > 1 else widen(x, fill)
    result = fresh(case)(Channel(grow(channel.value, 0.0), grow(channel.valid, True)), wide)
    expected = fresh(case)(channel, traj)
    trim = lambda x: x if x.shape[1] == 1 else x[:, : traj.width]
    assert_same(Channel(trim(result.value), trim(result.valid)), expected, traj, 2e-5)
