import itertools
import math
import random

import pytest
import torch

from payoff.audit.attempts import gather
from payoff.audit.consistency import consistency, moment
from payoff.audit.contrast import contrast, cosines
from payoff.audit.no_verdict import no_verdict
from payoff.audit.preferences import circular_share, cyclic_triples, log_odds, lost_to_order, preferences
from payoff.audit.prompt_cache import prompt_cache
from payoff.audit.scorer import Scorer
from payoff.catalogue import index
from payoff.grading import signal

ROWS = [
    {"prompt": f"What is {k} plus {k}?", "response": str(2 * k + wrong), "reference": str(2 * k), "ok": 1 - wrong}
    for k in range(100)
    for wrong in (0, 1)
]


def scorer(grader, **options):
    return Scorer(signal(grader, **options))


def results(grader, rows=ROWS[:88], sees="item", **options):
    options = {"gold": "ok", "limit": None, "bound": 0.1} | options
    return {m.name.removeprefix("consistency-"): m for m in consistency(scorer(grader, sees=sees), rows, **options)}


def exact(response, reference):
    return float(response == reference)


@pytest.fixture(scope="module")
def of_an_exact_check():
    return results(exact)


def test_an_exact_check_is_consistent_in_every_respect(of_an_exact_check):
    found = of_an_exact_check
    assert {m.result for m in found.values()} == {"holds", "not applicable"}
    undecided = {name for name, m in found.items() if m.result == "not applicable"}
    repeats = {f"{name}-repeats" for name in ("false-positive-rate", "false-negative-rate", "verdict-slope")}
    assert undecided == {"swapped-pairs", "triples", "scalar-order", "bradley-terry"} | repeats
    assert all(m.note for m in found.values())


@pytest.mark.slow
def test_a_verdict_by_chance_fails_the_retest_and_is_not_blamed_on_the_order():
    chance = random.Random(0)
    found = results(lambda response, reference: exact(response, reference) if chance.random() < 0.7 else chance.random())
    assert found["retest"].result == "fails"
    assert found["retest"].examples[0]["reward"] != found["retest"].examples[0]["reward_again"]
    clear = results(lambda response: chance.random())
    assert clear["batch-order"].result == "not applicable"


def test_a_verdict_that_comes_and_goes_is_a_change():
    calls = itertools.count()
    m = results(lambda response: None if next(calls) % 3 == 0 else 1.0)["retest"]
    assert m.result == "fails"
    assert "had a verdict only once" in m.note


def test_dependence_on_the_order_is_found_and_told_from_chance():
    def placed(response, reference):
        return [exact(r, g) + 0.5 * (k % 7 == 0) for k, (r, g) in enumerate(zip(response, reference))]

    found = results(placed, sees="batch")
    assert (found["retest"].result, found["batch-order"].result) == ("holds", "fails")


def test_dependence_on_the_size_of_the_batch_is_found():
    def crowded(response, reference):
        return [exact(r, g) + len(response) / 100 for r, g in zip(response, reference)]

    found = results(crowded, sees="batch")
    assert (found["retest"].result, found["batch-order"].result, found["batch-size"].result) == ("holds", "holds", "fails")


def test_a_reward_that_sees_groups_keeps_them_when_calls_are_split():
    def centred(response, reference):
        return [exact(r, g) - sum(map(exact, response, reference)) / len(response) for r, g in zip(response, reference)]

    found = results(centred, sees="group")
    assert (found["batch-order"].result, found["batch-size"].result) == ("holds", "holds")


# --- drift


def test_drift_while_scoring_is_found_without_any_time():
    calls = itertools.count()
    m = results(lambda response, reference: exact(response, reference) + next(calls) / 1e4)["drift"]
    assert (m.result, round(m.estimate.value, 3)) == ("fails", 1.0)


@pytest.mark.slow
def test_drift_over_the_rows_own_time_is_found_given_the_truth():
    rows = [{**row, "time": f"2026-01-{1 + k % 28:02d}T00:00:00"} for k, row in enumerate(ROWS[:112])]
    drifting = lambda response, reference, time: exact(response, reference) - int(time[8:10]) / 100
    assert results(drifting, rows)["drift"].result == "fails"
    assert results(exact, rows)["drift"].result == "holds"
    assert results(drifting, rows[:12], gold=None)["drift"].result == "not applicable"
    assert moment("2026-13-01") is None


# --- contrast instructions


