"""B-Coder's values: the operator contracts, its fixed point is the greedy reference, its inverse gives rewards back."""

import copy

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.aggregation import token_mean
from payoff.losses.conservative_values import ConservativeValues, backup, transitions
from payoff.pipeline import Evaluation
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, Trajectories

F64, WANT, ALPHA, DISCOUNT = torch.float64, frozenset({"logits", "values"}), 0.7, 0.9


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.fixture(scope="module")
def reference() -> Tabular:
    return Tabular(2, 3, logits=draw(0, 7, 2), critic=True)


def holding(q: torch.Tensor) -> Tabular:
    """A policy whose logits and critic are exactly this table of Q."""
    made = Tabular(2, 3, logits=q / ALPHA, critic=True)
    with torch.no_grad():
        made.critic.copy_(q.amax(1)[None])
    return made


def paid_by(seed: int, traj: Trajectories) -> Channel:
    """A reward of every prefix and action, the same in every sequence that passes them."""
    table = draw(seed, 2, 2, 2)
    steps = torch.stack([table[a[0], 0, 0] if t == 0 else table[a[0], a[1], 0] if t == 1 else table[tuple(a)]
                         for a in traj.actions for t in range(3)])  # fmt: skip
    return Channel(steps.view(8, 3), torch.ones(8, 1, dtype=torch.bool))


def loss_of(reference: Tabular, **options) -> ConservativeValues:
    return ConservativeValues(policy=reference, alpha=ALPHA, discount=DISCOUNT, cap=None, **options)


def greedy_q(reference: Tabular, paid: Channel) -> torch.Tensor:
    """Q of the policy that does what the reference likes best, discounted, by enumeration of the tree from its leaves."""
    traj, best = reference.sequences(), reference.logits[0].argmax(1)
    states, q = reference.prefixes(traj), torch.zeros(7, 2, dtype=F64)
    for t in (2, 1, 0):
        for row in range(8):
            ahead = 0.0
            if t < 2:
                after = states[row, t + 1]
                ahead = DISCOUNT * q[after, best[after]]
            q[states[row, t], traj.actions[row, t]] = paid.value[row, t] + ahead
    return q


def test_the_fixed_point_is_q_of_the_references_greedy_policy_and_gives_all_rewards_back(reference):
    traj = reference.sequences()
    paid = paid_by(1, traj)
    policy, loss = holding(greedy_q(reference, paid)), loss_of(reference)
    output = loss(policy.evaluate(traj, WANT), traj, paid)
    assert output.terms.abs().max() < 1e-20
    torch.testing.assert_close(loss.rewards(policy, traj, greedy=True)["implied"].value, paid.value)
    # elsewhere only where policy and reference agree: with V in place of Q(s', argmax q) something else comes out
    assert (loss.rewards(policy, traj)["implied"].value - paid.value).abs().max() > 1e-3


def test_the_operator_contracts_by_the_discount(reference):
    traj = reference.sequences()
    moves, greedy = transitions(paid_by(1, traj), traj), reference.evaluate(traj, WANT).more["logits"].argmax(-1)
    tables = [draw(seed, 7, 2) for seed in (2, 3)]
    images = []
    for table in tables:
        now = holding(table).evaluate(traj, WANT)
        images.append(backup(moves, now.more["logits"], now.more["values"], greedy, alpha=ALPHA, discount=DISCOUNT))
    gap = (tables[0] - tables[1]).abs().max()
    moved = (images[0] - images[1]).abs().max()
    assert 0 < moved <= DISCOUNT * gap + 1e-12


def test_backing_up_the_own_best_is_q_learning(reference):
    traj = reference.sequences()
    paid, table = paid_by(1, traj), draw(2, 7, 2)
    states = reference.prefixes(traj)
    taken = table[states, traj.actions]
    ahead = torch.cat([DISCOUNT * table[states[:, 1:]].amax(-1), torch.zeros(8, 1, dtype=F64)], 1)
    found = loss_of(reference, bootstrap="policy")(holding(table).evaluate(traj, WANT), traj, paid)
    torch.testing.assert_close(found.terms, (taken - paid.value - ahead).square())
    assert found.metrics["greedy"] < 1


