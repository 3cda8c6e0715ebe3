"""The compression experiment as a user runs it, and what it does with bad input."""

import functools
import io
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, run_main, run_script, small_model
from tqdm import tqdm

from codec import command, competitors
from utils import npz, progress

SMALL = ("--quantbits=6", "--experiments=5", "--ndatapoints=4")


def compress(mnist, checkpoint, output, *flags):
    flags = (*SMALL, "--bitswap=1", "--data", mnist, "--checkpoint", checkpoint, "--output", output, *flags)
    return run_main(functools.partial(command.main, "mnist"), *flags)


@pytest.fixture(scope="module")
def results(mnist, checkpoint, tmp_path_factory):
    """The output folder of an experiment with both schemes, and what it printed."""
    output = tmp_path_factory.mktemp("experiment")
    flags = (*SMALL, "--data", mnist, "--checkpoint", checkpoint, "--output", output)
    return output, run_script("mnist_compress.py", *flags, check=0).stdout


def arrays(output, scheme, variant=""):
    folder = output / "plots" / "mnist2"
    return {
        name: np.load(folder / f"{scheme}_6bits{variant}_5x4_{name}.npy") for name in ("nets", "elbos", "cmas", "total")
    }


def test_everything_is_verified(results):
    output, printed = results
    assert printed.count("all pixels of 20 images and all initial words are identical") == 2
    written = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    files = ("cmas.npy", "elbos.npy", "made.csv", "nets.npy", "total.npy")
    names = [f"plots/mnist2/{s}_6bits_5x4_{file}" for s in ("bbans", "bitswap") for file in files]
    assert written[1:] == [*(f"bitstreams/mnist2/{s}_6bits_5x4.npz" for s in ("bbans", "bitswap")), *names]
    assert "commit,processor," in (output / "plots/mnist2/bitswap_6bits_5x4_made.csv").read_text()
    assert written[0].startswith("bins/mnist_nz2_6bits_")


@pytest.mark.parametrize("scheme", ["bitswap", "bbans"])
def test_arrays_have_the_published_units(results, scheme):
    output, _ = results
    measured = arrays(output, scheme)
    dims = 32 * 32  # the padded image
    assert all(array.shape == (5, 4) and array.dtype == np.float64 for array in measured.values())
    assert not (measured["nets"] * dims % 32).any()
    assert not (measured["total"] % 32).any()
    np.testing.assert_allclose(measured["cmas"], measured["total"] / (dims * np.arange(1, 5)))
    np.testing.assert_allclose(np.diff(measured["total"]), measured["nets"][:, 1:] * dims)
    gap = measured["nets"].mean() - measured["elbos"].mean()
    assert abs(gap) < 0.1 * measured["elbos"].mean()  # 64 bins and 20 images of noise


def test_total_is_what_the_file_holds_beyond_the_untouched_initial_words(results):
    """The chain's words in the file are the initial ones below the deepest pop, and the `total` counted bits."""
    output, _ = results
    for scheme in ("bitswap", "bbans"):
        lengths, words = npz.load(
            output / "bitstreams" / "mnist2" / f"{scheme}_6bits_5x4.npz", ("lengths", "words"), ""
        )
        assert lengths.sum() == len(words)
        untouched = lengths - 1 - arrays(output, scheme)["total"][:, -1] / 32  # the file has both words of the head
        assert ((untouched > 0) & (untouched <= 512)).all()


def test_bitswap_sends_fewer_initial_bits(results):
    first = {scheme: arrays(results[0], scheme)["cmas"][:, 0].mean() for scheme in ("bitswap", "bbans")}
    assert first["bitswap"] < first["bbans"] - 0.5


