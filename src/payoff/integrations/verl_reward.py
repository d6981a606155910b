"""verl's reward side: a `compute_score` and a reward manager that give what payoff gives, and say where there is no verdict.

verl takes one number and a dict of more numbers, whose keys must be the same for every row of a batch. So a missing verdict is the
number `invalid`, with `reward_valid` 0 beside it, and every channel has two keys: its name and NAME_valid.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import torch

from payoff._extras import require
from payoff.integrations.hosted import Graded, RowReward, pairs_of, row_reward, text_row
from payoff.integrations.masked_batches import step_texts
from payoff.rewards import RewardError
from payoff.trajectories import StopReason, Trajectories

OWN_KEYS = ("score", "reward_valid", "reward_reason", "reward_payments")


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward: str = "",
    weights: Mapping[str, float | int] | None = None,
    term: str = "",
    invalid: float = 0.0,
    step_separator: str | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
) -> dict[str, Any]:
    """verl's custom reward function: `path=pkg://payoff.integrations.verl_reward`, the options as its `reward_kwargs`.

    reward:  a reward by name, or FILE.yaml or FILE.yaml#ARM (default: the environment's PAYOFF_REWARD)
    weights, term: as `RowReward` takes them
    invalid: the number of a row without verdict. verl's own estimators would make every advantage of the group not-a-number
             out of .nan; the estimators named payoff/... want it, and give such a row no weight. The payoff trainers read
             `reward_valid` and need neither.
    step_separator: text that closes a step of the response, for graders of `steps`; None: it is one step, unless `extra_info` has
             `steps` that the response consists of
    reward_router_address, reward_model_tokenizer: what verl hands over where it serves a reward model; not used

    The rows that graders see have the fields of `extra_info`, `response`, `reference` (the ground truth) and `data_source`.
    Raises RewardError or ConfigError for a reward that cannot be had, at the first row.

    >>> found = compute_score("sums", "2", "2", {"index": 0}, reward="answer-match")
    >>> found["score"], found["reward_valid"], found["answer-match"], found["answer-match_valid"]
    (1.0, 1.0, 1.0, 1.0)
    """
    row = text_row(solution_str, ground_truth, {**(extra_info or {}), "data_source": data_source}, separator=step_separator)
    return extras_of(checked_reward(reward, weights, term)([row])[0], invalid=invalid)


def checked_reward(reward: str, weights: Mapping[str, float | int] | None, term: str) -> RowReward:
    """`row_reward`, or RewardError where verl's dict needs the name of one of its channels for something else."""
    made = row_reward(reward, pairs_of(weights), term)
    lost = sorted({*made.channels} & {*OWN_KEYS, *(f"{name}_valid" for name in made.channels)})
    if lost:
        raise RewardError(f"reward {made.name!r}: verl's dict needs the key {lost[0]!r}; give the channel another name")
    return made


def extras_of(graded: Graded, *, invalid: float = 0.0, tokens: bool = False) -> dict[str, Any]:
    """What verl keeps of a row: numbers under keys that do not depend on the row, and two texts.

    `reward_reason` says why there is no verdict; `reward_payments` is JSON (verl makes arrays of its columns, and lists of several
    lengths are none): channel -> [[token, number or null], ...] for channels that pay before the end, empty without such.
    tokens: whether positions are tokens; where only the text is known they are steps, and mean nothing to verl.
    """
    columns: dict[str, Any] = {
        "score": graded.reward if graded.valid else float(invalid),
        "reward_valid": float(graded.valid),
        "reward_reason": graded.reason,
        "reward_payments": json.dumps(graded.payments) if graded.payments and tokens else "",
    }
    for name, (value, known) in graded.channels.items():
        columns |= {name: value if known else 0.0, f"{name}_valid": float(known)}
    return columns


def row_of(
    ids: torch.Tensor, mask: torch.Tensor, fields: Mapping[str, Any], tokenizer: Any, *, separator: str | None = None
) -> Trajectories:
    """One response of verl's as a trajectory of its tokens: text, reference, prompt, and the texts of its steps in its item.

    ids, mask: the tokens that exist and which of them the policy wrote; fields: the row's non-tensor columns
    separator: text that closes a step; a step also ends where the policy's turn does
    """
    model = fields.get("reward_model")
    extra = fields.get("extra_info")
    step, texts = step_texts(ids, mask.bool(), tokenizer, separator)
    item = {
        **(dict(extra) if isinstance(extra, Mapping) else {}),
        **{name: value for name, value in fields.items() if name not in ("extra_info", "reward_model", "raw_prompt")},
        "prompt": fields.get("raw_prompt", ""),
        "reference": model.get("ground_truth") if isinstance(model, Mapping) else None,
        "response": tokenizer.decode(ids.tolist(), skip_special_tokens=True),
        "steps": texts,
    }
    one = torch.ones(1, dtype=torch.int64)
    return Trajectories(
        mask=mask.bool()[None],
        length=one * len(ids),
        group=one,
        step=step[None],
        stop=one * int(StopReason.finished),
        actions=ids[None].long(),
        items=[item],
    )


@functools.cache
def reward_manager() -> type:
    """The class that verl knows as the reward manager "payoff".

    It reads the configuration's own section: `+payoff.reward=` a name or a run file, and `weights`, `term`, `invalid`,
    `step_separator` as `compute_score` and `row_of` take them. Graders see every column of the data set, the prompt and the steps
    (not which tokens are the policy's: verl does not tell its reward workers); a custom reward function is not called.
    """
    base = require("verl.experimental.reward_loop.reward_manager.base", "a reward manager for verl").RewardManagerBase

    class PayoffRewardManager(base):  # type: ignore[misc, valid-type]
        """Rewards of payoff, one row at a time."""

        def __init__(
            self,
            config: Any,
            tokenizer: Any,
            compute_score: Any,
            reward_router_address: Any = None,
            reward_model_tokenizer: Any = None,
        ) -> None:
            super().__init__(config, tokenizer, compute_score)
            options = section(config)
            self.invalid = float(options.get("invalid", 0.0))
            self.separator = options.get("step_separator")
            self.reward = checked_reward(str(options.get("reward", "")), options.get("weights"), str(options.get("term", "")))

        async def run_single(self, data: Any) -> dict[str, Any]:
            item = data[-1:][0]  # of several sequences the last, as verl's own managers do
            graded = await self.loop.run_in_executor(None, self._graded, item)
            columns = extras_of(graded, invalid=self.invalid, tokens=True)
            return {"reward_score": columns["score"], "reward_extra_info": columns}

        def _graded(self, item: Any) -> Graded:
            ids = item.batch["responses"]
            there = item.batch["attention_mask"][-len(ids) :].bool()
            count = max(int(there.sum()), 1)
            traj = row_of(ids[:count], there[:count], item.non_tensor_batch, self.tokenizer, separator=self.separator)
            return self.reward.of(traj)[0]

    return PayoffRewardManager


def section(config: Any) -> dict[str, Any]:
    """The configuration's section `payoff` as plain values; ValueError for a key that means nothing."""
    found = config.get("payoff") if hasattr(config, "get") else None
    if found is None:
        return {}
    omegaconf = None if isinstance(found, dict) else require("omegaconf", "verl's configuration").OmegaConf
    plain = found if omegaconf is None else omegaconf.to_container(found, resolve=True)
    known = ("reward", "weights", "term", "invalid", "step_separator")
    odd = sorted(set(plain) - set(known))
    if odd:
        raise ValueError(f"payoff.{odd[0]}: no such option; there are {', '.join(known)}")
    return {name: value for name, value in plain.items() if value is not None}
