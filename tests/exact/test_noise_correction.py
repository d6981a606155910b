"""Corrections of noisy verdicts (card noisy-rlvr-correction), to 1e-9: what they restore, and where they change nothing at all.

The verdict is nature's move: a last action of the tree, drawn by the noise and not by the policy, so that expectations run over the
noise too. Gradients are those by the logits of the policy's own two actions.
"""

import functools
import math

import pytest
import torch

from payoff.advantages.group import dr_grpo, grpo, leave_one_out
from payoff.advantages.normalise import standardise
from payoff.credit.returns import total
from payoff.exact import compare, expected_gradient, gradient_covariance
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.shaping.bounding import clamp
from payoff.shaping.noise_correction import appealed_rate, backward_correction, forward_correction

F64 = torch.float64
RIGHT = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0]], dtype=F64)  # which of `aa`, `ab`, `ba`, `bb` are right, for each start
OWN = 3  # prefixes at which the policy acts: "", a, b
OBSERVED = torch.tensor([0.0, 1.0] * 4, dtype=F64)  # the verdict is the last action


def noisy(rates, right=RIGHT, starts: int = 1) -> Tabular:
    """A policy over two actions, followed by a verdict that is wrong at the rates (false positive, false negative)."""
    logits = torch.randn(starts, 7, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    for start, (wrong, missed) in enumerate(rates):
        said = torch.where(right[start] > 0, 1 - torch.as_tensor(missed, dtype=F64), torch.as_tensor(wrong, dtype=F64))
        logits[start, OWN:] = torch.stack([1 - said, said], 1).log()
    return Tabular(2, 3, starts=starts, logits=logits)


def own(policy: Tabular, gradient: torch.Tensor) -> torch.Tensor:
    return gradient.view(len(policy.logits), 7, 2)[:, :OWN].flatten()


def clean(policy: Tabular, right=RIGHT) -> torch.Tensor:
    """The gradient of the probability to be right."""
    p = torch.cat([policy.probabilities(s).view(4, 2).sum(1) for s in range(len(policy.logits))]) / len(policy.logits)
    return own(policy, torch.autograd.grad((p * right[: len(policy.logits)].flatten()).sum(), policy.logits)[0])


def found(policy: Tabular, *path, **options) -> torch.Tensor:
    term = Term(weigh({"x": list(path)}), policy_gradient, sequence_sum)
    reward = OBSERVED.repeat(len(policy.logits))
    options = {"group_size": 2, "starts": range(len(policy.logits))} | options
    return own(policy, expected_gradient(policy, [term], {"x": reward}, **options))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert b.abs().max() > 1e-3
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


RATES = [(0.0, 0.0), (0.2, 0.3), (0.45, 0.05), (0.05, 0.9)]


@pytest.mark.parametrize(("wrong", "missed"), RATES)
@pytest.mark.parametrize("advantage", [[], [leave_one_out]])
def test_noise_shrinks_the_gradient_and_backward_correction_restores_it(wrong, missed, advantage):
    policy, kept = noisy([(wrong, missed)]), 1 - wrong - missed
    close(found(policy, total, *advantage), kept * clean(policy))
    back = functools.partial(backward_correction, false_positive=wrong, false_negative=missed)
    close(found(policy, back, total, *advantage), clean(policy))
    forth = functools.partial(forward_correction, false_negative=missed)
    close(found(policy, forth, total, *advantage), kept * clean(policy))


@pytest.mark.parametrize("advantage", [leave_one_out, dr_grpo, grpo])
def test_with_a_baseline_of_the_group_forward_correction_is_the_raw_verdict_in_every_batch(advantage):
    policy, reward = noisy([(0.2, 0.3)]), {"x": OBSERVED}
    forth = functools.partial(forward_correction, false_negative=0.3)
    back = functools.partial(backward_correction, false_positive=0.2, false_negative=0.3)
    raw, forward, backward = (
        gradient_covariance(
            policy, [Term(weigh({"x": [*first, total, advantage]}), policy_gradient, sequence_sum)], reward, group_size=3
        )
        for first in ([], [forth], [back])
    )
    close(forward, raw)
    # ... and backward a factor, 1 / (1 - .2 - .3) = 2, which the group's spread takes out again
    close(backward, raw if advantage is grpo else 4 * raw)


def test_without_a_baseline_the_three_differ_in_noise_by_the_constant_that_they_subtract():
    def noise(path, policy) -> float:
        term = Term(weigh({"x": [*path, total]}), policy_gradient, sequence_sum)
        covariance = gradient_covariance(policy, [term], {"x": OBSERVED}, group_size=1).diagonal().view(7, 2)[:OWN]
        mean = found(policy, *path, total, group_size=1)
        return float(covariance.sum() / (mean @ mean))

    policy = noisy([(0.3, 0.1)])
    back = functools.partial(backward_correction, false_positive=0.3, false_negative=0.1)
    forth = functools.partial(forward_correction, false_negative=0.1)
    # r, (r - .3) / .6 and r - .9 are constants apart, up to scale: a baseline, good where it is near the mean
    raw, backward, forward = noise([], policy), noise([back], policy), noise([forth], policy)
    assert float(policy.probabilities().detach() @ OBSERVED) == pytest.approx(0.63, abs=0.01)
    assert max(forward, backward) < 0.8 * raw
    # where hardly anything is accepted, r - .9 is far from it
    policy = noisy([(0.05, 0.1)], right=RIGHT[1:])
    back = functools.partial(backward_correction, false_positive=0.05, false_negative=0.1)
    assert noise([back], policy) < noise([], policy) < noise([forth], policy)


def test_rates_that_differ_between_starts_turn_the_raw_gradient_and_forward_and_not_backward():
    rates = [(0.05, 0.05), (0.3, 0.4)]
    policy = noisy(rates, starts=2)

    def with_fields(correct, names):
        def corrected(channel, traj):
            fields = [{**item, "fp": rates[item["table"]][0], "fn": rates[item["table"]][1]} for item in traj.items]
            return correct(channel, traj.replace(items=fields), **names)

        return corrected

    back = with_fields(backward_correction, {"false_positive": "fp", "false_negative": "fn"})
    forth = with_fields(forward_correction, {"false_negative": "fn"})
    close(found(policy, back, total, leave_one_out), clean(policy))
    for path in ([total, leave_one_out], [forth, total, leave_one_out]):
        assert compare(found(policy, *path), clean(policy)).residual > 0.1


def test_with_a_baseline_of_the_batch_the_correction_changes_the_noise_and_not_the_direction():
    policy = noisy([(0.2, 0.3)])
    over_batch = functools.partial(standardise, over="batch", baseline="leave-one-out", scale="none")
    back = functools.partial(backward_correction, false_positive=0.2, false_negative=0.3)
    close(found(policy, back, total, over_batch), clean(policy))
    close(found(policy, total, over_batch), 0.5 * clean(policy))


def test_a_verifier_that_errs_on_one_answer_is_not_corrected_by_its_average_rate():
    # `aa` is wrong and always accepted: the policy is taught to write it, whatever rate is assumed
    right = RIGHT[:1]
    policy = noisy([(torch.tensor([1 - 1e-12, 0.0, 0.0, 1e-12]).to(F64).clamp(min=1e-12), 1e-12)], right=right)
    p = policy.probabilities().detach().view(4, 2).sum(1)
    average = float(p[0] / (p[0] + p[3]))
    back = functools.partial(backward_correction, false_positive=average, false_negative=0.0)
    corrected = compare(found(policy, back, total, leave_one_out), clean(policy))
    assert corrected.residual > 0.1


def test_clipping_the_corrected_verdict_to_its_old_range_brings_the_bias_back():
    policy = noisy([(0.2, 0.3)])
    back = functools.partial(backward_correction, false_positive=0.2, false_negative=0.3)
    clipped = compare(found(policy, back, functools.partial(clamp, low=0.0, high=1.0), total, leave_one_out), clean(policy))
    # (0 - .2) / .5 and (1 - .2) / .5 = 1.6 become 0 and 1: the raw verdict
    assert clipped.scale == pytest.approx(0.5, abs=1e-9)


def test_appeals_recover_the_rate_where_every_negative_is_checked():
    # 100 right answers, 30 of them rejected; 50 wrong ones, all rejected
    assert appealed_rate(70, 80, checked=80, overturned=30) == pytest.approx(0.3)
    # 5 false positives among the positives make it smaller: 30 / 105
    assert appealed_rate(75, 75, checked=75, overturned=30) == pytest.approx(30 / 105)
    assert appealed_rate(10, 0, checked=0, overturned=0) == 0
    assert math.isclose(appealed_rate(0, 4, checked=2, overturned=1), 1.0)
