"""Evidence of any size: rows on disk, what is read of them once, which prompts statistics rest on, and what they then say."""

import datetime
import math
import random

import pytest
import torch

from payoff.audit.case import Case, Columns
from payoff.audit.discrimination import discrimination
from payoff.audit.pair_rows import expanded
from payoff.audit.report import audit
from payoff.audit.scorer import Scorer
from payoff.audit.stored_rows import BLOCK, Responses, StoredRows
from payoff.grading import signal


def rows_of(prompts, answers=4, seed=0):
    draw = random.Random(seed)
    return [
        {
            "prompt": f"question {k}",
            "response": "x" * draw.randint(1, 9),
            "gold": float(draw.random() < 0.5),
            "source": ("a", "b")[k % 2],
        }
        for k in range(prompts)
        for _ in range(answers)
    ]


def longer(response):
    return float(len(response))


def case(rows, **options):
    return Case(Scorer(signal(longer)), rows, gold="gold", **options)


def test_stored_rows_are_the_rows_in_any_order_of_asking():
    rows = rows_of(150) + [{"prompt": "odd", "day": datetime.date(2026, 1, 2)}, {}, {"prompt": ["list"], "response": None}]
    stored = StoredRows(iter(rows))
    assert list(stored) == rows
    assert len(stored) == len(rows) > 2 * BLOCK
    for place in random.Random(0).sample(range(len(rows)), 40):
        assert stored[place] == rows[place]
    for cut in (slice(250, 260), slice(0, 0), slice(-3, None), slice(None, None, 100)):
        assert list(stored[cut]) == rows[cut]
    with pytest.raises(IndexError):
        stored[len(rows)]


def test_the_digest_is_that_of_the_rows_and_not_of_the_objects():
    one, two = [{"prompt": "p" * 3, "response": "r"}], [{"prompt": "".join(["p", "p", "p"]), "response": "r"}]
    assert StoredRows(one).digest == StoredRows(two).digest != StoredRows([*one, *two]).digest
    assert StoredRows(one).digest != StoredRows([{"response": "r", "prompt": "ppp", "x": 1}]).digest


def test_pairs_are_two_responses_wherever_the_rows_lie():
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "q", "response": "c"}, {"prompt": "r", "chosen": "d"}]
    for kept in (rows, StoredRows(rows)):
        found = Responses.of(kept, "gold")
        assert [row["response"] for row in found] == [row["response"] for row in found[0:3]] == ["a", "b", "c"]
        assert [found.source(k) for k in range(3)] == [0, 0, 1]
        assert [row["gold"] for row in found.only([1, 0])] == [0.0, 1.0]
        assert Case(Scorer(signal(longer)), kept).label == "gold"


def test_files_of_reward_benchmarks_give_one_row_per_answer():
    two = {"prompt": "p", "chosen": ["a"], "rejected": ["b", "c"], "subset": "Math"}
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    one = {"prompt": "p", "chosen": talk, "rejected": talk, "subset": "hard"}
    found = list(expanded([two, one, {"prompt": "p", "response": "r"}]))
    assert [(row.get("response"), row.get("gold")) for row in found] == [
        ("a", 1.0),
        ("b", 0.0),
        ("c", 0.0),
        (None, None),
        ("r", None),
    ]
    assert [row.get("source") for row in found] == ["Math", "Math", "Math", "hard", None]
    assert found[3]["chosen"] == talk


def test_columns_say_of_odd_rows_what_they_say_of_plain_ones():
    rows = [
        {"prompt": "p", "response": "ab", "gold": 1.0},
        {"prompt": "p", "response": [{"role": "assistant", "content": "abc"}], "gold": "yes", "source": 7},
        {"prompt": "q", "group": 3, "response": "", "gold": None},
        {"prompt": "r", "group": 3, "response": "x", "gold": math.inf},
        {"response": "y", "gold": True},
        {"response": "z", "gold": 10**400},
        {"prompt": "p", "response": "x"},
    ]
    once, apart = Columns("gold"), Columns("gold")
    once.take(rows)
    for row in rows:
        apart.take([row])
    for name in ("group", "length", "source"):
        assert list(getattr(once, name)) == list(getattr(apart, name))
    assert list(once.length) == [2, 3, 0, 1, 1, 1, 1]
    assert list(once.group) == [0, 0, 1, 1, 2, 3, 0]  # rows that name nothing stand alone
    assert list(once.sources) == ["(none)", "7"]
    known = Case(Scorer(signal(lambda response: 1.0)), rows, gold="gold")
    assert known.gold_value.tolist() == [1, 1, 0, 0, 1, 0, 0]
    assert known.gold_valid.tolist() == [True, True, False, False, True, False, False]


def test_scoring_and_reading_in_one_pass_gives_what_two_give():
    rows = rows_of(300)
    together, apart = case(StoredRows(rows)), case(rows)
    apart.columns  # noqa: B018 - read before anything is scored
    assert together.scores.value.tolist() == apart.scores.value.tolist() == [float(len(row["response"])) for row in rows]
    assert together.group.tolist() == apart.group.tolist() == [k // 4 for k in range(1200)]
    assert together.score.rows == 1200


def test_of_many_rows_whole_prompts_are_drawn_and_every_number_says_so():
    rows = rows_of(200)
    small = case(rows, most=100)
    assert len(small.drawn) == 100
    assert small.prompt.unique(return_counts=True)[1].tolist() == [4] * 25
    assert [row["response"] for row in small.responses] == [rows[k]["response"] for k in small.drawn.tolist()]
    (auc, *_) = small.by_gold(discrimination)
    assert auc.note.endswith("Of 100 responses to 25 prompts, drawn at random from 800.")
    (top,) = [m for m in small.by_gold(discrimination) if m.name == "top-precision"]
    assert all(rows[e["row"]]["response"] == e["response"] for e in top.examples)
    assert case(rows).drawn is None
    assert int(case(rows, most=1).drawn.numel()) == 4  # at least one prompt


def test_what_is_drawn_estimates_what_all_rows_say_within_its_interval():
    rows = rows_of(600, seed=3)
    whole, part = (c.by_gold(discrimination)[0].estimate for c in (case(rows), case(rows, most=800)))
    assert part.low < whole.value < part.high
    assert part.high - part.low > whole.high - whole.low


def test_several_rewards_are_one_ensemble_another_path_is_compared_and_prices_are_counted():
    rows = rows_of(30)
    other = Scorer(signal(lambda response: float(len(response)) + 1.5 * (response == "xxx")))
    found = audit(case(rows, members=[other], served=other, prices={"calls": 0.01}), only=["ensembles", "health"], reward="longer")
    by = {m.name: m for m in found.measurements}
    assert by["ensemble-disagreement"].estimate.value > 0
    assert by["parity-difference"].estimate.value > 0.05
    assert by["parity-difference"].result == "fails"
    assert by["cost-per-thousand"].estimate.value == pytest.approx(10)
    with pytest.raises(LookupError, match="it counts calls"):
        audit(case(rows, prices={"prompt_tokens": 1.0}), only=["health"])


def test_statistics_of_a_tensor_that_was_changed_are_not_those_of_before():
    score, gold, group = torch.rand(40).double(), torch.arange(40).double() % 2, torch.arange(40) // 4
    valid = torch.ones(40, dtype=torch.bool)
    before = discrimination(score, valid, gold, group)[0].estimate.value
    score.neg_()
    assert discrimination(score, valid, gold, group)[0].estimate.value == pytest.approx(1 - before)
