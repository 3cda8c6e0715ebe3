"""Reading images: as they are, or refused with advice."""

import re
import shlex
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from pictures import no_codec, round_trip, sixteen_bit_png
from PIL import Image

from codec import container
from utils.cli import UserError
from utils.images import ORIENTATION, from_pillow, to_pillow
from utils.images import read as read_image


def save(tmp_path, name, image, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def photograph(mode="RGB", size=(21, 13)):
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff", "a.bmp", "a.ppm"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_read(tmp_path, name, mode):
    path = save(tmp_path, name, photograph(mode))
    picture = read_image(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(picture.pixels.squeeze(), np.asarray(image))
        assert picture.mode == image.mode


@pytest.mark.parametrize("colours", [1, 2, 3, 17, 256])
@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_palette_images_keep_their_palette(tmp_path, colours, name):
    image = photograph().quantize(colours)
    path = save(tmp_path, name, image)
    picture = read_image(path)
    decoded = container.decode(container.encode(picture), no_codec)
    out = save(tmp_path, "out.png", to_pillow(decoded))
    with Image.open(path) as before, Image.open(out) as after:
        assert after.mode == before.mode == "P"
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before))
        assert after.getpalette()[: len(picture.palette)] == list(picture.palette)
        assert list(picture.palette) == before.getpalette("RGB")


def test_pixels_beyond_the_palette(tmp_path):
    image = Image.new("P", (2, 2))
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.putpixel((1, 1), 5)
    picture = from_pillow(image)
    assert picture.palette == bytes([1, 2, 3, 4, 5, 6, *[0] * 12])
    out = save(tmp_path, "out.png", to_pillow(container.decode(container.encode(picture), no_codec)))
    with Image.open(out) as after:
        np.testing.assert_array_equal(np.asarray(after), [[0, 0], [0, 5]])
    assert from_pillow(Image.new("P", (2, 2))).palette == bytes(3)


def make_unsuitable(folder, kind):
    """Write an image that is not coded as it is; returns its path."""
    image, path = photograph(), folder / "image.png"
    if kind.startswith("16-bit PNG"):
        sixteen_bit_png(path, int(kind[-1]))
    elif kind in ("RGBA", "LA", "1"):
        image.convert(kind).save(path)
    elif kind == "transparent palette":
        image.quantize(9).save(path, transparency=3)
    elif kind == "transparent colour":
        image.save(path, transparency=(1, 2, 3))
    elif kind == "CMYK":
        image.convert("CMYK").save(path := folder / "image.jpg")
    elif kind == "float":
        image.convert("F").save(path := folder / "image.tiff")
    elif kind == "16-bit PPM":
        path = folder / "image.ppm"
        path.write_bytes(b"P6 2 3 65535\n" + bytes(range(36)))
    elif kind == "animation":
        other = image.transpose(Image.Transpose.ROTATE_180)
        image.save(path := folder / "image.gif", save_all=True, append_images=[other])
    return path


def follow(message):
    """Run, in a shell, the command that a refusal advises."""
    command = re.search(r"python (-c .*)$", message)[1]
    subprocess.run(f"{shlex.quote(sys.executable)} {command}", shell=True, check=True, capture_output=True)


@pytest.mark.parametrize(
    "kind, says",
    {
        "16-bit PNG of 1": "16 bits", "16-bit PNG of 2": "alpha", "16-bit PNG of 3": "16 bits",
        "16-bit PNG of 4": "alpha", "RGBA": "alpha", "LA": "alpha", "1": "mode 1", "CMYK": "mode CMYK",
        "float": "mode F", "16-bit PPM": "16 bits", "transparent palette": "transparent",
        "transparent colour": "transparent", "animation": "2 images",
    }.items(),
)  # fmt: skip
def test_unsuitable_images_are_refused_with_advice_that_works(tmp_path, monkeypatch, kind, says):
    path = make_unsuitable(tmp_path, kind)
    with pytest.raises(UserError) as caught:
        read_image(path)
    message = str(caught.value)
    assert says in message and str(path) in message and "\n" not in message
    monkeypatch.chdir(tmp_path)
    follow(message)
    assert round_trip(read_image(tmp_path / "converted.png"))


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    data = save(tmp_path, "good.png", photograph(size=(90, 90))).read_bytes()
    (tmp_path / "short.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "drawing.eps").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    for name in ("empty.png", "text.png", "short.png", "drawing.eps", "absent.png", "."):
        with pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
            read_image(tmp_path / name)
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data[:2000])
        for position in rng.integers(0, len(damaged), 5):
            damaged[position] = rng.integers(256)
        (tmp_path / "damaged.png").write_bytes(damaged)
        with pytest.raises(UserError):
            read_image(tmp_path / "damaged.png")


def test_images_too_large_are_refused_before_they_are_read(tmp_path):
    head = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    idat = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + idat)
    with pytest.raises(UserError, match=r"large\.png"):
        read_image(tmp_path / "large.png")


def test_orientation_is_told_and_not_applied(tmp_path, capsys):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = save(tmp_path, "turned.png", photograph(), exif=exif)
    picture = read_image(path)
    assert picture.pixels.shape == (13, 21, 3)
    assert "EXIF" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["ramp.pgm", "ten.pgm", "plain.pgm", "twelve.tiff", "float.tiff", "deep.png"])
