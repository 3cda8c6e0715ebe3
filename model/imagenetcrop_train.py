"""Train a hierarchical VAE on random 32x32 patches of photographs: python imagenetcrop_train.py

The photographs are in model/data/imagenetcrop/train and test, in sub-folders or not.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.train_options import main
from utils.published import SETTINGS

if __name__ == "__main__":
    main(SETTINGS["imagenetcrop"])
