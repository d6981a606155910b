"""Values of prefixes from continuations, a prover's progress, and the head that learns from such labels."""

import dataclasses
import math

import pytest
import torch

from payoff.advantages.group import leave_one_out
from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.contents import learners
from payoff.credit.returns import immediate, return_to_go, total
from payoff.exact import credit_gradient, exact_gradient
from payoff.models.continuations import (
    CompletionValues,
    PrefixValues,
    ProverProgress,
    best_of_value,
    draws,
    named_reward,
    prefix_values,
    step_labels,
)
from payoff.models.learned_values import LearnedValues
from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.tasks.chain import Chain
from payoff.tasks.tree import Tree
from payoff.train import train
from payoff.trajectories import Channel, outcome, place_outcome, place_steps

TREE = Tree(2, 3, leaf_rewards={"aab": 1.0, "bba": 1.0, "bbb": 1.0})
POLICY = Tabular(2, 3, spread=1.0, seed=4)
LEAVES = TREE.leaves()


def signal(traj):
    worth = torch.tensor([TREE.leaf_rewards.get(item["response"], 0.0) for item in traj.items], dtype=torch.float64)
    return {"correct": place_outcome(worth, torch.ones(len(traj), dtype=torch.bool), traj)}


def exact_values(policy, traj):
    """[N, T+1]: V before each action and, at the end, the outcome."""
    state, alive = policy.tree.states(traj.actions, traj.length)
    return torch.where(alive, policy.state_values(LEAVES).detach()[state], outcome(signal(traj)["correct"], traj)[0][:, None])


@pytest.fixture(scope="module")
def drawn():
    traj = POLICY.sequences()
    return traj, prefix_values(POLICY, signal, traj, n=400, rng=torch.Generator().manual_seed(0))


def test_the_share_of_right_continuations_is_the_value(drawn):
    traj, found = drawn
    truth = exact_values(POLICY, traj)
    error = (truth * (1 - truth) / 400).sqrt()
    assert found.known.all()
    assert (found.value[:, :3] - truth[:, :3]).abs().le(4 * error[:, :3] + 1e-12).all()
    assert torch.equal(found.value[:, 3], truth[:, 3])  # the end is what came out
    assert found.end.nonzero()[:, 1].eq(3).all()


def test_a_group_looks_at_its_start_once(drawn):
    traj, found = drawn
    assert (found.value[:, 0] == found.value[0, 0]).all()
    assert found.drawn == 400 * (1 + 2 * len(traj))


def test_hard_labels_say_whether_any_continuation_is_right_and_soft_ones_how_many():
    sure = torch.ones(1, 4, dtype=torch.bool)
    value, right = torch.tensor([[0.1, 0.0, 0.125, 1.0]]), torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    found = PrefixValues(value, right, torch.full((1, 4), 8.0), sure, ~sure, 0)
    assert step_labels(found, "hard")[0].tolist() == [[0.0, 1.0, 1.0]]
    assert step_labels(found, "soft")[0].tolist() == [[0.0, 0.125, 1.0]]


def test_right_is_what_is_worth_more_than_one_half():
    for worth, right in ((0.5, 0), (0.6, 1)):
        some = lambda traj, w=worth: {"r": place_outcome(torch.full((len(traj),), w), torch.ones(len(traj)) > 0, traj)}
        found = prefix_values(POLICY, some, POLICY.sequences(), n=2, rng=torch.Generator().manual_seed(0))
        assert (found.right == right * found.count).all()
        assert torch.allclose(found.value, torch.full_like(found.value, worth))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_best_of_k_from_n_draws_is_unbiased(k):
    n, p = 6, 0.3
    chance = torch.tensor([math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)], dtype=torch.float64)
    right = torch.arange(n + 1, dtype=torch.float64)
    told = best_of_value(right, torch.full_like(right, n), k)
    assert float(chance @ told) == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_continuations_without_verdict_are_left_out_and_a_step_without_any_is_unknown():
    def half_blind(traj):  # cannot judge what begins with a, nor what ends with a
        known = (traj.actions[:, 0] == 1) & (traj.actions[:, -1] == 1)
        return {"correct": place_outcome(torch.where(known, signal(traj)["correct"].value.sum(1), torch.nan), known, traj)}

    traj = POLICY.sequences()
    found = prefix_values(POLICY, half_blind, traj, n=50, rng=torch.Generator().manual_seed(0))
    assert not found.known[:4, 1:].any()
    assert (found.value[:4, 1:] == 0).all()
    assert (found.value[6:, 2] == 1).all()  # after bb, all that can be judged is bbb
    assert found.known[:, 3].tolist() == [False] * 5 + [True, False, True]
    model = ProverProgress(policy=POLICY, reward=half_blind, best_of=1, n=50)
    paid = model(traj)["progress"]
    assert not paid.valid[:4].any()
    assert (paid.value[~paid.valid.expand(paid.value.shape)] == 0).all()


