"""Sampling at several temperatures: what is sampled, and when voting stops."""

import pytest
import torch

from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.recipes import train_arm
from payoff.search.temperatures import GRID, at_temperatures, shares, vote_until_agreed
from payoff.search.voting import majority

STARTS = [Start("a", {"table": 0}), Start("b", {"table": 1})]
LOGITS = torch.tensor([[[2.0, 0.0, -1.0]], [[0.1, 0.0, 0.2]]], dtype=torch.float64)


class Heated:
    """A table of logits with a temperature; 0 takes the most probable action."""

    offers = frozenset()

    def __init__(self, logits=LOGITS):
        self.logits, self.temperature, self.asked = logits, 1.0, []

    def rollout(self, starts, n, rng):
        self.asked.append((self.temperature, len(starts), n))
        return self.at(self.temperature).rollout(starts, n, rng)

    def resume(self, traj, rows, at, n, rng, *, horizon=None, noisy=None):
        raise AssertionError("not asked for here")

    def evaluate(self, traj, want=frozenset()):
        raise AssertionError("not asked for here")

    def at(self, temperature):
        return Tabular(3, 1, starts=len(self.logits), logits=self.logits / (temperature or 1e-3))


def says(item):
    return item["response"]


def test_the_budget_is_spent_to_the_last_rollout_and_zero_gets_one():
    assert shares(64, GRID) == [1, 7, 7, 7, 7, 7, 7, 7, 7, 7]
    assert shares(5, [0.7, 0.0, 1.3]) == [2, 1, 2]
    assert shares(4, [0.0]) == [4]
    assert all(sum(shares(n, GRID)) == n for n in range(10, 60))


@pytest.mark.parametrize("bad", [[], [1.0, 1.0], [-0.1, 1.0], [float("inf")], [float("nan"), 1.0]])
def test_temperatures_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError, match="different finite numbers of at least 0"):
        shares(10, bad)


def test_fewer_rollouts_than_temperatures_and_a_policy_without_temperature_are_refused():
    with pytest.raises(ValueError, match="2 rollouts are too few for 3"):
        shares(2, [0.5, 1.0, 1.5])
    with pytest.raises(ValueError, match="no `temperature`"):
        at_temperatures(Tabular(3, 1, starts=2), STARTS, 4, torch.Generator(), temperatures=[1.0])


def test_rollouts_of_a_start_stand_together_in_one_group_and_say_how_they_were_sampled():
    policy = Heated()
    traj = at_temperatures(policy, STARTS, 5, torch.Generator().manual_seed(0), temperatures=[0.0, 0.5, 2.0]).check()
    assert traj.extras["temperature"].tolist() == [0.0, 0.5, 0.5, 2.0, 2.0] * 2
    assert [item["start"] for item in traj.items] == ["a"] * 5 + ["b"] * 5
    assert traj.group.unique().tolist() == sorted({int(traj.group[0]), int(traj.group[5])})
    assert (traj.group[:5] == traj.group[0]).all()
    assert len(traj.id.unique()) == 10
    for row, t in enumerate(traj.extras["temperature"].tolist()):
        logp = policy.at(t).logits[traj.extras["table"][row], 0].log_softmax(0)[traj.actions[row, 0]]
        assert float(traj.logp["old"][row, 0]) == pytest.approx(float(logp.detach()))


def test_each_part_is_distributed_as_its_temperature_says():
    traj = at_temperatures(Heated(), STARTS[:1], 8000, torch.Generator().manual_seed(0), temperatures=[0.5, 2.0])
    for t in (0.5, 2.0):
        drawn = torch.bincount(traj.actions[traj.extras["temperature"] == t, 0], minlength=3) / 4000
        torch.testing.assert_close(drawn.double(), (LOGITS[0, 0] / t).softmax(0), rtol=0, atol=0.03)  # 4 standard errors


def test_several_temperatures_solve_what_none_does_and_cost_what_one_would_have_had():
    """Start a is solved by its likeliest answer, start b by its least likely one; exactly, from the chances at each temperature."""
    policy, grid = Heated(torch.tensor([[[3.0, 0.0, 0.0]], [[3.0, 3.0, -2.0]]], dtype=torch.float64)), (0.5, 3.0)
    right = (0, 2)
    p = torch.stack([torch.stack([policy.at(t).probabilities(s).detach()[right[s]] for s in (0, 1)]) for t in grid])
    within = lambda rate, n: 1 - (1 - rate) ** n
    union = lambda counts: 1 - (1 - within(p, counts[:, None])).prod(0)
    parts = within(p, 8)
    assert (union(torch.tensor([8, 8])) >= parts.max(0).values).all()  # as many of each: more is never worse
    assert union(torch.tensor([8, 8])).mean() > parts.mean(1).max()
    # with the budget of one shared out, each start would have had more from its own temperature
    shared = union(torch.tensor(shares(8, grid)))
    assert (shared <= parts.max(0).values).all()
    assert shared[1] < parts[1, 1] - 0.05


def test_the_temperature_is_put_back_even_when_sampling_fails():
    policy = transformer(width=8, layers=1, heads=1, max_tokens=2, temperature=0.9)
    with pytest.raises(ValueError, match="no field 'prompt'"):
        at_temperatures(policy, [Start("a", {})], 2, torch.Generator(), temperatures=[0.3, 0.6])
    assert policy.temperature == 0.9


