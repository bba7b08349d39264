"""Clean poems for training: a title and lines, without notes, and lost characters restored where they are certain.

A file of the archive is front matter (`author`, `title`) and a poem. [`clean_poems`] turns files into documents.
"""

import html
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from training.data.cleaning import SIGNS, Document

LOST = "\ufffd"
GRAM = 5  # words of an n-gram by which poems are compared
SHARED = 0.4  # a poem that shares this part of its n-grams with a longer one is a duplicate
# The archive has lost all accented letters, so these words cannot be learned from its own poems.
ACCENTED = """
alcinoüs andré aphrodité après archæan ariadné attaché aërial aërie blasé blüthe boötes briseïs brontë bréhan
béranger bête café calliopé cañon cañons chloë château châteaux circé cliché cléopâtre communiqué coëval
crêpe crœsus cæsar cæsar's cæsars côte danaë daphné doña dædal dædalus débris début décor déjà eurydicé euterpé
façade faërie faëry faëryland fiancé fiancée français française frère fête fêted fêtes für garçon goëthe grün göthe
hebé hélène hôtel israël josé könig laocoön laïs là mañana mediæval melpomené michaël molière moët musæus mädchen
mère mêlée même müller napoléon naïve naïveté niobé niño noë noël née orléans orphæan où pasiphaë passé
penelopé persephoné phaëton phœbe phœbus phœnician phœnix piræus piñon poëm poësy poët poëts protégé
protégée psyché pæan pæans père raphaël rené risqué roué régime résumé rêve rôle röslein schön señor señora señores
señorita soirée terpsichoré thaïs thérèse théâtre très tête voilà voltaïre zoë à âme æacus ægean ægis ægisthus ægle
ægypt ægyptian æneas æolian æolus æschylus æson æsop æther ætherial æthiop ætna ça çà éclat élan élite émile étienne
über œdipus
"""
ACCENTED = frozenset(ACCENTED.split())
# Words with an apostrophe in place of letters at their beginning, and those with one at their end.
ELIDED = (
    "tis twas twere twill twould twixt tween neath mid midst mong mongst gainst em im er e ere round bout scape way"
)
ELIDED += " cause stead sdeath stwill twad til till pon cross gin ve d ll re s t tisn't tain't twasn't kase nuff nother"
CLIPPED = (
    "tho thro o wi th an i t ha gi a na yo ol lan en fu de mo bo wa ma fa po ca no awa ower frae hae gie se ta un ho"
)
CLIPPED += " altho thorough thru ev han ole doin goin comin lookin runnin livin makin nothin somethin mornin evenin"
WORD = re.compile(rf"[^\W\d_{LOST}]+(?:'[^\W\d_{LOST}]+)*")
# A paragraph that begins with the mark of a note.
NOTE = (
    r"(?m)^(?:\[?\d{1,3}\]|\(\d{1,3}\)|\{\d{1,3}\}|\*+ ?|[†‡§]|Footnotes?\b|FOOTNOTES?\b|N(?:ote|OTE)S?\b ?[.:\-])"
    r".*[A-Za-z]{3}.*(?:\n.+)*"
)
EDITORIAL = re.compile(
    r"(?i)first published|entered according|\bedition\b.*\)|\bMSS?\.|author's note|copyright|reprinted|"
    r"^\(?(?:translated|imitated|adapted) (?:from|by)|^\(?from the (?:french|german|italian|spanish|latin|greek)\b"
)
EXCLUDED = re.compile(r"dickinson|shakespeare", re.IGNORECASE)


def clean_poems(files: Iterable[tuple[str, str]], poets: dict[str, str]) -> tuple[list[Document], dict[str, int]]:
    """The poems of some poets, and how many were left out for each reason.

    Args:
        files: the name and the text of each file.
        poets: the authors to keep, as spelled in the files, with the names to give them.
    """
    left_out: Counter = Counter()
    with ProcessPoolExecutor(min(4, os.cpu_count()), mp_context=get_context("spawn")) as pool:
        laid_out = pool.map(lay_out_file, [text for _, text in files], chunksize=500)
        found = [(poets[author], title, body) for author, title, body in laid_out if author in poets]
    words = Counter()
    for _, _, body in found:
        if LOST not in body:
            words.update(WORD.findall(body.lower()))
    poems = []
    for author, title, body in found:
        reason, document = clean_poem(author, title, body, words)
        if document:
            poems.append(document)
        else:
            left_out[reason] += 1
    kept = without_repeats(poems)
    left_out["stands twice"] = len(poems) - len(kept)
    return kept, dict(left_out)


