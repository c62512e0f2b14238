"""Small tables of networks that were never trained."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

HYPERPARAMETERS = ("width", "optimizer", "lr")


def table(seeds: int = 4, *, missing: bool = True, seed: int = 0) -> pd.DataFrame:
    """A grid of 3 x 2 x 2 with ties in measure and gap, some of whose networks are missing."""
    random = np.random.default_rng(seed)
    rows = list(product((8, 16, 32), ("sgd", "adam"), (0.01, 0.1), range(seeds)))
    frame = pd.DataFrame(rows, columns=[*HYPERPARAMETERS, "seed"])
    n = len(frame)
    frame["gap"] = (0.02 * frame.width / 8 + 0.05 * (frame.lr == 0.1) + 0.02 * random.normal(size=n)).round(2)
    frame["norm"] = (np.log(frame.width) + random.normal(size=n)).round(1)
    frame["margin"] = (-frame.gap + 0.02 * random.normal(size=n)).round(2)
    frame["constant"] = 1.0
    if missing:
        frame = frame[~((frame.width == 32) & (frame.optimizer == "adam") & (frame.lr == 0.1))]
        frame = frame.drop(index=[1, 5, 6])
    return frame.sample(frac=1, random_state=seed).reset_index(drop=True)
