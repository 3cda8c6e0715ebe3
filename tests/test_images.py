"""Reading images: everything in a file comes back, is named as not kept, or the file is refused."""

import io
import json
import re
import shutil
import struct
import subprocess
import zlib

import numpy as np
import pytest
from pictures import NO_MODELS, round_trip, sixteen_bit_png
from PIL import Image, ImageCms

from codec import container
from utils import png
from utils.cli import UserError
from utils.images import ORIENTATION, from_pillow, same, to_pillow, to_png
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
    decoded = container.decode(container.encode(picture, "conventional"), NO_MODELS)
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
    out = save(tmp_path, "out.png", to_pillow(container.decode(container.encode(picture, "conventional"), NO_MODELS)))
    with Image.open(out) as after:
        np.testing.assert_array_equal(np.asarray(after), [[0, 0], [0, 5]])
    assert from_pillow(Image.new("P", (2, 2))).palette == bytes(3)


def make_unsuitable(folder, kind):
    """Write an image that is not coded; returns its path."""
    image, path = photograph(), folder / "image.png"
    if kind.startswith("16-bit PNG"):
        sixteen_bit_png(path, int(kind[-1]))
    elif kind == "1":
        image.convert(kind).save(path)
    elif kind == "CMYK":
        image.convert("CMYK").save(path := folder / "image.jpg")
    elif kind == "float":
        image.convert("F").save(path := folder / "image.tiff")
    elif kind == "16-bit PPM":
        path = folder / "image.ppm"
        path.write_bytes(b"P6 2 3 65535\n" + bytes(range(36)))
    elif kind == "two PPM":
        path = folder / "image.ppm"
        path.write_bytes(2 * (b"P5 2 3 255\n" + bytes(range(6))))
    elif kind == "animation":
        other = image.transpose(Image.Transpose.ROTATE_180)
        image.save(path := folder / "image.gif", save_all=True, append_images=[other])
    elif kind == "thumbnail":
        image.save(path := folder / "image.tiff", tiffinfo={254: 1})
    elif kind == "multiplied":
        Image.frombytes("RGBA", (4, 4), bytes(range(64))).save(path := folder / "image.tiff")
        entry = struct.pack("<HHI", 338, 3, 1)
        path.write_bytes(path.read_bytes().replace(entry + b"\2", entry + b"\1"))
    return path


@pytest.mark.parametrize(
    "kind, says",
    {
        "16-bit PNG of 1": "more than 8 bits", "16-bit PNG of 2": "16 bits", "16-bit PNG of 3": "16 bits",
        "16-bit PNG of 4": "16 bits", "1": "mode 1", "CMYK": "mode CMYK", "float": "more than 8 bits",
        "16-bit PPM": "16 bits", "animation": "2 images", "thumbnail": "reduced copy", "multiplied": "multiplied",
        "two PPM": "several images",
    }.items(),
)  # fmt: skip
def test_other_kinds_of_images_are_refused_in_a_line(tmp_path, kind, says):
    path = make_unsuitable(tmp_path, kind)
    with pytest.raises(UserError) as caught:
        read_image(path)
    message = str(caught.value)
    assert says in message and str(path) in message and "convert" in message and "\n" not in message


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.webp"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_channels_come_back(tmp_path, name, mode):
    """With the colours under alpha 0."""
    pixels = np.random.default_rng(0).integers(0, 256, (13, 21, len(mode)), np.uint8)
    pixels[..., -1] = np.random.default_rng(1).choice([0, 0, 255, 90], (13, 21))
    path = save(
        tmp_path, name, Image.fromarray(pixels), **({"lossless": True, "exact": True} if "webp" in name else {})
    )
    picture = read_image(path)
    with Image.open(path) as image:
        assert picture.mode == image.mode[:-1]
        expected = np.asarray(image)
    np.testing.assert_array_equal(np.dstack((picture.pixels, picture.alpha)), expected)
    assert_png_is(tmp_path, picture, expected)
    assert round_trip(picture).alpha