def test_table_compares_in_real_dimensions(results):
    output, printed = results
    table = dict(line.rsplit(maxsplit=1) for line in printed.split("bits/dim\n")[-1].strip().splitlines())
    assert set(table) == {
        "ELBO", "Bit-Swap, net", "Bit-Swap, sent", "BB-ANS, net", "BB-ANS, sent", *competitors.COMPRESSORS,
    }  # fmt: skip
    measured = arrays(output, "bitswap")
    assert float(table["Bit-Swap, net"]) == pytest.approx(measured["nets"].mean() * 1024 / 784, abs=1e-4)
    assert float(table["Bit-Swap, sent"]) == pytest.approx(measured["cmas"][:, -1].mean() * 1024 / 784, abs=1e-4)
    assert list(map(float, table.values())) == sorted(map(float, table.values()))


def test_one_image_is_called_an_image(mnist, checkpoint, tmp_path):
    done = compress(mnist, checkpoint, tmp_path, "--experiments=1", "--ndatapoints=1")
    assert "Bit-Swap: 1 chain, 1 image\n" in done.stdout and "all pixels of 1 image and" in done.stdout, done.stderr


def test_the_bar_shows_rates_of_real_dimensions(mnist, checkpoint, tmp_path, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(progress, "bar", functools.partial(tqdm, file=shown))
    compress(mnist, checkpoint, tmp_path, "--no-verify")
    net, elbo = (arrays(tmp_path, "bitswap")[measure].mean() * 1024 / 784 for measure in ("nets", "elbos"))
    assert f"{net:.4f} bits/dim, {net - elbo:+.4f} to the ELBO" in shown.getvalue()


@pytest.fixture
def copy(results, tmp_path):
    """A copy of the results, to be damaged."""
    return shutil.copytree(results[0], tmp_path / "copy")


def test_verify_only_decodes_an_earlier_run(copy, mnist, checkpoint):
    shutil.rmtree(copy / "plots")
    done = compress(mnist, checkpoint, copy, "--verify-only", "--bitswap=0")
    assert "all pixels of 20 images and all initial words are identical" in done.stdout
    assert not (copy / "plots").exists()


def test_in_integers_with_whitened_bits(results, mnist, checkpoint, tmp_path):
    done = compress(mnist, checkpoint, tmp_path, "--exact", "--whiten")
    assert "all pixels of 20 images and all initial words are identical" in done.stdout, done.stderr
    assert [path.name.endswith(".exact.npz") for path in (tmp_path / "bins").iterdir()].count(True) == 1
    integers = arrays(tmp_path, "bitswap", "_exact_whitened")["nets"].mean()
    assert integers == pytest.approx(arrays(results[0], "bitswap")["nets"].mean(), rel=0.1)  # other latents, 20 images
    for flags, kept in ((["--exact"], "bitswap_6bits_exact_5x4.npz"), (["--whiten"], "bitswap_6bits_whitened_5x4.npz")):
        done = compress(mnist, checkpoint, tmp_path, "--verify-only", *flags)
        assert_one_line_error(done, kept, "does not exist")
        shutil.copy(tmp_path / "bitstreams" / "mnist2" / "bitswap_6bits_exact_whitened_5x4.npz",
                    tmp_path / "bitstreams" / "mnist2" / kept)  # fmt: skip
        done = compress(mnist, checkpoint, tmp_path, "--verify-only", *flags)
        assert_one_line_error(done, "was written with", "whiten" if flags == ["--exact"] else "exact")
    done = compress(mnist, checkpoint, tmp_path, "--verify-only", "--exact", "--whiten")
    assert done.returncode == 0 and "identical" in done.stdout, done.stderr


def test_in_bfloat16_which_the_file_records(results, mnist, checkpoint, tmp_path):
    done = compress(mnist, checkpoint, tmp_path, "--precision=bfloat16")
    assert "all pixels of 20 images and all initial words are identical" in done.stdout, done.stderr
    ours = arrays(tmp_path, "bitswap", "_bf16")
    theirs = arrays(results[0], "bitswap")
    assert not np.array_equal(ours["nets"], theirs["nets"])
    np.testing.assert_allclose(ours["elbos"].mean(), theirs["elbos"].mean(), rtol=2e-3)
    path = tmp_path / "bitstreams" / "mnist2" / "bitswap_6bits_bf16_5x4.npz"
    plain = shutil.copy(path, path.with_name("bitswap_6bits_5x4.npz"))
    done = compress(mnist, checkpoint, tmp_path, "--verify-only")
    assert_one_line_error(done, plain, "precision bfloat16 instead of float32")
    rewrite_header(plain, precision="float32")
    assert_one_line_error(compress(mnist, checkpoint, tmp_path, "--verify-only"), plain)
    assert_one_line_error(compress(mnist, checkpoint, tmp_path, "--precision=bfloat16", "--exact"), "--exact")


def test_a_file_in_floats_of_another_arithmetic_is_refused(copy, mnist, checkpoint):
    path = copy / "bitstreams" / "mnist2" / "bitswap_6bits_5x4.npz"
    rewrite_header(path, arithmetic=None)
    assert_one_line_error(compress(mnist, checkpoint, copy, "--verify-only"), path, "arithmetic None instead of")


def rewrite_header(path, **entries):
    """Set entries of the header of a file of bitstreams, or take them out where they are None."""
    header, lengths, words = npz.load(path, ("header", "lengths", "words"), "")
    header = {key: value for key, value in (json.loads(header.tobytes()) | entries).items() if value is not None}
    npz.save(path, header=np.frombuffer(json.dumps(header).encode(), np.uint8), lengths=lengths, words=words)


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 4
    elif how == "cut":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    elif how == "other":
        content[:] = b"something else " * 100
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "other"])
def test_corrupt_bitstreams(copy, mnist, checkpoint, how):
    path = copy / "bitstreams" / "mnist2" / "bitswap_6bits_5x4.npz"
    damage(path, how)
    assert_one_line_error(compress(mnist, checkpoint, copy, "--verify-only"), path, "compress again")


