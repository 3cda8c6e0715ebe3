"""Files that must be the same on every machine: writes them, or compares what another machine wrote with this one's.

    python scripts/elsewhere.py write DIR     codes some generated pictures with the context network that ships
    python scripts/elsewhere.py compare DIR   codes them again, compares the bytes, decodes them and compares the pixels

Run "write" on one machine and "compare", with the same folder, on another: scripts/arm64.sh does. It takes NumPy,
Numba and Pillow only.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codec import autoregressive, container
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


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("write", "compare"))
    parser.add_argument("folder", type=Path, metavar="DIR")
    args = parser.parse_args(argv)
    network, wrong = autoregressive.open_network(), 0
    for mode, sizes in SIZES.items():
        for height, width in sizes:
            for adapting in (False, True):
                original = picture(mode, height, width)
                path = args.folder / f"{mode}_{height}x{width}_{'adapting' if adapting else 'static'}.bitswap"
                began = time.perf_counter()
                data = container.encode(original, coder="context", network=network, adapting=adapting)
                if args.task == "write":
                    args.folder.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                    verdict = "written"
                elif path.read_bytes() != data:
                    verdict, wrong = "OTHER BYTES", wrong + 1
                elif not same(container.decode(path.read_bytes(), lambda header: network), original):
                    verdict, wrong = "OTHER PIXELS", wrong + 1
                else:
                    verdict = "the same bytes, and the same pixels decoded"
                seconds = time.perf_counter() - began
                print(f"{path.name}: {len(data):,} bytes, {verdict} ({seconds:.1f} s)", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
