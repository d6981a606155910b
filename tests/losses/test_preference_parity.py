"""The same numbers and gradients as TRL's trainers, through their own loss functions."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from payoff.losses.preference_sides import apo_down, apo_zero, bco_pair, kto, nca_pair, sppo_hard
from payoff.losses.preferences import aot, discopop, dpo, exo_pair, hinge, ipo, robust_dpo
from payoff.losses.reference_free import orpo, simpo
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, Pairs, Trajectories

pytestmark = pytest.mark.slow  # importing the trainers takes seconds

PAIRS, T = 5, 6


class Batch:
    """Rows 0 to P - 1 the chosen answers, then the rejected ones, with text that is not the policy's own in between."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        n = 2 * PAIRS
        length = torch.randint(1, T + 1, (n,), generator=generator)
        exists = torch.arange(T) < length[:, None]
        self.mask = exists & (torch.rand(n, T, generator=generator) < 0.8)
        self.mask[:, 0] = True
        draw = lambda: -2 * torch.rand(n, T, generator=generator, dtype=torch.float64)
        self.new, self.ref = draw().requires_grad_(), draw()
        self.label = torch.rand(n, generator=generator) < 0.5
        self.label[:2] = torch.tensor([True, False])
        self.traj = Trajectories(
            mask=self.mask,
            length=length,
            group=torch.arange(n) % PAIRS,
            step=torch.where(exists, 0, -1).int(),
            stop=torch.zeros(n, dtype=torch.int64),
            actions=torch.zeros(n, T, dtype=torch.int64),
            logp={"ref": self.ref},
        )
        index = torch.stack([torch.arange(PAIRS), torch.arange(PAIRS) + PAIRS], 1)
        self.pairs = Pairs(index, torch.ones(PAIRS), torch.ones(PAIRS))
        self.evaluation = Evaluation(self.new, {})

    def sums(self, logp):
        return (logp * self.mask).sum(1)


def assert_same(ours, theirs, wrt) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, check_dtype=False)
    gradients = (torch.autograd.grad(loss, wrt, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6, check_dtype=False)


def stub(**options):
    """What the trainers' loss methods read of their trainer; the model says what the batch holds."""
    same = lambda x: x
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=same, gather=same),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    for name, value in options.items():
        setattr(trainer, name, value)
    return trainer


def model_of(batch):
    """Its outputs are one column longer than the answers: there is a prompt token in front."""
    shape = (2 * PAIRS, T)
    logp = batch.new * batch.mask
    return lambda **_: SimpleNamespace(
        log_probs=logp, entropy=torch.zeros(shape), mean_logits=torch.zeros(shape), is_top1=torch.zeros(shape, dtype=torch.bool)
    )


def inputs_of(batch):
    prompt = torch.zeros(2 * PAIRS, 1, dtype=torch.int64)
    mask = torch.cat([prompt, batch.mask.long()], 1)
    return {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}


DPO_LOSSES = {
    "sigmoid": (dpo, {}),
    "sigmoid_norm": (dpo, {"per": "action"}),
    "hinge": (hinge, {}),
    "ipo": (ipo, {"per": "action"}),
    "exo_pair": (exo_pair, {"label_smoothing": 0.2}),
    "robust": (robust_dpo, {"flip_rate": 0.2}),
    "nca_pair": (nca_pair, {}),
    "bco_pair": (bco_pair, {}),
    "sppo_hard": (sppo_hard, {}),
    "aot": (aot, {"label_smoothing": 0.2}),
    "apo_zero": (apo_zero, {}),
    "apo_down": (apo_down, {}),
    "discopop": (discopop, {}),
}


