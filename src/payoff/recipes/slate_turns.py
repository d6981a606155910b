"""SLATE in turns: does judging candidates for one turn at a time teach a search agent in fewer tokens than whole rollouts?

payoff reproduce slate-turns
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from payoff.advantages.group import grpo
from payoff.advantages.normalise import standardise
from payoff.credit.returns import total
from payoff.losses.aggregation import token_mean
from payoff.losses.policy_gradient import ppo_clip
from payoff.pipeline import Start
from payoff.policies.lm import LanguageModel
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.turns import ROLLOUTS, SETTING, STARTS, TURNS, task, taught
from payoff.sampling.step_candidates import extend_by_reward
from payoff.trajectories import Channel, StopReason, Trajectories, concatenate, constant, outcome, place_steps

CANDIDATES, ERROR, TURN_TOKENS = 5, 0.1, 2
LOOKS, JUDGED = 16, 2  # how often an arm is judged along the way, and rollouts of each of 64 questions that it is judged by


def verdicts(item: Mapping[str, Any], rng: torch.Generator) -> list[float]:
    """What the judge says of every turn: 1 good, 0 of no use, -1 bad; of look-ups it errs in one of ten, of answers never.

    A look-up that the question needs is good the first time; one that was made before, or was not understood, is bad.

    >>> turns = [{"said": said, "observed": "c", "over": said[0] == "="} for said in ("a1", "a1", "b1", "=d")]
    >>> verdicts({"solution": ["a1", "c2", "=b"], "turns": turns}, torch.Generator().manual_seed(0))
    [1.0, -1.0, 0.0, -1.0]
    """
    wanted, seen, said = set(item["solution"]), set(), []
    for turn in item["turns"]:
        word, drawn = turn["said"], torch.rand(2, generator=rng).tolist()
        if turn["over"]:
            said.append(1.0 if word in wanted else -1.0)
            continue
        told = turn["observed"] not in (None, "!")
        verdict = -1.0 if not told or word in seen else float(word in wanted)
        seen.add(word)
        said.append(float(int(3 * drawn[1]) - 1) if drawn[0] < ERROR else verdict)
    return said


def judged(traj: Trajectories, rng: torch.Generator) -> Channel:
    """The judge's verdicts, each paid at the end of its turn."""
    said = [verdicts(item, rng) for item in traj.items]
    steps = max(map(len, said))
    value = torch.tensor([[*row, *[0.0] * (steps - len(row))] for row in said])
    return place_steps(value, torch.ones_like(value, dtype=torch.bool), traj)


def candidates(policy: LanguageModel, starts: Sequence[Start], rng: torch.Generator) -> tuple[Trajectories, Channel]:
    """Candidates for every turn of one path per start, each weighed against the others of its turn, one drawn to go on."""
    most, parts, weights = policy.max_tokens, [], []
    policy.max_tokens = TURN_TOKENS
    level = policy.rollout(starts, CANDIDATES, rng)
    policy.max_tokens = most
    for turn in range(TURNS):
        said = torch.tensor([verdicts(item, rng)[-1] for item in level.items])
        paid = constant(said, torch.ones(len(level), dtype=torch.bool))
        over: Literal["group", "siblings"] = "siblings" if turn else "group"
        parts.append(level)
        weights.append(standardise(paid, level, over=over, scale="std"))
        seed = int(torch.randint(2**31, (), generator=rng))
        rows = extend_by_reward({"step": paid}, level, over=over, seed=seed)
        rows = rows[level.stop[rows] == StopReason.truncated]
        if turn == TURNS - 1 or not len(rows):
            break
        level = policy.resume(level, rows, level.length[rows], CANDIDATES, rng, horizon=TURN_TOKENS)
    weight = Channel(torch.cat([part.value for part in weights]), torch.cat([part.valid for part in weights]))
    return concatenate(parts), weight


