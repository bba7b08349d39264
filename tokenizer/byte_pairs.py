"""Byte-pair encoding written out: the same merges and ids as the library's (`bpe.py`), on one page.

    >>> pairs = BytePairs.train("the cat sat on the mat, the cat sat", vocab_size=262)
    >>> pairs.merges
    [(b'a', b't'), (b'h', b'e'), (b't', b'he')]
    >>> list(pairs.steps("the"))
    [[b't', b'h', b'e'], [b't', b'he'], [b'the']]

Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016,
https://arxiv.org/abs/1508.07909, algorithm 1.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from .bpe import BYTE_OF, WORDS
from .character import BEGIN, END, PADDING

SPECIAL = [BEGIN.encode(), END.encode(), PADDING.encode()]
# The library orders the bytes by the characters that it writes them as.
BYTES = [bytes([BYTE_OF[character]]) for character in sorted(BYTE_OF)]


class BytePairs:
    """A byte-pair encoding: the bytes of every token by its id, and the merged pairs in their order."""

    def __init__(self, tokens: list[bytes], merges: list[tuple[bytes, bytes]]):
        self.tokens, self.merges = tokens, merges
        self.ids = {token: id for id, token in enumerate(tokens)}
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}

    @classmethod
    def train(cls, text: str, vocab_size: int) -> "BytePairs":
        """Merge the most frequent pair of neighbours in the words of a text until there are `vocab_size` tokens.

        Among equally frequent pairs the one with the smaller ids comes first.
        """
        tokens, merges = SPECIAL + BYTES, []
        ids = {token: id for id, token in enumerate(tokens)}
        counts = Counter(WORDS.findall(text))
        words = [[ids[bytes([byte])] for byte in word.encode()] for word in counts]
        repeats = list(counts.values())
        frequency: Counter[tuple[int, int]] = Counter()  # how often each pair occurs
        where = defaultdict(set)  # and in which words
        for index, word in enumerate(words):
            for pair in pairwise(word):
                frequency[pair] += repeats[index]
                where[pair].add(index)
        heap = [(-count, pair) for pair, count in frequency.items()]
        heapq.heapify(heap)
        while heap and len(tokens) < vocab_size:
            count, pair = heapq.heappop(heap)
            if -count != frequency[pair]:  # out of date: other merges have used up some of its pairs
                if frequency[pair] > 0:
                    heapq.heappush(heap, (-frequency[pair], pair))
                continue
            left, right = (tokens[id] for id in pair)
            merges.append((left, right))
            if left + right not in ids:  # else another pair has already made the same token
                ids[left + right] = len(tokens)
                tokens.append(left + right)
            new = set()
            for index in where.pop(pair):
                for changed, change in join(words[index], pair, ids[left + right]):
                    frequency[changed] += change * repeats[index]
                    if change > 0:
                        where[changed].add(index)
                        new.add(changed)
            for changed in new:
                if frequency[changed] > 0:
                    heapq.heappush(heap, (-frequency[changed], changed))
        return cls(tokens, merges)

    def steps(self, word: str) -> Iterator[list[bytes]]:
        """The pieces of a word after each merge, from its bytes to its tokens."""
        pieces = [bytes([byte]) for byte in word.encode()]
        yield list(pieces)
        while len(pieces) > 1:
            rank, place = min((self.ranks.get(pair, len(self.ranks)), i) for i, pair in enumerate(pairwise(pieces)))
            if rank == len(self.ranks):
                return
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
            yield list(pieces)

    def encode(self, text: str) -> list[int]:
        """The ids of a text: for each word those of its pieces after the last merge."""
        known: dict[str, list[int]] = {}
        for word in (words := WORDS.findall(text)):
            if word not in known:
                *_, pieces = self.steps(word)
                known[word] = [self.ids[piece] for piece in pieces]
        return [id for word in words for id in known[word]]

    def decode(self, ids: list[int]) -> str:
        """The text of some ids; bytes that do not form a character become U+FFFD."""
        return b"".join(self.tokens[id] for id in ids).decode(errors="replace")


def join(word: list[int], pair: tuple[int, int], new: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Replace each `pair` in a word by `new`, left to right, and yield how the counts of other pairs change."""
    place = 0
    while place < len(word) - 1:
        if (word[place], word[place + 1]) == pair:
            word[place : place + 2] = [new]
            if place > 0:
                yield (word[place - 1], pair[0]), -1
                yield (word[place - 1], new), +1
            if place < len(word) - 1:
                yield (pair[1], word[place + 1]), -1
                yield (new, word[place + 1]), +1
        place += 1
