"""How likely a reference answer is after the reasoning that was written, as a reward: no verifier, no sampled answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.trajectories import Rewards, Trajectories, place_outcome

Form = Literal["log", "mean-log", "probability", "mean-probability"]
_ROWS = 64  # asked of the policy at a time


@method("likelihood-rewards", kind="signal", paper="arXiv:2602.03979")
class ReferenceLikelihood(nn.Module):
    """Pay at the end how likely the reference answer is after the rollout's reasoning, channel "likelihood".

    With l_j = log pi(reference token j | prompt, reasoning, reference tokens before j), j = 1..A:
    "log": sum_j l_j. "mean-log": their mean. "probability": exp(sum_j l_j). "mean-probability": mean_j exp(l_j).
    The probability is what a sampled answer is worth that is paid 1 for being the reference, without the noise of sampling it: the
    same expected gradient. It vanishes with the length of the reference, as the sampled reward does; the logarithms do not.

    policy: who is asked, frozen as it is given: its `tokenizer` must write the reference. A run hands over a copy of the policy as
            it starts. None: the row's own "reference_logp", a list of l_j, as the sampler `likelihood-rewards` notes it of the
            policy as it is (as in the paper). The gradient through such a reward, for "log" that of learning it by heart,
            is a term of its own: the replay of that name and the credit `reward-gradient`
    keep:   the reasoning is all "but the last step", whose place the reference takes, or "all" that was written
    lead:   text before the reference that leads up to it and is not scored, such as "Answer: "

    Without verdict: rows that have no reference, or an empty one, or whose log-probabilities are not numbers at most 0.
    Raises ValueError for trajectories without items, and for an unknown form.

    >>> from payoff.examples import four_answers
    >>> import math
    >>> traj = four_answers().replace(items=[{"reference_logp": [math.log(0.5), math.log(0.5)]}] * 4)
    >>> ReferenceLikelihood(form="probability")(traj)["likelihood"].value[0]
    tensor([0.0000, 0.0000, 0.2500])
    """

    def __init__(
        self, *, policy: Any = None, form: Form = "log", keep: Literal["but-last-step", "all"] = "but-last-step", lead: str = ""
    ) -> None:
        super().__init__()
        if form not in ("log", "mean-log", "probability", "mean-probability"):
            raise ValueError(f"likelihood-rewards: unknown form {form!r}")
        self.form, self.source = form, _Source("likelihood-rewards", policy, keep, lead)

    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "likelihood"."""
        logp, here, reasons = self.source.reasoned(traj)
        return {"likelihood": _paid(_likelihood(logp, here, self.form), here.any(1), traj, reasons)}


