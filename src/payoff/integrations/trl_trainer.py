"""TRL: credit, advantages and losses of payoff inside `GRPOTrainer`, through a mix-in in front of it.

    class PayoffGRPOTrainer(PayoffMixin, GRPOTrainer): ...     # the same as `payoff.integrations.trl_trainer.PayoffGRPOTrainer`

TRL generates, batches, accumulates, evaluates and saves as ever. Between generation and its shuffling the rewards of all processes
come together, go down their paths and become a weight for every token; the loss reads those instead of TRL's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from payoff._extras import require
from payoff.contents import learners, needs, outermost_modules, part_name, sees
from payoff.integrations.trl import LOGP, trl_advantages
from payoff.integrations.trl_options import GRPO, refuse_other_trl, refuse_replaced
from payoff.integrations.trl_rewards import Known, RewardFunction, Scored
from payoff.integrations.trl_rollouts import Call, StepText, fitted, renamed_reasons, rollouts, rows_of, whole_batch
from payoff.losses.regularisers import kl_k3, kl_unbiased
from payoff.pipeline import (
    Aggregation,
    Evaluation,
    Loss,
    NonFiniteError,
    Shaping,
    Target,
    Term,
    checked,
    checked_rewards,
    everywhere,
)
from payoff.trajectories import Channel, Pairs, Rewards, Trajectories, at_start, place_outcome

IMAGES = (
    *("pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes", "num_tiles", "image_sizes"),
    *("token_type_ids", "mm_token_type_ids", "image_position_ids"),
)
READ = (  # of the trainer, what is no public promise of TRL's
    *("_tokenizer", "eos_token_ids", "aux_loss_enabled", "pad_to_multiple_of", "num_generations_eval", "_logs", "_metrics"),
    *("_generate", "_calculate_rewards", "_generate_and_score_completions", "_get_per_token_logps_and_entropies"),
)

if TYPE_CHECKING:
    Beside = Any  # GRPOTrainer, whose attributes and methods the mix-in uses
else:
    Beside = object


class Batch(NamedTuple):
    """What was last generated, over all processes: the rollouts, their rewards after shaping, and each term's target."""

    traj: Trajectories
    rewards: Rewards
    targets: Mapping[str, Channel | Pairs]


