"""Commands about payoff itself: its methods, this machine, a first folder to start from."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from payoff.commands import Json, app
from payoff.terminal import Answer, run_command


def _complete_kinds(incomplete: str) -> list[str]:
    from payoff.catalogue import index

    return sorted({kind for kind, _ in index() if kind.startswith(incomplete)})


def _complete_methods(incomplete: str) -> list[str]:
    from payoff.catalogue import index

    return sorted(name for _, name in index() if name.startswith(incomplete))


@app.command()
def methods(
    pattern: Annotated[
        str,
        typer.Argument(metavar="[TEXT]", help="only methods with this in name, summary or paper", autocompletion=_complete_methods),
    ] = "",
    kind: Annotated[str, typer.Option("--kind", help="only one kind, such as credit", autocompletion=_complete_kinds)] = "",
    as_json: Json = False,
) -> None:
    """List the registered methods: name, kind, what each reads and sees, its paper."""

    def work() -> Answer:
        from payoff.catalogue import index, nearest

        kinds = sorted({k for k, _ in index()})
        if kind and kind not in kinds:
            like = nearest(kind, kinds)
            raise LookupError(f"unknown kind {kind!r}; {f'did you mean {like[0]}?' if like else ''} kinds: {', '.join(kinds)}")
        hits = [m for m in index().values() if not kind or m.kind == kind]
        hits = [m for m in hits if pattern.lower() in f"{m.name} {m.summary} {m.paper}".lower()]
        hits.sort(key=lambda m: (m.kind, m.name))
        rows = [
            {
                "name": m.name,
                "kind": m.kind,
                "summary": m.summary,
                "needs": sorted(m.needs),
                "sees": m.sees,
                "paper": m.paper,
                "place": m.place,
            }
            for m in hits
        ]
        wide = max((len(m.name) for m in hits), default=0)
        lines, last = [], ""
        for m in hits:
            if m.kind != last:
                lines.append(f"{m.kind}:")
                last = m.kind
            needs = f"  needs {', '.join(sorted(m.needs))}" if m.needs else ""
            paper = f"  [{m.paper}]" if m.paper else ""
            lines.append(f"  {m.name:<{wide}}  {m.summary.rstrip('.')}{paper}{needs}")
        lines.append(f"{len(hits)} methods")
        return Answer(text="\n".join(lines) + "\n", results={"methods": rows})

    run_command("methods", work, as_json)


@app.command()
def doctor(
    verl: Annotated[bool, typer.Option("--verl", help="also look for payoff's names in verl's registries; takes seconds")] = False,
    as_json: Json = False,
) -> None:
    """What works on this machine, what is missing and how to install it, and what was measured."""

    def work() -> Answer:
        from payoff.doctor import examine, told

        found = examine(verl=verl)
        return Answer(text=told(found), results=found)

    run_command("doctor", work, as_json)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="where to write the files")] = Path("."),
    as_json: Json = False,
) -> None:
    """Write a run file with three rewards, a grader of your own, some rows and a schema for editors."""

    def work() -> Answer:
        from payoff.config import json_schema

        source = resources.files("payoff") / "run_files" / "init"
        files = {path.name: path.read_text(encoding="utf-8") for path in source.iterdir() if not path.name.startswith("__")}
        files["payoff.schema.json"] = json.dumps(json_schema(), indent=1) + "\n"
        there = [name for name in files if (folder / name).exists()]
        if there:
            raise FileExistsError(f"{folder / there[0]}: exists already; nothing was written")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        listed = "".join(f"  {folder / name}\n" for name in sorted(files))
        return Answer(
            text=f"wrote\n{listed}",
            results={"files": sorted(str(folder / name) for name in files)},
            next=f"payoff compare {folder / 'run.yaml'}",
        )

    run_command("init", work, as_json)
