"""Any image file <-> pixels: 8-bit grey, RGB and palette images of any size, with or without alpha, and metadata."""

import contextlib
import io
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

from utils import metadata, png
from utils.errors import UserError

MODES = ("L", "RGB", "P")
CHANNELS = {"L": 1, "RGB": 3, "P": 1}
MAX_PIXELS = 1 << 27  # bounds the memory that an image can ask for
WEBP_SIDE = 16383  # the longest side of a WebP image, in pixels
ORIENTATION = 0x0112  # in EXIF data
# What Pillow may open. Left out are formats that it passes to other programs (EPS) or that may hold no pixels.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# Pillow turns a TIFF image as its orientation says. This turns it back.
_TURN_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
# Pillow's remarks on damaged metadata, which are checked here, and on images that are large; MAX_PIXELS is the limit.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # the limit is MAX_PIXELS, which all who open images check before they decode
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 26  # a long comment is no damage


class Picture(NamedTuple):
    """An image, with everything that makes it up."""

    mode: str  # one of MODES
    pixels: np.ndarray  # uint8 [H, W, C]; C = 3 for RGB, else 1
    palette: bytes = b""  # of mode P: red, green and blue of every entry
    alpha: np.ndarray | None = None  # uint8 [H, W, 1]; of mode L or RGB
    # Without an alpha plane, what a PNG file's tRNS chunk says: of mode P the alpha of the first entries, else the one
    # grey level or colour that is transparent, 2 bytes a channel.
    transparency: bytes = b""
    metadata: tuple[png.Chunk, ...] = ()  # chunks of a PNG file, of png.METADATA

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def kind(self) -> str:
        """The mode, with an A if there is an alpha plane."""
        return self.mode + ("" if self.alpha is None else "A")

    @property
    def dims(self) -> int:
        """Number of values: of all channels, alpha included, of all pixels."""
        return self.pixels.size + (0 if self.alpha is None else self.alpha.size)

    @property
    def raw_bytes(self) -> int:
        """Bytes of the pixels, the palette, and what is transparent."""
        return self.dims + len(self.palette) + len(self.transparency)


def read(path: str | Path, pixels_only: bool = False) -> Picture:
    """Read an image file of one of FORMATS: a Picture. A note on stdout names what of its metadata is not kept.

    pixels_only: without metadata, and without the note.
    Raises UserError if it is no image, or not one of 8-bit grey, RGB or palette.
    """
    try:
        with opened(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{path} is too large: images of over {MAX_PIXELS:,} pixels are not coded")
            if reason := refusal(image):
                kinds = "8-bit grey, RGB and palette images, with or without alpha,"
                raise UserError(f"{path} {reason}; only {kinds} are coded: convert it first")
            kept, lost = ((), []) if pixels_only else metadata.collect(path, image)
            picture = from_pillow(_load(image))._replace(metadata=kept)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # damage makes Pillow raise nearly any exception
        damage = "it is damaged, or not a JPEG, PNG, WebP, TIFF, BMP, GIF or PPM image"
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or damage}") from error
    if lost:
        print(f"Note: not kept of {path}: {', '.join(lost)}")
    return picture


@contextlib.contextmanager
def opened(path: str | Path, formats: tuple[str, ...] = FORMATS) -> Iterator[ImageFile.ImageFile]:
    """An image file as Pillow opens it, for all who read images: its checksums are right, nothing is decoded yet.

    Raises OSError, or nearly anything, if it is damaged or of another format.
    """
    with open(path, "rb") as file:
        is_png = file.read(len(png.SIGNATURE)) == png.SIGNATURE
        source = _without_metadata(file) if is_png else file
        source.seek(0)
        with Image.open(source, formats=formats) as image:
            yield image


