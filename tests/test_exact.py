"""The harness itself: what it enumerates at once is what drawing every batch one by one and differentiating it gives."""

import itertools

import pytest
import torch

from payoff.enumeration import alone, batches, every_sequence, paid, scored
from payoff.exact import bias, compare, credit_gradient, exact_gradient, expected_gradient, gradient_covariance
from payoff.pipeline import LossOutput, Term
from payoff.policies.tabular import Tabular
from payoff.sets import rank, sets, statistics
from payoff.trajectories import Channel, Pairs, constant, outcome, place_outcome

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# --- small terms of our own, so that these tests rest on no method


def raw(rewards, traj):
    return constant(*outcome(rewards["reward"], traj))


def centred(rewards, traj):
    value, known = outcome(rewards["reward"], traj)
    found = statistics(value, sets(traj, "group")[:, 0], known)
    return constant(torch.where(found.std > 0, (value - found.mean) / (found.std + 0.1), 0), known)


def centred_over_batch(rewards, traj):
    value, known = outcome(rewards["reward"], traj)
    return constant(value - statistics(value, sets(traj, "batch")[:, 0], known).mean, known)


def centred_over_everything(rewards, traj):
    value, known = outcome(rewards["reward"], traj)
    return constant(value - value.mean(), known)


def likelihood(now, traj, target):
    return LossOutput(torch.where(traj.own, -target.value * now.logp, 0), {})


def likelihood_and_entropy(now, traj, target):
    return LossOutput(torch.where(traj.own, -target.value * now.logp - 0.3 * now.more["entropy"], 0), {})


likelihood_and_entropy.needs = frozenset({"entropy"})


def per_token(target, traj):
    return torch.where(traj.own, 1 / traj.own.sum().double(), 0)


def per_row(target, traj):
    return torch.full((len(traj), 1), 1 / len(traj), dtype=F64).expand(traj.mask.shape)


def every_pair(rewards, traj):
    """Each ordered pair of a group with different rewards, the better one first."""
    value, _ = outcome(rewards["reward"], traj)
    same = traj.group[:, None] == traj.group[None]
    index = (same & (value[:, None] > value[None])).nonzero().flip(0)  # pairs may come in any order
    return Pairs(index, torch.ones(len(index), dtype=F64), value[index[:, 0]] - value[index[:, 1]])


def logistic(now, traj, pairs):
    score = now.logp.sum(1)
    return LossOutput(torch.nn.functional.softplus(score[pairs.index[:, 1]] - score[pairs.index[:, 0]]), {})


def per_pair(pairs, traj):
    return pairs.weight / pairs.weight.sum()


def one_by_one(policy, terms, tables, sizes, starts, reward):
    """(probability, gradient) of every ordered batch, each run alone through the parts as a training step would."""
    results = []
    everything = every_sequence(policy, sorted(set(starts)))
    count = len(policy.sequences())
    first = {start: i * count for i, start in enumerate(sorted(set(starts)))}
    choices = [range(count) for size in sizes for _ in range(size)]
    owners = [start for size, start in zip(sizes, starts) for _ in range(size)]
    groups = torch.tensor([g for g, size in enumerate(sizes) for _ in range(size)])
    for drawn in itertools.product(*choices):
        leaf = torch.tensor([first[s] + i for s, i in zip(owners, drawn)])
        traj = everything.select(leaf).replace(group=groups, id=torch.arange(len(leaf)))
        rewards = paid({"reward": reward})(traj)
        policy.zero_grad()
        p = float(torch.stack([policy.probabilities(s)[i].detach() for s, i in zip(owners, drawn)]).prod())
        loss = torch.zeros((), dtype=F64)
        for term in terms:
            target = term.target(rewards, traj)
            if isinstance(target, Pairs) and not len(target.label):
                continue
            now = policy.evaluate(traj, frozenset(getattr(term.loss, "needs", ())))
            loss = loss + term.weight * (term.loss(now, traj, target).terms * term.aggregation(target, traj)).sum()
        gradient = torch.zeros(sum(x.numel() for x in policy.parameters()), dtype=F64)
        if loss.requires_grad:
            loss.backward()
            gradient = torch.cat([(torch.zeros_like(x) if x.grad is None else x.grad).flatten() for x in policy.parameters()])
        results.append((p, -gradient))
    weights = torch.tensor([p for p, _ in results], dtype=F64)
    gradients = torch.stack([g for _, g in results])
    mean = weights @ gradients
    return mean, (gradients - mean).T @ (weights[:, None] * (gradients - mean))


