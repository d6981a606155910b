"""Key words by hand, and what is left without them."""

import pytest

from payoff.tasks.key_words import key_words, without_key_words

TEXT = "The red fox is in the dark red wood, and sleeps."


def test_words_of_long_phrases_tell_most():
    # phrases: red fox; dark red wood; sleeps. dark 3/1, wood 3/1, red (2 + 3) / 2, fox 2/1, sleeps 1/1
    assert key_words(TEXT) == ["dark", "wood", "red", "fox", "sleeps"]
    assert key_words("And the, of!") == []
    assert key_words("") == []


@pytest.mark.parametrize(
    ("share", "left"),
    [
        (0.0, TEXT),
        (0.01, "The red fox is in the red wood, and sleeps."),  # one at least
        (0.4, "The red fox is in the red, and sleeps."),
        (0.6, "The fox is in the, and sleeps."),
        (1.0, "The is in the, and."),
    ],
)
def test_the_most_telling_go_first_and_the_rest_stays(share, left):
    assert without_key_words(TEXT, share) == left


def test_lines_stay_lines_and_a_text_without_key_words_stays_itself():
    assert without_key_words("red fox\nis it", 1.0) == "is it"
    assert without_key_words("is it\nred fox", 0.5) == "is it\n fox"
    assert without_key_words("is  it", 1.0) == "is  it"
    with pytest.raises(ValueError, match="share must lie in"):
        without_key_words("x", 1.5)
