import pytest

from payoff.signals.form_and_accuracy import form_and_accuracy


def test_form_and_accuracy_add_up_to_one():
    whole, bare = "<think>so</think><answer>{}</answer>", "{}"
    paid = {(form, said): form_and_accuracy(form.format(said), "7", weight=0.3) for form in (whole, bare) for said in "78"}
    assert list(paid.values()) == pytest.approx([1.0, 0.3, 0.7, 0.0])
    assert form_and_accuracy(whole.format(8), "7", weight=0.0) == 0.0
    assert not form_and_accuracy("7", None).valid
    with pytest.raises(ValueError, match=r"weight must lie in 0\.\.1"):
        form_and_accuracy("7", "7", weight=1.5)
