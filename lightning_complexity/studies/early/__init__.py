"""Early verdict: from a tenth of a training, what will become of it, and whether measures help to say so."""

from lightning_complexity.studies.early.design import design, train_networks
from lightning_complexity.studies.early.reading import early_table
from lightning_complexity.studies.early.verdict import EarlyVerdict, early_verdict

__all__ = ["EarlyVerdict", "design", "early_table", "early_verdict", "train_networks"]
