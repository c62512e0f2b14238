"""One network, trained to a stated criterion and measured on its way."""

from lightning_complexity.studies.training.runs import Moment, Result, train
from lightning_complexity.studies.training.settings import Moments, Setting, Stop

__all__ = ["Moment", "Moments", "Result", "Setting", "Stop", "train"]
