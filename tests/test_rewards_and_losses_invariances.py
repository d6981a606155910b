"""What must hold for every shaping, signal, loss, aggregation and selection: one property test over all that are registered.

Padding is never read, rows may lie in any order, groups may have any number, and what an unknown verdict holds changes nothing.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import payoff
from payoff.catalogue import find, index
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, Rewards, Trajectories

# beartype looks at random members of containers, which hypothesis would rather know of.
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")

MODULES = {
    "shaping": ("bounding", "squashing", "running", "gating", "length", "mixing"),
    "signals": ("likelihood", "length"),
    "losses": (
        *("policy_gradient", "value", "regularisers", "aggregation"),
        *("sequence_ratio", "soft_gates", "truncated_weights", "divergence_clipping", "unbounded", "pre_clip"),
    ),
    "sampling": ("filters",),
}
# Tried in the files of their own: they read what these batches do not have (flows, pairs, observations, bounded rewards).
ELSEWHERE = {
    *(f"losses.{name}" for name in ("balance", "flow", "gflownet", "order", "relative_balance", "reward_difference")),
    *(f"losses.{name}" for name in ("implicit_actor_critic", "negative_aware", "random_policy_valuation")),
    *(f"losses.{name}" for name in ("covariance_clipping", "entropy_smoothing", "distillation", "ratios")),
    *(f"losses.{name}" for name in ("preferences", "preference_sides", "preference_auxiliary", "preference_links")),
    *(f"losses.{name}" for name in ("reference_free", "nash_preferences", "pair_aggregation")),
    *(f"shaping.{name}" for name in ("completion", "conjunction", "dominance", "noise_correction", "potentials", "unlikeliness")),
    *(f"losses.{name}" for name in ("token_regularised", "turn_aggregation", "predictions")),
    *(f"losses.{name}" for name in ("sample_balanced", "listening")),
    *(f"losses.{name}" for name in ("sparse_preferences", "step_regression", "conservative_values")),
    "losses.reward_fitting",
    "shaping.appeals",
    *("shaping.false_negatives", "shaping.broken_form"),
    "shaping.flips",
    *(
        f"shaping.{name}"
        for name in ("judged_steps", "thoughts", "right_and_short", "schedules", "routing_cost", "gated_process", "trace_back")
    ),
    *(f"shaping.{name}" for name in ("multipliers", "hypervolume", "dynamic_weights", "restored_mean")),
    *(
        f"sampling.{path.stem}" for path in (Path(payoff.__file__).parent / "sampling").glob("[a-z]*.py") if path.stem != "filters"
    ),  # they choose, not weigh
}
METHODS = sorted(
    key
    for key, record in index().items()
    for room, files in MODULES.items()
    if record.place.startswith(tuple(f"payoff.{room}.{file}:" for file in files))
)
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "clamp": {"low": -0.5, "high": 0.5},
    "soft-overlong": {"limit": 4, "margin": 3},
    "length-penalty": {"free": 1},
    "g-ra": {"by": ["correct", "style"]},
    "mix": {"weights": {"correct": 1.0, "style": -0.5}},
    "constant-length": {"max_length": 9},
    "pass-rate": {"low": -0.2, "high": 0.6},
    "dro": {"beta": 0.7},
}
VARIANTS = [(kind, name, {}) for kind, name in METHODS]
VARIANTS += [("loss", name, {"level": level}) for name in ("ppo-clip", "dual-clip") for level in ("step", "sequence")]
VARIANTS += [("signal", "kl-penalty", {"estimator": estimator}) for estimator in ("k2", "k3")]
VARIANTS += [("shaping", "mix", {"missing": "skip"}), ("shaping", "clamp", {"unit": "outcome"})]
SEVERAL = {"g-ra", "mix"}  # shapings across channels
REMEMBERS = {"par-mean-std", "par-min-max", "par-clip"}  # a batch's own outcomes change each other's scale


@dataclasses.dataclass
class World:
    """A batch with two rewards, a target and a policy's view of it."""

    traj: Trajectories
    rewards: Rewards
    evaluation: Evaluation

    def rows(self, order: Tensor) -> "World":
        """The same rows in another order, with the padding they had."""
        traj = self.traj
        moved = dataclasses.replace(
            traj,
            **{name: getattr(traj, name)[order] for name in ("mask", "length", "group", "step", "stop", "actions", "id")},
            **{name: getattr(traj, name)[order] for name in ("parent", "fork")},
            logp={name: logp[order] for name, logp in traj.logp.items()},
            extras={name: extra[order] for name, extra in traj.extras.items()},
            items=[traj.items[i] for i in order.tolist()],
        )
        rewards = {name: Channel(c.value[order], c.valid[order], c.reasons) for name, c in self.rewards.items()}
        more = {name: tensor[order] for name, tensor in self.evaluation.more.items()}
        return World(moved, rewards, Evaluation(self.evaluation.logp[order], more))

    def padded_with(self, number: float) -> "World":
        """The same trajectories, with `number` wherever nothing exists."""
        exists = self.traj.exists
        states = torch.arange(self.traj.width + 1) <= self.traj.length[:, None]
        fill = lambda x: torch.where(states if x.shape[1] > self.traj.width else exists, x, number)
        traj = self.traj.replace(
            logp={name: fill(logp) for name, logp in self.traj.logp.items()},
            extras={name: fill(extra) for name, extra in self.traj.extras.items()},
        )
        rewards = {name: c._replace(value=fill(c.value), valid=c.valid | ~exists) for name, c in self.rewards.items()}
        more = {name: fill(tensor) for name, tensor in self.evaluation.more.items()}
        return World(traj, rewards, Evaluation(fill(self.evaluation.logp), more))

    def saying_where_unknown(self, number: float) -> "World":
        """The same verdicts, with `number` as the value of every one that is unknown."""
        rewards = {name: c._replace(value=torch.where(c.valid, c.value, number)) for name, c in self.rewards.items()}
        return World(self.traj, rewards, self.evaluation)


