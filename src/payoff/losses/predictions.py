"""Auxiliary losses of a control policy: what its own features must be able to foretell, beside what it is trained for.

The policy must offer the predictions (`actor-critic-predicting` does). One term per action; the target is a reward as it was paid.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from payoff.catalogue import method
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories


@method("reward-sign", kind="loss", paper="arXiv:2305.15801", needs=("reward_sign",))
def reward_sign_loss(evaluation: Evaluation, traj: Trajectories, target: Channel, *, eps: float = 0.005) -> LossOutput:
    """Cross-entropy of foretelling whether an action is punished, paid nothing or paid: three classes (Lucy-SKG).

    The class of action t is 0, 1, 2 for r_t < -eps, |r_t| <= eps, r_t > eps, and term_t = -log p(class).
    evaluation.more["reward_sign"] [N, T, 3]: the logits of the three, from the state before the action. The target is the reward
    as it was paid (a path without transforms). Most pay nothing: aggregate by `reward-sign-mean`, which balances the classes.

    [N, T], 0 where the action is not the policy's own or its reward unknown. Metric accuracy: the share foretold, over what counts.
    Raises ValueError for a negative eps and without evaluation.more["reward_sign"].

    >>> from payoff.examples import four_answers
    >>> traj, even = four_answers(), torch.zeros(4, 3, 3)
    >>> reward = Channel(torch.tensor([[0.0, -1.0, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> reward_sign_loss(Evaluation(traj.logp["old"], {"reward_sign": even}), traj, reward).terms[1]
    tensor([1.0986, 1.0986, 0.0000])
    """
    logits = _given("reward_sign_loss", "reward_sign", evaluation)
    kind = sign_classes(target, traj, eps)
    counts = kind >= 0
    rows = torch.where(counts[..., None], logits, 0).log_softmax(2)
    terms = torch.where(counts, -rows.gather(2, kind.clamp(min=0)[..., None])[..., 0], 0)
    right = (counts & (rows.argmax(2) == kind)).sum() / counts.sum().clamp(min=1)
    return LossOutput(terms, {"accuracy": float(right)})


@method("reward-sign-mean", kind="aggregation", paper="arXiv:2305.15801", sees="batch")
def reward_sign_mean(target: Channel, traj: Trajectories, *, eps: float = 0.005) -> Float[Tensor, "N T"]:
    """Every class of reward weighs the same: 1 / (classes there are x actions of the action's class), over the batch.

    The classes of `reward-sign`. The weights add up to 1; where nothing counts they are 0. Raises ValueError for a negative eps.

    >>> from payoff.examples import four_answers
    >>> reward = Channel(torch.tensor([[0.0, 0.0, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> reward_sign_mean(reward, four_answers())[0]
    tensor([0.0714, 0.0714, 0.2500])
    """
    kind = sign_classes(target, traj, eps)
    size = torch.stack([(kind == c).sum() for c in (0, 1, 2)])
    weight = 1 / ((size > 0).sum() * size.clamp(min=1)).to(target.value.dtype)
    return torch.where(kind >= 0, weight[kind.clamp(min=0)], 0)


@method("state-reconstruction", kind="loss", paper="arXiv:2305.15801", needs=("reconstruction", "seen"))
def state_reconstruction_loss(evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
    """How far the policy's features are from telling what it saw: the smooth L1 distance, mean over dimensions (Lucy-SKG).

    term_t = mean_d h(x_d - s_d), h(u) = u^2 / 2 up to |u| = 1 and |u| - 1/2 beyond; x is evaluation.more["reconstruction"]
    [N, T, D], s is evaluation.more["seen"] [N, T, D], which has no gradient. The target is read for its validity alone.

    [N, T], 0 where the action is not the policy's own or the target unknown. Raises ValueError without both.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> more = {"reconstruction": torch.full((4, 3, 2), 3.0), "seen": torch.tensor([3.0, 1.0]).expand(4, 3, 2)}
    >>> known = Channel(torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> state_reconstruction_loss(Evaluation(traj.logp["old"], more), traj, known).terms[1]
    tensor([0.7500, 0.7500, 0.0000])
    """
    told = _given("state_reconstruction_loss", "reconstruction", evaluation)
    seen = _given("state_reconstruction_loss", "seen", evaluation).detach()
    counts = traj.own & target.valid
    told, seen = (torch.where(counts[..., None], x, 0) for x in (told, seen))
    return LossOutput(smooth_l1_loss(told, seen, reduction="none").mean(2), {})


def sign_classes(target: Channel, traj: Trajectories, eps: float) -> Int[Tensor, "N T"]:
    """0, 1, 2 for a reward below -eps, between, above eps; -1 where the action is not the policy's own or its reward unknown.

    >>> from payoff.examples import four_answers
    >>> reward = Channel(torch.tensor([[0.0, -1.0, 1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> sign_classes(reward, four_answers(), 0.0)[1]
    tensor([ 1,  0, -1])
    """
    if not eps >= 0:
        raise ValueError(f"reward_sign: eps must be at least 0, got {eps}")
    counts = traj.own & target.valid
    value = torch.where(counts, target.value, 0)
    return torch.where(counts, 1 + (value > eps).long() - (value < -eps).long(), -1)


def _given(name: str, what: str, evaluation: Evaluation) -> Tensor:
    found = evaluation.more.get(what)
    if found is None:
        raise ValueError(f'{name}: needs evaluation.more["{what}"]; there is {sorted(evaluation.more) or "nothing"}')
    return found