CASES = {
    "standardised, by token, early stop": (Tabular(3, 2, stop=1, spread=1.0), [Term(centred, likelihood, per_token)], (2,), (0,)),
    "two groups of unequal size": (Tabular(2, 1, spread=1.0), [Term(centred, likelihood, per_token)], (2, 3), (0, 0)),
    "two starts": (Tabular(2, 1, starts=2, spread=1.0), [Term(centred_over_batch, likelihood, per_row)], (2, 2), (0, 1)),
    "entropy too": (Tabular(2, 2, spread=1.0), [Term(centred, likelihood_and_entropy, per_row, 0.5)], (2,), (0,)),
    "two terms": (
        Tabular(3, 1, spread=1.0),
        [Term(centred, likelihood, per_row), Term(raw, likelihood_and_entropy, per_row, 2.0)],
        (3,),
        (0,),
    ),
    "pairs": (Tabular(3, 2, stop=1, spread=1.0), [Term(every_pair, logistic, per_pair)], (2,), (0,)),
    "pairs of two groups": (Tabular(2, 2, stop=1, spread=1.0), [Term(every_pair, logistic, per_pair)], (2, 2), (0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_expectation_and_covariance_are_those_of_every_batch_drawn_one_by_one(name):
    policy, terms, sizes, starts = CASES[name]
    used = sorted(set(starts))
    reward = normal(len(policy.sequences()) * len(used)).round(decimals=1)
    mean, covariance = one_by_one(policy, terms, None, sizes, starts, reward)
    options = {"group_size": sizes, "starts": tuple(used)}
    torch.testing.assert_close(expected_gradient(policy, terms, {"reward": reward}, **options), mean, rtol=0, atol=1e-13)
    torch.testing.assert_close(gradient_covariance(policy, terms, {"reward": reward}, **options), covariance, rtol=0, atol=1e-13)
    assert mean.abs().max() > 1e-3


def test_27_sequences_make_3654_groups_of_three_and_as_many_tuples_as_there_are():
    policy = Tabular(3, 3, spread=1.0)
    found = batches(policy, group_size=3)
    assert found.leaf.shape == (3654, 3)
    assert abs(float(found.probability.sum()) - 1) < 1e-12
    assert len(found.traj) == 3 * 3654
    assert found.traj.group.tolist() == found.traj.extras["batch"].tolist()
    assert found.traj.id.unique().numel() == len(found.traj)
    assert batches(policy, group_size=2, ordered=True).leaf.shape == (729, 2)


def test_probabilities_count_the_orders_of_a_multiset():
    # two equally likely sequences, groups of four: 1, 4, 6, 4, 1 of 16
    found = batches(Tabular(2, 1), group_size=4)
    assert [round(16 * p) for p in found.probability.tolist()] == [1, 4, 6, 4, 1]
    # groups of two and of one: every pair with every single
    mixed = batches(Tabular(2, 1), group_size=(2, 1))
    assert mixed.leaf.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 1, 0], [1, 1, 1]]
    assert [round(8 * p) for p in mixed.probability.tolist()] == [1, 1, 2, 2, 1, 1]
    assert mixed.traj.group[:6].tolist() == [0, 0, 1, 2, 2, 3]


def test_order_matters_only_where_a_part_breaks_ties_by_id():
    def best_only(rewards, traj):
        value, known = outcome(rewards["reward"], traj)
        return constant((rank(value, sets(traj, "group")[:, 0], known, traj.id) == 0).to(F64), known)

    policy, reward = Tabular(3, 1, spread=1.0), {"reward": torch.tensor([1.0, 1.0, 0.0], dtype=F64)}
    terms = [Term(best_only, likelihood, per_row)]
    ordered = expected_gradient(policy, terms, reward, ordered=True)
    mean, _ = one_by_one(policy, terms, None, (2,), (0,), reward["reward"])
    torch.testing.assert_close(ordered, mean, rtol=0, atol=1e-14)
    # as multisets, the first in the list would always win the tie
    assert (expected_gradient(policy, terms, reward) - ordered).abs().max() > 1e-2
    # and it makes no difference to a part that does not look at the order
    plain = [Term(centred, likelihood, per_row)]
    torch.testing.assert_close(
        expected_gradient(policy, plain, reward, ordered=True), expected_gradient(policy, plain, reward), rtol=0, atol=1e-14
    )


def test_a_statistic_over_everything_is_caught():
    policy, reward = Tabular(3, 2, spread=1.0), {"reward": normal(9)}
    with pytest.raises(ValueError, match=r"a batch alone gives other numbers .*centred_over_everything"):
        expected_gradient(policy, [Term(centred_over_everything, likelihood, per_row)], reward)


def test_a_signal_that_looks_at_its_group_must_say_so():
    def beats_the_mean(traj):
        value = traj.actions[:, 0].double()
        mean = statistics(value, sets(traj, "group")[:, 0], torch.ones_like(value, dtype=torch.bool)).mean
        return {"reward": place_outcome((value > mean).double(), torch.ones_like(value, dtype=torch.bool), traj)}

    policy, terms = Tabular(3, 2, spread=1.0), [Term(raw, likelihood, per_row)]
    with pytest.raises(ValueError, match="must say"):
        expected_gradient(policy, terms, beats_the_mean)
    beats_the_mean.sees = "group"
    found = expected_gradient(policy, terms, beats_the_mean)
    # beating the mean of two: P(the other's first action is lower), worked from the first action's distribution
    p = policy.logits[0, 0].softmax(0)
    h = torch.cat([torch.zeros(1, dtype=F64), p.cumsum(0)[:-1]]).detach()
    # both members' chances count: the derivative of E[h(a)] with h held fixed
    expected = torch.autograd.grad((p * h).sum(), policy.logits)[0].flatten()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_a_signal_of_single_trajectories_is_asked_once_for_each_sequence():
    asked = []

    def count(traj):
        asked.append(len(traj))
        return paid({"reward": normal(9)})(traj)

    found = batches(Tabular(3, 2), group_size=2)
    rewards = scored(count, found.traj)
    assert asked == [9]
    assert torch.equal(outcome(rewards["reward"], found.traj)[0], normal(9)[found.leaf.flatten()])


def test_what_a_part_says_of_an_unknown_reward_is_nothing():
    table = torch.tensor([1.0, float("nan"), 0.0], dtype=F64)
    channel = paid({"reward": table})(Tabular(3, 1).sequences())["reward"]
    assert channel.valid[:, 0].tolist() == [True, False, True]
    assert channel.value[:, 0].tolist() == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="reward of sequence 1 is unknown"):
        exact_gradient(Tabular(3, 1), table)


