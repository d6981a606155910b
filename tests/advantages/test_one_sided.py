"""Positive and negative reinforcement alone: numbers, who is left out, and what they climb on average."""

import functools

import pytest
import torch

from payoff.advantages.one_sided import one_sided
from payoff.credit.returns import total
from payoff.exact import exact_gradient, expected_gradient, gradient_covariance
from payoff.examples import four_answers
from payoff.losses.aggregation import sequence_sum, token_mean
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel

F64 = torch.float64
POLICY = Tabular(3, 2, stop=2, spread=1.0, seed=1)
RIGHT = torch.tensor([1, 0, 0, 1, 0, 0, 1], dtype=F64)
PSR, NSR = {"positive": 1.0, "negative": None}, {"positive": None, "negative": 1.0}


def column(*value: float, dtype=torch.float32) -> Channel:
    return Channel(torch.tensor(value, dtype=dtype)[:, None], torch.ones(len(value), 1, dtype=torch.bool))


def term(aggregation=sequence_sum, **options) -> Term:
    return Term(weigh({"x": [total, functools.partial(one_sided, **options)]}), policy_gradient, aggregation)


def test_each_side_has_its_weight_and_none_leaves_it_without_a_verdict():
    credit = column(1.0, 0.0, 0.6, 0.5, dtype=F64)  # 0.5 is not above one half
    assert one_sided(credit, four_answers()).value[:, 0].tolist() == [0.1, -1.0, 0.1, -1.0]
    positive = one_sided(credit, four_answers(), **PSR)
    assert positive.value[:, 0].tolist() == [1, 0, 1, 0]
    assert positive.valid[:, 0].tolist() == [True, False, True, False]
    kept = one_sided(credit, four_answers(), positive=1.0, negative=0.0)
    assert kept.value[:, 0].tolist() == [1, 0, 1, 0]
    assert kept.valid.all()
    assert one_sided(credit, four_answers(), threshold=0.7).value[:, 0].tolist() == [0.1, -1.0, -1.0, -1.0]


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({"positive": 1.0, "negative": 0.0}, 1.0),
        ({"positive": 0.0, "negative": 1.0}, 1.0),
        ({}, 1.1),
        ({"positive": 1.0}, 2.0),
    ],
)
def test_on_average_every_one_of_them_climbs_the_success_rate(options, factor):
    found = expected_gradient(POLICY, [term(**options)], {"x": RIGHT}, group_size=2)
    torch.testing.assert_close(found, factor * exact_gradient(POLICY, RIGHT), rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("options", [PSR, NSR], ids=["psr", "nsr"])
def test_leaving_the_others_out_of_the_average_makes_it_the_gradient_of_log_p_as_far_as_n_rollouts_show_it(options, size):
    p = float(POLICY.probabilities().detach() @ RIGHT)
    one = p if options is PSR else 1 - p
    found = expected_gradient(POLICY, [term(**options)], {"x": RIGHT}, group_size=size)
    torch.testing.assert_close(found, (1 - (1 - one) ** size) / one * exact_gradient(POLICY, RIGHT), rtol=0, atol=1e-9)


def test_both_at_one_are_reinforce_with_plus_and_minus_one_in_every_batch():
    plain = Term(weigh({"x": [total]}), policy_gradient, sequence_sum, -1.0)
    signs = {"x": 2 * RIGHT - 1}
    both = gradient_covariance(POLICY, [term(positive=1.0), plain], signs, group_size=2)
    assert both.abs().max() < 1e-18


def test_punishing_one_answer_keeps_the_ranking_of_the_others_and_reinforcing_it_presses_them_together():
    policy = Tabular(4, 1, logits=torch.tensor([[0.4, 0.3, 0.15, 0.15]], dtype=F64).log())
    drawn = policy.sequences().select(torch.tensor([0]))

    def step(right: float, options: dict) -> torch.Tensor:
        target = one_sided(column(right, dtype=F64), drawn, **options)
        return -torch.autograd.grad(policy_gradient(policy.evaluate(drawn), drawn, target).terms.sum(), policy.logits)[0].flatten()

    punished, reinforced = step(0.0, NSR), step(1.0, PSR)
    # what one lost or won is shared out in proportion to what the others have: 0.3, 0.15 and 0.15
    torch.testing.assert_close(punished, torch.tensor([-0.6, 0.3, 0.15, 0.15], dtype=F64))
    torch.testing.assert_close(reinforced, -punished)
    # the direction of the expected reward itself (times pi of the one drawn) vanishes for an answer that is sure, or never given
    sizes = []
    for p in (1e-9, 0.5, 1 - 1e-9):
        policy = Tabular(4, 1, logits=torch.tensor([[p, *[(1 - p) / 3] * 3]], dtype=F64).log())
        sizes.append(float(p * step(0.0, NSR).norm()))
    assert sizes[0] < 1e-8 > sizes[2]
    assert sizes[1] > 0.2


def test_a_batch_with_nothing_of_the_kind_gives_zero():
    found = expected_gradient(POLICY, [term(token_mean, **NSR)], {"x": torch.ones(7, dtype=F64)}, group_size=2)
    assert found.abs().max() == 0


def test_unknown_stays_unknown():
    credit = column(1.0, 0.0, 0.0, 1.0)
    credit.valid[1] = False
    found = one_sided(credit, four_answers())
    assert found.valid[:, 0].tolist() == [True, False, True, True]
    assert found.value[1] == 0


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="both None"):
        one_sided(column(1, 0, 0, 0), four_answers(), positive=None, negative=None)
    with pytest.raises(ValueError, match="negative must be >= 0"):
        one_sided(column(1, 0, 0, 0), four_answers(), negative=-1.0)
