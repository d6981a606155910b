"""The exact lab: what an estimator of the policy gradient does on average, by enumerating every batch that can be drawn.

It works for any policy that lists its sequences (the tabular one) and any list of terms. *Unbiased* means here that the enumerated
expectation is the exact gradient, not that a curve looked right. Gradients are directions of ascent (minus those of the loss), flat
over `policy.parameters()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.contents import needs, part_name, read_now
from payoff.enumeration import GIVEN, Batches, Enumerated, alone, batches, every_sequence, paid, pay_rows, scored
from payoff.pipeline import Evaluation, Signal, Term
from payoff.trajectories import Channel, Pairs, Rewards, Trajectories, outcome

_CHECKED = 5  # batches that are also computed alone, to see that enumerating them together changed nothing

Table = Tensor | Channel | Callable[[Trajectories], Tensor | Channel]


class Bias(NamedTuple):
    """An estimator against the exact gradient.

    difference: expected - exact
    cosine:     of the angle between them; 0 where either vanishes
    scale:      the factor that brings exact nearest to expected
    residual:   what is left then, as a share of |expected|; 0 means the right direction
    """

    difference: Float[Tensor, " P"]
    cosine: float
    scale: float
    residual: float
    expected: Float[Tensor, " P"]
    exact: Float[Tensor, " P"]


def expected_gradient(
    policy: Enumerated,
    terms: Sequence[Term],
    signal: Signal | Mapping[str, Tensor],
    *,
    group_size: int | Sequence[int] = 2,
    starts: Sequence[int] = (0,),
    ordered: bool = False,
    actor: Enumerated | None = None,
    reference: Enumerated | None = None,
) -> Float[Tensor, " P"]:
    """E[- gradient of the loss of `terms`], over every batch that can be drawn; the options are those of `batches`.

    signal: any signal; or rewards by channel as tables over `every_sequence`, paid at the end [L] or at every action [L, T].

    Statistics over a batch must be taken within `sets(traj, "batch")`. A few batches are computed alone too, and terms that give
    other numbers there are a ValueError.

    >>> from payoff.losses.aggregation import sequence_sum
    >>> from payoff.losses.policy_gradient import policy_gradient
    >>> from payoff.policies.tabular import Tabular
    >>> reinforce = Term(lambda rewards, traj: rewards["reward"], policy_gradient, sequence_sum)
    >>> expected_gradient(Tabular(2, 1), [reinforce], {"reward": torch.tensor([0.0, 1.0])}).tolist()
    [-0.25, 0.25]
    """
    parts = [signal, *(part for term in terms for part in term[:3])]
    found = batches(policy, group_size=group_size, starts=starts, ordered=ordered, actor=actor, reference=reference, parts=parts)
    said, slopes = _slopes(policy, terms, signal, found, starts)
    share = found.probability.repeat_interleave(found.leaf.shape[1])
    loss = torch.zeros((), device=share.device)
    for output, slope in zip(said, slopes, strict=True):
        weighted = slope * share.to(slope.dtype).view(-1, *[1] * (slope.ndim - 1))
        loss = loss + (torch.zeros_like(output).index_add(0, found.leaf.flatten(), weighted).detach() * output).sum()
    return -_gradient(loss, policy)


def gradient_covariance(
    policy: Enumerated,
    terms: Sequence[Term],
    signal: Signal | Mapping[str, Tensor],
    *,
    group_size: int | Sequence[int] = 2,
    starts: Sequence[int] = (0,),
    ordered: bool = False,
    actor: Enumerated | None = None,
    reference: Enumerated | None = None,
) -> Float[Tensor, "P P"]:
    """The covariance of one batch's gradient, over every batch that can be drawn; arguments as of `expected_gradient`.

    Its trace is the estimator's variance; the mean over m independent batches has covariance / m.

    >>> from payoff.losses.aggregation import sequence_sum
    >>> from payoff.losses.policy_gradient import policy_gradient
    >>> from payoff.policies.tabular import Tabular
    >>> reinforce = Term(lambda rewards, traj: rewards["reward"], policy_gradient, sequence_sum)
    >>> gradient_covariance(Tabular(2, 1), [reinforce], {"reward": torch.tensor([0.0, 1.0])}, group_size=1).tolist()
    [[0.0625, -0.0625], [-0.0625, 0.0625]]
    """
    parts = [signal, *(part for term in terms for part in term[:3])]
    found = batches(policy, group_size=group_size, starts=starts, ordered=ordered, actor=actor, reference=reference, parts=parts)
    said, slopes = _slopes(policy, terms, signal, found, starts)
    b, size = found.leaf.shape
    leaves = len(said[0])
    place = found.leaf.flatten() + leaves * torch.arange(b, device=found.leaf.device).repeat_interleave(size)
    gradients = torch.zeros((), device=found.leaf.device)
    for output, slope in zip(said, slopes, strict=True):
        jacobian = torch.stack([_gradient(x, policy) for x in output.flatten()])
        slope = slope.reshape(b * size, -1)
        per_batch = slope.new_zeros(b * leaves, slope.shape[1]).index_add(0, place, slope).view(b, -1)
        gradients = gradients - per_batch @ jacobian
    probability = found.probability.to(gradients.dtype)
    centred = gradients - probability @ gradients
    return centred.T @ (probability[:, None] * centred)


def exact_gradient(policy: Enumerated, reward: Table, *, starts: Sequence[int] = (0,)) -> Float[Tensor, " P"]:
    """The gradient of E[reward], averaged over the starts.

    reward: of every sequence [L], or at every action [L, T], whose sum counts; or a function of `every_sequence` that gives such
            numbers or a channel. Raises ValueError where the reward of a sequence is unknown.

    >>> from payoff.policies.tabular import Tabular
    >>> exact_gradient(Tabular(2, 1), torch.tensor([0.0, 1.0])).tolist()
    [-0.25, 0.25]
    """
    leaves = every_sequence(policy, starts)
    channel = reward(leaves) if callable(reward) else reward
    channel = pay_rows(channel, leaves) if isinstance(channel, Tensor) else channel
    total, valid = outcome(channel, leaves)
    if not valid.all():
        raise ValueError(f"exact_gradient: the reward of sequence {int((~valid).nonzero()[0, 0])} is unknown")
    p = torch.cat([policy.probabilities(start) for start in starts]) / len(starts)
    return _gradient((p * total.detach()).sum(), policy)


def credit_gradient(policy: Enumerated, credit: Table, *, starts: Sequence[int] = (0,)) -> Float[Tensor, " P"]:
    """E[sum_t credit_t * gradient of log pi(a_t | past)]: what a credit that needs one trajectory climbs, on average.

    If credit_t = h(finished trajectory) - f(what came before action t), this is the gradient of E[h], whatever f is.
    credit: [L, T] or [L, 1], a channel (0 where invalid), or a function of `every_sequence` that gives one; a constant.

    >>> from payoff.policies.tabular import Tabular
    >>> credit_gradient(Tabular(2, 1), torch.tensor([[3.0], [4.0]])).tolist()
    [-0.25, 0.25]
    """
    leaves = every_sequence(policy, starts)
    weight = credit(leaves) if callable(credit) else credit
    weight = torch.where(weight.valid, weight.value, 0) if isinstance(weight, Channel) else weight
    p = torch.cat([policy.probabilities(start) for start in starts])[:, None] / len(starts)
    weight = torch.where(leaves.own, p * weight, 0).detach()
    return _gradient((weight * policy.evaluate(leaves).logp).sum(), policy)


def bias(
    policy: Enumerated,
    terms: Sequence[Term],
    signal: Signal | Mapping[str, Tensor],
    reward: Table,
    *,
    group_size: int | Sequence[int] = 2,
    starts: Sequence[int] = (0,),
    ordered: bool = False,
    actor: Enumerated | None = None,
    reference: Enumerated | None = None,
) -> Bias:
    """How far the expected gradient of `terms` is from the gradient of E[reward], and in what way.

    >>> from payoff.losses.aggregation import sequence_sum
    >>> from payoff.losses.policy_gradient import policy_gradient
    >>> from payoff.policies.tabular import Tabular
    >>> tripled = Term(lambda rewards, traj: rewards["reward"], policy_gradient, sequence_sum, weight=3.0)
    >>> reward = torch.tensor([0.0, 1.0])
    >>> found = bias(Tabular(2, 1), [tripled], {"reward": reward}, reward)
    >>> round(found.scale, 9), round(found.residual, 9)
    (3.0, 0.0)
    """
    expected = expected_gradient(
        policy, terms, signal, group_size=group_size, starts=starts, ordered=ordered, actor=actor, reference=reference
    )
    return compare(expected, exact_gradient(policy, reward, starts=starts))


def compare(expected: Float[Tensor, " P"], exact: Float[Tensor, " P"]) -> Bias:
    """How far one direction is from another.

    >>> compare(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 1.0])).scale
    2.0
    """
    product, own, length = float(expected @ exact), float(expected.norm()), float(exact.norm())
    scale = product / length**2 if length else 0.0
    residual = float((expected - scale * exact).norm()) / own if own else 0.0
    return Bias(expected - exact, product / (length * own) if length and own else 0.0, scale, residual, expected, exact)


def _slopes(
    policy: Enumerated, terms: Sequence[Term], signal: Signal | Mapping[str, Tensor], found: Batches, starts: Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """What the policy says of every sequence, and the derivative of the loss by what it says of every row.

    A row is in one batch, so one backward pass gives the derivatives of all batches' losses.
    """
    signal = paid(signal) if isinstance(signal, Mapping) else signal
    evaluation = policy.evaluate(every_sequence(policy, starts), read_now(needs([term.loss for term in terms])) - GIVEN)
    names = sorted(evaluation.more)
    said = [evaluation.logp, *(evaluation.more[name] for name in names)]

    def of_term(term: Term, rewards: Rewards, traj: Trajectories, size: int) -> list[Tensor]:
        here = [output.detach()[traj.extras["leaf"]].requires_grad_() for output in said]
        less = evaluation.logp.shape[1] - traj.width
        cut = [x if x.ndim == 1 else x[:, : x.shape[1] - less] for x in here]
        with torch.no_grad():
            target = term.target(rewards, traj)
            weight = _weights(term, target, traj, size)
        output = term.loss(Evaluation(cut[0], dict(zip(names, cut[1:], strict=True))), traj, target)
        loss = term.weight * (output.terms * weight).sum()
        grads = torch.autograd.grad(loss, here, allow_unused=True) if loss.requires_grad else [None] * len(here)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(here, grads, strict=True)]

    size = found.leaf.shape[1]
    with torch.no_grad():
        rewards = scored(signal, found.traj)
    slopes = [of_term(term, rewards, found.traj, size) for term in terms]
    for number in sorted({round(i * (len(found.leaf) - 1) / _CHECKED) for i in range(1, _CHECKED + 1)}):
        batch, rows = alone(found.traj, number, size)
        with torch.no_grad():
            rewards = scored(signal, batch)
        for term, among in zip(terms, slopes, strict=True):
            for x, y in zip(of_term(term, rewards, batch, size), among, strict=True):
                if not torch.allclose(x, y[rows], rtol=1e-4, atol=1e-7, equal_nan=True):
                    raise ValueError(
                        f"expected_gradient: a batch alone gives other numbers than among all the batches, for the term of "
                        f"{', '.join(part_name(part) for part in term[:3])}: what counts over a batch must count within "
                        'sets(traj, "batch"), and a signal that looks at other trajectories must say sees="group" or "batch"'
                    )
    return said, [torch.stack(parts).sum(0) for parts in zip(*slopes, strict=True)]


def _weights(term: Term, target: Channel | Pairs, traj: Trajectories, size: int) -> Tensor:
    """The aggregation's weights of every batch, as if it were the only one.

    They follow from masks alone (of pairs, from their weights), so one batch is asked for all that have the same ones.
    """
    owner = (target.index[:, 0] if isinstance(target, Pairs) else torch.arange(len(traj), device=traj.device)) // size
    order = owner.argsort(stable=True)
    if isinstance(target, Pairs):
        if not len(owner):
            return target.weight
        count = torch.bincount(owner, minlength=len(traj) // size)
        place = torch.arange(len(order), device=traj.device) - (count.cumsum(0) - count)[owner[order]]
        masks = target.weight.new_full((len(count), int(count.max())), -1)
        masks[owner[order], place] = target.weight[order]
    else:
        counted = torch.cat([x.int() for x in (traj.own, target.valid.expand(traj.mask.shape) & traj.exists, traj.step)], 1)
        masks = counted.unique(dim=0, return_inverse=True)[1].view(-1, size)
    kind = masks.unique(dim=0, return_inverse=True)[1]
    result: Tensor | None = None
    for k in kind[owner].unique().tolist():
        members = (kind == k).nonzero()[:, 0]
        batch, rows = alone(traj, int(members[0]), size)
        part: Channel | Pairs
        if isinstance(target, Pairs):
            mine = order[owner[order] == members[0]]
            part = Pairs(target.index[mine] - rows[0], target.label[mine], target.weight[mine])
        else:
            part = Channel(target.value[rows, : batch.width], target.valid[rows, : batch.width])
        weight = term.aggregation(part, batch)
        if result is None:
            result = weight.new_zeros(len(owner), *[traj.width] * (weight.ndim - 1))
        everywhere = order[kind[owner[order]] == k]
        (result if weight.ndim == 1 else result[:, : batch.width])[everywhere] = weight.repeat(
            len(members), *[1] * (weight.ndim - 1)
        )
    assert result is not None  # there is at least one batch
    return result


def _gradient(value: Tensor, policy: Enumerated) -> Float[Tensor, " P"]:
    """The gradient of a number by all parameters, flat; 0 by those it does not depend on."""
    parameters = list(policy.parameters())
    if not value.requires_grad:
        return torch.cat([torch.zeros_like(x).flatten() for x in parameters])
    gradients = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return torch.cat([(torch.zeros_like(x) if g is None else g).flatten() for x, g in zip(parameters, gradients, strict=True)])