def test_one_temperature_is_the_policys_own_rollout():
    one, two = (transformer(width=8, layers=1, heads=1, max_tokens=4, temperature=t) for t in (1.0, 0.7))
    starts = [Start("a", {"prompt": "1+2="})]
    first = at_temperatures(one, starts, 6, torch.Generator().manual_seed(3), temperatures=[0.7])
    second = two.rollout(starts, 6, torch.Generator().manual_seed(3))
    assert torch.equal(first.actions, second.actions)
    assert torch.equal(first.logp["old"], second.logp["old"])


def test_where_all_temperatures_agree_voting_stops_and_elsewhere_the_budget_is_spent():
    logits = torch.tensor([[[50.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]], dtype=torch.float64)
    policy = Heated(logits)
    found = vote_until_agreed(
        policy, STARTS, 41, torch.Generator().manual_seed(0), answer=says, temperatures=[0.0, 0.5, 1.0], every=4
    )
    assert found.early.tolist() == [True, False]
    assert found.used.tolist() == [9, 41]  # one at 0, four each at 0.5 and 1.0; and everything
    assert policy.asked[:3] == [(0.0, 2, 1), (0.5, 2, 4), (1.0, 2, 4)]
    assert all(starts == 1 for _, starts, _ in policy.asked[3:])
    assert [item["start"] for item in found.traj.select(found.chosen.row).items] == ["a", "b"]
    assert found.traj.items[int(found.chosen.row[0])]["response"] == "a"
    plain = majority(found.traj, answer=says)
    assert int(plain.row[1]) == int(found.chosen.row[1])
    assert float(plain.score[1]) == float(found.chosen.score[1])


def test_temperatures_that_take_different_answers_do_not_close_a_start():
    class Torn(Heated):
        def at(self, temperature):
            logits = torch.tensor([90.0, 0, 0]) if temperature < 1 else torch.tensor([0, 90.0, 0])
            return Tabular(3, 1, starts=2, logits=logits.double().expand(2, 1, 3))

    found = vote_until_agreed(Torn(), STARTS, 12, torch.Generator().manual_seed(0), answer=says, temperatures=[0.5, 1.0], every=2)
    assert found.early.tolist() == [False, False]
    assert found.used.tolist() == [12, 12]
    assert found.chosen.score.tolist() == [0.5, 0.5]


def test_an_agreement_beats_a_majority_that_one_temperature_makes_up():
    class Split(Heated):
        """At 1.5 always b; at the three others a with certainty, but the one at 1.5 draws as often as they do together."""

        def at(self, temperature):
            logits = torch.tensor([0.0, 90.0, 0]) if temperature == 1.5 else torch.tensor([90.0, 0, 0])
            return Tabular(3, 1, starts=2, logits=logits.double().expand(2, 1, 3))

    found = vote_until_agreed(
        Split(), STARTS[:1], 9, torch.Generator().manual_seed(0), answer=says, temperatures=[1.5, 0.0], every=8, across=0.5
    )
    assert found.traj.items[int(found.chosen.row)]["response"] == "b"  # one of two takes each: no agreement, and 8 of 9 votes
    grid = [1.5, 0.5, 0.6, 0.7]
    found = vote_until_agreed(
        Split(), STARTS[:1], 40, torch.Generator().manual_seed(0), answer=says, temperatures=grid, every=3, across=0.7
    )
    assert found.early.tolist() == [True]  # three of four
    assert found.chosen.score.tolist() == [0.75]


def test_rollouts_without_answer_keep_a_temperature_from_taking_one():
    found = vote_until_agreed(
        Heated(), STARTS[:1], 8, torch.Generator().manual_seed(0), answer=lambda item: None, temperatures=[0.5, 1.0]
    )
    assert (found.early.tolist(), found.chosen.known.tolist(), found.used.tolist()) == ([False], [False], [8])


@pytest.mark.parametrize("bad", [{"every": 0}, {"within": 0.4}, {"across": 1.0}])
def test_rounds_and_thresholds_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError, match="every must be at least 1, within and across"):
        vote_until_agreed(Heated(), STARTS, 8, torch.Generator(), answer=says, **bad)


def test_a_run_file_trains_on_rollouts_at_several_temperatures():
    term = {"paths": {"correct": ["total", "rloo"]}, "loss": "ppo-clip", "aggregation": "token-mean"}
    file = {
        "task": {"name": "chain", "terms": 3},
        "policy": {"name": "transformer", "width": 8, "layers": 1, "heads": 1, "max_tokens": 4},
        "reward": {"correct": "chain-format"},
        "sampler": {"name": "temperature-scaling-tts", "temperatures": [0.5, 1.0]},
        "terms": {"policy": term},
        "train": {"updates": 1, "starts": 2, "rollouts": 4},
        "evaluate": {"every": 0, "starts": 0},
    }
    trained = train_arm(file, "", 0)
    assert trained.policy.temperature == 1.0
    assert trained.last("reward/correct") == 0  # fresh weights write no solution; that there is a number means that they wrote
