"""TRL: any reward of payoff as one of a trainer's `reward_funcs`, with its channels, its reasons and its view of whole groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from payoff.contents import learners, needs, part_name, sees
from payoff.integrations.trl_rollouts import Call, StepText, cut, gathered, joined, rollouts
from payoff.pipeline import Shaping, Signal, checked_rewards, weighted_sum
from payoff.rewards import as_signal, resolve_reward
from payoff.trajectories import Rewards, Trajectories, constant, outcome

TRAINER = ("trainer_state", "log_extra", "log_metric", "environments")  # what TRL hands over besides the columns


def reward_function(
    reward: Signal | Callable[..., Any] | str | Path,
    *shapings: Shaping,
    name: str = "",
    weights: Mapping[str, float] | None = None,
    arm: str = "",
    fields: Mapping[str, str] | None = None,
    separator: str | None = None,
    tokenizer: Any = None,
    num_generations: int | None = None,
) -> RewardFunction:
    """A reward as one function for `GRPOTrainer(reward_funcs=...)`: the sum of its channels, None where one has no verdict.

    reward:          a signal, a grader, the name of one, or a run file, whose reward and shaping (of `arm`) are taken
    shapings:        applied in turn to what the signal says
    name:            what TRL logs it as; default: the reward's own name
    weights:         of the channels in the number TRL is paid; default: 1 for every channel there is
    fields:          the data set's column for a field of ours, {"reference": "solution"}; all other columns keep their names
    separator:       the text that closes a step. With `tokenizer` steps lie on tokens; without one a step is one action
    num_generations: as in the trainer's options, where one prompt may stand in a batch twice; else equal prompts are one group

    Every channel is logged as payoff/NAME, the share without verdict as payoff/NAME/no_verdict, and both per completion where TRL
    logs completions. A reward that compares rollouts gets whole groups: where they are spread over processes, all processes
    fetch one another's completions, and each scores the groups it has a part of.
    `payoff.integrations.trl_trainer` gives tokenizer, separator, group size and tool text by itself.

    Raises ValueError for a reward that reads log-probabilities, which TRL does not hand over, and LookupError or ValueError for a
    name that leads nowhere.

    >>> function = reward_function("answer-match", fields={"reference": "solution"})
    >>> function.__name__, function(prompts=["1+1="] * 2, completions=["2", "3"], solution=["2", "2"])
    ('answer-match', [1.0, 0.0])
    """
    return RewardFunction(_scoring(reward, shapings, arm, fields, separator, tokenizer, num_generations), name, weights)


def reward_functions(
    reward: Signal | Callable[..., Any] | str | Path, *shapings: Shaping, channels: Sequence[str], **options: Any
) -> list[RewardFunction]:
    """One function for each channel, so that TRL logs and weighs them apart; a batch is scored once for all of them.

    The options are those of `reward_function`, but for name and weights.

    >>> def both(response): return {"short": float(len(response) < 3), "digit": float(response.isdigit())}
    >>> short, digit = reward_functions(both, channels=["short", "digit"])
    >>> digit.__name__, digit(prompts=["?"] * 2, completions=["12", "abc"])
    ('digit', [1.0, 0.0])
    """
    scoring = reward_function(reward, *shapings, **options).scoring
    return [RewardFunction(scoring, channel, {channel: 1.0}) for channel in channels]


class RewardFunction:
    """What `reward_function` gives. Copies and pickles carry the reward and its options, not what was scored last."""

    def __init__(self, scoring: Scoring, name: str = "", weights: Mapping[str, float] | None = None) -> None:
        self.scoring, self.weights = scoring, None if weights is None else dict(weights)
        self.__name__ = name or scoring.name

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """A number for each completion; raises KeyError for a weight of a channel that nobody gives."""
        trainer = {key: columns.pop(key, None) for key in TRAINER}
        scored, fresh = self.scoring.scored(Call(prompts, completions, completion_ids, columns))
        if fresh:
            _log(scored, trainer["log_metric"], trainer["log_extra"])
        weights = self.weights if self.weights is not None else dict.fromkeys(scored.rewards, 1.0)
        if lost := [channel for channel in weights if channel not in scored.rewards]:
            raise KeyError(f"{self.__name__}: no reward channel {lost[0]!r}; there are {sorted(scored.rewards)}")
        paid = {channel: constant(*outcome(scored.rewards[channel], scored.traj)) for channel in weights}
        total = weighted_sum(paid, weights)
        return [x if known else None for x, known in zip(total.value[:, 0].tolist(), total.valid[:, 0].tolist(), strict=True)]


class Known(NamedTuple):
    """What a trainer of ours tells every reward function before it is called."""

    steps: StepText | None
    num_generations: int | None
    ends: Sequence[int] | None
    multiple: int
    prompt_ids: Sequence[Sequence[int]] | None
    acted: Sequence[Sequence[int]] | None
    learn: bool


class Scored(NamedTuple):
    """This process' completions, what the signal said of them, and what shaping made of it."""

    call: Call
    traj: Trajectories
    raw: Rewards
    rewards: Rewards


