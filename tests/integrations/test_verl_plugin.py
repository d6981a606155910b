"""payoff's names in verl's own registries, and what they compute there."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from payoff.integrations.method_names import RUN, estimator_names, path_of

pytestmark = pytest.mark.slow  # importing verl takes seconds
ROOT = Path(__file__).parents[2]
N, T = 12, 6


@pytest.fixture(scope="module")
def core():
    pytest.importorskip("verl")
    import payoff.integrations.verl_plugin

    payoff.integrations.verl_plugin.register()
    from verl.trainer.ppo import core_algos

    return core_algos


def batch(*, alone: bool) -> dict[str, torch.Tensor | np.ndarray]:
    """Rewards in sixteenths, one of them 0, tool text inside, groups of two to four, and with `alone` two of one."""
    generator = torch.Generator().manual_seed(7)
    length = torch.randint(1, T + 1, (N, 1), generator=generator)
    mask = (torch.arange(T) < length).long()
    mask[3], mask[7] = torch.tensor([1, 1, 0, 0, 1, 1]), torch.tensor([1, 0, 1, 0, 0, 0])
    last = (mask * torch.arange(1, T + 1)).argmax(1)
    paid = torch.zeros(N, T)
    paid[torch.arange(N), last] = torch.randperm(N, generator=generator).float() / 16
    return {"paid": paid, "mask": mask, "index": np.array(list("aaabbbbccdef" if alone else "aaabbbbccddd"), dtype=object)}


def settings(gamma=1.0):
    from verl.trainer.config import AlgoConfig

    return AlgoConfig(gamma=gamma, norm_adv_by_std_in_grpo=True)


def called(core, name, rows, gamma=1.0):
    """The estimator through verl's `compute_advantage` on a DataProto; called as that does where its imports are not all here."""
    from verl import DataProto

    tensors = {"token_level_rewards": rows["paid"].clone(), "response_mask": rows["mask"]}
    data = DataProto.from_dict(tensors, {"uid": rows["index"]})
    try:
        from verl.trainer.ppo.ray_trainer import compute_advantage
    except ImportError:  # of verl's extra verl-core
        given = {**data.batch, "index": data.non_tensor_batch["uid"]} | ({} if name == "grpo" else {"config": settings(gamma)})
        advantages, returns = core.get_adv_estimator_fn(name)(**given)
        return {"advantages": advantages, "returns": returns}
    return compute_advantage(data, adv_estimator=name, gamma=gamma, config=settings(gamma)).batch


def table(of: str) -> list[tuple[str, str, str]]:
    """The rows of one table of the documentation: (verl's name, ours, where they are the same)."""
    text = (ROOT / "docs" / "in-verl.md").read_text(encoding="utf-8")
    body = text.partition(f"| verl's {of} | here | the same |\n")[2].partition("\n\n")[0]
    return [(a, b.strip("`"), c) for a, b, c in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) ?\|$", body, flags=re.M)]


def parity(of: str) -> list[tuple[str, str, str]]:
    return [row for row in table(of) if row[1].startswith("payoff/")]


@pytest.mark.parametrize(("theirs", "ours", "same"), parity("estimator"))
def test_the_estimators_of_the_table_are_the_same(core, theirs, ours, same):
    rows = batch(alone=same == "everywhere")
    if same.endswith("no reward 0"):
        rows["paid"] = torch.where(rows["paid"].sum(1, keepdim=True) == 0, torch.where(rows["mask"] > 0, 0.5, 0), rows["paid"])
    expected = called(core, theirs, rows)["advantages"]
    torch.testing.assert_close(called(core, ours, rows)["advantages"], expected, rtol=1e-5, atol=1e-5)
    assert expected.abs().max() > 0.1


def test_the_discount_of_verl_is_the_estimators_too(core):
    rows = batch(alone=True)
    theirs = called(core, "reinforce_plus_plus", rows, gamma=0.8)["advantages"]
    ours = called(core, "payoff/reinforce-plus-plus/verl", rows, gamma=0.8)["advantages"]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert (ours - called(core, "payoff/reinforce-plus-plus/verl", rows)["advantages"]).abs().max() > 0.01


def test_undivided_grpo_of_verl_is_dr_grpo(core):
    rows = batch(alone=False)
    theirs, _ = core.compute_grpo_outcome_advantage(
        rows["paid"].clone(), rows["mask"], rows["index"], norm_adv_by_std_in_grpo=False
    )
    torch.testing.assert_close(called(core, "payoff/dr-grpo", rows)["advantages"], theirs, rtol=1e-5, atol=1e-5)


def test_the_tables_have_every_name_of_verls(core):
    for of, registry in (("estimator", core.ADV_ESTIMATOR_REGISTRY), ("loss", core.POLICY_LOSS_REGISTRY)):
        assert {row[0] for row in table(of)} == {name for name in registry if not name.startswith("payoff/")}


@pytest.mark.parametrize("name", [name for name in estimator_names() if name != RUN])
def test_every_estimator_is_in_the_registry_and_leaves_out_what_has_no_verdict(core, name):
    rows = batch(alone=False)
    rows["paid"][0, 0] = torch.nan
    found = called(core, name, rows)
    assert torch.isfinite(found["advantages"]).all()
    assert (found["advantages"][rows["mask"] == 0] == 0).all()
    by_time = any(getattr(part, "func", part).__name__ == "return_to_go" for part in path_of(name))
    assert found["advantages"][0, : 1 if by_time else None].abs().sum() == 0  # what was paid after it is still known