def assert_png_is(tmp_path, picture, expected):
    """The picture, compressed and decompressed and written as a PNG file, has these pixels and the same metadata."""
    decoded = container.decode(container.encode(picture, "conventional"), NO_MODELS)
    (tmp_path / "out.png").write_bytes(to_png(decoded))
    with Image.open(tmp_path / "out.png") as image:
        np.testing.assert_array_equal(np.asarray(image), expected)
    assert same(read_image(tmp_path / "out.png"), picture)


@pytest.mark.parametrize("kind", ["table", "one entry", "colour", "grey", "GIF"])
def test_transparent_colours_come_back(tmp_path, kind):
    image, path, transparency = photograph(), tmp_path / "a.png", {"table": bytes(range(9)), "colour": (1, 2, 3)}
    if kind == "grey":
        image = image.convert("L")
    elif kind != "colour":
        image = image.quantize(20)
    save(
        tmp_path,
        (path := path.with_suffix(".gif") if kind == "GIF" else path).name,
        image,
        transparency=transparency.get(kind, 3),
    )
    picture = read_image(path)
    assert picture.alpha is None and picture.transparency
    with Image.open(path) as image:
        assert_png_is(tmp_path, picture, np.asarray(image))
        with Image.open(tmp_path / "out.png") as again:
            np.testing.assert_array_equal(np.asarray(again.convert("RGBA")), np.asarray(image.convert("RGBA")))


