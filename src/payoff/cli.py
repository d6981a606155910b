"""The command line's entry point: every mistake ends in one line and one of six exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from payoff import __version__
from payoff.commands import about, app, audit, reproduce, rows, training  # noqa: F401  # each registers its commands with the app
from payoff.terminal import configure, report_usage

ORDER = ("init", "train", "compare", "audit", "score", "validate", "reproduce", "methods", "doctor", "pretrain")
app.registered_commands.sort(key=lambda command: ORDER.index(command.callback.__name__))  # type: ignore[union-attr]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every mistake ends in one line and an exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    arguments = _with_json_to_stdout(configure(arguments))
    if arguments == ["--version"]:
        print(f"payoff {__version__}")
        raise SystemExit(0)
    if arguments[:1] == ["--install-completion"] or arguments[:1] == ["--show-completion"]:
        app()
    command = typer.main.get_command(app)
    try:
        code = command.main(args=arguments, prog_name="payoff", standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        code = report_usage(error, arguments)
    raise SystemExit(code or 0)


def _with_json_to_stdout(arguments: list[str]) -> list[str]:
    """`payoff audit --json` takes a file, and without one means standard output, as everywhere else."""
    if arguments[:1] != ["audit"]:
        return arguments
    filled = []
    for word, following in zip(arguments, [*arguments[1:], "--"]):
        filled += [word, "-"] if word == "--json" and following.startswith("-") and following != "-" else [word]
    return filled
