"""verl's full door: its v1 trainers with advantages from a run file, which sees channels, verdicts, steps and whole groups.

verl's estimators get one number per token. Its trainer has more in its queue: what the reward says of every row, the text, the
log-probabilities. `trainer.v1.trainer_mode=payoff_sync` computes from these what verl's trainer `sync` computes from the number.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from payoff._extras import require
from payoff.config import ConfigError
from payoff.contents import inside, learners, needs, part_name, sees
from payoff.credit.returns import lambda_return, return_to_go
from payoff.integrations.hosted import HostedRun, signalled
from payoff.integrations.masked_batches import step_texts, turns_of
from payoff.integrations.token_batches import weights
from payoff.integrations.verl import from_verl
from payoff.integrations.verl_reward import section
from payoff.pipeline import checked_rewards
from payoff.trajectories import Channel, Rewards, Trajectories, outcome, place_outcome

COLUMNS = ("uid", "raw_prompt", "reward_model", "data_source", "extra_info")
TENSORS = ("response_mask", "rm_scores", "token_level_rewards", "values", "old_log_probs", "ref_log_prob", "rollout_log_probs")
FIELDS = ("prompts", "responses", *TENSORS, *COLUMNS, "extra_fields")  # those of them that there are


class Weighed(NamedTuple):
    """What verl's trainer is given back, and what it logs."""

    advantages: Float[Tensor, "N T"]
    returns: Float[Tensor, "N T"]
    metrics: dict[str, float]


