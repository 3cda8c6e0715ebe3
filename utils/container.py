"""The .bitswap file: any 8-bit grey, RGB or palette image, of any size, without cropping.

Whole square blocks of the image are coded by Bit-Swap, side by side in lanes (utils.bitsback). What is left, the
strips at the right and the bottom and as many blocks as it takes, is coded by conventional means, and those bytes
are the initial bits of the lanes: the decoder finds them on the stacks once it has taken all blocks off, so that
nothing is sent in vain. An image of which Bit-Swap would make more than another format does, that has no whole
block, or whose channels are not the model's is coded by conventional means altogether.

A file, integers little-endian, "number" a base-128 integer with its least significant 7 bits first:

    4 bytes   magic
    1         format version
    2         length of the header, from the magic to the header's CRC
    1         mode: 0 grey, 1 RGB, 2 palette
    numbers   width, height and, for a palette image only, the entries of the palette
    4         CRC-32 of mode, size, palette and pixels: see _crc()
    4         CRC-32 of the payload
    1         parts coded conventionally, then for each: 1 byte for how (CODERS) and its length in bytes, a number
    1         side of a block, 0 where there are none, which ends the header but for its CRC
    numbers   blocks, lanes and, for each lane, its 32-bit words
    1         quantbits
    8 + 8     identities of the networks, which are a checkpoint or its exact form (model.exact), and of the bins
    1         arithmetic: an index into ARITHMETICS
    number    threads, then 1 byte for the length of a text, ASCII: the other settings that decide how floats round;
              1 and no text where the arithmetic is that of integers
    4         CRC-32 of the header up to here
    the rest  payload: the words of one lane after the other; without blocks, the bytes of one part after the other

The blocks are the first of the image in raster order, dealt to the lanes in turn. For the parts see regions().
"""

import contextlib
import functools
import io
import lzma
import math
import os
import platform
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

import discretization
from model import exact as model_exact
from utils import benchmarks, bitsback, checkpoints
from utils.cli import UserError
from utils.colour import add_green, subtract_green
from utils.rans import EmptyLaneError, Rans
from utils.torch.modules import fold_weight_norm

MAGIC = b"\x89BSW"
VERSION = 2
MODES = ("L", "RGB", "P")
CHANNELS = {"L": 1, "RGB": 3, "P": 1}
FLOAT_CPU, FLOAT_GPU, INTEGERS = 0, 1, 2
ARITHMETICS = ("float32 on the CPU", "float32 on a GPU", "integers")  # what the networks compute in
DATASET = "imagenetcrop"  # whose checkpoints code blocks
MAX_PIXELS = 1 << 27  # bounds the memory that a file, or an image, can ask for
MAX_LANES, MAX_THREADS = 1024, 256
OVERHEAD = 64  # no file is more bytes than this larger than the raw pixels
WEBP_SIDE = 16383  # the longest side of a WebP image
_ATTEMPTS = 4  # at finding how many initial bits the lanes need
CHOICES = ("auto", "smallest", "bitswap")  # of encode()
ORIENTATION = 0x0112  # in EXIF data
# What Pillow may open: not what it would hand on to other programs (EPS), nor what need not be an image of pixels.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


class ContainerError(UserError):
    """Bytes that are not a sound .bitswap file, or cannot be decoded here; the message says why."""


class Picture(NamedTuple):
    """An image as the container sees it."""

    mode: str  # one of MODES
    pixels: np.ndarray  # uint8 [H, W, C]; C = 3 for RGB, else 1
    palette: bytes = b""  # of mode P: red, green and blue of every entry

    @property
    def raw_bytes(self):
        return self.pixels.size + len(self.palette)


class Codec(NamedTuple):
    """A model with its bins, ready to code, and what it takes to name them."""

    conditional: bitsback.Conditionals
    nz: int
    quantbits: int
    networks: str  # identities: 16 hexadecimal digits
    bins: str
    arithmetic: int


class Header(NamedTuple):
    """What a file says of itself. The defaults are those of a file without Bit-Swap blocks."""

    mode: str
    width: int
    height: int
    entries: int  # of the palette
    crc: int  # of the picture
    payload_crc: int
    parts: tuple  # (index into CODERS, bytes) of each part
    side: int = 0  # of a block
    blocks: int = 0
    words: tuple = ()  # of each lane
    quantbits: int = 0
    networks: str = ""
    bins: str = ""
    arithmetic: int = 0
    threads: int = 1
    settings: str = ""


