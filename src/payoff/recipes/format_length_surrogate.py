"""Format and length as a surrogate: how much of what correctness teaches do two numbers that read no label teach?

payoff reproduce format-length-surrogate
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from payoff.advantages.group import grpo
from payoff.recipes import Effect, Recipe
from payoff.signals.label_free import format_length_surrogate, format_surrogate
from payoff.trajectories import Trajectories, constant, outcome

PROMPTS, GROUP, LONGEST = 40, 8, 16
FORMS = (r"<think>{}</think> \boxed{{7}}", r"{} \boxed{{7}}", r"{} so it is seven")  # only the last cannot be read
EARLY = 15
CHOSEN = {"correct": 0.3, "format": 0.3, "format-length": 0.1, "untrained": 0.1}  # learning rates
FORM_LIKES, SHORT = (0.0, 1.0, 1.0), -0.25  # the first policy's logits of the forms, and of every step more


@lru_cache(maxsize=1)
def surrogates() -> dict[str, Tensor]:
    """What the library's label-free rewards pay for every form and length [F, L]; a length is a number of words to think with."""
    texts = [form.format(" ".join(["step"] * length)) for form in FORMS for length in range(1, LONGEST + 1)]
    lengths = torch.arange(1, LONGEST + 1).repeat(len(FORMS))
    mask = torch.arange(LONGEST) < lengths[:, None]
    zeros = torch.zeros(len(texts), dtype=torch.int64)
    items = [{"response": text} for text in texts]
    traj = Trajectories(mask, lengths, zeros, torch.where(mask, 0, -1).int(), zeros, torch.where(mask, 1, 0), items=items)
    length = outcome(format_length_surrogate(traj, limit=LONGEST)["format-length-surrogate"], traj)[0]
    form = torch.tensor([format_surrogate(text) for text in texts])
    return {"format": form.double().reshape(len(FORMS), -1), "format-length": length.double().reshape(len(FORMS), -1)}


def chances(skilled: bool, rng: torch.Generator) -> Tensor:
    """How likely every prompt's answer is right [P, F, L]: it needs a length of its own, and loses by going on after it."""
    needed = torch.randint(2, 11, (PROMPTS, 1), generator=rng)
    length = torch.arange(1, LONGEST + 1)
    enough = torch.where(length >= needed, 0.9 - 0.03 * (length - needed), 0.2)
    readable = torch.tensor([1.0, 1.0, 0.0])[:, None]
    return ((enough if skilled else torch.full_like(enough, 0.05))[:, None] * readable).double()


def run(arm: str, seed: int, *, updates: int = 200, learning_rate: float = 0.0) -> Mapping[str, float]:
    """GRPO. Form and length have logits common to all prompts, and every prompt has its own beside them; Adam.

    learning_rate 0: the one chosen for the arm.
    """
    rng = torch.Generator().manual_seed(seed)
    reward = arm.removesuffix("-unskilled")
    right = chances(reward == arm, rng)
    common = torch.tensor(FORM_LIKES, dtype=torch.float64)[:, None] + SHORT * torch.arange(LONGEST, dtype=torch.float64)
    common.requires_grad_()
    own = torch.zeros(PROMPTS, len(FORMS), LONGEST, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([common, own], lr=learning_rate or CHOSEN[reward])
    rows = 8 * GROUP
    zeros, sure = torch.zeros(rows, dtype=torch.int64), torch.ones(rows, dtype=torch.bool)
    group, one = torch.arange(8).repeat_interleave(GROUP), torch.ones(rows, 1, dtype=torch.bool)
    traj = Trajectories(one, zeros + 1, group, zeros[:, None].int(), zeros, zeros[:, None], id=torch.arange(rows))
    truth = []
    for update in range(updates + 1):
        logp = (common + own).flatten(1).log_softmax(1)
        truth.append(float((logp.detach().exp() * right.flatten(1)).sum(1).mean()))
        if update == updates or reward == "untrained":
            break
        prompt = torch.randperm(PROMPTS, generator=rng)[:8].repeat_interleave(GROUP)
        chosen = torch.multinomial(logp.detach().exp()[prompt], 1, generator=rng)[:, 0]
        verdict = torch.bernoulli(right.flatten(1)[prompt, chosen], generator=rng)
        thinks = surrogates()["format"].flatten()[chosen] == 1
        paid = 0.5 * thinks + verdict if reward == "correct" else surrogates()[reward].flatten()[chosen]
        target = grpo(constant(paid, sure), traj).value[:, 0]
        optimiser.zero_grad()
        (-(target * logp[prompt, chosen]).mean()).backward()
        optimiser.step()
    p = logp.detach().exp().reshape(right.shape)
    lengths = torch.arange(1, LONGEST + 1, dtype=torch.float64)
    early = truth[min(EARLY, len(truth) - 1)]
    return {"truth": truth[-1], "early": early, "length": float((p.sum(1) @ lengths).mean()), "gain": truth[-1] - truth[0]}


RECIPE = Recipe(
    name="format-length-surrogate",
    claim=(
        "Rewards for a readable answer alone give most (about 85%) of what correctness gives in the first 15 updates; with a "
        "reward for length beside them they go further, and end as well as correctness does."
    ),
    paper="arXiv:2505.19439",
    test=(
        f"{PROMPTS} prompts; a response is a form (tags and a box, a box, or words, which hold no answer) and a length of 1 "
        f"to {LONGEST}. Every prompt needs a length of its own, 2 to 10: readable answers at least so long are right with 0.9 less "
        "0.03 for every step too many, shorter ones with 0.2. The best length paid is 8, half of the limit, as in the paper. The "
        "first policy knows nothing of lengths, is short (4.2 on average, as responses are there for a limit of 3072) and reads "
        f"well in six answers of ten. GRPO, groups of {GROUP}, 8 prompts an update; logits that all prompts share and a table for "
        "each; Adam, each reward with the learning rate of 0.1, 0.3 and 0.6 at which it ended best on seed 99, which is not among "
        "those reported. In a first form, looked at on that seed, all lengths were equally likely at first and needs went to 12; "
        "there format and length together did worse than format alone, and the start was changed to that of the paper. The arms "
        "without the skill are right with 0.05 whatever readable answer they write. Correctness can learn here what every prompt "
        "needs, by heart. Not tested: prompts not trained on, repetition, padding, language models."
    ),
    arms={
        "untrained": "the first policy",
        "correct": "1 for a right answer and 0.5 for thinking in tags",
        "format": "thinking in tags and a readable answer, half each",
        "format-length": "the same and the reward for length",
        "correct-unskilled": "correctness, from a policy without the skill",
        "format-length-unskilled": "format and length, from a policy without the skill",
    },
    measures={
        "truth": "probability of a right answer under the final policy, mean over prompts (exact)",
        "early": f"the same after {EARLY} updates",
        "length": "expected length at the end (exact)",
        "gain": "truth at the end less truth at the start",
    },
    effects=(
        Effect("early", "format", "correct", "not lower", delta=0.05),
        Effect("truth", "format-length", "format", "higher", delta=0.02),
        Effect("truth", "format-length", "correct", "not lower", delta=0.02),
    ),
    run=run,
    methods=("grader:format-surrogate", "signal:format-length-surrogate", "advantage:grpo"),
    seeds=6,
)
