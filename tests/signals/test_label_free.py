"""Rewards without labels: their flags, their curve, their limits."""

import pytest
import torch

from payoff.rows import from_rows
from payoff.signals.label_free import format_length_surrogate, format_surrogate, length_parabola
from payoff.trajectories import outcome

NAME = "format-length-surrogate"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"<think>x</think>\boxed{\frac{1}{2}}", 1.0),
        (r"<think>x</think><answer>7</answer>", 1.0),
        (r"\boxed{7}", 0.5),
        (r"</think><think>\boxed{7}", 0.5),  # opened after it was closed: no thinking
        (r"<think>\boxed{7}</think> so seven", 0.5),  # the answer lies in the thoughts
        (r"\boxed{7} \boxed{7", 0.0),  # the last one never closes
        (r"\boxed{1/0}", 0.0),
        (r"\boxed{}", 0.0),
        (r"\boxed{blue whale}", 0.0),
        ("the answer is 7", 0.0),  # not marked as the paper asks
        ("", 0.0),
        (r"\boxed{" * 5000, 0.0),
        (r"\boxed{" + "(" * 5000 + "}", 0.0),
        ("<think>" * 100_000, 0.0),
    ],
)
def test_flags_of_thinking_and_of_a_readable_answer(response, expected):
    assert format_surrogate(response) == expected


def test_the_curve_by_hand():
    # p = 1/4: x = 1/8 gives 1 - 1/4; x = 5/8 is half way down: 1 - 2/4
    x = torch.tensor([0, 0.125, 0.25, 0.625, 1.0, 3.0], dtype=torch.float64)
    assert length_parabola(x, peak=0.25).tolist() == [0, 0.75, 1, 0.5, -1, -1]


def test_the_curve_is_smooth_and_flat_at_its_peak():
    x = torch.tensor([0.3 - 1e-7, 0.3 + 1e-7], dtype=torch.float64, requires_grad=True)
    y = length_parabola(x, peak=0.3)
    slope = torch.autograd.grad(y.sum(), x)[0]
    assert (y - 1).abs().max() < 1e-12
    assert slope.abs().max() < 1e-5


def row(response: str, tokens: int) -> dict:
    return {"prompt": "?", "response": response, "tokens": [5] * tokens}


def test_no_readable_answer_never_earns_and_the_best_is_two():
    traj = from_rows([row(text, n) for text in ("junk", r"<think></think>\boxed{1}", r"\boxed{1}") for n in (1, 4, 8)])
    found = outcome(format_length_surrogate(traj, limit=8)[NAME], traj)[0].tolist()
    # x = 1/8, 1/2, 1: f = 1 - (3/4)^2 = 7/16, 1, -1
    assert found == [0, 0, -1, 1 + 7 / 16, 2, 0, 0.5 + 7 / 16, 1.5, -0.5]


def test_tokens_that_the_policy_did_not_write_do_not_count():
    answer = r"\boxed{1}"
    traj = from_rows([row(answer, 4), row(answer, 8) | {"mask": [1, 1, 0, 0, 0, 0, 1, 1]}])
    first, second = outcome(format_length_surrogate(traj, limit=8)[NAME], traj)[0].tolist()
    assert first == second == 1.5


def test_labels_change_nothing():
    rows = [row(r"\boxed{1}", 3), row("x", 5)]
    with_labels = from_rows([{**r, "reference": "1"} for r in rows])
    assert torch.equal(
        format_length_surrogate(from_rows(rows), limit=8)[NAME].value, format_length_surrogate(with_labels, limit=8)[NAME].value
    )


def test_mere_text_has_no_verdict_unless_words_are_counted():
    traj = from_rows([{"response": r"one two \boxed{3}"}, {"prompt": "no response"}])
    channel = format_length_surrogate(traj)[NAME]
    assert outcome(channel, traj)[1].tolist() == [False, False]
    assert "words" in channel.reasons[int(traj.id[0])]
    for unit, limit in (("words", 6), ("characters", 2 * len(r"one two \boxed{3}"))):
        value, valid = outcome(format_length_surrogate(traj, limit=limit, unit=unit)[NAME], traj)
        assert value.tolist() == [1.5, 0]
        assert valid.tolist() == [True, False]


def test_mistakes_are_named():
    traj = from_rows([{"response": "x"}])
    for options in ({"limit": 0}, {"peak": 0.0}, {"peak": 1.0}):
        with pytest.raises(ValueError, match="must hold"):
            format_length_surrogate(traj, **options)
