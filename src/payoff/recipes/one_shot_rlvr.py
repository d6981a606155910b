"""One-shot RLVR: does one training example bring out as much of a skill as many do?

payoff reproduce one-shot-rlvr
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

from payoff.advantages.group import grpo
from payoff.recipes import Effect, Recipe
from payoff.trajectories import Trajectories, constant

DIGITS, WAYS, TRAINED, GROUPS, GROUP, ENTROPY = 10, 3, 60, 16, 8, 0.001
LIKED = (0.4, 0.3, 0.3)  # how often the first policy takes each way: the careful one and two sloppy ones
SURE = (0.95, 0.15, 0.15)  # how often the digit is right after each
SATURATED = 0.95
SIZES = {"one-drawn": 1, "eight": 8, "many": TRAINED, "way": TRAINED}
RATE = 0.003  # of 0.003 and 0.01


class Writer(nn.Module):
    """A small network that writes two tokens: a way to go about it, then a digit. All prompts share its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * DIGITS + WAYS, 64)
        self.way, self.digit = nn.Linear(64, WAYS), nn.Linear(64, DIGITS)

    def forward(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """log-probabilities of the ways [P, W] and, after each of them, of the digits [P, W, D]."""
        seen = nn.functional.one_hot(prompts, DIGITS).flatten(1).float()
        first = torch.tanh(self.hidden(torch.cat([seen, seen.new_zeros(len(seen), WAYS)], 1)))
        after = torch.cat([seen[:, None].expand(-1, WAYS, -1), torch.eye(WAYS).expand(len(seen), -1, -1)], 2)
        return self.way(first).log_softmax(1), self.digit(torch.tanh(self.hidden(after))).log_softmax(2)


def all_prompts(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """All pairs of digits [100, 2] in an order that the seed draws, and their right digits; the first may be trained on."""
    pairs = torch.cartesian_prod(torch.arange(DIGITS), torch.arange(DIGITS))[torch.randperm(DIGITS**2, generator=rng)]
    return pairs, pairs.sum(1) % DIGITS


@lru_cache(maxsize=1)
def first_policy(seed: int) -> dict[str, Tensor]:
    """The weights after supervised training on sums, to all prompts, by answers that are often sloppy."""
    rng = torch.Generator().manual_seed(seed)
    prompts, right = all_prompts(rng)
    ways = (torch.tensor(LIKED).log() + 0.5 * torch.randn(len(prompts), WAYS, generator=rng)).softmax(1)
    sure = torch.tensor(SURE)[:, None]
    slip = (right + torch.randint(1, DIGITS, right.shape, generator=rng)) % DIGITS  # what it tends to say where it errs
    one_hot = nn.functional.one_hot
    wrong = 0.5 * one_hot(slip, DIGITS) + 0.5 * (1 - one_hot(right, DIGITS)) / (DIGITS - 1)
    digits = sure * one_hot(right, DIGITS)[:, None] + (1 - sure) * wrong[:, None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = Writer()
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.02)
    for _ in range(300):
        way, digit = policy(prompts)
        optimiser.zero_grad()
        (-(ways * way).sum(1).mean() - (digits * digit).sum(2).mean()).backward()
        optimiser.step()
    return {name: weight.clone() for name, weight in policy.state_dict().items()}


@torch.no_grad()
def accuracy(policy: Writer, prompts: Tensor, right: Tensor) -> Tensor:
    """The probability of a right answer to every prompt (exact)."""
    way, digit = policy(prompts)
    return (way.exp() * digit.exp()[torch.arange(len(right)), :, right]).sum(1)


def train(
    policy: Writer, examples: Tensor, labels: Tensor, rng: torch.Generator, updates: int, rate: float, pays: str = "digit"
) -> Iterator[Writer]:
    """GRPO with an entropy bonus on these examples alone; every ten updates, and at the end, the policy is yielded."""
    optimiser = torch.optim.Adam(policy.parameters(), lr=rate)
    rows = GROUPS * GROUP
    zeros, sure = torch.zeros(rows, dtype=torch.int64), torch.ones(rows, dtype=torch.bool)
    group, two = torch.arange(GROUPS).repeat_interleave(GROUP), torch.zeros(rows, 2, dtype=torch.int64)
    traj = Trajectories(two == 0, zeros + 2, group, two.int(), zeros, two, id=torch.arange(rows))
    for update in range(updates):
        if update % 10 == 0:
            yield policy
        drawn = torch.randint(len(examples), (GROUPS,), generator=rng)
        way, digit = policy(examples[drawn])
        w = torch.multinomial(way.detach().exp(), GROUP, replacement=True, generator=rng)
        after = digit[torch.arange(GROUPS)[:, None], w].flatten(0, 1)
        d = torch.multinomial(after.detach().exp(), 1, generator=rng)[:, 0]
        reward = (d == labels[drawn].repeat_interleave(GROUP)) if pays == "digit" else (w.flatten() == 0)
        target = grpo(constant(reward.float(), sure), traj).value[:, 0]
        logp = way.gather(1, w).flatten() + after.gather(1, d[:, None])[:, 0]
        entropy = -(way.exp() * way).sum(1).mean() - (after.exp() * after).sum(1).mean()
        optimiser.zero_grad()
        (-(target * logp).mean() - ENTROPY * entropy).backward()
        optimiser.step()
    yield policy


@lru_cache(maxsize=1)
def most_variable(seed: int, updates: int) -> int:
    """The example whose accuracy varies most over a first run on all examples, as the paper chooses it."""
    rng = torch.Generator().manual_seed(seed)
    prompts, right = all_prompts(rng)
    policy = Writer()
    policy.load_state_dict(first_policy(seed))
    history = [
        accuracy(p, prompts[:TRAINED], right[:TRAINED])
        for p in train(policy, prompts[:TRAINED], right[:TRAINED], rng, updates, RATE)
    ]
    return int(torch.stack(history).std(0, unbiased=False).argmax())


def run(arm: str, seed: int, *, updates: int = 100, learning_rate: float = RATE) -> Mapping[str, float]:
    """From the same first policy, on an arm's examples; judged on 40 prompts that no arm trains on."""
    kind = arm.removesuffix("-unskilled")
    rng = torch.Generator().manual_seed(seed)
    prompts, right = all_prompts(rng)
    right = right if kind == arm else prompts.prod(1) % DIGITS  # products were never taught
    policy = Writer()
    policy.load_state_dict(first_policy(seed))
    chosen = [most_variable(seed, updates)] if kind in ("one", "mislabelled") else list(range(SIZES.get(kind, 0)))
    labels = (right[chosen] + 1) % DIGITS if kind == "mislabelled" else right[chosen]
    truth, saturated = [], None
    steps = updates if kind != "base" else 0
    for now in train(policy, prompts[chosen], labels, rng, steps, learning_rate, "way" if kind == "way" else "digit"):
        truth.append(float(accuracy(now, prompts[TRAINED:], right[TRAINED:]).mean()))
        if chosen and saturated is None and accuracy(now, prompts[chosen], labels).mean() >= SATURATED:
            saturated = truth[-1]
    return {"truth": truth[-1], "best": max(truth), "later": truth[-1] - (truth[-1] if saturated is None else saturated)}


RECIPE = Recipe(
    name="one-shot-rlvr",
    claim=(
        "Reinforcement learning on one example, chosen because its accuracy varies most in a first run, brings out a skill "
        "that a policy has on prompts that it was not trained on, and as much of it as training on many examples does."
    ),
    paper="arXiv:2504.20571",
    test=(
        "Sums of two digits modulo 10; 60 prompts may be trained on, 40 are judged. A small network, shared by all, writes "
        f"one of {WAYS} ways and then a digit. Supervised training on all prompts first gives it the careful way with "
        f"{LIKED[0]}, after which {SURE[0]} of its digits are right, and sloppy ones after which {SURE[1]} are, so that the "
        f"skill is there and is brought out by a choice common to all prompts. GRPO with {GROUPS} groups of {GROUP} an "
        f"update, copies of the one example where there is one, an entropy bonus of {ENTROPY}, Adam, the same updates in "
        f"every arm; all with the learning rate {RATE}, which on seed 99, not among those reported, was better than 0.01 for "
        "each. The example is chosen by the accuracies of a run on all 60, at every tenth update. For want of the skill: "
        "products of the digits, which nothing taught. Not tested: the penalty on divergence, the entropy bonus without any "
        "reward, long training after saturation, transfer between subjects, language models."
    ),
    arms={
        "base": "the first policy",
        "one": "the one example whose accuracy varies most in a first run",
        "one-drawn": "one example, drawn",
        "mislabelled": "the one example with a wrong digit as its answer",
        "eight": "eight examples, drawn",
        "many": "all 60 examples",
        "way": "all 60 examples, paid for the careful way whatever the digit: form alone",
        "base-unskilled": "the first policy on products",
        "many-unskilled": "all 60 examples of products",
        "one-drawn-unskilled": "one example of a product, drawn",
    },
    measures={
        "truth": "probability of a right answer to the 40 prompts nobody trains on, at the end (exact)",
        "best": "the greatest such probability at any time",
        "later": "what it gained after the examples themselves reached 0.95; 0 if they never did",
    },
    effects=(
        Effect("truth", "one", "base", "higher", delta=0.05),
        Effect("truth", "one", "many", "not lower", delta=0.05),
        Effect("truth", "one", "one-drawn", "not lower", delta=0.05),
    ),
    run=run,
    methods=("advantage:grpo",),
    seeds=6,
)
