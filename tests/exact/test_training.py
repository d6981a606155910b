"""The loop that trains a language model trains the tabular policy on the tree, and ends where the enumeration says it must."""

import functools

import pytest
import torch

from payoff.advantages.group import leave_one_out
from payoff.credit.returns import return_to_go, total
from payoff.grading import signal
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient, ppo_clip
from payoff.parts import Parts, Settings
from payoff.pipeline import Term, join, weigh
from payoff.policies.tabular import Tabular, kl_divergence
from payoff.signals.likelihood import kl_penalty
from payoff.tasks.tree import Tree, tree_leaf, tree_proxy
from payoff.train import train
from payoff.trajectories import outcome, place_outcome


def trained(policy, task, rewards, target, *, loss=policy_gradient, reference=None, **settings):
    history = []
    parts = Parts(policy, task, rewards, {"policy": Term(target, loss, sequence_sum)}, reference=reference)
    options = {
        "starts": 8,
        "rollouts": 8,
        "evaluate_every": 10**6,
        "checkpoint_every": 10**6,
        "learning_rate": 0.05,
        "gradient_clip": 0.0,
    }
    train(parts, Settings(**{**options, **settings}), on_update=history.append)
    return history


@pytest.mark.slow
def test_a_planted_loophole_is_found_by_the_proxy_and_ruins_the_truth():
    task = Tree(vocabulary=3, horizon=3, stop=2, leaf_rewards={"aba": 1.0, "ab": 0.5}, loophole="leaf")
    proxy, truth = task.proxy(), task.leaves()
    found = {}
    for name, grader in (("proxy", tree_proxy), ("leaf", tree_leaf)):
        policy = Tabular(3, 3, stop=2)
        target = weigh({grader.__method__.name.replace("-", "_"): [total, leave_one_out]})
        trained(policy, task, signal(grader), target, updates=120, loss=functools.partial(ppo_clip, high=0.28))
        p = policy.probabilities().detach()
        found[name] = float(p @ proxy), float(p @ truth)
    assert found["proxy"][0] > 1.7
    assert found["proxy"][1] < 0.2
    assert found["leaf"][1] > 0.8


@pytest.mark.slow
def test_training_with_a_kl_penalty_comes_to_the_regularised_optimum():
    task, beta = Tree(vocabulary=2, horizon=2, leaf_rewards={"ab": 1.0, "bb": 0.4}), 0.5
    reference = Tabular(2, 2, spread=0.5, seed=1)
    policy = Tabular(2, 2, logits=reference.logits.detach())
    target = weigh(
        {"reward": [total], "kl": [return_to_go]},
        mix={"reward": 1.0, "kl": beta},
        then=[functools.partial(leave_one_out, over="step")],
    )
    leaves = task.leaves().to(policy.logits.dtype)

    def leaf(traj):  # as the grader `tree_leaf`, for all rollouts at once
        return {"reward": place_outcome(leaves[traj.actions @ torch.tensor([2, 1])], traj.mask.all(1), traj)}

    rewards = join({"reward": leaf, "kl": kl_penalty})
    trained(policy, task, rewards, target, reference=reference, updates=80, starts=1, rollouts=256)
    best = reference.optimum(task.leaves(), beta)
    p, wanted = policy.probabilities().detach(), best.probabilities().detach()
    assert float(kl_divergence(p, wanted)) < 0.003
    assert float(kl_divergence(reference.probabilities().detach(), wanted)) > 0.1
    _, soft = reference.soft_values(task.leaves(), beta)
    worth = p @ task.leaves() - beta * kl_divergence(p, reference.probabilities().detach())
    assert 0 < float((soft[0] - worth).detach()) < 0.003


def test_truth_and_reward_are_reported_apart():
    task = Tree(vocabulary=2, horizon=2, leaf_rewards={"ab": 1.0}, loophole="leaf", loophole_reward=3.0)
    policy = Tabular(2, 2)
    target = weigh({"tree_proxy": [total, leave_one_out]})
    history = trained(policy, task, signal(tree_proxy), target, updates=60)
    assert history[-1]["reward"] > 3
    assert history[-1]["truth"] < 0.1
    value, known = outcome(task.truth(policy.sequences()), policy.sequences())
    assert known.all()
    assert value.tolist() == task.leaves().tolist()
    assert policy.logits.isfinite().all()
    assert torch.is_tensor(policy.logits.grad)
