"""OpenRLHF: this file itself as `--reward.remote_url`, functions like it with options, and an agent that is one graded answer.

OpenRLHF takes numbers. What the function raises it logs, and then scores the sample with a reward model or fails; so a missing
verdict is the number `invalid` here, counted in the log as `reward_valid`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from payoff._extras import require
from payoff.integrations.hosted import Graded, RowReward, pairs_of, row_reward, text_row


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
    """OpenRLHF's reward function for the reward that the environment's PAYOFF_REWARD names, by name or as a run file.

    >>> import os
    >>> os.environ["PAYOFF_REWARD"] = "answer-match"
    >>> reward_func(["1+1=2"], ["1+1="], ["2"])["rewards"]
    tensor([1.])
    """
    return reward_function()(queries, prompts, labels, **kwargs)


def reward_function(
    reward: str = "",
    *,
    weights: Mapping[str, float | int] | None = None,
    term: str = "",
    invalid: float = 0.0,
    drop: Sequence[str] = (),
) -> Callable[..., dict[str, Any]]:
    """A `reward_func` for OpenRLHF: `from payoff.integrations.openrlhf import reward_function; reward_func = reward_function(...)`.

    reward, weights, term: as `RowReward` takes them
    invalid: what a row without verdict is given
    drop:    texts cut from the end of a response: OpenRLHF decodes special tokens too, such as "<|im_end|>"

    It gives `rewards`, `scores` (in 0..1, for dynamic filtering) and `extra_logs`: `reward_valid` and every channel, 0 where that
    has no verdict. Graders see `response` (the query behind the prompt), `prompt` and `reference` (the label).
    """

    def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
        del kwargs  # what other versions hand over besides
        made = row_reward(reward, pairs_of(weights), term)
        rows = [
            text_row(_without(query.removeprefix(prompt), drop), label, {"prompt": prompt})
            for query, prompt, label in zip(queries, prompts, labels, strict=True)
        ]
        return answer_of(made(rows), made, invalid)

    return reward_func


def answer_of(graded: Sequence[Graded], made: RowReward, invalid: float) -> dict[str, Any]:
    """The dict that OpenRLHF reads, with the same logs whatever happened to the rows."""
    number = lambda values: torch.tensor(list(values), dtype=torch.float)
    rewards = number(g.reward if g.valid else invalid for g in graded)
    logs = {"reward_valid": number(float(g.valid) for g in graded)}
    for name in made.channels:
        logs[name] = number(g.channels[name][0] if g.channels[name][1] else 0.0 for g in graded)
    return {"rewards": rewards, "scores": rewards.clamp(0, 1), "extra_logs": logs}


def agent_executor(
    reward: str = "",
    *,
    weights: Mapping[str, float | int] | None = None,
    term: str = "",
    invalid: float = 0.0,
    drop: Sequence[str] = (),
) -> type:
    """The class `AgentExecutor` that OpenRLHF looks for in `--train.agent_func_path`: one answer, graded, and the episode is over.

    To be used as it is, or as the last step of an agent of your own, whose `step` calls `reward_function(...)`.
    """
    base = require("openrlhf.utils.agent", "an agent for OpenRLHF")
    graded = reward_function(reward, weights=weights, term=term, invalid=invalid, drop=drop)

    class AgentInstance(base.AgentInstanceBase):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.prompt = ""

        async def reset(self, states: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
            self.prompt = states["observation"]
            return {"observation": self.prompt}

        async def step(self, state_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
            answer = graded([self.prompt + state_dict["action_text"]], [self.prompt], [state_dict["label"]])
            return {
                "rewards": answer["rewards"],
                "scores": answer["scores"],
                "environment_feedback": "",
                "done": True,
                "sampling_params": state_dict.get("sampling_params"),
                "extra_logs": answer["extra_logs"],
            }

    class AgentExecutor(base.MultiTurnAgentExecutor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(AgentInstance)

    return AgentExecutor


def _without(text: str, endings: Sequence[str]) -> str:
    cut = True
    while cut:
        cut = False
        for ending in endings:
            if ending and text.endswith(ending):
                text, cut = text.removesuffix(ending), True
    return text
