"""Search over a generated knowledge base: its solutions, and beliefs against enumeration of every knowledge base there is."""

import itertools
import math
import pickle

import pytest
import torch

from payoff.catalogue import find
from payoff.pipeline import Environment, Task
from payoff.policies.embedded import transformer
from payoff.tasks.turns.search import Question, SearchEpisode, SearchTask, answer_distribution, entropy
from payoff.trajectories import StopReason, outcome


def enumerated(question, facts):
    """The posterior of the answer by listing every knowledge base that agrees with the facts."""
    names, relations = len(question.table[0]), len(question.table)
    counts = [0] * names
    for values in itertools.product(range(names), repeat=names * relations):
        table = tuple(tuple(values[r * names : (r + 1) * names]) for r in range(relations))
        if all(table[r][e] == value for (r, e), value in facts.items()):
            counts[question._replace(table=table).answer] += 1
    return [count / sum(counts) for count in counts]


@pytest.mark.parametrize("known", [[], [(0, 1)], [(1, 0)], [(0, 1), (1, 2)], [(1, 0), (1, 1), (1, 2)], [(0, 0), (1, 1)]])
def test_the_belief_is_the_share_of_knowledge_bases_that_agree_with_what_was_found(known):
    question = Question(1, (0, 1), ((2, 2, 0), (1, 0, 1)))
    facts = {(r, e): question.table[r][e] for r, e in known}
    assert answer_distribution(question, facts) == pytest.approx(enumerated(question, facts), abs=1e-12)


def test_a_look_up_is_expected_to_help_by_what_chi_squared_says_and_a_useless_one_tells_nothing():
    # Over all knowledge bases: the mean gain of one look-up is p chi2(P(found | answer), P(found)), from the joint counts.
    names, first = 3, 0
    tables = [
        ((*a,), (*b,)) for a in itertools.product(range(names), repeat=names) for b in itertools.product(range(names), repeat=names)
    ]
    for look in [(0, 0), (1, 1), (0, 1)]:
        joint, gains = {}, {}
        for table in tables:
            question = Question(first, (0, 1), table)
            found = table[look[0]][look[1]]
            joint[question.answer, found] = joint.get((question.answer, found), 0) + 1 / len(tables)
            gain = answer_distribution(question, {look: found})[question.answer] - 1 / names
            gains.setdefault(question.answer, []).append(gain)
        for answer, seen in gains.items():
            likely = [joint.get((answer, found), 0) * names for found in range(names)]
            chi = sum((p - 1 / names) ** 2 * names for p in likely)
            assert math.fsum(seen) / len(seen) == pytest.approx(chi / names, abs=1e-12)
            assert (chi < 1e-12) == (look != (1, 1))  # the first link alone says nothing of where the second leads


@pytest.mark.parametrize(
    "options", [{"hops": 1}, {"hops": 3, "relations": 5}, {"hops": 2, "terse": True}, {"entities": 2, "hops": 1}]
)
def test_the_solution_finds_the_answer_and_leaves_no_doubt(options):
    task = SearchTask(**options)
    assert isinstance(task, Task)
    for start in [*task.starts(3, torch.Generator().manual_seed(1)), *task.held_out_starts(2)]:
        episode = start.environment.begin()
        responses = [episode.respond(turn) for turn in start.fields["solution"]]
        assert [r.reward for r in responses] == [0.0] * task.hops + [1.0]
        assert responses[-1].stop is StopReason.finished
        assert episode.measures == {"reference_logp": 0.0, "entropy": 0.0}
        assert episode.outcome == 1.0


def test_what_is_no_command_changes_nothing_and_a_wrong_answer_ends_the_search():
    episode = SearchTask(entities=4, hops=1, cost=0.1).start(0).environment.begin()
    before = episode.measures
    for said in ["", "search", "search Alder", "search Nobody neighbour", "find Alder neighbour", "answer", "answer Alder Briar"]:
        assert episode.respond(said).observation == "Not understood.\n"
    assert episode.measures == before
    assert episode.respond(" SEARCH  alder: Neighbour. ").reward == -0.1
    wrong = next(n for n in ("Alder", "Briar") if n != SearchTask(entities=4, hops=1).start(0).fields["reference"])
    assert episode.respond(f"answer {wrong}") == ("Wrong.\n", 0.0, StopReason.finished)


