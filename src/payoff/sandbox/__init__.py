"""Runs what a model wrote where it can do no harm and learn no answers; `docs/sandbox.md` says what each level gives.

Names are imported when they are used: the server imports this package too, and stays small.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from payoff.sandbox.examination import examine
    from payoff.sandbox.handle import Sandbox
    from payoff.sandbox.plain import same
    from payoff.sandbox.results import LEVELS, CaseResult, Ended, Limits, Result, SandboxError

_HOME_OF = {
    "examine": "examination",
    "Sandbox": "handle",
    "same": "plain",
    **dict.fromkeys(("LEVELS", "CaseResult", "Ended", "Limits", "Result", "SandboxError"), "results"),
}
__all__ = ["LEVELS", "CaseResult", "Ended", "Limits", "Result", "Sandbox", "SandboxError", "examine", "same"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'payoff.sandbox' has no attribute {name!r}")
    return getattr(importlib.import_module(f"payoff.sandbox.{_HOME_OF[name]}"), name)
