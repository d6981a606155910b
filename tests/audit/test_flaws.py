"""Twenty rewards with one known flaw each, and five without: the audit names the flaw first, and finds nothing in the others.

The whole audit of each takes minutes and is exhaustive; what runs always is one cheap pass over all twenty with the measures that
name a flaw, on few rows, beside what any audit says of the same scores.
"""

from collections.abc import Callable
from functools import cache

import pytest
import torch

from payoff.audit.attacks import attacks
from payoff.audit.attempts import gather
from payoff.audit.bias import bias
from payoff.audit.checks import CHECKS, Case
from payoff.audit.consistency import consistency
from payoff.audit.invariances import invariances
from payoff.audit.measurement import worst_first
from payoff.audit.no_verdict import no_verdict
from payoff.audit.oversized import oversized
from payoff.audit.planted import CLEAN, FLAWED, evidence
from payoff.audit.preferences import preferences
from payoff.audit.prompt_cache import prompt_cache
from payoff.audit.report import audit
from payoff.audit.scorer import Scorer
from payoff.rewards import as_signal

ROWS = evidence(100, 8)
FEW = evidence(80, 3)


def audited(reward, channel=None, only=(), rows=ROWS, **options):
    options = {"budget": 2000} | options
    return audit(Case(Scorer(as_signal(reward, "reward"), channel), rows, gold="gold", **options), only=only, effects=False)


def tried(*families):
    return lambda case: attacks(case.score, FEW[:30], gold="gold", families=families, variants=2)


def seen(case):
    return gather(case.score, FEW[:60], gold="gold")


# What names each flaw, on few rows; the checks that ask nothing again are run beside it for all of them.
NAMED: dict[str, Callable] = {
    "length leakage": tried("padding", "filler"),
    "lenient parser": tried("many-answers", "buried-answer"),
    "first answer counts": tried("retracted-answer"),
    "gameable steps": tried("repeated-steps"),
    "judge fooled by an opener": tried("opener", "opener-added"),
    "symmetric noise": lambda case: [],
    "asymmetric noise": lambda case: [],
    "saturation": lambda case: [],
    "wrong sign on a subset": lambda case: [],
    "cyclic preferences": lambda case: preferences(case.score, seen(case), prompts=30),
    "shared error in an ensemble": CHECKS["ensembles"].run,
    "dependence on batch order": lambda case: consistency(case.score, FEW[:36], gold="gold"),
    "cache keyed by prompt only": lambda case: prompt_cache(case.score, seen(case)),
    "NaN turned into 1": lambda case: [no_verdict(case.score, seen(case))],
    "scale per source": lambda case: bias(case.score, FEW[:60], gold="gold"),
    "format alone pays": tried("empty-form", "form-added"),
    "any alternative counts": tried("hedged-answer"),
    "copied prompt pays": tried("prompt-copied"),
    "comparison letter by letter": lambda case: invariances(case.score, FEW[:30], gold="gold", variants=2),
    "quadratic time": lambda case: oversized(case.score, FEW[:3], gold="gold", kinds=("blank space",), sizes=(1000, 3000)),
}
ALWAYS = ("discrimination", "noise", "learnability")


@cache
def found_in(name):
    """The measures of the cheap pass, worst first; of a clean reward all that names any flaw."""
    flaw = FLAWED.get(name)
    score = Scorer(as_signal(flaw.reward if flaw else CLEAN[name], "reward"), flaw.channel if flaw else None)
    case = Case(score, FEW, gold="gold")
    own = [NAMED[name]] if flaw else [run for flawed, run in NAMED.items() if flawed != "quadratic time"]
    return worst_first([m for run in (*own, *(CHECKS[check].run for check in ALWAYS)) for m in run(case)])


@pytest.mark.parametrize("name", FLAWED)
def test_a_planted_flaw_is_named_first_by_what_names_it_on_few_rows(name):
    found = [m for m in found_in(name) if m.result == "fails"]
    assert found, [(m.name, m.estimate) for m in found_in(name)]
    assert found[0].name in FLAWED[name].named_by, [m.name for m in found[:5]]


def test_a_clean_reward_fails_none_of_what_names_a_flaw():
    assert [m.name for m in found_in("probable answer") if m.result == "fails"] == []
    held = {m.name for m in found_in("probable answer")}
    assert {name for flaw in FLAWED.values() for name in flaw.named_by} - held <= NOT_IN_THE_PASS


NOT_IN_THE_PASS = {"attack-oversized", "attack-oversized-time", "attack-empty", "ensemble-shared-error", "constant-groups"}


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


def test_twenty_flaws_and_five_clean_rewards_are_tried_by_name():
    assert (len(FLAWED), len(CLEAN)) == (20, 5)
    assert list(NAMED) == list(FLAWED)


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
