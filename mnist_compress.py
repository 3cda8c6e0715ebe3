"""Compress MNIST test images: python mnist_compress.py, or python mnist_compress.py --nz=8 --bitswap=1"""

from codec.command import main

if __name__ == "__main__":
    main("mnist")
