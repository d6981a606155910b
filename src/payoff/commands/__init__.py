"""The commands of the command line, and what they share: the app, and options that several of them have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXIT_CODES = """Exit codes: 0 finished; 1 finished and the answer is no; 2 your input; 3 inconclusive, or too much without verdict;
4 payoff or its surroundings failed; 130 interrupted, state saved."""

app = typer.Typer(
    name="payoff",
    help="Is this the right reward? Train on rewards, compare them under one budget, and measure whether they can be trusted.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="overrides, such as train.updates=50")]
Out = Annotated[Path | None, typer.Option("--out", help="run folder (default: runs/TITLE)")]
Fresh = Annotated[bool, typer.Option("--fresh", help="set an earlier run folder aside and start again")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output, nothing else")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="no progress")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="show the resolved run file with the origin of every value")]


@app.callback()
def main_options(
    version: Annotated[bool, typer.Option("--version", help="show the version")] = False,
    color: Annotated[str, typer.Option("--color", metavar="auto|always|never", help="colours in the terminal")] = "auto",
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
    silent: Annotated[bool, typer.Option("-qq", help="show nothing: the exit code is all")] = False,
    events: Annotated[bool, typer.Option("--json-lines", help="--json, and a line of JSON for what happens on the way")] = False,
) -> None:
    """Options that every command has, before or behind its name."""