def test_a_reward_that_reads_only_responses_or_only_instructions_scores_one_half():
    evidence = gather(scorer(exact), ROWS, gold="ok", limit=None)
    for grader, expected in (
        (exact, (1.0, 1.0)),
        (lambda response: float(len(response)), (0.5, None)),
        (lambda prompt: float(len(prompt)), (None, 0.5)),
        (lambda response, reference: 1 - exact(response, reference), (0.0, 0.0)),
    ):
        found = contrast(scorer(grader), evidence)
        for m, value in zip(found, expected, strict=True):
            assert value is None or m.estimate.value == value
        assert [m.result for m, value in zip(found, expected, strict=True) if value is not None] == [
            "holds" if value == 1 else "fails" for value in expected if value is not None
        ]


def test_a_row_may_name_its_own_contrast_and_equal_answers_are_no_pair():
    row = {"prompt": "p", "response": "a", "reference": "a", "ok": 1, "contrast_prompt": "q", "contrast_response": "b"}
    score = scorer(exact)
    found = contrast(score, gather(score, [{**row, "prompt": f"{k}"} for k in range(20)], gold="ok"))
    assert [m.estimate.value for m in found] == [1.0, 1.0]
    same = [{"prompt": f"how many? {k}", "response": "4", "reference": "4", "ok": 1} for k in range(9)]
    assert {m.result for m in contrast(score, gather(score, same, gold="ok"))} == {"not applicable"}
    assert cosines(["", "a"])[0].tolist() == [0.0, 0.0]


# --- swapped pairs


PAIRS = [{"prompt": f"{k}?", "chosen": "aa" + "a" * (k % 5), "rejected": "a" + "b" * (k % 3)} for k in range(45)]


def test_a_verdict_that_turns_with_the_order_within_a_call_is_found():
    lead = lambda response: [float(r.count("a")) + 9 * (k % 2 == 0) for k, r in enumerate(response)]
    assert results(lead, PAIRS, sees="batch")["swapped-pairs"].result == "fails"
    m = results(lambda response: float(response.count("a")), PAIRS)["swapped-pairs"]
    assert (m.result, m.estimate.value) == ("holds", 0.0)


def test_a_judge_that_takes_the_first_is_found():
    rows = [{"prompt": f"{k}?", "response": "a" * (k % 5), "other": "a" * (k % 4)} for k in range(45)]
    assert results(lambda response, other: 0.9, rows, gold=None)["swapped-pairs"].estimate.value == 1.0
    fair = lambda response, other: 1 / (1 + math.exp(len(other) - len(response)))
    assert results(fair, rows, gold=None)["swapped-pairs"].estimate.value == 0.0


# --- circles

WINS = {("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")}
GAME = [{"prompt": f"game {k}", "response": move} for k in range(90) for move in ("rock", "paper", "scissors")]


def preferring(probability):
    score = scorer(lambda response, other="": 0.5 if response == other or not other else probability(response, other))
    return {m.name.removeprefix("consistency-"): m for m in preferences(score, gather(score, GAME, limit=None))}


@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_preferences_that_go_round_are_found(strength):
    found = preferring(lambda a, b: strength if (a, b) in WINS else 1 - strength)
    assert (found["triples"].result, found["triples"].estimate.value) == ("fails", 1.0)
    assert (found["scalar-order"].result, found["scalar-order"].estimate.value) == ("fails", pytest.approx(1 / 3))
    assert "rock  >  scissors  >  paper  >  rock" in found["triples"].examples[0]["response"] or found["triples"].examples
    assert found["bradley-terry"].result == ("fails" if strength < 1 else "not applicable")


def test_a_bradley_terry_judge_has_no_circles():
    strength = {"rock": 0.3, "paper": -0.9, "scissors": 1.1}
    found = preferring(lambda a, b: 1 / (1 + math.exp(strength[b] - strength[a])))
    assert {m.result for m in found.values()} == {"holds"}
    assert found["bradley-terry"].estimate.value == pytest.approx(0.0, abs=1e-9)


def test_a_number_per_response_cannot_go_round():
    score = scorer(lambda response: float(len(response)))
    found = preferences(score, gather(score, GAME, limit=None))
    assert [m.estimate.value for m in found] == [0.0, 0.0, 0.0]


def test_a_reward_of_its_group_is_asked_in_pairs():
    game = lambda response: [float(sum((r, s) in WINS for s in response)) for r in response]
    score = scorer(game, sees="group")
    triples = preferences(score, gather(score, GAME, limit=None))[0]
    assert triples.estimate.value == 1.0


def test_the_circular_share_is_that_of_the_decomposition():
    edges = torch.tensor([[0, 1], [1, 2], [0, 2]])
    # potentials (2, 1, 0) and a circle of strength 1 along 0 > 1 > 2 > 0: the parts are orthogonal, 6 and 3
    flow = torch.tensor([1.0, 1, 2]).double() + torch.tensor([1.0, 1, -1]).double()
    share, potential = circular_share(edges, flow, 3)
    assert share == pytest.approx(3 / 9)
    assert (potential - potential[2]).tolist() == pytest.approx([2, 1, 0])
    assert circular_share(edges, torch.zeros(3).double(), 3)[0] == 0.0
    assert log_odds(torch.tensor([0.0, 1.0]).double()).tolist() == pytest.approx([0.0, math.log(99)])


