"""Samplers that are not the policy's own rollout: responses recorded in the data, and a policy that is kept acting for a while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from payoff.catalogue import method
from payoff.pipeline import Policy, Start
from payoff.trajectories import StopReason, Trajectories, fresh_ids

_ROWS = 64  # evaluated at a time


@method("recorded", kind="sampler")
def recorded(policy: Policy, starts: Sequence[Start], n: int, rng: torch.Generator, *, mismatched: bool = False) -> Trajectories:
    """The responses that the starts bring with them, as if this policy had written them: offline data on the loop.

    A start's field "recorded" lists them, each a mapping with "response" (text, for a policy that can `read` text; an end token
    follows where one is lacking) or "tokens" (its actions), and whatever else belongs to it: a label, a score, a prompt of its own.
    All of that is in the rollout's item, beside the start's other fields. All responses of a start are one group, whatever n is;
    nothing is drawn. logp["old"] is this policy's own, each counts as finished, and was not sampled: a ratio to "old" starts at 1.
    A whole number in the field "table" goes along as the tabular policy needs it.

    mismatched: adds, for every start, the first response of the next start to this one's prompt, without label (None), marked in
                extras["mismatched"]: what `kto` measures its reference point on
    Raises ValueError for a start without recorded responses, for responses of which some are text and some tokens, for text where
    the policy cannot read it, and for `mismatched` with one start.

    >>> from payoff.catalogue import find
    >>> answers = [{"tokens": [0, 1], "label": 1.0}, {"tokens": [1, 1], "label": 0.0}]
    >>> policy = find("tabular", "policy")(2, 2)
    >>> traj = recorded(policy, [Start("a", {"prompt": "", "recorded": answers})], 4, torch.Generator())
    >>> traj.actions.tolist(), [item["label"] for item in traj.items]
    ([[0, 1], [1, 1]], [1.0, 0.0])
    """
    counts, rows, marks = [], [], []
    for number, start in enumerate(starts):
        given = _responses(start)
        if mismatched:
            if len(starts) < 2:
                raise ValueError("recorded: mismatched needs at least two starts, for a prompt with another one's response")
            other = _responses(starts[(number + 1) % len(starts)])[0]
            given = [*given, {**given[0], **{name: other[name] for name in ("response", "tokens") if name in other}, "label": None}]
        own = {name: value for name, value in start.fields.items() if name != "recorded"}
        rows += [_row(start, own, response) for response in given]
        marks += [False] * (len(given) - mismatched) + [True] * mismatched
        counts.append(len(given))
    traj = _read(policy, rows)
    group = fresh_ids(len(starts)).repeat_interleave(torch.tensor(counts)).to(traj.device)
    extras = {"mismatched": torch.tensor(marks, device=traj.device)} if mismatched else {}
    return traj.replace(group=group, extras=extras)


@method("rounds", kind="sampler")
class Rounds(nn.Module):
    """Rollouts of a policy that is replaced by the trained one only every so often: the pi_t of iterated methods.

    every: calls from one replacement to the next; one call an update, unless an update collects several rounds of rollouts. With 1
           it is the policy's own rollout
    logp["old"] is that of the policy that acted, so what is anchored at "old" (`inpo`, `dno`, `gpo`, clipped ratios) stays with
    pi_t for `every` updates. Raises ValueError for every < 1.

    >>> from payoff.catalogue import find
    >>> policy, other = (find("tabular", "policy")(2, 1) for _ in range(2))
    >>> start, sampler = [Start("a", {})], Rounds(other, every=2)
    >>> first = sampler(policy, start, 1, torch.Generator().manual_seed(0))
    >>> policy.logits.data[..., 0] = 5
    >>> [round(float(sampler(policy, start, 1, torch.Generator().manual_seed(0)).logp["old"]), 2) for _ in range(2)]
    [-0.69, -0.01]
    """

    calls: torch.Tensor

    def __init__(self, policy: Any, *, every: int = 50) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"Rounds: every must be at least 1, got {every}")
        self.every = every
        self.acting = policy.requires_grad_(False)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, policy: Any, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n rollouts of every start by the policy of this round."""
        if int(self.calls) % self.every == 0:
            self.acting.load_state_dict(policy.state_dict())
        self.calls += 1
        return self.acting.rollout(starts, n, rng)


# --- from recorded rows to trajectories


def _responses(start: Start) -> Sequence[Mapping[str, Any]]:
    given = start.fields.get("recorded")
    if not given:
        raise ValueError(f"recorded: start {start.id!r} brings no responses; its field 'recorded' must list them")
    return given


def _row(start: Start, own: Mapping[str, Any], response: Mapping[str, Any]) -> dict[str, Any]:
    """The item of one response; one with a prompt of its own does not answer the start's messages."""
    kept = {name: value for name, value in own.items() if name != "messages"} if "prompt" in response else own
    return {**kept, "start": start.id, **response}


def _read(policy: Any, rows: Sequence[Mapping[str, Any]]) -> Trajectories:
    as_tokens = [row.get("tokens") is not None for row in rows]
    if all(as_tokens):
        return _acted(policy, rows)
    if any(as_tokens):
        row = rows[as_tokens.index(False)]
        raise ValueError(f"recorded: a response of start {row['start']!r} is text, and others are tokens; record one kind")
    if not callable(getattr(policy, "read", None)):
        raise ValueError(f"recorded: a response of start {rows[0]['start']!r} is text, and this policy reads tokens alone")
    return policy.read(rows, ended=True)


def _acted(policy: Any, rows: Sequence[Mapping[str, Any]]) -> Trajectories:
    """Recorded actions as trajectories, each one step."""
    device = next((parameter.device for parameter in policy.parameters()), torch.device("cpu"))
    actions = [torch.as_tensor(row["tokens"], device=device) for row in rows]
    for row, some in zip(rows, actions, strict=True):
        if not some.ndim or not len(some):
            raise ValueError(f"recorded: the tokens of a response of start {row['start']!r} must be a list that is not empty")
    length = torch.tensor([len(some) for some in actions], device=device)
    tokens = nn.utils.rnn.pad_sequence(actions, batch_first=True)
    mask = torch.arange(tokens.shape[1], device=device) < length[:, None]
    tables = [row.get("table") for row in rows]
    known = all(isinstance(table, int) for table in tables)
    traj = Trajectories(
        mask=mask,
        length=length,
        group=torch.zeros_like(length),
        step=torch.where(mask, 0, -1).int(),
        stop=torch.full_like(length, int(StopReason.finished)),
        actions=tokens,
        items=[{"prompt": "", "response": "", **row} for row in rows],
        extras={"table": torch.tensor(tables, device=device)} if known else {},
    )
    with torch.no_grad():
        parts = [policy.evaluate(traj.select(some)).logp for some in torch.arange(len(traj), device=device).split(_ROWS)]
    logp = torch.zeros(mask.shape, dtype=parts[0].dtype, device=device)
    for number, part in enumerate(parts):
        logp[number * _ROWS : number * _ROWS + len(part), : part.shape[1]] = part
    return traj.replace(logp={"old": logp})
