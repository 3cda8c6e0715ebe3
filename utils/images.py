"""Any image file <-> pixels: 8-bit grey, RGB and palette images, of any size."""

import contextlib
import os
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

from utils.cli import UserError

MODES = ("L", "RGB", "P")
CHANNELS = {"L": 1, "RGB": 3, "P": 1}
MAX_PIXELS = 1 << 27  # bounds the memory that an image can ask for
WEBP_SIDE = 16383  # the longest side of a WebP image, in pixels
ORIENTATION = 0x0112  # in EXIF data
# What Pillow may open: not what it would hand on to other programs (EPS), nor what need not be an image of pixels.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


# What a file may hold beside its pixels, in words: PNG's chunks, TIFF's tags, and Pillow's names for that of any file.
_CHUNKS = {
    **dict.fromkeys((b"tEXt", b"zTXt", b"iTXt"), "comments"),
    **dict.fromkeys((b"mDCV", b"mDCv", b"cLLI", b"cLLi"), "HDR metadata"),
    b"iCCP": "colour profile", b"gAMA": "gamma", b"cHRM": "chromaticities", b"cICP": "colour space (cICP)",
    b"eXIf": "EXIF data",
}  # fmt: skip
_TAGS = {
    **dict.fromkeys((270, 305, 315, 33432), "comments"),
    338: "extra samples", 700: "XMP data", 34665: "EXIF data", 34675: "colour profile",
}  # fmt: skip
_INFO = {"icc_profile": "colour profile", "exif": "EXIF data", "comment": "comments", "xmp": "XMP data"}


# Pillow's remarks on damaged metadata, which are not kept.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # the limit is MAX_PIXELS, which all who open images check before they decode
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 26  # a long comment is no damage


class Picture(NamedTuple):
    """An image, with everything that makes it up."""

    mode: str  # one of MODES
    pixels: np.ndarray  # uint8 [H, W, C]; C = 3 for RGB, else 1
    palette: bytes = b""  # of mode P: red, green and blue of every entry

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def raw_bytes(self) -> int:
        """Bytes of the pixels and the palette."""
        return self.pixels.size + len(self.palette)


def read(path: str | Path) -> Picture:
    """Read an image file of one of FORMATS: a Picture. Pixels only; a note on stdout lists what else the file holds.

    Raises UserError where it is no image, or not one of 8-bit grey, RGB or palette, saying how to convert it.
    """
    try:
        with opened(path) as image:
            _check_image(path, image)
            image.load()  # here, where damage shows: Pillow would not tell a second time
            _note_metadata(path, image)
            return from_pillow(image)
    except UserError:
        raise
    except OSError as error:
        reason = error.strerror or "it is damaged, or not a JPEG, PNG, WebP, TIFF, BMP, GIF or PPM image"
        raise UserError(f"{path} cannot be read: {reason}") from None
    except Exception as error:  # Pillow's readers raise whatever the damage happens to provoke
        raise UserError(f"{path} cannot be read: it is damaged ({type(error).__name__}: {error})") from None


@contextlib.contextmanager
def opened(path: str | Path, formats: tuple[str, ...] = FORMATS) -> Iterator[ImageFile.ImageFile]:
    """An image file as Pillow opens it, for all who read images: its checksums are right, nothing is decoded yet.

    Raises OSError, or nearly anything, where it is damaged or of another format.
    """
    with open(path, "rb") as file:
        with Image.open(file, formats=formats) as image:
            if image.format == "PNG" and image.tile:  # a file without pixels has nothing to verify
                image.verify()  # Pillow's decoding alone does not look at the checksums of the pixels
        file.seek(0)
        with Image.open(file, formats=formats) as image:
            yield image


def _note_metadata(path, image):
    """Print what an image file holds beside the pixels, as it is not kept."""
    with contextlib.suppress(Exception):  # metadata may be damaged in any way
        if image.getexif().get(ORIENTATION, 1) != 1:
            print(f"Note: the EXIF data of {path} say to turn it for display; the pixels are coded as they are stored")
    found = []
    with contextlib.suppress(Exception):
        found = metadata(path, image)
    if found:
        print(f"Note: not kept of {path}, pixels only: {', '.join(found)}")


