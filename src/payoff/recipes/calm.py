"""CALM: is pay for subgoals that a judge recognises worth having where the outcome comes late, and how good must the judge be?

payoff reproduce calm
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch

from payoff.advantages.group import grpo
from payoff.credit.returns import total
from payoff.pipeline import weighted_sum
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.turns import ROLLOUTS, SETTING, learn, task
from payoff.signals.subgoals import Transition, judge_quality, reached_subgoals
from payoff.trajectories import Channel, Trajectories

ERRORS = {"exact": (0.0, 0.0), "false-yes": (0.2, 0.0), "false-no": (0.0, 0.2)}  # how often a no is a yes, and a yes a no


class Judge:
    """Whether a turn was the look-up that a subgoal is; it errs as often as it is told, always alike on the same question."""

    def __init__(self, arm: str, seed: int) -> None:
        self.false_yes, self.false_no = ERRORS[arm]
        self.seed = seed
        self.said: list[bool] = []
        self.true: list[bool] = []

    def __call__(self, asked: Sequence[Transition]) -> list[bool]:
        """One verdict for each question."""
        verdicts = []
        for question in asked:
            true = question.action == question.subgoal
            drawn = random.Random(f"{self.seed} {question.item['seed']} {question[:4]}").random()
            verdicts.append(drawn >= self.false_no if true else drawn < self.false_yes)
            self.true.append(true)
        self.said += verdicts
        return verdicts


def run(arm: str, seed: int, *, tokens: int = 20_000) -> Mapping[str, float]:
    """Search in turns by a small transformer that has seen scripted searches; all arms write as many tokens."""
    torch.set_num_threads(1)
    judge = None if arm == "outcome" else Judge(arm, seed)

    def weigh(traj: Trajectories) -> Channel:
        truth = task().truth(traj)
        paid = {"answer": Channel(truth.value.float(), truth.valid)}
        if judge is not None:
            paid |= reached_subgoals(traj, subgoals=lambda item: item["solution"][:-1], judge=judge, of="turns")
        return grpo(total(weighted_sum(paid, dict.fromkeys(paid, 1.0)), traj), traj)

    found = learn(weigh, seed, tokens=tokens)
    f1 = 1.0 if judge is None else judge_quality(torch.tensor(judge.said), torch.tensor(judge.true)).f1
    return {"success": found.success, "over": found.over, "turns": found.turns, "f1": f1}


RECIPE = Recipe(
    name="calm",
    claim=(
        "Where the outcome comes late, an agent that is also paid once for each subgoal that a judge recognises learns faster, and "
        "a judge that errs is good enough."
    ),
    paper="arXiv:2409.12798",
    test=(
        f"{SETTING} {ROLLOUTS} rollouts of a question, GRPO in all arms. The subgoals are the two look-ups that lead to the answer,"
        " each paid 1 when the judge first says that it was reached, as much as the right answer. The judge is a script, exact, or "
        "with an error in one of five questions that should be answered no, or in one of five that should be answered yes. Not "
        "tested: language models as judges and as proposers of subgoals, which is what the paper measures, observations that are "
        "cropped, the potential form, and worlds whose outcome random behaviour never meets."
    ),
    arms={
        "outcome": "1 for the right answer, nothing else",
        "exact": "the outcome, and 1 for each subgoal",
        "false-yes": "the same with a judge that takes one in five other turns for the subgoal",
        "false-no": "the same with a judge that misses one in five subgoals",
    },
    measures={
        "success": "share of right answers in the last quarter of the tokens",
        "over": "share of right answers over all tokens",
        "turns": "turns of a rollout in the last quarter of the tokens",
        "f1": "of the judge, over all questions of the run (1 without a judge)",
    },
    effects=(
        Effect("over", "exact", "outcome", "higher", delta=0.03),
        Effect("over", "false-yes", "outcome", "not lower", delta=0.03),
        Effect("over", "false-no", "outcome", "not lower", delta=0.03),
    ),
    run=run,
    methods=("signal:calm", "advantage:grpo", "credit:total", "loss:ppo-clip", "task:turns-search"),
)
