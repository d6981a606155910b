"""SSB: is it better to learn a hinted teacher's whole distribution than to learn from rewards, or from right answers alone?

payoff reproduce semantic-soft-bootstrapping
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from payoff.advantages.group import grpo
from payoff.losses.aggregation import token_mean
from payoff.losses.distillation import soft_distillation
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Start, everywhere
from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe
from payoff.sampling.filters import top_k_per_group
from payoff.sampling.hinted_teacher import HintedTeacher, Item
from payoff.trajectories import Channel, place_outcome

PROMPTS, VOCABULARY, HORIZON, TRIES, HELP = 8, 3, 4, 4, 1.5


def run(arm: str, seed: int, *, updates: int = 60, learning_rate: float = 0.05) -> Mapping[str, float]:
    """Eight prompts; every arm spends five rollouts of each in an update."""
    rng = torch.Generator().manual_seed(seed)
    policy, references = _policy(seed, rng)
    starts = [Start(str(k), {"table": k, "reference": reference}) for k, reference in enumerate(references)]
    teacher = HintedTeacher(policy=policy, checker=matches, hinted=_with_hint, tries=TRIES)
    optimiser = torch.optim.Adam([policy.logits], lr=learning_rate)
    for _ in range(updates):
        if arm == "ssb":
            traj = teacher(policy, starts, 1, rng)
            target = everywhere({}, traj)
            terms = soft_distillation(policy.evaluate(traj, frozenset({"logits"})), traj, target).terms
        else:
            traj = policy.rollout(starts, TRIES + 1, rng)
            right = torch.tensor([matches(item["response"], item["reference"]) for item in traj.items])
            correct = place_outcome(right, torch.ones(len(traj), dtype=torch.bool), traj)
            if arm == "imitation":
                best = top_k_per_group({"correct": correct}, traj)
                traj = traj.select(best[right[best] > 0])
                target = everywhere({}, traj)
            else:
                target = grpo(Channel(right[:, None], correct.valid), traj)
            terms = policy_gradient(policy.evaluate(traj), traj, target).terms
        optimiser.zero_grad()
        (terms * token_mean(target, traj)).sum().backward()
        optimiser.step()
    responses = _responses(policy)
    with torch.no_grad():
        right = [float(policy.probabilities(k)[responses.index(reference)]) for k, reference in enumerate(references)]  # type: ignore[assignment]
        logp = policy.logits[:PROMPTS].log_softmax(2)
        occupancy = torch.stack([policy.occupancy(k) for k in range(PROMPTS)])
        entropy = (occupancy * -(logp.exp() * logp).sum(2)).sum() / (PROMPTS * HORIZON)
    return {"truth": sum(right) / PROMPTS, "entropy": float(entropy)}


def matches(response: str, reference: str) -> float:
    """1 for the right answer."""
    return float(response == reference)


def _policy(seed: int, rng: torch.Generator) -> tuple[Tabular, list[str]]:
    """A table of every prompt, and behind it one of the same prompt with a hint: the same but for help on the right way."""
    policy = Tabular(VOCABULARY, HORIZON, starts=2 * PROMPTS, spread=0.5, seed=seed)
    responses = _responses(policy)
    with torch.no_grad():
        policy.logits[PROMPTS:] = policy.logits[:PROMPTS]
        chosen = []
        for k in range(PROMPTS):
            likely = policy.probabilities(k).topk(len(responses) // 4).indices  # not beyond what it does now and then
            leaf = int(likely[int(torch.randint(len(likely), (1,), generator=rng))])
            policy.logits[PROMPTS + k].view(-1)[policy.tree.edge[leaf]] += HELP
            chosen.append(responses[leaf])
    return policy, chosen


def _with_hint(start: Start, right: Item, wrong: Item) -> Start:
    return start._replace(fields={**start.fields, "table": start.fields["table"] + PROMPTS})


def _responses(policy: Tabular) -> Sequence[str]:
    return ["".join("abcdefgh"[a] for a in row) for row in policy.tree.actions.tolist()]


RECIPE = Recipe(
    name="semantic-soft-bootstrapping",
    claim=(
        "A policy that learns the soft logits of its own initial self, shown a right and a wrong attempt, answers better without "
        "the hint than one trained by GRPO, or by imitation of its right answers, on as many rollouts."
    ),
    paper="arXiv:2512.05105",
    test=(
        f"{PROMPTS} prompts of {VOCABULARY**HORIZON} answers, one right. A tabular policy has a table for each prompt and another "
        f"for the prompt with a hint, which is the same but for {HELP:g} more on the log-odds of each right action; how a hint "
        "comes to help is thus assumed, and what the two share is nothing. Five rollouts of each prompt an update in every arm: "
        "four attempts and one reply of the teacher, where the attempts differ; or five of the policy. The same Adam, judged "
        "exactly. Not tested: language models, whether they can use such hints, and tables of logits that were stored once and "
        "used for several epochs."
    ),
    arms={
        "ssb": "soft logits of the hinted, frozen teacher on its right replies, at temperature 2",
        "imitation": "likelihood of one right answer of five, where there is one",
        "grpo": "policy gradient of all five",
    },
    measures={
        "truth": "probability of the right answer without a hint (exact)",
        "entropy": "expected entropy of an action, in nats (exact)",
    },
    effects=(
        Effect("truth", "ssb", "grpo", "higher", delta=0.05),
        Effect("truth", "ssb", "imitation", "higher", delta=0.05),
    ),
    run=run,
    methods=("sampler:semantic-soft-bootstrapping", "loss:semantic-soft-bootstrapping", "advantage:grpo", "selection:top-k"),
)
