"""What each remedy would make of rewards that were already given: the registered function, set up by what the rows show.

A remedy is tried in one of three ways: as another reward for the same rows (`Change`), as fewer prompts (`Choice`), or by a
measurement of its own (`Direct`). Where the rows cannot say what it would do, there is a sentence instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from payoff.audit.attempts import references_of, text_of
from payoff.audit.case import Case
from payoff.audit.discrimination import right_answers
from payoff.audit.estimators import Used, used
from payoff.audit.measurement import Measurement
from payoff.audit.noise import corrected
from payoff.audit.optimisation import capped_over_optimisation
from payoff.audit.replay import Changed, NotHeard, Paid
from payoff.catalogue import find
from payoff.rows import from_rows, group_key
from payoff.trajectories import Channel, Trajectories, outcome, place_outcome


class Change(NamedTuple):
    """Another reward for the same rows. setting: the options it has here."""

    setting: str
    of: Changed


class Choice(NamedTuple):
    """Fewer prompts: those that the first half of their answers speaks for, so that the others can be measured. keep: by row."""

    setting: str
    keep: Bool[Tensor, " M"]
    measured: Bool[Tensor, " M"]


class Direct(NamedTuple):
    """A way of its own to measure what would be left."""

    setting: str
    of: Callable[[Case], list[Measurement]]


Trial = Change | Choice | Direct | str


def _used(case: Case) -> Used:
    return used(case.value, case.valid, case.prompt, case.gold_value, case.gold_valid)


def _name(row: Mapping[str, Any]) -> Hashable:
    return group_key(row)


def _by_prompt(case: Case) -> dict[Hashable, Float64[Tensor, " K"]]:
    """The rewards that the answers to each prompt got, by what names the prompt in a row."""
    known = case.valid.nonzero().squeeze(1)
    order = case.prompt[known].argsort(stable=True)
    places = known[order].split(torch.bincount(case.prompt[known])[case.prompt[known].unique()].tolist())
    return {_name(case.responses[int(place[0])]): case.value[place] for place in places}


# --- bounds and shapes


def _clamp(case: Case) -> Trial:
    u = _used(case)
    right = right_answers(u) if case.gold_value is not None else torch.zeros_like(u.row, dtype=torch.bool)
    known = bool(right.any())
    high = float(u.score[right].median() if known else u.score.quantile(0.9) if len(u.score) < 1 << 24 else u.score.max())
    whose = "the median reward of the best answers by gold" if known else "what nine rewards of ten stay below"
    return Change(f"high = {high:.3g}, {whose}", lambda traj, paid: find("clamp")(paid(), traj, high=high, unit="outcome"))


def _against_others(name: str, **options: float) -> Callable[[Case], Trial]:
    """A shape of the reward against those of other answers to the prompt."""

    def make(case: Case) -> Trial:
        others = {key: rewards[:10].tolist() for key, rewards in _by_prompt(case).items()}
        chosen = dict(options)
        if "sharpness" in chosen:
            chosen["sharpness"] = 1 / _used(case).deviation if _used(case).deviation > 0 else 1.0

        def of(traj: Trajectories, paid: Paid) -> Channel:
            channel = paid()
            items = [{**item, "reference_rewards": others.get(_name(item), [])} for item in traj.items]
            if any(not item["reference_rewards"] for item in items):
                raise NotHeard("it needs other answers to every prompt")
            return find(name, "shaping")(channel, traj.replace(items=items), **chosen)

        told = "".join(f"{option} = {value:.3g}, " for option, value in chosen.items())
        return Change(f"{told}references: ten answers to the prompt in these rows", of)

    return make


def _of_steps(name: str, kind: str) -> Callable[[Case], Trial]:
    def of(traj: Trajectories, paid: Paid) -> Channel:
        channel = paid()
        value, _ = outcome(channel, traj)
        last = channel.value.gather(1, traj.length[:, None].long() - 1)[:, 0]
        if bool((value == last).all()):
            raise NotHeard("it works on rewards of steps, and this reward pays at the end alone")
        return find(name, kind)(channel, traj)

    return lambda case: Change("as it stands", of)


def _standardised(name: str) -> Callable[[Case], Trial]:
    """One fitted scale for every source."""

    def make(case: Case) -> Trial:
        source, names = case.source
        scales = {}
        for k, called in enumerate(names):
            seen = case.value[case.valid & (source == k)]
            scales[called] = find(name, "shaping")()
            scales[called](
                Channel(seen[:, None], torch.ones(len(seen), 1, dtype=torch.bool)), from_rows([{"response": ""}] * len(seen))
            )
            scales[called].eval()

        def of(traj: Trajectories, paid: Paid) -> Channel:
            channel = paid()
            value, valid = outcome(channel, traj)
            for called, scale in scales.items():
                here = torch.tensor([str(item.get("source") or "(none)") == called for item in traj.items], dtype=torch.bool)
                value = torch.where(here, outcome(scale(channel, traj), traj)[0], value)
            return place_outcome(value, valid, traj)

        return Change("one scale for every source" if len(names) > 1 else "one scale for all", of)

    return make


def _in_groups(case: Case) -> Trial:
    scale = {key: (float(x.mean()), float(x.std(correction=0))) for key, x in _by_prompt(case).items()}

    def of(traj: Trajectories, paid: Paid) -> Channel:
        value, valid = outcome(paid(), traj)
        known = [scale.get(_name(item)) for item in traj.items]
        if any(pair is None for pair in known):
            raise NotHeard("it needs other answers to every prompt")
        mean, sd = torch.tensor(known, dtype=torch.float64).T
        return place_outcome(torch.where(sd > 0, (value - mean) / sd.clamp(min=1e-12), 0.0), valid, traj)

    return Change("groups: the answers to a prompt in these rows", of)


# --- gates and other graders


def _graded(name: str, traj: Trajectories) -> Channel:
    """What a registered grader says of responses; no verdict without a reference."""
    grader = find(name, "grader")
    said = [(text_of(item.get("response")), next(iter(references_of(item)), None)) for item in traj.items]
    known = torch.tensor([reference is not None for _, reference in said], dtype=torch.bool)
    value = [float(grader(response, reference)) if reference is not None else 0.0 for response, reference in said]
    return place_outcome(torch.tensor(value, dtype=torch.float64), known, traj)


def _with_references(case: Case, change: Change) -> Trial:
    few = (case.responses[k] for k in range(min(100, len(case.responses))))
    return change if any(references_of(row) for row in few) else "it compares with a reference, and the rows have none"


def _grader(name: str) -> Callable[[Case], Trial]:
    return lambda case: _with_references(case, Change("in place of the reward", lambda traj, paid: _graded(name, traj)))


def _gate(case: Case) -> Trial:
    def of(traj: Trajectories, paid: Paid) -> Channel:
        return find("g-ra")({"reward": paid(), "correct": _graded("answer-match", traj)}, traj)["reward"]

    return _with_references(case, Change("by answer-match; a closed gate pays 0", of))


# --- length


def _characters(traj: Trajectories) -> Float64[Tensor, " N"]:
    return torch.tensor([float(len(text_of(item.get("response")))) for item in traj.items], dtype=torch.float64)


def _length(case: Case) -> Trial:
    u = _used(case)
    length = case.length[u.row]
    x, y, gold = (v - u.mean(v)[u.prompt] for v in (length, u.score, u.gold))
    if case.gold_value is not None and float(gold.square().sum()) > 0:
        x, y = (v - gold * (v @ gold) / (gold @ gold) for v in (x, y))
    rate = float(x @ y / (x @ x)) if float(x.square().sum()) > 0 else 0.0
    if rate <= 0:
        return "longer answers to a prompt are not paid more in these rows, so that there is no rate to charge"

    def of(traj: Trajectories, paid: Paid) -> Channel:
        value, valid = outcome(paid(), traj)
        return place_outcome(value - rate * _characters(traj), valid, traj)

    return Change(f"rate = {rate:.3g} a character, what the reward pays for one beyond gold", of)


def _overlong(case: Case) -> Trial:
    u = _used(case)
    if not len(u.row):
        return "no row has a verdict"
    right = right_answers(u) if case.gold_value is not None else torch.ones_like(u.row, dtype=torch.bool)
    limit = float(case.length[u.row][right].max()) if bool(right.any()) else float(case.length.max())
    penalty = float(u.score.max() - u.score.min())

    def of(traj: Trajectories, paid: Paid) -> Channel:
        value, valid = outcome(paid(), traj)
        beyond = (_characters(traj) - limit) / max(1.0, 0.25 * limit)
        return place_outcome(value - penalty * beyond.clamp(0, 1), valid, traj)

    return Change(f"from {limit:g} characters, the longest good answer, to a quarter more; penalty {penalty:.3g}", of)


# --- several rewards


def _mixed(case: Case) -> Trial:
    if case.score.members:
        return "the reward is the mean of its channels already"
    if not case.members:
        return "there is only one reward here; --member names others"
    every = [(case.value, case.valid), *((s.value, s.valid) for s in case.member_scores)]
    scales = [used(value, valid, case.prompt).deviation for value, valid in every]
    mean = torch.stack([value / sd for (value, _), sd in zip(every, scales, strict=True) if sd > 0]).mean(0)
    by_row = {(_name(row), text_of(row.get("response"))): k for k, row in enumerate(case.responses)}

    def of(traj: Trajectories, paid: Paid) -> Channel:
        places = [by_row.get((_name(item), text_of(item.get("response")))) for item in traj.items]
        if None in places:
            raise NotHeard("the other rewards were not asked for these responses")
        valid = torch.stack([valid for _, valid in every]).all(0)
        return place_outcome(mean[places], valid[places], traj)

    return Change(f"the mean of {len(every)} rewards on one scale", of)


# --- which prompts, and how far


def _halves(case: Case) -> tuple[Bool[Tensor, " M"], Bool[Tensor, " M"]]:
    """The answers of each prompt in two halves, as they come."""
    order = case.prompt.argsort(stable=True)
    sizes = torch.bincount(case.prompt)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[case.prompt[order]]
    first = place < sizes[case.prompt] // 2
    return first, ~first


def _passing(low: float, high: float, told: str) -> Callable[[Case], Trial]:
    """Prompts whose mean reward, of half of their answers, lies between two shares of the rewards' range; nan: any that varies."""

    def make(case: Case) -> Trial:
        first, second = _halves(case)
        u = used(case.value, case.valid & first, case.prompt)
        if not len(u.row):
            return "no prompt has two answers, to be chosen by one and measured by the other"
        start, end = float(u.score.min()), float(u.score.max())
        share = (u.mean(u.score) - start) / (end - start) if end > start else torch.zeros(u.prompts, dtype=torch.float64)
        flat = u.edge(u.score, "amax") == u.edge(u.score, "amin")
        good = ~flat if math.isnan(low) else (share >= low) & (share <= high)
        chosen = torch.zeros(int(case.prompt.max()) + 1, dtype=torch.bool)
        chosen[case.prompt[u.row]] = good[u.prompt]
        if not bool(chosen.any()):
            return "no prompt would be left"
        kept = f"{int(good.sum())} of {u.prompts} prompts are left"
        return Choice(f"{told}; {kept}, chosen by one half of their answers and measured by the other", chosen[case.prompt], second)

    return make


