"""How often a verifier refuses what is right, told by a better one that looks at some of its refusals again, while training."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from payoff.catalogue import find, method
from payoff.pipeline import Verdict
from payoff.shaping.noise_correction import appealed_rate, backward_correction, forward_correction
from payoff.trajectories import Channel, Trajectories, outcome


@method("noisy-rlvr-appeals", kind="shaping", paper="arXiv:2510.00915", sees="batch")
class Appeals(nn.Module):
    """Correct noisy verdicts by the rate of false negatives that appeals find (online noise estimate): no rate has to be known.

    Of the n0 verdicts of 0 in a batch the share `share`, rounded up and drawn at random, goes to the better verifier; it answers m
    and overturns k. rate = (n0 k / m) / (n1 + n0 k / m) with n1 verdicts of 1, and the running rate is decay times what it was plus
    1 - decay times that; the first batch's is taken as it is. The verdicts are then corrected as `noisy-rlvr-forward` or
    `noisy-rlvr-correction` do, all by the same rate; those that were overturned too, as the correction is of the raw verdicts.

    verifier:       a registered grader, or a function, of the items' fields by name; 1/2 and more overturns
    correction:     "forward" or "backward"; the latter reads false_positive, which no appeal of refusals can tell
    In training mode the running rate moves, once for each call; in evaluation it stands and nobody is asked. It is in the
    checkpoint, and never above 0.95 - false_positive. Which rows are drawn depends on the seed, the number of calls and the ids.

    One rate for all: under an advantage that takes the group's mean out the forward correction is invisible and the backward one a
    factor; use them with a baseline of the batch, or none. Cost: m calls of the verifier. What it errs in stays.
    Raises ValueError for a share outside 0..1, a decay outside [0, 1), another correction, and verdicts other than 0 and 1.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj, sure = four_answers(), torch.ones(4, dtype=torch.bool)
    >>> verdicts = place_outcome(torch.tensor([1.0, 0.0, 1.0, 0.0]), sure, traj)
    >>> appeals = Appeals(verifier=lambda response: float(len(response) > 0), share=1.0)
    >>> outcome(appeals(verdicts, traj), traj)[0], float(appeals.rate)  # one of the two refusals is overturned
    (tensor([ 0.3333, -0.6667,  0.3333, -0.6667]), 0.333...)
    """

    rate: Tensor
    calls: Tensor

    def __init__(
        self,
        *,
        verifier: str | Callable[..., Any],
        share: float = 0.2,
        decay: float = 0.9,
        correction: Literal["forward", "backward"] = "forward",
        false_positive: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < share <= 1 or not 0 <= decay < 1 or correction not in ("forward", "backward"):
            raise ValueError(
                'noisy-rlvr-appeals: 0 < share <= 1, 0 <= decay < 1 and a correction "forward" or "backward" are needed, got '
                f"{share}, {decay} and {correction!r}"
            )
        self.verifier = find(verifier, "grader") if isinstance(verifier, str) else verifier
        self.asked = [p.name for p in inspect.signature(self.verifier).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.share, self.decay, self.correction = share, decay, correction
        self.false_positive, self.seed = false_positive, seed
        self.register_buffer("rate", torch.tensor(math.nan, dtype=torch.float64))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, channel: Channel, traj: Trajectories) -> Channel:
        """The corrected verdicts."""
        if self.training:
            self._appeal(channel, traj)
        missed = 0.0 if bool(self.rate.isnan()) else min(float(self.rate), 0.95 - self.false_positive)
        if self.correction == "forward":
            return forward_correction(channel, traj, false_negative=missed)
        return backward_correction(channel, traj, false_positive=self.false_positive, false_negative=missed)

    def _appeal(self, channel: Channel, traj: Trajectories) -> None:
        """Move the running rate by what the better verifier says of some refusals."""
        self.calls += 1
        verdict, valid = outcome(channel, traj)
        refused = (valid & (verdict == 0)).nonzero()[:, 0]
        refused = refused[traj.id[refused].argsort()].cpu()  # whatever the order of the rows
        positives, negatives = int((valid & (verdict == 1)).sum()), len(refused)
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.calls))
        drawn = refused[torch.randperm(negatives, generator=rng)[: math.ceil(self.share * negatives - 1e-9)]].tolist()
        said = [right for row in drawn if (right := self._right(traj.items[row] if traj.items else {})) is not None]
        if positives + negatives == 0 or (negatives and not said):
            return
        found = appealed_rate(positives, negatives, checked=len(said), overturned=sum(said))
        old = found if bool(self.rate.isnan()) else float(self.rate)
        self.rate.fill_(self.decay * old + (1 - self.decay) * found)

    def _right(self, item: Mapping[str, Any]) -> bool | None:
        """What the better verifier says of a row; None where it has no verdict."""
        try:
            answer = self.verifier(**{name: item[name] for name in self.asked if name in item})
        except Exception:  # whatever a row makes it do, that row then tells nothing of the rate
            return None
        if isinstance(answer, Verdict):
            answer = answer.value if answer.valid else None
        return bool(answer >= 0.5) if isinstance(answer, int | float) and math.isfinite(answer) else None