@pytest.mark.parametrize("change", ["word", "initial", "swap", "lengths"])
def test_a_file_that_parses_but_lies_is_found_out(copy, mnist, checkpoint, change):
    path = copy / "bitstreams" / "mnist2" / "bitswap_6bits_5x4.npz"
    header, lengths, words = npz.load(path, ("header", "lengths", "words"), "")
    if change == "word":
        words[lengths[0] - 3] ^= 1 << 9
    elif change == "initial":
        words[0] ^= 1  # deep under everything: only the comparison of the initial words can tell
    elif change == "swap":
        words[: lengths[0]] = words[: lengths[0]][::-1]
    else:
        lengths[:2] += (1, -1)
    npz.save(path, header=header, lengths=lengths, words=words)
    done = compress(mnist, checkpoint, copy, "--verify-only")
    assert_one_line_error(done, path, "initial words" if change == "initial" else "")
    assert "identical" not in done.stdout


@pytest.mark.parametrize("lengths", [[-1] * 5, [1] * 5, [2**62] * 5, [5]], ids=str)
def test_absurd_lengths(copy, mnist, checkpoint, lengths):
    path = copy / "bitstreams" / "mnist2" / "bitswap_6bits_5x4.npz"
    header, _, words = npz.load(path, ("header", "lengths", "words"), "")
    npz.save(path, header=header, lengths=np.array(lengths), words=words)
    assert_one_line_error(compress(mnist, checkpoint, copy, "--verify-only"), path)


def test_a_file_of_another_run_is_refused(copy, mnist, checkpoint):
    path = copy / "bitstreams" / "mnist2" / "bitswap_6bits_5x4.npz"
    shutil.copy(path, path.with_name("bitswap_6bits_seed5_5x4.npz"))
    done = compress(mnist, checkpoint, copy, "--verify-only", "--seed=5")
    assert_one_line_error(done, "seed 100 instead of 5")
    path = copy / "bitstreams" / "mnist2" / "bitswap_6bits_5x4.npz"
    rewrite_header(path, checkpoint="0" * 16)
    assert_one_line_error(compress(mnist, checkpoint, copy, "--verify-only"), path, "checkpoint 0000000000000000")


