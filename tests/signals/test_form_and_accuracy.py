import pytest
import torch

from payoff.advantages.group import grpo
from payoff.examples import four_answers
from payoff.signals.form_and_accuracy import form_and_accuracy
from payoff.trajectories import constant


def test_in_a_group_alike_in_one_of_the_two_no_weight_changes_an_advantage():
    whole, bare = "<think>so</think><answer>{}</answer>", "{}"
    traj, sure = four_answers().replace(group=torch.zeros(4, dtype=torch.int64)), torch.ones(4, dtype=torch.bool)

    def standardised(said, weight):
        pay = torch.tensor([form_and_accuracy(one, "7", weight=weight) for one in said], dtype=torch.float64)
        return grpo(constant(pay, sure), traj).value

    formed, mixed = [whole.format(k) for k in "7887"], [whole.format(7), whole.format(8), bare.format(7), bare.format(8)]
    torch.testing.assert_close(standardised(formed, 0.1), standardised(formed, 0.5), atol=1e-5, rtol=0)
    assert not torch.allclose(standardised(mixed, 0.1), standardised(mixed, 0.5), atol=0.1)


def test_form_and_accuracy_add_up_to_one():
    whole, bare = "<think>so</think><answer>{}</answer>", "{}"
    paid = {(form, said): form_and_accuracy(form.format(said), "7", weight=0.3) for form in (whole, bare) for said in "78"}
    assert list(paid.values()) == pytest.approx([1.0, 0.3, 0.7, 0.0])
    assert form_and_accuracy(whole.format(8), "7", weight=0.0) == 0.0
    assert not form_and_accuracy("7", None).valid
    with pytest.raises(ValueError, match=r"weight must lie in 0\.\.1"):
        form_and_accuracy("7", "7", weight=1.5)
