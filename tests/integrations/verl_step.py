"""One step of verl's own FSDP2 engine on a CPU, with a loss of payoff: run by test_verl_step in a process of its own.

verl knows no CPU: its platforms are cuda, npu and rocm, and the engine registry refuses others. This registers one with verl's own
`PlatformRegistry` and makes the engine's class directly.
"""

import functools
import json
import os
import sys

os.environ.update(VERL_PLATFORM="cpu", MASTER_ADDR="127.0.0.1", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")

import torch
import verl.plugin.platform  # noqa: F401
from verl.plugin.platform.platform_cuda import PlatformCUDA
from verl.plugin.platform.platform_manager import PlatformRegistry


@PlatformRegistry.register("cpu")
class PlatformCPU(PlatformCUDA):
    device_name = vendor_name = "cpu"
    device_module = torch.cpu

    def is_available(self):
        return True

    def is_platform_available(self, use_smi_check=False):
        return True

    def current_device(self):
        return "cpu"

    def device_count(self):
        return 1

    def set_device(self, device_index):
        return None

    synchronize = manual_seed = manual_seed_all = set_allocator_settings = set_device

    def empty_cache(self):
        return None

    def get_device_capability(self, device_index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"


def main(folder: str, rendezvous: str) -> None:
    import verl.models.transformers.monkey_patch as patches
    from tensordict import TensorDict
    from verl import DataProto
    from verl.trainer.config import AlgoConfig, CheckpointConfig
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn
    from verl.utils import tensordict_utils as tu
    from verl.workers.config import FSDPActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
    from verl.workers.config.actor import PolicyLossConfig
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
    from verl.workers.utils.losses import ppo_loss
    from verl.workers.utils.padding import left_right_2_no_padding, no_padding_2_padding

    import payoff.integrations.verl_plugin  # noqa: F401

    torch.manual_seed(0)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{rendezvous}")
    patches.is_trl_available = lambda: False  # it asks a TRL beside it for a class that TRL has dropped
    single = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    model = HFModelConfig(
        path=folder,
        use_remove_padding=False,
        enable_gradient_checkpointing=False,
        override_config={"attn_implementation": "eager"},
    )
    model.model_type = "language_model"
    engine = FSDPEngineWithLMHead(
        model_config=model,
        engine_config=FSDPEngineConfig(strategy="fsdp2", fsdp_size=1, use_torch_compile=False, mixed_precision=single),
        optimizer_config=FSDPOptimizerConfig(lr=1e-2, total_training_steps=10),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()

    n, p, t = 4, 3, 5
    ids = torch.randint(3, 32, (n, p + t))
    attention = torch.ones(n, p + t, dtype=torch.long)
    attention[0, 0] = attention[1, -2:].fill_(0)[0]
    mask = attention[:, p:].clone()
    mask[2, 2] = 0  # a token of a tool

    def batch() -> TensorDict:
        tensors = {
            "prompts": ids[:, :p],
            "responses": ids[:, p:],
            "input_ids": ids,
            "attention_mask": attention,
            "position_ids": (attention.cumsum(1) - 1).clamp(min=0),
            "response_mask": mask,
        }
        data = left_right_2_no_padding(TensorDict({name: x.clone() for name, x in tensors.items()}, batch_size=n))
        options = {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 2, "temperature": 1.0, "global_batch_size": n}
        tu.assign_non_tensor(data, **options, calculate_entropy=False, use_remove_padding=False, use_fused_kernels=False)
        return data

    def logp() -> torch.Tensor:
        with engine.eval_mode():
            found = engine.infer_batch(batch())["model_output"]["log_probs"]
        return no_padding_2_padding(found, batch()).detach()

    old = logp()
    paid = torch.zeros(n, t)
    paid[:, 0] = torch.tensor([1.0, 0.0, 1.0, float("nan")])  # the last has no verdict
    rows = DataProto.from_dict({"token_level_rewards": paid, "response_mask": mask})
    advantages, _ = get_adv_estimator_fn("payoff/rloo")(**rows.batch, index=["a", "a", "a", "a"], config=AlgoConfig())
    actor = FSDPActorConfig(
        strategy="fsdp2", rollout_n=4, use_dynamic_bsz=True, policy_loss=PolicyLossConfig(loss_mode="payoff/dual-clip")
    )
    data = batch()
    data["old_log_probs"], data["advantages"] = old.clone(), advantages
    with engine.train_mode():
        output = engine.train_batch(data, functools.partial(ppo_loss, actor))
    moved = ((logp() - old) * mask).sum(1)
    print("FOUND" + json.dumps({"moved": moved.tolist(), "advantages": advantages[:, 0].tolist(), "loss": output["loss"],
                               "metrics": sorted(output["metrics"])}))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
