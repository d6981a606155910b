"""Values of a scripted teacher: against what it really does, and what must add up."""

import random

import pytest
import torch

from payoff.tasks.chain import chain_answer, chain_result
from payoff.tasks.chain_teacher import Noise, hard_facts, write_solution
from payoff.tasks.chain_values import pieces, teacher_advantages, teacher_values

PROMPT = "3-7+6-5="


def test_a_teacher_without_noise_is_sure_and_no_step_moves_anything_but_the_start():
    value = teacher_values(PROMPT, Noise())
    assert value.sum(1).tolist() == [1.0] * 4  # at every point one running result leads to the right answer, the others nowhere
    assert teacher_advantages(PROMPT, write_solution(PROMPT, Noise(), random.Random(0)), Noise()) == [0.0] * 4


def test_of_one_operation_by_hand():
    value = teacher_values("3-7=", Noise(wrong_result=0.1, wrong_answer=0.2))
    # right step and right answer, or a wrong step whose wrong answer happens to be right
    assert float(value[0, 3]) == pytest.approx(0.9 * 0.8 + 0.1 * 0.2 / 9)
    assert value[1].tolist() == pytest.approx([0.2 / 9] * 6 + [0.8] + [0.2 / 9] * 3)


def test_the_value_is_how_often_the_teacher_is_right():
    hard = hard_facts(60, random.Random(1))
    noise = Noise(wrong_result=0.2, superfluous=0.4, wrong_answer=0.1, believed=0.5, hard=hard)
    rng, n = random.Random(2), 4000
    right = sum(chain_answer(write_solution(PROMPT, noise, rng), chain_result(PROMPT)) for _ in range(n)) / n
    value = float(teacher_values(PROMPT, noise)[0, 3])
    assert abs(right - value) < 4 * (value * (1 - value) / n) ** 0.5


def test_advantages_add_up_and_are_zero_on_average_and_for_superfluous_steps():
    noise = Noise(wrong_result=0.2, superfluous=0.5, wrong_answer=0.1)
    value = teacher_values(PROMPT, noise)
    rng, start = random.Random(3), float(value[0, 3])
    firsts = []
    for _ in range(400):
        text = write_solution(PROMPT, noise, rng)
        found = teacher_advantages(PROMPT, text, noise, value=value)
        assert len(found) == len(pieces(text))
        assert sum(found) == pytest.approx(chain_answer(text, chain_result(PROMPT)) - start)
        assert all(a == 0 for a, piece in zip(found, pieces(text), strict=True) if "+0=" in piece or "-0=" in piece)
        firsts.append(found[0])
    spread = torch.tensor(firsts).std().item()
    assert abs(sum(firsts) / 400) < 4 * spread / 400**0.5


@pytest.mark.parametrize(
    ("prompt", "response", "noise", "said"),
    [
        (PROMPT, "", Noise(skipped_term=0.1), "skips terms"),
        ("3-7+0=", "", Noise(), "may read like"),
        ("3+2+2=", "", Noise(), "may read like"),
        (PROMPT, "3-7=6;9+9=8;#1.", Noise(), "no step of this teacher"),
        (PROMPT, "3-7=6;#1.", Noise(), "not every term"),
    ],
)
def test_what_cannot_be_read_is_refused(prompt, response, noise, said):
    with pytest.raises(ValueError, match=said):
        teacher_advantages(prompt, response, noise)
