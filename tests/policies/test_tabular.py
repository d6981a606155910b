"""The tabular policy: sampling agrees with the enumeration, and every enumerated quantity with a brute-force one."""

import itertools
import math

import pytest
import torch

from payoff.pipeline import Policy, Start
from payoff.policies.tabular import Tabular, kl_divergence
from payoff.trajectories import StopReason

F64 = torch.float64
SHAPES = [(2, 3, None), (3, 3, None), (3, 3, 2), (3, 2, 0), (2, 4, 1), (4, 1, 1), (1, 2, None)]


def scalar(x: torch.Tensor) -> float:
    return x.detach().item()


def rewards_of(policy: Tabular, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(policy.tree), generator=torch.Generator().manual_seed(seed), dtype=F64)


def by_hand(policy: Tabular) -> dict[tuple[int, ...], float]:
    """Every complete sequence and its probability, by walking the tree with Python numbers only."""
    tree, rows = policy.tree, policy.logits[0].softmax(1).tolist()
    inner = [a for a in range(tree.vocabulary) if a != tree.stop]
    names = [p for d in range(tree.horizon) for p in itertools.product(inner, repeat=d)]
    number = {prefix: i for i, prefix in enumerate(names)}
    found: dict[tuple[int, ...], float] = {}

    def walk(prefix: tuple[int, ...], p: float) -> None:
        for a in range(tree.vocabulary):
            longer, q = (*prefix, a), p * rows[number[prefix]][a]
            if a == tree.stop or len(longer) == tree.horizon:
                found[longer] = q
            else:
                walk(longer, q)

    walk((), 1.0)
    return found


@pytest.mark.parametrize(("vocabulary", "horizon", "stop"), SHAPES)
def test_sequences_and_probabilities_are_those_of_a_walk_through_the_tree(vocabulary, horizon, stop):
    policy = Tabular(vocabulary, horizon, stop=stop, spread=1.5, seed=3)
    traj, expected = policy.sequences().check(), by_hand(policy)
    listed = [tuple(row[:n]) for row, n in zip(traj.actions.tolist(), traj.length.tolist())]
    assert listed == sorted(expected)
    torch.testing.assert_close(policy.probabilities(), torch.tensor([expected[s] for s in listed], dtype=F64), rtol=0, atol=1e-15)
    assert abs(scalar(policy.probabilities().sum()) - 1) < 1e-14
    assert (traj.stop == StopReason.finished).all()
    assert traj.extras["leaf"].tolist() == list(range(len(listed)))


def test_recorded_log_probabilities_are_those_of_evaluate_and_counts_follow_them():
    policy = Tabular(3, 3, stop=2, spread=1.0, seed=1)
    rng = torch.Generator().manual_seed(0)
    traj = policy.rollout([Start("only", {"prompt": "go"})], 20_000, rng).check()
    torch.testing.assert_close(policy.evaluate(traj).logp, traj.logp["old"], rtol=0, atol=1e-14)
    listed = {tuple(r[:n]): i for i, (r, n) in enumerate(zip(policy.tree.actions.tolist(), policy.tree.length.tolist()))}
    seen = torch.tensor([listed[tuple(r[:n])] for r, n in zip(traj.actions.tolist(), traj.length.tolist())])
    p = policy.probabilities().detach()
    shares = torch.bincount(seen, minlength=len(p)).double() / len(seen)
    # four standard deviations of a share, for each of the 11 sequences
    assert ((shares - p).abs() < 4 * (p * (1 - p) / len(seen)).sqrt() + 1e-4).all()


def test_rollouts_form_one_group_per_start_and_repeat_with_the_generator():
    policy = Tabular(3, 2, starts=2, spread=1.0)
    starts = [Start("x", {"table": 0, "prompt": "zero"}), Start("y", {"table": 1, "prompt": "one"})]
    first = policy.rollout(starts, 3, torch.Generator().manual_seed(5))
    again = policy.rollout(starts, 3, torch.Generator().manual_seed(5))
    assert torch.equal(first.actions, again.actions)
    assert first.extras["table"].tolist() == [0, 0, 0, 1, 1, 1]
    assert first.group[:3].unique().numel() == first.group[3:].unique().numel() == 1
    assert first.group[0] != first.group[3]
    assert [item["start"] for item in first.items] == ["x"] * 3 + ["y"] * 3
    assert len(set(first.id.tolist()) & set(again.id.tolist())) == 0