def test_verify_only_without_a_file(mnist, checkpoint, tmp_path):
    assert_one_line_error(
        compress(mnist, checkpoint, tmp_path, "--verify-only"), "bitswap_6bits_5x4.npz", "compress again"
    )


def test_too_many_images(mnist, checkpoint, tmp_path):
    done = compress(mnist, checkpoint, tmp_path, "--experiments=21", "--ndatapoints=2")
    assert_one_line_error(done, "--experiments=21", "--ndatapoints=2", "40")
    assert not any(tmp_path.iterdir())


def test_no_such_gpu(mnist, checkpoint, tmp_path):
    assert_one_line_error(compress(mnist, checkpoint, tmp_path, "--gpu=99"), "--gpu=99", "--gpu=-1")


def test_missing_checkpoint_names_the_command(mnist, tmp_path):
    done = run_main(functools.partial(command.main, "mnist"), "--nz=7", "--data", mnist, "--output", tmp_path)
    assert_one_line_error(done, "--nz=7", "python model/mnist_train.py --nz=8")


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "other"])
def test_corrupt_checkpoint(mnist, checkpoint, tmp_path, how):
    path = tmp_path / "nz2.pt"
    shutil.copy(checkpoint, path)
    damage(path, "other" if how == "flip" else how)
    if how == "flip":
        torch.save([1, 2, 3], path)
    assert_one_line_error(compress(mnist, path, tmp_path), path)


def test_foreign_checkpoints(mnist, checkpoint, tmp_path):
    path = tmp_path / "colour.pt"
    torch.save(small_model(2, xs=(3, 32, 32)).state_dict(), path)
    assert_one_line_error(compress(mnist, path, tmp_path), path, "(3, 32, 32)")
    assert_one_line_error(compress(mnist, checkpoint, tmp_path, "--nz=4"), checkpoint, "--nz=4")
    assert [entry.name for entry in tmp_path.iterdir()] == ["colour.pt"]


def test_missing_dataset_says_where_to_put_it(tmp_path):
    path = tmp_path / "colour.pt"
    torch.save(small_model(2, xs=(3, 32, 32)).state_dict(), path)
    imagenet = functools.partial(command.main, "imagenet")
    done = run_main(imagenet, "--data", tmp_path, "--checkpoint", path, "--output", tmp_path)
    assert_one_line_error(done, tmp_path / "imagenet" / "test.npy", "create_imagenet.py")


def test_trained_checkpoint_is_used_before_the_shipped_ones(mnist, checkpoint, tmp_path):
    folder = tmp_path / "model" / "params" / "mnist"
    folder.mkdir(parents=True)
    shutil.copy(checkpoint, folder / "nz2")  # those that ship have up to eight latent layers
    flags = (*SMALL, "--bitswap=1", "--data", mnist, "--output", tmp_path)
    done = run_main(functools.partial(command.main, "mnist"), *flags)
    assert done.returncode == 0 and "mnist, nz=2, Bit-Swap" in done.stdout, done.stderr
    assert "the small one that ships" not in done.stdout


def test_results_of_another_checkpoint_are_not_replaced(copy, mnist, checkpoint, tmp_path):
    other = tmp_path / "other.pt"
    torch.save(small_model(2, seed=1).state_dict(), other)
    names = "bitstreams/mnist2/bitswap_6bits_5x4.npz", "plots/mnist2/bitswap_6bits_5x4_nets.npy"
    before = [(copy / name).read_bytes() for name in names]
    assert_one_line_error(compress(mnist, other, copy), copy / names[0], "another checkpoint", "--output")
    assert [(copy / name).read_bytes() for name in names] == before
    assert compress(mnist, checkpoint, copy).returncode == 0  # the same one may
    (copy / names[0]).unlink()
    assert compress(mnist, other, copy).returncode == 0
