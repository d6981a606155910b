"""RIF-RFT: does learning from one's own rollouts forget less than learning from labels, and does it with fewer prompts?

payoff reproduce rif-rft
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from payoff.advantages.group import grpo
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Evaluation, Start, everywhere
from payoff.recipes import Effect, Recipe
from payoff.sampling.instance_filter import InstanceFilter
from payoff.trajectories import Channel, StopReason, Trajectories, fresh_ids, place_outcome

TASKS, INSTANCES, CLASSES, SIZE, BEFORE, ENOUGH = 5, 30, 6, 16, 0.4, 0.65


class Labels:
    """One task of the sequence: random inputs, each with one right class."""

    def __init__(self, number: int, rng: torch.Generator) -> None:
        self.number = number
        self.inputs = torch.randn(INSTANCES, SIZE, generator=rng)
        self.labels = torch.randint(CLASSES, (INSTANCES,), generator=rng)

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n instances drawn evenly."""
        drawn = torch.randint(INSTANCES, (n,), generator=rng).tolist()
        return [Start(f"{self.number}-{i}", {"input": self.inputs[i], "label": int(self.labels[i])}) for i in drawn]

    def truth(self, traj: Trajectories) -> Channel:
        """1 for the right class."""
        right = traj.actions[:, 0] == torch.tensor([item["label"] for item in traj.items])
        return place_outcome(right.float(), torch.ones(len(traj), dtype=torch.bool), traj)

    @torch.no_grad()
    def score(self, policy: Network) -> float:
        """The exact probability of the right class, averaged over the instances."""
        return float(policy.layers(self.inputs).softmax(1).gather(1, self.labels[:, None]).mean())


class Network(nn.Module):
    """A small network that all tasks share; one action, the class."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(SIZE, 64), nn.Tanh(), nn.Linear(64, CLASSES))

    def rollout(self, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n classes for every input."""
        inputs = torch.stack([start.fields["input"] for start in starts])
        drawn = torch.multinomial(self.layers(inputs).detach().softmax(1), n, replacement=True, generator=rng)
        return self.acted(starts, drawn)

    def acted(self, starts: Sequence[Start], actions: Tensor) -> Trajectories:
        """These classes as rollouts, one group a start."""
        flat = actions.reshape(-1)
        one = torch.ones_like(flat)
        return Trajectories(
            mask=one[:, None] > 0,
            length=one,
            group=fresh_ids(len(starts)).repeat_interleave(actions.shape[1]),
            step=torch.zeros(len(flat), 1, dtype=torch.int32),
            stop=one * int(StopReason.finished),
            actions=flat[:, None],
            items=[{**start.fields, "start": start.id} for start in starts for _ in range(actions.shape[1])],
        )

    def evaluate(self, traj: Trajectories) -> Evaluation:
        """log-probability of every class that was chosen."""
        rows = self.layers(torch.stack([item["input"] for item in traj.items])).log_softmax(1)
        return Evaluation(rows.gather(1, traj.actions), {})


def run(arm: str, seed: int, *, updates: int = 100, learning_rate: float = 0.003) -> Mapping[str, float]:
    """Five tasks one after another, each until it is known well enough (or for `updates` updates); then all are judged."""
    rng = torch.Generator().manual_seed(seed)
    policy, tasks = Network(seed), [Labels(k, rng) for k in range(TASKS)]
    _pretrain(policy, tasks)
    scores, used = torch.zeros(TASKS, TASKS, dtype=torch.float64), 0
    for k, task in enumerate(tasks):
        used += _learn(arm, policy, task, rng, updates, learning_rate)
        scores[k] = torch.tensor([other.score(policy) for other in tasks], dtype=torch.float64)
    kept = scores[-1, :-1] - scores.diagonal()[:-1]
    return {"forgetting": float(kept.mean()), "new": float(scores.diagonal().mean()), "prompts": used / (TASKS * INSTANCES)}


def _pretrain(policy: Network, tasks: Sequence[Labels]) -> None:
    """Some knowledge of every task to begin with: all labels together, until the mean accuracy is `BEFORE`."""
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.003)
    inputs, labels = torch.cat([task.inputs for task in tasks]), torch.cat([task.labels for task in tasks])
    while sum(task.score(policy) for task in tasks) < BEFORE * TASKS:
        optimiser.zero_grad()
        nn.functional.cross_entropy(policy.layers(inputs), labels).backward()
        optimiser.step()


def _learn(arm: str, policy: Network, task: Labels, rng: torch.Generator, updates: int, learning_rate: float) -> int:
    """Train on one task; how many of its instances were learned from."""
    optimiser = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    curriculum = InstanceFilter(trials=8) if arm == "filtered" else None
    taught: set[str] = set()
    for _ in range(updates):
        if task.score(policy) >= ENOUGH:
            break
        starts = task.starts(16, rng) if curriculum is None else curriculum(task, 16, rng)
        if arm == "labels":
            traj = policy.acted(starts, torch.tensor([[start.fields["label"]] for start in starts]))
            target = everywhere({}, traj)
        else:
            traj = policy.rollout(starts, 8, rng)
            reward = task.truth(traj)
            target = grpo(reward, traj)
            if curriculum is not None:
                curriculum.learn(traj, {"correct": reward})
        terms = policy_gradient(policy.evaluate(traj), traj, target).terms
        taught |= {item["start"] for item, weight in zip(traj.items, target.value[:, 0].tolist(), strict=True) if weight}
        optimiser.zero_grad()
        (terms * sequence_sum(target, traj)).sum().backward()
        optimiser.step()
    return len(taught)


RECIPE = Recipe(
    name="rif-rft",
    claim=(
        "Trained on one task after another, a policy that learns from its own rollouts forgets less than one that learns from "
        "labels, at the same score on the new task; leaving out what none of its rollouts solves keeps that, with fewer prompts."
    ),
    paper="arXiv:2507.05386",
    test=(
        f"{TASKS} tasks of {INSTANCES} random inputs with one of {CLASSES} classes each, one small network for all, nothing shared "
        f"between tasks but its weights. It begins with an accuracy of {BEFORE:g}, learned from all labels. Each task is trained "
        f"until the expected accuracy is {ENOUGH:g}, with a new Adam of the same learning rate: by cross-entropy on the labels, or "
        "by GRPO of 16 inputs and 8 rollouts an update. The accuracies are exact; an arm that never gets there has `updates` "
        "updates a task. Forgetting is the mean change of an earlier task's accuracy from the end of its own training to the end "
        "of all. Not tested: language models, chains of thought, a KL penalty, and drift on general benchmarks."
    ),
    arms={
        "labels": "supervised: the label of each of 16 inputs an update",
        "rollouts": "GRPO on all inputs",
        "filtered": "GRPO without the inputs of which the first 8 rollouts all failed",
    },
    measures={
        "forgetting": "mean change in accuracy of the earlier tasks, 0 where nothing is forgotten (exact)",
        "new": "mean accuracy on each task right after its training (exact)",
        "prompts": "share of the inputs that ever had a weight in an update",
    },
    effects=(
        Effect("forgetting", "rollouts", "labels", "higher", delta=0.05),
        Effect("forgetting", "filtered", "rollouts", "not lower", delta=0.05),
        Effect("new", "filtered", "rollouts", "not lower", delta=0.05),
        Effect("prompts", "filtered", "rollouts", "lower", delta=0.05),
    ),
    run=run,
    methods=("curriculum:rif-rft", "advantage:grpo", "loss:policy-gradient"),
)
