"""demo_compress.py and demo_decompress.py, as a user runs them."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, run_main, run_script, small_model
from pictures import small_network
from PIL import Image

import demo_compress
import demo_decompress
import discretization
from codec import bit_map, block_codec, container, conventional, models
from codec import header as file_header
from model import checkpoints, exact, make_exact
from model.context import weights
from utils import images, paths
from utils.cli import UserError


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The path of a small checkpoint, its bins and exact form beside it, for RGB; it makes little of mid-grey."""
    model = small_model(2, xs=(3, 32, 32), conditional_scale=True, colour_transform=True)
    with torch.no_grad():
        model.gen_mu[0].gain -= 3
        model.gen_mu[0].b.zero_()
        model.gen_std[0].b -= 3
    path = tmp_path_factory.mktemp("checkpoint") / "small.pt"
    torch.save(model.state_dict(), path)
    identity = checkpoints.identify(model.state_dict())
    ranges = discretization.sample_ranges(model, None, 10, identity)
    discretization.save(ranges, path.with_suffix(".bins.npz"))
    images = np.stack([np.asarray(image(32, 32, seed=k)) for k in range(16)])
    exact.save(
        path.with_suffix(".exact.npz"), make_exact.make(model, torch.from_numpy(images).permute(0, 3, 1, 2), identity)
    )
    return path


def image(width=70, height=75, mode="RGB", seed=0):
    """A Pillow image that the small checkpoint makes less of."""
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    grey = np.random.default_rng(seed).normal(128, 6, shape).astype(np.uint8)
    return Image.fromarray(grey).quantize(20) if mode == "P" else Image.fromarray(grey)


def assert_same(path, other):
    with Image.open(path) as a, Image.open(other) as b:
        assert a.mode == b.mode and a.getpalette() == b.getpalette()
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_there_and_back(tmp_path, small):
    """In two processes, from another folder, with Bit-Swap blocks."""
    source = tmp_path / "photo.png"
    image().save(source)
    done = run_script(
        "demo_compress.py", "photo.png", "--checkpoint", small, "--coder", "bitswap", cwd=tmp_path, check=0
    )
    for word in ("70x75", "blocks of 32x32 by Bit-Swap", "identical", "gzip", "bz2", "LZMA", "PNG", "WebP", "raw"):
        assert word in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "photo.bitswap", "photo.comparison.png"}
    with Image.open(tmp_path / "photo.comparison.png") as chart:
        assert min(chart.size) > 500
    out = tmp_path / "out.png"
    done = run_script(
        "demo_decompress.py", "photo.bitswap", "-o", "out.png", "--checkpoint", small, cwd=tmp_path, check=0
    )
    assert "out.png: 70x75" in done.stdout
    assert_same(source, out)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_without_a_model(tmp_path, monkeypatch, mode):
    """No checkpoint is looked for where there is nothing for it to code."""
    monkeypatch.setattr(checkpoints, "find", lambda *args, **options: pytest.fail("a checkpoint was looked for"))
    image(31, 33, mode).save(tmp_path / "small.png")
    done = run_main(demo_compress.main, tmp_path / "small.png")
    assert done.returncode == 0 and f"31x33, {mode}" in done.stdout and "alone" in done.stdout, done.stderr
    file = tmp_path / "small.bitswap"
    assert_one_line_error(run_main(demo_decompress.main, file), "small.png is there already", "--force")
    assert run_main(demo_decompress.main, file, "-o", tmp_path / "out.png").returncode == 0
    assert_same(tmp_path / "small.png", tmp_path / "out.png")
    assert run_main(demo_decompress.main, file, "--force").returncode == 0
    assert_same(tmp_path / "small.png", tmp_path / "out.png")


def test_one_pixel_and_a_size_beyond_webp(tmp_path):
    for size in ((1, 1), (conventional.WEBP_SIDE + 1, 2)):
        path = tmp_path / f"{size[0]}.png"
        image(*size).save(path)
        done = run_main(demo_compress.main, path)
        assert done.returncode == 0, done.stderr
        assert ("WebP  " in done.stdout) == (size[0] == 1)
        assert run_main(demo_decompress.main, path.with_suffix(".bitswap"), "-o", tmp_path / "out.png", "--force")
        assert_same(path, tmp_path / "out.png")


