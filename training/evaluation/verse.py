"""The verse of a text, line by line: syllables and rhymes in English, tones and rhymes in Chinese."""

import re
import string
import threading
from dataclasses import dataclass, replace
from itertools import groupby, islice

import pronouncing
from pypinyin import Style, lazy_pinyin, pinyin
from pypinyin.contrib.tone_convert import to_finals

from training.evaluation.quality import HAN, WORD

LONGEST_VERSE = 12  # words: most lines of wrapped prose have more, lines of verse hardly ever do
REACH = 8  # lines, or Chinese clauses, that two rhyming ones may be apart
CLAUSE_END = r"[，。！？；：,.!?;:]"
LEVEL, OBLIQUE, UNKNOWN = "平仄？"
TONES = {"1": LEVEL, "2": LEVEL, "3": OBLIQUE, "4": OBLIQUE}
NEUTRAL = "5"
PINYIN = {"style": Style.TONE3, "neutral_tone_with_five": True}
# Finals that rhyme, by the fourteen rhymes of modern Mandarin (中华新韵): what counts is the main vowel and what
# follows it, not the glide before it. The fourteenth is the vowel of 诗 and 思, which pinyin writes like that of 机.
RHYMES = """a ia ua/o e uo/ie ve ê/ai uai/ei uei/ao iao/ou iou/an ian uan van/en in uen vn/ang iang uang/
eng ing ueng ong iong/i er v/u"""
RHYME_OF = {final: finals for finals in RHYMES.split("/") for final in finals.split()}
BUZZED = re.compile(r"(?:[zcs]h?|r)i\d")
DICTIONARY = threading.Lock()


@dataclass(frozen=True)
class LineVerse:
    """The verse of one line. All is empty for an empty line and for the title of a Chinese poem.

    Attributes:
        syllables: the number of syllables of an English line.
        estimated: whether some were estimated from the letters of a word that the dictionary lacks.
        tones: for each clause of Chinese, a sign for each character: 平 (level), 仄 (oblique) or ？ (unknown). They are
            those of modern Mandarin: 1 and 2 are level, 3 and 4 oblique. Tang poets spoke differently: many characters
            that had an entering tone, which counts as oblique, are level today.
        rhymes: a letter for the end of the line, or for the end of each Chinese clause; "" where nothing rhymes.
    """

    syllables: int = 0
    estimated: bool = False
    tones: tuple[str, ...] = ()
    rhymes: tuple[str, ...] = ()


@dataclass(frozen=True)
class End:
    """The last word of a line or clause, and the sounds it can rhyme on, one for each pronunciation."""

    word: str = ""
    sounds: frozenset[str] = frozenset()


def analyse_verse(text: str) -> list[LineVerse]:
    """Analyse each line of a text (`text.split("\\n")`), whether it is verse or prose.

    Syllables are counted in the first pronunciation of the CMU pronouncing dictionary. Rhymes are sought within a
    stanza (the lines between two empty ones), among lines up to eight apart; their letters start again with each
    stanza. Words rhyme if some of their pronunciations are the same from the last stressed vowel on. A word that the
    dictionary lacks does not rhyme, nor does a line of more than 12 words, which is prose. Repeating a word is not a
    rhyme, but the repetition gets the letter of the word.

    In Chinese the clauses that rhyme in classical verse are compared: the first and every second one, in lines whose
    clauses have equal lengths. They rhyme if the finals of their last characters agree except for the medial, and both
    tones are level or both oblique. Pronunciations are the modern Mandarin ones that pypinyin chooses; verse has no
    neutral tone, so the character's other pronunciation is taken instead.
    """
    with DICTIONARY:  # pronouncing takes the dictionary as loaded as soon as another thread has begun to load it
        pronouncing.init_cmu()
    verse = []
    for written, group in groupby(text.split("\n"), key=lambda line: bool(line.strip())):
        lines = list(group)
        verse += analyse_stanza(lines) if written else [LineVerse()] * len(lines)
    return verse


def analyse_stanza(lines: list[str]) -> list[LineVerse]:
    """Analyse the lines between two empty ones."""
    drafts, clauses = [], 0
    for number, line in enumerate(lines):
        words = WORD.findall(line)
        han = sum(bool(re.fullmatch(HAN, word)) for word in words)
        if 2 * han <= len(words):
            drafts.append(english_line(words))
        elif number == 0 and not re.search(CLAUSE_END, line) and re.search(CLAUSE_END, "".join(lines)):
            drafts.append((LineVerse(), []))  # a title
        else:
            drafts.append(chinese_line(line, clauses))
            clauses += len(drafts[-1][1])
    letters = iter(rhyme_letters([end for _, ends in drafts for end in ends]))
    return [replace(verse, rhymes=tuple(islice(letters, len(ends)))) for verse, ends in drafts]


