"""The loop: what it refuses, what it survives, and that how it is cut or killed changes nothing."""

import dataclasses
import json
import os
import signal as signals
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch import nn

from payoff.build import build
from payoff.config import ConfigError, load_run
from payoff.parts import Progress, TrainingError
from payoff.pipeline import NonFiniteError, Term, everywhere
from payoff.train import train
from payoff.trajectories import Channel, constant
from payoff.update import annotate, optimise

RUN = """\
title: tiny
task: {name: chain, terms: 2, held_out: 20}
policy:
  {name: transformer, alphabet: "0123456789+-=;#.", context: 40, width: 16, layers: 1, heads: 2, max_tokens: 12, stop: ["."],
   step_separator: ";", critic: true}
reward: {format: chain-format, length: length}
terms:
  policy:
    paths: {length: [total, rloo]}
    loss: ppo-clip
  value:
    paths: {length: [lambda-return]}
    loss: value
    weight: 0.1
  entropy: {loss: entropy-bonus, weight: 0.01}
  kl: {loss: kl-k3, weight: 0.05}
train: {updates: 4, starts: 3, rollouts: 4, epochs: 2, minibatches: 2, learning_rate: 1e-2, checkpoint_every: 2}
evaluate: {every: 2, starts: 8}
"""


def parts_of(tmp_path, *overrides, text=RUN):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return build(load_run(path, overrides))


def weights(policy):
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def test_training_raises_what_it_pays_for(tmp_path):
    parts, settings = parts_of(tmp_path, "train.updates=20", "train.starts=8", "evaluate.every=0", "evaluate.starts=4")
    progress = train(parts, settings)
    lengths = [line["length"] for line in progress.history[1:]]
    assert sum(lengths[-4:]) > sum(lengths[:4]) + 4
    assert progress.rollouts == 20 * 32
    assert {"loss/policy", "loss/value", "loss/entropy", "loss/kl", "gradient_norm", "zero_spread"} <= set(progress.history[-1])


