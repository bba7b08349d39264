"""What can be said of an answer: its verse, and what of it is copied from the texts that its model has read."""

import re
import string
import threading
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice, pairwise
from pathlib import Path

import numpy as np
import pronouncing
from pypinyin import Style, lazy_pinyin, pinyin
from pypinyin.contrib.tone_convert import to_finals

from space.fetching import is_here, load_stages, names_of
from training.corpora import BETWEEN, QUATRAINS, Corpus, load_corpus
from training.overlap import trained_on
from training.quality import HAN, WORD
from training.works import COLLECTIONS, WORKS

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

LETTERS = 24  # bytes of UTF-8: so much of a passage must be letters before it counts as copied
WINDOW = 16  # bytes by which passages are looked up
STEP = LETTERS - WINDOW + 1  # every passage that counts holds a whole window that begins at a multiple of it
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
COMMON = 20  # places: what stands in more of them is a formula, and would take long to compare
# What the part of a work that a passage stands in is called by: a line that comes before it.
TITLE_LINE = rb"\n\n(.+)"
HEADINGS = {
    **dict.fromkeys(("chinese-poems", QUATRAINS, "shijing", "lunyu"), TITLE_LINE),
    "sampler": rb"\n([A-Z][A-Z ,'-]+)\n",
    "sonnets": rb"\n  ([IVXLC]+)\n",
    "oz": rb"\n(Chapter [IVXLC]+)\n",
}
LONGEST_PART = 100_000  # bytes between such a line and the last passage under it
DICTIONARY, LIBRARY = threading.Lock(), threading.Lock()
LIBRARIES: dict[tuple, tuple[list[str], "Library"]] = {}  # by the stages of a training, with the texts that were here


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


@dataclass(frozen=True)
class Passage:
    """A passage of an answer that stands word for word in a text that its model was trained on.

    Attributes:
        begin, end: where it stands, in characters of the answer.
        work: the title of the work that has it, or the name of a text of the trainer's own.
        part: the title of the poem, or the chapter or number, where the work is divided by such; or "".
    """

    begin: int
    end: int
    work: str
    part: str


@dataclass(frozen=True)
class Originality:
    """What of an answer is copied.

    Attributes:
        passages: those that are, in order; none overlaps another.
        share: of the characters between the first word after the prompt and the last, between 0 and 1.
        compared: the names of the texts that the answer was compared with.
        missing: the texts that the answer could not be compared with, by the names of their corpora; `run.json` if
            there is no record of what the model was trained on.
    """

    passages: tuple[Passage, ...]
    share: float
    compared: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def longest(self) -> Passage | None:
        return max(self.passages, key=lambda passage: passage.end - passage.begin, default=None)


@dataclass(frozen=True)
class Library:
    """Training texts one after the other, and where in them a passage stands.

    Attributes:
        text: in UTF-8.
        windows, places: the hashes of every [`STEP`]-th window of the text, sorted, and where each begins.
        begins, works, titles: where each work begins in the text, its name in the registry, if it has one, and what it
            is called.
        compared, missing: see [`Originality`].
    """

    text: bytes
    windows: np.ndarray
    places: np.ndarray
    begins: list[int]
    works: list[str]
    titles: list[str]
    compared: tuple[str, ...]
    missing: tuple[str, ...]

    def source(self, place: int) -> tuple[str, str]:
        """The work that a place of the text belongs to, and the part of it."""
        number = bisect_right(self.begins, place) - 1
        if (pattern := HEADINGS.get(self.works[number])) is None:
            return self.titles[number], ""
        # Two line breaks stand before a work too.
        begin = max(self.begins[number] - len(BETWEEN), place - LONGEST_PART)
        found = re.finditer(pattern, self.text[begin : place + LONGEST_PART])
        headings = [match[1] for match in found if begin + match.start() <= place]
        return self.titles[number], headings[-1].decode(errors="ignore").strip() if headings else ""


def copied_passages(answer: str, checkpoint: str | Path, prompt: str = "") -> Originality:
    """Find what of an answer stands word for word in the training splits of what its model was trained on.

    A passage counts if it has whole words with 24 bytes of letters in a row: some six words of English, or eight
    Chinese characters. Of validation splits, which are not copied, this marks 1.3% of oz, formulas such as "Scarecrow
    and the Tin Woodman", at most 0.5% of each of the classics, and nothing of poetry; 0.5% of lunyu; 2.2% of shijing,
    which has refrains; and 1.7% of chinese-poems, but 0.5% of those that do not stand in the training split too.

    The first call loads the texts that are here, which takes seconds; [`space.fetching`] fetches the others. What
    [`training.recipe`]'s `remove_overlap` left out of them is compared too.

    Args:
        checkpoint: a folder with the record of its run, in it or beside it.
        prompt: what the answer begins with and the model has not written, which is not looked at. An answer to a
            request begins otherwise.
    """
    known = [stage for stage in trained_on(str(checkpoint)) if stage["name"]]
    library = load_library(tuple((stage["name"], stage["sha256"]) for stage in known))
    own = answer.removeprefix(prompt)
    before = len(answer) - len(own)
    words = [match.span() for match in WORD.finditer(own)]
    at = np.cumsum([0, *(len(character.encode()) for character in own)])  # where each character begins, in bytes
    found = sorted(matches(own, words, at, library), key=lambda match: match[1] - match[0])
    owner = np.full(len(words) + 2, -1)  # the longest match that each word is in, between two that are in none
    for number, (first, after, _) in enumerate(found):
        owner[first + 1 : after + 1] = number
    passages = []
    for first, after in pairwise(np.flatnonzero(np.diff(owner))):
        # Without what is between words, or what a longer match has of this one, it may be too short.
        size = sum(at[end] - at[begin] for begin, end in words[first:after])
        if (number := owner[first + 1]) >= 0 and size >= LETTERS:
            (begin, _), (_, end) = words[first], words[after - 1]
            source = library.source(int(at[begin]) + found[number][2])
            passages.append(Passage(before + begin, before + end, *source))
    copied = sum(passage.end - passage.begin for passage in passages)
    share = copied / (words[-1][1] - words[0][0]) if words else 0.0
    return Originality(tuple(passages), share, library.compared, library.missing)


