"""TRL's conversational preferences on a model of transformers: through its template, ended as it ends its own, learnt with LoRA."""

import json

import torch

from payoff.policies.pretrained import pretrained
from payoff.recipes import train_arm
from payoff.sampling.recorded import recorded
from payoff.tasks.preferences import Preferences

USER = {"role": "user", "content": "What is 3+4?"}
ROW = {
    "prompt": [USER],
    "chosen": [{"role": "assistant", "content": "The answer is 7."}],
    "rejected": [{"role": "assistant", "content": "Step 1: 36."}],
}


def test_an_answer_stands_behind_the_template_and_has_the_end_token(llama):
    policy = pretrained(model=llama)
    start = Preferences([ROW], held_out=0).starts(1, torch.Generator())
    traj = recorded(policy, start, 2, torch.Generator())
    words = policy.tokenizer.tokenizer
    for row, answer in enumerate(("The answer is 7.", "Step 1: 36.")):
        ids = traj.items[row]["prompt_ids"] + traj.actions[row, : traj.length[row]].tolist()
        assert words.decode(ids) == f"<|user|>What is 3+4?<|end|><|assistant|>{answer}<|end|>"
        assert traj.items[row]["response"] == answer
    assert traj.items[0]["messages"] == [USER]
    torch.testing.assert_close(policy.evaluate(traj).logp.detach(), traj.logp["old"])


def test_offline_dpo_with_lora_from_a_file_of_conversations(llama, tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({**ROW, "score_chosen": 9.0, "score_rejected": 2.0}) + "\n")
    run = {
        "task": {"name": "preferences", "data": str(path), "held_out": 0},
        "policy": {"name": "pretrained", "model": llama, "lora": {"r": 4}},
        "sampler": "recorded",
        "reward": {"preferred": "recorded-label", "score": "recorded-score"},
        "terms": {
            "dpo": {"paths": {"preferred": ["total"]}, "pairs": "recorded-pairs", "loss": "dpo", "aggregation": "pair-mean"},
        },
        "train": {"updates": 5, "starts": 1, "rollouts": 2, "learning_rate": 0.01},
        "evaluate": {"every": 0, "starts": 0},
    }
    history = train_arm(run, "", 0).history
    assert abs(history[1]["loss/dpo"] - 0.6931) < 1e-3  # the reference is the model with its adapters off
    assert history[-1]["loss/dpo"] < 0.6
    assert history[-1]["dpo/margin"] > 1
    assert history[-1]["reward/score"] == 5.5
