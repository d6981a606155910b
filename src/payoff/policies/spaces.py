"""How gymnasium's spaces become numbers: an observation as one flat vector, an action as what the environment takes.

Reads spaces only; nothing here acts or learns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from payoff._extras import require


@dataclass(frozen=True)
class ObservationVector:
    """Observations of one space as rows of float32.

    Boxes and bits are flattened, discrete values become one-hot, the parts of a dict or tuple stand side by side in the space's own
    order, and text (MiniGrid's mission) is left out. Nothing is scaled. Raises ValueError for a space with nothing to read.

    >>> from gymnasium import spaces
    >>> vector = ObservationVector(spaces.Dict(direction=spaces.Discrete(3), place=spaces.Box(-1, 1, (2,))))
    >>> vector.size, vector([{"direction": 1, "place": [0.5, -0.5]}]).tolist()
    (5, [[0.0, 1.0, 0.0, 0.5, -0.5]])
    """

    space: Any

    def __post_init__(self) -> None:
        if not self.size:
            raise ValueError(f"ObservationVector: nothing in {self.space} can be read as numbers")

    @cached_property
    def size(self) -> int:
        return _size(self.space)

    @cached_property
    def _plain(self) -> bool:
        return isinstance(self.space, require("gymnasium.spaces", "an observation space").Box)

    def __call__(self, observations: Sequence[Any] | np.ndarray) -> np.ndarray:
        """[n, size], one row per observation."""
        if self._plain:  # one conversion for all lanes: this runs at every step of every environment
            return np.asarray(observations, dtype=np.float32).reshape(len(observations), -1)
        return np.stack([np.concatenate(_numbers(self.space, one)) for one in observations])


@dataclass(frozen=True)
class ActionNumbers:
    """What a policy chooses between: `size` alternatives where `discrete`, else that many real numbers.

    Raises ValueError for a space that is neither Discrete nor a Box of floats.

    >>> from gymnasium import spaces
    >>> torque = ActionNumbers(spaces.Box(-1, 1, (2,)))
    >>> torque.discrete, torque.size, torque.for_environment(np.array([[3.0, 0.5]])).tolist()
    (False, 2, [[1.0, 0.5]])
    """

    space: Any

    def __post_init__(self) -> None:
        spaces = require("gymnasium.spaces", "an action space")
        floats = isinstance(self.space, spaces.Box) and np.issubdtype(self.space.dtype, np.floating)
        if not (isinstance(self.space, spaces.Discrete) or floats):
            raise ValueError(f"ActionNumbers: the action space must be Discrete or a Box of floats, is {self.space}")

    @cached_property
    def discrete(self) -> bool:
        return hasattr(self.space, "n")

    @cached_property
    def size(self) -> int:
        return int(self.space.n) if self.discrete else int(np.prod(self.space.shape))

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        """Chosen numbers as the environment takes them: shifted to where a discrete space begins, or cut to the box."""
        if self.discrete:
            return actions + int(self.space.start)
        shaped = actions.reshape(len(actions), *self.space.shape)
        return np.clip(shaped, self.space.low, self.space.high).astype(self.space.dtype)


def spaces_of(environment: str | Callable[[], Any], options: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """(observation space, action space) of an environment by its gymnasium name, or of what the callable makes."""
    made = make_environment(environment, options or {})
    try:
        return made.observation_space, made.action_space
    finally:
        made.close()


def make_environment(environment: str | Callable[[], Any], options: dict[str, Any]) -> Any:
    """One gymnasium environment; ValueError with gymnasium's own words for a name or options it does not know."""
    if not isinstance(environment, str):
        return environment()
    gymnasium = require("gymnasium", "an environment")
    try:
        return gymnasium.make(environment, **options)
    except (gymnasium.error.Error, TypeError) as error:
        raise ValueError(f"environment {environment!r}: {error}") from error


def _size(space: Any) -> int:
    spaces = require("gymnasium.spaces", "an observation space")
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return int(np.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(np.sum(space.nvec))
    return sum(_size(part) for _, part in _parts(space))


def _numbers(space: Any, observation: Any) -> list[np.ndarray]:
    spaces = require("gymnasium.spaces", "an observation space")
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return [np.asarray(observation, dtype=np.float32).reshape(-1)]
    if isinstance(space, spaces.Discrete):
        return [_one_hot(int(observation) - int(space.start), int(space.n))]
    if isinstance(space, spaces.MultiDiscrete):
        offsets = np.asarray(observation).reshape(-1) - np.asarray(space.start).reshape(-1)
        return [_one_hot(int(x), int(n)) for x, n in zip(offsets, np.asarray(space.nvec).reshape(-1))]
    return [part for key, inner in _parts(space) for part in _numbers(inner, observation[key])]


def _one_hot(place: int, size: int) -> np.ndarray:
    row = np.zeros(size, dtype=np.float32)
    row[place] = 1
    return row


def _parts(space: Any) -> list[tuple[Any, Any]]:
    """The subspaces that can be read as numbers, by key."""
    inner = getattr(space, "spaces", ())
    return [(key, part) for key, part in (inner.items() if hasattr(inner, "items") else enumerate(inner)) if _size(part)]