def test_examples(tmp_path, monkeypatch, small):
    """Without an image, scikit-learn's two photographs; overwritten without asking."""
    pytest.importorskip("sklearn")
    pictures = {name: demo_compress.example(name) for name in demo_compress.EXAMPLES}
    assert [picture.pixels.shape for picture in pictures.values()] == [(427, 640, 3)] * 2
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(demo_compress, "example", lambda name: images.from_pillow(image(seed=len(name))))
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "china.bitswap").write_text("of an earlier run")
    done = run_main(demo_compress.main, "--checkpoint", small, "--coder", "bitswap")
    assert done.returncode == 0 and done.stdout.count("by Bit-Swap") == 2, done.stderr
    expected = {f"{name}.{suffix}" for name in pictures for suffix in ("bitswap", "comparison.png")}
    assert {path.name for path in (tmp_path / "demo").iterdir()} == expected


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """The path of a part of one of scikit-learn's photographs, as a PNG file."""
    pytest.importorskip("sklearn")
    path = tmp_path_factory.mktemp("photograph") / "photo.png"
    Image.fromarray(demo_compress.example("china").pixels[100:190, 200:310]).save(path)
    return path


def test_photographs_are_coded_with_the_context_network(tmp_path, photograph):
    """By default, for it makes least of them; beside it, what the others make."""
    out = tmp_path / "out.bitswap"
    done = run_main(demo_compress.main, photograph, "-o", out)
    assert done.returncode == 0 and "coded with the context network" in done.stdout, done.stderr
    table = [line.split()[0] for line in done.stdout.splitlines() if line and "." in line.split()[-1]]
    assert table.index("context") < min(map(table.index, ("Bit-Swap", "WebP", "PNG", "gzip")))
    assert run_main(demo_decompress.main, out, "-o", tmp_path / "out.png").returncode == 0
    assert_same(photograph, tmp_path / "out.png")


def test_the_context_network_needs_no_pytorch(tmp_path, photograph):
    """Encoded and decoded in processes that have none; where the network may adapt, the file is no larger."""
    (tmp_path / "torch.py").write_text("raise ImportError('there is no PyTorch')")
    without = {"PYTHONPATH": str(tmp_path)}
    sizes = []
    for i, flags in enumerate(([], ["--static"])):
        out = tmp_path / f"{i}.bitswap"
        flags = [photograph, "-o", out, "--coder", "context", *flags]
        done = run_script("demo_compress.py", *flags, environment=without, check=0)
        assert "Bit-Swap: compressed" not in done.stdout
        assert not (flags[-1] == "--static" and file_header.unpack(out.read_bytes())[0].coding.adapting)
        flags = [out, "-o", tmp_path / f"{i}.png"]
        run_script("demo_decompress.py", *flags, environment=without, check=0)
        assert_same(photograph, tmp_path / f"{i}.png")
        sizes.append(out.stat().st_size)
    assert sizes[0] <= sizes[1]
    done = run_script("demo_compress.py", photograph, "--coder", "bitswap", environment=without)
    assert done.returncode != 0  # it is true that there was none


def test_another_context_network(tmp_path, photograph):
    """Files name theirs; another one is refused, and the right one found by --context."""
    network = small_network()
    weights.save(tmp_path / "other.npz", network.weights)
    out, flags = tmp_path / "out.bitswap", ["--context", tmp_path / "other.npz"]
    done = run_main(demo_compress.main, photograph, "-o", out, "--coder", "context", *flags)
    assert done.returncode == 0, done.stderr
    assert file_header.unpack(out.read_bytes())[0].coding.identity == network.identity
    decode = out, "-o", tmp_path / "out.png"
    assert_one_line_error(run_main(demo_decompress.main, *decode), network.identity, "--context")
    assert not (tmp_path / "out.png").exists()
    assert run_main(demo_decompress.main, *decode, *flags).returncode == 0
    assert_same(photograph, tmp_path / "out.png")
    absent = [photograph, "-o", tmp_path / "a.bitswap", "--coder", "context", "--context", tmp_path / "absent.npz"]
    assert_one_line_error(run_main(demo_compress.main, *absent), "absent.npz")


