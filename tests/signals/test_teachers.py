"""Distillation from teachers of domains: in the mean exactly minus the divergence, and nothing where there is no teacher."""

import pytest
import torch

from payoff.policies.tabular import Tabular
from payoff.signals.teachers import DomainTeachers


def every(policy, domain):
    traj = policy.sequences()
    logp = policy.evaluate(traj).logp.detach()
    return traj.replace(logp={"old": logp}, items=[{"domain": domain} for _ in range(len(traj))]), logp.sum(1).exp()


def test_its_mean_is_minus_the_divergence_and_zero_for_the_teacher_itself():
    policy, teacher, other = (Tabular(3, 2, spread=0.7, seed=seed) for seed in range(3))
    signal = DomainTeachers(teachers={"a": teacher, "b": other, "self": policy})
    for domain, of in (("a", teacher), ("b", other), ("self", policy)):
        traj, chance = every(policy, domain)
        paid = signal(traj)["m2rl"]
        theirs = of.evaluate(traj).logp.detach().sum(1)
        divergence = float((chance * (chance.log() - theirs)).sum())
        assert float((chance * torch.where(traj.own, paid.value, 0).sum(1)).sum()) == pytest.approx(-divergence, abs=1e-9)
        assert (divergence == pytest.approx(0, abs=1e-12)) == (domain == "self")
        assert not paid.value.requires_grad


def test_a_domain_without_teacher_is_no_verdict_and_teachers_are_needed():
    policy = Tabular(2, 2)
    paid = DomainTeachers(teachers={"a": policy})(every(policy, "c")[0])["m2rl"]
    assert not paid.valid.any()
    assert (paid.value == 0).all()
    assert set(paid.reasons.values()) == {"no teacher of the domain 'c'"}
    with pytest.raises(ValueError, match="no teachers"):
        DomainTeachers(teachers={})
