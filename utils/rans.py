"""A range asymmetric numeral systems (rANS) coder, vectorised over lanes (Duda, arXiv 1311.2540, section 2.3).

A lane is a stack of its own: a 64-bit head in [2^32, 2^64) above a stack of 32-bit words. All lanes take every
step together. A symbol is an interval [start, start + freq) of the 2^PRECISION values of a cumulative frequency;
pushing it puts about PRECISION - log2(freq) bits on the stack. Because 2^32 is a multiple of 2^PRECISION, push and
pop are exact inverses of each other in every state: what is popped and pushed back leaves not a bit changed.
"""

import numpy as np

# Bits of a cumulative frequency. A push multiplies the head by the symbol's probability only up to a rounding whose
# relative size is about 2^PRECISION / 2^32 at the worst. Measured over logistic distributions of all widths, that
# costs 5e-4 bits a symbol at 31 bits, 1e-4 at 30 and 1e-5 at 28, where 1024 bins still lose only 1e-5 bits to the
# least frequencies that each is given (see utils/discretized.py).
PRECISION = 28

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
    """

    def __init__(self, heads, words, counts):
        """heads: uint64 [lanes]; words: uint32 [capacity, lanes], bottom first; counts: int64 [lanes]."""
        self.heads = heads
        self._words = words
        self.counts = counts  # words on each lane's stack, the head not among them

    @classmethod
    def from_words(cls, lanes):
        """Build the coder from each lane's words, as to_words() returns them.

        lanes: a sequence of uint32 arrays, bottom of the stack first; the last two words are the head.
        Raises ValueError where these are not the words of a lane.
        """
        lanes = [np.asarray(words) for words in lanes]
        for i, words in enumerate(lanes):
            if words.ndim != 1 or words.dtype != np.uint32 or len(words) < 2 or words[-1] == 0:
                raise ValueError(f"lane {i} is not a stack of 32-bit words under a head of at least 2^32")
        counts = np.array([len(words) - 2 for words in lanes], np.int64)
        stack = np.zeros((max(counts, default=0), len(lanes)), np.uint32)
        heads = np.empty(len(lanes), np.uint64)
        for i, words in enumerate(lanes):
            stack[: counts[i], i] = words[:-2]
            heads[i] = int(words[-1]) << 32 | int(words[-2])
        return cls(heads, stack, counts)

    def to_words(self):
        """Each lane's words: a list of uint32 arrays, bottom of the stack first, the head's two words last."""
        heads = np.stack((self.heads, self.heads >> _WORD), axis=1).astype(np.uint32)
        return [np.concatenate((self._words[:n, i], heads[i])) for i, n in enumerate(self.counts)]

    def push(self, start, freq):
        """Push one symbol onto each of the first n lanes.

        start, freq: [n] integers, 0 <= start, 1 <= freq, start + freq <= 2^PRECISION.
        """
        start, freq = _intervals(start, freq)
        self._reserve(1)
        self._push(start, freq)

    def pop(self, n=None):
        """The cumulative frequencies on top of the first n lanes (all by default): uint64 [n].

        This looks only; once the symbols are known, advance() takes them off.
        """
        return self.heads[:n] & _MASK

    def advance(self, start, freq):
        """Take the symbol that pop() showed off each of the first n lanes.

        start, freq: [n], the interval that holds pop()'s cumulative frequency.
        Raises EmptyLaneError, and leaves the coder as it was, where a lane has no word left to refill its head.
        """
        self._advance(*_intervals(start, freq))

    def push_block(self, start, freq):
        """Push a block of symbols, the last dimension first, so that pop_block() meets them in order.

        start, freq: [n, dims] integers as in push().
        """
        start, freq = (np.ascontiguousarray(part.T) for part in _intervals(start, freq))
        self._reserve(len(start))
        for d in reversed(range(len(start))):
            self._push(start[d], freq[d])

    def pop_block(self, n, dims, locate):
        """Pop a block of symbols from the first n lanes.

        locate(cf, d): the (symbols, start, freq), each [n], of the intervals of dimension d that hold the
        cumulative frequencies cf [n].
        Returns int64 symbols [n, dims]. Raises EmptyLaneError where a lane runs out; the coder is then of no use.
        """
        symbols = np.empty((dims, n), np.int64)
        for d in range(dims):
            symbols[d], start, freq = locate(self.pop(n), d)
            self._advance(start.astype(np.uint64), freq.astype(np.uint64))
        return symbols.T

    def _reserve(self, steps):
        """Make room for `steps` more words on every lane."""
        capacity, lanes = self._words.shape
        needed = int(self.counts.max(initial=0)) + steps
        if needed > capacity:
            grown = np.zeros((max(needed, capacity + capacity // 2), lanes), np.uint32)
            grown[:capacity] = self._words
            self._words = grown

    def _push(self, start, freq):
        n = len(start)
        head, counts = self.heads[:n], self.counts[:n]
        full = (head >> _SPARE) >= freq
        if full.any():
            lanes = full.nonzero()[0]
            self._words[counts[lanes], lanes] = head[lanes].astype(np.uint32)
            counts += full
            head = np.where(full, head >> _WORD, head)
        quotient = head // freq
        self.heads[:n] = (quotient << _PRECISION) + (head - quotient * freq + start)

    def _advance(self, start, freq):
        n = len(start)
        head, counts = self.heads[:n], self.counts[:n]
        head = freq * (head >> _PRECISION) + ((head & _MASK) - start)
        low = head < _LEAST_HEAD
        if low.any():
            lanes = low.nonzero()[0]
            top = counts[lanes] - 1
            if top.min() < 0:
                raise EmptyLaneError(f"lane {lanes[top.argmin()]} has no words left")
            head[lanes] = (head[lanes] << _WORD) | self._words[top, lanes]
            counts -= low
        self.heads[:n] = head


def _intervals(start, freq):
    start, freq = np.asarray(start).astype(np.uint64), np.asarray(freq).astype(np.uint64)
    if start.size and not (start.max() < 1 << PRECISION and freq.min() and (start + freq).max() <= 1 << PRECISION):
        raise ValueError(f"an interval is not within the 2^{PRECISION} values of a cumulative frequency, or is empty")
    return start, freq
