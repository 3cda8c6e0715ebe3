"""The context codec's experiment: chains of small images."""

import numpy as np
import pytest
from conftest import assert_one_line_error, digits, run_main, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import small_network

import context_compress
from codec import context
from model.context.weights import save
from utils.results import MEASURES


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3]), st.integers(0, 3),
    st.integers(0, 99),
)  # fmt: skip
def test_any_chain_round_trips(count, height, width, channels, grid, seed):
    weights = small_network().weights
    images = np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)
    words, bits, costs = context.encode_chain(images, weights, grid)
    assert bits.sum() == 32 * (len(words) - 2)
    assert abs(bits.sum() - costs.sum()) < 64
    np.testing.assert_array_equal(context.decode_chain(words, images.shape, weights, grid), images)


def test_a_chain_of_other_words_is_an_error():
    weights, images = small_network().weights, digits(3, seed=0)
    words, _, _ = context.encode_chain(images, weights, 2)
    with pytest.raises(ValueError):
        context.decode_chain(words, (4, *images.shape[1:]), weights, 2)
    with pytest.raises(ValueError):
        context.decode_chain(words, (2, *images.shape[1:]), weights, 2)


@pytest.fixture
def flags(tmp_path):
    (tmp_path / "mnist").mkdir()
    np.save(tmp_path / "mnist" / "test.npy", digits(40, seed=1))
    save(tmp_path / "network.npz", small_network().weights)
    network = tmp_path / "network.npz"
    return "--context", network, "--experiments=3", "--ndatapoints=2", "--data", tmp_path, "--output", tmp_path


def run(*flags, check=0):
    done = run_main(context_compress.main, "mnist", *flags)
    assert done.returncode == check, done.stderr
    return done


def test_script_codes_decodes_and_keeps_rates(flags, tmp_path):
    done = run_script("context_compress.py", "mnist", *flags, check=0)
    assert "all pixels of 6 images are identical" in done.stdout
    nets, elbos, cmas, total = (
        np.load(tmp_path / "plots" / "mnist0" / f"context_3x2_{measure}.npy") for measure in MEASURES
    )
    np.testing.assert_allclose(nets.mean(), elbos.mean(), rtol=0.02)
    np.testing.assert_allclose(total[:, -1], 784 * 2 * cmas[:, -1])
    np.testing.assert_allclose(total[:, 0] - 64, 784 * nets[:, 0])
    assert "all pixels of 6 images are identical" in run(*flags, "--verify-only").stdout


def test_results_are_named_after_what_was_coded(flags, tmp_path):
    """Without numbers, as many chains as there are images for."""
    run(*(flag for flag in flags if "=3" not in str(flag) and "=2" not in str(flag)))
    assert (tmp_path / "plots" / "mnist0" / "context_1x40_nets.npy").exists()


def test_damaged_bitstreams_are_told(flags, tmp_path):
    run(*flags, "--no-verify")
    path = tmp_path / "bitstreams" / "mnist0" / "context_3x2.npz"
    arrays = dict(np.load(path))
    arrays["words"][0] ^= 1
    np.savez(path, **arrays)
    assert_one_line_error(run(*flags, "--verify-only", check=1), str(path), "compress again")


def test_what_to_do_is_clear():
    done = run_main(context_compress.main, "cifar", "--verify-only", "--no-verify")
    assert_one_line_error(done, "exclude each other")
