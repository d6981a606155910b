"""The surrogate losses give the numbers and gradients of verl and TRL, through their own functions."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from payoff.losses.aggregation import constant_length, sequence_mean, sequence_sum, token_mean
from payoff.losses.covariance_clipping import clip_cov, kl_cov
from payoff.losses.divergence_clipping import dppo_kl, dppo_tv
from payoff.losses.policy_gradient import dual_clip, policy_gradient, ppo_clip
from payoff.losses.sequence_ratio import gmpo, gspo, gspo_token, off_policy_mask
from payoff.losses.soft_gates import sapo, vespo
from payoff.losses.truncated_weights import cispo, truncated_importance
from payoff.losses.unbounded import dro, strict_on_policy
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, Trajectories

pytestmark = pytest.mark.slow  # importing the trainers takes seconds

N, T = 6, 7
LENGTHS = {"norm": T, "dr_grpo": 11}
CASES = ["near", "far", "on policy", "one action each", "advantages of one sign", "no advantage"]
cases = pytest.mark.parametrize("case", CASES)
MODES = {
    "token-mean": token_mean,
    "seq-mean-token-mean": sequence_mean,
    "seq-mean-token-sum": sequence_sum,
    "seq-mean-token-sum-norm": lambda target, traj: constant_length(target, traj, max_length=T),
}
modes = pytest.mark.parametrize("mode", MODES)


class Batch:
    """A batch with tool text inside, in our structure and as the plain tensors of the trainers."""

    def __init__(self, case: str, *, per_sequence: bool = False) -> None:
        generator = torch.Generator().manual_seed(CASES.index(case))
        noise = lambda *shape: torch.randn(*shape, generator=generator)
        length = torch.randint(1, T + 1, (N,), generator=generator)
        if case == "one action each":
            length = torch.ones_like(length)
        exists = torch.arange(T) < length[:, None]
        inside = torch.rand(N, T, generator=generator) < 0.8
        inside[:, 0] = True
        self.mask = exists & inside
        self.old = -3 * torch.rand(N, T, generator=generator)
        drift = {"on policy": 0.0, "far": 2.0}.get(case, 0.3)
        self.new = (self.old + drift * noise(N, T)).clamp(max=0).requires_grad_()
        if case == "on policy":
            self.new = self.old.clone().requires_grad_()
        self.advantage = noise(N, 1).expand(N, T).clone() if per_sequence else noise(N, T)
        if case == "advantages of one sign":
            self.advantage = -self.advantage.abs()
        if case == "no advantage":
            self.advantage = torch.zeros(N, T)
        self.traj = Trajectories(
            mask=self.mask,
            length=length,
            group=torch.zeros(N, dtype=torch.int64),
            step=torch.where(exists, 0, -1).int(),
            stop=torch.zeros(N, dtype=torch.int64),
            actions=torch.zeros(N, T, dtype=torch.int64),
            logp={"old": self.old},
        )
        self.target = Channel(self.advantage, torch.ones(N, 1, dtype=torch.bool))

    def ours(self, loss, aggregation, **options) -> torch.Tensor:
        output = loss(Evaluation(self.new, {}), self.traj, self.target, **options)
        return (output.terms * aggregation(self.target, self.traj)).sum()

    def metrics(self, loss, **options) -> dict[str, float]:
        return dict(loss(Evaluation(self.new, {}), self.traj, self.target, **options).metrics)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, wrt: torch.Tensor) -> None:
    """Value and gradient agree to 1e-5."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    gradients = (torch.autograd.grad(loss, wrt, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


# --- verl


@pytest.fixture(scope="module")
def verl():
    return pytest.importorskip("verl.trainer.ppo.core_algos")


def verl_loss(verl, batch: Batch, mode: str, aggregation: str, **options) -> tuple[torch.Tensor, dict]:
    """verl's registered loss, configured as its trainer would."""
    from verl.workers.config import ActorConfig
    from verl.workers.config.actor import PolicyLossConfig

    policy_loss = PolicyLossConfig(**options.pop("policy_loss", {}))
    config = ActorConfig(strategy="fsdp", rollout_n=1, use_dynamic_bsz=True, policy_loss=policy_loss, **options)
    return verl.get_policy_loss_fn(mode)(batch.old, batch.new, batch.advantage, batch.mask.float(), aggregation, config)


