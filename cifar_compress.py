"""Compress CIFAR-10 test images: python cifar_compress.py --nz=8 --bitswap=1"""

from codec.command import main

if __name__ == "__main__":
    main("cifar")
