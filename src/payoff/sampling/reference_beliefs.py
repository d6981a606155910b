"""What the policy believes of the right answer after each of its turns, recorded beside the rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from payoff.catalogue import method
from payoff.pipeline import Policy, Start
from payoff.trajectories import Trajectories

_ROWS = 64  # asked of the policy at a time


@method("igpo", kind="sampler", paper="arXiv:2510.14967")
def with_beliefs(
    policy: Policy, starts: Sequence[Start], n: int, rng: torch.Generator, *, lead: str = "", reference: str = "reference"
) -> Trajectories:
    """Free rollouts with extras["reference_logp"] [N, T+1]: the policy's mean log-probability of the reference's tokens (IGPO).

    Before anything was done and after every turn but the last, the policy that acts is asked for `lead` and the reference, right
    behind what stands there: the mean is over the reference's tokens. What the signal `igpo` reads; NaN at all other places, where
    the item has no field `reference` (or an empty one), and where context is lacking.

    lead: text that leads up to an answer in the form that answers have, such as "#" or "<answer>"; it is not scored itself

    The closing mark of an answer is no part of the reference: leave it out. Costs a pass over each different beginning, of which a
    rollout of K turns has K. No gradient. Raises ValueError for a policy that writes no text.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1, max_tokens=6, step_separator="1")
    >>> starts = [Start("a", {"prompt": "1+2=", "reference": "3"})]
    >>> traj = with_beliefs(policy, starts, 4, torch.Generator().manual_seed(0), lead="#")
    >>> traj.extras["reference_logp"].shape == (4, traj.width + 1), bool((traj.extras["reference_logp"][:, 0] < 0).all())
    (True, True)
    """
    asked: Any = policy
    if not hasattr(asked, "tokenizer"):
        raise ValueError("igpo: this policy writes no text, so it has no belief in a reference")
    traj = policy.rollout(starts, n, rng)
    front = asked.tokenizer.encode(lead) if lead else []
    ends = traj.exists & (pad(traj.step[:, 1:], (0, 1), value=-1) != traj.step)
    last = torch.arange(traj.width, device=traj.device) == traj.length[:, None] - 1
    looked = pad(ends & ~last, (1, 0), value=True)
    context = getattr(asked.model, "context", None)
    beginnings: dict[tuple[int, ...], tuple[int, list[int], list[int]]] = {}
    places: list[tuple[int, int, tuple[int, ...]]] = []
    actions = traj.actions.tolist()
    for row, at in looked.nonzero().tolist():
        item = traj.items[row]
        right = item.get(reference)
        if right is None or str(right) == "":
            continue
        before, answer = [*actions[row][:at], *front], asked.tokenizer.encode(str(right))
        if context is not None and len(item["prompt_ids"]) + len(before) + len(answer) > context:
            continue
        key = (*item["prompt_ids"], -1, *before, -1, *answer)
        beginnings.setdefault(key, (row, before, answer))
        places.append((row, at, key))
    found: dict[tuple[int, ...], float] = {}
    keys = list(beginnings)
    for some in (keys[i : i + _ROWS] for i in range(0, len(keys), _ROWS)):
        rows = [beginnings[key] for key in some]
        with torch.no_grad():
            said = asked.evaluate(_continued(rows, traj)).logp
        for key, logp, (_, before, answer) in zip(some, said, rows, strict=True):
            found[key] = min(float(logp[len(before) : len(before) + len(answer)].double().mean()), 0.0)
    belief = torch.full((len(traj), traj.width + 1), torch.nan)
    for row, at, key in places:
        belief[row, at] = found[key]
    return traj.replace(extras={"reference_logp": belief.to(traj.device)})


def _continued(rows: Sequence[tuple[int, list[int], list[int]]], traj: Trajectories) -> Trajectories:
    """Beginnings followed by the reference, of which only the reference counts as acted."""
    length = torch.tensor([len(before) + len(answer) for _, before, answer in rows], device=traj.device)
    first = torch.tensor([len(before) for _, before, _ in rows], device=traj.device)
    actions = pad_sequence([torch.tensor([*before, *answer]) for _, before, answer in rows], batch_first=True).to(traj.device)
    position = torch.arange(actions.shape[1], device=traj.device)
    exists = position < length[:, None]
    return Trajectories(
        mask=exists & (position >= first[:, None]),
        length=length,
        group=torch.arange(len(rows), device=traj.device),
        step=torch.where(exists, 0, -1).int(),
        stop=torch.zeros_like(length),
        actions=actions,
        items=[traj.items[row] for row, _, _ in rows],
    )
