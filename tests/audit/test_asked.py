"""What is fixed about every measure before a number is seen."""

import pytest

from payoff.audit import calibration, correlated, discrimination, ensembles, health, learnability, noise, optimisation
from payoff.audit.asked import Asked, Family
from payoff.catalogue import index
from payoff.intervals import wilson

FAMILIES = [
    family
    for module in (calibration, correlated, discrimination, ensembles, health, learnability, noise, optimisation)
    for family in vars(module).values()
    if isinstance(family, Family)
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.check}-{next(iter(family.asked))}")
def test_every_bound_has_a_reason_and_a_graver_end_and_every_remedy_is_registered(family):
    registered = {name for _, name in index()}
    for name, asked in family.asked.items():
        assert asked.question.endswith(("?", "against the reward."))
        assert set(asked.remedies) <= registered, name
        if asked.bound is not None:
            assert asked.why
            assert asked.advice
            assert asked.worst > asked.bound if asked.bad == "above" else asked.worst < asked.bound
        assert family.missing(name, "why").note == "why"


def test_bounds_are_replaced_by_the_name_found_or_by_the_standing_one():
    family = Family("x", {"slice": Asked("Where?", bound=0.5)})
    estimate = wilson(40, 100)
    assert family.found("by-length", estimate, standing="slice").bound == 0.5
    assert family.found("by-length", estimate, {"slice": 0.2}, standing="slice").bound == 0.2
    assert family.found("by-length", estimate, {"slice": 0.2, "by-length": 0.1}, standing="slice").bound == 0.1
