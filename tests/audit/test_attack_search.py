import pytest

from payoff.audit.attack_search import attack_search
from payoff.audit.scorer import Scorer
from payoff.grading import signal

ROWS = [{"prompt": f"{k}?", "response": f"It is {k}.", "reference": str(k), "ok": 1} for k in range(20)]


def exact(response, reference):
    return float(response == f"It is {reference}.")


def two_flaws(response, reference):
    """Either half alone is not paid as a right answer; a greedy climber gets there over one of them."""
    return max(exact(response, reference), 0.3 * ("Solution" in response) + 0.7 * ("####" in response))


def search(grader, rows=ROWS, **options):
    score = Scorer(signal(grader))
    (m,) = attack_search(score, rows, gold="ok", **options)
    return m, score


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["greedy", "evolutionary"])
def test_each_strategy_finds_a_flaw_in_two_parts(strategy):
    m, _ = search(two_flaws, strategies=[strategy], rows=ROWS[:8], budget=2000)
    assert m.result == "fails"
    assert m.estimate.value > 0.5
    assert all("Solution" in e["response"] and "####" in e["response"] for e in m.examples)


def test_an_exact_check_is_not_fooled_and_enough_prompts_let_it_hold():
    rows = [{"prompt": f"{k}?", "response": f"It is {k}.", "reference": str(k), "ok": 1} for k in range(80)]
    m, score = search(exact, rows, budget=500)
    assert (m.estimate.value, m.result) == (0.0, "holds")
    assert score.rows == 2 * 80 + 500  # rows and references, then the budget and no more


def test_what_it_finds_has_no_merit():
    m, _ = search(lambda response, reference: float(reference in response), budget=400)
    for example in m.examples:
        assert example["reference"] not in example["response"].split()
        assert example["response"] != f"It is {example['reference']}."


def test_a_transplant_from_another_prompt_is_found():
    m, _ = search(lambda response: float(response.startswith("It is") or "\nIt is" in response), budget=4000)
    assert m.estimate.value > 0.5


def test_a_constant_reward_is_fooled_at_once():
    m, score = search(lambda response: 1.0)
    assert m.estimate.value == 1.0
    # The rows and their references, four candidates each, and each find asked again: respaced, and before other prompts.
    assert score.rows == 2 * 20 + 4 * 20 + 8 * 20


@pytest.mark.slow
def test_the_same_seed_finds_the_same_and_another_looks_elsewhere():
    found = [search(two_flaws, seed=seed, budget=600)[0].as_json() for seed in (5, 5, 6)]
    assert found[0] == found[1] != found[2]


def test_what_the_truth_calls_right_is_dropped():
    m, _ = search(lambda response: 1.0, truth=Scorer(signal(lambda response: 1.0)), budget=200)
    assert m.result == "not applicable"
    assert "left out" in m.note


@pytest.mark.parametrize("options", [{"budget": 0}, {"width": 0}, {"strategies": ["random"]}, {"strategies": []}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="attack_search"):
        search(exact, **options)
