"""VeriRL's loss: its weights by hand, what it is where all samples are alike, and that its divergence is one."""

import dataclasses
import math

import pytest
import torch

from payoff.advantages.batch import reinforce_plus_plus
from payoff.examples import four_answers
from payoff.losses.policy_gradient import ppo_clip
from payoff.losses.sample_balanced import sample_balanced
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel

SURE = torch.ones(4, 1, dtype=torch.bool)
SCORES = Channel(torch.tensor([[0.5], [1.0], [1.5], [1.0]]), SURE)


def both(loss, traj, target, nats=0.3, **options):
    evaluation = Evaluation((traj.logp["old"] + nats).requires_grad_(), {})
    output = loss(evaluation, traj, target, **options)
    return output.terms.detach(), torch.autograd.grad(output.terms.sum(), evaluation.logp)[0], output.metrics


def test_equal_samples_make_it_ppo_and_a_divergence():
    traj = four_answers().replace(extras={"score": torch.full((4,), 0.7)})  # the same per token, the same score: u = v = 1
    advantage = reinforce_plus_plus(SCORES, traj)
    terms, slope, metrics = both(sample_balanced, traj, advantage, score="score")
    clip, pull, _ = both(ppo_clip, traj, advantage)
    rho, own = math.exp(0.3), traj.own
    torch.testing.assert_close(terms, torch.where(own, clip + rho * 0.3 - rho + 1, 0))
    torch.testing.assert_close(slope, torch.where(own, pull + rho * 0.3, 0))  # d KL / d log pi = rho log rho
    assert (metrics["pull"], metrics["hold"]) == (1.0, 1.0)


def test_the_advantage_of_scores_is_the_one_of_reinforce_plus_plus():
    traj = four_answers().replace(extras={"score": SCORES.value[:, 0]})
    for one, other in zip(
        both(sample_balanced, traj, SCORES)[:2],
        both(sample_balanced, traj, reinforce_plus_plus(SCORES, traj), score="score")[:2],
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_the_weights_by_hand():
    # Per-token probabilities 1/2, 1/4, 1/8, 1/8 (mean 1/4): u = 2, 1, 1/2, 1/2. Scores 1, 3, 4, 8 (mean 4): v = 1/4, 3/4, 1, 2.
    old = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()[:, None].expand(4, 3).clone()
    traj = four_answers().replace(logp={"old": old}, extras={"score": torch.tensor([1.0, 3.0, 4.0, 8.0])})
    target = Channel(torch.ones(4, 1), SURE)
    terms, slope, _ = both(sample_balanced, traj, target, nats=0.0, score="score")
    assert (-terms[:, 0]).tolist() == pytest.approx([2, 1, 1, 2])  # max(u, v); at rho = 1 the divergence is 0
    assert (-slope[:, 0]).tolist() == pytest.approx([2, 1, 1, 2])
    far = -2.0  # the clip is silent for a good action that became less likely only in the other direction: rho A stays
    held = both(sample_balanced, traj, target, nats=far, score="score")[0][:, 0] + torch.tensor([2, 1, 1, 2]) * math.exp(far)
    kl = math.exp(far) * far - math.exp(far) + 1
    assert (held / kl).tolist() == pytest.approx([0.25, 0.75, 0.5, 0.5], rel=1e-4)  # min(u, v)


def test_the_bracket_is_the_divergence_from_who_acted_value_and_gradient():
    logits = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    far = logits.log_softmax(0) - old.log()
    expected = (old * (far.exp() * far - far.exp() + 1)).sum()  # over actions drawn from old
    exact = (logits.softmax(0) * far).sum()
    torch.testing.assert_close(expected, exact)
    for a, b in zip(torch.autograd.grad(expected, logits, retain_graph=True), torch.autograd.grad(exact, logits), strict=True):
        torch.testing.assert_close(a, b)


def test_unknown_scores_padding_and_rows_that_did_not_act_enter_nothing():
    traj = four_answers()
    alone = torch.tensor([0, 1, 3])
    beyond = torch.where(traj.exists, traj.logp["old"], torch.nan)
    silent = traj.replace(logp={"old": beyond}, mask=traj.mask & (torch.arange(4) != 2)[:, None])
    fewer = sample_balanced(
        Evaluation(traj.logp["old"][alone], {}),
        traj.select(alone),
        Channel(SCORES.value[alone], SURE[alone]),
    ).terms
    for given, target in (
        (silent, SCORES),
        (
            traj.replace(logp={"old": beyond}),
            Channel(torch.tensor([[0.5], [1.0], [-9.0], [1.0]]), SURE & (torch.arange(4) != 2)[:, None]),
        ),
    ):
        terms = sample_balanced(Evaluation(beyond, {}), given, target).terms
        torch.testing.assert_close(terms[alone], fewer)
        assert not terms[2].any()
    order = torch.tensor([2, 0, 3, 1])
    moved = dataclasses.replace(traj.select(order), group=traj.group[order] + 7)
    torch.testing.assert_close(
        sample_balanced(Evaluation(moved.logp["old"], {}), moved, Channel(SCORES.value[order], SURE)).terms,
        sample_balanced(Evaluation(traj.logp["old"], {}), traj, SCORES).terms[order],
    )


def test_equal_scores_and_a_batch_of_one_ask_for_nothing():
    traj = four_answers()
    equal = Channel(torch.full((4, 1), 0.1), SURE)
    assert not both(sample_balanced, traj, equal, nats=0.0)[1].any()
    one = traj.select(torch.tensor([0]))
    assert not both(sample_balanced, one, Channel(torch.ones(1, 1), SURE[:1]), nats=0.0)[1].any()
    unknown = both(sample_balanced, traj, Channel(torch.ones(4, 1), ~SURE))
    assert not unknown[0].any()
    assert not unknown[1].any()


def test_mistakes_are_named():
    traj = four_answers()
    with pytest.raises(ValueError, match=r"scores must be > 0, trajectory 1 has 0; squash them first"):
        both(sample_balanced, traj, Channel(torch.tensor([[1.0], [0.0], [1.0], [1.0]]), SURE))
    with pytest.raises(ValueError, match=r"needs traj.extras\['score'\] \[N\], the scores; there is nothing"):
        both(sample_balanced, traj, SCORES, score="score")
    with pytest.raises(ValueError, match="low must lie in"):
        both(sample_balanced, traj, SCORES, low=2.0)
