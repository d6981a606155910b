"""gymnasium environments played in text: the policy writes what it does, and reads what the environment shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from payoff._extras import require
from payoff.catalogue import method
from payoff.pipeline import Response, Start
from payoff.tasks.turns.dialogue import LINE, Dialogue, SeededDialogues
from payoff.tasks.turns.processes import InProcess
from payoff.trajectories import StopReason


class GymnasiumEpisode:
    """One episode from its seed. An action that cannot be read is told so and costs a turn, not a step."""

    def __init__(
        self,
        environment: str | Callable[[], Any],
        options: Mapping[str, Any],
        seed: int,
        actions: Sequence[str] | None,
        observe: str,
        success: float | None,
    ) -> None:
        gymnasium = require("gymnasium", "the task turns-gymnasium")
        more = {"render_mode": "ansi"} if observe == "render" else {}
        if isinstance(environment, str):
            self.env = gymnasium.make(environment, disable_env_checker=True, **{**options, **more})
        else:
            self.env = environment()
        self.observe, self.success, self.returned = observe, success, 0.0
        space = self.env.action_space
        self.named: dict[str, Any] | None = None
        if isinstance(space, gymnasium.spaces.Discrete):
            names = [str(k) for k in range(int(space.n))] if actions is None else list(actions)
            if len(names) != int(space.n):
                raise ValueError(f"turns-gymnasium: {len(names)} actions are named, and the environment has {int(space.n)}")
            self.named = {name.lower(): int(space.start) + k for k, name in enumerate(names)}
        elif not isinstance(space, gymnasium.spaces.Text):
            raise ValueError(f"turns-gymnasium: actions must be a Text or Discrete space, got {space}")
        self.first = self.shown(self.env.reset(seed=seed)[0])

    def shown(self, observation: Any) -> str:
        """An observation as text, closed by a line break."""
        text = self.env.render() if self.observe == "render" else observation
        return str(text).rstrip("\n") + "\n"

    @property
    def outcome(self) -> float:
        """The return so far, or whether it is a success."""
        return self.returned if self.success is None else float(self.returned >= self.success)

    def respond(self, action: str) -> Response:
        """One step of the environment."""
        said = action.strip()
        if self.named is not None and said.lower() not in self.named:
            return Response(f"Not understood; write one of: {', '.join(self.named)}.\n", 0.0, None)
        taken = said if self.named is None else self.named[said.lower()]
        observation, reward, terminated, truncated, _ = self.env.step(taken)
        self.returned += float(reward)
        stop = StopReason.finished if terminated else StopReason.truncated if truncated else None
        return Response(self.shown(observation), float(reward), stop)

    def snapshot(self) -> None:
        """None: an episode comes back by repeating its actions from the seed."""

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


@method("turns-gymnasium", kind="task")
class GymnasiumTextTask(SeededDialogues):
    """A gymnasium environment with actions of text, or actions that have names, as a task of turns.

    environment: its name (`MODULE:NAME` imports the module first), or a callable that makes one
    options:     given to `gymnasium.make`
    actions:     what the actions of a discrete space are called, in their order (None: their numbers)
    observe:     "observation": its text; "render": what the environment draws as text (render_mode "ansi")
    intro:       what the prompt says before the first observation
    turns:       at most
    deadline:    seconds for one answer, kept by running each episode in a process that is killed (None: in this process, no limit)
    together:    episodes asked at a time, with a deadline
    success:     the return from which an episode counts as a success: the truth is then 1 or 0, and otherwise the return itself
    seeds:       how many starts there are to train on (0: no limit); held-out ones are others

    The environment is made once for each start to see where it begins. Raises ValueError at the first start for actions of another
    kind.

    >>> task = GymnasiumTextTask(
    ...     "FrozenLake-v1", options={"is_slippery": False}, actions=["left", "down", "right", "up"], observe="render"
    ... )
    >>> start = task.start(0)
    >>> print(start.environment.respond("down").observation.splitlines()[0])
      (Down)
    >>> start.environment.respond("jump").observation
    'Not understood; write one of: left, down, right, up.\\n'
    """

    name = "turns-gymnasium"

    def __init__(
        self,
        environment: str | Callable[[], Any],
        *,
        options: Mapping[str, Any] | None = None,
        actions: Sequence[str] | None = None,
        observe: Literal["observation", "render"] = "observation",
        intro: str = "",
        turns: int = 32,
        deadline: float | int | None = None,
        together: int = 8,
        success: float | None = None,
        seeds: int = 0,
    ) -> None:
        if observe not in ("observation", "render"):
            raise ValueError(f'turns-gymnasium: observe must be "observation" or "render", got {observe!r}')
        self.environment, self.options, self.actions = environment, dict(options or {}), actions
        self.observe, self.intro, self.turns, self.success, self.seeds = observe, intro, turns, success, seeds
        self.deadline, self.together = deadline, together

    def start(self, seed: int) -> Start:
        """The start of this seed. fields: prompt (`intro`, the actions' names, the first observation), seed."""
        make: Any = partial(GymnasiumEpisode, self.environment, self.options, seed, self.actions, self.observe, self.success)
        first = make()
        named = "" if first.named is None else f"Actions: {', '.join(first.named)}. Write one a line.\n"
        fields = {"prompt": self.intro + named + first.first, "seed": seed}
        first.close()
        called = self.environment if isinstance(self.environment, str) else getattr(self.environment, "__name__", "environment")
        if self.deadline is not None:
            make = InProcess(make, self.deadline)
        together = 0 if self.deadline is None else self.together
        return Start(f"{called}:{seed}", fields, Dialogue(make, turns=self.turns, ends=LINE, concurrency=together))
