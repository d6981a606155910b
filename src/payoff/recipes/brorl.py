"""BroRL: does more of each update reach what was sampled, and do right answers stop losing, as rollouts of a prompt multiply?

payoff reproduce brorl
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.audit.mass_balance import mass_balance
from payoff.recipes import Effect, Recipe

ANSWERS, RIGHT = 2000, 200
ROLLOUTS = (4, 16, 64, 256, 1024)
STEP, PLAIN = 20.0, 5.0  # of the paper's model, per sampled answer; of the plain gradient, of a mean over rollouts
PEAKED = 3.0  # deviation of the logits of a policy that prefers few answers


def run(arm: str, seed: int, *, updates: int = 200) -> Mapping[str, float]:
    """The paper's one-step model and plain gradient steps, both from the same logits; watched exactly."""
    n, rng = int(arm), torch.Generator().manual_seed(seed)
    right = torch.zeros(ANSWERS, dtype=torch.bool).index_fill(0, torch.randperm(ANSWERS, generator=rng)[:RIGHT], True)
    logits = torch.randn(ANSWERS, generator=rng, dtype=torch.float64)
    first = logits.softmax(0)
    last, falls = modelled(logits, right, n, updates, -1.0, rng)
    plain, mass = logits.clone(), [float(first[right].sum())]
    for _ in range(updates):
        p = plain.softmax(0)
        paid = drawn(p, n, rng) * (2 * right.double() - 1) / n
        plain = plain + PLAIN * (paid - p * paid.sum())  # the gradient of the mean of reward times log-probability
        mass.append(float(plain.softmax(0)[right].sum()))
    coupling, peaked = (expected_balance((spread * logits).softmax(0), right, n) for spread in (1.0, PEAKED))
    return {
        "coupling": abs(coupling[1]) / coupling[0],
        "coupling_peaked": abs(peaked[1]) / peaked[0],
        "truth": float(last[right].sum()),
        "falls": falls,
        "falls_unpunished": modelled(logits, right, n, updates, 0.0, rng)[1],
        "lost": float((last < first)[right].double().mean()),
        "worst": float((last / first)[right].min()),
        "plain": sum(mass) / len(mass),
        "plain_falls": float((torch.tensor(mass).diff() < 0).double().mean()),
    }


def modelled(
    logits: Float[Tensor, " V"], right: Bool[Tensor, " V"], n: int, updates: int, wrong: float, rng: torch.Generator
) -> tuple[Float[Tensor, " V"], float]:
    """The distribution after updates of the paper's model, and the share of those that lower the right mass to first order."""
    worth, z, falls = torch.where(right, 1.0, wrong).to(logits.dtype), logits, 0
    for _ in range(updates):
        p = z.softmax(0)
        sampled = drawn(p, n, rng) > 0
        falls += mass_balance(p, right, sampled, reward_wrong=wrong, step=STEP).change < 0
        paid = torch.where(sampled, worth, 0)
        z = z + STEP * p * (paid - (p * paid).sum())
    return z.softmax(0), falls / updates


def drawn(p: Float[Tensor, " V"], n: int, rng: torch.Generator) -> Float[Tensor, " V"]:
    """How often each answer came in n rollouts."""
    return torch.bincount(torch.multinomial(p, n, replacement=True, generator=rng), minlength=len(p)).double()


def expected_balance(p: Float[Tensor, " V"], right: Bool[Tensor, " V"], n: int) -> tuple[float, float]:
    """What sampled, and what unsampled answers change of the right mass on average over all batches of n rollouts.

    With rewards of 1 and -1 and step 1. Terms are of pairs of answers, and whether two are in a batch has a closed form:
    P(i is out) = (1 - p_i)^n, P(neither is in) = (1 - p_i - p_j)^n.

    >>> p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    >>> sampled, unsampled = expected_balance(p, torch.tensor([True, False, False]), 10_000)
    >>> abs(round(unsampled, 9)), sampled > 0
    (0.0, True)
    """
    q, worth = p[right].sum(), 2 * right.to(p.dtype) - 1
    out = (1 - p) ** n
    neither = (1 - p[:, None] - p[None, :]).clamp(min=0) ** n
    neither.diagonal().copy_(out)
    one_in = out[:, None] - neither  # i is out and j is in
    both = 1 - out[:, None] - out[None, :] + neither
    push = torch.where(right, 1 - q, -q) * p.square()  # what a change of the answer's logit is worth, times its p
    paid = worth * p
    sampled = (push * worth * (1 - out)).sum() - push @ both @ paid
    return float(sampled), float(-(push @ one_in @ paid))


RECIPE = Recipe(
    name="brorl",
    claim=(
        "One update moves the probability of right answers by what is sampled, which never lowers it, and by what is not, which "
        "can; with many rollouts of each prompt the second part vanishes, so that right answers gain more, fall less often, and "
        "none of them is lost."
    ),
    paper="arXiv:2510.01180",
    test=(
        f"The paper's one-step model, as its simulation is described: a softmax over {ANSWERS} answers, a tenth of them right, "
        f"standard normal logits, rewards of 1 and -1, and {{4, 16, 64, 256, 1024}} rollouts; each distinct sampled answer counts "
        "once, by its probability, with the same step in every arm (the same learning rate over number of rollouts, so broad arms "
        "also move further). What unsampled answers change in the first update is the exact average over all batches; "
        "falls are those of the first-order change of the model. Beside it, plain gradient steps on the same logits, with one "
        "step of a mean over rollouts: there answers count as often as they came. Every arm has as many updates, so broad arms "
        "have more samples, as in the paper. The model's step was set once: no logit moves by more than half in its first update. "
        "A look at seed 99, which is not among those reported, showed no fall of the model in any arm, and unsampled answers doing "
        "2 % of what sampled ones do; rewards of 1 and 0 and the first update of a more peaked policy were added then, to see "
        "whether that is these rewards' or these logits' doing, and nothing else was changed. An earlier form of this recipe "
        "compared 16 with 512 rollouts by plain gradients alone. Not tested: equal samples, clipping, baselines, Adam, and "
        "language models."
    ),
    arms={str(n): f"{n} rollouts per update" for n in ROLLOUTS},
    measures={
        "coupling": "unsampled answers' change of the right mass over that of sampled ones, first update (exact average)",
        "coupling_peaked": "the same where the logits' deviation is 3",
        "truth": "probability of a right answer at the end, in the paper's model",
        "falls": "share of the model's updates whose change of that probability is negative to first order",
        "falls_unpunished": "the same with rewards of 1 and 0",
        "lost": "share of the right answers that are less probable at the end than at the start, in the model",
        "worst": "least ratio of a right answer's probability at the end to that at the start, in the model",
        "plain": "probability of a right answer, mean over all updates by plain gradients",
        "plain_falls": "share of the plain updates after which a right answer is less probable",
    },
    effects=(
        Effect("coupling", "1024", "4", "lower", delta=0.05),
        Effect("truth", "1024", "4", "higher", delta=0.05),
        Effect("falls", "1024", "4", "lower", delta=0.05),
        Effect("lost", "1024", "4", "lower", delta=0.05),
        Effect("plain_falls", "1024", "4", "lower", delta=0.05),
    ),
    run=run,
    methods=(),
)
