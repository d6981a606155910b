"""To mix or to merge: one run on the rewards of several domains, or a run for each and then one set of weights?

payoff reproduce m2rl
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from payoff.advantages.group import grpo
from payoff.recipes import Effect, Recipe
from payoff.search.merging import change_cosine, merged
from payoff.trajectories import Trajectories, constant

DIGITS, WAYS, DOMAINS, TRAINED, GROUPS, GROUP = 10, 4, 3, 70, 12, 8
BEST = (0, 0, 1)  # the way that serves each domain: adding and subtracting share one, the greater of two has another
LIKED, SURE, ELSE = 0.3, 0.8, 0.15  # how often the first policy goes the best way, and is right after it or after another
RATE = 0.003  # of 0.003 and 0.01
MERGES: dict[str, dict[str, Any]] = {
    "average": {"how": "average"},
    "task-arithmetic": {"how": "task-arithmetic", "scale": 0.5},
    "ties": {"how": "ties", "keep": 0.2, "scale": 1.0},
    "dare-ties": {"how": "ties", "keep": 0.2, "scale": 0.5, "drop": 0.5},
    "sce": {"how": "sce", "keep": 1.0, "scale": 1.0},
}


class Writer(nn.Module):
    """A small network that writes two tokens: a way to go about it, then a digit. Domains and prompts share its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * DIGITS + DOMAINS + WAYS, 64)
        self.way, self.digit = nn.Linear(64, WAYS), nn.Linear(64, DIGITS)

    def forward(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Of prompts (domain and two digits) the log-probabilities of the ways [P, W] and, after each, of the digits [P, W, D]."""
        one_hot = nn.functional.one_hot
        seen = torch.cat([one_hot(prompts[:, 1:], DIGITS).flatten(1), one_hot(prompts[:, 0], DOMAINS)], 1).float()
        first = torch.tanh(self.hidden(torch.cat([seen, seen.new_zeros(len(seen), WAYS)], 1)))
        after = torch.cat([seen[:, None].expand(-1, WAYS, -1), torch.eye(WAYS).expand(len(seen), -1, -1)], 2)
        return self.way(first).log_softmax(1), self.digit(torch.tanh(self.hidden(after))).log_softmax(2)


def domain(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """All 100 prompts of a domain [100, 3] in an order that the seed draws, and their right digits; the first may be trained on."""
    rng = torch.Generator().manual_seed(seed)
    pairs = torch.cartesian_prod(torch.arange(DIGITS), torch.arange(DIGITS))[torch.randperm(DIGITS**2, generator=rng)]
    a, b = pairs.T
    right = ((a + b) % DIGITS, (a - b) % DIGITS, torch.maximum(a, b))[number]
    return torch.cat([torch.full((len(pairs), 1), number), pairs], 1), right


@lru_cache(maxsize=1)
def first_policy(seed: int) -> dict[str, Tensor]:
    """The weights after supervised training on all prompts of all domains, by answers that are often sloppy."""
    rng = torch.Generator().manual_seed(seed)
    found = [domain(number, seed) for number in range(DOMAINS)]
    prompts, right = torch.cat([p for p, _ in found]), torch.cat([r for _, r in found])
    best = nn.functional.one_hot(torch.tensor(BEST)[prompts[:, 0]], WAYS)
    ways = (LIKED * best + (1 - LIKED) / (WAYS - 1) * (1 - best)).log() + 0.5 * torch.randn(len(prompts), WAYS, generator=rng)
    sure = (SURE * best + ELSE * (1 - best))[:, :, None]
    answer = nn.functional.one_hot(right, DIGITS)[:, None]
    digits = sure * answer + (1 - sure) * (1 - answer) / (DIGITS - 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = Writer()
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.02)
    for _ in range(300):
        way, digit = policy(prompts)
        optimiser.zero_grad()
        (-(ways.softmax(1) * way).sum(1).mean() - (digits * digit).sum(2).mean()).backward()
        optimiser.step()
    return {name: weight.clone() for name, weight in policy.state_dict().items()}


@torch.no_grad()
def accuracy(weights: Mapping[str, Tensor], number: int, seed: int) -> float:
    """The probability of a right answer to the prompts of a domain that nobody trains on (exact)."""
    policy = Writer()
    policy.load_state_dict(dict(weights))
    prompts, right = (x[TRAINED:] for x in domain(number, seed))
    way, digit = policy(prompts)
    return float((way.exp() * digit.exp()[torch.arange(len(right)), :, right]).sum(1).mean())


@lru_cache(maxsize=8)
def trained(numbers: tuple[int, ...], seed: int, updates: int, rate: float) -> dict[str, Tensor]:
    """GRPO from the first policy, every update on as many prompts, drawn from these domains in turn."""
    rng = torch.Generator().manual_seed(seed)
    found = [domain(number, seed) for number in numbers]
    policy = Writer()
    policy.load_state_dict(first_policy(seed))
    optimiser = torch.optim.Adam(policy.parameters(), lr=rate)
    rows = GROUPS * GROUP
    zeros, sure = torch.zeros(rows, dtype=torch.int64), torch.ones(rows, dtype=torch.bool)
    group, two = torch.arange(GROUPS).repeat_interleave(GROUP), torch.zeros(rows, 2, dtype=torch.int64)
    traj = Trajectories(two == 0, zeros + 2, group, two.int(), zeros, two, id=torch.arange(rows))
    for _ in range(updates):
        drawn = torch.randint(TRAINED, (GROUPS,), generator=rng).tolist()
        prompts = torch.stack([found[k % len(found)][0][i] for k, i in enumerate(drawn)])
        right = torch.stack([found[k % len(found)][1][i] for k, i in enumerate(drawn)])
        way, digit = policy(prompts)
        w = torch.multinomial(way.detach().exp(), GROUP, replacement=True, generator=rng)
        after = digit[torch.arange(GROUPS)[:, None], w].flatten(0, 1)
        d = torch.multinomial(after.detach().exp(), 1, generator=rng)[:, 0]
        reward = (d == right.repeat_interleave(GROUP)).float()
        target = grpo(constant(reward, sure), traj).value[:, 0]
        logp = way.gather(1, w).flatten() + after.gather(1, d[:, None])[:, 0]
        optimiser.zero_grad()
        (-(target * logp).mean()).backward()
        optimiser.step()
    return {name: weight.clone() for name, weight in policy.state_dict().items()}


def run(arm: str, seed: int, *, updates: int = 100, learning_rate: float = RATE) -> Mapping[str, float]:
    """`updates` are those of one specialist; the mixed run has as many as all specialists together, or a third of that."""
    every = tuple(range(DOMAINS))
    base = first_policy(seed)
    special = [trained((number,), seed, updates, learning_rate) for number in every]
    related, unrelated = (change_cosine(base, special[0], special[other]) for other in (1, 2))
    if arm == "apart":
        judged = special
    elif arm.startswith("mixed"):
        judged = [trained(every, seed, updates * (1 if arm == "mixed-third" else DOMAINS), learning_rate)] * DOMAINS
    else:
        judged = [base if arm == "base" else merged(base, special, seed=seed, **MERGES[arm])] * DOMAINS
    found = [accuracy(weights, number, seed) for number, weights in zip(every, judged, strict=True)]
    return {"truth": sum(found) / DOMAINS, "worst": min(found), "related": related, "unrelated": unrelated}


RECIPE = Recipe(
    name="m2rl",
    claim=(
        "Domains trained in one run hardly get in each other's way: the mixed run, with a third of the rollouts, is no worse "
        "than the merge of a specialist for each, of which merging by elected signs (TIES) is the best."
    ),
    paper="arXiv:2602.12566",
    test=(
        f"Three domains on two digits: sum and difference modulo 10, and the greater one; {TRAINED} prompts of each may be "
        f"trained on and 30 are judged. A small network, shared by all, writes one of {WAYS} ways and then a digit. "
        f"Supervised training first gives it each domain's best way with {LIKED}, after which {SURE} of its digits are right, "
        f"{ELSE} after others; sum and difference have the same best way. GRPO, {GROUPS} groups of {GROUP} an update, Adam. "
        "Of the mixed runs one has as many updates as the specialists together, and one a third of that. The learning rate "
        "is the better of 0.003 and 0.01 on seed 99, which is not among those reported, for specialists and the mixed run "
        "alike; there each merge also had the best of scales 0.3 to 2 and of kept shares 0.2, 0.5 and 1. Not tested: "
        "distillation from several teachers, responses of unlike length, more than three domains, language models."
    ),
    arms={
        "base": "the first policy",
        "apart": "every specialist on its own domain, which no single policy is",
        "mixed": "one run on all domains, as many updates as all specialists together",
        "mixed-third": "one run on all domains, as many updates as one specialist",
        "average": "the mean of what the specialists changed",
        "task-arithmetic": "half of the sum of what they changed",
        "ties": "the largest fifth of each change, where signs agree",
        "dare-ties": "the same of changes half of which are dropped at random and the rest doubled, half of the result",
        "sce": "the changes weighed by their squares, where signs agree",
    },
    measures={
        "truth": "probability of a right answer to the prompts nobody trains on, mean over domains (exact)",
        "worst": "the same of the worst domain",
        "related": "cosine of what the specialists for sum and difference changed",
        "unrelated": "cosine of what the specialists for sum and the greater one changed",
    },
    effects=(
        Effect("truth", "mixed-third", "ties", "not lower", delta=0.02),
        Effect("truth", "mixed", "apart", "not lower", delta=0.05),
        Effect("truth", "ties", "average", "higher", delta=0.02),
        Effect("truth", "ties", "task-arithmetic", "not lower", delta=0.02),
    ),
    run=run,
    methods=("search:m2rl", "advantage:grpo"),
    seeds=5,
)