def exact_progress(prover, traj):
    value = exact_values(prover, traj)
    gain = value[:, 1:] - value[:, :-1]
    return Channel(gain, torch.ones(len(traj), 1, dtype=torch.bool))


@pytest.mark.parametrize("prover", [POLICY.uniform(), Tabular(2, 3, spread=2.0, seed=9)])
def test_progress_paid_as_a_reward_is_a_no_op_and_as_immediate_credit_is_not(prover):
    alpha, truth = 3.0, exact_gradient(POLICY, LEAVES)

    def climbs(credit):
        def weight(traj):
            base = return_to_go(signal(traj)["correct"], traj)
            return base._replace(value=base.value + alpha * credit(exact_progress(prover, traj), traj).value)

        return credit_gradient(POLICY, weight)

    for as_reward in (return_to_go, total):
        assert torch.allclose(climbs(as_reward), (1 + alpha) * truth, atol=1e-12)
    turned = climbs(immediate)
    cosine = torch.nn.functional.cosine_similarity(turned, truth, dim=0)
    assert float(cosine) < 0.999
    assert float(cosine) > 0  # it still leads upwards here


def test_the_policys_own_progress_as_immediate_credit_is_its_own_gradient():
    own = credit_gradient(POLICY, lambda traj: immediate(exact_progress(POLICY, traj), traj))
    assert torch.allclose(own, exact_gradient(POLICY, LEAVES), atol=1e-12)


def test_progress_of_the_model_estimates_the_gain_and_adds_up_to_outcome_less_the_start():
    prover = POLICY.uniform()
    traj = POLICY.sequences()
    found = ProverProgress(policy=prover, reward=signal, best_of=2, n=200)(traj)["progress"]
    value = exact_values(prover, traj)
    value[:, :-1] = 1 - (1 - value[:, :-1]) ** 2
    assert (found.value - (value[:, 1:] - value[:, :-1])).abs().max() < 0.2
    whole = outcome(found, traj)[0]
    own = outcome(signal(traj)["correct"], traj)[0].float()
    assert torch.allclose(own - whole, (own - whole)[0].expand(len(traj)), atol=1e-6)  # the same start


def test_the_same_batch_is_paid_the_same_and_padding_is_not_read():
    policy = Tabular(2, 3, stop=0, spread=1.0)
    traj = policy.rollout([Start("s", {"leaf_rewards": {"b": 1.0}})], 6, torch.Generator().manual_seed(1))
    assert int(traj.length.min()) < 3
    spoiled = dataclasses.replace(
        traj, actions=traj.actions.masked_fill(~traj.exists, 1), logp={"old": traj.logp["old"].masked_fill(~traj.exists, torch.nan)}
    )
    for model in (
        CompletionValues(policy=policy, reward="tree-leaf", n=3),
        ProverProgress(policy=policy, reward="tree-leaf", best_of=2, n=3),
    ):
        one, two = (next(iter(model(t).values())) for t in (traj, spoiled))
        assert torch.equal(one.value, two.value)
        assert (one.value[~traj.exists] == 0).all()
    first = lambda seed, t: float(torch.rand((), generator=draws(seed, t)))
    assert first(0, traj) == first(0, spoiled) != first(1, traj)  # and another seed draws anew


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"pav: best_of must lie in 1..n = 1..8, got 9"):
        ProverProgress(policy=POLICY, reward="tree-leaf", best_of=9)
    with pytest.raises(ValueError, match='completion-values: n must be at least 1 and labels "soft" or "hard", got 0'):
        CompletionValues(policy=POLICY, reward="tree-leaf", n=0)
    with pytest.raises(ValueError, match="there is no function at 'math:cube'"):
        CompletionValues(policy=POLICY, reward="math:cube")
    with pytest.raises(LookupError, match="unknown grader method"):
        named_reward("chain-anser")
    with pytest.raises(ValueError, match="3 continuations say nothing of the best of 4"):
        best_of_value(torch.tensor([1.0]), torch.tensor([3.0]), 4)
    with pytest.raises(ValueError, match="math-shepherd: n, rollouts and batches must be at least 1"):
        LearnedValues(policy=small(), reward="chain-answer", rollouts=0)


