"""Twenty rewards with one known flaw each, and five without: the audit names the flaw first, and finds nothing in the others."""

import pytest
import torch

from payoff.audit.checks import CHECKS, Case
from payoff.audit.planted import CLEAN, FLAWED, evidence
from payoff.audit.report import audit
from payoff.audit.scorer import Scorer
from payoff.rewards import as_signal

ROWS = evidence(100, 8)
FEW = evidence(80, 3)


def audited(reward, channel=None, only=(), rows=ROWS, **options):
    options = {"budget": 2000} | options
    return audit(Case(Scorer(as_signal(reward, "reward"), channel), rows, gold="gold", **options), only=only)


# The rest take minutes. These have the checks that name them, and those that could be named before them.
SOME = {
    "gameable steps": ("attacks", "discrimination"),
    "wrong sign on a subset": ("discrimination", "bias", "invariances", "learnability"),
    "cyclic preferences": ("consistency", "noise", "correlated-proxies"),
    "shared error in an ensemble": ("ensembles", "over-optimisation"),
}


@pytest.mark.parametrize("name", SOME)
def test_a_planted_flaw_is_named_first_by_a_few_checks_on_few_rows(name):
    flaw = FLAWED[name]
    found = audited(flaw.reward, flaw.channel, SOME[name], rows=FEW, seconds=0.1)
    assert found.findings[0].name in flaw.named_by, [m.name for m in found.findings[:5]]


def test_a_clean_reward_has_no_finding_on_few_rows():
    checks = ["discrimination", "bias", "learnability", "noise", "over-optimisation"]
    assert [m.name for m in audited(CLEAN["probable answer"], only=checks, rows=FEW).findings] == []


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FLAWED)
def test_a_planted_flaw_is_named_first(name):
    flaw = FLAWED[name]
    found = audited(flaw.reward, flaw.channel)
    assert found.verdict == "fails"
    assert found.findings[0].name in flaw.named_by, [m.name for m in found.findings[:5]]
    assert found.findings[0].advice


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CLEAN)
def test_a_reward_without_a_flaw_has_no_finding(name):
    assert [m.name for m in audited(CLEAN[name]).findings] == []


def test_twenty_flaws_and_five_clean_rewards_are_tried_and_every_name_is_one_that_an_audit_gives():
    assert (len(FLAWED), len(CLEAN)) == (20, 5)
    quick = {
        m.name
        for m in audited(
            CLEAN["exact answer"], only=[n for n in CHECKS if n not in ("attacks", "attack-search", "distance")], rows=ROWS[:40]
        ).measurements
    }
    named = {name for flaw in FLAWED.values() for name in flaw.named_by if not name.startswith("attack-")}
    assert named <= quick, named - quick


def test_the_rows_say_what_they_promise():
    prompts = {row["prompt"] for row in ROWS}
    assert all({row["gold"] for row in ROWS if row["prompt"] == prompt} == {0.0, 1.0} for prompt in prompts)
    for row in ROWS:
        assert "".join(row["steps"]) == row["response"]
        assert row["gold"] == float(row["response"].endswith(f"answer is {row['reference']}"))
    length = torch.tensor([float(len(row["response"])) for row in ROWS])
    gold = torch.tensor([row["gold"] for row in ROWS])
    assert abs(float(torch.corrcoef(torch.stack([length, gold]))[0, 1])) < 0.1
    assert evidence(20, 8, seed=3) == evidence(20, 8, seed=3) != evidence(20, 8, seed=4)


def test_channels_with_commas_are_an_ensemble_and_its_mean_counts():
    reward = as_signal(FLAWED["shared error in an ensemble"].reward, "reward")
    together = Scorer(reward, "one,two,three")(ROWS[:8]).value
    apart = torch.stack([Scorer(reward, name)(ROWS[:8]).value for name in ("one", "two", "three")])
    assert torch.allclose(together, apart.mean(0))
    with pytest.raises(ValueError, match="one, three, two; found 'one,four'"):
        Scorer(reward, "one,four")(ROWS[:8])
