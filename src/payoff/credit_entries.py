"""What is compared in the tables of docs/credit.md: every registered credit, and every method that lays a reward upon actions.

The tables themselves are `payoff.credit_table`, where credits are compared `payoff.credit_places`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch

from payoff import credit_learned as learned
from payoff.advantages.group import leave_one_out
from payoff.catalogue import Method, find, index
from payoff.credit.returns import immediate, lambda_return, return_to_go, total
from payoff.credit_places import Place
from payoff.pipeline import Target, Transform, weigh
from payoff.trajectories import Channel, Rewards, Trajectories, prefix_gains

REWARDS = {
    "outcome": "the outcome alone, at the end",
    "right steps": "half a point for every right and needed step, when it is written",
    "gameable steps": "the same, and half a point for every filler",
}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"prm-gflownet": {"floor": 0.1}}  # of a registered credit, where defaults will not do
_OUTCOME, _STEPS = ("outcome",), ("right steps", "gameable steps")
NO_ROW: Mapping[str, str] = {
    "turn-entropy": "what the loss `epo` reads of the policy, and no weight of an action",
    "flow-grpo-agentflow": "an aggregation: it says how much each term counts; its credit is `total`",
    "b-coder": "a loss, whose actions weigh what its own estimate of Q says: no weight without the policy that is being trained",
    "sparse-po": "a loss on pairs, whose weights of tokens are learned with the policy",
    "slate": "a sampler: it draws steps from candidates, and what it does to the variance is in tests of the exact lab",
    "rlfr": "how far latents are from a flow, measured at noise that is drawn anew; here everything is enumerated",
    "completion-values": "continuations are drawn, and here everything is enumerated; on the chain, `pav` above",
    "rlpr": "the chance of a reference answer after the reasoning, paid at the end: an outcome, and the tree has no such answer",
    "likelihood-rewards": "as `rlpr`",
    "reward-gradient": "what a reference's tokens weigh where the reward is how likely they are; the tree has no such reward",
    "vppo": "a second view of what was asked, and the tree asks nothing",
    "fgaif": "a judge of pieces of text; what he would pay here is the reward of right steps",
    "fact-classifiers": "as `fgaif`, learned: `process-reward-model` above is that on the tree",
    "calm": "a judge of subgoals; what he would pay here, once each, is the reward of right steps",
}
_WITH_VALUES = ("lambda-return", "subpo", "fl-gfn")  # rows of their own, in `_special`


class Entry(NamedTuple):
    """One row: its name, the credit made for a place (a tree or the chain), what it costs, and for which rewards it means anything.

    make: gives the target for a `Place`; ValueError, KeyError or TypeError where it cannot
    """

    name: str
    make: Callable[[Place], Target]
    cost: str = ""
    rewards: Sequence[str] = tuple(REWARDS)


def entries() -> Iterator[Entry]:
    """Every registered credit on its usual path, then what shapings, models, signals and advantages make of steps."""
    for record in sorted((r for r in index().values() if r.kind == "credit"), key=lambda r: r.name):
        if record.name not in (*NO_ROW, *_WITH_VALUES):
            cost = "one call: " + ", ".join(sorted(record.needs)) if record.needs else ""
            name = f"{record.name}, return-to-go" if record.pays else record.name
            yield Entry(name, functools.partial(_registered, record), cost)
    yield from _special()
    yield from _judged()
    yield from _learned()


# --- paths


def _special() -> Iterator[Entry]:
    """What needs more than its name: values, provers, a model, two channels, or comes from another room."""
    shaped = {name: find(name, "shaping") for name in ("pr-clip", "pr-delta", "pr-clip-delta")}
    advantages = {r.name: find(r.name, "advantage") for r in index().values() if r.kind == "advantage"}
    critic = "one call: a critic, here perfect"

    def plain(name: str, *path: Transform, cost: str = "", rewards: Sequence[str] = tuple(REWARDS)) -> Entry:
        return Entry(name, functools.partial(_plain, path), cost, rewards)

    def ready(name: str, make: Callable[[Place], Sequence[Transform]], cost: str, rewards: Sequence[str] = tuple(REWARDS)) -> Entry:
        return Entry(name, lambda place: _plain(make(place), place), cost, rewards)

    def with_values(trace: float) -> Callable[[Place], Sequence[Transform]]:
        return lambda place: [_valued(functools.partial(lambda_return, trace=trace), place)]

    def gae(trace: float) -> Callable[[Place], Sequence[Transform]]:
        return lambda place: [*with_values(trace)(place), _valued(advantages["subtract-values"], place)]

    yield ready("lambda-return, trace 0.95", with_values(0.95), critic)
    yield ready("lambda-return, trace 0.95, subtract-values", gae(0.95), critic)
    yield ready("lambda-return, trace 0, subtract-values", gae(0.0), critic)
    yield plain("subpo", _summed_up, find("subpo", "credit"))
    forward = find("fl-gfn", "credit")
    yield ready("fl-gfn, return-to-go", lambda p: [_scored(forward, p), return_to_go], "values of prefixes, here perfect")
    yield ready("fl-gfn, immediate", lambda p: [_scored(forward, p), immediate], "values of prefixes, here perfect")
    for name, shaping in shaped.items():
        yield plain(f"{name}, return-to-go", shaping, return_to_go, rewards=_STEPS)
    yield Entry("g-ra, return-to-go", lambda place: _gated_target, "", _STEPS)
    for prover in ("uniform", "best of 4"):
        make = functools.partial(_progress, prover)
        yield ready(f"pav, prover {prover}, immediate", make, "values of a prover, here exact", _OUTCOME)
        mixed = functools.partial(_beside_return, make)
        yield Entry(f"pav, prover {prover}, 3 times beside the return-to-go", mixed, "values of a prover, here exact", _OUTCOME)
    for n, called in ((1, "one continuation"), (8, "eight continuations")):
        makes = functools.partial(_continued, n)
        yield ready(f"pav, {called} of the policy, immediate", makes, f"{n} rollouts per step", _OUTCOME)
    soft_min = find("pure", "credit")
    yield plain("total, rloo", total, leave_one_out)
    yield plain("return-to-go, turn-rloo", return_to_go, advantages["turn-rloo"])
    yield plain("return-to-go, turn-grpo", return_to_go, advantages["turn-grpo"])
    yield plain("immediate, turn-rloo", immediate, advantages["turn-rloo"])
    yield plain("pure, token-rate-baseline, return-to-go", soft_min, advantages["token-rate-baseline"], return_to_go)
    yield plain("step-rate-baseline, return-to-go", advantages["step-rate-baseline"], return_to_go)
    yield plain("prime-rloo, return-to-go", advantages["prime-rloo"], return_to_go)
    yield plain(
        "pr-clip-delta, return-to-go, turn-rloo", shaped["pr-clip-delta"], return_to_go, advantages["turn-rloo"], rewards=_STEPS
    )


def _judged() -> Iterator[Entry]:
    """What sets judgements of steps against the outcome."""
    rloo = [total, leave_one_out]

    def entry(
        name: str, target: Callable[[Place, Rewards, Trajectories], Channel], cost: str = "", rewards: Sequence[str] = _STEPS
    ) -> Entry:
        return Entry(name, lambda place: functools.partial(target, place), cost, rewards)

    def consistent(place: Place, rewards: Rewards, traj: Trajectories) -> Channel:
        half = int(traj.group.unique(return_counts=True)[1].max()) // 2
        rows = find("prof", "selection")({**rewards, "process": rewards["reward"]}, traj, keep=half)
        kept = traj.select(rows)
        paid = rewards["correct"]
        credit = _along(rloo, Channel(paid.value[rows], paid.valid[rows]), kept)
        value = credit.value.new_zeros(len(traj), credit.value.shape[1])
        value[rows] = credit.value * 2  # a mean over half of them
        return Channel(value, torch.ones_like(value, dtype=torch.bool))

    def renormed(place: Place, rewards: Rewards, traj: Trajectories) -> Channel:
        scores = Channel(2 * rewards["reward"].value, rewards["reward"].valid)
        made = find("ppr-renorm", "shaping")({**rewards, "process": scores}, traj)
        return return_to_go(made["renorm"], traj)

    def thoughts(place: Place, rewards: Rewards, traj: Trajectories) -> Channel:
        labelled = {**rewards, "labels": place.blamed(rewards["reward"], traj)}
        return return_to_go(find("tp-grpo", "shaping")(labelled, traj)["thoughts"], traj)

    def voted(place: Place, rewards: Rewards, traj: Trajectories) -> Channel:
        flaws = find("capo", "shaping")({"critique": place.blamed(rewards["reward"], traj)}, traj)["flaws"]
        outcome, blame = total(rewards["correct"], traj), immediate(flaws, traj)
        return find("capo", "advantage")(Channel(2 * outcome.value + blame.value, outcome.valid & blame.valid), traj)

    judge = "a judge of steps, here the grader"
    yield entry("prof, total, rloo", consistent)
    yield entry("ppr-renorm, return-to-go", renormed)
    yield entry("tp-grpo, return-to-go", thoughts, judge)
    yield entry("capo", voted, judge)
    scaled = find("fine-grained-rlhf", "shaping")
    yield Entry("fine-grained-rlhf, return-to-go", functools.partial(_plain, [scaled, return_to_go]), "", _STEPS)


def _learned() -> Iterator[Entry]:
    """What learned from the outcomes, pairs, continuations or step labels of 64 rollouts; and beliefs of the policy."""
    labelled, outcomes = "64 rollouts with labels of steps", "64 rollouts with outcomes"

    def paid(
        name: str,
        make: Callable[[], learned.Learned],
        channel: str,
        path: Sequence[Transform],
        cost: str,
        rewards: Sequence[str] = _OUTCOME,
        beside: bool = False,
    ) -> Entry:
        def target(place: Place) -> Target:
            model = place.learned(make)

            def credit(rewards: Rewards, traj: Trajectories) -> Channel:
                said = model(learned.with_states(traj))[channel]
                if beside:
                    said = Channel(said.value + rewards["reward"].value, said.valid & rewards["reward"].valid)
                return _along(path, said, traj)

            return credit

        return Entry(name, target, cost, rewards)

    pure, standardised = find("pure", "credit"), find("igpo", "advantage")
    for model in ("process-reward-model", "hrm-hnc"):
        make = functools.partial(learned.process_model, model)
        yield paid(f"{model}, pure, return-to-go", make, "process", [pure, return_to_go], labelled, ("right steps",))
    for name, credit in (("return-to-go", return_to_go), ("immediate", immediate)):
        yield paid(f"prime, {name}", learned.implicit, "implicit", [credit], f"{outcomes}; two calls: model, reference")
    yield paid("oprl, immediate", learned.implicit_steps, "oprl", [immediate], "64 rollouts in pairs; one call: model")
    made = learned.preference_tilt
    yield paid("rto beside the outcome, return-to-go", made, "rto", [return_to_go], "64 rollouts in pairs; two calls", beside=True)
    asked = "two calls: asked for better and for worse, here best and worst of 4"
    yield paid("t-reg, immediate", learned.contrast, "t-reg", [immediate], asked)
    made = learned.math_shepherd
    yield paid("math-shepherd, return-to-go", made, "process", [return_to_go], "64 rollouts, 8 continuations of every step")
    made = learned.advantage_critic
    name, cost = "direct-advantage-po beside the outcome, immediate", "64 rollouts, 16 continuations of every step"
    yield paid(name, made, "advantage", [immediate], cost, beside=True)
    yield paid("spa-rl, return-to-go", learned.attribution, "progress", [return_to_go], outcomes)
    for name, factors in (("return-decomposition", False), ("lare", True)):
        made = functools.partial(learned.decomposition, factors)
        yield paid(f"{name}, return-to-go", made, "latent", [return_to_go], outcomes + ("; factors" if factors else ""))
    yield paid("archer, immediate", learned.turn_critics, "archer", [immediate], outcomes)
    yield paid("reward-ranker, total", learned.ranker, "rank", [total], "64 rollouts in pairs")
    yield Entry("igpo, return-to-go", functools.partial(_informed, standardised), "belief in a right answer, here exact", _OUTCOME)
    yield Entry("total, rloo, oreal", _token_weighed, outcomes, _OUTCOME)


def _along(path: Sequence[Transform], channel: Channel, traj: Trajectories) -> Channel:
    for transform in path:
        channel = transform(channel, traj)
    return channel


def _informed(standardised: Transform, place: Place) -> Target:
    """What each action adds to the belief in a right answer, and what came of it, as IGPO credits them."""

    def credit(rewards: Rewards, traj: Trajectories) -> Channel:
        belief = place.values(traj).clamp(min=0).log()
        gain = find("igpo", "signal")(traj.replace(extras={"reference_logp": belief}))["gain"]
        both = Channel(gain.value + rewards["correct"].value, gain.valid & rewards["correct"].valid)
        return _along([standardised, return_to_go], both, traj)

    return credit


def _token_weighed(place: Place) -> Target:
    scorer = place.learned(learned.token_scorer)

    def credit(rewards: Rewards, traj: Trajectories) -> Channel:
        advantage = _along([total, leave_one_out], rewards["correct"], traj)
        return find("oreal", "advantage")(advantage, traj.replace(extras={"token_scores": scorer(traj)}))

    return credit


def _plain(path: Sequence[Transform], place: Place) -> Target:
    return weigh({"reward": list(path)})


def _registered(record: Method, place: Place) -> Target:
    """A credit on its usual path; a class as a module that no longer changes."""
    part: Any = find(record.name, record.kind)
    options = _OPTIONS.get(record.name, {})
    if inspect.isclass(part):
        needed = [p.name for p in inspect.signature(part).parameters.values() if p.default is p.empty and p.name not in options]
        if needed:
            raise ValueError(f"it needs {', '.join(needed)}")
        part = cast(Any, part)(**options).eval()
    elif options:
        part = functools.partial(part, **options)
    return _plain([part, return_to_go] if record.pays else [part], place)


def _valued(transform: Transform, place: Place) -> Transform:
    def read(channel: Channel, traj: Trajectories) -> Channel:
        return transform(channel, traj.replace(extras={"values": place.values(traj)}))

    return read


def _scored(transform: Transform, place: Place) -> Transform:
    def read(channel: Channel, traj: Trajectories) -> Channel:
        return transform(channel, traj.replace(extras={"log_reward": place.values(traj)}))

    return read


def _progress(prover: str, place: Place) -> Sequence[Transform]:
    """What each action adds to the chance that another policy would finish rightly from there (arXiv:2410.08146)."""

    def paid(channel: Channel, traj: Trajectories) -> Channel:
        return Channel(prefix_gains(place.prover(traj, prover), traj), torch.ones_like(channel.valid))

    return [paid, immediate]


def _beside_return(progress: Callable[[Place], Sequence[Transform]], place: Place) -> Target:
    """The outcome's return-to-go and three times what each step brought a prover, as the paper weighs actions."""
    path = progress(place)

    def credit(rewards: Rewards, traj: Trajectories) -> Channel:
        paid, gained = return_to_go(rewards["reward"], traj), _along(path, rewards["reward"], traj)
        return Channel(paid.value + 3 * gained.value, paid.valid & gained.valid)

    return credit


def _continued(n: int, place: Place) -> Sequence[Transform]:
    """What each action adds to the share of right ends among n continuations (VinePPO, arXiv:2410.01679)."""

    def paid(channel: Channel, traj: Trajectories) -> Channel:
        return Channel(prefix_gains(place.continued(traj, n), traj), torch.ones_like(channel.valid))

    return [paid, immediate]


def _summed_up(channel: Channel, traj: Trajectories) -> Channel:
    """All that was paid up to each position: a score of everything so far."""
    paid = torch.where(channel.valid & traj.exists, channel.value, 0)
    return Channel(paid.cumsum(1), channel.valid)


def _gated_target(rewards: Rewards, traj: Trajectories) -> Channel:
    gated = find("g-ra", "shaping")(rewards, traj, by="correct", channels=["reward"])
    return return_to_go(gated["reward"], traj)
