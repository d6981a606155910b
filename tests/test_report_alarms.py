"""Alarms that training raised, on the report's rows and in its sentences: findings first, by kind, with their seeds."""

from collections import Counter
from pathlib import Path

from payoff.report_page.figures import reward_and_truth
from payoff.report_page.findings import rows
from payoff.report_page.runs import Arm, Run, Seed
from payoff.report_page.sentences import sentences


def alarm(name, kind, update, severity, says="Over updates 0 to 8 the reward rises by 1 while truth falls by 0.5."):
    return {"name": name, "kind": kind, "update": update, "since": 0, "severity": severity, "says": says, "evidence": {}}


def run_of(alarms_by_seed):
    metrics = [{"update": k, "rollouts": 10 * k, "reward": float(k), "truth": 0.5} for k in range(9)]
    seeds = {n: Seed(n, "finished", None, 1.0, metrics, [], Counter(), {}) for n in alarms_by_seed}
    raw = {"arms": {"sum": {"seeds": {str(n): {"alarms": found} for n, found in alarms_by_seed.items()}}}}
    return Run(Path(), raw, "", {"sum": Arm("sum", "", {}, seeds)})


def test_alarms_are_told_by_kind_findings_first_from_the_earliest_seed():
    run = run_of(
        {
            0: [alarm("kl-runaway", "signal", 2, 1.0), alarm("reward-truth-part", "finding", 7, 0.2)],
            1: [alarm("reward-truth-part", "finding", 5, 0.6)],
            2: [],
        }
    )
    (row,) = rows(run)
    assert [(a["name"], a["kind"], a["seeds"], a["of"]) for a in row["alarms"]] == [
        ("reward-truth-part", "finding", [0, 1], 3),
        ("kl-runaway", "signal", [0], 3),
    ]
    assert (row["alarms"][0]["update"], row["alarms"][0]["rollouts"], row["alarms"][0]["severity"]) == (5, 50, 0.6)
    told = [(word, text) for word, text in sentences(run, [row]) if "alarm" in text]
    assert told[0] == (
        "finding",
        "sum: alarm reward-truth-part while training, first at update 5, in 2 of 3 seeds: over updates 0 to 8 the reward rises "
        "by 1 while truth falls by 0.5.",
    )
    figure = reward_and_truth(run, [row])
    assert figure.charts[0].plots[1].alarms == [(50.0, 0.5)]  # the signal is no finding and is not marked
    assert "▲: an alarm" in figure.caption


def test_results_without_alarms_or_with_broken_ones_have_none():
    assert rows(run_of({0: []}))[0]["alarms"] == []
    assert rows(run_of({0: [{"name": "x"}, "no alarm"]}))[0]["alarms"] == []
    run = run_of({0: []})
    del run.raw["arms"]["sum"]
    assert rows(run)[0]["alarms"] == []
