"""Losses for fitting a reward to preferences: softer labels, margins, an anchor, contrast between features, and a step for a shift.

Functions of scores and features, one number per pair or prompt; whatever model gave them gets the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize


def pair_loss(
    chosen: Float[Tensor, " P"],
    rejected: Float[Tensor, " P"],
    *,
    label: float | Float[Tensor, " P"] = 1.0,
    margin: float | Float[Tensor, " P"] = 0.0,
    anchor: float = 0.0,
) -> Float[Tensor, " P"]:
    """How badly two scores explain one preference: Bradley and Terry's loss with a soft label, a margin and an anchor.

    -label log sigmoid(d) - (1 - label) log sigmoid(-d) + anchor (chosen + rejected)^2, d = chosen - rejected - margin.

    label:  P(the first is better): 1, a constant below it (smoothed), or sigmoid of the strength that other models give the pair
            (arXiv:2401.06080); the loss is then least where d is the label's logit
    margin: what the first must lead by, such as that strength (arXiv:2401.06080)
    anchor: takes out what a prompt adds to both scores, so that models can be averaged (arXiv:2312.09244: 0.01)
    Raises ValueError for a label outside [0, 1] or an anchor below 0.

    >>> pair_loss(torch.tensor([1.0]), torch.tensor([1.0])).item()  # log 2
    0.6931471824645996
    """
    label = torch.as_tensor(label, dtype=chosen.dtype, device=chosen.device)
    if bool(((label < 0) | (label > 1)).any()) or anchor < 0:
        raise ValueError(f"pair_loss: label must lie in [0, 1] and anchor be at least 0, got anchor {anchor}")
    d = chosen - rejected - margin
    return -label * logsigmoid(d) - (1 - label) * logsigmoid(-d) + anchor * (chosen + rejected).square()


def to_flip(strength: Float[Tensor, " P"], share: float) -> Bool[Tensor, " P"]:
    """The pairs whose labels to turn round: the given share with the lowest strength, of two alike the earlier (arXiv:2401.06080).

    strength: mean over models that have not learned from the pair of chosen minus rejected. Raises ValueError for a share outside
    [0, 1].

    >>> to_flip(torch.tensor([2.0, -1.0, 0.5, -3.0]), 0.25).tolist()
    [False, False, False, True]
    """
    if not 0 <= share <= 1:
        raise ValueError(f"to_flip: share must lie in [0, 1], got {share}")
    chosen = torch.zeros(len(strength), dtype=torch.bool, device=strength.device)
    chosen[strength.argsort(stable=True)[: int(share * len(strength))]] = True
    return chosen


def info_nce(first: Float[Tensor, "P D"], second: Float[Tensor, "P D"], *, temperature: float) -> Float[Tensor, " P"]:
    """How hard it is to tell which second view belongs to each first one: the contrast that is added to a reward's loss.

    -log [exp(cos(h_i, h'_i) / temperature) / sum_j exp(cos(h_i, h'_j) / temperature)], h and h' two views (of two dropout masks) of
    a pair's features, of its responses or of the difference between the two (arXiv:2401.06080). 0 for one pair, log P where all
    features are alike. Raises ValueError for temperature <= 0.

    >>> info_nce(torch.ones(4, 2), torch.ones(4, 2), temperature=0.5).exp().tolist()
    [4.0, 4.0, 4.0, 4.0]
    """
    if not temperature > 0:
        raise ValueError(f"info_nce: temperature must be > 0, got {temperature}")
    likeness = normalize(first, dim=1) @ normalize(second, dim=1).T / temperature
    return -likeness.log_softmax(1).diagonal()


def parting(scores: Float[Tensor, " N"], group: Int[Tensor, " N"]) -> Float[Tensor, " G"]:
    """How far a reward tells answers to one prompt apart, for prompts in the order of their numbers: MetaRM's objective.

    J = 2 / k^2 sum over pairs i < j of a prompt's k answers of sigmoid(|r_i - r_j|) (arXiv:2401.06080): from (k - 1) / 2 k, where
    all are equal, to (k - 1) / k. At a tie its gradient is 0. It grows with the scale alone, so it is no loss by itself; see
    `meta_gradient`.

    >>> parting(torch.tensor([1.0, 1.0, 5.0]), torch.tensor([0, 0, 7])).tolist()
    [0.25, 0.0]
    """
    kinds, index = group.unique(return_inverse=True)
    order = index.argsort(stable=True)
    sizes = torch.bincount(index, minlength=len(kinds))
    place = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[index[order]]
    table = scores.new_zeros(len(kinds), int(sizes.max()) if len(sizes) else 0)
    table = table.index_put((index[order], place), scores[order])
    exists = torch.arange(table.shape[1], device=table.device) < sizes[:, None]
    both = (exists[:, :, None] & exists[:, None, :]).triu(1)
    each = torch.sigmoid((table[:, :, None] - table[:, None, :]).abs())
    return 2 * torch.where(both, each, 0.0).sum((1, 2)) / sizes.square()


def meta_gradient(
    parameters: Iterable[Tensor], objective: Callable[[], Tensor], loss: Callable[[], Tensor], *, step: float
) -> float:
    """Leave in `.grad` the gradient of the loss at weights that were moved towards the objective; the weights stay as they are.

    w' = w + step grad objective(w), grad = d loss / d w at w' (MetaRM, first order, arXiv:2401.06080): with `parting` of answers of
    the shifted policy as the objective, a reward learns from its old pairs what still holds where it tells the new answers apart.
    step 0 is the plain gradient. Both functions give a number with a gradient. Returns the loss at w'; what was in `.grad` is added
    to, as `backward` does.

    >>> w = torch.tensor([1.0], requires_grad=True)
    >>> meta_gradient([w], lambda: 2 * w.sum(), lambda: w.square().sum(), step=0.5), w.tolist(), w.grad.tolist()
    (4.0, [1.0], [4.0])
    """
    weights = [w for w in parameters if w.requires_grad]
    ahead = torch.autograd.grad(objective(), weights, allow_unused=True)
    kept = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for w, slope in zip(weights, ahead, strict=True):
            w += 0 if slope is None else step * slope
    try:
        value = loss()
        found = torch.autograd.grad(value, weights, allow_unused=True)
    finally:
        with torch.no_grad():
            for w, before in zip(weights, kept, strict=True):
                w.copy_(before)
    for w, slope in zip(weights, found, strict=True):
        if slope is not None:
            w.grad = slope if w.grad is None else w.grad + slope
    return float(value.detach())
