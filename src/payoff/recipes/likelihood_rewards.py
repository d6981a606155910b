"""Likelihood-Based Reward Designs: which likelihood of a reference still teaches when answers are long and learned themselves?

payoff reproduce likelihood-rewards
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from payoff.pipeline import Evaluation, Start
from payoff.recipes import Effect, Recipe, train_arm
from payoff.trajectories import Channel, StopReason, Trajectories, fresh_ids, place_outcome

PROMPTS, KINDS, CHAINS, LETTERS, LENGTHS = 8, 4, 8, "abcdefgh", (1, 4, 16)
KNOWN, LEAN, SPREAD = 1.0, 1.0, 0.5
RATES = {"binary": 1.0, "mean-probability": 0.1, "sft": 1.0}  # 0.3 for the others
HERE = "payoff.recipes.likelihood_rewards"


class Questions:
    """Prompts of four kinds; every kind has one right answer, of so many letters."""

    def __init__(self, *, length: int, seed: int = 0) -> None:
        self.answers = texts(length, seed)

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """All prompts, in order, as often as they are asked for."""
        fields = [{"prompt": k % PROMPTS, "reference": self.answers[k % PROMPTS % KINDS]} for k in range(n)]
        return [Start(f"prompt-{k % PROMPTS}", own) for k, own in enumerate(fields)]

    def truth(self, traj: Trajectories) -> Channel:
        """1 for the right answer."""
        right = torch.tensor([correct(item["response"], item["reference"]) for item in traj.items])
        return place_outcome(right, torch.ones(len(traj), dtype=torch.bool), traj)


class Reasoner(nn.Module):
    """One of eight chains, by a table of each prompt; then letters, by a table of the chain and the place alone."""

    offers: frozenset[str] = frozenset()

    def __init__(self, *, length: int, seed: int = 0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed + 1000)
        chain = SPREAD * torch.randn(PROMPTS, CHAINS, generator=rng, dtype=torch.float64)
        chain[torch.arange(PROMPTS), torch.arange(PROMPTS) % KINDS] += LEAN
        letter = SPREAD * torch.randn(CHAINS, length, len(LETTERS), generator=rng, dtype=torch.float64)
        for kind, text in enumerate(texts(length, seed)):
            letter[kind, torch.arange(length), torch.tensor([LETTERS.index(x) for x in text])] += KNOWN
        self.chain, self.letter = nn.Parameter(chain), nn.Parameter(letter)
        self.tokenizer, self.model = Letters(), SimpleNamespace(context=None)

    def rollout(self, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n chains and answers for every prompt: the first action is the chain, and the first step."""
        fields = [dict(start.fields) for start in starts for _ in range(n)]
        prompt = torch.tensor([item["prompt"] for item in fields])
        chain = torch.multinomial(self.chain.detach()[prompt].softmax(1), 1, generator=rng)
        said = self.letter.detach()[chain[:, 0]].softmax(2)
        answer = torch.multinomial(said.flatten(0, 1), 1, generator=rng).view(len(prompt), -1)
        actions = torch.cat([chain, answer], 1)
        texts = [self.tokenizer.decode(row) for row in answer.tolist()]
        items = [{**item, "response": text, "prompt_ids": []} for item, text in zip(fields, texts, strict=True)]
        traj = Trajectories(
            mask=torch.ones(actions.shape, dtype=torch.bool),
            length=torch.full_like(prompt, actions.shape[1]),
            group=fresh_ids(len(starts)).repeat_interleave(n),
            step=(torch.arange(actions.shape[1]) > 0).int().expand(actions.shape),
            stop=torch.full_like(prompt, int(StopReason.finished)),
            actions=actions,
            items=items,
        )
        with torch.no_grad():
            return traj.replace(logp={"old": self.evaluate(traj).logp})

    def resume(self, traj: Trajectories, rows: Tensor, at: Tensor, n: int, rng: torch.Generator, **how: Any) -> Trajectories:
        """Answers are not continued in this experiment: ValueError."""
        raise ValueError("answers are not continued here")

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        """Log-probabilities of the chain and of the letters behind it."""
        prompt = torch.tensor([item["prompt"] for item in traj.items])
        chain, answer = traj.actions[:, 0], torch.where(traj.exists, traj.actions, 0)[:, 1:]
        first = self.chain[prompt].log_softmax(1).gather(1, chain[:, None])
        letters = self.letter[chain].log_softmax(2)[:, : answer.shape[1]].gather(2, answer[..., None])[..., 0]
        return Evaluation(torch.where(traj.mask, torch.cat([first, letters], 1), 0), {})