def metadata(path: str | Path, image: Image.Image) -> list[str]:
    """What an image file holds beside the pixels, in words, each once. image: the same, opened with Pillow."""
    found = [name for key, name in _INFO.items() if image.info.get(key)]
    if image.format == "PNG":
        found += [_CHUNKS[kind] for kind in _chunks(path) if kind in _CHUNKS]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        found += [name for tag, name in _TAGS.items() if tag in image.tag_v2]
    if (others := getattr(image, "n_frames", 1) - 1) > 0:
        found.append(f"{others} further image{'s' * (others > 1)}")
    return list(dict.fromkeys(found))


def _chunks(path):
    """Generate the types (bytes) of a PNG file's chunks."""
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            yield head[4:]
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)


def _check_image(path, image):
    """Raise UserError where an opened Pillow image is not to be coded, with a conversion that keeps what it shows."""
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{path} is {image.width}x{image.height}: images of over {MAX_PIXELS:,} pixels are not coded")
    if found := unsuitable(image):
        what, conversion = found
        code = f"from PIL import Image; image = Image.open({str(path)!r}); {conversion}.save('converted.png')"
        raise UserError(f"{path} {what}; only 8-bit grey, RGB and palette images are coded. Convert it: "
                        f"python -c {shlex.quote(code)}")  # fmt: skip


def unsuitable(image: Any) -> tuple[str, str] | None:
    """Why an opened Pillow image is not one of 8-bit grey, RGB or palette without transparency, and its conversion.

    Returns (what it is, Python that makes a Pillow image of `image`), or None where it is suitable.
    """
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips instead of scaling. White is 65535 in a PNG file, and in a PGM file as Pillow reads it; other
        # files do not say reliably (12 bits in 16, floats of any range): the largest value there is becomes white.
        what = {"I": "has over 8 bits a pixel", "F": "is of mode F"}.get(image.mode, "has 16 bits a pixel")
        white = "65535" if image.format in ("PNG", "PPM") else "(a.max() or 1)"
        scale = f"Image.fromarray((a * 255 / {white}).round().astype(np.uint8))"
        return what, f"import numpy as np; a = np.asarray(image, float).clip(0); {scale}"
    if "RGB;16" in repr(image.tile) or (image.format == "PPM" and _ppm_maximum(image) > 255):
        return "has 16 bits a channel", "image"  # Pillow reads the upper 8
    if image.mode not in MODES and image.has_transparency_data:
        return "has an alpha channel", "image.convert('RGB')"
    if image.mode not in MODES:
        return f"is of mode {image.mode}", "image.convert('L')" if image.mode == "1" else "image.convert('RGB')"
    if image.has_transparency_data:
        return "has transparent pixels", "image.convert('RGBA').convert('RGB')"
    # The further frames of an MPO file, as cameras and telephones write it, are previews of the first.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        each = f"[(image.seek(i), image.convert('RGB').save(f'frame{{i}}.png')) for i in range({image.n_frames})]"
        return f"holds {image.n_frames} images", f"{each}; image.seek(0); image.convert('RGB')"
    return None


def _ppm_maximum(image):
    arguments = image.tile[0][3]
    return arguments[-1] if isinstance(arguments, tuple) and isinstance(arguments[-1], int) else 255


def from_pillow(image: Image.Image) -> Picture:
    """A Pillow image of one of MODES as a Picture."""
    pixels = np.atleast_3d(np.array(image))
    palette = b""
    if image.mode == "P":
        palette = bytes(image.getpalette("RGB") or ())
        # Pixels may point beyond the palette, to black; a PNG file cannot hold that.
        palette += bytes(max(0, 3 * (int(pixels.max()) + 1) - len(palette)))
    return Picture(image.mode, pixels, palette)


def to_pillow(picture: Picture) -> Image.Image:
    """The inverse of from_pillow()."""
    image = Image.fromarray(picture.pixels.squeeze(2) if picture.pixels.shape[2] == 1 else picture.pixels)
    if picture.mode == "P":
        image.putpalette(picture.palette)  # turns a grey image into one of mode P
    return image


def same(a: Picture, b: Picture) -> bool:
    """Whether two pictures are equal in everything."""
    return a.mode == b.mode and a.palette == b.palette and np.array_equal(a.pixels, b.pixels)