def test_a_checkpoint_without_an_exact_form_or_images_to_make_it_from(tmp_path, small, monkeypatch):
    monkeypatch.setattr(paths, "DATA", tmp_path / "none")
    for name in ("pt", "bins.npz"):
        shutil.copy(small.with_suffix(f".{name}"), tmp_path / f"small.{name}")
    image().save(tmp_path / "photo.png")
    flags = tmp_path / "photo.png", "--coder", "bitswap", "--checkpoint", tmp_path / "small.pt"
    assert_one_line_error(run_main(demo_compress.main, *flags), "small.pt has no exact form", "none")


def test_the_checkpoint_is_found(tmp_path, monkeypatch, small):
    """By the decoder even where another one has taken its place."""
    monkeypatch.setattr(paths, "PRETRAINED", tmp_path)
    for name in ("pt", "bins.npz", "exact.npz"):
        shutil.copy(small.with_suffix(f".{name}"), tmp_path / f"imagenetcrop_nz2.{name}")
    image().save(tmp_path / "photo.png")
    done = run_main(demo_compress.main, tmp_path / "photo.png", "--coder", "bitswap")
    assert done.returncode == 0 and "by Bit-Swap" in done.stdout, done.stderr
    (tmp_path / "trained").mkdir()
    torch.save(small_model(2, xs=(3, 32, 32)).state_dict(), tmp_path / "trained" / "nz2")
    monkeypatch.setattr(paths, "params", lambda dataset, output=None: tmp_path / "trained")
    done = run_main(demo_decompress.main, tmp_path / "photo.bitswap", "-o", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "photo.png", tmp_path / "out.png")
    (tmp_path / "imagenetcrop_nz2.pt").unlink()
    done = run_main(demo_decompress.main, tmp_path / "photo.bitswap", "-o", tmp_path / "other.png")
    assert_one_line_error(done, "another checkpoint", "--checkpoint")
    assert not (tmp_path / "other.png").exists()


def test_damaged_files_leave_nothing_behind(tmp_path):
    """One line on stderr, status 1, no output, whatever the damage."""
    image(40, 20).save(tmp_path / "a.png")
    assert run_main(demo_compress.main, tmp_path / "a.png").returncode == 0
    data = (tmp_path / "a.bitswap").read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    damages = {
        "cut short": data[:-5], "damaged": flipped, "newer version": data[:4] + b"\xff" + data[5:],
        "not a .bitswap file": b"\x89PNG" + data, "header": data[:9] + b"\xff" * 20,
    }  # fmt: skip
    for i, (says, damaged) in enumerate(damages.items()):
        path = tmp_path / f"{i}.bitswap"
        path.write_bytes(damaged)
        done = run_main(demo_decompress.main, path)
        assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
        assert_one_line_error(done, path, says)
        assert not path.with_suffix(".png").exists()
    done = run_script("demo_decompress.py", tmp_path / "0.bitswap", check=1)
    assert done.stderr.count("\n") == 1 and "cut short" in done.stderr


def test_a_file_that_does_not_decode_again_replaces_nothing(tmp_path, monkeypatch, small):
    image().save(tmp_path / "photo.png")
    (tmp_path / "good").write_text("precious")
    (tmp_path / "photo.bitswap").symlink_to("good")
    trick = block_codec.decode

    def wrong(*args):
        chains, rest = trick(*args)
        chains[0][0, 0, 0, 0] ^= 1
        return chains, rest

    monkeypatch.setattr(block_codec, "decode", wrong)
    flags = tmp_path / "photo.png", "--coder", "bitswap", "--checkpoint", small
    assert_one_line_error(run_main(demo_compress.main, *flags, "--force"), "photo.bitswap", "not written")
    assert (tmp_path / "photo.bitswap").is_symlink() and (tmp_path / "good").read_text() == "precious"
    assert run_main(demo_compress.main, *flags, "-o", tmp_path / "new.bitswap").returncode == 1
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "photo.bitswap", "good"}


