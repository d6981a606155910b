"""SparsePO: where one token decides which answer is preferred, do weights of tokens get more of it at the same divergence?

payoff reproduce sparse-po
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from payoff.losses.pair_aggregation import pair_mean
from payoff.losses.sparse_preferences import SparsePreferences, activation_mask
from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.lm import LanguageModel
from payoff.recipes import Effect, Recipe
from payoff.trajectories import Pairs

LENGTH, PAIRS, AT, SEEN, TAUGHT = 8, 32, 0.5, 256, 400
ARMS: dict[str, dict[str, Any]] = {
    "dpo": {"reward": "all", "kl": "none", "beta": 10.0},
    "tdpo": {"reward": "all", "kl": "all", "beta": 3.0},
    "mapo": {"reward": "activations", "kl": "same", "beta": 10.0},
    "sparse": {"reward": "learned", "kl": "learned", "beta": 0.3, "learning_rate": 0.03, "l1_reward": 0.01, "l1_kl": 0.01},
}
LOOKED_AT, EVERY = 5, 3
RATES = {"dpo": 1e-3, "tdpo": 3e-4, "mapo": 1e-3, "sparse": 3e-4}


def text(draw: random.Random, decided: str = "") -> str:
    """Eight letters: noise, somewhere a mark, and behind it the letter that decides.

    >>> text(random.Random(0), "x")
    'dda!xddc'
    """
    noise = [draw.choice("abcde") for _ in range(LENGTH)]
    place = draw.randrange(LENGTH - 1)
    noise[place : place + 2] = ["!", decided or draw.choice("xy")]
    return "".join(noise)


@lru_cache(maxsize=2)
def _reference(steps: int) -> LanguageModel:
    """A transformer that has learned to write such texts, x and y alike."""
    policy = transformer(
        alphabet="abcdexy!?",
        context=LENGTH + 2,
        width=32,
        layers=2,
        heads=2,
        max_tokens=LENGTH,
        stop=(),
        step_separator=None,
        seed=0,
    )
    draw, optimiser = random.Random(0), torch.optim.Adam(policy.parameters(), lr=3e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        tokens = torch.tensor([policy.tokenizer.encode("?" + text(draw)) for _ in range(64)])
        loss = cross_entropy(policy.model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return policy


def run(arm: str, seed: int, *, updates: int = 120) -> Mapping[str, float]:
    """Every arm has the same pairs."""
    return learned(LOOKED_AT + seed, updates, RATES[arm], ARMS[arm])


def learned(seed: int, updates: int, rate: float, options: Mapping[str, Any]) -> dict[str, float]:
    """Steps on all pairs at once; what is preferred is read off where the policy passes the divergence AT, or at the end."""
    torch.set_num_threads(1)
    reference = _reference(TAUGHT)
    policy, draw, rng = copy.deepcopy(reference), random.Random(seed), torch.Generator().manual_seed(seed)
    texts = [text(draw, letter) for _ in range(PAIRS) for letter in "xy"]
    traj = reference.read([{"prompt": "?", "response": response} for response in texts])
    traj = traj.replace(group=torch.arange(PAIRS).repeat_interleave(2))
    pairs = Pairs(torch.arange(2 * PAIRS).view(-1, 2), torch.ones(PAIRS), torch.ones(PAIRS))
    loss = SparsePreferences(policy=reference, seed=seed, **options)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=rate, weight_decay=0.0)
    path = [judged(policy, reference, rng)]
    for update in range(updates):
        terms = loss(policy.evaluate(traj, frozenset({"logits"})), traj, pairs).terms
        optimiser.zero_grad()
        (terms * pair_mean(pairs, traj)).sum().backward()
        optimiser.step()
        if update % EVERY == EVERY - 1 or update == updates - 1:
            path.append(judged(policy, reference, rng))
            if path[-1][1] >= AT:
                break
    truth, away = path[-1]
    if away > AT:
        before, near = path[-2]
        truth, away = before + (AT - near) / (away - near) * (truth - before), AT
    return {"truth": truth, "kl": away, "focus": focus(loss, traj)}


@torch.no_grad()
def judged(policy: LanguageModel, reference: LanguageModel, rng: torch.Generator) -> tuple[float, float]:
    """(chance of an x behind the mark, nats per answer from the reference): at each place of 256 own answers exact."""
    own = policy.rollout([Start("?", {"prompt": "?"})], SEEN, rng)
    now, then = (who.evaluate(own, frozenset({"logits"})).more["logits"].log_softmax(2) for who in (policy, reference))
    marked = torch.zeros_like(own.mask)
    marked[:, 1:] = own.actions[:, :-1] == policy.tokenizer.encode("!")[0]
    chance = now[..., policy.tokenizer.encode("x")[0]].exp()
    possible = now > -torch.inf
    away = (now.exp() * torch.where(possible, now - then, 0)).sum(2)
    return float((chance * marked).sum() / SEEN), float(torch.where(own.mask, away, 0).sum() / SEEN)


@torch.no_grad()
def focus(loss: SparsePreferences, traj: Any) -> float:
    """The share of the weights that lies on the token that decides, on average over answers (0 where all weights are 0)."""
    weight = traj.own.float()
    states = loss.initial.evaluate(traj, frozenset({"hidden"})).more["hidden"][:, :-1, None]
    if loss.kinds[0] == "activations":
        weight = activation_mask(states, traj.own)
    elif loss.kinds[0] == "learned":
        weight = loss.masks["reward"](states) * traj.own
    place = torch.tensor([item["response"].index("!") + 1 for item in traj.items])
    return float((weight.gather(1, place[:, None])[:, 0] / weight.sum(1).clamp(min=1e-12)).mean())


RECIPE = Recipe(
    name="sparse-po",
    claim=(
        "Weights of tokens that are learned with the policy find the tokens that decide a preference, and bring more of it than "
        "DPO at the same divergence from the reference."
    ),
    paper="arXiv:2410.05102",
    test=(
        f"A small transformer writes {LENGTH} letters: noise, a mark at a random place, and behind it x or y, as likely; x is "
        f"preferred and nothing else matters. {PAIRS} pairs, all in each of at most 120 steps of AdamW; every {EVERY} steps the "
        f"policy is judged by {SEEN} own answers, and how much of x there is counts where it passes {AT:g} nats from the "
        "reference, between two looks in proportion (always x is log 2 away at least). For each arm beta was chosen from "
        "0.3, 1, 3 and 10 and the learning rate from 0.001, 0.0003 and 0.0001, on seeds 98 and 99, which are not among those "
        "reported, the smallest rate without a beta of 10. Rate and price of the learned weights, 0.03 and 0.01, came from a first "
        "form of the experiment, which took the most of x on the way below 1 nat and for each arm the better of two betas. Five "
        "seeds left it open (0.04 more of x than DPO, give or take 0.05), so here are 15 others. Not tested: weights by layer (the "
        "last state alone is read), language models, summaries, dialogue and reasoning."
    ),
    arms={
        "dpo": "DPO: every token's log-ratio counts alike",
        "tdpo": "the same, and the divergence at every token alike",
        "mapo": "weights from the reference's activations",
        "sparse": "learned weights with a price",
    },
    measures={
        "truth": "chance of an x behind the mark, where the policy passes 0.5 nats, or at the end",
        "kl": "the divergence there, in nats per answer",
        "focus": "share of the weights on the token that decides, at the end (1/8 where all are alike)",
    },
    effects=(
        Effect("truth", "sparse", "dpo", "higher", delta=0.03),
        Effect("focus", "sparse", "dpo", "higher", delta=0.2),
        Effect("truth", "sparse", "tdpo", "higher", delta=0.03),
    ),
    run=run,
    methods=("loss:sparse-po", "aggregation:pair-mean"),
    seeds=15,
)