def test_the_same_seed_gives_the_same_run_and_another_gives_another(tmp_path):
    ends = []
    for seed in (0, 0, 1):
        parts, settings = parts_of(tmp_path, f"train.seed={seed}", "train.updates=2")
        train(parts, settings)
        ends.append(torch.cat([p.flatten() for p in parts.policy.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


KILLED = """
import sys, torch
from pathlib import Path
from payoff.build import build
from payoff.config import load_run
from payoff.train import train
torch.set_num_threads(1)
folder = Path(sys.argv[1])
parts, settings = build(load_run(folder / "run.yaml", ["train.updates=20", "train.checkpoint_every=5"]))
def on_update(metrics):
    print(metrics["update"], flush=True)
progress = train(parts, settings, checkpoint=folder / sys.argv[2], on_update=on_update)
torch.save([parts.policy.state_dict(), progress.optimiser.state_dict(), progress.rng.get_state()], folder / (sys.argv[2] + ".end"))
"""


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_ends_bit_for_bit_where_an_unbroken_one_ends(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    subprocess.run([*command, "whole.pt"], check=True, capture_output=True)
    broken = subprocess.Popen([*command, "broken.pt"], stdout=subprocess.PIPE, text=True)
    for line in broken.stdout:
        if int(line) >= 12:
            os.kill(broken.pid, signals.SIGKILL)
            break
    broken.wait()
    broken.stdout.close()
    assert torch.load(tmp_path / "broken.pt", weights_only=True)["counters"]["update"] == 10
    subprocess.run([*command, "broken.pt"], check=True, capture_output=True)
    one, two = (torch.load(tmp_path / f"{name}.pt.end", weights_only=True) for name in ("whole", "broken"))
    assert all(torch.equal(a, b) for a, b in zip(one[0].values(), two[0].values(), strict=True))
    for key, state in one[1]["state"].items():
        assert all(torch.equal(state[k], two[1]["state"][key][k]) for k in ("exp_avg", "exp_avg_sq"))
    assert torch.equal(one[2], two[2])


@pytest.mark.parametrize("cut", [{"microbatch": 1}, {"microbatch": 5}, {"microbatch": 12}])
def test_splitting_a_batch_changes_no_gradient(tmp_path, cut):
    parts, settings = parts_of(tmp_path, "train.epochs=1", "train.minibatches=1", "train.gradient_clip=0")
    traj = annotate(parts.policy.rollout(parts.task.starts(3, torch.Generator()), 4, torch.Generator()), parts)
    generator = torch.Generator().manual_seed(3)
    valid = torch.rand(12, 1, generator=generator) > 0.2
    target = Channel(torch.where(valid, torch.randn(12, 1, generator=generator), 0), valid)
    targets = {"policy": target, "value": target, "entropy": everywhere({}, traj), "kl": everywhere({}, traj)}

    def gradient(settings):
        progress = Progress(optimiser=torch.optim.SGD(parts.policy.parameters(), lr=0.0))
        optimise(parts, settings, progress, traj, targets)
        return torch.cat([p.grad.flatten() for p in parts.policy.parameters() if p.grad is not None])

    whole, split = gradient(settings), gradient(dataclasses.replace(settings, **cut))
    assert whole.norm() > 0
    assert torch.allclose(whole, split, rtol=1e-4, atol=1e-7)


def test_an_invalid_verdict_changes_no_other_trajectorys_weight_but_through_counts(tmp_path):
    parts, _settings = parts_of(tmp_path, "train.epochs=1", "train.minibatches=1", "train.gradient_clip=0")
    parts = dataclasses.replace(parts, terms={"policy": parts.terms["policy"]})
    traj = annotate(parts.policy.rollout(parts.task.starts(3, torch.Generator()), 4, torch.Generator()), parts)
    rewards = parts.signal(traj)
    channel = rewards["length"]
    valid = torch.ones(12, 1, dtype=torch.bool)
    valid[5] = False
    known = Channel(torch.where(valid, channel.value, 0), channel.valid & valid)
    without = torch.tensor([i for i in range(12) if i != 5])
    full = parts.terms["policy"].target({**rewards, "length": known}, traj)
    alone = parts.terms["policy"].target({"length": Channel(known.value[without], known.valid[without])}, traj.select(without))
    assert torch.equal(full.value[without], alone.value)
    assert not full.valid[5].any()


class Poison(nn.Module):
    """A loss that turns to NaN for one trajectory at the second update."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, evaluation, traj, target):
        from payoff.pipeline import LossOutput

        self.calls += 1
        terms = torch.where(traj.own, evaluation.logp, 0)
        if self.calls > 1:
            terms = terms * torch.where(torch.arange(len(traj)) == 2, float("nan"), 1.0)[:, None]
        return LossOutput(terms, {})


def test_nan_is_caught_where_it_arises_and_never_reaches_the_weights(tmp_path):
    parts, settings = parts_of(tmp_path, "train.epochs=1", "train.minibatches=1", "evaluate.starts=0")
    aggregation = parts.terms["policy"].aggregation
    parts = dataclasses.replace(parts, terms={"bad": Term(everywhere, Poison(), aggregation)})
    with pytest.raises(NonFiniteError, match=r"loss 'bad': gave nan for trajectory \d+"):
        train(parts, settings)
    assert all(torch.isfinite(p).all() for p in parts.policy.parameters())


def test_an_infinite_gradient_leaves_the_weights_alone(tmp_path):
    parts, settings = parts_of(tmp_path, "evaluate.starts=0")
    before = weights(parts.policy)
    huge = Term(everywhere, parts.terms["policy"].loss, lambda target, traj: torch.full(traj.mask.shape, 3e38) * traj.own)
    with pytest.raises((TrainingError, NonFiniteError)):
        train(dataclasses.replace(parts, terms={"huge": huge}), settings)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), weights(parts.policy).values(), strict=True))


def test_a_batch_mostly_without_verdict_stops_the_run_and_says_why(tmp_path):
    parts, settings = parts_of(tmp_path, "evaluate.starts=0")

    def judge(traj):
        valid = torch.arange(len(traj)) % 3 == 0
        reasons = {int(i): "the judge did not answer" for i in traj.id[~valid].tolist()}
        return {name: constant(torch.zeros(len(traj)), valid, reasons) for name in ("format", "length")}

    with pytest.raises(TrainingError, match=r"8 of 12 rollouts have no verdict.*8 x the judge did not answer.*max_invalid = 0.5"):
        train(dataclasses.replace(parts, signal=judge), settings)
    progress = train(dataclasses.replace(parts, signal=judge), dataclasses.replace(settings, max_invalid=0.7))
    assert progress.history[-1]["invalid"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy.critic=false"], r"term 'policy'|term 'value' needs \['values'\].*add critic: true"),
        (["train.rollouts=1", "train.minibatches=1"], "train.rollouts is 1, and a part of `terms` compares rollouts"),
        (["train.minibatches=13"], "train.minibatches is 13, more than the 12 rollouts"),
        (["terms.policy.loss=ppo_clp"], "unknown loss 'ppo_clp'; did you mean ppo-clip"),
        (["terms.policy.loss=total"], "'total' is a credit, and here a loss is needed"),
        (["terms.policy.loss.epsilon=0.1"], "ppo-clip has no option 'epsilon'"),
        (["terms.policy.loss.low=wide"], "ppo-clip: low should be a valid number.*is 'wide'"),
        (["terms.policy.paths.lenght=[total]"], "no reward channel 'lenght'; did you mean length"),
        (["reward.length=chain-fromat"], "did you mean chain-format"),
        (["task.terms=many"], "chain: terms should be a valid integer"),
        (["policy.checkpoint=/nowhere.pt"], "/nowhere.pt"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_rollout(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        parts_of(tmp_path, *overrides)


def test_checkpoints_of_other_runs_and_broken_ones_are_refused_in_a_line(tmp_path):
    parts, settings = parts_of(tmp_path, "train.updates=2", "evaluate.starts=0")
    train(parts, settings, checkpoint=tmp_path / "a.pt")
    other, settings = parts_of(tmp_path, "policy.width=32", "train.updates=2", "evaluate.starts=0")
    with pytest.raises(ValueError, match="was written by another model"):
        train(other, settings, checkpoint=tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        train(parts, settings, checkpoint=tmp_path / "b.pt")


def test_a_selection_that_keeps_nothing_skips_the_update_and_says_so(tmp_path):
    parts, settings = parts_of(tmp_path, "evaluate.starts=0", "train.updates=2")
    before = weights(parts.policy)
    none = dataclasses.replace(parts, selections=[lambda rewards, traj: torch.zeros(0, dtype=torch.int64)])
    progress = train(none, settings)
    assert progress.history[-1]["selected"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before.values(), weights(parts.policy).values(), strict=True))


@pytest.mark.slow
def test_ctrl_c_saves_reports_and_the_same_command_continues(tmp_path):
    (tmp_path / "run.yaml").write_text(textwrap.dedent(RUN))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "payoff", "train", str(tmp_path / "run.yaml"), "train.updates=400", "--out", str(out)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = out / "arms" / "run" / "seed-0" / "metrics.jsonl"
    limit = time.monotonic() + 90
    while time.monotonic() < limit and (not metrics.exists() or metrics.read_text().count("\n") < 5):
        time.sleep(0.1)
    run.send_signal(signals.SIGINT)
    _, errors = run.communicate(timeout=90)
    assert run.returncode == 130, errors
    assert "Traceback" not in errors
    results = json.loads((out / "results.json").read_text())
    assert results["status"] == "interrupted"
    done = len(metrics.read_text().splitlines())
    short = [*command[:-2], "--out", str(out)]
    again = subprocess.Popen(short, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 90
    while time.monotonic() < limit and len(metrics.read_text().splitlines()) < done + 3:
        time.sleep(0.1)
    again.send_signal(signals.SIGINT)
    again.communicate(timeout=90)
    updates = [json.loads(line)["update"] for line in metrics.read_text().splitlines()]
    assert updates == list(range(len(updates)))
    assert len(updates) >= done + 3