class Letters:
    """Letters as tokens."""

    shown = LETTERS

    def encode(self, text: str) -> list[int]:
        """Each letter's number."""
        return [LETTERS.index(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        """The letters of these numbers."""
        return "".join(LETTERS[i] for i in ids)


def texts(length: int, seed: int) -> list[str]:
    """The right answer of every kind."""
    rng = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(LETTERS), (KINDS, max(LENGTHS)), generator=rng)[:, :length]
    return ["".join(LETTERS[i] for i in row) for row in drawn.tolist()]


def correct(response: str, reference: str) -> float:
    """1 for exactly the reference."""
    return float(response == reference)


def run(arm: str, seed: int, *, updates: int = 100) -> Mapping[str, float]:
    """The same prompts with answers of 1, 4 and 16 letters; policies are judged exactly."""
    found: dict[str, float] = {}
    for length in LENGTHS:
        success, likelihood = learned(arm, seed, length, updates, RATES.get(arm, 0.3))
        found |= {f"success_{length}": success, f"likelihood_{length}": likelihood}
    return found


def learned(arm: str, seed: int, length: int, updates: int, rate: float) -> tuple[float, float]:
    """The chance of the right answer and the log of the mean over chains of its probability, per letter; both over all prompts."""
    form = arm if arm in ("probability", "mean-probability", "mean-log") else "log"
    how = {"loss": "policy-gradient", "aggregation": "sequence-mean-token-sum"}
    baseline = "likelihood-rewards" if arm == "jepo" else "rloo"
    first = {**how, "paths": {"reward": ["total", baseline]}, "weight": 0.0 if arm == "sft" else 1.0}
    second = {**how, "paths": {"reward": [{"name": "reward-gradient", "form": "group" if arm == "jepo" else form}]}}
    file: dict[str, Any] = {
        "task": {"name": f"{HERE}:Questions", "length": length, "seed": seed},
        "policy": {"name": f"{HERE}:Reasoner", "length": length, "seed": seed},
        "reward": {"reward": f"{HERE}:correct"},
        "terms": {"reasoning": first},
        "train": {"updates": updates, "starts": PROMPTS, "rollouts": 4, "learning_rate": rate, "gradient_clip": 0.0},
        "evaluate": {"every": 0, "starts": 0},
    }
    if arm != "binary":
        file["sampler"] = "likelihood-rewards"
        file["reward"] = {"reward": {"name": "likelihood-rewards", "policy": None, "form": form}}
    if arm not in ("binary", "log-alone"):
        file["replay"] = "likelihood-rewards"
        file["terms"]["through-the-reward"] = second
    trained = train_arm(file, "", seed)
    return judged(trained.policy, trained.task.answers)


@torch.no_grad()
def judged(policy: Reasoner, answers: Sequence[str]) -> tuple[float, float]:
    """(probability of the right answer, its logarithm per letter), means over prompts, exact."""
    right = torch.tensor([policy.tokenizer.encode(answers[k % KINDS]) for k in range(PROMPTS)])  # [P, A]
    letters = policy.letter.log_softmax(2)  # [Z, A, V]
    logp = letters[:, torch.arange(right.shape[1]), right].sum(2).T  # [P, Z]
    whole = (policy.chain.log_softmax(1) + logp).logsumexp(1)
    return float(whole.exp().mean()), float(whole.mean() / right.shape[1])


RECIPE = Recipe(
    name="likelihood-rewards",
    claim=(
        "Of the rewards by the likelihood of a reference answer, its log-probability serves short answers and long ones, and "
        "no worse than fine-tuning on the reference; right or wrong, and probabilities, fail where answers are long."
    ),
    paper="arXiv:2602.03979",
    test=(
        f"{PROMPTS} prompts of {KINDS} kinds; each kind has one right answer, of 1, 4 or 16 letters out of {len(LETTERS)}. A "
        f"policy writes one of {CHAINS} chains of thought, by a table of the prompt, then letters, by a table of the chain and the "
        "place: what is answered has to go through the chain. At first the chain of its own kind is likelier for every prompt, "
        "and behind it the letters of its answer: 0.20, 0.001 and 2e-10 is the chance of answers of 1, 4 and 16 letters. 4 "
        "rollouts of every prompt an update, leave-one-out (JEPO its own), AdamW, no scale; every reward but right or wrong is "
        "that of the policy as it is, and has the term of the gradient that goes through it. Learning rates were chosen for each "
        "arm from 0.03, 0.1, 0.3 and 1 on seed 99, which is not among those reported, by the mean success over the three lengths. "
        "Adam undoes a small scale of the reward down to its epsilon of 1e-8, which the probability of 16 letters is below at "
        "first. The paper also holds that no other likelihood does as well; of the two that are logarithms too, the mean over "
        "letters and JEPO, nothing is claimed here; that was made clear after a first run, with the same numbers. Not tested: "
        "language models, prompts not trained on, chains of more than one choice."
    ),
    arms={
        "binary": "1 for a sampled answer that is the reference",
        "probability": "the probability of the reference (VeriFree)",
        "mean-probability": "the mean probability of its letters (as RLPR, without its base)",
        "log": "its log-probability",
        "mean-log": "its log-probability per letter",
        "jepo": "the log of the group's mean probability of it",
        "log-alone": "its log-probability, without the term through the reward",
        "sft": "that term alone: fine-tuning on the reference behind chains that are not trained",
    },
    measures={
        **{f"success_{n}": f"chance of the right answer of {n} letters (exact)" for n in LENGTHS},
        **{
            f"likelihood_{n}": f"log of the right answer's probability over all chains, per letter, of {n} (exact)" for n in LENGTHS
        },
    },
    effects=(
        Effect("success_16", "log", "probability", "higher", delta=0.05),
        Effect("success_16", "log", "mean-probability", "higher", delta=0.05),
        Effect("success_16", "log", "binary", "higher", delta=0.05),
        Effect("success_16", "log", "sft", "not lower", delta=0.05),
        Effect("success_16", "log", "log-alone", "higher", delta=0.05),
        Effect("success_1", "log", "binary", "not lower", delta=0.05),
    ),
    run=run,
    methods=(
        *("signal:likelihood-rewards", "sampler:likelihood-rewards", "replay:likelihood-rewards", "advantage:likelihood-rewards"),
        *("credit:reward-gradient", "credit:total", "advantage:rloo", "loss:policy-gradient"),
    ),
)
