"""TRL: preference losses of payoff inside `DPOTrainer`, through a mix-in in front of it.

class PayoffDPOTrainer(PayoffDPOMixin, DPOTrainer): ...     # the same as `payoff.integrations.trl_dpo.PayoffDPOTrainer`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from payoff._extras import require
from payoff.contents import needs
from payoff.integrations.token_batches import stops_of
from payoff.integrations.trl_options import DPO, refuse_other_trl, refuse_replaced
from payoff.integrations.trl_rollouts import StepText
from payoff.losses.pair_aggregation import pair_mean
from payoff.pipeline import Aggregation, Evaluation, Loss, NonFiniteError, Term
from payoff.trajectories import Pairs, Trajectories

OUTSIDE = ("completion_mask", "ref_chosen_logps", "ref_rejected_logps")  # of a batch, what the model is not handed

READ = ("_tokenizer", "aux_loss_enabled", "precompute_ref_logps", "_metrics", "_total_train_tokens", "_tp_size")

if TYPE_CHECKING:
    Beside = Any  # DPOTrainer, whose attributes and methods the mix-in uses
else:
    Beside = object


class PayoffDPOMixin(Beside):
    """In front of `DPOTrainer`: `PayoffDPOTrainer(model, loss=functools.partial(ipo, beta=0.1), args=..., train_dataset=...)`.

    loss:        (evaluation, trajectories, Pairs) -> a number per pair; every pair is a group of its own, label and weight 1
    aggregation: the weights of these numbers
    terms:       more summands, by name: {"likelihood": Term(everywhere, ..., token_mean, 0.1)}; their targets see no rewards
    separator:   the text that closes a step; without it a response is one step

    TRL's reference gives logp["ref"], and is asked where a loss reads it. As in TRL, a micro-batch is weighed by itself and
    micro-batches and processes are averaged. Raises ValueError for options of TRL that our loss would ignore, and for losses that
    read what TRL does not have, such as the log-probabilities of whoever sampled ("old").
    """

    def __init__(
        self,
        *args: Any,
        loss: Loss,
        aggregation: Aggregation = pair_mean,  # type: ignore[assignment]  # it is of pairs, and so is the target
        terms: Mapping[str, Term] | None = None,
        separator: str | None = None,
        **options: Any,
    ) -> None:
        if terms and "pairs" in terms:
            raise ValueError('PayoffDPOMixin: "pairs" is the name of the term that loss and aggregation make')
        self.payoff_terms = {"pairs": Term(chosen_first, loss, aggregation), **(terms or {})}
        self._needs = needs([list(term[:3]) for term in self.payoff_terms.values()])
        if lacking := self._needs - {"ref", "entropy"}:
            raise ValueError(f"the losses need {sorted(lacking)}, and DPOTrainer offers ['entropy', 'ref']")
        super().__init__(*args, **options)
        refuse_other_trl(self, PayoffDPOMixin, READ)
        refuse_replaced(self.args, DPO)
        if "ref" in self._needs and self.precompute_ref_logps:
            raise ValueError("precompute_ref_log_probs keeps sums over responses, and payoff's losses read tokens: leave it off")
        self._steps = None if separator is None else StepText(self._tokenizer, separator)

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any], return_outputs: bool) -> Any:
        given = {**{k: v for k, v in inputs.items() if k not in OUTSIDE}, "use_cache": False}
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        outputs = model(**given, **router, labels=labels, fused_lm_head=True)
        at, length, acted = _places(inputs["completion_mask"][:, 1:])
        read = lambda per_token: torch.where(acted, per_token[:, -(labels.shape[1] - 1) :].gather(1, at), 0)
        logp = {"ref": read(self._reference(model, given, labels)).float()} if "ref" in self._needs else {}
        traj = self._trajectories(inputs["input_ids"][:, 1:].gather(1, at), length, acted, logp)
        evaluation = Evaluation(read(outputs.log_probs).float(), {"entropy": read(outputs.entropy).float()})
        loss = evaluation.logp.new_zeros(())
        metrics: dict[str, float] = {}
        for name, term in self.payoff_terms.items():
            target = term.target({}, traj)
            found = term.loss(evaluation, traj, target)
            value = (found.terms * term.aggregation(target, traj)).sum()
            if not torch.isfinite(value):
                raise NonFiniteError(f"loss {name!r}", int(traj.id[0]), float(value.detach()))
            loss = loss + term.weight * value
            metrics |= {f"loss/{name}": float(value.detach()), **{f"{name}/{key}": x for key, x in found.metrics.items()}}
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
            metrics["aux_loss"] = float(outputs.aux_loss.detach())
        self._tell(metrics, evaluation, traj, inputs)
        return (loss, outputs) if return_outputs else loss

    def _reference(self, model: Any, given: Mapping[str, Any], labels: Int[Tensor, "M L"]) -> Tensor:
        """Log-probabilities of the reference: TRL's copy, or with adapters the model without them."""
        from trl.models.utils import disable_gradient_checkpointing

        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            if self.ref_model is not None:
                return self.ref_model(**given, labels=labels, fused_lm_head=True).log_probs
            from trl.trainer.utils import use_adapter

            plain = self.accelerator.unwrap_model(self.model)
            with use_adapter(plain, adapter_name="ref" if "ref" in plain.peft_config else None):
                return self.model(**given, labels=labels, fused_lm_head=True).log_probs

    def _trajectories(self, ids: Tensor, length: Tensor, acted: Tensor, logp: dict[str, Tensor]) -> Trajectories:
        half = len(ids) // 2
        step = torch.where(torch.arange(ids.shape[1], device=ids.device) < length[:, None], 0, -1).int()
        if self._steps is not None:
            found, _ = self._steps(torch.where(acted, ids, 0).cpu(), length.cpu())
            step = found.int().to(ids.device)
        return Trajectories(
            mask=acted,
            length=length,
            group=torch.arange(half, device=ids.device).repeat(2),
            step=step,
            stop=stops_of(ids, length, acted.any(1), [self._tokenizer.eos_token_id]),
            actions=ids,
            logp=logp,
        )

    def _tell(self, metrics: dict[str, float], evaluation: Evaluation, traj: Trajectories, inputs: Mapping[str, Any]) -> None:
        """Log the mean over processes of our metrics, and of what TRL logs anyway the part that no loss decides."""
        total = evaluation.logp.detach().sum(1)
        first, second = total.chunk(2)
        size = traj.mask.sum().clamp(min=1)
        metrics |= {
            "logps/chosen": float(first.mean()),
            "logps/rejected": float(second.mean()),
            "entropy": float(evaluation.more["entropy"].detach().sum() / size),
        }
        mode = "train" if self.model.training else "eval"
        names = sorted(metrics)
        numbers = torch.tensor([[metrics[name] for name in names]], device=traj.device)
        for name, number in zip(names, self.accelerator.gather(numbers).nanmean(0).tolist(), strict=True):
            self._metrics[mode][name].append(number)
        if mode == "train":
            tokens = self.accelerator.gather_for_metrics(inputs["attention_mask"].sum()).sum().item()
            self._total_train_tokens += tokens // self._tp_size
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]


