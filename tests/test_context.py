"""Whole images coded pixel by pixel: whatever the image and the weights, the same pixels, and the same bytes."""

import os
import signal
import tracemalloc

import numpy as np
import pytest
from conftest import photograph
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import decoding_error, mild, models_of, picture_of, reseal, samples, small_network

from codec import container, context
from codec import header as file_header
from codec.context import Coding, empty_lane
from model.context import adaptation
from model.context.features import PERIOD
from model.context.mixture import LEAST_BITS
from model.context.weights import HIDDEN, LAYOUT, SCALES, UNIT_BITS, K, Weights, check, open_network
from utils.errors import UserError
from utils.images import same
from utils.paths import PRETRAINED


def round_trip(pixels, weights, coding, threads=None):
    words = context.encode(pixels, weights, coding, threads=threads)
    decoded = context.decode(words, pixels.shape, weights, coding, threads=threads)
    np.testing.assert_array_equal(decoded, pixels)
    return words


def extreme_weights(seed, size):
    """Weights of any sign, of the heads up to a size. At 999, all are about the largest that check() allows."""
    rng = np.random.default_rng(seed)
    arrays = [rng.uniform(-1, 1, shape) ** 3 for shape, _ in LAYOUT]
    sizes = [size * 1.7, 0, size * 1000, size * 1000, size * 1000, size * 3.0, 0, size * 1000] + 5 * [size]
    arrays = [(each * most).astype(dtype) for each, most, (_, dtype) in zip(arrays, sizes, LAYOUT, strict=True)]
    arrays[1] += 1 + seed % 18
    arrays[1][HIDDEN:], arrays[6][:] = 18, 14
    return check(Weights(*arrays)).weights


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["noise", "constant", "gradient", "few", "mild"]), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from(["L", "RGB"]), st.sampled_from([0.0, 0.1, 10.0, 999.0]), st.booleans(), st.booleans(),
    st.integers(1, 4), st.integers(0, 9),
)  # fmt: skip
def test_any_image_under_any_weights(kind, height, width, mode, size, grid, adapting, strips, seed):
    pixels = picture_of(kind, height, width, mode, seed).pixels
    coding = Coding(min(strips, height), grid, adapting)
    assert len(round_trip(pixels, extreme_weights(seed, size), coding)) == coding.strips


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1, 1), (1, 700, 3), (700, 1, 3), (1, 700, 1), (33, 31, 3)])
@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("adapting", [False, True])
def test_black_and_white(shape, value, adapting):
    """What costs least and, on the first pixels, most."""
    pixels = np.full(shape, value, np.uint8)
    words = round_trip(pixels, small_network().weights, Coding(1, True, adapting))
    assert 32 * len(words[0]) < 64 + 16.1 * pixels.size


def test_no_pixel_costs_more_than_17_bits():
    """Noise of the two extremes under weights that know nothing of it."""
    pixels = np.random.default_rng(0).choice(np.uint8([0, 255]), (20, 20, 3))
    words = round_trip(pixels, extreme_weights(1, 999.0), Coding(1, True, True))
    assert 32 * len(words[0]) < 64 + 16.1 * pixels.size


@pytest.mark.parametrize("adapting", [False, True])
def test_the_words_are_the_same_for_any_number_of_threads(adapting):
    pixels = mild(60, 50).pixels
    coding = Coding(5, True, adapting)
    found = [round_trip(pixels, small_network().weights, coding, threads) for threads in (1, 2, 5, 9)]
    for words in found[1:]:
        assert all(map(np.array_equal, words, found[0]))


def test_strips_see_nothing_of_each_other():
    pixels = mild(40, 30).pixels
    whole = round_trip(pixels, small_network().weights, Coding(2, False, True))
    for words, half in zip(whole, (pixels[:20], pixels[20:]), strict=True):
        (alone,) = round_trip(half, small_network().weights, Coding(1, False, True))
        np.testing.assert_array_equal(words, alone)


def test_an_image_has_as_many_bits_as_its_code_lengths_say():
    pixels, coding = mild(50, 40).pixels, Coding(2, True, True)
    words = context.encode(pixels, small_network().weights, coding)
    lengths = context.code_lengths(pixels, small_network().weights, coding)
    assert lengths.shape == pixels.shape
    expected = lengths.sum()
    assert 0 <= 32 * sum(map(len, words)) - 2 * 32 - expected < 2 * 33