def lay_out_file(text: str) -> tuple[str, str, str]:
    """The author, title and poem of a file, laid out."""
    author, title, body = read_poem(text)
    return author, lay_out_poem(re.sub(r" +[-–—]+ +", ": ", title)), lay_out_poem(body)


def read_poem(text: str) -> tuple[str, str, str]:
    """The author, title and text of a file; empty strings if it has no front matter."""
    match = re.match(r"---\s*\n(.*?)\n---[ \t]*\n", text, re.DOTALL)
    if not match:
        return "", "", ""
    fields = dict(line.split(":", 1) for line in match[1].split("\n") if re.match(r"\w+:", line))
    return fields.get("author", "").strip(), fields.get("title", "").strip(), text[match.end() :]


def lay_out_poem(text: str) -> str:
    """Normalise signs, and remove notes, indentation and rows of asterisks."""
    text = html.unescape(html.unescape(text)).replace("\r", "")
    text = re.sub(r"\[(oe|ae)\]", r"\1", text, flags=re.IGNORECASE).translate(SIGNS)
    text = re.sub(r"(?m)^[ \t]+|[ \t]+$", "", re.sub(r"(?m)[ \t]{2,}[\[(]?\d{1,4}[\])]?\.?$", "", text))
    head = re.match(r"(?:.*\n){0,4}", text).end()
    text = text[:head] + re.sub(NOTE, "", text[head:])
    text = re.sub(r" ?\[(?:\d{0,4}|[A-Za-z])\]|\{\d+\}|\[(?:[^\[\]]|\[[^\[\]]*\]){0,1500}\]", cut_reference, text)
    text = re.sub(r"(?m)^[ *.·•+#-]*[*•+#][ *.·•+#-]*$|^[ .-]{3,}$|^\d{1,4}$", "", text)
    text = re.sub(r"(?<=[\w.,;:!?'\"])\*+|\*+(?=[\w'\"])|[†‡|]", "", text)
    text = re.sub(r"(?m)(?<=\S) ?--(?: ?(?=\S)|$)", "--", re.sub(r"-{3,}", "--", text))
    text = re.sub(r"(?<=[\w,;.!?'\"]) - ?(?=[\w'\"])|(?<=[\w,;:.!?'\"]) -$", "--", text, flags=re.MULTILINE)
    text = re.sub(r"''|``", '"', re.sub(r" {2,}", " ", text))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def cut_reference(match: re.Match) -> str:
    """The replacement for a pair of brackets: nothing, or the letter that they hold within a word."""
    letter = re.fullmatch(r"\[([a-z])\]", match[0])
    before = match.string[match.start() - 1 : match.start()]
    after = match.string[match.end() : match.end() + 1]
    return letter[1] if letter and (before.isalpha() or after.isalpha()) else ""


def clean_poem(author: str, title: str, body: str, words: Counter) -> tuple[str, Document | None]:
    """A poem as a document, or why it is left out."""
    stanzas = [stanza for stanza in body.split("\n\n") if stanza.strip()]
    if len(stanzas) > 3 and all("\n" not in stanza for stanza in stanzas):
        stanzas = ["\n".join(stanzas)]  # every line is a paragraph
    while stanzas and is_note(stanzas, -1, author):
        stanzas = stanzas[:-1]
    while stanzas and is_note(stanzas, 0, author):
        stanzas = stanzas[1:]
    if any(is_prose(stanza, author) for stanza in stanzas):
        return "prose among the verse", None
    body = re.sub(r"(?<=[a-z][!?;,.:])(?=[A-Z][a-z])", " ", "\n\n".join(stanzas))
    lines = body.split("\n")
    if lines and plain(lines[0]) == plain(title):
        body = body[len(lines[0]) :].strip()
    if LOST in body or LOST in title:
        straight = "'" in body
        title, body = mend(title, words, straight), mend(body, words, straight)
        if LOST in body or LOST in title:
            return "a lost character", None
    if re.search(r"[\[\]{}<>\\^@%#/+*\x00-\x08\x0e]|https?:|gutenberg|footnote", body, re.IGNORECASE) or re.search(
        r"\?\?", body
    ):
        return "marks of an editor", None
    if EXCLUDED.search(author):
        return "another corpus has the poet", None
    title = re.sub(r"[\[\]{}<>]", "", title).strip(" .,;:") or lines[0].strip(" ,.;:!-")
    if title.isupper():
        title = re.sub(r"[A-Za-z']+", lambda m: m[0] if re.fullmatch("[IVXLC]+", m[0]) else m[0].capitalize(), title)
    if len(body) < 40 or body.count("\n") < 1:
        return "too short", None
    return "", Document(f"{title}\n\n{body}", title, author)


