import copy
import math
from collections import Counter
from functools import cache

import pytest
import torch

from payoff.advantages.group import mean_baseline
from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.sampling.candidates import visits
from payoff.sampling.prompt_curriculum import LearnedDifficulty, worth_in_rollouts
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, Trajectories, place_outcome


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Levels:
    """Starts "0" to "9" with their difficulty as a field."""

    def starts(self, n: int, rng: torch.Generator) -> list[Start]:
        return [self.start(i) for i in torch.randint(10, (n,), generator=rng).tolist()]

    def start(self, level: int) -> Start:
        return Start(str(level), {"level": level / 10, "kind": "even" if level % 2 == 0 else "odd", "prompt": f"{level}+1="})

    def truth(self, traj: Trajectories):
        raise AssertionError("no curriculum asks for the truth")


def paid(starts: list[Start], rollouts: int, share: dict[str, int]) -> tuple[Trajectories, dict]:
    """Rollouts of which the first `share` of each start are right."""
    traj = Tabular(2, 2).rollout(starts, rollouts, rng())
    value = torch.tensor([float(i < share[s.id]) for s in starts for i in range(rollouts)])
    return traj, {"correct": place_outcome(value, torch.ones(len(value), dtype=torch.bool), traj)}


@cache
def taught() -> LearnedDifficulty:
    """Fitted to starts that are solved in proportion to their level, at every level."""
    curriculum = LearnedDifficulty(features=["level"], learning_rate=0.03, steps=150, candidates=20)
    curriculum.learn(*paid([Levels().start(i) for i in range(10)], 10, {str(i): i for i in range(10)}))
    return curriculum


@pytest.mark.parametrize(("target", "nearest"), [(0.2, {"1", "2", "3"}), (0.5, {"4", "5", "6"}), (0.8, {"7", "8", "9"})])
def test_starts_whose_predicted_reward_is_nearest_to_the_target_are_taken(target, nearest):
    curriculum = copy.deepcopy(taught())
    curriculum.target = target
    chosen = [start.id for start in curriculum(Levels(), 3, rng())]
    assert set(chosen) == nearest
    assert chosen[0] == sorted(nearest)[1]


def test_what_is_predicted_is_the_mean_reward():
    values = taught().predict([Levels().start(i) for i in range(10)])
    assert (values - torch.arange(10) / 10).abs().max() < 0.05


def test_one_candidate_a_start_is_what_the_task_draws():
    task = Tree(prompts=4)
    same = LearnedDifficulty(features=["table"], candidates=1)(task, 6, rng())
    assert [s.id for s in same] == [s.id for s in task.starts(6, rng())]


def test_at_first_nothing_is_preferred():
    drawn = list({s.id: s for s in Levels().starts(12, rng())})
    assert [s.id for s in LearnedDifficulty(features=["level"])(Levels(), 3, rng())] == drawn[:3]


def test_text_and_ids_are_classes_of_their_own():
    curriculum = LearnedDifficulty(features=["kind", "start"], learning_rate=0.03, steps=100)
    starts = [Levels().start(i) for i in (2, 3, 5)]
    curriculum.learn(*paid(starts, 4, {"2": 4, "3": 0, "5": 2}))
    assert (curriculum.predict(starts) - torch.tensor([1.0, 0.0, 0.5])).abs().max() < 0.05


def test_metrics_are_those_before_the_step_and_rollouts_without_verdict_are_left_out():
    traj, rewards = paid([Levels().start(1), Levels().start(2)], 4, {"1": 1, "2": 4})
    curriculum = LearnedDifficulty(features=["level"])
    # V is 0: error (0.25^2 + 1) / 2; start 2 was solved every time, so half of the starts had anything to compare
    assert curriculum.learn(traj, rewards) == pytest.approx(
        {"pcl/error": 0.53125, "pcl/value": 0.0, "pcl/pass_rate": 0.625, "pcl/effective": 0.5}
    )
    unknown = place_outcome(torch.zeros(8), torch.zeros(8, dtype=torch.bool), traj)
    before = curriculum.predict([Levels().start(1)])
    assert set(curriculum.learn(traj, {"correct": unknown}).values()) == {None}
    assert torch.equal(curriculum.predict([Levels().start(1)]), before)


def test_a_language_model_reads_the_prompt_itself_and_learns_along():
    policy = transformer(width=16, layers=1, heads=2, max_tokens=4)
    curriculum = LearnedDifficulty(policy=policy, learning_rate=0.02, steps=30, candidates=8)
    weights = [p.clone() for p in policy.parameters()]
    starts = [Levels().start(i) for i in range(4)]
    traj = policy.rollout(starts, 2, rng())
    solved = place_outcome(torch.tensor([1.0, 1, 0, 0, 1, 0, 1, 1]), torch.ones(8, dtype=torch.bool), traj)
    assert curriculum.learn(traj, {"correct": solved})["pcl/error"] == pytest.approx(0.5625)  # V = 0: (1 + 0 + 0.25 + 1) / 4
    assert (curriculum.predict(starts) - torch.tensor([1.0, 0.0, 0.5, 1.0])).abs().max() < 0.2
    assert any(not torch.equal(a, b) for a, b in zip(weights, policy.parameters(), strict=True))
    assert curriculum(Levels(), 1, rng(3))[0].fields["prompt"]


