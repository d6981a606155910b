"""Evidence from a policy: responses drawn from it, as rows, with what its task says of the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

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
            of its folders arms/ARM/seed-N, whose newest checkpoint is sampled
    arm:    of a run file or folder that has several
    task:   a registered task to take the starts and the truth from instead of the run's own
    Raises EvidenceError where a place is neither, or has no checkpoint; ConfigError for a run file with mistakes.
    """
    from payoff.build import build, resolve
    from payoff.checkpoints import FORMAT
    from payoff.config import Part, load_run

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
    if arm not in known:
        if known and not loaded.run.terms:
            raise EvidenceError(f"--policy {place}: has the arms {', '.join(known)}; choose one with --arm")
        arm = ""
    parts, settings = build(loaded, arm)
    if checkpoint is not None:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if state.get("format") != FORMAT:
            raise EvidenceError(f"{checkpoint}: is not a payoff checkpoint of format {FORMAT}")
        parts.policy.load_state_dict(state["modules"][0])
    where = parts.task if not task else resolve(Part.model_validate(task), ("task",))
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    rows: list[dict[str, Any]] = []
    left = prompts
    with torch.no_grad():
        while left > 0:
            starts = where.starts(min(left, settings.starts), rng)
            left -= len(starts)
            traj = parts.policy.rollout(starts, samples, rng)
            value, valid = outcome(where.truth(traj), traj)
            first = max((row["group"] for row in rows), default=-1) + 1  # groups of one call are numbered without those of another
            for row, truth, known_truth in zip(to_rows(traj), value.tolist(), valid.tolist(), strict=True):
                shown = {} if row.get("response") is not None else {"response": str(row.get("tokens") or row.get("actions"))}
                label = {GOLD: truth} if known_truth else {}
                rows.append({**row, **shown, **label, "group": first + row.get("group", 0)})
    return rows
