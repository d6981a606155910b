"""The model of OPRL: what its steps add up to, what it learns from pairs, and that a run with it trains."""

import copy

import pytest
import torch

from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.contents import learners
from payoff.models.implicit_pairs import PairedImplicitReward
from payoff.pipeline import Evaluation
from payoff.policies.tabular import Tabular
from payoff.signals.density_ratios import implicit_step_rewards
from payoff.train import train
from payoff.trajectories import outcome, place_outcome

F64 = torch.float64


@pytest.fixture
def world():
    """All eight sequences of a tree, two actions to a step, as rollouts of two groups; a model that is not who acted."""
    policy = Tabular(2, 3, spread=1.0, seed=1, step_length=2)
    traj = policy.sequences().replace(group=torch.arange(8) // 4)
    return traj, PairedImplicitReward(policy=Tabular(2, 3, spread=1.0, seed=2, step_length=2), beta=0.3, learning_rate=0.05)


def right(traj, values, known=None):
    known = torch.ones(8, dtype=torch.bool) if known is None else known
    return {"correct": place_outcome(torch.tensor(values, dtype=F64), known, traj)}


def test_it_pays_what_the_signal_pays_of_the_same_model_and_adds_up_to_the_whole_ratio(world):
    traj, model = world
    said = traj.replace(logp={"prm": model.model.evaluate(traj).logp.detach()})
    torch.testing.assert_close(model(traj)["implicit"].value, implicit_step_rewards(said, beta=0.3)["oprl"].value)
    whole = 0.3 * (said.logp["prm"] - said.logp["old"]).sum(1)
    for per in ("step", "action", "rollout"):
        model.per = per
        torch.testing.assert_close(outcome(model(traj)["implicit"], traj)[0], whole)
    assert (model(traj)["implicit"].value[:, :2] == 0).all()  # of the rollout: at its end
    same = PairedImplicitReward(policy=Tabular(2, 3, spread=1.0, seed=1, step_length=2))
    assert (same(traj)["implicit"].value == 0).all()


def test_pairs_are_of_one_start_and_of_outcomes_that_differ(world):
    traj, _ = world
    acted = Tabular(2, 3, spread=1.0, seed=1, step_length=2)
    fresh = lambda **options: PairedImplicitReward(policy=copy.deepcopy(acted), learning_rate=0.05, **options)
    # group 0: 2 right, 2 wrong; group 1: 0.5 above 0.3 three times over, one unknown
    values, known = [1.0, 0.0, 1.0, 0.0, 0.5, 0.3, 0.3, 9.0], torch.arange(8) < 7
    told = fresh().learn(traj, right(traj, values, known))
    assert told["istar/pairs"] == 4 + 2
    assert told["istar/loss"] == pytest.approx(0.6931, abs=1e-4)  # log 2: the model is who acted
    assert told["istar/accuracy"] == 0.5
    assert fresh(margin=0.5).learn(traj, right(traj, values, known))["istar/pairs"] == 4
    model, before = fresh(), copy.deepcopy(acted.logits)
    assert model.learn(traj, right(traj, [1.0] * 4 + [0.0] * 4))["istar/pairs"] == 0
    assert torch.equal(model.model.logits, before)


def test_the_first_gradient_pulls_a_pair_apart_and_turns_with_it(world):
    traj, _ = world
    moves = []
    for values in ([1.0, 0.0, 0, 0, 0, 0, 0, 0], [0.0, 1.0, 0, 0, 0, 0, 0, 0]):
        some = traj.select(torch.tensor([0, 1]))
        model = PairedImplicitReward(policy=Tabular(2, 3, spread=1.0, seed=1, step_length=2), learning_rate=1e-3)
        before = model.model.logits.detach().clone()
        model.learn(some, {"correct": place_outcome(torch.tensor(values[:2], dtype=F64), torch.ones(2) > 0, some)})
        moves.append(model.model.logits.detach() - before)
    torch.testing.assert_close(moves[0], -moves[1])
    assert moves[0].abs().max() > 0


def test_labels_drawn_by_a_utility_are_met_by_that_utility_up_to_a_constant():
    # of two sequences with utilities u and v the first is better sigmoid(u - v) of the time: the gradient of the expected loss
    # vanishes where beta times the whole log-ratio is the utility and a constant
    acted, beta = Tabular(2, 2, spread=1.0, seed=1), 0.5
    traj = acted.sequences()
    utility = torch.tensor([0.4, -0.3, 0.1, 0.9], dtype=F64)
    best = acted.optimum(utility, beta)
    model = PairedImplicitReward(policy=copy.deepcopy(best), beta=beta)
    q = outcome(model(traj)["implicit"], traj)[0]
    assert float((q - utility).std()) < 1e-9
    score = beta * (model.model.evaluate(traj).logp - traj.logp["old"]).sum(1)
    ahead = score[:, None] - score
    chance = torch.sigmoid(utility[:, None] - utility)
    loss = -(chance * torch.nn.functional.logsigmoid(ahead)).sum()
    assert torch.autograd.grad(loss, model.model.logits)[0].abs().max() < 1e-9


def test_what_is_unsound_is_refused_before_anything_moves(world):
    traj, model = world
    with pytest.raises(KeyError, match="istar: no reward channel 'correct'"):
        model.learn(traj, {})
    with pytest.raises(ValueError, match=r"needs traj\.logp"):
        model(type(traj)(**{**vars(traj), "logp": {}}))
    for options in ({"beta": 0.0}, {"margin": -1.0}):
        with pytest.raises(ValueError, match="istar: beta and learning_rate must be positive"):
            PairedImplicitReward(policy=Tabular(2, 2), **options)

    class Broken(Tabular):
        def evaluate(self, traj, want=frozenset()):
            return Evaluation(super().evaluate(traj, want).logp * torch.nan, {})

    with pytest.raises(ArithmeticError, match="istar"):
        PairedImplicitReward(policy=Broken(2, 3)).learn(traj, right(traj, [1.0, 0, 0, 0, 0, 0, 0, 0]))


def test_a_run_file_trains_with_it():
    run = {
        "task": {"name": "tree", "vocabulary": 2, "horizon": 4, "leaf_rewards": {"abab": 1.0, "bbab": 1.0}},
        "policy": {"name": "tabular", "vocabulary": 2, "horizon": 4, "step_length": 2},
        "reward": {"correct": "tree-leaf", "steps": {"name": "istar", "learning_rate": 0.1}},
        "terms": {
            "policy": {
                "paths": {
                    "correct": ["total", "grpo"],
                    "steps": ["immediate", {"name": "standardise", "over": "group", "unit": "step"}],
                },
                "loss": "ppo-clip",
            }
        },
        "train": {"updates": 3, "starts": 4, "rollouts": 8, "learning_rate": 0.1},
        "evaluate": {"every": 0, "starts": 1},
    }
    parts, settings = build(Loaded(RunFile.model_validate(run), {}, "test", []))
    history = train(parts, settings).history
    (model,) = learners([parts.signal])
    assert model.learns_first
    assert any((line.get("istar/pairs") or 0) > 0 for line in history)
