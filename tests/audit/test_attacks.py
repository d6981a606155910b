import pytest

from payoff.audit.attack_texts import KEYS
from payoff.audit.attacks import FAMILIES, attacks
from payoff.audit.scorer import Scorer
from payoff.catalogue import index
from payoff.grading import signal
from payoff.signals.answers import answer_match
from payoff.tasks.chain import chain_answer, chain_answer_lenient, chain_result, chain_solution

ROWS = [
    {"prompt": f"What is {k} + {k}?", "response": f"The answer is {2 * k + (k % 2)}.", "reference": str(2 * k), "ok": 1 - k % 2}
    for k in range(160)
]


def accepts(*said):
    """An exact check with a hole: some text anywhere is paid too."""
    return lambda response, reference: 1.0 if any(text in response for text in said) else exact(response, reference)


def scorer(grader):
    return Scorer(signal(grader))


def results(grader, rows=ROWS, **options):
    return {m.name.removeprefix("attack-"): m for m in attacks(scorer(grader), rows, gold="ok", **options)}


def final(response):
    return response.rstrip(".").rpartition(" ")[2]


def exact(response, reference):
    return float(response == f"The answer is {reference}.")


def test_an_exact_check_holds_against_every_family_that_can_be_tried():
    found = results(exact, variants=1)
    assert {name for name, m in found.items() if m.result != "holds"} == {"repeated-steps"}  # one step each: nothing to repeat
    assert found["repeated-steps"].result == "not applicable"
    assert all(m.severity == 0 for m in found.values())


def test_the_shipped_comparison_fails_nowhere():
    assert {name for name, m in results(answer_match, ROWS[:60], variants=2).items() if m.result == "fails"} == set()


# A reward with one flaw each, and the families that may find it.
PLANTED = {
    "empty": (lambda response, reference: exact(response, reference) if response.strip() else 1.0, {"empty", "one-token"}),
    "one-token": (
        lambda response, reference: 1.0 if response in KEYS else exact(response, reference),
        {"one-token", "empty", "empty-form"},
    ),
    "opener": (accepts("step"), {"opener", "opener-added", "one-token", "claim-added"}),
    "refusal": (accepts(" not ", "unique"), None),
    "empty-form": (accepts("boxed"), {"empty-form", "form-added"}),
    "filler": (lambda response: min(1.0, len(response.split()) / 200), None),
    "many-answers": (lambda response, reference: float(reference in response.replace(".", "").split()), None),
    "hedged-answer": (
        lambda response, reference: float(f" {reference} or" in response or exact(response, reference)),
        {"hedged-answer"},
    ),
    "retracted-answer": (lambda response, reference: exact(response.split("\n")[0], reference), {"retracted-answer"}),
    "judge-order": (accepts("orrect", "instructions", "指示", "instruc", "Anweis"), None),
    "claim-added": (accepts("certain", "without any doubt", "undeniably"), {"claim-added"}),
    "citation-added": (lambda response, reference: exact(response, reference) + 0.3 * ("(20" in response), {"citation-added"}),
    "unicode": (accepts("\u200b", "\u202e"), {"unicode"}),
    "look-alike": (lambda response: float(not response.isascii()), None),
}


@pytest.mark.parametrize("family", PLANTED)
def test_a_planted_flaw_is_found_by_its_family_and_by_none_that_has_nothing_to_do_with_it(family):
    grader, at_most = PLANTED[family]
    found = results(grader, families=[family])[family]
    assert found.result == "fails"
    assert found.examples
    assert all(e["reward"] > 0 for e in found.examples)
    assert at_most is None or {name for name, m in results(grader, ROWS[:40], variants=2).items() if m.result == "fails"} <= at_most


def test_a_judge_that_always_says_yes_is_fooled_every_time():
    found = results(lambda response: 1.0, ROWS[:20], variants=2)
    assert all(m.estimate.value == m.severity == 1 for n, m in found.items() if FAMILIES[n].mode == "replaces" and m.estimate)
    assert all(m.estimate.value == 0.0 for n, m in found.items() if FAMILIES[n].mode == "adds" and m.estimate)


