"""KTO by hand, and which rollouts it measures itself against. The losses on pairs of this file are in `test_preferences`."""

import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.preference_sides import kto
from payoff.pipeline import Evaluation
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel


def labels(*values):
    """1, 0 or None for every rollout."""
    value = torch.tensor([[0.0 if v is None else float(v)] for v in values])
    return Channel(value, torch.tensor([[v is not None] for v in values]))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_kto_by_hand():
    # s is 1.5, 1, 1.5, 0.5; the last two are mismatched, so z = (1.5 + 0.5) / 2 = 1
    traj = four_answers().replace(extras={"mismatched": torch.tensor([False, False, True, True])})
    output = kto(Evaluation(traj.logp["old"], {}), traj, labels(1, 0, None, None), beta=2.0, desirable=3.0, undesirable=0.5)
    assert output.terms[:, 0].tolist() == pytest.approx([3 * sigmoid(2 * (1 - 1.5)), 0.5 * 0.5, 0, 0])
    assert output.metrics == pytest.approx({"reference_point": 1.0, "desirable": 1.5, "undesirable": 1.0})


def test_the_reference_point_is_never_below_zero_and_carries_no_gradient():
    traj = four_answers()
    logp = (traj.logp["ref"] - 0.25).requires_grad_()
    output = kto(Evaluation(logp, {}), traj, labels(1, 0, 1, 0), beta=1.0)
    assert output.metrics["reference_point"] == 0
    torch.testing.assert_close(
        output.terms, kto(Evaluation(logp, {}), traj, labels(1, 0, 1, 0), beta=1.0, reference_point="zero").terms
    )
    above = (traj.logp["ref"] + 0.25).requires_grad_()
    kto(Evaluation(above, {}), traj, labels(1, 0, None, None), beta=1.0).terms.sum().backward()
    assert above.grad[0, 0] < 0 < above.grad[1, 0]
    assert not above.grad[2:].any()  # they moved z, and get nothing for it


def test_the_reference_point_of_sampled_rollouts_is_the_divergence():
    p, q = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64), torch.tensor([0.2, 0.4, 0.4], dtype=torch.float64)
    policy, reference = Tabular(3, 1, logits=p.log()[None]), Tabular(3, 1, logits=q.log()[None])
    traj = policy.sequences().select(torch.tensor([0, 0, 1, 2]))  # each as often as it comes
    traj = traj.replace(logp={"ref": reference.evaluate(traj).logp.detach()})
    point = kto(policy.evaluate(traj), traj, labels(1, 0, 1, 0)).metrics["reference_point"]
    assert point == pytest.approx(float((p * (p / q).log()).sum()))


def test_kto_reads_no_padding_and_survives_rollouts_that_say_nothing():
    traj = four_answers()
    dirty = traj.replace(logp={name: torch.where(traj.mask, value, torch.nan) for name, value in traj.logp.items()})
    clean = kto(Evaluation(traj.logp["old"], {}), traj, labels(1, 0, 1, None)).terms
    logp = dirty.logp["old"].clone().requires_grad_()
    output = kto(Evaluation(logp, {}), dirty, labels(1, 0, 1, None))
    torch.testing.assert_close(output.terms, clean)
    output.terms.sum().backward()
    assert logp.grad.isfinite().all()
    nothing = kto(Evaluation(logp, {}), dirty, labels(None, None, None, None))
    assert not nothing.terms.any()
    silent = traj.replace(mask=torch.zeros_like(traj.mask))
    assert not kto(Evaluation(traj.logp["old"], {}), silent, labels(1, 0, 1, 1)).terms.any()


def test_what_makes_no_sense_is_refused():
    traj = four_answers()
    evaluation = Evaluation(traj.logp["old"], {})
    with pytest.raises(ValueError, match="kto: beta must be > 0"):
        kto(evaluation, traj, labels(1, 0, 1, 0), beta=-1.0)
    with pytest.raises(ValueError, match="kto: desirable and undesirable must be >= 0"):
        kto(evaluation, traj, labels(1, 0, 1, 0), desirable=-1.0)
