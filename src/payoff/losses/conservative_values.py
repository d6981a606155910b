"""Values read off a policy's own logits, learned off-policy under a backup that follows the pre-trained policy (B-Coder)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.losses.preference_links import check_positive
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Rewards, Trajectories

_WANT = frozenset({"logits", "values"})


@method("b-coder", kind="loss", paper="arXiv:2310.03173", needs=("logits", "values"))
class ConservativeValues(nn.Module):
    """Squared error of Q = alpha (l - max l) + V under a backup that goes on as the pre-trained policy would (B-Coder).

    term_t = (Q(s_t, a_t) - y_t)^2, y_t = r_t + discount min(Q(s_(t+1), b), cap), a constant, b = argmax q(. | s_(t+1)) with q the
    policy as it was at first (the conservative operator B^q); 0 for Q after the last own action. l are the policy's logits and
    V = V_start + its own critic. softmax(Q / alpha) is softmax(l), the policy, whatever V is: values are learned without moving it
    from where it began. Rewards are taken as they are paid (a path without transforms), those of a tool with the action before it.

    At rollouts whose item says `demonstration` (ground truth) + advantage_weight |A| - imitation_weight log pi(a), A = alpha
    (l(a) - max l) <= 0. Any rollouts serve: recorded ones, a replay store, ground truth; no ratio to who acted comes in.

    policy:      as it is at first; it must offer logits and a critic. A run hands over a copy: q, whose critic is V_start
    bootstrap:   "reference" as above; "policy" backs up max_b Q: ordinary dueling Q-learning, which believes what it never tried
    cap:         bound of what is backed up, the largest return there is; None: none
    warm_start:  steps of Adam on V_start alone, with q's logits in place of l, on the first batch of all; then it is frozen
    learning_rate: of these steps

    B^q contracts by `discount`; its fixed point is Q of the greedy policy of q, and from that `rewards` gives every reward back.
    The coefficients are not published: the defaults are ours. Aggregate by `token-mean`. Metrics: error (root mean square), value
    (mean Q), greedy (share of own actions at which policy and reference prefer the same).
    Raises ValueError for options that make no sense, and a policy that lacks what is read.

    >>> from payoff.policies.tabular import Tabular
    >>> policy = Tabular(2, 2, critic=True)
    >>> traj = policy.sequences()
    >>> paid = Channel(torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> ConservativeValues(policy=policy)(policy.evaluate(traj, frozenset({"logits", "values"})), traj, paid).terms[3].tolist()
    [0.0, 1.0]
    """

    warm: Tensor

    def __init__(
        self,
        *,
        policy: Any,
        alpha: float = 1.0,
        discount: float = 1.0,
        cap: float | None = 1.0,
        advantage_weight: float = 0.1,
        imitation_weight: float = 0.1,
        bootstrap: Literal["reference", "policy"] = "reference",
        warm_start: int = 0,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        check_positive("b-coder", alpha=alpha, learning_rate=learning_rate)
        if not 0 <= discount <= 1 or warm_start < 0 or not min(advantage_weight, imitation_weight) >= 0:
            raise ValueError(
                "b-coder: discount must lie in 0..1, warm_start, advantage_weight and imitation_weight be at least 0, "
                f"got {discount}, {warm_start}, {advantage_weight} and {imitation_weight}"
            )
        if bootstrap not in ("reference", "policy"):
            raise ValueError(f'b-coder: bootstrap must be "reference" or "policy", got {bootstrap!r}')
        if lost := sorted(_WANT - getattr(policy, "offers", frozenset())):
            raise ValueError(f"b-coder: the policy offers no {lost[0]}{'; add critic: true to it' if lost[0] == 'values' else ''}")
        self.alpha, self.discount, self.cap, self.bootstrap = alpha, discount, cap, bootstrap
        self.advantage_weight, self.imitation_weight = advantage_weight, imitation_weight
        self.warm_start, self.learning_rate = warm_start, learning_rate
        self.initial = copy.deepcopy(policy).requires_grad_(False)
        self.register_buffer("warm", torch.tensor(warm_start == 0))

    def forward(self, evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
        """The terms of these rows; the first batch warms V_start up before it."""
        if lost := sorted(_WANT - set(evaluation.more)):
            raise ValueError(f"b-coder: needs evaluation.more[{lost[0]!r}]")
        if not self.warm:
            self.fit(traj, target, steps=self.warm_start)
        start = self._start(traj)
        logits, values = evaluation.more["logits"], evaluation.more["values"] + start.more["values"].to(evaluation.logp)
        moves = transitions(target, traj)
        own, q, gap = self._taken(logits, values, traj)
        with torch.no_grad():
            greedy = (start.more["logits"] if self.bootstrap == "reference" else logits).argmax(-1)
            wanted = backup(moves, logits, values, greedy, alpha=self.alpha, discount=self.discount, cap=self.cap)
        counts = own & moves.known
        error = torch.where(counts, q - wanted.to(q.dtype), 0)
        terms = error.square()
        shown = _demonstrations(traj) & own
        if shown.any():
            said = self.imitation_weight * torch.where(shown, evaluation.logp, 0)
            terms = terms + self.advantage_weight * torch.where(shown, -gap, 0) - said
        size = counts.sum().clamp(min=1)
        agree = torch.where(counts, logits.argmax(-1) == start.more["logits"].argmax(-1), False)
        told = {
            "error": float((error.detach().double().square().sum() / size).sqrt()),
            "value": float(torch.where(counts, q.detach(), 0).double().sum() / size),
            "greedy": float(agree.sum() / size),
        }
        return LossOutput(terms, told)

    def fit(self, traj: Trajectories, target: Channel, *, steps: int) -> float:
        """Steps of Adam on V_start alone, all else being the policy at first; gives the last root mean squared error."""
        moves, initial = transitions(target, traj), self.initial.requires_grad_(True)
        parameters = list(initial.parameters())
        with torch.enable_grad():
            first = initial.evaluate(traj, _WANT)
            moved = torch.autograd.grad(first.more["logits"].sum(), parameters, allow_unused=True)
            valued = torch.autograd.grad(first.more["values"].sum(), parameters, allow_unused=True)
            initial.requires_grad_(False)
            critic = [p for p, a, b in zip(parameters, moved, valued, strict=True) if a is None and b is not None]
            for parameter in critic:  # what the logits do not depend on
                parameter.requires_grad_(True)
            optimiser, last = torch.optim.Adam(critic, lr=self.learning_rate), 0.0
            for _ in itertools.repeat(None, steps):
                now = initial.evaluate(traj, _WANT)
                logits, values = now.more["logits"], now.more["values"]
                own, q, _ = self._taken(logits, values, traj)
                wanted = backup(
                    *(moves, logits.detach(), values.detach(), logits.argmax(-1)),
                    alpha=self.alpha,
                    discount=self.discount,
                    cap=self.cap,
                )
                counts = own & moves.known
                loss = torch.where(counts, q - wanted.to(q.dtype), 0).square().sum() / counts.sum().clamp(min=1)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                last = float(loss.detach()) ** 0.5
        for parameter in critic:
            parameter.requires_grad_(False)
            parameter.grad = None
        self.warm.fill_(True)
        return last

    @torch.no_grad()
    def rewards(self, policy: Any, traj: Trajectories, *, greedy: bool = False) -> Rewards:
        """The reward that these values imply, channel "implied": Q(s, a) - discount V(s'), 0 for V after the last own action.

        greedy: Q(s', argmax q) in place of V(s') = max Q: the inverse of B^q, which gives the reward back exactly at its fixed
        point. Summed over a program it ranks programs without running them (`best-of-n`).
        """
        now, start = policy.evaluate(traj, _WANT), self._start(traj)
        logits, values = now.more["logits"], now.more["values"] + start.more["values"].to(now.logp)
        own, q, _ = self._taken(logits, values, traj)
        none = transitions(Channel(torch.zeros_like(q), torch.ones_like(own)), traj)
        chosen = (start.more["logits"] if greedy else logits).argmax(-1)
        after = backup(none, logits, values, chosen, alpha=self.alpha, discount=self.discount, cap=None)
        return {"implied": Channel(torch.where(own, q - after.to(q.dtype), 0), torch.ones_like(own[:, :1]))}

    @torch.no_grad()
    def _start(self, traj: Trajectories) -> Evaluation:
        return self.initial.evaluate(traj, _WANT)

    def _taken(
        self, logits: Float[Tensor, "N T V"], values: Float[Tensor, "N T1"], traj: Trajectories
    ) -> tuple[Bool[Tensor, "N T"], Float[Tensor, "N T"], Float[Tensor, "N T"]]:
        """(own actions, Q of what was done, alpha (l - max l) of it), 0 off the own actions."""
        own = traj.own
        gap = self.alpha * _gap(torch.where(own[..., None], logits, 0), torch.where(own, traj.actions, 0))
        return own, torch.where(own, gap + torch.where(own, values[:, :-1], 0), 0), torch.where(own, gap, 0)


class Moves(NamedTuple):
    """What follows each own action: `paid` until the next one, whether all of that is `known`, and where that is (T: nowhere)."""

    paid: Float[Tensor, "N T"]
    known: Bool[Tensor, "N T"]
    following: Int[Tensor, "N T"]


def transitions(target: Channel, traj: Trajectories) -> Moves:
    """From one own action to the next: what is paid from it up to, and without, the next one.

    >>> from payoff.examples import four_answers
    >>> moves = transitions(Channel(torch.ones(4, 3), torch.ones(4, 1, dtype=torch.bool)), four_answers())
    >>> moves.paid[1].tolist(), moves.following[1].tolist()
    ([1.0, 1.0, 0.0], [1, 3, 3])
    """
    own, width = traj.own, traj.width
    value, valid = target.value.expand(traj.mask.shape), target.valid.expand(traj.mask.shape)
    number = own.long().cumsum(1) - 1  # which own action each position belongs to; -1 before the first
    counts = traj.exists & (number >= 0)
    index = number.clamp(min=0)
    paid = torch.zeros_like(value).scatter_add(1, index, torch.where(counts & valid, value, 0)).gather(1, index)
    lost = torch.zeros_like(index).scatter_add(1, index, (counts & ~valid).long()).gather(1, index)
    place = torch.where(own, torch.arange(width, device=traj.device), width)
    later = torch.cat([place[:, 1:], torch.full_like(place[:, :1], width)], 1)
    return Moves(torch.where(own, paid, 0), own & (lost == 0), later.flip(1).cummin(1).values.flip(1))


def backup(
    moves: Moves,
    logits: Float[Tensor, "N T V"],
    values: Float[Tensor, "N T1"],
    greedy: Int[Tensor, "N T"],
    *,
    alpha: float = 1.0,
    discount: float = 1.0,
    cap: float | None = None,
) -> Float[Tensor, "N T"]:
    """r + discount min(Q(s', b), cap) at every own action, b = greedy at the next own one; r alone after the last.

    Q(s', b) = alpha (l(b) - max l) + V(s'). With greedy = argmax l it is the max backup, with the reference's it is B^q.

    >>> from payoff.examples import four_answers
    >>> moves = transitions(Channel(torch.zeros(4, 3), torch.ones(4, 1, dtype=torch.bool)), four_answers())
    >>> backup(moves, torch.zeros(4, 3, 2), torch.ones(4, 4), torch.zeros(4, 3, dtype=torch.int64), discount=0.5)[0].tolist()
    [0.5, 0.5, 0.0]
    """
    width = logits.shape[1]
    has = moves.following < width
    at = moves.following.clamp(max=width - 1)
    ahead = logits.gather(1, at[..., None].expand(-1, -1, logits.shape[2]))
    gap = alpha * _gap(torch.where(has[..., None], ahead, 0), greedy.gather(1, at))
    value = gap + torch.where(has, values[:, :-1].gather(1, at), 0)
    value = value if cap is None else value.clamp(max=cap)
    return moves.paid.to(value.dtype) + discount * torch.where(has, value, 0)


def _gap(logits: Float[Tensor, "N T V"], actions: Int[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """l(a) - max l, at most 0."""
    return logits.gather(2, actions.long()[..., None])[..., 0] - logits.amax(2)


def _demonstrations(traj: Trajectories) -> Bool[Tensor, "N 1"]:
    shown = [*map(_shown, traj.items)] or [False] * len(traj)
    return torch.tensor(shown, dtype=torch.bool, device=traj.device)[:, None]


def _shown(item: Mapping[str, Any]) -> bool:
    return bool(item.get("demonstration"))
