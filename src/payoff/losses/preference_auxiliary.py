"""Terms beside a loss on pairs, on other rows of the same starts: why an answer is better, and how much is left of it."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import softplus

from payoff.catalogue import method
from payoff.losses.preference_links import Per, check_positive, sequence_score
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories, at_start


@method("rationale-preference", kind="loss", paper="arXiv:2407.14477")
def rationale_preference(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    gamma: float = 0.1,
    form: Literal["sigmoid", "likelihood"] = "sigmoid",
    per: Per = "sequence",
) -> LossOutput:
    """Learn to say why the preferred answer is better, beside a loss on pairs: -log sigmoid(gamma log pi(e)) of a rationale e.

    Rationales are rollouts of their own, whose prompt holds both answers (`preferences` with `why`); they are those with a verdict
    (`recorded-rationale`). log pi(e) is summed over own actions, so for a long rationale the term is gamma times its negative
    log-likelihood. gamma = 0 leaves log 2 without gradient: the loss on pairs alone.

    form: "likelihood" is -gamma log pi(e), the plain factor p(pair) p(e | pair); per: "action" takes the mean, as with ORPO
    [N, 1]: aggregate by `sequence-mean-token-mean`. Others have no term. Metric likelihood: mean of log pi(e), where there is any.
    Raises ValueError for gamma < 0.

    >>> from payoff.examples import four_answers
    >>> traj, why = four_answers(), Channel(torch.ones(4, 1), torch.tensor([[False], [True], [False], [False]]))
    >>> rationale_preference(Evaluation(traj.logp["old"], {}), traj, why).terms.T  # two actions: -log sigmoid(-0.2)
    tensor([[0.0000, 0.7981, 0.0000, 0.0000]])
    """
    if not gamma >= 0 or form not in ("sigmoid", "likelihood"):
        raise ValueError(f'rationale_preference: gamma must be >= 0 and form "sigmoid" or "likelihood", got {gamma} and {form!r}')
    known = at_start(target, traj)[1] & traj.own.any(1)
    logp = sequence_score("rationale_preference", evaluation, traj, {}, per=per)
    terms = torch.where(known, softplus(-gamma * logp) if form == "sigmoid" else -gamma * logp, 0)
    metrics = {"likelihood": float(logp.detach()[known].double().mean())} if known.any() else {}
    return LossOutput(terms[:, None], metrics)


@method("spo-preference-degree", kind="loss", paper="arXiv:2409.17791", needs=("hidden",), sees="batch")
class PreferenceDegree(nn.Module):
    """Make the policy's states tell how much of an answer's content is left, beside a loss on pairs (SPO's auxiliary loss).

    The target says the degree of every rollout, a whole number from 0: how much was removed from it (`preferences` with `degrees`
    writes such rows, of chosen and rejected answers on one scale). The mean of the policy's states behind its own actions goes
    through a linear head; the term is the cross-entropy of the degree. Its gradient goes into the policy; the head itself takes a
    step of its own on the same rollouts, whenever gradients are on.

    levels:        how many degrees there are
    learning_rate: of the head's steps of gradient descent
    The paper leaves details open (pooling, range of the labels): this is our reading. [N, 1]: aggregate by
    `sequence-mean-token-mean`. A rollout without verdict has no term. Metric right: the share of degrees that the head tells.
    Raises ValueError for levels < 2, learning_rate <= 0, and a degree that is no whole number from 0 to levels - 1.

    >>> from payoff.examples import four_answers
    >>> traj, hidden = four_answers(), torch.zeros(4, 4, 2)
    >>> degree = Channel(torch.tensor([[0.0], [1.0], [2.0], [2.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> loss = PreferenceDegree(levels=3)
    >>> loss(Evaluation(traj.logp["old"], {"hidden": hidden}), traj, degree).terms.T  # it knows nothing yet: log 3
    tensor([[1.0986, 1.0986, 1.0986, 1.0986]])
    """

    def __init__(self, *, levels: int, learning_rate: float = 0.1) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"PreferenceDegree: levels must be at least 2, got {levels}")
        check_positive("PreferenceDegree", learning_rate=learning_rate)
        self.levels, self.learning_rate = levels, learning_rate
        self.weight: Tensor | None = None  # [levels, width], once the width of a state is known
        self.bias = torch.zeros(levels)

    def forward(self, evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
        """The cross-entropy of every rollout's degree; the head learns from what it is shown."""
        degree, known = at_start(target, traj)
        known = known & traj.own.any(1)
        wanted = torch.where(known, degree, 0)
        if not bool(((wanted == wanted.round()) & (wanted >= 0) & (wanted < self.levels)).all()):
            low, high = float(wanted.min()), float(wanted.max())
            raise ValueError(f"PreferenceDegree: degrees are whole numbers 0 to {self.levels - 1}, got {low} to {high}")
        behind = evaluation.more["hidden"][:, 1:].float()  # the state behind each action
        mean = torch.where(traj.own[..., None], behind, 0).sum(1) / traj.own.sum(1, keepdim=True).clamp(min=1)
        if self.weight is None:
            self.weight = torch.zeros(self.levels, mean.shape[1])
        self.weight, self.bias = self.weight.to(mean.device), self.bias.to(mean.device)
        logits = functional.linear(mean, self.weight, self.bias)
        terms = torch.where(known, functional.cross_entropy(logits, wanted.long(), reduction="none"), 0)
        metrics = {}
        if known.any():
            metrics["right"] = float((logits.argmax(1) == wanted)[known].double().mean())
            if torch.is_grad_enabled():
                self._learn(mean.detach()[known], logits.detach()[known], wanted.long()[known])
        return LossOutput(terms[:, None], metrics)

    def get_extra_state(self) -> dict[str, Tensor | None]:
        """The head."""
        return {"weight": self.weight, "bias": self.bias}

    def set_extra_state(self, state: dict[str, Tensor | None]) -> None:
        """The head as it was saved."""
        self.weight, bias = state["weight"], state["bias"]
        self.bias = torch.zeros(self.levels) if bias is None else bias

    @torch.no_grad()
    def _learn(self, mean: Float[Tensor, "M D"], logits: Float[Tensor, "M L"], wanted: Int[Tensor, " M"]) -> None:
        """One step down the gradient of the mean cross-entropy, into new tensors: the old ones belong to the policy's graph."""
        error = (logits.softmax(1) - functional.one_hot(wanted, self.levels)) / len(wanted)
        assert self.weight is not None
        self.weight = self.weight - self.learning_rate * error.T @ mean
        self.bias = self.bias - self.learning_rate * error.sum(0)
