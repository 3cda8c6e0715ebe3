"""A range asymmetric numeral systems (rANS) coder with many lanes (Duda, arXiv 1311.2540, section 2.3).

A lane is a stack of its own: a 64-bit head in [2^32, 2^64) above a stack of 32-bit words. A symbol is an interval
[start, start + freq) of the 2^PRECISION values of a cumulative frequency; pushing it puts about
PRECISION - log2(freq) bits on the stack. Because 2^32 is a multiple of 2^PRECISION, push and pop are exact inverses
of each other in every state: what is popped and pushed back leaves not a bit changed.

One symbol depends on the one before it, so there is nothing to vectorise within a lane: the loops are compiled with
Numba, and take as long for many lanes as for one with as many symbols.
"""

from collections.abc import Sequence

import numpy as np

from utils.compiled import compiled
from utils.fixed_point import PRECISION

_MASK = np.uint64((1 << PRECISION) - 1)
_PRECISION = np.uint64(PRECISION)
_SPARE = np.uint64(64 - PRECISION)  # head >> _SPARE >= freq: the head would overflow, a word must move out
_WORD = np.uint64(32)
_LEAST_HEAD = np.uint64(1 << 32)


class EmptyLaneError(ValueError):
    """A lane had no words left to pop."""


class Rans:
    """The stacks of `lanes` lanes.

    Steps act on the first n lanes, where n is the length of their arguments, so lanes that have come to their end
    can be left alone by ordering the lanes from the longest to the shortest.

    heads: uint64 [lanes]; words: uint32 [lanes, capacity], bottom first; counts: int64 [lanes], words on each lane's
    stack, the head not among them. They are what compiled code works on (see reserve()).
    """

    def __init__(self, heads: np.ndarray, words: np.ndarray, counts: np.ndarray) -> None:
        self.heads = heads
        self.words = words
        self.counts = counts

    @classmethod
    def from_words(cls, lanes: Sequence[np.ndarray] | np.ndarray) -> "Rans":
        """Build the coder from each lane's words, as to_words() returns them.

        lanes: a sequence of uint32 arrays, bottom of the stack first; the last two words are the head.
        Raises ValueError where these are not the words of a lane.
        """
        stacks = [np.asarray(words) for words in lanes]
        for i, words in enumerate(stacks):
            if words.ndim != 1 or words.dtype != np.uint32 or len(words) < 2 or words[-1] == 0:
                raise ValueError(f"lane {i} is not a stack of 32-bit words under a head of at least 2^32")
        counts = np.array([len(words) - 2 for words in stacks], np.int64)
        below = np.zeros((len(stacks), max(counts, default=0)), np.uint32)
        heads = np.empty(len(stacks), np.uint64)
        for i, words in enumerate(stacks):
            below[i, : counts[i]] = words[:-2]
            heads[i] = int(words[-1]) << 32 | int(words[-2])
        return cls(heads, below, counts)

    def to_words(self) -> list[np.ndarray]:
        """Each lane's words: a list of uint32 arrays, bottom of the stack first, the head's two words last."""
        heads = np.stack((self.heads, self.heads >> _WORD), axis=1).astype(np.uint32)
        return [np.concatenate((self.words[i, :n], heads[i])) for i, n in enumerate(self.counts)]

    def bits(self) -> np.ndarray:
        """The bits on each lane, float64 [lanes]: log2 of its head and 32 for every word below."""
        return 32 * self.counts + np.log2(self.heads)

    def push(self, start: np.ndarray, freq: np.ndarray) -> None:
        """Push one symbol onto each of the first n lanes.

        start, freq: [n] integers, 0 <= start, 1 <= freq, start + freq <= 2^PRECISION. Raises ValueError where not.
        """
        self.push_block(np.asarray(start)[:, None], np.asarray(freq)[:, None])

    def push_block(self, start: np.ndarray, freq: np.ndarray) -> None:
        """Push a block of symbols, the last dimension first, so that popping meets them in order.

        start, freq: [n, dims] integers as in push().
        """
        start, freq = _intervals(start, freq)
        self.reserve(start.shape[1])
        push_intervals(self.heads, self.words, self.counts, start, freq)

    def peek(self, n: int | None = None) -> np.ndarray:
        """Return the cumulative frequencies on top of the first n lanes (all by default), int64 [n].

        This leaves the lanes as they are. Once the symbols are known, pop() removes them.
        """
        return (self.heads[:n] & _MASK).astype(np.int64)

    def pop(self, start: np.ndarray, freq: np.ndarray) -> None:
        """Remove the symbol on top of each of the first n lanes.

        start, freq: [n] integers, the intervals that hold the cumulative frequencies that peek() returns.
        Raises EmptyLaneError, and leaves the coder as it was, where a lane has no word left to refill its head.
        """
        start, freq = _intervals(start, freq)
        raise_if_empty(_pop(self.heads, self.words, self.counts, start, freq))

    def whiten(self, n: int, depth: int, key: int) -> None:
        """Exchange the bits on top of the first n lanes, the head and up to `depth` words, for others; an involution.

        They are combined by exclusive or with a fixed pseudorandom stream, another one for each key, an int below
        2^32. Bits that symbols have left on the stack are as random as the distributions were right. What is popped
        with whitened bits follows the distribution that it is popped under, whatever has been pushed before.
        """
        with np.errstate(over="ignore"):  # without Numba, NumPy would warn of products modulo 2^64
            _whiten(self.heads[:n], self.words, self.counts, depth, key)

    def reserve(self, symbols: int) -> None:
        """Make room for `symbols` more symbols on every lane; none takes more than a word."""
        lanes, capacity = self.words.shape
        needed = int(self.counts.max(initial=0)) + symbols
        if needed > capacity:
            grown = np.zeros((lanes, max(needed, capacity + capacity // 2)), np.uint32)
            grown[:, :capacity] = self.words
            self.words = grown


def _intervals(start, freq):
    start, freq = (np.ascontiguousarray(part, np.int64) for part in (start, freq))
    if start.size and not (start.min() >= 0 and freq.min() > 0 and (start + freq).max() <= 1 << PRECISION):
        raise ValueError(f"an interval is not within the 2^{PRECISION} values of a cumulative frequency, or is empty")
    return start, freq


def raise_if_empty(lane: int) -> None:
    """Raise EmptyLaneError for a lane that compiled code found empty; -1 stands for none."""
    if lane >= 0:
        raise EmptyLaneError(f"lane {lane} has no words left")


@compiled
def push_symbol(
    heads: np.ndarray, words: np.ndarray, counts: np.ndarray, lane: int, start: np.int64, freq: np.int64
) -> None:
    """Push a symbol onto a lane that has room for a word. start, freq: int64, an interval."""
    head, divisor = heads[lane], np.uint64(freq)
    if head >> _SPARE >= divisor:
        words[lane, counts[lane]] = head & np.uint64(0xFFFFFFFF)
        counts[lane] += 1
        head >>= _WORD
    quotient = head // divisor
    heads[lane] = (quotient << _PRECISION) + (head - quotient * divisor + np.uint64(start))


@compiled
def top(heads: np.ndarray, lane: int) -> np.int64:
    """The cumulative frequency on top of a lane: int64."""
    return np.int64(heads[lane] & _MASK)


@compiled
def pop_symbol(
    heads: np.ndarray, words: np.ndarray, counts: np.ndarray, lane: int, start: np.int64, freq: np.int64
) -> bool:
    """Pop the top symbol of a lane, given its interval, int64. False, and no change, if the lane is empty."""
    head = np.uint64(freq) * (heads[lane] >> _PRECISION) + ((heads[lane] & _MASK) - np.uint64(start))
    if head < _LEAST_HEAD:
        if counts[lane] == 0:
            return False
        counts[lane] -= 1
        head = head << _WORD | np.uint64(words[lane, counts[lane]])
    heads[lane] = head
    return True


@compiled
def push_intervals(
    heads: np.ndarray, words: np.ndarray, counts: np.ndarray, start: np.ndarray, freq: np.ndarray
) -> None:
    """Push symbols onto lanes that have room for as many words. start, freq: int64 [lanes, dims], intervals."""
    lanes, dims = start.shape
    for lane in range(lanes):
        for d in range(dims - 1, -1, -1):
            push_symbol(heads, words, counts, lane, start[lane, d], freq[lane, d])


@compiled
def _pop(heads, words, counts, start, freq):
    for lane in range(len(start)):
        if not pop_symbol(heads, words, counts, lane, start[lane], freq[lane]):
            for before in range(lane):
                push_symbol(heads, words, counts, before, start[before], freq[before])
            return lane
    return -1


@compiled
def _whiten(heads, words, counts, depth, key):
    stream = np.empty(depth + 1, np.uint32)
    for i in range(depth + 1):  # SplitMix64 (Steele, Lea, Flood 2014) of a counter
        mixed = (np.uint64(key) << _WORD) + np.uint64(i + 1) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        stream[i] = (mixed ^ (mixed >> np.uint64(31))) >> _WORD
    for lane in range(len(heads)):
        heads[lane] ^= np.uint64(stream[depth])  # the lower half; the upper keeps the head in its range
        for i in range(min(depth, counts[lane])):
            words[lane, counts[lane] - 1 - i] ^= stream[i]
