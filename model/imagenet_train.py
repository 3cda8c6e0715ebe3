"""Train a hierarchical VAE on ImageNet 32x32: python imagenet_train.py --nz=4 (settings of the paper, appendix D)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.train_options import Settings, main

SETTINGS = Settings(
    dataset="imagenet",
    xs=(3, 32, 32),
    zchannels=8,
    widths={4: 254, 2: 255, 1: 256},
    nz=4,
    batch=128,
    dropout=0.0,
    decay=0.999995,
    decay_after=100_000,
    test_every=1,
)

if __name__ == "__main__":
    main(SETTINGS)