def matches(own: str, words: list[tuple[int, int]], at: np.ndarray, library: Library) -> Iterator[tuple[int, int, int]]:
    """What words in a row a library has too: the first, the one after the last, and how much further on it has them.

    Args:
        words: where the words of `own` begin and end, in characters.
        at: where its characters begin, in bytes `(characters + 1,)`.
    """
    data, read = (np.frombuffer(text, dtype=np.uint8) for text in (own.encode(), library.text))
    begins, ends = at[np.array(words, dtype=int).reshape(-1, 2)].T
    for offset in offsets(data, library):
        low, high = max(0, -offset), min(len(data), len(read) - offset)
        same = data[low:high] == read[low + offset : high + offset]
        edges = low + np.flatnonzero(np.diff(np.concatenate(([False], same, [False]))))
        for begin, end in edges.reshape(-1, 2)[np.diff(edges)[::2] >= LETTERS]:
            first, after = int(np.searchsorted(begins, begin)), int(np.searchsorted(ends, end, side="right"))
            yield first, after, offset


def offsets(data: np.ndarray, library: Library) -> list[int]:
    """By how much places in a library differ from those in `data` `(length,)` uint8 where a window of it stands."""
    windows = hashed(data, 1)
    first, last = (np.searchsorted(library.windows, windows, side=side) for side in ("left", "right"))
    known = np.flatnonzero((last > first) & (last - first <= COMMON))
    places = [library.places[first[n] : last[n]].astype(np.int64) - n for n in known]
    return np.unique(np.concatenate(places)).tolist() if places else []


def hashed(data: np.ndarray, step: int) -> np.ndarray:
    """A 64-bit hash of the window of `data` `(length,)` uint8 that begins at every `step`-th place.

    What is found by it is compared, so that it need not be as good as that of [`training.overlap`], which takes longer.
    """
    if len(data) < WINDOW:
        return np.empty(0, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(data, WINDOW)[::step]
    halves = np.ascontiguousarray(windows).view(np.uint64)
    return halves[:, 0] * MULTIPLIER + halves[:, 1]


def load_library(stages: tuple[tuple[str, str], ...]) -> Library:
    """The training splits of corpora, each given by its name and the hash of its text, as far as the texts are here.

    It is loaded once, and again when texts have come: two threads would both build it, and take twice the memory.
    """
    with LIBRARY:
        here = [name for name in names_of(stages) if is_here(name)]
        if stages not in LIBRARIES or LIBRARIES[stages][0] != here:
            LIBRARIES.pop(stages, None)  # its memory is free before the new one takes as much
            LIBRARIES[stages] = here, build_library(stages)
        return LIBRARIES[stages][1]


def build_library(stages: tuple[tuple[str, str], ...]) -> Library:
    corpora, missing = load_stages(stages)
    text, begins, works, titles = b"", [], [], []
    for name, corpus in corpora.items():
        text += BETWEEN.encode()
        for work, begin in works_of(name):
            begins.append(len(text) + len(corpus.train[:begin].encode()))
            works.append(work)
            titles.append(title_of(work, corpus))
        text += corpus.train.encode()
    windows = hashed(np.frombuffer(text, dtype=np.uint8), STEP)
    order = np.argsort(windows)
    places = (order * STEP).astype(np.uint32)
    compared = tuple(corpus.name for corpus in corpora.values())
    return Library(text, windows[order], places, begins, works, titles, compared, tuple(missing))


def title_of(work: str, corpus: Corpus) -> str:
    work = "chinese-poems" if work == QUATRAINS else work
    return WORKS[work].title if work in WORKS else corpus.name


def works_of(name: str) -> list[tuple[str, int]]:
    """The works that a corpus is made of, and where each begins, in characters."""
    works, begins = COLLECTIONS.get(name, (name,)), [0]
    for work in works[:-1]:
        begins.append(begins[-1] + len(load_corpus(work).text) + len(BETWEEN))
    return list(zip(works, begins, strict=True))
