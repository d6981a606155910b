"""Cost and health: times, reasons, money, and whether two paths to a reward are one."""

import pytest
import torch

from payoff.audit.health import PARITY, TIME, constant_groups, cost, invalid_verdicts, latency, parity

F64 = torch.float64


def yes(n: int) -> torch.Tensor:
    return torch.ones(n, dtype=torch.bool)


def by_name(found):
    return {m.name: m for m in found}


def test_percentiles_of_times_and_their_intervals():
    found = by_name(latency([i / 1000 for i in range(1, 2001)]))
    assert found["latency-p50"].estimate.value == 1.0
    assert found["latency-p95"].estimate.value == 1.9
    assert found["latency-p99"].estimate.low < 1.98 < found["latency-p99"].estimate.high
    assert found["throughput"].estimate.value == pytest.approx(2000 / 2001)  # the mean time is 1.0005
    assert found["throughput"].estimate.low < 2000 / 2001 < found["throughput"].estimate.high


def test_verdicts_side_by_side_count_the_time_that_passed():
    found = by_name(latency([2.0] * 10, total=4.0, rows=100))
    assert found["throughput"].estimate.value == 25
    assert found["throughput"].estimate.low is None
    assert [m.name for m in latency([])] == list(TIME.asked)
    assert by_name(latency([0.0, 0.0]))["throughput"].estimate is None


def test_a_bound_on_time_is_given_by_name():
    assert by_name(latency([1.0] * 100, bounds={"latency-p50": 0.5}))["latency-p50"].result == "fails"
    assert by_name(latency([1.0] * 100))["latency-p50"].result == "not applicable"


def test_reasons_are_counted_most_frequent_first_with_the_first_row_of_each():
    valid = yes(200)
    valid[[3, 5, 7, 11]] = False
    rows = [{"prompt": f"p{i}", "response": "r"} for i in range(200)]
    found = invalid_verdicts(valid, {3: "unparsable", 5: "timeout", 7: "timeout"}, torch.arange(200), rows=rows)[0]
    assert found.estimate.value == 0.02
    assert [(e["reason"], e["count"], e["row"]) for e in found.examples] == [
        ("timeout", 2, 5),
        ("unparsable", 1, 3),
        ("no reason given", 1, 11),
    ]
    assert found.examples[0]["prompt"] == "p5"
    assert invalid_verdicts(yes(500), {}, torch.arange(500))[0].result == "holds"
    assert invalid_verdicts(~yes(500), {}, torch.arange(500))[0].severity > 0.9
    assert invalid_verdicts(yes(0), {}, torch.arange(0))[0].estimate is None


def test_constant_groups_count_only_where_gold_differs():
    scores = torch.tensor([1.0, 1, 1, 0, 5, 5], dtype=F64)
    gold = torch.tensor([1.0, 0, 1, 0, 1, 1], dtype=F64)
    group = torch.arange(6) // 2
    found = constant_groups(scores, yes(6), gold, group)[0]
    assert found.estimate.value == 0.5  # the first of the first two prompts; the third's answers are equally good
    assert constant_groups(scores, yes(6), None, group)[0].estimate is None
    assert constant_groups(scores, ~yes(6), gold, group)[0].estimate is None
    assert (
        constant_groups(torch.zeros(200, dtype=F64), yes(200), (torch.arange(200) % 2).double(), torch.arange(200) // 2)[0].result
        == "fails"
    )


def test_a_thousand_verdicts_cost_what_their_calls_used():
    found = cost([100.0, 300.0, 200.0, 200.0], 0.001, 8, currency="EUR")[0]
    assert found.estimate.value == pytest.approx(800 * 0.001 / 8 * 1000)
    assert found.estimate.low < 100 < found.estimate.high
    assert "EUR" in found.note
    assert cost([], 1.0, 5)[0].estimate is None
    with pytest.raises(ValueError, match="price >= 0"):
        cost([1.0], -1.0, 5)


def test_a_rounded_path_is_in_parity_and_one_with_a_wrong_template_is_not():
    g = torch.Generator().manual_seed(0)
    local, group = torch.randn(8000, generator=g, dtype=F64), torch.arange(8000) // 4
    rounded = by_name(parity(local.half().double(), yes(8000), local, yes(8000), group))
    wrong = by_name(parity(local + 0.5 * torch.randn(8000, generator=g, dtype=F64), yes(8000), local, yes(8000), group))
    for name in ("parity-difference", "parity-order"):
        assert (rounded[name].result, wrong[name].result) == ("holds", "fails")
    assert wrong["parity-validity"].estimate.value == 0
    sd = float(local.std())
    assert rounded["parity-difference"].estimate.value == pytest.approx(float((local.half().double() - local).abs().max()) / sd)


def test_a_monotone_path_keeps_the_order_and_not_the_number():
    local, group = torch.arange(400, dtype=F64), torch.arange(400) // 4
    found = by_name(parity(3 * local, yes(400), local, yes(400), group))
    assert found["parity-order"].estimate.value == 0
    assert found["parity-difference"].severity == 1


def test_verdicts_of_one_path_only_are_counted_and_compared_nowhere():
    local = torch.arange(100, dtype=F64)
    served, served_valid = local.clone(), yes(100)
    served[:5], served_valid[5:10] = float("nan"), False
    served[5:10] = 1e9
    rows = [{"prompt": "p", "response": str(i)} for i in range(100)]
    found = by_name(parity(served, served_valid, local, yes(100), torch.arange(100) // 4, rows=rows))
    assert found["parity-validity"].estimate.value == 0.1
    assert found["parity-difference"].estimate.value == 0
    assert found["parity-difference"].examples == ()
    none = by_name(parity(served, ~yes(100), local, yes(100), torch.arange(100)))
    assert none["parity-order"].estimate is None
    assert none["parity-validity"].estimate.value == 1
    assert list(by_name(parity(local[:0], yes(0), local[:0], yes(0), torch.arange(0)))) == list(PARITY.asked)
