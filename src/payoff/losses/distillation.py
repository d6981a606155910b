"""Losses between whole distributions: of a teacher who was shown more, and of the policy as it was at first.

They read the policy's own logits over all actions, evaluation.more["logits"] [N, T, V]: memory for V numbers per action. Terms are
per action, 0 where the action is not the policy's own or the target is unknown; the target's value weighs them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories


@method("semantic-soft-bootstrapping", kind="loss", paper="arXiv:2512.05105", needs=("logits",))
def soft_distillation(
    evaluation: Evaluation, traj: Trajectories, target: Channel, *, temperature: float = 2.0, hard: float = 0.0
) -> LossOutput:
    """How far the policy is from what a teacher would say at each action of these rows (SSB): soft logits, not sampled tokens.

    term_t = temperature^2 KL(softmax(y_t / temperature) || softmax(z_t / temperature)) - hard log pi(a_t)

    with y_t = traj.extras["teacher_logits"] [N, T, V], recorded where the teacher had hints in its context, and z_t the policy's
    logits without them. The factor temperature^2 keeps the gradient's size; for a large temperature the loss becomes
    |y - z|^2 / (2 V) of centred logits. A teacher that is sure of the recorded action makes it supervised learning. The policy
    in the teacher's own context has loss 0 and gradient 0.

    Metric divergence: the mean of the first part. Raises ValueError without either logits, for vocabularies of another size,
    temperature not above 0, or hard below 0.

    >>> from payoff.examples import four_answers
    >>> from payoff.pipeline import everywhere
    >>> traj = four_answers().replace(extras={"teacher_logits": torch.tensor([-1e9, 0.0]).expand(4, 3, 2)})
    >>> same = Evaluation(traj.logp["old"], {"logits": torch.zeros(4, 3, 2)})
    >>> soft_distillation(same, traj, everywhere({}, traj), temperature=1.0).terms
    tensor([[0.6931, 0.6931, 0.6931],
            [0.6931, 0.6931, 0.0000],
            [0.6931, 0.6931, 0.6931],
            [0.6931, 0.0000, 0.0000]])
    """
    if not temperature > 0 or hard < 0:
        raise ValueError(f"soft_distillation: temperature must be > 0 and hard >= 0, got {temperature} and {hard}")
    if "teacher_logits" not in traj.extras:
        raise ValueError('soft_distillation: needs traj.extras["teacher_logits"] [N, T, V], what the teacher said')
    counts = traj.own & target.valid
    student = _logits("soft_distillation", evaluation)
    number = temperature**2 * _divergence(
        "soft_distillation", traj.extras["teacher_logits"] / temperature, student / temperature, counts
    )
    told = {"divergence": _mean(number, counts)}
    if hard:
        number = number - hard * torch.where(counts, evaluation.logp, 0)
    return LossOutput(torch.where(counts, target.value * number, 0), told)


@method("forward-kl", kind="loss", paper="arXiv:2310.16763", needs=("logits",))
class ForwardKL(nn.Module):
    """Stay where the policy began: term_t = KL(initial || current) of each action's whole distribution (SuperHF's prior).

    policy: as it is at first; a run hands over a copy, which never changes

    The sum over all actions is exact, so there is no sampling noise, and it is right for rows that were chosen by their reward,
    where an estimate from the sampled actions is not. This direction makes the current policy cover what the initial one did; it
    is 0, with gradient 0, while nothing has changed. The first action counts like any other (the released code leaves it out).

    Metric kl: the mean over the terms. Raises ValueError for a policy that offers no logits.

    >>> from payoff.examples import four_answers
    >>> from payoff.pipeline import everywhere
    >>> class Fixed(nn.Module):
    ...     offers = frozenset({"logits"})
    ...     def evaluate(self, traj, want):
    ...         return Evaluation(traj.logp["old"], {"logits": torch.tensor([0.0, 0.0]).expand(4, 3, 2)})
    >>> now = Evaluation(four_answers().logp["old"], {"logits": torch.tensor([1.0, 0.0]).expand(4, 3, 2)})
    >>> ForwardKL(policy=Fixed())(now, four_answers(), everywhere({}, four_answers())).terms
    tensor([[0.1201, 0.1201, 0.1201],
            [0.1201, 0.1201, 0.0000],
            [0.1201, 0.1201, 0.1201],
            [0.1201, 0.0000, 0.0000]])
    """

    def __init__(self, *, policy: Any) -> None:
        super().__init__()
        if "logits" not in getattr(policy, "offers", ()):
            raise ValueError("forward-kl: needs a policy that offers logits over all actions")
        self.initial = copy.deepcopy(policy).requires_grad_(False)

    def forward(self, evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
        """The terms of these rows."""
        counts = traj.own & target.valid
        with torch.no_grad():
            behind = self.initial.evaluate(traj, frozenset({"logits"})).more["logits"]
        number = _divergence("forward-kl", behind, _logits("forward-kl", evaluation), counts)
        return LossOutput(torch.where(counts, target.value * number, 0), {"kl": _mean(number, counts)})


def _logits(part: str, evaluation: Evaluation) -> Float[Tensor, "N T V"]:
    if "logits" not in evaluation.more:
        raise ValueError(f'{part}: needs evaluation.more["logits"] [N, T, V], the policy\'s own over all actions')
    return evaluation.more["logits"]


def _divergence(
    part: str, teacher: Float[Tensor, "N T V1"], student: Float[Tensor, "N T V2"], counts: Bool[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    """KL(teacher || student) where it counts; an action that the teacher never takes adds nothing."""
    if teacher.shape != student.shape:
        raise ValueError(f"{part}: the teacher's logits are {list(teacher.shape)}, the policy's {list(student.shape)}")
    here = counts[..., None]
    behind = torch.where(here, teacher.detach().to(student.dtype), 0).log_softmax(-1)
    now = torch.where(here, student, 0).log_softmax(-1)
    possible = behind > -torch.inf
    gap = torch.where(possible, behind, 0) - torch.where(possible, now, 0)
    return (behind.exp() * gap).sum(-1)


def _mean(number: Float[Tensor, "N T"], counts: Bool[Tensor, "N T"]) -> float:
    return float(torch.where(counts, number.detach(), 0).double().sum() / counts.sum().clamp(min=1))