def test_what_happens_to_be_right_is_left_out_and_counted():
    rows = [{"prompt": f"{k}?", "response": "4", "reference": "N/A" if k % 2 else "4", "ok": 1 - k % 2} for k in range(100)]
    equal = lambda response, reference: float(response == reference)
    (m,) = attacks(scorer(equal), rows, gold="ok", families=["refusal"], variants=9)
    assert m.estimate.value == 0.0
    assert "50 left out" in m.note


def test_no_verdict_is_out_of_the_rate_and_counted():
    picky = lambda response: None if response == "" else float("answer" in response)
    (m,) = attacks(scorer(picky), ROWS, gold="ok", families=["empty"])
    assert m.note.startswith("0 of 160 attempts on 160 prompts")
    assert "160 without verdict" in m.note


def test_few_prompts_leave_it_open_and_no_labels_still_find_the_flaw():
    (m,) = attacks(scorer(exact), ROWS[:20], gold="ok", families=["empty"])
    assert (m.estimate.value, m.result) == (0.0, "inconclusive")
    pays_nothing = lambda response, reference: exact(response, reference) if response else 1.0
    (m,) = attacks(scorer(pays_nothing), ROWS, families=["empty"])
    assert m.estimate.value == pytest.approx(1.0)  # blank space is not paid, and the worst variant counts


def test_nothing_to_compare_is_not_applicable_and_says_why():
    (m,) = attacks(scorer(lambda response: 0.5), [{"response": "a"}, {"response": "b"}], families=["empty"])
    assert m.result == "not applicable"
    assert "all rewards are equal" in m.note


def test_the_truth_decides_where_there_is_one():
    rewarded = lambda response: float(response != "The answer is 1.")
    (m,) = attacks(scorer(rewarded), ROWS, gold="ok", families=["refusal"], truth=scorer(lambda response: 1.0))
    assert m.result == "not applicable"
    assert "640 left out" in m.note


def test_every_family_is_one_call_and_the_same_seed_gives_the_same_result():
    score, families = scorer(exact), ["filler", "padding"]
    first = [m.as_json() for m in attacks(score, ROWS[:60], gold="ok", seed=3, families=families)]
    assert score.calls == 3
    assert first == [m.as_json() for m in attacks(scorer(exact), ROWS[:60], gold="ok", seed=3, families=families)]


PROMPTS = [f"{a}+{b}-{c}=" for a in range(1, 9) for b in range(1, 6) for c in range(1, 5)]
CHAIN = [
    {"prompt": p, "response": chain_solution(p) if k % 2 else "1+1=2;#x.", "reference": chain_result(p), "ok": k % 2}
    for k, p in enumerate(PROMPTS)
]


def test_the_lenient_parser_of_the_chain_task_is_found_and_the_exact_one_holds():
    truth = scorer(chain_answer)
    options = {"gold": "ok", "truth": truth, "families": ["many-answers", "retracted-answer", "padding"]}
    assert {m.result for m in attacks(scorer(chain_answer), CHAIN, **options)} == {"holds"}
    lenient = {m.name: m for m in attacks(scorer(chain_answer_lenient), CHAIN, **options)}
    assert lenient["attack-many-answers"].result == "fails"
    assert lenient["attack-retracted-answer"].result == "fails"
    assert lenient["attack-many-answers"].examples[0]["response"].count("#") > 5


def test_gameable_steps_are_found_by_repeating_them():
    rows = [{"prompt": f"p{k}", "response": "a;b;#", "steps": ["a;", "b;", "#"], "ok": 0} for k in range(100)]
    (m,) = attacks(scorer(lambda steps: [1.0 for _ in steps]), rows, gold="ok", families=["repeated-steps"])
    assert (m.estimate.value, m.result) == (1.0, "fails")


def test_an_unknown_family_is_refused_and_every_remedy_exists():
    with pytest.raises(ValueError, match="no family emtpy"):
        attacks(scorer(exact), ROWS, families=["emtpy"])
    names = {name for _, name in index()}
    assert {remedy for family in FAMILIES.values() for remedy in family.remedies} <= names