class PayoffMixin(Beside):
    """In front of `GRPOTrainer`: `PayoffGRPOTrainer(model, reward_funcs, target=weigh(...), loss=..., aggregation=..., args=...)`.

    target:      reward channels into a weight for every token, over the whole generation batch of all processes. Channels: those
                 of `reward_function`s, and every other reward function's number under its name; None is no verdict, never 0
    loss, aggregation: together. Without them TRL's own loss reads the target as its advantages, and its options hold; no
                 verdict is an advantage of 0 there, in TRL's means
    terms:       in place of these three: several, by name, as {"policy": Term(...), "entropy": Term(...)}
    shapings:    across channels, on the whole batch, with log-probabilities at hand
    separator:   the text that closes a step; without it a completion is one step

    `args.beta` is the weight of the KL to TRL's reference, as a term of its own with the first term's aggregation: `kl_k3`, or
    `kl_unbiased` with `use_bias_correction_kl`. Where a loss reads "ref" itself, beta only makes TRL load the reference.
    Gradients are those of the whole batch, however it is cut into micro-batches, accumulated and spread; a loss that compares
    rollouts needs its groups together: steps_per_generation=1. Parts that learn do so once a generation, on the whole batch, and
    their state goes into TRL's checkpoints, as payoff.pt. `batch` is what was generated last.

    Raises ValueError for options of TRL that our loss would ignore, for parts that read what TRL does not have, such as a critic.
    """

    def __init__(
        self,
        *args: Any,
        target: Target | None = None,
        loss: Loss | None = None,
        aggregation: Aggregation | None = None,
        terms: Mapping[str, Term] | None = None,
        shapings: Sequence[Shaping] = (),
        separator: str | None = None,
        **options: Any,
    ) -> None:
        if (target is None) == (terms is None):
            raise ValueError("PayoffMixin: give either target (with loss and aggregation, or neither), or terms")
        if (loss is None) != (aggregation is None) or (terms is not None and loss is not None):
            raise ValueError("PayoffMixin: loss and aggregation come together, and beside target")
        if terms is not None and not terms:
            raise ValueError("PayoffMixin: terms is empty, so nothing would be trained")
        self.payoff_target, self.payoff_shapings, self.separator = target, list(shapings), separator
        self.payoff_terms = dict(terms or {})
        if target is not None and loss is not None and aggregation is not None:
            self.payoff_terms["policy"] = Term(target, loss, aggregation)
        self.batch: Batch | None = None
        self._pairs: dict[str, tuple[Pairs, Tensor]] = {}
        super().__init__(*args, **options)
        refuse_other_trl(self, PayoffMixin, READ)
        if self.payoff_terms:
            refuse_replaced(self.args, GRPO)
            if self.beta and "ref" not in needs([term.loss for term in self.payoff_terms.values()]):
                divergence: Loss = kl_unbiased if self.args.use_bias_correction_kl else kl_k3  # type: ignore[assignment]  # of channels
                first = next(iter(self.payoff_terms.values()))
                self.payoff_terms["kl"] = Term(everywhere, divergence, first.aggregation, self.beta)
        self._check_needs()
        self._together = [name for name, term in self.payoff_terms.items() if sees(term.loss) != "item"]
        self._check_cuts(self._together)
        self._steps = StepText(self._tokenizer, separator)
        self._scorings = list({id(f.scoring): f.scoring for f in self.reward_funcs if isinstance(f, RewardFunction)}.values())

    # --- from generation to targets

    def _generate(self, prompts: list) -> Any:
        generated = super()._generate(prompts)  # prompt ids, completion ids, tool mask ...
        self._prompt_ids, self._acted = generated[0], generated[2]
        return generated

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        training = self.model.training
        columns = {key: [row[key] for row in inputs] for key in inputs[0] if key not in ("prompt", "completion", "completion_ids")}
        size = self.num_generations if training else self.num_generations_eval
        ends = sorted({*self.eos_token_ids, self._tokenizer.pad_token_id} - {None})
        multiple = self.pad_to_multiple_of or 1
        known = Known(self._steps, size, ends, multiple, self._prompt_ids, self._acted, training)
        for scoring in self._scorings:
            scoring.known, scoring.last = known, None
        per_function = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        call = Call(prompts, completions, completion_ids_list, columns, self._prompt_ids, self._acted)
        traj = rollouts(call, steps=self._steps, num_generations=size, ends=ends, multiple=multiple)
        first = self.accelerator.process_index * len(prompts)
        local = per_function[first : first + len(prompts)].cpu()
        raw: Rewards = {}  # what the signals said, for parts that learn
        rewards: Rewards = {}
        for k, (function, name) in enumerate(zip(self.reward_funcs, self.reward_func_names, strict=True)):
            if not isinstance(function, RewardFunction):
                number = local[:, k]
                for kind in (raw, rewards):
                    _add(kind, {name: place_outcome(number.nan_to_num(), ~number.isnan(), traj)})
        for scoring in self._scorings:
            last = cast(Scored, scoring.last)
            for kind, given in ((raw, last.raw), (rewards, last.rewards)):
                _add(kind, fitted(renamed_reasons(given, last.traj.id, traj.id), traj.width))
        self._scored = traj, raw, rewards
        return per_function

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        training = self.model.training
        traj, raw, rewards = self._scored
        mask = output["completion_mask"] if "tool_mask" not in output else output["completion_mask"] * output["tool_mask"]
        traj = self._annotated(traj.replace(mask=mask.bool().cpu() & traj.exists), output)
        size = self.num_generations if training else self.num_generations_eval
        whole, (raw, rewards), own = whole_batch(traj, [raw, rewards], size)
        for shaping in self.payoff_shapings:
            rewards = checked_rewards(part_name(shaping), shaping(rewards, whole), whole)
        device = output["completion_ids"].device
        targets: dict[str, Channel | Pairs] = {}
        if not self.payoff_terms:
            advantage = checked("target", self._targets()[0](rewards, whole), whole)
            targets["advantage"] = advantage
            output["advantages"] = trl_advantages(rows_of(advantage, own, traj.width), traj).to(device)
        else:
            self._pairs = {}
            for name, term in self.payoff_terms.items():
                target = targets[name] = term.target(rewards, whole)
                if isinstance(target, Pairs):
                    self._pairs[name] = self._own_pairs(name, target, term.aggregation(target, whole), own)
                    continue
                part = rows_of(checked(f"target of {name!r}", target, whole), own, traj.width)
                weight = term.aggregation(target, whole)[own]
                output |= {f"payoff_{name}_value": part.value.to(device), f"payoff_{name}_valid": part.valid.to(device)}
                output[f"payoff_{name}_weight"] = (weight if weight.ndim == 1 else weight[:, : traj.width]).to(device)
            for name in ("mask", "length", "group", "step", "stop", "id"):
                output[f"payoff_{name}"] = getattr(traj, name).to(device)
            output["payoff_row"] = torch.arange(len(traj), device=device)
            output["payoff_items"] = list(traj.items)
        self.batch = Batch(whole, rewards, targets)
        self._describe(next(iter(targets.values())), whole, "train" if training else "eval")
        if training:
            losses = [term.loss for term in self.payoff_terms.values()]
            for learner in learners([self._scorings_parts(), self.payoff_shapings, *self._targets(), *losses]):
                if learner.training and not getattr(learner, "learns_first", False):
                    for name, number in learner.learn(whole, raw).items():
                        if number is not None:
                            self._metrics["train"][name].append(float(number))
        return output

    def _annotated(self, traj: Trajectories, output: Mapping[str, Any]) -> Trajectories:
        """With the log-probabilities that TRL has computed, and what shapings and targets read besides."""
        logp = {ours: output[theirs].float().cpu() for theirs, ours in LOGP.items() if output.get(theirs) is not None}
        extras = {}
        read = needs([self.payoff_shapings, *self._targets()])
        if ("old" in read and "old" not in logp) or "entropy" in read:
            from trl.models.utils import disable_gradient_checkpointing

            with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
                old, entropy, _ = self._forward(self.model, output, self.args.per_device_train_batch_size)
            logp.setdefault("old", old.float().cpu())
            extras = {"entropy": entropy.float().cpu()}
        return traj.replace(logp={name: torch.where(traj.exists, x, 0) for name, x in logp.items()}, extras=extras)

    # --- the loss

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        if not self.payoff_terms:
            return super()._compute_loss(model, inputs)
        training = self.model.training
        mode = "train" if training else "eval"
        logp, entropy, router = self._forward(model, inputs, None)
        old = inputs.get("old_per_token_logps")
        given = {ours: inputs[theirs] for theirs, ours in LOGP.items() if inputs.get(theirs) is not None}
        fields = {name: inputs[f"payoff_{name}"] for name in ("mask", "length", "group", "step", "stop", "id")}
        part = Trajectories(
            actions=inputs["completion_ids"],
            logp={"old": logp.detach() if old is None else old, **given},
            items=inputs["payoff_items"],
            **fields,
        )
        evaluation = Evaluation(torch.where(part.mask, logp, 0), {"entropy": torch.where(part.mask, entropy, 0)})
        cuts = 1.0  # optimiser steps that a generation batch is cut into: each stands for all of it
        if training:
            cuts = self.args.steps_per_generation / self.current_gradient_accumulation_steps
        share = cuts * self.accelerator.num_processes  # gradients are averaged over processes
        loss = logp.new_zeros(())
        metrics: dict[str, float] = {}
        for name, term in self.payoff_terms.items():
            target, weight = self._target_of(name, inputs)
            found = term.loss(evaluation, part, target)
            terms = self._corrected(name, found.terms, inputs)
            value = (terms * weight).sum() * share
            if not torch.isfinite(value):
                raise NonFiniteError(f"loss {name!r}", int(part.id[0]), float(value.detach()))
            loss = loss + term.weight * value
            metrics |= {f"loss/{name}": float(value.detach()), **{f"{name}/{key}": x for key, x in found.metrics.items()}}
        if router is not None:
            steps = self.current_gradient_accumulation_steps if training else 1
            loss = loss + self.router_aux_loss_coef * router / steps
            metrics["aux_loss"] = float(router.detach())
        count = part.mask.sum().clamp(min=1)
        metrics["entropy"] = float(torch.where(part.mask, entropy.detach(), 0).double().sum() / count)
        names = sorted(metrics)
        numbers = torch.tensor([[metrics[name] for name in names]], device=logp.device)
        for name, number in zip(names, self.accelerator.gather(numbers).nanmean(0).tolist(), strict=True):
            self._metrics[mode][name].append(number)
        return loss

    def _forward(self, model: Any, inputs: Mapping[str, Any], batch_size: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities and entropies of the completions' tokens, and the routers' loss where there is one."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        return self._get_per_token_logps_and_entropies(
            model,
            ids,
            attention,
            inputs["completion_ids"].shape[1],
            batch_size=batch_size,
            compute_entropy=True,
            compute_aux_loss=self.aux_loss_enabled and batch_size is None,
            **{name: inputs.get(name) for name in IMAGES},
        )

    def _corrected(self, name: str, terms: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """The terms times TRL's correction for a sampler that is another program (vLLM), but for the divergence."""
        ratio = inputs.get("importance_sampling_ratio")
        if ratio is None or name == "kl":
            return terms
        if terms.ndim == 1 or (terms.shape[1] == 1 and ratio.shape[1] > 1):
            raise ValueError(
                f"loss {name!r} has one number per rollout or pair, and TRL corrects every token: set "
                "vllm_importance_sampling_correction=False"
            )
        return terms * ratio

    def _target_of(self, name: str, inputs: Mapping[str, Any]) -> tuple[Channel | Pairs, Tensor]:
        if name not in self._pairs:
            return Channel(inputs[f"payoff_{name}_value"], inputs[f"payoff_{name}_valid"]), inputs[f"payoff_{name}_weight"]
        pairs, weight = self._pairs[name]
        row = inputs["payoff_row"]
        place = torch.empty_like(row)
        place[row] = torch.arange(len(row), device=row.device)
        index, label, each = (tensor.to(row.device) for tensor in pairs)
        return Pairs(place[index], label, each), weight.to(row.device)

    def _own_pairs(self, name: str, pairs: Pairs, weight: Tensor, own: Tensor) -> tuple[Pairs, Tensor]:
        self._check_cuts([name])
        inside = torch.isin(pairs.index, own)
        if (inside.any(1) & ~inside.all(1)).any():
            raise ValueError(f"term {name!r}: a pair is spread over two processes; pairs must lie within a group")
        here = inside.all(1)
        return Pairs(pairs.index[here] - own[0], pairs.label[here], pairs.weight[here]), weight[here]

    # --- checks, state, and what is told

    def _targets(self) -> list[Any]:
        return [term.target for term in self.payoff_terms.values()] or [self.payoff_target]

    def _scorings_parts(self) -> list[Any]:
        return [part for scoring in self._scorings for part in (scoring.signal, *scoring.shapings)]

    def _check_needs(self) -> None:
        """Raise ValueError naming every part that reads what TRL does not have."""
        offered = {"old", "entropy"} | ({"ref"} if self.beta else set())
        named: dict[str, Any] = {f"term {name!r}": list(term[:3]) for name, term in self.payoff_terms.items()}
        named |= {"target": [self.payoff_target], "shapings": self.payoff_shapings}
        faults = [f"{place} needs {sorted(lacking)}" for place, parts in named.items() if (lacking := needs(parts) - offered)]
        if faults:
            hint = '; set beta > 0 and TRL loads a reference for "ref"' if any("'ref'" in fault for fault in faults) else ""
            raise ValueError(f"{'; '.join(faults)}, and GRPOTrainer offers {sorted(offered)}{hint}")

    def _check_cuts(self, names: Sequence[str]) -> None:
        """Raise ValueError where TRL would cut the groups that these terms compare."""
        local = self.args.per_device_train_batch_size
        if names and (self.args.steps_per_generation > 1 or local % self.num_generations):
            raise ValueError(
                f"term {names[0]!r} compares rollouts, and TRL shuffles a generation before it cuts it: set steps_per_generation=1 "
                f"and per_device_train_batch_size to a multiple of num_generations = {self.num_generations}"
            )

    def _describe(self, target: Channel | Pairs, whole: Trajectories, mode: str) -> None:
        """Log the share without verdict, and put our advantages into TRL's table of completions."""
        if isinstance(target, Pairs):
            return
        known = (target.valid & whole.mask).any(1)
        self._metrics[mode]["payoff/no_verdict"].append(float((~known).double().mean()))
        value, _ = at_start(target, whole)
        told = self._logs["advantages"]
        kept = list(told)[: -len(whole)] if len(told) >= len(whole) else []
        told.clear()
        told.extend([*kept, *value.tolist()])

    def _modules(self) -> list[nn.Module]:
        """Every part of ours with state, in a fixed order."""
        parts = [self._scorings_parts(), self.payoff_shapings, [list(term[:3]) for term in self.payoff_terms.values()]]
        return list(outermost_modules([*parts, self.payoff_target]))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = os.path.join(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        states = [module.state_dict() for module in self._modules()]
        if any(states) and self.args.should_save and os.path.isdir(folder):
            torch.save(states, os.path.join(folder, "payoff.pt"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        path = os.path.join(checkpoint or "", "payoff.pt")
        if checkpoint is not None and os.path.exists(path):
            states = torch.load(path, map_location="cpu", weights_only=True)
            modules = self._modules()
            if len(states) != len(modules):
                raise ValueError(f"{path}: holds the state of {len(states)} parts, this trainer has {len(modules)}")
            for module, state in zip(modules, states, strict=True):
                module.load_state_dict(state)


def __getattr__(name: str) -> Any:
    """`PayoffGRPOTrainer`, made when it is asked for: importing this module needs no TRL."""
    if name != "PayoffGRPOTrainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    trl = require("trl", "PayoffGRPOTrainer")
    made = type("PayoffGRPOTrainer", (PayoffMixin, trl.GRPOTrainer), {"__module__": __name__, "__doc__": PayoffMixin.__doc__})
    globals()[name] = made
    return made


def _add(rewards: Rewards, more: Rewards) -> None:
    if twice := sorted(set(rewards) & set(more)):
        raise ValueError(f"two reward functions give the channel {twice[0]!r}")
    rewards |= more
