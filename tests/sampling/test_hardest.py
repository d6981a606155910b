"""The K starts of lowest first score: who is chosen, once, and again after a resumption."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.policies.tabular import Tabular
from payoff.sampling.hardest import Hardest
from payoff.tasks.tree import Tree

TASK = Tree(prompts=6)
SCORES = {"tree-0": 0.5, "tree-1": 0.1, "tree-2": None, "tree-3": 0.9, "tree-4": 0.1, "tree-5": 0.3}


class Counted:
    """A policy that counts what it is asked."""

    def __init__(self):
        self.policy, self.asked = Tabular(2, 2), []

    def rollout(self, starts, n, rng):
        self.asked += [start.id for start in starts] * n
        return self.policy.rollout(starts, n, rng)


def hardest(policy=None, **options):
    return Hardest(
        **{"policy": policy or Counted(), "scorer": lambda start: SCORES[start], "pool": 6, "keep": 3, "batch": 4, **options}
    )


def test_the_lowest_are_kept_after_one_answer_to_each_and_come_in_turn():
    policy = Counted()
    made = hardest(policy)
    given = [start.id for _ in range(3) for start in made(TASK, 2, torch.Generator())]
    assert sorted(policy.asked) == sorted(SCORES)
    assert set(made.chosen()) == {"tree-1", "tree-4", "tree-5"}
    assert made.chosen()[2] == "tree-5"
    assert sorted(given) == sorted(made.chosen() * 2)
    assert given[:3] == given[3:]
    told = made.learn(four_answers(), {})
    assert told["bleuberi/score"] == pytest.approx(0.5 / 3)
    assert told["bleuberi/pool_score"] == pytest.approx(1.9 / 5)


def test_a_resumed_run_asks_nobody_and_goes_on_where_it_was():
    made = hardest()
    made(TASK, 2, torch.Generator())
    policy = Counted()
    again = hardest(policy)
    again.set_extra_state(made.get_extra_state())
    rest = [[start.id for start in one(TASK, 4, torch.Generator())] for one in (made, again)]
    assert rest[0] == rest[1]
    assert policy.asked == []


def test_what_has_no_verdict_is_never_kept():
    assert "tree-2" not in {start.id for start in hardest(keep=6)(TASK, 12, torch.Generator())}
    with pytest.raises(ValueError, match="no start of the pool has a verdict"):
        hardest(scorer=lambda start: None)(TASK, 1, torch.Generator())
    with pytest.raises(ValueError, match="1 <= keep <= pool"):
        hardest(keep=7)