def _without_metadata(file: IO[bytes]) -> IO[bytes]:
    """A PNG file without the chunks that do not concern its pixels: damage in those does not matter.

    Pillow's decoding alone does not look at the checksums of the pixels.
    """
    found, depth, grey = io.BytesIO(), 8, False
    found.write(png.SIGNATURE)
    for kind, data, right in png.chunks(file):
        if kind[0] & 32 and kind not in (b"tRNS", b"acTL", b"fcTL", b"fdAT"):
            continue
        if not right:
            raise ValueError(f"a wrong checksum in the chunk {kind!r}")
        if kind == b"IHDR" and len(data) == 13:
            depth, grey = data[8], data[9] == 0
        if kind == b"tRNS" and grey and depth < 8:  # Pillow scales the pixels, but not this
            data = (int.from_bytes(data, "big") * 255 // ((1 << depth) - 1)).to_bytes(4, "big")[2:]
        found.write(png.frame(kind, data))
    return found


def refusal(image: Any, transparent: bool = True) -> str | None:
    """Why an opened Pillow image is not one 8-bit image, grey, RGB or palette; None if it is.

    transparent: whether it may have an alpha channel or transparent pixels.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return "has more than 8 bits a pixel"
    if re.search(r"'(L|LA|RGB|RGBA|RGBX|RGBa);16", repr(image.tile)) or _ppm_maximum(image) > 255:
        return "has 16 bits a channel"  # Pillow reads the upper 8
    if "'RGBa" in repr(image.tile):
        return "has colours that are multiplied by alpha"  # Pillow divides them, and rounds
    if image.mode not in (*MODES, "LA", "RGBA"):
        return f"is of mode {image.mode}"
    if not transparent and image.has_transparency_data:
        return "has transparent pixels"
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        if image.tag_v2.get(254, 0) & 1:
            return "begins with a reduced copy of its image"
        if 2 in image.tag_v2.get(339, ()):
            return "has signed pixels"
    # The further frames of an MPO file, as cameras and telephones write it, are previews of the first.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        return f"holds {image.n_frames} images"
    if image.format == "PPM" and image.tile[0].codec_name == "raw":
        image.fp.seek(metadata.ppm_end(image))
        if image.fp.read(1) == b"P":
            return "holds several images"
    return None


def _ppm_maximum(image):
    arguments = image.tile[0][3] if image.format == "PPM" and image.tile else ()
    return arguments[-1] if isinstance(arguments, tuple) and arguments and isinstance(arguments[-1], int) else 255


def _load(image: ImageFile.ImageFile) -> Image.Image:
    """The image with its pixels as they are stored."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        image.load()
        return image
    tags = image.tag_v2
    turn, colours = _TURN_BACK.get(tags.get(ORIENTATION, 1)), tags.get(320, ())
    image.load()
    if image.mode == "P" and max(colours) < 256:  # Pillow expects 16 bits, and would make it black
        image.putpalette(bytes(np.array(colours, np.uint8).reshape(3, -1).T.ravel()))
    return image if turn is None else image.transpose(turn)


def from_pillow(image: Image.Image) -> Picture:
    """A Pillow image of mode L, RGB or P, LA or RGBA as a Picture, without metadata."""
    pixels = np.atleast_3d(np.array(image))
    if image.mode in ("LA", "RGBA"):
        return Picture(image.mode[:-1], pixels[..., :-1].copy(), alpha=pixels[..., -1:].copy())
    transparency, palette = image.info.get("transparency"), b""
    if image.mode == "P":
        palette = bytes(image.getpalette("RGB") or ())
        # Pixels may point beyond the palette, to black; a PNG file cannot hold that.
        palette += bytes(max(0, 3 * (int(pixels.max()) + 1) - len(palette)))
        if isinstance(transparency, int):
            transparency = b"\xff" * transparency + b"\0"
        transparency = (transparency or b"")[: len(palette) // 3]
    elif transparency is not None:
        values = transparency if isinstance(transparency, tuple) else (transparency,)
        transparency = struct.pack(f">{len(values)}H", *values)
    return Picture(image.mode, pixels, palette, transparency=transparency or b"")


def to_pillow(picture: Picture) -> Image.Image:
    """The inverse of from_pillow()."""
    pixels = picture.pixels
    if picture.alpha is not None:
        pixels = np.concatenate((pixels, picture.alpha), axis=2)
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    if picture.mode == "P":
        image.putpalette(picture.palette)  # turns a grey image into one of mode P
    if picture.transparency:
        image.info["transparency"] = picture.transparency
        if picture.mode != "P":
            values = struct.unpack(f">{CHANNELS[picture.mode]}H", picture.transparency)
            image.info["transparency"] = values if picture.mode == "RGB" else values[0]
    return image


def to_png(picture: Picture) -> bytes:
    """The bytes of a PNG file with everything that makes up a picture."""
    file = io.BytesIO()
    to_pillow(picture).save(file, format="PNG")
    return png.insert(file.getvalue(), picture.metadata)


def same(a: Picture, b: Picture) -> bool:
    """Whether two pictures are equal in everything."""
    alpha, other = (np.empty(0) if each.alpha is None else each.alpha for each in (a, b))
    equal = (a.mode, a.palette, a.transparency, a.metadata) == (b.mode, b.palette, b.transparency, b.metadata)
    return equal and np.array_equal(a.pixels, b.pixels) and np.array_equal(alpha, other)