_IN_TRAINING = "it acts on what a policy learns, which shows only in training"

REMEDIES: Mapping[str, Callable[[Case], Trial]] = {
    "clamp": _clamp,
    "par": _against_others("par", sharpness=1.0),
    "par-centred": _against_others("par-centred"),
    "par-mean-std": _standardised("par-mean-std"),
    "par-min-max": _standardised("par-min-max"),
    "grpo": _in_groups,
    "pr-clip": _of_steps("pr-clip", "shaping"),
    "pr-delta": _of_steps("pr-delta", "shaping"),
    "pr-clip-delta": _of_steps("pr-clip-delta", "shaping"),
    "pure": _of_steps("pure", "credit"),
    "g-ra": _gate,
    "answer-match": _grader("answer-match"),
    "math-answer": _grader("math-answer"),
    "length-penalty": _length,
    "soft-overlong": _overlong,
    "mix": _mixed,
    "pass-rate": _passing(0.2, 0.8, "0.2 to 0.8 of the rewards' range"),
    "drop-equal-groups": _passing(math.nan, math.nan, "prompts whose answers are not all paid alike"),
    "kl-penalty": lambda case: Direct("the KL is held where gold begins to fall", lambda c: c.by_gold(capped_over_optimisation)),
    "noisy-rlvr-correction": lambda case: Direct(
        "by the rates of the other half of the prompts; what wrong and right answers are paid on average",
        lambda c: c.by_gold(corrected),
    ),
    "valid-only": lambda case: "it leaves rows without verdict out of training, and changes no number of those that have one",
    "entropy-bonus": lambda case: _IN_TRAINING,
    "potential-shaping": lambda case: _IN_TRAINING,
    "format": lambda case: "it pays for form, which has to be named before it can be tried",
}
