"""Odd image files, made at random: every mode, size, format, piece of metadata and kind of damage, from a seed."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F")
FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "ICO", "TGA", "JPEG2000", "MPO", "PCX", "EPS", "PDF")
SUFFIXES = {"JPEG": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif", "WEBP": ".webp", "PPM": ".ppm"}
SIZES = ((1, 1), (1, 40), (33, 1), (2, 3), (31, 31), (32, 32), (33, 47), (64, 40))
NAMES = ("a", "with space", "$x_2$", "`b`", "ü€漢", "-o", "a.b.c", "%s", "new\nline", "long" * 30, "raw\udcff")


def _frame(rng, mode, size):
    height, width = size[1], size[0]
    kind = rng.integers(3)
    rgb = {
        0: lambda: rng.integers(0, 256, (height, width, 3)),
        1: lambda: np.full((height, width, 3), rng.integers(256)),
        2: lambda: np.add.outer(np.arange(height) * 3, np.arange(width) * 5)[..., None] % 256 + np.zeros(3, int),
    }[int(kind)]()
    image = Image.fromarray(rgb.astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width)).astype(np.uint16))
    if mode == "PA":
        return image.convert("P").convert("PA")
    return image.convert("L").convert(mode) if mode in ("I", "F", "LA") else image.convert(mode)


def _metadata(rng):
    options = {}
    if rng.integers(3) == 0:
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(0, 12))
        exif[271] = "maker"
        options["exif"] = exif
    if rng.integers(3) == 0:
        options["icc_profile"] = rng.bytes(int(rng.integers(1, 300)))
    if rng.integers(3) == 0:
        options["comment"] = "a comment"
    if rng.integers(4) == 0:
        options["transparency"] = int(rng.integers(4))
    if rng.integers(4) == 0:
        options["interlace"] = options["progressive"] = True
    return options


def encode(rng):
    """A sound image file of a random kind: (bytes, suffix)."""
    while True:
        mode, form, size = rng.choice(MODES), str(rng.choice(FORMATS)), SIZES[rng.integers(len(SIZES))]
        frames = [_frame(rng, mode, size) for _ in range(1 + 2 * (rng.integers(5) == 0))]
        options = _metadata(rng)
        if len(frames) > 1:
            options |= {"save_all": True, "append_images": frames[1:]}
        file = io.BytesIO()
        try:
            frames[0].save(file, form, **options)
        except Exception:  # a format that holds no such thing
            continue
        return file.getvalue(), SUFFIXES.get(form, f".{form.lower()}")


def raw_kinds(rng):
    """Files that Pillow does not write, or that are none: (bytes, suffix)."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def png(width, height, depth, colour, body, *more, interlace=0):
        head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
        return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more)
                + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b""))  # fmt: skip

    rows = bytes(4 * 33)
    kinds = [
        (b"", ".png"),
        (b"not an image at all\n", ".jpg"),
        (rng.bytes(500), ".png"),
        (b"P5 4 4 65535\n" + rng.bytes(32), ".pgm"),
        (b"P2 2 2 9\n1 2 3 4\n", ".pgm"),
        (b"P6 4 4 15\n" + bytes(48), ".ppm"),
        (b"P6 999999 999999 255\n", ".ppm"),
        (b"P5 0 0 255\n", ".pgm"),
        (b"Pf 2 2 -1.0\n" + bytes(16), ".pfm"),
        (png(4, 4, 16, 2, bytes(4 * 25)), ".png"),
        (png(4, 4, 16, 6, bytes(4 * 33)), ".png"),
        (png(32, 4, 8, 0, rows), ".png"),
        (png(32, 4, 8, 3, rows), ".png"),  # a palette image without a palette
        (png(32, 4, 8, 3, rows, chunk(b"PLTE", bytes(3))), ".png"),
        (png(32, 4, 8, 0, rows, chunk(b"cICP", bytes(4)), chunk(b"gAMA", bytes(4)), chunk(b"iCCP", b"x")), ".png"),
        (png(32, 4, 8, 0, rows, chunk(b"tEXt", b"\0"), chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff")), ".png"),
        (png(32, 4, 8, 0, rows, chunk(b"acTL", struct.pack(">II", 5, 0))), ".png"),
        (png(60000, 60000, 8, 2, b""), ".png"),
        (png(0, 4, 8, 0, b""), ".png"),
        (png(32, 4, 8, 0, rows[:50]), ".png"),
        (png(32, 4, 3, 9, rows), ".png"),
        (b"II*\0\x08\0\0\0\xff\xff", ".tif"),
        (b"RIFF\x20\0\0\0WEBPVP8 " + bytes(20), ".webp"),
        (b"\xff\xd8\xff\xe1\xff\xff" + bytes(50), ".jpg"),
        (b"GIF89a\x10\0\x10\0\x80\0\0", ".gif"),
        (b"BM" + bytes(60), ".bmp"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ".svg"),
    ]
    return kinds[rng.integers(len(kinds))]


def damage(rng, data):
    """The file with some of it wrong, lost, or too much."""
    data = bytearray(data)
    kind = rng.integers(4)
    if kind == 0 and data:
        for position in rng.integers(0, len(data), rng.integers(1, 6)):
            data[position] = rng.integers(256)
    elif kind == 1:
        del data[rng.integers(0, len(data) + 1) :]
    elif kind == 2:
        data += rng.bytes(50)
    else:
        start = rng.integers(0, len(data) + 1)
        del data[start : start + rng.integers(0, 30)]
    return bytes(data)


def write(folder, rng):
    """Write a file of a random kind under a random name; returns its path. A third of them is damaged."""
    data, suffix = raw_kinds(rng) if rng.integers(3) == 0 else encode(rng)
    if rng.integers(3) == 0:
        data = damage(rng, data)
    path = folder / f"{NAMES[rng.integers(len(NAMES))]}{suffix if rng.integers(5) else '.png'}"
    path.write_bytes(data)
    return path