def test_a_transitive_order_loses_nothing_and_half_a_circle_is_no_triple():
    edges, d = torch.tensor([[0, 1], [1, 2], [0, 2]]), torch.tensor([1.0, 1, 1]).double()
    assert cyclic_triples(edges, d) == [((0, 1, 2), False)]
    assert cyclic_triples(edges, d * torch.tensor([-1.0, -1, 1]).double()) == [((0, 2, 1), True)]
    assert lost_to_order(edges, d, 3) == (0, 3)


# --- caches


def test_a_cache_keyed_by_the_prompt_is_found_in_one_call_and_across_calls():
    for lasting in (True, False):
        known = {}

        def cached(prompt, response, reference, known=known):
            return known.setdefault(prompt, exact(response, reference))

        def of_one_call(prompt, response, reference):
            seen = {}
            return [seen.setdefault(p, exact(r, g)) for p, r, g in zip(prompt, response, reference)]

        score = scorer(cached) if lasting else scorer(of_one_call, sees="batch")
        cache, ignored = prompt_cache(score, gather(scorer(exact), ROWS, gold="ok", limit=None))
        assert (cache.result, cache.estimate.value) == ("fails", 1.0)
        assert cache.examples[0]["response"] != cache.examples[0]["response_against"]
        assert ignored.name == "consistency-response-ignored"


def test_a_reward_that_reads_only_prompts_is_found_and_an_honest_cache_is_not():
    evidence = gather(scorer(exact), ROWS, gold="ok", limit=None)
    cache, ignored = prompt_cache(scorer(lambda prompt: float(len(prompt))), evidence)
    assert (cache.result, ignored.result, ignored.estimate.value) == ("holds", "fails", 1.0)
    assert [m.result for m in prompt_cache(scorer(exact, cache=True), evidence)] == ["holds", "holds"]


def test_chance_is_not_taken_for_a_cache_and_prompts_that_are_refused_leave_it_open():
    evidence = gather(scorer(exact), ROWS, gold="ok", limit=None)
    chance = random.Random(0)
    assert prompt_cache(scorer(lambda response: chance.random()), evidence)[0].result == "holds"
    refused = lambda prompt, response, reference: None if prompt.endswith("\n") else exact(response, reference)
    cache, ignored = prompt_cache(scorer(refused), evidence)
    assert (cache.result, ignored.result) == ("not applicable", "holds")


# --- no verdict


def test_exceptions_and_not_a_number_turned_into_a_reward_are_found():
    def swallows(response, reference):
        try:
            return float(int(response) == int(reference))
        except (TypeError, ValueError):
            return 1.0

    def half(response, reference):
        return exact(response, reference) if isinstance(response, str) else 0.5

    evidence = gather(scorer(exact), ROWS, gold="ok", limit=None)
    for grader, worst in ((swallows, 1.0), (half, 0.5)):
        m = no_verdict(scorer(grader), evidence)
        assert m.result == "fails"
        assert m.examples[0]["reward"] == worst
    honest = no_verdict(scorer(lambda response, reference: float(int(response) == int(reference))), evidence)
    assert (honest.result, honest.estimate.value) == ("holds", 0.0)
    assert "800 get no verdict" in honest.note


def test_a_reward_that_reads_no_reference_is_not_asked_about_broken_ones():
    evidence = gather(scorer(exact), ROWS, gold="ok", limit=None)
    m = no_verdict(scorer(lambda response: len(response.strip()) / 9), evidence)
    assert (m.result, m.estimate.value) == ("holds", 0.0)
    assert "of 300 broken rows" in m.note


def test_a_call_that_raises_is_told_and_no_hit():
    plain = scorer(exact)

    def fragile(rows):
        if any(row["response"] is None for row in rows):
            raise RuntimeError("no")
        return plain(rows)

    m = no_verdict(fragile, gather(plain, ROWS, gold="ok", limit=None))
    assert m.result == "holds"
    assert "response None: raises RuntimeError" in m.note


def test_every_remedy_exists_and_every_measurement_is_plain_data(of_an_exact_check):
    found = of_an_exact_check
    assert {remedy for m in found.values() for remedy in m.remedies} <= {name for _, name in index()}
    assert {m.as_json()["check"] for name, m in found.items() if not name.endswith("-repeats")} == {"consistency"}
