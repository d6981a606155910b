"""TRL on two processes, with a group cut in two between them: the step both take is that of one process that has everything."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__)
PROMPTS = ["1+2=", "3+4=", "2+2="]


def place_in_group(response):
    """How many others of the group have fewer digits: only who sees the whole group can say it."""
    count = [sum(c.isdigit() for c in text) for text in response]
    return [sum(other < mine for other in count) / 4 for mine in count]


def half_known(response):
    return None if response.startswith(("1", "2", "3", "4")) else sum(c.isdigit() for c in response) / 8


def tiny():
    spec = importlib.util.spec_from_file_location("tiny", HERE.parents[2] / "examples" / "trl" / "tiny.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parts():
    from payoff.advantages.batch import whiten
    from payoff.advantages.group import leave_one_out
    from payoff.credit.returns import total
    from payoff.losses.aggregation import token_mean
    from payoff.losses.policy_gradient import ppo_clip
    from payoff.pipeline import weigh

    paths = {"place_in_group": [total, leave_one_out], "half_known": [total]}
    return {"target": weigh(paths, missing="skip", then=[whiten]), "loss": ppo_clip, "aggregation": token_mean}


def run(folder):
    """What each process does: one step of `PayoffGRPOTrainer` on its half."""
    import datasets
    import trl

    from payoff.grading import signal
    from payoff.integrations.trl_rewards import reward_function
    from payoff.integrations.trl_trainer import PayoffGRPOTrainer

    args = trl.GRPOConfig(
        output_dir=str(folder / "runs"), per_device_train_batch_size=3, gradient_accumulation_steps=2, num_generations=4,
        max_completion_length=6, use_cpu=True, bf16=False, report_to=[], max_steps=1, seed=3, save_strategy="no",
        lr_scheduler_type="constant", disable_tqdm=True, optim="sgd", learning_rate=0.5, max_grad_norm=0.0, beta=0.0,
        shuffle_dataset=False,
    )  # fmt: skip
    trainer = PayoffGRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=[reward_function(signal(place_in_group, sees="group")), reward_function(signal(half_known))],
        args=args,
        train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=tiny().tokenizer(),
        **parts(),
    )
    trainer.train()
    traj, rewards, targets = trainer.batch
    state = {name: value.detach() for name, value in trainer.accelerator.unwrap_model(trainer.model).named_parameters()}
    torch.save(
        {
            "actions": traj.actions, "length": traj.length, "group": traj.group, "prompts": [i["prompt"] for i in traj.items],
            "responses": [i["response"] for i in traj.items], "prompt_ids": [i["prompt_ids"] for i in traj.items],
            "rewards": {k: (c.value, c.valid) for k, c in rewards.items()}, "target": tuple(targets["policy"][:2]), "state": state,
        },
        folder / f"process-{os.environ['RANK']}.pt",
    )  # fmt: skip


@pytest.mark.exhaustive
def test_two_processes_with_a_group_between_them_step_as_one(tmp_path):
    for name in ("datasets", "trl", "accelerate"):
        pytest.importorskip(name)
    tiny().model(tmp_path / "model", width=16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    everyone = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    everyone |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_TORCH_DEVICE": "cpu"}
    command = [sys.executable, str(HERE), str(tmp_path)]
    processes = [
        subprocess.Popen(command, env={**everyone, "RANK": k, "LOCAL_RANK": k}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for k in "01"
    ]
    try:
        told = [process.communicate(timeout=150)[0].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], told[0][-3000:] + told[1][-3000:]
    one, other = (torch.load(tmp_path / f"process-{k}.pt") for k in range(2))
    assert one["prompts"] == [prompt for prompt in PROMPTS for _ in range(4)]
    assert one["responses"] == other["responses"]
    assert torch.equal(one["target"][0], other["target"][0])
    value, valid = one["rewards"]["place_in_group"]
    assert valid.all()
    for k in range(0, 12, 4):
        assert value[k : k + 4].sum(1).tolist() == pytest.approx(place_in_group(one["responses"][k : k + 4]))
    assert 0 < one["rewards"]["half_known"][1].all(1).sum() < 12
    assert len(set(one["group"].tolist())) == 3
    assert all(torch.equal(one["state"][name], other["state"][name]) for name in one["state"])
    alone = by_one(tmp_path, one)
    assert max(float((one["state"][name] - alone[name]).abs().max()) for name in alone) < 1e-5


def by_one(folder, found):
    """The weights after a step of plain SGD on the same completions and targets, by autograd on our own policy."""
    import transformers

    from payoff.pipeline import Evaluation
    from payoff.policies.lm import LanguageModel
    from payoff.policies.pretrained import HubModel, HubTokenizer
    from payoff.trajectories import Channel, Trajectories

    network = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    words = HubTokenizer(tiny().tokenizer(), vocabulary=network.config.vocab_size, ends=frozenset({1}))
    policy = LanguageModel(HubModel(network), words, step_separator=None)
    exists = torch.arange(found["actions"].shape[1]) < found["length"][:, None]
    traj = Trajectories(
        mask=exists, length=found["length"], group=found["group"], step=torch.where(exists, 0, -1).int(),
        stop=torch.zeros(12, dtype=torch.int64), actions=found["actions"],
        items=[{"prompt": p, "prompt_ids": ids} for p, ids in zip(found["prompts"], found["prompt_ids"], strict=True)],
    )  # fmt: skip
    rewards = {name: Channel(*given) for name, given in found["rewards"].items()}
    given = parts()
    target = given["target"](rewards, traj)
    assert torch.allclose(target.value, found["target"][0])
    evaluation = policy.evaluate(traj)
    traj = traj.replace(logp={"old": evaluation.logp.detach()})
    terms = given["loss"](Evaluation(evaluation.logp, {}), traj, target).terms
    (terms * given["aggregation"](target, traj)).sum().backward()
    return {name: (p - 0.5 * p.grad).detach() if p.grad is not None else p.detach() for name, p in network.named_parameters()}


if __name__ == "__main__":
    run(Path(sys.argv[1]))