# Images


def read(path):
    """Read an image file of one of FORMATS: a Picture. Pixels only: no metadata, and EXIF's orientation unheeded.

    Raises UserError where it is no image, or not one of 8-bit grey, RGB or palette, saying how to convert it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is MAX_PIXELS
            with Image.open(path, formats=FORMATS) as image:
                _check_image(path, image)
                image.load()  # here, where damage shows: Pillow would not tell a second time
                with contextlib.suppress(Exception):  # metadata may be damaged in any way; they are not kept
                    if image.getexif().get(ORIENTATION, 1) != 1:
                        print(f"Note: the EXIF data of {path} say to turn it for display; the pixels are coded as "
                              "they are stored, and EXIF data not at all")  # fmt: skip
                return from_pillow(image)
    except UserError:
        raise
    except OSError as error:
        reason = error.strerror or "it is damaged, or not a JPEG, PNG, WebP, TIFF, BMP, GIF or PPM image"
        raise UserError(f"{path} cannot be read: {reason}") from None
    except Exception as error:  # Pillow's readers raise whatever the damage happens to provoke
        raise UserError(f"{path} cannot be read: it is damaged ({type(error).__name__}: {error})") from None


def _check_image(path, image):
    """Raise UserError where an opened Pillow image is not one of 8-bit grey, RGB or palette without transparency."""

    def refuse(what, conversion=".convert('RGB')"):
        code = f"from PIL import Image; Image.open({str(path)!r}){conversion}.save('converted.png')"
        raise UserError(f"{path} {what}; only 8-bit grey, RGB and palette images are coded. Convert it: "
                        f"python -c {_quote(code)}")  # fmt: skip

    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{path} is {image.width}x{image.height}: images of over {MAX_PIXELS:,} pixels are not coded")
    if image.mode.startswith("I;16"):
        refuse("has 16 bits a pixel", ".point(lambda v: v / 256).convert('L')")
    if "RGB;16" in repr(image.tile) or (image.format == "PPM" and _ppm_maximum(image) > 255):
        refuse("has 16 bits a channel", "")  # Pillow reads the upper 8
    if image.mode not in MODES and image.has_transparency_data:
        refuse("has an alpha channel")
    if image.mode not in MODES:
        refuse(f"is of mode {image.mode}", ".convert('L')" if image.mode in ("1", "I", "F") else ".convert('RGB')")
    if image.has_transparency_data:
        refuse("has transparent pixels", ".convert('RGBA').convert('RGB')")
    # The further frames of an MPO file, as cameras and telephones write it, are previews of the first.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        refuse(f"holds {image.n_frames} images")


def _ppm_maximum(image):
    arguments = image.tile[0][3]
    return arguments[-1] if isinstance(arguments, tuple) and isinstance(arguments[-1], int) else 255


def _quote(code):
    return '"' + code.replace('"', '\\"') + '"'


def from_pillow(image):
    """A Pillow image of one of MODES as a Picture."""
    pixels = np.atleast_3d(np.array(image))
    palette = b""
    if image.mode == "P":
        palette = bytes(image.getpalette("RGB") or ())
        # Pixels may point beyond the palette, to black; a PNG file cannot hold that.
        palette += bytes(max(0, 3 * (int(pixels.max()) + 1) - len(palette)))
    return Picture(image.mode, pixels, palette)


def to_pillow(picture):
    """The inverse of from_pillow()."""
    image = Image.fromarray(picture.pixels.squeeze(2) if picture.pixels.shape[2] == 1 else picture.pixels)
    if picture.mode == "P":
        image.putpalette(picture.palette)  # turns a grey image into one of mode P
    return image


def read_file(path):
    """The bytes of a .bitswap file; of another, or a very large one, only so much as it takes to tell.

    Raises UserError where it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(len(MAGIC))
            return data + file.read(3 * MAX_PIXELS + 1024) if data == MAGIC else data
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def same(a, b):
    """Whether two pictures are equal in everything."""
    return a.mode == b.mode and a.palette == b.palette and np.array_equal(a.pixels, b.pixels)


