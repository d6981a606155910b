"""What the checks put together of a case: slices, parts of a reward, preferences as labels, where members of an ensemble part."""

import pytest
import torch

from payoff.audit.case import Case, binned
from payoff.audit.checks import CHECKS
from payoff.audit.planted import evidence
from payoff.audit.scorer import ON_THE_WAY, Scorer, Scores, together
from payoff.grading import signal
from payoff.signals.answers import answer_match

ROWS = evidence(30, 4)


def of(grader, rows=ROWS, channel=None, **options):
    return Case(Scorer(signal(grader), channel), rows, **{"gold": "gold", **options})


def measured(check, case):
    return {m.name: m for m in CHECKS[check].run(case)}


def wrong_on(word):
    return lambda response, reference, level: answer_match(response, reference) * (1 if level != word else -1)


def test_the_reward_is_told_by_difficulty_in_words_numbers_or_by_how_well_a_prompt_is_answered():
    rows = [{**row, "level": ("easy", "hard")[k // 4 % 2], "steps_needed": k // 4 % 2 + 1} for k, row in enumerate(ROWS)]
    words = measured("discrimination", of(wrong_on("hard"), rows, difficulty="level"))["discrimination-by-difficulty"]
    assert (words.estimate, words.note.split(",")[0]) == (None, "No slice has 20 prompts with a pair that differs in gold.")
    rows = [{**row, "prompt": f"{k // 4} {row['prompt']}"} for k, row in enumerate(rows * 2)]
    words = measured("discrimination", of(wrong_on("hard"), rows, difficulty="level"))["discrimination-by-difficulty"]
    assert (words.estimate.value, words.result) == (0.0, "fails")
    assert words.note.startswith("Lowest in hard: easy 1.000, hard 0.000")
    numbers = measured("discrimination", of(wrong_on("hard"), rows, difficulty="steps_needed"))["discrimination-by-difficulty"]
    assert numbers.note.startswith("Lowest in 2 steps_needed: 1 steps_needed 1.000, 2 steps_needed 0.000")
    own = of(wrong_on("hard"), rows).slices["difficulty"][1]
    assert all(name.endswith("mean gold of the prompt") for name in own)
    assert "difficulty" not in of(wrong_on("hard"), rows, gold=None).slices


def test_what_has_no_number_is_a_slice_of_its_own():
    part, names = binned(torch.tensor([3.0, float("nan"), 1.0]).double(), "steps")
    assert ([names[k] for k in part.tolist()], names) == (["3 steps", "(none)", "1 steps"], ["1 steps", "3 steps", "(none)"])


def test_a_part_that_pays_against_the_outcome_is_found_and_one_that_helps_holds():
    def graded(response, reference):
        right = answer_match(response, reference)
        return {"answer": right, "with it": right + len(response) / 1e6, "against it": -right}

    found = measured("learnability", of(graded, channel="answer"))
    assert {name for name in found if name.startswith("dense")} == {"dense-agreement-with it", "dense-agreement-against it"}
    assert [found[f"dense-agreement-{part}"].result for part in ("with it", "against it")] == ["holds", "fails"]
    assert not any(name.startswith("dense") for name in measured("learnability", of(answer_match)))


def test_what_a_reward_of_steps_pays_before_the_end_is_held_against_the_outcome():
    def stepwise(steps, reference):
        right = answer_match(steps[-1], reference)
        return [*(-right for _ in steps[:-1]), 10 * right]

    case = of(stepwise)
    assert list(case.parts) == [ON_THE_WAY]
    assert case.parts[ON_THE_WAY][ROWS.index(next(row for row in ROWS if row["gold"]))] < 0
    assert measured("learnability", case)["dense-agreement-on-the-way"].estimate.value == 0.0
    without = measured("learnability", of(stepwise, gold=None))["dense-agreement-on-the-way"]  # the last step is the outcome
    assert without.estimate.value == 0.0


def test_scores_of_calls_with_other_channels_are_put_together():
    x = torch.ones(2).double()
    found = together([Scores(x, x.bool(), {}, {"a": (x, x.bool())}), Scores(2 * x, x.bool(), {0: "why"})])
    assert (found.reasons, found.parts["a"][1].tolist()) == ({2: "why"}, [True, True, False, False])
    assert len(together([]).value) == 0


def test_members_are_told_apart_by_where_they_part_and_by_the_labels_they_turn_round():
    pairs = [{"prompt": f"{k}?", "chosen": "aa", "rejected": "a", "source": ("web", "book")[k % 2]} for k in range(60)]
    pairs[0] |= {"chosen": "a", "rejected": "aa"}  # a label that is wrong
    asked = []

    def two(response, source):
        asked.append(response)
        return {"one": len(response), "two": len(response) * (1 if source == "web" else -1)}

    case = Case(Scorer(signal(two), "one,two"), pairs)
    found = measured("ensembles", case)
    assert len(asked) == 120  # once for each response, whatever the members
    where = found["ensemble-disagreement-by-source"]
    assert (where.estimate.value, where.note.split(":")[0]) == (1.0, "Most often in book")
    assert found["doubtful-labels"].estimate.value == pytest.approx(1 / 60)
    assert found["ensemble-members"].estimate.value == pytest.approx(59 / 60 - 29 / 60)
    assert {"ensemble-median", "ensemble-robust", "ensemble-shared-feature-length"} <= found.keys()
