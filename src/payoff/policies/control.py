"""A controller: an actor and a critic, two small networks, that act in environments side by side.

The environments come with the starts (`Simulation`); the task made them and this policy only steps them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.pipeline import Evaluation, Start
from payoff.policies.observation_scale import ObservationScale
from payoff.policies.spaces import ActionNumbers, ObservationVector, spaces_of
from payoff.trajectories import StopReason, Trajectories, fresh_ids

_ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


@runtime_checkable
class Lanes(Protocol):
    """Environments side by side, named by their place."""

    def reset(self, lanes: Sequence[int], seeds: Sequence[int]) -> Sequence[Any]:
        """Begin an episode in each of these lanes, each from its seed; the first observations."""

    def step(self, lanes: Sequence[int], actions: np.ndarray) -> tuple[Sequence[Any], np.ndarray, np.ndarray, np.ndarray]:
        """(true next observations, rewards, terminated, truncated) of these lanes."""


@runtime_checkable
class Simulation(Protocol):
    """What a start of a control task carries as its environment: a seed, and lanes in which any seed can be played."""

    seed: int
    world: Any  # starts with one world share lanes

    def lanes(self, count: int) -> Lanes:
        """`count` lanes, the same ones each time."""


@method("actor-critic", kind="policy")
class ActorCritic(nn.Module):
    """A categorical or Gaussian policy over environment actions, and a critic of states: two separate multilayer perceptrons.

    environment, options: a gymnasium environment by name (MODULE:NAME imports the module first), read for its spaces only;
                    or `spaces=(observation space, action space)`
    hidden, activation: layers of both networks; orthogonal weights, small at the actor's output
    log_std:        initial logarithm of the standard deviation of a real-valued action, one parameter per dimension whatever the
                    state. What is sampled is recorded; the environment gets it cut to its box
    normalise:      standardise observations by the mean and standard deviation of all that training rollouts have met. A batch
                    counts from the next rollout on, so that a batch is evaluated as it was acted. Rollouts under `torch.no_grad`
                    (evaluations) and in evaluation mode do not count
    lanes:          environments stepped together; an episode that ends makes room for the next
    horizon:        the most actions in one rollout; where it cuts an episode short, that is "truncated" as a time limit is

    Rollouts carry extras["observations"] [N, T+1, D] (index `length` is the true last one), extras["environment_reward"] [N, T],
    which only a signal that asks for it reads, and items with the seed and the episode's `observations`, `actions` and
    `environment_rewards` as arrays, for graders that are plain functions. Offers "entropy" and "values" ([N, T+1]; 0 at a final
    state that is no truncation), and "mean_logp" (over the alternatives) or "mean" and "std" [N, T, D].

    Raises ValueError for spaces it cannot act in, sizes below 1 and starts without an environment.

    >>> policy = ActorCritic("CartPole-v1", hidden=(8,))
    >>> policy.actions.size, policy.observations.size, sorted(policy.offers)
    (2, 4, ['entropy', 'mean_logp', 'values'])
    """

    log_std: Tensor

    def __init__(
        self,
        environment: str | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        spaces: tuple[Any, Any] | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: Literal["tanh", "relu"] = "tanh",
        log_std: float = 0.0,
        normalise: bool = False,
        lanes: int = 32,
        horizon: int = 1000,
    ) -> None:
        super().__init__()
        if (environment is None) == (spaces is None):
            raise ValueError("actor-critic: needs the name of an environment, or spaces; one of the two")
        for name, size in (("lanes", lanes), ("horizon", horizon), *(("hidden", h) for h in hidden)):
            if size < 1:
                raise ValueError(f"actor-critic: {name} must be at least 1, got {size}")
        if activation not in _ACTIVATIONS:
            raise ValueError(f'actor-critic: activation must be "tanh" or "relu", got {activation!r}')
        observation_space, action_space = spaces if spaces is not None else spaces_of(environment or "", dict(options or {}))
        self.observations, self.actions = ObservationVector(observation_space), ActionNumbers(action_space)
        self.lane_count, self.horizon = lanes, horizon
        self.scale = ObservationScale(self.observations.size) if normalise else None
        sizes = (self.observations.size, *hidden)
        self.actor = _perceptron((*sizes, self.actions.size), _ACTIVATIONS[activation], 0.01)
        self.critic = _perceptron((*sizes, 1), _ACTIVATIONS[activation], 1.0)
        if not self.actions.discrete:
            self.log_std = nn.Parameter(torch.full((self.actions.size,), float(log_std)))
        self.offers = frozenset({"entropy", "values"} | ({"mean_logp"} if self.actions.discrete else {"mean", "std"}))

    # --- as any policy

    def rollout(self, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n episodes from every start, in the order of the starts; one group per start, whose episodes begin in one state."""
        group = fresh_ids(len(starts), self.device).repeat_interleave(n)
        items = []
        for start in starts:
            if start.environment is None:
                raise ValueError(f"actor-critic: start {start.id!r} carries no environment; the task must be one of environments")
            items += [{**start.fields, "start": start.id, "environment": start.environment}] * n
        empty, learns = self._no_actions(0), self.scale is not None and self.training and torch.is_grad_enabled()
        if learns:
            self.scale.advance()  # type: ignore[union-attr]
        traj = self._play([_Episode(item, empty) for item in items], rng).replace(group=group)
        if learns:
            met = torch.arange(traj.width + 1, device=traj.device) <= traj.length[:, None]
            self.scale.remember(  # type: ignore[union-attr]
                traj.extras["observations"][met]
            )
        return traj

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

        The environment is taken back to that state by its seed and the recorded actions. `horizon` more actions (None: to the end;
        what is cut short is "truncated"), the first `noisy` of them sampled (None: all), the rest the most probable ones (for real
        actions the mean), which exist and are not acted. Branches of a random environment share the randomness it would have had.
        Raises ValueError for a prefix in which the episode has already ended, for a horizon below 1, for trajectories whose items
        carry no environment, and where replayed observations are not the recorded ones.
        """
        if horizon is not None and horizon < 1:
            raise ValueError(f"ActorCritic.resume: horizon must be at least 1, got {horizon}")
        rows, at = rows.repeat_interleave(n), at.repeat_interleave(n)
        prefix, ends = traj.select(rows), at.tolist()
        late = (at < 0) | (at > prefix.length) | ((at == prefix.length) & (prefix.stop != StopReason.truncated))
        if late.any():
            row = int(late.nonzero()[0, 0])
            raise ValueError(
                f"ActorCritic.resume: trajectory {int(prefix.id[row])}, of {int(prefix.length[row])} actions, "
                f"cannot be continued from action {int(at[row])}"
            )
        if not all("environment" in item for item in prefix.items) or not prefix.items:
            raise ValueError("ActorCritic.resume: needs traj.items with the environment of each trajectory")
        done, met = prefix.actions.cpu().numpy(), self._recorded_observations(prefix).cpu().numpy()
        episodes = [
            _Episode(prefix.items[i], done[i, :end], met[i, : end + 1], end + (horizon or self.horizon), noisy)
            for i, end in enumerate(ends)
        ]
        branch = self._play(episodes, rng)
        width = min(prefix.width, branch.width)
        context = torch.arange(width, device=at.device) < at[:, None]
        mask, logp = branch.mask.clone(), branch.logp["old"].clone()
        mask[:, :width] = torch.where(context, prefix.mask[:, :width], mask[:, :width])
        if "old" in prefix.logp:
            logp[:, :width] = torch.where(context, prefix.logp["old"][:, :width], logp[:, :width])
        return branch.replace(mask=mask, logp={"old": logp}, group=prefix.group, parent=prefix.id, fork=at)

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        """Log-probabilities of the recorded actions (a density, summed over dimensions, where actions are real), with gradient.

        And what else was wanted of `offers`; 0 beyond the end. Raises ValueError for what it cannot give, and for trajectories
        without extras["observations"] [N, T+1, D] of its own environment.
        """
        if unknown := want - self.offers:
            raise ValueError(f"ActorCritic.evaluate: cannot give {sorted(unknown)}; it offers {sorted(self.offers)}")
        states, n, t = self._recorded_observations(traj), len(traj), traj.width
        at = traj.exists.flatten().nonzero().squeeze(1)  # only what exists is looked at, so padding costs and changes nothing
        dense = lambda x: x.new_zeros(n * t, *x.shape[1:]).index_copy(0, at, x).unflatten(0, (n, t))
        flat = self._scaled(states[:, :-1].flatten(0, 1)[at])
        head, taken, more = self.actor(flat), traj.actions.flatten(0, 1)[at], {}
        if self.actions.discrete:
            rows = head.log_softmax(1)
            logp = dense(rows.gather(1, taken.long()[:, None])[:, 0])
            if "entropy" in want:
                more["entropy"] = dense(-(rows.exp() * rows).sum(1))
            if "mean_logp" in want:
                more["mean_logp"] = dense(rows.mean(1))
        else:
            logp = dense(_gaussian_log_density(taken, head, self.log_std))
            if "entropy" in want:
                each = (self.log_std + 0.5 * np.log(2 * np.pi * np.e)).sum()
                more["entropy"] = dense(each.expand(len(flat)))
            if "mean" in want:
                more["mean"] = dense(head)
            if "std" in want:
                more["std"] = dense(self.log_std.exp().expand_as(head))
        if "values" in want:
            places = torch.arange(t + 1, device=traj.device)
            goes_on = (places < traj.length[:, None]) | (
                (places == traj.length[:, None]) & (traj.stop == StopReason.truncated)[:, None]
            )
            where = goes_on.flatten().nonzero().squeeze(1)
            value = self.critic(self._scaled(states.flatten(0, 1)[where]))[:, 0]
            more["values"] = value.new_zeros(n * (t + 1)).index_copy(0, where, value).unflatten(0, (n, t + 1))
        return Evaluation(logp, more)

    @property
    def device(self) -> torch.device:
        return self.actor[0].weight.device  # type: ignore[return-value,union-attr]

    # --- inside

    @torch.no_grad()
    def _play(self, episodes: Sequence[_Episode], rng: torch.Generator) -> Trajectories:
        """Act in every episode to its end, as many at a time as there are lanes."""
        log = _Log(len(episodes))
        worlds: dict[int, list[int]] = {}
        for number, episode in enumerate(episodes):
            worlds.setdefault(id(episode.item["environment"].world), []).append(number)
        for members in worlds.values():
            self._play_in_one_world(episodes, members, log, rng)
        return self._recorded(episodes, log)

    def _play_in_one_world(self, episodes: Sequence[_Episode], members: list[int], log: _Log, rng: torch.Generator) -> None:
        lanes = episodes[members[0]].item["environment"].lanes(min(self.lane_count, len(members)))
        waiting, free = deque(members), list(range(min(self.lane_count, len(members))))
        lane, number, t = (np.zeros(0, dtype=np.int64) for _ in range(3))
        now = np.zeros((0, self.observations.size), dtype=np.float32)
        starts = np.array([len(episode.done) for episode in episodes])
        limit = np.array([self.horizon if episode.limit is None else episode.limit for episode in episodes])
        noisy = np.array([limit.max() if episode.noisy is None else episode.noisy for episode in episodes]) + starts
        some_fixed = bool((noisy < limit).any())
        while waiting or len(lane):
            if waiting and free:
                taken = [(free.pop(), waiting.popleft()) for _ in range(min(len(free), len(waiting)))]
                first = self._begin(lanes, [(i, episodes[k]) for i, k in taken], [k for _, k in taken], log)
                lane = np.concatenate([lane, [i for i, _ in taken]])
                number = np.concatenate([number, [k for _, k in taken]])
                t, now = np.concatenate([t, starts[number[len(t) :]]]), np.concatenate([now, first])
            fixed = t >= noisy[number] if some_fixed else None
            actions, logp = self._choose(now, fixed, rng)
            met, reward, terminated, truncated = lanes.step(lane.tolist(), self.actions.for_environment(actions))
            log.steps.append((number, t, now, actions, logp, reward, np.ones(len(t), dtype=bool) if fixed is None else ~fixed))
            now, t = self.observations(met), t + 1
            over = terminated | truncated | (t >= limit[number])
            if over.any():
                ended = number[over]
                log.length[ended], log.stop[ended] = t[over], np.where(terminated[over], StopReason.finished, StopReason.truncated)
                log.last.append((ended, now[over]))
                free += lane[over].tolist()
                lane, number, t, now = lane[~over], number[~over], t[~over], now[~over]

    def _begin(self, lanes: Lanes, places: list[tuple[int, _Episode]], numbers: list[int], log: _Log) -> np.ndarray:
        """Reset lanes to the starts of episodes and repeat what was already done in them; where they stand then."""
        current = self.observations(lanes.reset([i for i, _ in places], [e.item["environment"].seed for _, e in places]))
        for place, ((i, episode), number) in enumerate(zip(places, numbers, strict=True)):
            for k in range(len(episode.done)):
                before, action = current[place : place + 1].copy(), episode.done[k : k + 1]
                met, reward, terminated, truncated = lanes.step([i], self.actions.for_environment(action))
                log.steps.append((np.array([number]), np.array([k]), before, action, np.zeros(1), reward, np.zeros(1, dtype=bool)))
                current[place] = self.observations(met)[0]
                if terminated[0] or truncated[0]:
                    raise ValueError(
                        f"ActorCritic.resume: the episode from seed {episode.item['environment'].seed} ended while its first "
                        f"{len(episode.done)} actions were repeated, at action {k}"
                    )
            if episode.met is not None and not np.allclose(current[place], episode.met[len(episode.done)], rtol=1e-4, atol=1e-5):
                raise ValueError(
                    f"ActorCritic.resume: {episode.item['environment']!r} does not come back to the recorded observation when its "
                    "actions are repeated: it is not determined by its seed"
                )
        return current

    def _choose(self, observations: np.ndarray, fixed: np.ndarray | None, rng: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Actions and their log-probabilities; the most probable ones where `fixed`."""
        head = self.actor(self._scaled(torch.from_numpy(observations).to(self.device)))
        if self.actions.discrete:
            rows = head.log_softmax(1)
            action = torch.multinomial(rows.exp().to(rng.device), 1, generator=rng)[:, 0].to(head.device)
            if fixed is not None:
                action = torch.where(torch.from_numpy(fixed).to(head.device), rows.argmax(1), action)
            logp = rows.gather(1, action[:, None])[:, 0]
        else:
            noise = torch.randn(head.shape, generator=rng, device=rng.device).to(head.device)
            if fixed is not None:
                noise[torch.from_numpy(fixed).to(head.device)] = 0
            action = head + self.log_std.exp() * noise
            logp = _gaussian_log_density(action, head, self.log_std)
        return action.cpu().numpy(), logp.cpu().numpy()

    def _recorded(self, episodes: Sequence[_Episode], log: _Log) -> Trajectories:
        """What was logged, step by step, as trajectories."""
        n, width = len(episodes), int(log.length.max()) if len(episodes) else 1
        shape = (n, width)
        states = np.zeros((n, width + 1, self.observations.size), dtype=np.float32)
        actions = self._no_actions(n * width).reshape(n, width, *self._no_actions(0).shape[1:])
        logp, reward = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        mask = np.zeros(shape, dtype=bool)
        if log.steps:
            number, t, *columns = (np.concatenate(column) for column in zip(*log.steps))
            for whole, column in zip((states, actions, logp, reward, mask), columns, strict=True):
                whole[number, t] = column
            ended, final = (np.concatenate(column) for column in zip(*log.last))
            states[ended, log.length[ended]] = final
        position = torch.arange(width).expand(shape)
        length = torch.from_numpy(log.length)
        paid = reward.sum(1, dtype=np.float64)
        items = [
            {
                "prompt": f"{episode.item['environment']!r}",
                **episode.item,
                "response": f"{count} steps, return {total:.6g}, {StopReason(why).name}",
                "observations": states[i, : count + 1],
                "actions": actions[i, :count],
                "environment_rewards": reward[i, :count],
            }
            for i, (episode, count, total, why) in enumerate(
                zip(episodes, log.length.tolist(), paid.tolist(), log.stop.tolist(), strict=True)
            )
        ]
        return Trajectories(
            mask=torch.from_numpy(mask),
            length=length,
            group=torch.zeros(n, dtype=torch.int64),
            step=torch.where(position < length[:, None], position, -1).int(),
            stop=torch.from_numpy(log.stop),
            actions=torch.from_numpy(actions),
            logp={"old": torch.from_numpy(logp)},
            items=items,
            extras={"observations": torch.from_numpy(states), "environment_reward": torch.from_numpy(reward)},
        ).to(self.device)

    def _no_actions(self, n: int) -> np.ndarray:
        return np.zeros(n, dtype=np.int64) if self.actions.discrete else np.zeros((n, self.actions.size), dtype=np.float32)

    def _recorded_observations(self, traj: Trajectories) -> Float[Tensor, "N T1 D"]:
        states, size = traj.extras.get("observations"), self.observations.size
        if states is None or states.shape != (len(traj), traj.width + 1, size):
            found = "none" if states is None else f"{list(states.shape)}"
            raise ValueError(
                f"actor-critic: needs extras['observations'] [N, T+1, D] = [{len(traj)}, {traj.width + 1}, {size}], found {found}; "
                "the task and the policy must name the same environment"
            )
        return states

    def _scaled(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        return x if self.scale is None else self.scale(x)


class _Episode(NamedTuple):
    """One episode to play: what its item says, the actions it has already taken and what they met, and where to stop."""

    item: Mapping[str, Any]
    done: np.ndarray
    met: np.ndarray | None = None
    limit: int | None = None
    noisy: int | None = None


@dataclasses.dataclass
class _Log:
    """Everything that happened, in the order it did: rows for several episodes at a time."""

    count: int
    steps: list[tuple[np.ndarray, ...]] = dataclasses.field(default_factory=list)
    last: list[tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.length = np.ones(self.count, dtype=np.int64)
        self.stop = np.zeros(self.count, dtype=np.int64)


def _perceptron(sizes: Sequence[int], activation: Callable[[], nn.Module], last_gain: float) -> nn.Sequential:
    def layers() -> Iterator[nn.Module]:
        for i, (a, b) in enumerate(itertools.pairwise(sizes)):
            final = i == len(sizes) - 2
            linear = nn.Linear(a, b)
            nn.init.orthogonal_(linear.weight, last_gain if final else 2**0.5)
            nn.init.zeros_(linear.bias)
            yield linear
            if not final:
                yield activation()

    return nn.Sequential(*layers())


def _gaussian_log_density(x: Float[Tensor, "n D"], mean: Float[Tensor, "n D"], log_std: Float[Tensor, " D"]) -> Float[Tensor, " n"]:
    each = -0.5 * ((x - mean) / log_std.exp()).square() - log_std - 0.5 * np.log(2 * np.pi)
    return each.sum(1)
