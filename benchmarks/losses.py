"""What every surrogate costs, forward and backward: python benchmarks/losses.py

Each loss of ours with its aggregation, against our own ppo-clip and against the same loss in verl or TRL where there is one, on the
same tensors. Value and gradient are compared first. Processor time of this process, contenders in turn, the fastest round of each:
a busy machine hardly shows. Ratios below 1 mean faster than what they are compared with.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from payoff.catalogue import find
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, Trajectories

# Without these, every large result is fresh memory, and the time goes into the kernel's page faults: whoever allocates more of
# them looks slow. With them memory is recycled, as in a long run, and the arithmetic is compared.
RECYCLE = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}


class Case(NamedTuple):
    """One loss: its name and options here, its aggregation, and the same in verl and in TRL."""

    name: str
    options: dict[str, Any]
    aggregation: str
    verl: tuple[str, dict[str, Any]] | None = None
    trl: tuple[str, dict[str, Any]] | None = None


MODES = {"token-mean": "token-mean", "sequence-mean-token-mean": "seq-mean-token-mean"}
CLIP = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28}
CASES = (
    Case("ppo-clip", {"high": 0.28}, "token-mean", None, ("dapo", {"epsilon_high": 0.28})),
    Case("dual-clip", {"high": 0.28}, "token-mean", ("vanilla", CLIP), None),
    Case("policy-gradient", {}, "token-mean", ("gpg", {}), None),
    Case("strict-on-policy", {}, "token-mean"),
    Case("r1-reward", {}, "token-mean"),
    Case("off-policy-mask", {}, "sequence-mean-token-mean", None, ("grpo", {"off_policy_mask_threshold": 0.5})),
    Case(
        "gspo",
        {},
        "sequence-mean-token-mean",
        None,
        ("grpo", {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4}),
    ),
    Case("gspo-token", {}, "sequence-mean-token-mean", ("gspo", {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}), None),
    Case("gmpo", {}, "sequence-mean-token-mean", ("geo_mean", {"clip_ratio_low": 0.4, "clip_ratio_high": 0.4}), None),
    Case("sapo", {}, "sequence-mean-token-mean", ("sapo", {}), ("sapo", {})),
    Case("vespo", {}, "token-mean", None, ("vespo", {})),
    Case(
        "cispo",
        {"high": 0.28},
        "token-mean",
        ("cispo", {"clip_ratio_low": 1.0, "clip_ratio_high": 0.28}),
        ("cispo", {"epsilon_high": 1.28}),
    ),
    Case("truncated-importance", {}, "token-mean"),
    Case("dppo-tv", {}, "token-mean", ("dppo_tv", {"clip_ratio_low": 0.15, "clip_ratio_high": 0.15, "clip_ratio_c": 20.0}), None),
    Case("dppo-kl", {}, "token-mean", ("dppo_kl", {"clip_ratio_low": 0.05, "clip_ratio_high": 0.05, "clip_ratio_c": 20.0}), None),
    Case("kl-cov", {}, "token-mean", ("kl_cov", {"policy_loss": {"kl_cov_ratio": 2e-4, "ppo_kl_coef": 1.0}}), None),
    Case("clip-cov", {}, "token-mean", ("clip_cov", {"clip_ratio": 0.2}), None),
    Case("dro", {"beta": 0.5}, "token-mean", ("dro", {"policy_loss": {"loss_mode": "dro", "dro_beta": 0.5}}), None),
)
DRAWN = {"clip-cov"}  # by lot: the same number of actions, not the same ones
TRL_ARGUMENTS = {
    "delta": None, "use_bias_correction_kl": False, "steps_per_generation": 1, "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05, "vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0,
}  # fmt: skip


def main() -> None:
    if any(os.environ.get(name) is None for name in RECYCLE):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **RECYCLE})
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rollouts", type=int, default=8192)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of losses")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    traj, new, target = batch(options.rollouts, options.length)
    print(
        f"torch {torch.__version__}, {options.threads} threads, [{options.rollouts} x {options.length}], fp32, forward and backward"
    )
    print(f"{'loss':22}{'ms':>9}{'ppo-clip':>11}{'verl':>9}{'TRL':>9}     (time as a share of theirs)")
    plain = functools.partial(ours, CASES[0], traj, new, target)
    for case in CASES:
        if options.only and case.name not in options.only:
            continue
        contenders: dict[str, Callable[[], Tensor]] = {"ours": functools.partial(ours, case, traj, new, target), "plain": plain}
        if case.verl:
            contenders["verl"] = verl_loss(case, traj, new, target)
        if case.trl:
            contenders["TRL"] = trl_loss(case, traj, new, target)
        for name in ("verl", "TRL"):
            if name in contenders and case.name not in DRAWN:
                check(f"{case.name} against {name}", contenders["ours"], contenders[name], new)
        best = timed(contenders, new, options.rounds)
        ratios = [f"{best['ours'] / best[name]:.2f}" if name in best else "" for name in ("plain", "verl", "TRL")]
        print(f"{case.name:22}{best['ours'] * 1e3:9.2f}{ratios[0]:>11}{ratios[1]:>9}{ratios[2]:>9}", flush=True)


def batch(n: int, t: int) -> tuple[Trajectories, Tensor, Channel]:
    """Trajectories of random lengths, log-probabilities a little off policy, and one advantage per trajectory."""
    rng = torch.Generator().manual_seed(0)
    length = torch.randint(1, t + 1, (n,), generator=rng)
    mask = torch.arange(t) < length[:, None]
    old = -3 * torch.rand(n, t, generator=rng)
    traj = Trajectories(
        mask=mask,
        length=length,
        group=torch.arange(n) // 8,
        step=torch.where(mask, 0, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, dtype=torch.int64),
        logp={"old": old},
    )
    new = (old + 0.2 * torch.randn(n, t, generator=rng)).clamp(max=0).requires_grad_()
    return traj, new, Channel(torch.randn(n, 1, generator=rng), torch.ones(n, 1, dtype=torch.bool))


def ours(case: Case, traj: Trajectories, new: Tensor, target: Channel) -> Tensor:
    """The aggregation is computed here too, although a run computes it once for all passes over a batch."""
    terms = find(case.name, "loss")(Evaluation(new, {}), traj, target, **case.options).terms
    return (terms * find(case.aggregation, "aggregation")(target, traj)).sum()


def verl_loss(case: Case, traj: Trajectories, new: Tensor, target: Channel) -> Callable[[], Tensor]:
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.workers.config import ActorConfig
    from verl.workers.config.actor import PolicyLossConfig

    assert case.verl is not None
    mode, options = case.verl
    policy_loss = PolicyLossConfig(**options.get("policy_loss", {}))
    rest = {name: value for name, value in options.items() if name != "policy_loss"}
    config = ActorConfig(strategy="fsdp", rollout_n=1, use_dynamic_bsz=True, policy_loss=policy_loss, **rest)
    loss, mask, advantage = get_policy_loss_fn(mode), traj.mask.float(), target.value.expand(new.shape).contiguous()
    return lambda: loss(traj.logp["old"], new, advantage, mask, MODES[case.aggregation], config)[0]


def trl_loss(case: Case, traj: Trajectories, new: Tensor, target: Channel) -> Callable[[], Tensor]:
    """TRL's loss is a method of its trainer, called on a stand-in that carries what the method reads."""
    from trl import GRPOTrainer

    assert case.trl is not None
    loss_type, options = case.trl
    n, t = new.shape
    defaults = {"importance_sampling_level": "token", "beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2}
    entropy = torch.zeros(n, t)
    trainer = SimpleNamespace(
        args=SimpleNamespace(**TRL_ARGUMENTS),
        loss_type=loss_type,
        max_completion_length=t,
        top_entropy_quantile=1.0,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(num_processes=1, sync_gradients=True, reduce=lambda x, reduction: x, gather=lambda x: x),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, entropy, None),
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        **{"off_policy_mask_threshold": None, **defaults, **options},
    )
    ids = torch.zeros(n, t, dtype=torch.int64)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones(n, 1, dtype=torch.int64),
        "completion_ids": ids,
        "completion_mask": traj.mask.int(),
        "advantages": target.value[:, 0],
        "old_per_token_logps": traj.logp["old"],
        "num_items_in_batch": traj.mask.sum(),
    }
    return lambda: GRPOTrainer._compute_loss(trainer, None, inputs)


def check(what: str, one: Callable[[], Tensor], other: Callable[[], Tensor], new: Tensor) -> None:
    """Value and gradient agree, up to what another order of summation does in fp32."""
    values, slopes = [], []
    for run in (one, other):
        value = run()
        slopes.append(torch.autograd.grad(value, new)[0])
        values.append(value.detach())
    said = lambda text: f"{what}: {text}"
    torch.testing.assert_close(values[0], values[1], rtol=1e-3, atol=1e-5, msg=said)
    torch.testing.assert_close(slopes[0] * new.numel(), slopes[1] * new.numel(), rtol=1e-3, atol=1e-3, msg=said)


def timed(contenders: dict[str, Callable[[], Tensor]], new: Tensor, rounds: int) -> dict[str, float]:
    """The fastest round of each, in seconds; they take turns."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.process_time()
            torch.autograd.grad(run(), new)
            best[name] = min(best[name], time.process_time() - start)
    return best


if __name__ == "__main__":
    main()