@method("rlpr", kind="signal", paper="arXiv:2506.18254")
class ReasonedProbability(nn.Module):
    """Pay at the end how much the reasoning raised the mean probability of the reference's tokens (RLPR), channel "probability".

    r = min(max(mean_j exp(l_j) - mean_j exp(b_j), 0), 1), with l_j the reference tokens' log-probabilities after the reasoning and
    b_j those without it. The mean takes one impossible token for what it is, where the product would be 0; the geometric mean lies
    between them. debias False leaves b out.
    The paper adds a tenth of a format reward to nine tenths of it (`mix`), or pays -1 in bad form (the shaping `rlpr`). Prompts
    whose reference the policy knows without reasoning pay nothing to anyone and drop out of the batch; `rlpr` among the selections
    drops those that pay nearly alike.

    policy, keep, lead: as of `likelihood-rewards`; without a policy the rows' "reference_logp" and "base_logp" are read.
    Without verdict: as there. Raises ValueError for trajectories without items.

    >>> from payoff.examples import four_answers
    >>> import math
    >>> item = {"reference_logp": [math.log(0.9), math.log(0.5)], "base_logp": [math.log(0.5), math.log(0.4)]}
    >>> ReasonedProbability()(four_answers().replace(items=[item] * 4))["probability"].value[0]
    tensor([0.0000, 0.0000, 0.2500])
    """

    def __init__(
        self,
        *,
        policy: Any = None,
        debias: bool = True,
        keep: Literal["but-last-step", "all"] = "but-last-step",
        lead: str = "",
    ) -> None:
        super().__init__()
        self.debias, self.source = debias, _Source("rlpr", policy, keep, lead)

    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "probability"."""
        logp, here, reasons = self.source.reasoned(traj)
        value, known = _likelihood(logp, here, "mean-probability"), here.any(1)
        if self.debias:
            base, there, more = self.source.bare(traj)
            value = value - _likelihood(base, there, "mean-probability")
            known, reasons = known & there.any(1), {**more, **reasons}
        return {"probability": _paid(value.clamp(0, 1), known, traj, reasons)}


Found = tuple[Float[Tensor, "N A"], Bool[Tensor, "N A"], dict[int, str]]


class _Source(nn.Module):
    """Where the reference's log-probabilities come from: a policy that is asked, or the rows themselves."""

    def __init__(self, name: str, policy: Any, keep: str, lead: str) -> None:
        super().__init__()
        if keep not in ("but-last-step", "all"):
            raise ValueError(f'{name}: keep must be "but-last-step" or "all", got {keep!r}')
        self.name, self.keep, self.lead = name, keep, lead
        self.policy = None if policy is None else policy.requires_grad_(False)

    def reasoned(self, traj: Trajectories) -> Found:
        """After what the rollout wrote before its answer."""
        if self.policy is None:
            return self._recorded(traj, "reference_logp")
        cut = traj.length
        if self.keep == "but-last-step":
            last = traj.step.amax(1, keepdim=True)
            cut = (traj.exists & (traj.step < last)).sum(1)
        return self._asked(traj, [row[:end] for row, end in zip(traj.actions.tolist(), cut.tolist(), strict=True)])

    def bare(self, traj: Trajectories) -> Found:
        """After the prompt alone."""
        return self._recorded(traj, "base_logp") if self.policy is None else self._asked(traj, [[] for _ in range(len(traj))])

    def _recorded(self, traj: Trajectories, field: str) -> Found:
        rows: list[Sequence[float]] = []
        reasons: dict[int, str] = {}
        for id, item in zip(traj.id.tolist(), self._items(traj), strict=True):
            given: Any = item.get(field)
            sound = isinstance(given, Sequence) and all(isinstance(x, int | float) and x <= 1e-6 for x in given)
            if not sound or not given:
                reasons[id] = f"{field!r} is no list of log-probabilities" if given else f"no {field!r}"
            rows.append(given if sound else ())
        logp, here = _padded(rows)
        return logp, here, reasons

    @torch.no_grad()
    def _asked(self, traj: Trajectories, reasoning: Sequence[list[int]]) -> Found:
        tokenizer = self.policy.tokenizer  # type: ignore[union-attr]  # only called where there is a policy
        lead = tokenizer.encode(self.lead) if self.lead else []
        reasons: dict[int, str] = {}
        rows: list[tuple[int, list[int], list[int], Mapping[str, Any]]] = []
        for row, (id, item) in enumerate(zip(traj.id.tolist(), self._items(traj), strict=True)):
            reference = item.get("reference")
            if reference is None or str(reference) == "":
                reasons[id] = "no reference"
            else:
                rows.append((row, [*reasoning[row], *lead], tokenizer.encode(str(reference)), item))
        found: list[Sequence[float]] = [()] * len(traj)
        for some in (rows[i : i + _ROWS] for i in range(0, len(rows), _ROWS)):
            said = self.policy.evaluate(_continued(some)).logp.tolist()  # type: ignore[union-attr]
            for logp, (row, before, reference, _) in zip(said, some, strict=True):
                found[row] = [min(x, 0.0) for x in logp[len(before) : len(before) + len(reference)]]
        logp, here = _padded(found)
        return logp, here, reasons

    def _items(self, traj: Trajectories) -> Sequence[Mapping[str, Any]]:
        if len(traj.items) != len(traj):
            raise ValueError(f"{self.name}: these trajectories have no items, so their references are not known")
        return traj.items


def _continued(rows: Sequence[tuple[int, list[int], list[int], Mapping[str, Any]]]) -> Trajectories:
    """Reasoning followed by the reference, of which only the reference counts as acted."""
    length = torch.tensor([len(before) + len(reference) for _, before, reference, _ in rows])
    first = torch.tensor([len(before) for _, before, _, _ in rows])
    actions = nn.utils.rnn.pad_sequence([torch.tensor([*before, *reference]) for _, before, reference, _ in rows], batch_first=True)
    position = torch.arange(actions.shape[1])
    exists = position < length[:, None]
    return Trajectories(
        mask=exists & (position >= first[:, None]),
        length=length,
        group=torch.arange(len(rows)),
        step=torch.where(exists, 0, -1).int(),
        stop=torch.zeros(len(rows), dtype=torch.int64),
        actions=actions,
        items=[item for *_, item in rows],
    )


def _padded(rows: Sequence[Sequence[float]]) -> tuple[Float[Tensor, "N A"], Bool[Tensor, "N A"]]:
    length = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    width = max([len(row) for row in rows] or [0], default=0)
    logp = torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows], dtype=torch.float64).view(len(rows), width)
    return logp, torch.arange(width) < length[:, None]


def _likelihood(logp: Float[Tensor, "N A"], here: Bool[Tensor, "N A"], form: Form) -> Float[Tensor, " N"]:
    """The number of each row, its padding left out; 0 where it has no token."""
    count = here.sum(1).clamp(min=1)
    if form == "mean-probability":
        return torch.where(here, logp.exp(), 0).sum(1) / count
    total = torch.where(here, logp, 0).sum(1)
    if form == "probability":
        return torch.where(here.any(1), total.exp(), 0)
    return total / count if form == "mean-log" else total


def _paid(value: Float[Tensor, " N"], known: Bool[Tensor, " N"], traj: Trajectories, reasons: dict[int, str]):
    impossible = known & ~value.isfinite()
    reasons = {**reasons, **dict.fromkeys(traj.id[impossible.to(traj.device)].tolist(), "a reference that is impossible (log 0)")}
    known = known & ~impossible
    value = torch.where(known, value, 0).to(torch.get_default_dtype()).to(traj.device)
    return place_outcome(value, known.to(traj.device), traj, reasons)
