"""What help and parts are worth: exact for a policy whose chances are written down, and in the words that are shown."""

import math

import pytest
import torch

from payoff.pipeline import Start
from payoff.sampling.given_help import BOTH, KNOWLEDGE, PLAN, help_rates, part_rates
from payoff.trajectories import Channel, Trajectories


class Written:
    """Answers right with the share of rollouts that `chance` gives to a prompt; keeps the prompts it was shown."""

    def __init__(self, chance) -> None:
        self.chance, self.seen = chance, []

    offers = frozenset()

    def resume(self, traj, rows, at, n, rng, *, horizon=None, noisy=None):
        raise NotImplementedError

    def evaluate(self, traj, want=frozenset()):
        raise NotImplementedError

    def rollout(self, starts, n, rng) -> Trajectories:
        self.seen += [start.fields["prompt"] for start in starts]
        right = [j < round(self.chance(start.fields["prompt"]) * n) for start in starts for j in range(n)]
        zero = torch.zeros(len(right), dtype=torch.int64)
        group = torch.arange(len(starts)).repeat_interleave(n)
        items = [{**start.fields, "right": ok} for (start, ok) in zip([s for s in starts for _ in range(n)], right, strict=True)]
        acted = torch.ones(len(right), 1, dtype=torch.bool)
        return Trajectories(acted, zero + 1, group, zero[:, None].int(), zero, zero[:, None], items=items)


def verdict(traj: Trajectories) -> Channel:
    known = torch.tensor([[not item.get("silent", False)] for item in traj.items])
    return Channel(torch.tensor([[float(item["right"])] for item in traj.items]) * known, known)


def starts(*fields: dict) -> list[Start]:
    return [Start(str(i), {"prompt": f"problem {i}", **own}) for i, own in enumerate(fields)]


def test_gains_are_differences_start_by_start_and_by_level():
    # bare 1/4; a plan takes 1/4 away from problem 0 and gives 1/2 to problem 1; facts give 1/4
    def chance(prompt: str) -> float:
        plan = (-0.25 if "problem 0" in prompt else 0.5) if "Plan: first" in prompt else 0.0
        return 0.25 + plan + (0.25 if "Knowledge: fact" in prompt else 0.0)

    policy = Written(chance)
    pool = starts(
        {"plan": "first", "knowledge": "fact", "level": "hard"},
        {"plan": "first", "knowledge": "fact", "level": "easy"},
        {"plan": "first", "level": "easy"},  # no facts: it is in no comparison with them
        {"silent": True, "level": "easy"},
    )
    found = help_rates(policy, pool, 8, torch.Generator(), verdict, level="level")
    assert found.rate[:3, :2].tolist() == [[0.25, 0.0], [0.25, 0.75], [0.25, 0.75]]
    assert found.rate[3].isnan().all()
    assert found.gain(PLAN) == (pytest.approx(0.25), pytest.approx(0.25), 3)  # -1/4, 1/2, 1/2: sd 0.433, over root 3
    assert found.gain(PLAN, level="hard") == (pytest.approx(-0.25), None, 1)
    assert found.gain(KNOWLEDGE) == (pytest.approx(0.25), pytest.approx(0), 2)
    assert found.gain(BOTH, over=PLAN).value == pytest.approx(0.25)
    assert found.success(level="easy") == (0.25, 0.0, 2)
    assert found.success(level="nobody") == (None, None, 0)
    assert "problem 1\n\nPlan: first\n\nKnowledge: fact" in policy.seen
    assert policy.seen[0] == "problem 0"


def test_all_parts_are_solved_with_the_product_of_their_chances_and_each_is_asked_behind_right_answers():
    policy = Written(lambda prompt: 0.5 if prompt.endswith("two?") else 0.75 if prompt.endswith("one?") else 0.125)
    parts = [{"prompt": "one?", "reference": "1"}, {"prompt": "two?", "reference": "2"}]
    found = part_rates(policy, starts({"parts": parts, "reference": "3"}), 8, torch.Generator(), verdict)
    assert (found.whole.tolist(), found.parts.tolist()) == ([0.125], [0.375])
    assert found.gap() == (0.25, None, 1)
    assert policy.seen == ["one?", "one?\n1\n\ntwo?", "problem 0"]


def test_a_part_without_verdict_leaves_the_start_unknown_and_mistakes_are_named():
    parts = [{"prompt": "one?", "reference": "1"}, {"prompt": "two?", "reference": "2", "silent": True}]
    found = part_rates(Written(lambda prompt: 1.0), starts({"parts": parts}), 2, torch.Generator(), verdict)
    assert math.isnan(found.parts[0])
    assert found.gap() == (None, None, 0)
    with pytest.raises(ValueError, match="start '0' has no field 'parts'"):
        part_rates(Written(lambda prompt: 1.0), starts({}), 2, torch.Generator(), verdict)
    with pytest.raises(ValueError, match="needs `show`, got list"):
        help_rates(Written(lambda prompt: 1.0), [Start("0", {"prompt": []})], 2, torch.Generator(), verdict)
    for call in (help_rates, part_rates):
        with pytest.raises(ValueError, match="at least one start"):
            call(Written(lambda prompt: 1.0), [], 2, torch.Generator(), verdict)