def test_values_are_learned_without_moving_the_policy_and_then_stay(reference):
    traj = reference.sequences()
    paid = paid_by(1, traj)
    loss = loss_of(reference, warm_start=40, learning_rate=0.3)
    before = copy.deepcopy(loss.initial.logits)
    now = reference.evaluate(traj, WANT)  # its critic is 0, and the loss adds its own
    cold = loss_of(reference)(now, traj, paid).metrics["error"]
    warm = loss(now, traj, paid).metrics["error"]
    assert warm < 0.95 * cold
    assert torch.equal(loss.initial.logits, before)
    critic = loss.initial.critic.clone()
    again = loss(now, traj, paid)
    assert torch.equal(loss.initial.critic, critic)
    again.terms.sum().backward()
    assert loss.initial.critic.grad is None


def test_the_policy_is_the_reference_whatever_the_values_and_no_advantage_is_above_0(reference):
    traj, valued = reference.sequences(), copy.deepcopy(reference)
    with torch.no_grad():
        valued.critic.normal_()
    now = valued.evaluate(traj, WANT)
    assert torch.equal(now.logp, reference.evaluate(traj).logp)
    _, q, gap = loss_of(reference)._taken(now.more["logits"], now.more["values"], traj)
    assert (gap <= 0).all()
    best = torch.full((7,), -torch.inf, dtype=F64).scatter_reduce(0, reference.prefixes(traj).flatten(), gap.flatten(), "amax")
    assert (best == 0).all()
    # softmax(Q / alpha) is the policy: a constant in every state
    scores = ((q - now.more["values"][:, :-1]) / ALPHA - now.logp).detach()
    states = reference.prefixes(traj)
    for state in range(7):
        assert float(scores[states == state].std()) < 1e-12


def test_learning_reaches_the_fixed_point_from_rollouts_of_someone_else(reference):
    policy, traj = copy.deepcopy(reference), Tabular(2, 3).sequences()  # every sequence as often: not the policy's own
    paid = paid_by(1, traj)
    loss, optimiser = loss_of(reference), torch.optim.Adam(policy.parameters(), lr=0.2)
    for _ in range(60):
        optimiser.zero_grad()
        output = loss(policy.evaluate(traj, WANT), traj, paid)
        (output.terms * token_mean(paid, traj)).sum().backward()
        optimiser.step()
    wanted = greedy_q(reference, paid)
    torch.testing.assert_close(policy.probabilities(), holding(wanted).probabilities(), atol=0.04, rtol=0)


def test_demonstrations_are_pulled_up_and_nothing_else_is(reference):
    traj = reference.sequences()
    paid = paid_by(1, traj)
    shown = traj.replace(items=[{**item, "demonstration": row == 3} for row, item in enumerate(traj.items)])
    now = reference.evaluate(traj, WANT)
    plain, taught = (loss_of(reference, advantage_weight=2.0, imitation_weight=0.5)(now, t, paid).terms for t in (traj, shown))
    assert torch.equal(plain[[0, 1, 2, 4]], taught[[0, 1, 2, 4]])
    gap = ALPHA * (now.more["logits"].amax(-1) - now.logp)  # logits of a table are log-probabilities
    torch.testing.assert_close((taught - plain)[3], 2.0 * gap[3] - 0.5 * now.logp[3])


def test_nothing_is_backed_up_past_the_last_own_action_and_tools_pay_the_action_before():
    traj = four_answers()
    tool = traj.replace(mask=traj.mask & (torch.arange(3) != 1))  # the second position is the tool's
    hole = lambda x: torch.where(tool.exists, x, torch.nan)
    moves = transitions(Channel(hole(torch.tensor([[1.0, 2.0, 4.0]]).repeat(4, 1)), tool.exists), tool)
    assert moves.paid.tolist() == [[3, 0, 4], [3, 0, 0], [3, 0, 4], [1, 0, 0]]
    assert moves.following[:, 0].tolist() == [2, 3, 2, 3]
    logits = torch.where(tool.mask[..., None], torch.zeros(4, 3, 2), torch.nan)
    values = torch.cat([torch.where(tool.mask, 0.5, torch.nan), torch.full((4, 1), torch.nan)], 1)
    found = backup(moves, logits, values, torch.zeros(4, 3, dtype=torch.int64), cap=0.25)
    assert found[tool.mask].tolist() == [3.25, 4.0, 3.0, 3.25, 4.0, 1.0]


def test_what_is_lacking_is_named(reference):
    with pytest.raises(ValueError, match="critic: true"):
        ConservativeValues(policy=Tabular(2, 3))
    with pytest.raises(ValueError, match=r"discount must lie in 0\.\.1"):
        ConservativeValues(policy=reference, discount=1.5)
    traj = reference.sequences()
    with pytest.raises(ValueError, match="logits"):
        loss_of(reference)(Evaluation(traj.logp["old"], {}), traj, paid_by(1, traj))