def test_items_carry_text_tokens_and_steps():
    policy = Tabular(3, 3, stop=1, step_length=2)
    items = policy.sequences().items
    found = {item["response"]: (item["tokens"], item["steps"]) for item in items}
    assert found["ac"] == (["a", "c", "b"], ["ac", "b"])  # stopped after two
    assert found[""] == (["b"], ["b"])
    assert found["aca"] == (["a", "c", "a"], ["ac", "a"])
    assert len(found) == len(items)


def test_it_is_a_policy_with_the_offers_it_names():
    policy: Policy = Tabular(3, 2, critic=True, spread=1.0)
    assert policy.offers == {"entropy", "mean_logp", "sum_pi_squared", "logits", "values"}
    traj = policy.sequences()
    more = policy.evaluate(traj, policy.offers).more
    rows = policy.logits[0].log_softmax(1)
    prefix = policy.prefixes(traj)
    torch.testing.assert_close(more["logits"], rows[prefix])
    torch.testing.assert_close(more["entropy"], torch.distributions.Categorical(logits=rows).entropy()[prefix])
    torch.testing.assert_close(more["mean_logp"], rows.mean(1)[prefix])
    torch.testing.assert_close(more["sum_pi_squared"], rows.softmax(1).square().sum(1)[prefix])
    assert more["values"].shape == (9, 3)
    with pytest.raises(ValueError, match="offers"):
        Tabular(3, 2).evaluate(traj, frozenset({"values"}))


def test_values_are_read_at_the_prefix_and_zero_at_the_end():
    policy = Tabular(2, 2, critic=True)
    with torch.no_grad():
        policy.critic[:] = torch.tensor([[1.0, 2.0, 3.0]])
    values = policy.evaluate(policy.sequences(), frozenset({"values"})).more["values"]
    assert values.tolist() == [[1, 2, 0], [1, 2, 0], [1, 3, 0], [1, 3, 0]]


def test_what_lies_beyond_the_end_is_never_read():
    policy = Tabular(3, 3, stop=2, spread=1.0, critic=True)
    traj = policy.sequences()
    junk = traj.replace(actions=torch.where(traj.exists, traj.actions, 99))
    for name in ("entropy", "values"):
        want = frozenset({name})
        assert torch.equal(policy.evaluate(traj, want).more[name], policy.evaluate(junk, want).more[name])
    assert torch.equal(policy.evaluate(traj).logp, policy.evaluate(junk).logp)
    narrow = traj.select((traj.length == 1).nonzero()[:, 0])
    torch.testing.assert_close(policy.evaluate(narrow).logp[:, 0], policy.logits[0, 0].log_softmax(0)[2:])


# --- resume


def test_resume_keeps_the_prefix_and_continues_in_proportion_to_the_policy():
    policy = Tabular(3, 3, spread=1.0, seed=2)
    traj = policy.sequences()
    rows, at = torch.tensor([5, 20]), torch.tensor([1, 2])
    branch = policy.resume(traj, rows, at, 4000, torch.Generator().manual_seed(0)).check()
    assert branch.parent.tolist() == traj.id[rows].repeat_interleave(4000).tolist()
    assert branch.group.unique().tolist() == traj.group[:1].tolist()
    assert (branch.actions[:4000, 0] == traj.actions[5, 0]).all()
    assert (branch.actions[4000:, :2] == traj.actions[20, :2]).all()
    torch.testing.assert_close(branch.logp["old"], policy.evaluate(branch).logp.detach(), rtol=0, atol=1e-14)
    assert branch.own[:4000, 0].logical_not().all()
    assert branch.own[:4000, 1:].all()
    p = policy.logits[0, policy.prefixes(traj)[20, 2]].softmax(0)
    shares = torch.bincount(branch.actions[4000:, 2], minlength=3) / 4000
    assert ((shares - p).abs() < 4 * (p * (1 - p) / 4000).sqrt()).all()