def test_a_batch_alone_keeps_its_rows_and_knows_of_no_other():
    found = batches(Tabular(2, 2, stop=1), group_size=2)
    batch, rows = alone(found.traj, 2, 2)
    assert rows.tolist() == [4, 5]
    assert batch.extras["leaf"].tolist() == found.leaf[2].tolist()
    assert batch.extras["batch"].tolist() == [0, 0]


# --- the exact side


def test_the_exact_gradient_takes_tables_channels_and_functions_alike():
    policy, reward = Tabular(3, 2, stop=2, spread=1.0), normal(7)
    expected = exact_gradient(policy, reward)
    traj = every_sequence(policy)
    everywhere = constant(reward, torch.ones_like(reward, dtype=torch.bool))  # pays its number at every position
    torch.testing.assert_close(exact_gradient(policy, everywhere), exact_gradient(policy, reward * traj.length))
    torch.testing.assert_close(exact_gradient(policy, lambda traj: reward[traj.extras["leaf"]]), expected)
    torch.testing.assert_close(exact_gradient(policy, paid({"x": reward})(traj)["x"]), expected)
    half = torch.stack([reward / 2, reward / 2], 1)
    half[traj.length == 1, 0] *= 2  # what lies beyond the end is not paid
    torch.testing.assert_close(exact_gradient(policy, half), expected)


def test_the_exact_gradient_is_what_a_small_step_gains():
    policy, reward = Tabular(3, 2, spread=1.0), normal(9)
    gradient, step = exact_gradient(policy, reward), 1e-6
    with torch.no_grad():
        before = float(policy.probabilities() @ reward)
        policy.logits += step * gradient.view_as(policy.logits)
        gain = (float(policy.probabilities() @ reward) - before) / step
    assert abs(gain - float(gradient @ gradient)) < 1e-5


def test_several_starts_are_averaged():
    policy, reward = Tabular(2, 2, starts=2, spread=1.0), normal(8)
    both = exact_gradient(policy, reward, starts=(0, 1))
    one = exact_gradient(policy, reward[:4], starts=(0,)) + exact_gradient(policy, reward[4:], starts=(1,))
    torch.testing.assert_close(both, one / 2)
    expected = expected_gradient(policy, [Term(raw, likelihood, per_row)], {"reward": reward}, group_size=1, starts=(0, 1))
    torch.testing.assert_close(expected, both, rtol=0, atol=1e-14)


