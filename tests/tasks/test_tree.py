"""The tree task: its listing agrees with the tabular policy's, its rewards are what was asked for, its loophole is planted."""

import functools

import pytest
import torch

from payoff.grading import signal
from payoff.pipeline import Start
from payoff.policies.tabular import Tabular
from payoff.tasks.tree import Tree, tree_filler, tree_leaf, tree_proxy, tree_steps
from payoff.trajectories import outcome

SHAPES = [(2, 3, None), (3, 3, 1), (3, 2, 0), (1, 2, None), (2, 4, 1)]


@pytest.mark.parametrize(("vocabulary", "horizon", "stop"), SHAPES)
def test_responses_are_the_sequences_of_the_tabular_policy_in_the_same_order(vocabulary, horizon, stop):
    task = Tree(vocabulary=vocabulary, horizon=horizon, stop=stop)
    policy = Tabular(vocabulary, horizon, stop=stop)
    assert [item["response"] for item in policy.sequences().items] == list(task.responses)
    assert len(set(task.responses)) == len(task.responses)


def test_truth_of_rollouts_is_the_table():
    task = Tree(vocabulary=3, horizon=2, stop=2, prompts=2, leaf_rewards=[{"ab": 1.0, "": -0.5}, {"a": 2.0}])
    policy, rng = Tabular(3, 2, stop=2, starts=2), torch.Generator().manual_seed(0)
    traj = policy.rollout(task.starts(6, rng), 5, rng)
    value, known = outcome(task.truth(traj), traj)
    expected = [task.leaves(int(i["table"]))[task.responses.index(i["response"])] for i in traj.items]
    assert known.all()
    assert value.tolist() == [float(x) for x in expected]
    assert value.dtype == torch.float64
    assert set(traj.extras["table"].tolist()) == {0, 1}


def test_what_nobody_knows_or_is_cut_short_has_no_truth():
    task = Tree(vocabulary=2, horizon=2, leaf_rewards={"ab": None, "bb": 1.0})
    policy, rng = Tabular(2, 2), torch.Generator().manual_seed(0)
    traj = policy.sequences()
    value, known = outcome(task.truth(traj), traj)
    assert dict(zip(task.responses, zip(value.tolist(), known.tolist()))) == {
        "aa": (0.0, True),
        "ab": (0.0, False),
        "ba": (0.0, True),
        "bb": (1.0, True),
    }
    assert task.leaves().isnan().tolist() == [False, True, False, False]
    cut = policy.resume(traj, torch.tensor([0]), torch.tensor([0]), 3, rng, horizon=1)
    assert not task.truth(cut).valid[:, 0].any()


def test_drawn_rewards_repeat_differ_by_prompt_and_hold_right_and_wrong_answers():
    task, again = Tree(vocabulary=3, horizon=3, prompts=3, seed=4), Tree(vocabulary=3, horizon=3, prompts=3, seed=4)
    tables = [task.leaves(p) for p in range(3)]
    assert all(torch.equal(x, again.leaves(p)) for p, x in enumerate(tables))
    assert [int(x.sum()) for x in tables] == [5, 5, 5]  # a fifth of 27, rounded
    assert not torch.equal(tables[0], tables[1])
    assert int(Tree(vocabulary=2, horizon=1, density=0.0).leaves().sum()) == 1
    assert int(Tree(vocabulary=2, horizon=1, density=1.0).leaves().sum()) == 1


def test_the_loophole_is_one_of_the_worst_responses_paid_above_the_best():
    task = Tree(vocabulary=2, horizon=3, leaf_rewards={"aab": 1.0, "bbb": 0.5}, loophole="leaf", loophole_reward=0.25)
    gap = task.proxy() - task.leaves()
    assert gap.tolist() == [0, 0, 0, 0, 0, 0, 1.25, 0]  # "bba", the last response worth 0
    assert float(task.proxy().max()) == 1.25
    honest = Tree(vocabulary=2, horizon=3, leaf_rewards={"aab": 1.0})
    assert torch.equal(honest.proxy(), honest.leaves())


def test_the_graders_read_what_the_starts_carry():
    task = Tree(vocabulary=2, horizon=2, leaf_rewards={"ab": 1.0, "aa": None}, loophole="leaf", step_rewards={"a": 0.5, "ba": -1.0})
    rng = torch.Generator().manual_seed(0)
    traj = Tabular(2, 2).rollout(task.starts(1, rng), 12, rng)
    assert len({item["response"] for item in traj.items}) == 4
    leaf, proxy, steps = (signal(grader)(traj) for grader in (tree_leaf, tree_proxy, tree_steps))
    for rewards, table in ((leaf, task.leaves()), (proxy, task.proxy())):
        (channel,) = rewards.values()
        value, known = outcome(channel, traj)
        expected = [float(table[task.responses.index(item["response"])]) for item in traj.items]
        assert known.tolist() == [x == x for x in expected]
        assert value[known].tolist() == [x for x in expected if x == x]
    (channel,) = steps.values()
    paid = {"aa": [0.5, 0.0], "ab": [0.5, 0.0], "ba": [0.0, -1.0], "bb": [0.0, 0.0]}
    assert channel.value.tolist() == [paid[item["response"]] for item in traj.items]


def test_the_filler_grader_pays_for_filler_alone():
    assert tree_filler(["aa", "ab", "a"], pay=0.5).value == [0.5, 0.0, 0.5]
    assert functools.partial(tree_filler, filler="b")(["b"]).value == [1.0]


def test_starts_are_drawn_from_the_prompts_and_name_them():
    task = Tree(prompts=3)
    starts = task.starts(300, torch.Generator().manual_seed(0))
    counts = [sum(start.fields["table"] == p for start in starts) for p in range(3)]
    assert all(70 < count < 130 for count in counts)
    assert isinstance(starts[0], Start)
    assert {start.id for start in starts} == {"tree-0", "tree-1", "tree-2"}
    assert [start.id for start in task.held_out_starts(4)] == ["tree-0", "tree-1", "tree-2", "tree-0"]
    best = task.held_out_starts()[1].fields["reference"]
    assert float(task.leaves(1)[task.responses.index(best)]) == 1.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vocabulary": 27}, "vocabulary must lie in 1..26, got 27"),
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"prompts": 0}, "prompts must be at least 1, got 0"),
        ({"stop": 3}, "stop must be an action, 0 to 2, got 3"),
        ({"density": 1.5}, "density must lie in 0..1, got 1.5"),
        ({"loophole": "door"}, "loophole"),
        ({"leaf_rewards": {"ab": 1.0}}, "'ab' in leaf_rewards is no complete response"),
        ({"leaf_rewards": [{}, {}]}, "one mapping or one for each of the 1 prompts, got 2"),
        ({"step_rewards": {"abca": 1.0}}, "'abca' in step_rewards"),
        ({"step_rewards": {"x": 1.0}}, "'x' in step_rewards"),
    ],
)
def test_impossible_tasks_are_refused(options, said):
    with pytest.raises((ValueError, TypeError), match=said):
        Tree(**options)
