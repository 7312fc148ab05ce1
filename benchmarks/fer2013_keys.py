"""Writes what the images of FER2013's training part are known by:  python benchmarks/fer2013_keys.py FER2013/train

``fer fit`` and ``fer eval`` say with it how many of the measured images the bundled network was trained on.
"""

import sys
from pathlib import Path

import numpy as np

from ferkit.core.weights import bundled_folder
from ferkit.datasets.image_stats import image_stats
from ferkit.datasets.leakage import pixel_keys
from ferkit.datasets.load import load_dataset

if __name__ == "__main__":
    stats = image_stats(load_dataset(Path(sys.argv[1])))
    np.save(bundled_folder().parent / "fer2013-train.npy", np.unique(pixel_keys(stats)))
