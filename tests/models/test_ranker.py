"""The ranker of answers and its hard negatives: whom it pairs, what it learns, and what best-of-n makes of it."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.examples import four_answers
from payoff.models.ranker import AnswerRanker
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.sampling.hard_negatives import hard_negatives
from payoff.search.best_of_n import best_of_n
from payoff.train import train
from payoff.trajectories import Pairs, constant, place_outcome

TEXTS = ["#6.", "#66.", "#5.", "3-7=6;#6.", "3-7=5;#5."]
RIGHT = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])


@pytest.fixture(scope="module")
def policy():
    made = transformer(width=8, layers=1, heads=1)
    torch.manual_seed(1)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture(scope="module")
def traj(policy):
    return policy.read([{"prompt": "3-7=", "response": text} for text in TEXTS])


def known(n: int = 5) -> torch.Tensor:
    return torch.ones(n, dtype=torch.bool)


def test_the_highest_wrong_scores_are_paired_within_the_start_and_unknown_ones_are_left_out():
    traj = dataclasses.replace(four_answers(), group=torch.tensor([7, 7, 7, 7]))
    score = place_outcome(torch.tensor([0.1, 0.7, 0.9, 0.4]), known(4), traj)
    right = constant(torch.tensor([1.0, 0.0, 0.0, 0.0]), known(4))
    assert hard_negatives(score, traj, right, negatives=2).index.tolist() == [[0, 2], [0, 1]]
    assert hard_negatives(score, traj, right, negatives=None).index.tolist() == [[0, 2], [0, 1], [0, 3]]
    lost = constant(torch.tensor([1.0, 0.0, torch.nan, 0.0]), torch.tensor([True, True, False, True]))
    assert hard_negatives(score, traj, lost).index.tolist() == [[0, 1]]
    apart = dataclasses.replace(traj, group=torch.tensor([7, 8, 8, 7]))
    assert hard_negatives(score, apart, right).index.tolist() == [[0, 3]]
    near = constant(torch.tensor([0.0, 1.0, 0.0, 0.0]), known(4))
    assert hard_negatives(score, traj, near, negatives=None, margin=0.35).index.tolist() == [[1, 2], [1, 3]]
    labelled = traj.replace(items=[{"correct": row == 0} for row in range(4)])
    assert hard_negatives(score, labelled).index.tolist() == [[0, 2]]
    shifted = place_outcome(torch.tensor([5.1, 5.7, 5.9, 5.4]), known(4), traj)  # a number of the start alone
    assert torch.equal(
        hard_negatives(shifted, traj, right, negatives=2).index, hard_negatives(score, traj, right, negatives=2).index
    )
    with pytest.raises(ValueError, match="what is right"):
        hard_negatives(score, traj)


def test_before_it_has_learned_a_pair_costs_log_two(policy, traj):
    model = AnswerRanker(policy=copy.deepcopy(policy))
    assert float(model._loss(model._states(traj)[torch.tensor([[0, 1]])]).detach()) == pytest.approx(math.log(2))
    assert model(traj)["rank"].value.abs().max() == 0


def test_the_wrong_answer_it_held_for_best_loses_its_lead(policy, traj):
    model = AnswerRanker(policy=copy.deepcopy(policy), every=1, epochs=60, learning_rate=0.05)
    misled = Pairs(torch.tensor([[1, 0], [1, 3], [4, 3]]), torch.ones(3), torch.ones(3))
    model.fit(traj, misled)
    before = model(traj)["rank"].value.sum(1)
    assert before[1] > before[0]
    assert before.argmax() == 1
    model.pool = model.pool[:0]
    told = model.learn(traj, {"correct": constant(RIGHT, known())})
    after = model(traj)["rank"].value.sum(1)
    assert told["rank/gap"] > 0
    assert told["rank/pairs"] == 2  # each right one against the hardest wrong one
    assert after[1] - after[0] < before[1] - before[0]


def test_it_learns_when_it_is_its_turn_and_goes_on_from_a_file(policy, traj, tmp_path):
    model = AnswerRanker(policy=copy.deepcopy(policy), every=2, negatives=None, epochs=60, learning_rate=0.05)
    rewards = {"correct": constant(RIGHT, known())}
    assert model.learn(traj, rewards) == {}
    with pytest.raises(ValueError, match="nothing to save"):
        model.save(tmp_path / "ranker.pt")
    assert model.learn(traj, rewards)["rank/accuracy"] == 1.0
    model.save(tmp_path / "ranker.pt")
    other = AnswerRanker(policy=copy.deepcopy(policy), weights=str(tmp_path / "ranker.pt"))
    assert torch.equal(other(traj)["rank"].value, model(traj)["rank"].value)
    assert int(best_of_n(model(traj)["rank"], traj).row) in (0, 3)
    with pytest.raises(KeyError, match="no reward channel"):
        model.learn(traj, {})


def test_the_best_of_n_by_a_perfect_score_is_right_unless_all_are_wrong_and_by_a_constant_one_as_often_as_any():
    p, n = 0.3, 3
    policy = Tabular(2, n, logits=torch.tensor([math.log(1 - p), math.log(p)]).repeat(7, 1))
    every = policy.sequences()  # each sequence is a draw of n answers, with its probability
    answers = dataclasses.replace(four_answers().select(torch.arange(n)), group=torch.zeros(n, dtype=torch.int64))
    perfect = blind = 0.0
    for row, chance in zip(every.actions, policy.probabilities().tolist(), strict=True):
        perfect += chance * float(row[int(best_of_n(constant(row.double(), known(n)), answers).row)])
        blind += chance * float(row[int(best_of_n(constant(torch.zeros(n), known(n)), answers).row)])
    assert perfect == pytest.approx(1 - (1 - p) ** n)
    assert blind == pytest.approx(p)


def test_a_run_learns_from_pairs_with_learned_weights_while_the_ranker_goes_on():
    run = {
        "task": {"name": "chain", "terms": 4},
        "policy": {"name": "transformer", "width": 8, "layers": 1, "heads": 1, "max_tokens": 6},
        "reward": {"correct": "chain-format", "rank": {"name": "reward-ranker", "every": 1, "epochs": 2}},
        "terms": {
            "pairs": {
                "paths": {"rank": ["total"]},
                "pairs": {"name": "all-pairs", "ties": "keep"},
                "loss": {"name": "sparse-po", "kl": "same", "l1_reward": 0.01, "learning_rate": 0.01},
                "aggregation": "pair-mean",
            }
        },
        "train": {"updates": 2, "starts": 2, "rollouts": 2},
        "evaluate": {"every": 0, "starts": 0},
    }
    parts, settings = build(Loaded(RunFile.model_validate(run), {}, "test", []), "", 0)
    last = train(parts, settings).history[-1]
    assert last["pairs/kept/reward"] > 0
    assert "rank/pairs" in last
