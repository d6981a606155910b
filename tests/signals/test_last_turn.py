"""Only the last of several turns answers."""

from payoff.signals.last_turn import last_turn


def test_only_the_last_turn_answers():
    assert last_turn(["7", "8"], "7") == 0.0
    assert last_turn(["8", "7"], "7") == 1.0
    assert last_turn([], "7") == 0.0
    assert not last_turn(["7"], None).valid
    assert last_turn(["7", "1/2"], "0.5", correct="math-answer") == 1.0
