"""The rANS coder: push and pop are inverses in every state, and nothing is invented."""

import numpy as np
import pytest
from conftest import ROOT, run_script
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.rans import PRECISION, EmptyLaneError, Rans

TOTAL = 1 << PRECISION

freqs = st.one_of(st.sampled_from([1, 2, TOTAL // 2, TOTAL - 1, TOTAL]), st.integers(1, TOTAL))
intervals = freqs.flatmap(lambda freq: st.tuples(st.integers(0, TOTAL - freq), st.just(freq)))
words = st.integers(0, 2**32 - 1)


def stack_of(values):
    """A lane's words, uint32, from a list of which the last must not be 0."""
    return np.array(values, np.uint32)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Everything has been called once, as Hypothesis holds every example against a time in which none compiles."""
    coder = Rans.from_words([stack_of([1, 2, 3])])
    coder.push([0], [1])
    coder.pop([0], [1])
    coder.whiten(1, 1, 0)


lanes_of_words = st.integers(1, 5).flatmap(
    lambda lanes: st.lists(
        st.tuples(st.lists(words, min_size=1, max_size=6), st.one_of(st.just(1), st.integers(1, 2**32 - 1))),
        min_size=lanes,
        max_size=lanes,
    ).map(lambda rows: [stack_of([*row, top]) for row, top in rows])
)


def same(ours, theirs):
    return len(ours) == len(theirs) and all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@settings(max_examples=300, deadline=None)
@given(lanes_of_words, st.data())
def test_pop_undoes_push(initial, data):
    coder = Rans.from_words(initial)
    symbols = data.draw(st.lists(st.lists(intervals, min_size=len(initial), max_size=len(initial)), max_size=20))
    history = [np.array(step).T for step in symbols]
    for start, freq in history:
        coder.push(start, freq)
    for start, freq in reversed(history):
        cf = coder.peek()
        assert ((start <= cf) & (cf < start + freq)).all()
        coder.pop(start, freq)
    assert same(coder.to_words(), initial)


@settings(max_examples=300, deadline=None)
@given(lanes_of_words, st.data())
def test_push_undoes_pop(initial, data):
    """Bits-back: whatever interval is read off the stack, putting it back restores every bit."""
    coder = Rans.from_words(initial)
    history = []
    for _ in range(data.draw(st.integers(0, 6))):
        cf = coder.peek().astype(np.int64)
        below = np.array([data.draw(st.integers(0, int(c))) for c in cf])
        above = np.array([data.draw(st.integers(1, TOTAL - int(c))) for c in cf])
        start, freq = cf - below, below + above
        try:
            coder.pop(start, freq)
        except EmptyLaneError:
            break
        history.append((start, freq))
    for start, freq in reversed(history):
        coder.push(start, freq)
    assert same(coder.to_words(), initial)


@given(lanes_of_words)
def test_words_round_trip(initial):
    assert same(Rans.from_words(initial).to_words(), initial)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_block_is_its_dimensions_from_the_last_to_the_first(lanes, dims, seed):
    rng = np.random.default_rng(seed)
    freq = rng.integers(1, TOTAL, (lanes, dims), endpoint=True)
    start = rng.integers(0, TOTAL - freq, endpoint=True)
    initial = rng.integers(1, 2**32, (lanes, 3), dtype=np.uint32)
    block, single = Rans.from_words(initial), Rans.from_words(initial)
    block.push_block(start, freq)
    for d in reversed(range(dims)):
        single.push(start[:, d], freq[:, d])
    assert same(block.to_words(), single.to_words())

    for d in range(dims):
        cf = block.peek()
        assert ((start[:, d] <= cf) & (cf < start[:, d] + freq[:, d])).all()
        block.pop(start[:, d], freq[:, d])
    assert same(block.to_words(), list(initial))


@given(lanes_of_words, st.integers(0, 8), st.integers(0, 2**32 - 1), st.data())
def test_whitening_twice_changes_nothing(initial, depth, key, data):
    coder = Rans.from_words(initial)
    n = data.draw(st.integers(0, len(initial)))
    coder.whiten(n, depth, key)
    changed = coder.to_words()
    assert same([lane[:-2] for lane in changed[n:]], [lane[:-2] for lane in initial[n:]])
    for ours, theirs in zip(changed[:n], initial, strict=False):
        assert ours[-1] == theirs[-1]
        assert np.array_equal(ours[: max(0, len(ours) - 2 - depth)], theirs[: max(0, len(theirs) - 2 - depth)])
    coder.whiten(n, depth, key)
    assert same(coder.to_words(), initial)


def test_whitening_makes_any_bits_random():
    """Of a stack of zeros half the bits become ones, others for another key."""
    found = []
    for key in (0, 1, 2**32 - 1):
        coder = Rans.from_words([np.array([0] * 4000 + [1], np.uint32)])
        coder.whiten(1, 5000, key)
        found.append(np.unpackbits(coder.to_words()[0][:-1].view(np.uint8)))
        assert abs(found[-1].mean() - 0.5) < 5 * 0.5 / np.sqrt(32 * 4000)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs((found[a] ^ found[b]).mean() - 0.5) < 5 * 0.5 / np.sqrt(32 * 4000)


def test_steps_act_on_the_first_lanes_only():
    initial = np.full((3, 4), 7, np.uint32)
    coder = Rans.from_words(initial)
    coder.push(np.array([5]), np.array([3]))
    assert not np.array_equal(coder.to_words()[0], initial[0])
    assert same(coder.to_words()[1:], list(initial[1:]))
    assert 5 <= coder.peek(1) < 8


def test_length_is_the_information_content():
    """Within 1e-4 bits a symbol, for frequencies spread evenly over the orders of magnitude."""
    rng = np.random.default_rng(0)
    freq = np.exp2(rng.uniform(0, PRECISION, (50, 4000))).astype(np.int64)
    start = rng.integers(0, TOTAL - freq, endpoint=True)
    coder = Rans.from_words(rng.integers(1, 2**32, (50, 2), dtype=np.uint32))
    before = coder.bits()
    coder.push_block(start, freq)
    bits = coder.bits() - before
    assert abs((bits - (PRECISION - np.log2(freq)).sum(1)).mean() / 4000) < 1e-4


def test_the_bits_of_a_lane_are_those_of_its_head_and_its_words():
    coder = Rans.from_words([stack_of([0, 1]), stack_of([7, 7, 0, 1 << 31])])
    np.testing.assert_array_equal(coder.bits(), [32, 63 + 2 * 32])


def test_popping_an_empty_lane_raises_and_changes_nothing():
    initial = [stack_of([1, 2, 3, 4]), stack_of([9, 1])]
    coder = Rans.from_words(initial)
    with pytest.raises(EmptyLaneError, match="lane 1"):
        coder.pop(coder.peek(), np.array([1, 1]))
    assert same(coder.to_words(), initial)


@pytest.mark.parametrize("start, freq", [(0, 0), (TOTAL, 1), (1, TOTAL), (-1, 1), (0, -1), (0, TOTAL + 1)])
def test_impossible_intervals_are_refused(start, freq):
    coder = Rans.from_words([stack_of([1, 1])])
    for step in (coder.push, coder.pop):
        with pytest.raises(ValueError):
            step(np.array([start]), np.array([freq]))
    assert same(coder.to_words(), [stack_of([1, 1])])


@pytest.mark.parametrize(
    "lane", [[], [1], [1, 0], np.ones((2, 2), np.uint32), np.ones(3, np.int64)], ids=["none", "one", "low", "2d", "int"]
)
def test_what_is_not_a_lane_is_refused(lane):
    with pytest.raises(ValueError, match="lane 0"):
        Rans.from_words([lane if isinstance(lane, np.ndarray) else stack_of(lane)])


def test_without_numba_whitening_is_the_same_and_warns_of_nothing(tmp_path):
    coder = Rans.from_words([stack_of([1, 2, 3, 4])])
    coder.whiten(1, 3, 7)
    script = tmp_path / "whiten.py"
    script.write_text(f"""import sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from codec.rans import Rans
coder = Rans.from_words([np.array([1, 2, 3, 4], np.uint32)])
coder.whiten(1, 3, 7)
print(*coder.to_words()[0])
""")
    environment = {"NUMBA_DISABLE_JIT": "1", "PYTHONWARNINGS": "error::RuntimeWarning"}
    done = run_script(script, environment=environment, check=0)
    assert done.stdout.split() == list(map(str, coder.to_words()[0]))