def test_adaptation_learns_what_the_network_does_not_know():
    """An image on which the network is wrong in the same way everywhere; it starts anew in every image."""
    pixels = picture_of("few", 192, 160, "RGB").pixels
    static, adapting = (
        context.code_lengths(pixels, small_network().weights, Coding(1, 0, each)).sum() for each in (False, True)
    )
    assert adapting < 0.9 * static
    before = [array.copy() for array in small_network().weights]
    first, second = (round_trip(pixels, small_network().weights, Coding(1, False, True)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert all(map(np.array_equal, before, small_network().weights))


@pytest.mark.parametrize("white", [250, 255])
def test_adaptation_survives_flat_areas(white):
    """It costs next to nothing in an image on white, and does not ruin what follows the white."""
    weights = open_network(PRETRAINED / "imagenetcrop_context.npz").weights
    pixels = np.full((640, 400, 3), white, np.uint8)
    pixels[540:, 150:250] = photograph(100, 100, 0)
    static, adapting = (context.code_lengths(pixels, weights, Coding(1, 0, each)).sum() for each in (False, True))
    assert adapting < static


def test_the_grid_is_told_where_it_helps():
    """Weights that make something of the position in a block, and an image that has such blocks, or has them not."""
    base = extreme_weights(0, 0.0)
    head_out_bias = base.head_out_bias.copy()
    head_out_bias[:, SCALES : SCALES + K] = -1.5
    columns = np.zeros_like(base.column)
    columns[:PERIOD:2, HIDDEN : HIDDEN + 3] = 1 << UNIT_BITS + 1  # units of the spread that even columns are brighter
    weights = base._replace(head_out_bias=head_out_bias, column=columns)
    noise = np.random.default_rng(0).integers(0, 4, (48, 64, 3))
    flat = (100 + noise).astype(np.uint8)
    striped = (100 + noise + 12 * (np.arange(64)[:, None] % 2 == 0)).astype(np.uint8)
    grids = [context.choose_coding(each, weights, 1, False).grid for each in (striped, flat)]
    assert grids == [1, 0]


@pytest.mark.parametrize("side, pays", [(8, False), (60, True), (140, True), (200, True)])
def test_adaptation_is_left_out_where_it_does_not_pay(side, pays):
    """As in an image with fewer pixels than there are between two steps."""
    pixels, weights = picture_of("few", side, side, "RGB").pixels, small_network().weights
    coding = context.choose_coding(pixels, weights, 3, True)
    assert (coding.strips, coding.adapting) == (3, pays)
    assert not context.choose_coding(pixels, weights, 3, False).adapting


@pytest.mark.parametrize(
    "height, width, expected",
    [
        (1, 1, 1),
        (427, 640, 2),
        (500, 375, 1),
        (3000, 4000, 8),
        (11585, 11585, 65),
        (1, 1 << 17, None),
        (99, 3 << 14, 3),
    ],
)
def test_strips(height, width, expected):
    """So that threads have work, memory stays bounded, and few rows have nothing above."""
    count = context.choose_strips(height, width)
    assert count == expected
    if count:
        starts, ends = np.transpose(context.cut_rows(height, count))
        assert starts[0] == 0 and ends[-1] == height and (starts[1:] == ends[:-1]).all()
        assert min(ends - starts) >= 1 and max(ends - starts) * width <= context._MEMORY


def test_absurd_files_take_no_memory():
    """Checksums that are right, numbers that are not: refused at once and in a few megabytes."""
    data, picture = samples()["context"]
    header, _ = file_header.unpack(data)
    shape, coding = header.shape, header.coding
    assert (shape.width, shape.height, coding.grid in (0, 1), coding.adapting) == (26, 20, True, True)
    words = sum(coding.words)
    sizes = [
        (2**31, 2**31),
        (0, 5),
        ((1 << 16) + 1, 1),
        (1 << 27, 1),
        (1, 1 << 27),
        (11585, 11585),
        (5000, 20),
        (26, 4000),
    ]
    sizes += [(27, 20), (26, 21)]
    strips = (), (words - 2, 2), (2**31,), (2,) * 21, (2**34,), (words + 1,)
    absurd = [
        *(header._replace(shape=shape._replace(width=w, height=h)) for w, h in sizes),
        *(header._replace(shape=shape._replace(mode=mode, entries=9)) for mode in ("L", "P")),
        *(header._replace(coding=coding._replace(words=each)) for each in strips),
        header._replace(coding=coding._replace(grid=not coding.grid)),
        header._replace(coding=coding._replace(adapting=False)),
        header._replace(coding=coding._replace(identity="00" * 8)),
        header._replace(crc=0),
    ]
    tracemalloc.start()
    for wrong in absurd:
        assert decoding_error(reseal(data, wrong), models_of(network=small_network()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6
    assert same(container.decode(reseal(data, header), models_of(network=small_network())), picture)


def test_code_lengths_are_the_bits_of_a_pixel():
    """They add up to the length of the file, and are greater in noise."""
    pixels, weights = mild(30, 40).pixels.copy(), small_network().weights
    pixels[:, 20:] = 128
    for coding in (Coding(1, 0, False), Coding(2, 1, True)):
        bits = context.code_lengths(pixels, weights, coding)
        words = context.encode(pixels, weights, coding)
        assert bits.shape == pixels.shape and bits[:, :20].mean() > bits[:, 20:].mean()
        assert 0 <= 32 * (sum(map(len, words)) - 2 * coding.strips) - bits.sum() + 32 * coding.strips < 70


@pytest.mark.parametrize("adapting", [False, True])
def test_every_word_counts(adapting):
    """A flipped bit in any word is an error of the coder, or another image, which the checksum of the pixels sees."""
    pixels, coding = mild(12, 15).pixels, Coding(1, False, adapting)
    (words,) = context.encode(pixels, small_network().weights, coding)
    for i in range(len(words)):
        wrong = words.copy()
        wrong[i] ^= np.uint32(1 << i % 32)
        try:
            decoded = context.decode([wrong], pixels.shape, small_network().weights, coding)
        except ValueError:
            continue
        assert not np.array_equal(decoded, pixels)


def test_weights_that_adapt_stay_finite(monkeypatch):
    """Adam's steps are bounded, whatever the gradients."""
    pixels, opened, start = picture_of("noise", 60, 60, "RGB").pixels, [], adaptation.start_adaptation
    monkeypatch.setattr(adaptation, "start_adaptation", lambda weights: opened.append(start(weights)) or opened[-1])
    for extreme in (extreme_weights(3, 999.0), extreme_weights(4, 5.0)):
        context.push(empty_lane(), pixels, extreme, Coding(1, True, True))
        a = opened[-1]
        assert np.isfinite(a.flat).all()
        most = 60 * 60 // adaptation.EVERY * 10 * float(adaptation.RATE)
        assert 0 < np.abs(a.flat[0] - start(extreme).flat[0]).max() <= most


def test_a_damaged_strip_stops_the_others():
    steps, pixels = [], picture_of("noise", 1200, 200, "RGB").pixels
    weights, coding = small_network().weights, Coding(2, 1, False)
    first, second = context.encode(pixels, weights, coding)

    def progress(iterable):
        for step in iterable:
            steps.append(step)
            yield step

    with pytest.raises(ValueError, match="the words end"):
        context.decode([first, second[-100:]], pixels.shape, weights, coding, progress, threads=2)
    assert len(steps) < 8  # of 16


def test_predictions_that_could_overflow_are_refused():
    weights = small_network().weights
    shift, bias = weights.first_shift.copy(), weights.first_bias.copy()
    shift[HIDDEN:], bias[HIDDEN:] = 1, 1 << 21
    with pytest.raises(UserError, match="too large to compute with"):
        check(weights._replace(first_shift=shift, first_bias=bias))


def test_ctrl_c_stops_the_strips_that_are_left():
    steps = []

    def progress(iterable):
        for step in iterable:
            steps.append(step)
            if step == 1:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    pixels = np.zeros((2000, 200, 3), np.uint8)
    with pytest.raises(KeyboardInterrupt):
        context.encode(pixels, small_network().weights, Coding(8, 1, False), progress, threads=2)
    assert len(steps) < 20  # of 32


@pytest.mark.slow
def test_no_multiplication_is_fused_with_an_addition(tmp_path):
    """In what is compiled for this processor: a fused one rounds once instead of twice."""
    from conftest import run_script

    script = tmp_path / "assembly.py"
    script.write_text(f"""import re, sys
sys.path.insert(0, {os.getcwd()!r})
import numpy as np
from codec import context
from model.context.weights import LAYOUT, Weights
weights = Weights(*(np.zeros(*each) for each in LAYOUT))
context.encode(np.zeros((2, 2, 3), np.uint8), weights, context.Coding(1, True, True))
(assembly,) = context._code_rows.inspect_asm().values()
assert re.search("mul[sp]s|fmul", assembly)
print(*set(re.findall(r"\\\\bv?fn?m(?:add|sub)\\\\w*|\\\\bfml[as]\\\\w*|__svml", assembly)), "end")
""")
    done = run_script(script, environment={"NUMBA_CACHE_DIR": str(tmp_path)}, check=0)
    assert done.stdout.split() == ["end"]


def test_the_bound_on_what_a_pixel_takes():
    assert 0.005 < LEAST_BITS < 0.006
