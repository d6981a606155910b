"""What verl finds under names of ours: its entry point group `verl.plugins` names this module, and every process that imports verl
imports it.

verl loads such a module in the middle of its own import, calls nothing in it, and says at DEBUG level when that fails. So importing
this one costs nothing and cannot fail: it only asks to be told when verl's registries come into being, and fills them then. What
goes wrong there is raised there.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

CORE = "verl.trainer.ppo.core_algos"
MANAGERS = "verl.experimental.reward_loop.reward_manager"
TRAINERS = "verl.trainer.ppo.v1"
TRAINER_MODES = ("sync", "colocate_async", "separate_async")


def register() -> None:
    """Put our names into verl's registries: now where these are there already, else as soon as they are.

    Importing this module has done it; again changes nothing.
    """
    fills = {CORE: _fill_core, MANAGERS: _fill_managers, TRAINERS: _fill_trainers}
    hook = next((finder for finder in sys.meta_path if isinstance(finder, _AfterImport)), None)
    if hook is None:
        hook = _AfterImport()
        sys.meta_path.insert(0, hook)
    for name, fill in fills.items():
        module = sys.modules.get(name)
        if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
            fill(module)
        else:
            hook.waiting[name] = fill


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module once that has been imported, by whomever."""

    def __init__(self) -> None:
        self.waiting: dict[str, Callable[[ModuleType], None]] = {}

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if name not in self.waiting:
            return None
        finders = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(name, path, target) for finder in finders if hasattr(finder, "find_spec"))
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def executed(module: ModuleType) -> None:
                execute(module)
                fill = self.waiting.pop(name, None)
                if fill is not None:
                    fill(module)

            spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


def _fill_core(core: ModuleType) -> None:
    from payoff.integrations.method_names import estimator_names, loss_names
    from payoff.integrations.verl_methods import estimator, policy_loss

    for name in estimator_names():
        core.register_adv_est(name)(estimator(name))
    for name in loss_names():
        core.register_policy_loss(name)(policy_loss(name))


def _fill_managers(managers: ModuleType) -> None:
    from payoff.integrations.verl_reward import reward_manager

    managers.register("payoff")(reward_manager())


def _fill_trainers(trainers: ModuleType) -> None:
    from payoff.integrations.verl_trainer import trainer_class

    for mode in TRAINER_MODES:
        trainers.register_trainer(f"payoff_{mode}")(trainer_class(trainers.get_trainer_cls(mode), mode))


register()
