"""Flow rewards: how far a token's latent lies from where a flow, fitted to latents of trusted text, would carry noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.row_files import read_rows
from payoff.trajectories import Channel, Rewards, Trajectories, outcome

Velocity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (point, time, condition, layer), all of n rows -> [n, D]
_FREQUENCIES = 16


def velocity_deviation(
    velocity: Velocity,
    target: Float[Tensor, "n D"],
    condition: Float[Tensor, "n C"],
    layer: Float[Tensor, " n"],
    noise: Float[Tensor, "n D"],
    *,
    times: Sequence[float] = (0.8,),
) -> Float[Tensor, " n"]:
    """mean over tau of tau / (1 - tau) mean_d (v - u)^2 at x = tau target + (1 - tau) noise, u = target - noise (RLFR).

    Where v is the best velocity there is, its mean over the noise is the conditional variance of u given x, averaged over the
    dimensions; where the target is none of what v was fitted to, it is larger.

    >>> still = lambda x, tau, condition, layer: torch.zeros_like(x)
    >>> rows = torch.ones(1, 2)
    >>> velocity_deviation(still, rows, rows, torch.zeros(1), torch.zeros(1, 2), times=[0.5, 0.75])  # (1 + 3) / 2
    tensor([2.])
    """
    total = torch.zeros_like(target[:, 0])
    for time in times:
        point = time * target + (1 - time) * noise
        said = velocity(point, torch.full_like(layer, time), condition, layer)
        total = total + time / (1 - time) * (said - (target - noise)).square().mean(1)
    return total / len(times)


def kept_deviations(
    deviation: Float[Tensor, "N T"],
    where: Bool[Tensor, "N T"],
    *,
    threshold: float = 0.6,
    top: int = 15,
    two_sided: bool = False,
) -> Float[Tensor, "N T"]:
    """Each row's deviations from 0 to 1, what is at most the threshold set to 0, then all but the `top` largest (RLFR).

    (d - min) / (max - min) over the row's entries `where` it counts, and over nothing else; two-sided then 2 x - 1, and both ends
    are kept, top // 2 of each. No affine change of a row changes anything. A row whose entries are all equal, or that has one, is
    0.

    >>> row = torch.tensor([[1.0, 5.0, 4.0, 2.0]])
    >>> kept_deviations(row, torch.ones(1, 4) > 0)
    tensor([[0.0000, 1.0000, 0.7500, 0.0000]])
    """
    low = torch.where(where, deviation, torch.inf).amin(1, keepdim=True)
    high = torch.where(where, deviation, -torch.inf).amax(1, keepdim=True)
    varies = where & (high > low)
    share = torch.where(varies, (deviation - low) / torch.where(high > low, high - low, 1), 0)
    if not two_sided:
        kept = torch.where(share > threshold, share, 0)
        return _largest(kept, kept, top)
    share = torch.where(varies, 2 * share - 1, 0)
    kept = torch.where(share.abs() > threshold, share, 0)
    many = (kept != 0).sum(1, keepdim=True) >= top
    ends = _largest(kept.clamp(min=0), kept.clamp(min=0), top // 2) - _largest((-kept).clamp(min=0), (-kept).clamp(min=0), top // 2)
    return torch.where(many, ends, kept)


@method("rlfr", kind="model", paper="arXiv:2510.10201", needs=("hidden",))
class FlowReward(nn.Module):
    """Take from every token what its latent deviates from a flow fitted to trusted latents (RLFR), channel "flow".

    r_t = -coefficient * kept_deviations(d)_t with d_t = `velocity_deviation` of token t's latent, over `draws` draws of noise and
    all layers; 0 for most tokens, and at most coefficient * top in a rollout. The flow is a small network v(x, tau, condition,
    layer). `fit` it to expert text; then `learn` goes on with the rollouts of each batch whose channel `by` pays more than
    `above`: others are rejected. The paper adds the outcome, and takes the return-to-go and the group's statistics of both.

    size:      of a latent; None: that of the policy, of which a run hands over a copy to ask
    condition: the latent of which neighbour the flow is told. The released code (mode "token_post") has the "preceding" one
    times:     tau, where deviations are taken
    depth, width: of the network; width None: that of a latent
    labelled:  rows of prompt and response to fit at once: a file that `payoff.row_files.read_rows` reads
    epochs, batch_size: passes of `fit` over its tokens, and tokens of a step; `learn` takes one pass
    of:        traj.extras[of] [N, T+1, D] are the latents before each action and, at `length`, after the last; or [N, T+1, L, D] of
               several layers. The policy that acted gives "hidden", its last layer's
    layers:    at which shares of the depth, such as the paper's [0.25, 0.5, 0.75]: those of "layers", which the policy must offer

    Latents carry no gradient back. Whatever lies beyond the end, and what the policy did not write, is not read as a target and is
    paid 0. With coefficient 0 all is 0. Nothing fitted: the network says 0, and the deviation is how large a latent is.
    Raises ValueError for options that make no sense, and latents that are not there or of another size.

    >>> from payoff.examples import four_answers
    >>> _ = torch.manual_seed(0)
    >>> traj = four_answers().replace(extras={"hidden": torch.randn(4, 4, 2)})
    >>> model = FlowReward(size=2, depth=1, width=16, learning_rate=1e-2, epochs=200)
    >>> before = float(model.deviation(traj)[traj.own].mean())
    >>> found = model.fit(traj)
    >>> bool(model.deviation(traj)[traj.own].mean() < before), model(traj)["flow"].value.shape
    (True, torch.Size([4, 3]))
    """

    def __init__(
        self,
        *,
        policy: Any = None,
        size: int | None = None,
        condition: Literal["preceding", "following"] = "preceding",
        coefficient: float = 0.01,
        threshold: float = 0.6,
        top: int = 15,
        two_sided: bool = False,
        times: Sequence[float] = (0.8,),
        draws: int = 1,
        depth: int = 6,
        width: int | None = None,
        by: str = "correct",
        above: float = 0.5,
        learning_rate: float = 1e-4,
        labelled: str | None = None,
        epochs: int = 1,
        batch_size: int = 256,
        of: str = "hidden",
        layers: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if layers is not None and (not layers or not all(0 < share <= 1 for share in layers)):
            raise ValueError(f"rlfr: layers are shares of the depth, above 0 and at most 1, got {list(layers)}")
        of = of if layers is None else "layers"
        self.layers, self.needs = None if layers is None else tuple(layers), frozenset({of} & {"hidden", "layers"})
        size = getattr(policy, "width", None) if size is None else size
        if size is None:
            raise ValueError("rlfr: give size, how many numbers a latent has, or a policy that has a width")
        if not times or not all(0 < time < 1 for time in times) or min(draws, depth, epochs, batch_size, size) < 1:
            raise ValueError("rlfr: times must lie between 0 and 1, and draws, depth, epochs, batch_size and size be at least 1")
        if coefficient < 0 or not 0 <= threshold < 1 or top < 1 or condition not in ("preceding", "following"):
            raise ValueError(
                'rlfr: coefficient must be >= 0, threshold lie in [0, 1), top be at least 1 and condition be "preceding" or '
                f'"following", got {coefficient}, {threshold}, {top} and {condition!r}'
            )
        self.size, self.condition, self.coefficient, self.threshold, self.top = size, condition, coefficient, threshold, top
        self.two_sided, self.times, self.draws, self.by, self.above, self.of = two_sided, tuple(times), draws, by, above, of
        self.epochs, self.batch_size = epochs, batch_size
        self.network = _Flow(size, width or size, depth)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self.rng = torch.Generator().manual_seed(seed)
        if labelled is not None:
            self.fit(_read(labelled, policy, of))

    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "flow": at most 0, and from -coefficient to coefficient where it is two-sided."""
        kept = kept_deviations(self.deviation(traj), traj.own, threshold=self.threshold, top=self.top, two_sided=self.two_sided)
        known = torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device)
        return {"flow": Channel(0 - self.coefficient * kept, known)}

    @torch.no_grad()
    def deviation(self, traj: Trajectories) -> Float[Tensor, "N T"]:
        """d of every own action, before anything is dropped; 0 elsewhere."""
        target, condition, layer, counts = self._pairs(traj)
        total = torch.zeros_like(target[:, 0])
        for _ in range(self.draws):
            total += velocity_deviation(self.network, target, condition, layer, self._noise(target), times=self.times)
        value = total.new_zeros(counts.shape)
        value[counts] = total / self.draws
        return value.mean(2)

    def fit(self, traj: Trajectories) -> dict[str, float | int | None]:
        """Flow matching on the latents of these rollouts, tau drawn evenly; metrics: the mean loss of the last pass, and tokens."""
        target, condition, layer, _ = self._pairs(traj)
        if not len(target):
            raise ValueError("rlfr: no tokens, so there is nothing to fit")
        losses = [0.0]
        for _ in range(self.epochs):
            losses = [
                self._step(target[some], condition[some], layer[some], torch.rand(len(some), generator=self.rng).to(layer))
                for some in torch.randperm(len(target), generator=self.rng).to(target.device).split(self.batch_size)
            ]
        return {"rlfr/loss": sum(losses) / len(losses), "rlfr/tokens": len(target)}

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """One pass over the rollouts that are let through, at the times that are paid; metrics: loss, and the share let through."""
        if self.by not in rewards:
            raise KeyError(f"rlfr: no reward channel {self.by!r} to choose by; there are {sorted(rewards)}")
        paid, known = outcome(rewards[self.by], traj)
        rows = (known & (paid > self.above)).nonzero()[:, 0]
        share = len(rows) / max(len(traj), 1)
        if not len(rows):
            return {"rlfr/loss": None, "rlfr/taken": share}
        target, condition, layer, _ = self._pairs(traj.select(rows))
        losses = []
        for some in torch.randperm(len(target), generator=self.rng).to(target.device).split(self.batch_size):
            drawn = torch.randint(len(self.times), (len(some),), generator=self.rng)
            losses.append(self._step(target[some], condition[some], layer[some], torch.tensor(self.times)[drawn].to(layer)))
        return {"rlfr/loss": sum(losses) / len(losses) if losses else None, "rlfr/taken": share}

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser and the generator: for checkpoints."""
        return {"optimiser": self.optimiser.state_dict(), "rng": self.rng.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        self.rng.set_state(state["rng"])

    def _pairs(self, traj: Trajectories) -> tuple[Tensor, Tensor, Tensor, Bool[Tensor, "N T L"]]:
        """(latents, their neighbours', which layer from 0 to 1) of every own action, and where these are."""
        states = traj.extras.get(self.of)
        if states is None or states.ndim not in (3, 4) or states.shape[1] != traj.width + 1 or states.shape[-1] != self.size:
            found = "none" if states is None else f"shape {list(states.shape)}"
            wanted = f"[N, T+1, {self.size}] or [N, T+1, L, {self.size}] with T = {traj.width}"
            raise ValueError(f"rlfr: needs traj.extras[{self.of!r}] {wanted}, found {found}")
        states = (states if states.ndim == 4 else states[:, :, None]).detach().to(self.network.enter.weight)
        if self.layers is not None:
            states = states[:, :, [max(round(share * states.shape[2]), 1) - 1 for share in self.layers]]
        layers = states.shape[2]
        own = traj.own.clone()
        if self.condition == "preceding":
            near = states[:, :-1]
        else:  # the last token has none behind it
            near = torch.cat([states[:, 2:], torch.zeros_like(states[:, :1])], 1)
            own &= torch.nn.functional.pad(traj.exists[:, 1:], (0, 1))
        counts = own[:, :, None].expand(-1, -1, layers)
        depth = ((torch.arange(layers, device=states.device) + 1) / (layers + 1)).expand(counts.shape)
        return states[:, 1:][counts], near[counts], depth[counts].to(states), counts

    def _step(self, target: Tensor, condition: Tensor, layer: Tensor, time: Tensor) -> float:
        noise = self._noise(target)
        with torch.enable_grad():
            said = self.network(time[:, None] * target + (1 - time[:, None]) * noise, time, condition, layer)
            loss = (said - (target - noise)).square().mean()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
        return float(loss.detach())

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.rng).to(like)


