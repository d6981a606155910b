"""Whose rows are trained on: questions by kind and task, groups that differ, few verifiers."""

import pytest
import torch

from payoff.rows import from_rows
from payoff.sampling.role_balance import balanced_roles
from payoff.trajectories import constant

# role, task, group, reward (None: no verdict)
ROWS = [
    ("questioner", "sums", 0, -1.0),
    ("questioner", "sums", 1, 0.4),
    ("questioner", "sums", 2, -0.5),
    ("questioner", "words", 3, 0.0),  # no good question of its task
    ("questioner", "words", 4, None),
    ("responder", "sums", 1, 1.0),
    ("responder", "sums", 1, None),
    ("responder", "sums", 1, 0.0),
    ("responder", "sums", 5, 1.0),  # all alike
    ("responder", "sums", 5, 1.0),
    *[("verifier", "sums", group, paid) for group in (6, 7, 8) for paid in (1.0, 0.0)],
    ("verifier", "sums", 9, 1.0),
    ("verifier", "sums", 9, 1.0),
    ("other", "sums", 9, 1.0),
]


def kept(rows=ROWS, order=None, **options):
    order = list(range(len(rows))) if order is None else order
    traj = from_rows([{"response": "", "role": role, "task": task, "group": group} for role, task, group, _ in rows])
    value = torch.tensor([paid or 0.0 for *_, paid in rows])
    channel = constant(value, torch.tensor([paid is not None for *_, paid in rows]))
    rows = torch.tensor(order)
    channel = channel._replace(value=channel.value[rows], valid=channel.valid[rows])
    return sorted(order[k] for k in balanced_roles({"played": channel}, traj.select(rows), **options).tolist())


def test_each_role_has_what_teaches_and_no_more_than_its_share():
    # one bad question for the good one of its task; answers that differ with the unjudged one among them; a third of 3 groups
    assert kept(verifier_share=1 / 3) == [0, 1, 5, 6, 7, 10, 11, 16 + 2]
    assert kept(verifier_share=0.0) == [0, 1, 5, 6, 7, 18]
    assert kept(verifier_share=0.34) == [0, 1, 5, 6, 7, 10, 11, 12, 13, 18]  # rounded up
    assert kept(verifier_share=1.0)[5:] == [10, 11, 12, 13, 14, 15, 18]


def test_the_order_of_rows_changes_nothing():
    assert kept(order=list(range(len(ROWS)))[::-1]) == kept()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"verifier_share must lie in 0\.\.1"):
        kept(verifier_share=2.0)
    with pytest.raises(KeyError, match="no reward channel 'played'"):
        balanced_roles({}, from_rows([{"response": ""}]))
