"""How a command ends: its text or one JSON object, errors in one line each, the exit code; and the one console there is."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from payoff import __version__

if TYPE_CHECKING:
    from rich.console import Console

_settings = {"color": "auto", "debug": False, "silent": False, "events": False}


@dataclass
class Answer:
    """What a command has to say: text for people, results for programs, and how it ended."""

    text: str = ""
    results: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    exit_code: int = 0
    verdict: str | None = None
    next: str | None = None
    report: str | None = None
    config_hash: str | None = None


def configure(arguments: Sequence[str]) -> list[str]:
    """Take the options that every command has (--color, --debug, -qq, --json-lines) out of the arguments, wherever they stand."""
    _settings.update(color="auto", debug=False, silent=False, events=False)
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--debug":
            _settings["debug"] = True
        elif word == "-qq":
            _settings["silent"] = True
        elif word == "--json-lines":
            _settings["events"] = True
            rest.append("--json")
        elif word == "--color":
            _settings["color"] = next(words, "")
        elif word.startswith("--color="):
            _settings["color"] = word.partition("=")[2]
        else:
            rest.append(word)
    if _settings["color"] not in ("auto", "always", "never"):
        print(f'error: --color must be auto, always or never, is "{_settings["color"]}"', file=sys.stderr)
        raise SystemExit(2)
    if not colour_wanted():
        os.environ["NO_COLOR"] = "1"
    return rest


def colour_wanted() -> bool:
    """--color, then NO_COLOR, then FORCE_COLOR, then whether standard error is a terminal that is not dumb."""
    if _settings["color"] != "auto":
        return _settings["color"] == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stderr.isatty() and os.environ.get("TERM") != "dumb")


def console() -> Console:
    """The console for progress and talk: standard error."""
    from rich.console import Console

    return Console(stderr=True, no_color=not colour_wanted(), highlight=False, markup=False)


def say(text: str) -> None:
    """One line of talk."""
    if not _settings["silent"]:
        print(plain(text), file=sys.stderr, flush=True)


def silent() -> bool:
    """Whether nothing is to be shown, and the exit code is all (-qq)."""
    return bool(_settings["silent"])


def events_wanted() -> bool:
    """Whether a program reads along (--json-lines)."""
    return bool(_settings["events"]) and not silent()


def event(kind: str, **fields: Any) -> None:
    """Something that happened on the way, as a line of JSON on standard output, for who asked for --json-lines."""
    if events_wanted():
        print(json.dumps({"event": kind, **fields}, ensure_ascii=False, allow_nan=False), flush=True)


def plain(text: str) -> str:
    """Text with control characters and escape sequences made visible, so that what a model wrote cannot steer the terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)


_USERS = {  # exceptions that are somebody's input and not our failure, by the module that raises them
    "payoff._extras": ("MissingExtraError",),
    "payoff.audit.report": ("AuditError",),
    "payoff.config": ("ConfigError",),
    "payoff.grading": ("GraderError", "PicklingError", "UnfitGraderError", "CallableImportError", "CallableNotFoundError"),
    "payoff.pipeline": ("NonFiniteError",),
    "payoff.row_files": ("RowError",),
    "payoff.scoring": ("RewardError",),
    "payoff.parts": ("TrainingError",),
    "payoff.yaml_marks": ("YamlError",),
}


def user_errors() -> tuple[type[BaseException], ...]:
    """The exceptions that are somebody's input; only of modules that are loaded, since others cannot have raised."""
    named = [getattr(sys.modules[module], name) for module, names in _USERS.items() if module in sys.modules for name in names]
    files = [FileExistsError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, UnicodeDecodeError]
    return (LookupError, *files, *named)


def run_command(name: str, work: Callable[[], Answer], as_json: bool) -> NoReturn:
    """Do the work of a command, show what it answers, and exit."""
    try:
        answer = work()
    except KeyboardInterrupt:
        answer = Answer(exit_code=130, errors=["interrupted"])
    except Exception as error:
        if _settings["debug"]:
            traceback.print_exc()
        answer = failure(error)
    try:
        _show(name, answer, as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(answer.exit_code)


def failure(error: Exception) -> Answer:
    """One line and an exit code for an exception: 2 for somebody's input, 4 for ours."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Answer(exit_code=2, errors=[f"{error.filename or 'the disk'}: no space left; what was written before is whole"])
    if isinstance(error, user_errors()):
        faults = getattr(error, "faults", None)
        if faults:
            return Answer(exit_code=2, errors=list(faults))
        if isinstance(error, OSError) and error.filename and error.strerror:
            return Answer(exit_code=2, errors=[f"{error.filename}: {error.strerror.lower()}"])
        message = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
        return Answer(exit_code=2, errors=[str(message)])
    hint = "" if _settings["debug"] else "    --debug shows where"
    return Answer(exit_code=4, errors=[f"payoff failed: {type(error).__name__}: {error}{hint}"])


def report_usage(error: Exception, arguments: Sequence[str]) -> int:
    """The line for a command line that could not be read; exit code 2."""
    message = getattr(error, "format_message", lambda: str(error))()
    usage = hasattr(error, "format_message")
    line = message.strip().replace("\n", " ") if usage else failure(error).errors[0]
    code = 2 if usage else failure(error).exit_code
    if "--json" in arguments or silent():
        _show("", Answer(errors=[line], exit_code=code), as_json=True)
    else:
        print(f"error: {plain(line)}    help: payoff --help", file=sys.stderr)
    return code


def _show(name: str, answer: Answer, as_json: bool) -> None:
    if silent():
        return
    if as_json:
        print(json.dumps(_envelope(name, answer), ensure_ascii=False, allow_nan=False))
        return
    if answer.text:
        sys.stdout.write(plain(answer.text.rstrip("\n") + "\n"))
        sys.stdout.flush()
    for warning in answer.warnings:
        say(f"warning: {warning}")
    for error in answer.errors:
        say(f"error: {error}")
    if answer.next:
        say(f"next: {answer.next}")
    if answer.report:
        say(f"report: {answer.report}")


def _envelope(name: str, answer: Answer) -> dict[str, Any]:
    statuses = {0: "finished", 1: "no", 2: "error", 3: "inconclusive", 4: "failed", 130: "interrupted"}
    return {
        "schema": "https://payoff.dev/schemas/answer-1.json",
        "payoff": __version__,
        "command": name,
        "config_hash": answer.config_hash,
        "status": statuses.get(answer.exit_code, "failed"),
        "exit_code": answer.exit_code,
        "verdict": answer.verdict,
        "results": answer.results,
        "counts": answer.counts,
        "warnings": answer.warnings,
        "errors": [{"message": error} for error in answer.errors],
        "artifacts": [{"path": path} for path in answer.artifacts],
        "resume": answer.next if answer.exit_code == 130 else None,
    }
