"""Whole photographs of different sizes, as a user compresses them, and what happens with bad input."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, photograph, run_main, run_script, small_model
from PIL import Image
from test_distributed import FORKED
from test_processes import run_two

import discretization
from codec import competitors
from imagenetcrop_compress import main
from model import checkpoints, exact, make_exact
from utils import npz

SIZES = {"a.png": (32, 65), "b.jpg": (33, 47), "c.png": (32, 32), "d.jpg": (100, 40)}  # heights, widths
INITIAL = 2 * 512 + 2  # words that a chain of the small model starts from
TABLE = ["Bit-Swap, net", "Bit-Swap, sent", "ELBO", "BB-ANS, net", "BB-ANS, sent"]
TABLE += competitors.COMPRESSORS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder for --data: four photographs, and files that are none or of no use."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "imagenetcrop" / "test" / "class"
    folder.mkdir(parents=True)
    for seed, (name, size) in enumerate(SIZES.items()):
        Image.fromarray(photograph(*size, seed)).save(folder / name)
    Image.fromarray(photograph(31, 200, 9)).save(folder / "flat.png")
    Image.fromarray(photograph(64, 64, 9)).convert("L").save(folder / "grey.jpg")
    (folder / "torn.jpg").write_bytes((folder / "d.jpg").read_bytes()[:700])
    (folder / "notes.txt").write_text("no photograph")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of a small model like the one that ships, with its bins and its exact form beside it."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.pt"
    model = small_model(2, (3, 32, 32), zchannels=2, conditional_scale=True, colour_transform=True)
    torch.save(model.state_dict(), path)
    stored = checkpoints.load(path, "imagenetcrop")
    ranges = discretization.sample_ranges(stored.model, None, 6, stored.identity)
    discretization.save(ranges, path.with_suffix(".bins.npz"))
    patches = torch.from_numpy(np.stack([photograph(32, 32, seed) for seed in range(16)])).permute(0, 3, 1, 2)
    exact.save(path.with_suffix(".exact.npz"), make_exact.make(stored.model, patches, stored.identity))
    return path


def flags(data, checkpoint, output, *more):
    return ("--quantbits=6", "--data", data, "--checkpoint", checkpoint, "--output", output, "--gpu=-1", *more)


@pytest.fixture(scope="module")
def results(data, checkpoint, tmp_path_factory):
    """The output folder of a run with the default settings, and what it printed."""
    output = tmp_path_factory.mktemp("output")
    return output, run_script("imagenetcrop_compress.py", *flags(data, checkpoint, output), check=0).stdout


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def by_photograph(output):
    return read_csv(output / "plots" / "imagenetcrop2" / "bitswap_bbans_6bits.csv")


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_everything_is_written_and_verified(results):
    output, printed = results
    assert files(output) == [
        "bitstreams/imagenetcrop2/bbans_6bits.npz",
        "bitstreams/imagenetcrop2/bitswap_6bits.npz",
        "plots/imagenetcrop2/bbans_6bits_made.csv",
        "plots/imagenetcrop2/bitswap_6bits_made.csv",
        "plots/imagenetcrop2/bitswap_bbans_6bits.csv",
    ]
    assert printed.count("all pixels of 7 blocks and all initial words are identical") == 2
    assert "Note: using all there is, 4 photographs" in printed
    for name, reason in {"flat.png": "200x31", "grey.jpg": "L", "torn.jpg": "", "notes.txt": ""}.items():
        assert f"skipped class/{name}: " in printed
        assert reason in printed.split(f"skipped class/{name}: ")[1].splitlines()[0]
    assert printed.count("skipped") == 4


def test_rows_are_the_cropped_photographs_longest_first(results):
    rows = by_photograph(results[0])
    assert [row["photograph"] for row in rows[:2]] == ["class/d.jpg", "class/a.png"]
    assert {row["photograph"] for row in rows[2:]} == {"class/b.jpg", "class/c.png"}
    assert [(row["height"], row["width"]) for row in rows] == [("96", "32"), ("32", "64"), ("32", "32"), ("32", "32")]


def test_other_compressors_see_the_same_pixels(results, data):
    for row in by_photograph(results[0]):
        with Image.open(data / "imagenetcrop" / "test" / row["photograph"]) as image:
            pixels = np.asarray(image)[: int(row["height"]), : int(row["width"])]
        for name, compressor in competitors.COMPRESSORS.items():
            bits = competitors.png(pixels, competitors.idat_bytes) if name == "PNG" else compressor(pixels)
            assert int(row[f"{name} (bits)"]) == bits


@pytest.mark.parametrize("scheme, name", [("bitswap", "Bit-Swap"), ("bbans", "BB-ANS")])
def test_bits_are_those_of_the_file(results, scheme, name):
    output, _ = results
    path = output / "bitstreams" / "imagenetcrop2" / f"{scheme}_6bits.npz"
    lengths, words = npz.load(path, ("lengths", "words"), "")
    assert lengths.sum() == len(words)
    rows = by_photograph(output)
    net, sent = (np.array([int(row[f"{name}, {kind} (bits)"]) for row in rows]) for kind in ("net", "sent"))
    np.testing.assert_array_equal(net, 32 * (lengths - INITIAL))
    # What is not counted are initial words that no pop has reached; the file has both words of the head.
    untouched = lengths - 1 - sent / 32
    assert ((untouched > 0) & (untouched < INITIAL)).all()
    elbo = np.array([int(row["ELBO (bits)"]) for row in rows])
    assert abs(net.sum() / elbo.sum() - 1) < 0.1


def test_bitswap_needs_fewer_initial_bits(results):
    for row in by_photograph(results[0]):
        initial = {
            name: int(row[f"{name}, sent (bits)"]) - int(row[f"{name}, net (bits)"]) for name in ("Bit-Swap", "BB-ANS")
        }
        assert 0 < initial["Bit-Swap"] < 0.7 * initial["BB-ANS"]


def test_table_is_the_mean_over_the_photographs(results):
    output, printed = results
    rows = by_photograph(output)
    lines = dict(line.split("  ", 1) for line in printed.split("bits/dim  paper\n")[1].splitlines()[: len(TABLE)])
    assert set(lines) == set(TABLE)
    lines = {name: rates.split() for name, rates in lines.items()}
    for name in TABLE:
        rates = [int(each[f"{name} (bits)"]) / (3 * int(each["height"]) * int(each["width"])) for each in rows]
        assert lines[name][0] == f"{np.mean(rates):.4f}"
    assert [lines[name][1:] for name in ("Bit-Swap, sent", "BB-ANS, sent", "gzip")] == [["3.51"], ["3.62"], []]


def test_one_scheme_alone(results, data, checkpoint, tmp_path):
    done = run_main(main, *flags(data, checkpoint, tmp_path, "--bitswap=0", "--nphotos=2", "--no-verify", "--seed=3"))
    assert done.returncode == 0, done.stderr
    assert "identical" not in done.stdout
    assert files(tmp_path) == [
        "bitstreams/imagenetcrop2/bbans_6bits_seed3_2photos.npz",
        "plots/imagenetcrop2/bbans_6bits_seed3_2photos.csv",
        "plots/imagenetcrop2/bbans_6bits_seed3_2photos_made.csv",
    ]
    rows = read_csv(tmp_path / "plots" / "imagenetcrop2" / "bbans_6bits_seed3_2photos.csv")
    assert len(rows) == 2
    assert list(rows[0])[3:] == ["BB-ANS, net (bits)", "BB-ANS, sent (bits)", "ELBO (bits)"]


def test_in_integers_with_whitened_bits(data, checkpoint, tmp_path):
    more = "--bitswap=1", "--nphotos=2", "--exact", "--whiten"
    done = run_main(main, *flags(data, checkpoint, tmp_path, *more))
    assert done.returncode == 0 and "all initial words are identical" in done.stdout, done.stderr
    rows = read_csv(tmp_path / "plots" / "imagenetcrop2" / "bitswap_6bits_exact_whitened_2photos.csv")
    assert list(rows[0])[3:] == ["Bit-Swap, net (bits)", "Bit-Swap, sent (bits)", "ELBO (bits)"]
    net, elbo = (sum(int(row[f"{name} (bits)"]) for row in rows) for name in ("Bit-Swap, net", "ELBO"))
    assert net == pytest.approx(elbo, rel=0.02)


@pytest.fixture
def copy(results, tmp_path):
    """A copy of the results, to be damaged."""
    return shutil.copytree(results[0], tmp_path / "copy")


def test_verify_only_decodes_an_earlier_run(copy, data, checkpoint):
    shutil.rmtree(copy / "plots")
    done = run_main(main, *flags(data, checkpoint, copy, "--verify-only"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("all pixels of 7 blocks and all initial words are identical") == 2
    assert not (copy / "plots").exists()


@pytest.mark.parametrize("how", ["flip", "cut", "word", "initial", "absent", "scheme"])
def test_corrupt_bitstreams(copy, data, checkpoint, how):
    path = copy / "bitstreams" / "imagenetcrop2" / "bitswap_6bits.npz"
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "absent":
        path.unlink()
    elif how == "scheme":
        shutil.copy(path.with_name("bbans_6bits.npz"), path)
    else:  # a file that parses, but lies
        header, lengths, words = npz.load(path, ("header", "lengths", "words"), "")
        words[0 if how == "initial" else lengths[0] - 5] ^= 1
        npz.save(path, header=header, lengths=lengths, words=words)
    done = run_main(main, *flags(data, checkpoint, copy, "--verify-only", "--bitswap=1"))
    assert_one_line_error(done, path)
    assert len(done.stderr.split("error: ")) == 2
    assert "identical" not in done.stdout


def test_bitstreams_of_other_photographs_are_refused(copy, data, checkpoint):
    path = copy / "bitstreams" / "imagenetcrop2" / "bitswap_6bits.npz"
    header, lengths, words = npz.load(path, ("header", "lengths", "words"), "")
    header = json.loads(header.tobytes()) | {"pixels": "0" * 16}
    npz.save(path, header=np.frombuffer(json.dumps(header).encode(), np.uint8), lengths=lengths, words=words)
    done = run_main(main, *flags(data, checkpoint, copy, "--verify-only"))
    assert_one_line_error(done, path, "pixels 0000000000000000 instead of")


def test_bad_arguments(data, checkpoint, tmp_path):
    output = tmp_path / "output"
    done = run_main(main, *flags(tmp_path, checkpoint, output))
    assert_one_line_error(done, tmp_path / "imagenetcrop" / "test", "no photographs")
    assert len(done.stderr.splitlines()) == 1
    done = run_main(main, *flags(data, checkpoint, output, "--nphotos=5"))
    assert_one_line_error(done, data / "imagenetcrop" / "test", "holds 4 photographs", "not 5")
    done = run_main(main, *flags(data, checkpoint, output, "--seed=4294967296"))
    assert_one_line_error(done, "argument --seed: 4294967296")
    done = run_main(main, *flags(data, tmp_path / "absent.pt", output))
    assert_one_line_error(done, tmp_path / "absent.pt")
    done = run_main(main, *flags(data, checkpoint, output, "--verify-only", "--no-verify"))
    assert_one_line_error(done, "not allowed with argument")
    assert not output.exists()


def test_two_processes_share_the_photographs(data, checkpoint, tmp_path):
    more = "--bitswap=1", "--exact"
    alone = run_main(main, *flags(data, checkpoint, tmp_path / "one", *more))
    together = run_two(
        FORKED, tmp_path / "run", "imagenetcrop_compress.py", *flags(data, checkpoint, tmp_path / "two", *more)
    )
    for done in (alone, together):
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("all pixels of 7 blocks and all initial words are identical") == 1
    bitstreams = "bitstreams/imagenetcrop2/bitswap_6bits_exact.npz"
    assert (tmp_path / "one" / bitstreams).read_bytes() == (tmp_path / "two" / bitstreams).read_bytes()
    for a, b in zip(
        *(read_csv(tmp_path / n / "plots/imagenetcrop2/bitswap_6bits_exact.csv") for n in ("one", "two")), strict=True
    ):
        assert abs(int(a.pop("ELBO (bits)")) - int(b.pop("ELBO (bits)"))) <= 1  # in floats, in smaller batches
        assert a == b