def is_note(stanzas: list[str], place: int, author: str) -> bool:
    """Whether the first or the last stanza is a note, a date, a name, or prose."""
    stanza, lengths = stanzas[place], [len(line) for other in stanzas for line in other.split("\n")]
    if is_prose(stanza, author) or (len(stanza) < 300 and re.search(EDITORIAL, stanza)):
        return True
    if "\n" in stanza:
        return False
    if place and len(stanza) < 30 and stanza.isupper():
        return True  # the name of a translator
    dated = len(stanza) < 60 and re.search(r"\b1[5-9]\d\d\b", stanza)
    usual = sorted(lengths)[len(lengths) // 2]
    return bool(dated or (len(lengths) > 3 and len(stanza) > max(70, 1.7 * usual)))


def is_prose(stanza: str, author: str) -> bool:
    """Whether a stanza is prose: wrapped lines that continue in lower case, or lines too long for verse."""
    lines = stanza.split("\n")
    longest = max(map(len, lines))
    if longest > (420 if author == "Walt Whitman" else 170):
        return True
    going_on = [line[:1].islower() for line in lines[1:]]
    mean = sum(map(len, lines[:-1] or lines)) / max(1, len(lines) - 1)
    return len(lines) > 2 and mean > 58 and sum(going_on) >= 0.6 * len(going_on)


def plain(text: str) -> str:
    """A text for comparison: its words in lower case."""
    return " ".join(re.findall(r"[^\W_]+", text.lower().replace("'", "")))


def mend(text: str, words: Counter, straight: bool) -> str:
    """Restore the lost characters of a text where they are certain; the others stay.

    Apostrophes, quotation marks, dashes and accented letters were lost. The words around show which it was.

    Args:
        words: how often each word occurs in poems that have lost no character.
        straight: the poem has apostrophes, so it has lost none: "belov?d" lacks an accented e.
    """
    if LOST not in text:
        return text
    lost_apostrophe = re.search(rf"[a-z]{LOST}(?:s|t|ll|ve|re)\b", text) is not None
    pending = False  # a quotation mark has been opened
    out, place = [], 0
    for match in re.finditer(LOST, text):
        out.append(text[place : match.start()])
        place = match.end()
        before, after = "".join(out)[-40:], text[place : place + 40]
        sign = lost_sign(before, after, words, straight, lost_apostrophe, pending)
        if sign == '"':
            pending = not after[:1].isspace() and bool(after) and not (before[-1:] in ",.!?;:" and after[:1] in ",.)")
        out.append(sign)
    return "".join([*out, text[place:]])


def lost_sign(before: str, after: str, words: Counter, straight: bool, apostrophes: bool, pending: bool) -> str:
    """The character that was lost between two texts, or `LOST` if it is uncertain."""
    left = re.search(r"[^\W\d_]+(?:'[^\W\d_]+)*$", before)
    right = re.match(rf"[^\W\d_]+(?:['{LOST}][^\W\d_]+)*", after)
    left, right = left[0].lower() if left else "", right[0].lower() if right else ""
    if left and right:
        return inside(left, right.replace(LOST, "'"), words, straight, apostrophes)
    if right:
        first = right.replace(LOST, "'")
        if re.match(r"\d", after):
            return LOST
        if first.split("'")[0] in ELIDED.split() and first.split("'")[0] not in (
            "way",
            "cause",
            "round",
            "till",
            "cross",
        ):
            return "'"
        if before[-1:] in ",.;:!?" and before[-1:]:
            return LOST
        sign = accent("", first)
        return (sign.upper() if sign and before[-1:] in ("", "\n") else sign) or (
            '"' if not before or before[-1:] in " \n('\"-" else LOST
        )
    if left:
        return at_end(left, after, words, pending)
    if re.match(r"\d{3}|\d+,\d", after):
        return "£"
    if before[-1:] == " " and after[:1] == " ":
        return "--"
    if before[-1:] and before[-1:] in ",.;:!?-" and (not after or after[0] in " \n).,;:"):
        return '"'
    return LOST


def inside(left: str, right: str, words: Counter, straight: bool, apostrophes: bool) -> str:
    """The character that was lost within a word, or between two."""
    ed = right == "d"
    if ed and words[f"{left}ed"]:
        if apostrophes and not straight:
            return "'"
        return "è" if straight and not apostrophes else LOST
    if sign := accent(left, right):
        return sign
    if words[f"{left}'{right}"] > 1 or (right in ("s", "ll", "ve", "t", "st", "re", "m") and words[left]):
        return "'"
    both = len(left) > 1 or left in ("i", "a", "o")
    second = right.split("'")[0]
    return "--" if both and words[left] > 30 and words[second] > 30 and len(second) > 1 else LOST


def accent(left: str, right: str) -> str:
    """The letter that completes a word of `ACCENTED`, or an empty string."""
    word = re.compile(f"{re.escape(left)}([^a-z']){re.escape(right)}")
    found = {match[1] for known in ACCENTED if (match := word.fullmatch(known))}
    return found.pop() if len(found) == 1 else ""


def at_end(left: str, after: str, words: Counter, pending: bool) -> str:
    """The character that was lost after a word."""
    if left in CLIPPED.split() or (left.endswith("in") and words[f"{left}g"] > 3):
        return "'"
    if re.match(r"[,.;:!?]?\s|[,.;:!?)]|$", after):
        if sign := accent(left, ""):
            return sign
        if pending:
            return '"'
        if left.endswith("s") and re.match(r" [a-z]", after):
            return "'"
    return "--" if words[left] > 2 and re.match(r"\n|$", after) else LOST


def without_repeats(poems: list[Document]) -> list[Document]:
    """Remove poems that share at least `SHARED` of their n-grams with a longer one."""
    owners, values, ids = [], [], {}
    sizes = np.zeros(len(poems), dtype=np.int64)
    for number, poem in enumerate(poems):
        grams = hash_grams(plain(poem.text.split("\n\n", 1)[1]).split(), ids)
        sizes[number] = len(grams)
        values.append(grams)
        owners.append(np.full(len(grams), number, dtype=np.int32))
    values, owners = np.concatenate(values), np.concatenate(owners)
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    ends = np.concatenate((starts[1:], [len(values)]))
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for start, end in zip(starts[(ends - starts) > 1], ends[(ends - starts) > 1], strict=True):
        group = owners[start:end].tolist()
        if len(group) <= 12:  # more poems than this share a common phrase of the language
            for i, a in enumerate(group):
                for b in group[i + 1 :]:
                    shared[a, b] += 1
    dropped = set()
    for (a, b), count in sorted(shared.items()):
        shorter = b if (sizes[b], -b) < (sizes[a], -a) else a
        if a not in dropped and b not in dropped and count >= max(2, SHARED * sizes[shorter]):
            dropped.add(shorter)
    kept, lines = [], set()
    for number, poem in enumerate(poems):
        opening = plain(poem.text.split("\n\n", 1)[1])[:120]
        if number not in dropped and opening not in lines:
            kept.append(poem)
            lines.add(opening)
    return kept


def hash_grams(words: list[str], ids: dict[str, int]) -> np.ndarray:
    """The distinct hashes of a text's n-grams; `ids` numbers words in the order in which they appear."""
    if len(words) < GRAM:
        return np.zeros(0, dtype=np.uint64)
    numbers = np.array([ids.setdefault(word, len(ids) + 1) for word in words], dtype=np.uint64)
    value = np.zeros(len(words) - GRAM + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for shift in range(GRAM):
            value = value * np.uint64(0x9E3779B97F4A7C15) + numbers[shift : shift + len(value)]
    return np.unique(value)
