"""payoff's advantages and losses with the signatures that verl's registries ask for."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from payoff._extras import require
from payoff.build import TRANSFORMS, resolve
from payoff.config import ConfigError
from payoff.integrations.hosted import REWARD, HostedRun
from payoff.integrations.masked_batches import estimate, loss_terms, with_options
from payoff.integrations.method_names import PREFIX, RUN, loss_of, path_of


@functools.cache
def estimator(name: str) -> Callable[..., Any]:
    def estimate_(token_level_rewards: Any, response_mask: Any, config: Any = None, index: Any = None, **_: Any) -> tuple[Any, Any]:
        # verl hands some estimators more than it hands others; what is not rewards, mask and group is none of this one's business.
        gamma = 1.0 if config is None else float(config.get("gamma", 1.0))
        path = _run_path(_asked(config)) if name == RUN else path_of(name, gamma)
        found = estimate(token_level_rewards, response_mask, path, index=index)
        return found.advantages, found.returns

    estimate_.__name__ = estimate_.__qualname__ = name
    estimate_.__doc__ = f"{name} of payoff: 0 where the reward is not a number."
    return estimate_


def _asked(config: Any) -> str:
    """The run file that algorithm.payoff_run names, or the environment."""
    spec = (config.get("payoff_run") if config is not None else None) or os.environ.get(REWARD, "")
    if not spec:
        raise ValueError(f"{RUN}: no run file; name one as +algorithm.payoff_run=FILE.yaml or in the environment as {REWARD}")
    return str(spec)


@functools.cache
def _run_path(spec: str) -> list[Callable[..., Any]]:
    """The transforms of a run file's only reward channel: verl has added the channels up before its estimators see them."""
    run = HostedRun(spec)
    name, term = run.term()
    if len(term.paths) != 1:
        raise ConfigError(
            [
                f"{spec}: terms.{name}.paths: a verl estimator sees one reward and no channels, and here are {len(term.paths)}; "
                "use trainer.v1.trainer_mode=payoff_sync"
            ]
        )
    run.target()  # every mistake with its place
    (parts,) = term.paths.values()
    return [resolve(part, TRANSFORMS) for part in (*parts, *term.then)]


@functools.cache
def policy_loss(name: str) -> Callable[..., Any]:
    def loss_(
        old_log_prob: Any,
        log_prob: Any,
        advantages: Any,
        response_mask: Any,
        loss_agg_mode: str = "token-mean",
        config: Any = None,
        rollout_is_weights: Any = None,
    ) -> tuple[Any, dict[str, Any]]:
        if config is None:
            raise ValueError(f"{name}: needs the actor's configuration, for how the batch is averaged")
        loss = _run_loss(_asked(None)) if name == RUN else with_options(loss_of(name), settings_of(config, name))
        terms, metrics = loss_terms(loss, log_prob, old_log_prob, advantages, response_mask)
        if rollout_is_weights is not None:
            terms = terms * rollout_is_weights
        agg_loss = require("verl.trainer.ppo.core_algos", "a loss for verl").agg_loss
        total = agg_loss(loss_mat=terms, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info)
        return total, {f"actor/{key}": value for key, value in metrics.items()}

    loss_.__name__ = loss_.__qualname__ = name
    loss_.__doc__ = f"{name} of payoff, averaged as verl averages."
    return loss_


@functools.cache
def _run_loss(spec: str) -> Callable[..., Any]:
    return HostedRun(spec).loss()


CLIP = {"low": "clip_ratio_low", "high": "clip_ratio_high"}
BOUND = {**CLIP, "bound": "clip_ratio_c"}
COVARIANCE = {"share": "clip_cov_ratio", "least": "clip_cov_lb", "most": "clip_cov_ub"}
SETTINGS = {  # our option -> the actor's setting; losses that are not here take what they have of CLIP
    **dict.fromkeys(("dual-clip", "dppo-tv", "dppo-kl"), BOUND),
    "dro": {"beta": "policy_loss.dro_beta"},
    "sapo": {"temperature": "tau_pos", "negative_temperature": "tau_neg"},
    "clip-cov": {**CLIP, **{ours: f"policy_loss.{theirs}" for ours, theirs in COVARIANCE.items()}},
    "kl-cov": {"share": "policy_loss.kl_cov_ratio", "coefficient": "policy_loss.ppo_kl_coef"},
}


def settings_of(config: Any, name: str = "") -> dict[str, float]:
    """The actor's settings under our names, as `SETTINGS` has them; `clip_ratio` stands for bounds that are None."""
    found = {}
    for ours, theirs in SETTINGS.get(name.removeprefix(PREFIX), CLIP).items():
        value = config
        for key in theirs.split("."):
            value = None if value is None else value.get(key, None)
        if value is None and ours in ("low", "high"):
            value = config.get("clip_ratio", None)
        if value is not None:
            found[ours] = value
    return found