@pytest.mark.parametrize("name", DPO_LOSSES)
def test_losses_on_pairs_are_those_of_trls_dpo_trainer(name):
    trainer = pytest.importorskip("trl.trainer.dpo_trainer")
    loss, options = DPO_LOSSES[name]
    batch = Batch(list(DPO_LOSSES).index(name))
    said = {"loss_types": [name], "loss_weights": [1.0], "beta": 0.3, "label_smoothing": 0.2, "ld_alpha": None}
    said |= {"f_divergence_type": "reverse_kl", "use_weighting": False, "args": SimpleNamespace(discopop_tau=0.05)}
    chosen, rejected = batch.sums(batch.ref).chunk(2)
    inputs = {**inputs_of(batch), "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    theirs = trainer.DPOTrainer._compute_loss(stub(**said), model_of(batch), inputs, False)
    ours = loss(batch.evaluation, batch.traj, batch.pairs, beta=0.3, **options).terms.mean()
    assert_same(ours, theirs, batch.new)


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired"])
def test_kto_is_trls_with_the_reference_point_from_mismatched_answers(name):
    trainer = pytest.importorskip("trl.trainer.kto_trainer")
    batch, other = Batch(1), Batch(2)
    said = {"loss_type": name, "beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5, "calculate_KL": name == "kto"}
    away = other.sums(other.new).detach() + 1.0  # so that the estimate is positive
    trainer_stub = stub(**said, _compute_kl_logps=lambda *_: away)
    inputs = {**inputs_of(batch), "label": batch.label, "ref_logps": batch.sums(batch.ref), "ref_KL_logps": other.sums(other.ref)}
    theirs = trainer.KTOTrainer._compute_loss(trainer_stub, model_of(batch), inputs, False)
    # Ours has both in one batch: the mismatched rows are marked and have no label.
    both = lambda a, b: torch.cat([a, b])
    size = torch.full((2 * PAIRS,), 1.0, dtype=torch.float64) / other.mask.sum(1)
    shifted = other.new.detach() + size[:, None] * other.mask
    traj = Trajectories(
        mask=both(batch.mask, other.mask),
        length=both(batch.traj.length, other.traj.length),
        group=both(batch.traj.group, other.traj.group),
        step=both(batch.traj.step, other.traj.step),
        stop=both(batch.traj.stop, other.traj.stop),
        actions=both(batch.traj.actions, other.traj.actions),
        logp={"ref": both(batch.ref, other.ref)},
        extras={"mismatched": torch.arange(4 * PAIRS) >= 2 * PAIRS},
    )
    known = ~traj.extras["mismatched"]
    label = Channel(torch.cat([batch.label.double(), torch.zeros(2 * PAIRS)])[:, None], known[:, None])
    options = {"beta": 0.3, "desirable": 1.5, "undesirable": 0.5}
    options["reference_point"] = "estimated" if name == "kto" else "zero"
    output = kto(Evaluation(both(batch.new, shifted), {}), traj, label, **options)
    assert output.metrics["reference_point"] > 0.3 or name != "kto"
    assert not output.terms[~known].any()
    assert_same(output.terms.sum() / known.sum(), theirs, batch.new)


def test_simpo_is_trls():
    trainer = pytest.importorskip("trl.experimental.cpo.cpo_trainer")
    batch = Batch(3)
    said = {"alpha": 0.0, "loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.7, "label_smoothing": 0.0}
    mean = batch.sums(batch.new) / batch.mask.sum(1)
    theirs = trainer.CPOTrainer.cpo_loss(stub(**said), *mean.chunk(2))[0].mean()
    ours = simpo(batch.evaluation, batch.traj, batch.pairs, gamma=0.7).terms.mean()
    assert_same(ours, theirs, batch.new)


def test_cpo_is_simpo_of_sums_without_a_margin():
    trainer = pytest.importorskip("trl.experimental.cpo.cpo_trainer")
    batch = Batch(4)
    said = {"alpha": 0.0, "loss_type": "sigmoid", "beta": 0.1, "label_smoothing": 0.0}
    theirs = trainer.CPOTrainer.cpo_loss(stub(**said), *batch.sums(batch.new).chunk(2))[0].mean()
    ours = simpo(batch.evaluation, batch.traj, batch.pairs, beta=0.1, gamma=0.0, per="sequence").terms.mean()
    assert_same(ours, theirs, batch.new)


def test_orpo_is_trls_odds_and_the_mean_likelihood_of_the_chosen():
    trainer = pytest.importorskip("trl.experimental.orpo.orpo_trainer")
    batch = Batch(5)
    mean = batch.sums(batch.new) / batch.mask.sum(1)
    # TRL computes the odds in float32
    losses = trainer.ORPOTrainer.odds_ratio_loss(stub(beta=0.4), *mean.chunk(2))[0]
    theirs = -mean[:PAIRS].mean() - losses.double().mean()
    ours = orpo(batch.evaluation, batch.traj, batch.pairs, weight=0.4).terms.mean()
    assert_same(ours, theirs, batch.new)