def test_grey_images_are_coded_with_a_checkpoint_for_them(tmp_path):
    model = small_model(2)
    torch.save(model.state_dict(), tmp_path / "grey.pt")
    ranges = discretization.sample_ranges(model, None, 10, checkpoints.identify(model.state_dict()))
    discretization.save(ranges, tmp_path / "grey.bins.npz")
    image(70, 75, "L").save(tmp_path / "photo.png")
    pixels = torch.from_numpy(np.stack([np.asarray(image(32, 32, "L"))]))[None]
    exact.save(tmp_path / "grey.exact.npz", make_exact.make(model, pixels, checkpoints.identify(model.state_dict())))
    more = "--coder=bitswap", "--checkpoint", tmp_path / "grey.pt"
    done = run_main(demo_compress.main, tmp_path / "photo.png", *more)
    assert done.returncode == 0 and "by Bit-Swap" in done.stdout, done.stderr
    out = tmp_path / "out.png"
    done = run_main(demo_decompress.main, tmp_path / "photo.bitswap", "-o", out, "--checkpoint", tmp_path / "grey.pt")
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "photo.png", out)
    (tmp_path / "grey.bins.npz").unlink()  # decoding makes no others, which would not be those of the file
    flags = tmp_path / "photo.bitswap", "-o", tmp_path / "other.png", "--checkpoint", tmp_path / "grey.pt"
    assert_one_line_error(run_main(demo_decompress.main, *flags), "grey.pt", "bins next to it")


def test_errors_of_compress(tmp_path, small):
    source = tmp_path / "a.png"
    image().save(source)
    image().convert("CMYK").save(tmp_path / "cmyk.tiff")
    (tmp_path / "there.bitswap").write_text("precious")
    main = demo_compress.main
    for flags, says in (
        ([tmp_path / "absent.png"], "absent.png"),
        ([tmp_path / "cmyk.tiff"], "mode CMYK"),
        ([tmp_path], "cannot be read"),
        ([source, "-o", tmp_path / "there.bitswap"], "--force"),
        ([source, "-o", source, "--force"], "ends in .bitswap"),
        ([tmp_path / "there.bitswap"], "is compressed already"),
        ([source, "-o", "/proc/absent/a.bitswap", "--checkpoint", small], "cannot write"),
        ([source, source, "-o", tmp_path / "b.bitswap"], "one image"),
        ([source, "--checkpoint", tmp_path / "absent.pt"], "absent.pt"),
        ([source, "--lanes", "0"], "--lanes"),
        ([source, "--gpu", "99"], "--gpu"),
    ):
        assert_one_line_error(run_main(main, *flags), says)
    assert (tmp_path / "there.bitswap").read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "cmyk.tiff", "there.bitswap"}


def test_errors_of_decompress(tmp_path):
    image(9, 9).save(tmp_path / "a.png")
    assert run_main(demo_compress.main, tmp_path / "a.png", "-o", tmp_path / "b.bitswap").returncode == 0
    for flags, says in (
        ([tmp_path / "absent.bitswap"], "absent.bitswap"),
        ([tmp_path / "b.bitswap", "-o", tmp_path / "a.png"], "there already"),
        ([tmp_path / "b.bitswap", "-o", tmp_path / "out.jpg"], "ends in .png"),
        ([tmp_path / "b.bitswap", "-o", "/proc/absent/out.png"], "cannot write"),
        ([tmp_path, "-o", tmp_path / "out.png"], "cannot be read"),
        (["/dev/zero", "-o", tmp_path / "out.png"], "not a .bitswap file"),
    ):
        assert_one_line_error(run_main(demo_decompress.main, *flags), says)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("flags", [(), ("--pixels-only",)])
