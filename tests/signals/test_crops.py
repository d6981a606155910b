"""MGPO's two turns on synthetic pictures: the cut-out, coordinates there and back, and what the reward then reads."""

import itertools
import json

import numpy
import pytest
import torch

from payoff.losses.aggregation import sequence_mean
from payoff.losses.policy_gradient import ppo_clip
from payoff.pipeline import Evaluation
from payoff.rows import from_rows
from payoff.signals.crops import cropped, in_crop, in_original, picture_size, second_look
from payoff.signals.last_turn import last_turn
from payoff.trajectories import Channel

CELLS, CELL = 4, 8  # a picture of 4 x 4 cells of 8 x 8 pixels; the first turn sees one pixel of each cell
GLYPHS = [numpy.unpackbits(numpy.array([k + 1], dtype=numpy.uint8)) for k in range(8)]


def picture(cell, glyph):
    """A glyph in one cell: a row of pixels whose sum in the cell is the same for none but itself."""
    drawn = numpy.zeros((CELLS * CELL, CELLS * CELL), dtype=numpy.uint8)
    x, y = (cell % CELLS) * CELL, (cell // CELLS) * CELL
    drawn[y + 3, x : x + CELL] = GLYPHS[glyph]
    return drawn


def play(cell, glyph, looked_at):
    """Both turns: a box in the small frame, and what whoever sees nothing but the cut-out reads in it."""
    x, y = looked_at % CELLS, looked_at // CELLS
    first = "" if looked_at < 0 else json.dumps({"bbox_2d": [x, y, x + 1, y + 1]})
    look = second_look(first, picture(cell, glyph), shown=(CELLS, CELLS))
    rows = [k for k, pixels in enumerate(GLYPHS) if any(numpy.array_equal(row, pixels) for row in look.picture[:, :CELL])]
    return [first, f"The answer is {rows[0] if rows and look.named else 'unknown'}"], look


def test_the_right_place_and_no_other_earns_the_answer_in_every_cell():
    for cell, glyph in itertools.product(range(CELLS**2), (0, 5)):
        steps, look = play(cell, glyph, cell)
        assert look.picture.shape == (CELL, CELL)
        assert last_turn(steps, str(glyph)) == 1.0
        assert last_turn(play(cell, glyph, (cell + 1) % 16)[0], str(glyph)) == 0.0
    steps, look = play(3, 2, -1)  # no box: the whole picture, and a second turn all the same
    assert (look.picture.shape, look.named, len(steps)) == ((32, 32), False, 2)


def test_the_region_of_all_is_the_identity_and_a_crop_is_of_the_original():
    drawn = picture(5, 3)
    assert numpy.array_equal(cropped(drawn, (0, 0, 32, 32)), drawn)
    assert numpy.array_equal(second_look("[0, 0, 4, 4]", drawn, shown=(4, 4)).picture, drawn)
    assert torch.equal(cropped(torch.from_numpy(drawn), (8, 8, 16, 16)), torch.from_numpy(drawn[8:16, 8:16]))

    class Picture:  # what PIL's look like
        size = (32, 16)

        def crop(self, box):
            return "cut", box

    assert second_look("[1, 1, 2, 2]", Picture(), shown=(16, 8)) == (("cut", (2, 2, 4, 4)), (2, 2, 4, 4), True)
    assert picture_size(numpy.zeros((5, 7, 3))) == (7, 5)


def test_places_go_to_the_original_and_back():
    region = (100, 40, 120, 70)
    for shown in (None, (10, 10), (400, 300)):
        for place in ((1.0, 2.0), (0.0, 0.0, 5.0, 7.5)):
            assert in_crop(in_original(place, region, shown=shown), region, shown=shown) == pytest.approx(place)
    whole = (10, 10) if shown is None else shown
    assert in_original((0, 0, *whole), region, shown=whole) == pytest.approx(region)


def test_what_is_no_picture_or_no_region_is_named():
    with pytest.raises(ValueError, match="a picture is an array"):
        second_look("[0, 0, 1, 1]", "picture.png")
    with pytest.raises(ValueError, match="no part of a picture of 4 x 4"):
        cropped(numpy.zeros((4, 4)), (0, 0, 5, 4))


def test_both_turns_are_trained_by_the_answer_and_the_picture_between_them_by_nothing():
    """Two turns of two tokens and the image's two between them; one turn of four is GRPO."""
    rows = [{"tokens": [1] * 6, "mask": [1, 1, 0, 0, 1, 1], "step": [0, 0, 0, 0, 1, 1], "logp": [-1.0] * 6, "group": 1}] * 2
    traj = from_rows(rows)
    target = Channel(torch.tensor([[1.0], [-1.0]]), torch.ones(2, 1, dtype=torch.bool))

    def slope(logp, batch):
        logp = logp.clone().requires_grad_()
        terms = ppo_clip(Evaluation(logp, {}), batch, target).terms
        return torch.autograd.grad((terms * sequence_mean(target, batch)).sum(), logp)[0]

    plain = slope(traj.logp["old"], traj)
    disturbed = traj.logp["old"].clone()
    disturbed[:, 2:4] = torch.tensor([torch.nan, 55.0])
    assert torch.equal(slope(disturbed, traj), plain)
    one = from_rows([{"tokens": [1] * 4, "logp": [-1.0] * 4, "group": 1}] * 2)
    torch.testing.assert_close(plain[:, [0, 1, 4, 5]], slope(one.logp["old"], one))
