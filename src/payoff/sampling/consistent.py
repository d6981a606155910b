"""Which rollouts are trained on, by whether the process agrees with the outcome: right and wrong ones in balance."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from payoff.catalogue import method
from payoff.sets import rank, sets
from payoff.trajectories import Rewards, Trajectories, outcome, per_step


@method("prof", kind="selection", paper="arXiv:2509.03403", sees="group")
def consistent_and_balanced(
    rewards: Rewards,
    traj: Trajectories,
    *,
    keep: int,
    by: str = "correct",
    process: str = "process",
    rank_wrong: Literal["score", "random"] = "score",
    threshold: float = 0.5,
    penalty: float = 0.0,
    longest: int | None = None,
) -> Int[Tensor, " M"]:
    """Keep of each group the right rollouts whose steps look best and the wrong ones whose steps look worst, in balance (PROF).

    Of n+ right and n- wrong rollouts k+ and k- are kept, k+ + k- = `keep`, as near to one half each as there are such rollouts
    (the odd one is right). s = mean over steps of `process` - penalty [H = 1 or H >= longest], H the steps of the rollout; the k+
    largest s are kept of the right ones and the k- smallest of the wrong ones, or any k- of them (rank_wrong "random": those of
    the smallest ids, which know nothing of what was written). Train on what is left by the outcome alone: the process decides
    only who takes part, so it cannot be collected. The expected gradient is another all the same: right answers by way of bad
    steps are rarer.

    Right means an outcome in `by` above `threshold`. Ties go to the smaller id; a rollout with an unknown step comes after those of
    its side that are known, one without an outcome is left out. Fewer than `keep` with an outcome: all of them. With one side only
    the other fills up, and what is kept has no contrast (`drop-equal-groups`). Take statistics after it, not before.
    Raises KeyError for a channel nobody gives, ValueError for keep < 1.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import Channel, place_outcome
    >>> traj, known = four_answers().replace(group=torch.zeros(4, dtype=torch.int64)), torch.ones(4, dtype=torch.bool)
    >>> correct = place_outcome(torch.tensor([1.0, 1.0, 0.0, 0.0]), known, traj)
    >>> scores = Channel(torch.tensor([[0.5], [0.9], [0.8], [0.1]]), known[:, None])
    >>> consistent_and_balanced({"correct": correct, "process": scores}, traj, keep=2)
    tensor([1, 3])
    """
    if keep < 1:
        raise ValueError(f"consistent_and_balanced: keep must be at least 1, got {keep}")
    if lost := [name for name in (by, process) if name not in rewards]:
        raise KeyError(f"consistent_and_balanced: no reward channel {lost[0]!r}; there are {sorted(rewards)}")
    result, settled = outcome(rewards[by], traj)
    step_score, here, known = per_step(rewards[process], traj)
    count = here.sum(1)
    score = step_score.double().sum(1) / count
    if penalty:
        odd = (count == 1) if longest is None else (count == 1) | (count >= longest)
        score = score - penalty * odd
    right = settled & (result > threshold)
    wrong = settled & ~right
    group = sets(traj, "group")[:, 0].unique(return_inverse=True)[1]
    side = torch.where(right, 0, torch.where(wrong, 1, 2))
    size = torch.zeros(3 * len(traj), dtype=torch.int64, device=traj.device).index_add(0, 3 * group + side, torch.ones_like(group))
    rights, wrongs = size[3 * group], size[3 * group + 1]
    take = torch.minimum(((keep + 1) // 2 + torch.zeros_like(rights)).maximum(keep - wrongs), rights)
    sure = (known | ~here).all(1)
    order = torch.where(right, score, -score)
    if rank_wrong == "random":
        order, sure = torch.where(right, order, 0), sure | wrong
    place = rank(order, 3 * group + side, sure & settled, traj.id)
    kept = (right & (place < take)) | (wrong & (place < keep - take))
    return kept.nonzero().squeeze(1)
