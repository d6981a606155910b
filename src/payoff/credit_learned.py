"""What models of credit learned from 64 rollouts of the tree's policy, for the comparison of `payoff.credit_table`.

Every model is a table here, with a number of its own for each prefix, so that none is held back by what it reads. What they differ
in is what they learn from, and what they make of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from payoff.catalogue import find
from payoff.credit_places import SEED, TREE, reference_policy
from payoff.pipeline import Evaluation
from payoff.policies.tabular import Tabular
from payoff.trajectories import Pairs, Rewards, Trajectories, outcome

ROLLOUTS = 64
Learned = Callable[[Trajectories], Rewards]


class Seen(Tabular):
    """The tree's policy with a hidden state that is the prefix: any function of the past is linear in it."""

    width = 2 ** (TREE.horizon + 1) - 1

    def __init__(self) -> None:
        super().__init__(2, TREE.horizon, logits=reference_policy().logits[0].detach())
        self.offers = self.offers | {"hidden"}

    @property
    def device(self) -> torch.device:
        return self.logits.device

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        """As the table does; hidden [N, T+1, 31]."""
        found = super().evaluate(traj, want - {"hidden"})
        return found if "hidden" not in want else Evaluation(found.logp, {**found.more, "hidden": prefix_states(traj)})


def prefix_states(traj: Trajectories) -> Tensor:
    """Which prefix stands before every action and, behind the last, at the end: [N, T+1, 31], one of them 1.

    >>> policy = reference_policy()
    >>> prefix_states(policy.sequences())[3].argmax(1).tolist()  # "", a, aa, aab, aabb
    [0, 1, 3, 8, 18]
    """
    code = torch.zeros(len(traj), 1, dtype=torch.int64)
    for t in range(traj.width):
        code = torch.cat([code, 2 * code[:, -1:] + 1 + torch.where(traj.exists, traj.actions, 0)[:, t : t + 1]], 1)
    return one_hot(code, Seen.width).float()


@functools.cache
def rollouts() -> Trajectories:
    """The 64 rollouts, of one start, with the states that some models read."""
    traj = reference_policy().rollout(TREE.held_out_starts(1), ROLLOUTS, torch.Generator().manual_seed(SEED))
    return with_states(traj)


def with_states(traj: Trajectories) -> Trajectories:
    """The prefixes as what models of turns and of environments read."""
    states = prefix_states(traj)
    return traj.replace(extras={"hidden": states, "observations": states})


def outcomes() -> Rewards:
    """What came of the 64 rollouts."""
    return {"correct": TREE.truth(rollouts())}


@functools.cache
def labels() -> tuple[Tensor, Tensor]:
    """Labels of the steps of the 64 rollouts, all known: 0 where the right letter is missing in the first or the third, else 1."""
    right = torch.ones(ROLLOUTS, TREE.horizon)
    right[:, ::2] = rollouts().actions[:, ::2].float()  # `b` first and third, as the tree wants it
    return right, torch.ones_like(right, dtype=torch.bool)


@functools.cache
def process_model(name: str) -> Learned:
    """A head on prefixes fitted to step labels of the 64 rollouts: `process-reward-model` or `hrm-hnc`."""
    model = cast(Any, find(name, "model"))(policy=Seen(), learning_rate=0.1, epochs=40)
    model.fit(rollouts(), *labels())
    return model


@functools.cache
def math_shepherd() -> Learned:
    """Learned from 8 continuations of every step of the 64 rollouts."""
    return _taught(cast(Any, find("math-shepherd", "model"))(policy=Seen(), reward=_truth, learning_rate=0.1, epochs=40))


@functools.cache
def advantage_critic() -> Learned:
    """`direct-advantage-po`'s critic, from 16 continuations of every step of the 64 rollouts."""
    model = cast(Any, find("direct-advantage-po", "model"))(policy=Seen(), reward=_truth, learning_rate=0.1, epochs=300)
    return _taught(model)


@functools.cache
def attribution() -> Learned:
    """`spa-rl`: shares that add up to the outcome."""
    return _taught(cast(Any, find("spa-rl", "model"))(policy=Seen(), learning_rate=0.05, epochs=100))


