"""What an image file holds next to its pixels: as chunks of a PNG file, and in words what cannot be kept."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, TiffImagePlugin

from utils import png
from utils.cli import counted
from utils.png import Chunk

MAX_METADATA = 1 << 24  # bytes
_READ = 1 << 30  # bytes of a file, at most
_INCH = 0.0254  # metres
_EXIF, _GPS = 0x8769, 0x8825  # tags of the directories within EXIF data
# Tags of a TIFF file that EXIF data hold, too: what describes the image, and not how its pixels are stored.
_TIFF_TAGS = (269, 270, 271, 272, 274, 282, 283, 285, 296, 305, 306, 315, 316, 33432)
_TIFF_LOST = {330: "images in SubIFDs", 338: "extra samples", 33723: "IPTC data", 34377: "Photoshop data"}


def collect(path: str | Path, image: Image.Image) -> tuple[tuple[Chunk, ...], list[str]]:
    """The metadata of an image file: (chunks of png.METADATA, what is not kept, in words).

    image: the file, opened with Pillow, its pixels not yet loaded.
    """
    with open(path, "rb") as file:
        data = file.read(_READ)
    reader = {"PNG": _png, "JPEG": _jpeg, "MPO": _jpeg, "WEBP": _webp, "TIFF": _tiff}.get(image.format or "", _other)
    kept, lost = list[Chunk](), list[str]()
    try:
        for found in reader(image, data):
            if isinstance(found, str):
                lost.append(found)
            elif not png.is_sound(*found):
                lost.append(f"a damaged chunk {found[0].decode()}")
            elif found[0] in png.TEXTS or found[0] not in (kind for kind, _ in kept):
                kept.append(found)
    except Exception:  # metadata may be damaged in any way
        return (), ["metadata, which are damaged"]
    if len(png.pack(kept)) > MAX_METADATA:
        kept, lost = [], [f"metadata of over {MAX_METADATA:,} bytes", *lost]
    return tuple(kept), list(dict.fromkeys(lost))


# Each of these generates chunks, and what is not kept, in words.
_Found = Iterator[Chunk | str]


def _behind(data: bytes, end: int) -> _Found:
    """What is behind the end of an image."""
    if b"ftyp" in data[end : end + 64]:
        yield "a video behind the image"
    elif end < len(data):
        yield f"{counted(len(data) - end, 'byte')} behind the image"


def _png(_: Any, data: bytes) -> _Found:
    file, others = io.BytesIO(data), list[str]()
    file.seek(len(png.SIGNATURE))
    for kind, contents, right in png.chunks(file):
        if kind in png.METADATA and right:
            yield kind, contents
        elif kind in png.METADATA or (kind[0] & 32 and not right):
            yield f"a damaged chunk {kind.decode('latin-1')}"
        elif kind[0] & 32 and kind not in (b"tRNS", b"acTL", b"fcTL", b"fdAT"):
            others.append(kind.decode("latin-1"))
    if others:
        yield f"the chunks {', '.join(dict.fromkeys(others))}"
    yield from _behind(data, file.tell())


def _common(info: dict[str, Any]) -> _Found:
    """What Pillow gives of JPEG and WebP files in the same form."""
    if profile := info.get("icc_profile"):
        yield png.profile(profile)
    if exif := info.get("exif"):
        yield b"eXIf", exif.removeprefix(b"Exif\0\0")
    if xmp := info.get("xmp"):
        yield png.text(png.XMP, xmp)


def _jpeg(image: Any, data: bytes) -> _Found:
    yield from _common(image.info)
    if unit := {1: _INCH, 2: 0.01}.get(image.info.get("jfif_unit")):
        yield png.resolution(image.info["jfif_density"], unit)
    for marker, contents in image.applist:
        if marker == "COM":
            yield png.text("Comment", contents)
        elif marker == "APP13":
            yield "IPTC or Photoshop data"
        elif not contents.startswith(
            (b"JFIF\0", b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0", b"MPF\0", b"Adobe")
        ):
            yield f"{marker} data"
    if any(word in (image.info.get("xmp") or b"") for word in (b"hdrgm:", b"GainMap")):
        yield "a gain map"
    if (others := getattr(image, "n_frames", 1) - 1) > 0:
        yield counted(others, "further image")
    else:
        yield from _behind(data, _jpeg_end(data))


def _jpeg_end(data: bytes) -> int:
    """Where the first image of a JPEG file ends."""
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        marker = data[position + 1]
        if marker == 0xD9:
            return position + 2
        if marker == 0xFF:  # padding
            position += 1
        elif marker <= 1 or 0xD0 <= marker <= 0xD8:  # within compressed pixels, or a marker without contents
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return len(data)


def _webp(image: Any, data: bytes) -> _Found:
    yield from _common(image.info)
    yield from _behind(data, 8 + int.from_bytes(data[4:8], "little"))


def _tiff(image: TiffImagePlugin.TiffImageFile, data: bytes) -> _Found:
    tags = image.tag_v2
    for tag, name in _TIFF_LOST.items():
        if tag in tags and not (tag == 338 and "A" in image.mode):
            yield name
    if profile := tags.get(34675):
        yield png.profile(bytes(profile))
    if xmp := tags.get(700):
        yield png.text(png.XMP, bytes(xmp))
    exif = Image.Exif()
    for tag in _TIFF_TAGS:
        if tag in tags:
            exif[tag] = tags[tag]
    for tag in (_EXIF, _GPS):
        if tag in tags and (directory := image.getexif().get_ifd(tag)):
            exif[tag] = dict(directory)
    if dict(exif):
        yield b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")
    if 282 in tags and 283 in tags and (unit := {2: _INCH, 3: 0.01}.get(tags.get(296, 2))):
        yield png.resolution((float(tags[282]), float(tags[283])), unit)


def _other(image: Any, data: bytes) -> _Found:
    """BMP, GIF and PPM."""
    if comment := image.info.get("comment"):
        yield png.text("Comment", comment)
    if dpi := image.info.get("dpi"):
        yield png.resolution(dpi, _INCH)
    if image.format == "PPM" and image.tile[0].codec_name == "raw":
        yield from _behind(data, ppm_end(image))


def ppm_end(image: ImageFile.ImageFile) -> int:
    """Where the first image of a PPM file of bytes ends."""
    return image.tile[0].offset + image.width * image.height * len(image.getbands())
