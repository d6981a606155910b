"""Roles are compared with themselves."""

import pytest
import torch

from payoff.advantages.roles import role_wise
from payoff.rows import from_rows
from payoff.trajectories import Channel

ROWS = [
    ("questioner", "sums", 0, 1.0),
    ("questioner", "sums", 1, 0.0),
    ("questioner", "words", 2, -1.0),
    ("responder", "sums", 0, 1.0),
    ("responder", "sums", 0, 0.0),
    ("responder", "sums", 1, 0.0),
    ("responder", "sums", 1, 0.0),
    ("verifier", "sums", 0, 1.0),
    ("verifier", "sums", 0, -1.0),
]
TRAJ = from_rows([{"response": "", "role": role, "task": task, "group": group} for role, task, group, _ in ROWS])


def compared(value, valid=None, **options):
    value = torch.tensor(value)[:, None]
    valid = torch.ones_like(value, dtype=torch.bool) if valid is None else torch.tensor(valid)[:, None]
    return role_wise(Channel(value, valid), TRAJ, **options).value[:, 0].tolist()


def test_questions_are_compared_over_their_task_and_answers_and_verdicts_in_their_group():
    # Of two numbers 1 and 0 the std with n - 1 is 1 / sqrt 2, so +-1/2 becomes +-1 / sqrt 2; of 1 and -1 it is sqrt 2.
    half = 2**-0.5
    assert compared([of[3] for of in ROWS], eps=0.0) == pytest.approx([half, -half, 0, half, -half, 0, 0, half, -half])


def test_no_role_is_in_another_ones_mean():
    before = compared([of[3] for of in ROWS])
    for role in ("questioner", "responder", "verifier"):
        moved = compared([of[3] + (7.0 if of[0] == role else 0.0) for of in ROWS])
        assert moved == pytest.approx(before, abs=1e-5)


def test_what_is_unknown_is_in_no_mean():
    values = [of[3] for of in ROWS]
    unknown = compared([9.0, *values[1:]], [False, *[True] * 8])
    assert unknown[:2] == [0.0, 0.0]  # the other question of its task is alone then
    assert unknown[3:] == compared(values)[3:]
    assert compared([0.1] * 9) == [0.0] * 9
