"""The same numbers as verl and TRL, through their own functions, where they compute the same thing."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from payoff.losses.aggregation import constant_length, sequence_mean, sequence_sum, token_mean
from payoff.losses.policy_gradient import dual_clip, policy_gradient, ppo_clip
from payoff.losses.regularisers import entropy_bonus, kl_k1, kl_k2, kl_k3, kl_unbiased
from payoff.losses.value import clipped_value_loss
from payoff.pipeline import Evaluation, everywhere
from payoff.trajectories import Channel, Trajectories

pytestmark = pytest.mark.slow  # importing the trainers takes seconds

N, T = 6, 7


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Batch:
    """A random batch with tool text inside, in our structure and as the plain tensors of the trainers."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        length = torch.randint(1, T + 1, (N,), generator=generator)
        exists = torch.arange(T) < length[:, None]
        inside = torch.rand(N, T, generator=generator) < 0.8
        inside[:, 0] = True  # TRL divides by the actions of a sequence, so every one has some
        self.mask = exists & inside
        self.old = -3 * torch.rand(N, T, generator=generator)
        self.ref = self.old + 0.5 * torch.randn(N, T, generator=generator)
        self.new = (self.old + 0.6 * torch.randn(N, T, generator=generator)).requires_grad_()
        self.advantage = torch.randn(N, T, generator=generator)
        self.entropy = torch.rand(N, T, generator=generator)
        self.values = torch.randn(N, T + 1, generator=generator).requires_grad_()
        self.old_values = self.values.detach() + 0.5 * torch.randn(N, T + 1, generator=generator)
        self.traj = Trajectories(
            mask=self.mask,
            length=length,
            group=torch.zeros(N, dtype=torch.int64),
            step=torch.where(exists, 0, -1).int(),
            stop=torch.zeros(N, dtype=torch.int64),
            actions=torch.zeros(N, T, dtype=torch.int64),
            logp={"old": self.old, "ref": self.ref},
            extras={"values": self.old_values},
        )
        self.target = Channel(self.advantage, torch.ones(N, 1, dtype=torch.bool))
        self.evaluation = Evaluation(self.new, {"values": self.values, "entropy": self.entropy})

    def ours(self, loss, aggregation, target: Channel | None = None, **options) -> torch.Tensor:
        target = target or self.target
        return (loss(self.evaluation, self.traj, target, **options).terms * aggregation(target, self.traj)).sum()


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, wrt: torch.Tensor) -> None:
    """Value and gradient agree."""
    torch.testing.assert_close(ours, theirs)
    gradients = (torch.autograd.grad(loss, wrt, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(*gradients)


MODES = {
    "token-mean": token_mean,
    "seq-mean-token-mean": sequence_mean,
    "seq-mean-token-sum": sequence_sum,
    "seq-mean-token-sum-norm": lambda target, traj: constant_length(target, traj, max_length=T),
}
seeds = pytest.mark.parametrize("seed", range(4))


@pytest.fixture(scope="module")
def verl():
    return pytest.importorskip("verl.trainer.ppo.core_algos")


def verl_config(**options):
    from omegaconf import OmegaConf

    defaults = {"clip_ratio": 0.2, "clip_ratio_low": None, "clip_ratio_high": None, "global_batch_info": {}}
    return OmegaConf.create({**defaults, **options})


@seeds
@pytest.mark.parametrize("mode", MODES)
def test_aggregations_are_those_of_verl(verl, mode, seed):
    batch = Batch(seed)
    mask = batch.mask.clone()
    mask[2] = False  # verl drops a sequence without tokens from its mean, as we drop one without a verdict
    target = Channel(batch.advantage, torch.arange(N)[:, None] != 2)
    matrix = torch.randn(N, T)
    ours = (torch.where(mask, matrix, 0) * MODES[mode](target, batch.traj)).sum()
    torch.testing.assert_close(ours, verl.agg_loss(matrix, mask.float(), mode))


@seeds
@pytest.mark.parametrize("mode", MODES)
def test_the_dual_clip_is_verls_default_policy_loss(verl, mode, seed):
    batch = Batch(seed)
    loss = verl.get_policy_loss_fn("vanilla")
    config = verl_config(clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=1.5)
    theirs, metrics = loss(batch.old, batch.new, batch.advantage, batch.mask.float(), mode, config)
    options = {"low": 0.2, "high": 0.28, "bound": 1.5}
    assert_same(batch.ours(dual_clip, MODES[mode], **options), theirs, batch.new)
    ours = dual_clip(batch.evaluation, batch.traj, batch.target, **options).metrics
    assert ours["clip_fraction"] == pytest.approx(metrics["actor/pg_clipfrac"], abs=1e-6)
    assert ours["dual_clip_fraction"] == pytest.approx(metrics["actor/pg_clipfrac_lower"], abs=1e-6)


@seeds
def test_ppo_clip_is_verls_policy_loss_without_its_dual_clip(verl, seed):
    batch = Batch(seed)
    config = verl_config(clip_ratio_c=1e9)
    theirs, _ = verl.get_policy_loss_fn("vanilla")(batch.old, batch.new, batch.advantage, batch.mask.float(), "token-mean", config)
    assert_same(batch.ours(ppo_clip, token_mean), theirs, batch.new)


@seeds
def test_the_policy_gradient_is_verls_reinforce(verl, seed):
    batch = Batch(seed)
    theirs, _ = verl.compute_policy_loss_reinforce(
        batch.old, batch.new, batch.advantage, batch.mask.float(), "seq-mean-token-sum", verl_config()
    )
    assert_same(batch.ours(policy_gradient, sequence_sum), theirs, batch.new)


@seeds
def test_the_clipped_value_loss_is_verls(verl, seed):
    batch = Batch(seed)
    theirs, clipped = verl.compute_value_loss(
        batch.values[:, :-1], batch.advantage, batch.old_values[:, :-1], batch.mask.float(), 0.3
    )
    assert_same(batch.ours(clipped_value_loss, token_mean, clip=0.3), theirs, batch.values)
    metrics = clipped_value_loss(batch.evaluation, batch.traj, batch.target, clip=0.3).metrics
    assert metrics["clip_fraction"] == pytest.approx(float(clipped), abs=1e-6)


@seeds
@pytest.mark.parametrize(("name", "loss"), [("k1", kl_k1), ("k2", kl_k2), ("k3", kl_k3)])
def test_divergence_estimators_are_verls(verl, name, loss, seed):
    batch = Batch(seed)
    theirs = verl.agg_loss(verl.kl_penalty(batch.new, batch.ref, name), batch.mask.float(), "token-mean")
    assert_same(batch.ours(loss, token_mean, everywhere({}, batch.traj)), theirs, batch.new)


# --- TRL: its loss is a method of the trainer, called here on a stand-in that carries just what the method reads


def trl_loss(batch: Batch, loss_type: str, **options) -> torch.Tensor:
    from trl import GRPOTrainer

    correct = options.pop("bias_correction", False)
    arguments = SimpleNamespace(delta=None, use_bias_correction_kl=correct, steps_per_generation=1)
    defaults = {
        "importance_sampling_level": "token",
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "_entropy_bonus_enabled": False,
    }
    trainer = SimpleNamespace(
        args=arguments,
        loss_type=loss_type,
        max_completion_length=11,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        aux_loss_enabled=False,
        current_gradient_accumulation_steps=1,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(num_processes=1, sync_gradients=True, reduce=lambda x, reduction: x, gather=lambda x: x),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *a, **k: (batch.new, batch.entropy, None),
        **{**defaults, **options},
    )
    inputs = {
        "prompt_ids": torch.zeros(N, 1, dtype=torch.int64),
        "prompt_mask": torch.ones(N, 1, dtype=torch.int64),
        "completion_ids": torch.zeros(N, T, dtype=torch.int64),
        "completion_mask": batch.traj.exists.int(),
        "tool_mask": batch.mask.int(),
        "advantages": batch.advantage,
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.ref,
        "num_items_in_batch": batch.mask.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs)


TYPES = {
    "grpo": sequence_mean,
    "bnpo": token_mean,
    "dapo": token_mean,
    "dr_grpo": lambda target, traj: constant_length(target, traj, max_length=11),
    "luspo": sequence_sum,
}


@seeds
@pytest.mark.parametrize("loss_type", TYPES)
def test_ppo_clip_with_an_aggregation_is_trls_loss_type(loss_type, seed):
    pytest.importorskip("trl")
    batch = Batch(seed)
    theirs = trl_loss(batch, loss_type, epsilon_low=0.2, epsilon_high=0.28)
    assert_same(batch.ours(ppo_clip, TYPES[loss_type], low=0.2, high=0.28), theirs, batch.new)


@seeds
def test_trls_beta_is_the_weight_of_k3(seed):
    pytest.importorskip("trl")
    batch = Batch(seed)
    ours = batch.ours(ppo_clip, sequence_mean) + 0.3 * batch.ours(kl_k3, sequence_mean, everywhere({}, batch.traj))
    assert_same(ours, trl_loss(batch, "grpo", beta=0.3), batch.new)


@seeds
def test_trls_bias_correction_is_the_unbiased_divergence(seed):
    pytest.importorskip("trl")
    batch = Batch(seed)
    ours = batch.ours(ppo_clip, token_mean) + 0.3 * batch.ours(kl_unbiased, token_mean, everywhere({}, batch.traj))
    assert_same(ours, trl_loss(batch, "dapo", beta=0.3, bias_correction=True), batch.new)


@seeds
def test_trls_entropy_bonus_is_ours_averaged_over_tokens(seed):
    pytest.importorskip("trl")
    batch = Batch(seed)
    batch.entropy.requires_grad_()
    theirs = trl_loss(batch, "grpo", _entropy_bonus_enabled=True, use_adaptive_entropy=False, entropy_coef=0.1)
    ours = batch.ours(ppo_clip, sequence_mean) + 0.1 * batch.ours(entropy_bonus, token_mean, everywhere({}, batch.traj))
    assert_same(ours, theirs, batch.entropy)