class Scoring:
    """A signal and its shapings on what TRL hands over: once for every batch, however many functions ask."""

    def __init__(
        self,
        signal: Signal,
        shapings: Sequence[Shaping],
        *,
        name: str,
        fields: Mapping[str, str],
        separator: str | None,
        steps: StepText | None,
        num_generations: int | None,
    ) -> None:
        self.signal, self.shapings, self.name, self.fields = signal, list(shapings), name, dict(fields)
        self.separator, self.steps, self.num_generations = separator, steps, num_generations
        self.known: Known | None = None
        self.last: Scored | None = None

    def scored(self, call: Call) -> tuple[Scored, bool]:
        """What was scored, and whether it was just now. Raises ValueError for a part that learns where no trainer of ours is."""
        if self.last is not None and _same(self.last.call, call):
            return self.last, False
        asked = call
        known = self.known or Known(None, None, None, 1, None, None, False)
        learning = [part for part in learners([self.signal, *self.shapings]) if part.training]
        if learning and self.known is None:
            raise ValueError(
                f"{part_name(learning[0])} learns from the batches that are trained on, which a reward function alone does not "
                "see: use PayoffGRPOTrainer of payoff.integrations.trl_trainer, or put it into evaluation mode"
            )
        call = call._replace(prompt_ids=known.prompt_ids, acted=known.acted)
        calls, mine = [call], 0
        wide = "batch" if learning else sees([self.signal, *self.shapings])  # what learns must be the same in all processes
        if wide != "item":
            calls, mine = gathered(call)
        first = sum(len(c.completions) for c in calls[:mine])
        whole = rollouts(
            joined(calls),
            fields=self.fields,
            separator=self.separator,
            steps=self.steps or known.steps,
            num_generations=self.num_generations or known.num_generations,
            ends=known.ends,
            multiple=known.multiple,
        )
        own = torch.arange(first, first + len(call.completions))
        if len(calls) > 1:  # groups this process has a part of, whole; or everything
            rows = torch.isin(whole.group, whole.group[own]).nonzero()[:, 0] if wide == "group" else torch.arange(len(whole))
            whole, own = whole.select(rows), torch.searchsorted(rows, own)
        raw, rewards = self._rewards(whole, known.learn)
        if len(calls) > 1:
            raw, rewards = cut(raw, own, whole), cut(rewards, own, whole)
            whole = whole.select(own)
        self.last = Scored(asked, whole, raw, rewards)
        return self.last, True

    def _rewards(self, traj: Trajectories, learn: bool) -> tuple[Rewards, Rewards]:
        raw = checked_rewards(part_name(self.signal), self.signal(traj), traj)
        parts = learners([self.signal, *self.shapings])
        if first := [part for part in parts if learn and part.training and getattr(part, "learns_first", False)]:
            for part in first:
                part.learn(traj, raw)
            raw = checked_rewards(part_name(self.signal), self.signal(traj), traj)
        rewards = raw
        for shaping in self.shapings:
            rewards = checked_rewards(part_name(shaping), shaping(rewards, traj), traj)
        return raw, rewards

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "known": None, "last": None}


def _scoring(
    reward: Signal | Callable[..., Any] | str | Path,
    shapings: Sequence[Shaping],
    arm: str,
    fields: Mapping[str, str] | None,
    separator: str | None,
    tokenizer: Any,
    num_generations: int | None,
) -> Scoring:
    if isinstance(reward, Path) or (isinstance(reward, str) and reward.endswith((".yaml", ".yml"))):
        signal, before = _of_run_file(Path(reward), arm)
        shapings, name = [*before, *shapings], Path(reward).stem
    elif isinstance(reward, str):
        signal, name = resolve_reward(reward), reward
    else:
        signal, name = as_signal(reward, part_name(reward)), part_name(reward)
    if lacking := needs([signal, *shapings]):
        raise ValueError(
            f"{name} needs {sorted(lacking)}, which TRL hands to no reward function; give what reads it to PayoffGRPOTrainer, "
            "in shapings"
        )
    steps = None if tokenizer is None else StepText(tokenizer, separator)
    return Scoring(
        signal, shapings, name=name, fields=fields or {}, separator=separator, steps=steps, num_generations=num_generations
    )


def _same(one: Call, other: Call) -> bool:
    """Whether two functions were called with the very same lists."""
    if one.completions is not other.completions or one.prompts is not other.prompts or one.columns.keys() != other.columns.keys():
        return False
    return all(values is other.columns[key] for key, values in one.columns.items())


def _of_run_file(path: Path, arm: str) -> tuple[Signal, list[Shaping]]:
    from payoff.build import build
    from payoff.config import load_run

    loaded = load_run(path)
    parts, _ = build(loaded, arm or ("" if loaded.run.terms else next(iter(loaded.run.arms), "")))
    return parts.signal, list(parts.shapings)


def _log(scored: Scored, metric: Callable[..., None] | None, extra: Callable[..., None] | None) -> None:
    """Every channel's mean and share without verdict, and per completion its number and why it has none."""
    for name, channel in sorted(scored.rewards.items()):
        value, valid = outcome(channel, scored.traj)
        if metric is not None:
            if valid.any():
                metric(f"payoff/{name}", float(value[valid].double().mean()))
            metric(f"payoff/{name}/no_verdict", float((~valid).double().mean()))
        if extra is not None:
            known = valid.tolist()
            extra(f"payoff/{name}", [x if ok else None for x, ok in zip(value.tolist(), known, strict=True)])
            ids = scored.traj.id.tolist()
            why = [None if ok else channel.reasons.get(id, "no verdict") for id, ok in zip(ids, known, strict=True)]
            if any(why):
                extra(f"payoff/{name}/why", why)