def test_resume_with_a_horizon_is_truncated_and_can_be_taken_up_again():
    policy = Tabular(2, 3, spread=1.0, critic=True)
    with torch.no_grad():
        policy.critic += torch.arange(1.0, 8.0)
    traj, rng = policy.sequences(), torch.Generator().manual_seed(0)
    one = policy.resume(traj, torch.tensor([0]), torch.tensor([1]), 5, rng, horizon=1)
    assert one.length.tolist() == [2] * 5
    assert (one.stop == StopReason.truncated).all()
    # the state it was cut off in has a value, the critic's at that prefix
    number = policy.tree.states(one.actions, one.length)[0][:, 2]
    values = policy.evaluate(one, frozenset({"values"})).more["values"]
    assert torch.equal(values[:, 2], policy.critic[0, number])
    on = policy.resume(one, torch.arange(5), torch.full((5,), 2), 1, rng)
    assert on.length.tolist() == [3] * 5
    assert (on.stop == StopReason.finished).all()
    assert torch.equal(on.actions[:, :2], one.actions)


def test_resume_without_noise_takes_the_likeliest_actions_and_acts_nowhere_new():
    policy = Tabular(3, 4, spread=1.0, seed=4)
    traj, rng = policy.sequences(), torch.Generator().manual_seed(0)
    greedy = policy.resume(traj, torch.tensor([7]), torch.tensor([1]), 2, rng, noisy=0).check()
    assert torch.equal(greedy.actions[0], greedy.actions[1])
    assert greedy.mask.tolist() == [[True, False, False, False]] * 2
    rows = policy.logits[0].log_softmax(1)[policy.prefixes(greedy)[0]]
    assert torch.equal(rows[1:].argmax(1), greedy.actions[0, 1:])
    once = policy.resume(traj, torch.tensor([7]), torch.tensor([1]), 50, rng, noisy=1)
    assert once.own.tolist() == [[False, True, False, False]] * 50
    assert once.actions[:, 1].unique().numel() == 3


def test_resume_refuses_what_has_ended():
    policy = Tabular(3, 3, stop=2)
    traj, rng = policy.sequences(), torch.Generator().manual_seed(0)
    stopped = int((traj.length == 1).nonzero()[0, 0])
    for row, at in ((stopped, 1), (0, 3), (0, 4), (0, -1)):
        with pytest.raises(ValueError, match="cannot be continued"):
            policy.resume(traj, torch.tensor([row]), torch.tensor([at]), 1, rng)
    with pytest.raises(ValueError, match="horizon"):
        policy.resume(traj, torch.tensor([0]), torch.tensor([0]), 1, rng, horizon=0)


# --- values, enumerated


def conditional_mean(policy: Tabular, to_go: torch.Tensor, traj, prefix: list[int]) -> float:
    """E[to_go at len(prefix) - 1 | the sequence begins with prefix], by selecting sequences."""
    d = len(prefix)
    hit = ((traj.actions[:, :d] == torch.tensor(prefix)) & traj.exists[:, :d]).all(1)
    p = policy.probabilities().detach()[hit]
    return scalar((p * to_go[hit, d - 1]).sum() / p.sum())


@pytest.mark.parametrize("stop", [None, 2])
@pytest.mark.parametrize("dense", [False, True])
def test_q_is_the_conditional_mean_of_the_reward_to_go(stop, dense):
    policy = Tabular(3, 3, stop=stop, spread=1.0, seed=6)
    traj = policy.sequences()
    reward = torch.randn(len(traj), 3, generator=torch.Generator().manual_seed(1), dtype=F64) if dense else rewards_of(policy)
    to_go = (
        torch.stack([torch.where(traj.exists, reward, 0)[:, t:].sum(1) for t in range(3)], 1)
        if dense
        else reward[:, None].expand(-1, 3)
    )
    q = policy.q_values(reward)
    prefix = policy.prefixes(traj)
    for row, t in traj.exists.nonzero().tolist():
        path = traj.actions[row, : t + 1].tolist()
        assert abs(scalar(q[prefix[row, t], path[-1]]) - conditional_mean(policy, to_go, traj, path)) < 1e-12
    v = policy.state_values(reward)
    total = to_go[:, 0]
    assert abs(scalar(v[0]) - scalar((policy.probabilities() * total).sum())) < 1e-12


def test_q_is_right_where_the_policy_never_goes():
    logits = torch.zeros(3, 2, dtype=F64)
    logits[0, 1] = -torch.inf  # "b" is forbidden at first
    policy = Tabular(2, 2, logits=logits)
    reward = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=F64)
    assert policy.q_values(reward).tolist() == [[0.5, 3.0], [0.0, 1.0], [2.0, 4.0]]
    (policy.probabilities() * reward).sum().backward()
    assert policy.logits.grad.isfinite().all()
    assert policy.logits.grad[0, 0].abs().max() == 0
    assert policy.evaluate(policy.sequences(), frozenset({"entropy"})).more["entropy"][0, 0] == 0