@cases
@modes
def test_gspo_token_is_verls_gspo(verl, case, mode):
    batch = Batch(case)
    theirs, metrics = verl_loss(verl, batch, "gspo", mode, clip_ratio_low=0.03, clip_ratio_high=0.04)
    assert_same(batch.ours(gspo_token, MODES[mode], low=0.03, high=0.04), theirs, batch.new)
    assert batch.metrics(gspo_token, low=0.03, high=0.04)["clip_fraction"] == pytest.approx(metrics["actor/pg_clipfrac"], abs=1e-6)


@cases
def test_sapo_is_verls_with_the_sequence_mean(verl, case):
    batch = Batch(case)
    theirs, _ = verl_loss(verl, batch, "sapo", "token-mean", tau_pos=0.7, tau_neg=1.9)  # it takes the sequence mean all the same
    assert_same(batch.ours(sapo, sequence_mean, temperature=0.7, negative_temperature=1.9), theirs, batch.new)


@cases
@modes
def test_cispo_is_verls(verl, case, mode):
    batch = Batch(case)
    theirs, metrics = verl_loss(verl, batch, "cispo", mode, clip_ratio_low=0.3, clip_ratio_high=0.5)
    assert_same(batch.ours(cispo, MODES[mode], low=0.3, high=0.5), theirs, batch.new)
    assert batch.metrics(cispo, low=0.3, high=0.5)["clip_fraction"] == pytest.approx(metrics["actor/pg_clipfrac"], abs=1e-6)


@cases
@modes
@pytest.mark.parametrize(("name", "loss"), [("dppo_tv", dppo_tv), ("dppo_kl", dppo_kl)])
def test_dppo_is_verls(verl, name, loss, case, mode):
    batch = Batch(case)
    theirs, metrics = verl_loss(verl, batch, name, mode, clip_ratio_low=0.1, clip_ratio_high=0.05, clip_ratio_c=1.8)
    options = {"low": 0.1, "high": 0.05, "bound": 1.8}
    assert_same(batch.ours(loss, MODES[mode], **options), theirs, batch.new)
    ours = batch.metrics(loss, **options)
    assert ours["clip_fraction"] == pytest.approx(metrics["actor/pg_clipfrac"], abs=1e-6)
    assert ours["truncated_fraction"] == pytest.approx(metrics["actor/pg_clipfrac_lower"], abs=1e-6)


@cases
@pytest.mark.parametrize("per_sequence", [True, False])
def test_gmpo_with_the_sequence_mean_is_verls_geo_mean(verl, case, per_sequence):
    batch = Batch(case, per_sequence=per_sequence)
    if not per_sequence:
        batch.advantage[0, :2] = 0.0  # an action without advantage drops out of the geometric mean
    theirs, _ = verl_loss(verl, batch, "geo_mean", "ignored", clip_ratio_low=0.3, clip_ratio_high=0.2)
    assert_same(batch.ours(gmpo, sequence_mean, low=0.3, high=0.2), theirs, batch.new)


@cases
@modes
def test_dro_is_verls(verl, case, mode):
    batch = Batch(case)
    theirs, metrics = verl_loss(verl, batch, "dro", mode, policy_loss={"loss_mode": "dro", "dro_beta": 0.7})
    assert_same(batch.ours(dro, MODES[mode], beta=0.7), theirs, batch.new)
    assert batch.metrics(dro, beta=0.7)["distance"] == pytest.approx(-metrics["actor/ppo_kl"], abs=1e-5)


@cases
@modes
def test_the_policy_gradient_is_verls_gpg(verl, case, mode):
    batch = Batch(case)
    theirs, _ = verl_loss(verl, batch, "gpg", mode)
    assert_same(batch.ours(policy_gradient, MODES[mode]), theirs, batch.new)


