"""Train a hierarchical VAE on MNIST: python mnist_train.py --nz=8."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.train_options import main
from utils.published import SETTINGS

if __name__ == "__main__":
    main(SETTINGS["mnist"])