def test_a_transparent_grey_level_of_few_bits_is_scaled_with_the_pixels(tmp_path):
    rows = zlib.compress(b"".join(bytes([0, 0b00011011]) for _ in range(4)))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 2, 0, 0, 0, 0)),
        (b"tRNS", b"\0\2"),
        (b"IDAT", rows),
        (b"IEND", b""),
    ]
    (tmp_path / "a.png").write_bytes(png.SIGNATURE + b"".join(png.frame(*chunk) for chunk in chunks))
    picture = read_image(tmp_path / "a.png")
    assert picture.pixels[0, :, 0].tolist() == [0, 85, 170, 255] and picture.transparency == bytes([0, 170])


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


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff"])
@pytest.mark.parametrize("orientation", [1, 2, 5, 6, 8])
def test_orientation_is_kept_and_pixels_are_as_they_are_stored(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[ORIENTATION], exif[270] = orientation, "a description"
    path = save(tmp_path, name, photograph(), exif=exif, **({"lossless": True} if "webp" in name else {}))
    picture = read_image(path)
    assert picture.pixels.shape == (13, 21, 3)
    if name != "a.jpg":
        np.testing.assert_array_equal(picture.pixels, np.asarray(photograph()))
    with Image.open(io.BytesIO(to_png(picture))) as image:
        assert image.getexif()[ORIENTATION] == orientation and image.getexif()[270] == "a description"


def png_with(path, *chunks):
    """A PNG file with further chunks, (type, contents), after its header."""
    path.write_bytes(png.insert(save(path.parent, "plain.png", photograph()).read_bytes(), chunks))
    return path


PROFILE = b"profile" * 30


def with_metadata(folder, kind):
    """A file that holds more than pixels."""
    image, exif = photograph(), Image.Exif()
    exif[271] = "Maker"
    options = {
        "JPEG": {"icc_profile": PROFILE, "comment": "mine", "exif": exif, "xmp": b"<x/>", "dpi": (300, 300)},
        "WebP": {"exif": exif, "xmp": b"<x/>", "icc_profile": PROFILE},
        "TIFF": {"description": "mine", "icc_profile": PROFILE, "tiffinfo": {700: b"<x/>"}, "dpi": (300, 300)},
        "GIF": {"comment": "mine"},
    }[kind]
    return save(folder, f"a.{kind.lower()}", image, **options)


@pytest.mark.parametrize(
    "kind, kept",
    {
        "JPEG": "iCCP eXIf XMP pHYs tEXt", "WebP": "iCCP eXIf XMP", "TIFF": "iCCP XMP eXIf pHYs", "GIF": "tEXt"
    }.items(),
)  # fmt: skip
def test_metadata_become_chunks_of_a_png_file(tmp_path, capsys, kind, kept):
    path = with_metadata(tmp_path, kind)
    picture = read_image(path)
    kinds = [chunk.decode() for chunk, _ in picture.metadata]
    assert kinds == kept.replace("XMP", "iTXt").split()
    assert capsys.readouterr().out == ""
    with Image.open(path) as before, Image.open(io.BytesIO(to_png(picture))) as after:
        assert after.info.get("icc_profile") == before.info.get("icc_profile")
        if "XMP" in kept:
            assert after.info["xmp"] == b"<x/>"
        if "pHYs" in kept:
            assert after.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert_png_is(tmp_path, picture, np.asarray(to_pillow(picture)))
    assert read_image(path, pixels_only=True).metadata == ()


CHUNKS = (
    (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", bytes(32)), (b"sRGB", b"\0"), (b"cICP", bytes([9, 16, 0, 1])),
    (b"pHYs", struct.pack(">IIB", 2835, 5669, 1)), (b"tEXt", b"Title\0x"), (b"tEXt", b"Title\0y"),
    (b"zTXt", b"Much\0\0" + zlib.compress(b"x" * 2_000_000)), (b"iTXt", b"Name\0\0\0\0\0\xc3\xa9"), (b"tIME", bytes(7)),
)  # fmt: skip


def test_chunks_of_png_files_are_kept_as_they_are(tmp_path):
    assert read_image(png_with(tmp_path / "a.png", *CHUNKS)).metadata == CHUNKS


def test_damaged_metadata_are_left_out_in_a_line(tmp_path, capsys):
    """And do not make the pixels unsound."""
    for chunk in ((b"cHRM", b""), (b"gAMA", bytes(3)), (b"tEXt", b"\0"), (b"eXIf", bytes(20)), (b"iCCP", b"x")):
        path = png_with(tmp_path / "a.png", chunk, (b"sRGB", b"\0"))
        assert read_image(path).metadata == ((b"sRGB", b"\0"),)
        assert capsys.readouterr().out == f"Note: not kept of {path}: a damaged chunk {chunk[0].decode()}\n"
    data = bytearray(png_with(tmp_path / "a.png", (b"gAMA", bytes(4))).read_bytes())
    data[data.index(b"gAMA") + 4] ^= 1
    path.write_bytes(data)
    assert read_image(path).metadata == () and "a damaged chunk gAMA" in capsys.readouterr().out


def jpeg_with(path, *segments, behind=b""):
    data = save(path.parent, "plain.jpg", photograph()).read_bytes()
    framed = b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    path.write_bytes(data[:2] + framed + data[2:] + behind)
    return path


@pytest.mark.parametrize(
    "lost", ["2 further images", "extra samples", "IPTC", "a gain map", "a video behind the image", "99 bytes behind",
             "APP11 data", "the chunks bKGD", "over 16,777,216 bytes"],
)  # fmt: skip
def test_what_is_not_kept_is_named_in_a_line(tmp_path, capsys, lost):
    image, path = photograph(), tmp_path / "a.jpg"
    if lost == "2 further images":
        image.save(path, format="MPO", save_all=True, append_images=[image, image])
    elif lost == "extra samples":
        path = tmp_path / "a.tiff"
        Image.frombytes("RGBX", (4, 4), bytes(range(64))).save(path, tiffinfo={338: 0})
    elif lost == "the chunks bKGD":
        png_with(path := tmp_path / "a.png", (b"bKGD", bytes(6)))
    elif lost.startswith("over"):
        png_with(path := tmp_path / "a.png", (b"tEXt", b"Title\0" + bytes([65]) * (17 << 20)))
    else:
        segment = {
            "IPTC": (0xED, b"Photoshop 3.0\0" + bytes(20)), "APP11 data": (0xEB, b"JP" + bytes(20)),
            "a gain map": (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version='1'/>"),
        }.get(lost)  # fmt: skip
        behind = {"a video behind the image": b"\0\0\0\x18ftypmp42" + bytes(99), "99 bytes behind": bytes(99)}
        jpeg_with(path, *([segment] if segment else []), behind=behind.get(lost, b""))
    read_image(path)
    out = capsys.readouterr().out
    assert out.startswith(f"Note: not kept of {path}: ") and lost in out and out.count("\n") == 1
    assert read_image(path, pixels_only=True).metadata == () and capsys.readouterr().out == ""


def tags(path):
    """What exiftool says of a file, without what depends on the file's format and name: {group:tag: value}."""
    found = json.loads(subprocess.run(["exiftool", "-j", "-a", "-G1", path], check=True, capture_output=True).stdout)[0]
    groups = ("PNG:", "PNG-", "IFD0:", "ExifIFD:", "GPS:", "XMP", "ICC")
    layout = ("BitDepth", "ColorType", "Compression", "Filter", "Interlace", "ImageWidth", "ImageHeight",
              "BitsPerSample", "RowsPerStrip", "PhotometricInterpretation", "SamplesPerPixel",
              "StripOffsets", "StripByteCounts", "PlanarConfiguration")  # fmt: skip
    return {tag: value for tag, value in found.items() if tag.startswith(groups) and tag.split(":")[1] not in layout}


@pytest.mark.skipif(not (shutil.which("exiftool") and shutil.which("pngcheck")), reason="needs exiftool and pngcheck")
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff"])
def test_other_readers_find_the_same_metadata(tmp_path, name):
    """exiftool, before and after; pngcheck finds the file sound, and in a PNG file the same chunks."""
    exif = Image.Exif()
    exif[ORIENTATION], exif[270], exif[271] = 6, "a description", "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:02:03 04:05:06"
    exif.get_ifd(0x8825)[1] = "N"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    more = {"webp": {"lossless": True, "xmp": XMP}, "jpg": {"xmp": XMP, "comment": b"mine"}}.get(name[2:], {})
    path = save(tmp_path, name, photograph(), exif=exif, icc_profile=profile, dpi=(300, 300), **more)
    if name == "a.png":
        chunks = [chunk for chunk in CHUNKS if chunk[0] not in (b"sRGB", b"pHYs", b"cICP", b"tIME")]
        path.write_bytes(png.insert(path.read_bytes(), [*chunks, (b"tIME", bytes([7, 208, 2, 3, 4, 5, 6]))]))
    picture = read_image(path)
    (tmp_path / "out.png").write_bytes(to_png(container.decode(container.encode(picture, "conventional"), NO_MODELS)))
    before, after = tags(path), tags(tmp_path / "out.png")
    assert before and {tag: after.get(tag) for tag in before} == before
    assert name != "a.png" or after == before
    check = subprocess.run(["pngcheck", "-v", tmp_path / "out.png"], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/x"/></rdf:RDF></x:xmpmeta>'
)


def test_a_palette_of_small_numbers_in_a_tiff_file(tmp_path):
    """Their fields have 16 bits, but some programs write 0 ... 255."""
    image = photograph().quantize(20)
    path = save(tmp_path, "a.tiff", image)
    with Image.open(path) as tiff:
        colours = tiff.tag_v2[320]
    data = path.read_bytes()
    at = data.index(struct.pack("<768H", *colours))
    path.write_bytes(data[:at] + struct.pack("<768H", *(value // 256 for value in colours)) + data[at + 1536 :])
    assert read_image(path).palette[:60] == bytes(image.getpalette("RGB"))[:60]


def test_a_wrong_checksum_in_a_png_is_refused(tmp_path):
    data = bytearray(save(tmp_path, "a.png", photograph()).read_bytes())
    at = data.index(b"IDAT") - 4
    data[at + 8 + int.from_bytes(data[at : at + 4], "big")] ^= 1  # of the checksum, not of the pixels
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read_image(tmp_path / "a.png")
