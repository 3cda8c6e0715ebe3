"""A .bitswap file decodes on any machine: one that is kept, for ever, and any under other settings of the libraries."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, SETTINGS, assert_one_line_error, run_main, run_script
from PIL import Image

import demo_compress
import demo_decompress
from codec import container, context
from codec import header as file_header
from model.context.weights import open_network
from utils.images import Picture, read, same

# Written by demo_compress.py --coder bitswap with the checkpoint that ships. It is never to be written anew: a change
# with which it does not decode breaks every file there is.
KEPT = ROOT / "tests" / "golden" / "picture.bitswap"


# The same for the context network, with demo_compress.py --coder context.
KEPT_CONTEXT = KEPT.with_name("context.bitswap")

# A corner of the image with an alpha plane and metadata, by container.encode(picture_with_alpha(), "conventional").
KEPT_ALPHA = KEPT.with_name("alpha.bitswap")


def picture():
    """The image in KEPT, uint8 [150, 200, 3]: slopes, edges, noise and a flat part, by integer arithmetic alone."""
    y, x, c = np.ogrid[:150, :200, :3]
    hashed = (x * 73856093 ^ y * 19349663 ^ c * 83492791) * 2654435761 >> 7
    noise = hashed % 9 + (hashed >> 9) % 9 - 8
    disc = (x - 120) ** 2 + (y - 60) ** 2 < 45**2
    pixels = 60 + x // 2 + y // 3 + 10 * c + noise + np.where(disc, 60 - 20 * c, 0)
    return np.where((x > 160) & (y > 110), 200, pixels).clip(0, 255).astype(np.uint8)


def picture_with_alpha():
    """The picture in KEPT_ALPHA."""
    y, x, _ = np.ogrid[:40, :50, :1]
    alpha = np.where((x * 7 ^ y * 3) % 11 < 4, 0, 255 - x - y).astype(np.uint8)
    metadata = ((b"gAMA", (45455).to_bytes(4, "big")), (b"tEXt", b"Title\0a picture"))
    return Picture("RGB", picture()[40:80, 100:150], alpha=alpha, metadata=metadata)


def assert_is_picture(path):
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), picture())


def test_the_kept_file_decodes(tmp_path):
    header, _ = file_header.unpack(KEPT.read_bytes())
    assert header.coding.blocks > 12
    done = run_main(demo_decompress.main, KEPT, "-o", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    assert_is_picture(tmp_path / "out.png")


def test_the_kept_file_of_the_context_network_decodes(tmp_path):
    """And encodes to the same bytes, but for what the encoder chooses, which may change."""
    header, payload = file_header.unpack(KEPT_CONTEXT.read_bytes())
    assert header.coding.adapting
    done = run_main(demo_decompress.main, KEPT_CONTEXT, "-o", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    assert_is_picture(tmp_path / "out.png")
    network = open_network(wanted=header.coding.identity)
    coding = context.Coding(len(header.coding.words), header.coding.grid, header.coding.adapting)
    words = context.encode(picture(), network.weights, coding)
    assert np.concatenate(words).astype("<u4").tobytes() == payload


def test_the_kept_file_with_alpha_and_metadata_decodes(tmp_path):
    done = run_main(demo_decompress.main, KEPT_ALPHA, "-o", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    assert same(read(tmp_path / "out.png"), picture_with_alpha())


@pytest.mark.slow
@pytest.mark.skipif("ELSEWHERE" not in os.environ, reason="ELSEWHERE names no folder for emulated Debians")
@pytest.mark.parametrize("processor", ["arm64", "s390x"])
def test_the_context_network_on_another_processor(processor):
    """10 minutes each; as root: ELSEWHERE=/tmp/elsewhere pytest -m slow -k processor"""
    command = ["scripts/elsewhere.sh", processor, f"{os.environ['ELSEWHERE']}/{processor}"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True
    )
    if done.returncode == 77:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same bytes" in done.stdout and "OTHER" not in done.stdout


@pytest.fixture
def numpy_and_pillow_alone(tmp_path):
    """Variables under which Python finds NumPy and Pillow, but none of the other packages that are required."""
    (tmp_path / "none").mkdir()
    for name in ("numba", "llvmlite", "tqdm", "torch", "torchvision", "sklearn", "scipy", "matplotlib"):
        (tmp_path / "none" / f"{name}.py").write_text("raise ModuleNotFoundError")
    return {"PYTHONPATH": str(tmp_path / "none"), "PYTHONWARNINGS": "error"}


def test_numpy_and_pillow_alone(numpy_and_pillow_alone, tmp_path):
    small = Picture("RGB", picture()[30:42, 80:93])
    (tmp_path / "in.bitswap").write_bytes(container.encode(small, "context"))
    flags = tmp_path / "in.bitswap", "-o", tmp_path / "out.png"
    done = run_script("demo_decompress.py", *flags, check=0, environment=numpy_and_pillow_alone)
    assert not done.stderr
    assert same(read(tmp_path / "out.png"), small)


def test_the_same_bytes_without_numba(numpy_and_pillow_alone, tmp_path):
    flags = tmp_path, "--most", 160
    run_script("scripts/elsewhere.py", "write", *flags, check=0)
    done = run_script("scripts/elsewhere.py", "compare", *flags, check=0, environment=numpy_and_pillow_alone)
    assert "no Numba" in done.stdout and done.stdout.count("the same bytes") == 8


@pytest.mark.parametrize("kept", [KEPT, KEPT_CONTEXT, KEPT_ALPHA])
def test_a_single_wrong_bit_in_the_kept_file_is_noticed(tmp_path, kept):
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "wrong.bitswap").write_bytes(data)
    assert_one_line_error(run_main(demo_decompress.main, tmp_path / "wrong.bitswap"), "damaged")


def there_and_back(tmp_path, **elsewhere):
    """Decode KEPT in another process, encode the image there, decode it here."""
    out, there = tmp_path / "out.png", tmp_path / "there.bitswap"
    run_script("demo_decompress.py", KEPT, "-o", out, check=0, **elsewhere)
    assert_is_picture(out)
    run_script("demo_compress.py", out, "-o", there, "--coder", "bitswap", check=0, **elsewhere)
    header, _ = file_header.unpack(there.read_bytes())
    assert header.coding.blocks > 12
    assert run_main(demo_decompress.main, there, "-o", tmp_path / "back.png").returncode == 0
    assert_is_picture(tmp_path / "back.png")


@pytest.mark.parametrize("setting", [s if s == "least" else pytest.param(s, marks=pytest.mark.slow) for s in SETTINGS])
def test_other_settings(setting, tmp_path):
    there_and_back(tmp_path, environment=SETTINGS[setting])


@pytest.mark.slow
@pytest.mark.skipif("OTHER_PYTHON" not in os.environ, reason="OTHER_PYTHON names no Python with another PyTorch")
def test_another_pytorch(tmp_path):
    there_and_back(tmp_path, python=os.environ["OTHER_PYTHON"])


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 7, 12])
def test_any_number_of_lanes(lanes, tmp_path):
    """The kept file has a batch of its own size; here are others, on one thread and on two."""
    Image.fromarray(picture()).save(tmp_path / "in.png")
    flags = tmp_path / "in.png", "-o", tmp_path / "out.bitswap", "--coder", "bitswap", "--lanes", lanes
    done = run_main(demo_compress.main, *flags)
    assert done.returncode == 0, done.stderr
    two = {"OMP_NUM_THREADS": "2"}
    run_script("demo_decompress.py", tmp_path / "out.bitswap", "-o", tmp_path / "out.png", check=0, environment=two)
    assert_is_picture(tmp_path / "out.png")
