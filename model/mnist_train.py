"""Train a hierarchical VAE on MNIST: python mnist_train.py --nz=8 (settings of the paper, appendix D)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.train_options import Settings, main

SETTINGS = Settings(
    dataset="mnist",
    xs=(1, 32, 32),  # 28x28, zero-padded by 2
    zchannels=1,
    widths={8: 61, 4: 62, 2: 63, 1: 64},
    nz=8,
    batch=128,
    dropout=0.2,
    decay=0.9995,
    decay_after=0,
    test_every=5,
)

if __name__ == "__main__":
    main(SETTINGS)