def test_the_uniform_policy_weighs_actions_and_not_sequences():
    policy = Tabular(2, 2, stop=1, spread=1.0).uniform()
    # "a a", "a stop", "stop": 1/4, 1/4, 1/2
    assert policy.probabilities().tolist() == [0.25, 0.25, 0.5]


def test_occupancy_is_the_probability_of_the_prefix():
    policy = Tabular(3, 3, stop=1, spread=1.0)
    mu, rows = policy.occupancy(), policy.logits[0].softmax(1)
    assert abs(scalar(mu[0]) - 1) < 1e-14
    # number 5 is "ca": first c (2), then a (0)
    torch.testing.assert_close(mu[5], rows[0, 2] * rows[2, 0])


def test_the_gradient_of_the_expected_reward_is_the_policy_gradient_theorem():
    policy = Tabular(3, 3, stop=0, spread=1.0)
    reward = rewards_of(policy)
    (policy.probabilities() * reward).sum().backward()
    pi, q, v = policy.logits[0].softmax(1), policy.q_values(reward), policy.state_values(reward)
    theorem = policy.occupancy()[:, None] * pi * (q - v[:, None])
    torch.testing.assert_close(policy.logits.grad[0], theorem.detach(), rtol=0, atol=1e-14)


# --- optima


@pytest.mark.parametrize("beta", [0.05, 0.7, 10.0])
@pytest.mark.parametrize("stop", [None, 1])
def test_the_regularised_optimum_is_the_tilted_distribution_and_its_value_the_soft_value(beta, stop):
    policy = Tabular(3, 3, stop=stop, spread=1.0)
    reward, p = rewards_of(policy), policy.probabilities().detach()
    tilted = (p.log() + reward / beta).softmax(0)
    best = policy.optimum(reward, beta)
    torch.testing.assert_close(best.probabilities().detach(), tilted, rtol=1e-10, atol=1e-14)
    _, v = policy.soft_values(reward, beta)
    worth = scalar((tilted * reward).sum() - beta * kl_divergence(tilted, p))
    assert abs(scalar(v[0]) - worth) < 1e-10
    assert abs(scalar(v[0]) - beta * scalar((p * (reward / beta).exp()).sum().log())) < 1e-10


def test_soft_values_satisfy_the_soft_bellman_equation_with_dense_rewards():
    policy, beta = Tabular(2, 3, spread=1.0, seed=2), 0.5
    traj = policy.sequences()
    paid = torch.randn(policy.tree.prefix_count, 2, generator=torch.Generator().manual_seed(4), dtype=F64)
    prefix = policy.prefixes(traj)
    q, v = policy.soft_values(paid[prefix, traj.actions], beta)
    after = torch.cat([v, torch.zeros(1, dtype=F64)])
    for number, (depth, code) in enumerate((d, c) for d in range(3) for c in range(2**d)):
        for a in range(2):
            child = sum(2**d for d in range(depth + 1)) + code * 2 + a if depth < 2 else -1
            assert abs(scalar(q[number, a] - paid[number, a] - after[child])) < 1e-12
    best = policy.optimum(paid[prefix, traj.actions], beta)
    total = paid[prefix, traj.actions].sum(1)
    torch.testing.assert_close(best.probabilities(), (policy.probabilities().log() + total / beta).softmax(0))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_best_of_n_is_what_drawing_every_tuple_gives_with_ties_shared(n):
    policy = Tabular(2, 2, spread=1.0)
    reward, p = torch.tensor([1.0, 0.0, 1.0, 2.0], dtype=F64), policy.probabilities().tolist()
    expected = [0.0] * 4
    for drawn in itertools.product(range(4), repeat=n):
        top = max(scalar(reward[i]) for i in drawn)
        winners = [i for i in drawn if scalar(reward[i]) == top]
        for i in winners:
            expected[i] += math.prod(p[j] for j in drawn) / len(winners)
    torch.testing.assert_close(policy.best_of_n(reward, n), torch.tensor(expected, dtype=F64), rtol=0, atol=1e-14)


