"""payoff: is this the right reward?

Signals, shaping, credit, advantages and losses over one trajectory structure, and trust in a reward as a measured thing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from payoff.catalogue import find, method
    from payoff.grading import load_callable, signal
    from payoff.parts import Parts, Settings
    from payoff.pipeline import LossOutput, Start, Term, Verdict, chain, everywhere, join, on, weigh
    from payoff.rows import from_rows, read_rows, to_rows, write_rows
    from payoff.scoring import resolve_reward, score_rows, validate
    from payoff.trajectories import Channel, Pairs, Rewards, StopReason, Trajectories, concatenate

__version__ = "0.1.0"

_HOMES = {
    "catalogue": ("find", "method"),
    "grading": ("load_callable", "signal"),
    "pipeline": ("LossOutput", "Start", "Term", "Verdict", "chain", "everywhere", "join", "on", "weigh"),
    "rows": ("from_rows", "read_rows", "to_rows", "write_rows"),
    "scoring": ("resolve_reward", "score_rows", "validate"),
    "parts": ("Parts", "Settings"),
    "trajectories": ("Channel", "Pairs", "Rewards", "StopReason", "Trajectories", "concatenate"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022  # by home, as above
    "find", "method", "load_callable", "signal", "LossOutput", "Start", "Term", "Verdict", "chain", "everywhere", "join", "on",
    "weigh", "from_rows", "read_rows", "to_rows", "write_rows", "resolve_reward", "score_rows", "validate", "Parts", "Settings",
    "Channel", "Pairs", "Rewards", "StopReason", "Trajectories", "concatenate",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Names are imported when they are used, so that the command line starts without torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'payoff' has no attribute {name!r}")
    return getattr(importlib.import_module(f"payoff.{_HOME_OF[name]}"), name)