# --- the head that learns


def small():
    torch.manual_seed(3)
    made = transformer(width=16, layers=1, heads=2, context=24, max_tokens=6, stop=["."], step_separator=";")
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def low(traj):
    return (traj.actions.gather(1, traj.length[:, None] - 1) < 8)[:, 0]


def last_token_low(traj):
    value = low(traj).float()
    return {"low": place_outcome(value, torch.ones(len(traj), dtype=torch.bool), traj)}


def test_the_head_learns_what_continuations_say_and_stops_when_told():
    policy, rng = small(), torch.Generator().manual_seed(0)
    model = LearnedValues(policy=policy, reward=last_token_low, n=2, batches=1, epochs=40, learning_rate=0.05, labels="soft")
    traj = policy.rollout(Chain(terms=2, held_out=0).starts(4, rng), 16, rng)
    metrics = model.learn(traj, {})
    assert metrics["process/accuracy"] > 0.75
    assert metrics["math-shepherd/continuations"] % 2 == 0
    new = policy.rollout(Chain(terms=2, held_out=0).starts(4, rng), 16, rng)
    last = new.step.amax(1, keepdim=True).long()
    told = model.score(new)[0].gather(1, last)[:, 0] > 0.5
    assert float((told == low(new)).double().mean()) > 0.75
    before = model.head.weight.clone()
    assert model.learn(new, {}) == {"math-shepherd/continuations": 0}
    assert torch.equal(model.head.weight, before)


def run_file(reward):
    """The shipped transformer on short chains; shares and gains are summed up, scores of steps count where they are paid."""
    credit = "return-to-go" if reward["name"] == "spa-rl" else "immediate"
    paths = {"correct": ["total", "rloo"], "process": [credit, {"name": "rloo", "over": "step"}]}
    return {
        "task": {"name": "chain", "terms": 6},
        "policy": {"name": "transformer", "checkpoint": "chain", "max_tokens": 72, "stop": ["."], "step_separator": ";"},
        "reward": {"correct": "chain-answer", "process": reward},
        "terms": {"policy": {"paths": paths, "loss": "ppo-clip"}},
        "train": {"updates": 1, "starts": 1, "rollouts": 6, "learning_rate": 1e-3},
        "evaluate": {"every": 0, "starts": 0},
    }


@pytest.mark.parametrize(
    "reward",
    [
        {"name": "pav", "reward": "chain-answer", "n": 2, "best_of": 2},
        {"name": "math-shepherd", "reward": "chain-answer", "n": 2, "rollouts": 1},
        {"name": "spa-rl"},
    ],
    ids=lambda part: part["name"],
)
def test_a_policy_learns_with_it_in_the_loop(reward):
    parts, settings = build(Loaded(RunFile.model_validate(run_file(reward)), {}, "test", []))
    start = torch.cat([p.detach().flatten().clone() for p in parts.policy.parameters()])
    history = train(parts, settings).history
    assert not torch.equal(torch.cat([p.detach().flatten() for p in parts.policy.parameters()]), start)
    assert "reward/process" in history[-1]
    assert bool(learners([parts.signal])) == (reward["name"] != "pav")


def test_the_channel_of_step_labels_lies_at_the_ends_of_steps():
    traj = POLICY.sequences()
    model = CompletionValues(policy=POLICY, reward=signal, n=1)
    paid = model(traj)["process"].value
    assert torch.equal(paid[:, 2], outcome(signal(traj)["correct"], traj)[0].float())
    assert set(paid.flatten().tolist()) <= {0.0, 1.0}
    merged = Tabular(2, 3, logits=POLICY.logits.detach()[0], step_length=2)
    two = merged.sequences()
    assert (CompletionValues(policy=merged, reward=signal, n=1)(two)["process"].value[:, 0] == 0).all()
    assert place_steps(paid[:, 1:], torch.ones(8, 2, dtype=torch.bool), two).value.shape == (8, 3)


def test_group_statistics_may_follow_the_one_column_of_total():
    traj = POLICY.sequences()
    weight = leave_one_out(total(ProverProgress(policy=POLICY, reward=signal, best_of=1, n=2)(traj)["progress"], traj), traj)
    assert weight.value.shape == (8, 1)