def test_alpha_and_metadata_come_back_as_a_png_file(tmp_path, flags):
    """A photograph with an orientation and a profile, whose alpha channel hides colours."""
    pixels = np.dstack(
        (np.asarray(image(40, 30)), np.random.default_rng(0).choice([0, 255], (30, 40)).astype(np.uint8))
    )
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    options = {"exif": exif, "icc_profile": b"profile" * 30, "dpi": (300, 300)}
    Image.fromarray(pixels).save(tmp_path / "a.png", **options)
    out = tmp_path / "out.png"
    done = run_main(demo_compress.main, tmp_path / "a.png", "--coder=context", *flags)
    assert done.returncode == 0 and "Note" not in done.stdout and "alpha plane" in done.stdout, done.stderr
    assert ("metadata: " in done.stdout) == (not flags)
    assert run_main(demo_decompress.main, tmp_path / "a.bitswap", "-o", out).returncode == 0
    with Image.open(out) as decoded:
        np.testing.assert_array_equal(np.asarray(decoded), pixels)
        assert decoded.info.get("icc_profile") == (None if flags else options["icc_profile"])
        assert decoded.getexif().get(images.ORIENTATION) == (None if flags else 6)


def test_no_comparison_leaves_out_the_others_and_the_chart(tmp_path):
    image(40, 40).save(tmp_path / "a.png")
    done = run_main(demo_compress.main, tmp_path / "a.png", "--no-comparison", "--coder=context")
    assert done.returncode == 0 and "context" in done.stdout and "WebP" not in done.stdout, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.bitswap"}


def test_the_bits_of_the_map_add_up_to_the_file(small):
    """Of every way; and blocks with noise have more of them than flat ones."""
    picture = images.from_pillow(image(140, 96))
    picture.pixels[:, :64] = 128
    found = models.Models(bitswap=lambda wanted: models.open_blocks(wanted, small))
    for way in container.WAYS:
        header, payload = file_header.unpack(container.encode(picture, way, found))
        bits = bit_map.bits_per_pixel(picture, header.coding, found)
        assert bits.shape == (96, 140) and bits[:, 64:128].mean() >= bits[:, :64].mean()
        if way == "bitswap":  # which has the parts as well: they are the initial bits
            assert type(header.coding).__name__ == "Blocks"
        assert bits.sum() == pytest.approx(8 * len(payload), rel=0.05)


def test_compiling_comes_before_the_times(tmp_path, monkeypatch):
    bars = []

    @contextlib.contextmanager
    def progress(desc):
        bars.append(desc)
        yield iter

    monkeypatch.setattr(demo_compress.cli, "progress", progress)
    for name, mode in (("a.png", "L"), ("b.png", "L"), ("c.png", "RGB")):
        image(9, 9, mode).save(tmp_path / name)
    run_main(demo_compress.main, *(tmp_path / name for name in ("a.png", "b.png", "c.png")), "--no-comparison")
    assert bars == ["compile", *["compress", "decompress"] * 2, "compile", "compress", "decompress"]


def test_nothing_that_is_written_for_one_image_is_a_file_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "read", lambda *_: pytest.fail("work was started"))
    for name in ("a.png", "a.webp", "a.comparison.png"):
        image(20, 20).save(tmp_path / name)
    for first, second, needed in (
        ("a.png", "a.webp", "a.bitswap"),
        ("a.png", "../" + tmp_path.name + "/a.png", "a.bitswap"),
        ("a.png", "a.comparison.png", "a.comparison.png"),
    ):
        for pair in ((first, second), (second, first)):
            done = run_main(demo_compress.main, "--force", *(tmp_path / name for name in pair))
            assert_one_line_error(done, first, second, f"both need {tmp_path}", needed)


