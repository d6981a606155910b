"""A gymnasium environment as a task: every start is a seed, and what is truly wanted is the environment's own return.

A start carries its environment as `Simulation`, from which a control policy takes lanes; one turn at a time, `respond` plays it as
any interactive task is played.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from payoff._extras import require
from payoff.catalogue import method
from payoff.pipeline import Response, Start
from payoff.trajectories import Channel, StopReason, Trajectories, outcome, place_outcome

_HELD_OUT = 2**30  # training seeds lie below, held-out seeds from here on
_FILMED = 4  # episodes of a batch that are repeated to be drawn: that takes about as long as acting in them did
_FRAMES, _WIDE, _STATES = 6, 72, 200  # of a picture of an episode: frames, their width in pixels, observations


@method("environment", kind="task")
class EnvironmentTask:
    """Episodes of a gymnasium environment, each from a seed of its own.

    environment: its name (`MODULE:NAME` imports the module first, `minigrid:MiniGrid-DoorKey-5x5-v0`), or a callable that makes one
    options:     given to `gymnasium.make`
    max_steps:   another time limit than the environment's own; an episode that reaches it is truncated
    seeds:       how many starts there are to train on (0: no limit). Held-out starts are others
    processes:   step the environments in processes of their own (`gymnasium.vector.AsyncVectorEnv`): for slow environments
    success:     the return from which an episode counts as a success: the truth is then 1 or 0, and otherwise the return itself

    Rollouts of one start begin in one and the same state, so comparing them compares what was done.
    Raises ValueError for sizes below 0, and at the first rollout for a name that gymnasium does not know.

    >>> task = EnvironmentTask("CartPole-v1", seeds=2)
    >>> sorted({start.fields["seed"] for start in task.starts(20, torch.Generator().manual_seed(0))})
    [0, 1]
    >>> task.held_out_starts(1)[0].environment
    CartPole-v1 from seed 1073741824
    """

    def __init__(
        self,
        environment: str | Callable[[], Any],
        *,
        options: Mapping[str, Any] | None = None,
        max_steps: int | None = None,
        seeds: int = 0,
        processes: bool = False,
        success: float | None = None,
    ) -> None:
        if seeds < 0 or (max_steps is not None and max_steps < 1):
            raise ValueError(f"environment: seeds must be at least 0 and max_steps at least 1, got {seeds} and {max_steps}")
        self.world = World(environment, dict(options or {}), max_steps, processes)
        self.seeds, self.success = seeds, success

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n seeds drawn evenly from those to train on."""
        drawn = torch.randint(self.seeds or _HELD_OUT, (n,), generator=rng, device=rng.device)
        return [self._start(seed) for seed in drawn.tolist()]

    def held_out_starts(self, n: int) -> Sequence[Start]:
        """The first n of the seeds that are never trained on."""
        return [self._start(_HELD_OUT + i) for i in range(n)]

    def truth(self, traj: Trajectories) -> Channel:
        """The environment's own return, undiscounted, paid at the end; or, with `success`, whether it was reached.

        Raises ValueError for trajectories without extras["environment_reward"].
        """
        paid = traj.extras.get("environment_reward")
        if paid is None:
            raise ValueError("environment: the truth needs traj.extras['environment_reward'], as rollouts in environments carry")
        everywhere = torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device)
        total, known = outcome(Channel(paid.double(), everywhere), traj)
        if self.success is not None:
            total = (total >= self.success).double()
        return place_outcome(total, known, traj)

    def picture(self, traj: Trajectories, row: int) -> dict[str, Any] | None:
        """The episode for the report: what each action was paid, beneath frames where the environment draws, else observations.

        The first few of a batch are drawn: repeated from the seed by the recorded actions, in an environment of their own.
        None where an episode was not recorded, or with numbers that are not finite.
        """
        item = traj.items[row] if traj.items else {}
        if not {"environment_rewards", "observations", "actions", "environment"} <= set(item):
            return None
        rewards, met = (np.asarray(item[name], dtype=np.float64) for name in ("environment_rewards", "observations"))
        if not (np.isfinite(rewards).all() and np.isfinite(met).all()) or len(rewards) > 4096:
            return None
        picture = {"kind": "episode", "rewards": [float(f"{x:.5g}") for x in rewards]}
        at = np.linspace(0, len(rewards), min(len(rewards) + 1, _FRAMES)).astype(int).tolist()
        if row < _FILMED and (frames := self.world.film(item["environment"].seed, item["actions"], at)):
            return {**picture, "frames": frames}
        some = met[:: len(met) // _STATES + 1, :64]
        return {**picture, "observations": [[float(f"{x:.4g}") for x in state] for state in some]}

    def _start(self, seed: int) -> Start:
        simulation = Simulation(self.world, seed)
        return Start(f"{self.world.name}-{seed}", {"prompt": repr(simulation), "seed": seed}, simulation)


class World:
    """How one environment is made, and those of it that are standing ready; a copy in another process has none ready."""

    def __init__(
        self,
        environment: str | Callable[[], Any],
        options: dict[str, Any] | None = None,
        max_steps: int | None = None,
        processes: bool = False,
    ) -> None:
        self.environment, self.options, self.max_steps, self.processes = environment, options or {}, max_steps, processes
        self._ready: list[Any] = []
        self._vector: ProcessLanes | None = None
        self._stage: Any = None  # draws the episodes that the report shows
        self._draws = True

    @property
    def name(self) -> str:
        return self.environment if isinstance(self.environment, str) else getattr(self.environment, "__name__", "environment")

    def make(self, **more: Any) -> Any:
        """One more environment; `more` is given to `gymnasium.make` as options are."""
        gymnasium = require("gymnasium", "a task of environments")
        limit = {} if self.max_steps is None else {"max_episode_steps": self.max_steps}
        if not isinstance(self.environment, str):
            made = self.environment()
            return gymnasium.wrappers.TimeLimit(made, self.max_steps) if self.max_steps is not None else made
        try:
            return gymnasium.make(self.environment, disable_env_checker=True, **limit, **{**self.options, **more})
        except (gymnasium.error.Error, TypeError) as error:
            raise ValueError(f"environment {self.environment!r}: {error}") from error

    def lanes(self, count: int) -> SerialLanes | ProcessLanes:
        """`count` lanes, the same environments each time."""
        if self.processes:
            if self._vector is None or self._vector.count < count:
                if self._vector is not None:
                    self._vector.close()
                self._vector = ProcessLanes(self.make, count)
            return self._vector
        self._ready += [self.make() for _ in range(count - len(self._ready))]
        return SerialLanes(self._ready[:count])

    def film(self, seed: int, actions: np.ndarray | Sequence[Any], at: Sequence[int]) -> list[dict[str, Any]]:
        """Small grey frames after so many of these actions; none where the environment cannot draw itself here.

        Drawing needs a screen or libraries that a machine that trains may lack, and every environment fails at it in its own way:
        a run goes on without pictures, and a warning says why.
        """
        if not self._draws or not isinstance(self.environment, str):
            return []
        try:
            if self._stage is None:
                self._stage = self.make(render_mode="rgb_array")
            self._stage.reset(seed=seed)
            frames = []
            for done in range(len(actions) + 1):
                if done in at:
                    frames.append(_small(done, np.asarray(self._stage.render(), dtype=np.float64)))
                if done < len(actions):
                    self._stage.step(_taken(self._stage.action_space, actions[done]))
        except Exception as error:  # of any of a dozen drawing libraries
            self._draws = False
            warnings.warn(f"environment {self.environment}: no frames, {type(error).__name__}: {error}", stacklevel=2)
            return []
        return frames

    def close(self) -> None:
        """Close what stands ready."""
        for made in [*self._ready, *([self._vector] if self._vector else []), *([self._stage] if self._stage else [])]:
            made.close()
        self._ready, self._vector, self._stage = [], None, None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": [], "_vector": None, "_stage": None}


class Simulation:
    """One start: a world and the seed its episode begins from."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.seed = world, seed
        self._own: Any = None

    def lanes(self, count: int) -> SerialLanes | ProcessLanes:
        """`count` lanes of this world."""
        return self.world.lanes(count)

    def respond(self, action: Any) -> Response:
        """One action in an episode of this start's own, begun at the first call."""
        if self._own is None:
            self._own = self.world.make()
            self._own.reset(seed=self.seed)
        observation, reward, terminated, truncated, _ = self._own.step(action)
        stop = StopReason.finished if terminated else StopReason.truncated if truncated else None
        return Response(observation, float(reward), stop)

    def snapshot(self) -> None:
        """None: environments come back by repeating the actions from the seed (copies of MuJoCo's are fresh environments)."""

    def __repr__(self) -> str:
        return f"{self.world.name} from seed {self.seed}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_own": None}


