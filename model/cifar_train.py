"""Train a hierarchical VAE on CIFAR-10: python cifar_train.py --nz=8 (settings of the paper, appendix D)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.train_options import Settings, main

SETTINGS = Settings(
    dataset="cifar",
    xs=(3, 32, 32),
    zchannels=8,
    widths={8: 252, 4: 254, 2: 255, 1: 256},
    nz=8,
    batch=16,
    dropout=0.3,
    decay=0.999995,
    decay_after=0,
    test_every=5,
)

if __name__ == "__main__":
    main(SETTINGS)