@cases
@modes
def test_kl_cov_is_verls(verl, case, mode):
    batch = Batch(case)
    theirs, _ = verl_loss(verl, batch, "kl_cov", mode, policy_loss={"kl_cov_ratio": 0.2, "ppo_kl_coef": 0.6})
    if case == "no advantage":  # all covariances tie, and verl's choice among them is torch.topk's
        k = int(0.2 * batch.mask.sum())
        assert batch.metrics(kl_cov, share=0.2)["held_fraction"] == pytest.approx(k / float(batch.mask.sum()))
        return
    assert_same(batch.ours(kl_cov, MODES[mode], share=0.2, coefficient=0.6), theirs, batch.new)


@cases
@modes
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_clip_cov_is_verls_where_nothing_is_left_to_the_lot(verl, case, mode, share):
    batch = Batch(case)
    options = {"clip_cov_ratio": share, "clip_cov_lb": 0.1, "clip_cov_ub": 0.9}
    theirs, metrics = verl_loss(verl, batch, "clip_cov", mode, policy_loss=options, clip_ratio=0.2)
    ours = {"share": share, "least": 0.1, "most": 0.9}
    assert batch.metrics(clip_cov, **ours)["left_out_fraction"] == pytest.approx(metrics["actor/pg_clipfrac"], abs=1e-6)
    if share == 1.0:
        assert_same(batch.ours(clip_cov, MODES[mode], **ours), theirs, batch.new)


@cases
@modes
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("threshold", "bound", "least"), [("1.5", 1.5, None), ("0.5_1.5", 1.5, 0.5)])
def test_truncated_importance_is_verls_bypass_mode(verl, case, mode, level, threshold, bound, least):
    batch = Batch(case)
    correction = {"loss_type": "reinforce", "rollout_is": level, "rollout_is_threshold": threshold, "bypass_mode": True}
    from verl.trainer.config.algorithm import RolloutCorrectionConfig

    theirs, _ = verl_loss(
        verl, batch, "bypass_mode", mode, policy_loss={"rollout_correction": RolloutCorrectionConfig(**correction)}
    )
    options = {"bound": bound, "least": least, "level": "action" if level == "token" else "sequence"}
    assert_same(batch.ours(truncated_importance, MODES[mode], **options), theirs, batch.new)


def test_a_sequence_without_tokens_weighs_nothing_here_and_pulls_verls_geometric_mean_down(verl):
    batch = Batch("near", per_sequence=True)
    batch.mask[0] = False
    batch.traj = batch.traj.replace(mask=batch.mask)
    theirs, _ = verl_loss(verl, batch, "geo_mean", "ignored", clip_ratio_low=0.4, clip_ratio_high=0.4)
    torch.testing.assert_close(batch.ours(gmpo, sequence_mean) * (N - 1) / N, theirs)


# --- TRL: its loss is a method of the trainer, called here on a stand-in that carries just what the method reads


def trl_loss(batch: Batch, loss_type: str, *, trainer=None, arguments=None, old: bool = True, **options) -> torch.Tensor:
    from trl import GRPOTrainer

    trainer = trainer or GRPOTrainer
    given = {"delta": None, "use_bias_correction_kl": False, "steps_per_generation": 1, **(arguments or {})}
    defaults = {
        "importance_sampling_level": "token",
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "off_policy_mask_threshold": None,
    }
    stand_in = SimpleNamespace(
        args=SimpleNamespace(**given),
        loss_type=loss_type,
        max_completion_length=LENGTHS["dr_grpo"],
        top_entropy_quantile=1.0,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(num_processes=1, sync_gradients=True, reduce=lambda x, reduction: x, gather=lambda x: x),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *a, **k: (batch.new, torch.zeros(N, T), None),
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        **{**defaults, **options},
    )
    inputs = {
        "prompt_ids": torch.zeros(N, 1, dtype=torch.int64),
        "prompt_mask": torch.ones(N, 1, dtype=torch.int64),
        "completion_ids": torch.zeros(N, T, dtype=torch.int64),
        "completion_mask": batch.traj.exists.int(),
        "tool_mask": batch.mask.int(),
        "advantages": batch.advantage if trainer is GRPOTrainer else batch.advantage[:, 0],
        "old_per_token_logps": batch.old if old else None,
        "num_items_in_batch": batch.mask.sum(),
    }
    return trainer._compute_loss(stand_in, None, inputs)


