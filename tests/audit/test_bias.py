import math
import random

import pytest
import torch

from payoff.audit.bias import bias
from payoff.audit.residuals import explained_by, partial_rank_correlation, ranks, residual
from payoff.audit.scorer import Scorer
from payoff.catalogue import index
from payoff.grading import signal

RNG = random.Random(7)
ROWS = [
    {
        "prompt": f"{k}?",
        "response": " ".join(RNG.choices(["so", "then", "certainly", "perhaps", "- item"], k=RNG.randint(1, 30)))
        + f"\n**{'yes' if k % 3 else 'no'}**" * RNG.randint(1, 3),
        "reference": "yes" if k % 4 else "no",
        "ok": float(bool(k % 3) == bool(k % 4)),
        "source": "abc"[k % 3],
        "category": "maths" if k % 5 else "code",
    }
    for k in range(200)
]


def results(grader, rows=ROWS, **options):
    options = {"gold": "ok"} | options
    return {m.name.removeprefix("bias-"): m for m in bias(Scorer(signal(grader)), rows, **options)}


def true(response, reference):
    return float(response.rstrip("*").endswith(reference))


def test_a_reward_that_is_the_truth_is_clean():
    found = results(true, own="a")
    assert {m.result for m in found.values()} == {"holds", "not applicable"}
    assert [name for name, m in found.items() if m.result == "not applicable"] == ["position"]
    assert all(m.severity == 0 for m in found.values())


def test_length_that_leaks_is_found_by_both_measures_and_the_other_features_are_not_blamed_first():
    found = results(lambda response, reference: true(response, reference) + len(response) / 200)
    assert (found["length"].result, found["length-paired"].result) == ("fails", "fails")
    assert found["length"].severity == max(found[name].severity for name in ("length", "format", "style", "confidence"))
    gaps = [e["gap"] for e in found["length"].examples]
    assert gaps == sorted(gaps, reverse=True)
    assert {"prompt", "response", "reward", "truth", "length"} <= found["length"].examples[0].keys()


def test_length_that_only_goes_with_right_answers_is_not_blamed():
    rows = [{"prompt": f"{k}", "response": "x" * (20 * (k % 2) + 1 + k % 7), "ok": k % 2} for k in range(120)]
    assert results(lambda response: float(len(response) > 15), rows)["length"].estimate.value == 0.0


def test_without_labels_a_correlation_is_only_told():
    m = results(lambda response: float(len(response)), gold=None)["length"]
    assert (m.result, round(m.estimate.value, 6)) == ("not applicable", 1.0)
    assert "only told" in m.note


PAIRED = {
    "format-paired": lambda response, reference: true(response, reference) + 0.5 * response.startswith("#"),
    "politeness-paired": lambda response, reference: true(response, reference) + 0.5 * ("Thank you" in response),
    "confidence-paired": lambda response, reference: true(response.split("\n\n")[0], reference) - 0.5 * ("not sure" in response),
}


@pytest.mark.parametrize("name", PAIRED)
def test_what_one_addition_earns_is_found(name):
    m = results(PAIRED[name])[name]
    assert (m.result, m.estimate.value) == ("fails", pytest.approx(0.5, abs=0.01))
    assert m.examples


def test_a_reader_of_the_first_answer_is_found_and_a_reader_of_the_last_is_not():
    rows = [{"prompt": f"{k}", "response": str(k), "reference": str(k), "ok": 1} for k in range(60)]
    first = lambda response, reference: float(response.split("\n")[0] == reference)
    last = lambda response, reference: float(response.split("\n")[-1] == reference)
    assert (results(first, rows)["answer-position"].result, results(last, rows)["answer-position"].result) == ("fails", "holds")
    assert results(first, rows)["answer-position"].estimate.value == 1.0


@pytest.mark.parametrize(("extra", "result"), [(0.0, "holds"), (0.3, "fails"), (-0.3, "fails")])
def test_a_judge_that_prefers_a_place_is_found(extra, result):
    rows = [{"prompt": f"{k}", "response": "a" * (k % 5 + 1), "other": "a" * (k % 3 + 1)} for k in range(60)]
    judge = lambda response, other: 0.5 + (len(response) - len(other)) / 20 + extra
    m = results(judge, rows, gold=None)["position"]
    assert m.result == result
    span = 0.5 + 4 / 20 + extra - (0.5 - 2 / 20 + extra)
    assert m.estimate.value == pytest.approx(2 * abs(extra) / span, abs=1e-5)


