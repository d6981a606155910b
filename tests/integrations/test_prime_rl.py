"""prime-rl is not installed here: its question, its answer and how it asks are restated from `prime_rl/trainer/rl/loss.py`."""

import sys
import types
from dataclasses import dataclass

import pytest
import torch

from payoff.integrations.prime_rl import loss


@dataclass
class LossInputs:
    trainer_logprobs: torch.Tensor
    inference_logprobs: torch.Tensor
    ref_logprobs: torch.Tensor | None
    advantages: torch.Tensor
    loss_mask: torch.Tensor
    loss_weights: torch.Tensor | None = None


@dataclass
class LossOutputs:
    loss: torch.Tensor
    metrics: dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def host(monkeypatch):
    module = types.ModuleType("prime_rl.trainer.rl.loss")
    module.LossInputs, module.LossOutputs = LossInputs, LossOutputs
    monkeypatch.setattr(LossInputs, "__module__", module.__name__)
    for name in ("prime_rl", "prime_rl.trainer", "prime_rl.trainer.rl"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def inputs(n, weights=None, ref=False, seed=0):
    draw = torch.Generator().manual_seed(seed)
    new = -torch.rand(n, generator=draw)
    return LossInputs(
        trainer_logprobs=new.clone().requires_grad_(),
        inference_logprobs=new + 0.5 * torch.randn(n, generator=draw),
        ref_logprobs=-torch.rand(n, generator=draw) if ref else None,
        advantages=torch.randn(n, generator=draw),
        loss_mask=torch.rand(n, generator=draw) < 0.7,
        loss_weights=weights,
    )


def compute_loss(samples, scale, **kwargs):
    """prime-rl's packing loop: samples one by one, their sums added, divided by what there is in the batch."""
    total, metrics = 0.0, {}
    for sample in samples:
        result = loss(sample, **kwargs)
        assert isinstance(result, LossOutputs)
        assert result.loss.shape == ()
        for key, value in result.metrics.items():
            metrics.setdefault(key, []).append(value)
        total = total + result.loss
    return total / scale, {key: torch.stack(values) for key, values in metrics.items()}


def test_a_clipped_loss_is_prime_rls_own_where_no_ratio_is_capped():
    samples = [inputs(n, seed=n) for n in (5, 9, 1)]
    scale = float(sum(s.loss_mask.sum() for s in samples))
    found, metrics = compute_loss(samples, scale, name="ppo-clip", low=0.2, high=0.3)
    expected = 0.0
    for s in samples:  # PPOLoss with ratio_low 0.8, ratio_high 1.3 and a cap that is not reached
        ratio = (s.trainer_logprobs - s.inference_logprobs)[s.loss_mask].exp()
        a = s.advantages[s.loss_mask]
        expected = expected - torch.minimum(a * ratio, a * ratio.clamp(0.8, 1.3)).sum()
    torch.testing.assert_close(found, expected / scale)
    found.backward()
    assert torch.isfinite(samples[0].trainer_logprobs.grad).all()
    assert (samples[0].trainer_logprobs.grad[~samples[0].loss_mask] == 0).all()
    assert metrics["clip_fraction"].shape == (3,)


def test_token_weights_scale_the_terms():
    one, two = inputs(6), inputs(6, weights=torch.full((6,), 2.0))
    torch.testing.assert_close(loss(two, name="policy-gradient").loss, 2 * loss(one, name="policy-gradient").loss)


def test_an_advantage_without_verdict_trains_nothing():
    sample = inputs(4)
    sample.loss_mask[:] = True
    sample.advantages[:] = torch.tensor([torch.nan, 1.0, 1.0, torch.nan])
    loss(sample, name="policy-gradient").loss.backward()
    assert (sample.trainer_logprobs.grad != 0).tolist() == [False, True, True, False]


def test_the_reference_is_there_where_prime_rl_has_one():
    assert loss(inputs(5, ref=True), name="kl-k3").metrics["kl"] > 0
    with pytest.raises(ValueError, match="ref"):
        loss(inputs(5), name="kl-k3")


def test_a_run_file_names_the_loss_and_its_options(tmp_path):
    run = tmp_path / "run.yaml"
    run.write_text("reward: {a: length}\nterms: {t: {paths: {a: [total]}, loss: {name: ppo-clip, low: 0.1, high: 0.1}}}\n")
    ours = loss(inputs(7), run=str(run)).loss
    assert torch.equal(ours, loss(inputs(7), name="ppo-clip", low=0.1, high=0.1).loss)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "give either `name` or `run`"),
        ({"name": "ppo-clip", "lov": 0.1}, "trainer.loss.kwargs: ppo-clip has no option 'lov'"),
        ({"name": "value"}, "reads values; prime-rl hands over one sample"),
        ({"name": "crd"}, "sees a group; prime-rl hands over one sample"),
    ],
)
def test_what_cannot_be_had_is_said_at_the_first_sample(kwargs, message):
    with pytest.raises(ValueError, match=message):
        loss(inputs(3), **kwargs)