def english_line(words: list[str]) -> tuple[LineVerse, list[End]]:
    """The verse of an English line apart from its rhymes, and its end."""
    if not words:
        return LineVerse(), []
    words = [word.lower().replace("’", "'") for word in words]
    pronunciations = [pronouncing.phones_for_word(word) for word in words]
    counts = [
        pronouncing.syllable_count(phones[0]) if phones else estimate_syllables(word)
        for word, phones in zip(words, pronunciations, strict=True)
    ]
    # The dictionary's digits tell primary from secondary stress, which rhyme with each other: sky, butterfly.
    sounds = frozenset(re.sub(r"\d", "", pronouncing.rhyming_part(phones)) for phones in pronunciations[-1])
    end = End(words[-1], sounds) if len(words) <= LONGEST_VERSE else End()
    return LineVerse(sum(counts), not all(pronunciations)), [end]


def estimate_syllables(word: str) -> int:
    """Count the groups of vowels of a lower-case word except for a silent e: right for nine words in ten."""
    word = word.replace("'", "")
    if not re.search(r"[bcdfgkpstz]led?$", word):
        word = re.sub(r"(?<=[^aeiouy])e$|(?<=[^aeiouytd])e(?=d$)", "", word)
    return max(1, len(re.findall(r"[aeiouy]+", word)))


def chinese_line(line: str, before: int) -> tuple[LineVerse, list[End]]:
    """The verse of a Chinese line apart from its rhymes, and the ends of its clauses, of which `before` precede it."""
    clauses = [clause for part in re.split(CLAUSE_END, line) if (clause := "".join(re.findall(HAN, part)))]
    pinyins = [pronounce(clause) for clause in clauses]
    verse = len({len(clause) for clause in clauses}) == 1
    ends = [
        End(clause[-1], rhyme_sound(syllables[-1])) if verse and (number % 2 or number == 0) else End()
        for number, (clause, syllables) in enumerate(zip(clauses, pinyins, strict=True), before)
    ]
    tones = tuple("".join(TONES.get(syllable[-1:], UNKNOWN) for syllable in syllables) for syllables in pinyins)
    return LineVerse(tones=tones), ends


def pronounce(clause: str) -> list[str]:
    """The pinyin of each character with the digit of its tone, or "" for an unknown one."""
    found = lazy_pinyin(clause, errors=lambda unknown: [""] * len(unknown), **PINYIN)
    for place, syllable in enumerate(found):
        if syllable.endswith(NEUTRAL):
            others = pinyin(clause[place], heteronym=True, **PINYIN)[0]
            found[place] = next((other for other in others if not other.endswith(NEUTRAL)), syllable)
    return found


def rhyme_sound(syllable: str) -> frozenset[str]:
    """What a syllable of pinyin rhymes on, if it is known: its rhyme group and the class of its tone."""
    rhyme = "-i" if BUZZED.fullmatch(syllable) else RHYME_OF.get(to_finals(syllable))
    tone = TONES.get(syllable[-1:])
    return frozenset({f"{rhyme} {tone}"}) if rhyme and tone else frozenset()


def rhyme_letters(ends: list[End]) -> list[str]:
    """A letter for each end, the same for those that rhyme, from A in order of appearance; "" where nothing rhymes."""
    groups: list[set[str]] = []  # the words of each group of ends that rhyme
    chosen: list[int | None] = []  # the group of each end
    for number, end in enumerate(ends):
        nearest = (n for n in range(number - 1, max(-1, number - 1 - REACH), -1) if end.sounds & ends[n].sounds)
        group = next((chosen[n] for n in nearest), None)
        if group is None and end.sounds:
            group = len(groups)
            groups.append(set())
        if group is not None:
            groups[group].add(end.word)
        chosen.append(group)
    rhymed = [group for group, words in enumerate(groups) if len(words) > 1]
    letters = {group: string.ascii_uppercase[n % 26] for n, group in enumerate(rhymed)}
    return [letters.get(group, "") for group in chosen]