class TermOfVerl:
    """A run file's term, over batches of verl's.

    run:       FILE.yaml or FILE.yaml#ARM: its `reward` (scored by verl's reward workers, but for what sees groups, which is scored
               here), `shaping` and the term's paths, mix and transforms. The loss is verl's to choose
    separator: text that closes a step; without it steps are the policy's turns
    gamma, lam: of the critic's returns, where there is a critic

    Channels are those that the reward workers write, `score` (their sum, as verl has it) and, with `use_kl_in_reward`, `kl`.
    Raises ConfigError for parts that learn or remember: verl's checkpoints would not hold what they know.
    """

    def __init__(
        self, run: str, *, term: str = "", separator: str | None = None, tokenizer: Any = None, gamma: float = 1.0, lam: float = 1.0
    ) -> None:
        self.run, self.separator, self.tokenizer = HostedRun(run), separator, tokenizer
        self.gamma, self.lam = gamma, lam
        self.target = self.run.target(term)
        self.whole = {name: signal for name, signal in self.run.signals.items() if sees(signal) != "item"}
        parts = [self.target, *self.run.shapings, *self.run.signals.values()]
        keeps = next(
            (x for part in parts for x in inside(part) if isinstance(x, nn.Module) and x.state_dict() and not list(x.children())),
            None,
        )
        if keeps is not None or learners(parts):
            name = part_name(keeps if keeps is not None else learners(parts)[0])
            raise ConfigError([f"{run}: {name} remembers or learns, and verl's checkpoints would not hold what it knows"])

    def __call__(self, data: Any, extras: Sequence[Mapping[str, Any]]) -> Weighed:
        """Weights of actions and returns for a `DataProto` and the `reward_extra_info` of its rows."""
        mask = data.batch["response_mask"].bool()
        traj = from_verl(data, tokenizer=self.tokenizer if self.whole else None, step=self._steps(data, mask))
        lost = sorted((needs([self.target, self.run.shapings]) | needs(self.whole)) - set(traj.logp) - set(traj.extras))
        if lost:
            raise ValueError(
                f"{self.run.path}: something reads {lost[0]!r}, which this verl run does not compute; it has {sorted(traj.logp)}"
            )
        known = torch.tensor([row.get("reward_valid", math.nan) for row in extras], device=traj.device)
        if bool(known.isnan().any()):
            raise ValueError("rows carry no reward_valid: set reward.reward_manager.name=payoff, or payoff's compute_score")
        rewards = channels_of(extras, traj)
        score = torch.where(traj.exists, data.batch["rm_scores"].float(), 0)
        rewards["score"] = Channel(score.nan_to_num(0, 0, 0), (known > 0)[:, None].expand(traj.mask.shape))
        paid = rewards["score"]
        if "token_level_rewards" in data.batch.keys():  # noqa: SIM118
            kl = torch.where(traj.exists, data.batch["token_level_rewards"].float() - data.batch["rm_scores"].float(), 0)
            rewards["kl"] = Channel(kl.nan_to_num(0, 0, 0), torch.isfinite(kl))
            paid = Channel(paid.value + rewards["kl"].value, paid.valid)
        metrics = _told(rewards, traj)
        rewards |= signalled(self.whole, traj)
        for shaping in self.run.shapings:
            rewards = checked_rewards(part_name(shaping), shaping(rewards, traj), traj)
        advantage = cast(Channel, self.target(rewards, traj))
        share = (advantage.valid & traj.mask).sum() / traj.mask.sum().clamp(min=1)
        metrics["payoff/weighed"] = float(share)  # of the policy's tokens, those that have a weight
        return Weighed(weights(advantage, traj), self._returns(paid, traj), metrics)

    def _steps(self, data: Any, mask: Bool[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        step = turns_of(mask)
        if self.separator is None:
            return step
        if self.tokenizer is None:
            raise ValueError("a step separator needs the tokenizer")
        length = data.batch["attention_mask"][:, -mask.shape[1] :].sum(1).tolist()
        for i, n in enumerate(length):
            step[i, :n] = step_texts(data.batch["responses"][i, :n], mask[i, :n], self.tokenizer, self.separator)[0]
        return step

    def _returns(self, paid: Channel, traj: Trajectories) -> Float[Tensor, "N T"]:
        """What a critic learns: lambda-returns of the reward; where that is unknown its own value, which teaches it nothing."""
        if "values" not in traj.extras:
            return weights(return_to_go(paid, traj, discount=self.gamma, per="action"), traj)
        found = lambda_return(paid, traj, discount=self.gamma, trace=self.lam)
        value = traj.extras["values"][:, :-1]
        return torch.where(traj.mask, torch.where(found.valid, found.value, value), 0)


def channels_of(extras: Sequence[Mapping[str, Any]], traj: Trajectories) -> Rewards:
    """The channels that `extras_of` wrote: at the end of each row, or where `reward_payments` says."""
    names = dict.fromkeys(name.removesuffix("_valid") for row in extras for name in row if name.endswith("_valid"))
    names.pop("reward", None)
    payments = [json.loads(text) if (text := str(row.get("reward_payments", ""))) else {} for row in extras]
    rewards: Rewards = {}
    for name in names:
        value = torch.tensor([float(row.get(name, 0.0)) for row in extras], device=traj.device)
        known = torch.tensor([float(row.get(f"{name}_valid", 0.0)) > 0 for row in extras], device=traj.device)
        reasons = {int(id): str(row.get("reward_reason", "")) for id, row, k in zip(traj.id, extras, known, strict=True) if not k}
        channel = place_outcome(value, known, traj, reasons)
        dense, valid = channel.value.clone(), channel.valid.expand(traj.mask.shape).clone()
        for i, row in enumerate(payments):
            if name in row:
                dense[i], valid[i] = 0.0, True
                for position, number in row[name]:
                    dense[i, position], valid[i, position] = (0.0, False) if number is None else (number, True)
        rewards[name] = Channel(dense, valid, reasons)
    return rewards


def _told(rewards: Rewards, traj: Trajectories) -> dict[str, float]:
    """Of each channel: the mean over the rows that have a verdict, and the share of these."""
    told = {}
    for name, channel in rewards.items():
        value, valid = outcome(channel, traj)
        told[f"payoff/{name}/valid"] = float(valid.double().mean())
        if bool(valid.any()):
            told[f"payoff/{name}/mean"] = float(value[valid].double().mean())
    return told


# --- inside verl's trainer


@functools.cache
def trainer_class(base: type, mode: str) -> type:
    """verl's trainer of this mode, its advantages computed here; the name under which it is registered is "payoff_" + mode.

    The configuration's section says what: `+payoff.reward=FILE.yaml`, and `term`, `step_separator`. verl's own estimator still
    runs, for what else that step does (KL, rollout correction), and its result is replaced.
    """

    class PayoffTrainer(base):  # type: ignore[misc, valid-type]
        def __init__(self, config: Any) -> None:
            options = section(config)
            run = str(options.get("reward", ""))
            if not run.partition("#")[0].endswith((".yaml", ".yml")):
                raise ConfigError(
                    [f"trainer.v1.trainer_mode=payoff_{mode} needs +payoff.reward=FILE.yaml, found {run or 'nothing'!r}"]
                )
            self.term_of_verl = TermOfVerl(
                run,
                term=str(options.get("term", "")),
                separator=options.get("step_separator"),
                gamma=float(config.algorithm.gamma),
                lam=float(config.algorithm.lam),
            )
            config.trainer.v1.trainer_mode = mode  # verl asks for it by name elsewhere: which replay buffer, what is refilled
            super().__init__(config)

        def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
            batch = super()._compute_advantage(batch, metrics)
            queue = require("transfer_queue", "verl's v1 trainer")
            found = queue.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(FIELDS))
            self.term_of_verl.tokenizer = self.tokenizer
            weighed = over_sessions(self.term_of_verl, found, batch.keys, [bool(tag.get("is_padding")) for tag in batch.tags])
            metrics.update(weighed.metrics)
            return _put(queue, batch, weighed, found["response_mask"])

    PayoffTrainer.__name__ = PayoffTrainer.__qualname__ = f"Payoff{base.__name__}"
    return PayoffTrainer


def over_sessions(term: TermOfVerl, found: Any, keys: Sequence[str], padding: Sequence[bool]) -> Weighed:
    """The weights for what lies in verl's queue under these keys, UID_SESSION_OUTPUT.

    A session of several outputs is one rollout, which its last output stands for in every comparison, as in verl; the others get
    its weight at its first action. Rows that verl has added for padding take no part and get 0.
    """
    data, extras = batch_of(found)
    last: dict[str, tuple[int, int]] = {}
    for row, (key, padded) in enumerate(zip(keys, padding, strict=True)):
        session, _, output = key.rpartition("_")
        if not padded and int(output) >= last.get(session, (-1, 0))[0]:
            last[session] = (int(output), row)
    rows = [row for _, row in last.values()]
    weighed = term(data.select_idxs(np.array(rows)), [extras[row] for row in rows])
    stands = {row: place for place, row in enumerate(rows)}
    mask = data.batch["response_mask"].bool()
    first = data.batch["response_mask"][rows].int().argmax(1)
    whole = []
    for numbers in (weighed.advantages, weighed.returns):
        one = numbers.gather(1, first[:, None])
        full = torch.zeros(mask.shape, dtype=numbers.dtype, device=numbers.device)
        for row, (key, padded) in enumerate(zip(keys, padding, strict=True)):
            if row in stands:
                full[row] = numbers[stands[row]]
            elif not padded:
                full[row] = torch.where(mask[row], one[stands[last[key.rpartition("_")[0]][1]]], 0)
        whole.append(full)
    return Weighed(whole[0], whole[1], weighed.metrics)


def batch_of(found: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A `DataProto` and the `reward_extra_info` of every row, from what verl's queue gives: nested tensors and columns."""
    proto = require("verl", "a batch of verl's").DataProto
    there = set(found.keys())
    responses, counts = _padded(found["responses"])
    prompts, prompt_counts = _padded(found["prompts"])
    position = torch.arange(responses.shape[1])
    behind = torch.arange(prompts.shape[1])
    mask = torch.cat([behind < prompt_counts[:, None], position < counts[:, None]], 1)
    tensors = {"prompts": prompts, "responses": responses, "attention_mask": mask.long()}
    tensors |= {name: _padded(found[name], responses.shape[1])[0] for name in TENSORS if name in there}
    columns = {name: list(found[name]) for name in COLUMNS if name in there}
    fields = list(found["extra_fields"]) if "extra_fields" in there else [{}] * len(responses)
    extras = [dict(field.get("reward_extra_info") or {}) if isinstance(field, Mapping) else {} for field in fields]
    return proto.from_dict(tensors, {name: _objects(column) for name, column in columns.items()}), extras


def _padded(tensor: Tensor, width: int | None = None) -> tuple[Tensor, Int[Tensor, " N"]]:
    """(rows padded with 0 on the right, their lengths) of a nested tensor, or of one that is padded already."""
    if not tensor.is_nested:
        return tensor, torch.full((len(tensor),), tensor.shape[1])
    rows = list(tensor.unbind())
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    missing = 0 if width is None else width - padded.shape[1]
    return torch.nn.functional.pad(padded, (0, missing)), torch.tensor([len(row) for row in rows])


def _objects(values: Sequence[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        column[i] = value
    return column


def _put(queue: Any, batch: Any, weighed: Weighed, mask: Tensor) -> Any:
    from tensordict import TensorDict

    counts = _padded(mask)[1].tolist()
    nested = lambda numbers: torch.nested.as_nested_tensor(
        [row[:n] for row, n in zip(numbers, counts, strict=True)], layout=torch.jagged
    )
    output = {"advantages": nested(weighed.advantages), "returns": nested(weighed.returns)}
    return queue.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(output, batch_size=len(counts)))