class _Flow(nn.Module):
    """v(x, tau, condition, layer): residual blocks, each shifted, scaled and gated by what is known besides x; 0 at first."""

    def __init__(self, size: int, width: int, depth: int) -> None:
        super().__init__()
        self.enter, self.told, self.leave = nn.Linear(size, width), nn.Linear(size, width), nn.Linear(width, size)
        self.time, self.layer = nn.Linear(2 * _FREQUENCIES, width), nn.Linear(2 * _FREQUENCIES, width)
        inner = lambda: nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(inner() for _ in range(depth))
        self.modulate = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        for layer in (*self.modulate, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, tau: Tensor, condition: Tensor, layer: Tensor) -> Tensor:
        known = nn.functional.silu(self.told(condition) + self.time(_waves(tau)) + self.layer(_waves(layer)))
        x = self.enter(x)
        for block, modulate in zip(self.blocks, self.modulate, strict=True):
            shift, scale, gate = modulate(known).chunk(3, 1)
            x = x + gate * block(nn.functional.rms_norm(x, x.shape[1:]) * (1 + scale) + shift)
        return self.leave(x)


def _waves(x: Tensor) -> Tensor:
    angle = x[:, None] * torch.logspace(0, math.log10(200), _FREQUENCIES, device=x.device, dtype=x.dtype)
    return torch.cat([angle.cos(), angle.sin()], 1)


def _largest(x: Tensor, by: Tensor, top: int) -> Tensor:
    """The `top` largest of each row, the others 0; all of them where there are no more."""
    if by.shape[1] <= top:
        return x
    index = by.topk(top, 1).indices if top else by.new_zeros(len(by), 0, dtype=torch.int64)
    return torch.zeros_like(x).scatter(1, index, x.gather(1, index))


def _read(path: str, policy: Any, of: str) -> Trajectories:
    """Stored text with the latents that the policy has of it."""
    if not hasattr(policy, "read"):
        raise ValueError("rlfr: this policy reads no stored text; call fit with rollouts that have latents")
    rows = list(read_rows(path, required=("prompt", "response")))
    if not rows:
        raise ValueError(f"rlfr: {path}: holds no rows")
    traj, name = policy.read(rows), "layers" if of == "layers" else "hidden"
    with torch.no_grad():
        return traj.replace(extras={of: policy.evaluate(traj, frozenset({name})).more[name]})
