"""What this machine gives a sandbox, what is missing and why."""

from __future__ import annotations

import os
import platform
import shutil
import sys

from payoff.sandbox import kernel, starting
from payoff.sandbox.handle import Sandbox
from payoff.sandbox.languages import COMPILERS
from payoff.sandbox.results import LEVELS, Ended, SandboxError

_TOOLS = {"C": ("gcc", "gcc"), "C++": ("g++", "g++"), "Verilog": ("iverilog", "iverilog")}
_SWITCHES = {
    "/proc/sys/user/max_user_namespaces": ("0", "user namespaces are switched off: sysctl user.max_user_namespaces=10000"),
    "/proc/sys/kernel/unprivileged_userns_clone": ("0", "for root only: sysctl kernel.unprivileged_userns_clone=1"),
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "AppArmor restricts them: sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
}


def examine() -> dict[str, list[str]]:
    """Two lists of lines: `works`, every level and language that a program was really run at, and `missing`, with the reason.

    >>> sorted(examine())
    ['missing', 'works']
    """
    works: list[str] = []
    missing: list[str] = []
    for level in LEVELS:
        try:
            run = Sandbox(level).run_python("print(6 * 7)")
        except SandboxError as error:
            missing.append(f"sandbox {level}: {str(error).partition(': ')[2].partition(';')[0]}{_switched_off()}")
            continue
        if run.ended is Ended.FINISHED and run.stdout == "42\n":
            works.append(f"sandbox {level}: {', '.join(run.isolation)}")
        else:
            missing.append(f"sandbox {level}: a test program did not run ({run.ended}: {run.reason})")
    version = kernel.landlock_version()
    if not version:
        missing.append(f"Landlock: not in this kernel ({platform.release()}) or not allowed; the other walls stand without it")
    why = starting.why_no_groups()
    if why:
        missing.append(f"control groups: {why}; the memory of all processes of a strict run is looked at every 50 ms instead")
    for language, (tool, package) in _TOOLS.items():
        path = shutil.which(tool, path=COMPILERS)
        (works if path else missing).append(f"{language}: {path}" if path else f"{language}: apt-get install {package}")
    if sys.platform != "linux":
        missing.append(f"the sandbox needs Linux, and this is {sys.platform}")
    return {"works": works, "missing": missing}


def _switched_off() -> str:
    """The settings of the system that explain why namespaces cannot be had."""
    found = []
    for path, (value, why) in _SWITCHES.items():
        if os.path.exists(path):
            with open(path) as file:
                if file.read().strip() == value:
                    found.append(why)
    return "".join(f"; {why}" for why in found)