def test_the_kl_of_best_of_n_approaches_its_formula_only_without_ties_and_rare_levels():
    # 64 equally likely sequences, all rewards different: KL(best of n) is near log n - (n - 1) / n, and below it
    policy = Tabular(2, 6)
    p = policy.probabilities().detach()
    known = math.log(4) - 3 / 4
    exact = scalar(kl_divergence(policy.best_of_n(torch.arange(64, dtype=F64), 4).detach(), p))
    assert known - 0.02 < exact < known
    tied = scalar(kl_divergence(policy.best_of_n((torch.arange(64) >= 48).double(), 4).detach(), p))
    a = 1 - 0.75**4  # two levels: a two-point distribution (a, 1 - a) against (1/4, 3/4)
    assert abs(tied - (a * math.log(a / 0.25) + (1 - a) * math.log((1 - a) / 0.75))) < 1e-12


def test_best_of_n_is_differentiable_and_defined_for_a_level_without_mass():
    logits = torch.zeros(1, 3, dtype=F64)
    logits[0, 2] = -torch.inf
    policy = Tabular(3, 1, logits=logits)
    found = policy.best_of_n(torch.tensor([0.0, 1.0, 2.0], dtype=F64), 2)
    torch.testing.assert_close(found, torch.tensor([0.25, 0.75, 0.0], dtype=F64))
    found[1].backward()
    assert policy.logits.grad.isfinite().all()
    assert policy.logits.grad[0, 0, 1] > 0


def test_for_binary_rewards_best_of_n_is_a_regularised_optimum():
    # both lie in the family pi(right) * c_1, pi(wrong) * c_0: exp(1 / beta) = a (1 - p) / (p (1 - a)), a = 1 - (1 - p)^n
    policy = Tabular(3, 2, spread=1.0)
    reward = torch.tensor([0, 1, 0, 0, 0, 1, 0, 0, 0], dtype=F64)
    p = scalar((policy.probabilities() * reward).sum())
    a = 1 - (1 - p) ** 4
    beta = 1 / math.log(a * (1 - p) / (p * (1 - a)))
    torch.testing.assert_close(policy.optimum(reward, beta).probabilities(), policy.best_of_n(reward, 4), rtol=0, atol=1e-13)


def test_matching_makes_a_policy_of_any_distribution():
    policy = Tabular(3, 3, stop=1)
    p = torch.rand(len(policy.tree), generator=torch.Generator().manual_seed(0), dtype=F64)
    p = p * (torch.arange(len(p)) % 3 > 0)  # some sequences never
    p = p / p.sum()
    torch.testing.assert_close(policy.matching(p).probabilities().detach(), p, rtol=0, atol=1e-14)


def test_kl_divergence_is_infinite_off_the_support_and_zero_to_itself():
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    assert kl_divergence(p, q) == torch.inf
    assert kl_divergence(q, p) == torch.tensor(2.0).log()
    assert kl_divergence(p, p) == 0


# --- mistakes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"starts": 0}, "starts must be at least 1, got 0"),
        ({"step_length": 0}, "step_length must be at least 1, got 0"),
        ({"vocabulary": 10, "horizon": 9}, "too many to list"),
        ({"vocabulary": 2, "horizon": 2, "logits": torch.zeros(4, 2)}, "logits must be"),
    ],
)
def test_impossible_policies_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Tabular(**options)


def test_a_start_without_a_table_and_a_reward_of_another_shape_are_refused():
    policy = Tabular(2, 2, starts=2)
    with pytest.raises(ValueError, match="tables for starts 0 to 1, not for 2"):
        policy.rollout([Start("x", {"table": 2})], 1, torch.Generator())
    with pytest.raises(ValueError, match="reward must be"):
        policy.q_values(torch.zeros(3, dtype=F64))
    with pytest.raises(ValueError, match="n must be at least 1"):
        policy.best_of_n(torch.zeros(4, dtype=F64), 0)
    with pytest.raises(ValueError, match="beta must be > 0"):
        policy.soft_values(torch.zeros(4, dtype=F64), 0.0)


def test_the_state_holds_the_tables_and_nothing_of_the_tree():
    policy = Tabular(2, 2, critic=True, spread=1.0)
    assert set(policy.state_dict()) == {"logits", "critic"}
    other = Tabular(2, 2, critic=True)
    other.load_state_dict(policy.state_dict())
    assert torch.equal(other.probabilities(), policy.probabilities())


def test_in_single_precision_everything_stays_single():
    policy = Tabular(2, 2, spread=1.0, dtype="float32")
    assert policy.probabilities().dtype == torch.float32
    assert policy.rollout([Start("x", {})], 2, torch.Generator()).logp["old"].dtype == torch.float32
