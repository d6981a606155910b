"""Preferences through the loop from a run file to a trained policy: recorded ones and the policy's own."""

import json

import pytest
import torch

from payoff.recipes import train_arm

TABLE = {"name": "tabular", "vocabulary": 3, "horizon": 2}
DPO = {
    "paths": {"preferred": ["total"]},
    "pairs": "recorded-pairs",
    "loss": {"name": "dpo", "beta": 0.5},
    "aggregation": "pair-mean",
}


def offline(data, policy, *, term=DPO, sampler="recorded", reward="recorded-label", terms=None, **train):
    """A run file on recorded data."""
    return {
        "task": {"name": "preferences", "data": data, "held_out": 0},
        "policy": policy,
        "sampler": sampler,
        "reward": reward if isinstance(reward, dict) else {"preferred": reward},
        "terms": terms or {"dpo": term},
        "train": {"updates": 20, "starts": 2, "rollouts": 2, "learning_rate": 0.1, **train},
        "evaluate": {"every": 0, "starts": 0},
    }


@pytest.fixture
def tokens(tmp_path):
    """Four pairs of the tabular policy: action 0 is better than 1, and 1 than 2."""
    pairs = [([0, 0], [1, 1]), ([1, 0], [2, 1]), ([0, 1], [2, 2]), ([1, 1], [2, 0])]
    rows = [{"prompt": f"p{k}", "chosen": chosen, "rejected": rejected} for k, (chosen, rejected) in enumerate(pairs)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_offline_dpo_from_a_file_on_the_tabular_policy(tokens):
    trained = train_arm(offline(tokens, TABLE), "", 0)
    first, last = trained.history[1], trained.history[-1]
    assert first["loss/dpo"] == pytest.approx(0.6931, abs=1e-3)  # nothing has moved
    assert last["loss/dpo"] < 0.3
    assert last["dpo/accuracy"] == 1
    assert last["dpo/chosen"] > 0 > last["dpo/rejected"]
    assert last["rollouts"] == 20 * 2 * 2
    first_action = trained.policy.logits[0, 0].softmax(0)
    assert first_action[0] > first_action[1] > first_action[2]


def test_offline_dpo_from_a_file_on_a_language_model(tmp_path):
    rows = [{"prompt": f"{k}+1=", "chosen": f"{k + 1}.", "rejected": f"{k}."} for k in range(4)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = {"name": "transformer", "width": 16, "layers": 1, "heads": 2}
    trained = train_arm(offline(str(path), policy, starts=4, learning_rate=0.01), "", 0)
    assert trained.history[-1]["loss/dpo"] < 0.5 < trained.history[1]["loss/dpo"]
    assert trained.history[-1]["dpo/accuracy"] == 1
    assert trained.history[-1]["dpo/margin"] > 1


def test_cutting_rollouts_apart_never_cuts_a_pair(tokens):
    whole = train_arm(offline(tokens, TABLE, starts=4, updates=3), "", 0).policy
    small = train_arm(offline(tokens, TABLE, starts=4, updates=3, microbatch=1), "", 0).policy
    assert torch.equal(whole.logits, small.logits)
    # two minibatches of two starts each: every pair is in one of them
    cut = train_arm(offline(tokens, TABLE, starts=4, updates=1, minibatches=2), "", 0)
    assert cut.history[-1]["dpo/accuracy"] in (0.5, 0.75, 1.0)
    assert cut.history[-1]["loss/dpo"] == pytest.approx(0.69, abs=0.05)


def test_kto_learns_from_answers_without_a_partner(tmp_path):
    path = tmp_path / "labels.jsonl"
    rows = [{"prompt": f"p{k}", "completion": [k % 3, 0], "label": k % 3 == 0} for k in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    term = {"paths": {"preferred": ["total"]}, "loss": {"name": "kto", "beta": 0.5}, "aggregation": "sequence-mean-token-mean"}
    sampler = {"name": "recorded", "mismatched": True}
    trained = train_arm(offline(str(path), TABLE, term=term, sampler=sampler, starts=6), "", 0)
    assert trained.history[-1]["loss/dpo"] < trained.history[1]["loss/dpo"] == pytest.approx(0.5)
    assert trained.history[-1]["dpo/desirable"] > 0 > trained.history[-1]["dpo/undesirable"]
    assert trained.policy.logits[0, 0].argmax() == 0


def test_rationales_are_learnt_beside_the_pairs(tmp_path):
    path = tmp_path / "why.jsonl"
    row = {"prompt": "1+1=", "chosen": "2.", "rejected": "3.", "rationale": "1+1-2=0."}
    path.write_text(json.dumps(row) + "\n")
    why = {"paths": {"why": ["total"]}, "loss": {"name": "rationale-preference", "gamma": 0.5}}
    why["aggregation"] = "sequence-mean-token-mean"
    reward = {"preferred": "recorded-label", "why": "recorded-rationale"}
    policy = {"name": "transformer", "width": 16, "layers": 1, "heads": 2}
    run = offline(str(path), policy, reward=reward, terms={"dpo": DPO, "why": why}, starts=1, learning_rate=0.01)
    run["task"]["why"] = "{prompt}{chosen}#{rejected}="
    trained = train_arm(run, "", 0)
    first, last = trained.history[1], trained.history[-1]
    assert last["why/likelihood"] > first["why/likelihood"] + 5
    assert last["dpo/margin"] > 1


def test_degrees_are_learnt_beside_the_pairs(tmp_path):
    path = tmp_path / "degrees.jsonl"
    path.write_text(json.dumps({"prompt": "1+1=", "chosen": "22 33 44 55.", "rejected": "66 77."}) + "\n")
    degree = {"paths": {"degree": ["total"]}, "loss": {"name": "spo-preference-degree", "levels": 6}}
    degree["aggregation"] = "sequence-mean-token-mean"
    reward = {"preferred": "recorded-label", "degree": "recorded-degree"}
    policy = {"name": "transformer", "width": 16, "layers": 1, "heads": 2, "alphabet": "0123456789+-=;#. "}
    run = offline(str(path), policy, reward=reward, terms={"dpo": DPO, "degree": degree}, starts=1, learning_rate=0.01)
    run["task"]["degrees"] = 2
    run["train"]["max_invalid"] = 0.7  # two of six responses are whole and have a preference
    trained = train_arm(run, "", 0)
    assert trained.history[-1]["loss/degree"] < trained.history[1]["loss/degree"] - 0.3
    assert trained.history[-1]["dpo/margin"] > 1


@pytest.mark.parametrize(
    ("loss", "sampler"),
    [({"name": "dpo", "beta": 0.5}, None), ({"name": "dno", "eta": 0.5}, {"name": "rounds", "every": 5}), ("sppo-hard", None)],
)
def test_the_policys_own_rollouts_compared_by_a_reward_raise_it(loss, sampler):
    run = {
        "task": {"name": "tree", "vocabulary": 3, "horizon": 2, "leaf_rewards": {"ab": 1.0, "ac": 0.5, "ba": 0.2}},
        "policy": TABLE,
        "sampler": sampler,
        "reward": {"pay": "tree-leaf"},
        "terms": {"pairs": {"paths": {"pay": ["total"]}, "pairs": "best-worst", "loss": loss, "aggregation": "pair-mean"}},
        "train": {"updates": 30, "starts": 4, "rollouts": 4, "learning_rate": 0.1},
        "evaluate": {"every": 0, "starts": 0},
    }
    trained = train_arm(run, "", 0)
    worth = trained.task.leaves()
    before, after = float(worth.mean()), float(trained.policy.probabilities().detach() @ worth)
    assert after > 2 * before


def test_an_update_without_any_pair_changes_nothing():
    run = {
        "task": {"name": "tree", "vocabulary": 3, "horizon": 2, "leaf_rewards": {}},
        "policy": {**TABLE, "spread": 1.0},
        "reward": {"pay": "tree-leaf"},
        "terms": {"pairs": {"paths": {"pay": ["total"]}, "pairs": "all-pairs", "loss": "dpo", "aggregation": "pair-mean"}},
        "train": {"updates": 2, "starts": 2, "rollouts": 2, "learning_rate": 0.1},
        "evaluate": {"every": 0, "starts": 0},
    }
    trained = train_arm(run, "", 0)
    assert trained.history[-1]["loss/pairs"] == 0
    from payoff.policies.tabular import Tabular

    torch.testing.assert_close(trained.policy.logits, Tabular(3, 2, spread=1.0).logits)
