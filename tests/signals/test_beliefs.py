"""Messages are paid for belief in the truth."""

import itertools
import math

import pytest

from payoff.signals.beliefs import speaking


def test_a_discussion_sums_to_what_was_believed_last_minus_first():
    surveys = [[0.25, 0.25], [0.4, 0.1], [0.9, 0.6]]
    steps = [[list(a), list(b)] for a, b in itertools.pairwise(surveys)]
    assert sum(speaking(steps).value) == pytest.approx(1.5 - 0.5)
    assert speaking(steps, team=False).value == pytest.approx([-x for x in speaking(steps).value])


def test_before_exact_bayesian_listeners_no_message_costs_on_average():
    # Truth z in two, message m says z with probability q: E[b(z | m) - b(z)] over z and m, with a prior of p
    for p, q in itertools.product((0.2, 0.5), (0.5, 0.7, 1.0)):
        prior, expected = (p, 1 - p), 0.0
        for z, m in itertools.product((0, 1), (0, 1)):
            likelihood = [q if m == one else 1 - q for one in (0, 1)]
            evidence = prior[0] * likelihood[0] + prior[1] * likelihood[1]
            after = prior[z] * likelihood[z] / evidence if evidence else 0.0
            expected += prior[z] * likelihood[z] * speaking([[[prior[z]], [after]]]).value[0]
        assert expected == pytest.approx(0) if q == 0.5 else expected > 0


@pytest.mark.parametrize("beliefs", [[], [[[0.5]]], [[[0.5], [0.5, 0.5]]], [[[0.5], [1.5]]], [[[math.nan], [0.5]]]])
def test_what_is_no_belief_has_no_verdict(beliefs):
    assert not speaking(beliefs).valid
