"""The rule of unbiased credit, for every credit there is: what is h(finished trajectory) - f(the past) climbs E[h], to 1e-9."""

import inspect

import pytest
import torch

from payoff.catalogue import find, index
from payoff.enumeration import every_sequence, paid
from payoff.exact import compare, credit_gradient, exact_gradient
from payoff.policies.tabular import Tabular

F64 = torch.float64
POLICY = Tabular(3, 3, stop=2, spread=1.0, seed=1, critic=True)
TREE = POLICY.tree
CREDITS = sorted(record.name for record in index().values() if record.kind == "credit")
# which of them keep the rule on rewards that know nothing later, and by that what they climb: the sum of what is paid
KEEPS = {"total": True, "return-to-go": True, "immediate": False, "pure": False, "lambda-return": False}


def step_rewards() -> torch.Tensor:
    table = torch.randn(TREE.prefix_count * 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    return torch.where(TREE.exists, table.sigmoid()[TREE.edge], 0)


def weights(name: str) -> torch.Tensor:
    """What the credit gives to every action of every sequence; skips one that needs what the tree does not have."""
    part = find(name, "credit")
    if inspect.isclass(part):
        pytest.skip("a credit that is learned")
    with torch.no_grad():
        POLICY.critic[0] = torch.randn(TREE.prefix_count, generator=torch.Generator().manual_seed(5), dtype=F64)
    leaves = every_sequence(POLICY)
    values = POLICY.evaluate(leaves, frozenset({"values"})).more["values"].detach()
    leaves = leaves.replace(extras={"values": values})
    try:
        credit = part(paid({"x": step_rewards()})(leaves)["x"], leaves)
    except (ValueError, KeyError, TypeError) as error:
        pytest.skip(f"not on this tree: {error}")
    return torch.where(TREE.exists & credit.valid, credit.value, 0)


def split(weight: torch.Tensor) -> tuple[torch.Tensor, float]:
    """h [L] of the nearest h(finished) - f(past) in squares, and how far off that is."""
    leaf = torch.arange(len(TREE))[:, None].expand(TREE.exists.shape)[TREE.exists]
    past = (TREE.edge // 3)[TREE.exists]
    rows = torch.arange(len(leaf))
    left = torch.zeros(len(leaf), len(TREE) + TREE.prefix_count, dtype=F64)
    left[rows, leaf], left[rows, len(TREE) + past] = 1.0, -1.0
    found = torch.linalg.lstsq(left, weight[TREE.exists][:, None], driver="gelsd").solution
    return found[: len(TREE), 0], float((left @ found - weight[TREE.exists][:, None]).abs().max())


@pytest.mark.parametrize("name", CREDITS)
def test_a_credit_of_the_form_h_minus_f_climbs_h(name):
    weight = weights(name)
    h, off = split(weight)
    keeps = off < 1e-9
    assert KEEPS.get(name, keeps) == keeps
    if keeps:
        torch.testing.assert_close(credit_gradient(POLICY, weight), exact_gradient(POLICY, h), rtol=0, atol=1e-9)
    if name in ("total", "return-to-go"):
        torch.testing.assert_close(exact_gradient(POLICY, h), exact_gradient(POLICY, step_rewards()), rtol=0, atol=1e-9)


def test_any_baseline_of_the_past_changes_nothing_and_one_that_sees_the_action_does():
    weight = weights("return-to-go")
    rng = torch.Generator().manual_seed(3)
    of_past = torch.randn(TREE.prefix_count, generator=rng, dtype=F64)[TREE.edge // 3]
    exact = exact_gradient(POLICY, step_rewards())
    torch.testing.assert_close(credit_gradient(POLICY, weight - of_past), exact, rtol=0, atol=1e-9)
    of_action = torch.randn(TREE.prefix_count * 3, generator=rng, dtype=F64)[TREE.edge]
    assert compare(credit_gradient(POLICY, weight - of_action), exact).residual > 0.1
