"""Learning to hear: a listener's own guess at what is hidden, trained on the truth wherever it was asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from payoff.catalogue import method
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories


@method("social-deduction-listening", kind="loss", paper="arXiv:2502.06060", needs=("logits",))
def listening(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    hidden: str = "hidden",
    candidates: Sequence[int] | None = None,
) -> LossOutput:
    """Cross-entropy of a listener's belief in what is hidden, wherever it was asked: term_t = -log b_t(z), z the truth.

    b_t = softmax of the policy's logits at the survey's answer, of `candidates` alone where they are given. Nothing of what the
    listener answered is read: it is told what it should have believed. Beside the reward of speaking
    (`social-deduction-listening-speaking`, which pays a speaker for this belief) with a weight of 3 in the paper; without it
    speakers learn to talk to listeners who do not listen.

    hidden:     name of traj.extras [N, T]: the number of the truth where there is a survey, below 0 elsewhere. It is a place in
                `candidates`, or, without, the number of an action
    candidates: the actions that stand for the values that may be hidden, such as the tokens of the players' names
    Surveys are actions of the policy's own (a survey answered by another is no term). The target (`everywhere`) weighs the terms,
    and a `token-mean` of them counts the other actions too: with S surveys among n own actions the sum is S / n of their mean.
    Evidence of other kinds is heard as well: b_t is whatever the policy makes of all that came before t.

    [N, T], 0 elsewhere. Metrics: belief (mean of b_t(z)), surveys (how many there are).
    Raises ValueError without evaluation.more["logits"] and the extra, and for a number beyond the values there are.

    >>> from payoff.examples import four_answers
    >>> from payoff.pipeline import everywhere
    >>> traj = four_answers().replace(extras={"hidden": torch.tensor([[-1, -1, 1]] + 3 * [[-1, -1, -1]])})
    >>> said = Evaluation(traj.logp["old"], {"logits": torch.tensor([0.0, 9.0, 0.0]).expand(4, 3, 3)})
    >>> listening(said, traj, everywhere({}, traj), candidates=[0, 2]).terms[0]
    tensor([0.0000, 0.0000, 0.6931])
    """
    logits = evaluation.more.get("logits")
    if logits is None:
        raise ValueError('listening: needs evaluation.more["logits"] [N, T, V], the policy\'s own over all actions')
    truth = traj.extras.get(hidden)
    if truth is None or truth.shape != traj.mask.shape:
        found = None if truth is None else list(truth.shape)
        raise ValueError(f"listening: needs traj.extras[{hidden!r}] [N, T] = {list(traj.mask.shape)}, found {found}")
    if candidates is not None:
        logits = logits[..., torch.as_tensor(list(candidates), device=logits.device)]
    counts = traj.own & target.valid & (truth >= 0)
    truth = torch.where(counts, truth, 0).long()
    if truth.numel() and int(truth.max()) >= logits.shape[-1]:
        raise ValueError(f"listening: the truth is number {int(truth.max())} of {logits.shape[-1]} values, from 0")
    # Positions without a survey may hold anything, and a gradient of 0 times that is none.
    belief = torch.where(counts[..., None], logits, 0).log_softmax(-1).gather(-1, truth[..., None])[..., 0]
    size = int(counts.sum())
    mean = float(torch.where(counts, belief.detach().exp(), 0).double().sum()) / max(size, 1)
    weight = torch.where(counts, target.value, 0)
    return LossOutput(torch.where(counts, -weight * belief, 0), {"belief": mean, "surveys": float(size)})
