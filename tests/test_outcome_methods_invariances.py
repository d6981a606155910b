"""What must hold for methods of outcomes 0 and 1, on random batches: padding, order, names of groups, numbers nobody knows."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.advantages.group import mean_baseline
from payoff.credit.returns import total
from payoff.losses.implicit_actor_critic import implicit_actor_critic
from payoff.losses.negative_aware import negative_aware
from payoff.losses.random_policy_valuation import random_policy_valuation
from payoff.pipeline import Evaluation
from payoff.sampling.step_candidates import extend_by_reward
from payoff.shaping.noise_correction import backward_correction, forward_correction
from payoff.shaping.unlikeliness import unlikeliness
from payoff.signals.chi2 import chi2_penalty
from payoff.trajectories import Channel, Trajectories, place_outcome

F64 = torch.float64
SHAPINGS = {
    "noise-backward": functools.partial(backward_correction, false_positive=0.1, false_negative=0.2),
    "noise-forward": functools.partial(forward_correction, false_negative=0.2),
    "unlikeliness": unlikeliness,
    "chi2": lambda channel, traj: chi2_penalty(traj)["chi2"],
    "chi2-plain": lambda channel, traj: chi2_penalty(traj, form="chi2")["chi2"],
}


def nft(evaluation, traj, channel, **options):
    return negative_aware(evaluation, traj, mean_baseline(total(channel, traj), traj), **options).terms


LOSSES = {
    "nft": nft,
    "nft-sequence": functools.partial(nft, level="sequence"),
    "pacs": lambda e, traj, channel: implicit_actor_critic(e, traj, total(channel, traj)).terms,
    "pacs-own": lambda e, traj, channel: implicit_actor_critic(e, traj, total(channel, traj), score="own").terms,
    "pacs-standardised": lambda e, traj, channel: (
        implicit_actor_critic(e, traj, total(channel, traj), score="standardised", measure="mean-log-likelihood").terms
    ),
    "rover": lambda e, traj, channel: random_policy_valuation(e, traj, mean_baseline(total(channel, traj), traj)).terms,
}


@st.composite
def worlds(draw):
    """Trajectories, outcomes of which some are unknown, and a policy that has moved."""
    seed, n, t = draw(st.integers(0, 2**20)), draw(st.sampled_from([1, 2, 5, 8])), draw(st.sampled_from([1, 3]))
    rng = torch.Generator().manual_seed(seed)
    length = torch.randint(1, t + 1, (n,), generator=rng)
    exists = torch.arange(t) < length[:, None]
    noise = lambda: torch.randn(n, t, generator=rng, dtype=F64)
    traj = Trajectories(
        mask=exists & (torch.rand(n, t, generator=rng) < 0.8),
        length=length,
        group=torch.randint(0, 3, (n,), generator=rng),
        step=torch.where(exists, torch.arange(t), -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, dtype=torch.int64),
        logp={name: -noise().abs() for name in ("old", "ref")},
        extras={"mean_logp": -noise().abs()},
        id=torch.arange(n) + 50,
    )
    known = torch.rand(n, generator=rng) < draw(st.sampled_from([1.0, 0.7]))
    channel = place_outcome((torch.rand(n, generator=rng) < 0.5).to(F64), known, traj)
    evaluation = Evaluation(traj.logp["old"] + 0.1 * noise(), {"mean_logp": -noise().abs()})
    return traj, channel, evaluation, torch.randperm(n, generator=rng)


def spoilt(x: torch.Tensor, traj: Trajectories) -> torch.Tensor:
    return torch.where(traj.exists, x, torch.nan)


def with_junk(traj: Trajectories, channel: Channel, evaluation: Evaluation):
    """The same, with NaN beyond every end and as the value of every unknown number."""
    fill = lambda x: spoilt(x, traj)
    value = torch.where(channel.valid, fill(channel.value.expand(traj.mask.shape)), torch.nan)
    junk = traj.replace(logp={k: fill(v) for k, v in traj.logp.items()}, extras={k: fill(v) for k, v in traj.extras.items()})
    more = {k: fill(v) for k, v in evaluation.more.items()}
    return junk, Channel(value, channel.valid), Evaluation(fill(evaluation.logp), more)


def moved(traj: Trajectories, channel: Channel, evaluation: Evaluation, rows: torch.Tensor):
    other = traj.select(rows)
    w = other.width
    cut = lambda x: x[rows][:, : min(w, x.shape[1])]
    return (
        other,
        Channel(cut(channel.value), cut(channel.valid)),
        Evaluation(cut(evaluation.logp), {k: cut(v) for k, v in evaluation.more.items()}),
    )


quick = settings(max_examples=15, deadline=None)


@pytest.mark.parametrize("name", SHAPINGS)
@quick
@given(worlds())
def test_rewards_read_nothing_that_is_not_there_and_see_no_order(name, world):
    traj, channel, evaluation, order = world
    shape = SHAPINGS[name]
    paid = shape(channel, traj)
    junk, spoilt_channel, _ = with_junk(traj, channel, evaluation)
    again = shape(spoilt_channel, junk)
    assert torch.equal(paid.value, again.value)
    assert torch.equal(paid.valid, again.valid)
    other, cut, _ = moved(traj, channel, evaluation, order)
    torch.testing.assert_close(shape(cut, other).value, paid.value[order][:, : other.width], rtol=1e-9, atol=1e-12)
    renamed = traj.replace(group=torch.tensor([2**60, -7, 3])[traj.group])
    torch.testing.assert_close(shape(channel, renamed).value, paid.value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@quick
@given(worlds())
def test_losses_read_nothing_that_is_not_there_and_see_no_order_forward_or_backward(name, world):
    traj, channel, evaluation, order = world
    loss = LOSSES[name]

    def both(traj, channel, evaluation):
        logp = evaluation.logp.clone().requires_grad_()
        terms = loss(Evaluation(logp, evaluation.more), traj, channel)
        (slope,) = torch.autograd.grad(terms.sum(), logp, allow_unused=True) if terms.requires_grad else (None,)
        return terms.detach(), torch.zeros_like(logp) if slope is None else slope

    terms, slope = both(traj, channel, evaluation)
    assert not terms[~traj.own].any()
    assert not slope[~traj.own].any()
    for a, b in zip((terms, slope), both(*with_junk(traj, channel, evaluation)), strict=True):
        assert torch.equal(a, b)
    other, cut, moved_evaluation = moved(traj, channel, evaluation, order)
    for a, b in zip((terms, slope), both(other, cut, moved_evaluation), strict=True):
        torch.testing.assert_close(b, a[order][:, : other.width], rtol=1e-9, atol=1e-12)
    renamed = traj.replace(group=torch.tensor([2**60, -7, 3])[traj.group])
    for a, b in zip((terms, slope), both(renamed, channel, evaluation), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@quick
@given(worlds())
def test_one_candidate_of_every_group_with_a_verdict_goes_on_whatever_the_order_of_the_rows(world):
    traj, channel, evaluation, order = world
    draw = functools.partial(extend_by_reward, over="group", seed=3)
    chosen = draw({"step": channel}, traj)
    known = channel.valid.all(1)
    assert sorted(traj.group[chosen].tolist()) == sorted(traj.group[known].unique().tolist())
    assert known[chosen].all()
    other, cut, _ = moved(traj, channel, evaluation, order)
    assert sorted(other.id[draw({"step": cut}, other)].tolist()) == sorted(traj.id[chosen].tolist())


def test_candidates_are_drawn_by_the_softmax_of_their_reward():
    traj = Trajectories(
        mask=torch.ones(3, 1, dtype=torch.bool),
        length=torch.ones(3, dtype=torch.int64),
        group=torch.zeros(3, dtype=torch.int64),
        step=torch.zeros(3, 1, dtype=torch.int32),
        stop=torch.zeros(3, dtype=torch.int64),
        actions=torch.zeros(3, 1, dtype=torch.int64),
        id=torch.arange(3),
    )
    reward = torch.tensor([0.0, 1.0, 2.0], dtype=F64)
    step = {"step": place_outcome(reward, torch.ones(3, dtype=torch.bool), traj)}
    drawn = torch.cat([extend_by_reward(step, traj, over="group", temperature=2.0, seed=seed) for seed in range(1000)])
    share = torch.bincount(drawn, minlength=3) / 1000
    torch.testing.assert_close(share.to(F64), (reward / 2).softmax(0), rtol=0, atol=0.05)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        extend_by_reward(step, traj, temperature=0.0)
    with pytest.raises(KeyError, match="no reward channel 'judge'"):
        extend_by_reward(step, traj, channel="judge")