def __getattr__(name: str) -> Any:
    """`PayoffDPOTrainer`, made when it is asked for: importing this module needs no TRL."""
    if name != "PayoffDPOTrainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    trl = require("trl", "PayoffDPOTrainer")
    made = type(name, (PayoffDPOMixin, trl.DPOTrainer), {"__module__": __name__, "__doc__": PayoffDPOMixin.__doc__})
    globals()[name] = made
    return made


def chosen_first(rewards: Any, traj: Trajectories) -> Pairs:
    """TRL's own pairs: the first half of the rows, chosen, against the second, rejected."""
    rows = torch.arange(len(traj) // 2, device=traj.device)
    one = torch.ones(len(rows), device=traj.device)
    return Pairs(torch.stack([rows, rows + len(rows)], 1), one, one)


def _places(mask: Int[Tensor, "M L"]) -> tuple[Int[Tensor, "M T"], Int[Tensor, " M"], Bool[Tensor, "M T"]]:
    """Where each response's tokens stand, how many there are (at least 1), and which of the places are tokens of it."""
    count = mask.sum(1)
    length = count.clamp(min=1)
    place = torch.arange(int(length.max()), device=mask.device)
    at = (mask.argmax(1, keepdim=True) + place).clamp(max=mask.shape[1] - 1)
    return at, length, place < count[:, None]
