"""Compress MNIST test images: python mnist_compress.py, or python mnist_compress.py --nz=8 --bitswap=1"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from codec.command import main

if __name__ == "__main__":
    main("mnist")