def whole(policy: LanguageModel, starts: Sequence[Start], rng: torch.Generator, arm: str) -> tuple[Trajectories, Channel]:
    """Whole rollouts, each weighed by its right answer or by all that the judge said of it, against its group."""
    traj = policy.rollout(starts, ROLLOUTS, rng)
    truth = task().truth(traj)
    paid = judged(traj, rng) if arm == "judged" else Channel(truth.value.float(), truth.valid)
    return traj, grpo(total(paid, traj), traj)


def run(arm: str, seed: int, *, tokens: int = 20_000, learning_rate: float = 1e-3) -> Mapping[str, float]:
    """Search in turns by a small transformer that has seen scripted searches; all arms write as many tokens."""
    torch.set_num_threads(1)
    rng, questions, policy = torch.Generator().manual_seed(seed), task(), taught()
    held_out, watch = questions.held_out_starts(64), torch.Generator().manual_seed(seed + 1_000_000)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    spent = 0
    silent: list[float] = []
    looks: list[float] = []
    while spent < tokens:
        with torch.no_grad():
            if spent >= len(looks) * tokens / LOOKS:
                seen = policy.rollout(held_out, JUDGED, watch)
                looks.append(float(outcome(questions.truth(seen), seen)[0].double().mean()))
            starts = questions.starts(STARTS, rng)
            traj, weights = candidates(policy, starts, rng) if arm == "slate" else whole(policy, starts, rng, arm)
        spent += int(traj.own.sum())
        silent.append(1.0 - float((torch.where(traj.own, weights.value, 0) != 0).any(1).double().mean()))
        optimiser.zero_grad()
        (ppo_clip(policy.evaluate(traj), traj, weights).terms * token_mean(weights, traj)).sum().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
    late = looks[-max(1, len(looks) // 4) :]
    mean = lambda numbers: sum(numbers) / len(numbers)
    return {"success": mean(late), "over": mean(looks), "silent": mean(silent), "updates": float(len(silent))}


RECIPE = Recipe(
    name="slate-turns",
    claim=(
        "Candidates for one turn at a time, judged at once and compared with one another, one of them drawn by reward to go on "
        "from, teach a search agent in fewer tokens than whole rollouts paid their outcome, and than whole rollouts that the same "
        "judge pays."
    ),
    paper="arXiv:2602.23440",
    test=(
        f"{SETTING} Whole rollouts: {ROLLOUTS} of a question. Truncated: {CANDIDATES} candidates for every turn of one path, the "
        "next turn after one that is drawn with a chance in proportion to exp(reward); all candidates are trained on, and all "
        "their tokens count. The judge knows the shortest way: 1 for a look-up that is needed, 0 for another, -1 for one made "
        "before or not understood, 1 or -1 for an answer; of look-ups it errs in one of ten "
        f"({ERROR:g}, a verdict drawn evenly). Verdicts cost no tokens. Since the paths of candidates are not the policy's own, "
        f"all arms are judged by {JUDGED} rollouts of 64 held-out questions at {LOOKS} moments, which count no tokens. Not tested: "
        "a judge that is a language model, the bonus for early answers, a KL penalty, the weights of the parts of a verdict, and "
        "real searches."
    ),
    arms={
        "outcome": "GRPO on the right answer of whole rollouts",
        "judged": "GRPO on the sum of the judge's verdicts of whole rollouts",
        "slate": "candidates for one turn at a time, each by the judge's verdict",
    },
    measures={
        "success": "share of right answers to held-out questions in the last quarter of the tokens",
        "over": "share of right answers to held-out questions, over all tokens",
        "silent": "share of training rollouts, or of candidates, without any advantage",
        "updates": "updates that the tokens were enough for",
    },
    effects=(
        Effect("over", "slate", "outcome", "higher", delta=0.03),
        Effect("success", "slate", "outcome", "not lower", delta=0.05),
        Effect("over", "slate", "judged", "higher", delta=0.03),
    ),
    run=run,
    methods=("selection:slate", "advantage:standardise", "advantage:grpo", "credit:total", "loss:ppo-clip", "task:turns-search"),
)