def test_the_advice_keeps_the_picture(tmp_path, monkeypatch, name):
    """A ramp from black to white of more than 8 bits is a ramp from black to white of 8."""
    top = {"ten.pgm": 1023, "plain.pgm": 1000, "twelve.tiff": 4095, "float.tiff": 1}.get(name, 65535)
    ramp = np.tile(np.linspace(0, top, 64), (8, 1))
    if name == "deep.png":
        ramp /= 3  # dark, and stays so
    deep, path = ramp.round().astype(np.uint16), tmp_path / name
    if name == "plain.pgm":
        path.write_text(f"P2 64 8 {top}\n" + " ".join(map(str, deep.ravel())) + "\n")
    elif path.suffix == ".pgm":
        path.write_bytes(f"P5 64 8 {top}\n".encode() + deep.astype(">u2").tobytes())
    else:
        Image.fromarray(ramp.astype(np.float32) if name == "float.tiff" else deep).save(path)
    with pytest.raises(UserError) as caught:
        read_image(path)
    monkeypatch.chdir(tmp_path)
    follow(str(caught.value))
    converted = read_image(tmp_path / "converted.png").pixels.squeeze().astype(float)
    assert np.abs(converted - ramp * 255 / top).max() <= 1


def test_the_advice_keeps_every_frame(tmp_path, monkeypatch):
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "lime", "blue")]
    path = save(tmp_path, "moving.png", frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="3 images") as caught:
        read_image(path)
    monkeypatch.chdir(tmp_path)
    follow(str(caught.value))
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(read_image(tmp_path / f"frame{i}.png").pixels, np.asarray(frame))


@pytest.mark.parametrize("name", ["`touch pwned`.png", "$(touch pwned).png", 'it\'s \\ "quoted".png'])
def test_the_advice_is_quoted_for_the_shell(tmp_path, monkeypatch, name):
    path = save(tmp_path, name, photograph().convert("RGBA"))
    with pytest.raises(UserError) as caught:
        read_image(path)
    monkeypatch.chdir(tmp_path)
    follow(str(caught.value))
    assert {file.name for file in tmp_path.iterdir()} == {name, "converted.png"}
    np.testing.assert_array_equal(read_image(tmp_path / "converted.png").pixels, np.asarray(photograph()))


def png_with(path, *chunks):
    """A PNG file with further chunks, (type, bytes), after its header."""
    data = save(path.parent, "plain.png", photograph()).read_bytes()
    framed = (struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
              for kind, body in chunks)  # fmt: skip
    path.write_bytes(data[:33] + b"".join(framed) + data[33:])
    return path


def with_metadata(folder, kind):
    """A file that holds more than pixels."""
    image, exif = photograph(), Image.Exif()
    exif[271] = "Maker"
    if kind.startswith("PNG"):
        chunks = {
            "PNG gamma": [(b"gAMA", struct.pack(">I", 100000)), (b"tEXt", b"Title\0x")],
            "PNG HDR": [(b"cICP", bytes([9, 16, 0, 1])), (b"cLLI", bytes(8))],
        }
        return png_with(folder / "a.png", *chunks[kind])
    if kind == "multi-picture":
        return save(folder, "a.jpg", image, format="MPO", save_all=True, append_images=[image, image])
    if kind == "TIFF samples":
        ifd = [(256, 3, 1, 4), (257, 3, 1, 2), (258, 3, 4, 0), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 0),
               (277, 3, 1, 4), (278, 3, 1, 2), (279, 4, 1, 32), (338, 3, 1, 0)]  # fmt: skip
        after = 8 + 2 + 12 * len(ifd) + 4
        entries = b"".join(
            struct.pack("<HHII", tag, form, count, {258: after, 273: after + 8}.get(tag, value))
            for tag, form, count, value in ifd
        )
        depths = struct.pack("<4H", 8, 8, 8, 8)
        path = folder / "a.tiff"
        path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(ifd)) + entries + bytes(4) + depths + bytes(range(32)))
        return path
    options = {
        "JPEG": {"icc_profile": b"profile" * 30, "comment": "mine", "exif": exif},
        "WebP": {"exif": exif, "xmp": b"<x/>"},
        "TIFF": {"description": "mine", "icc_profile": b"profile" * 30},
        "GIF": {"comment": "mine"},
    }[kind]
    return save(folder, f"a.{kind.lower()}", image, **options)


@pytest.mark.parametrize(
    "kind, lost",
    {
        "PNG gamma": "gamma, comments", "PNG HDR": "colour space (cICP), HDR metadata",
        "JPEG": "colour profile, EXIF data, comments", "WebP": "EXIF data, XMP data",
        "TIFF": "colour profile, comments", "GIF": "comments", "multi-picture": "2 further images",
        "TIFF samples": "extra samples",
    }.items(),
)  # fmt: skip
def test_what_is_not_kept_is_said_in_a_line(tmp_path, capsys, kind, lost):
    path = with_metadata(tmp_path, kind)
    read_image(path)
    assert capsys.readouterr().out == f"Note: not kept of {path}, pixels only: {lost}\n"
    (tmp_path / "bare.png").write_bytes(save(tmp_path, "b.png", photograph()).read_bytes())
    read_image(tmp_path / "bare.png")
    assert capsys.readouterr().out == ""


def test_a_wrong_checksum_in_a_png_is_refused(tmp_path):
    data = bytearray(save(tmp_path, "a.png", photograph()).read_bytes())
    at = data.index(b"IDAT") - 4
    data[at + 8 + int.from_bytes(data[at : at + 4], "big")] ^= 1  # of the checksum, not of the pixels
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read_image(tmp_path / "a.png")