@functools.cache
def turn_critics() -> Learned:
    """`archer`, undiscounted, from the 64 rollouts again and again."""
    options = {"discount": 1.0, "hidden": 0, "learning_rate": 0.02, "gradient_clip": 0.0, "updates": 1000, "warm_up": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return _taught(cast(Any, find("archer", "model"))(size=Seen.width, **options))


@functools.cache
def decomposition(factors: bool) -> Learned:
    """`return-decomposition` of prefix and letter; or of factors that `lare` might be given: place, letter, first letter."""
    size = 3 if factors else Seen.width + 1
    encoder = _factors if factors else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        options = {"hidden": 64, "learning_rate": 3e-3, "updates": 600, "steps": TREE.horizon}
        return _taught(cast(Any, find("return-decomposition", "model"))(size=size, encoder=encoder, **options))


@functools.cache
def ranker() -> Learned:
    """`reward-ranker`: every right one of the 64 rollouts before every wrong one."""
    model = cast(Any, find("reward-ranker", "model"))(policy=Seen(), epochs=60, learning_rate=0.1)
    model.fit(rollouts(), _pairs())
    return model


@functools.cache
def implicit() -> Learned:
    """`prime`'s implicit model, taught the 64 outcomes fifty times over."""
    model = cast(Any, find("prime", "model"))(policy=reference_policy(), beta=1.0, learning_rate=0.05)
    for _ in range(50):
        model.learn(rollouts(), outcomes())
    return model


def implicit_steps() -> Learned:
    """`oprl`: what a policy that prefers right rollouts thinks likelier than the one that acts."""
    model, actor = preferring("policy"), reference_policy()
    return lambda traj: find("oprl", "signal")(traj.replace(logp={"prm": _logp(model, traj), "old": _logp(actor, traj)}))


def preference_tilt() -> Learned:
    """`rto`: the same against the reference it was fitted from."""
    model, reference = preferring("uniform"), reference_policy().uniform()
    return lambda traj: find("rto", "signal")(traj.replace(logp={"dpo": _logp(model, traj), "ref": _logp(reference, traj)}))


def contrast() -> Learned:
    """`t-reg`: what the policy does where it is asked for better answers, here the best of 4, and for worse, the worst of 4."""
    policy = reference_policy()
    asked = {
        name: policy.matching(policy.best_of_n(sign * TREE.leaves(), 4).detach()) for name, sign in (("better", 1), ("worse", -1))
    }
    return lambda traj: find("t-reg", "signal")(traj.replace(logp={name: _logp(model, traj) for name, model in asked.items()}))


@functools.cache
def token_scorer() -> Callable[[Trajectories], Tensor]:
    """`oreal`'s scores w of prefixes, fitted so that the sigmoid of their mean over an answer predicts its outcome."""
    table = torch.zeros(Seen.width, dtype=torch.float64, requires_grad=True)
    states = prefix_states(rollouts()).double()[:, 1:]
    right = outcome(outcomes()["correct"], rollouts())[0]
    optimiser = torch.optim.Adam([table], lr=0.1)
    for _ in range(100):
        loss = binary_cross_entropy_with_logits((states @ table).mean(1), right)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return lambda traj: prefix_states(traj).double()[:, 1:] @ table.detach()


@functools.cache
def preferring(against: str) -> Tabular:
    """A policy that was fitted by `dpo` to every right one of the 64 rollouts before every wrong one, from `against` on.

    against: "policy", which `oprl` has, or "uniform", the reference of this comparison, which `rto` has
    """
    base = reference_policy() if against == "policy" else reference_policy().uniform()
    model = Tabular(2, TREE.horizon, logits=base.logits[0].detach())
    traj = rollouts()
    with torch.no_grad():
        traj = traj.replace(logp={"ref": base.evaluate(traj).logp})
    loss, pairs = find("dpo", "loss"), _pairs()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(50):
        value = loss(model.evaluate(traj), traj, pairs, beta=1.0).terms.mean()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
    return model.requires_grad_(False)


def _logp(policy: Tabular, traj: Trajectories) -> Tensor:
    with torch.no_grad():
        return policy.evaluate(traj).logp


def _taught(model: Any) -> Learned:
    model.learn(rollouts(), outcomes())
    return model


def _pairs() -> Pairs:
    right, _ = outcome(outcomes()["correct"], rollouts())
    index = torch.cartesian_prod((right > 0.5).nonzero()[:, 0], (right < 0.5).nonzero()[:, 0])
    return Pairs(index, torch.ones(len(index)), torch.ones(len(index)))


def _truth(traj: Trajectories) -> Rewards:
    return {"correct": TREE.truth(traj)}


def _factors(traj: Trajectories) -> Tensor:
    letter = torch.where(traj.exists, traj.actions, 0)
    place = torch.arange(traj.width).expand(letter.shape)
    return torch.stack([place, letter, letter[:, :1].expand(letter.shape)], 2).float()
