"""Evidence from a policy: responses drawn from it, as rows, with what its task says of the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from payoff.catalogue import nearest
from payoff.rows import to_rows
from payoff.trajectories import outcome

GOLD = "gold"  # the field that the task's truth goes into


class EvidenceError(LookupError):
    """A place that names no policy, or one that cannot be sampled from, in one line."""


def sampled_rows(
    place: str, *, arm: str = "", prompts: int = 64, samples: int = 16, seed: int = 0, task: str = ""
) -> list[dict[str, Any]]:
    """`samples` responses to each of `prompts` starts, as rows with the task's truth under "gold" where it has one.

    place:  a run file, whose policy is sampled as training would begin with it; or a folder of a run (`payoff train --out`), or one
            of its folders arms/ARM/seed-N, whose newest checkpoint is sampled; or a folder with a model of transformers, or a
            registered policy with options, "{name: pretrained, model: FOLDER, max_tokens: 64}", which need a `task`
    arm:    of a folder of several: whose checkpoint is taken; None named: the newest
    task:   a registered task to take the starts and the truth from instead of the run's own, with options as a run file has them:
            tree, or "{name: chain, terms: 3}"
    Raises EvidenceError where a place is neither, or has no checkpoint; ConfigError for a run file with mistakes.
    """
    whole = place.lstrip().startswith("{") or (Path(place) / "config.json").is_file()
    policy, where, at_once = _of_model(place, task, prompts) if whole else _of_run(place, arm, task)
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    rows: list[dict[str, Any]] = []
    left = prompts
    with torch.no_grad():
        while left > 0:
            starts = where.starts(min(left, at_once), rng)
            left -= len(starts)
            try:
                traj = policy.rollout(starts, samples, rng)
                value, valid = outcome(where.truth(traj), traj)
            except (ValueError, KeyError, TypeError) as error:
                if not task:
                    raise
                raise EvidenceError(f"--policy {place}: cannot be asked with --task {task}: {error}") from error
            first = max((row["group"] for row in rows), default=-1) + 1  # groups of one call are numbered without those of another
            for row, truth, known_truth in zip(to_rows(traj), value.tolist(), valid.tolist(), strict=True):
                shown = {} if row.get("response") is not None else {"response": str(row.get("tokens") or row.get("actions"))}
                label = {GOLD: truth} if known_truth else {}
                rows.append({**row, **shown, **label, "group": first + row.get("group", 0)})
    return rows


def _of_model(place: str, task: str, prompts: int) -> tuple[Any, Any, int]:
    """A registered policy, or a model in a folder, with the task that it is asked; eight starts at a time."""
    if not task:
        raise EvidenceError(
            f"--policy {place}: is a policy without a task; --task says what to ask it, such as reasoning-gym:chain_sum"
        )
    text = place if place.lstrip().startswith("{") else json.dumps({"name": "pretrained", "model": place})
    return _named(text, "--policy", "policy"), _named(task, "--task", "task"), min(prompts, 8)


def _of_run(place: str, arm: str, task: str) -> tuple[Any, Any, int]:
    """The policy of a run file or of a run's newest checkpoint, with the run's task or another, and as many starts as it takes."""
    from payoff.build import build
    from payoff.checkpoints import FORMAT
    from payoff.config import load_run

    folder = Path(place)
    checkpoint = None
    if folder.is_dir():
        found = sorted(folder.rglob("checkpoint.pt"), key=lambda path: path.stat().st_mtime)
        found = [path for path in found if not arm or f"arms/{arm}/" in path.as_posix()]
        if not found:
            raise EvidenceError(
                f"--policy {place}: there is no checkpoint in this folder" + (f" of the arm {arm!r}" if arm else "")
            )
        checkpoint = found[-1]
        file = checkpoint.parent / "run.yaml"
        arm = arm or (checkpoint.parent.parent.name if checkpoint.parent.parent.parent.name == "arms" else "")
    else:
        file = folder
    if not file.is_file():
        raise EvidenceError(f"--policy {place}: is neither a run file nor a folder that a run was written into")
    loaded = load_run(file)
    known = list(loaded.run.arms)
    if arm and arm not in known and checkpoint is None:
        like = nearest(arm, known)
        raise EvidenceError(
            f"--policy {place}: has no arm {arm!r}" + (f"; did you mean {like[0]!r}?" if like else f"; it has {', '.join(known)}")
        )
    # Arms differ in rewards and terms and never in the policy, so that any of them will do to build it.
    arm = arm if arm in known else "" if loaded.run.terms else next(iter(known), "")
    parts, settings = build(loaded, arm)
    if checkpoint is not None:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if state.get("format") != FORMAT:
            raise EvidenceError(f"{checkpoint}: is not a payoff checkpoint of format {FORMAT}")
        parts.policy.load_state_dict(state["modules"][0])
    return parts.policy, parts.task if not task else _named(task, "--task", "task"), settings.starts


def _named(text: str, option: str, kind: str) -> Any:
    """A registered task or policy by its name, or with options in the form of a run file."""
    import yaml

    from payoff.build import resolve
    from payoff.config import Part

    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise EvidenceError(f"{option} {text}: cannot be read: {' '.join(str(error).split())}") from None
    options = {"name": read} if isinstance(read, str) else read
    if not isinstance(options, dict) or not isinstance(options.get("name"), str):
        example = "{name: chain, terms: 3}" if kind == "task" else "{name: pretrained, model: FOLDER, max_tokens: 64}"
        raise EvidenceError(f'{option} {text}: write a name, or one with options such as "{example}"')
    return resolve(Part.model_validate(options), (kind,))
