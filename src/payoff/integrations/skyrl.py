"""SkyRL: a text environment whose reward is payoff's, and payoff's advantages and losses in its registries."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from payoff._extras import MissingExtraError, require
from payoff.build import check_options
from payoff.integrations.hosted import pairs_of, row_reward, text_row
from payoff.integrations.masked_batches import estimate, loss_terms, with_options
from payoff.integrations.method_names import RUN, estimator_names, loss_names, loss_of, path_of

PLACES = ("skyrl.backends.skyrl_train.utils.ppo_utils", "skyrl_train.utils.ppo_utils", "skyrl.train.utils.ppo_utils")
CLIP = {"low": "eps_clip_low", "high": "eps_clip_high"}


def environment(
    reward: str = "", *, weights: Mapping[str, float | int] | None = None, term: str = "", invalid: float = 0.0
) -> type:
    """A `BaseTextEnv` of one turn: the answer is graded and the episode is over.

    `skyrl_gym.register(id="payoff", entry_point="my_module:Env")` with `Env = environment("run.yaml")` in my_module, and
    `environment.env_class=payoff`. reward, weights, term: as `RowReward` takes them, else the environment's PAYOFF_REWARD. Rows are
    the data set's extras: graders see these, `prompt`, `response`, and as `reference` the `reward_spec`'s ground truth.

    SkyRL has no missing verdict: such a row is paid `invalid`, and `reward_valid` is 0 in its metadata and metrics.
    """
    host = require("skyrl_gym.envs.base_text_env", "an environment for SkyRL")

    class PayoffEnv(host.BaseTextEnv):  # type: ignore[misc, name-defined]
        def __init__(self, env_config: Any = None, extras: Mapping[str, Any] | None = None) -> None:
            super().__init__()
            self.extras = dict(extras or {})
            self.prompt: Any = ""
            self.columns: dict[str, float] = {}

        def init(self, prompt: Any) -> tuple[Any, dict[str, Any]]:
            self.prompt = prompt
            return prompt, {}

        def step(self, action: str) -> Any:
            self.turns += 1
            spec = self.extras.get("reward_spec")
            truth = spec.get("ground_truth") if isinstance(spec, Mapping) else None
            fields = {name: value for name, value in self.extras.items() if name != "reward_spec"}
            graded = row_reward(reward, pairs_of(weights), term)([text_row(action, truth, {**fields, "prompt": self.prompt})])[0]
            self.columns = {"reward_valid": float(graded.valid)}
            self.columns |= {name: value if known else 0.0 for name, (value, known) in graded.channels.items()}
            return host.BaseTextEnvStepOutput(
                observations=[],
                reward=graded.reward if graded.valid else invalid,
                done=True,
                metadata={**self.columns, "reward_reason": graded.reason},
            )

        def get_metrics(self) -> dict[str, float]:
            return dict(self.columns)

        @staticmethod
        def aggregate_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
            names = dict.fromkeys(name for row in metrics for name in row)
            return {name: sum(float(row.get(name, 0.0)) for row in metrics) / max(len(metrics), 1) for name in names}

    return PayoffEnv


def register(host: ModuleType | None = None) -> list[str]:
    """Put payoff's advantages and losses into SkyRL's registries; returns the names. Call it before the entry point starts Ray:
    SkyRL copies its registries to the workers then.

    host: SkyRL's module with `AdvantageEstimatorRegistry`, `PolicyLossRegistry` and `reduce_loss`; found where it usually lies
    """
    host = host or _host()
    taken = set(host.AdvantageEstimatorRegistry.list_available()) | set(host.PolicyLossRegistry.list_available())
    names = []
    for name in estimator_names():
        if name != RUN and name not in taken:
            host.AdvantageEstimatorRegistry.register(name, functools.partial(advantages, name))
            names.append(name)
    for name in loss_names():
        if name != RUN and name not in taken and not _asks(name):
            host.PolicyLossRegistry.register(name, functools.partial(policy_loss, name, host.__name__))
            names.append(name)
    return names


def advantages(
    name: str,
    token_level_rewards: Any,
    response_mask: Any,
    index: Any,
    values: Any = None,
    config: Any = None,
    gamma: float = 1.0,
    lambd: float = 1.0,
    grpo_norm_by_std: bool = True,
    **_: Any,
) -> tuple[Any, Any]:
    """payoff/NAME as an advantage estimator of SkyRL; a reward that is not finite has no verdict and gets 0."""
    found = estimate(token_level_rewards, response_mask, path_of(name, gamma), index=index)
    return found.advantages, found.returns


def policy_loss(
    name: str,
    place: str,
    log_probs: Any,
    old_log_probs: Any,
    advantages: Any,
    config: Any,
    loss_mask: Any = None,
    rollout_logprobs: Any = None,
) -> tuple[Any, dict[str, float]]:
    """payoff/NAME as a policy loss of SkyRL, corrected for the engine and reduced by SkyRL's own functions.

    Options are the paper's, but for the bounds: `eps_clip_low` and `eps_clip_high` of the configuration, and `clip_ratio_c`.
    """
    host = importlib.import_module(place)
    mask = (log_probs == log_probs) if loss_mask is None else loss_mask
    options = {ours: getattr(config, theirs) for ours, theirs in CLIP.items() if getattr(config, theirs, None) is not None}
    if name == "payoff/dual-clip" and getattr(config, "clip_ratio_c", None) is not None:
        options["bound"] = config.clip_ratio_c
    terms, metrics = loss_terms(with_options(loss_of(name), options), log_probs, old_log_probs, advantages, mask)
    if hasattr(host, "apply_off_policy_correction"):
        correction = getattr(config, "off_policy_correction", None)
        terms, mask, told = host.apply_off_policy_correction(terms, old_log_probs, rollout_logprobs, mask, correction)
        metrics = {**metrics, **told}
    return _reduced(host, terms, mask, config), metrics


def _reduced(host: ModuleType, terms: Any, mask: Any, config: Any) -> Any:
    """`reduce_loss` as this version of SkyRL has it: with what its configuration says under the names of its parameters."""
    parameters = list(inspect.signature(host.reduce_loss).parameters)[2:]
    known = [name for name in ("loss_reduction", "max_seq_len") if name in parameters and hasattr(config, name)]
    return host.reduce_loss(terms, mask, **{name: getattr(config, name) for name in known})


def _asks(name: str) -> bool:
    """Whether a loss has an option without a default, which a registry cannot give it."""
    part: Callable[..., Any] = loss_of(name)
    check_options(part, {}, all_parameters=False)
    return any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in inspect.signature(part).parameters.values())


def _host() -> ModuleType:
    for place in PLACES:
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if not place.startswith(str(error.name)):
                raise
    raise MissingExtraError(f"registering with SkyRL needs one of {', '.join(PLACES)}; install SkyRL, or give its module as `host`")