@st.composite
def worlds(draw) -> World:
    n, t = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    length = torch.tensor(draw(st.lists(st.integers(1, t), min_size=n, max_size=n)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    noise = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    some = lambda share, *shape: torch.rand(*shape, generator=generator) < share
    exists = torch.arange(t) < length[:, None]
    new_step = some(0.5, n, t)
    new_step[:, 0] = False
    traj = Trajectories(
        mask=exists & some(0.8, n, t),
        length=length,
        group=torch.tensor(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))),
        step=torch.where(exists, new_step.cumsum(1), -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, dtype=torch.int64),
        logp={"old": -noise(n, t).abs(), "ref": -noise(n, t).abs()},
        id=torch.randperm(100, generator=generator)[:n],
        parent=torch.full((n,), -1),
        fork=torch.minimum(torch.randint(0, 2, (n,), generator=generator), length - 1),
        items=[{"reference_rewards": noise(draw(st.integers(0, 3))).tolist()} for _ in range(n - 1)]
        + [{"reference_rewards": [0.0, 1.0]}],
        extras={"values": noise(n, t + 1)},
    )
    correct = Channel((noise(n, t) * 2).round() / 2, some(0.9, n, t))
    style = Channel(noise(n, t), some(0.9, n, t))
    evaluation = Evaluation(traj.logp["old"] + 0.3 * noise(n, t), {"values": noise(n, t + 1), "entropy": noise(n, t).abs()})
    return World(traj, {"correct": correct, "style": style}, evaluation)


