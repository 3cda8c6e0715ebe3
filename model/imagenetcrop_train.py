"""Train a hierarchical VAE on random 32x32 patches of photographs: python imagenetcrop_train.py

Settings of the paper, appendix D. The photographs lie in model/data/imagenetcrop/train and test, in sub-folders or not.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.train_options import Settings, main

SETTINGS = Settings(
    dataset="imagenetcrop",
    xs=(3, 32, 32),
    zchannels=8,
    widths={4: 256},
    nz=4,
    batch=128,
    dropout=0.0,
    decay=0.999995,
    decay_after=100_000,
    test_every=1,
    conditional_scale=True,
    crops=1,
)

if __name__ == "__main__":
    main(SETTINGS)
