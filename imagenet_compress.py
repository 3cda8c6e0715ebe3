"""Compress ImageNet 32x32 test images: python imagenet_compress.py --nz=4 --bitswap=1"""

from codec.command import main

if __name__ == "__main__":
    main("imagenet")