@pytest.fixture(scope="module")
def actor(core):
    from verl.workers.config import ActorConfig
    from verl.workers.config.actor import PolicyLossConfig

    def config(**options):
        loss = PolicyLossConfig(
            dro_beta=0.7, kl_cov_ratio=0.2, ppo_kl_coef=0.6, clip_cov_ratio=1.0, clip_cov_lb=0.1, clip_cov_ub=0.9
        )
        bounds = {"clip_ratio_low": 0.1, "clip_ratio_high": 0.25, "clip_ratio_c": 2.5, "tau_pos": 0.7, "tau_neg": 1.9}
        return ActorConfig(strategy="fsdp", rollout_n=1, use_dynamic_bsz=True, policy_loss=loss, **bounds, **options)

    return config


def asked(core, name, config, mode="token-mean", rollout_weights=None):
    """(loss, gradient) of a registered loss, called as `ppo_loss` of verl calls it."""
    rows = batch(alone=True)
    generator = torch.Generator().manual_seed(3)
    old = -2 * torch.rand(N, T, generator=generator)
    new = (old + 0.4 * torch.randn(N, T, generator=generator)).clamp(max=0).requires_grad_()
    loss, metrics = core.get_policy_loss_fn(name)(
        old_log_prob=old,
        log_prob=new,
        advantages=torch.randn(N, 1, generator=generator) * rows["mask"],
        response_mask=rows["mask"].bool(),
        loss_agg_mode=mode,
        config=config,
        rollout_is_weights=rollout_weights,
    )
    assert all(isinstance(value, float) for value in metrics.values())
    return loss, torch.autograd.grad(loss, new)[0]


@pytest.mark.parametrize(("theirs", "ours", "same"), parity("loss"))
def test_the_losses_of_the_table_are_the_same(core, actor, theirs, ours, same):
    for mode in ["seq-mean-token-mean"] if same.startswith("with") else ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"]:
        for one, other in zip(asked(core, ours, actor(), mode), asked(core, theirs, actor(), mode), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_loss_counts_the_whole_batch_and_the_engines_weights_as_verls_does(core, actor):
    weights = 0.5 + torch.rand(N, T, generator=torch.Generator().manual_seed(5))
    everywhere = {"dp_size": 4, "batch_num_tokens": 1000, "global_batch_size": 64, "loss_scale_factor": 100}
    for mode in ("token-mean", "token-sum", "seq-mean-token-sum-norm"):
        ours, theirs = (
            asked(core, name, actor(global_batch_info=everywhere), mode, weights) for name in ("payoff/dual-clip", "vanilla")
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_run_file_names_an_estimator_and_a_loss(core, actor, tmp_path, monkeypatch):
    run = tmp_path / "run.yaml"
    path = "[total, {name: grpo, convention: trl}]"
    run.write_text(
        f"reward: {{a: length}}\nterms: {{t: {{paths: {{a: {path}}}, loss: {{name: ppo-clip, low: 0.1, high: 0.25}}}}}}\n"
    )
    rows = batch(alone=False)
    given = core.get_adv_estimator_fn(RUN)
    options = {"token_level_rewards": rows["paid"], "response_mask": rows["mask"], "index": rows["index"]}
    expected = core.get_adv_estimator_fn("payoff/grpo/trl")(**options, config=settings())[0]
    assert torch.equal(given(**options, config={"payoff_run": str(run), "gamma": 1.0})[0], expected)
    monkeypatch.setenv("PAYOFF_REWARD", str(run))
    assert torch.equal(given(**options, config=settings())[0], expected)
    for one, other in zip(asked(core, RUN, actor()), asked(core, "payoff/ppo-clip", actor()), strict=True):
        assert torch.equal(one, other)
    two = tmp_path / "two.yaml"
    two.write_text("reward: {a: length, b: length}\nterms: {t: {paths: {a: [total], b: [total]}, loss: ppo-clip}}\n")
    with pytest.raises(ValueError, match=r"sees one reward and no channels, and here are 2; use trainer\.v1"):
        given(**options, config={"payoff_run": str(two)})
    monkeypatch.delenv("PAYOFF_REWARD")
    with pytest.raises(ValueError, match=r"no run file; name one as \+algorithm\.payoff_run=FILE\.yaml"):
        given(**options, config=settings())


def test_registering_again_changes_nothing(core):
    from payoff.integrations.verl_plugin import register

    before = dict(core.ADV_ESTIMATOR_REGISTRY)
    register()
    assert before == core.ADV_ESTIMATOR_REGISTRY
    assert sum(type(finder).__name__ == "_AfterImport" for finder in sys.meta_path) == 1


def test_the_package_declares_the_entry_point():
    found = [e for e in importlib.metadata.entry_points(group="verl.plugins") if e.name == "payoff"]
    assert [e.value for e in found] == ["payoff.integrations.verl_plugin:register"]
    assert callable(found[0].load())


PROBE = """
import json, sys
import verl
light = not any(name.startswith("payoff.") and not name.startswith("payoff.integrations") for name in sys.modules)
from verl.trainer.ppo import core_algos
import verl.experimental.reward_loop.reward_manager as managers
print(json.dumps([light, "payoff/rloo" in core_algos.ADV_ESTIMATOR_REGISTRY, "payoff/dual-clip" in core_algos.POLICY_LOSS_REGISTRY,
                  managers.get_reward_manager_cls("payoff").__name__]))
"""


def test_a_process_that_only_imports_verl_has_the_names_and_pays_for_them_when_they_are_used(tmp_path):
    """verl loads an entry point and calls nothing; a distribution with only that entry point stands for an installed payoff."""
    pytest.importorskip("verl")
    info = tmp_path / "entry_point_of_payoff-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: entry-point-of-payoff\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[verl.plugins]\npayoff = payoff.integrations.verl_plugin:register\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [True, True, True, "PayoffRewardManager"]
