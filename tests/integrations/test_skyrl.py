"""SkyRL is not installed here: its environment, its registries and its calls are restated from skyrl_gym and its ppo_utils."""

import sys
import types

import numpy as np
import pytest
import torch

from payoff.integrations.masked_batches import estimate
from payoff.integrations.method_names import path_of
from payoff.integrations.skyrl import environment, register


class Registry:
    _functions: dict

    @classmethod
    def register(cls, name, func):
        if name in cls._functions:
            raise ValueError(f"{name} is there already")
        cls._functions[name] = func

    @classmethod
    def list_available(cls):
        return list(cls._functions)


def host(reduce_loss=None):
    """SkyRL's module of algorithms, as much of it as a registered function meets."""
    module = types.ModuleType("skyrl_train.utils.ppo_utils")
    module.AdvantageEstimatorRegistry = type("AdvantageEstimatorRegistry", (Registry,), {"_functions": {"grpo": None}})
    module.PolicyLossRegistry = type("PolicyLossRegistry", (Registry,), {"_functions": {"regular": None}})
    module.reduce_loss = reduce_loss or (lambda loss, loss_mask: (loss * loss_mask).sum())
    return module


@pytest.fixture
def skyrl(monkeypatch):
    module = host()
    for name in ("skyrl_train", "skyrl_train.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_names_go_into_the_registries_once_and_beside_those_that_are_there(skyrl):
    names = register()
    assert {"payoff/rloo", "payoff/grpo/skyrl", "payoff/dual-clip"} <= set(names)
    assert "payoff/run" not in names
    assert "grpo" in skyrl.AdvantageEstimatorRegistry.list_available()
    assert register(skyrl) == []


def test_an_estimator_is_called_as_skyrl_calls_it(skyrl):
    register()
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.25], [0.5, 0.0], [0.0, 0.0]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1]])
    index = np.array(["a", "a", "b", "b"])
    fn = skyrl.AdvantageEstimatorRegistry._functions["payoff/grpo/skyrl"]
    advantages, returns = fn(
        token_level_rewards=rewards, response_mask=mask, index=index, values=None, config=types.SimpleNamespace(),
        gamma=1.0, lambd=1.0, grpo_norm_by_std=True,
    )  # fmt: skip
    # Groups of two: (r - mean) / (std + 1e-6) with std = |r1 - r2| / sqrt 2 gives +-sqrt(1/2).
    half = 0.5**0.5
    torch.testing.assert_close(
        advantages, torch.tensor([[half, half], [-half, -half], [half, 0.0], [-half, -half]]), atol=1e-5, rtol=0
    )
    assert returns.tolist() == [[1.0, 1.0], [0.25, 0.25], [0.5, 0.0], [0.0, 0.0]]
    again = estimate(rewards, mask, path_of("payoff/grpo/skyrl"), index=index)
    assert torch.equal(advantages, again.advantages)


def test_a_loss_takes_skyrls_bounds_and_is_reduced_by_skyrl(skyrl):
    register()
    config = types.SimpleNamespace(eps_clip_low=0.1, eps_clip_high=0.25, clip_ratio_c=3.0, policy_loss_type="payoff/dual-clip")
    old = torch.full((2, 3), -1.0)
    new = (old + torch.tensor([[0.5, -0.5, 0.0], [2.0, 0.1, 0.0]])).requires_grad_()
    advantages, mask = torch.tensor([[1.0] * 3, [-2.0] * 3]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    loss, metrics = skyrl.PolicyLossRegistry._functions["payoff/dual-clip"](new, old, advantages, config=config, loss_mask=mask)
    # ppo_policy_loss of SkyRL with policy_loss_type dual_clip
    ratio = (new - old).exp()
    plain = -torch.min(ratio * advantages, ratio.clamp(0.9, 1.25) * advantages)
    dual = torch.where(advantages < 0, torch.min(-advantages * 3.0, plain), plain)
    torch.testing.assert_close(loss, (dual * mask).sum())
    assert set(metrics) >= {"clip_fraction"}


def test_older_and_newer_ways_of_reducing_are_both_served(monkeypatch):
    seen = {}

    def reduce_loss(loss, loss_mask, loss_reduction, max_seq_len):
        seen.update(loss_reduction=loss_reduction, max_seq_len=max_seq_len)
        return loss.sum()

    module = host(reduce_loss)
    module.apply_off_policy_correction = lambda loss, old, rollout, mask, how: (loss * how, mask, {"is_ratio": how})
    for name in ("skyrl_train", "skyrl_train.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    register(module)
    config = types.SimpleNamespace(loss_reduction="token_mean", max_seq_len=7, off_policy_correction=3.0)
    one = torch.zeros(1, 1)
    loss, metrics = module.PolicyLossRegistry._functions["payoff/policy-gradient"](one - 1, one - 1, one + 1, config, one + 1)
    assert (float(loss), metrics["is_ratio"], seen) == (3.0, 3.0, {"loss_reduction": "token_mean", "max_seq_len": 7})


@pytest.fixture
def gym(monkeypatch):
    class BaseTextEnv:
        def __init__(self):
            self.turns = 0
            self.max_turns = 1

    module = types.ModuleType("skyrl_gym.envs.base_text_env")
    module.BaseTextEnv, module.BaseTextEnvStepOutput = BaseTextEnv, dict  # SkyRL's is a TypedDict
    for name in ("skyrl_gym", "skyrl_gym.envs"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_an_environment_is_one_graded_answer(gym, tmp_path):
    path = tmp_path / "graders.py"
    path.write_text(
        "def right(response, reference, split):\n    return None if response == 'broken' else float(response == reference)\n"
    )
    env_class = environment(f"{path}:right", invalid=-1.0)
    seen = []
    for answer in ("4", "5", "broken"):
        env = env_class(env_config=None, extras={"reward_spec": {"method": "rule", "ground_truth": "4"}, "split": "train"})
        prompt, info = env.init([{"role": "user", "content": "2+2"}])
        assert (prompt[0]["content"], info) == ("2+2", {})
        step = env.step(answer)
        assert (step["observations"], step["done"], env.turns) == ([], True, 1)
        seen.append((step["reward"], step["metadata"]["reward_valid"], step["metadata"]["right"]))
        metrics = env.get_metrics()
    assert seen == [(1.0, 1.0, 1.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0)]
    assert env_class.aggregate_metrics([metrics, {"reward_valid": 1.0, "right": 1.0}]) == {"reward_valid": 0.5, "right": 0.5}


def test_without_skyrl_it_says_where_it_looked():
    with pytest.raises(ImportError, match="registering with SkyRL needs one of skyrl"):
        register()
