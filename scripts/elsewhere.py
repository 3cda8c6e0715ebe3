"""Files that must be the same on every machine: writes them, or compares what another machine wrote with this one's.

    python scripts/elsewhere.py write DIR     codes some generated pictures with the context network that ships
    python scripts/elsewhere.py compare DIR   codes them again, compares the bytes, decodes them and compares the pixels

Run "write" on one machine and "compare", with the same folder, on another: scripts/arm64.sh does. This requires NumPy,
Numba and Pillow only.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codec import container, context, models
from model.context.features import SMALL_GRID
from model.context.weights import open_network
from utils.images import Picture, same

SIZES = {"RGB": [(1, 1), (150, 200), (480, 510), (1, 90)], "L": [(61, 47)]}


def picture(mode, height, width):
    """Slopes, edges, noise and a flat part, by integer arithmetic alone."""
    y, x, c = np.ogrid[:height, :width, : 3 if mode == "RGB" else 1]
    hashed = (x * 73856093 ^ y * 19349663 ^ c * 83492791) * 2654435761 >> 7
    noise = (hashed % 9 + (hashed >> 9) % 9 - 8) * (x % 64 > 20)
    disc = (x - width // 2) ** 2 + (y - height // 3) ** 2 < (height // 4) ** 2
    pixels = 60 + x // 2 % 90 + y // 3 % 70 + 10 * c + noise + np.where(disc, 60 - 20 * c, 0)
    return Picture(mode, np.where((x > 160) & (y > 110) & (y < 140), 200, pixels).clip(0, 255).astype(np.uint8))


def pictures(network):
    """{name of a file: (what encodes, what says whether its bytes decode to the same pixels)}."""
    cases, found = {}, models.Models(context=lambda _: network)
    for mode, sizes in SIZES.items():
        for height, width in sizes:
            for adapting in (False, True):
                original = picture(mode, height, width)

                def encode(original=original, adapting=adapting):
                    return container.encode(original, "context", found, adapting=adapting)

                def right(data, original=original):
                    return same(container.decode(data, found), original)

                cases[f"{mode}_{height}x{width}_{'adapting' if adapting else 'static'}.bitswap"] = encode, right
    return cases


def chain(network):
    """As pictures(), for a chain of small images."""
    images = np.stack([picture("RGB", 32, 32 + i).pixels[:, i:] for i in range(3)])

    def encode():
        words, _, _ = context.encode_chain(images, network.weights, SMALL_GRID)
        return words.astype("<u4").tobytes()

    def right(data):
        words = np.frombuffer(data, "<u4").astype(np.uint32)
        return np.array_equal(context.decode_chain(words, images.shape, network.weights, SMALL_GRID), images)

    return {"chain.words": (encode, right)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("write", "compare"))
    parser.add_argument("folder", type=Path, metavar="DIR")
    args = parser.parse_args(argv)
    network, wrong = open_network(), 0
    for name, (encode, right) in (pictures(network) | chain(network)).items():
        path, began = args.folder / name, time.perf_counter()
        data = encode()
        if args.task == "write":
            args.folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            verdict = "written"
        elif path.read_bytes() != data:
            verdict, wrong = "OTHER BYTES", wrong + 1
        elif not right(path.read_bytes()):
            verdict, wrong = "OTHER PIXELS", wrong + 1
        else:
            verdict = "the same bytes, and the same pixels decoded"
        seconds = time.perf_counter() - began
        print(f"{name}: {len(data):,} bytes, {verdict} ({seconds:.1f} s)", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