def test_files_go_into_a_folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        image(20, 20).save(tmp_path / name)
    flags = "--no-comparison", "-o", folder
    assert run_main(demo_compress.main, tmp_path / "a.png", tmp_path / "b.png", *flags).returncode == 0
    assert run_main(demo_decompress.main, folder / "a.bitswap", "-o", folder).returncode == 0
    assert {path.name for path in folder.iterdir()} == {"a.bitswap", "b.bitswap", "a.png"}


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii", "NUMBA_NUM_THREADS": "0", "PYTHONSAFEPATH": "1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "NUMBA_DISABLE_JIT": "1"},
        {"MATPLOTLIBRC": "damaged", "NUMBA_NUM_THREADS": "-1"},
    ],
    ids=lambda environment: " ".join(environment),
)
def test_the_demo_works_in_any_environment(tmp_path, environment):
    """PYTHONSAFEPATH is `python -P`."""
    image(7, 9).save(tmp_path / "zwölf.png")
    (tmp_path / "damaged").write_bytes(b"\xff\xfe\0figure.dpi: x\nno: setting\n")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    for script, name in (("demo_compress.py", "zwölf.png"), ("demo_decompress.py", "zwölf.bitswap")):
        command = [sys.executable, paths.ROOT / script, name, *(["-o", "out.png"] if "bitswap" in name else [])]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert_same(tmp_path / "zwölf.png", tmp_path / "out.png")


def test_examples_need_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        demo_compress.example("china")


def test_one_of_many_that_fails_keeps_no_other_from_it(tmp_path):
    for name in ("a.png", "c.webp", "d.png"):
        image(20, 20).save(tmp_path / name, **({"lossless": True} if name == "c.webp" else {}))
    (tmp_path / "b.png").write_bytes(b"no image")
    done = run_main(
        demo_compress.main, *(tmp_path / name for name in ("a.png", "b.png", "c.webp", "absent.png", "d.png"))
    )
    assert_one_line_error(done, "2 of 5", "b.png", "absent.png")
    assert {path.stem for path in tmp_path.glob("*.bitswap")} == {"a", "c", "d"}


@pytest.mark.parametrize("name", ["price $5 to $6 \\frac.png", "a_$x^{.png", "bad\udcff.png", "日本.png"])
def test_names_of_any_kind(tmp_path, name):
    image(20, 20).save(tmp_path / name)
    command = [sys.executable, paths.ROOT / "demo_compress.py", tmp_path / name]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0 and b"warning" not in done.stderr.lower(), done.stderr
    assert os.fsencode(name) in done.stdout
    assert len(list(tmp_path.glob("*.bitswap"))) == len(list(tmp_path.glob("*.comparison.png"))) == 1


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), ValueError("no\nfont"), MemoryError()])
def test_the_chart_is_an_extra(tmp_path, monkeypatch, fault):
    def fail(*_):
        raise fault

    monkeypatch.setattr(demo_compress, "draw", fail)
    image(20, 20).save(tmp_path / "a.png")
    done = run_main(demo_compress.main, tmp_path / "a.png")
    assert done.returncode == 0 and sum("warning: no chart" in line for line in done.stderr.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.bitswap"}


def test_nothing_is_coded_for_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "read", lambda *_: pytest.fail("work was started"))
    image(20, 20).save(tmp_path / "a.png")
    (tmp_path / "b.bitswap").symlink_to("/dev/null")
    for name in ("/proc/a", tmp_path / "b", tmp_path / ("n" * 300), tmp_path / "a.png" / "b"):
        target = f"{name}.bitswap"
        done = run_main(demo_compress.main, tmp_path / "a.png", "-o", target, "--force")
        assert_one_line_error(done, "cannot write", target)


def test_a_jpeg_is_better_left_alone(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (31, 31, 3), np.uint8)).save(tmp_path / "a.jpg", quality=20)
    done = run_main(demo_compress.main, tmp_path / "a.jpg")
    assert f"{(tmp_path / 'a.jpg').stat().st_size:,} bytes" in done.stdout and "leave a JPEG as it is" in done.stdout


def test_a_reader_that_goes_away(tmp_path):
    image(20, 20).save(tmp_path / "a.png")
    command = f"{shlex.quote(sys.executable)} demo_compress.py {tmp_path}/a.png | head -c 1"
    done = subprocess.run(command, shell=True, cwd=paths.ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr
