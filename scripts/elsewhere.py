"""Files that must be the same on every machine: writes them, or compares what another machine wrote with this one's.

    python scripts/elsewhere.py write DIR     codes some generated pictures with the context network that ships
    python scripts/elsewhere.py compare DIR   codes them again, and compares the bytes

Both decode what they code, and compare the pixels. Run "write" on one machine and "compare", with the same folder, on
another: scripts/elsewhere.sh does. This requires NumPy and Pillow only; without Numba it is slow.
"""

import argparse
import math
import platform
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codec import container, context, models
from model.context.features import SMALL_GRID
from model.context.weights import open_network
from utils import compiled
from utils.images import Picture, same

SIZES = [("RGB", 1, 1), ("RGB", 150, 200), ("RGB", 480, 510), ("RGB", 1, 90), ("L", 61, 47), ("L", 11, 13)]


def picture(mode, height, width):
    """Slopes, edges, noise and a flat part, by integer arithmetic alone."""
    y, x, c = np.ogrid[:height, :width, : 3 if mode == "RGB" else 1]
    hashed = (x * 73856093 ^ y * 19349663 ^ c * 83492791) * 2654435761 >> 7
    noise = (hashed % 9 + (hashed >> 9) % 9 - 8) * (x % 64 > 20)
    disc = (x - width // 2) ** 2 + (y - height // 3) ** 2 < (height // 4) ** 2
    pixels = 60 + x // 2 % 90 + y // 3 % 70 + 10 * c + noise + np.where(disc, 60 - 20 * c, 0)
    return Picture(mode, np.where((x > 160) & (y > 110) & (y < 140), 200, pixels).clip(0, 255).astype(np.uint8))


def coded(network, most):
    """Code pictures of up to so many pixels: generates (name of a file, its bytes, whether they decode right)."""
    found = models.Models(context=lambda _: network)
    for mode, height, width in (size for size in SIZES if size[1] * size[2] <= most):
        for adapting in (False, True):
            original = picture(mode, height, width)
            data = container.encode(original, "context", found, adapting=adapting)
            name = f"{mode}_{height}x{width}_{'adapting' if adapting else 'static'}.bitswap"
            yield name, data, same(container.decode(data, found), original)
    for mode in ("RGB", "L") if most >= 160 else ():  # past a step of adaptation, whether it pays or not
        pixels, coding = picture(mode, 4, 40).pixels, context.Coding(strips=1, grid=0, adapting=True)
        words = context.encode(pixels, network.weights, coding)
        decoded = context.decode(words, pixels.shape, network.weights, coding)
        yield f"{mode}_step.words", words[0].astype("<u4").tobytes(), np.array_equal(decoded, pixels)
    if most < 3 * 32 * 32:
        return
    images = np.stack([picture("RGB", 32, 32 + i).pixels[:, i:] for i in range(3)])
    words, _, _ = context.encode_chain(images, network.weights, SMALL_GRID)
    decoded = context.decode_chain(words, images.shape, network.weights, SMALL_GRID)
    yield "chain.words", words.astype("<u4").tobytes(), np.array_equal(decoded, images)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("write", "compare"))
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--most", type=int, default=math.inf, metavar="N", help="code no picture of more pixels")
    args = parser.parse_args(argv)
    numba = f"Numba {compiled.numba.__version__}" if compiled.numba else "no Numba"
    python = f"Python {platform.python_version()}, NumPy {np.__version__}, {numba}"
    print(f"{platform.machine()}, {sys.byteorder}-endian, {python}", flush=True)
    args.folder.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for name, data, right in coded(open_network(), args.most):
        path = args.folder / name
        if args.task == "write":
            path.write_bytes(data)
        equal = path.read_bytes() == data
        wrong += not (equal and right)
        verdict = f"{'the same bytes' if equal else 'OTHER BYTES'}, {'the same pixels' if right else 'OTHER PIXELS'}"
        print(f"{name}: {len(data):,} bytes, {verdict}", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
