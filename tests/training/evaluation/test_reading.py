"""Each figure on a text that was written to have it."""

import pytest

from training.evaluation.reading import closes_quotes, has_loop, is_verse, measure_reading, recurring_names

STORY = (
    '"Where does the road go?" asked Nan.\n'
    "The old man looked at Nan, and then at Tobias, and shook his head for a long while before he said a word.\n"
    '"To the sea," he said to Nan and to Tobias, "as all of them do in the end, however long they take."\n'
)
POEM = "The lamp is low, the night is deep,\nThe cat lies by the fire asleep.\n\nThe wind goes round the house again"


@pytest.mark.parametrize(
    ("text", "looped"),
    [
        (STORY, False),
        (POEM, False),
        ("and so he went on\nand so he went on\nand so he went on", True),
        ("He went up the hill, he went up the hill, and he went up the hill.", True),
        ("He went up the hill, and he went up the hill.", False),
        ("Oh!\nOh!\nOh!", False),  # one word is a cry, and no loop
    ],
)
def test_a_loop_is_a_line_or_phrase_three_times(text, looped):
    assert has_loop(text) == looped


def test_prose_and_verse_are_told_apart():
    assert is_verse(POEM)
    assert not is_verse(STORY)
    assert not is_verse("")


def test_quotes_have_to_close_in_every_paragraph_but_the_last():
    assert closes_quotes(STORY)
    assert closes_quotes(STORY + '"I will not')
    assert not closes_quotes('"Where does it go? asked Nan.\n' + STORY)
    assert not closes_quotes("“Where does it go? asked Nan.\n" + STORY)


def test_names_stay_the_same():
    assert recurring_names("She saw Nan and Tobias there. She called Nan, and then Tobias.") == 1
    assert recurring_names("She saw Nan and Tobias there. She called Nora, and then Tobias.") == 0.5
    assert recurring_names("nobody was there. nobody came.") is None


def test_figures_of_several_texts():
    reading = measure_reading([STORY, POEM, "a line\na line\na line\n"])
    assert (reading.stories, reading.verse) == (1, 2)
    assert reading.loops == pytest.approx(1 / 3)
    assert reading.closed_quotes == 1
    assert reading.distinct_lines == pytest.approx((1 + 1 / 3) / 2)
    assert reading.rhymes == pytest.approx(2 / 6)  # deep and asleep; the same word again is no rhyme
    nothing = measure_reading([])
    assert nothing.closed_quotes is None
    assert nothing.loops == 0
