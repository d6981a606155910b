"""Where should reinforcement learning practise: where the policy succeeds, where it sometimes does, or where it never does?

payoff reproduce interplay-pre-mid-rl
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from payoff.pipeline import Evaluation, Start
from payoff.recipes import Effect, Recipe, train_arm
from payoff.trajectories import Channel, StopReason, Trajectories, fresh_ids, place_outcome

KINDS, SEEN, CHANCE = 4, 3, 0.1
JUDGED = (5, 6, 7)
BANDS = {"known": (2, 3), "edge": (4, 5), "hard": (8, 9, 10)}


class Problems:
    """Problems of so many steps, each step of one of four kinds; the truth is that every step is right."""

    def __init__(self, *, depths: Sequence[int], seed: int = 0) -> None:
        self.depths = list(depths)
        rng = torch.Generator().manual_seed(seed + 1000)
        self.judged = [torch.randint(KINDS, (depth,), generator=rng).tolist() for depth in JUDGED for _ in range(100)]

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n problems, their depths drawn evenly from the band."""
        depths = [self.depths[i] for i in torch.randint(len(self.depths), (n,), generator=rng).tolist()]
        return [Start(f"problem-{i}", {"kinds": torch.randint(KINDS, (d,), generator=rng).tolist()}) for i, d in enumerate(depths)]

    def truth(self, traj: Trajectories) -> Channel:
        """1 where every step is right."""
        right = torch.tensor([verified(item["response"]) for item in traj.items], dtype=torch.float64)
        return place_outcome(right, torch.ones(len(traj), dtype=torch.bool), traj)


