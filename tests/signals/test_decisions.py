"""Payoffs of decisions: the parts, and that the threshold is the one at which both decisions pay the same."""

import itertools

import pytest

from payoff.signals.decisions import HIRING, acceptance_threshold, decision_reward

PLAIN = {"form": 0.0, "cited": 0.0, "length": 0.0, "low": -20.0, "high": 20.0}


def test_the_threshold_is_where_both_decisions_pay_the_same_and_below_it_rejecting_pays_more():
    for right, wrong, kept, missed in itertools.product((0.5, 2.0), (-0.5, -1.0, -10.0), (0.0, 1.0), (-0.5, -2.0)):
        table = {"accept": {"accept": right, "reject": missed}, "reject": {"accept": wrong, "reject": kept}}
        paid = {
            (truth, said): decision_reward(said, truth, payoffs=table, **PLAIN).value
            for truth, said in itertools.product(("accept", "reject"), repeat=2)
        }
        of_right, of_wrong = (paid[truth, "accept"] - paid[truth, "reject"] for truth in ("accept", "reject"))
        p = acceptance_threshold(accept_right=right, accept_wrong=wrong, reject_right=kept, reject_wrong=missed)
        gains = [q * of_right + (1 - q) * of_wrong for q in (p - 0.01, p, p + 0.01)]
        assert gains[0] < 0 < gains[2]
        assert gains[1] == pytest.approx(0, abs=1e-12)


def test_only_differences_of_payoffs_count_and_symmetric_ones_ask_for_one_half():
    at = lambda a, b, t, d: acceptance_threshold(accept_right=a, accept_wrong=b, reject_right=t, reject_wrong=d)
    assert at(1.0, -3.0, 0.5, -0.5) == pytest.approx(at(1.0 + 4, -3.0 - 2, 0.5 - 2, -0.5 + 4))
    assert at(1.0, -3.0, 0.5, -0.5) == pytest.approx(at(7.0, -21.0, 3.5, -3.5))
    assert at(2.0, -1.0, 2.0, -1.0) == 0.5


def test_a_threshold_needs_gains_and_rises_to_one_with_the_price_of_wrong_acceptances():
    at = lambda price: acceptance_threshold(accept_right=1.0, accept_wrong=-price, reject_right=0.5, reject_wrong=-0.5)
    assert at(0.5) < at(3.0) < at(1000.0) < 1
    assert at(1e9) == pytest.approx(1)
    with pytest.raises(ValueError, match="being right must pay more"):
        acceptance_threshold(accept_right=0.0, accept_wrong=-1.0, reject_right=1.0, reject_wrong=0.0)


def test_parts_by_hand_and_bounds():
    said = "<evidence>\n- C++ expert\n- tall\n</evidence><answer>reject</answer>"
    # evidence: one of two lines, one of one wanted: F1 2/3; form 1
    assert decision_reward(said, "accept", ["C++ expert."]).value == pytest.approx(-0.5 + 0.1 + 0.2 * 2 / 3)
    assert decision_reward(said, "accept").value == pytest.approx(-0.4)
    assert decision_reward("reject", "accept", length=1.0, longest=1).value == -0.5
    assert decision_reward("well the answer is reject", "accept", length=1.0, longest=2).value == pytest.approx(-0.5 - 1.5)
    assert decision_reward("accept", "accept", payoffs={"accept": {"accept": 9.0}}).value == 2.0


def test_a_decision_that_cannot_be_read_has_the_least_payoff_of_its_row():
    assert decision_reward("<answer>maybe</answer>", "reject").value == HIRING["reject"]["accept"]
    assert decision_reward("", "accept").value == HIRING["accept"]["reject"]
    assert "cannot be read" in decision_reward("", "accept").reason


def test_a_reference_without_payoffs_is_no_verdict():
    assert not decision_reward("accept", "perhaps").valid
    assert not decision_reward("accept", None).valid
    with pytest.raises(ValueError, match="payoffs of finite numbers"):
        decision_reward("accept", "accept", payoffs={"accept": {}})