def result_of(kind: str, name: str, options: Mapping[str, Any]) -> Callable[[World], dict[str, Tensor]]:
    """A function of a world that gives what the method says of the trajectories: numbers where they exist, and the gradient."""
    part = find(name, kind)
    part = part() if isinstance(part, type) else functools.partial(part, **{**OPTIONS.get(name, {}), **options})

    def channels(rewards: Rewards, traj: Trajectories) -> dict[str, Tensor]:
        found = {}
        for channel, (value, valid, _) in rewards.items():
            known = traj.exists & valid
            found |= {f"{channel} known": known, channel: torch.where(known, value, 0)}
        return found

    def run(world: World) -> dict[str, Tensor]:
        traj, rewards, target = world.traj, world.rewards, world.rewards["style"]
        if kind == "signal":
            return channels(part(traj), traj)
        if kind == "shaping" and name in SEVERAL:
            return channels(part(rewards, traj), traj)
        if kind == "shaping":
            fresh = type(part)() if name in REMEMBERS else part
            return channels({"shaped": fresh(rewards["correct"], traj)}, traj)
        if kind == "selection":
            kept = torch.zeros(len(traj), dtype=torch.bool)
            kept[part(rewards, traj)] = True
            return {"kept": kept}
        if kind == "aggregation":
            return {"weights": part(target, traj)}
        assert kind == "loss"
        inputs = [world.evaluation.logp, *world.evaluation.more.values()]
        inputs = [tensor.clone().requires_grad_() for tensor in inputs]
        output = part(Evaluation(inputs[0], dict(zip(world.evaluation.more, inputs[1:], strict=True))), traj, target)
        grads = torch.autograd.grad(output.terms.sum(), inputs, allow_unused=True)
        found = {"terms": output.terms, **{f"gradient {i}": g for i, g in enumerate(grads) if g is not None}}
        return found | {f"metric {m}": torch.tensor(v, dtype=torch.float64) for m, v in output.metrics.items()}

    return run


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=lambda said, name=name: f"{name}: {said}")
        assert one[name].isfinite().all(), name


every_method = pytest.mark.parametrize(("kind", "name", "options"), VARIANTS, ids=str)
quick = settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow])


@every_method
@quick
@given(worlds())
def test_padding_is_never_read(kind, name, options, world):
    run = result_of(kind, name, options)
    assert_same(run(world.padded_with(0.0)), run(world.padded_with(torch.nan)))


@every_method
@quick
@given(worlds(), st.randoms(use_true_random=False))
def test_rows_may_lie_in_any_order(kind, name, options, world, random):
    order = list(range(len(world.traj)))
    random.shuffle(order)
    order = torch.tensor(order)
    run = result_of(kind, name, options)
    straight = {k: v if v.ndim == 0 else v[order] for k, v in run(world).items()}
    assert_same(straight, run(world.rows(order)))


@every_method
@quick
@given(worlds())
def test_groups_may_have_any_numbers(kind, name, options, world):
    renamed = torch.tensor([10**12, -7, 3])[world.traj.group]
    run = result_of(kind, name, options)
    assert_same(run(world), run(World(world.traj.replace(group=renamed), world.rewards, world.evaluation)))


@every_method
@quick
@given(worlds())
def test_what_an_unknown_verdict_holds_changes_nothing(kind, name, options, world):
    run = result_of(kind, name, options)
    assert_same(run(world.saying_where_unknown(0.0)), run(world.saying_where_unknown(torch.nan)))


@pytest.mark.parametrize(
    ("kind", "name", "options"), [v for v in VARIANTS if v[0] in ("shaping", "loss") and v[1] not in REMEMBERS], ids=str
)
@quick
@given(worlds())
def test_an_unknown_verdict_changes_no_other_trajectory(kind, name, options, world):
    first = torch.arange(len(world.traj))[:, None] == 0
    fewer = {channel: c._replace(valid=c.valid & ~first) for channel, c in world.rewards.items()}
    run = result_of(kind, name, options)
    before, after = run(world), run(World(world.traj, fewer, world.evaluation))
    others = lambda found: {k: v[1:] for k, v in found.items() if v.ndim}
    assert_same(others(before), others(after))
    if kind == "loss":
        assert not after["terms"][0].any()
        assert not any(after[k][0].any() for k in after if k.startswith("gradient"))


def test_every_registered_method_of_these_rooms_is_tried():
    rooms = {p.parent.name + "." + p.stem for room in MODULES for p in (Path(payoff.__file__).parent / room).glob("[a-z]*.py")}
    tried = {f"{room}.{file}" for room, files in MODULES.items() for file in files}
    graders = {"signals.answers", "signals.format"}  # of one item's text: nothing here applies to them
    assert {place for place in rooms if place.startswith(("shaping.", "losses.", "sampling."))} <= tried | ELSEWHERE
    assert tried | graders <= rooms
    assert len(METHODS) >= 30
