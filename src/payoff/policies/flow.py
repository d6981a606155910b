"""A denoiser as a policy: one step from noise towards data is one action, with its exact Gaussian log-probability.

The paths and kernels are in `denoising`, the networks in `flow_networks`, and `flow_models` makes one by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from payoff.pipeline import Evaluation, Start
from payoff.policies.denoising import Reduce, Schedule, gaussian_logp, schedule
from payoff.trajectories import StopReason, Trajectories, fresh_ids

_INK = " .:-=+*#%@"  # an image in the report: -1 to 1 in ten levels
_OFFERS = frozenset({"entropy", "mean", "std", "velocity", "clean", "completed"})
Pick = slice | Int[Tensor, " M"]


class Flow(nn.Module):
    """Samples by denoising with a network of velocities; every step that has noise is an action.

    network:     called as network(x [B, D], t [B], condition [B]) -> [B, D], see `denoising` for what it estimates
    shape:       of a sample: (D,) for a point, (height, width) for an image; D is their product
    table:       the sampler's steps, of `schedule`; None: ten steps of Flow-GRPO
    reduce:      what a step's log-probability is over the D dimensions, "mean" (as in the field's code; clip ranges of 1e-4 are
                 meant for it) or "sum" (the density itself: KL penalties and optima of reward minus beta KL need this one)
    start_noise: "own", or "group": rollouts of one start begin at the same noise (DanceGRPO)
    acts:        "all" steps that have noise; or "one" (TempFlow-GRPO): a group shares its start and a deterministic way to a step
                 drawn for it, samples that one step, and each rollout ends deterministically. Its rows are branches (`parent`,
                 `fork`) of a trajectory that is not in the batch
    critic:      called as the network, gives [B, 1]; offered as "values"

    actions [N, T, D] are the states after each step; `mask` is where noise was drawn. A trajectory without noise (an ODE's) acts
    nowhere, exists as any other, and is paid at its last position. One position is one step of `traj.step`. A start's
    `fields["condition"]` is the class the network is told (0 where there is none).

    extras: "latents" [N, T+1, D], from the start noise to the end; "times" [N, T+1]; "std" and "gain" [N, T] of the schedule,
    whether or not noise was drawn; "old_mean" [N, T, D], the mean of each action taken (0 elsewhere); "condition" [N].
    items: "sample" (list of floats), "response" (the sample to look at), "tokens" and "steps" (the time reached by each step).

    Offers "entropy" [N, T], "mean" [N, T, D] and "std" [N, T] at the actions; "velocity" and "clean" (the data that is expected
    from before the step) [N, T, D] wherever the trajectory exists; "completed" [N, T+1, D], the deterministic end of every state,
    without gradient; and with a critic "values" [N, T+1].

    Raises ValueError for a shape without numbers, and other values of the options.

    >>> _ = torch.manual_seed(0)
    >>> from payoff.policies.flow_networks import VelocityMLP
    >>> policy = Flow(VelocityMLP(2, width=16), (2,), schedule(4))
    >>> traj = policy.rollout([Start("a", {})], 3, torch.Generator().manual_seed(0))
    >>> traj.actions.shape, traj.mask.all().item(), traj.length.tolist()
    (torch.Size([3, 4, 2]), True, [4, 4, 4])
    """

    _times: Tensor
    _signal: Tensor
    _noise: Tensor
    _keep: Tensor
    _gain: Tensor
    _std: Tensor
    _still_keep: Tensor
    _still_gain: Tensor

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        table: Schedule | None = None,
        *,
        reduce: Reduce = "mean",
        start_noise: Literal["own", "group"] = "own",
        acts: Literal["all", "one"] = "all",
        critic: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("reduce", reduce, ("mean", "sum")),
            ("start_noise", start_noise, ("own", "group")),
            ("acts", acts, ("all", "one")),
        ):
            if value not in known:
                raise ValueError(f'Flow: {name} must be "{known[0]}" or "{known[1]}", got {value!r}')
        self.network, self.critic, self.shape = network, critic, tuple(shape)
        self.dimensions = math.prod(self.shape) if self.shape else 0
        if self.dimensions < 1:
            raise ValueError(f"Flow: shape must have at least one number, got {self.shape}")
        self.reduce, self.start_noise, self.acts = reduce, start_noise, acts
        table = schedule() if table is None else table
        self.steps = len(table.std)
        if acts == "one" and not (table.std > 0).any():
            raise ValueError('Flow: acts="one" needs a step that has noise, and this schedule has none')
        for name, column in table._asdict().items():
            self.register_buffer(f"_{name}", column.detach().clone())
        self.offers = _OFFERS | ({"values"} if critic is not None else set())

    @property
    def table(self) -> Schedule:
        """The sampler's steps."""
        return Schedule(*(getattr(self, f"_{name}") for name in Schedule._fields))

    # --- as any policy

    def rollout(self, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n trajectories from every start; one group per start, rows in the order of the starts."""
        device, shared = self._times.device, self.start_noise == "group" or self.acts == "one"
        group = fresh_ids(len(starts), device)
        first = self._normal((len(starts) * (1 if shared else n), self.dimensions), rng)
        condition = torch.tensor([int(s.fields.get("condition", 0)) for s in starts], dtype=torch.int64, device=device)
        fields: list[Mapping[str, Any]] = [{"prompt": "", **start.fields, "start": start.id} for start in starts]
        if self.acts == "one":
            noisy = (self._std > 0).nonzero().squeeze(1)
            at = noisy[torch.randint(len(noisy), (len(starts),), generator=rng, device=rng.device).to(device)]
            anchor = self._walk(first[:, None], torch.zeros_like(at), at.clamp(min=1), torch.zeros_like(at), condition, rng)
            way = self._recorded(anchor, at.clamp(min=1), condition, group, fields)
            return self.resume(way, torch.arange(len(starts), device=device), at, n, rng, noisy=1)
        group, condition = group.repeat_interleave(n), condition.repeat_interleave(n)
        first = first.repeat_interleave(n, 0) if shared else first
        at, until = torch.zeros_like(group), torch.full_like(group, self.steps)
        walked = self._walk(first[:, None], at, until, until, condition, rng)
        return self._recorded(walked, until, condition, group, [own for own in fields for _ in range(n)])

    def resume(
        self,
        traj: Trajectories,
        rows: Int[Tensor, " R"],
        at: Int[Tensor, " R"],
        n: int,
        rng: torch.Generator,
        *,
        horizon: int | None = None,
        noisy: int | None = None,
    ) -> Trajectories:
        """n continuations of each prefix traj[rows, :at], with `parent` and `fork` set and the group of the trajectory they leave.

        `horizon` more steps (None: to the data; where that ends before the data it is "truncated"), the first `noisy` of them
        with noise (None: all), the rest deterministic: these exist and are not acted. noisy=0 is the ODE from that state.
        Raises ValueError for a state that the trajectory does not have or at which it has reached the data, for a horizon below
        1, and for a trajectory with another number of steps than this policy's.
        """
        if horizon is not None and horizon < 1:
            raise ValueError(f"Flow.resume: horizon must be at least 1, got {horizon}")
        rows, at = rows.repeat_interleave(n), at.repeat_interleave(n)
        prefix = self._checked("resume", traj).select(rows)
        ended = (at < 0) | (at > prefix.length) | (at >= self.steps)
        if ended.any():
            row = int(ended.nonzero()[0, 0])
            raise ValueError(
                f"Flow.resume: trajectory {int(prefix.id[row])}, of {int(prefix.length[row])} steps of {self.steps}, "
                f"cannot be continued from step {int(at[row])}"
            )
        until = torch.full_like(at, self.steps) if horizon is None else (at + horizon).clamp(max=self.steps)
        chance = until if noisy is None else at + noisy
        condition = self._conditions(prefix)
        width = int(at.max()) if len(at) else 0
        latents, mask, mean = self._walk(prefix.extras["latents"][:, : width + 1], at, until, chance, condition, rng)
        context = torch.arange(width, device=at.device) < at[:, None]
        mask[:, :width] = torch.where(context, prefix.mask[:, :width], mask[:, :width])
        if "old_mean" in prefix.extras:
            mean[:, :width] = torch.where(context[..., None], prefix.extras["old_mean"][:, :width], mean[:, :width])
        fields = [dict(item) for item in prefix.items] or [{} for _ in range(len(rows))]
        branch = self._recorded((latents, mask, mean), until, condition, prefix.group, fields)
        logp = branch.logp["old"].clone()
        if "old" in prefix.logp:
            logp[:, :width] = torch.where(context & prefix.mask[:, :width], prefix.logp["old"][:, :width], logp[:, :width])
        return branch.replace(logp={"old": logp}, parent=prefix.id, fork=at)

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        """Log-densities of the recorded actions, with gradient, and what else was wanted of `offers`; 0 where there is none.

        The network is asked only where it is needed: at the actions, or with "velocity" and "clean" wherever a trajectory exists.
        """
        unknown = want - self.offers
        if unknown:
            raise ValueError(f"Flow.evaluate: cannot give {sorted(unknown)}; it offers {sorted(self.offers)}")
        self._checked("evaluate", traj)
        where = traj.exists if want & {"velocity", "clean"} else traj.mask
        row, at = where.nonzero(as_tuple=True)
        state, condition = traj.extras["latents"][row, at], self._conditions(traj)
        velocity = self._velocity(state, at, condition[row])
        mean = self._step(state, velocity, self._keep[at], self._gain[at])
        acted = traj.mask[row, at]
        std = self._std[at].to(state.dtype)
        steady = torch.where(acted, std, 1)  # a step without noise has no density; it is left out below
        density = gaussian_logp(traj.actions[row, at], mean, steady, self.reduce)
        lay = lambda number: number.new_zeros(*traj.mask.shape, *number.shape[1:]).index_put((row, at), number)
        more: dict[str, Tensor] = {}
        if "entropy" in want:
            size = 1 if self.reduce == "mean" else self.dimensions
            more["entropy"] = lay(torch.where(acted, size * (steady.log() + math.log(2 * math.pi * math.e) / 2), 0))
        if "std" in want:
            more["std"] = torch.where(traj.exists, self._std[: traj.width].to(state.dtype), 0)
        if "mean" in want:
            more["mean"] = lay(torch.where(acted[:, None], mean, 0))
        if "velocity" in want:
            more["velocity"] = lay(velocity)
        if "clean" in want:
            more["clean"] = lay(self._data(state, velocity, at))
        if "completed" in want:
            more["completed"] = self._completed(traj)
        if "values" in want:
            more["values"] = self._values(traj)
        return Evaluation(lay(torch.where(acted, density, 0)), more)

    # --- inside

    def _walk(
        self,
        past: Float[Tensor, "N P D"],
        at: Int[Tensor, " N"],
        until: Int[Tensor, " N"],
        chance: Int[Tensor, " N"],
        condition: Int[Tensor, " N"],
        rng: torch.Generator,
    ) -> tuple[Float[Tensor, "N T1 D"], Bool[Tensor, "N T"], Float[Tensor, "N T D"]]:
        """Step from state `at` to state `until`, with noise before step `chance`: (states, where noise was drawn, means there)."""
        n, width = len(past), int(until.max()) if len(past) else 1
        latents = past.new_zeros(n, width + 1, self.dimensions)
        before = torch.arange(past.shape[1], device=past.device) <= at[:, None]
        size = min(past.shape[1], width + 1)
        latents[:, :size] = torch.where(before[..., None], past, 0)[:, :size]
        mask = torch.zeros(n, width, dtype=torch.bool, device=past.device)
        means = past.new_zeros(n, width, self.dimensions)
        times, _, _, keep, gain, std, still_keep, still_gain = (column.to(past.dtype) for column in self.table)
        with torch.no_grad():
            for k in range(int(at.min()) if n else 0, width):
                moving = (at <= k) & (k < until)
                pick: Pick = slice(None) if moving.all() else moving.nonzero().squeeze(1)
                state = latents[pick, k]
                if not len(state):
                    continue
                velocity = self.network(state, times[k].expand(len(state)), condition[pick])
                noisy = (k < chance[pick]) & (std[k] > 0)
                after = state.new_zeros(0)
                if not noisy.all():
                    after = still_keep[k] * state - still_gain[k] * velocity
                if noisy.any():
                    mean = keep[k] * state - gain[k] * velocity
                    drawn = mean + std[k] * self._normal(tuple(mean.shape), rng)
                    means[pick, k] = mean if noisy.all() else torch.where(noisy[:, None], mean, 0)
                    after = drawn if noisy.all() else torch.where(noisy[:, None], drawn, after)
                    mask[pick, k] = noisy
                latents[pick, k + 1] = after
        return latents, mask, means

    def _recorded(
        self,
        walked: tuple[Float[Tensor, "N T1 D"], Bool[Tensor, "N T"], Float[Tensor, "N T D"]],
        length: Int[Tensor, " N"],
        condition: Int[Tensor, " N"],
        group: Int[Tensor, " N"],
        fields: Sequence[Mapping[str, Any]],
    ) -> Trajectories:
        """The walk as trajectories."""
        latents, mask, mean = walked
        width = mask.shape[1]
        position = torch.arange(width, device=mask.device)
        exists = position < length[:, None]
        std = torch.where(exists, self._std[:width].to(latents.dtype), 0)
        logp = gaussian_logp(latents[:, 1:], mean, torch.where(mask, std, 1), self.reduce)
        end = latents.gather(1, length[:, None, None].expand(-1, 1, self.dimensions))[:, 0]
        names = [f"t={t:.2f}" for t in self._times[1:].tolist()]
        items = [
            {**own, "sample": sample, "response": self._shown(sample), "tokens": names[:ends], "steps": names[:ends]}
            for own, sample, ends in zip(fields, end.tolist(), length.tolist(), strict=True)
        ]
        return Trajectories(
            mask=mask,
            length=length,
            group=group,
            step=torch.where(exists, position, -1).int(),
            stop=torch.where(length == self.steps, int(StopReason.finished), int(StopReason.truncated)),
            actions=latents[:, 1:],
            logp={"old": torch.where(mask, logp, 0)},
            items=items,
            extras={
                "latents": latents,
                "times": self._times[: width + 1].to(latents.dtype).expand(len(latents), -1),
                "std": std,
                "gain": torch.where(exists, self._gain[:width].to(latents.dtype), 0),
                "old_mean": mean,
                "condition": condition,
            },
        )

    def _velocity(self, state: Float[Tensor, "M D"], at: Int[Tensor, " M"], condition: Int[Tensor, " M"]) -> Float[Tensor, "M D"]:
        return self.network(state, self._times[at].to(state.dtype), condition)

    def _step(
        self, state: Float[Tensor, "M D"], velocity: Float[Tensor, "M D"], keep: Float[Tensor, " M"], gain: Float[Tensor, " M"]
    ) -> Float[Tensor, "M D"]:
        return keep.to(state.dtype)[:, None] * state - gain.to(state.dtype)[:, None] * velocity

    def _data(self, state: Float[Tensor, "M D"], velocity: Float[Tensor, "M D"], at: Int[Tensor, " M"]) -> Float[Tensor, "M D"]:
        """The data expected from a state, (x - sigma v) / (alpha + sigma)."""
        signal, noise = self._signal[at].to(state.dtype)[:, None], self._noise[at].to(state.dtype)[:, None]
        return (state - noise * velocity) / (signal + noise)

    def _completed(self, traj: Trajectories) -> Float[Tensor, "N T1 D"]:
        """The deterministic end of every state of every trajectory: all states that have come to one time move on together."""
        there = torch.arange(traj.width + 1, device=traj.device) <= traj.length[:, None]
        ends = torch.where(there[..., None], traj.extras["latents"], 0)
        condition = self._conditions(traj)
        with torch.no_grad():
            for k in range(self.steps):
                row, place = there[:, : k + 1].nonzero(as_tuple=True)
                step, state = torch.full_like(row, k), ends[row, place]
                velocity = self._velocity(state, step, condition[row])
                ends[row, place] = self._step(state, velocity, self._still_keep[step], self._still_gain[step])
        return ends

    def _values(self, traj: Trajectories) -> Float[Tensor, "N T1"]:
        there = torch.arange(traj.width + 1, device=traj.device) <= traj.length[:, None]
        row, at = there.nonzero(as_tuple=True)
        state = traj.extras["latents"][row, at]
        critic: nn.Module = self.critic  # type: ignore[assignment]  # there is one, or it would not be offered
        value = critic(state, self._times[at].to(state.dtype), self._conditions(traj)[row])[:, 0]
        return value.new_zeros(there.shape).index_put((row, at), value)

    def _conditions(self, traj: Trajectories) -> Int[Tensor, " N"]:
        return traj.extras["condition"] if "condition" in traj.extras else torch.zeros_like(traj.length)

    def _normal(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        first = next(self.parameters(), self._times)
        dtype = first.dtype if first is not self._times else torch.get_default_dtype()
        return torch.randn(shape, generator=rng, device=rng.device, dtype=dtype).to(self._times.device)

    def _checked(self, where: str, traj: Trajectories) -> Trajectories:
        if "latents" not in traj.extras or traj.width > self.steps:
            raise ValueError(
                f'Flow.{where}: needs extras["latents"] of at most {self.steps} steps, '
                f"got {traj.width} and extras {sorted(traj.extras)}"
            )
        return traj

    def _shown(self, sample: Sequence[float]) -> str:
        """A sample as text: an image in ten levels of ink, or the numbers of a point."""
        if len(self.shape) != 2:
            return "(" + ", ".join(f"{x:.2f}" for x in sample) + ")"
        inked = "".join(_INK[min(max(int((x + 1) * 5), 0), 9)] if x == x else "?" for x in sample)
        return "\n".join(inked[i : i + self.shape[1]] for i in range(0, len(inked), self.shape[1]))
