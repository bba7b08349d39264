"""How the lines of a text go as verse: syllables and rhymes of English, tones and rhymes of Chinese."""

import re
import string
import threading
from dataclasses import dataclass, replace
from itertools import groupby, islice

import pronouncing
from pypinyin import Style, lazy_pinyin, pinyin
from pypinyin.contrib.tone_convert import to_finals

from training.quality import HAN, WORD

LONGEST_VERSE = 12  # words: a line of wrapped prose mostly has more, and one of verse hardly ever
REACH = 8  # lines, or clauses of Chinese, over which a rhyme is heard
CLAUSE_END = r"[，。！？；：,.!?;:]"
LEVEL, OBLIQUE, UNKNOWN = "平仄？"
TONES = {"1": LEVEL, "2": LEVEL, "3": OBLIQUE, "4": OBLIQUE}
NEUTRAL = "5"
PINYIN = {"style": Style.TONE3, "neutral_tone_with_five": True}
# Finals that rhyme, by the fourteen rhymes of modern Mandarin (中华新韵): the main vowel and what follows it, whatever
# glides into it. The fourteenth is the vowel of 诗 and 思, which pinyin writes as that of 机.
RHYMES = """a ia ua/o e uo/ie ve ê/ai uai/ei uei/ao iao/ou iou/an ian uan van/en in uen vn/ang iang uang/
eng ing ueng ong iong/i er v/u"""
RHYME_OF = {final: finals for finals in RHYMES.split("/") for final in finals.split()}
BUZZED = re.compile(r"(?:[zcs]h?|r)i\d")
DICTIONARY = threading.Lock()


@dataclass(frozen=True)
class LineRemark:
    """What can be said of a line. Of an empty one, and of the title of a Chinese poem, it is nothing.

    Attributes:
        syllables: of a line of English.
        estimated: the dictionary lacks one of its words, whose syllables were guessed from its letters.
        tones: of Chinese, for each clause, a sign for each character: 平 (level), 仄 (oblique) or ？ (not known). They
            are those of modern Mandarin, 1 and 2 or 3 and 4. Tang poets spoke others: what was an entering tone, and
            oblique, is often level now.
        rhymes: a letter for the end of the line, or for the end of each clause of Chinese; "" where it has no rhyme.
    """

    syllables: int = 0
    estimated: bool = False
    tones: tuple[str, ...] = ()
    rhymes: tuple[str, ...] = ()


@dataclass(frozen=True)
class End:
    """The last word of a line or clause, and the sounds, one for each way to say it, that it can rhyme on."""

    word: str = ""
    sounds: frozenset[str] = frozenset()


def verse_remarks(text: str) -> list[LineRemark]:
    """What can be said of each line of a text (`text.split("\\n")`), its verse and its prose.

    Syllables are those of the CMU pronouncing dictionary, in the first way that it gives to say a word. Rhymes are
    sought among the lines between two empty ones, up to eight apart, and their letters begin anew after an empty one.
    Words rhyme if they are the same from the last stressed vowel on, in one way to say them; a word that the dictionary
    lacks does not rhyme, nor does a line of more than 12 words, which is prose. A word that only repeats itself is no
    rhyme, but takes the letter of one that it repeats.

    In Chinese those clauses are looked at that rhyme in classical verse, every second one and the first, in lines whose
    clauses are equally long. They rhyme by the final of their last character without its medial, level with level and
    oblique with oblique. Readings are those of modern Mandarin that pypinyin takes to be meant; a neutral tone, which
    verse has not, gives way to the character's other reading.
    """
    with DICTIONARY:  # it is taken for loaded by others as soon as one begins to load it
        pronouncing.init_cmu()
    remarks = []
    for written, group in groupby(text.split("\n"), key=lambda line: bool(line.strip())):
        lines = list(group)
        remarks += stanza_remarks(lines) if written else [LineRemark()] * len(lines)
    return remarks