def test_a_judge_that_prefers_its_own_source_is_found():
    grader = lambda response, reference, source: true(response, reference) + 0.5 * (source == "a")
    found = results(grader, own="a")
    assert (found["self-preference"].result, found["source-scale"].result) == ("fails", "fails")


def test_a_scale_per_source_is_found_and_its_means_told():
    m = results(lambda response, reference, source: true(response, reference) * {"a": 1, "b": 5, "c": 1}[source])["source-scale"]
    assert m.result == "fails"
    assert "for 'b'" in m.note
    assert m.estimate.value > 0.9


def test_the_wrong_sign_on_a_subset_is_found_with_its_name():
    grader = lambda response, reference, category: true(response, reference) * (-1 if category == "code" else 1)
    m = results(grader)["wrong-sign"]
    assert (m.result, round(m.estimate.value, 6)) == ("fails", -1.0)
    assert "category = code" in m.note
    assert {e["truth"] for e in m.examples} == {0.0, 1.0} or m.examples


def test_noise_is_no_bias():
    noise = random.Random(1)
    found = results(lambda response, reference: true(response, reference) + noise.random(), own="a")
    assert not {name for name, m in found.items() if m.result == "fails" and not name.endswith("paired")}


def test_invalid_verdicts_take_no_part():
    found = results(lambda response, reference: None if len(response) > 60 else true(response, reference))
    assert found["length"].result == "holds"
    assert "without verdict" in found["length-paired"].note or found["length-paired"].result == "not applicable"


# --- the statistics


def test_the_correlation_is_that_of_residuals_and_its_interval_is_as_wide_as_fishers():
    generator = torch.Generator().manual_seed(0)
    g, e, f = torch.randn(3, 4000, generator=generator, dtype=torch.float64)
    x, y = g + e, g + 0.5 * e + f
    interval, _ = partial_rank_correlation(y, x, torch.arange(4000), given=g)
    # given g, x and y are e and e / 2 + f: correlation 0.5 / sqrt(1.25) = 0.447, of ranks a little less
    assert interval.value == pytest.approx(6 / math.pi * math.asin(0.447 / 2), abs=0.04)
    fisher = 2 * 1.96 / math.sqrt(4000) * (1 - interval.value**2)
    assert interval.high - interval.low == pytest.approx(fisher, rel=0.15)


def test_saying_everything_twice_changes_nothing_where_the_prompt_is_the_unit():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    once, _ = partial_rank_correlation(y, x, torch.arange(50))
    twice, _ = partial_rank_correlation(y.repeat(2), x.repeat(2), torch.arange(50).repeat(2))
    assert (once.value, once.low, once.high) == pytest.approx((twice.value, twice.low, twice.high))


def test_what_does_not_vary_has_no_correlation_and_what_is_explained_has_none_left():
    x = torch.arange(10).double()
    assert partial_rank_correlation(x, torch.ones(10).double(), torch.arange(10))[0] is None
    assert partial_rank_correlation(x, x, torch.arange(10), given=x)[0] is None
    assert partial_rank_correlation(torch.ones(10).double(), x, torch.arange(10))[0][:3] == (0.0, 0.0, 0.0)
    assert not residual(3 * x + 1, x[:, None]).any()
    assert ranks(torch.tensor([2.0, 2.0]).double()).tolist() == [1.5, 1.5]


def test_labels_that_mean_nothing_explain_nothing_on_average():
    generator = torch.Generator().manual_seed(2)
    shares = []
    for k in range(30):
        y, given = torch.randn(2, 60, generator=generator, dtype=torch.float64)
        shares.append(explained_by(y, torch.arange(60) % 3, given, torch.arange(60), seed=k, replicates=20).value)
    assert sum(shares) / 30 < 0.05
    assert explained_by(given, torch.zeros(60).long(), y, torch.arange(60)) is None


def test_every_remedy_exists():
    found = results(true, own="a")
    assert {remedy for m in found.values() for remedy in m.remedies} <= {name for _, name in index()}