def _crc(picture):
    """CRC-32 of everything that makes up a picture."""
    height, width, _ = picture.pixels.shape
    start = zlib.crc32(f"{picture.mode} {width}x{height}".encode() + picture.palette)
    return zlib.crc32(np.ascontiguousarray(picture.pixels), start)


# Conventional coders


class Coder(NamedTuple):
    """A way to code a rectangle of pixels without a model."""

    name: str
    encode: Callable  # (uint8 [H, W, C]) -> bytes, or None where it cannot
    decode: Callable  # (bytes, shape) -> uint8 [H, W, C]; raises nearly anything where the bytes are not sound


def _raw_encode(part):
    return part.tobytes()


def _raw_decode(data, shape):
    return np.frombuffer(data, np.uint8).reshape(shape)


# The dictionary, and so the memory it takes to decode, is of this size whatever a file says.
_LZMA = {"format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 23}]}


def _lzma_encode(part, axes):
    """LZMA of differences along the axes given; if any, of red and blue relative to green."""
    if axes and part.shape[2] == 3:
        part = np.moveaxis(subtract_green(np.moveaxis(part, 2, 0)), 0, 2)
    for axis in axes:
        part = np.diff(part, axis=axis, prepend=np.uint8(0))  # modulo 256
    return lzma.compress(part.tobytes(), **_LZMA)


def _lzma_decode(data, shape, axes):
    decompressor = lzma.LZMADecompressor(**_LZMA)
    flat = decompressor.decompress(data, math.prod(shape) + 1)  # one more, so that too much shows
    if decompressor.unused_data or not decompressor.eof:
        raise ValueError("an LZMA stream of another length")
    part = np.frombuffer(flat, np.uint8).reshape(shape)
    for axis in axes:
        part = np.cumsum(part, axis=axis, dtype=np.uint8)
    if axes and shape[2] == 3:
        part = np.moveaxis(add_green(np.moveaxis(part, 2, 0)), 0, 2)
    return part


# A lossless WebP file is a header of 20 bytes, which follows from the length of what it is a header for, and the
# VP8L bitstream, padded to an even length. Only the latter is kept.
_WEBP_HEADER = struct.Struct("<4sI8sI")


def _webp_encode(part):
    if max(part.shape[:2]) > WEBP_SIDE:
        return None
    file = benchmarks.encode(part, "WEBP", lossless=True)
    _, _, kind, length = _WEBP_HEADER.unpack_from(file)
    return file[_WEBP_HEADER.size :][:length] if kind == b"WEBPVP8L" else None


def _webp_decode(data, shape):
    # The size is read here, for Pillow takes the memory before it tells: a byte 0x2f, width - 1 and height - 1.
    fields = int.from_bytes(data[1:5], "little")
    if data[:1] != b"\x2f" or (1 + (fields >> 14 & 0x3FFF), 1 + (fields & 0x3FFF)) != shape[:2]:
        raise ValueError("a WebP bitstream of another size")
    padded = data + bytes(len(data) % 2)
    file = _WEBP_HEADER.pack(b"RIFF", 12 + len(padded), b"WEBPVP8L", len(data)) + padded
    with Image.open(io.BytesIO(file), formats=["WEBP"]) as image:
        return np.asarray(image.convert("RGB"))[..., : shape[2]]


CODERS = (
    Coder("raw", _raw_encode, _raw_decode),
    Coder("LZMA", *(functools.partial(half, axes=()) for half in (_lzma_encode, _lzma_decode))),
    Coder("LZMA", *(functools.partial(half, axes=(1,)) for half in (_lzma_encode, _lzma_decode))),
    Coder("LZMA", *(functools.partial(half, axes=(1, 0)) for half in (_lzma_encode, _lzma_decode))),
    Coder("WebP", _webp_encode, _webp_decode),
)
_LZMA_MOST = 1 << 20  # bytes of a part up to which LZMA, which is slow, is tried beside WebP, which is mostly better


def _encode_part(part):
    """The shortest encoding of uint8 [H, W, C]: (index into CODERS, bytes)."""
    found = {}
    for i, coder in reversed(list(enumerate(CODERS))):
        if coder.name != "LZMA" or part.size <= _LZMA_MOST or len(CODERS) - 1 not in found:
            found[i] = coder.encode(part)
            if found[i] is None:
                del found[i]
    return min(found.items(), key=lambda item: len(item[1]))


def regions(width, height, side, blocks):
    """What is left of an image without its first `blocks` blocks of side x side pixels in raster order.

    Returns the rectangles that are not empty, as pairs of slices (rows, columns): right of the rows of blocks, right
    of the last block where that row is not full, and everything below.
    """
    if not blocks:
        return [(slice(0, height), slice(0, width))]
    across = width // side
    rows, rest = divmod(blocks, across)
    lower, bottom = side * rows, side * (rows + (rest > 0))
    found = [
        (slice(0, lower), slice(side * across, width)),
        (slice(lower, bottom), slice(side * rest, width)),
        (slice(bottom, height), slice(0, width)),
    ]
    return [(y, x) for y, x in found if y.start < y.stop and x.start < x.stop]


def _encode_parts(picture, side=0, blocks=0):
    """Everything but the blocks: a list of (index into CODERS, bytes), a palette first."""
    height, width, _ = picture.pixels.shape
    parts = [picture.pixels[region] for region in regions(width, height, side, blocks)]
    if picture.mode == "P":
        parts.insert(0, np.frombuffer(picture.palette, np.uint8).reshape(1, -1, 3))
    return [_encode_part(part) for part in parts]


def _block_of(pixels, side, k):
    """A view of block k: [side, side, C]."""
    y, x = divmod(k, pixels.shape[1] // side)
    return pixels[side * y : side * (y + 1), side * x : side * (x + 1)]


def whole_blocks(picture, side):
    """How many blocks fit into a picture."""
    height, width, _ = picture.pixels.shape
    return (width // side) * (height // side)


# The header


def _number(value):
    """A base-128 integer."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _pack(header, payload):
    """The bytes of a file. header: its payload_crc is filled in."""
    parts = [struct.pack("<B", MODES.index(header.mode)), _number(header.width), _number(header.height)]
    parts += [_number(header.entries)] if header.mode == "P" else []
    parts += [struct.pack("<IIB", header.crc, zlib.crc32(payload), len(header.parts))]
    parts += [bytes([coder]) + _number(length) for coder, length in header.parts]
    parts += [bytes([header.side])]
    if header.side:
        parts += [_number(value) for value in (header.blocks, len(header.words), *header.words)]
        parts += [bytes([header.quantbits]), bytes.fromhex(header.networks), bytes.fromhex(header.bins)]
        parts += [bytes([header.arithmetic]), _number(header.threads)]
        parts += [bytes([len(header.settings)]), header.settings.encode("ascii")]
    body = b"".join(parts)
    start = len(MAGIC) + 3
    head = MAGIC + struct.pack("<BH", VERSION, start + len(body) + 4) + body
    return head + struct.pack("<I", zlib.crc32(head)) + payload


def unpack(data):
    """Take a file apart: (Header, payload).

    Raises ContainerError where the header or the payload is damaged, does not hold together or asks for too much.
    """
    start = len(MAGIC) + 3
    if len(data) < start or data[: len(MAGIC)] != MAGIC:
        raise ContainerError("not a .bitswap file")
    version, length = struct.unpack_from("<BH", data, len(MAGIC))
    if version != VERSION:
        newer = "; a newer version of this program may read it" if version > VERSION else ""
        raise ContainerError(f"a .bitswap file of format {version}, where this program reads {VERSION}{newer}")
    if len(data) < length:
        raise ContainerError("cut short: the file ends within its header")
    if length < start + 4 or zlib.crc32(data[: length - 4]) != int.from_bytes(data[length - 4 : length], "little"):
        raise ContainerError("damaged: the checksum of its header is wrong")
    try:
        header = _parse(io.BytesIO(data[start : length - 4]))
    except (ValueError, struct.error) as error:
        raise ContainerError(f"its header makes no sense: {error}") from None
    payload = data[length:]
    expected = 4 * sum(header.words) if header.side else sum(length for _, length in header.parts)
    if len(payload) != expected:
        what = "cut short" if len(payload) < expected else "damaged"
        raise ContainerError(f"{what}: {len(payload):,} bytes follow its header instead of {expected:,}")
    if zlib.crc32(payload) != header.payload_crc:
        raise ContainerError("damaged: the checksum of its contents is wrong")
    return header, payload


def _parse(stream):
    """A Header from the bytes between its length and its CRC. Raises ValueError or struct.error."""

    def unpack_one(form):
        return struct.unpack(form, stream.read(struct.calcsize(form)))[0]

    def number(what, least, most):
        value = 0
        for shift in range(0, 35, 7):
            byte = unpack_one("<B")
            value |= (byte & 127) << shift
            if byte < 128:
                break
        else:
            raise ValueError(f"{what} is too long a number")
        return within(what, value, least, most)

    def within(what, value, least, most):
        if not least <= value <= most:
            raise ValueError(f"{what} is {value:,}, not {least:,} to {most:,}")
        return value

    mode = MODES[within("mode", unpack_one("<B"), 0, len(MODES) - 1)]
    width, height = number("width", 1, MAX_PIXELS), number("height", 1, MAX_PIXELS)
    within("number of pixels", width * height, 1, MAX_PIXELS)
    entries = number("size of the palette", 1, 256) if mode == "P" else 0
    crc, payload_crc = unpack_one("<I"), unpack_one("<I")
    parts = tuple(
        (within("coder", unpack_one("<B"), 0, len(CODERS) - 1), number("length of a part", 0, 4 * MAX_PIXELS))
        for _ in range(within("number of parts", unpack_one("<B"), 0, 4))
    )
    header = Header(mode, width, height, entries, crc, payload_crc, parts, side=unpack_one("<B"))
    if header.side:
        blocks = number("number of blocks", 1, (width // header.side) * (height // header.side))
        lanes = number("number of lanes", 1, min(blocks, MAX_LANES))
        header = header._replace(
            blocks=blocks,
            words=tuple(number("length of a lane", 2, 1 << 31) for _ in range(lanes)),
            quantbits=within("quantbits", unpack_one("<B"), 1, 16),
            networks=unpack_one("8s").hex(),
            bins=unpack_one("8s").hex(),
            arithmetic=within("arithmetic", unpack_one("<B"), 0, len(ARITHMETICS) - 1),
            threads=number("number of threads", 1, MAX_THREADS),
            settings=unpack_one(f"{unpack_one('<B')}s").decode("ascii"),
        )
        if not header.settings.isprintable():
            raise ValueError("its settings are not a line of text")
    if len(regions(width, height, header.side, header.blocks)) + (mode == "P") != len(parts):
        raise ValueError(f"it has {len(parts)} parts")
    if stream.read(1):
        raise ValueError("it is too long")
    return header


# Bit-Swap blocks


def open_codec(path, device="cpu", exact=True, quantbits=10, wanted=None):
    """A Codec of the checkpoint at path, with the bins beside it or, where there are none, cached or made.

    exact: whether to compute with its exact form (model.exact), in integers, or in floats. An exact form is made where
    there is none, which takes the training set. wanted: the identity of the networks that a file names; then no exact
    form is made, and for networks of another identity nothing at all: None is returned.
    Raises UserError where it is not a checkpoint that can code blocks, or has no exact form.
    """
    model, identity = checkpoints.load(path, device)
    if model.xs[1] != model.xs[2] or model.xs[0] not in CHANNELS.values():
        raise UserError(f"{path} is for images of shape {model.xs}, not for square blocks of grey or RGB pixels")
    networks = None
    if exact:
        choose = model_exact.find if wanted else model_exact.for_checkpoint
        networks = choose(path, model, identity, DATASET)
        if networks is None:
            raise model_exact.NoExactFormError(
                f"{path} has no exact form; make it with model/exact.py {DATASET} --checkpoint {path}"
            )
    if wanted not in (None, networks.identity if exact else identity):
        return None
    ranges = discretization.for_checkpoint(path, model, identity, DATASET, quantbits)
    return codec(model, ranges, identity, networks)


def codec(model, ranges, identity, networks=None):
    """A Codec of a model, its latents' ranges (discretization.Ranges) and the identity of its parameters.

    networks: the model's ExactModel, to compute in integers.
    """
    bins = discretization.bins(model, ranges)
    if networks is not None:
        conditional = bitsback.Conditionals(networks, bins)
        return Codec(conditional, model.nz, ranges.quantbits, networks.identity, ranges.identity, INTEGERS)
    conditional = bitsback.Conditionals(fold_weight_norm(model), bins)
    arithmetic = FLOAT_CPU if conditional.device.type == "cpu" else FLOAT_GPU
    return Codec(conditional, model.nz, ranges.quantbits, identity, ranges.identity, arithmetic)


def codes_blocks(picture, channels=3, side=32):
    """Whether a picture has blocks that a model of this shape could code."""
    return picture.mode != "P" and picture.pixels.shape[2] == channels and whole_blocks(picture, side) > 0


def settings(device):
    """What decides, beside the number of threads, how the networks round: one line of ASCII."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    text = f"PyTorch {torch.__version__}, NumPy {np.__version__}, {platform.machine()} {name}"
    return text.encode("ascii", "replace").decode()[:255]


@contextlib.contextmanager
def _threads(count):
    """Let PyTorch compute with so many threads; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _schedule(codec):
    """How blocks are coded."""
    return bitsback.whitened(bitsback.bitswap(codec.nz))


def _trial(codec, blocks):
    """What blocks, uint8 [n, C, side, side], each in a lane of its own, cost: two arrays [n] of 32-bit words.

    They are the words that each adds to its lane, and the depth to which it takes words off the lane before.
    """
    count = sum(codec.conditional.dims[1:]) + 2  # no pop takes more than a word
    coder = Rans.from_words(np.random.default_rng(0).integers(1, 1 << 32, (len(blocks), count), np.uint32))
    before, least = coder.counts.copy(), coder.counts.copy()
    known = {0: codec.conditional.to_symbols(blocks)}
    for step in _schedule(codec):
        bitsback.run([step], coder, codec.conditional, known, len(blocks))
        least = np.minimum(least, coder.counts)
    return coder.counts - before, before - least


def _plan(picture, side, need, lanes, block_words):
    """Choose what to code conventionally so that its bytes can start the lanes.

    need: words that each lane starts from. lanes: as many are wanted. block_words: about what a block takes.
    Moves up to an eighth of the blocks, the last ones, to the conventional part to have all the lanes; more only
    to have one. Returns (blocks, lanes, parts as of _encode_parts()), or None where it takes all blocks.
    """
    whole = whole_blocks(picture, side)
    affordable = whole // 8
    moved = 0
    while moved < whole:
        parts = _encode_parts(picture, side, whole - moved)
        words = sum(len(data) for _, data in parts) // 4
        wanted = need * (lanes if moved < affordable else 1)
        if words >= wanted:
            return whole - moved, min(lanes, words // need, whole - moved), parts
        step = max(1, math.ceil((wanted - words) / block_words))
        moved = min(moved + step, affordable) if moved < affordable else moved + max(step, whole // 16)
    return None


def _lane_starts(data, lanes):
    """The words that the lanes start from, a list of uint32 arrays, made of the conventional part's bytes.

    On top of each is a 1, the head's upper half: so the head is what it must be, 2^32 at least, and holds 32 bits.
    """
    words = np.frombuffer(data + bytes(-len(data) % 4), "<u4")
    return [np.append(part, np.uint32(1)) for part in np.array_split(words, lanes)]


def _encode_blocks(picture, codec, lanes, most, progress):
    """A file with Bit-Swap blocks, or None where there cannot be one, or it would be clearly over `most` bytes."""
    side = codec.conditional.xs[-1]
    whole = whole_blocks(picture, side)

    floats = {}
    if codec.arithmetic != INTEGERS:
        threads = min(torch.get_num_threads(), MAX_THREADS)
        floats = {"threads": threads, "settings": settings(codec.conditional.device)}

    def block(k):
        return np.moveaxis(_block_of(picture.pixels, side, k), 2, 0)

    sample = np.unique(np.linspace(0, whole - 1, 16, dtype=np.int64))
    words, depth = _trial(codec, np.stack([block(k) for k in sample]))
    if 4 * words.mean() * whole > 1.2 * most:
        return None
    need = int(1.1 * depth.max()) + 16
    # With a lane for every block there would be most to start, with a single one coding would take longest.
    lanes = min(lanes or min(64, math.isqrt(whole)), MAX_LANES)
    for _ in range(_ATTEMPTS):
        plan = _plan(picture, side, need, lanes, max(1, words.mean()))
        if plan is None:
            return None
        blocks, used, parts = plan
        chains = [np.stack([block(k) for k in range(lane, blocks, used)]) for lane in range(used)]
        coder = Rans.from_words(_lane_starts(b"".join(data for _, data in parts), used))
        try:
            with _threads(floats.get("threads")):
                bitsback.encode_chains(_schedule(codec), coder, codec.conditional, chains, progress)
        except EmptyLaneError:  # a block dug deeper than those of the trial
            need = need * 5 // 4 + 16
            continue
        found = coder.to_words()
        header = _header(picture, parts)._replace(
            side=side, blocks=blocks, words=tuple(map(len, found)), quantbits=codec.quantbits,
            networks=codec.networks, bins=codec.bins, arithmetic=codec.arithmetic, **floats,
        )  # fmt: skip
        return _pack(header, np.concatenate(found).astype("<u4").tobytes())
    return None


def _header(picture, parts):
    height, width, _ = picture.pixels.shape
    sizes = tuple((coder, len(data)) for coder, data in parts)
    return Header(picture.mode, width, height, len(picture.palette) // 3, _crc(picture), 0, sizes)


def encode(picture, codec=None, coder="auto", lanes=None, progress=iter):
    """The bytes of a .bitswap file, at most OVERHEAD more than the picture's raw bytes.

    codec: a Codec, or None to do without Bit-Swap.
    coder: "auto" for Bit-Swap unless a PNG file would be smaller, "smallest" for Bit-Swap only where no conventional
    coder makes less, "bitswap" for Bit-Swap as long as it makes less than the raw pixels take.
    lanes: how many to code side by side, where the image allows; more are faster. By default a number for its size.
    progress: wraps the steps, e.g. tqdm.
    Raises UserError where the picture is too large.
    """
    height, width, _ = picture.pixels.shape
    if not 0 < height * width <= MAX_PIXELS:
        raise UserError(f"an image of {width}x{height} is not coded: it takes 1 to {MAX_PIXELS:,} pixels")
    file = None
    if codec is not None and codes_blocks(picture, codec.conditional.xs[0], codec.conditional.xs[-1]):
        if coder == "smallest":
            file = _encode_conventionally(picture)
        most = {
            "auto": lambda: len(benchmarks.encode(picture.pixels, "PNG")),
            "smallest": lambda: len(file),
            "bitswap": lambda: picture.raw_bytes + OVERHEAD,
        }[coder]()
        most = min(most, picture.raw_bytes + OVERHEAD)
        blocks = _encode_blocks(picture, codec, lanes, most, progress)
        if blocks is not None and len(blocks) <= most:
            return blocks
    return file or _encode_conventionally(picture)


def _encode_conventionally(picture):
    parts = _encode_parts(picture)
    return _pack(_header(picture, parts), b"".join(data for _, data in parts))


def decode(data, open_codec, progress=iter):
    """The Picture in the bytes of a .bitswap file, exactly as it was encoded.

    open_codec(header): the Codec to use; called only where there are Bit-Swap blocks.
    Raises ContainerError where the bytes are not sound, need another checkpoint or other bins than open_codec()
    gives, or were written under settings under which floats round in other ways than here.
    """
    header, payload = unpack(data)
    chains, verdict = None, "damaged"
    codec = open_codec(header) if header.side else None
    threads = None
    if codec is not None:
        _check_codec(header, codec)
    if codec is not None and codec.arithmetic != INTEGERS:
        threads = min(header.threads, os.cpu_count() or 1)
        # The checksums say that the file is as it was written; where it does not decode, the networks are to blame.
        verdict = (
            f"intact, but cannot be reproduced here. Its networks were computed in {_describe(header)}; here it is "
            f"{settings(codec.conditional.device)}. Where floating-point numbers round differently, decoding derails: "
            "decode it under the former settings"
        )
    try:
        if codec is not None:
            with _threads(threads):
                chains, payload = _decode_blocks(header, payload, codec, progress)
        picture = _assemble(header, chains, payload)
        if _crc(picture) != header.crc:
            raise ValueError("the checksum of the pixels is wrong")
    except Exception as error:  # random symbols provoke many things; so do Pillow and lzma, given random bytes
        detail = " ".join(str(error).split())[:200]
        raise ContainerError(f"{verdict} ({detail or type(error).__name__})") from None
    return picture


def _assemble(header, chains, data):
    """The Picture that the blocks, as of _decode_blocks(), and the bytes of the conventional parts make up."""
    channels = CHANNELS[header.mode]
    places = regions(header.width, header.height, header.side, header.blocks)
    shapes = [(y.stop - y.start, x.stop - x.start, channels) for y, x in places]
    if header.mode == "P":
        shapes.insert(0, (1, header.entries, 3))
    parts, position = [], 0
    for (coder, length), shape in zip(header.parts, shapes, strict=True):
        parts.append(CODERS[coder].decode(data[position : position + length], shape))
        position += length
    palette = parts.pop(0).tobytes() if header.mode == "P" else b""
    pixels = np.empty((header.height, header.width, channels), np.uint8)
    for place, part in zip(places, parts, strict=True):
        pixels[place] = part
    for k in range(header.blocks):
        _block_of(pixels, header.side, k)[:] = np.moveaxis(chains[k % len(chains)][k // len(chains)], 0, 2)
    return Picture(header.mode, pixels, palette)


def _describe(header):
    """The arithmetic of a header in words."""
    threads = f"{header.threads} thread" + "s" * (header.threads > 1)
    return f"{ARITHMETICS[header.arithmetic]}, {header.settings}, {threads}"


def _check_codec(header, codec):
    """Raise ContainerError where a codec is not that which a header calls for."""
    for what, wanted, found in (
        ("checkpoint", header.networks, codec.networks),
        ("number of bins", f"2^{header.quantbits}", f"2^{codec.quantbits}"),
        ("set of bins", header.bins, codec.bins),
    ):
        if wanted != found:
            raise ContainerError(f"it was written with another {what}, {wanted} where this is {found}; "
                                 "name the right one with --checkpoint, its bins beside it")  # fmt: skip
    if (header.arithmetic == INTEGERS) != (codec.arithmetic == INTEGERS):
        raise ContainerError(f"it was written with networks in {ARITHMETICS[header.arithmetic]}")
    if (codec.conditional.xs[0], codec.conditional.xs[-1]) != (CHANNELS[header.mode], header.side):
        raise ContainerError(f"its blocks do not fit the checkpoint's, of shape {codec.conditional.xs}")


def _decode_blocks(header, payload, codec, progress):
    """Undo _encode_blocks(): (each lane's blocks, uint8 [N_i, C, side, side], bytes of the conventional parts)."""
    lanes = len(header.words)
    lengths = [len(range(lane, header.blocks, lanes)) for lane in range(lanes)]
    conventional = sum(length for _, length in header.parts)
    each, more = divmod((conventional + 3) // 4, lanes)  # as np.array_split() has it
    starts = [each + (lane < more) for lane in range(lanes)]
    for words, start, length in zip(header.words, starts, lengths, strict=True):
        # No push adds more than a word. This keeps the lanes, as the coder holds them, to memory in proportion.
        if words > start + 1 + length * sum(codec.conditional.dims):
            raise ValueError("a lane is longer than its blocks can make it")
    lane_words = np.split(np.frombuffer(payload, "<u4").astype(np.uint32), np.cumsum(header.words)[:-1])
    coder = Rans.from_words(lane_words)
    chains = bitsback.decode_chains(_schedule(codec), coder, codec.conditional, lengths, progress)
    left = coder.to_words()
    if [len(words) for words in left] != [start + 1 for start in starts] or any(words[-1] != 1 for words in left):
        raise ValueError("the initial bits are not what is left")
    data = np.concatenate([words[:-1] for words in left]).astype("<u4").tobytes()
    if any(data[conventional:]):
        raise ValueError("the initial bits are not what is left")
    return chains, data[:conventional]
