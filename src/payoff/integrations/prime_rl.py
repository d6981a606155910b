"""prime-rl: losses of payoff as `trainer.loss.import_path`, a sample at a time.

    [trainer.loss]
    type = "custom"
    import_path = "payoff.integrations.prime_rl.loss"
    kwargs = { name = "dual-clip", low = 0.2, high = 0.28 }

Its rewards come from verifiers: `payoff.integrations.verifiers`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from payoff._extras import require
from payoff.build import OptionError, check_options
from payoff.catalogue import find, index
from payoff.integrations.hosted import HostedRun
from payoff.integrations.masked_batches import loss_terms


def loss(inputs: Any, *, name: str = "", run: str = "", term: str = "", **options: Any) -> Any:
    """A loss by name with its options, or the loss of a run file's term, for prime-rl's `LossInputs`; gives its `LossOutputs`.

    name, options: as in a run file: `name = "ppo-clip", low = 0.2`
    run, term:     FILE.yaml, and which of its terms where there are several

    The policy that acted is the inference engine (`inference_logprobs`), the reference `ref_logprobs`. The terms of the sample are
    added up, times `loss_weights`: prime-rl divides by what there is in the batch. An advantage that is not finite has no verdict
    and trains nothing. Metrics are tensors.

    Raises ValueError without a name or a run, for unknown options, and for losses of more than a sample or of a critic.
    """
    if bool(name) == bool(run):
        raise ValueError("loss: give either `name` or `run`, as kwargs of trainer.loss")
    part = _named(name, tuple(sorted(options.items()))) if name else _of_run(run, term)
    one = lambda tensor: None if tensor is None else tensor[None]
    found, metrics = loss_terms(
        part,
        inputs.trainer_logprobs[None],
        inputs.inference_logprobs[None],
        inputs.advantages[None],
        inputs.loss_mask[None],
        ref=one(inputs.ref_logprobs),
    )
    if inputs.loss_weights is not None:
        found = found * inputs.loss_weights
    told = {key: torch.tensor(value, device=found.device) for key, value in metrics.items()}
    return _outputs(type(inputs))(loss=found.sum(), metrics=told)


@functools.cache
def _named(name: str, options: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    part = find(name, "loss")
    record = index()["loss", name.replace("_", "-")]
    if record.sees != "item" or record.needs - {"old", "ref"}:
        wants = f"sees a {record.sees}" if record.sees != "item" else f"reads {', '.join(sorted(record.needs - {'old', 'ref'}))}"
        raise ValueError(f"loss {name!r} {wants}; prime-rl hands over one sample with its log-probabilities")
    try:
        return functools.partial(part, **check_options(part, dict(options), all_parameters=False))
    except OptionError as error:
        raise ValueError(f"trainer.loss.kwargs: {error}") from None


@functools.cache
def _of_run(run: str, term: str) -> Callable[..., Any]:
    return HostedRun(run).loss(term)


def _outputs(inputs: type) -> type:
    """prime-rl's class of answers, from where its class of questions comes."""
    return require(inputs.__module__, "a loss for prime-rl").LossOutputs