def stanza_remarks(lines: list[str]) -> list[LineRemark]:
    """What can be said of lines between two empty ones."""
    drafts, clauses = [], 0
    for number, line in enumerate(lines):
        words = WORD.findall(line)
        han = sum(bool(re.fullmatch(HAN, word)) for word in words)
        if 2 * han <= len(words):
            drafts.append(english_line(words))
        elif number == 0 and not re.search(CLAUSE_END, line) and re.search(CLAUSE_END, "".join(lines)):
            drafts.append((LineRemark(), []))  # a title
        else:
            drafts.append(chinese_line(line, clauses))
            clauses += len(drafts[-1][1])
    letters = iter(rhyme_letters([end for _, ends in drafts for end in ends]))
    return [replace(remark, rhymes=tuple(islice(letters, len(ends)))) for remark, ends in drafts]


def english_line(words: list[str]) -> tuple[LineRemark, list[End]]:
    """What can be said of a line without the others, and what it ends on."""
    if not words:
        return LineRemark(), []
    words = [word.lower().replace("’", "'") for word in words]
    spoken = [pronouncing.phones_for_word(word) for word in words]
    counts = [
        pronouncing.syllable_count(ways[0]) if ways else estimated_syllables(word)
        for word, ways in zip(words, spoken, strict=True)
    ]
    # The dictionary's digits tell a main stress from a lesser one, which rhyme with each other: sky, butterfly.
    sounds = frozenset(re.sub(r"\d", "", pronouncing.rhyming_part(way)) for way in spoken[-1])
    end = End(words[-1], sounds) if len(words) <= LONGEST_VERSE else End()
    return LineRemark(sum(counts), not all(spoken)), [end]


def estimated_syllables(word: str) -> int:
    """The groups of vowels of a word in lower case, without an e that is silent: right for nine words in ten."""
    word = word.replace("'", "")
    if not re.search(r"[bcdfgkpstz]led?$", word):
        word = re.sub(r"(?<=[^aeiouy])e$|(?<=[^aeiouytd])e(?=d$)", "", word)
    return max(1, len(re.findall(r"[aeiouy]+", word)))


def chinese_line(line: str, before: int) -> tuple[LineRemark, list[End]]:
    """What can be said of a line without the others, and what its clauses end on; `before` it the stanza has others."""
    clauses = [clause for part in re.split(CLAUSE_END, line) if (clause := "".join(re.findall(HAN, part)))]
    spoken = [readings(clause) for clause in clauses]
    verse = len({len(clause) for clause in clauses}) == 1
    ends = [
        End(clause[-1], rhyme_sound(syllables[-1])) if verse and (number % 2 or number == 0) else End()
        for number, (clause, syllables) in enumerate(zip(clauses, spoken, strict=True), before)
    ]
    tones = tuple("".join(TONES.get(syllable[-1:], UNKNOWN) for syllable in syllables) for syllables in spoken)
    return LineRemark(tones=tones), ends


def readings(clause: str) -> list[str]:
    """The pinyin of each character with the digit of its tone, or "" for one that is not known."""
    found = lazy_pinyin(clause, errors=lambda unknown: [""] * len(unknown), **PINYIN)
    for place, syllable in enumerate(found):
        if syllable.endswith(NEUTRAL):
            others = pinyin(clause[place], heteronym=True, **PINYIN)[0]
            found[place] = next((other for other in others if not other.endswith(NEUTRAL)), syllable)
    return found


def rhyme_sound(syllable: str) -> frozenset[str]:
    """What a syllable of pinyin rhymes on, if it is known: its rhyme, and whether its tone is level."""
    rhyme = "-i" if BUZZED.fullmatch(syllable) else RHYME_OF.get(to_finals(syllable))
    tone = TONES.get(syllable[-1:])
    return frozenset({f"{rhyme} {tone}"}) if rhyme and tone else frozenset()


def rhyme_letters(ends: list[End]) -> list[str]:
    """A letter for each end: the same for those that rhyme, from A in the order in which they come; or ""."""
    groups: list[set[str]] = []  # the words of each
    mine: list[int | None] = []
    for number, end in enumerate(ends):
        nearest = (n for n in range(number - 1, max(-1, number - 1 - REACH), -1) if end.sounds & ends[n].sounds)
        group = next((mine[n] for n in nearest), None)
        if group is None and end.sounds:
            group = len(groups)
            groups.append(set())
        if group is not None:
            groups[group].add(end.word)
        mine.append(group)
    rhymed = [group for group, words in enumerate(groups) if len(words) > 1]
    letters = {group: string.ascii_uppercase[n % 26] for n, group in enumerate(rhymed)}
    return [letters.get(group, "") for group in mine]
