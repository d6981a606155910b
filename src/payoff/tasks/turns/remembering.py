"""A sandbox that tells again what a call gave, where the same call was run before: rollouts of a group often make the same ones."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from payoff.sandbox.handle import Sandbox
from payoff.sandbox.results import CaseResult, Ended, Limits

_KEPT = (Ended.FINISHED, Ended.ERROR)


class RememberingSandbox:
    """Calls run in a sandbox, the last `most` different ones remembered; 0: each is run whenever it is made.

    A call is the same where source, entry point, arguments and limits are. What ran out of time or memory, or was lost, is run anew
    each time: another run might end otherwise. So for code that always does the same nothing changes but the time it takes; code
    that draws random numbers or reads the clock would always be told the first outcome. A pickled one has forgotten everything.
    Raises ValueError for most below 0, and as `Sandbox` does.

    >>> sandbox = RememberingSandbox("process", most=8)
    >>> [sandbox.call_function("def twice(x): return 2 * x", "twice", [((3,), {})])[0].value for _ in range(2)], sandbox.runs
    ([6, 6], 1)
    """

    def __init__(self, isolation: str = "strict", *, most: int = 0) -> None:
        if most < 0:
            raise ValueError(f"RememberingSandbox: most must be at least 0, got {most}")
        self.sandbox, self.most, self.runs = Sandbox(isolation), most, 0
        self._known: dict[tuple[Any, ...], list[CaseResult]] = {}
        self._lock = threading.Lock()

    def call_function(
        self,
        source: str,
        entry_point: str,
        calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]],
        *,
        limits: Limits | None = None,
    ) -> list[CaseResult]:
        """As `Sandbox.call_function`, run or remembered."""
        key = (source, entry_point, repr([(tuple(arguments), dict(keywords)) for arguments, keywords in calls]), limits)
        if (known := self._known.get(key)) is not None:
            return known
        found = self.sandbox.call_function(source, entry_point, calls, limits=limits)
        self.runs += 1
        if self.most and all(case.run.ended in _KEPT for case in found):
            with self._lock:
                while len(self._known) >= self.most:
                    del self._known[next(iter(self._known))]
                self._known[key] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "_lock": threading.Lock()}
