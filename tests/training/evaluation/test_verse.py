import threading
import time

import pronouncing
import pytest

from tests.space.conftest import at_once
from training.evaluation.verse import LineVerse, analyse_verse, estimate_syllables

QUATRAIN = """The lamp is lit, the door is shut,
The kettle sings above the flame,
A spider in the corner cut
The thread by which the evening came."""
POEM = "夜坐\n青山如故人，江水似长天。\n独坐听秋雨，高灯照客船。"


def rhymes(text: str) -> list[str]:
    return [letter for remark in analyse_verse(text) for letter in remark.rhymes]


def test_syllables_and_rhymes_of_a_quatrain():
    assert [remark.syllables for remark in analyse_verse(QUATRAIN)] == [8, 8, 8, 8]
    assert not any(remark.estimated for remark in analyse_verse(QUATRAIN))
    assert rhymes(QUATRAIN) == ["A", "B", "A", "B"]


def test_every_line_has_its_remark_and_letters_begin_anew_after_an_empty_one():
    found = analyse_verse(f"\n{QUATRAIN}\n\n \n{QUATRAIN}\n* * *")
    assert len(found) == 12
    assert [found[n] for n in (0, 5, 6, 11)] == [LineVerse()] * 4
    assert found[1:5] == found[7:11]
    assert analyse_verse("") == [LineVerse()]


@pytest.mark.parametrize(
    ("ends", "letters"),
    [
        (["butterfly", "sky"], ["A", "A"]),  # a lesser stress
        (["wind", "kind"], ["A", "A"]),  # one of two ways to say it
        (["day", "night", "day"], ["", "", ""]),  # a repeat
        (["day", "day", "way"], ["A", "A", "A"]),
        (["Day,", "‘way’!"], ["A", "A"]),
        (["day", *["night"] * 7, "way"], ["A", *[""] * 7, "A"]),
        (["day", *["night"] * 8, "way"], [""] * 10),  # too far apart to be heard
        (["zorbled", "zorbled", "gorbled"], ["", "", ""]),  # not in the dictionary
    ],
)
def test_rhymes(ends, letters):
    assert rhymes("\n".join(f"And then the {end}" for end in ends)) == letters


def test_syllables_of_words_that_the_dictionary_lacks_are_estimated():
    (line,) = analyse_verse("The zorbled snoodle gave a plimpish moan")
    assert (line.syllables, line.estimated) == (10, True)
    words = {"o'er": 1, "feed'st": 1, "glane": 1, "snarped": 1, "snarted": 2, "trobble": 2, "winkies": 2, "hmm": 1}
    assert {word: estimate_syllables(word) for word in words} == words


def test_a_long_line_is_prose():
    verse, prose = "a b c d e f g h i j k day", "a b c d e f g h i j k l way"
    assert rhymes(f"{verse}\nThe way") == ["A", "A"]
    assert rhymes(f"{verse}\n{prose}") == ["", ""]
    assert analyse_verse(prose)[0].syllables == 13


def test_tones_and_rhymes_of_chinese():
    title, *lines = analyse_verse(POEM)
    assert title == LineVerse()
    assert [line.tones for line in lines] == [("平平平仄平", "平仄仄平平"), ("平仄平平仄", "平平仄仄平")]
    assert [line.rhymes for line in lines] == [("", "A"), ("", "A")]
    assert [line.syllables for line in lines] == [0, 0]


@pytest.mark.parametrize(
    ("ends", "letters"),
    [
        ("山天西船", ["A", "A", "", "A"]),  # the first clause may; the third may not
        ("水天船山", ["", "A", "", "A"]),
        ("水天山饭", ["", "", "", ""]),  # level and oblique
        ("水诗山机", ["", "", "", ""]),  # one letter of pinyin, and two vowels
        ("水东山风", ["", "A", "", "A"]),
        ("水天山天", ["", "", "", ""]),  # a repeat
    ],
)
def test_chinese_rhymes_fall_on_every_second_clause(ends, letters):
    first, second, third, fourth = (f"我不知何处{end}" for end in ends)
    assert rhymes(f"{first}，{second}。\n{third}，{fourth}。") == letters
    assert rhymes(f"{first}\n{second}\n{third}\n{fourth}") == letters


def test_clauses_that_are_not_equally_long_are_no_verse():
    assert rhymes("我看山，我不知何处天。\n我听水，我不知何处船。") == [""] * 4


def test_readings_follow_the_phrase_and_have_no_neutral_tone():
    (line,) = analyse_verse("长城，长大，走了，𰾄")
    assert line.tones == ("平平", "仄仄", "仄仄", "？")


def test_mixed_text():
    lines = analyse_verse("The moon is in the sky\n月在青天，moon！\n春 is spring\n\n12, 34")
    assert [line.syllables for line in lines] == [6, 0, 3, 0, 0]
    assert [line.tones for line in lines] == [(), ("仄仄平平",), (), (), ()]


def test_the_dictionary_is_loaded_by_one_thread_at_a_time(monkeypatch):
    """The second would take it for loaded when it is half so, and know no word."""
    loading, together = threading.Semaphore(1), []

    def load():
        together.append(not loading.acquire(blocking=False))
        time.sleep(0.05)
        loading.release()

    monkeypatch.setattr(pronouncing, "init_cmu", load)
    at_once(lambda: analyse_verse(""))
    assert together == [False, False]