def test_only_the_head_learns_where_the_backbone_does_not():
    policy = transformer(width=16, layers=1, heads=2, max_tokens=4)
    curriculum = LearnedDifficulty(policy=policy, train_backbone=False)
    assert {name for name, p in curriculum.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("how", ["fields", "language model"])
def test_state_survives_a_checkpoint_and_learning_goes_on_alike(how):
    def make() -> LearnedDifficulty:
        policy = transformer(width=16, layers=1, heads=2, max_tokens=4, seed=3)
        return LearnedDifficulty(policy=policy, features=["level"] if how == "fields" else None, learning_rate=0.01)

    starts = [Levels().start(i) for i in range(4)]
    batch = paid(starts, 4, {"0": 0, "1": 2, "2": 3, "3": 4})
    first, second = make(), make()
    first.learn(*batch)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.predict(starts), second.predict(starts))
    assert first.learn(*batch) == second.learn(*batch)
    assert torch.equal(first.predict(starts), second.predict(starts))


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_what_n_rollouts_of_a_start_of_rate_p_have_to_teach(p):
    """All 16 outcomes of 4 rollouts as groups: E[A^2] = p (1 - p) (1 - 1/n), and how often there is anything to learn from."""
    n = 4
    won = (torch.arange(2**n)[:, None] >> torch.arange(n)) & 1
    chance = torch.where(won > 0, p, 1 - p).double().prod(1)
    traj = Tabular(2, 1).rollout([Start(str(i), {}) for i in range(2**n)], n, rng())
    value, known = won.flatten().double(), torch.ones(n * 2**n, dtype=torch.bool)
    paid_ = {"correct": place_outcome(value, known, traj)}
    advantage = mean_baseline(Channel(value[:, None], known[:, None]), traj).value.view(-1, n)
    assert float(chance @ advantage.square().mean(1)) == pytest.approx(p * (1 - p) * (1 - 1 / n))
    taught_ = torch.tensor([not equal for equal in visits("pcl", traj, paid_, "correct").equal]).double()
    assert float(chance @ taught_) == pytest.approx(1 - p**n - (1 - p) ** n)
    # the mean reward as an estimate of p, against which a model's error says how many rollouts it is worth
    assert float(chance @ (won.double().mean(1) - p).square()) == pytest.approx(p * (1 - p) / n)


def test_a_prediction_is_worth_as_many_rollouts_as_err_as_much():
    """Over all outcomes in proportion to their chance: V = 1/4 off a rate of 1/2 errs by 1/16, a rollout by 1/4, four by 1/16."""
    n, won = 5, torch.arange(6.0)
    often = torch.tensor([math.comb(n, int(s)) for s in won])  # of 32, at a rate of one half
    successes = won.repeat_interleave(often)
    found = worth_in_rollouts(torch.full((32,), 0.75), successes, torch.full((32,), float(n)))
    assert found == pytest.approx(4)
    assert worth_in_rollouts(torch.full((32,), 0.5), successes, torch.full((32,), float(n))) > 1e9  # the rate itself
    assert worth_in_rollouts(torch.zeros(1), torch.ones(1), torch.ones(1)) is None


def test_visits_count_the_rollouts_of_a_start_over_all_its_groups():
    starts = [Levels().start(i) for i in (3, 5, 3)]
    traj, rewards = paid(starts, 2, {"3": 1, "5": 2})
    found = visits("test", traj, rewards, "correct")
    assert (found.ids, found.row.tolist(), found.known.tolist(), found.total.tolist()) == (["3", "5"], [0, 2], [4, 2], [2, 2])
    assert found.equal == [False, True]
    order = torch.randperm(6, generator=rng())
    channel = rewards["correct"]
    shuffled = {"correct": Channel(channel.value[order], channel.valid.expand(6, -1)[order])}
    mixed = visits("test", traj.select(order), shuffled, "correct")
    assert Counter(dict(zip(mixed.ids, mixed.total.tolist(), strict=True))) == {"3": 2, "5": 2}


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="needs `features`"):
        LearnedDifficulty(policy=Tabular(2, 2))
    with pytest.raises(ValueError, match="candidates must be at least 1"):
        LearnedDifficulty(features=["level"], candidates=0)
    with pytest.raises(ValueError, match=r"start '3' has no field 'size'"):
        LearnedDifficulty(features=["size"]).predict([Levels().start(3)])
    traj, rewards = paid([Levels().start(1)], 1, {"1": 1})
    with pytest.raises(KeyError, match="pcl: no reward channel 'answer'"):
        LearnedDifficulty(features=["level"], by="answer").learn(traj, rewards)
    with pytest.raises(ValueError, match="which start it is of"):
        visits("pcl", traj.replace(items=[{}]), rewards, "correct")
