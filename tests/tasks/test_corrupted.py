"""Evidence that is blanked, exchanged or removed: nobody keeps theirs, rewards stay, and gains add up."""

import random

import pytest
import torch

from payoff.tasks.corrupted import CorruptedEvidence, corrupted_rows, evidence_gains


def test_no_row_keeps_its_evidence_and_all_of_it_is_still_there():
    rng = random.Random(0)
    for seed in range(30):
        rows = [{"e": k % rng.randint(2, 6), "n": k} for k in range(rng.randint(4, 20))]
        try:
            found = corrupted_rows(rows, evidence="e", how="derange", seed=seed)
        except ValueError:
            assert max(sum(row["e"] == of["e"] for row in rows) for of in rows) * 2 > len(rows)
            continue
        assert all(new["e"] != old["e"] and new["n"] == old["n"] for new, old in zip(found, rows, strict=True))
        assert sorted(row["e"] for row in found) == sorted(row["e"] for row in rows)
        assert found == corrupted_rows(rows, evidence="e", how="derange", seed=seed)


def test_the_other_ways_and_what_is_refused():
    rows = [{"e": "the answer is 4, truly", "reference": "4"}]
    way = lambda **more: corrupted_rows(rows, evidence="e", **more)[0]["e"]
    assert way(how="none") == rows[0]["e"]
    assert way(how="blank", blank="?") == "?"
    assert way(how="remove", pattern=r"\d") == "the answer is , truly"
    for more, says in (({"how": "remove"}, "needs a pattern"), ({"how": "derange"}, "the same evidence")):
        with pytest.raises(ValueError, match=says):
            way(**more)
    with pytest.raises(ValueError, match="row 1 has no field 'f'"):
        corrupted_rows(rows, evidence="f", how="blank")


def test_the_task_keeps_references_and_makes_prompts_anew():
    rows = [{"e": f"it is {k}.", "q": f"{k}?", "reference": str(k)} for k in range(6)]
    task = CorruptedEvidence(rows, evidence="e", template="{e} {q}", seed=1, held_out=0)
    for start in task.starts(6, torch.Generator().manual_seed(0)):
        told, asked = start.fields["prompt"].split(". ")
        assert asked == f"{start.fields['reference']}?"
        assert told != f"it is {start.fields['reference']}"


def test_gains():
    found = evidence_gains(base=(0.25, 0.25), clean=(0.75, 0.5), corrupted=(0.5, 0.5), memory=(0.5, 0.75))
    assert found == (0.5, 0.25, 0.5, 0.25, 0.25)
    assert evidence_gains(base=(0.5, 0.5), clean=(0.5, 0.5), corrupted=(0.5, 0.5)).share is None
