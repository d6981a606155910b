"""The form of transcripts that ask other models, and their cost."""

import math

import pytest

from payoff.signals.routing import cost, router_format, router_outcome

ASK = "<search>Owl: how many</search><information>4</information>"


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        ("<think>a</think><answer>4</answer>", ""),
        (f" \n<think>a</think>\n{ASK}<think>b</think>{ASK}<answer>4</answer>\n", ""),
        ("4", "no thought"),
        ("", "no thought"),
        ("<answer>4</answer>", "before the first thought"),
        ("So <think>a</think><answer>4</answer>", "before the first thought"),
        ("<think>a</think><answer>4</answer> indeed", "after the answer"),
        ("<think>a</think><answer>4</answer><think>b</think>", "after the answer"),
        ("<think>a</think><answer>4</answer><answer>5</answer>", "after the answer"),
        ("<think>a</think>", "exactly one answer"),
        ("<think>a</think><answer>4", "not closed"),
        ("<think>a<answer>4</answer></think>", "inside <think>"),
        ("<think>a</answer>", "inside <think>"),
        ("<think>a</think></think><answer>4</answer>", "does not fit"),
        ("<think>a</think><search>Owl: x</search><answer>4</answer>", "1 calls and 0 blocks"),
        ("<think>a</think><information>4</information><answer>4</answer>", "0 calls and 1 blocks"),
        ("<think>a</think><search>Owl</search><information></information><answer>4</answer>", "without a model"),
        ("<think>a</think><search>Owl: </search><information></information><answer>4</answer>", "without a model"),
        ("<think>a</think><search>LLM-Name: x</search><information></information><answer>4</answer>", "without a model"),
        ("<think>a</think><search>Owl: Your-Query</search><information></information><answer>4</answer>", "without a model"),
        ("<think>" * 100_000, "inside <think>"),
    ],
)
def test_faults_of_form(response, fault):
    verdict = router_format(response)
    assert verdict.valid
    assert verdict.value == (-1 if fault else 0)
    assert fault in verdict.reason


def test_only_models_that_exist_may_be_asked():
    text = f"<think>a</think>{ASK}<answer>4</answer>"
    assert router_format(text, models=[" OWL "]).value == 0
    assert router_format(text, models=["Elk"]).value == -1


@pytest.mark.parametrize("value", [None, -1, math.nan, math.inf, True])
def test_a_cost_that_is_none_is_no_verdict(value):
    assert not cost(value).valid


def test_a_cost_is_itself():
    assert cost(0) == 0
    assert cost(2.5) == 2.5


@pytest.mark.parametrize(
    ("said", "wanted", "exact", "f1"),
    [
        ("The answer is the Cat!", "cat", 1, 1),
        ("a b", "b c", 0, 2 / 3),  # "a" is an article
        ("x b", "b c", 0, 0.5),
        ("x b", ["q", "b c", "x b"], 1, 1),
        ("yes", "no", 0, 0),
        ("Yes.", "yes", 1, 1),
        ("yes it is", "yes", 0, 0),
        ("noanswer", "no answer", 0, 0),
        ("", "cat", 0, 0),
        ("the", "a", 1, 1),
        ("the", "cat", 0, 0),
    ],
)
def test_outcomes_by_hand(said, wanted, exact, f1):
    assert router_outcome(said, wanted) == exact
    assert router_outcome(said, wanted, measure="f1") == pytest.approx(f1)


def test_an_outcome_needs_a_reference():
    assert not router_outcome("a", None).valid
