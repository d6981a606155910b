import pytest
import torch

from payoff.policies.tabular import Tabular
from payoff.sampling.history import DifficultyPools, PassRateHistory
from payoff.tasks.tree import Tree
from payoff.trajectories import place_outcome


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tried(**outcomes: list[float | None]):
    """Rollouts of the prompts "p0", "p1" ... of a tree with these outcomes."""
    starts = Tree(prompts=10).held_out_starts(10)
    chosen = [(starts[int(name[1:])], value) for name, values in outcomes.items() for value in values]
    traj = Tabular(3, 3).rollout([start for start, _ in chosen], 1, rng())
    value = torch.tensor([float(value or 0) for _, value in chosen])
    known = torch.tensor([value is not None for _, value in chosen])
    return traj, {"correct": place_outcome(value, known, traj)}


def ids(curriculum, n: int, prompts: int = 3) -> list[str]:
    return [start.id for start in curriculum(Tree(prompts=prompts), n, rng())]


def test_solved_and_unsolved_starts_rest_and_the_others_do_not():
    curriculum = PassRateHistory()
    told = curriculum.learn(*tried(p0=[1, 1], p1=[1, 0], p2=[0, 0]))
    assert told == {"pass-rate-history/starts": 3.0, "pass-rate-history/resting": 2.0}
    assert [curriculum.rests(f"tree-{i}") for i in range(4)] == [True, False, True, False]
    assert ids(curriculum, 1) == ["tree-1"]


def test_a_start_rests_exactly_as_many_updates_as_it_should():
    curriculum = PassRateHistory(retest=2)
    curriculum.learn(*tried(p0=[1]))
    rests = [curriculum.rests("tree-0")]
    for _ in range(2):
        curriculum.learn(*tried(p1=[1, 0]))
        rests.append(curriculum.rests("tree-0"))
    assert rests == [True, True, False]


def test_bounds_are_included_and_memory_smooths():
    curriculum = PassRateHistory(low=0.25, high=0.75)
    curriculum.learn(*tried(p0=[1, 0, 0, 0], p1=[1, 1, 1, 0], p2=[1, 0]))
    assert [curriculum.rests(f"tree-{i}") for i in range(3)] == [True, True, False]
    slow = PassRateHistory(memory=0.5)
    slow.learn(*tried(p0=[1]))
    slow.learn(*tried(p0=[0]))
    assert slow.rates["tree-0"] == (0.5, 2)


def test_where_too_few_are_awake_the_longest_rested_fill_up_and_then_the_same_again():
    curriculum = PassRateHistory()
    curriculum.learn(*tried(p2=[1]))
    curriculum.learn(*tried(p0=[1], p1=[1, 0]))
    assert ids(curriculum, 5) == ["tree-1", "tree-2", "tree-0", "tree-1", "tree-2"]


def test_untried_starts_come_in_the_order_of_the_task_and_verdicts_that_are_unknown_are_no_trial():
    curriculum = PassRateHistory()
    curriculum.learn(*tried(p0=[None, None], p1=[None]))
    assert curriculum.rates == {}
    drawn = list({s.id: s for s in Tree(prompts=10).starts(4 * 16, rng())})
    assert ids(curriculum, 4, prompts=10) == drawn[:4]


def test_shares_of_easy_and_hard_starts_are_kept():
    curriculum = DifficultyPools(easy_share=0.25, hard_share=0.5)
    told = curriculum.learn(*tried(p0=[1], p1=[1], p2=[0], p3=[0], p4=[0], p5=[1, 0], p6=[1, 0]))
    assert told == {"difficulty-pools/starts": 7.0, "difficulty-pools/easy": 2.0, "difficulty-pools/hard": 3.0}
    chosen = ids(curriculum, 4, prompts=7)
    assert [curriculum.pool_of(id) for id in chosen] == ["easy", "hard", "hard", "other"]


def test_a_share_that_is_not_there_is_filled_from_the_others_and_the_last_resort_is_anything():
    curriculum = DifficultyPools(easy_share=0.0, hard_share=0.5)
    curriculum.learn(*tried(p0=[1], p1=[1, 0]))
    assert ids(curriculum, 2, prompts=3) in (["tree-1", "tree-2"], ["tree-2", "tree-1"])
    assert sorted(ids(curriculum, 3, prompts=3)) == ["tree-0", "tree-1", "tree-2"]
    assert ids(curriculum, 3, prompts=1) == ["tree-0"] * 3


@pytest.mark.parametrize("make", [PassRateHistory, DifficultyPools])
def test_state_survives_a_checkpoint(make, tmp_path):
    curriculum, other = make(), make()
    curriculum.learn(*tried(p0=[1], p1=[1, 0]))
    torch.save(curriculum.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert (other.rates, other.update) == (curriculum.rates, 1)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="pass-rate-history: low must be at most high"):
        PassRateHistory(low=0.9, high=0.1)
    with pytest.raises(ValueError, match="difficulty-pools: hard must be below easy"):
        DifficultyPools(easy=0.2, hard=0.2)
    with pytest.raises(ValueError, match="difficulty-pools: memory must lie in"):
        DifficultyPools(memory=1.0)
    traj, _ = tried(p0=[1])
    with pytest.raises(KeyError, match="pass-rate-history: no reward channel 'correct'"):
        PassRateHistory().learn(traj, {})
