"""Compress MNIST test images: python mnist_compress.py --nz=8 --bitswap=1"""

from codec.experiment import main

if __name__ == "__main__":
    main("mnist")
