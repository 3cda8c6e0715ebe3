"""Compress ImageNet 32x32 test images: python imagenet_compress.py --nz=4 --bitswap=1"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from codec.command import main

if __name__ == "__main__":
    main("imagenet")
