"""The critic's losses: how far the value of a state is from the return that followed it.

The target is a return per action (`lambda_return`, `return_to_go`): what the value of the state before the action should have been.
One term per action, 0 where the action is not the policy's own or the return unknown.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories


@method("value", kind="loss", needs=("values",))
def value_loss(evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
    """Half the squared error of the value: term_t = (V(s_t) - R_t)^2 / 2.

    V is evaluation.more["values"] [N, T+1]; the value of the final state, which no action follows, is not trained.
    Metrics: error (mean of (V - R)^2), explained_variance (1 - var(R - V) / var(R): 1 is perfect, 0 is a constant; 0 where all
    returns are equal).
    Raises ValueError without evaluation.more["values"], or where they are not [N, T+1].

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> returns = Channel(torch.tensor([[1.0], [0.0], [1.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> value_loss(Evaluation(traj.logp["old"], {"values": torch.full((4, 4), 0.5)}), traj, returns).terms
    tensor([[0.1250, 0.1250, 0.1250],
            [0.1250, 0.1250, 0.0000],
            [0.1250, 0.1250, 0.1250],
            [0.1250, 0.0000, 0.0000]])
    """
    counts, value, wanted = _values("value_loss", evaluation, traj, target)
    return LossOutput((value - wanted).square() / 2, _metrics(counts, value, wanted))


@method("clipped-value", kind="loss", paper="arXiv:1707.06347", needs=("values",))
def clipped_value_loss(evaluation: Evaluation, traj: Trajectories, target: Channel, *, clip: float = 0.2) -> LossOutput:
    """The value loss that stops once the value has moved far enough: max((V - R)^2, (V_clip - R)^2) / 2.

    V_clip = V_old + min(max(V - V_old, -clip), clip), V_old = traj.extras["values"] [N, T+1], the critic's values when the batch
    was made. No gradient where V has moved by more than `clip` towards R; full gradient where it has moved away.
    `clip` is in units of the return, so it depends on the reward's scale. clip -> infinity is `value_loss`.

    Metrics as there, and clip_fraction, the share of terms where the bound took effect.
    Raises ValueError as there, without traj.extras["values"], or for a negative clip.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"values": torch.zeros(4, 4)})
    >>> returns = Channel(torch.ones(4, 1), torch.ones(4, 1, dtype=torch.bool))
    >>> clipped_value_loss(Evaluation(traj.logp["old"], {"values": torch.full((4, 4), 0.5)}), traj, returns).terms
    tensor([[0.3200, 0.3200, 0.3200],
            [0.3200, 0.3200, 0.0000],
            [0.3200, 0.3200, 0.3200],
            [0.3200, 0.0000, 0.0000]])
    """
    if clip < 0:
        raise ValueError(f"clipped_value_loss: clip must be at least 0, got {clip}")
    if "values" not in traj.extras:
        raise ValueError('clipped_value_loss: needs traj.extras["values"], the values when the batch was made')
    counts, value, wanted = _values("clipped_value_loss", evaluation, traj, target)
    old = torch.where(counts, traj.extras["values"][:, :-1], 0)
    near = old + (value - old).clamp(-clip, clip)
    free, clipped = (value - wanted).square(), (near - wanted).square()
    share = float((counts & (clipped > free)).sum() / counts.sum().clamp(min=1))
    return LossOutput(torch.maximum(free, clipped) / 2, {**_metrics(counts, value, wanted), "clip_fraction": share})


def _values(
    name: str, evaluation: Evaluation, traj: Trajectories, target: Channel
) -> tuple[Bool[Tensor, "N T"], Float[Tensor, "N T"], Float[Tensor, "N T"]]:
    """(which terms count, values, returns) of every action; both 0 where the term does not count."""
    values = evaluation.more.get("values")
    if values is None or values.shape != (len(traj), traj.width + 1):
        shape = None if values is None else list(values.shape)
        raise ValueError(f'{name}: needs evaluation.more["values"] [N, T+1] = [{len(traj)}, {traj.width + 1}], got {shape}')
    counts = traj.own & target.valid
    return counts, torch.where(counts, values[:, :-1], 0), torch.where(counts, target.value, 0)


def _metrics(counts: Bool[Tensor, "N T"], value: Float[Tensor, "N T"], wanted: Float[Tensor, "N T"]) -> dict[str, float]:
    value, wanted = value.detach()[counts].double(), wanted.detach()[counts].double()
    if not len(value):
        return {"error": 0.0, "explained_variance": 0.0}
    spread = wanted.var(correction=0)
    explained = torch.where(spread > 0, 1 - (wanted - value).var(correction=0) / spread, 0.0)
    return {"error": float((value - wanted).square().mean()), "explained_variance": float(explained)}