class SerialLanes:
    """Environments stepped one after the other in this process."""

    def __init__(self, environments: Sequence[Any]) -> None:
        self.environments = environments

    def reset(self, lanes: Sequence[int], seeds: Sequence[int]) -> list[Any]:
        """First observations of episodes from these seeds."""
        return [self.environments[i].reset(seed=seed)[0] for i, seed in zip(lanes, seeds, strict=True)]

    def step(self, lanes: Sequence[int], actions: np.ndarray) -> tuple[list[Any], np.ndarray, np.ndarray, np.ndarray]:
        """(observations, rewards, terminated, truncated)."""
        met, reward, terminated, truncated, _ = zip(*(self.environments[i].step(a) for i, a in zip(lanes, actions)))
        return list(met), np.array(reward, dtype=np.float32), np.array(terminated), np.array(truncated)


class ProcessLanes:
    """Environments in processes of their own, all stepped at once; lanes not asked for take any action and are not looked at."""

    def __init__(self, make: Callable[[], Any], count: int) -> None:
        vector = require("gymnasium.vector", "environments in processes")
        self.count, self._lib = count, vector
        self._vector = vector.AsyncVectorEnv([make] * count, autoreset_mode=vector.AutoresetMode.NEXT_STEP)
        self._vector.reset(seed=0)
        self._idle = np.stack([np.asarray(self._vector.single_action_space.sample())] * count)

    def reset(self, lanes: Sequence[int], seeds: Sequence[int]) -> list[Any]:
        """First observations of episodes from these seeds."""
        mask, seed = np.zeros(self.count, dtype=bool), [0] * self.count
        for i, own in zip(lanes, seeds, strict=True):
            mask[i], seed[i] = True, own
        return self._of(self._vector.reset(seed=seed, options={"reset_mask": mask})[0], lanes)

    def step(self, lanes: Sequence[int], actions: np.ndarray) -> tuple[list[Any], np.ndarray, np.ndarray, np.ndarray]:
        """(observations, rewards, terminated, truncated); where an episode ends, the observation is its true last one."""
        every = self._idle.astype(actions.dtype)
        every[list(lanes)] = actions
        met, reward, terminated, truncated, _ = self._vector.step(every)
        some = list(lanes)
        return self._of(met, lanes), reward[some].astype(np.float32), terminated[some], truncated[some]

    def close(self) -> None:
        """End the processes."""
        self._vector.close()

    def _of(self, met: Any, lanes: Sequence[int]) -> list[Any]:
        separate = list(self._lib.utils.iterate(self._vector.observation_space, met))
        return [separate[i] for i in lanes]


def _taken(space: Any, action: Any) -> Any:
    """A recorded action as the environment takes it: counted from where a discrete space begins, or cut to the box."""
    if hasattr(space, "n"):
        return int(action) + int(space.start)
    return np.clip(np.reshape(action, space.shape), space.low, space.high).astype(space.dtype)


def _small(at: int, drawn: np.ndarray) -> dict[str, Any]:
    """A drawn frame [height, width, 3] in grey, `_WIDE` pixels wide, each the mean of a block of pixels, as the report reads it."""
    grey = drawn[..., :3] @ np.array([0.299, 0.587, 0.114])
    block = max(1, -(-max(grey.shape) // _WIDE))
    height, width = (size // block for size in grey.shape)
    means = grey[: height * block, : width * block].reshape(height, block, width, block).mean((1, 3))
    data = base64.b64encode(means.round().clip(0, 255).astype(np.uint8).tobytes()).decode()
    return {"at": at, "width": width, "height": height, "grey": data}