SEQUENCE = {
    "grpo": sequence_mean,
    "dapo": token_mean,
    "dr_grpo": lambda target, traj: constant_length(target, traj, max_length=LENGTHS["dr_grpo"]),
    "luspo": sequence_sum,
}


@pytest.fixture(scope="module")
def trl():
    return pytest.importorskip("trl")


@cases
@pytest.mark.parametrize("loss_type", SEQUENCE)
def test_gspo_with_an_aggregation_is_trls_sequence_level(trl, case, loss_type):
    batch = Batch(case, per_sequence=True)
    theirs = trl_loss(batch, loss_type, importance_sampling_level="sequence", epsilon_low=0.03, epsilon_high=0.04)
    assert_same(batch.ours(gspo, SEQUENCE[loss_type], low=0.03, high=0.04), theirs, batch.new)


@cases
def test_cispo_is_trls_whose_epsilon_high_is_the_bound_itself(trl, case):
    batch = Batch(case)
    theirs = trl_loss(batch, "cispo", epsilon_high=1.5)
    assert_same(batch.ours(cispo, token_mean, low=1.0, high=0.5), theirs, batch.new)


@cases
def test_sapo_is_trls(trl, case):
    batch = Batch(case)
    theirs = trl_loss(batch, "sapo", arguments={"sapo_temperature_pos": 0.7, "sapo_temperature_neg": 1.9})
    assert_same(batch.ours(sapo, sequence_mean, temperature=0.7, negative_temperature=1.9), theirs, batch.new)


@cases
@pytest.mark.parametrize("per_sequence", [True, False])
def test_vespo_is_trls(trl, case, per_sequence):
    batch = Batch(case, per_sequence=per_sequence)
    options = {"vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0}
    assert_same(batch.ours(vespo, token_mean), trl_loss(batch, "vespo", arguments=options), batch.new)


@cases
def test_gmpo_is_trls_trainer_of_that_name(trl, case):
    from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer

    batch = Batch(case, per_sequence=True)
    theirs = trl_loss(batch, "grpo", trainer=GMPOTrainer, epsilon_low=0.3, epsilon_high=0.2)
    assert_same(batch.ours(gmpo, sequence_mean, low=0.3, high=0.2), theirs, batch.new)


@cases
def test_the_off_policy_mask_is_trls(trl, case):
    batch = Batch(case, per_sequence=True)
    theirs = trl_loss(batch, "grpo", off_policy_mask_threshold=0.05)
    assert_same(batch.ours(off_policy_mask, sequence_mean, threshold=0.05), theirs, batch.new)


@cases
def test_trls_delta_is_the_bound_of_the_dual_clip(trl, case):
    batch = Batch(case)
    theirs = trl_loss(batch, "dapo", arguments={"delta": 1.7}, epsilon_low=0.2, epsilon_high=0.28)
    assert_same(batch.ours(dual_clip, token_mean, low=0.2, high=0.28, bound=1.7), theirs, batch.new)


@cases
@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_without_old_log_probabilities_trls_loss_is_strictly_on_policy(trl, case, loss_type):
    batch = Batch(case)
    assert_same(batch.ours(strict_on_policy, SEQUENCE[loss_type]), trl_loss(batch, loss_type, old=False), batch.new)


def test_the_cases_reach_every_branch():
    """Somewhere a bound acts on either side, and somewhere it does not: else parity would say little."""
    clipped = [Batch(case).metrics(ppo_clip)["clip_fraction"] for case in CASES]
    assert min(clipped) == 0
    assert 0.2 < max(clipped) < 0.9
    assert {float(Batch(case).advantage.sign().min()) for case in CASES} == {-1.0, 0.0}
    masked = [Batch(case, per_sequence=True).metrics(off_policy_mask, threshold=0.05)["masked_fraction"] for case in CASES]
    assert 0 == min(masked) < max(masked) < 0.9
    for loss in (dppo_tv, dppo_kl, gmpo, gspo, cispo):
        fractions = [Batch(case, per_sequence=True).metrics(loss)["clip_fraction"] for case in CASES]
        assert 0 == min(fractions) < max(fractions), loss