def test_starts_are_the_same_for_a_seed_held_out_ones_are_others_and_all_survive_pickling():
    task = SearchTask(hops=2, seeds=5)
    starts = task.starts(40, torch.Generator().manual_seed(0))
    assert {start.fields["seed"] for start in starts} <= set(range(5))
    assert min(start.fields["seed"] for start in task.held_out_starts(3)) >= 2**30
    assert task.start(3).fields == SearchTask(hops=2).start(3).fields
    copy = pickle.loads(pickle.dumps(starts[0]))
    assert isinstance(copy.environment, Environment)
    said = copy.fields["solution"][0]
    assert copy.environment.respond(said) == starts[0].environment.begin().respond(said)


@pytest.mark.parametrize("options", [{"entities": 1}, {"hops": 0}, {"hops": 3, "relations": 2}, {"entities": 27}, {"seeds": -1}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ValueError, match="turns-search: "):
        SearchTask(**options)


@pytest.fixture(scope="module")
def rolled():
    """A policy whose turns are drawn, on single-hop questions of three names, and what it did."""
    task = SearchTask(entities=3, hops=1, terse=True, turns=3)
    shape = {"alphabet": "abc1?=!", "width": 16, "layers": 1, "heads": 2, "context": 16}
    policy = transformer(**shape, max_tokens=6, stop=(), step_separator=None)
    traj = policy.rollout(task.starts(8, torch.Generator().manual_seed(0)), 16, torch.Generator().manual_seed(1)).check()
    return task, policy, traj


def test_the_signal_igpo_pays_what_each_look_up_told_about_the_answer(rolled):
    _, _, traj = rolled
    gain = find("igpo", "signal")(traj)["gain"]
    told, value, steps = 0, gain.value.tolist(), traj.step.tolist()
    for row, item in enumerate(traj.items):
        said, asked = [turn["said"] for turn in item["turns"]], item["prompt"][:2]
        for k, turn in enumerate(said[:-1]):
            paid = value[row][max(at for at, step in enumerate(steps[row]) if step == k)]
            looked = turn == asked and asked not in said[:k]
            assert abs(paid - (2 / 3 if looked else 0.0)) < 1e-6  # from one of three to certain
            told += looked
    assert told > 3
    total, known = outcome(gain, traj)
    ends = [int(((traj.step[row] == len(item["turns"]) - 1) & traj.mask[row]).nonzero()[0]) for row, item in enumerate(traj.items)]
    last = traj.extras["reference_logp"].exp()[torch.arange(len(traj)), ends]
    assert known.all()
    assert torch.allclose(total, last - 1 / 3, atol=1e-6)  # the gains add up to the belief before the last turn, less the first


def test_the_truth_is_the_right_answer_and_what_the_environment_pays_is_the_same(rolled):
    task, _, traj = rolled
    truth, known = outcome(task.truth(traj), traj)
    right = [item["turns"][-1]["said"] == f"={item['reference']}" for item in traj.items]
    assert known.all()
    assert truth.tolist() == [float(r) for r in right]
    assert 0 < sum(right) < len(right)
    paid, _ = outcome(find("environment-reward", "signal")(traj)["environment"], traj)
    assert torch.equal(paid, truth)


def test_methods_for_turns_apply_to_these_rollouts(rolled):
    """Turn credits of every kind read the turns as steps, and weigh own tokens only."""
    _, policy, traj = rolled
    paid = find("environment-reward", "signal")(traj)["environment"]
    turn = find("turn-rloo", "advantage")(find("return-to-go", "credit")(paid, traj), traj)
    payments = find("igpo", "advantage")(paid, traj)
    assert turn.valid.all()
    assert payments.value.shape == traj.mask.shape
    at = torch.tensor([int((traj.step[0] == 0).sum())])
    branches = policy.resume(traj, torch.tensor([0]), at, 3, torch.Generator().manual_seed(0))
    from payoff.trajectories import concatenate

    tree = concatenate([traj.select(torch.arange(16)), branches])
    values = find("portool", "credit")(find("environment-reward", "signal")(tree)["environment"], tree, discount=1.0)
    first = values.value[[0, 16, 17, 18], 0]
    assert (first == first[0]).all()  # the shared first turn has one value: the mean of the four rollouts below it
    below = outcome(find("environment-reward", "signal")(tree)["environment"], tree)[0][[0, 16, 17, 18]]
    assert float(first[0]) == pytest.approx(float(below.mean()))


def test_entropy_falls_to_nothing_where_the_answer_is_known():
    episode = SearchEpisode(Question(0, (0,), ((1, 0),)), True, 0.0)
    assert episode.measures["entropy"] == pytest.approx(math.log(2))
    episode.respond("a1")
    assert episode.measures["entropy"] == 0.0
    assert entropy([0.25] * 4) == pytest.approx(math.log(4))
