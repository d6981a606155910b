"""Noisy rewards: does a policy still learn from flipped verdicts, and does paying for the look of reasoning soften errors?

payoff reproduce reasoning-pattern-reward
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from payoff.advantages.group import grpo
from payoff.policies.prefix_tree import PrefixTree
from payoff.recipes import Effect, Recipe
from payoff.signals.patterns import reasoning_pattern_reward
from payoff.trajectories import Trajectories, place_outcome

PROMPTS, GROUP, PARTS, ENOUGH = 8, 8, 4, 3
SAID = (
    "3 and 4 make 7.",
    "3 and 4 make 8.",
    "Something like that.",
    "Wait, let me check.",
    "Alternatively, go back.",
    "Therefore.",
)
WORK, SLIP, FIRST_PHRASE = 0, 1, 3
LIKES = (0.5, 0.0, 1.5, 0.0, 0.0, 0.0)  # the first policy's logits of the parts: it mostly idles
CHOSEN = {
    "clean": 0.2,
    "missed-40": 0.05,
    "hollow-missed-40": 0.05,
    "hollow-softened-40": 0.05,
}  # the learning rates that are not 0.1


@lru_cache(maxsize=2)
def traces(hollow: bool) -> tuple[Tensor, Tensor]:
    """Of every trace, in the order of the tree's sequences: the chance that it ends in a right answer, and its pattern reward.

    Work is needed, and a slip spoils everything. Every kind of phrase beside the work makes it surer; if `hollow`, more work does.
    """
    chance, pattern = [], []
    for trace in product(range(len(SAID)), repeat=PARTS):
        phrases = len({part for part in trace if part >= FIRST_PHRASE})
        surer = trace.count(WORK) - 1 if hollow else phrases
        chance.append(0.4 + 0.18 * surer if WORK in trace and SLIP not in trace else 0.02)
        pattern.append(float(reasoning_pattern_reward(" ".join(SAID[part] for part in trace), enough=ENOUGH)))  # type: ignore[arg-type]
    return torch.tensor(chance, dtype=torch.float64), torch.tensor(pattern, dtype=torch.float64)


def paid(arm: str, right: Tensor, pattern: Tensor, rng: torch.Generator) -> Tensor:
    """What an arm pays [P, G]: a verdict with its errors, or the pattern reward, or a tenth of it where a verdict is negative."""
    rate = float(arm[-2:]) / 100 if arm[-2:].isdigit() else 0.0
    of_group = torch.rand(PROMPTS, 1, generator=rng, dtype=torch.float64) < rate
    of_each = torch.rand(right.shape, generator=rng, dtype=torch.float64) < rate
    match arm:
        case "clean":
            return right
        case "pattern":
            return pattern
        case "flipped-40" | "flipped-50":
            return torch.where(of_group, 1 - right, right)
        case "singly-40":
            return torch.where(of_each, 1 - right, right)
        case "missed-40":
            return torch.where(of_each, 0.0, right)
        case _:
            return torch.where(of_each | (right == 0), 0.1 * pattern, right)


def run(arm: str, seed: int, *, updates: int = 500, learning_rate: float = 0.0) -> Mapping[str, float]:
    """GRPO on all prompts every update, a table of logits for each prompt and prefix, Adam.

    learning_rate 0: the one chosen for the arm.
    """
    rng = torch.Generator().manual_seed(seed)
    chance, pattern = traces(arm.startswith("hollow"))
    tree = PrefixTree(len(SAID), PARTS)
    noise = 0.3 * torch.randn(PROMPTS, tree.prefix_count, len(SAID), generator=rng, dtype=torch.float64)
    logits = (torch.tensor(LIKES, dtype=torch.float64) + noise).requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=learning_rate or CHOSEN.get(arm, 0.1))
    rows = PROMPTS * GROUP
    zeros, sure = torch.zeros(rows, dtype=torch.int64), torch.ones(rows, dtype=torch.bool)
    group = torch.arange(PROMPTS).repeat_interleave(GROUP)
    traj = Trajectories(sure[:, None], zeros + 1, group, zeros[:, None].int(), zeros, zeros[:, None], id=torch.arange(rows))
    truth = []
    for update in range(updates + 1):
        logp = logits.log_softmax(2).flatten(1)  # of every edge of the tree [P, E]
        p = logp.detach()[:, tree.edge].sum(2).exp()
        truth.append(float((p @ chance).mean()))
        if update == updates or arm.endswith("untrained"):
            break
        chosen = torch.multinomial(p, GROUP, replacement=True, generator=rng)
        right = torch.bernoulli(chance[chosen], generator=rng)
        reward = paid(arm.removeprefix("hollow-"), right, pattern[chosen], rng)
        target = grpo(place_outcome(reward.flatten(), sure, traj), traj).value[:, 0]
        optimiser.zero_grad()
        (-(target * logp[group[:, None], tree.edge[chosen.flatten()]].sum(1)).mean()).backward()
        optimiser.step()
    return {"truth": truth[-1], "best": max(truth), "speed": sum(truth) / len(truth)}


RECIPE = Recipe(
    name="reasoning-pattern-reward",
    claim=(
        "Trained on verdicts that are turned round for 40% of the prompts, drawn anew every time, a policy ends nearly as good as "
        "on clean ones; and paying a little for phrases of reasoning where a verdict is negative makes up for right answers that a "
        "verifier misses."
    ),
    paper="arXiv:2505.22653",
    test=(
        f"{PROMPTS} prompts; a response is {PARTS} parts of {len(SAID)}: work, a slip, idling, and three phrases of reasoning. It "
        "is right with 0.02 without work or with a slip, else with 0.4 and 0.18 more for every kind of phrase in it (hollow: for "
        f"every further piece of work); the first policy mostly idles. GRPO, {GROUP} responses to every prompt an update, a table "
        "of logits, Adam; the pattern reward is the library's, on the words of the response, with "
        f"{ENOUGH} phrases as enough. All arms have the same updates, and of the learning rates 0.05, 0.1 and 0.2 the one with the "
        "greatest success at any time on seed 99, which is not among those reported. That phrases go with being right is built "
        "into this world, as the paper supposes it of language models: the softened verdict is claimed to help here, and nothing "
        "is claimed of the hollow arms. Earlier forms of this world (three, the last in two settings), looked at on seed 99, had "
        "phrases that helped little, and the softened arm fell behind, which is why the hollow arms stand beside it; updates went "
        "from 250 to 500, and the rate of the arm whose verdicts are half flipped was not tuned. Nothing is claimed of the "
        "pattern reward alone either. Not tested: whether phrases go with being right elsewhere, scores of learned reward "
        "models, other prompts than those trained on, language models."
    ),
    arms={
        "untrained": "the first policy",
        "clean": "1 for a right answer",
        "flipped-40": "the verdicts of a whole group turned round with 0.4",
        "flipped-50": "the verdicts of a whole group turned round with 0.5, which leaves no information",
        "singly-40": "every verdict turned round by itself with 0.4",
        "missed-40": "right answers held for wrong with 0.4, wrong ones never for right",
        "softened-40": "the same, and a tenth of the pattern reward where the verdict is negative",
        "pattern": "the pattern reward alone",
        "hollow-missed-40": "as missed-40, where phrases do not help",
        "hollow-softened-40": "as softened-40, where phrases do not help",
    },
    measures={
        "truth": "probability of a right answer under the final policy, mean over prompts (exact)",
        "best": "the greatest such probability at any time of training",
        "speed": "its mean over training",
    },
    effects=(
        Effect("truth", "flipped-40", "untrained", "higher", delta=0.05),
        Effect("truth", "flipped-40", "clean", "not lower", delta=0.05),
        Effect("truth", "softened-40", "missed-40", "higher", delta=0.02),
    ),
    run=run,
    methods=("grader:reasoning-pattern-reward", "advantage:grpo"),
    seeds=6,
)