def test_a_credit_of_the_finished_trajectory_minus_the_past_climbs_its_first_part():
    policy = Tabular(3, 3, stop=2, spread=1.0)
    traj = policy.sequences()
    h, f = normal(len(traj), seed=1), normal(policy.tree.prefix_count, seed=2)
    past = f[policy.prefixes(traj)]
    torch.testing.assert_close(credit_gradient(policy, h[:, None] - past), exact_gradient(policy, h), rtol=0, atol=1e-14)
    # a part that knows the action it weighs is no baseline
    knowing = normal(policy.tree.prefix_count, 3, seed=3)[policy.prefixes(traj), traj.actions]
    assert compare(credit_gradient(policy, h[:, None] - knowing), exact_gradient(policy, h)).residual > 0.1


def test_credit_gradient_is_what_the_same_credit_gives_as_a_term():
    policy = Tabular(3, 2, stop=0, spread=1.0)
    credit = normal(len(policy.tree), 2)
    term = Term(lambda rewards, traj: rewards["credit"], likelihood, per_row)
    found = expected_gradient(policy, [term], {"credit": credit}, group_size=1)
    torch.testing.assert_close(credit_gradient(policy, credit), found, rtol=0, atol=1e-14)
    invalid = Channel(credit, torch.arange(2) < 1 + torch.zeros(len(credit), 1))
    torch.testing.assert_close(credit_gradient(policy, invalid), credit_gradient(policy, credit * torch.tensor([1, 0])))


def test_bias_says_by_how_much_and_whether_the_direction_is_kept():
    policy, reward = Tabular(3, 2, spread=1.0), normal(9)
    term = Term(raw, likelihood, per_row, weight=0.25)
    found = bias(policy, [term], {"reward": reward}, reward)
    assert abs(found.scale - 0.25) < 1e-12
    assert found.residual < 1e-12
    assert abs(found.cosine - 1) < 1e-12
    torch.testing.assert_close(found.difference, -0.75 * found.exact)
    turned = compare(torch.tensor([3.0, 4.0]), torch.tensor([2.0, 0.0]))
    assert (turned.cosine, turned.scale, turned.residual) == pytest.approx((0.6, 1.5, 0.8))
    nothing = compare(torch.zeros(2), torch.tensor([1.0, 0.0]))
    assert (nothing.cosine, nothing.scale, nothing.residual) == (0.0, 0.0, 0.0)


def test_covariance_is_that_of_the_mean_of_independent_groups():
    policy, reward = Tabular(3, 2, spread=1.0), {"reward": normal(9)}
    term = Term(raw, likelihood, per_row)
    one, three = (gradient_covariance(policy, [term], reward, group_size=n) for n in (1, 3))
    torch.testing.assert_close(one / 3, three, rtol=0, atol=1e-14)


def test_another_actor_samples_and_is_recorded_as_old():
    policy, actor = Tabular(2, 2, spread=1.0, seed=1), Tabular(2, 2, spread=1.0, seed=2)

    def reweighted(now, traj, target):
        ratio = (now.logp.sum(1) - traj.logp["old"].sum(1)).exp()
        return LossOutput(-target.value[:, 0] * ratio, {})

    term = Term(raw, reweighted, lambda target, traj: torch.full((len(traj),), 1 / len(traj), dtype=F64))
    reward = normal(4)
    found = expected_gradient(policy, [term], {"reward": reward}, actor=actor)
    torch.testing.assert_close(found, exact_gradient(policy, reward), rtol=0, atol=1e-14)
    assert (expected_gradient(policy, [Term(raw, likelihood, per_row)], {"reward": reward}, actor=actor) - found).abs().max() > 1e-2


def test_what_is_needed_and_not_there_is_refused():
    def reads_reference(now, traj, target):
        return LossOutput(now.logp - traj.logp["ref"], {})

    reads_reference.needs = frozenset({"ref"})
    policy, reward = Tabular(2, 1), {"reward": normal(2)}
    term = Term(raw, reads_reference, per_row)
    with pytest.raises(ValueError, match=r"needs \['ref'\]"):
        expected_gradient(policy, [term], reward)
    assert expected_gradient(policy, [term], reward, reference=policy.uniform()).abs().max() < 1e-15


def test_too_many_batches_and_sizes_that_fit_nothing_are_refused():
    with pytest.raises(ValueError, match="more than 2,000,000"):
        batches(Tabular(3, 4), group_size=4)
    with pytest.raises(ValueError, match="do not fit starts"):
        batches(Tabular(2, 1, starts=2), group_size=(2, 2, 2), starts=(0, 1))
    with pytest.raises(ValueError, match="at least 1"):
        batches(Tabular(2, 1), group_size=0)