class Steps(nn.Module):
    """A step is right with log-odds ability[kind] - strain (steps beyond those seen in pre-training); all problems share both."""

    offers: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.ability = nn.Parameter(torch.full((KINDS,), 3.5, dtype=torch.float64))
        self.strain = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def log_odds(self, problems: Sequence[Sequence[int]]) -> Tensor:
        """Of every step of every problem, padded with 0."""
        width = max(map(len, problems))
        kinds = torch.tensor([[*kinds, *[0] * (width - len(kinds))] for kinds in problems])
        return self.ability[kinds] - self.strain * (torch.arange(1, width + 1) - SEEN).clamp(min=0)

    def rollout(self, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n solutions of every problem: 1 for a right step. A wrong one may still end in the right answer, by chance."""
        problems = [start.fields["kinds"] for start in starts for _ in range(n)]
        length = torch.tensor([len(kinds) for kinds in problems])
        odds = self.log_odds(problems).detach()
        exists = torch.arange(odds.shape[1]) < length[:, None]
        right = (torch.rand(odds.shape, generator=rng, dtype=torch.float64) < odds.sigmoid()) & exists
        lucky = (torch.rand(len(problems), generator=rng) < CHANCE).tolist()
        responses = ["".join("x+"[step] for step in row[: len(k)]) for row, k in zip(right.int().tolist(), problems, strict=True)]
        traj = Trajectories(
            mask=exists,
            length=length,
            group=fresh_ids(len(starts)).repeat_interleave(n),
            step=torch.where(exists, torch.arange(odds.shape[1]), -1).int(),
            stop=torch.full_like(length, int(StopReason.finished)),
            actions=right.long(),
            items=[{"kinds": k, "response": r, "lucky": luck} for k, r, luck in zip(problems, responses, lucky, strict=True)],
        )
        with torch.no_grad():
            return traj.replace(logp={"old": self.evaluate(traj).logp})

    def resume(self, traj: Trajectories, rows: Tensor, at: Tensor, n: int, rng: torch.Generator, **how: Any) -> Trajectories:
        """Solutions are not continued in this experiment: ValueError."""
        raise ValueError("solutions are not continued here")

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        """log-probability of every step's being as it is."""
        odds = self.log_odds([item["kinds"] for item in traj.items])[:, : traj.width]
        return Evaluation(torch.where(traj.exists, nn.functional.logsigmoid(torch.where(traj.actions == 1, odds, -odds)), 0), {})


def answered(response: str, lucky: bool) -> float:
    """1 for a right final answer: all steps right, or luck."""
    return float(lucky or verified(response))


def verified(response: str) -> float:
    """1 when every step is right."""
    return float(set(response) == {"+"})


def run(arm: str, seed: int, *, updates: int = 75, learning_rate: float = 0.02) -> Mapping[str, float]:
    """GRPO on one band of depths, judged exactly on another."""
    band = "edge" if arm == "edge-verified" else arm
    task = {"name": "payoff.recipes.interplay_pre_mid_rl:Problems", "seed": seed}
    grader = "verified" if arm == "edge-verified" else "answered"
    file = {
        "task": {**task, "depths": list(BANDS.get(band, JUDGED))},
        "policy": "payoff.recipes.interplay_pre_mid_rl:Steps",
        "reward": {"correct": f"payoff.recipes.interplay_pre_mid_rl:{grader}"},
        "terms": {
            "policy": {
                "paths": {"correct": ["total", "grpo"]},
                "loss": "policy-gradient",
                "aggregation": "sequence-mean-token-sum",
            }
        },
        "train": {"updates": updates, "starts": 16, "rollouts": 8, "learning_rate": learning_rate},
        "evaluate": {"every": 0, "starts": 0},
    }
    policy, problems = (Steps(), Problems(depths=JUDGED, seed=seed)) if arm == "before" else _trained(file, seed)
    return _judged(policy, problems.judged)


def _trained(file: Mapping[str, Any], seed: int) -> tuple[Steps, Problems]:
    trained = train_arm(file, "", seed)
    return trained.policy, trained.task


@torch.no_grad()
def _judged(policy: Steps, problems: Sequence[Sequence[int]]) -> Mapping[str, float]:
    odds = policy.log_odds(problems)
    exists = torch.arange(odds.shape[1]) < torch.tensor([len(kinds) for kinds in problems])[:, None]
    right = torch.where(exists, odds.sigmoid(), 1).prod(1)
    answers = right + CHANCE * (1 - right)
    return {
        "pass1": float(right.mean()),
        "pass32": float((1 - (1 - right) ** 32).mean()),
        "luck": float(((answers - right) / answers).mean()),
    }


RECIPE = Recipe(
    name="interplay-pre-mid-rl",
    claim=(
        "Reinforcement learning extends what a model can do, pass@k included, only where it practises at the edge of its "
        "competence: not on problems it already solves, and not on problems it never solves; rewards for a right process leave "
        "less to luck."
    ),
    paper="arXiv:2512.07783",
    test=(
        "Problems of so many steps, each of one of four kinds. A step is right with the log-odds of its kind, less a strain for "
        "every step beyond the third; what is practised anywhere carries over everywhere. It starts as pre-training on up to three "
        "steps might leave it: 91 % right on three steps, 75 % on four, 28 % on five, 2 % on six, nothing on eight. The final "
        "answer is right when all steps are, and else by chance in one case of ten. GRPO of 16 problems and 8 solutions an update, "
        "on two and three steps, four and five, or eight to ten; judged exactly, by problems of five to seven steps all of whose "
        "steps are right. At first, on seed 99 which is not among those reported, they had four to six and training was twice as "
        "long: 32 tries then solved everything in two of the arms. Not tested: language models, mid-training, and the transfer to "
        "other contexts."
    ),
    arms={
        "before": "no reinforcement learning",
        "known": "problems of two and three steps, paid for the answer",
        "edge": "problems of four and five steps, paid for the answer",
        "hard": "problems of eight to ten steps, paid for the answer",
        "edge-verified": "problems of four and five steps, paid where every step is right",
    },
    measures={
        "pass1": "probability that all steps of a problem are right (exact)",
        "pass32": "probability that 32 solutions contain one with all steps right (exact)",
        "luck": "share of right answers that come from a wrong process (exact)",
    },
    effects=(
        Effect("pass32", "edge", "before", "higher", delta=0.02),
        Effect("pass32", "edge", "known", "higher", delta=0.02),
        Effect("pass32", "edge", "hard", "higher", delta=0.02),
        Effect("luck", "edge-verified", "edge", "lower", delta=0.01),
    ),
    run=run,
    methods=("advantage:grpo", "loss:policy-gradient", "aggregation:sequence-mean-token-sum"),
)
